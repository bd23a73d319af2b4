//! duramen: durable state machine replication against crashes (n = 2f+1) or lies (Byzantine, n = 3f+1).
//!
//! Flow, as the folders spell it: **net → wire → order → log ∥ execute → reply**.
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

/// Ids, positions, digests, times.
pub mod types;

/// How many votes are enough.
pub mod quorum;

/// Ed25519 keys: who we are on links and in signatures.
pub mod identity;

/// Sockets: bytes in and out; knows frames, not messages.
pub mod net;

#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod quorum_tests;
