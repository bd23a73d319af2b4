//! [core] Shares: what is missing is shared out in proportion to weights.
//!
//! Measured weights ("Adaptive state transfer", equations (1) and (2)): every interval all that is missing is shared out
//! anew by the bytes that came from each source in the last one. Fixed weights (its baselines): parts are shared out once,
//! and again only when a source fails.
//!
//! Differs from the paper's text: what is under way or received is not missing, a source keeps the lowest part of what it
//! has, and a request replaces only what is unsent; so next to nothing is sent twice.

use super::board::{Board, RUNS_MAX};
use super::fetch::Strategy;
use super::plan::{apportion, shares};
use super::pull::window;
use super::ranges::RangeSet;
use super::source::*;
use crate::types::*;
use std::collections::BTreeMap;

pub(super) struct Shares {
    weights: Weights,
    /// Shared out at least once.
    begun: bool,
}

enum Weights {
    Measured { interval_ns: u64, next: Option<Tick> },
    Fixed(BTreeMap<ReplicaId, u64>),
}

impl Shares {
    pub fn measured(interval_ns: u64) -> Self {
        let interval_ns = interval_ns.max(1_000_000);
        Self { weights: Weights::Measured { interval_ns, next: None }, begun: false }
    }

    /// Equal where there is no weight at all.
    pub fn fixed(weights: BTreeMap<ReplicaId, u64>) -> Self {
        Self { weights: Weights::Fixed(weights), begun: false }
    }

    fn weights(&self, board: &Board, active: &[usize]) -> Vec<u64> {
        let mut weights: Vec<u64> = match &self.weights {
            Weights::Measured { .. } => active.iter().map(|at| board.sources[*at].weight).collect(),
            Weights::Fixed(given) => {
                let least = given.values().copied().filter(|w| *w > 0).min().unwrap_or(1);
                let of = |at: &usize| given.get(&board.sources[*at].id).copied().unwrap_or(least);
                active.iter().map(of).collect()
            }
        };
        let unknown = weights.iter().all(|w| *w == 0);
        if unknown {
            weights.fill(1);
        }
        // What is measured of the leader is what its pace let through, so only other weights are cut.
        if unknown || matches!(self.weights, Weights::Fixed(_)) {
            spare_leader(board, active, &mut weights);
        }
        weights
    }
}

impl Strategy for Shares {
    fn give_out(&mut self, board: &mut Board, now: Tick) {
        let mut round = !self.begun;
        if let Weights::Measured { interval_ns, next } = &mut self.weights {
            if next.is_some_and(|at| now >= at) {
                measure(board);
                round = true;
            }
            if round {
                *next = Some(Tick(now.0.saturating_add(*interval_ns)));
            }
        }
        let active = board.active();
        if active.is_empty() {
            return;
        }
        if round || board.changed {
            self.begun = true;
            board.changed = false;
            relieve(board, &active);
            let weights = self.weights(board, &active);
            match self.weights {
                Weights::Measured { .. } => share_anew(board, &active, &weights, now),
                Weights::Fixed(_) => share_pool(board, &active, &weights),
            }
        }
        release(board, &active, now);
    }

    fn deadline(&self, board: &Board) -> Option<Tick> {
        let Weights::Measured { next, .. } = &self.weights else { return None };
        let something_to_share = !board.pool.is_empty() || board.sources.iter().any(|s| s.load() > 0);
        next.filter(|_| something_to_share && board.sources.iter().any(Source::active))
    }
}

/// The leader's weight is cut to what it may send, if there are others.
pub(super) fn spare_leader(board: &Board, of: &[usize], weights: &mut [u64]) {
    let percent = u64::from(board.config.leader_weight_percent);
    let Some(led) = of.iter().position(|at| board.is_leader(*at)).filter(|_| of.len() > 1) else { return };
    for (at, weight) in weights.iter_mut().enumerate() {
        let factor = if at == led { percent } else { 100 };
        *weight = (*weight).min(u64::MAX / 128).saturating_mul(factor.min(100));
    }
}

/// The bytes of the interval are the new weights; if nothing came at all the old ones stay.
fn measure(board: &mut Board) {
    let any = board.sources.iter().any(|s| s.interval_bytes > 0);
    for source in &mut board.sources {
        let bytes = std::mem::take(&mut source.interval_bytes);
        if any {
            source.weight = bytes;
        }
    }
}

/// A leader that is no longer needed gives back what it has not sent.
pub(super) fn relieve(board: &mut Board, active: &[usize]) {
    for at in (0..board.sources.len()).filter(|at| !active.contains(at)) {
        if board.sources[at].active() && board.sources[at].load() > 0 {
            let unsent = take_unsent(board, at);
            board.pool.add_all(&unsent);
            board.sources[at].withdraw(&unsent);
        }
    }
}

