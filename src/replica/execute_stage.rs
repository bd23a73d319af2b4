//! The execute thread: decided batches → service → replies; reads; what was executed back to `order`.

use super::checkpoint_stage::Checkpoints;
use super::decisions::{Decided, Recent};
use super::metrics::Stage;
use super::receive::frame;
use super::reply_packer::Packer;
use super::shared::{LogView, Shared};
use super::stages::*;
use super::state_digest::StateDigest;
use super::status::StatusWriter;
use super::transfer_stage::{Tell, ToTransfer};
use crate::checkpoint::frozen::Frozen;
use crate::durable::{Delivery, DurableLayer, Host, LayerError, Mode};
use crate::execute::executor::{Executed, Executor, Outgoing};
use crate::log::Durable;
use crate::net::{ConnectionId, NetHandle, To};
use crate::order::Input;
use crate::quorum::Group as Members;
use crate::reply::routing::{cut, result_digest};
use crate::sync::channel::{Offers, Receiver, RecvTimeoutError, Sender};
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::{Hasher, RequestKind};
use crate::wire::messages::*;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A replica orders its first no-op again after this long.
const NOOP_AGAIN: Duration = Duration::from_millis(500);
/// A replica that forgot votes orders no-ops at this pace while nothing else is ordered, so that a mark covers them soon.
const FORGETFUL_PAUSE: Duration = Duration::from_millis(5);

/// Places by which such a replica may be behind the others.
const FILLER_LAG: u64 = 64;

/// How often the log is looked at for what became durable after its replies left.
const BEHIND_PAUSE: Duration = Duration::from_millis(1);

/// The counters of the log of decisions are published this often.
const PUBLISH: Duration = Duration::from_millis(20);

/// A log of decisions is looked at as often even while nothing is decided.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of repeated replies to one connection in one round; the client asks again for the rest.
const RESEND_BUDGET: usize = 4 << 20;

/// The thread's state.
pub struct ExecuteStage {
    pub(super) executor: Executor,
    pub(super) members: Members,
    pub(super) me: ReplicaId,
    pub(super) hasher: Hasher,
    pub(super) inbox: Receiver<ToExecute>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) net: NetHandle,
    pub(super) shared: Arc<Shared>,
    pub(super) status: Arc<StatusWriter>,
    /// Byzantine: reads are answered once a fresh no-op of our own has executed (RULES 9).
    pub(super) nonce: u64,
    pub(super) reads_ok: bool,
    pub(super) waiting: BTreeMap<u64, (ConnectionId, Read, Credit)>,
    /// Which request of a group is answered again first.
    pub(super) resend_turn: u64,
    pub(super) digest: StateDigest,
    /// When states are frozen, if they are.
    pub(super) checkpoints: Option<Checkpoints>,
    /// A state before the executed one, for a log that is full and has not two checkpoints.
    pub(super) spare: Option<Frozen>,
    /// Where states are hashed at the places where all are, if they are.
    pub(super) to_roots: Option<Offers<Frozen>>,
    /// Where states are transferred, if they are.
    pub(super) to_transfer: Option<Sender<ToTransfer>>,
    /// The paper's modes: logs what is executed.
    pub(super) layer: Option<DurableLayer>,
    /// Mode `none`: what peers that are behind may still ask for.
    pub(super) recent: Option<Arc<Mutex<Recent>>>,
    /// Every replica answers, also in crash mode: only `vote` lets the leader's reply suffice (RULES 14).
    pub(super) all_answer: bool,
    /// Executed, and not yet said to `order`: their log write is under way.
    pub(super) unlogged: VecDeque<Input>,
    /// The log of decisions failed: nothing is executed any more.
    pub(super) ended: bool,
    pub(super) published: Instant,
    /// What replies pass through.
    #[cfg(feature = "adversary")]
    pub(super) liar: Option<Mutex<super::liar::Liar>>,
}

