//! Whole replicas with a state machine of the host.

use super::conf::{Values, duramen_conf, values_of};
use super::entry::{enter, give_text, note, out, sized};
use super::handle::{self, Ending, Object};
use super::pages::{HostPagedService, duramen_paged_service};
use super::service::{HostService, Owner, duramen_service};
use super::status::*;
use crate::data_dir;
use crate::log::LogError;
use crate::replica::{Replica, ReplicaOptions, ServiceFailed, StartError, failure_text};
use crate::service::Service;
use crate::types::ReplicaId;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A replica of a cluster, running in this process. A handle.
pub struct duramen_replica {
    _opaque: (),
}

/// Behind the handle.
pub(super) struct HostReplica {
    /// Until it ends.
    engine: Option<Replica>,
    ending: Option<Ending>,
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::NoSuchReplica { .. } => DURAMEN_E_NOT_FOUND,
            StartError::Config(_)
            | StartError::Keys(_)
            | StartError::NothingForgotten
            | StartError::OtherDurability { .. }
            | StartError::OtherLogs { .. } => DURAMEN_E_CONFIG,
            StartError::NothingKept => DURAMEN_E_STATE,
            StartError::Log(error) => log_code(error),
            StartError::Restore { .. } | StartError::Checkpoint { .. } => DURAMEN_E_DAMAGED,
            StartError::Net(_) => DURAMEN_E_IO,
            StartError::System(error) => io_code(error),
        };
        Self::new(code, error.to_string())
    }
}

/// The code that stands for an error of the log.
fn log_code(error: &LogError) -> i32 {
    match error {
        LogError::Io { source, .. } => io_code(source),
        LogError::Damaged { .. } => DURAMEN_E_DAMAGED,
        LogError::Locked(_) => DURAMEN_E_BUSY,
        LogError::Full(_) => DURAMEN_E_NO_SPACE,
        LogError::Refused { .. } | LogError::NotThere(_) => DURAMEN_E_DAMAGED,
        _ => DURAMEN_E_CONFIG,
    }
}

/// How often somebody who waits looks.
const STEP: Duration = Duration::from_millis(20);

impl HostReplica {
    fn start(values: &Values, id: u32, service: Box<dyn Service>) -> Result<Self, Failure> {
        let dir = PathBuf::from(values.text("dir"));
        let config = data_dir::load_config(&dir);
        let config = config.map_err(|e| Failure::new(DURAMEN_E_CONFIG, e.to_string()))?;
        let metrics = match values.text("metrics-address") {
            "" => None,
            address => Some(address.parse().map_err(|_| {
                Failure::new(DURAMEN_E_CONFIG, format!("metrics-address = {address:?}: no host:port"))
            })?),
        };
        let options = ReplicaOptions {
            insecure: values.flag("insecure"),
            allow_tmpfs: values.flag("allow-tmpfs"),
            metrics,
            ..ReplicaOptions::new(config, dir, ReplicaId(id), service)
        };
        match catch_unwind(AssertUnwindSafe(|| Replica::start(options))) {
            Ok(started) => Ok(Self { engine: Some(started?), ending: None }),
            // While the log was executed.
            Err(payload) if payload.is::<ServiceFailed>() => {
                Err(Failure::new(DURAMEN_E_CALLBACK, failure_text(&*payload)))
            }
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }

    fn engine(&self) -> &Replica {
        self.engine.as_ref().expect("no call comes after the end")
    }
}

impl Object for HostReplica {
    type Opaque = duramen_replica;
    const KIND: &str = "a replica";

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        if let Some(replica) = self.engine.take() {
            self.ending = Some(Ending::start(move || replica.stop())?);
        }
        if let Some(ending) = &mut self.ending {
            ending.wait(until, "the replica's threads, or a callback on them, still run")?;
            self.ending = None;
        }
        Ok(())
    }
}

/// What both kinds of start do.
fn start(
    conf: *const duramen_conf,
    id: u32,
    place: *mut *mut duramen_replica,
    service: impl FnOnce(Owner) -> Result<Box<dyn Service>, Failure>,
) -> i32 {
    enter(|| {
        let place = out("out", place)?;
        // SAFETY: the promise of `duramen_replica_start`.
        unsafe { place.write(std::ptr::null_mut()) };
        let owner = Owner::default();
        let service = service(owner.clone())?;
        let replica = HostReplica::start(&values_of(conf)?, id, service)?;
        let replica = handle::insert_with(replica, |_, handle| owner.store(handle, Ordering::Release))?;
        // SAFETY: as above.
        unsafe { place.write(replica) };
        Ok(DURAMEN_OK)
    })
}

