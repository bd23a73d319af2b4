//! Frames on the wire, and whole frames out of a stream of bytes.
//!
//! Shape, little-endian, 16 bytes of header and then the payload:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | length of the payload, bytes |
//! | 4 | 2 | kind |
//! | 6 | 2 | flags, 0 in this version |
//! | 8 | 4 | crc32c of the header without this field, then the payload |
//! | 12 | 4 | reserved, 0 |
//!
//! The checksum finds our own mistakes and bad memory; who sent a frame is the channel's affair.

use bytes::Bytes;
use std::io::IoSlice;

/// Bytes of a frame before its payload.
pub const HEADER_BYTES: usize = 16;

/// Most pieces a payload is sent from; more are joined by copying.
pub const PARTS_MAX: usize = 3;

/// Kinds from here on are net's own (Hello and its answers); nobody else may send or receive them.
pub const NET_KINDS: u16 = 0xff00;

/// A payload of at least this is received into a buffer of its own, straight from the socket where the transport allows.
pub(super) const DIRECT_BYTES_MIN: usize = 64 * 1024;

/// How far ahead of the bytes received a buffer is touched: a peer that promises much and sends little commits little.
const TOUCH_BYTES: usize = 256 * 1024;

/// One message on the wire: encoded once, sent to many. Cloning counts references and copies no payload.
#[derive(Clone, Debug)]
pub struct Frame {
    header: [u8; HEADER_BYTES],
    payload_bytes: usize,
    parts: [Bytes; PARTS_MAX],
}

impl Frame {
    /// A frame of one piece.
    pub fn new(kind: u16, payload: Bytes) -> Self {
        Self::of_parts(kind, [payload])
    }

    /// A frame whose payload is the concatenation of `parts`; pieces beyond [`PARTS_MAX`] are joined by copying.
    ///
    /// Panics if `kind` is one of net's own ([`NET_KINDS`]): kinds are chosen by our code, never by a peer.
    pub fn of_parts(kind: u16, parts: impl IntoIterator<Item = Bytes>) -> Self {
        assert!(kind < NET_KINDS, "frame kind {kind:#x} belongs to net");
        Self::encode(kind, parts)
    }

    pub(super) fn encode(kind: u16, parts: impl IntoIterator<Item = Bytes>) -> Self {
        let mut given = parts.into_iter().filter(|part| !part.is_empty());
        let mut parts = [const { Bytes::new() }; PARTS_MAX];
        for slot in &mut parts {
            *slot = given.next().unwrap_or_default();
        }
        if let Some(more) = given.next() {
            let mut joined = Vec::from(&parts[PARTS_MAX - 1][..]);
            joined.extend_from_slice(&more);
            given.for_each(|part| joined.extend_from_slice(&part));
            parts[PARTS_MAX - 1] = joined.into();
        }
        let payload_bytes = parts.iter().map(Bytes::len).sum();
        let mut header = [0; HEADER_BYTES];
        // A payload beyond 4 GiB is turned away before it is queued, by `payload_bytes`.
        header[0..4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        header[4..6].copy_from_slice(&kind.to_le_bytes());
        let crc = parts.iter().fold(header_checksum(&header), |crc, part| crc32c::crc32c_append(crc, part));
        header[8..12].copy_from_slice(&crc.to_le_bytes());
        Self { header, payload_bytes, parts }
    }

    /// What the receiver takes it for.
    pub fn kind(&self) -> u16 {
        u16::from_le_bytes([self.header[4], self.header[5]])
    }

    /// The payload in one piece, copied.
    pub fn payload(&self) -> Bytes {
        self.parts.concat().into()
    }

    /// Bytes of payload.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes on the wire, without what TLS adds.
    pub fn wire_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes
    }

    /// The frame's pieces from byte `skip` on, without empty ones.
    pub(super) fn slices(&self, skip: usize) -> impl Iterator<Item = IoSlice<'_>> {
        let mut skip = skip;
        std::iter::once(&self.header[..]).chain(self.parts.iter().map(|part| &part[..])).filter_map(
            move |piece| {
                let rest = piece.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(piece.len());
                (!rest.is_empty()).then(|| IoSlice::new(rest))
            },
        )
    }
}

/// The first link of a frame's checksum: its header without the checksum's own field.
fn header_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[0..8]), &header[12..16])
}

/// Why bytes are not a frame. After any of these the stream has no frames any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The length passes what this peer may send now.
    #[error("a frame of {length} bytes, {max} are allowed")]
    TooLong {
        /// Announced payload, bytes.
        length: u32,
        /// Allowed payload, bytes.
        max: u32,
    },
    /// Flags or reserved bytes are set.
    #[error("a frame header with unknown flags")]
    Flags,
    /// The checksum differs.
    #[error("a frame with a wrong checksum")]
    Checksum,
}

