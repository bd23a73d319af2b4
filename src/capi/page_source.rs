//! States of hosts as numbered pages: how the library reads them, and gives them back.

use super::entry::Grows;
use super::handle::Scope;
use super::status::*;
use parking_lot::Mutex;
use std::ffi::c_void;

/// The largest page of a state that is transferred, or written into a checkpoint.
pub const DURAMEN_TRANSFER_PAGE_BYTES_MAX: usize = 256 << 10;
/// More pages than any machine holds.
const PAGES_MAX: u64 = 1 << 32;

/// A state of the host as numbered pages. It must not change while it is served, or written into a checkpoint.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_page_source {
    /// sizeof(struct duramen_page_source).
    pub struct_size: usize,
    /// Handed to each callback.
    pub user: *mut c_void,
    /// How many pages there are: indexes 0 to pages - 1; 2^32 at most.
    pub pages: u64,
    /// Copies page `index` into `buf`, which takes `cap` = DURAMEN_TRANSFER_PAGE_BYTES_MAX bytes, and its length into `*len` (it is 0 before; 0: a free
    /// page). Returns 0, or anything else if it cannot: in duramen_transfer_serve and duramen_checkpoint_write_pages that is the end, later it is asked
    /// again. One call at a time: on the thread in duramen_checkpoint_write_pages; of a state that is served on any thread: the one in
    /// duramen_transfer_serve or duramen_transfer_install, "duramen-transfer".
    pub page: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            index: u64,
            buf: *mut c_void,
            cap: usize,
            len: *mut usize,
        ) -> i32,
    >,
    /// Nobody reads this state any more: once, on any thread, at the latest in duramen_transfer_destroy; of a checkpoint before
    /// duramen_checkpoint_write_pages returns. NULL: not wanted.
    pub free: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

// SAFETY: repr(C), struct_size first, and zeros are NULLs and numbers.
unsafe impl Grows for duramen_page_source {
    const FIRST_SIZE: usize = 5 * size_of::<usize>();
}

/// Takes a page, which lives until this returns; `len` 0: it is free. Returns 0, or anything else to give up.
pub type duramen_page_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, index: u64, page: *const c_void, len: usize) -> i32>;

/// Such a state, until it is dropped: then it is freed.
pub(super) struct Source {
    table: duramen_page_source,
    /// What a page is copied into. One call at a time.
    buffer: Mutex<Vec<u8>>,
    /// Inside which its callbacks run.
    handle: usize,
}

// SAFETY: `user` is not followed here; any thread may call, one at a time (`duramen_page_source`).
unsafe impl Send for Source {}
// SAFETY: as above; `buffer` holds the others off.
unsafe impl Sync for Source {}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(free) = self.table.free {
            let _scope = Scope::enter(self.handle);
            // SAFETY: the host gave function and user for each other.
            unsafe { free(self.table.user) };
        }
    }
}

impl Source {
    /// From here on it is freed whatever happens. `handle` is the one that it was given to.
    pub fn new(table: duramen_page_source, handle: usize) -> Result<Self, Failure> {
        let source = Self { table, buffer: Mutex::default(), handle };
        match table.page.is_some() && table.pages <= PAGES_MAX {
            true => Ok(source),
            false => Err(Failure::argument("more than 2^32 pages, or page is NULL")),
        }
    }

    pub fn pages(&self) -> u64 {
        self.table.pages
    }

    /// Appends the bytes of a page; none: it is free. Errors: the host's refusal, or nonsense from it; then nothing is appended.
    pub fn copy(&self, index: u64, out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(page) = self.table.page else { return Err(Failure::argument("page is NULL")) };
        let mut buffer = self.buffer.lock();
        buffer.resize(DURAMEN_TRANSFER_PAGE_BYTES_MAX, 0);
        let (at, cap, mut len) = (buffer.as_mut_ptr().cast(), buffer.len(), 0);
        let scope = Scope::enter(self.handle);
        // SAFETY: the host gave function and user for each other; the buffer has that many bytes.
        let code = unsafe { page(self.table.user, index, at, cap, &raw mut len) };
        drop(scope);
        match (code, buffer.get(..len)) {
            (0, Some(bytes)) => out.extend_from_slice(bytes),
            (0, None) => {
                return Err(Failure::argument(format!("page {index}: {len} bytes are more than a page has")));
            }
            (code, _) => return Err(refused(index, code)),
        }
        Ok(())
    }
}

fn refused(index: u64, code: i32) -> Failure {
    Failure::new(DURAMEN_E_CALLBACK, format!("page {index}: the callback returned {code}"))
}

/// Hands a page over. Errors: the host gave up.
pub(super) fn hand_page(
    take: unsafe extern "C" fn(*mut c_void, u64, *const c_void, usize) -> i32,
    user: *mut c_void,
    index: u64,
    page: &[u8],
) -> Result<(), Failure> {
    let at = if page.is_empty() { std::ptr::null() } else { page.as_ptr().cast() };
    // SAFETY: the host gave function and user for each other; the page lives until after the call.
    match unsafe { take(user, index, at, page.len()) } {
        0 => Ok(()),
        code => Err(refused(index, code)),
    }
}
