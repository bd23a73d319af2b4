//! [core] From the log's records to an [`Orderer`].
//!
//! Only what a mark covers is executed from the log (RULES 8); places above it wait for the group: a decision, or a
//! view change that chooses them again.

use super::durable::{Base, DurableState, Impossible};
use super::interface::{Now, OrderConfig};
use super::orderer::Orderer;
use super::record::OrderRecord;
use super::repair::Lost;
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::batch::Batch;
use crate::wire::messages::{Certificate, MarkStatement, StateCertificate};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads records in order and hands out what may be executed.
pub struct Replay {
    auth: Authenticator,
    durable: DurableState,
    checkpoint: Base,
    first: Lsn,
    next_lsn: Lsn,
    handed_out: Seq,
    batches: BTreeMap<(Seq, Digest), Bytes>,
    /// No state is there that the log could lead on from.
    hollow: bool,
}

/// Why a log cannot be restored.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// A record contradicts an earlier one.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// A batch is not what its record says.
    #[error("place {0}: the batch in the log does not have its digest")]
    Batch(Seq),
    /// No view was ever entered: `init` did not finish.
    #[error("the log names no view: `init` did not finish")]
    NoView,
    /// The first records are gone, and nothing tells what they said.
    #[error("the log begins at record {0}, and no record in it tells what stood before")]
    NoControl(Lsn),
    /// What was restored and executed is not what a quorum had.
    #[error("executed up to place {0}, the state gives other replies than a quorum's mark says")]
    Replies(Seq),
    /// A checkpoint of another log.
    #[error("the checkpoint of place {0} comes from another history than the log")]
    Other(Seq),
    /// The log goes on from a state that came from others, and the checkpoint of it is gone.
    #[error(
        "the log goes on from a checkpoint of place {base} that came from others, and the newest that can be read is of place {checkpoint}"
    )]
    Gap {
        /// Where the checkpoint ends.
        checkpoint: Seq,
        /// Where the log goes on.
        base: Seq,
    },
    /// A checkpoint of another log, or this log lost its end.
    #[error("the checkpoint of place {checkpoint} lies ahead of the log, whose last mark is of place {mark}")]
    Ahead {
        /// Where the checkpoint ends.
        checkpoint: Seq,
        /// The log's mark.
        mark: Seq,
    },
}

impl Replay {
    /// Before record `first`, the first that the log still has; everything up to `checkpoint` is executed.
    pub fn new(auth: Authenticator, checkpoint: Base, first: Lsn) -> Self {
        let begins = first == Lsn(1);
        let base = if begins { Base::default() } else { checkpoint };
        let durable = DurableState::new(auth.hasher, base, first);
        let (handed_out, batches) = (checkpoint.seq, BTreeMap::new());
        Self { auth, durable, checkpoint, first, next_lsn: first, handed_out, batches, hollow: false }
    }

    /// Of a log whose checkpoints are all lost: what was voted and promised is known, and nothing is executed. The core asks others
    /// for their state.
    pub fn hollow(auth: Authenticator, first: Lsn) -> Self {
        let base = if first == Lsn(1) { Base::default() } else { Base::ANYWHERE };
        let durable = DurableState::new(auth.hasher, base, first);
        let (checkpoint, handed_out, batches) = (base, Seq(0), BTreeMap::new());
        Self { auth, durable, checkpoint, first, next_lsn: first, handed_out, batches, hollow: true }
    }

    /// Takes the next record; gives the batches that a mark now covers, in sequence.
    pub fn record(&mut self, record: &OrderRecord) -> Result<Vec<Batch>, RestoreError> {
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        self.durable.apply(lsn, record)?;
        match record {
            OrderRecord::Prepared { certificate: c, batch } => {
                self.batches.insert((c.seq, c.digest), batch.clone());
            }
            OrderRecord::Batch { seq, digest, batch } => {
                self.batches.insert((*seq, *digest), batch.clone());
            }
            _ => {}
        }
        self.ready()
    }

    /// Takes the next record, of which only the header can be read (`payload` is what stands behind it). `false`: the log is nothing
    /// without it.
    pub fn damaged(
        &mut self,
        kind: u8,
        seq: Seq,
        view: View,
        digest: Digest,
        payload: &Bytes,
    ) -> Result<bool, RestoreError> {
        let Some(lost) = Lost::of(&self.auth, kind, seq, view, digest, payload) else { return Ok(false) };
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        self.durable.lose(lsn, lost)?;
        Ok(true)
    }

    /// Takes the next decision on record in the durability layer's log, after all of this log's records; gives the batches that
    /// a mark covers, in sequence. A certificate without votes says that a mark was the proof.
    pub fn decision(&mut self, certificate: Certificate, batch: Bytes) -> Result<Vec<Batch>, RestoreError> {
        let (seq, digest) = (certificate.seq, certificate.digest);
        self.durable.holds(seq, digest);
        let voters = certificate.signatures.iter().map(|(r, _)| *r).collect();
        let members = self.auth.members;
        if certificate.view != View(0) && (!members.byzantine() || members.quorum().reached_by(voters)) {
            self.durable.decided(certificate);
        }
        self.batches.insert((seq, digest), batch);
        self.ready()
    }

