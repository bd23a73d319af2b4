//! Votes twice: for the batch and for another, one time in this order, one time in the other.

use super::*;

pub struct DoubleVoter;

impl Adversary for DoubleVoter {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if let Message::Write(v) | Message::Accept(v) = &message {
            let mut digest = v.digest;
            digest.0[0] ^= 1;
            let mut both = [message.clone(), power.vote_instead(message, digest)];
            if random.per_mille(500) {
                both.reverse();
            }
            out.extend(both.map(|vote| (to, vote)));
        } else {
            out.push((to, message));
        }
    }
}
