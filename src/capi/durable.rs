//! The durability layer under the host's own ordering: batches are logged while they execute, and let go when both are done.

use super::bell::Bell;
use super::conf::{Values, duramen_conf, values_of};
use super::durable_queue::{Batch, Queue, Room, Shared};
use super::entry::{Grows, catching, enter, give_text, out, sized};
use super::handle::{self, Call, Ending, Object, Scope};
use super::log::{duramen_bytes, log_failure, log_options, parts};
use super::status::*;
use crate::durable::{Delivery, DeliveryReader, DurableLayer, Host, LayerError, Mode};
use crate::log::{Durable, LogError, LogOptions};
use crate::types::{ClusterId, Digest, Seq, View};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::ffi::{CString, c_char, c_void};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Logs and executes batches in an order that the host made. A handle.
pub struct duramen_durable {
    _opaque: (),
}

/// Takes one operation of batch `seq`, the `index`th from 0. It lives until this returns. Returns 0, or anything else to stop.
pub type duramen_op_fn = Option<
    unsafe extern "C" fn(user: *mut c_void, seq: u64, index: u32, op: *const c_void, len: usize) -> i32,
>;

/// What the layer calls. All of them run on one thread at a time: with callbacks = thread on "duramen-rounds", with callbacks = poll on
/// whoever is in duramen_durable_poll; `replay` on the one that opens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_durable_callbacks {
    /// sizeof(struct duramen_durable_callbacks).
    pub struct_size: usize,
    /// Handed to each of them.
    pub user: *mut c_void,
    /// While it is opened: an operation that was logged before, in order. Anything but 0 gives up the open. NULL: not wanted.
    pub replay: duramen_op_fn,
    /// Execute an operation; the next one comes after it. It may be on disk or not: nothing of it may be seen from outside before `release`.
    /// Anything but 0 ends the layer: nothing of this batch or a later one is released.
    pub execute: duramen_op_fn,
    /// Every operation of batch `seq` is executed, and what it says may leave: it survives a loss of power, except with mode = async. In order.
    pub release: Option<unsafe extern "C" fn(user: *mut c_void, seq: u64)>,
    /// All batches up to `upto` survive a loss of power: right after `release`, with mode = async some time later. NULL: not wanted.
    pub logged: Option<unsafe extern "C" fn(user: *mut c_void, upto: u64)>,
    /// The layer ended by itself (once at most): code and a line that lives until this returns. Nothing is released any more. NULL: not wanted.
    pub ended: Option<unsafe extern "C" fn(user: *mut c_void, code: i32, why: *const c_char)>,
    /// There is room again after duramen_durable_deliver returned DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE, once for all that was turned down: deliver it
    /// again, from here or from where it was refused. What waits was taken into a round, which executes after this returns. NULL: not wanted.
    pub room: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

// SAFETY: repr(C), struct_size first, and zeros are NULLs.
unsafe impl Grows for duramen_durable_callbacks {
    const FIRST_SIZE: usize = 7 * size_of::<usize>();
}

/// So that nothing else takes its log for its own.
const OWNER: ClusterId = ClusterId(*b"duramen deliver\0");
/// How often what was released early is looked after.
const BEHIND_LOOK: Duration = Duration::from_millis(1);

/// The lengths of the operations, then what they add up to must be the body.
fn head_of(ops: &[&[u8]]) -> Bytes {
    ops.iter().flat_map(|op| (op.len() as u32).to_le_bytes()).collect()
}

/// Where the operations lie. Errors: this is none of ours.
fn operations(head: &[u8], body: usize) -> Result<Vec<Range<usize>>, String> {
    let (lengths, []) = head.as_chunks::<4>() else { return Err("a batch without its lengths".into()) };
    let mut at = 0usize;
    let ranges = lengths.iter().map(|length| {
        let from = at;
        at = at.saturating_add(u32::from_le_bytes(*length) as usize);
        from..at
    });
    let ranges: Vec<_> = ranges.collect();
    if at == body { Ok(ranges) } else { Err("a batch whose lengths are not its own".into()) }
}

