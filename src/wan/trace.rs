//! A link's bandwidth over time.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One direction's bandwidth, a function of the time since the link began: equal traces carry equal bytes.
///
/// Text form, without spaces: `MBIT[~SIGMA/SECONDS#SEED][@SECONDS=MBIT|dead][@FROM..TO=stall]…`
///
/// | text | meaning |
/// |---|---|
/// | `57.0` | 57.0 Mbit/s (10⁶ bits) for ever |
/// | `57.0~0.1/5#7` | varies around it: every 5 s another factor of mean 1 and relative standard deviation 0.1, by seed 7 |
/// | `57.0@10=20@30=57` | from second 10 on 20 Mbit/s, from second 30 on 57 again |
/// | `57.0@5..8=stall` | carries nothing from second 5 to second 8 |
/// | `57.0@60=dead` | from second 60 on there is no link: connections are reset |
///
/// Source: "Geographic state transfer", Table 1 and its Figure 1, for means and variation. Differs: the factors are log-normal, so that
/// none is negative and their mean is kept whatever sigma is.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Mbit/s from each time on, ascending; the first is at 0.
    steps: Vec<(Duration, f64)>,
    varies: Option<Variation>,
    stalls: Vec<(Duration, Duration)>,
    dies: Option<Duration>,
}

/// Seeded random variation around the steps' means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variation {
    /// Relative standard deviation.
    pub sigma: f64,
    /// Another factor is drawn so often.
    pub every: Duration,
    /// Equal seeds give equal factors.
    pub seed: u64,
}

/// What a link does at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Carries so many bytes per second, above 0.
    Flows(f64),
    /// Carries nothing for now.
    Stalls,
    /// Is gone for good.
    Dead,
}

const BYTES_PER_MBIT: f64 = 1e6 / 8.0;
/// The most a trace may say: 100 Gbit/s.
const MBIT_MAX: f64 = 100_000.0;
/// The least: a link that carries nothing stalls.
const MBIT_MIN: f64 = 0.001;
/// Variation, steps and stalls are no finer than this, so that a trace has few changes per second.
const GRAIN: Duration = Duration::from_millis(1);
const SECONDS_MAX: f64 = 1e6;
const SIGMA_MAX: f64 = 5.0;

impl Trace {
    /// So many Mbit/s for ever.
    ///
    /// Panics outside of 0.001 to 100,000.
    pub fn constant(mbit: f64) -> Trace {
        assert!((MBIT_MIN..=MBIT_MAX).contains(&mbit), "a link has {MBIT_MIN} to {MBIT_MAX} Mbit/s");
        Trace { steps: vec![(Duration::ZERO, mbit)], varies: None, stalls: Vec::new(), dies: None }
    }

    /// The same, varying.
    pub fn varying(self, variation: Variation) -> Trace {
        assert!(variation.every >= GRAIN && (0.0..=SIGMA_MAX).contains(&variation.sigma));
        Trace { varies: Some(variation), ..self }
    }

    /// The same, with another mean from `at` on.
    pub fn step(mut self, at: Duration, mbit: f64) -> Trace {
        assert!((MBIT_MIN..=MBIT_MAX).contains(&mbit), "a link has {MBIT_MIN} to {MBIT_MAX} Mbit/s");
        self.steps.retain(|(other, _)| *other != at);
        self.steps.push((at, mbit));
        self.steps.sort_by_key(|(at, _)| *at);
        self
    }

    /// The same, carrying nothing between the two.
    pub fn stall(mut self, from: Duration, to: Duration) -> Trace {
        assert!(from < to, "a stall ends after it begins");
        self.stalls.push((from, to));
        self
    }

    /// The same, gone at `at`.
    pub fn death(self, at: Duration) -> Trace {
        Trace { dies: Some(at), ..self }
    }

    /// Bytes per second that it hardly ever exceeds: what buffers are sized for.
    pub fn peak(&self) -> f64 {
        let mean = self.steps.iter().map(|(_, mbit)| mbit * BYTES_PER_MBIT).fold(0.0, f64::max);
        mean * self.varies.map_or(1.0, |varies| 1.0 + 2.0 * varies.sigma)
    }

    /// What the link does at `at`.
    pub fn state(&self, at: Duration) -> State {
        if self.dies.is_some_and(|dies| at >= dies) {
            return State::Dead;
        }
        if self.stalls.iter().any(|(from, to)| (*from..*to).contains(&at)) {
            return State::Stalls;
        }
        let (_, mean) = self.steps.iter().rfind(|(from, _)| *from <= at).expect("the first is at 0");
        State::Flows(mean * BYTES_PER_MBIT * self.varies.map_or(1.0, |varies| varies.factor(at)))
    }

    /// The first time after `at` at which [`Trace::state`] may give something else.
    pub fn next_change(&self, at: Duration) -> Option<Duration> {
        if self.state(at) == State::Dead {
            return None;
        }
        let steps = self.steps.iter().map(|(step, _)| *step);
        let stalls = self.stalls.iter().flat_map(|(from, to)| [*from, *to]);
        let varies = self.varies.map(|varies| varies.next(at));
        steps.chain(stalls).chain(self.dies).chain(varies).filter(|change| *change > at).min()
    }

