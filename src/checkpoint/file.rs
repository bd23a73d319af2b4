//! A checkpoint's bytes: one object under one root.
//!
//! ```text
//! 0       4096                                                           (blocks of 4096 bytes)
//! | head  | body, in chunks of 1 MiB, the last one padded with zeros | digests of the chunks, padded |
//!
//! body:   client table | header of the state | pages: (length u32, bytes)… a free page has length 0
//!                                            | or the canonical bytes of a service without pages
//! ```
//! The head is written last; a file gets its name after that, and only when all of it is durable. The root is the digest of head and
//! chunk digests: whoever trusts the root can trust every chunk as it comes.
//!
//! Head (192 bytes, the rest of its block is zero):
//! ```text
//!   0  magic "DURACKPT"     8      56  batch history up to seq   32     144  table bytes         8
//!   8  format               4      88  reply history             32     152  header bytes        8
//!  12  replica              4     120  agreed time                8     160  body bytes          8
//!  16  cluster             16     128  pages, 2^64-1: none        8     168  zero               24
//!  32  seq                  8     136  n << 32 | model            8
//!  40  written by (format of the service's state)  16, zero for now
//! ```
//! Behind it in the same block: root (32), crc32c of the 224 bytes before it.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};

use crate::log::Progress;
use crate::log::storage::DiskFile;
use crate::log::{AlignedBuffer, BLOCK_BYTES};
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;

/// Unit of reading, hashing and writing.
pub const CHUNK_BYTES: usize = 1 << 20;
/// The format this build writes and reads.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"DURACKPT";
const FIELDS: usize = 192;
const NO_PAGES: u64 = u64::MAX;
/// Chunks read ahead of the state that is built from them.
const AHEAD: usize = 16;

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
}

impl Head {
    fn fields(&self) -> [u8; FIELDS] {
        let mut out = [0; FIELDS];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(8, &FORMAT.to_le_bytes());
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
        out
    }

    fn of(fields: &[u8], members: Members) -> Result<Self, CheckpointError> {
        let u64_at = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("4 bytes"));
        let digest = |at: usize| Digest(fields[at..at + 32].try_into().expect("32 bytes"));
        if fields[..8] != MAGIC {
            return Err(CheckpointError::Damaged("head"));
        }
        if u32_at(8) != FORMAT {
            let text = format!("written in format {}; this build reads {FORMAT} only", u32_at(8));
            return Err(CheckpointError::Foreign(text));
        }
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
        };
        // Whatever this build does not write is not taken for something else, the group among it.
        if head.fields() != fields {
            return Err(CheckpointError::Foreign(
                "of another group, or with fields this build does not know".into(),
            ));
        }
        if head.table_bytes.checked_add(head.header_bytes).is_none_or(|start| start > head.body_bytes) {
            return Err(CheckpointError::Damaged("head"));
        }
        Ok(head)
    }

    fn root(&self, digests: &[Digest]) -> Digest {
        let digests = zerocopy::IntoBytes::as_bytes(digests);
        DigestAlgorithm::Blake3.hash(&[b"duramen checkpoint", &self.fields(), digests])
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
        block[..FIELDS].copy_from_slice(&head.fields());
        block[FIELDS..FIELDS + 32].copy_from_slice(&root.0);
        let crc = crc32c::crc32c(&block[..FIELDS + 32]);
        block[FIELDS + 32..FIELDS + 36].copy_from_slice(&crc.to_le_bytes());
        self.file.write(&block, 0, false)?;
        self.file.sync()?;
        Ok(root)
    }
}

/// A checkpoint whose head and list of digests are what was written.
pub struct Opened {
    /// What it is of.
    pub head: Head,
    /// Of all of it.
    pub root: Digest,
    /// Told how much of the body has been read.
    pub progress: Arc<Progress>,
    file: Arc<dyn DiskFile>,
    digests: Vec<Digest>,
}