/// Calls the host with each operation until one of them fails: which and how.
fn each_op(
    function: duramen_op_fn,
    user: *mut c_void,
    seq: Seq,
    ops: &[Range<usize>],
    body: &[u8],
) -> Result<(), String> {
    let Some(function) = function else { return Ok(()) };
    for (index, range) in ops.iter().enumerate() {
        let op = &body[range.clone()];
        let at = if op.is_empty() { std::ptr::null() } else { op.as_ptr().cast() };
        // SAFETY: the host gave function and user for each other; the operation lives until after the call.
        match unsafe { function(user, seq.0, index as u32, at, op.len()) } {
            0 => {}
            code => return Err(format!("operation {index} of batch {seq}: the callback returned {code}")),
        }
    }
    Ok(())
}

/// The host as the layer sees it.
struct Callbacks {
    table: duramen_durable_callbacks,
    shared: Arc<Shared>,
    /// What its execute reported.
    failed: Option<String>,
    /// The last batch whose release was called.
    released: Seq,
}

// SAFETY: `user` is not followed here; on which threads it is used is the host's contract (`duramen_durable_callbacks`).
unsafe impl Send for Callbacks {}

impl Callbacks {
    fn let_go(&mut self, replies: Vec<Option<Seq>>) {
        for seq in replies.into_iter().flatten() {
            self.released = seq;
            if let Some(release) = self.table.release {
                // SAFETY: the host gave function and user for each other.
                unsafe { release(self.table.user, seq.0) };
            }
        }
    }

    /// Whether there was room to tell of.
    fn tell_of_room(&self) -> bool {
        let Some(room) = self.table.room else { return false };
        let again = self.shared.has_room_again();
        if again {
            // SAFETY: the host gave function and user for each other.
            unsafe { room(self.table.user) };
        }
        again
    }

    fn end(&self, code: i32, why: String) {
        if let Some(ended) = self.table.ended {
            let line = CString::new(why.replace('\0', " ")).unwrap_or_default();
            // SAFETY: the host gave function and user for each other; the line lives until after the call.
            unsafe { ended(self.table.user, code, line.as_ptr()) };
        }
        self.shared.update(|queue| queue.ended = Some((code, why)));
        self.shared.bell.ring();
    }
}

impl Host for Callbacks {
    type Batch = Batch;
    /// The batch, if all of it was executed.
    type Replies = Option<Seq>;

    fn delivery(&self, Batch { seq, head, body, .. }: &Batch) -> Delivery {
        Delivery {
            seq: *seq,
            view: View(0),
            digest: Digest::ZERO,
            head: head.clone(),
            body: body.clone(),
            operations: head.len() / 4,
        }
    }

    fn execute(&mut self, Batch { seq, head, body, .. }: Batch) -> Option<Seq> {
        if self.failed.is_some() {
            return None;
        }
        let ops = operations(&head, body.len()).expect("deliver made them");
        match each_op(self.table.execute, self.table.user, seq, &ops, &body) {
            Ok(()) => Some(seq),
            Err(why) => {
                self.failed = Some(why);
                None
            }
        }
    }

    fn release(&mut self, replies: Durable<Vec<Option<Seq>>>) {
        self.let_go(replies.into_inner());
    }

    fn release_early(&mut self, replies: Vec<Option<Seq>>) {
        self.let_go(replies);
    }

    fn logged(&mut self, upto: Seq) {
        // Behind one that failed nothing counts, before it all does.
        let upto = upto.min(self.released);
        if upto <= self.shared.queue.lock().done {
            return;
        }
        if let Some(logged) = self.table.logged {
            // SAFETY: the host gave function and user for each other.
            unsafe { logged(self.table.user, upto.0) };
        }
        self.shared.update(|queue| queue.done = upto);
    }

    fn is_stopping(&self) -> bool {
        self.shared.closing.load(Ordering::Relaxed)
    }
}

/// The layer and its host, for one thread at a time.
struct Work {
    layer: Option<DurableLayer>,
    host: Callbacks,
}

/// What a round did.
#[derive(Default)]
struct Rounded {
    batches: usize,
    /// The host was told of room.
    has_told: bool,
    /// Something is not on disk yet.
    is_behind: bool,
    /// It took nothing because the log's queue is full.
    is_held: bool,
}

