//! Sends everything many times and asks without end.

use super::*;

/// Copies of each message.
const COPIES: usize = 8;

pub struct Flooder;

impl Adversary for Flooder {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if let Message::Status(status) = &message {
            for _ in 0..COPIES {
                let from = Seq(random.below(status.decided.0.saturating_add(1)));
                out.push((to, Message::Fetch(Fetch { from, to: Seq(from.0.saturating_add(63)) })));
                let digest = Digest([random.next() as u8; 32]);
                out.push((to, Message::FetchBatch(FetchBatch { seq: from, digest })));
                out.push((to, Message::ReadCheck(ReadCheck { view: status.view, nonce: random.next() })));
            }
        }
        out.extend((0..COPIES).map(|_| (to, message.clone())));
    }
}
