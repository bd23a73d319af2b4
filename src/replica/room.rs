//! Whether the logs take new work, together.

use crate::sync::Mutex;

/// Whether both logs take new work; somebody hears of it when that changes.
pub struct Room<F> {
    logs: Mutex<[bool; 2]>,
    tell: F,
}

impl<F: Fn(bool)> Room<F> {
    /// Both do.
    pub fn new(tell: F) -> Self {
        Self { logs: Mutex::new([true; 2]), tell }
    }

    /// One of them says how it is now, on its own thread.
    pub fn is(&self, log: usize, now: bool) {
        let mut logs = self.logs.lock();
        let before = logs.iter().all(|room| *room);
        logs[log] = now;
        let after = logs.iter().all(|room| *room);
        // Under the lock: what is heard last is what is so.
        if before != after {
            (self.tell)(after);
        }
    }
}
