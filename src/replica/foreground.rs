//! What the agreement does besides, as the transfer stage looks at it: how long places take, and how much is executed.

use super::metrics::Stage;
use super::shared::Shared;
use crate::transfer::yielding::Look;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often it is looked at.
pub const LOOK: Duration = Duration::from_millis(100);
/// Requests per second are an average over about so many looks.
const AVERAGE: f64 = 10.0;

/// Counters of the last look.
pub struct Foreground {
    at: Instant,
    sent: u64,
    requests: u64,
    places: u64,
    decide_ns: u64,
    waits: u64,
    wait_ns: u64,
    ops_per_s: f64,
}

impl Foreground {
    /// Counts from now.
    pub fn new(shared: &Shared) -> Self {
        let mut this = Self {
            at: Instant::now(),
            sent: 0,
            requests: 0,
            places: 0,
            decide_ns: 0,
            waits: 0,
            wait_ns: 0,
            ops_per_s: 0.0,
        };
        this.look(shared, 0, false);
        this.ops_per_s = 0.0;
        this
    }

    /// Whether it is time to look.
    pub fn is_due(&self) -> bool {
        self.at.elapsed() >= LOOK
    }

    /// What happened since the last look; `sent` bytes of states since the start, and more of them `waits`.
    pub fn look(&mut self, shared: &Shared, sent: u64, waits: bool) -> Look {
        let length = self.at.elapsed();
        self.at = Instant::now();
        let (decide_ns, places) = shared.votes.totals();
        let (wait_ns, waited) = shared.metrics.totals(Stage::Wait);
        let requests = shared.requests_executed.load(Ordering::Relaxed);
        // A round of execution takes batches of several places: its first waited longest, and stands for all.
        let mean = |ns: u64, of: u64| ns.checked_div(of).unwrap_or(0);
        let decided = places - self.places;
        let wait = mean(wait_ns - self.wait_ns, waited - self.waits);
        let ops_per_s = (requests - self.requests) as f64 / length.as_secs_f64().max(1e-3);
        self.ops_per_s += (ops_per_s - self.ops_per_s) / AVERAGE;
        let look = Look {
            length_ns: length.as_nanos() as u64,
            places: decided,
            places_ns: decide_ns - self.decide_ns + wait * decided,
            sent: sent - self.sent,
            waits,
        };
        (self.sent, self.requests, self.places) = (sent, requests, places);
        (self.decide_ns, self.waits, self.wait_ns) = (decide_ns, waited, wait_ns);
        look
    }

    /// Requests executed per second, lately.
    pub fn ops_per_s(&self) -> u64 {
        self.ops_per_s as u64
    }
}
