//! DURABILITY: records of opaque kind that survive power loss, and the proof that they do.
//!
//! The promise: once [`LogEvent::Persisted`] names an [`Lsn`], that record and every one before it is read back by the
//! next [`open`], whatever happens to process, kernel or power. It rests on this: the device keeps what it acknowledged
//! to a synchronous direct write (O_DIRECT | O_DSYNC, which the kernel turns into a cache flush or FUA), and a
//! sector that is not being written keeps its bytes. Nothing is promised of the order in which writes in flight
//! reach the disk, or of how a write is torn.
//!
//! What was appended and not reported may survive or not, but survivors are a prefix: nothing is skipped, and what a
//! recovery did not return never comes back. Only what the caller gave up by [`Log::recycle`] is missing, whole segments
//! at the beginning.
//!
//! Flow: `append` queues → the log thread ([`stage`](self)) packs a group and submits it → the longest contiguous
//! prefix of completed writes is reported → a [`DurableGate`] releases what waited for it.

mod buffers;
mod check;
mod device;
mod error;
mod gate;
mod group;
mod layout;
mod mailbox;
mod options;
mod progress;
mod reader;
mod recovery;
mod scan;
mod segments;
mod stage;
pub(crate) mod storage;

mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod io_error_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod recycle_tests;
#[cfg(test)]
pub(crate) mod test_disk;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use ring::rand::SecureRandom;

pub use check::{DISK_CHECK_SIZES, DiskReport, DiskSpeed, disk_check};
pub use device::Device;
pub use error::{Damage, LogError, LogFailed};
pub use gate::{Durable, DurableGate, Persisted};
pub use options::{DamagedRecord, IoBackend, LogOptions, Record, ScannedRecord};
pub use progress::Progress;
pub use reader::LogReader;
pub use stage::{LogEvent, LogStats};

use crate::sys::{self, EventFd};
pub(crate) use buffers::AlignedBuffer;
use device::EmulatedWriter;
use group::{Packer, Prefix, Queued};
pub(crate) use layout::{BLOCK_BYTES, align_up, record_bytes};
use layout::{BootPayload, DATA_START, KIND_BOOT, KIND_TRAILER, RecordHeader, SegmentHeader};
use mailbox::Mailbox;
use reader::Index;
use scan::{Payload, Place, Scan};
pub(crate) use segments::is_full;
use segments::{Maker, Spare, UNFINISHED, make_segment, segment_name, segment_number};
use stage::{Bounds, Shared, Stage};
use storage::{Disk, RealDisk};
use writer::{ThreadsWriter, UringWriter, Writer};

use crate::types::{Digest, Lsn, Seq, View};

/// How long a full disk is left alone before the next try to make a segment.
const RETRY_SEGMENT: Duration = Duration::from_secs(1);

/// Creates an empty log in `opts.dir`, which is made if it is missing. Only `init` calls this.
/// Errors: [`LogError::AlreadyFormatted`] if there is one; a full or read-only disk; a file system in memory.
pub fn format(opts: &LogOptions) -> Result<(), LogError> {
    opts.check()?;
    let dir = &opts.dir;
    std::fs::create_dir_all(dir).map_err(|e| LogError::io(dir, "create", e))?;
    let _lock = lock(dir)?;
    let disk = real_disk(opts)?;
    format_on(&*disk, opts)?;
    // The directory's own name, too.
    let parent = dir.canonicalize().ok().and_then(|d| d.parent().map(Path::to_path_buf));
    match parent.map(File::open) {
        Some(Ok(parent)) => parent.sync_all().map_err(|e| LogError::io(dir, "sync", e)),
        _ => Ok(()),
    }
}

fn format_on(disk: &dyn Disk, opts: &LogOptions) -> Result<(), LogError> {
    let names = disk.list().map_err(|e| LogError::io(&opts.dir, "list", e))?;
    if names.iter().any(|name| segment_number(name).is_some()) {
        return Err(LogError::AlreadyFormatted(opts.dir.clone()));
    }
    let header = SegmentHeader {
        cluster: opts.cluster,
        replica: opts.replica,
        number: 1,
        salt: random_salt(),
        first_lsn: Lsn(1),
        start: 0,
        durable_lsn: Lsn(0),
        life: 0,
        chain: [0; 16],
        segment_bytes: opts.segment_bytes,
        in_flight_bytes: opts.in_flight_bytes() as u32,
    };
    make_segment(disk, 1, opts.segment_bytes, Some(&header), &AtomicBool::new(false))
        .map(drop)
        .map_err(|e| LogError::io(&opts.dir, "create the first segment", e))
}

