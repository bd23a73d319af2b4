use super::base_tests::message;
use super::checkpoint::*;
use super::checkpoint_pages::*;
use super::checkpoint_tests::{close, files, info, newest, open, read, write};
use super::log_tests::{Conf, child, kill_after, real_dir};
use super::page_source::*;
use super::status::*;
use crate::log::storage::Disk;
use crate::log::test_disk::{FailingDisk, Fault, MemoryDisk};
use std::ffi::c_void;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

const PAGES: u64 = 100;
/// Of 50 pages one is another after each place.
const APART: u64 = 50;

/// The place after which a page is what it is at `position`; 0: it has never been written since the beginning.
fn written_at(index: u64, position: u64) -> u64 {
    position - position.min((position + APART - index % APART) % APART)
}

/// A page of the state of that place; now and then a free one.
fn page_at(index: u64, position: u64) -> Vec<u8> {
    let version = written_at(index, position);
    let bytes = if (index + version) % 9 == 8 { 0 } else { 500 + index * 31 % 400 };
    (0..bytes).map(|i| (i * 3 + index + version * 7) as u8).collect()
}

fn state_at(position: u64) -> Vec<Vec<u8>> {
    (0..PAGES).map(|index| page_at(index, position)).collect()
}

/// The pages that the place changed.
fn changed_by(position: u64) -> Vec<u64> {
    (0..PAGES).filter(|index| written_at(*index, position) == position).collect()
}

/// A host with a state in pages, that is read or built.
#[derive(Default)]
struct Host {
    state: Vec<Vec<u8>>,
    asked: Vec<u64>,
    freed: u32,
    /// From which call on, and how: the code, and the length that it says.
    fails: Option<(usize, i32, Option<usize>)>,
    within: Option<(usize, Vec<i32>)>,
}

impl Host {
    fn of(state: Vec<Vec<u8>>) -> Self {
        Self { state, ..Self::default() }
    }

    fn user(&mut self) -> *mut c_void {
        (&raw mut *self).cast()
    }

    fn source(&mut self) -> duramen_page_source {
        duramen_page_source {
            struct_size: size_of::<duramen_page_source>(),
            pages: self.state.len() as u64,
            user: self.user(),
            page: Some(page),
            free: Some(free),
        }
    }

    /// `since`: the place, and what changed.
    fn write(
        &mut self,
        folder: *mut duramen_checkpoint,
        position: u64,
        since: Option<(u64, &[u64])>,
    ) -> Result<[u8; 32], i32> {
        let (source, mut root, label) = (self.source(), [0; 32], [position as u8; 32]);
        let (since, changed) = since.unwrap_or((u64::MAX, &[]));
        let before = self.freed;
        let code = unsafe {
            let (at, count) = (changed.as_ptr(), changed.len());
            let (label, root) = (label.as_ptr(), root.as_mut_ptr());
            duramen_checkpoint_write_pages(folder, position, label, &raw const source, since, at, count, root)
        };
        assert_eq!(self.freed, before + 1, "whatever becomes of it");
        if code == 0 { Ok(root) } else { Err(code) }
    }
}

unsafe extern "C" fn page(
    user: *mut c_void,
    index: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let host = unsafe { &mut *user.cast::<Host>() };
    host.asked.push(index);
    if let Some((folder, codes)) = &mut host.within {
        let folder = std::ptr::without_provenance_mut(*folder);
        let source = duramen_page_source {
            struct_size: size_of::<duramen_page_source>(),
            user,
            pages: 0,
            page: Some(page),
            free: None,
        };
        let (source, mut info) = (&raw const source, info());
        codes.extend(unsafe {
            [
                duramen_checkpoint_write_pages(folder, 99, null(), source, 0, null(), 0, null_mut()),
                duramen_checkpoint_read_pages(folder, 1, Some(take), user),
                duramen_checkpoint_newest(folder, 9, &raw mut info),
                duramen_checkpoint_destroy(folder, 0),
            ]
        });
    }
    match host.fails {
        Some((from, code, said)) if host.asked.len() > from => {
            unsafe { *len = said.unwrap_or(0) };
            return code;
        }
        _ => {}
    }
    let bytes = &host.state[index as usize];
    assert!(bytes.len() <= cap && unsafe { *len } == 0);
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast(), bytes.len());
        *len = bytes.len();
    }
    0
}

unsafe extern "C" fn free(user: *mut c_void) {
    unsafe { &mut *user.cast::<Host>() }.freed += 1;
}

