//! [core] A policy for those who want it: nothing is offered to a replica that lacks the state while the load is high, for some time.
//!
//! Off by default: a replica without the state counts as faulty, and this makes that time longer.
//! Source: Dura-SMaRt (ATC'13), "Perturbations caused by state transfer", which ZooKeeper's way it names; there without a bound on time.

use crate::types::*;
use std::collections::BTreeMap;

/// Who has not asked for so long does not want a state any more.
const FORGET_NS: u64 = 60_000_000_000;

struct Asker {
    first: Tick,
    last: Tick,
    /// Has been offered one: a second question of the same transfer waits no more.
    served: bool,
}

/// Who asked, and since when.
#[derive(Default)]
pub struct Postponing {
    /// Requests per second; 0: never.
    above: u64,
    at_most_ns: u64,
    askers: BTreeMap<ReplicaId, Asker>,
}

impl Postponing {
    /// While more than `above` requests are executed per second (0: never), but not longer than `at_most_ns`.
    pub fn new(above: u64, at_most_ns: u64) -> Self {
        Self { above, at_most_ns, askers: BTreeMap::new() }
    }

    /// A replica asks for states: whether it has to wait.
    pub fn asked(&mut self, now: Tick, who: ReplicaId, ops_per_s: u64) -> bool {
        if self.above == 0 {
            return false;
        }
        let asker = self.askers.entry(who).or_insert(Asker { first: now, last: now, served: false });
        asker.last = now;
        asker.served |= ops_per_s <= self.above || now.since(asker.first) >= self.at_most_ns;
        !asker.served
    }

    /// Time passed: who waits no longer, and is to be offered what there is.
    pub fn tick(&mut self, now: Tick, ops_per_s: u64) -> Vec<ReplicaId> {
        self.askers.retain(|_, asker| now.since(asker.last) < FORGET_NS);
        let mut due = Vec::new();
        for (who, asker) in self.askers.iter_mut().filter(|(_, asker)| !asker.served) {
            asker.served = ops_per_s <= self.above || now.since(asker.first) >= self.at_most_ns;
            if asker.served {
                due.push(*who);
            }
        }
        due
    }

    /// Who waits.
    pub fn waiting(&self) -> impl Iterator<Item = ReplicaId> {
        self.askers.iter().filter(|(_, asker)| !asker.served).map(|(who, _)| *who)
    }
}
