//! What the stages of one replica share: where clients are, who leads, counters for `status`.

use super::checkpoint_stage::CheckpointView;
use super::metrics::Metrics;
use super::progress::RecoveryProgress;
use super::transfer_stage::TransferView;
use crate::checkpoint::pacer::LogWrites;
use crate::durable::RoundStats;
use crate::log::LogStats;
use crate::net::ConnectionId;
use crate::transfer::received::Received;
use crate::types::*;
use crate::wire::messages::{Mode, Status};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Distinct reasons kept per sender for `status`.
const REASONS_MAX: usize = 64;

/// The connections of client processes.
#[derive(Default)]
pub struct Clients {
    /// By key and process.
    processes: HashMap<(ClientId, u64), ConnectionId>,
    /// All of a key.
    connections: HashMap<ClientId, Vec<ConnectionId>>,
}

impl Clients {
    /// A connection began.
    pub fn connected(&mut self, client: ClientId, connection: ConnectionId) {
        self.connections.entry(client).or_default().push(connection);
    }

    /// It names its process; the latest connection of a process gets its replies.
    pub fn attach(&mut self, client: ClientId, process: u64, connection: ConnectionId) {
        // One process per connection: a client cannot make this table grow beyond its connections.
        self.processes.retain(|_, c| *c != connection);
        self.processes.insert((client, process), connection);
    }

    /// It ended.
    pub fn disconnected(&mut self, client: ClientId, connection: ConnectionId) {
        self.processes.retain(|_, c| *c != connection);
        if let Some(all) = self.connections.get_mut(&client) {
            all.retain(|c| *c != connection);
            if all.is_empty() {
                self.connections.remove(&client);
            }
        }
    }

    /// Where replies of this process go; process 0 = every connection of the key.
    pub fn of(&self, client: ClientId, process: u64) -> &[ConnectionId] {
        if process == 0 {
            return self.connections.get(&client).map_or(&[], Vec::as_slice);
        }
        self.processes.get(&(client, process)).map_or(&[], std::slice::from_ref)
    }
}

/// The order stage's last published state.
#[derive(Clone, Default)]
pub struct OrderView {
    /// The heartbeat.
    pub status: Option<Status>,
    /// Whether it leads.
    pub leads: bool,
    /// Why it is mute.
    pub halted: Option<String>,
    /// Groups kept.
    pub waiting_groups: usize,
    /// Most places in flight at once.
    pub in_flight_max: u64,
    /// The other replicas.
    pub peers: Vec<(ReplicaId, Option<Status>)>,
    /// Inputs that wait.
    pub queue: usize,
    /// Log records damaged at the start, and those of them that are healed or no longer needed.
    pub damaged: (usize, usize),
    /// A place prepared by a damaged record that no report of another has made up for.
    pub vote_lost: Option<Seq>,
    /// Log counters.
    pub log: LogView,
}

/// The log's counters.
#[derive(Clone, Default)]
pub struct LogView {
    /// Writes.
    pub writes: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes, padding included.
    pub bytes: u64,
    /// Most writes at once.
    pub in_flight_max: usize,
    /// Median time of a write, µs.
    pub write_us_p50: u64,
    /// 99th percentile.
    pub write_us_p99: u64,
    /// What all writes took, ns.
    pub write_ns_sum: u64,
    /// Zero-filled segments ready.
    pub segments_ready: usize,
    /// Takes new work.
    pub has_room: bool,
    /// Bytes queued.
    pub queued_bytes: usize,
    /// The last durable record.
    pub durable: Lsn,
    /// The oldest record.
    pub first: Lsn,
    /// Of all segment files.
    pub files_bytes: u64,
    /// Of those that hold records.
    pub used_bytes: u64,
    /// Segments whose records were given up since the start, and used again or removed.
    pub recycled: u64,
    /// Why it cannot get more space, if so.
    pub blocked: Option<String>,
}

