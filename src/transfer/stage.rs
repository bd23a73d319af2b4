//! The transfer thread: serves states to those who lack them, and fetches one. Its sockets are its own, so that nothing it sends or
//! receives stands in front of the agreement's messages.
//!
//! ```text
//! sockets ──▶ stage ──▶ pool: hashes ──▶ stager: writes
//!               ▲ checked ─────┘            │
//!               └───────────────────────────┘ written
//! ```
//! Whose states they are, an [`Owner`] says: a replica, or a host of the C ABI under an order of its own.

use super::FetchConfig;
use super::image::{Image, is_page};
use super::leecher::{Leecher, Output, Target};
use super::messages::Message;
use super::received::Received;
use super::seeder::Seeder;
use super::stager::{FileId, Stager, ToStager};
use super::staging::{self, Staging};
use crate::net::{NetHandle, To};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender};
use crate::sync::credit::Credit;
use crate::types::*;
use crate::wire::error::DecodeError;
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use rayon::ThreadPool;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An idle stage looks around this often.
const IDLE: Duration = Duration::from_millis(100);
/// While chunks wait for the bound on bytes per second.
const PACED: Duration = Duration::from_millis(2);
/// Messages taken before time is looked at.
const TURN: usize = 256;

/// What the stage is sent.
pub enum ToStage<W> {
    /// A replica can be spoken to.
    Connected(ReplicaId),
    /// It cannot any more.
    Disconnected(ReplicaId),
    /// What it said.
    Frame(ReplicaId, u16, Bytes, Credit),
    /// What it was sent has drained.
    Room(ReplicaId),
    /// A chunk was hashed.
    Checked {
        /// Of which file.
        file: FileId,
        /// Which.
        chunk: u64,
        /// From whom.
        from: ReplicaId,
        /// How long it is.
        bytes: u64,
        /// Whether it is what it should be.
        right: bool,
    },
    /// So many bytes of chunks were written to a file; or they were not.
    Written(FileId, io::Result<u64>),
    /// A chunk was not, for what hashes has panicked.
    Unhashed,
    /// For the owner.
    Owner(W),
    /// End the thread.
    Stop,
}

impl<W> From<W> for ToStage<W> {
    fn from(word: W) -> Self {
        Self::Owner(word)
    }
}

/// Whose states are transferred. Called on the stage's thread.
pub trait Owner: Send {
    /// What it is told besides what the stage is.
    type Word: Send + 'static;

    /// It is told something.
    fn on_word(&mut self, transfers: &mut Transfers, word: Self::Word);

    /// A peer asks for states: whether it has to wait. It asks again until somebody answers.
    fn postpones(&mut self, _now: Tick, _who: ReplicaId) -> bool {
        false
    }

    /// A peer offers states: those that are none of the owner's business are taken out.
    fn on_offer(&self, _marks: &mut Vec<StateCertificate>) {}

    /// What a peer said cannot be read.
    fn on_garbage(&self, who: ReplicaId, why: DecodeError);

    /// A peer did wrong, which the log of lines has.
    fn on_blame(&self, _who: ReplicaId, _why: String) {}

    /// Whether what was received of the state of this place is kept when another is fetched.
    fn keeps(&self, _seq: Seq) -> bool {
        false
    }

    /// All is here. The session lasts until [`Transfers::end`].
    fn on_received(&mut self, transfers: &mut Transfers, received: Arc<Received>);

    /// It cannot be written, or (then `why` is of kind `Other`) one of our threads has failed: the session has ended; what was received
    /// stays on disk.
    fn on_failure(&mut self, what: &str, why: io::Error);

    /// Time passed, or something was said.
    fn tick(&mut self, transfers: &mut Transfers);
}

/// A fetch under way.
pub struct Session {
    /// Its core.
    pub leecher: Leecher,
    /// Bytes of chunks by who sent them.
    pub received_from: BTreeMap<ReplicaId, u64>,
    own: Option<Arc<Image>>,
    target: Option<Box<Target>>,
    staging: Option<(FileId, Arc<Staging>)>,
}

