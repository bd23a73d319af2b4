//! [core] Foreground first: how fast this replica may send states, by how long its places take.
//!
//! While nothing is sent, the usual time of a place is learnt. While something is sent and places take longer than that, the rate is
//! halved; while they do not, it grows by steps and in the end has no bound again: additive increase, multiplicative decrease, as
//! congestion control has it, with the agreement in the place of the other flows. The rate never falls below a floor, so that a transfer
//! ends whatever the load does.

/// Longer than usual by this: it is late. At a load that waits for its answers throughput falls as the time grows, and a fifth of it is
/// what a transfer may cost.
const RISE: f64 = 1.25;
/// Nobody notices less.
const SLACK_NS: f64 = 500_000.0;
/// Weight of a new look in what is usual.
const USUAL: f64 = 0.1;
/// And in what is now: looks are short, and places of one look few.
const NOW: f64 = 0.3;
/// Looks until a lower rate can have shown in the times.
const HOLD: u32 = 3;
/// Looks without a byte sent until times count as usual ones again.
const QUIET: u32 = 10;
/// Looks from nothing to the highest rate that was seen.
const CLIMB: f64 = 50.0;

/// What happened since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// Its length, nanoseconds.
    pub length_ns: u64,
    /// Places decided and begun to be executed.
    pub places: u64,
    /// What they took together, from proposal to execution, nanoseconds.
    pub places_ns: u64,
    /// Bytes of states sent.
    pub sent: u64,
    /// There is more to send.
    pub waits: bool,
}

/// The controller. Call [`Yielding::look`] about every 100 ms.
#[derive(Debug)]
pub struct Yielding {
    /// Bytes per second.
    floor: f64,
    rate: Option<f64>,
    /// The highest rate sent at in this transfer.
    peak: f64,
    usual_ns: Option<f64>,
    now_ns: Option<f64>,
    /// What is usual was learnt before anything was sent.
    before: bool,
    hold: u32,
    quiet: u32,
    /// Times the rate was lowered, since the start.
    lowered: u64,
}

impl Yielding {
    /// Never below `floor` bytes per second.
    pub fn new(floor: u64) -> Self {
        Self {
            floor: floor.max(1) as f64,
            rate: None,
            peak: 0.0,
            usual_ns: None,
            now_ns: None,
            before: false,
            hold: 0,
            quiet: QUIET,
            lowered: 0,
        }
    }

    /// Takes a look and says how many bytes per second may be sent from now on; `None`: no bound.
    pub fn look(&mut self, look: Look) -> Option<u64> {
        let Look { length_ns, places, places_ns, sent, waits } = look;
        let time = (places > 0).then(|| places_ns as f64 / places as f64);
        if sent == 0 && !waits {
            self.quiet = (self.quiet + 1).min(QUIET);
        } else {
            self.quiet = 0;
        }
        if self.quiet >= QUIET {
            (self.rate, self.peak, self.hold, self.now_ns) = (None, 0.0, 0, None);
            if let Some(time) = time {
                // What was learnt under a transfer is no measure for the next one.
                let usual = self.usual_ns.filter(|_| self.before).unwrap_or(time);
                self.usual_ns = Some(usual + USUAL * (time - usual));
                self.before = true;
            }
            return None;
        }
        let sent_per_s = sent as f64 * 1e9 / length_ns.max(1) as f64;
        self.peak = self.peak.max(sent_per_s);
        self.hold = self.hold.saturating_sub(1);
        if let Some(time) = time {
            let now = self.now_ns.map_or(time, |now| now + NOW * (time - now));
            self.now_ns = Some(now);
            if !self.before {
                // There was no load: the best that was seen since is what it could be.
                self.usual_ns = Some(self.usual_ns.map_or(now, |usual| usual.min(now)));
            }
        }
        if self.hold > 0 {
            return self.bytes_per_s();
        }
        match self.is_late() && time.is_some() {
            true => {
                let rate = self.rate.map_or(sent_per_s, |rate| rate.min(sent_per_s.max(self.floor)));
                self.rate = Some((rate / 2.0).max(self.floor));
                self.hold = HOLD;
                self.lowered += 1;
            }
            false => {
                let step = (self.peak / CLIMB).max(self.floor / 8.0);
                self.rate = self.rate.map(|rate| rate + step).filter(|rate| *rate < 2.0 * self.peak);
            }
        }
        self.bytes_per_s()
    }

    fn is_late(&self) -> bool {
        match (self.usual_ns, self.now_ns) {
            (Some(usual), Some(now)) => now > RISE * usual + SLACK_NS,
            _ => false,
        }
    }

    /// What may be sent; `None`: no bound.
    pub fn bytes_per_s(&self) -> Option<u64> {
        self.rate.map(|rate| rate as u64)
    }

    /// Nanoseconds of a place without and, while something is sent, with a transfer.
    pub fn times_ns(&self) -> (Option<u64>, Option<u64>) {
        (self.usual_ns.map(|ns| ns as u64), self.now_ns.map(|ns| ns as u64))
    }

    /// How often it has lowered the rate.
    pub fn lowered(&self) -> u64 {
        self.lowered
    }
}
