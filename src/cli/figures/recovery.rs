//! `duramen figures recovery`: what a client sees while a replica that lost its disk gets the state from the others.
//!
//! Source: Dura-SMaRt (ATC'13), Figures 3 (with a state from one replica, a quarter of the throughput for half a minute) and 11 (from all).
//! `single` is the paper's PBFT-like transfer. Differs: normal is the same load on the replicas that are left, just before; a recovery
//! ends when the replica votes again; the log that is kept is about twice the state, but what follows the certified state in it comes
//! through the agreement's sockets; replicas and client share this machine.

mod judge;
mod measure;

use std::path::Path;
use std::time::Duration;

use duramen::transfer::StrategyKind;

use super::super::{CliError, emit};
use super::csv::Table;
use super::tell;
use super::{Files, Verdict};
use judge::{Group, Measured, groups, page, verdicts};
use measure::measure_all;

/// How much, and where.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// How much state and time
    #[arg(long, value_enum, default_value = "full")]
    pub scale: Scale,
    /// Who sends what
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["single", "pull"])]
    pub strategy: Vec<StrategyKind>,
    /// Sizes of the group: 4 (f = 1), 7 (f = 2) [default: the scale's]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(4..=10))]
    pub replicas: Vec<u32>,
    /// Sizes of the state in MB (10^6 bytes of values) [default: the scale's]
    #[arg(long, value_name = "MB", value_delimiter = ',')]
    pub state: Vec<u64>,
    /// Who sends: the others first and the leader little, or the leader as any other [default: others; of 7 replicas both]
    #[arg(long, value_enum, value_name = "WHO", value_delimiter = ',')]
    pub from: Vec<From>,
    /// MiB per second that a replica sends at least, however much it yields to the agreement; 0: it does not yield
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [8])]
    pub floor: Vec<u64>,
    /// Writes per second, by a clock: a load that leaves room for the recovery on a shared machine [default: as many as are answered]
    #[arg(long, value_name = "OPS", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 1)]
    pub rounds: u64,
    /// Seconds before the kill, without the replica, and after it is back [default: the scale's]
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
    /// The paper's states, 500 MB and 1 GB, and both groups: about half an hour
    Full,
    /// 64 MB, four replicas: about two minutes
    Small,
    /// 4 MB: only shows that it works
    Tiny,
}

/// Who sends the state.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum From {
    /// The leader is the last to be asked, and sends least
    Others,
    /// The leader is asked as any other; by `single` first
    Leader,
}

impl From {
    fn name(self) -> &'static str {
        match self {
            From::Others => "others",
            From::Leader => "leader",
        }
    }
}

/// Sizes of a scale.
struct Sizes {
    replicas: Vec<u32>,
    states_mb: Vec<u64>,
    /// Of each part in which nothing happens.
    seconds: u64,
    /// Between two checkpoints of one replica.
    checkpoint_s: f64,
    mark_interval: u64,
    sessions: u32,
    outstanding: u32,
    segment_mib: u64,
    /// A recovery may take so long.
    patience: Duration,
}

const VALUE_BYTES: usize = 4096;
const BIN: Duration = Duration::from_millis(100);

impl Scale {
    fn sizes(self) -> Sizes {
        match self {
            Scale::Full => Sizes {
                replicas: vec![4, 7],
                states_mb: vec![500, 1000],
                seconds: 10,
                checkpoint_s: 30.0,
                mark_interval: 16,
                sessions: 8,
                outstanding: 100,
                segment_mib: 64,
                patience: Duration::from_secs(300),
            },
            Scale::Small => Sizes {
                replicas: vec![4],
                states_mb: vec![64],
                seconds: 4,
                checkpoint_s: 6.0,
                mark_interval: 8,
                sessions: 8,
                outstanding: 100,
                segment_mib: 16,
                patience: Duration::from_secs(90),
            },
            Scale::Tiny => Sizes {
                replicas: vec![4],
                states_mb: vec![4],
                seconds: 1,
                checkpoint_s: 1.0,
                mark_interval: 4,
                sessions: 4,
                outstanding: 20,
                segment_mib: 8,
                patience: Duration::from_secs(60),
            },
        }
    }
}

impl Sizes {
    /// Log that stays although checkpoints cover it: twice the state, as in the paper.
    fn keep_mib(&self, state_mb: u64) -> u64 {
        2 * state_mb
    }

