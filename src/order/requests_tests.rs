//! The pool of waiting groups.

use super::requests::{Offered, Requests};
use super::restore::{Replay, first_record};
use super::{Input, Now, Output};
use crate::quorum::{FaultModel, Group as Members};
use crate::sim::cluster::Setup;
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::*;
use crate::wire::messages::NoticeCode;

/// A group of `client` with requests `numbers` of `session`, each of so many bytes.
fn group(client: u32, session: u64, numbers: std::ops::RangeInclusive<u64>, bytes: usize) -> AuthenticGroup {
    let setup = Setup::new(Members::new(FaultModel::Crash, 3, 1).expect("3 bear 1"));
    let requests: Vec<_> = numbers
        .map(|n| Request {
            session: SessionId(session),
            number: RequestNumber(n),
            kind: RequestKind::Invoke,
            operation: vec![7; bytes],
        })
        .collect();
    let group =
        Group::build(&setup.hasher(), ClientId(client), &requests, |_| (AuthKind::Channel, Vec::new()));
    setup.authenticator(ReplicaId(0)).group(None, group.bytes().clone()).expect("authentic")
}

fn numbers(batch: &[(Group, Digest)]) -> Vec<(u32, u64)> {
    batch
        .iter()
        .flat_map(|(g, _)| g.requests().map(|r| (g.client.0, r.number.0)).collect::<Vec<_>>())
        .collect()
}

fn pool() -> Requests {
    Requests::new(1 << 16, 1 << 20)
}

#[test]
fn clients_are_served_in_turn_whatever_one_of_them_floods() {
    let mut pool = pool();
    for n in 1..=10 {
        assert_eq!(pool.offer(Tick(n), group(1, 1, n..=n, 8)), Offered::Queued);
    }
    for client in [2, 3] {
        pool.offer(Tick(20), group(client, u64::from(client), 1..=1, 8));
    }
    let batch = pool.next_batch(1 << 16, 4);
    assert_eq!(numbers(&batch), [(1, 1), (2, 1), (3, 1), (1, 2)]);
    // The turn goes on where it was.
    pool.offer(Tick(30), group(2, 2, 2..=2, 8));
    assert_eq!(numbers(&pool.next_batch(1 << 16, 2)), [(2, 2), (1, 3)]);
}

#[test]
fn a_group_is_taken_once_and_known_until_it_is_executed() {
    let mut pool = pool();
    let g = group(1, 5, 1..=2, 8);
    assert_eq!(pool.offer(Tick(1), g.clone()), Offered::Queued);
    assert_eq!(pool.offer(Tick(2), g.clone()), Offered::Known);
    let batch = pool.next_batch(1 << 16, 16);
    assert_eq!(pool.offer(Tick(3), g.clone()), Offered::Known);
    assert!(!pool.any());
    pool.executed_batch(&[batch[0].1], &[(SessionId(5), RequestNumber(2))]);
    assert!(pool.is_empty());
    assert_eq!(pool.offer(Tick(4), g), Offered::Executed);
    // Part of it is new: it waits.
    assert_eq!(pool.offer(Tick(5), group(1, 5, 2..=3, 8)), Offered::Queued);
}

#[test]
fn a_batch_keeps_its_bounds_and_takes_one_group_however_large() {
    let mut pool = pool();
    pool.offer(Tick(1), group(1, 1, 1..=1, 5000));
    pool.offer(Tick(1), group(2, 2, 1..=1, 100));
    pool.offer(Tick(1), group(3, 3, 1..=1, 100));
    assert_eq!(numbers(&pool.next_batch(1000, 16)), [(1, 1)]);
    assert_eq!(numbers(&pool.next_batch(200, 16)), [(2, 1)]);
    assert_eq!(numbers(&pool.next_batch(1000, 0)), [(3, 1)]);
    assert!(pool.next_batch(1000, 16).is_empty());
    assert_eq!(pool.waiting_bytes(), 0);
}

#[test]
fn a_client_is_busy_at_its_bound_and_its_first_group_always_fits() {
    let mut pool = Requests::new(1000, 5000);
    assert_eq!(pool.offer(Tick(1), group(1, 1, 1..=1, 3000)), Offered::Queued);
    assert_eq!(pool.offer(Tick(1), group(1, 1, 2..=2, 10)), Offered::Busy);
    assert_eq!(pool.offer(Tick(1), group(2, 2, 1..=1, 10)), Offered::Queued);
    let batch = pool.next_batch(1 << 16, 1);
    pool.executed_batch(&[batch[0].1], &[(SessionId(1), RequestNumber(1))]);
    assert_eq!(pool.offer(Tick(1), group(1, 1, 2..=2, 10)), Offered::Queued);
}

