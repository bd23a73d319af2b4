//! The log thread: takes what was appended, writes it in groups, reports what is durable.
//!
//! No timers on the way of a record: a group is written when there is something to write and a write may start.
//! While writes are in flight, records gather. The thread sleeps in one system call that ends on a completion, or,
//! when a write may start, on a new record; appenders signal only a thread that sleeps for records.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use hdrhistogram::Histogram;

use super::buffers::AlignedBuffer;
use super::error::LogFailed;
use super::gate::Persisted;
use super::group::{Filled, Packer, Prefix, Queued};
use super::layout::{BLOCK_BYTES, DATA_START, KIND_TRAILER, SegmentHeader, align_up, record_bytes};
use super::mailbox::Mailbox;
use super::options::Record;
use super::reader::{Index, SegmentIndex};
use super::segments::{Leaving, Made, Order, Spare, is_full};
use super::storage::DiskFile;
use super::writer::{Done, Write, Writer};
use crate::sync::Mutex;
use crate::sys::EventFd;
use crate::types::{Digest, Lsn, Seq, View};

/// How long nothing must happen before the last group's durability is put on record.
const TRAILER_AFTER: Duration = Duration::from_millis(100);

/// What the log tells its owner, on the log thread: be quick.
#[derive(Debug)]
pub enum LogEvent {
    /// Every record up to this one is durable.
    Persisted(Persisted),
    /// A write failed: comes once, and nothing is reported durable after it.
    Failed(LogFailed),
    /// Whether ordinary records may be appended: `false` when the bound or the disk's end is near.
    Room(bool),
}

/// Where events go.
pub(super) type Events = Arc<dyn Fn(LogEvent) + Send + Sync>;

/// Counters since the start.
#[derive(Clone, Debug)]
pub struct LogStats {
    /// Writes completed.
    pub writes: u64,
    /// Bytes in them, padding included.
    pub bytes: u64,
    /// Records of the caller that started in them.
    pub records: u64,
    /// The most writes that were in flight at once.
    pub in_flight_max: usize,
    /// From submission to completion of each write, nanoseconds.
    pub write_ns: Histogram<u64>,
    /// Segments ready for use.
    pub spare_segments: usize,
    /// Segments in use.
    pub segments: usize,
    /// Of their files.
    pub used_bytes: u64,
    /// Of all segment files: in use, ready, and those that left the log and are not yet gone.
    pub files_bytes: u64,
    /// The oldest record, or the number that it will get.
    pub first_lsn: Lsn,
    /// Segments that left the log and were made ready again.
    pub segments_recycled: u64,
    /// Segments that left the log and whose files were removed.
    pub segments_removed: u64,
    /// Why the next segment cannot be made, or the oldest one taken away, if so; tried again every second.
    pub blocked: Option<String>,
}

impl LogStats {
    pub(super) fn new() -> Self {
        let write_ns = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are valid");
        Self {
            writes: 0,
            bytes: 0,
            records: 0,
            in_flight_max: 0,
            write_ns,
            spare_segments: 0,
            segments: 0,
            used_bytes: 0,
            files_bytes: 0,
            first_lsn: Lsn(0),
            segments_recycled: 0,
            segments_removed: 0,
            blocked: None,
        }
    }

    pub(super) fn note_segments(&mut self, in_use: &[SegmentIndex], spares: usize, files_bytes: u64) {
        self.first_lsn = in_use[0].first_lsn;
        self.segments = in_use.len();
        self.used_bytes = in_use.iter().map(SegmentIndex::bytes).sum();
        self.spare_segments = spares;
        self.files_bytes = files_bytes;
    }

    /// Records per write, on average.
    pub fn records_per_write(&self) -> f64 {
        self.records as f64 / self.writes.max(1) as f64
    }
}

