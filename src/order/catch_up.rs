//! [core] Marks move the window; a replica behind a mark learns digests from it, and batches by digest from anybody.

use super::durable::ELSEWHERE;
use super::held::Held;
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use crate::log::Durable;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::messages::*;
use std::collections::VecDeque;

impl Orderer {
    pub(super) fn on_status(
        &mut self,
        from: ReplicaId,
        status: Status,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let peer = self.peers.get_mut(&from).ok_or(Discard::WrongPlace)?;
        // Twice the same mark: whoever executed that far has lost MARKs of ours, and we keep only the certificate.
        let lost_mark = peer.status.is_some_and(|s| s.mark == status.mark) && status.mark < self.low;
        peer.status = Some(status);
        if status.mode == Mode::Learning && status.view == self.durable.view && status.view > View(0) {
            peer.awaits_since.get_or_insert(self.now.tick);
        } else {
            peer.awaits_since = None;
        }
        if status.mode == Mode::Changing && status.view > self.durable.view {
            peer.outside_since.get_or_insert(self.now.tick);
        } else {
            peer.outside_since = None;
        }
        self.repeat_root_to(from, &status, out);
        // The last one that it takes: it looks no further than two windows.
        let reach = Seq(status.mark.0.saturating_add(2 * self.config.window)).min(status.decided);
        if lost_mark && let Some(statement) = self.durable.mark_before(reach, status.mark) {
            let mark = Mark { statement, signature: self.auth.sign_mark(&statement) };
            out.push(Output::Send(from, Message::Mark(mark)));
        }
        if self.is_learner() || status.view == View(0) {
            // A learner has no view and no wishes.
            if self.is_learner() && status.decided.0 <= self.low.0.saturating_add(self.config.window) {
                self.highest = self.highest.max(status.decided);
            }
            self.fetch_from(from, &status, out);
            return Ok(());
        }
        let normal = status.mode == Mode::Normal;
        if status.view == self.view() && normal {
            if from == self.leader() {
                self.last_leader_sign = self.now.tick;
            }
            // A place nobody showed us yet exists all the same; an absurd one says nothing.
            if status.highest.0 <= self.low.0 + self.config.window {
                self.highest = self.highest.max(status.highest);
            }
        }
        self.hear_wish(from, status.wish.max(status.view), out);
        let behind = status.view < self.view() || status.view == self.view() && status.mode == Mode::Changing;
        if behind {
            self.send_sync(from, out);
        }
        self.fetch_from(from, &status, out);
        Ok(())
    }

    pub(super) fn on_executed(
        &mut self,
        seq: Seq,
        replies: Digest,
        progress: &[(SessionId, RequestNumber)],
        out: &mut Vec<Output>,
    ) {
        if seq <= self.executed || self.lacks_state {
            // On its way while a later state was installed, or of a wrong one.
            return;
        }
        assert_eq!(seq, self.executed.next(), "batches execute in sequence");
        self.executed = seq;
        if let Some(d) = self.slots.get(&seq).and_then(|s| s.decision.as_ref()) {
            self.requests.executed_batch(&d.batch.group_digests, progress);
            self.performance.executed(self.now.tick, &d.batch.group_digests);
            let of_replicas = d.batch.groups.iter().zip(&d.batch.group_digests);
            let noops = of_replicas.filter(|(g, _)| g.client.as_replica().is_some());
            self.requests.executed_noops(noops.map(|(_, digest)| *digest));
            self.requests.served(self.now.tick, d.batch.groups.iter().map(|g| g.client));
        }
        if let Some(batches) = self.chain_at.get(&seq).copied()
            && seq > self.low
        {
            let statement = MarkStatement { seq, batches, replies, state: Digest::ZERO };
            let mark = Mark { statement, signature: self.auth.sign_mark(&statement) };
            self.own_marks.insert(seq, statement);
            if !self.is_learner() {
                self.marks.entry(seq).or_default().insert(self.me, mark);
                out.push(Output::Broadcast(Message::Mark(mark)));
            }
        }
        self.forget_filled();
        self.finish_catch_up(replies, out);
        self.try_mark(out);
    }

