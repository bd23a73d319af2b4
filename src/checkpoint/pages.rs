//! A persistent array of pages: cloned by one pointer, hashed by what changed.
//!
//! ```text
//! Pages ── root ─→ Node (level 1) ── child 0 ─→ Node (level 0) ── 64 slots: pages 0 … 63, some of them free
//!                                 ── child 1 ─→ Node (level 0) ── 64 slots: pages 64 … 127
//! ```
//! The first write to a page that a clone shares copies the page and the nodes above it; of a page written over and over between two
//! clones this is once. Nodes and slots keep their digests until something below them is written.
//!
//! # Layout
//! A page's index is a function of the calls made before: [`Pages::allocate`] takes the lowest free index, else one more than there
//! were. So the layout is part of the state: replicas that made the same calls have it in common, and one that took it over with
//! [`Pages::restore`] keeps it in common. The number of pages never shrinks.
//!
//! # Root
//! ```text
//! page digest   H("duramen page", index u64, canonical bytes);  zeros for a free page
//! node digest   H("duramen node", level u8, 64 digests);        zeros for a child beyond the last page
//! root          H("duramen root", pages u64, header length u64, header, digest of the top node)
//! ```
//! The number of pages gives the top node its level. The header is what the owner keeps beside its pages.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::service::{CanonicalReader, PageSource, PagedSnapshot, RestoreError};
use crate::types::{Digest, DigestAlgorithm};

/// Children of a node.
pub const FAN_OUT: usize = 64;
/// Bits of an index that choose one of them.
const BITS: u32 = FAN_OUT.trailing_zeros();
/// More pages than any machine holds.
const PAGES_MAX: u64 = 1 << 40;

/// What a page holds.
pub trait Page: Clone + Send + Sync + 'static {
    /// Appends the canonical bytes, at least one: equal pages, equal bytes.
    fn write_to(&self, out: &mut Vec<u8>);

    /// How many bytes [`Page::write_to`] appends.
    fn bytes(&self) -> usize;

    /// Reads a page that [`Page::write_to`] wrote. Whatever it takes is written the same again. That nothing follows is checked by the
    /// caller.
    fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError>;
}

/// An array of pages of one kind.
#[derive(Clone)]
pub struct Pages<P> {
    root: Arc<Node<P>>,
    /// Of the root; its children have one less.
    level: u32,
    /// Indexes given out so far, the free ones among them.
    count: u64,
    occupied: u64,
    /// Bytes of pages that were written while a clone held them, of these pages and all that were cloned from the same ones.
    copied: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Node<P> {
    children: Children<P>,
    /// Bit `i`: child `i` is, or has below it, a free page.
    free: u64,
    digest: Known,
}

#[derive(Clone)]
enum Children<P> {
    Nodes([Option<Arc<Node<P>>>; FAN_OUT]),
    Slots([Option<Arc<Slot<P>>>; FAN_OUT]),
}

#[derive(Clone)]
struct Slot<P> {
    page: P,
    digest: Known,
}

/// A digest, once computed. Its algorithm is the cluster's; under another one it is computed each time.
type Known = OnceLock<(DigestAlgorithm, Digest)>;

impl<P: Page> Default for Pages<P> {
    fn default() -> Self {
        Self { root: Arc::new(Node::empty(0)), level: 0, count: 0, occupied: 0, copied: Arc::default() }
    }
}

impl<P: Page> Pages<P> {
    /// No pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of indexes given out so far: pages are `0..count`, free ones among them.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them hold a page.
    pub fn occupied(&self) -> u64 {
        self.occupied
    }