#[test]
fn what_was_proposed_waits_again_in_arrival_order_after_a_view_change() {
    let mut pool = pool();
    for n in 1..=6 {
        pool.offer(Tick(n), group(1, 1, n..=n, 8));
    }
    let first = pool.next_batch(1 << 16, 2);
    let second = pool.next_batch(1 << 16, 2);
    assert_eq!(numbers(&second), [(1, 3), (1, 4)]);
    pool.executed_batch(&[first[0].1], &[(SessionId(1), RequestNumber(1))]);
    pool.all_unproposed();
    assert_eq!(numbers(&pool.next_batch(1 << 16, 16)), [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
}

#[test]
fn what_another_leader_proposed_is_not_proposed_again() {
    let mut pool = pool();
    let groups: Vec<_> = (1..=3).map(|n| group(1, 1, n..=n, 8)).collect();
    groups.iter().for_each(|g| {
        pool.offer(Tick(1), g.clone());
    });
    pool.proposed(&[groups[1].digest()]);
    assert_eq!(numbers(&pool.next_batch(1 << 16, 16)), [(1, 1), (1, 3)]);
    pool.proposed(&[groups[0].digest()]);
    assert_eq!((pool.len(), pool.waiting_bytes()), (3, 0));
}

#[test]
fn groups_executed_in_parts_of_others_are_purged() {
    let mut pool = pool();
    pool.offer(Tick(1), group(1, 1, 1..=2, 8));
    pool.offer(Tick(2), group(1, 1, 3..=3, 8));
    pool.executed_batch(&[], &[(SessionId(1), RequestNumber(2))]);
    pool.purge();
    assert_eq!((pool.len(), pool.oldest()), (1, Some(Tick(2))));
}

#[test]
fn an_executed_no_op_that_somebody_hands_on_later_is_not_ordered_again() {
    let mut pool = pool();
    let setup = Setup::new(Members::new(FaultModel::Crash, 3, 1).expect("3 bear 1"));
    let request = Request {
        session: SessionId(0),
        number: RequestNumber(7),
        kind: RequestKind::Noop,
        operation: &[][..],
    };
    let noop = setup.authenticator(ReplicaId(2)).own_group(&[request]);
    assert_eq!(pool.offer(Tick(1), noop.clone()), Offered::Queued);
    let batch = pool.next_batch(1 << 16, 16);
    pool.executed_batch(&[batch[0].1], &[]);
    pool.executed_noops([batch[0].1].into_iter());
    assert_eq!(pool.offer(Tick(2), noop.clone()), Offered::Executed);
    // It is forgotten in time, and costs a place then; nothing grows.
    pool.executed_noops((0..1 << 14).map(|i: u32| {
        Digest([i.to_le_bytes()[0], i.to_le_bytes()[1], 1].repeat(11)[..32].try_into().unwrap())
    }));
    assert_eq!(pool.offer(Tick(3), noop), Offered::Queued);
}

#[test]
fn a_full_log_refuses_what_is_new_and_answers_what_was_executed() {
    let setup = Setup::new(Members::new(FaultModel::Crash, 3, 1).expect("3 bear 1"));
    let mut replay = Replay::new(setup.authenticator(ReplicaId(0)), Default::default(), Lsn(1));
    replay.record(&first_record()).expect("a log of ours");
    let mut core = replay.finish(setup.order.clone(), Now::default()).expect("a log of ours");
    core.requests.executed_batch(&[], &[(SessionId(5), RequestNumber(2))]);
    let mut out = Vec::new();
    for input in [
        Input::LogRoom(false),
        Input::Group { origin: 7, group: group(1, 5, 1..=2, 8) },
        Input::Group { origin: 8, group: group(1, 5, 2..=3, 8) },
    ] {
        core.step(Now::default(), input, &mut out).expect("nothing wrong with it");
    }
    let said: Vec<_> = out
        .iter()
        .filter_map(|output| match output {
            Output::Resend(again) => Some(("again", again.group().len())),
            Output::Notice { origin: 8, code: NoticeCode::LogFull, .. } => Some(("full", 0)),
            Output::Notice { .. } => Some(("something else", 0)),
            _ => None,
        })
        .collect();
    assert_eq!(said, [("again", 2), ("full", 0)]);
}
