//! `duramen figures checkpoint`: what a client sees while replicas write checkpoints.
//!
//! Source: Dura-SMaRt (ATC'13), Figures 2 (synchronized checkpoints halt the service for seconds) and 10 (sequential ones do not; small dips
//! at high load). Differs: a period of places (batches) is chosen so that each replica writes three times in the measured time, by the rate
//! of a run without checkpoints, where the paper took 200,000 requests; the disk is this machine's, which all replicas share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duramen::client::{Client, ClientOptions};
use duramen::config::{CheckpointLimits, CheckpointSchedule, Config, Limits, LogLimits, SnapshotKind};
use duramen::init::InitOptions;
use duramen::types::ReplicaId;
use serde_json::{Value, json};

use super::super::bench::load::{Load, Shape};
use super::super::bench::report::Bin;
use super::super::bench::workload::{Distribution, Kind, Mix, Workload};
use super::super::connect::{client_keys, statuses};
use super::super::local_cluster::LocalCluster;
use super::super::machine::Machine;
use super::super::signals::Interrupt;
use super::super::{CliError, emit};
use super::Verdict;
use super::csv::{Row, Table};
use super::svg::{Band, Page, Panel, Series};

/// How much, and where.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// How much state and time
    #[arg(long, value_enum, default_value = "full")]
    pub scale: Scale,
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = "figures")]
    pub out: PathBuf,
    /// A folder to run clusters in, on the disk to measure
    #[arg(long, default_value = "./duramen-figures")]
    pub dir: PathBuf,
    /// Sizes of the state in MB (10^6 bytes of values) [default: the scale's]
    #[arg(long, value_name = "MB", value_delimiter = ',')]
    pub state: Vec<u64>,
    /// Seconds to measure each run [default: the scale's]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Measure nothing: draw and judge what the CSV files in --out say
    #[arg(long)]
    pub again: bool,
    /// Work on a tmpfs too, and label the result
    #[arg(long)]
    pub allow_tmpfs: bool,
}

/// How much state and time.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// The papers' states, 500 MB and 1 GB: about a quarter of an hour
    Full,
    /// 40 MB, a few seconds each: about two minutes
    Small,
    /// 4 MB, a second each: only shows that it works
    Tiny,
}

/// Sizes of a scale.
struct Sizes {
    states_mb: Vec<u64>,
    seconds: u64,
    warmup: Duration,
    /// Places between marks, which checkpoints are taken at.
    mark_interval: u64,
    sessions: u32,
    outstanding: u32,
    segment_mib: u64,
}

const REPLICAS: u32 = 4;
const VALUE_BYTES: usize = 4096;
const BIN: Duration = Duration::from_millis(100);
/// Each replica writes so often in the measured time.
const CHECKPOINTS: u64 = 3;
/// Medium load, as a share of what the saturated run did.
const MEDIUM: f64 = 0.5;
const START_TIME: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(60);
const STATUS_TIME: Duration = Duration::from_secs(5);
/// Replicas are asked this often whether they write.
const LOOK: Duration = Duration::from_millis(20);

impl Scale {
    fn sizes(self) -> Sizes {
        let (states_mb, seconds, warmup) = match self {
            Scale::Full => (vec![500, 1000], 30, Duration::from_secs(5)),
            Scale::Small => (vec![40], 6, Duration::from_secs(1)),
            Scale::Tiny => (vec![4], 1, Duration::from_millis(200)),
        };
        let mark_interval = if self == Scale::Full { 64 } else { 8 };
        let (sessions, outstanding) = if self == Scale::Tiny { (4, 20) } else { (8, 100) };
        let segment_mib = if self == Scale::Full { 64 } else { 16 };
        Sizes { states_mb, seconds, warmup, mark_interval, sessions, outstanding, segment_mib }
    }
}

impl Sizes {
    /// What one run may take of the disk: state, two checkpoints and log on each replica, at more than any of them writes per second.
    fn bytes_max(&self) -> u64 {
        let state = self.states_mb.iter().max().copied().unwrap_or(0) * 1_000_000;
        let log = (self.seconds + self.warmup.as_secs() + 1) * 150_000_000;
        u64::from(REPLICAS) * (3 * state + log + 4 * (self.segment_mib << 20))
    }
}

