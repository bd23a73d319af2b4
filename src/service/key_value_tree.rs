//! The ordered map under the key-value store and the tuple space: a B+tree whose nodes are numbered pages.
//!
//! ```text
//! Tree ── root ─→ Inner: separators s1 s2 …        child i holds the keys in [s_i, s_i+1)
//!                   ├─→ Leaf: keys packed in one string, beside each key its version and an Arc of its value
//!                   └─→ Leaf …
//! ```
//! Arrows are page indexes, so a write to a leaf leaves the pages above it as they are. Cloning the tree copies one pointer. The first
//! write to a page after that copies the page: its packed keys and its pointers, not the values.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::key_value_page::{ENTRY_BYTES, Inner, Leaf, Stored, TreePage, read_entry, write_entry};
use super::{CanonicalReader, PageSource, RestoreError};
use crate::checkpoint::pages::Pages;

/// Above any tree that operations can build: a level more takes at least 32 times as many.
const HEIGHT_MAX: u32 = 16;

/// An ordered map from byte strings to [`Stored`] values.
#[derive(Clone)]
pub(super) struct Tree {
    pages: Pages<TreePage>,
    /// A page's index.
    root: u64,
    entries: u64,
    /// Of all keys and values.
    bytes: u64,
}

/// A page that split: the first key of its right half, and that half.
type Split = Option<(Vec<u8>, u64)>;

impl Default for Tree {
    fn default() -> Self {
        let mut pages = Pages::new();
        let root = pages.allocate(TreePage::default());
        Self { pages, root, entries: 0, bytes: 0 }
    }
}

impl Tree {
    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The pages.
    pub fn pages(&self) -> &Pages<TreePage> {
        &self.pages
    }

    /// The index of the page where the tree begins.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The tree on pages that [`Tree::pages`] showed, with that root. Looks at all of them: what it takes is in order.
    pub fn restore(root: u64, count: u64, source: &mut PageSource<'_>) -> Result<Self, RestoreError> {
        let pages = Pages::restore(count, source)?;
        let malformed = |reason| RestoreError::Malformed { at: 0, reason };
        let Measured { entries, bytes, .. } = measure(&pages, root).map_err(malformed)?;
        Ok(Self { pages, root, entries, bytes })
    }

    /// Writes the canonical bytes: number of entries `u64`, entries in key order.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.entries.to_le_bytes())?;
        let failed = self.visit(&[], |key, stored| match write_entry(out, key, stored) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(e),
        });
        failed.map_or(Ok(()), Err)
    }

    /// How many bytes [`Tree::write_to`] writes.
    pub fn canonical_bytes(&self) -> u64 {
        // A stored value has the 1 in front, which is not written.
        8 + self.entries * (ENTRY_BYTES as u64 - 1) + self.bytes
    }

    /// Reads what [`Tree::write_to`] wrote.
    pub fn read_from(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        let entries = input.u64("header")?;
        let mut tree = Tree::default();
        let (mut last, mut key, mut value) = (None, Vec::new(), Vec::new());
        for _ in 0..entries {
            let version = read_entry(input, &mut key, &mut value)?;
            input.ensure(last.as_ref().is_none_or(|last| *last < key), "keys do not ascend")?;
            tree.insert(&key, Stored { version, value: Arc::from(&*value) });
            last.get_or_insert_with(Vec::new).clone_from(&key);
        }
        Ok(tree)
    }

    /// What stands at `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Stored> {
        let mut at = self.root;
        loop {
            match page(&self.pages, at) {
                TreePage::Inner(inner) => at = inner.children[inner.child_of(key)],
                TreePage::Leaf(leaf) => return leaf.keys.find(key).ok().map(|i| &leaf.stored[i]),
            }
        }
    }

    /// Puts `stored` at `key`.
    pub fn insert(&mut self, key: &[u8], stored: Stored) {
        self.bytes += stored.value.len() as u64;
        let (replaced, split) = insert(&mut self.pages, self.root, key, stored);
        match replaced {
            Some(bytes) => self.bytes -= bytes as u64,
            None => {
                self.entries += 1;
                self.bytes += key.len() as u64;
            }
        }
        if let Some((separator, right)) = split {
            let mut root = Inner { separators: Default::default(), children: vec![self.root] };
            root.insert(0, &separator, right);
            self.root = self.pages.allocate(TreePage::Inner(root));
        }
    }

    /// Takes `key` out; whether it was in. A key that is not in copies no page.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        let value_bytes = remove(&mut self.pages, self.root, key);
        self.entries -= 1;
        self.bytes -= (key.len() + value_bytes) as u64;
        while let TreePage::Inner(Inner { children, .. }) = page(&self.pages, self.root) {
            let below = match children[..] {
                [] => None,
                [only] => Some(only),
                _ => break,
            };
            self.pages.free(self.root);
            self.root = below.unwrap_or_else(|| self.pages.allocate(TreePage::default()));
        }
        true
    }

    /// Shows the entries from `start` on, in key order, until `see` breaks off.
    pub fn visit<'a, B>(
        &'a self,
        start: &[u8],
        mut see: impl FnMut(&'a [u8], &'a Stored) -> ControlFlow<B>,
    ) -> Option<B> {
        visit(&self.pages, self.root, start, &mut see).break_value()
    }

    /// Panics if a page is out of order, outside its bounds or miscounted.
    #[cfg(test)]
    pub fn check(&self) {
        let Measured { entries, bytes, .. } = measure(&self.pages, self.root).expect("in order");
        assert_eq!((entries, bytes), (self.entries, self.bytes));
    }
}

