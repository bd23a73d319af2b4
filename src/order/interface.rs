//! Configuration, inputs, outputs and discards of the [`Orderer`](super::Orderer).

use super::record::OrderRecord;
use crate::log::Persisted;
use crate::types::*;
use crate::wire::auth::{AuthenticGroup, Authenticated, Checked};
use crate::wire::batch::Batch;
use crate::wire::messages::{Certificate, Message, NoticeCode, StateCertificate};
use std::sync::Arc;

/// Bounds and times of the agreement.
#[derive(Clone, Debug)]
pub struct OrderConfig {
    /// W: places above the mark that may be voted on.
    pub window: u64,
    /// A: undecided places the leader keeps open at once.
    pub open: u64,
    /// K: places between marks.
    pub mark_interval: u64,
    /// A batch closes at so many bytes of groups.
    pub batch_bytes: usize,
    /// A batch closes at so many requests.
    pub batch_requests: usize,
    /// Base and floor of the adaptive timeout.
    pub view_timeout_ms: u64,
    /// How far a proposed time may be from ours.
    pub clock_skew_ms: u64,
    /// Bytes of waiting groups kept per client.
    pub client_bytes_max: usize,
    /// Bytes of waiting groups kept in all.
    pub pool_bytes_max: usize,
    /// Votes are on disk before they leave. Where not (Dura-SMaRt's modes, RULES 14), batches and certificates of votes are
    /// kept in memory alone, decisions come out as [`Output::Decision`], and a restarted replica says what it may have forgotten.
    pub votes_durable: bool,
    /// A state can be had from others: a replica without one, or with a wrong one, takes it over.
    pub transfers: bool,
    /// Seeds the agreed random seeds of this replica's proposals.
    pub seed: u64,
}

/// Both clocks at one moment, read by the stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Monotonic.
    pub tick: Tick,
    /// Wall clock, for proposed times only.
    pub wall: WallTime,
}

/// What happens to a replica's ordering.
#[derive(Debug)]
pub enum Input {
    /// A replica's message.
    Message(Authenticated<Checked>),
    /// A group from a client of ours; `origin` names its connection in a [`Output::Notice`].
    Group {
        /// Comes back in notices.
        origin: u64,
        /// The group.
        group: AuthenticGroup,
    },
    /// The log holds every record up to here for good.
    Persisted(Persisted),
    /// A batch handed out by [`Output::Execute`] was executed.
    Executed {
        /// Which.
        seq: Seq,
        /// The chain of reply digests up to it.
        replies: Digest,
        /// The highest number executed of each session touched.
        progress: Vec<(SessionId, RequestNumber)>,
    },
    /// Whether the log takes new work (control records always fit).
    LogRoom(bool),
    /// The log failed: no vote may leave any more.
    LogFailed(String),
    /// What is replicated cannot go on here: neither can this replica.
    ServiceFailed(String),
    /// A batch read from our own log, as [`Output::ServeBatch`] to ourselves asked.
    OwnBatch(Arc<Batch>),
    /// The state executed up to this mark's place was frozen, to become a checkpoint.
    CheckpointTaken(Seq),
    /// A checkpoint is on disk, and one before it.
    CheckpointStored {
        /// What the older of the two covers.
        seq: Seq,
        /// Records from here on are kept all the same.
        keep: Lsn,
        /// The disk is short: what others lack is no reason to keep anything.
        pressed: bool,
    },
    /// The root of the state executed up to a place where all replicas take it.
    Rooted {
        /// Which place.
        seq: Seq,
        /// The chain of reply digests up to it.
        replies: Digest,
        /// The root.
        state: Digest,
    },
    /// The state of this place is being sent to a replica that needs it, which will ask for what follows.
    Seeding(Seq),
    /// A state with this root was received from others.
    Arrived(StateCertificate),
    /// As [`Output::Install`] asked: executed up to there, with these sessions, and a checkpoint of it is durable.
    Installed {
        /// From the output.
        state: StateCertificate,
        /// The highest number executed of each session.
        progress: Vec<(SessionId, RequestNumber)>,
    },
    /// What [`Output::Install`] asked for could not be done; nothing was changed.
    InstallFailed,
    /// Order a no-op of our own with this nonce (RULES 9).
    OrderNoop(u64),
    /// Crash mode: may a read with this token be answered from the executed state? (RULES 9)
    ReadIndex(u64),
    /// A deadline passed.
    Tick,
}

/// What a step asks for.
#[derive(Clone, Debug)]
pub enum Output {
    /// To one replica.
    Send(ReplicaId, Message),
    /// To all others.
    Broadcast(Message),
    /// Append to the log; records are numbered 1, 2, … in this order.
    Append(Lsn, OrderRecord),
    /// How the batch of the next [`Output::Execute`] was decided; only where votes are not durable. Without votes, a mark proves it.
    Decision(Certificate),
    /// Execute next.
    Execute(Arc<Batch>),
    /// All of this group was executed before: answer again from the client table.
    Resend(AuthenticGroup),
    /// Tell a client why its group was not taken, or who leads.
    Notice {
        /// From the input.
        origin: u64,
        /// Why.
        code: NoticeCode,
        /// Which group.
        group: Digest,
    },
    /// Read a batch of our log and send it as `BatchIs`; to ourselves, as [`Input::OwnBatch`].
    ServeBatch {
        /// To whom.
        to: ReplicaId,
        /// Which place.
        seq: Seq,
        /// Which record holds it; [`ELSEWHERE`](super::durable::ELSEWHERE): to be found by its place.
        lsn: Lsn,
    },
    /// The durable mark covers the checkpoint of this place: it may count.
    Covered {
        /// Which.
        seq: Seq,
        /// The batch history up to it.
        batches: Digest,
    },
    /// A quorum names the state that was executed up to this mark's place.
    Rooted(StateCertificate),
    /// What this replica needs next is nowhere to be had: a state is needed.
    Behind,
    /// What is executed here is not what f+1 others have, and why: nothing more is handed out, and nobody is told of it, before a state
    /// of others is taken over.
    Quarantined(String),
    /// Others' state is in place of none or of a wrong one.
    Restored,
    /// Take over the state that was received; nothing more is handed out until then.
    Install(StateCertificate),
    /// A received state of this place is of no use any more.
    NotInstalled(Seq),
    /// The log is not asked for these any more.
    Recycle {
        /// Places up to here.
        upto: Seq,
        /// Records below this one.
        below: Lsn,
    },
    /// These reads may be answered now.
    ReadReady(Vec<u64>),
    /// These may not: this replica does not lead.
    ReadRefused(Vec<u64>),
    /// A view began here.
    ViewStarted(View),
    /// This replica is mute from now on.
    Halt(String),
}

/// Why a replica's message had no effect; counted by sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Discard {
    #[error("of an older view")]
    OldView,
    #[error("too far ahead to keep")]
    TooEarly,
    #[error("not from the leader")]
    NotLeader,
    #[error("outside the window")]
    OutsideWindow,
    #[error("known already")]
    Duplicate,
    #[error("contradicts what the sender said before")]
    Equivocation,
    #[error("not asked for")]
    Unasked,
    #[error("invalid batch")]
    InvalidBatch,
    #[error("digest list does not lead to its mark")]
    BadChain,
    #[error("view change choice not possible")]
    BadSync,
    #[error("asks for too much")]
    TooMuch,
    #[error("asks for what the log does not hold any more")]
    Gone,
    #[error("not between replicas")]
    WrongPlace,
    #[error("this replica is halted")]
    Halted,
    #[error("this replica learns and does not vote yet")]
    Learning,
}
