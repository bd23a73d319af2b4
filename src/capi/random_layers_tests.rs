//! A hundred thousand calls on the four lower layers that no sane host would make, from several threads and from callbacks that fail, block,
//! re-enter and destroy what calls them: each ends with a result code, nothing hangs, and nothing is left behind.
//!
//! In a process of their own, whose threads and descriptors can be counted. `DURAMEN_RANDOM_CALLS` says how many (100000),
//! `DURAMEN_RANDOM_THREADS` from how many threads (16: most of them wait for the disk), `DURAMEN_SEED` where the random numbers begin: with one thread, and but for the
//! library's own, the same calls come again.

use super::base_tests::message;
use super::checkpoint::*;
use super::checkpoint_pages::*;
use super::conf::*;
use super::durable::*;
use super::durable_tests;
use super::entry::duramen_errmsg;
use super::handle::DURAMEN_FOREVER;
use super::log::*;
use super::log_tests::{self, child, real_dir};
use super::logging::*;
use super::page_source::*;
use super::random_tests::Random;
use super::status::*;
use super::transfer::*;
use super::transfer_tests;
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A thread that has made no call for so long hangs.
const HANGS: Duration = Duration::from_secs(120);
/// Handles that are no more, kept to be used again.
const STALE_MAX: usize = 200;
const CONFS_MAX: usize = 40;
/// Hosts with an address each.
const IDS: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Conf,
    Log,
    Checkpoint,
    Durable,
    Transfer,
}
use Kind::{Checkpoint, Conf, Durable, Log, Transfer};

const KINDS: [Kind; 5] = [Conf, Log, Checkpoint, Durable, Transfer];

/// What stands behind `user` of an open handle's callbacks.
#[derive(Default)]
struct Host {
    /// 0 until it is open.
    handle: AtomicUsize,
    /// Destroy has said so: no callback comes any more.
    is_over: AtomicBool,
}

impl Host {
    fn of(handle: usize) -> Self {
        Self { handle: handle.into(), ..Self::default() }
    }

    /// Lives for ever: who knows when the last callback comes.
    fn kept(handle: usize) -> &'static Self {
        let host: &'static Self = Box::leak(Box::new(Self::of(handle)));
        world().kept.lock().push(host);
        host
    }

    fn user(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// What all threads share.
struct World {
    dir: PathBuf,
    /// Where each kind is opened; replaced from time to time.
    folders: Mutex<Vec<(Kind, PathBuf)>>,
    living: Mutex<Vec<(Kind, usize)>>,
    stale: Mutex<Vec<usize>>,
    hosts: Mutex<HashMap<usize, &'static Host>>,
    /// Where each of them is.
    used: Mutex<HashMap<usize, PathBuf>>,
    kept: Mutex<Vec<&'static Host>>,
    /// States that are, or were, served.
    roots: Mutex<Vec<(u64, [u8; 32])>>,
    seed: AtomicU64,
    /// Numbers that rise.
    next: AtomicU64,
    fresh: AtomicUsize,
    /// Sources of pages that the library has, and has given back.
    sources: AtomicUsize,
    freed: AtomicUsize,
    opened: AtomicUsize,
    installed: AtomicUsize,
    called_back: AtomicUsize,
    /// Per thread: calls made, and the name of the one under way.
    at: Vec<(AtomicUsize, Mutex<&'static str>)>,
    calls: AtomicUsize,
}

static WORLD: OnceLock<World> = OnceLock::new();

fn world() -> &'static World {
    WORLD.get().expect("made before the first call")
}

thread_local! {
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(world().seed.fetch_add(1 << 32 | 1, Ordering::Relaxed)));
    /// Callbacks that call, one in the other.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Which of the caller's threads; none: one of the library's.
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
}

fn below(n: usize) -> usize {
    RANDOM.with_borrow_mut(|random| random.below(n))
}

fn number() -> u64 {
    RANDOM.with_borrow_mut(Random::next)
}

fn one_of<T: Copy>(all: &[T]) -> T {
    all[below(all.len())]
}

fn pick<T: Clone>(all: &Mutex<Vec<T>>) -> Option<T> {
    let all = all.lock();
    (!all.is_empty()).then(|| all[below(all.len())].clone())
}

/// A number that lies somewhere, and mostly where something is.
fn place() -> u64 {
    let now = world().next.load(Ordering::Relaxed);
    one_of(&[0, 1, 2, 3, now / 2, now, now + 1, now.saturating_sub(3), u64::MAX, u64::MAX - 1, number()])
}

/// A number that rises, or should have.
fn rising() -> u64 {
    match below(400) {
        0 => one_of(&[u64::MAX, u64::MAX - 1]),
        1..30 => place() % (1 << 40),
        _ => world().next.fetch_add(1 + below(3) as u64, Ordering::Relaxed),
    }
}

