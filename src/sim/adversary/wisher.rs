//! Wishes for later views, without end and without a cause.

use super::*;

pub struct Wisher {
    ahead: u64,
}

impl Wisher {
    /// For the view so many ahead of its own.
    pub fn ahead(views: u64) -> Self {
        Self { ahead: views }
    }
}

impl Adversary for Wisher {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        match message {
            Message::Status(mut status) => {
                status.wish = View(status.view.0.saturating_add(self.ahead));
                out.push((to, Message::Stop(Stop { view: status.wish })));
                out.push((to, Message::Status(status)));
            }
            Message::Stop(stop) => {
                let view = View(stop.view.0.saturating_add(self.ahead));
                out.push((to, Message::Stop(Stop { view })));
            }
            other => out.push((to, other)),
        }
    }
}