/// What appenders and the log thread share.
pub(super) struct Shared {
    pub mail: Mailbox<Mail>,
    pub wake: Arc<EventFd>,
    pub queued_bytes: AtomicUsize,
    /// Disk bytes that the queue can take at most.
    pub queued_room: AtomicUsize,
    /// Bytes for records not yet in a write: falls before `queued_room` does, so their difference is never too high.
    pub room_bytes: AtomicI64,
    pub room: AtomicBool,
    pub failed: AtomicBool,
    pub stats: Mutex<LogStats>,
    pub index: Arc<Index>,
}

/// What waits for the log thread.
#[derive(Default)]
pub(super) struct Mail {
    pub records: Vec<Queued>,
    pub made: Vec<Made>,
    /// Records below this one are no longer needed.
    pub below: Option<Lsn>,
    pub stop: bool,
}

impl Shared {
    /// Leaves something for the log thread, and wakes it if it sleeps for that.
    pub fn post(&self, put: impl FnOnce(&mut Mail)) {
        if self.mail.post(put) {
            self.wake.signal();
        }
    }
}

/// Space there may be, and how it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub segment_bytes: u64,
    pub bytes_max: u64,
    pub spare_segments: usize,
    pub recycled_segments: usize,
    pub group_bytes_max: usize,
    pub writes_in_flight_max: usize,
    pub record_bytes_max: usize,
}

impl Bounds {
    /// Kept for control records: the last segment.
    pub fn reserve_bytes(&self) -> i64 {
        self.usable(self.segment_bytes - DATA_START as u64)
    }

    /// What can surely be used of the rest of a segment: its end is left unused when the next record does not fit.
    fn usable(&self, left: u64) -> i64 {
        (left as i64 - self.largest_bytes()).max(0)
    }

    /// Disk bytes of the largest record alone in its group.
    fn largest_bytes(&self) -> i64 {
        align_up(record_bytes(self.record_bytes_max), BLOCK_BYTES) as i64
    }
}

struct InFlight {
    id: u64,
    started: Instant,
    segment: u64,
    offset: u64,
    bytes: usize,
    what: &'static str,
}

/// The log thread's state.
pub(super) struct Stage {
    pub shared: Arc<Shared>,
    pub events: Events,
    pub bounds: Bounds,
    pub packer: Packer,
    pub prefix: Prefix,
    pub file: Arc<dyn DiskFile>,
    /// Owner and limit for new segment headers.
    pub header: SegmentHeader,
    pub spares: VecDeque<Spare>,
    pub orders: Sender<Order>,
    /// All segment files together.
    pub files_bytes: u64,
    /// Fresh random salts.
    pub salt: Box<dyn FnMut() -> u64 + Send>,
    pub trailer_after: Duration,
}

/// What the maker is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ordered {
    Make,
    /// Not to be replaced by another order: segments leave in their order.
    Leave,
}

/// State that only lives while the thread runs.
struct Running {
    stage: Stage,
    writer: Box<dyn Writer>,
    queue: VecDeque<Queued>,
    incoming: Vec<Queued>,
    buffers: Vec<AlignedBuffer>,
    in_flight: Vec<InFlight>,
    /// The write of the segment's header: records follow once it is durable.
    header_write: Option<u64>,
    /// The maker is at work.
    ordered: Option<Ordered>,
    /// It cannot go on: tried again every second.
    blocked: Option<io::Error>,
    /// Records below this one are no longer needed.
    below: Lsn,
    /// First record of the second segment: once that one is durable and the ones before it are no longer needed, the first leaves.
    second: Option<Lsn>,
    /// Out of the index, the oldest first; their files are still there.
    leaving: VecDeque<Leaving>,
    /// The next record needs a segment and there is none.
    waits_for_segment: bool,
    /// The last record whose durability is on record.
    noted: Lsn,
    quiet_since: Instant,
    failed: bool,
}

impl Stage {
    /// Standard pause before the trailer.
    pub const TRAILER_AFTER: Duration = TRAILER_AFTER;

