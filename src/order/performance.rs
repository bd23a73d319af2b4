//! [core] A leader that is alive and slow: how long clients wait under each leader, and when another is to be tried.
//!
//! The timeouts of [`watch`](super::watch) catch a leader that stops. One that proposes just before they end, or a little at a
//! time, costs nearly all of the goodput and breaks no rule. Nobody can know what a leader ought to achieve, but everybody can
//! compare: Aardvark ("Robust View Change") asks each leader for a share of what the last ones achieved, and Prime
//! ("Suspect-Leader") for a turnaround that follows from measured delays. Here:
//!
//! **What is measured.** Followers time groups from arrival here to execution here. A client hands a group now and then, at
//! random, to all replicas and not to the leader alone, so that a leader cannot tell which ones are timed. A period's *wait* is
//! the median over clients of their mean: the mean, because with a bounded number of requests out it is what goodput follows from
//! (Little's law); the median, so that neither a favoured nor a lying minority of clients decides. A group that still waits
//! counts by its age once that is more than the mean. What came before the view began does not count.
//!
//! **When a leader is slow.** For [`PERIODS`] periods in a row the wait is above a floor, and either more than [`SLACK`] times what
//! another leader was measured at lately, or fewer than f+1 leaders were measured lately, so that perhaps no correct one was.
//! Then this replica wishes for the next view. f+1 wishes move anything, so a replica whose own links are slow disturbs nobody.
//!
//! **When that ends.** The first such wish begins a *search*: what was measured before it is forgotten, so each search compares
//! leaders under the load of now, and what a liar achieved with the help of its clients counts for one search. It ends with the
//! first leader that is within the slack of the best of at least f+1, after n changes at the latest. If that one is no better
//! than the one the search began with, all are slow (overload, one disk, long ways): that wait is *accepted*, and the next
//! search may begin only after a pause that doubles each time, from [`PAUSE_MIN`] to [`PAUSE_MAX`] timeouts; after an eighth of it
//! if the wait becomes more than the slack times the accepted one. So when nobody is better, the group stays with one leader,
//! but for one change per [`PAUSE_MAX`] timeouts.
//!
//! **What a slow leader still gets.** With one below the floor, or within the slack of the best, nothing happens. The floor is
//! three times what a place takes to be decided, which a lying leader can stretch, so at most 1/[`FLOOR_PART`] of the timeout.
//!
//! Differs from Aardvark: no rotation by the clock while waits are below the floor. Differs from Prime: nothing is exchanged.
//! Crash mode does not use it: nobody dawdles on purpose, and there clients speak to the leader alone.

use crate::quorum::{Group as Members, VoteSet};
use crate::types::*;
use std::collections::{BTreeMap, HashMap};

/// A leader may be so many times slower than the best.
pub const SLACK: u64 = 2;
/// Periods in a row that a leader must be slow.
pub const PERIODS: u32 = 2;
/// Timeouts between searches that find nothing better, at first and at last.
pub const PAUSE_MIN: u64 = 8;
/// See [`PAUSE_MIN`].
pub const PAUSE_MAX: u64 = 128;
/// The floor is at most this part of the timeout.
pub const FLOOR_PART: u64 = 32;
/// Timeouts for which a measurement counts.
const FRESH: u64 = 32;
/// Groups timed at once: of one client, of all.
const TIMED_OF_CLIENT: u32 = 4;
const TIMED: usize = 64;
/// Periods without a verdict after which what was held against the leader is forgotten.
const QUIET: u32 = 8;

#[derive(Clone, Copy)]
struct Timed {
    client: ClientId,
    since: Tick,
}

/// What one client got in this period.
#[derive(Clone, Copy, Default)]
struct Served {
    count: u64,
    sum_ns: u64,
}

#[derive(Clone, Copy)]
struct Score {
    /// `None`: it was this replica, which does not measure itself.
    wait_ns: Option<u64>,
    at: Tick,
}

/// A row of view changes for the sake of a faster leader.
#[derive(Clone, Copy)]
struct Search {
    /// Under the leader that it began with.
    wait_ns: u64,
    changes: u32,
}

/// How fast leaders are, as this replica sees it.
pub struct Performance {
    members: Members,
    timeout_ns: u64,
    timed: HashMap<Digest, Timed>,
    served: BTreeMap<ClientId, Served>,
    period_began: Tick,
    /// Periods in a row in which the leader was slow; in which nothing could be said.
    slow_periods: u32,
    quiet_periods: u32,
    slow: bool,
    scores: BTreeMap<ReplicaId, Score>,
    search: Option<Search>,
    /// When the last search ended.
    settled: Option<Tick>,
    accepted_ns: u64,
    pause: u64,
}

impl Performance {
    /// Nothing is known. `view_timeout_ms`: the configured one.
    pub fn new(members: Members, view_timeout_ms: u64) -> Self {
        Self {
            members,
            timeout_ns: view_timeout_ms.saturating_mul(1_000_000),
            timed: HashMap::new(),
            served: BTreeMap::new(),
            period_began: Tick(0),
            slow_periods: 0,
            quiet_periods: 0,
            slow: false,
            scores: BTreeMap::new(),
            search: None,
            settled: None,
            accepted_ns: 0,
            pause: PAUSE_MIN,
        }
    }

    /// Whether another leader is to be tried.
    pub fn slow(&self) -> bool {
        self.slow
    }

    /// The wait that a leader is not blamed for, if a place takes `decide_ns` to be decided.
    pub fn floor_ns(&self, decide_ns: u64) -> u64 {
        (3 * decide_ns).clamp(self.timeout_ns / 1000, self.timeout_ns / FLOOR_PART)
    }

