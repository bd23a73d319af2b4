//! [core] How far apart the turns are put where a checkpoint takes longer than one.
//!
//! Equation (1) asks for P > n · C_max · T_max, and C_max · T_max is the number of places that pass while one checkpoint is written. A
//! replica that finds this to be more than its turn has leaves turns out: it goes by a period of twice the length, or four times, at
//! its own place in that. As all replicas find the same on machines of the same kind, they keep out of each other's way again; where
//! they do not, two may write at once, as before. The log has to hold as many more places.
//!
//! Source: Dura-SMaRt (ATC'13), "Sequential checkpointing", equation (1). Differs: a period that is too small is not only told of.

use std::collections::VecDeque;

use super::schedule::Schedule;

/// Checkpoints that are remembered.
const REMEMBERED: usize = 4;
/// A period is not made longer than so many times.
pub const STRETCH_MAX: u64 = 4;

/// What one replica measured.
pub struct Stretch {
    schedule: Schedule,
    /// Places that passed while each of the last ones was written.
    places: VecDeque<u64>,
}

impl Stretch {
    /// Nothing was measured yet.
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, places: VecDeque::new() }
    }

    /// So many places passed while one was written, as fast as the disk and the operator allow.
    pub fn add(&mut self, places: u64) {
        self.places.push_back(places);
        if self.places.len() > REMEMBERED {
            self.places.pop_front();
        }
    }

    /// The smallest period that is safe, by the last ones.
    pub fn smallest_period(&self) -> u64 {
        self.schedule.smallest_period(self.most())
    }

    /// How many times the period is gone by: a power of two.
    pub fn factor(&self) -> u64 {
        let fits = |factor: u64| self.smallest_period() <= self.schedule.period() * factor;
        let mut factors = std::iter::successors(Some(1), |factor| Some(factor * 2));
        factors.find(|factor| fits(*factor) || *factor >= STRETCH_MAX).unwrap_or(1)
    }

    fn most(&self) -> u64 {
        self.places.iter().copied().max().unwrap_or(0)
    }
}
