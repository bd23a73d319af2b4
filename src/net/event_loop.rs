//! The net thread: readiness → drained reads → frames; commands → queues → gathered writes.
//!
//! Surprises of edge-triggered polling, and what is done about each:
//! - *An edge is told once.* `readable` and `writable` stay set until the socket would block or gives less than asked.
//! - *One peer can be read for ever.* After its quota it goes behind the others, and poll does not sleep meanwhile.
//! - *A token may outlive its socket in a batch of events.* Tokens are connection ids, which are never reused.
//! - *A sleeping thread must be woken, a busy one need not be.* See [`Doorbell`](super::doorbell::Doorbell).

use super::connection::{Connection, Flushed, Phase, looks_like_tls};
use super::dial::{self, Link, Resolver, State};
use super::framing::{Frame, FrameError, NET_KINDS};
use super::hello::{HELLO, HELLO_OK, Hello, REFUSED, Refusal, decode_refused, encode_refused};
use super::tls::Tls;
use super::{
    Closed, Command, ConnectionId, Discard, From, NetConfig, NetError, NetHandle, Peer, Receiver, To,
    Transport,
};
use crate::sync::channel::Receiver as Queue;
use crate::types::{ClientId, ReplicaId};
use bytes::Bytes;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
const FIRST_CONNECTION: u64 = 2;

/// Read at a time, beside what goes straight into a large frame.
const SCRATCH_BYTES: usize = 128 * 1024;
/// Written to one connection before the others have their turn.
const WRITE_QUOTA: usize = 1 << 20;
/// Accepted before the connected have their turn.
const ACCEPTS_PER_ROUND: u32 = 32;
/// After the system refused to accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Commands looked at before the sockets have their turn.
const COMMANDS_PER_ROUND: usize = 4096;
/// For a refusal to reach the peer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// For what is queued when stopping.
const STOP_FLUSH: Duration = Duration::from_millis(200);
/// Lines logged per second about connections: strangers must not fill the disk.
const LOG_LINES_PER_SECOND: u32 = 20;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// The greeting, or the last words, must be over.
    Overdue(ConnectionId),
    Dial(ReplicaId),
    Accept,
    /// It is read again.
    Rest(ConnectionId),
}

pub(super) struct EventLoop {
    config: NetConfig,
    /// Replicas that are sent to: all but this one, in the order of their ids.
    others: Vec<ReplicaId>,
    tls: Option<Tls>,
    poll: Poll,
    listener: Option<TcpListener>,
    commands: Queue<Command>,
    handle: NetHandle,
    receiver: Box<dyn Receiver>,
    resolver: Option<Resolver>,

    connections: HashMap<ConnectionId, Box<Connection>>,
    next_connection: u64,
    /// Accepted connections that are not `Up`; the first is the oldest.
    unknown: BTreeSet<ConnectionId>,
    replicas: HashMap<ReplicaId, ConnectionId>,
    clients: HashMap<ClientId, usize>,
    client_connections: usize,
    clients_queue_bytes: usize,
    links: BTreeMap<ReplicaId, Link>,

    to_read: Vec<ConnectionId>,
    to_write: Vec<ConnectionId>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    now: Instant,
    scratch: Vec<u8>,
    delivered: bool,
    clients_paused: bool,
    accept_ready: bool,
    accept_tokens: f64,
    accept_refilled: Instant,
    accept_paused: bool,
    stop_at: Option<Instant>,
    random: u64,
    log_second: Instant,
    log_lines: u32,
}

