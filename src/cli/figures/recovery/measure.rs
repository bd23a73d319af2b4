//! Clusters under load, one of whose replicas is killed, loses its folders and comes back: into the tables.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duramen::client::Client;
use duramen::config::{CheckpointLimits, Config, Limits, LogLimits, TransferLimits};
use duramen::init::InitOptions;
use duramen::transfer::StrategyKind;
use duramen::types::ReplicaId;
use serde_json::{Value, json};

use super::super::super::bench::load::{Load, Shape};
use super::super::super::bench::report::Bin;
use super::super::super::bench::workload::{Distribution, Kind, Mix, Workload};
use super::super::super::connect::statuses;
use super::super::super::local_cluster::LocalCluster;
use super::super::super::signals::Interrupt;
use super::super::super::{CliError, emit};
use super::super::ground;
use super::{Args, BIN, From, Sizes, Tables, VALUE_BYTES};

const START_TIME: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(120);
const STATUS_TIME: Duration = Duration::from_secs(5);
/// Replicas are asked this often.
const LOOK: Duration = Duration::from_millis(50);
/// Logs must have begun to let go of their beginning by then.
const READY_TIME: Duration = Duration::from_secs(300);
/// Writes of a run that only shows how fast places go by.
const CALIBRATION: Duration = Duration::from_secs(2);
const CALIBRATION_KEYS: u64 = 1000;
/// Percent of what others send that the leader sends.
const LEADER_LAST: u32 = 25;
const LEADER_AS_ANY: u32 = 100;

