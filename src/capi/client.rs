//! Clients: requests in, outcomes by callback, poll or a blocking call.

use super::conf::{Values, duramen_conf, values_of};
use super::entry::{Out, bytes, catching, enter, give_text, out};
use super::handle::{self, Call, Ending, Object, Scope};
use super::outcomes::{Outcomes, submitting};
use super::status::*;
use crate::client::{Client, ClientError, ClientOptions, Outcome, Session, SubmitError};
use crate::data_dir;
use crate::keys::ClientKeys;
use bytes::Bytes;
use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A client of a cluster: its connections and one session, whose writes execute in the order they were submitted. A handle.
pub struct duramen_client {
    _opaque: (),
}

/// How a request ended: executed exactly once. The reply is the service's.
pub const DURAMEN_DONE: i32 = 0;
/// How a request ended: not executed, and it never will be. It is safe to submit it again.
pub const DURAMEN_NOT_EXECUTED: i32 = 1;
/// How a request ended: it is not known whether it was executed, or will be. Ask the service before you submit it again.
pub const DURAMEN_UNKNOWN_OUTCOME: i32 = 2;
/// How a request ended: the replicas' answers differ so that none can be believed: more of them are faulty than the cluster bears, or
/// the service is not deterministic.
pub const DURAMEN_FAIL: i32 = 3;

/// A flag of requests: a read. The operation must not write; it is answered by the service's query, linearizable, without being ordered
/// where that is possible. Reads are not in sequence with writes that are still under way.
pub const DURAMEN_READ: u32 = 1;

/// Takes the outcome of one request: DURAMEN_DONE and the service's reply, or another outcome and a line of text that says why
/// (UTF-8, without a NUL).
///
/// `reply` lives until the callback returns; it may be NULL if `reply_len` is 0. Must not throw or jump.
pub type duramen_outcome_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, outcome: i32, reply: *const c_void, reply_len: usize)>;

/// Behind the handle.
pub(super) struct HostClient {
    /// Until it ends.
    engine: Option<(Client, Session)>,
    outcomes: Arc<Outcomes>,
    /// With `callbacks` = `thread`: runs them.
    thread: Option<JoinHandle<()>>,
    polled: bool,
    counts: Arc<[AtomicUsize; 4]>,
    ending: Option<Ending>,
    handle: usize,
}

/// The client whose thread of callbacks panics.
#[cfg(test)]
pub(super) static PANICS: AtomicUsize = AtomicUsize::new(0);

/// The outcome's number; the reply or the reason.
pub(super) fn told(outcome: Outcome) -> (i32, Bytes) {
    match outcome {
        Outcome::Done(reply) => (DURAMEN_DONE, reply),
        Outcome::NotExecuted(why) => (DURAMEN_NOT_EXECUTED, why.into()),
        Outcome::UnknownOutcome(why) => (DURAMEN_UNKNOWN_OUTCOME, why.into()),
        Outcome::Fail(why) => (DURAMEN_FAIL, why.into()),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Config(_) | ClientError::Keys(_) => DURAMEN_E_CONFIG,
            ClientError::Net(_) | ClientError::System(_) => DURAMEN_E_IO,
            ClientError::Refused(_) => DURAMEN_E_REFUSED,
            ClientError::Unreachable { .. } => DURAMEN_E_UNREACHABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let code = match &error {
            SubmitError::Busy { .. } => DURAMEN_E_BUSY,
            SubmitError::TooLarge { .. } => DURAMEN_E_TOO_LARGE,
        };
        Self::new(code, error.to_string())
    }
}

