//! What must hold of every run.

/// One history on all correct replicas; every request once, in its session's order; what was answered stays.
pub mod history;
/// One store explains what clients saw.
pub mod linearizable;

#[cfg(test)]
mod linearizable_tests;
