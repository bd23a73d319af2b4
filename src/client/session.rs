//! One client process as a sans-I/O core: sessions, request numbers, send-groups, retransmission, answers.
//!
//! # What happens to a request
//! It waits in its session until [`ClientCore::flush`] packs all that waits, of all sessions, into send-groups: one
//! signature each. The runtime flushes when it has handed over everything at hand, so groups grow with load and no
//! timer holds a request back. A group goes to the leader alone and is kept until all its requests are answered. In
//! Byzantine mode one in [`SAMPLE_ONE_IN`], drawn so that no leader can tell which, goes to all at once: by these the
//! others measure the leader ([`performance`](crate::order::performance)). A group is sent again, the same bytes, to
//! every replica when it stays unanswered, when the leader's connection is lost, or to
//! a new leader: always oldest first, because a session's requests execute in number order.
//!
//! # Deadlines
//! A request that was sent has used up its number, so it is sent on in the background after its deadline, or a later
//! request of the session would wait for it for ever; its outcome is reported at the deadline all the same, and it
//! counts as outstanding until it is answered. Dropping the session ends that.
//!
//! # Sessions that end
//! A session can end on the replicas' side: evicted by its key's quota (`Expired`), or because one of its requests was
//! refused, whose number then stays free. What was sent is settled, then a new session is opened under the same handle.
//!
//! # Whom it believes
//! In Byzantine mode: a quorum about results, f+1 about the view. One replica's word can cost a repetition, never a
//! wrong answer. What a lying replica may make this process keep is bounded (`KEPT_BYTES_MAX`).

mod answers;
mod notices;
mod reads;

use super::reply_votes::{Count, ReadCount, ReadVotes, ReplyVotes};
use super::{Outcome, reason};
use crate::quorum::{Group as Members, VoteSet};
use crate::replica::DIGEST_QUERY;
use crate::reply::routing::full_replier;
use crate::types::*;
use crate::wire::auth::ClientAuth;
use crate::wire::batch::{
    AuthKind, GROUP_HEADER_BYTES, Group, Hasher, REQUEST_HEADER_BYTES, Request, RequestKind,
};
use crate::wire::messages::*;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Bytes of unconfirmed large results that are kept; above, their digests alone.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Bytes sent again to one set of replicas in one go; the rest follows after the next wait.
const RESEND_BYTES_MAX: usize = 16 << 20;
/// Results up to here are copied out of their frame, so that a kept answer does not keep the frame.
const COPY_BYTES_MAX: usize = 1024;
/// Deadlines are looked at this often at most.
const DEADLINE_GRAIN_NS: u64 = 1_000_000;
/// [`CoreConfig::sample_one_in`] of Byzantine mode.
pub const SAMPLE_ONE_IN: u64 = 8;
/// But none goes to all sooner after the last one.
const SAMPLE_PAUSE_NS: u64 = 50_000_000;
/// Most status queries under way.
const STATUS_QUERIES_MAX: usize = 64;

/// Makes a group believable; the keys stay outside the core.
pub trait ClientScheme: Send {
    /// The Ed25519 signature over the group's string (`wire::auth::group_bytes` of its digest): 64 bytes.
    fn sign(&self, digest: &Digest) -> Vec<u8>;
    /// The MAC vector over the same string: 16 bytes for each replica.
    fn macs(&self, digest: &Digest) -> Vec<u8>;
}

/// What a core needs to know.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The key's client id.
    pub client: ClientId,
    /// Names this process among those of the key: 44 random bits, not 0.
    pub process: u64,
    /// The group.
    pub members: Members,
    /// The cluster's hash.
    pub hasher: Hasher,
    /// Whether one replica's reply is the answer: crash mode with durable votes, where only the leader answers (RULES 14). Else
    /// a quorum of equal ones.
    pub one_replies: bool,
    /// Whether a reply stands when its replica crashes: votes are durable. Else replies of the time before an era and after it must
    /// not make a quorum together.
    pub replies_stand: bool,
    /// How to authenticate.
    pub auth: ClientAuth,
    /// Bytes at which a send-group closes; a larger single request goes alone.
    pub group_bytes_max: usize,
    /// Requests at which a send-group closes.
    pub group_requests_max: usize,
    /// Requests of one session sent and unanswered: as many as replicas keep replies of, so that a repeated one is not
    /// too old. More wait here.
    pub session_sent_max: usize,
    /// First wait before a request is sent again; doubles while nothing is answered.
    pub retry_ns: u64,
    /// Longest such wait.
    pub retry_ns_max: u64,
    /// One new group in so many goes to all replicas; 0: none does.
    pub sample_one_in: u64,
    /// Seeds the jitter of these waits, and which groups these are.
    pub seed: u64,
}