fn options(values: &Values) -> Result<ClientOptions, Failure> {
    let dir = Path::new(values.text("dir"));
    let wrong = |why: String| Failure::new(DURAMEN_E_CONFIG, why);
    let config = data_dir::load_config(dir).map_err(|e| wrong(e.to_string()))?;
    let name = values.text("client");
    if config.client_named(name).is_none() {
        return Err(wrong(format!("cluster.toml has no client named {name:?}")));
    }
    let keys = ClientKeys::load(&data_dir::client_key_file(dir, name), &config);
    let keys = keys.map_err(|e| wrong(e.to_string()))?;
    Ok(ClientOptions {
        insecure: values.flag("insecure"),
        connect_timeout: values.time("connect-timeout-ms"),
        deadline: values.time("deadline-ms"),
        outstanding_max: values.number("outstanding-max") as usize,
        ..ClientOptions::new(config, keys)
    })
}

impl HostClient {
    fn open(values: &Values) -> Result<Self, Failure> {
        let options = options(values)?;
        let polled = values.text("callbacks") == "poll";
        let outcomes = Outcomes::new(options.outstanding_max, polled)?;
        let client = Client::connect(options)?;
        let session = client.session();
        Ok(Self {
            engine: Some((client, session)),
            outcomes: Arc::new(outcomes),
            thread: None,
            polled,
            counts: Arc::default(),
            ending: None,
            handle: 0,
        })
    }

    /// With `callbacks` = `thread`. The thread waits for the first outcome, which comes after the handle is known.
    fn start_thread(&mut self) -> Result<(), Failure> {
        if self.polled {
            return Ok(());
        }
        let (outcomes, handle) = (self.outcomes.clone(), self.handle);
        let thread = std::thread::Builder::new().name("duramen-calls".into()).spawn(move || {
            let ran = catching(|| {
                while outcomes.wait_for_more() {
                    let _scope = Scope::enter(handle);
                    #[cfg(test)]
                    assert_ne!(PANICS.load(Ordering::Relaxed), handle, "on purpose");
                    outcomes.run(u32::MAX);
                }
                Ok(DURAMEN_OK)
            });
            if ran.is_err() {
                // Said by the next call on it. Destroy runs the callbacks that are left.
                handle::poison::<Self>(handle);
                outcomes.close();
            }
        });
        self.thread = Some(thread.map_err(|e| Failure::io("no thread for callbacks", &e))?);
        Ok(())
    }

    fn engine(&self) -> &(Client, Session) {
        self.engine.as_ref().expect("no call comes after the end")
    }

    fn submit(&self, op: Bytes, flags: u32, deadline_ms: u64, done: Callback) -> Result<(), Failure> {
        let (client, session) = self.engine();
        let deadline = deadline(deadline_ms);
        let ticket = self.outcomes.expect(done.0, done.1)?;
        let counts = self.counts.clone();
        let answer = move |outcome| {
            let (outcome, reply) = told(outcome);
            counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
            ticket.ended(outcome, reply);
        };
        submitting(|| match flags & DURAMEN_READ {
            0 => session.submit(op, deadline, answer),
            _ => client.submit_read(op, deadline, answer),
        })?;
        Ok(())
    }

    fn call(&self, op: Bytes, flags: u32, deadline_ms: u64) -> Result<(i32, Bytes), SubmitError> {
        let (client, session) = self.engine();
        let deadline = deadline(deadline_ms);
        let outcome = match flags & DURAMEN_READ {
            0 => session.call(op, deadline),
            _ => client.call_read(op, deadline),
        };
        let (outcome, reply) = told(outcome?);
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        Ok((outcome, reply))
    }

    fn metrics(&self) -> String {
        let (client, _) = self.engine();
        let mut text = String::new();
        let mut gauge = |name: &str, value: usize| {
            text += &format!("# TYPE duramen_client_{name} gauge\nduramen_client_{name} {value}\n");
        };
        let up =
            client.links().iter().filter(|link| matches!(link, crate::client::session::Link::Up)).count();
        gauge("outstanding", client.outstanding());
        gauge("outcomes_waiting", self.outcomes.waiting());
        gauge("replicas_connected", up);
        gauge("leader", client.leader().index());
        text += "# TYPE duramen_client_requests counter\n";
        let names = ["done", "not_executed", "unknown_outcome", "fail"];
        for (name, count) in names.iter().zip(&*self.counts) {
            let count = count.load(Ordering::Relaxed);
            text += &format!("duramen_client_requests_total{{outcome=\"{name}\"}} {count}\n");
        }
        text + "# EOF\n"
    }
}

