//! Log lines to the host: only if it asks.

use super::entry::{enter, while_logging};
use super::status::*;
use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::RwLock;
use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

/// A level of log lines: something failed.
pub const DURAMEN_LOG_ERROR: i32 = 1;
/// A level of log lines: something is not as it should be, and goes on.
pub const DURAMEN_LOG_WARN: i32 = 2;
/// A level of log lines: what an operator may want to know.
pub const DURAMEN_LOG_INFO: i32 = 3;
/// A level of log lines: for who looks for a mistake.
pub const DURAMEN_LOG_DEBUG: i32 = 4;

/// Takes a line: its level (DURAMEN_LOG_ERROR ...) and its text (UTF-8, ends with NUL, no newline), which lives until the callback returns.
pub type duramen_log_fn = Option<unsafe extern "C" fn(user: *mut c_void, level: i32, line: *const c_char)>;

#[derive(Clone, Copy)]
struct Sink {
    function: unsafe extern "C" fn(*mut c_void, i32, *const c_char),
    user: *mut c_void,
}

// SAFETY: the pointer is not followed here; that it may go to any thread is the host's contract (`duramen_set_log_callback`).
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Option<Sink>> = RwLock::new(None);

struct ToHost;

impl Log for ToHost {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("duramen")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Held while it runs, so that nothing runs once it was taken back. A line of a line is dropped.
        let sink = SINK.read_recursive();
        let Some(Sink { function, user }) = *sink else { return };
        let line = record.args().to_string().replace(['\n', '\0'], " ");
        let line = CString::new(line).expect("without NUL");
        // SAFETY: the host gave function and user for each other; the line lives until after the call.
        while_logging(|| unsafe { function(user, record.level() as i32, line.as_ptr()) });
    }

    fn flush(&self) {}
}

/// Hands log lines up to `level` (DURAMEN_LOG_ERROR, ..._WARN, ..._INFO, ..._DEBUG) of everything in this process to `log`; NULL: to nobody, as
/// it is at the beginning (whatever `level` is). There is one callback per process: this replaces it. When this returns, the one before is not running and will
/// not run again.
///
/// Ownership: `user` is handed to `log` and otherwise not touched. Thread of `log`: any of the library's, and any that calls it; several at once.
/// Locks may be held there: the callback must be short, and may only call duramen_strerror, duramen_errname, duramen_errmsg and
/// duramen_version; everything else returns DURAMEN_E_REENTRANT. Must not throw or jump.
///
/// Errors: DURAMEN_E_ARGUMENT (no such level), DURAMEN_E_STATE (a Rust host of this process has a logger of its own), DURAMEN_E_REENTRANT.
///
/// # Safety
/// `log` may be called with `user` on any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_set_log_callback(level: i32, log: duramen_log_fn, user: *mut c_void) -> i32 {
    enter(|| {
        static OURS: OnceLock<bool> = OnceLock::new();
        let Some(function) = log else {
            let mut sink = SINK.write();
            *sink = None;
            if OURS.get() == Some(&true) {
                ::log::set_max_level(LevelFilter::Off);
            }
            return Ok(DURAMEN_OK);
        };
        let filter = match level {
            DURAMEN_LOG_ERROR => LevelFilter::Error,
            DURAMEN_LOG_WARN => LevelFilter::Warn,
            DURAMEN_LOG_INFO => LevelFilter::Info,
            DURAMEN_LOG_DEBUG => LevelFilter::Debug,
            _ => return Err(Failure::argument(format!("level {level}: 1 to 4 are known"))),
        };
        if !OURS.get_or_init(|| ::log::set_logger(&ToHost).is_ok()) {
            return Err(Failure::new(DURAMEN_E_STATE, "this process has a logger already"));
        }
        let mut sink = SINK.write();
        *sink = Some(Sink { function, user });
        ::log::set_max_level(filter);
        Ok(DURAMEN_OK)
    })
}