/// A handle of that kind, mostly.
fn handle(kind: Kind) -> usize {
    let of_kind = || {
        let living = world().living.lock();
        let all: Vec<usize> = living.iter().filter(|(k, _)| *k == kind).map(|(_, handle)| *handle).collect();
        drop(living);
        (!all.is_empty()).then(|| one_of(&all))
    };
    let other = || pick(&world().living).map(|(_, handle)| handle);
    let found = match below(20) {
        0..15 => of_kind(),
        15 | 16 => other(),
        17 | 18 => pick(&world().stale),
        _ => None,
    };
    let made_up =
        [0, 1, 16, 1 << 46 | 16, usize::MAX, isize::MAX as usize, std::ptr::from_ref(world()).addr()];
    found.unwrap_or_else(|| one_of(&made_up))
}

fn at<T>(handle: usize) -> *mut T {
    without_provenance_mut(handle)
}

/// What callbacks hand over and take; bytes that anybody may read.
static BYTES: [u8; 64 << 10] = [0x5a; 64 << 10];

/// Some bytes: a pointer, and a length that is true, or absurd.
fn some_bytes() -> (*const c_void, usize) {
    let bytes = BYTES.as_ptr().cast();
    match below(12) {
        0 => (null(), one_of(&[0, 1, 7, 1 << 20, isize::MAX as usize, usize::MAX])),
        1 => (bytes, one_of(&[usize::MAX, isize::MAX as usize + 1, usize::MAX / 2 + 9])),
        2 => (bytes, one_of(&[0, BYTES.len(), 30_000])),
        _ => (bytes, below(300)),
    }
}

fn some_parts() -> (Vec<duramen_bytes>, *const duramen_bytes, usize) {
    let parts: Vec<_> = (0..below(6))
        .map(|_| {
            let (bytes, len) = some_bytes();
            duramen_bytes { bytes, len }
        })
        .collect();
    let (at, count) = match below(12) {
        0 => (null(), one_of(&[0, 1, 1 << 40, usize::MAX])),
        1 => (parts.as_ptr(), one_of(&[usize::MAX, usize::MAX / size_of::<duramen_bytes>()])),
        _ => (parts.as_ptr(), parts.len()),
    };
    (parts, at, count)
}

/// What a callback does besides its work, and what it returns.
fn whim(host: &Host) -> i32 {
    assert!(!host.is_over.load(Ordering::Relaxed), "a callback after destroy");
    world().called_back.fetch_add(1, Ordering::Relaxed);
    match below(400) {
        0 => std::thread::sleep(Duration::from_micros(below(2000) as u64)),
        1..25 if DEPTH.get() < 2 => {
            DEPTH.set(DEPTH.get() + 1);
            step(Some(host.handle.load(Ordering::Relaxed)));
            DEPTH.set(DEPTH.get() - 1);
        }
        25..29 => return one_of(&[1, -1, DURAMEN_E_INTERNAL, i32::MIN, i32::MAX]),
        _ => {}
    }
    0
}

unsafe fn host<'a>(user: *mut c_void) -> &'a Host {
    unsafe { &*user.cast::<Host>() }
}

unsafe extern "C" fn on_record(user: *mut c_void, record: *const duramen_record) -> i32 {
    let record = unsafe { &*record };
    assert!(record.lsn > 0 && record.bytes.is_null() == (record.len == 0));
    whim(unsafe { host(user) })
}

unsafe extern "C" fn on_op(user: *mut c_void, _: u64, _: u32, op: *const c_void, len: usize) -> i32 {
    assert_eq!(op.is_null(), len == 0);
    whim(unsafe { host(user) })
}

unsafe extern "C" fn on_seq(user: *mut c_void, _: u64) {
    whim(unsafe { host(user) });
}

unsafe extern "C" fn on_end(user: *mut c_void, code: i32, why: *const c_char) {
    assert!(code != DURAMEN_E_INTERNAL && !why.is_null(), "{code}");
    whim(unsafe { host(user) });
}

/// Gives a few pieces of a state; or too much; or gives up.
unsafe extern "C" fn on_fill(user: *mut c_void, buf: *mut c_void, cap: usize, len: *mut usize) -> i32 {
    let given = one_of(&[0, 0, 1, 1000, 3000]);
    let said = if below(40) == 0 { one_of(&[cap + 1, usize::MAX]) } else { given };
    unsafe {
        buf.write_bytes(7, given.min(cap));
        *len = said;
    }
    whim(unsafe { host(user) })
}

unsafe extern "C" fn on_bytes(user: *mut c_void, bytes: *const c_void, len: usize) -> i32 {
    assert!(!bytes.is_null() && len > 0);
    whim(unsafe { host(user) })
}

unsafe extern "C" fn on_taken(user: *mut c_void, _: u64, page: *const c_void, len: usize) -> i32 {
    assert_eq!(page.is_null(), len == 0);
    whim(unsafe { host(user) })
}

/// A page follows from its index, mostly.
unsafe extern "C" fn on_page(
    user: *mut c_void,
    index: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let bytes = index as usize * 131 % 2000;
    let said = if below(300) == 0 { one_of(&[cap + 1, usize::MAX]) } else { bytes };
    unsafe {
        buf.write_bytes(index as u8, bytes.min(cap));
        *len = said;
    }
    whim(unsafe { host(user) })
}

