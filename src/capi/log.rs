//! The durable log: bytes in, "it survives power loss" out.

use super::bell::Bell;
use super::buffers::Buffers;
use super::conf::{Values, duramen_conf, values_of};
use super::entry::{bytes, enter, give, give_text, out};
use super::handle::{self, Ending, Object};
use super::status::*;
use crate::log::{
    AppendRefusal, IoBackend, Log, LogError, LogEvent, LogFailed, LogOptions, LogReader, Record,
    ScannedRecord,
};
use crate::types::{ClusterId, Digest, Lsn, ReplicaId, Seq, View};
use parking_lot::{Condvar, Mutex};
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Instant;

/// A log of the host's records on disk. A handle.
pub struct duramen_log {
    _opaque: (),
}

/// Some bytes of the host: pointer and length; NULL if the length is 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_bytes {
    /// The first of them.
    pub bytes: *const c_void,
    /// How many.
    pub len: usize,
}

/// A record as it was appended. It lives until the callback that gets it returns.
#[repr(C)]
pub struct duramen_record {
    /// Its size here; later versions may have more at the end.
    pub struct_size: usize,
    /// Its number: 1, 2, 3 and so on.
    pub lsn: u64,
    /// The host's.
    pub tag: u64,
    /// The host's, 1 to 239.
    pub kind: u32,
    /// Its bytes, as one piece.
    pub bytes: *const c_void,
    /// How many.
    pub len: usize,
}

/// Takes a record. Returns 0 to go on, anything else to stop.
pub type duramen_record_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, record: *const duramen_record) -> i32>;

/// The highest kind of record that a host has.
pub const DURAMEN_KIND_MAX: u32 = 239;

/// So that nothing else takes it for its own.
const OWNER: ClusterId = ClusterId(*b"duramen host log");

/// What waits and what the log's thread tells share.
struct State {
    durable: Lsn,
    failed: Option<LogFailed>,
    closing: bool,
}

struct Watch {
    state: Mutex<State>,
    moved: Condvar,
    bell: Bell,
}

/// Behind the handle.
struct HostLog {
    log: Mutex<Option<Log>>,
    reader: LogReader,
    watch: Arc<Watch>,
    record_bytes_max: usize,
    buffers: Buffers,
    appended: Arc<Mutex<Lsn>>,
    ending: Option<Ending>,
}

/// The code that stands for an error of a log.
pub(super) fn log_failure(error: LogError) -> Failure {
    let code = match &error {
        LogError::Locked(_) => DURAMEN_E_BUSY,
        LogError::NotFormatted(_) | LogError::NotThere(_) => DURAMEN_E_NOT_FOUND,
        LogError::AlreadyFormatted(_) => DURAMEN_E_STATE,
        LogError::WrongCluster { .. } | LogError::WrongReplica { .. } | LogError::OtherFormat { .. } => {
            DURAMEN_E_REFUSED
        }
        LogError::Damaged { .. } => DURAMEN_E_DAMAGED,
        LogError::Tmpfs(_) | LogError::NoUring(_) | LogError::Options(_) => DURAMEN_E_CONFIG,
        LogError::Full(_) => DURAMEN_E_NO_SPACE,
        LogError::Refused { .. } => DURAMEN_E_CALLBACK,
        LogError::Io { source, .. } => io_code(source),
        _ => DURAMEN_E_IO,
    };
    Failure::new(code, error.to_string())
}

fn failed(why: &LogFailed) -> Failure {
    Failure::new(DURAMEN_E_IO, format!("the log takes nothing any more: {}", why.cause()))
}

/// The options that the keys of a log stand for.
pub(super) fn log_options(values: &Values, owner: ClusterId) -> LogOptions {
    let segment_bytes = values.number("segment-mib") << 20;
    // What a segment's end may leave unused, and the log's reserve, grow with it.
    let record_bytes_max = (16 << 20).min(segment_bytes as usize / 4);
    let queued_bytes_max = (values.number("queue-mib") as usize) << 20;
    LogOptions {
        segment_bytes,
        bytes_max: segment_bytes * values.number("segments"),
        prefill_segments: values.number("prefill-segments") as usize,
        group_bytes_max: (values.number("group-kib") as usize) << 10,
        record_bytes_max,
        queued_bytes_max: queued_bytes_max.max(record_bytes_max + (1 << 20)),
        io: match values.text("io") {
            "uring" => IoBackend::Uring,
            "threads" => IoBackend::Threads,
            _ => IoBackend::Auto,
        },
        allow_tmpfs: values.flag("allow-tmpfs"),
        ..LogOptions::new(values.text("dir"), owner, ReplicaId(0))
    }
}