    /// This start is a restart, and votes were not durable: see [`DurableState::forget`].
    pub fn forget(&mut self) {
        self.durable.forget(self.auth.limits.window);
    }

    fn ready(&mut self) -> Result<Vec<Batch>, RestoreError> {
        let mut ready = Vec::new();
        while !self.hollow
            && let Some(digest) = self.durable.digest(self.handed_out.next())
        {
            let seq = self.handed_out.next();
            let noop = Batch::noop(&self.auth.hasher, seq);
            let batch = match self.batches.get(&(seq, digest)) {
                Some(bytes) => Batch::decode(&self.auth.hasher, seq, bytes.clone())
                    .ok()
                    .filter(|b| b.digest == digest)
                    .ok_or(RestoreError::Batch(seq))?,
                None if noop.digest == digest => noop,
                None => break,
            };
            self.handed_out = seq;
            ready.push(batch);
        }
        let keep_from = (self.handed_out.next(), Digest::ZERO);
        if self.batches.first_key_value().is_some_and(|(k, _)| *k < keep_from) {
            self.batches = self.batches.split_off(&keep_from);
        }
        // Behind a hole the core reads its own log again: no more is kept than the window above hole and mark.
        let (marked, window) = (self.durable.mark.statement.seq, self.auth.limits.window);
        if self.batches.len() as u64 > 4 * window {
            let near = self.handed_out.0 + window;
            self.batches.retain(|(seq, _), _| seq.0 <= near || *seq > marked);
        }
        Ok(ready)
    }

    /// Whether nothing is handed out, because there is no state to go on from.
    pub fn is_hollow(&self) -> bool {
        self.hollow
    }

    /// Everything handed out has been executed up to here.
    pub fn handed_out(&self) -> Seq {
        self.handed_out
    }

    /// The certificate of a state that came from others, whose checkpoint is the one read, and which the log does not know yet: its
    /// record is to be appended. `None` if the log knows it.
    pub fn transferred(&mut self, state: StateCertificate) -> Result<Option<OrderRecord>, RestoreError> {
        let MarkStatement { seq, batches, .. } = state.statement;
        let named = self.checkpoint == Base { seq, batches } && self.auth.state_ok(&state);
        if !named || seq <= self.durable.mark.statement.seq {
            return Ok(None);
        }
        let record = OrderRecord::Transferred { state };
        self.record(&record)?;
        self.batches = self.batches.split_off(&(seq.next(), Digest::ZERO));
        Ok(Some(record))
    }

    /// The durable state so far.
    pub fn durable(&self) -> &DurableState {
        &self.durable
    }

    /// Whether a log with these records is that of a replica that has yet to vote again (RULES 7).
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn awaits_view(records: impl Iterator<Item = OrderRecord>) -> bool {
        records.fold(false, |awaits, record| match record {
            OrderRecord::Learner => true,
            OrderRecord::ViewEntered { .. } => false,
            // The first records may be gone.
            OrderRecord::Control(c) => c.learner || c.rejoined == Some(c.view),
            _ => awaits,
        })
    }

    /// The core, ready for its first input. All that was handed out is executed.
    pub fn finish(self, config: OrderConfig, now: Now) -> Result<Orderer, RestoreError> {
        self.check()?;
        let mut batches = Vec::new();
        let marked = self.durable.mark.statement.seq;
        for ((seq, digest), bytes) in self.batches {
            let batch = Batch::decode(&self.auth.hasher, seq, bytes)
                .ok()
                .filter(|b| b.digest == digest)
                .ok_or(RestoreError::Batch(seq))?;
            if !self.hollow || seq > marked {
                batches.push(Arc::new(batch));
            }
        }
        let executed = if self.hollow { self.durable.base().seq } else { self.handed_out };
        let core = Orderer::new(self.auth, config, self.durable, self.next_lsn, executed, batches, now);
        Ok(if self.hollow { core.without_state() } else { core })
    }

    /// Whether log and checkpoint are of one history, now that all records were taken.
    pub fn check(&self) -> Result<(), RestoreError> {
        if !self.durable.known {
            return Err(RestoreError::NoControl(self.first));
        }
        if self.durable.view == View(0) && !self.durable.learner {
            return Err(RestoreError::NoView);
        }
        if self.hollow {
            return Ok(());
        }
        let (checkpoint, mark) = (self.checkpoint, self.durable.mark.statement.seq);
        if checkpoint.seq > mark {
            return Err(RestoreError::Ahead { checkpoint: checkpoint.seq, mark });
        }
        let base = self.durable.base().seq;
        if checkpoint.seq < base {
            return Err(RestoreError::Gap { checkpoint: checkpoint.seq, base });
        }
        if self.durable.history(checkpoint.seq) != Some(checkpoint.batches) {
            return Err(RestoreError::Other(checkpoint.seq));
        }
        Ok(())
    }
}

/// What `init` appends to a fresh log: view 1 is entered, and no vote of it was ever sent (reserve 0).
pub fn first_record() -> OrderRecord {
    OrderRecord::ViewEntered { view: View::FIRST, reserve: Seq(0) }
}

/// What `recover` appends to a fresh log that stands in place of a lost one.
pub fn learner_record() -> OrderRecord {
    OrderRecord::Learner
}
