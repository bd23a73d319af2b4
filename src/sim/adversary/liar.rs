//! Answers wrongly: decisions, digest lists, batches; says absurd things of itself; asks for what nobody has.

use super::*;

pub struct Liar {
    rate: u64,
}

impl Liar {
    pub fn draw(random: &mut Random) -> Self {
        Self { rate: *random.pick(&[1000, 300, 50]) }
    }
}

impl Adversary for Liar {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if !random.per_mille(self.rate) {
            out.push((to, message));
            return;
        }
        let absurd = |random: &mut Random, near: u64| match random.below(4) {
            0 => u64::MAX - random.below(3),
            1 => near.wrapping_add(random.below(2 * power.window)),
            2 => near.wrapping_sub(random.below(power.window)),
            _ => random.next(),
        };
        match message {
            Message::Decided(mut d) => {
                match random.below(4) {
                    0 => d.certificate.seq = Seq(absurd(random, d.certificate.seq.0)),
                    1 => {
                        d.certificate.signatures.pop();
                    }
                    2 => {
                        // A batch that nobody proposed, with its true digest and a worthless certificate.
                        let seq = d.certificate.seq;
                        let noop = crate::wire::batch::Batch::noop(&power.auth.hasher, seq);
                        d.certificate.digest = noop.digest;
                        d.batch = noop.bytes;
                    }
                    _ => d.certificate.view = View(random.next()),
                }
                out.push((to, Message::Decided(d)));
            }
            Message::Chain(mut c) => {
                match random.below(4) {
                    0 => {
                        c.digests.pop();
                    }
                    1 => {
                        if let Some(d) = c.digests.first_mut() {
                            d.0[0] ^= 1;
                        }
                    }
                    2 => c.from = Seq(absurd(random, c.from.0)),
                    _ => c.mark.statement.seq = Seq(absurd(random, c.mark.statement.seq.0)),
                }
                out.push((to, Message::Chain(c)));
            }
            Message::BatchIs(mut b) => {
                let noop = crate::wire::batch::Batch::noop(&power.auth.hasher, b.seq);
                b.batch = noop.bytes;
                out.push((to, Message::BatchIs(b)));
            }
            Message::Status(mut s) => {
                match random.below(4) {
                    0 => {
                        (s.decided, s.mark) =
                            (Seq(absurd(random, s.decided.0)), Seq(absurd(random, s.mark.0)))
                    }
                    1 => s.highest = Seq(s.mark.0.wrapping_add(power.window)),
                    2 => s.highest = Seq(absurd(random, s.highest.0)),
                    _ => s.decided = Seq(absurd(random, s.decided.0)),
                }
                let (decided, mark) = (s.decided, s.mark);
                out.push((to, Message::Status(s)));
                // And asks for what nobody has.
                let from = Seq(absurd(random, decided.0));
                let length = *random.pick(&[0, 1, 63, 64, u64::MAX]);
                out.push((to, Message::Fetch(Fetch { from, to: Seq(from.0.wrapping_add(length)) })));
                let digest = Digest([random.next() as u8; 32]);
                out.push((to, Message::FetchBatch(FetchBatch { seq: Seq(absurd(random, mark.0)), digest })));
                let check = ReadCheck { view: View(random.next()), nonce: random.next() };
                out.push((to, Message::ReadCheck(check)));
            }
            Message::Mark(m) => {
                let mut statement = m.statement;
                match random.below(3) {
                    0 => statement.seq = Seq(absurd(random, statement.seq.0)),
                    1 => statement.batches.0[0] ^= 1,
                    _ => statement.seq.0 = statement.seq.0.wrapping_add(power.mark_interval),
                }
                let signature = power.auth.sign_mark(&statement);
                out.push((to, Message::Mark(Mark { statement, signature })));
            }
            other => out.push((to, other)),
        }
    }
}
