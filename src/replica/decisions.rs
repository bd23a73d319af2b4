//! Where decided batches are kept in each durability mode, and read back for peers that are behind.
//!
//! | mode | kept | a restarted replica |
//! |---|---|---|
//! | `vote` | in the log, with the vote, before it leaves | votes on |
//! | `parallel`, `batched`, `naive` | in a log of decisions, before the reply leaves | counts as faulty until a mark covers what it may have forgotten |
//! | `async` | in a log of decisions, some time after the reply | the same; the last replies may be undone if more than f crash |
//! | `none` | the last ones, in memory | cannot come back |
//!
//! In all modes views, vote reserves and marks are on disk before what depends on them; a mark waits for the decisions it covers.

use crate::config::Durability;
use crate::durable::{Delivery, DeliveryReader, Mode};
use crate::log::LogReader;
use crate::order::durable::ELSEWHERE;
use crate::order::record::OrderRecord;
use crate::types::*;
use crate::wire::batch::Batch;
use crate::wire::codec::{Reader, Writer};
use crate::wire::messages::Certificate;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of decided batches kept in memory where none is on disk.
pub const RECENT_BYTES_MAX: usize = 64 << 20;

/// A batch to execute, and how it was decided where the log keeps that.
pub struct Decided {
    /// The batch.
    pub batch: Arc<Batch>,
    /// Without votes where a mark is the proof.
    pub certificate: Option<Certificate>,
    /// When it was handed out.
    pub at: Instant,
}

impl Decided {
    /// As the durability layer logs it.
    pub fn delivery(&self) -> Delivery {
        let mut head = Writer::default();
        let view = self.certificate.as_ref().map(|c| c.view).unwrap_or_default();
        if let Some(certificate) = &self.certificate {
            certificate.write(&mut head);
        }
        Delivery {
            seq: self.batch.seq,
            view,
            digest: self.batch.digest,
            head: head.finish(),
            body: self.batch.bytes.clone(),
            operations: self.batch.requests().max(1),
        }
    }
}

/// The certificate in a delivery's head. Errors: the head is not ours.
pub fn certificate_of(delivery: &Delivery) -> Result<Certificate, String> {
    let mut reader = Reader::new(delivery.head.clone());
    let certificate = Certificate::read(&mut reader).and_then(|c| reader.end().map(|()| c));
    match certificate {
        Ok(c) if c.seq == delivery.seq && c.digest == delivery.digest => Ok(c),
        _ => Err(format!("place {}: its certificate cannot be read", delivery.seq)),
    }
}

/// The layer's mode; `None`: the layer has no part in it.
pub fn layer_mode(durability: Durability) -> Option<Mode> {
    match durability {
        Durability::Vote | Durability::None => None,
        Durability::Parallel => Some(Mode::Parallel),
        Durability::Batched => Some(Mode::Batched),
        Durability::Naive => Some(Mode::Naive),
        Durability::Async => Some(Mode::Async),
    }
}

/// The batches decided last, in memory.
#[derive(Default)]
pub struct Recent {
    batches: VecDeque<(Seq, Bytes)>,
    bytes: usize,
}

impl Recent {
    /// Keeps a batch; drops the oldest.
    pub fn add(&mut self, batch: &Batch) {
        self.bytes += batch.bytes.len();
        self.batches.push_back((batch.seq, batch.bytes.clone()));
        while self.bytes > RECENT_BYTES_MAX
            && let Some((_, oldest)) = self.batches.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }

    /// Errors: it was dropped.
    fn get(&self, seq: Seq) -> Result<Option<Bytes>, String> {
        let Some((first, _)) = self.batches.front() else { return Ok(None) };
        let at = seq.0.checked_sub(first.0).ok_or_else(|| {
            format!(
                "it is no longer kept: durability \"none\" keeps {} MiB, and they begin with place {first}",
                RECENT_BYTES_MAX >> 20
            )
        })?;
        Ok(usize::try_from(at).ok().and_then(|at| self.batches.get(at)).map(|(_, batch)| batch.clone()))
    }
}

/// Reads decided batches back.
pub enum Store {
    /// From the log of votes.
    Votes(LogReader),
    /// From the log of decisions.
    Deliveries(DeliveryReader),
    /// From memory.
    Recent(Arc<Mutex<Recent>>),
}

impl Store {
    /// The batch of a place; `lsn` is its record in the log of votes. `Ok(None)`: not kept, or not yet on disk.
    /// Errors: why it cannot be read.
    pub fn batch(&self, seq: Seq, lsn: Lsn) -> Result<Option<Bytes>, String> {
        match self {
            Self::Votes(log) => {
                let r = log.read(lsn).map_err(|e| e.to_string())?;
                match OrderRecord::decode(r.kind, r.seq, r.view, r.digest, r.payload) {
                    Ok(OrderRecord::Prepared { batch, .. } | OrderRecord::Batch { batch, .. }) => {
                        Ok(Some(batch))
                    }
                    _ => Ok(None),
                }
            }
            _ if lsn != ELSEWHERE => Ok(None),
            Self::Deliveries(log) => Ok(log.read(seq).map_err(|e| e.to_string())?.map(|d| d.body)),
            Self::Recent(recent) => recent.lock().get(seq),
        }
    }
}
