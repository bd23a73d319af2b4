//! The transfer thread: serves states to replicas that lack them, and fetches one for this replica. Its sockets are its own, so that
//! nothing it sends or receives stands in front of the agreement's messages.

use super::foreground::Foreground;
use super::shared::Shared;
use super::stages::*;
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pages::page_digest;
use crate::net::{self, Closed, From, NetHandle, Peer, To};
use crate::order::Input;
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use crate::transfer::image::Image;
use crate::transfer::leecher::{Leecher, Output, Target};
use crate::transfer::messages::Message;
use crate::transfer::postponing::Postponing;
use crate::transfer::received::Received;
use crate::transfer::seeder::{Seeder, Serving};
use crate::transfer::staging::{self, Appender, Staging};
use crate::transfer::yielding::Yielding;
use crate::transfer::{FetchConfig, SourceProgress};
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use rayon::ThreadPool;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// States frozen and not certified that are kept.
const IMAGES_MAX: usize = 3;
/// An idle stage looks around this often.
const IDLE: Duration = Duration::from_millis(100);
/// While chunks wait for the bound on bytes per second.
const PACED: Duration = Duration::from_millis(2);

/// After a state that could not be taken over the next is asked for so much later, and twice as long each time.
const REFUSED: Duration = Duration::from_secs(1);

/// What the transfer stage is sent.
pub enum ToTransfer {
    /// A replica can be spoken to.
    Connected(ReplicaId),
    /// It cannot any more.
    Disconnected(ReplicaId),
    /// What it said.
    Frame(ReplicaId, u16, Bytes, Credit),
    /// What it was sent has drained.
    Room(ReplicaId),
    /// A frozen state whose root was stated.
    Image(Arc<Image>),
    /// A quorum names a state.
    Certified(StateCertificate),
    /// This replica lacks what no log has.
    Behind,
    /// The own states are wrong: nobody is to have them.
    Distrust,
    /// What is here.
    Own(Box<Frozen>),
    /// A chunk was hashed.
    Checked {
        /// Of the state of which place.
        seq: Seq,
        /// Which.
        chunk: u64,
        /// From whom.
        from: ReplicaId,
        /// How long it is.
        bytes: u64,
        /// Whether it is what it should be.
        right: bool,
    },
    /// So many bytes of chunks were written; or they were not.
    Written(Seq, Result<u64, String>),
    /// The received state of this place was taken over, and is in a checkpoint.
    Installed(Seq),
    /// It was not.
    NotInstalled(Seq),
    /// End the thread.
    Stop,
}

/// What the staging thread is sent.
enum ToStager {
    Begin(Arc<Staging>, Appender),
    /// Of the state of which place; which; its bytes.
    Chunk(Seq, u64, Bytes),
    End,
}

/// State transfer as `status` shows it.
#[derive(Clone, Default)]
pub struct TransferView {
    /// What the own transfer is at; empty: none.
    pub phase: &'static str,
    /// The place of the state that is fetched.
    pub target: Seq,
    /// Chunks verified, and wanted.
    pub chunks: (u64, u64),
    /// Bytes received.
    pub received: u64,
    /// Milliseconds that the rest will take.
    pub eta_ms: Option<u64>,
    /// Who sends.
    pub sources: Vec<SourceProgress>,
    /// Who is not asked any more, and why; of the last transfer.
    pub banned: BTreeMap<ReplicaId, String>,
    /// What others are sent.
    pub serving: Vec<Serving>,
    /// The newest state that can be served.
    pub newest: Seq,
    /// Who waits for the load to fall.
    pub postponed: Vec<ReplicaId>,
    /// How sending yields to the agreement.
    pub yielding: YieldingView,
    /// Places whose state was not hashed in time.
    pub skipped: u64,
    /// States taken over since the start.
    pub installed: u64,
    /// Bytes received and milliseconds taken by the last one, from the first question to the installed state.
    pub last: (u64, u64),
    /// Bytes that each sent of it, right ones or not.
    pub last_sources: Vec<(ReplicaId, u64)>,
}

