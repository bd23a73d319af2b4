//! A durable tuple space, as DepSpace has it: named spaces of typed tuples, which are put, read by template, and taken.
//!
//! # Order
//! Tuples have ids, given in the order of execution and never again. Of several that match, the oldest is read or taken, on every
//! replica.
//!
//! # State
//! One ordered map in pages, the key-value store's: a checkpoint writes and a peer sends what changed. New tuples stand at its end, so
//! inserts fill page after page. The index beside it follows from it.
//! ```text
//! 1, name                       space id                of a space
//! 3, space id, tuple id         tuple                   ids u64, big-endian: tuples of a space lie side by side, by age
//! ```
//! Source: Dura-SMaRt (ATC'13), "Evaluation", DDS; DepSpace (EuroSys'08). Differs: no access control and no confidentiality.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::key_value_page::{Stored, TreePage};
use super::key_value_tree::Tree;
use super::tuple_space_fields::{Cursor, RawTemplate, RawTuple};
use super::tuple_space_index::Index;
use super::tuple_space_protocol::{
    Refused, SPACE_NAME_BYTES_MAX, TUPLE_BYTES_MAX, TUPLES_BYTES_MAX, code, status,
};
use super::{
    CanonicalReader, Context, PageSource, PagedSnapshot, QueryReply, RestoreError, Service, Snapshot,
};
use crate::checkpoint::pages::PagedState;
use crate::types::Seq;

/// First bytes of keys.
const NAME: u8 = 1;
const TUPLE: u8 = 3;

/// Named spaces of tuples.
#[derive(Default)]
pub struct TupleSpace {
    tree: Tree,
    /// Given last, to a space or a tuple.
    last_id: u64,
    /// Of each space, by id; follows from `tree`.
    indexes: HashMap<u64, Index>,
}

impl TupleSpace {
    /// No spaces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of tuples in all spaces.
    pub fn tuples(&self) -> u64 {
        self.indexes.values().map(Index::tuples).sum()
    }

