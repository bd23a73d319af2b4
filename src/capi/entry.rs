//! What every entry does first and last: the fork check, panics caught, the message kept; and how arguments are read.

use super::handle;
use super::status::*;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// Messages of so many handles are kept on each thread.
const MESSAGES_MAX: usize = 16;

// Hosts also call from atexit handlers and destructors of thread-specific data, when what is below may be gone: `try_with` alone.
thread_local! {
    /// Handle (0: none) and message of this thread's failed calls, the last one last.
    static MESSAGES: RefCell<Vec<(usize, String)>> = const { RefCell::new(Vec::new()) };
    /// Entries under way on this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Where this thread's last panic was.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// Panics of this thread say what was found.
    static FINDING: Cell<bool> = const { Cell::new(false) };
    /// A log callback of the host runs on this thread.
    static LOGGING: Cell<bool> = const { Cell::new(false) };
}

/// Runs the inside of an entry that has no handle.
pub(super) fn enter(inside: impl FnOnce() -> Answer) -> i32 {
    enter_on(0, inside)
}

/// Runs the inside of an entry on a handle; `handle` (its value) gets the message.
pub(super) fn enter_on(handle: usize, inside: impl FnOnce() -> Answer) -> i32 {
    if handle::forked() {
        // No lock, no allocation: another thread of the parent may have been in the middle of either.
        return DURAMEN_E_FORKED;
    }
    if LOGGING.try_with(Cell::get).unwrap_or(false) {
        note(handle, "called from the log callback");
        return DURAMEN_E_REENTRANT;
    }
    let answer = catching(|| {
        quiet_panics();
        inside()
    });
    match answer {
        Ok(result) => result,
        Err(Failure { code, message }) => {
            note(handle, &message);
            code
        }
    }
}

/// Panics become [`DURAMEN_E_INTERNAL`], with the place in the message.
pub(super) fn catching(inside: impl FnOnce() -> Answer) -> Answer {
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    let answer = catch_unwind(AssertUnwindSafe(inside));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    answer.unwrap_or_else(|payload| {
        // Dropping what was thrown may panic, too.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        let place = PANIC.try_with(RefCell::take).unwrap_or_default();
        Err(Failure::new(DURAMEN_E_INTERNAL, format!("duramen panicked: {place}")))
    })
}

/// Runs checks, which panic with what they find; that is nobody's mistake here, and not logged as one.
pub(super) fn finding<R>(checks: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    let set = |to| FINDING.try_with(|finding| finding.replace(to)).unwrap_or(false);
    let before = set(true);
    let found = catch_unwind(AssertUnwindSafe(checks));
    set(before);
    found
}

/// Panics of our threads, and of threads inside an entry, go to the log in place of stderr.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    if std::thread::panicking() {
        // The hook cannot be changed now; the next entry does it.
        return;
    }
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = || std::thread::current().name().is_some_and(|name| name.starts_with("duramen-"));
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 && !ours() {
                return previous(info);
            }
            let text = info.to_string().replace('\n', " ");
            if !FINDING.try_with(Cell::get).unwrap_or(false) {
                ::log::error!("{text}");
            }
            let _ = PANIC.try_with(|panic| panic.replace(text));
        }));
    });
}

/// Runs a log callback: calls that it makes are turned down. False: one runs on this thread already, nothing was run.
pub(super) fn while_logging(run: impl FnOnce()) -> bool {
    if LOGGING.try_with(|logging| logging.replace(true)).unwrap_or(true) {
        return false;
    }
    run();
    let _ = LOGGING.try_with(|logging| logging.set(false));
    true
}

/// Keeps a message for `duramen_errmsg`; none on a thread that has ended but for its destructors. Never panics.
pub(super) fn note(handle: usize, message: &str) {
    let keep = |messages: &RefCell<Vec<(usize, String)>>| {
        let Ok(mut messages) = messages.try_borrow_mut() else { return };
        messages.retain(|(of, _)| *of != handle);
        if messages.len() == MESSAGES_MAX {
            messages.remove(0);
        }
        messages.push((handle, message.to_owned()));
    };
    let _ = catching(|| {
        let _ = MESSAGES.try_with(keep);
        Ok(DURAMEN_OK)
    });
}

/// Copies the message of this thread's last failed call on `handle` (any kind of handle, also a destroyed one), or of
/// this thread's last failed call at all if `handle` is NULL, into `buf`: at most `len` - 1 bytes and a NUL. Calls that
/// succeed do not clear it; the last 16 handles per thread are remembered. Call it right after the call that failed.
///
/// Returns the length of the whole message without the NUL; 0 if there is none. More than `len` - 1: it was cut.
///
/// Ownership: `buf` is the caller's, and not kept; it may be NULL if `len` is 0. Thread: any; messages are per thread.
/// Re-entrancy: may be called from any callback. Errors: none.
///
/// # Safety
/// `buf` holds `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_errmsg(handle: *const c_void, buf: *mut c_char, len: usize) -> usize {
    let mut whole = 0;
    let mut give = |messages: &[(usize, String)]| {
        let of_handle = |of: usize| handle.is_null() || of == handle.addr();
        let message = messages.iter().rev().find(|(of, _)| of_handle(*of)).map_or("", |(_, m)| m.as_str());
        // SAFETY: the caller's promise.
        unsafe { copy_text(message, buf, len) };
        whole = message.len();
    };
    let _ = catching(|| {
        if MESSAGES.try_with(|messages| give(&messages.borrow())).is_err() {
            give(&[]);
        }
        Ok(DURAMEN_OK)
    });
    whole
}

