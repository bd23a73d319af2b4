//! [core] What the log says: a fold over its records, the same live and in recovery, so that a STOP-DATA is a
//! function of the log (RULES 2).

use super::control::Control;
use super::mutants::{Mutant, broken};
use super::record::OrderRecord;
use super::repair::Wound;
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::*;
use std::collections::{BTreeMap, BTreeSet};

/// Stands for the record of a batch that lies in the log of the durability layer, where it is found by its place.
pub const ELSEWHERE: Lsn = Lsn(u64::MAX);

/// A prepared or decided place above the mark.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the certificate consists of.
    pub kind: VoteKind,
    /// WRITE certificate of the highest view, or the decision's; in crash mode the accepted proposal.
    pub certificate: Certificate,
    /// The record that holds the batch; 0 where that record is damaged.
    pub batch: Lsn,
}

/// Where the executed state comes from that this log need not lead to: a checkpoint, or the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// Executed up to here.
    pub seq: Seq,
    /// The batch history up to there.
    pub batches: Digest,
}

impl Base {
    /// For a look at a log alone, wherever it begins.
    pub const ANYWHERE: Base = Base { seq: Seq(u64::MAX - 1), batches: Digest::ZERO };
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
    /// What lies up to here is not asked of this log any more.
    base: Base,
    /// The first record there was at the start.
    first: Lsn,
    /// Certificates of the marks above the base with their records, ascending.
    marks: Vec<(MarkCertificate, Lsn)>,
    /// Digests of the places above the base up to the mark.
    digests: Vec<Digest>,
    /// Where the batches of these places lie; 0 where this log has none.
    places: Vec<Lsn>,
    /// False while a log without its beginning has not come to its first control record.
    pub known: bool,
    /// Above the mark.
    pub(super) prepared: BTreeMap<Seq, Prepared>,
    /// Batches held above the mark, by place and digest.
    pub(super) batches: BTreeMap<(Seq, Digest), Lsn>,
    /// Places above the mark prepared in this view, by a damaged record that does not tell its certificate any more.
    pub(super) lost: BTreeMap<Seq, View>,
    /// Batches above the mark that stood in damaged records and in no other.
    pub(super) lost_batches: BTreeSet<(Seq, Digest)>,
    /// All that was damaged at the start.
    pub(super) wounds: Vec<Wound>,
    /// Votes up to here may have been cast and are not on record (RULES 14): a restart without durable votes.
    pub forgotten: Seq,
    /// This log stands in place of a lost one, and what that one held may still matter (RULES 7).
    pub learner: bool,
    /// The view outside of which a learner waited to vote again.
    pub rejoined: Option<View>,
    /// How often an operator had forgotten votes taken for never cast.
    pub era: u64,
    /// The report of the moment `view` was entered.
    pub(super) report: Report,
}

/// What a STOP-DATA says: mark, certificates, places of which something may be forgotten.
pub type Report = (MarkCertificate, Vec<SlotReport>, Vec<Seq>);

/// A log that this software cannot have written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("log record {lsn}: {what}")]
pub struct Impossible {
    /// Which record.
    pub lsn: Lsn,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Nothing leads from the checkpoint to what the log begins with.
const TOO_OLD: &str = "the checkpoint ends before the log begins";

impl Impossible {
    /// Whether it is only the checkpoint that is wanting.
    pub fn is_too_old_checkpoint(&self) -> bool {
        self.what == TOO_OLD
    }
}

impl DurableState {
    /// Before record `first`, which is the first there ever was, or the first that is left; executed up to `base`.
    pub fn new(hasher: Hasher, base: Base, first: Lsn) -> Self {
        Self {
            hasher,
            base,
            first,
            known: first == Lsn(1),
            view: View(0),
            reserve: Seq(0),
            mark: MarkCertificate::default(),
            marks: Vec::new(),
            digests: Vec::new(),
            places: Vec::new(),
            prepared: BTreeMap::new(),
            batches: BTreeMap::new(),
            lost: BTreeMap::new(),
            lost_batches: BTreeSet::new(),
            wounds: Vec::new(),
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
        let forgotten = (from.0 + 1..=self.forgotten.0).map(Seq).filter(|seq| !known(seq));
        let lost = self.lost.iter().filter(|(_, view)| **view < below).map(|(seq, _)| *seq);
        let unknown: BTreeSet<Seq> = forgotten.chain(lost).collect();
        (self.mark.clone(), slots, unknown.into_iter().collect())
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
        } else {
            self.lies_at(seq, digest, ELSEWHERE);
        }
    }

