//! A state as it is transferred: client table and service in pages, one root over both, one numbering.
//!
//! ```text
//! chunk    0 … T−1   the client table's canonical bytes, in pieces of 64 KiB
//!          T … N−1   the pages of the service, or the pieces of its canonical bytes
//! root     H("duramen state", seq, time, paged, root of the table's pieces, root of the service's pages)
//! ```
//! Both parts are Merkle trees over pages ([`pages`](crate::checkpoint::pages)); the manifest carries the digests of the nodes above
//! the pages, 32 bytes for 64 pages, and gives the root. From there each list of page digests is checked against its node, and each page
//! against its list, whoever it came from.

use std::any::Any;
use std::io::{self, Write};
use std::sync::OnceLock;

use bytes::Bytes;
use rayon::ThreadPool;

use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pages::{FAN_OUT, node_of, page_digest, root_of, root_of_nodes};
use crate::order::mutants::{Mutant, broken};
use crate::service::{PagedSnapshot, Snapshot};
use crate::types::*;
use crate::wire::codec::{Reader, Writer};
use crate::wire::error::DecodeError;

/// A piece of what is one string of bytes.
pub const PIECE_BYTES: usize = 64 << 10;
/// What a service keeps beside its pages.
const HEADER_BYTES_MAX: usize = 4096;
/// More pages than any machine holds.
const PAGES_MAX: u64 = 1 << 40;

/// Whether these are the bytes of the page at an index: of the one that has this digest.
pub fn is_page(algorithm: DigestAlgorithm, index: u64, bytes: &[u8], expected: &Digest) -> bool {
    page_digest(algorithm, index, bytes) == *expected || broken(Mutant::ChunksUnchecked)
}

/// A string of bytes as pages.
pub struct Pieces {
    bytes: Vec<u8>,
    piece_bytes: usize,
    /// Of all pieces: whoever asks for one asks for all, again and again.
    digests: OnceLock<(DigestAlgorithm, Vec<Digest>)>,
}

impl Pieces {
    fn of(snapshot: &dyn Snapshot, piece_bytes: usize) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(usize::try_from(snapshot.bytes()).unwrap_or(0));
        snapshot.write_to(&mut bytes as &mut dyn Write)?;
        Ok(Self { bytes, piece_bytes, digests: OnceLock::new() })
    }

    fn digests(&self, algorithm: DigestAlgorithm) -> &[Digest] {
        let (of, digests) = self.digests.get_or_init(|| {
            let pieces = self.bytes.chunks(self.piece_bytes).enumerate();
            (algorithm, pieces.map(|(i, piece)| page_digest(algorithm, i as u64, piece)).collect())
        });
        assert_eq!(*of, algorithm, "a cluster has one algorithm");
        digests
    }

    fn piece(&self, index: u64) -> Option<&[u8]> {
        let from = usize::try_from(index).ok()?.checked_mul(self.piece_bytes)?;
        let rest = self.bytes.get(from..).filter(|rest| !rest.is_empty())?;
        Some(&rest[..rest.len().min(self.piece_bytes)])
    }
}

impl PagedSnapshot for Pieces {
    fn header(&self) -> Bytes {
        Bytes::copy_from_slice(&(self.bytes.len() as u64).to_le_bytes())
    }

    fn page_count(&self) -> u64 {
        self.bytes.len().div_ceil(self.piece_bytes) as u64
    }

    fn page(&self, index: u64, out: &mut Vec<u8>) -> bool {
        let piece = self.piece(index);
        out.extend_from_slice(piece.unwrap_or_default());
        piece.is_some()
    }

    fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        let known = self.digests(algorithm).get(usize::try_from(index).unwrap_or(usize::MAX));
        known.copied().unwrap_or_default()
    }

    fn root(&self, algorithm: DigestAlgorithm, _pool: Option<&ThreadPool>) -> Digest {
        root_of(algorithm, &self.header(), self.digests(algorithm))
    }

    fn changed_since(&self, _older: &dyn PagedSnapshot) -> Vec<u64> {
        (0..self.page_count()).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Which of the two parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// The client table.
    Table,
    /// The service.
    State,
}

impl Part {
    /// Both, in order.
    pub const ALL: [Part; 2] = [Part::Table, Part::State];
}

enum State {
    Paged(Box<dyn Snapshot>),
    Pieces(Pieces),
}

/// A frozen state, ready to be hashed and sent.
pub struct Image {
    /// Executed up to here.
    pub seq: Seq,
    /// The agreed time.
    pub time: WallTime,
    /// The reply history.
    pub replies: Digest,
    table: Pieces,
    state: State,
    algorithm: DigestAlgorithm,
}

impl Image {
    /// Errors: the service's, if it cannot write its bytes.
    pub fn of(frozen: Frozen, algorithm: DigestAlgorithm) -> io::Result<Self> {
        Self::cut(frozen, algorithm, PIECE_BYTES)
    }

    /// What has no pages is cut into pieces of so many bytes, at most [`PIECE_BYTES`]: the same for a whole cluster.
    pub fn cut(frozen: Frozen, algorithm: DigestAlgorithm, piece_bytes: usize) -> io::Result<Self> {
        let Frozen { seq, time, replies, table, state } = frozen;
        let table = Pieces::of(&table, piece_bytes)?;
        let state = match state.pages() {
            Some(_) => State::Paged(state),
            None => State::Pieces(Pieces::of(&*state, piece_bytes)?),
        };
        Ok(Self { seq, time, replies, table, state, algorithm })
    }

    fn is_paged(&self) -> bool {
        matches!(self.state, State::Paged(_))
    }

