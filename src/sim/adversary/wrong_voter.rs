//! Votes for batches that nobody proposed.

use super::*;

pub struct WrongVoter;

impl Adversary for WrongVoter {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let message = match message {
            Message::Write(v) | Message::Accept(v) => {
                let mut digest = v.digest;
                digest.0[0] ^= 1;
                power.vote_instead(message, digest)
            }
            other => other,
        };
        out.push((to, message));
    }
}
