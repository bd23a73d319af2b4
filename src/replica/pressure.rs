//! A log that fills up: when it asks for a checkpoint out of turn, and which states wait while one is being written.
//!
//! Only two checkpoints make room, the older of them above what is to go, and a full log lets no further place be executed: whatever
//! is to make room must have been frozen before. So a checkpoint is asked for at every sixteenth of the log that is *appended* while
//! it is pressed; how much of it is in use may stand still, because what goes and what comes are whole segments. Replicas ask one a
//! little later than the other, so that they do not all write at the same time.

/// When checkpoints are asked for; bytes throughout.
pub struct Pressure {
    /// Appended since the start when one was last asked for, counted in two ways.
    asked_at: [u64; 2],
    /// Which of how many asks.
    turn: (u64, u64),
}

impl Pressure {
    /// Of replica `turn` among `turns`.
    pub fn new(turn: u32, turns: u32) -> Self {
        Self { asked_at: [0; 2], turn: (turn.into(), turns.max(1).into()) }
    }

    /// Whether one is asked for now: of a log of `most` bytes `used` are in use, and `appended` were since the start, counted in two ways,
    /// each of which may lag behind.
    pub fn asks(&mut self, most: u64, used: u64, appended: [u64; 2], two_stored: bool) -> bool {
        // Nothing makes room before there are two.
        let from = if two_stored { most / 8 * 5 } else { most / 4 };
        let (turn, turns) = self.turn;
        let from = from + Self::step(most) * turn / turns;
        let grown = (0..2).any(|i| appended[i] >= self.asked_at[i] + Self::step(most));
        let asks = used > from && grown;
        if asks {
            self.asked_at = appended;
        }
        asks
    }

    /// What is appended from one to the next.
    pub fn step(most: u64) -> u64 {
        most / 16
    }

    /// Of a log that uses so much, what was kept for others is let go.
    pub fn is_high(most: u64, used: u64) -> bool {
        used > most / 4 * 3
    }
}

/// The first and the last of the states that came while another one was being written.
///
/// The last alone would not do: where the one being written is of a place near the log's beginning, the two of them free nothing.
pub struct Waiting<T> {
    first: Option<T>,
    last: Option<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { first: None, last: None }
    }
}

impl<T> Waiting<T> {
    /// One more, in place of the last if two wait already.
    pub fn push(&mut self, state: T) {
        match &self.first {
            None => self.first = Some(state),
            Some(_) => self.last = Some(state),
        }
    }

    /// The next to be written.
    pub fn pop(&mut self) -> Option<T> {
        let next = self.first.take();
        self.first = self.last.take();
        next
    }

    /// None of them is worth anything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
