use super::base_tests::message;
use super::durable::*;
use super::log::{duramen_bytes, duramen_log_format, duramen_log_open};
use super::log_tests::{Conf, child, kill_after, readable, real_dir};
use super::status::*;
use crate::log::Device;
use parking_lot::Mutex;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

/// What a host of the tests saw.
#[derive(Default)]
struct Seen {
    replayed: Vec<(u64, u32, Vec<u8>)>,
    executed: Vec<(u64, u32, Vec<u8>)>,
    released: Vec<u64>,
    logged: u64,
    ended: Option<(i32, String)>,
    /// How often it was told of room.
    told: u32,
    /// What it delivers when it is: to which layer, the number, the bytes; and the codes.
    again: Option<(usize, u64, Vec<u8>)>,
    delivered: Vec<i32>,
    /// Its execute fails there.
    fails_at: u64,
    /// Its execute takes so long.
    slow: Duration,
    within: Vec<i32>,
    layer: usize,
}

struct Host(Mutex<Seen>);

unsafe fn seen<'a>(user: *mut c_void) -> parking_lot::MutexGuard<'a, Seen> {
    unsafe { &*user.cast::<Host>() }.0.lock()
}

fn copied(seq: u64, index: u32, op: *const c_void, len: usize) -> (u64, u32, Vec<u8>) {
    let bytes = match len {
        0 => Vec::new(),
        _ => unsafe { std::slice::from_raw_parts(op.cast::<u8>(), len) }.to_vec(),
    };
    (seq, index, bytes)
}

unsafe extern "C" fn replay(user: *mut c_void, seq: u64, index: u32, op: *const c_void, len: usize) -> i32 {
    unsafe { seen(user) }.replayed.push(copied(seq, index, op, len));
    0
}

unsafe extern "C" fn execute(user: *mut c_void, seq: u64, index: u32, op: *const c_void, len: usize) -> i32 {
    let (fails, slow, layer) = {
        let mut seen = unsafe { seen(user) };
        if seen.fails_at != seq {
            seen.executed.push(copied(seq, index, op, len));
        }
        (seen.fails_at == seq, seen.slow, seen.layer)
    };
    std::thread::sleep(slow);
    if layer != 0 {
        let layer = std::ptr::without_provenance_mut(layer);
        let codes = [
            duramen_durable_destroy(layer, 0),
            duramen_durable_poll(layer, 0, 0),
            duramen_durable_wait(layer, seq, 0),
            duramen_durable_recycle(layer, 1),
        ];
        unsafe { seen(user) }.within.extend(codes);
    }
    if fails { 77 } else { 0 }
}

unsafe extern "C" fn release(user: *mut c_void, seq: u64) {
    unsafe { seen(user) }.released.push(seq);
}

unsafe extern "C" fn logged(user: *mut c_void, upto: u64) {
    let mut seen = unsafe { seen(user) };
    assert!(upto > seen.logged);
    seen.logged = upto;
}

unsafe extern "C" fn ended(user: *mut c_void, code: i32, why: *const c_char) {
    let why = unsafe { CStr::from_ptr(why) }.to_str().unwrap().to_owned();
    assert!(unsafe { seen(user) }.ended.replace((code, why)).is_none(), "once");
}

unsafe extern "C" fn room(user: *mut c_void) {
    let again = {
        let mut seen = unsafe { seen(user) };
        seen.told += 1;
        seen.again.take()
    };
    if let Some((layer, seq, op)) = again {
        let code = deliver(std::ptr::without_provenance_mut(layer), seq, &[&op]);
        unsafe { seen(user) }.delivered.push(code);
    }
}

impl Host {
    fn new() -> Self {
        Self(Mutex::default())
    }

    fn table(&self) -> duramen_durable_callbacks {
        duramen_durable_callbacks {
            struct_size: size_of::<duramen_durable_callbacks>(),
            user: std::ptr::from_ref(self).cast_mut().cast(),
            replay: Some(replay),
            execute: Some(execute),
            release: Some(release),
            logged: Some(logged),
            ended: Some(ended),
            room: None,
        }
    }

    /// Also told of room.
    fn open_with_room(&self, conf: &Conf) -> *mut duramen_durable {
        let (table, mut layer) = (duramen_durable_callbacks { room: Some(room), ..self.table() }, null_mut());
        assert_eq!(unsafe { duramen_durable_open(conf.0, &raw const table, &raw mut layer) }, 0);
        layer
    }

