//! An ordered key-value store with compare-and-swap, scans and atomic batches.
//!
//! # Operations
//! Little-endian; `field` = length `u32`, bytes; `value` = length `u32`, the byte 1 (counted), bytes.
//! ```text
//! 1 get     key field
//! 2 put     key field, value
//! 3 delete  key field
//! 4 cas     key field, expected: value, or length 0 for "absent"; value
//! 5 scan    limit u32 (entries), start field (inclusive), end field (exclusive; empty = no end)
//! 6 batch   puts, deletes and cas in the forms above, one behind the other
//! ```
//! # Replies
//! ```text
//! 0 Ok          put, cas and batch are done; delete removed the key
//! 1 Value       bytes
//! 2 NotFound    get, delete: no such key
//! 3 Mismatch    step u32 (of a batch, else 0); 1 and the current value, or nothing for "absent". Nothing was written.
//! 4 Entries     more u8 (1: the scan may go on behind the last), then per entry key field, value length u32, value bytes
//! 5 Malformed   not an operation
//! 6 TooLarge    a key or value above its bound
//! 7 NotARead    a write, asked as a query
//! ```
//! A value travels and is kept with the 1 in front, so that it is copied once, when written, and a get's reply shares the stored bytes.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::key_value_page::{Stored, TreePage, VALUE_MARK};
use super::key_value_tree::Tree;
use super::{
    CanonicalReader, Context, PageSource, PagedSnapshot, QueryReply, RestoreError, Service, Snapshot,
};
use crate::checkpoint::pages::PagedState;
use crate::types::Seq;

/// The longest key, bytes. The shortest is empty.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// The longest value, bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// A scan's reply has at most this many bytes of entries, unless its first entry alone has more.
pub const SCAN_BYTES_MAX: usize = 1 << 20;

mod code {
    pub const GET: u8 = 1;
    pub const PUT: u8 = 2;
    pub const DELETE: u8 = 3;
    pub const CAS: u8 = 4;
    pub const SCAN: u8 = 5;
    pub const BATCH: u8 = 6;
}

mod status {
    pub const OK: u8 = 0;
    pub const VALUE: u8 = super::VALUE_MARK;
    pub const NOT_FOUND: u8 = 2;
    pub const MISMATCH: u8 = 3;
    pub const ENTRIES: u8 = 4;
    pub const MALFORMED: u8 = 5;
    pub const TOO_LARGE: u8 = 6;
    pub const NOT_A_READ: u8 = 7;
}

/// What can be asked of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KvOperation<'a> {
    /// The value at a key.
    Get {
        /// Where.
        key: &'a [u8],
    },
    /// A single write.
    Write(KvWrite<'a>),
    /// The entries of a range in key order.
    Scan {
        /// From this key on.
        start: &'a [u8],
        /// Up to this key, without it; empty: to the end.
        end: &'a [u8],
        /// At most so many entries (and [`SCAN_BYTES_MAX`]).
        limit: u32,
    },
    /// All of these writes or none: every cas is compared with the state before the batch, then the writes are done in their order.
    Batch(Vec<KvWrite<'a>>),
}

/// A write, alone or in a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvWrite<'a> {
    /// Puts a value, whatever was there.
    Put {
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
    },
    /// Removes a key. Alone it tells whether the key was there; in a batch that makes no difference.
    Delete {
        /// Where.
        key: &'a [u8],
    },
    /// Puts a value if the expected one is there.
    CompareAndSwap {
        /// Where.
        key: &'a [u8],
        /// What must be there; `None`: nothing may be.
        expected: Option<&'a [u8]>,
        /// What to put.
        value: &'a [u8],
    },
}

/// What the store answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KvReply {
    /// Written; of a delete: the key was there.
    Ok,
    /// The value of a get.
    Value(Bytes),
    /// Get, delete: no such key.
    NotFound,
    /// A cas did not find what it expected; nothing was written.
    Mismatch {
        /// The first such cas of the batch, counted from 0.
        step: u32,
        /// What is there instead.
        current: Option<Bytes>,
    },
    /// The result of a scan.
    Entries {
        /// Keys and values in key order.
        entries: Vec<(Bytes, Bytes)>,
        /// The limit or [`SCAN_BYTES_MAX`] ended the scan before its range did.
        more: bool,
    },
    /// Not an operation.
    Malformed,
    /// A key or value above its bound.
    TooLarge,
    /// A write, asked as a query.
    NotARead,
}

