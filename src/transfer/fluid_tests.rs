//! All strategies over simulated links: senders that send in order, rates that change, time that is only counted.
// A list of one run is what is meant.
#![allow(clippy::single_range_in_vec_init)]

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
    /// What the receiver asked for and did not take back, and what it got: neither is asked for again.
    asked: RangeSet,
    got: RangeSet,
    on_wire: Option<u64>,
    epoch: u32,
    sent_bytes: u64,
    last_byte: u64,
    connected: bool,
}

impl Sender {
    fn asked_for(&mut self, ranges: &[std::ops::Range<u64>], replace: bool, again: &[u64]) {
        let now: RangeSet = ranges.iter().cloned().collect();
        assert!(now.common(&self.got).is_empty(), "asked for what it had sent");
        if replace {
            self.asked = now;
            return;
        }
        let mut twice = now.common(&self.asked);
        again.iter().for_each(|c| _ = twice.remove(*c));
        assert!(twice.is_empty(), "asked twice: {twice:?}");
        self.asked.add_all(&now);
    }
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
    Written {
        bytes: u64,
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
    state: u64,
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
    /// Bytes per second of the receiver's disk, when it has written what it has, and what it holds until then.
    disk: Option<u64>,
    disk_free: u64,
    held: u64,
    held_max: u64,
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
    held_max: u64,
}

impl Lab {
    fn new(
        config: FetchConfig,
        traces: Vec<Trace>,
        vices: &[Vice],
        rtt_ns: u64,
        chunk_bytes: u64,
        state: u64,
    ) -> Self {
        Self::told(config, traces, vices, rtt_ns, (chunk_bytes, chunk_bytes), state)
    }

