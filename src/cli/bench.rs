//! `duramen bench`: closed-loop load on a cluster of child processes, or on one that runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use duramen::client::{Client, ClientOptions};
use duramen::config::{ClientAuth, Config, Durability, Limits, LogDevice, LogIo, LogLimits, Transport};
use duramen::data_dir;
use duramen::init::InitOptions;
use duramen::quorum::FaultModel;
use serde_json::{Value, json};

use super::bench_load::{Load, Record, Workload};
use super::connect::{client_keys, statuses};
use super::local_cluster::LocalCluster;
use super::machine::{Machine, Mount, cpu_seconds, resident_bytes};
use super::signals::Interrupt;
use super::{CliError, InsecureArg, ServiceName, emit, model, transport_label, word};

/// What to run and to measure.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// Start this many replicas on this machine, in a fresh folder in --dir [default: measure the running cluster of --dir]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub local: Option<u32>,
    /// What faulty replicas may do (with --local)
    #[arg(long, default_value = "byzantine", value_parser = model())]
    pub model: FaultModel,
    /// A folder to work in, on the disk to measure; without --local, the folder of a cluster
    #[arg(long, default_value = "./duramen-bench")]
    pub dir: PathBuf,
    /// What is replicated
    #[arg(long, value_enum, default_value = "kv")]
    pub service: ServiceName,
    /// Bytes of a value (kv) or of a request (null)
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub value_size: u32,
    /// Bytes of a reply of the null service
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub reply_size: u32,
    /// Keys that are written to, drawn uniformly
    #[arg(long, default_value_t = 10_000)]
    pub keys: usize,
    /// Sessions that send requests, all of one client process
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    /// Requests each session keeps unanswered
    #[arg(long, default_value_t = 100)]
    pub outstanding: u32,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before measuring starts
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub warmup: f64,
    /// Sets the values and the order of keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What protects the links (with --local)
    #[arg(long, default_value = "tls", value_parser = word::<Transport>(Transport::WORDS))]
    pub transport: Transport,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// What proves that a request is its client's (with --local) [default: signature; channel in crash mode]
    #[arg(long, value_parser = word::<ClientAuth>(ClientAuth::WORDS))]
    pub client_auth: Option<ClientAuth>,
    /// What is on disk before a reply leaves (with --local)
    #[arg(long, default_value = "vote", value_parser = word::<Durability>(Durability::WORDS))]
    pub durability: Durability,
    /// Microseconds that every operation takes to execute, besides what it takes (with --local)
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub execute_cost_us: u64,
    /// How log writes reach the disk (with --local)
    #[arg(long, default_value = "auto", value_parser = word::<LogIo>(LogIo::WORDS))]
    pub io: LogIo,
    /// What the disk is made out to be (with --local): the durability paper's devices are emulated on top of the real one
    #[arg(long, default_value = "real", value_parser = word::<LogDevice>(LogDevice::WORDS))]
    pub device: LogDevice,
    /// Operations per second to fill log space with zeros for, ahead of the load [default: an estimate]
    #[arg(long, value_name = "OPS")]
    pub expect_rate: Option<f64>,
    /// GB (10^9 bytes) that the run may write in all, zero-filling included
    #[arg(long, value_name = "GB", default_value_t = 20.0)]
    pub write_limit_gb: f64,
    /// Work on a tmpfs too, and label the result: nothing there is durable
    #[arg(long)]
    pub allow_tmpfs: bool,
    /// Leave the cluster's folder in place
    #[arg(long)]
    pub keep: bool,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How long the replicas may take to start, beside the time for zero-filling at this rate.
