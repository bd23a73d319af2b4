//! The ordered map under the key-value store: a B+tree of reference-counted pages, copied when written while shared.
//!
//! ```text
//! Tree ── root ─→ Inner: separators s1 s2 …        child i holds the keys in [s_i, s_i+1)
//!                   ├─→ Leaf: keys packed in one string, beside each key its version and an Arc of its value
//!                   └─→ Leaf …
//! ```
//! Cloning the tree copies one pointer. The first write to a page after that copies the page: its packed keys and its pointers, not the
//! values. A page is a place of its own for what may be derived from it, as its digest.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::types::Seq;

/// A leaf with more entries than this is split,
const LEAF_ENTRIES_MAX: usize = 64;
/// and so is one with more bytes of keys and values than this,
const LEAF_BYTES_MAX: usize = 64 << 10;
/// unless it has no more entries than this.
const LEAF_ENTRIES_MIN: usize = 8;
/// An inner page with more children than this is split.
const CHILDREN_MAX: usize = 64;

/// What stands beside a key.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Batch that wrote it last.
    pub version: Seq,
    /// In the form that the store chose.
    pub value: Arc<[u8]>,
}

/// An ordered map from byte strings to [`Stored`] values.
#[derive(Clone, Default)]
pub(super) struct Tree {
    root: Arc<Page>,
    entries: u64,
    /// Of all keys and values.
    bytes: u64,
}

#[derive(Clone)]
enum Page {
    Leaf(Leaf),
    Inner(Inner),
}

#[derive(Clone, Default)]
struct Leaf {
    keys: Keys,
    stored: Vec<Stored>,
    /// Of its keys and values.
    bytes: usize,
}

#[derive(Clone)]
struct Inner {
    /// One fewer than children: `separators[i]` is above all keys of child `i` and not above any of child `i + 1`.
    separators: Keys,
    children: Vec<Arc<Page>>,
}

/// A page that split: the first key of its right half, and that half.
type Split = Option<(Vec<u8>, Arc<Page>)>;

impl Default for Page {
    fn default() -> Self {
        Page::Leaf(Leaf::default())
    }
}

