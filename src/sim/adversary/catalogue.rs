//! The strategies by name: what each does, which replica does it when, and what it must come to.
//!
//! Rows are those of the Byzantine catalogue of the design. `catalogue_tests.rs` plays each over several seeds. Rows that no
//! replica's message can tell, or that the design leaves no room for, have their tests elsewhere:
//!
//! | row | what | where |
//! |---|---|---|
//! | B8 | forged client request | `forged-requests` here, and at the client's door `wire_tests::a_clients_group_is_taken_only_with_its_own_signature_over_its_own_channel` |
//! | B14 | STOP with forged requests | a STOP carries a view and nothing else: `wire_tests::mutated_and_random_bytes_never_panic_and_what_decodes_encodes_to_the_same_bytes` |
//! | B30 | request by a non-member | `loopback_tests::an_id_that_is_not_configured_is_refused_on_both_sides` |
//! | B31 | wrong replies | here, and every liar of the simulator answers half its requests wrongly; counted by hand: `session_tests::one_liar_changes_no_answer_and_two_are_a_fail`, `reply_votes_tests::reads_match_on_digest_and_version_or_else_on_the_executed_seq` |
//! | B34 | more than f diverge | `divergent-execution` of one here; of two: `catalogue_tests::more_than_f_that_execute_otherwise_stop_the_group_with_both_histories_and_the_place`, the story `more_than_f_that_execute_otherwise_stop_the_group` |
//! | B35 | two processes with one key | `sim::twins` |
//! | B36 | a correct replica crashes beside a liar | `catalogue_tests::a_correct_replica_that_crashes_beside_an_equivocator_votes_twice_for_nothing`, and each seed of `sim::swarm` |
//! | B37 | handshake abuse | `loopback_tests`: `a_replica_with_another_key_is_refused_on_both_sides`, `a_replayed_recording_of_a_session_gets_nowhere`, `tls_and_plain_refuse_each_other_on_both_sides`, `a_few_key_updates_are_followed_and_a_storm_of_them_is_cut_off`, `a_flood_of_connections_is_accepted_at_a_bounded_rate` |
//! | B38 | costly signatures | `invalid-signatures` here; shares of the pool: `fair_queue_tests`; a client that sends them: `standing_tests::sixteen_groups_in_a_row_that_are_not_taken_end_a_connection_once` |
//! | B39 | another client's id | `loopback_tests::a_client_cannot_use_another_clients_id` |
//! | B40 | one-field mutations | `mutations` here at random; one by one in `mutations_tests` |

use super::false_replier::{FalseReplier, Told};
use super::mark_liar::{False, MarkLiar};
use super::reporter::{Report, Reporter};
use super::spoiler::{Spoiler, Spoilt};
use super::sync_forger::{Start, SyncForger};
use super::*;

/// When a lie is told: which replica of four tells it, and what happens meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scene {
    /// The leader of the first view lies.
    Leads,
    /// A follower lies; nothing else happens.
    Follows,
    /// A follower lies while the first view is given up for a reason of its own.
    ViewChanges,
    /// The liar leads the view that comes next.
    Succeeds,
}

/// Whether views may or must end for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Views {
    /// As it happens.
    Any,
    /// The liar is replaced.
    Change,
    /// Nobody is disturbed.
    Stay,
}

/// One strategy.
pub struct Row {
    /// Of the catalogue.
    pub id: &'static str,
    /// For `--adversary`.
    pub name: &'static str,
    /// In one line.
    pub what: &'static str,
    /// Where it belongs.
    pub scene: Scene,
    /// What becomes of the views.
    pub views: Views,
    /// One of these reasons is counted against the liar; empty: nothing it says can be told from the truth.
    pub discards: &'static [&'static str],
    /// Makes one.
    pub build: fn(&mut Random) -> Box<dyn Adversary>,
}

impl Row {
    /// What it does is seen by clients alone, or in its state.
    pub fn is_for_clients(&self) -> bool {
        matches!(self.id, "B31" | "B34")
    }
}

const fn row(
    id: &'static str,
    name: &'static str,
    what: &'static str,
    (scene, views): (Scene, Views),
    discards: &'static [&'static str],
    build: fn(&mut Random) -> Box<dyn Adversary>,
) -> Row {
    Row { id, name, what, scene, views, discards, build }
}

const PROPOSE: u16 = 1;

