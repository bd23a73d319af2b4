//! Reading single records back while the log runs, to serve peers that lack them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::error::LogError;
use super::layout::{BLOCK_BYTES, HEADER_BYTES, RecordHeader, SegmentHeader, align_up};
use super::options::ScannedRecord;
use super::scan::read_range;
use super::segments::{Leaving, segment_name};
use super::storage::DiskFile;
use crate::types::Lsn;

/// One index entry per so many bytes: 8 MiB of memory for 32 GiB of log.
const ENTRY_BYTES: usize = 64 << 10;

/// Where the records of one segment are, sparsely.
pub(super) struct SegmentIndex {
    number: u64,
    salt: u64,
    pub first_lsn: Lsn,
    life: u64,
    file: Arc<dyn DiskFile>,
    /// Cloned by each reader while it reads.
    readers: Arc<()>,
    /// (lsn, offset): walking from the offset, the next record of the caller is `lsn`.
    entries: Vec<(Lsn, u32)>,
}

impl SegmentIndex {
    pub fn new(header: &SegmentHeader, file: Arc<dyn DiskFile>) -> Self {
        let SegmentHeader { number, salt, first_lsn, life, .. } = *header;
        Self { number, salt, first_lsn, life, file, readers: Arc::default(), entries: Vec::new() }
    }

    /// No longer in the index.
    pub fn leave(self) -> Leaving {
        let Self { number, life, file, readers, .. } = self;
        Leaving { number, file, life, readers }
    }

    /// Size of the file.
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Notes a record unless one nearby is noted.
    pub fn add(&mut self, lsn: Lsn, offset: usize) {
        if self.entries.last().is_none_or(|(_, last)| *last as usize + ENTRY_BYTES <= offset) {
            self.add_forced(lsn, offset);
        }
    }

    /// Notes a place behind which a walk from further ahead could take the wrong turn: a cut tail lies before it.
    pub fn add_forced(&mut self, lsn: Lsn, offset: usize) {
        self.entries.push((lsn, offset as u32));
    }
}

/// All segments in use.
pub(super) struct Index {
    pub segments: RwLock<Vec<SegmentIndex>>,
    /// The last durable record: none above it is served.
    pub durable: AtomicU64,
}

impl Index {
    /// The oldest record, or the number that it will get.
    pub fn first_lsn(&self) -> Lsn {
        self.segments.read().first().expect("a segment is in use").first_lsn
    }

    /// The first record of the newest segments that together take at least `bytes`; [`Lsn`] 0 if all of them take less.
    pub fn keep_from(&self, bytes: u64) -> Lsn {
        let segments = self.segments.read();
        let mut kept = 0;
        let enough = segments.iter().rev().find(|segment| {
            kept += segment.bytes();
            kept >= bytes
        });
        enough.map_or(Lsn(0), |segment| segment.first_lsn)
    }

    /// Whether somebody is reading in the segment of a record.
    #[cfg(test)]
    pub fn is_read(&self, lsn: Lsn) -> bool {
        let segments = self.segments.read();
        let at = segments.partition_point(|s| s.first_lsn <= lsn) - 1;
        Arc::strong_count(&segments[at].readers) > 1
    }
}

/// Reads durable records; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct LogReader {
    pub(super) index: Arc<Index>,
    pub(super) dir: Arc<std::path::Path>,
}

impl LogReader {
    /// The first record of the newest segments that together take at least `bytes`; [`Lsn`] 0 if all of them take less.
    pub fn keep_from(&self, bytes: u64) -> Lsn {
        self.index.keep_from(bytes)
    }

