//! A replica that stays behind: noticed, and told to the operator.
//!
//! Whoever is behind asks the others, and as long as they have what it lacks it comes nearer. One that comes no nearer for a while
//! may never: in mode `none` the others keep only the batches of the last [`RECENT_BYTES_MAX`] bytes, in memory.

use super::decisions::RECENT_BYTES_MAX;
use crate::config::Durability;
use crate::types::*;
use std::time::Duration;

/// So long without a place executed is too long while others are ahead.
const PATIENCE: Duration = Duration::from_secs(10);

/// What this replica executed, watched over time.
#[derive(Default)]
pub struct Lag {
    /// Executed, and the first time that was seen.
    stands: Option<(Seq, Tick)>,
    /// Told.
    stuck: bool,
}

impl Lag {
    /// Looks at `now`: places `executed` here, and decided at each of the others; up to `faults` of them may lie. The words to tell while it lasts.
    pub fn look(
        &mut self,
        now: Tick,
        executed: Seq,
        decided: impl Iterator<Item = Seq>,
        faults: u32,
        durability: Durability,
    ) -> Option<String> {
        // One more than may lie says at least this.
        let mut decided: Vec<Seq> = decided.collect();
        decided.sort_unstable_by(|a, b| b.cmp(a));
        let ahead = decided.get(faults as usize).copied().unwrap_or_default();
        let (_, since) = match self.stands {
            Some(stands) if stands.0 == executed && ahead > executed => stands,
            _ => *self.stands.insert((executed, now)),
        };
        let seconds = now.since(since) / 1_000_000_000;
        let stuck = ahead > executed && seconds >= PATIENCE.as_secs();
        let again = std::mem::replace(&mut self.stuck, stuck);
        let words = || {
            let rest = match durability {
                Durability::None => format!(
                    "; durability \"none\": the others keep only the last {} MiB of batches, and what is older cannot be had again: this replica counts as faulty for good",
                    RECENT_BYTES_MAX >> 20
                ),
                _ => String::new(),
            };
            format!(
                "behind, and comes no nearer: executed up to place {executed}, others have decided {ahead}{rest}"
            )
        };
        if stuck && !again {
            ::log::error!("this replica is {}", words());
        } else if again && !stuck {
            ::log::warn!("this replica comes nearer to the others again, at place {executed}");
        }
        stuck.then(words)
    }
}
