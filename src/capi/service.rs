//! A host's state machine behind the trait that the engine calls.

use super::entry::{Grows, bytes};
use super::handle::Scope;
use super::lent::{Lend, lend, with_lent};
use super::status::*;
use crate::replica::ServiceFailed;
use crate::service::{Context, QueryReply, RestoreError, Service, Snapshot};
use crate::types::{Digest, DigestAlgorithm};
use bytes::Bytes;
use std::ffi::c_void;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Where a reply goes. Lent to execute and query, until they return.
pub struct duramen_reply {
    _opaque: (),
}

/// Where the bytes of a snapshot go. Lent to snapshot_write, until it returns.
pub struct duramen_writer {
    _opaque: (),
}

/// Where the bytes of a snapshot come from. Lent to restore, until it returns.
pub struct duramen_reader {
    _opaque: (),
}

/// All that an operation may depend on besides the state and its own bytes: the same on every replica. Lives until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_context {
    /// The size that the library knows; fields behind it are not there.
    pub struct_size: usize,
    /// The batch that the operation was decided in: from 1, without gaps.
    pub seq: u64,
    /// The batch's agreed time: nanoseconds since 1970. Never goes back.
    pub time_ns: u64,
    /// Agreed randomness of this operation.
    pub seed: u64,
    /// The session it came in.
    pub session: u64,
    /// The client whose key signed it: its id in cluster.toml.
    pub client: u32,
    /// The operation's place in its batch, from 0.
    pub index: u32,
}

/// A state machine, replicated. Set struct_size to sizeof(duramen_service) and the rest to zero before you fill it in.
///
/// It must be deterministic: replies and state depend on nothing but the state, the context and the operation's bytes. No time, no
/// randomness, no pointer values, no hash order, nothing read from the machine. A replica that differs is found by the others and repaired or shut out.
///
/// Callbacks return 0, or another number for "this machine cannot go on": the replica then stops for good (fail-stop), votes and answers
/// nothing more, and says so in duramen_replica_status ("halted") and in the log. What a client may send must never lead there: it gets a reply
/// that says so, the same on every replica. Callbacks must not throw, jump, or call duramen_replica_destroy of their replica.
///
/// Threads: execute, query, snapshot and restore never run at the same time, and each sees what the one before did; which thread it is may
/// change (a start executes what the log has on "duramen-replay", afterwards it is "duramen-exec"). snapshot_write and
/// snapshot_free may run at the same time as all others, on any thread; of one snapshot, snapshot_free is the last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_service {
    /// sizeof(duramen_service).
    pub struct_size: usize,
    /// Handed to every callback, otherwise not touched.
    pub user: *mut c_void,
    /// Executes one ordered operation and sets its reply (duramen_reply_set; none set: an empty one). context and op live until it returns.
    pub execute: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            context: *const duramen_context,
            op: *const c_void,
            len: usize,
            reply: *mut duramen_reply,
        ) -> i32,
    >,
    /// Answers a read from the present state, without changing it: with the bytes that execute would reply.
    pub query: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            op: *const c_void,
            len: usize,
            reply: *mut duramen_reply,
        ) -> i32,
    >,
    /// Sets *snapshot to a view of the state that later executions do not change. Should be quick: execution waits for it. The library gives it
    /// back with snapshot_free.
    pub snapshot: Option<unsafe extern "C" fn(user: *mut c_void, snapshot: *mut *mut c_void) -> i32>,
    /// Writes the view with duramen_writer_put: equal states write equal bytes, whatever history led to them. May be called
    /// several times for one view, also at the same time. Return what duramen_writer_put returned if that was not 0.
    pub snapshot_write: Option<
        unsafe extern "C" fn(user: *mut c_void, snapshot: *mut c_void, out: *mut duramen_writer) -> i32,
    >,
    /// Frees the view; may be NULL.
    pub snapshot_free: Option<unsafe extern "C" fn(user: *mut c_void, snapshot: *mut c_void)>,
    /// Replaces the state by one that snapshot_write wrote, read with duramen_reader_get. The bytes come from a disk or another machine: check
    /// them. On failure the state must be as before; the replica goes on, or takes another copy.
    pub restore: Option<unsafe extern "C" fn(user: *mut c_void, input: *mut duramen_reader) -> i32>,
    /// Called once, after the last of all other callbacks, on any thread, if the replica was started; may be NULL.
    pub destroy: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

