//! What a batch executes, answers, and leaves behind.

use super::client_table::{ClientTable, ClientTableLimits};
use super::executor::*;
use crate::reply::routing::result_digest;
use crate::service::*;
use crate::types::*;
use crate::wire::batch::*;
use crate::wire::messages::*;
use bytes::Bytes;
use std::io;

pub(super) const HASHER: Hasher = Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 };
pub(super) const CLIENT: ClientId = ClientId(3);
pub(super) const PROCESS: u64 = 0xabc;

/// Replies with everything it was told; a long operation is echoed as it is.
#[derive(Clone, Default)]
struct Echo {
    executed: u64,
}

impl Service for Echo {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        self.executed += 1;
        if operation.len() > 64 {
            return Bytes::copy_from_slice(operation);
        }
        format!("{} {} {} {:x}", self.executed, context.index, context.time, context.seed).into()
    }

    fn query(&self, _: &[u8]) -> QueryReply {
        QueryReply { result: self.executed.to_le_bytes().to_vec().into(), version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(self.clone())
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> Result<(), RestoreError> {
        unreachable!("not restored here")
    }
}

impl Snapshot for Echo {
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.executed.to_le_bytes())
    }

    fn bytes(&self) -> u64 {
        8
    }
}

fn executor() -> Executor {
    let limits = ClientTableLimits { sessions_per_client_max: 2, replies_max: 3, ..Default::default() };
    Executor::new(Box::new(Echo::default()), ClientTable::new(limits), HASHER)
}

pub(super) fn request(kind: RequestKind, session: u64, number: u64, operation: &[u8]) -> Request<Vec<u8>> {
    Request {
        session: SessionId(session),
        number: RequestNumber(number),
        kind,
        operation: operation.to_vec(),
    }
}

fn invoke(session: SessionId, number: u64) -> Request<Vec<u8>> {
    request(RequestKind::Invoke, session.0, number, b"x")
}

pub(super) fn batch_of(seq: u64, time: u64, groups: &[(ClientId, Vec<Request<Vec<u8>>>)]) -> Batch {
    let groups = groups.iter().map(|(client, requests)| {
        let group = Group::build(&HASHER, *client, requests, |_| (AuthKind::Channel, Vec::new()));
        let digest = group.digest(&HASHER);
        (group, digest)
    });
    Batch::build(&HASHER, Seq(seq), WallTime(time), 99, groups.collect())
}

pub(super) fn batch(seq: u64, requests: Vec<Request<Vec<u8>>>) -> Batch {
    batch_of(seq, seq * 10, &[(CLIENT, requests)])
}

fn nonce(i: u64) -> u64 {
    PROCESS << PROCESS_SESSION_BITS | i
}

pub(super) fn open(executor: &mut Executor, i: u64) -> SessionId {
    let seq = executor.executed().0 + 1;
    let executed = executor.execute(&batch(seq, vec![request(RequestKind::Open, 0, nonce(i), b"")]));
    let reply = &executed.replies[0].reply;
    assert_eq!((reply.session, reply.number), (SessionId(0), RequestNumber(nonce(i))));
    assert_eq!(executed.replies[0].process, PROCESS);
    let session = SessionId(u64::from_le_bytes(reply.body[..].try_into().unwrap()));
    assert_eq!(executed.progress, [(session, RequestNumber(0))]);
    session
}

#[test]
fn requests_execute_in_number_order_exactly_once() {
    let mut executor = executor();
    let session = open(&mut executor, 0);
    let executed = executor.execute(&batch(2, vec![invoke(session, 1), invoke(session, 2)]));
    let told: Vec<_> =
        executed.replies.iter().map(|o| (o.reply.number.0, o.reply.status, o.process)).collect();
    assert_eq!(told, [(1, ReplyStatus::Done, PROCESS), (2, ReplyStatus::Done, PROCESS)]);
    assert_eq!(executed.progress, [(session, RequestNumber(2))]);

    let first = executed.replies[0].reply.clone();
    let again = executor.execute(&batch(3, vec![invoke(session, 1), invoke(session, 3)]));
    assert_eq!(again.replies[0].reply, first, "the kept reply");
    assert!(again.replies[1].reply.body.starts_with(b"3 "), "the repeated one did not execute");
    assert_eq!(executor.resend(CLIENT, session, RequestNumber(1)).unwrap().reply, first);
}

