//! Reading and writing fixed little-endian fields; no allocation is sized by a peer before the bytes are there.

use super::error::DecodeError;
use crate::types::Digest;
use bytes::Bytes;

/// Reads a message's fields in order; slices share the buffer they came from.
pub struct Reader {
    rest: Bytes,
}

impl Reader {
    /// Reads from the first byte of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let head = self.rest.get(..N).ok_or(DecodeError::Truncated)?;
        let out = head.try_into().expect("a slice of N bytes");
        bytes::Buf::advance(&mut self.rest, N);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A digest's 32 bytes.
    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array()?))
    }

    /// A signature's 64 bytes.
    pub fn signature(&mut self) -> Result<[u8; 64], DecodeError> {
        self.array()
    }

    /// A count of items that take at least `item_bytes` each: refused if they cannot be in what is left.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, DecodeError> {
        let n = self.u32()? as usize;
        if n > self.rest.len() / item_bytes.max(1) {
            return Err(DecodeError::Truncated);
        }
        Ok(n)
    }

    /// The next `n` bytes, shared with the buffer.
    pub fn bytes(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        if n > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        Ok(self.rest.split_to(n))
    }

    /// The next `n` bytes, left in place.
    pub fn peek(&self, n: usize) -> Option<Bytes> {
        (n <= self.rest.len()).then(|| self.rest.slice(..n))
    }

    /// All that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses what follows the last field: a message has one encoding.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}

/// Writes a message's fields in order.
#[derive(Default)]
pub struct Writer {
    /// What was written so far.
    pub out: Vec<u8>,
}

impl Writer {
    /// An empty one with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.out.push(v);
        self
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// A length or count; the caller's own, so it fits.
    pub fn count(&mut self, n: usize) -> &mut Self {
        self.u32(u32::try_from(n).expect("our own messages are far below 4 Gi items"))
    }

    /// Raw bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// The finished bytes.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }
}