/// How a stage is set up.
pub struct Setup {
    /// Where received chunks are kept.
    pub dir: PathBuf,
    /// Of the cluster.
    pub algorithm: DigestAlgorithm,
    /// The sockets.
    pub net: NetHandle,
    /// What hashes.
    pub pool: Arc<ThreadPool>,
    /// The serving side.
    pub seeder: Seeder,
    /// When time began.
    pub began: Instant,
    /// What is said in place of a seeder's message.
    #[cfg(feature = "adversary")]
    pub lie: Option<fn(Message) -> Vec<Message>>,
}

/// What is transferred, in both directions.
pub struct Transfers {
    setup: Setup,
    connected: BTreeSet<ReplicaId>,
    session: Option<Session>,
    /// What the session wants done.
    todo: VecDeque<Output>,
    stager: Stager,
    files: FileId,
}

impl Transfers {
    /// The time that the cores are told.
    pub fn now(&self) -> Tick {
        Tick(self.setup.began.elapsed().as_nanos() as u64 + 1)
    }

    /// The serving side.
    pub fn seeder(&self) -> &Seeder {
        &self.setup.seeder
    }

    /// To offer states, or none.
    pub fn seeder_mut(&mut self) -> &mut Seeder {
        &mut self.setup.seeder
    }

    /// Who can be spoken to.
    pub fn connected(&self) -> &BTreeSet<ReplicaId> {
        &self.connected
    }

    /// The fetch under way.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Begins to fetch a state above a place; `own` is what is here. One under way ends.
    pub fn begin(
        &mut self,
        config: FetchConfig,
        (above, own): (Seq, Option<Arc<Image>>),
        proven: Box<dyn Fn(&StateCertificate) -> bool + Send>,
    ) {
        self.end();
        let mut out = Vec::new();
        let (now, connected) = (self.now(), self.connected.clone());
        let here = (above, own.clone());
        let leecher = Leecher::start(config, self.setup.algorithm, here, connected, proven, now, &mut out);
        self.todo.extend(out);
        let received_from = BTreeMap::new();
        self.session = Some(Session { leecher, received_from, own, target: None, staging: None });
    }

    /// The session is over; what was received stays on disk.
    pub fn end(&mut self) {
        self.session = None;
        self.todo.clear();
        self.stager.end(self.files);
    }

    /// A step of the session, if there is one.
    pub fn leech(&mut self, step: impl FnOnce(&mut Leecher, Tick, &mut Vec<Output>)) {
        let now = self.now();
        let Some(session) = &mut self.session else { return };
        let mut out = Vec::new();
        step(&mut session.leecher, now, &mut out);
        self.todo.extend(out);
    }

    /// A step of the serving side, whose answers go to this replica.
    pub fn seed(&mut self, to: ReplicaId, step: impl FnOnce(&mut Seeder, Tick, &mut Vec<Message>)) {
        let (now, mut out) = (self.now(), Vec::new());
        step(&mut self.setup.seeder, now, &mut out);
        self.send(to, out);
    }

    fn send(&self, to: ReplicaId, messages: Vec<Message>) {
        #[cfg(feature = "adversary")]
        let messages = match self.setup.lie {
            Some(lie) => messages.into_iter().flat_map(lie).collect(),
            None => messages,
        };
        let frames = messages.iter().map(|m| (To::Replica(to), m.frame()));
        self.setup.net.send_batch(frames.collect());
    }

    /// The file that the session writes to, and the place of the state in it.
    fn staged(&self) -> Option<(FileId, Seq)> {
        let (file, staging) = self.session.as_ref()?.staging.as_ref()?;
        Some((*file, staging.mark.statement.seq))
    }

    /// The place of the state in this file, if the session still writes to it.
    fn place_of(&self, file: FileId) -> Option<Seq> {
        self.staged().filter(|(current, _)| *current == file).map(|(_, seq)| seq)
    }