    /// One whose receiver is told that chunks are of another size than they are.
    fn told(
        config: FetchConfig,
        traces: Vec<Trace>,
        vices: &[Vice],
        rtt_ns: u64,
        (chunk_bytes, told_bytes): (u64, u64),
        state: u64,
    ) -> Self {
        let chunks = state.div_ceil(chunk_bytes);
        let ids: Vec<ReplicaId> = (0..traces.len() as u32).map(ReplicaId).collect();
        let fetch = Fetch::new(config, chunks, vec![0..chunks], told_bytes, &ids, Tick(0));
        let senders = traces.into_iter().enumerate().map(|(at, trace)| Sender {
            trace,
            vice: vices.get(at).copied().unwrap_or(Vice::None),
            queue: RangeSet::default(),
            sent: RangeSet::default(),
            asked: RangeSet::default(),
            got: RangeSet::default(),
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
            state,
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
            disk: None,
            disk_free: 0,
            held: 0,
            held_max: 0,
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
        if chunk + 1 == self.chunks { self.state - chunk * self.chunk_bytes } else { self.chunk_bytes }
    }

    fn outputs(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Request { to, ranges, replace, again, .. } => {
                    self.messages += 1;
                    let (at, epoch) = (to.index(), self.senders[to.index()].epoch);
                    assert!(self.senders[at].connected, "a request to whom is not there");
                    self.senders[at].asked_for(&ranges, replace, &again);
                    let ranges = ranges.into_iter().map(|r| (r.start, r.end)).collect();
                    self.at(self.now + self.rtt_ns / 2, Event::Ask { at, epoch, ranges, replace, again });
                }
                Output::Cancel { to, ranges } => {
                    self.messages += 1;
                    let (at, epoch) = (to.index(), self.senders[to.index()].epoch);
                    ranges.iter().for_each(|r| self.senders[at].asked.subtract(r.clone()));
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

    fn take(&mut self, bytes: u64) {
        self.held += bytes;
        self.held_max = self.held_max.max(self.held);
    }

    fn drop_held(&mut self, bytes: u64) {
        self.at(self.now, Event::Written { bytes });
    }

    fn write(&mut self, bytes: u64) {
        let took = self.disk.map_or(0, |rate| bytes * SECOND / rate);
        self.disk_free = self.disk_free.max(self.now) + took;
        self.at(self.disk_free, Event::Written { bytes });
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
        let bytes = if chunk + 1 == self.chunks { self.state - chunk * chunk_bytes } else { chunk_bytes };
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
                self.senders[at].got.insert(chunk);
                match self.fetch.arrived(Tick(self.now), from, chunk, bytes, &mut out) {
                    Arrival::Check => {
                        *self.arrivals.entry(chunk).or_default() += 1;
                        self.take(bytes);
                        self.at(self.now + self.hash_ns, Event::Hashed { at, chunk, good: !lie });
                    }
                    Arrival::Spare => {
                        self.take(bytes);
                        self.spares.insert(chunk, at);
                    }
                    Arrival::Keep => {
                        *self.arrivals.entry(chunk).or_default() += 1;
                        self.take(bytes);
                        self.write(bytes);
                    }
                    Arrival::Duplicate | Arrival::Unasked => {}
                }
                self.outputs(out);
            }
            Event::Hashed { at, chunk, good } => {
                let from = ReplicaId(at as u32);
                let spare = self.spares.remove(&chunk);
                self.step(if good { Input::Verified { chunk } } else { Input::Bad { chunk, from } });
                let bytes = self.bytes_of(chunk);
                if good {
                    self.write(bytes)
                } else {
                    self.drop_held(bytes)
                }
                match spare {
                    Some(other) if !good => {
                        let lie = matches!(self.senders[other].vice, Vice::Lies(_));
                        self.at(self.now + self.hash_ns, Event::Hashed { at: other, chunk, good: !lie });
                    }
                    Some(_) => self.drop_held(bytes),
                    None => {}
                }
            }
            Event::Written { bytes } => {
                self.held -= bytes;
                self.step(Input::Written { bytes });
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
        }
        assert_eq!(self.arrivals.len() as u64, self.chunks);
        let ends: Vec<u64> = self.senders.iter().filter(|s| s.sent_bytes > 0).map(|s| s.last_byte).collect();
        Outcome {
            ns: self.now,
            sent: self.senders.iter().map(|s| s.sent_bytes).sum::<u64>() as f64 / self.state as f64,
            spread: *ends.iter().max().unwrap() as f64 / *ends.iter().min().unwrap() as f64,
            bytes: self.senders.iter().map(|s| s.sent_bytes).collect(),
            blamed: self.blamed,
            messages: self.messages,
            steps: self.steps,
            held_max: self.held_max,
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
    let lab = Lab::new(config(strategy, site), traces, vices, weather.rtt_ns, chunk_bytes, STATE);
    (lab.run(40 * ideal.max(30 * SECOND)), ideal)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

fn efficiency((outcome, ideal): &(Outcome, u64)) -> f64 {
    *ideal as f64 / outcome.ns as f64
}

/// Reduction of the time of `equal`, over constant links.
fn reduction(site: &Site) -> f64 {
    let ns = |strategy| transfer(strategy, site, CONSTANT_A, MIB / 4, &[], 1).0.ns as f64;
    1.0 - ns(StrategyKind::Pull) / ns(StrategyKind::Equal)
}

#[test]
fn pull_is_as_fast_as_the_sum_of_the_links_of_group_a() {
    for (site, weather) in GROUP_A.iter().flat_map(|site| [(site, CONSTANT_A), (site, VARYING_A)]) {
        for (chunk, seed) in [(MIB / 4, 1), (MIB / 4, 2), (MIB, 3)] {
            let run = transfer(StrategyKind::Pull, site, weather, chunk, &[], seed);
            assert!(efficiency(&run) >= 0.97, "{}, seed {seed}: {}", site.0, efficiency(&run));
            assert!(run.0.sent <= 1.02, "{}, seed {seed}: sent {}", site.0, run.0.sent);
            assert!(run.0.spread <= 1.02, "{}, seed {seed}: spread {}", site.0, run.0.spread);
            assert!(run.0.blamed.is_empty(), "{:?}", run.0.blamed);
        }
    }
}

#[test]
fn pull_keeps_nine_tenths_of_the_links_of_group_b_while_they_vary() {
    for (site, seed) in GROUP_B.iter().flat_map(|site| (0..5).map(move |seed| (site, seed))) {
        let run = transfer(StrategyKind::Pull, site, VARYING_B, MIB / 4, &[], seed);
        assert!(efficiency(&run) >= 0.9, "{}, seed {seed}: {}", site.0, efficiency(&run));
        assert!(run.0.sent <= 1.02, "{}, seed {seed}: sent {}", site.0, run.0.sent);
        assert!(run.0.spread <= 1.02, "{}, seed {seed}: spread {}", site.0, run.0.spread);
    }
}

#[test]
fn pull_keeps_nine_tenths_when_links_change_abruptly() {
    for (site, seed) in GROUP_A.iter().zip(0..) {
        let mut traces = traces(site, CONSTANT_A, seed);
        // The fastest falls to a tenth, the slowest becomes three times as fast, and back.
        let (slow, fast) = (0, 2);
        for (at, factor) in [(slow, 3.0), (fast, 0.1)] {
            traces[at].rates.iter_mut().skip(1).step_by(2).for_each(|rate| *rate *= factor);
        }
        let ideal = ideal_ns(&traces, STATE as f64);
        let lab = Lab::new(config(StrategyKind::Pull, site), traces, &[], CONSTANT_A.rtt_ns, MIB / 4, STATE);
        let run = (lab.run(400 * SECOND), ideal);
        assert!(efficiency(&run) >= 0.9, "{}: {}", site.0, efficiency(&run));
        assert!(run.0.sent <= 1.02, "{}: sent {}", site.0, run.0.sent);
    }
}

/// A leecher takes pages to be 32 KiB large before it has seen one.
#[test]
fn sizes_are_learnt_from_what_comes() {
    const TOLD: u64 = 32 << 10;
    let state = 200 * MIB;
    for strategy in StrategyKind::ALL {
        for chunk in [4 << 10, 16 << 10, 64 << 10, 256 << 10] {
            let site = &GROUP_A[2];
            let run = |told: u64| {
                let mut config = config(strategy, site);
                config.unwritten_bytes_max = 64 * MIB;
                let traces = traces(site, CONSTANT_A, 1);
                Lab::told(config, traces, &[], CONSTANT_A.rtt_ns, (chunk, told), state).run(600 * SECOND)
            };
            let (right, wrong) = (run(chunk), run(TOLD));
            let (right_s, wrong_s) = (seconds(right.ns), seconds(wrong.ns));
            assert!(wrong_s <= right_s * 1.02 + 0.3, "{strategy}, {chunk}: {wrong_s} for {right_s}");
            assert!(wrong.sent <= 1.02, "{strategy}, {chunk}: sent {}", wrong.sent);
            assert!(wrong.held_max <= 64 * MIB, "{strategy}, {chunk}: {}", wrong.held_max);
            if strategy == StrategyKind::Pull {
                let ideal = seconds(ideal_ns(&traces(site, CONSTANT_A, 1), state as f64));
                assert!(wrong_s <= ideal / 0.97 + 0.3, "{chunk}: {wrong_s}, ideal {ideal}");
            }
        }
    }
}

/// d.3, "bytes on the wire at reallocation" and "N vs I interaction".
#[test]
fn adaptive_is_as_fast_as_the_sum_of_the_links_and_sends_nothing_twice() {
    for (site, weather) in GROUP_A.iter().flat_map(|site| [(site, CONSTANT_A), (site, VARYING_A)]) {
        for (chunk, seed) in [(MIB / 4, 1), (MIB / 4, 2), (MIB, 3)] {
            let run = transfer(StrategyKind::Adaptive, site, weather, chunk, &[], seed);
            assert!(efficiency(&run) >= 0.97, "{}, seed {seed}: {}", site.0, efficiency(&run));
            assert!(run.0.sent <= 1.02, "{}, seed {seed}: sent {}", site.0, run.0.sent);
        }
    }
}

/// d.3, "N vs I interaction": the paper's N = 256 makes chunks of 3.9 MiB, a second each over the slowest link.
#[test]
fn chunks_as_large_as_an_interval_waste_little() {
    for site in &GROUP_A {
        let run = transfer(StrategyKind::Adaptive, site, CONSTANT_A, STATE / 256, &[], 1);
        assert!(efficiency(&run) >= 0.9, "{}: {}", site.0, efficiency(&run));
        assert!(run.0.sent <= 1.02, "{}: sent {}", site.0, run.0.sent);
        assert!(run.0.blamed.is_empty(), "{}: {:?}", site.0, run.0.blamed);
    }
}

/// d.3: at a quarter of a second the literal algorithm sends two thirds more than needed.
#[test]
fn bytes_on_the_wire_at_reallocation_are_not_asked_for_again() {
    for interval_ns in [SECOND / 4, SECOND / 2] {
        let config = FetchConfig { interval_ns, ..config(StrategyKind::Adaptive, &GROUP_A[2]) };
        let lab = Lab::new(config, traces(&GROUP_A[2], VARYING_A, 7), &[], CONSTANT_A.rtt_ns, MIB / 4, STATE);
        let outcome = lab.run(100 * SECOND);
        assert!(outcome.sent <= 1.02, "{}", outcome.sent);
    }
}

/// d.3: 256 chunks of 3.9 MiB, of which a link of 33 Mbps brings one a second.
#[test]
fn a_chunk_longer_than_the_interval_does_not_cost_its_source_the_transfer() {
    for seed in 0..5 {
        let run = transfer(StrategyKind::Adaptive, &GROUP_A[0], VARYING_A, STATE / 256, &[], seed);
        assert!(efficiency(&run) >= 0.95, "seed {seed}: {}", efficiency(&run));
        assert!(run.0.sent <= 1.02, "seed {seed}: {}", run.0.sent);
        assert!(run.0.blamed.is_empty(), "seed {seed}: slow is not silent");
    }
}

#[test]
fn equal_takes_as_long_as_a_third_over_the_slowest_link() {
    for site in &GROUP_A {
        let (outcome, _) = transfer(StrategyKind::Equal, site, CONSTANT_A, MIB / 4, &[], 1);
        let slowest = site.1.iter().copied().fold(f64::MAX, f64::min);
        let fastest = site.1.iter().copied().fold(0.0, f64::max);
        let expected = STATE as f64 / 3.0 / (slowest * MBPS);
        let took = seconds(outcome.ns);
        assert!((expected..expected * 1.01 + 0.3).contains(&took), "{}: {took}, not {expected}", site.0);
        let spread = fastest / slowest;
        assert!((outcome.spread / spread - 1.0).abs() < 0.02, "{}: {}", site.0, outcome.spread);
        assert!(outcome.sent <= 1.0, "{}", outcome.sent);
    }
}

#[test]
fn pull_is_shorter_than_equal_by_what_the_links_allow() {
    let reductions: Vec<f64> = GROUP_A.iter().map(reduction).collect();
    for (reduction, least) in reductions.iter().zip([0.22, 0.48, 0.47, 0.52]) {
        assert!(*reduction >= least, "{reductions:?}");
    }
    assert!(reductions.iter().sum::<f64>() / 4.0 >= 0.42, "{reductions:?}");
}

#[test]
fn fixed_weights_lose_to_measured_ones_where_links_vary() {
    let mean = |strategy| {
        let runs = GROUP_B.iter().flat_map(|site| (0..5).map(move |seed| (site, seed)));
        runs.map(|(site, seed)| seconds(transfer(strategy, site, VARYING_B, MIB / 4, &[], seed).0.ns))
            .sum::<f64>()
    };
    let pull = mean(StrategyKind::Pull);
    let adaptive = mean(StrategyKind::Adaptive);
    let premeasured = mean(StrategyKind::Premeasured);
    let equal = mean(StrategyKind::Equal);
    assert!(pull < adaptive && adaptive < premeasured && premeasured < equal);
}

#[test]
fn single_takes_the_time_of_its_link() {
    let (outcome, _) = transfer(StrategyKind::Single, &GROUP_A[2], CONSTANT_A, MIB / 4, &[], 1);
    let expected = STATE as f64 / (57.0 * MBPS);
    assert!((expected..expected * 1.01).contains(&seconds(outcome.ns)));
    assert_eq!(outcome.bytes[1..], [0, 0]);
}

/// One source of three goes wrong at 5 s; how long the transfer may take at most, in times of what the other two need for
/// all, and what may be sent twice.
fn goes_wrong(strategy: StrategyKind, vice: Vice, blamed: Option<Fault>) {
    let site = &GROUP_A[2];
    let rest = ideal_ns(&traces(site, CONSTANT_A, 1)[1..], STATE as f64);
    let (outcome, _) = transfer(strategy, site, CONSTANT_A, MIB / 4, &[vice], 1);
    // Equal parts wait for the slower of two; a single source starts over with what is left.
    let times = match strategy {
        StrategyKind::Equal => 1.4,
        // One of the two sends its part and the other's.
        StrategyKind::Cst => 1.8,
        StrategyKind::Single => 2.8,
        _ => 1.0,
    };
    let limit = seconds(rest) * times + 1.0;
    assert!(seconds(outcome.ns) <= limit, "{strategy}, {limit}: {}", seconds(outcome.ns));
    assert!(outcome.sent <= 1.02, "{strategy}: sent {}", outcome.sent);
    let kinds: Vec<_> = outcome.blamed.iter().map(|(who, why)| (*who, std::mem::discriminant(why))).collect();
    match blamed {
        Some(why) => assert!(kinds.contains(&(ReplicaId(0), std::mem::discriminant(&why))), "{strategy}"),
        None => assert!(kinds.is_empty(), "{strategy}: {:?}", outcome.blamed),
    }
    assert!(outcome.blamed.iter().all(|(who, _)| *who == ReplicaId(0)), "{strategy}: {:?}", outcome.blamed);
}

#[test]
fn a_source_that_dies_is_replaced() {
    StrategyKind::ALL.into_iter().for_each(|s| goes_wrong(s, Vice::Dies(5 * SECOND), None));
}

#[test]
fn a_source_that_falls_silent_is_replaced() {
    StrategyKind::ALL.into_iter().for_each(|s| goes_wrong(s, Vice::Mute(5 * SECOND), Some(Fault::Silent)));
}

#[test]
fn a_source_that_dribbles_is_replaced() {
    StrategyKind::ALL
        .into_iter()
        .for_each(|s| goes_wrong(s, Vice::Dribbles(5 * SECOND), Some(Fault::Silent)));
}

#[test]
fn a_liar_is_replaced() {
    let checked = StrategyKind::ALL.into_iter().filter(|s| *s != StrategyKind::WholeHash);
    checked.for_each(|s| goes_wrong(s, Vice::Lies(5 * SECOND), Some(Fault::BadChunk { chunk: 0 })));
}

/// d.3, "claims high speed then stalls": what it holds up is bounded by its window.
#[test]
fn a_source_that_baits_with_speed_holds_up_no_more_than_its_window() {
    let fast = ("bait", [5000.0, 100.0, 100.0]);
    let traces = traces(&fast, CONSTANT_A, 1);
    let mut config = config(StrategyKind::Pull, &fast);
    config.window_bytes_max = 64 * MIB;
    let lab = Lab::new(config, traces, &[Vice::Mute(SECOND)], 150_000_000, MIB / 4, STATE);
    let outcome = lab.run(100 * SECOND);
    // From then on the others have to bring the rest; nothing waits for what was asked of the bait.
    let rest = (STATE - outcome.bytes[0]) as f64 / (200.0 * MBPS);
    assert!(seconds(outcome.ns) <= rest + 1.5, "{} {rest}", seconds(outcome.ns));
    assert_eq!(outcome.blamed.first(), Some(&(ReplicaId(0), Fault::Silent)));
}

/// d.3, "sends correct chunks very slowly, last chunk never".
#[test]
fn the_last_chunks_are_asked_for_twice_rather_than_waited_for() {
    let site = &GROUP_A[2];
    let ideal = ideal_ns(&traces(site, CONSTANT_A, 1), STATE as f64);
    for vice in [Vice::Mute(ideal - SECOND / 3), Vice::Dribbles(ideal - SECOND / 3)] {
        let (outcome, _) =
            transfer(StrategyKind::Pull, site, CONSTANT_A, MIB / 4, &[Vice::None, Vice::None, vice], 1);
        // Sooner than silence is noticed.
        assert!(outcome.ns < ideal + SECOND, "{}", seconds(outcome.ns - ideal));
        assert!(outcome.sent <= 1.02, "{}", outcome.sent);
    }
}

/// GST-06: a source without a share is measured on, and gets its share back.
#[test]
fn a_source_that_comes_back_gets_its_share_again() {
    for strategy in [StrategyKind::Pull, StrategyKind::Adaptive] {
        for vice in [Vice::Away(3 * SECOND, 8 * SECOND), Vice::Pauses(3 * SECOND, 8 * SECOND)] {
            let site = &GROUP_A[2];
            let (outcome, _) =
                transfer(strategy, site, CONSTANT_A, MIB / 4, &[Vice::None, Vice::None, vice], 1);
            // 332 Mbps for 3 s, 159 for 5 s, and 332 again but for the time it takes to notice.
            let without = 173.3 * MBPS * 5.0;
            let least = (STATE as f64 + without) / (332.5 * MBPS);
            assert!(seconds(outcome.ns) <= least + 2.5, "{strategy}: {} of {least}", seconds(outcome.ns));
            assert!(outcome.sent <= 1.02, "{strategy}: {}", outcome.sent);
        }
    }
}

#[test]
fn when_all_are_away_it_waits_without_spinning_and_goes_on_when_one_returns() {
    for strategy in StrategyKind::ALL {
        for (from, to, silent) in [(2, 600, false), (2, 600, true)] {
            let vice = |to: u64| match silent {
                false => Vice::Away(from * SECOND, to * SECOND),
                true => Vice::Pauses(from * SECOND, to * SECOND),
            };
            let vices = [vice(100_000), vice(to), vice(100_000)];
            let site = &GROUP_A[2];
            let short = transfer(strategy, site, CONSTANT_A, MIB, &[], 1).0;
            let lab = Lab::new(
                config(strategy, site),
                traces(site, CONSTANT_A, 1),
                &vices,
                150_000_000,
                MIB,
                STATE,
            );
            let outcome = lab.run(10_000 * SECOND);
            let one_alone = STATE as f64 / (102.2 * MBPS);
            assert!(
                seconds(outcome.ns) <= to as f64 + one_alone + 40.0,
                "{strategy} {}",
                seconds(outcome.ns)
            );
            assert!(outcome.steps <= short.steps + 3000, "{strategy}: {} {}", outcome.steps, short.steps);
        }
    }
}

#[test]
fn one_source_is_enough() {
    for strategy in StrategyKind::ALL {
        let one = vec![traces(&GROUP_A[2], VARYING_A, 1).remove(2)];
        let ideal = ideal_ns(&one, STATE as f64);
        let lab = Lab::new(config(strategy, &GROUP_A[2]), one, &[], 150_000_000, MIB / 4, STATE);
        let run = (lab.run(200 * SECOND), ideal);
        assert!(efficiency(&run) >= 0.97, "{strategy}: {}", efficiency(&run));
    }
}

/// d.3, "leader is a source".
#[test]
fn the_leader_sends_least() {
    let even = ("even", [100.0, 100.0, 100.0]);
    for strategy in StrategyKind::ALL.into_iter().filter(|s| *s != StrategyKind::Single) {
        for percent in [0, 25, 100] {
            let config = FetchConfig { leader_weight_percent: percent, ..config(strategy, &even) };
            let mut lab = Lab::new(config, traces(&even, CONSTANT_A, 1), &[], 20_000_000, MIB / 4, STATE);
            lab.step(Input::Leader(Some(ReplicaId(1))));
            let bytes = lab.run(200 * SECOND).bytes;
            let share = bytes[1] as f64 / ((bytes[0] + bytes[2]) as f64 / 2.0);
            let wanted = f64::from(percent) / 100.0;
            assert!((share - wanted).abs() <= 0.03, "{strategy}, {percent} %: {share}");
        }
    }
}

#[test]
fn the_leader_sends_all_when_it_is_alone() {
    for strategy in StrategyKind::ALL {
        let config = FetchConfig { leader_weight_percent: 0, ..config(strategy, &GROUP_A[2]) };
        let vices = [Vice::Dies(SECOND), Vice::None, Vice::Dies(2 * SECOND)];
        let mut lab =
            Lab::new(config, traces(&GROUP_A[2], CONSTANT_A, 1), &vices, 20_000_000, MIB / 4, STATE);
        lab.step(Input::Leader(Some(ReplicaId(1))));
        let outcome = lab.run(200 * SECOND);
        assert!(outcome.bytes[1] > STATE / 2, "{strategy}: {:?}", outcome.bytes);
    }
}

#[test]
fn a_limit_holds_and_may_change() {
    for strategy in StrategyKind::ALL {
        let site = &GROUP_B[1];
        let config = FetchConfig { limit_bytes_per_s: Some(40 * MIB), ..config(strategy, site) };
        let lab = Lab::new(config, traces(site, CONSTANT_A, 1), &[], 20_000_000, MIB / 4, STATE);
        let took = seconds(lab.run(200 * SECOND).ns);
        assert!((24.8..27.0).contains(&took), "{strategy}: {took}");
    }
}

/// d.3, "receiver disk slower than network".
#[test]
fn what_is_under_way_and_in_memory_is_bounded_by_what_the_disk_takes() {
    for strategy in StrategyKind::ALL {
        let site = &GROUP_B[1];
        let config = FetchConfig { unwritten_bytes_max: 16 * MIB, ..config(strategy, site) };
        let mut lab = Lab::new(config, traces(site, CONSTANT_A, 1), &[], 20_000_000, MIB / 4, STATE);
        lab.disk = Some(50 * MIB);
        let outcome = lab.run(200 * SECOND);
        assert!(outcome.held_max <= 16 * MIB, "{strategy}: {}", outcome.held_max);
        assert!((19.6..22.0).contains(&seconds(outcome.ns)), "{strategy}: {}", seconds(outcome.ns));
        assert!(outcome.sent <= 1.0, "{strategy}");
    }
}

#[test]
fn requests_are_few() {
    for strategy in StrategyKind::ALL {
        let (outcome, _) = transfer(strategy, &GROUP_B[1], VARYING_B, MIB / 4, &[], 1);
        assert!(outcome.messages * 2 < 4000, "{strategy}: {}", outcome.messages);
    }
}

/// Any mixture of faults with one source that is there in the end: all comes, nothing is checked twice without need.
#[test]
fn every_mixture_of_faults_ends() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let n = random.between(1, 7);
        let strategy = *random.pick(&StrategyKind::ALL);
        let good = random.below(n);
        let vices: Vec<Vice> = (0..n)
            .map(|at| {
                let (from, to) = (random.below(8 * SECOND), random.between(8 * SECOND, 20 * SECOND));
                match random.below(if at == good { 3 } else { 7 }) {
                    0 => Vice::None,
                    1 => Vice::Away(from, to),
                    2 => Vice::Pauses(from, to),
                    3 => Vice::Dies(from),
                    4 => Vice::Mute(from),
                    5 => Vice::Dribbles(from),
                    _ => Vice::Lies(from),
                }
            })
            .collect();
        let weather = *random.pick(&[CONSTANT_A, VARYING_A, VARYING_B]);
        let traces =
            (0..n).map(|_| Trace::new(random.between(2, 300) as f64, weather, &mut random)).collect();
        let chunk = random.between(20_000, 2 * MIB);
        let state = random.between(1, 60 * MIB);
        let config = FetchConfig {
            strategy,
            interval_ns: random.between(SECOND / 10, 2 * SECOND),
            leader_weight_percent: random.below(101) as u32,
            window_bytes_max: random.between(1, 64 * MIB),
            unwritten_bytes_max: random.between(1, 64 * MIB),
            limit_bytes_per_s: random.per_mille(300).then_some(random.between(100_000, 50 * MIB)),
            ..FetchConfig::default()
        };
        let mut lab = Lab::new(config, traces, &vices, weather.rtt_ns, chunk, state);
        if random.per_mille(500) {
            lab.step(Input::Leader(Some(ReplicaId(random.below(n) as u32))));
        }
        println!("seed {seed}: {strategy}, {n} sources, {} chunks", lab.chunks);
        let outcome = lab.run(2_000 * SECOND);
        let honest = |r: &ReplicaId| !matches!(vices[r.index()], Vice::Lies(_));
        let banned = outcome.blamed.iter().filter(|(_, why)| *why != Fault::Silent).map(|(who, _)| who);
        assert!(banned.clone().all(|r| !honest(r)), "seed {seed}: {:?}", outcome.blamed);
    }
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
