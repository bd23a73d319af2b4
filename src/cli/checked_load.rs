//! Load whose every acknowledgement can be checked afterwards: for `demo` and the process tests, which include this file.
//!
//! Each writer is one session and numbers its puts. Seven of eight go to a key of their own; the eighth overwrites one
//! of a few keys. A value is a function of seed, writer and number, so a value read back tells which put it came from. What must
//! be found then:
//! - acknowledged: its value, or on an overwritten key that of this or a later put of the writer;
//! - not executed: nothing of it;
//! - unknown: its value or nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use duramen::client::{Client, Outcome, Session};
use duramen::service::random::Random;
use duramen::service::{KvOperation, KvReply, KvWrite};
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// One put in so many overwrites a key.
const OVERWRITE_EVERY: u64 = 8;
/// Keys of a writer that are overwritten.
const OVERWRITTEN_KEYS: u64 = 16;
/// How often slots that had to wait are looked at.
const PACE: Duration = Duration::from_millis(1);
/// Entries asked for in one read.
const SCAN_ENTRIES: u32 = 4096;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sessions.
    pub writers: u32,
    /// Unanswered puts of each.
    pub outstanding: u32,
    /// At least 32.
    pub value_bytes: usize,
    /// Puts per second of all writers, at most.
    pub rate_max: f64,
    /// After which a put counts as unknown.
    pub deadline: Duration,
    /// Sets the values.
    pub seed: u64,
}

/// Load under way.
pub struct CheckedLoad {
    shared: Arc<Shared>,
    pacer: Option<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    sessions: Vec<Session>,
    writers: Vec<Mutex<Vec<State>>>,
    start: Instant,
    submitted: AtomicU64,
    acked: AtomicU64,
    in_flight: AtomicUsize,
    stopping: AtomicBool,
    /// Writers, once for each slot that waits for its time.
    parked: Mutex<Vec<usize>>,
    /// Nanoseconds since `start`.
    last_ack: AtomicU64,
    longest_gap: AtomicU64,
    latency_ns: Mutex<Histogram<u64>>,
    failure: Mutex<Option<String>>,
}

/// Of the put with the number that is its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    InFlight,
    Acked,
    NotExecuted,
    Unknown,
}

impl CheckedLoad {
    /// Starts all writers.
    pub fn start(client: &Client, plan: Plan) -> CheckedLoad {
        let shared = Arc::new(Shared {
            plan,
            sessions: (0..plan.writers).map(|_| client.session()).collect(),
            writers: (0..plan.writers).map(|_| Mutex::default()).collect(),
            start: Instant::now(),
            submitted: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            parked: Mutex::default(),
            last_ack: AtomicU64::new(0),
            longest_gap: AtomicU64::new(0),
            latency_ns: Mutex::new(new_histogram()),
            failure: Mutex::default(),
        });
        for _ in 0..plan.outstanding {
            shared.parked.lock().extend(0..plan.writers as usize);
        }
        let pacing = shared.clone();
        let pacer = std::thread::spawn(move || {
            while !pacing.stopping.load(Relaxed) {
                pacing.release();
                std::thread::sleep(PACE);
            }
        });
        CheckedLoad { shared, pacer: Some(pacer) }
    }

    /// Acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Relaxed)
    }

    /// The longest time between two acknowledgements since the last call, or up to now if that is longer.
    pub fn take_longest_gap(&self) -> Duration {
        let now = self.shared.start.elapsed().as_nanos() as u64;
        let open = now.saturating_sub(self.shared.last_ack.load(Relaxed));
        Duration::from_nanos(self.shared.longest_gap.swap(0, Relaxed).max(open))
    }

    /// Latencies from submission to callback since the last call, nanoseconds.
    pub fn take_latencies(&self) -> Histogram<u64> {
        std::mem::replace(&mut self.shared.latency_ns.lock(), new_histogram())
    }

    /// Why what happened cannot be right, if it is known already.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().clone()
    }

    /// Sends no more and waits for what is under way: at most the deadline and a second.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        if let Some(pacer) = self.pacer.take() {
            let _ = pacer.join();
        }
        let end = Instant::now() + self.shared.plan.deadline + Duration::from_secs(1);
        while self.shared.in_flight.load(Relaxed) > 0 && Instant::now() < end {
            std::thread::sleep(PACE);
        }
    }

    /// Reads everything back and compares. To be called after [`CheckedLoad::stop`].
    pub fn verify(&self, client: &Client) -> Result<Findings, String> {
        let writers = 0..self.shared.plan.writers as usize;
        let each = std::thread::scope(|scope| {
            let threads: Vec<_> =
                writers.map(|writer| scope.spawn(move || self.shared.verify(client, writer))).collect();
            let panicked = |_| Err("checking panicked".to_owned());
            threads.into_iter().map(|t| t.join().unwrap_or_else(panicked)).collect::<Result<Vec<_>, _>>()
        })?;
        let mut all = Findings::default();
        for one in each {
            all.add(one);
        }
        if let Some(why) = self.failure() {
            all.wrong += 1;
            all.examples.insert(0, why);
        }
        Ok(all)
    }
}

