//! [core] Which replica writes a checkpoint at which place: sequential checkpointing.
//!
//! With period P and `groups` turns in it (one replica each, or up to f together), turn i is after place k with k mod P = i · ⌊P/groups⌋,
//! so that at any moment at most one turn writes, if the period satisfies equation (1) of the durability paper:
//! P > groups · C_max · T_max, C_max the longest time a checkpoint takes, T_max the most places decided in a second.
//!
//! Positions are multiples of the mark interval (RULES 5): a checkpoint counts by its mark.

use crate::types::{ReplicaId, Seq};

/// When whose turn is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turns {
    /// One group of so many replicas after the other.
    Sequential {
        /// At least 1, at most f.
        group: u32,
    },
    /// All at once: the baseline.
    Synchronized,
}

/// One replica's turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    period: u64,
    turn: u64,
    turns: u64,
}

impl Schedule {
    /// Of replica `me` among `n`, every `period` places, rounded down to what mark interval and turns divide, but to no less
    /// than one mark interval per turn. `None`: a period of 0 asks for no checkpoints.
    pub fn new(turns: Turns, period: u64, n: u32, me: ReplicaId, mark_interval: u64) -> Option<Self> {
        let (count, turn) = match turns {
            Turns::Sequential { group } => (n.div_ceil(group.max(1)), me.0 / group.max(1)),
            Turns::Synchronized => (1, 0),
        };
        let (count, turn) = (u64::from(count), u64::from(turn));
        let step = (period / count / mark_interval).max(1) * mark_interval;
        (period > 0).then_some(Self { period: step * count, turn: turn * step, turns: count })
    }

    /// Whether this replica takes a checkpoint after place `seq`.
    pub fn takes(&self, seq: Seq) -> bool {
        seq > Seq(0) && seq.0 % self.period == self.turn
    }

    /// The last place up to `seq` after which this replica takes a checkpoint; 0: none yet.
    pub fn last(&self, seq: Seq) -> Seq {
        seq.0.checked_sub(self.turn).map_or(Seq(0), |past| Seq(seq.0 - past % self.period))
    }

    /// Whether all replicas take the root of their state after place `seq`: one of them writes it to disk as well.
    pub fn roots(&self, seq: Seq) -> bool {
        seq > Seq(0) && seq.0.is_multiple_of(self.period / self.turns)
    }

    /// Places between two checkpoints of this replica.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// The smallest period that equation (1) allows, where a checkpoint takes `write_s` seconds and `places_per_s` places are decided.
    pub fn smallest_period(&self, write_s: f64, places_per_s: f64) -> u64 {
        (self.turns as f64 * write_s * places_per_s).floor() as u64 + 1
    }
}
