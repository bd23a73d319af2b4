//! net → verify → order: decodes frames on the net thread, checks what costs a signature or a hash on the pool.

use super::back_pressure::BackPressure;
use super::fair_queue::FairQueue;
use super::metrics::Stage;
use super::repeats::Repeats;
use super::rounds::Rounds;
use super::shared::Shared;
use super::stages::*;
use super::standing::{Bucket, Standing};
use super::status::StatusWriter;
use crate::net::{Closed, ConnectionId, Frame, From, NetHandle, Peer, Receiver, Refusal, To};
use crate::order::Input;
use crate::sync::channel::Sender;
use crate::types::*;
use crate::wire::auth::{Authenticator, ClientAuth};
use crate::wire::batch::AuthKind;
use crate::wire::error::{AuthError, Rejected};
use crate::wire::messages::*;
use bytes::Bytes;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Views ahead of ours whose proposals are looked at.
const VIEWS_AHEAD: u64 = 16;
/// Signatures or so checked in one round: of each replica, of each client, of all clients.
const REPLICA_ROUND: usize = 256;
const CLIENT_ROUND: usize = 128;
const CLIENTS_ROUND: usize = 256;
/// Bytes of a message of many groups or votes for each signature it may carry.
const SIGNATURE_BYTES: usize = 128;

/// The top bit of a status query's id asks for the state's digest too.
pub const DIGEST_QUERY: u64 = 1 << 63;

enum Work {
    Replica(ReplicaId, Message, Credit),
    Group(ClientId, ConnectionId, Arc<Standing>, Bytes, Credit),
}

impl Work {
    /// What it costs the pool, in signatures or so; bytes bound how many it carries.
    fn cost(&self) -> usize {
        match self {
            Work::Replica(_, message, _) => match message {
                Message::Propose(m) => 1 + m.batch.len() / SIGNATURE_BYTES,
                Message::Decided(m) => 1 + m.batch.len() / SIGNATURE_BYTES,
                Message::BatchIs(m) => 1 + m.batch.len() / (16 * SIGNATURE_BYTES),
                Message::Sync(m) => 1 + m.stop_data.iter().map(|d| stop_data_cost(d)).sum::<usize>(),
                Message::StopData(d) => stop_data_cost(d),
                _ => 1,
            },
            Work::Group(.., bytes, _) => 1 + bytes.len() / (64 * SIGNATURE_BYTES),
        }
    }
}

fn stop_data_cost(d: &StopData) -> usize {
    1 + d.mark.signatures.len() + d.slots.iter().map(|s| s.certificate.signatures.len()).sum::<usize>()
}

/// The receiver of a replica.
pub struct Receive {
    pub(super) auth: Arc<Authenticator>,
    pub(super) shared: Arc<Shared>,
    pub(super) verify: Arc<Verify>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_execute: Sender<ToExecute>,
    pub(super) net: Arc<OnceLock<NetHandle>>,
    pub(super) status: Arc<StatusWriter>,
    pub(super) peer_bytes: HashMap<ReplicaId, Arc<AtomicUsize>>,
    pub(super) repeats: HashMap<ReplicaId, Repeats>,
    pub(super) standings: HashMap<ConnectionId, (Arc<Standing>, Bucket)>,
    pub(super) clients: Arc<BackPressure>,
    pub(super) read_bytes: HashMap<ClientId, Arc<AtomicUsize>>,
    pub(super) reads: u64,
    /// When the first frame of this poll came, and how many did.
    pub(super) polled: Option<(Instant, usize)>,
    pub(super) cheap: Vec<(Input, Option<Credit>)>,
    pub(super) work: Vec<Unverified>,
}

/// What waits for the pool; opaque to others.
pub(super) struct Unverified(Work);

impl Receive {
    fn rejected(&self, peer: Peer, why: impl ToString) {
        self.shared.discard(peer, why);
    }

