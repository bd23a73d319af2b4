//! Reads all segments at start: streams the records that survive and finds what lies behind the last of them.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};

use super::buffers::AlignedBuffer;
use super::error::{Damage, LogError};
use super::group::End;
use super::layout::{
    BLOCK_BYTES, BootPayload, Chain, DATA_START, FORMAT, HEADER_BYTES, KIND_BOOT, NotAHeader, RECORD_ALIGN,
    RECORD_MAGIC, RecordHeader, SegmentHeader, align_up, chain_after, is_zero,
};
use super::progress::Progress;
use super::reader::SegmentIndex;
use super::recovery::{Findings, Verdict, judge};
use super::segments::{Spare, segment_name, segment_number};
use super::storage::{Disk, DiskFile};
use crate::types::{ClusterId, Lsn, ReplicaId};

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
}

/// What a scan leaves for `start`.
pub(super) struct Scan {
    pub findings: Findings,
    pub verdict: Verdict,
    /// Where the log goes on once the suffix is cut; `boot_epoch` is the highest seen.
    pub end: End,
    /// Exact end of the last good record in its segment.
    pub tail: u64,
    /// Bytes of the last segment that must become zero: from the block behind the tail to here.
    pub zero_to: usize,
    /// Header of the last segment.
    pub header: SegmentHeader,
    /// Segments with records, the last one included.
    pub segments: Vec<SegmentIndex>,
    /// A copy of the last segment's header that must be written again: its place in the file.
    pub lost_copy: Option<usize>,
    /// Ready, numbered behind the last one.
    pub spares: Vec<Spare>,
    /// Files behind the tail that are no good as spares.
    pub discard: Vec<String>,
    /// Of the oldest segment.
    pub first_lsn: Lsn,
    pub records: u64,
    /// Of those, handed out without their payload.
    pub rotten: u64,
    pub log_bytes: u64,
}

struct Opened {
    number: u64,
    name: String,
    file: Arc<dyn DiskFile>,
    header: Result<SegmentHeader, NotAHeader>,
    /// Where a copy of the header lies that differs from it.
    lost_copy: Option<usize>,
}

/// What stands behind a record's header.
pub(super) enum Payload {
    /// What was written.
    Whole(Bytes),
    /// Something else, in a record that was durable.
    Rotten(Bytes),
}

/// One good record: its header, payload and place.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&RecordHeader, Payload, Place) -> Result<(), LogError>;

