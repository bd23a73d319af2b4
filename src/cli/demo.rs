//! `duramen demo`: four replicas, load, kills, restarts, and the proof that nothing was lost.

mod transfer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use duramen::client::{Client, ClientOptions};
use duramen::config::{CheckpointLimits, Limits, LogLimits, TransferLimits};
use duramen::init::InitOptions;
use duramen::types::ReplicaId;
use serde_json::{Map, Value, json};

use super::checked_load::{CheckedLoad, Findings, Plan};
use super::connect::{client_keys, statuses};
use super::local_cluster::LocalCluster;
use super::machine::Mount;
use super::signals::Interrupt;
use super::{CliError, emit};

/// How much, and where.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// How much load
    #[arg(long, value_enum, default_value = "normal")]
    pub scale: Scale,
    /// A folder to work in; on a real disk [default: a new one in the current folder]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Work on a tmpfs too, and label the result: it survives no power loss
    #[arg(long)]
    pub allow_tmpfs: bool,
    /// Leave the cluster's folder in place
    #[arg(long)]
    pub keep: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Sizes of the demonstration.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// About a quarter of a minute
    Small,
    /// Under a minute
    Normal,
}

struct Sizes {
    steady: Duration,
    /// With one replica down, and again while it catches up.
    degraded: Duration,
    /// Before and after all are killed.
    around: Duration,
    rate_max: f64,
}

impl Scale {
    fn sizes(self) -> Sizes {
        let seconds = Duration::from_secs;
        match self {
            Scale::Small => {
                Sizes { steady: seconds(3), degraded: seconds(1), around: seconds(1), rate_max: 10_000.0 }
            }
            Scale::Normal => {
                Sizes { steady: seconds(8), degraded: seconds(4), around: seconds(3), rate_max: 20_000.0 }
            }
        }
    }
}

const REPLICAS: u32 = 4;
const VALUE_BYTES: usize = 1024;
const SEGMENT_MIB: u64 = 16;
const MARK_INTERVAL: u64 = 8;
/// Places between two checkpoints of a replica.
const PERIOD: u64 = 400;
/// Where places are few and large, a log this small asks for checkpoints.
const LOG_MIB: u64 = 160;
/// A transfer that yields to the load still ends soon.
const FLOOR_MIB: u64 = 32;
const START_TIME: Duration = Duration::from_secs(60);
/// For progress after a kill, for catching up, for equal digests.
const PATIENCE: Duration = Duration::from_secs(60);
const STATUS_TIME: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Runs all phases. Fails if anything acknowledged is lost, or anything else is not as promised.
pub fn run(args: Args) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let begin = Instant::now();
    let mut tell = Tell { json: args.json, begin, facts: Map::new() };
    let parent = args.dir.clone().unwrap_or_else(|| ".".into());
    std::fs::create_dir_all(&parent).map_err(|e| fail(format!("{}: {e}", parent.display())))?;
    let mount = Mount::of(&parent);
    if mount.in_memory() && !args.allow_tmpfs {
        return Err(fail(format!(
            "{}: on a tmpfs, where nothing survives a power loss: name a folder on a disk with --dir, or add --allow-tmpfs",
            parent.display()
        )));
    }
    let dir = parent.join(format!("duramen-demo-{}", std::process::id()));
    let options = InitOptions {
        dir,
        replicas: REPLICAS,
        clients: vec!["demo".into()],
        // Ready before the load, so that the first seconds show the same as the later ones.
        log: LogLimits {
            prefill_segments: 2,
            segment_mib: SEGMENT_MIB,
            bytes_max_mib: LOG_MIB,
            ..LogLimits::default()
        },
        // Often, and without log that is kept for others: so a replica that lost its disk needs a state.
        limits: Limits { mark_interval: MARK_INTERVAL, ..Limits::default() },
        checkpoint: CheckpointLimits { period: PERIOD, log_keep_mib: 0, ..CheckpointLimits::default() },
        transfer: TransferLimits { yield_floor_mib: FLOOR_MIB, ..TransferLimits::default() },
        ..InitOptions::default()
    };
    let exe = std::env::current_exe()?;
    let cluster = LocalCluster::create(&exe, options, &[], args.allow_tmpfs).map_err(CliError::Failed)?;
    let mut stage = Stage { cluster, interrupt };
    if args.keep {
        stage.cluster.keep();
    }
    tell.say(
        "cluster",
        format!(
            "4 replicas (Byzantine, f = 1), TLS, durable votes, in {} ({} on {}){}",
            stage.cluster.dir().display(),
            mount.file_system,
            mount.device,
            if mount.in_memory() { " IN MEMORY: survives no power loss" } else { "" }
        ),
    )?;
    tell.fact("durable", json!(!mount.in_memory()));
    let result = phases(&mut stage, &mut tell, args.scale);
    let failed = match result {
        Ok(failures) => failures.join("; "),
        Err(Stop::Failed(why)) => why,
        Err(Stop::Cli(error)) => return Err(error),
        Err(Stop::Interrupted) => return Err(fail("interrupted: all replicas are stopped".into())),
    };
    let passed = failed.is_empty();
    if !passed {
        stage.cluster.keep();
    }
    tell.fact("pass", json!(passed));
    tell.fact("seconds", json!(begin.elapsed().as_secs_f64()));
    if passed {
        tell.say("PASS", "nothing that was acknowledged is lost, and all replicas agree".into())?;
    } else {
        tell.fact("failure", json!(failed));
        tell.fact("dir", json!(stage.cluster.dir().display().to_string()));
        tell.say("FAIL", format!("{failed}; what is left is in {}", stage.cluster.dir().display()))?;
    }
    tell.end()?;
    if passed { Ok(()) } else { Err(fail(format!("the demonstration failed: {failed}"))) }
}

