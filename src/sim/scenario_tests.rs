//! Every story in `scenarios/`, and what the interpreter says of a story it cannot follow.

use super::hunt::{DIRECTED, hunt};
use super::scenario::{What, check, parse, rewrite};
use super::scenarios::STORIES;
use super::swarm::Plan;
use super::transfer_stories;
use crate::order::mutants::{ALL, Mutant};
use crate::types::ReplicaId;
use std::path::PathBuf;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/sim/scenarios")
}

#[test]
fn every_file_of_the_folder_is_told() {
    let files = std::fs::read_dir(folder()).expect("the folder of stories");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(STORIES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
}

#[test]
fn every_story_goes_as_it_is_told() {
    let mut failed = Vec::new();
    for (name, text) in STORIES {
        let done = if std::env::var_os("DURAMEN_REWRITE").is_some() {
            let path = folder().join(format!("{name}.txt"));
            rewrite(text).map(|text| std::fs::write(path, text).expect("the story is written"))
        } else {
            check(text)
        };
        failed.extend(done.err().map(|e| format!("{name}: {e}")));
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// Broken rules, each with the story that tells.
const TOLD: &[(Mutant, &str)] = &[
    (Mutant::RestoresNormal, "a_view_entered_before_a_restart_is_voted_in_only_after_its_sync"),
    (Mutant::ReportsDurableOnly, "the_report_of_a_view_change_names_places_whose_writes_are_under_way"),
    (Mutant::WindowBeforeMark, "a_mark_is_durable_before_the_window_it_opens_is_used"),
    (Mutant::ExecutesPrepared, "a_batch_that_is_only_prepared_is_not_executed"),
    (Mutant::WishIsStop, "one_stop_disturbs_nobody_and_f_plus_one_are_followed"),
    (Mutant::RestartedLeaderLeads, "the_restarted_leader_of_crash_mode_proposes_nothing_in_its_view"),
    (Mutant::VotesBeforeDurable, "an_accept_leaves_only_after_its_record_is_durable"),
    (Mutant::VotesBelowMark, "nobody_votes_below_the_mark_of_its_sync"),
    (Mutant::DeposedLeaderAnswers, "a_deposed_leader_that_learns_later_decisions_answers_nothing"),
    (Mutant::CountsUnservableMarks, "a_mark_that_only_a_liar_can_serve_stops_no_view"),
    (Mutant::ForgetsSilently, "what_a_restarted_replica_forgot_is_not_taken_for_never_voted"),
    (Mutant::OmitsDecisions, "only_a_new_era_goes_on_after_more_than_f_crashes"),
    (Mutant::RejoinsWhereItVoted, "a_lost_log_votes_for_nothing_where_it_may_have_voted"),
    (Mutant::LeaderStretchesTimeout, "a_leader_that_delays_decisions_is_left_within_four_timeouts"),
    (Mutant::BearsSlowLeaders, "a_leader_that_dawdles_is_left_for_a_faster_one"),
    (Mutant::QuorumTooSmall, "three_votes_of_five_are_no_quorum"),
    (Mutant::QuorumOfOlderTexts, "three_votes_of_five_are_no_quorum"),
    (Mutant::VotesUnsigned, "a_vote_or_mark_without_a_signature_is_none"),
    (Mutant::CertificatesUnsigned, "a_forged_height_in_a_report_is_refused_by_its_proof"),
    (Mutant::MarksUnproven, "a_forged_height_in_a_report_is_refused_by_its_proof"),
    (Mutant::MarksUnsigned, "a_vote_or_mark_without_a_signature_is_none"),
    (Mutant::ReportsUnsigned, "votes_count_once_for_each_replica"),
    (Mutant::SyncOfFewer, "the_second_report_of_a_liar_for_one_view_does_not_count"),
    (Mutant::RequestsUnsigned, "a_request_that_no_client_signed_is_executed_by_nobody"),
    (Mutant::IgnoresClocks, "a_time_out_of_bounds_withholds_a_vote_and_deposes_nobody"),
    (Mutant::FollowsSecondProposals, "the_second_proposal_for_a_place_is_no_proposal"),
    (Mutant::ForgetsWrites, "a_restarted_replica_writes_nothing_where_it_may_have_written"),
    (Mutant::WritesAboveReserve, "a_restarted_replica_writes_nothing_where_it_may_have_written"),
    (Mutant::SpeaksBeforeView, "nothing_is_said_in_a_view_that_is_not_on_disk"),
    (Mutant::KeepsOldVotes, "a_write_certificate_executes_nothing"),
    (Mutant::TakesOldVotes, "a_restarted_follower_that_is_needed_votes_again"),
    (Mutant::LowestViewWins, "the_certificate_of_the_highest_view_wins"),
    (Mutant::NoValueIsAVote, "a_value_survives_a_liar_and_a_laggard_that_report_nothing"),
    (Mutant::ProposesOverSync, "a_mark_that_only_a_liar_can_serve_stops_no_view"),
    (Mutant::CountsUnservableBatches, "a_report_counts_once_its_batches_are_in_hand"),
    (Mutant::OneStopDeposes, "one_stop_disturbs_nobody_and_f_plus_one_are_followed"),
    (Mutant::ClaimsAreProof, "a_decision_needs_its_certificate"),
    (Mutant::ChainsUnchecked, "digests_that_lead_to_another_mark_are_refused"),
    (Mutant::AuditsBatchesAlone, "a_replica_that_executes_otherwise_is_silenced"),
    (Mutant::ReadsBeforeSync, "a_new_leader_reads_only_after_what_its_view_change_chose"),
    (Mutant::ReadsUnasked, "a_leader_that_was_left_behind_answers_no_read"),
    (Mutant::ConfirmsAnyLeader, "nobody_says_of_a_view_it_has_left_that_it_is_still_in_it"),
    (Mutant::ReadsByValueAlone, "an_old_value_that_came_again_is_not_read_before_the_one_between"),
    (Mutant::UnknownIsNothing, "a_place_that_too_few_know_of_waits_for_one_that_knows"),
    (Mutant::ExecutesTwice, "a_request_proposed_again_after_its_execution_is_not_executed_again"),
    (Mutant::RecyclesToMark, "a_log_is_kept_up_to_the_older_of_two_checkpoints"),
    (Mutant::RecyclesWithoutControl, "a_log_without_its_beginning_tells_what_was_promised"),
    (Mutant::ForgetsLaggards, "a_log_is_kept_for_a_replica_that_is_behind"),
    (Mutant::RootsOfOne, "a_state_that_one_alone_names_is_none"),
    (Mutant::LearnerVotesAtOnce, "a_lost_log_says_nothing_before_a_mark_far_above_is_certified"),
    (Mutant::LearnerTrustsOne, "a_lost_log_waits_for_as_many_answers_as_can_come"),
    (Mutant::LearnerLeads, "who_was_a_learner_does_not_lead_the_first_view_it_votes_in"),
    (Mutant::ForgetsDamaged, "what_a_damaged_record_says_was_prepared_is_not_forgotten"),
    (Mutant::OffersUnproven, "a_state_that_no_certificate_names_is_not_fetched"),
    (Mutant::DigestsUnchecked, "a_list_of_digests_leads_to_the_certificate"),
    (Mutant::ChunksUnchecked, "a_chunk_that_was_not_verified_is_not_installed"),
    (Mutant::StagedUnchecked, "what_an_earlier_run_received_is_compared_before_it_counts"),
];

#[test]
fn broken_rules_change_the_stories_told_of_them() {
    let told: Vec<Mutant> = TOLD.iter().map(|(mutant, _)| *mutant).collect();
    let untold: Vec<Mutant> = ALL.iter().copied().filter(|mutant| !told.contains(mutant)).collect();
    // Clients of stories send one request at a time.
    assert_eq!(untold, [Mutant::ExecutesPastGaps]);
    for (mutant, story) in TOLD {
        let kill = hunt(*mutant, std::iter::empty());
        println!("{mutant:?}: {}", kill.stories.join(", "));
        assert!(kill.is_dead() && kill.stories.contains(story), "{mutant:?} goes unnoticed by {story}");
    }
}

#[test]
fn nothing_is_killed_that_is_not_broken() {
    let told = DIRECTED.iter().chain(transfer_stories::DIRECTED);
    assert!(told.into_iter().all(|(_, story)| std::panic::catch_unwind(story).is_ok()));
}

/// So many seeds with reads beside the order, until one fails: what it says.
fn said_by_seeds(mutant: Mutant, seeds: std::ops::Range<u64>) -> String {
    let plans = seeds.map(|seed| Plan { reads: true, ..Plan::of(seed) });
    let (plan, why) =
        hunt(mutant, plans).seed.unwrap_or_else(|| panic!("{mutant:?} goes unnoticed by seeds"));
    println!("{mutant:?}: seed {}: {why}", plan.seed);
    why
}

#[test]
fn random_runs_notice_a_request_that_executes_before_the_one_ahead_of_it() {
    said_by_seeds(Mutant::ExecutesPastGaps, 1..20);
}

#[test]
fn a_stale_read_is_noticed_by_what_clients_saw_alone() {
    let why = said_by_seeds(Mutant::ReadsBeforeSync, 1..60);
    assert!(why.contains("not linearizable: key"), "{why}");
}

const CLUSTER: &str = "# Title.\ncluster n=4 f=1 model=byzantine\n";

/// A story of these commands fails at `line` by this.
fn fails(commands: &str, line: usize, what: What) {
    let error = check(&format!("{CLUSTER}{commands}")).expect_err("it cannot be followed");
    assert_eq!((error.line, error.what), (line, what));
}

fn no_such(value: &str, wanted: &'static str) -> What {
    What::NoSuch { value: value.to_string(), wanted }
}

#[test]
fn a_story_begins_with_its_title() {
    assert_eq!(parse("cluster n=4\n----\n").map_err(|e| (e.line, e.what)), Err((1, What::NoTitle)));
}

#[test]
fn commands_are_followed_by_what_is_seen() {
    assert_eq!(parse("# Title.\nrun 5\n").map_err(|e| (e.line, e.what)), Err((2, What::NoRule)));
}

#[test]
fn what_is_seen_follows_commands() {
    assert_eq!(parse("# Title.\n\n----\n").map_err(|e| (e.line, e.what)), Err((3, What::NoCommands)));
}

#[test]
fn the_first_command_is_the_cluster_and_there_is_one() {
    let error = check("# Title.\nrun 5\n----\n").expect_err("no cluster");
    assert_eq!((error.line, error.what), (2, What::NoCluster));
    fails("cluster n=4 f=1 model=byzantine\n----\n", 3, What::SecondCluster);
}

#[test]
fn a_group_that_cannot_bear_its_faults_is_none() {
    let error = check("# Title.\ncluster n=3 f=1 model=byzantine\n----\n").expect_err("too small");
    assert_eq!((error.line, error.what), (2, What::NoGroup { n: 3, f: 1 }));
}

#[test]
fn an_unknown_command_is_named() {
    fails("dance 5\n----\n", 3, What::NoSuchCommand("dance".to_string()));
}

#[test]
fn a_missing_word_is_named() {
    fails("run\n----\n", 3, What::Missing("number of milliseconds".to_string()));
    fails("crash 1\n----\n", 3, What::Missing("`tail=`".to_string()));
}

#[test]
fn a_word_too_many_is_named() {
    fails("run 5 6\n----\n", 3, What::Extra("6".to_string()));
    fails("run 5 at=6\n----\n", 3, What::Extra("at=6".to_string()));
}

#[test]
fn a_key_that_stands_twice_is_named() {
    fails("crash 1 tail=lost tail=kept\n----\n", 3, What::Twice("tail".to_string()));
}

#[test]
fn a_value_that_means_nothing_is_named_with_what_is_wanted() {
    fails("run soon\n----\n", 3, no_such("soon", "number"));
    fails("crash 4 tail=lost\n----\n", 3, no_such("4", "replica"));
    fails("crash 1 tail=torn\n----\n", 3, no_such("torn", "tail"));
    fails("drop gossip\n----\n", 3, no_such("gossip", "kind of message"));
    fails("request 0\n----\n", 3, no_such("0", "client"));
    fails("expect leads=perhaps\n----\n", 3, no_such("perhaps", "`yes` or `no`"));
}

#[test]
fn replicas_that_are_down_order_nothing_and_those_that_are_up_do_not_restart() {
    fails("crash 1 tail=lost\norder at=1 x\n----\n", 4, What::Down(ReplicaId(1)));
    fails("restart 1\n----\n", 3, What::Up(ReplicaId(1)));
}

#[test]
fn nothing_is_forged_in_the_name_of_a_correct_replica() {
    fails("forge stop from=1 to=2 view=2\n----\n", 3, What::Honest(ReplicaId(1)));
}

#[test]
fn a_fact_that_does_not_hold_is_named_with_what_holds() {
    let untrue = |fact: &str, is: &str| What::Untrue {
        at: "0".to_string(),
        fact: fact.to_string(),
        is: is.to_string(),
    };
    fails("run 5\nexpect view=2\n----\n", 4, untrue("view", "1"));
    fails("until view=2 within=50\n----\n", 3, untrue("view", "1"));
}

#[test]
fn a_line_that_differs_is_named_with_what_was_seen() {
    let differs =
        |expected: &str, seen: &str| What::Differs { expected: expected.to_string(), seen: seen.to_string() };
    let x = "order at=0 x\nrun 20\n----\n0 1 2 3: executes ";
    fails(&format!("{x}1=y\n"), 6, differs("`0 1 2 3: executes 1=y`", "`0 1 2 3: executes 1=x`"));
    fails("order at=0 x\nrun 20\n----\n", 6, differs("nothing", "`0 1 2 3: executes 1=x`"));
    fails(&format!("{x}1=x\n4: leaves\n"), 7, differs("`4: leaves`", "nothing"));
    assert_eq!(check(&format!("{CLUSTER}{x}1=x\n")), Ok(()));
}

#[test]
fn what_is_expected_is_written_anew_and_nothing_else() {
    let text = format!("{CLUSTER}# A remark.\norder at=0 x\nrun 20\n----\nold\nolder\n\n# The end.\n");
    let anew = rewrite(&text).expect("it can be followed");
    assert_eq!(anew, text.replace("old\nolder\n", "0 1 2 3: executes 1=x\n"));
    assert_eq!(check(&anew), Ok(()));
}

#[test]
fn what_the_checkers_say_stands_at_its_line() {
    let error = check(&format!("{CLUSTER}crash all tail=lost\nvalue 1 x\nrestart 0\n----\n"));
    let error = error.expect_err("nothing was executed");
    assert_eq!(error.line, 4);
    assert_eq!(error.to_string(), "line 4: replica all: what was executed at place 1 is unknown");
}
