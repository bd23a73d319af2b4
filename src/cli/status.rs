//! `duramen status`: what each replica says of itself.

use super::{DirArg, InsecureArg};

/// Whom to ask, and how to print it.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub dir: DirArg,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}
