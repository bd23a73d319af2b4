//! [core] What of a state goes into a checkpoint: all of it, or the pages that changed since an earlier one.
//!
//! ```text
//! generation   1     2     3     4     5     6          two of them are restorable at any time
//! files        A     B     a     b     a'    b'         a: pages changed since A;  a': since a
//! needs        A     B    A a   B b  A a a' B b b'
//! ```
//! A generation builds on the last but one, so that the two on disk share no file: whatever one file is damaged, the other generation
//! can be read. A chain begins anew when it has as many files as allowed, or when what changed, all in all, would be more than half of
//! what all pages are: the chains of both generations take three times the bytes of the state at most.
//!
//! Which pages changed is known by their digests, 32 bytes each; no state is kept for it. They are not on disk: the first two
//! checkpoints after a start have all pages.

use crate::service::PagedSnapshot;
use crate::types::*;

/// Most files of a chain.
pub const CHAIN_MAX: u32 = 32;

/// Bytes that one more file may have on top of `files`, the one with all pages first; `None`: the chain begins anew.
pub fn room_on(full_every: u32, files: &[u64]) -> Option<u64> {
    let (full, increments) = files.split_first()?;
    let room = (full / 2).checked_sub(increments.iter().sum())?;
    (files.len() < full_every.min(CHAIN_MAX) as usize).then_some(room)
}

/// What goes into a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All of the state.
    All,
    /// Some pages.
    Changed {
        /// On top of the checkpoint of this place.
        since: Seq,
        /// Their indexes, ascending, freed ones among them.
        pages: Vec<u64>,
        /// What they take.
        bytes: u64,
    },
}

/// The digests of all pages of a state.
pub type Pages = Vec<Digest>;

/// Decides.
pub struct Increments {
    /// A file with all pages comes at least so often.
    full_every: u32,
    algorithm: DigestAlgorithm,
    /// Of generations on disk.
    known: Vec<(Seq, Pages)>,
}

impl Increments {
    /// `full_every` 1: all pages, always.
    pub fn new(full_every: u32, algorithm: DigestAlgorithm) -> Self {
        Self { full_every, algorithm, known: Vec::new() }
    }

    /// What of this state is to be written, and the digests of its pages for [`Increments::stored`]. `beside`: bytes that every file
    /// has beside pages. `older`: the place of the older generation on disk, if there are two, and the bytes of its files in order.
    pub fn plan(
        &self,
        state: Option<&dyn PagedSnapshot>,
        beside: u64,
        older: Option<(Seq, Vec<u64>)>,
    ) -> (Extent, Pages) {
        let Some(state) = state.filter(|_| self.full_every > 1) else { return (Extent::All, Pages::new()) };
        let mut digests = vec![Digest::ZERO; state.page_count() as usize];
        // The thread that takes the root of the same state may be on its way from the first page: what one computed the other finds.
        for (index, digest) in digests.iter_mut().enumerate().rev() {
            *digest = state.page_digest(index as u64, self.algorithm);
        }
        let extent = older.and_then(|(since, files)| self.changed(state, &digests, beside, since, &files));
        (extent.unwrap_or(Extent::All), digests)
    }

    fn changed(
        &self,
        state: &dyn PagedSnapshot,
        digests: &Pages,
        beside: u64,
        since: Seq,
        files: &[u64],
    ) -> Option<Extent> {
        let room = room_on(self.full_every, files)?;
        let (_, before) = self.known.iter().find(|(seq, _)| *seq == since)?;
        if before.len() > digests.len() {
            return None;
        }
        let differs = |index: usize| before.get(index).copied().unwrap_or_default() != digests[index];
        let pages: Vec<u64> =
            (0..digests.len()).filter(|index| differs(*index)).map(|index| index as u64).collect();
        // Index and length stand before each.
        let bytes: u64 = pages.iter().map(|index| 12 + state.page_bytes(*index)).sum();
        (beside + bytes <= room).then_some(Extent::Changed { since, pages, bytes })
    }

    /// A state is on disk; only generations `kept` are there now.
    pub fn stored(&mut self, seq: Seq, pages: Pages, kept: &[Seq]) {
        self.known.push((seq, pages));
        self.known.retain(|(seq, pages)| kept.contains(seq) && !pages.is_empty());
    }
}
