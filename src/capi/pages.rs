//! A host's state machine whose state the engine keeps, in pages.

use super::entry::{Grows, bytes, out};
use super::handle::Scope;
use super::lent::{Lend, lend, with_lent};
use super::service::{
    LastCall, Owner, Replying, duramen_context, duramen_reply, expect_ok, lent_call, pointer,
};
use super::status::*;
use crate::checkpoint::pages::{Page, PagedState, Pages};
use crate::service::{
    CanonicalReader, Context, PageSource, PagedSnapshot, QueryReply, RestoreError, Service, Snapshot,
};
use crate::types::Seq;
use bytes::Bytes;
use std::cell::Cell;
use std::ffi::c_void;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// The state of a paged service: pages by index. Lent to its callbacks, until they return.
pub struct duramen_pages {
    _opaque: (),
}

/// Pages have indexes below this.
pub const DURAMEN_PAGES_MAX: u64 = 1 << 26;
/// The longest page that a service may ask for.
pub const DURAMEN_PAGE_BYTES_MAX: u32 = 1 << 20;

/// A state machine whose whole state is in pages that the library keeps: snapshots, state roots, incremental checkpoints and the transfer of
/// differences are its own. Set struct_size to sizeof(duramen_paged_service) and the rest to zero before you fill it in.
///
/// What is said at duramen_service about determinism, failure and threads holds here: execute and query never run at the same time.
/// Nothing that replies depend on may be kept anywhere but in the pages.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_paged_service {
    /// sizeof(duramen_paged_service).
    pub struct_size: usize,
    /// Handed to every callback, otherwise not touched.
    pub user: *mut c_void,
    /// The longest page, 1 to DURAMEN_PAGE_BYTES_MAX. All replicas must have the same, for ever.
    pub page_bytes_max: u32,
    /// 0.
    pub reserved: u32,
    /// Executes one ordered operation on the pages and sets its reply.
    pub execute: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            context: *const duramen_context,
            pages: *mut duramen_pages,
            op: *const c_void,
            len: usize,
            reply: *mut duramen_reply,
        ) -> i32,
    >,
    /// Answers a read with the bytes that execute would reply. Pages cannot be written in it.
    pub query: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            pages: *const duramen_pages,
            op: *const c_void,
            len: usize,
            reply: *mut duramen_reply,
        ) -> i32,
    >,
    /// Called once, after the last of all other callbacks, on any thread, if the replica was started; may be NULL.
    pub destroy: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

// SAFETY: repr(C), starts with struct_size; zeros are NULL callbacks.
unsafe impl Grows for duramen_paged_service {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Finds a page: `*bytes` and `*len` are its content; NULL and 0 if it was never written, or freed.
///
/// Ownership: the bytes are the library's, and stay as they are until the next duramen_pages_write or duramen_pages_free, or the end of
/// the callback. Thread: the callback's. Errors: DURAMEN_E_HANDLE (not lent to a callback that runs on this thread), DURAMEN_E_ARGUMENT.
///
/// # Safety
/// `bytes` and `len` point to their types.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_pages_read(
    pages: *const duramen_pages,
    index: u64,
    bytes: *mut *const c_void,
    len: *mut usize,
) -> i32 {
    lent_call(with_lent::<LentPages>(pages, |lent| {
        let (bytes, len) = (out("bytes", bytes)?, out("len", len)?);
        let page = lent.pages().get(index);
        lent.read.set(match (page, lent.read.get()) {
            (Some(page), Version::Upto(seq)) => Version::Upto(seq.max(page.version)),
            _ => Version::Unknown,
        });
        let content = page.map_or(&[][..], |page| &page.bytes);
        // SAFETY: the caller's promise.
        unsafe {
            bytes.write(pointer(content));
            len.write(content.len());
        }
        Ok(DURAMEN_OK)
    }))
}

