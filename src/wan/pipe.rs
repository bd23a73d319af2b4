//! One direction of a link: how many bytes may pass when. [core]

use std::time::{Duration, Instant};

use super::relay::Shape;
use super::trace::State;

/// What passes at a time is worth this long, so that a fast link costs a thousand wake-ups per second and not more.
const GRAIN: Duration = Duration::from_millis(1);
/// At least so many bytes pass at a time, or a slow link would pass them one by one.
const GRAIN_BYTES_MIN: f64 = 1024.0;
/// A thread that comes late to bytes that waited makes up for so much.
const LATE_MAX: Duration = Duration::from_millis(50);
/// What is under way and not delivered may take up so much.
const BUFFER_BYTES_MIN: f64 = 65_536.0;

/// A token bucket whose depth depends on why it was left alone: a link that had nothing to carry saves up one grain, but one with bytes
/// waiting loses nothing when the thread that serves it is late. In any time t it passes no more than the trace's bytes in t + 50 ms,
/// and one grain.
pub(super) struct Pipe {
    pub shape: Shape,
    /// When its trace began.
    since: Instant,
    /// All until here is used.
    used: Duration,
    /// Bytes waited when it was last served.
    waited: bool,
}

impl Pipe {
    pub fn new(shape: Shape, since: Instant) -> Pipe {
        Pipe { shape, since, used: Duration::ZERO, waited: false }
    }

    pub fn state(&self, now: Instant) -> State {
        self.shape.trace.state(now.saturating_duration_since(self.since))
    }

    /// Bytes that may pass now: none, or a grain at least.
    pub fn allowed(&mut self, now: Instant) -> usize {
        let at = now.saturating_duration_since(self.since);
        let State::Flows(rate) = self.shape.trace.state(at) else { return 0 };
        let grain = grain_bytes(rate);
        let saved = if self.waited { LATE_MAX } else { Duration::from_secs_f64(grain / rate) };
        self.used = self.used.max(at.saturating_sub(saved.max(Duration::from_nanos(1))));
        let bytes = self.shape.trace.bytes_between(self.used, at);
        // A byte less than a grain is a matter of rounding.
        if bytes + 1.0 < grain { 0 } else { bytes as usize }
    }

    /// So many have passed.
    pub fn passed(&mut self, bytes: usize) {
        // It allowed them, so the trace has carried them.
        self.used = self.shape.trace.carried(self.used, bytes as f64).unwrap_or(self.used);
    }

    /// Whether more waits to pass.
    pub fn set_waiting(&mut self, waits: bool) {
        self.waited = waits;
    }

    /// When [`Pipe::allowed`] will allow something; `None` if never.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let at = now.saturating_duration_since(self.since);
        let trace = &self.shape.trace;
        match trace.state(at) {
            State::Flows(rate) => {
                let carried = trace.carried(self.used, grain_bytes(rate));
                carried.or_else(|| trace.next_change(at)).map(|at| self.since + at)
            }
            State::Stalls => trace.next_change(at).map(|at| self.since + at),
            State::Dead => None,
        }
    }

    /// When something may change that is not for bytes to find out: the link's death.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.shape.trace.next_change(now.saturating_duration_since(self.since)).map(|at| self.since + at)
    }

    /// Bytes under way at most: twice the product of bandwidth and delay, and what two grains bring.
    pub fn buffer_bytes(&self, now: Instant) -> usize {
        let rate = match self.state(now) {
            State::Flows(rate) => rate,
            State::Stalls | State::Dead => 0.0,
        };
        (2.0 * rate * (self.shape.delay + GRAIN).as_secs_f64()).max(BUFFER_BYTES_MIN) as usize
    }

    /// For the sockets at its ends: what comes while the thread is late, or there is nothing to make up for it with.
    pub fn socket_bytes(&self) -> usize {
        (self.shape.trace.peak() * LATE_MAX.as_secs_f64()).max(BUFFER_BYTES_MIN) as usize
    }
}

fn grain_bytes(rate: f64) -> f64 {
    (rate * GRAIN.as_secs_f64()).max(GRAIN_BYTES_MIN)
}
