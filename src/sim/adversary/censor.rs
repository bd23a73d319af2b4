//! Leads, but leaves the requests of one client out.

use super::*;

pub struct Censor {
    client: ClientId,
    told: Stories<(View, Seq)>,
}

impl Censor {
    /// Of this client.
    pub fn of(client: ClientId) -> Self {
        Self { client, told: Stories::default() }
    }
}

impl Adversary for Censor {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let message = match message {
            Message::Propose(p) => match power.batch(&p) {
                Some((batch, mut groups)) if groups.iter().any(|(g, _)| g.client == self.client) => {
                    groups.retain(|(g, _)| g.client != self.client);
                    let less = Batch::build(&power.auth.hasher, p.seq, batch.time, batch.seed, groups);
                    self.told.tell((p.view, p.seq), less.digest);
                    Message::Propose(Propose { batch: less.bytes, ..p })
                }
                _ => Message::Propose(p),
            },
            Message::Write(v) | Message::Accept(v) => {
                let digest = self.told.told(&(v.view, v.seq)).unwrap_or(v.digest);
                power.vote_instead(message, digest)
            }
            other => other,
        };
        out.push((to, message));
    }
}