/// Copies as much of `text` as fits, whole characters and a NUL.
///
/// # Safety
/// `buf` is NULL or holds `len` bytes.
pub(super) unsafe fn copy_text(text: &str, buf: *mut c_char, len: usize) {
    if buf.is_null() || len == 0 {
        return;
    }
    let n = text.floor_char_boundary(len - 1);
    // SAFETY: n < len, and the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buf.cast(), n);
        *buf.add(n) = 0;
    }
}

/// A text for the caller's buffer: as much as fits and a NUL; `*len` gets the whole length without the NUL.
/// [`DURAMEN_E_BUFFER`] if not all of it fits.
///
/// # Safety
/// `buf` is NULL or holds `cap` bytes; `len` is NULL or points to a `size_t`.
pub(super) unsafe fn give_text(text: &str, buf: *mut c_char, cap: usize, len: *mut usize) -> Answer {
    if !len.is_null() {
        // SAFETY: the caller's promise.
        unsafe { len.write(text.len()) };
    }
    if buf.is_null() && cap > 0 {
        return Err(Failure::argument("the buffer is NULL, and its capacity is not 0"));
    }
    // SAFETY: the caller's promise.
    unsafe { copy_text(text, buf, cap) };
    if text.len() < cap {
        return Ok(DURAMEN_OK);
    }
    Err(Failure::new(DURAMEN_E_BUFFER, format!("the text takes {} bytes with its end", text.len() + 1)))
}

/// The bytes that the caller names. NULL stands for no bytes if the length is 0.
///
/// # Safety
/// `len` bytes are readable at `bytes` as long as `'a`.
pub(super) unsafe fn bytes<'a>(what: &str, bytes: *const c_void, len: usize) -> Result<&'a [u8], Failure> {
    if len > isize::MAX as usize {
        return Err(Failure::argument(format!("{what}: {len} bytes are more than any object has")));
    }
    match (bytes.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Failure::argument(format!("{what} is NULL, and its length is {len}"))),
        // SAFETY: not NULL, no more than an object may have, and the caller's promise.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(bytes.cast(), len) }),
    }
}

/// A text that the caller names.
///
/// # Safety
/// NULL, or a NUL-terminated string that lives as long as `'a`.
pub(super) unsafe fn text<'a>(what: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(Failure::argument(format!("{what} is NULL")));
    }
    // SAFETY: not NULL, and the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// Where a result goes. Turns down NULL.
pub(super) fn out<T>(what: &str, place: *mut T) -> Result<Out<T>, Failure> {
    if place.is_null() {
        return Err(Failure::argument(format!("{what} is NULL: there is no place for the result")));
    }
    Ok(Out(place))
}

/// A place that is not NULL.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// The place is one for a `T`.
    pub unsafe fn write(&self, value: T) {
        // SAFETY: not NULL, and the caller's promise.
        unsafe { self.0.write(value) }
    }
}

/// A struct of the host that starts with `size_t struct_size`, and may grow at its end.
///
/// # Safety
/// `repr(C)`; the first field is that `usize`; all zero bits are a value.
pub(super) unsafe trait Grows: Copy {
    /// The size of its first version. Never changes.
    const FIRST_SIZE: usize;
}

/// How large the host takes such a struct to be.
///
/// # Safety
/// NULL, or a `usize` is there.
pub(super) unsafe fn struct_size<T: Grows>(what: &str, place: *const T) -> Result<usize, Failure> {
    if place.is_null() {
        return Err(Failure::argument(format!("{what} is NULL")));
    }
    // SAFETY: the first field is struct_size; the host's alignment is not trusted.
    let size = unsafe { place.cast::<usize>().read_unaligned() };
    if size < T::FIRST_SIZE {
        let least = T::FIRST_SIZE;
        return Err(Failure::new(DURAMEN_E_ABI, format!("{what}: struct_size is {size}, at least {least}")));
    }
    Ok(size)
}

/// Reads such a struct. What an older host does not have is zero; what a newer one has more is not looked at.
///
/// # Safety
/// NULL, or as many readable bytes as its `struct_size` says.
pub(super) unsafe fn sized<T: Grows>(what: &str, place: *const T) -> Result<T, Failure> {
    // SAFETY: the caller's promise.
    let size = unsafe { struct_size(what, place)? };
    let mut copy = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both hold that many bytes, and zeros are a value (`Grows`).
    unsafe {
        let n = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(place.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), n);
        Ok(copy.assume_init())
    }
}

/// Writes as much of a struct as the host, whose it has `size` bytes, knows.
///
/// # Safety
/// `place` holds `size` bytes.
pub(super) unsafe fn give_sized<T: Grows>(place: *mut T, size: usize, value: T) {
    let n = size.min(size_of::<T>());
    // SAFETY: both hold that many bytes.
    unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), place.cast::<u8>(), n) }
}

/// Writes a result where somebody wants it.
///
/// # Safety
/// NULL or a place for it.
pub(super) unsafe fn give<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the caller's promise.
        unsafe { place.write(value) }
    }
}