    /// A batch of a place that a mark covers.
    fn lies_at(&mut self, seq: Seq, digest: Digest, lsn: Lsn) {
        if let Some(at) = self.at(seq).filter(|at| self.digests.get(*at) == Some(&digest)) {
            self.places[at] = lsn;
        }
    }

    /// Where a place above the base stands in the lists.
    fn at(&self, seq: Seq) -> Option<usize> {
        seq.0.checked_sub(self.base.seq.0 + 1).map(|at| at as usize)
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
                if *view <= self.view && self.known {
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
                if self.known && (*view != self.view || *reserve < self.reserve) {
                    return refuse("a vote reserve goes back");
                }
                self.reserve = *reserve;
            }
            OrderRecord::Prepared { certificate, .. } => {
                if self.known && certificate.view != self.view {
                    return refuse("prepared in another view than the one entered (RULES 2)");
                }
                if certificate.seq > self.mark.statement.seq {
                    self.lost.remove(&certificate.seq);
                    self.found(certificate.seq, certificate.digest, lsn);
                    let (kind, certificate) = (VoteKind::Write, certificate.clone());
                    self.prepared.insert(certificate.seq, Prepared { kind, certificate, batch: lsn });
                }
            }
            OrderRecord::PreparedRef { certificate } => {
                if self.known && certificate.view != self.view {
                    return refuse("prepared in another view than the one entered (RULES 2)");
                }
                if certificate.seq > self.mark.statement.seq {
                    match self.held(certificate.seq, certificate.digest) {
                        Some(batch) => {
                            self.lost.remove(&certificate.seq);
                            let (kind, certificate) = (VoteKind::Write, certificate.clone());
                            self.prepared.insert(certificate.seq, Prepared { kind, certificate, batch });
                        }
                        None if self.known => return refuse("refers to a batch that is not in the log"),
                        None => {}
                    }
                }
            }
            OrderRecord::Batch { seq, digest, .. } => {
                if *seq > self.mark.statement.seq {
                    self.found(*seq, *digest, lsn);
                } else {
                    self.lies_at(*seq, *digest, lsn);
                }
            }
            OrderRecord::Mark { mark, digests } => {
                let to = mark.statement.seq;
                let Some(from) =
                    to.0.checked_sub(digests.len() as u64).map(Seq).filter(|_| !digests.is_empty())
                else {
                    return refuse("a mark does not continue the one before");
                };
                // The first one of a log without its beginning continues one that is gone; the base lies behind it.
                let begins = !self.known && self.mark.statement.seq == Seq(0);
                if from != self.mark.statement.seq && !begins {
                    return refuse("a mark does not continue the one before");
                }
                if begins && from > self.base.seq {
                    return refuse(TOO_OLD);
                }
                if begins && to <= self.base.seq {
                    // The log still leads from here to the checkpoint, for others.
                    self.base = Base { seq: to, batches: mark.statement.batches };
                }
                // What leads up to the base is gone, or told by the checkpoint.
                let behind = if begins { self.base.seq.0 - from.0 } else { 0 };
                let start = if begins { self.base.batches } else { self.mark.statement.batches };
                let rest = &digests[behind as usize..];
                let chain = rest.iter().fold(start, |c, d| self.hasher.chain(&c, d));
                if chain != mark.statement.batches {
                    return refuse("a mark's digests do not lead to it");
                }
                for (seq, digest) in (from.0 + 1..).map(Seq).zip(digests) {
                    if seq > self.base.seq {
                        let place = self.batches.get(&(seq, *digest)).copied().unwrap_or_default();
                        self.places.push(place);
                        self.digests.push(*digest);
                    }
                }
                self.mark = mark.clone();
                if to > self.base.seq {
                    self.marks.push((mark.clone(), lsn));
                }
                self.keep_above(to);
            }
            OrderRecord::Transferred { state } => {
                let MarkStatement { seq, batches, .. } = state.statement;
                let to = state.mark.statement.seq;
                if seq <= self.mark.statement.seq {
                    return refuse("a state that was known already is transferred");
                }
                let chain = state.digests.iter().fold(batches, |c, d| self.hasher.chain(&c, d));
                if to.0.checked_sub(seq.0) != Some(state.digests.len() as u64)
                    || chain != state.mark.statement.batches
                {
                    return refuse("a transferred state's digests do not lead to its mark");
                }
                let held =
                    |(place, digest): (u64, &Digest)| self.batches.get(&(Seq(place), *digest)).copied();
                self.places =
                    (seq.0 + 1..).zip(&state.digests).map(|p| held(p).unwrap_or_default()).collect();
                self.base = Base { seq, batches };
                self.mark = (*state.mark).clone();
                self.marks.clear();
                if to > seq {
                    self.marks.push((self.mark.clone(), lsn));
                }
                self.digests = state.digests.clone();
                self.keep_above(to);
            }
            OrderRecord::Learner => {
                if self.view != View(0) || self.mark.statement.seq != Seq(0) || self.learner {
                    return refuse("a learner's log begins so, or not at all");
                }
                self.learner = true;
            }
            OrderRecord::Rejoined { view } => {
                if self.known && !self.learner {
                    return refuse("rejoined without having been a learner");
                }
                self.learner = false;
                self.rejoined = Some(*view);
                self.view = *view;
            }
            OrderRecord::NewEra { era } => {
                if self.known && *era != self.era + 1 {
                    return refuse("an era does not follow the one before");
                }
                self.era = *era;
                self.forgotten = Seq(0);
                self.report = self.report_below(self.view);
            }
            OrderRecord::Control(control) => {
                if !self.known {
                    self.learn(control).map_err(|what| Impossible { lsn, what })?;
                } else if !self.agrees(control) {
                    return refuse("a control record says otherwise than the records before it");
                }
            }
        }
        Ok(())
    }