/// These bytes are not a reply of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a reply of the key-value store")]
pub struct NotAReply;

impl KvOperation<'_> {
    /// The operation's bytes. Bounds are left to the store, which answers [`KvReply::TooLarge`].
    pub fn encode(&self) -> Bytes {
        // Four bytes of length for each field; a scan has the most.
        let mut out = BytesMut::with_capacity(match self {
            Self::Get { key } => 5 + key.len(),
            Self::Write(write) => write.encoded_bytes(),
            Self::Scan { start, end, .. } => 13 + start.len() + end.len(),
            Self::Batch(writes) => 1 + writes.iter().map(KvWrite::encoded_bytes).sum::<usize>(),
        });
        match self {
            Self::Get { key } => {
                out.put_u8(code::GET);
                put_field(&mut out, key);
            }
            Self::Write(write) => write.encode(&mut out),
            Self::Scan { start, end, limit } => {
                out.put_u8(code::SCAN);
                out.put_u32_le(*limit);
                put_field(&mut out, start);
                put_field(&mut out, end);
            }
            Self::Batch(writes) => {
                out.put_u8(code::BATCH);
                writes.iter().for_each(|write| write.encode(&mut out));
            }
        }
        out.freeze()
    }
}

impl KvWrite<'_> {
    /// The bytes of this single write.
    pub fn into_operation(self) -> Bytes {
        KvOperation::Write(self).encode()
    }

    fn encoded_bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => 10 + key.len() + value.len(),
            Self::Delete { key } => 5 + key.len(),
            Self::CompareAndSwap { key, expected, value } => {
                15 + key.len() + expected.map_or(0, <[u8]>::len) + value.len()
            }
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Put { key, value } => {
                out.put_u8(code::PUT);
                put_field(out, key);
                put_value(out, value);
            }
            Self::Delete { key } => {
                out.put_u8(code::DELETE);
                put_field(out, key);
            }
            Self::CompareAndSwap { key, expected, value } => {
                out.put_u8(code::CAS);
                put_field(out, key);
                match expected {
                    Some(expected) => put_value(out, expected),
                    None => out.put_u32_le(0),
                }
                put_value(out, value);
            }
        }
    }
}

fn put_field(out: &mut BytesMut, field: &[u8]) {
    out.put_u32_le(field.len() as u32);
    out.put_slice(field);
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    out.put_u32_le(value.len() as u32 + 1);
    out.put_u8(status::VALUE);
    out.put_slice(value);
}

impl KvReply {
    /// Reads a reply; keys and values share its buffer.
    pub fn decode(reply: &Bytes) -> Result<Self, NotAReply> {
        let mut input = Input(reply);
        let decoded = match input.u8().map_err(|_| NotAReply)? {
            status::OK => Self::Ok,
            status::VALUE => return Ok(Self::Value(reply.slice(1..))),
            status::NOT_FOUND => Self::NotFound,
            status::MISMATCH => {
                let step = input.u32().map_err(|_| NotAReply)?;
                let current = match input.0 {
                    [] => None,
                    [status::VALUE, current @ ..] => Some(reply.slice_ref(current)),
                    _ => return Err(NotAReply),
                };
                return Ok(Self::Mismatch { step, current });
            }
            status::ENTRIES => {
                let more = match input.u8() {
                    Ok(more @ 0..=1) => more == 1,
                    _ => return Err(NotAReply),
                };
                let mut entries = Vec::new();
                while !input.0.is_empty() {
                    let key = input.field().map_err(|_| NotAReply)?;
                    let value = input.field().map_err(|_| NotAReply)?;
                    entries.push((reply.slice_ref(key), reply.slice_ref(value)));
                }
                return Ok(Self::Entries { entries, more });
            }
            status::MALFORMED => Self::Malformed,
            status::TOO_LARGE => Self::TooLarge,
            status::NOT_A_READ => Self::NotARead,
            _ => return Err(NotAReply),
        };
        if input.0.is_empty() { Ok(decoded) } else { Err(NotAReply) }
    }
}

