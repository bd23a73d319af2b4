//! [core] Serves states to replicas that lack them: one session each, only as fast as its connection drains, all together within a
//! bound on bytes per second.
//!
//! A session pins the state it is about until its leecher ends it or has been silent for [`LEASE_NS`]. It never sends a chunk twice
//! unless told that it was lost; what a leecher can make this replica send is what it can take, within the bound.

use super::image::Image;
use super::messages::{Message, NODES_MAX};
use super::packing::{LINK_MAX, Packer};
use super::ranges::RangeSet;
use crate::types::*;
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// States kept besides those that sessions pin.
const KEPT: usize = 2;
/// A session whose leecher says nothing for so long does not pin its state any more.
const LEASE_NS: u64 = 60_000_000_000;
/// Bytes handed to a connection before it says that it has room again.
const AHEAD_BYTES: u64 = 1 << 20;
/// Bytes taken from the state at once, however well they are compressed: the thread has others to serve.
const TURN_BYTES: usize = 4 << 20;
/// A connection that is alive has drained what it was handed within this, or loses it.
const DRAIN_NS: u64 = 60_000_000_000;
/// Ranges that one leecher may have queued.
const QUEUE_MAX: usize = 1 << 16;
/// Chunks passed over at once that were sent before.
const SKIPS_MAX: usize = 1 << 16;
/// What the bound lets pass at once.
const BURST_NS: u64 = 50_000_000;

/// A state with its certificate.
pub struct Offered {
    /// Names it.
    pub mark: StateCertificate,
    /// It.
    pub image: Arc<Image>,
    manifest: OnceLock<Bytes>,
}

struct Session {
    offered: Arc<Offered>,
    queue: VecDeque<Range<u64>>,
    /// One bit for each chunk.
    sent: Vec<u64>,
    /// Handed over since the connection last had room.
    ahead: u64,
    /// When it last was.
    handed: Tick,
    heard: Tick,
    bytes: u64,
    /// If it takes compressed chunks.
    packer: Option<Packer>,
    /// Its link drained what it was handed faster than a compressor gives.
    fast: bool,
}

impl Session {
    fn bit(chunk: u64) -> (usize, u64) {
        ((chunk / 64) as usize, 1 << (chunk % 64))
    }

    /// The next chunk to send. Gives up after a while of chunks that were sent before: the next tick goes on.
    fn next(&mut self) -> Option<u64> {
        for _ in 0..SKIPS_MAX {
            let range = self.queue.front_mut()?;
            let chunk = range.start;
            let (word, bit) = Self::bit(chunk);
            let Some(sent) = self.sent.get_mut(word) else {
                // Beyond the last is nobody's.
                self.queue.pop_front();
                continue;
            };
            range.start += 1;
            if range.is_empty() {
                self.queue.pop_front();
            }
            if *sent & bit == 0 {
                *sent |= bit;
                return Some(chunk);
            }
        }
        None
    }

    fn forget(&mut self, chunk: u64) {
        let (word, bit) = Self::bit(chunk);
        if let Some(sent) = self.sent.get_mut(word) {
            *sent &= !bit;
        }
    }

    /// Pieces can be many more than there were ranges: what does not fit any more is given up, and asked for again.
    fn cancel(&mut self, ranges: &[Range<u64>]) {
        let gone: RangeSet = ranges.iter().cloned().collect();
        let mut left = VecDeque::new();
        for have in self.queue.drain(..) {
            let mut start = have.start;
            for gone in gone.touching(&have) {
                if left.len() >= QUEUE_MAX {
                    break;
                }
                if start < gone.start {
                    left.push_back(start..gone.start);
                }
                start = gone.end;
            }
            if left.len() < QUEUE_MAX && start < have.end {
                left.push_back(start..have.end);
            }
        }
        self.queue = left;
    }
}

/// One replica's serving side.
#[derive(Default)]
pub struct Seeder {
    kept: VecDeque<Arc<Offered>>,
    sessions: BTreeMap<ReplicaId, Session>,
    /// Most bytes per second, whatever happens; 0: no bound.
    bytes_per_second_max: u64,
    /// Most at the moment; 0: no bound.
    bytes_per_second: u64,
    /// What the bound allows at the moment, bytes.
    allowance: f64,
    counted: Tick,
    /// Bytes of chunks sent, to all, since the start.
    sent: u64,
}

/// What one session sends, for `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Serving {
    /// To whom.
    pub to: ReplicaId,
    /// The state of which place.
    pub seq: Seq,
    /// Sent so far.
    pub bytes: u64,
}

