//! [core] One place: PROPOSE → WRITE → Prepared → ACCEPT → decided. Crash mode has no WRITE.

use super::held::{Ballot, Held};
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use super::slot::{Decision, Proposal};
use crate::types::*;
use crate::wire::auth::{Checked, Verdict};
use crate::wire::batch::Batch;
use crate::wire::messages::*;
use std::sync::Arc;

/// A new reserve is appended when fewer places than this are left in the last.
const RESERVE_AHEAD: u64 = 256;

impl Orderer {
    pub(super) fn on_propose(
        &mut self,
        from: ReplicaId,
        view: View,
        batch: Arc<Batch>,
        verdict: Verdict,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let seq = batch.seq;
        if view < self.view() {
            return Err(Discard::OldView);
        }
        if from != view.leader(self.members.n()) {
            return Err(Discard::NotLeader);
        }
        if seq <= self.low || view == self.view() && seq <= self.floor {
            return Err(Discard::OutsideWindow);
        }
        if view > self.view() || !matches!(self.phase, Phase::Normal) || !self.in_window(seq) {
            return self.keep_early(from, Checked::Propose { view, batch, verdict });
        }
        self.last_leader_sign = self.now.tick;
        let known = self.slots.get(&seq).and_then(|s| s.proposal.as_ref()).map(|p| p.digest);
        match known {
            Some(digest) if digest == batch.digest => {
                // Fixed by a SYNC, or learnt from a certificate: only the batch was missing.
                return self.take_batch(batch, out);
            }
            Some(_) if !broken(Mutant::FollowsSecondProposals) => return Err(Discard::Equivocation),
            _ => {}
        }
        let vouched = match verdict {
            Verdict::Valid => true,
            Verdict::Unvouched(clients) => {
                for client in clients {
                    self.take_signatures_only(client);
                    out.push(Output::Broadcast(Message::MacFailed(MacFailed { client })));
                }
                false
            }
            Verdict::Invalid(_) => {
                self.leader_lied = true;
                self.suspect(out);
                return Err(Discard::InvalidBatch);
            }
        };
        self.requests.proposed(&batch.group_digests);
        let clock_ok = self.clock_ok(batch.time);
        self.take_proposal(batch, clock_ok, vouched, out);
        Ok(())
    }

    pub(super) fn on_bad_propose(
        &mut self,
        from: ReplicaId,
        view: View,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if from == self.leader() && view == self.view() && matches!(self.phase, Phase::Normal) {
            self.leader_lied = true;
            self.suspect(out);
        }
        Err(Discard::InvalidBatch)
    }

    pub(super) fn clock_ok(&self, proposed: WallTime) -> bool {
        broken(Mutant::IgnoresClocks)
            || proposed.0.abs_diff(self.now.wall.0) <= self.config.clock_skew_ms.saturating_mul(1_000_000)
    }

    pub(super) fn take_proposal(
        &mut self,
        batch: Arc<Batch>,
        clock_ok: bool,
        vouched: bool,
        out: &mut Vec<Output>,
    ) {
        let (seq, digest, since) = (batch.seq, batch.digest, self.now.tick);
        self.highest = self.highest.max(seq);
        let slot = self.slots.entry(seq).or_default();
        slot.proposal = Some(Proposal { digest, since, clock_ok, vouched });
        slot.batches.insert(digest, batch);
        slot.wrote &= !broken(Mutant::FollowsSecondProposals);
        self.go_on(seq, out);
    }

    /// Does whatever the place is ready for.
    pub(super) fn go_on(&mut self, seq: Seq, out: &mut Vec<Output>) {
        self.try_write(seq, out);
        self.try_prepare(seq, out);
        self.try_decide(seq, out);
        // A proposal or a SYNC may have brought the batch that a digest list waits for.
        if self.catch_up.is_some() && seq == self.decided.next() {
            self.advance(out);
        }
    }

