//! How many votes are enough. The crate's only comparison of votes with a quorum is here.

use crate::order::mutants::{Mutant, broken};
use crate::types::ReplicaId;

/// What a faulty replica may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultModel {
    /// It stops (n ≥ 2f+1).
    Crash,
    /// It lies (n ≥ 3f+1).
    Byzantine,
}

/// A group's size and the failures it bears; `n` is large enough for `f` by construction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    model: FaultModel,
    n: u32,
    f: u32,
}

/// Most members a group may have: votes are kept in one machine word.
pub const REPLICAS_MAX: u32 = 64;

/// Why a group of this size cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GroupError {
    /// Too few replicas for the faults to bear.
    #[error("{n} replicas bear no {f} {model:?} faults: at least {needed} are needed")]
    TooSmall {
        /// Replicas named.
        n: u32,
        /// Faults to bear.
        f: u32,
        /// The fault model.
        model: FaultModel,
        /// The least that suffices.
        needed: u32,
    },
    /// More than [`REPLICAS_MAX`].
    #[error("{0} replicas are more than the {REPLICAS_MAX} a group may have")]
    TooLarge(u32),
}

impl Group {
    /// A group of `n` that bears `f` faults.
    pub fn new(model: FaultModel, n: u32, f: u32) -> Result<Self, GroupError> {
        let needed = match model {
            FaultModel::Crash => f.saturating_mul(2).saturating_add(1),
            FaultModel::Byzantine => f.saturating_mul(3).saturating_add(1),
        };
        if n > REPLICAS_MAX {
            return Err(GroupError::TooLarge(n));
        }
        if n == 0 || n < needed {
            return Err(GroupError::TooSmall { n, f, model, needed });
        }
        Ok(Self { model, n, f })
    }

    /// The most faults `n` replicas bear.
    pub fn most_faults(model: FaultModel, n: u32) -> u32 {
        match model {
            FaultModel::Crash => n.saturating_sub(1) / 2,
            FaultModel::Byzantine => n.saturating_sub(1) / 3,
        }
    }

    /// The fault model.
    pub fn model(self) -> FaultModel {
        self.model
    }

    /// Whether faulty replicas may lie.
    pub fn byzantine(self) -> bool {
        self.model == FaultModel::Byzantine
    }

    /// Number of members.
    pub fn n(self) -> u32 {
        self.n
    }

    /// Number of faults borne.
    pub fn f(self) -> u32 {
        self.f
    }

    /// All members.
    pub fn members(self) -> impl Iterator<Item = ReplicaId> + Clone {
        (0..self.n).map(ReplicaId)
    }

    /// Whether `r` is a member.
    pub fn contains(self, r: ReplicaId) -> bool {
        r.0 < self.n
    }

    /// Votes that decide: any two quorums share a correct replica (RULES 13).
    pub fn quorum(self) -> Quorum {
        let size = match self.model {
            FaultModel::Crash => self.n / 2 + 1,
            FaultModel::Byzantine => (self.n + self.f) / 2 + 1,
        };
        if broken(Mutant::QuorumOfOlderTexts) {
            return Quorum(if self.byzantine() { 2 * self.f + 1 } else { self.f + 1 });
        }
        Quorum(size - u32::from(broken(Mutant::QuorumTooSmall)))
    }

    /// Votes among which at least one is a correct replica's: f+1. Nothing more follows from them.
    pub fn one_correct(self) -> Quorum {
        Quorum(self.f + 1)
    }

    /// All that can be waited for when `f` replicas are silent: n − f.
    pub fn responsive(self) -> Quorum {
        Quorum(self.n - self.f)
    }
}

/// A number of distinct voters that suffices for something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorum(u32);

impl Quorum {
    /// Whether these voters suffice.
    pub fn reached_by(self, votes: VoteSet) -> bool {
        votes.count() >= self.0
    }

    /// How many are needed, for messages to people and sizing of buffers; compare with [`Quorum::reached_by`].
    pub fn size(self) -> u32 {
        self.0
    }

    /// The largest value that a quorum's worth of `values` reaches: the q-th highest. `None` if there are fewer.
    pub fn reached_value<T: Ord + Copy>(self, values: impl Iterator<Item = T>) -> Option<T> {
        let mut values: Vec<T> = values.collect();
        values.sort_unstable_by(|a, b| b.cmp(a));
        values.get(self.0 as usize - 1).copied()
    }
}

/// A set of distinct replicas that said the same thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VoteSet(u64);

impl VoteSet {
    /// Adds a voter; false if it was in already.
    pub fn insert(&mut self, r: ReplicaId) -> bool {
        debug_assert!(r.0 < REPLICAS_MAX);
        let bit = 1u64 << (r.0 % REPLICAS_MAX);
        let fresh = self.0 & bit == 0;
        self.0 |= bit;
        fresh
    }

    /// Whether `r` is in the set.
    pub fn contains(self, r: ReplicaId) -> bool {
        r.0 < REPLICAS_MAX && self.0 >> r.0 & 1 == 1
    }

    /// Takes a voter out.
    pub fn remove(&mut self, r: ReplicaId) {
        self.0 &= !(1u64 << (r.0 % REPLICAS_MAX));
    }

    /// How many distinct voters.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The voters in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..REPLICAS_MAX).filter(move |i| self.0 >> i & 1 == 1).map(ReplicaId)
    }
}

impl FromIterator<ReplicaId> for VoteSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(iter: I) -> Self {
        let mut set = Self::default();
        for r in iter {
            set.insert(r);
        }
        set
    }
}