/// Scans all of `disk`. `sync`: make sure first that what is read is durable (a crashed process leaves written but
/// unsynced names, and a decision on data that a power loss can still take would be wrong). `repairs`: records of the caller of
/// which only the payload rotted are handed out as such, and the scan goes on behind them; otherwise it ends there.
pub(super) fn scan(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    expect: Option<(ClusterId, ReplicaId)>,
    sync: bool,
    repairs: bool,
    progress: &Progress,
    sink: Sink<'_>,
) -> Result<Scan, LogError> {
    let opened = open_all(disk, dir, sync)?;
    // Spares have no header of their own.
    progress.begin(opened.iter().filter(|o| o.header.is_ok()).map(|o| o.file.bytes()).sum());
    let first = opened.first().ok_or_else(|| LogError::NotFormatted(dir.into()))?;
    check_owner(&opened, dir, expect)?;
    let damaged = |segment: &Opened, offset: u64, lsn, why| LogError::Damaged {
        file: dir.join(&segment.name),
        offset,
        lsn,
        why,
    };
    let Ok(header) = first.header else { return Err(damaged(first, 0, Lsn(0), Damage::SegmentHeader)) };

    // Segments before it left only when it held a durable record.
    let first_durable = if header.number > 1 { header.first_lsn } else { Lsn(0) };
    let first_number = header.number;
    let mut walk = Walk {
        chunks: Chunks::new(opened.iter().map(|o| o.file.clone()).collect()),
        opened: &opened,
        dir,
        lsn: Lsn(header.first_lsn.0.saturating_sub(1)),
        chain: header.chain,
        boot_epoch: 0,
        in_flight_bytes: u64::from(header.in_flight_bytes),
        durable: header.durable_lsn.max(first_durable),
        unfinished_bytes: 0,
        records: 0,
        rotten: 0,
        repairs,
        segments: Vec::new(),
        progress,
        passed: 0,
    };
    let first_lsn = header.first_lsn;
    let mut at = 0;
    let mut header = header;
    let tail = loop {
        let tail = walk.segment(at, &opened[at], &header, sink)?;
        match opened.get(at + 1).map(|next| next.header) {
            Some(Ok(next)) if walk.continues(&header, &next) => {
                walk.durable = walk.durable.max(next.durable_lsn);
                walk.in_flight_bytes = u64::from(next.in_flight_bytes);
                header = next;
                at += 1;
            }
            _ => break tail,
        }
    };

    progress.end();
    let last = &opened[at];
    let mut suffix = Suffix { durable: walk.durable, boot_epoch: walk.boot_epoch, ..Suffix::default() };
    let io = |e| LogError::io(&dir.join(&last.name), "read", e);
    let found_to = suffix.rest_of(&*last.file, &header, tail).map_err(io)?;
    suffix.bytes = (found_to - tail) as u64;
    // Writes in flight start at the block behind the tail, or within the record that is begun there.
    let before_writes = align_up(tail, BLOCK_BYTES) - tail + walk.unfinished_bytes;
    let limit = walk.in_flight_bytes + before_writes as u64;
    let tail_position = header.start + (tail - DATA_START) as u64;
    let used = first_number..=header.number;
    suffix.later(&opened[at + 1..], used, tail_position, walk.lsn, walk.in_flight_bytes).map_err(io)?;

    let findings = Findings {
        last: walk.lsn,
        durable: suffix.durable,
        suffix_bytes: suffix.bytes,
        in_flight_bytes: limit,
        header_lost: suffix.header_lost,
        missing: suffix.missing,
    };
    let end = End {
        lsn: walk.lsn,
        chain: walk.chain,
        boot_epoch: suffix.boot_epoch,
        segment: header.number,
        salt: header.salt,
        start: header.start,
        offset: align_up(tail, BLOCK_BYTES),
        segment_bytes: last.file.bytes() as usize,
    };
    Ok(Scan {
        verdict: judge(&findings),
        findings,
        tail: tail as u64,
        lost_copy: last.lost_copy,
        zero_to: align_up(found_to, BLOCK_BYTES).max(end.offset),
        log_bytes: end.log_bytes(),
        end,
        header,
        segments: walk.segments,
        spares: suffix.spares,
        discard: suffix.discard,
        first_lsn,
        records: walk.records,
        rotten: walk.rotten,
    })
}

impl Scan {
    /// The refusal, if the log is damaged.
    pub fn damage(&self, dir: &Path) -> Result<(), LogError> {
        let Verdict::Damaged(why) = self.verdict else { return Ok(()) };
        let file = dir.join(segment_name(self.end.segment));
        Err(LogError::Damaged { file, offset: self.tail, lsn: self.findings.last, why })
    }
}

fn open_all(disk: &Arc<dyn Disk>, dir: &Path, sync: bool) -> Result<Vec<Opened>, LogError> {
    let mut names = disk.list().map_err(|e| LogError::io(dir, "list", e))?;
    names.retain(|name| segment_number(name).is_some());
    names.sort_unstable_by_key(|name| segment_number(name));
    if sync {
        disk.sync_dir().map_err(|e| LogError::io(dir, "sync", e))?;
    }
    let open = |name: String| {
        let path = dir.join(&name);
        let file = disk.open(&name).map_err(|e| LogError::io(&path, "open", e))?;
        if sync {
            file.sync().map_err(|e| LogError::io(&path, "sync", e))?;
        }
        let number = segment_number(&name).expect("only segments are left");
        let mut bytes = AlignedBuffer::new(DATA_START);
        let header = if file.bytes() < (DATA_START + BLOCK_BYTES) as u64 {
            Err(NotAHeader::Bad)
        } else {
            file.read(&mut bytes, 0).map_err(|e| LogError::io(&path, "read", e))?;
            SegmentHeader::decode_both(&bytes, number)
        };
        let lost_copy = header.ok().and_then(|header| {
            [0, BLOCK_BYTES]
                .into_iter()
                .find(|at| SegmentHeader::decode(&bytes[*at..*at + BLOCK_BYTES]) != Ok(header))
        });
        Ok(Opened { number, name, file, header, lost_copy })
    };
    names.into_iter().map(open).collect()
}

