//! The load generator. Closed loop: each answer lets the next request out, on the client's own threads. Open loop: requests are due
//! at fixed times, whatever the answers do, and what cannot be sent in time waits, and its waiting counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use duramen::client::{Client, Outcome, Session};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::workload::{Step, Workload};

/// After so many failures it is no measurement any more.
const ERRORS_MAX: u64 = 10_000;
/// The open loop's thread looks at the clock this often.
const PACE: Duration = Duration::from_micros(250);
/// What leaves later than this, although there is room, the generator itself has delayed.
const LATE: Duration = Duration::from_millis(1);

/// Load under way.
pub struct Load {
    shared: Arc<Shared>,
    pace: Option<std::thread::JoinHandle<()>>,
}

/// How much at a time.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sessions of the one client process.
    pub sessions: u32,
    /// Requests each of them keeps unanswered, at most.
    pub outstanding: u32,
    /// Open loop: requests per second.
    pub rate: Option<f64>,
    /// How long one request may take.
    pub deadline: Duration,
    /// Sets the order of operations.
    pub seed: u64,
}

struct Shared {
    client: Client,
    sessions: Vec<Session>,
    workload: Arc<Workload>,
    /// Keys to load; then the load ends.
    loading: Option<(AtomicU64, u64)>,
    shape: Shape,
    random: Mutex<StdRng>,
    stopping: AtomicBool,
    recording: AtomicBool,
    in_flight: AtomicUsize,
    /// Open loop: of each session, requests that wait for an answer to others, by the time they were due.
    waiting: Vec<Mutex<(u32, VecDeque<Instant>)>>,
    /// How many of them there are, and were at most.
    waiting_now: AtomicUsize,
    waiting_max: AtomicUsize,
    /// All that was acknowledged since the start, recorded or not.
    acked: AtomicU64,
    record: Mutex<Record>,
}

/// What was measured.
#[derive(Clone)]
pub struct Record {
    /// Closed loop: submission to callback. Open loop: from the time a request was due. Nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// The part of it since the last [`Load::take_bin`].
    bin_ns: Histogram<u64>,
    /// Open loop: submission to callback.
    pub service_ns: Histogram<u64>,
    /// Open loop: requests that there was room for and that were sent more than a millisecond after they were due.
    pub late: u64,
    /// Requests that were under way when measuring ended, and how long the last of them then took: they are in no percentile.
    pub under_way: usize,
    pub drain: Duration,
    /// Outcomes that were no success, while recording or not; what was never answered counts.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Record {
    fn end_bin(&mut self) -> Histogram<u64> {
        let bin = std::mem::replace(&mut self.bin_ns, histogram());
        self.latency_ns.add(&bin).expect("the bounds are the same");
        bin
    }
}

fn histogram() -> Histogram<u64> {
    // Up to ten minutes, three digits.
    Histogram::new_with_bounds(1000, 600_000_000_000, 3).expect("constant bounds")
}

impl Load {
    /// Starts the load.
    pub fn start(client: &Client, workload: Arc<Workload>, shape: Shape) -> Load {
        Self::begin(client, workload, shape, None)
    }

    /// Loads all keys once, in a closed loop; ends by itself ([`Load::is_idle`]).
    pub fn preload(client: &Client, workload: Arc<Workload>, shape: Shape) -> Load {
        let keys = workload.preload();
        Self::begin(client, workload, Shape { rate: None, ..shape }, Some((AtomicU64::new(0), keys)))
    }

