//! What the agreement keeps in the log. Kind numbers are never reused.
//!
//! | kind | record | says |
//! |---|---|---|
//! | 1 | `ViewEntered` | the view, and the first vote reserve in it (RULES 1) |
//! | 2 | `Reserve` | WRITEs up to here may have been sent in this view |
//! | 3 | `Prepared` | WRITE certificate (crash mode: the accepted proposal) with its batch |
//! | 4 | `PreparedRef` | the same for a batch that an earlier record of this log holds |
//! | 5 | `Mark` | a certified mark and the batch digests that lead to it (RULES 4) |
//! | 6 | `Batch` | a decided batch learnt from others: no vote of ours |
//! | 7 | `NewEra` | votes forgotten before this count as never cast: an operator said so (RULES 14) |
//! | 8 | `Learner` | the first record of a log in place of a lost one: no vote until `Rejoined` (RULES 7) |
//! | 9 | `Rejoined` | what the lost log held cannot matter in views above this one |
//! | 10 | `Control` | all of the above but batches and marks, so that what lies before may be recycled (RULES 15) |
//! | 11 | `Transferred` | what lies up to this certified place is in a checkpoint that came from others |

use super::control::Control;
use crate::log::Record;
use crate::types::*;
use crate::wire::codec::{Reader, Writer};
use crate::wire::error::DecodeError;
use crate::wire::messages::{Certificate, MarkCertificate, StateCertificate};
use bytes::Bytes;

/// One record.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum OrderRecord {
    ViewEntered { view: View, reserve: Seq },
    Reserve { view: View, reserve: Seq },
    Prepared { certificate: Certificate, batch: Bytes },
    PreparedRef { certificate: Certificate },
    Mark { mark: MarkCertificate, digests: Vec<Digest> },
    Batch { seq: Seq, digest: Digest, batch: Bytes },
    NewEra { era: u64 },
    Learner,
    Rejoined { view: View },
    Control(Box<Control>),
    Transferred { state: StateCertificate },
}

/// A record as the log stores it: header fields and payload parts.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Kind number.
    pub kind: u8,
    /// Place, 0 if none.
    pub seq: Seq,
    /// View, 0 if none.
    pub view: View,
    /// The batch's digest, zero if none.
    pub digest: Digest,
    /// The payload in parts, so that a batch is not copied here.
    pub payload: Vec<Bytes>,
}

impl From<Encoded> for Record {
    fn from(e: Encoded) -> Self {
        Self { kind: e.kind, seq: e.seq, view: e.view, digest: e.digest, payload: e.payload }
    }
}

impl OrderRecord {
    /// Whether it says what a vote or a decision was about: the bulk of the log, and what modes without durable votes leave out.
    pub fn is_vote(&self) -> bool {
        matches!(self, Self::Prepared { .. } | Self::PreparedRef { .. } | Self::Batch { .. })
    }

    /// For the log.
    pub fn encode(&self) -> Encoded {
        let mut w = Writer::default();
        let (kind, seq, view, digest, tail) = match self {
            Self::ViewEntered { view, reserve } => {
                w.u64(reserve.0);
                (1, Seq(0), *view, Digest::ZERO, None)
            }
            Self::Reserve { view, reserve } => {
                w.u64(reserve.0);
                (2, Seq(0), *view, Digest::ZERO, None)
            }
            Self::Prepared { certificate: c, batch } => {
                c.write(&mut w);
                (3, c.seq, c.view, c.digest, Some(batch.clone()))
            }
            Self::PreparedRef { certificate: c } => {
                c.write(&mut w);
                (4, c.seq, c.view, c.digest, None)
            }
            Self::Mark { mark, digests } => {
                mark.write(&mut w);
                digests.iter().for_each(|d| {
                    w.raw(&d.0);
                });
                (5, mark.statement.seq, View(0), mark.statement.batches, None)
            }
            Self::Batch { seq, digest, batch } => (6, *seq, View(0), *digest, Some(batch.clone())),
            Self::NewEra { era } => {
                w.u64(*era);
                (7, Seq(0), View(0), Digest::ZERO, None)
            }
            Self::Learner => (8, Seq(0), View(0), Digest::ZERO, None),
            Self::Rejoined { view } => (9, Seq(0), *view, Digest::ZERO, None),
            Self::Control(control) => {
                control.write(&mut w);
                (10, Seq(0), control.view, Digest::ZERO, None)
            }
            Self::Transferred { state } => {
                state.write(&mut w);
                (11, state.statement.seq, View(0), state.statement.batches, None)
            }
        };
        let mut payload = Vec::with_capacity(2);
        if !w.out.is_empty() {
            payload.push(w.finish());
        }
        payload.extend(tail);
        Encoded { kind, seq, view, digest, payload }
    }

    /// From the log. The log has checked its bytes; this checks their meaning.
    pub fn decode(
        kind: u8,
        seq: Seq,
        view: View,
        digest: Digest,
        payload: Bytes,
    ) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let record = match kind {
            1 => Self::ViewEntered { view, reserve: Seq(r.u64()?) },
            2 => Self::Reserve { view, reserve: Seq(r.u64()?) },
            3 => Self::Prepared { certificate: Certificate::read(&mut r)?, batch: r.rest() },
            4 => Self::PreparedRef { certificate: Certificate::read(&mut r)? },
            5 => {
                let mark = MarkCertificate::read(&mut r)?;
                let mut digests = Vec::with_capacity(r.left() / 32);
                while r.left() > 0 {
                    digests.push(r.digest()?);
                }
                if digests.len() as u64 > mark.statement.seq.0 {
                    return Err(DecodeError::BadValue);
                }
                Self::Mark { mark, digests }
            }
            6 => Self::Batch { seq, digest, batch: r.rest() },
            7 => Self::NewEra { era: r.u64()? },
            8 => Self::Learner,
            9 => Self::Rejoined { view },
            10 => Self::Control(Box::new(Control::read(&mut r)?)),
            11 => Self::Transferred { state: StateCertificate::read(&mut r)? },
            _ => return Err(DecodeError::UnknownKind),
        };
        r.end()?;
        let consistent = match &record {
            Self::Prepared { certificate: c, .. } | Self::PreparedRef { certificate: c } => {
                c.seq == seq && c.view == view && c.digest == digest
            }
            Self::Mark { mark, .. } => mark.statement.seq == seq,
            Self::Transferred { state } => state.statement.seq == seq,
            Self::Control(control) => control.view == view,
            _ => true,
        };
        if consistent { Ok(record) } else { Err(DecodeError::BadValue) }
    }
}
