//! The durability mode that a replica's log is written in, on record beside the log.
//!
//! What a log proves depends on the mode: a log of votes without votes looks like one in which none were cast. So the mode is
//! written down before the log is formatted, and a start in another one is refused.

use crate::config::Durability;
use crate::data_dir;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The file, in a replica's folder.
fn file(replica_dir: &Path) -> PathBuf {
    replica_dir.join("durability")
}

/// What is on record; `None`: nothing, as in folders made before there was a record.
/// Errors: it cannot be read, or names no mode.
pub fn recorded(replica_dir: &Path) -> Result<Option<Durability>> {
    let path = file(replica_dir);
    let place = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(word) => match word.trim_end().parse() {
            Ok(mode) => Ok(Some(mode)),
            Err(e) => Err(Error::new(ErrorKind::InvalidData, place(&e))),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new(e.kind(), place(&e))),
    }
}

/// Puts the mode on record, durably, unless the same one is. Errors: another one is; the system's.
pub fn record(replica_dir: &Path, mode: Durability) -> Result<()> {
    match recorded(replica_dir)? {
        Some(found) if found == mode => Ok(()),
        Some(found) => Err(Error::new(ErrorKind::AlreadyExists, other(found, mode))),
        None => data_dir::write_durably(&file(replica_dir), format!("{mode}\n").as_bytes(), 0o644),
    }
}

/// Why a log written in one mode is not gone on with in another, and what to do.
pub fn other(found: Durability, configured: Durability) -> String {
    format!(
        "this replica's log was written with durability = \"{found}\", and cluster.toml says \"{configured}\": the mode cannot be changed after `init`: set it back to \"{found}\" on every machine, or make a new cluster with `duramen init --durability {configured}`"
    )
}