#[test]
fn what_does_not_execute_leaves_no_trace_in_the_reply_chain() {
    let (mut a, mut b) = (executor(), executor());
    let session = open(&mut a, 0);
    open(&mut b, 0);
    a.execute(&batch(2, vec![invoke(session, 1)]));
    b.execute(&batch(2, vec![invoke(session, 1)]));

    // A repeated one, one after a gap, one of an unknown session, one of another key: beside one that executes.
    let other = (ClientId(4), vec![invoke(session, 2)]);
    let noise = vec![invoke(session, 1), invoke(session, 9), invoke(SessionId(5), 1), invoke(session, 2)];
    let with_noise = a.execute(&batch_of(3, 30, &[other, (CLIENT, noise)]));
    let shape: Vec<_> =
        with_noise.replies.iter().map(|o| (o.client.0, o.reply.number.0, o.reply.status)).collect();
    assert_eq!(
        shape,
        [
            (4, 2, ReplyStatus::Expired),
            (3, 1, ReplyStatus::Done),
            (3, 1, ReplyStatus::Expired),
            (3, 2, ReplyStatus::Done)
        ]
    );
    assert_eq!(with_noise.replies[0].process, 0, "to all connections of that client");
    assert_eq!(with_noise.replies[2].process, 0);

    b.execute(&batch(3, vec![]));
    assert_ne!(a.reply_chain(), b.reply_chain(), "what executed is in the chain");
    let quiet = a.execute(&batch(4, vec![invoke(session, 1), invoke(session, 40)]));
    assert_eq!(quiet.progress, []);
    let nothing = HASHER.hash(&[&4u64.to_le_bytes()]);
    assert_eq!(quiet.reply_chain, HASHER.chain(&with_noise.reply_chain, &nothing));
}

#[test]
fn equal_batches_give_equal_chains_replies_and_digests() {
    let run = || {
        let mut executor = executor();
        let session = open(&mut executor, 0);
        let long = request(RequestKind::Invoke, session.0, 2, &[5; 300]);
        let executed = executor.execute(&batch(2, vec![invoke(session, 1), long]));
        (executed, executor.digest())
    };
    let ((a, digest_a), (b, digest_b)) = (run(), run());
    assert_eq!(a, b);
    assert_eq!(digest_a, digest_b);
    assert_eq!(a.replies[0].digest, None, "a small result is sent whole");
    assert_eq!(a.replies[1].digest, Some(result_digest(&HASHER, &[5; 300])));
}

#[test]
fn a_result_too_long_to_keep_is_sent_whole_by_everybody() {
    let mut executor = executor();
    let session = open(&mut executor, 0);
    let huge = request(RequestKind::Invoke, session.0, 1, &vec![1; 100_000]);
    let executed = executor.execute(&batch(2, vec![huge]));
    assert_eq!(executed.replies[0].digest, None);
    let again = executor.resend(CLIENT, session, RequestNumber(1)).unwrap();
    assert_eq!((again.reply.status, again.reply.body.len()), (ReplyStatus::TooOld, 0));
}

#[test]
fn replies_no_longer_kept_are_too_old() {
    let mut executor = executor();
    let session = open(&mut executor, 0);
    executor.execute(&batch(2, (1..=4).map(|n| invoke(session, n)).collect()));
    let status = |n| executor.resend(CLIENT, session, RequestNumber(n)).map(|o| o.reply.status);
    assert_eq!(status(1), Some(ReplyStatus::TooOld));
    assert_eq!(status(2), Some(ReplyStatus::Done));
    assert_eq!(status(5), None, "not executed yet");
    assert_eq!(status(9), None);
}

