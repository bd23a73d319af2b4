//! What transfer says on its own connections. Kind numbers are never reused.
//!
//! | kind | message | sender → receiver | meaning |
//! |---|---|---|---|
//! | 64 | [`Ask`](Message::Ask) | leecher → all | which states do you have? |
//! | 65 | [`Offer`](Message::Offer) | seeder → leecher | these, each named by a quorum |
//! | 66 | [`GetManifest`](Message::GetManifest) | leecher → one | how is this one to be checked? |
//! | 67 | [`Manifest`](Message::Manifest) | seeder → leecher | so |
//! | 68 | [`GetDigests`](Message::GetDigests) | leecher → one | digests of the pages under these nodes |
//! | 69 | [`Digests`](Message::Digests) | seeder → leecher | these |
//! | 70 | [`GetChunks`](Message::GetChunks) | leecher → each | send these |
//! | 71 | [`Chunk`](Message::Chunk) | seeder → leecher | one of them |
//! | 72 | [`Cancel`](Message::Cancel) | leecher → one | do not send these if they are not sent yet |
//! | 73 | [`Gone`](Message::Gone) | seeder → leecher | I do not have that state any more |
//! | 75 | [`Packed`](Message::Packed) | seeder → leecher | one of them, compressed |
//! | 74 | [`End`](Message::End) | leecher → all | you need not keep that state for me |

use super::image::Part;
use crate::net::Frame;
use crate::types::*;
use crate::wire::codec::{Reader, Writer};
use crate::wire::error::DecodeError;
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use std::ops::Range;

/// States that one replica offers.
const OFFERS_MAX: usize = 8;
/// The frame kind of [`Message::Chunk`].
pub const CHUNK: u16 = 71;
/// The frame kind of [`Message::Packed`].
pub const PACKED: u16 = 75;
/// In [`Message::GetChunks`]: these take the place of what is not sent yet; compressed ones are taken.
const REPLACE: u8 = 1;
const TAKES_PACKED: u8 = 2;
/// Nodes whose digests are asked for at once: 64 pages each.
pub const NODES_MAX: u64 = 128;
/// Ranges in one request.
pub const RANGES_MAX: usize = 4096;

/// Any of them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Ask,
    Offer(Vec<StateCertificate>),
    GetManifest(Seq),
    Manifest { seq: Seq, manifest: Bytes },
    GetDigests { seq: Seq, part: Part, first: u64, nodes: u64 },
    Digests { seq: Seq, part: Part, first: u64, digests: Vec<Digest> },
    GetChunks { seq: Seq, round: u32, ranges: Vec<Range<u64>>, replace: bool, packed: bool, again: Vec<u64> },
    Chunk { seq: Seq, chunk: u64, bytes: Bytes },
    Packed { seq: Seq, chunk: u64, holds: u32, bytes: Bytes },
    Cancel { seq: Seq, ranges: Vec<Range<u64>> },
    Gone(Seq),
    End(Seq),
}

fn write_ranges(ranges: &[Range<u64>], w: &mut Writer) {
    w.u32(ranges.len() as u32);
    for range in ranges {
        w.u64(range.start).u64(range.end);
    }
}

fn read_ranges(r: &mut Reader) -> Result<Vec<Range<u64>>, DecodeError> {
    let count = r.count(16)?;
    if count > RANGES_MAX {
        return Err(DecodeError::TooLarge);
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let range = r.u64()?..r.u64()?;
        if range.is_empty() {
            return Err(DecodeError::BadValue);
        }
        ranges.push(range);
    }
    Ok(ranges)
}

impl Message {
    /// Whether a seeder says it, to one that fetches; all else is for a seeder.
    pub fn is_of_seeder(&self) -> bool {
        match self {
            Self::Offer(_)
            | Self::Manifest { .. }
            | Self::Digests { .. }
            | Self::Chunk { .. }
            | Self::Packed { .. }
            | Self::Gone(_) => true,
            Self::Ask
            | Self::GetManifest(_)
            | Self::GetDigests { .. }
            | Self::GetChunks { .. }
            | Self::Cancel { .. }
            | Self::End(_) => false,
        }
    }

