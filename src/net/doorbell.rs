//! How the net thread is woken, and only when it sleeps: many sends cost one system call, often none.

use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether the net thread sleeps or is about to. Who finds that so wakes it, once.
#[derive(Default)]
pub struct Doorbell {
    sleeping: AtomicBool,
}

impl Doorbell {
    /// After something was left for the thread. True: the caller must wake it.
    ///
    /// Either the thread sees what was left before it sleeps, or we see that it sleeps.
    #[must_use = "nobody else wakes it"]
    pub fn ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::SeqCst)
    }

    /// The thread is about to sleep, if then `nothing` is there to do. Returns whether it may: from here on it is woken.
    pub fn lie_down(&self, nothing: impl FnOnce() -> bool) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let may = nothing();
        if !may {
            self.get_up();
        }
        may
    }

    /// The thread is up.
    pub fn get_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}
