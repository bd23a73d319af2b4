//! Begins views falsely: its SYNC is no quorum of reports, or not the same for all.

use super::*;
use std::sync::Arc;

/// One false SYNC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// One report less than a quorum.
    TooFew,
    /// As many as a quorum needs, one of them twice.
    OneTwice,
    /// One of them of another view.
    OtherView,
    /// To every second replica with a report of the liar's that hides everything.
    NotTheSame,
}

pub struct SyncForger(pub Start);

impl Adversary for SyncForger {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let Message::Sync(sync) = &message else {
            out.push((to, message));
            return;
        };
        let quorum = power.auth.members.quorum().size() as usize;
        let me = power.auth.me;
        let mut forged = (**sync).clone();
        let own = forged.stop_data.iter().position(|d| d.sender == me);
        match (self.0, own) {
            (Start::TooFew, _) => forged.stop_data.truncate(quorum - 1),
            (Start::OneTwice, _) => {
                forged.stop_data.truncate(quorum - 1);
                let again = forged.stop_data[0].clone();
                forged.stop_data.push(again);
            }
            (Start::OtherView, Some(at)) => {
                let mut old = (*forged.stop_data[at]).clone();
                old.view.0 += 1;
                power.sign_stop_data(&mut old);
                forged.stop_data[at] = Arc::new(old);
            }
            (Start::NotTheSame, Some(at)) if to.0.is_multiple_of(2) => {
                let mut empty = (*forged.stop_data[at]).clone();
                (empty.slots, empty.mark) = (Vec::new(), MarkCertificate::default());
                power.sign_stop_data(&mut empty);
                forged.stop_data[at] = Arc::new(empty);
                // With its own in it, what the quorum shows is as little as can be.
                while forged.stop_data.len() > quorum {
                    let other =
                        forged.stop_data.iter().rposition(|d| d.sender != me).expect("a quorum of others");
                    forged.stop_data.remove(other);
                }
            }
            _ => {}
        }
        out.push((to, Message::Sync(Arc::new(forged))));
    }
}
