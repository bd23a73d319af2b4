use super::conf::*;
use super::entry::*;
use super::handle::{self, Ending, Object, Scope};
use super::status::*;
use std::collections::HashSet;
use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What threads share with a handle of the tests.
struct duramen_sample {
    _opaque: (),
}

/// Ends when it may.
struct Sample {
    ending: Option<Ending>,
    slow: Duration,
    told: AtomicBool,
}

impl Object for Sample {
    type Opaque = duramen_sample;
    const KIND: &str = "a sample";

    fn closing(&self) {
        self.told.store(true, Ordering::Release);
    }

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        let slow = self.slow;
        if self.ending.is_none() {
            self.ending = Some(Ending::start(move || std::thread::sleep(slow))?);
        }
        self.ending.as_mut().unwrap().wait(until, "a sample still ends")
    }
}

fn sample(slow: Duration) -> *mut duramen_sample {
    handle::insert(Sample { ending: None, slow, told: false.into() }).unwrap()
}

fn nothing(handle: *const duramen_sample) -> i32 {
    handle::with::<Sample>(handle, |_| Ok(DURAMEN_OK))
}

fn destroy(handle: *mut duramen_sample, ms: u64) -> i32 {
    handle::destroy::<Sample>(handle, ms)
}

pub(super) fn message<T>(handle: *const T) -> String {
    let mut buf = [0u8; 512];
    let n = unsafe { duramen_errmsg(handle.cast(), buf.as_mut_ptr().cast(), buf.len()) };
    String::from_utf8_lossy(&buf[..n]).into_owned()
}

fn set(conf: *mut duramen_conf, key: &str, value: &str) -> (i32, String) {
    let (key, value) = (CString::new(key).unwrap(), CString::new(value).unwrap());
    let mut err = [1u8; 200];
    let code =
        unsafe { duramen_conf_set(conf, key.as_ptr(), value.as_ptr(), err.as_mut_ptr().cast(), err.len()) };
    (code, CStr::from_bytes_until_nul(&err).unwrap().to_str().unwrap().to_owned())
}

fn get(conf: *const duramen_conf, key: &CStr) -> String {
    let (mut buf, mut len) = ([0u8; 100], 0);
    let code =
        unsafe { duramen_conf_get(conf, key.as_ptr(), buf.as_mut_ptr().cast(), buf.len(), &raw mut len) };
    assert_eq!(code, DURAMEN_OK);
    std::str::from_utf8(&buf[..len]).unwrap().to_owned()
}

#[test]
fn codes_and_their_names_are_unique_and_stay() {
    let numbers: HashSet<_> = CODES.iter().map(|(code, ..)| code).collect();
    let names: HashSet<_> = CODES.iter().map(|(_, name, _)| name).collect();
    assert_eq!((numbers.len(), names.len()), (CODES.len(), CODES.len()));
    let told = |code| unsafe { CStr::from_ptr(duramen_errname(code)) }.to_str().unwrap();
    assert_eq!(told(DURAMEN_E_BUSY), "DURAMEN_E_BUSY");
    assert_eq!(told(-12345), "unknown");
    let version: Vec<u32> = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse().unwrap()).collect();
    assert_eq!(duramen_version_number(), version[0] * 1_000_000 + version[1] * 1000 + version[2]);
    // Released numbers.
    let released =
        ["INTERNAL", "HANDLE", "POISONED", "ARGUMENT", "CONFIG", "IO", "NO_SPACE", "DAMAGED", "BUSY"];
    for (i, name) in released.iter().enumerate() {
        assert_eq!(told(-(i as i32) - 1), format!("DURAMEN_E_{name}"));
    }
}

#[test]
fn a_destroyed_handle_is_none_for_ever_though_its_slot_is_used_again() {
    let old = sample(Duration::ZERO);
    assert_eq!((nothing(old), destroy(old, 1000)), (0, 0));
    assert_eq!(destroy(old, 1000), DURAMEN_E_HANDLE);
    for _ in 0..100 {
        let new = sample(Duration::ZERO);
        assert_ne!(new, old);
        assert_eq!((nothing(new), nothing(old)), (0, DURAMEN_E_HANDLE));
        assert_eq!(destroy(new, 1000), 0);
    }
    assert_eq!(nothing(null()), DURAMEN_E_HANDLE);
    assert_eq!(message(null::<c_void>()), "NULL where a sample is expected");
    assert_eq!(nothing(std::ptr::without_provenance(usize::MAX)), DURAMEN_E_HANDLE);
}

