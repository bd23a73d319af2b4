//! Calls under way and their answers: what applications use.
//!
//! ```no_run
//! # use duramen::{client::{Client, ClientOptions, Outcome}, config::Config, keys::ClientKeys};
//! # use std::path::Path;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(Path::new("duramen-data/cluster.toml"))?;
//! let keys = ClientKeys::load(Path::new("duramen-data/client-default.key"), &config)?;
//! let client = Client::connect(ClientOptions::new(config, keys))?;
//! let session = client.session();
//! match session.invoke("an operation of the service", None) {
//!     Outcome::Done(result) => println!("{result:?}"),
//!     Outcome::NotExecuted(why) => println!("not executed, safe to repeat: {why}"),
//!     Outcome::UnknownOutcome(why) => println!("perhaps executed: {why}"),
//!     Outcome::Fail(why) => println!("more replicas are faulty than this group bears: {why}"),
//! }
//! # Ok(()) }
//! ```
//!
//! [`session`] is the protocol, sans-I/O; [`runtime`] its threads: the net thread runs the core on what arrives, then the
//! callbacks, then packs what they submitted, so that a loaded client needs no further wake-up; the thread
//! `duramen-client` serves submissions from other threads and time.

/// The sans-I/O core of one client process.
pub mod session;

/// Enough equal replies make an answer.
pub mod reply_votes;

/// The core's threads and the blocking interface.
pub mod runtime;

/// Waiting for tuples of the tuple space.
pub mod tuples;

#[cfg(test)]
mod reply_votes_tests;
#[cfg(test)]
mod runtime_tests;
#[cfg(test)]
mod session_tests;

pub use runtime::{Client, ClientError, ClientOptions, Session, SubmitError};

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
    pub const CLOSED: &str = "the client was closed";
}
