use super::linearizable::*;
use crate::service::KvReply;
use crate::sim::operations::{self, Kind};
use crate::sim::random::Random;
use bytes::Bytes;
use std::collections::BTreeMap;

const GET: u8 = 0;
const PUT: u8 = 3 << 3;
const DELETE: u8 = 5 << 3;
const CREATE: u8 = 6 << 3;

fn call(kind: u8, value: &str, called: u64, returned: Option<(u64, KvReply)>) -> Call {
    let operation = [&[kind][..], value.as_bytes()].concat();
    Call { operation, called, returned }
}

fn put(value: &str, called: u64, returned: u64) -> Call {
    call(PUT, value, called, Some((returned, KvReply::Ok)))
}

fn get(value: &'static str, called: u64, returned: u64) -> Call {
    call(GET, "", called, Some((returned, found(value))))
}

fn found(value: &'static str) -> KvReply {
    if value.is_empty() { KvReply::NotFound } else { KvReply::Value(Bytes::from_static(value.as_bytes())) }
}

fn refused(calls: &[Call]) -> bool {
    matches!(check(calls), Verdict::Refused(_))
}

#[test]
fn a_key_alone_stands_for_its_get() {
    for key in 0..operations::KEYS {
        assert_eq!(operations::read(&[key]), (key, Kind::Get));
    }
}

#[test]
fn one_after_the_other_is_explained() {
    let deleted = call(DELETE, "", 5, Some((6, KvReply::Ok)));
    let calls = [put("a", 1, 2), get("a", 3, 4), deleted, get("", 7, 8)];
    assert_eq!(check(&calls), Verdict::Linearizable);
    assert_eq!(check(&[]), Verdict::Linearizable);
}

#[test]
fn a_stale_read_is_refused() {
    assert!(refused(&[put("a", 1, 2), put("b", 3, 4), get("a", 5, 6)]));
    assert!(refused(&[put("a", 1, 2), get("", 3, 4)]));
}

#[test]
fn a_read_beside_a_write_may_see_either_value() {
    for seen in ["a", "b"] {
        assert_eq!(check(&[put("a", 1, 2), put("b", 3, 6), get(seen, 4, 5)]), Verdict::Linearizable);
    }
}

#[test]
fn new_then_old_is_refused_also_beside_the_write() {
    let beside = [put("a", 1, 2), put("b", 3, 20), get("b", 4, 5), get("a", 6, 7)];
    assert!(refused(&beside));
    let both = [put("a", 1, 2), put("b", 3, 20), get("b", 4, 10), get("a", 5, 11)];
    assert_eq!(check(&both), Verdict::Linearizable);
}

#[test]
fn a_value_that_nobody_wrote_is_refused() {
    assert!(refused(&[put("a", 1, 2), get("z", 3, 4)]));
}

#[test]
fn a_lost_write_is_refused() {
    assert!(refused(&[put("a", 1, 2), put("b", 3, 4), call(DELETE, "", 5, Some((6, KvReply::NotFound)))]));
}

#[test]
fn what_never_returned_may_have_been_done_or_not() {
    let lost = |seen| [put("a", 1, 2), call(PUT, "b", 3, None), get(seen, 10, 11)];
    assert_eq!(check(&lost("a")), Verdict::Linearizable);
    assert_eq!(check(&lost("b")), Verdict::Linearizable);
    // Once it was seen it is done.
    let seen = [put("a", 1, 2), call(PUT, "b", 3, None), get("b", 10, 11), get("a", 12, 13)];
    assert!(refused(&seen));
    // And not before it was called.
    assert!(refused(&[put("a", 1, 2), get("b", 3, 4), call(PUT, "b", 5, None)]));
}

#[test]
fn two_that_both_created_a_key_are_refused() {
    let create = |value, called, returned| call(CREATE, value, called, Some((returned, KvReply::Ok)));
    assert!(refused(&[create("a", 1, 4), create("b", 2, 5)]));
    let mismatch = KvReply::Mismatch { step: 0, current: Some(Bytes::from_static(b"a")) };
    let second = call(CREATE, "b", 2, Some((5, mismatch)));
    assert_eq!(check(&[create("a", 1, 4), second]), Verdict::Linearizable);
}

