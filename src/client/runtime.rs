//! The client core on its threads, and the interface to it.
//!
//! | thread | runs | wakes |
//! |---|---|---|
//! | `duramen-net` | decoding, core and callbacks, once per poll; packs what callbacks submit | nobody, it sends itself |
//! | `duramen-client` | submissions from other threads; timers | the net thread |
//! | the caller of `invoke` | the core, if nothing else is outstanding: one wake-up less for a lone request | the net thread |
//!
//! The core's lock is held while it steps and while its frames are handed over (they keep their order), never while a
//! callback runs. Submissions go through an inbox of their own, so submitting waits for no packing and no signature.

use super::session::{
    ClientCore, ClientScheme, CoreConfig, Input, Link, Output, SAMPLE_ONE_IN, SessionHandle,
};
use super::{Outcome, reason};
use crate::config::{ClientAuth as ConfiguredAuth, Config, ConfigError, Durability, Transport};
use crate::execute::client_table::ClientTableLimits;
use crate::identity::Identity;
use crate::keys::ClientKeys;
use crate::net::{
    Closed, ConnectionId, Frame, From, Net, NetConfig, NetError, NetHandle, Peer, Receiver, Refusal, Remote,
    To, Transport as NetTransport, start,
};
use crate::types::*;
use crate::wire::auth::{ClientAuth, group_bytes};
use crate::wire::batch::{GROUP_HEADER_BYTES, Hasher, MAC_BYTES, REQUEST_HEADER_BYTES};
use crate::wire::messages::{Message, PROCESS_SESSION_BITS};
use bytes::Bytes;
use crossbeam::channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a client is told. [`ClientOptions::new`] fills in what serves most.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The cluster.
    pub config: Config,
    /// Who we are.
    pub keys: ClientKeys,
    /// Accepts plain links in Byzantine mode.
    pub insecure: bool,
    /// How long [`Client::connect`] waits for connections. Default 10 s.
    pub connect_timeout: Duration,
    /// How many replicas must be connected before [`Client::connect`] returns. `None`: a quorum.
    pub connect_to: Option<u32>,
    /// Deadline of calls that name none. Default 10 s.
    pub deadline: Duration,
    /// Requests outstanding at a time, of all sessions. Default 65,536.
    pub outstanding_max: usize,
    /// Bytes of their operations. Default 256 MiB. One request is always let in.
    pub outstanding_bytes_max: usize,
    /// Bytes at which a send-group closes. Default 256 KiB: several groups share a batch.
    pub group_bytes_max: usize,
    /// Requests at which a send-group closes. Default 1024.
    pub group_requests_max: usize,
}

impl ClientOptions {
    /// The defaults.
    pub fn new(config: Config, keys: ClientKeys) -> Self {
        Self {
            config,
            keys,
            insecure: false,
            connect_timeout: Duration::from_secs(10),
            connect_to: None,
            deadline: Duration::from_secs(10),
            outstanding_max: 1 << 16,
            outstanding_bytes_max: 256 << 20,
            group_bytes_max: 512 << 10,
            group_requests_max: 1024,
        }
    }
}

/// Why there is no client. Each displays as one line.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration forbids it.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The keys do not fit the configuration.
    #[error("{0}")]
    Keys(String),
    /// Sockets or threads.
    #[error("{0}")]
    Net(#[from] NetError),
    /// No thread, or no random bytes.
    #[error("the client cannot start: {0}")]
    System(String),
    /// So many replicas turned us down that no quorum is left.
    #[error("the cluster does not take this client: {0}")]
    Refused(String),
    /// Not enough connections in time.
    #[error("too few replicas answered within {}: {links}", human(*waited))]
    Unreachable {
        /// How long it was tried.
        waited: Duration,
        /// Each replica's state.
        links: String,
    },
}

fn human(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Why a request was not taken. Nothing of it has left this process.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many requests, or bytes of them, are outstanding as may be: wait for an outcome.
    #[error("{outstanding} requests are outstanding, as many as this client may have")]
    Busy {
        /// How many.
        outstanding: usize,
    },
    /// The operation is longer than the cluster takes.
    #[error("an operation of {bytes} bytes is longer than the {bytes_max} the cluster takes")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The cluster's bound.
        bytes_max: usize,
    },
}

