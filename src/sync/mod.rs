//! What threads share, and how they reach each other: the one place that says which types these are.
//!
//! Here they are the ordinary ones, at no cost. `sync/interleavings` compiles the same sources of the threaded shell (it names
//! them) against `shuttled.rs`, where a scheduler decides who runs at each of these calls, and so plays orders that no machine
//! shows in years. What those sources take from here, both files give.
//!
//! **No send waits.** [`channel::Sender`] is unbounded: what is in it is bounded by its senders' credits
//! ([`Credit`](credit::Credit)), by the window, or by one answer per question. [`channel::Offers`] is bounded, and
//! gives back what does not fit. A stage that waits for another can only do so in one of the ways that
//! [`stages`](crate::replica::stages) lists.

/// Shares of queues.
pub mod credit;

/// Threads for what takes long.
pub mod pool;

/// Numbers that many change.
pub mod atomic {
    pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

pub use parking_lot::Mutex;

/// Threads as far as the shell starts and stops them.
pub mod thread {
    pub use std::thread::sleep;
}

/// Queues from stage to stage.
pub mod channel {
    pub use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

    /// A bounded channel: at most `most` wait in it.
    pub fn bounded<T>(most: usize) -> (Offers<T>, Receiver<T>) {
        let (sender, receiver) = crossbeam::channel::bounded(most);
        (Offers(sender), receiver)
    }

    /// The sending end of a bounded channel. It never waits.
    pub struct Offers<T>(crossbeam::channel::Sender<T>);

    impl<T> Clone for Offers<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Offers<T> {
        /// Leaves `what` if there is room for it. Errors: it, back.
        #[inline]
        pub fn offer(&self, what: T) -> Result<(), T> {
            self.0.try_send(what).map_err(|e| e.into_inner())
        }
    }

    /// Held by who is at work; [`Ended`] waits until it is dropped.
    pub struct Working(
        #[expect(dead_code, reason = "dropping it is its use")] crossbeam::channel::Sender<()>,
    );

    /// Waits for the end of a piece of work.
    pub struct Ended(crossbeam::channel::Receiver<()>);

    /// A piece of work to wait for.
    pub fn work() -> (Working, Ended) {
        let (sender, receiver) = crossbeam::channel::bounded(0);
        (Working(sender), Ended(receiver))
    }

    impl Ended {
        /// Returns when the work has ended.
        pub fn wait(&self) {
            let _ = self.0.recv();
        }

        /// As [`Ended::wait`], for so long at most; whether it has ended.
        #[cfg(test)]
        pub fn within(&self, most: std::time::Duration) -> bool {
            self.0.recv_timeout(most).is_err_and(|e| !e.is_timeout())
        }
    }
}

#[cfg(test)]
mod pool_tests;
