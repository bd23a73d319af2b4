//! `duramen demo`: four replicas, load, kills, restarts, and the proof that nothing was lost.

use std::path::PathBuf;

/// How much, and where.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// How much load
    #[arg(long, value_enum, default_value = "small")]
    pub scale: Scale,
    /// A folder to work in; on a real disk [default: a new one in the current folder]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Work on a tmpfs too, and label the result: it survives no power loss
    #[arg(long)]
    pub allow_tmpfs: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Sizes of the demonstration.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Under a minute
    Small,
}

pub fn run(_: Args) -> Result<(), super::CliError> {
    unimplemented!()
}