    fn on_replica(&mut self, from: ReplicaId, kind: u16, payload: Bytes) {
        let size = payload.len();
        let message = match Message::decode(kind, payload) {
            Ok(message) => message,
            Err(why) => return self.rejected(Peer::Replica(from), why),
        };
        if !self.verify.wanted(from, &message) {
            return self.rejected(Peer::Replica(from), "not from the leader, or of an old or far view");
        }
        let used = self.peer_bytes.entry(from).or_default();
        let Some(credit) = Credit::take(used, size, PEER_BYTES_MAX) else {
            return self.rejected(Peer::Replica(from), "queue full");
        };
        let repeats = self.repeats.entry(from).or_insert_with(|| Repeats::new(Instant::now()));
        let now = self.polled.map_or_else(Instant::now, |(began, _)| began);
        if repeats.again(now, &message) {
            repeats.in_vain(now, size);
            return self.rejected(Peer::Replica(from), "said something of this place before");
        }
        let costly = matches!(
            message,
            Message::Propose(_)
                | Message::StopData(_)
                | Message::Sync(_)
                | Message::Decided(_)
                | Message::BatchIs(_)
                | Message::Chain(_)
                | Message::Group(_)
        ) || self.auth.members.byzantine()
            && matches!(message, Message::Write(_) | Message::Mark(_));
        if costly {
            self.work.push(Unverified(Work::Replica(from, message, credit)));
            return;
        }
        match self.auth.replica(from, message) {
            Ok(message) => self.cheap.push((Input::Message(message), Some(credit))),
            Err(why) => self.rejected(Peer::Replica(from), why),
        }
    }

    fn on_client(&mut self, client: ClientId, connection: ConnectionId, kind: u16, payload: Bytes) {
        let size = payload.len();
        let message = match Message::decode(kind, payload) {
            Ok(message) => message,
            Err(why) => return self.rejected(Peer::Client(client), why),
        };
        match message {
            Message::Group(bytes) => {
                let Some((standing, _)) = self.standings.get(&connection) else { return };
                let standing = standing.clone();
                // Never dropped here: the net thread is told to stop reading clients instead.
                let credit = self.clients.arrived(size, |pause| {
                    if let Some(net) = self.net.get() {
                        net.pause_clients(pause);
                    }
                });
                self.work.push(Unverified(Work::Group(client, connection, standing, bytes, credit)));
            }
            Message::Attach(a) => self.shared.clients.write().attach(client, a.process, connection),
            Message::Read(read) => {
                if self.shared.execute_queue.load(Ordering::Relaxed) > READS_MAX as u64 {
                    return self.rejected(Peer::Client(client), "too many reads");
                }
                let used = self.read_bytes.entry(client).or_default();
                let Some(credit) = Credit::take(used, size, READ_BYTES_MAX) else {
                    return self.rejected(Peer::Client(client), "too many bytes of reads");
                };
                self.shared.execute_queue.fetch_add(1, Ordering::Relaxed);
                let token = (!self.auth.members.byzantine()).then(|| {
                    self.reads += 1;
                    self.reads
                });
                let _ = self.to_execute.send(ToExecute::Read { connection, token, read, credit });
                if let Some(token) = token {
                    self.cheap.push((Input::ReadIndex(token), None));
                }
            }
            Message::StatusQuery(q) => {
                let bucket = self.standings.get_mut(&connection).map(|(_, bucket)| bucket);
                if !bucket.is_some_and(|b| b.take(Instant::now())) {
                    return self.rejected(Peer::Client(client), "too many status queries");
                }
                let digest = q.id & DIGEST_QUERY != 0;
                if digest && !self.shared.digest_pending.swap(true, Ordering::AcqRel) {
                    let _ = self.to_execute.send(ToExecute::Digest { connection, id: q.id });
                    return;
                }
                if let Some(net) = self.net.get() {
                    let busy = digest.then_some(None);
                    let json = self.status.json(&self.shared, Some(&net.stats()), busy);
                    let answer = Message::StatusAnswer(StatusAnswer { id: q.id, json });
                    net.send(To::Connection(connection), frame(&answer));
                }
            }
            _ => self.rejected(Peer::Client(client), "not from a client"),
        }
    }
}

