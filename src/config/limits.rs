//! The tables `[limits]`, `[log]` and `[checkpoint]`: every bound with unit, default, least and most.

use std::path::PathBuf;

use serde::Deserialize;

use super::REQUEST_OVERHEAD_BYTES;
use super::words::{CheckpointSchedule, LogDevice, LogIo, SnapshotKind};
use crate::checkpoint::schedule::Turns;
use crate::transfer::StrategyKind;

/// `[limits]`: bounds of the protocol. All members and clients must use the same values ([`Config::fingerprint`]).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes at which a batch closes, counted as encoded: operations, headers and authenticators. A larger single
    /// request makes a batch alone. Default 1,048,576 (1 MiB), minimum 4096, maximum 33,554,432 (32 MiB).
    pub batch_bytes: usize,
    /// Requests at which a batch closes. Default 4096, minimum 1, maximum 65,536.
    pub batch_requests: usize,
    /// Instances that may be in flight (proposed and undecided) at a time. Default 8, minimum 1, maximum `window / 2`.
    pub instances_open: u64,
    /// Slots above the stable mark that may be used. Default 256, minimum 2, maximum 65,536.
    pub window: u64,
    /// Slots from one mark to the next. Default 64, minimum 1, maximum `window / 2`.
    pub mark_interval: u64,
    /// Bytes of the operation in one request. Default 4,194,304 (4 MiB), minimum 1024, maximum 33,554,432 (32 MiB).
    pub request_bytes: usize,
    /// Milliseconds by which a proposed time may differ from a follower's clock. Default 10,000, minimum 100, maximum
    /// 86,400,000 (one day).
    pub clock_skew_ms: u64,
    /// Sessions one client key may hold; opening another evicts its oldest. Default 1024, minimum 1, maximum 65,536.
    pub sessions_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_bytes: 1 << 20,
            batch_requests: 4096,
            instances_open: 8,
            window: 256,
            mark_interval: 64,
            request_bytes: 4 << 20,
            clock_skew_ms: 10_000,
            sessions_per_client: 1024,
        }
    }
}

impl Limits {
    /// Bytes of the largest valid batch as encoded: one request may be larger than `batch_bytes`.
    pub fn largest_batch_bytes(&self) -> usize {
        self.batch_bytes.max(self.request_bytes + REQUEST_OVERHEAD_BYTES)
    }
}

/// `[log]`: the log on each replica's disk. Replicas may differ here; a segment's size is fixed by `init`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogLimits {
    /// MiB of one segment file. Default 64, minimum 1, maximum 2048; it must hold the largest batch and 1 MiB more.
    pub segment_mib: u64,
    /// MiB all segments may take together; when they are full, the log takes no new work and says so. Default 32,768
    /// (32 GiB), minimum 4 segments, maximum 16,777,216 (16 TiB).
    pub bytes_max_mib: u64,
    /// How writes reach the disk.
    pub io: LogIo,
    /// What the disk is made out to be: for comparisons with the durability paper.
    pub device: LogDevice,
    /// Group writes submitted and not completed at a time. Default 4, minimum 1, maximum 64.
    pub writes_in_flight: u32,
    /// KiB at which a group write closes. Default 1024, minimum 4, maximum 1024, a multiple of 4.
    pub group_kib: u64,
    /// Segments kept ready, filled with zeros, ahead of the one being written. Default 2, minimum 1; with the one
    /// being written they must fit into `bytes_max_mib`.
    pub spare_segments: u32,
    /// Segments that must be ready before a replica says that it has started: for benchmarks. Default 0; with the one
    /// being written they must fit into `bytes_max_mib`.
    pub prefill_segments: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            segment_mib: 64,
            bytes_max_mib: 32 << 10,
            io: LogIo::Auto,
            device: LogDevice::Real,
            writes_in_flight: 4,
            group_kib: 1024,
            spare_segments: 2,
            prefill_segments: 0,
        }
    }
}

