//! `duramen figures`: the papers' figures, measured here.
//!
//! Each is measured into CSV files; pictures, JSON and verdicts come from reading those back, and from nothing else: `--again` does that
//! part alone.

mod checkpoint;
mod csv;
mod svg;

#[cfg(test)]
mod figures_tests;

use serde_json::{Value, json};

use super::{CliError, emit};

/// Which figure.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(subcommand)]
    figure: Figure,
}

/// What can be measured.
#[derive(clap::Subcommand, Debug, PartialEq)]
enum Figure {
    /// Throughput and latency while replicas write checkpoints: the durability paper's Figures 2 and 10
    Checkpoint(checkpoint::Args),
}

/// Measures and draws.
pub fn run(args: Args) -> Result<(), CliError> {
    match args.figure {
        Figure::Checkpoint(args) => checkpoint::run(args),
    }
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
