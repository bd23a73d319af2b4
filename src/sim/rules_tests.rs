//! Directed schedules: one story each, and for the rules of order/mutants.rs the proof that breaking them is noticed.

use super::adversary::equivocator::Equivocator;
use super::adversary::silent::Silent;
use super::adversary::usurper::Usurper;
use super::cluster::{Cluster, Fate, Setup};
use super::disk::Tail;
use super::swarm::{Plan, attempt, members};
use crate::order::Input;
use crate::order::mutants::{Mutant, break_rule};
use crate::order::record::OrderRecord;
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;
use crate::wire::auth::ClientAuth;
use crate::wire::batch::Batch;
use crate::wire::messages::*;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

type Said = Rc<RefCell<Vec<(ReplicaId, Vec<u8>)>>>;

fn r(i: u32) -> ReplicaId {
    ReplicaId(i)
}

fn cluster(model: FaultModel, n: u32) -> Cluster {
    Cluster::new(Setup::new(members(model, n)), 1)
}

impl Cluster {
    /// Orders one distinct batch through `at`.
    fn order(&mut self, at: u32, nonce: u64) {
        self.step(r(at), Input::OrderNoop(nonce));
    }

    fn decided(&self, who: &[u32], seq: u64) -> bool {
        who.iter().all(|i| self.core(*i).executed() >= Seq(seq))
    }

    /// Runs until these replicas executed place `seq`.
    fn until_decided(&mut self, who: &[u32], seq: u64, ms: u64) {
        let done = self.run_until(ms, |c| c.decided(who, seq));
        assert!(done, "place {seq} is not executed on {who:?}\n{}", self.picture());
    }

    fn until_view(&mut self, who: &[u32], view: u64, ms: u64) {
        let done = self.run_until(ms, |c| who.iter().all(|i| c.core(*i).view() >= View(view)));
        assert!(done, "view {view} is not entered on {who:?}\n{}", self.picture());
    }

    /// Cuts a replica off, both ways, or joins it again.
    fn cut_off(&mut self, who: u32, cut: bool) {
        for other in self.all() {
            if other != r(who) {
                self.network.cut(r(who), other, cut);
                self.network.cut(other, r(who), cut);
            }
        }
    }

    fn all_in_view(&self, view: u64) -> bool {
        self.correct().iter().all(|i| self.core(i.0).view() == View(view))
    }
}

/// A batch that nobody ordered, for a liar to propose.
fn another_batch(c: &Cluster, seq: u64, seed: u64) -> Batch {
    let wall = 1_700_000_000_000_000_000 + c.now.0;
    Batch::build(&c.setup.hasher(), Seq(seq), WallTime(wall), seed, Vec::new())
}

fn vote_of(c: &Cluster, who: u32, kind: VoteKind, view: u64, seq: u64, digest: Digest) -> Vote {
    let auth = c.setup.authenticator(r(who));
    let signature = auth.sign_vote(kind, View(view), Seq(seq), &digest);
    Vote { view: View(view), seq: Seq(seq), digest, signature }
}

/// Whether `story` fails when `mutant` breaks its rule; it must hold otherwise.
fn told_apart(mutant: Mutant, story: impl Fn()) {
    break_rule(None);
    story();
    break_rule(Some(mutant));
    let noticed = catch_unwind(AssertUnwindSafe(&story)).is_err();
    break_rule(None);
    assert!(noticed, "{mutant:?} goes unnoticed");
}

/// The first of so many seeds that notices a broken rule.
fn swarm_notices(mutant: Mutant, members: Members, seeds: u64) {
    break_rule(Some(mutant));
    let group = Some((members.model(), members.n(), true));
    let noticed = (1..=seeds).find(|seed| attempt(&Plan { group, ..Plan::of(*seed) }).is_err());
    break_rule(None);
    println!("{mutant:?}: noticed by seed {noticed:?}");
    assert!(noticed.is_some(), "{mutant:?} goes unnoticed by {seeds} seeds");
}

// ---- RULES 1 ---------------------------------------------------------------------------------------------------------

#[test]
fn a_view_that_was_entered_but_never_began_lets_its_leader_certify_nothing() {
    told_apart(Mutant::RestoresNormal, || {
        let mut c = cluster(FaultModel::Byzantine, 4);
        // 1 lies: it never sends the SYNC of view 2, which it leads.
        c.corrupt(r(1), Box::new(Silent::kinds(&[6])));
        c.run_ms(20);
        // Replica 0 alone decides x in view 1.
        c.filter = Some(Box::new(|from, to, m| match m {
            Message::Accept(_) | Message::Decided(_) if to != r(0) => Fate::Drop,
            Message::Status(_) | Message::Stop(_) | Message::StopData(_) if from == r(0) => Fate::Drop,
            _ => Fate::Pass,
        }));
        c.order(0, 1);
        c.until_decided(&[0], 1, 50);
        let x = c.history.at(Seq(1)).expect("executed");
        c.cut_off(0, true);
        c.until_view(&[2, 3], 2, 2000);
        c.run_ms(5);
        for i in [2, 3] {
            c.crash(r(i), Tail::Kept);
            c.restart(r(i));
        }
        // The leader of view 2 proposes y without a SYNC, and both are ready to vote.
        let y = another_batch(&c, 1, 9);
        assert_ne!(x, y.digest);
        let view = View(2);
        for to in [2, 3] {
            let batch = y.bytes.clone();
            c.inject(r(1), r(to), Message::Propose(Propose { view, seq: Seq(1), batch }));
            let write = vote_of(&c, 1, VoteKind::Write, 2, 1, y.digest);
            c.inject(r(1), r(to), Message::Write(write));
            let accept = vote_of(&c, 1, VoteKind::Accept, 2, 1, y.digest);
            c.inject(r(1), r(to), Message::Accept(accept));
        }
        c.filter = None;
        c.run_ms(5);
        c.cut_off(0, false);
        c.order(2, 2);
        c.until_decided(&[0, 2, 3], 1, 5000);
        assert_eq!(c.history.at(Seq(1)), Some(x));
    });
}

// ---- RULES 2 ---------------------------------------------------------------------------------------------------------

#[test]
fn a_report_names_the_places_whose_writes_are_still_under_way() {
    told_apart(Mutant::ReportsDurableOnly, || {
        let mut c = cluster(FaultModel::Crash, 3);
        c.order(0, 1);
        c.until_decided(&[0, 1, 2], 1, 100);
        c.hold_disk(r(1), true);
        c.hold_disk(r(2), true);
        // From here on the old leader hears ACCEPTs only, and says nothing after its proposal.
        c.order(0, 2);
        c.run_ms(5);
        c.filter = Some(Box::new(|from, to, m| match m {
            Message::Accept(_) if to == r(0) => Fate::Pass,
            _ if from == r(0) || to == r(0) => Fate::Drop,
            _ => Fate::Pass,
        }));
        c.until_view(&[1, 2], 2, 2000);
        c.hold_disk(r(1), false);
        c.hold_disk(r(2), false);
        c.order(1, 3);
        c.until_decided(&[1, 2], 2, 5000);
        c.run_ms(50);
        c.filter = None;
        c.order(1, 4);
        c.until_decided(&[0, 1, 2], 3, 5000);
    });
}

