//! Requests that wait for later ones: answered once, where the wait ends, on every replica.

use super::client_table::{ClientTable, ClientTableLimits};
use super::executor::*;
use super::executor_tests::{CLIENT, HASHER, PROCESS, batch, batch_of, open, request};
use crate::service::*;
use crate::types::*;
use crate::wire::batch::*;
use crate::wire::messages::*;

const SPACE: &str = "s";

fn table() -> ClientTable {
    let limits = ClientTableLimits { sessions_per_client_max: 2, replies_max: 3, ..Default::default() };
    ClientTable::new(limits)
}

/// With an empty space, and two sessions; a batch each.
fn started() -> (Executor, SessionId, SessionId) {
    let mut executor = Executor::new(Box::new(TupleSpace::new()), table(), HASHER);
    let (a, b) = (open(&mut executor, 0), open(&mut executor, 1));
    let executed = executor.execute(&batch(3, vec![invoke(b, 1, TupleOperation::Create { space: SPACE })]));
    assert_eq!(replies(&executed), [(b, 1, TupleReply::Ok)]);
    (executor, a, b)
}

fn invoke(session: SessionId, number: u64, operation: TupleOperation<'_>) -> Request<Vec<u8>> {
    request(RequestKind::Invoke, session.0, number, &operation.encode())
}

fn take(session: SessionId, number: u64) -> Request<Vec<u8>> {
    invoke(session, number, TupleOperation::In { space: SPACE, template: &[Pattern::Any], wait_ms: 1000 })
}

fn read(session: SessionId, number: u64) -> Request<Vec<u8>> {
    invoke(session, number, TupleOperation::Rdp { space: SPACE, template: &[Pattern::Any] })
}

fn put(session: SessionId, number: u64, value: i64) -> Request<Vec<u8>> {
    invoke(session, number, TupleOperation::Out { space: SPACE, tuple: &[value.into()] })
}

fn tuple(value: i64) -> TupleReply {
    TupleReply::Tuple(vec![value.into()])
}

fn replies(executed: &Executed) -> Vec<(SessionId, u64, TupleReply)> {
    let told = executed.replies.iter().map(|out| {
        assert_eq!((out.client, out.process, out.reply.status), (CLIENT, PROCESS, ReplyStatus::Done));
        (out.reply.session, out.reply.number.0, TupleReply::decode(&out.reply.body).expect("a reply"))
    });
    told.collect()
}

#[test]
fn a_request_that_waits_is_answered_once_and_a_repetition_gets_the_same() {
    let (mut executor, a, b) = started();
    let waits = executor.execute(&batch(4, vec![take(a, 1)]));
    assert_eq!((replies(&waits), &waits.progress[..]), (vec![], &[(a, RequestNumber(1))][..]));
    // Repeated, in the order and beside it: it waits on, and is not begun again.
    let again = executor.execute(&batch(5, vec![take(a, 1), read(a, 2), take(a, 1)]));
    assert_eq!(replies(&again), [(a, 2, TupleReply::NoMatch)]);
    assert_eq!(executor.resend(CLIENT, a, RequestNumber(1)), None);
    assert_eq!(executor.resend_executed(CLIENT, a, RequestNumber(1)), None);

    let ends = executor.execute(&batch(6, vec![put(b, 2, 7), put(b, 3, 8), take(a, 1)]));
    assert_eq!(replies(&ends)[..3], [(a, 1, tuple(7)), (b, 2, TupleReply::Ok), (b, 3, TupleReply::Ok)]);
    let first = &ends.replies[0].reply;
    assert_eq!(&ends.replies[3].reply, first, "repeated in the same batch");
    assert_eq!(ends.progress, [(b, RequestNumber(3))]);
    assert_eq!(&executor.resend(CLIENT, a, RequestNumber(1)).unwrap().reply, first);
    let left = executor.execute(&batch(7, vec![take(a, 1), read(a, 3)]));
    assert_eq!(replies(&left), [(a, 1, tuple(7)), (a, 3, tuple(8))]);
}

#[test]
fn what_ends_a_wait_is_in_the_reply_chain() {
    let run = |waits: bool| {
        let (mut executor, a, b) = started();
        let begin = if waits { take(a, 1) } else { read(a, 1) };
        let begun = executor.execute(&batch(4, vec![begin]));
        executor.execute(&batch(5, vec![put(b, 2, 7)]));
        (begun.reply_chain, executor.reply_chain(), executor.digest())
    };
    assert_eq!(run(true), run(true));
    let ((begun, ..), (other, ..)) = (run(true), run(false));
    assert_ne!(begun, other);
    let (mut quiet, ..) = started();
    assert_eq!(quiet.execute(&batch(4, vec![])).reply_chain, begun, "nothing was replied");
    quiet.execute(&batch(5, vec![]));
    assert_ne!(run(true).1, quiet.reply_chain());
}

