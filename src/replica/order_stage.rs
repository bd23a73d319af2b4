//! The order thread: channel → [`Orderer::step`] → outputs routed to log, net and execute.

use super::appends::{Appends, Sink};
use super::back_pressure::BackPressure;
use super::checkpoint_stage::ToCheckpoint;
use super::decisions::Decided;
use super::lag::Lag;
use super::metrics::Stage;
use super::pressure::Pressure;
use super::receive::frame;
use super::shared::{LogView, OrderView, Shared};
use super::stages::*;
use super::transfer_stage::{Tell, ToTransfer};
use crate::config::Durability;
use crate::durable::DeliveryReader;
use crate::log::{AppendError, BLOCK_BYTES, Log, LogStats, Record};
use crate::net::{ConnectionId, Frame, NetHandle, To};
use crate::order::record::OrderRecord;
use crate::order::{Input, Now, Orderer, Output};
use crate::sync::channel::{Offers, Receiver, RecvTimeoutError, Sender};
use crate::types::*;
use crate::wire::messages::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Inputs stepped before outputs are handed over: bounds how long a vote waits for its fellows.
const STEPS_MAX: usize = 256;

/// A record takes no more of the disk than its payload in whole ones, and one more.
const BLOCK: u64 = BLOCK_BYTES as u64;

/// How often a nearly full log looks for what may go.
const RELIEVE_NS: u64 = 500_000_000;

/// Reads both clocks.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Ticks count from now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Both times.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { tick: Tick(self.0.elapsed().as_nanos() as u64 + 1), wall: WallTime(wall.as_nanos() as u64) }
    }
}

/// The thread's state.
pub struct OrderStage {
    pub(super) core: Orderer,
    pub(super) clock: Clock,
    pub(super) inbox: Receiver<ToOrder>,
    pub(super) log: Log,
    pub(super) net: NetHandle,
    pub(super) to_execute: Sender<ToExecute>,
    pub(super) to_fetch: Offers<Serve>,
    pub(super) shared: Arc<Shared>,
    pub(super) clients: Arc<BackPressure>,
    pub(super) outputs: Vec<Output>,
    pub(super) frames: Vec<(To, Frame)>,
    pub(super) published: Tick,
    pub(super) appends: Appends,
    /// When this leader proposed what is not decided yet.
    pub(super) proposed: BTreeMap<Seq, Instant>,
    /// When this replica first voted for, or proposed, what is not decided yet.
    pub(super) voted: BTreeMap<Seq, Instant>,
    /// What this replica's messages pass through.
    #[cfg(feature = "adversary")]
    pub(super) liar: Option<super::liar::Liar>,
    /// Where frozen states are written, if they are.
    pub(super) to_checkpoint: Option<Sender<ToCheckpoint>>,
    /// Where states are transferred, if they are.
    pub(super) to_transfer: Option<Sender<ToTransfer>>,
    /// Bytes of the log that stay for others.
    pub(super) log_keep_bytes: u64,
    /// Where decided batches lie in a log of their own.
    pub(super) decisions: Option<DeliveryReader>,
    /// What the older of two checkpoints covers, and when the log was last told.
    pub(super) stored: Option<(Seq, Tick)>,
    /// When a log that fills up asks for checkpoints.
    pub(super) pressure: Pressure,
    /// Bytes of all records appended since the start, without what the log pads.
    pub(super) appended: u64,
    /// Bytes appended, padded as much as can be, since the log was last looked at.
    pub(super) unlooked: u64,
    /// Whether it stays behind, of which up to so many of the others may lie.
    pub(super) lag: Lag,
    pub(super) faults: u32,
    pub(super) durability: Durability,
    /// What each client's groups take up that wait to be answered again.
    pub(super) resends: HashMap<ClientId, Arc<AtomicUsize>>,
}

impl Sink for Log {
    fn take(&mut self, record: Record, control: bool) -> Result<Lsn, AppendError> {
        if control { self.append_control(record) } else { self.append(record) }
    }
}