#[test]
fn a_handle_of_another_kind_is_named() {
    let conf = duramen_conf_new();
    assert_eq!(nothing(conf.cast()), DURAMEN_E_HANDLE);
    assert_eq!(message(conf), "a configuration where a sample is expected");
    assert_eq!(duramen_conf_destroy(conf), 0);
    assert_eq!(duramen_conf_destroy(conf), DURAMEN_E_HANDLE);
}

#[test]
fn a_panic_becomes_a_code_and_poisons_the_handle_alone() {
    let (poor, other) = (sample(Duration::ZERO), sample(Duration::ZERO));
    let code = handle::with::<Sample>(poor, |_| panic!("on purpose"));
    assert_eq!(code, DURAMEN_E_INTERNAL);
    assert!(
        message(poor).contains("on purpose") && message(poor).contains("base_tests.rs"),
        "{}",
        message(poor)
    );
    assert_eq!((nothing(poor), nothing(other)), (DURAMEN_E_POISONED, 0));
    assert_eq!((destroy(poor, 1000), destroy(other, 1000)), (0, 0));
    assert_eq!(enter(|| panic!("without a handle")), DURAMEN_E_INTERNAL);
}

#[test]
fn destroy_waits_for_calls_up_to_its_deadline() {
    let shared = sample(Duration::ZERO).addr();
    let of = move || std::ptr::without_provenance_mut::<duramen_sample>(shared);
    let inside = std::sync::Arc::new(AtomicBool::new(false));
    let entered = inside.clone();
    let call = std::thread::spawn(move || {
        handle::with::<Sample>(of(), |sample| {
            entered.store(true, Ordering::Release);
            // What blocks returns soon after it is told.
            while !sample.told.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(200));
            Ok(7)
        })
    });
    while !inside.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    assert_eq!(destroy(of(), 20), DURAMEN_E_TIMEOUT);
    assert_eq!(nothing(of()), DURAMEN_E_STATE);
    assert_eq!(destroy(of(), handle::DURAMEN_FOREVER), 0);
    assert_eq!(call.join().unwrap(), 7);
    assert_eq!(nothing(of()), DURAMEN_E_HANDLE);
}

#[test]
fn what_ends_slowly_is_destroyed_in_several_calls() {
    let slow = sample(Duration::from_millis(150));
    assert_eq!(destroy(slow, 0), DURAMEN_E_TIMEOUT);
    assert_eq!(destroy(slow, 10), DURAMEN_E_TIMEOUT);
    assert_eq!(destroy(slow, 10_000), 0);
    assert_eq!(destroy(slow, 10_000), DURAMEN_E_HANDLE);
}

#[test]
fn what_gets_no_thread_to_end_on_ends_on_the_caller_s() {
    let ended_on = std::sync::Arc::new(std::sync::Mutex::new(None));
    let noted = ended_on.clone();
    let end = Box::new(move || *noted.lock().unwrap() = Some(std::thread::current().id()));
    let refuse = |run: handle::Job| {
        drop(run);
        Err(std::io::Error::from_raw_os_error(libc::EAGAIN))
    };
    let mut ending = Ending::start_by(refuse, end);
    assert_eq!(*ended_on.lock().unwrap(), Some(std::thread::current().id()));
    ending.wait(Some(Instant::now()), "it still ends").unwrap();
    ending.wait(None, "it still ends").unwrap();
}

#[test]
fn destroying_a_handle_from_its_own_callback_is_turned_down() {
    let (mine, other) = (sample(Duration::ZERO), sample(Duration::ZERO));
    let within = handle::with::<Sample>(mine, |call| {
        assert!(!call.within && call.not_within("x").is_ok());
        Ok(handle::with::<Sample>(mine, |call| call.not_within("waiting").map(|()| 0)))
    });
    assert_eq!(within, DURAMEN_E_REENTRANT);
    {
        let _callback = Scope::enter(mine.addr());
        assert_eq!(destroy(mine, 1000), DURAMEN_E_REENTRANT);
        assert_eq!(nothing(mine), 0);
        assert_eq!(destroy(other, 1000), 0);
    }
    assert_eq!(destroy(mine, 1000), 0);
}

