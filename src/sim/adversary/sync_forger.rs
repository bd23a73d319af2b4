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
        if sync.stop_data.len() < quorum {
            // Another lie came before this one.
            out.push((to, message));
            return;
        }
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
                old.view.0 = old.view.0.wrapping_add(1);
                power.sign_stop_data(&mut old);
                forged.stop_data[at] = Arc::new(old);
            }
            (Start::NotTheSame, Some(at)) if to.0.is_multiple_of(2) => {
                let mut empty = (*forged.stop_data[at]).clone();
                (empty.slots, empty.mark) = (Vec::new(), MarkCertificate::default());
                power.sign_stop_data(&mut empty);
                forged.stop_data[at] = Arc::new(empty);
                // With its own in it, what the quorum shows is as little as can be.
                let mut spare = forged.stop_data.len() - quorum;
                forged.stop_data.retain(|d| {
                    let goes = spare > 0 && d.sender != me;
                    spare -= usize::from(goes);
                    !goes
                });
            }
            _ => {}
        }
        out.push((to, Message::Sync(Arc::new(forged))));
    }
}
