//! Whose states are transferred between simulated replicas: frozen, named, offered; asked for when no log has what comes next; taken
//! over. What a replica's transfer stage decides stands here (`replica::transfer_stage`), what every stage does in `transfer_stage`.

use super::checkpoints::Checkpoint;
use super::transfer_stage::Session;
use super::*;
use crate::transfer::StrategyKind;
use crate::transfer::image::Image;
use crate::transfer::leecher::Leecher;
use crate::transfer::received::Received;
use crate::transfer::seeder::Seeder;
use crate::transfer::staging;
use std::collections::BTreeSet;
use std::ops::AddAssign;

/// Frozen states and not certified that a replica keeps.
const IMAGES_MAX: usize = 3;
/// After a state that could not be taken over the next is asked for so much later, and twice as long each time.
const REFUSED_MS: u64 = 1000;

/// What happened while states were fetched.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fetched {
    /// Sessions begun.
    pub sessions: u64,
    /// Chunks that came.
    pub chunks: u64,
    /// Bytes that were here from an earlier run.
    pub kept: u64,
    /// Liars that were found out.
    pub blamed: u64,
    /// Received states that were of no use.
    pub refused: u64,
}

impl AddAssign for Fetched {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.chunks += other.chunks;
        self.kept += other.kept;
        self.blamed += other.blamed;
        self.refused += other.refused;
    }
}

/// One replica's part.
pub(super) struct Transfers {
    /// Frozen; no certificate names them yet.
    images: VecDeque<Arc<Image>>,
    /// Came before its image.
    early: Option<StateCertificate>,
    pub(super) seeder: Seeder,
    /// Connections it knows of.
    pub(super) links: BTreeMap<ReplicaId, u64>,
    pub(super) session: Option<Session>,
    /// All of it is here.
    pub(super) arrived: Option<Arc<Received>>,
    /// It is to be taken over once all is executed that was handed out before.
    wanted: bool,
    /// After states that could not be taken over none is asked for so soon: how many, and until when.
    refused: (u32, Tick),
    /// Taken over; its file goes when the log knows.
    pub(super) done: Option<Seq>,
    /// Files begun.
    pub(super) files: u64,
    pub(super) look_due: Tick,
}

impl Transfers {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self {
            images: VecDeque::new(),
            early: None,
            seeder: Seeder::new(bytes_per_s),
            links: BTreeMap::new(),
            session: None,
            arrived: None,
            wanted: false,
            refused: (0, Tick(0)),
            done: None,
            files: 0,
            look_due: Tick(u64::MAX),
        }
    }

    /// Own states are wrong.
    pub(super) fn distrust(&mut self) {
        self.images.clear();
        self.early = None;
        self.seeder.withdraw();
    }

    /// A quorum names a state.
    fn certified(&mut self, mark: StateCertificate) {
        match self.images.iter().position(|image| image.seq == mark.statement.seq) {
            Some(at) => {
                let image = self.images.remove(at).expect("just found");
                self.seeder.offer(mark, image);
            }
            None => self.early = Some(mark),
        }
    }

    /// The session is over; what was received stays on disk.
    pub(super) fn end(&mut self) {
        (self.session, self.arrived, self.wanted) = (None, None, false);
    }
}

impl Cluster {
    /// Freezes the state at the places where all do.
    pub(super) fn take_root(&mut self, r: ReplicaId, seq: Seq) {
        let Some(plan) = self.setup.checkpoints else { return };
        let turns = if plan.together { 1 } else { u64::from(self.setup.members.n()) };
        let step = plan.period / turns;
        if seq == Seq(0) || !seq.0.is_multiple_of(step) {
            return;
        }
        let node = &mut self.nodes[r.index()];
        let (replies, boot) = (node.executor.replies, node.boot);
        let image = Arc::new(node.executor.image(self.setup.piece_bytes));
        let state = image.root(None);
        let transfers = &mut node.transfers;
        let early = transfers.early.take_if(|mark| mark.statement.seq == seq);
        transfers.images.push_back(image);
        while transfers.images.len() > IMAGES_MAX {
            transfers.images.pop_front();
        }
        if let Some(mark) = early {
            transfers.certified(mark);
        }
        // Hashing takes a while.
        let us = self.random.between(10, 20_000);
        self.later(us, move |c| {
            if c.nodes[r.index()].boot == boot {
                c.step(r, Input::Rooted { seq, replies, state });
            }
        });
    }

    /// A quorum names a state that this replica has, or will have.
    pub(super) fn root_is_certified(&mut self, r: ReplicaId, mark: StateCertificate) {
        self.rooted += 1;
        self.nodes[r.index()].transfers.certified(mark);
    }