#[test]
fn an_operation_done_twice_is_refused() {
    // The put of "a" is done again after "b".
    assert!(refused(&[put("a", 1, 2), put("b", 3, 4), get("b", 5, 6), get("a", 7, 8)]));
}

#[test]
fn keys_are_looked_at_apart_and_the_bad_one_is_named() {
    let mut other = put("x", 3, 4);
    other.operation[0] += 1;
    assert_eq!(check(&[put("a", 1, 2), other.clone(), get("a", 5, 6)]), Verdict::Linearizable);
    let mut stale = get("", 7, 8);
    stale.operation[0] += 1;
    let Verdict::Refused(why) = check(&[put("a", 1, 2), other, get("a", 5, 6), stale]) else {
        panic!("explained");
    };
    assert!(why.starts_with("key 1: Get, called at 7"), "{why}");
}

#[test]
fn what_takes_too_many_ways_is_not_decided() {
    // Thirty puts at once, and then a value that none of them wrote.
    let mut calls: Vec<Call> = (0..30u8).map(|i| call(PUT, "v", u64::from(i), None)).collect();
    for (i, call) in calls.iter_mut().enumerate() {
        call.operation.push(i as u8);
        call.returned = Some((100, KvReply::Ok));
    }
    calls.push(get("z", 200, 201));
    assert_eq!(check(&calls), Verdict::Undecided(1));
}

/// A history that a store did make: calls overlap at random, each is done at a moment between its call and its return.
fn made(random: &mut Random, count: u64) -> Vec<Call> {
    let mut moments: Vec<(u64, Vec<u8>, u64, u64)> = (0..count)
        .map(|i| {
            let operation = random.next().to_le_bytes()[..random.between(1, 8) as usize].to_vec();
            let done = 1000 * (i + 1);
            let (before, after) = (random.below(4000), random.below(4000));
            (done, operation, done.saturating_sub(before), done + after)
        })
        .collect();
    moments.sort();
    let mut store: BTreeMap<u8, Bytes> = BTreeMap::new();
    let mut calls = Vec::new();
    for (_, operation, called, returned) in moments {
        let (key, kind) = operations::read(&operation);
        let current = store.get(&key).cloned();
        let reply = match kind {
            Kind::Get => current.map_or(KvReply::NotFound, KvReply::Value),
            Kind::Put(value) => {
                store.insert(key, Bytes::copy_from_slice(value));
                KvReply::Ok
            }
            Kind::Delete => store.remove(&key).map_or(KvReply::NotFound, |_| KvReply::Ok),
            Kind::Swap(expected, value) if current.as_deref() == expected => {
                store.insert(key, Bytes::copy_from_slice(value));
                KvReply::Ok
            }
            Kind::Swap(..) => KvReply::Mismatch { step: 0, current },
        };
        calls.push(Call { operation, called, returned: Some((returned, reply)) });
    }
    calls
}

#[test]
fn histories_of_a_store_are_explained_and_a_changed_reply_mostly_is_not() {
    let (mut changed, mut noticed) = (0, 0);
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut calls = made(&mut random, 120);
        // Some answers never came.
        for call in &mut calls {
            if random.per_mille(50) {
                call.returned = None;
            }
        }
        assert_eq!(check(&calls), Verdict::Linearizable, "seed {seed}");
        let reads = calls.iter_mut().filter(|c| matches!(c.returned, Some((_, KvReply::Value(_)))));
        for (_, reply) in reads.filter_map(|c| c.returned.as_mut()).take(1) {
            *reply = KvReply::Value(Bytes::from_static(b"never written"));
            changed += 1;
        }
        noticed += u64::from(refused(&calls));
    }
    assert!(changed > 150, "{changed} histories were changed");
    assert_eq!(noticed, changed);
}