impl EventLoop {
    pub(super) fn new(
        config: NetConfig,
        poll: Poll,
        mut listener: Option<TcpListener>,
        commands: Queue<Command>,
        handle: NetHandle,
        receiver: Box<dyn Receiver>,
    ) -> Result<Self, NetError> {
        let now = Instant::now();
        let tls = (config.transport == Transport::Tls).then(|| Tls::new(&config.identity)).transpose()?;
        if let Some(listener) = &mut listener {
            poll.registry().register(listener, LISTENER, Interest::READABLE)?;
        }
        let me = config.me;
        let mut links = BTreeMap::new();
        for remote in config.replicas.iter().filter(|remote| dials(me, remote.id)) {
            let tls = tls.as_ref().map(|tls| tls.dial_config(remote.key)).transpose()?;
            links.insert(remote.id, Link::new(remote.clone(), tls));
        }
        let named = links.values().any(|link| dial::literal(&link.remote.address).is_none());
        let resolver = if named {
            let handle = handle.clone();
            Some(Resolver::start(move |answer| handle.command(Command::Resolved(answer)))?)
        } else {
            None
        };
        let mut others: Vec<_> =
            config.replicas.iter().map(|r| r.id).filter(|id| me != Peer::Replica(*id)).collect();
        others.sort_unstable();
        let mut seed = [0; 8];
        // Only spreads reconnects apart; without it they are merely in step.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
        Ok(Self {
            others,
            tls,
            poll,
            listener,
            commands,
            handle,
            receiver,
            resolver,
            connections: HashMap::new(),
            next_connection: FIRST_CONNECTION,
            unknown: BTreeSet::new(),
            replicas: HashMap::new(),
            clients: HashMap::new(),
            client_connections: 0,
            clients_queue_bytes: 0,
            timers: links.keys().map(|id| Reverse((now, Timer::Dial(*id)))).collect(),
            links,
            to_read: Vec::new(),
            to_write: Vec::new(),
            now,
            scratch: vec![0; SCRATCH_BYTES],
            delivered: false,
            clients_paused: false,
            accept_ready: true,
            accept_tokens: f64::from(config.accepts_per_second),
            accept_refilled: now,
            accept_paused: false,
            stop_at: None,
            random: u64::from_le_bytes(seed) | 1,
            log_second: now,
            log_lines: 0,
            config,
        })
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            self.obey();
            self.write_ready();
            if self.stop_at.is_some_and(|at| at <= self.now || self.all_sent()) {
                return self.close_all();
            }
            if let Err(e) = self.wait(&mut events) {
                log::error!("net: poll failed: {e}");
                return self.close_all();
            }
            self.handle.shared.counters.polls.add(1);
            self.now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => self.accept_ready = true,
                    token => self.mark(ConnectionId(token.0 as u64), event),
                }
            }
            self.run_timers();
            self.accept();
            self.read_ready();
            if std::mem::take(&mut self.delivered) {
                self.receiver.end_of_poll();
            }
        }
    }

    /// Sleeps until something is to be done.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let accepting = self.accept_ready && !self.accept_paused && self.listener.is_some();
        let mut timeout = if !self.to_read.is_empty() || !self.to_write.is_empty() || accepting {
            Some(Duration::ZERO)
        } else {
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            timer.into_iter().chain(self.stop_at).min().map(|at| at.saturating_duration_since(Instant::now()))
        };
        let bell = &self.handle.shared.bell;
        let sleeps = timeout != Some(Duration::ZERO);
        if !bell.lie_down(|| sleeps && self.commands.is_empty()) {
            timeout = Some(Duration::ZERO);
        }
        let polled = self.poll.poll(events, timeout);
        bell.get_up();
        match polled {
            Err(e) if e.kind() != ErrorKind::Interrupted => Err(e),
            _ => Ok(()),
        }
    }

    // --- commands ---

    fn obey(&mut self) {
        for _ in 0..COMMANDS_PER_ROUND {
            let Ok(command) = self.commands.try_recv() else { return };
            self.handle.shared.commands_bytes.fetch_sub(command.bytes(), Ordering::Relaxed);
            match command {
                Command::Send(to, frame) => self.send(to, frame),
                Command::SendBatch(batch) => batch.into_iter().for_each(|(to, frame)| self.send(to, frame)),
                Command::Disconnect(id, reason) => self.close_id(id, Closed::Requested(reason)),
                Command::PauseClients(pause) => self.pause_clients(pause),
                Command::Resolved((replica, found)) => self.resolved(replica, found),
                Command::Stop => {
                    self.listener = None;
                    self.stop_at = Some(self.now + STOP_FLUSH);
                }
            }
        }
    }

    fn send(&mut self, to: To, frame: Frame) {
        match to {
            To::Connection(id) => self.send_connection(id, frame),
            To::Replica(replica) => self.send_replica(replica, frame),
            To::AllReplicas => {
                for i in 0..self.others.len() {
                    self.send_replica(self.others[i], frame.clone());
                }
            }
        }
    }

    fn send_replica(&mut self, replica: ReplicaId, frame: Frame) {
        match self.replicas.get(&replica) {
            Some(id) => self.send_connection(*id, frame),
            None => self.discard(Some(Peer::Replica(replica)), Discard::NotConnected),
        }
    }

    fn send_connection(&mut self, id: ConnectionId, frame: Frame) {
        let Some(conn) = self.connections.get_mut(&id) else {
            return self.discard(None, Discard::NotConnected);
        };
        let Phase::Up(From { peer, .. }) = conn.phase else {
            return self.discard(None, Discard::NotConnected);
        };
        if frame.payload_bytes() > self.config.frame_bytes_max as usize {
            return self.discard(Some(peer), Discard::FrameTooLarge);
        }
        let before = conn.queue_bytes();
        let pushed = conn.push(frame);
        let after = conn.queue_bytes();
        if !conn.listed_write && conn.writable {
            conn.listed_write = true;
            self.to_write.push(id);
        }
        match peer {
            Peer::Replica(_) => {
                if pushed.is_err() {
                    self.discard(Some(peer), Discard::QueueFull);
                }
            }
            Peer::Client(_) => {
                self.clients_queue_bytes += after - before;
                let all = self.config.clients_queue_bytes_max;
                let share = all / self.client_connections.max(1);
                if pushed.is_err() || (self.clients_queue_bytes > all && after > share) {
                    self.discard(Some(peer), Discard::SlowReader);
                    self.close_id(id, Closed::SlowReader);
                }
            }
        }
    }

    fn pause_clients(&mut self, pause: bool) {
        self.clients_paused = pause;
        if pause {
            return;
        }
        for (id, conn) in &mut self.connections {
            let client = matches!(conn.phase, Phase::Up(From { peer: Peer::Client(_), .. }));
            if client && conn.readable && !conn.rests && !conn.listed_read {
                conn.listed_read = true;
                self.to_read.push(*id);
            }
        }
    }

    // --- readiness ---

    fn mark(&mut self, id: ConnectionId, event: &mio::event::Event) {
        // Closed earlier in this batch of events.
        let Some(conn) = self.connections.get_mut(&id) else { return };
        if event.is_writable() || event.is_error() {
            conn.writable = true;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            conn.readable = true;
            conn.read_closed |= event.is_read_closed() || event.is_error();
        }
        if let Phase::Connecting(replica) = conn.phase
            && let Err(reason) = connected(conn)
        {
            match reason {
                None => return, // not yet
                Some(e) => return self.dial_failed(id, replica, e),
            }
        }
        if let Phase::Connecting(replica) = conn.phase {
            conn.phase = Phase::Greeting(Some(replica));
            let hello = hello(&self.config, replica.0);
            // A new queue takes any frame.
            let _ = conn.push(Frame::encode(HELLO, [hello.encode()]));
        }
        if conn.readable && !conn.listed_read {
            conn.listed_read = true;
            self.to_read.push(id);
        }
        if conn.writable && !conn.listed_write && conn.wants_write() {
            conn.listed_write = true;
            self.to_write.push(id);
        }
    }

    fn read_ready(&mut self) {
        let round = std::mem::take(&mut self.to_read);
        let mut scratch = std::mem::take(&mut self.scratch);
        for id in round {
            // Out of the table while it is read: its frames may close other connections.
            let Some(mut conn) = self.connections.remove(&id) else { continue };
            conn.listed_read = false;
            match self.read(&mut conn, &mut scratch) {
                Ok(()) => {
                    if conn.readable && !self.holds_back(&conn) {
                        conn.listed_read = true;
                        self.to_read.push(id);
                    }
                    if !conn.listed_write && conn.writable && conn.wants_write() {
                        conn.listed_write = true;
                        self.to_write.push(id);
                    }
                    self.connections.insert(id, conn);
                }
                Err(reason) => self.end(conn, reason),
            }
        }
        self.scratch = scratch;
    }

    fn holds_back(&self, conn: &Connection) -> bool {
        conn.rests
            || self.clients_paused && matches!(conn.phase, Phase::Up(From { peer: Peer::Client(_), .. }))
    }

    /// Reads until the socket would block or the quota is used up.
    fn read(&mut self, conn: &mut Connection, scratch: &mut [u8]) -> Result<(), Closed> {
        let mut quota = self.config.read_quota_bytes.max(1);
        while quota > 0 && conn.readable && !self.holds_back(conn) {
            let Some((read, in_scratch)) = conn.receive(scratch)? else { return Ok(()) };
            quota = quota.saturating_sub(read);
            if matches!(conn.phase, Phase::Draining) {
                continue;
            }
            let mut input = &scratch[..in_scratch];
            if matches!(conn.phase, Phase::Greeting(_)) {
                if conn.greeting_bytes == 0 && self.tls.is_none() && looks_like_tls(input) {
                    let text = "it speaks TLS, this side is configured as plain".to_owned();
                    return Err(Closed::Refused { refusal: Refusal::WrongTransport, text, ours: true });
                }
                conn.greeting_bytes += read;
            }
            while let Some((kind, payload)) = conn.next_frame(&mut input)? {
                self.take(conn, kind, payload)?;
            }
            if let Phase::Up(from) = conn.phase
                && let Some(until) = self.receiver.rests(&from)
            {
                conn.rests = true;
                self.timers.push(Reverse((until, Timer::Rest(from.connection))));
            }
            let greeting = matches!(conn.phase, Phase::Greeting(_));
            if greeting && conn.greeting_bytes > self.config.greeting_bytes_max {
                return Err(Closed::GreetingTooLong);
            }
        }
        Ok(())
    }

    fn take(&mut self, conn: &mut Connection, kind: u16, payload: Bytes) -> Result<(), Closed> {
        match conn.phase {
            Phase::Up(_) if kind >= NET_KINDS => Err(Closed::NetKind),
            Phase::Up(from) => {
                conn.flow.frames_in.add(1);
                self.delivered = true;
                self.receiver.frame(&from, kind, payload);
                Ok(())
            }
            Phase::Greeting(None) => self.greeted(conn, kind, &payload),
            Phase::Greeting(Some(replica)) => self.answered(conn, replica, kind, &payload),
            Phase::Connecting(_) | Phase::Draining => Ok(()),
        }
    }

    fn write_ready(&mut self) {
        for id in std::mem::take(&mut self.to_write) {
            let Some(conn) = self.connections.get_mut(&id) else { continue };
            conn.listed_write = false;
            let before = conn.queue_bytes();
            let flushed = conn.flush(WRITE_QUOTA);
            if matches!(conn.phase, Phase::Up(From { peer: Peer::Client(_), .. })) {
                self.clients_queue_bytes -= before - conn.queue_bytes();
            }
            if let Phase::Up(from @ From { peer: Peer::Replica(_), .. }) = conn.phase
                && conn.has_room()
            {
                self.receiver.room(&from);
            }
            match flushed {
                Ok(Flushed::All | Flushed::Blocked) => {}
                Ok(Flushed::Quota) => {
                    conn.listed_write = true;
                    self.to_write.push(id);
                }
                Err(e) => self.close_id(id, Closed::Io(e.kind())),
            }
        }
    }

    // --- greeting ---

    /// The first frame of a connection that we accepted.
    fn greeted(&mut self, conn: &mut Connection, kind: u16, payload: &[u8]) -> Result<(), Closed> {
        let refuse = |refusal, text: String| Err(Closed::Refused { refusal, text, ours: true });
        if kind != HELLO {
            return refuse(Refusal::NotAHello, format!("first frame of kind {kind:#x}"));
        }
        let theirs = match Hello::decode(payload) {
            Ok(theirs) => theirs,
            Err((refusal, text)) => return refuse(refusal, text),
        };
        let Peer::Replica(me) = self.config.me else {
            return refuse(Refusal::WrongReplica, "clients accept nobody".into());
        };
        if theirs.cluster != self.config.cluster {
            let text = format!("{} is of cluster {}", theirs.me, theirs.cluster);
            return refuse(Refusal::WrongCluster, text);
        }
        if theirs.expected != me.0 {
            let text =
                format!("{} expects replica {} here, this is replica {me}", theirs.me, theirs.expected);
            return refuse(Refusal::WrongReplica, text);
        }
        let configured = match theirs.me {
            Peer::Replica(id) if id == me => {
                return refuse(Refusal::WrongReplica, format!("another process says it is replica {me}"));
            }
            Peer::Replica(id) if id < me => {
                return refuse(Refusal::WrongReplica, format!("replica {id} is dialed, it does not dial"));
            }
            Peer::Replica(id) => self.config.replicas.iter().find(|r| r.id == id).map(|r| r.key),
            Peer::Client(id) => self.config.client_keys.get(&id).copied(),
        };
        let Some(configured) = configured else {
            return refuse(Refusal::UnknownKey, format!("{} is not configured", theirs.me));
        };
        if self.tls.is_some() && conn.peer_key() != Some(configured) {
            let text = format!("the key shown is not the one configured for {}", theirs.me);
            return refuse(Refusal::UnknownKey, text);
        }
        if theirs.tag != self.config.hello_tag {
            let text = format!("{} has another fault model, digest algorithm or membership", theirs.me);
            return refuse(Refusal::ConfigDiffers, text);
        }
        let (their_id, replica) = match theirs.me {
            Peer::Replica(id) => (id.0, true),
            Peer::Client(id) => {
                let same_key = self.clients.get(&id).copied().unwrap_or(0);
                if same_key >= self.config.connections_per_client_max
                    || self.client_connections >= self.config.client_connections_max
                {
                    let text = format!(
                        "{} has {same_key} connections, all clients {}",
                        theirs.me, self.client_connections
                    );
                    return refuse(Refusal::TooManyConnections, text);
                }
                *self.clients.entry(id).or_default() += 1;
                self.client_connections += 1;
                (id.0, false)
            }
        };
        self.unknown.remove(&conn.id);
        // A new queue takes any frame.
        let _ = conn.push(Frame::encode(HELLO_OK, [hello(&self.config, their_id).encode()]));
        let received = if replica { self.config.frame_bytes_max } else { self.config.client_frame_bytes_max };
        self.established(conn, theirs.me, received);
        Ok(())
    }

    /// The answer to our greeting.
    fn answered(
        &mut self,
        conn: &mut Connection,
        replica: ReplicaId,
        kind: u16,
        payload: &[u8],
    ) -> Result<(), Closed> {
        let refused = |refusal, text: String, ours| Err(Closed::Refused { refusal, text, ours });
        if kind == REFUSED {
            let (refusal, text) = decode_refused(payload)
                .unwrap_or((Refusal::WrongVersion, "for a reason this version does not know".into()));
            return refused(refusal, text, false);
        }
        if kind != HELLO_OK {
            return refused(Refusal::NotAHello, format!("answer of kind {kind:#x}"), true);
        }
        let theirs = match Hello::decode(payload) {
            Ok(theirs) => theirs,
            Err((refusal, text)) => return refused(refusal, text, true),
        };
        if theirs.cluster != self.config.cluster {
            return refused(Refusal::WrongCluster, format!("it is of cluster {}", theirs.cluster), true);
        }
        let my_id = match self.config.me {
            Peer::Replica(r) => r.0,
            Peer::Client(c) => c.0,
        };
        if theirs.me != Peer::Replica(replica) || theirs.expected != my_id {
            let text = format!("it is {}, answering id {}", theirs.me, theirs.expected);
            return refused(Refusal::WrongReplica, text, true);
        }
        if theirs.tag != self.config.hello_tag {
            let text = "it has another fault model, digest algorithm or membership".into();
            return refused(Refusal::ConfigDiffers, text, true);
        }
        if let Some(link) = self.links.get_mut(&replica) {
            link.up(self.now);
        }
        self.established(conn, Peer::Replica(replica), self.config.frame_bytes_max);
        Ok(())
    }

    fn established(&mut self, conn: &mut Connection, peer: Peer, received: u32) {
        let from = From { peer, connection: conn.id };
        let queue_bytes_max = match peer {
            Peer::Replica(replica) => {
                if let Some(old) = self.replicas.insert(replica, conn.id) {
                    self.close_id(old, Closed::Replaced);
                }
                self.config.replica_queue_bytes_max
            }
            Peer::Client(_) => {
                self.clients_queue_bytes += conn.queue_bytes();
                self.config.client_queue_bytes_max
            }
        };
        conn.established(from, received, queue_bytes_max);
        self.handle.shared.counters.open(conn.id, peer, conn.address.clone(), conn.flow.clone());
        match peer {
            Peer::Replica(_) => log::info!("net: connected to {peer} ({})", conn.address),
            Peer::Client(_) => log::debug!("net: connected to {peer} ({})", conn.address),
        }
        self.receiver.connected(&from);
    }

    // --- the end of connections ---

    fn close_id(&mut self, id: ConnectionId, reason: Closed) {
        if let Some(conn) = self.connections.remove(&id) {
            self.end(conn, reason);
        }
    }

    /// Ends a connection that is out of the table; one that is owed a last word lives on a little.
    fn end(&mut self, mut conn: Box<Connection>, reason: Closed) {
        if matches!(conn.phase, Phase::Draining) {
            return self.forget(conn);
        }
        self.account(&conn, &reason);
        let last = match (&conn.phase, &reason) {
            (Phase::Greeting(None), Closed::Refused { refusal, text, ours: true }) => {
                Some(Some(Frame::encode(REFUSED, [encode_refused(*refusal, text)])))
            }
            // TLS has queued an alert.
            (Phase::Greeting(_), Closed::Tls(_) | Closed::Refused { ours: true, .. }) => Some(None),
            _ => None,
        };
        match last {
            Some(last) if self.stop_at.is_none() => {
                conn.drain(last);
                self.timers.push(Reverse((self.now + DRAIN_TIMEOUT, Timer::Overdue(conn.id))));
                let id = conn.id;
                if !conn.listed_write {
                    conn.listed_write = true;
                    self.to_write.push(id);
                }
                if conn.readable && !conn.listed_read {
                    conn.listed_read = true;
                    self.to_read.push(id);
                }
                self.connections.insert(id, conn);
            }
            _ => {
                conn.say_goodbye();
                // One attempt; nobody waits for it.
                let _ = conn.flush(1);
                self.forget(conn);
            }
        }
    }

    /// What the end of a connection means to counters, tables, links and the receiver.
    fn account(&mut self, conn: &Connection, reason: &Closed) {
        let peer = match conn.phase {
            Phase::Up(from) => Some(from.peer),
            Phase::Connecting(replica) | Phase::Greeting(Some(replica)) => Some(Peer::Replica(replica)),
            Phase::Greeting(None) | Phase::Draining => None,
        };
        // A slow reader was counted when its queue overflowed.
        if let Some(why) = counted(reason) {
            self.discard(peer, why);
        }
        if let Some(peer) = peer
            && !matches!(reason, Closed::Stopped)
        {
            self.handle.shared.counters.last_error(peer, reason.to_string());
        }
        match conn.phase {
            Phase::Up(from) => {
                match from.peer {
                    Peer::Replica(replica) => {
                        log::info!("net: connection to {} ({}) ended: {reason}", from.peer, conn.address);
                        // Not if a newer connection has replaced it.
                        if self.replicas.get(&replica) == Some(&conn.id) {
                            self.replicas.remove(&replica);
                            self.redial(replica, false);
                        }
                    }
                    Peer::Client(client) => {
                        self.clients_queue_bytes -= conn.queue_bytes();
                        self.client_connections -= 1;
                        if let Some(n) = self.clients.get_mut(&client) {
                            *n -= 1;
                            if *n == 0 {
                                self.clients.remove(&client);
                            }
                        }
                        if !matches!(reason, Closed::ByPeer | Closed::Stopped) && self.may_log() {
                            log::warn!("net: closed {} ({}): {reason}", from.peer, conn.address);
                        }
                    }
                }
                self.receiver.disconnected(&from, reason);
            }
            Phase::Connecting(replica) | Phase::Greeting(Some(replica)) => {
                if matches!(reason, Closed::Stopped) {
                    return;
                }
                let refused = matches!(reason, Closed::Refused { .. });
                self.log_link(replica, &conn.address, &reason.to_string());
                if let Closed::Refused { refusal, text, .. } = reason {
                    self.receiver.refused(replica, *refusal, text);
                }
                self.redial(replica, refused);
            }
            Phase::Greeting(None) => {
                if !matches!(reason, Closed::ByPeer | Closed::Stopped) && self.may_log() {
                    log::warn!("net: turned away {}: {reason}", conn.address);
                }
            }
            Phase::Draining => {}
        }
    }

    fn forget(&mut self, mut conn: Box<Connection>) {
        self.unknown.remove(&conn.id);
        self.handle.shared.counters.close(conn.id, &conn.flow);
        // Dropping the socket takes it out of the poll anyway.
        let _ = self.poll.registry().deregister(&mut conn.socket);
    }

    fn all_sent(&self) -> bool {
        self.commands.is_empty()
            && !self.connections.values().any(|conn| matches!(conn.phase, Phase::Up(_)) && conn.wants_write())
    }

    fn close_all(mut self) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        // So that nothing lingers and nothing is dialed.
        self.stop_at = Some(self.now);
        ids.into_iter().for_each(|id| self.close_id(id, Closed::Stopped));
    }

    // --- accepting ---

    fn accept(&mut self) {
        if !self.accept_ready || self.accept_paused {
            return;
        }
        let rate = f64::from(self.config.accepts_per_second.max(1));
        self.accept_tokens =
            rate.min(self.accept_tokens + rate * (self.now - self.accept_refilled).as_secs_f64());
        self.accept_refilled = self.now;
        for _ in 0..ACCEPTS_PER_ROUND {
            let Some(listener) = &self.listener else { return };
            if self.accept_tokens < 1.0 {
                return self.pause_accept();
            }
            match listener.accept() {
                Ok((socket, address)) => {
                    self.accept_tokens -= 1.0;
                    if let Err(e) = self.accepted(socket, address.to_string()) {
                        log::debug!("net: cannot use the connection from {address}: {e}");
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.accept_ready = false;
                    return;
                }
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(e) => {
                    if self.may_log() {
                        log::warn!("net: cannot accept: {e}");
                    }
                    return self.pause_accept();
                }
            }
        }
    }

    /// No edge tells when accepting is possible again: a timer does.
    fn pause_accept(&mut self) {
        self.accept_paused = true;
        self.timers.push(Reverse((self.now + ACCEPT_PAUSE, Timer::Accept)));
    }

    fn accepted(&mut self, socket: TcpStream, address: String) -> Result<(), Box<dyn std::error::Error>> {
        Connection::set_options(&socket, self.config.dead_after)?;
        let tls = self.tls.as_ref().map(Tls::accept).transpose()?;
        self.handle.shared.counters.accepted.add(1);
        let id = self.add(socket, tls, Phase::Greeting(None), address)?;
        self.unknown.insert(id);
        while self.unknown.len() > self.config.unknown_max.max(1) {
            let oldest = *self.unknown.first().expect("not empty");
            self.unknown.remove(&oldest);
            self.close_id(oldest, Closed::Crowded);
        }
        Ok(())
    }

    fn add(
        &mut self,
        mut socket: TcpStream,
        tls: Option<rustls::Connection>,
        phase: Phase,
        address: String,
    ) -> io::Result<ConnectionId> {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(id.0 as usize), interest)?;
        let conn = Connection::new(id, socket, tls, phase, address);
        self.connections.insert(id, Box::new(conn));
        self.timers.push(Reverse((self.now + self.config.greeting_timeout, Timer::Overdue(id))));
        Ok(id)
    }

    // --- dialing ---

    fn run_timers(&mut self) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > self.now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Dial(replica) => self.dial(replica),
                Timer::Accept => self.accept_paused = false,
                Timer::Rest(id) => {
                    if let Some(conn) = self.connections.get_mut(&id) {
                        conn.rests = false;
                        if conn.readable && !conn.listed_read {
                            conn.listed_read = true;
                            self.to_read.push(id);
                        }
                    }
                }
                Timer::Overdue(id) => {
                    // A refused connection has two of these; ending at the first of them is soon enough.
                    if self.connections.get(&id).is_some_and(|conn| !matches!(conn.phase, Phase::Up(_))) {
                        self.close_id(id, Closed::GreetingTimeout);
                    }
                }
            }
        }
    }

    fn dial(&mut self, replica: ReplicaId) {
        let Some(link) = self.links.get_mut(&replica) else { return };
        if link.state != State::Waiting || self.stop_at.is_some() {
            return;
        }
        if link.addresses.is_empty() {
            match (dial::literal(&link.remote.address), &self.resolver) {
                (Some(address), _) => link.addresses.push_back(address),
                (None, Some(resolver)) => {
                    link.state = State::Resolving;
                    return resolver.ask(replica, link.remote.address.clone());
                }
                (None, None) => unreachable!("a resolver runs if any address is a name"),
            }
        }
        let Some(address) = link.addresses.pop_front() else { return };
        link.state = State::Dialing;
        let config = link.tls.clone();
        let started = TcpStream::connect(address).map_err(|e| e.to_string()).and_then(|socket| {
            Connection::set_options(&socket, self.config.dead_after).map_err(|e| e.to_string())?;
            let tls = config.map(Tls::dial).transpose().map_err(|e| e.to_string())?;
            self.add(socket, tls, Phase::Connecting(replica), address.to_string()).map_err(|e| e.to_string())
        });
        if let Err(e) = started {
            self.log_link(replica, &address.to_string(), &e);
            self.redial(replica, false);
        }
    }

    fn resolved(&mut self, replica: ReplicaId, found: Result<Vec<std::net::SocketAddr>, String>) {
        let Some(link) = self.links.get_mut(&replica) else { return };
        if link.state != State::Resolving {
            return;
        }
        let failure = match found {
            Ok(found) if !found.is_empty() => {
                link.addresses = found.into();
                link.state = State::Waiting;
                return self.dial(replica);
            }
            Ok(_) => "the name has no address".to_owned(),
            Err(e) => e,
        };
        let address = link.remote.address.clone();
        self.log_link(replica, &address, &failure);
        self.redial(replica, false);
    }

    fn dial_failed(&mut self, id: ConnectionId, replica: ReplicaId, e: io::Error) {
        if let Some(conn) = self.connections.remove(&id) {
            let line = format!("cannot connect: {e}");
            self.log_link(replica, &conn.address, &line);
            self.redial(replica, false);
            self.forget(conn);
        }
    }

    fn redial(&mut self, replica: ReplicaId, refused: bool) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let Some(link) = self.links.get_mut(&replica) else { return };
        let pause = link.down(self.now, refused, self.random);
        self.timers.push(Reverse((self.now + pause, Timer::Dial(replica))));
    }

    // --- counting and logging ---

    fn discard(&self, peer: Option<Peer>, why: Discard) {
        self.handle.shared.counters.discard(peer, why);
    }

    /// Logs a failure to reach a replica, unless it is the same as before.
    fn log_link(&mut self, replica: ReplicaId, address: &str, line: &str) {
        self.handle.shared.counters.last_error(Peer::Replica(replica), line.to_owned());
        let Some(link) = self.links.get_mut(&replica) else { return };
        if link.logged != line {
            log::warn!("net: replica {replica} at {} ({address}): {line}", link.remote.address);
            link.logged = line.to_owned();
        }
    }

    /// A few lines per second about what strangers do; counters tell the rest.
    fn may_log(&mut self) -> bool {
        if self.now.duration_since(self.log_second) >= Duration::from_secs(1) {
            self.log_second = self.now;
            self.log_lines = 0;
        }
        self.log_lines += 1;
        self.log_lines <= LOG_LINES_PER_SECOND
    }
}