    /// Runs until stopped or failed.
    pub fn run(self, writer: Box<dyn Writer>) {
        let noted = self.prefix.durable;
        let mut running = Running {
            stage: self,
            writer,
            queue: VecDeque::new(),
            incoming: Vec::new(),
            buffers: Vec::new(),
            in_flight: Vec::new(),
            header_write: None,
            ordered: None,
            blocked: None,
            below: Lsn(0),
            second: None,
            leaving: VecDeque::new(),
            waits_for_segment: false,
            noted,
            quiet_since: Instant::now(),
            failed: false,
        };
        running.run();
    }

    /// Bytes that records can still take, now and in segments to come.
    pub fn room_bytes(&self, blocked: bool) -> i64 {
        let bounds = &self.bounds;
        let usable = |file_bytes: u64| bounds.usable(file_bytes - DATA_START as u64);
        let spare: i64 = self.spares.iter().map(|spare| usable(spare.file.bytes())).sum();
        let more = if blocked { 0 } else { bounds.bytes_max.saturating_sub(self.files_bytes) };
        let more = (more / bounds.segment_bytes) as i64 * usable(bounds.segment_bytes);
        bounds.usable(self.packer.end.left() as u64) + spare + more
    }
}

impl Running {
    fn run(&mut self) {
        let mut done = Vec::new();
        self.update_room();
        self.note_segments();
        loop {
            let stop = self.take_mail();
            self.let_go();
            self.order_segment();
            self.start_write();
            self.check_maker();
            if self.failed || stop && self.in_flight.is_empty() && !self.finish() {
                return self.drain(&mut done);
            }
            let timeout = self.sleep_for();
            if let Err(e) = self.writer.wait(timeout, &mut done) {
                let (segment, offset) = (self.stage.packer.end.segment, self.stage.packer.end.offset as u64);
                self.fail(LogFailed::new(segment, offset, "waiting for writes", &e));
            }
            self.complete(&mut done);
        }
    }

    /// Takes what was left in the mail. Returns whether to stop.
    fn take_mail(&mut self) -> bool {
        let (made, below, stop) = self.stage.shared.mail.take(|mail| {
            std::mem::swap(&mut mail.records, &mut self.incoming);
            (std::mem::take(&mut mail.made), mail.below.take(), mail.stop)
        });
        self.queue.extend(self.incoming.drain(..));
        self.below = below.map_or(self.below, |below| below.max(self.below));
        for made in made {
            self.take_made(made);
        }
        stop
    }

    fn take_made(&mut self, made: Made) {
        let before = self.ordered;
        match made {
            Made::Fresh(spare) => {
                // Not if a segment that leaves was ordered meanwhile, in place of this one.
                self.ordered = before.filter(|ordered| *ordered != Ordered::Make);
                self.blocked = None;
                self.stage.files_bytes += spare.file.bytes();
                self.take_spare(spare);
            }
            Made::Recycled(spare) => {
                self.ordered = None;
                self.take_spare(spare);
                // If a fresh one is still wanted, its order says whether there is space now.
                let wanted = self.stage.spares.len() < self.stage.bounds.spare_segments.max(1);
                self.blocked = self.blocked.take().filter(|e| wanted && is_full(e));
                self.stage.shared.stats.lock().segments_recycled += 1;
            }
            Made::Removed(bytes) => {
                self.ordered = None;
                self.blocked = None;
                self.stage.files_bytes -= bytes;
                self.stage.shared.stats.lock().segments_removed += 1;
            }
            Made::Blocked(e) => {
                let what = match self.ordered {
                    Some(Ordered::Leave) => "no old segment can be recycled",
                    _ => "no spare segment can be made",
                };
                if self.blocked.is_none() {
                    ::log::warn!("log: {what}, tried again every second: {e}");
                }
                self.stage.shared.stats.lock().blocked = Some(format!("{what}: {e}"));
                self.blocked = Some(e);
            }
        }
        if self.blocked.is_none() && self.stage.shared.stats.lock().blocked.take().is_some() {
            ::log::warn!("log: there is space for segments again");
        }
        self.note_segments();
        self.update_room();
    }

