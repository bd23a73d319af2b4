//! The same names as in `mod.rs`, by shuttle: whoever calls one of these may lose its turn. Only `sync/interleavings` compiles this.
//!
//! There is no time: a wait with a limit may end at it whenever the scheduler likes, and always does when nothing else can
//! happen. Memory is sequentially consistent.

/// Numbers that many change.
pub mod atomic {
    pub use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

/// A lock that is not poisoned.
#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().expect("a failed run ends")
    }
}

/// Threads.
pub mod thread {
    pub use shuttle::thread::{JoinHandle, spawn};

    /// Who sleeps comes last.
    pub fn sleep(_time: std::time::Duration) {
        shuttle::thread::yield_now();
    }
}

/// Queues.
pub mod channel {
    use shuttle::sync::{Condvar, Mutex};
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    struct State<T> {
        queue: VecDeque<T>,
        most: usize,
        senders: usize,
        received: bool,
    }

    struct Channel<T> {
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    impl<T> Channel<T> {
        fn put(&self, what: T, waits: bool) -> Result<(), T> {
            let mut state = self.state.lock().unwrap();
            while state.queue.len() >= state.most && state.received {
                if !waits {
                    return Err(what);
                }
                state = self.changed.wait(state).unwrap();
            }
            if !state.received {
                return Err(what);
            }
            state.queue.push_back(what);
            self.changed.notify_all();
            Ok(())
        }
    }

    fn channel<T>(most: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { queue: VecDeque::new(), most, senders: 1, received: true };
        let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
        (Sender(channel.clone()), Receiver(channel))
    }

    pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        channel(usize::MAX)
    }

    pub fn bounded<T>(most: usize) -> (Offers<T>, Receiver<T>) {
        let (sender, receiver) = channel(most);
        (Offers(sender), receiver)
    }

    /// What no stage may use: a full queue makes the sender wait. For shells that are wrong on purpose.
    pub fn waiting<T>(most: usize) -> (Sender<T>, Receiver<T>) {
        channel(most)
    }

    #[derive(Debug)]
    pub struct SendError;

    #[derive(Debug, PartialEq, Eq)]
    pub enum RecvTimeoutError {
        Timeout,
        Disconnected,
    }

    pub struct Sender<T>(Arc<Channel<T>>);

    impl<T> Sender<T> {
        pub fn send(&self, what: T) -> Result<(), SendError> {
            self.0.put(what, true).map_err(|_| SendError)
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.state.lock().unwrap().senders += 1;
            Self(self.0.clone())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            self.0.state.lock().unwrap().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    pub struct Offers<T>(Sender<T>);

    impl<T> Offers<T> {
        pub fn offer(&self, what: T) -> Result<(), T> {
            self.0.0.put(what, false)
        }
    }

    pub struct Receiver<T>(Arc<Channel<T>>);

    impl<T> Receiver<T> {
        pub fn recv(&self) -> Result<T, RecvTimeoutError> {
            let mut state = self.0.state.lock().unwrap();
            loop {
                if let Some(first) = state.queue.pop_front() {
                    self.0.changed.notify_all();
                    return Ok(first);
                }
                if state.senders == 0 {
                    return Err(RecvTimeoutError::Disconnected);
                }
                state = self.0.changed.wait(state).unwrap();
            }
        }

        /// The time is over as soon as it is its turn again.
        pub fn recv_timeout(&self, _most: Duration) -> Result<T, RecvTimeoutError> {
            // A heartbeat keeps nobody from working.
            shuttle::thread::yield_now();
            let mut state = self.0.state.lock().unwrap();
            match state.queue.pop_front() {
                Some(first) => {
                    self.0.changed.notify_all();
                    Ok(first)
                }
                None if state.senders == 0 => Err(RecvTimeoutError::Disconnected),
                None => Err(RecvTimeoutError::Timeout),
            }
        }

        pub fn try_recv(&self) -> Option<T> {
            let first = self.0.state.lock().unwrap().queue.pop_front();
            if first.is_some() {
                self.0.changed.notify_all();
            }
            first
        }

        pub fn is_empty(&self) -> bool {
            self.0.state.lock().unwrap().queue.is_empty()
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let mut state = self.0.state.lock().unwrap();
            state.received = false;
            // What nobody will take is let go, with what it holds.
            let left = std::mem::take(&mut state.queue);
            self.0.changed.notify_all();
            drop(state);
            drop(left);
        }
    }

    pub struct Working(#[expect(dead_code, reason = "dropping it is its use")] Sender<()>);

    pub struct Ended(Receiver<()>);

    pub fn work() -> (Working, Ended) {
        let (sender, receiver) = channel(0);
        (Working(sender), Ended(receiver))
    }

    impl Ended {
        pub fn wait(&self) {
            let _ = self.0.recv();
        }
    }
}