    fn open(&self, conf: &Conf) -> Result<*mut duramen_durable, i32> {
        let (table, mut layer) = (self.table(), null_mut());
        let code = unsafe { duramen_durable_open(conf.0, &raw const table, &raw mut layer) };
        assert_eq!(layer.is_null(), code != 0);
        if code == 0 { Ok(layer) } else { Err(code) }
    }
}

fn deliver(layer: *mut duramen_durable, seq: u64, ops: &[&[u8]]) -> i32 {
    let ops: Vec<_> =
        ops.iter().map(|op| duramen_bytes { bytes: op.as_ptr().cast(), len: op.len() }).collect();
    unsafe { duramen_durable_deliver(layer, seq, ops.as_ptr(), ops.len()) }
}

fn conf(dir: &Path, values: &[(&str, &str)]) -> Conf {
    let conf = Conf::new(dir, values);
    if values.iter().all(|(key, _)| *key != "segment-mib") {
        conf.set("segment-mib", "2");
    }
    conf
}

fn close(layer: *mut duramen_durable) {
    assert_eq!(duramen_durable_destroy(layer, 20_000), 0);
}

/// A layer keeps what it released.
pub(super) fn works(dir: &Path) {
    let conf = conf(dir, &[("callbacks", "thread")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open(&conf).unwrap();
    assert_eq!((deliver(layer, 4, &[b"one", b""]), duramen_durable_wait(layer, 4, 20_000)), (0, 0));
    close(layer);
    let again = Host::new();
    close(again.open(&conf).unwrap());
    assert_eq!(host.0.lock().executed, [(4, 0, b"one".to_vec()), (4, 1, Vec::new())]);
    assert_eq!(again.0.lock().replayed, host.0.lock().executed);
}

#[test]
fn batches_are_executed_released_and_replayed_in_every_mode() {
    for mode in ["parallel", "batched", "naive", "async"] {
        let dir = real_dir("capi-durable-");
        let conf = conf(dir.path(), &[("mode", mode), ("callbacks", "thread")]);
        assert_eq!(Host::new().open(&conf).err(), Some(DURAMEN_E_NOT_FOUND));
        assert_eq!(duramen_durable_format(conf.0), 0);
        let mut all = Vec::new();
        for boot in 0..3u64 {
            let host = Host::new();
            let layer = host.open(&conf).unwrap();
            assert_eq!(host.0.lock().replayed, all, "{mode}");
            let mut new = Vec::new();
            let mut last = 0;
            for seq in (1..=20).map(|n| boot * 1000 + n * 2) {
                let ops: [&[u8]; 3] = [&seq.to_le_bytes(), b"", &[seq as u8; 3000]];
                assert_eq!(deliver(layer, seq, &ops), 0);
                new.extend(ops.iter().zip(0..).map(|(op, index)| (seq, index, op.to_vec())));
                last = seq;
            }
            assert_eq!(deliver(layer, last, &[b"again"]), DURAMEN_E_ARGUMENT);
            assert_eq!(duramen_durable_wait(layer, last, 20_000), 0, "{mode}");
            {
                let seen = host.0.lock();
                assert_eq!(seen.executed, new, "{mode}");
                assert_eq!(seen.released, (1..=20).map(|n| boot * 1000 + n * 2).collect::<Vec<_>>());
                assert_eq!((seen.logged, seen.ended.is_none()), (last, true));
            }
            let reader = Host::new();
            let user = reader.table().user;
            assert_eq!(unsafe { duramen_durable_read(layer, last, Some(replay), user) }, 0);
            assert_eq!(reader.0.lock().replayed, new[57..]);
            assert_eq!(unsafe { duramen_durable_read(layer, 1, Some(replay), user) }, DURAMEN_E_NOT_FOUND);
            all.extend(new);
            close(layer);
        }
    }
}

#[test]
fn a_polling_host_does_rounds_itself() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "poll")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open(&conf).unwrap();
    let fd = duramen_durable_fd(layer);
    assert!(!readable(fd, 0));
    assert_eq!(duramen_durable_poll(layer, 0, 0), 0);
    for seq in 1..=5 {
        assert_eq!(deliver(layer, seq, &[b"op"]), 0);
    }
    assert!(readable(fd, 0) && host.0.lock().executed.is_empty());
    assert_eq!(duramen_durable_wait(layer, 5, 10), DURAMEN_E_TIMEOUT);
    assert_eq!(duramen_durable_poll(layer, 2, 0), 2);
    assert_eq!(host.0.lock().released, [1, 2]);
    assert!(readable(fd, 0));
    host.0.lock().layer = layer.addr();
    assert_eq!(duramen_durable_poll(layer, 0, -1), 3);
    assert_eq!((host.0.lock().released.len(), readable(fd, 0)), (5, false));
    let refused = [DURAMEN_E_REENTRANT, DURAMEN_E_REENTRANT, DURAMEN_E_REENTRANT, 0];
    assert_eq!(host.0.lock().within, refused.repeat(3));
    assert_eq!(duramen_durable_wait(layer, 5, 0), 0);
    let read = |seq| unsafe { duramen_durable_read(layer, seq, Some(replay), host.table().user) };
    assert_eq!((read(1), read(2)), (DURAMEN_E_NOT_FOUND, 0), "a callback gave up the first");
    assert_eq!(duramen_durable_recycle(layer, 6), DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_durable_recycle(layer, 5), 0);
    // Not begun: dropped.
    assert_eq!(deliver(layer, 6, &[b"op"]), 0);
    close(layer);
    assert_eq!(host.0.lock().released.len(), 5);
}

