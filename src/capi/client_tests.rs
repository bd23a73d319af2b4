//! Clients, as C would use them, of a cluster of sums.

use super::base_tests::message;
use super::client::*;
use super::conf::duramen_conf_destroy;
use super::entry::{catching, out};
use super::handle::DURAMEN_FOREVER;
use super::outcomes::{Outcomes, submitting};
use super::replica_tests::sums;
use super::status::*;
use super::test_cluster::*;
use crate::quorum::FaultModel;
use parking_lot::Mutex;
use std::ffi::c_void;
use std::ptr::{null, null_mut};

/// Outcome, reply, name of the thread.
type Told = (i32, Vec<u8>, Option<String>);

/// What a test's callback writes down.
struct Heard {
    client: *mut duramen_client,
    all: Mutex<Vec<Told>>,
    /// Codes of calls from within.
    within: Mutex<Vec<i32>>,
}

impl Heard {
    fn of(client: *mut duramen_client) -> Self {
        Self { client, all: Mutex::default(), within: Mutex::default() }
    }

    fn user(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn count(&self) -> usize {
        self.all.lock().len()
    }
}

unsafe extern "C" fn hear(user: *mut c_void, outcome: i32, reply: *const c_void, len: usize) {
    let heard = unsafe { &*user.cast::<Heard>() };
    let reply = if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(reply.cast::<u8>(), len) } };
    let thread = std::thread::current().name().map(str::to_owned);
    heard.all.lock().push((outcome, reply.to_vec(), thread));
}

/// Does in the callback what may be done there, and what may not.
unsafe extern "C" fn call_back(user: *mut c_void, outcome: i32, reply: *const c_void, len: usize) {
    let heard = unsafe { &*user.cast::<Heard>() };
    let client = heard.client;
    heard.within.lock().extend([
        duramen_client_destroy(client, 1000),
        duramen_client_poll(client, 0, 0),
        call(client, &1u64.to_le_bytes(), 0).0,
        submit(client, &1u64.to_le_bytes(), 0, heard),
    ]);
    unsafe { hear(user, outcome, reply, len) };
}

fn submit_with(
    client: *mut duramen_client,
    op: &[u8],
    flags: u32,
    cb: unsafe extern "C" fn(*mut c_void, i32, *const c_void, usize),
    heard: &Heard,
) -> i32 {
    unsafe {
        duramen_client_submit(client, op.as_ptr().cast(), op.len(), flags, 20_000, Some(cb), heard.user())
    }
}

fn submit(client: *mut duramen_client, op: &[u8], flags: u32, heard: &Heard) -> i32 {
    submit_with(client, op, flags, hear, heard)
}

fn readable(fd: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}

