//! Small-scope mutations: one byte of an encoding changed, where the result is still a message.

use super::*;

pub struct Mutator {
    rate: u64,
}

impl Mutator {
    pub fn draw(random: &mut Random) -> Self {
        Self { rate: *random.pick(&[500, 100, 20]) }
    }
}

impl Adversary for Mutator {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if random.per_mille(self.rate) {
            let (kind, head, tail) = message.encode();
            let mut bytes = [head, tail.unwrap_or_default()].concat();
            if !bytes.is_empty() {
                let at = random.below(bytes.len().min(80) as u64) as usize;
                bytes[at] = match random.below(3) {
                    0 => bytes[at].wrapping_add(1),
                    1 => bytes[at].wrapping_sub(1),
                    _ => random.next() as u8,
                };
                if let Ok(other) = Message::decode(kind, bytes.into()) {
                    out.push((to, other));
                    return;
                }
            }
        }
        out.push((to, message));
    }
}