unsafe extern "C" fn on_free(user: *mut c_void) {
    world().freed.fetch_add(1, Ordering::Relaxed);
    whim(unsafe { host(user) });
}

unsafe extern "C" fn on_room(user: *mut c_void) {
    whim(unsafe { host(user) });
}

/// Nothing can be called from here.
unsafe extern "C" fn on_line(_: *mut c_void, _: i32, line: *const c_char) {
    assert!(!line.is_null());
    if below(8) == 0 {
        let log = at(handle(Log));
        let codes =
            [duramen_log_trim(log, 1), duramen_log_destroy(log, 0), duramen_durable_poll(at(16), 1, 1)];
        assert_eq!(codes, [DURAMEN_E_REENTRANT; 3]);
    }
}

/// Remembers a new handle.
fn remember(kind: Kind, handle: usize, host: Option<&'static Host>) {
    world().living.lock().push((kind, handle));
    world().opened.fetch_add(1, Ordering::Relaxed);
    if let Some(host) = host {
        world().hosts.lock().insert(handle, host);
        host.handle.store(handle, Ordering::Relaxed);
    }
}

/// It is no more.
fn forget(handle: usize) {
    world().used.lock().remove(&handle);
    world().living.lock().retain(|(_, living)| *living != handle);
    let mut stale = world().stale.lock();
    if stale.len() == STALE_MAX {
        let at = below(STALE_MAX);
        stale.swap_remove(at);
    }
    stale.push(handle);
}

/// Destroys as that kind, whatever it is.
fn destroy(kind: Kind, handle: usize, deadline_ms: u64) -> i32 {
    let code = match kind {
        Conf => duramen_conf_destroy(at(handle)),
        Log => duramen_log_destroy(at(handle), deadline_ms),
        Checkpoint => duramen_checkpoint_destroy(at(handle), deadline_ms),
        Durable => duramen_durable_destroy(at(handle), deadline_ms),
        Transfer => duramen_transfer_destroy(at(handle), deadline_ms),
    };
    if code == DURAMEN_OK
        && let Some(host) = world().hosts.lock().get(&handle)
    {
        host.is_over.store(true, Ordering::Relaxed);
    }
    if !matches!(code, DURAMEN_E_TIMEOUT | DURAMEN_E_REENTRANT | DURAMEN_E_HANDLE) {
        forget(handle);
    }
    code
}

fn set(conf: usize, key: &str, value: &str) {
    let (key, value) = (CString::new(key).unwrap(), CString::new(value).unwrap());
    // SAFETY: they end with NUL.
    unsafe { duramen_conf_set(at(conf), key.as_ptr(), value.as_ptr(), null_mut(), 0) };
}

/// A folder of that kind, mostly, and mostly one that is not in use: for another the library waits half a second, as its last owner may just be ending.
fn folder(kind: Kind) -> PathBuf {
    let folders = world().folders.lock();
    let used = world().used.lock();
    let wants_used = kind == Transfer || below(20) == 0;
    let free: Vec<&PathBuf> = folders
        .iter()
        .filter(|(k, path)| {
            (*k == kind || below(60) == 0) && (wants_used || used.values().all(|used| used != path))
        })
        .map(|(_, path)| path)
        .collect();
    match free.is_empty() {
        true => world().dir.join("nothing"),
        false => free[below(free.len())].clone(),
    }
}

/// Small, and in that folder.
fn make_conf(folder: &Path) -> usize {
    let conf = duramen_conf_new().addr();
    set(conf, "dir", folder.to_str().unwrap());
    set(conf, "transfer-dir", world().dir.join(format!("received-{}", below(6))).to_str().unwrap());
    for (key, value) in [("segment-mib", "1"), ("segments", "8"), ("allow-tmpfs", "true"), ("queue-mib", "1")]
    {
        set(conf, key, value);
    }
    set(conf, "callbacks", one_of(&["poll", "thread"]));
    set(conf, "mode", one_of(&["parallel", "batched", "naive", "async"]));
    set(conf, "io", one_of(&["auto", "threads"]));
    conf
}

