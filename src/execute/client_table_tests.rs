use bytes::Bytes;

use super::client_table::*;
use crate::service::{RestoreError, Snapshot, Waiter};
use crate::types::*;

const ALICE: ClientId = ClientId(1);
const BOB: ClientId = ClientId(2);

fn small() -> ClientTable {
    ClientTable::new(ClientTableLimits {
        sessions_per_client_max: 3,
        replies_max: 4,
        replies_bytes_max: 100,
        reply_bytes_max: 50,
        client_replies_bytes_max: 150,
    })
}

/// Executes the session's next request in batch `seq`.
fn execute(table: &mut ClientTable, client: ClientId, session: SessionId, seq: u64, reply: &'static [u8]) {
    let number = table.last_executed(session).expect("open").next();
    assert_eq!(table.check(client, session, number), Verdict::Execute);
    table.store(session, number, Seq(seq), Bytes::from_static(reply));
}

fn bytes_of(table: &ClientTable) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, table.bytes());
    bytes
}

fn kept(table: &ClientTable, session: SessionId, number: u64) -> Option<(u64, &[u8])> {
    match table.check(ALICE, session, RequestNumber(number)) {
        Verdict::Duplicate(reply) => reply.map(|reply| (reply.seq.0, &*reply.result)),
        verdict => panic!("request {number} is {verdict:?}"),
    }
}

#[test]
fn a_session_executes_its_requests_once_and_in_number_order() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(5), 2);
    assert_eq!(s, SessionId((5 << 20) | 3));
    assert_eq!(table.last_executed(s), Some(RequestNumber(0)));
    assert_eq!(table.check(ALICE, s, RequestNumber(2)), Verdict::Gap);
    assert_eq!(table.check(ALICE, s, RequestNumber(u64::MAX)), Verdict::Gap);
    execute(&mut table, ALICE, s, 6, b"one");
    execute(&mut table, ALICE, s, 8, b"two");
    assert_eq!(kept(&table, s, 1), Some((6, &b"one"[..])));
    assert_eq!(kept(&table, s, 2), Some((8, &b"two"[..])));
    assert_eq!(table.check(ALICE, s, RequestNumber(3)), Verdict::Execute);
    assert_eq!(table.check(ALICE, s, RequestNumber(4)), Verdict::Gap);
    assert_eq!(kept(&table, s, 0), None, "there is no request 0");
}

#[test]
fn a_session_serves_only_the_key_that_opened_it() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(1), 0);
    assert_eq!(table.check(BOB, s, RequestNumber(1)), Verdict::Expired);
    assert_eq!(table.check(ALICE, SessionId(0), RequestNumber(1)), Verdict::Expired);
    assert_eq!(table.check(ALICE, SessionId(s.0 + 1), RequestNumber(1)), Verdict::Expired);
    assert_eq!(table.last_executed(SessionId(s.0 + 1)), None);
}

#[test]
fn a_retransmitted_open_opens_once() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(1), 0);
    execute(&mut table, ALICE, s, 2, b"x");
    let before = bytes_of(&table);
    assert_eq!(table.open(ALICE, 7, Seq(3), 0), s);
    assert_eq!(bytes_of(&table), before);
    assert_ne!(table.open(ALICE, 8, Seq(3), 1), s);
    assert_ne!(table.open(BOB, 7, Seq(3), 2), s, "another key's nonces are its own");
    assert_eq!(table.sessions(), 3);
}

#[test]
fn the_least_recently_used_session_of_the_same_key_makes_room() {
    let mut table = small();
    let bobs = table.open(BOB, 0, Seq(1), 0);
    let [a, b, c] = [0, 1, 2].map(|i| table.open(ALICE, i, Seq(2), i as u32));
    execute(&mut table, ALICE, a, 3, b"x");
    let d = table.open(ALICE, 3, Seq(4), 0);
    assert_eq!(
        table.check(ALICE, b, RequestNumber(1)),
        Verdict::Expired,
        "b and c are as old, b has the lower id"
    );
    execute(&mut table, ALICE, c, 5, b"x");
    let e = table.open(ALICE, 4, Seq(6), 0);
    assert_eq!(table.check(ALICE, a, RequestNumber(2)), Verdict::Expired);
    for open in [c, d, e] {
        assert!(table.last_executed(open).is_some());
    }
    assert_eq!(table.check(BOB, bobs, RequestNumber(1)), Verdict::Execute, "others pay nothing");
    assert_eq!(table.sessions(), 4);
}

