//! What a host transfers: its states to peers, and one that it vouches for from them. The thread is that of [`TransferStage`], as in replicas.

use super::bell::Bell;
use super::entry::catching;
use super::status::*;
use crate::transfer::FetchConfig;
use crate::transfer::image::Image;
use crate::transfer::received::Received;
use crate::transfer::stage::{Owner, TransferStage, Transfers};
use crate::types::*;
use crate::wire::error::DecodeError;
use crate::wire::messages::{MarkStatement, StateCertificate};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;

/// What callers tell it.
pub(super) enum Tell {
    /// Serve this state.
    Serve(Arc<Image>, StateCertificate),
    Withdraw,
    /// Fetch the state of this place with this root.
    Fetch(MarkStatement),
    Cancel,
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

impl Shared {
    pub fn new() -> Result<Self, Failure> {
        let view = View {
            phase: Phase::None,
            wanted: MarkStatement::default(),
            pages: (0, 0),
            received: 0,
            sent: 0,
            connected: 0,
            banned: 0,
            closing: false,
            gone: None,
        };
        Ok(Self { view: Mutex::new(view), moved: Condvar::new(), bell: Bell::new()? })
    }
}

/// What names a state that a host vouches for.
pub(super) fn vouched(seq: Seq, root: Digest) -> StateCertificate {
    let statement = MarkStatement { seq, state: root, ..MarkStatement::default() };
    StateCertificate { statement, ..StateCertificate::default() }
}

/// Runs the thread; who waits hears of it if it panics. It does not step back as a replica's does: callbacks of the host run on it, which
/// may hold what the host's own threads wait for.
pub(super) fn guarded(stage: TransferStage<HostOwner>, shared: &Shared) {
    let ran = catching(|| {
        stage.run();
        Ok(DURAMEN_OK)
    });
    let Err(why) = ran else { return };
    let mut view = shared.view.lock();
    view.gone = Some(why.message.clone());
    if matches!(view.phase, Phase::Fetching) {
        view.phase = Phase::Failed(why);
    }
    drop(view);
    shared.moved.notify_all();
    shared.bell.ring();
}

/// Beside the stage.
pub(super) struct HostOwner {
    shared: Arc<Shared>,
    /// The newest state that is served: what it has need not be fetched.
    own: Option<Arc<Image>>,
    /// What is fetched, or was last.
    wanted: MarkStatement,
}

impl HostOwner {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, own: None, wanted: MarkStatement::default() }
    }

    /// Tells of an end, unless the fetch was cancelled meanwhile.
    fn ended(&self, tell: impl FnOnce(&mut View)) {
        let mut view = self.shared.view.lock();
        if !matches!(view.phase, Phase::Fetching) || view.wanted != self.wanted {
            return;
        }
        tell(&mut view);
        drop(view);
        self.shared.moved.notify_all();
        self.shared.bell.ring();
    }
}

impl Owner for HostOwner {
    type Word = Tell;

    fn on_word(&mut self, transfers: &mut Transfers, word: Tell) {
        match word {
            Tell::Serve(image, mark) => {
                self.own = Some(image.clone());
                transfers.seeder_mut().offer(mark, image);
            }
            Tell::Withdraw => {
                self.own = None;
                transfers.seeder_mut().retire();
            }
            Tell::Fetch(wanted) => {
                self.wanted = wanted;
                let own = self.own.clone().filter(|own| own.seq < wanted.seq);
                let config = FetchConfig { packed: true, ..FetchConfig::default() };
                let proven = Box::new(move |mark: &StateCertificate| mark.statement == wanted);
                transfers.begin(config, (Seq(wanted.seq.0 - 1), own), proven);
            }
            Tell::Cancel => transfers.end(),
        }
    }

    /// Whatever else a peer has, nobody vouched for it here.
    fn on_offer(&self, marks: &mut Vec<StateCertificate>) {
        marks.retain(|mark| mark.statement == self.wanted);
    }

    fn on_garbage(&self, who: ReplicaId, why: DecodeError) {
        ::log::warn!("state transfer: peer {who}: {why}");
    }

    fn on_received(&mut self, transfers: &mut Transfers, received: Arc<Received>) {
        let leecher = transfers.session().map(|session| &session.leecher);
        let (came, banned) = leecher.map_or((0, 0), |l| (l.received, l.banned().len() as u32));
        transfers.end();
        self.ended(|view| {
            let pages = received.target.manifest.chunks();
            (view.received, view.banned) = (came, banned);
            (view.pages, view.phase) = ((pages, pages), Phase::Here(received));
        });
    }

    fn on_failure(&mut self, what: &str, why: io::Error) {
        let failure = match why.kind() {
            io::ErrorKind::Other => Failure::new(DURAMEN_E_INTERNAL, format!("{what}: {why}")),
            _ => Failure::io(what, &why),
        };
        self.ended(|view| view.phase = Phase::Failed(failure));
    }

    fn tick(&mut self, transfers: &mut Transfers) {
        let mut view = self.shared.view.lock();
        view.sent = transfers.seeder().sent();
        view.connected = transfers.connected().len() as u32;
        if let Some(session) = transfers.session().filter(|_| self.wanted == view.wanted) {
            view.received = session.leecher.received;
            view.banned = session.leecher.banned().len() as u32;
            if let Some(progress) = session.leecher.progress(transfers.now()) {
                view.pages = (progress.verified, progress.total);
            }
        }
    }
}
