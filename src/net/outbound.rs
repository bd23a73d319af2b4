//! Frames waiting for one connection: bounded in bytes, newest turned away when full.

use super::framing::Frame;
use std::collections::VecDeque;
use std::io::IoSlice;

/// What a waiting frame costs beside its bytes, so that empty frames are bounded too.
pub(super) const FRAME_COST: usize = 160;

/// Pieces handed to one gathered write.
pub(super) const GATHER_MAX: usize = 256;

/// The queue has no room for a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are gone already.
    head_sent: usize,
    /// Wire bytes and [`FRAME_COST`] of all frames; a frame counts until its last byte is gone.
    bytes: usize,
    bytes_max: usize,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { frames: VecDeque::new(), head_sent: 0, bytes: 0, bytes_max }
    }

    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a frame, or turns it away when the bound would be passed. An empty queue takes any frame.
    pub(super) fn push(&mut self, frame: Frame) -> Result<(), Full> {
        let cost = frame.wire_bytes() + FRAME_COST;
        if !self.frames.is_empty() && self.bytes + cost > self.bytes_max {
            return Err(Full);
        }
        self.bytes += cost;
        self.frames.push_back(frame);
        Ok(())
    }

    /// The next pieces to write, up to `bytes_max` bytes or so; returns how many slices are set.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; GATHER_MAX], bytes_max: usize) -> usize {
        let (mut n, mut bytes, mut skip) = (0, 0, self.head_sent);
        for frame in &self.frames {
            for slice in frame.slices(skip) {
                if n == GATHER_MAX || bytes >= bytes_max {
                    return n;
                }
                bytes += slice.len();
                slices[n] = slice;
                n += 1;
            }
            skip = 0;
        }
        n
    }

    /// Forgets `n` written bytes; returns how many frames are gone by that.
    pub(super) fn consume(&mut self, n: usize) -> u64 {
        self.head_sent += n;
        let mut frames = 0;
        while let Some(first) = self.frames.front() {
            if self.head_sent < first.wire_bytes() {
                return frames;
            }
            self.head_sent -= first.wire_bytes();
            self.bytes -= first.wire_bytes() + FRAME_COST;
            self.frames.pop_front();
            frames += 1;
        }
        assert!(self.head_sent == 0, "more bytes written than were queued");
        frames
    }
}
