//! duramen: durable state machine replication against crashes (n = 2f+1) or lies (Byzantine, n = 3f+1).
//!
//! Flow, as the folders spell it: **net → wire → order → log ∥ execute → reply**. Read in this order; the threads
//! around it all are in [`replica::stages`]. [`durable`] is Dura-SMaRt's durability layer, usable under any ordering.
//!
//! # A replica
//!
//! ```no_run
//! use duramen::replica::{Replica, ReplicaOptions};
//! use duramen::{data_dir, service::KeyValueStore, types::ReplicaId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = std::path::PathBuf::from("duramen-data"); // made by `duramen init`
//! let config = data_dir::load_config(&dir)?;
//! let service = Box::new(KeyValueStore::new()); // or your own `service::Service`
//! let replica = Replica::start(ReplicaOptions::new(config, dir, ReplicaId(0), service))?;
//! println!("{}", replica.status_json());
//! replica.stop();
//! # Ok(()) }
//! ```
//!
//! # A client
//!
//! ```no_run
//! use duramen::client::{Client, ClientOptions, Outcome};
//! use duramen::{data_dir, keys::ClientKeys, service::KvWrite};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = std::path::Path::new("duramen-data");
//! let config = data_dir::load_config(dir)?;
//! let keys = ClientKeys::load(&data_dir::client_key_file(dir, "default"), &config)?;
//! let session = Client::connect(ClientOptions::new(config, keys))?.session();
//! let put = KvWrite::Put { key: b"k", value: b"v" }.into_operation();
//! match session.invoke(put, None) {
//!     Outcome::Done(reply) => println!("executed: {} bytes", reply.len()),
//!     other => println!("{other:?}"),
//! }
//! # Ok(()) }
//! ```
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

/// Ids, positions, digests, times.
pub mod types;

/// How many votes are enough.
pub mod quorum;

/// Ed25519 keys: who we are on links and in signatures.
pub mod identity;

/// One file for all replicas and clients, checked once.
pub mod config;

/// The folder of one cluster: the names of its files, and how they are made durable.
pub mod data_dir;

/// Key files of replicas and clients.
pub mod keys;

/// Makes a cluster: configuration, keys, formatted replica folders.
pub mod init;

/// Bytes as hexadecimal text.
pub mod hex;

/// Small system calls.
pub mod sys;

/// What threads share.
mod sync;

/// Sockets: bytes in and out; knows frames, not messages.
pub mod net;

/// Frames ↔ messages; what makes them believable.
pub mod wire;

/// Requests → one decided sequence of batches.
pub mod order;

/// Durability: records that survive power loss.
pub mod log;

/// Dura-SMaRt's durability layer, under any ordering.
pub mod durable;

/// Decided batches become service calls and replies, each operation once.
pub mod execute;

/// States at agreed places of the order, cheap to take and named by one root.
pub mod checkpoint;

/// The state of others, fetched from all of them at once.
pub mod transfer;

/// What a client may rely on when it is answered.
pub mod reply;

/// The threads around the cores.
pub mod replica;

/// What is replicated: the service trait, the key-value store, the null service of the micro-benchmarks, a counter.
pub mod service;

/// Calls under way and their answers: what applications use.
pub mod client;

/// The C ABI over all of it.
pub mod capi;

#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod identity_tests;
#[cfg(test)]
mod init_tests;
#[cfg(test)]
mod keys_tests;
#[cfg(test)]
mod quorum_tests;

#[cfg(test)]
mod types_tests;

/// One process, one seed, many replicas: the simulator that tries to break them.
#[cfg(any(test, feature = "sim"))]
pub mod sim;

/// The WAN lab: links between sites, shaped on one machine.
pub mod wan;