const START_TIME: Duration = Duration::from_secs(30);
const FILL_BYTES_PER_SECOND: u64 = 100_000_000;
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a replica under load may take to tell its state.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// Runs, prints, writes the JSON.
pub fn run(args: Args) -> Result<(), CliError> {
    if cfg!(debug_assertions) {
        return Err(fail("a debug build says nothing about speed: use `cargo run --release -- bench …`"));
    }
    check(&args)?;
    if let Some(file) = &args.json {
        // Before a long run, not after it.
        std::fs::File::create(file).map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
    }
    let interrupt = Interrupt::install()?;
    let go_on = || !interrupt.is_set();
    let workload = match args.service {
        ServiceName::Kv => Workload::Kv { value_bytes: args.value_size as usize, keys: args.keys },
        ServiceName::Null => {
            Workload::Null { request_bytes: args.value_size as usize, reply_bytes: args.reply_size }
        }
    };
    emit(format_args!("duramen {} bench: {}", env!("CARGO_PKG_VERSION"), describe(&args)))?;
    emit(format_args!("command    {}", command_line()))?;

    let folder = Folder::make(&args)?;
    let machine = Machine::measure(&args.dir).map_err(CliError::Failed)?;
    if machine.mount.in_memory() && !args.allow_tmpfs {
        return Err(fail(
            "--dir lies on a tmpfs, where nothing is durable: choose a folder on a disk, or add --allow-tmpfs",
        ));
    }
    emit(machine.describe())?;
    let (config, mut cluster, writing) = match args.local {
        None => (data_dir::load_config(&args.dir)?, None, Writing::unlimited(&args)),
        Some(n) => {
            let writing = Writing::plan(&args, n)?;
            let free = duramen::sys::free_bytes(&args.dir);
            if free < writing.planned_bytes + (1 << 30) {
                let (free, planned) = (gb(free), gb(writing.planned_bytes));
                return Err(fail(&format!(
                    "--dir has {free:.1} GB free, this run needs {planned:.1} and 1 to spare: choose another disk or a shorter run"
                )));
            }
            emit(format_args!(
                "writing    up to {:.1} GB: per replica {:.1} GB filled with zeros first, for {:.0} ops/s",
                gb(writing.planned_bytes),
                gb(writing.prefill_bytes),
                writing.expect_rate,
            ))?;
            let mut cluster = local(&args, n, &writing, &folder.path)?;
            if args.keep {
                cluster.keep();
            }
            let fill = Duration::from_secs(writing.prefill_bytes * u64::from(n) / FILL_BYTES_PER_SECOND);
            cluster.start_all(START_TIME + fill, &go_on).map_err(CliError::Failed)?;
            (cluster.config.clone(), Some(cluster), writing)
        }
    };
    let keys = client_keys(cluster.as_ref().map_or(&args.dir, |c| c.dir()), &config, None)?;
    let client = connect(&args, &config, keys)?;
    emit(describe_cluster(&config, &client)?)?;
    emit(format_args!(
        "load       {} sessions x {} outstanding, closed loop, warm-up {} s, measured {} s",
        args.clients, args.outstanding, args.warmup, args.duration
    ))?;

    let load = Load::start(&client, workload, args.clients, args.outstanding, DEADLINE, args.seed);
    let pids: Vec<u32> =
        cluster.as_ref().map(|c| (0..c.n()).filter_map(|i| c.pid(i)).collect()).unwrap_or_default();
    let measured = measure(&args, &client, &config, load, &pids, &writing, &interrupt)?;
    drop(client);
    if let Some(cluster) = &mut cluster {
        cluster.stop_all().map_err(CliError::Failed)?;
    }
    let report = Report { args: &args, config: &config, machine: &machine, measured: &measured };
    report.print()?;
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{:#}\n", report.json()))
            .map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
    }
    match measured.record.errors {
        0 => Ok(()),
        errors => {
            let first = measured.record.first_error.unwrap_or_default();
            Err(CliError::Failed(format!("{errors} requests failed, the first: {first}")))
        }
    }
}