impl Work {
    /// One round over at most so many of the batches that wait.
    fn round(&mut self, max: usize) -> Result<Rounded, Failure> {
        let Self { layer: Some(layer), host } = self else { return Ok(Rounded::default()) };
        if let Some((code, why)) = &host.shared.queue.lock().ended {
            return Err(Failure::new(*code, format!("the layer has ended: {why}")));
        }
        host.shared.recycle(layer);
        // Before the look: what comes after it is news again.
        host.shared.queue.lock().news = false;
        // Where nobody waits for the disk, nobody waits for room in its queue either.
        let bytes_max = if layer.mode() == Mode::Async { layer.queue_room() } else { usize::MAX };
        let (taken, is_held) = host.shared.take(max, bytes_max);
        let (batches, has_told) = (taken.len(), host.tell_of_room());
        let worked = layer.poll(host).and_then(|()| layer.deliver(taken, host));
        // What its callbacks gave up.
        host.shared.recycle(layer);
        host.shared.hush();
        let (code, why) = match (host.failed.clone(), worked) {
            (Some(why), _) => (DURAMEN_E_CALLBACK, why),
            (None, Ok(())) => {
                return Ok(Rounded { batches, has_told, is_behind: layer.is_behind(), is_held });
            }
            (None, Err(error)) => layer_failure(error),
        };
        host.end(code, why.clone());
        Err(Failure::new(code, why))
    }
}

/// A round, after which the layer has ended if it panicked.
fn round_of(work: &Mutex<Work>, max: usize) -> Result<Rounded, Failure> {
    let mut rounded = Rounded::default();
    let worked = catching(|| {
        rounded = work.lock().round(max)?;
        Ok(DURAMEN_OK)
    });
    if let Err(Failure { code: DURAMEN_E_INTERNAL, message }) = &worked {
        let work = work.lock();
        let has_ended = work.host.shared.queue.lock().ended.is_some();
        if !has_ended {
            work.host.end(DURAMEN_E_INTERNAL, message.clone());
        }
    }
    worked.map(|_| rounded)
}

fn layer_failure(error: LayerError) -> (i32, String) {
    let code = match &error {
        LayerError::Failed(_) => DURAMEN_E_IO,
        LayerError::Full => DURAMEN_E_NO_SPACE,
        LayerError::Stopped => DURAMEN_E_STATE,
        LayerError::TooLarge => DURAMEN_E_TOO_LARGE,
    };
    (code, error.to_string())
}

/// Behind the handle.
struct HostDurable {
    shared: Arc<Shared>,
    work: Arc<Mutex<Work>>,
    reader: DeliveryReader,
    thread: Option<JoinHandle<()>>,
    polled: bool,
    /// The host has a callback for room.
    tells_of_room: bool,
    mode: Mode,
    batch_bytes_max: usize,
    waiting_bytes_max: usize,
    handle: usize,
    ending: Option<Ending>,
    is_ending: bool,
}

fn options(values: &Values) -> LogOptions {
    log_options(values, OWNER)
}

