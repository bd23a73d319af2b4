//! What a lying replica does: it runs the real core, and each of its messages passes through one of these.

use super::random::Random;
use crate::types::*;
use crate::wire::auth::{Authenticator, stop_data_bytes, vote_bytes};
use crate::wire::messages::*;

pub mod equivocator;
pub mod forger;
pub mod liar;
pub mod mutator;
pub mod replayer;
pub mod silent;
pub mod spoiler;
pub mod usurper;

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

    pub fn sign_stop_data(&self, data: &mut StopData) {
        data.signature = self.auth.scheme.sign(&stop_data_bytes(&self.auth.hasher, data));
    }
}

/// Rewrites what leaves.
pub trait Adversary {
    /// What leaves instead of `message`.
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    );

    /// What arrives is seen first.
    fn hears(&mut self, _from: ReplicaId, _message: &Message) {}
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
}

/// Any of them, drawn.
pub fn draw(random: &mut Random) -> Box<dyn Adversary> {
    let one = |random: &mut Random| -> Box<dyn Adversary> {
        match random.below(9) {
            0 => Box::new(silent::Silent::draw(random)),
            1 | 2 => Box::new(equivocator::Equivocator::draw(random)),
            3 => Box::new(forger::Forger::draw(random)),
            4 => Box::new(liar::Liar::draw(random)),
            5 => Box::new(replayer::Replayer::draw(random)),
            6 => Box::new(usurper::Usurper::new(random.next())),
            7 => Box::new(mutator::Mutator::draw(random)),
            _ => Box::new(spoiler::Spoiler::draw(random)),
        }
    };
    let count = random.between(1, 3);
    Box::new(Several((0..count).map(|_| one(random)).collect()))
}