/// Calls the host with a record. Errors: its words of refusal.
fn hand_over(record: &ScannedRecord, function: duramen_record_fn, user: *mut c_void) -> Result<(), String> {
    let Some(function) = function else { return Ok(()) };
    let payload = &record.payload;
    let shown = duramen_record {
        struct_size: size_of::<duramen_record>(),
        lsn: record.lsn.0,
        tag: record.seq.0,
        kind: record.kind.into(),
        bytes: if payload.is_empty() { std::ptr::null() } else { payload.as_ptr().cast() },
        len: payload.len(),
    };
    // SAFETY: the host gave function and user for each other; the record lives until after the call.
    match unsafe { function(user, &raw const shown) } {
        0 => Ok(()),
        code => Err(format!("the callback returned {code}")),
    }
}

impl Watch {
    fn tell(&self, event: LogEvent) {
        let mut state = self.state.lock();
        match event {
            LogEvent::Persisted(persisted) => state.durable = persisted.upto(),
            LogEvent::Failed(why) => state.failed = Some(why),
            LogEvent::Room(_) => {}
        }
        drop(state);
        self.moved.notify_all();
        self.bell.ring();
    }

    fn wait(&self, lsn: Lsn, until: Option<Instant>) -> Result<(), Failure> {
        let mut state = self.state.lock();
        loop {
            if lsn <= state.durable {
                return Ok(());
            }
            if let Some(why) = &state.failed {
                return Err(failed(why));
            }
            if state.closing {
                return Err(Failure::new(DURAMEN_E_STATE, "the log is being destroyed"));
            }
            match until {
                None => self.moved.wait(&mut state),
                Some(until) if Instant::now() >= until => {
                    let why = format!("record {lsn} is not durable yet; {} is", state.durable);
                    return Err(Failure::new(DURAMEN_E_TIMEOUT, why));
                }
                Some(until) => drop(self.moved.wait_until(&mut state, until)),
            }
        }
    }
}

impl HostLog {
    fn open(values: &Values, function: duramen_record_fn, user: *mut c_void) -> Result<Self, Failure> {
        let options = log_options(values, OWNER);
        let record_bytes_max = options.record_bytes_max;
        let open = crate::log::open(options, &mut |record| hand_over(&record, function, user));
        let open = open.map_err(log_failure)?;
        let last = open.report().last_lsn;
        let watch = Arc::new(Watch {
            state: Mutex::new(State { durable: last, failed: None, closing: false }),
            moved: Condvar::new(),
            bell: Bell::new()?,
        });
        let told = watch.clone();
        let (log, reader) = open.start(Box::new(move |event| told.tell(event))).map_err(log_failure)?;
        let appended = Arc::new(Mutex::new(last));
        Ok(Self {
            log: Mutex::new(Some(log)),
            reader,
            watch,
            record_bytes_max,
            buffers: Buffers::default(),
            appended,
            ending: None,
        })
    }

    fn append(&self, kind: u32, tag: u64, parts: &[&[u8]]) -> Result<u64, Failure> {
        let kind = match u8::try_from(kind) {
            Ok(kind @ 1..=239) => kind,
            _ => return Err(Failure::argument(format!("kind {kind}: must be 1 to {DURAMEN_KIND_MAX}"))),
        };
        let bytes = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let most = self.record_bytes_max;
        if bytes > most {
            let why = format!("a record of {bytes} bytes; this log takes {most} (segment-mib)");
            return Err(Failure::new(DURAMEN_E_TOO_LARGE, why));
        }
        let payload = vec![self.buffers.copy(parts)];
        let record = Record { kind, seq: Seq(tag), view: View(0), digest: Digest::ZERO, payload };
        let mut log = self.log.lock();
        // Held meanwhile: it may be durable before its number is here.
        let mut last = self.appended.lock();
        let appended = log.as_mut().expect("no call comes after the end").append(record);
        match appended {
            Ok(lsn) => {
                *last = lsn;
                Ok(lsn.0)
            }
            Err(refused) => {
                drop(last);
                drop(log);
                Err(match refused.why {
                    AppendRefusal::Full => {
                        Failure::new(DURAMEN_E_BUSY, "queue-mib are appended and not written yet")
                    }
                    AppendRefusal::NoRoom => {
                        let why = "the log's segments or its disk are full: trim, then try again";
                        Failure::new(DURAMEN_E_NO_SPACE, why)
                    }
                    AppendRefusal::TooLarge => Failure::new(DURAMEN_E_TOO_LARGE, "the record is too large"),
                    AppendRefusal::Failed => {
                        let state = self.watch.state.lock();
                        let unknown = || Failure::new(DURAMEN_E_IO, "the log failed");
                        state.failed.as_ref().map_or_else(unknown, failed)
                    }
                })
            }
        }
    }

