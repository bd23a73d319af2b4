//! [core] Roots: the executed state at places where all replicas take it, named by a quorum (RULES 4, 17).
//!
//! Such a mark is one of its own, beside the one that moves the window at the same place: hashing a large state takes long, and
//! nothing waits for it. A quorum of equal ones is the target of a state transfer, and an audit of the state itself.

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
    own: BTreeMap<Seq, Mark>,
    heard: BTreeMap<ReplicaId, BTreeMap<Seq, Mark>>,
    certified: BTreeMap<Seq, MarkCertificate>,
}

/// Drops the lowest until no more than [`KEPT`] are left.
fn keep_last<T>(of: &mut BTreeMap<Seq, T>) {
    while of.len() > KEPT {
        of.pop_first();
    }
}

impl Roots {
    /// The place of the newest certified one; 0: none.
    pub fn newest(&self) -> Seq {
        self.certified.last_key_value().map(|(seq, _)| *seq).unwrap_or_default()
    }
}

impl Orderer {
    /// The state executed up to `seq` has this root.
    pub(super) fn on_rooted(&mut self, seq: Seq, replies: Digest, state: Digest, out: &mut Vec<Output>) {
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
            let Some(batches) = self.durable.history(seq) else { continue };
            let statement = MarkStatement { seq, batches, replies, state };
            let mark = Mark { statement, signature: self.auth.sign_mark(&statement) };
            self.roots.own.insert(seq, mark);
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

    /// A quorum of equal roots is a certificate; f+1 others that agree on something else silence this replica.
    fn try_root(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if self.roots.certified.contains_key(&seq) {
            return;
        }
        let Some(own) = self.roots.own.get(&seq).copied() else { return };
        let mut by: BTreeMap<ReplicaId, Mark> =
            self.roots.heard.iter().filter_map(|(r, of)| of.get(&seq).map(|mark| (*r, *mark))).collect();
        if !self.is_learner() {
            by.insert(self.me, own);
        }
        let who = |statement: &MarkStatement| -> VoteSet {
            by.iter().filter(|(_, m)| m.statement == *statement).map(|(r, _)| *r).collect()
        };
        if self.members.quorum().reached_by(who(&own.statement)) {
            let signed = self.members.byzantine();
            let equal = by.iter().filter(|(_, m)| signed && m.statement == own.statement);
            let signatures = equal.map(|(r, m)| (*r, m.signature)).collect();
            return self.root_is_certified(MarkCertificate { statement: own.statement, signatures }, out);
        }
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
            self.halt(why, out);
        }
    }

    pub(super) fn root_is_certified(&mut self, mark: MarkCertificate, out: &mut Vec<Output>) {
        self.roots.certified.insert(mark.statement.seq, mark.clone());
        keep_last(&mut self.roots.certified);
        out.push(Output::Rooted(mark));
    }

    /// A mark is lost as any message is: the newest is said again until it is certified.
    pub(super) fn repeat_roots(&self, out: &mut Vec<Output>) {
        if let Some((seq, mark)) = self.roots.own.last_key_value()
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
            && let Some(mark) = self.roots.own.get(&newest)
        {
            out.push(Output::Send(from, Message::Mark(*mark)));
        }
    }
}
