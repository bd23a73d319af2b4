//! Dura-SMaRt's durability layer: decided batches go to disk and to the service, and replies leave when the mode allows.
//!
//! The layer knows nothing of agreement. A host that orders batches by itself hands them over with
//! [`DurableLayer::deliver`], in its order, all that wait at a time; a replica in one of the paper's modes is such a host.
//!
//! | mode | one round over all batches that wait | time of round k | a reply says |
//! |---|---|---|---|
//! | [`Mode::Parallel`] | one group write while they execute; replies after both | max(E_k, L_k) | on this disk |
//! | [`Mode::Batched`] | one group write, then execution, then replies | E_k + L_k | on this disk |
//! | [`Mode::Naive`] | one synchronous write per operation, then execution, then replies | E_k + Σ L_op | on this disk |
//! | [`Mode::Async`] | execution and replies; the write ends some time later | E_k | nothing |
//!
//! E_k is the time the batches of round k take to execute, L_k that of their write (Dura-SMaRt, ATC'13, "Parallel Logging").
//! What is delivered while a round runs makes the next round, so one write in flight gathers all that comes meanwhile.
//! Differs from the paper: a round larger than one write of the log takes several writes in flight at once.
//!
//! The promise is one replica's: what was released as durable is given back by the next [`open`], in order. What a group of
//! such replicas promises depends on the host's ordering; `replica` documents it for ours (RULES 14).

mod layer;
mod record;
mod rounds;

#[cfg(test)]
mod layer_tests;

pub use layer::{DeliveryReader, DurableLayer, Host, LayerError, Mode, OpenLayer, inspect, open};
pub use record::Delivery;
pub use rounds::RoundStats;