    /// Bytes that the link carries between the two times, if there is always something to carry.
    pub fn bytes_between(&self, from: Duration, to: Duration) -> f64 {
        let (mut at, mut bytes) = (from, 0.0);
        while at < to {
            let end = self.next_change(at).unwrap_or(to).min(to);
            match self.state(at) {
                State::Flows(rate) => bytes += rate * (end - at).as_secs_f64(),
                State::Stalls => {}
                State::Dead => break,
            }
            at = end;
        }
        bytes
    }

    /// When the link has carried `bytes` if it begins at `from`; `None` if it dies before.
    pub fn carried(&self, from: Duration, bytes: f64) -> Option<Duration> {
        let (mut at, mut left) = (from, bytes);
        loop {
            let end = self.next_change(at);
            if let State::Flows(rate) = self.state(at) {
                let takes = Duration::from_secs_f64(left / rate);
                match end {
                    Some(end) if at + takes > end => left -= rate * (end - at).as_secs_f64(),
                    _ => return Some(at + takes),
                }
            }
            at = end?;
        }
    }
}

impl Variation {
    /// exp(s·z − s²/2) has mean 1 and relative standard deviation sqrt(exp(s²) − 1).
    fn factor(self, at: Duration) -> f64 {
        let s = (1.0 + self.sigma * self.sigma).ln().sqrt();
        let turn = (at.as_nanos() / self.every.as_nanos()) as u64;
        let uniform = |n: u64| (scatter(scatter(self.seed) ^ n) >> 11) as f64 / (1u64 << 53) as f64;
        // Box and Muller; 1 − u is never 0.
        let z = (-2.0 * (1.0 - uniform(2 * turn)).ln()).sqrt() * (TAU * uniform(2 * turn + 1)).cos();
        (s * z - s * s / 2.0).exp()
    }

    fn next(self, at: Duration) -> Duration {
        let turns = (at.as_nanos() / self.every.as_nanos()) as u64 + 1;
        Duration::from_nanos((self.every.as_nanos() as u64).saturating_mul(turns))
    }
}

/// splitmix64's finish: neighbours in, strangers out.
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (at, mbit)) in self.steps.iter().enumerate() {
            match i {
                0 => write!(f, "{mbit}")?,
                _ => write!(f, "@{}={mbit}", at.as_secs_f64())?,
            }
            if let (0, Some(Variation { sigma, every, seed })) = (i, self.varies) {
                write!(f, "~{sigma}/{}#{seed}", every.as_secs_f64())?;
            }
        }
        for (from, to) in &self.stalls {
            write!(f, "@{}..{}=stall", from.as_secs_f64(), to.as_secs_f64())?;
        }
        self.dies.map_or(Ok(()), |dies| write!(f, "@{}=dead", dies.as_secs_f64()))
    }
}

impl FromStr for Trace {
    type Err = String;

    fn from_str(text: &str) -> Result<Trace, String> {
        let refuse = |part: &str| {
            format!(
                "`{part}` in `{text}`: a trace is MBIT[~SIGMA/SECONDS#SEED][@SECONDS=MBIT|dead][@FROM..TO=stall]…"
            )
        };
        let mut parts = text.split('@');
        let first = parts.next().unwrap_or_default();
        let (mean, varies) =
            first.split_once('~').map_or((first, None), |(mean, varies)| (mean, Some(varies)));
        let mut trace = Trace::constant(mbit(mean).ok_or_else(|| refuse(mean))?);
        if let Some(varies) = varies {
            trace.varies = Some(variation(varies).ok_or_else(|| refuse(varies))?);
        }
        for part in parts {
            trace = trace.with(part).ok_or_else(|| refuse(part))?;
        }
        Ok(trace)
    }
}

impl Trace {
    fn with(self, part: &str) -> Option<Trace> {
        let (when, what) = part.split_once('=')?;
        match (what, when.split_once("..")) {
            ("stall", Some((from, to))) => {
                let (from, to) = (seconds(from)?, seconds(to)?);
                (from < to).then(|| self.stall(from, to))
            }
            ("dead", None) if self.dies.is_none() => Some(self.death(seconds(when)?)),
            (_, None) => {
                let at = seconds(when)?;
                // Two means for one time would depend on the order in which they are written.
                let free = self.steps.iter().all(|(other, _)| *other != at);
                free.then_some(self.step(at, mbit(what)?))
            }
            _ => None,
        }
    }
}

fn mbit(text: &str) -> Option<f64> {
    text.parse().ok().filter(|mbit| (MBIT_MIN..=MBIT_MAX).contains(mbit))
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))?;
    Some(Duration::from_secs_f64(seconds))
}

fn variation(text: &str) -> Option<Variation> {
    let (sigma, rest) = text.split_once('/')?;
    let (every, seed) = rest.split_once('#')?;
    let sigma = sigma.parse().ok().filter(|sigma| (0.0..=SIGMA_MAX).contains(sigma))?;
    let every = seconds(every).filter(|every| *every >= GRAIN)?;
    Some(Variation { sigma, every, seed: seed.parse().ok()? })
}
