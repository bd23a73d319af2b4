//! What a lying replica makes of what it would send to one that fetches a state from it: the table of
//! [`lies`](crate::transfer::lies), and what needs its keys or its time.

use super::Power;
use crate::sim::random::Random;
use crate::transfer::lies::{self, Lie};
use crate::transfer::messages::Message;
use crate::types::*;

/// One lie.
#[derive(Clone, Copy, Debug)]
enum What {
    /// Of the table.
    Row(&'static Lie),
    /// Offers another state, with all that it can sign for it (B28).
    OtherState,
    /// Sends each message so many microseconds after the one before (B26).
    Slow(u64),
}

/// Tells it.
#[derive(Clone, Copy, Debug)]
pub struct SeederLiar {
    what: What,
    /// So many times in a thousand, and the truth otherwise.
    rate: u64,
    /// When what it said last leaves.
    leaves: Tick,
}

impl SeederLiar {
    /// Any of them.
    pub fn draw(random: &mut Random) -> Self {
        let what = match random.below(lies::ROWS.len() as u64 + 4) {
            0 | 1 => What::OtherState,
            2 | 3 => What::Slow(*random.pick(&[5_000, 100_000, 700_000])),
            row => What::Row(&lies::ROWS[row as usize - 4]),
        };
        Self { what, rate: *random.pick(&[1000, 1000, 300, 50]), leaves: Tick(0) }
    }

    /// The one of this name in the table, told always.
    pub fn named(name: &str) -> Option<Self> {
        let what = match name {
            "other-state" => What::OtherState,
            "slow-seeder" => What::Slow(700_000),
            name => What::Row(lies::named(name)?),
        };
        Some(Self { what, rate: 1000, leaves: Tick(0) })
    }

    /// What leaves in place of a message, and when.
    pub fn says(
        &mut self,
        now: Tick,
        power: &Power,
        message: Message,
        random: &mut Random,
    ) -> (Tick, Vec<Message>) {
        self.leaves = self.leaves.max(now);
        if !random.per_mille(self.rate) {
            return (self.leaves, vec![message]);
        }
        let said = match self.what {
            What::Row(lie) => (lie.twist)(message),
            What::OtherState => vec![other_state(power, message)],
            What::Slow(us) => {
                self.leaves = Tick(self.leaves.0 + us * 1000);
                vec![message]
            }
        };
        (self.leaves, said)
    }
}

fn other_state(power: &Power, message: Message) -> Message {
    let Message::Offer(mut marks) = message else { return message };
    for mark in &mut marks {
        let Digest(state) = &mut mark.statement.state;
        state[0] ^= 1;
        mark.signatures = vec![(power.auth.me, power.auth.sign_mark(&mark.statement))];
    }
    Message::Offer(marks)
}
