//! Checkpoints: the host's state at a place of its order, two of them on disk, each whole or not there.
//!
//! A state is one stream of bytes, or pages (`checkpoint_pages`).

use super::checkpoint_pages::{Said, each_page};
use super::conf::{duramen_conf, values_of};
use super::entry::{Grows, bytes, enter, give, give_sized, out, struct_size};
use super::handle::{self, Call, Object};
use super::log::log_failure;
use super::status::*;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::file::{Body, BodyWriter, CHUNK_BYTES, Head, Previous};
use crate::checkpoint::opened::{BodyReader, Opened};
use crate::checkpoint::store::Store;
use crate::quorum::{FaultModel, Group};
use crate::types::{ClusterId, Digest, ReplicaId, Seq, WallTime};
use parking_lot::Mutex;
use std::ffi::c_void;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Instant;

/// A folder with a host's last two checkpoints. A handle.
pub struct duramen_checkpoint {
    _opaque: (),
}

/// Gives the next bytes of a state: at most `cap` into `buf`, and how many into `*len` (it is 0 before); 0 ends the state. Returns 0, or anything
/// else to give up.
pub type duramen_fill_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, buf: *mut c_void, cap: usize, len: *mut usize) -> i32>;

/// Takes the next bytes of a state, which live until this returns. Returns 0, or anything else to give up.
pub type duramen_take_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, bytes: *const c_void, len: usize) -> i32>;

/// What a checkpoint is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_checkpoint_info {
    /// sizeof(struct duramen_checkpoint_info), set by the caller.
    pub struct_size: usize,
    /// The host's place.
    pub position: u64,
    /// How many bytes the state has.
    pub bytes: u64,
    /// Stands for all of it: place, label and bytes (a tree of BLAKE3 digests). Of one in pages also for the files that it lies on: the same pages
    /// have another root where other ones were written before.
    pub root: [u8; 32],
    /// The host's.
    pub label: [u8; 32],
    /// How many pages the state has, free ones among them; DURAMEN_NO_PAGES: it is one stream of bytes.
    pub pages: u64,
    /// How many files it is made of. 1: all of it was written; more: they have what changed.
    pub files: u64,
}

/// Of a duramen_checkpoint_info: the state is one stream of bytes.
pub const DURAMEN_NO_PAGES: u64 = u64::MAX;

// SAFETY: repr(C), struct_size first, and zeros are numbers and bytes.
unsafe impl Grows for duramen_checkpoint_info {
    const FIRST_SIZE: usize = size_of::<usize>() + 80;
}

/// So that nothing else takes them for its own.
const OWNER: ClusterId = ClusterId(*b"duramen hostsave");

fn alone() -> Group {
    Group::new(FaultModel::Crash, 1, 0).expect("one bears no fault")
}

/// The folder, and what the host said of it.
pub(super) struct Folder {
    pub store: Store,
    pub said: Option<Said>,
}

impl Folder {
    /// Errors: a checkpoint of that position would not come after those that are there.
    pub fn check_place(&self, position: u64) -> Result<(), Failure> {
        if position == u64::MAX {
            return Err(Failure::argument("position UINT64_MAX: none comes after it"));
        }
        match self.store.kept().last() {
            Some(newest) if position <= newest.0 => Err(Failure::argument(format!(
                "position {position}: there is a checkpoint of {newest}; positions must rise"
            ))),
            _ => Ok(()),
        }
    }

    /// One whose files can be read so far.
    pub fn read(&self, seq: Seq) -> Result<Opened, CheckpointError> {
        self.store.read(seq, OWNER, alone())
    }

    /// Gives a body its name: of `pages`, or a stream.
    pub fn seal(
        &mut self,
        (position, label): (u64, [u8; 32]),
        body: Body,
        pages: Option<u64>,
        previous: Option<Previous>,
    ) -> Result<Digest, Failure> {
        let head = Head {
            cluster: OWNER,
            replica: ReplicaId(0),
            members: alone(),
            seq: Seq(position),
            batches: Digest(label),
            replies: Digest::ZERO,
            time: WallTime(0),
            pages,
            table_bytes: 0,
            header_bytes: 0,
            body_bytes: body.bytes(),
            previous,
        };
        self.store.seal(body, &head).map_err(|e| not_written(&e))
    }
}