// SAFETY: repr(C), starts with struct_size; zeros are NULL callbacks.
unsafe impl Grows for duramen_service {
    const FIRST_SIZE: usize = 9 * size_of::<usize>();
}

/// Sets the reply of the operation that is being executed or answered; a second call replaces the first.
///
/// Ownership: `data` is copied; NULL if `len` is 0. Thread: the callback's. Errors: DURAMEN_E_HANDLE (not the reply of a callback that runs on this
/// thread), DURAMEN_E_ARGUMENT, DURAMEN_E_TOO_LARGE (more than 64 MiB).
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_reply_set(
    reply: *mut duramen_reply,
    data: *const c_void,
    len: usize,
) -> i32 {
    lent_call(with_lent::<Replying>(reply, |reply| {
        // SAFETY: the caller's promise.
        let data = unsafe { bytes("data", data, len)? };
        if len > REPLY_BYTES_MAX {
            return Err(Failure::new(DURAMEN_E_TOO_LARGE, format!("a reply of {len} bytes")));
        }
        reply.0 = Bytes::copy_from_slice(data);
        Ok(DURAMEN_OK)
    }))
}

/// Adds bytes to the snapshot that is being written.
///
/// Ownership: `data` is not needed afterwards; NULL if `len` is 0. Thread: the callback's; may block for the disk. Errors: DURAMEN_E_HANDLE (as
/// of duramen_reply_set), DURAMEN_E_ARGUMENT, DURAMEN_E_IO (also: the replica is being stopped), DURAMEN_E_NO_SPACE, DURAMEN_E_STATE (an earlier put failed): return it from
/// snapshot_write; the snapshot is given up, the replica goes on.
///
/// # Safety
/// `data` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_writer_put(
    out: *mut duramen_writer,
    data: *const c_void,
    len: usize,
) -> i32 {
    lent_call(with_lent::<Writing>(out, |writing| {
        // SAFETY: the caller's promise.
        let data = unsafe { bytes("data", data, len)? };
        if writing.failed.is_some() {
            return Err(Failure::new(DURAMEN_E_STATE, "an earlier put failed"));
        }
        // SAFETY: `write_snapshot` borrows it as long as this is lent.
        let out = unsafe { &mut *writing.out };
        if let Err(error) = out.write_all(data) {
            let failure = Failure::io("writing a snapshot", &error);
            writing.failed = Some(error);
            return Err(failure);
        }
        writing.bytes += len as u64;
        Ok(DURAMEN_OK)
    }))
}

/// Reads the next bytes of the snapshot into `buf`: `len` of them, fewer only at the end, 0 behind it.
///
/// Returns how many (at least 0; `len` above INT32_MAX reads that many), or a code: DURAMEN_E_HANDLE (as of duramen_reply_set),
/// DURAMEN_E_ARGUMENT, DURAMEN_E_IO, DURAMEN_E_DAMAGED: return failure from restore. Thread: the callback's.
///
/// # Safety
/// `buf` takes `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_reader_get(input: *mut duramen_reader, buf: *mut c_void, len: usize) -> i32 {
    lent_call(with_lent::<Reading>(input, |reading| {
        if buf.is_null() && len > 0 {
            return Err(Failure::argument("buf is NULL, and its length is not 0"));
        }
        if len == 0 {
            return Ok(0);
        }
        let len = len.min(i32::MAX as usize);
        let mut filled = 0;
        while filled < len {
            // SAFETY: the reader lives as long as this is lent; `buf` takes `len` bytes, and std's readers do not read what they fill.
            let (input, rest) = unsafe {
                let rest = buf.cast::<u8>().add(filled);
                rest.write_bytes(0, (len - filled).min(STEP_BYTES));
                let rest = std::slice::from_raw_parts_mut(rest, (len - filled).min(STEP_BYTES));
                (&mut *reading.input, rest)
            };
            match input.read(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let failure = Failure::io("reading a snapshot", &error);
                    reading.failed = Some(error);
                    return Err(failure);
                }
            }
        }
        reading.at += filled as u64;
        Ok(filled as i32)
    }))
}

