use super::base_tests::message;
use super::conf::*;
use super::handle::DURAMEN_FOREVER;
use super::log::*;
use super::status::*;
use std::ffi::{CString, c_void};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

/// A directory on the disk that holds the build.
pub(super) fn real_dir(prefix: &str) -> tempfile::TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    std::fs::create_dir_all(target).unwrap();
    tempfile::Builder::new().prefix(prefix).tempdir_in(target).unwrap()
}

/// A configuration that frees itself.
pub(super) struct Conf(pub *mut duramen_conf);

impl Conf {
    pub fn new(dir: &Path, values: &[(&str, &str)]) -> Self {
        let conf = Self(duramen_conf_new());
        conf.set("dir", dir.to_str().unwrap());
        conf.set("allow-tmpfs", "true");
        values.iter().for_each(|(key, value)| conf.set(key, value));
        conf
    }

    pub fn set(&self, key: &str, value: &str) {
        let (key, value) = (CString::new(key).unwrap(), CString::new(value).unwrap());
        let code = unsafe { duramen_conf_set(self.0, key.as_ptr(), value.as_ptr(), null_mut(), 0) };
        assert_eq!(code, 0, "{key:?}: {}", message(self.0));
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        duramen_conf_destroy(self.0);
    }
}

/// Number, kind, tag and bytes.
pub(super) type Found = (u64, u32, u64, Vec<u8>);

unsafe extern "C" fn note(user: *mut c_void, record: *const duramen_record) -> i32 {
    let (found, record) = unsafe { (&mut *user.cast::<Vec<Found>>(), &*record) };
    assert!(record.struct_size >= 48 && record.bytes.is_null() == (record.len == 0));
    let bytes = match record.len {
        0 => Vec::new(),
        len => unsafe { std::slice::from_raw_parts(record.bytes.cast::<u8>(), len) }.to_vec(),
    };
    found.push((record.lsn, record.kind, record.tag, bytes));
    0
}

pub(super) fn open(conf: &Conf) -> Result<(*mut duramen_log, Vec<Found>), i32> {
    let (mut log, mut found) = (null_mut(), Vec::<Found>::new());
    let code = unsafe { duramen_log_open(conf.0, Some(note), (&raw mut found).cast(), &raw mut log) };
    assert_eq!(log.is_null(), code != 0);
    if code == 0 { Ok((log, found)) } else { Err(code) }
}

pub(super) fn append(log: *mut duramen_log, tag: u64, bytes: &[u8]) -> Result<u64, i32> {
    let mut lsn = 0;
    let code = unsafe { duramen_log_append(log, 7, tag, bytes.as_ptr().cast(), bytes.len(), &raw mut lsn) };
    if code == 0 { Ok(lsn) } else { Err(code) }
}

fn durable(log: *mut duramen_log) -> u64 {
    let mut lsn = 0;
    assert_eq!(unsafe { duramen_log_durable(log, &raw mut lsn) }, 0);
    lsn
}

pub(super) fn readable(fd: i32, ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    unsafe { libc::poll(&raw mut poll, 1, ms) == 1 }
}

fn content(n: u64) -> Vec<u8> {
    (0..n * 37 % 5000).map(|i| (i * 3 + n) as u8).collect()
}