/// Who writes when, and what execution does meanwhile; `None` for no checkpoints.
type Way = Option<(CheckpointSchedule, SnapshotKind)>;

const WAYS: [Way; 5] = [
    None,
    Some((CheckpointSchedule::Synchronized, SnapshotKind::StopTheWorld)),
    Some((CheckpointSchedule::Synchronized, SnapshotKind::CopyOnWrite)),
    Some((CheckpointSchedule::Sequential, SnapshotKind::StopTheWorld)),
    Some((CheckpointSchedule::Sequential, SnapshotKind::CopyOnWrite)),
];

/// As in the files and in titles.
fn name_of(way: Way) -> String {
    way.map_or("no checkpoints".into(), |(schedule, snapshot)| format!("{schedule} {snapshot}"))
}

const RUNS: &str = "checkpoint-runs.csv";
const BINS: &str = "checkpoint-bins.csv";
const BANDS: &str = "checkpoint-bands.csv";
const JSON: &str = "checkpoint.json";

/// The three tables.
struct Tables {
    /// One row per run.
    runs: Table,
    /// One row per run and tenth of a second.
    bins: Table,
    /// One row per run and checkpoint that was written.
    bands: Table,
}

impl Tables {
    fn new() -> Tables {
        Tables {
            runs: Table::new(&[
                "state_mb",
                "load",
                "way",
                "period",
                "rate",
                "ops_per_s",
                "places_per_s",
                "p50_us",
                "p99_us",
                "p999_us",
                "max_us",
                "errors",
            ]),
            bins: Table::new(&[
                "state_mb",
                "load",
                "way",
                "at_ms",
                "operations",
                "p50_us",
                "p99_us",
                "max_us",
            ]),
            bands: Table::new(&["state_mb", "load", "way", "replica", "from_ms", "to_ms"]),
        }
    }

    fn write(&self, out: &Path) -> std::io::Result<()> {
        self.runs.write(&out.join(RUNS))?;
        self.bins.write(&out.join(BINS))?;
        self.bands.write(&out.join(BANDS))
    }

    fn read(out: &Path) -> Result<Tables, String> {
        let read = |name: &str| Table::read(&out.join(name));
        Ok(Tables { runs: read(RUNS)?, bins: read(BINS)?, bands: read(BANDS)? })
    }
}

/// Measures unless told to look again, then draws and judges.
pub fn run(args: Args) -> Result<(), CliError> {
    let mut facts = json!(null);
    if !args.again {
        if cfg!(debug_assertions) && args.scale != Scale::Tiny {
            return Err(CliError::Failed(
                "a debug build says nothing about speed: use `cargo run --release -- figures …`, or --scale tiny".into(),
            ));
        }
        std::fs::create_dir_all(&args.out)?;
        facts = measure_all(&args)?;
    }
    let tables = Tables::read(&args.out).map_err(CliError::Failed)?;
    let groups = groups(&tables).map_err(CliError::Failed)?;
    for group in &groups {
        let file = args.out.join(format!("checkpoint-{}mb-{}.svg", group.state_mb, group.load));
        std::fs::write(&file, page(group).svg())?;
        emit(format_args!("figure     {}", file.display()))?;
    }
    let verdicts: Vec<Verdict> = groups.iter().flat_map(verdicts).collect();
    for verdict in &verdicts {
        verdict.print()?;
    }
    let file = args.out.join(JSON);
    if args.again {
        // What the run was is not in the tables.
        let before =
            std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        facts = before.map_or(Value::Null, |before| before["run"].clone());
    }
    let all = json!({
        "figure": "checkpoint",
        "run": facts,
        "runs": groups.iter().flat_map(|group| &group.runs).map(Measured::json).collect::<Vec<_>>(),
        "verdicts": verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
    });
    std::fs::write(&file, format!("{all:#}\n"))?;
    emit(format_args!("files      {}: {RUNS}, {BINS}, {BANDS}, {JSON}", args.out.display()))
}