#[test]
fn an_accept_of_a_lower_view_never_leaves_after_a_later_view_is_entered() {
    let mut c = cluster(FaultModel::Crash, 3);
    c.order(0, 1);
    c.until_decided(&[0, 1, 2], 1, 100);
    c.hold_disk(r(1), true);
    c.hold_disk(r(2), true);
    c.order(0, 2);
    c.run_ms(5);
    c.filter = Some(Box::new(|from, _, m| match m {
        Message::Accept(v) => {
            assert!(v.view > View(1) || from == r(0), "an ACCEPT of view 1 leaves {from}");
            Fate::Pass
        }
        _ if from == r(0) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.until_view(&[1, 2], 2, 2000);
    c.hold_disk(r(1), false);
    c.hold_disk(r(2), false);
    c.until_decided(&[1, 2], 2, 5000);
}

#[test]
fn a_stop_data_is_the_same_after_a_restart() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    let said: Said = Rc::default();
    let heard = said.clone();
    // Nobody completes view 2.
    c.filter = Some(Box::new(move |from, _, m| {
        if let Message::StopData(d) = m
            && d.view == View(2)
        {
            heard.borrow_mut().push((from, d.unsigned()));
        }
        let drop = matches!(m, Message::Sync(_)) || matches!(m, Message::Accept(v) if v.seq > Seq(3));
        if drop { Fate::Drop } else { Fate::Pass }
    }));
    for nonce in 1..10 {
        c.order(0, nonce);
    }
    c.run_ms(30);
    c.crash(r(0), Tail::Torn);
    c.until_view(&[1, 2, 3], 2, 2000);
    c.run_ms(60);
    for i in 1..4 {
        c.crash(r(i), Tail::Lost);
        c.restart(r(i));
    }
    c.run_ms(80);
    let said = said.borrow();
    for i in 1..4 {
        let mut own: Vec<_> = said.iter().filter(|(from, _)| *from == r(i)).map(|(_, d)| d).collect();
        assert!(own.len() > 3, "{i} reported {} times", own.len());
        own.dedup();
        assert_eq!(own.len(), 1, "{i} reported different things");
    }
}

// ---- RULES 3, 4, 5 ---------------------------------------------------------------------------------------------------

#[test]
fn a_digest_list_reaches_back_to_the_first_place() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.cut_off(3, true);
    c.add_client(200);
    assert!(c.run_until(20_000, |c| c.core(0).mark() > Seq(64)), "{}", c.picture());
    assert_eq!(c.core(3).executed(), Seq(0));
    c.cut_off(3, false);
    assert!(c.run_until(20_000, Cluster::settled), "{}", c.picture());
}

#[test]
fn no_vote_above_the_old_window_leaves_before_the_mark_is_durable() {
    told_apart(Mutant::WindowBeforeMark, || {
        let mut c = cluster(FaultModel::Byzantine, 4);
        let window = c.setup.order.window;
        c.order(0, 1);
        c.until_decided(&[0, 1, 2, 3], 1, 100);
        c.hold_disk(r(3), true);
        // Marks of the others let 3 append one; it cannot become durable.
        c.filter = Some(Box::new(move |from, _, m| {
            if let Message::Write(v) | Message::Accept(v) = m
                && from == r(3)
            {
                assert!(v.seq.0 <= window, "3 votes at {} below a mark that is not durable", v.seq);
            }
            Fate::Pass
        }));
        c.add_client(200);
        assert!(c.run_until(5000, |c| c.core(0).mark().0 > 2 * window), "{}", c.picture());
        c.filter = None;
        c.hold_disk(r(3), false);
        assert!(c.run_until(20_000, Cluster::settled), "{}", c.picture());
    });
}

#[test]
fn a_replica_behind_the_mark_catches_up_by_digest_lists_while_load_continues() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        let mut c = cluster(model, n);
        let last = n - 1;
        c.crash(r(last), Tail::Kept);
        for _ in 0..3 {
            c.add_client(1000);
        }
        assert!(c.run_until(20_000, |c| c.core(0).mark() > Seq(64)), "{}", c.picture());
        c.restart(r(last));
        let lists = Rc::new(RefCell::new(0));
        let seen = lists.clone();
        c.filter = Some(Box::new(move |_, to, m| {
            *seen.borrow_mut() += u64::from(to == r(last) && matches!(m, Message::Chain(_)));
            Fate::Pass
        }));
        let start = c.core(0).executed();
        let done = c.run_until(5000, |c| c.core(last).executed().0 + 16 > c.core(0).executed().0);
        assert!(done, "{}", c.picture());
        assert!(c.clients.iter().any(|k| !k.content()), "load ended first");
        assert!(c.core(0).executed() >= start && *lists.borrow() > 0, "no digest list was used");
        assert!(c.run_until(30_000, Cluster::settled), "{}", c.picture());
        let learnt = c.nodes[last as usize].disk.records();
        assert!(learnt.iter().any(|x| matches!(x, OrderRecord::Batch { .. })));
    }
}

#[test]
fn a_single_restarted_follower_votes_again() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.add_client(20);
    assert!(c.run_until(5000, Cluster::settled));
    c.crash(r(2), Tail::Lost);
    c.restart(r(2));
    // Whoever restarted is needed: another one goes.
    c.crash(r(3), Tail::Lost);
    c.add_client(20);
    assert!(c.run_until(3000, Cluster::settled), "{}", c.picture());
}

// ---- RULES 6 ---------------------------------------------------------------------------------------------------------

#[test]
fn a_power_loss_of_all_under_load_silences_nobody() {
    for tail in [Tail::Lost, Tail::Kept, Tail::Torn] {
        for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
            let mut c = cluster(model, n);
            c.add_client(400);
            for _ in 0..4 {
                c.run_ms(30);
                c.all().into_iter().for_each(|i| c.crash(i, tail));
                c.all().into_iter().for_each(|i| c.restart(i));
                let before = c.history.end();
                // A few timeouts of 100 ms.
                let done = c.run_until(1000, |c| c.history.end().0 > before.0 + 3);
                assert!(done || c.settled(), "{tail:?}: {}", c.picture());
            }
            assert!(c.run_until(10_000, Cluster::settled), "{}", c.picture());
        }
    }
}

#[test]
fn an_accept_never_leaves_before_its_record_is_durable() {
    swarm_notices(Mutant::VotesBeforeDurable, members(FaultModel::Crash, 3), 600);
}

// ---- RULES 8 ---------------------------------------------------------------------------------------------------------

