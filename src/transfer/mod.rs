//! State transfer: a replica that lacks the state gets it from all others at once.
//!
//! The state of one target, named by place and root, is cut into chunks; [`fetch::Fetch`] decides which source is asked for
//! which chunk and when, and knows nothing of sockets, hashes, files or clocks. Its strategies:
//!
//! | name | who sends what |
//! |---|---|
//! | `pull` | each source as much as its window holds, refilled as it answers; the last chunks twice if that is faster |
//! | `adaptive` | every interval what is missing is shared out anew by the bytes that came in the last one |
//! | `cst` | Dura-SMaRt's: seeders by rank, one part each of a few, or one all; the next rank if one fails |
//! | `equal` | fixed equal parts; another source gets a part only if its owner fails |
//! | `premeasured` | fixed parts by configured weights |
//! | `single` | one source sends all, the next one if it fails |
//! | `whole-hash` | as `adaptive`, but nothing is checked before all is there |
//!
//! What asked-for bytes may cost is bounded in all of them: what is under way and not yet written, bytes per second, and
//! how much the leader has to send.

/// What is transferred, and how it is checked.
pub mod image;

/// What is said.
pub mod messages;

/// Compression of what is sent.
pub mod packing;

/// The serving side.
pub mod seeder;

/// The receiving side.
pub mod leecher;

/// How fast a seeder may send, by how long the agreement takes.
pub mod yielding;

/// A policy: nothing is offered under load.
pub mod postponing;

/// What was received, on disk.
pub mod staging;

/// Where that lies.
pub mod shelf;

/// The thread that writes it.
mod stager;

/// The thread that serves and fetches.
pub mod stage;

/// What comes to it from its sockets.
pub mod sockets;

/// What a seeder can lie about.
#[cfg(any(test, feature = "adversary", feature = "sim"))]
pub mod lies;

/// All of it, to be taken over.
pub mod received;

/// What is missing, who is asked for it, who failed.
pub mod fetch;

/// Strategy: ranks.
pub mod cst;

/// How many chunks each source gets.
pub mod plan;

/// Sets of chunks.
pub mod ranges;

/// Who has what, and what moves between them.
mod board;

/// One source.
mod source;

/// Strategy: windows.
mod pull;

/// Strategies: shares.
mod shares;

/// Strategy: one source.
mod single;

pub use cst::CstConfig;
pub use fetch::{
    Arrival, Fault, Fetch, FetchConfig, Input, Output, Progress, SourceProgress, SourceState, StrategyKind,
};

#[cfg(test)]
mod corner_tests;
#[cfg(test)]
mod cst_tests;
#[cfg(test)]
mod fetch_tests;
#[cfg(test)]
mod fluid_tests;
#[cfg(test)]
mod lies_tests;
#[cfg(test)]
mod packing_tests;
#[cfg(test)]
mod postponing_tests;
#[cfg(test)]
mod ranges_tests;
#[cfg(test)]
mod shares_tests;
#[cfg(test)]
mod stager_tests;
#[cfg(test)]
mod yielding_tests;
