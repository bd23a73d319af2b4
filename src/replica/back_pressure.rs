//! Clients are slowed: what comes of them beyond a bound stays in their sockets.

use super::credit::Credit;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// Bytes of client groups between `net` and the end of their step, and whether clients are read: `net` stops, `order` goes on.
pub struct BackPressure {
    used: Arc<AtomicUsize>,
    paused: AtomicBool,
    /// Who changes `paused` says so before anybody changes it again: what `net` hears last is what is so.
    word: Mutex<()>,
    bytes_max: usize,
}

impl BackPressure {
    /// Clients are not read while their groups take more than `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self { used: Arc::default(), paused: AtomicBool::new(false), word: Mutex::new(()), bytes_max }
    }

    /// The net thread read a group of so many bytes: it is taken in any case, and perhaps no other for a while. `pause` leaves word
    /// for the net thread whether to read clients, without waiting.
    pub fn arrived(&self, bytes: usize, pause: impl FnOnce(bool)) -> Credit {
        let credit = Credit::take(&self.used, bytes, usize::MAX).expect("no bound");
        if self.used.load(Ordering::Relaxed) > self.bytes_max && !self.paused.load(Ordering::Relaxed) {
            self.turn(true, pause);
        }
        credit
    }

    /// `order` looks, after each round, whether clients may be read again.
    pub fn relieve(&self, pause: impl FnOnce(bool)) {
        if self.paused.load(Ordering::Relaxed) && self.used.load(Ordering::Relaxed) < self.bytes_max / 2 {
            self.turn(false, pause);
        }
    }

    fn turn(&self, to: bool, pause: impl FnOnce(bool)) {
        let _word = self.word.lock();
        if self.paused.swap(to, Ordering::SeqCst) != to {
            pause(to);
        }
    }

    /// Bytes of groups under way.
    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether clients are not read.
    #[cfg(test)]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }
}
