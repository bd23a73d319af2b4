//! What is left for a thread that may sleep for it.

use crate::sync::Mutex;

/// Mail, and whether its receiver sleeps and wants to be woken for it.
#[derive(Default)]
pub struct Mailbox<M> {
    state: Mutex<State<M>>,
}

#[derive(Default)]
struct State<M> {
    mail: M,
    sleeping: bool,
}

impl<M> Mailbox<M> {
    /// Leaves something. True: the caller must wake the receiver.
    #[must_use = "nobody else wakes it"]
    pub fn post(&self, put: impl FnOnce(&mut M)) -> bool {
        let mut state = self.state.lock();
        put(&mut state.mail);
        std::mem::take(&mut state.sleeping)
    }

    /// The receiver, awake, takes what is there.
    pub fn take<R>(&self, take: impl FnOnce(&mut M) -> R) -> R {
        let mut state = self.state.lock();
        state.sleeping = false;
        take(&mut state.mail)
    }

    /// The receiver is about to sleep, unless `stay` finds something to do. Returns whether it may; `wake`: whether mail is to wake
    /// it, or only what it waits for besides.
    pub fn sleep(&self, wake: bool, stay: impl FnOnce(&M) -> bool) -> bool {
        let mut state = self.state.lock();
        if stay(&state.mail) {
            return false;
        }
        state.sleeping = wake;
        true
    }
}