#[test]
fn a_repeated_open_opens_once_and_an_evicted_session_is_expired() {
    let mut executor = executor();
    let session = open(&mut executor, 0);
    let again = executor.execute(&batch(2, vec![request(RequestKind::Open, 0, nonce(0), b"")]));
    assert_eq!(again.replies[0].reply.body[..], session.0.to_le_bytes());
    let resent = executor.resend(CLIENT, SessionId(0), RequestNumber(nonce(0))).unwrap();
    assert_eq!(resent.reply, again.replies[0].reply);
    assert!(executor.resend(CLIENT, SessionId(0), RequestNumber(nonce(8))).is_none());

    open(&mut executor, 1);
    open(&mut executor, 2);
    assert!(!executor.is_open(CLIENT, session), "the quota is two");
    let late = executor.execute(&batch(5, vec![invoke(session, 1)]));
    assert_eq!(late.replies[0].reply.status, ReplyStatus::Expired);
    // Outside the order, too: no later OPEN can give this id.
    let resent = executor.resend(CLIENT, session, RequestNumber(1)).unwrap();
    assert_eq!((resent.process, resent.reply), (0, late.replies[0].reply.clone()));
    // Known as executed, it is not said to be expired: who sent it once would think that it never was executed.
    let executed = executor.resend_executed(CLIENT, session, RequestNumber(1)).unwrap();
    assert_eq!(executed.reply.status, ReplyStatus::TooOld);
}

#[test]
fn time_never_goes_back_and_seeds_differ() {
    let mut executor = executor();
    let session = open(&mut executor, 0);
    executor.execute(&batch_of(2, 500, &[]));
    executor.execute(&Batch::noop(&HASHER, Seq(3)));
    let executed =
        executor.execute(&batch_of(4, 400, &[(CLIENT, vec![invoke(session, 1), invoke(session, 2)])]));
    let told: Vec<Vec<String>> = executed
        .replies
        .iter()
        .map(|o| String::from_utf8_lossy(&o.reply.body).split(' ').map(String::from).collect())
        .collect();
    assert_eq!((told[0][1].as_str(), told[0][2].as_str()), ("0", "500"));
    assert_eq!((told[1][1].as_str(), told[1][2].as_str()), ("1", "500"));
    assert_ne!(told[0][3], told[1][3]);
    assert_eq!(executor.time(), WallTime(500));
}

#[test]
fn noops_of_replicas_are_reported_and_kinds_in_the_wrong_place_do_nothing() {
    let mut executor = executor();
    let replica = ClientId::of_replica(ReplicaId(2));
    let groups = [
        (replica, vec![request(RequestKind::Noop, 0, 77, b""), request(RequestKind::Open, 0, 1, b"")]),
        (CLIENT, vec![request(RequestKind::Noop, 0, 5, b"")]),
    ];
    let executed = executor.execute(&batch_of(1, 0, &groups));
    assert_eq!(executed.noops, [(ReplicaId(2), 77)]);
    assert!(executed.replies.is_empty() && executed.progress.is_empty());
}

#[test]
fn progress_names_each_session_once_with_its_highest_number() {
    let mut executor = executor();
    let (a, b) = (open(&mut executor, 0), open(&mut executor, 1));
    let mixed = vec![invoke(a, 1), invoke(b, 1), invoke(a, 2), invoke(b, 2), invoke(a, 3)];
    let executed = executor.execute(&batch(3, mixed));
    assert_eq!(executed.progress, [(a, RequestNumber(3)), (b, RequestNumber(2))]);
}

#[test]
#[should_panic(expected = "follows")]
fn a_batch_out_of_sequence_is_our_own_mistake() {
    executor().execute(&Batch::noop(&HASHER, Seq(2)));
}

#[test]
fn a_replica_behind_a_session_s_open_does_not_call_the_session_expired() {
    let (mut ahead, mut behind) = (executor(), executor());
    let first = open(&mut ahead, 0);
    open(&mut behind, 0);
    let second = open(&mut ahead, 1);
    assert_eq!(behind.resend(CLIENT, second, RequestNumber(1)), None, "its OPEN is still to come");
    open(&mut behind, 1);
    assert_eq!(behind.resend(CLIENT, second, RequestNumber(1)), None, "it is open, the request is next");

    let next = SessionId(((behind.executed().0 + 1) << 20) | 1);
    assert_eq!(behind.resend(CLIENT, next, RequestNumber(1)), None, "the next batch may open it");
    open(&mut behind, 2);
    let status = behind.resend(CLIENT, first, RequestNumber(1)).map(|o| o.reply.status);
    assert_eq!(status, Some(ReplyStatus::Expired), "evicted");
}
