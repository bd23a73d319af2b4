//! Outcomes on their way to callbacks: a queue, and a descriptor that is readable while something is in it.

use super::status::*;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What the host gave to be called.
type Function = unsafe extern "C" fn(*mut c_void, i32, *const c_void, usize);

/// A callback that waits for its outcome. Dropped without one, it gets "unknown".
pub(super) struct Ticket(Option<(Arc<Inner>, Function, User)>);

/// The host's word: it may go to the threads that the header names.
struct User(*mut c_void);

// SAFETY: the pointer is not followed here; where it goes is the host's contract (`duramen_client_submit`).
unsafe impl Send for User {}

struct Ended {
    function: Function,
    user: User,
    outcome: i32,
    reply: Bytes,
}

struct Inner {
    queue: Mutex<Queue>,
    filled: Condvar,
    event: Option<File>,
    /// Tickets out and outcomes whose callback has not begun.
    unanswered: AtomicUsize,
    most: usize,
}

#[derive(Default)]
struct Queue {
    ended: VecDeque<Ended>,
    /// Nobody shall wait any more.
    closed: bool,
    /// Nothing comes any more.
    complete: bool,
}

/// The queue of one client.
pub(super) struct Outcomes(Arc<Inner>);

impl Outcomes {
    /// For so many at a time; with a descriptor to watch, or without.
    pub fn new(most: usize, watched: bool) -> Result<Self, Failure> {
        let event = watched.then(|| {
            // SAFETY: no pointers; the descriptor is nobody else's.
            unsafe {
                let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
                match fd {
                    -1 => Err(Failure::io("eventfd", &std::io::Error::last_os_error())),
                    fd => Ok(File::from_raw_fd(fd)),
                }
            }
        });
        Ok(Self(Arc::new(Inner {
            queue: Mutex::default(),
            filled: Condvar::new(),
            event: event.transpose()?,
            unanswered: AtomicUsize::new(0),
            most,
        })))
    }

    /// A callback to be called once. [`DURAMEN_E_BUSY`] if so many wait already.
    pub fn expect(&self, function: Function, user: *mut c_void) -> Result<Ticket, Failure> {
        let before = self.0.unanswered.fetch_add(1, Ordering::Relaxed);
        if before >= self.0.most {
            self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::new(DURAMEN_E_BUSY, format!("{before} requests have not called back")));
        }
        Ok(Ticket(Some((self.0.clone(), function, User(user)))))
    }

    /// Readable while outcomes wait; -1 without one.
    pub fn fd(&self) -> i32 {
        self.0.event.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.0.queue.lock().ended.len()
    }

    /// Waits for an outcome until then (`None`: without limit), or until [`Outcomes::close`].
    pub fn wait_until(&self, until: Option<Instant>) {
        let mut queue = self.0.queue.lock();
        while queue.ended.is_empty() && !queue.closed {
            match until {
                None => self.0.filled.wait(&mut queue),
                Some(until) if self.0.filled.wait_until(&mut queue, until).timed_out() => return,
                Some(_) => {}
            }
        }
    }

    /// Waits for an outcome; false if none comes any more.
    pub fn wait_for_more(&self) -> bool {
        let mut queue = self.0.queue.lock();
        while queue.ended.is_empty() && !queue.complete {
            self.0.filled.wait(&mut queue);
        }
        !queue.ended.is_empty()
    }

    /// Runs up to `max` callbacks on this thread: what had ended when this was called. Returns how many.
    pub fn run(&self, max: u32) -> u32 {
        let max = self.waiting().min(max as usize) as u32;
        let mut count = 0;
        while count < max {
            let Some(Ended { function, user, outcome, reply }) = self.next() else { break };
            let at = if reply.is_empty() { std::ptr::null() } else { reply.as_ptr().cast() };
            // Before the call: it is how a host hears of room, and may submit the next one.
            self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: the host gave function and user for each other; the reply lives until after the call.
            unsafe { function(user.0, outcome, at, reply.len()) };
            count += 1;
        }
        count
    }

    fn next(&self) -> Option<Ended> {
        let mut queue = self.0.queue.lock();
        let next = queue.ended.pop_front()?;
        if let Some(mut event) = self.0.event.as_ref().filter(|_| queue.ended.is_empty()) {
            // Under the lock: what comes next makes it readable again.
            let _ = event.read(&mut [0; 8]);
        }
        Some(next)
    }

    /// Ends all waiting with a limit of time.
    pub fn close(&self) {
        self.0.queue.lock().closed = true;
        self.0.filled.notify_all();
    }

    /// Nothing comes any more.
    pub fn complete(&self) {
        self.0.queue.lock().complete = true;
        self.0.filled.notify_all();
    }
}

impl Ticket {
    /// The outcome. The callback is called by who runs them.
    pub fn ended(mut self, outcome: i32, reply: Bytes) {
        self.end(outcome, reply);
    }

    fn end(&mut self, outcome: i32, reply: Bytes) {
        let Some((inner, function, user)) = self.0.take() else { return };
        let mut queue = inner.queue.lock();
        queue.ended.push_back(Ended { function, user, outcome, reply });
        let first = queue.ended.len() == 1;
        if let Some(mut event) = inner.event.as_ref().filter(|_| first) {
            let _ = event.write(&1u64.to_ne_bytes());
        }
        drop(queue);
        inner.filled.notify_one();
    }
}

thread_local! {
    /// A request is being handed to the client on this thread.
    static SUBMITTING: Cell<bool> = const { Cell::new(false) };
}

/// Hands a request with its ticket over. What is not taken is dropped on the way back: its ticket calls nobody.
pub(super) fn submitting<E>(submit: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    /// Also if it panics: tickets that are dropped later call back.
    struct Over(bool);
    impl Drop for Over {
        fn drop(&mut self) {
            let _ = SUBMITTING.try_with(|submitting| submitting.set(self.0));
        }
    }
    let _over = Over(SUBMITTING.try_with(|submitting| submitting.replace(true)).unwrap_or(false));
    submit()
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !SUBMITTING.try_with(Cell::get).unwrap_or(false) {
            let why = Bytes::from_static(b"the client was closed");
            self.end(super::client::DURAMEN_UNKNOWN_OUTCOME, why);
        } else if let Some((inner, ..)) = self.0.take() {
            inner.unanswered.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
