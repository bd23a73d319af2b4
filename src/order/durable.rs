//! [core] What the log says: a fold over its records, the same live and in recovery, so that a STOP-DATA is a
//! function of the log (RULES 2).

use super::record::OrderRecord;
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::*;
use std::collections::BTreeMap;

/// A prepared place above the mark.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// WRITE certificate of the highest view; in crash mode the accepted proposal.
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
    /// The report of the moment `view` was entered: mark and prepared places.
    report: (MarkCertificate, Vec<SlotReport>),
}

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
            report: (MarkCertificate::default(), Vec::new()),
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
                self.view = *view;
                self.reserve = *reserve;
                let slots = self.prepared.values();
                self.report = (
                    self.mark.clone(),
                    slots.map(|p| SlotReport { certificate: p.certificate.clone() }).collect(),
                );
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
                    let prepared = Prepared { certificate: certificate.clone(), batch: lsn };
                    self.prepared.insert(certificate.seq, prepared);
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
                    self.prepared
                        .insert(certificate.seq, Prepared { certificate: certificate.clone(), batch });
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
        }
        Ok(())
    }

    /// This replica's STOP-DATA for the view entered last, unsigned.
    pub fn stop_data(&self, sender: ReplicaId) -> StopData {
        let (mark, slots) = self.report.clone();
        StopData { view: self.view, sender, mark, slots, unknown: Vec::new(), signature: Signature::NONE }
    }

    /// For the mutant that reports only what is durable.
    #[cfg(test)]
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