#[test]
fn an_evicted_session_never_comes_back() {
    let mut table = small();
    let s = table.open(ALICE, 0, Seq(1), 0);
    execute(&mut table, ALICE, s, 2, b"x");
    (1..4).for_each(|nonce| {
        table.open(ALICE, nonce, Seq(2), nonce as u32);
    });
    // Its OPEN and its request 1, replayed.
    let again = table.open(ALICE, 0, Seq(9), 0);
    assert_ne!(again, s);
    assert_eq!(table.check(ALICE, s, RequestNumber(1)), Verdict::Expired);
}

#[test]
fn ids_stay_unique_in_a_batch_of_any_length() {
    let mut table = ClientTable::new(ClientTableLimits::default());
    let places = [(1, 0), (1, 1 << 20), (1, u32::MAX), (2, 0), (2, 1), (5_000, 0)];
    let ids: Vec<_> =
        (0..).zip(places).map(|(i, (seq, index))| table.open(ALICE, i, Seq(seq), index)).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert_eq!(ids[5], SessionId((5_000 << 20) | 1));
}

#[test]
fn replies_are_kept_up_to_their_number_their_bytes_and_their_length() {
    let mut table = small();
    let s = table.open(ALICE, 0, Seq(1), 0);
    for i in 1..=6 {
        execute(&mut table, ALICE, s, i, b"short");
    }
    assert_eq!(
        [1, 2, 3, 6].map(|n| kept(&table, s, n).is_some()),
        [false, false, true, true],
        "four replies"
    );
    // 7: too long, so known as executed only; 8 and 9: 80 bytes; 10: 120 with them.
    execute(&mut table, ALICE, s, 7, &[0; 51]);
    execute(&mut table, ALICE, s, 8, &[0; 40]);
    execute(&mut table, ALICE, s, 9, &[0; 40]);
    assert_eq!([6, 7, 8, 9].map(|n| kept(&table, s, n).is_some()), [true, false, true, true]);
    execute(&mut table, ALICE, s, 10, &[0; 40]);
    assert_eq!([7, 8, 9, 10].map(|n| kept(&table, s, n).is_some()), [false, false, true, true]);
}

#[test]
fn a_clone_stays_as_it_was() {
    let mut table = small();
    let s = table.open(ALICE, 0, Seq(1), 0);
    execute(&mut table, ALICE, s, 2, b"x");
    let (clone, before) = (table.clone(), bytes_of(&table));
    execute(&mut table, ALICE, s, 3, b"y");
    table.open(ALICE, 1, Seq(4), 0);
    assert_eq!(bytes_of(&clone), before);
    assert_ne!(bytes_of(&table), before);
}

/// The session's next request waits; it stands first in batch `seq`.
fn wait(table: &mut ClientTable, client: ClientId, session: SessionId, seq: u64) -> Waiter {
    let number = table.last_executed(session).expect("open").next();
    assert_eq!(table.check(client, session, number), Verdict::Execute);
    table.wait(session, number, Seq(seq), 0);
    assert_eq!(table.check(client, session, number), Verdict::Waits);
    Waiter { session, seq: Seq(seq), index: 0 }
}

#[test]
fn a_request_waits_until_it_is_answered_and_its_reply_is_kept_like_any() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(1), 0);
    let first = wait(&mut table, ALICE, s, 2);
    execute(&mut table, ALICE, s, 3, b"two");
    let second = wait(&mut table, ALICE, s, 4);
    let other = Waiter { index: 1, ..first };
    assert_eq!(table.answer(&other, Seq(5), Bytes::new()), None);
    assert_eq!(table.answer(&Waiter { session: SessionId(5), ..first }, Seq(5), Bytes::new()), None);
    let mut restored = small();
    restored.restore(&mut bytes_of(&table).as_slice()).unwrap();
    for table in [&mut table, &mut restored] {
        let answered = table.answer(&second, Seq(6), Bytes::from_static(b"three"));
        assert_eq!(answered, Some((ALICE, RequestNumber(3))));
        assert_eq!(table.check(ALICE, s, RequestNumber(1)), Verdict::Waits);
        assert_eq!(kept(table, s, 3), Some((6, &b"three"[..])));
        assert_eq!(table.answer(&second, Seq(6), Bytes::new()), None, "once");
        let answered = table.answer(&first, Seq(7), Bytes::from_static(&[0; 51]));
        assert_eq!(answered, Some((ALICE, RequestNumber(1))));
        assert_eq!(kept(table, s, 1), None, "too long to keep");
        assert_eq!(table.take_abandoned(), []);
    }
    assert_eq!(bytes_of(&table), bytes_of(&restored));
}

