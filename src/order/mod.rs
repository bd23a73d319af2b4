//! Order: authenticated requests → one decided sequence of batches, in both fault models.
//!
//! One core, [`Orderer`], a function of its inputs. Byzantine: PROPOSE → signed WRITE → ACCEPT; crash: PROPOSE → ACCEPT.
//! A window of places is in flight at once; places are decided in any order and executed in sequence.
//!
//! # What must be durable before what leaves
//!
//! | leaves | after this is durable |
//! |---|---|
//! | any message of view v | `ViewEntered(v)` (view 1: written by `init`) |
//! | WRITE for place s | a vote reserve of this view that covers s |
//! | ACCEPT for (v, s, d) | `Prepared(v, s, d)` with batch and certificate |
//! | a vote above the old window | the `Mark` that opened the window |
//! | STOP-DATA(v) | `ViewEntered(v)`; the report is the log up to it |
//!
//! # Deviations from Mod-SMaRt and PBFT
//!
//! - Votes are durable: a decision means a quorum of durable copies, so a reply waits for no disk of its own.
//! - A SYNC carries a quorum of STOP-DATA and nothing else: everybody computes the same choice. Chosen places count as
//!   proposed by the SYNC itself, by digest; the leader sends no PROPOSE for them.
//! - A STOP is a wish and is repeated in every heartbeat, where it can also be taken back (RULES 11). A leader that
//!   wishes to leave is followed at once: only it can abdicate.
//! - A leader whose places are not decided wishes for the next view itself: it may be the last one in its own.
//! - Any quorum of STOP-DATA makes a SYNC. In Byzantine mode the leader's counts at once, others' after half a timeout:
//!   a lying follower could start the view of some with another choice than its leader's.
//! - MARKs are repeated with the heartbeat until certified, and to whoever lags behind ours.
//! - A restarted leader never proposes, and sends no SYNC, in the view it restarted in (crash mode would fork).
//! - "View 1 entered" restores to Normal (there is no SYNC of view 1), with the vote reserve as bar; every later view
//!   restores to Changing and votes only after somebody's SYNC of it (RULES 1).
//! - A place decided without a Prepared record of ours is logged as `Batch`, so that our own log replays.
//! - A certificate that rotted on disk is made up for by one that another reports: [`repair`].
//!
//! # Calling contract
//!
//! Call [`Orderer::step`] once per input, in arrival order, from one thread; `now` never goes back. Outputs take effect
//! in the order given: an `Append` is queued in the log before any later output acts. Equal inputs give equal outputs.

/// Configuration, inputs, outputs, discards.
pub mod interface;

/// What is kept in the log.
pub mod record;

/// What stands in one record of it, so that older ones may go.
pub mod control;

/// What the log says.
pub mod durable;

/// Groups that wait.
pub mod requests;

/// One place.
pub mod slot;

/// The core: state, dispatch, the normal case.
pub mod orderer;

/// One place, from its proposal to its decision.
mod instance;

/// What waits for the disk.
mod held;

/// Unordered reads.
mod reads;

/// Whether the leader is as fast as others.
pub mod performance;

/// Heartbeats, and whether the leader serves.
mod watch;

/// Stop → StopData → Sync.
mod leader_change;

/// What is missing here or elsewhere.
mod fetch;

/// Back after the loss of a log.
mod rejoin;

/// Marks, the window, and what a replica behind does.
mod catch_up;

/// What the log keeps beside checkpoints.
mod recycle;

/// States that a quorum names.
mod roots;

/// Such a state in place of what cannot be fetched.
mod install;

/// What must hold of one state, and between two.
pub mod invariants;

/// Rules that tests break.
pub(crate) mod mutants;

/// From the log's records to an [`Orderer`].
pub mod restore;

/// Records of which only the header is left.
pub mod repair;

pub use interface::{Discard, Input, Now, OrderConfig, Output};
pub use orderer::Orderer;

#[cfg(test)]
mod durable_tests;
#[cfg(test)]
mod leader_change_tests;
#[cfg(test)]
mod performance_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod requests_tests;
