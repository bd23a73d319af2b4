//! What must hold of every run.

/// One history on all correct replicas; every request once, in its session's order; what was answered stays.
pub mod history;