/// Opens something; mostly with a configuration that fits.
fn open(kind: Kind) -> (&'static str, i32) {
    let (fits, path) = (below(10) > 0, folder(kind));
    let conf = if fits { make_conf(&path) } else { handle(Conf) };
    let host = Host::kept(0);
    let user = host.user();
    let nowhere = below(40) == 0;
    // SAFETY: tables and places live until after the calls; callbacks are given their `user`.
    let (name, code, opened) = unsafe {
        match kind {
            Conf => {
                if world().living.lock().iter().filter(|(k, _)| *k == Conf).count() < CONFS_MAX {
                    remember(Conf, make_conf(&folder(one_of(&KINDS))), None);
                }
                ("duramen_conf_new", DURAMEN_OK, 0)
            }
            Log => {
                let mut log = null_mut();
                let place = if nowhere { null_mut() } else { &raw mut log };
                let cb: duramen_record_fn = if below(4) == 0 { None } else { Some(on_record) };
                let mut code = duramen_log_open(at(conf), cb, user, place);
                if code == DURAMEN_E_NOT_FOUND && fits {
                    duramen_log_format(at(conf));
                    code = duramen_log_open(at(conf), cb, user, place);
                }
                ("duramen_log_open", code, log.addr())
            }
            Checkpoint => {
                let mut folder = null_mut();
                let place = if nowhere { null_mut() } else { &raw mut folder };
                ("duramen_checkpoint_open", duramen_checkpoint_open(at(conf), place), folder.addr())
            }
            Durable => {
                let mut layer = null_mut();
                let place = if nowhere { null_mut() } else { &raw mut layer };
                let whole = size_of::<duramen_durable_callbacks>();
                let table = duramen_durable_callbacks {
                    struct_size: one_of(&[
                        whole,
                        whole,
                        whole,
                        whole,
                        whole,
                        whole,
                        whole,
                        1 << 40,
                        0,
                        8,
                        whole - 1,
                    ]),
                    user,
                    replay: one_of(&[None, Some(on_op as _)]),
                    execute: one_of(&[
                        Some(on_op as _),
                        Some(on_op as _),
                        Some(on_op as _),
                        Some(on_op as _),
                        None,
                    ]),
                    release: Some(on_seq),
                    logged: one_of(&[None, Some(on_seq as _)]),
                    ended: one_of(&[None, Some(on_end as _)]),
                    room: one_of(&[None, Some(on_room as _)]),
                };
                let table = if below(40) == 0 { null() } else { &raw const table };
                let mut code = duramen_durable_open(at(conf), table, place);
                if code == DURAMEN_E_NOT_FOUND && fits {
                    duramen_durable_format(at(conf));
                    code = duramen_durable_open(at(conf), table, place);
                }
                ("duramen_durable_open", code, layer.addr())
            }
            Transfer => {
                let mut transfer = null_mut();
                let place = if nowhere { null_mut() } else { &raw mut transfer };
                let id = one_of(&[0, 1, 2, 3, 0, 1, 2, 3, IDS, u32::MAX]);
                ("duramen_transfer_open", duramen_transfer_open(at(conf), id, place), transfer.addr())
            }
        }
    };
    assert!(kind == Conf || (opened == 0) == (code != DURAMEN_OK), "{name}: {code}, {opened:#x}");
    if opened != 0 {
        if fits && kind != Transfer {
            world().used.lock().insert(opened, path);
        }
        remember(kind, opened, Some(host));
    }
    if fits {
        assert_eq!(duramen_conf_destroy(at(conf)), DURAMEN_OK);
    }
    (name, code)
}

/// Takes a folder away under whoever has it open, and names another for its kind.
fn renew_folder() {
    let fresh = world().fresh.fetch_add(1, Ordering::Relaxed);
    let mut folders = world().folders.lock();
    let some = below(folders.len());
    let (kind, path) = &mut folders[some];
    if *kind != Transfer {
        let _ = std::fs::remove_dir_all(&*path);
        *path = world().dir.join(format!("{kind:?}-fresh-{fresh}"));
    }
}

/// A call on a log.
fn on_log(log: *mut duramen_log, (buf, cap, len): (*mut c_char, usize, *mut usize)) -> (&'static str, i32) {
    let kind = one_of(&[1, 7, 239, 0, 240, u32::MAX]);
    let mut lsn = 0;
    let place = one_of(&[null_mut(), &raw mut lsn, &raw mut lsn]);
    let host = Host::of(log.addr());
    let user = host.user();
    // SAFETY: pointers are NULL or lead to as many bytes as their lengths say, as far as a length can be true.
    unsafe {
        match below(20) {
            0..6 => {
                let (bytes, n) = some_bytes();
                ("duramen_log_append", duramen_log_append(log, kind, number(), bytes, n, place))
            }
            6..9 => {
                let (_parts, parts, n) = some_parts();
                ("duramen_log_appendv", duramen_log_appendv(log, kind, number(), parts, n, place))
            }
            9 | 10 => ("duramen_log_wait", duramen_log_wait(log, self::place(), one_of(&[0, 0, 1, 2]))),
            11 | 12 => ("duramen_log_durable", duramen_log_durable(log, place)),
            13 => ("duramen_log_range", duramen_log_range(log, place, null_mut())),
            14 => ("duramen_log_fd", duramen_log_fd(log)),
            15 => {
                let cb: duramen_record_fn = if below(4) == 0 { None } else { Some(on_record) };
                let (from, max) = (self::place(), one_of(&[1, 2, 5]));
                let max = if from > u64::MAX - 9 { one_of(&[0, u32::MAX]) } else { max };
                ("duramen_log_read", duramen_log_read(log, from, max, cb, user))
            }
            16 | 17 => {
                let mut durable = 0;
                let code = duramen_log_durable(log, &raw mut durable);
                (
                    "duramen_log_trim",
                    code.min(duramen_log_trim(log, one_of(&[durable, durable, self::place()]))),
                )
            }
            _ if below(50) == 0 => ("duramen_log_format", duramen_log_format(at(handle(Conf)))),
            _ => ("duramen_log_metrics", duramen_log_metrics(log, buf, cap, len)),
        }
    }
}