/// Names a session of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionHandle(usize);

/// What happens to the core. `T` is the caller's note of a call, given back with its outcome.
#[derive(Debug)]
pub enum Input<T> {
    /// A connection stands.
    Connected(ReplicaId),
    /// It is lost, or an attempt failed, for this reason.
    Disconnected(ReplicaId, String),
    /// The replica, or we, turned the connection away for good: wrong key, cluster or version.
    Refused(ReplicaId, String),
    /// A replica said this.
    Message(ReplicaId, Message),
    /// Execute `operation` in order.
    Submit {
        /// In which session.
        session: SessionHandle,
        /// The service's bytes.
        operation: Bytes,
        /// When to give up.
        deadline: Tick,
        /// Comes back with the outcome.
        token: T,
    },
    /// Answer `operation` from the present state, linearizably.
    Read {
        /// The service's bytes.
        operation: Bytes,
        /// When to give up.
        deadline: Tick,
        /// Comes back with the outcome.
        token: T,
    },
    /// A replica's own state, as JSON.
    Status {
        /// Whose.
        replica: ReplicaId,
        /// With the digest of its state at the place executed last: it reads all of the state.
        digest: bool,
        /// When to give up.
        deadline: Tick,
        /// Comes back with the outcome.
        token: T,
    },
    /// No more requests in this session; those under way end as they would.
    Close(SessionHandle),
    /// Nothing will be sent or received any more: everything under way ends now.
    Shutdown,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output<T> {
    /// Send to each of these.
    Send(VoteSet, Message),
    /// A call has ended.
    Finished(T, Outcome),
    /// This many requests with this many bytes of operations are no longer kept.
    Released(usize, usize),
}

/// What is known of the way to a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Link {
    /// The first attempt is under way.
    Connecting,
    /// No connection, and why.
    Down(String),
    /// Connected.
    Up,
    /// Turned away for good, and why.
    Refused(String),
}

/// The core.
pub struct ClientCore<T> {
    config: CoreConfig,
    scheme: Box<dyn ClientScheme>,
    auth: AuthKind,
    links: Vec<Link>,
    up: VoteSet,
    /// Replicas that said they are halted.
    mute: VoteSet,
    views: Vec<View>,
    view: View,
    sessions: Vec<Option<Session<T>>>,
    free: Vec<usize>,
    /// Closed by their owner while in good order: given out again, because replicas keep few sessions per key.
    idle: Vec<usize>,
    by_id: HashMap<SessionId, usize>,
    by_nonce: HashMap<u64, usize>,
    opened: u64,
    /// Sessions whose OPEN is to be packed.
    opens: VecDeque<usize>,
    /// Open sessions with requests to be packed.
    ready: VecDeque<usize>,
    /// Unanswered groups in the order of their first sending.
    groups: BTreeMap<u64, Sent>,
    last_group: u64,
    /// Requests whose result is agreed on but was not sent: when to ask for it.
    bodies: VecDeque<(Tick, usize, SessionId, RequestNumber)>,
    kept_bytes: usize,
    retry_ns: u64,
    retry_at: Option<Tick>,
    /// When a new group last went to all.
    sampled_at: Tick,
    deadline_at: Option<Tick>,
    random: u64,
    reads: HashMap<u64, PendingRead<T>>,
    read_at: Option<Tick>,
    reader: Option<SessionHandle>,
    statuses: HashMap<u64, (ReplicaId, Tick, T)>,
    last_id: u64,
    outstanding: usize,
    scratch: Vec<Request<Bytes>>,
}

struct Session<T> {
    stream: Stream,
    /// The number of the first entry of `sent`; with its length, the next number.
    base: RequestNumber,
    sent: VecDeque<Option<Entry<T>>>,
    waiting: VecDeque<Waiting<T>>,
    in_ready: bool,
    closed: bool,
}

/// The session on the replicas' side.
enum Stream {
    Closed,
    Opening {
        nonce: u64,
        group: Option<u64>,
        votes: ReplyVotes,
    },
    Open(SessionId),
    /// It has ended; requests with smaller numbers are still out.
    Draining(SessionId),
}