#[test]
fn a_session_with_a_request_that_waits_is_evicted_after_all_others() {
    let mut table = small();
    let [a, b, c] = [0, 1, 2].map(|i| table.open(ALICE, i, Seq(1), i as u32));
    let of_a = wait(&mut table, ALICE, a, 2);
    let of_b = wait(&mut table, ALICE, b, 3);
    execute(&mut table, ALICE, c, 4, b"x");
    let d = table.open(ALICE, 3, Seq(5), 0);
    assert_eq!(table.check(ALICE, c, RequestNumber(2)), Verdict::Expired, "the others wait");
    assert_eq!(table.take_abandoned(), []);
    let of_d = wait(&mut table, ALICE, d, 6);
    table.open(ALICE, 4, Seq(7), 0);
    assert_eq!(table.check(ALICE, a, RequestNumber(1)), Verdict::Expired, "of those that wait the oldest");
    assert_eq!(table.take_abandoned(), [of_a]);
    assert_eq!(table.answer(&of_a, Seq(8), Bytes::new()), None);
    // Answered, it is used last, and evicted in its turn.
    assert_eq!(table.answer(&of_b, Seq(8), Bytes::new()), Some((ALICE, RequestNumber(1))));
    table.open(ALICE, 5, Seq(9), 0);
    assert!(table.last_executed(b).is_some(), "the one of batch 7 was used before");
    table.open(ALICE, 6, Seq(10), 0);
    assert_eq!(table.last_executed(b), None);
    assert_eq!((table.last_executed(d), table.sessions()), (Some(RequestNumber(1)), 3));
    assert_eq!(table.answer(&of_d, Seq(11), Bytes::new()), Some((ALICE, RequestNumber(1))));
}

#[test]
fn replies_of_many_bytes_push_out_replies_and_only_many_requests_one_that_waits() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(1), 0);
    let waiter = wait(&mut table, ALICE, s, 2);
    for seq in 3..6 {
        execute(&mut table, ALICE, s, seq, &[0; 50]);
    }
    assert_eq!(kept(&table, s, 2), None, "150 bytes are too many");
    assert_eq!(table.check(ALICE, s, RequestNumber(1)), Verdict::Waits);
    assert_eq!(table.take_abandoned(), []);
    execute(&mut table, ALICE, s, 6, b"x");
    assert_eq!(kept(&table, s, 1), None);
    assert_eq!(table.take_abandoned(), [waiter]);
    assert_eq!(table.take_abandoned(), []);
    assert_eq!(table.answer(&waiter, Seq(7), Bytes::new()), None);
    // Many bytes of the key's other sessions do the same.
    let waiter = wait(&mut table, ALICE, s, 7);
    let others = table.open(ALICE, 8, Seq(8), 0);
    for seq in 9..13 {
        execute(&mut table, ALICE, others, seq, &[0; 50]);
    }
    assert_eq!(table.check(ALICE, s, RequestNumber(6)), Verdict::Waits);
    assert!(table.answer(&waiter, Seq(14), Bytes::from_static(&[0; 50])).is_some());
    assert!(kept(&table, s, 6).is_some());
    let mut restored = small();
    restored.restore(&mut bytes_of(&table).as_slice()).unwrap();
    assert_eq!(bytes_of(&restored), bytes_of(&table));
}

#[test]
fn the_reply_of_one_that_waited_pushes_out_older_ones_and_not_itself() {
    let mut table = small();
    let s = table.open(ALICE, 7, Seq(1), 0);
    let waiter = wait(&mut table, ALICE, s, 2);
    for seq in 3..5 {
        execute(&mut table, ALICE, s, seq, if seq == 3 { &[3; 50] } else { &[4; 50] });
    }
    // 150 bytes are too many, and it stands before the others.
    assert!(table.answer(&waiter, Seq(9), Bytes::from_static(&[9; 50])).is_some());
    assert_eq!(kept(&table, s, 1), Some((9, &[9; 50][..])));
    assert_eq!(kept(&table, s, 2), None);
    assert_eq!(kept(&table, s, 3), Some((4, &[4; 50][..])));
    let mut restored = small();
    restored.restore(&mut bytes_of(&table).as_slice()).unwrap();
    assert_eq!(bytes_of(&restored), bytes_of(&table));
    execute(&mut table, ALICE, s, 10, &[10; 50]);
    execute(&mut restored, ALICE, s, 10, &[10; 50]);
    assert_eq!((kept(&table, s, 3), kept(&table, s, 1).is_some()), (None, true));
    assert_eq!(bytes_of(&restored), bytes_of(&table));
}

