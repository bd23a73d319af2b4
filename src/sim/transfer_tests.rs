//! Who fell behind the others' logs comes back by their state, whoever lies.

use super::adversary::Several;
use super::adversary::catalogue::named;
use super::adversary::seeder_liar::SeederLiar;
use super::cluster::{Checkpoints, Cluster, Setup};
use super::disk::Tail;
use super::random::Random;
use super::swarm::{Plan, Report, attempt, members};
use super::transfer_stories::{AWAY, comes_back, interrupted, left_behind, lied_to, setup};
use crate::quorum::FaultModel;
use crate::transfer::StrategyKind;
use crate::transfer::lies;
use crate::types::*;

fn far_behind(seed: u64, liar: Option<&str>) -> Cluster {
    let row = |name| named(name).expect("a name of the catalogue");
    let mut random = Random::new(seed);
    let lie = liar.map(|name| (ReplicaId(2), (row(name).build)(&mut random)));
    left_behind(setup(), seed, lie)
}

#[test]
fn who_fell_behind_takes_a_state_over() {
    for seed in 1..=5 {
        let c = comes_back(far_behind(seed, None), &format!("seed {seed}"));
        assert!(c.fetched.chunks > 5, "it comes in pieces: {:?}", c.fetched);
    }
}

#[test]
fn a_liar_that_withholds_its_roots_keeps_nobody_out() {
    for seed in 1..=5 {
        comes_back(far_behind(seed, Some("withheld-roots")), &format!("withheld roots, seed {seed}"));
    }
}

#[test]
fn a_liar_that_offers_another_state_is_not_believed() {
    for seed in 1..=5 {
        let c = lied_to(setup(), seed, ReplicaId(2), "other-state");
        let c = comes_back(c, &format!("a false state, seed {seed}"));
        assert!(c.fetched.blamed > 0, "it is found out: {:?}", c.fetched);
    }
}

#[test]
fn no_lie_of_a_seeder_keeps_anybody_out() {
    let names = lies::ROWS.iter().map(|row| row.name).chain(["other-state", "slow-seeder"]);
    for (name, seed) in names.zip(1..) {
        // Who has the lowest number is asked for more than chunks.
        for liar in [0, 2] {
            let c = comes_back(lied_to(setup(), seed, ReplicaId(liar), name), name);
            let chunks = ["false-chunks", "misplaced-chunks", "large-chunks", "empty-chunks"].contains(&name);
            assert!(!chunks || c.fetched.blamed > 0, "{name} is found out: {:?}", c.fetched);
        }
    }
}

#[test]
fn two_liars_of_seven_keep_nobody_out() {
    for (name, seed) in ["false-chunks", "false-manifests", "silent-seeder"].iter().zip(1..) {
        let mut setup = setup();
        setup.members = members(FaultModel::Byzantine, 7);
        setup.fetch.offerers = 3;
        setup.checkpoints = Some(Checkpoints { period: 112, together: false, recycles: true, pressed: true });
        let mut c = left_behind(setup, seed, Some((ReplicaId(0), Box::new(Several(Vec::new())))));
        c.corrupt(ReplicaId(2), Box::new(Several(Vec::new())));
        for liar in [0, 2] {
            c.nodes[liar].seeder_liar = SeederLiar::named(name);
        }
        comes_back(c, name);
    }
}

#[test]
fn every_strategy_brings_the_state() {
    for strategy in StrategyKind::ALL {
        let mut setup = setup();
        setup.fetch.strategy = strategy;
        setup.seeder_bytes_per_s = 16 << 10;
        let c = comes_back(left_behind(setup, 1, None), &format!("{strategy:?}"));
        assert_eq!(c.fetched.blamed, 0, "{strategy:?}");
    }
}