/// Starts replica `id` of the cluster of `dir` (see duramen_conf_set) with a state machine of the host, which is in its initial state: what
/// checkpoints and log have is put into it by callbacks before this returns.
///
/// Ownership: `conf` and the struct `service` stay the caller's and are not needed afterwards; what `user` points to must live until `destroy`
/// was called, or this has failed: then `destroy` is not called. `*out` is the caller's, until duramen_replica_destroy; NULL on failure.
/// Thread: any; blocks until checkpoint and log are read. Callbacks: on the replica's threads, see duramen_service. Re-entrancy: not from
/// a callback of a service.
///
/// Errors: DURAMEN_E_CONFIG, DURAMEN_E_NOT_FOUND (no such replica), DURAMEN_E_BUSY (another process runs it), DURAMEN_E_IO, DURAMEN_E_NO_SPACE,
/// DURAMEN_E_DAMAGED (log or checkpoints; the message says what to do), DURAMEN_E_CALLBACK (execute failed), DURAMEN_E_STATE (durability = "none"
/// cannot restart), DURAMEN_E_ABI, DURAMEN_E_ARGUMENT (a callback is missing), DURAMEN_E_HANDLE.
///
/// # Safety
/// `service` is NULL or has struct_size bytes; its callbacks may be called with `user` as the header says; `out` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_replica_start(
    conf: *const duramen_conf,
    id: u32,
    service: *const duramen_service,
    out: *mut *mut duramen_replica,
) -> i32 {
    start(conf, id, out, |owner| {
        // SAFETY: the caller's promise.
        let table = unsafe { sized("service", service)? };
        Ok(Box::new(HostService::new(table, owner)?))
    })
}

/// As duramen_replica_start, with a state machine whose state the library keeps in pages.
///
/// Ownership, thread, re-entrancy and errors: as of duramen_replica_start; DURAMEN_E_ARGUMENT also for page_bytes_max.
///
/// # Safety
/// As of duramen_replica_start.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_replica_start_paged(
    conf: *const duramen_conf,
    id: u32,
    service: *const duramen_paged_service,
    out: *mut *mut duramen_replica,
) -> i32 {
    start(conf, id, out, |owner| {
        // SAFETY: the caller's promise.
        let table = unsafe { sized("service", service)? };
        Ok(Box::new(HostPagedService::new(table, owner)?))
    })
}

/// Writes what is known of the replica as one JSON object, with a NUL, into `json`; `*len` (may be NULL) gets its length without the NUL.
/// "halted" is null, or says why the replica stopped for good: a callback or the log failed.
///
/// Ownership: `json` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
/// written; the text changes from call to call: leave some room), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE.
///
/// # Safety
/// `json` holds `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_replica_status(
    replica: *mut duramen_replica,
    json: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostReplica>(replica, |replica| {
        // SAFETY: the caller's promise.
        unsafe { give_text(&replica.engine().status_json(), json, cap, len) }
    })
}

/// Writes the replica's figures as OpenMetrics text, with a NUL, into `buf`: what metrics-address answers at /metrics.
///
/// Ownership, thread, re-entrancy and errors: as of duramen_replica_status.
///
/// # Safety
/// As of duramen_replica_status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_replica_metrics(
    replica: *mut duramen_replica,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostReplica>(replica, |replica| {
        // SAFETY: the caller's promise.
        unsafe { give_text(&replica.engine().metrics_text(), buf, cap, len) }
    })
}

/// Waits until the replica has stopped for good by itself (see "halted" of duramen_replica_status), for `timeout_ms` at most (0: does not wait;
/// DURAMEN_FOREVER). DURAMEN_OK: it has; the message (duramen_errmsg style, into `why`, may be NULL if `cap` is 0) says why.
///
/// Ownership: `why` is the caller's. Thread: any. Re-entrancy: not from a callback. Errors: DURAMEN_E_TIMEOUT (it runs), DURAMEN_E_REENTRANT,
/// DURAMEN_E_HANDLE, DURAMEN_E_STATE (being destroyed, or destroyed while this waited).
///
/// # Safety
/// `why` holds `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_replica_wait_failed(
    replica: *mut duramen_replica,
    timeout_ms: u64,
    why: *mut c_char,
    cap: usize,
) -> i32 {
    let until = handle::until(timeout_ms);
    let mut waited = false;
    loop {
        // In steps: destroy is not to wait for this.
        let mut ended = false;
        let code = handle::with::<HostReplica>(replica, |replica| {
            replica.not_within("wait_failed")?;
            if let Some(text) = replica.engine().wait_failed(Duration::ZERO) {
                ended = true;
                // SAFETY: the caller's promise.
                unsafe { super::entry::copy_text(&text, why, cap) };
            } else if until.is_some_and(|until| Instant::now() >= until) {
                return Err(Failure::new(DURAMEN_E_TIMEOUT, "the replica runs"));
            }
            Ok(DURAMEN_OK)
        });
        if waited && code == DURAMEN_E_HANDLE {
            // It was there when this was called.
            note(replica.addr(), "a replica was destroyed meanwhile");
            return DURAMEN_E_STATE;
        }
        if ended || code != DURAMEN_OK {
            return code;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        std::thread::sleep(left.unwrap_or(STEP).min(STEP));
        waited = true;
    }
}

/// Stops a replica: what was appended is written, its threads are joined, and its service's `destroy` is called.
///
/// `deadline_ms`: how long to wait for calls, threads and callbacks; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
/// of its service (it would wait for itself).
///
/// Errors: DURAMEN_E_TIMEOUT (the handle takes destroy alone: call it again; a callback that never returns keeps it so), DURAMEN_E_REENTRANT,
/// DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_replica_destroy(replica: *mut duramen_replica, deadline_ms: u64) -> i32 {
    handle::destroy::<HostReplica>(replica, deadline_ms)
}
