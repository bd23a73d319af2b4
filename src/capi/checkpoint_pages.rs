//! Checkpoints of states in pages: of a large state that changes little, only the pages that changed are written.
//!
//! They lie on disk as a replica's do (`crate::checkpoint::increments`): each builds on the last but one, so that the two that are there share
//! no file. The host says which pages changed since the newest one; what changed since the one before that is known from the
//! call that wrote the newest. After an open it is not, so the first one has all pages.

use super::checkpoint::{Folder, HostCheckpoints, duramen_checkpoint, not_written};
use super::entry::{bytes, give, sized};
use super::handle::{self, Call};
use super::page_source::{Source, duramen_page_fn, duramen_page_source, hand_page};
use super::status::*;
use crate::checkpoint::file::Body;
use crate::checkpoint::increments::room_on;
use crate::checkpoint::opened::Opened;
use crate::checkpoint::page_run::{PageRun, PageRuns};
use crate::types::{Digest, Seq};
use std::ffi::c_void;
use std::io::{self, Write};

/// What the host said of the newest checkpoint.
pub(super) struct Said {
    seq: Seq,
    pages: u64,
    change: Option<Change>,
}

/// Pages that changed since a checkpoint.
struct Change {
    since: Seq,
    /// Ascending.
    pages: Vec<u64>,
}

impl Change {
    /// Of `pages` in all, of which there were `before`; `None`: so many are others that all of them are written.
    fn new(since: Seq, named: &[u64], before: u64, pages: u64) -> Option<Self> {
        if named.len() as u64 + (pages - before) > pages / 2 {
            return None;
        }
        // Those that are new count, named or not.
        let old = named.partition_point(|index| *index < before);
        Some(Self { since, pages: named[..old].iter().copied().chain(before..pages).collect() })
    }
}

/// What the next file has.
struct Increment {
    change: Change,
    /// More bytes than these are not worth it.
    bytes_max: u64,
}

impl Folder {
    /// Forgets what was said of another checkpoint than the newest.
    fn look_at_newest(&mut self) {
        let newest = self.store.kept().last().copied();
        if self.said.as_ref().map(|said| said.seq) == newest {
            return;
        }
        let pages = newest.and_then(|seq| Some((seq, self.read(seq).ok()?.head.pages?)));
        self.said = pages.map(|(seq, pages)| Said { seq, pages, change: None });
    }

    /// What changed since the newest one, if that is what the host names.
    fn change(&self, since: u64, named: &[u64], pages: u64) -> Option<Change> {
        let said = self.said.as_ref().filter(|said| said.seq.0 == since && said.pages <= pages)?;
        Change::new(said.seq, named, said.pages, pages)
    }

    /// What changed since the one before the newest, if a file with that may lie on it.
    fn increment(&self, change: &Change, full_every: u32) -> Option<Increment> {
        let earlier = self.said.as_ref()?.change.as_ref()?;
        let (older, files) = self.store.older_files().filter(|(older, _)| *older == earlier.since)?;
        let bytes_max = room_on(full_every, &files)?;
        let mut pages = [earlier.pages.as_slice(), &change.pages].concat();
        pages.sort_unstable();
        pages.dedup();
        Some(Increment { change: Change { since: older, pages }, bytes_max })
    }