/// Puts frames together from bytes as they come. Holds at most one unfinished frame.
#[derive(Debug)]
pub struct Assembler {
    payload_bytes_max: u32,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Option<Body>,
}

/// A payload being received. `buffer.len()` bytes are initialised, `filled` of them received.
#[derive(Debug)]
struct Body {
    kind: u16,
    length: usize,
    expected: u32,
    crc: u32,
    buffer: Vec<u8>,
    filled: usize,
}

impl Assembler {
    /// Accepts payloads of up to `payload_bytes_max`.
    pub fn new(payload_bytes_max: u32) -> Self {
        Self { payload_bytes_max, header: [0; HEADER_BYTES], header_filled: 0, body: None }
    }

    /// Changes the bound for the frames whose header is still to come.
    pub fn set_payload_bytes_max(&mut self, max: u32) {
        self.payload_bytes_max = max;
    }

    /// The next whole frame, taking what it needs from the front of `input`; `None` when `input` is used up.
    ///
    /// The payload is a buffer of exactly its size: holding a small one pins nothing else.
    /// Errors: [`FrameError`]; the stream is then unusable.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<(u16, Bytes)>, FrameError> {
        loop {
            if let Some(body) = &mut self.body {
                body.take(input);
                if body.filled < body.length {
                    return Ok(None);
                }
                let body = self.body.take().expect("matched above");
                return body.finish().map(Some);
            }
            if self.header_filled == 0 && input.len() >= HEADER_BYTES {
                // The common case: whole small frames lie in the input one behind the other.
                self.header.copy_from_slice(&input[..HEADER_BYTES]);
                *input = &input[HEADER_BYTES..];
            } else {
                let n = input.len().min(HEADER_BYTES - self.header_filled);
                self.header[self.header_filled..self.header_filled + n].copy_from_slice(&input[..n]);
                self.header_filled += n;
                *input = &input[n..];
                if self.header_filled < HEADER_BYTES {
                    return Ok(None);
                }
            }
            self.header_filled = 0;
            self.body = Some(self.begin()?);
        }
    }

    /// Room of the payload being received, for reading straight into it; `None` unless much of it is missing.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        let body = self.body.as_mut()?;
        if body.length - body.filled < DIRECT_BYTES_MIN {
            return None;
        }
        let upto = body.length.min(body.filled + TOUCH_BYTES);
        if body.buffer.len() < upto {
            body.buffer.resize(upto, 0);
        }
        Some(&mut body.buffer[body.filled..])
    }

    /// Tells that `n` bytes were read into [`Assembler::room`]; call [`Assembler::next`] after it.
    pub fn filled(&mut self, n: usize) {
        let body = self.body.as_mut().expect("only after `room` gave some");
        assert!(n <= body.buffer.len() - body.filled);
        body.crc = crc32c::crc32c_append(body.crc, &body.buffer[body.filled..body.filled + n]);
        body.filled += n;
    }

    fn begin(&self) -> Result<Body, FrameError> {
        let h = &self.header;
        let length = u32::from_le_bytes([h[0], h[1], h[2], h[3]]);
        if length > self.payload_bytes_max {
            return Err(FrameError::TooLong { length, max: self.payload_bytes_max });
        }
        if h[6..8] != [0; 2] || h[12..16] != [0; 4] {
            return Err(FrameError::Flags);
        }
        Ok(Body {
            kind: u16::from_le_bytes([h[4], h[5]]),
            length: length as usize,
            expected: u32::from_le_bytes([h[8], h[9], h[10], h[11]]),
            crc: header_checksum(h),
            // Reserves addresses; memory is committed as bytes arrive.
            buffer: Vec::with_capacity(length as usize),
            filled: 0,
        })
    }
}

impl Body {
    /// Copies what is missing from the front of `input`.
    fn take(&mut self, input: &mut &[u8]) {
        let n = input.len().min(self.length - self.filled);
        if n == 0 {
            return;
        }
        let (mine, rest) = input.split_at(n);
        *input = rest;
        self.crc = crc32c::crc32c_append(self.crc, mine);
        let touched = n.min(self.buffer.len() - self.filled);
        self.buffer[self.filled..self.filled + touched].copy_from_slice(&mine[..touched]);
        self.buffer.extend_from_slice(&mine[touched..]);
        self.filled += n;
    }

    fn finish(self) -> Result<(u16, Bytes), FrameError> {
        debug_assert_eq!(self.buffer.len(), self.length);
        if self.crc != self.expected {
            return Err(FrameError::Checksum);
        }
        Ok((self.kind, self.buffer.into()))
    }
}