unsafe extern "C" fn take(user: *mut c_void, index: u64, page: *const c_void, len: usize) -> i32 {
    let host = unsafe { &mut *user.cast::<Host>() };
    assert_eq!((index, page.is_null()), (host.state.len() as u64, len == 0));
    let bytes = match len {
        0 => Vec::new(),
        _ => unsafe { std::slice::from_raw_parts(page.cast::<u8>(), len) }.to_vec(),
    };
    host.state.push(bytes);
    match host.fails {
        Some((from, code, _)) if host.state.len() > from => code,
        _ => 0,
    }
}

fn read_pages(folder: *mut duramen_checkpoint, position: u64) -> Result<Vec<Vec<u8>>, i32> {
    let mut host = Host::default();
    let code = unsafe { duramen_checkpoint_read_pages(folder, position, Some(take), host.user()) };
    if code == 0 { Ok(host.state) } else { Err(code) }
}

/// Writes the state of that place, which follows the newest one; which pages were asked for.
fn write_next(folder: *mut duramen_checkpoint, position: u64) -> Result<Vec<u64>, i32> {
    let mut host = Host::of(state_at(position));
    host.write(folder, position, Some((position - 1, &changed_by(position))))?;
    Ok(host.asked)
}

fn files_of(folder: *mut duramen_checkpoint) -> u64 {
    newest(folder, u64::MAX).unwrap().files
}

/// Whether the newest two are what was written.
fn holds(folder: *mut duramen_checkpoint, position: u64) {
    for (position, below) in [(position, u64::MAX), (position - 1, position)] {
        let found = newest(folder, below).unwrap();
        let bytes = state_at(position).iter().map(Vec::len).sum::<usize>() as u64;
        assert_eq!((found.position, found.pages, found.bytes), (position, PAGES, bytes));
        assert_eq!(found.label, [position as u8; 32]);
        assert!(read_pages(folder, position).unwrap() == state_at(position), "place {position}");
    }
}

fn on_memory(memory: &Arc<MemoryDisk>, full_every: u32) -> *mut duramen_checkpoint {
    open_on(memory.clone(), full_every).unwrap()
}

/// Twelve checkpoints, in two chains.
fn twelve(full_every: u32) -> (Arc<MemoryDisk>, *mut duramen_checkpoint) {
    let memory = Arc::new(MemoryDisk::default());
    let folder = on_memory(&memory, full_every);
    for position in 1..=12 {
        write_next(folder, position).unwrap();
    }
    (memory, folder)
}

#[test]
fn only_what_changed_since_the_last_but_one_is_asked_for_and_all_now_and_then() {
    let dir = real_dir("capi-pages-");
    let open = || {
        let conf = Conf::new(dir.path(), &[("full-every", "4")]);
        let mut folder = null_mut();
        assert_eq!(unsafe { duramen_checkpoint_open(conf.0, &raw mut folder) }, 0);
        folder
    };
    let folder = open();
    let (mut made, mut roots) = (Vec::new(), std::collections::HashSet::new());
    for position in 1..=12 {
        let asked = write_next(folder, position).unwrap();
        let found = newest(folder, u64::MAX).unwrap();
        made.push(found.files);
        assert!(roots.insert(found.root));
        let mut expected: Vec<u64> = (0..PAGES).collect();
        if found.files > 1 {
            expected = [changed_by(position - 1), changed_by(position)].concat();
            expected.sort_unstable();
        }
        assert_eq!(asked, expected, "place {position}");
        if position > 1 {
            holds(folder, position);
        }
    }
    assert_eq!(made, [1, 1, 2, 2, 3, 3, 4, 4, 1, 1, 2, 2]);
    assert_eq!(files(dir.path()).len(), 4, "what nothing needs is gone");
    close(folder);
    // What was said is forgotten with the handle: once all pages, then it goes on as before.
    let folder = open();
    holds(folder, 12);
    let asked: Vec<_> = (13..=15).map(|position| write_next(folder, position).unwrap().len()).collect();
    assert_eq!((asked, files_of(folder)), (vec![100, 4, 4], 2));
    holds(folder, 15);
    // The older one lies on two others, the newest on the one that was written whole.
    assert_eq!(files(dir.path()).len(), 3 + 2);
    close(folder);
}

