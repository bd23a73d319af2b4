//! SOCKETS: bytes in and out; knows frames, not messages.
//!
//! One thread per process, `duramen-net`, with one mio `Poll`. Replicas listen, dial each other and accept clients; the client
//! library only dials replicas. Names are looked up on a second thread, `duramen-dns`, started only when an address is a name.
//!
//! **What a connection promises.** Between `connected` and `disconnected` frames arrive whole, unchanged, in the order they were
//! sent, without gaps, from the peer named. Nothing holds across connections: what waits for a peer when its connection
//! ends is thrown away, and what is sent to it while there is none is discarded and counted. Whoever needs an answer asks again.
//!
//! **Which connections there are.** One per pair of replicas: the one with the higher id dials. A new one of the same replica
//! replaces the old, whose frames are not delivered any more. A client dials all replicas; one client key may hold several
//! connections, up to a cap.
//!
//! **Who closes, and why** ([`Closed`](crate::net::Closed)): the peer; a read or write error; bytes that are no frame; a greeting refused, too
//! slow or too long; a client that does not read;
//! [`disconnect`](crate::net::NetHandle::disconnect); [`stop`](crate::net::Net::stop). A replica's full queue never closes:
//! the newest frame is discarded and the protocol repairs.
//!
//! **Memory a peer can claim.** Unknown: at most `unknown_max` connections with one greeting each. Known: one frame being received
//! (committed as bytes arrive) and its outbound queue; all clients' queues together are bounded too.

mod connection;
mod dial;
mod doorbell;
mod event_loop;
pub mod framing;
pub mod hello;
mod outbound;
mod stats;
mod tls;

#[cfg(test)]
mod dial_tests;
#[cfg(test)]
mod framing_tests;
#[cfg(test)]
mod hello_tests;
#[cfg(test)]
mod loopback_tests;
#[cfg(test)]
mod outbound_tests;

pub use framing::{Frame, FrameError};
pub use hello::Refusal;
pub use stats::{ConnectionStats, Discard, Stats};

use crate::identity::{Identity, PublicKey};
use crate::sync::channel::{Receiver as Queue, Sender, unbounded};
use crate::types::{ClientId, ClusterId, ReplicaId};
use bytes::Bytes;
use doorbell::Doorbell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Who is at an end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Peer {
    /// A member of the group.
    Replica(ReplicaId),
    /// The holder of a client key.
    Client(ClientId),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Replica(r) => write!(f, "replica {r}"),
            Peer::Client(c) => write!(f, "client {c}"),
        }
    }
}

/// A connection; unique in the life of the process, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// As a plain number, for those who know nothing of connections.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Back from [`ConnectionId::number`].
    pub fn of_number(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a frame came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct From {
    /// Who sent it: proved by TLS, only claimed in plain transport.
    pub peer: Peer,
    /// Over which connection: the address of an answer.
    pub connection: ConnectionId,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum To {
    /// To one replica, over whatever connection there is.
    Replica(ReplicaId),
    /// Over this connection or nowhere.
    Connection(ConnectionId),
    /// To every replica but this one.
    AllReplicas,
}

/// Link security.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TLS 1.3, both sides prove the key configured for them.
    Tls,
    /// Neither encryption nor authentication: only for a network the operator trusts.
    Plain,
}

/// A replica as others reach and recognise it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its id.
    pub id: ReplicaId,
    /// `host:port`; the host is an address or a name.
    pub address: String,
    /// Its public key.
    pub key: PublicKey,
}

/// Everything `net` is told. [`NetConfig::new`] fills in limits that serve most.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The cluster; another one's peers are refused.
    pub cluster: ClusterId,
    /// This process.
    pub me: Peer,
    /// `host:port` to listen on; port 0 takes a free one. Only replicas listen.
    pub listen: Option<String>,
    /// All replicas; this one may be among them.
    pub replicas: Vec<Remote>,
    /// Clients that may connect, and their keys.
    pub client_keys: HashMap<ClientId, PublicKey>,
    /// Name of the thread.
    pub thread: &'static str,
    /// Whether it comes after all others of the machine.
    pub steps_back: bool,
    /// Our private key.
    pub identity: Identity,
    /// Link security, the same on both sides.
    pub transport: Transport,
    /// A fingerprint of what both sides must have configured alike (fault model, digest algorithm, ...).
    pub hello_tag: [u8; 8],
    /// Largest payload between replicas and to clients.
    pub frame_bytes_max: u32,
    /// Largest payload a client may send.
    pub client_frame_bytes_max: u32,
    /// Bytes that may wait for one replica.
    pub replica_queue_bytes_max: usize,
    /// Bytes that may wait for one client connection.
    pub client_queue_bytes_max: usize,
    /// Bytes that may wait for all client connections; beyond it those with more than their share are closed.
    pub clients_queue_bytes_max: usize,
    /// Bytes of frames handed to the net thread that it has not looked at yet.
    pub commands_bytes_max: usize,
    /// Bytes read from one connection before the others have their turn.
    pub read_quota_bytes: usize,
    /// Connections that have not said who they are.
    pub unknown_max: usize,
    /// Connections accepted per second, after a burst of as many: each may cost a TLS handshake.
    pub accepts_per_second: u32,
    /// From connecting or accepting to the end of the greeting.
    pub greeting_timeout: Duration,
    /// Bytes read from a connection before it has said who it is.
    pub greeting_bytes_max: usize,
    /// Connections under one client key.
    pub connections_per_client_max: usize,
    /// Client connections altogether.
    pub client_connections_max: usize,
    /// A peer that acknowledges nothing for so long is taken for dead.
    pub dead_after: Duration,
}