/// Gives out what nobody has, in contiguous parts; nobody loses anything.
fn share_pool(board: &mut Board, active: &[usize], weights: &[u64]) {
    let parts = apportion(board.pool.len(), weights);
    for (at, part) in active.iter().zip(parts) {
        let part = board.pool.take_first(part);
        board.sources[*at].assigned.add_all(&part);
    }
}

/// Shares out all that is missing and not under way.
fn share_anew(board: &mut Board, active: &[usize], weights: &[u64], now: Tick) {
    let mut free: Vec<RangeSet> = active.iter().map(|at| take_unsent(board, *at)).collect();
    let missing = free.iter().fold(board.pool.len(), |sum, had| sum.saturating_add(had.len()));
    let parts = shares(missing, weights);
    for (had, part) in free.iter_mut().zip(&parts) {
        let surplus = had.len().saturating_sub(*part);
        let surplus = had.take_last(surplus);
        board.pool.add_all(&surplus);
    }
    for ((at, had), part) in active.iter().zip(&mut free).zip(&parts) {
        had.add_all(&board.pool.take_first(part - had.len()));
        let source = &mut board.sources[*at];
        // Those it was asked for stay asked for; the request replaces, and names them.
        let asked = had.common(&source.outstanding);
        let mut dropped = source.outstanding.clone();
        dropped.subtract_all(&asked);
        had.subtract_all(&asked);
        source.assigned = std::mem::take(had);
        let kept = kept_under_way(source, board.chunk_bytes);
        dropped.subtract_all(&kept);
        source.withdraw(&dropped);
        source.replace = true;
    }
    for (at, part) in active.iter().zip(&parts) {
        if *part == 0 && missing > 0 && board.sources[*at].load() == 0 && board.may_ask_of(*at) > 0 {
            board.probe(*at, now);
        }
    }
}

/// All that is planned for a source and not on its way.
fn take_unsent(board: &mut Board, at: usize) -> RangeSet {
    let source = &mut board.sources[at];
    let mut unsent = source.outstanding.clone();
    unsent.subtract_all(&kept_under_way(source, board.chunk_bytes));
    unsent.add_all(&std::mem::take(&mut source.assigned));
    unsent
}

/// What is on its way: the lowest that it was asked for, as many as its rate sends in a round trip; and its probe.
fn kept_under_way(source: &Source, chunk_bytes: u64) -> RangeSet {
    if source.outstanding.is_empty() {
        return RangeSet::default();
    }
    let bytes = u128::from(source.steady_rate()) * u128::from(source.rtt_ns(chunk_bytes)) / 1_000_000_000;
    let chunks = u64::try_from(bytes / u128::from(chunk_bytes)).unwrap_or(u64::MAX).saturating_add(1);
    let mut kept = source.outstanding.clone().take_first(chunks);
    source.overlap.into_iter().for_each(|chunk| _ = kept.insert(chunk));
    kept
}

/// Asks for what is planned, as far as it may be asked for; to each in proportion to what it has.
pub(super) fn release(board: &mut Board, active: &[usize], now: Tick) {
    let planned = active.iter().filter(|at| !board.sources[**at].assigned.is_empty());
    if planned.clone().next().is_none() {
        return;
    }
    let may = board.may_ask();
    let most = board.under_way_max();
    let window = |board: &Board, at: usize| (window(board, at, now) / board.chunk_bytes).max(1);
    let hungry = |at: &usize| {
        board.sources[*at].outstanding.len() < window(board, *at).div_ceil(2) && board.may_ask_of(*at) > 0
    };
    // By eighths, or where a source would run dry: a request for each chunk would be many.
    if may == 0 || (may < most / 8 && !planned.clone().any(hungry)) {
        return;
    }
    let under_way: u64 = active.iter().map(|at| board.sources[*at].outstanding.len()).sum();
    let loads: Vec<u64> = active.iter().map(|at| board.sources[*at].load()).collect();
    let targets = apportion(
        may.saturating_add(under_way).min(loads.iter().fold(0, |sum, load| sum.saturating_add(*load))),
        &loads,
    );
    // First what keeps each busy, then the rest.
    let windows: Vec<u64> = active.iter().map(|at| window(board, *at)).collect();
    for targets in [windows, targets] {
        for (at, target) in active.iter().zip(targets) {
            let lacking = target.saturating_sub(board.sources[*at].outstanding.len());
            ask_of(board, *at, lacking.min(board.may_ask()).min(board.may_ask_of(*at)), now);
        }
    }
}

/// Asks for so many of the chunks planned for it, in a bounded number of runs.
fn ask_of(board: &mut Board, at: usize, count: u64, now: Tick) {
    let mut left = count;
    for _ in board.sources[at].outstanding.runs()..RUNS_MAX {
        let run = board.sources[at].assigned.take_run(left);
        if run.is_empty() {
            return;
        }
        left -= run.len();
        board.ask(at, &run, now);
    }
}