impl HostDurable {
    fn open(values: &Values, options: LogOptions, table: duramen_durable_callbacks) -> Result<Self, Failure> {
        if table.execute.is_none() || table.release.is_none() {
            return Err(Failure::argument("execute or release is NULL"));
        }
        let mode = match values.text("mode") {
            "batched" => Mode::Batched,
            "naive" => Mode::Naive,
            "async" => Mode::Async,
            _ => Mode::Parallel,
        };
        let tells_of_room = table.room.is_some();
        let batch_bytes_max = options.record_bytes_max;
        // What waits, and a round under way, must fit into the log's reserve, which is a segment less its largest record, whether they
        // are written together or each alone.
        let waiting_bytes_max = (options.segment_bytes as usize / 4).min(options.queued_bytes_max);
        let (mut last, mut refused) = (Seq(0), false);
        let open = crate::durable::open(options, mode, &mut |delivery: Delivery| {
            let ops = operations(&delivery.head, delivery.body.len())?;
            last = delivery.seq;
            let taken = each_op(table.replay, table.user, delivery.seq, &ops, &delivery.body);
            refused |= taken.is_err();
            taken
        });
        let open = open.map_err(|error| match error {
            LogError::Refused { .. } if !refused => Failure::new(DURAMEN_E_DAMAGED, error.to_string()),
            error => log_failure(error),
        })?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { last, done: last, ..Default::default() }),
            moved: Condvar::new(),
            bell: Bell::new()?,
            room: AtomicBool::new(true),
            closing: AtomicBool::new(false),
        });
        let (told, news) = (shared.clone(), shared.clone());
        let room = move |room| {
            told.room.store(room, Ordering::Relaxed);
            told.update(|queue| told.look_for_room(queue));
        };
        // A round waits for its own writes; with mode = async nobody does, and for a failure neither.
        let layer = open.start_told(room, move |failed| {
            if failed || mode == Mode::Async {
                news.update(|queue| queue.news = true);
                news.bell.ring();
            }
        });
        let layer = layer.map_err(log_failure)?;
        let reader = layer.reader();
        let host = Callbacks { table, shared: shared.clone(), failed: None, released: Seq(0) };
        Ok(Self {
            shared,
            work: Arc::new(Mutex::new(Work { layer: Some(layer), host })),
            reader,
            thread: None,
            polled: values.text("callbacks") == "poll",
            tells_of_room,
            mode,
            batch_bytes_max,
            waiting_bytes_max,
            handle: 0,
            ending: None,
            is_ending: false,
        })
    }

    fn start_thread(&mut self) -> Result<(), Failure> {
        if self.polled {
            return Ok(());
        }
        let (shared, work, handle) = (self.shared.clone(), self.work.clone(), self.handle);
        let hears = work.lock().host.table.room.is_some();
        let thread = std::thread::Builder::new().name("duramen-rounds".into()).spawn(move || {
            let mut look = None;
            while shared.wait_for_work(look, hears) {
                let _scope = Scope::enter(handle);
                let is_behind = round_of(&work, usize::MAX).is_ok_and(|rounded| rounded.is_behind);
                look = is_behind.then(|| Instant::now() + BEHIND_LOOK);
            }
        });
        self.thread = Some(thread.map_err(|e| Failure::io("no thread for rounds", &e))?);
        Ok(())
    }

    fn deliver(&self, seq: u64, ops: &[&[u8]]) -> Result<(), Failure> {
        let body = ops.iter().fold(0usize, |sum, op| sum.saturating_add(op.len()));
        let pieces = if self.mode == Mode::Naive { ops.len().min(body) } else { 1 };
        let cost = Delivery::log_bytes(ops.len().saturating_mul(4), body, pieces);
        if cost > self.batch_bytes_max {
            let most = self.batch_bytes_max;
            let why = format!("a batch that takes {cost} bytes; this layer takes {most} (segment-mib)");
            return Err(Failure::new(DURAMEN_E_TOO_LARGE, why));
        }
        let check = |queue: &mut Queue| {
            if let Some((code, why)) = &queue.ended {
                return Err(Failure::new(*code, format!("the layer has ended: {why}")));
            }
            if seq == u64::MAX {
                return Err(Failure::argument("batch UINT64_MAX: no number comes after it"));
            }
            if seq <= queue.last.0 {
                let why = format!("batch {seq} after batch {}: numbers must rise", queue.last);
                return Err(Failure::argument(why));
            }
            if !self.shared.room.load(Ordering::Relaxed) {
                queue.room = Room::Missed;
                let why = "the log's segments or its disk are full: recycle, then try again";
                return Err(Failure::new(DURAMEN_E_NO_SPACE, why));
            }
            if queue.waiting_bytes + cost > self.waiting_bytes_max && !queue.waiting.is_empty() {
                queue.room = Room::Missed;
                let waiting = queue.waiting.len();
                return Err(Failure::new(
                    DURAMEN_E_BUSY,
                    format!("{waiting} batches wait for the next round"),
                ));
            }
            Ok(())
        };
        // Before the copy, which is made without the lock, and after.
        check(&mut self.shared.queue.lock())?;
        let batch = Batch { seq: Seq(seq), cost, head: head_of(ops), body: ops.concat().into() };
        let mut queue = self.shared.queue.lock();
        check(&mut queue)?;
        queue.last = Seq(seq);
        queue.waiting_bytes += cost;
        queue.waiting.push_back(batch);
        if queue.waiting.len() == 1 {
            self.shared.bell.ring();
        }
        drop(queue);
        self.shared.moved.notify_all();
        Ok(())
    }

    fn wait(&self, seq: u64, until: Option<Instant>) -> Result<(), Failure> {
        let mut queue = self.shared.queue.lock();
        loop {
            if seq <= queue.done.0 {
                return Ok(());
            }
            if seq > queue.last.0 {
                let last = queue.last;
                return Err(Failure::argument(format!(
                    "batch {seq} was not delivered; the last one is {last}"
                )));
            }
            if let Some((code, why)) = &queue.ended {
                return Err(Failure::new(*code, format!("the layer has ended: {why}")));
            }
            if queue.closing {
                return Err(Failure::new(DURAMEN_E_STATE, "the layer is being destroyed"));
            }
            match until {
                None => self.shared.moved.wait(&mut queue),
                Some(until) if Instant::now() >= until => {
                    let why = format!("batch {seq} is not done yet; {} is", queue.done);
                    return Err(Failure::new(DURAMEN_E_TIMEOUT, why));
                }
                Some(until) => drop(self.shared.moved.wait_until(&mut queue, until)),
            }
        }
    }

    fn metrics(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let mut figure = |kind: &str, name: &str, value: u64| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            text +=
                &format!("# TYPE duramen_durable_{name} {kind}\nduramen_durable_{name}{suffix} {value}\n");
        };
        {
            let queue = self.shared.queue.lock();
            figure("gauge", "delivered_seq", queue.last.0);
            figure("gauge", "done_seq", queue.done.0);
            figure("gauge", "waiting", queue.waiting.len() as u64);
            figure("gauge", "ended", queue.ended.is_some().into());
        }
        figure("gauge", "has_room", self.shared.room.load(Ordering::Relaxed).into());
        let busy = || Failure::new(DURAMEN_E_BUSY, "a round is under way: ask again");
        let work = self.work.try_lock_for(Duration::from_secs(1)).ok_or_else(busy)?;
        if let Some(layer) = &work.layer {
            let (rounds, log) = (layer.stats(), layer.log_stats());
            figure("counter", "rounds", rounds.rounds);
            figure("counter", "operations", rounds.operations);
            figure("counter", "execute_ns", rounds.execute_ns);
            figure("counter", "log_ns", rounds.log_ns);
            figure("counter", "round_ns", rounds.round_ns);
            figure("counter", "log_writes", log.writes);
            figure("counter", "log_written_bytes", log.bytes);
            figure("gauge", "log_segments", log.segments as u64);
            figure("gauge", "log_files_bytes", log.files_bytes);
        }
        Ok(text + "# EOF\n")
    }
}

