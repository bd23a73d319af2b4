//! One process, one seed, many replicas: the real ordering core over a simulated network, disk, execution and time.
//!
//! Simulated: delay, loss, reordering, partitions, crashes that lose what was not reported durable, clocks, keys.
//! Real: [`Orderer`](crate::order::Orderer), log records, message encodings, authentication, the session table.
//! A run is a function of its seed. `DURAMEN_SEEDS=N` runs N seeds of each swarm, `DURAMEN_SEED=S` the seed S alone;
//! with `DURAMEN_TRACE=1` every input is printed.
#![allow(missing_docs, clippy::len_without_is_empty, clippy::should_implement_trait)]

pub mod adversary;
#[cfg(test)]
pub mod checkers;
#[cfg(test)]
pub mod client;
#[cfg(test)]
pub mod cluster;
#[cfg(test)]
pub mod disk;
#[cfg(test)]
pub mod executor;
#[cfg(test)]
pub mod network;
pub mod random;
#[cfg(test)]
pub mod scheme;
#[cfg(test)]
pub mod swarm;
#[cfg(test)]
pub mod twins;

#[cfg(test)]
mod rules_tests;
