//! Tables of replies and what they amount to.

use super::reply_votes::*;
use crate::quorum::{FaultModel, Group, VoteSet};
use crate::reply::routing::{full_replier, result_digest};
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::*;
use bytes::Bytes;

const HASHER: Hasher = Hasher { cluster: ClusterId([1; 16]), algorithm: DigestAlgorithm::Blake3 };
const LONG: [u8; 100] = [9; 100];

fn members() -> Group {
    Group::new(FaultModel::Byzantine, 4, 1).unwrap()
}

fn reply(status: ReplyStatus, digest_only: bool, body: &[u8]) -> Reply {
    let body = Bytes::copy_from_slice(body);
    Reply { session: SessionId(1), number: RequestNumber(1), status, digest_only, body }
}

fn done(body: &[u8]) -> Reply {
    reply(ReplyStatus::Done, false, body)
}

fn digest_of(body: &[u8]) -> Reply {
    reply(ReplyStatus::Done, true, &result_digest(&HASHER, body).0)
}

/// Adds them in order and returns the last word.
fn count(replies: &[(u32, Reply)]) -> Count {
    let mut votes = ReplyVotes::default();
    let mut last = Count::Waiting;
    for (from, reply) in replies {
        last = votes.add(members(), &HASHER, ReplicaId(*from), reply.clone(), true);
    }
    last
}

fn decided(body: &[u8]) -> Count {
    Count::Decided(ReplyStatus::Done, Bytes::copy_from_slice(body))
}

fn set(ids: &[u32]) -> VoteSet {
    ids.iter().map(|i| ReplicaId(*i)).collect()
}

#[test]
fn a_quorum_of_equal_replies_decides_and_less_does_not() {
    let too_old = || reply(ReplyStatus::TooOld, false, b"");
    let table = [
        ("two of three", vec![(0, done(b"a")), (1, done(b"a"))], Count::Waiting),
        ("three small", vec![(0, done(b"a")), (1, done(b"a")), (2, done(b"a"))], decided(b"a")),
        ("one replica three times", vec![(0, done(b"a")), (0, done(b"a")), (0, done(b"a"))], Count::Waiting),
        (
            "a liar is outvoted",
            vec![(3, done(b"z")), (0, done(b"a")), (1, done(b"a")), (2, done(b"a"))],
            decided(b"a"),
        ),
        (
            "whole first, digests later",
            vec![(0, done(&LONG)), (1, digest_of(&LONG)), (2, digest_of(&LONG))],
            decided(&LONG),
        ),
        (
            "digests first, whole last",
            vec![(1, digest_of(&LONG)), (2, digest_of(&LONG)), (0, done(&LONG))],
            decided(&LONG),
        ),
        (
            "nobody sends the result",
            vec![(1, digest_of(&LONG)), (2, digest_of(&LONG)), (0, digest_of(&LONG))],
            Count::NeedsBody(set(&[0, 1, 2])),
        ),
        (
            "sent again whole by one who had voted",
            vec![(1, digest_of(&LONG)), (2, digest_of(&LONG)), (0, digest_of(&LONG)), (2, done(&LONG))],
            decided(&LONG),
        ),
        (
            "a false whole result does not pass for the digest",
            vec![(1, digest_of(&LONG)), (2, digest_of(&LONG)), (3, done(&[8; 100])), (0, digest_of(&LONG))],
            Count::NeedsBody(set(&[0, 1, 2])),
        ),
        (
            "a second word under the same status is ignored",
            vec![(3, done(b"z")), (0, done(b"a")), (1, done(b"a")), (3, done(b"a"))],
            Count::Waiting,
        ),
        (
            "done, and later too old: both may count",
            vec![(0, done(b"a")), (0, too_old()), (1, too_old()), (2, too_old())],
            Count::Decided(ReplyStatus::TooOld, Bytes::new()),
        ),
        (
            "a digest of the wrong length is nothing",
            vec![(0, done(b"a")), (1, done(b"a")), (2, reply(ReplyStatus::Done, true, b"short"))],
            Count::Waiting,
        ),
        (
            "two and two",
            vec![(0, done(b"a")), (1, done(b"a")), (2, done(b"b")), (3, done(b"b"))],
            Count::Hopeless,
        ),
        (
            "hopeless before the last spoke",
            vec![(0, done(b"a")), (1, done(b"b")), (2, done(b"c"))],
            Count::Hopeless,
        ),
        ("still open", vec![(0, done(b"a")), (1, done(b"a")), (2, done(b"b"))], Count::Waiting),
    ];
    for (name, replies, expected) in table {
        assert_eq!(count(&replies), expected, "{name}");
    }
}