impl OrderStage {
    /// Runs until told to stop.
    pub fn run(mut self) {
        loop {
            let now = self.clock.now();
            let wait = Duration::from_nanos(self.core.next_deadline().since(now.tick));
            let first = match self.inbox.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let began = Instant::now();
            let mut steps = 0;
            let mut next = first;
            while let Some(message) = next {
                match message {
                    ToOrder::Inputs(inputs) => {
                        steps += inputs.len();
                        let now = self.clock.now();
                        for (input, credit) in inputs {
                            self.step(now, input);
                            drop(credit);
                        }
                    }
                    ToOrder::One(input) => {
                        steps += 1;
                        self.step(self.clock.now(), input);
                    }
                    ToOrder::CheckpointStored(seq) => {
                        steps += 1;
                        self.checkpoint_stored(seq);
                    }
                    ToOrder::Stop => {
                        self.apply();
                        self.publish();
                        self.log.stop_within(STOP_TIME);
                        return;
                    }
                }
                next = if steps < STEPS_MAX { self.inbox.try_recv().ok() } else { None };
            }
            let now = self.clock.now();
            if now.tick >= self.core.next_deadline() {
                self.step(now, Input::Tick);
            }
            self.apply();
            if steps > 0 {
                self.shared.metrics.record(Stage::Order, began.elapsed(), steps);
            }
            if now.tick.since(self.published) > 20_000_000 {
                self.published = now.tick;
                self.publish();
            }
            // What a look at the log led to.
            self.apply();
            self.clients.relieve(|pause| self.net.pause_clients(pause));
        }
        self.log.stop_within(STOP_TIME);
    }

    fn step(&mut self, now: Now, input: Input) {
        let from = match &input {
            Input::Message(m) => Some(m.sender()),
            _ => None,
        };
        #[cfg(feature = "adversary")]
        if let (Some(liar), Input::Message(m)) = (&mut self.liar, &input) {
            liar.hears(m);
        }
        if let Err(discard) = self.core.step(now, input, &mut self.outputs)
            && let Some(from) = from
        {
            self.shared.discard(crate::net::Peer::Replica(from), discard);
        }
    }

    /// Two checkpoints are on disk: what leads up to the older one may go, beyond what is kept for others.
    fn checkpoint_stored(&mut self, seq: Seq) {
        self.stored = Some((seq, self.clock.now().tick));
        let used = self.used_bytes(self.log.stats().used_bytes);
        let pressed = Pressure::is_high(self.log.bytes_max(), used);
        let bytes = self.log_keep_bytes.min(self.log.bytes_max() / 2);
        let (seq, keep) = match (&self.decisions, pressed) {
            (_, true) => (seq, Lsn(u64::MAX)),
            (None, false) => (seq, self.log.keep_from(bytes)),
            // What peers may ask for lies there; the log of votes is small.
            (Some(decisions), false) => (seq.min(decisions.place_before(bytes)), Lsn(u64::MAX)),
        };
        self.step(self.clock.now(), Input::CheckpointStored { seq, keep, pressed });
    }

    /// Of the log that holds the batches: both have the same bound.
    fn used_bytes(&self, of_votes: u64) -> u64 {
        self.shared.decisions.lock().as_ref().map_or(of_votes, |(log, _)| log.used_bytes.max(of_votes))
    }

    /// A log that fills up faster than checkpoints come asks for one; one that is nearly full lets go of what it kept for others.
    fn relieve(&mut self, of_votes: &LogStats) {
        self.unlooked = 0;
        let (most, queued) = (self.log.bytes_max(), self.log.queued_bytes() as u64);
        let used = self.used_bytes(of_votes.used_bytes + queued);
        let of_decisions = self.shared.decisions.lock().as_ref().map_or(0, |(log, _)| log.bytes);
        // Of what is on its way to the disk, only the one knows; of padding and decisions, only the other.
        let appended = [self.appended, of_votes.bytes + queued + of_decisions];
        if self.pressure.asks(most, used, appended, self.stored.is_some()) {
            self.shared.checkpoint_wanted.store(true, Ordering::Relaxed);
        }
        if let Some((seq, at)) = self.stored
            && Pressure::is_high(most, used)
            && self.clock.now().tick.since(at) > RELIEVE_NS
        {
            self.checkpoint_stored(seq);
        }
    }