impl Tree {
    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What stands at `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Stored> {
        let mut page = &*self.root;
        loop {
            match page {
                Page::Inner(inner) => page = &inner.children[inner.child_of(key)],
                Page::Leaf(leaf) => return leaf.keys.find(key).ok().map(|i| &leaf.stored[i]),
            }
        }
    }

    /// Puts `stored` at `key`.
    pub fn insert(&mut self, key: &[u8], stored: Stored) {
        self.bytes += stored.value.len() as u64;
        let (replaced, split) = insert(&mut self.root, key, stored);
        match replaced {
            Some(bytes) => self.bytes -= bytes as u64,
            None => {
                self.entries += 1;
                self.bytes += key.len() as u64;
            }
        }
        if let Some((separator, right)) = split {
            let mut separators = Keys::default();
            separators.insert(0, &separator);
            let children = vec![self.root.clone(), right];
            self.root = Arc::new(Page::Inner(Inner { separators, children }));
        }
    }

    /// Takes `key` out; whether it was in. A key that is not in copies no page.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        let value_bytes = remove(&mut self.root, key);
        self.entries -= 1;
        self.bytes -= (key.len() + value_bytes) as u64;
        while let Page::Inner(Inner { children, .. }) = &*self.root {
            self.root = match children.as_slice() {
                [] => Arc::default(),
                [only] => only.clone(),
                _ => break,
            };
        }
        true
    }

    /// Shows the entries from `start` on, in key order, until `see` breaks off.
    pub fn visit<'a, B>(
        &'a self,
        start: &[u8],
        mut see: impl FnMut(&'a [u8], &'a Stored) -> ControlFlow<B>,
    ) -> Option<B> {
        visit(&self.root, start, &mut see).break_value()
    }

    /// Panics if a page is out of order, outside its bounds or miscounted.
    #[cfg(test)]
    pub fn check(&self) {
        let (mut entries, mut bytes, mut last) = (0, 0, None::<Vec<u8>>);
        self.visit::<()>(&[], |key, stored| {
            assert!(last.as_deref().is_none_or(|last| last < key), "keys ascend");
            last = Some(key.to_vec());
            entries += 1;
            bytes += (key.len() + stored.value.len()) as u64;
            ControlFlow::Continue(())
        });
        assert_eq!((entries, bytes), (self.entries, self.bytes));
        check_page(&self.root, &[], None, true);
    }
}

fn insert(page: &mut Arc<Page>, key: &[u8], stored: Stored) -> (Option<usize>, Split) {
    match Arc::make_mut(page) {
        Page::Leaf(leaf) => leaf.insert(key, stored),
        Page::Inner(inner) => {
            let i = inner.child_of(key);
            let (replaced, split) = insert(&mut inner.children[i], key, stored);
            let split = split.and_then(|(separator, right)| inner.insert(i, &separator, right));
            (replaced, split)
        }
    }
}

/// Takes out a key that is in; returns its value's length. `page` may be empty then; no page below it is.
fn remove(page: &mut Arc<Page>, key: &[u8]) -> usize {
    match Arc::make_mut(page) {
        Page::Leaf(leaf) => leaf.remove(key),
        Page::Inner(inner) => {
            let i = inner.child_of(key);
            let value_bytes = remove(&mut inner.children[i], key);
            inner.join(i);
            value_bytes
        }
    }
}

fn visit<'a, B>(
    page: &'a Page,
    start: &[u8],
    see: &mut impl FnMut(&'a [u8], &'a Stored) -> ControlFlow<B>,
) -> ControlFlow<B> {
    match page {
        Page::Leaf(leaf) => {
            let first = leaf.keys.find(start).unwrap_or_else(|i| i);
            (first..leaf.stored.len()).try_for_each(|i| see(leaf.keys.get(i), &leaf.stored[i]))
        }
        Page::Inner(inner) => {
            // Below the later children every key lies above `start`: there the search for it ends at the first entry.
            inner.children[inner.child_of(start)..].iter().try_for_each(|child| visit(child, start, see))
        }
    }
}

impl Page {
    fn is_empty(&self) -> bool {
        match self {
            Page::Leaf(leaf) => leaf.stored.is_empty(),
            Page::Inner(inner) => inner.children.is_empty(),
        }
    }
}

impl Leaf {
    /// Puts `stored` at `key`; returns the length of the value it replaced, and what split off.
    fn insert(&mut self, key: &[u8], stored: Stored) -> (Option<usize>, Split) {
        self.bytes += stored.value.len();
        let i = match self.keys.find(key) {
            Ok(i) => {
                let old = std::mem::replace(&mut self.stored[i], stored).value.len();
                self.bytes -= old;
                return (Some(old), self.split(i));
            }
            Err(i) => i,
        };
        self.bytes += key.len();
        self.keys.insert(i, key);
        self.stored.insert(i, stored);
        (None, self.split(i))
    }

    /// Splits if too large, after a write to entry `written`.
    fn split(&mut self, written: usize) -> Split {
        let n = self.stored.len();
        if n <= LEAF_ENTRIES_MIN || (n <= LEAF_ENTRIES_MAX && self.bytes <= LEAF_BYTES_MAX) {
            return None;
        }
        let at = split_at(n, written);
        let mut right = Leaf { keys: self.keys.split_off(at), stored: self.stored.split_off(at), bytes: 0 };
        right.bytes = right.keys.bytes.len() + right.stored.iter().map(|s| s.value.len()).sum::<usize>();
        self.bytes -= right.bytes;
        Some((right.keys.get(0).to_vec(), Arc::new(Page::Leaf(right))))
    }

    fn remove(&mut self, key: &[u8]) -> usize {
        let i = self.keys.find(key).expect("looked up before");
        let value_bytes = self.stored.remove(i).value.len();
        self.keys.remove(i);
        self.bytes -= key.len() + value_bytes;
        value_bytes
    }

    /// Whether both would be at most half a page.
    fn joins(&self, right: &Leaf) -> bool {
        let entries = self.stored.len() + right.stored.len();
        let half = entries <= LEAF_ENTRIES_MAX / 2 && self.bytes + right.bytes <= LEAF_BYTES_MAX / 2;
        half || entries <= LEAF_ENTRIES_MIN / 2
    }

    fn append(&mut self, right: &Leaf) {
        self.keys.append(&right.keys);
        self.stored.extend_from_slice(&right.stored);
        self.bytes += right.bytes;
    }
}

impl Inner {
    /// The child whose range holds `key`.
    fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.find(key) {
            Ok(i) => i + 1,
            Err(i) => i,
        }
    }

    /// Puts in what split off child `i`; returns what splits off this page.
    fn insert(&mut self, i: usize, separator: &[u8], right: Arc<Page>) -> Split {
        self.separators.insert(i, separator);
        self.children.insert(i + 1, right);
        if self.children.len() <= CHILDREN_MAX {
            return None;
        }
        let at = split_at(self.children.len(), i + 1);
        let children = self.children.split_off(at);
        let separators = self.separators.split_off(at);
        // The separator between the halves moves up.
        let between = self.separators.get(at - 1).to_vec();
        self.separators.remove(at - 1);
        Some((between, Arc::new(Page::Inner(Inner { separators, children }))))
    }

    /// After a removal below child `i`: drops it if it is empty, joins it with a neighbour if they are small.
    fn join(&mut self, i: usize) {
        if self.children[i].is_empty() {
            self.children.remove(i);
            if !self.children.is_empty() {
                self.separators.remove(i.saturating_sub(1));
            }
            return;
        }
        let joined = i + 1 < self.children.len() && self.join_right(i);
        if !joined && i > 0 {
            self.join_right(i - 1);
        }
    }

    /// Joins child `i` with the next if both together are at most half a page.
    fn join_right(&mut self, i: usize) -> bool {
        let (left, right) = self.children.split_at_mut(i + 1);
        let (left, right) = (&mut left[i], &right[0]);
        let joins = match (&**left, &**right) {
            (Page::Leaf(l), Page::Leaf(r)) => l.joins(r),
            (Page::Inner(l), Page::Inner(r)) => l.children.len() + r.children.len() <= CHILDREN_MAX / 2,
            _ => unreachable!("all leaves have one depth"),
        };
        if !joins {
            return false;
        }
        match (Arc::make_mut(left), &**right) {
            (Page::Leaf(l), Page::Leaf(r)) => l.append(r),
            (Page::Inner(l), Page::Inner(r)) => {
                l.separators.push(self.separators.get(i));
                l.separators.append(&r.separators);
                l.children.extend_from_slice(&r.children);
            }
            _ => unreachable!("all leaves have one depth"),
        }
        self.children.remove(i + 1);
        self.separators.remove(i);
        true
    }
}

/// Where to cut a page of `n` after a write at `written`: in the middle, but behind a full page if it grew at its end, so that keys put
/// in ascending order fill their pages.
fn split_at(n: usize, written: usize) -> usize {
    if written + 1 == n { n - 1 } else { n / 2 }
}

/// Sorted keys, packed in one string: few cache lines to search, one copy to clone.
#[derive(Clone, Default)]
struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`.
    ends: Vec<u32>,
}

