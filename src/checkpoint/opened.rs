//! A checkpoint as it is read: one file with all pages, and those with changed pages on top of it.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::channel::{Receiver, bounded};

use super::file::{CHUNK_BYTES, CheckpointError, Head};
use crate::log::Progress;
use crate::log::storage::DiskFile;
use crate::log::{AlignedBuffer, BLOCK_BYTES};
use crate::quorum::Group as Members;
use crate::types::*;

/// Chunks read ahead of the state that is built from them.
const AHEAD: usize = 16;

/// A file whose head and list of digests are what was written.
pub struct Part {
    /// What it is of.
    pub head: Head,
    /// Of all of it, and of what it builds on.
    pub root: Digest,
    file: Arc<dyn DiskFile>,
    digests: Vec<Digest>,
}

impl Part {
    /// Reads and checks the head alone.
    pub fn head(file: &dyn DiskFile, members: Members) -> Result<(Head, Digest), CheckpointError> {
        let mut block = AlignedBuffer::new(BLOCK_BYTES);
        if file.bytes() < BLOCK_BYTES as u64 {
            return Err(CheckpointError::Damaged("head"));
        }
        file.read(&mut block, 0)?;
        Head::read(&block, members)
    }

    /// Reads and checks head and digests. Errors: damage; the head of another format, cluster or group.
    pub fn read(
        file: Arc<dyn DiskFile>,
        cluster: ClusterId,
        members: Members,
    ) -> Result<Self, CheckpointError> {
        let (head, root) = Self::head(&*file, members)?;
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
        match head.root(&digests) == root {
            true => Ok(Self { head, root, file, digests }),
            false => Err(CheckpointError::Damaged("list of digests")),
        }
    }

    /// Reads the chunks in order, each checked, until nobody takes them any more; counts them in `read`.
    fn chunks(
        &self,
        chunks_in: &crossbeam::channel::Sender<AlignedBuffer>,
        mut read: impl FnMut(u64),
    ) -> Result<(), CheckpointError> {
        let (mut at, mut left) = (BLOCK_BYTES as u64, self.head.body_bytes);
        for digest in &self.digests {
            let bytes = left.min(CHUNK_BYTES as u64) as usize;
            let mut buffer = AlignedBuffer::new(bytes);
            self.file.read(&mut buffer, at)?;
            if DigestAlgorithm::Blake3.hash(&[&buffer[..bytes]]) != *digest {
                return Err(CheckpointError::Damaged("state"));
            }
            at += buffer.len() as u64;
            left -= bytes as u64;
            read(bytes as u64);
            if chunks_in.send(buffer).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// A checkpoint: files, each of which is what was written, and is what the next one builds on.
pub struct Opened {
    /// What it is of.
    pub head: Head,
    /// Of all of it.
    pub root: Digest,
    /// Told how much of the bodies has been read.
    pub progress: Arc<Progress>,
    /// From the one with all pages on; never empty.
    parts: Vec<Part>,
}

impl Opened {
    /// Of files in order, the one with all pages first. Errors: one does not build on the one before it.
    pub fn of(parts: Vec<Part>) -> Result<Self, CheckpointError> {
        let broken = CheckpointError::Damaged("chain");
        let linked = parts.first().is_some_and(|part| part.head.previous.is_none())
            && parts.windows(2).all(|pair| {
                let (below, above) = (&pair[0].head, &pair[1].head);
                let named = above.previous.is_some_and(|p| (p.seq, p.root) == (below.seq, pair[0].root));
                named && below.pages <= above.pages && below.pages.is_some() && below.replica == above.replica
            });
        let Some(newest) = parts.last().filter(|_| linked) else { return Err(broken) };
        Ok(Self { head: newest.head.clone(), root: newest.root, progress: Arc::default(), parts })
    }

    /// What each file is of, in order.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.parts.iter().map(|part| &part.head)
    }

    /// Reads the bodies of all files, in order, chunk by chunk, each checked, some ahead of the reader: other threads read and hash,
    /// this one builds. `build` gets nothing but what was written. Errors: its own, unless a chunk was damaged.
    pub fn bodies<T>(
        &self,
        build: impl FnOnce(&mut [BodyReader]) -> Result<T, CheckpointError>,
    ) -> Result<T, CheckpointError> {
        self.progress.begin(self.parts.iter().map(|part| part.head.body_bytes).sum());
        let read = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (mut bodies, mut reading) = (Vec::new(), Vec::new());
            for part in &self.parts {
                let (chunks_in, chunks) = bounded::<AlignedBuffer>((AHEAD / self.parts.len()).max(2));
                bodies.push(BodyReader { chunks, chunk: None, at: 0, left: part.head.body_bytes });
                let (read, progress) = (&read, &self.progress);
                reading.push(scope.spawn(move || {
                    part.chunks(&chunks_in, |bytes| {
                        progress.reach(read.fetch_add(bytes, Ordering::Relaxed) + bytes);
                    })
                }));
            }
            let built = build(&mut bodies);
            drop(bodies);
            // What was built of the chunks before a damaged one failed for want of the rest.
            for reading in reading {
                reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            }
            built
        })
    }
}

/// The body of one file, as it comes.
pub struct BodyReader {
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
