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

/// Frames ↔ messages; what makes them believable.
pub mod wire;

/// Requests → one decided sequence of batches.
pub mod order;

/// Decided batches → service calls, in sequence: the session table that keeps every request executed once.
/// Decided batches become service calls and replies, each operation once.
pub mod execute;

/// What is replicated: the service trait, the key-value store, the null service of the micro-benchmarks, a counter.
pub mod service;

/// Ed25519 keys: who we are on links and in signatures.
pub mod identity;

/// Sockets: bytes in and out; knows frames, not messages.
pub mod net;

#[cfg(test)]
mod identity_tests;

/// One file for all replicas and clients, checked once.
pub mod config;

/// The folder of one cluster: the names of its files, and how they are made durable.
pub mod data_dir;

/// Bytes as hexadecimal text.
pub mod hex;

/// Makes a cluster: configuration, keys, formatted replica folders.
pub mod init;

/// Key files of replicas and clients.
pub mod keys;

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod init_tests;
#[cfg(test)]
mod keys_tests;
/// Ed25519 keys: who we are on links and in signatures.
pub mod identity;

/// Sockets: bytes in and out; knows frames, not messages.
pub mod net;

#[cfg(test)]
mod identity_tests;

#[cfg(test)]
mod quorum_tests;

/// Calls under way and their answers: what applications use.
pub mod client;

/// What a client may rely on when it is answered.
pub mod reply;