/// How sending yields to the agreement, as `status` shows it.
#[derive(Clone, Copy, Default)]
pub struct YieldingView {
    /// What it may send now; `None`: it does not yield.
    pub bytes_per_s: Option<u64>,
    /// Nanoseconds that a place takes without a transfer, and now.
    pub place_ns: (Option<u64>, Option<u64>),
    /// Times the rate was lowered, since the start.
    pub lowered: u64,
}

/// Hands what comes from the sockets on.
pub struct Sockets {
    pub(super) to_transfer: Sender<ToTransfer>,
    pub(super) used: BTreeMap<ReplicaId, Arc<AtomicUsize>>,
}

impl Sockets {
    fn tell(&self, from: &From, what: impl FnOnce(ReplicaId) -> ToTransfer) {
        if let Peer::Replica(replica) = from.peer {
            let _ = self.to_transfer.send(what(replica));
        }
    }
}

impl net::Receiver for Sockets {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let Peer::Replica(replica) = from.peer else { return };
        let used = self.used.entry(replica).or_default();
        // What does not fit is asked for again.
        if let Some(credit) = Credit::take(used, payload.len(), TRANSFER_PEER_BYTES_MAX) {
            self.tell(from, |replica| ToTransfer::Frame(replica, kind, payload, credit));
        }
    }

    fn connected(&mut self, from: &From) {
        self.tell(from, ToTransfer::Connected);
    }

    fn disconnected(&mut self, from: &From, _reason: &Closed) {
        self.tell(from, ToTransfer::Disconnected);
    }

    fn room(&mut self, from: &From) {
        self.tell(from, ToTransfer::Room);
    }

    fn end_of_poll(&mut self) {}
}

/// The thread's state.
pub struct TransferStage {
    pub(super) dir: PathBuf,
    pub(super) auth: Arc<Authenticator>,
    pub(super) config: FetchConfig,
    pub(super) seeder: Seeder,
    /// `None`: sending takes no notice of the agreement.
    pub(super) yielding: Option<Yielding>,
    pub(super) postponing: Postponing,
    pub(super) pool: Arc<ThreadPool>,
    pub(super) net: NetHandle,
    pub(super) inbox: Receiver<ToTransfer>,
    pub(super) own: Sender<ToTransfer>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_execute: Sender<ToExecute>,
    pub(super) shared: Arc<Shared>,
    pub(super) began: Instant,
    /// What is said in place of a seeder's message.
    #[cfg(feature = "adversary")]
    pub(super) lie: Option<fn(Message) -> Vec<Message>>,
    pub(super) state: State,
}

/// What changes.
#[derive(Default)]
pub struct State {
    /// Stated, not certified.
    images: VecDeque<Arc<Image>>,
    /// Certified before its image was there.
    early: Option<StateCertificate>,
    connected: BTreeSet<ReplicaId>,
    /// Asked the execute stage what is here.
    asked: bool,
    leecher: Option<Leecher>,
    /// Bytes of chunks by who sent them, of this session.
    received_from: BTreeMap<ReplicaId, u64>,
    own: Option<Arc<Image>>,
    target: Option<Box<Target>>,
    staging: Option<Arc<Staging>>,
    to_stager: Option<Sender<ToStager>>,
    /// Received, and being taken over.
    installing: Option<Seq>,
    /// After states that could not be taken over none is asked for so soon: how many, and until when.
    refused: (u32, Option<Instant>),
    /// Taken over; its file goes when the log knows.
    done: Option<Seq>,
}