    /// A replica needs a state, as it says every heartbeat: all it can speak to are asked for one.
    pub(super) fn behind(&mut self, r: ReplicaId) {
        let node = &self.nodes[r.index()];
        let (Some(core), transfers) = (&node.core, &node.transfers) else { return };
        if transfers.session.is_some() || self.now < transfers.refused.1 {
            return;
        }
        let executed = node.executor.executed;
        // What is decided here, and not executed, is in the log; and a replica without a state has executed nothing.
        let above = match node.hollow {
            true => Seq(core.decided().0.saturating_sub(1)),
            false if core.lacks_state() => core.decided().max(executed),
            false => executed,
        };
        let own = Some(Arc::new(node.executor.image(self.setup.piece_bytes)));
        let auth = node.auth.clone();
        let proven = Box::new(move |mark: &StateCertificate| auth.state_ok(mark));
        self.look_at_links(r);
        let connected: BTreeSet<ReplicaId> = self.nodes[r.index()].transfers.links.keys().copied().collect();
        let (config, algorithm) = (self.setup.fetch.clone(), self.setup.hasher().algorithm);
        let mut out = Vec::new();
        let here = (above, own.clone());
        let leecher = Leecher::start(config, algorithm, here, connected, proven, self.now, &mut out);
        self.fetched.sessions += 1;
        self.note(r, || format!("asks for a state above place {above}"));
        self.nodes[r.index()].transfers.session = Some(Session::new(leecher, own));
        self.leech(r, |_, _, todo| todo.extend(out));
        self.look_later(r);
    }

    /// All of a state is here.
    pub(super) fn received(&mut self, r: ReplicaId, received: Received) {
        let mark = received.target.mark.clone();
        self.note(r, || format!("has received the state of place {}", mark.statement.seq));
        self.nodes[r.index()].transfers.arrived = Some(Arc::new(received));
        self.step(r, Input::Arrived(mark));
    }

    /// It is of no use, or could not be taken over.
    pub(super) fn not_installed(&mut self, r: ReplicaId, seq: Seq) {
        self.fetched.refused += 1;
        let now = self.now;
        let node = &mut self.nodes[r.index()];
        node.transfers.end();
        let times = node.transfers.refused.0;
        node.transfers.refused = (times + 1, now.plus_ms(REFUSED_MS << times.min(6)));
        staging::remove(&node.shelf, seq).expect("a directory");
    }

    /// The core wants it: once all is executed that was handed out before.
    pub(super) fn want_install(&mut self, r: ReplicaId) {
        self.nodes[r.index()].transfers.wanted = true;
        self.try_install(r);
    }

    /// Takes it over; then a checkpoint of it reaches the disk; then the core hears of it. A crash may come at any moment between.
    pub(super) fn try_install(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        if !node.transfers.wanted || node.executing || !node.queue.is_empty() {
            return;
        }
        node.transfers.wanted = false;
        let received = node.transfers.arrived.clone().expect("it arrived before it was wanted");
        let boot = node.boot;
        if self.random.per_mille(50) {
            return self.install_failed(r, boot);
        }
        let us = self.random.between(10, 50_000);
        self.later(us, move |c| {
            if c.nodes[r.index()].boot != boot {
                return;
            }
            let hasher = c.setup.hasher();
            let executor = match Executor::received(&received, hasher, c.setup.sessions_max) {
                Ok(executor) => executor,
                Err(why) => {
                    // Of all strategies one alone finds out so late who lied.
                    let known = c.setup.fetch.strategy == StrategyKind::WholeHash || c.byzantine.contains(r);
                    assert!(known, "{r} cannot take over what it received: {why}");
                    return c.install_failed(r, boot);
                }
            };
            c.install(r, &received.target.mark, executor);
        });
    }

    fn install_failed(&mut self, r: ReplicaId, boot: u64) {
        self.later(10, move |c| {
            if c.nodes[r.index()].boot == boot {
                c.step(r, Input::InstallFailed);
            }
        });
    }

    fn install(&mut self, r: ReplicaId, mark: &StateCertificate, executor: Executor) {
        let us = self.random.between(10, 50_000);
        let MarkStatement { seq, batches, .. } = mark.statement;
        let node = &mut self.nodes[r.index()];
        let (boot, mark) = (node.boot, mark.clone());
        (node.executor, node.handed, node.taken) = (executor.clone(), seq, None);
        let base = Base { seq, batches };
        node.checkpoints.push_back(Checkpoint { base, executor, foreign: true });
        while node.checkpoints.len() > 2 {
            node.checkpoints.pop_front();
        }
        self.later(us, move |c| {
            let node = &mut c.nodes[r.index()];
            if node.boot != boot {
                return;
            }
            node.transfers.end();
            (node.transfers.refused, node.transfers.done) = ((0, Tick(0)), Some(seq));
            c.transferred += 1;
            c.note(r, || format!("has taken over the state of place {seq}"));
            let progress = c.nodes[r.index()].executor.progress();
            c.step(r, Input::Installed { state: mark, progress });
            c.take_root(r, seq);
            c.look_later(r);
        });
    }
}
