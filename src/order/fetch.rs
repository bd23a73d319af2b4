//! [core] What a replica lacks it asks others for, and what others lack it serves, within bounds for each.

use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::auth::FETCH_MAX;
use crate::wire::batch::Batch;
use crate::wire::messages::*;
use std::sync::Arc;

/// FETCHes answered per peer and heartbeat.
const FETCHES_MAX: u32 = 8;
/// Bytes of batches served to one peer per heartbeat.
const SERVE_BYTES_MAX: usize = 64 << 20;
/// What answering with two votes counts.
const VOTES_BYTES: usize = 512;
/// Heartbeats before the same batch is sent to the same peer again: what it asked for twice is under way.
const SHOW_AGAIN_BEATS: u64 = 3;

impl Orderer {
    /// Something is missing: ask again for batches, and for places others have.
    pub(super) fn repair(&mut self, out: &mut Vec<Output>) {
        let stalled_ns = 2 * self.heartbeat_ms() * 1_000_000;
        self.fetch_known(out);
        self.ask_again(stalled_ns, out);
        let nothing_missing =
            self.now.tick.since(self.last_progress) <= stalled_ns || self.highest <= self.decided;
        if nothing_missing || self.ahead_of_disk() {
            return;
        }
        if self.catch_up.is_none() && self.now.tick.since(self.last_fetch) > 2 * stalled_ns {
            self.last_fetch = self.now.tick;
            let from = self.decided.next();
            let fetch = Fetch { from, to: Seq(from.0 + FETCH_MAX - 1) };
            self.fetch_end = fetch.to;
            out.push(Output::Broadcast(Message::Fetch(fetch)));
        }
    }

    /// A peer has more than we: ask it, unless a digest list already says what is missing.
    pub(super) fn fetch_from(&mut self, from: ReplicaId, status: &Status, out: &mut Vec<Output>) {
        let behind_mark = status.mark > self.decided;
        let pause = self.heartbeat_ms() * 1_000_000;
        let stalled = self.now.tick.since(self.last_progress) > 2 * pause;
        let nothing_to_gain = status.decided <= self.decided || !(behind_mark || stalled);
        if nothing_to_gain || self.catch_up.is_some() || self.ahead_of_disk() {
            return;
        }
        // Counted for each peer: one that boasts must not use up the turn of those that have something.
        let now = self.now.tick;
        let Some(peer) = self.peers.get_mut(&from).filter(|p| now.since(p.fetched) >= pause) else { return };
        peer.fetched = now;
        self.send_fetch(from, out);
    }

    fn send_fetch(&mut self, to: ReplicaId, out: &mut Vec<Output>) {
        let from = self.decided.next();
        let fetch = Fetch { from, to: Seq(from.0 + FETCH_MAX - 1) };
        self.fetch_end = fetch.to;
        out.push(Output::Send(to, Message::Fetch(fetch)));
    }

    /// What was asked for is here, and somebody has more: ask on at once, or a loaded group runs away from a replica
    /// that asks once a heartbeat.
    pub(super) fn fetch_on(&mut self, out: &mut Vec<Output>) {
        if self.fetch_end == Seq(0) || self.decided < self.fetch_end || self.catch_up.is_some() {
            return;
        }
        self.fetch_end = Seq(0);
        // A place decided here behind a hole needs the hole only; those nobody is known to have wait for the heartbeat.
        let next = self.decided.next();
        let known = self.slots.get(&next).is_some_and(|s| s.decision.is_some());
        // In turn: one that only boasts must not be asked every time.
        let ahead = |p: &Peer| p.status.is_some_and(|s| s.decided > next);
        let mut able = self.peers.iter().filter(|(_, p)| ahead(p)).map(|(r, _)| *r);
        let first = able.clone().next();
        if let Some(peer) = able.find(|r| r.0 > self.ask_turn).or(first)
            && !known
            && !self.ahead_of_disk()
        {
            self.ask_turn = peer.0;
            if let Some(p) = self.peers.get_mut(&peer) {
                p.fetched = self.now.tick;
            }
            self.send_fetch(peer, out);
        }
    }