    /// Panics if the index is not that of the tuples.
    #[cfg(test)]
    pub(super) fn check(&self) {
        self.tree.check();
        let indexes = index(&self.tree, self.last_id).expect("in order");
        let counts = |indexes: &HashMap<u64, Index>| {
            let counts = indexes.iter().map(|(space, index)| (*space, index.counts()));
            counts.collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(counts(&indexes), counts(&self.indexes));
    }

    /// How many tuples are looked at in search of all that match, in the first space.
    #[cfg(test)]
    pub(super) fn candidates(&self, template: &RawTemplate<'_>) -> usize {
        let mut seen = 0;
        let index = self.indexes.values().next().expect("a space");
        index.visit(template, 0, |_| {
            seen += 1;
            ControlFlow::<()>::Continue(())
        });
        seen
    }

    fn space(&self, name: &str) -> Result<u64, Refused> {
        let stored = self.tree.get(&name_key(name)).ok_or(Refused::NoSpace)?;
        Ok(read_id(&stored.value[1..]).expect("checked when it was kept"))
    }

    fn index(&self, space: u64) -> &Index {
        self.indexes.get(&space).expect("each space has one")
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The oldest tuple that matches.
    fn find(&self, space: u64, template: &RawTemplate<'_>) -> Option<(u64, &Stored)> {
        self.visit(space, template, 0, |id, stored| ControlFlow::Break((id, stored)))
    }

    /// Shows the tuples that match, oldest first, those above `after`, until `see` breaks off.
    fn visit<'a, B>(
        &'a self,
        space: u64,
        template: &RawTemplate<'_>,
        after: u64,
        mut see: impl FnMut(u64, &'a Stored) -> ControlFlow<B>,
    ) -> Option<B> {
        self.index(space).visit(template, after, |id| {
            let stored = self.tree.get(&tuple_key(space, id)).expect("the index knows its tuples");
            match template.matches(&stored.value[1..]) {
                true => see(id, stored),
                false => ControlFlow::Continue(()),
            }
        })
    }

    fn create(&mut self, version: Seq, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        input.end()?;
        if self.space(name).is_ok() {
            return Err(Refused::SpaceExists);
        }
        let space = self.next_id();
        let value = [&[status::TUPLE][..], &space.to_be_bytes()].concat();
        self.tree.insert(&name_key(name), Stored { version, value: value.into() });
        self.indexes.insert(space, Index::default());
        Ok(ok())
    }

    fn delete(&mut self, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        input.end()?;
        let space = self.space(name)?;
        self.indexes.remove(&space);
        self.tree.remove(&name_key(name));
        let start = tuple_key(space, 0);
        // Not all keys at once: a space may be large.
        loop {
            let mut keys = Vec::new();
            self.tree.visit(&start, |key, _| {
                let goes_on = key.starts_with(&start[..9]) && keys.len() < 1024;
                if !goes_on {
                    return ControlFlow::Break(());
                }
                keys.push(key.to_vec());
                ControlFlow::Continue(())
            });
            if keys.is_empty() {
                return Ok(ok());
            }
            for key in keys {
                self.tree.remove(&key);
            }
        }
    }

    fn out(&mut self, version: Seq, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let (tuple, marked) = input.last_tuple()?;
        let space = self.space(name)?;
        self.put(version, space, &tuple, marked);
        Ok(ok())
    }

    fn put(&mut self, version: Seq, space: u64, tuple: &RawTuple<'_>, marked: &[u8]) {
        let id = self.next_id();
        self.tree.insert(&tuple_key(space, id), Stored { version, value: Arc::from(marked) });
        self.indexes.get_mut(&space).expect("each space has one").add(id, tuple);
    }

    fn inp(&mut self, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let template = input.bounded_template()?;
        input.end()?;
        let space = self.space(name)?;
        let Some((id, stored)) = self.find(space, &template) else { return Ok(no_match()) };
        let value = stored.value.clone();
        self.indexes.get_mut(&space).expect("each space has one").remove(id, &RawTuple::of_kept(&value[1..]));
        self.tree.remove(&tuple_key(space, id));
        Ok(Bytes::from_owner(value))
    }

    fn cas(&mut self, version: Seq, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let template = input.bounded_template()?;
        let (tuple, marked) = input.last_tuple()?;
        let space = self.space(name)?;
        if let Some((_, stored)) = self.find(space, &template) {
            return Ok([&[status::PRESENT], &stored.value[1..]].concat().into());
        }
        self.put(version, space, &tuple, marked);
        Ok(ok())
    }

    fn rdp(&self, mut input: Cursor<'_>) -> Result<QueryReply, Refused> {
        let name = input.name()?;
        let template = input.bounded_template()?;
        input.end()?;
        Ok(match self.find(self.space(name)?, &template) {
            // An older tuple cannot come later: while this one is there, it is the answer.
            Some((_, stored)) => {
                QueryReply { result: Bytes::from_owner(stored.value.clone()), version: Some(stored.version) }
            }
            None => unversioned(no_match()),
        })
    }

    fn rdall(&self, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let (limit, after) = (input.u32()?, input.u64()?);
        let template = input.bounded_template()?;
        input.end()?;
        let mut out = BytesMut::new();
        out.put_u8(status::TUPLES);
        out.put_u64_le(0);
        let (mut tuples, mut last) = (0, after);
        let more = self.visit(self.space(name)?, &template, after, |id, stored| {
            let tuple = &stored.value[1..];
            if tuples == limit || (tuples > 0 && out.len() + tuple.len() > TUPLES_BYTES_MAX) {
                return ControlFlow::Break(());
            }
            tuples += 1;
            last = id;
            out.put_slice(tuple);
            ControlFlow::Continue(())
        });
        if more.is_some() {
            out[1..9].copy_from_slice(&last.to_le_bytes());
        }
        Ok(out.freeze())
    }

    fn list(&self, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let (limit, after) = (input.u32()?, input.name_or_none()?);
        input.end()?;
        let mut out = BytesMut::new();
        out.put_slice(&[status::SPACES, 0]);
        let mut spaces = 0;
        let start = name_key(after);
        let more = self.tree.visit(&start, |key, stored| {
            if key == start {
                return ControlFlow::Continue(());
            }
            if key[0] != NAME {
                return ControlFlow::Break(false);
            }
            if spaces == limit || out.len() + key.len() + 16 > TUPLES_BYTES_MAX {
                return ControlFlow::Break(true);
            }
            spaces += 1;
            let index = self.index(read_id(&stored.value[1..]).expect("checked when it was kept"));
            out.put_u8(key.len() as u8 - 1);
            out.put_slice(&key[1..]);
            out.put_u64_le(index.tuples());
            out.put_u64_le(0);
            ControlFlow::Continue(())
        });
        out[1] = u8::from(more == Some(true));
        Ok(out.freeze())
    }
}

fn name_key(name: &str) -> Vec<u8> {
    [&[NAME], name.as_bytes()].concat()
}

fn tuple_key(space: u64, id: u64) -> [u8; 17] {
    let mut key = [TUPLE; 17];
    key[1..9].copy_from_slice(&space.to_be_bytes());
    key[9..].copy_from_slice(&id.to_be_bytes());
    key
}

fn read_id(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn ok() -> Bytes {
    Bytes::from_static(&[status::OK])
}

fn no_match() -> Bytes {
    Bytes::from_static(&[status::NO_MATCH])
}

fn unversioned(result: Bytes) -> QueryReply {
    QueryReply { result, version: None }
}

impl Service for TupleSpace {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        let version = context.seq;
        let reply = match operation {
            [code::CREATE, rest @ ..] => self.create(version, Cursor(rest)),
            [code::DELETE, rest @ ..] => self.delete(Cursor(rest)),
            [code::OUT, rest @ ..] => self.out(version, Cursor(rest)),
            [code::INP, rest @ ..] => self.inp(Cursor(rest)),
            [code::CAS, rest @ ..] => self.cas(version, Cursor(rest)),
            _ => return self.query(operation).result,
        };
        reply.unwrap_or_else(Refused::reply)
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let reply = match operation {
            [code::RDP, rest @ ..] => self.rdp(Cursor(rest)),
            [code::RDALL, rest @ ..] => self.rdall(Cursor(rest)).map(unversioned),
            [code::LIST, rest @ ..] => self.list(Cursor(rest)).map(unversioned),
            [code::CREATE | code::DELETE | code::OUT | code::INP | code::CAS, ..] => Err(Refused::NotARead),
            _ => Err(Refused::Malformed("no such operation")),
        };
        reply.unwrap_or_else(|refused| unversioned(refused.reply()))
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        let tree = self.tree.clone();
        let mut header = PAGES_MAGIC.to_vec();
        header.extend(tree.root().to_le_bytes());
        header.extend(self.last_id.to_le_bytes());
        let paged = PagedState { pages: tree.pages().clone(), header: header.into() };
        Box::new(TupleSnapshot { tree, last_id: self.last_id, paged })
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(input);
        let magic: [u8; 8] = input.array("header")?;
        input.ensure(magic == MAGIC, "not a tuple space of this format")?;
        let last_id = input.u64("header")?;
        let tree = Tree::read_from(&mut input)?;
        input.end()?;
        *self = Self::of(tree, last_id)?;
        Ok(())
    }

    fn restore_pages(
        &mut self,
        mut header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(&mut header);
        let magic: [u8; 8] = input.array("header")?;
        input.ensure(magic == PAGES_MAGIC, "not tuple space pages of this format")?;
        let (root, last_id) = (input.u64("root")?, input.u64("last id")?);
        input.end()?;
        *self = Self::of(Tree::restore(root, count, source)?, last_id)?;
        Ok(())
    }
}

/// Starts the canonical bytes; the last byte is the format's version. Then: last id given `u64`, the tree.
const MAGIC: [u8; 8] = *b"dura-ts\x01";
/// Starts the header of the pages; their root's index and the last id given follow.
const PAGES_MAGIC: [u8; 8] = *b"dura-tp\x01";

struct TupleSnapshot {
    tree: Tree,
    last_id: u64,
    /// The same pages.
    paged: PagedState<TreePage>,
}

impl Snapshot for TupleSnapshot {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&self.last_id.to_le_bytes())?;
        self.tree.write_to(out)
    }