impl NetConfig {
    /// A configuration with the default limits, TLS, no listener, no clients and a zero tag.
    pub fn new(cluster: ClusterId, me: Peer, replicas: Vec<Remote>, identity: Identity) -> Self {
        Self {
            cluster,
            me,
            listen: None,
            replicas,
            client_keys: HashMap::new(),
            thread: "duramen-net",
            steps_back: false,
            identity,
            transport: Transport::Tls,
            hello_tag: [0; 8],
            frame_bytes_max: 64 << 20,
            client_frame_bytes_max: 8 << 20,
            replica_queue_bytes_max: 64 << 20,
            client_queue_bytes_max: 8 << 20,
            clients_queue_bytes_max: 256 << 20,
            commands_bytes_max: 256 << 20,
            read_quota_bytes: 256 << 10,
            unknown_max: 256,
            accepts_per_second: 1000,
            greeting_timeout: Duration::from_secs(5),
            greeting_bytes_max: 4096,
            connections_per_client_max: 16,
            client_connections_max: 4096,
            dead_after: Duration::from_secs(10),
        }
    }
}

/// Takes what arrives. Called on the net thread: it must not block, or nothing moves.
pub trait Receiver: Send {
    /// A frame from a known peer.
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes);

    /// A peer is known and can be sent to; what mattered before must be sent again.
    fn connected(&mut self, from: &From);

    /// No frame of this connection follows.
    fn disconnected(&mut self, from: &From, reason: &Closed);

    /// A replica that we dial turns us down, or we it; tried again every few seconds.
    fn refused(&mut self, _replica: ReplicaId, _refusal: Refusal, _text: &str) {}

    /// Until when no more is to be read of this peer, asked after each read; others are read meanwhile.
    fn rests(&mut self, _from: &From) -> Option<std::time::Instant> {
        None
    }

    /// What was sent to a replica in bulk has drained: there is room for more.
    fn room(&mut self, _from: &From) {}

    /// Frames were delivered since the last call and no more are at hand: time to pass batches on.
    fn end_of_poll(&mut self);
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Closed {
    /// The peer closed it.
    #[error("closed by the peer")]
    ByPeer,
    /// The system says so.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(String),
    /// The bytes are no frame.
    #[error("{0}")]
    Frame(FrameError),
    /// A greeting after the greeting.
    #[error("a frame kind that only greetings use")]
    NetKind,
    /// The peer does not read what it is sent.
    #[error("does not read what it is sent")]
    SlowReader,
    /// The same replica connected again.
    #[error("replaced by a newer connection")]
    Replaced,
    /// [`NetHandle::disconnect`].
    #[error("{0}")]
    Requested(String),
    /// [`Net::stop`].
    #[error("stopped")]
    Stopped,
    /// Turned down at the greeting by us (`ours`) or by the peer.
    #[error("{}: {refusal}: {text}", if *ours { "refused" } else { "refused by the peer" })]
    Refused {
        /// Why.
        refusal: Refusal,
        /// Details, one line.
        text: String,
        /// Whether we refused.
        ours: bool,
    },
    /// No greeting in time.
    #[error("no greeting in time")]
    GreetingTimeout,
    /// Too many bytes before a greeting.
    #[error("too many bytes before a greeting")]
    GreetingTooLong,
    /// The oldest of too many unknown connections.
    #[error("too many connections that do not greet")]
    Crowded,
}

/// Why `net` does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The listen address is unusable: busy, not ours, no such name.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A client is told to listen.
    #[error("only replicas listen")]
    ClientListens,
    /// The private key is not the one whose public half is configured.
    #[error("the private key of {0} does not belong to the public key configured for it")]
    WrongIdentity(Peer),
    /// Two replicas with one id.
    #[error("replica {0} is configured twice")]
    Twice(ReplicaId),
    /// rustls refuses.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The system refuses a poll or a thread.
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
}

enum Command {
    Send(To, Frame),
    SendBatch(Vec<(To, Frame)>),
    Disconnect(ConnectionId, String),
    PauseClients(bool),
    Resolved(dial::Resolved),
    Stop,
}

impl Command {
    /// What it adds to the bytes under way to the net thread.
    fn bytes(&self) -> usize {
        let cost = |frame: &Frame| frame.wire_bytes() + outbound::FRAME_COST;
        match self {
            Command::Send(_, frame) => cost(frame),
            Command::SendBatch(batch) => batch.iter().map(|(_, frame)| cost(frame)).sum(),
            _ => 0,
        }
    }
}