    /// The next leader needs what leads to a mark that it lacks.
    pub(super) fn fetch_mark(&mut self, from: ReplicaId, out: &mut Vec<Output>) {
        let (now, pause) = (self.now.tick, self.heartbeat_ms() * 1_000_000);
        if self.catch_up.is_some() || self.ahead_of_disk() {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from).filter(|p| now.since(p.fetched) >= pause) else { return };
        peer.fetched = now;
        self.send_fetch(from, out);
    }

    /// Answers with decisions, or with our own votes for what is not decided here.
    pub(super) fn on_fetch(
        &mut self,
        from: ReplicaId,
        fetch: Fetch,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if fetch.from == Seq(0) || fetch.to < fetch.from || fetch.to.0 - fetch.from.0 >= FETCH_MAX {
            return Err(Discard::TooMuch);
        }
        // Certificates are checked before they are shown: a peer must not keep us at that.
        self.may_ask(from)?;
        if fetch.from <= self.durable.base().seq {
            return Err(Discard::Gone);
        }
        if fetch.from <= self.low {
            self.send_chain(from, Seq(fetch.from.0 - 1), out);
        }
        // What it says it has is of no use to it.
        let has = self.peers.get(&from).and_then(|p| p.status).map_or(Seq(0), |s| s.decided);
        let first = fetch.from.max(self.low.next()).max(Seq(has.0.saturating_add(1)));
        for seq in (first.0..=fetch.to.0).map(Seq) {
            let Some(slot) = self.slots.get(&seq) else { continue };
            if let Some(decision) = &slot.decision
                && !self.shown_lately(from, seq)
            {
                let (size, batch) = (decision.batch.bytes.len(), decision.batch.bytes.clone());
                if !self.may_serve(from, size + VOTES_BYTES) {
                    return Err(Discard::TooMuch);
                }
                let certificate = self.shown_certificate(seq);
                self.note_shown(from, seq);
                out.push(Output::Send(from, Message::Decided(Decided { certificate, batch })));
            }
            self.resend_votes(from, seq, out);
        }
        Ok(())
    }

    /// Whether this peer was sent the batch of this place so lately that it need not be sent again.
    fn shown_lately(&self, to: ReplicaId, seq: Seq) -> bool {
        let pause = SHOW_AGAIN_BEATS * self.heartbeat_ms() * 1_000_000;
        let at = self.slots.get(&seq).and_then(|s| s.shown.get(&to));
        at.is_some_and(|at| self.now.tick.since(*at) < pause)
    }