#[test]
fn whoever_names_another_one_than_the_newest_gets_all_pages_written() {
    let memory = Arc::new(MemoryDisk::default());
    let folder = on_memory(&memory, 8);
    let mut next = 1;
    let mut write_since = |back: Option<u64>| {
        let mut host = Host::of(state_at(next));
        let changed = changed_by(next);
        host.write(folder, next, back.map(|back| (next - back, changed.as_slice()))).unwrap();
        next += 1;
        if next > 2 {
            holds(folder, next - 1);
        }
        host.asked.len()
    };
    let mut all =
        |back| [write_since(back), write_since(Some(1)), write_since(Some(1)), write_since(Some(1))];
    // Then the next one, too: what changed since the last but one is not known.
    assert_eq!(all(None), [100, 100, 4, 4]);
    assert_eq!(all(None), [100, 100, 4, 4]);
    assert_eq!(all(Some(2)), [100, 100, 4, 4]);
    assert_eq!(all(Some(0)), [100, 100, 4, 4]);
    close(folder);
}

#[test]
fn new_pages_count_by_themselves_and_fewer_are_written_all() {
    let memory = Arc::new(MemoryDisk::default());
    let folder = on_memory(&memory, 8);
    let mut state: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; 700]).collect();
    for position in 1..=3 {
        Host::of(state.clone()).write(folder, position, Some((position.wrapping_sub(1), &[]))).unwrap();
    }
    assert_eq!(files_of(folder), 2);
    state.extend([vec![1; 10], Vec::new(), vec![3; 10]]);
    state[7] = vec![9; 9];
    let mut host = Host::of(state.clone());
    host.write(folder, 4, Some((3, &[7]))).unwrap();
    assert_eq!((host.asked.as_slice(), files_of(folder)), (&[7, 100, 101, 102][..], 2));
    assert!(read_pages(folder, 4).unwrap() == state);
    state.truncate(60);
    let mut host = Host::of(state.clone());
    host.write(folder, 5, Some((4, &[]))).unwrap();
    assert_eq!((host.asked.len(), files_of(folder)), (60, 1));
    assert!(read_pages(folder, 5).unwrap() == state);
    // As many again, of which none is what it was before the fall.
    state.resize(103, vec![5; 5]);
    for position in 6..=8 {
        Host::of(state.clone()).write(folder, position, Some((position - 1, &[]))).unwrap();
        assert!(read_pages(folder, position).unwrap() == state, "{position}");
    }
    assert_eq!(files_of(folder), 2);
    // No pages at all are a state, too.
    for position in 9..=12 {
        let root = Host::default().write(folder, position, Some((position - 1, &[]))).unwrap();
        let found = newest(folder, u64::MAX).unwrap();
        assert_eq!((found.pages, found.bytes, found.root), (0, 0, root));
        assert_eq!(read_pages(folder, position), Ok(Vec::new()));
    }
    close(folder);
}

#[test]
fn much_that_changed_is_written_as_all_pages() {
    let memory = Arc::new(MemoryDisk::default());
    let folder = on_memory(&memory, 32);
    // By number; by bytes: a few large ones; by bytes of all files of a chain.
    let few: Vec<u64> = (0..10).collect();
    let half: Vec<u64> = (0..51).collect();
    let mut state: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; if n < 10 { 9000 } else { 100 }]).collect();
    let mut write = |position: u64, changed: &[u64]| {
        changed.iter().for_each(|index| state[*index as usize][0] += 1);
        let mut host = Host::of(state.clone());
        host.write(folder, position, Some((position - 1, changed))).unwrap();
        assert!(read_pages(folder, position).unwrap() == state);
        (host.asked.len(), files_of(folder))
    };
    assert_eq!([write(1, &few), write(2, &half), write(3, &few)], [(100, 1), (100, 1), (100, 1)]);
    // It was begun, and given up when it was more than half of them.
    assert_eq!(write(4, &[99]), (6 + 100, 1));
    assert_eq!([write(5, &[98]), write(6, &[0])], [(2, 2), (2, 2)]);
    let sizes: Vec<u64> = (7..19).map(|position| write(position, &[0]).1).collect();
    assert_eq!(sizes, [3, 3, 4, 4, 5, 5, 6, 6, 7, 1, 1, 2]);
    let bytes: usize = memory.image().values().map(Vec::len).sum();
    assert!(bytes < 3 * 99_400 + 8 * 8192, "{bytes}");
    close(folder);
}

