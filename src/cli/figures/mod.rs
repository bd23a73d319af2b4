//! `duramen figures`: the papers' figures, measured here.
//!
//! Each is measured into CSV files; pictures, JSON and verdicts come from reading those back, and from nothing else: `--again` does that
//! part alone.

mod bars;
mod checkpoint;
mod csv;
mod ground;
mod recovery;
mod svg;
mod transfer;

#[cfg(test)]
mod figures_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod transfer_tests;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CliError, emit};

/// Which figure.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(subcommand)]
    figure: Figure,
}

/// Where a figure works.
#[derive(clap::Args, Debug, PartialEq)]
struct Files {
    /// Where the files go
    #[arg(long, value_name = "DIR", default_value = "figures")]
    out: PathBuf,
    /// A folder to work in, on the disk to measure
    #[arg(long, default_value = "./duramen-figures")]
    dir: PathBuf,
    /// Measure nothing: draw and judge what the CSV files in --out say
    #[arg(long)]
    again: bool,
}

/// What can be measured.
#[derive(clap::Subcommand, Debug, PartialEq)]
enum Figure {
    /// Throughput and latency while replicas write checkpoints: the durability paper's Figures 2 and 10
    Checkpoint(checkpoint::Args),
    /// Throughput while a replica that lost its disk recovers: the durability paper's Figures 3 and 11
    Recovery(recovery::Args),
    /// Time of a state's transfer between sites far apart: the geographic paper's Figures 4 to 7
    Transfer(transfer::Args),
}

/// Measures and draws.
pub fn run(args: Args) -> Result<(), CliError> {
    match args.figure {
        Figure::Checkpoint(args) => checkpoint::run(args),
        Figure::Recovery(args) => recovery::run(args),
        Figure::Transfer(args) => transfer::run(args),
    }
}

/// Prints the verdicts, and writes `file` with them, the runs, and what the run was: `None` as it stands there, for it is in no table.
fn tell(
    figure: &str,
    file: &Path,
    facts: Option<Value>,
    runs: Vec<Value>,
    verdicts: &[Verdict],
) -> Result<(), CliError> {
    for verdict in verdicts {
        verdict.print()?;
    }
    let before = || serde_json::from_str::<Value>(&std::fs::read_to_string(file).ok()?).ok();
    let facts = facts.or_else(|| Some(before()?["run"].clone()));
    let verdicts: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
    let all = json!({ "figure": figure, "run": facts, "runs": runs, "verdicts": verdicts });
    Ok(std::fs::write(file, format!("{all:#}\n"))?)
}

/// What a figure shows, beside what the paper says.
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    /// Of which part of the figure.
    of: String,
    /// What is asked.
    claim: &'static str,
    /// The paper's value.
    paper: &'static str,
    /// Ours.
    ours: String,
    /// Whether it is as claimed.
    holds: bool,
}

impl Verdict {
    fn print(&self) -> Result<(), CliError> {
        let Verdict { of, claim, paper, ours, holds } = self;
        let word = if *holds { "holds" } else { "DOES NOT HOLD" };
        emit(format_args!("verdict    {of}: {claim}: {word}\n           ours: {ours}; the paper: {paper}"))
    }

    fn json(&self) -> Value {
        let Verdict { of, claim, paper, ours, holds } = self;
        json!({ "of": of, "claim": claim, "paper": paper, "ours": ours, "holds": holds })
    }
}