#[test]
fn a_host_that_fails_ends_the_layer_and_nothing_more_is_released() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "poll")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    host.0.lock().fails_at = 2;
    let layer = host.open(&conf).unwrap();
    for seq in 1..=3 {
        assert_eq!(deliver(layer, seq, &[b"op"]), 0);
    }
    assert_eq!(duramen_durable_poll(layer, 0, 0), DURAMEN_E_CALLBACK);
    assert!(message(layer).contains("operation 0 of batch 2"), "{}", message(layer));
    assert_eq!(deliver(layer, 4, &[b"op"]), DURAMEN_E_CALLBACK);
    assert_eq!(duramen_durable_poll(layer, 0, 0), DURAMEN_E_CALLBACK);
    assert_eq!(duramen_durable_wait(layer, 1, 0), 0);
    assert_eq!(duramen_durable_wait(layer, 3, 0), DURAMEN_E_CALLBACK);
    {
        let seen = host.0.lock();
        assert_eq!((seen.released.as_slice(), seen.executed.len()), (&[1][..], 1));
        assert_eq!(seen.logged, 1, "what was released before is told of");
        assert_eq!(seen.ended.as_ref().map(|(code, _)| *code), Some(DURAMEN_E_CALLBACK));
    }
    close(layer);
}

#[test]
fn wrong_arguments_and_wrong_order_have_codes() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "thread")]);
    let host = Host::new();
    assert_eq!(duramen_durable_format(conf.0), 0);
    assert_eq!(duramen_durable_format(conf.0), DURAMEN_E_STATE);
    let mut layer = null_mut();
    let mut open = |table: *const _| unsafe { duramen_durable_open(conf.0, table, &raw mut layer) };
    assert_eq!(open(null()), DURAMEN_E_ARGUMENT);
    let small = duramen_durable_callbacks { struct_size: 48, ..host.table() };
    let bare = duramen_durable_callbacks { release: None, ..host.table() };
    assert_eq!((open(&raw const small), open(&raw const bare)), (DURAMEN_E_ABI, DURAMEN_E_ARGUMENT));
    let layer = host.open(&conf).unwrap();
    assert_eq!(host.open(&conf).err(), Some(DURAMEN_E_BUSY));
    let large = vec![1u8; 600 << 10];
    assert_eq!(deliver(layer, 1, &[&large]), DURAMEN_E_TOO_LARGE);
    assert_eq!(unsafe { duramen_durable_deliver(layer, 1, null(), 1) }, DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_durable_deliver(layer, 1, null(), usize::MAX) }, DURAMEN_E_ARGUMENT);
    assert_eq!(deliver(layer, 0, &[b"x"]), DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_durable_wait(layer, 1, 0), DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_durable_fd(layer), DURAMEN_E_STATE);
    assert_eq!(duramen_durable_poll(layer, 0, 0), DURAMEN_E_STATE);
    assert_eq!(unsafe { duramen_durable_read(layer, 1, None, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_durable_recycle(layer, 1), DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_durable_deliver(layer, 9, null(), 0) }, 0, "an empty batch is one");
    assert_eq!(duramen_durable_wait(layer, 9, 20_000), 0);
    close(layer);
    let metrics = unsafe { duramen_durable_metrics(layer, null_mut(), 0, null_mut()) };
    assert_eq!(
        [
            deliver(layer, 10, &[b"x"]),
            duramen_durable_wait(layer, 9, 0),
            metrics,
            duramen_durable_destroy(layer, 1)
        ],
        [DURAMEN_E_HANDLE; 4]
    );
    // Neither takes the other's log.
    let mut log = null_mut();
    let other = unsafe { duramen_log_open(conf.0, None, null_mut(), &raw mut log) };
    assert_eq!(other, DURAMEN_E_REFUSED);
    let dir = real_dir("capi-durable-");
    conf.set("dir", dir.path().to_str().unwrap());
    assert_eq!(duramen_log_format(conf.0), 0);
    assert_eq!(host.open(&conf).err(), Some(DURAMEN_E_REFUSED));
}

