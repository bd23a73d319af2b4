//! Leads badly: proposals that are no batches, with forged requests, absurd times, wrong places; proposals to some only.

use super::*;
use crate::wire::batch::{AuthKind, Batch, Group, Request, RequestKind};

pub struct Spoiler {
    rate: u64,
    what: u64,
}

impl Spoiler {
    pub fn draw(random: &mut Random) -> Self {
        Self { rate: *random.pick(&[1000, 300, 50]), what: random.below(7) }
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
        let Message::Propose(p) = message else {
            out.push((to, message));
            return;
        };
        if !random.per_mille(self.rate) {
            out.push((to, Message::Propose(p)));
            return;
        }
        let hasher = &power.auth.hasher;
        let Ok(batch) = Batch::decode(hasher, p.seq, p.batch.clone()) else { return };
        let groups: Vec<_> = batch.groups.iter().cloned().zip(batch.group_digests.iter().copied()).collect();
        let (view, seq) = (p.view, p.seq);
        let bytes = match self.what {
            0 => p.batch.slice(..p.batch.len() / 2),
            1 => {
                // A request that its client never made.
                let request = Request {
                    session: SessionId(1 << 20 | 1),
                    number: RequestNumber(random.between(1, 50)),
                    kind: RequestKind::Invoke,
                    operation: &b"forged"[..],
                };
                let group =
                    Group::build(hasher, ClientId(0), &[request], |_| (AuthKind::Signature, vec![1; 64]));
                let digest = group.digest(hasher);
                Batch::build(hasher, seq, batch.time, 0, vec![(group, digest)]).bytes
            }
            2 => Batch::build(hasher, seq, WallTime(u64::MAX), 0, groups).bytes,
            3 => Batch::build(hasher, seq, WallTime(0), 0, groups).bytes,
            4 => {
                // Everything twice.
                let twice = groups.iter().cloned().chain(groups.iter().cloned()).collect();
                Batch::build(hasher, seq, batch.time, 0, twice).bytes
            }
            5 => Batch::build(hasher, seq, batch.time, 0, groups.into_iter().rev().collect()).bytes,
            _ => return,
        };
        let seq = if random.per_mille(50) { Seq(random.next()) } else { seq };
        out.push((to, Message::Propose(Propose { view, seq, batch: bytes })));
    }
}
