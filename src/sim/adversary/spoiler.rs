//! Leads badly: proposals that are no batches, with forged, repeated or old requests, absurd times, wrong places.

use super::*;
use crate::wire::batch::{AuthKind, Request, RequestKind};

/// One spoilt batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoilt {
    /// Half of it.
    Cut,
    /// With a request that its client never made.
    Forged,
    /// Of the end of time.
    FarFuture,
    /// Of its beginning.
    LongAgo,
    /// Everything twice.
    Twice,
    /// In reverse order.
    Reversed,
    /// With requests of earlier batches again.
    Executed,
    /// For a place that is not its own.
    Elsewhere,
}

/// Groups of earlier batches kept.
const OLD_MAX: usize = 16;

pub struct Spoiler {
    what: Spoilt,
    old: Vec<(Group, Digest)>,
    told: Stories<(View, Seq)>,
}

impl Spoiler {
    pub fn new(what: Spoilt) -> Self {
        Self { what, old: Vec::new(), told: Stories::default() }
    }

    fn spoil(&mut self, power: &Power, p: Propose, random: &mut Random) -> Propose {
        let hasher = &power.auth.hasher;
        let Some((batch, groups)) = power.batch(&p) else { return p };
        let (mut time, mut spoilt) = (batch.time, groups.clone());
        match self.what {
            Spoilt::Cut => return Propose { batch: p.batch.slice(..p.batch.len() / 2), ..p },
            Spoilt::Elsewhere => return Propose { seq: Seq(random.next()), ..p },
            Spoilt::Forged => {
                let request = Request {
                    session: SessionId(1 << 20 | 1),
                    number: RequestNumber(random.between(1, 50)),
                    kind: RequestKind::Invoke,
                    operation: &b"forged"[..],
                };
                let group =
                    Group::build(hasher, ClientId(0), &[request], |_| (AuthKind::Signature, vec![1; 64]));
                let digest = group.digest(hasher);
                spoilt.push((group, digest));
            }
            Spoilt::FarFuture => time = WallTime(u64::MAX),
            Spoilt::LongAgo => time = WallTime(0),
            Spoilt::Twice => spoilt.extend(groups.iter().cloned()),
            Spoilt::Reversed => spoilt.reverse(),
            Spoilt::Executed => spoilt.extend(self.old.iter().cloned()),
        }
        if self.old.len() < OLD_MAX {
            self.old.extend(groups.into_iter().take(1));
        }
        let spoilt = Batch::build(hasher, p.seq, time, batch.seed, spoilt);
        self.told.tell((p.view, p.seq), spoilt.digest);
        Propose { batch: spoilt.bytes, ..p }
    }
}

impl Adversary for Spoiler {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let message = match message {
            Message::Propose(p) => Message::Propose(self.spoil(power, p, random)),
            Message::Write(v) | Message::Accept(v) => {
                let digest = self.told.told(&(v.view, v.seq)).unwrap_or(v.digest);
                power.vote_instead(message, digest)
            }
            other => other,
        };
        out.push((to, message));
    }
}