/// More no reply has.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// So much is asked of a reader at a time.
const STEP_BYTES: usize = 64 << 10;

pub(super) fn lent_call(result: Result<i32, i32>) -> i32 {
    result.unwrap_or_else(|code| code)
}

/// What stands behind a `duramen_reply`.
#[derive(Default)]
pub(super) struct Replying(pub Bytes);

impl Lend for Replying {
    type Opaque = duramen_reply;
    const KIND: &str = "a reply";
}

struct Writing {
    /// Lives as long as this is lent.
    out: *mut dyn Write,
    bytes: u64,
    failed: Option<io::Error>,
}

impl Lend for Writing {
    type Opaque = duramen_writer;
    const KIND: &str = "a writer";
}

struct Reading {
    /// Lives as long as this is lent.
    input: *mut dyn Read,
    at: u64,
    failed: Option<io::Error>,
}

impl Lend for Reading {
    type Opaque = duramen_reader;
    const KIND: &str = "a reader";
}

/// Ends the thread of execution, and with it the replica's part in the group. No panic hook runs.
pub(super) fn fail_stop(why: String) -> ! {
    std::panic::resume_unwind(Box::new(ServiceFailed(why)))
}

/// Fails unless the callback returned 0.
pub(super) fn expect_ok(callback: &str, code: i32, context: &str) {
    if code != 0 {
        fail_stop(format!("the service's {callback} callback returned {code}{context}"));
    }
}

impl duramen_context {
    pub(super) fn of(context: &Context) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            seq: context.seq.0,
            time_ns: context.time.0,
            seed: context.seed,
            session: context.session.0,
            client: context.client.0,
            index: context.index,
        }
    }
}

/// For the operation's pointer.
pub(super) fn pointer(bytes: &[u8]) -> *const c_void {
    if bytes.is_empty() { std::ptr::null() } else { bytes.as_ptr().cast() }
}

/// The handle of the replica that a service runs in; 0 before it is started.
pub(super) type Owner = Arc<AtomicUsize>;

/// The host's `destroy`: called when this is dropped, if the replica was ever started.
pub(super) struct LastCall {
    destroy: Option<unsafe extern "C" fn(*mut c_void)>,
    user: *mut c_void,
    owner: Owner,
}

impl LastCall {
    /// `owner`: set once `destroy` is to be called.
    pub fn new(destroy: Option<unsafe extern "C" fn(*mut c_void)>, user: *mut c_void, owner: Owner) -> Self {
        Self { destroy, user, owner }
    }

    /// The handle of the replica; 0 before it is started.
    pub fn owner(&self) -> usize {
        self.owner.load(Ordering::Acquire)
    }
}

impl Drop for LastCall {
    fn drop(&mut self) {
        let owner = self.owner();
        if let Some(destroy) = self.destroy.filter(|_| owner != 0) {
            let _scope = Scope::enter(owner);
            // SAFETY: the host's contract; nothing else of it is called any more.
            unsafe { destroy(self.user) };
        }
    }
}

/// The callbacks, shared with snapshots: `destroy` comes after the last of them.
struct Shared {
    table: duramen_service,
    last: LastCall,
    /// Another thread's callback failed: the next execution stops the replica.
    failed: OnceLock<String>,
    /// Of the last snapshot written.
    snapshot_bytes: AtomicU64,
}

// SAFETY: the pointers are not followed here; that callbacks and `user` may be used on the threads that the header names is the host's
// contract.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A service by callbacks.
pub(super) struct HostService(Arc<Shared>);

impl HostService {
    /// Errors: a callback that must be there is not. `owner`: set once `destroy` is to be called.
    pub fn new(table: duramen_service, owner: Owner) -> Result<Self, Failure> {
        let missing = [
            ("execute", table.execute.is_none()),
            ("query", table.query.is_none()),
            ("snapshot", table.snapshot.is_none()),
            ("snapshot_write", table.snapshot_write.is_none()),
            ("restore", table.restore.is_none()),
        ];
        if let Some((name, _)) = missing.iter().find(|(_, missing)| *missing) {
            return Err(Failure::argument(format!("the service has no {name}")));
        }
        let last = LastCall::new(table.destroy, table.user, owner);
        let shared = Shared { table, last, failed: OnceLock::new(), snapshot_bytes: AtomicU64::new(0) };
        Ok(Self(Arc::new(shared)))
    }

