//! The closed-loop load generator: each answer lets the next request out, on the client's own threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use duramen::client::{Client, Outcome, Session};
use duramen::service::{KvWrite, NullService};
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Bytes of encoded operations to keep ready at most; beyond that, keys share operations' bytes no more often than
/// the pool allows, so fewer keys are used.
const POOL_BYTES_MAX: usize = 512 << 20;
/// After so many failures it is no measurement any more.
const ERRORS_MAX: u64 = 10_000;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub enum Workload {
    /// Puts of values of this size, keys drawn uniformly.
    Kv { value_bytes: usize, keys: usize },
    /// Requests and replies of these sizes.
    Null { request_bytes: usize, reply_bytes: u32 },
}

impl Workload {
    /// Operations encoded once, used again and again: the generator shall cost little beside the replicas. `seed` sets
    /// the values' bytes.
    pub fn pool(self, seed: u64) -> Vec<Bytes> {
        match self {
            Workload::Kv { value_bytes, keys } => {
                let keys = keys.min(POOL_BYTES_MAX / (value_bytes + 64)).max(1);
                let mut random = seed;
                let mut value = vec![0; value_bytes];
                (0..keys as u64)
                    .map(|key| {
                        for part in value.chunks_mut(8) {
                            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                            part.copy_from_slice(&mix(random).to_le_bytes()[..part.len()]);
                        }
                        KvWrite::Put { key: &key.to_be_bytes(), value: &value }.into_operation()
                    })
                    .collect()
            }
            Workload::Null { request_bytes, reply_bytes } => {
                vec![NullService::operation(request_bytes, reply_bytes)]
            }
        }
    }

    fn accepts(self, reply: &Bytes) -> bool {
        match self {
            // `KvReply::Ok`, without the cost of decoding.
            Workload::Kv { .. } => reply[..] == [0],
            Workload::Null { reply_bytes, .. } => reply.len() == reply_bytes as usize,
        }
    }
}

/// A bijection whose outputs look random (the finish of splitmix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Load under way.
pub struct Load {
    shared: Arc<Shared>,
}

struct Shared {
    sessions: Vec<Session>,
    workload: Workload,
    pool: Vec<Bytes>,
    drawn: AtomicU64,
    deadline: Duration,
    stopping: AtomicBool,
    recording: AtomicBool,
    in_flight: AtomicUsize,
    /// All that was acknowledged since the start, recorded or not.
    acked: AtomicU64,
    record: Mutex<Record>,
}

/// What was measured.
#[derive(Clone)]
pub struct Record {
    /// Submission to callback, nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Outcomes that were no success, while recording or not.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Load {
    /// Starts `outstanding` requests in each of `sessions` sessions.
    pub fn start(
        client: &Client,
        workload: Workload,
        sessions: u32,
        outstanding: u32,
        deadline: Duration,
        seed: u64,
    ) -> Load {
        let shared = Arc::new(Shared {
            sessions: (0..sessions).map(|_| client.session()).collect(),
            pool: workload.pool(seed),
            workload,
            drawn: AtomicU64::new(seed),
            deadline,
            stopping: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            acked: AtomicU64::new(0),
            record: Mutex::new(Record {
                // Up to ten minutes, three digits.
                latency_ns: Histogram::new_with_bounds(1000, 600_000_000_000, 3).expect("constant bounds"),
                errors: 0,
                first_error: None,
            }),
        });
        for _ in 0..outstanding {
            for session in 0..sessions as usize {
                shared.in_flight.fetch_add(1, Ordering::Relaxed);
                send(&shared, session);
            }
        }
        Load { shared }
    }

    /// Acknowledged since the start.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// From now on latencies count.
    pub fn start_recording(&self) {
        self.shared.recording.store(true, Ordering::Relaxed);
    }

    /// Why there is no point in going on, if so.
    pub fn hopeless(&self) -> Option<String> {
        let record = self.shared.record.lock();
        let idle = self.shared.in_flight.load(Ordering::Relaxed) == 0;
        (idle || record.errors >= ERRORS_MAX).then(|| {
            let first = record.first_error.as_deref().unwrap_or("unknown");
            format!("{} requests failed, the first: {first}", record.errors)
        })
    }

    /// Ends recording and lets no more requests out; waits for those under way.
    pub fn stop(self) -> Record {
        self.shared.recording.store(false, Ordering::Relaxed);
        let record = self.shared.record.lock().clone();
        self.shared.stopping.store(true, Ordering::Relaxed);
        let end = Instant::now() + self.shared.deadline;
        while self.shared.in_flight.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        record
    }
}

fn send(shared: &Arc<Shared>, session: usize) {
    let drawn = shared.drawn.fetch_add(1, Ordering::Relaxed);
    let operation = shared.pool[(mix(drawn) % shared.pool.len() as u64) as usize].clone();
    let (begin, to) = (Instant::now(), shared.clone());
    let submitted = shared.sessions[session].submit(operation, Some(shared.deadline), move |outcome| {
        to.finished(begin, outcome);
        if to.stopping.load(Ordering::Relaxed) {
            to.in_flight.fetch_sub(1, Ordering::Relaxed);
        } else {
            send(&to, session);
        }
    });
    if let Err(why) = submitted {
        shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        shared.failed(why.to_string());
    }
}

impl Shared {
    fn finished(&self, begin: Instant, outcome: Outcome) {
        match outcome {
            Outcome::Done(reply) if self.workload.accepts(&reply) => {
                self.acked.fetch_add(1, Ordering::Relaxed);
                if self.recording.load(Ordering::Relaxed) {
                    self.record.lock().latency_ns.saturating_record(begin.elapsed().as_nanos() as u64);
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
