//! Votes for places and views of the far future as well, to fill memory.

use super::*;

/// With each vote.
const MORE: u64 = 8;

pub struct FarVoter;

impl Adversary for FarVoter {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if let Message::Write(v) | Message::Accept(v) = &message {
            for _ in 0..MORE {
                let view = View(far(random, v.view.0, 4));
                let seq = Seq(far(random, v.seq.0, 8 * power.window));
                out.push((to, Message::Write(power.vote(VoteKind::Write, view, seq, v.digest))));
                out.push((to, Message::Accept(power.vote(VoteKind::Accept, view, seq, v.digest))));
            }
        }
        out.push((to, message));
    }
}

fn far(random: &mut Random, near: u64, step: u64) -> u64 {
    match random.below(4) {
        0 => near,
        1 => near.saturating_add(random.between(1, step)),
        2 => u64::MAX - random.below(3),
        _ => random.next(),
    }
}