/// Why the bytes of an operation are turned away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    Malformed,
    TooLarge,
}

/// The rest of the bytes being decoded.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Refused::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Refused> {
        self.take(1).map(|byte| byte[0])
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.take(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    fn field(&mut self) -> Result<&'a [u8], Refused> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn key(&mut self) -> Result<&'a [u8], Refused> {
        let key = self.field()?;
        if key.len() <= KEY_BYTES_MAX { Ok(key) } else { Err(Refused::TooLarge) }
    }

    /// A value behind its 1, or nothing.
    fn value_or_none(&mut self) -> Result<Option<&'a [u8]>, Refused> {
        match self.field()? {
            [] => Ok(None),
            [status::VALUE, value @ ..] if value.len() > VALUE_BYTES_MAX => Err(Refused::TooLarge),
            kept @ [status::VALUE, ..] => Ok(Some(kept)),
            _ => Err(Refused::Malformed),
        }
    }

    fn value(&mut self) -> Result<&'a [u8], Refused> {
        self.value_or_none()?.ok_or(Refused::Malformed)
    }

    fn step(&mut self) -> Result<Step<'a>, Refused> {
        Ok(match self.u8()? {
            code::PUT => Step::Put { key: self.key()?, value: self.value()? },
            code::DELETE => Step::Delete { key: self.key()? },
            code::CAS => {
                Step::Cas { key: self.key()?, expected: self.value_or_none()?, value: self.value()? }
            }
            _ => return Err(Refused::Malformed),
        })
    }

    fn end(self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(Refused::Malformed) }
    }
}

/// A write as it came in: values with the 1 in front.
enum Step<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    Cas { key: &'a [u8], expected: Option<&'a [u8]>, value: &'a [u8] },
}

/// The store. The version of a key is the batch that wrote it last. Cloning copies pointers only.
#[derive(Clone, Default)]
pub struct KeyValueStore {
    tree: Tree,
}

impl KeyValueStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of keys.
    pub fn entries(&self) -> u64 {
        self.tree.entries()
    }

    /// Panics if the tree is not in order.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.tree.check();
    }

    fn get(&self, mut input: Input<'_>) -> Result<QueryReply, Refused> {
        let key = input.key()?;
        input.end()?;
        Ok(match self.tree.get(key) {
            Some(stored) => {
                QueryReply { result: Bytes::from_owner(stored.value.clone()), version: Some(stored.version) }
            }
            None => QueryReply { result: Bytes::from_static(&[status::NOT_FOUND]), version: None },
        })
    }

    fn scan(&self, mut input: Input<'_>) -> Result<Bytes, Refused> {
        let (limit, start, end) = (input.u32()?, input.key()?, input.key()?);
        input.end()?;
        let mut out = BytesMut::new();
        out.put_slice(&[status::ENTRIES, 0]);
        let (mut entries, mut bytes) = (0, 0);
        let more = self.tree.visit(start, |key, stored| {
            if !end.is_empty() && key >= end {
                return ControlFlow::Break(false);
            }
            let value = &stored.value[1..];
            bytes += 8 + key.len() + value.len();
            if entries == limit || (entries > 0 && bytes > SCAN_BYTES_MAX) {
                return ControlFlow::Break(true);
            }
            entries += 1;
            put_field(&mut out, key);
            put_field(&mut out, value);
            ControlFlow::Continue(())
        });
        out[1] = u8::from(more == Some(true));
        Ok(out.freeze())
    }

    /// Whether the step may be done: the value found instead of the one expected.
    fn mismatch(&self, step: &Step<'_>) -> Option<Option<&Stored>> {
        let Step::Cas { key, expected, .. } = step else { return None };
        let current = self.tree.get(key);
        (current.map(|stored| &*stored.value) != *expected).then_some(current)
    }

    /// Does the step; false if it was a delete of nothing.
    fn apply(&mut self, version: Seq, step: &Step<'_>) -> bool {
        match *step {
            Step::Put { key, value } | Step::Cas { key, value, .. } => {
                self.tree.insert(key, Stored { version, value: Arc::from(value) });
                true
            }
            Step::Delete { key } => self.tree.remove(key),
        }
    }

    fn write(&mut self, version: Seq, mut input: Input<'_>) -> Result<Bytes, Refused> {
        let step = input.step()?;
        input.end()?;
        if let Some(current) = self.mismatch(&step) {
            return Ok(mismatch_reply(0, current));
        }
        let done = self.apply(version, &step);
        Ok(Bytes::from_static(if done { &[status::OK] } else { &[status::NOT_FOUND] }))
    }

    /// First looks at all steps, then does them: what fails fails before the first write.
    fn batch(&mut self, version: Seq, input: Input<'_>) -> Result<Bytes, Refused> {
        let (mut rest, mut index, mut mismatch) = (input, 0, None);
        while !rest.0.is_empty() {
            let step = rest.step()?;
            if mismatch.is_none() {
                mismatch = self.mismatch(&step).map(|current| mismatch_reply(index, current));
            }
            index += 1;
        }
        if let Some(mismatch) = mismatch {
            return Ok(mismatch);
        }
        let mut rest = input;
        while !rest.0.is_empty() {
            let step = rest.step()?;
            self.apply(version, &step);
        }
        Ok(Bytes::from_static(&[status::OK]))
    }
}