/// Opens the log in `opts.dir` for this process alone and streams every surviving record of the caller, in order, to
/// `on_record`. Nothing is changed on disk before [`OpenLog::start`].
///
/// A torn tail is no error (see [`RecoveryReport::torn_bytes`]). Errors: damage is found only behind the last good
/// record, so `on_record` may have seen records when [`LogError::Damaged`] comes; [`LogError::Refused`] when `on_record`
/// returns words of refusal; else as [`LogError`] lists them.
pub fn open(
    opts: LogOptions,
    on_record: &mut dyn FnMut(ScannedRecord) -> Result<(), String>,
) -> Result<OpenLog, LogError> {
    opts.check()?;
    if !opts.dir.is_dir() {
        return Err(LogError::NotFormatted(opts.dir));
    }
    let lock = lock(&opts.dir)?;
    let disk = real_disk(&opts)?;
    let mut open = open_on(disk, opts, on_record)?;
    open.lock = Some(lock);
    Ok(open)
}

/// As [`open`], for a caller that can do without the payload of some records: one of which only the payload rotted comes to `each`
/// in its turn. Its header is what was written, and it was durable; its bytes are not. `Ok(false)` refuses the log as [`open`]
/// would. The record stays as it is: what replaces it is appended.
pub fn open_damaged(opts: LogOptions, each: Each<'_>) -> Result<OpenLog, LogError> {
    opts.check()?;
    if !opts.dir.is_dir() {
        return Err(LogError::NotFormatted(opts.dir));
    }
    let lock = lock(&opts.dir)?;
    let disk = real_disk(&opts)?;
    let mut open = read_on(disk, opts, true, each)?;
    open.lock = Some(lock);
    Ok(open)
}

/// A record as a scan found it.
#[derive(Debug)]
pub enum Scanned {
    /// As it was appended.
    Whole(ScannedRecord),
    /// Its header as it was appended.
    Damaged(DamagedRecord),
}

/// Takes a record. `Ok(false)`: not without its payload.
pub type Each<'a> = &'a mut dyn FnMut(Scanned) -> Result<bool, String>;

fn open_on(
    disk: Arc<dyn Disk>,
    opts: LogOptions,
    on_record: &mut dyn FnMut(ScannedRecord) -> Result<(), String>,
) -> Result<OpenLog, LogError> {
    read_on(disk, opts, false, &mut |found| match found {
        Scanned::Whole(record) => on_record(record).map(|()| true),
        Scanned::Damaged(_) => Ok(false),
    })
}

fn read_on(
    disk: Arc<dyn Disk>,
    opts: LogOptions,
    repairs: bool,
    each: Each<'_>,
) -> Result<OpenLog, LogError> {
    let expect = Some((opts.cluster, opts.replica));
    let mut sink = |header: &RecordHeader, payload: Payload, place: Place| {
        if header.is_own() {
            return Ok(());
        }
        let found = match payload {
            Payload::Whole(payload) => Scanned::Whole(reader::scanned(header, payload)),
            Payload::Rotten(payload) => Scanned::Damaged(DamagedRecord {
                segment: place.segment,
                offset: place.offset,
                record: reader::scanned(header, payload),
            }),
        };
        match each(found) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(&opts.dir, header, place)),
            Err(why) => Err(LogError::Refused { lsn: header.lsn, why }),
        }
    };
    let scan = scan::scan(&disk, &opts.dir, expect, true, repairs, &opts.progress, &mut sink)?;
    scan.damage(&opts.dir)?;
    let report = RecoveryReport::of(&scan);
    Ok(OpenLog { disk, opts, scan, report, lock: None })
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The first record of the oldest segment: 1, or more once older segments were recycled. Only the caller knows
    /// whether its checkpoints cover what lies before; a lost first segment shows here alone.
    pub first_lsn: Lsn,
    /// The last surviving record; every one up to it is durable. 0 = none.
    pub last_lsn: Lsn,
    /// Surviving records of the caller.
    pub records: u64,
    /// Of those, without their payload: see [`open_damaged`].
    pub damaged: u64,
    /// Bytes of records and padding in use.
    pub log_bytes: u64,
    /// Bytes behind the last good record that the last run left unfinished; cut by `start`.
    pub torn_bytes: u64,
    /// Starts of this log so far.
    pub boot_epoch: u32,
    /// The highest lsn that was known durable when something readable was written.
    pub durable_lsn: Lsn,
    /// Segments in use.
    pub segments: usize,
    /// Segments ready.
    pub spare_segments: usize,
}