// ---- measuring ----

/// All runs, into the tables; what they ran on.
fn measure_all(args: &Args) -> Result<Value, CliError> {
    let interrupt = Interrupt::install()?;
    let mut sizes = args.scale.sizes();
    if !args.state.is_empty() {
        sizes.states_mb.clone_from(&args.state);
    }
    sizes.seconds = args.seconds.unwrap_or(sizes.seconds).max(1);
    let made = !args.dir.exists();
    std::fs::create_dir_all(&args.dir)?;
    let machine = Machine::measure(&args.dir).map_err(CliError::Failed)?;
    if machine.mount.in_memory() && !args.allow_tmpfs {
        return Err(CliError::Failed(
            "--dir lies on a tmpfs, where nothing is durable: choose a folder on a disk, or add --allow-tmpfs".into(),
        ));
    }
    let (needed, free) = (sizes.bytes_max(), duramen::sys::free_bytes(&args.dir));
    if free < needed {
        return Err(CliError::Failed(format!(
            "--dir has {:.1} GB free, a run may need {:.1}: choose another disk, fewer --seconds or less --state",
            free as f64 / 1e9,
            needed as f64 / 1e9
        )));
    }
    emit(machine.describe())?;
    let mut tables = Tables::new();
    for state_mb in sizes.states_mb.clone() {
        let mut rate = None;
        for load in ["high", "medium"] {
            let mut places_per_s = 0.0;
            for way in WAYS {
                let run = Run { args, sizes: &sizes, state_mb, load, way, rate, places_per_s };
                let (ops_per_s, places) = run.measure(&mut tables, &interrupt)?;
                // What there is survives an interruption.
                tables.write(&args.out)?;
                // What was done at high load sets the rate of medium load.
                if way.is_none() {
                    places_per_s = places;
                    rate = rate.or(Some((ops_per_s * MEDIUM).max(1.0)));
                }
            }
        }
    }
    if made {
        let _ = std::fs::remove_dir(&args.dir);
    }
    Ok(json!({
        "scale": format!("{:?}", args.scale).to_lowercase(),
        "seconds": sizes.seconds,
        "value_bytes": VALUE_BYTES,
        "replicas": REPLICAS,
        "machine": machine.json(),
        "durable": !machine.mount.in_memory(),
        "debug_build": cfg!(debug_assertions),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// One run: a cluster, its state, load, and what was seen.
struct Run<'a> {
    args: &'a Args,
    sizes: &'a Sizes,
    state_mb: u64,
    load: &'static str,
    way: Way,
    /// Of medium load.
    rate: Option<f64>,
    /// Of the run without checkpoints.
    places_per_s: f64,
}

impl Run<'_> {
    fn keys(&self) -> u64 {
        (self.state_mb * 1_000_000 / VALUE_BYTES as u64).max(1)
    }

    fn checkpoint(&self) -> CheckpointLimits {
        let usual = CheckpointLimits { log_keep_mib: 64, ..CheckpointLimits::default() };
        let Some((schedule, snapshot)) = self.way else { return CheckpointLimits { period: 0, ..usual } };
        let places = self.places_per_s * self.sizes.seconds as f64;
        let period = (places as u64 / CHECKPOINTS).max(u64::from(REPLICAS) * self.sizes.mark_interval);
        CheckpointLimits { period, schedule, snapshot, ..usual }
    }

    fn cluster(&self) -> Result<LocalCluster, CliError> {
        let options = InitOptions {
            dir: self.args.dir.join(format!("run-{}", std::process::id())),
            replicas: REPLICAS,
            clients: vec!["load".into(), "watch".into()],
            limits: Limits { mark_interval: self.sizes.mark_interval, ..Limits::default() },
            log: LogLimits {
                segment_mib: self.sizes.segment_mib,
                prefill_segments: 2,
                ..LogLimits::default()
            },
            checkpoint: self.checkpoint(),
            ..InitOptions::default()
        };
        let exe = std::env::current_exe()?;
        LocalCluster::create(&exe, options, &[], self.args.allow_tmpfs).map_err(CliError::Failed)
    }

    /// Operations and places per second.
    fn measure(&self, tables: &mut Tables, interrupt: &Interrupt) -> Result<(f64, f64), CliError> {
        let go_on = || !interrupt.is_set();
        let mut cluster = self.cluster()?;
        cluster.start_all(START_TIME, &go_on).map_err(CliError::Failed)?;
        let config = cluster.config.clone();
        let client = self.client(cluster.dir(), &config, "load")?;
        let watching = self.client(cluster.dir(), &config, "watch")?;
        let kind = Kind::Kv {
            value_bytes: VALUE_BYTES,
            keys: self.keys(),
            mix: Mix::default(),
            distribution: Distribution::Uniform,
            preload: true,
        };
        let workload = Arc::new(Workload::new(kind, 1));
        let rate = if self.load == "medium" { self.rate } else { None };
        let Sizes { sessions, outstanding, .. } = *self.sizes;
        let shape = Shape { sessions, outstanding, rate, deadline: DEADLINE, seed: 1 };
        self.preload(&client, &workload, shape, interrupt)?;

        let load = Load::start(&client, workload, shape);
        self.pause(Instant::now() + self.sizes.warmup, &load, interrupt)?;
        let decided = |client: &Client| -> u64 {
            let states = statuses(client, &config, STATUS_TIME);
            states.iter().flatten().filter_map(|state| state["decided"].as_u64()).max().unwrap_or(0)
        };
        let (places_before, places_at) = (decided(&watching), Instant::now());
        load.start_recording();
        let _ = load.take_bin();
        let (begin, acked_before) = (Instant::now(), load.acked());
        let stop = AtomicBool::new(false);
        let (bins, bands) = std::thread::scope(|scope| {
            let watchers: Vec<_> = (0..REPLICAS)
                .map(|id| {
                    let (watching, stop) = (&watching, &stop);
                    scope.spawn(move || watch(watching, ReplicaId(id), begin, stop))
                })
                .collect();
            let bins = self.bins(&load, begin, interrupt);
            stop.store(true, Ordering::Relaxed);
            (
                bins,
                watchers
                    .into_iter()
                    .map(|watcher| watcher.join().expect("it does not panic"))
                    .collect::<Vec<_>>(),
            )
        });
        let bins = bins?;
        let (seconds, acked) = (begin.elapsed().as_secs_f64(), load.acked() - acked_before);
        let places_per_s = (decided(&watching) - places_before) as f64 / places_at.elapsed().as_secs_f64();
        let record = load.stop();
        drop((client, watching));
        // Nobody needs what it has on disk: the time for an orderly end is saved.
        cluster.kill_all();
        if record.errors > 0 {
            let first = record.first_error.unwrap_or_default();
            return Err(CliError::Failed(format!("{} requests failed, the first: {first}", record.errors)));
        }

        let (way, ops_per_s) = (name_of(self.way), acked as f64 / seconds);
        for Bin { at, operations, p50_p99_max_us: [p50, p99, max], .. } in &bins {
            let (at, p50, p99, max) = (at.as_millis(), p50.round(), p99.round(), max.round());
            tables.bins.push(&[&self.state_mb, &self.load, &way, &at, operations, &p50, &p99, &max]);
        }
        let mut written = 0;
        for (replica, bands) in bands.iter().enumerate() {
            for (from, to) in bands {
                tables.bands.push(&[
                    &self.state_mb,
                    &self.load,
                    &way,
                    &replica,
                    &from.as_millis(),
                    &to.as_millis(),
                ]);
                written += 1;
            }
        }
        let us = |quantile: f64| (record.latency_ns.value_at_quantile(quantile) as f64 / 1e3).round();
        let period = self.checkpoint().period;
        tables.runs.push(&[
            &self.state_mb,
            &self.load,
            &way,
            &period,
            &rate.unwrap_or(0.0).round(),
            &ops_per_s.round(),
            &places_per_s.round(),
            &us(0.5),
            &us(0.99),
            &us(0.999),
            &us(1.0),
            &record.errors,
        ]);
        emit(format_args!(
            "run        {} MB, {} load, {way}: {ops_per_s:.0} ops/s, {places_per_s:.0} places/s, period {period}, {written} checkpoints",
            self.state_mb, self.load
        ))?;
        Ok((ops_per_s, places_per_s))
    }

    fn client(&self, dir: &Path, config: &Config, name: &str) -> Result<Client, CliError> {
        let in_flight = (self.sizes.sessions * self.sizes.outstanding) as usize;
        let mut options = ClientOptions::new(config.clone(), client_keys(dir, config, Some(name))?);
        options.outstanding_max = options.outstanding_max.max(2 * in_flight);
        options.outstanding_bytes_max = options.outstanding_bytes_max.max(2 * in_flight * (VALUE_BYTES + 64));
        options.connect_to = Some(REPLICAS);
        Ok(Client::connect(options)?)
    }

    fn preload(
        &self,
        client: &Client,
        workload: &Arc<Workload>,
        shape: Shape,
        interrupt: &Interrupt,
    ) -> Result<(), CliError> {
        let load = Load::preload(client, workload.clone(), shape);
        while !load.is_idle() && !interrupt.is_set() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let loaded = load.acked();
        let record = load.stop();
        if loaded < self.keys() {
            let why = record.first_error.unwrap_or_else(|| "interrupted".into());
            return Err(CliError::Failed(format!("{loaded} of {} keys were loaded: {why}", self.keys())));
        }
        Ok(())
    }

    fn pause(&self, until: Instant, load: &Load, interrupt: &Interrupt) -> Result<(), CliError> {
        while Instant::now() < until {
            if interrupt.is_set() {
                return Err(CliError::Failed("interrupted".into()));
            }
            if let Some(why) = load.hopeless() {
                return Err(CliError::Failed(why));
            }
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(BIN));
        }
        Ok(())
    }

    fn bins(&self, load: &Load, begin: Instant, interrupt: &Interrupt) -> Result<Vec<Bin>, CliError> {
        let count = self.sizes.seconds as u32 * 10;
        (0..count)
            .map(|i| {
                self.pause(begin + BIN * (i + 1), load, interrupt)?;
                let (latency_ns, errors) = load.take_bin();
                Ok(Bin::of(BIN * i, &latency_ns, errors))
            })
            .collect()
    }
}

/// When a replica wrote checkpoints, from `begin` on.
fn watch(client: &Client, id: ReplicaId, begin: Instant, stop: &AtomicBool) -> Vec<(Duration, Duration)> {
    let mut bands: Vec<(Duration, Duration)> = Vec::new();
    let (mut since, mut written_before) = (None, None);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let status = client.status(id, Some(STATUS_TIME)).ok();
        let status = status.and_then(|json| serde_json::from_str::<Value>(&json).ok());
        // The answer is as old as half of the time that it took.
        let at = (asked + asked.elapsed() / 2).saturating_duration_since(begin);
        if let Some(view) = status.as_ref().map(|status| &status["checkpoints"]) {
            let written = view["written"].as_u64();
            match (since, view["writing"].as_bool() == Some(true)) {
                (None, true) => since = Some(at),
                (Some(from), false) => {
                    bands.push((from, at));
                    since = None;
                }
                // It began and ended between two looks.
                (None, false) if written_before.is_some_and(|before| written > Some(before)) => {
                    let took = Duration::from_millis(view["write_ms"].as_u64().unwrap_or(0).max(1));
                    bands.push((at.saturating_sub(took), at));
                }
                _ => {}
            }
            written_before = written;
        }
        std::thread::sleep(LOOK);
    }
    bands.extend(since.map(|from| (from, begin.elapsed())));
    bands
}

