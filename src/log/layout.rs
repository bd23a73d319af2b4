//! Bytes on disk. Everything is little-endian; nothing here does I/O.
//!
//! A segment file: two copies of its header, then records, packed behind each other within a group; a group (one
//! write, or several for a record larger than one) starts at a block and is padded with zeros to the next.
//!
//! ```text
//! 0        4096     8192                                                              segment bytes
//! | header | header | record record record 000 | record 000 | record ------------ 000 | zeros or older bytes |
//!                   '------- group ----------'  '- group --'  '- larger than a write -'
//! ```
//!
//! A segment header (112 bytes, the rest of its block is zero):
//!
//! ```text
//!   0  magic "DURASEG1"      8
//!   8  format                4    FORMAT
//!  12  replica               4
//!  16  cluster              16
//!  32  number                8    as in the file name, from 1; a lower one: recycled, not in use again
//!  40  salt                  8    random per life of the file; every record in it repeats it: others are of an earlier life
//!  48  first lsn             8    of the first caller's record in here
//!  56  start                 8    log bytes written before this segment (unused segment ends do not count)
//!  64  durable lsn           8    known durable when this header was written
//!  72  life                  8    0 = the file was zero-filled for this life, n = recycled n times
//!  80  chain                16    chain value before the first record
//!  96  segment bytes         8
//! 104  in-flight bytes       4    that may be in flight at once, by the options of the run that wrote this
//! 108  crc32c                4    over bytes 0..108
//! ```
//!
//! A record (header of 112 bytes, payload, zeros to a multiple of 16):
//!
//! ```text
//!   0  magic "DuRe"          4
//!   4  format                1
//!   5  kind                  1    1..=239 the caller's, 240.. the log's own
//!   6  reserved              2    zero
//!   8  payload bytes         4    at most RECORD_BYTES_CAP, here and when written
//!  12  payload crc32c        4
//!  16  lsn                   8    caller's records count from 1; the log's own repeat the last one
//!  24  seq                   8
//!  32  view                  8
//!  40  durable lsn           8    highest contiguous lsn known durable when this was written
//!  48  segment salt          8
//!  56  boot epoch            4    one more at each start of the log
//!  60  header crc32c         4    over bytes 0..60 and 64..112
//!  64  chain                16    blake3 of the previous record's header, cut to 16 bytes
//!  80  digest               32    the caller's
//! ```
//!
//! The salt is secret enough: clients choose payloads but never see a salt, so no payload can hold a valid header.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::types::{ClusterId, Digest, Lsn, ReplicaId, Seq, View};

/// Unit of writing and of alignment.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Records start at multiples of this.
pub(super) const RECORD_ALIGN: usize = 16;
/// Where records start in a segment: behind both header copies.
pub(super) const DATA_START: usize = 2 * BLOCK_BYTES;
/// Bytes of a record header.
pub(super) const HEADER_BYTES: usize = size_of::<RawRecordHeader>();
/// The largest payload ever written or believed.
pub(super) const RECORD_BYTES_CAP: usize = 64 << 20;
/// The format this build writes; it reads no other yet.
pub(super) const FORMAT: u8 = 1;
/// Own kind: first thing written at each start; its payload is a [`BootPayload`].
pub(super) const KIND_BOOT: u8 = 240;
/// Own kind: written once when idle, so that the last group's durability is on record.
pub(super) const KIND_TRAILER: u8 = 241;

const SEGMENT_MAGIC: [u8; 8] = *b"DURASEG1";
pub(super) const RECORD_MAGIC: [u8; 4] = *b"DuRe";

const _: () = assert!(HEADER_BYTES == 112 && size_of::<RawSegmentHeader>() == 112);
const _: () = assert!(HEADER_BYTES.is_multiple_of(RECORD_ALIGN) && BLOCK_BYTES.is_multiple_of(RECORD_ALIGN));

/// Hash over all record headers so far.
pub(super) type Chain = [u8; 16];

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSegmentHeader {
    magic: [u8; 8],
    format: U32,
    replica: U32,
    cluster: [u8; 16],
    number: U64,
    salt: U64,
    first_lsn: U64,
    start: U64,
    durable_lsn: U64,
    life: U64,
    chain: Chain,
    segment_bytes: U64,
    in_flight_bytes: U32,
    crc: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawRecordHeader {
    magic: [u8; 4],
    format: u8,
    kind: u8,
    reserved: [u8; 2],
    payload_bytes: U32,
    payload_crc: U32,
    lsn: U64,
    seq: U64,
    view: U64,
    durable_lsn: U64,
    salt: U64,
    boot_epoch: U32,
    crc: U32,
    chain: Chain,
    digest: [u8; 32],
}

/// What a boot record carries.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BootPayload {
    /// Bytes that may have been in flight at once under this boot's options.
    pub in_flight_bytes: U64,
}

