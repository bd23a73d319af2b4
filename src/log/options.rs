//! What the caller gives: records and options.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::device::Device;
use super::error::LogError;
use super::layout::{BLOCK_BYTES, DATA_START, KIND_BOOT, RECORD_BYTES_CAP, align_up, record_bytes};
use super::progress::Progress;
use crate::types::{ClusterId, Digest, Lsn, ReplicaId, Seq, View};

/// A record to append. The log stores `kind`, `seq`, `view` and `digest` and never looks at them.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The caller's, 1..=239.
    pub kind: u8,
    /// Place in the order, if it has one.
    pub seq: Seq,
    /// View, if it has one.
    pub view: View,
    /// The caller's digest of the payload; not computed and not checked here.
    pub digest: Digest,
    /// Stored one behind the other; copied once, on the log thread.
    pub payload: Vec<Bytes>,
}

impl Record {
    /// Sum over the parts.
    pub fn payload_bytes(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }

    pub(super) fn check_kind(&self) {
        assert!(self.kind > 0 && self.kind < KIND_BOOT, "record kinds are 1..=239");
    }
}

/// A record read back: its bytes are as they were appended (checksum verified).
#[derive(Clone, PartialEq, Eq)]
pub struct ScannedRecord {
    /// Its number.
    pub lsn: Lsn,
    /// As appended.
    pub kind: u8,
    /// As appended.
    pub seq: Seq,
    /// As appended.
    pub view: View,
    /// As appended.
    pub digest: Digest,
    /// All parts in one. Shares a read buffer of about 1 MiB: keep it long only together with its neighbours.
    pub payload: Bytes,
}

/// A record that was durable and of which only the header is what was appended (checksum and chain verified).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedRecord {
    /// Number of its segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// The header's fields hold; not to be believed is the payload, of the right length, which something else must prove.
    pub record: ScannedRecord,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, seq, view, digest, .. } = self;
        write!(f, "kind {kind} seq {seq} view {view} {digest:?} {} bytes", self.payload_bytes())
    }
}

impl fmt::Debug for ScannedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lsn, kind, seq, view, digest, payload } = self;
        write!(f, "lsn {lsn} kind {kind} seq {seq} view {view} {digest:?} {} bytes", payload.len())
    }
}

/// Which way writes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IoBackend {
    /// io_uring if a probe succeeds, else [`IoBackend::Threads`].
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// pwritev2(RWF_DSYNC), one write at a time on the log thread.
    Threads,
}

/// How a log is laid out and driven. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The log's own directory.
    pub dir: PathBuf,
    /// Must be the one it was formatted for.
    pub cluster: ClusterId,
    /// Must be the one it was formatted for.
    pub replica: ReplicaId,
    /// Size of new segment files, a multiple of 4096.
    pub segment_bytes: u64,
    /// All segments together, spares included.
    pub bytes_max: u64,
    /// Segments kept ready: as many are filled with zeros ahead of need.
    pub spare_segments: usize,
    /// Recycled segments kept ready above that, because they need no filling; more of them are removed.
    pub recycled_segments: usize,
    /// Segments that must be ready before `start` returns (benchmarks); fewer on a full disk, with a warning.
    pub prefill_segments: usize,
    /// One write, a multiple of 4096, at most 1 MiB.
    pub group_bytes_max: usize,
    /// Writes from the first incomplete one on.
    pub writes_in_flight_max: usize,
    /// Largest payload.
    pub record_bytes_max: usize,
    /// Appended, but not yet in a write.
    pub queued_bytes_max: usize,
    /// Backend.
    pub io: IoBackend,
    /// A device to emulate; every output beside its figures says so.
    pub device: Option<Arc<Device>>,
    /// Accept a file system in memory (tests).
    pub allow_tmpfs: bool,
    /// Told how much of the log has been read while it is opened.
    pub progress: Arc<Progress>,
}

impl LogOptions {
    /// The defaults.
    pub fn new(dir: impl Into<PathBuf>, cluster: ClusterId, replica: ReplicaId) -> Self {
        Self {
            dir: dir.into(),
            cluster,
            replica,
            segment_bytes: 64 << 20,
            bytes_max: 32 << 30,
            spare_segments: 2,
            recycled_segments: 8,
            prefill_segments: 0,
            group_bytes_max: 1 << 20,
            writes_in_flight_max: 4,
            record_bytes_max: 16 << 20,
            queued_bytes_max: 64 << 20,
            io: IoBackend::Auto,
            device: None,
            allow_tmpfs: false,
            progress: Arc::default(),
        }
    }

    /// Bytes that may be in flight at once: what a crash can tear.
    pub(super) fn in_flight_bytes(&self) -> u64 {
        (self.group_bytes_max * self.writes_in_flight_max) as u64
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        let refuse = |why: String| Err(LogError::Options(why));
        let block = BLOCK_BYTES as u64;
        if !self.segment_bytes.is_multiple_of(block) || self.segment_bytes > 1 << 31 {
            return refuse("segment_bytes must be a multiple of 4096 and at most 2 GiB".into());
        }
        if self.group_bytes_max == 0
            || !self.group_bytes_max.is_multiple_of(BLOCK_BYTES)
            || self.group_bytes_max > 1 << 20
        {
            return refuse("group_bytes_max must be a multiple of 4096 and at most 1 MiB".into());
        }
        if !(1..=64).contains(&self.writes_in_flight_max) {
            return refuse("writes_in_flight_max must be 1..=64".into());
        }
        let largest = align_up(record_bytes(self.record_bytes_max), BLOCK_BYTES) + DATA_START;
        if self.record_bytes_max > RECORD_BYTES_CAP || largest as u64 > self.segment_bytes * 3 / 4 {
            return refuse(format!(
                "record_bytes_max is {}: at most {RECORD_BYTES_CAP}, and well below a segment's {} bytes",
                self.record_bytes_max, self.segment_bytes
            ));
        }
        if self.queued_bytes_max < record_bytes(self.record_bytes_max) {
            return refuse("queued_bytes_max must hold the largest record".into());
        }
        if self.bytes_max < 2 * self.segment_bytes {
            return refuse(
                "bytes_max must hold two segments: the last one is kept for control records".into(),
            );
        }
        if crate::sys::file_bytes_limit() < self.segment_bytes {
            return refuse("segment_bytes is above this process's file size limit (ulimit -f)".into());
        }
        Ok(())
    }
}