#[test]
fn a_client_submits_polls_calls_and_ends() {
    let (cluster, _sums) = sums(FaultModel::Byzantine, 4, 64);
    let client = cluster.client(&[]);
    let heard = Heard::of(client);
    let fd = duramen_client_fd(client);
    assert!(fd >= 0 && !readable(fd));
    assert_eq!(duramen_client_poll(client, 0, 0), 0);
    for i in 1..=20u64 {
        assert_eq!(submit(client, &i.to_le_bytes(), 0, &heard), DURAMEN_OK);
    }
    until("the descriptor tells nothing", || readable(fd));
    assert_eq!(heard.count(), 0, "callbacks run in poll alone");
    assert_eq!(duramen_client_poll(client, 1, 1000), 1);
    until("outcomes are missing", || duramen_client_poll(client, 7, 1000) >= 0 && heard.count() == 20);
    assert!(!readable(fd), "nothing waits any more");
    // Writes of one client execute in order.
    let totals: Vec<u64> =
        heard.all.lock().iter().map(|(_, r, _)| u64::from_le_bytes(r[..].try_into().unwrap())).collect();
    assert_eq!(totals, (1..=20u64).map(|i| i * (i + 1) / 2).collect::<Vec<_>>());
    assert!(heard.all.lock().iter().all(|(outcome, ..)| *outcome == DURAMEN_DONE));

    assert_eq!(submit(client, b"", DURAMEN_READ, &heard), DURAMEN_OK);
    until("no answer to a read", || duramen_client_poll(client, 0, 1000) > 0);
    assert_eq!(heard.all.lock()[20].1, 210u64.to_le_bytes());
    assert_eq!(done(client, &5u64.to_le_bytes(), 0), 215u64.to_le_bytes());
    assert_eq!(done(client, b"", DURAMEN_READ), 215u64.to_le_bytes());

    // A reply that does not fit, and what else is wrong.
    let (mut small, mut len, mut outcome) = ([0u8; 3], 0, -1);
    let mut cut = |flags, op: *const c_void, op_len| {
        let at = small.as_mut_ptr().cast();
        let code = unsafe {
            duramen_client_call(client, op, op_len, flags, 0, at, 3, &raw mut len, &raw mut outcome)
        };
        (code, len, outcome)
    };
    assert_eq!(cut(DURAMEN_READ, null(), 0), (DURAMEN_E_BUFFER, 8, DURAMEN_DONE));
    assert_eq!(cut(2, null(), 0).0, DURAMEN_E_ARGUMENT);
    assert_eq!(cut(0, null(), 8), (DURAMEN_E_ARGUMENT, 0, DURAMEN_NOT_EXECUTED));
    let mut ended = -1;
    let (op, none) = (null(), (null_mut(), null_mut()));
    let unwanted =
        unsafe { duramen_client_call(client, op, 0, DURAMEN_READ, 0, none.0, 0, none.1, &raw mut ended) };
    assert_eq!((unwanted, ended), (DURAMEN_OK, DURAMEN_DONE));
    let long = vec![0u8; (1 << 20) + 1];
    assert_eq!(cut(0, long.as_ptr().cast(), long.len()).0, DURAMEN_E_TOO_LARGE);
    assert_eq!(submit(client, &long, 0, &heard), DURAMEN_E_TOO_LARGE);
    let nobody = unsafe { duramen_client_submit(client, null(), 0, 0, 0, None, null_mut()) };
    assert_eq!(nobody, DURAMEN_E_ARGUMENT);

    let metrics = text(|buf, cap, len| unsafe { duramen_client_metrics(client, buf, cap, len) });
    assert!(metrics.contains(r#"duramen_client_requests_total{outcome="done"} 25"#), "{metrics}");
    assert!(metrics.contains("duramen_client_outcomes_waiting 0"), "{metrics}");
    assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_OK);
    assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_E_HANDLE);
    assert_eq!(submit(client, b"", 0, &heard), DURAMEN_E_HANDLE);
    assert_eq!(heard.count(), 21);
}

#[test]
fn a_call_that_fails_says_not_executed_only_where_nothing_was_sent() {
    let (mut outcome, mut len) = (77, 77);
    let none = std::ptr::without_provenance_mut(1 << 40);
    let code =
        unsafe { duramen_client_call(none, null(), 0, 0, 0, null_mut(), 0, &raw mut len, &raw mut outcome) };
    assert_eq!((code, outcome, len), (DURAMEN_E_HANDLE, DURAMEN_NOT_EXECUTED, 0));

    let place = &raw mut outcome;
    let answer = catching(|| {
        let ended = out("outcome", place)?;
        let sent = || {
            assert_eq!(unsafe { place.read() }, DURAMEN_UNKNOWN_OUTCOME);
            panic!("on purpose, after the request left")
        };
        unsafe { telling(&ended, sent) }.map(|_| DURAMEN_OK)
    });
    assert_eq!(answer.unwrap_err().code, DURAMEN_E_INTERNAL);
    assert_eq!(outcome, DURAMEN_UNKNOWN_OUTCOME);

    let ended = out("outcome", &raw mut outcome).unwrap_or_else(|_| unreachable!());
    let refused = unsafe { telling(&ended, || Err(crate::client::SubmitError::Busy { outstanding: 1 })) };
    assert_eq!((refused.unwrap_err().code, outcome), (DURAMEN_E_BUSY, DURAMEN_NOT_EXECUTED));
}