    /// One part's pages.
    pub fn part(&self, part: Part) -> &dyn PagedSnapshot {
        match (part, &self.state) {
            (Part::Table, _) => &self.table,
            (Part::State, State::Pieces(pieces)) => pieces,
            (Part::State, State::Paged(state)) => state.pages().expect("it was asked before"),
        }
    }

    /// The root. The cost follows what was written since that of an earlier image.
    pub fn root(&self, pool: Option<&ThreadPool>) -> Digest {
        let roots = Part::ALL.map(|part| self.part(part).root(self.algorithm, pool));
        root(self.algorithm, self.seq, self.time, self.is_paged(), roots)
    }

    /// Digests of the pages under `nodes` nodes from `first` on.
    pub fn digests(&self, part: Part, first: u64, nodes: u64) -> Vec<Digest> {
        let pages = self.part(part);
        let from = first.saturating_mul(FAN_OUT as u64).min(pages.page_count());
        let to = from.saturating_add(nodes.saturating_mul(FAN_OUT as u64)).min(pages.page_count());
        (from..to).map(|index| pages.page_digest(index, self.algorithm)).collect()
    }

    /// Chunks of both parts.
    pub fn chunks(&self) -> u64 {
        Part::ALL.map(|part| self.part(part).page_count()).iter().sum()
    }

    /// What says how the rest is to be checked.
    pub fn manifest(&self) -> Manifest {
        let parts = Part::ALL.map(|part| {
            let pages = self.part(part);
            let digests = self.digests(part, 0, u64::MAX);
            let nodes = digests.chunks(FAN_OUT).map(|d| node_of(self.algorithm, d)).collect();
            PartManifest { header: pages.header(), pages: pages.page_count(), nodes }
        });
        Manifest { seq: self.seq, time: self.time, paged: self.is_paged(), parts }
    }

    /// Whether a chunk has no bytes: there is none of this number, or it is a free page.
    pub fn is_free(&self, chunk: u64) -> bool {
        let Some(index) = chunk.checked_sub(self.table.page_count()) else { return false };
        let pages = self.part(Part::State);
        index >= pages.page_count() || pages.page_digest(index, self.algorithm) == Digest::ZERO
    }

    /// Appends a chunk's bytes; false: it is free ([`Image::is_free`]), or could not be read now.
    pub fn chunk(&self, chunk: u64, out: &mut Vec<u8>) -> bool {
        match chunk.checked_sub(self.table.page_count()) {
            None => self.table.page(chunk, out),
            Some(index) => {
                let pages = self.part(Part::State);
                index < pages.page_count() && pages.page(index, out)
            }
        }
    }
}

fn root(algorithm: DigestAlgorithm, seq: Seq, time: WallTime, paged: bool, roots: [Digest; 2]) -> Digest {
    let [table, state] = roots;
    let (seq, time) = (seq.0.to_le_bytes(), time.0.to_le_bytes());
    algorithm.hash(&[b"duramen state", &seq, &time, &[u8::from(paged)], &table.0, &state.0])
}

/// One part in a [`Manifest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartManifest {
    /// What stands beside the pages.
    pub header: Bytes,
    /// How many indexes there are.
    pub pages: u64,
    /// Digests of the nodes above them.
    pub nodes: Vec<Digest>,
}

/// What a root stands for, down to 64 pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Executed up to here.
    pub seq: Seq,
    /// The agreed time.
    pub time: WallTime,
    /// The service keeps pages.
    pub paged: bool,
    /// Table and state.
    pub parts: [PartManifest; 2],
}

impl Manifest {
    /// The root it gives.
    pub fn root(&self, algorithm: DigestAlgorithm) -> Digest {
        let of = |part: &PartManifest| root_of_nodes(algorithm, &part.header, part.pages, &part.nodes);
        root(algorithm, self.seq, self.time, self.paged, [of(&self.parts[0]), of(&self.parts[1])])
    }

    /// One part.
    pub fn part(&self, part: Part) -> &PartManifest {
        &self.parts[part as usize]
    }

    /// Chunks of both parts.
    pub fn chunks(&self) -> u64 {
        self.parts[0].pages + self.parts[1].pages
    }

    /// The part and index of a chunk below [`Manifest::chunks`].
    pub fn place(&self, chunk: u64) -> (Part, u64) {
        match chunk.checked_sub(self.parts[0].pages) {
            None => (Part::Table, chunk),
            Some(index) => (Part::State, index),
        }
    }

    /// The chunk at a part's index.
    pub fn chunk_of(&self, part: Part, index: u64) -> u64 {
        match part {
            Part::Table => index,
            Part::State => self.parts[0].pages + index,
        }
    }

    /// For the wire and the staging file.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u64(self.seq.0).u64(self.time.0).u8(u8::from(self.paged));
        for part in &self.parts {
            w.u64(part.pages).u32(part.header.len() as u32).raw(&part.header);
            part.nodes.iter().for_each(|digest| {
                w.raw(&digest.0);
            });
        }
        w.finish()
    }

    /// From bytes of a peer: nothing is believed but that they hold what they claim to hold. Their root says the rest.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let (seq, time) = (Seq(r.u64()?), WallTime(r.u64()?));
        let paged = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::BadValue),
        };
        let mut part = || {
            let pages = r.u64()?;
            let header = r.u32()? as usize;
            if pages > PAGES_MAX || header > HEADER_BYTES_MAX {
                return Err(DecodeError::TooLarge);
            }
            let header = r.bytes(header)?;
            let nodes = pages.div_ceil(FAN_OUT as u64) as usize;
            if r.left() / 32 < nodes {
                return Err(DecodeError::Truncated);
            }
            let nodes = (0..nodes).map(|_| r.digest()).collect::<Result<_, _>>()?;
            Ok(PartManifest { header, pages, nodes })
        };
        let parts = [part()?, part()?];
        r.end()?;
        Ok(Self { seq, time, paged, parts })
    }
}