impl TransferStage {
    fn now(&self) -> Tick {
        Tick(self.began.elapsed().as_nanos() as u64 + 1)
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        // Whatever a transfer takes of the processor, the agreement comes first.
        crate::sys::step_back();
        let mut foreground = Foreground::new(&self.shared);
        let (to_stager, stager) = unbounded();
        let back = self.own.clone();
        let staging = std::thread::Builder::new().name("duramen-stage".into());
        let stager = staging.spawn(move || stage(&stager, &back));
        let stager = match stager {
            Ok(thread) => thread,
            Err(e) => return self.shared.error(format!("no thread for received states: {e}")),
        };
        self.state.to_stager = Some(to_stager.clone());
        let mut published = Instant::now();
        loop {
            let wait = match &self.state.leecher {
                _ if self.seeder.waits() => PACED,
                Some(leecher) => {
                    let now = self.now();
                    Duration::from_nanos(leecher.next_deadline(now).since(now)).min(IDLE)
                }
                None => IDLE,
            };
            let mut message = match self.inbox.recv_timeout(wait) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut stop = false;
            let mut taken = 0;
            while let Some(next) = message {
                if matches!(next, ToTransfer::Stop) {
                    stop = true;
                    break;
                }
                self.take(next, &foreground);
                taken += 1;
                message = if taken < 256 { self.inbox.try_recv().ok() } else { None };
            }
            if stop {
                break;
            }
            self.tick(&mut foreground);
            if published.elapsed() >= IDLE {
                published = Instant::now();
                self.publish();
            }
        }
        let _ = to_stager.send(ToStager::End);
        let _ = stager.join();
    }

    fn take(&mut self, message: ToTransfer, foreground: &Foreground) {
        let now = self.now();
        match message {
            ToTransfer::Connected(who) => {
                self.state.connected.insert(who);
                self.seeder.connected(who);
                self.leech(|leecher, out| leecher.connected(now, who, out));
            }
            ToTransfer::Disconnected(who) => {
                self.state.connected.remove(&who);
                self.leech(|leecher, out| leecher.disconnected(now, who, out));
            }
            ToTransfer::Frame(from, kind, payload, credit) => {
                self.on_frame(now, from, kind, payload, foreground.ops_per_s());
                drop(credit);
            }
            ToTransfer::Room(who) => {
                let mut out = Vec::new();
                self.seeder.room(now, who, &mut out);
                self.send(who, out);
            }
            ToTransfer::Image(image) => {
                let early = self.state.early.take_if(|mark| mark.statement.seq == image.seq);
                self.state.images.push_back(image);
                while self.state.images.len() > IMAGES_MAX {
                    self.state.images.pop_front();
                }
                if let Some(mark) = early {
                    self.certified(mark);
                }
            }
            ToTransfer::Certified(mark) => self.certified(mark),
            ToTransfer::Behind => self.behind(),
            ToTransfer::Distrust => {
                self.state.images.clear();
                self.state.early = None;
                self.seeder.withdraw();
            }
            ToTransfer::Own(frozen) => self.begin(now, *frozen),
            ToTransfer::Checked { seq, chunk, from, bytes, right } => {
                self.leech(|leecher, out| leecher.checked(now, seq, (chunk, from, bytes), right, out));
            }
            ToTransfer::Written(seq, Ok(bytes)) => {
                self.leech(|leecher, out| leecher.written(now, seq, bytes, out));
            }
            ToTransfer::Written(_, Err(why)) => {
                self.give_up(format!("a received state cannot be written: {why}"));
            }
            ToTransfer::Installed(seq) => {
                let mut view = self.shared.transfer.lock();
                view.installed += 1;
                if let Some(leecher) = &self.state.leecher {
                    let took = now.since(leecher.began()) / 1_000_000;
                    view.last = (leecher.received, took);
                    view.last_sources = self.state.received_from.iter().map(|(r, n)| (*r, *n)).collect();
                    ::log::info!(
                        "the state of place {seq} was taken over from others: {} bytes in {took} ms",
                        leecher.received
                    );
                }
                drop(view);
                self.end();
                self.state.refused = (0, None);
                self.state.done = Some(seq);
            }
            ToTransfer::NotInstalled(seq) => {
                self.end();
                let times = self.state.refused.0;
                let pause = REFUSED.saturating_mul(1 << times.min(6));
                self.state.refused = (times + 1, Some(Instant::now() + pause));
                let _ = staging::remove(&self.dir, seq);
            }
            ToTransfer::Stop => {}
        }
    }

