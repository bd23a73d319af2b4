//! One page of the tree under the key-value store, and its canonical bytes.
//!
//! ```text
//! leaf    0 u8, entries u32, then each entry
//! inner   1 u8, children u32, their page indexes u64; then each separator: length u32, bytes
//! entry   key length u32, value length u32, version u64, key, value
//! ```

use std::io::{self, Write};
use std::sync::Arc;

use super::key_value::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::key_value_keys::Keys;
use super::{CanonicalReader, RestoreError};
use crate::checkpoint::pages::Page;
use crate::types::Seq;

/// A leaf with more entries than this is split,
const LEAF_ENTRIES_MAX: usize = 64;
/// and so is one with more bytes of keys and values than this: a write to one entry hashes, stores and sends the whole page,
const LEAF_BYTES_MAX: usize = 32 << 10;
/// unless it has no more entries than this.
const LEAF_ENTRIES_MIN: usize = 4;
/// An inner page with more children than this is split.
const CHILDREN_MAX: usize = 64;

/// Stands before the bytes of a value wherever it is kept; not in canonical bytes.
pub(super) const VALUE_MARK: u8 = 1;
/// Canonical bytes of an entry besides its key and value.
pub(super) const ENTRY_BYTES: usize = 16;

const LEAF: u8 = 0;
const INNER: u8 = 1;
/// Canonical bytes before the first entry or child.
const HEAD_BYTES: usize = 5;

/// What stands beside a key.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Batch that wrote it last.
    pub version: Seq,
    /// The value behind a [`VALUE_MARK`].
    pub value: Arc<[u8]>,
}

/// A page.
#[derive(Clone)]
pub(super) enum TreePage {
    Leaf(Leaf),
    Inner(Inner),
}

#[derive(Clone, Default)]
pub(super) struct Leaf {
    pub keys: Keys,
    pub stored: Vec<Stored>,
    /// Of its keys and values.
    bytes: usize,
}

#[derive(Clone)]
pub(super) struct Inner {
    /// One fewer than children: `separators[i]` is above all keys of child `i` and not above any of child `i + 1`.
    pub separators: Keys,
    pub children: Vec<u64>,
}

impl Default for TreePage {
    fn default() -> Self {
        TreePage::Leaf(Leaf::default())
    }
}

