//! `duramen log`: looks at a replica's log while the replica does not run.

use std::path::PathBuf;

/// What to do with which log.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(subcommand)]
    pub action: Action,
}

/// One look at a log.
#[derive(clap::Subcommand, Debug, PartialEq)]
pub enum Action {
    /// Print every record's header, one line each
    Dump {
        /// The log's folder, such as duramen-data/replica-0/log
        dir: PathBuf,
    },
    /// Check every segment and record; name the first damage
    Verify {
        /// The log's folder, such as duramen-data/replica-0/log
        dir: PathBuf,
    },
}