    fn certified(&mut self, mark: StateCertificate) {
        let seq = mark.statement.seq;
        match self.state.images.iter().position(|image| image.seq == seq) {
            Some(at) => {
                let image = self.state.images.remove(at).expect("just found");
                self.seeder.offer(mark, image);
            }
            None => self.state.early = Some(mark),
        }
    }

    fn on_frame(&mut self, now: Tick, from: ReplicaId, kind: u16, payload: Bytes, ops_per_s: u64) {
        let message = match Message::decode(kind, payload) {
            Ok(message) => message,
            Err(e) => return self.shared.discard(Peer::Replica(from), format!("transfer: {e}")),
        };
        if let (Message::Chunk { bytes, .. }, true) = (&message, self.state.leecher.is_some()) {
            *self.state.received_from.entry(from).or_default() += bytes.len() as u64;
        }
        match message {
            Message::Offer(_)
            | Message::Manifest { .. }
            | Message::Digests { .. }
            | Message::Chunk { .. }
            | Message::Packed { .. }
            | Message::Gone(_) => self.leech(|leecher, out| leecher.on_message(now, from, message, out)),
            // It asks again until somebody answers.
            Message::Ask if self.postponing.asked(now, from, ops_per_s) => {}
            _ => {
                let mut out = Vec::new();
                self.seeder.on_message(now, from, message, &mut out);
                self.send(from, out);
            }
        }
    }

    fn send(&self, to: ReplicaId, messages: Vec<Message>) {
        #[cfg(feature = "adversary")]
        let messages = self.twisted(messages);
        let frames = messages.iter().map(|m| (To::Replica(to), m.frame()));
        self.net.send_batch(frames.collect());
    }

    #[cfg(feature = "adversary")]
    fn twisted(&self, messages: Vec<Message>) -> Vec<Message> {
        match self.lie {
            Some(lie) => messages.into_iter().flat_map(lie).collect(),
            None => messages,
        }
    }

    /// Order says it every heartbeat until a state is here.
    fn behind(&mut self) {
        let pauses = self.state.refused.1.is_some_and(|until| Instant::now() < until);
        if self.state.leecher.is_none() && self.state.installing.is_none() && !self.state.asked && !pauses {
            self.state.asked = true;
            let _ = self.to_execute.send(ToExecute::Freeze);
        }
    }

    fn begin(&mut self, now: Tick, frozen: Frozen) {
        self.state.asked = false;
        if self.state.leecher.is_some() {
            return;
        }
        let algorithm = self.auth.hasher.algorithm;
        // What is decided here, and not executed, is in the log; and a replica without a state has executed nothing.
        let decided = self.shared.order.lock().status.map_or(Seq(0), |s| s.decided);
        let above = match self.shared.hollow.load(Ordering::Relaxed) {
            true => Seq(decided.0.saturating_sub(1)),
            false if self.shared.lacks_state() => decided.max(frozen.seq),
            false => frozen.seq,
        };
        ::log::info!("what follows place {above} is in nobody's log: asking for a state");
        self.state.own = Image::of(frozen, algorithm).ok().map(Arc::new);
        let auth = self.auth.clone();
        let mut out = Vec::new();
        let leecher = Leecher::start(
            self.config.clone(),
            algorithm,
            (above, self.state.own.clone()),
            self.state.connected.clone(),
            Box::new(move |mark| auth.state_ok(mark)),
            now,
            &mut out,
        );
        self.state.leecher = Some(leecher);
        self.state.received_from.clear();
        self.apply(out);
    }