impl Object for HostDurable {
    type Opaque = duramen_durable;
    const KIND: &str = "a durability layer";

    fn closing(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.update(|queue| queue.closing = true);
    }

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        if !self.is_ending {
            let (work, thread) = (self.work.clone(), self.thread.take());
            self.ending = Some(Ending::start(move || {
                if let Some(thread) = thread {
                    let _ = thread.join();
                }
                let layer = work.lock().layer.take();
                if let Some(layer) = layer {
                    layer.stop();
                }
            })?);
            self.is_ending = true;
        }
        match &mut self.ending {
            Some(ending) => ending.wait(until, "the layer's round or its last writes are under way"),
            None => Ok(()),
        }
    }
}

fn start(
    values: &Values,
    options: LogOptions,
    table: duramen_durable_callbacks,
) -> Result<*mut duramen_durable, Failure> {
    let layer = HostDurable::open(values, options, table)?;
    let mut trouble = Ok(());
    let layer = handle::insert_with(layer, |layer, handle| {
        layer.handle = handle;
        trouble = layer.start_thread();
    })?;
    if let Err(why) = trouble {
        handle::destroy::<HostDurable>(layer, handle::DURAMEN_FOREVER);
        return Err(why);
    }
    Ok(layer)
}

/// On an emulated device.
#[cfg(test)]
pub(super) fn open_on(
    device: Arc<crate::log::Device>,
    conf: *const duramen_conf,
    table: duramen_durable_callbacks,
) -> *mut duramen_durable {
    let values = values_of(conf).expect("a configuration");
    let options = LogOptions { device: Some(device), ..options(&values) };
    start(&values, options, table).expect("it opens")
}