#[test]
fn without_room_a_long_result_is_counted_by_its_digest() {
    let mut votes = ReplyVotes::default();
    assert_eq!(votes.add(members(), &HASHER, ReplicaId(0), done(&LONG), false), Count::Waiting);
    assert_eq!(votes.kept_bytes(), 0);
    votes.add(members(), &HASHER, ReplicaId(1), digest_of(&LONG), false);
    let count = votes.add(members(), &HASHER, ReplicaId(2), digest_of(&LONG), false);
    assert_eq!(count, Count::NeedsBody(set(&[0, 1, 2])));
    assert_eq!(votes.add(members(), &HASHER, ReplicaId(1), done(&LONG), false), decided(&LONG));
}

#[test]
fn the_whole_result_comes_from_each_replica_in_turn() {
    let repliers: Vec<u32> = (1..=4).map(|n| full_replier(SessionId(77), RequestNumber(n), 4).0).collect();
    let mut sorted = repliers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3], "{repliers:?}");
    assert!((0..4).contains(&full_replier(SessionId(u64::MAX), RequestNumber(u64::MAX), 4).0));
}

fn answer(executed: u64, version: u64, body: &[u8], whole: bool) -> ReadReply {
    ReadReply {
        id: 1,
        view: View(1),
        status: ReadStatus::Done,
        executed: Seq(executed),
        version: Seq(version),
        digest: result_digest(&HASHER, body),
        result: whole.then(|| Bytes::copy_from_slice(body)),
    }
}

/// Replica 0 is the one asked for the result.
fn read(answers: &[(u32, ReadReply)]) -> ReadCount {
    let mut votes = ReadVotes::default();
    let mut last = ReadCount::Waiting;
    for (from, answer) in answers {
        last = votes.add(members(), &HASHER, ReplicaId(*from), ReplicaId(0), answer.clone(), true);
    }
    last
}

#[test]
fn reads_match_on_digest_and_version_or_else_on_the_executed_seq() {
    let decided = ReadCount::Decided(Bytes::from_static(b"v"));
    let a = |executed, version, whole| answer(executed, version, b"v", whole);
    let ordered_only = ReadReply { status: ReadStatus::OrderedOnly, ..a(9, 0, false) };
    let mut forged = a(9, 4, true);
    forged.result = Some(Bytes::from_static(b"w"));
    let table = [
        (
            "equal versions",
            vec![(0, a(9, 4, true)), (1, a(8, 4, false)), (2, a(7, 4, false))],
            decided.clone(),
        ),
        (
            "equal executed",
            vec![(0, a(9, 0, true)), (1, a(9, 0, false)), (2, a(9, 0, false))],
            decided.clone(),
        ),
        (
            "equal value, other version (a, b, a)",
            vec![(0, a(9, 4, true)), (1, a(9, 6, false)), (2, a(9, 4, false))],
            ReadCount::Waiting,
        ),
        (
            "no value can win",
            vec![(0, a(9, 4, true)), (1, a(9, 6, false)), (2, a(9, 4, false)), (3, a(9, 6, false))],
            ReadCount::Ordered,
        ),
        (
            "executed differ",
            vec![(0, a(9, 0, true)), (1, a(8, 0, false)), (2, a(7, 0, false))],
            ReadCount::Ordered,
        ),
        (
            "two may answer ordered reads only",
            vec![(0, a(9, 4, true)), (1, ordered_only.clone()), (2, ordered_only)],
            ReadCount::Ordered,
        ),
        (
            "result still missing",
            vec![(3, a(9, 4, false)), (1, a(9, 4, false)), (2, a(9, 4, false))],
            ReadCount::Waiting,
        ),
        ("result forged", vec![(0, forged), (1, a(9, 4, false)), (2, a(9, 4, false))], ReadCount::Ordered),
        (
            "a result nobody asked for is not kept",
            vec![(3, a(9, 4, true)), (1, a(9, 4, false)), (2, a(9, 4, false))],
            ReadCount::Waiting,
        ),
        (
            "one replica thrice",
            vec![(0, a(9, 4, true)), (0, a(9, 4, true)), (0, a(9, 4, true))],
            ReadCount::Waiting,
        ),
    ];
    for (name, answers, expected) in table {
        assert_eq!(read(&answers), expected, "{name}");
    }
}

#[test]
fn what_a_replica_said_before_its_connection_ended_counts_no_more_and_may_be_said_again() {
    let mut votes = ReplyVotes::default();
    let add = |votes: &mut ReplyVotes, from: u32, body: &[u8]| {
        votes.add(members(), &HASHER, ReplicaId(from), done(body), true)
    };
    assert_eq!(add(&mut votes, 0, b"a"), Count::Waiting);
    assert_eq!(add(&mut votes, 1, b"a"), Count::Waiting);
    votes.forget(ReplicaId(1));
    assert_eq!(add(&mut votes, 2, b"a"), Count::Waiting, "two, not three");
    // In the new era it says something else, and is no liar for it.
    assert_eq!(add(&mut votes, 1, b"b"), Count::Waiting);
    votes.forget(ReplicaId(1));
    assert_eq!(add(&mut votes, 1, b"a"), decided(b"a"));
}
