//! The thread under `transfer`: states of the host to peers, and one from them, over sockets of the cluster's replicas.

use super::bell::Bell;
use super::entry::catching;
use super::status::*;
use crate::checkpoint::pages::page_digest;
use crate::net::{self, Closed, From, NetHandle, Peer, To};
use crate::transfer::FetchConfig;
use crate::transfer::image::Image;
use crate::transfer::leecher::{Leecher, Output, Target};
use crate::transfer::messages::Message;
use crate::transfer::received::Received;
use crate::transfer::seeder::Seeder;
use crate::transfer::staging::{self, Appender, Staging};
use crate::types::*;
use crate::wire::messages::{MarkStatement, StateCertificate};
use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one peer's frames that wait for the thread; more are thrown away and asked for again.
const PEER_BYTES_MAX: usize = 160 << 20;
/// What a frame counts for besides its bytes.
const FRAME_BYTES: usize = 256;
/// Messages taken before time is looked at.
const TURN: usize = 256;
/// An idle thread looks around this often.
const IDLE: Duration = Duration::from_millis(50);
/// While chunks wait to be sent.
const PACED: Duration = Duration::from_millis(2);

/// What the thread is told.
pub(super) enum Tell {
    Connected(ReplicaId),
    Disconnected(ReplicaId),
    Frame(ReplicaId, u16, Bytes, Arc<AtomicUsize>),
    Room(ReplicaId),
    /// Serve this state.
    Serve(Arc<Image>, StateCertificate),
    Withdraw,
    /// Fetch the state of this place with this root.
    Fetch(MarkStatement),
    Cancel,
    Stop,
}

/// How a fetch is.
pub(super) enum Phase {
    None,
    Fetching,
    Here(Arc<Received>),
    Failed(Failure),
}

/// What callers look at.
pub(super) struct View {
    pub phase: Phase,
    /// What is fetched, or was last.
    pub wanted: MarkStatement,
    /// Pages verified, and wanted.
    pub pages: (u64, u64),
    pub received: u64,
    pub sent: u64,
    pub connected: u32,
    pub banned: u32,
    pub closing: bool,
    /// Why there is no thread any more, if it failed.
    pub gone: Option<String>,
}

pub(super) struct Shared {
    pub view: Mutex<View>,
    pub moved: Condvar,
    pub bell: Bell,
}

/// Hands what comes from the sockets on.
pub(super) struct Sockets {
    pub tell: Sender<Tell>,
    pub used: BTreeMap<ReplicaId, Arc<AtomicUsize>>,
}

impl Sockets {
    fn tell(&self, from: &From, what: impl FnOnce(ReplicaId) -> Tell) {
        if let Peer::Replica(replica) = from.peer {
            let _ = self.tell.send(what(replica));
        }
    }
}

impl net::Receiver for Sockets {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let Peer::Replica(replica) = from.peer else { return };
        let used = self.used.entry(replica).or_default().clone();
        let bytes = payload.len() + FRAME_BYTES;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before + bytes > PEER_BYTES_MAX {
            used.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        self.tell(from, |replica| Tell::Frame(replica, kind, payload, used));
    }

    fn connected(&mut self, from: &From) {
        self.tell(from, Tell::Connected);
    }

    fn disconnected(&mut self, from: &From, _reason: &Closed) {
        self.tell(from, Tell::Disconnected);
    }

    fn room(&mut self, from: &From) {
        self.tell(from, Tell::Room);
    }

    fn end_of_poll(&mut self) {}
}

/// The thread's state.
pub(super) struct Stage {
    pub dir: PathBuf,
    pub algorithm: DigestAlgorithm,
    pub net: NetHandle,
    pub inbox: Receiver<Tell>,
    pub shared: Arc<Shared>,
    pub seeder: Seeder,
    pub began: Instant,
    pub connected: BTreeSet<ReplicaId>,
    /// The newest state that is served: what it has need not be fetched.
    pub own: Option<Arc<Image>>,
    pub session: Option<Session>,
}

/// A fetch under way.
pub(super) struct Session {
    wanted: MarkStatement,
    leecher: Leecher,
    own: Option<Arc<Image>>,
    target: Option<Box<Target>>,
    staging: Option<(Arc<Staging>, Appender)>,
}

/// What names a state that a host vouches for.
pub(super) fn vouched(seq: Seq, root: Digest) -> StateCertificate {
    let statement = MarkStatement { seq, state: root, ..MarkStatement::default() };
    StateCertificate { statement, ..StateCertificate::default() }
}

impl Stage {
    fn now(&self) -> Tick {
        Tick(self.began.elapsed().as_nanos() as u64 + 1)
    }

