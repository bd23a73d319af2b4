//! Who fell behind the others' logs comes back by their state, whoever lies.

use super::adversary::catalogue::named;
use super::cluster::{Checkpoints, Cluster, Setup};
use super::disk::Tail;
use super::swarm::members;
use crate::quorum::FaultModel;
use crate::types::*;

const AWAY: ReplicaId = ReplicaId(3);

/// Four replicas of which one goes away while the others write several times their logs, which keep nothing for it meanwhile.
fn left_behind(seed: u64, liar: Option<&str>) -> Cluster {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    setup.order.window = 64;
    setup.order.mark_interval = 16;
    setup.checkpoints = Some(Checkpoints { period: 64, together: false, recycles: true, pressed: true });
    let mut c = Cluster::new(setup, seed);
    if let Some(strategy) = liar {
        let lie = (named(strategy).expect("a name of the catalogue").build)(&mut c.random);
        c.corrupt(ReplicaId(2), lie);
    }
    for _ in 0..4 {
        c.add_client(1 << 40);
    }
    c.run_ms(300);
    c.crash(AWAY, Tail::Kept);
    let from = c.core(0).decided();
    let gone = c.run_until(60_000, |c| {
        let base = |r| c.core(r).status().base;
        base(0) > from && base(1) > from && c.core(0).decided().0 > from.0 + 400
    });
    assert!(gone, "the others' logs go on\n{}", c.picture());
    if let Some(plan) = &mut c.setup.checkpoints {
        plan.pressed = false;
    }
    c.restart(AWAY);
    c
}

/// It takes a state over and keeps up with the others from then on.
fn comes_back(mut c: Cluster, what: &str) {
    let back = c
        .run_until(60_000, |c| c.transferred > 0 && c.core(AWAY.0).decided().0 + 128 > c.core(0).decided().0);
    assert!(back, "{what}: it stays behind\n{}", c.picture());
    let (before, transferred) = (c.core(AWAY.0).decided(), c.transferred);
    c.run_ms(2_000);
    assert!(c.core(AWAY.0).decided().0 > before.0 + 50, "{what}: it stops again\n{}", c.picture());
    assert_eq!(c.transferred, transferred, "{what}: once is enough");
}

#[test]
fn who_fell_behind_takes_a_state_over() {
    (1..=5).for_each(|seed| comes_back(left_behind(seed, None), &format!("seed {seed}")));
}

#[test]
fn a_liar_that_withholds_its_roots_keeps_nobody_out() {
    for seed in 1..=5 {
        comes_back(left_behind(seed, Some("withheld-roots")), &format!("withheld roots, seed {seed}"));
    }
}

#[test]
fn a_liar_that_offers_another_state_is_not_believed() {
    for seed in 1..=5 {
        comes_back(left_behind(seed, Some("future-votes")), &format!("a false state, seed {seed}"));
    }
}

#[test]
fn who_comes_back_into_a_restarted_group_takes_a_state_over_as_well() {
    for seed in 1..=5 {
        let mut c = left_behind(seed, Some("withheld-roots"));
        for r in [0, 1] {
            c.crash(ReplicaId(r), Tail::Kept);
        }
        c.run_ms(50);
        for r in [0, 1] {
            c.restart(ReplicaId(r));
        }
        comes_back(c, &format!("restarted, seed {seed}"));
    }
}

/// A group under load whose logs do not go back to the beginning.
fn under_way(seed: u64, model: FaultModel, n: u32) -> Cluster {
    let mut setup = Setup::new(members(model, n));
    let period = 8 * u64::from(n);
    setup.checkpoints = Some(Checkpoints { period, together: false, recycles: true, pressed: false });
    let mut c = Cluster::new(setup, seed);
    c.may_halt = true;
    c.add_client(1 << 40);
    let recycled = c.run_until(60_000, |c| (0..n).all(|r| c.core(r).status().base > Seq(0)));
    assert!(recycled, "logs are recycled\n{}", c.picture());
    c
}

fn keeps_up(c: &mut Cluster, who: u32, what: &str) {
    let back = c.run_until(60_000, |c| c.transferred > 0 && !c.core(who).lacks_state());
    assert!(back, "{what}: it gets no state\n{}", c.picture());
    let decided = c.core(who).decided();
    c.run_ms(3_000);
    let equal = |a: u32, b: u32| c.core(a).mark().0.abs_diff(c.core(b).mark().0) <= 64;
    assert!(c.core(who).halted().is_none() && c.core(who).decided() > decided, "{what}\n{}", c.picture());
    assert!(equal(who, 0) || equal(who, 2), "{what}: it does not keep up\n{}", c.picture());
}

#[test]
fn a_replica_that_executes_otherwise_takes_the_others_state_over() {
    for (n, model) in [(4, FaultModel::Byzantine), (3, FaultModel::Crash)] {
        for seed in 1..=5 {
            let what = format!("{model:?}, seed {seed}");
            let mut c = under_way(seed, model, n);
            // Not held to the one history.
            c.byzantine.insert(ReplicaId(1));
            c.nodes[1].executor.diverges = 1;
            let noticed = c.run_until(10_000, |c| c.core(1).lacks_state());
            assert!(noticed, "{what}: nobody notices\n{}", c.picture());
            keeps_up(&mut c, 1, &what);
            c.clients.iter_mut().for_each(|client| client.left = 0);
            let even = c.run_until(10_000, |c| c.nodes[1].executor.executed == c.nodes[0].executor.executed);
            assert!(even, "{what}\n{}", c.picture());
            assert_eq!(c.nodes[1].executor.root(), c.nodes[0].executor.root(), "{what}");
        }
    }
}

#[test]
fn who_executes_otherwise_time_and_again_is_silenced() {
    let mut c = under_way(1, FaultModel::Byzantine, 4);
    c.byzantine.insert(ReplicaId(1));
    for _ in 0..4 {
        // A fault of the machine: it comes again.
        c.nodes[1].executor.diverges = 1;
        c.run_until(20_000, |c| c.core(1).lacks_state() || c.core(1).halted().is_some());
        c.run_until(20_000, |c| !c.core(1).lacks_state());
    }
    let why = c.core(1).halted().expect("silenced");
    assert!(why.contains("f+1 others have") || why.contains("but a quorum has"), "{why}");
}

#[test]
fn a_replica_whose_checkpoints_are_all_damaged_takes_the_others_state_over() {
    for (n, model) in [(4, FaultModel::Byzantine), (3, FaultModel::Crash)] {
        for seed in 1..=5 {
            let what = format!("{model:?}, seed {seed}");
            let mut c = under_way(seed, model, n);
            c.crash(ReplicaId(1), Tail::Kept);
            c.spoil_checkpoint(ReplicaId(1));
            c.spoil_checkpoint(ReplicaId(1));
            c.run_ms(50);
            c.restart(ReplicaId(1));
            assert!(c.core(1).lacks_state(), "{what}");
            keeps_up(&mut c, 1, &what);
        }
    }
}