#[test]
fn a_state_with_requests_that_wait_goes_on_elsewhere_as_the_original() {
    let (mut original, a, b) = started();
    original.execute(&batch(4, vec![take(a, 1), read(b, 2)]));
    let mut other = Executor::new(Box::new(TupleSpace::new()), table(), HASHER);
    let frozen = original.freeze();
    let bytes = |snapshot: &dyn Snapshot| {
        let mut bytes = Vec::new();
        snapshot.write_to(&mut bytes).unwrap();
        bytes
    };
    let position = (frozen.seq, frozen.time, frozen.replies);
    let taken = other.take_over(position, |service| {
        service.restore(&mut bytes(&*frozen.state).as_slice())?;
        let mut restored = table();
        restored.restore(&mut bytes(&frozen.table).as_slice()).map(|()| restored)
    });
    taken.unwrap();
    assert_eq!(original.digest(), other.digest());
    for batch in
        [batch(5, vec![take(a, 1)]), batch(6, vec![take(a, 2), put(b, 3, 7)]), batch(7, vec![put(b, 4, 8)])]
    {
        let (here, there) = (original.execute(&batch), other.execute(&batch));
        assert_eq!(here, there);
        assert_eq!(original.digest(), other.digest());
    }
    let resent = |executor: &Executor, number| {
        let reply = executor.resend(CLIENT, a, RequestNumber(number)).expect("answered").reply;
        TupleReply::decode(&reply.body)
    };
    for executor in [&original, &other] {
        assert_eq!((resent(executor, 1), resent(executor, 2)), (Ok(tuple(7)), Ok(tuple(8))));
    }
}

#[test]
fn a_request_that_waits_is_withdrawn_with_its_session_and_only_if_all_wait() {
    let (mut executor, a, b) = started();
    executor.execute(&batch(4, vec![take(a, 1)]));
    executor.execute(&batch(5, vec![read(b, 2)]));
    let c = open(&mut executor, 2);
    assert!(executor.is_open(CLIENT, a) && !executor.is_open(CLIENT, b), "a waits");
    executor.execute(&batch(7, vec![take(c, 1)]));
    let d = open(&mut executor, 3);
    assert!(!executor.is_open(CLIENT, a) && executor.is_open(CLIENT, c), "all wait, a longest");
    let executed = executor.execute(&batch(9, vec![put(d, 1, 7), put(d, 2, 8), read(d, 3)]));
    let expected = [(c, 1, tuple(7)), (d, 1, TupleReply::Ok), (d, 2, TupleReply::Ok), (d, 3, tuple(8))];
    assert_eq!(replies(&executed), expected, "what a waited for is not lost");
}

#[test]
fn a_request_that_waits_is_withdrawn_when_too_many_of_its_session_follow() {
    let (mut executor, a, b) = started();
    executor.execute(&batch(4, vec![take(a, 1)]));
    // Three are kept.
    executor.execute(&batch(5, vec![read(a, 2), read(a, 3), read(a, 4)]));
    let status = executor.resend(CLIENT, a, RequestNumber(1)).map(|out| out.reply.status);
    assert_eq!(status, Some(ReplyStatus::TooOld));
    let executed = executor.execute(&batch(6, vec![put(b, 2, 7), read(b, 3)]));
    assert_eq!(replies(&executed), [(b, 2, TupleReply::Ok), (b, 3, tuple(7))]);
}

#[test]
fn a_request_that_ends_the_wait_it_pushes_out_still_answers_it() {
    let (mut executor, a, _) = started();
    executor.execute(&batch(4, vec![take(a, 1), read(a, 2), read(a, 3)]));
    let executed = executor.execute(&batch(5, vec![put(a, 4, 7)]));
    assert_eq!(replies(&executed), [(a, 1, tuple(7)), (a, 4, TupleReply::Ok)]);
}

#[test]
fn a_wait_ends_with_its_time_which_passes_with_what_is_executed() {
    let (mut executor, a, b) = started();
    let at = |seq, ms: u64, requests| batch_of(seq, ms * 1_000_000, &[(CLIENT, requests)]);
    executor.execute(&at(4, 10, vec![take(a, 1)]));
    assert_eq!(replies(&executor.execute(&at(5, 1009, vec![read(b, 2)]))), [(b, 2, TupleReply::NoMatch)]);
    let executed = executor.execute(&at(6, 1010, vec![put(b, 3, 7), read(b, 4)]));
    let expected = [(a, 1, TupleReply::TimedOut), (b, 3, TupleReply::Ok), (b, 4, tuple(7))];
    assert_eq!(replies(&executed), expected);
}