impl RecoveryReport {
    fn of(scan: &Scan) -> Self {
        Self {
            first_lsn: scan.first_lsn,
            last_lsn: scan.findings.last,
            records: scan.records,
            damaged: scan.rotten,
            log_bytes: scan.log_bytes,
            torn_bytes: scan.findings.suffix_bytes,
            boot_epoch: scan.end.boot_epoch,
            durable_lsn: scan.findings.durable,
            segments: scan.segments.len(),
            spare_segments: scan.spares.len(),
        }
    }
}

/// A log that was read and not yet written.
pub struct OpenLog {
    disk: Arc<dyn Disk>,
    opts: LogOptions,
    scan: Scan,
    report: RecoveryReport,
    lock: Option<File>,
}

type NewWriter = Box<dyn FnOnce(Arc<EventFd>) -> std::io::Result<Box<dyn Writer>> + Send>;

impl OpenLog {
    /// What the scan found.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Cuts a torn tail, writes the boot record, fills `prefill_segments`, starts the log thread.
    /// `events` is called on that thread. Errors: a failed write, a full disk, no io_uring where it was demanded.
    pub fn start(self, events: Box<dyn Fn(LogEvent) + Send + Sync>) -> Result<(Log, LogReader), LogError> {
        let (mut backend, mut new_writer) = choose_backend(&*self.disk, &self.opts)?;
        if let Some(device) = self.opts.device.clone() {
            backend = format!("{backend}; {}", device.label());
            let real = new_writer;
            new_writer = Box::new(move |wake| Ok(Box::new(EmulatedWriter::new(real(wake)?, device))));
        }
        self.start_on(events.into(), backend, new_writer, RETRY_SEGMENT, Stage::TRAILER_AFTER)
    }

    fn start_on(
        mut self,
        events: stage::Events,
        backend: String,
        new_writer: NewWriter,
        retry: Duration,
        trailer_after: Duration,
    ) -> Result<(Log, LogReader), LogError> {
        self.cut()?;
        let packer = self.boot()?;
        let Self { disk, opts, mut scan, lock, .. } = self;
        let io = |what| {
            let dir = opts.dir.clone();
            move |e| LogError::io(&dir, what, e)
        };
        let mut spares: std::collections::VecDeque<_> = scan.spares.drain(..).collect();
        let mut number = spares.back().map_or(packer.end.segment, |spare: &Spare| spare.number) + 1;
        while spares.len() < opts.prefill_segments {
            match make_segment(&*disk, number, opts.segment_bytes, None, &AtomicBool::new(false)) {
                Ok(file) => spares.push_back(Spare { number, file, life: 0 }),
                // The boot record is written: there is a segment to go on in.
                Err(e) if is_full(&e) => {
                    let (ready, wanted) = (spares.len(), opts.prefill_segments);
                    ::log::warn!("log: the disk is full, {ready} of {wanted} segments are ready: {e}");
                    break;
                }
                Err(e) => return Err(LogError::io(&opts.dir, "fill a segment", e)),
            }
            number += 1;
        }
        let last = disk.open(&segment_name(packer.end.segment)).map_err(io("open"))?;
        let used: u64 = scan.segments.iter().map(|s| s.bytes()).sum();
        let files_bytes = used + spares.iter().map(|spare| spare.file.bytes()).sum::<u64>();
        let index = Arc::new(Index {
            segments: RwLock::new(scan.segments),
            durable: AtomicU64::new(scan.findings.last.0),
        });
        let mut stats = LogStats::new();
        stats.note_segments(&index.segments.read(), spares.len(), files_bytes);
        let shared = Arc::new(Shared {
            mail: Mailbox::default(),
            wake: Arc::new(EventFd::new().map_err(io("make an eventfd"))?),
            queued_bytes: AtomicUsize::new(0),
            queued_room: AtomicUsize::new(0),
            room_bytes: AtomicI64::new(0),
            room: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            stats: Mutex::new(stats),
            index: index.clone(),
        });
        let made = shared.clone();
        let maker = Maker::start(disk, number, retry, move |report| {
            let wake = made.clone();
            made.post(|mail| mail.made.push(report));
            wake.wake.signal();
        })
        .map_err(io("start a thread"))?;
        let bounds = Bounds {
            segment_bytes: opts.segment_bytes,
            bytes_max: opts.bytes_max,
            spare_segments: opts.spare_segments,
            recycled_segments: opts.recycled_segments,
            group_bytes_max: opts.group_bytes_max,
            writes_in_flight_max: opts.writes_in_flight_max,
            record_bytes_max: opts.record_bytes_max,
        };
        let next = scan.findings.last.next();
        let stage = Stage {
            shared: shared.clone(),
            events,
            bounds,
            packer,
            prefix: Prefix::new(scan.findings.last),
            file: last,
            header: SegmentHeader { in_flight_bytes: opts.in_flight_bytes() as u32, ..scan.header },
            spares,
            orders: maker.orders(),
            files_bytes,
            salt: Box::new(random_salt),
            trailer_after,
        };
        shared.room_bytes.store(stage.room_bytes(false), Ordering::Release);
        let thread = start_thread(stage, new_writer).map_err(io("start the log thread"))?;
        let reader = LogReader { index, dir: opts.dir.as_path().into() };
        let log = Log {
            shared,
            next,
            bounds,
            queued_bytes_max: opts.queued_bytes_max,
            backend,
            thread: Some(thread),
            maker: Some(maker),
            _lock: lock,
        };
        Ok((log, reader))
    }

