//! What a model can leave out, to see that something breaks.

/// One rule of RULES.md, or one known bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// RULES 1: a restart restores Changing, never Normal; "view entered" carries the first vote reserve.
    RestartIsChanging,
    /// RULES 2: the report is the log up to "view entered", with the writes under way.
    ReportIsTheLog,
    /// RULES 3: the log is cut at or below the durable mark only.
    CutAtTheMark,
    /// RULES 4: a mark is durable before the window it opens is used.
    MarkBeforeWindow,
    /// RULES 7: a wiped replica does not vote until nothing that it forgot can matter.
    WipedRejoinsLate,
    /// RULES 7: its own answer does not count.
    OthersAnswer,
    /// RULES 7: not before a mark two windows above the highest reported.
    TwoWindows,
    /// RULES 7: only in views above those it may have promised.
    ViewAbove,
    /// A vote leaves when its record is durable.
    DurableVote,
    /// Byzantine: a WRITE that may have left before a restart is not repeated.
    VoteReserve,
    /// RULES 13: Q, not one less.
    FullQuorum,
    /// A restarted leader leads its view no more.
    RestartedLeaderIsNone,
    /// The certificate of the highest view is chosen, not just any.
    HighestView,
}

impl Rule {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::RestartIsChanging => "rule-1",
            Self::ReportIsTheLog => "rule-2",
            Self::CutAtTheMark => "rule-3",
            Self::MarkBeforeWindow => "rule-4",
            Self::WipedRejoinsLate => "rule-7",
            Self::OthersAnswer => "rule-7-others-answer",
            Self::TwoWindows => "rule-7-two-windows",
            Self::ViewAbove => "rule-7-view-above",
            Self::DurableVote => "durable-vote",
            Self::VoteReserve => "vote-reserve",
            Self::FullQuorum => "full-quorum",
            Self::RestartedLeaderIsNone => "restarted-leader",
            Self::HighestView => "highest-view",
        }
    }
}