type Callback = (unsafe extern "C" fn(*mut c_void, i32, *const c_void, usize), *mut c_void);

fn deadline(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// The operation, copied; the flags checked.
///
/// # Safety
/// As of [`bytes()`].
unsafe fn request(op: *const c_void, len: usize, flags: u32) -> Result<Bytes, Failure> {
    if flags & !DURAMEN_READ != 0 {
        return Err(Failure::argument(format!("flags {flags:#x}: only DURAMEN_READ is known")));
    }
    // SAFETY: the caller's promise.
    Ok(Bytes::copy_from_slice(unsafe { bytes("op", op, len)? }))
}

/// Makes a call. `*ended` says "unknown" from when the request may leave until its outcome is there: also if this panics.
///
/// # Safety
/// `ended` is a place for an `int32_t`.
pub(super) unsafe fn telling(
    ended: &Out<i32>,
    call: impl FnOnce() -> Result<(i32, Bytes), SubmitError>,
) -> Result<(i32, Bytes), Failure> {
    // SAFETY: the caller's promise, here and below.
    unsafe { ended.write(DURAMEN_UNKNOWN_OUTCOME) };
    match call() {
        Ok((outcome, text)) => {
            unsafe { ended.write(outcome) };
            Ok((outcome, text))
        }
        Err(refused) => {
            unsafe { ended.write(DURAMEN_NOT_EXECUTED) };
            Err(refused.into())
        }
    }
}

impl Object for HostClient {
    type Opaque = duramen_client;
    const KIND: &str = "a client";

    fn closing(&self) {
        self.outcomes.close();
    }

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        if let Some((client, session)) = self.engine.take() {
            let (outcomes, thread) = (self.outcomes.clone(), self.thread.take());
            self.ending = Some(Ending::start(move || {
                drop(session);
                // Ends what is under way as unknown.
                drop(client);
                outcomes.complete();
                if let Some(thread) = thread {
                    let _ = thread.join();
                }
            })?);
        }
        if let Some(ending) = &mut self.ending {
            ending.wait(until, "the client's threads still run")?;
            self.ending = None;
        }
        // Those that nobody polled for.
        self.outcomes.run(u32::MAX);
        Ok(())
    }
}

/// Connects to the cluster of `dir` as `client` (see duramen_conf_set) and returns when a quorum of replicas is connected.
///
/// Ownership: `conf` stays the caller's and is not needed afterwards; `*out` is the caller's, until duramen_client_destroy; it is NULL on
/// failure. Thread: any; blocks for connect-timeout-ms at most. Starts threads: three at most, named duramen-*.
///
/// Errors: DURAMEN_E_CONFIG (files, keys, names), DURAMEN_E_UNREACHABLE (too few replicas in time), DURAMEN_E_REFUSED (they do not take this
/// client), DURAMEN_E_IO, DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_BUSY (too many handles).
///
/// # Safety
/// `out` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_client_open(
    conf: *const duramen_conf,
    out: *mut *mut duramen_client,
) -> i32 {
    enter(|| {
        let place = self::out("out", out)?;
        // SAFETY: the caller's promise.
        unsafe { place.write(std::ptr::null_mut()) };
        let client = HostClient::open(&values_of(conf)?)?;
        let mut trouble = Ok(());
        let client = handle::insert_with(client, |client, handle| {
            client.handle = handle;
            trouble = client.start_thread();
        })?;
        if let Err(why) = trouble {
            handle::destroy::<HostClient>(client, handle::DURAMEN_FOREVER);
            return Err(why);
        }
        // SAFETY: the caller's promise.
        unsafe { place.write(client) };
        Ok(DURAMEN_OK)
    })
}

