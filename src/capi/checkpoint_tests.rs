use super::base_tests::message;
use super::checkpoint::*;
use super::log_tests::{Conf, child, kill_after, real_dir};
use super::status::*;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

/// A state that is given or taken in odd pieces.
struct State {
    bytes: Vec<u8>,
    at: usize,
    /// Gives up after so many bytes.
    most: usize,
    within: Option<(usize, Vec<i32>)>,
}

impl State {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, most: usize::MAX, within: None }
    }

    fn of(position: u64, bytes: usize) -> Self {
        Self::new((0..bytes).map(|i| (i as u64 * 7 + position) as u8).collect())
    }

    fn user(&mut self) -> *mut c_void {
        (&raw mut *self).cast()
    }
}

unsafe extern "C" fn fill(user: *mut c_void, buf: *mut c_void, cap: usize, len: *mut usize) -> i32 {
    let state = unsafe { &mut *user.cast::<State>() };
    if state.at >= state.most {
        return 5;
    }
    if let Some((folder, codes)) = &mut state.within {
        let folder = std::ptr::without_provenance_mut(*folder);
        let codes_now = unsafe {
            [
                duramen_checkpoint_write(folder, 99, null(), 0, Some(fill), user, null_mut()),
                duramen_checkpoint_read(folder, 1, Some(take), user),
                duramen_checkpoint_destroy(folder, 0),
            ]
        };
        codes.extend(codes_now);
    }
    let n = (state.bytes.len() - state.at).min(cap).min(77_777);
    unsafe {
        std::ptr::copy_nonoverlapping(state.bytes[state.at..].as_ptr(), buf.cast(), n);
        *len = n;
    }
    state.at += n;
    0
}

unsafe extern "C" fn overflow(_: *mut c_void, _: *mut c_void, cap: usize, len: *mut usize) -> i32 {
    unsafe { *len = cap + 1 };
    0
}

unsafe extern "C" fn take(user: *mut c_void, bytes: *const c_void, len: usize) -> i32 {
    let state = unsafe { &mut *user.cast::<State>() };
    state.bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes.cast(), len) });
    if state.bytes.len() >= state.most { 6 } else { 0 }
}

pub(super) fn open(dir: &Path) -> (*mut duramen_checkpoint, i32) {
    let conf = Conf::new(dir, &[]);
    let mut folder = null_mut();
    let code = unsafe { duramen_checkpoint_open(conf.0, &raw mut folder) };
    (folder, code)
}

pub(super) fn write(folder: *mut duramen_checkpoint, position: u64, bytes: usize) -> Result<[u8; 32], i32> {
    let (mut state, mut root, label) = (State::of(position, bytes), [0; 32], [position as u8; 32]);
    let code = unsafe {
        duramen_checkpoint_write(
            folder,
            position,
            label.as_ptr(),
            bytes as u64 / 2,
            Some(fill),
            state.user(),
            root.as_mut_ptr(),
        )
    };
    if code == 0 { Ok(root) } else { Err(code) }
}

pub(super) fn info() -> duramen_checkpoint_info {
    let struct_size = size_of::<duramen_checkpoint_info>();
    let (root, label) = ([0; 32], [0; 32]);
    duramen_checkpoint_info { struct_size, position: 0, bytes: 0, root, label, pages: 0, files: 0 }
}

pub(super) fn newest(folder: *mut duramen_checkpoint, below: u64) -> Result<duramen_checkpoint_info, i32> {
    let mut info = info();
    let code = unsafe { duramen_checkpoint_newest(folder, below, &raw mut info) };
    if code == 0 { Ok(info) } else { Err(code) }
}

pub(super) fn read(folder: *mut duramen_checkpoint, position: u64) -> Result<Vec<u8>, i32> {
    let mut state = State::new(Vec::new());
    let code = unsafe { duramen_checkpoint_read(folder, position, Some(take), state.user()) };
    if code == 0 { Ok(state.bytes) } else { Err(code) }
}

pub(super) fn close(folder: *mut duramen_checkpoint) {
    assert_eq!(duramen_checkpoint_destroy(folder, 20_000), 0);
}

/// A folder keeps a state.
pub(super) fn works(dir: &Path) {
    let (folder, code) = open(dir);
    assert_eq!(code, 0);
    let root = write(folder, 3, 100_000).unwrap();
    close(folder);
    let (folder, _) = open(dir);
    assert_eq!(newest(folder, u64::MAX).map(|info| (info.position, info.root)), Ok((3, root)));
    assert!(read(folder, 3).unwrap() == State::of(3, 100_000).bytes);
    close(folder);
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| !path.ends_with("LOCK")).collect();
    files.sort();
    files
}