#[test]
fn a_full_layer_goes_on_after_a_recycling() {
    let dir = real_dir("capi-durable-");
    let values = [("callbacks", "thread"), ("segment-mib", "1"), ("segments", "4")];
    let conf = conf(dir.path(), &values);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open(&conf).unwrap();
    let op = vec![3u8; 60 << 10];
    let (mut seq, until) = (1, Instant::now() + Duration::from_secs(60));
    loop {
        assert!(Instant::now() < until);
        match deliver(layer, seq, &[&op]) {
            0 => seq += 1,
            DURAMEN_E_BUSY => assert_eq!(duramen_durable_wait(layer, seq - 1, 20_000), 0),
            code => break assert_eq!(code, DURAMEN_E_NO_SPACE),
        }
    }
    let last = seq - 1;
    assert_eq!(duramen_durable_wait(layer, last, 20_000), 0, "what was taken is done");
    assert_eq!(duramen_durable_recycle(layer, last), 0);
    while deliver(layer, seq, &[&op]) == DURAMEN_E_NO_SPACE {
        assert!(Instant::now() < until, "recycling makes room");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(duramen_durable_wait(layer, seq, 20_000), 0);
    let mut buf = vec![0u8; 8192];
    let mut len = 0;
    assert_eq!(
        unsafe { duramen_durable_metrics(layer, buf.as_mut_ptr().cast(), buf.len(), &raw mut len) },
        0
    );
    let text = std::str::from_utf8(&buf[..len]).unwrap();
    assert!(text.contains(&format!("duramen_durable_done_seq {seq}\n")), "{text}");
    close(layer);
}

#[test]
fn execution_and_logging_share_a_round() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "thread")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    host.0.lock().slow = Duration::from_millis(60);
    let layer = host.open(&conf).unwrap();
    assert_eq!(deliver(layer, 1, &[b"op"]), 0);
    // It is on disk while it still executes, and yet not released.
    let until = Instant::now() + Duration::from_secs(20);
    while host.0.lock().executed.is_empty() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    assert!(host.0.lock().released.is_empty());
    assert_eq!(duramen_durable_wait(layer, 1, 20_000), 0);
    assert_eq!(host.0.lock().released, [1]);
    close(layer);
}

#[test]
#[ignore = "killed by another test"]
fn child_delivers() {
    unsafe extern "C" fn say(_: *mut c_void, seq: u64) {
        println!("released {seq}");
    }
    let dir = std::env::var("DURAMEN_CHILD_DIR").unwrap();
    let conf = conf(Path::new(&dir), &[("callbacks", "thread")]);
    let host = Host::new();
    let (table, mut layer) = (duramen_durable_callbacks { release: Some(say), ..host.table() }, null_mut());
    assert_eq!(unsafe { duramen_durable_open(conf.0, &raw const table, &raw mut layer) }, 0);
    let first = host.0.lock().replayed.last().map_or(1, |(seq, ..)| seq + 1);
    for seq in first.. {
        while deliver(layer, seq, &[&seq.to_le_bytes(), &[1; 500]]) == DURAMEN_E_BUSY {
            std::thread::yield_now();
        }
        if seq % 50 == 0 {
            assert_eq!(duramen_durable_wait(layer, seq, 20_000), 0);
        }
    }
}

