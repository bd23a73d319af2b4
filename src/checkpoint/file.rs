//! A checkpoint's bytes: one object under one root.
//!
//! ```text
//! 0       4096                                                           (blocks of 4096 bytes)
//! | head  | body, in chunks of 1 MiB, the last one padded with zeros | digests of the chunks, padded |
//!
//! body:   client table | header of the state | pages: (length u32, bytes)… a free page has length 0
//!                                            | or only the changed ones: (index u64, length u32, bytes)… ascending
//!                                            | or the canonical bytes of a service without pages
//! ```
//! A file with changed pages only builds on another one, which it names by place and root: its own root is that of the whole chain,
//! down to the file with all pages.
//!
//! The head is written last; a file gets its name after that, and only when all of it is durable. The root is the digest of head and
//! chunk digests: whoever trusts the root can trust every chunk as it comes.
//!
//! Head (the rest of its block is zero):
//! ```text
//!   0  magic "DURACKPT"     8      56  batch history up to seq   32     144  table bytes         8
//!   8  format               4      88  reply history             32     152  header bytes        8
//!  12  replica              4     120  agreed time                8     160  body bytes          8
//!  16  cluster             16     128  pages, 2^64-1: none        8     168  zero               24
//!  32  seq                  8     136  n << 32 | model            8
//!  40  written by (format of the service's state)  16, zero for now
//! ```
//! Format 1 has all pages, and ends there. Format 2 goes on:
//! ```text
//! 192  seq of the file before  8     200  its root             32     232  changed pages       8
//! ```
//! Behind it in the same block: root (32), crc32c of all bytes before it.

use std::io::{self, Write};
use std::sync::Arc;

use crate::log::storage::DiskFile;
use crate::log::{AlignedBuffer, BLOCK_BYTES};
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;

/// Unit of reading, hashing and writing.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The formats this build writes and reads: all pages, and changed ones.
const FORMATS: [u32; 2] = [1, 2];
const MAGIC: [u8; 8] = *b"DURACKPT";
const FIELDS: [usize; 2] = [192, 240];
const NO_PAGES: u64 = u64::MAX;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something in it is not what was written.
    #[error("damaged in its {0}")]
    Damaged(&'static str),
    /// It belongs to something else.
    #[error("{0}")]
    Foreign(String),
    /// What is written in it is no state of this service.
    #[error("its state cannot be restored: {0}")]
    State(#[from] crate::service::RestoreError),
}

/// What a checkpoint is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Whose.
    pub cluster: ClusterId,
    /// Who wrote it.
    pub replica: ReplicaId,
    /// Who replicates.
    pub members: Members,
    /// Executed up to here.
    pub seq: Seq,
    /// The batch history up to there.
    pub batches: Digest,
    /// The reply history.
    pub replies: Digest,
    /// The agreed time.
    pub time: WallTime,
    /// Pages of the state; `None`: it is one string of bytes.
    pub pages: Option<u64>,
    /// Bytes of the client table.
    pub table_bytes: u64,
    /// Bytes of what the service keeps beside its pages.
    pub header_bytes: u64,
    /// Bytes of all of it.
    pub body_bytes: u64,
    /// What it builds on; `None`: it has all pages.
    pub previous: Option<Previous>,
}

/// The file under one that has changed pages only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Previous {
    /// Its place.
    pub seq: Seq,
    /// Its root.
    pub root: Digest,
    /// How many pages changed since.
    pub changed: u64,
}

impl Head {
    fn fields(&self) -> Vec<u8> {
        let kind = usize::from(self.previous.is_some());
        let mut out = vec![0; FIELDS[kind]];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &FORMATS[kind].to_le_bytes());
        put(12, &self.replica.0.to_le_bytes());
        put(16, &self.cluster.0);
        put(32, &self.seq.0.to_le_bytes());
        put(56, &self.batches.0);
        put(88, &self.replies.0);
        put(120, &self.time.0.to_le_bytes());
        put(128, &self.pages.unwrap_or(NO_PAGES).to_le_bytes());
        let model = match self.members.model() {
            FaultModel::Crash => 1,
            FaultModel::Byzantine => 2,
        };
        put(136, &(u64::from(self.members.n()) << 32 | model).to_le_bytes());
        put(144, &self.table_bytes.to_le_bytes());
        put(152, &self.header_bytes.to_le_bytes());
        put(160, &self.body_bytes.to_le_bytes());
        if let Some(Previous { seq, root, changed }) = &self.previous {
            put(192, &seq.0.to_le_bytes());
            put(200, &root.0);
            put(232, &changed.to_le_bytes());
        }
        out
    }

    /// From its block, with the root behind it. Errors: damage; a format or a group that is not this one.
    pub(super) fn read(block: &[u8], members: Members) -> Result<(Self, Digest), CheckpointError> {
        let (kind, root) = checked(block)?;
        Ok((Self::of(&block[..FIELDS[kind]], members)?, root))
    }

    fn of(fields: &[u8], members: Members) -> Result<Self, CheckpointError> {
        let u64_at = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("4 bytes"));
        let digest = |at: usize| Digest(fields[at..at + 32].try_into().expect("32 bytes"));
        let pages = Some(u64_at(128)).filter(|pages| *pages != NO_PAGES);
        let head = Self {
            cluster: ClusterId(fields[16..32].try_into().expect("16 bytes")),
            replica: ReplicaId(u32_at(12)),
            members,
            seq: Seq(u64_at(32)),
            batches: digest(56),
            replies: digest(88),
            time: WallTime(u64_at(120)),
            pages,
            table_bytes: u64_at(144),
            header_bytes: u64_at(152),
            body_bytes: u64_at(160),
            previous: (fields.len() == FIELDS[1]).then(|| Previous {
                seq: Seq(u64_at(192)),
                root: digest(200),
                changed: u64_at(232),
            }),
        };
        // Whatever this build does not write is not taken for something else, the group among it.
        if head.fields() != fields {
            return Err(CheckpointError::Foreign(
                "of another group, or with fields this build does not know".into(),
            ));
        }
        let builds = head.previous.is_none_or(|p| p.seq < head.seq && pages.is_some());
        let start = head.table_bytes.checked_add(head.header_bytes);
        if !builds || start.is_none_or(|start| start > head.body_bytes) {
            return Err(CheckpointError::Damaged("head"));
        }
        Ok(head)
    }

    pub(super) fn root(&self, digests: &[Digest]) -> Digest {
        let digests = zerocopy::IntoBytes::as_bytes(digests);
        DigestAlgorithm::Blake3.hash(&[b"duramen checkpoint", &self.fields(), digests])
    }
}

