//! Leads, but lets only one proposal go with each heartbeat.

use super::*;
use std::collections::VecDeque;

#[derive(Default)]
pub struct Dribbler {
    held: BTreeMap<ReplicaId, VecDeque<Message>>,
}

impl Adversary for Dribbler {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        match message {
            Message::Propose(_) => self.held.entry(to).or_default().push_back(message),
            Message::Status(_) => {
                let next = self.held.get_mut(&to).and_then(VecDeque::pop_front);
                out.extend(next.map(|message| (to, message)));
                out.push((to, message));
            }
            other => out.push((to, other)),
        }
    }
}
