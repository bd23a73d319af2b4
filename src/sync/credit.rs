//! Shares of queues, in bytes.

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// What one message counts for besides its bytes: its bookkeeping.
const MESSAGE_BYTES: usize = 256;

/// A sender's share of the queues; gives its bytes back when dropped.
pub struct Credit {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Credit {
    /// Takes `bytes` of at most `max`; `None` when they are not free.
    pub fn take(used: &Arc<AtomicUsize>, bytes: usize, max: usize) -> Option<Self> {
        let bytes = bytes + MESSAGE_BYTES;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        let credit = Self { used: used.clone(), bytes };
        // A message that alone exceeds the bound passes when nothing else waits.
        (before == 0 || before + bytes <= max).then_some(credit)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