    fn wait(&self) -> Duration {
        match &self.session {
            _ if self.setup.seeder.waits() => PACED,
            Some(session) => {
                let now = self.now();
                Duration::from_nanos(session.leecher.next_deadline(now).since(now)).min(IDLE)
            }
            None => IDLE,
        }
    }

    /// A file for the target, with what earlier ones hold of it.
    fn store(&mut self, target: Box<Target>, keeps: impl Fn(Seq) -> bool) -> io::Result<()> {
        let (dir, seq) = (&self.setup.dir, target.mark.statement.seq);
        let (staging, appender, kept) = staging::begin(dir, &target, self.setup.algorithm)?;
        for old in staging::staged(dir)?.into_iter().filter(|old| *old != seq && !keeps(*old)) {
            staging::remove(dir, old)?;
        }
        if kept > 0 {
            ::log::info!("{kept} bytes of the state of place {seq} were here already");
        }
        // What waits to be written to the file of a target before this one is not.
        self.stager.end(self.files);
        self.files += 1;
        let (file, staging) = (self.files, Arc::new(staging));
        let begun = self.stager.inbox().send(ToStager::Begin(file, staging.clone(), appender));
        begun.map_err(|_| io::Error::other("the thread that writes it has ended"))?;
        if let Some(session) = &mut self.session {
            (session.target, session.staging) = (Some(target), Some((file, staging.clone())));
        }
        self.leech(|leecher, now, out| leecher.stored(now, &staging, out));
        Ok(())
    }

    /// What was received, if all is here. No more is written.
    fn received(&mut self) -> Option<Received> {
        let _ = self.stager.inbox().send(ToStager::End);
        let session = self.session.as_mut()?;
        let (target, (_, staging)) = (*session.target.take()?, session.staging.clone()?);
        Some(Received { target, staging, own: session.own.clone(), algorithm: self.setup.algorithm })
    }
}

/// The thread's state.
pub struct TransferStage<O: Owner> {
    transfers: Transfers,
    owner: O,
    inbox: Receiver<ToStage<O::Word>>,
    own: Sender<ToStage<O::Word>>,
}