#[test]
fn the_last_two_states_are_there_and_what_was_written() {
    let dir = real_dir("capi-checkpoint-");
    let (folder, code) = open(dir.path());
    assert_eq!(code, 0);
    assert_eq!(newest(folder, u64::MAX).err(), Some(DURAMEN_E_NOT_FOUND));
    assert_eq!(open(dir.path()).1, DURAMEN_E_BUSY);
    let sizes = [0, 1, 1 << 20, 3_000_001];
    let mut roots = Vec::new();
    for (position, bytes) in (10..).step_by(10).zip(sizes) {
        roots.push(write(folder, position, bytes).unwrap());
        let found = newest(folder, u64::MAX).unwrap();
        assert_eq!((found.position, found.bytes), (position, bytes as u64));
        assert_eq!((found.root, found.label), (*roots.last().unwrap(), [position as u8; 32]));
        assert_eq!((found.pages, found.files), (DURAMEN_NO_PAGES, 1));
        assert_eq!(read(folder, position), Ok(State::of(position, bytes).bytes));
    }
    assert_eq!(write(folder, 40, 5), Err(DURAMEN_E_ARGUMENT), "positions rise");
    assert_eq!(files(dir.path()).len(), 2);
    close(folder);
    let (folder, _) = open(dir.path());
    assert_eq!(newest(folder, 40).unwrap().root, roots[2]);
    assert_eq!(read(folder, 30), Ok(State::of(30, 1 << 20).bytes));
    assert_eq!(read(folder, 20), Err(DURAMEN_E_NOT_FOUND));
    assert_eq!(newest(folder, 30).err(), Some(DURAMEN_E_NOT_FOUND));
    // The same state at another place, or under another label, has another root.
    assert_eq!(roots.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    close(folder);
    assert_eq!(read(folder, 30), Err(DURAMEN_E_HANDLE));
    assert_eq!(duramen_checkpoint_destroy(folder, 0), DURAMEN_E_HANDLE);
}

#[test]
fn a_damaged_one_is_put_aside_for_the_one_before() {
    let dir = real_dir("capi-checkpoint-");
    let (folder, _) = open(dir.path());
    for position in [1, 2] {
        write(folder, position, 2_500_000).unwrap();
    }
    close(folder);
    let files = files(dir.path());
    let mut bytes = std::fs::read(&files[1]).unwrap();
    bytes[2_200_000] ^= 4;
    std::fs::write(&files[1], &bytes).unwrap();
    let (folder, _) = open(dir.path());
    // Read as it is: what comes before the damage is right, and then it is told.
    let mut state = State::new(Vec::new());
    let code = unsafe { duramen_checkpoint_read(folder, 2, Some(take), state.user()) };
    assert_eq!(code, DURAMEN_E_DAMAGED, "{}", message(folder));
    assert_eq!(state.bytes, State::of(2, 2_500_000).bytes[..2 << 20]);
    let found = newest(folder, u64::MAX).unwrap();
    assert_eq!(found.position, 1);
    assert_eq!(read(folder, 1), Ok(State::of(1, 2_500_000).bytes));
    // Its place can be taken again.
    write(folder, 2, 100).unwrap();
    assert_eq!(newest(folder, u64::MAX).unwrap().bytes, 100);
    close(folder);
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&files[0], &bytes).unwrap();
    let mut bytes = std::fs::read(&files[1]).unwrap();
    bytes[4100] ^= 4;
    std::fs::write(&files[1], &bytes).unwrap();
    let (folder, _) = open(dir.path());
    assert_eq!(newest(folder, u64::MAX).err(), Some(DURAMEN_E_DAMAGED));
    close(folder);
}

