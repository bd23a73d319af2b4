//! Says truly what it executed, and executes otherwise: an application that is not deterministic, or memory that failed.

use super::*;

pub struct Divergent;

impl Adversary for Divergent {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        out.push((to, message));
    }

    fn diverges(&self) -> bool {
        true
    }
}