/// The group stands still while the state is fetched anew, so that it is the same one. How much of it was here; `None` if logs did.
fn fetched_again(seed: u64, tail: Tail) -> Option<u64> {
    let mut c = interrupted(seed, tail);
    assert!(c.nodes[AWAY.index()].shelf.bytes() > 0, "chunks are on disk");
    c.clients.iter_mut().for_each(|client| client.left = 0);
    c.restart(AWAY);
    let back = c.run_until(60_000, Cluster::settled);
    assert!(back, "seed {seed}: it stays behind\n{}", c.picture());
    (c.transferred > 0).then_some(c.fetched.kept)
}

#[test]
fn what_came_before_the_process_ended_does_not_come_again() {
    let kept: Vec<u64> = (1..=8).filter_map(|seed| fetched_again(seed, Tail::Kept)).collect();
    assert!(kept.len() >= 4 && kept.iter().all(|bytes| *bytes > 0), "{kept:?}");
}

#[test]
fn what_a_loss_of_power_took_comes_again() {
    let kept: Vec<u64> = (1..=8).filter_map(|seed| fetched_again(seed, Tail::Lost)).collect();
    assert!(kept.len() >= 4 && kept.iter().all(|bytes| *bytes == 0), "{kept:?}");
    let torn = (1..=20).filter_map(|seed| fetched_again(seed, Tail::Torn)).filter(|bytes| *bytes > 0);
    assert!(torn.count() > 0, "a part of it is there now and then");
}

#[test]
fn a_full_disk_puts_a_fetch_off() {
    let mut c = left_behind(setup(), 1, None);
    let shelf = c.nodes[AWAY.index()].shelf.clone();
    shelf.set_full(true);
    c.run_ms(3_000);
    assert!(c.transferred == 0 && c.fetched.sessions > 1, "{:?}", c.fetched);
    shelf.set_full(false);
    comes_back(c, "there is room again");
}

/// So many seeds in which replicas are left behind, and what they showed together.
fn swarm_of_transfers(model: FaultModel, n: u32, votes_durable: bool, usual: u64) {
    let seeds = std::env::var("DURAMEN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let group = Some((model, n, votes_durable));
    let run = |seed| -> Report {
        let plan = Plan { group, transfers: true, ..Plan::of(seed) };
        attempt(&plan).unwrap_or_else(|why| panic!("{group:?}, seed {seed}: {why}"))
    };
    let reports: Vec<Report> = (1..=seeds).map(run).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (transferred, chunks) = (sum(|r| r.transferred), sum(|r| r.fetched.chunks));
    println!(
        "{group:?}: {transferred} states in {chunks} chunks, {} fetches, {} liars found out",
        sum(|r| r.fetched.sessions),
        sum(|r| r.fetched.blamed)
    );
    assert!(transferred >= seeds / 5 && chunks > 4 * transferred, "{transferred} states, {chunks} chunks");
}

#[test]
fn states_are_fetched_through_random_faults_while_one_of_four_lies() {
    swarm_of_transfers(FaultModel::Byzantine, 4, true, 60);
}

#[test]
fn states_are_fetched_through_random_faults_while_two_of_seven_lie() {
    swarm_of_transfers(FaultModel::Byzantine, 7, true, 10);
}

#[test]
fn states_are_fetched_through_random_crashes() {
    swarm_of_transfers(FaultModel::Crash, 3, true, 60);
    swarm_of_transfers(FaultModel::Crash, 3, false, 30);
}

#[test]
fn equal_seeds_give_equal_transfers() {
    for seed in 1..10 {
        let plan = Plan { transfers: true, ..Plan::of(seed) };
        assert_eq!(attempt(&plan), attempt(&plan), "seed {seed}");
    }
}

#[test]
fn who_comes_back_into_a_restarted_group_takes_a_state_over_as_well() {
    for seed in 1..=5 {
        let mut c = far_behind(seed, Some("withheld-roots"));
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
            let root = |r: usize| c.nodes[r].executor.image(64).root(None);
            assert_eq!(root(1), root(0), "{what}");
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
