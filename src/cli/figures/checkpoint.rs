//! `duramen figures checkpoint`: what a client sees while replicas write checkpoints.
//!
//! Source: Dura-SMaRt (ATC'13), Figures 2 (synchronized checkpoints halt the service for seconds) and 10 (sequential ones do not; small dips
//! at high load). Differs: a period of places (batches) is chosen so that each replica writes twice in the measured time, at smaller scales
//! three times, by the rate of a run without checkpoints, where the paper took 200,000 requests; the disk is this machine's, which all
//! replicas share.

mod judge;
mod measure;

use std::path::Path;
use std::time::Duration;

use duramen::config::{CheckpointSchedule, SnapshotKind};

use super::super::{CliError, emit};
use super::csv::Table;
use super::{Files, Verdict, tell};
use judge::{Measured, groups, page, verdicts};
use measure::measure_all;

/// How much, and where.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// How much state and time
    #[arg(long, value_enum, default_value = "full")]
    pub scale: Scale,
    /// Sizes of the state in MB (10^6 bytes of values) [default: the scale's]
    #[arg(long, value_name = "MB", value_delimiter = ',')]
    pub state: Vec<u64>,
    /// Seconds to measure each run [default: the scale's]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Where it works
    #[command(flatten)]
    files: Files,
    /// Work on a tmpfs too, and label the result
    #[arg(long)]
    pub allow_tmpfs: bool,
}

/// How much state and time.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// The papers' states, 500 MB and 1 GB: about three quarters of an hour
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
    /// Each replica writes so often in the measured time,
    checkpoints: u64,
    /// and once before it: a replica whose states and checkpoints are the first ones takes its memory from the system meanwhile, which
    /// costs more than anything else.
    settles: bool,
    /// Places between marks, which checkpoints are taken at.
    mark_interval: u64,
    sessions: u32,
    outstanding: u32,
    segment_mib: u64,
}

const REPLICAS: u32 = 4;
const VALUE_BYTES: usize = 4096;
const BIN: Duration = Duration::from_millis(100);

impl Scale {
    fn sizes(self) -> Sizes {
        let (states_mb, seconds, warmup, checkpoints) = match self {
            Scale::Full => (vec![500, 1000], 60, Duration::from_secs(5), 2),
            Scale::Small => (vec![40], 6, Duration::from_secs(1), 3),
            Scale::Tiny => (vec![4], 1, Duration::from_millis(200), 3),
        };
        let settles = self == Scale::Full;
        let mark_interval = if self == Scale::Full { 64 } else { 8 };
        let (sessions, outstanding) = if self == Scale::Tiny { (4, 20) } else { (8, 100) };
        let segment_mib = if self == Scale::Full { 64 } else { 16 };
        Sizes {
            states_mb,
            seconds,
            warmup,
            checkpoints,
            settles,
            mark_interval,
            sessions,
            outstanding,
            segment_mib,
        }
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
    let mut facts = None;
    if !args.files.again {
        if cfg!(debug_assertions) && args.scale != Scale::Tiny {
            return Err(CliError::Failed(
                "a debug build says nothing about speed: use `cargo run --release -- figures …`, or --scale tiny".into(),
            ));
        }
        std::fs::create_dir_all(&args.files.out)?;
        facts = Some(measure_all(&args)?);
    }
    let tables = Tables::read(&args.files.out).map_err(CliError::Failed)?;
    let groups = groups(&tables).map_err(CliError::Failed)?;
    for group in &groups {
        let file = args.files.out.join(format!("checkpoint-{}mb-{}.svg", group.state_mb, group.load));
        std::fs::write(&file, page(group).svg())?;
        emit(format_args!("figure     {}", file.display()))?;
    }
    let verdicts: Vec<Verdict> = groups.iter().flat_map(verdicts).collect();
    let runs = groups.iter().flat_map(|group| &group.runs).map(Measured::json).collect();
    tell("checkpoint", &args.files.out.join(JSON), facts, runs, &verdicts)?;
    emit(format_args!("files      {}: {RUNS}, {BINS}, {BANDS}, {JSON}", args.files.out.display()))
}

#[cfg(test)]
pub(super) fn judge(runs: &str, bins: &str, bands: &str) -> Result<(Vec<Verdict>, Vec<String>), String> {
    let tables = Tables { runs: Table::parse(runs)?, bins: Table::parse(bins)?, bands: Table::parse(bands)? };
    let groups = groups(&tables)?;
    Ok((groups.iter().flat_map(verdicts).collect(), groups.iter().map(|group| page(group).svg()).collect()))
}