    fn check(&self) -> &duramen_service {
        if let Some(why) = self.0.failed.get() {
            fail_stop(why.clone());
        }
        &self.0.table
    }

    fn scope(&self) -> Scope {
        Scope::enter(self.0.last.owner())
    }
}

impl Service for HostService {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        let (table, _scope) = (self.check(), self.scope());
        let mut reply = Replying::default();
        let told = duramen_context::of(context);
        let execute = table.execute.expect("checked");
        // SAFETY: all pointers live until it returns; the rest is the host's contract.
        let code = lend(&mut reply, |reply| unsafe {
            execute(table.user, &raw const told, pointer(operation), operation.len(), reply)
        });
        expect_ok("execute", code, &format!(" for operation {} of batch {}", context.index, context.seq));
        reply.0
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let (table, _scope) = (self.check(), self.scope());
        let mut reply = Replying::default();
        let query = table.query.expect("checked");
        // SAFETY: as above.
        let code = lend(&mut reply, |reply| unsafe {
            query(table.user, pointer(operation), operation.len(), reply)
        });
        expect_ok("query", code, "");
        QueryReply { result: reply.0, version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        let (table, _scope) = (self.check(), self.scope());
        let mut view = std::ptr::null_mut();
        // SAFETY: the place lives until it returns.
        let code = unsafe { table.snapshot.expect("checked")(table.user, &raw mut view) };
        expect_ok("snapshot", code, "");
        Box::new(HostSnapshot { shared: self.0.clone(), view })
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let (table, _scope) = (self.check(), self.scope());
        // SAFETY: only the lifetime changes; the pointer is used while `input` is borrowed here.
        let input = unsafe { std::mem::transmute::<*mut (dyn Read + '_), *mut (dyn Read + 'static)>(input) };
        let mut reading = Reading { input, at: 0, failed: None };
        let restore = table.restore.expect("checked");
        // SAFETY: the host's contract.
        let code = lend(&mut reading, |input| unsafe { restore(table.user, input) });
        match (code, reading.failed) {
            (0, None) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (_, None) => Err(RestoreError::Malformed {
                at: reading.at,
                reason: "the service's restore callback turned it away",
            }),
        }
    }

    fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        let mut writer = crate::service::DigestWriter::new(algorithm);
        if let Err(why) = self.snapshot().write_to(&mut writer) {
            fail_stop(why.to_string());
        }
        writer.finish()
    }
}

struct HostSnapshot {
    shared: Arc<Shared>,
    view: *mut c_void,
}

// SAFETY: as of `Shared`.
unsafe impl Send for HostSnapshot {}
// SAFETY: as of `Shared`; writing a view several times at once is allowed by its contract.
unsafe impl Sync for HostSnapshot {}

impl Snapshot for HostSnapshot {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let table = &self.shared.table;
        let _scope = Scope::enter(self.shared.last.owner());
        // SAFETY: only the lifetime changes; the pointer is used while `out` is borrowed here.
        let out = unsafe { std::mem::transmute::<*mut (dyn Write + '_), *mut (dyn Write + 'static)>(out) };
        let mut writing = Writing { out, bytes: 0, failed: None };
        let write = table.snapshot_write.expect("checked");
        // SAFETY: the host's contract.
        let code = lend(&mut writing, |out| unsafe { write(table.user, self.view, out) });
        if let Some(error) = writing.failed {
            return Err(error);
        }
        if code != 0 {
            let why = format!("the service's snapshot_write callback returned {code}");
            let _ = self.shared.failed.set(why.clone());
            return Err(io::Error::other(why));
        }
        self.shared.snapshot_bytes.store(writing.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// As many as were written last: it serves estimates only.
    fn bytes(&self) -> u64 {
        self.shared.snapshot_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for HostSnapshot {
    fn drop(&mut self) {
        if let Some(free) = self.shared.table.snapshot_free {
            let _scope = Scope::enter(self.shared.last.owner());
            // SAFETY: the host's contract; the view is not used any more.
            unsafe { free(self.shared.table.user, self.view) };
        }
    }
}