impl Opened {
    /// Reads and checks head and digests. Errors: damage; the head of another format, cluster or group.
    pub fn read(
        file: Arc<dyn DiskFile>,
        cluster: ClusterId,
        members: Members,
    ) -> Result<Self, CheckpointError> {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        if file.bytes() < BLOCK_BYTES as u64 {
            return Err(CheckpointError::Damaged("head"));
        }
        file.read(&mut block, 0)?;
        let crc = u32::from_le_bytes(block[FIELDS + 32..FIELDS + 36].try_into().expect("4 bytes"));
        if crc != crc32c::crc32c(&block[..FIELDS + 32]) || block[FIELDS + 36..].iter().any(|b| *b != 0) {
            return Err(CheckpointError::Damaged("head"));
        }
        let head = Head::of(&block[..FIELDS], members)?;
        if head.cluster != cluster {
            return Err(CheckpointError::Foreign("it is another cluster's".into()));
        }
        let chunks = head.body_bytes.div_ceil(CHUNK_BYTES as u64);
        if head.body_bytes > file.bytes() {
            return Err(CheckpointError::Damaged("length"));
        }
        let start = BLOCK_BYTES as u64 + head.body_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let list_bytes = (chunks * 32).next_multiple_of(BLOCK_BYTES as u64);
        // The file is as long as it says, so nothing is allocated that is not there.
        if start.checked_add(list_bytes).is_none_or(|end| end > file.bytes()) {
            return Err(CheckpointError::Damaged("length"));
        }
        let mut list = AlignedBuffer::new((list_bytes as usize).max(BLOCK_BYTES));
        file.read(&mut list[..list_bytes as usize], start)?;
        let digests: Vec<Digest> =
            list.as_chunks::<32>().0.iter().take(chunks as usize).map(|d| Digest(*d)).collect();
        let root = Digest(block[FIELDS..FIELDS + 32].try_into().expect("32 bytes"));
        if head.root(&digests) != root {
            return Err(CheckpointError::Damaged("list of digests"));
        }
        Ok(Self { head, root, progress: Arc::default(), file, digests })
    }

    /// Reads the body, chunk by chunk, each checked, some ahead of the reader: one thread reads and hashes, another builds.
    /// `build` gets nothing but what was written. Errors: its own, unless a chunk was damaged.
    pub fn body<T>(
        &self,
        build: impl FnOnce(&mut dyn Read) -> Result<T, CheckpointError>,
    ) -> Result<T, CheckpointError> {
        let (chunks_in, chunks) = bounded::<AlignedBuffer>(AHEAD);
        std::thread::scope(|scope| {
            let (file, digests, mut left) = (&self.file, &self.digests, self.head.body_bytes);
            self.progress.begin(left);
            let reading = scope.spawn(move || -> Result<(), CheckpointError> {
                let mut at = BLOCK_BYTES as u64;
                for digest in digests {
                    let bytes = left.min(CHUNK_BYTES as u64) as usize;
                    let mut buffer = AlignedBuffer::new(bytes);
                    file.read(&mut buffer, at)?;
                    if DigestAlgorithm::Blake3.hash(&[&buffer[..bytes]]) != *digest {
                        return Err(CheckpointError::Damaged("state"));
                    }
                    at += buffer.len() as u64;
                    left -= bytes as u64;
                    self.progress.reach(self.head.body_bytes - left);
                    if chunks_in.send(buffer).is_err() {
                        return Ok(());
                    }
                }
                Ok(())
            });
            let mut reader = BodyReader { chunks, chunk: None, at: 0, left: self.head.body_bytes };
            let built = build(&mut reader);
            drop(reader);
            // What was built of the chunks before a damaged one failed for want of the rest.
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            built
        })
    }
}

struct BodyReader {
    chunks: Receiver<AlignedBuffer>,
    chunk: Option<AlignedBuffer>,
    at: usize,
    left: u64,
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || out.is_empty() {
            return Ok(0);
        }
        if self.chunk.as_ref().is_none_or(|chunk| self.at == chunk.len()) {
            let Ok(chunk) = self.chunks.recv() else { return Ok(0) };
            (self.chunk, self.at) = (Some(chunk), 0);
        }
        let Some(chunk) = &self.chunk else { return Ok(0) };
        let n = out.len().min(chunk.len() - self.at).min(self.left.try_into().unwrap_or(usize::MAX));
        out[..n].copy_from_slice(&chunk[self.at..self.at + n]);
        self.at += n;
        self.left -= n as u64;
        Ok(n)
    }
}