pub(super) fn not_written(error: &io::Error) -> Failure {
    Failure::io("the checkpoint was not written", error)
}

/// Behind the handle.
pub(super) struct HostCheckpoints {
    pub folder: Mutex<Folder>,
    /// Files of a checkpoint in pages, at most.
    pub full_every: u32,
    pub handle: usize,
}

impl Object for HostCheckpoints {
    type Opaque = duramen_checkpoint;
    const KIND: &str = "a checkpoint folder";

    fn end(&mut self, _: Option<Instant>) -> Result<(), Failure> {
        Ok(())
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let code = match &error {
            CheckpointError::Io(e) => io_code(e),
            CheckpointError::Damaged(_) | CheckpointError::State(_) => DURAMEN_E_DAMAGED,
            CheckpointError::Foreign(_) => DURAMEN_E_REFUSED,
        };
        Self::new(code, error.to_string())
    }
}

fn refused(code: i32) -> Failure {
    Failure::new(DURAMEN_E_CALLBACK, format!("the callback returned {code}"))
}

/// What a host's callback says becomes an error, and is told apart from the disk's by what is left in `why`.
fn pull(
    fill: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut usize) -> i32,
    user: *mut c_void,
    out: &mut BodyWriter<'_>,
    why: &mut Option<Failure>,
) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        let mut len = 0;
        // SAFETY: the host gave function and user for each other; the buffer has that many bytes.
        let code = unsafe { fill(user, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut len) };
        let stop = match (code, buffer.get(..len)) {
            (0, Some([])) => return Ok(()),
            (0, Some(bytes)) => {
                out.write_all(bytes)?;
                continue;
            }
            (0, None) => Failure::argument(format!("fill gave {len} bytes into {}", buffer.len())),
            (code, _) => refused(code),
        };
        *why = Some(stop);
        return Err(io::Error::other("given up"));
    }
}

/// Reads all of a checkpoint through `each`, verified chunk by chunk.
fn read_through(opened: &Opened, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut why = None;
    let read = opened.bodies(|bodies: &mut [BodyReader]| {
        let body = bodies.last_mut().expect("a checkpoint has a file");
        let mut buffer = vec![0u8; CHUNK_BYTES];
        let mut left = opened.head.body_bytes;
        while left > 0 {
            let n = body.read(&mut buffer)?;
            if n == 0 {
                return Err(CheckpointError::Damaged("length"));
            }
            left -= n as u64;
            if let Err(stop) = each(&buffer[..n]) {
                why = Some(stop);
                break;
            }
        }
        Ok(())
    });
    match why {
        Some(why) => Err(why),
        None => Ok(read?),
    }
}

/// How many bytes its state has. All of it is read for that.
fn examine(opened: &Opened) -> Result<u64, Failure> {
    let Some(pages) = opened.head.pages else {
        return read_through(opened, |_| Ok(())).map(|()| opened.head.body_bytes);
    };
    let mut bytes = 0;
    each_page(opened, pages, |_, page| {
        bytes += page.len() as u64;
        Ok(())
    })?;
    Ok(bytes)
}

impl HostCheckpoints {
    fn over(store: Store, full_every: u32) -> Self {
        Self { folder: Mutex::new(Folder { store, said: None }), full_every, handle: 0 }
    }