    /// The end of a digest list is executed: its mark is ours now, if execution agrees.
    fn finish_catch_up(&mut self, replies: Digest, out: &mut Vec<Output>) {
        let Some(catch_up) = &self.catch_up else { return };
        let end = match &catch_up.mark {
            Some(mark) => mark.statement,
            None => self.durable.mark.statement,
        };
        if self.executed != end.seq || !catch_up.digests.is_empty() {
            return;
        }
        let mark = self.catch_up.take().and_then(|c| c.mark);
        if end.replies != replies {
            let why = format!(
                "execution up to place {} gave reply history {replies}, but a quorum has {}",
                end.seq, end.replies
            );
            return self.quarantine(why, out);
        }
        if let Some(mark) = mark
            && mark.statement.seq > self.mark_appended
        {
            self.append_mark(mark, out);
        }
        self.fetch_on(out);
    }

    pub(super) fn on_mark(
        &mut self,
        from: ReplicaId,
        mark: Mark,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let seq = mark.statement.seq;
        if seq <= self.low {
            return Err(Discard::Duplicate);
        }
        let near = seq.0 - self.low.0 <= 2 * self.config.window;
        if !near || !seq.0.is_multiple_of(self.config.mark_interval) {
            return Err(Discard::OutsideWindow);
        }
        let by = self.marks.entry(seq).or_default();
        match by.get(&from) {
            Some(earlier) if earlier.statement == mark.statement => return Err(Discard::Duplicate),
            Some(_) => return Err(Discard::Equivocation),
            None => by.insert(from, mark),
        };
        self.try_mark(out);
        Ok(())
    }

    /// A quorum of marks equal to ours becomes a record; f+1 others that agree on something else silence us.
    fn try_mark(&mut self, out: &mut Vec<Output>) {
        let first = self.mark_appended.next();
        let stated: Vec<MarkStatement> = self.own_marks.range(first..).map(|(_, s)| *s).collect();
        for own in stated {
            let Some(by) = self.marks.get(&own.seq) else { continue };
            let same = |m: &Mark| {
                let batches = m.statement.batches == own.batches && broken(Mutant::AuditsBatchesAlone);
                m.statement == own || batches
            };
            let equal: VoteSet = by.iter().filter(|(_, m)| same(m)).map(|(r, _)| *r).collect();
            if self.members.quorum().reached_by(equal) {
                let signed = self.members.byzantine();
                let signatures = by
                    .iter()
                    .filter(|(_, m)| signed && m.statement == own)
                    .map(|(r, m)| (*r, m.signature))
                    .collect();
                self.append_mark(MarkCertificate { statement: own, signatures }, out);
                continue;
            }
            let contradicted = by.values().map(|m| m.statement).filter(|s| *s != own).find(|other| {
                let set: VoteSet =
                    by.iter().filter(|(_, m)| m.statement == *other).map(|(r, _)| *r).collect();
                self.members.one_correct().reached_by(set)
            });
            if let Some(other) = contradicted {
                let why = format!(
                    "audit: at place {} this replica has batches {} replies {}, but f+1 others have batches {} replies {}",
                    own.seq, own.batches, own.replies, other.batches, other.replies
                );
                return self.quarantine(why, out);
            }
            // Nothing that anybody may still state can become a mark: more than f differ, and no side is taken.
            let open = self.members.members().filter(|r| !by.contains_key(r));
            let possible = by.values().map(|m| m.statement).any(|s| {
                let same = by.iter().filter(|(_, m)| m.statement == s).map(|(r, _)| *r);
                self.members.quorum().reached_by(same.chain(open.clone()).collect())
            });
            if !possible {
                let other = by.values().map(|m| m.statement).find(|s| *s != own).unwrap_or(own);
                let why = format!(
                    "audit: at place {} more than f = {} replicas differ: batches {} replies {} here, batches {} replies {} elsewhere; \
                     the service is not deterministic, or memory failed",
                    own.seq,
                    self.members.f(),
                    own.batches,
                    own.replies,
                    other.batches,
                    other.replies
                );
                return self.halt(why, out);
            }
        }
    }

