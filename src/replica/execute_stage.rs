//! The execute thread: decided batches → service → replies; reads; what was executed back to `order`.

use super::receive::frame;
use super::shared::Shared;
use super::stages::*;
use super::status::StatusWriter;
use crate::execute::executor::{Executor, Outgoing};
use crate::net::{ConnectionId, Frame, NetHandle, To};
use crate::order::Input;
use crate::quorum::Group as Members;
use crate::reply::routing::{cut, result_digest};
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::{Batch, Hasher, RequestKind};
use crate::wire::messages::*;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A replica orders its first no-op again after this long.
const NOOP_AGAIN: Duration = Duration::from_millis(500);
/// Bytes of replies in one frame before the next begins.
const REPLIES_BYTES: usize = 256 << 10;

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
                Ok(ToExecute::Resend(groups)) => self.resend(&groups),
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
                    let digest = Some((self.executor.executed(), self.executor.digest()));
                    let json = self.status.json(&self.shared, Some(&self.net.stats()), digest);
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
        let (mut frames, mut inputs) = (Vec::new(), Vec::with_capacity(batches.len()));
        for batch in batches {
            let done = self.executor.execute(&batch);
            let requests = batch.requests() as u64;
            self.shared.requests_executed.fetch_add(requests, Ordering::Relaxed);
            if done.noops.contains(&(self.me, self.nonce)) {
                self.reads_ok = true;
            }
            if self.answers() {
                self.reply(done.replies, true, &mut frames);
            }
            let input = Input::Executed { seq: done.seq, replies: done.reply_chain, progress: done.progress };
            inputs.push((input, None));
        }
        self.shared.batches_executed.fetch_add(count, Ordering::Relaxed);
        self.shared.executed.store(self.executor.executed().0, Ordering::Relaxed);
        self.shared.execute_queue.fetch_sub(count, Ordering::Relaxed);
        if !frames.is_empty() {
            self.net.send_batch(frames);
        }
        let _ = self.to_order.send(ToOrder::Inputs(inputs));
    }

    /// Packs replies by connection, in order.
    fn reply(&self, replies: Vec<Outgoing>, first_time: bool, frames: &mut Vec<(To, Frame)>) {
        let clients = self.shared.clients.read();
        let mut packed: HashMap<ConnectionId, (Vec<Reply>, usize)> = HashMap::new();
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
                let (list, bytes) = packed.entry(*connection).or_default();
                *bytes += reply.body.len() + 32;
                list.push(reply.clone());
                if *bytes > REPLIES_BYTES {
                    let full = std::mem::take(list);
                    *bytes = 0;
                    frames.push((To::Connection(*connection), self.replies(full)));
                }
            }
        }
        for (connection, (list, _)) in packed {
            if !list.is_empty() {
                frames.push((To::Connection(connection), self.replies(list)));
            }
        }
    }

    fn replies(&self, replies: Vec<Reply>) -> Frame {
        let view = View(self.shared.view.load(Ordering::Relaxed));
        frame(&Message::Replies(Replies { view, executed: self.executor.executed(), replies }))
    }

    fn resend(&mut self, groups: &[AuthenticGroup]) {
        if !self.answers() {
            return;
        }
        let mut frames = Vec::new();
        for group in groups.iter().map(AuthenticGroup::group) {
            let requests = group.requests().filter(|r| r.kind != RequestKind::Noop);
            let replies =
                requests.filter_map(|r| self.executor.resend(group.client, r.session, r.number)).collect();
            self.reply(replies, false, &mut frames);
        }
        if !frames.is_empty() {
            self.net.send_batch(frames);
        }
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