fn fail(message: &str) -> CliError {
    CliError::Failed(message.into())
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn command_line() -> String {
    std::iter::once("duramen".into()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

fn check(args: &Args) -> Result<(), CliError> {
    let seconds = |value: f64| value.is_finite() && (0.0..=86_400.0).contains(&value);
    if !seconds(args.duration) || args.duration < 0.1 || !seconds(args.warmup) {
        return Err(fail("--duration is 0.1 to 86400 seconds, --warmup 0 to 86400"));
    }
    if args.clients == 0
        || args.outstanding == 0
        || u64::from(args.clients) * u64::from(args.outstanding) > 1 << 20
    {
        return Err(fail("--clients and --outstanding are at least 1, their product at most 1048576"));
    }
    if args.keys == 0 {
        return Err(fail("--keys is at least 1"));
    }
    if args.expect_rate.is_some_and(|rate| !(rate > 0.0 && rate < 1e8)) {
        return Err(fail("--expect-rate is a number of operations per second"));
    }
    if args.value_size as usize > duramen::service::VALUE_BYTES_MAX {
        return Err(fail("--value-size is at most 8 MiB"));
    }
    Ok(())
}

fn describe(args: &Args) -> String {
    match args.service {
        ServiceName::Kv => format!("kv put, values of {} B, {} keys", args.value_size, args.keys),
        ServiceName::Null => {
            format!("null service, requests of {} B, replies of {} B", args.value_size, args.reply_size)
        }
    }
}

/// The folder for a cluster of our own; removed at the end, if it is empty.
struct Folder {
    path: PathBuf,
    made: Option<PathBuf>,
}

impl Folder {
    fn make(args: &Args) -> Result<Folder, CliError> {
        let path = args.dir.join(format!("bench-{}", std::process::id()));
        let made = (args.local.is_some() && !args.dir.exists()).then(|| args.dir.clone());
        if args.local.is_some() {
            std::fs::create_dir_all(&args.dir)
                .map_err(|e| CliError::Failed(format!("{}: {e}", args.dir.display())))?;
        }
        Ok(Folder { path, made })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            let _ = std::fs::remove_dir(made);
        }
    }
}

/// How much a run will write.
struct Writing {
    expect_rate: f64,
    /// Zeros per replica, written before the load.
    prefill_bytes: u64,
    segments: u32,
    /// All replicas, zeros included.
    planned_bytes: u64,
    /// Acknowledged operations at which the run ends early.
    operations_max: u64,
}

const SEGMENT_BYTES: u64 = 64 << 20;
/// A request's share of headers and signatures.
const OVERHEAD_BYTES: u64 = 64;

impl Writing {
    fn operation_bytes(args: &Args) -> u64 {
        u64::from(args.value_size) + OVERHEAD_BYTES
    }

    fn plan(args: &Args, n: u32) -> Result<Writing, CliError> {
        let bytes = Self::operation_bytes(args);
        let seconds = args.duration + args.warmup + 0.5;
        // What two cores can do, generously: a cost per operation and one per byte, each per replica.
        let (base_us, byte_ns) = match args.model {
            FaultModel::Byzantine => (0.8, 1.6),
            FaultModel::Crash => (0.6, 1.2),
        };
        let cost_us = (base_us + byte_ns * f64::from(args.value_size) / 1e3) * f64::from(n);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let few_waiting = f64::from(args.clients) * f64::from(args.outstanding) / 500e-6;
        let estimate = (1e6 / cost_us * cores as f64 / 2.0).min(few_waiting);
        let expect_rate = args.expect_rate.unwrap_or(estimate);
        let used = (expect_rate * seconds * bytes as f64) as u64;
        let segments = used.div_ceil(SEGMENT_BYTES) as u32 + 1;
        let prefill_bytes = u64::from(segments) * SEGMENT_BYTES;
        let planned_bytes = u64::from(n) * (prefill_bytes + used);
        let limit = (args.write_limit_gb * 1e9) as u64;
        if planned_bytes > limit {
            return Err(CliError::Failed(format!(
                "this run would write {:.1} GB at {expect_rate:.0} ops/s, zero-filling included, and the limit is {:.1}: \
                 shorten --duration, lower --expect-rate, or raise --write-limit-gb",
                gb(planned_bytes),
                gb(limit),
            )));
        }
        let left = limit - u64::from(n) * prefill_bytes;
        let operations_max = left / (u64::from(n) * bytes);
        Ok(Writing { expect_rate, prefill_bytes, segments, planned_bytes, operations_max })
    }

    /// A running cluster has its own bounds, but the limit on writing stands.
    fn unlimited(args: &Args) -> Writing {
        let operations_max = (args.write_limit_gb * 1e9) as u64 / Self::operation_bytes(args);
        Writing { expect_rate: 0.0, prefill_bytes: 0, segments: 0, planned_bytes: 0, operations_max }
    }
}

fn local(args: &Args, n: u32, writing: &Writing, dir: &Path) -> Result<LocalCluster, CliError> {
    let log = LogLimits {
        segment_mib: SEGMENT_BYTES >> 20,
        bytes_max_mib: LogLimits::default().bytes_max_mib.max((u64::from(writing.segments) * 2 + 8) * 64),
        io: args.io,
        device: args.device,
        prefill_segments: writing.segments,
        ..LogLimits::default()
    };
    let limits = Limits::default();
    let request_bytes = limits.request_bytes.max(args.value_size as usize + 64);
    let options = InitOptions {
        dir: dir.into(),
        replicas: n,
        model: args.model,
        clients: vec!["bench".into()],
        transport: args.transport,
        insecure: args.insecure.insecure,
        client_auth: args.client_auth,
        durability: args.durability,
        limits: Limits { request_bytes, ..limits },
        log,
        ..InitOptions::default()
    };
    let reply_size = args.reply_size.to_string();
    let cost = args.execute_cost_us.to_string();
    let start = ["--service", args.service.as_str(), "--reply-size", &reply_size, "--execute-cost-us", &cost];
    let exe = std::env::current_exe()?;
    LocalCluster::create(&exe, options, &start, args.allow_tmpfs).map_err(CliError::Failed)
}

fn connect(args: &Args, config: &Config, keys: duramen::keys::ClientKeys) -> Result<Client, CliError> {
    let in_flight = args.clients as usize * args.outstanding as usize;
    let mut options = ClientOptions::new(config.clone(), keys);
    options.insecure = args.insecure.insecure;
    options.outstanding_max = options.outstanding_max.max(2 * in_flight);
    options.outstanding_bytes_max =
        options.outstanding_bytes_max.max(2 * in_flight * (args.value_size as usize + 64));
    options.connect_to = Some(config.group().n());
    Ok(Client::connect(options)?)
}

fn describe_cluster(config: &Config, client: &Client) -> Result<String, CliError> {
    let group = config.group();
    let model = if group.byzantine() { "byzantine" } else { "crash" };
    let backend = statuses(client, config, STATUS_TIME).into_iter().find_map(Result::ok);
    let backend = backend.and_then(|status| Some(status.pointer("/log/backend")?.as_str()?.to_owned()));
    let transport = match transport_label(config) {
        Some(_) => "plain: no encryption, no authentication".to_owned(),
        None => config.transport.to_string(),
    };
    Ok(format!(
        "cluster    {model}, n = {}, f = {}, durability {}, transport {transport}, client auth {}, digest {}\n\
         log        {}",
        group.n(),
        group.f(),
        config.durability,
        config.client_auth,
        format!("{:?}", config.digest).to_lowercase(),
        backend.unwrap_or_default(),
    ))
}

/// What a run came to.
struct Measured {
    record: Record,
    seconds: f64,
    acked: u64,
    /// Operations per second of each window.
    windows: Vec<f64>,
    /// Seconds, in the order of ids; empty where the replicas are not ours.
    replica_cpu_s: Vec<f64>,
    client_cpu_s: f64,
    replica_rss_bytes: Vec<u64>,
    before: Vec<Result<Value, String>>,
    after: Vec<Result<Value, String>>,
    notes: Vec<String>,
}

fn measure(
    args: &Args,
    client: &Client,
    config: &Config,
    load: Load,
    pids: &[u32],
    writing: &Writing,
    interrupt: &Interrupt,
) -> Result<Measured, CliError> {
    let pause = |until: Instant| -> Result<bool, CliError> {
        while Instant::now() < until && !interrupt.is_set() {
            if let Some(why) = load.hopeless() {
                return Err(CliError::Failed(why));
            }
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(!interrupt.is_set())
    };
    if !pause(Instant::now() + Duration::from_secs_f64(args.warmup))? {
        return Err(fail("interrupted before anything was measured"));
    }
    let before = statuses(client, config, STATUS_TIME);
    let cpu =
        || (pids.iter().map(|pid| cpu_seconds(*pid)).collect::<Vec<_>>(), cpu_seconds(std::process::id()));
    let (replicas_before, client_before) = cpu();
    load.start_recording();
    let (begin, acked_before) = (Instant::now(), load.acked());
    let end = begin + Duration::from_secs_f64(args.duration);
    let (mut windows, mut notes) = (Vec::new(), Vec::new());
    let (mut at, mut acked_at) = (begin, acked_before);
    while at < end {
        let went_on = pause(end.min(at + Duration::from_secs(1)))?;
        let (now, acked) = (Instant::now(), load.acked());
        // The rest at the end is no window of its own.
        if now - at > Duration::from_millis(500) || windows.is_empty() {
            windows.push((acked - acked_at) as f64 / (now - at).as_secs_f64());
        }
        (at, acked_at) = (now, acked);
        if !went_on {
            notes.push("interrupted: shorter than asked for".to_owned());
            break;
        }
        if acked >= writing.operations_max {
            notes.push("ended early: the limit on writing was reached (--write-limit-gb)".to_owned());
            break;
        }
    }
    let (seconds, acked) = (begin.elapsed().as_secs_f64(), load.acked());
    let (replicas_after, client_after) = cpu();
    let replica_rss_bytes = pids.iter().map(|pid| resident_bytes(*pid)).collect();
    let record = load.stop();
    let after = statuses(client, config, STATUS_TIME);
    if args.local.is_some() && acked as f64 > writing.expect_rate * (args.warmup + args.duration + 0.5) {
        notes.push(
            "the log outran its zero-filled room: some filling was measured too (--expect-rate)".into(),
        );
    }
    Ok(Measured {
        record,
        seconds,
        acked: acked - acked_before,
        windows,
        replica_cpu_s: replicas_after.iter().zip(&replicas_before).map(|(a, b)| a - b).collect(),
        client_cpu_s: client_after - client_before,
        replica_rss_bytes,
        before,
        after,
        notes,
    })
}

struct Report<'a> {
    args: &'a Args,
    config: &'a Config,
    machine: &'a Machine,
    measured: &'a Measured,
}

impl Report<'_> {
    fn ops_per_s(&self) -> f64 {
        self.measured.acked as f64 / self.measured.seconds
    }

    /// Latency at a quantile, microseconds.
    fn us(&self, quantile: f64) -> f64 {
        self.measured.record.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Slowest, median and fastest window.
    fn spread(&self) -> [f64; 3] {
        let mut windows = self.measured.windows.clone();
        windows.sort_by(f64::total_cmp);
        match windows.len() {
            0 => [0.0; 3],
            count => [windows[0], windows[count / 2], windows[count - 1]],
        }
    }

    /// How much a counter grew on the replica where it grew most: the others may not have answered.
    fn grown(&self, path: &str) -> u64 {
        let value = |status: &Value| status.pointer(path).and_then(Value::as_u64);
        let both = self.measured.before.iter().zip(&self.measured.after);
        let grown = both.filter_map(|(before, after)| {
            let (before, after) = (before.as_ref().ok()?, after.as_ref().ok()?);
            Some(value(after)?.saturating_sub(value(before)?))
        });
        grown.max().unwrap_or(0)
    }

    /// The largest value any replica reports.
    fn most(&self, path: &str) -> u64 {
        let values = self.measured.after.iter().flatten();
        values.filter_map(|status| status.pointer(path).and_then(Value::as_u64)).max().unwrap_or(0)
    }

    fn requests_per_write(&self) -> f64 {
        self.grown("/requests_executed") as f64 / self.grown("/log/writes").max(1) as f64
    }

    fn cpu_us_per_op(&self) -> f64 {
        let all = self.measured.replica_cpu_s.iter().sum::<f64>() + self.measured.client_cpu_s;
        all * 1e6 / self.measured.acked.max(1) as f64
    }

    fn print(&self) -> Result<(), CliError> {
        let m = self.measured;
        let [slowest, median, fastest] = self.spread();
        emit(format_args!(
            "throughput {:.0} ops/s over {:.1} s; 1-s windows: min {slowest:.0}, median {median:.0}, max {fastest:.0}",
            self.ops_per_s(),
            m.seconds
        ))?;
        let ms = |quantile| self.us(quantile) / 1e3;
        emit(format_args!(
            "latency    p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(0.999),
            ms(1.0)
        ))?;
        let batches = self.grown("/batches_executed").max(1);
        emit(format_args!(
            "agreement  up to {} instances in flight, {:.1} requests per batch, view {}",
            self.most("/instances_in_flight_max"),
            self.grown("/requests_executed") as f64 / batches as f64,
            self.most("/view"),
        ))?;
        emit(format_args!(
            "log        {:.1} requests per write; {} writes, {:.1} MB per replica, up to {} in flight; write p50 {} p99 {} us",
            self.requests_per_write(),
            self.grown("/log/writes"),
            self.grown("/log/bytes") as f64 / 1e6,
            self.most("/log/in_flight_max"),
            self.most("/log/write_us_p50"),
            self.most("/log/write_us_p99"),
        ))?;
        let per_op = |seconds: f64| seconds * 1e6 / m.acked.max(1) as f64;
        if m.replica_cpu_s.is_empty() {
            emit(format_args!("cpu        {:.1} us/op in the client", per_op(m.client_cpu_s)))?;
        } else {
            let each: Vec<_> = m.replica_cpu_s.iter().map(|s| format!("{:.1}", per_op(*s))).collect();
            let busy = (m.replica_cpu_s.iter().sum::<f64>() + m.client_cpu_s) / m.seconds;
            emit(format_args!(
                "cpu        {:.1} us/op: replicas {}, client {:.1}; {busy:.2} of {} cores busy",
                self.cpu_us_per_op(),
                each.join(" + "),
                per_op(m.client_cpu_s),
                self.machine.cores,
            ))?;
            let rss: Vec<_> =
                m.replica_rss_bytes.iter().map(|bytes| format!("{:.0}", *bytes as f64 / 1e6)).collect();
            emit(format_args!("memory     {} MB resident", rss.join(" + ")))?;
        }
        for note in &m.notes {
            emit(format_args!("note       {note}"))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let (m, args, group) = (self.measured, self.args, self.config.group());
        let Mount { file_system, .. } = &self.machine.mount;
        let [slowest, median, fastest] = self.spread();
        json!({
            "command": command_line(),
            "version": env!("CARGO_PKG_VERSION"),
            "ops_per_s": self.ops_per_s(),
            "ops_per_s_windows": { "min": slowest, "median": median, "max": fastest, "all": m.windows },
            "latency_us": {
                "p50": self.us(0.5),
                "p90": self.us(0.9),
                "p99": self.us(0.99),
                "p999": self.us(0.999),
                "max": self.us(1.0),
            },
            "acked": m.acked,
            "errors": m.record.errors,
            "first_error": m.record.first_error,
            "seconds": m.seconds,
            "n": group.n(),
            "f": group.f(),
            "model": if group.byzantine() { "byzantine" } else { "crash" },
            "durability": self.config.durability.to_string(),
            "durable": !self.machine.mount.in_memory(),
            "transport": self.config.transport.to_string(),
            "transport_label": transport_label(self.config),
            "client_auth": self.config.client_auth.to_string(),
            "service": args.service.as_str(),
            "value_size": args.value_size,
            "reply_size": args.reply_size,
            "keys": args.keys,
            "clients": args.clients,
            "outstanding": args.outstanding,
            "seed": args.seed,
            "instances_in_flight": self.most("/instances_in_flight_max"),
            "requests_per_batch":
                self.grown("/requests_executed") as f64 / self.grown("/batches_executed").max(1) as f64,
            "requests_per_log_write": self.requests_per_write(),
            "log_writes": self.grown("/log/writes"),
            "log_bytes": self.grown("/log/bytes"),
            "log_write_us_p50": self.most("/log/write_us_p50"),
            "log_write_us_p99": self.most("/log/write_us_p99"),
            "view": self.most("/view"),
            "cpu_us_per_op": self.cpu_us_per_op(),
            "cpu_s_per_replica": m.replica_cpu_s,
            "cpu_s_client": m.client_cpu_s,
            "rss_bytes": m.replica_rss_bytes,
            "notes": m.notes,
            "file_system": file_system,
            "environment": self.machine.json(),
        })
    }
}
