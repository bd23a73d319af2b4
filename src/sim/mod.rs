//! One process, one seed, many replicas: the real ordering core over a simulated network, disk, execution and time.
//!
//! Simulated: delay, loss, reordering, partitions, crashes that lose what was not reported durable, clocks, keys.
//! Real: [`Orderer`](crate::order::Orderer), log records, message encodings, authentication, the session table.
//! A run is a function of its seed. `DURAMEN_SEEDS=N` runs N seeds of each swarm, `DURAMEN_SEED=S` the seed S alone;
//! with `DURAMEN_TRACE=1` every input is printed.
//! Stories to be read are in `scenarios/`, told by [`scenario`]; `DURAMEN_REWRITE=1` writes anew what they expect.
#![allow(missing_docs)]

pub mod adversary;
pub mod checkers;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod executor;
pub mod network;
pub mod random;
pub mod scenario;
pub mod scheme;
pub mod swarm;

mod rules_tests;
mod scenario_tests;