    fn note_shown(&mut self, to: ReplicaId, seq: Seq) {
        let now = self.now.tick;
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.shown.insert(to, now);
        }
    }

    /// The certificate of a decided place without what does not verify; its signatures are looked at once.
    fn shown_certificate(&mut self, seq: Seq) -> Certificate {
        let slot = self.slots.get_mut(&seq).and_then(|s| s.decision.as_mut());
        let decision = slot.expect("the caller has seen a decision");
        if !decision.checked {
            decision.checked = true;
            let certificate = &mut decision.certificate;
            let (view, digest) = (certificate.view, certificate.digest);
            certificate
                .signatures
                .retain(|(r, s)| self.auth.accept_ok(*r, &Vote { view, seq, digest, signature: *s }));
        }
        decision.certificate.clone()
    }

    /// Whether this peer may ask once more before the next heartbeat.
    pub(super) fn may_ask(&mut self, from: ReplicaId) -> Result<(), Discard> {
        let peer = self.peers.get_mut(&from).ok_or(Discard::WrongPlace)?;
        peer.fetches += 1;
        if peer.fetches > FETCHES_MAX { Err(Discard::TooMuch) } else { Ok(()) }
    }

    /// Whether this peer may be served so many more bytes before the next heartbeat.
    pub(super) fn may_serve(&mut self, to: ReplicaId, bytes: usize) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let may = peer.served_bytes + bytes <= SERVE_BYTES_MAX;
        peer.served_bytes += if may { bytes } else { 0 };
        may
    }

    fn resend_votes(&mut self, to: ReplicaId, seq: Seq, out: &mut Vec<Output>) {
        let view = self.view();
        let proposes = self.leads() && !self.shown_lately(to, seq);
        let proposal = self.slots.get(&seq).filter(|slot| proposes && slot.decision.is_none());
        let batch = proposal
            .and_then(|slot| slot.proposal.as_ref().and_then(|p| slot.batch(&p.digest)))
            .map(|b| b.bytes.clone());
        let size = VOTES_BYTES + batch.as_ref().map_or(0, |b| b.len());
        if !matches!(self.phase, Phase::Normal) || !self.slots.contains_key(&seq) || !self.may_serve(to, size)
        {
            return;
        }
        if let Some(batch) = batch {
            out.push(Output::Send(to, Message::Propose(Propose { view, seq, batch })));
            self.note_shown(to, seq);
        }
        let slot = &self.slots[&seq];
        if let Some((digest, signature)) = slot.writes.of(self.me) {
            out.push(Output::Send(to, Message::Write(Vote { view, seq, digest, signature })));
        }
        if let Some((digest, signature)) = slot.accepts.of(self.me) {
            out.push(Output::Send(to, Message::Accept(Vote { view, seq, digest, signature })));
        }
    }

    pub(super) fn on_decided(
        &mut self,
        from: ReplicaId,
        certificate: Certificate,
        batch: Arc<Batch>,
        proven: bool,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let seq = certificate.seq;
        if seq <= self.decided {
            return Err(Discard::Duplicate);
        }
        // Only what a FETCH of ours may have asked for: bounds what an eager peer can make us keep.
        let asked = self.last_fetch.max(self.peers.get(&from).map_or(Tick(0), |p| p.fetched));
        if seq.0 - self.decided.0 > FETCH_MAX || asked == Tick(0) {
            return Err(Discard::Unasked);
        }
        let slot = self.slots.entry(seq).or_default();
        if slot.decision.is_some() {
            return Err(Discard::Duplicate);
        }
        // Where votes are not durable, a new era may have cut what was decided and not on disk, and its certificate still
        // verifies: there a certificate is a claim like any other in Byzantine mode.
        let final_here = self.config.votes_durable || !self.members.byzantine();
        if !(proven && final_here) {
            // A correct replica may hold a faulty one's unsigned ACCEPT: f+1 equal claims hold a correct one's.
            slot.claims.insert(from, certificate.digest);
            let claimants: VoteSet =
                slot.claims.iter().filter(|(_, d)| **d == certificate.digest).map(|(r, _)| *r).collect();
            if !self.members.one_correct().reached_by(claimants) && !broken(Mutant::ClaimsAreProof) {
                return Ok(());
            }
        }
        if certificate.view > self.view() {
            self.step_down(out);
        }
        if proven {
            self.learner_heard(&certificate);
        }
        self.decide(certificate, proven, batch, out);
        self.try_rejoin(out);
        Ok(())
    }

    /// Crash mode: others decide without this leader, so a later view has begun. Whatever it answered from here on could
    /// be unknown to the new leader, whose reads would miss it: it answers nothing, and leaves.
    pub(super) fn step_down(&mut self, out: &mut Vec<Output>) {
        if !self.members.byzantine() && self.leads() && !broken(Mutant::DeposedLeaderAnswers) {
            self.may_lead = false;
            self.refuse_reads(out);
            self.suspect(out);
        }
    }

    pub(super) fn on_fetch_batch(
        &mut self,
        from: ReplicaId,
        fetch: FetchBatch,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        // What lies in the log is about as large as what was decided lately.
        let size_guess = (2 * self.decided_bytes).clamp(4096, self.config.batch_bytes);
        let in_hand = self.slots.get(&fetch.seq).and_then(|s| s.batch(&fetch.digest)).cloned();
        if let Some(batch) = in_hand {
            if !self.may_serve(from, batch.bytes.len()) {
                return Err(Discard::TooMuch);
            }
            let answer = BatchIs { seq: fetch.seq, batch: batch.bytes.clone() };
            out.push(Output::Send(from, Message::BatchIs(answer)));
        } else if let Some(lsn) = self.durable.batch_place(fetch.seq, &fetch.digest) {
            if !self.may_serve(from, size_guess) {
                return Err(Discard::TooMuch);
            }
            out.push(Output::ServeBatch { to: from, seq: fetch.seq, lsn });
        }
        Ok(())
    }

    pub(super) fn on_batch_is(&mut self, batch: Arc<Batch>, out: &mut Vec<Output>) -> Result<(), Discard> {
        let wanted = self.slots.get(&batch.seq).is_some_and(|s| s.wanted.contains_key(&batch.digest));
        if !wanted {
            return Err(Discard::Unasked);
        }
        self.take_batch(batch, out)
    }
}