/// Whether `me` dials `remote`: clients dial everyone, of two replicas the one with the higher id does.
fn dials(me: Peer, remote: ReplicaId) -> bool {
    match me {
        Peer::Replica(me) => me > remote,
        Peer::Client(_) => true,
    }
}

fn hello(config: &NetConfig, expected: u32) -> Hello {
    Hello { cluster: config.cluster, me: config.me, expected, tag: config.hello_tag }
}

/// Whether TCP has connected; `Err(None)` while it is still at it.
fn connected(conn: &Connection) -> Result<(), Option<io::Error>> {
    if let Ok(Some(e)) | Err(e) = conn.socket.take_error() {
        return Err(Some(e));
    }
    match conn.socket.peer_addr() {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotConnected => Err(None),
        Err(e) => Err(Some(e)),
    }
}

/// The counter a connection's end adds to.
fn counted(reason: &Closed) -> Option<Discard> {
    match reason {
        Closed::Tls(_) => Some(Discard::Tls),
        Closed::Frame(FrameError::TooLong { .. }) => Some(Discard::TooLong),
        Closed::Frame(FrameError::Flags) => Some(Discard::Flags),
        Closed::Frame(FrameError::Checksum) => Some(Discard::Checksum),
        Closed::NetKind => Some(Discard::NetKind),
        Closed::Refused { refusal, .. } => Some(Discard::Refused(*refusal)),
        Closed::GreetingTimeout => Some(Discard::GreetingTimeout),
        Closed::GreetingTooLong => Some(Discard::GreetingTooLong),
        Closed::Crowded => Some(Discard::Crowded),
        Closed::ByPeer
        | Closed::Io(_)
        | Closed::SlowReader
        | Closed::Replaced
        | Closed::Requested(_)
        | Closed::Stopped => None,
    }
}