fn page(pages: &Pages<TreePage>, at: u64) -> &TreePage {
    pages.get(at).expect("the tree knows its pages")
}

fn page_mut(pages: &mut Pages<TreePage>, at: u64) -> &mut TreePage {
    pages.get_mut(at).expect("the tree knows its pages")
}

fn leaf_mut(pages: &mut Pages<TreePage>, at: u64) -> &mut Leaf {
    match page_mut(pages, at) {
        TreePage::Leaf(leaf) => leaf,
        TreePage::Inner(_) => unreachable!("it was a leaf"),
    }
}

fn inner(pages: &Pages<TreePage>, at: u64) -> &Inner {
    match page(pages, at) {
        TreePage::Inner(inner) => inner,
        TreePage::Leaf(_) => unreachable!("it was an inner page"),
    }
}

fn inner_mut(pages: &mut Pages<TreePage>, at: u64) -> &mut Inner {
    match page_mut(pages, at) {
        TreePage::Inner(inner) => inner,
        TreePage::Leaf(_) => unreachable!("it was an inner page"),
    }
}

/// The child of `at` that holds `key`, and its place; `None` if `at` is a leaf.
fn step_down(pages: &Pages<TreePage>, at: u64, key: &[u8]) -> Option<(usize, u64)> {
    match page(pages, at) {
        TreePage::Leaf(_) => None,
        TreePage::Inner(inner) => {
            let i = inner.child_of(key);
            Some((i, inner.children[i]))
        }
    }
}

fn insert(pages: &mut Pages<TreePage>, at: u64, key: &[u8], stored: Stored) -> (Option<usize>, Split) {
    let Some((i, child)) = step_down(pages, at, key) else {
        let (replaced, right) = leaf_mut(pages, at).insert(key, stored);
        let split = right.map(|right| (right.keys.get(0).to_vec(), pages.allocate(TreePage::Leaf(right))));
        return (replaced, split);
    };
    let (replaced, split) = insert(pages, child, key, stored);
    let Some((separator, right)) = split else { return (replaced, None) };
    let split = inner_mut(pages, at).insert(i, &separator, right);
    (replaced, split.map(|(between, right)| (between, pages.allocate(TreePage::Inner(right)))))
}

/// Takes out a key that is in; returns its value's length. `at` may be empty then; no page below it is.
fn remove(pages: &mut Pages<TreePage>, at: u64, key: &[u8]) -> usize {
    let Some((i, child)) = step_down(pages, at, key) else {
        return leaf_mut(pages, at).remove(key);
    };
    let value_bytes = remove(pages, child, key);
    join(pages, at, i);
    value_bytes
}