/// A checked segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub cluster: ClusterId,
    pub replica: ReplicaId,
    pub number: u64,
    pub salt: u64,
    pub first_lsn: Lsn,
    pub start: u64,
    pub durable_lsn: Lsn,
    pub life: u64,
    pub chain: Chain,
    pub segment_bytes: u64,
    pub in_flight_bytes: u32,
}

/// A checked record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub kind: u8,
    pub payload_bytes: u32,
    pub payload_crc: u32,
    pub lsn: Lsn,
    pub seq: Seq,
    pub view: View,
    pub durable_lsn: Lsn,
    pub salt: u64,
    pub boot_epoch: u32,
    pub chain: Chain,
    pub digest: Digest,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAHeader {
    /// Nothing but zeros.
    Zero,
    /// Neither zeros nor ours, or its checksum is wrong.
    Bad,
    /// Ours and intact, but of another format version.
    OtherFormat(u32),
    /// A segment's, from when the file had another number: it was recycled and is not in use again.
    OtherLife { number: u64, life: u64 },
}

/// `n` rounded up to a multiple of `to` (a power of two).
pub(crate) const fn align_up(n: usize, to: usize) -> usize {
    (n + to - 1) & !(to - 1)
}

/// Bytes a record takes in its group.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    align_up(HEADER_BYTES + payload_bytes, RECORD_ALIGN)
}

/// The chain value behind a record with this header.
pub(super) fn chain_after(header: &[u8; HEADER_BYTES]) -> Chain {
    let mut chain = [0; 16];
    chain.copy_from_slice(&blake3::hash(header).as_bytes()[..16]);
    chain
}

impl SegmentHeader {
    /// One block: the header, then zeros.
    pub fn encode(&self, block: &mut [u8]) {
        block.fill(0);
        let mut raw = RawSegmentHeader {
            magic: SEGMENT_MAGIC,
            format: U32::new(u32::from(FORMAT)),
            replica: U32::new(self.replica.0),
            cluster: self.cluster.0,
            number: U64::new(self.number),
            salt: U64::new(self.salt),
            first_lsn: U64::new(self.first_lsn.0),
            start: U64::new(self.start),
            durable_lsn: U64::new(self.durable_lsn.0),
            life: U64::new(self.life),
            chain: self.chain,
            segment_bytes: U64::new(self.segment_bytes),
            in_flight_bytes: U32::new(self.in_flight_bytes),
            crc: U32::new(0),
        };
        let bytes = raw.as_bytes();
        raw.crc = U32::new(crc32c::crc32c(&bytes[..bytes.len() - 4]));
        block[..size_of::<RawSegmentHeader>()].copy_from_slice(raw.as_bytes());
    }

    /// Both copies, `DATA_START` bytes.
    pub fn encode_both(&self, bytes: &mut [u8]) {
        let (first, second) = bytes[..DATA_START].split_at_mut(BLOCK_BYTES);
        self.encode(first);
        self.encode(second);
    }

    pub fn decode(block: &[u8]) -> Result<Self, NotAHeader> {
        let bytes = &block[..size_of::<RawSegmentHeader>()];
        let raw = RawSegmentHeader::read_from_bytes(bytes).map_err(|_| NotAHeader::Bad)?;
        if raw.magic != SEGMENT_MAGIC || raw.crc.get() != crc32c::crc32c(&bytes[..bytes.len() - 4]) {
            return Err(if is_zero(block) { NotAHeader::Zero } else { NotAHeader::Bad });
        }
        if raw.format.get() != u32::from(FORMAT) {
            return Err(NotAHeader::OtherFormat(raw.format.get()));
        }
        Ok(Self {
            cluster: ClusterId(raw.cluster),
            replica: ReplicaId(raw.replica.get()),
            number: raw.number.get(),
            salt: raw.salt.get(),
            first_lsn: Lsn(raw.first_lsn.get()),
            start: raw.start.get(),
            durable_lsn: Lsn(raw.durable_lsn.get()),
            life: raw.life.get(),
            chain: raw.chain,
            segment_bytes: raw.segment_bytes.get(),
            in_flight_bytes: raw.in_flight_bytes.get(),
        })
    }