    fn metrics(&self) -> String {
        let log = self.log.lock();
        let log = log.as_ref().expect("no call comes after the end");
        let (stats, durable) = (log.stats(), log.durable());
        let mut text = String::new();
        let mut figure = |kind: &str, name: &str, value: u64| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            text += &format!("# TYPE duramen_log_{name} {kind}\nduramen_log_{name}{suffix} {value}\n");
        };
        figure("gauge", "durable_lsn", durable.0);
        figure("gauge", "appended_lsn", log.next_lsn().0 - 1);
        figure("gauge", "first_lsn", log.first_lsn().0);
        figure("gauge", "queued_bytes", log.queued_bytes() as u64);
        figure("gauge", "has_room", log.has_room().into());
        figure("gauge", "failed", log.has_failed().into());
        figure("gauge", "segments", stats.segments as u64);
        figure("gauge", "spare_segments", stats.spare_segments as u64);
        figure("gauge", "files_bytes", stats.files_bytes);
        figure("counter", "writes", stats.writes);
        figure("counter", "written_bytes", stats.bytes);
        figure("counter", "records", stats.records);
        figure("gauge", "write_ns_p50", stats.write_ns.value_at_quantile(0.5));
        figure("gauge", "write_ns_p99", stats.write_ns.value_at_quantile(0.99));
        let backend = log.backend().replace(['"', '\\', '\n'], " ");
        text +=
            &format!("# TYPE duramen_log_backend info\nduramen_log_backend_info{{way=\"{backend}\"}} 1\n");
        text + "# EOF\n"
    }
}

impl Object for HostLog {
    type Opaque = duramen_log;
    const KIND: &str = "a log";

    fn closing(&self) {
        self.watch.state.lock().closing = true;
        self.watch.moved.notify_all();
    }

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        if let Some(log) = self.log.get_mut().take() {
            self.ending = Some(Ending::start(move || log.stop())?);
        }
        if let Some(ending) = &mut self.ending {
            ending.wait(until, "the log's last writes are under way")?;
            self.ending = None;
        }
        let state = self.watch.state.lock();
        match &state.failed {
            Some(why) if state.durable < *self.appended.lock() => Err(failed(why)),
            _ => Ok(()),
        }
    }
}

/// Makes an empty log in the folder `dir`, and the folder if it is missing.
///
/// Keys used (see duramen_conf_set): dir, segment-mib, group-kib, allow-tmpfs. Ownership: `conf` stays the caller's. Thread: any;
/// blocks for the disk. Starts no thread.
///
/// Errors: DURAMEN_E_STATE (there is a log already), DURAMEN_E_CONFIG (a file system in memory without allow-tmpfs, sizes that do not go
/// together), DURAMEN_E_NO_SPACE, DURAMEN_E_BUSY (another process has it), DURAMEN_E_IO, DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_log_format(conf: *const duramen_conf) -> i32 {
    enter(|| {
        let options = log_options(&values_of(conf)?, OWNER);
        crate::log::format(&options).map_err(log_failure)?;
        Ok(DURAMEN_OK)
    })
}

/// Opens the log in `dir` for this process alone, hands every record that survived to `cb`, in order, and starts it.
///
/// What was reported durable, and was not trimmed, is there. What was appended and not reported may be there or not, but without a gap. A record
/// that was not handed over never comes back. `cb` may be NULL.
///
/// Keys used (see duramen_conf_set): dir, segment-mib, segments, io, queue-mib, group-kib, prefill-segments, allow-tmpfs.
///
/// Ownership: `conf` stays the caller's; a record lives until `cb` returns; `*out` is the caller's until duramen_log_destroy, and NULL on
/// failure. Thread of `cb`: this one, before this returns; it may use other handles. `cb` returns 0, or anything else to give up: DURAMEN_E_CALLBACK.
/// Starts two threads.
///
/// Errors: DURAMEN_E_NOT_FOUND (no log here: duramen_log_format), DURAMEN_E_DAMAGED (something durable is gone or changed; nothing on disk was
/// touched; the message says where; `cb` may have seen the records before it), DURAMEN_E_CALLBACK, DURAMEN_E_REFUSED (another
/// owner's log, or another version's), DURAMEN_E_BUSY (another process has it open), DURAMEN_E_NO_SPACE, DURAMEN_E_CONFIG, DURAMEN_E_IO,
/// DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
///
/// # Safety
/// `out` points to a place for a pointer; `cb` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_open(
    conf: *const duramen_conf,
    cb: duramen_record_fn,
    user: *mut c_void,
    out: *mut *mut duramen_log,
) -> i32 {
    enter(|| {
        let place = self::out("out", out)?;
        // SAFETY: the caller's promise.
        unsafe { place.write(std::ptr::null_mut()) };
        let log = handle::insert(HostLog::open(&values_of(conf)?, cb, user)?)?;
        // SAFETY: the caller's promise.
        unsafe { place.write(log) };
        Ok(DURAMEN_OK)
    })
}