impl TreePage {
    pub fn is_empty(&self) -> bool {
        match self {
            TreePage::Leaf(leaf) => leaf.stored.is_empty(),
            TreePage::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// Whether both would be at most half a page.
    pub fn joins(&self, right: &TreePage) -> bool {
        match (self, right) {
            (TreePage::Leaf(left), TreePage::Leaf(right)) => left.joins(right),
            (TreePage::Inner(left), TreePage::Inner(right)) => {
                left.children.len() + right.children.len() <= CHILDREN_MAX / 2
            }
            _ => unreachable!("all leaves have one depth"),
        }
    }

    /// Takes over all of its right neighbour.
    pub fn append(&mut self, separator: &[u8], right: TreePage) {
        match (self, right) {
            (TreePage::Leaf(left), TreePage::Leaf(right)) => left.append(right),
            (TreePage::Inner(left), TreePage::Inner(right)) => {
                left.separators.push(separator);
                left.separators.append(&right.separators);
                left.children.extend(right.children);
            }
            _ => unreachable!("all leaves have one depth"),
        }
    }
}

impl Leaf {
    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts `stored` at `key`; returns the length of the value it replaced, and what split off.
    pub fn insert(&mut self, key: &[u8], stored: Stored) -> (Option<usize>, Option<Leaf>) {
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
    fn split(&mut self, written: usize) -> Option<Leaf> {
        let n = self.stored.len();
        if n <= LEAF_ENTRIES_MIN || (n <= LEAF_ENTRIES_MAX && self.bytes <= LEAF_BYTES_MAX) {
            return None;
        }
        let at = split_at(n, written);
        let mut right = Leaf { keys: self.keys.split_off(at), stored: self.stored.split_off(at), bytes: 0 };
        right.bytes = right.keys.bytes() + right.stored.iter().map(|s| s.value.len()).sum::<usize>();
        self.bytes -= right.bytes;
        Some(right)
    }

    /// Takes out a key that is in; returns its value's length.
    pub fn remove(&mut self, key: &[u8]) -> usize {
        let i = self.keys.find(key).expect("looked up before");
        let value_bytes = self.stored.remove(i).value.len();
        self.keys.remove(i);
        self.bytes -= key.len() + value_bytes;
        value_bytes
    }

    fn joins(&self, right: &Leaf) -> bool {
        let entries = self.stored.len() + right.stored.len();
        let half = entries <= LEAF_ENTRIES_MAX / 2 && self.bytes + right.bytes <= LEAF_BYTES_MAX / 2;
        half || entries <= LEAF_ENTRIES_MIN / 2
    }

    fn append(&mut self, right: Leaf) {
        self.keys.append(&right.keys);
        self.stored.extend(right.stored);
        self.bytes += right.bytes;
    }
}

impl Inner {
    /// The child whose range holds `key`.
    pub fn child_of(&self, key: &[u8]) -> usize {
        match self.separators.find(key) {
            Ok(i) => i + 1,
            Err(i) => i,
        }
    }

    /// Puts in what split off child `i`; returns what splits off this page, and the separator before it.
    pub fn insert(&mut self, i: usize, separator: &[u8], right: u64) -> Option<(Vec<u8>, Inner)> {
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
        Some((between, Inner { separators, children }))
    }

    /// Takes child `i` out, and the separator before it; of the first child, the one behind it.
    pub fn remove(&mut self, i: usize) {
        self.children.remove(i);
        if !self.children.is_empty() {
            self.separators.remove(i.saturating_sub(1));
        }
    }
}

/// Where to cut a page of `n` after a write at `written`: in the middle, but behind a full page if it grew at its end, so that keys put
/// in ascending order fill their pages.
fn split_at(n: usize, written: usize) -> usize {
    if written + 1 == n { n - 1 } else { n / 2 }
}

impl Page for TreePage {
    fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            TreePage::Leaf(leaf) => {
                out.push(LEAF);
                out.extend((leaf.stored.len() as u32).to_le_bytes());
                for (i, stored) in leaf.stored.iter().enumerate() {
                    write_entry(out, leaf.keys.get(i), stored).expect("memory takes all");
                }
            }
            TreePage::Inner(inner) => {
                out.push(INNER);
                out.extend((inner.children.len() as u32).to_le_bytes());
                inner.children.iter().for_each(|child| out.extend(child.to_le_bytes()));
                for i in 0..inner.separators.len() {
                    let separator = inner.separators.get(i);
                    out.extend((separator.len() as u32).to_le_bytes());
                    out.extend(separator);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        HEAD_BYTES
            + match self {
                TreePage::Leaf(leaf) => leaf.bytes + (ENTRY_BYTES - 1) * leaf.stored.len(),
                TreePage::Inner(inner) => {
                    8 * inner.children.len() + 4 * inner.separators.len() + inner.separators.bytes()
                }
            }
    }

    fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        let [kind] = input.array("kind of page")?;
        let n = input.u32("page")? as usize;
        match kind {
            LEAF => {
                input.ensure(n <= LEAF_ENTRIES_MAX, "a leaf with too many entries")?;
                read_leaf(input, n).map(TreePage::Leaf)
            }
            INNER => {
                input.ensure((1..=CHILDREN_MAX).contains(&n), "an inner page of no such size")?;
                read_inner(input, n).map(TreePage::Inner)
            }
            _ => Err(input.malformed("no such kind of page")),
        }
    }
}

fn read_leaf(input: &mut CanonicalReader<'_>, n: usize) -> Result<Leaf, RestoreError> {
    let mut leaf = Leaf::default();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for i in 0..n {
        let version = read_entry(input, &mut key, &mut value)?;
        input.ensure(i == 0 || leaf.keys.get(i - 1) < key.as_slice(), "keys do not ascend")?;
        leaf.bytes += key.len() + value.len();
        leaf.keys.push(&key);
        leaf.stored.push(Stored { version, value: Arc::from(&*value) });
    }
    Ok(leaf)
}

fn read_inner(input: &mut CanonicalReader<'_>, n: usize) -> Result<Inner, RestoreError> {
    let children = (0..n).map(|_| input.u64("child")).collect::<Result<_, _>>()?;
    let mut separators = Keys::default();
    let mut separator = Vec::new();
    for _ in 1..n {
        let length = input.u32("separator")? as usize;
        input.ensure(length <= KEY_BYTES_MAX, "a separator longer than any key")?;
        separator.clear();
        input.append(&mut separator, length, "separator")?;
        separators.push(&separator);
    }
    Ok(Inner { separators, children })
}

/// Writes an entry's canonical bytes.
pub(super) fn write_entry(out: &mut dyn Write, key: &[u8], stored: &Stored) -> io::Result<()> {
    let value = &stored.value[1..];
    let mut head = [0; ENTRY_BYTES];
    head[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
    head[4..8].copy_from_slice(&(value.len() as u32).to_le_bytes());
    head[8..].copy_from_slice(&stored.version.0.to_le_bytes());
    out.write_all(&head)?;
    out.write_all(key)?;
    out.write_all(value)
}

/// Reads an entry: its version, and into the two buffers its key and its value as it is kept.
pub(super) fn read_entry(
    input: &mut CanonicalReader<'_>,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) -> Result<Seq, RestoreError> {
    let key_bytes = input.u32("entry")? as usize;
    let value_bytes = input.u32("entry")? as usize;
    let version = Seq(input.u64("entry")?);
    input
        .ensure(key_bytes <= KEY_BYTES_MAX && value_bytes <= VALUE_BYTES_MAX, "an entry above its bounds")?;
    key.clear();
    input.append(key, key_bytes, "key")?;
    value.clear();
    value.push(VALUE_MARK);
    input.append(value, value_bytes, "value")?;
    Ok(version)
}