    fn write(
        &self,
        (position, label): (u64, [u8; 32]),
        bytes: u64,
        fill: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut usize) -> i32,
        user: *mut c_void,
    ) -> Result<Digest, Failure> {
        let mut folder = self.folder.lock();
        folder.check_place(position)?;
        let mut why = None;
        let hint = bytes.min(i64::MAX as u64);
        let written = folder.store.write(hint, &mut |_| Ok(()), |out| pull(fill, user, out, &mut why));
        let body = match (why, written) {
            (Some(why), _) => return Err(why),
            (None, written) => written.map_err(|e| not_written(&e))?.0,
        };
        folder.seal((position, label), body, None, None)
    }

    /// Errors: there is none; it is not what was written; it is of the other kind.
    pub fn opened(&self, position: u64, in_pages: Option<bool>) -> Result<Opened, Failure> {
        let folder = self.folder.lock();
        if !folder.store.kept().contains(&Seq(position)) {
            let why = format!("there is no checkpoint of position {position}");
            return Err(Failure::new(DURAMEN_E_NOT_FOUND, why));
        }
        let opened = folder.read(Seq(position))?;
        match in_pages {
            Some(wanted) if wanted != opened.head.pages.is_some() => {
                let is = if wanted { "one stream of bytes" } else { "in pages" };
                let why = format!("the checkpoint of position {position} is {is}");
                Err(Failure::new(DURAMEN_E_OTHER_KIND, why))
            }
            _ => Ok(opened),
        }
    }

    /// The newest one below `below` all of which is what was written, and how many bytes its state has. Damaged ones are put aside on the way.
    fn newest(&self, below: u64) -> Result<(Opened, u64), Failure> {
        let mut last = None;
        loop {
            let position = self.folder.lock().store.kept().iter().rev().find(|seq| seq.0 < below).copied();
            let Some(position) = position else {
                let none = || Failure::new(DURAMEN_E_NOT_FOUND, "there is no checkpoint");
                return Err(last.unwrap_or_else(none));
            };
            let opened = self.opened(position.0, None);
            match opened.and_then(|opened| examine(&opened).map(|bytes| (opened, bytes))) {
                Ok(found) => return Ok(found),
                Err(damage) if damage.code == DURAMEN_E_DAMAGED => {
                    ::log::error!("checkpoint of position {position}: {}; it is put aside", damage.message);
                    let aside = self.folder.lock().store.discard(position);
                    aside.map_err(|e| Failure::io("a damaged checkpoint was not put aside", &e))?;
                    last = Some(damage);
                }
                Err(other) => return Err(other),
            }
        }
    }
}

/// A folder on a test's disk.
#[cfg(test)]
pub(super) fn open_on(
    disk: std::sync::Arc<dyn crate::log::storage::Disk>,
    full_every: u32,
) -> io::Result<*mut duramen_checkpoint> {
    let store = Store::on(disk, "checkpoints".into())?;
    let folder = HostCheckpoints::over(store, full_every);
    Ok(handle::insert_with(folder, |folder, handle| folder.handle = handle).expect("a handle"))
}

/// Opens the folder `dir` for checkpoints of this process alone; it is made if it is missing. What a crash left unfinished is removed.
///
/// Keys used (see duramen_conf_set): dir, full-every. Ownership: `conf` stays the caller's; `*out` is the caller's until duramen_checkpoint_destroy, and NULL on
/// failure. Thread: any. Starts no thread.
///
/// Errors: DURAMEN_E_BUSY (another process has it), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
///
/// # Safety
/// `out` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_open(
    conf: *const duramen_conf,
    out: *mut *mut duramen_checkpoint,
) -> i32 {
    enter(|| {
        let place = self::out("out", out)?;
        // SAFETY: the caller's promise, here and below.
        unsafe { place.write(std::ptr::null_mut()) };
        let values = values_of(conf)?;
        let store = Store::open(Path::new(values.text("dir"))).map_err(log_failure)?;
        let folder = HostCheckpoints::over(store, values.number("full-every") as u32);
        let opened = handle::insert_with(folder, |folder, handle| folder.handle = handle)?;
        unsafe { place.write(opened) };
        Ok(DURAMEN_OK)
    })
}

/// Writes a checkpoint of the state that `fill` gives, beside the others, and gives it its name when all of it is durable: a crash leaves all of it or
/// nothing. Then the oldest ones go, so that two are there. When this returned DURAMEN_OK, what only leads to the older one's place may be
/// trimmed from logs.
///
/// `position` must be above those that are there, and not UINT64_MAX. `label` (NULL: zeros) is kept: a root of the host's own, or a certificate's digest.
/// `bytes_hint`: about how many bytes will come, so that a full disk shows at once (what is not used of it is given back); 0 if that is not known. `root` (may be NULL) gets what stands
/// for all of it.
///
/// Ownership: nothing is kept. Thread of `fill`: this one; it blocks for the disk. Re-entrancy: `fill` may use other handles. One is written at a
/// time; others wait.
///
/// Errors, of which nothing is left behind, except after a failed sync of the folder, as the message then says: the next open may find the checkpoint,
/// whole, or not. DURAMEN_E_CALLBACK (fill gave up), DURAMEN_E_NO_SPACE, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`position` does not
/// rise; `fill` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `label` is NULL or has 32 bytes; `fill` may be called with `user`; `root` is NULL or holds 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_write(
    checkpoint: *mut duramen_checkpoint,
    position: u64,
    label: *const u8,
    bytes_hint: u64,
    fill: duramen_fill_fn,
    user: *mut c_void,
    root: *mut u8,
) -> i32 {
    handle::with::<HostCheckpoints>(checkpoint, |store: &Call<'_, HostCheckpoints>| {
        store.not_within("writing")?;
        let fill = fill.ok_or_else(|| Failure::argument("fill is NULL: there is no state"))?;
        let mut own = [0; 32];
        if !label.is_null() {
            // SAFETY: the caller's promise.
            own.copy_from_slice(unsafe { bytes("label", label.cast(), 32)? });
        }
        let made = store.write((position, own), bytes_hint, fill, user)?;
        // SAFETY: the caller's promise.
        unsafe { give(root.cast::<[u8; 32]>(), made.0) };
        Ok(DURAMEN_OK)
    })
}

