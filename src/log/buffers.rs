//! Block-aligned memory for direct I/O. Who holds a buffer owns it: the kernel reads from a buffer only while the
//! writer keeps it in its table of writes in flight.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::layout::{BLOCK_BYTES, align_up};

/// A heap allocation aligned to, and a multiple of, [`BLOCK_BYTES`]; zeroed at first.
pub(crate) struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its memory like a Box<[u8]>.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// At least `bytes`, rounded up to whole blocks.
    pub fn new(bytes: usize) -> Self {
        let bytes = align_up(bytes.max(1), BLOCK_BYTES);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(Self::layout(bytes)) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(Self::layout(bytes)) };
        Self { start, bytes }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_BYTES).expect("a buffer is far smaller than the address space")
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.bytes)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points at `bytes` initialised bytes owned by self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