#[test]
fn a_page_that_cannot_be_read_is_a_code_and_harms_nothing() {
    let (memory, folder) = twelve(8);
    let before = memory.image();
    let cap = DURAMEN_TRANSFER_PAGE_BYTES_MAX;
    let (first, second) = (changed_by(13), changed_by(14));
    let mut both = [first.as_slice(), &second].concat();
    both.sort_unstable();
    for (code, said, expected) in [
        (5, None, DURAMEN_E_CALLBACK),
        (-1, Some(3), DURAMEN_E_CALLBACK),
        (0, Some(cap + 1), DURAMEN_E_ARGUMENT),
        (0, Some(usize::MAX), DURAMEN_E_ARGUMENT),
    ] {
        for from in 0..4 {
            for since in [Some((12, first.as_slice())), None] {
                let mut host = Host::of(state_at(13));
                host.fails = Some((from, code, said));
                assert_eq!(host.write(folder, 13, since), Err(expected));
                assert_eq!(host.asked.len(), from + 1);
                assert!(message(folder).starts_with(&format!("page {}", host.asked[from])));
            }
        }
    }
    assert!(memory.image() == before, "nothing is left behind");
    holds(folder, 12);
    // What was to be named is named by the next one, and it goes on.
    let mut host = Host::of(state_at(14));
    host.write(folder, 14, Some((12, &both))).unwrap();
    assert_eq!((host.asked.len(), files_of(folder)), (6, 7));
    assert!(read_pages(folder, 14).unwrap() == state_at(14));
    // The largest page there may be.
    let mut state = state_at(15);
    state[5] = vec![7; cap];
    let mut host = Host::of(state.clone());
    host.write(folder, 15, None).unwrap();
    assert!(read_pages(folder, 15).unwrap() == state);
    // Whoever reads may give up, and read again.
    let mut reader = Host { fails: Some((3, 9, None)), ..Host::default() };
    let given_up = unsafe { duramen_checkpoint_read_pages(folder, 15, Some(take), reader.user()) };
    assert_eq!((given_up, reader.state.len()), (DURAMEN_E_CALLBACK, 4));
    assert!(read_pages(folder, 15).unwrap() == state);
    close(folder);
}