#[test]
fn records_come_back_as_they_were_appended() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1")]);
    assert_eq!(open(&conf).err(), Some(DURAMEN_E_NOT_FOUND));
    assert_eq!(duramen_log_format(conf.0), 0);
    assert_eq!(duramen_log_format(conf.0), DURAMEN_E_STATE);
    let (log, found) = open(&conf).unwrap();
    assert!(found.is_empty());
    for n in 1..=300 {
        assert_eq!(append(log, n, &content(n)), Ok(n));
    }
    let parts = [&b"in "[..], &b""[..], &b"pieces"[..]].map(|b| duramen_bytes {
        bytes: if b.is_empty() { null() } else { b.as_ptr().cast() },
        len: b.len(),
    });
    let mut lsn = 0;
    assert_eq!(unsafe { duramen_log_appendv(log, 239, 5, parts.as_ptr(), 3, &raw mut lsn) }, 0);
    assert_eq!((lsn, duramen_log_wait(log, lsn, 20_000), durable(log)), (301, 0, 301));
    let mut read = Vec::<Found>::new();
    let user = (&raw mut read).cast();
    assert_eq!(unsafe { duramen_log_read(log, 299, 0, Some(note), user) }, 3);
    assert_eq!(unsafe { duramen_log_read(log, 1, 2, Some(note), user) }, 2);
    assert_eq!(unsafe { duramen_log_read(log, 302, 0, Some(note), user) }, 0);
    assert_eq!(unsafe { duramen_log_read(log, 0, 0, Some(note), user) }, DURAMEN_E_NOT_FOUND);
    for from in [u64::MAX, u64::MAX - 1] {
        assert_eq!(unsafe { duramen_log_read(log, from, 0, Some(note), user) }, 0);
    }
    let numbers: Vec<u64> = read.iter().map(|found| found.0).collect();
    assert_eq!(numbers, [299, 300, 301, 1, 2]);
    assert_eq!(open(&conf).err(), Some(DURAMEN_E_BUSY), "it is open already");
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (log, found) = open(&conf).unwrap();
    for (n, (lsn, kind, tag, bytes)) in (1..=300).zip(&found) {
        assert_eq!((*lsn, *kind, *tag), (n, 7, n));
        assert!(*bytes == content(n));
    }
    assert_eq!(found[300], (301, 239, 5, b"in pieces".to_vec()));
    assert_eq!((found.len(), durable(log)), (301, 301));
    assert_eq!(append(log, 0, b"next"), Ok(302));
    // Destroy writes what is queued.
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (log, found) = open(&conf).unwrap();
    assert_eq!(found.len(), 302);
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
}

#[test]
fn the_descriptor_says_when_more_is_durable() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    let fd = duramen_log_fd(log);
    assert!(fd >= 0);
    durable(log);
    for n in 1..=3 {
        assert_eq!(append(log, 0, b"x"), Ok(n));
        while durable(log) < n {
            assert!(readable(fd, 20_000));
        }
        durable(log);
        assert!(!readable(fd, 0));
    }
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    assert_eq!(duramen_log_fd(log), DURAMEN_E_HANDLE);
}