    /// Makes what lies behind the last good record unreadable for ever. Done again from the start if it is
    /// interrupted: it only ever removes evidence that was judged torn.
    fn cut(&mut self) -> Result<(), LogError> {
        let io = |what| {
            let dir = self.opts.dir.clone();
            move |e| LogError::io(&dir, what, e)
        };
        // From the highest number down, one by one: a gap would show that a segment is missing.
        for name in self.scan.discard.drain(..).rev() {
            self.disk.remove(&name).map_err(io("remove a torn segment"))?;
            self.disk.sync_dir().map_err(io("sync"))?;
        }
        let names = self.disk.list().map_err(io("list"))?;
        if names.iter().any(|name| name == UNFINISHED) {
            self.disk.remove(UNFINISHED).map_err(io("remove an unfinished segment"))?;
        }
        self.disk.sync_dir().map_err(io("sync"))?;
        let file = self.disk.open(&segment_name(self.scan.end.segment)).map_err(io("open"))?;
        let mut filler = AlignedBuffer::new(1 << 20);
        if let Some(at) = self.scan.lost_copy {
            self.scan.header.encode(&mut filler[..BLOCK_BYTES]);
            file.write(&filler[..BLOCK_BYTES], at as u64, true).map_err(io("repair a segment header"))?;
            filler[..BLOCK_BYTES].fill(0);
        }
        if self.scan.header.life > 0 {
            // Zeros could be the payload that a torn record here lacked, and make it whole.
            let noise = random_salt().to_le_bytes();
            filler.chunks_exact_mut(noise.len()).for_each(|bytes| bytes.copy_from_slice(&noise));
        }
        let (first, end) = (self.scan.end.offset, self.scan.zero_to);
        let mut at = first + BLOCK_BYTES;
        while at < end {
            let n = filler.len().min(end - at);
            file.write(&filler[..n], at as u64, true).map_err(io("cut the torn tail"))?;
            at += n;
        }
        // Last, because it may hold the header of a record begun long before the crash: without that header the rest
        // would look like more than was in flight.
        if first < end {
            file.write(&filler[..BLOCK_BYTES], first as u64, true).map_err(io("cut the torn tail"))?;
        }
        Ok(())
    }