/// Handles for a destructor of thread-specific data, and what it was told.
struct Late {
    sample: usize,
    conf: usize,
    codes: std::sync::Mutex<Vec<i32>>,
    messages: std::sync::Mutex<String>,
}

unsafe extern "C" fn at_the_thread_s_end(late: *mut c_void) {
    let late = unsafe { &*late.cast::<Late>() };
    let sample = std::ptr::without_provenance_mut::<duramen_sample>(late.sample);
    let conf = std::ptr::without_provenance_mut::<duramen_conf>(late.conf);
    let nothing_lent = std::ptr::without_provenance_mut(1);
    *late.codes.lock().unwrap() = vec![
        nothing(null()),
        nothing(sample),
        unsafe { super::service::duramen_reply_set(nothing_lent, null(), 0) },
        enter(|| panic!("on purpose")),
        destroy(sample, 10_000),
        destroy(sample, 10_000),
        duramen_conf_destroy(conf),
    ];
    *late.messages.lock().unwrap() = message(null::<c_void>()) + &message(sample);
}

#[test]
fn a_thread_s_last_destructors_may_destroy_handles() {
    let late = Late {
        sample: sample(Duration::ZERO).addr(),
        conf: duramen_conf_new().addr(),
        codes: Default::default(),
        messages: "not called".to_owned().into(),
    };
    let mut key = 0;
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(at_the_thread_s_end)) }, 0);
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // All of what the thread keeps is there, and gone before the destructor runs.
                assert_eq!(nothing(std::ptr::without_provenance(late.sample)), DURAMEN_OK);
                let mut reply = super::service::Replying::default();
                super::lent::lend(&mut reply, |_| assert_eq!(nothing(null()), DURAMEN_E_HANDLE));
                assert_ne!(message(null::<c_void>()), "");
                let at = std::ptr::from_ref(&late).cast::<c_void>();
                assert_eq!(unsafe { libc::pthread_setspecific(key, at) }, 0);
            })
            // The destructors, too, have run after this, which leaving the scope does not promise.
            .join()
            .unwrap();
    });
    let codes = late.codes.into_inner().unwrap();
    let (gone, internal) = (DURAMEN_E_HANDLE, DURAMEN_E_INTERNAL);
    assert_eq!(codes, [gone, DURAMEN_OK, gone, internal, DURAMEN_OK, gone, DURAMEN_OK]);
    assert_eq!(late.messages.into_inner().unwrap(), "", "what is kept was not gone: this tests nothing");
    assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
}