#[test]
fn wrong_arguments_and_wrong_order_have_codes() {
    let (memory, folder) = twelve(8);
    let before = memory.image();
    let mut host = Host::of(state_at(13));
    // Positions that do not rise; indexes that do not, or that there are not.
    for (position, since, changed) in [
        (12, 11, &[1][..]),
        (0, u64::MAX, &[]),
        (u64::MAX, 12, &[1]),
        (13, 12, &[2, 1]),
        (13, 12, &[1, 1]),
        (13, 12, &[1, 100]),
        (13, 12, &[u64::MAX]),
        // Also where they do not matter.
        (13, 3, &[2, 1]),
    ] {
        assert_eq!(host.write(folder, position, Some((since, changed))), Err(DURAMEN_E_ARGUMENT));
    }
    assert!(host.asked.is_empty());
    let whole = host.source();
    let mut freed = host.freed;
    let write = |source: *const duramen_page_source, changed: *const u64, count: usize| unsafe {
        duramen_checkpoint_write_pages(folder, 13, null(), source, 12, changed, count, null_mut())
    };
    let one = 1u64;
    for (changed, count) in
        [(null(), 1), (&raw const one, 101), (&raw const one, usize::MAX), (null(), 1 << 61)]
    {
        assert_eq!(write(&raw const whole, changed, count), DURAMEN_E_ARGUMENT, "{count}");
        freed += 1;
    }
    for wrong in [
        duramen_page_source { page: None, ..whole },
        duramen_page_source { pages: (1 << 32) + 1, ..whole },
        duramen_page_source { pages: u64::MAX, ..whole },
    ] {
        assert_eq!(write(&raw const wrong, null(), 0), DURAMEN_E_ARGUMENT);
        freed += 1;
    }
    assert_eq!(host.freed, freed);
    // Of these nothing was taken.
    assert_eq!(write(null(), null(), 0), DURAMEN_E_ARGUMENT);
    let small = duramen_page_source { struct_size: 39, ..whole };
    assert_eq!(write(&raw const small, null(), 0), DURAMEN_E_ABI);
    assert_eq!(unsafe { duramen_checkpoint_read_pages(folder, 12, None, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(read_pages(folder, 3), Err(DURAMEN_E_NOT_FOUND));
    assert_eq!(read_pages(folder, u64::MAX), Err(DURAMEN_E_NOT_FOUND));
    assert_eq!((host.freed, memory.image() == before), (freed, true));
    host.within = Some((folder.addr(), Vec::new()));
    host.write(folder, 13, Some((12, &changed_by(13)))).unwrap();
    let codes = host.within.take().unwrap().1;
    assert_eq!(codes, [DURAMEN_E_REENTRANT; 4].repeat(4));
    freed = host.freed;
    close(folder);
    assert_eq!(write(&raw const whole, null(), 0), DURAMEN_E_HANDLE);
    assert_eq!(read_pages(folder, 12), Err(DURAMEN_E_HANDLE));
    assert_eq!(host.freed, freed);
}

#[test]
fn a_stream_and_pages_are_told_apart_and_may_follow_each_other() {
    let memory = Arc::new(MemoryDisk::default());
    let folder = on_memory(&memory, 8);
    write_next(folder, 1).unwrap();
    write(folder, 2, 5000).unwrap();
    assert_eq!(
        (read(folder, 1), read_pages(folder, 2)),
        (Err(DURAMEN_E_OTHER_KIND), Err(DURAMEN_E_OTHER_KIND))
    );
    assert!(message(folder).contains("one stream of bytes"), "{}", message(folder));
    assert_eq!(newest(folder, u64::MAX).map(|info| (info.pages, info.bytes)), Ok((DURAMEN_NO_PAGES, 5000)));
    assert_eq!(newest(folder, 2).map(|info| (info.pages, info.position)), Ok((PAGES, 1)));
    // Nothing builds on a stream, whoever is named.
    for position in 3..=6 {
        assert_eq!(write_next(folder, position).unwrap().len(), if position < 5 { 100 } else { 4 });
    }
    holds(folder, 6);
    write(folder, 7, 100).unwrap();
    let mut host = Host::of(state_at(8));
    host.write(folder, 8, Some((6, &[1]))).unwrap();
    assert_eq!((host.asked.len(), read(folder, 7).map(|bytes| bytes.len())), (100, Ok(100)));
    assert!(read_pages(folder, 8).unwrap() == state_at(8));
    close(folder);
}

#[test]
fn damage_in_any_file_costs_one_checkpoint() {
    let (memory, folder) = twelve(8);
    close(folder);
    let image = memory.image();
    assert_eq!(image.len(), 12, "two chains");
    for damaged in image.keys() {
        // In the head, in a page, in the list of digests; cut; gone.
        for how in 0..5 {
            let mut image = image.clone();
            let file = image.get_mut(damaged).unwrap();
            let end = file.len() - 4096;
            match how {
                0 => file[100] ^= 8,
                1 => file[4096 + 200] ^= 8,
                2 => file[end + 3] ^= 8,
                3 => file.truncate(end),
                _ => drop(image.remove(damaged)),
            }
            let memory = Arc::new(MemoryDisk::new(image));
            let folder = on_memory(&memory, 8);
            let is_newest = damaged.ends_with(['2', '4', '6', '8', '0']);
            let good = newest(folder, u64::MAX).unwrap().position;
            // The older one's damage is not looked for.
            let expected = if is_newest { 11 } else { 12 };
            assert_eq!(good, expected, "{damaged}, {how}");
            assert!(read_pages(folder, good).unwrap() == state_at(good));
            if !is_newest {
                assert!(matches!(read_pages(folder, 11), Err(DURAMEN_E_DAMAGED | DURAMEN_E_NOT_FOUND)));
                // Maybe what it lay on can still be read.
                match newest(folder, 12) {
                    Ok(older) => {
                        assert!(older.position < 11);
                        assert!(read_pages(folder, older.position).unwrap() == state_at(older.position));
                    }
                    Err(code) => assert_eq!(code, DURAMEN_E_DAMAGED),
                }
            }
            // Life goes on, from the one that was found.
            let asked: Vec<usize> =
                (good + 1..=good + 4).map(|position| write_next(folder, position).unwrap().len()).collect();
            assert!(asked[0] == 100 && asked[3] == 4, "{damaged}, {how}: {asked:?}");
            holds(folder, good + 4);
            assert!(!memory.list().unwrap().iter().any(|name| name.starts_with("damaged")));
            close(folder);
        }
    }
}

#[test]
fn two_checkpoints_are_there_whatever_file_operation_is_the_last() {
    // The last one lies on others, or begins anew; it is given up half-way and written anew.
    for (full_every, is_large) in [(8, false), (6, false), (8, true)] {
        let mut calls = 0;
        loop {
            let (memory, folder) = twelve(full_every);
            close(folder);
            let fault = Fault::new(calls, usize::MAX, libc::EIO);
            // The process dies at this operation of the next two.
            let failing = FailingDisk::over(memory.clone(), fault.clone());
            let mut state = state_at(14);
            if is_large {
                state[(14 % APART) as usize] = vec![1; 200_000];
            }
            let written = open_on(failing, full_every).map_err(|_| DURAMEN_E_IO).and_then(|folder| {
                let written = write_next(folder, 13).and_then(|_| {
                    let mut host = Host::of(state.clone());
                    host.write(folder, 14, Some((13, &changed_by(14))))
                });
                close(folder);
                written
            });
            let folder = on_memory(&memory, full_every);
            let found = newest(folder, u64::MAX).unwrap().position;
            let older = newest(folder, found).unwrap().position;
            assert!((12..=14).contains(&found) && older + 1 == found, "{older}, {found} after {calls} calls");
            for position in [older, found] {
                let expected = if position == 14 { state.clone() } else { state_at(position) };
                assert!(read_pages(folder, position).unwrap() == expected, "{position} after {calls} calls");
            }
            for position in found + 1..found + 3 {
                let mut host = Host::of(state_at(position));
                host.write(folder, position, None).unwrap();
            }
            assert_eq!(memory.list().unwrap().len(), 2, "after {calls} calls");
            close(folder);
            if fault.calls() <= calls {
                assert!(written.is_ok() && found == 14);
                break;
            }
            assert!(written.is_err() || found == 14);
            calls += 1;
        }
        assert!(calls > 20, "{calls} operations");
    }
}

#[test]
fn one_operation_that_fails_is_a_code_and_the_next_call_goes_on() {
    let mut calls = 0;
    loop {
        let (memory, folder) = twelve(8);
        close(folder);
        let fault = Fault::new(calls, 1, libc::EIO);
        let Ok(folder) = open_on(FailingDisk::over(memory.clone(), fault.clone()), 8) else {
            calls += 1;
            continue;
        };
        let codes: Vec<Option<i32>> = (13..=16).map(|position| write_next(folder, position).err()).collect();
        assert!(codes.iter().flatten().all(|code| *code == DURAMEN_E_IO), "{codes:?}");
        assert!(codes.iter().flatten().count() <= 1, "{codes:?}");
        if codes[3].is_none() {
            match read_pages(folder, 16) {
                Ok(state) => assert!(state == state_at(16), "after {calls} calls"),
                Err(code) => assert_eq!(code, DURAMEN_E_IO),
            }
        }
        close(folder);
        let folder = on_memory(&memory, 8);
        let found = newest(folder, u64::MAX).unwrap().position;
        assert!(read_pages(folder, found).unwrap() == state_at(found) && found >= 15, "after {calls} calls");
        close(folder);
        if fault.calls() <= calls {
            break;
        }
        calls += 1;
    }
    assert!(calls > 40, "{calls} operations");
}

#[test]
fn a_full_disk_is_a_code_and_leaves_what_was_there() {
    let memory = Arc::new(MemoryDisk::default());
    let disk = FailingDisk::over(memory.clone(), Fault::of_creates(3, 1, libc::ENOSPC));
    let folder = open_on(disk, 8).unwrap();
    let codes: Vec<Option<i32>> = (1..=3).map(|position| write_next(folder, position).err()).collect();
    assert_eq!(codes, [None; 3]);
    assert_eq!(write_next(folder, 4).err(), Some(DURAMEN_E_NO_SPACE));
    holds(folder, 3);
    assert_eq!(write_next(folder, 4).unwrap().len(), 4);
    holds(folder, 4);
    close(folder);
}

#[test]
#[ignore = "killed by another test"]
fn child_writes_pages() {
    let dir = std::env::var("DURAMEN_CHILD_DIR").unwrap();
    let (folder, _) = open(Path::new(&dir));
    let first = newest(folder, u64::MAX).map_or(1, |found| found.position + 1);
    for position in first.. {
        write_next(folder, position).unwrap();
        println!("written {position}");
    }
}

#[test]
fn a_killed_process_leaves_whole_checkpoints_in_pages() {
    let dir = real_dir("capi-pages-");
    for lines in [2, 5, 23, 9] {
        let test = "capi::checkpoint_pages_tests::child_writes_pages";
        let written = kill_after(child(test, dir.path()), "written ", lines);
        let (folder, code) = open(dir.path());
        assert_eq!(code, 0);
        let found = newest(folder, u64::MAX).unwrap().position;
        assert!(found >= written);
        holds(folder, found);
        close(folder);
    }
}
