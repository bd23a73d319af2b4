//! duramen: durable state machine replication against crashes (n = 2f+1) or lies (Byzantine, n = 3f+1).
//!
//! Flow, as the folders spell it: **net → wire → order → log ∥ execute → reply**.
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

/// Ids, positions, digests, times.
pub mod types;

/// How many votes are enough.
pub mod quorum;

/// One file for all replicas and clients, checked once.
pub mod config;

/// Bytes as hexadecimal text.
pub mod hex;

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod quorum_tests;
