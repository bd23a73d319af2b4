//! `duramen start`: one replica, or all of them as child processes.

use duramen::config::LogIo;

use super::{DirArg, InsecureArg, word};

/// Which replicas to run, and how.
#[derive(clap::Args, Debug, PartialEq)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct Args {
    #[command(flatten)]
    pub dir: DirArg,
    /// Run this replica
    #[arg(long, value_name = "I", group = "which")]
    pub replica: Option<u32>,
    /// Run all replicas of the cluster on this machine
    #[arg(long, group = "which")]
    pub all: bool,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// How log writes reach the disk [default: as cluster.toml says]
    #[arg(long, value_parser = word::<LogIo>(LogIo::WORDS))]
    pub io: Option<LogIo>,
}
