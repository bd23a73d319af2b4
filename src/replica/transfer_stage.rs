//! What a replica transfers: it serves the states that a quorum names, and fetches one when no log has what it lacks.

use super::foreground::Foreground;
use super::shared::Shared;
use super::stages::*;
use crate::checkpoint::frozen::Frozen;
use crate::net::Peer;
use crate::order::Input;
use crate::sync::channel::Sender;
use crate::transfer::image::Image;
use crate::transfer::messages::Message;
use crate::transfer::postponing::Postponing;
use crate::transfer::received::Received;
use crate::transfer::seeder::Serving;
use crate::transfer::stage::{Owner, ToStage, TransferStage, Transfers};
use crate::transfer::staging;
use crate::transfer::yielding::Yielding;
use crate::transfer::{FetchConfig, SourceProgress};
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::error::DecodeError;
use crate::wire::messages::StateCertificate;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// States frozen and not certified that are kept.
const IMAGES_MAX: usize = 3;
/// Figures are published this often.
const PUBLISH: Duration = Duration::from_millis(100);

/// After a state that could not be taken over the next is asked for so much later, and twice as long each time.
const REFUSED: Duration = Duration::from_secs(1);

/// What it is sent.
pub type ToTransfer = ToStage<Tell>;

/// What the other stages tell it.
pub enum Tell {
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
    /// The received state of this place was taken over, and is in a checkpoint.
    Installed(Seq),
    /// It was not.
    NotInstalled(Seq),
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

/// Runs the thread: whatever a transfer takes of the processor, the agreement comes first.
pub fn run_transfers(stage: TransferStage<ReplicaTransfer>) {
    crate::sys::step_back();
    stage.run();
}

/// How a replica transfers.
pub struct TransferSetup {
    /// Of checkpoints, and of what is received.
    pub dir: PathBuf,
    /// Checks certificates.
    pub auth: Arc<Authenticator>,
    /// How it fetches.
    pub config: FetchConfig,
    /// `None`: sending takes no notice of the agreement.
    pub yielding: Option<Yielding>,
    /// Who waits for the load to fall.
    pub postponing: Postponing,
}

/// Beside the stage.
pub struct ReplicaTransfer {
    setup: TransferSetup,
    to_order: Sender<ToOrder>,
    to_execute: Sender<ToExecute>,
    shared: Arc<Shared>,
    foreground: Foreground,
    published: Instant,
    /// Stated, not certified.
    images: VecDeque<Arc<Image>>,
    /// Certified before its image was there.
    early: Option<StateCertificate>,
    /// Asked the execute stage what is here.
    asked: bool,
    /// Received, and being taken over.
    installing: Option<Seq>,
    /// After states that could not be taken over none is asked for so soon: how many, and until when.
    refused: (u32, Option<Instant>),
    /// Taken over; its file goes when the log knows.
    done: Option<Seq>,
}

impl Owner for ReplicaTransfer {
    type Word = Tell;

    fn on_word(&mut self, transfers: &mut Transfers, word: Tell) {
        match word {
            Tell::Image(image) => {
                let early = self.early.take_if(|mark| mark.statement.seq == image.seq);
                self.images.push_back(image);
                while self.images.len() > IMAGES_MAX {
                    self.images.pop_front();
                }
                if let Some(mark) = early {
                    self.certified(transfers, mark);
                }
            }
            Tell::Certified(mark) => self.certified(transfers, mark),
            Tell::Behind => self.behind(transfers),
            Tell::Distrust => {
                self.images.clear();
                self.early = None;
                transfers.seeder_mut().withdraw();
            }
            Tell::Own(frozen) => self.begin(transfers, *frozen),
            Tell::Installed(seq) => {
                self.count(transfers, seq);
                self.end(transfers);
                self.refused = (0, None);
                self.done = Some(seq);
            }
            Tell::NotInstalled(seq) => {
                self.end(transfers);
                let times = self.refused.0;
                let pause = REFUSED.saturating_mul(1 << times.min(6));
                self.refused = (times + 1, Some(Instant::now() + pause));
                let _ = staging::remove(&self.setup.dir, seq);
            }
        }
    }

    fn postpones(&mut self, now: Tick, who: ReplicaId) -> bool {
        self.setup.postponing.asked(now, who, self.foreground.ops_per_s())
    }

    fn on_garbage(&self, who: ReplicaId, why: DecodeError) {
        self.shared.discard(Peer::Replica(who), format!("transfer: {why}"));
    }

    fn on_blame(&self, who: ReplicaId, why: String) {
        self.shared.discard(Peer::Replica(who), format!("transfer: {why}"));
    }

    /// That of the last one taken over names what a start between checkpoint and log record goes on from.
    fn keeps(&self, seq: Seq) -> bool {
        self.done == Some(seq)
    }

    fn on_received(&mut self, _transfers: &mut Transfers, received: Arc<Received>) {
        let mark = received.target.mark.clone();
        self.installing = Some(mark.statement.seq);
        *self.shared.received.lock() = Some(received);
        let _ = self.to_order.send(ToOrder::One(Input::Arrived(mark)));
    }

    fn on_failure(&mut self, what: &str, why: io::Error) {
        self.shared.error(format!("{what}: {why}"));
        self.forget();
    }

