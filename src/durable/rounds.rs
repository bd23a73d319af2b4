//! What rounds of the layer took: the paper's T_k beside E_k and L_k.

use std::time::Duration;

/// Sums over all rounds so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct RoundStats {
    /// Rounds.
    pub rounds: u64,
    /// Operations in them.
    pub operations: u64,
    /// Σ E_k, nanoseconds.
    pub execute_ns: u64,
    /// Σ L_k: from the append until the last record was durable; 0 where a round does not wait for it.
    pub log_ns: u64,
    /// Σ max(E_k, L_k).
    pub larger_ns: u64,
    /// Σ T_k: from the append until the replies were released.
    pub round_ns: u64,
}

impl RoundStats {
    /// Adds one round.
    pub(super) fn add(&mut self, operations: usize, execute: Duration, log: Duration, round: Duration) {
        self.rounds += 1;
        self.operations += operations as u64;
        self.execute_ns += execute.as_nanos() as u64;
        self.log_ns += log.as_nanos() as u64;
        self.larger_ns += execute.max(log).as_nanos() as u64;
        self.round_ns += round.as_nanos() as u64;
    }

    /// What came after `earlier`.
    pub fn since(&self, earlier: &RoundStats) -> RoundStats {
        RoundStats {
            rounds: self.rounds - earlier.rounds,
            operations: self.operations - earlier.operations,
            execute_ns: self.execute_ns - earlier.execute_ns,
            log_ns: self.log_ns - earlier.log_ns,
            larger_ns: self.larger_ns - earlier.larger_ns,
            round_ns: self.round_ns - earlier.round_ns,
        }
    }
}
