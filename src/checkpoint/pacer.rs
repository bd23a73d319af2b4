//! [core] How fast a checkpoint is written: no faster than allowed, slower while the log feels it, and in time for the next turn.
//!
//! ```text
//! pause before the next bytes = the greater of
//!   what the bound of bytes per second asks for
//!   the gap: doubled each time log writes take longer than in calm, halved each time they do not
//!            no shorter than a set one while others want the processor
//!            left out while the part that is written is behind the part of the turn that is over
//! ```
//! Turns are counted in places, as the schedule does: that replicas write one after the other (equation (1)) holds at any load, because
//! the writer ends at four fifths of its turn if the disk can do it at all.
//!
//! Source: Dura-SMaRt (ATC'13), "Sequential checkpointing", for the turns. Pacing by what the foreground feels is ours.

use std::time::Duration;

/// The part of a turn after which a checkpoint shall be written.
const TURN_PART: f64 = 0.8;
/// Log writes that take as many times as long as in calm are held up by us,
const FELT_TIMES: f64 = 1.5;
/// if it is more than so much longer.
const FELT_US: f64 = 100.0;
/// Log writes of which a mean says something.
const WRITES_MIN: u64 = 4;
const GAP_MIN: Duration = Duration::from_millis(1);
const GAP_MAX: Duration = Duration::from_millis(64);
/// After a MiB or two, while others want the processor: about 3 % of one then.
pub const CROWDED_GAP: Duration = Duration::from_millis(20);

/// What the log has written since the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct LogWrites {
    /// How many writes.
    pub count: u64,
    /// What they took, all in all.
    pub sum_ns: u64,
}

impl LogWrites {
    /// Mean of the writes since `before`, µs; `None`: too few.
    fn mean_us_since(self, before: Self) -> Option<f64> {
        let count = self.count.saturating_sub(before.count);
        (count >= WRITES_MIN)
            .then(|| self.sum_ns.saturating_sub(before.sum_ns) as f64 / 1000.0 / count as f64)
    }
}

/// The state of one replica's writer.
pub struct Pacer {
    /// Bytes per second; 0: no bound.
    limit: u64,
    /// What a log write takes while no checkpoint is written, µs.
    calm_us: Option<f64>,
    /// The log's as of the end of the last checkpoint, or of the last look.
    seen: LogWrites,
    gap: Duration,
    total: u64,
    sent: u64,
    /// Pauses beyond what the bound asks for.
    yielded: Duration,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the checkpoint began.
    pub since: Duration,
    /// The part of the turn that is over, 1 and more: all of it.
    pub turn: f64,
    /// The log's counters.
    pub log: LogWrites,
    /// Whether others want the processor.
    pub crowded: bool,
}

/// Whether work of which the part `done` is done would be done in time for the next turn, at the pace of the part of this one that is
/// over.
pub fn is_ahead(done: f64, turn: f64) -> bool {
    turn <= 0.0 || done > turn / TURN_PART
}

impl Pacer {
    /// At the start of a replica.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            calm_us: None,
            seen: LogWrites::default(),
            gap: Duration::ZERO,
            total: 0,
            sent: 0,
            yielded: Duration::ZERO,
        }
    }

    /// About `total` bytes are to be written. What the log did since the last one ended is what it does in calm.
    pub fn begin(&mut self, total: u64, log: LogWrites) {
        if let Some(us) = log.mean_us_since(self.seen) {
            self.calm_us = Some(us);
        }
        self.seen = log;
        (self.gap, self.total, self.sent, self.yielded) = (Duration::ZERO, total.max(1), 0, Duration::ZERO);
    }

    /// How long to wait before writing `bytes` more.
    pub fn pause(&mut self, bytes: usize, now: Now) -> Duration {
        self.feel(now.log);
        let bound = match self.limit {
            0 => Duration::ZERO,
            limit => Duration::from_secs_f64(self.sent as f64 / limit as f64).saturating_sub(now.since),
        };
        let gap = match is_ahead(self.sent as f64 / self.total as f64, now.turn) {
            true => self.gap.max(if now.crowded { CROWDED_GAP } else { Duration::ZERO }),
            false => Duration::ZERO,
        };
        self.sent += bytes as u64;
        self.yielded += gap.saturating_sub(bound);
        bound.max(gap)
    }

    /// The log's writes up to here tell nothing of calm.
    pub fn end(&mut self, log: LogWrites) {
        self.seen = log;
    }

    /// What this checkpoint has yielded to the log so far.
    pub fn yielded(&self) -> Duration {
        self.yielded
    }

    /// What a log write takes in calm, µs.
    pub fn calm_us(&self) -> Option<f64> {
        self.calm_us
    }

    fn feel(&mut self, log: LogWrites) {
        let Some(us) = log.mean_us_since(self.seen) else { return };
        self.seen = log;
        let felt = self.calm_us.is_some_and(|calm| us > calm * FELT_TIMES && us > calm + FELT_US);
        self.gap = match felt {
            true => (self.gap * 2).clamp(GAP_MIN, GAP_MAX),
            false => Some(self.gap / 2).filter(|gap| *gap >= GAP_MIN).unwrap_or_default(),
        };
    }
}