/// All runs, into the tables; what they ran on, and whether all could be done.
pub(super) fn measure_all(args: &Args) -> Result<(Value, Result<(), CliError>), CliError> {
    let interrupt = Interrupt::install()?;
    let mut sizes = args.scale.sizes();
    if !args.state.is_empty() {
        sizes.states_mb.clone_from(&args.state);
    }
    if !args.replicas.is_empty() {
        sizes.replicas.clone_from(&args.replicas);
    }
    sizes.seconds = args.seconds.unwrap_or(sizes.seconds).max(1);
    let made = !args.files.dir.exists();
    std::fs::create_dir_all(&args.files.dir)?;
    let machine = ground::machine(&args.files.dir, args.allow_tmpfs, sizes.bytes_max())?;
    let mut tables = Tables::new();
    tables.write(&args.files.out)?;
    let ended = runs(args, &sizes, &mut tables, &interrupt);
    if made {
        let _ = std::fs::remove_dir(&args.files.dir);
    }
    let facts = json!({
        "scale": format!("{:?}", args.scale).to_lowercase(),
        "seconds": sizes.seconds,
        "rate": args.rate,
        "value_bytes": VALUE_BYTES,
        "machine": machine.json(),
        "durable": !machine.mount.in_memory(),
        "debug_build": cfg!(debug_assertions),
        "complete": ended.is_ok(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    Ok((facts, ended))
}

fn runs(args: &Args, sizes: &Sizes, tables: &mut Tables, interrupt: &Interrupt) -> Result<(), CliError> {
    for replicas in sizes.replicas.clone() {
        let places_per_s = Ground { args, sizes, replicas }.calibrate(interrupt)?;
        let from = match (&args.from[..], replicas) {
            ([], 7..) => vec![From::Others, From::Leader],
            ([], _) => vec![From::Others],
            (given, _) => given.to_vec(),
        };
        for state_mb in sizes.states_mb.clone() {
            for round in 0..args.rounds.max(1) {
                for from in &from {
                    for (strategy, floor_mib) in
                        args.strategy.iter().flat_map(|s| args.floor.iter().map(move |floor| (*s, *floor)))
                    {
                        let ground = Ground { args, sizes, replicas };
                        let run =
                            Run { ground, state_mb, strategy, from: *from, floor_mib, round, places_per_s };
                        run.measure(tables, interrupt)?;
                        // What there is survives an interruption.
                        tables.write(&args.files.out)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What clusters are made of.
#[derive(Clone, Copy)]
struct Ground<'a> {
    args: &'a Args,
    sizes: &'a Sizes,
    replicas: u32,
}

impl Ground<'_> {
    fn cluster(
        &self,
        log: LogLimits,
        checkpoint: CheckpointLimits,
        transfer: TransferLimits,
    ) -> Result<LocalCluster, CliError> {
        let options = InitOptions {
            dir: self.args.files.dir.join(format!("run-{}", std::process::id())),
            replicas: self.replicas,
            clients: vec!["load".into(), "watch".into()],
            limits: Limits { mark_interval: self.sizes.mark_interval, ..Limits::default() },
            log: LogLimits { segment_mib: self.sizes.segment_mib, ..log },
            checkpoint,
            transfer,
            ..InitOptions::default()
        };
        let exe = std::env::current_exe()?;
        LocalCluster::create(&exe, options, &[], self.args.allow_tmpfs).map_err(CliError::Failed)
    }

    fn connect(&self, dir: &Path, config: &Config, name: &str) -> Result<Client, CliError> {
        let in_flight = (self.sizes.sessions * self.sizes.outstanding) as usize;
        ground::client(dir, config, name, (in_flight, VALUE_BYTES))
    }

    fn workload(&self, keys: u64) -> (Arc<Workload>, Shape) {
        let kind = Kind::Kv {
            value_bytes: VALUE_BYTES,
            keys,
            mix: Mix::default(),
            distribution: Distribution::Uniform,
            preload: true,
        };
        let Sizes { sessions, outstanding, .. } = *self.sizes;
        let shape =
            Shape { sessions, outstanding, rate: self.args.rate.map(f64::from), deadline: DEADLINE, seed: 1 };
        (Arc::new(Workload::new(kind, 1)), shape)
    }

    /// Places per second under this load: periods are counted in places.
    fn calibrate(&self, interrupt: &Interrupt) -> Result<f64, CliError> {
        let go_on = || !interrupt.is_set();
        let none = CheckpointLimits { period: 0, ..CheckpointLimits::default() };
        let mut cluster = self.cluster(LogLimits::default(), none, TransferLimits::default())?;
        cluster.start_all(START_TIME, &go_on).map_err(CliError::Failed)?;
        let config = cluster.config.clone();
        let client = self.connect(cluster.dir(), &config, "load")?;
        let (workload, shape) = self.workload(CALIBRATION_KEYS);
        let decided = || {
            let states = statuses(&client, &config, STATUS_TIME);
            states.iter().flatten().filter_map(|state| state["decided"].as_u64()).max().unwrap_or(0)
        };
        let load = Load::start(&client, workload, shape);
        ground::pause(Instant::now() + CALIBRATION / 2, &load, interrupt)?;
        let (before, began) = (decided(), Instant::now());
        ground::pause(began + CALIBRATION, &load, interrupt)?;
        let places_per_s = (decided() - before) as f64 / began.elapsed().as_secs_f64();
        drop(load.stop());
        cluster.kill_all();
        emit(format_args!("calibrated {} replicas: {places_per_s:.0} places/s", self.replicas))?;
        Ok(places_per_s.max(1.0))
    }
}

/// One run: a cluster, its state, load, a kill and what was seen.
struct Run<'a> {
    ground: Ground<'a>,
    state_mb: u64,
    strategy: StrategyKind,
    from: From,
    floor_mib: u64,
    round: u64,
    places_per_s: f64,
}

/// What the one that recovers says.
#[derive(Default)]
struct Seen {
    /// Since the begin of measuring: the first word of a transfer, the state taken over, the vote.
    first: Option<Duration>,
    installed: Option<Duration>,
    votes: Option<Duration>,
    /// When, bytes received, and the others' bounds together; 0: none.
    looks: Vec<(Duration, u64, u64)>,
    last: (u64, u64),
    sources: Vec<u64>,
    lowered: u64,
}

impl Run<'_> {
    fn keys(&self) -> u64 {
        (self.state_mb * 1_000_000 / VALUE_BYTES as u64).max(1)
    }

    fn cluster(&self) -> Result<LocalCluster, CliError> {
        let sizes = self.ground.sizes;
        let log = LogLimits {
            bytes_max_mib: sizes.log_mib(self.state_mb),
            spare_segments: 1,
            ..LogLimits::default()
        };
        let places = (self.places_per_s * sizes.checkpoint_s) as u64;
        let checkpoint = CheckpointLimits {
            period: places.max(u64::from(self.ground.replicas) * sizes.mark_interval),
            log_keep_mib: sizes.keep_mib(self.state_mb),
            ..CheckpointLimits::default()
        };
        let leader_percent = if self.from == From::Leader { LEADER_AS_ANY } else { LEADER_LAST };
        let transfer = TransferLimits {
            strategy: self.strategy,
            leader_percent,
            yield_floor_mib: self.floor_mib,
            ..TransferLimits::default()
        };
        self.ground.cluster(log, checkpoint, transfer)
    }

    fn measure(&self, tables: &mut Tables, interrupt: &Interrupt) -> Result<(), CliError> {
        let go_on = || !interrupt.is_set();
        let mut cluster = self.cluster()?;
        cluster.start_all(START_TIME, &go_on).map_err(CliError::Failed)?;
        let config = cluster.config.clone();
        let client = self.ground.connect(cluster.dir(), &config, "load")?;
        let watching = self.ground.connect(cluster.dir(), &config, "watch")?;
        let (workload, shape) = self.ground.workload(self.keys());
        ground::preload(&client, &workload, Shape { rate: None, ..shape }, self.keys(), interrupt)?;

        let load = Load::start(&client, workload, shape);
        let victim = self.wait_until_logs_begin_anew(&watching, &load, interrupt)?;
        load.start_recording();
        let _ = load.take_bin();
        let begin = Instant::now();
        let stop = AtomicBool::new(false);
        let (bins, story) = std::thread::scope(|scope| {
            let bins = scope.spawn(|| record(&load, begin, &stop));
            let story = self.story(&mut cluster, &watching, victim, (&load, begin), interrupt);
            stop.store(true, Ordering::Relaxed);
            (bins.join().expect("it does not panic"), story)
        });
        let (down, back, seen) = story?;
        let record = load.stop();
        drop((client, watching));
        // Nobody needs what it has on disk: the time for an orderly end is saved.
        cluster.kill_all();
        self.tell(tables, &bins, (down, back), &seen, record.errors)
    }

    /// The load goes on until nobody's log has the first place any more; who is to be killed: the last one that does not lead.
    fn wait_until_logs_begin_anew(
        &self,
        watching: &Client,
        load: &Load,
        interrupt: &Interrupt,
    ) -> Result<ReplicaId, CliError> {
        let end = Instant::now() + READY_TIME;
        loop {
            ground::pause(Instant::now() + 2 * BIN, load, interrupt)?;
            let ids = (0..self.ground.replicas).map(ReplicaId);
            let states: Vec<Value> = ids.filter_map(|id| status(watching, id)).collect();
            let begun = |state: &Value| {
                state["log"]["first_lsn"].as_u64() > Some(1) && state["transfer"]["newest"].as_u64() > Some(0)
            };
            let follows = |state: &&Value| state["role"] != "leader";
            let last = states.iter().filter(follows).filter_map(|state| state["replica"].as_u64()).max();
            if let (Some(last), true) =
                (last, states.len() == self.ground.replicas as usize && states.iter().all(begun))
            {
                return Ok(ReplicaId(last as u32));
            }
            if Instant::now() > end {
                return Err(CliError::Failed(format!(
                    "after {} s some log still has its first place, or there is no certified state",
                    READY_TIME.as_secs()
                )));
            }
        }
    }

    /// All replicas; the kill; the rest; the way back; all again. When it was killed and when started again.
    fn story(
        &self,
        cluster: &mut LocalCluster,
        watching: &Client,
        victim: ReplicaId,
        (load, begin): (&Load, Instant),
        interrupt: &Interrupt,
    ) -> Result<(Duration, Duration, Seen), CliError> {
        let calm = Duration::from_secs(self.ground.sizes.seconds);
        ground::pause(Instant::now() + calm, load, interrupt)?;
        let down = begin.elapsed();
        cluster.kill(victim.0);
        cluster.lose_disk(victim.0).map_err(CliError::Failed)?;
        ground::pause(begin + down + calm + Duration::from_secs(1), load, interrupt)?;
        let back = begin.elapsed();
        cluster.start(victim.0).map_err(CliError::Failed)?;
        cluster.wait_ready(victim.0, START_TIME, &|| !interrupt.is_set()).map_err(CliError::Failed)?;
        let seen = self.watch(watching, victim, (load, begin), interrupt)?;
        ground::pause(Instant::now() + calm, load, interrupt)?;
        Ok((down, back, seen))
    }

    /// Follows the recovery to its end, or until there is no patience left.
    fn watch(
        &self,
        watching: &Client,
        victim: ReplicaId,
        (load, begin): (&Load, Instant),
        interrupt: &Interrupt,
    ) -> Result<Seen, CliError> {
        let mut seen = Seen::default();
        let end = Instant::now() + self.ground.sizes.patience;
        while seen.votes.is_none() && Instant::now() < end {
            ground::pause(Instant::now() + LOOK, load, interrupt)?;
            let Some(state) = status(watching, victim) else { continue };
            let (now, transfer) = (begin.elapsed(), &state["transfer"]);
            let number = |of: &Value| of.as_u64().unwrap_or(0);
            if transfer["phase"] != "" {
                seen.first.get_or_insert(now);
            }
            if number(&transfer["installed"]) > 0 {
                seen.installed.get_or_insert(now);
                seen.last = (number(&transfer["last_bytes"]), number(&transfer["last_ms"]));
                let sources = transfer["last_sources"].as_array().into_iter().flatten();
                seen.sources = sources.map(|source| number(&source["replica"])).collect();
            }
            if state["mode"] == "normal" && seen.installed.is_some() {
                seen.votes = Some(now);
            }
            let others = (0..self.ground.replicas).map(ReplicaId).filter(|id| *id != victim);
            let yielding = others.filter_map(|id| Some(status(watching, id)?["transfer"]["yielding"].take()));
            let (mut bound, mut lowered) = (0, 0);
            for yielding in yielding {
                bound += number(&yielding["bytes_per_s"]);
                lowered += number(&yielding["lowered"]);
            }
            seen.lowered = seen.lowered.max(lowered);
            seen.looks.push((now, number(&transfer["bytes"]), bound));
        }
        Ok(seen)
    }

    fn tell(
        &self,
        tables: &mut Tables,
        bins: &[Bin],
        (down, back): (Duration, Duration),
        seen: &Seen,
        errors: u64,
    ) -> Result<(), CliError> {
        let Run { state_mb, strategy, floor_mib, round, .. } = self;
        let (replicas, from) = (self.ground.replicas, self.from.name());
        macro_rules! push {
            ($table:expr, $($cell:expr),*) => {
                $table.push(&[&replicas, state_mb, strategy, &from, floor_mib, round, $(&$cell),*])
            };
        }
        for Bin { at, operations, p50_p99_max_us: [p50, p99, max], .. } in bins {
            push!(tables.bins, at.as_millis(), *operations, p50.round(), p99.round(), max.round());
        }
        let end = bins.last().map_or(back, |bin| bin.at + BIN);
        let votes = seen.votes.unwrap_or(end);
        push!(tables.bands, "down", down.as_millis(), back.as_millis());
        push!(tables.bands, "recovery", back.as_millis(), votes.as_millis());
        if let Some(first) = seen.first {
            let installed = seen.installed.unwrap_or(end);
            push!(tables.bands, "transfer", first.as_millis(), installed.as_millis());
        }
        for (at, received, bound) in &seen.looks {
            push!(tables.looks, at.as_millis(), *received, *bound);
        }
        let (bytes, ms) = seen.last;
        let sources = seen.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let recovered = u32::from(seen.votes.is_some());
        push!(tables.runs, ms, bytes, sources, seen.lowered, recovered, errors);
        let outcome = match seen.votes {
            Some(votes) => format!("votes after {:.1} s", (votes - back).as_secs_f64()),
            None => format!("did not recover within {} s", self.ground.sizes.patience.as_secs()),
        };
        emit(format_args!(
            "run        {replicas} replicas, {state_mb} MB, {strategy} from {from}, floor {floor_mib} MiB/s: {:.1} MB in {:.2} s from replicas {sources}, {outcome}",
            bytes as f64 / 1e6,
            ms as f64 / 1e3,
        ))
    }
}

fn status(client: &Client, id: ReplicaId) -> Option<Value> {
    serde_json::from_str(&client.status(id, Some(STATUS_TIME)).ok()?).ok()
}

/// A bin each tenth of a second, until told to stop.
fn record(load: &Load, begin: Instant, stop: &AtomicBool) -> Vec<Bin> {
    let mut bins = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let at = BIN * bins.len() as u32;
        std::thread::sleep((begin + at + BIN).saturating_duration_since(Instant::now()));
        let (latency_ns, errors) = load.take_bin();
        bins.push(Bin::of(at, &latency_ns, errors));
    }
    bins
}