/// All of them.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("B1", "equivocating-proposals", "proposes another batch to each replica",
        (Scene::Leads, Views::Change), &[], |_| Box::new(splitter::Splitter::default())),
    row("B1", "two-stories", "proposes one batch to one half and another to the other, and votes for both",
        (Scene::Leads, Views::Any), &[], |_| Box::new(equivocator::Equivocator::new(0b0110))),
    row("B2", "withheld-proposals", "sends its proposals to all but f replicas",
        (Scene::Leads, Views::Any), &[], |_| Box::new(silent::Silent::towards(&[PROPOSE], 1 << 2))),
    row("B3", "silent-leader", "proposes nothing and seems alive",
        (Scene::Leads, Views::Change), &[], |_| Box::new(silent::Silent::kinds(&[PROPOSE]))),
    row("B3", "silent", "says nothing",
        (Scene::Leads, Views::Change), &[], |_| Box::new(silent::Silent::all())),
    row("B4", "late-leader", "holds each proposal until just before the timeout",
        (Scene::Leads, Views::Any), &[], |_| Box::new(late_leader::LateLeader::default())),
    row("B5", "dribbling-leader", "lets one proposal go with each heartbeat",
        (Scene::Leads, Views::Any), &[], |_| Box::new(dribbler::Dribbler::default())),
    row("B6", "censorship", "leaves the requests of client 0 out",
        (Scene::Leads, Views::Change), &[], |_| Box::new(censor::Censor::of(ClientId(0)))),
    row("B7", "cut-batches", "proposes what is no batch",
        (Scene::Leads, Views::Change), &["InvalidBatch"], |_| Box::new(Spoiler::new(Spoilt::Cut))),
    row("B7", "duplicate-requests", "proposes every request twice",
        (Scene::Leads, Views::Any), &[], |_| Box::new(Spoiler::new(Spoilt::Twice))),
    row("B7", "reordered-requests", "proposes requests in reverse order",
        (Scene::Leads, Views::Any), &[], |_| Box::new(Spoiler::new(Spoilt::Reversed))),
    row("B7", "executed-requests", "proposes requests that were executed before",
        (Scene::Leads, Views::Any), &[], |_| Box::new(Spoiler::new(Spoilt::Executed))),
    row("B7", "future-times", "proposes batches of the end of time",
        (Scene::Leads, Views::Change), &[], |_| Box::new(Spoiler::new(Spoilt::FarFuture))),
    row("B7", "past-times", "proposes batches of the beginning of time",
        (Scene::Leads, Views::Change), &[], |_| Box::new(Spoiler::new(Spoilt::LongAgo))),
    row("B7", "misplaced-batches", "proposes batches for places far away",
        (Scene::Leads, Views::Change), &[], |_| Box::new(Spoiler::new(Spoilt::Elsewhere))),
    row("B8", "forged-requests", "proposes requests that no client made",
        (Scene::Leads, Views::Change), &["InvalidBatch"], |_| Box::new(Spoiler::new(Spoilt::Forged))),
    row("B9", "double-votes", "votes twice for each place",
        (Scene::Follows, Views::Stay), &["Equivocation"], |_| Box::new(double_voter::DoubleVoter)),
    row("B10", "future-votes", "votes for absurd places and views as well",
        (Scene::Follows, Views::Stay), &["TooEarly", "OutsideWindow"], |_| Box::new(far_voter::FarVoter)),
    row("B11", "wrong-votes", "votes for batches that nobody proposed",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(wrong_voter::WrongVoter)),
    row("B12", "false-stops", "wishes for the next view without a cause",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(wisher::Wisher::ahead(1))),
    row("B13", "absurd-stops", "wishes for a view that is a thousand million ahead",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(wisher::Wisher::ahead(1_000_000_000))),
    row("B15", "forged-height", "reports a mark that it has not",
        (Scene::ViewChanges, Views::Change), &["rejected"], |_| Box::new(Reporter(Report::Height))),
    row("B15", "empty-reports", "reports that its log holds nothing",
        (Scene::ViewChanges, Views::Change), &[], |_| Box::new(Reporter(Report::Nothing))),
    row("B16", "duplicate-votes", "reports a certificate of one vote counted three times",
        (Scene::ViewChanges, Views::Change), &["malformed", "rejected"], |_| Box::new(Reporter(Report::OwnVotes))),
    row("B16", "absurd-views", "reports a certificate of a view that nobody reached",
        (Scene::ViewChanges, Views::Change), &["rejected"], |_| Box::new(Reporter(Report::AbsurdView))),
    row("B17", "one-invalid-certificate", "reports an invalid certificate behind valid ones",
        (Scene::ViewChanges, Views::Change), &["rejected"], |_| Box::new(Reporter(Report::OneInvalid))),
    row("B18", "two-reports", "sends two signed reports, in another order to each half",
        (Scene::ViewChanges, Views::Change), &["Duplicate", "OldView"], |_| Box::new(Reporter(Report::Two))),
    row("B18", "unknown-places", "reports that it knows nothing of its window",
        (Scene::ViewChanges, Views::Change), &[], |_| Box::new(Reporter(Report::Unknown))),
    row("B19", "short-sync", "begins its view with less than a quorum of reports",
        (Scene::Succeeds, Views::Change), &["rejected"], |_| Box::new(SyncForger(Start::TooFew))),
    row("B19", "repeated-reports", "begins its view with one report twice",
        (Scene::Succeeds, Views::Change), &["rejected"], |_| Box::new(SyncForger(Start::OneTwice))),
    row("B19", "mixed-reports", "begins its view with a report of another view",
        (Scene::Succeeds, Views::Change), &["rejected"], |_| Box::new(SyncForger(Start::OtherView))),
    row("B19", "two-syncs", "begins its view with other reports towards every second replica",
        (Scene::Succeeds, Views::Change), &[], |_| Box::new(SyncForger(Start::NotTheSame))),
    row("B19", "rebound-places", "proposes other batches where its SYNC fixed some",
        (Scene::Succeeds, Views::Change), &["Equivocation"], |_| Box::new(rebinder::Rebinder)),
    row("B19", "foreign-sync", "begins views that others lead, with the reports that show least",
        (Scene::ViewChanges, Views::Change), &[], |_| Box::new(usurper::Usurper::new(u64::MAX))),
    row("B20", "ping-pong", "wishes for the next view always and proposes nothing when it leads",
        (Scene::Leads, Views::Change), &[],
        |_| Box::new(Several(vec![Box::new(wisher::Wisher::ahead(1)), Box::new(silent::Silent::kinds(&[PROPOSE]))]))),
    row("B31", "wrong-replies", "answers each request with another result",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(FalseReplier(Told::Wrong))),
    row("B31", "unasked-replies", "answers also what no client asked",
        (Scene::Leads, Views::Stay), &[], |_| Box::new(FalseReplier(Told::Unasked))),
    row("B31", "false-reads", "answers reads with other values",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(FalseReplier(Told::Reads))),
    row("B32", "corrupt-marks", "states another history of batches",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(MarkLiar(False::Batches))),
    row("B32", "forged-marks", "states marks of places far ahead",
        (Scene::Follows, Views::Stay), &["OutsideWindow"], |_| Box::new(MarkLiar(False::Height))),
    row("B32", "withheld-roots", "votes and marks, and names no state",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(MarkLiar(False::NoRoot))),
    row("B33", "divergent-replies", "states other results than those of the others",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(MarkLiar(False::Replies))),
    row("B34", "divergent-execution", "executes otherwise than the others, and says so",
        (Scene::Follows, Views::Stay), &[], |_| Box::new(divergent::Divergent)),
    row("B38", "invalid-signatures", "sends votes with worthless signatures as well",
        (Scene::Follows, Views::Stay), &["rejected"], |_| Box::new(bad_signer::BadSigner)),
    row("B38", "flood", "sends everything eight times and asks without end",
        (Scene::Follows, Views::Stay), &["Duplicate"], |_| Box::new(flooder::Flooder)),
    row("B40", "mutations", "changes one byte of what it sends",
        (Scene::Follows, Views::Any), &["rejected", "malformed"], |r| Box::new(mutator::Mutator::draw(r))),
    row("B40", "replays", "sends again what it sent or heard long ago",
        (Scene::Follows, Views::Any), &["Duplicate", "rejected"], |r| Box::new(replayer::Replayer::draw(r))),
];

/// The one of this name.
pub fn named(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// All names and what they mean, a line each.
pub fn list() -> String {
    ROWS.iter().map(|r| format!("  {:<24} {:<4} {}\n", r.name, r.id, r.what)).collect()
}
