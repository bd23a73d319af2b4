//! [core] What the log says: a fold over its records, the same live and in recovery, so that a STOP-DATA is a
//! function of the log (RULES 2).

use super::mutants::{Mutant, broken};
use super::record::OrderRecord;
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::*;
use std::collections::BTreeMap;

/// Stands for the record of a batch that lies in the log of the durability layer, where it is found by its place.
pub const ELSEWHERE: Lsn = Lsn(u64::MAX);

/// A prepared or decided place above the mark.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the certificate consists of.
    pub kind: VoteKind,
    /// WRITE certificate of the highest view, or the decision's; in crash mode the accepted proposal.
    pub certificate: Certificate,
    /// The record that holds the batch.
    pub batch: Lsn,
}

/// The state after a prefix of the log.
#[derive(Clone, Debug)]
pub struct DurableState {
    hasher: Hasher,
    /// The view entered last.
    pub view: View,
    /// WRITEs up to here may have left in that view.
    pub reserve: Seq,
    /// The last mark.
    pub mark: MarkCertificate,
    /// Certificates of all marks, ascending.
    marks: Vec<MarkCertificate>,
    /// Digests of the places 1 ..= mark.
    digests: Vec<Digest>,
    /// Where the batches of the places 1 ..= mark lie; 0 where this log has none.
    places: Vec<Lsn>,
    /// Above the mark.
    prepared: BTreeMap<Seq, Prepared>,
    /// Batches held above the mark, by place and digest.
    batches: BTreeMap<(Seq, Digest), Lsn>,
    /// Votes up to here may have been cast and are not on record (RULES 14): a restart without durable votes.
    pub forgotten: Seq,
    /// This log stands in place of a lost one, and what that one held may still matter (RULES 7).
    pub learner: bool,
    /// The view outside of which a learner waited to vote again.
    pub rejoined: Option<View>,
    /// How often an operator had forgotten votes taken for never cast.
    pub era: u64,
    /// The report of the moment `view` was entered.
    report: Report,
}

/// What a STOP-DATA says: mark, certificates, places of which something may be forgotten.
type Report = (MarkCertificate, Vec<SlotReport>, Vec<Seq>);

/// A log that this software cannot have written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("log record {lsn}: {what}")]
pub struct Impossible {
    /// Which record.
    pub lsn: Lsn,
    /// What is wrong with it.
    pub what: &'static str,
}

impl DurableState {
    /// Before the first record.
    pub fn new(hasher: Hasher) -> Self {
        Self {
            hasher,
            view: View(0),
            reserve: Seq(0),
            mark: MarkCertificate::default(),
            marks: Vec::new(),
            digests: Vec::new(),
            places: Vec::new(),
            prepared: BTreeMap::new(),
            batches: BTreeMap::new(),
            forgotten: Seq(0),
            learner: false,
            rejoined: None,
            era: 0,
            report: Default::default(),
        }
    }

    /// What would be reported now, of certificates below view `below`.
    fn report_below(&self, below: View) -> Report {
        let reported = |p: &&Prepared| p.certificate.view < below;
        let slots: Vec<SlotReport> = self
            .prepared
            .values()
            .filter(reported)
            .map(|p| SlotReport { kind: p.kind, certificate: p.certificate.clone() })
            .collect();
        let known = |seq: &Seq| slots.binary_search_by_key(seq, |s| s.certificate.seq).is_ok();
        let from = self.mark.statement.seq;
        let unknown = (from.0 + 1..=self.forgotten.0).map(Seq).filter(|seq| !known(seq)).collect();
        (self.mark.clone(), slots, unknown)
    }

    /// After a restart without durable votes: what may have been voted on above the mark is forgotten, but for decisions on
    /// record. Votes lie within `window` of the durable mark (RULES 4).
    pub fn forget(&mut self, window: u64) {
        if !broken(Mutant::ForgetsSilently) {
            self.forgotten = Seq(self.mark.statement.seq.0 + window);
        }
        self.report = self.report_below(self.view);
    }

    /// Whether a certified mark has yet to cover what was forgotten.
    pub fn is_forgetful(&self) -> bool {
        self.forgotten > self.mark.statement.seq
    }

    /// Takes down a batch that the durability layer's log holds.
    pub fn holds(&mut self, seq: Seq, digest: Digest) {
        if seq > self.mark.statement.seq {
            self.batches.insert((seq, digest), ELSEWHERE);
        } else if self.digest(seq) == Some(digest) {
            self.places[seq.0 as usize - 1] = ELSEWHERE;
        }
    }

    /// Takes down a complete decision certificate of a batch that is held.
    pub fn decided(&mut self, certificate: Certificate) {
        let (seq, batch) = (certificate.seq, ELSEWHERE);
        let newer = |p: &Prepared| p.certificate.view <= certificate.view;
        if broken(Mutant::OmitsDecisions) {
            return;
        }
        if seq > self.mark.statement.seq && self.prepared.get(&seq).is_none_or(newer) {
            self.prepared.insert(seq, Prepared { kind: VoteKind::Accept, certificate, batch });
        }
    }