fn mismatch_reply(step: u32, current: Option<&Stored>) -> Bytes {
    let current = current.map_or(&[][..], |stored| &stored.value);
    let mut out = BytesMut::with_capacity(5 + current.len());
    out.put_u8(status::MISMATCH);
    out.put_u32_le(step);
    out.put_slice(current);
    out.freeze()
}

fn refusal(refused: Refused) -> Bytes {
    Bytes::from_static(match refused {
        Refused::Malformed => &[status::MALFORMED],
        Refused::TooLarge => &[status::TOO_LARGE],
    })
}

impl Service for KeyValueStore {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        let reply = match operation {
            [code::GET, rest @ ..] => self.get(Input(rest)).map(|reply| reply.result),
            [code::SCAN, rest @ ..] => self.scan(Input(rest)),
            [code::BATCH, rest @ ..] => self.batch(context.seq, Input(rest)),
            _ => self.write(context.seq, Input(operation)),
        };
        reply.unwrap_or_else(refusal)
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let unversioned = |result| QueryReply { result, version: None };
        match operation {
            [code::GET, rest @ ..] => self.get(Input(rest)).unwrap_or_else(|r| unversioned(refusal(r))),
            [code::SCAN, rest @ ..] => unversioned(self.scan(Input(rest)).unwrap_or_else(refusal)),
            [code::PUT | code::DELETE | code::CAS | code::BATCH, ..] => {
                unversioned(Bytes::from_static(&[status::NOT_A_READ]))
            }
            _ => unversioned(refusal(Refused::Malformed)),
        }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        let tree = self.tree.clone();
        let mut header = PAGES_MAGIC.to_vec();
        header.extend(tree.root().to_le_bytes());
        let paged = PagedState { pages: tree.pages().clone(), header: header.into() };
        Box::new(KvSnapshot { tree, paged })
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        self.tree = read_tree(&mut CanonicalReader::new(input))?;
        Ok(())
    }

    fn restore_pages(
        &mut self,
        mut header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(&mut header);
        input.magic(PAGES_MAGIC, "not key-value pages of this format")?;
        let root = input.u64("root")?;
        input.end()?;
        self.tree = Tree::restore(root, count, source)?;
        Ok(())
    }
}

/// Starts the canonical bytes, before the tree's; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"dura-kv\x01";
/// Starts the header of the pages; their root's index follows.
const PAGES_MAGIC: [u8; 8] = *b"dura-kp\x01";

struct KvSnapshot {
    tree: Tree,
    /// The same pages.
    paged: PagedState<TreePage>,
}

impl Snapshot for KvSnapshot {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        self.tree.write_to(out)
    }

    fn bytes(&self) -> u64 {
        MAGIC.len() as u64 + self.tree.canonical_bytes()
    }

    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        Some(&self.paged)
    }
}

fn read_tree(input: &mut CanonicalReader<'_>) -> Result<Tree, RestoreError> {
    input.magic(MAGIC, "not a key-value state of this format")?;
    let tree = Tree::read_from(input)?;
    input.end()?;
    Ok(tree)
}
