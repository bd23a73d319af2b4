//! duramen: durable state machine replication against crashes (n = 2f+1) or lies (Byzantine, n = 3f+1).
//!
//! Flow, as the folders spell it: **net → wire → order → log ∥ execute → reply**.
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

/// Ids, positions, digests, times.
pub mod types;

/// How many votes are enough.
pub mod quorum;

/// Frames ↔ messages; what makes them believable.
pub mod wire;

/// Requests → one decided sequence of batches.
pub mod order;

/// Decided batches → service calls, in sequence: the session table that keeps every request executed once.
pub mod execute;

/// What is replicated: the service trait, the key-value store, the null service of the micro-benchmarks, a counter.
pub mod service;

/// Many replicas in one process, from one seed.
#[cfg(test)]
mod sim;

#[cfg(test)]
mod quorum_tests;