/// A state in pages, mostly; where it lies, if it is handed over at all.
fn some_source(host: &Host) -> duramen_page_source {
    let whole = size_of::<duramen_page_source>();
    duramen_page_source {
        struct_size: one_of(&[whole, whole, whole, whole, 0, whole - 1, 1 << 40]),
        user: host.user(),
        pages: one_of(&[0, 1, 7, 30, 30, 30, 30, 1 << 33, u64::MAX]),
        page: one_of(&[Some(on_page as _), Some(on_page as _), Some(on_page as _), None]),
        free: Some(on_free),
    }
}

/// What it should say of the newest one.
fn newest_info(folder: *mut duramen_checkpoint) -> duramen_checkpoint_info {
    // SAFETY: zeros are numbers; the struct lives until after the call.
    unsafe {
        let mut info: duramen_checkpoint_info = std::mem::zeroed();
        info.struct_size = size_of::<duramen_checkpoint_info>();
        duramen_checkpoint_newest(folder, u64::MAX, &raw mut info);
        info
    }
}

fn on_checkpoint(folder: *mut duramen_checkpoint) -> (&'static str, i32) {
    let host = Host::of(folder.addr());
    let user = host.user();
    let mut root = [0u8; 32];
    // SAFETY: as in `on_log`.
    unsafe {
        match below(12) {
            0..3 => {
                let fill: duramen_fill_fn = if below(6) == 0 { None } else { Some(on_fill) };
                let label = one_of(&[null(), BYTES.as_ptr()]);
                let root = one_of(&[null_mut(), root.as_mut_ptr()]);
                let hint = one_of(&[0, 0, 100, 1 << 16, u64::MAX, i64::MAX as u64, 1 << 62]);
                let code = duramen_checkpoint_write(folder, rising(), label, hint, fill, user, root);
                ("duramen_checkpoint_write", code)
            }
            3..6 => {
                let size = size_of::<duramen_checkpoint_info>();
                let mut info: duramen_checkpoint_info = std::mem::zeroed();
                info.struct_size = one_of(&[size, size, size, 0, 8, size - 1, 88, 87, 1 << 40]);
                let place = if below(8) == 0 { null_mut() } else { &raw mut info };
                let code =
                    duramen_checkpoint_newest(folder, one_of(&[u64::MAX, u64::MAX, self::place()]), place);
                ("duramen_checkpoint_newest", code)
            }
            6..9 => {
                // Freed before the call returns: it may live here.
                let source = some_source(&host);
                let is_read = source.struct_size >= size_of::<duramen_page_source>() && below(30) > 0;
                let at = if is_read || source.struct_size < 40 { &raw const source } else { null() };
                let newest = newest_info(folder).position;
                let since = one_of(&[newest, newest, newest, u64::MAX, place()]);
                let named: Vec<u64> = match below(8) {
                    0 => vec![3, 2],
                    1 => vec![number()],
                    _ => (0..30).filter(|_| below(10) == 0).collect(),
                };
                let count = one_of(&[named.len(), named.len(), named.len(), 0]);
                let (named, count) = match below(12) {
                    0 => (null(), one_of(&[0, 1, 1 << 61, usize::MAX])),
                    1 => (named.as_ptr(), usize::MAX),
                    _ => (named.as_ptr(), count),
                };
                let label = one_of(&[null(), BYTES.as_ptr()]);
                let root = one_of(&[null_mut(), root.as_mut_ptr()]);
                let code =
                    duramen_checkpoint_write_pages(folder, rising(), label, at, since, named, count, root);
                let taken =
                    !matches!(code, DURAMEN_E_HANDLE | DURAMEN_E_STATE | DURAMEN_E_REENTRANT | DURAMEN_E_ABI);
                world().sources.fetch_add(usize::from(is_read && taken), Ordering::Relaxed);
                ("duramen_checkpoint_write_pages", code)
            }
            9 => {
                let take: duramen_page_fn = if below(6) == 0 { None } else { Some(on_taken) };
                let position = newest_info(folder).position;
                let position = one_of(&[position, position, self::place()]);
                ("duramen_checkpoint_read_pages", duramen_checkpoint_read_pages(folder, position, take, user))
            }
            _ => {
                let take: duramen_take_fn = if below(6) == 0 { None } else { Some(on_bytes) };
                let position = newest_info(folder).position;
                let position = one_of(&[position, position, self::place()]);
                ("duramen_checkpoint_read", duramen_checkpoint_read(folder, position, take, user))
            }
        }
    }
}

