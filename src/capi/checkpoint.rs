//! Checkpoints: the host's state at a place of its order, two of them on disk, each whole or not there.

use super::conf::{duramen_conf, values_of};
use super::entry::{Grows, bytes, enter, give, give_sized, out, struct_size};
use super::handle::{self, Call, Object};
use super::log::log_failure;
use super::status::*;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::file::{BodyWriter, CHUNK_BYTES, Head};
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
    /// Stands for all of it: place, label and bytes (a tree of BLAKE3 digests).
    pub root: [u8; 32],
    /// The host's.
    pub label: [u8; 32],
}

// SAFETY: repr(C), struct_size first, and zeros are numbers and bytes.
unsafe impl Grows for duramen_checkpoint_info {
    const FIRST_SIZE: usize = size_of::<usize>() + 80;
}

/// So that nothing else takes them for its own.
const OWNER: ClusterId = ClusterId(*b"duramen hostsave");

fn alone() -> Group {
    Group::new(FaultModel::Crash, 1, 0).expect("one bears no fault")
}

/// Behind the handle.
struct HostCheckpoints(Mutex<Store>);

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

impl HostCheckpoints {
    fn write(
        &self,
        (position, label): (u64, [u8; 32]),
        bytes: u64,
        fill: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *mut usize) -> i32,
        user: *mut c_void,
    ) -> Result<Digest, Failure> {
        let io = |e: io::Error| Failure::io("the checkpoint was not written", &e);
        if position == u64::MAX {
            return Err(Failure::argument("position UINT64_MAX: none comes after it"));
        }
        let mut store = self.0.lock();
        if let Some(newest) = store.kept().last().filter(|newest| position <= newest.0) {
            let why = format!("position {position}: there is a checkpoint of {newest}; positions must rise");
            return Err(Failure::argument(why));
        }
        let mut why = None;
        let written =
            store.write(bytes.min(i64::MAX as u64), &mut |_| Ok(()), |out| pull(fill, user, out, &mut why));
        let body = match (why, written) {
            (Some(why), _) => return Err(why),
            (None, written) => written.map_err(io)?.0,
        };
        let head = Head {
            cluster: OWNER,
            replica: ReplicaId(0),
            members: alone(),
            seq: Seq(position),
            batches: Digest(label),
            replies: Digest::ZERO,
            time: WallTime(0),
            pages: None,
            table_bytes: 0,
            header_bytes: 0,
            body_bytes: body.bytes(),
            previous: None,
        };
        store.seal(body, &head).map_err(io)
    }

    fn opened(&self, position: u64) -> Result<Opened, Failure> {
        let store = self.0.lock();
        if !store.kept().contains(&Seq(position)) {
            let why = format!("there is no checkpoint of position {position}");
            return Err(Failure::new(DURAMEN_E_NOT_FOUND, why));
        }
        Ok(store.read(Seq(position), OWNER, alone())?)
    }

    /// The newest one below `below` all of which is what was written. Damaged ones are put aside on the way.
    fn newest(&self, below: u64) -> Result<Opened, Failure> {
        let mut last = None;
        loop {
            let position = self.0.lock().kept().iter().rev().find(|seq| seq.0 < below).copied();
            let Some(position) = position else {
                let none = || Failure::new(DURAMEN_E_NOT_FOUND, "there is no checkpoint");
                return Err(last.unwrap_or_else(none));
            };
            let opened = self.opened(position.0);
            match opened.and_then(|opened| read_through(&opened, |_| Ok(())).map(|()| opened)) {
                Ok(opened) => return Ok(opened),
                Err(damage) if damage.code == DURAMEN_E_DAMAGED => {
                    ::log::error!("checkpoint of position {position}: {}; it is put aside", damage.message);
                    let aside = self.0.lock().discard(position);
                    aside.map_err(|e| Failure::io("a damaged checkpoint was not put aside", &e))?;
                    last = Some(damage);
                }
                Err(other) => return Err(other),
            }
        }
    }
}

/// Opens the folder `dir` for checkpoints of this process alone; it is made if it is missing. What a crash left unfinished is removed.
///
/// Keys used (see duramen_conf_set): dir. Ownership: `conf` stays the caller's; `*out` is the caller's until duramen_checkpoint_destroy, and NULL on
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
        let opened = handle::insert(HostCheckpoints(Mutex::new(store)))?;
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
        let opened = store.newest(below)?;
        let head = &opened.head;
        let found = duramen_checkpoint_info {
            struct_size: size,
            position: head.seq.0,
            bytes: head.body_bytes,
            root: opened.root.0,
            label: head.batches.0,
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
/// Errors: DURAMEN_E_NOT_FOUND, DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (what was handed over before is right, the rest is lost),
/// DURAMEN_E_REFUSED, DURAMEN_E_IO, DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
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
        let opened = store.opened(position)?;
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