    /// Writes the boot record and waits for it: from then on its in-flight limit holds, and what an earlier run left
    /// belongs to an earlier epoch.
    fn boot(&mut self) -> Result<Packer, LogError> {
        let mut end = self.scan.end.clone();
        let path = self.opts.dir.join(segment_name(end.segment));
        let epoch = end.boot_epoch.checked_add(1);
        end.boot_epoch = epoch.ok_or_else(|| LogError::Options("this log was started 2^32 times".into()))?;
        let payload = BootPayload { in_flight_bytes: self.opts.in_flight_bytes().into() };
        let payload = Bytes::copy_from_slice(zerocopy::IntoBytes::as_bytes(&payload));
        let record = Record {
            kind: KIND_BOOT,
            seq: Seq(0),
            view: View(0),
            digest: Digest::ZERO,
            payload: vec![payload],
        };
        let queued = Queued { lsn: end.lsn, record };
        let mut packer = Packer::new(end);
        let mut buffer = AlignedBuffer::new(DATA_START);
        if packer.end.left() < queued.bytes() {
            self.next_segment(&mut packer, &mut buffer, &path)?;
        }
        let number = packer.end.segment;
        let offset = packer.end.offset;
        let durable = self.scan.findings.last;
        let filled = packer.fill(&mut [queued].into(), &mut buffer[..BLOCK_BYTES], durable);
        let file = self.disk.open(&segment_name(number)).map_err(|e| LogError::io(&path, "open", e))?;
        file.write(&buffer[..filled.bytes], offset as u64, true)
            .map_err(|e| LogError::io(&path, "write the boot record", e))?;
        let index = self.scan.segments.last_mut().expect("a segment is in use");
        index.add_forced(durable.next(), offset);
        Ok(packer)
    }

    /// The last segment is full to its last block: the boot record goes into the next.
    fn next_segment(&mut self, packer: &mut Packer, buffer: &mut [u8], path: &Path) -> Result<(), LogError> {
        let io = |e| LogError::io(path, "make the next segment", e);
        let spare = if self.scan.spares.is_empty() {
            let number = packer.end.segment + 1;
            let stop = AtomicBool::new(false);
            let file = make_segment(&*self.disk, number, self.opts.segment_bytes, None, &stop).map_err(io)?;
            Spare { number, file, life: 0 }
        } else {
            self.scan.spares.remove(0)
        };
        let of = SegmentHeader { in_flight_bytes: self.opts.in_flight_bytes() as u32, ..self.scan.header };
        let header = packer.end.rotate(random_salt(), &spare, &of, self.scan.findings.last);
        header.encode_both(buffer);
        spare.file.write(&buffer[..DATA_START], 0, true).map_err(io)?;
        self.scan.segments.push(reader::SegmentIndex::new(&header, spare.file));
        Ok(())
    }
}

fn start_thread(stage: Stage, new_writer: NewWriter) -> std::io::Result<JoinHandle<()>> {
    let (shared, events) = (stage.shared.clone(), stage.events.clone());
    let (ready, wait) = crossbeam::channel::bounded(1);
    // The ring belongs to the thread that makes it.
    let run = move || match new_writer(shared.wake.clone()) {
        Ok(writer) => {
            let _ = ready.send(Ok(()));
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stage.run(writer)));
            // Nothing can be durable any more: whoever waits for it must hear so.
            if ran.is_err() && !shared.failed.swap(true, Ordering::AcqRel) {
                let panicked = std::io::Error::other("it panicked");
                events(LogEvent::Failed(LogFailed::new(0, 0, "the log thread", &panicked)));
            }
        }
        Err(e) => {
            let _ = ready.send(Err(e));
        }
    };
    let thread = std::thread::Builder::new().name("log".into()).spawn(run)?;
    wait.recv().unwrap_or_else(|_| Err(std::io::Error::other("the log thread ended at its start")))?;
    Ok(thread)
}

/// Why a record was not taken. It is in [`AppendError::record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendRefusal {
    /// `queued_bytes_max` would be passed: wait for the next `Persisted`.
    Full,
    /// The log's bound or the disk's end is near: wait for `Room(true)`.
    NoRoom,
    /// Above `record_bytes_max`.
    TooLarge,
    /// A write failed; nothing is taken any more.
    Failed,
}

/// A record that was not taken.
#[derive(Debug, thiserror::Error)]
#[error("the log does not take a record: {why:?}")]
pub struct AppendError {
    /// The cause.
    pub why: AppendRefusal,
    /// What was to be appended.
    pub record: Record,
}

