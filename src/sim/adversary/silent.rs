//! Withholds: everything, some kinds, some receivers, now and then.

use super::*;

pub struct Silent {
    kinds: u64,
    to: u64,
    rate: u64,
}

impl Silent {
    /// Only these kinds are withheld.
    pub fn kinds(kinds: &[u16]) -> Self {
        Self { kinds: kinds.iter().fold(0, |set, k| set | 1 << k), to: u64::MAX, rate: 1000 }
    }

    /// Only these kinds, from these replicas.
    pub fn towards(kinds: &[u16], to: u64) -> Self {
        Self { to, ..Self::kinds(kinds) }
    }

    /// Says nothing at all.
    pub fn all() -> Self {
        Self { kinds: u64::MAX, to: u64::MAX, rate: 1000 }
    }

    pub fn draw(random: &mut Random) -> Self {
        let all = random.per_mille(200);
        Self {
            kinds: if all { u64::MAX } else { random.next() & random.next() },
            to: if random.per_mille(500) { u64::MAX } else { random.next() },
            rate: *random.pick(&[1000, 1000, 500, 100]),
        }
    }
}

impl Adversary for Silent {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let hit = self.kinds >> message.kind() & 1 == 1 && self.to >> to.0 & 1 == 1;
        if !(hit && random.per_mille(self.rate)) {
            out.push((to, message));
        }
    }
}