#[test]
fn what_a_host_gives_up_leaves_nothing_behind() {
    let dir = real_dir("capi-checkpoint-");
    let (folder, _) = open(dir.path());
    write(folder, 1, 1000).unwrap();
    let before = files(dir.path());
    let mut state = State::of(2, 3_000_000);
    state.most = 2_000_000;
    let write_of = |state: &mut State, fill| unsafe {
        duramen_checkpoint_write(folder, 2, null(), 0, fill, state.user(), null_mut())
    };
    assert_eq!(write_of(&mut state, Some(fill)), DURAMEN_E_CALLBACK);
    assert_eq!(write_of(&mut state, Some(overflow)), DURAMEN_E_ARGUMENT);
    assert_eq!(write_of(&mut state, None), DURAMEN_E_ARGUMENT);
    assert_eq!((files(dir.path()), newest(folder, u64::MAX).unwrap().position), (before, 1));
    let mut state = State::of(2, 10);
    state.within = Some((folder.addr(), Vec::new()));
    assert_eq!(write_of(&mut state, Some(fill)), 0);
    assert!(state.within.unwrap().1.iter().all(|code| *code == DURAMEN_E_REENTRANT));
    let mut state = State::new(Vec::new());
    state.most = 1;
    assert_eq!(unsafe { duramen_checkpoint_read(folder, 1, Some(take), state.user()) }, DURAMEN_E_CALLBACK);
    assert_eq!(unsafe { duramen_checkpoint_read(folder, 1, None, null_mut()) }, DURAMEN_E_ARGUMENT);
    let mut small = duramen_checkpoint_info { struct_size: 8, ..info() };
    assert_eq!(unsafe { duramen_checkpoint_newest(folder, 5, &raw mut small) }, DURAMEN_E_ABI);
    assert_eq!(unsafe { duramen_checkpoint_newest(folder, 5, null_mut()) }, DURAMEN_E_ARGUMENT);
    close(folder);
}

#[test]
#[ignore = "killed by another test"]
fn child_writes_checkpoints() {
    let dir = std::env::var("DURAMEN_CHILD_DIR").unwrap();
    let (folder, _) = open(Path::new(&dir));
    let first = newest(folder, u64::MAX).map_or(1, |found| found.position + 1);
    for position in first.. {
        write(folder, position, 300_000).unwrap();
        println!("written {position}");
    }
}

#[test]
fn a_killed_process_leaves_whole_checkpoints() {
    let dir = real_dir("capi-checkpoint-");
    for lines in [2, 7] {
        let test = "capi::checkpoint_tests::child_writes_checkpoints";
        let written = kill_after(child(test, dir.path()), "written ", lines);
        let (folder, code) = open(dir.path());
        assert_eq!(code, 0);
        let found = newest(folder, u64::MAX).unwrap();
        assert!(found.position >= written);
        for position in [found.position - 1, found.position] {
            assert_eq!(read(folder, position), Ok(State::of(position, 300_000).bytes));
        }
        close(folder);
    }
}

#[test]
fn a_folder_may_have_a_name_alone_and_a_hint_may_be_wrong() {
    let dir = tempfile::Builder::new().prefix("capi-checkpoint-").tempdir_in(".").unwrap();
    let (folder, code) = open(Path::new(dir.path().file_name().unwrap()));
    assert_eq!(code, 0, "{}", message(null::<c_void>()));
    let hinted = |position, hint| {
        let mut state = State::of(1, 300_000);
        let user = state.user();
        unsafe { duramen_checkpoint_write(folder, position, null(), hint, Some(fill), user, null_mut()) }
    };
    assert_eq!(hinted(u64::MAX, 0), DURAMEN_E_ARGUMENT);
    assert_eq!(hinted(1, u64::MAX), DURAMEN_E_NO_SPACE);
    assert_eq!(hinted(1, 16 << 20), 0);
    let file = dir.path().join("checkpoint-00000000000000000001");
    let bytes = std::fs::metadata(file).unwrap().len();
    assert!((300_000..400_000).contains(&bytes), "{bytes}");
    assert!(read(folder, 1).unwrap() == State::of(1, 300_000).bytes);
    close(folder);
}

#[test]
fn a_host_of_a_later_version_gets_what_there_is() {
    #[repr(C)]
    struct Later {
        info: duramen_checkpoint_info,
        more: u64,
    }
    let dir = real_dir("capi-checkpoint-");
    let (folder, _) = open(dir.path());
    write(folder, 7, 1000).unwrap();
    let mut later = Later { info: info(), more: 42 };
    later.info.struct_size = size_of::<Later>();
    assert_eq!(unsafe { duramen_checkpoint_newest(folder, u64::MAX, (&raw mut later).cast()) }, 0);
    assert_eq!((later.info.position, later.info.struct_size, later.more), (7, size_of::<Later>(), 42));
    // The first version, without pages and files; and one that is none.
    later.info = duramen_checkpoint_info { struct_size: 88, pages: 4711, ..info() };
    assert_eq!(unsafe { duramen_checkpoint_newest(folder, u64::MAX, (&raw mut later).cast()) }, 0);
    assert_eq!((later.info.position, later.info.pages), (7, 4711));
    later.info.struct_size = 87;
    let code = unsafe { duramen_checkpoint_newest(folder, u64::MAX, (&raw mut later).cast()) };
    assert_eq!(code, DURAMEN_E_ABI);
    close(folder);
}