    fn leech(&mut self, step: impl FnOnce(&mut Leecher, &mut Vec<Output>)) {
        let Some(leecher) = &mut self.state.leecher else { return };
        let mut out = Vec::new();
        step(leecher, &mut out);
        self.apply(out);
    }

    fn apply(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(to, message) => self.send(to, vec![message]),
                Output::Store(target) => match self.store(&target) {
                    Ok(staging) => {
                        self.state.staging = Some(staging.clone());
                        self.state.target = Some(target);
                        let now = self.now();
                        self.leech(|leecher, out| leecher.stored(now, &staging, out));
                    }
                    Err(e) => return self.give_up(format!("no place for a received state: {e}")),
                },
                Output::Check { chunk, from, body, place: (_, index), expected } => {
                    let (Some(staging), Some(to_stager)) = (&self.state.staging, &self.state.to_stager)
                    else {
                        continue;
                    };
                    let (seq, algorithm) = (staging.mark.statement.seq, self.auth.hasher.algorithm);
                    let (to_stager, back) = (to_stager.clone(), self.own.clone());
                    self.pool.spawn(move || {
                        let length = body.len();
                        let right = |bytes: &Bytes| page_digest(algorithm, index, bytes) == expected;
                        let bytes = body.open().filter(right);
                        let right = bytes.is_some();
                        if let Some(bytes) = bytes {
                            let _ = to_stager.send(ToStager::Chunk(seq, chunk, bytes));
                        }
                        let _ = back.send(ToTransfer::Checked { seq, chunk, from, bytes: length, right });
                    });
                }
                Output::Write { chunk, bytes } => {
                    if let (Some(staging), Some(to_stager)) = (&self.state.staging, &self.state.to_stager) {
                        let seq = staging.mark.statement.seq;
                        let _ = to_stager.send(ToStager::Chunk(seq, chunk, bytes));
                    }
                }
                Output::Complete => self.complete(),
                Output::Blame(who, why) => {
                    ::log::warn!("state transfer: replica {who} {why}");
                    self.shared.discard(Peer::Replica(who), format!("transfer: {why}"));
                }
            }
        }
    }

    /// A file for the target, with what earlier ones hold of it.
    fn store(&mut self, target: &Target) -> io::Result<Arc<Staging>> {
        let seq = target.mark.statement.seq;
        let (staging, appender, kept) = staging::begin(&self.dir, target, self.auth.hasher.algorithm)?;
        // That of the last one taken over names what a start between checkpoint and log record goes on from.
        let gone = |old: &Seq| *old != seq && Some(*old) != self.state.done;
        for old in staging::staged(&self.dir)?.into_iter().filter(gone) {
            staging::remove(&self.dir, old)?;
        }
        if kept > 0 {
            ::log::info!("{kept} bytes of the state of place {seq} were here already");
        }
        let staging = Arc::new(staging);
        if let Some(to_stager) = &self.state.to_stager {
            let _ = to_stager.send(ToStager::Begin(staging.clone(), appender));
        }
        Ok(staging)
    }

    fn complete(&mut self) {
        let (Some(target), Some(staging)) = (self.state.target.take(), self.state.staging.clone()) else {
            return;
        };
        let mark = target.mark.clone();
        self.state.installing = Some(mark.statement.seq);
        let (own, algorithm) = (self.state.own.clone(), self.auth.hasher.algorithm);
        let received = Received { target: *target, staging, own, algorithm };
        *self.shared.received.lock() = Some(Arc::new(received));
        let _ = self.to_order.send(ToOrder::One(Input::Arrived(mark)));
    }

    fn give_up(&mut self, why: String) {
        self.shared.error(why);
        self.end();
    }

    /// The session is over; what was received stays on disk.
    fn end(&mut self) {
        let state = &mut self.state;
        (state.leecher, state.own, state.target, state.staging) = (None, None, None, None);
        state.installing = None;
        *self.shared.received.lock() = None;
    }

    fn tick(&mut self, foreground: &mut Foreground) {
        let now = self.now();
        let mut due = Vec::new();
        if foreground.is_due() {
            let look = foreground.look(&self.shared, self.seeder.sent(), self.seeder.waits());
            if let Some(yielding) = &mut self.yielding {
                let rate = yielding.look(look);
                self.seeder.yields(now, rate);
            }
            for who in self.postponing.tick(now, foreground.ops_per_s()) {
                let mut out = Vec::new();
                self.seeder.on_message(now, who, Message::Ask, &mut out);
                due.push((who, out));
            }
        }
        self.seeder.tick(now, |to, messages| due.push((to, messages)));
        due.into_iter().for_each(|(to, messages)| self.send(to, messages));
        let leader = View(self.shared.view.load(Ordering::Relaxed)).leader(self.auth.members.n());
        self.leech(|leecher, out| {
            leecher.leads(now, Some(leader), out);
            leecher.tick(now, out);
        });
        if let Some(seq) = self.state.done
            && self.shared.order.lock().status.is_some_and(|s| s.mark >= seq)
        {
            self.state.done = None;
            let _ = staging::remove(&self.dir, seq);
        }
    }

    fn publish(&self) {
        let mut view = self.shared.transfer.lock();
        let now = self.now();
        view.serving = self.seeder.serving().collect();
        for serving in &view.serving {
            let _ = self.to_order.send(ToOrder::One(Input::Seeding(serving.seq)));
        }
        view.postponed = self.postponing.waiting().collect();
        if let Some(yielding) = &self.yielding {
            view.yielding = YieldingView {
                bytes_per_s: yielding.bytes_per_s(),
                place_ns: yielding.times_ns(),
                lowered: yielding.lowered(),
            };
        }
        view.newest = self.seeder.newest().unwrap_or_default();
        view.sources.clear();
        (view.phase, view.target, view.eta_ms) = ("", Seq(0), None);
        if let Some(leecher) = &self.state.leecher {
            view.phase = if self.state.installing.is_some() { "installing" } else { leecher.phase() };
            view.target = leecher.target().or(self.state.installing).unwrap_or_default();
            view.received = leecher.received;
            view.banned.clone_from(leecher.banned());
            if let Some(progress) = leecher.progress(now) {
                view.chunks = (progress.verified, progress.total);
                view.eta_ms = progress.eta_ns.map(|ns| ns / 1_000_000);
                view.sources = progress.sources;
            }
        }
    }
}