    fn begin(
        client: &Client,
        workload: Arc<Workload>,
        shape: Shape,
        loading: Option<(AtomicU64, u64)>,
    ) -> Load {
        let shared = Arc::new(Shared {
            client: client.clone(),
            sessions: (0..shape.sessions).map(|_| client.session()).collect(),
            workload,
            loading,
            shape,
            random: Mutex::new(StdRng::seed_from_u64(shape.seed)),
            stopping: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            waiting: (0..shape.sessions).map(|_| Default::default()).collect(),
            waiting_now: AtomicUsize::new(0),
            waiting_max: AtomicUsize::new(0),
            acked: AtomicU64::new(0),
            record: Mutex::new(Record {
                latency_ns: histogram(),
                bin_ns: histogram(),
                service_ns: histogram(),
                late: 0,
                under_way: 0,
                drain: Duration::ZERO,
                errors: 0,
                first_error: None,
            }),
        });
        let pace = shape.rate.map(|rate| {
            let shared = shared.clone();
            let named = std::thread::Builder::new().name("bench-pace".into());
            named.spawn(move || pace(&shared, rate)).expect("a thread can be started")
        });
        if pace.is_none() {
            for _ in 0..shape.outstanding {
                for session in 0..shape.sessions as usize {
                    shared.in_flight.fetch_add(1, Ordering::Relaxed);
                    next(&shared, session);
                }
            }
        }
        Load { shared, pace }
    }

    /// Acknowledged since the start.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.shared.in_flight.load(Ordering::Relaxed) == 0
    }

    /// The most requests that were due and had to wait because too many were outstanding.
    pub fn waiting_max(&self) -> usize {
        self.shared.waiting_max.load(Ordering::Relaxed)
    }

    /// Requests that are due and wait because too many are outstanding.
    pub fn waiting(&self) -> usize {
        self.shared.waiting_now.load(Ordering::Relaxed)
    }

    /// From now on latencies count.
    pub fn start_recording(&self) {
        self.shared.waiting_max.store(self.waiting(), Ordering::Relaxed);
        self.shared.recording.store(true, Ordering::Relaxed);
    }

    /// Latencies recorded since the last call, and errors so far.
    pub fn take_bin(&self) -> (Histogram<u64>, u64) {
        let mut record = self.shared.record.lock();
        (record.end_bin(), record.errors)
    }

    /// Why there is no point in going on, if so.
    pub fn hopeless(&self) -> Option<String> {
        let idle = self.is_idle() && self.pace.is_none();
        let record = self.shared.record.lock();
        (idle || record.errors >= ERRORS_MAX).then(|| {
            let first = record.first_error.as_deref().unwrap_or("unknown");
            format!("{} requests failed, the first: {first}", record.errors)
        })
    }

    /// Ends recording and lets no more requests out; waits for those under way, whose failures still count.
    pub fn stop(self) -> Record {
        let shared = &self.shared;
        shared.recording.store(false, Ordering::Relaxed);
        let mut record = shared.record.lock().clone();
        record.end_bin();
        shared.stopping.store(true, Ordering::Relaxed);
        if let Some(pace) = self.pace {
            let _ = pace.join();
        }
        let under_way = || shared.in_flight.load(Ordering::Relaxed);
        record.under_way = under_way();
        let begin = Instant::now();
        while under_way() > 0 && begin.elapsed() < shared.shape.deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        record.drain = begin.elapsed();
        let unanswered = under_way() as u64;
        let ended = shared.record.lock();
        record.errors = ended.errors + unanswered;
        record.first_error.clone_from(&ended.first_error);
        if unanswered > 0 {
            record.first_error.get_or_insert_with(|| "no answer within the time for one request".into());
        }
        drop(ended);
        record
    }
}

/// When request number `n` of an open loop is due, from the start.
pub fn due(n: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(n as f64 / rate)
}

/// The open loop: hands out what is due, session after session.
fn pace(shared: &Arc<Shared>, rate: f64) {
    let (start, mut n) = (Instant::now(), 0u64);
    while !shared.stopping.load(Ordering::Relaxed) {
        let now = Instant::now();
        while start + due(n, rate) <= now {
            let (session, intended) = ((n % shared.sessions.len() as u64) as usize, start + due(n, rate));
            n += 1;
            let mut waiting = shared.waiting[session].lock();
            if waiting.0 < shared.shape.outstanding {
                waiting.0 += 1;
                drop(waiting);
                shared.in_flight.fetch_add(1, Ordering::Relaxed);
                if intended.elapsed() > LATE && shared.recording.load(Ordering::Relaxed) {
                    shared.record.lock().late += 1;
                }
                draw(shared, session, intended);
            } else {
                waiting.1.push_back(intended);
                let now = shared.waiting_now.fetch_add(1, Ordering::Relaxed) + 1;
                shared.waiting_max.fetch_max(now, Ordering::Relaxed);
            }
        }
        std::thread::sleep(PACE);
    }
}

