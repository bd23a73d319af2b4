//! States falsely what it executed.

use super::*;

/// One false mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum False {
    /// Of a place far ahead.
    Height,
    /// Another history of batches.
    Batches,
    /// The same batches with other results, as a replica that diverged states them.
    Replies,
    /// None with a root: who fell behind the others' logs could not come back, did they need every vote for it.
    NoRoot,
}

pub struct MarkLiar(pub False);

impl Adversary for MarkLiar {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let message = match message {
            Message::Mark(m) if self.0 == False::NoRoot && m.statement.state != Digest::ZERO => return,
            Message::Mark(m) => {
                let mut statement = m.statement;
                match self.0 {
                    False::Height => statement.seq.0 = statement.seq.0.saturating_add(2 * power.window),
                    False::Batches => statement.batches.0[0] ^= 1,
                    False::NoRoot => return out.push((to, message)),
                    False::Replies => statement.replies.0[0] ^= 1,
                }
                Message::Mark(Mark { statement, signature: power.auth.sign_mark(&statement) })
            }
            other => other,
        };
        out.push((to, message));
    }
}
