//! A simulated client that reads beside the order: of the leader in crash mode, of a quorum otherwise (RULES 9).

use super::operations::KEYS;
use super::random::Random;
use crate::client::reply_votes::{ReadCount, ReadVotes};
use crate::quorum::Group as Members;
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::ReadReply;
use bytes::Bytes;

/// Milliseconds after which it asks again.
const RETRY_MS: u64 = 30;

struct Reading {
    key: u8,
    /// The event in which it was first asked.
    called: u64,
    /// The question asked last.
    token: u64,
    asked: Tick,
    full_from: ReplicaId,
    votes: ReadVotes,
}

/// One reader: a read at a time.
pub struct Reader {
    members: Members,
    hasher: Hasher,
    left: u64,
    reading: Option<Reading>,
}

/// What was read, as the checker wants it.
pub struct Read {
    /// The key.
    pub key: u8,
    /// The event in which it was first asked.
    pub called: u64,
    /// The store's reply.
    pub reply: Bytes,
}

impl Reader {
    /// One that wants so many reads.
    pub fn new(members: Members, hasher: Hasher, left: u64) -> Self {
        Self { members, hasher, left, reading: None }
    }

    /// Whether it has read all that it wanted.
    pub fn content(&self) -> bool {
        self.left == 0 && self.reading.is_none()
    }

    /// What is asked now, of whom: nothing while an answer may still come.
    pub fn act(
        &mut self,
        now: Tick,
        event: u64,
        token: u64,
        random: &mut Random,
    ) -> Option<(u8, Vec<ReplicaId>)> {
        let (key, called) = match &self.reading {
            Some(r) if now.since(r.asked) < RETRY_MS * 1_000_000 => return None,
            Some(r) => (r.key, r.called),
            None if self.left == 0 => return None,
            None => {
                self.left -= 1;
                (random.below(u64::from(KEYS)) as u8, event)
            }
        };
        // In crash mode anybody: whoever does not lead refuses, and two may believe that they do.
        let full_from = ReplicaId(random.below(u64::from(self.members.n())) as u32);
        let votes = ReadVotes::default();
        self.reading = Some(Reading { key, called, token, asked: now, full_from, votes });
        let all = || self.members.members().collect();
        Some((key, if self.members.byzantine() { all() } else { vec![full_from] }))
    }

    /// Whoever was asked does not lead: another is asked at once.
    pub fn refused(&mut self, token: u64) {
        if let Some(r) = self.reading.as_mut().filter(|r| r.token == token) {
            r.asked = Tick(0);
        }
    }

    /// An answer arrived; the read, if that ends it.
    pub fn answer(&mut self, from: ReplicaId, mut answer: ReadReply) -> Option<Read> {
        let r = self.reading.as_mut().filter(|r| r.token == answer.id)?;
        let reply = if self.members.byzantine() {
            if from != r.full_from {
                answer.result = None;
            }
            match r.votes.add(self.members, &self.hasher, from, r.full_from, answer, true) {
                ReadCount::Decided(reply) => reply,
                ReadCount::Waiting => return None,
                ReadCount::Ordered => {
                    r.asked = Tick(0);
                    return None;
                }
            }
        } else {
            answer.result?
        };
        let Reading { key, called, .. } = self.reading.take()?;
        Some(Read { key, called, reply })
    }
}
