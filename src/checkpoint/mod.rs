//! States at agreed places of the order, cheap to take and named by one root.

/// State as numbered pages: copied when written while shared, under a Merkle root.
pub mod pages;

#[cfg(test)]
mod pages_tests;