/// A message as a frame; large parts are shared.
pub fn frame(message: &Message) -> Frame {
    let (kind, head, tail) = message.encode();
    match tail {
        Some(tail) => Frame::of_parts(kind, [head, tail]),
        None => Frame::new(kind, head),
    }
}

impl Receiver for Receive {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        self.polled.get_or_insert_with(|| (Instant::now(), 0)).1 += 1;
        match from.peer {
            Peer::Replica(r) => self.on_replica(r, kind, payload),
            Peer::Client(c) => self.on_client(c, from.connection, kind, payload),
        }
    }

    fn connected(&mut self, from: &From) {
        match from.peer {
            Peer::Client(client) => {
                self.shared.clients.write().connected(client, from.connection);
                self.standings.insert(from.connection, Default::default());
                // Who leads: the client's first hint.
                if let Some(net) = self.net.get() {
                    let view = View(self.shared.view.load(Ordering::Relaxed));
                    let (code, group) = (NoticeCode::View, Digest::ZERO);
                    let notice = Notice { code, view, group, text: String::new() };
                    net.send(To::Connection(from.connection), frame(&Message::Notice(notice)));
                }
            }
            Peer::Replica(r) => {
                // What was under way when the last connection broke may have been lost.
                self.repeats.remove(&r);
                ::log::info!("connected to replica {r}");
            }
        }
    }

    fn disconnected(&mut self, from: &From, reason: &Closed) {
        match from.peer {
            Peer::Client(client) => {
                self.standings.remove(&from.connection);
                self.shared.clients.write().disconnected(client, from.connection);
            }
            Peer::Replica(r) => ::log::info!("connection to replica {r} ended: {reason}"),
        }
    }

    fn refused(&mut self, replica: ReplicaId, refusal: Refusal, text: &str) {
        self.shared.error(format!("replica {replica} and this one refuse each other: {refusal:?}: {text}"));
    }

    fn rests(&mut self, from: &From) -> Option<Instant> {
        let Peer::Replica(r) = from.peer else { return None };
        let until = self.repeats.get_mut(&r)?.rests()?;
        self.rejected(from.peer, "read more slowly: it repeats itself");
        Some(until)
    }

    fn end_of_poll(&mut self) {
        if let Some((began, frames)) = self.polled.take() {
            self.shared.metrics.record(Stage::Net, began.elapsed(), frames);
        }
        if !self.cheap.is_empty() {
            let _ = self.to_order.send(ToOrder::Inputs(std::mem::take(&mut self.cheap)));
        }
        if self.work.is_empty() {
            return;
        }
        self.verify.add(&mut self.work);
    }
}

/// Checks on the pool, each sender's in the order of arrival: a client's groups must reach the pool of requests in sequence.
/// Senders take turns, replicas first: agreement does not wait for a flood of groups or of another replica's messages.
///
/// One task drains the queue at a time and spreads each round over the pool; what arrives meanwhile is its next round.
pub struct Verify {
    pub(super) auth: Arc<Authenticator>,
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Arc<rayon::ThreadPool>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) net: Arc<OnceLock<NetHandle>>,
    pub(super) queue: Rounds<Queue>,
}

/// What waits for the pool.
#[derive(Default)]
pub(super) struct Queue {
    replicas: FairQueue<ReplicaId, Unverified>,
    clients: FairQueue<ClientId, Unverified>,
}

impl Queue {
    fn push(&mut self, item: Unverified) {
        let cost = item.0.cost();
        match &item.0 {
            Work::Replica(from, ..) => self.replicas.push(*from, cost, item),
            Work::Group(client, ..) => self.clients.push(*client, cost, item),
        }
    }