/// How long [`Client::connect`] waits for the first attempts at the others once enough replicas are connected.
const OTHERS_WAIT: Duration = Duration::from_millis(250);

type Callback = Box<dyn FnOnce(Outcome) + Send>;

/// A client process: its connections, its sessions.
///
/// Cloning shares it. It ends when the last clone and the last [`Session`] are dropped; what is under way then ends as
/// unknown.
#[derive(Clone)]
pub struct Client {
    owner: Arc<Owner>,
}

/// A session: its operations execute in the order they were submitted.
///
/// Safe to use from several threads. Dropping it lets what was submitted end as it would.
pub struct Session {
    owner: Arc<Owner>,
    handle: SessionHandle,
}

/// Stops the threads when nobody can call any more.
struct Owner {
    shared: Arc<Shared>,
    net: Option<Net>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    core: Mutex<State>,
    inbox: Mutex<Vec<Input<Callback>>>,
    outstanding: AtomicUsize,
    outstanding_bytes: AtomicUsize,
    outstanding_max: usize,
    outstanding_bytes_max: usize,
    request_bytes_max: usize,
    deadline: Duration,
    started: Instant,
    net: OnceLock<NetHandle>,
    /// Something waits in the inbox that nobody has taken on.
    scheduled: AtomicBool,
    /// When `duramen-client` wakes by itself, nanoseconds as [`Tick`].
    parked_until: AtomicU64,
    thread: OnceLock<std::thread::Thread>,
    stopping: AtomicBool,
    links_changed: Condvar,
}

struct State {
    core: ClientCore<Callback>,
    out: Vec<Output<Callback>>,
}