    /// A client handed a new group to this replica, which does not lead.
    pub fn arrived(&mut self, now: Tick, client: ClientId, digest: Digest) {
        let of_client = || self.timed.values().filter(|t| t.client == client).count() as u32;
        if self.timed.len() < TIMED && of_client() < TIMED_OF_CLIENT {
            self.timed.insert(digest, Timed { client, since: now });
        }
    }

    /// Groups timed now.
    #[cfg(test)]
    pub(super) fn timed_groups(&self) -> usize {
        self.timed.len()
    }

    /// These groups were executed.
    pub fn executed(&mut self, now: Tick, digests: &[Digest]) {
        if self.timed.is_empty() {
            return;
        }
        for timed in digests.iter().filter_map(|d| self.timed.remove(d)) {
            let served = self.served.entry(timed.client).or_default();
            served.count += 1;
            served.sum_ns += now.since(timed.since);
        }
    }

    /// Groups that left the pool otherwise are not timed any more.
    pub fn keep(&mut self, held: impl Fn(&Digest) -> bool) {
        self.timed.retain(|digest, _| held(digest));
    }

    /// The view of `leader` is over; `led`: that was this replica.
    pub fn view_ends(&mut self, now: Tick, leader: ReplicaId, led: bool) {
        if led {
            self.scores.insert(leader, Score { wait_ns: None, at: now });
        }
        if let Some(search) = &mut self.search {
            search.changes += 1;
        }
        self.timed.clear();
        (self.slow, self.slow_periods) = (false, 0);
    }

    /// A view begins.
    pub fn view_begins(&mut self, now: Tick) {
        self.timed.clear();
        self.begin_period(now);
    }

    fn begin_period(&mut self, now: Tick) {
        self.served.clear();
        self.period_began = now;
    }

    /// With each heartbeat of a view that this replica follows. `next_lives`: so does the next leader.
    pub fn look(&mut self, now: Tick, leader: ReplicaId, floor_ns: u64, next_lives: bool) {
        if now.since(self.period_began) < self.timeout_ns / 2 {
            return;
        }
        let wait_ns = self.wait_ns(now);
        let is_slow = self.is_slow(now, leader, wait_ns, floor_ns, next_lives);
        // Groups that only wait tell how long at least: enough to blame, too little to praise.
        if self.served.is_empty() && !is_slow {
            self.quiet_periods += 1;
            if self.quiet_periods >= QUIET {
                (self.slow, self.slow_periods) = (false, 0);
            }
            return self.begin_period(now);
        }
        self.quiet_periods = 0;
        self.begin_period(now);
        self.scores.insert(leader, Score { wait_ns: Some(wait_ns), at: now });
        if !is_slow {
            (self.slow, self.slow_periods) = (false, 0);
            return self.content(now, wait_ns, floor_ns);
        }
        self.slow_periods += 1;
        if self.slow_periods >= PERIODS {
            self.slow = true;
            if self.search.is_none() {
                self.search = Some(Search { wait_ns, changes: 0 });
                self.scores.retain(|r, _| *r == leader);
            }
        }
    }

    /// The median over clients of the mean wait.
    fn wait_ns(&self, now: Tick) -> u64 {
        let mut all = self.served.clone();
        for timed in self.timed.values() {
            let age = now.since(timed.since);
            let mean = self.served.get(&timed.client).map_or(0, |s| s.sum_ns / s.count);
            if age > mean {
                let served = all.entry(timed.client).or_default();
                served.count += 1;
                served.sum_ns += age;
            }
        }
        let mut means: Vec<u64> = all.values().map(|s| s.sum_ns / s.count).collect();
        means.sort_unstable();
        means.get(means.len().saturating_sub(1) / 2).copied().unwrap_or(0)
    }

    fn is_slow(&self, now: Tick, leader: ReplicaId, wait_ns: u64, floor_ns: u64, next_lives: bool) -> bool {
        if wait_ns <= floor_ns {
            return false;
        }
        let may_search = match &self.search {
            Some(search) => search.changes < self.members.n(),
            None => self.settled.is_none_or(|settled| {
                let (since, pause) = (now.since(settled), self.pause * self.timeout_ns);
                since >= pause || since >= pause / 8 && wait_ns > SLACK * self.accepted_ns
            }),
        };
        let fresh = || self.scores.iter().filter(|(_, s)| now.since(s.at) < FRESH * self.timeout_ns);
        let best = fresh().filter(|(r, _)| **r != leader).filter_map(|(_, s)| s.wait_ns).min();
        let mut tried: VoteSet = fresh().map(|(r, _)| *r).collect();
        tried.insert(leader);
        let unknown = !self.members.one_correct().reached_by(tried);
        may_search && (best.is_some_and(|best| wait_ns > SLACK * best) || unknown && next_lives)
    }

    /// The leader serves as well as any.
    fn content(&mut self, now: Tick, wait_ns: u64, floor_ns: u64) {
        match self.search.take() {
            Some(search) if search.changes > 0 => {
                let gained = wait_ns <= floor_ns || wait_ns * 3 / 2 < search.wait_ns;
                self.pause = if gained { PAUSE_MIN } else { (2 * self.pause).min(PAUSE_MAX) };
                self.settled = Some(now);
                self.accepted_ns = wait_ns;
            }
            // What is accepted falls with what is achieved, and rises with a search alone.
            _ => self.accepted_ns -= self.accepted_ns.saturating_sub(wait_ns) / 8,
        }
    }
}
