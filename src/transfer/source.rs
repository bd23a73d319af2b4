//! [core] One source: what it was asked for, how fast it answers, whether it may be asked.

use super::fetch::Fault;
use super::ranges::RangeSet;
use crate::types::*;

/// Silence that is no fault, whatever was expected.
const SILENCE_NS_MIN: u64 = 1_000_000_000;
/// Longest pause between two probes of a silent source.
const PROBE_NS_MAX: u64 = 32_000_000_000;
/// Assumed of a source nothing has come from yet, for its first deadline.
const UNKNOWN_RATE: u64 = 1_000_000;
const UNKNOWN_RTT_NS: u64 = 150_000_000;

/// Whether it may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Up,
    Down,
    /// Connected, but it no longer has the target.
    Gone,
    Banned(Fault),
}

/// One source.
pub(super) struct Source {
    pub id: ReplicaId,
    pub link: Link,
    /// Silent beyond its deadline: when it is asked again.
    pub probe_at: Option<Tick>,
    /// Its by plan, not yet asked for.
    pub assigned: RangeSet,
    /// Asked for, not here yet, still wanted from it.
    pub outstanding: RangeSet,
    /// All that it may still send: `outstanding` and what was taken back too late.
    pub owed: RangeSet,
    /// Owed when its connection broke: to be asked for with `again`.
    pub lost: RangeSet,
    /// The chunk that is asked of it to measure it, although another source has it.
    pub overlap: Option<u64>,
    /// Weight in the shares: bytes of the last interval.
    pub weight: u64,
    pub interval_bytes: u64,
    pub bytes: u64,
    /// Chunks arrived and asked for since the pacing of the leader began.
    pub paced_arrived: u64,
    pub paced_asked: u64,
    pub strikes: u32,
    pub last_arrival: Option<Tick>,
    /// For the next request.
    pub ask: RangeSet,
    pub ask_again: Vec<u64>,
    pub replace: bool,
    pub cancel: RangeSet,
    meter: Meter,
    /// Bytes per second while it had work.
    rate: u64,
    /// The shortest answer of an idle source, its chunk's time on the link included.
    answer_ns: Option<u64>,
    idle_ask: Option<Tick>,
    quiet_since: Tick,
    probe_pause_ns: u64,
}

impl Source {
    pub fn new(id: ReplicaId, link: Link, now: Tick) -> Self {
        Self {
            id,
            link,
            probe_at: None,
            assigned: RangeSet::default(),
            outstanding: RangeSet::default(),
            owed: RangeSet::default(),
            lost: RangeSet::default(),
            overlap: None,
            weight: 0,
            interval_bytes: 0,
            bytes: 0,
            paced_arrived: 0,
            paced_asked: 0,
            strikes: 0,
            last_arrival: None,
            ask: RangeSet::default(),
            ask_again: Vec::new(),
            replace: false,
            cancel: RangeSet::default(),
            meter: Meter::new(now),
            rate: 0,
            answer_ns: None,
            idle_ask: None,
            quiet_since: now,
            probe_pause_ns: SILENCE_NS_MIN,
        }
    }

    /// Up and not silent: gets work.
    pub fn active(&self) -> bool {
        self.link == Link::Up && self.probe_at.is_none()
    }

    /// All that is planned for it.
    pub fn load(&self) -> u64 {
        self.outstanding.len() + self.assigned.len()
    }

    /// It is asked for these.
    pub fn ask(&mut self, chunks: &RangeSet, chunk_bytes: u64, now: Tick) {
        if chunks.is_empty() {
            return;
        }
        if self.outstanding.is_empty() {
            // What it owes already may come too early for an answer.
            self.idle_ask = self.owed.common(chunks).is_empty().then_some(now);
            self.meter.restart(now);
            self.quiet_since = Tick(now.0.saturating_add(self.rtt_ns(chunk_bytes)));
        }
        // What it was asked for before, and what was taken back a moment ago, it still has on its list.
        let mut unlisted = chunks.clone();
        unlisted.subtract_all(&self.outstanding.common(chunks));
        unlisted.subtract_all(&self.cancel.common(chunks));
        self.ask.add_all(&unlisted);
        self.cancel.subtract_all(chunks);
        self.outstanding.add_all(chunks);
        self.owed.add_all(chunks);
        let again = self.lost.common(chunks);
        self.lost.subtract_all(&again);
        self.ask_again.extend(again.iter().flatten());
        self.paced_asked = self.paced_asked.saturating_add(chunks.len());
    }

    /// These are no longer wanted from it.
    pub fn withdraw(&mut self, chunks: &RangeSet) {
        self.outstanding.subtract_all(chunks);
        let unsaid = self.ask.common(chunks);
        self.ask.subtract_all(&unsaid);
        let (unasked, again) = self.ask_again.drain(..).partition(|c| unsaid.contains(*c));
        self.ask_again = again;
        // What was to come again may have been lost as before.
        let unasked: Vec<u64> = unasked;
        unasked.into_iter().for_each(|c| _ = self.lost.insert(c));
        let mut known = chunks.clone();
        known.subtract_all(&unsaid);
        self.cancel.add_all(&known);
        if self.overlap.is_some_and(|c| chunks.contains(c)) {
            self.overlap = None;
        }
    }

