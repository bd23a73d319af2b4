//! `duramen figures transfer`: how long a state takes between four sites far apart.
//!
//! Source: "Geographic state transfer", Figures 4 (times by recovering site), 5 (sizes), 6 (when each source is finished) and 7 (hashing
//! beside reception), over links as its Table 1 has them. `equal` is the paper's CST, `cst` that of the durability paper (three thirds as
//! well), `adaptive` its proposal, `premeasured` the same with Table 1's weights. Differs: all sites are in this process and the links in
//! user space, without TCP's behaviour on long paths; the clock stops when all is checked and written, without the service's taking over.

mod judge;
mod measure;

use duramen::transfer::StrategyKind;

use super::super::{CliError, emit};
use super::csv::Table;
use super::{Files, Verdict, tell};
use judge::{Case, cases, chart, verdicts};
use measure::measure_all;

/// What is transferred, where and how often.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// The sites: A (far apart) or B (in one continent) [default: both]
    #[arg(long, value_name = "A|B", ignore_case = true, value_parser = ["A", "B"])]
    pub group: Option<String>,
    /// The site that lacks the state, or all in turn
    #[arg(long, value_name = "NAME|all", default_value = "all")]
    pub site: String,
    /// Who sends what
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["pull", "adaptive", "equal"])]
    pub strategy: Vec<StrategyKind>,
    /// The state's size [default: the scale's]
    #[arg(long)]
    pub mib: Option<u64>,
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 1)]
    pub rounds: u64,
    /// Links vary, by seeds that are the same for every strategy
    #[arg(long)]
    pub varying: bool,
    /// The widest link falls to a quarter on the way, then the narrowest becomes four times as wide
    #[arg(long, conflicts_with = "varying")]
    pub abrupt: bool,
    /// Table 1's bandwidths times this [default: the scale's]
    #[arg(long, value_name = "FACTOR")]
    pub bandwidth: Option<f64>,
    /// How much state, over which links
    #[arg(long, value_enum, default_value = "full")]
    pub scale: Scale,
    /// Where it works
    #[command(flatten)]
    files: Files,
}

/// How much state, over which links.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// 1000 MiB over Table 1's links: an hour for group A
    Full,
    /// 8 MiB at four times the bandwidth: seconds; round trips are most of the time
    Small,
    /// 1 MiB at forty times the bandwidth: only shows that it works
    Tiny,
}

impl Scale {
    /// MiB, and the bandwidth's factor.
    fn sizes(self) -> (u64, f64) {
        match self {
            Scale::Full => (1000, 1.0),
            Scale::Small => (8, 4.0),
            Scale::Tiny => (1, 40.0),
        }
    }
}

const RUNS: &str = "transfer-runs.csv";
const SOURCES: &str = "transfer-sources.csv";
const JSON: &str = "transfer.json";

/// One row per run.
fn runs_table() -> Table {
    Table::new(&[
        "group",
        "links",
        "bandwidth",
        "mib",
        "site",
        "strategy",
        "round",
        "seconds",
        "ideal_s",
        "fraction",
        "sent_over_needed",
        "first_finish_s",
        "last_finish_s",
        "first_chunk_s",
        "tail_ms",
        "hash_ms",
    ])
}

/// One row per run and source.
fn sources_table() -> Table {
    Table::new(&["group", "links", "mib", "site", "strategy", "round", "source", "bytes", "finish_s"])
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
    let table = Table::read(&args.files.out.join(RUNS)).map_err(CliError::Failed)?;
    let cases = cases(&table).map_err(CliError::Failed)?;
    for case in &cases {
        let file = args.files.out.join(format!("transfer-{}.svg", case.file_name()));
        std::fs::write(&file, chart(case).svg())?;
        emit(format_args!("figure     {}", file.display()))?;
    }
    let verdicts: Vec<Verdict> = cases.iter().flat_map(verdicts).collect();
    tell("transfer", &args.files.out.join(JSON), facts, cases.iter().map(Case::json).collect(), &verdicts)?;
    emit(format_args!("files      {}: {RUNS}, {SOURCES}, {JSON}", args.files.out.display()))
}

#[cfg(test)]
pub(super) fn judge(runs: &str) -> Result<(Vec<Verdict>, Vec<String>), String> {
    let cases = cases(&Table::parse(runs)?)?;
    Ok((cases.iter().flat_map(verdicts).collect(), cases.iter().map(|case| chart(case).svg()).collect()))
}