/// Submits a request and returns at once. If this returns DURAMEN_OK, `cb` is called exactly once, at the latest by
/// duramen_client_destroy; otherwise never.
///
/// `flags`: 0 (a write, ordered and executed by all replicas) or DURAMEN_READ. `deadline_ms`: from now; 0: the configured one. When
/// it passes the request ends as DURAMEN_NOT_EXECUTED or DURAMEN_UNKNOWN_OUTCOME.
///
/// Ownership: `op` is copied before this returns; NULL if `len` is 0. `user` is handed to `cb` and otherwise not touched.
/// Thread of `cb`: with callbacks = poll, whoever is in duramen_client_poll or duramen_client_destroy; with callbacks = thread, the client's
/// thread "duramen-calls" (or, at the end, in duramen_client_destroy). Re-entrancy: may be called from any callback, and `cb` may submit.
/// Outcomes come in the order in which requests end.
///
/// Room after DURAMEN_E_BUSY: every callback that begins has made room for one request, with callbacks = poll and thread alike, and may submit it itself, or
/// wake who waits for it. (A request that ended as DURAMEN_UNKNOWN_OUTCOME because its deadline passed may count on until it is answered or the client destroyed.)
///
/// Errors: DURAMEN_E_BUSY (outstanding-max requests have no outcome yet, or their callbacks have not begun: poll, or wait for one, then try again),
/// DURAMEN_E_TOO_LARGE (the cluster's limits.request_bytes), DURAMEN_E_ARGUMENT (`cb` is NULL, unknown flags), DURAMEN_E_STATE (being destroyed),
/// DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `op` has `len` bytes; `cb` may be called with `user` on the threads said above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_client_submit(
    client: *mut duramen_client,
    op: *const c_void,
    len: usize,
    flags: u32,
    deadline_ms: u64,
    cb: duramen_outcome_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostClient>(client, |client| {
        let cb = cb.ok_or_else(|| Failure::argument("cb is NULL: nobody would hear of the outcome"))?;
        // SAFETY: the caller's promise.
        let op = unsafe { request(op, len, flags)? };
        client.submit(op, flags, deadline_ms, (cb, user))?;
        Ok(DURAMEN_OK)
    })
}

/// Submits a request and waits for its outcome.
///
/// `*outcome` gets DURAMEN_DONE and so on; `reply` as much of the reply (or, for other outcomes, of a line that says why) as `capacity`
/// takes, and `*reply_len` its whole length. Flags and deadline as of duramen_client_submit. A DURAMEN_DONE whose reply was cut returns
/// DURAMEN_E_BUFFER: the request was executed, do not repeat a write for its reply.
///
/// Ownership: nothing is kept. `reply` may be NULL if `capacity` is 0 (then no reply is wanted, and none counts as cut); `reply_len` may be NULL. Thread: any, also several at once; blocks until
/// the deadline at most. Re-entrancy: allowed in callbacks, which then block the thread they run on.
///
/// Errors: as of duramen_client_submit, with nothing executed and `*outcome` = DURAMEN_NOT_EXECUTED; DURAMEN_E_BUFFER. DURAMEN_E_INTERNAL
/// leaves `*outcome` = DURAMEN_UNKNOWN_OUTCOME if the request may have been sent.
///
/// # Safety
/// `op` has `len` bytes, `reply` takes `capacity`; `reply_len` and `outcome` point to their types.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_client_call(
    client: *mut duramen_client,
    op: *const c_void,
    len: usize,
    flags: u32,
    deadline_ms: u64,
    reply: *mut c_void,
    capacity: usize,
    reply_len: *mut usize,
    outcome: *mut i32,
) -> i32 {
    // SAFETY: the caller's promises, here and below. Before anything else: a call that is turned down says so, too.
    unsafe {
        if !outcome.is_null() {
            outcome.write(DURAMEN_NOT_EXECUTED);
        }
        if !reply_len.is_null() {
            reply_len.write(0);
        }
    }
    handle::with::<HostClient>(client, |client| {
        let ended = out("outcome", outcome)?;
        if reply.is_null() && capacity > 0 {
            return Err(Failure::argument("reply is NULL, and its capacity is not 0"));
        }
        let op = unsafe { request(op, len, flags)? };
        let (outcome, text) = unsafe { telling(&ended, || client.call(op, flags, deadline_ms))? };
        unsafe {
            if !reply_len.is_null() {
                reply_len.write(text.len());
            }
            if capacity > 0 {
                std::ptr::copy_nonoverlapping(text.as_ptr(), reply.cast(), text.len().min(capacity));
            }
        }
        if outcome == DURAMEN_DONE && text.len() > capacity && !reply.is_null() {
            return Err(Failure::new(DURAMEN_E_BUFFER, format!("the reply has {} bytes", text.len())));
        }
        Ok(DURAMEN_OK)
    })
}