// ---- judging: from the tables alone ----

/// The runs to be compared.
struct Group {
    state_mb: u64,
    load: String,
    runs: Vec<Measured>,
}

/// A run as the tables tell it.
struct Measured {
    way: String,
    ops_per_s: f64,
    p999_us: f64,
    /// Seconds, operations per second, and milliseconds: median and longest.
    bins: Vec<[f64; 4]>,
    /// Replica, seconds from and to.
    bands: Vec<(usize, f64, f64)>,
}

fn groups(tables: &Tables) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    for row in tables.runs.rows() {
        let (state_mb, load) = (row.number("state_mb")? as u64, row.text("load")?.to_owned());
        let key = ["state_mb", "load", "way"].map(|column| row.text(column));
        let same = |other: &Row| ["state_mb", "load", "way"].map(|column| other.text(column)) == key;
        let bins = tables.bins.rows().filter(&same).map(|bin| {
            let per_s = bin.number("operations")? / BIN.as_secs_f64();
            Ok([bin.number("at_ms")? / 1e3, per_s, bin.number("p50_us")? / 1e3, bin.number("max_us")? / 1e3])
        });
        let bands = tables.bands.rows().filter(&same).map(|band| {
            Ok((band.number("replica")? as usize, band.number("from_ms")? / 1e3, band.number("to_ms")? / 1e3))
        });
        let run = Measured {
            way: row.text("way")?.to_owned(),
            ops_per_s: row.number("ops_per_s")?,
            p999_us: row.number("p999_us")?,
            bins: bins.collect::<Result<_, String>>()?,
            bands: bands.collect::<Result<_, String>>()?,
        };
        match groups.iter_mut().find(|group| group.state_mb == state_mb && group.load == load) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { state_mb, load, runs: vec![run] }),
        }
    }
    Ok(groups)
}

