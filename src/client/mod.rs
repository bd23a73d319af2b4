//! Calls under way and their answers.

/// The sans-I/O core of one client process.
pub mod session;

/// Enough equal replies make an answer.
pub mod reply_votes;

#[cfg(test)]
mod reply_votes_tests;
#[cfg(test)]
mod session_tests;

use bytes::Bytes;

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Executed exactly once; the result.
    Done(Bytes),
    /// Not executed, and it never will be. Why.
    NotExecuted(String),
    /// Perhaps executed, perhaps later: ask the service. Why it is not known.
    UnknownOutcome(String),
    /// The replicas' answers differ so that none can reach a quorum: more replicas are faulty than the group bears, or
    /// the service is not deterministic. Executed in some way. Who said what.
    Fail(String),
}

impl Outcome {
    /// Adds what is known of the connections.
    fn with_detail(self, detail: &str) -> Self {
        let add = |why: String| format!("{why} ({detail})");
        match self {
            Self::Done(body) => Self::Done(body),
            Self::NotExecuted(why) => Self::NotExecuted(add(why)),
            Self::UnknownOutcome(why) => Self::UnknownOutcome(add(why)),
            Self::Fail(why) => Self::Fail(add(why)),
        }
    }
}

/// Reasons that need no details.
mod reason {
    pub const TOO_OLD: &str = "executed, but the replicas no longer keep its result";
    pub const EXPIRED: &str = "the replicas do not know the session (any more)";
    pub const NOT_OPENED: &str = "the deadline passed before the session was open";
    pub const NOT_SENT: &str = "the deadline passed before it was sent";
    pub const DEADLINE: &str = "the deadline passed after it was sent";
}
