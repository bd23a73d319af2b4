//! Leads, but holds every proposal back until just before the others lose patience.

use super::*;

/// Heartbeats that a proposal waits; ten make a timeout.
const BEATS: u32 = 8;

#[derive(Default)]
pub struct LateLeader {
    held: Vec<(ReplicaId, Message, u32)>,
}

impl Adversary for LateLeader {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        match message {
            Message::Propose(_) => self.held.push((to, message, BEATS)),
            Message::Status(_) => {
                self.held.iter_mut().filter(|held| held.0 == to).for_each(|held| held.2 -= 1);
                let due = self.held.extract_if(.., |held| held.0 == to && held.2 == 0);
                out.extend(due.map(|(to, message, _)| (to, message)));
                out.push((to, message));
            }
            other => out.push((to, other)),
        }
    }
}