thread_local! {
    /// The client whose callbacks run on this thread at the moment: what they submit is taken on when they return.
    static IN_TURN: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

impl Client {
    /// Connects to all replicas and waits for enough of them: a quorum, or [`ClientOptions::connect_to`].
    ///
    /// Then first attempts at the others get 250 ms more. Returns at once when so many refuse that no quorum is left.
    /// Replicas that are not there yet are tried for as long as the client lives.
    pub fn connect(options: ClientOptions) -> Result<Client, ClientError> {
        let ClientOptions { config, keys, .. } = &options;
        config.check_transport(options.insecure)?;
        let entry = config
            .client(keys.id)
            .ok_or_else(|| ClientError::Keys(format!("the configuration has no client {}", keys.id)))?;
        if keys.cluster != config.cluster || entry.key != keys.public_key() {
            return Err(ClientError::Keys(format!("these are not the keys of client {} there", entry.name)));
        }
        let mut random = [0; 16];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| ClientError::System("the operating system gave no random bytes".into()))?;
        let (process, seed) = random.split_at(8);
        let process = u64::from_le_bytes(process.try_into().expect("8 bytes")) >> PROCESS_SESSION_BITS;
        let seed = u64::from_le_bytes(seed.try_into().expect("8 bytes"));
        let shared = Arc::new(Shared::new(&options, process.max(1), seed));
        let receiver = Inlet {
            shared: shared.clone(),
            connections: vec![None; config.group().n() as usize],
            arrived: Vec::new(),
        };
        let net = start(net_config(&options, entry.key), Box::new(receiver))?;
        shared.net.set(net.handle()).unwrap_or_else(|_| unreachable!("set once"));
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("duramen-client".into())
            .spawn(move || worker.run())
            .map_err(|e| ClientError::System(e.to_string()))?;
        shared.thread.set(thread.thread().clone()).unwrap_or_else(|_| unreachable!("set once"));
        let client = Client { owner: Arc::new(Owner { shared, net: Some(net), thread: Some(thread) }) };
        // Connections may stand already; what they have to say waits for the net's handle.
        client.shared().wake();
        client.wait_for_links(&options)?;
        Ok(client)
    }

    fn wait_for_links(&self, options: &ClientOptions) -> Result<(), ClientError> {
        let shared = self.shared();
        let until = Instant::now() + options.connect_timeout;
        let quorum = options.config.group().quorum();
        let mut state = shared.core.lock();
        let mut enough_since = None;
        loop {
            shared.note_dial_errors(&mut state);
            let (now, connected) = (Instant::now(), state.core.connected());
            let enough = match options.connect_to {
                None => quorum.reached_by(connected),
                Some(count) => connected.count() >= count,
            };
            if enough {
                // The others are mostly a moment behind, and one of them may lead.
                let since = *enough_since.get_or_insert(now);
                let pending = state.core.links().contains(&Link::Connecting);
                if !pending || now - since >= OTHERS_WAIT || now >= until {
                    return Ok(());
                }
            } else if state.core.shut_out() && options.connect_to.is_none() {
                return Err(ClientError::Refused(state.core.describe_links()));
            } else if now >= until {
                let links = state.core.describe_links();
                return Err(ClientError::Unreachable { waited: options.connect_timeout, links });
            }
            // Failed attempts do not notify.
            shared.links_changed.wait_for(&mut state, Duration::from_millis(20));
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// A new session. It costs nothing until its first request, which opens it.
    pub fn session(&self) -> Session {
        let handle = self.shared().core.lock().core.session();
        Session { owner: self.owner.clone(), handle }
    }

    /// Reads: `operation` must not write. Linearizable, without the order where possible (RULES 9).
    ///
    /// `deadline` counts from now; `None`: [`ClientOptions::deadline`].
    pub fn read(&self, operation: impl Into<Bytes>, deadline: Option<Duration>) -> Outcome {
        not_taken(self.call_read(operation, deadline))
    }

    /// As [`Client::read`], and says what was not taken at all.
    pub fn call_read(
        &self,
        operation: impl Into<Bytes>,
        deadline: Option<Duration>,
    ) -> Result<Outcome, SubmitError> {
        wait(self.shared(), operation.into(), deadline, |operation, deadline, token| Input::Read {
            operation,
            deadline,
            token,
        })
    }

    /// As [`Client::read`]; the outcome goes to `callback`, as with [`Session::submit`].
    pub fn submit_read(
        &self,
        operation: impl Into<Bytes>,
        deadline: Option<Duration>,
        callback: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<(), SubmitError> {
        let (operation, token) = (operation.into(), Box::new(callback));
        let deadline = self.shared().deadline(deadline);
        self.shared().submit(operation.len(), Input::Read { operation, deadline, token })?;
        self.shared().wake();
        Ok(())
    }

    /// A replica's own state as one JSON object; the reason if it does not answer in time.
    pub fn status(&self, replica: ReplicaId, deadline: Option<Duration>) -> Result<String, String> {
        self.ask_status(replica, false, deadline)
    }

    /// As [`Client::status`], with `digest_seq` and `state_digest`: the digest of service state and client table after the
    /// place executed last. Equal on correct replicas at equal places. It reads all of the state, in sequence with
    /// executions, so a replica computes it once a second at most: in between `digest_seq` is null. Ask again.
    pub fn status_with_digest(
        &self,
        replica: ReplicaId,
        deadline: Option<Duration>,
    ) -> Result<String, String> {
        self.ask_status(replica, true, deadline)
    }

    fn ask_status(
        &self,
        replica: ReplicaId,
        digest: bool,
        deadline: Option<Duration>,
    ) -> Result<String, String> {
        let shared = self.shared();
        let (sender, outcome) = bounded(1);
        let token: Callback = Box::new(move |outcome| drop(sender.send(outcome)));
        let deadline = shared.deadline(deadline);
        shared.note_dial_errors(&mut shared.core.lock());
        shared.inbox.lock().push(Input::Status { replica, digest, deadline, token });
        shared.wake();
        match outcome.recv() {
            Ok(Outcome::Done(json)) => Ok(String::from_utf8_lossy(&json).into_owned()),
            Ok(Outcome::NotExecuted(why) | Outcome::UnknownOutcome(why) | Outcome::Fail(why)) => Err(why),
            Err(_) => Err(reason::CLOSED.into()),
        }
    }

    /// The way to each replica, in the order of their ids.
    pub fn links(&self) -> Vec<Link> {
        let mut state = self.shared().core.lock();
        self.shared().note_dial_errors(&mut state);
        state.core.links().to_vec()
    }

    /// The replica believed to lead.
    pub fn leader(&self) -> ReplicaId {
        self.shared().core.lock().core.leader()
    }

    /// Requests submitted whose place is not free again.
    pub fn outstanding(&self) -> usize {
        self.shared().outstanding.load(Ordering::Relaxed)
    }
}

impl Session {
    /// Executes `operation` and waits for its outcome.
    ///
    /// `deadline` counts from now; `None`: [`ClientOptions::deadline`]. Not to be called from a callback: it would wait
    /// for its own thread.
    pub fn invoke(&self, operation: impl Into<Bytes>, deadline: Option<Duration>) -> Outcome {
        not_taken(self.call(operation, deadline))
    }

    /// As [`Session::invoke`], and says what was not taken at all.
    pub fn call(
        &self,
        operation: impl Into<Bytes>,
        deadline: Option<Duration>,
    ) -> Result<Outcome, SubmitError> {
        let session = self.handle;
        wait(&self.owner.shared, operation.into(), deadline, |operation, deadline, token| Input::Submit {
            session,
            operation,
            deadline,
            token,
        })
    }

    /// Queues `operation`; `callback` gets its outcome, exactly once if this returns `Ok`.
    ///
    /// Callbacks run on the client's threads: they must be short and must not block. What they submit leaves together.
    pub fn submit(
        &self,
        operation: impl Into<Bytes>,
        deadline: Option<Duration>,
        callback: impl FnOnce(Outcome) + Send + 'static,
    ) -> Result<(), SubmitError> {
        let shared = &self.owner.shared;
        let (operation, token) = (operation.into(), Box::new(callback));
        let deadline = shared.deadline(deadline);
        let bytes = operation.len();
        shared.submit(bytes, Input::Submit { session: self.handle, operation, deadline, token })?;
        shared.wake();
        Ok(())
    }

    /// As [`Session::submit`], to be polled: `(tag, outcome)` is sent to `done`, which should have room for all that is
    /// outstanding (outcomes without room, or without a receiver, are dropped).
    pub fn submit_to(
        &self,
        operation: impl Into<Bytes>,
        deadline: Option<Duration>,
        tag: u64,
        done: &Sender<(u64, Outcome)>,
    ) -> Result<(), SubmitError> {
        let done = done.clone();
        self.submit(operation, deadline, move |outcome| drop(done.try_send((tag, outcome))))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.owner.shared.inbox.lock().push(Input::Close(self.handle));
        self.owner.shared.wake();
    }
}

/// Nothing of it has left this process: it was not executed.
fn not_taken(outcome: Result<Outcome, SubmitError>) -> Outcome {
    outcome.unwrap_or_else(|why| Outcome::NotExecuted(why.to_string()))
}

/// Submits and blocks until the outcome is there.
fn wait(
    shared: &Arc<Shared>,
    operation: Bytes,
    deadline: Option<Duration>,
    input: impl FnOnce(Bytes, Tick, Callback) -> Input<Callback>,
) -> Result<Outcome, SubmitError> {
    assert!(!shared.in_turn(), "a blocking call inside a callback would wait for its own thread: use submit");
    let (sender, outcome) = bounded(1);
    let token: Callback = Box::new(move |outcome| drop(sender.send(outcome)));
    let bytes = operation.len();
    let outstanding = shared.submit(bytes, input(operation, shared.deadline(deadline), token))?;
    if outstanding == 1 {
        shared.turn(&mut Vec::new());
    } else {
        shared.wake();
    }
    // The core ends every call at its deadline; the sender is lost only with the core.
    Ok(outcome.recv().unwrap_or_else(|_| Outcome::UnknownOutcome(reason::CLOSED.into())))
}

impl Shared {
    fn new(options: &ClientOptions, process: u64, seed: u64) -> Self {
        let ClientOptions { config, keys, .. } = options;
        let retry = Duration::from_millis((config.view_timeout_ms / 2).max(50));
        let core = CoreConfig {
            client: keys.id,
            process,
            members: config.group(),
            hasher: Hasher { cluster: config.cluster, algorithm: config.digest },
            one_replies: !config.group().byzantine() && config.durability == Durability::Vote,
            replies_stand: config.durability == Durability::Vote,
            auth: match config.client_auth {
                ConfiguredAuth::Signature => ClientAuth::Signature,
                ConfiguredAuth::Mac => ClientAuth::Mac,
                ConfiguredAuth::Channel => ClientAuth::Channel,
            },
            group_bytes_max: options.group_bytes_max.min(config.limits.batch_bytes),
            group_requests_max: options.group_requests_max.clamp(1, config.limits.batch_requests),
            session_sent_max: ClientTableLimits::default().replies_max,
            retry_ns: retry.as_nanos() as u64,
            retry_ns_max: retry.as_nanos() as u64 * 16,
            sample_one_in: if config.group().byzantine() { SAMPLE_ONE_IN } else { 0 },
            seed,
        };
        let scheme = Box::new(Keys {
            cluster: config.cluster,
            identity: Identity::from_seed(keys.seed),
            macs: keys.macs.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect(),
        });
        Self {
            core: Mutex::new(State { core: ClientCore::new(core, scheme), out: Vec::new() }),
            inbox: Mutex::new(Vec::new()),
            outstanding: AtomicUsize::new(0),
            outstanding_bytes: AtomicUsize::new(0),
            outstanding_max: options.outstanding_max,
            outstanding_bytes_max: options.outstanding_bytes_max,
            request_bytes_max: config.limits.request_bytes,
            deadline: options.deadline,
            started: Instant::now(),
            net: OnceLock::new(),
            scheduled: AtomicBool::new(false),
            parked_until: AtomicU64::new(0),
            thread: OnceLock::new(),
            stopping: AtomicBool::new(false),
            links_changed: Condvar::new(),
        }
    }

    fn now(&self) -> Tick {
        // Not 0: that is where time starts.
        Tick(self.started.elapsed().as_nanos() as u64 + 1)
    }

    fn deadline(&self, deadline: Option<Duration>) -> Tick {
        let ns = u64::try_from(deadline.unwrap_or(self.deadline).as_nanos()).unwrap_or(u64::MAX);
        Tick(self.now().0.saturating_add(ns))
    }

    /// Lets a request in, if it fits, and returns how many are outstanding with it.
    fn submit(&self, bytes: usize, input: Input<Callback>) -> Result<usize, SubmitError> {
        if bytes > self.request_bytes_max {
            return Err(SubmitError::TooLarge { bytes, bytes_max: self.request_bytes_max });
        }
        let before = self.outstanding.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.outstanding_bytes.fetch_add(bytes, Ordering::Relaxed);
        let too_many = before >= self.outstanding_max || bytes_before + bytes > self.outstanding_bytes_max;
        if too_many && before > 0 {
            self.release(1, bytes);
            return Err(SubmitError::Busy { outstanding: before });
        }
        self.inbox.lock().push(input);
        Ok(before + 1)
    }

    fn release(&self, requests: usize, bytes: usize) {
        self.outstanding.fetch_sub(requests, Ordering::Relaxed);
        self.outstanding_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn in_turn(&self) -> bool {
        IN_TURN.get() == std::ptr::from_ref(self)
    }

    /// Sees to it that the inbox is looked at.
    fn wake(&self) {
        if self.in_turn() || self.scheduled.swap(true, Ordering::SeqCst) {
            return;
        }
        self.unpark();
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// `duramen-client`.
    fn run(self: Arc<Self>) {
        let mut none = Vec::new();
        while !self.stopping.load(Ordering::SeqCst) {
            self.turn(&mut none);
            self.links_changed.notify_all();
            // Under the core's lock: a turn elsewhere that wants an earlier time comes before and is seen here, or comes
            // after and sees what we plan.
            let next = {
                let state = self.core.lock();
                let next = state.core.next_wakeup();
                self.parked_until.store(next.map_or(u64::MAX, |at| at.0), Ordering::SeqCst);
                next
            };
            if self.scheduled.load(Ordering::SeqCst) || self.stopping.load(Ordering::SeqCst) {
                continue;
            }
            match next {
                Some(at) => std::thread::park_timeout(Duration::from_nanos(at.since(self.now()))),
                None => std::thread::park(),
            }
            // Awake: nobody needs to wake us for a timer before we park again.
            self.parked_until.store(0, Ordering::SeqCst);
            if !self.scheduled.load(Ordering::SeqCst) {
                self.refresh_dial_errors();
            }
        }
        self.inbox.lock().push(Input::Shutdown);
        self.turn(&mut none);
    }

    /// Feeds the core with what arrived and what was submitted, sends, runs callbacks, and once more with what these
    /// submitted.
    fn turn(&self, arrived: &mut Vec<Input<Callback>>) {
        let mut next = None;
        for _ in 0..2 {
            let mut finished: Vec<(Callback, Outcome)> = Vec::new();
            {
                let mut state = self.core.lock();
                let State { core, out } = &mut *state;
                let Some(net) = self.net.get() else { return };
                let now = self.now();
                for input in arrived.drain(..) {
                    core.step(now, input, out);
                }
                self.scheduled.store(false, Ordering::SeqCst);
                // Taken under the core's lock: sessions' requests keep their order.
                let submitted = std::mem::take(&mut *self.inbox.lock());
                for input in submitted {
                    core.step(now, input, out);
                }
                core.flush(now, out);
                let mut frames: Vec<(To, Frame)> = Vec::new();
                for output in out.drain(..) {
                    match output {
                        Output::Send(to, message) => {
                            let (kind, head, tail) = message.encode();
                            let frame = Frame::of_parts(kind, [Some(head), tail].into_iter().flatten());
                            frames.extend(to.iter().map(|r| (To::Replica(r), frame.clone())));
                        }
                        Output::Finished(callback, outcome) => finished.push((callback, outcome)),
                        Output::Released(requests, bytes) => self.release(requests, bytes),
                    }
                }
                next = core.next_wakeup();
                // Under the lock too: two threads must not swap their groups.
                net.send_batch(frames);
            }
            if finished.is_empty() {
                break;
            }
            let outer = IN_TURN.replace(std::ptr::from_ref(self));
            for (callback, outcome) in finished {
                // A caller's mistake must not end the thread that all calls depend on.
                if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
                    log::error!("client: a completion callback panicked");
                }
            }
            IN_TURN.set(outer);
            if self.inbox.lock().is_empty() {
                break;
            }
        }
        if !self.inbox.lock().is_empty() {
            self.wake();
        }
        if next.is_some_and(|at| at.0 < self.parked_until.load(Ordering::SeqCst)) {
            self.unpark();
        }
    }

    /// What the net thread knows of attempts that never became a connection.
    fn note_dial_errors(&self, state: &mut State) {
        let Some(net) = self.net.get() else { return };
        let now = self.now();
        for (peer, line) in net.stats().last_errors {
            let Peer::Replica(r) = peer else { continue };
            if matches!(state.core.links().get(r.index()), Some(Link::Connecting | Link::Down(_))) {
                let State { core, out } = state;
                core.step(now, Input::Disconnected(r, line), out);
            }
        }
    }

    fn refresh_dial_errors(&self) {
        let mut state = self.core.lock();
        if state.core.links().iter().any(|link| matches!(link, Link::Connecting | Link::Down(_))) {
            self.note_dial_errors(&mut state);
        }
    }
}

/// The net thread's way in.
struct Inlet {
    shared: Arc<Shared>,
    /// The connection that counts, by replica.
    connections: Vec<Option<ConnectionId>>,
    arrived: Vec<Input<Callback>>,
}

impl Inlet {
    fn link_changed(&mut self, input: Input<Callback>) {
        self.arrived.push(input);
        if self.shared.net.get().is_some() {
            self.shared.turn(&mut self.arrived);
            self.shared.links_changed.notify_all();
        } else {
            // So early that the handle is not there: `connect` wakes the client thread when it is.
            self.shared.inbox.lock().append(&mut self.arrived);
            self.shared.wake();
        }
    }
}

impl Receiver for Inlet {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let Peer::Replica(r) = from.peer else { return };
        match Message::decode(kind, payload) {
            Ok(message) => self.arrived.push(Input::Message(r, message)),
            Err(why) => {
                log::warn!("client: replica {r} sent what is no message: {why}");
                if let Some(net) = self.shared.net.get() {
                    net.disconnect(from.connection, &format!("not a message: {why}"));
                }
            }
        }
    }

    fn connected(&mut self, from: &From) {
        let Peer::Replica(r) = from.peer else { return };
        if let Some(connection) = self.connections.get_mut(r.index()) {
            *connection = Some(from.connection);
            self.link_changed(Input::Connected(r));
        }
    }

    fn disconnected(&mut self, from: &From, reason: &Closed) {
        let Peer::Replica(r) = from.peer else { return };
        // A connection that was replaced is no loss.
        if self.connections.get(r.index()) == Some(&Some(from.connection)) {
            self.connections[r.index()] = None;
            self.link_changed(Input::Disconnected(r, reason.to_string()));
        }
    }

    fn refused(&mut self, replica: ReplicaId, refusal: Refusal, text: &str) {
        let why = if text.is_empty() { refusal.to_string() } else { format!("{refusal}: {text}") };
        let input = match refusal {
            // Passes when others leave.
            Refusal::TooManyConnections => Input::Disconnected(replica, why),
            _ => Input::Refused(replica, why),
        };
        self.link_changed(input);
    }

    fn end_of_poll(&mut self) {
        if !self.arrived.is_empty() {
            self.shared.turn(&mut self.arrived);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.unpark();
        let (mut net, thread) = (self.net.take(), self.thread.take());
        let stop = move || {
            // The last words of the client thread still go out.
            if let Some(thread) = thread {
                let _ = thread.join();
            }
            if let Some(net) = &mut net {
                net.stop();
            }
        };
        if self.shared.in_turn() {
            // Dropped by a callback: its thread cannot wait for itself.
            std::thread::spawn(stop);
        } else {
            stop();
        }
    }
}

struct Keys {
    cluster: ClusterId,
    identity: Identity,
    macs: Vec<hmac::Key>,
}

impl ClientScheme for Keys {
    fn sign(&self, digest: &Digest) -> Vec<u8> {
        self.identity.sign(&group_bytes(&self.cluster, digest)).to_vec()
    }

    fn macs(&self, digest: &Digest) -> Vec<u8> {
        let bytes = group_bytes(&self.cluster, digest);
        let tags = self.macs.iter().map(|key| hmac::sign(key, &bytes));
        tags.flat_map(|tag| tag.as_ref()[..MAC_BYTES].to_vec()).collect()
    }
}

fn net_config(options: &ClientOptions, key: [u8; 32]) -> NetConfig {
    let ClientOptions { config, keys, .. } = options;
    let replicas =
        config.replicas.iter().map(|r| Remote { id: r.id, address: r.address.clone(), key: r.key }).collect();
    let me = Peer::Client(keys.id);
    let mut net = NetConfig::new(config.cluster, me, replicas, Identity::from_seed(keys.seed));
    net.client_keys.insert(keys.id, key);
    net.transport = match config.transport {
        Transport::Tls => NetTransport::Tls,
        Transport::Plain => NetTransport::Plain,
    };
    net.hello_tag = config.fingerprint();
    // All that may be outstanding, sent again while it still waits to be sent.
    let largest = config.limits.request_bytes + REQUEST_HEADER_BYTES + GROUP_HEADER_BYTES + (64 << 10);
    net.replica_queue_bytes_max = 2 * options.outstanding_bytes_max.max(largest);
    net.commands_bytes_max = net.replica_queue_bytes_max;
    net.frame_bytes_max = net.frame_bytes_max.max(u32::try_from(largest).unwrap_or(u32::MAX));
    net
}