impl Drop for CheckedLoad {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        if let Some(pacer) = self.pacer.take() {
            let _ = pacer.join();
        }
    }
}

/// What reading back showed.
#[derive(Clone, Default, Debug)]
pub struct Findings {
    /// Puts that were acknowledged.
    pub acked: u64,
    /// Of these, found under a key of their own.
    pub found: u64,
    /// Of these, found overwritten by a later put of the same writer, or in place under a key that is overwritten.
    pub overwritten: u64,
    /// Acknowledged and not found.
    pub lost: u64,
    /// Values that should not be there.
    pub wrong: u64,
    /// Puts whose outcome was never told, and how many of them took effect.
    pub unknown: u64,
    /// See `unknown`.
    pub unknown_found: u64,
    /// Puts that were reported as not executed.
    pub not_executed: u64,
    /// The first few of what is lost or wrong.
    pub examples: Vec<String>,
}

impl Findings {
    /// Whether nothing acknowledged is lost and nothing is wrong.
    pub fn good(&self) -> bool {
        self.lost == 0 && self.wrong == 0 && self.found + self.overwritten == self.acked
    }

    fn add(&mut self, other: Findings) {
        self.acked += other.acked;
        self.found += other.found;
        self.overwritten += other.overwritten;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.unknown += other.unknown;
        self.unknown_found += other.unknown_found;
        self.not_executed += other.not_executed;
        self.examples.extend(other.examples);
        self.examples.truncate(8);
    }

    fn is_lost(&mut self, what: String) {
        self.lost += 1;
        self.examples.push(format!("lost: {what}"));
    }

    fn is_wrong(&mut self, what: String) {
        self.wrong += 1;
        self.examples.push(format!("wrong: {what}"));
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, 600_000_000_000, 3).expect("constant bounds")
}

/// The key of a put. Keys of one writer lie together, those of its own puts before the overwritten ones.
fn key(writer: usize, number: u64) -> String {
    match number % OVERWRITE_EVERY {
        0 => format!("{writer:04}/over/{:04}", number / OVERWRITE_EVERY % OVERWRITTEN_KEYS),
        _ => format!("{writer:04}/once/{number:012}"),
    }
}

/// Writer and number in front, then bytes that nobody would write by accident.
fn value(plan: &Plan, writer: usize, number: u64) -> Vec<u8> {
    let mut out = vec![0; plan.value_bytes.max(32)];
    out[..8].copy_from_slice(&(writer as u64).to_be_bytes());
    out[8..16].copy_from_slice(&number.to_be_bytes());
    let mut random = Random(plan.seed ^ (writer as u64) << 40 ^ number);
    for part in out[16..].chunks_mut(8) {
        part.copy_from_slice(&random.bits().to_le_bytes()[..part.len()]);
    }
    out
}

/// The number of the put that a value came from, if it is one of this writer's.
fn origin(plan: &Plan, writer: usize, bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
    (bytes == value(plan, writer, number)).then_some(number)
}

impl Shared {
    /// Sends for waiting slots, as many as the rate allows by now.
    fn release(self: &Arc<Self>) {
        let mut slots = std::mem::take(&mut *self.parked.lock());
        let allowed = (self.start.elapsed().as_secs_f64() * self.plan.rate_max) as u64;
        let now = allowed.saturating_sub(self.submitted.load(Relaxed)).min(slots.len() as u64) as usize;
        for writer in slots.drain(..now) {
            self.send(writer);
        }
        self.parked.lock().append(&mut slots);
    }

    fn send(self: &Arc<Self>, writer: usize) {
        self.submitted.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        // Held until it is submitted: numbers and the session's order agree.
        let mut states = self.writers[writer].lock();
        let number = states.len() as u64;
        states.push(State::InFlight);
        let (key, value) = (key(writer, number), value(&self.plan, writer, number));
        let operation = KvWrite::Put { key: key.as_bytes(), value: &value }.into_operation();
        let (begin, to) = (Instant::now(), self.clone());
        let deadline = Some(self.plan.deadline);
        let submitted = self.sessions[writer].submit(operation, deadline, move |outcome| {
            to.finished(writer, number, begin, outcome);
        });
        if submitted.is_err() {
            states[number as usize] = State::NotExecuted;
            drop(states);
            self.in_flight.fetch_sub(1, Relaxed);
            self.parked.lock().push(writer);
        }
    }