impl Seeder {
    /// Sends at most so many bytes per second; 0: no bound.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second_max: bytes_per_second, bytes_per_second, ..Self::default() }
    }

    /// Sends at most so many bytes per second from now on, and never more than what [`Seeder::new`] was told; `None`: only that.
    pub fn yields(&mut self, now: Tick, bytes_per_second: Option<u64>) {
        let most = match self.bytes_per_second_max {
            0 => u64::MAX,
            most => most,
        };
        let bound = bytes_per_second.map_or(most, |rate| rate.clamp(1, most));
        self.fill(now);
        self.bytes_per_second = if bound == u64::MAX { 0 } else { bound };
    }

    /// Bytes of chunks sent, to all, since the start.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// A quorum named a state that this replica has.
    pub fn offer(&mut self, mark: StateCertificate, image: Arc<Image>) {
        self.kept.retain(|kept| kept.mark.statement.seq != mark.statement.seq);
        self.kept.push_back(Arc::new(Offered { mark, image, manifest: OnceLock::new() }));
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// The newest state there is.
    pub fn newest(&self) -> Option<Seq> {
        self.kept.back().map(|o| o.mark.statement.seq)
    }

    /// What is being sent.
    pub fn serving(&self) -> impl Iterator<Item = Serving> {
        self.sessions.iter().map(|(to, s)| Serving {
            to: *to,
            seq: s.offered.mark.statement.seq,
            bytes: s.bytes,
        })
    }

    fn find(&self, seq: Seq, from: ReplicaId) -> Option<Arc<Offered>> {
        let pinned = self.sessions.get(&from).map(|s| &s.offered);
        self.kept.iter().chain(pinned).find(|o| o.mark.statement.seq == seq).cloned()
    }

    /// What is kept is offered to nobody any more; those that are being sent a state still get it.
    pub fn retire(&mut self) {
        self.kept.clear();
    }

    /// What is kept is wrong: it is offered to nobody, and those who fetch it are told that it is gone.
    pub fn withdraw(&mut self) {
        self.kept.clear();
        self.sessions.clear();
    }

    /// Takes a leecher's message; what is to be sent to it is appended to `out`.
    pub fn on_message(&mut self, now: Tick, from: ReplicaId, message: Message, out: &mut Vec<Message>) {
        if let Some(session) = self.sessions.get_mut(&from) {
            session.heard = now;
        }
        match message {
            Message::Ask => {
                // It begins anew, and may have lost all it was sent.
                if let Some(session) = self.sessions.get_mut(&from) {
                    session.queue.clear();
                    session.sent.fill(0);
                }
                let marks = self.kept.iter().rev().map(|o| o.mark.clone()).collect();
                out.push(Message::Offer(marks));
            }
            Message::GetManifest(seq) => match self.open(now, seq, from) {
                Some(session) => {
                    let offered = &session.offered;
                    let manifest = offered.manifest.get_or_init(|| offered.image.manifest().encode()).clone();
                    session.ahead += manifest.len() as u64;
                    out.push(Message::Manifest { seq, manifest });
                }
                None => out.push(Message::Gone(seq)),
            },
            Message::GetDigests { seq, part, first, nodes } => match self.open(now, seq, from) {
                Some(session) => {
                    let digests = session.offered.image.digests(part, first, nodes.min(NODES_MAX));
                    session.ahead += 32 * digests.len() as u64;
                    out.push(Message::Digests { seq, part, first, digests });
                }
                None => out.push(Message::Gone(seq)),
            },
            Message::GetChunks { seq, ranges, replace, packed, again, .. } => match self.open(now, seq, from)
            {
                Some(session) => {
                    if replace {
                        session.queue.clear();
                    }
                    match packed {
                        true => _ = session.packer.get_or_insert_default(),
                        false => session.packer = None,
                    }
                    again.into_iter().for_each(|chunk| session.forget(chunk));
                    let room = QUEUE_MAX.saturating_sub(session.queue.len());
                    session.queue.extend(ranges.into_iter().take(room));
                    self.feed(now, from, out);
                }
                None => out.push(Message::Gone(seq)),
            },
            Message::Cancel { seq, ranges } => {
                if let Some(session) = self.session(from, seq) {
                    session.cancel(&ranges);
                }
            }
            Message::End(seq) => {
                if self.session(from, seq).is_some() {
                    self.sessions.remove(&from);
                }
            }
            Message::Offer(_)
            | Message::Manifest { .. }
            | Message::Digests { .. }
            | Message::Chunk { .. }
            | Message::Packed { .. }
            | Message::Gone(_) => {}
        }
    }

    fn session(&mut self, from: ReplicaId, seq: Seq) -> Option<&mut Session> {
        self.sessions.get_mut(&from).filter(|s| s.offered.mark.statement.seq == seq)
    }

    /// The leecher's session about this state, a new one if it was about another.
    fn open(&mut self, now: Tick, seq: Seq, from: ReplicaId) -> Option<&mut Session> {
        let offered = self.find(seq, from)?;
        let ahead = self.sessions.get(&from).map_or(0, |s| s.ahead);
        if self.session(from, seq).is_none() {
            let words = offered.image.chunks().div_ceil(64) as usize;
            let (queue, sent) = (VecDeque::new(), vec![0; words]);
            let session = Session {
                offered,
                queue,
                sent,
                ahead,
                handed: now,
                heard: now,
                bytes: 0,
                packer: None,
                fast: false,
            };
            self.sessions.insert(from, session);
        }
        self.sessions.get_mut(&from)
    }

    /// Its connection has room again.
    pub fn room(&mut self, now: Tick, from: ReplicaId, out: &mut Vec<Message>) {
        if let Some(session) = self.sessions.get_mut(&from) {
            let drained = u128::from(session.ahead) * 1_000_000_000;
            session.fast = drained > u128::from(LINK_MAX) * u128::from(now.since(session.handed));
            session.ahead = 0;
            self.feed(now, from, out);
        }
    }

    /// A connection is new: what was on its way is lost, which the leecher finds out.
    pub fn connected(&mut self, from: ReplicaId) {
        if let Some(session) = self.sessions.get_mut(&from) {
            session.ahead = 0;
            session.queue.clear();
        }
    }

    fn feed(&mut self, now: Tick, from: ReplicaId, out: &mut Vec<Message>) {
        self.fill(now);
        let Some(session) = self.sessions.get_mut(&from) else { return };
        let seq = session.offered.mark.statement.seq;
        let mut taken = 0;
        while session.ahead < AHEAD_BYTES
            && taken < TURN_BYTES
            && (self.bytes_per_second == 0 || self.allowance > 0.0)
        {
            let Some(chunk) = session.next() else { break };
            let mut bytes = Vec::new();
            if !session.offered.image.chunk(chunk, &mut bytes) {
                if session.offered.image.is_free(chunk) {
                    continue;
                }
                // It could not be read: the others first, and it again at the next tick.
                session.forget(chunk);
                session.queue.push_back(chunk..chunk + 1);
                break;
            }
            taken += bytes.len();
            let packed = session.packer.as_mut().filter(|_| !session.fast).and_then(|p| p.pack(&bytes));
            let length = packed.as_ref().map_or(bytes.len(), Bytes::len) as u64;
            session.ahead += length;
            session.handed = now;
            session.bytes += length;
            self.sent += length;
            self.allowance -= length as f64;
            out.push(match packed {
                Some(packed) => Message::Packed { seq, chunk, holds: bytes.len() as u32, bytes: packed },
                None => Message::Chunk { seq, chunk, bytes: bytes.into() },
            });
        }
    }

    fn fill(&mut self, now: Tick) {
        if self.bytes_per_second == 0 {
            // What was sent without a bound is not held against a later one.
            (self.allowance, self.counted) = (0.0, now);
            return;
        }
        let rate = self.bytes_per_second as f64 / 1e9;
        let most = rate * BURST_NS as f64;
        self.allowance = (self.allowance + rate * now.since(self.counted) as f64).min(most);
        self.counted = now;
    }

    /// Time passed: silent leechers lose their pins, and the bound may allow more.
    pub fn tick(&mut self, now: Tick, mut send: impl FnMut(ReplicaId, Vec<Message>)) {
        self.sessions.retain(|_, s| now.since(s.heard) < LEASE_NS);
        // What net threw away for want of room will never drain.
        for session in self.sessions.values_mut().filter(|s| now.since(s.handed) >= DRAIN_NS) {
            session.ahead = 0;
        }
        let waiting: Vec<ReplicaId> =
            self.sessions.iter().filter(|(_, s)| !s.queue.is_empty()).map(|(r, _)| *r).collect();
        for to in waiting {
            let mut out = Vec::new();
            self.feed(now, to, &mut out);
            if !out.is_empty() {
                send(to, out);
            }
        }
    }

    /// Ranges that wait for one leecher.
    #[cfg(test)]
    pub(super) fn queued(&self, of: ReplicaId) -> usize {
        self.sessions.get(&of).map_or(0, |s| s.queue.len())
    }

    /// Whether something waits for the bound, or for the next tick.
    pub fn waits(&self) -> bool {
        self.sessions.values().any(|s| s.ahead < AHEAD_BYTES && !s.queue.is_empty())
    }
}
