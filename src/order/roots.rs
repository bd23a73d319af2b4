//! [core] Roots: the executed state at places where all replicas take it, named by f+1 (RULES 4, 17).
//!
//! Such a mark is one of its own, beside the one that moves the window at the same place: hashing a large state takes long, and
//! nothing waits for it. f+1 equal ones, together with a quorum's mark that covers the place, are the target of a state transfer,
//! and an audit of the state itself. A quorum of roots is not asked for: a liar who votes and marks, so that the others' logs move on,
//! and withholds his roots would keep whoever fell behind from ever coming back. One correct replica's word is enough: it states a
//! root only of what a quorum's mark covers.

use super::interface::*;
use super::orderer::*;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::messages::*;
use std::collections::BTreeMap;

/// Own ones, certified ones, and those heard of one peer, that are kept.
const KEPT: usize = 3;

/// What is known of the latest ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    /// Hashed, above the durable mark: reply history and root.
    waiting: BTreeMap<Seq, (Digest, Digest)>,
    /// Own ones count from here on.
    begun: Seq,
    own: BTreeMap<Seq, Own>,
    heard: BTreeMap<ReplicaId, BTreeMap<Seq, Mark>>,
    certified: BTreeMap<Seq, StateCertificate>,
}

/// An own root, and what covers its place: the digests behind it up to the quorum's mark.
#[derive(Clone, Debug)]
struct Own {
    mark: Mark,
    covered: (MarkCertificate, Vec<Digest>),
}

/// Drops the lowest until no more than [`KEPT`] are left.
fn keep_last<T>(of: &mut BTreeMap<Seq, T>) {
    while of.len() > KEPT {
        of.pop_first();
    }
}

impl Roots {
    /// Own ones are of a wrong state.
    pub fn distrust(&mut self) {
        self.waiting.clear();
        self.own.clear();
        self.certified.clear();
    }

    /// The state of this place came from others: what is hashed of earlier ones is of another.
    pub fn begin_at(&mut self, seq: Seq) {
        self.waiting = self.waiting.split_off(&seq);
        self.own = self.own.split_off(&seq);
        self.begun = seq;
    }

    /// The place of the newest certified one; 0: none.
    pub fn newest(&self) -> Seq {
        self.certified.last_key_value().map(|(seq, _)| *seq).unwrap_or_default()
    }
}

impl Orderer {
    /// The state executed up to `seq` has this root.
    pub(super) fn on_rooted(&mut self, seq: Seq, replies: Digest, state: Digest, out: &mut Vec<Output>) {
        if self.lacks_state || seq < self.roots.begun {
            return;
        }
        self.roots.waiting.insert(seq, (replies, state));
        keep_last(&mut self.roots.waiting);
        self.state_roots(out);
    }

    /// Of what the durable mark covers the batch history is known, and no operator's new era can cut it.
    pub(super) fn state_roots(&mut self, out: &mut Vec<Output>) {
        while let Some((seq, (replies, state))) =
            self.roots.waiting.first_key_value().map(|(s, w)| (*s, *w)).filter(|(s, _)| *s <= self.low)
        {
            self.roots.waiting.pop_first();
            let (Some(batches), Some(covered)) = (self.durable.history(seq), self.durable.covering(seq))
            else {
                continue;
            };
            let statement = MarkStatement { seq, batches, replies, state };
            let mark = Mark { statement, signature: self.auth.sign_mark(&statement) };
            self.roots.own.insert(seq, Own { mark, covered });
            keep_last(&mut self.roots.own);
            if !self.is_learner() {
                out.push(Output::Broadcast(Message::Mark(mark)));
            }
            self.try_root(seq, out);
        }
    }

    /// A mark with a root, of a replica that is at most two windows ahead.
    pub(super) fn on_root(
        &mut self,
        from: ReplicaId,
        mark: Mark,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let seq = mark.statement.seq;
        if seq.0 > self.decided.0.saturating_add(2 * self.config.window) {
            return Err(Discard::OutsideWindow);
        }
        let of = self.roots.heard.entry(from).or_default();
        match of.get(&seq) {
            Some(earlier) if earlier.statement == mark.statement => return Err(Discard::Duplicate),
            Some(_) => return Err(Discard::Equivocation),
            None => of.insert(seq, mark),
        };
        keep_last(of);
        self.try_root(seq, out);
        Ok(())
    }

    /// f+1 equal roots are a certificate; f+1 others that agree on something else silence this replica.
    fn try_root(&mut self, seq: Seq, out: &mut Vec<Output>) {
        let Some(Own { mark: own, covered }) = self.roots.own.get(&seq).cloned() else { return };
        let mut by: BTreeMap<ReplicaId, Mark> =
            self.roots.heard.iter().filter_map(|(r, of)| of.get(&seq).map(|mark| (*r, *mark))).collect();
        if !self.is_learner() {
            by.insert(self.me, own);
        }
        let who = |statement: &MarkStatement| -> VoteSet {
            by.iter().filter(|(_, m)| m.statement == *statement).map(|(r, _)| *r).collect()
        };
        let mut others = by.values().map(|m| m.statement).filter(|s| *s != own.statement);
        if let Some(other) = others.find(|s| self.members.one_correct().reached_by(who(s))) {
            let why = format!(
                "audit: at place {seq} this replica has the state {} (batches {}, replies {}), but f+1 others have {} (batches {}, \
                 replies {})",
                own.statement.state,
                own.statement.batches,
                own.statement.replies,
                other.state,
                other.batches,
                other.replies
            );
            return self.quarantine(why, out);
        }
        // In crash mode a replica's word suffices, here and for whoever takes the state over: others' roots are an audit alone.
        let signed = self.members.byzantine();
        let known = self.roots.certified.contains_key(&seq);
        let enough = self.members.one_correct().reached_by(who(&own.statement));
        if !known && (!signed || enough) {
            let equal = by.iter().filter(|(_, m)| signed && m.statement == own.statement);
            let signatures = equal.map(|(r, m)| (*r, m.signature)).collect();
            let (mark, digests) = (Box::new(covered.0), covered.1);
            self.root_is_certified(
                StateCertificate { statement: own.statement, signatures, digests, mark },
                out,
            );
        }
    }

    pub(super) fn root_is_certified(&mut self, state: StateCertificate, out: &mut Vec<Output>) {
        self.roots.certified.insert(state.statement.seq, state.clone());
        keep_last(&mut self.roots.certified);
        out.push(Output::Rooted(state));
    }

    /// A mark is lost as any message is: the newest is said again until it is certified.
    pub(super) fn repeat_roots(&self, out: &mut Vec<Output>) {
        if let Some((seq, Own { mark, .. })) = self.roots.own.last_key_value()
            && *seq > self.roots.newest()
        {
            out.push(Output::Broadcast(Message::Mark(*mark)));
        }
    }

    /// And to whoever has executed as far and has no certificate.
    pub(super) fn repeat_root_to(&self, from: ReplicaId, status: &Status, out: &mut Vec<Output>) {
        let newest = self.roots.newest();
        if status.rooted < newest
            && status.decided >= newest
            && !self.is_learner()
            && let Some(Own { mark, .. }) = self.roots.own.get(&newest)
        {
            out.push(Output::Send(from, Message::Mark(*mark)));
        }
    }
}