/// A place is free: the next request goes out, if there is one.
fn next(shared: &Arc<Shared>, session: usize) {
    if shared.stopping.load(Ordering::Relaxed) {
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    if shared.shape.rate.is_none() {
        return draw(shared, session, Instant::now());
    }
    let mut waiting = shared.waiting[session].lock();
    match waiting.1.pop_front() {
        Some(intended) => {
            drop(waiting);
            shared.waiting_now.fetch_sub(1, Ordering::Relaxed);
            draw(shared, session, intended);
        }
        None => {
            waiting.0 -= 1;
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn draw(shared: &Arc<Shared>, session: usize, intended: Instant) {
    let step = match &shared.loading {
        Some((next, end)) => match next.fetch_add(1, Ordering::Relaxed) {
            n if n < *end => shared.workload.load(n),
            _ => {
                shared.in_flight.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        },
        None => shared.workload.draw(&mut shared.random.lock()),
    };
    // A closed loop's requests are due when they are sent: one look at the clock less.
    let begin = if shared.shape.rate.is_some() { Instant::now() } else { intended };
    send(shared, session, step, intended, begin);
}

fn send(shared: &Arc<Shared>, session: usize, step: Step, intended: Instant, begin: Instant) {
    let (to, deadline) = (shared.clone(), Some(shared.shape.deadline));
    let submitted = match step {
        Step::Write(operation) => shared.sessions[session].submit(operation, deadline, move |outcome| {
            to.finished(intended, begin, outcome, |reply| to.workload.accepts_write(reply));
            next(&to, session);
        }),
        Step::Read(operation) => shared.client.submit_read(operation, deadline, move |outcome| {
            to.finished(intended, begin, outcome, |reply| to.workload.accepts_read(reply));
            next(&to, session);
        }),
        Step::ReadThenWrite(read, write) => {
            shared.client.submit_read(read, deadline, move |outcome| match outcome {
                Outcome::Done(reply) if to.workload.accepts_read(&reply) => {
                    send(&to, session, Step::Write(write), intended, begin);
                }
                other => {
                    to.finished(intended, begin, other, |_| false);
                    next(&to, session);
                }
            })
        }
    };
    if let Err(why) = submitted {
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        shared.failed(why.to_string());
    }
}

impl Shared {
    fn finished(&self, intended: Instant, begin: Instant, outcome: Outcome, ok: impl Fn(&Bytes) -> bool) {
        match outcome {
            Outcome::Done(reply) if ok(&reply) => {
                self.acked.fetch_add(1, Ordering::Relaxed);
                if self.recording.load(Ordering::Relaxed) {
                    let now = Instant::now();
                    let latency = (now - intended).as_nanos() as u64;
                    let mut record = self.record.lock();
                    record.bin_ns.saturating_record(latency);
                    if self.shape.rate.is_some() {
                        record.service_ns.saturating_record((now - begin).as_nanos() as u64);
                    }
                }
            }
            Outcome::Done(reply) => self.failed(format!("an unexpected reply of {} bytes", reply.len())),
            Outcome::NotExecuted(why) | Outcome::UnknownOutcome(why) | Outcome::Fail(why) => self.failed(why),
        }
    }

    fn failed(&self, why: String) {
        let mut record = self.record.lock();
        record.errors += 1;
        record.first_error.get_or_insert(why);
        if record.errors >= ERRORS_MAX {
            self.stopping.store(true, Ordering::Relaxed);
        }
    }
}