/// Makes an empty log for a layer in the folder `dir`, and the folder if it is missing. As duramen_log_format; a log of one cannot be opened as
/// the other.
///
/// Ownership: `conf` stays the caller's. Thread: any; blocks for the disk. Errors: as of duramen_log_format.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_format(conf: *const duramen_conf) -> i32 {
    enter(|| {
        crate::log::format(&options(&values_of(conf)?)).map_err(log_failure)?;
        Ok(DURAMEN_OK)
    })
}

/// Opens the layer whose log is in `dir`, hands every operation in it to `replay`, and starts.
///
/// Every batch that was released (mode = async: called logged) and not recycled comes again, whole and in order; a batch that was delivered and not
/// released may come or not, without a gap. What was not handed over never comes back.
///
/// Keys used (see duramen_conf_set): dir, mode, callbacks, segment-mib, segments, io, queue-mib, group-kib, prefill-segments, allow-tmpfs.
///
/// Ownership: `conf` and the table stay the caller's and are not needed afterwards, `user` in it until duramen_durable_destroy; `*out` is the
/// caller's until then, and NULL on failure. Thread of `replay`: this one. Starts two threads, with callbacks = thread a third,
/// "duramen-rounds", on which the other callbacks run; see duramen_durable_callbacks.
///
/// Errors: as of duramen_log_open; DURAMEN_E_CALLBACK (replay gave up), DURAMEN_E_ABI, DURAMEN_E_ARGUMENT (NULL execute or release).
///
/// # Safety
/// `callbacks` is such a struct, whose functions may be called with its `user`; `out` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_durable_open(
    conf: *const duramen_conf,
    callbacks: *const duramen_durable_callbacks,
    out: *mut *mut duramen_durable,
) -> i32 {
    enter(|| {
        let place = self::out("out", out)?;
        // SAFETY: the caller's promises, here and below.
        unsafe { place.write(std::ptr::null_mut()) };
        let table = unsafe { sized("callbacks", callbacks)? };
        let values = values_of(conf)?;
        let layer = start(&values, options(&values), table)?;
        unsafe { place.write(layer) };
        Ok(DURAMEN_OK)
    })
}

/// Delivers a batch of `count` operations, the next one in the host's order, and returns at once. All batches that wait make one round: they
/// are logged with one write while they execute, and released after both (mode = parallel; see duramen_conf_set for the others).
///
/// A disk that does not answer holds up at most what `queue-mib` say, what is being written, and what waits, which is a fourth of a segment: then this
/// returns DURAMEN_E_BUSY, also with mode = async, whose batches are executed and released until then.
///
/// `seq` is the host's number of the batch, above that of the one before it, and above those that were replayed; gaps are allowed.
///
/// Ownership: operations are copied before this returns; `ops` may be NULL if `count` is 0. Thread: any, but the order is the host's: deliver
/// one after the other. Re-entrancy: any callback.
///
/// Errors, of which nothing was taken: DURAMEN_E_BUSY (too much waits for the next round: poll, or wait for `room`), DURAMEN_E_NO_SPACE (`segments`, or
/// the disk, are full: recycle, then wait for `room`), DURAMEN_E_TOO_LARGE (above 16 MiB or a fourth of a segment, with 4 bytes for each
/// operation, with mode = naive 4 KiB), DURAMEN_E_ARGUMENT (`seq` does not rise, or is UINT64_MAX; NULL); the code with which the layer ended: DURAMEN_E_IO (a write failed), DURAMEN_E_CALLBACK; DURAMEN_E_STATE (being destroyed),
/// DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `ops` has `count` elements, and each has the bytes that it names.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_durable_deliver(
    durable: *mut duramen_durable,
    seq: u64,
    ops: *const duramen_bytes,
    count: usize,
) -> i32 {
    handle::with::<HostDurable>(durable, |durable| {
        // SAFETY: the caller's promise.
        let ops = unsafe { parts(ops, count)? };
        durable.deliver(seq, &ops)?;
        Ok(DURAMEN_OK)
    })
}

