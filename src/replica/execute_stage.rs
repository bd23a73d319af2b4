//! The execute thread: decided batches → service → replies; reads; what was executed back to `order`.

use super::receive::frame;
use super::reply_packer::Packer;
use super::shared::Shared;
use super::stages::*;
use super::state_digest::StateDigest;
use super::status::StatusWriter;
use crate::execute::executor::{Executor, Outgoing};
use crate::net::{ConnectionId, NetHandle, To};
use crate::order::Input;
use crate::quorum::Group as Members;
use crate::reply::routing::{cut, result_digest};
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::{Batch, Hasher, RequestKind};
use crate::wire::messages::*;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A replica orders its first no-op again after this long.
const NOOP_AGAIN: Duration = Duration::from_millis(500);
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
    pub(super) waiting: BTreeMap<u64, (ConnectionId, Read)>,
    /// Which request of a group is answered again first.
    pub(super) resend_turn: u64,
    pub(super) digest: StateDigest,
}

impl ExecuteStage {
    /// Runs until told to stop.
    pub fn run(mut self) {
        let mut again = Instant::now();
        loop {
            if !self.reads_ok && Instant::now() >= again {
                again = Instant::now() + NOOP_AGAIN;
                let _ = self.to_order.send(ToOrder::One(Input::OrderNoop(self.nonce)));
            }
            let job = if self.reads_ok {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(again.saturating_duration_since(Instant::now()))
            };
            match job {
                Ok(ToExecute::Batches(batches)) => self.execute(batches),
                Ok(ToExecute::Resend(groups)) => self.resend(groups),
                Ok(ToExecute::Read { connection, token: None, read }) => {
                    self.shared.execute_queue.fetch_sub(1, Ordering::Relaxed);
                    let ok = self.reads_ok;
                    self.answer(connection, read, ok);
                }
                Ok(ToExecute::Read { connection, token: Some(token), read }) => {
                    self.waiting.insert(token, (connection, read));
                }
                Ok(ToExecute::ReadReady(tokens)) => self.answer_waiting(&tokens, true),
                Ok(ToExecute::ReadRefused(tokens)) => self.answer_waiting(&tokens, false),
                Ok(ToExecute::Digest { connection, id }) => {
                    self.shared.digest_pending.store(false, Ordering::Release);
                    let executor = &self.executor;
                    let digest = self.digest.at(Instant::now(), executor.executed(), || executor.digest());
                    let json = self.status.json(&self.shared, Some(&self.net.stats()), Some(digest));
                    let answer = Message::StatusAnswer(StatusAnswer { id, json });
                    self.net.send(To::Connection(connection), frame(&answer));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(ToExecute::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Byzantine: every replica answers. Crash: the leader alone, or a read at it could miss what a follower answered.
    fn answers(&self) -> bool {
        self.members.byzantine() || self.shared.leads.load(Ordering::Acquire)
    }

    fn execute(&mut self, batches: Vec<Arc<Batch>>) {
        let count = batches.len() as u64;
        let mut inputs = Vec::with_capacity(batches.len());
        let mut packer = Packer::new(usize::MAX);
        for batch in batches {
            let done = self.executor.execute(&batch);
            let requests = batch.requests() as u64;
            self.shared.requests_executed.fetch_add(requests, Ordering::Relaxed);
            if done.noops.contains(&(self.me, self.nonce)) {
                self.reads_ok = true;
            }
            if self.answers() {
                self.reply(done.replies, true, &mut packer);
            }
            let input = Input::Executed { seq: done.seq, replies: done.reply_chain, progress: done.progress };
            inputs.push((input, None));
        }
        self.shared.batches_executed.fetch_add(count, Ordering::Relaxed);
        self.shared.executed.store(self.executor.executed().0, Ordering::Relaxed);
        self.shared.execute_queue.fetch_sub(count, Ordering::Relaxed);
        self.send(packer.finish());
        let _ = self.to_order.send(ToOrder::Inputs(inputs));
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
        if packed.is_empty() {
            return;
        }
        let view = View(self.shared.view.load(Ordering::Relaxed));
        let executed = self.executor.executed();
        let frames = packed.into_iter().map(|(connection, replies)| {
            let message = Message::Replies(Replies { view, executed, replies });
            (To::Connection(connection), frame(&message))
        });
        self.net.send_batch(frames.collect());
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
            if let Some((connection, read)) = self.waiting.remove(token) {
                self.shared.execute_queue.fetch_sub(1, Ordering::Relaxed);
                self.answer(connection, read, ready);
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
        if ready {
            let answer = self.executor.query(&read.operation);
            reply.status = ReadStatus::Done;
            reply.version = answer.version.unwrap_or_default();
            reply.digest = result_digest(&self.hasher, &answer.result);
            if !self.members.byzantine() || read.full_from == self.me {
                reply.result = Some(answer.result);
            }
        }
        self.net.send(To::Connection(connection), frame(&Message::ReadReply(reply)));
    }
}