/// `takes_turns`: also what others wait for.
fn on_durable(
    layer: *mut duramen_durable,
    (buf, cap, len): (*mut c_char, usize, *mut usize),
    takes_turns: bool,
) -> (&'static str, i32) {
    let host = Host::of(layer.addr());
    let user = host.user();
    // SAFETY: as in `on_log`.
    unsafe {
        match below(20) {
            0..8 => {
                let (_ops, ops, n) = some_parts();
                ("duramen_durable_deliver", duramen_durable_deliver(layer, rising(), ops, n))
            }
            8 | 9 => ("duramen_durable_wait", duramen_durable_wait(layer, place(), one_of(&[0, 0, 1, 3]))),
            10 => ("duramen_durable_fd", duramen_durable_fd(layer)),
            11..14 if takes_turns => {
                let max = one_of(&[0, 1, 100, u32::MAX]);
                ("duramen_durable_poll", duramen_durable_poll(layer, max, one_of(&[0, 0, 1])))
            }
            14 => {
                let cb: duramen_op_fn = if below(4) == 0 { None } else { Some(on_op) };
                ("duramen_durable_read", duramen_durable_read(layer, place(), cb, user))
            }
            15..18 => ("duramen_durable_recycle", duramen_durable_recycle(layer, place())),
            18 if takes_turns => ("duramen_durable_metrics", duramen_durable_metrics(layer, buf, cap, len)),
            _ if below(50) == 0 => ("duramen_durable_format", duramen_durable_format(at(handle(Conf)))),
            _ => ("duramen_durable_wait", duramen_durable_wait(layer, place(), 0)),
        }
    }
}

fn on_transfer(
    transfer: *mut duramen_transfer,
    (buf, cap, len): (*mut c_char, usize, *mut usize),
    takes_turns: bool,
) -> (&'static str, i32) {
    // SAFETY: as in `on_log`.
    unsafe {
        match below(20) {
            0 if takes_turns => {
                let host = Host::kept(transfer.addr());
                let whole = size_of::<duramen_page_source>();
                let source = some_source(host);
                let is_read = source.struct_size >= whole && below(30) > 0;
                let at = if is_read || source.struct_size < whole { &raw const source } else { null() };
                let (position, mut root) = (one_of(&[1, 5, 9, 9, place()]), [0; 32]);
                let code = duramen_transfer_serve(transfer, position, at, root.as_mut_ptr());
                if is_read && matches!(code, DURAMEN_OK | DURAMEN_E_CALLBACK | DURAMEN_E_ARGUMENT) {
                    world().sources.fetch_add(1, Ordering::Relaxed);
                }
                if code == DURAMEN_OK {
                    let mut roots = world().roots.lock();
                    if roots.len() == 8 {
                        roots.remove(0);
                    }
                    roots.push((position, root));
                }
                ("duramen_transfer_serve", code)
            }
            1 => ("duramen_transfer_withdraw", duramen_transfer_withdraw(transfer)),
            2..5 => {
                let (position, root) = pick(&world().roots).unwrap_or((3, [1; 32]));
                let (root, position) = match below(12) {
                    0 => (null(), position),
                    1 => (BYTES.as_ptr(), place()),
                    _ => (root.as_ptr(), position),
                };
                ("duramen_transfer_fetch", duramen_transfer_fetch(transfer, position, root))
            }
            5..9 => ("duramen_transfer_wait", duramen_transfer_wait(transfer, one_of(&[0, 0, 1, 5]))),
            9 => ("duramen_transfer_fd", duramen_transfer_fd(transfer)),
            10..12 => {
                let size = size_of::<duramen_transfer_info>();
                let mut info: duramen_transfer_info = std::mem::zeroed();
                info.struct_size = one_of(&[size, size, 0, 8, size - 1, 1 << 40]);
                let place = if below(8) == 0 { null_mut() } else { &raw mut info };
                ("duramen_transfer_look", duramen_transfer_look(transfer, place))
            }
            12..15 if takes_turns => {
                let host = Host::of(transfer.addr());
                let user = host.user();
                let take: duramen_page_fn = if below(6) == 0 { None } else { Some(on_taken) };
                let code = duramen_transfer_install(transfer, take, user);
                world().installed.fetch_add(usize::from(code == DURAMEN_OK), Ordering::Relaxed);
                ("duramen_transfer_install", code)
            }
            15 if below(8) == 0 => ("duramen_transfer_cancel", duramen_transfer_cancel(transfer)),
            _ => ("duramen_transfer_metrics", duramen_transfer_metrics(transfer, buf, cap, len)),
        }
    }
}

fn on_conf(
    conf: *mut duramen_conf,
    (buf, cap, len): (*mut c_char, usize, *mut usize),
) -> (&'static str, i32) {
    let keys =
        [c"segment-mib", c"segments", c"queue-mib", c"io", c"mode", c"callbacks", c"nonsense", c"group-kib"];
    let values =
        [c"1", c"4", c"8", c"threads", c"poll", c"thread", c"async", c"", c"-1", c"99999999999999999999"];
    let key = if below(20) == 0 { null() } else { one_of(&keys).as_ptr() };
    let value = if below(20) == 0 { null() } else { one_of(&values).as_ptr() };
    // SAFETY: as in `on_log`.
    unsafe {
        match below(2) {
            0 => (
                "duramen_conf_set",
                duramen_conf_set(conf, key, value, buf, if buf.is_null() { 0 } else { cap }),
            ),
            _ => ("duramen_conf_get", duramen_conf_get(conf, key, buf, cap, len)),
        }
    }
}