    /// Writes the pages aside. `None`: they are more than an increment may have.
    fn body(&self, source: &Source, increment: Option<&Increment>) -> Result<Option<Body>, Failure> {
        let (mut why, mut is_too_large) = (None, false);
        let given_up = || io::Error::other("given up");
        let mut page = Vec::new();
        let written = self.store.write(0, &mut |_| Ok(()), |out| {
            let mut copy = |index: u64, page: &mut Vec<u8>| {
                page.clear();
                source.copy(index, page).map_err(|stop| {
                    why = Some(stop);
                    given_up()
                })
            };
            let Some(Increment { change, bytes_max }) = increment else {
                return (0..source.pages()).try_for_each(|index| {
                    copy(index, &mut page)?;
                    out.write_all(&(page.len() as u32).to_le_bytes())?;
                    out.write_all(&page)
                });
            };
            for index in &change.pages {
                copy(*index, &mut page)?;
                if out.bytes() + 12 + page.len() as u64 > *bytes_max {
                    is_too_large = true;
                    return Err(given_up());
                }
                out.write_all(&index.to_le_bytes())?;
                out.write_all(&(page.len() as u32).to_le_bytes())?;
                out.write_all(&page)?;
            }
            Ok(())
        });
        match (why, written) {
            (Some(why), _) => Err(why),
            (None, Err(_)) if is_too_large => Ok(None),
            (None, written) => Ok(Some(written.map_err(|e| not_written(&e))?.0)),
        }
    }
}

impl HostCheckpoints {
    /// `named`: all that changed since the checkpoint of `since`, ascending.
    fn write_pages(
        &self,
        (position, label): (u64, [u8; 32]),
        source: &Source,
        since: u64,
        named: &[u64],
    ) -> Result<Digest, Failure> {
        let mut folder = self.folder.lock();
        folder.check_place(position)?;
        folder.look_at_newest();
        let pages = source.pages();
        let change = folder.change(since, named, pages);
        let increment = change.as_ref().and_then(|change| folder.increment(change, self.full_every));
        let mut written = None;
        if let Some(increment) = &increment {
            written = folder.body(source, Some(increment))?.map(|body| (body, Some(&increment.change)));
        }
        let (body, on) = match written {
            Some(written) => written,
            None => (folder.body(source, None)?.expect("it has no limit"), None),
        };
        let previous = on.map(|change| {
            let previous = folder.store.previous(change.since, change.pages.len() as u64);
            previous.expect("it was found before")
        });
        let root = folder.seal((position, label), body, Some(pages), previous)?;
        folder.said = Some(Said { seq: Seq(position), pages, change });
        Ok(root)
    }
}

/// Reads all pages of a checkpoint through `each`, those of length 0 are free; all of its files are verified on the way.
pub(super) fn each_page(
    opened: &Opened,
    pages: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut why = None;
    let read = opened.bodies(|bodies| {
        let files = bodies.iter_mut().zip(opened.heads());
        let runs = files.map(|(body, head)| PageRun::new(body, head)).collect::<Result<Vec<_>, _>>()?;
        let mut runs = PageRuns::new(runs);
        for index in 0..pages {
            let page = runs.take(index)?.unwrap_or_default();
            if let Err(stop) = each(index, &page) {
                why = Some(stop);
                return Ok(());
            }
        }
        Ok(runs.end()?)
    });
    match why {
        Some(why) => Err(why),
        None => Ok(read?),
    }
}

/// The indexes, copied. Errors: they do not rise, or name pages that there are not.
///
/// # Safety
/// NULL or `count` numbers.
unsafe fn indexes(changed: *const u64, count: usize, pages: u64) -> Result<Vec<u64>, Failure> {
    if count as u64 > pages {
        return Err(Failure::argument(format!("changed: {count} of {pages} pages")));
    }
    if changed.is_null() && count > 0 {
        return Err(Failure::argument("changed is NULL, and its count is not 0"));
    }
    // SAFETY: the caller's promise; the host's alignment is not trusted.
    let all: Vec<u64> = (0..count).map(|i| unsafe { changed.add(i).read_unaligned() }).collect();
    let rises = all.windows(2).all(|pair| pair[0] < pair[1]);
    match rises && all.last().is_none_or(|last| *last < pages) {
        true => Ok(all),
        false => Err(Failure::argument(format!("changed: indexes must rise, and be below {pages}"))),
    }
}

