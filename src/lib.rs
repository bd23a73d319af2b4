//! duramen: durable state machine replication against crashes (n = 2f+1) or lies (Byzantine, n = 3f+1).
//!
//! Flow, as the folders spell it: **net → wire → order → log ∥ execute → reply**.
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

/// Ids, positions, digests, times.
pub mod types;

/// Durability: records that survive power loss.
pub mod log;

/// How many votes are enough.
pub mod quorum;

#[cfg(test)]
mod quorum_tests;