/// One call, or a few that belong together. `within`: from a callback of that handle (0: of one that is not open yet). There whatever waits for its
/// turn is called on that handle alone: two threads, each in a callback of the one and waiting for the other, would wait for ever, and
/// that is a mistake no library can mend.
fn step(within: Option<usize>) {
    let world = world();
    world.calls.fetch_add(1, Ordering::Relaxed);
    let mut text = [0u8; 256];
    let mut len = 0;
    let buf = match below(4) {
        0 => (null_mut(), one_of(&[0, 1, usize::MAX]), &raw mut len),
        1 => (text.as_mut_ptr().cast(), one_of(&[0, 1, 10]), null_mut()),
        _ => (text.as_mut_ptr().cast(), text.len(), &raw mut len),
    };
    let say = |name: &'static str| {
        if let Some(me) = ME.get() {
            *world.at[me].1.lock() = name;
        }
    };
    let own = |kind: Kind| match within {
        Some(own) if below(2) == 0 => own,
        _ => handle(kind),
    };
    say("a step");
    let (name, code) = match below(1000) {
        0..12 => open(one_of(&[Log, Checkpoint, Durable, Transfer, Conf])),
        12..30 => {
            // Sockets take a while to find each other.
            let kind = match one_of(&KINDS) {
                Transfer if below(8) > 0 => Log,
                kind => kind,
            };
            let handle = own(kind);
            let deadline = match within {
                None => one_of(&[0, 1, 5, 5, DURAMEN_FOREVER]),
                Some(_) => one_of(&[0, 1, 5]),
            };
            say("a destroy");
            ("a destroy", destroy(one_of(&[kind, kind, kind, one_of(&KINDS)]), handle, deadline))
        }
        30 if within.is_none() && below(4) == 0 => {
            renew_folder();
            ("none", DURAMEN_OK)
        }
        31..60 => {
            // SAFETY: the buffer has that many bytes.
            let n = unsafe { duramen_errmsg(at(own(Log)), buf.0, if buf.0.is_null() { 0 } else { buf.1 }) };
            assert!(n < 4096);
            ("duramen_errmsg", DURAMEN_OK)
        }
        60..64 => {
            let function: duramen_log_fn = if below(2) == 0 { None } else { Some(on_line) };
            // SAFETY: it uses no `user`.
            ("duramen_set_log_callback", unsafe {
                duramen_set_log_callback(below(6) as i32, function, null_mut())
            })
        }
        64..140 => on_conf(at(own(Conf)), buf),
        140..500 => {
            say("a call on a log");
            on_log(at(own(Log)), buf)
        }
        500..520 => {
            say("a call on checkpoints");
            on_checkpoint(at(within.unwrap_or_else(|| handle(Checkpoint))))
        }
        520..820 => {
            say("a call on a layer");
            let layer = own(Durable);
            on_durable(at(layer), buf, within.is_none_or(|own| own == layer))
        }
        _ => {
            say("a call on a transfer");
            let transfer = own(Transfer);
            on_transfer(at(transfer), buf, within.is_none_or(|own| own == transfer))
        }
    };
    let counts = matches!(
        name,
        "duramen_log_fd"
            | "duramen_log_read"
            | "duramen_durable_fd"
            | "duramen_durable_poll"
            | "duramen_transfer_fd"
    );
    let is_right = match code {
        0 => true,
        DURAMEN_E_INTERNAL | DURAMEN_E_POISONED => false,
        DURAMEN_E_OTHER_KIND | DURAMEN_E_NOT_FOUND..0 => true,
        _ => counts && code > 0,
    };
    assert!(is_right, "{name} gave {code}: {}", message(null::<c_void>()));
    if let Some(me) = ME.get() {
        world.at[me].0.fetch_add(1, Ordering::Relaxed);
    }
}