impl LogLimits {
    /// Bytes of one segment file.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_mib << 20
    }

    /// Bytes all segments may take together.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max_mib << 20
    }

    /// Bytes at which a group write closes.
    pub fn group_bytes(&self) -> usize {
        (self.group_kib as usize) << 10
    }
}

/// `[checkpoint]`: what bounds the log. Replicas may differ here, but only equal periods and schedules keep them from writing at the
/// same time.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointLimits {
    /// Slots from one checkpoint of a replica to its next, rounded down to what turns and marks divide. Default 20,000; 0: none are
    /// taken, and the log grows until it is full.
    pub period: u64,
    /// Who writes when.
    pub schedule: CheckpointSchedule,
    /// Replicas that write at the same time in the sequential schedule. Default 1, minimum 1, maximum f.
    pub group: u32,
    /// What execution does meanwhile.
    pub snapshot: SnapshotKind,
    /// MiB per second that writing one takes of the disk; 0 (the default): as much as there is.
    pub mib_per_second: u64,
    /// Files of one checkpoint at most: one with all pages of the state, and on top of it some with the pages that changed. 1: every
    /// checkpoint has all pages. Default 8, maximum 32.
    pub full_every: u32,
    /// MiB of the log that stay for others that are behind, though checkpoints cover them; at most half of what the log may
    /// take. A replica that lacks more than all others keep cannot catch up. Default 16,384 (16 GiB).
    pub log_keep_mib: u64,
    /// A folder on another disk, in which each replica's checkpoints get a folder of their own; empty (the default): beside the log.
    pub dir: PathBuf,
}

impl Default for CheckpointLimits {
    fn default() -> Self {
        Self {
            period: 20_000,
            schedule: CheckpointSchedule::Sequential,
            group: 1,
            snapshot: SnapshotKind::CopyOnWrite,
            mib_per_second: 0,
            full_every: 8,
            log_keep_mib: 16 << 10,
            dir: PathBuf::new(),
        }
    }
}

impl CheckpointLimits {
    /// As the schedule takes it.
    pub fn turns(&self) -> Turns {
        match self.schedule {
            CheckpointSchedule::Sequential => Turns::Sequential { group: self.group },
            CheckpointSchedule::Synchronized => Turns::Synchronized,
        }
    }
}

/// `[transfer]`: how a replica that lacks the state fetches it, and what it may cost the others. Replicas may differ here.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferLimits {
    /// Who sends what: `pull` (default), `adaptive`, `cst`, `equal`, `premeasured`, `single` or `whole-hash`.
    #[serde(deserialize_with = "strategy")]
    pub strategy: StrategyKind,
    /// Milliseconds between two allocations of `adaptive`. Default 1000, minimum 10, maximum 60,000.
    pub interval_ms: u64,
    /// How much the leader sends, in percent of what others send on average; 0: nothing unless it is alone; below 100, `single` takes it
    /// last. Default 25.
    pub leader_percent: u32,
    /// `pull` takes pages compressed (LZ4), where the sender finds that it pays. Default true.
    pub compress: bool,
    /// MiB per second that a replica sends to all that fetch from it; 0 (the default): as much as they take.
    pub mib_per_second: u64,
    /// While places take longer than they did before a transfer began, a replica sends less, but not less than so many MiB per second, so
    /// that the transfer ends. Default 8, maximum 1,048,576; 0: it does not yield.
    pub yield_floor_mib: u64,
    /// Nothing is offered while more requests than this are executed per second; 0 (the default): a transfer waits for nothing.
    pub postpone_above: u64,
    /// And after so many seconds it is offered all the same. Default 300, maximum 86,400.
    pub postpone_seconds: u64,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            strategy: StrategyKind::Pull,
            interval_ms: 1000,
            leader_percent: 25,
            compress: true,
            mib_per_second: 0,
            yield_floor_mib: 8,
            postpone_above: 0,
            postpone_seconds: 300,
        }
    }
}

fn strategy<'de, D: serde::Deserializer<'de>>(from: D) -> Result<StrategyKind, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}