impl ExecuteStage {
    /// Runs until told to stop.
    pub fn run(mut self) {
        let spare = self.spare.take();
        if self.shared.checkpoint_wanted.load(Ordering::Relaxed) {
            if let (Some(checkpoints), Some(spare)) = (&self.checkpoints, spare) {
                checkpoints.take(|| spare, &self.shared);
                self.shared.checkpoint_wanted.store(true, Ordering::Relaxed);
            }
            // What was executed at the start lies below the mark: this one can count even if the log takes nothing more.
            self.take_checkpoint();
        }
        let mut again = Instant::now();
        let mut filler = self.nonce;
        let mut next = None;
        loop {
            if !self.reads_ok && Instant::now() >= again {
                again = Instant::now() + NOOP_AGAIN;
                let _ = self.to_order.send(ToOrder::One(Input::OrderNoop(self.nonce)));
            }
            let job = match next.take() {
                Some(job) => Ok(job),
                None => self.receive(again),
            };
            match job {
                Ok(ToExecute::Batches(mut batches)) => {
                    if self.layer.is_some() {
                        next = self.gather(&mut batches);
                    }
                    self.execute(batches);
                }
                Ok(ToExecute::Resend(groups)) => self.resend(groups),
                Ok(ToExecute::Read { connection, token: None, read, credit: _credit }) => {
                    self.shared.execute_queue.fetch_sub(1, Ordering::Relaxed);
                    let ok = self.reads_ok && !self.ended;
                    self.answer(connection, read, ok);
                }
                Ok(ToExecute::Read { connection, token: Some(token), read, credit }) => {
                    self.waiting.insert(token, (connection, read, credit));
                }
                Ok(ToExecute::ReadReady(tokens)) => self.answer_waiting(&tokens, true),
                Ok(ToExecute::Freeze) => {
                    if let Some(to_transfer) = &self.to_transfer {
                        let _ = to_transfer.send(Tell::Own(Box::new(self.executor.freeze())).into());
                    }
                }
                Ok(ToExecute::Install(mark)) => self.install(mark),
                Ok(ToExecute::Recycle(upto)) => {
                    if let Some(layer) = &self.layer {
                        layer.recycle(upto);
                    }
                }
                Ok(ToExecute::ReadRefused(tokens)) => self.answer_waiting(&tokens, false),
                Ok(ToExecute::Digest { connection, id }) => {
                    self.shared.digest_pending.store(false, Ordering::Release);
                    let executor = &self.executor;
                    let digest = self.digest.at(Instant::now(), executor.executed(), || executor.digest());
                    let json = self.status.json(&self.shared, Some(&self.net.stats()), Some(digest));
                    let answer = Message::StatusAnswer(StatusAnswer { id, json });
                    self.net.send(To::Connection(connection), frame(&answer));
                }
                Err(RecvTimeoutError::Timeout) if self.is_filler_due() => {
                    filler = filler.wrapping_add(1);
                    let _ = self.to_order.send(ToOrder::One(Input::OrderNoop(filler)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(ToExecute::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if let Some(mut layer) = self.layer.take() {
                let polled = layer.poll(&mut self);
                self.publish(&layer);
                self.layer = Some(layer);
                self.check(polled.map_err(|e| e.to_string()));
            }
        }
        if let Some(layer) = self.layer.take() {
            layer.stop_within(STOP_TIME);
        }
    }

    fn receive(&self, again: Instant) -> Result<ToExecute, RecvTimeoutError> {
        let forgetful = self.shared.forgetful.load(Ordering::Relaxed);
        let behind = self.layer.as_ref().is_some_and(DurableLayer::is_behind);
        let waits = [
            (!self.reads_ok).then(|| again.saturating_duration_since(Instant::now())),
            forgetful.then_some(FORGETFUL_PAUSE),
            behind.then_some(BEHIND_PAUSE),
            // A log that is full gives nothing to do, and must be seen to be full.
            self.layer.is_some().then_some(LOOK_PAUSE),
        ];
        match waits.into_iter().flatten().min() {
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => self.inbox.recv_timeout(wait),
        }
    }

    /// Everything that was decided meanwhile goes into one round; gives back the job behind it.
    fn gather(&self, batches: &mut Vec<Decided>) -> Option<ToExecute> {
        loop {
            match self.inbox.try_recv() {
                Ok(ToExecute::Batches(more)) => batches.extend(more),
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
    }

    /// Whether no-ops bring the mark that this replica waits for. While it is behind they would keep the group ahead of it.
    fn is_filler_due(&self) -> bool {
        let executed = self.executor.executed().0;
        let ahead = |peers: &[(ReplicaId, Option<Status>)]| {
            peers.iter().filter(|(_, s)| s.is_some_and(|s| s.decided.0 > executed + FILLER_LAG)).count()
        };
        self.shared.forgetful.load(Ordering::Relaxed)
            && ahead(&self.shared.order.lock().peers) <= self.members.f() as usize
    }

    fn take_checkpoint(&self) {
        // Of a wrong state there is none.
        if let Some(checkpoints) = &self.checkpoints
            && !self.shared.lacks_state()
        {
            checkpoints.take(|| self.executor.freeze(), &self.shared);
        }
    }

    /// Freezes the state whose root all replicas take here.
    fn take_root(&self) {
        if let Some(to_roots) = &self.to_roots {
            // One that is still being hashed: this place is left out here.
            if to_roots.offer(self.executor.freeze()).is_err() {
                self.shared.transfer.lock().skipped += 1;
            }
        }
    }

    /// Takes over the state that was received. A checkpoint of it is written at once: `order` goes on when that is durable.
    fn install(&mut self, mark: StateCertificate) {
        let MarkStatement { seq, replies, .. } = mark.statement;
        let received = self.shared.received.lock().clone();
        let Some(received) = received.filter(|r| r.target.mark == mark) else {
            let _ = self.to_order.send(ToOrder::One(Input::InstallFailed));
            return;
        };
        let limits = self.executor.table_limits();
        let position = (seq, received.target.manifest.time, replies);
        let taken = self.executor.take_over(position, |service| received.restore(service, limits));
        drop(received);
        if let Err(why) = taken {
            self.shared
                .error(format!("the state of place {seq} that was received cannot be taken over: {why}"));
            let _ = self.to_order.send(ToOrder::One(Input::InstallFailed));
            return;
        }
        self.shared.executed.store(seq.0, Ordering::Relaxed);
        self.unlogged.clear();
        // The no-op of this start may have executed in what was passed over, and is not ordered twice.
        self.nonce = self.nonce.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let progress = self.executor.progress().collect();
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.install(self.executor.freeze(), mark, progress);
        }
        self.take_root();
    }

    /// Byzantine, and wherever votes are not durable: every replica answers. Else the leader alone, or a read at it could
    /// miss what a follower answered.
    fn answers(&self) -> bool {
        self.all_answer || self.shared.leads.load(Ordering::Acquire)
    }

    fn execute(&mut self, batches: Vec<Decided>) {
        let count = batches.len() as u64;
        let began = Instant::now();
        for batch in &batches {
            self.shared.metrics.record(Stage::Wait, began - batch.at, self.inbox.len());
        }
        if !self.ended {
            match self.layer.take() {
                Some(mut layer) => {
                    let delivered = self.deliver(&mut layer, batches);
                    self.layer = Some(layer);
                    self.check(delivered.map_err(|e| e.to_string()));
                }
                None => {
                    let mut packer = Packer::new(usize::MAX);
                    for batch in batches {
                        if let Some(recent) = &self.recent {
                            recent.lock().add(&batch.batch);
                        }
                        let done = Host::execute(self, batch);
                        self.released(done, &mut packer);
                    }
                    self.send(packer.finish());
                    self.logged(self.executor.executed());
                }
            }
        }
        self.shared.metrics.record(Stage::Execute, began.elapsed(), count as usize);
        self.shared.execute_queue.fetch_sub(count, Ordering::Relaxed);
    }

    fn deliver(&mut self, layer: &mut DurableLayer, batches: Vec<Decided>) -> Result<(), LayerError> {
        if layer.mode() != Mode::Naive {
            return layer.deliver(batches, self);
        }
        // Each takes long: whoever stops the replica does not wait for all of them.
        for batch in batches {
            if self.shared.stopping.load(Ordering::Relaxed) {
                break;
            }
            layer.deliver(vec![batch], self)?;
        }
        Ok(())
    }

    /// A log that fails ends this thread's work, as it ends the replica's voting.
    fn check(&mut self, outcome: Result<(), String>) {
        if let Err(why) = outcome
            && !std::mem::replace(&mut self.ended, true)
        {
            let _ = self.to_order.send(ToOrder::One(Input::LogFailed(why)));
        }
    }

    /// Replies of one batch may leave.
    fn released(&mut self, done: Executed, packer: &mut Packer) {
        if done.noops.contains(&(self.me, self.nonce)) {
            self.reads_ok = true;
        }
        if self.answers() {
            self.reply(done.replies, true, packer);
        }
        let input = Input::Executed { seq: done.seq, replies: done.reply_chain, progress: done.progress };
        self.unlogged.push_back(input);
    }

    fn release_all(&mut self, all: Vec<Executed>) {
        let mut packer = Packer::new(usize::MAX);
        all.into_iter().for_each(|done| self.released(done, &mut packer));
        self.send(packer.finish());
    }

    fn publish(&mut self, layer: &DurableLayer) {
        if self.published.elapsed() >= PUBLISH {
            self.published = Instant::now();
            let log = LogView { has_room: layer.has_room(), ..LogView::of(&layer.log_stats()) };
            *self.shared.decisions.lock() = Some((log, layer.stats()));
        }
    }

    /// Packs replies by connection, in order; what fills a round of frames leaves at once.
    fn reply(&self, replies: Vec<Outgoing>, first_time: bool, packer: &mut Packer) {
        let clients = self.shared.clients.read();
        let mut last: Option<((ClientId, u64), &[ConnectionId])> = None;
        for out in replies {
            let key = (out.client, out.process);
            let targets = match last {
                Some((k, targets)) if k == key => targets,
                _ => clients.of(out.client, out.process),
            };
            last = Some((key, targets));
            if targets.is_empty() {
                continue;
            }
            let reply =
                if first_time { cut(self.members, self.me, &out.reply, out.digest) } else { out.reply };
            for connection in targets {
                if let Some(full) = packer.add(*connection, &reply) {
                    self.send(vec![(*connection, full)]);
                }
            }
        }
    }

    fn send(&self, packed: Vec<(ConnectionId, Vec<Reply>)>) {
        // Of a wrong state nobody is told.
        if packed.is_empty() || self.shared.lacks_state() {
            return;
        }
        let (began, count) = (Instant::now(), packed.iter().map(|(_, replies)| replies.len()).sum());
        let view = View(self.shared.view.load(Ordering::Relaxed));
        let executed = self.executor.executed();
        #[cfg(feature = "adversary")]
        let packed = self.twisted(packed);
        let frames = packed.into_iter().map(|(connection, replies)| {
            let message = Message::Replies(Replies { view, executed, replies });
            (To::Connection(connection), frame(&message))
        });
        self.net.send_batch(frames.collect());
        self.shared.metrics.record(Stage::Reply, began.elapsed(), count);
    }

    #[cfg(feature = "adversary")]
    fn twisted(&self, mut packed: Vec<(ConnectionId, Vec<Reply>)>) -> Vec<(ConnectionId, Vec<Reply>)> {
        if let Some(liar) = &self.liar {
            packed.iter_mut().for_each(|(_, replies)| liar.lock().replies(replies));
        }
        packed
    }

    fn resend(&mut self, groups: Vec<(AuthenticGroup, Credit)>) {
        if !self.answers() {
            return;
        }
        let mut packer = Packer::new(RESEND_BUDGET);
        for (group, credit) in groups {
            let group = group.group();
            // Not always from the first: what the budget leaves out has its turn when the client asks again.
            self.resend_turn = self.resend_turn.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let from = (self.resend_turn % group.len() as u64) as usize;
            let all = || group.requests();
            for r in all().skip(from).chain(all().take(from)).filter(|r| r.kind != RequestKind::Noop) {
                if let Some(out) = self.executor.resend_executed(group.client, r.session, r.number) {
                    self.reply(vec![out], false, &mut packer);
                }
            }
            drop(credit);
        }
        self.send(packer.finish());
    }

    fn answer_waiting(&mut self, tokens: &[u64], ready: bool) {
        for token in tokens {
            if let Some((connection, read, _credit)) = self.waiting.remove(token) {
                self.shared.execute_queue.fetch_sub(1, Ordering::Relaxed);
                // What was executed last may not be on disk, and never come to be.
                self.answer(connection, read, ready && !self.ended);
            }
        }
    }

    fn answer(&mut self, connection: ConnectionId, read: Read, ready: bool) {
        let view = View(self.shared.view.load(Ordering::Relaxed));
        let executed = self.executor.executed();
        let mut reply = ReadReply {
            id: read.id,
            view,
            status: ReadStatus::OrderedOnly,
            executed,
            version: Seq(0),
            digest: Digest::ZERO,
            result: None,
        };
        if ready && !self.shared.lacks_state() {
            let answer = self.executor.query(&read.operation);
            reply.status = ReadStatus::Done;
            reply.version = answer.version.unwrap_or_default();
            reply.digest = result_digest(&self.hasher, &answer.result);
            if !self.members.byzantine() || read.full_from == self.me {
                reply.result = Some(answer.result);
            }
        }
        #[cfg(feature = "adversary")]
        if let Some(liar) = &self.liar {
            liar.lock().reads(&mut reply);
        }
        self.net.send(To::Connection(connection), frame(&Message::ReadReply(reply)));
    }
}

impl Host for ExecuteStage {
    type Batch = Decided;
    type Replies = Executed;

    fn delivery(&self, decided: &Decided) -> Delivery {
        decided.delivery()
    }

    fn execute(&mut self, decided: Decided) -> Executed {
        let done = self.executor.execute(&decided.batch);
        let requests = decided.batch.requests() as u64;
        self.shared.requests_executed.fetch_add(requests, Ordering::Relaxed);
        self.shared.batches_executed.fetch_add(1, Ordering::Relaxed);
        self.shared.executed.store(done.seq.0, Ordering::Relaxed);
        if self.checkpoints.as_ref().is_some_and(|c| c.takes(done.seq, &self.shared)) {
            self.take_checkpoint();
        }
        if self.checkpoints.as_ref().is_some_and(|c| c.roots(done.seq)) {
            self.take_root();
        }
        done
    }

    fn release(&mut self, replies: Durable<Vec<Executed>>) {
        self.release_all(replies.into_inner());
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    fn release_early(&mut self, replies: Vec<Executed>) {
        self.release_all(replies);
    }

    /// `order` hears of an execution once it is on disk: so a mark never covers what this replica could lose.
    fn logged(&mut self, upto: Seq) {
        let covered = |input: &Input| matches!(input, Input::Executed { seq, .. } if *seq <= upto);
        let n = self.unlogged.iter().take_while(|input| covered(input)).count();
        if n > 0 {
            let inputs = self.unlogged.drain(..n).map(|input| (input, None)).collect();
            let _ = self.to_order.send(ToOrder::Inputs(inputs));
        }
    }
}