    /// Runs until told to stop; who waits hears of it if it panics.
    pub fn guarded(self) {
        let shared = self.shared.clone();
        let ran = catching(|| {
            self.run();
            Ok(DURAMEN_OK)
        });
        let Err(why) = ran else { return };
        {
            let mut view = shared.view.lock();
            view.gone = Some(why.message.clone());
            if matches!(view.phase, Phase::Fetching) {
                view.phase = Phase::Failed(why);
            }
        }
        shared.moved.notify_all();
        shared.bell.ring();
    }

    fn run(mut self) {
        'running: loop {
            let wait = match &self.session {
                _ if self.seeder.waits() => PACED,
                Some(session) => {
                    let now = self.now();
                    Duration::from_nanos(session.leecher.next_deadline(now).since(now)).min(IDLE)
                }
                None => IDLE,
            };
            let mut next = match self.inbox.recv_timeout(wait) {
                Ok(next) => Some(next),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut taken = 0;
            while let Some(tell) = next {
                if matches!(tell, Tell::Stop) {
                    break 'running;
                }
                self.take(tell);
                taken += 1;
                next = if taken < TURN { self.inbox.try_recv().ok() } else { None };
            }
            self.flush();
            self.tick();
            self.publish();
        }
    }

    fn take(&mut self, tell: Tell) {
        let now = self.now();
        match tell {
            Tell::Connected(who) => {
                self.connected.insert(who);
                self.seeder.connected(who);
                self.leech(|leecher, out| leecher.connected(now, who, out));
            }
            Tell::Disconnected(who) => {
                self.connected.remove(&who);
                self.leech(|leecher, out| leecher.disconnected(now, who, out));
            }
            Tell::Frame(from, kind, payload, used) => {
                let bytes = payload.len() + FRAME_BYTES;
                match Message::decode(kind, payload) {
                    Ok(message) => self.on_message(now, from, message),
                    Err(e) => ::log::warn!("transfer: peer {from}: {e}"),
                }
                used.fetch_sub(bytes, Ordering::Relaxed);
            }
            Tell::Room(who) => {
                let mut out = Vec::new();
                self.seeder.room(now, who, &mut out);
                self.send(who, &out);
            }
            Tell::Serve(image, mark) => {
                self.own = Some(image.clone());
                self.seeder.offer(mark, image);
            }
            Tell::Withdraw => {
                self.own = None;
                self.seeder.withdraw();
            }
            Tell::Fetch(wanted) => self.begin(now, wanted),
            Tell::Cancel => self.session = None,
            Tell::Stop => {}
        }
    }

    fn on_message(&mut self, now: Tick, from: ReplicaId, message: Message) {
        match message {
            Message::Offer(mut marks) => {
                // Whatever else a peer has, nobody vouched for it here.
                if let Some(session) = &self.session {
                    marks.retain(|mark| mark.statement == session.wanted);
                }
                self.leech(|leecher, out| leecher.on_message(now, from, Message::Offer(marks), out));
            }
            Message::Manifest { .. }
            | Message::Digests { .. }
            | Message::Chunk { .. }
            | Message::Packed { .. }
            | Message::Gone(_) => self.leech(|leecher, out| leecher.on_message(now, from, message, out)),
            _ => {
                let mut out = Vec::new();
                self.seeder.on_message(now, from, message, &mut out);
                self.send(from, &out);
            }
        }
    }

    fn send(&self, to: ReplicaId, messages: &[Message]) {
        self.net.send_batch(messages.iter().map(|m| (To::Replica(to), m.frame())).collect());
    }

    fn begin(&mut self, now: Tick, wanted: MarkStatement) {
        let own = self.own.clone().filter(|own| own.seq < wanted.seq);
        let mut out = Vec::new();
        let leecher = Leecher::start(
            FetchConfig { packed: true, ..FetchConfig::default() },
            self.algorithm,
            (Seq(wanted.seq.0 - 1), own.clone()),
            self.connected.clone(),
            Box::new(move |mark: &StateCertificate| mark.statement == wanted),
            now,
            &mut out,
        );
        self.session = Some(Session { wanted, leecher, own, target: None, staging: None });
        self.apply(out);
    }

    fn leech(&mut self, step: impl FnOnce(&mut Leecher, &mut Vec<Output>)) {
        let Some(session) = &mut self.session else { return };
        let mut out = Vec::new();
        step(&mut session.leecher, &mut out);
        self.apply(out);
    }

