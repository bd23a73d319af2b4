//! Rules that a test can break, to see that the suite notices. Outside tests nothing is ever broken.

/// One broken rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Mutant {
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
    /// What a leader takes counts up to the timeout that it stretched.
    LeaderStretchesTimeout,
}

#[cfg(test)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks one rule on this thread, or none.
#[cfg(test)]
pub(crate) fn break_rule(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

#[cfg(test)]
pub(super) fn broken(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

#[cfg(not(test))]
pub(super) const fn broken(_: Mutant) -> bool {
    false
}
