//! Starts views that others lead: picks a quorum of the reports it heard and sends the SYNC first.

use super::*;
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct Usurper {
    to: u64,
    heard: BTreeMap<View, BTreeMap<ReplicaId, Arc<StopData>>>,
}

impl Usurper {
    /// Towards these replicas.
    pub fn new(to: u64) -> Self {
        Self { to, heard: BTreeMap::new() }
    }
}

impl Adversary for Usurper {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        if let Message::StopData(d) = &message {
            // Its own report hides everything.
            let mut empty = (**d).clone();
            (empty.slots, empty.mark) = (Vec::new(), MarkCertificate::default());
            power.sign_stop_data(&mut empty);
            self.heard.entry(d.view).or_default().insert(d.sender, Arc::new(empty));
        }
        out.push((to, message));
        let Some((view, reports)) = self.heard.last_key_value() else { return };
        let quorum = power.auth.members.quorum().size() as usize;
        if self.to >> to.0 & 1 == 1 && reports.len() >= quorum && reports.contains_key(&power.auth.me) {
            // The reports that show least.
            let mut all: Vec<_> = reports.values().cloned().collect();
            all.sort_by_key(|d| (d.slots.len(), d.sender));
            all.truncate(quorum);
            all.sort_by_key(|d| d.sender);
            out.push((to, Message::Sync(Arc::new(Sync { view: *view, stop_data: all }))));
        }
    }

    fn hears(&mut self, _from: ReplicaId, message: &Message) {
        if let Message::StopData(d) = message {
            self.heard.entry(d.view).or_default().insert(d.sender, d.clone());
            while self.heard.len() > 4 {
                self.heard.pop_first();
            }
        }
    }
}
