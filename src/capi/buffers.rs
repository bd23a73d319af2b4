//! Copies of a host's large records, in memory that is used again: fresh memory is mapped, zeroed and unmapped page by page, and costs more
//! than the copy.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Below this the allocator does the same.
const LARGE_BYTES: usize = 64 << 10;
/// So much is kept for later records at most; longer ones are not.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// The memory of one log.
#[derive(Default)]
pub(super) struct Buffers(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// Empty; the one that was used last is the last.
    buffers: VecDeque<Vec<u8>>,
    /// Of their capacities.
    bytes: usize,
}

/// A copy. Its memory goes home when its last reader is done.
struct Copy {
    buffer: Vec<u8>,
    home: Arc<Mutex<Kept>>,
}

impl Buffers {
    /// A copy of the parts, one behind the other.
    pub fn copy(&self, parts: &[&[u8]]) -> Bytes {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes < LARGE_BYTES {
            return match parts {
                [one] => Bytes::copy_from_slice(one),
                many => many.concat().into(),
            };
        }
        // Records of about one size find each other's memory, and small ones do not sit in that of large ones.
        let capacity = bytes.next_power_of_two();
        let kept = self.0.lock().take(capacity);
        let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(capacity));
        parts.iter().for_each(|part| buffer.extend_from_slice(part));
        Bytes::from_owner(Copy { buffer, home: self.0.clone() })
    }
}

impl Kept {
    fn take(&mut self, capacity: usize) -> Option<Vec<u8>> {
        // The warmest.
        let at = self.buffers.iter().rposition(|buffer| buffer.capacity() == capacity)?;
        self.bytes -= capacity;
        self.buffers.remove(at)
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.bytes += buffer.capacity();
        self.buffers.push_back(buffer);
        while self.bytes > KEPT_BYTES_MAX {
            self.bytes -= self.buffers.pop_front().map_or(0, |oldest| oldest.capacity());
        }
    }
}

impl AsRef<[u8]> for Copy {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.home.lock().put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
impl Buffers {
    /// How many are kept, and their bytes.
    pub fn kept(&self) -> (usize, usize) {
        let kept = self.0.lock();
        (kept.buffers.len(), kept.bytes)
    }
}