#[test]
fn every_request_that_was_taken_calls_back_once_though_nobody_polls() {
    let (mut cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[("outstanding-max", "10")]);
    let heard = Heard::of(client);
    // Some are answered; then nobody can answer.
    (0..5).for_each(|_| assert_eq!(submit(client, &1u64.to_le_bytes(), 0, &heard), DURAMEN_OK));
    until("nothing ends", || readable(duramen_client_fd(client)));
    (0..3).for_each(|id| cluster.stop(id));
    (0..5).for_each(|_| assert_eq!(submit(client, &1u64.to_le_bytes(), 0, &heard), DURAMEN_OK));
    assert_eq!(submit(client, &1u64.to_le_bytes(), 0, &heard), DURAMEN_E_BUSY);
    assert_eq!(heard.count(), 0);
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    assert_eq!(heard.count(), 10);
    let unknown = heard.all.lock().iter().filter(|(o, ..)| *o == DURAMEN_UNKNOWN_OUTCOME).count();
    let never = heard.all.lock().iter().filter(|(o, ..)| *o == DURAMEN_NOT_EXECUTED).count();
    assert!(unknown + never >= 5, "{:?}", heard.all.lock());
}

#[test]
fn callbacks_run_on_their_thread_and_may_call_what_they_may() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[("callbacks", "thread")]);
    let heard = Heard::of(client);
    assert_eq!(duramen_client_poll(client, 0, 0), DURAMEN_E_STATE);
    assert_eq!(duramen_client_fd(client), DURAMEN_E_STATE);
    assert_eq!(submit_with(client, &1u64.to_le_bytes(), 0, call_back, &heard), DURAMEN_OK);
    until("no callbacks", || heard.count() == 2);
    assert_eq!(*heard.within.lock(), [DURAMEN_E_REENTRANT, DURAMEN_E_REENTRANT, DURAMEN_OK, DURAMEN_OK]);
    assert!(heard.all.lock().iter().all(|(_, _, thread)| thread.as_deref() == Some("duramen-calls")));
    assert_eq!(done(client, b"", DURAMEN_READ), 3u64.to_le_bytes());
    assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_OK);
}

/// Submits the next one, until there were twenty.
unsafe extern "C" fn submit_next(user: *mut c_void, outcome: i32, reply: *const c_void, len: usize) {
    let heard = unsafe { &*user.cast::<Heard>() };
    if heard.count() < 19 {
        heard.within.lock().push(submit_with(heard.client, &1u64.to_le_bytes(), 0, submit_next, heard));
    }
    unsafe { hear(user, outcome, reply, len) };
}

#[test]
fn a_callback_tells_of_the_room_that_a_submit_lacked() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    for callbacks in ["thread", "poll"] {
        let client = cluster.client(&[("callbacks", callbacks), ("outstanding-max", "1")]);
        let heard = Heard::of(client);
        assert_eq!(submit_with(client, &1u64.to_le_bytes(), 0, submit_next, &heard), DURAMEN_OK);
        until("no callbacks", || {
            let polled = callbacks == "thread" || duramen_client_poll(client, 0, 1000) >= 0;
            polled && heard.count() == 20
        });
        assert_eq!(*heard.within.lock(), [DURAMEN_OK; 19], "{callbacks}");
        // It is one at a time: of many at once some are turned down, and each of those has room after a callback.
        let (mut taken, mut refused) = (20, 0);
        while taken < 60 {
            match submit(client, &1u64.to_le_bytes(), 0, &heard) {
                DURAMEN_OK => taken += 1,
                code => {
                    assert_eq!(code, DURAMEN_E_BUSY);
                    refused += 1;
                    until("no room", || {
                        assert!(callbacks == "thread" || duramen_client_poll(client, 0, 1000) >= 0);
                        heard.count() == taken
                    });
                }
            }
        }
        assert!(refused > 0);
        assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_OK);
        assert_eq!(heard.count(), 60);
    }
}