    /// A MARK is lost as any message is: those not yet certified are said again.
    pub(super) fn repeat_marks(&self, out: &mut Vec<Output>) {
        for (seq, statement) in self.own_marks.range(self.mark_appended.next()..) {
            if let Some(mark) = self.marks.get(seq).and_then(|by| by.get(&self.me)) {
                debug_assert_eq!(mark.statement, *statement);
                out.push(Output::Broadcast(Message::Mark(*mark)));
            }
        }
    }

    fn append_mark(&mut self, mark: MarkCertificate, out: &mut Vec<Output>) {
        let (from, to) = (self.durable.mark.statement.seq, mark.statement.seq);
        let digests: Vec<Digest> = (from.0 + 1..=to.0)
            .map(|s| {
                let decision = self.slots.get(&Seq(s)).and_then(|slot| slot.decision.as_ref());
                decision.expect("executed places above the mark are kept").certificate.digest
            })
            .collect();
        self.mark_appended = to;
        let lsn = self.append(OrderRecord::Mark { mark, digests }, out);
        self.hold(lsn, Held::Mark(to), out);
        #[cfg(any(test, feature = "mutants"))]
        if broken(Mutant::WindowBeforeMark) {
            self.window_moves(Durable::forged(to), out);
        }
    }

    /// The mark is durable: the window it opens may be used (RULES 4).
    pub(super) fn window_moves(&mut self, seq: Durable<Seq>, out: &mut Vec<Output>) {
        self.low = self.low.max(*seq);
        let above = self.low.next();
        self.slots = self.slots.split_off(&above);
        self.chain_at = self.chain_at.split_off(&above);
        self.own_marks = self.own_marks.split_off(&above);
        self.marks = self.marks.split_off(&above);
        let open: Vec<Seq> = self.slots.keys().copied().collect();
        open.into_iter().for_each(|seq| self.go_on(seq, out));
        self.replay_early(out);
        self.try_sync(out);
        self.try_rejoin(out);
        self.tell_covered(out);
        self.state_roots(out);
    }

    /// Places behind a hole in our log, which a mark covers already, leave memory once they are executed and on disk.
    pub(super) fn forget_filled(&mut self) {
        while let Some(seq) = self.filled() {
            self.slots.remove(&seq);
        }
    }

    /// The lowest place kept, if it is one of those.
    pub(super) fn filled(&self) -> Option<Seq> {
        let (seq, slot) = self.slots.first_key_value().filter(|(s, _)| **s <= self.low.min(self.executed))?;
        let digest = slot.decision.as_ref().map(|d| d.certificate.digest);
        let record = digest.and_then(|d| self.durable.batch_place(*seq, &d));
        let written = record.is_none_or(|lsn| lsn <= self.gate.upto() || lsn == ELSEWHERE);
        written.then_some(*seq)
    }

    /// Answers a replica behind our mark with digests that lead to it.
    pub(super) fn send_chain(&mut self, to: ReplicaId, from: Seq, out: &mut Vec<Output>) {
        let most = (self.config.window as usize).min(CHAIN_DIGESTS_MAX);
        if let Some((mark, digests)) = self.durable.chain_from(from, most)
            && self.may_serve(to, 32 * digests.len())
        {
            out.push(Output::Send(to, Message::Chain(Chain { from, digests, mark })));
        }
    }

    pub(super) fn on_chain(&mut self, chain: Chain, out: &mut Vec<Output>) -> Result<(), Discard> {
        let unasked = self.catch_up.is_some() || self.ahead_of_disk();
        if unasked || chain.from != self.decided || chain.digests.is_empty() {
            return Err(Discard::Unasked);
        }
        if chain.digests.len() as u64 > 4 * self.config.window {
            return Err(Discard::TooMuch);
        }
        let end = chain.digests.iter().fold(self.chain, |c, d| self.auth.hasher.chain(&c, d));
        if end != chain.mark.statement.batches && !broken(Mutant::ChainsUnchecked) {
            return Err(Discard::BadChain);
        }
        // A leader that learns decisions from others is one no more.
        self.step_down(out);
        let digests: VecDeque<Digest> = chain.digests.into();
        self.highest = self.highest.max(chain.mark.statement.seq);
        self.catch_up = Some(CatchUp { mark: Some(chain.mark), digests });
        self.last_progress = self.now.tick;
        self.advance(out);
        Ok(())
    }

