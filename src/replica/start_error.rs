//! Why a replica does not start: one line each, with what to do.

use super::promise;
use crate::checkpoint::CheckpointError;
use crate::config::Durability;
use crate::keys::KeyError;
use crate::log::LogError;
use crate::net::NetError;
use crate::order::restore::RestoreError;
use crate::types::*;
use std::path::PathBuf;

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has no such replica.
    #[error("the configuration names replicas 0 to {last}; there is no replica {id}")]
    NoSuchReplica {
        /// Asked for.
        id: ReplicaId,
        /// The last there is.
        last: u32,
    },
    /// The configuration does not allow this.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// `new_era` where nothing is ever forgotten.
    #[error(
        "--new-era is for durability modes that keep no votes; with \"vote\" nothing is forgotten: start without it"
    )]
    NothingForgotten,
    /// The log was written in another mode.
    #[error("{}: {}", dir.display(), promise::other(*recorded, *configured))]
    OtherDurability {
        /// The replica's folder.
        dir: PathBuf,
        /// In the folder.
        recorded: Durability,
        /// In the configuration.
        configured: Durability,
    },
    /// The directory was made for another mode, before there was a record of it.
    #[error(
        "{}: this replica was made {} a log of decisions, and cluster.toml says durability = \"{configured}\": the mode cannot be changed after `init`",
        dir.display(),
        if *found { "with" } else { "without" }
    )]
    OtherLogs {
        /// The replica's folder.
        dir: PathBuf,
        /// Whether there is a log of decisions.
        found: bool,
        /// In the configuration.
        configured: Durability,
    },
    /// A restart in mode `none`.
    #[error(
        "durability \"none\" keeps nothing on disk, so this replica cannot come back: the others go on without it; `init` makes a new cluster"
    )]
    NothingKept,
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the log says.
    #[error(
        "{dir}: {why}; nothing was changed: restore this replica's log, or move it away and run `duramen recover`"
    )]
    Restore {
        /// The log's directory.
        dir: PathBuf,
        /// What is wrong.
        why: RestoreError,
    },
    /// A checkpoint that leads to nothing else than the log it does not fit, or none that can be read where one is needed.
    #[error("{}: {why}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: CheckpointError,
    },
    /// The sockets.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Threads or random numbers.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
}