    /// Bytes of pages written so far that a clone held at that moment: what it has grown by while a clone lives is what that clone
    /// holds alone, at most.
    pub fn copied_bytes(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// The page, unless it is free.
    pub fn get(&self, index: u64) -> Option<&P> {
        self.slot(index).map(|slot| &slot.page)
    }

    /// The page to be written, unless it is free. Counts as changed, whether it is written or not.
    pub fn get_mut(&mut self, index: u64) -> Option<&mut P> {
        if index >= self.count {
            return None;
        }
        let (mut node, mut level) = (&mut self.root, self.level);
        loop {
            let Node { children, digest, .. } = Arc::make_mut(node);
            digest.take();
            match children {
                Children::Nodes(nodes) => {
                    node = nodes[child_at(level, index)].as_mut()?;
                }
                Children::Slots(slots) => {
                    let slot = slots[child_at(level, index)].as_mut()?;
                    if Arc::strong_count(slot) > 1 {
                        self.copied.fetch_add(slot.page.bytes() as u64, Ordering::Relaxed);
                    }
                    let slot = Arc::make_mut(slot);
                    slot.digest.take();
                    return Some(&mut slot.page);
                }
            }
            level -= 1;
        }
    }

    /// Puts a page at the lowest free index, or behind the last.
    pub fn allocate(&mut self, page: P) -> u64 {
        match self.root.free {
            0 => self.push(Some(page)),
            _ => {
                let index = self.root.lowest_free(self.level);
                self.put(index, Some(page));
                index
            }
        }
    }

    /// Puts a page at this index, in place of what was there; indexes between the last one and it become free ones.
    pub fn put_at(&mut self, index: u64, page: P) {
        self.grow_to(index + 1);
        self.put(index, Some(page));
    }

    /// At least so many indexes; the new ones are free.
    pub fn grow_to(&mut self, count: u64) {
        while self.count < count {
            self.push(None);
        }
    }

    /// Takes the page out; its index is free then. `None` if it was free.
    pub fn free(&mut self, index: u64) -> Option<P> {
        self.slot(index)?;
        let slot = self.put(index, None).expect("looked up before");
        Some(Arc::unwrap_or_clone(slot).page)
    }

    /// The digest that stands for the page in the tree; zeros if it is free.
    pub fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        self.slot(index).map_or(Digest::ZERO, |slot| slot.digest(index, algorithm))
    }

    /// The root over all pages, their number and `header`. Hashes only what was written since it was last asked of this state or one it
    /// was cloned from; with a `pool`, on its threads.
    pub fn root(&self, algorithm: DigestAlgorithm, header: &[u8], pool: Option<&ThreadPool>) -> Digest {
        let top = match pool {
            Some(pool) => pool.install(|| self.root.digest(self.level, 0, algorithm, true)),
            None => self.root.digest(self.level, 0, algorithm, false),
        };
        root_digest(algorithm, self.count, header, top)
    }

    /// The indexes, ascending, of pages that were written, put or freed since `older` was cloned from these pages (or these from it).
    /// Of pages with another history: all that either holds, below the count of these. Skips what both share.
    pub fn changed_since(&self, older: &Self) -> Vec<u64> {
        let mut out = Vec::new();
        let below = Subtree { node: Some(&self.root), level: self.level };
        below.changed_since(Subtree { node: Some(&older.root), level: older.level }, 0, &mut out);
        out.retain(|index| *index < self.count);
        out
    }

    /// Pages with this layout: `source` gives the bytes of each of the `count` pages, in order, `None` for a free one. `count` is what
    /// the caller can account for, not a number found in a peer's message: free pages cost memory, too.
    pub fn restore(count: u64, source: &mut PageSource<'_>) -> Result<Self, RestoreError> {
        if count > PAGES_MAX {
            return Err(RestoreError::Malformed { at: 0, reason: "more pages than can be" });
        }
        let mut pages = Self::default();
        for index in 0..count {
            let page = source(index)?.map(|bytes| read_page(&bytes)).transpose()?;
            pages.push(page);
        }
        Ok(pages)
    }

    fn slot(&self, index: u64) -> Option<&Slot<P>> {
        if index >= self.count {
            return None;
        }
        let (mut node, mut level) = (&*self.root, self.level);
        loop {
            match &node.children {
                Children::Nodes(nodes) => node = nodes[child_at(level, index)].as_deref()?,
                Children::Slots(slots) => return slots[child_at(level, index)].as_deref(),
            }
            level -= 1;
        }
    }

    /// One more page, maybe a free one; returns its index.
    fn push(&mut self, page: Option<P>) -> u64 {
        let index = self.count;
        if index >> (BITS * (self.level + 1)) != 0 {
            let mut nodes = [const { None }; FAN_OUT];
            let free = u64::from(self.root.free != 0);
            nodes[0] = Some(self.root.clone());
            self.root = Arc::new(Node { children: Children::Nodes(nodes), free, digest: Known::new() });
            self.level += 1;
        }
        self.count += 1;
        self.put(index, page);
        index
    }

