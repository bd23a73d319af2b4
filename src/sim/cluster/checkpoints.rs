//! Checkpoints of simulated replicas: frozen in turn, on disk some time after the mark covers them, two of them kept.

use super::*;

/// When replicas take checkpoints, and what becomes of their logs then.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints {
    /// Each takes one every so many places, one replica after the other.
    pub period: u64,
    /// All take them at the same place.
    pub together: bool,
    /// What checkpoints cover leaves the log.
    pub recycles: bool,
    /// The disk is short: nothing stays for replicas that are behind.
    pub pressed: bool,
}

/// An executed state on disk.
#[derive(Clone)]
pub(super) struct Checkpoint {
    pub(super) base: Base,
    pub(super) executor: Executor,
    /// It came from others.
    pub(super) foreign: bool,
}

impl Cluster {
    /// The newest checkpoint can no longer be read.
    pub fn spoil_checkpoint(&mut self, r: ReplicaId) {
        self.nodes[r.index()].checkpoints.pop_back();
    }

    /// Freezes the state if it is this replica's turn.
    pub(super) fn take_checkpoint(&mut self, r: ReplicaId, seq: Seq) {
        let Some(plan) = self.setup.checkpoints else { return };
        let n = u64::from(self.setup.members.n());
        let turn = if plan.together { 0 } else { u64::from(r.0) * (plan.period / n) };
        let node = &mut self.nodes[r.index()];
        if seq.0 % plan.period == turn && node.taken.is_none() && node.core.is_some() {
            node.taken = Some(node.executor.clone());
            self.step(r, Input::CheckpointTaken(seq));
        }
    }

    /// The checkpoint being written may count: some time later it is on disk.
    pub(super) fn store_checkpoint(&mut self, r: ReplicaId, base: Base) {
        let node = &mut self.nodes[r.index()];
        // A state from others may have taken its place.
        let Some(executor) = node.taken.clone() else { return };
        assert_eq!(executor.executed, base.seq);
        let boot = node.boot;
        let us = self.random.between(10, 50_000);
        self.later(us, move |c| {
            let node = &mut c.nodes[r.index()];
            // A later state may have come from others meanwhile.
            let overtaken = node.checkpoints.back().is_some_and(|newest| newest.base.seq >= base.seq);
            if node.boot != boot || overtaken {
                return;
            }
            node.taken = None;
            node.checkpoints.push_back(Checkpoint { base, executor, foreign: false });
            while node.checkpoints.len() > 2 {
                node.checkpoints.pop_front();
            }
            c.checkpoints += 1;
            c.note(r, || format!("stores checkpoint {}", base.seq));
            let plan = c.setup.checkpoints.expect("there are checkpoints");
            let node = &mut c.nodes[r.index()];
            if let (true, [older, _]) = (plan.recycles, node.checkpoints.make_contiguous()) {
                let seq = older.base.seq;
                c.step(r, Input::CheckpointStored { seq, keep: Lsn(u64::MAX), pressed: plan.pressed });
            }
        });
    }
}
