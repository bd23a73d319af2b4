//! A replica that lies on purpose: only in builds with the feature `adversary`.
//!
//! What the order stage hands to the net passes through a strategy of the simulator's catalogue. Replies and batches that other
//! threads send leave as they are.

use crate::sim::adversary::catalogue::Row;
use crate::sim::adversary::{Adversary, Power};
use crate::sim::random::Random;
use crate::types::ReplicaId;
use crate::wire::auth::{Authenticated, Checked};
use crate::wire::messages::Message;

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
}