/// Writes chunks as they come; what has gathered is written whenever no more are at hand.
fn stage(inbox: &Receiver<ToStager>, back: &Sender<ToTransfer>) {
    crate::sys::step_back();
    let mut current: Option<(Arc<Staging>, Appender)> = None;
    for message in inbox {
        let written = match message {
            ToStager::End => return,
            ToStager::Begin(staging, appender) => {
                current = Some((staging, appender));
                continue;
            }
            ToStager::Chunk(of, chunk, bytes) => {
                // One of an earlier target may have been hashed late.
                let right = |(staging, _): &&mut (Arc<Staging>, _)| staging.mark.statement.seq == of;
                let Some((staging, appender)) = current.as_mut().filter(right) else { continue };
                let appended = appender.append(staging, chunk, &bytes);
                let idle = inbox.is_empty();
                appended.and_then(|written| {
                    let rest = if idle { appender.flush(staging)? } else { 0 };
                    Ok((staging.mark.statement.seq, written + rest))
                })
            }
        };
        let seq = current.as_ref().map(|(staging, _)| staging.mark.statement.seq).unwrap_or_default();
        match written {
            Ok((_, 0)) => {}
            Ok((seq, bytes)) => {
                let _ = back.send(ToTransfer::Written(seq, Ok(bytes)));
            }
            Err(e) => {
                current = None;
                let _ = back.send(ToTransfer::Written(seq, Err(e.to_string())));
            }
        }
    }
}