    fn put(&mut self, index: u64, page: Option<P>) -> Option<Arc<Slot<P>>> {
        self.occupied += u64::from(page.is_some());
        let slot = page.map(|page| Arc::new(Slot { page, digest: Known::new() }));
        let old = put(&mut self.root, self.level, index, slot);
        self.occupied -= u64::from(old.is_some());
        if let Some(old) = old.as_ref().filter(|old| Arc::strong_count(old) > 1) {
            self.copied.fetch_add(old.page.bytes() as u64, Ordering::Relaxed);
        }
        old
    }
}

/// Reads a page from all of `bytes`.
fn read_page<P: Page>(bytes: &[u8]) -> Result<P, RestoreError> {
    let mut bytes = bytes;
    let mut input = CanonicalReader::new(&mut bytes);
    let page = P::read(&mut input)?;
    input.end()?;
    Ok(page)
}

/// Which child of a node of this level leads to the page.
fn child_at(level: u32, index: u64) -> usize {
    (index >> (BITS * level)) as usize % FAN_OUT
}

/// Replaces a slot; returns what was there.
fn put<P: Page>(
    node: &mut Arc<Node<P>>,
    level: u32,
    index: u64,
    slot: Option<Arc<Slot<P>>>,
) -> Option<Arc<Slot<P>>> {
    let node = Arc::make_mut(node);
    node.digest.take();
    let i = child_at(level, index);
    let (old, free) = match &mut node.children {
        Children::Nodes(nodes) => {
            let child = nodes[i].get_or_insert_with(|| Arc::new(Node::empty(level - 1)));
            let old = put(child, level - 1, index, slot);
            (old, child.free != 0)
        }
        Children::Slots(slots) => {
            let free = slot.is_none();
            (std::mem::replace(&mut slots[i], slot), free)
        }
    };
    node.free = node.free & !(1 << i) | u64::from(free) << i;
    old
}

impl<P: Page> Node<P> {
    fn empty(level: u32) -> Self {
        let children = match level {
            0 => Children::Slots([const { None }; FAN_OUT]),
            _ => Children::Nodes([const { None }; FAN_OUT]),
        };
        Self { children, free: 0, digest: Known::new() }
    }

    /// Of a node with a free page below it.
    fn lowest_free(&self, level: u32) -> u64 {
        let i = self.free.trailing_zeros();
        let below = match &self.children {
            Children::Nodes(nodes) => nodes[i as usize].as_ref().expect("marked").lowest_free(level - 1),
            Children::Slots(_) => 0,
        };
        u64::from(i) << (BITS * level) | below
    }

    /// `first`: the index of the first page below this node.
    fn digest(&self, level: u32, first: u64, algorithm: DigestAlgorithm, parallel: bool) -> Digest {
        known(&self.digest, algorithm, || {
            let of_child = |i: usize| {
                let first = first + ((i as u64) << (BITS * level));
                match &self.children {
                    Children::Nodes(nodes) => {
                        nodes[i].as_ref().map(|node| node.digest(level - 1, first, algorithm, parallel))
                    }
                    Children::Slots(slots) => slots[i].as_ref().map(|slot| slot.digest(first, algorithm)),
                }
                .unwrap_or(Digest::ZERO)
            };
            let mut digests = [Digest::ZERO; FAN_OUT];
            match parallel {
                true => digests.par_iter_mut().enumerate().for_each(|(i, digest)| *digest = of_child(i)),
                false => digests.iter_mut().enumerate().for_each(|(i, digest)| *digest = of_child(i)),
            }
            node_digest(algorithm, level, &digests)
        })
    }
}

impl<P: Page> Slot<P> {
    fn digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        known(&self.digest, algorithm, || {
            let mut bytes = Vec::with_capacity(self.page.bytes());
            self.page.write_to(&mut bytes);
            page_digest(algorithm, index, &bytes)
        })
    }
}

/// The digest kept, or computed and kept. Not `get_or_init`: that waits for another thread, which may wait for work of this one.
fn known(kept: &Known, algorithm: DigestAlgorithm, compute: impl FnOnce() -> Digest) -> Digest {
    match kept.get() {
        Some((of, digest)) if *of == algorithm => *digest,
        _ => {
            let digest = compute();
            let _ = kept.set((algorithm, digest));
            digest
        }
    }
}

/// A node, or the place of one that is not there.
struct Subtree<'a, P> {
    node: Option<&'a Arc<Node<P>>>,
    level: u32,
}

impl<'a, P: Page> Subtree<'a, P> {
    fn changed_since(self, older: Subtree<'a, P>, first: u64, out: &mut Vec<u64>) {
        match (self.node, older.node) {
            (None, None) => return,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => return,
            _ => {}
        }
        // The lower of two trees is the first child, and its first child, … of what the higher one has at its level.
        let level = self.level.max(older.level);
        for i in 0..FAN_OUT {
            let first = first + ((i as u64) << (BITS * level));
            if level > 0 {
                self.child(level, i).changed_since(older.child(level, i), first, out);
            } else if !same(self.page(i), older.page(i)) {
                out.push(first);
            }
        }
    }