    /// All of a log.
    fn log_mib(&self, state_mb: u64) -> u64 {
        (4 * state_mb + 512).max(8 * self.segment_mib)
    }

    /// What one run may take of the disk: log, two checkpoints and one that is written, on each replica.
    fn bytes_max(&self) -> u64 {
        let state_mb = self.states_mb.iter().max().copied().unwrap_or(0);
        let replicas = u64::from(self.replicas.iter().max().copied().unwrap_or(4));
        replicas * ((self.log_mib(state_mb) << 20) + 3 * state_mb * 1_000_000)
    }
}

const RUNS: &str = "recovery-runs.csv";
const BINS: &str = "recovery-bins.csv";
const BANDS: &str = "recovery-bands.csv";
const LOOKS: &str = "recovery-looks.csv";
const JSON: &str = "recovery.json";

/// A run by name, in all tables.
const KEY: [&str; 6] = ["replicas", "state_mb", "strategy", "from", "floor_mib", "round"];

/// The tables.
struct Tables {
    /// One row per run.
    runs: Table,
    /// One row per run and tenth of a second.
    bins: Table,
    /// One row per run and span of time: what happens.
    bands: Table,
    /// One row per run and look at the replica that recovers.
    looks: Table,
}

impl Tables {
    fn new() -> Tables {
        let table = |more: &[&str]| Table::new(&[&KEY[..], more].concat());
        Tables {
            runs: table(&["transfer_ms", "transfer_bytes", "sources", "lowered", "recovered", "errors"]),
            bins: table(&["at_ms", "operations", "p50_us", "p99_us", "max_us"]),
            bands: table(&["what", "from_ms", "to_ms"]),
            looks: table(&["at_ms", "received_bytes", "bound_bytes_per_s"]),
        }
    }

    fn write(&self, out: &Path) -> std::io::Result<()> {
        self.runs.write(&out.join(RUNS))?;
        self.bins.write(&out.join(BINS))?;
        self.bands.write(&out.join(BANDS))?;
        self.looks.write(&out.join(LOOKS))
    }

    fn read(out: &Path) -> Result<Tables, String> {
        let read = |name: &str| Table::read(&out.join(name));
        Ok(Tables { runs: read(RUNS)?, bins: read(BINS)?, bands: read(BANDS)?, looks: read(LOOKS)? })
    }
}

/// Measures unless told to look again, then draws and judges.
pub fn run(args: Args) -> Result<(), CliError> {
    let mut facts = None;
    let mut interrupted = None;
    if !args.files.again {
        if cfg!(debug_assertions) && args.scale != Scale::Tiny {
            return Err(CliError::Failed(
                "a debug build says nothing about speed: use `cargo run --release -- figures …`, or --scale tiny".into(),
            ));
        }
        std::fs::create_dir_all(&args.files.out)?;
        let (said, ended) = measure_all(&args)?;
        facts = Some(said);
        interrupted = ended.err();
    }
    let tables = Tables::read(&args.files.out).map_err(CliError::Failed)?;
    let groups = groups(&tables).map_err(CliError::Failed)?;
    for group in &groups {
        let file = args.files.out.join(format!("recovery-{}.svg", group.file_name()));
        std::fs::write(&file, page(group).svg())?;
        emit(format_args!("figure     {}", file.display()))?;
    }
    let verdicts: Vec<Verdict> = groups.iter().flat_map(verdicts).collect();
    let runs = groups.iter().flat_map(|group: &Group| &group.runs).map(Measured::json).collect();
    tell("recovery", &args.files.out.join(JSON), facts, runs, &verdicts)?;
    emit(format_args!("files      {}: {RUNS}, {BINS}, {BANDS}, {LOOKS}, {JSON}", args.files.out.display()))?;
    interrupted.map_or(Ok(()), Err)
}

#[cfg(test)]
pub(super) fn judge(tables: [&str; 4]) -> Result<(Vec<Verdict>, Vec<String>), String> {
    let [runs, bins, bands, looks] = tables.map(Table::parse);
    let tables = Tables { runs: runs?, bins: bins?, bands: bands?, looks: looks? };
    let groups = groups(&tables)?;
    Ok((groups.iter().flat_map(verdicts).collect(), groups.iter().map(|group| page(group).svg()).collect()))
}