#[test]
fn what_was_released_is_replayed_after_the_process_was_killed() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "poll")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let mut before = 0;
    for lines in [5, 120, 33] {
        let test = "capi::durable_tests::child_delivers";
        let released = kill_after(child(test, dir.path()), "released ", lines);
        assert!(released > before);
        let host = Host::new();
        let layer = host.open(&conf).unwrap();
        {
            let replayed = &host.0.lock().replayed;
            before = replayed.last().unwrap().0;
            assert!(before >= released, "{before} of {released}");
            let firsts = replayed.iter().filter(|(_, index, _)| *index == 0);
            let numbers: Vec<_> = firsts.map(|(seq, _, op)| (*seq, op.clone())).collect();
            let whole: Vec<_> = (1..=before).map(|seq| (seq, seq.to_le_bytes().to_vec())).collect();
            assert_eq!(numbers, whole);
            assert_eq!(replayed.len(), 2 * before as usize);
        }
        close(layer);
    }
}

#[test]
fn tiny_and_empty_batches_have_a_bound_and_never_end_the_layer() {
    for mode in ["parallel", "naive", "async"] {
        let dir = real_dir("capi-durable-");
        let values = [("callbacks", "poll"), ("segment-mib", "1"), ("segments", "4"), ("mode", mode)];
        let conf = conf(dir.path(), &values);
        assert_eq!(duramen_durable_format(conf.0), 0);
        let host = Host::new();
        let layer = host.open(&conf).unwrap();
        assert_eq!(deliver(layer, u64::MAX, &[b"x"]), DURAMEN_E_ARGUMENT);
        let many = vec![&b"1"[..]; 70_000];
        assert_eq!(deliver(layer, 1, &many), DURAMEN_E_TOO_LARGE);
        let (mut seq, mut busy, until) = (0u64, 0, Instant::now() + Duration::from_secs(60));
        loop {
            assert!(Instant::now() < until);
            let ops: &[&[u8]] = if seq % 2 == 0 { &[] } else { &[b"1"] };
            match deliver(layer, seq + 1, ops) {
                0 => seq += 1,
                DURAMEN_E_BUSY => {
                    busy += 1;
                    assert!(duramen_durable_poll(layer, 0, 0) > 0, "{mode}: {}", message(layer));
                }
                code => break assert_eq!(code, DURAMEN_E_NO_SPACE, "{mode}: {}", message(layer)),
            }
            // Naive batches take a block each: it is full soon.
            if mode != "naive" && seq == 20_000 {
                break;
            }
        }
        assert!(busy > 1, "{mode}: {seq} at once");
        while duramen_durable_poll(layer, 0, 0) > 0 {}
        while duramen_durable_wait(layer, seq, 10) != 0 {
            assert!(Instant::now() < until);
            assert_eq!(duramen_durable_poll(layer, 0, 0), 0);
        }
        assert!(host.0.lock().ended.is_none());
        close(layer);
    }
}

#[test]
fn what_the_log_says_later_rings_for_a_polling_host() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "poll"), ("mode", "async")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open(&conf).unwrap();
    let fd = duramen_durable_fd(layer);
    for seq in 1..=20 {
        assert_eq!(deliver(layer, seq, &[b"op"]), 0);
        assert_eq!(duramen_durable_poll(layer, 0, 0), 1);
        let until = Instant::now() + Duration::from_secs(20);
        // Nothing but the descriptor says when to poll.
        while host.0.lock().logged < seq {
            assert!(Instant::now() < until && readable(fd, 20_000), "{seq}");
            assert_eq!(duramen_durable_poll(layer, 0, 0), 0);
        }
    }
    close(layer);
}

