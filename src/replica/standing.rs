//! How a client connection behaves, and what it may still ask for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

/// Groups not taken, one after the other, that end a connection.
const IN_A_ROW_MAX: u32 = 16;
/// And in all.
const IN_ALL_MAX: u32 = 64;

/// Of one connection: counts the groups that were not taken, each of which may have cost a signature check.
#[derive(Default)]
pub struct Standing {
    in_a_row: AtomicU32,
    in_all: AtomicU32,
    lost: AtomicBool,
}

impl Standing {
    /// A group was taken.
    pub fn accepted(&self) {
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// One was not. True once: that was one too many.
    pub fn rejected(&self) -> bool {
        let row = self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let all = self.in_all.fetch_add(1, Ordering::Relaxed) + 1;
        (row >= IN_A_ROW_MAX || all >= IN_ALL_MAX) && !self.lost.swap(true, Ordering::Relaxed)
    }

    /// Whether the connection is being closed: what it still has waiting is not looked at.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Questions per second, after a burst of as many.
const PER_SECOND: f64 = 50.0;

/// Bounds how often something is answered.
#[derive(Default)]
pub struct Bucket {
    /// Used up, and when that was so.
    used: Option<(f64, Instant)>,
}

impl Bucket {
    /// Whether there is an answer to one more at `now`.
    pub fn take(&mut self, now: Instant) -> bool {
        let used = self.used.map_or(0.0, |(used, at)| {
            (used - now.saturating_duration_since(at).as_secs_f64() * PER_SECOND).max(0.0)
        });
        let ok = used + 1.0 <= PER_SECOND;
        self.used = Some((if ok { used + 1.0 } else { used }, now));
        ok
    }
}
