//! Leaders that are alive and slow are replaced, and correct ones are not, whatever befalls them.

use super::adversary::catalogue::named;
use super::cluster::{Cluster, Setup};
use super::swarm::members;
use crate::order::mutants::{Mutant, break_rule};
use crate::quorum::FaultModel;
use crate::types::*;

const CLIENTS: u64 = 4;

fn cluster(seed: u64) -> Cluster {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    setup.encode = false;
    Cluster::new(setup, seed)
}

impl Cluster {
    fn keep_busy(&mut self) {
        (0..CLIENTS).for_each(|_| _ = self.add_client(1 << 40));
    }

    fn answered(&self) -> u64 {
        self.clients.iter().map(|c| c.answered).sum()
    }

    /// Answers in so many milliseconds.
    fn answers_in(&mut self, ms: u64) -> u64 {
        let before = self.answered();
        self.run_ms(ms);
        self.answered() - before
    }

    /// Views begun so far, the first not counted.
    fn changes(&self) -> u64 {
        self.correct().iter().map(|r| self.core(r.0).view().0).max().expect("some are correct") - 1
    }
}

/// A group whose first leader plays this strategy, under load.
fn under(strategy: &str, seed: u64) -> Cluster {
    let mut c = cluster(seed);
    let lie = (named(strategy).expect("a name of the catalogue").build)(&mut c.random);
    c.corrupt(ReplicaId(0), lie);
    c.keep_busy();
    c
}

/// It is left within ten timeouts, and half of what a group of honest ones does is done from then on.
fn is_replaced(strategy: &str) {
    for seed in 1..=3 {
        let mut honest = cluster(seed);
        honest.keep_busy();
        honest.run_ms(1000);
        let whole = honest.answers_in(4000);
        let mut c = under(strategy, seed);
        let left = c.run_until(1000, |c| c.changes() > 0);
        assert!(left, "{strategy} seed={seed}: it is not left\n{}", c.picture());
        c.run_ms(1000);
        let part = c.answers_in(4000);
        println!("{strategy} seed={seed}: {part} of {whole} answers, {} changes", c.changes());
        assert!(2 * part > whole, "{strategy} seed={seed}: {part} of {whole} answers\n{}", c.picture());
        assert!(c.changes() <= 6, "{strategy} seed={seed}: {} changes", c.changes());
    }
}

#[test]
fn a_leader_that_proposes_late_is_replaced() {
    is_replaced("late-leader");
}

#[test]
fn a_leader_that_dribbles_is_replaced() {
    is_replaced("dribbling-leader");
}

#[test]
fn without_the_rule_both_stay_and_little_is_done() {
    break_rule(Some(Mutant::BearsSlowLeaders));
    let noticed = ["late-leader", "dribbling-leader"].map(|strategy| {
        let mut c = under(strategy, 1);
        c.run_ms(4000);
        c.changes() == 0
    });
    break_rule(None);
    assert_eq!(noticed, [true, true]);
}

#[test]
fn a_leader_that_starves_one_client_is_replaced() {
    for seed in 1..=3 {
        let mut c = under("censorship", seed);
        let served = c.run_until(5000, |c| c.clients[0].answered > 0);
        assert!(served, "seed={seed}: client 0 is not served\n{}", c.picture());
    }
}

/// Of correct leaders at most so many are left meanwhile, and the group goes on.
fn stays(what: &str, most: u64, ms: u64, trouble: impl Fn(&mut Cluster)) {
    for seed in 1..=3 {
        let mut c = cluster(seed);
        c.keep_busy();
        trouble(&mut c);
        c.run_ms(ms);
        println!("{what} seed={seed}: {} changes, {} answers", c.changes(), c.answered());
        assert!(c.changes() <= most, "{what} seed={seed}: {} changes\n{}", c.changes(), c.picture());
        assert!(c.answers_in(500) > 0, "{what} seed={seed}: nothing is answered\n{}", c.picture());
    }
}

/// Again and again.
fn every(c: &mut Cluster, ms: u64, times: u64, what: impl Fn(&mut Cluster) + Copy + 'static) {
    for i in 1..=times {
        c.later(i * ms * 1000, what);
    }
}

#[test]
fn a_correct_leader_under_load_stays() {
    stays("load", 4, 6000, |_| {});
}

#[test]
fn a_correct_leader_whose_group_is_overloaded_stays() {
    stays("overload", 8, 10_000, |c| {
        // Everybody executes slowly: requests wait for hundreds of milliseconds under any leader.
        c.setup.execute_us = (10_000, 20_000);
    });
}

#[test]
fn a_correct_leader_on_slow_disks_stays() {
    stays("slow disks", 8, 10_000, |c| {
        for node in &mut c.nodes {
            node.disk.write_us = (5_000, 30_000);
        }
    });
}

#[test]
fn a_correct_leader_stays_through_stalls_of_all_disks() {
    stays("stalls", 8, 10_000, |c| {
        every(c, 700, 14, |c| {
            c.all().into_iter().for_each(|r| c.hold_disk(r, true));
            c.later(60_000, |c| c.all().into_iter().for_each(|r| c.hold_disk(r, false)));
        });
    });
}

#[test]
fn a_correct_leader_stays_while_a_follower_pauses() {
    stays("pauses", 4, 6000, |c| every(c, 500, 11, |c| c.pause(ReplicaId(3), 250_000)));
}

#[test]
fn a_correct_leader_stays_while_a_follower_has_slow_links() {
    stays("slow links", 4, 6000, |c| {
        for other in 0..3 {
            c.network.clog(ReplicaId(other), ReplicaId(3), 30_000);
            c.network.clog(ReplicaId(3), ReplicaId(other), 30_000);
        }
    });
}

#[test]
fn a_correct_leader_stays_when_clients_stop_and_come_back() {
    stays("clients that stop", 4, 8000, |c| {
        every(c, 500, 15, |c| {
            let idle = c.clients[0].left > 0;
            c.clients.iter_mut().for_each(|client| client.left = if idle { 0 } else { 1 << 40 });
            (0..CLIENTS as usize).for_each(|at| c.request(at, 0));
        });
        c.later(7_900_000, |c| {
            c.clients.iter_mut().for_each(|client| client.left = 1 << 40);
            (0..CLIENTS as usize).for_each(|at| c.request(at, 0));
        });
    });
}

#[test]
fn a_correct_leader_of_few_requests_stays() {
    stays("few requests", 4, 6000, |c| {
        c.clients.iter_mut().for_each(|client| client.left = 3);
        every(c, 333, 17, |c| (0..CLIENTS as usize).for_each(|at| c.request(at, 1)));
        c.later(6_050_000, |c| (0..CLIENTS as usize).for_each(|at| c.request(at, 5)));
    });
}

#[test]
fn crash_mode_replaces_nobody_for_being_slow() {
    let mut c = Cluster::new(Setup::new(members(FaultModel::Crash, 3)), 1);
    c.setup.execute_us = (10_000, 20_000);
    c.keep_busy();
    c.run_ms(5000);
    assert_eq!(c.changes(), 0, "{}", c.picture());
}
