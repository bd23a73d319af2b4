//! [sans-I/O] What goes in the next write, and what is durable when writes end, also out of order.
//!
//! The happy path: records queue up while writes are in flight; when a slot is free, everything queued is packed into
//! one aligned buffer, padded to the block and written. A record larger than a buffer spans several writes.
//! What can happen else: writes end out of order (only the contiguous prefix counts), one fails (nothing behind it ever
//! counts), the segment has no room for the next record (the caller rotates).

use std::collections::VecDeque;

use bytes::Bytes;

use super::layout::{
    BLOCK_BYTES, Chain, DATA_START, HEADER_BYTES, RecordHeader, SegmentHeader, align_up, chain_after,
    record_bytes,
};
use super::options::Record;
use super::segments::Spare;
use crate::types::Lsn;

/// A record that has its place in the order. The log's own carry the lsn before them.
pub(super) struct Queued {
    pub lsn: Lsn,
    pub record: Record,
}

impl Queued {
    pub fn bytes(&self) -> usize {
        record_bytes(self.record.payload_bytes())
    }

    /// The most it takes on disk: alone in its group.
    pub fn room_bytes(&self) -> usize {
        align_up(self.bytes(), BLOCK_BYTES)
    }
}

/// Where the log ends, and how it goes on.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// The last record.
    pub lsn: Lsn,
    /// Chain value behind it.
    pub chain: Chain,
    pub boot_epoch: u32,
    /// Number of the segment.
    pub segment: u64,
    pub salt: u64,
    /// Log bytes before this segment.
    pub start: u64,
    /// Where the next write goes in the segment: a block boundary.
    pub offset: usize,
    pub segment_bytes: usize,
}

impl End {
    /// Log bytes written so far.
    pub fn log_bytes(&self) -> u64 {
        self.start + (self.offset - DATA_START) as u64
    }

    /// Bytes left in the segment.
    pub fn left(&self) -> usize {
        self.segment_bytes - self.offset
    }

    /// Goes on in a new segment, whose header is returned; `of` gives it the owner and the in-flight limit.
    pub fn rotate(&mut self, salt: u64, spare: &Spare, of: &SegmentHeader, durable: Lsn) -> SegmentHeader {
        assert!(spare.number == self.segment + 1, "spares are numbered in order");
        let segment_bytes = spare.file.bytes() as usize;
        self.start = self.log_bytes();
        self.segment += 1;
        self.salt = salt;
        self.offset = DATA_START;
        self.segment_bytes = segment_bytes;
        SegmentHeader {
            number: self.segment,
            salt,
            first_lsn: self.lsn.next(),
            start: self.start,
            durable_lsn: durable,
            life: spare.life,
            chain: self.chain,
            segment_bytes: segment_bytes as u64,
            ..*of
        }
    }
}

/// What [`Packer::fill`] made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    /// Where in the segment it goes.
    pub offset: u64,
    /// Whole blocks; 0 = nothing to write.
    pub bytes: usize,
    /// The last record that ends in it, if one does.
    pub ends: Option<Lsn>,
    /// The first record of the caller that starts in it, if one does.
    pub starts: Option<Lsn>,
    /// Records that start in it.
    pub records: usize,
    /// Queue bytes taken.
    pub taken_bytes: usize,
    /// What they would have taken each alone in a group.
    pub taken_room: usize,
    /// The next record needs another segment.
    pub segment_full: bool,
}

/// Packs records into writes.
pub(super) struct Packer {
    pub end: End,
    /// A record larger than a write, and how much of it is written.
    spanning: Option<(Lsn, [u8; HEADER_BYTES], Vec<Bytes>, usize)>,
}

impl Packer {
    pub fn new(end: End) -> Self {
        Self { end, spanning: None }
    }

    /// Whether a started record still has bytes to write.
    pub fn is_spanning(&self) -> bool {
        self.spanning.is_some()
    }

