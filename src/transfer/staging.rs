//! What was received of a state, on disk, so that a restart of the leecher does not ask for it again; and the certificate that names
//! it, so that a start between checkpoint and log record can go on.
//!
//! ```text
//! file "transfer-<seq>":   magic 8 | length of the certificate u32 | of the manifest u32 | crc32c u32 | certificate | manifest
//!                          chunk u64 | length u32 | bytes        … in the order of arrival
//! ```
//! Nothing in it is believed: chunks are compared with the digests that the root leads to before they are used, the certificate is
//! checked as one from a peer. A record that reaches beyond the end was being written in a crash: what is from there on is lost.

use super::image::Manifest;
use super::leecher::Target;
use super::shelf::{Shelf, ShelfFile};
use crate::checkpoint::pages::page_digest;
use crate::order::mutants::{Mutant, broken};
use crate::types::*;
use crate::wire::codec::{Reader, Writer};
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"DURATRAN";
const HEAD_BYTES: u64 = 20;
const RECORD_BYTES: u64 = 12;
/// Longer than any certificate or manifest.
const PART_BYTES_MAX: u64 = 1 << 30;
/// Bytes gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes after which what was written is made durable.
const SYNC_BYTES: u64 = 256 << 20;

fn file_of(seq: Seq) -> String {
    format!("transfer-{:020}", seq.0)
}

/// One that is not complete enough to take the place of earlier ones.
const UNFINISHED: &str = "transfer.new";

fn seq_of(name: &str) -> Option<Seq> {
    let digits = name.strip_prefix("transfer-")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Seq))?
}