/// Writes a whole page, which may be longer or shorter than before. Pages between the last one and `index` count as never written (and take
/// about 10 bytes of memory each).
///
/// Ownership: `bytes` are copied. Thread: the callback's. Errors: DURAMEN_E_ARGUMENT (`index` not below DURAMEN_PAGES_MAX; no bytes: use
/// duramen_pages_free), DURAMEN_E_TOO_LARGE (page_bytes_max), DURAMEN_E_STATE (in query), DURAMEN_E_HANDLE.
///
/// # Safety
/// `bytes` has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_pages_write(
    pages: *mut duramen_pages,
    index: u64,
    bytes: *const c_void,
    len: usize,
) -> i32 {
    lent_call(with_lent::<LentPages>(pages, |lent| {
        // SAFETY: the caller's promise.
        let bytes = unsafe { self::bytes("bytes", bytes, len)? };
        if index >= DURAMEN_PAGES_MAX || bytes.is_empty() {
            return Err(Failure::argument(format!("page {index}, {len} bytes")));
        }
        if len > lent.page_bytes_max as usize {
            let most = lent.page_bytes_max;
            return Err(Failure::new(DURAMEN_E_TOO_LARGE, format!("{len} bytes; a page has {most} at most")));
        }
        let page = HostPage { version: lent.version, bytes: Arc::from(bytes) };
        lent.pages_mut()?.put_at(index, page);
        Ok(DURAMEN_OK)
    }))
}

/// Forgets a page: it reads as never written. One that was not written is no error.
///
/// Thread: the callback's. Errors: DURAMEN_E_STATE (in query), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_pages_free(pages: *mut duramen_pages, index: u64) -> i32 {
    lent_call(with_lent::<LentPages>(pages, |lent| {
        lent.pages_mut()?.free(index);
        Ok(DURAMEN_OK)
    }))
}

/// One more than the highest index ever written. 0 also if `pages` is not lent to a callback that runs on this thread.
///
/// Thread: the callback's.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_pages_count(pages: *const duramen_pages) -> u64 {
    let mut count = 0;
    let _ = with_lent::<LentPages>(pages, |lent| {
        lent.read.set(Version::Unknown);
        count = lent.pages().count();
        Ok(DURAMEN_OK)
    });
    count
}

/// Of what a query has read.
#[derive(Clone, Copy)]
enum Version {
    /// Written last in this batch.
    Upto(Seq),
    /// Free pages and the count have none.
    Unknown,
}

/// What a callback may do with the pages.
struct LentPages {
    /// Borrowed as long as this is lent.
    pages: *mut Pages<HostPage>,
    writable: bool,
    /// Of pages that are written.
    version: Seq,
    page_bytes_max: u32,
    read: Cell<Version>,
}

impl LentPages {
    fn pages(&self) -> &Pages<HostPage> {
        // SAFETY: borrowed by the callback's caller as long as this is lent.
        unsafe { &*self.pages }
    }

    fn pages_mut(&mut self) -> Result<&mut Pages<HostPage>, Failure> {
        if !self.writable {
            return Err(Failure::new(DURAMEN_E_STATE, "a query must not write"));
        }
        // SAFETY: as above, and it was borrowed to be written.
        Ok(unsafe { &mut *self.pages })
    }
}

impl Lend for LentPages {
    type Opaque = duramen_pages;
    const KIND: &str = "a set of pages";
}

/// A page, and the batch that wrote it last.
#[derive(Clone)]
struct HostPage {
    version: Seq,
    bytes: Arc<[u8]>,
}

impl Page for HostPage {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.0.to_le_bytes());
        out.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.bytes);
    }

    fn bytes(&self) -> usize {
        12 + self.bytes.len()
    }

    fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        let version = Seq(input.u64("version of a page")?);
        let len = input.u32("length of a page")?;
        input.ensure((1..=DURAMEN_PAGE_BYTES_MAX).contains(&len), "a page that is too short or too long")?;
        let mut bytes = Vec::new();
        input.append(&mut bytes, len as usize, "page")?;
        Ok(Self { version, bytes: Arc::from(bytes) })
    }
}

/// The callbacks; dropped with the last snapshot, so that `destroy` is last.
struct Shared {
    table: duramen_paged_service,
    last: LastCall,
}

// SAFETY: the pointers are not followed here; that callbacks and `user` may be used on other threads is the host's contract.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A paged service by callbacks.
pub(super) struct HostPagedService {
    shared: Shared,
    pages: Pages<HostPage>,
}

impl HostPagedService {
    /// Errors: a callback that must be there is not; no such length. `owner`: set once `destroy` is to be called.
    pub fn new(table: duramen_paged_service, owner: Owner) -> Result<Self, Failure> {
        if table.execute.is_none() || table.query.is_none() {
            return Err(Failure::argument("the service has no execute or no query"));
        }
        if !(1..=DURAMEN_PAGE_BYTES_MAX).contains(&table.page_bytes_max) {
            let most = table.page_bytes_max;
            return Err(Failure::argument(format!(
                "page_bytes_max is {most}: 1 to {DURAMEN_PAGE_BYTES_MAX}"
            )));
        }
        let last = LastCall::new(table.destroy, table.user, owner);
        Ok(Self { shared: Shared { table, last }, pages: Pages::new() })
    }
}

