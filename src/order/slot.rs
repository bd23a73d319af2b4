//! [core] One place in the order: Propose → Write → Accept → decided. Crash mode has no Write.

use crate::quorum::{Quorum, VoteSet};
use crate::types::*;
use crate::wire::batch::Batch;
use crate::wire::messages::{Certificate, Signature, Vote};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the leader, or the SYNC, put into a place in the current view.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its digest.
    pub digest: Digest,
    /// When it was seen.
    pub since: Tick,
    /// Proposed time and own clock are close enough (RULES 12); a SYNC's choice needs no look at the clock.
    pub clock_ok: bool,
    /// Every group's authenticator held here; otherwise f+1 WRITEs of others must vouch.
    pub vouched: bool,
}

/// Votes of one kind in one view: one of each replica, the first.
#[derive(Clone, Debug, Default)]
pub struct Votes {
    by: BTreeMap<ReplicaId, (Digest, Signature)>,
}

impl Votes {
    /// Counts a vote. `Err` with the earlier digest if the voter said something else before: evidence.
    pub fn add(&mut self, who: ReplicaId, vote: &Vote) -> Result<bool, Digest> {
        match self.by.get(&who) {
            None => {
                self.by.insert(who, (vote.digest, vote.signature));
                Ok(true)
            }
            Some((digest, _)) if *digest == vote.digest => Ok(false),
            Some((digest, _)) => Err(*digest),
        }
    }

    /// Who voted for `digest`.
    pub fn voters(&self, digest: &Digest) -> VoteSet {
        self.by.iter().filter(|(_, (d, _))| d == digest).map(|(r, _)| *r).collect()
    }

    /// What `who` voted for.
    pub fn of(&self, who: ReplicaId) -> Option<(Digest, Signature)> {
        self.by.get(&who).copied()
    }

    /// The digest that a quorum voted for.
    pub fn winner(&self, quorum: Quorum) -> Option<Digest> {
        self.by.values().map(|(d, _)| *d).find(|d| quorum.reached_by(self.voters(d)))
    }

    /// The certificate of those who voted for `digest`; without signatures in crash mode.
    pub fn certificate(&self, view: View, seq: Seq, digest: Digest, signed: bool) -> Certificate {
        let signatures =
            self.by.iter().filter(|(_, (d, _))| signed && *d == digest).map(|(r, (_, s))| (*r, *s)).collect();
        Certificate { view, seq, digest, signatures }
    }
}

/// A decision and how it is known.
#[derive(Clone, Debug)]
pub struct Decision {
    /// ACCEPT certificate as collected; its signatures are checked when it is shown to somebody.
    pub certificate: Certificate,
    /// The batch.
    pub batch: Arc<Batch>,
    /// Signatures that do not verify have been taken out.
    pub checked: bool,
}

/// One place.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// In the current view.
    pub proposal: Option<Proposal>,
    /// WRITEs of the current view.
    pub writes: Votes,
    /// ACCEPTs of the current view.
    pub accepts: Votes,
    /// Our WRITE of the current view left.
    pub wrote: bool,
    /// Our Prepared record of the current view is in the log (perhaps not yet durable).
    pub prepared: bool,
    /// Batches in hand.
    pub batches: BTreeMap<Digest, Arc<Batch>>,
    /// Batches asked for, and when.
    pub wanted: BTreeMap<Digest, Tick>,
    /// Who was asked for them last.
    pub asked: BTreeMap<Digest, ReplicaId>,
    /// Decided.
    pub decision: Option<Decision>,
    /// When its batch was last sent to whom on demand.
    pub shown: BTreeMap<ReplicaId, Tick>,
    /// Who claims, without proof, that something was decided here.
    pub claims: BTreeMap<ReplicaId, Digest>,
}

impl Slot {
    /// Forgets votes and proposal; batches and decision stay.
    pub fn enter_view(&mut self) {
        self.proposal = None;
        self.writes = Votes::default();
        self.accepts = Votes::default();
        self.wrote = false;
        self.prepared = false;
        self.wanted.clear();
        self.asked.clear();
    }

    /// The batch with this digest, if in hand.
    pub fn batch(&self, digest: &Digest) -> Option<&Arc<Batch>> {
        match &self.decision {
            Some(d) if d.certificate.digest == *digest => Some(&d.batch),
            _ => self.batches.get(digest),
        }
    }
}
