//! Says one thing to one half and another to the other: proposals, votes, marks.

use super::*;
use crate::wire::batch::Batch;
use std::collections::BTreeMap;

pub struct Equivocator {
    /// Replicas that hear the other story.
    half: u64,
    rate: u64,
    /// Votes for what it heard, whoever proposed it.
    both: bool,
    other: BTreeMap<(View, Seq), Digest>,
}

impl Equivocator {
    pub fn new(half: u64) -> Self {
        Self { half, rate: 1000, both: false, other: BTreeMap::new() }
    }

    pub fn draw(random: &mut Random) -> Self {
        Self {
            half: random.next(),
            rate: *random.pick(&[1000, 500, 100]),
            both: random.per_mille(500),
            other: BTreeMap::new(),
        }
    }

    fn lies_to(&self, to: ReplicaId) -> bool {
        self.half >> to.0 & 1 == 1
    }
}

impl Adversary for Equivocator {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if !self.lies_to(to) {
            out.push((to, message));
            return;
        }
        match message {
            Message::Propose(p) => {
                let other = Batch::decode(&power.auth.hasher, p.seq, p.batch.clone()).ok().and_then(|b| {
                    let known = self.other.contains_key(&(p.view, p.seq));
                    (known || random.per_mille(self.rate)).then(|| {
                        let groups = b.groups.into_iter().zip(b.group_digests).collect();
                        Batch::build(&power.auth.hasher, p.seq, b.time, b.seed ^ 1, groups)
                    })
                });
                match other {
                    Some(b) => {
                        self.other.insert((p.view, p.seq), b.digest);
                        out.push((
                            to,
                            Message::Propose(Propose { view: p.view, seq: p.seq, batch: b.bytes }),
                        ));
                    }
                    None => out.push((to, Message::Propose(p))),
                }
            }
            Message::Write(v) => {
                if let Some(&other) = self.other.get(&(v.view, v.seq)) {
                    out.push((to, Message::Write(power.vote(VoteKind::Write, v.view, v.seq, other))));
                }
                if self.both || !self.other.contains_key(&(v.view, v.seq)) {
                    out.push((to, Message::Write(v)));
                }
            }
            Message::Accept(v) => {
                let digest = self.other.get(&(v.view, v.seq)).copied().unwrap_or(v.digest);
                out.push((to, Message::Accept(power.vote(VoteKind::Accept, v.view, v.seq, digest))));
                if self.both {
                    out.push((to, Message::Accept(v)));
                }
            }
            Message::Mark(m) if random.per_mille(self.rate / 2) => {
                let mut statement = m.statement;
                statement.replies.0[0] ^= 1;
                let signature = power.auth.sign_mark(&statement);
                out.push((to, Message::Mark(Mark { statement, signature })));
            }
            other => out.push((to, other)),
        }
    }

    fn hears(&mut self, _from: ReplicaId, message: &Message) {
        // A vote of others for something else: agree with it towards the other half.
        if let Message::Write(v) = message
            && self.both
        {
            self.other.entry((v.view, v.seq)).or_insert(v.digest);
        }
    }
}
