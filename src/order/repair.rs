//! [core] Damaged records: what their headers still say, and how the rest comes back from others.
//!
//! Bits rot mostly where most bytes are: in batches. The log hands out a record that was durable, whose header is whole and
//! confirmed by the chain in the header behind it, and whose payload is not what was written. Of records that say what was voted
//! on, the header names place, view and digest. So no vote is ever forgotten; what can be missing is
//!
//! - *the batch*. Whoever has it serves it by its digest, from any record. Below the mark it is a hole that the mark's digests lead
//!   over, as where a batch was never logged; above, it is asked for at once. Until it is here and in the log again, this replica
//!   neither repeats its ACCEPT for it, which says that the batch is durable, nor lets a new leader count its report alone.
//! - *the certificate*, in Byzantine mode (crash mode has nothing in it but what the header says). It proves itself: as many of its
//!   signatures as are left are checked, and a quorum of them is the certificate. With fewer the place is reported as unknown
//!   (RULES 10) until a report of another replica shows a certificate of that view or a later one, which then is reported
//!   in place of it: for every certificate of view w, what was decided in a view ≤ w is its digest. Such a report
//!   is still true after a restart, which knows less again, so it needs no record of its own.
//!
//! A place prepared again, a batch logged again, or a mark above it heals the log by a later record. The damaged one stays as it is
//! and says the same at every start. Nothing is recycled while a place above the mark lacks certificate or batch: a control record
//! could not say it. Damage to all other records, and to any header, refuses the start, as before: what they say stands nowhere else.
//!
//! If nobody has a lost certificate, a view change waits for a quorum that knows of the place (RULES 10), and `status` names it. Unlike
//! a halt this ends by itself once a replica with the certificate comes back.

use super::control::Control;
use super::durable::{DurableState, Impossible, Prepared};
use super::interface::Output;
use super::mutants::{Mutant, broken};
use super::orderer::Orderer;
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::batch::Batch;
use crate::wire::codec::Reader;
use crate::wire::messages::*;
use bytes::Bytes;
use std::sync::Arc;

/// What a damaged record was.
#[derive(Clone, Debug)]
pub struct Lost {
    seq: Seq,
    view: View,
    digest: Digest,
    /// It held the batch.
    batch: bool,
    /// It said that the place was prepared.
    vote: bool,
    /// Its certificate, as far as that proves itself.
    certificate: Option<Certificate>,
}

/// What a damaged record took.
#[derive(Clone, Debug)]
pub(super) struct Wound {
    seq: Seq,
    digest: Digest,
    batch: bool,
}

impl Lost {
    /// From the header of a record, and from what stands behind it. `None`: the header alone says nothing.
    pub fn of(
        auth: &Authenticator,
        kind: u8,
        seq: Seq,
        view: View,
        digest: Digest,
        payload: &Bytes,
    ) -> Option<Self> {
        let (batch, vote) = match kind {
            3 => (true, true),
            4 => (false, true),
            6 => (true, false),
            _ => return None,
        };
        let certificate = vote.then(|| salvage(auth, view, seq, digest, payload)).flatten();
        Some(Self { seq, view, digest, batch, vote, certificate })
    }
}

/// The certificate of this place, view and digest out of damaged bytes.
fn salvage(
    auth: &Authenticator,
    view: View,
    seq: Seq,
    digest: Digest,
    payload: &Bytes,
) -> Option<Certificate> {
    let mut certificate = Certificate { view, seq, digest, signatures: Vec::new() };
    if auth.members.byzantine() {
        let read = Certificate::read(&mut Reader::new(payload.clone())).ok()?;
        certificate.signatures = read.signatures;
        certificate.signatures.retain(|(r, signature)| {
            let vote = Vote { view, seq, digest, signature: *signature };
            auth.members.contains(*r) && auth.write_ok(*r, &vote)
        });
    }
    auth.certificate_ok(VoteKind::Write, &certificate).then_some(certificate)
}