    /// What the two copies say in the file that bears `number`. Either alone is believed; a torn write of the first
    /// header of a life leaves the one before it in the other copy.
    pub fn decode_both(bytes: &[u8], number: u64) -> Result<Self, NotAHeader> {
        let copies = [Self::decode(&bytes[..BLOCK_BYTES]), Self::decode(&bytes[BLOCK_BYTES..DATA_START])];
        let of = |copy: &Result<Self, _>| copy.ok().filter(|header| header.number == number);
        match copies {
            [first, second] if let Some(header) = of(&first).or(of(&second)) => Ok(header),
            [Ok(other), _] | [_, Ok(other)] => {
                Err(NotAHeader::OtherLife { number: other.number, life: other.life })
            }
            [Err(other @ NotAHeader::OtherFormat(_)), _] | [_, Err(other @ NotAHeader::OtherFormat(_))] => {
                Err(other)
            }
            [Err(NotAHeader::Zero), Err(NotAHeader::Zero)] => Err(NotAHeader::Zero),
            _ => Err(NotAHeader::Bad),
        }
    }
}

impl RecordHeader {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = RawRecordHeader {
            magic: RECORD_MAGIC,
            format: FORMAT,
            kind: self.kind,
            reserved: [0; 2],
            payload_bytes: U32::new(self.payload_bytes),
            payload_crc: U32::new(self.payload_crc),
            lsn: U64::new(self.lsn.0),
            seq: U64::new(self.seq.0),
            view: U64::new(self.view.0),
            durable_lsn: U64::new(self.durable_lsn.0),
            salt: U64::new(self.salt),
            boot_epoch: U32::new(self.boot_epoch),
            crc: U32::new(0),
            chain: self.chain,
            digest: self.digest.0,
        };
        let mut bytes: [u8; HEADER_BYTES] = zerocopy::transmute!(raw);
        let crc = record_header_crc(&bytes);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the start of `bytes`; the payload length in it is within the cap, but not yet checked
    /// against the segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAHeader> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(NotAHeader::Bad)?;
        if bytes[..4] != RECORD_MAGIC {
            return Err(if is_zero(bytes) { NotAHeader::Zero } else { NotAHeader::Bad });
        }
        let raw = RawRecordHeader::read_from_bytes(bytes).map_err(|_| NotAHeader::Bad)?;
        if raw.crc.get() != record_header_crc(bytes) {
            return Err(NotAHeader::Bad);
        }
        if raw.format != FORMAT {
            return Err(NotAHeader::OtherFormat(u32::from(raw.format)));
        }
        if raw.payload_bytes.get() as usize > RECORD_BYTES_CAP {
            return Err(NotAHeader::Bad);
        }
        Ok(Self {
            kind: raw.kind,
            payload_bytes: raw.payload_bytes.get(),
            payload_crc: raw.payload_crc.get(),
            lsn: Lsn(raw.lsn.get()),
            seq: Seq(raw.seq.get()),
            view: View(raw.view.get()),
            durable_lsn: Lsn(raw.durable_lsn.get()),
            salt: raw.salt.get(),
            boot_epoch: raw.boot_epoch.get(),
            chain: raw.chain,
            digest: Digest(raw.digest),
        })
    }

    /// Whether the bytes of a header, of any format, name this salt: every format has it in the same place.
    pub fn has_salt(bytes: &[u8], salt: u64) -> bool {
        bytes[48..56] == salt.to_le_bytes()
    }

    /// Whether the log wrote it for itself; such a record repeats the lsn before it.
    pub fn is_own(&self) -> bool {
        self.kind >= KIND_BOOT
    }

    /// Bytes in the segment, padding included.
    pub fn bytes(&self) -> usize {
        record_bytes(self.payload_bytes as usize)
    }
}

fn record_header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), &bytes[64..HEADER_BYTES])
}

/// Whether all bytes are zero.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Comparing with itself one byte on is a memcmp: as fast as the memory.
    bytes.first().is_none_or(|&first| first == 0)
        && (bytes.len() < 2 || bytes[1..] == bytes[..bytes.len() - 1])
}