    /// A chunk came that it owed.
    pub fn arrived(&mut self, now: Tick, chunk: u64, bytes: u64) {
        let awaited = self.outstanding.remove(chunk);
        if self.overlap == Some(chunk) {
            self.overlap = None;
        }
        if awaited && let Some(asked) = self.idle_ask.take() {
            let took = now.since(asked);
            self.answer_ns = Some(self.answer_ns.map_or(took, |least| least.min(took)));
        }
        self.meter.add(now, bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        self.interval_bytes = self.interval_bytes.saturating_add(bytes);
        self.paced_arrived = self.paced_arrived.saturating_add(1);
        self.rate = self.meter.rate(now, self.span_ns(), self.answer_ns.unwrap_or(0), self.rate).max(1);
        self.quiet_since = now;
        self.last_arrival = Some(now);
        self.probe_pause_ns = SILENCE_NS_MIN;
    }

    /// Bytes per second, less while it is silent; 0 = unknown.
    pub fn rate(&self, now: Tick, chunk_bytes: u64) -> u64 {
        let silent_ns = now.since(self.quiet_since);
        if self.outstanding.is_empty() || silent_ns == 0 {
            return self.rate;
        }
        self.rate.min(per_second(chunk_bytes, silent_ns).max(1))
    }

    /// Bytes per second when it last sent something.
    pub fn steady_rate(&self) -> u64 {
        self.rate
    }

    /// Whether enough came to believe the rate.
    pub fn measured(&self, now: Tick) -> bool {
        self.rate > 0 && now.since(self.meter.start) >= self.span_ns()
    }

    /// Bytes since it last began to work.
    pub fn burst_bytes(&self) -> u64 {
        self.meter.total
    }

    /// Round trip: the shortest answer without the time of its chunk on the link.
    pub fn rtt_ns(&self, chunk_bytes: u64) -> u64 {
        let link_ns = if self.rate == 0 { 0 } else { nanoseconds(chunk_bytes, self.rate) };
        self.answer_ns.map_or(UNKNOWN_RTT_NS, |ns| ns.saturating_sub(link_ns))
    }

    /// Until when something must have come: three times what is expected, at least a second.
    pub fn deadline(&self, chunk_bytes: u64) -> Option<Tick> {
        if !self.active() || self.outstanding.is_empty() {
            return None;
        }
        let rate = if self.rate == 0 { UNKNOWN_RATE } else { self.rate };
        let expected = self.rtt_ns(chunk_bytes).saturating_add(nanoseconds(chunk_bytes, rate));
        let patience = expected.saturating_mul(3).max(SILENCE_NS_MIN);
        Some(Tick(self.quiet_since.0.saturating_add(patience)))
    }

    /// It is silent: the next probe comes later than the last.
    pub fn probe_later(&mut self, now: Tick) {
        self.probe_at = Some(Tick(now.0.saturating_add(self.probe_pause_ns)));
        self.probe_pause_ns = (self.probe_pause_ns * 2).min(PROBE_NS_MAX);
    }

    /// Nothing is under way any more.
    pub fn cut(&mut self) {
        self.lost = self.owed.clone();
        self.ask = RangeSet::default();
        self.ask_again.clear();
        self.cancel = RangeSet::default();
        self.replace = false;
        self.probe_at = None;
        self.idle_ask = None;
        self.overlap = None;
        self.weight = 0;
        self.interval_bytes = 0;
    }

    fn span_ns(&self) -> u64 {
        self.answer_ns.unwrap_or(0).saturating_mul(4).clamp(250_000_000, SPAN_NS_MAX)
    }
}

/// Bytes per second.
pub(super) fn per_second(bytes: u64, ns: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))).unwrap_or(u64::MAX)
}

/// How long so many bytes take; `rate` 0 counts as 1.
pub(super) fn nanoseconds(bytes: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}

const BUCKETS: u64 = 64;
const BUCKET_NS: u64 = 25_000_000;
const SPAN_NS_MAX: u64 = (BUCKETS - 1) * BUCKET_NS;

/// Bytes over a sliding time.
struct Meter {
    start: Tick,
    total: u64,
    newest: u64,
    buckets: [u64; BUCKETS as usize],
}

impl Meter {
    fn new(now: Tick) -> Self {
        Self { start: now, total: 0, newest: now.0 / BUCKET_NS, buckets: [0; BUCKETS as usize] }
    }

    fn restart(&mut self, now: Tick) {
        *self = Self::new(now);
    }

    fn add(&mut self, now: Tick, bytes: u64) {
        let at = (now.0 / BUCKET_NS).max(self.newest);
        for passed in (self.newest + 1..=at).rev().take(BUCKETS as usize) {
            self.buckets[(passed % BUCKETS) as usize] = 0;
        }
        self.newest = at;
        let bucket = &mut self.buckets[(at % BUCKETS) as usize];
        *bucket = bucket.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    /// Over the last `span_ns`; what was known before counts until half of it has passed. What comes sooner than an answer
    /// can was asked for earlier.
    fn rate(&self, now: Tick, span_ns: u64, answer_ns: u64, before: u64) -> u64 {
        let age = now.since(self.start).max(answer_ns.min(SPAN_NS_MAX));
        let last = now.0 / BUCKET_NS;
        let first = last.saturating_sub(span_ns / BUCKET_NS);
        let bytes = (first..=last)
            .filter(|at| *at <= self.newest && self.newest - at < BUCKETS)
            .fold(0u64, |sum, at| sum.saturating_add(self.buckets[(at % BUCKETS) as usize]));
        let rate = per_second(bytes, age.min(now.0 - first * BUCKET_NS).max(1_000));
        if age < span_ns / 2 { rate.max(before) } else { rate }
    }
}