#[test]
fn a_write_certificate_executes_nothing() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    // 2 alone sees the WRITEs for place 1, and nobody its report.
    c.filter = Some(Box::new(|from, to, m| match m {
        Message::Write(_) if to != r(2) => Fate::Drop,
        Message::StopData(_) | Message::Status(_) | Message::Stop(_) if from == r(2) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.order(0, 1);
    c.run_ms(10);
    assert_eq!(c.core(2).decided(), Seq(0));
    c.cut_off(2, true);
    c.cut_off(0, true);
    c.filter = None;
    c.run_ms(300);
    c.cut_off(0, false);
    c.cut_off(2, true);
    c.until_view(&[0, 1, 3], 2, 3000);
    c.order(1, 2);
    c.until_decided(&[0, 1, 3], 1, 3000);
    c.cut_off(2, false);
    c.order(1, 3);
    c.until_decided(&[0, 1, 2, 3], 2, 5000);
}

#[test]
fn a_batch_that_is_only_prepared_is_not_executed() {
    swarm_notices(Mutant::ExecutesPrepared, members(FaultModel::Crash, 3), 60);
}

// ---- RULES 9 (crash) -------------------------------------------------------------------------------------------------

#[test]
fn a_new_leader_reads_only_after_all_that_its_view_change_chose_is_executed() {
    let mut c = cluster(FaultModel::Crash, 3);
    c.order(0, 1);
    c.until_decided(&[0, 1, 2], 1, 100);
    // 0 decides place 2 and may have answered it; 1 and 2 have only accepted.
    c.filter = Some(Box::new(|_, to, m| match m {
        Message::Accept(_) if to != r(0) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.order(0, 2);
    c.until_decided(&[0], 2, 100);
    c.crash(r(0), Tail::Kept);
    let began = c.run_until(3000, |c| c.core(1).leads());
    assert!(began, "{}", c.picture());
    assert_eq!(c.core(1).executed(), Seq(1));
    c.step(r(1), Input::ReadIndex(7));
    assert_eq!(c.nodes[1].refused, [7]);
    c.filter = None;
    c.until_decided(&[1, 2], 2, 3000);
    c.step(r(1), Input::ReadIndex(8));
    c.run_ms(20);
    assert_eq!(c.nodes[1].ready, [8]);
}

#[test]
fn a_leader_that_was_left_behind_answers_no_read() {
    let mut c = cluster(FaultModel::Crash, 3);
    c.order(0, 1);
    c.until_decided(&[0, 1, 2], 1, 100);
    c.cut_off(0, true);
    c.until_view(&[1, 2], 2, 3000);
    c.step(r(0), Input::ReadIndex(1));
    c.run_ms(200);
    assert!(c.nodes[0].ready.is_empty());
    c.cut_off(0, false);
    c.run_ms(500);
    assert!(c.nodes[0].ready.is_empty());
    assert_eq!(c.nodes[0].refused, [1]);
}

// ---- RULES 11 --------------------------------------------------------------------------------------------------------

#[test]
fn who_wishes_for_the_next_view_goes_on_voting_and_takes_the_wish_back() {
    told_apart(Mutant::WishIsStop, || {
        let mut c = cluster(FaultModel::Byzantine, 4);
        c.order(0, 1);
        c.until_decided(&[0, 1, 2, 3], 1, 100);
        c.crash(r(3), Tail::Kept);
        // One bad link: 2 hears no heartbeat of the leader.
        c.filter = Some(Box::new(|from, to, m| match m {
            Message::Status(_) if from == r(0) && to == r(2) => Fate::Drop,
            _ => Fate::Pass,
        }));
        let wishes = c.run_until(1000, |c| c.core(2).status().wish == View(2));
        assert!(wishes);
        c.order(0, 2);
        c.until_decided(&[0, 1, 2], 2, 50);
        c.filter = None;
        let back = c.run_until(1000, |c| c.core(2).status().wish == View(1));
        assert!(back, "the wish stays");
        assert_eq!(c.core(1).view(), View(1), "one bad link deposed a leader");
    });
}

#[test]
fn a_wish_is_taken_back_also_when_nothing_is_ordered() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.run_ms(50);
    c.network.cut(r(0), r(2), true);
    assert!(c.run_until(1000, |c| c.core(2).status().wish == View(2)));
    c.network.cut(r(0), r(2), false);
    assert!(c.run_until(300, |c| c.core(2).status().wish == View(1)));
    c.run_ms(1000);
    assert!(c.all_in_view(1));
}

#[test]
fn a_leader_alone_in_its_view_gives_it_up() {
    let mut c = cluster(FaultModel::Crash, 3);
    c.order(0, 1);
    c.until_decided(&[0, 1, 2], 1, 100);
    c.crash(r(2), Tail::Kept);
    // 1 enters view 2 alone, on a wish of 2 that nobody else heard.
    c.inject(r(2), r(1), Message::Stop(Stop { view: View(2) }));
    c.network.cut(r(0), r(1), true);
    c.network.cut(r(1), r(0), true);
    c.until_view(&[1], 2, 2000);
    c.network.cut(r(0), r(1), false);
    c.network.cut(r(1), r(0), false);
    c.order(0, 2);
    c.until_decided(&[0, 1], 2, 5000);
}

// ---- RULES 12 --------------------------------------------------------------------------------------------------------

#[test]
fn a_time_out_of_bounds_withholds_the_write_and_deposes_nobody() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.nodes[2].skew = 3_600_000_000_000;
    let wrote = Rc::new(RefCell::new(0));
    let seen = wrote.clone();
    c.filter = Some(Box::new(move |from, _, m| {
        *seen.borrow_mut() += u64::from(from == r(2) && matches!(m, Message::Write(_)));
        Fate::Pass
    }));
    c.add_client(30);
    assert!(c.run_until(5000, Cluster::settled), "{}", c.picture());
    assert_eq!(*wrote.borrow(), 0, "2 wrote for times an hour off its clock");
    assert!(c.all_in_view(1), "a clock deposed a leader");
}

#[test]
fn a_write_certificate_overrides_another_proposal() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.run_ms(20);
    c.byzantine.insert(r(0));
    // 3 gets y instead of x, and only votes afterwards.
    c.filter = Some(Box::new(|from, to, m| match m {
        Message::Propose(_) if from == r(0) && to == r(3) => Fate::Drop,
        Message::Decided(_) if to == r(3) => Fate::Drop,
        _ => Fate::Pass,
    }));
    let y = another_batch(&c, 1, 9);
    let propose = Propose { view: View(1), seq: Seq(1), batch: y.bytes.clone() };
    c.inject(r(0), r(3), Message::Propose(propose));
    c.order(0, 1);
    c.until_decided(&[1, 2, 3], 1, 1000);
    assert_ne!(c.history.at(Seq(1)), Some(y.digest));
    assert!(c.nodes[3].disk.records().iter().any(|x| matches!(x, OrderRecord::Prepared { .. })));
}

#[test]
fn others_vouch_for_a_client_whose_mac_fails_here() {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    setup.client_auth = ClientAuth::Mac;
    let mut c = Cluster::new(setup, 1);
    c.run_ms(20);
    c.crash(r(2), Tail::Kept);
    let client = c.add_client(30);
    c.clients[client].lies_to.insert(r(3));
    // Without the vote of 3 there is no quorum.
    assert!(c.run_until(5000, Cluster::settled), "{}", c.picture());
    assert_eq!(c.core(3).view(), View(1));
}

#[test]
fn a_key_whose_macs_fail_signs_from_then_on_and_costs_few_views() {
    let mut setup = Setup::new(members(FaultModel::Byzantine, 4));
    setup.client_auth = ClientAuth::Mac;
    let mut c = Cluster::new(setup, 1);
    c.run_ms(20);
    let (liar, honest) = (c.add_client(60), c.add_client(60));
    // Two of four cannot vouch: no quorum writes what only a MAC proves.
    c.clients[liar].lies_to = [r(1), r(2)].into_iter().collect();
    assert!(c.run_until(20_000, Cluster::settled), "{}", c.picture());
    assert!(c.clients[liar].signs() && !c.clients[honest].signs());
    assert!(c.core(0).view() <= View(3), "a lying client cost {} views", c.core(0).view());
}

#[test]
fn an_invalid_batch_gets_its_leader_deposed() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.run_ms(20);
    c.byzantine.insert(r(0));
    for to in 1..4 {
        let batch = bytes::Bytes::from_static(b"no batch");
        c.inject(r(0), r(to), Message::Propose(Propose { view: View(1), seq: Seq(1), batch }));
    }
    c.until_view(&[1, 2, 3], 2, 50);
}

#[test]
fn a_follower_cannot_spoil_the_views_of_correct_leaders_with_a_sync_of_its_own() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.corrupt(r(3), Box::new(Usurper::new(0b0100)));
    c.run_ms(20);
    // Place 1 is prepared by replica 1 alone, the leader of view 2; 3 shows 2 a choice without it.
    c.filter = Some(Box::new(|from, to, m| match m {
        Message::Write(_) if to != r(1) => Fate::Drop,
        Message::Sync(_) if from == r(1) => Fate::Hold,
        _ => Fate::Pass,
    }));
    c.order(0, 1);
    c.run_ms(10);
    let prepared = |c: &Cluster, i: usize| {
        c.nodes[i].disk.records().iter().any(|x| matches!(x, OrderRecord::Prepared { .. }))
    };
    assert!(prepared(&c, 1) && !prepared(&c, 2) && !prepared(&c, 0));
    c.filter = Some(Box::new(|from, _, m| match m {
        Message::Sync(_) if from == r(1) => Fate::Hold,
        _ => Fate::Pass,
    }));
    for to in [0, 1, 2] {
        c.inject(r(3), r(to), Message::Stop(Stop { view: View(2) }));
    }
    c.order(3, 7);
    for i in [0, 1, 2] {
        let batch = bytes::Bytes::from_static(b"no batch");
        if i != 0 {
            c.byzantine.insert(r(0));
            c.inject(r(0), r(i), Message::Propose(Propose { view: View(1), seq: Seq(2), batch }));
            c.byzantine.remove(r(0));
        }
    }
    c.until_view(&[0, 1, 2], 2, 1000);
    c.run_ms(30);
    assert_eq!(c.core(2).mode(), Mode::Changing, "2 began view 2 by a follower's SYNC");
    c.filter = None;
    c.release(|_, _, _| true);
    c.until_decided(&[0, 1, 2], 1, 60);
    assert!([0, 1, 2].iter().all(|i| c.core(*i).view() == View(2)));
}

