//! The load generator. Closed loop: each answer lets the next request out, on the client's own threads. Open loop: requests are due
//! at fixed times, whatever the answers do, and what cannot be sent in time waits, and its waiting counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, unbounded};
use duramen::client::{Client, Outcome, Session};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::workload::{Step, Workload};

/// After so many failures it is no measurement any more.
const ERRORS_MAX: u64 = 10_000;
/// How often the refilling thread looks whether all has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The open loop's thread looks at the clock this often.
const PACE: Duration = Duration::from_micros(250);
/// Open loop: requests that may wait for a place at a time; more are not sent, and counted.
pub const WAITING_MAX: usize = 1 << 20;
/// A request that the client library did not take leaves its place empty for so long.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);
/// What leaves later than this, although there is room, the generator itself has delayed.
const LATE: Duration = Duration::from_millis(1);

/// Load under way.
pub struct Load {
    shared: Arc<Shared>,
    pace: Option<std::thread::JoinHandle<()>>,
    refill: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in [self.pace.take(), self.refill.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
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
    /// Open loop: what is under way and what waits.
    places: Places,
    /// Places whose request was refused: they are filled again a little later, so that the load does not shrink.
    again: Sender<usize>,
    refused: AtomicU64,
    /// All that was under way has ended, or is given up.
    ended: AtomicBool,
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
    /// Open loop: requests that were due and never sent, because too many waited already.
    pub dropped: u64,
    /// Requests that the client library did not take. They count as errors, too.
    pub refused: u64,
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
        let (again, emptied) = unbounded();
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
            places: Places::new(shape.sessions, shape.outstanding, WAITING_MAX),
            again,
            refused: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            acked: AtomicU64::new(0),
            record: Mutex::new(Record {
                latency_ns: histogram(),
                bin_ns: histogram(),
                service_ns: histogram(),
                late: 0,
                dropped: 0,
                refused: 0,
                under_way: 0,
                drain: Duration::ZERO,
                errors: 0,
                first_error: None,
            }),
        });
        shared.say_first();
        let refill = {
            let shared = shared.clone();
            let named = std::thread::Builder::new().name("bench-refill".into());
            named.spawn(move || refill(&shared, &emptied)).expect("a thread can be started")
        };
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
        Load { shared, pace, refill: Some(refill) }
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
        self.shared.places.most.load(Ordering::Relaxed)
    }

    /// Requests that are due and wait because too many are outstanding.
    pub fn waiting(&self) -> usize {
        self.shared.places.now.load(Ordering::Relaxed)
    }

    /// From now on latencies count.
    pub fn start_recording(&self) {
        self.shared.places.most.store(self.waiting(), Ordering::Relaxed);
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
    pub fn stop(mut self) -> Record {
        let shared = self.shared.clone();
        shared.recording.store(false, Ordering::Relaxed);
        let mut record = shared.record.lock().clone();
        record.end_bin();
        shared.stopping.store(true, Ordering::Relaxed);
        if let Some(pace) = self.pace.take() {
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
        record.refused = shared.refused.load(Ordering::Relaxed);
        record.dropped = shared.places.dropped.load(Ordering::Relaxed);
        record.first_error.clone_from(&ended.first_error);
        if unanswered > 0 {
            record.first_error.get_or_insert_with(|| "no answer within the time for one request".into());
        }
        drop(ended);
        record
    }
}

/// The places of an open loop's sessions, and the requests that wait for one by the time they were due.
pub struct Places {
    /// Of each session: taken, and waiting for one of them.
    sessions: Vec<Mutex<(u32, VecDeque<Instant>)>>,
    each: u32,
    bound: usize,
    /// How many wait, and did at most.
    now: AtomicUsize,
    most: AtomicUsize,
    /// Turned away because so many waited.
    pub dropped: AtomicU64,
}

impl Places {
    /// So many places `each` session; up to `bound` requests wait.
    pub fn new(sessions: u32, each: u32, bound: usize) -> Self {
        Self {
            sessions: (0..sessions).map(|_| Default::default()).collect(),
            each,
            bound,
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Whether a request that is due may leave now; else it waits, or is turned away.
    pub fn take(&self, session: usize, due: Instant) -> bool {
        let mut of = self.sessions[session].lock();
        if of.0 < self.each {
            of.0 += 1;
            return true;
        }
        // One thread adds.
        if self.now.load(Ordering::Relaxed) >= self.bound {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            of.1.push_back(due);
            let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
        }
        false
    }

    /// A request has ended: when the one was due that leaves in its place; `None`: the place is free.
    pub fn leave(&self, session: usize) -> Option<Instant> {
        let mut of = self.sessions[session].lock();
        let next = of.1.pop_front();
        match next {
            Some(_) => self.now.fetch_sub(1, Ordering::Relaxed),
            None => {
                of.0 -= 1;
                0
            }
        };
        next
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
            if shared.places.take(session, intended) {
                shared.in_flight.fetch_add(1, Ordering::Relaxed);
                if intended.elapsed() > LATE && shared.recording.load(Ordering::Relaxed) {
                    shared.record.lock().late += 1;
                }
                draw(shared, session, intended);
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
    match shared.places.leave(session) {
        Some(intended) => draw(shared, session, intended),
        None => {
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Fills places again whose request was refused.
fn refill(shared: &Arc<Shared>, emptied: &Receiver<usize>) {
    while !shared.ended.load(Ordering::Relaxed) {
        let Ok(session) = emptied.recv_timeout(LOOK) else { continue };
        std::thread::sleep(REFUSED_PAUSE);
        for session in std::iter::once(session).chain(emptied.try_iter()) {
            next(shared, session);
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
        shared.refused.fetch_add(1, Ordering::Relaxed);
        shared.failed(why.to_string());
        let _ = shared.again.send(session);
    }
}

impl Shared {
    /// Without it all requests fail: the first error is its own.
    fn say_first(&self) {
        let Some(operation) = self.workload.first() else { return };
        match self.sessions[0].invoke(operation, Some(self.shape.deadline)) {
            Outcome::Done(reply) if self.workload.accepts_first(&reply) => {}
            Outcome::Done(_) => self.failed("the service is not the one that --service says".into()),
            Outcome::NotExecuted(why) | Outcome::UnknownOutcome(why) | Outcome::Fail(why) => self.failed(why),
        }
    }

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