    /// Whether the marks of what was learnt wait for a slow disk: until they are durable all of it is in memory.
    pub(super) fn ahead_of_disk(&self) -> bool {
        if self.installing.is_some() || self.lacks_state {
            return true;
        }
        // What fills a hole of our own log lies below the mark.
        let kept = self.slots.first_key_value().map_or(self.low.next(), |(seq, _)| *seq);
        self.decided.next().0.saturating_sub(kept.0) > 3 * self.config.window
    }

    /// Asks for the next few batches of the digest list.
    pub(super) fn fetch_known(&mut self, out: &mut Vec<Output>) {
        if self.ahead_of_disk() {
            return;
        }
        let Some(catch_up) = &self.catch_up else { return };
        let missing: Vec<(Seq, Digest)> = (self.decided.0 + 1..)
            .map(Seq)
            .zip(catch_up.digests.iter().copied())
            .take(FETCH_BATCHES)
            .filter(|(seq, digest)| {
                self.slots.get(seq).is_none_or(|s| {
                    s.decision.is_none() && s.batch(digest).is_none() && !s.wanted.contains_key(digest)
                })
            })
            .collect();
        for (seq, digest) in missing {
            self.slots.entry(seq).or_default().wanted.insert(digest, self.now.tick);
            // After a restart our own log may hold what lies behind a hole; if it cannot be read, others are asked next.
            match self.durable.batch_place(seq, &digest) {
                Some(lsn) => out.push(Output::ServeBatch { to: self.me, seq, lsn }),
                None => self.ask(seq, digest, out),
            }
        }
    }

    fn ask(&mut self, seq: Seq, digest: Digest, out: &mut Vec<Output>) {
        let n = self.members.n();
        // A batch asked for again goes on from where it was asked for last: where several wait, one turn for all of them could come
        // round to the same replica for the same batch for ever, and another alone has it.
        let last = self.slots.get(&seq).and_then(|slot| slot.asked.get(&digest)).map(|r| r.0);
        let mut turn = last.unwrap_or(self.ask_turn);
        // In turn, and never ourselves; at first whoever says it is that far. What these cannot give, for it rotted or they only boast,
        // another may have.
        let says = |turn: u32| last.is_some() || self.says_it_has(ReplicaId(turn), seq);
        for _ in 0..n {
            turn = (turn + 1) % n;
            if says(turn) {
                break;
            }
        }
        // Nobody says so: then everybody in turn, where the round above ended where it began.
        if !says(turn) {
            turn = (turn + 1) % n;
        }
        if ReplicaId(turn) == self.me {
            turn = (turn + 1) % n;
        }
        if last.is_none() {
            self.ask_turn = turn;
        }
        let target = ReplicaId(turn);
        if target != self.me {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.asked.insert(digest, target);
            }
            out.push(Output::Send(target, Message::FetchBatch(FetchBatch { seq, digest })));
        }
    }

    fn says_it_has(&self, who: ReplicaId, seq: Seq) -> bool {
        self.peers.get(&who).and_then(|p| p.status).is_some_and(|s| s.decided >= seq)
    }

    /// Batches that were asked for, or waited for, longer than `after_ns`: ask the next replica.
    pub(super) fn ask_again(&mut self, after_ns: u64, out: &mut Vec<Output>) {
        let now = self.now.tick;
        let late: Vec<(Seq, Digest)> = self
            .slots
            .iter()
            .flat_map(|(seq, s)| s.wanted.iter().map(move |(d, t)| (*seq, *d, *t)))
            .filter(|(_, _, t)| now.since(*t) >= after_ns)
            .map(|(seq, digest, _)| (seq, digest))
            .take(4 * FETCH_BATCHES)
            .collect();
        for (seq, digest) in late {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.wanted.insert(digest, now);
            }
            self.ask(seq, digest, out);
        }
    }
}