struct Waiting<T> {
    operation: Bytes,
    deadline: Tick,
    token: T,
}

struct Entry<T> {
    /// Gone once the outcome was reported.
    token: Option<T>,
    deadline: Tick,
    group: u64,
    bytes: usize,
    votes: ReplyVotes,
    /// How often the missing result was asked for; `None`: not missing.
    body_asked: Option<u32>,
}

struct Sent {
    group: Group,
    digest: Digest,
    /// Requests not settled.
    left: usize,
    sent_at: Tick,
    sent_to: VoteSet,
    /// Whether it, or an answer to it, may have been lost or doubled.
    again: bool,
    /// Whether a replica was sent it twice: it may have refused the one and taken the other.
    doubled: bool,
    refused: VoteSet,
    rejected: VoteSet,
}

struct PendingRead<T> {
    operation: Bytes,
    deadline: Tick,
    token: T,
    full_from: ReplicaId,
    fallback_at: Tick,
    votes: ReadVotes,
}

impl<T> ClientCore<T> {
    /// A core without connections.
    pub fn new(config: CoreConfig, scheme: Box<dyn ClientScheme>) -> Self {
        let n = config.members.n() as usize;
        let auth = match config.auth {
            ClientAuth::Signature => AuthKind::Signature,
            ClientAuth::Mac => AuthKind::Mac,
            ClientAuth::Channel => AuthKind::Channel,
        };
        Self {
            auth,
            scheme,
            links: vec![Link::Connecting; n],
            up: VoteSet::default(),
            mute: VoteSet::default(),
            views: vec![View::FIRST; n],
            view: View::FIRST,
            sessions: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
            by_id: HashMap::new(),
            by_nonce: HashMap::new(),
            opened: 0,
            opens: VecDeque::new(),
            ready: VecDeque::new(),
            groups: BTreeMap::new(),
            last_group: 0,
            bodies: VecDeque::new(),
            kept_bytes: 0,
            retry_ns: config.retry_ns,
            retry_at: None,
            sampled_at: Tick(0),
            deadline_at: None,
            random: config.seed,
            reads: HashMap::new(),
            read_at: None,
            reader: None,
            statuses: HashMap::new(),
            last_id: 0,
            outstanding: 0,
            scratch: Vec::new(),
            config,
        }
    }

    /// A session; its OPEN goes out with its first request.
    pub fn session(&mut self) -> SessionHandle {
        if let Some(i) = self.idle.pop() {
            self.session_mut(i).closed = false;
            return SessionHandle(i);
        }
        let session = Session {
            stream: Stream::Closed,
            base: RequestNumber(1),
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            in_ready: false,
            closed: false,
        };
        match self.free.pop() {
            Some(i) => {
                self.sessions[i] = Some(session);
                SessionHandle(i)
            }
            None => {
                self.sessions.push(Some(session));
                SessionHandle(self.sessions.len() - 1)
            }
        }
    }

    /// Requests submitted and not settled, those past their deadline included.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Send-groups kept to be sent again.
    pub fn groups_kept(&self) -> usize {
        self.groups.len()
    }

    /// The way to each replica.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Who is connected.
    pub fn connected(&self) -> VoteSet {
        self.up
    }

    /// The replica believed to lead.
    pub fn leader(&self) -> ReplicaId {
        self.view.leader(self.config.members.n())
    }

    /// The connections in words, for errors.
    pub fn describe_links(&self) -> String {
        let link = |(i, link): (usize, &Link)| match link {
            Link::Connecting => format!("replica {i} not connected yet"),
            Link::Up => format!("replica {i} connected"),
            Link::Down(why) => format!("replica {i} not connected ({why})"),
            Link::Refused(why) => format!("replica {i} refused ({why})"),
        };
        self.links.iter().enumerate().map(link).collect::<Vec<_>>().join(", ")
    }

    /// Whether so many replicas refused that no quorum is left.
    pub fn shut_out(&self) -> bool {
        let rest =
            self.config.members.members().filter(|r| !matches!(self.links[r.index()], Link::Refused(_)));
        !self.config.members.quorum().reached_by(rest.collect())
    }