/// The places of states in a directory that were received in part or whole, ascending.
pub fn staged(dir: &(impl Shelf + ?Sized)) -> io::Result<Vec<Seq>> {
    let mut found: Vec<Seq> = dir.list()?.iter().filter_map(|name| seq_of(name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes one, if it is there.
pub fn remove(dir: &(impl Shelf + ?Sized), seq: Seq) -> io::Result<()> {
    match dir.remove(&file_of(seq)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A named file for `target`, with what earlier ones in the directory hold of it: so many bytes.
pub fn begin(
    dir: &(impl Shelf + ?Sized),
    target: &Target,
    algorithm: DigestAlgorithm,
) -> io::Result<(Staging, Appender, u64)> {
    let mut earlier = Vec::new();
    for seq in staged(dir)? {
        // What cannot be read is received again.
        match Staging::open(dir, seq) {
            Ok(staging) => earlier.extend(staging),
            Err(e) => ::log::warn!("chunks received of the state of place {seq} cannot be read: {e}"),
        }
    }
    let (staging, mut appender) = Staging::create(dir, target.mark.clone(), target.manifest.clone())?;
    let mut kept = 0;
    for chunk in 0..target.manifest.chunks() {
        let ((part, index), expected) = (target.manifest.place(chunk), target.digest(chunk));
        for old in earlier.iter().filter(|old| index < old.manifest.part(part).pages) {
            let bytes = old.read(old.manifest.chunk_of(part, index)).unwrap_or(None);
            let right = |b: &Vec<u8>| page_digest(algorithm, index, b) == expected;
            if let Some(bytes) = bytes.filter(|b| right(b) || broken(Mutant::StagedUnchecked)) {
                appender.append(&staging, chunk, &bytes)?;
                kept += bytes.len() as u64;
                break;
            }
        }
    }
    appender.flush(&staging)?;
    staging.name(dir)?;
    Ok((staging, appender, kept))
}

/// Where each chunk lies: offset and length; none here if the length is 0.
type Index = Vec<(u64, u32)>;

/// A state that is being received. Chunks are read while others are written.
pub struct Staging {
    /// Names it.
    pub mark: StateCertificate,
    /// How it is cut.
    pub manifest: Manifest,
    file: Arc<dyn ShelfFile>,
    index: Mutex<Index>,
}

impl Staging {
    /// A new file, without chunks and without its name.
    fn create(
        dir: &(impl Shelf + ?Sized),
        mark: StateCertificate,
        manifest: Manifest,
    ) -> io::Result<(Self, Appender)> {
        let file = dir.create(UNFINISHED)?;
        let mut w = Writer::default();
        mark.write(&mut w);
        let (mark_bytes, manifest_bytes) = (w.finish(), manifest.encode());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&mark_bytes), &manifest_bytes);
        let mut head = Vec::with_capacity(HEAD_BYTES as usize + mark_bytes.len() + manifest_bytes.len());
        head.extend_from_slice(&MAGIC);
        for number in [mark_bytes.len() as u32, manifest_bytes.len() as u32, crc] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(&mark_bytes);
        head.extend_from_slice(&manifest_bytes);
        file.write(&head, 0)?;
        let index = Mutex::new(vec![(0, 0); usize::try_from(manifest.chunks()).map_err(io::Error::other)?]);
        let appender = Appender::new(file.clone(), head.len() as u64);
        Ok((Self { mark, manifest, file, index }, appender))
    }

    /// One that an earlier run began. `None`: nothing in it can be used.
    pub fn open(dir: &(impl Shelf + ?Sized), seq: Seq) -> io::Result<Option<Self>> {
        let file = dir.open(&file_of(seq))?;
        let length = file.bytes()?;
        let mut head = [0; HEAD_BYTES as usize];
        if length < HEAD_BYTES {
            return Ok(None);
        }
        file.read(&mut head, 0)?;
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
        let (mark_bytes, manifest_bytes) = (u64::from(number(8)), u64::from(number(12)));
        let body = mark_bytes + manifest_bytes;
        if head[..8] != MAGIC || body > PART_BYTES_MAX || HEAD_BYTES + body > length {
            return Ok(None);
        }
        let mut bytes = vec![0; body as usize];
        file.read(&mut bytes, HEAD_BYTES)?;
        if crc32c::crc32c(&bytes) != number(16) {
            return Ok(None);
        }
        let manifest = Bytes::from(bytes.split_off(mark_bytes as usize));
        let mut r = Reader::new(bytes.into());
        let (Ok(mark), Ok(manifest)) = (StateCertificate::read(&mut r), Manifest::decode(manifest)) else {
            return Ok(None);
        };
        let chunks = manifest.chunks() as usize;
        let mut index: Index = vec![(0, 0); chunks];
        let mut at = HEAD_BYTES + body;
        let mut record = [0; RECORD_BYTES as usize];
        while at + RECORD_BYTES <= length {
            file.read(&mut record, at)?;
            let chunk = u64::from_le_bytes(record[..8].try_into().expect("8 bytes"));
            let bytes = u32::from_le_bytes(record[8..12].try_into().expect("4 bytes"));
            let end = at + RECORD_BYTES + u64::from(bytes);
            let Some(entry) = index.get_mut(chunk as usize).filter(|_| end <= length && bytes > 0) else {
                break;
            };
            *entry = (at + RECORD_BYTES, bytes);
            at = end;
        }
        Ok(Some(Self { mark, manifest, file, index: Mutex::new(index) }))
    }

    /// Gives a new file its name: it takes the place of one of the same state.
    fn name(&self, dir: &(impl Shelf + ?Sized)) -> io::Result<()> {
        self.file.sync()?;
        dir.rename(UNFINISHED, &file_of(self.mark.statement.seq))
    }

    /// Whether a chunk is here, as far as is known without reading it.
    pub fn has(&self, chunk: u64) -> bool {
        self.index.lock().get(chunk as usize).is_some_and(|(_, length)| *length > 0)
    }

    /// A chunk's bytes; whether they are what was received, its digest says.
    pub fn read(&self, chunk: u64) -> io::Result<Option<Vec<u8>>> {
        let Some((at, length)) = self.index.lock().get(chunk as usize).copied().filter(|(_, n)| *n > 0)
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; length as usize];
        self.file.read(&mut bytes, at)?;
        Ok(Some(bytes))
    }

    fn note(&self, placed: &[(u64, u64, u32)]) {
        let mut index = self.index.lock();
        for (chunk, at, length) in placed {
            index[*chunk as usize] = (*at, *length);
        }
    }
}

/// Appends chunks to a [`Staging`]'s file.
pub struct Appender {
    file: Arc<dyn ShelfFile>,
    at: u64,
    synced: u64,
    buffer: Vec<u8>,
    placed: Vec<(u64, u64, u32)>,
}

impl Appender {
    fn new(file: Arc<dyn ShelfFile>, at: u64) -> Self {
        Self { file, at, synced: at, buffer: Vec::with_capacity(2 * WRITE_BYTES), placed: Vec::new() }
    }

    /// Takes a chunk; writes once enough has gathered. Returns the bytes of chunks written by this call.
    pub fn append(&mut self, staging: &Staging, chunk: u64, bytes: &[u8]) -> io::Result<u64> {
        let at = self.at + self.buffer.len() as u64 + RECORD_BYTES;
        self.buffer.extend_from_slice(&chunk.to_le_bytes());
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(bytes);
        self.placed.push((chunk, at, bytes.len() as u32));
        if self.buffer.len() < WRITE_BYTES {
            return Ok(0);
        }
        self.flush(staging)
    }

    /// Writes what has gathered.
    pub fn flush(&mut self, staging: &Staging) -> io::Result<u64> {
        if self.buffer.is_empty() {
            return Ok(0);
        }
        self.file.write(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        staging.note(&self.placed);
        let written = self.placed.drain(..).map(|(_, _, length)| u64::from(length)).sum();
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync()?;
            self.synced = self.at;
        }
        Ok(written)
    }
}