/// An eventfd that is readable while outcomes wait for duramen_client_poll: for select, poll, epoll, libuv and the like.
///
/// Ownership: the library's: do not read, write or close it; it is closed by duramen_client_destroy. Returns the descriptor (at least 0) or a
/// code: DURAMEN_E_STATE (callbacks = thread), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_client_fd(client: *mut duramen_client) -> i32 {
    handle::with::<HostClient>(client, |client| {
        polls(client)?;
        Ok(client.outcomes.fd())
    })
}

fn polls(client: &HostClient) -> Result<(), Failure> {
    match client.polled {
        true => Ok(()),
        false => Err(Failure::new(DURAMEN_E_STATE, "callbacks = thread: a thread of the client runs them")),
    }
}

/// Runs the callbacks of requests that have ended, `max` at most (0: of all that wait), on this thread. If none waits, waits `timeout_ms` for
/// one (0: does not wait; negative: without limit, until the client is destroyed).
///
/// Returns how many callbacks ran (at least 0), or a code. Thread: any; several threads may poll, each outcome goes to one of them.
/// Re-entrancy: not from a callback of this client.
///
/// Errors: DURAMEN_E_STATE (callbacks = thread; being destroyed), DURAMEN_E_REENTRANT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_client_poll(client: *mut duramen_client, max: u32, timeout_ms: i32) -> i32 {
    handle::with::<HostClient>(client, |client: &Call<'_, HostClient>| {
        client.not_within("poll")?;
        polls(client)?;
        let max = if max == 0 { u32::MAX } else { max }.min(i32::MAX as u32);
        let until = u64::try_from(timeout_ms).map_or(None, handle::until);
        client.outcomes.wait_until(until);
        Ok(client.outcomes.run(max) as i32)
    })
}

/// Writes figures about the client as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
///
/// Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
/// written), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE.
///
/// # Safety
/// `buf` holds `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_client_metrics(
    client: *mut duramen_client,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostClient>(client, |client| {
        // SAFETY: the caller's promise.
        unsafe { give_text(&client.metrics(), buf, cap, len) }
    })
}

/// Ends a client. Requests under way end as DURAMEN_UNKNOWN_OUTCOME or DURAMEN_NOT_EXECUTED; callbacks that have not run yet run before this
/// returns DURAMEN_OK, on this thread or on "duramen-calls". A blocked duramen_client_poll returns; a blocked duramen_client_call goes on to its
/// own deadline, and is waited for.
///
/// `deadline_ms`: how long to wait for calls, callbacks and threads; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a
/// callback of this client.
///
/// Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_client_destroy(client: *mut duramen_client, deadline_ms: u64) -> i32 {
    handle::destroy::<HostClient>(client, deadline_ms)
}