    /// Takes the next record.
    pub fn apply(&mut self, lsn: Lsn, record: &OrderRecord) -> Result<(), Impossible> {
        let refuse = |what| Err(Impossible { lsn, what });
        match record {
            OrderRecord::ViewEntered { view, reserve } => {
                if *view <= self.view {
                    return refuse("a view is entered again");
                }
                if self.learner {
                    return refuse("a learner enters no view (RULES 7)");
                }
                self.view = *view;
                self.reserve = *reserve;
                self.report = self.report_below(*view);
            }
            OrderRecord::Reserve { view, reserve } => {
                if *view != self.view || *reserve < self.reserve {
                    return refuse("a vote reserve goes back");
                }
                self.reserve = *reserve;
            }
            OrderRecord::Prepared { certificate, .. } => {
                if certificate.view != self.view {
                    return refuse("prepared in another view than the one entered (RULES 2)");
                }
                if certificate.seq > self.mark.statement.seq {
                    self.batches.insert((certificate.seq, certificate.digest), lsn);
                    let (kind, certificate) = (VoteKind::Write, certificate.clone());
                    self.prepared.insert(certificate.seq, Prepared { kind, certificate, batch: lsn });
                }
            }
            OrderRecord::PreparedRef { certificate } => {
                if certificate.view != self.view {
                    return refuse("prepared in another view than the one entered (RULES 2)");
                }
                if certificate.seq > self.mark.statement.seq {
                    let Some(&batch) = self.batches.get(&(certificate.seq, certificate.digest)) else {
                        return refuse("refers to a batch that is not in the log");
                    };
                    let (kind, certificate) = (VoteKind::Write, certificate.clone());
                    self.prepared.insert(certificate.seq, Prepared { kind, certificate, batch });
                }
            }
            OrderRecord::Batch { seq, digest, .. } => {
                if *seq > self.mark.statement.seq {
                    self.batches.insert((*seq, *digest), lsn);
                } else if self.digest(*seq) == Some(*digest) {
                    self.places[seq.0 as usize - 1] = lsn;
                }
            }
            OrderRecord::Mark { mark, digests } => {
                let (from, to) = (self.mark.statement.seq, mark.statement.seq);
                if to.0.checked_sub(from.0) != Some(digests.len() as u64) || digests.is_empty() {
                    return refuse("a mark does not continue the one before");
                }
                let chain = digests.iter().fold(self.mark.statement.batches, |c, d| self.hasher.chain(&c, d));
                if chain != mark.statement.batches {
                    return refuse("a mark's digests do not lead to it");
                }
                for (seq, digest) in (from.0 + 1..).map(Seq).zip(digests) {
                    let place = self.batches.get(&(seq, *digest)).copied().unwrap_or_default();
                    self.places.push(place);
                }
                self.digests.extend_from_slice(digests);
                self.mark = mark.clone();
                self.marks.push(mark.clone());
                self.prepared.retain(|seq, _| *seq > to);
                self.batches.retain(|(seq, _), _| *seq > to);
            }
            OrderRecord::Learner => {
                if self.view != View(0) || self.mark.statement.seq != Seq(0) || self.learner {
                    return refuse("a learner's log begins so, or not at all");
                }
                self.learner = true;
            }
            OrderRecord::Rejoined { view } => {
                if !self.learner {
                    return refuse("rejoined without having been a learner");
                }
                self.learner = false;
                self.rejoined = Some(*view);
                self.view = *view;
            }
            OrderRecord::NewEra { era } => {
                if *era != self.era + 1 {
                    return refuse("an era does not follow the one before");
                }
                self.era = *era;
                self.forgotten = Seq(0);
                self.report = self.report_below(self.view);
            }
        }
        Ok(())
    }

    /// This replica's STOP-DATA for the view entered last, unsigned.
    pub fn stop_data(&self, sender: ReplicaId) -> StopData {
        let (mark, slots, unknown) = self.report.clone();
        StopData { view: self.view, sender, mark, slots, unknown, signature: Signature::NONE }
    }

    /// For the mutant that reports only what is durable.
    #[cfg(any(test, feature = "mutants"))]
    pub(super) fn drop_from_report(&mut self, seqs: &[Seq]) {
        self.report.1.retain(|s| !seqs.contains(&s.certificate.seq));
    }

    /// The digest decided at `seq`, if a durable mark covers it.
    pub fn digest(&self, seq: Seq) -> Option<Digest> {
        seq.0.checked_sub(1).and_then(|i| self.digests.get(i as usize)).copied()
    }

    /// The record that holds this batch, if the log has it.
    pub fn batch_place(&self, seq: Seq, digest: &Digest) -> Option<Lsn> {
        if seq > self.mark.statement.seq {
            return self.batches.get(&(seq, *digest)).copied();
        }
        let i = seq.0.checked_sub(1)? as usize;
        (self.digests.get(i) == Some(digest)).then(|| self.places[i]).filter(|lsn| *lsn != Lsn(0))
    }

    /// Prepared places above the mark.
    pub fn prepared(&self) -> impl Iterator<Item = (&Seq, &Prepared)> {
        self.prepared.iter()
    }

    /// What the highest mark in `(above, upto]` states.
    pub fn mark_before(&self, upto: Seq, above: Seq) -> Option<MarkStatement> {
        let end = self.marks.partition_point(|m| m.statement.seq <= upto);
        self.marks[..end].last().map(|m| m.statement).filter(|s| s.seq > above)
    }

    /// The furthest mark reachable from `from` with at most `most` digests, else the next one, and those digests.
    pub fn chain_from(&self, from: Seq, most: usize) -> Option<(MarkCertificate, Vec<Digest>)> {
        let reach = Seq(from.0.saturating_add(most as u64));
        let next = self.marks.partition_point(|m| m.statement.seq <= from);
        let end = self.marks.partition_point(|m| m.statement.seq <= reach).max(next + 1);
        let mark = self.marks.get(..end)?.last()?;
        let digests = self.digests[from.0 as usize..mark.statement.seq.0 as usize].to_vec();
        Some((mark.clone(), digests))
    }
}