    fn tick(&mut self, transfers: &mut Transfers) {
        if self.foreground.is_due() {
            self.look(transfers);
        }
        let leader = View(self.shared.view.load(Ordering::Relaxed)).leader(self.setup.auth.members.n());
        transfers.leech(|leecher, now, out| leecher.leads(now, Some(leader), out));
        if let Some(seq) = self.done
            && self.shared.order.lock().status.is_some_and(|s| s.mark >= seq)
        {
            self.done = None;
            let _ = staging::remove(&self.setup.dir, seq);
        }
        if self.published.elapsed() >= PUBLISH {
            self.published = Instant::now();
            self.publish(transfers);
        }
    }
}

impl ReplicaTransfer {
    /// What it says goes to `order` and `execute`.
    pub fn new(
        setup: TransferSetup,
        to_order: Sender<ToOrder>,
        to_execute: Sender<ToExecute>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            setup,
            to_order,
            to_execute,
            foreground: Foreground::new(&shared),
            shared,
            published: Instant::now(),
            images: VecDeque::new(),
            early: None,
            asked: false,
            installing: None,
            refused: (0, None),
            done: None,
        }
    }

    fn certified(&mut self, transfers: &mut Transfers, mark: StateCertificate) {
        let seq = mark.statement.seq;
        match self.images.iter().position(|image| image.seq == seq) {
            Some(at) => {
                let image = self.images.remove(at).expect("just found");
                transfers.seeder_mut().offer(mark, image);
            }
            None => self.early = Some(mark),
        }
    }

    /// Order says it every heartbeat until a state is here.
    fn behind(&mut self, transfers: &Transfers) {
        let pauses = self.refused.1.is_some_and(|until| Instant::now() < until);
        if transfers.session().is_none() && self.installing.is_none() && !self.asked && !pauses {
            self.asked = true;
            let _ = self.to_execute.send(ToExecute::Freeze);
        }
    }

    fn begin(&mut self, transfers: &mut Transfers, frozen: Frozen) {
        self.asked = false;
        if transfers.session().is_some() {
            return;
        }
        // What is decided here, and not executed, is in the log; and a replica without a state has executed nothing.
        let decided = self.shared.order.lock().status.map_or(Seq(0), |s| s.decided);
        let above = match self.shared.hollow.load(Ordering::Relaxed) {
            true => Seq(decided.0.saturating_sub(1)),
            false if self.shared.lacks_state() => decided.max(frozen.seq),
            false => frozen.seq,
        };
        ::log::info!("what follows place {above} is in nobody's log: asking for a state");
        let own = Image::of(frozen, self.setup.auth.hasher.algorithm).ok().map(Arc::new);
        let auth = self.setup.auth.clone();
        let proven = Box::new(move |mark: &StateCertificate| auth.state_ok(mark));
        transfers.begin(self.setup.config.clone(), (above, own), proven);
    }

    fn count(&self, transfers: &Transfers, seq: Seq) {
        let mut view = self.shared.transfer.lock();
        view.installed += 1;
        if let Some(session) = transfers.session() {
            let bytes = session.leecher.received;
            let took = transfers.now().since(session.leecher.began()) / 1_000_000;
            view.last = (bytes, took);
            view.last_sources = session.received_from.iter().map(|(r, n)| (*r, *n)).collect();
            ::log::info!("the state of place {seq} was taken over from others: {bytes} bytes in {took} ms");
        }
    }

    fn end(&mut self, transfers: &mut Transfers) {
        transfers.end();
        self.forget();
    }

    fn forget(&mut self) {
        self.installing = None;
        *self.shared.received.lock() = None;
    }

    /// How the agreement does says how fast others are sent states, and who is sent none yet.
    fn look(&mut self, transfers: &mut Transfers) {
        let seeder = transfers.seeder();
        let look = self.foreground.look(&self.shared, seeder.sent(), seeder.waits());
        let now = transfers.now();
        if let Some(yielding) = &mut self.setup.yielding {
            let rate = yielding.look(look);
            transfers.seeder_mut().yields(now, rate);
        }
        for who in self.setup.postponing.tick(now, self.foreground.ops_per_s()) {
            transfers.seed(who, |seeder, now, out| seeder.on_message(now, who, Message::Ask, out));
        }
    }

    fn publish(&self, transfers: &Transfers) {
        let mut view = self.shared.transfer.lock();
        let now = transfers.now();
        view.serving = transfers.seeder().serving().collect();
        for serving in &view.serving {
            let _ = self.to_order.send(ToOrder::One(Input::Seeding(serving.seq)));
        }
        view.postponed = self.setup.postponing.waiting().collect();
        if let Some(yielding) = &self.setup.yielding {
            view.yielding = YieldingView {
                bytes_per_s: yielding.bytes_per_s(),
                place_ns: yielding.times_ns(),
                lowered: yielding.lowered(),
            };
        }
        view.newest = transfers.seeder().newest().unwrap_or_default();
        view.sources.clear();
        (view.phase, view.target, view.eta_ms) = ("", Seq(0), None);
        if let Some(leecher) = transfers.session().map(|session| &session.leecher) {
            view.phase = if self.installing.is_some() { "installing" } else { leecher.phase() };
            view.target = leecher.target().or(self.installing).unwrap_or_default();
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