    fn round(&mut self) -> Option<Vec<Unverified>> {
        if self.replicas.is_empty() && self.clients.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        self.replicas.take(REPLICA_ROUND, usize::MAX, &mut out);
        self.clients.take(CLIENT_ROUND, CLIENTS_ROUND, &mut out);
        Some(out)
    }
}

impl Verify {
    fn add(self: &Arc<Self>, work: &mut Vec<Unverified>) {
        if self.queue.add(|queue| work.drain(..).for_each(|item| queue.push(item))) {
            let this = self.clone();
            self.pool.spawn_fifo(move || this.drain());
        }
    }

    fn drain(&self) {
        while let Some(work) = self.queue.next(Queue::round) {
            let (began, count) = (Instant::now(), work.len());
            let inputs: Vec<_> = if work.len() > 1 && rayon::current_num_threads() > 1 {
                work.into_par_iter().filter_map(|item| self.check(item)).collect()
            } else {
                work.into_iter().filter_map(|item| self.check(item)).collect()
            };
            self.shared.metrics.record(Stage::Verify, began.elapsed(), count);
            if !inputs.is_empty() {
                let _ = self.to_order.send(ToOrder::Inputs(inputs));
            }
        }
    }

    /// Whether a replica's message can matter, as far as its head and the view tell: checked before any signature.
    fn wanted(&self, from: ReplicaId, message: &Message) -> bool {
        let current = self.shared.view.load(Ordering::Relaxed);
        match message {
            Message::Propose(m) => {
                m.view.0 >= current
                    && m.view.0 - current <= VIEWS_AHEAD
                    && from == m.view.leader(self.auth.members.n())
            }
            Message::Sync(m) => m.view.0 >= current,
            _ => true,
        }
    }

    fn check(&self, Unverified(item): Unverified) -> Option<(Input, Option<Credit>)> {
        match item {
            // The view may have changed while it waited.
            Work::Replica(from, message, _) if !self.wanted(from, &message) => {
                self.shared.discard(Peer::Replica(from), "of an old view");
                None
            }
            Work::Replica(from, message, credit) => match self.auth.replica(from, message) {
                Ok(message) => Some((Input::Message(message), Some(credit))),
                Err(why) => {
                    self.shared.discard(Peer::Replica(from), why);
                    None
                }
            },
            Work::Group(_, _, standing, ..) if standing.lost() => None,
            Work::Group(client, connection, standing, bytes, credit) => {
                // A tag that fails costs little and may be our own key's fault: the client is to sign.
                let tag = self.auth.client_auth == ClientAuth::Mac && is_mac(&bytes);
                match self.auth.group(Some(client), bytes) {
                    Ok(group) => {
                        standing.accepted();
                        Some((Input::Group { origin: connection.number(), group }, Some(credit)))
                    }
                    Err(why) => {
                        let tag_failed = tag && why == Rejected::Auth(AuthError::Signature);
                        let lost = !tag_failed && standing.rejected();
                        self.turned_away(client, connection, why, lost);
                        None
                    }
                }
            }
        }
    }

    /// Tells a client why its group was not taken; `lost`: and that it was one too many.
    fn turned_away(&self, client: ClientId, connection: ConnectionId, why: Rejected, lost: bool) {
        self.shared.discard(Peer::Client(client), why);
        let Some(net) = self.net.get() else { return };
        let view = View(self.shared.view.load(Ordering::Relaxed));
        let sign = self.auth.client_auth == ClientAuth::Mac && why == Rejected::Auth(AuthError::Signature);
        let code = if sign { NoticeCode::Sign } else { NoticeCode::Rejected };
        let notice = Notice { code, view, group: Digest::ZERO, text: why.to_string() };
        net.send(To::Connection(connection), frame(&Message::Notice(notice)));
        if lost {
            net.disconnect(connection, &format!("too many groups that are not taken, the last one {why}"));
        }
    }
}

/// Whether the bytes of a group, decoded or not, say that a MAC vector proves it.
fn is_mac(group: &[u8]) -> bool {
    group.get(12) == Some(&(AuthKind::Mac as u8))
}