    fn finished(self: &Arc<Self>, writer: usize, number: u64, begin: Instant, outcome: Outcome) {
        let state = match outcome {
            Outcome::Done(reply) if reply[..] == [0] => {
                self.acked.fetch_add(1, Relaxed);
                let now = self.start.elapsed().as_nanos() as u64;
                let last = self.last_ack.swap(now, Relaxed);
                self.longest_gap.fetch_max(now.saturating_sub(last), Relaxed);
                self.latency_ns.lock().saturating_record(begin.elapsed().as_nanos() as u64);
                State::Acked
            }
            Outcome::Done(reply) => {
                self.failed(format!("put {number} of writer {writer} was answered with {reply:?}"));
                State::Unknown
            }
            Outcome::NotExecuted(_) => State::NotExecuted,
            Outcome::UnknownOutcome(_) => State::Unknown,
            Outcome::Fail(why) => {
                self.failed(format!("put {number} of writer {writer}: {why}"));
                State::Unknown
            }
        };
        self.writers[writer].lock()[number as usize] = state;
        self.in_flight.fetch_sub(1, Relaxed);
        let ahead =
            self.submitted.load(Relaxed) as f64 >= self.start.elapsed().as_secs_f64() * self.plan.rate_max;
        if self.stopping.load(Relaxed) {
        } else if ahead || state != State::Acked {
            // What fails is tried no faster than the pace.
            self.parked.lock().push(writer);
        } else {
            self.send(writer);
        }
    }

    fn failed(&self, why: String) {
        self.failure.lock().get_or_insert(why);
    }

    fn verify(&self, client: &Client, writer: usize) -> Result<Findings, String> {
        let states = self.writers[writer].lock().clone();
        let mut findings = Findings::default();
        let mut seen = vec![false; states.len()];
        // The put that each overwritten key shows.
        let mut shown = vec![None; OVERWRITTEN_KEYS as usize];
        let plan = &self.plan;
        let range = format!("{writer:04}/").into_bytes()..format!("{writer:04}0").into_bytes();
        scan(client, range, &mut |found, bytes| {
            let found = String::from_utf8_lossy(found).into_owned();
            let Some(number) = origin(plan, writer, bytes).filter(|number| key(writer, *number) == found)
            else {
                return findings.is_wrong(format!("{found} holds what was never written to it"));
            };
            let Some(state) = states.get(number as usize) else {
                return findings.is_wrong(format!("{found} holds a value that was not sent yet"));
            };
            if *state == State::NotExecuted {
                findings.is_wrong(format!("{found} holds put {number}, which was reported as not executed"));
            }
            seen[number as usize] = true;
            if number % OVERWRITE_EVERY == 0 {
                shown[(number / OVERWRITE_EVERY % OVERWRITTEN_KEYS) as usize] = Some(number);
            }
        })?;
        for (number, state) in (0u64..).zip(&states) {
            let own_key = number % OVERWRITE_EVERY != 0;
            let found = seen[number as usize];
            match state {
                State::Acked => {
                    findings.acked += 1;
                    // A session's puts execute in the order of their numbers.
                    let last = shown[(number / OVERWRITE_EVERY % OVERWRITTEN_KEYS) as usize];
                    match own_key {
                        true if found => findings.found += 1,
                        false if last.is_some_and(|last| last >= number) => findings.overwritten += 1,
                        _ => findings.is_lost(format!("{} of put {number}", key(writer, number))),
                    }
                }
                State::NotExecuted => findings.not_executed += 1,
                State::Unknown | State::InFlight => {
                    findings.unknown += 1;
                    findings.unknown_found += u64::from(found);
                }
            }
        }
        findings.examples.truncate(8);
        Ok(findings)
    }
}

/// Hands every entry of a range to `each`.
fn scan(client: &Client, range: Range<Vec<u8>>, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
    let mut start = range.start;
    loop {
        let operation = KvOperation::Scan { start: &start, end: &range.end, limit: SCAN_ENTRIES }.encode();
        let reply: Bytes = match client.read(operation, Some(Duration::from_secs(30))) {
            Outcome::Done(reply) => reply,
            Outcome::NotExecuted(why) | Outcome::UnknownOutcome(why) | Outcome::Fail(why) => {
                return Err(format!("reading back failed: {why}"));
            }
        };
        let Ok(KvReply::Entries { entries, more }) = KvReply::decode(&reply) else {
            return Err("the store's answer is none to a scan".into());
        };
        entries.iter().for_each(|(key, value)| each(key, value));
        match entries.last() {
            // The next key in order: the same with a zero byte behind.
            Some((last, _)) if more => start = [last, &[0][..]].concat(),
            _ => return Ok(()),
        }
    }
}
