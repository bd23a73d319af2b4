//! All strategies over simulated links: senders that send in order, rates that change, time that is only counted.

use super::fetch::*;
use super::ranges::RangeSet;
use crate::sim::random::Random;
use crate::types::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

const SECOND: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;
const STATE: u64 = 1000 * MIB;
const MBPS: f64 = 125_000.0;

/// A receiver of Table 1 of the geographic paper: its name, and what its three sources send to it in Mbps.
type Site = (&'static str, [f64; 3]);

const GROUP_A: [Site; 4] = [
    ("Sydney", [33.3, 56.6, 42.9]),
    ("São Paulo", [33.7, 103.0, 64.4]),
    ("N. Virginia", [57.0, 102.2, 173.3]),
    ("Ireland (A)", [42.9, 64.5, 174.3]),
];
const GROUP_B: [Site; 4] = [
    ("Ireland (B)", [866.8, 594.4, 420.0]),
    ("London", [857.8, 1234.4, 662.4]),
    ("Paris", [578.1, 1219.6, 1113.6]),
    ("Frankfurt", [420.8, 667.2, 1115.5]),
];

/// How the links of a group behave.
#[derive(Clone, Copy)]
struct Weather {
    rtt_ns: u64,
    /// Standard deviation of the rate around its mean, and how long a rate lasts.
    sigma: f64,
    step_ns: u64,
}

const CONSTANT_A: Weather = Weather { rtt_ns: 150_000_000, sigma: 0.0, step_ns: 5 * SECOND };
const VARYING_A: Weather = Weather { sigma: 0.1, ..CONSTANT_A };
const VARYING_B: Weather = Weather { rtt_ns: 20_000_000, sigma: 0.5, step_ns: 2 * SECOND };

/// Bytes per nanosecond over time.
#[derive(Clone)]
struct Trace {
    step_ns: u64,
    rates: Vec<f64>,
}

impl Trace {
    fn new(mean_mbps: f64, weather: Weather, random: &mut Random) -> Self {
        // The sum of twelve uniforms is nearly normal.
        let mut normal =
            || (0..12).map(|_| random.below(1 << 20) as f64 / (1 << 20) as f64).sum::<f64>() - 6.0;
        let mean = mean_mbps * MBPS / SECOND as f64;
        let rates = (0..400).map(|_| mean * (1.0 + weather.sigma * normal()).clamp(0.1, 3.0)).collect();
        Self { step_ns: weather.step_ns, rates }
    }

    fn rate(&self, at: u64) -> f64 {
        self.rates[((at / self.step_ns) as usize).min(self.rates.len() - 1)]
    }

    /// When so many bytes are through that begin at `at`.
    fn finish(&self, at: u64, bytes: f64) -> u64 {
        let (mut at, mut left) = (at, bytes);
        loop {
            let end = (at / self.step_ns + 1) * self.step_ns;
            let now = self.rate(at) * (end - at) as f64;
            let last = (at / self.step_ns) as usize >= self.rates.len();
            if left <= now || last {
                return at + (left / self.rate(at).max(1e-12)).min(1e18) as u64;
            }
            (at, left) = (end, left - now);
        }
    }
}

/// When the links together could have brought it all.
fn ideal_ns(traces: &[Trace], bytes: f64) -> u64 {
    let step = 1_000_000;
    let (mut at, mut left) = (0, bytes);
    while left > 0.0 {
        left -= traces.iter().map(|t| t.rate(at)).sum::<f64>() * step as f64;
        at += step;
    }
    at
}

/// What a source does wrong, from when on.
#[derive(Clone, Copy, PartialEq)]
enum Vice {
    None,
    /// Its connection breaks and does not return.
    Dies(u64),
    /// Nothing comes any more, the connection stays.
    Mute(u64),
    /// A byte per second.
    Dribbles(u64),
    /// Every chunk is wrong.
    Lies(u64),
    /// Disconnected between these times.
    Away(u64, u64),
    /// Silent between these times; what it was asked for it sends then.
    Pauses(u64, u64),
}

struct Sender {
    trace: Trace,
    vice: Vice,
    queue: RangeSet,
    sent: RangeSet,
    on_wire: Option<u64>,
    epoch: u32,
    sent_bytes: u64,
    last_byte: u64,
    connected: bool,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake,
    Ask {
        at: usize,
        epoch: u32,
        ranges: Vec<(u64, u64)>,
        replace: bool,
        again: Vec<u64>,
    },
    Cancel {
        at: usize,
        epoch: u32,
        ranges: Vec<(u64, u64)>,
    },
    Sent {
        at: usize,
        epoch: u32,
        chunk: u64,
    },
    Arrives {
        at: usize,
        epoch: u32,
        chunk: u64,
    },
    Hashed {
        at: usize,
        chunk: u64,
        good: bool,
    },
    Link {
        at: usize,
        up: bool,
    },
    /// A paused source goes on.
    Resume {
        at: usize,
    },
}

/// One transfer.
struct Lab {
    fetch: Fetch,
    senders: Vec<Sender>,
    rtt_ns: u64,
    chunk_bytes: u64,
    chunks: u64,
    hash_ns: u64,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    wake: Option<u64>,
    spares: BTreeMap<u64, usize>,
    arrivals: BTreeMap<u64, u32>,
    blamed: Vec<(ReplicaId, Fault)>,
    messages: u64,
    steps: u64,
    outstanding_max: u64,
}

/// What came of it.
struct Outcome {
    ns: u64,
    /// Bytes sent over bytes needed.
    sent: f64,
    /// Longest of the sources' times over the shortest.
    spread: f64,
    /// Bytes of each source.
    bytes: Vec<u64>,
    blamed: Vec<(ReplicaId, Fault)>,
    messages: u64,
    steps: u64,
}

impl Lab {
    fn new(config: FetchConfig, traces: Vec<Trace>, vices: &[Vice], rtt_ns: u64, chunk_bytes: u64) -> Self {
        let chunks = STATE.div_ceil(chunk_bytes);
        let ids: Vec<ReplicaId> = (0..traces.len() as u32).map(ReplicaId).collect();
        let fetch = Fetch::new(config, chunks, vec![0..chunks], chunk_bytes, &ids, Tick(0));
        let senders = traces.into_iter().enumerate().map(|(at, trace)| Sender {
            trace,
            vice: vices.get(at).copied().unwrap_or(Vice::None),
            queue: RangeSet::default(),
            sent: RangeSet::default(),
            on_wire: None,
            epoch: 0,
            sent_bytes: 0,
            last_byte: 0,
            connected: true,
        });
        let mut lab = Self {
            fetch,
            senders: senders.collect(),
            rtt_ns,
            chunk_bytes,
            chunks,
            hash_ns: 200_000,
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            wake: None,
            spares: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            blamed: Vec::new(),
            messages: 0,
            steps: 0,
            outstanding_max: 0,
        };
        for at in 0..lab.senders.len() {
            match lab.senders[at].vice {
                Vice::Dies(when) => lab.at(when, Event::Link { at, up: false }),
                Vice::Away(from, to) => {
                    lab.at(from, Event::Link { at, up: false });
                    lab.at(to, Event::Link { at, up: true });
                }
                Vice::Pauses(_, to) => lab.at(to, Event::Resume { at }),
                _ => {}
            }
        }
        lab
    }

    fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, event)));
    }

    fn bytes_of(&self, chunk: u64) -> u64 {
        if chunk + 1 == self.chunks { STATE - chunk * self.chunk_bytes } else { self.chunk_bytes }
    }

    fn outputs(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Request { to, ranges, replace, again, .. } => {
                    self.messages += 1;
                    let (at, epoch) = (to.index(), self.senders[to.index()].epoch);
                    assert!(self.senders[at].connected, "a request to whom is not there");
                    let ranges = ranges.into_iter().map(|r| (r.start, r.end)).collect();
                    self.at(self.now + self.rtt_ns / 2, Event::Ask { at, epoch, ranges, replace, again });
                }
                Output::Cancel { to, ranges } => {
                    self.messages += 1;
                    let (at, epoch) = (to.index(), self.senders[to.index()].epoch);
                    let ranges = ranges.into_iter().map(|r| (r.start, r.end)).collect();
                    self.at(self.now + self.rtt_ns / 2, Event::Cancel { at, epoch, ranges });
                }
                Output::Blame { who, why } => self.blamed.push((who, why)),
            }
        }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.fetch.step(Tick(self.now), input, &mut out);
        self.outputs(out);
    }

    /// The next chunk goes on the wire.
    fn send_next(&mut self, at: usize) {
        let (now, chunk_bytes) = (self.now, self.chunk_bytes);
        let sender = &mut self.senders[at];
        if sender.on_wire.is_some() || !sender.connected {
            return;
        }
        match sender.vice {
            Vice::Mute(from) if now >= from => return,
            Vice::Pauses(from, to) if now >= from && now < to => return,
            _ => {}
        }
        let Some(chunk) = sender.queue.take_first(1).first() else { return };
        assert!(sender.sent.insert(chunk), "sent twice");
        sender.on_wire = Some(chunk);
        let bytes = if chunk + 1 == self.chunks { STATE - chunk * chunk_bytes } else { chunk_bytes };
        let done = match sender.vice {
            Vice::Dribbles(from) if now >= from => now + bytes * SECOND,
            _ => sender.trace.finish(now, bytes as f64),
        };
        let epoch = sender.epoch;
        self.at(done, Event::Sent { at, epoch, chunk });
    }

    fn on(&mut self, event: Event) {
        let half = self.rtt_ns / 2;
        match event {
            Event::Wake => {
                self.wake = None;
                self.step(Input::Tick);
            }
            Event::Ask { at, epoch, ranges, replace, again } => {
                let sender = &mut self.senders[at];
                if epoch != sender.epoch {
                    return;
                }
                if replace {
                    sender.queue = RangeSet::default();
                }
                again.into_iter().for_each(|c| _ = sender.sent.remove(c));
                for (start, end) in ranges {
                    let mut fresh: RangeSet = [start..end].into_iter().collect();
                    fresh.subtract_all(&sender.sent);
                    sender.queue.add_all(&fresh);
                }
                self.send_next(at);
            }
            Event::Cancel { at, epoch, ranges } => {
                let sender = &mut self.senders[at];
                if epoch == sender.epoch {
                    ranges.into_iter().for_each(|(s, e)| sender.queue.subtract(s..e));
                }
            }
            Event::Sent { at, epoch, chunk } => {
                let bytes = self.bytes_of(chunk);
                let sender = &mut self.senders[at];
                if epoch != sender.epoch {
                    return;
                }
                sender.on_wire = None;
                sender.sent_bytes += bytes;
                sender.last_byte = self.now;
                self.at(self.now + half, Event::Arrives { at, epoch, chunk });
                self.send_next(at);
            }
            Event::Arrives { at, epoch, chunk } => {
                if epoch != self.senders[at].epoch {
                    return;
                }
                let (bytes, mut out) = (self.bytes_of(chunk), Vec::new());
                let from = ReplicaId(at as u32);
                let lie = matches!(self.senders[at].vice, Vice::Lies(since) if self.now >= since);
                match self.fetch.arrived(Tick(self.now), from, chunk, bytes, &mut out) {
                    Arrival::Check => {
                        *self.arrivals.entry(chunk).or_default() += 1;
                        self.at(self.now + self.hash_ns, Event::Hashed { at, chunk, good: !lie });
                    }
                    Arrival::Spare => _ = self.spares.insert(chunk, at),
                    Arrival::Keep => {
                        *self.arrivals.entry(chunk).or_default() += 1;
                        self.step(Input::Written { bytes });
                    }
                    Arrival::Duplicate | Arrival::Unasked => {}
                }
                self.outputs(out);
            }
            Event::Hashed { at, chunk, good } => {
                let from = ReplicaId(at as u32);
                let spare = self.spares.remove(&chunk);
                self.step(if good { Input::Verified { chunk } } else { Input::Bad { chunk, from } });
                self.step(Input::Written { bytes: self.bytes_of(chunk) });
                match spare {
                    Some(other) if !good => {
                        let lie = matches!(self.senders[other].vice, Vice::Lies(_));
                        self.at(self.now + self.hash_ns, Event::Hashed { at: other, chunk, good: !lie });
                    }
                    Some(_) => self.step(Input::Written { bytes: self.bytes_of(chunk) }),
                    None => {}
                }
            }
            Event::Link { at, up } => {
                let sender = &mut self.senders[at];
                sender.epoch += 1;
                sender.connected = up;
                sender.queue = RangeSet::default();
                sender.on_wire = None;
                let id = ReplicaId(at as u32);
                self.step(if up { Input::Up(id) } else { Input::Down(id) });
            }
            Event::Resume { at } => self.send_next(at),
        }
    }

    fn run(mut self, limit_ns: u64) -> Outcome {
        while !self.fetch.done() {
            self.steps += 1;
            assert!(self.steps < 1_000_000, "it spins: {:?}", self.fetch.progress(Tick(self.now)));
            if let Some(Tick(deadline)) = self.fetch.next_deadline() {
                let when = deadline.max(self.now);
                if self.wake.is_none_or(|w| when < w) {
                    self.wake = Some(when);
                    self.at(when, Event::Wake);
                }
            }
            let Some(Reverse((when, _, event))) = self.events.pop() else {
                panic!("nothing will happen any more: {:?}", self.fetch.progress(Tick(self.now)))
            };
            if event == Event::Wake && self.wake != Some(when) {
                continue;
            }
            self.now = when;
            assert!(when <= limit_ns, "too long: {:?}", self.fetch.progress(Tick(when)));
            self.on(event);
            let outstanding: u64 =
                self.fetch.progress(Tick(self.now)).sources.iter().map(|s| s.outstanding).sum();
            self.outstanding_max = self.outstanding_max.max(outstanding);
        }
        assert_eq!(self.arrivals.len() as u64, self.chunks);
        let ends: Vec<u64> = self.senders.iter().filter(|s| s.sent_bytes > 0).map(|s| s.last_byte).collect();
        Outcome {
            ns: self.now,
            sent: self.senders.iter().map(|s| s.sent_bytes).sum::<u64>() as f64 / STATE as f64,
            spread: *ends.iter().max().unwrap() as f64 / *ends.iter().min().unwrap() as f64,
            bytes: self.senders.iter().map(|s| s.sent_bytes).collect(),
            blamed: self.blamed,
            messages: self.messages,
            steps: self.steps,
        }
    }
}

