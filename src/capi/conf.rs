//! Configuration as text: keys and values, so that new ones need no new function.

use super::entry::{copy_text, enter, give_text, text};
use super::handle::{self, Object};
use super::status::*;
use crate::checkpoint::increments::CHAIN_MAX;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::time::{Duration, Instant};

/// Values of a configuration. A handle.
pub struct duramen_conf {
    _opaque: (),
}

/// What a value must look like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Anything.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number from, to.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
}

/// A key that there is.
pub(super) struct Key {
    pub name: &'static str,
    pub default: &'static str,
    pub shape: Shape,
}

const fn key(name: &'static str, default: &'static str, shape: Shape) -> Key {
    Key { name, default, shape }
}

/// All keys. Their meanings stand at [`duramen_conf_set`]; a test looks for each of them there.
pub(super) const KEYS: &[Key] = &[
    key("dir", "duramen-data", Shape::Text),
    key("client", "default", Shape::Text),
    key("insecure", "false", Shape::Flag),
    key("deadline-ms", "10000", Shape::Number(1, 86_400_000)),
    key("connect-timeout-ms", "10000", Shape::Number(1, 86_400_000)),
    key("outstanding-max", "65536", Shape::Number(1, 1 << 24)),
    key("callbacks", "poll", Shape::Word(&["poll", "thread"])),
    key("allow-tmpfs", "false", Shape::Flag),
    key("metrics-address", "", Shape::Text),
    key("transfer-dir", "duramen-transfer", Shape::Text),
    key("mode", "parallel", Shape::Word(&["parallel", "batched", "naive", "async"])),
    key("segment-mib", "64", Shape::Number(1, 2048)),
    key("segments", "512", Shape::Number(4, 1 << 20)),
    key("io", "auto", Shape::Word(&["auto", "uring", "threads"])),
    key("queue-mib", "64", Shape::Number(1, 1 << 16)),
    key("group-kib", "1024", Shape::Word(&["4", "16", "64", "256", "512", "1024"])),
    key("prefill-segments", "0", Shape::Number(0, 1 << 20)),
    key("full-every", "8", Shape::Number(1, CHAIN_MAX as u64)),
];

/// What a `duramen_conf` holds.
#[derive(Clone, Default)]
pub(super) struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
            return Err(format!("there is no key {name:?}, only {}", known.join(", ")));
        };
        let wrong = |must: String| Err(format!("{name} = {value:?}: must be {must}"));
        match key.shape {
            Shape::Text => {}
            Shape::Flag if matches!(value, "true" | "false") => {}
            Shape::Flag => return wrong("true or false".into()),
            Shape::Number(from, to) => {
                let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                match value.parse::<u64>() {
                    Ok(n) if digits && (from..=to).contains(&n) => {}
                    _ => return wrong(format!("a whole number from {from} to {to}")),
                }
            }
            Shape::Word(words) if words.contains(&value) => {}
            Shape::Word(words) => return wrong(format!("one of {}", words.join(", "))),
        }
        self.0.insert(key.name, value.to_owned());
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&str> {
        let key = KEYS.iter().find(|key| key.name == name)?;
        Some(self.0.get(key.name).map_or(key.default, String::as_str))
    }

    /// The value of a key of [`KEYS`].
    pub fn text(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| unreachable!("{name} stands in the table"))
    }

    pub fn flag(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub fn number(&self, name: &str) -> u64 {
        self.text(name).parse().expect("checked when it was set")
    }

    /// Of a key in milliseconds.
    pub fn time(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }
}

struct Conf(Mutex<Values>);

impl Object for Conf {
    type Opaque = duramen_conf;
    const KIND: &str = "a configuration";
    const BOUND_TO_PROCESS: bool = false;

    fn end(&mut self, _: Option<Instant>) -> Result<(), Failure> {
        Ok(())
    }
}

/// Hands what a configuration holds to `with`, as it is now.
pub(super) fn values_of(conf: *const duramen_conf) -> Result<Values, Failure> {
    let mut values = None;
    let code = handle::with::<Conf>(conf, |conf| {
        values = Some(conf.0.lock().clone());
        Ok(DURAMEN_OK)
    });
    values.ok_or_else(|| Failure::new(code, "the first argument is no configuration (duramen_conf_new)"))
}

/// A configuration with all defaults, or NULL (no more handles; a child process after fork): duramen_errmsg(NULL, ...) says why.
///
/// Ownership: the caller's, until duramen_conf_destroy. What is opened with it copies what it needs: it may be changed or destroyed
/// at once. Thread: any; several threads may use one.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_conf_new() -> *mut duramen_conf {
    let mut made = std::ptr::null_mut();
    enter(|| {
        made = handle::insert(Conf(Mutex::default()))?;
        Ok(DURAMEN_OK)
    });
    made
}