// ---- RULES 13 --------------------------------------------------------------------------------------------------------

#[test]
fn three_votes_of_five_are_no_quorum() {
    for seed in 1..20 {
        let members = Members::new(FaultModel::Byzantine, 5, 1).expect("5 bear 1");
        let mut c = Cluster::new(Setup::new(members), seed);
        // {0, 1, 2} would certify x and {0, 3, 4} y.
        c.corrupt(r(0), Box::new(Equivocator::new(0b11000)));
        c.add_client(20);
        assert!(c.run_until(20_000, Cluster::settled), "{}", c.picture());
    }
}

// ---- RULES 14, 16 ----------------------------------------------------------------------------------------------------

#[test]
fn every_request_is_answered_across_a_crash_of_the_leader() {
    for (model, n) in [(FaultModel::Crash, 3), (FaultModel::Byzantine, 4)] {
        let mut c = cluster(model, n);
        c.add_client(100);
        c.run_ms(40);
        c.crash(r(0), Tail::Torn);
        assert!(c.run_until(5000, Cluster::settled), "{}", c.picture());
        assert_eq!(c.history.acknowledged, 100);
    }
}

#[test]
fn a_group_sent_again_by_anybody_executes_nothing_twice() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    let client = c.add_client(50);
    for _ in 0..400 {
        c.run_ms(2);
        let mut random = c.random.fork();
        if let Some(bytes) = c.clients[client].old_group(&mut random) {
            let to = r(random.below(4) as u32);
            c.group(to, ClientId(0), bytes);
        }
    }
    assert!(c.run_until(5000, Cluster::settled), "{}", c.picture());
}

// ---- ALGORITHMS a.4, and restarts ------------------------------------------------------------------------------------

#[test]
fn what_one_replica_decided_survives_a_liar_and_a_laggard_that_report_nothing() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.run_ms(20);
    c.byzantine.insert(r(0));
    // 0 leads and lies: it votes, but its ACCEPT reaches 3 only; 2 hears nothing at all.
    c.filter = Some(Box::new(|from, to, m| match m {
        _ if to == r(2) => Fate::Drop,
        Message::Accept(_) if to != r(3) => Fate::Drop,
        Message::Decided(_) => Fate::Drop,
        Message::StopData(_) | Message::Sync(_) if from == r(0) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.order(0, 1);
    c.until_decided(&[3], 1, 100);
    let v = c.history.at(Seq(1));
    assert_eq!(c.core(1).decided(), Seq(0));
    c.cut_off(3, true);
    // The liar's report says nothing of place 1.
    let mut empty = StopData {
        view: View(2),
        sender: r(0),
        mark: MarkCertificate::default(),
        slots: Vec::new(),
        unknown: Vec::new(),
        signature: Signature::NONE,
    };
    c.setup.authenticator(r(0)).sign_stop_data(&mut empty);
    c.filter = Some(Box::new(|from, _, m| match m {
        Message::StopData(_) | Message::Decided(_) if from == r(0) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.crash(r(0), Tail::Kept);
    for to in [1, 2] {
        c.inject(r(0), r(to), Message::Stop(Stop { view: View(2) }));
    }
    c.until_view(&[1, 2], 2, 3000);
    c.run_ms(5);
    c.inject(r(0), r(1), Message::StopData(std::sync::Arc::new(empty)));
    assert!(c.run_until(100, |c| c.core(1).leads()), "{}", c.picture());
    c.cut_off(3, false);
    c.order(1, 2);
    c.until_decided(&[1, 2, 3], 2, 5000);
    assert_eq!(c.history.at(Seq(1)), v);
}

#[test]
fn a_leader_that_restarted_proposes_nothing_in_its_view() {
    told_apart(Mutant::RestartedLeaderLeads, || {
        let mut c = cluster(FaultModel::Crash, 3);
        c.order(0, 1);
        c.until_decided(&[0, 1, 2], 1, 100);
        // The proposal for place 2 leaves, its own record is lost in the crash; one follower gets it late.
        c.hold_disk(r(0), true);
        c.filter = Some(Box::new(|from, _, m| match m {
            Message::Propose(p) if from == r(0) && p.seq == Seq(2) => Fate::Hold,
            _ => Fate::Pass,
        }));
        c.order(0, 2);
        c.run_ms(2);
        assert_eq!(c.held.len(), 2);
        c.crash(r(0), Tail::Lost);
        c.hold_disk(r(0), false);
        c.restart(r(0));
        c.filter = Some(Box::new(|from, _, m| {
            let again = from == r(0) && matches!(m, Message::Propose(p) if p.view == View(1));
            assert!(!again, "the restarted leader proposes again in view 1");
            Fate::Pass
        }));
        c.release(|_, to, _| to == r(1));
        c.order(0, 3);
        c.run_ms(300);
        c.filter = None;
        c.order(2, 4);
        c.until_decided(&[0, 1, 2], 3, 5000);
    });
}

#[test]
fn a_restarted_leader_is_left_at_once() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        let mut c = cluster(model, n);
        c.add_client(10);
        assert!(c.run_until(2000, Cluster::settled));
        c.crash(r(0), Tail::Kept);
        c.restart(r(0));
        let all: Vec<u32> = (0..n).collect();
        c.until_view(&all, 2, 90);
        c.add_client(10);
        assert!(c.run_until(2000, Cluster::settled), "{}", c.picture());
    }
}

#[test]
fn votes_that_come_before_the_proposal_count() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        let mut c = cluster(model, n);
        c.run_ms(20);
        let last = n - 1;
        c.filter = Some(Box::new(move |from, to, m| match m {
            Message::Propose(_) if to == r(last) => Fate::Hold,
            Message::Fetch(_) | Message::FetchBatch(_) if from == r(last) => Fate::Drop,
            _ => Fate::Pass,
        }));
        c.order(0, 1);
        c.until_decided(&[0], 1, 100);
        c.run_ms(30);
        assert_eq!(c.core(last).decided(), Seq(0));
        c.release(|_, _, _| true);
        c.until_decided(&[last], 1, 5);
    }
}

#[test]
fn two_replicas_crash_between_the_proposal_and_the_end_of_their_log_writes() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        for tail in [Tail::Lost, Tail::Kept] {
            let mut c = cluster(model, n);
            c.order(0, 1);
            c.until_decided(&[0, 1, 2], 1, 100);
            c.hold_disk(r(1), true);
            c.hold_disk(r(2), true);
            c.order(0, 2);
            c.run_ms(10);
            for i in [1, 2] {
                c.crash(r(i), tail);
                c.hold_disk(r(i), false);
                c.restart(r(i));
            }
            let all: Vec<u32> = (0..n).collect();
            c.until_decided(&all, 2, 3000);
        }
    }
}