    /// Outputs take effect in order; frames leave together at the end, behind every append of this round.
    fn apply(&mut self) {
        if self.outputs.is_empty() {
            return;
        }
        // Before any batch of this round reaches `execute`: in crash mode only a leader answers.
        self.shared.leads.store(self.core.leads(), Ordering::Release);
        self.shared.view.store(self.core.view().0, Ordering::Relaxed);
        self.shared.forgetful.store(self.core.is_forgetful(), Ordering::Relaxed);
        let (mut batches, mut proof) = (Vec::new(), None);
        let mut resend = Vec::new();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Send(to, message) => self.queue(To::Replica(to), message),
                Output::Broadcast(message) => {
                    if let Message::Propose(propose) = &message {
                        self.proposed.insert(propose.seq, Instant::now());
                    }
                    if let Message::Propose(Propose { seq, .. })
                    | Message::Write(Vote { seq, .. })
                    | Message::Accept(Vote { seq, .. }) = &message
                    {
                        self.voted.entry(*seq).or_insert_with(Instant::now);
                    }
                    self.queue(To::AllReplicas, message);
                }
                Output::Append(lsn, record) => self.append(lsn, record),
                Output::Decision(certificate) => proof = Some(certificate),
                Output::Execute(batch) => {
                    let at = Instant::now();
                    if let Some(proposed) = self.proposed.remove(&batch.seq) {
                        let in_flight = self.proposed.len() + 1;
                        self.shared.metrics.record(Stage::Decide, at - proposed, in_flight);
                    }
                    if let Some(voted) = self.voted.remove(&batch.seq) {
                        self.shared.votes.record(at - voted);
                    }
                    // What came whole from others was never voted for, or again after its decision.
                    while self.voted.first_key_value().is_some_and(|(seq, _)| *seq < batch.seq) {
                        self.voted.pop_first();
                    }
                    batches.push(Decided { batch, certificate: proof.take(), at });
                }
                Output::Resend(group) => {
                    let used = self.resends.entry(group.group().client).or_default();
                    if let Some(credit) = Credit::take(used, group.group().bytes().len(), RESEND_BYTES_MAX) {
                        resend.push((group, credit));
                    }
                }
                Output::Notice { origin, code, group } => {
                    let notice = Notice { code, view: self.core.view(), group, text: String::new() };
                    let to = To::Connection(ConnectionId::of_number(origin));
                    self.frames.push((to, frame(&Message::Notice(notice))));
                }
                Output::ServeBatch { to, seq, lsn } => {
                    let _ = self.to_fetch.offer(Serve { to, seq, lsn });
                }
                Output::Covered { seq, batches } => {
                    if let Some(to_checkpoint) = &self.to_checkpoint {
                        let _ = to_checkpoint.send(ToCheckpoint::Covered { seq, batches });
                    }
                }
                Output::Rooted(mark) => self.tell_transfer(Tell::Certified(mark)),
                Output::Behind => self.tell_transfer(Tell::Behind),
                Output::NotInstalled(seq) => self.tell_transfer(Tell::NotInstalled(seq)),
                Output::Install(mark) => {
                    self.voted.clear();
                    // Behind every batch handed out before it.
                    self.hand_out(&mut batches);
                    let _ = self.to_execute.send(ToExecute::Install(mark));
                }
                Output::Recycle { upto, below } => {
                    self.log.recycle(below);
                    let _ = self.to_execute.send(ToExecute::Recycle(upto));
                }
                Output::ReadReady(tokens) => {
                    // The read must see every batch handed out before it.
                    self.hand_out(&mut batches);
                    let _ = self.to_execute.send(ToExecute::ReadReady(tokens));
                }
                Output::ReadRefused(tokens) => {
                    let _ = self.to_execute.send(ToExecute::ReadRefused(tokens));
                }
                Output::ViewStarted(view) => {
                    // What was proposed before may never be decided.
                    self.proposed.clear();
                    self.voted.clear();
                    let leader = self.core.leader();
                    ::log::info!("view {view} begins, led by replica {leader}");
                }
                Output::Quarantined(why) => {
                    self.shared.set_lacks_state(Some(why.clone()));
                    self.tell_transfer(Tell::Distrust);
                    self.shared.error(why);
                }
                Output::Restored => {
                    self.shared.set_lacks_state(None);
                    self.shared.hollow.store(false, Ordering::Relaxed);
                }
                Output::Halt(why) => self.shared.error(format!("this replica is mute from now on: {why}")),
            }
        }
        self.hand_out(&mut batches);
        if !resend.is_empty() {
            let _ = self.to_execute.send(ToExecute::Resend(resend));
        }
        if !self.frames.is_empty() {
            self.net.send_batch(std::mem::take(&mut self.frames));
        }
    }

    fn tell_transfer(&self, what: Tell) {
        if let Some(to_transfer) = &self.to_transfer {
            let _ = to_transfer.send(what.into());
        }
    }

    /// A message for replicas leaves at the end of this round.
    fn queue(&mut self, to: To, message: Message) {
        #[cfg(feature = "adversary")]
        if let Some(liar) = &mut self.liar {
            let receivers = match to {
                To::Replica(one) => vec![one],
                _ => self.core.peers().map(|(peer, _)| peer).collect(),
            };
            for to in receivers {
                let told = liar.sends(to, message.clone());
                self.frames.extend(told.iter().map(|(to, m)| (To::Replica(*to), frame(m))));
            }
            return;
        }
        self.frames.push((to, frame(&message)));
    }

    fn hand_out(&self, batches: &mut Vec<Decided>) {
        if !batches.is_empty() {
            self.shared.execute_queue.fetch_add(batches.len() as u64, Ordering::Relaxed);
            let _ = self.to_execute.send(ToExecute::Batches(std::mem::take(batches)));
        }
    }

    fn append(&mut self, lsn: Lsn, record: OrderRecord) {
        let bulky = matches!(record, OrderRecord::Prepared { .. } | OrderRecord::Batch { .. });
        let record: Record = record.encode().into();
        let bytes = record.payload_bytes() as u64;
        self.appended += bytes;
        self.unlooked += bytes.next_multiple_of(BLOCK) + BLOCK;
        if let Err(why) = self.appends.append(&mut self.log, &self.shared.stopping, lsn, record, !bulky) {
            let now = self.clock.now();
            self.step(now, Input::LogFailed(why.into()));
        }
        // A small log may be filled faster than it is published.
        if self.unlooked >= Pressure::step(self.log.bytes_max()) {
            self.relieve(&self.log.stats());
        }
    }

    fn publish(&mut self) {
        let stats = self.log.stats();
        self.relieve(&stats);
        self.shared.metrics.take_log(&stats, self.log.queued_bytes());
        let log = LogView {
            has_room: self.log.has_room(),
            queued_bytes: self.log.queued_bytes(),
            durable: self.log.durable(),
            ..LogView::of(&stats)
        };
        let view = OrderView {
            status: Some(self.core.status()),
            leads: self.core.leads(),
            halted: self.core.halted().map(str::to_owned),
            waiting_groups: self.core.waiting().0,
            in_flight_max: self.core.in_flight_max,
            peers: self.core.peers().collect(),
            queue: self.inbox.len(),
            damaged: self.core.damaged(),
            vote_lost: self.core.vote_lost(),
            log,
        };
        let decided = view.peers.iter().filter_map(|(_, status)| status.map(|s| s.decided));
        let executed = Seq(self.shared.executed.load(Ordering::Relaxed));
        let behind = self.lag.look(self.clock.now().tick, executed, decided, self.faults, self.durability);
        *self.shared.behind.lock() = behind;
        *self.shared.order.lock() = view;
    }
}