#[test]
fn a_thread_of_callbacks_that_panics_poisons_its_client_and_destroy_runs_the_rest() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[("callbacks", "thread")]);
    let heard = Heard::of(client);
    PANICS.store(client.addr(), std::sync::atomic::Ordering::Relaxed);
    assert_eq!(submit(client, &1u64.to_le_bytes(), 0, &heard), DURAMEN_OK);
    until("the client goes on", || submit(client, b"", DURAMEN_READ, &heard) == DURAMEN_E_POISONED);
    let before = heard.count();
    assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_OK);
    assert!(before == 0 && heard.count() > 0, "{before}, {}", heard.count());
}

#[test]
fn a_ticket_that_is_dropped_after_a_submit_that_panicked_calls_back() {
    let outcomes = Outcomes::new(2, false).unwrap();
    let heard = Heard::of(null_mut());
    let submit = || -> Result<(), ()> { panic!("on purpose") };
    assert!(catching(|| Ok(submitting(submit).map_or(1, |()| 0))).is_err());
    drop(outcomes.expect(hear, heard.user()).unwrap());
    assert_eq!((outcomes.run(9), heard.all.lock()[0].0), (1, DURAMEN_UNKNOWN_OUTCOME));
    // What a submit turns down calls nobody.
    let ticket = outcomes.expect(hear, heard.user()).unwrap();
    let refuse = || {
        drop(ticket);
        Err(())
    };
    assert_eq!((submitting(refuse), outcomes.run(9)), (Err(()), 0));
}

#[test]
fn a_callback_in_poll_may_submit_and_call_but_not_poll() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[]);
    let heard = Heard::of(client);
    assert_eq!(submit_with(client, &1u64.to_le_bytes(), 0, call_back, &heard), DURAMEN_OK);
    assert_eq!(duramen_client_poll(client, 0, 10_000), 1);
    assert_eq!(*heard.within.lock(), [DURAMEN_E_REENTRANT, DURAMEN_E_REENTRANT, DURAMEN_OK, DURAMEN_OK]);
    assert_eq!(duramen_client_poll(client, 0, 10_000), 1);
    assert_eq!(duramen_client_destroy(client, 10_000), DURAMEN_OK);
    assert_eq!(heard.count(), 2);
}

#[test]
fn a_poll_that_waits_ends_with_the_client() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[]).addr();
    let of = move || std::ptr::without_provenance_mut::<duramen_client>(client);
    let poll = std::thread::spawn(move || duramen_client_poll(of(), 0, -1));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(duramen_client_destroy(of(), 10_000), DURAMEN_OK);
    assert!(matches!(poll.join().unwrap(), 0 | DURAMEN_E_STATE | DURAMEN_E_HANDLE));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let cluster = Cluster::new(FaultModel::Crash, 3, 64);
    let open = |values: &[(&str, &str)]| {
        let (conf, mut client) = (cluster.conf(values), std::ptr::without_provenance_mut(1));
        let code = unsafe { duramen_client_open(conf, &raw mut client) };
        assert!(client.is_null());
        assert_eq!(duramen_conf_destroy(conf), DURAMEN_OK);
        (code, message(null::<c_void>()))
    };
    let (code, why) = open(&[("connect-timeout-ms", "200")]);
    assert_eq!(code, DURAMEN_E_UNREACHABLE, "{why}");
    assert_eq!(open(&[("client", "nobody")]).0, DURAMEN_E_CONFIG);
    let (code, why) = open(&[("dir", "/nowhere")]);
    assert_eq!(code, DURAMEN_E_CONFIG);
    assert!(why.contains("/nowhere"), "{why}");
    let conf = conf(&[]);
    assert_eq!(unsafe { duramen_client_open(conf, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_conf_destroy(conf), DURAMEN_OK);
    let mut client = null_mut();
    assert_eq!(unsafe { duramen_client_open(conf, &raw mut client) }, DURAMEN_E_HANDLE);
}
