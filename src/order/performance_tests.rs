//! The rule against slow leaders, with groups that take as long as a test says.

use super::performance::*;
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;

const MS: u64 = 1_000_000;
const TIMEOUT_MS: u64 = 1000;
/// Of a place.
const DECIDE_NS: u64 = 2 * MS;

/// One follower, its clock, and what it would do.
struct Follower {
    rule: Performance,
    now: Tick,
    leader: u32,
    n: u32,
    groups: u64,
    changes: u32,
}

impl Follower {
    fn new(n: u32, f: u32) -> Self {
        let members = Members::new(FaultModel::Byzantine, n, f).expect("large enough");
        let rule = Performance::new(members, TIMEOUT_MS);
        Self { rule, now: Tick(MS), leader: 0, n, groups: 0, changes: 0 }
    }

    fn digest(&mut self) -> Digest {
        self.groups += 1;
        let mut digest = Digest::ZERO;
        digest.0[..8].copy_from_slice(&self.groups.to_le_bytes());
        digest
    }

    /// One heartbeat in which each client's group waits as long as `wait_ms` says of it. The group moves on when asked to.
    fn beat(&mut self, waits_ms: &[u64]) {
        let start = self.now;
        let groups: Vec<Digest> = waits_ms.iter().map(|_| self.digest()).collect();
        for (client, digest) in groups.iter().enumerate() {
            self.rule.arrived(start, ClientId(client as u32), *digest);
        }
        for (wait, digest) in waits_ms.iter().zip(&groups) {
            self.rule.executed(start.plus_ms(*wait), &[*digest]);
        }
        self.now = start.plus_ms(TIMEOUT_MS / 10);
        let floor = self.rule.floor_ns(DECIDE_NS);
        self.rule.look(self.now, ReplicaId(self.leader), floor, true);
        if self.rule.slow() {
            self.change();
        }
    }

    fn change(&mut self) {
        self.rule.view_ends(self.now, ReplicaId(self.leader), false);
        self.leader = (self.leader + 1) % self.n;
        self.rule.view_begins(self.now);
        self.changes += 1;
    }

    /// So many seconds under leaders as slow as `wait_ms` says of each; changes meanwhile.
    fn seconds(&mut self, seconds: u64, wait_ms: impl Fn(u32) -> u64) -> u32 {
        let before = self.changes;
        for _ in 0..10 * seconds {
            let wait = wait_ms(self.leader);
            self.beat(&[wait, wait, wait]);
        }
        self.changes - before
    }
}

#[test]
fn a_slow_first_leader_is_left_within_two_seconds_and_the_next_one_stays() {
    for wait in [30, 200, 800] {
        let mut f = Follower::new(4, 1);
        f.seconds(2, |leader| if leader == 0 { wait } else { 5 });
        assert_eq!(f.leader, 1, "{wait} ms");
        assert_eq!(f.seconds(600, |leader| if leader == 0 { wait } else { 5 }), 0);
    }
}

#[test]
fn a_fast_leader_is_left_alone() {
    let mut f = Follower::new(4, 1);
    assert_eq!(f.seconds(600, |_| 5), 0);
}

#[test]
fn groups_that_are_never_served_count_by_their_age() {
    let mut f = Follower::new(4, 1);
    let digest = f.digest();
    f.rule.arrived(f.now, ClientId(0), digest);
    for _ in 0..20 {
        f.beat(&[]);
    }
    assert!(f.leader >= 1);
}

#[test]
fn when_all_leaders_are_slow_the_group_stays_with_one() {
    for (n, faulty) in [(4, 1), (7, 2)] {
        let mut f = Follower::new(n, faulty);
        let first = f.seconds(10, |_| 300);
        assert!((1..=faulty + 1).contains(&first), "{first} changes at first");
        let more = f.seconds(300, |_| 300);
        assert!(more <= 8 * faulty, "{more} changes in five minutes");
        let rest = f.seconds(1280, |_| 300);
        assert!(rest <= 11 * faulty, "{rest} changes in ten pauses");
    }
}

#[test]
fn two_liars_in_a_row_do_not_vouch_for_each_other() {
    let mut f = Follower::new(7, 2);
    f.seconds(5, |leader| if leader < 2 { 800 } else { 40 });
    assert_eq!(f.leader, 2);
    assert_eq!(f.seconds(20, |leader| if leader < 2 { 800 } else { 40 }), 0);
}

#[test]
fn a_slow_leader_after_a_fast_one_is_left_at_once_also_after_a_long_search() {
    let mut f = Follower::new(4, 1);
    // Overload for minutes: pauses are long by now.
    f.seconds(300, |_| 100);
    let liar = (f.leader + 1) % 4;
    f.change();
    // Three times as slow as what was accepted is noticed within the shorter pause.
    f.seconds(20, |leader| if leader == liar { 300 } else { 100 });
    assert_ne!(f.leader, liar);
}

#[test]
fn a_surge_of_load_costs_one_change() {
    let mut f = Follower::new(4, 1);
    f.seconds(3, |leader| if leader == 0 { 100 } else { 20 });
    assert_eq!(f.leader, 1);
    let changes = f.seconds(20, |_| 90);
    assert!(changes <= 1, "{changes}");
}

#[test]
fn a_liar_that_led_fast_costs_those_after_it_one_change() {
    let mut f = Follower::new(4, 1);
    f.seconds(5, |_| 1);
    f.change();
    let changes = f.seconds(60, |leader| if leader == 0 { 1 } else { 20 });
    assert!(changes <= 2, "{changes}");
    assert_ne!(f.leader, 0);
}

#[test]
fn a_liar_that_gets_slower_step_by_step_is_left() {
    let mut f = Follower::new(4, 1);
    let mut wait = 4.0;
    for _ in 0..2000 {
        if f.leader != 0 {
            return assert!(wait < 100.0, "left at {wait} ms");
        }
        f.beat(&[wait as u64]);
        wait *= 1.01;
    }
    panic!("never left");
}

#[test]
fn a_minority_of_clients_moves_nothing() {
    let mut f = Follower::new(4, 1);
    for _ in 0..300 {
        f.beat(&[5, 5, 5, 700, 700]);
    }
    assert_eq!(f.changes, 0);
    // Nor does it hide a leader that is slow for the others.
    for _ in 0..20 {
        f.beat(&[1, 1, 700, 700, 700]);
    }
    assert!(f.changes > 0);
}

#[test]
fn one_hiccup_is_no_slow_leader() {
    let mut f = Follower::new(4, 1);
    for _ in 0..20 {
        f.beat(&[400]);
        for _ in 0..19 {
            f.beat(&[5]);
        }
    }
    assert_eq!(f.changes, 0);
}

#[test]
fn without_clients_there_is_no_verdict() {
    let mut f = Follower::new(4, 1);
    for _ in 0..10_000 {
        f.beat(&[]);
    }
    assert_eq!(f.changes, 0);
    // A client that stops: its last group left the pool.
    let digest = f.digest();
    f.rule.arrived(f.now, ClientId(0), digest);
    f.rule.keep(|_| false);
    for _ in 0..100 {
        f.beat(&[]);
    }
    assert_eq!(f.changes, 0);
}

#[test]
fn what_is_timed_is_bounded() {
    let mut f = Follower::new(4, 1);
    for client in 0..200 {
        for _ in 0..10 {
            let digest = f.digest();
            f.rule.arrived(f.now, ClientId(client), digest);
        }
    }
    assert_eq!(f.rule.timed_groups(), 64);
}