/// The appending end of a running log. Dropping it stops the log as [`Log::stop`] does.
pub struct Log {
    shared: Arc<Shared>,
    next: Lsn,
    bounds: Bounds,
    queued_bytes_max: usize,
    backend: String,
    thread: Option<JoinHandle<()>>,
    maker: Option<Maker>,
    _lock: Option<File>,
}

impl Log {
    /// The number that the next record gets.
    pub fn next_lsn(&self) -> Lsn {
        self.next
    }

    /// Queues a record for the next group and returns its number. *Durable* is a later [`LogEvent::Persisted`] whose
    /// `upto` is at least that. No I/O here, at most a wake-up.
    /// Errors: [`AppendError`] with the record in it.
    pub fn append(&mut self, record: Record) -> Result<Lsn, AppendError> {
        let (room, reserve) = (self.shared.room.load(Ordering::Acquire), self.bounds.reserve_bytes());
        match self.queue(record, if room { reserve } else { i64::MAX }) {
            // The thread has not said so: what is queued may turn out smaller on disk than it was taken for.
            Err(e) if e.why == AppendRefusal::NoRoom && room => {
                Err(AppendError { why: AppendRefusal::Full, record: e.record })
            }
            other => other,
        }
    }

    /// As [`Log::append`], for records without which the replica cannot go on (views, marks): these may still use the
    /// reserve, one segment. Refused with `NoRoom` when that is used up, too.
    pub fn append_control(&mut self, record: Record) -> Result<Lsn, AppendError> {
        self.queue(record, 0)
    }

    /// Queues records together and returns the number of the last one: those that fit into one write leave in one. All or none.
    /// `reserve`: they may use the room that is kept for control records. Errors: why not, with the records.
    pub fn append_all(
        &mut self,
        records: Vec<Record>,
        reserve: bool,
    ) -> Result<Lsn, (AppendRefusal, Vec<Record>)> {
        records.iter().for_each(Record::check_kind);
        let lsns = (self.next.0..).map(Lsn);
        let queued: Vec<Queued> = lsns.zip(records).map(|(lsn, record)| Queued { lsn, record }).collect();
        let bytes: usize = queued.iter().map(Queued::bytes).sum();
        let takes: usize = queued.iter().map(Queued::room_bytes).sum();
        let largest = queued.iter().map(|q| q.record.payload_bytes()).max().unwrap_or(0);
        let kept = match (reserve, self.shared.room.load(Ordering::Acquire)) {
            (true, _) => 0,
            (false, true) => self.bounds.reserve_bytes(),
            (false, false) => i64::MAX,
        };
        match self.refusal(bytes, takes, largest, kept) {
            Some(why) => Err((why, queued.into_iter().map(|q| q.record).collect())),
            None => {
                self.next = Lsn(self.next.0 + queued.len() as u64);
                self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
                self.shared.queued_room.fetch_add(takes, Ordering::AcqRel);
                self.shared.post(|mail| mail.records.extend(queued));
                Ok(Lsn(self.next.0 - 1))
            }
        }
    }

    /// Why so many bytes, `largest` of them the largest payload, are not taken now.
    fn refusal(&self, bytes: usize, takes: usize, largest: usize, kept: i64) -> Option<AppendRefusal> {
        let queued_bytes = self.shared.queued_bytes.load(Ordering::Acquire);
        let queued_room = self.shared.queued_room.load(Ordering::Acquire);
        let room = self.shared.room_bytes.load(Ordering::Acquire) - queued_room as i64;
        if self.has_failed() {
            Some(AppendRefusal::Failed)
        } else if largest > self.bounds.record_bytes_max {
            Some(AppendRefusal::TooLarge)
        } else if queued_bytes + bytes > self.queued_bytes_max {
            Some(AppendRefusal::Full)
        } else if room.saturating_sub(takes as i64) < kept {
            Some(AppendRefusal::NoRoom)
        } else {
            None
        }
    }

    fn queue(&mut self, record: Record, reserve: i64) -> Result<Lsn, AppendError> {
        record.check_kind();
        let payload = record.payload_bytes();
        let queued = Queued { lsn: self.next, record };
        let (bytes, takes) = (queued.bytes(), queued.room_bytes());
        if let Some(why) = self.refusal(bytes, takes, payload, reserve) {
            return Err(AppendError { why, record: queued.record });
        }
        self.next = self.next.next();
        self.shared.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.shared.queued_room.fetch_add(takes, Ordering::AcqRel);
        self.shared.post(|mail| mail.records.push(queued));
        Ok(Lsn(self.next.0 - 1))
    }

