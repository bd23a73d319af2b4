//! What a lying replica does: it runs the real core, and each of its messages passes through one of these.
//!
//! One lie per file; [`catalogue`] names them all and says what each must come to. The simulator runs them, and so does a real
//! process (`duramen start --adversary NAME`) of a build with the feature `adversary`.

use super::random::Random;
use crate::types::*;
use crate::wire::auth::{Authenticator, stop_data_bytes, vote_bytes};
use crate::wire::batch::{Batch, Group};
use crate::wire::messages::*;
use std::collections::BTreeMap;

pub mod bad_signer;
pub mod catalogue;
pub mod censor;
pub mod divergent;
pub mod double_voter;
pub mod dribbler;
pub mod equivocator;
pub mod false_replier;
pub mod far_voter;
pub mod flooder;
pub mod late_leader;
pub mod liar;
pub mod mark_liar;
pub mod mutator;
pub mod rebinder;
pub mod replayer;
pub mod reporter;
pub mod seeder_liar;
pub mod silent;
pub mod splitter;
pub mod spoiler;
pub mod sync_forger;
pub mod usurper;
pub mod wisher;
pub mod wrong_voter;

#[cfg(test)]
mod catalogue_tests;
#[cfg(test)]
mod mutations_tests;

/// What a liar can do: use its own keys.
pub struct Power {
    pub auth: Authenticator,
    pub window: u64,
    pub mark_interval: u64,
}

impl Power {
    pub fn vote(&self, kind: VoteKind, view: View, seq: Seq, digest: Digest) -> Vote {
        let bytes = vote_bytes(&self.auth.hasher.cluster, kind, view, seq, &digest);
        Vote { view, seq, digest, signature: self.auth.scheme.sign(&bytes) }
    }

    /// The same vote for another batch.
    pub fn vote_instead(&self, message: Message, digest: Digest) -> Message {
        match message {
            Message::Write(v) => Message::Write(self.vote(VoteKind::Write, v.view, v.seq, digest)),
            Message::Accept(v) => Message::Accept(self.vote(VoteKind::Accept, v.view, v.seq, digest)),
            other => other,
        }
    }

    pub fn sign_stop_data(&self, data: &mut StopData) {
        data.signature = self.auth.scheme.sign(&stop_data_bytes(&self.auth.hasher, data));
    }

    /// What a proposal holds; `None` if that is no batch.
    pub fn batch(&self, p: &Propose) -> Option<(Batch, Vec<(Group, Digest)>)> {
        let batch = Batch::decode(&self.auth.hasher, p.seq, p.batch.clone()).ok()?;
        let groups = batch.groups.iter().cloned().zip(batch.group_digests.iter().copied()).collect();
        Some((batch, groups))
    }
}

/// Rewrites what leaves.
pub trait Adversary: Send {
    /// What leaves instead of `message`; the message itself, unless the lie is another.
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let _ = (power, random);
        out.push((to, message));
    }

    /// What arrives is seen first.
    fn hears(&mut self, _from: ReplicaId, _message: &Message) {}

    /// What a client is told of its requests: it may be changed, and more may be said.
    fn replies(&mut self, _replies: &mut Vec<Reply>) {}

    /// What a client is told that it read beside the order.
    fn reads(&mut self, _power: &Power, _reply: &mut ReadReply) {}

    /// Whether it executes otherwise than the others.
    fn diverges(&self) -> bool {
        false
    }
}

/// Several lies at once: each message passes through all of them.
pub struct Several(pub Vec<Box<dyn Adversary>>);

impl Adversary for Several {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let mut now = vec![(to, message)];
        for adversary in &mut self.0 {
            let mut next = Vec::new();
            for (to, message) in now {
                adversary.sends(power, to, message, random, &mut next);
            }
            now = next;
        }
        out.extend(now);
    }

    fn hears(&mut self, from: ReplicaId, message: &Message) {
        self.0.iter_mut().for_each(|a| a.hears(from, message));
    }

    fn replies(&mut self, replies: &mut Vec<Reply>) {
        self.0.iter_mut().for_each(|a| a.replies(replies));
    }

    fn reads(&mut self, power: &Power, reply: &mut ReadReply) {
        self.0.iter_mut().for_each(|a| a.reads(power, reply));
    }

    fn diverges(&self) -> bool {
        self.0.iter().any(|a| a.diverges())
    }
}

/// Lies so many times in a thousand and tells the truth otherwise.
pub struct Sometimes {
    pub rate: u64,
    pub lie: Box<dyn Adversary>,
}

impl Adversary for Sometimes {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if random.per_mille(self.rate) {
            self.lie.sends(power, to, message, random, out);
        } else {
            out.push((to, message));
        }
    }

    fn hears(&mut self, from: ReplicaId, message: &Message) {
        self.lie.hears(from, message);
    }
}

/// Places of which a liar remembers what it said.
const STORIES_MAX: usize = 4096;

/// What was said of which place, so that votes agree with the proposals they follow.
pub struct Stories<K>(BTreeMap<K, Digest>);

impl<K: Ord> Default for Stories<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Stories<K> {
    pub fn tell(&mut self, of: K, digest: Digest) {
        self.0.insert(of, digest);
        if self.0.len() > STORIES_MAX {
            self.0.pop_first();
        }
    }

    pub fn told(&self, of: &K) -> Option<Digest> {
        self.0.get(of).copied()
    }
}

/// Any of them, drawn.
pub fn draw(random: &mut Random) -> Box<dyn Adversary> {
    let one = |random: &mut Random| -> Box<dyn Adversary> {
        match random.below(12) {
            0 => Box::new(silent::Silent::draw(random)),
            1 | 2 => Box::new(equivocator::Equivocator::draw(random)),
            3 => Box::new(liar::Liar::draw(random)),
            4 => Box::new(replayer::Replayer::draw(random)),
            5 => Box::new(usurper::Usurper::new(random.next())),
            6 => Box::new(mutator::Mutator::draw(random)),
            _ => {
                // Whatever else it does, a liar of a run answers clients wrongly half of the time, and its own state is its business.
                let rows: Vec<_> = catalogue::ROWS.iter().filter(|row| !row.is_for_clients()).collect();
                let lie = (random.pick(&rows).build)(random);
                Box::new(Sometimes { rate: *random.pick(&[1000, 300, 50]), lie })
            }
        }
    };
    let count = random.between(1, 3);
    Box::new(Several((0..count).map(|_| one(random)).collect()))
}