#[test]
fn wrong_arguments_and_wrong_order_have_codes() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1")]);
    assert_eq!(duramen_log_format(null()), DURAMEN_E_HANDLE);
    assert_eq!(unsafe { duramen_log_open(conf.0, None, null_mut(), null_mut()) }, DURAMEN_E_ARGUMENT);
    let mut log = null_mut();
    assert_eq!(unsafe { duramen_log_open(null(), None, null_mut(), &raw mut log) }, DURAMEN_E_HANDLE);
    assert_eq!(duramen_log_format(conf.0), 0);
    assert_eq!(unsafe { duramen_log_open(conf.0, None, null_mut(), &raw mut log) }, 0);
    let bytes = b"x".as_ptr().cast();
    let add = |kind, at, len| unsafe { duramen_log_append(log, kind, 0, at, len, null_mut()) };
    assert_eq!(
        [
            add(0, bytes, 1),
            add(240, bytes, 1),
            add(263, bytes, 1),
            add(1, null(), 1),
            add(1, bytes, usize::MAX)
        ],
        [DURAMEN_E_ARGUMENT; 5]
    );
    let large = vec![0u8; (256 << 10) + 1];
    assert_eq!(add(1, large.as_ptr().cast(), large.len()), DURAMEN_E_TOO_LARGE);
    let twice = [duramen_bytes { bytes: large.as_ptr().cast(), len: 150 << 10 }; 2];
    let addv = |parts, count| unsafe { duramen_log_appendv(log, 1, 0, parts, count, null_mut()) };
    assert_eq!(addv(twice.as_ptr(), 2), DURAMEN_E_TOO_LARGE);
    assert_eq!((addv(null(), 1), addv(twice.as_ptr(), usize::MAX)), (DURAMEN_E_ARGUMENT, DURAMEN_E_ARGUMENT));
    assert_eq!(duramen_log_wait(log, 1, 0), DURAMEN_E_ARGUMENT, "nothing was taken");
    assert_eq!((addv(null(), 0), add(1, null(), 0)), (0, 0));
    assert_eq!((duramen_log_wait(log, 2, 20_000), duramen_log_wait(log, 0, 0)), (0, 0));
    assert_eq!(unsafe { duramen_log_durable(log, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_log_read(log, 1, 0, None, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_log_wait(conf.0.cast(), 0, 0), DURAMEN_E_HANDLE);
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (mut first, mut last) = (0, 0);
    assert_eq!(
        [
            duramen_log_destroy(log, 20_000),
            add(1, bytes, 1),
            duramen_log_wait(log, 0, 0),
            duramen_log_trim(log, 1),
            unsafe { duramen_log_range(log, &raw mut first, &raw mut last) },
            unsafe { duramen_log_metrics(log, null_mut(), 0, null_mut()) },
        ],
        [DURAMEN_E_HANDLE; 6]
    );
    // Not for what the log itself does not take either.
    conf.set("group-kib", "4");
    conf.set("io", "threads");
    assert!(open(&conf).is_ok_and(|(log, _)| duramen_log_destroy(log, 20_000) == 0));
}

unsafe extern "C" fn refuse_second(_: *mut c_void, record: *const duramen_record) -> i32 {
    i32::from(unsafe { (*record).lsn } == 2)
}

#[test]
fn a_callback_may_give_up_an_open() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    for n in 1..=3 {
        assert_eq!(append(log, 0, b"x"), Ok(n));
    }
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let mut log = null_mut();
    let code = unsafe { duramen_log_open(conf.0, Some(refuse_second), null_mut(), &raw mut log) };
    assert_eq!((code, log.is_null()), (DURAMEN_E_CALLBACK, true));
    assert!(message(null::<c_void>()).contains("record 2"), "{}", message(null::<c_void>()));
    assert_eq!(open(&conf).unwrap().1.len(), 3);
}

#[test]
fn a_full_log_takes_more_after_it_was_trimmed() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1"), ("segments", "4"), ("queue-mib", "1")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    let record = vec![5u8; 100 << 10];
    let fill = |most| {
        let (mut last, until) = (0, Instant::now() + Duration::from_secs(60));
        loop {
            assert!(Instant::now() < until);
            match append(log, 0, &record) {
                Ok(lsn) if lsn >= most => return (lsn, 0),
                Ok(lsn) => last = lsn,
                Err(DURAMEN_E_BUSY) => assert_eq!(duramen_log_wait(log, last, 20_000), 0),
                Err(code) => return (last, code),
            }
        }
    };
    let (full, code) = fill(1000);
    assert_eq!((code, (5..40).contains(&full)), (DURAMEN_E_NO_SPACE, true), "{full}");
    assert_eq!(duramen_log_wait(log, full, 20_000), 0, "what was taken is durable");
    assert_eq!(append(log, 0, &record), Err(DURAMEN_E_NO_SPACE));
    assert_eq!(duramen_log_trim(log, full), 0);
    let until = Instant::now() + Duration::from_secs(20);
    while append(log, 0, &record) == Err(DURAMEN_E_NO_SPACE) {
        assert!(Instant::now() < until, "trimming makes room");
        std::thread::sleep(Duration::from_millis(2));
    }
    let (mut first, mut last) = (0, 0);
    assert_eq!(unsafe { duramen_log_range(log, &raw mut first, &raw mut last) }, 0);
    assert!(first > 1 && first <= full && last == full + 1, "{first} {last} {full}");
    let mut buf = vec![0u8; 8192];
    let mut len = 0;
    assert_eq!(unsafe { duramen_log_metrics(log, buf.as_mut_ptr().cast(), buf.len(), &raw mut len) }, 0);
    let text = std::str::from_utf8(&buf[..len]).unwrap();
    assert!(text.contains(&format!("duramen_log_appended_lsn {last}\n")) && text.ends_with("# EOF\n"));
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (log, found) = open(&conf).unwrap();
    assert!(found[0].0 <= full && found.last().unwrap().0 == last);
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
}

#[test]
fn damage_is_told_from_a_torn_end() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1"), ("group-kib", "4")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    let record = vec![5u8; 3000];
    for n in 1..=100 {
        assert_eq!(append(log, 0, &record), Ok(n));
        assert_eq!(duramen_log_wait(log, n, 20_000), 0);
    }
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    let mut segments: Vec<_> = names.into_iter().filter(|p| p.metadata().unwrap().len() == 1 << 20).collect();
    segments.sort();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    let hits: Vec<usize> =
        bytes.windows(64).enumerate().filter(|(_, w)| w.iter().all(|b| *b == 5)).map(|(i, _)| i).collect();
    bytes[hits[hits.len() / 3]] ^= 1;
    std::fs::write(&segments[0], &bytes).unwrap();
    assert_eq!(open(&conf).err(), Some(DURAMEN_E_DAMAGED));
    assert!(message(null::<c_void>()).contains("damaged at byte"), "{}", message(null::<c_void>()));
    assert_eq!(std::fs::read(&segments[0]).unwrap(), bytes, "nothing is changed");
}