    /// When [`ClientCore::flush`] has something to do next, if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Tick> {
        let body_at = self.bodies.front().map(|(at, ..)| *at);
        [self.retry_at, self.deadline_at, self.read_at, body_at].into_iter().flatten().min()
    }

    /// Takes one input. What is to be sent of it leaves with the next [`ClientCore::flush`], repetitions excepted.
    pub fn step(&mut self, now: Tick, input: Input<T>, out: &mut Vec<Output<T>>) {
        match input {
            Input::Connected(r) => self.on_connected(now, r, out),
            Input::Disconnected(r, why) => self.on_lost(now, r, Link::Down(why), out),
            Input::Refused(r, why) => self.on_lost(now, r, Link::Refused(why), out),
            Input::Message(from, message) => self.on_message(now, from, message, out),
            Input::Submit { session, operation, deadline, token } => {
                self.outstanding += 1;
                if self.shut_out() {
                    let why = format!("the cluster does not take this client: {}", self.describe_links());
                    self.release(1, operation.len(), out);
                    out.push(Output::Finished(token, Outcome::NotExecuted(why)));
                } else {
                    self.enqueue(session.0, Waiting { operation, deadline, token });
                }
            }
            Input::Read { operation, deadline, token } => {
                self.outstanding += 1;
                self.on_read(now, operation, deadline, token, out);
            }
            Input::Status { replica, digest, deadline, token } => {
                self.on_status(replica, digest, deadline, token, out);
            }
            Input::Shutdown => self.shut_down(out),
            Input::Close(session) => {
                self.session_mut(session.0).closed = true;
                self.expire_at(now);
                self.settle_stream(session.0);
            }
        }
    }

    /// Does what time asks for, and packs and sends all that waits.
    pub fn flush(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        if self.deadline_at.is_some_and(|at| at <= now) {
            self.on_deadlines(now, out);
        }
        if self.read_at.is_some_and(|at| at <= now) {
            self.on_read_timer(now, out);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.on_retry_timer(now, out);
        }
        if self.bodies.front().is_some_and(|(at, ..)| *at <= now) {
            self.ask_for_bodies(now, out);
        }
        self.pack(now, out);
    }

    // Connections and views.

    fn on_connected(&mut self, now: Tick, r: ReplicaId, out: &mut Vec<Output<T>>) {
        if !self.config.members.contains(r) {
            return;
        }
        self.links[r.index()] = Link::Up;
        self.up.insert(r);
        self.mute.remove(r);
        out.push(Output::Send(only(r), Message::Attach(Attach { process: self.config.process })));
        if r == self.leader() || self.up.count() == 1 {
            self.resend(now, only(r), 0, out);
        }
    }

    fn forget_replies(&mut self, r: ReplicaId) {
        for session in self.sessions.iter_mut().flatten() {
            if let Stream::Opening { votes, .. } = &mut session.stream {
                votes.forget(r);
            }
            session.sent.iter_mut().flatten().for_each(|entry| entry.votes.forget(r));
        }
    }

    fn on_lost(&mut self, now: Tick, r: ReplicaId, link: Link, out: &mut Vec<Output<T>>) {
        if !self.config.members.contains(r) {
            return;
        }
        let was_up = self.up.contains(r);
        self.links[r.index()] = link;
        self.up.remove(r);
        if was_up {
            let why = format!("replica {r} was disconnected");
            let asked: Vec<u64> = self.statuses.iter().filter(|(_, s)| s.0 == r).map(|(id, _)| *id).collect();
            for id in asked {
                let (_, _, token) = self.statuses.remove(&id).expect("just seen");
                out.push(Output::Finished(token, Outcome::NotExecuted(why.clone())));
            }
            self.groups.values_mut().for_each(|sent| sent.again = true);
            if !self.config.replies_stand {
                self.forget_replies(r);
            }
            if r == self.leader() {
                self.resend(now, self.everyone(), 0, out);
            }
        }
        if self.shut_out() {
            let why = format!("the cluster does not take this client: {}", self.describe_links());
            for i in 0..self.sessions.len() {
                self.refuse_waiting(i, &why, out);
            }
            let reads: Vec<u64> = self.reads.keys().copied().collect();
            for id in reads {
                self.end_read(id, Outcome::NotExecuted(why.clone()), out);
            }
        }
    }

    fn everyone(&self) -> VoteSet {
        let usable: VoteSet = self.up.iter().filter(|r| !self.mute.contains(*r)).collect();
        if usable.count() == 0 { self.up } else { usable }
    }

    /// Where new groups go: the leader, or while it cannot be reached everybody, who forwards. Empty: keep them.
    fn target(&self) -> VoteSet {
        let leader = self.leader();
        if self.up.contains(leader) && !self.mute.contains(leader) { only(leader) } else { self.everyone() }
    }

    fn on_view(&mut self, now: Tick, from: ReplicaId, view: View, out: &mut Vec<Output<T>>) {
        if view <= self.views[from.index()] {
            return;
        }
        self.views[from.index()] = view;
        let members = self.config.members;
        let believed = if members.byzantine() {
            members.one_correct().reached_value(self.views.iter().copied())
        } else {
            Some(view)
        };
        if let Some(view) = believed.filter(|view| *view > self.view) {
            let before = self.leader();
            self.view = view;
            let leader = self.leader();
            if leader != before && self.up.contains(leader) {
                self.mute.remove(leader);
                self.resend(now, only(leader), 0, out);
            }
        }
    }

    // Sending.

    fn enqueue(&mut self, i: usize, waiting: Waiting<T>) {
        self.expire_at(waiting.deadline);
        self.session_mut(i).waiting.push_back(waiting);
        self.wake_session(i);
    }

    /// Lets a session with waiting requests be packed, or opened first.
    fn wake_session(&mut self, i: usize) {
        let session = self.sessions[i].as_mut().expect("a live handle");
        if session.waiting.is_empty() {
            return;
        }
        match session.stream {
            Stream::Open(_) if !session.in_ready && session.sent.len() < self.config.session_sent_max => {
                session.in_ready = true;
                self.ready.push_back(i);
            }
            Stream::Closed => {
                // One process opens far fewer than 2^20 sessions; a nonce is not used twice.
                let nonce = self.config.process << PROCESS_SESSION_BITS | self.opened;
                self.opened = (self.opened + 1) & ((1 << PROCESS_SESSION_BITS) - 1);
                session.stream = Stream::Opening { nonce, group: None, votes: ReplyVotes::default() };
                self.by_nonce.insert(nonce, i);
                self.opens.push_back(i);
            }
            _ => {}
        }
    }

    fn pack(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        let target = self.target();
        if target == VoteSet::default() {
            return;
        }
        while !(self.opens.is_empty() && self.ready.is_empty()) {
            let to = if self.samples(now) { self.everyone() } else { target };
            let id = self.last_group + 1;
            let mut requests = std::mem::take(&mut self.scratch);
            self.collect(id, &mut requests);
            if !requests.is_empty() {
                let (group, digest) = self.authenticate(self.auth, &requests);
                out.push(Output::Send(to, Message::Group(group.bytes().clone())));
                self.last_group = id;
                let sent = Sent {
                    left: requests.len(),
                    group,
                    digest,
                    sent_at: now,
                    sent_to: to,
                    again: to.count() > 1,
                    doubled: false,
                    refused: VoteSet::default(),
                    rejected: VoteSet::default(),
                };
                self.groups.insert(id, sent);
                let wait = self.jittered(self.retry_ns);
                self.retry_at.get_or_insert(Tick(now.0.saturating_add(wait)));
            }
            requests.clear();
            self.scratch = requests;
        }
    }

    /// Whether the next group goes to all, for the leader to be measured by.
    fn samples(&mut self, now: Tick) -> bool {
        let one_in = self.config.sample_one_in;
        let due = one_in > 0 && now.since(self.sampled_at) >= SAMPLE_PAUSE_NS;
        let drawn = due && self.draw().is_multiple_of(one_in);
        if drawn {
            self.sampled_at = now;
        }
        drawn
    }

    /// Takes one group's worth of requests off the queues.
    fn collect(&mut self, group_id: u64, requests: &mut Vec<Request<Bytes>>) {
        let mut bytes = GROUP_HEADER_BYTES;
        while requests.len() < self.config.group_requests_max {
            let Some(i) = self.opens.pop_front() else { break };
            if let Some(Session { stream: Stream::Opening { nonce, group, .. }, .. }) = &mut self.sessions[i]
            {
                *group = Some(group_id);
                bytes += REQUEST_HEADER_BYTES;
                requests.push(Request {
                    session: SessionId(0),
                    number: RequestNumber(*nonce),
                    kind: RequestKind::Open,
                    operation: Bytes::new(),
                });
            }
        }
        // Alone: a group with an OPEN is ordered each time that it is repeated, and a request may wait for its reply for long.
        if !requests.is_empty() {
            return;
        }
        while let Some(&i) = self.ready.front() {
            let session = self.sessions[i].as_mut().expect("closed sessions have nothing to send");
            if let Stream::Open(id) = session.stream {
                while session.sent.len() < self.config.session_sent_max
                    && let Some(next) = session.waiting.front()
                {
                    let more = REQUEST_HEADER_BYTES + next.operation.len();
                    let full = requests.len() >= self.config.group_requests_max
                        || bytes + more > self.config.group_bytes_max;
                    if full && !requests.is_empty() {
                        return;
                    }
                    let Waiting { operation, deadline, token } = session.waiting.pop_front().expect("seen");
                    bytes += more;
                    let number = RequestNumber(session.base.0 + session.sent.len() as u64);
                    session.sent.push_back(Some(Entry {
                        token: Some(token),
                        deadline,
                        group: group_id,
                        bytes: operation.len(),
                        votes: ReplyVotes::default(),
                        body_asked: None,
                    }));
                    requests.push(Request { session: id, number, kind: RequestKind::Invoke, operation });
                }
            }
            session.in_ready = false;
            self.ready.pop_front();
        }
    }

    fn authenticate<B: AsRef<[u8]>>(&self, kind: AuthKind, requests: &[Request<B>]) -> (Group, Digest) {
        let mut digest = Digest::ZERO;
        let group = Group::build(&self.config.hasher, self.config.client, requests, |d| {
            digest = *d;
            let bytes = match kind {
                AuthKind::Channel => Vec::new(),
                AuthKind::Signature => self.scheme.sign(d),
                AuthKind::Mac => self.scheme.macs(d),
            };
            (kind, bytes)
        });
        (group, digest)
    }

    /// Sends what is unanswered again, oldest first, if it was last sent `age_ns` ago or earlier.
    fn resend(&mut self, now: Tick, to: VoteSet, age_ns: u64, out: &mut Vec<Output<T>>) {
        if to == VoteSet::default() {
            return;
        }
        let mut bytes = 0;
        for sent in self.groups.values_mut().filter(|s| now.since(s.sent_at) >= age_ns) {
            bytes += sent.group.bytes().len();
            if bytes > RESEND_BYTES_MAX && bytes > sent.group.bytes().len() {
                break;
            }
            out.push(Output::Send(to, Message::Group(sent.group.bytes().clone())));
            // The same replica twice, or more than one: it may be ordered twice.
            sent.again = true;
            sent.sent_at = now;
            for r in to.iter() {
                sent.doubled |= !sent.sent_to.insert(r);
                sent.refused.remove(r);
            }
        }
    }

    fn on_retry_timer(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        let oldest = self.groups.values().map(|s| s.sent_at).min();
        let Some(oldest) = oldest else {
            self.retry_at = None;
            return;
        };
        let mut next = oldest;
        if now.since(oldest) >= self.retry_ns {
            self.resend(now, self.everyone(), self.retry_ns / 2, out);
            self.retry_ns = (self.retry_ns * 2).min(self.config.retry_ns_max);
            next = now;
        }
        let wait = self.jittered(self.retry_ns);
        self.retry_at = Some(Tick(next.0.saturating_add(wait)));
    }

    /// Up to a quarter more, so that clients that lost the same leader do not come back in step.
    fn jittered(&mut self, ns: u64) -> u64 {
        ns + self.draw() * (ns / 4) / (1 << 32)
    }

    /// 32 bits.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z >> 32
    }

    // What replicas say.

    fn on_message(&mut self, now: Tick, from: ReplicaId, message: Message, out: &mut Vec<Output<T>>) {
        if !self.config.members.contains(from) {
            return;
        }
        match message {
            Message::Replies(replies) => {
                self.on_view(now, from, replies.view, out);
                for reply in replies.replies {
                    if reply.session == SessionId(0) {
                        self.on_opened(from, reply, out);
                    } else {
                        self.on_reply(now, from, reply, out);
                    }
                }
            }
            Message::ReadReply(reply) => {
                self.on_view(now, from, reply.view, out);
                self.on_read_reply(from, reply, out);
            }
            Message::Notice(notice) => {
                self.on_view(now, from, notice.view, out);
                self.on_notice(now, from, notice, out);
            }
            Message::StatusAnswer(answer) => self.on_status_answer(from, answer, out),
            // Nothing else is for clients.
            _ => {}
        }
    }

    // Deadlines.

    fn expire_at(&mut self, deadline: Tick) {
        self.deadline_at = Some(self.deadline_at.map_or(deadline, |at| at.min(deadline)));
    }

    /// Looks at everything outstanding: a bounded number, and seldom, because deadlines are mostly far ahead.
    fn on_deadlines(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        let mut next: Option<Tick> = None;
        let mut later = |deadline: Tick| next = Some(next.map_or(deadline, |at: Tick| at.min(deadline)));
        let mut ended: Vec<(T, Outcome)> = Vec::new();
        let (mut unsent, mut unsent_bytes) = (0, 0);
        let mut dropped: Vec<(usize, RequestNumber)> = Vec::new();
        for (i, session) in self.sessions.iter_mut().enumerate() {
            let Some(session) = session else { continue };
            if session.waiting.iter().any(|w| w.deadline <= now) {
                let opening = !matches!(session.stream, Stream::Open(_));
                for w in std::mem::take(&mut session.waiting) {
                    if w.deadline <= now {
                        unsent += 1;
                        unsent_bytes += w.operation.len();
                        let state = if opening { reason::NOT_OPENED } else { reason::NOT_SENT };
                        ended.push((w.token, Outcome::NotExecuted(state.into())));
                    } else {
                        session.waiting.push_back(w);
                    }
                }
            }
            session.waiting.iter().for_each(|w| later(w.deadline));
            for (offset, entry) in session.sent.iter_mut().enumerate() {
                let Some(entry) = entry else { continue };
                if entry.token.is_some() && entry.deadline > now {
                    later(entry.deadline);
                    continue;
                }
                if let Some(token) = entry.token.take() {
                    let why = format!("{}: {}", reason::DEADLINE, entry.votes.describe());
                    ended.push((token, Outcome::UnknownOutcome(why)));
                }
                if session.closed {
                    dropped.push((i, RequestNumber(session.base.0 + offset as u64)));
                }
            }
        }
        let late: Vec<u64> = self.statuses.iter().filter(|(_, s)| s.1 <= now).map(|(id, _)| *id).collect();
        for id in late {
            let (replica, _, token) = self.statuses.remove(&id).expect("just seen");
            ended.push((token, Outcome::NotExecuted(format!("replica {replica} did not answer in time"))));
        }
        self.statuses.values().for_each(|(_, deadline, _)| later(*deadline));
        self.deadline_at = next.map(|at| at.max(Tick(now.0 + DEADLINE_GRAIN_NS)));
        if unsent > 0 {
            self.release(unsent, unsent_bytes, out);
        }
        if !ended.is_empty() {
            let links = self.describe_links();
            for (token, outcome) in ended {
                out.push(Output::Finished(token, outcome.with_detail(&links)));
            }
        }
        // Nobody will submit behind these any more: no need to close the gap.
        for (i, number) in dropped {
            self.settle(i, number, out);
            let session = self.session_mut(i);
            if let Stream::Open(id) = session.stream {
                session.stream = Stream::Draining(id);
            }
            self.settle_stream(i);
        }
    }

    fn shut_down(&mut self, out: &mut Vec<Output<T>>) {
        for session in self.sessions.iter_mut().flatten() {
            for waiting in session.waiting.drain(..) {
                out.push(Output::Finished(waiting.token, Outcome::NotExecuted(reason::CLOSED.into())));
            }
            for token in session.sent.iter_mut().flatten().filter_map(|entry| entry.token.take()) {
                out.push(Output::Finished(token, Outcome::UnknownOutcome(reason::CLOSED.into())));
            }
        }
        let reads = self.reads.drain().map(|(_, read)| read.token);
        let statuses = self.statuses.drain().map(|(_, (_, _, token))| token);
        for token in reads.chain(statuses) {
            out.push(Output::Finished(token, Outcome::NotExecuted(reason::CLOSED.into())));
        }
    }

    fn session_mut(&mut self, i: usize) -> &mut Session<T> {
        self.sessions[i].as_mut().expect("a live handle")
    }
}

fn only(r: ReplicaId) -> VoteSet {
    VoteSet::from_iter([r])
}