/// After a removal below child `i`: drops it if it is empty, joins it with a neighbour if they are small.
fn join(pages: &mut Pages<TreePage>, at: u64, i: usize) {
    let children = &inner(pages, at).children;
    let (child, n) = (children[i], children.len());
    if page(pages, child).is_empty() {
        pages.free(child);
        inner_mut(pages, at).remove(i);
        return;
    }
    let joined = i + 1 < n && join_right(pages, at, i);
    if !joined && i > 0 {
        join_right(pages, at, i - 1);
    }
}

/// Joins child `i` with the next if both together are at most half a page.
fn join_right(pages: &mut Pages<TreePage>, at: u64, i: usize) -> bool {
    let above = inner(pages, at);
    let (left, right) = (above.children[i], above.children[i + 1]);
    if !page(pages, left).joins(page(pages, right)) {
        return false;
    }
    let separator = above.separators.get(i).to_vec();
    let right = pages.free(right).expect("the tree knows its pages");
    page_mut(pages, left).append(&separator, right);
    inner_mut(pages, at).remove(i + 1);
    true
}

fn visit<'a, B>(
    pages: &'a Pages<TreePage>,
    at: u64,
    start: &[u8],
    see: &mut impl FnMut(&'a [u8], &'a Stored) -> ControlFlow<B>,
) -> ControlFlow<B> {
    match page(pages, at) {
        TreePage::Leaf(leaf) => {
            let first = leaf.keys.find(start).unwrap_or_else(|i| i);
            (first..leaf.stored.len()).try_for_each(|i| see(leaf.keys.get(i), &leaf.stored[i]))
        }
        TreePage::Inner(inner) => {
            // Below the later children every key lies above `start`: there the search for it ends at the first entry.
            let children = &inner.children[inner.child_of(start)..];
            children.iter().try_for_each(|child| visit(pages, *child, start, see))
        }
    }
}

/// What is found below a page.
#[derive(Default)]
struct Measured {
    pages: u64,
    entries: u64,
    bytes: u64,
    /// Of the leaves, from the root on.
    depth: Option<u32>,
}

/// Walks through a tree and its pages, which may be anything; the error says what is wrong.
fn measure(pages: &Pages<TreePage>, root: u64) -> Result<Measured, &'static str> {
    let mut measured = Measured::default();
    measured.add(pages, root, &[], None, 0)?;
    match measured.pages == pages.occupied() {
        true => Ok(measured),
        false => Err("a page outside the tree"),
    }
}

impl Measured {
    /// Adds a page whose keys lie in `from..to`. As no leaf is empty, this finds a page in two places, and a cycle by its depth.
    fn add(
        &mut self,
        pages: &Pages<TreePage>,
        at: u64,
        from: &[u8],
        to: Option<&[u8]>,
        depth: u32,
    ) -> Result<(), &'static str> {
        self.pages += 1;
        match pages.get(at).ok_or("a page that is not there")? {
            TreePage::Leaf(leaf) => {
                let n = leaf.stored.len();
                if n == 0 && depth > 0 {
                    return Err("an empty leaf");
                }
                if n > 0 && (leaf.keys.get(0) < from || to.is_some_and(|to| leaf.keys.get(n - 1) >= to)) {
                    return Err("a key outside its page's range");
                }
                self.entries += n as u64;
                self.bytes += leaf.bytes() as u64;
                match *self.depth.get_or_insert(depth) == depth {
                    true => Ok(()),
                    false => Err("leaves of different depths"),
                }
            }
            TreePage::Inner(inner) => {
                let n = inner.children.len();
                if depth == HEIGHT_MAX || (depth == 0 && n < 2) {
                    return Err("inner pages without need");
                }
                (0..n).try_for_each(|i| {
                    let from = if i == 0 { from } else { inner.separators.get(i - 1) };
                    let to = if i + 1 == n { to } else { Some(inner.separators.get(i)) };
                    self.add(pages, inner.children[i], from, to, depth + 1)
                })
            }
        }
    }
}