#[test]
fn several_threads_append_and_wait() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "4")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    let at = log.addr();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let log = std::ptr::without_provenance_mut(at);
                for n in 0..50u64 {
                    let lsn = append(log, thread << 32 | n, &thread.to_le_bytes()).unwrap();
                    assert_eq!(duramen_log_wait(log, lsn, 20_000), 0);
                }
            });
        }
    });
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (log, found) = open(&conf).unwrap();
    for thread in 0..4 {
        let tags: Vec<u64> = found.iter().map(|f| f.2).filter(|tag| tag >> 32 == thread).collect();
        assert_eq!(tags, (0..50).map(|n| thread << 32 | n).collect::<Vec<_>>());
    }
    assert_eq!(duramen_log_destroy(log, DURAMEN_FOREVER), 0);
}

/// Runs a test of this program in a process of its own.
pub(super) fn child(test: &str, dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env("DURAMEN_CHILD_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lines that begin with `word`, as numbers, until so many have come; then the child is killed. The highest number of all.
pub(super) fn kill_after(mut child: std::process::Child, word: &str, lines: usize) -> u64 {
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut seen, mut last) = (0, 0);
    while let Some(Ok(line)) = out.next() {
        let Some(number) = line.strip_prefix(word).and_then(|n| n.trim().parse().ok()) else { continue };
        (seen, last) = (seen + 1, number);
        if seen == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= lines, "the child ended by itself after {seen} lines");
    last
}

#[test]
#[ignore = "killed by another test"]
fn child_appends() {
    let dir = std::env::var("DURAMEN_CHILD_DIR").unwrap();
    let conf = Conf::new(Path::new(&dir), &[("segment-mib", "1")]);
    let (log, _) = open(&conf).unwrap();
    loop {
        let lsns: Vec<u64> = (0..5).map(|_| append(log, 9, &[6; 700]).unwrap()).collect();
        let last = lsns[4];
        assert_eq!(duramen_log_wait(log, last, DURAMEN_FOREVER), 0);
        println!("durable {last}");
        assert_eq!(duramen_log_trim(log, last.saturating_sub(1000)), 0);
    }
}

#[test]
fn what_was_durable_is_there_after_the_process_was_killed() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let mut before = 0;
    for lines in [3, 40, 11] {
        let durable = kill_after(child("capi::log_tests::child_appends", dir.path()), "durable ", lines);
        assert!(durable > before);
        let (log, found) = open(&conf).unwrap();
        before = found.last().unwrap().0;
        assert!(before >= durable, "{before} of {durable}");
        let numbers: Vec<u64> = found.iter().map(|f| f.0).collect();
        assert_eq!(numbers, (numbers[0]..=before).collect::<Vec<_>>());
        assert!(found.iter().all(|f| f.2 == 9 && f.3 == [6; 700]));
        assert_eq!(duramen_log_destroy(log, 20_000), 0);
    }
}

#[test]
fn a_trim_beyond_the_end_gives_up_nothing_that_comes_later() {
    let dir = real_dir("capi-log-");
    let conf = Conf::new(dir.path(), &[("segment-mib", "1"), ("segments", "8")]);
    assert_eq!(duramen_log_format(conf.0), 0);
    let (log, _) = open(&conf).unwrap();
    assert_eq!(append(log, 1, b"first"), Ok(1));
    assert_eq!(duramen_log_trim(log, u64::MAX), 0);
    let record = vec![5u8; 200 << 10];
    for n in 2..=16 {
        assert_eq!(append(log, n, &record), Ok(n));
        assert_eq!(duramen_log_wait(log, n, 20_000), 0);
    }
    let mut read = Vec::<Found>::new();
    let user = (&raw mut read).cast();
    assert_eq!(unsafe { duramen_log_read(log, 2, 0, Some(note), user) }, 15);
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
    let (log, found) = open(&conf).unwrap();
    assert!(found.iter().map(|found| found.0).filter(|lsn| *lsn > 1).eq(2..=16));
    assert_eq!(duramen_log_destroy(log, 20_000), 0);
}