    /// The durable record `lsn`, read from disk (one direct read of about 64 KiB, plus the record if it is larger).
    /// Errors: [`LogError::NotThere`] above the durable prefix or before the oldest segment, [`LogError::Io`].
    pub fn read(&self, lsn: Lsn) -> Result<ScannedRecord, LogError> {
        if lsn.0 == 0 || lsn.0 > self.index.durable.load(Ordering::Acquire) {
            return Err(LogError::NotThere(lsn));
        }
        let (file, _reading, salt, number, from, first) = {
            let segments = self.index.segments.read();
            let at = segments.partition_point(|s| s.first_lsn <= lsn).checked_sub(1);
            let segment = at.map(|at| &segments[at]).ok_or(LogError::NotThere(lsn))?;
            let entry = segment.entries.partition_point(|(l, _)| *l <= lsn).checked_sub(1);
            let (first, from) = entry.map(|entry| segment.entries[entry]).ok_or(LogError::NotThere(lsn))?;
            let reading = segment.readers.clone();
            (segment.file.clone(), reading, segment.salt, segment.number, from as usize, first)
        };
        let io = |e| LogError::io(&self.dir.join(segment_name(number)), "read", e);
        let damaged = |offset: usize| LogError::Damaged {
            file: self.dir.join(segment_name(number)),
            offset: offset as u64,
            lsn: Lsn(lsn.0 - 1),
            why: super::error::Damage::BelowDurable(lsn),
        };
        let end = file.bytes() as usize;
        let mut window = Window { file: &*file, start: 0, bytes: bytes::Bytes::new() };
        let mut expected = first;
        let mut at = from;
        while at + HEADER_BYTES <= end {
            let header = |w: &mut Window<'_>, at| -> Result<Option<RecordHeader>, LogError> {
                let bytes = w.get(at, HEADER_BYTES, end).map_err(io)?;
                let is_next = |h: &RecordHeader| {
                    h.salt == salt && if h.is_own() { h.lsn.next() == expected } else { h.lsn == expected }
                };
                Ok(RecordHeader::decode(&bytes).ok().filter(is_next))
            };
            let record = match header(&mut window, at)? {
                Some(record) => record,
                None if at.is_multiple_of(BLOCK_BYTES) => return Err(damaged(at)),
                None => {
                    at = align_up(at, BLOCK_BYTES);
                    if at + HEADER_BYTES > end {
                        break;
                    }
                    header(&mut window, at)?.ok_or_else(|| damaged(at))?
                }
            };
            if !record.is_own() {
                if record.lsn == lsn {
                    let bytes = record.payload_bytes as usize;
                    let payload = window.get(at + HEADER_BYTES, bytes, end).map_err(io)?;
                    if crc32c::crc32c(&payload) != record.payload_crc {
                        return Err(damaged(at));
                    }
                    return Ok(scanned(&record, payload));
                }
                expected = expected.next();
            }
            at += record.bytes();
        }
        Err(damaged(at))
    }

    /// The oldest record that was not recycled. Another may be the oldest by the time it is read.
    pub fn first_lsn(&self) -> Lsn {
        self.index.first_lsn()
    }

    /// The last durable record.
    pub fn durable(&self) -> Lsn {
        Lsn(self.index.durable.load(Ordering::Acquire))
    }
}

pub(super) fn scanned(record: &RecordHeader, payload: bytes::Bytes) -> ScannedRecord {
    ScannedRecord {
        lsn: record.lsn,
        kind: record.kind,
        seq: record.seq,
        view: record.view,
        digest: record.digest,
        payload,
    }
}

struct Window<'a> {
    file: &'a dyn DiskFile,
    start: usize,
    bytes: bytes::Bytes,
}

impl Window<'_> {
    fn get(&mut self, at: usize, bytes: usize, end: usize) -> std::io::Result<bytes::Bytes> {
        if at < self.start || at + bytes > self.start + self.bytes.len() {
            let want = bytes.max(ENTRY_BYTES + BLOCK_BYTES).min(end - at);
            self.bytes = read_range(self.file, at, want)?;
            self.start = at;
        }
        if at + bytes > self.start + self.bytes.len() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.bytes.slice(at - self.start..at - self.start + bytes))
    }
}