/// What a head says that matters before anybody knows whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// The place of the file it builds on.
    pub previous: Option<Seq>,
    /// Its root.
    pub root: Digest,
    /// Bytes of its body.
    pub body_bytes: u64,
}

impl Glance {
    /// `None`: damaged, or of an unknown format.
    pub fn at(block: &[u8]) -> Option<Self> {
        let (kind, root) = checked(block).ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
        Some(Self { previous: (kind == 1).then(|| Seq(u64_at(192))), root, body_bytes: u64_at(160) })
    }
}

/// Which of the formats a head's block has, and the root in it. Errors: damage; a format that this build does not know.
fn checked(block: &[u8]) -> Result<(usize, Digest), CheckpointError> {
    // The checksum is the last that is written, however long a format's head is.
    let end = block.iter().rposition(|b| *b != 0).map_or(0, |last| (last + 1).next_multiple_of(4));
    let whole = end >= FIELDS[0] + 36
        && block[end - 4..end] == crc32c::crc32c(&block[..end - 4]).to_le_bytes()
        && block[..8] == MAGIC;
    if !whole {
        return Err(CheckpointError::Damaged("head"));
    }
    let format = u32::from_le_bytes(block[8..12].try_into().expect("4 bytes"));
    let Some(kind) = FORMATS.iter().position(|known| *known == format) else {
        return Err(CheckpointError::Foreign(format!(
            "written in format {format}; this build reads {} and {} only",
            FORMATS[0], FORMATS[1]
        )));
    };
    let fields = FIELDS[kind];
    match end == fields + 36 {
        true => Ok((kind, Digest(block[fields..fields + 32].try_into().expect("32 bytes")))),
        false => Err(CheckpointError::Damaged("head")),
    }
}

/// Writes a body as it comes; calls `pace` with the bytes of each chunk before it is written.
pub struct BodyWriter<'a> {
    file: Arc<dyn DiskFile>,
    buffer: AlignedBuffer,
    filled: usize,
    at: u64,
    digests: Vec<Digest>,
    bytes: u64,
    pace: &'a mut dyn FnMut(usize) -> io::Result<()>,
}

impl<'a> BodyWriter<'a> {
    /// Into a fresh file.
    pub(super) fn new(file: Arc<dyn DiskFile>, pace: &'a mut dyn FnMut(usize) -> io::Result<()>) -> Self {
        let (buffer, at) = (AlignedBuffer::new(CHUNK_BYTES), BLOCK_BYTES as u64);
        Self { file, buffer, filled: 0, at, digests: Vec::new(), bytes: 0, pace }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn chunk(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        (self.pace)(self.filled)?;
        self.digests.push(DigestAlgorithm::Blake3.hash(&[&self.buffer[..self.filled]]));
        let end = self.filled.next_multiple_of(BLOCK_BYTES);
        self.buffer[self.filled..end].fill(0);
        self.file.write(&self.buffer[..end], self.at, false)?;
        self.at += end as u64;
        self.filled = 0;
        Ok(())
    }

    /// Ends the body: the rest needs the head.
    pub fn finish(mut self) -> io::Result<Body> {
        self.chunk()?;
        let Self { file, at, digests, bytes, .. } = self;
        let list = zerocopy::IntoBytes::as_bytes(&digests[..]);
        let mut at = at;
        let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
        for part in list.chunks(CHUNK_BYTES) {
            let end = part.len().next_multiple_of(BLOCK_BYTES);
            buffer[..part.len()].copy_from_slice(part);
            buffer[part.len()..end].fill(0);
            file.write(&buffer[..end], at, false)?;
            at += end as u64;
        }
        // What was foreseen and did not come.
        file.cut(at)?;
        file.sync()?;
        Ok(Body { file, digests, bytes })
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK_BYTES - self.filled);
        self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
        self.filled += n;
        self.bytes += n as u64;
        if self.filled == CHUNK_BYTES {
            self.chunk()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body on disk without its head.
pub struct Body {
    file: Arc<dyn DiskFile>,
    digests: Vec<Digest>,
    bytes: u64,
}

impl Body {
    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the head and makes all of it durable. Gives the root.
    pub fn seal(self, head: &Head) -> io::Result<Digest> {
        assert_eq!(head.body_bytes, self.bytes, "the head is this body's");
        let root = head.root(&self.digests);
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        let fields = head.fields();
        let end = fields.len();
        block[..end].copy_from_slice(&fields);
        block[end..end + 32].copy_from_slice(&root.0);
        let crc = crc32c::crc32c(&block[..end + 32]);
        block[end + 32..end + 36].copy_from_slice(&crc.to_le_bytes());
        self.file.write(&block, 0, false)?;
        self.file.sync()?;
        Ok(root)
    }
}
