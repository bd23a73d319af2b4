//! `duramen start`: one replica, or all of them as child processes. Never formats anything.

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duramen::config::{Config, Durability, LogIo};
use duramen::replica::{RecoveryProgress, Replica, ReplicaOptions};
use duramen::service::SlowService;
#[cfg(feature = "adversary")]
use duramen::sim::adversary::catalogue;
#[cfg(feature = "adversary")]
use duramen::transfer::lies;
use duramen::types::ReplicaId;
use duramen::{data_dir, sys};

use super::signals::Interrupt;
use super::{CliError, DirArg, InsecureArg, ServiceName, emit, transfer_line, transport_label, word};

/// Which replicas to run, and how.
#[derive(clap::Args, Debug, PartialEq)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct Args {
    #[command(flatten)]
    pub dir: DirArg,
    /// Run this replica
    #[arg(long, value_name = "I", group = "which")]
    pub replica: Option<u32>,
    /// Run all replicas of the cluster on this machine
    #[arg(long, group = "which")]
    pub all: bool,
    /// What is replicated: the same on all replicas, always
    #[arg(long, value_enum, default_value = "kv")]
    pub service: ServiceName,
    /// Bytes of a reply of the null service to a request that names no length
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub reply_size: u32,
    /// Microseconds that every operation takes to execute, besides what it takes
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub execute_cost_us: u64,
    /// After more than f replicas crashed in a mode that keeps no votes: go on with what a quorum has on disk, and cut the rest
    #[arg(long)]
    pub new_era: bool,
    /// Answer /metrics, /healthz and /readyz there: replica i at PORT + i; port 0 lets the system choose
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Let this replica lie: one of the strategies of the Byzantine catalogue
    #[cfg(feature = "adversary")]
    #[arg(long, value_name = "NAME", requires = "replica", value_parser = strategy)]
    pub adversary: Option<&'static str>,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// Accept a log on a tmpfs: it survives no power loss
    #[arg(long)]
    pub allow_tmpfs: bool,
    /// How log writes reach the disk [default: as cluster.toml says]
    #[arg(long, value_parser = word::<LogIo>(LogIo::WORDS))]
    pub io: Option<LogIo>,
}

/// How often a running replica, or the parent of some, looks at signals and children.
const LOOK: Duration = Duration::from_millis(100);
/// How long children may take to end before they are killed.
const STOP_TIME: Duration = Duration::from_secs(20);

/// Runs until SIGINT or SIGTERM.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = data_dir::load_config(&args.dir.dir)?;
    config.check_transport(args.insecure.insecure)?;
    match args.replica {
        Some(id) => run_one(&args, config, ReplicaId(id)),
        None => run_all(&args, &config),
    }
}

fn run_one(args: &Args, config: Config, id: ReplicaId) -> Result<(), CliError> {
    let mut service = args.service.make(args.reply_size);
    if args.execute_cost_us > 0 {
        service = Box::new(SlowService::new(service, Duration::from_micros(args.execute_cost_us)));
    }
    let durability = config.durability;
    let label = transport_label(&config);
    let address = config.replica(id).map(|entry| entry.address.clone()).unwrap_or_default();
    let progress = Arc::<RecoveryProgress>::default();
    let shown = ProgressLine::show(id, progress.clone());
    let replica = Replica::start(ReplicaOptions {
        config,
        dir: args.dir.dir.clone(),
        id,
        service,
        insecure: args.insecure.insecure,
        allow_tmpfs: args.allow_tmpfs,
        io: args.io,
        new_era: args.new_era,
        metrics: args.metrics.map(|at| beside(at, id)),
        progress,
        #[cfg(feature = "adversary")]
        adversary: args.adversary.and_then(catalogue::named),
        #[cfg(feature = "adversary")]
        seeder_lie: args.adversary.and_then(lies::named),
    });
    drop(shown);
    let replica = replica?;
    // Only now: a signal during recovery ends the process at once, which harms nothing.
    let interrupt = Interrupt::install()?;
    let (view, log) = (replica.view(), replica.recovery());
    let torn = match log.torn_bytes {
        0 => String::new(),
        bytes => format!(", {bytes} bytes of unfinished writes cut"),
    };
    let mut label = label.map(|label| format!("; {label}")).unwrap_or_default();
    if durability != Durability::Vote {
        label += &format!("; durability {durability}: {}", durability.promise());
    }
    if let Some(at) = replica.metrics_addr() {
        label += &format!("; metrics at http://{at}/metrics");
    }
    emit(format_args!(
        "replica {id} ready: {address}, view {view}, {} records in {:.1} MiB of log{torn}, {}{label}",
        log.records,
        log.log_bytes as f64 / f64::from(1 << 20),
        replica.backend(),
    ))?;

    let mut halted = None;
    let mut shown = TransferLine::default();
    while !interrupt.is_set() {
        shown.follow(id, &replica);
        // A halted replica stays, mute, so that `status` can say why. In the paper's modes a start that was refused ends.
        if halted.is_some() && durability != Durability::Vote {
            break;
        }
        if halted.is_some() {
            std::thread::sleep(LOOK);
            continue;
        }
        halted = replica.wait_failed(LOOK);
        if let Some(why) = &halted {
            log::error!("replica {id} has halted: it votes and answers no more: {why}");
        }
    }
    replica.stop();
    match halted {
        Some(why) => Err(CliError::Failed(format!("replica {id} had halted: {why}"))),
        None => Ok(()),
    }
}