    fn take_spare(&mut self, spare: Spare) {
        self.waits_for_segment = false;
        self.stage.spares.push_back(spare);
    }

    /// Takes segments out of the index of which no record is needed any more. The last one to stay holds a durable record: a
    /// later start can tell by it that the first record it finds is the first there was.
    fn let_go(&mut self) {
        let upto = self.below.min(self.stage.prefix.durable);
        if self.second.is_none_or(|second| second > upto) {
            return;
        }
        let mut segments = self.stage.shared.index.segments.write();
        let leave = segments[1..].partition_point(|next| next.first_lsn <= upto);
        self.leaving.extend(segments.drain(..leave).map(SegmentIndex::leave));
        drop(segments);
        self.note_segments();
    }

    /// What is to be seen of the segments, when that changed.
    fn note_segments(&mut self) {
        let segments = self.stage.shared.index.segments.read();
        self.second = segments.get(1).map(|segment| segment.first_lsn);
        let (spares, files_bytes) = (self.stage.spares.len(), self.stage.files_bytes);
        self.stage.shared.stats.lock().note_segments(&segments, spares, files_bytes);
    }

    /// Keeps the maker at work: what left the log becomes a spare while there are few of them, and is removed
    /// otherwise; fresh ones are made while spares are missing and the bound allows.
    fn order_segment(&mut self) {
        let is_free = match self.ordered {
            None => true,
            Some(Ordered::Make) => self.blocked.is_some() && !self.leaving.is_empty(),
            Some(Ordered::Leave) => false,
        };
        if !is_free {
            return;
        }
        let bounds = &self.stage.bounds;
        let spares = self.stage.spares.len();
        let (wanted, kept) = (bounds.spare_segments.max(1), bounds.spare_segments + bounds.recycled_segments);
        let files_bytes = self.stage.files_bytes;
        let fits = files_bytes + bounds.segment_bytes <= bounds.bytes_max;
        let keep = spares == 0 || spares < kept && files_bytes <= bounds.bytes_max;
        let order = match self.leaving.pop_front() {
            // One of another size, from a run with other options, might not take every record.
            Some(old) if keep && old.file.bytes() == bounds.segment_bytes => Order::Recycle(old),
            Some(old) => Order::Remove(old),
            None if spares < wanted && fits => Order::Make(bounds.segment_bytes),
            None => return,
        };
        let ordered = if matches!(order, Order::Make(_)) { Ordered::Make } else { Ordered::Leave };
        self.ordered = self.stage.orders.send(order).is_ok().then_some(ordered);
    }

    /// A full disk may get space again; a broken one that stops the queue is the end.
    fn check_maker(&mut self) {
        if let (true, Some(e)) = (self.waits_for_segment, &self.blocked)
            && !is_full(e)
        {
            let failed = LogFailed::new(self.stage.packer.end.segment + 1, 0, "making the segment", e);
            self.fail(failed);
        }
    }

    /// Whether another write may start: the span from the first incomplete write on is what a crash can tear.
    fn may_write(&self) -> bool {
        let max = self.stage.bounds.writes_in_flight_max.min(self.writer.in_flight_max());
        let behind_header = self.header_write.is_some_and(|id| self.stage.prefix.is_pending(id));
        !self.failed && self.stage.prefix.span() < max && !behind_header
    }

