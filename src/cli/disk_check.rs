//! `duramen disk-check`: what synchronous writes cost on a disk.

use std::path::PathBuf;

/// Which disk, and how to print it.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// A folder on the disk to measure
    pub dir: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