    fn apply(&mut self, out: Vec<Output>) {
        let now = self.now();
        let mut todo: VecDeque<Output> = out.into();
        while let Some(output) = todo.pop_front() {
            let Some(session) = &mut self.session else { return };
            let mut more = Vec::new();
            let seq = session.wanted.seq;
            match output {
                Output::Send(to, message) => self.send(to, &[message]),
                Output::Store(target) => match store(&self.dir, &target, self.algorithm) {
                    Ok((staging, appender)) => {
                        session.leecher.stored(now, &staging, &mut more);
                        (session.target, session.staging) = (Some(target), Some((staging, appender)));
                    }
                    Err(e) => return self.fail(Failure::io("no place for a received state", &e)),
                },
                Output::Check { chunk, from, body, place: (_, index), expected } => {
                    let length = body.len();
                    let is_right = |bytes: &Bytes| page_digest(self.algorithm, index, bytes) == expected;
                    let bytes = body.open().filter(is_right);
                    let right = bytes.is_some();
                    let written = bytes.map_or(Ok(0), |bytes| append(session, chunk, &bytes));
                    session.leecher.checked(now, seq, (chunk, from, length), right, &mut more);
                    match written {
                        Ok(0) => {}
                        Ok(written) => session.leecher.written(now, seq, written, &mut more),
                        Err(e) => return self.fail(Failure::io("a received page was not written", &e)),
                    }
                }
                Output::Write { chunk, bytes } => match append(session, chunk, &bytes) {
                    Ok(0) => {}
                    Ok(written) => session.leecher.written(now, seq, written, &mut more),
                    Err(e) => return self.fail(Failure::io("a received page was not written", &e)),
                },
                Output::Complete => return self.complete(),
                Output::Blame(who, why) => ::log::warn!("state transfer: peer {who} {why}"),
            }
            todo.extend(more);
        }
    }

    /// Writes what has gathered: nothing more is at hand.
    fn flush(&mut self) {
        let now = self.now();
        let Some(session) = &mut self.session else { return };
        let Some((staging, appender)) = &mut session.staging else { return };
        let mut out = Vec::new();
        match appender.flush(staging) {
            Ok(0) => return,
            Ok(written) => session.leecher.written(now, session.wanted.seq, written, &mut out),
            Err(e) => return self.fail(Failure::io("a received page was not written", &e)),
        }
        self.apply(out);
    }

    fn complete(&mut self) {
        let Some(session) = self.session.take() else { return };
        let wanted = session.wanted;
        let (Some(target), Some((staging, _))) = (session.target, session.staging) else { return };
        let received = Received { target: *target, staging, own: session.own, algorithm: self.algorithm };
        let came = session.leecher.received;
        self.ended(wanted, |view| {
            let pages = received.target.manifest.chunks();
            view.received = came;
            (view.pages, view.phase) = ((pages, pages), Phase::Here(Arc::new(received)));
        });
    }

    fn fail(&mut self, why: Failure) {
        let Some(session) = self.session.take() else { return };
        self.ended(session.wanted, |view| view.phase = Phase::Failed(why));
    }

    /// Tells of an end, unless the fetch was cancelled meanwhile.
    fn ended(&self, wanted: MarkStatement, tell: impl FnOnce(&mut View)) {
        let mut view = self.shared.view.lock();
        if !matches!(view.phase, Phase::Fetching) || view.wanted != wanted {
            return;
        }
        tell(&mut view);
        drop(view);
        self.shared.moved.notify_all();
        self.shared.bell.ring();
    }

    fn tick(&mut self) {
        let now = self.now();
        let mut due = Vec::new();
        self.seeder.tick(now, |to, messages| due.push((to, messages)));
        due.into_iter().for_each(|(to, messages)| self.send(to, &messages));
        self.leech(|leecher, out| leecher.tick(now, out));
    }

    fn publish(&self) {
        let mut view = self.shared.view.lock();
        view.sent = self.seeder.sent();
        view.connected = self.connected.len() as u32;
        if let Some(session) = self.session.as_ref().filter(|session| session.wanted == view.wanted) {
            view.received = session.leecher.received;
            view.banned = session.leecher.banned().len() as u32;
            if let Some(progress) = session.leecher.progress(self.now()) {
                view.pages = (progress.verified, progress.total);
            }
        }
    }
}

fn append(session: &mut Session, chunk: u64, bytes: &[u8]) -> std::io::Result<u64> {
    match &mut session.staging {
        Some((staging, appender)) => appender.append(staging, chunk, bytes),
        None => Ok(0),
    }
}

/// A file for the target, with what earlier ones hold of it, which then go.
fn store(
    dir: &std::path::Path,
    target: &Target,
    algorithm: DigestAlgorithm,
) -> std::io::Result<(Arc<Staging>, Appender)> {
    let seq = target.mark.statement.seq;
    let (staging, appender, _) = staging::begin(dir, target, algorithm)?;
    for old in staging::staged(dir)?.into_iter().filter(|old| *old != seq) {
        staging::remove(dir, old)?;
    }
    Ok((Arc::new(staging), appender))
}