impl Keys {
    fn start(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] as usize }
    }

    fn get(&self, i: usize) -> &[u8] {
        &self.bytes[self.start(i)..self.ends[i] as usize]
    }

    /// The key's place, or where it would be.
    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = (low + high) / 2;
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    fn insert(&mut self, i: usize, key: &[u8]) {
        let (start, end) = (self.start(i), self.bytes.len());
        self.bytes.resize(end + key.len(), 0);
        self.bytes.copy_within(start..end, start + key.len());
        self.bytes[start..start + key.len()].copy_from_slice(key);
        self.ends.insert(i, start as u32);
        self.ends[i..].iter_mut().for_each(|end| *end += key.len() as u32);
    }

    fn remove(&mut self, i: usize) {
        let (start, end) = (self.start(i), self.ends[i] as usize);
        self.bytes.drain(start..end);
        self.ends.remove(i);
        self.ends[i..].iter_mut().for_each(|e| *e -= (end - start) as u32);
    }

    fn push(&mut self, key: &[u8]) {
        self.insert(self.ends.len(), key);
    }

    fn split_off(&mut self, at: usize) -> Keys {
        let start = self.start(at);
        let mut ends = self.ends.split_off(at);
        ends.iter_mut().for_each(|end| *end -= start as u32);
        Keys { bytes: self.bytes.split_off(start), ends }
    }

    fn append(&mut self, other: &Keys) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + start));
    }
}

/// Checks a page's range and counts; returns its height.
#[cfg(test)]
fn check_page(page: &Page, from: &[u8], to: Option<&[u8]>, root: bool) -> usize {
    match page {
        Page::Leaf(leaf) => {
            let n = leaf.stored.len();
            assert!(root || n > 0, "no empty leaf");
            assert!(n <= LEAF_ENTRIES_MAX);
            assert_eq!(leaf.keys.ends.len(), n);
            for i in 0..n {
                let key = leaf.keys.get(i);
                assert!(from <= key && to.is_none_or(|to| key < to), "a key in its page's range");
            }
            let values: usize = leaf.stored.iter().map(|s| s.value.len()).sum();
            assert_eq!(leaf.bytes, leaf.keys.bytes.len() + values);
            0
        }
        Page::Inner(inner) => {
            let n = inner.children.len();
            assert!(n <= CHILDREN_MAX && n >= if root { 2 } else { 1 });
            assert_eq!(inner.separators.ends.len(), n - 1);
            let height = |i: usize| {
                let from = if i == 0 { from } else { inner.separators.get(i - 1) };
                let to = if i + 1 == n { to } else { Some(inner.separators.get(i)) };
                check_page(&inner.children[i], from, to, false)
            };
            assert!((1..n).all(|i| height(i) == height(0)), "all leaves at one depth");
            height(0) + 1
        }
    }
}