    /// Starts at most one write, so that it is on its way before more is gathered.
    fn start_write(&mut self) {
        if !self.may_write() || (self.queue.is_empty() && !self.stage.packer.is_spanning()) {
            return;
        }
        let offset = self.stage.packer.end.offset;
        let indexed = !self.stage.packer.is_spanning();
        let segment = self.stage.packer.end.segment;
        let mut buffer = self.buffer();
        let durable = self.stage.prefix.durable;
        let left = self.stage.packer.end.left();
        let max = buffer.len().min(left);
        let filled = self.stage.packer.fill(&mut self.queue, &mut buffer[..max], durable);
        if filled.bytes == 0 {
            self.buffers.push(buffer);
            if filled.segment_full {
                self.rotate();
            }
            return;
        }
        if let (true, Some(lsn)) = (indexed, filled.starts) {
            let mut segments = self.stage.shared.index.segments.write();
            segments.last_mut().expect("a segment is in use").add(lsn, offset);
        }
        self.took(&filled);
        let id = self.stage.prefix.started(filled.ends);
        self.submit(id, segment, offset as u64, buffer, filled.bytes, "write");
        self.stage.shared.stats.lock().records += filled.records as u64;
    }

    fn took(&mut self, filled: &Filled) {
        let shared = &self.stage.shared;
        shared.room_bytes.store(self.stage.room_bytes(self.blocked.is_some()), Ordering::Release);
        shared.queued_bytes.fetch_sub(filled.taken_bytes, Ordering::AcqRel);
        shared.queued_room.fetch_sub(filled.taken_room, Ordering::AcqRel);
        self.update_room();
    }

    fn submit(
        &mut self,
        id: u64,
        segment: u64,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: usize,
        what: &'static str,
    ) {
        self.in_flight.push(InFlight { id, started: Instant::now(), segment, offset, bytes, what });
        self.writer.submit(Write { id, file: self.stage.file.clone(), offset, buffer, bytes });
    }

    fn buffer(&mut self) -> AlignedBuffer {
        let bytes = self.stage.bounds.group_bytes_max.max(DATA_START);
        self.buffers.pop().unwrap_or_else(|| AlignedBuffer::new(bytes))
    }

    /// Goes on in the next spare. Without one the queue waits: [`LogEvent::Room`] has long said so.
    fn rotate(&mut self) {
        let Some(spare) = self.stage.spares.pop_front() else {
            self.waits_for_segment = true;
            return;
        };
        let salt = (self.stage.salt)();
        let durable = self.stage.prefix.durable;
        let header = self.stage.packer.end.rotate(salt, &spare, &self.stage.header, durable);
        let number = spare.number;
        let index = SegmentIndex::new(&header, spare.file.clone());
        self.stage.shared.index.segments.write().push(index);
        self.note_segments();
        self.stage.file = spare.file;
        let mut buffer = self.buffer();
        header.encode_both(&mut buffer);
        let id = self.stage.prefix.started(None);
        self.header_write = Some(id);
        self.submit(id, number, 0, buffer, DATA_START, "writing the segment header");
        self.update_room();
    }

    /// Says when ordinary records must stop, and when they may come again.
    fn update_room(&mut self) {
        let room_bytes = self.stage.room_bytes(self.blocked.is_some());
        let shared = &self.stage.shared;
        shared.room_bytes.store(room_bytes, Ordering::Release);
        let free = room_bytes - shared.queued_room.load(Ordering::Acquire) as i64;
        let slack = self.stage.bounds.largest_bytes();
        let before = shared.room.load(Ordering::Acquire);
        let now = free >= self.stage.bounds.reserve_bytes() + if before { slack } else { 2 * slack };
        if now != before {
            shared.room.store(now, Ordering::Release);
            (self.stage.events)(LogEvent::Room(now));
        }
    }