    /// Byzantine: WRITE the first proposal seen, if the reserve covers it and nothing speaks against it.
    fn try_write(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if !self.members.byzantine() || !matches!(self.phase, Phase::Normal) || !self.in_window(seq) {
            return;
        }
        let view = self.view();
        if self.restart_bar.is_some_and(|(v, bar)| v == view && seq <= bar) {
            return;
        }
        self.ensure_reserve(seq, out);
        let uncovered = seq > self.reserve_durable && !broken(Mutant::WritesAboveReserve);
        if uncovered || self.wish > view && broken(Mutant::WishIsStop) {
            return;
        }
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        let Some(proposal) = &slot.proposal else { return };
        let digest = proposal.digest;
        let vouched = proposal.vouched || self.members.one_correct().reached_by(slot.writes.voters(&digest));
        // What is decided here is decided: no vote for anything else, whoever proposes it.
        let contradicts = slot.decision.as_ref().is_some_and(|d| d.certificate.digest != digest)
            && !broken(Mutant::VotesBelowMark);
        if slot.wrote || !proposal.clock_ok || !vouched || contradicts || slot.batch(&digest).is_none() {
            return;
        }
        slot.wrote = true;
        let signature = self.auth.sign_vote(VoteKind::Write, view, seq, &digest);
        let vote = Vote { view, seq, digest, signature };
        let _ = slot.writes.add(self.me, &vote);
        out.push(Output::Broadcast(Message::Write(vote)));
    }

    /// The reserve is appended ahead of need, so that no WRITE waits for it.
    pub(super) fn ensure_reserve(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if seq.0 + RESERVE_AHEAD > self.durable.reserve.0 {
            let reserve = Seq(self.durable.reserve.0.max(seq.0) + RESERVE_STEP);
            let view = self.view();
            let lsn = self.append(OrderRecord::Reserve { view, reserve }, out);
            self.hold(lsn, Held::Reserve(view, reserve), out);
        }
    }

    pub(super) fn on_write(
        &mut self,
        from: ReplicaId,
        vote: Vote,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if !self.members.byzantine() {
            return Err(Discard::WrongPlace);
        }
        if let Some(result) = self.turn_away(from, &vote, Checked::Write(vote)) {
            return result;
        }
        let slot = self.slots.entry(vote.seq).or_default();
        match slot.writes.add(from, &vote) {
            Ok(true) => {}
            Ok(false) => return Err(Discard::Duplicate),
            Err(_) => return Err(Discard::Equivocation),
        }
        self.highest = self.highest.max(vote.seq);
        self.go_on(vote.seq, out);
        Ok(())
    }

    /// What both kinds of votes are turned away for; `None` = take it.
    pub(super) fn turn_away(
        &mut self,
        from: ReplicaId,
        vote: &Vote,
        message: Checked,
    ) -> Option<Result<(), Discard>> {
        if vote.view < self.view() && !broken(Mutant::TakesOldVotes) {
            return Some(Err(Discard::OldView));
        }
        if vote.seq <= self.low || vote.view == self.view() && vote.seq <= self.floor {
            return Some(Err(Discard::OutsideWindow));
        }
        let early =
            vote.view > self.view() || !matches!(self.phase, Phase::Normal) || !self.in_window(vote.seq);
        early.then(|| self.keep_early(from, message))
    }