fn fail(message: String) -> CliError {
    CliError::Failed(message)
}

/// Why the phases ended early.
enum Stop {
    Interrupted,
    Failed(String),
    Cli(CliError),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Stop::Failed(why)
    }
}

impl From<CliError> for Stop {
    fn from(error: CliError) -> Self {
        Stop::Cli(error)
    }
}

/// One line per phase, or one object at the end.
struct Tell {
    json: bool,
    begin: Instant,
    facts: Map<String, Value>,
}

impl Tell {
    fn say(&self, what: &str, text: String) -> Result<(), CliError> {
        if self.json {
            return Ok(());
        }
        emit(format_args!("[{:5.1} s] {what:<11} {text}", self.begin.elapsed().as_secs_f64()))
    }

    fn fact(&mut self, name: &str, value: Value) {
        self.facts.insert(name.into(), value);
    }

    fn end(self) -> Result<(), CliError> {
        if self.json { emit(Value::Object(self.facts)) } else { Ok(()) }
    }
}

struct Stage {
    cluster: LocalCluster,
    interrupt: Interrupt,
}

impl Stage {
    /// Waits until `done` says so. False if it did not in time.
    fn wait_until(&self, timeout: Duration, done: &mut dyn FnMut() -> bool) -> Result<bool, Stop> {
        let end = Instant::now() + timeout;
        loop {
            if self.interrupt.is_set() {
                return Err(Stop::Interrupted);
            }
            if done() {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    fn let_run(&self, time: Duration) -> Result<(), Stop> {
        self.wait_until(time, &mut || false).map(drop)
    }

    fn start(&mut self, i: u32) -> Result<(), Stop> {
        self.cluster.start(i)?;
        let interrupt = self.interrupt.clone();
        self.ready(&interrupt, i)
    }

    fn start_all(&mut self) -> Result<(), Stop> {
        let interrupt = self.interrupt.clone();
        for i in 0..REPLICAS {
            self.cluster.start(i)?;
        }
        (0..REPLICAS).try_for_each(|i| self.ready(&interrupt, i))
    }

    fn ready(&mut self, interrupt: &Interrupt, i: u32) -> Result<(), Stop> {
        match self.cluster.wait_ready(i, START_TIME, &|| !interrupt.is_set()) {
            Ok(_) => Ok(()),
            Err(_) if interrupt.is_set() => Err(Stop::Interrupted),
            Err(why) => Err(Stop::Failed(why)),
        }
    }

    /// The leader that most replicas follow, with its view.
    fn leader(&self, client: &Client) -> Option<(u32, u64)> {
        let answers = statuses(client, &self.cluster.config, STATUS_TIME);
        let leads = |status: &&Value| status["role"] == "leader" && status["mode"] == "normal";
        let leaders = answers.iter().flatten().filter(leads);
        let newest = leaders.max_by_key(|status| status["view"].as_u64())?;
        Some((newest["replica"].as_u64()? as u32, newest["view"].as_u64()?))
    }

    /// Waits for a leader other than `old`.
    fn new_leader(&self, client: &Client, old: Option<u32>) -> Result<(u32, u64), Stop> {
        let mut leader = None;
        self.wait_until(PATIENCE, &mut || {
            leader = self.leader(client).filter(|(i, _)| Some(*i) != old);
            leader.is_some()
        })?;
        leader.ok_or(Stop::Failed(format!("no new leader within {} s", PATIENCE.as_secs())))
    }

    fn progress(&self, load: &CheckedLoad) -> Result<(), Stop> {
        // More than what may have been under way before.
        let goal = load.acked() + u64::from(WRITERS * OUTSTANDING) * 2;
        match self.wait_until(PATIENCE, &mut || load.acked() >= goal)? {
            true => Ok(()),
            false => Err(Stop::Failed(format!("no progress within {} s", PATIENCE.as_secs()))),
        }
    }
}

const WRITERS: u32 = 8;
const OUTSTANDING: u32 = 32;

/// The phases; what was not as promised comes back.
fn phases(stage: &mut Stage, tell: &mut Tell, scale: Scale) -> Result<Vec<String>, Stop> {
    let mut failures = Vec::new();
    let sizes = scale.sizes();
    stage.start_all()?;
    let config = stage.cluster.config.clone();
    let keys = client_keys(stage.cluster.dir(), &config, None)?;
    let options = ClientOptions { connect_to: Some(REPLICAS), ..ClientOptions::new(config.clone(), keys) };
    let client = Client::connect(options).map_err(|e| Stop::Failed(e.to_string()))?;
    let backend = statuses(&client, &config, STATUS_TIME).into_iter().find_map(Result::ok);
    let backend = backend.and_then(|status| Some(status.pointer("/log/backend")?.as_str()?.to_owned()));
    let backend = backend.unwrap_or_default();
    tell.say("started", format!("all connected; log writes through {backend}"))?;
    tell.fact("io", json!(backend));

    let plan = Plan {
        writers: WRITERS,
        outstanding: OUTSTANDING,
        value_bytes: VALUE_BYTES,
        rate_max: sizes.rate_max,
        deadline: PATIENCE,
        seed: u64::from(std::process::id()),
    };
    let mut load = CheckedLoad::start(&client, plan);
    steady(stage, tell, &load, &sizes)?;
    kill_leader(stage, tell, &client, &load, &sizes)?;
    kill_all(stage, tell, &client, &load, &sizes)?;
    transfer::lost_disk(stage, tell, &client, &load, &mut failures)?;

    load.stop();
    let reading = Instant::now();
    let findings = load.verify(&client)?;
    report_findings(tell, &findings, reading.elapsed())?;
    if !findings.good() {
        failures.push(format!(
            "{} acknowledged writes lost, {} values wrong: {}",
            findings.lost,
            findings.wrong,
            findings.examples.join(", ")
        ));
    }
    if let Err(why) = equal_digests(stage, tell, &client)? {
        failures.push(why);
    }
    drop(load);
    drop(client);
    stage.cluster.stop_all()?;
    Ok(failures)
}

fn steady(stage: &Stage, tell: &mut Tell, load: &CheckedLoad, sizes: &Sizes) -> Result<(), Stop> {
    stage.progress(load)?;
    let (begin, before) = (Instant::now(), load.acked());
    load.take_latencies();
    stage.let_run(sizes.steady)?;
    let rate = (load.acked() - before) as f64 / begin.elapsed().as_secs_f64();
    let latencies = load.take_latencies();
    let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
    let paced = if rate > 0.95 * sizes.rate_max { " (paced)" } else { "" };
    tell.say(
        "steady",
        format!(
            "{rate:.0} writes/s of {VALUE_BYTES} B{paced}, latency p50 {:.1} ms, p99 {:.1} ms",
            ms(0.5),
            ms(0.99)
        ),
    )?;
    tell.fact(
        "steady",
        json!({ "ops_per_s": rate, "paced": !paced.is_empty(), "p50_ms": ms(0.5), "p99_ms": ms(0.99) }),
    );
    Ok(())
}

fn kill_leader(
    stage: &mut Stage,
    tell: &mut Tell,
    client: &Client,
    load: &CheckedLoad,
    sizes: &Sizes,
) -> Result<(), Stop> {
    let (old, view) = stage.new_leader(client, None)?;
    load.take_longest_gap();
    stage.cluster.kill(old);
    tell.say("kill -9", format!("replica {old}, the leader of view {view}, under load"))?;
    stage.progress(load)?;
    let gap = load.take_longest_gap();
    let (new, new_view) = stage.new_leader(client, Some(old))?;
    let timeout = stage.cluster.config.view_timeout_ms;
    tell.say(
        "new leader",
        format!(
            "replica {new} in view {new_view}; {:.2} s without progress (timeout {timeout} ms)",
            gap.as_secs_f64()
        ),
    )?;
    tell.fact(
        "leader_kill",
        json!({
            "killed": old,
            "view": view,
            "new_leader": new,
            "new_view": new_view,
            "seconds_without_progress": gap.as_secs_f64(),
            "view_timeout_ms": timeout,
        }),
    );
    stage.let_run(sizes.degraded)?;

    let begin = Instant::now();
    stage.start(old)?;
    let started = begin.elapsed();
    let executed = |i: u32| -> u64 {
        let status = client.status(ReplicaId(i), Some(STATUS_TIME)).unwrap_or_default();
        let status: Value = serde_json::from_str(&status).unwrap_or_default();
        status["executed"].as_u64().unwrap_or(0)
    };
    // Where the group is now; the load goes on meanwhile.
    let goal = executed(new);
    if !stage.wait_until(PATIENCE, &mut || executed(old) >= goal)? {
        return Err(Stop::Failed(format!("replica {old} did not catch up within {} s", PATIENCE.as_secs())));
    }
    tell.say(
        "restart",
        format!(
            "replica {old} read its log in {:.2} s and caught up to seq {goal} in {:.2} s, under load",
            started.as_secs_f64(),
            begin.elapsed().as_secs_f64()
        ),
    )?;
    tell.fact(
        "restart",
        json!({
            "replica": old,
            "ready_seconds": started.as_secs_f64(),
            "caught_up_seconds": begin.elapsed().as_secs_f64(),
            "seq": goal,
        }),
    );
    stage.let_run(sizes.degraded)
}

fn kill_all(
    stage: &mut Stage,
    tell: &mut Tell,
    client: &Client,
    load: &CheckedLoad,
    sizes: &Sizes,
) -> Result<(), Stop> {
    stage.let_run(sizes.around)?;
    load.take_longest_gap();
    stage.cluster.kill_all();
    let acked = load.acked();
    tell.say("kill -9", format!("all four replicas, under load, {acked} writes acknowledged"))?;
    let begin = Instant::now();
    stage.start_all()?;
    let started = begin.elapsed();
    stage.progress(load)?;
    let gap = load.take_longest_gap();
    let (leader, view) = stage.new_leader(client, None)?;
    tell.say(
        "restart",
        format!(
            "all four read their logs in {:.2} s; {:.2} s without progress; leader {leader} in view {view}",
            started.as_secs_f64(),
            gap.as_secs_f64()
        ),
    )?;
    tell.fact(
        "all_killed",
        json!({
            "acked_before": acked,
            "ready_seconds": started.as_secs_f64(),
            "seconds_without_progress": gap.as_secs_f64(),
            "leader": leader,
            "view": view,
        }),
    );
    stage.let_run(sizes.around)
}

fn report_findings(tell: &mut Tell, findings: &Findings, took: Duration) -> Result<(), Stop> {
    let Findings { acked, found, overwritten, lost, wrong, unknown, unknown_found, not_executed, .. } =
        findings;
    tell.say(
        "read back",
        format!(
            "{acked} acknowledged writes in {:.1} s: {found} found, {overwritten} overwritten by later ones, {lost} lost, {wrong} wrong",
            took.as_secs_f64()
        ),
    )?;
    if unknown + not_executed > 0 {
        tell.say(
            "",
            format!(
                "{unknown} of unknown outcome ({unknown_found} seen to have taken effect), {not_executed} not executed"
            ),
        )?;
    }
    tell.fact(
        "read_back",
        json!({
            "acked": acked,
            "found": found,
            "overwritten": overwritten,
            "lost": lost,
            "wrong": wrong,
            "unknown": unknown,
            "unknown_found": unknown_found,
            "not_executed": not_executed,
            "seconds": took.as_secs_f64(),
        }),
    );
    Ok(())
}

/// Whether all replicas show the same digest at the same place; the load has stopped.
fn equal_digests(stage: &Stage, tell: &mut Tell, client: &Client) -> Result<Result<(), String>, Stop> {
    let mut seen: Vec<(u32, u64, String)> = Vec::new();
    let mut differ = false;
    let equal = stage.wait_until(PATIENCE, &mut || {
        seen = digests(client);
        let same_place = seen.windows(2).all(|pair| pair[0].1 == pair[1].1);
        let same = seen.windows(2).all(|pair| pair[0].2 == pair[1].2);
        // A place is a place: nothing to wait for.
        differ = same_place && !same && seen.len() == REPLICAS as usize;
        differ || same_place && same && seen.len() == REPLICAS as usize
    })?;
    let all: Vec<Value> =
        seen.iter().map(|(i, seq, digest)| json!({ "replica": i, "seq": seq, "digest": digest })).collect();
    tell.fact("digests", json!(all));
    if equal && !differ {
        let (_, seq, digest) = &seen[0];
        tell.say(
            "digests",
            format!("all four replicas are at seq {seq} with state {}", &digest[..16.min(digest.len())]),
        )?;
        return Ok(Ok(()));
    }
    let each: Vec<_> =
        seen.iter().map(|(i, seq, digest)| format!("replica {i} at seq {seq}: {digest}")).collect();
    let why = if differ { "the replicas' states differ" } else { "the replicas do not reach one place" };
    Ok(Err(format!("{why} ({})", each.join(", "))))
}

/// Of those that answer: replica, place, digest.
fn digests(client: &Client) -> Vec<(u32, u64, String)> {
    let ask = |i: u32| -> Option<(u32, u64, String)> {
        let json = client.status_with_digest(ReplicaId(i), Some(PATIENCE / 2)).ok()?;
        let status: Value = serde_json::from_str(&json).ok()?;
        Some((i, status["digest_seq"].as_u64()?, status["state_digest"].as_str()?.to_owned()))
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..REPLICAS).map(|i| scope.spawn(move || ask(i))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    })
}