    /// Gives up the records below `below`: every segment that holds only such records, and whose successor holds a
    /// durable one, leaves the log soon; their space is used again. Nothing is waited for, and a crash may bring them back until
    /// the caller says so again. Segments never leave by themselves. A lower `below` than before changes nothing.
    ///
    /// [`LogReader::read`] of such a record ends in [`LogError::NotThere`], except one that has begun.
    pub fn recycle(&self, below: Lsn) {
        self.shared.post(|mail| mail.below = mail.below.max(Some(below)));
    }

    /// The oldest record that was not recycled, or the number that it will get.
    pub fn first_lsn(&self) -> Lsn {
        self.shared.index.first_lsn()
    }

    /// Bytes that may be appended and not yet in a write.
    pub fn queued_bytes_max(&self) -> usize {
        self.queued_bytes_max
    }

    /// Bytes appended and not yet in a write, headers included.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queued_bytes.load(Ordering::Acquire)
    }

    /// Whether ordinary records are taken.
    pub fn has_room(&self) -> bool {
        self.shared.room.load(Ordering::Acquire) && !self.has_failed()
    }

    /// Whether a write failed.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// The last durable record.
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.index.durable.load(Ordering::Acquire))
    }

    /// The first record of the oldest segment among the last ones that together take `bytes` of disk.
    pub fn keep_from(&self, bytes: u64) -> Lsn {
        self.shared.index.keep_from(bytes)
    }

    /// Disk bytes that all segments may take together.
    pub fn bytes_max(&self) -> u64 {
        self.bounds.bytes_max
    }

    /// Counters since the start.
    pub fn stats(&self) -> LogStats {
        self.shared.stats.lock().clone()
    }

    /// Which way writes reach the disk, and why not io_uring if not.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Writes what is queued, waits for it and ends the log's threads.
    pub fn stop(mut self) {
        self.shut_down();
    }

    /// As [`Log::stop`], unless the disk does not answer within `patience`: then the threads are left behind, and with them the
    /// lock, because what they are at may still be written. Returns whether they ended.
    pub fn stop_within(mut self, patience: Duration) -> bool {
        self.shared.post(|mail| mail.stop = true);
        self.shared.wake.signal();
        let until = Instant::now() + patience;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= until {
                ::log::error!("log: the disk does not answer; what is queued for it may not be written");
                std::mem::forget(self);
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.shut_down();
        true
    }

    fn shut_down(&mut self) {
        self.shared.post(|mail| mail.stop = true);
        self.shared.wake.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.maker = None;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shut_down();
        }
    }
}

/// One record of an inspected log.
#[derive(Debug)]
pub struct Inspected {
    /// Number of its segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// Start of the log in which it was written, counted from 1.
    pub boot_epoch: u32,
    /// What was known durable when it was written.
    pub durable_lsn: Lsn,
    /// The record; the log's own have kind 240 (boot) and 241 (durable trailer) and repeat the lsn before them.
    pub record: ScannedRecord,
}

/// Reads a log without locking or changing it, also the log's own records, and judges it as [`open`] would.
/// `each` may stop it with words of refusal. A log that is being written looks torn, and one whose segments are being recycled
/// meanwhile may look damaged or lack a file.
/// Errors: as [`open`].
pub fn inspect(
    dir: &Path,
    each: &mut dyn FnMut(Inspected) -> Result<(), String>,
) -> Result<RecoveryReport, LogError> {
    look(dir, false, &mut |inspected, _| each(inspected).map(|()| true))
}

/// As [`inspect`], as [`open_damaged`] would: `each` is told whether the payload is what was written, and says whether it can do
/// without one that is not.
pub fn inspect_damaged(
    dir: &Path,
    each: &mut dyn FnMut(Inspected, bool) -> Result<bool, String>,
) -> Result<RecoveryReport, LogError> {
    look(dir, true, each)
}