fn config(strategy: StrategyKind, site: &Site) -> FetchConfig {
    let weights = site.1.iter().zip(0..).map(|(mbps, id)| (ReplicaId(id), (mbps * MBPS) as u64)).collect();
    FetchConfig { strategy, weights, ..FetchConfig::default() }
}

fn traces(site: &Site, weather: Weather, seed: u64) -> Vec<Trace> {
    let mut random = Random::new(seed);
    site.1.iter().map(|mbps| Trace::new(*mbps, weather, &mut random)).collect()
}

/// A transfer to this site, and the least time that the links allow.
fn transfer(
    strategy: StrategyKind,
    site: &Site,
    weather: Weather,
    chunk_bytes: u64,
    vices: &[Vice],
    seed: u64,
) -> (Outcome, u64) {
    let traces = traces(site, weather, seed);
    let ideal = ideal_ns(&traces, STATE as f64);
    let lab = Lab::new(config(strategy, site), traces, vices, weather.rtt_ns, chunk_bytes);
    (lab.run(40 * ideal.max(30 * SECOND)), ideal)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

/// Prints seconds and bytes sent over bytes needed, for each site and strategy: mean of five seeds. Run with
/// `cargo test --release --lib transfer::fluid_tests::table -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table"]
fn table() {
    let columns = [
        (StrategyKind::Single, MIB),
        (StrategyKind::Equal, MIB),
        (StrategyKind::Premeasured, MIB),
        (StrategyKind::Adaptive, 4_000_000),
        (StrategyKind::Adaptive, MIB),
        (StrategyKind::Adaptive, MIB / 4),
        (StrategyKind::Pull, MIB),
        (StrategyKind::Pull, MIB / 4),
    ];
    print!("| receiver | ideal |");
    for (strategy, chunk) in columns {
        print!(" {strategy} {} KiB |", chunk >> 10);
    }
    println!(" efficiency and spread of the last |");
    let a = GROUP_A.iter().map(|site| (site, VARYING_A));
    for (site, weather) in a.chain(GROUP_B.iter().map(|site| (site, VARYING_B))) {
        let ideals = (0..5).map(|seed| ideal_ns(&traces(site, weather, seed), STATE as f64));
        print!("| {} | {:.1} |", site.0, seconds(ideals.sum::<u64>() / 5));
        let (mut worst, mut spread) = (1.0f64, 1.0f64);
        for (strategy, chunk) in columns {
            let runs: Vec<_> =
                (0..5).map(|seed| transfer(strategy, site, weather, chunk, &[], seed)).collect();
            let ns = runs.iter().map(|(o, _)| o.ns).sum::<u64>() / 5;
            let sent = runs.iter().map(|(o, _)| o.sent).sum::<f64>() / 5.0;
            worst = runs.iter().map(|(o, ideal)| *ideal as f64 / o.ns as f64).fold(1.0, f64::min);
            spread = runs.iter().map(|(o, _)| o.spread).fold(1.0, f64::max);
            print!(" {:.1}/{sent:.3} |", seconds(ns));
        }
        println!(" {worst:.3} {spread:.3} |");
    }
}