/// A line on the terminal that follows a state transfer; nothing where nobody looks.
#[derive(Default)]
struct TransferLine {
    shown: bool,
}

impl TransferLine {
    fn follow(&mut self, id: ReplicaId, replica: &Replica) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let status = serde_json::from_str(&replica.status_json()).unwrap_or_default();
        match transfer_line::line(&status) {
            Some(line) => {
                self.shown = true;
                let _ = write!(std::io::stderr(), "\r\x1b[Kreplica {id}: {line}");
            }
            None if std::mem::take(&mut self.shown) => {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
            None => {}
        }
    }
}

/// A line on the terminal that follows a start's progress; gone when dropped. Nothing where nobody looks.
struct ProgressLine {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ProgressLine {
    fn show(id: ReplicaId, progress: Arc<RecoveryProgress>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = ended.clone();
        let thread = std::io::stderr().is_terminal().then(|| {
            std::thread::spawn(move || {
                let mut shown = false;
                while !until.load(Ordering::Acquire) {
                    if let Some(state) = progress.state() {
                        shown = true;
                        let _ = write!(std::io::stderr(), "\r\x1b[Kreplica {id} is {state}");
                    }
                    std::thread::park_timeout(LOOK);
                }
                if shown {
                    let _ = write!(std::io::stderr(), "\r\x1b[K");
                }
            })
        });
        Self { ended, thread }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// A name of the catalogue; anything else is answered with all of them.
#[cfg(feature = "adversary")]
fn strategy(name: &str) -> Result<&'static str, String> {
    let row = catalogue::named(name).map(|row| row.name);
    row.or(lies::named(name).map(|lie| lie.name)).ok_or_else(|| {
        let lies: String =
            lies::ROWS.iter().map(|l| format!("  {:<24} {:<4} {}\n", l.name, l.id, l.what)).collect();
        format!("there is no such strategy; there are\n{}{lies}", catalogue::list())
    })
}

/// Replica `id`'s own port: the one given and `id` more.
fn beside(at: SocketAddr, id: ReplicaId) -> SocketAddr {
    match at.port() {
        0 => at,
        port => SocketAddr::new(at.ip(), port.saturating_add(id.0 as u16)),
    }
}

struct Running {
    id: ReplicaId,
    child: Child,
    ended: bool,
}

fn run_all(args: &Args, config: &Config) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let mut children = Children(Vec::new());
    let mut forwards = Vec::new();
    for id in config.group().members() {
        let (child, forward) = spawn(args, id)?;
        children.0.push(Running { id, child, ended: false });
        forwards.extend(forward);
    }
    let group = config.group();
    let mut failed = None;
    while !interrupt.is_set() {
        std::thread::sleep(LOOK);
        for running in children.0.iter_mut().filter(|running| !running.ended) {
            if let Some(status) = running.child.try_wait()? {
                running.ended = true;
                let message = format!("replica {} ended by itself ({status})", running.id);
                log::error!("{message}");
                failed.get_or_insert(message);
            }
        }
        let left = children.0.iter().filter(|running| !running.ended).map(|running| running.id).collect();
        if !group.quorum().reached_by(left) {
            failed = failed.map(|why| format!("{why}; the rest is no quorum and was stopped"));
            break;
        }
    }
    children.stop()?;
    forwards.into_iter().for_each(|forward| drop(forward.join()));
    match failed {
        Some(why) => Err(CliError::Failed(why)),
        None => Ok(()),
    }
}

type Forward = std::thread::JoinHandle<()>;

/// Starts one replica as a child; its output comes out of ours, each line with the replica's number in front.
fn spawn(args: &Args, id: ReplicaId) -> Result<(Child, [Forward; 2]), CliError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["start", "--replica", &id.to_string(), "--dir"]).arg(&args.dir.dir);
    command.args(["--service", args.service.as_str(), "--reply-size", &args.reply_size.to_string()]);
    if args.insecure.insecure {
        command.arg("--insecure");
    }
    if args.allow_tmpfs {
        command.arg("--allow-tmpfs");
    }
    if args.new_era {
        command.arg("--new-era");
    }
    if let Some(metrics) = args.metrics {
        command.args(["--metrics", &metrics.to_string()]);
    }
    if args.execute_cost_us > 0 {
        command.args(["--execute-cost-us", &args.execute_cost_us.to_string()]);
    }
    if let Some(io) = args.io {
        command.args(["--io", &io.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let out = forward(id, child.stdout.take().expect("it was piped"), std::io::stdout);
    let err = forward(id, child.stderr.take().expect("it was piped"), std::io::stderr);
    Ok((child, [out, err]))
}

fn forward<W: Write>(
    id: ReplicaId,
    from: impl Read + Send + 'static,
    to: impl Fn() -> W + Send + 'static,
) -> Forward {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Read on when nobody listens, so that the child never waits for a full pipe.
            let _ = to().write_all(format!("[{id}] {line}\n").as_bytes());
        }
    })
}

/// Killed, whatever way this process leaves.
struct Children(Vec<Running>);

impl Children {
    /// Asks all to end and waits for them, in any order.
    fn stop(&mut self) -> Result<(), CliError> {
        for running in self.0.iter().filter(|running| !running.ended) {
            sys::terminate(&running.child)?;
        }
        let end = Instant::now() + STOP_TIME;
        while Instant::now() < end && self.0.iter().any(|running| !running.ended) {
            for running in self.0.iter_mut().filter(|running| !running.ended) {
                running.ended = running.child.try_wait()?.is_some();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for running in self.0.iter_mut().filter(|running| !running.ended) {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}