impl LogView {
    /// What the log counted; what only its owner knows is left out.
    pub fn of(stats: &LogStats) -> Self {
        Self {
            writes: stats.writes,
            records: stats.records,
            bytes: stats.bytes,
            in_flight_max: stats.in_flight_max,
            write_us_p50: stats.write_ns.value_at_quantile(0.5) / 1000,
            write_us_p99: stats.write_ns.value_at_quantile(0.99) / 1000,
            write_ns_sum: (stats.write_ns.mean() * stats.write_ns.len() as f64) as u64,
            segments_ready: stats.spare_segments,
            first: stats.first_lsn,
            files_bytes: stats.files_bytes,
            used_bytes: stats.used_bytes,
            recycled: stats.segments_recycled + stats.segments_removed,
            blocked: stats.blocked.clone(),
            ..Self::default()
        }
    }
}

impl OrderView {
    /// What the replica does.
    pub fn mode(&self) -> Mode {
        self.status.map_or(Mode::Changing, |s| s.mode)
    }
}

/// How long places took from this replica's first word on them, a proposal or a vote, to their decision.
#[derive(Default)]
pub struct VoteTimes {
    ns: AtomicU64,
    places: AtomicU64,
}

impl VoteTimes {
    /// One more. Only the order stage calls this.
    pub fn record(&self, time: Duration) {
        self.ns.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        self.places.fetch_add(1, Ordering::Relaxed);
    }

    /// Σ, nanoseconds, and how many.
    pub fn totals(&self) -> (u64, u64) {
        (self.ns.load(Ordering::Relaxed), self.places.load(Ordering::Relaxed))
    }
}

/// All of it.
#[derive(Default)]
pub struct Shared {
    /// Where clients are.
    pub clients: RwLock<Clients>,
    /// The view of the last step.
    pub view: AtomicU64,
    /// Whether this replica leads: only the leader answers in crash mode.
    pub leads: AtomicBool,
    /// A restarted replica without durable votes, until a mark covers what it may have forgotten.
    pub forgetful: AtomicBool,
    /// The log of decisions and the rounds over it, where there is one; published by `execute`.
    pub decisions: Mutex<Option<(LogView, RoundStats)>>,
    /// A checkpoint is being written.
    pub checkpointing: AtomicBool,
    /// How many times the period checkpoints are apart; 0 as 1.
    pub checkpoint_stretch: AtomicU64,
    /// The log fills up: a checkpoint is due, turn or no turn.
    pub checkpoint_wanted: AtomicBool,
    /// Those on disk, and the last one's figures.
    pub checkpoints: Mutex<CheckpointView>,
    /// State transfer.
    pub transfer: Mutex<TransferView>,
    /// A state that was received and may be taken over.
    pub received: Mutex<Option<Arc<Received>>>,
    /// The replica is to stop: nobody waits for a disk any more.
    pub stopping: AtomicBool,
    /// Published every heartbeat.
    pub order: Mutex<OrderView>,
    /// That this replica stays behind, in words.
    pub behind: Mutex<Option<String>>,
    /// Why what is executed here is worth nothing, until others' state is taken over.
    lacks_state: Mutex<Option<String>>,
    /// Whether there is such a reason: looked at for every read and reply.
    is_without_state: AtomicBool,
    /// There has been none since the start.
    pub hollow: AtomicBool,
    /// Requests executed since the start.
    pub requests_executed: AtomicU64,
    /// Batches executed since the start.
    pub batches_executed: AtomicU64,
    /// Jobs waiting at the execute stage.
    pub execute_queue: AtomicU64,
    /// A digest of the state is being computed or about to be.
    pub digest_pending: AtomicBool,
    /// Executed by the execute stage.
    pub executed: AtomicU64,
    /// Why messages had no effect, by sender and reason.
    discards: Mutex<BTreeMap<String, BTreeMap<String, u64>>>,
    /// How far the start is with what is on disk.
    pub recovery: Arc<RecoveryProgress>,
    /// Where time goes.
    pub metrics: Metrics,
    /// How long agreement takes, on every replica.
    pub votes: VoteTimes,
    /// The last thing that went wrong, one line.
    pub last_error: Mutex<Option<String>>,
    /// Why the execute thread ended before it was told to, if it did.
    pub service_failed: Mutex<Option<String>>,
}

