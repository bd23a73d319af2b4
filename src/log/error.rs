//! What can go wrong, each in one line that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::types::{ClusterId, Lsn, ReplicaId};

/// Why a log cannot be created, opened, started or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process holds the directory.
    #[error("{0}: another process uses this log; stop it, or give each replica its own directory")]
    Locked(PathBuf),
    /// There are no segments.
    #[error(
        "{0}: no log here; for a new replica run `init`; if this replica ran before, its log is lost, and `duramen recover` lets it come back without it"
    )]
    NotFormatted(PathBuf),
    /// `format` on a directory that has a log.
    #[error("{0}: there is a log here already; choose another directory or remove it yourself")]
    AlreadyFormatted(PathBuf),
    /// The log belongs to another cluster.
    #[error(
        "{dir}: this log belongs to cluster {found}, the configuration names {expected}; use the right directory or configuration"
    )]
    WrongCluster {
        /// The log's directory.
        dir: PathBuf,
        /// In the log.
        found: ClusterId,
        /// In the options.
        expected: ClusterId,
    },
    /// The log belongs to another replica.
    #[error("{dir}: this log belongs to replica {found}, not {expected}; use that replica's directory")]
    WrongReplica {
        /// The log's directory.
        dir: PathBuf,
        /// In the log.
        found: ReplicaId,
        /// In the options.
        expected: ReplicaId,
    },
    /// Written by another version.
    #[error(
        "{file}: written in log format {found}, this program reads {known}; use the program that wrote it"
    )]
    OtherFormat {
        /// The segment.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Something that was durable is gone or changed. Nothing was truncated.
    #[error(
        "{file}: damaged at byte {offset}, behind lsn {lsn}: {why}; nothing was changed: restore this replica's log, or move it away and run `duramen recover`"
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Offset in the segment of the first byte that is not understood.
        offset: u64,
        /// The last good record before it.
        lsn: Lsn,
        /// What shows that this is no torn tail.
        why: Damage,
    },
    /// On a file system in memory.
    #[error(
        "{0}: on a file system in memory, where a power loss takes all; use a real disk, or --allow-tmpfs for a test"
    )]
    Tmpfs(PathBuf),
    /// The disk wants larger blocks than the format has.
    #[error(
        "{dir}: this disk needs direct I/O aligned to {needed} bytes, the log's blocks have 4096; use another disk"
    )]
    Alignment {
        /// The log's directory.
        dir: PathBuf,
        /// Required alignment.
        needed: u32,
    },
    /// The file system does not do direct I/O.
    #[error(
        "{0}: this file system refuses direct I/O (O_DIRECT); put the log on ext4, XFS or another that has it"
    )]
    NoDirectIo(PathBuf),
    /// The directory cannot be written.
    #[error("{0}: cannot be written (read-only, or not owned by this user); fix its owner, mode or mount")]
    ReadOnly(PathBuf),
    /// No space.
    #[error("{0}: the disk is full; free some space or move the log to a larger disk")]
    Full(PathBuf),
    /// io_uring was asked for by name and is not there.
    #[error("io_uring cannot be used: {0}; choose --io auto or --io threads")]
    NoUring(String),
    /// Impossible options.
    #[error("log options: {0}")]
    Options(String),
    /// The consumer of `open` refused a record.
    #[error("record {lsn} of the log: {why}")]
    Refused {
        /// The record.
        lsn: Lsn,
        /// The consumer's words.
        why: String,
    },
    /// `read` of a record that is not there (not yet durable, or recycled).
    #[error("record {0} is not in the log")]
    NotThere(Lsn),
    /// Any other failed operation.
    #[error("{path}: {what}: {source}")]
    Io {
        /// On what.
        path: PathBuf,
        /// Doing what.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// What shows that a bad place in the log is damage, not the torn end of the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A later record says that what is missing was durable.
    BelowDurable(Lsn),
    /// What lies behind the bad place is more than can have been in flight.
    TooLong {
        /// Log bytes behind the bad place.
        bytes: u64,
        /// Bytes that may have been in flight at once.
        limit: u64,
    },
    /// A segment header that had to be durable before its records cannot be read.
    SegmentHeader,
    /// A segment between others is missing.
    SegmentMissing(u64),
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BelowDurable(lsn) => write!(f, "records up to lsn {lsn} were durable"),
            Self::TooLong { bytes, limit } => {
                write!(f, "{bytes} bytes follow, at most {limit} can have been in flight")
            }
            Self::SegmentHeader => write!(f, "neither copy of the segment's header can be read"),
            Self::SegmentMissing(number) => write!(f, "segment {number} is missing"),
        }
    }
}

impl LogError {
    /// Names the cause where the errno has a plain meaning.
    pub(crate) fn io(path: &Path, what: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EROFS | libc::EACCES | libc::EPERM) => Self::ReadOnly(path.into()),
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full(path.into()),
            _ => Self::Io { path: path.into(), what, source },
        }
    }
}

/// The log's end: a write failed, so nothing is durable from here on.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "log segment {segment}, offset {offset}: {what} failed: {error}; this replica stops voting; check the disk, then restart it"
)]
pub struct LogFailed {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in it of the failed write.
    pub offset: u64,
    /// Which operation.
    pub what: &'static str,
    /// The system's answer.
    pub error: String,
    /// Its number, 0 if it has none.
    pub errno: i32,
}

impl LogFailed {
    /// What failed, without what it means for a replica.
    pub(crate) fn cause(&self) -> String {
        let Self { segment, offset, what, error, .. } = self;
        format!("segment {segment}, offset {offset}: {what} failed: {error}")
    }

    pub(super) fn new(segment: u64, offset: u64, what: &'static str, error: &io::Error) -> Self {
        Self { segment, offset, what, error: error.to_string(), errno: error.raw_os_error().unwrap_or(0) }
    }
}
