//! What a replica says again and again, told from its head before anything is checked, and how slowly it is read then.
//!
//! No correct replica proposes, or votes, twice for one place of one view over one connection, unless it is asked to after a
//! while. So what comes again sooner than [`AGAIN`] is dropped, also where it says something else: the first counts. What that
//! costs us, reading and decrypting, has a budget for each slice of time; a replica that passes it is not read until the slice is
//! over, which fills its own buffers and nobody else's. Whoever is merely fast, or catches up, repeats nothing.

use crate::types::*;
use crate::wire::messages::*;
use std::time::{Duration, Instant};

/// Places remembered of each kind; older ones are turned away by the order.
const PLACES: usize = 1024;
/// Bytes of repetitions that one slice bears: a leader that is asked for all that it has in flight may send that again.
pub const SLICE_BYTES: usize = 4 << 20;
/// A slice.
pub const SLICE: Duration = Duration::from_millis(100);
/// What is said again after so long was asked for.
pub const AGAIN: Duration = Duration::from_millis(50);
/// What a frame costs besides its bytes.
const FRAME_COST: usize = 1024;

/// Of one replica.
pub struct Repeats {
    /// The last place heard of in each row, and when, by kind.
    said: [Vec<Option<(View, Seq, Instant)>>; 3],
    slice: Instant,
    bytes: usize,
    /// The slice's budget is used up, which was noticed.
    told: bool,
}

impl Repeats {
    /// Nothing was said.
    pub fn new(now: Instant) -> Self {
        Self { said: Default::default(), slice: now, bytes: 0, told: false }
    }

    /// Whether something was said of this kind, view and place just before; takes it down otherwise.
    pub fn again(&mut self, now: Instant, message: &Message) -> bool {
        let (kind, view, seq) = match message {
            Message::Propose(m) => (0, m.view, m.seq),
            Message::Write(v) => (1, v.view, v.seq),
            Message::Accept(v) => (2, v.view, v.seq),
            _ => return false,
        };
        let said = &mut self.said[kind];
        if said.is_empty() {
            said.resize(PLACES, None);
        }
        let held = &mut said[seq.0 as usize % PLACES];
        let again =
            held.is_some_and(|(v, s, at)| (v, s) == (view, seq) && now.saturating_duration_since(at) < AGAIN);
        if !again {
            *held = Some((view, seq, now));
        }
        again
    }

    /// A frame of so many bytes was in vain.
    pub fn in_vain(&mut self, now: Instant, bytes: usize) {
        if now.saturating_duration_since(self.slice) >= SLICE {
            (self.slice, self.bytes, self.told) = (now, 0, false);
        }
        self.bytes += bytes + FRAME_COST;
    }

    /// Until when nothing more is to be read, once for each slice.
    pub fn rests(&mut self) -> Option<Instant> {
        if self.bytes <= SLICE_BYTES || self.told {
            return None;
        }
        self.told = true;
        Some(self.slice + SLICE)
    }
}
