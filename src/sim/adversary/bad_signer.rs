//! Sends votes whose signatures have the right form and are worth nothing, to keep the others checking.

use super::*;

/// With each vote.
const MORE: usize = 8;

pub struct BadSigner;

impl Adversary for BadSigner {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if let Message::Write(vote) = &message {
            for _ in 0..MORE {
                let mut bad = *vote;
                bad.signature.0[random.below(64) as usize] ^= 1;
                out.push((to, Message::Write(bad)));
            }
        }
        out.push((to, message));
    }
}