#[test]
fn a_polling_host_hears_of_room_that_came_back() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "poll"), ("segment-mib", "1"), ("segments", "4")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open(&conf).unwrap();
    let (fd, op, mut seq) = (duramen_durable_fd(layer), vec![3u8; 60 << 10], 1);
    loop {
        match deliver(layer, seq, &[&op]) {
            0 => seq += 1,
            DURAMEN_E_BUSY => assert!(duramen_durable_poll(layer, 0, 0) > 0),
            code => break assert_eq!(code, DURAMEN_E_NO_SPACE),
        }
    }
    while duramen_durable_poll(layer, 0, 0) > 0 {}
    assert_eq!(deliver(layer, seq, &[&op]), DURAMEN_E_NO_SPACE);
    assert!(!readable(fd, 50));
    assert_eq!(duramen_durable_recycle(layer, seq - 1), 0);
    assert_eq!(duramen_durable_poll(layer, 0, 20_000), 0, "room ends the wait");
    assert_eq!(deliver(layer, seq, &[&op]), 0);
    assert!(readable(fd, 0) && duramen_durable_poll(layer, 0, 0) == 1 && !readable(fd, 50));
    close(layer);
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_host_with_a_thread_hears_of_room_that_came_back() {
    let dir = real_dir("capi-durable-");
    let conf = conf(dir.path(), &[("callbacks", "thread"), ("segment-mib", "1"), ("segments", "4")]);
    assert_eq!(duramen_durable_format(conf.0), 0);
    let host = Host::new();
    let layer = host.open_with_room(&conf);
    let told = || host.0.lock().told;
    let (op, mut seq) = (vec![3u8; 60 << 10], 1);
    loop {
        let before = told();
        match deliver(layer, seq, &[&op]) {
            0 => seq += 1,
            DURAMEN_E_BUSY => until("no room after a round", || told() > before),
            code => break assert_eq!(code, DURAMEN_E_NO_SPACE),
        }
    }
    assert_eq!(duramen_durable_wait(layer, seq - 1, 20_000), 0);
    assert_eq!(deliver(layer, seq, &[&op]), DURAMEN_E_NO_SPACE);
    assert_eq!(deliver(layer, seq, &[&op]), DURAMEN_E_NO_SPACE);
    let before = told();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(told(), before, "there is none");
    assert_eq!(duramen_durable_recycle(layer, seq - 1), 0);
    until("no room after a recycling", || told() > before);
    assert_eq!(deliver(layer, seq, &[&op]), 0);
    assert_eq!(duramen_durable_wait(layer, seq, 20_000), 0);
    assert_eq!(told(), before + 1, "once for both");
    close(layer);
}

#[test]
fn what_was_turned_down_may_be_delivered_by_the_callback_that_tells_of_room() {
    for callbacks in ["thread", "poll"] {
        let dir = real_dir("capi-durable-");
        let conf = conf(dir.path(), &[("callbacks", callbacks), ("segment-mib", "1")]);
        assert_eq!(duramen_durable_format(conf.0), 0);
        let host = Host::new();
        host.0.lock().slow = Duration::from_millis(30);
        let layer = host.open_with_room(&conf);
        let (op, mut seq) = (vec![3u8; 60 << 10], 1);
        loop {
            // It may come before the call has returned.
            host.0.lock().again = Some((layer.addr(), seq, op.clone()));
            match deliver(layer, seq, &[&op]) {
                0 => seq += 1,
                code => break assert_eq!(code, DURAMEN_E_BUSY),
            }
        }
        if callbacks == "poll" {
            assert!(host.0.lock().told == 0 && readable(duramen_durable_fd(layer), 0));
            assert_eq!(duramen_durable_poll(layer, 0, 0), seq as i32 - 1);
            assert_eq!(host.0.lock().told, 1);
            assert_eq!(duramen_durable_poll(layer, 0, 0), 1, "which the callback delivered");
            assert!(!readable(duramen_durable_fd(layer), 50));
        }
        until("no room", || !host.0.lock().delivered.is_empty());
        assert_eq!(duramen_durable_wait(layer, seq, 20_000), 0);
        let seen = host.0.lock();
        assert_eq!((seen.told, seen.delivered.as_slice()), (1, &[0][..]));
        assert_eq!(seen.released, (1..=seq).collect::<Vec<_>>(), "{callbacks}");
        drop(seen);
        close(layer);
    }
}

const STUCK: Duration = Duration::from_secs(5);
const ASYNC: &[(&str, &str)] = &[("mode", "async"), ("queue-mib", "1")];

