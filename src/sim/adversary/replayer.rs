//! Sends again what it sent or heard long ago.

use super::*;

pub struct Replayer {
    rate: u64,
    own: Vec<Message>,
    heard: Vec<Message>,
}

impl Replayer {
    pub fn draw(random: &mut Random) -> Self {
        Self { rate: *random.pick(&[500, 100]), own: Vec::new(), heard: Vec::new() }
    }
}

impl Adversary for Replayer {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if self.own.len() < 256 {
            self.own.push(message.clone());
        } else if random.per_mille(20) {
            let at = random.below(256) as usize;
            self.own[at] = message.clone();
        }
        out.push((to, message));
        if random.per_mille(self.rate) {
            out.push((to, random.pick(&self.own).clone()));
        }
        if random.per_mille(self.rate) && !self.heard.is_empty() {
            out.push((to, random.pick(&self.heard).clone()));
        }
    }

    fn hears(&mut self, _from: ReplicaId, message: &Message) {
        if self.heard.len() < 256 {
            self.heard.push(message.clone());
        }
    }
}
