//! Proposes another batch to each replica, and votes for each with whoever got it.

use super::*;

#[derive(Default)]
pub struct Splitter {
    told: Stories<(View, Seq, ReplicaId)>,
}

impl Adversary for Splitter {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let message = match message {
            Message::Propose(p) => {
                let Some((batch, groups)) = power.batch(&p) else { return };
                let seed = batch.seed ^ u64::from(1 + to.0);
                let other = Batch::build(&power.auth.hasher, p.seq, batch.time, seed, groups);
                self.told.tell((p.view, p.seq, to), other.digest);
                Message::Propose(Propose { batch: other.bytes, ..p })
            }
            Message::Write(v) | Message::Accept(v) => {
                let digest = self.told.told(&(v.view, v.seq, to)).unwrap_or(v.digest);
                power.vote_instead(message, digest)
            }
            other => other,
        };
        out.push((to, message));
    }
}
