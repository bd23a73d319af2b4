//! [core] A replica that lost its log comes back as a learner (RULES 7): what it voted and promised is forgotten, so it does
//! neither until nothing of it can matter.
//!
//! W: the window. M: the highest certified mark that n − f of the *others* report.
//!
//! 1. *Its forgotten votes lie at or below M + 2W.* It voted at most W above its own mark m. At least one of those that made m
//!    a mark is among the n − f, executed m, and has a mark ≥ m − W: so m ≤ M + W.
//! 2. *Its forgotten STOP-DATA are of views ≤ u + 1*, u the view in which a place above M + 2W is proven to be decided. A view h is
//!    entered once a correct replica saw a quorum of STOP-DATA for h − 1: all but f of those are of correct replicas in h − 1 or
//!    later, and at least one voted in u after it had answered, because nobody could vote above M + 2W before.
//! 3. So it executes what others decided up to a certified mark ≥ M + 2W, then takes part in views ≥ u + 1 only, and never leads
//!    u + 1. In u + 1 it may say STOP-DATA a second time: both are true.
//!
//! A group at rest does not get that far by itself: the learner orders no-ops. And a view that runs well does not end by itself: its
//! leader makes way for a replica that waits outside, for each at most once in [`MAKE_WAY_TIMEOUTS`] timeouts.

use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::auth::Checked;
use crate::wire::batch::{Request, RequestKind};
use crate::wire::messages::*;
use std::collections::BTreeMap;

/// A leader makes way for the same replica again after so many timeouts: a liar that pretends to wait must not depose at will.
pub(super) const MAKE_WAY_TIMEOUTS: u64 = 64;
/// No-ops ordered at once to move a group at rest.
const NOOPS: u64 = 32;

/// What a learner knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Learner {
    /// Which question; answers to an earlier start's do not count.
    nonce: u64,
    /// The certified mark each of the others reported.
    marks: BTreeMap<ReplicaId, Seq>,
    /// M + 2W, once enough have answered.
    pub floor: Option<Seq>,
    /// The highest view in which a place above the floor is proven to be decided.
    pub decided_in: Option<View>,
}

impl Orderer {
    /// Whether this replica lost its log and does not vote yet.
    pub fn is_learner(&self) -> bool {
        matches!(self.phase, Phase::Learning(_))
    }

    /// Whether this replica lost its log and has yet to enter a view in which it votes.
    pub fn awaits_view(&self) -> bool {
        self.durable.learner || self.durable.rejoined == Some(self.durable.view)
    }

    /// What a learner looks at; everything else is about votes and views.
    pub(super) fn concerns_learner(message: &Checked) -> bool {
        matches!(
            message,
            Checked::Status(_)
                | Checked::Mark(_)
                | Checked::Fetch(_)
                | Checked::FetchBatch(_)
                | Checked::Decided { .. }
                | Checked::BatchIs(_)
                | Checked::Chain(_)
                | Checked::RejoinMark(_)
                | Checked::MacFailed(_)
        )
    }

    /// Answers a learner, within the bound for all that a peer may ask between two heartbeats; learners know nothing to answer.
    pub(super) fn on_rejoin(
        &mut self,
        from: ReplicaId,
        rejoin: Rejoin,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        self.may_ask(from)?;
        let mark = self.durable.mark.clone();
        out.push(Output::Send(from, Message::RejoinMark(RejoinMark { nonce: rejoin.nonce, mark })));
        Ok(())
    }

    pub(super) fn on_rejoin_mark(&mut self, from: ReplicaId, answer: RejoinMark) -> Result<(), Discard> {
        let window = self.config.window;
        let enough = self.members.responsive();
        let one = broken(Mutant::LearnerTrustsOne);
        let Phase::Learning(learner) = &mut self.phase else { return Err(Discard::Unasked) };
        if learner.nonce != answer.nonce || learner.floor.is_some() {
            return Err(Discard::Unasked);
        }
        learner.marks.insert(from, answer.mark.statement.seq);
        let answered: VoteSet = learner.marks.keys().copied().collect();
        if enough.reached_by(answered) || one {
            let highest = learner.marks.values().max().copied().unwrap_or_default();
            let windows = if broken(Mutant::RejoinsWhereItVoted) { 0 } else { 2 };
            learner.floor = Some(Seq(highest.0.saturating_add(windows * window)));
        }
        Ok(())
    }

    /// A place is proven to be decided in this view.
    pub(super) fn learner_heard(&mut self, certificate: &Certificate) {
        if let Phase::Learning(learner) = &mut self.phase
            && learner
                .floor
                .is_some_and(|floor| certificate.seq > floor || broken(Mutant::LearnerVotesAtOnce))
            && certificate.view > View(0)
        {
            learner.decided_in = learner.decided_in.max(Some(certificate.view));
        }
    }

    /// Every heartbeat: asks, and orders no-ops while the group rests below what the learner needs.
    pub(super) fn learn(&mut self, out: &mut Vec<Output>) {
        let nonce = self.random();
        let Phase::Learning(learner) = &mut self.phase else { return };
        let Some(floor) = learner.floor else {
            if learner.nonce == 0 {
                learner.nonce = nonce.max(1);
            }
            out.push(Output::Broadcast(Message::Rejoin(Rejoin { nonce: learner.nonce })));
            return;
        };
        // One interval more: above the floor some place must be decided that no mark covers yet.
        let target = floor.0.saturating_add(self.config.mark_interval + 1);
        let decided = self.members.one_correct().reached_value(self.said(|s| s.decided)).unwrap_or_default();
        let view = self.members.one_correct().reached_value(self.said(|s| s.view)).unwrap_or_default();
        let leader = view.leader(self.members.n());
        // Under load the group moves by itself, and what is ordered on top would only keep it ahead of this replica.
        let rests = self.now.tick.since(self.last_progress) > 6 * self.heartbeat_ms() * 1_000_000;
        let noops = match decided.0 < target {
            true => NOOPS.min(target - decided.0),
            // One at a time, with time to fetch its certificate before a mark covers it.
            false => u64::from(self.awaits_proof() && self.decided >= decided && rests),
        };
        if leader != self.me {
            for i in 0..noops {
                let number = RequestNumber(nonce.wrapping_add(i));
                let request =
                    Request { session: SessionId(0), number, kind: RequestKind::Noop, operation: &[][..] };
                let bytes = self.auth.own_group(&[request]).group().bytes().clone();
                out.push(Output::Send(leader, Message::Group(bytes)));
            }
        }
        self.try_rejoin(out);
    }

    /// Whether no place above the floor is known to be decided other than by a mark.
    fn awaits_proof(&self) -> bool {
        matches!(&self.phase, Phase::Learning(learner) if learner.decided_in.is_none())
    }

    fn said<T>(&self, what: impl Fn(Status) -> T) -> impl Iterator<Item = T> {
        self.peers.values().filter_map(|p| p.status).map(what)
    }

    /// Nothing forgotten can matter any more: it waits outside the view that runs, for the next.
    pub(super) fn try_rejoin(&mut self, out: &mut Vec<Output>) {
        let Phase::Learning(learner) = &self.phase else { return };
        let (Some(floor), Some(view)) = (learner.floor, learner.decided_in) else { return };
        if self.low < floor && !broken(Mutant::LearnerVotesAtOnce) {
            return;
        }
        self.append(OrderRecord::Rejoined { view }, out);
        self.phase = Phase::Changing { entered: false, sync: None, quorum_since: None };
        self.changing_since = self.now.tick;
        self.wish = view.next();
        self.weigh_wishes(out);
    }
}