/// Sets a key. The value is checked here; whether files and addresses exist is checked by what is opened with it.
///
/// | key                | default      | unit  | used by         | meaning                                                              |
/// |--------------------|--------------|-------|-----------------|----------------------------------------------------------------------|
/// | dir                | duramen-data |       | client, replica,| the cluster's folder, as `duramen init` made it                      |
/// |                    |              |       | transfer        |                                                                      |
/// |                    |              |       | log, durable    | the log's own folder                                                 |
/// |                    |              |       | checkpoint      | the checkpoints' own folder                                          |
/// | client             | default      |       | client          | name of the client; its keys are in DIR/client-NAME.key              |
/// | insecure           | false        |       | client, replica,| true: accept unencrypted links although replicas may lie             |
/// |                    |              |       | transfer        |                                                                      |
/// | deadline-ms        | 10000        | ms    | client          | of requests that name no deadline                                    |
/// | connect-timeout-ms | 10000        | ms    | client          | how long opening waits for a quorum of replicas                      |
/// | outstanding-max    | 65536        | count | client          | requests under way at a time; more are DURAMEN_E_BUSY                |
/// | callbacks          | poll         |       | client, durable | poll: callbacks wait for duramen_..._poll; thread: on a thread       |
/// | allow-tmpfs        | false        |       | replica, log,   | true: accept a log on a file system in memory (for tests)            |
/// |                    |              |       | durable         |                                                                      |
/// | metrics-address    | (none)       |       | replica         | host:port where /metrics, /healthz and /readyz are answered by HTTP  |
/// | transfer-dir       | duramen-transfer |   | transfer        | a folder of its own, made if missing, for what is being received     |
/// | mode               | parallel     |       | durable         | parallel: log and execute at once, release after both; batched: log, |
/// |                    |              |       |                 | then execute; naive: as batched, one write per operation; async:     |
/// |                    |              |       |                 | release before the log is written                                    |
/// | segment-mib        | 64           | MiB   | log, durable    | size of new segment files; a fourth of one is the largest record     |
/// | segments           | 512          | count | log, durable    | as many segments there may be; more are DURAMEN_E_NO_SPACE           |
/// | io                 | auto         |       | log, durable    | auto; uring: or an error; threads: one synchronous write at a time   |
/// | queue-mib          | 64           | MiB   | log, durable    | appended and not in a write yet; more are DURAMEN_E_BUSY             |
/// | group-kib          | 1024         | KiB   | log, durable    | largest single write: 4, 16, 64, 256, 512 or 1024                    |
/// | prefill-segments   | 0            | count | log, durable    | segments filled with zeros before open returns (for benchmarks)      |
/// | full-every         | 8            | count | checkpoint      | files that a checkpoint in pages is made of at most, 1 to 32: then   |
/// |                    |              |       |                 | all pages are written again                                          |
///
/// Ownership: key and value are copied. `err` (may be NULL if `errlen` is 0) gets one line about what is wrong, cut to `errlen` with a
/// NUL; an empty one on success. Thread: any. Errors: DURAMEN_E_CONFIG (no such key, no such value), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
///
/// # Safety
/// Strings end with NUL; `err` holds `errlen` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_conf_set(
    conf: *mut duramen_conf,
    key: *const c_char,
    value: *const c_char,
    err: *mut c_char,
    errlen: usize,
) -> i32 {
    handle::with::<Conf>(conf, |conf| {
        let set = || {
            // SAFETY: the caller's promise.
            let (key, value) = unsafe { (text("key", key)?, text("value", value)?) };
            conf.0.lock().set(key, value).map_err(|why| Failure::new(DURAMEN_E_CONFIG, why))
        };
        let set = set();
        let why = set.as_ref().err().map_or("", |failure| &failure.message);
        // SAFETY: the caller's promise.
        unsafe { copy_text(why, err, errlen) };
        set.map(|()| DURAMEN_OK)
    })
}

/// Copies a key's value, or its default, with a NUL into `buf`; `*len` (may be NULL) gets its length without the NUL.
///
/// Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Errors: DURAMEN_E_CONFIG (no such key), DURAMEN_E_BUFFER (as
/// much as fits was copied), DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
///
/// # Safety
/// `key` ends with NUL; `buf` holds `cap` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_conf_get(
    conf: *const duramen_conf,
    key: *const c_char,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<Conf>(conf, |conf| {
        // SAFETY: the caller's promise.
        let key = unsafe { text("key", key)? };
        let values = conf.0.lock();
        let none = || Failure::new(DURAMEN_E_CONFIG, format!("there is no key {key:?}"));
        // SAFETY: the caller's promise.
        unsafe { give_text(values.find(key).ok_or_else(none)?, buf, cap, len) }
    })
}

/// Forgets a configuration. What was opened with it goes on. NULL is DURAMEN_E_HANDLE.
///
/// Ownership: the handle is the library's again. Thread: any. Errors: DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_conf_destroy(conf: *mut duramen_conf) -> i32 {
    handle::destroy::<Conf>(conf, handle::DURAMEN_FOREVER)
}

/// The version of this library, "0.1.0".
///
/// Ownership: static text. Thread: any; also in a child process after fork.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of this library as DURAMEN_VERSION was when its header was made: compare the two to find a mixture.
///
/// Thread: any; also in a child process after fork.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_version_number() -> u32 {
    DURAMEN_VERSION
}

/// The version of this header: major * 1000000 + minor * 1000 + patch.
pub const DURAMEN_VERSION: u32 = 1000;
