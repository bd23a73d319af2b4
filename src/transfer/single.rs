//! [core] Single: one source sends all (PBFT); the next one if it fails. The leader is the last to be taken,
//! unless it is to send as much as any other.

use super::board::{Board, RUNS_MAX};
use super::fetch::Strategy;
use crate::types::*;

#[derive(Default)]
pub(super) struct Single {
    source: Option<ReplicaId>,
}

impl Strategy for Single {
    fn give_out(&mut self, board: &mut Board, now: Tick) {
        board.changed = false;
        let active = board.active();
        let current = active.iter().copied().find(|at| Some(board.sources[*at].id) == self.source);
        let next = || {
            let after = |at: &usize| self.source.is_none_or(|s| board.sources[*at].id > s);
            let last = |at: usize| board.is_leader(at) && board.config.leader_weight_percent < 100;
            active.iter().copied().min_by_key(|at| (last(*at), !after(at), *at))
        };
        let Some(at) = current.or_else(next) else { return };
        self.source = Some(board.sources[at].id);
        // By halves: a request for each chunk would be many.
        let may = board.may_ask();
        let under_way = board.sources[at].outstanding.len();
        if may < under_way.min(board.under_way_max() / 8) {
            return;
        }
        let runs = board.sources[at].outstanding.runs();
        let mut left = may;
        for _ in runs..RUNS_MAX {
            let chunks = board.pool.take_run(left);
            if chunks.is_empty() {
                break;
            }
            left -= chunks.len();
            board.ask(at, &chunks, now);
        }
    }

    fn deadline(&self, _: &Board) -> Option<Tick> {
        None
    }
}