    /// Byzantine: on Q WRITEs; crash: on the proposal. One record, durable before ACCEPT leaves.
    fn try_prepare(&mut self, seq: Seq, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Normal) || !self.in_window(seq) {
            return;
        }
        let (byzantine, view, now) = (self.members.byzantine(), self.view(), self.now.tick);
        let quorum = self.members.quorum();
        // What stands in the log already, but for its batch.
        let kept = self.durable.without_batch(seq, view).cloned();
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        if slot.prepared {
            return;
        }
        let digest = if byzantine {
            let known = kept.as_ref().map(|c| c.digest);
            let Some(digest) = slot.writes.winner(quorum).or(known) else { return };
            // The certificate overrides a different proposal, or none (RULES 12).
            if slot.proposal.as_ref().is_none_or(|p| p.digest != digest) {
                slot.proposal = Some(Proposal { digest, since: now, clock_ok: true, vouched: true });
            }
            digest
        } else {
            match &slot.proposal {
                Some(p) if p.clock_ok => p.digest,
                _ => return,
            }
        };
        let contradicts = slot.decision.as_ref().is_some_and(|d| d.certificate.digest != digest);
        if contradicts && !broken(Mutant::VotesBelowMark) {
            return;
        }
        let Some(batch) = slot.batch(&digest).cloned() else {
            slot.wanted.entry(digest).or_insert(now);
            return;
        };
        let in_log = self.durable.batch_place(seq, &digest).is_some();
        if !in_log && !self.log_room {
            // A full log takes no new work; what it holds already may still be voted for.
            return;
        }
        slot.prepared = true;
        let certificate = match kept {
            Some(kept) if kept.digest == digest => kept,
            _ if byzantine => slot.writes.certificate(view, seq, digest, true),
            _ => Certificate { view, seq, digest, signatures: Vec::new() },
        };
        let record = if in_log {
            OrderRecord::PreparedRef { certificate }
        } else {
            OrderRecord::Prepared { certificate, batch: batch.bytes.clone() }
        };
        let lsn = self.append(record, out);
        let ballot = Ballot { view, seq, digest };
        self.hold(lsn, Held::Accept(ballot), out);
        #[cfg(any(test, feature = "mutants"))]
        if broken(Mutant::VotesBeforeDurable) {
            self.release_accept(crate::log::Durable::forged(ballot), out);
        }
    }

    pub(super) fn on_accept(
        &mut self,
        from: ReplicaId,
        vote: Vote,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if let Some(result) = self.turn_away(from, &vote, Checked::Accept(vote)) {
            return result;
        }
        let slot = self.slots.entry(vote.seq).or_default();
        match slot.accepts.add(from, &vote) {
            Ok(true) => {}
            Ok(false) => return Err(Discard::Duplicate),
            Err(_) => return Err(Discard::Equivocation),
        }
        self.highest = self.highest.max(vote.seq);
        self.try_decide(vote.seq, out);
        Ok(())
    }

    pub(super) fn try_decide(&mut self, seq: Seq, out: &mut Vec<Output>) {
        let (byzantine, view, now) = (self.members.byzantine(), self.view(), self.now.tick);
        let quorum = self.members.quorum();
        // A leader must not stretch the timeout that watches it: what it takes counts up to the configured one.
        let most = match broken(Mutant::LeaderStretchesTimeout) {
            true => self.timeout_ns(),
            false => self.config.view_timeout_ms.saturating_mul(1_000_000),
        };
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        if slot.decision.is_some() {
            return;
        }
        let own = slot.accepts.of(self.me).map(|(d, _)| d).filter(|_| broken(Mutant::ExecutesPrepared));
        let Some(digest) = slot.accepts.winner(quorum).or(own) else { return };
        let Some(batch) = slot.batch(&digest).cloned() else {
            slot.wanted.entry(digest).or_insert(now);
            return;
        };
        if let Some(p) = &slot.proposal {
            let took = now.since(p.since).min(most);
            self.decide_ns = if self.decide_ns == 0 { took } else { (self.decide_ns * 15 + took) / 16 };
        }
        let certificate = slot.accepts.certificate(view, seq, digest, byzantine);
        let complete = !byzantine || self.auth.accepts_checked;
        self.decide(certificate, complete, batch, out);
    }

    /// The one place where a decision is taken down. `complete`: the certificate proves it to others.
    pub(super) fn decide(
        &mut self,
        mut certificate: Certificate,
        complete: bool,
        batch: Arc<Batch>,
        out: &mut Vec<Output>,
    ) {
        if !complete && !self.config.votes_durable {
            // It goes to disk, and would pass for a proof after a restart.
            certificate.signatures.clear();
        }
        let (seq, digest) = (certificate.seq, certificate.digest);
        assert_eq!(batch.digest, digest);
        if !self.config.votes_durable {
            // The durability layer logs it as it is handed out.
            self.durable.holds(seq, digest);
        } else if self.log_room && self.durable.batch_place(seq, &digest).is_none() {
            // Without room it is fetched again after a restart.
            self.append(OrderRecord::Batch { seq, digest, batch: batch.bytes.clone() }, out);
        }
        let slot = self.slots.entry(seq).or_default();
        if let Some(earlier) = &slot.decision {
            assert_eq!(earlier.certificate.digest, digest, "two decisions for place {seq}");
            return;
        }
        if complete && !self.config.votes_durable {
            self.durable.decided(certificate.clone());
        }
        slot.decision = Some(Decision { certificate, batch, checked: false });
        slot.batches.retain(|d, _| *d == digest);
        slot.wanted.clear();
        slot.asked.clear();
        slot.claims.clear();
        self.advance(out);
    }
}
