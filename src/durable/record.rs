//! [sans-I/O] Deliveries as log records, and back.
//!
//! A record holds a whole delivery, or one piece of one ([`Mode::Naive`](super::Mode::Naive) writes a piece per operation):
//!
//! ```text
//! piece u32 | pieces u32 | head length u32 | head (first piece only) | part of the body
//! ```
//!
//! A delivery is there when all its pieces are; a crash can only leave a last one unfinished, which is dropped.

use bytes::{Bytes, BytesMut};

use crate::log::{BLOCK_BYTES, Record, ScannedRecord, align_up, record_bytes};
use crate::types::{Digest, Lsn, Seq, View};

/// The only kind there is.
const KIND_DELIVERY: u8 = 1;
const PREFIX_BYTES: usize = 12;

/// A batch in the host's order, as the log keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its place. Places ascend; one may come again, with other contents too, after a host that was restarted: the last wins.
    pub seq: Seq,
    /// The host's, not looked at.
    pub view: View,
    /// The host's, not looked at.
    pub digest: Digest,
    /// The host's words about the batch, such as its proof.
    pub head: Bytes,
    /// The batch.
    pub body: Bytes,
    /// How many operations it holds: what [`Mode::Naive`](super::Mode::Naive) writes one by one.
    pub operations: usize,
}

impl Delivery {
    /// The most that one of this size takes in the log, as `pieces` records: each alone in its blocks.
    pub(crate) fn log_bytes(head: usize, body: usize, pieces: usize) -> usize {
        let payload = head.saturating_add(body).min(isize::MAX as usize / 2);
        let one = align_up(record_bytes(PREFIX_BYTES + payload), BLOCK_BYTES);
        // What the first one does not hold ends in other blocks: one more begun for each.
        let more = align_up(record_bytes(PREFIX_BYTES), BLOCK_BYTES);
        pieces.saturating_sub(1).saturating_mul(more).saturating_add(one)
    }

    /// As records: one, or `pieces` of about equal size.
    pub(super) fn records(&self, pieces: usize) -> Vec<Record> {
        let pieces = pieces.clamp(1, self.body.len().max(1));
        let cut = |piece: usize| self.body.len() * piece / pieces;
        (0..pieces)
            .map(|piece| {
                let head = if piece == 0 { self.head.clone() } else { Bytes::new() };
                let mut prefix = BytesMut::with_capacity(PREFIX_BYTES);
                for number in [piece, pieces, head.len()] {
                    prefix.extend_from_slice(&(number as u32).to_le_bytes());
                }
                let part = self.body.slice(cut(piece)..cut(piece + 1));
                Record {
                    kind: KIND_DELIVERY,
                    seq: self.seq,
                    view: self.view,
                    digest: self.digest,
                    payload: vec![prefix.freeze(), head, part],
                }
            })
            .collect()
    }
}

/// Whether a record of ours begins its delivery.
pub(super) fn is_first(record: &Record) -> bool {
    record.payload[0][..4] == [0; 4]
}

/// Puts records together again.
#[derive(Default)]
pub(super) struct Assembler {
    /// A delivery begun: first record, pieces expected, pieces so far.
    begun: Option<(Lsn, u32, Vec<ScannedRecord>)>,
    /// Some delivery began here: before that, a log whose beginning was recycled may hold the rest of one.
    whole: bool,
}

/// A delivery with its first record and how many it has.
pub(super) type Assembled = (Lsn, u32, Delivery);

impl Assembler {
    /// Takes the next record; gives the delivery that it ends. Errors: a record that this layer cannot have written.
    pub fn take(&mut self, record: ScannedRecord) -> Result<Option<Assembled>, String> {
        let number = |at: usize| {
            let bytes = record.payload.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(|| "a delivery without its head".to_owned())
        };
        let (piece, pieces, head) = (number(0)?, number(4)?, number(8)? as usize);
        if record.kind != KIND_DELIVERY || piece >= pieces || record.payload.len() < PREFIX_BYTES + head {
            return Err(format!("record {} is no delivery", record.lsn));
        }
        if !self.whole && piece > 0 && record.lsn > Lsn(1) {
            return Ok(None);
        }
        self.whole = true;
        if piece == 0 {
            // One begun before is dropped: its rest was never written.
            self.begun = Some((record.lsn, pieces, Vec::new()));
        }
        let Some((first, of, parts)) = &mut self.begun else {
            return Err(format!("record {} continues no delivery", record.lsn));
        };
        if *of != pieces || parts.len() as u32 != piece {
            return Err(format!("record {} does not continue the delivery before it", record.lsn));
        }
        parts.push(record);
        if parts.len() as u32 != pieces {
            return Ok(None);
        }
        let (first, parts) = (*first, std::mem::take(parts));
        self.begun = None;
        let last = parts.last().expect("it has pieces");
        let (seq, view, digest) = (last.seq, last.view, last.digest);
        let body_at = |i: usize| PREFIX_BYTES + if i == 0 { head_of(&parts[0]) } else { 0 };
        let head = parts[0].payload.slice(PREFIX_BYTES..body_at(0));
        let body = match &parts[..] {
            [whole] => whole.payload.slice(body_at(0)..),
            many => {
                let mut body = BytesMut::new();
                many.iter().enumerate().for_each(|(i, p)| body.extend_from_slice(&p.payload[body_at(i)..]));
                body.freeze()
            }
        };
        let operations = pieces as usize;
        Ok(Some((first, pieces, Delivery { seq, view, digest, head, body, operations })))
    }
}

/// Length of the head in a first piece, whose prefix was checked.
fn head_of(first: &ScannedRecord) -> usize {
    let bytes = first.payload[8..PREFIX_BYTES].try_into().expect("four bytes");
    u32::from_le_bytes(bytes) as usize
}