impl DurableState {
    /// Takes the next record, a damaged one.
    pub(super) fn lose(&mut self, lsn: Lsn, lost: Lost) -> Result<(), Impossible> {
        let Lost { seq, view, digest, batch, vote, certificate } = lost;
        if vote && self.known && view != self.view {
            return Err(Impossible { lsn, what: "prepared in another view than the one entered (RULES 2)" });
        }
        self.wounds.push(Wound { seq, digest, batch });
        if seq <= self.mark.statement.seq {
            return Ok(());
        }
        if batch && !self.batches.contains_key(&(seq, digest)) {
            self.lost_batches.insert((seq, digest));
        }
        if !vote || broken(Mutant::ForgetsDamaged) {
            return Ok(());
        }
        let Some(batch) = self.held(seq, digest) else {
            let what = "refers to a batch that is not in the log";
            return if self.known { Err(Impossible { lsn, what }) } else { Ok(()) };
        };
        match certificate {
            Some(certificate) => {
                self.lost.remove(&seq);
                self.prepared.insert(seq, Prepared { kind: VoteKind::Write, certificate, batch });
            }
            None => {
                // Not the one of an earlier view: it would hide this one.
                self.prepared.remove(&seq);
                self.lost.insert(seq, view);
            }
        }
        Ok(())
    }

    /// The record with the batch of a place above the mark; 0 if that one is damaged.
    pub(super) fn held(&self, seq: Seq, digest: Digest) -> Option<Lsn> {
        let lost = || self.lost_batches.contains(&(seq, digest)).then_some(Lsn(0));
        self.batches.get(&(seq, digest)).copied().or_else(lost)
    }

    /// A whole record holds the batch of a place above the mark.
    pub(super) fn found(&mut self, seq: Seq, digest: Digest, lsn: Lsn) {
        self.batches.insert((seq, digest), lsn);
        self.lost_batches.remove(&(seq, digest));
        if let Some(p) = self.prepared.get_mut(&seq).filter(|p| p.certificate.digest == digest) {
            p.batch = lsn;
        }
    }

    /// Whether certificate or batch of a prepared place above the mark is missing.
    pub fn is_wounded(&self) -> bool {
        !self.lost.is_empty() || self.prepared.values().any(|p| p.batch == Lsn(0))
    }

    /// What is prepared there in this view, if its batch is missing.
    pub(super) fn without_batch(&self, seq: Seq, view: View) -> Option<&Certificate> {
        let prepared = self.prepared.get(&seq).filter(|p| p.batch == Lsn(0))?;
        Some(&prepared.certificate).filter(|c| c.view == view)
    }

    /// Takes a valid certificate of another replica in place of a lost one; whether it is one.
    pub(super) fn regain(&mut self, kind: VoteKind, certificate: &Certificate) -> bool {
        let seq = certificate.seq;
        let fits = |view: &View| *view <= certificate.view && certificate.view < self.view;
        if !self.lost.get(&seq).is_some_and(fits) {
            return false;
        }
        self.lost.remove(&seq);
        let batch = self.held(seq, certificate.digest).unwrap_or_default();
        let certificate = certificate.clone();
        self.prepared.insert(seq, Prepared { kind, certificate: certificate.clone(), batch });
        let (_, slots, unknown) = &mut self.report;
        unknown.retain(|s| *s != seq);
        if let Err(at) = slots.binary_search_by_key(&seq, |s| s.certificate.seq) {
            slots.insert(at, SlotReport { kind, certificate });
        }
        true
    }

    /// Whether a control record says what the records before it say. What is missing of these it tells: it may know a certificate that
    /// is lost now, or more signatures of one, or a later one, which was regained when it was written.
    pub(super) fn agrees(&mut self, control: &Control) -> bool {
        let mut theirs = control.clone();
        if control.whole {
            let damaged = !self.wounds.is_empty();
            let as_good = |ours: &Certificate, theirs: &Certificate| {
                let same = theirs.view == ours.view && theirs.digest == ours.digest;
                damaged && (same || theirs.view > ours.view)
            };
            for SlotReport { kind, certificate } in control.prepared.1.iter().cloned() {
                let seq = certificate.seq;
                let takes = match self.lost.get(&seq) {
                    Some(view) => *view <= certificate.view,
                    None => self.prepared.get(&seq).is_some_and(|p| as_good(&p.certificate, &certificate)),
                };
                if let (true, Some(batch)) = (takes, self.held(seq, certificate.digest)) {
                    self.lost.remove(&seq);
                    self.prepared.insert(seq, Prepared { kind, certificate, batch });
                }
            }
            for slot in &mut self.report.1 {
                let seq = slot.certificate.seq;
                let told = theirs.report.1.iter().find(|told| told.certificate.seq == seq);
                if let Some(told) = told.filter(|told| as_good(&slot.certificate, &told.certificate)) {
                    *slot = told.clone();
                }
            }
            know_more(&mut self.report.1, &mut self.report.2, &theirs.report.1);
            // It may have been written when less could be read.
            know_more(&mut theirs.report.1, &mut theirs.report.2, &self.report.1);
        }
        let ours = Control { below: control.below, ..self.control(control.whole) };
        self.lost.is_empty() && ours.bytes() == theirs.bytes()
    }

