//! Forges the messages of view changes: wishes for absurd views, reports that hide or invent, choices from a hand-picked
//! quorum.

use super::*;
use std::sync::Arc;

pub struct Forger {
    rate: u64,
    old: Vec<Arc<StopData>>,
}

impl Forger {
    pub fn draw(random: &mut Random) -> Self {
        Self { rate: *random.pick(&[1000, 300, 50]), old: Vec::new() }
    }

    fn stop_data(&self, power: &Power, data: &StopData, random: &mut Random) -> StopData {
        let mut d = data.clone();
        match random.below(9) {
            0 => d.slots.clear(),
            1 => {
                d.slots.pop();
            }
            2 => d.mark = MarkCertificate::default(),
            3 => {
                let from = d.mark.statement.seq.0;
                d.unknown = (1..=power.window).map(|i| Seq(from + i)).collect();
            }
            4 => d.view = View(random.next()),
            5 => d.mark.statement.seq.0 = d.mark.statement.seq.0.wrapping_add(random.next()),
            6 => {
                if let Some(s) = d.slots.first_mut() {
                    s.certificate.digest.0[0] ^= 1;
                }
            }
            7 => {
                if let Some(s) = d.slots.last_mut() {
                    s.certificate.seq.0 = random.next();
                }
            }
            _ => d.unknown = vec![Seq(u64::MAX)],
        }
        power.sign_stop_data(&mut d);
        d
    }
}

impl Adversary for Forger {
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
        match message {
            Message::Stop(s) => {
                let view = *random.pick(&[
                    View(u64::MAX),
                    View(0),
                    View(s.view.0.wrapping_add(1)),
                    View(s.view.0.wrapping_add(1_000_000_000)),
                ]);
                out.push((to, Message::Stop(Stop { view })));
            }
            Message::StopData(d) => {
                let forged = self.stop_data(power, &d, random);
                out.push((to, Message::StopData(Arc::new(forged))));
            }
            Message::Sync(s) => {
                let mut sync = (*s).clone();
                match random.below(5) {
                    0 => {
                        // Another choice of the same reports, as far as there are more than needed.
                        let at = random.below(sync.stop_data.len() as u64) as usize;
                        sync.stop_data.remove(at);
                    }
                    1 => {
                        let own = sync.stop_data.iter().position(|d| d.sender == power.auth.me);
                        if let Some(at) = own {
                            sync.stop_data[at] = Arc::new(self.stop_data(power, &sync.stop_data[at], random));
                        }
                    }
                    2 => sync.view = View(sync.view.0.wrapping_add(1)),
                    3 => {
                        if let Some(old) = self.old.first() {
                            sync.stop_data[0] = old.clone();
                        }
                    }
                    _ => {
                        let again = sync.stop_data[0].clone();
                        sync.stop_data.push(again);
                    }
                }
                // To this one the forged, sometimes the true one as well.
                out.push((to, Message::Sync(Arc::new(sync))));
                if random.per_mille(300) {
                    out.push((to, Message::Sync(s)));
                }
            }
            Message::Status(mut s) => {
                match random.below(4) {
                    0 => s.wish = View(u64::MAX),
                    1 => s.view = View(random.next()),
                    2 => s.wish = View(s.view.0.wrapping_add(1)),
                    _ => s.mode = *random.pick(&[Mode::Normal, Mode::Changing, Mode::Halted]),
                }
                out.push((to, Message::Status(s)));
            }
            other => out.push((to, other)),
        }
    }

    fn hears(&mut self, _from: ReplicaId, message: &Message) {
        if let Message::StopData(d) = message
            && self.old.len() < 8
        {
            self.old.push(d.clone());
        }
    }
}
