//! A replica's log device: what was appended, what is durable, what a crash leaves.

use super::random::Random;
use crate::order::record::OrderRecord;
use crate::types::*;
use bytes::Bytes;
use std::collections::VecDeque;

/// Writes under way at once.
const WRITES_MAX: usize = 4;

/// What a crash does to records whose write was not reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// All gone.
    Lost,
    /// All there.
    Kept,
    /// A random prefix of them is there.
    Torn,
}

struct Stored {
    kind: u8,
    seq: Seq,
    view: View,
    digest: Digest,
    payload: Bytes,
}

struct Write {
    id: u64,
    upto: usize,
    done: bool,
}

/// One log.
pub struct Disk {
    records: Vec<Stored>,
    durable: usize,
    submitted: usize,
    writes: VecDeque<Write>,
    next_write: u64,
    /// Least and most microseconds of a write.
    pub write_us: (u64, u64),
    /// No write completes.
    pub held: bool,
    /// It reports writes that a crash undoes.
    pub lies: bool,
    /// Records below are recycled.
    first: Lsn,
    /// A durable record cannot be read back: bits rotted, or a write went astray and hit it.
    rotten: bool,
}

impl Disk {
    /// An empty log.
    pub fn new(write_us: (u64, u64)) -> Self {
        Self {
            records: Vec::new(),
            durable: 0,
            submitted: 0,
            writes: VecDeque::new(),
            next_write: 0,
            write_us,
            held: false,
            lies: false,
            first: Lsn(1),
            rotten: false,
        }
    }

    /// Queues a record; returns where it lies.
    pub fn append(&mut self, record: &OrderRecord) -> Lsn {
        let e = record.encode();
        let payload = e.payload.concat().into();
        self.records.push(Stored { kind: e.kind, seq: e.seq, view: e.view, digest: e.digest, payload });
        Lsn(self.records.len() as u64)
    }

    /// Begins the next write if there is something to write: its number and duration in microseconds.
    pub fn submit(&mut self, random: &mut Random) -> Option<(u64, u64)> {
        if self.held || self.submitted == self.records.len() || self.writes.len() >= WRITES_MAX {
            return None;
        }
        self.submitted = self.records.len();
        let id = self.next_write;
        self.next_write += 1;
        self.writes.push_back(Write { id, upto: self.submitted, done: false });
        Some((id, random.between(self.write_us.0, self.write_us.1)))
    }

    /// A write completed; the new durable prefix, if it grew. Writes complete in any order.
    pub fn complete(&mut self, id: u64) -> Option<Lsn> {
        if let Some(write) = self.writes.iter_mut().find(|w| w.id == id) {
            write.done = true;
        }
        let before = self.durable;
        while self.writes.front().is_some_and(|w| w.done) {
            self.durable = self.writes.pop_front().expect("just seen").upto;
        }
        (self.durable > before).then_some(Lsn(self.durable as u64))
    }

    /// All that was appended is durable.
    pub fn sync(&mut self) {
        (self.durable, self.submitted) = (self.records.len(), self.records.len());
        self.writes.clear();
    }

    /// Records appended.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Power fails.
    pub fn crash(&mut self, tail: Tail, random: &mut Random) {
        let pending = (self.records.len() - self.durable) as u64;
        let kept = match tail {
            Tail::Lost => 0,
            Tail::Kept => pending,
            Tail::Torn => random.below(pending + 1),
        };
        let lost = if self.lies { random.below(1 + self.durable as u64 / 2) as usize } else { 0 };
        // "View 1 entered" was there before the device began to lie.
        let durable = self.durable.saturating_sub(lost).max(1);
        self.records.truncate(if lost > 0 { durable } else { durable + kept as usize });
        self.durable = self.records.len();
        self.submitted = self.durable;
        self.writes.clear();
    }

    /// Records below are gone.
    pub fn recycle(&mut self, below: Lsn) {
        assert!(below.0 <= self.durable as u64 + 1, "what is not durable is recycled");
        self.first = self.first.max(below);
    }

    /// The first record that is left.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// A durable record can no longer be read.
    pub fn rot(&mut self) {
        self.rotten |= self.durable > 0;
    }

    /// Whether the scan at start refuses: damage below what is known to be durable.
    pub fn is_damaged(&self) -> bool {
        self.rotten
    }

    /// What a scan at start finds.
    pub fn read(&self) -> impl Iterator<Item = OrderRecord> {
        self.records.iter().skip(self.first.0 as usize - 1).map(|r| {
            OrderRecord::decode(r.kind, r.seq, r.view, r.digest, r.payload.clone())
                .expect("own record decodes")
        })
    }

    /// The batch in record `lsn`, if it is durable.
    pub fn batch(&self, lsn: Lsn) -> Option<Bytes> {
        let at = lsn.0 as usize - 1;
        if at >= self.durable || lsn < self.first {
            return None;
        }
        let r = &self.records[at];
        match OrderRecord::decode(r.kind, r.seq, r.view, r.digest, r.payload.clone()) {
            Ok(OrderRecord::Prepared { batch, .. } | OrderRecord::Batch { batch, .. }) => Some(batch),
            other => panic!("record {lsn} holds no batch: {other:?}"),
        }
    }

    /// All of it, for tests.
    pub fn records(&self) -> Vec<OrderRecord> {
        self.read().collect()
    }
}
