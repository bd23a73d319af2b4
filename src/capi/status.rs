//! How calls end: the numbers, listed once, never reused.

use std::ffi::{CStr, c_char};

/// The call did what it says.
pub const DURAMEN_OK: i32 = 0;
/// duramen found a mistake of its own: it caught a panic. The handle is poisoned; only destroy works on it. Please report the message.
pub const DURAMEN_E_INTERNAL: i32 = -1;
/// The handle is NULL, of another kind, destroyed, or never was one.
pub const DURAMEN_E_HANDLE: i32 = -2;
/// An earlier call on this handle ended with DURAMEN_E_INTERNAL: destroy it.
pub const DURAMEN_E_POISONED: i32 = -3;
/// An argument is NULL or out of its range.
pub const DURAMEN_E_ARGUMENT: i32 = -4;
/// A configuration key or value, a configuration file or a key file is not right.
pub const DURAMEN_E_CONFIG: i32 = -5;
/// The operating system refused: files, sockets, threads. The message has its words.
pub const DURAMEN_E_IO: i32 = -6;
/// The disk, or the space that the configuration grants, is full.
pub const DURAMEN_E_NO_SPACE: i32 = -7;
/// What is on disk, or was received, is not what was written.
pub const DURAMEN_E_DAMAGED: i32 = -8;
/// As much is under way as may be: nothing was taken; try again after something has ended.
pub const DURAMEN_E_BUSY: i32 = -9;
/// Longer than the configuration allows.
pub const DURAMEN_E_TOO_LARGE: i32 = -10;
/// The time given was not enough.
pub const DURAMEN_E_TIMEOUT: i32 = -11;
/// Not now: the order of calls is wrong, or the handle is being destroyed.
pub const DURAMEN_E_STATE: i32 = -12;
/// Called from a callback in which that could wait for itself.
pub const DURAMEN_E_REENTRANT: i32 = -13;
/// Too few replicas could be reached.
pub const DURAMEN_E_UNREACHABLE: i32 = -14;
/// The other side does not take us: its keys or configuration are others.
pub const DURAMEN_E_REFUSED: i32 = -15;
/// Called in a child process after fork: it may only call duramen_strerror and exec.
pub const DURAMEN_E_FORKED: i32 = -16;
/// struct_size is smaller than the first version of that struct: compiled against another header, or not set.
pub const DURAMEN_E_ABI: i32 = -17;
/// The caller's buffer is too small; nothing but the length needed, and where the function says so a part, was written.
pub const DURAMEN_E_BUFFER: i32 = -18;
/// A callback of the host reported failure.
pub const DURAMEN_E_CALLBACK: i32 = -19;
/// There is no such thing.
pub const DURAMEN_E_NOT_FOUND: i32 = -20;
/// A state machine of the host does not keep its contract: see duramen_service_test.
pub const DURAMEN_E_CONTRACT: i32 = -21;
/// A checkpoint of the other kind: in pages where one stream of bytes is asked for, or the other way round.
pub const DURAMEN_E_OTHER_KIND: i32 = -22;

/// Number, name, text.
pub(super) const CODES: &[(i32, &CStr, &CStr)] = &[
    (DURAMEN_OK, c"DURAMEN_OK", c"done"),
    (DURAMEN_E_INTERNAL, c"DURAMEN_E_INTERNAL", c"a mistake in duramen: the handle can only be destroyed"),
    (DURAMEN_E_HANDLE, c"DURAMEN_E_HANDLE", c"not a handle of this kind, or destroyed"),
    (DURAMEN_E_POISONED, c"DURAMEN_E_POISONED", c"the handle failed before and can only be destroyed"),
    (DURAMEN_E_ARGUMENT, c"DURAMEN_E_ARGUMENT", c"an argument is NULL or out of range"),
    (DURAMEN_E_CONFIG, c"DURAMEN_E_CONFIG", c"the configuration or the keys are not right"),
    (DURAMEN_E_IO, c"DURAMEN_E_IO", c"the operating system refused"),
    (DURAMEN_E_NO_SPACE, c"DURAMEN_E_NO_SPACE", c"no space left"),
    (DURAMEN_E_DAMAGED, c"DURAMEN_E_DAMAGED", c"data is not what was written"),
    (DURAMEN_E_BUSY, c"DURAMEN_E_BUSY", c"too much is under way: try again"),
    (DURAMEN_E_TOO_LARGE, c"DURAMEN_E_TOO_LARGE", c"longer than the configuration allows"),
    (DURAMEN_E_TIMEOUT, c"DURAMEN_E_TIMEOUT", c"the time given was not enough"),
    (DURAMEN_E_STATE, c"DURAMEN_E_STATE", c"not possible in this state"),
    (DURAMEN_E_REENTRANT, c"DURAMEN_E_REENTRANT", c"not possible from within a callback"),
    (DURAMEN_E_UNREACHABLE, c"DURAMEN_E_UNREACHABLE", c"too few replicas could be reached"),
    (DURAMEN_E_REFUSED, c"DURAMEN_E_REFUSED", c"refused by the other side"),
    (DURAMEN_E_FORKED, c"DURAMEN_E_FORKED", c"used in a child process after fork"),
    (DURAMEN_E_ABI, c"DURAMEN_E_ABI", c"struct_size is too small"),
    (DURAMEN_E_BUFFER, c"DURAMEN_E_BUFFER", c"the buffer is too small"),
    (DURAMEN_E_CALLBACK, c"DURAMEN_E_CALLBACK", c"a callback reported failure"),
    (DURAMEN_E_NOT_FOUND, c"DURAMEN_E_NOT_FOUND", c"there is no such thing"),
    (DURAMEN_E_CONTRACT, c"DURAMEN_E_CONTRACT", c"a service does not keep its contract"),
    (DURAMEN_E_OTHER_KIND, c"DURAMEN_E_OTHER_KIND", c"a checkpoint of the other kind: pages, or one stream"),
];

/// One line about a result code, in English. Of a number that is none: "unknown code".
///
/// Ownership: the text is static; never free it. Thread: any; also in a child process after fork. Errors: none.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_strerror(code: i32) -> *const c_char {
    CODES.iter().find(|(c, ..)| *c == code).map_or(c"unknown code", |(_, _, text)| text).as_ptr()
}

/// The name of a result code as this header spells it, "DURAMEN_E_BUSY"; of a number that is none: "unknown".
///
/// Ownership: the text is static; never free it. Thread: any; also in a child process after fork. Errors: none.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_errname(code: i32) -> *const c_char {
    CODES.iter().find(|(c, ..)| *c == code).map_or(c"unknown", |(_, name, _)| name).as_ptr()
}

/// Why a call fails: a code, and a line for people.
#[derive(Debug)]
pub(super) struct Failure {
    pub code: i32,
    pub message: String,
}

impl Failure {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        debug_assert!(code < 0 && CODES.iter().any(|(c, ..)| *c == code));
        Self { code, message: message.into() }
    }

    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(DURAMEN_E_ARGUMENT, message)
    }

    /// The operating system's words, and whether it is about space.
    pub fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::new(io_code(error), format!("{what}: {error}"))
    }
}

/// The code that stands for an error of the operating system.
pub(super) fn io_code(error: &std::io::Error) -> i32 {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => DURAMEN_E_NO_SPACE,
        _ if error.kind() == std::io::ErrorKind::InvalidData => DURAMEN_E_DAMAGED,
        _ => DURAMEN_E_IO,
    }
}

/// What the inside of an entry gives: a result of at least 0, or why not.
pub(super) type Answer = Result<i32, Failure>;