    /// Packs as much of `queue` into `buffer` as goes in.
    pub fn fill(&mut self, queue: &mut VecDeque<Queued>, buffer: &mut [u8], durable: Lsn) -> Filled {
        let mut filled = Filled {
            offset: self.end.offset as u64,
            bytes: 0,
            ends: None,
            starts: None,
            records: 0,
            taken_bytes: 0,
            taken_room: 0,
            segment_full: false,
        };
        let mut at = self.fill_spanning(buffer, &mut filled);
        while self.spanning.is_none() {
            let Some(next) = queue.front() else { break };
            let bytes = next.bytes();
            if self.end.offset + at + bytes > self.end.segment_bytes {
                filled.segment_full = true;
                break;
            }
            // A record that fits in one write is not spread over two: the next write starts with it.
            if at > 0 && at + bytes > buffer.len() {
                break;
            }
            let queued = queue.pop_front().expect("it was there");
            filled.records += 1;
            filled.taken_bytes += bytes;
            filled.taken_room += queued.room_bytes();
            if queued.record.kind < super::layout::KIND_BOOT {
                filled.starts.get_or_insert(queued.lsn);
            }
            let header = self.header(&queued, durable);
            if bytes <= buffer.len() - at {
                copy_from(&header, &queued.record.payload, 0, &mut buffer[at..at + bytes]);
                filled.ends = Some(queued.lsn);
                at += bytes;
            } else {
                self.spanning = Some((queued.lsn, header, queued.record.payload, 0));
                at = self.fill_spanning(buffer, &mut filled);
            }
        }
        filled.bytes = align_up(at, BLOCK_BYTES);
        buffer[at..filled.bytes].fill(0);
        self.end.offset += filled.bytes;
        filled
    }

    /// Continues a spanning record at the start of `buffer`; returns the bytes used.
    fn fill_spanning(&mut self, buffer: &mut [u8], filled: &mut Filled) -> usize {
        let Some((lsn, header, payload, written)) = &mut self.spanning else { return 0 };
        let total = record_bytes(payload.iter().map(Bytes::len).sum());
        let n = buffer.len().min(total - *written);
        copy_from(header, payload, *written, &mut buffer[..n]);
        *written += n;
        if *written == total {
            filled.ends = Some(*lsn);
            self.spanning = None;
        }
        n
    }

    fn header(&mut self, queued: &Queued, durable: Lsn) -> [u8; HEADER_BYTES] {
        let record = &queued.record;
        let mut crc = 0;
        for part in &record.payload {
            crc = crc32c::crc32c_append(crc, part);
        }
        let header = RecordHeader {
            kind: record.kind,
            payload_bytes: record.payload_bytes() as u32,
            payload_crc: crc,
            lsn: queued.lsn,
            seq: record.seq,
            view: record.view,
            durable_lsn: durable,
            salt: self.end.salt,
            boot_epoch: self.end.boot_epoch,
            chain: self.end.chain,
            digest: record.digest,
        };
        let bytes = header.encode();
        self.end.chain = chain_after(&bytes);
        self.end.lsn = queued.lsn;
        bytes
    }
}

/// Fills `to` with the bytes of a record from `from` on: header, payload parts, zeros.
fn copy_from(header: &[u8], payload: &[Bytes], mut from: usize, to: &mut [u8]) {
    let mut at = 0;
    for part in std::iter::once(header).chain(payload.iter().map(|part| &part[..])) {
        if from >= part.len() {
            from -= part.len();
            continue;
        }
        let n = (part.len() - from).min(to.len() - at);
        to[at..at + n].copy_from_slice(&part[from..from + n]);
        at += n;
        from = 0;
    }
    to[at..].fill(0);
}

/// Writes in flight in submission order; knows the longest contiguous durable prefix.
pub(super) struct Prefix {
    writes: VecDeque<(u64, bool, Option<Lsn>)>,
    next_id: u64,
    pub durable: Lsn,
}

impl Prefix {
    pub fn new(durable: Lsn) -> Self {
        Self { writes: VecDeque::new(), next_id: 0, durable }
    }

    /// A write starts in which the records up to `ends` end. Returns its id.
    pub fn started(&mut self, ends: Option<Lsn>) -> u64 {
        self.next_id += 1;
        self.writes.push_back((self.next_id, false, ends));
        self.next_id
    }

    /// A write is durable. Returns the new prefix if it grew.
    pub fn completed(&mut self, id: u64) -> Option<Lsn> {
        let first = self.writes.front().expect("a write that completes has started").0;
        let write = &mut self.writes[(id - first) as usize];
        assert!(write.0 == id && !write.1, "a write completes once");
        write.1 = true;
        let before = self.durable;
        while let Some((_, true, ends)) = self.writes.front() {
            if let Some(lsn) = ends {
                assert!(*lsn >= self.durable, "the prefix only grows");
                self.durable = *lsn;
            }
            self.writes.pop_front();
        }
        (self.durable > before).then_some(self.durable)
    }

    /// Writes from the first incomplete one on, complete ones behind it included.
    pub fn span(&self) -> usize {
        self.writes.len()
    }

    /// Whether the write has not yet ended.
    pub fn is_pending(&self, id: u64) -> bool {
        self.writes.iter().any(|w| w.0 == id && !w.1)
    }
}