/// The header of the pages: what this format is, and the longest page.
const PAGES_MAGIC: [u8; 8] = *b"dura-hp\x01";
/// Starts the canonical bytes.
const MAGIC: [u8; 8] = *b"dura-hs\x01";

impl Service for HostPagedService {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        let table = self.shared.table;
        let _scope = Scope::enter(self.shared.last.owner());
        let mut reply = Replying::default();
        let told = duramen_context::of(context);
        let mut pages = LentPages {
            pages: &raw mut self.pages,
            writable: true,
            version: context.seq,
            page_bytes_max: table.page_bytes_max,
            read: Cell::new(Version::Unknown),
        };
        let execute = table.execute.expect("checked");
        let code = lend(&mut pages, |pages| {
            // SAFETY: all pointers live until it returns; the rest is the host's contract.
            lend(&mut reply, |reply| unsafe {
                execute(table.user, &raw const told, pages, pointer(operation), operation.len(), reply)
            })
        });
        expect_ok("execute", code, &format!(" for operation {} of batch {}", context.index, context.seq));
        reply.0
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let table = self.shared.table;
        let _scope = Scope::enter(self.shared.last.owner());
        let mut reply = Replying::default();
        let mut pages = LentPages {
            pages: (&raw const self.pages).cast_mut(),
            writable: false,
            version: Seq(0),
            page_bytes_max: table.page_bytes_max,
            read: Cell::new(Version::Upto(Seq(0))),
        };
        let query = table.query.expect("checked");
        let code = lend(&mut pages, |pages| {
            // SAFETY: as above.
            lend(&mut reply, |reply| unsafe {
                query(table.user, pages, pointer(operation), operation.len(), reply)
            })
        });
        expect_ok("query", code, "");
        let version = match pages.read.get() {
            Version::Upto(seq) if seq > Seq(0) => Some(seq),
            _ => None,
        };
        QueryReply { result: reply.0, version }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        let mut header = PAGES_MAGIC.to_vec();
        header.extend(self.shared.table.page_bytes_max.to_le_bytes());
        Box::new(HostPages(PagedState { pages: self.pages.clone(), header: header.into() }))
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(input);
        input.magic(MAGIC, "not the state of a paged service")?;
        let count = input.u64("header")?;
        input.ensure(count <= DURAMEN_PAGES_MAX, "more pages than can be")?;
        let occupied = input.u64("header")?;
        input.ensure(occupied <= count, "more pages than indexes")?;
        let (mut pages, mut next) = (Pages::new(), 0);
        for _ in 0..occupied {
            let index = input.u64("index of a page")?;
            input.ensure((next..count).contains(&index), "indexes do not ascend")?;
            pages.put_at(index, HostPage::read(&mut input)?);
            next = index + 1;
        }
        input.end()?;
        pages.grow_to(count);
        self.pages = pages;
        Ok(())
    }

    fn restore_pages(
        &mut self,
        mut header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(&mut header);
        input.magic(PAGES_MAGIC, "not the pages of a paged service")?;
        let most = input.u32("longest page")?;
        input.ensure(most == self.shared.table.page_bytes_max, "another page_bytes_max")?;
        input.end()?;
        self.pages = Pages::restore(count, source)?;
        Ok(())
    }
}

/// A view of all pages.
struct HostPages(PagedState<HostPage>);

impl Snapshot for HostPages {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let pages = &self.0.pages;
        out.write_all(&MAGIC)?;
        out.write_all(&pages.count().to_le_bytes())?;
        out.write_all(&pages.occupied().to_le_bytes())?;
        let mut bytes = Vec::new();
        for index in 0..pages.count() {
            let Some(page) = pages.get(index) else { continue };
            bytes.clear();
            bytes.extend_from_slice(&index.to_le_bytes());
            page.write_to(&mut bytes);
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let pages = &self.0.pages;
        let of = |index| pages.get(index).map_or(0, |page| 8 + page.bytes() as u64);
        24 + (0..pages.count()).map(of).sum::<u64>()
    }

    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        Some(&self.0)
    }
}