/// Appends a record and returns at once: it is written with the next group. `*lsn` (may be NULL) gets its number: one more than the
/// record's before it. It is durable when duramen_log_wait or duramen_log_durable say so.
///
/// `kind` (1 to DURAMEN_KIND_MAX) and `tag` are the host's; they are kept and given back.
///
/// Ownership: the bytes are copied before this returns. Thread: any; the order of several threads' records is that of their numbers.
/// Re-entrancy: any callback.
///
/// Errors, of which nothing was taken: DURAMEN_E_BUSY (queue-mib wait for the disk: wait for an earlier record, then again),
/// DURAMEN_E_NO_SPACE (`segments`, or the disk, are full: trim, then again), DURAMEN_E_TOO_LARGE (above 16 MiB or a fourth of a segment),
/// DURAMEN_E_IO (a write failed: this log takes nothing any more), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
/// DURAMEN_E_POISONED.
///
/// # Safety
/// `record` has `len` bytes; `lsn` is NULL or points to a uint64_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_append(
    log: *mut duramen_log,
    kind: u32,
    tag: u64,
    record: *const c_void,
    len: usize,
    lsn: *mut u64,
) -> i32 {
    handle::with::<HostLog>(log, |log| {
        // SAFETY: the caller's promises.
        unsafe {
            let appended = log.append(kind, tag, &[bytes("record", record, len)?])?;
            give(lsn, appended);
        }
        Ok(DURAMEN_OK)
    })
}

/// As duramen_log_append, of one record whose bytes lie in `count` pieces, one behind the other.
///
/// Ownership: pieces and bytes are copied before this returns; `parts` may be NULL if `count` is 0. Thread, re-entrancy, errors: as of
/// duramen_log_append.
///
/// # Safety
/// `parts` has `count` elements, and each has the bytes that it names; `lsn` is NULL or points to a uint64_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_appendv(
    log: *mut duramen_log,
    kind: u32,
    tag: u64,
    parts: *const duramen_bytes,
    count: usize,
    lsn: *mut u64,
) -> i32 {
    handle::with::<HostLog>(log, |log| {
        // SAFETY: the caller's promises.
        unsafe {
            let appended = log.append(kind, tag, &self::parts(parts, count)?)?;
            give(lsn, appended);
        }
        Ok(DURAMEN_OK)
    })
}

/// The bytes that an array of pieces names.
///
/// # Safety
/// `parts` has `count` elements, and each has the bytes that it names, as long as `'a`.
pub(super) unsafe fn parts<'a>(parts: *const duramen_bytes, count: usize) -> Result<Vec<&'a [u8]>, Failure> {
    let most = isize::MAX as usize / size_of::<duramen_bytes>();
    if count > most || (parts.is_null() && count > 0) {
        return Err(Failure::argument(format!(
            "an array of {count} pieces is NULL or longer than any object"
        )));
    }
    // SAFETY: the caller's promises.
    let read = |at: usize| unsafe {
        let part = parts.add(at).read_unaligned();
        bytes("a piece", part.bytes, part.len)
    };
    (0..count).map(read).collect()
}

/// Waits until record `lsn`, and with it every one before it, is durable: it survives a loss of power.
///
/// `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any, several at once. Re-entrancy: any callback. `lsn` 0 is always durable.
///
/// Errors: DURAMEN_E_TIMEOUT (not yet), DURAMEN_E_IO (a write failed: it may be on disk or not, and nothing becomes durable any more),
/// DURAMEN_E_ARGUMENT (no record has that number yet), DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_log_wait(log: *mut duramen_log, lsn: u64, timeout_ms: u64) -> i32 {
    handle::with::<HostLog>(log, |log| {
        let last = *log.appended.lock();
        if Lsn(lsn) > last {
            return Err(Failure::argument(format!("record {lsn} was not appended; the last one is {last}")));
        }
        log.watch.wait(Lsn(lsn), handle::until(timeout_ms))?;
        Ok(DURAMEN_OK)
    })
}