    /// What stands at and below `mark` is no question any more.
    fn keep_above(&mut self, mark: Seq) {
        self.prepared.retain(|seq, _| *seq > mark);
        self.batches.retain(|(seq, _), _| *seq > mark);
        self.lost.retain(|seq, _| *seq > mark);
        self.lost_batches.retain(|(seq, _)| *seq > mark);
    }

    /// All that is known besides batches and marks; without what is prepared where the log of decisions tells that.
    pub fn control(&self, whole: bool) -> Control {
        let prepared = |p: &Prepared| SlotReport { kind: p.kind, certificate: p.certificate.clone() };
        let slots = if whole { self.prepared.values().map(prepared).collect() } else { Vec::new() };
        Control {
            view: self.view,
            reserve: self.reserve,
            forgotten: if whole { self.forgotten } else { Seq(0) },
            era: self.era,
            learner: self.learner,
            rejoined: self.rejoined,
            report: if whole { self.report.clone() } else { Report::default() },
            prepared: (self.mark.clone(), slots),
            whole,
            below: Lsn(u64::MAX),
        }
    }

    /// Takes over what a control record says, in a log whose beginning is gone.
    fn learn(&mut self, control: &Control) -> Result<(), &'static str> {
        let (mark, slots) = &control.prepared;
        if control.below < self.first {
            // A later one let go of what it goes with.
            return Ok(());
        }
        if self.mark.statement.seq == Seq(0) {
            if mark.statement.seq > self.base.seq {
                return Err(TOO_OLD);
            }
            self.mark = mark.clone();
            if self.base == Base::ANYWHERE {
                self.base = Base { seq: mark.statement.seq, batches: mark.statement.batches };
            }
        } else if self.mark.statement != mark.statement {
            return Err("a control record says otherwise than the marks before it");
        }
        let marked = mark.statement.seq;
        self.keep_above(marked);
        self.prepared.clear();
        // It says all that damaged records before it said.
        self.lost.clear();
        for SlotReport { kind, certificate } in slots.iter().cloned() {
            let Some(batch) = self.held(certificate.seq, certificate.digest) else {
                return Err("a control record refers to a batch that is not in the log");
            };
            self.prepared.insert(certificate.seq, Prepared { kind, certificate, batch });
        }
        (self.view, self.reserve, self.era) = (control.view, control.reserve, control.era);
        (self.learner, self.rejoined, self.forgotten) =
            (control.learner, control.rejoined, control.forgotten);
        self.report = control.report.clone();
        self.known = true;
        Ok(())
    }

    /// What the state comes from that this log does not lead to.
    pub fn base(&self) -> Base {
        self.base
    }

    /// The batch history up to `seq`, which lies between the base and the mark.
    pub fn history(&self, seq: Seq) -> Option<Digest> {
        let to = self.at(seq.next()).filter(|to| *to <= self.digests.len())?;
        let last = self.marks.partition_point(|(m, _)| m.statement.seq <= seq).checked_sub(1);
        let (from, chain) = match last.map(|i| self.marks[i].0.statement) {
            Some(mark) => (self.at(mark.seq.next())?, mark.batches),
            None => (0, self.base.batches),
        };
        Some(self.digests[from..to].iter().fold(chain, |c, d| self.hasher.chain(&c, d)))
    }

    /// What may go when a checkpoint covers the places up to `covered` and the records from `keep` on are to be kept anyway: the
    /// places up to the first, and the records below the second.
    pub fn recyclable(&self, covered: Seq, keep: Lsn) -> (Seq, Lsn) {
        let covered = covered.min(self.mark.statement.seq).max(self.base.seq);
        let held = |lsn: &Lsn| *lsn != Lsn(0) && *lsn != ELSEWHERE;
        let mut needed = self.batches.values().copied().filter(held).min().unwrap_or(ELSEWHERE);
        let mut marks = self.marks.iter().rev().peekable();
        let (mut upto, mut below) = (covered, keep);
        // From the mark down: what is needed above each place.
        for seq in (self.base.seq.0..=self.mark.statement.seq.0).rev().map(Seq) {
            while let Some((_, lsn)) = marks.next_if(|(m, _)| m.statement.seq > seq) {
                needed = needed.min(*lsn);
            }
            let above = self.at(seq.next()).and_then(|at| self.places.get(at)).filter(|lsn| held(lsn));
            needed = needed.min(above.copied().unwrap_or(ELSEWHERE));
            if seq == covered {
                below = below.min(needed);
            }
            if seq < covered {
                if needed < below {
                    break;
                }
                upto = seq;
            }
        }
        (upto, below)
    }

    /// Forgets the places up to `upto`, which the log need not lead to any more.
    pub fn trim(&mut self, upto: Seq) {
        let Some(batches) = self.history(upto) else { return };
        let gone = (upto.0 - self.base.seq.0) as usize;
        self.digests.drain(..gone);
        self.places.drain(..gone);
        self.marks.retain(|(m, _)| m.statement.seq > upto);
        self.base = Base { seq: upto, batches };
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
        self.at(seq).and_then(|i| self.digests.get(i)).copied()
    }

    /// The record that holds this batch, if the log has it.
    pub fn batch_place(&self, seq: Seq, digest: &Digest) -> Option<Lsn> {
        if seq > self.mark.statement.seq {
            return self.batches.get(&(seq, *digest)).copied();
        }
        let i = self.at(seq)?;
        (self.digests.get(i) == Some(digest)).then(|| self.places[i]).filter(|lsn| *lsn != Lsn(0))
    }

    /// Prepared places above the mark.
    pub fn prepared(&self) -> impl Iterator<Item = (&Seq, &Prepared)> {
        self.prepared.iter()
    }

    /// What the highest mark in `(above, upto]` states.
    pub fn mark_before(&self, upto: Seq, above: Seq) -> Option<MarkStatement> {
        let end = self.marks.partition_point(|(m, _)| m.statement.seq <= upto);
        self.marks[..end].last().map(|(m, _)| m.statement).filter(|s| s.seq > above)
    }

    /// The nearest mark that covers `seq`, and the digests that lead to it from there.
    pub fn covering(&self, seq: Seq) -> Option<(MarkCertificate, Vec<Digest>)> {
        let first = self.marks.partition_point(|(m, _)| m.statement.seq < seq);
        let mark = self.marks.get(first).map_or(&self.mark, |(mark, _)| mark);
        let digests = self.digests.get(self.at(seq.next())?..self.at(mark.statement.seq.next())?)?;
        Some((mark.clone(), digests.to_vec()))
    }

    /// The furthest mark reachable from `from` with at most `most` digests, else the next one, and those digests.
    pub fn chain_from(&self, from: Seq, most: usize) -> Option<(MarkCertificate, Vec<Digest>)> {
        let reach = Seq(from.0.saturating_add(most as u64));
        let next = self.marks.partition_point(|(m, _)| m.statement.seq <= from);
        let end = self.marks.partition_point(|(m, _)| m.statement.seq <= reach).max(next + 1);
        let (mark, _) = self.marks.get(..end)?.last()?;
        let digests = self.digests[self.at(from.next())?..self.at(mark.statement.seq.next())?].to_vec();
        Some((mark.clone(), digests))
    }
}
