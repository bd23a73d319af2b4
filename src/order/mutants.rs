//! Rules that a test can break, to see that the suite notices. Outside tests nothing is ever broken.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// One broken rule.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(not(any(test, feature = "mutants")), allow(dead_code))]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        /// All of them.
        #[cfg(any(test, feature = "mutants"))]
        pub const ALL: &[Mutant] = &[$(Mutant::$name,)+];
    };
}

mutants! {
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
    /// RULES 17: one replica's word names a state in Byzantine mode.
    RootsOfOne,
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
    /// No leader is replaced for being slow. Costs time alone: a story tells, no random seed does.
    BearsSlowLeaders,
    /// RULES 13: a quorum is one vote less.
    QuorumTooSmall,
    /// RULES 13: a quorum is 2f+1, or f+1 in crash mode, as older texts have it.
    QuorumOfOlderTexts,
    /// WRITEs and ACCEPTs count whoever signed them.
    VotesUnsigned,
    /// Of a certificate the voters are counted and their signatures not looked at.
    CertificatesUnsigned,
    /// RULES 5: a mark certificate is believed as it stands.
    MarksUnproven,
    /// A MARK counts whoever signed it.
    MarksUnsigned,
    /// STOP-DATA in a SYNC counts whoever signed it.
    ReportsUnsigned,
    /// RULES 13: f+1 reports make a SYNC.
    SyncOfFewer,
    /// RULES 12: a request executes whoever signed it.
    RequestsUnsigned,
    /// RULES 12: a leader may propose any time.
    IgnoresClocks,
    /// A second proposal for a place takes the place of the first.
    FollowsSecondProposals,
    /// RULES 1: a restarted replica WRITEs again where it may have written.
    ForgetsWrites,
    /// A WRITE does not wait for the reserve that covers it.
    WritesAboveReserve,
    /// STOP-DATA leaves before "view entered" is durable.
    SpeaksBeforeView,
    /// Votes of earlier views count in this one.
    KeepsOldVotes,
    /// A vote counts in the view it arrives in.
    TakesOldVotes,
    /// The certificate of the lowest view wins.
    LowestViewWins,
    /// f+1 reports of no value free a place: the "unbound" of BFT-SMaRt.
    NoValueIsAVote,
    /// A new leader proposes at places that its SYNC fixed.
    ProposesOverSync,
    /// A new leader counts a report whose batches it does not have.
    CountsUnservableBatches,
    /// RULES 11: one wish is followed.
    OneStopDeposes,
    /// One replica's word that a place is decided is proof.
    ClaimsAreProof,
    /// A digest list is believed that does not lead to its mark.
    ChainsUnchecked,
    /// RULES 4: marks are compared by batches, not by replies.
    AuditsBatchesAlone,
    /// RULES 9: a leader reads before what its view change chose is executed.
    ReadsBeforeSync,
    /// RULES 9: a leader asks nobody whether it still leads.
    ReadsUnasked,
    /// RULES 9: a replica says of any view that it is still in it.
    ConfirmsAnyLeader,
    /// RULES 9: answers of replicas match by what was read alone.
    ReadsByValueAlone,
    /// RULES 10: a place is chosen of which too few know what they voted for.
    UnknownIsNothing,
    /// RULES 16: an old request of a session executes again.
    ExecutesTwice,
    /// RULES 16: a session's request executes before the one ahead of it.
    ExecutesPastGaps,
    /// RULES 3: the log is recycled up to the mark, not to the older checkpoint.
    RecyclesToMark,
    /// RULES 15: the log is recycled without a control record.
    RecyclesWithoutControl,
    /// The log is recycled although others that are behind need it.
    ForgetsLaggards,
    /// RULES 7: a learner votes again as soon as it heard of a decision.
    LearnerVotesAtOnce,
    /// RULES 7: one answer tells a learner where it may have voted.
    LearnerTrustsOne,
    /// RULES 7: who was a learner leads the first view it votes in.
    LearnerLeads,
    /// RULES 10: what a damaged record says was prepared counts as never prepared.
    ForgetsDamaged,
    /// A state is fetched that no certificate names.
    OffersUnproven,
    /// Any list of digests is taken for what the certificate names.
    DigestsUnchecked,
    /// A received chunk is taken for what its digest names.
    ChunksUnchecked,
    /// Chunks that an earlier run received are taken as they lie on disk.
    StagedUnchecked,
}

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
pub(crate) fn broken(mutant: Mutant) -> bool {
    BROKEN.get() == Some(mutant)
}

#[cfg(not(any(test, feature = "mutants")))]
pub(crate) const fn broken(_: Mutant) -> bool {
    false
}
