//! Stories of one replica that the others' logs left behind, told in code: each goes otherwise if a rule of state transfer is broken.

use super::adversary::seeder_liar::SeederLiar;
use super::adversary::{Adversary, Several};
use super::cluster::{Checkpoints, Cluster, Setup};
use super::disk::Tail;
use super::swarm::members;
use crate::quorum::FaultModel;
use crate::types::*;

/// Whom they are told of.
pub const AWAY: ReplicaId = ReplicaId(3);

/// They are told by themselves, and whenever a rule is broken.
pub const DIRECTED: &[(&str, fn())] = &[
    ("a_state_that_no_certificate_names_is_not_fetched", || {
        let mut setup = setup();
        // Whoever offers the newest one is believed at once, if it is proven.
        setup.fetch.offerers = 1;
        comes_back(lied_to(setup, 1, ReplicaId(2), "stale-offers"), "stale offers");
    }),
    ("a_list_of_digests_leads_to_the_certificate", || {
        // The lowest number of those that offer the state is asked for the first list.
        for (seed, liar) in [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1)] {
            comes_back(lied_to(setup(), seed, ReplicaId(liar), "false-digests"), "false digests");
        }
    }),
    ("a_chunk_that_was_not_verified_is_not_installed", || {
        comes_back(lied_to(setup(), 1, ReplicaId(2), "false-chunks"), "false chunks");
    }),
    ("what_an_earlier_run_received_is_compared_before_it_counts", || {
        let mut c = interrupted(1, Tail::Kept);
        let from = c.core(0).decided();
        let moved = c.run_until(60_000, |c| c.core(0).decided().0 > from.0 + 100);
        assert!(moved, "the others go on\n{}", c.picture());
        c.restart(AWAY);
        comes_back(c, "another state is fetched than before");
    }),
];

/// Four replicas that take states often, of which a fetch has a few chunks at a time.
pub fn setup() -> Setup {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    setup.order.window = 64;
    setup.order.mark_interval = 16;
    setup.checkpoints = Some(Checkpoints { period: 64, together: false, recycles: true, pressed: true });
    setup.fetch.window_bytes_max = 256;
    setup
}

/// A group of which one replica is away while the others write several times their logs, which keep nothing for it meanwhile; one of
/// them may lie.
pub fn left_behind(setup: Setup, seed: u64, liar: Option<(ReplicaId, Box<dyn Adversary>)>) -> Cluster {
    let places = 5 * setup.order.window;
    let mut c = Cluster::new(setup, seed);
    if let Some((liar, lie)) = liar {
        c.corrupt(liar, lie);
    }
    for _ in 0..4 {
        c.add_client(1 << 40);
    }
    c.run_ms(100);
    c.crash(AWAY, Tail::Kept);
    let from = c.core(0).decided();
    let gone = c.run_until(60_000, |c| {
        let base = |r| c.core(r).status().base;
        base(0) > from && base(1) > from && c.core(0).decided().0 > from.0 + places
    });
    assert!(gone, "the others' logs go on\n{}", c.picture());
    if let Some(plan) = &mut c.setup.checkpoints {
        plan.pressed = false;
    }
    c.restart(AWAY);
    c
}

/// The same, and one of the others, which orders as it should, lies to it of its state.
pub fn lied_to(setup: Setup, seed: u64, liar: ReplicaId, lie: &str) -> Cluster {
    let mut c = left_behind(setup, seed, Some((liar, Box::new(Several(Vec::new())))));
    c.nodes[liar.index()].seeder_liar = Some(SeederLiar::named(lie).expect("a lie"));
    c
}

/// A fetch that takes its time, and in the midst of which the power goes, or only the process.
pub fn interrupted(seed: u64, tail: Tail) -> Cluster {
    let mut setup = setup();
    setup.seeder_bytes_per_s = 1 << 10;
    let mut c = left_behind(setup, seed, None);
    let begun = c.run_until(60_000, |c| c.fetched.chunks >= 4);
    assert!(begun && c.transferred == 0, "it is being sent a state\n{}", c.picture());
    c.run_ms(1);
    c.crash(AWAY, tail);
    c
}

/// It takes a state over and keeps up with the others from then on.
pub fn comes_back(mut c: Cluster, what: &str) -> Cluster {
    let back = c
        .run_until(60_000, |c| c.transferred > 0 && c.core(AWAY.0).decided().0 + 128 > c.core(0).decided().0);
    assert!(back, "{what}: it stays behind\n{}", c.picture());
    let (before, transferred) = (c.core(AWAY.0).decided(), c.transferred);
    c.run_ms(2_000);
    assert!(c.core(AWAY.0).decided().0 > before.0 + 50, "{what}: it stops again\n{}", c.picture());
    assert_eq!(c.transferred, transferred, "{what}: once is enough");
    c
}
