//! What waits for the pool: a lane per sender, served in turn, so that no sender's work stands before another's for long.

use std::collections::{BTreeMap, VecDeque};

/// Lanes of items with costs. Each lane is first in, first out; their bound is the sender's share of bytes
/// ([`Credit`](super::stages::Credit)).
pub struct FairQueue<K, T> {
    lanes: BTreeMap<K, VecDeque<(usize, T)>>,
    /// The lane that has the next turn, or the next one after it.
    turn: Option<K>,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), turn: None }
    }
}

impl<K: Ord + Copy, T> FairQueue<K, T> {
    /// Puts an item at the end of its sender's lane.
    pub fn push(&mut self, sender: K, cost: usize, item: T) {
        self.lanes.entry(sender).or_default().push_back((cost, item));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Moves one round to `out`: each lane in turn gives items until they cost `lane_max` or more, until all of them cost
    /// `round_max` or more. The next round goes on where this one ended.
    pub fn take(&mut self, lane_max: usize, round_max: usize, out: &mut Vec<T>) {
        let senders: Vec<K> = match self.turn {
            Some(turn) => self.lanes.range(turn..).chain(self.lanes.range(..turn)).map(|(k, _)| *k).collect(),
            None => self.lanes.keys().copied().collect(),
        };
        let mut all = 0;
        for sender in senders {
            self.turn = Some(sender);
            if all >= round_max {
                return;
            }
            let lane = self.lanes.get_mut(&sender).expect("just listed");
            let mut spent = 0;
            while spent < lane_max
                && all + spent < round_max
                && let Some((cost, item)) = lane.pop_front()
            {
                spent += cost;
                out.push(item);
            }
            all += spent;
            if lane.is_empty() {
                self.lanes.remove(&sender);
            }
        }
        // Everybody had a turn: who came last comes last again.
        self.turn = None;
    }
}