/// Writes a checkpoint of a state in pages, as duramen_checkpoint_write does of one stream of bytes: it is there whole or not at all, positions rise, two
/// are kept, and `label`, `root` and what is there after a failure are the same. Of a state that changes little it writes little: only pages that changed
/// since the last but one are asked of `source`, and lie on top of that one's files. All pages are asked for and written
/// - if there are not two others in pages, and by the first call after duramen_checkpoint_open,
/// - when a checkpoint would be made of more than `full-every` files,
/// - when what changed is more than half of the state, or all files with changes more than half of the one with all pages,
/// - when there are fewer pages than before,
/// - when `since` is not the newest checkpoint that is there.
///
/// The newest two share no file: a damaged one costs one checkpoint, never both. They take three times the bytes of the state on disk at most, and once
/// more that while one is written.
///
/// `changed`: the indexes, ascending and each once, of all pages that were written or freed since the state was that of the checkpoint of position
/// `since`; those behind its last page count by themselves. A page that is not named is taken to be what it was: that is the host's word.
/// After a failed call they are still to be named by the next one. `since` UINT64_MAX: not known, and `changed` is not looked at.
/// duramen_checkpoint_info.files says what was written.
///
/// Ownership: `source` is copied; its `user` and the state belong to the library until its `free` is called, which is before this returns, unless it
/// returns DURAMEN_E_HANDLE, DURAMEN_E_POISONED, DURAMEN_E_STATE, DURAMEN_E_REENTRANT or DURAMEN_E_ABI, or `source` is NULL; `changed` is not kept. Thread of the
/// callbacks: this one; they may be asked for a page twice. Re-entrancy: they may use other handles. One is written at a time; others wait.
///
/// Errors: DURAMEN_E_CALLBACK (page failed), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`position` does not rise; `changed` does not, or
/// names pages that are not there; more than 2^32 pages; a page above DURAMEN_TRANSFER_PAGE_BYTES_MAX; NULL), DURAMEN_E_ABI, DURAMEN_E_REENTRANT,
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `label` is NULL or has 32 bytes; `source` is such a struct, whose functions may be called with its `user`; `changed` has `count` numbers; `root` is
/// NULL or holds 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_write_pages(
    checkpoint: *mut duramen_checkpoint,
    position: u64,
    label: *const u8,
    source: *const duramen_page_source,
    since: u64,
    changed: *const u64,
    count: usize,
    root: *mut u8,
) -> i32 {
    handle::with::<HostCheckpoints>(checkpoint, |store: &Call<'_, HostCheckpoints>| {
        store.not_within("writing")?;
        // SAFETY: the caller's promise, here and below.
        let source = Source::new(unsafe { sized("source", source)? }, store.handle)?;
        let mut own = [0; 32];
        if !label.is_null() {
            own.copy_from_slice(unsafe { bytes("label", label.cast(), 32)? });
        }
        let named = match since {
            u64::MAX => Vec::new(),
            _ => unsafe { indexes(changed, count, source.pages())? },
        };
        let made = store.write_pages((position, own), &source, since, &named)?;
        unsafe { give(root.cast::<[u8; 32]>(), made.0) };
        Ok(DURAMEN_OK)
    })
}

/// Hands every page of the checkpoint of `position` to `take`, index by index, free ones with length 0, each after it was verified.
///
/// Ownership: a page lives until `take` returns. Thread of `take`: this one. Re-entrancy: `take` may use other handles.
///
/// Errors: DURAMEN_E_NOT_FOUND, DURAMEN_E_OTHER_KIND (it is one stream of bytes), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (what was handed over
/// before is right, the rest is lost), DURAMEN_E_REFUSED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being
/// destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `take` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_read_pages(
    checkpoint: *mut duramen_checkpoint,
    position: u64,
    take: duramen_page_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostCheckpoints>(checkpoint, |store: &Call<'_, HostCheckpoints>| {
        store.not_within("reading")?;
        let take = take.ok_or_else(|| Failure::argument("take is NULL: nobody would see the pages"))?;
        let opened = store.opened(position, Some(true))?;
        let pages = opened.head.pages.unwrap_or_default();
        each_page(&opened, pages, |index, page| hand_page(take, user, index, page))?;
        Ok(DURAMEN_OK)
    })
}
