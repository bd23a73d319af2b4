//! The stories of the folder `scenarios/`, by their names.

macro_rules! stories {
    ($($name:literal,)+) => {
        /// Names and texts.
        pub const STORIES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("scenarios/", $name, ".txt"))),)+];
    };
}

stories! {
    "a_batch_that_is_only_prepared_is_not_executed",
    "a_decision_needs_its_certificate",
    "a_deposed_leader_that_learns_later_decisions_answers_nothing",
    "a_forged_height_in_a_report_is_refused_by_its_proof",
    "a_laggard_is_brought_up_by_decided_batches",
    "a_late_duplicate_of_a_request_changes_no_view",
    "a_leader_that_delays_decisions_is_left_within_four_timeouts",
    "a_leader_that_was_left_behind_answers_no_read",
    "a_mark_is_durable_before_the_window_it_opens_is_used",
    "a_mark_that_only_a_liar_can_serve_stops_no_view",
    "a_new_leader_reads_only_after_what_its_view_change_chose",
    "a_power_loss_of_all_silences_nobody_and_loses_nothing_that_was_answered",
    "a_replica_that_missed_several_windows_follows_the_marks",
    "a_request_proposed_again_after_its_execution_is_not_executed_again",
    "a_restarted_follower_that_is_needed_votes_again",
    "a_restarted_replica_writes_nothing_where_it_may_have_written",
    "a_time_out_of_bounds_withholds_a_vote_and_deposes_nobody",
    "a_value_decided_by_one_replica_survives_a_view_change_that_does_not_hear_it",
    "a_value_survives_a_liar_and_a_laggard_that_report_nothing",
    "a_view_entered_before_a_restart_is_voted_in_only_after_its_sync",
    "a_write_certificate_executes_nothing",
    "a_write_certificate_overrides_what_a_liar_proposed_here",
    "absurd_views_move_nobody",
    "accepts_before_the_proposal_wait_for_it",
    "an_accept_leaves_only_after_its_record_is_durable",
    "an_idle_group_changes_no_view",
    "an_invalid_certificate_hides_no_valid_ones",
    "lost_stops_and_reports_are_said_again",
    "nobody_votes_below_the_mark_of_its_sync",
    "nothing_is_said_in_a_view_that_is_not_on_disk",
    "one_stop_disturbs_nobody_and_f_plus_one_are_followed",
    "only_a_new_era_goes_on_after_more_than_f_crashes",
    "the_certificate_of_the_highest_view_wins",
    "the_report_of_a_view_change_names_places_whose_writes_are_under_way",
    "the_restarted_leader_of_crash_mode_proposes_nothing_in_its_view",
    "the_second_report_of_a_liar_for_one_view_does_not_count",
    "three_votes_of_five_are_no_quorum",
    "two_replicas_crash_between_the_proposal_and_the_end_of_their_log_writes",
    "two_replicas_crash_whose_log_writes_had_ended_after_all",
    "votes_count_once_for_each_replica",
    "what_a_restarted_replica_forgot_is_not_taken_for_never_voted",
}