    /// How long to sleep: `Some(0)` not at all. From here on appenders signal, if a write could start.
    fn sleep_for(&mut self) -> Option<Duration> {
        let may_write = self.may_write();
        let has_work = self.stage.packer.is_spanning() || !self.queue.is_empty();
        if may_write && has_work && !self.waits_for_segment {
            return Some(Duration::ZERO);
        }
        let idle = self.in_flight.is_empty() && !has_work && self.noted < self.stage.prefix.durable;
        let timeout = idle.then_some(self.stage.trailer_after);
        let stays = |mail: &Mail| {
            let stops = mail.stop && self.in_flight.is_empty() && !self.waits_for_segment;
            !mail.made.is_empty() || mail.below.is_some() || stops || (may_write && !mail.records.is_empty())
        };
        if !self.stage.shared.mail.sleep(may_write, stays) {
            return Some(Duration::ZERO);
        }
        if idle && self.quiet_since.elapsed() >= self.stage.trailer_after {
            self.trailer();
            return Some(Duration::ZERO);
        }
        timeout
    }

    /// Puts the durable prefix on record (RULES 6): a later run then knows that damage below it is no torn tail.
    fn trailer(&mut self) {
        self.noted = self.stage.prefix.durable;
        let record = Record {
            kind: KIND_TRAILER,
            seq: Seq(0),
            view: View(0),
            digest: Digest::ZERO,
            payload: Vec::new(),
        };
        let lsn = self.stage.packer.end.lsn;
        let queued = Queued { lsn, record };
        self.stage.shared.queued_bytes.fetch_add(queued.bytes(), Ordering::AcqRel);
        self.stage.shared.queued_room.fetch_add(queued.room_bytes(), Ordering::AcqRel);
        // Not behind what a sleeper's mail may hold by now: those records have later numbers, and are not taken yet.
        self.queue.push_back(queued);
    }

    /// Called when stopped with nothing in flight. Returns whether there is more to do.
    fn finish(&mut self) -> bool {
        if self.queue.is_empty() && self.noted < self.stage.prefix.durable {
            self.trailer();
        }
        // Records that wait for a segment which cannot be made are given up: nobody was told that they are durable.
        let stuck = self.waits_for_segment && (self.blocked.is_some() || self.ordered.is_none());
        (!self.queue.is_empty() || self.stage.packer.is_spanning()) && !stuck
    }

    fn complete(&mut self, done: &mut Vec<Done>) {
        if done.is_empty() {
            return;
        }
        let mut persisted = None;
        let flying = self.in_flight.len();
        for Done { id, buffer, result } in done.drain(..) {
            let at = self.in_flight.iter().position(|w| w.id == id).expect("only submitted writes complete");
            let write = self.in_flight.swap_remove(at);
            self.buffers.push(buffer);
            match result {
                Ok(()) if !self.failed => {
                    persisted = self.stage.prefix.completed(id).or(persisted);
                    let mut stats = self.stage.shared.stats.lock();
                    stats.writes += 1;
                    stats.bytes += write.bytes as u64;
                    stats.in_flight_max = stats.in_flight_max.max(flying);
                    stats.write_ns.saturating_record(write.started.elapsed().as_nanos() as u64);
                }
                Ok(()) => {}
                Err(e) => self.fail(LogFailed::new(write.segment, write.offset, write.what, &e)),
            }
        }
        self.quiet_since = Instant::now();
        // A failure in the same round comes first in the order of events, so nothing may follow it.
        if let (Some(upto), false) = (persisted, self.failed) {
            self.stage.shared.index.durable.store(upto.0, Ordering::Release);
            (self.stage.events)(LogEvent::Persisted(Persisted::new(upto)));
        }
    }

    fn fail(&mut self, failed: LogFailed) {
        if !std::mem::replace(&mut self.failed, true) {
            ::log::error!("{failed}");
            self.stage.shared.failed.store(true, Ordering::Release);
            (self.stage.events)(LogEvent::Failed(failed));
        }
    }

    /// After a failure: buffers in flight belong to the kernel until it gives them back.
    fn drain(&mut self, done: &mut Vec<Done>) {
        let mut tries = 0;
        while !self.in_flight.is_empty() && tries < 100 {
            tries += 1;
            if self.writer.wait(Some(TRAILER_AFTER), done).is_err() {
                return;
            }
            self.complete(done);
        }
    }
}