fn check_owner(
    opened: &[Opened],
    dir: &Path,
    expect: Option<(ClusterId, ReplicaId)>,
) -> Result<(), LogError> {
    for segment in opened {
        match (segment.header, expect) {
            (Err(NotAHeader::OtherFormat(found)), _) => {
                return Err(LogError::OtherFormat {
                    file: dir.join(&segment.name),
                    found,
                    known: u32::from(FORMAT),
                });
            }
            (Ok(header), Some((expected, _))) if header.cluster != expected => {
                return Err(LogError::WrongCluster { dir: dir.into(), found: header.cluster, expected });
            }
            (Ok(header), Some((_, expected))) if header.replica != expected => {
                return Err(LogError::WrongReplica { dir: dir.into(), found: header.replica, expected });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The good records, in order.
struct Walk<'a> {
    chunks: Chunks,
    opened: &'a [Opened],
    dir: &'a Path,
    lsn: Lsn,
    chain: Chain,
    boot_epoch: u32,
    in_flight_bytes: u64,
    durable: Lsn,
    /// Bytes of a record whose header stands at the tail without its payload: several writes, of which some may have
    /// ended long before the crash.
    unfinished_bytes: usize,
    records: u64,
    rotten: u64,
    repairs: bool,
    segments: Vec<SegmentIndex>,
    progress: &'a Progress,
    /// Bytes of the segments before.
    passed: u64,
}

impl Walk<'_> {
    fn continues(&self, header: &SegmentHeader, next: &SegmentHeader) -> bool {
        next.number == header.number + 1 && next.first_lsn == self.lsn.next() && next.chain == self.chain
    }

    /// Walks the records of one segment; returns the exact end of the last good one.
    fn segment(
        &mut self,
        index: usize,
        segment: &Opened,
        header: &SegmentHeader,
        sink: Sink<'_>,
    ) -> Result<usize, LogError> {
        let mut entries = SegmentIndex::new(header, segment.file.clone());
        let mut at = DATA_START;
        loop {
            let next = match self.candidate(index, segment, header, at)? {
                Some(found) => Some(found),
                // Behind the last record of a group lies padding, or what a cut left in the tail's block.
                None if at.is_multiple_of(BLOCK_BYTES) => None,
                None => self.candidate(index, segment, header, align_up(at, BLOCK_BYTES))?,
            };
            let Some((offset, record, bytes, whole)) = next else { break };
            if record.kind == KIND_BOOT {
                self.boot_epoch = record.boot_epoch;
                if let Ok((boot, _)) = zerocopy::FromBytes::read_from_prefix(&bytes[HEADER_BYTES..]) {
                    let BootPayload { in_flight_bytes } = boot;
                    self.in_flight_bytes = in_flight_bytes.get();
                }
                entries.add_forced(record.lsn.next(), offset);
            } else if !record.is_own() {
                entries.add(record.lsn, offset);
            }
            self.lsn = record.lsn;
            self.durable = self.durable.max(record.durable_lsn);
            self.chain = chain_after(bytes[..HEADER_BYTES].try_into().expect("a header's length"));
            self.records += u64::from(!record.is_own());
            self.rotten += u64::from(!whole);
            at = offset + record.bytes();
            let payload = bytes.slice(HEADER_BYTES..);
            let payload = if whole { Payload::Whole(payload) } else { Payload::Rotten(payload) };
            sink(&record, payload, Place { segment: segment.number, offset: offset as u64 })?;
            self.progress.reach(self.passed + at as u64);
        }
        self.passed += segment.file.bytes();
        self.segments.push(entries);
        Ok(at)
    }

    /// The record at `at`, header and payload, if it is the next one and intact, or, where that is asked for, rotten.
    fn candidate(
        &mut self,
        index: usize,
        segment: &Opened,
        header: &SegmentHeader,
        at: usize,
    ) -> Result<Option<(usize, RecordHeader, Bytes, bool)>, LogError> {
        let io = |e| LogError::io(&self.dir.join(&segment.name), "read", e);
        let segment_bytes = segment.file.bytes() as usize;
        if at + HEADER_BYTES > segment_bytes {
            return Ok(None);
        }
        let bytes = self.chunks.get(index, at, HEADER_BYTES).map_err(io)?;
        let record = match RecordHeader::decode(&bytes) {
            Ok(record) => record,
            // One of an earlier life is nobody's concern.
            Err(NotAHeader::OtherFormat(found)) if RecordHeader::has_salt(&bytes, header.salt) => {
                let file = self.dir.join(&segment.name);
                return Err(LogError::OtherFormat { file, found, known: u32::from(FORMAT) });
            }
            Err(_) => return Ok(None),
        };
        let lsn = if record.is_own() { self.lsn } else { self.lsn.next() };
        let is_next = record.salt == header.salt && record.lsn == lsn && record.chain == self.chain;
        let epoch_fits = record.boot_epoch == self.boot_epoch
            || record.boot_epoch > self.boot_epoch && record.kind == KIND_BOOT;
        // The oldest segment may have lost its boot record's segment: the first record then tells the epoch.
        let first = self.records == 0 && self.segments.is_empty() && self.boot_epoch == 0;
        if !is_next || !(epoch_fits || first) || at + record.bytes() > segment_bytes {
            return Ok(None);
        }
        self.boot_epoch = if first { record.boot_epoch } else { self.boot_epoch };
        let bytes = self.chunks.get(index, at, HEADER_BYTES + record.payload_bytes as usize).map_err(io)?;
        let intact = crc32c::crc32c(&bytes[HEADER_BYTES..]) == record.payload_crc;
        let known = intact || self.is_rotten(index, header, at, &record, &bytes).map_err(io)?;
        self.unfinished_bytes = if known { 0 } else { record.bytes() };
        Ok(known.then_some((at, record, bytes, intact)))
    }

    /// Whether a record of the caller whose payload is not what was written is one that was durable, so that no write tore it: a header
    /// that the chain leads to from its own says so. What a cut left in the tail's block may chain, too, but was all written before any of it was
    /// durable; and headers of what was written there later, which know more, do not chain to it.
    fn is_rotten(
        &self,
        index: usize,
        header: &SegmentHeader,
        at: usize,
        record: &RecordHeader,
        bytes: &[u8],
    ) -> io::Result<bool> {
        if !self.repairs || record.is_own() {
            return Ok(false);
        }
        let after = |bytes: &[u8]| chain_after(bytes[..HEADER_BYTES].try_into().expect("a header's length"));
        let (mut index, mut segment, mut end) = (index, *header, at + record.bytes());
        let (mut chain, mut lsn) = (after(bytes), record.lsn);
        loop {
            let segment_bytes = self.opened[index].file.bytes() as usize;
            let mut next = None;
            for place in [end, align_up(end, BLOCK_BYTES)] {
                if next.is_none() && place + HEADER_BYTES <= segment_bytes {
                    let bytes = self.chunks.direct(index, place, HEADER_BYTES)?;
                    let follows = RecordHeader::decode(&bytes).ok();
                    let follows = follows.filter(|f| f.salt == segment.salt && f.chain == chain);
                    next = follows.map(|follows| (place, follows, after(&bytes)));
                }
            }
            let durable = match next {
                Some((place, follows, after)) => {
                    (end, chain, lsn) = (place + follows.bytes(), after, follows.lsn);
                    follows.durable_lsn
                }
                None => {
                    let follows = self.opened.get(index + 1).and_then(|opened| opened.header.ok());
                    let fits = |f: &SegmentHeader| {
                        f.number == segment.number + 1 && f.chain == chain && f.first_lsn == lsn.next()
                    };
                    let Some(follows) = follows.filter(fits) else { return Ok(false) };
                    (index, segment, end) = (index + 1, follows, DATA_START);
                    follows.durable_lsn
                }
            };
            if durable >= record.lsn {
                return Ok(true);
            }
        }
    }
}

/// What lies behind the last good record.
#[derive(Default)]
struct Suffix {
    durable: Lsn,
    boot_epoch: u32,
    /// From the tail to the end of what was found, in log bytes.
    bytes: u64,
    header_lost: bool,
    missing: Option<u64>,
    discard: Vec<String>,
    spares: Vec<Spare>,
}

impl Suffix {
    /// Looks through a segment from `from` on; returns where what it found ends (`from` if there is nothing).
    fn rest_of(&mut self, file: &dyn DiskFile, header: &SegmentHeader, from: usize) -> io::Result<usize> {
        const PIECE: usize = 1 << 20;
        let end = file.bytes() as usize;
        let mut found_to = from;
        let mut buffer = AlignedBuffer::new((PIECE + BLOCK_BYTES).min(end));
        let mut at = from / BLOCK_BYTES * BLOCK_BYTES;
        while at < end {
            // One block more than the step: a header may lie across.
            let bytes = (PIECE + BLOCK_BYTES).min(end - at);
            file.read(&mut buffer[..bytes], at as u64)?;
            let start = from.saturating_sub(at);
            let piece = &buffer[start..bytes];
            if !is_zero(piece) {
                // In a file that was never recycled whatever is not zero was written in this life. In one that was, only
                // a header tells: what is torn without one looks shorter than it was.
                if header.life == 0 {
                    let last = piece.iter().rposition(|&b| b != 0).expect("it is not zero");
                    found_to = found_to.max(at + start + last + 1);
                }
                for offset in (0..piece.len()).step_by(RECORD_ALIGN) {
                    if !piece[offset..].starts_with(&RECORD_MAGIC) {
                        continue;
                    }
                    let Ok(record) = RecordHeader::decode(&piece[offset..]) else { continue };
                    if record.salt == header.salt {
                        // Not to its payload's end: that may be in a write that never started.
                        found_to = found_to.max(at + start + offset + HEADER_BYTES);
                        self.durable = self.durable.max(record.durable_lsn);
                        self.boot_epoch = self.boot_epoch.max(record.boot_epoch);
                    }
                }
            }
            at += PIECE;
        }
        Ok(found_to)
    }

    /// Looks at the segments behind those with good records, which have the numbers `used`.
    fn later(
        &mut self,
        segments: &[Opened],
        used: RangeInclusive<u64>,
        tail_position: u64,
        lsn: Lsn,
        limit: u64,
    ) -> io::Result<()> {
        let mut expected = used.end() + 1;
        for segment in segments {
            let mut block = AlignedBuffer::new(BLOCK_BYTES);
            if segment.file.bytes() >= (DATA_START + BLOCK_BYTES) as u64 {
                segment.file.read(&mut block, DATA_START as u64)?;
            }
            let record = RecordHeader::decode(&block).ok();
            // Records of a life that is over lie before the first segment in use.
            let is_new = record.is_some_and(|record| record.lsn >= lsn);
            let life = match segment.header {
                Err(NotAHeader::Zero) if is_zero(&block) => Some(0),
                Err(NotAHeader::OtherLife { number, life }) if number < *used.start() && !is_new => {
                    Some(life + 1)
                }
                _ => None,
            };
            if let (Some(life), true, true) = (life, segment.number == expected, self.discard.is_empty()) {
                self.spares.push(Spare { number: segment.number, file: segment.file.clone(), life });
                expected += 1;
                continue;
            }
            // From here on nothing is a spare: numbers must stay without gaps when these files go.
            self.discard.push(segment.name.clone());
            // Files are made in order and removed from the end, each step durable.
            if segment.number != expected {
                self.missing.get_or_insert(expected);
            }
            expected = segment.number + 1;
            if life.is_some() {
                continue;
            }
            if let Ok(header) = segment.header {
                // Spares are used in order: one before a segment with records has lost its own.
                self.header_lost |= !self.spares.is_empty();
                self.durable = self.durable.max(header.durable_lsn);
                let before = header.start.saturating_sub(tail_position).max(1);
                self.bytes = self.bytes.max(before);
                if self.bytes <= limit && self.durable <= lsn {
                    let to = self.rest_of(&*segment.file, &header, DATA_START)?;
                    self.bytes = self.bytes.max(before + (to - DATA_START) as u64);
                }
                continue;
            }
            // Headers are durable before the first record behind them is written: a torn one has none.
            let unreadable = record.is_none() && segment.header == Err(NotAHeader::Zero);
            self.header_lost |= is_new || unreadable || has_records_from(&*segment.file, lsn.next())?;
            self.bytes = self.bytes.max(1);
        }
        Ok(())
    }
}

/// Whether a file whose header is lost holds a record that is not of an earlier life.
fn has_records_from(file: &dyn DiskFile, lsn: Lsn) -> io::Result<bool> {
    const PIECE: usize = 1 << 20;
    let end = file.bytes() as usize;
    let mut buffer = AlignedBuffer::new(PIECE + BLOCK_BYTES);
    for at in (DATA_START..end).step_by(PIECE) {
        // One block more than the step: a header may lie across.
        let bytes = (PIECE + BLOCK_BYTES).min(end - at) / BLOCK_BYTES * BLOCK_BYTES;
        let piece = &mut buffer[..bytes];
        file.read(piece, at as u64)?;
        let starts =
            (0..bytes).step_by(RECORD_ALIGN).filter(|start| piece[*start..].starts_with(&RECORD_MAGIC));
        let mut records = starts.filter_map(|start| RecordHeader::decode(&piece[start..]).ok());
        if records.any(|record| record.lsn >= lsn) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Files read ahead in large pieces on a second thread, served as slices.
struct Chunks {
    files: Vec<Arc<dyn DiskFile>>,
    pieces: Receiver<(usize, usize, io::Result<Bytes>)>,
    current: Option<(usize, usize, Bytes)>,
}

/// Large enough for the disk's full speed, small enough to be kept for one record.
const CHUNK_BYTES: usize = 1 << 20;

impl Chunks {
    fn new(files: Vec<Arc<dyn DiskFile>>) -> Self {
        let (to, pieces) = bounded(4);
        let ahead = files.clone();
        let read_all = move || {
            for (index, file) in ahead.iter().enumerate() {
                let mut at = 0;
                while at < file.bytes() as usize {
                    let bytes = CHUNK_BYTES.min(file.bytes() as usize - at);
                    let mut buffer = AlignedBuffer::new(bytes);
                    let piece =
                        file.read(&mut buffer[..bytes], at as u64).map(|()| Bytes::from_owner(buffer));
                    let failed = piece.is_err();
                    if to.send((index, at, piece)).is_err() || failed {
                        return;
                    }
                    at += bytes;
                }
            }
        };
        // Without the thread every read is direct: slower, not wrong.
        let _ = std::thread::Builder::new().name("log-read-ahead".into()).spawn(read_all);
        Self { files, pieces, current: None }
    }

    fn pull(&mut self) -> io::Result<bool> {
        match self.pieces.recv() {
            Ok((index, at, piece)) => {
                self.current = Some((index, at, piece?));
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// `bytes` bytes at `at` of file `index`. Fast when called with rising positions.
    fn get(&mut self, index: usize, at: usize, bytes: usize) -> io::Result<Bytes> {
        loop {
            match self.current.clone() {
                Some((i, start, piece)) if i == index && start <= at && at < start + piece.len() => {
                    let from = at - start;
                    if from + bytes <= piece.len() {
                        return Ok(piece.slice(from..from + bytes));
                    }
                    return self.across(index, at, bytes);
                }
                Some((i, start, _)) if (i, start) > (index, at) => return self.direct(index, at, bytes),
                _ if self.pull()? => {}
                _ => return self.direct(index, at, bytes),
            }
        }
    }

    /// From the current piece on into those behind it.
    fn across(&mut self, index: usize, at: usize, bytes: usize) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(bytes);
        while let Some((i, start, piece)) = &self.current {
            let from = at + out.len();
            if *i != index || *start > from || from >= start + piece.len() {
                return self.direct(index, at, bytes);
            }
            let n = (bytes - out.len()).min(start + piece.len() - from);
            out.extend_from_slice(&piece[from - start..from - start + n]);
            if out.len() == bytes {
                return Ok(out.into());
            }
            if !self.pull()? {
                break;
            }
        }
        self.direct(index, at, bytes)
    }

    fn direct(&self, index: usize, at: usize, bytes: usize) -> io::Result<Bytes> {
        read_range(&*self.files[index], at, bytes)
    }
}

/// Reads any range of a file through whole blocks.
pub(super) fn read_range(file: &dyn DiskFile, at: usize, bytes: usize) -> io::Result<Bytes> {
    let from = at / BLOCK_BYTES * BLOCK_BYTES;
    let to = align_up(at + bytes, BLOCK_BYTES);
    let mut buffer = AlignedBuffer::new(to - from);
    file.read(&mut buffer[..to - from], from as u64)?;
    Ok(Bytes::from_owner(buffer).slice(at - from..at - from + bytes))
}