impl Shared {
    /// Of a start whose progress is told there.
    pub fn new(recovery: Arc<RecoveryProgress>) -> Self {
        Self { recovery, ..Self::default() }
    }

    /// What the log that clients wait for has written.
    pub fn log_writes(&self) -> LogWrites {
        let of = |log: &LogView| LogWrites { count: log.writes, sum_ns: log.write_ns_sum };
        let of_decisions = self.decisions.lock().as_ref().map(|(log, _)| of(log));
        of_decisions.unwrap_or_else(|| of(&self.order.lock().log))
    }

    /// Whether all logs take new records, as published.
    pub fn has_log_room(&self) -> bool {
        let of_decisions = self.decisions.lock().as_ref().is_none_or(|(log, _)| log.has_room);
        of_decisions && self.order.lock().log.has_room
    }

    /// The last place decided, as published.
    pub fn decided(&self) -> Seq {
        self.order.lock().status.map_or(Seq(0), |status| status.decided)
    }

    /// Counts a message without effect.
    pub fn discard(&self, from: impl ToString, reason: impl ToString) {
        let mut all = self.discards.lock();
        let reasons = all.entry(from.to_string()).or_default();
        let reason = reason.to_string();
        if reasons.len() < REASONS_MAX || reasons.contains_key(&reason) {
            *reasons.entry(reason).or_default() += 1;
        }
    }

    /// All counts.
    pub fn discards(&self) -> Vec<(String, String, u64)> {
        let all = self.discards.lock();
        all.iter().flat_map(|(from, by)| by.iter().map(|(r, n)| (from.clone(), r.clone(), *n))).collect()
    }

    /// What an operator must see to, as it is now; each goes away by itself once that is done.
    pub fn alarms(&self) -> Vec<String> {
        let order = self.order.lock();
        let decisions = self.decisions.lock();
        let logs = [
            ("log", order.status.is_some().then_some(&order.log)),
            ("log of decisions", decisions.as_ref().map(|(log, _)| log)),
        ];
        let mut alarms = Vec::new();
        for (name, log) in logs.into_iter().filter_map(|(name, log)| Some((name, log?))) {
            alarms.extend(log.blocked.as_ref().map(|why| format!("{name}: {why}")));
            if !log.has_room {
                alarms.push(format!("{name}: it is full, and takes no new work"));
            }
        }
        let lost = order.vote_lost.map(|seq| {
            format!("log: the record of the vote at place {seq} is damaged, and no other replica has shown its certificate so far")
        });
        alarms.extend(lost);
        alarms.extend(self.behind.lock().clone());
        let lacks = self.lacks_state.lock().clone();
        alarms.extend(lacks.map(|why| format!("state: {why}: that of the others is being taken over")));
        let failed = &self.checkpoints.lock().failed;
        alarms.extend(failed.as_ref().map(|why| format!("checkpoint: {why}")));
        alarms
    }

    /// Whether the executed state is worth nothing.
    pub fn lacks_state(&self) -> bool {
        self.is_without_state.load(Ordering::Acquire)
    }

    /// It is worth nothing, for this reason; or it is the others' again.
    pub fn set_lacks_state(&self, why: Option<String>) {
        let mut reason = self.lacks_state.lock();
        self.is_without_state.store(why.is_some(), Ordering::Release);
        *reason = why;
    }

    /// Takes down what went wrong, and says it in the log.
    pub fn error(&self, text: String) {
        ::log::error!("{text}");
        *self.last_error.lock() = Some(text);
    }
}