/// A layer with mode = async on a disk that is stuck, and how many batches it takes before it says [`DURAMEN_E_BUSY`] for good: no call lasts,
/// and what the log takes is executed and released.
fn stall(conf: &Conf, host: &Host, polled: bool) -> (*mut duramen_durable, u64) {
    let layer = open_on(Device::stuck(STUCK), conf.0, host.table());
    let (op, mut seq, mut busy_since) = (vec![3u8; 60 << 10], 1, None);
    loop {
        let began = Instant::now();
        let code = deliver(layer, seq, &[&op]);
        let polls = if polled && code == DURAMEN_E_BUSY { duramen_durable_poll(layer, 0, 20) } else { 0 };
        assert!(began.elapsed() < STUCK / 4, "a call took {:?}", began.elapsed());
        assert!(polls >= 0 || polls == DURAMEN_E_BUSY, "{}", message(layer));
        match code {
            0 => (seq, busy_since) = (seq + 1, None),
            code => {
                assert_eq!(code, DURAMEN_E_BUSY, "{}", message(layer));
                let since = busy_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_millis(200) {
                    assert!(!polled || polls == DURAMEN_E_BUSY);
                    break;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    // A queue of 1.5 MiB, what fits into the segment in writes under way, and what waits: half a MiB.
    let taken = seq - 1;
    assert!((8..=100).contains(&taken), "{taken} batches of 60 KiB");
    let seen = host.0.lock();
    assert_eq!((seen.logged, seen.ended.is_none()), (0, true));
    assert_eq!(seen.released, (1..=seen.released.len() as u64).collect::<Vec<_>>());
    assert!((seen.released.len() as u64) < taken, "some wait");
    drop(seen);
    (layer, taken)
}

#[test]
fn a_stuck_disk_bounds_an_asynchronous_layer_which_goes_on_when_it_answers() {
    for callbacks in ["thread", "poll"] {
        let dir = real_dir("capi-durable-");
        let conf = conf(dir.path(), &[ASYNC, &[("callbacks", callbacks)]].concat());
        assert_eq!(duramen_durable_format(conf.0), 0);
        let (host, polled) = (Host::new(), callbacks == "poll");
        let (layer, last) = stall(&conf, &host, polled);
        assert!(!polled || !readable(duramen_durable_fd(layer), 0), "a poll would take nothing");
        assert_eq!(duramen_durable_wait(layer, 1, 0), DURAMEN_E_TIMEOUT);
        // Nothing but the descriptor says when to go on.
        let end = Instant::now() + Duration::from_secs(20);
        while polled && host.0.lock().logged < last {
            assert!(Instant::now() < end && readable(duramen_durable_fd(layer), 20_000));
            let code = duramen_durable_poll(layer, 0, 0);
            assert!(code >= 0 || code == DURAMEN_E_BUSY, "{}", message(layer));
        }
        assert_eq!(duramen_durable_wait(layer, last, 20_000), 0);
        assert_eq!(deliver(layer, last + 1, &[b"and on"]), 0);
        assert!(!polled || duramen_durable_poll(layer, 0, 0) == 1);
        until("it does not go on", || host.0.lock().released.len() as u64 == last + 1);
        close(layer);
    }
}

#[test]
fn destroy_keeps_its_deadline_while_a_disk_is_stuck() {
    for callbacks in ["thread", "poll"] {
        let dir = real_dir("capi-durable-");
        let conf = conf(dir.path(), &[ASYNC, &[("callbacks", callbacks)]].concat());
        assert_eq!(duramen_durable_format(conf.0), 0);
        let host = Host::new();
        let (layer, last) = stall(&conf, &host, callbacks == "poll");
        for deadline in [0, 100, 1] {
            let began = Instant::now();
            assert_eq!(duramen_durable_destroy(layer, deadline), DURAMEN_E_TIMEOUT, "{callbacks}");
            assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
        }
        assert_eq!(deliver(layer, last + 1, &[b"x"]), DURAMEN_E_STATE);
        assert_eq!(duramen_durable_wait(layer, 1, 0), DURAMEN_E_STATE);
        // It answers in the end.
        close(layer);
        let executed = host.0.lock().executed.clone();
        assert!(host.0.lock().ended.is_none() && (executed.len() as u64) < last);
        assert_eq!(deliver(layer, last + 1, &[b"x"]), DURAMEN_E_HANDLE);
        let again = Host::new();
        close(again.open(&conf).unwrap());
        assert!(again.0.lock().replayed == executed, "what was executed was written, and nothing else");
    }
}
