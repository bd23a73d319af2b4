//! Work for the pool, taken away in rounds by one task at a time.

use crate::sync::Mutex;

/// A queue of work, and whether a task is at it.
#[derive(Default)]
pub struct Rounds<Q> {
    state: Mutex<(Q, bool)>,
}

impl<Q> Rounds<Q> {
    /// Leaves work. True: no task is at it, and the caller starts one.
    #[must_use = "nobody else starts a task"]
    pub fn add(&self, put: impl FnOnce(&mut Q)) -> bool {
        let mut state = self.state.lock();
        put(&mut state.0);
        !std::mem::replace(&mut state.1, true)
    }

    /// The task's next round; without one it ends: what is left from now on has a task of its own.
    pub fn next<R>(&self, take: impl FnOnce(&mut Q) -> Option<R>) -> Option<R> {
        let mut state = self.state.lock();
        let round = take(&mut state.0);
        if round.is_none() {
            state.1 = false;
        }
        round
    }
}