/// What a run carries over to the next.
#[derive(Clone, Default)]
struct Known {
    opened: Vec<SessionId>,
    waiting: Vec<Waiter>,
}

/// Random OPENs and requests, some of them out of turn, some of which wait; returns all answers. `known` carries over to the next call.
fn run(table: &mut ClientTable, known: &mut Known, seed: u64, steps: std::ops::Range<u64>) -> Vec<String> {
    let mut said = Vec::new();
    let Known { opened, waiting } = known;
    for i in steps {
        let mut random = seed ^ i.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut below = |n: u64| {
            random = (random ^ (random >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (random >> 33) % n
        };
        let (client, seq) = (ClientId(below(3) as u32), Seq(i / 4 + 1));
        if below(10) == 0 {
            opened.push(table.open(client, below(20), seq, (i % 4) as u32));
            said.push(format!("{:?} without {:?}", opened.last(), table.take_abandoned()));
            continue;
        }
        if below(40) == 0 && !waiting.is_empty() {
            let waiter = waiting.swap_remove(below(waiting.len() as u64) as usize);
            let answered = table.answer(&waiter, seq, vec![i as u8; below(60) as usize].into());
            said.push(format!("answered {answered:?}"));
            continue;
        }
        // One of the last opened: live or evicted, this key's or another's.
        let back = opened.len() - opened.len().min(below(12) as usize + 1);
        let session = opened.get(back).copied().unwrap_or_default();
        let last = table.last_executed(session).unwrap_or_default();
        let number = RequestNumber((last.0 + below(4)).saturating_sub(below(8) / 2 % 3));
        let verdict = table.check(client, session, number);
        said.push(format!("{verdict:?}"));
        if verdict == Verdict::Execute {
            if below(4) == 0 {
                table.wait(session, number, seq, (i % 4) as u32);
                waiting.push(Waiter { session, seq, index: (i % 4) as u32 });
            } else {
                table.store(session, number, seq, vec![i as u8; below(60) as usize].into());
            }
            said.extend(table.take_abandoned().iter().map(|waiter| format!("without {waiter:?}")));
        }
    }
    said
}

#[test]
fn replicas_agree_and_a_restored_one_goes_on_as_they_do() {
    let mut all_said = Vec::new();
    for seed in 1..=5 {
        let (mut a, mut b, mut restored) = (small(), small(), small());
        let [mut by_a, mut by_b, mut by_other] = [(); 3].map(|()| Known::default());
        assert_eq!(run(&mut a, &mut by_a, seed, 0..3_000), run(&mut b, &mut by_b, seed, 0..3_000));
        run(&mut restored, &mut by_other, seed + 100, 0..500);
        let mut by_restored = by_a.clone();
        restored.restore(&mut bytes_of(&a).as_slice()).unwrap();
        assert_eq!(bytes_of(&restored), bytes_of(&a), "seed {seed}");
        let said = run(&mut a, &mut by_a, seed, 3_000..6_000);
        assert_eq!(said, run(&mut b, &mut by_b, seed, 3_000..6_000), "seed {seed}");
        assert_eq!(said, run(&mut restored, &mut by_restored, seed, 3_000..6_000), "seed {seed}");
        for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha512] {
            assert_eq!(a.digest(algorithm), algorithm.hash(&[&bytes_of(&b)]));
            assert_eq!(a.digest(algorithm), restored.digest(algorithm));
        }
        all_said.extend(said);
    }
    let words = ["Execute", "Duplicate(Some", "Duplicate(None", "Gap", "Expired", "Waits", "answered Some"];
    for word in words.into_iter().chain(["answered None", "without Waiter"]) {
        assert!(all_said.iter().any(|line| line.contains(word)), "no {word} in the test");
    }
}

#[test]
fn bytes_that_are_no_table_are_refused_and_change_nothing() {
    let mut table = small();
    run(&mut table, &mut Known::default(), 1, 0..300);
    let good = bytes_of(&table);
    for cut in 0..good.len() {
        assert!(
            matches!(table.restore(&mut &good[..cut]), Err(RestoreError::Truncated { .. })),
            "cut to {cut}"
        );
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(table.restore(&mut longer.as_slice()), Err(RestoreError::Malformed { .. })));
    for bit in 0..good.len() * 8 {
        let mut bent = good.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        let mut other = small();
        // What is taken must be a table that is written the same.
        if other.restore(&mut bent.as_slice()).is_ok() {
            assert_eq!(bytes_of(&other), bent, "bit {bit}");
        }
    }
    assert_eq!(bytes_of(&table), good);
}

#[test]
fn tables_that_never_come_about_are_refused() {
    let mut table = small();
    let a = table.open(ALICE, 1, Seq(1), 0);
    table.open(ALICE, 2, Seq(1), 1);
    execute(&mut table, ALICE, a, 2, b"x");
    let good = bytes_of(&table);
    // Header 24; session a: id 24, client 32, nonce 36, used 44, last 52, replies 60, reply 64..77; the other: id 77, client 85, nonce 89.
    let bad = [
        (7, 2, "another format"),
        (8, 0, "an id above the last given"),
        (16, 1, "fewer sessions than there are"),
        (52, 0, "a reply to no request"),
        (77, 1, "an id twice"),
        (77, 0, "ids in descending order"),
        (89, 1, "a nonce twice"),
    ];
    for (at, byte, what) in bad {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let error = table.restore(&mut bytes.as_slice());
        assert!(matches!(error, Err(RestoreError::Malformed { .. })), "{what}: {error:?}");
    }
    let mut huge = good.clone();
    huge[64..68].copy_from_slice(&(u32::MAX - 2).to_le_bytes());
    assert!(matches!(table.restore(&mut huge.as_slice()), Err(RestoreError::Truncated { .. })));
    assert_eq!(bytes_of(&table), good);
}

#[test]
fn kept_replies_of_a_key_are_bounded_and_the_longest_unused_lose_theirs_first() {
    let mut table = small();
    let [a, b, c] = [0, 1, 2].map(|i| table.open(ALICE, i, Seq(1), i as u32));
    let bobs = table.open(BOB, 0, Seq(1), 3);
    execute(&mut table, ALICE, a, 2, &[1; 40]);
    execute(&mut table, ALICE, a, 3, &[2; 40]);
    execute(&mut table, ALICE, b, 4, &[3; 40]);
    execute(&mut table, BOB, bobs, 4, &[9; 50]);
    // 150 bytes would be exceeded by 10: the first reply of `a` goes.
    execute(&mut table, ALICE, c, 5, &[4; 40]);
    assert!(kept(&table, a, 1).is_none() && kept(&table, a, 2).is_some());
    // Used again, `a` is the last to lose; `b` is the first, though it came later.
    execute(&mut table, ALICE, a, 6, &[5; 40]);
    assert!(kept(&table, b, 1).is_none());
    assert!(kept(&table, a, 2).is_some() && kept(&table, a, 3).is_some() && kept(&table, c, 1).is_some());
    assert!(
        matches!(table.check(BOB, bobs, RequestNumber(1)), Verdict::Duplicate(Some(_))),
        "others lose none"
    );
    // A table restored from the bytes drops the same from here on.
    let mut restored = small();
    restored.restore(&mut bytes_of(&table).as_slice()).unwrap();
    for table in [&mut table, &mut restored] {
        execute(table, ALICE, b, 7, &[6; 50]);
        table.open(ALICE, 3, Seq(8), 0);
        execute(table, ALICE, b, 9, &[7; 50]);
    }
    assert_eq!(bytes_of(&table), bytes_of(&restored));
}

/// The rule as it reads, without an index.
#[test]
fn the_index_evicts_what_a_look_at_all_sessions_would() {
    static ZEROS: [u8; 30] = [0; 30];
    let mut table = small();
    let mut model: Vec<(SessionId, u64)> = Vec::new();
    let mut random = 7u64;
    for seq in 1..3_000u64 {
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        let pick = (random >> 33) as usize;
        if pick.is_multiple_of(4) {
            if model.len() == 3 {
                let oldest = *model.iter().min_by_key(|(id, used)| (*used, *id)).unwrap();
                model.retain(|s| *s != oldest);
            }
            model.push((table.open(ALICE, seq, Seq(seq), 0), seq));
        } else if !model.is_empty() {
            let i = pick / 4 % model.len();
            execute(&mut table, ALICE, model[i].0, seq, &ZEROS[..pick % 31]);
            model[i].1 = seq;
        }
        assert_eq!(table.sessions(), model.len());
        for (id, _) in &model {
            assert!(table.last_executed(*id).is_some(), "step {seq}");
        }
    }
}