/// Waits until batch `seq`, and every one before it, is executed and survives a loss of power.
///
/// `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any; with callbacks = poll another one must poll. Re-entrancy: not from a callback of
/// this layer.
///
/// Errors: DURAMEN_E_TIMEOUT, DURAMEN_E_ARGUMENT (no such batch was delivered), DURAMEN_E_REENTRANT, the code with which the layer ended,
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_wait(durable: *mut duramen_durable, seq: u64, timeout_ms: u64) -> i32 {
    handle::with::<HostDurable>(durable, |durable: &Call<'_, HostDurable>| {
        if durable.shared.queue.lock().done.0 < seq {
            durable.not_within("waiting")?;
        }
        durable.wait(seq, handle::until(timeout_ms))?;
        Ok(DURAMEN_OK)
    })
}

/// An eventfd that is readable while there is something for duramen_durable_poll: batches that wait, a duramen_durable_recycle that a round did not
/// see, with mode = async batches that became durable; when the layer has ended or its log failed; and once when there is room again after
/// DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE.
///
/// Ownership: the library's: do not read, write or close it; it is closed by duramen_durable_destroy. Returns the descriptor (at least 0) or
/// DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_fd(durable: *mut duramen_durable) -> i32 {
    handle::with::<HostDurable>(durable, |durable| {
        polls(durable)?;
        Ok(durable.shared.bell.fd())
    })
}

fn polls(durable: &HostDurable) -> Result<(), Failure> {
    match durable.polled {
        true => Ok(()),
        false => Err(Failure::new(DURAMEN_E_STATE, "callbacks = thread: a thread of the layer works")),
    }
}

/// Does one round on this thread: executes up to `max` (0: all) of the batches that wait while they are logged, waits for the disk (except with
/// mode = async), and releases them. If none waits, waits `timeout_ms` for one, or for room after DURAMEN_E_BUSY or DURAMEN_E_NO_SPACE (0: does not
/// wait; negative: without limit, until the layer is destroyed). Returns how many batches it took (at least 0), or a code. With mode = async it takes as
/// many as `queue-mib` have room for; if there is none, it waits as long for the disk, and then returns DURAMEN_E_BUSY.
///
/// Thread: any; one polls at a time, others wait for it. Re-entrancy: not from a callback of this layer.
///
/// Errors: DURAMEN_E_BUSY (mode = async: the disk is as far behind as it may be, and batches wait for it; nothing was taken),
/// DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_REENTRANT, the code with which the layer ended: DURAMEN_E_CALLBACK,
/// DURAMEN_E_IO (a write failed), DURAMEN_E_NO_SPACE; DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_poll(durable: *mut duramen_durable, max: u32, timeout_ms: i32) -> i32 {
    handle::with::<HostDurable>(durable, |durable: &Call<'_, HostDurable>| {
        durable.not_within("poll")?;
        polls(durable)?;
        let max = if max == 0 { u32::MAX } else { max }.min(i32::MAX as u32);
        let until = u64::try_from(timeout_ms).map_or(None, handle::until);
        loop {
            let Rounded { batches, has_told, is_behind, is_held } = round_of(&durable.work, max as usize)?;
            // Where the host has a callback for it, room that came back meanwhile is told by the next round.
            if batches > 0 || has_told || !durable.tells_of_room && durable.shared.has_room_again() {
                return Ok(batches as i32);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return match is_held {
                    true => Err(Failure::new(DURAMEN_E_BUSY, "queue-mib wait for the disk")),
                    false => Ok(0),
                };
            }
            let look = is_behind.then(|| Instant::now() + BEHIND_LOOK);
            let look = look.into_iter().chain(until).min();
            if !durable.shared.wait_for_work(look, true) {
                let queue = durable.shared.queue.lock();
                return Err(match &queue.ended {
                    Some((code, why)) => Failure::new(*code, format!("the layer has ended: {why}")),
                    None => Failure::new(DURAMEN_E_STATE, "the layer is being destroyed"),
                });
            }
        }
    })
}

