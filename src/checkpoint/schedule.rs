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

    /// Whether this replica takes a checkpoint after place `seq`, going by `stretch` times the period.
    pub fn takes(&self, seq: Seq, stretch: u64) -> bool {
        seq > Seq(0) && seq.0 % (self.period * stretch) == self.turn * stretch
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

    /// Places from one turn to the next.
    pub fn turn_places(&self) -> u64 {
        self.period / self.turns
    }

    /// The smallest period that equation (1) allows, where so many places are decided while a checkpoint is written: C_max · T_max.
    pub fn smallest_period(&self, places: u64) -> u64 {
        self.turns.saturating_mul(places) + 1
    }
}
