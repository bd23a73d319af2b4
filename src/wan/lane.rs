//! Bytes of one direction of one connection, each with the time it is due. [core]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::Instant;

/// A ring of bytes that are on their way.
#[derive(Default)]
pub(super) struct Lane {
    ring: Vec<u8>,
    /// Of all bytes ever, those taken in and those delivered.
    taken: u64,
    delivered: u64,
    /// Bytes up to here are due then; ascending.
    due: VecDeque<(Instant, u64)>,
    /// Bytes up to here have been due.
    arrived: u64,
    end: Option<(Instant, End)>,
}

/// How a sender ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It sends no more.
    Shut,
    /// It is gone.
    Reset,
}

impl Lane {
    /// Bytes under way.
    pub fn len(&self) -> usize {
        (self.taken - self.delivered) as usize
    }

    /// Reads once, at most `limit` bytes.
    pub fn take(&mut self, mut from: impl Read, limit: usize) -> io::Result<usize> {
        let free = self.ring.len() - self.len();
        if free < limit {
            self.grow(limit - free);
        }
        let begin = (self.taken % self.ring.len() as u64) as usize;
        let end = self.ring.len().min(begin + limit);
        let n = from.read(&mut self.ring[begin..end])?;
        self.taken += n as u64;
        Ok(n)
    }

    /// What was taken since the last call is due at `at`.
    pub fn stamp(&mut self, at: Instant) {
        self.due.push_back((at, self.taken));
    }

    /// Nothing follows what was taken. A reset may follow the end of a stream.
    pub fn end(&mut self, at: Instant, end: End) {
        self.end = Some((at, end));
    }

    /// Whether the last of it is a reset.
    pub fn is_reset(&self) -> bool {
        matches!(self.end, Some((_, End::Reset)))
    }

    /// Whether it takes no more.
    pub fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Writes once of what is due; 0 if nothing is.
    pub fn deliver(&mut self, mut to: impl Write, now: Instant) -> io::Result<usize> {
        while let Some((_, upto)) = self.due.pop_front_if(|(at, _)| *at <= now) {
            self.arrived = upto;
        }
        if self.arrived == self.delivered {
            return Ok(0);
        }
        let begin = (self.delivered % self.ring.len() as u64) as usize;
        let end = self.ring.len().min(begin + (self.arrived - self.delivered) as usize);
        let n = to.write(&self.ring[begin..end])?;
        self.delivered += n as u64;
        Ok(n)
    }

    /// The end, once it has arrived: a reset overtakes what the receiver has not read, as on a wire.
    pub fn arrived_end(&self, now: Instant) -> Option<End> {
        let (_, end) = self.end.filter(|(at, _)| *at <= now)?;
        (end == End::Reset || self.len() == 0).then_some(end)
    }

    /// When something is due, if the receiver takes it (`open`), or whether it does or not.
    pub fn next_due(&self, open: bool) -> Option<Instant> {
        let end = self.end.filter(|(_, end)| open || *end == End::Reset).map(|(at, _)| at);
        self.due.front().filter(|_| open).map(|(at, _)| *at).into_iter().chain(end).min()
    }

    /// Makes room for `more`.
    fn grow(&mut self, more: usize) {
        let mut ring = vec![0; (self.ring.len() + more).next_power_of_two()];
        let (old, new) = (self.ring.len() as u64, ring.len() as u64);
        let mut at = self.delivered;
        while at < self.taken {
            let (from, to) = ((at % old) as usize, (at % new) as usize);
            let n = (self.ring.len() - from).min(ring.len() - to).min((self.taken - at) as usize);
            ring[to..to + n].copy_from_slice(&self.ring[from..from + n]);
            at += n as u64;
        }
        self.ring = ring;
    }
}
