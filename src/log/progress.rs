//! How much of something has been read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read of bytes there are; kept by the reader, looked at by anybody.
#[derive(Debug, Default)]
pub struct Progress {
    read: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// There are so many bytes.
    pub fn begin(&self, total: u64) {
        self.read.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// So many are read.
    pub fn reach(&self, read: u64) {
        self.read.store(read, Ordering::Relaxed);
    }

    /// All that there is.
    pub fn end(&self) {
        self.reach(self.total.load(Ordering::Relaxed));
    }

    /// Read, and total; 0 before it began.
    pub fn bytes(&self) -> (u64, u64) {
        let total = self.total.load(Ordering::Relaxed);
        (self.read.load(Ordering::Relaxed).min(total), total)
    }
}