fn look(
    dir: &Path,
    repairs: bool,
    each: &mut dyn FnMut(Inspected, bool) -> Result<bool, String>,
) -> Result<RecoveryReport, LogError> {
    if !dir.is_dir() {
        return Err(LogError::NotFormatted(dir.into()));
    }
    let io = |e| LogError::io(dir, "open", e);
    // Without O_DIRECT only where the log itself would go without.
    let direct = !sys::is_memory_fs(dir).map_err(io)?;
    let mut disk = RealDisk::new(dir.into(), direct).map_err(io)?;
    disk.read_only = true;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let unseen = Progress::default();
    let mut sink = |header: &RecordHeader, payload: Payload, place: Place| {
        let (payload, whole) = match payload {
            Payload::Whole(payload) => (payload, true),
            Payload::Rotten(payload) => (payload, false),
        };
        let record = reader::scanned(header, payload);
        let inspected = Inspected {
            segment: place.segment,
            offset: place.offset,
            boot_epoch: header.boot_epoch,
            durable_lsn: header.durable_lsn,
            record,
        };
        match each(inspected, whole) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(dir, header, place)),
            Err(why) => Err(LogError::Refused { lsn: header.lsn, why }),
        }
    };
    let scan = scan::scan(&disk, dir, None, false, repairs, &unseen, &mut sink)?;
    scan.damage(dir)?;
    Ok(RecoveryReport::of(&scan))
}

/// The caller cannot do without the payload of this record.
fn refused(dir: &Path, header: &RecordHeader, place: Place) -> LogError {
    LogError::Damaged {
        file: dir.join(segment_name(place.segment)),
        offset: place.offset,
        lsn: Lsn(header.lsn.0 - 1),
        why: Damage::BelowDurable(header.lsn),
    }
}

/// Words for the log's own kinds, for `dump`.
pub fn own_kind_name(kind: u8) -> Option<&'static str> {
    match kind {
        KIND_BOOT => Some("boot"),
        KIND_TRAILER => Some("trailer"),
        _ => None,
    }
}

/// How long another holder of the lock is waited for. A child that this process, or the last holder, has just forked
/// holds it too, until it becomes another program; a replica that was killed may take a moment to be gone.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

pub(crate) fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("LOCK");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| LogError::io(dir, "lock", e))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(LogError::Locked(dir.into())),
            Err(std::fs::TryLockError::Error(e)) => return Err(LogError::io(dir, "lock", e)),
        }
    }
}

/// Checks the file system and opens the directory.
fn real_disk(opts: &LogOptions) -> Result<Arc<dyn Disk>, LogError> {
    let dir = &opts.dir;
    let memory = sys::is_memory_fs(dir).map_err(|e| LogError::io(dir, "statfs", e))?;
    if memory && !opts.allow_tmpfs {
        return Err(LogError::Tmpfs(dir.clone()));
    }
    if let Some(needed) = check::direct_io_problem(dir)? {
        if !memory {
            return Err(needed);
        }
        return Ok(Arc::new(RealDisk::new(dir.clone(), false).map_err(|e| LogError::io(dir, "open", e))?));
    }
    Ok(Arc::new(RealDisk::new(dir.clone(), true).map_err(|e| LogError::io(dir, "open", e))?))
}

/// The backend to use, in words and as a constructor for the log thread.
fn choose_backend(disk: &dyn Disk, opts: &LogOptions) -> Result<(String, NewWriter), LogError> {
    let why_not = match opts.io {
        IoBackend::Threads => Some("chosen".to_owned()),
        _ => check::probe_uring(disk).err(),
    };
    match (opts.io, why_not) {
        (IoBackend::Uring, Some(why)) => Err(LogError::NoUring(why)),
        (_, None) => {
            let slots = opts.writes_in_flight_max;
            let words = format!("io_uring, up to {slots} writes in flight");
            Ok((words, Box::new(move |wake| Ok(Box::new(UringWriter::new(slots, wake)?)))))
        }
        (io, Some(why)) => {
            let why = if io == IoBackend::Auto { format!("; io_uring: {why}") } else { String::new() };
            let words = format!("pwritev2, one write at a time{why}");
            Ok((words, Box::new(move |wake| Ok(Box::new(ThreadsWriter::new(wake))))))
        }
    }
}

fn random_salt() -> u64 {
    let mut salt = [0; 8];
    ring::rand::SystemRandom::new().fill(&mut salt).expect("the system has random numbers");
    u64::from_le_bytes(salt)
}
