//! Each strategy against three correct replicas of four: it is told, nobody forks, and all clients are answered.

use super::catalogue::{ROWS, Row, Scene, Views, named};
use super::*;
use crate::quorum::FaultModel;
use crate::sim::cluster::{Checkpoints, Cluster, Fate, Setup};
use crate::sim::disk::Tail;
use crate::sim::swarm::{SETTLE_MS, members};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what leaves otherwise than it came.
struct Counted {
    lie: Box<dyn Adversary>,
    told: Arc<AtomicU64>,
}

impl Adversary for Counted {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let (before, truth) = (out.len(), message.encode());
        self.lie.sends(power, to, message, random, out);
        let told = &out[before..];
        if told.len() != 1 || told[0].0 != to || told[0].1.encode() != truth {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn hears(&mut self, from: ReplicaId, message: &Message) {
        self.lie.hears(from, message);
    }

    fn replies(&mut self, replies: &mut Vec<Reply>) {
        let truth = replies.clone();
        self.lie.replies(replies);
        if *replies != truth {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn reads(&mut self, power: &Power, reply: &mut ReadReply) {
        let truth = reply.digest;
        self.lie.reads(power, reply);
        if reply.digest != truth {
            self.told.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn diverges(&self) -> bool {
        let diverges = self.lie.diverges();
        self.told.fetch_add(diverges.into(), Ordering::Relaxed);
        diverges
    }
}

/// A group of four of which one lies, and clients with work.
fn stage(row: &Row, seed: u64) -> (Cluster, ReplicaId, Arc<AtomicU64>) {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    let period = 4 * setup.order.mark_interval;
    setup.checkpoints = Some(Checkpoints { period, together: false, recycles: true, pressed: false });
    let mut c = Cluster::new(setup, seed);
    let liar = match row.scene {
        Scene::Leads => ReplicaId(0),
        Scene::Succeeds => ReplicaId(1),
        Scene::Follows | Scene::ViewChanges => ReplicaId(3),
    };
    let told = Arc::new(AtomicU64::new(0));
    let lie = (row.build)(&mut c.random);
    c.corrupt(liar, Box::new(Counted { lie, told: told.clone() }));
    if matches!(row.scene, Scene::ViewChanges | Scene::Succeeds) {
        // The first view comes to an end with places prepared that nobody decided.
        c.filter = Some(Box::new(|_, _, m| match m {
            Message::Propose(p) if p.view == View(1) && p.seq > Seq(14) => Fate::Drop,
            Message::Accept(v) if v.view == View(1) && v.seq > Seq(10) => Fate::Drop,
            _ => Fate::Pass,
        }));
    }
    for _ in 0..3 {
        c.add_client(40);
    }
    if row.id == "B31" {
        (0..2).for_each(|_| c.add_reader(60));
    }
    (c, liar, told)
}

fn answered(c: &mut Cluster, what: &str) {
    let done = c.run_until(SETTLE_MS, Cluster::settled);
    assert!(done, "{what}: no progress\n{}", c.picture());
    let correct = c.correct();
    let state = |r: &ReplicaId| (c.nodes[r.index()].executor.executed, c.nodes[r.index()].executor.replies);
    assert!(
        correct.iter().all(|r| state(r) == state(&correct[0])),
        "{what}: the correct differ\n{}",
        c.picture()
    );
}

fn holds(name: &str) {
    let row = named(name).expect("a name of the catalogue");
    let seeds = std::env::var("DURAMEN_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(5);
    let (mut told_in, mut discards) = (0, 0);
    for seed in 1..=seeds {
        let what = format!("{name} seed={seed}");
        let (mut c, liar, told) = stage(row, seed);
        answered(&mut c, &what);
        let views = c.views_started;
        match row.views {
            Views::Any => {}
            Views::Change => assert!(views > 0, "{what}: the view never changed\n{}", c.picture()),
            Views::Stay => assert_eq!(views, 0, "{what}: the view changed\n{}", c.picture()),
        }
        // Clients that come later are served as well.
        c.add_client(20);
        c.run_ms(300);
        answered(&mut c, &what);
        told_in += u64::from(told.load(Ordering::Relaxed) > 0);
        let against = c.turned_away.iter().filter(|((from, _), _)| *from == liar);
        let named = against.filter(|((_, why), _)| row.discards.iter().any(|d| why.contains(d)));
        discards += named.map(|(_, count)| count).sum::<u64>();
        if row.is_for_clients() {
            // Whatever clients took for an answer, one store explains it.
            assert_eq!(c.check_calls(), 0, "{what}: too long to check");
        }
        if row.id == "B34" {
            assert!(c.core(liar.0).quarantines() > 0, "{what}: it was believed");
        }
        if row.id == "B32" {
            assert!(c.correct().iter().all(|r| c.core(r.0).mark() > Seq(0)), "{what}: no mark is certified");
        }
        if name == "ping-pong" {
            c.run_ms(10_000);
            assert!(c.views_started <= 16, "{what}: {} views begun", c.views_started);
        }
    }
    // Not each run gives each lie an occasion: one group alone cannot be out of order.
    assert!(2 * told_in > seeds, "{name}: the lie was told in {told_in} of {seeds} runs");
    assert!(discards > 0 || row.discards.is_empty(), "{name}: nothing was counted against the liar");
}

macro_rules! rows {
    ($($test:ident: $($name:literal),+;)*) => {
        $(#[test] fn $test() { $(holds($name);)+ })*

        #[test]
        fn every_strategy_is_played() {
            let played = [$($($name),+),*];
            let missing: Vec<_> = ROWS.iter().map(|r| r.name).filter(|n| !played.contains(n)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            let names: std::collections::BTreeSet<_> = ROWS.iter().map(|r| r.name).collect();
            assert_eq!(names.len(), ROWS.len(), "names are unique");
        }
    };
}

rows! {
    a_leader_that_proposes_different_batches_decides_none_twice: "equivocating-proposals", "two-stories";
    who_gets_no_proposals_learns_the_decisions: "withheld-proposals";
    a_leader_that_proposes_nothing_is_replaced: "silent-leader", "silent";
    a_slow_leader_is_borne_or_replaced_and_everybody_is_answered: "late-leader", "dribbling-leader";
    a_censored_client_is_served_by_another_leader: "censorship";
    what_is_no_valid_batch_is_refused_and_costs_the_leader_its_view: "cut-batches", "forged-requests", "misplaced-batches";
    absurd_times_get_no_votes: "future-times", "past-times";
    repeated_and_reordered_requests_execute_once: "duplicate-requests", "reordered-requests", "executed-requests";
    a_replica_that_votes_twice_is_counted_once: "double-votes";
    votes_for_the_far_future_are_discarded: "future-votes";
    votes_for_nothing_decide_nothing: "wrong-votes";
    the_wishes_of_one_replica_change_no_view: "false-stops", "absurd-stops";
    a_forged_height_stops_no_view_change: "forged-height", "empty-reports";
    forged_certificates_are_rejected_and_the_view_change_completes: "duplicate-votes", "absurd-views", "one-invalid-certificate";
    two_reports_of_one_replica_count_as_one: "two-reports", "unknown-places";
    a_sync_that_is_no_quorum_of_reports_begins_no_view: "short-sync", "repeated-reports", "mixed-reports";
    different_syncs_and_rebound_places_fork_nothing: "two-syncs", "rebound-places", "foreign-sync";
    a_replica_that_spoils_each_view_it_can_costs_few_views: "ping-pong";
    false_marks_certify_nothing_and_the_true_ones_do: "corrupt-marks", "withheld-roots", "forged-marks", "divergent-replies";
    what_one_replica_tells_clients_is_believed_by_none: "wrong-replies", "unasked-replies", "false-reads";
    one_replica_that_executes_otherwise_is_quarantined: "divergent-execution";
    floods_and_worthless_signatures_disturb_nobody: "invalid-signatures", "flood";
    mutated_and_repeated_messages_are_counted_and_do_nothing: "mutations", "replays";
}

#[test]
fn a_correct_replica_that_crashes_beside_an_equivocator_votes_twice_for_nothing() {
    for name in ["two-stories", "double-votes", "equivocating-proposals"] {
        for seed in 1..=5 {
            let (mut c, liar, told) = stage(named(name).expect("a name of the catalogue"), seed);
            for (victim, at_us) in [(1, 5_000), (2, 60_000), (1, 130_000)] {
                c.later(at_us, move |c| {
                    c.crash(ReplicaId(victim), Tail::Lost);
                    c.later(20_000, move |c| c.restart(ReplicaId(victim)));
                });
            }
            c.run_ms(200);
            answered(&mut c, &format!("{name} seed={seed}"));
            assert!(told.load(Ordering::Relaxed) > 0 && c.byzantine.contains(liar));
        }
    }
}

#[test]
fn more_than_f_that_execute_otherwise_stop_the_group_with_both_histories_and_the_place() {
    let row = named("divergent-execution").expect("a name of the catalogue");
    for seed in 1..=5 {
        let mut c = Cluster::new(Setup::new(members(FaultModel::Byzantine, 4)), seed);
        c.may_halt = true;
        for liar in [1, 2] {
            let lie = (row.build)(&mut c.random);
            c.corrupt(ReplicaId(liar), lie);
        }
        (0..6).for_each(|_| _ = c.add_client(20));
        c.run_ms(5_000);
        for r in c.correct() {
            let why =
                c.core(r.0).halted().unwrap_or_else(|| panic!("seed={seed}: {r} goes on\n{}", c.picture()));
            assert!(why.contains("audit: at place 8") && why.matches("replies").count() == 2, "{why}");
            assert_eq!(c.core(r.0).mark(), Seq(0), "no side is taken");
        }
        assert!(c.clients.iter().all(|client| client.answered == 0), "seed={seed}: somebody was answered");
    }
}

#[test]
fn the_list_names_every_strategy() {
    let list = super::catalogue::list();
    assert!(ROWS.iter().all(|r| list.contains(r.name) && list.contains(r.what)));
}
