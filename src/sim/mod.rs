//! One process, one seed, many replicas: the real ordering core over a simulated network, disk, execution and time.
//!
//! Simulated: delay, loss, reordering, duplication, partitions, clogged links; disks that stall, fail, fill up, lose what was not
//! reported durable, lose what was, or cannot be read any more; clocks and pauses; crashes of any subset; keys.
//! Real: [`Orderer`](crate::order::Orderer), log records, message encodings, authentication, the session table; of state transfer
//! [`Leecher`](crate::transfer::leecher::Leecher) and [`Seeder`](crate::transfer::seeder::Seeder) with all strategies, images, chunks
//! and the files they are kept in. (The log's bytes have a simulated disk of their own in `log`.)
//! A run is a function of its [`Plan`]: `duramen sim`. In tests `DURAMEN_SEEDS=N` runs N seeds of each swarm, `DURAMEN_SEED=S` the
//! seed S alone; with `DURAMEN_TRACE=1` every input is printed.
//! With `--reads` clients read beside the order as well. Whatever clients saw must be explained by one key-value store
//! (`checkers::linearizable`).
//! Stories to be read are in `scenarios/`, told by `scenario`; `DURAMEN_REWRITE=1` writes anew what they expect.
#![allow(missing_docs, clippy::len_without_is_empty, clippy::should_implement_trait)]
// Directed stories use more than random runs do.
#![cfg_attr(not(test), allow(dead_code))]

pub mod adversary;
pub(crate) mod checkers;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod executor;
pub(crate) mod network;
pub(crate) mod operations;
pub mod random;
pub(crate) mod reader;
pub(crate) mod scheme;
pub(crate) mod shelf;
pub(crate) mod state_bytes;
pub(crate) mod swarm;

#[cfg(feature = "mutants")]
pub use crate::order::mutants::{ALL, Mutant};
pub use cluster::Fetched;
#[cfg(feature = "mutants")]
pub use hunt::{Kill, hunt};
#[cfg(feature = "mutants")]
pub use scenario::{Error as StoryError, What, check, rewrite};
pub use swarm::{FAULTS_MAX, Plan, Report, attempt, minimise};

#[cfg(any(test, feature = "mutants"))]
mod hunt;
#[cfg(any(test, feature = "mutants"))]
mod scenario;
#[cfg(any(test, feature = "mutants"))]
mod scenarios;
#[cfg(any(test, feature = "mutants"))]
mod transfer_stories;
#[cfg(test)]
mod twins;

#[cfg(test)]
mod leader_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod scenario_tests;
#[cfg(test)]
mod transfer_tests;