fn number_of(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How many entries a folder of /proc/self has.
fn count(folder: &str) -> usize {
    std::fs::read_dir(Path::new("/proc/self").join(folder)).unwrap().count()
}

/// Ends the process if a thread makes no call for too long.
fn watch() {
    let world = world();
    let mut seen = Vec::new();
    let mut since = Instant::now();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now: Vec<usize> = world.at.iter().map(|(calls, _)| calls.load(Ordering::Relaxed)).collect();
        let moved = now.iter().zip(&seen).all(|(now, seen)| now != seen || *now == usize::MAX);
        if moved || seen.is_empty() {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > HANGS {
            let names: Vec<_> = world.at.iter().map(|(_, name)| *name.lock()).collect();
            eprintln!("a thread hangs: {now:?} calls, then {names:?}");
            std::process::abort();
        }
    }
}

/// A thread that panics ends the others.
struct StopAll;

impl Drop for StopAll {
    fn drop(&mut self) {
        if std::thread::panicking() {
            world().calls.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }
}

/// What is opened afterwards does what it should.
fn works(dir: &Path) {
    let conf = log_tests::Conf::new(&dir.join("last-log"), &[("segment-mib", "1")]);
    assert_eq!(duramen_log_format(conf.0), DURAMEN_OK);
    let (log, _) = log_tests::open(&conf).unwrap();
    let last = log_tests::append(log, 3, b"a record").unwrap();
    assert_eq!(duramen_log_wait(log, last, 20_000), DURAMEN_OK);
    assert_eq!(duramen_log_destroy(log, 20_000), DURAMEN_OK);
    let (log, found) = log_tests::open(&conf).unwrap();
    assert_eq!(found, [(1, 7, 3, b"a record".to_vec())]);
    assert_eq!(duramen_log_destroy(log, 20_000), DURAMEN_OK);

    durable_tests::works(&dir.join("last-durable"));
    super::checkpoint_tests::works(&dir.join("last-checkpoints"));
    transfer_tests::works(dir);
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_calls() {
    let dir = PathBuf::from(std::env::var("DURAMEN_CHILD_DIR").unwrap());
    // Where defaults lead.
    std::env::set_current_dir(&dir).unwrap();
    transfer_tests::cluster(&dir.join("cluster"));
    let calls = number_of("DURAMEN_RANDOM_CALLS", 100_000) as usize;
    let threads = number_of("DURAMEN_RANDOM_THREADS", 16) as usize;
    let seed = number_of("DURAMEN_SEED", u64::from(std::process::id()) << 20 | 1);
    println!("DURAMEN_SEED={seed} DURAMEN_RANDOM_CALLS={calls} DURAMEN_RANDOM_THREADS={threads}");
    let folders = [Log, Log, Durable, Durable, Checkpoint, Checkpoint].into_iter().enumerate();
    let folders = folders.map(|(i, kind)| (kind, dir.join(format!("{kind:?}-{i}"))));
    let made = WORLD.set(World {
        folders: Mutex::new(folders.chain([(Transfer, dir.join("cluster"))]).collect()),
        dir: dir.clone(),
        living: Mutex::default(),
        stale: Mutex::default(),
        hosts: Mutex::default(),
        used: Mutex::default(),
        kept: Mutex::default(),
        roots: Mutex::default(),
        seed: AtomicU64::new(seed),
        next: AtomicU64::new(1),
        fresh: AtomicUsize::new(0),
        sources: AtomicUsize::new(0),
        freed: AtomicUsize::new(0),
        opened: AtomicUsize::new(0),
        installed: AtomicUsize::new(0),
        called_back: AtomicUsize::new(0),
        at: (0..=threads).map(|_| (AtomicUsize::new(0), Mutex::new("nothing"))).collect(),
        calls: AtomicUsize::new(0),
    });
    assert!(made.is_ok());
    let world = world();
    std::thread::spawn(watch);
    let before = (count("task"), count("fd"));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for me in 0..threads {
            scope.spawn(move || {
                ME.set(Some(me));
                let _stop = StopAll;
                while world.calls.load(Ordering::Relaxed) < calls {
                    step(None);
                }
                world.at[me].0.store(usize::MAX, Ordering::Relaxed);
            });
        }
        world.at[threads].0.store(usize::MAX, Ordering::Relaxed);
    });
    let took = began.elapsed();
    world.at[threads].0.store(0, Ordering::Relaxed);
    *world.at[threads].1.lock() = "the last destroy of all";
    let living = std::mem::take(&mut *world.living.lock());
    for (kind, handle) in living {
        let code = destroy(kind, handle, DURAMEN_FOREVER);
        // A folder was taken away, or a layer ended: it is gone all the same.
        assert!(code == DURAMEN_OK || code == DURAMEN_E_IO, "{kind:?}: {code} {}", message(null::<c_void>()));
        assert_eq!(destroy(kind, handle, DURAMEN_FOREVER), DURAMEN_E_HANDLE);
    }
    // SAFETY: none is given.
    assert_eq!(unsafe { duramen_set_log_callback(DURAMEN_LOG_INFO, None, null_mut()) }, DURAMEN_OK);
    let [calls, opened, called_back, sources, freed, installed] =
        [&world.calls, &world.opened, &world.called_back, &world.sources, &world.freed, &world.installed]
            .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{calls} calls in {took:?}, {opened} handles, {called_back} callbacks, {sources} states served, {installed} installed"
    );
    assert_eq!(sources, freed, "each state is freed once");
    assert!(opened > calls / 1000 && called_back > calls / 1000 && sources > 0);
    // A thread that was joined may be listed a moment longer.
    let until = Instant::now() + Duration::from_secs(10);
    while (count("task"), count("fd")) != before {
        let names = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            names.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        let names: Vec<String> = names.collect();
        assert!(
            Instant::now() < until,
            "{before:?} before, {:?} after: {names:?}",
            (count("task"), count("fd"))
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    *world.at[threads].1.lock() = "what was opened afterwards";
    works(&dir);
    world.at[threads].0.store(usize::MAX, Ordering::Relaxed);
}

#[test]
fn no_sequence_of_calls_on_the_lower_layers_does_anything_but_return_codes() {
    let dir = real_dir("capi-random-");
    let child = child("capi::random_layers_tests::child_calls", dir.path());
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    println!("{said}");
    assert!(out.status.success() && said.contains("1 passed"), "{:?}", out.status);
}