    /// From above here on this log leads others to its mark: its beginning, or the last batch below the mark that a damaged record took
    /// and that nothing needed here again.
    pub(super) fn serves_above(&self) -> Seq {
        let (base, mark) = (self.base().seq, self.mark.statement.seq);
        let hole = |w: &&Wound| {
            let here = w.batch && base < w.seq && w.seq <= mark && self.digest(w.seq) == Some(w.digest);
            here && self.batch_place(w.seq, &w.digest).is_none()
        };
        self.wounds.iter().filter(hole).map(|w| w.seq).max().unwrap_or(base)
    }

    /// Records that were damaged at the start, and those of them that are healed by later ones or no longer needed.
    pub fn damaged(&self) -> (usize, usize) {
        let base = self.base().seq;
        let healed = |w: &&Wound| {
            let replaced = || self.batch_place(w.seq, &w.digest).is_some();
            let passed = || self.digest(w.seq).is_some_and(|digest| digest != w.digest);
            !self.lost.contains_key(&w.seq) && (!w.batch || w.seq <= base || replaced() || passed())
        };
        (self.wounds.len(), self.wounds.iter().filter(healed).count())
    }
}

/// What is unknown in a report and not in another of the same moment is taken from that one.
fn know_more(slots: &mut Vec<SlotReport>, unknown: &mut Vec<Seq>, others: &[SlotReport]) {
    unknown.retain(|seq| {
        let told = others.iter().find(|s| s.certificate.seq == *seq);
        let at = slots.binary_search_by_key(seq, |s| s.certificate.seq);
        if let (Some(told), Err(at)) = (told, at) {
            slots.insert(at, told.clone());
            return false;
        }
        told.is_none()
    });
}

impl Orderer {
    /// Batches of prepared places that stood in damaged records are asked for, whoever may have them.
    pub(super) fn want_lost(&mut self) {
        let missing = self.durable.prepared().filter(|(_, p)| p.batch == Lsn(0));
        let missing: Vec<(Seq, Digest)> = missing.map(|(seq, p)| (*seq, p.certificate.digest)).collect();
        for (seq, digest) in missing {
            let slot = self.slots.entry(seq).or_default();
            if slot.batch(&digest).is_some() {
                continue;
            }
            let noop = Batch::noop(&self.auth.hasher, seq);
            if noop.digest == digest {
                slot.batches.insert(digest, Arc::new(noop));
            } else {
                slot.wanted.entry(digest).or_insert(Tick(0));
            }
        }
    }

    /// Certificates in reports of others stand in for lost ones; whether any does.
    pub(super) fn regain(&mut self) -> bool {
        if self.durable.lost.is_empty() {
            return false;
        }
        let reports: Vec<Arc<StopData>> = self.peers.values().filter_map(|p| p.stop_data.clone()).collect();
        let mut regained = false;
        for SlotReport { kind, certificate } in reports.iter().flat_map(|d| &d.slots) {
            regained |= self.durable.regain(*kind, certificate);
        }
        if regained {
            self.want_lost();
        }
        regained
    }

    /// Who reports a certificate has its batch, most likely: those that are missing here are asked for at once. The turns of the others
    /// go on beside: one that only boasts must not put them off.
    pub(super) fn ask_reporter(&self, data: &StopData, out: &mut Vec<Output>) {
        if data.sender == self.me || !self.durable.is_wounded() {
            return;
        }
        for certificate in data.slots.iter().map(|s| &s.certificate) {
            let (seq, digest) = (certificate.seq, certificate.digest);
            if self.slots.get(&seq).is_some_and(|slot| slot.wanted.contains_key(&digest)) {
                out.push(Output::Send(data.sender, Message::FetchBatch(FetchBatch { seq, digest })));
            }
        }
    }

    /// Records that were damaged at the start, and those of them that are healed or no longer needed.
    pub fn damaged(&self) -> (usize, usize) {
        self.durable.damaged()
    }

    /// The first place above the mark whose certificate is lost.
    pub fn vote_lost(&self) -> Option<Seq> {
        self.durable.lost.keys().next().copied()
    }
}