impl<O: Owner> TransferStage<O> {
    /// With a thread beside it that writes chunks. `own` leads to `inbox`.
    pub fn new(
        setup: Setup,
        owner: O,
        own: Sender<ToStage<O::Word>>,
        inbox: Receiver<ToStage<O::Word>>,
    ) -> io::Result<Self> {
        let back = own.clone();
        let stager = Stager::start(move |file, written| drop(back.send(ToStage::Written(file, written))))?;
        let (connected, todo) = Default::default();
        let transfers = Transfers { setup, connected, session: None, todo, stager, files: 0 };
        Ok(Self { transfers, owner, inbox, own })
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        loop {
            let mut next = match self.inbox.recv_timeout(self.transfers.wait()) {
                Ok(next) => Some(next),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut taken = 0;
            while let Some(message) = next {
                if matches!(message, ToStage::Stop) {
                    return;
                }
                self.take(message);
                self.apply();
                taken += 1;
                next = if taken < TURN { self.inbox.try_recv().ok() } else { None };
            }
            self.tick();
            self.apply();
        }
    }

    fn take(&mut self, message: ToStage<O::Word>) {
        let transfers = &mut self.transfers;
        match message {
            ToStage::Connected(who) => {
                transfers.connected.insert(who);
                transfers.setup.seeder.connected(who);
                transfers.leech(|leecher, now, out| leecher.connected(now, who, out));
            }
            ToStage::Disconnected(who) => {
                transfers.connected.remove(&who);
                transfers.leech(|leecher, now, out| leecher.disconnected(now, who, out));
            }
            ToStage::Frame(from, kind, payload, credit) => {
                match Message::decode(kind, payload) {
                    Ok(message) => self.on_message(from, message),
                    Err(why) => self.owner.on_garbage(from, why),
                }
                drop(credit);
            }
            ToStage::Room(who) => transfers.seed(who, |seeder, now, out| seeder.room(now, who, out)),
            ToStage::Checked { file, chunk, from, bytes, right } => {
                let Some(seq) = transfers.place_of(file) else { return };
                transfers.leech(|leecher, now, out| {
                    leecher.checked(now, seq, (chunk, from, bytes), right, out);
                });
            }
            ToStage::Written(file, written) => {
                let Some(seq) = transfers.place_of(file) else { return };
                match written {
                    Ok(bytes) => transfers.leech(|leecher, now, out| leecher.written(now, seq, bytes, out)),
                    Err(e) => self.give_up("a received state cannot be written", e),
                }
            }
            ToStage::Unhashed => {
                let why = io::Error::other("the pool panicked");
                self.give_up("a received state cannot be hashed", why);
            }
            ToStage::Owner(word) => self.owner.on_word(transfers, word),
            ToStage::Stop => {}
        }
    }

    fn on_message(&mut self, from: ReplicaId, mut message: Message) {
        let transfers = &mut self.transfers;
        match &mut message {
            Message::Chunk { bytes, .. } => {
                if let Some(session) = &mut transfers.session {
                    *session.received_from.entry(from).or_default() += bytes.len() as u64;
                }
            }
            Message::Offer(marks) => self.owner.on_offer(marks),
            Message::Ask if self.owner.postpones(transfers.now(), from) => return,
            _ => {}
        }
        match message.is_of_seeder() {
            true => transfers.leech(|leecher, now, out| leecher.on_message(now, from, message, out)),
            false => transfers.seed(from, |seeder, now, out| seeder.on_message(now, from, message, out)),
        }
    }

    /// Does what the session wants done.
    fn apply(&mut self) {
        while let Some(output) = self.transfers.todo.pop_front() {
            match output {
                Output::Send(to, message) => self.transfers.send(to, vec![message]),
                Output::Store(target) => {
                    if let Err(e) = self.transfers.store(target, |seq| self.owner.keeps(seq)) {
                        self.give_up("no place for a received state", e);
                    }
                }
                Output::Check { chunk, from, body, place: (_, index), expected } => {
                    let Some((file, _)) = self.transfers.staged() else { continue };
                    let algorithm = self.transfers.setup.algorithm;
                    let (to_stager, back) = (self.transfers.stager.inbox().clone(), self.own.clone());
                    let ended = self.transfers.stager.ended().clone();
                    self.transfers.setup.pool.spawn(move || {
                        if ended.has(file) {
                            return;
                        }
                        let length = body.len();
                        let is_right = |bytes: &Bytes| is_page(algorithm, index, bytes, &expected);
                        let bytes = body.open().filter(is_right);
                        let right = bytes.is_some();
                        if let Some(bytes) = bytes {
                            let _ = to_stager.send(ToStager::Chunk(file, chunk, bytes));
                        }
                        let _ = back.send(ToStage::Checked { file, chunk, from, bytes: length, right });
                    });
                }
                Output::Write { chunk, bytes } => {
                    if let Some((file, _)) = self.transfers.staged() {
                        let _ = self.transfers.stager.inbox().send(ToStager::Chunk(file, chunk, bytes));
                    }
                }
                Output::Complete => {
                    if let Some(received) = self.transfers.received() {
                        self.owner.on_received(&mut self.transfers, Arc::new(received));
                    }
                }
                Output::Blame(who, why) => {
                    ::log::warn!("state transfer: replica {who} {why}");
                    self.owner.on_blame(who, why);
                }
            }
        }
    }

    fn give_up(&mut self, what: &str, why: io::Error) {
        self.transfers.end();
        self.owner.on_failure(what, why);
    }

    fn tick(&mut self) {
        let transfers = &mut self.transfers;
        let now = transfers.now();
        let mut due = Vec::new();
        transfers.setup.seeder.tick(now, |to, messages| due.push((to, messages)));
        due.into_iter().for_each(|(to, messages)| transfers.send(to, messages));
        transfers.leech(|leecher, now, out| leecher.tick(now, out));
        self.owner.tick(transfers);
    }
}