/// Hands the operations of batch `seq`, read back from disk, to `cb`, until it returns something else than 0.
///
/// Ownership: an operation lives until `cb` returns. Thread of `cb`: this one. Re-entrancy: any callback.
///
/// Errors: DURAMEN_E_NOT_FOUND (not delivered, not durable yet, or recycled), DURAMEN_E_DAMAGED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`cb` is NULL),
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `cb` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_durable_read(
    durable: *mut duramen_durable,
    seq: u64,
    cb: duramen_op_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostDurable>(durable, |durable| {
        if cb.is_none() {
            return Err(Failure::argument("cb is NULL: nobody would see the operations"));
        }
        let none = || Failure::new(DURAMEN_E_NOT_FOUND, format!("batch {seq} is not in the log"));
        let delivery = durable.reader.read(Seq(seq)).map_err(log_failure)?.ok_or_else(none)?;
        let ops = operations(&delivery.head, delivery.body.len());
        let ops = ops.map_err(|why| Failure::new(DURAMEN_E_DAMAGED, why))?;
        // Its refusal is no failure.
        let _ = each_op(cb, user, delivery.seq, &ops, &delivery.body);
        Ok(DURAMEN_OK)
    })
}

/// Gives up the batches up to `upto`, which a checkpoint of the host covers: the space of whole segments of them is used again, soon. A crash may
/// bring them back: `replay` then gets batches that the checkpoint has.
///
/// Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_ARGUMENT (batch `upto` is not done: not executed or not durable), DURAMEN_E_STATE
/// (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_recycle(durable: *mut duramen_durable, upto: u64) -> i32 {
    handle::with::<HostDurable>(durable, |durable| {
        let mut queue = durable.shared.queue.lock();
        if upto > queue.done.0 {
            let done = queue.done;
            return Err(Failure::argument(format!("batch {upto} is not done; {done} is")));
        }
        queue.recycle = queue.recycle.max(Some(Seq(upto)));
        drop(queue);
        // At once if nobody works, else by who does.
        if let Some(work) = durable.work.try_lock()
            && let Some(layer) = &work.layer
        {
            durable.shared.recycle(layer);
        }
        {
            let queue = durable.shared.queue.lock();
            if queue.recycle.is_some() {
                // The round under way may have looked already.
                durable.shared.bell.ring();
            }
        }
        durable.shared.moved.notify_all();
        Ok(DURAMEN_OK)
    })
}

/// Writes figures about the layer as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
///
/// Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: not from a callback of this layer.
///
/// Errors: DURAMEN_E_BUFFER (as much as fits was written), DURAMEN_E_BUSY (a round has been under way for a second), DURAMEN_E_REENTRANT,
/// DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `buf` holds `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_durable_metrics(
    durable: *mut duramen_durable,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostDurable>(durable, |durable: &Call<'_, HostDurable>| {
        durable.not_within("metrics")?;
        // SAFETY: the caller's promise.
        unsafe { give_text(&durable.metrics()?, buf, cap, len) }
    })
}

/// Ends the layer: a round under way is finished and released, unless the disk does not answer for a second; batches that wait for the next round
/// are dropped (duramen_durable_wait for the last one before, if they shall not). A duramen_durable_wait under way returns DURAMEN_E_STATE.
/// No callback runs after it returned DURAMEN_OK.
///
/// `deadline_ms`: how long to wait for calls, the round and the disk; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a
/// callback of this layer.
///
/// Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; while the disk does not answer it has buffers and threads of the layer, and
/// nothing but an answer ends that), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_durable_destroy(durable: *mut duramen_durable, deadline_ms: u64) -> i32 {
    handle::destroy::<HostDurable>(durable, deadline_ms)
}