    /// For the wire.
    pub fn frame(&self) -> Frame {
        let mut w = Writer::default();
        let (kind, tail) = match self {
            Self::Ask => (64, Bytes::new()),
            Self::Offer(marks) => {
                w.u32(marks.len() as u32);
                marks.iter().for_each(|mark| mark.write(&mut w));
                (65, Bytes::new())
            }
            Self::GetManifest(seq) => {
                w.u64(seq.0);
                (66, Bytes::new())
            }
            Self::Manifest { seq, manifest } => {
                w.u64(seq.0);
                (67, manifest.clone())
            }
            Self::GetDigests { seq, part, first, nodes } => {
                w.u64(seq.0).u8(*part as u8).u64(*first).u64(*nodes);
                (68, Bytes::new())
            }
            Self::Digests { seq, part, first, digests } => {
                w.u64(seq.0).u8(*part as u8).u64(*first);
                digests.iter().for_each(|digest| {
                    w.raw(&digest.0);
                });
                (69, Bytes::new())
            }
            Self::GetChunks { seq, round, ranges, replace, packed, again } => {
                let flags = (REPLACE * u8::from(*replace)) | (TAKES_PACKED * u8::from(*packed));
                w.u64(seq.0).u32(*round).u8(flags);
                write_ranges(ranges, &mut w);
                w.u32(again.len() as u32);
                again.iter().for_each(|chunk| {
                    w.u64(*chunk);
                });
                (70, Bytes::new())
            }
            Self::Chunk { seq, chunk, bytes } => {
                w.u64(seq.0).u64(*chunk);
                (CHUNK, bytes.clone())
            }
            Self::Packed { seq, chunk, holds, bytes } => {
                w.u64(seq.0).u64(*chunk).u32(*holds);
                (PACKED, bytes.clone())
            }
            Self::Cancel { seq, ranges } => {
                w.u64(seq.0);
                write_ranges(ranges, &mut w);
                (72, Bytes::new())
            }
            Self::Gone(seq) => {
                w.u64(seq.0);
                (73, Bytes::new())
            }
            Self::End(seq) => {
                w.u64(seq.0);
                (74, Bytes::new())
            }
        };
        Frame::of_parts(kind, [w.finish(), tail])
    }

    /// From the wire: well formed, and no more.
    pub fn decode(kind: u16, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let part = |r: &mut Reader| match r.u8()? {
            0 => Ok(Part::Table),
            1 => Ok(Part::State),
            _ => Err(DecodeError::BadValue),
        };
        let message = match kind {
            64 => Self::Ask,
            65 => {
                let count = r.u32()? as usize;
                if count > OFFERS_MAX {
                    return Err(DecodeError::TooLarge);
                }
                Self::Offer((0..count).map(|_| StateCertificate::read(&mut r)).collect::<Result<_, _>>()?)
            }
            66 => Self::GetManifest(Seq(r.u64()?)),
            67 => Self::Manifest { seq: Seq(r.u64()?), manifest: r.rest() },
            68 => {
                let (seq, part, first, nodes) = (Seq(r.u64()?), part(&mut r)?, r.u64()?, r.u64()?);
                if nodes > NODES_MAX {
                    return Err(DecodeError::TooLarge);
                }
                Self::GetDigests { seq, part, first, nodes }
            }
            69 => {
                let (seq, part, first) = (Seq(r.u64()?), part(&mut r)?, r.u64()?);
                let mut digests = Vec::with_capacity(r.left() / 32);
                while r.left() > 0 {
                    digests.push(r.digest()?);
                }
                Self::Digests { seq, part, first, digests }
            }
            70 => {
                let (seq, round) = (Seq(r.u64()?), r.u32()?);
                let flags = r.u8()?;
                if flags > REPLACE | TAKES_PACKED {
                    return Err(DecodeError::BadValue);
                }
                let (replace, packed) = (flags & REPLACE != 0, flags & TAKES_PACKED != 0);
                let ranges = read_ranges(&mut r)?;
                let count = r.count(8)?;
                let again = (0..count).map(|_| r.u64()).collect::<Result<_, _>>()?;
                Self::GetChunks { seq, round, ranges, replace, packed, again }
            }
            CHUNK => Self::Chunk { seq: Seq(r.u64()?), chunk: r.u64()?, bytes: r.rest() },
            PACKED => {
                let (seq, chunk, holds) = (Seq(r.u64()?), r.u64()?, r.u32()?);
                Self::Packed { seq, chunk, holds, bytes: r.rest() }
            }
            72 => Self::Cancel { seq: Seq(r.u64()?), ranges: read_ranges(&mut r)? },
            73 => Self::Gone(Seq(r.u64()?)),
            74 => Self::End(Seq(r.u64()?)),
            _ => return Err(DecodeError::UnknownKind),
        };
        r.end()?;
        Ok(message)
    }
}
