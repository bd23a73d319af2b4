//! [core] CST: collaborative state transfer. A few seeders, ranked by the age of their checkpoints, send one part each.
//!
//! Source: Dura-SMaRt (ATC'13), "Collaborative State Transfer", with its steps 1 to 13. What each of its words is here:
//!
//! | the paper | here |
//! |---|---|
//! | *agreement id*, the largest that f+1 of n−f replicas have logged (steps 1 to 3) | the newest place whose state a quorum certified, of those that f+1 offer; of all offered ones if there is no such place. A certificate says what f+1 equal answers say, whoever shows it |
//! | replica i's checkpoint after request k, k mod P = i·⌊P/n⌋ | the same places ([`Schedule`]); at each of them *all* replicas freeze, hash and sign their state, and one also writes it |
//! | replicas in order of the freshness of their checkpoints (step 4) | the same order, [`ranks`], at the certified place |
//! | `C_{f+1}`, the checkpoint of rank f+1 (step 8) | table and pages of the state at the certified place, which every seeder keeps: *who* sends is the paper's choice, *what* is the same from all |
//! | `HC_i` of ranks 1 to f (step 6) | the root in the certificate, signed by a quorum, of which f+1 are correct |
//! | `L_1 … L_{f+1}` (step 8) | the batches after the place; they do not pass here, the ordering protocol asks all replicas for them in turn, by digest |
//! | `HL_1 … HL_i` (step 6) | for batches, their history in certified marks; for parts of the state, lists of page digests, from all seeders in turn |
//! | replay `L_{i+1}`, take an intermediate checkpoint, compare with `HC_i`, until f agree (step 12) | every page against its list, every list against the manifest, the manifest against the root, before anything is taken over. What is replayed afterwards passes the next places, and the states there are compared with what others signed |
//! | no agreement: all of it from rank r+1 (step 13) | who sends a page that does not match is banned, and only what it owed is asked of the next rank |
//! | a seeder does not answer: back to step 2 | the next rank; all is asked anew when nobody has the place any more, or nothing moves |
//!
//! | form | who sends |
//! |---|---|
//! | Byzantine, f = 1 ("Optimizing CST") | ranks 2, 3 and 1 a third each: the paper's `C_2`, `L_2` and `L_1`, equally large where the log is twice the state |
//! | Byzantine, other f | rank f+1 all of it |
//! | crash, f = 1 ("Simplifications for crash faults") | ranks 1 and 2 a half each |
//! | crash, other f | rank 1 all of it |
//!
//! Differs: the leader ranks last. Hashes are compared in crash mode too, for memory and disks fail there as well. One correct seeder
//! is enough, so ranks below the paper's 2f+1 are asked too, and after the last the first.

use super::board::Board;
use super::fetch::Strategy;
use super::plan::apportion;
use super::shares::{release, relieve, spare_leader};
use crate::checkpoint::schedule::Schedule;
use crate::quorum::FaultModel;
use crate::types::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What must be known of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CstConfig {
    /// Whether seeders may lie.
    pub model: FaultModel,
    /// How many may be faulty.
    pub f: u32,
    /// When each of the others writes its checkpoints. Who is not in it ranks behind them, by id.
    pub schedules: BTreeMap<ReplicaId, Schedule>,
    /// The place of the target.
    pub place: Seq,
}

impl Default for CstConfig {
    fn default() -> Self {
        Self { model: FaultModel::Byzantine, f: 1, schedules: BTreeMap::new(), place: Seq(0) }
    }
}

impl CstConfig {
    /// Seeders that send at a time.
    fn parts(&self) -> usize {
        match (self.model, self.f) {
            (FaultModel::Byzantine, 1) => 3,
            (FaultModel::Crash, 1) => 2,
            _ => 1,
        }
    }

    /// The order in which `sources` are taken as seeders: by rank, from rank f+1 on if they may lie.
    fn turns(&self, sources: impl Iterator<Item = ReplicaId>) -> Vec<ReplicaId> {
        let mut turns = ranks(&self.schedules, self.place);
        let others: Vec<ReplicaId> = sources.filter(|id| !turns.contains(id)).collect();
        turns.extend(others);
        let first = if self.model == FaultModel::Byzantine { self.f as usize } else { 0 };
        let first = first.min(turns.len());
        turns.rotate_left(first);
        turns
    }
}

/// Replicas by the freshness of their checkpoints at `place`, the freshest first; of equally fresh ones by id.
pub fn ranks(schedules: &BTreeMap<ReplicaId, Schedule>, place: Seq) -> Vec<ReplicaId> {
    let mut ranks: Vec<ReplicaId> = schedules.keys().copied().collect();
    ranks.sort_by_key(|id| (Reverse(schedules[id].last(place)), *id));
    ranks
}

#[derive(Default)]
pub(super) struct Cst {
    begun: bool,
    /// Who was given work and has not failed.
    senders: Vec<ReplicaId>,
    /// Who took over last.
    heir: Option<ReplicaId>,
}

impl Cst {
    /// One part each, lowest chunks to the first.
    fn begin(&mut self, board: &mut Board, active: &[usize], turns: &[ReplicaId]) {
        self.begun = true;
        let mut order = active.to_vec();
        order.sort_by_key(|at| {
            (board.is_leader(*at), turns.iter().position(|id| *id == board.sources[*at].id))
        });
        order.truncate(board.config.cst.parts());
        let mut weights = vec![1; order.len()];
        spare_leader(board, &order, &mut weights);
        for (at, part) in order.into_iter().zip(apportion(board.pool.len(), &weights)) {
            let part = board.pool.take_first(part);
            let source = &mut board.sources[at];
            source.assigned.add_all(&part);
            self.senders.push(source.id);
        }
    }

    /// What a seeder failed to send goes to the next one whole: to one that has nothing to do, if there is one.
    fn succeed(&mut self, board: &mut Board, active: &[usize], turns: &[ReplicaId]) {
        let at_of = |id: ReplicaId| active.iter().copied().find(|at| board.sources[*at].id == id);
        let before = self.senders.len();
        self.senders.retain(|id| at_of(*id).is_some());
        // Pages of a seeder that failed may turn out to be wrong one after the other: all of them are its heir's.
        let same = self.heir.and_then(at_of).filter(|_| self.senders.len() == before);
        let turn = |id: ReplicaId| turns.iter().position(|other| *other == id).unwrap_or(0);
        let after = self.heir.map_or(0, |id| turn(id) + 1);
        let next = active.iter().copied().min_by_key(|at| {
            let source = &board.sources[*at];
            let turn = (turn(source.id) + turns.len() - after) % turns.len();
            (board.is_leader(*at), source.load() > 0, turn)
        });
        let Some(at) = same.or(next) else { return };
        let lost = std::mem::take(&mut board.pool);
        let source = &mut board.sources[at];
        source.assigned.add_all(&lost);
        self.heir = Some(source.id);
        if !self.senders.contains(&source.id) {
            self.senders.push(source.id);
        }
    }
}

impl Strategy for Cst {
    fn give_out(&mut self, board: &mut Board, now: Tick) {
        let active = board.active();
        if active.is_empty() {
            return;
        }
        if board.changed || !self.begun {
            board.changed = false;
            relieve(board, &active);
            if !board.pool.is_empty() {
                let turns = board.config.cst.turns(board.sources.iter().map(|s| s.id));
                match self.begun {
                    true => self.succeed(board, &active, &turns),
                    false => self.begin(board, &active, &turns),
                }
            }
        }
        release(board, &active, now);
    }

    fn deadline(&self, _: &Board) -> Option<Tick> {
        None
    }
}
