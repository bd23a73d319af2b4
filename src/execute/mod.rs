//! Decided batches become replies: each operation once, in the order of the batches.

/// Sessions of clients: which request is next, and the replies to those before.
pub mod client_table;

/// Decided batches in sequence: service calls, replies, the reply chain.
pub mod executor;

#[cfg(test)]
mod client_table_tests;
#[cfg(test)]
mod executor_tests;
#[cfg(test)]
mod waiting_tests;
