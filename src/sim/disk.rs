//! A replica's log device: what was appended, what is durable, what a crash leaves.

use super::random::Random;
use crate::order::record::{Encoded, OrderRecord};
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
    /// What is read in place of it.
    rotten: Option<Bytes>,
}

impl Stored {
    fn decode(&self) -> OrderRecord {
        OrderRecord::decode(self.kind, self.seq, self.view, self.digest, self.payload.clone())
            .expect("own record decodes")
    }

    /// Whether it holds a batch.
    fn has_batch(&self) -> bool {
        matches!(self.kind, 3 | 6)
    }

    /// Whether it says that its place was prepared.
    fn is_vote(&self) -> bool {
        matches!(self.kind, 3 | 4)
    }
}

/// How much of a record's payload rots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rot {
    /// One byte.
    Byte,
    /// A sector of it.
    Sector,
    /// All.
    All,
}

/// A record as a scan finds it.
pub enum Read {
    /// As it was appended.
    Whole(OrderRecord),
    /// Its header, and other bytes than were appended.
    Damaged(u8, Seq, View, Digest, Bytes),
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
        let Encoded { kind, seq, view, digest, .. } = e;
        self.records.push(Stored { kind, seq, view, digest, payload, rotten: None });
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
    pub fn scan(&self) -> impl Iterator<Item = Read> {
        self.left().map(|r| match &r.rotten {
            None => Read::Whole(r.decode()),
            Some(bytes) => Read::Damaged(r.kind, r.seq, r.view, r.digest, bytes.clone()),
        })
    }

    fn left(&self) -> impl Iterator<Item = &Stored> {
        self.records.iter().skip(self.first.0 as usize - 1)
    }

    /// The records that can be read.
    pub fn read(&self) -> impl Iterator<Item = OrderRecord> {
        self.left().filter(|r| r.rotten.is_none()).map(Stored::decode)
    }

    /// The batch in record `lsn`, if it is durable and as it was appended.
    pub fn batch(&self, lsn: Lsn) -> Option<Bytes> {
        let at = lsn.0 as usize - 1;
        if at >= self.durable || lsn < self.first || self.records[at].rotten.is_some() {
            return None;
        }
        match self.records[at].decode() {
            OrderRecord::Prepared { batch, .. } | OrderRecord::Batch { batch, .. } => Some(batch),
            other => panic!("record {lsn} holds no batch: {other:?}"),
        }
    }

    /// Durable records whose payload can rot, by their numbers, with their places.
    pub fn perishable(&self) -> Vec<(usize, Seq)> {
        let durable = self.records.iter().enumerate().take(self.durable).skip(self.first.0 as usize - 1);
        let can = durable.filter(|(_, r)| r.rotten.is_none() && (r.has_batch() || r.is_vote()));
        can.map(|(at, r)| (at, r.seq)).collect()
    }

    /// Whether this disk holds all that record `at` of `other` tells, or more: its batch, and a vote of its view or a later one.
    pub fn covers(&self, other: &Disk, at: usize) -> bool {
        let of = &other.records[at];
        let whole = || {
            let durable = self.records.iter().take(self.durable).skip(self.first.0 as usize - 1);
            durable.filter(|r| r.rotten.is_none() && r.seq == of.seq)
        };
        let batch = || whole().any(|r| r.has_batch() && r.digest == of.digest);
        let vote = || whole().any(|r| r.is_vote() && r.view >= of.view);
        !self.rotten && (!of.has_batch() || batch()) && (!of.is_vote() || vote())
    }

    /// The payload of record `at` rots.
    pub fn rot_record(&mut self, at: usize, rot: Rot, random: &mut Random) {
        let record = &mut self.records[at];
        let mut bytes = record.payload.to_vec();
        let (first, len) = match rot {
            Rot::Byte => (random.below(bytes.len() as u64) as usize, 1),
            Rot::Sector => (random.below(bytes.len().div_ceil(512) as u64) as usize * 512, 512),
            Rot::All => (0, bytes.len()),
        };
        bytes.iter_mut().skip(first).take(len).for_each(|byte| *byte ^= 1 + random.below(255) as u8);
        record.rotten = Some(bytes.into());
    }

    /// Records whose payload rotted.
    pub fn rotten_records(&self) -> usize {
        self.left().filter(|r| r.rotten.is_some()).count()
    }

    /// All of it, for tests.
    pub fn records(&self) -> Vec<OrderRecord> {
        self.read().collect()
    }
}