/// Below this share of the usual throughput it is an outage.
const OUTAGE: f64 = 0.1;

impl Measured {
    /// Operations per second of the worst second; of all, if it took less.
    fn lowest_second(&self) -> f64 {
        let width = self.bins.len().clamp(1, 10);
        let windows =
            self.bins.windows(width).map(|bins| bins.iter().map(|bin| bin[1]).sum::<f64>() / width as f64);
        windows.reduce(f64::min).unwrap_or(0.0)
    }

    /// Seconds of the longest time in which less than a tenth of `usual` was answered.
    fn longest_outage(&self, usual: f64) -> f64 {
        let runs = self.bins.split(|bin| bin[1] >= OUTAGE * usual).map(<[_]>::len);
        runs.max().unwrap_or(0) as f64 * BIN.as_secs_f64()
    }

    fn median(&self) -> f64 {
        let mut values: Vec<f64> = self.bins.iter().map(|bin| bin[1]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    }

    /// Milliseconds that the slowest request took.
    fn longest_ms(&self) -> f64 {
        self.bins.iter().map(|bin| bin[3]).fold(0.0, f64::max)
    }

    /// The most replicas that wrote at a time.
    fn writers_max(&self) -> usize {
        let writers = |at: f64| self.bands.iter().filter(|(_, from, to)| (*from..*to).contains(&at)).count();
        self.bands.iter().map(|(_, from, _)| writers(*from)).max().unwrap_or(0)
    }

    fn json(&self) -> Value {
        json!({
            "way": self.way,
            "ops_per_s": self.ops_per_s,
            "lowest_second_ops_per_s": self.lowest_second(),
            "median_ops_per_s": self.median(),
            "p999_us": self.p999_us,
            "longest_ms": self.longest_ms(),
            "checkpoints": self.bands.len(),
            "writers_max": self.writers_max(),
        })
    }
}

/// What the group shows; nothing about runs that are not there.
fn verdicts(group: &Group) -> Vec<Verdict> {
    let run = |way: Way| group.runs.iter().find(|run| run.way == name_of(way));
    let [none, sync_stop, _, seq_stop, seq_copy] = WAYS.map(run);
    let Some(none) = none else { return Vec::new() };
    let of = format!("{} MB, {} load", group.state_mb, group.load);
    let mut verdicts = Vec::new();
    let mut say = |claim, paper, ours, holds| {
        verdicts.push(Verdict { of: of.clone(), claim, paper, ours, holds });
    };
    let usual = none.median();
    if let Some(run) = sync_stop {
        let outage = run.longest_outage(usual);
        say(
            "synchronized stop-the-world checkpoints stop the service (Figure 2)",
            "seconds without an answer at 1 GB",
            format!("{outage:.1} s without an answer, {} replicas write at a time", run.writers_max()),
            outage >= 2.0 * BIN.as_secs_f64(),
        );
    }
    if let (Some(run), Some(together)) = (seq_stop, sync_stop) {
        let (outage, other) = (run.longest_outage(usual), together.longest_outage(usual));
        let lowest = run.lowest_second() / none.lowest_second().max(1.0);
        say(
            "sequential checkpoints end the outage, even if each replica stops for its own (Figure 10)",
            "no outage; small dips at high load",
            format!(
                "{outage:.1} s instead of {other:.1} s; worst second {lowest:.3} of that without checkpoints"
            ),
            outage < 2.0 * BIN.as_secs_f64() && outage <= other,
        );
    }
    if let Some(run) = seq_copy {
        let lowest = run.lowest_second() / none.lowest_second().max(1.0);
        let longer = run.longest_ms() - none.longest_ms();
        let p999 = run.p999_us / none.p999_us.max(1.0);
        let paper = "dips while a replica catches up";
        let checkpoints = run.bands.len();
        say(
            "sequential copy-on-write: the worst second is at least 0.9 of that without checkpoints",
            paper,
            format!("{lowest:.3}, with {checkpoints} checkpoints written"),
            lowest >= 0.9 && checkpoints > 0,
        );
        say(
            "its slowest request takes at most 100 ms longer",
            paper,
            format!("{longer:+.0} ms"),
            longer <= 100.0,
        );
        say("its p99.9 is at most twice as long", paper, format!("{p999:.2} times"), p999 <= 2.0);
        say(
            "one replica writes at a time",
            "the period is chosen so",
            format!("{} at a time at most", run.writers_max()),
            run.writers_max() <= 1,
        );
    }
    verdicts
}

/// Throughput with bands, and latency below, for each way.
fn page(group: &Group) -> Page {
    let x_max =
        group.runs.iter().flat_map(|run| &run.bins).map(|bin| bin[0] + BIN.as_secs_f64()).fold(0.0, f64::max);
    let most = |of: usize| group.runs.iter().flat_map(|run| &run.bins).map(|bin| bin[of]).fold(0.0, f64::max);
    let (throughput_max, latency_max) = (most(1), most(3));
    let line = |run: &Measured, of: usize, name: &str| Series {
        name: name.into(),
        points: run.bins.iter().map(|bin| (bin[0], bin[of])).collect(),
    };
    let panels = group.runs.iter().flat_map(|run| {
        let bands = run.bands.iter().map(|(kind, from, to)| Band { kind: *kind, from: *from, to: *to });
        let throughput = Panel {
            title: run.way.clone(),
            y_label: "operations/s".into(),
            y_max: throughput_max,
            series: vec![line(run, 1, "throughput")],
            bands: bands.collect(),
        };
        let latency = Panel {
            y_label: "latency, ms".into(),
            y_max: latency_max,
            series: vec![line(run, 2, "median"), line(run, 3, "slowest")],
            ..Panel::default()
        };
        [throughput, latency]
    });
    Page {
        title: format!("Checkpoints of {} MB under {} load", group.state_mb, group.load),
        notes: vec![
            format!("4 replicas (Byzantine, f = 1), writes of {VALUE_BYTES} B, bins of 100 ms; bands: a replica writes a checkpoint"),
            "The durability paper, 1 GB: synchronized, the service halts for seconds (Figure 2); sequential, no outage (Figure 10)".into(),
        ],
        x_label: "seconds".into(),
        x_max,
        bands: (0..REPLICAS).map(|id| format!("replica {id} writes")).collect(),
        panels: panels.collect(),
    }
}

#[cfg(test)]
pub(super) fn judge(runs: &str, bins: &str, bands: &str) -> Result<(Vec<Verdict>, Vec<String>), String> {
    let tables = Tables { runs: Table::parse(runs)?, bins: Table::parse(bins)?, bands: Table::parse(bands)? };
    let groups = groups(&tables)?;
    Ok((groups.iter().flat_map(verdicts).collect(), groups.iter().map(|group| page(group).svg()).collect()))
}