    /// Child `i` of what stands here at `level`, which is not below this one's.
    fn child(&self, level: u32, i: usize) -> Subtree<'a, P> {
        if level > self.level {
            return Subtree { node: self.node.filter(|_| i == 0), level: self.level };
        }
        let node = match self.node.map(|node| &node.children) {
            Some(Children::Nodes(nodes)) => nodes[i].as_ref(),
            _ => None,
        };
        Subtree { node, level: level - 1 }
    }

    fn page(&self, i: usize) -> Option<&'a Arc<Slot<P>>> {
        match self.node.map(|node| &node.children) {
            Some(Children::Slots(slots)) => slots[i].as_ref(),
            _ => None,
        }
    }
}

/// Whether both are the same page, or neither is one.
fn same<P>(a: Option<&Arc<Slot<P>>>, b: Option<&Arc<Slot<P>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// The digest of a page that is not free, from its canonical bytes.
pub fn page_digest(algorithm: DigestAlgorithm, index: u64, bytes: &[u8]) -> Digest {
    algorithm.hash(&[b"duramen page", &index.to_le_bytes(), bytes])
}

fn node_digest(algorithm: DigestAlgorithm, level: u32, digests: &[Digest; FAN_OUT]) -> Digest {
    algorithm.hash(&[b"duramen node", &[level as u8], zerocopy::IntoBytes::as_bytes(digests)])
}

fn root_digest(algorithm: DigestAlgorithm, count: u64, header: &[u8], top: Digest) -> Digest {
    let header_bytes = (header.len() as u64).to_le_bytes();
    algorithm.hash(&[b"duramen root", &count.to_le_bytes(), &header_bytes, header, &top.0])
}

/// The root of [`Pages::root`], from the digests of all pages in order (zeros for a free one): what a list of digests must give before
/// pages are compared with it.
pub fn root_of(algorithm: DigestAlgorithm, header: &[u8], page_digests: &[Digest]) -> Digest {
    let nodes: Vec<Digest> = page_digests.chunks(FAN_OUT).map(|pages| node_of(algorithm, pages)).collect();
    root_of_nodes(algorithm, header, page_digests.len() as u64, &nodes)
}

/// The digest of the node above up to [`FAN_OUT`] pages, from theirs.
pub fn node_of(algorithm: DigestAlgorithm, page_digests: &[Digest]) -> Digest {
    let mut children = [Digest::ZERO; FAN_OUT];
    children[..page_digests.len()].copy_from_slice(page_digests);
    node_digest(algorithm, 0, &children)
}

/// The root over `count` pages, from the digests of the nodes above them in order ([`node_of`]).
pub fn root_of_nodes(algorithm: DigestAlgorithm, header: &[u8], count: u64, nodes: &[Digest]) -> Digest {
    let (mut digests, mut level) = (nodes.to_vec(), 1);
    if digests.is_empty() {
        // No pages have a node above them, too.
        digests.push(node_of(algorithm, &[]));
    }
    while digests.len() > 1 {
        digests.resize(digests.len().next_multiple_of(FAN_OUT), Digest::ZERO);
        let above = digests.as_chunks::<FAN_OUT>().0.iter();
        digests = above.map(|children| node_digest(algorithm, level, children)).collect();
        level += 1;
    }
    root_digest(algorithm, count, header, digests[0])
}

/// A snapshot of a service that keeps its state in [`Pages`] and a small header.
pub struct PagedState<P> {
    /// The pages.
    pub pages: Pages<P>,
    /// Canonical bytes of what stands beside them.
    pub header: Bytes,
}

impl<P: Page> PagedSnapshot for PagedState<P> {
    fn header(&self) -> Bytes {
        self.header.clone()
    }

    fn page_count(&self) -> u64 {
        self.pages.count()
    }

    fn page(&self, index: u64, out: &mut Vec<u8>) -> bool {
        let page = self.pages.get(index);
        if let Some(page) = page {
            out.reserve(page.bytes());
            page.write_to(out);
        }
        page.is_some()
    }

    fn page_bytes(&self, index: u64) -> u64 {
        self.pages.get(index).map_or(0, |page| page.bytes() as u64)
    }

    fn copied_bytes(&self) -> u64 {
        self.pages.copied_bytes()
    }

    fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        self.pages.page_digest(index, algorithm)
    }

    fn root(&self, algorithm: DigestAlgorithm, pool: Option<&ThreadPool>) -> Digest {
        self.pages.root(algorithm, &self.header, pool)
    }

    fn changed_since(&self, older: &dyn PagedSnapshot) -> Vec<u64> {
        match older.as_any().downcast_ref::<Self>() {
            Some(older) => self.pages.changed_since(&older.pages),
            None => (0..self.page_count()).collect(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
