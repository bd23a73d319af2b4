//! [core] What the log keeps once checkpoints cover what it leads to (RULES 3, 5, 15).
//!
//! ```text
//! execute, at a place of the schedule: CheckpointTaken(k) ─→ the durable mark reaches k ─→ Covered(k, history): it may count
//! the checkpoint has its name on disk: CheckpointStored(older of two) ─→ Control record ─→ durable ─→ Recycle
//! ```
//! A checkpoint counts only below the own durable mark: what lies above it is decided, and yet an operator's new era may cut it. And
//! what others that are behind still ask for is kept for them, as long as the disk has room.

use super::control::Control;
use super::held::Held;
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use crate::types::*;

/// A replica heard of within this long may still need what it says it lacks.
const PIN_NS: u64 = 60_000_000_000;

impl Orderer {
    /// The executed state at `seq` was frozen and is being written.
    pub(super) fn on_checkpoint_taken(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if self.lacks_state {
            return;
        }
        self.checkpoint_taken = Some(seq);
        self.tell_covered(out);
    }

    /// The mark moved: perhaps it covers the checkpoint that is being written.
    pub(super) fn tell_covered(&mut self, out: &mut Vec<Output>) {
        let Some(seq) = self.checkpoint_taken.filter(|seq| *seq <= self.low) else { return };
        self.checkpoint_taken = None;
        if let Some(batches) = self.durable.history(seq) {
            out.push(Output::Covered { seq, batches });
        }
    }

    /// Two checkpoints are on disk, the older of them of `seq`.
    pub(super) fn on_checkpoint_stored(&mut self, seq: Seq, keep: Lsn, pressed: bool, out: &mut Vec<Output>) {
        // A control record must not leave out what a damaged one held: that is known again, or covered by a mark, before anything goes.
        if self.lacks_state || self.installing.is_some() || self.durable.is_wounded() {
            return;
        }
        let (now, begun) = (self.now.tick, self.begun);
        // One that was not heard of yet may lack anything.
        // Nor does one that lacks what is gone keep anything: the log cannot help it.
        let base = self.durable.base().seq;
        let lost = |p: &Peer| p.status.is_some_and(|s| s.decided < base);
        let near = |p: &&Peer| now.since(p.seen.max(begun)) < PIN_NS && !lost(p);
        let needs = |p: &Peer| p.status.map(|s| s.mark.min(s.decided)).unwrap_or_default();
        let pinned = self.peers.values().filter(near).map(needs).min();
        // Nor is what follows a state that is on its way to one of them let go before it has come to ask for it.
        self.seeded.retain(|_, told| now.since(*told) < PIN_NS);
        let pinned = pinned.into_iter().chain(self.seeded.keys().copied()).min();
        let covered = match pinned {
            Some(pinned) if !pressed && !broken(Mutant::ForgetsLaggards) => seq.min(pinned),
            _ => seq,
        };
        let covered = if broken(Mutant::RecyclesToMark) { self.low } else { covered };
        let (upto, below) = self.durable.recyclable(covered.min(self.executed), keep);
        if below <= self.recycled_below {
            return;
        }
        self.recycled_below = below;
        let below = below.min(self.next_lsn);
        if broken(Mutant::RecyclesWithoutControl) {
            return self.recycle(upto, below, out);
        }
        let control = Control { below, ..self.durable.control(self.config.votes_durable) };
        let lsn = self.append(OrderRecord::Control(Box::new(control)), out);
        self.hold(lsn, Held::Control { upto, below }, out);
    }

    /// A control record behind all that is to go is durable.
    pub(super) fn recycle(&mut self, upto: Seq, below: Lsn, out: &mut Vec<Output>) {
        self.durable.trim(upto);
        out.push(Output::Recycle { upto, below });
    }
}