struct Shared {
    waker: mio::Waker,
    bell: Doorbell,
    commands_bytes: AtomicUsize,
    commands_bytes_max: usize,
    local: Option<SocketAddr>,
    counters: stats::Counters,
}

/// Sends, from any thread. Cloning is cheap.
#[derive(Clone)]
pub struct NetHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl NetHandle {
    /// Hands a frame to the net thread; never blocks. Whether it arrives is up to the connection (see the module).
    pub fn send(&self, to: To, frame: Frame) {
        self.command(Command::Send(to, frame));
    }

    /// Hands over several frames at once; they keep their order.
    pub fn send_batch(&self, batch: Vec<(To, Frame)>) {
        if !batch.is_empty() {
            self.command(Command::SendBatch(batch));
        }
    }

    /// Closes a connection; what waits for it is thrown away.
    pub fn disconnect(&self, connection: ConnectionId, reason: &str) {
        self.command(Command::Disconnect(connection, reason.to_owned()));
    }

    /// Stops or resumes reading from clients: back-pressure. Replicas are always read.
    pub fn pause_clients(&self, pause: bool) {
        self.command(Command::PauseClients(pause));
    }

    /// All counters as they are now.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Where we listen.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.local
    }

    fn command(&self, command: Command) {
        let bytes = command.bytes();
        let before = self.shared.commands_bytes.fetch_add(bytes, Ordering::Relaxed);
        if bytes > 0 && before > 0 && before + bytes > self.shared.commands_bytes_max {
            self.shared.commands_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return self.shared.counters.discard(None, Discard::NetBusy);
        }
        if self.commands.send(command).is_err() {
            return; // stopped
        }
        if self.shared.bell.ring() {
            self.shared.counters.wakes.fetch_add(1, Ordering::Relaxed);
            if let Err(e) = self.shared.waker.wake() {
                log::error!("net: cannot wake the net thread: {e}");
            }
        }
    }
}

/// The running net thread. Dropping it stops it.
pub struct Net {
    handle: NetHandle,
    done: Queue<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// How long [`Net::stop`] waits for the thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Net {
    /// For sending, and for other threads.
    pub fn handle(&self) -> NetHandle {
        self.handle.clone()
    }

    /// Whether the net thread still runs; it ends early only when the receiver panics.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Sends what is queued (for up to 200 ms), closes everything and waits for the thread, up to 2 s.
    ///
    /// Returns whether the thread ended well: not by a panic, and in time.
    pub fn stop(&mut self) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        self.handle.command(Command::Stop);
        // The thread drops its sender when it ends, however it ends.
        if matches!(self.done.recv_timeout(STOP_TIMEOUT), Err(e) if e.is_timeout()) {
            log::error!("net: the net thread does not stop; its receiver seems to block");
            return false;
        }
        thread.join().is_ok()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Binds, and starts the net thread.
pub fn start(config: NetConfig, receiver: Box<dyn Receiver>) -> Result<Net, NetError> {
    check(&config)?;
    let poll = mio::Poll::new()?;
    let listener = config.listen.as_deref().map(listen).transpose()?;
    let (commands, queue) = unbounded();
    let shared = Arc::new(Shared {
        waker: mio::Waker::new(poll.registry(), event_loop::WAKER)?,
        bell: Doorbell::default(),
        commands_bytes: AtomicUsize::new(0),
        commands_bytes_max: config.commands_bytes_max,
        local: listener.as_ref().map(|l| l.local_addr()).transpose()?,
        counters: stats::Counters::default(),
    });
    let handle = NetHandle { commands, shared };
    let (thread, steps_back) = (config.thread, config.steps_back);
    let event_loop = event_loop::EventLoop::new(config, poll, listener, queue, handle.clone(), receiver)?;
    let (ended, done) = crossbeam::channel::bounded(0);
    let thread = std::thread::Builder::new().name(thread.into()).spawn(move || {
        let _ended: Sender<()> = ended;
        if steps_back {
            crate::sys::step_back();
        }
        event_loop.run();
    })?;
    Ok(Net { handle, done, thread: Some(thread) })
}

fn check(config: &NetConfig) -> Result<(), NetError> {
    let mut ids: Vec<_> = config.replicas.iter().map(|r| r.id).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(NetError::Twice(twice[0]));
    }
    if config.listen.is_some() && matches!(config.me, Peer::Client(_)) {
        return Err(NetError::ClientListens);
    }
    let configured = match config.me {
        Peer::Replica(me) => config.replicas.iter().find(|r| r.id == me).map(|r| r.key),
        Peer::Client(me) => config.client_keys.get(&me).copied(),
    };
    // Plain transport uses no keys.
    if config.transport == Transport::Tls && configured.is_some_and(|key| key != config.identity.public_key())
    {
        return Err(NetError::WrongIdentity(config.me));
    }
    Ok(())
}

fn listen(address: &str) -> Result<mio::net::TcpListener, NetError> {
    let fail = |source| NetError::Listen { address: address.to_owned(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs().map_err(fail)? {
        match mio::net::TcpListener::bind(candidate) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(fail(last))
}