#[test]
fn every_replica_restarting_at_once_is_back_within_a_few_timeouts() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3), (FaultModel::Byzantine, 7)] {
        let mut c = cluster(model, n);
        c.add_client(20);
        assert!(c.run_until(2000, Cluster::settled));
        for _ in 0..5 {
            c.all().into_iter().for_each(|i| c.crash(i, Tail::Kept));
            c.all().into_iter().for_each(|i| c.restart(i));
            let back = c.run_until(300, |c| c.all().iter().any(|i| c.core(i.0).leads()));
            assert!(back, "nobody leads\n{}", c.picture());
            c.add_client(5);
            assert!(c.run_until(600, Cluster::settled), "{}", c.picture());
        }
    }
}

#[test]
fn a_lost_mark_does_not_use_up_the_window() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    let window = c.setup.order.window;
    let first = Rc::new(RefCell::new(std::collections::BTreeSet::new()));
    // The first MARK for each place is lost on every link.
    c.filter = Some(Box::new(move |from, to, m| match m {
        Message::Mark(k) if first.borrow_mut().insert((from, to, k.statement.seq)) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.add_client(200);
    assert!(c.run_until(10_000, |c| c.core(0).mark().0 > 3 * window), "{}", c.picture());
    assert!(c.run_until(20_000, Cluster::settled), "{}", c.picture());
}

#[test]
fn absurd_numbers_of_an_authentic_replica_are_discarded() {
    for numbers in [0, 1, 2, 31, 32, 33, u64::MAX - 1, u64::MAX] {
        for other in [0, 1, 64, u64::MAX] {
            let mut c = cluster(FaultModel::Byzantine, 4);
            c.byzantine.insert(r(0));
            c.add_client(20);
            c.run_ms(40);
            let (view, seq, digest) = (View(numbers), Seq(other), Digest([1; 32]));
            let write = vote_of(&c, 0, VoteKind::Write, numbers, other, digest);
            let accept = vote_of(&c, 0, VoteKind::Accept, numbers, other, digest);
            let statement = MarkStatement { seq, batches: digest, replies: digest, state: Digest::ZERO };
            let mark = Mark { statement, signature: c.setup.authenticator(r(0)).sign_mark(&statement) };
            let batch = another_batch(&c, other, 1).bytes;
            let status = |mode| Status {
                view,
                wish: view,
                mode,
                mark: seq,
                decided: seq,
                highest: seq,
                base: Seq(0),
                rooted: Seq(0),
            };
            let all = [
                Message::Write(write),
                Message::Accept(accept),
                Message::Mark(mark),
                Message::Propose(Propose { view, seq, batch: batch.clone() }),
                Message::Stop(Stop { view }),
                Message::Status(status(Mode::Normal)),
                Message::Status(status(Mode::Changing)),
                Message::Fetch(Fetch { from: seq, to: Seq(numbers) }),
                Message::Fetch(Fetch { from: Seq(numbers), to: seq }),
                Message::FetchBatch(FetchBatch { seq, digest }),
                Message::BatchIs(BatchIs { seq, batch }),
                Message::ReadCheck(ReadCheck { view, nonce: other }),
                Message::ReadOk(ReadOk { view, nonce: other }),
            ];
            for message in all {
                c.inject(r(0), r(1), message);
            }
            c.run_ms(200);
            assert!(c.run_until(10_000, Cluster::settled), "{}", c.picture());
        }
    }
}

// ---- every broken rule is noticed by random runs too ------------------------------------------------------------------

#[test]
fn a_restarted_leader_that_goes_on_is_noticed_by_random_runs() {
    swarm_notices(Mutant::RestartedLeaderLeads, members(FaultModel::Crash, 3), 400);
}

#[test]
fn a_replica_that_entered_a_view_alone_is_followed_there() {
    let mut c = cluster(FaultModel::Crash, 3);
    c.order(0, 1);
    c.until_decided(&[0, 1, 2], 1, 100);
    // 1 hears a wish of 2, for a moment, and nothing of 0.
    c.network.cut(r(0), r(1), true);
    assert!(c.run_until(1000, |c| c.core(1).status().wish == View(2)));
    c.inject(r(2), r(1), Message::Stop(Stop { view: View(2) }));
    c.network.cut(r(0), r(1), false);
    assert_eq!(c.core(1).view(), View(2));
    assert_eq!(c.core(0).view(), View(1));
    let together = c.run_until(1000, |c| c.all_in_view(2) && c.core(1).leads());
    assert!(together, "{}", c.picture());
}

// ---- what a review broke ---------------------------------------------------------------------------------------------

/// As [`told_apart`]; and the story must fail by these words, not by anything else.
fn told_apart_by(words: &str, mutant: Mutant, story: impl Fn()) {
    break_rule(None);
    story();
    break_rule(Some(mutant));
    let failure = catch_unwind(AssertUnwindSafe(&story)).expect_err("the broken rule goes unnoticed");
    break_rule(None);
    let said = failure.downcast_ref::<String>().cloned();
    let said = said.or_else(|| failure.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
    assert!(said.contains(words), "{mutant:?} fails otherwise: {said}");
}

/// 1 lies and leads view 2. Its own MARK went to 0 only: 0 and 1 hold the mark, 2 executed as far without it, 3 nothing.
fn places_below_a_mark_are_proposed_again(restart: bool) {
    let mut c = cluster(FaultModel::Byzantine, 4);
    let last = c.setup.order.mark_interval;
    c.byzantine.insert(r(1));
    c.cut_off(3, true);
    c.filter = Some(Box::new(|from, to, m| match m {
        Message::Mark(_) if from == r(1) && to != r(0) => Fate::Drop,
        _ => Fate::Pass,
    }));
    for place in 1..=last {
        c.order(0, place);
        c.until_decided(&[0, 1, 2], place, 100);
    }
    let marked = |c: &Cluster| [0, 1].iter().all(|i| c.core(*i).mark() == Seq(last));
    assert!(c.run_until(100, marked), "{}", c.picture());
    assert_eq!(c.core(2).mark(), Seq(0));
    let x = c.history.at(Seq(1)).expect("executed");
    let y = another_batch(&c, 1, 9);
    assert_ne!(x, y.digest);

    // 3 comes instead of 0, and nobody learns what is decided.
    let votes = Rc::new(RefCell::new(0));
    let (seen, wrong) = (votes.clone(), y.digest);
    c.filter = Some(Box::new(move |from, _, m| match m {
        Message::Write(v) | Message::Accept(v) if v.digest == wrong && from != r(1) => {
            *seen.borrow_mut() += 1;
            Fate::Pass
        }
        Message::Mark(_) | Message::Chain(_) | Message::Decided(_) | Message::BatchIs(_) => Fate::Drop,
        Message::Fetch(_) => Fate::Drop,
        _ => Fate::Pass,
    }));
    c.cut_off(3, false);
    c.cut_off(0, true);
    if restart {
        // Its decisions are gone: nothing but the SYNC says that these places are closed.
        c.crash(r(2), Tail::Kept);
        c.restart(r(2));
    }
    let began = |c: &Cluster| {
        [2, 3].iter().all(|i| c.core(*i).view() == View(2) && c.core(*i).mode() == Mode::Normal)
    };
    assert!(c.run_until(2000, began), "{}", c.picture());
    assert_eq!(c.core(2).executed(), Seq(if restart { 0 } else { last }));
    assert_eq!((c.core(2).mark(), c.core(3).executed()), (Seq(0), Seq(0)));
    for to in [2, 3] {
        let propose = Propose { view: View(2), seq: Seq(1), batch: y.bytes.clone() };
        c.inject(r(1), r(to), Message::Propose(propose));
        let (write, accept) = (VoteKind::Write, VoteKind::Accept);
        let write = Message::Write(vote_of(&c, 1, write, 2, 1, y.digest));
        let accept = Message::Accept(vote_of(&c, 1, accept, 2, 1, y.digest));
        c.inject(r(1), r(to), write);
        c.inject(r(1), r(to), accept);
    }
    c.run_ms(20);
    assert_eq!(*votes.borrow(), 0, "votes below the mark of the SYNC");
    for i in [2, 3] {
        let prepares = |x: &OrderRecord| match x {
            OrderRecord::Prepared { certificate, .. } => certificate.digest == y.digest,
            _ => false,
        };
        assert!(!c.nodes[i].disk.records().iter().any(prepares), "{i} prepared it");
    }

    c.filter = None;
    c.cut_off(0, false);
    c.order(2, 100);
    c.until_decided(&[0, 2, 3], last + 1, 5000);
    assert_eq!(c.history.at(Seq(1)), Some(x));
}

#[test]
fn nobody_votes_below_the_mark_of_a_sync_that_its_own_mark_lacks() {
    told_apart_by("agreement", Mutant::VotesBelowMark, || places_below_a_mark_are_proposed_again(false));
}

#[test]
fn who_forgot_its_decisions_votes_for_nothing_below_the_mark_of_a_sync() {
    told_apart_by("agreement", Mutant::VotesBelowMark, || places_below_a_mark_are_proposed_again(true));
}

#[test]
fn a_leader_that_learns_decisions_of_a_later_view_answers_nothing_that_its_readers_miss() {
    told_apart_by("readers miss", Mutant::DeposedLeaderAnswers, || {
        let mut c = cluster(FaultModel::Crash, 3);
        c.order(0, 1);
        c.until_decided(&[0, 1, 2], 1, 100);
        // 0 is cut off and asks 2 for a place it proposed; that question stays under way.
        let asked = Rc::new(RefCell::new(false));
        let once = asked.clone();
        c.filter = Some(Box::new(move |from, to, m| match m {
            Message::Fetch(_) if from == r(0) && to == r(2) && !once.replace(true) => Fate::Hold,
            Message::Decided(_) if from == r(2) && to == r(0) => Fate::Pass,
            _ if from == r(0) || to == r(0) => Fate::Drop,
            // The leader of view 2 does not hear that its place is decided.
            Message::Accept(_) | Message::Decided(_) if to == r(1) => Fate::Drop,
            _ => Fate::Pass,
        }));
        c.order(0, 2);
        let began = |c: &Cluster| c.core(1).leads() && c.core(2).view() == View(2) && !c.held.is_empty();
        assert!(c.run_until(1000, began), "{}", c.picture());
        assert!(c.core(0).leads(), "it does not know yet");
        let client = c.add_client(1);
        c.until_decided(&[2], 2, 20);
        c.release(|_, _, _| true);
        c.until_decided(&[0], 2, 20);
        // A client goes on as soon as its session is opened.
        c.run_ms(25);
        c.step(r(0), Input::ReadIndex(7));
        c.step(r(1), Input::ReadIndex(8));
        c.run_ms(5);
        assert_eq!((c.core(1).executed(), &c.nodes[1].ready[..]), (Seq(1), &[8][..]), "{}", c.picture());
        assert_eq!(c.clients[client].left, 1, "a client was answered what readers miss");
        assert!(!c.core(0).leads());
        assert_eq!(c.nodes[0].refused, [7]);
        c.filter = None;
        assert!(c.run_until(5000, Cluster::settled), "{}", c.picture());
    });
}

#[test]
fn a_mark_that_only_a_liar_can_serve_stops_no_view() {
    told_apart_by("place 9 is not executed", Mutant::CountsUnservableMarks, || {
        let mut c = cluster(FaultModel::Byzantine, 4);
        c.byzantine.insert(r(3));
        c.filter = Some(Box::new(|_, to, m| match m {
            Message::Mark(_) if to != r(3) => Fate::Drop,
            _ => Fate::Pass,
        }));
        let last = c.setup.order.mark_interval;
        for place in 1..=last {
            c.order(0, place);
            c.until_decided(&[0, 1, 2, 3], place, 100);
        }
        assert!(c.run_until(100, |c| c.core(3).mark() == Seq(last)), "{}", c.picture());
        // 3 shows its mark, always first, and nothing else.
        let first = RefCell::new(std::collections::BTreeSet::new());
        c.filter = Some(Box::new(move |from, to, m| match m {
            Message::Stop(_) | Message::Status(_) => Fate::Pass,
            Message::StopData(d) if from == r(3) => {
                assert_eq!(d.mark.statement.seq, Seq(last));
                Fate::Pass
            }
            _ if from == r(3) => Fate::Drop,
            Message::StopData(d) if first.borrow_mut().insert((from, to, d.view)) => Fate::Drop,
            _ => Fate::Pass,
        }));
        for i in [0, 1, 2] {
            c.crash(r(i), Tail::Kept);
        }
        for i in [0, 1, 2] {
            c.restart(r(i));
            assert_eq!((c.core(i).mark(), c.core(i).executed()), (Seq(0), Seq(0)));
        }
        c.order(1, 100);
        c.until_decided(&[0, 1, 2], last + 1, 1500);
    });
}

#[test]
fn a_leader_that_delays_every_decision_stretches_the_timeout_four_times_at_most() {
    told_apart_by("is stretched", Mutant::LeaderStretchesTimeout, || {
        let mut c = cluster(FaultModel::Byzantine, 4);
        c.filter = Some(Box::new(|_, _, m| match m {
            Message::Write(_) => Fate::Hold,
            Message::Fetch(_) => Fate::Drop,
            _ => Fate::Pass,
        }));
        let most = 4 * c.setup.order.view_timeout_ms * 1_000_000;
        for place in 1..=20 {
            c.order(0, place);
            let least = (0..4).map(|i| c.core(i).timeout_ns()).min().expect("four");
            c.run_ms(least / 1_000_000 * 9 / 10);
            c.release(|_, _, _| true);
            c.until_decided(&[0, 1, 2, 3], place, 20);
            assert!(c.all_in_view(1), "{}", c.picture());
            for i in 0..4 {
                let timeout = c.core(i).timeout_ns();
                assert!(timeout <= most, "the timeout is stretched to {timeout} ns by place {place}");
            }
        }
    });
}

#[test]
fn a_digest_list_takes_its_batches_from_proposals_too() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    let mark = c.setup.order.mark_interval;
    for place in 1..=mark {
        c.order(0, place);
        c.until_decided(&[0, 1, 2, 3], place, 100);
    }
    assert!(c.run_until(100, |c| c.core(3).mark() == Seq(mark)), "{}", c.picture());
    // 3 learns the digests up to the next mark; the batches it asks for are late, and so are the proposals.
    c.filter = Some(Box::new(|_, to, m| match m {
        Message::Propose(_) if to == r(3) => Fate::Hold,
        Message::Status(_) | Message::Chain(_) => Fate::Pass,
        _ if to == r(3) => Fate::Drop,
        _ => Fate::Pass,
    }));
    for place in mark + 1..=2 * mark {
        c.order(0, place);
        c.until_decided(&[0, 1, 2], place, 100);
    }
    c.run_ms(50);
    assert_eq!(c.core(3).executed(), Seq(mark));
    c.release(|_, _, _| true);
    c.filter = None;
    c.until_decided(&[3], 2 * mark, 1000);
}

// ---- RULES 14: votes that are not durable ------------------------------------------------------------------------------

fn forgetful_cluster(model: FaultModel, n: u32) -> Cluster {
    let mut setup = Setup::new(members(model, n));
    setup.order.votes_durable = false;
    Cluster::new(setup, 1)
}

#[test]
fn what_a_restarted_replica_forgot_is_not_taken_for_never_voted_on() {
    told_apart(Mutant::ForgetsSilently, || {
        let mut c = forgetful_cluster(FaultModel::Crash, 3);
        c.run_ms(20);
        // Replicas 0 and 1 accept x at place 1, and 0 alone learns that it is decided.
        c.filter = Some(Box::new(|from, to, m| match m {
            Message::Accept(_) if to == r(0) && from == r(1) => Fate::Pass,
            Message::Status(_) | Message::Stop(_) | Message::StopData(_) if from != r(0) => Fate::Pass,
            Message::Propose(_) if to == r(1) => Fate::Pass,
            _ => Fate::Drop,
        }));
        c.order(0, 1);
        c.until_decided(&[0], 1, 50);
        let x = c.history.at(Seq(1)).expect("executed");
        c.cut_off(0, true);
        c.filter = None;
        // 1 forgets its vote; 1 and 2 alone are a majority, but only 2 knows what it voted for.
        c.crash(r(1), Tail::Lost);
        c.restart(r(1));
        assert!(c.core(1).is_forgetful());
        c.order(1, 2);
        c.order(2, 3);
        c.run_ms(3000);
        assert_eq!((c.core(1).executed(), c.core(2).executed()), (Seq(0), Seq(0)));
        c.cut_off(0, false);
        c.until_decided(&[0, 1, 2], 3, 10_000);
        assert_eq!(c.history.at(Seq(1)), Some(x));
    });
}

#[test]
fn a_replica_that_forgot_votes_is_sound_again_once_a_mark_covers_them() {
    let mut c = forgetful_cluster(FaultModel::Byzantine, 4);
    c.run_ms(20);
    c.crash(r(2), Tail::Lost);
    c.restart(r(2));
    assert!(c.core(2).is_forgetful());
    let window = c.setup.order.window;
    for place in 1..=window + c.setup.order.mark_interval {
        c.order(0, place);
        c.until_decided(&[0, 1, 3], place, 5000);
    }
    assert!(c.run_until(2000, |c| !c.core(2).is_forgetful()), "{}", c.picture());
    // Another may crash now, and the leader with it be replaced: 2 counts.
    c.crash(r(0), Tail::Lost);
    c.order(2, 1000);
    let last = window + c.setup.order.mark_interval;
    c.until_decided(&[1, 2, 3], last + 1, 10_000);
}

#[test]
fn after_more_than_f_crashes_only_a_new_era_goes_on_and_keeps_what_a_quorum_has_on_disk() {
    for (model, n) in [(FaultModel::Crash, 3), (FaultModel::Byzantine, 4)] {
        told_apart(Mutant::OmitsDecisions, || {
            let mut c = forgetful_cluster(model, n);
            c.may_halt = true;
            let all: Vec<u32> = (0..n).collect();
            for place in 1..=5 {
                c.order(0, place);
                c.until_decided(&all, place, 500);
            }
            c.all().into_iter().for_each(|i| c.crash(i, Tail::Lost));
            c.all().into_iter().for_each(|i| c.restart(i));
            let halted = |c: &Cluster| c.all().iter().all(|i| c.core(i.0).halted().is_some());
            assert!(c.run_until(10_000, halted), "{}", c.picture());
            let why = c.core(1).halted().expect("it has");
            assert!(why.contains("--new-era") && why.contains("place"), "{why}");

            c.all().into_iter().for_each(|i| c.crash(i, Tail::Lost));
            c.nodes.iter_mut().for_each(|node| node.new_era = true);
            c.all().into_iter().for_each(|i| c.restart(i));
            assert_eq!(c.core(0).executed(), Seq(0), "no mark covers them yet");
            c.order(1, 100);
            // The history remembers the five places and refuses any other batch there.
            c.until_decided(&all, 6, 10_000);
        });
    }
}

// ---- RULES 7 ---------------------------------------------------------------------------------------------------------

/// The victim loses its log, comes back, says nothing that it could have said otherwise before, and is needed in the end.
fn a_lost_log(model: FaultModel, n: u32, victim: u32) {
    let mut c = cluster(model, n);
    c.add_client(60);
    assert!(c.run_until(10_000, Cluster::settled));
    c.wipe(r(victim));
    c.run_ms(50);
    let said = Said::default();
    let hears = said.clone();
    c.filter = Some(Box::new(move |from, _, message| {
        if from == r(victim) {
            hears.borrow_mut().push((from, message.kind().to_le_bytes().to_vec()));
        }
        Fate::Pass
    }));
    c.restart(r(victim));
    c.add_client(20);
    assert!(c.run_until(30_000, |c| !c.core(victim).is_learner()), "{}", c.picture());
    // WRITE, ACCEPT, STOP-DATA, MARK, PROPOSE.
    let silent = [2, 3, 5, 7, 1u16].map(|kind| kind.to_le_bytes().to_vec());
    let spoke: Vec<_> = said.borrow().iter().filter(|(_, kind)| silent.contains(kind)).cloned().collect();
    assert!(spoke.is_empty(), "a learner says {spoke:?}");
    assert!(!said.borrow().is_empty());
    c.filter = None;
    assert!(c.run_until(30_000, |c| !c.core(victim).awaits_view()), "{}", c.picture());
    let view = c.core(victim).view();
    assert!(view > View(1) && !c.core(victim).leads(), "it leads the first view it votes in");
    // As many others as may go are gone: every quorum has the one that came back.
    let others: Vec<u32> = (0..n).filter(|i| *i != victim).take(c.setup.members.f() as usize).collect();
    others.iter().for_each(|i| c.crash(r(*i), Tail::Kept));
    let end = c.history.end();
    c.add_client(20);
    let answered = c.run_until(30_000, |c| c.clients.iter().all(|client| client.content()));
    assert!(answered && c.history.end() > end, "{}", c.picture());
}

#[test]
fn a_member_that_lost_its_log_learns_then_votes_in_later_views() {
    for victim in 0..4 {
        a_lost_log(FaultModel::Byzantine, 4, victim);
    }
    for victim in 0..3 {
        a_lost_log(FaultModel::Crash, 3, victim);
    }
    a_lost_log(FaultModel::Byzantine, 7, 5);
}

#[test]
fn a_learner_votes_for_nothing_where_it_may_have_voted() {
    told_apart_by("agreement", Mutant::RejoinsWhereItVoted, || {
        let mut c = cluster(FaultModel::Crash, 3);
        c.order(0, 1);
        c.until_decided(&[0, 1, 2], 1, 1_000);
        // 0 and 2 decide place 2, of which 1 hears nothing; then 2 loses its log, and 0 tells nobody more than its mark.
        c.cut_off(1, true);
        c.order(0, 2);
        c.until_decided(&[0, 2], 2, 80);
        c.wipe(r(2));
        c.cut_off(1, false);
        c.filter = Some(Box::new(|from, _, message| match message {
            Message::RejoinMark(_) => Fate::Pass,
            _ if from == r(0) => Fate::Drop,
            _ => Fate::Pass,
        }));
        c.restart(r(2));
        c.run_ms(60);
        c.crash(r(0), Tail::Kept);
        c.run_ms(500);
        c.order(1, 3);
        c.run_ms(2_000);
        c.filter = None;
        c.restart(r(0));
        c.until_decided(&[0, 1, 2], 3, 20_000);
    });
}

#[test]
fn a_learner_that_crashes_begins_again_and_one_that_waits_for_a_view_goes_on_waiting() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.add_client(60);
    assert!(c.run_until(10_000, Cluster::settled));
    c.wipe(r(2));
    for _ in 0..5 {
        c.restart(r(2));
        c.run_ms(40);
        c.crash(r(2), Tail::Torn);
    }
    c.restart(r(2));
    let waits = |c: &Cluster| c.core(2).awaits_view() && !c.core(2).is_learner();
    assert!(c.run_until(30_000, waits), "{}", c.picture());
    c.run_ms(5);
    c.crash(r(2), Tail::Kept);
    c.restart(r(2));
    assert!(c.core(2).awaits_view(), "it forgot that it waits");
    assert!(c.run_until(30_000, |c| !c.core(2).awaits_view()), "{}", c.picture());
}

#[test]
fn a_replica_that_pretends_to_wait_deposes_leaders_only_now_and_then() {
    let mut c = cluster(FaultModel::Byzantine, 4);
    c.add_client(20);
    assert!(c.run_until(10_000, Cluster::settled));
    c.byzantine.insert(r(3));
    // Its true heartbeats are not heard.
    c.filter = Some(Box::new(|from, _, message| match message {
        Message::Status(_) if from == r(3) => Fate::Drop,
        _ => Fate::Pass,
    }));
    let before = c.views_started;
    for _ in 0..600 {
        let status = c.core(0).status();
        let pretends = Status { mode: Mode::Learning, wish: status.view.next(), ..status };
        for to in 0..3 {
            c.inject(r(3), r(to), Message::Status(pretends));
        }
        c.run_ms(10);
    }
    // Six seconds, timeouts of 100 ms: each correct leader made way once, and the silent one was left. Four replicas begin each.
    let begun = c.views_started - before;
    assert!((4..=4 * 5).contains(&begun), "{begun} views begun");
    c.add_client(20);
    assert!(c.run_until(10_000, Cluster::settled), "{}", c.picture());
}

// ---- RULES 10: damaged records -----------------------------------------------------------------------------------------

#[test]
fn random_runs_notice_that_what_a_damaged_record_says_is_forgotten() {
    swarm_notices(Mutant::ForgetsDamaged, members(FaultModel::Crash, 3), 1500);
}

// ---- the audit -------------------------------------------------------------------------------------------------------

fn diverging(n: u32, model: FaultModel, who: &[u32]) -> Cluster {
    let mut c = cluster(model, n);
    c.may_halt = true;
    for (i, who) in who.iter().enumerate() {
        // Not held to the one history.
        c.byzantine.insert(r(*who));
        c.nodes[*who as usize].executor.diverges = 1 + i as u8;
    }
    c.add_client(200);
    c.run_ms(5_000);
    c
}

#[test]
fn a_replica_that_executes_otherwise_is_silenced_and_the_others_go_on() {
    for (n, model) in [(4, FaultModel::Byzantine), (3, FaultModel::Crash)] {
        let c = diverging(n, model, &[1]);
        let why = c.core(1).halted().expect("silenced");
        assert!(why.contains("f+1 others have"), "{why}");
        assert!(c.core(0).halted().is_none() && c.core(2).halted().is_none());
        assert!(c.core(0).mark() > Seq(0), "{}", c.picture());
    }
}

#[test]
fn more_than_f_that_differ_stop_the_group_with_both_histories_and_the_place() {
    for (n, model, who) in [(4, FaultModel::Byzantine, [1, 2]), (3, FaultModel::Crash, [1, 2])] {
        let c = diverging(n, model, &who);
        let why = c.core(0).halted().expect("stopped");
        assert!(why.contains("place 8") && why.contains("replies"), "{why}");
        assert_eq!(c.core(0).mark(), Seq(0));
    }
}