/// Finds the newest checkpoint below position `below` (UINT64_MAX: the newest) all of whose bytes are what was written: they are read for that. A
/// damaged one is put aside as damaged-..., and the one before it is tried.
///
/// Ownership: `*info` is the caller's; its struct_size must be set. Thread: any; blocks for the disk. Re-entrancy: not from a callback of
/// this folder.
///
/// Errors: DURAMEN_E_NOT_FOUND (there is none), DURAMEN_E_DAMAGED (there are only damaged ones), DURAMEN_E_REFUSED (another owner's, or another
/// version's), DURAMEN_E_ABI, DURAMEN_E_IO, DURAMEN_E_REENTRANT, DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
/// DURAMEN_E_POISONED.
///
/// # Safety
/// `info` points to such a struct, as large as its struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_newest(
    checkpoint: *mut duramen_checkpoint,
    below: u64,
    info: *mut duramen_checkpoint_info,
) -> i32 {
    handle::with::<HostCheckpoints>(checkpoint, |store: &Call<'_, HostCheckpoints>| {
        store.not_within("looking")?;
        // SAFETY: the caller's promise.
        let size = unsafe { struct_size("info", info)? };
        let (opened, bytes) = store.newest(below)?;
        let head = &opened.head;
        let found = duramen_checkpoint_info {
            struct_size: size,
            position: head.seq.0,
            bytes,
            root: opened.root.0,
            label: head.batches.0,
            pages: head.pages.unwrap_or(DURAMEN_NO_PAGES),
            files: opened.heads().count() as u64,
        };
        // SAFETY: the caller's promise.
        unsafe { give_sized(info, size, found) };
        Ok(DURAMEN_OK)
    })
}

/// Hands the bytes of the checkpoint of `position` to `take`, in order, each piece (1 MiB at most) after it was verified.
///
/// Ownership: a piece lives until `take` returns. Thread of `take`: this one. Re-entrancy: `take` may use other handles.
///
/// Errors: DURAMEN_E_NOT_FOUND, DURAMEN_E_OTHER_KIND (it is in pages), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (what was handed over before
/// is right, the rest is lost), DURAMEN_E_REFUSED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
/// DURAMEN_E_POISONED.
///
/// # Safety
/// `take` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_checkpoint_read(
    checkpoint: *mut duramen_checkpoint,
    position: u64,
    take: duramen_take_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostCheckpoints>(checkpoint, |store: &Call<'_, HostCheckpoints>| {
        store.not_within("reading")?;
        let take = take.ok_or_else(|| Failure::argument("take is NULL: nobody would see the state"))?;
        let opened = store.opened(position, Some(false))?;
        read_through(&opened, |piece| {
            // SAFETY: the host gave function and user for each other; the piece lives until after the call.
            match unsafe { take(user, piece.as_ptr().cast(), piece.len()) } {
                0 => Ok(()),
                code => Err(refused(code)),
            }
        })?;
        Ok(DURAMEN_OK)
    })
}

/// Closes the folder. What is in it stays.
///
/// `deadline_ms`: how long to wait for calls under way; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback of this
/// folder. Errors: DURAMEN_E_TIMEOUT (call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_checkpoint_destroy(checkpoint: *mut duramen_checkpoint, deadline_ms: u64) -> i32 {
    handle::destroy::<HostCheckpoints>(checkpoint, deadline_ms)
}
