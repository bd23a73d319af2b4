//! Rules that a test can break, to see that the suite notices. Outside tests nothing is ever broken.

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(any(test, feature = "mutants")), allow(dead_code))]
pub enum Mutant {
    /// RULES 1: a restart goes on voting in the view it finds in the log.
    RestoresNormal,
    /// RULES 2: STOP-DATA omits prepared places whose writes are under way, and their ACCEPTs leave later.
    ReportsDurableOnly,
    /// RULES 4: the window moves when the mark is appended, not when it is durable.
    WindowBeforeMark,
    /// RULES 8: a batch is executed once it is prepared here.
    ExecutesPrepared,
    /// RULES 11: who wishes for the next view votes no more.
    WishIsStop,
    /// A restarted leader goes on leading its view.
    RestartedLeaderLeads,
    /// ACCEPT leaves before its record is durable.
    VotesBeforeDurable,
    /// A replica whose mark is lower than its SYNC's votes below that one, also against what it decided.
    VotesBelowMark,
    /// A crash-mode leader that learns decisions of a later view goes on answering.
    DeposedLeaderAnswers,
    /// A new leader counts a report whose mark it cannot serve.
    CountsUnservableMarks,
    /// RULES 14: a restarted replica without durable votes reports what it forgot as never voted on.
    ForgetsSilently,
    /// RULES 14: STOP-DATA leaves out the decisions on record.
    OmitsDecisions,
    /// RULES 7: a learner votes again above the marks reported, where its forgotten votes lie.
    RejoinsWhereItVoted,
    /// What a leader takes counts up to the timeout that it stretched.
    LeaderStretchesTimeout,
    /// No leader is replaced for being slow. Costs time alone: `sim::leader_tests` tells, no random seed does.
    BearsSlowLeaders,
}

/// All that random seeds are to find.
#[cfg(feature = "mutants")]
pub const ALL: &[Mutant] = &[
    Mutant::RestoresNormal,
    Mutant::ReportsDurableOnly,
    Mutant::WindowBeforeMark,
    Mutant::ExecutesPrepared,
    Mutant::WishIsStop,
    Mutant::RestartedLeaderLeads,
    Mutant::VotesBeforeDurable,
    Mutant::VotesBelowMark,
    Mutant::DeposedLeaderAnswers,
    Mutant::CountsUnservableMarks,
    Mutant::ForgetsSilently,
    Mutant::OmitsDecisions,
    Mutant::RejoinsWhereItVoted,
    Mutant::LeaderStretchesTimeout,
];

#[cfg(any(test, feature = "mutants"))]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread, or none.
#[cfg(any(test, feature = "mutants"))]
pub fn break_rule(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

#[cfg(any(test, feature = "mutants"))]
pub(super) fn broken(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

#[cfg(not(any(test, feature = "mutants")))]
pub(super) const fn broken(_: Mutant) -> bool {
    false
}
