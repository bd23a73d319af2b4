//! State transfer between simulated replicas: the sockets and chunks are left out, what stands before and after them is not.

use super::checkpoints::Checkpoint;
use super::*;

/// A state that a certificate names.
pub(super) type Rooted = (StateCertificate, Executor);

/// How many a replica keeps in memory.
const KEPT: usize = 2;

/// One replica's part.
#[derive(Default)]
pub(super) struct Transfers {
    /// Frozen; no certificate names them yet.
    taken: VecDeque<Executor>,
    /// Named, the older first.
    rooted: VecDeque<Rooted>,
    /// A state is on its way here.
    pub(super) under_way: bool,
    /// It is here.
    arrived: Option<Rooted>,
    /// It is to be taken over once all is executed that was handed out before.
    wanted: bool,
}

impl Transfers {
    /// Own states are wrong.
    pub(super) fn distrust(&mut self) {
        self.taken.clear();
        self.rooted.clear();
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
        let (replies, state, boot) = (node.executor.replies, node.executor.root(), node.boot);
        node.transfers.taken.push_back(node.executor.clone());
        while node.transfers.taken.len() > KEPT {
            node.transfers.taken.pop_front();
        }
        // Hashing takes a while.
        let us = self.random.between(10, 20_000);
        self.later(us, move |c| {
            if c.nodes[r.index()].boot == boot {
                c.step(r, Input::Rooted { seq, replies, state });
            }
        });
    }

    /// A quorum names a state that this replica has.
    pub(super) fn root_is_certified(&mut self, r: ReplicaId, mark: StateCertificate) {
        self.rooted += 1;
        let transfers = &mut self.nodes[r.index()].transfers;
        let seq = mark.statement.seq;
        if let Some(at) = transfers.taken.iter().position(|e| e.executed == seq) {
            let executor = transfers.taken.remove(at).expect("just found");
            transfers.rooted.push_back((mark, executor));
            while transfers.rooted.len() > KEPT {
                transfers.rooted.pop_front();
            }
        }
    }

    /// A replica needs a state: some time later it has received the newest of another one, if that is what it says.
    pub(super) fn transfer(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        if std::mem::replace(&mut node.transfers.under_way, true) {
            return;
        }
        let boot = node.boot;
        let seeders: Vec<ReplicaId> = self.all().into_iter().filter(|s| *s != r && self.up(*s)).collect();
        let seeder = (!seeders.is_empty()).then(|| *self.random.pick(&seeders));
        let mut offer = seeder.and_then(|s| self.nodes[s.index()].transfers.rooted.back().cloned());
        if let (Some((state, executor)), Some(s)) = (&mut offer, seeder)
            && self.nodes[s.index()].adversary.is_some()
        {
            // A liar has another state, with all that it can sign for it.
            executor.falsify();
            state.statement.state = executor.root();
            state.signatures = vec![(s, self.nodes[s.index()].auth.sign_mark(&state.statement))];
        }
        // All who have it send it.
        if let Some(seq) = offer.as_ref().map(|(state, _)| state.statement.seq) {
            let has = |s: &ReplicaId| {
                let rooted = &self.nodes[s.index()].transfers.rooted;
                *s != r && self.up(*s) && rooted.iter().any(|(state, _)| state.statement.seq == seq)
            };
            let seeders: Vec<ReplicaId> = self.all().into_iter().filter(has).collect();
            seeders.into_iter().for_each(|s| self.step(s, Input::Seeding(seq)));
        }
        let us = self.random.between(500, 200_000);
        self.later(us, move |c| {
            if c.nodes[r.index()].boot != boot {
                return;
            }
            match offer.filter(|(mark, executor)| executor.root() == mark.statement.state) {
                Some((mark, executor)) => {
                    c.nodes[r.index()].transfers.arrived = Some((mark.clone(), executor));
                    c.note(r, || format!("has received the state of place {}", mark.statement.seq));
                    c.step(r, Input::Arrived(mark));
                }
                None => c.nodes[r.index()].transfers.under_way = false,
            }
        });
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
        let (mark, executor) = node.transfers.arrived.take().expect("it arrived before it was wanted");
        let boot = node.boot;
        if self.random.per_mille(50) {
            return self.later(10, move |c| {
                if c.nodes[r.index()].boot == boot {
                    c.step(r, Input::InstallFailed);
                }
            });
        }
        node.taken = None;
        let us = self.random.between(10, 50_000);
        self.later(us, move |c| {
            let us = c.random.between(10, 50_000);
            let node = &mut c.nodes[r.index()];
            if node.boot != boot {
                return;
            }
            let MarkStatement { seq, batches, .. } = mark.statement;
            let base = Base { seq, batches };
            (node.executor, node.handed) = (executor.clone(), seq);
            node.checkpoints.push_back(Checkpoint { base, executor, certificate: Some(mark.clone()) });
            while node.checkpoints.len() > 2 {
                node.checkpoints.pop_front();
            }
            c.later(us, move |c| {
                let node = &mut c.nodes[r.index()];
                if node.boot != boot {
                    return;
                }
                node.transfers.under_way = false;
                c.transferred += 1;
                let progress = c.nodes[r.index()].executor.progress();
                c.step(r, Input::Installed { state: mark, progress });
                c.take_root(r, seq);
            });
        });
    }
}