unsafe extern "C" fn count_line(user: *mut c_void, _: i32, _: *const std::ffi::c_char) {
    unsafe { &*user.cast::<std::sync::atomic::AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn no_log_callback_takes_the_old_one_away_whatever_the_level() {
    use super::logging::*;
    static LINES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let user = (&raw const LINES).cast_mut().cast::<c_void>();
    let hand = |level, function| unsafe { duramen_set_log_callback(level, function, user) };
    for nothing in [0, -1, i32::MAX, DURAMEN_LOG_INFO] {
        assert_eq!(hand(DURAMEN_LOG_DEBUG, Some(count_line)), DURAMEN_OK);
        assert_eq!(hand(nothing, None), DURAMEN_OK);
        let before = LINES.load(Ordering::Relaxed);
        ::log::error!("to nobody");
        assert_eq!(LINES.load(Ordering::Relaxed), before);
    }
    assert_eq!(hand(0, Some(count_line)), DURAMEN_E_ARGUMENT);
}

#[test]
fn messages_belong_to_a_thread_and_a_handle() {
    let (a, b) = (duramen_conf_new(), duramen_conf_new());
    assert_eq!(set(a, "nonsense", "1").0, DURAMEN_E_CONFIG);
    assert_eq!(set(b, "deadline-ms", "soon").0, DURAMEN_E_CONFIG);
    assert!(message(a).contains("no key \"nonsense\""));
    assert_eq!(message(b), "deadline-ms = \"soon\": must be a whole number from 1 to 86400000");
    assert_eq!(message(null::<c_void>()), message(b));
    let at = a.addr();
    let other = std::thread::spawn(move || message(std::ptr::without_provenance::<c_void>(at)));
    assert_eq!(other.join().unwrap(), "");
    // Cut, with its whole length.
    let mut short = [b'x'; 12];
    let n = unsafe { duramen_errmsg(b.cast(), short.as_mut_ptr().cast(), short.len()) };
    assert_eq!((n, &short), (message(b).len(), b"deadline-ms\0"));
    assert_eq!(unsafe { duramen_errmsg(b.cast(), null_mut(), 0) }, n);
    assert_eq!((duramen_conf_destroy(a), duramen_conf_destroy(b)), (0, 0));
}

#[test]
fn a_configuration_takes_what_its_table_says() {
    let conf = duramen_conf_new();
    assert_eq!((get(conf, c"dir"), get(conf, c"callbacks")), ("duramen-data".into(), "poll".into()));
    assert_eq!(set(conf, "callbacks", "thread"), (0, String::new()));
    assert_eq!(get(conf, c"callbacks"), "thread");
    assert_eq!(set(conf, "callbacks", "threads").1, "callbacks = \"threads\": must be one of poll, thread");
    for wrong in ["", "0", "-1", "+5", "1e3", "99999999999999999999"] {
        assert_eq!(set(conf, "deadline-ms", wrong).0, DURAMEN_E_CONFIG, "{wrong}");
    }
    assert_eq!(set(conf, "insecure", "yes").0, DURAMEN_E_CONFIG);
    let null_key = unsafe { duramen_conf_set(conf, null(), c"x".as_ptr(), null_mut(), 0) };
    assert_eq!(null_key, DURAMEN_E_ARGUMENT);
    let (mut buf, mut len) = ([9u8; 4], 0);
    let small = unsafe { duramen_conf_get(conf, c"dir".as_ptr(), buf.as_mut_ptr().cast(), 4, &raw mut len) };
    assert_eq!((small, len, &buf), (DURAMEN_E_BUFFER, 12, b"dur\0"));
    assert_eq!(duramen_conf_destroy(conf), 0);
}

#[test]
fn a_child_process_after_fork_is_turned_down_without_waiting() {
    let mine = sample(Duration::ZERO);
    // SAFETY: the child calls entries that take no lock, and _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let codes = [nothing(mine), destroy(mine, 1000), duramen_conf_destroy(null_mut())];
        let right = codes == [DURAMEN_E_FORKED; 3] && !duramen_strerror(DURAMEN_E_FORKED).is_null();
        unsafe { libc::_exit(if right { 42 } else { 1 }) };
    }
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 42);
    assert_eq!((nothing(mine), destroy(mine, 1000)), (0, 0));
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Grown {
    struct_size: usize,
    first: u64,
    added_later: u64,
}

// SAFETY: repr(C), starts with struct_size, zeros are a value.
unsafe impl Grows for Grown {
    const FIRST_SIZE: usize = 16;
}

#[test]
fn a_struct_of_an_older_host_reads_as_zero_where_it_ends() {
    let at = |struct_size| Grown { struct_size, first: 5, added_later: 6 };
    let read = |grown: Grown| unsafe { sized("it", &raw const grown) }.map(|g| (g.first, g.added_later));
    assert_eq!(read(at(16)).unwrap(), (5, 0));
    assert_eq!(read(at(24)).unwrap(), (5, 6));
    for small in [0, 8, 15] {
        assert_eq!(read(at(small)).unwrap_err().code, DURAMEN_E_ABI);
    }
    assert_eq!(unsafe { sized::<Grown>("it", null()) }.err().unwrap().code, DURAMEN_E_ARGUMENT);
}

#[test]
fn byte_arguments_are_checked() {
    let read = |at: *const c_void, len| unsafe { bytes("op", at, len) }.map(<[u8]>::len).map_err(|f| f.code);
    assert_eq!(read(null(), 0), Ok(0));
    assert_eq!(read(null(), 1), Err(DURAMEN_E_ARGUMENT));
    assert_eq!(read(b"abc".as_ptr().cast(), 3), Ok(3));
    assert_eq!(read(b"abc".as_ptr().cast(), usize::MAX), Err(DURAMEN_E_ARGUMENT));
    assert_eq!(read(b"abc".as_ptr().cast(), isize::MAX as usize + 1), Err(DURAMEN_E_ARGUMENT));
}
