//! The channels between the stages, made in one place: what [`stages`](super::stages) says of them is what they are.

use crate::sync::channel::{Offers, Receiver, Sender, bounded, unbounded};

/// Both ends of a channel that takes everything: its senders hold credits for what they put in, or put in one answer per question.
pub type Open<T> = (Sender<T>, Receiver<T>);
/// Both ends of a channel that gives back what does not fit.
pub type Bounded<T> = (Offers<T>, Receiver<T>);

/// All of them, by who receives.
pub struct Links<Order, Execute, Checkpoint, Transfer, Fetch, Root> {
    pub order: Open<Order>,
    pub execute: Open<Execute>,
    pub checkpoint: Open<Checkpoint>,
    pub transfer: Open<Transfer>,
    /// Nothing is lost with a question that does not fit: the peer asks another.
    pub fetch: Bounded<Fetch>,
    /// Nor with a state: its place is left out here.
    pub roots: Bounded<Root>,
}

impl<O, E, C, T, F, R> Links<O, E, C, T, F, R> {
    /// Before any thread starts.
    pub fn new(serves_max: usize, roots_max: usize) -> Self {
        Self {
            order: unbounded(),
            execute: unbounded(),
            checkpoint: unbounded(),
            transfer: unbounded(),
            fetch: bounded(serves_max),
            roots: bounded(roots_max),
        }
    }
}