    fn bytes(&self) -> u64 {
        16 + self.tree.canonical_bytes()
    }

    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        Some(&self.paged)
    }
}

impl TupleSpace {
    /// The space with this state, which may be anything.
    fn of(tree: Tree, last_id: u64) -> Result<Self, RestoreError> {
        let indexes = index(&tree, last_id).map_err(|reason| RestoreError::Malformed { at: 0, reason })?;
        Ok(Self { tree, last_id, indexes })
    }
}

/// Indexes what may be anything; the error says what is wrong.
fn index(tree: &Tree, last_id: u64) -> Result<HashMap<u64, Index>, &'static str> {
    if last_id > ID_MAX {
        return Err("no ids are left");
    }
    let mut indexes = HashMap::new();
    let known =
        |id: Option<u64>| id.filter(|id| (1..=last_id).contains(id)).ok_or("an id that was not given");
    let mut add = |key: &[u8], value: &[u8]| match key {
        // Names come first.
        [NAME, name @ ..] => {
            let is_name =
                (1..=SPACE_NAME_BYTES_MAX).contains(&name.len()) && std::str::from_utf8(name).is_ok();
            let space = known(read_id(value))?;
            match is_name && indexes.insert(space, Index::default()).is_none() {
                true => Ok(()),
                false => Err("a space that cannot be"),
            }
        }
        [TUPLE, ids @ ..] if ids.len() == 16 => {
            let (space, id) = (known(read_id(&ids[..8]))?, known(read_id(&ids[8..]))?);
            let index = indexes.get_mut(&space).ok_or("a tuple of no space")?;
            let mut input = Cursor(value);
            let tuple = input.tuple().map_err(|_| "not a tuple")?;
            match value.len() == tuple.bytes.len() && value.len() <= TUPLE_BYTES_MAX {
                true => index.add(id, &tuple),
                false => return Err("more than a tuple"),
            }
            Ok(())
        }
        _ => Err("an entry of no known kind"),
    };
    let wrong = tree.visit(&[], |key, stored| match add(key, &stored.value[1..]) {
        Ok(()) => ControlFlow::Continue(()),
        Err(reason) => ControlFlow::Break(reason),
    });
    wrong.map_or(Ok(indexes), Err)
}

/// Far more than are ever given.
const ID_MAX: u64 = 1 << 62;
