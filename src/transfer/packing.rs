//! [core] A chunk as it travels: as it is, or compressed where that pays.
//!
//! A leecher says in its request whether it takes compressed chunks ([`GetChunks`](super::messages::Message::GetChunks)); digests are
//! always of what is inside. Whether it pays is seen by a sample: what cannot be compressed costs no more than that, and of many such
//! in a row only every eighth is looked at. Over a link that takes more than the compressor gives nothing is compressed at all.
//!
//! A packed chunk names its length. The name is believed only so far as a bound and as what LZ4 can reach at all allow, so no more
//! memory is taken than is named, and that is little for few bytes; what comes out must be exactly as long.

use bytes::Bytes;
use lz4_flex::block;

/// Longer chunks travel as they are; a packed one that claims to be longer is a lie.
pub const UNPACKED_MAX: usize = 16 << 20;
/// No LZ4 block is so many times smaller than what it holds.
const RATIO_MAX: usize = 255;
/// Shorter ones are not worth a look.
const WORTH_MIN: usize = 256;
/// Looked at first.
const SAMPLE: usize = 2048;
/// Of what is compressed so much must be saved: 1/8.
const SAVED_PART: usize = 8;
/// Samples in a row without success after which only every so many chunks are looked at.
const MISSES: u32 = 8;
/// Bytes per second that a link must not exceed: less than what one core compresses.
pub const LINK_MAX: u64 = 250_000_000;

/// A chunk's bytes, as they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    bytes: Bytes,
    /// It is packed, and this is what it claims to hold.
    holds: Option<u32>,
}

impl Body {
    /// As it is.
    pub fn plain(bytes: Bytes) -> Self {
        Self { bytes, holds: None }
    }

    /// Packed.
    pub fn packed(bytes: Bytes, holds: u32) -> Self {
        Self { bytes, holds: Some(holds) }
    }

    fn plausible(&self) -> Option<usize> {
        let holds = self.holds? as usize;
        (holds <= UNPACKED_MAX && holds <= self.bytes.len().saturating_mul(RATIO_MAX)).then_some(holds)
    }

    /// Bytes that it takes in memory once it is opened; what it claims counts only if it can be.
    pub fn len(&self) -> u64 {
        self.plausible().unwrap_or(self.bytes.len()) as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that came over the link.
    pub fn sent(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// What is inside, if it is what it claims to be. Costs: the bytes once more, if they are packed.
    pub fn open(self) -> Option<Bytes> {
        if self.holds.is_none() {
            return Some(self.bytes);
        }
        let mut out = vec![0; self.plausible()?];
        let length = block::decompress_into(&self.bytes, &mut out).ok()?;
        (length == out.len()).then(|| out.into())
    }
}

/// Decides which chunks are packed, for one leecher.
#[derive(Default)]
pub struct Packer {
    misses: u32,
    /// Passed over since the last look.
    passed: u32,
}

impl Packer {
    /// The chunk packed, if that is worth it.
    pub fn pack(&mut self, raw: &[u8]) -> Option<Bytes> {
        if raw.len() < WORTH_MIN || raw.len() > UNPACKED_MAX {
            return None;
        }
        if self.misses >= MISSES {
            self.passed += 1;
            if self.passed < MISSES {
                return None;
            }
        }
        self.passed = 0;
        let packed = worth(raw).map(Bytes::from);
        self.misses = if packed.is_some() { 0 } else { self.misses.saturating_add(1) };
        packed
    }
}

fn saves(packed: usize, raw: usize) -> bool {
    packed <= raw - raw / SAVED_PART
}

fn worth(raw: &[u8]) -> Option<Vec<u8>> {
    // From the middle: the beginning may be a head unlike the rest.
    let middle = raw.len() / 2;
    let sample = &raw[middle - middle.min(SAMPLE / 2)..(middle + SAMPLE / 2).min(raw.len())];
    if raw.len() > 2 * SAMPLE && !saves(block::compress(sample).len(), sample.len()) {
        return None;
    }
    let packed = block::compress(raw);
    saves(packed.len(), raw.len()).then_some(packed)
}