/// `*lsn` gets the number of the last durable record (0: none). Makes the descriptor of duramen_log_fd unreadable until something happens
/// again.
///
/// Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_IO (a write failed; `*lsn` was written all the same), DURAMEN_E_ARGUMENT,
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `lsn` points to a uint64_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_durable(log: *mut duramen_log, lsn: *mut u64) -> i32 {
    handle::with::<HostLog>(log, |log| {
        let place = out("lsn", lsn)?;
        // Before the look: what happens after it rings again.
        log.watch.bell.silence();
        let state = log.watch.state.lock();
        // SAFETY: the caller's promise.
        unsafe { place.write(state.durable.0) };
        state.failed.as_ref().map_or(Ok(DURAMEN_OK), |why| Err(failed(why)))
    })
}

/// `*first` gets the number of the oldest record that was not trimmed (or that it will get), `*last` that of the last one appended. Either may be
/// NULL.
///
/// Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// Both are NULL or point to a uint64_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_range(log: *mut duramen_log, first: *mut u64, last: *mut u64) -> i32 {
    handle::with::<HostLog>(log, |log| {
        let appended = log.appended.lock().0;
        // SAFETY: the caller's promises.
        unsafe {
            give(first, log.reader.first_lsn().0);
            give(last, appended);
        }
        Ok(DURAMEN_OK)
    })
}

/// An eventfd that becomes readable when more is durable, when the log fails, and when it has room again; duramen_log_durable makes it unreadable.
///
/// Ownership: the library's: do not read, write or close it; it is closed by duramen_log_destroy. Returns the descriptor (at least 0) or
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_log_fd(log: *mut duramen_log) -> i32 {
    handle::with::<HostLog>(log, |log| Ok(log.watch.bell.fd()))
}

/// Reads the durable records from number `from` on and hands them to `cb`, in order, until it returns something else than 0 or none is left.
/// Returns how many it took (at least 0; at most `max`, 0: no limit).
///
/// Ownership: a record lives until `cb` returns. Thread of `cb`: this one. Re-entrancy: `cb` may append and trim, and read itself. Reads are
/// direct reads of the disk, about 64 KiB each.
///
/// Errors: DURAMEN_E_NOT_FOUND (`from` was trimmed, or is 0), DURAMEN_E_DAMAGED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`cb` is NULL), DURAMEN_E_STATE
/// (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `cb` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_read(
    log: *mut duramen_log,
    from: u64,
    max: u32,
    cb: duramen_record_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostLog>(log, |log| {
        if cb.is_none() {
            return Err(Failure::argument("cb is NULL: nobody would see the records"));
        }
        let max = if max == 0 { i32::MAX as u32 } else { max.min(i32::MAX as u32) };
        let mut count = 0;
        for lsn in (from..=u64::MAX).take(max as usize).map(Lsn) {
            let record = match log.reader.read(lsn) {
                Ok(record) => record,
                // Behind the last durable one.
                Err(LogError::NotThere(_)) if lsn.0 > 0 && lsn > log.reader.durable() => break,
                Err(e) => return Err(log_failure(e)),
            };
            count += 1;
            if hand_over(&record, cb, user).is_err() {
                break;
            }
        }
        Ok(count)
    })
}

/// Gives up the records below number `below`: the space of whole segments of them is used again, soon. A crash may bring them back.
/// A lower number than before changes nothing. One above the record that is appended next stands for that: records that come later are never given up by it.
///
/// Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_log_trim(log: *mut duramen_log, below: u64) -> i32 {
    handle::with::<HostLog>(log, |log| {
        let log = log.log.lock();
        let log = log.as_ref().expect("no call comes after the end");
        // The log keeps the highest number for ever.
        log.recycle(Lsn(below).min(log.next_lsn()));
        Ok(DURAMEN_OK)
    })
}

/// Writes figures about the log as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
///
/// Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
/// written), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `buf` holds `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_log_metrics(
    log: *mut duramen_log,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostLog>(log, |log| {
        // SAFETY: the caller's promise.
        unsafe { give_text(&log.metrics(), buf, cap, len) }
    })
}

/// Writes what was appended, waits for it, and closes the log: after DURAMEN_OK all of it is durable. A duramen_log_wait under way returns
/// DURAMEN_E_STATE.
///
/// `deadline_ms`: how long to wait for calls and the disk; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
/// of this log.
///
/// Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; the writes go on), DURAMEN_E_IO (closed, but a write had failed:
/// not all that was appended is durable), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_log_destroy(log: *mut duramen_log, deadline_ms: u64) -> i32 {
    handle::destroy::<HostLog>(log, deadline_ms)
}
