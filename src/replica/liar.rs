//! A replica that lies on purpose: only in builds with the feature `adversary`.
//!
//! What the order stage hands to the net passes through a strategy of the simulator's catalogue, and so do replies on their way from
//! the execute stage. Batches that the fetch thread sends leave as they are.

use crate::service::{Context, PageSource, QueryReply, RestoreError, Service, Snapshot};
use crate::sim::adversary::catalogue::Row;
use crate::sim::adversary::{Adversary, Power};
use crate::sim::random::Random;
use crate::types::{Digest, DigestAlgorithm, ReplicaId};
use crate::wire::auth::{Authenticated, Checked};
use crate::wire::messages::{Message, ReadReply, Reply};
use bytes::Bytes;
use std::io::Read;

/// The strategy, what it may use, and what it draws from.
pub struct Liar {
    strategy: Box<dyn Adversary>,
    power: Power,
    random: Random,
}

impl Liar {
    /// Plays this row of the catalogue.
    pub fn new(row: &Row, power: Power, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self { strategy: (row.build)(&mut random), power, random }
    }

    /// What leaves instead of `message`, and to whom.
    pub fn sends(&mut self, to: ReplicaId, message: Message) -> Vec<(ReplicaId, Message)> {
        let mut out = Vec::new();
        self.strategy.sends(&self.power, to, message, &mut self.random, &mut out);
        out.retain(|(r, _)| *r != self.power.auth.me && self.power.auth.members.contains(*r));
        out
    }

    /// A message of another replica arrived: strategies look at votes, reports and wishes.
    pub fn hears(&mut self, message: &Authenticated<Checked>) {
        let heard = match message.message() {
            Checked::Write(m) => Message::Write(*m),
            Checked::Accept(m) => Message::Accept(*m),
            Checked::Mark(m) => Message::Mark(*m),
            Checked::Stop(m) => Message::Stop(*m),
            Checked::Status(m) => Message::Status(*m),
            Checked::StopData(m) => Message::StopData(m.clone()),
            Checked::Sync(m) => Message::Sync(m.clone()),
            _ => return,
        };
        self.strategy.hears(message.sender(), &heard);
    }

    /// What a client is told in place of these.
    pub fn replies(&mut self, replies: &mut Vec<Reply>) {
        self.strategy.replies(replies);
    }

    /// And of what it reads.
    pub fn reads(&mut self, reply: &mut ReadReply) {
        self.strategy.reads(&self.power, reply);
    }
}

/// The service of a replica that plays this row.
pub fn service(row: &Row, service: Box<dyn Service>) -> Box<dyn Service> {
    match (row.build)(&mut Random::new(0)).diverges() {
        true => Box::new(Divergent(service)),
        false => service,
    }
}

/// A service as another version of it might be: every result is longer by one byte.
struct Divergent(Box<dyn Service>);

impl Service for Divergent {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        [&self.0.execute(context, operation)[..], b"!"].concat().into()
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        self.0.query(operation)
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.0.snapshot()
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        self.0.restore(input)
    }

    fn restore_pages(
        &mut self,
        header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        self.0.restore_pages(header, count, source)
    }

    fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        self.0.digest(algorithm)
    }
}
