//! States at agreed places of the order: cheap to take, named by one root, two of them kept on disk.
//!
//! The life of a checkpoint:
//! ```text
//! frozen    after a place of the schedule the executor gives out its state: pointers, no bytes
//! written   another thread writes it aside, at its own pace; nothing waits for it
//! covered   the own durable mark has reached its place: an operator's new era cannot undo it any more
//! named     sealed under one root, durable, renamed: from now on a start reads it
//! older     the next one has its name: records and segments that only led to this one's place may go
//! removed   the one after the next has its name
//! ```

/// State as numbered pages: copied when written while shared, under a Merkle root.
pub mod pages;

/// Whose turn is when.
pub mod schedule;

/// The bytes of one checkpoint.
pub(crate) mod file;

/// The executed state, to be written or just read.
pub(crate) mod frozen;

/// All of a state, or what changed.
pub(crate) mod increments;

/// The bytes of one checkpoint, read.
pub(crate) mod opened;

/// How fast one is written.
pub(crate) mod pacer;

/// Turns left out where writing takes longer than one.
pub(crate) mod stretch;

/// The pages in one file.
pub(crate) mod page_run;

/// Two of them on disk.
pub(crate) mod store;

pub use file::CheckpointError;

#[cfg(test)]
mod increments_tests;
#[cfg(test)]
mod pacer_tests;
#[cfg(test)]
mod pages_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod stretch_tests;
