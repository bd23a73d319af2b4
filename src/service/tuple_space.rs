//! A durable tuple space, as DepSpace has it: named spaces of typed tuples, which are put, read by template, and taken.
//!
//! # Order
//! Tuples have ids, given in the order of execution and never again. Of several that match, the oldest is read or taken, on every
//! replica.
//!
//! # Waiting
//! A `rd` or `in` without a match waits, as part of the state. A tuple that is put goes first to the waiting `rd`s that it matches, a copy
//! each, then to the oldest waiting `in`, and only if there is none into the space. A wait ends with the tuple, with its time (agreed
//! time, which passes when something is executed), with its space, or unanswered and without effect with its session.
//! The answer is given once: a repeated request gets the same one, from another leader and after a restart, too.
//!
//! # State
//! One ordered map in pages, the key-value store's: a checkpoint writes and a peer sends what changed. New tuples stand at its end, so
//! inserts fill page after page. The index beside it follows from it.
//! ```text
//! 1, name                 space id
//! 2, space id, id         an operation that waits
//! 3, space id, tuple id   tuple                      ids u64, big-endian: tuples of a space lie side by side, by age
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
    Refused, SPACE_NAME_BYTES_MAX, TUPLE_BYTES_MAX, TUPLES_BYTES_MAX, WAIT_MS_MAX,
    WAITING_TEMPLATE_BYTES_MAX, code, status,
};
use super::tuple_space_waiting::{Wait, Waiting};
use super::{
    CanonicalReader, Context, PageSource, PagedSnapshot, QueryReply, RestoreError, Service, Snapshot, Waiter,
};
use crate::checkpoint::pages::PagedState;
use crate::types::{Seq, WallTime};

/// First bytes of keys.
const NAME: u8 = 1;
const WAIT: u8 = 2;
const TUPLE: u8 = 3;

/// Named spaces of tuples.
#[derive(Default)]
pub struct TupleSpace {
    tree: Tree,
    /// Given last, to a space or a tuple.
    last_id: u64,
    /// Of each space, by id; follows from `tree`.
    indexes: HashMap<u64, Index>,
    /// Follows from `tree`.
    waiting: Waiting,
    /// Since they were last asked for.
    answers: Vec<(Waiter, Bytes)>,
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
        let (indexes, waiting) = index(&self.tree, self.last_id).expect("in order");
        waiting.assert_same(&self.waiting);
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
            let stored = self.tree.get(&key(TUPLE, space, id)).expect("the index knows its tuples");
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
        for id in self.ids(WAIT, space, usize::MAX) {
            self.end(space, id, Refused::NoSpace.reply());
        }
        self.indexes.remove(&space);
        self.tree.remove(&name_key(name));
        loop {
            // Not all at once: a space may be large.
            let ids = self.ids(TUPLE, space, 1024);
            if ids.is_empty() {
                return Ok(ok());
            }
            for id in ids {
                self.tree.remove(&key(TUPLE, space, id));
            }
        }
    }

    /// The first so many ids of this kind in the space.
    fn ids(&self, kind: u8, space: u64, limit: usize) -> Vec<u64> {
        let start = key(kind, space, 0);
        let mut ids = Vec::new();
        self.tree.visit(&start, |key, _| match key.strip_prefix(&start[..9]) {
            Some(id) if ids.len() < limit => {
                ids.extend(read_id(id));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        });
        ids
    }

    fn out(&mut self, version: Seq, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let (tuple, marked) = input.last_tuple()?;
        let space = self.space(name)?;
        self.put(version, space, &tuple, marked);
        Ok(ok())
    }

    fn put(&mut self, version: Seq, space: u64, tuple: &RawTuple<'_>, marked: &[u8]) {
        let value = Arc::from(marked);
        if self.hand_over(space, tuple, &value) {
            return;
        }
        let id = self.next_id();
        self.tree.insert(&key(TUPLE, space, id), Stored { version, value });
        self.indexes.get_mut(&space).expect("each space has one").add(id, tuple);
    }

    /// Gives a tuple to those that wait for it; whether one of them took it.
    fn hand_over(&mut self, space: u64, tuple: &RawTuple<'_>, value: &Arc<[u8]>) -> bool {
        for id in self.waiting.candidates(space, tuple, false) {
            if self.waits_for(space, id, tuple.bytes) {
                self.end(space, id, Bytes::from_owner(value.clone()));
            }
        }
        let candidates = self.waiting.candidates(space, tuple, true);
        let taker = candidates.into_iter().find(|id| self.waits_for(space, *id, tuple.bytes));
        if let Some(id) = taker {
            self.end(space, id, Bytes::from_owner(value.clone()));
        }
        taker.is_some()
    }

    fn waits_for(&self, space: u64, id: u64, tuple: &[u8]) -> bool {
        let stored = self.tree.get(&key(WAIT, space, id)).expect("those that wait are kept");
        Wait::of_kept(&stored.value[1..]).template.matches(tuple)
    }

    /// Answers an operation that waits.
    fn end(&mut self, space: u64, id: u64, reply: Bytes) {
        let waiter = self.drop_wait(space, id);
        self.answers.push((waiter, reply));
    }

    fn drop_wait(&mut self, space: u64, id: u64) -> Waiter {
        let key = key(WAIT, space, id);
        let value = self.tree.get(&key).expect("those that wait are kept").value.clone();
        let wait = Wait::of_kept(&value[1..]);
        self.waiting.remove(space, id, &wait);
        self.tree.remove(&key);
        wait.waiter
    }

    /// Takes a tuple out, or reads it, or lets the operation wait for one, if it may: `None`.
    fn rd_or_in(
        &mut self,
        context: &Context,
        takes: bool,
        may_wait: bool,
        mut input: Cursor<'_>,
    ) -> Result<Option<Bytes>, Refused> {
        let name = input.name()?;
        let wait_ms = input.u32()?;
        let template = input.bounded_template()?;
        input.end()?;
        if wait_ms > WAIT_MS_MAX {
            return Err(Refused::Malformed("an operation waits an hour at most"));
        }
        let space = self.space(name)?;
        if let Some((id, stored)) = self.find(space, &template) {
            let value = stored.value.clone();
            if takes {
                self.take(space, id, &value);
            }
            return Ok(Some(Bytes::from_owner(value)));
        }
        if wait_ms == 0 || !may_wait {
            return Ok(Some(Bytes::from_static(&[status::TIMED_OUT])));
        }
        if template.bytes.len() > WAITING_TEMPLATE_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        let until = WallTime(context.time.0.saturating_add(u64::from(wait_ms) * 1_000_000));
        let wait = Wait { takes, client: context.client, waiter: context.waiter(), until, template };
        let id = self.last_id + 1;
        if !self.waiting.add(space, id, &wait) {
            return Err(Refused::TooManyWait);
        }
        self.last_id = id;
        self.tree.insert(&key(WAIT, space, id), Stored { version: context.seq, value: wait.marked().into() });
        Ok(None)
    }

    fn end_late(&mut self, now: WallTime) {
        while let Some((space, id)) = self.waiting.first_until(now) {
            self.end(space, id, Bytes::from_static(&[status::TIMED_OUT]));
        }
    }

    fn inp(&mut self, mut input: Cursor<'_>) -> Result<Bytes, Refused> {
        let name = input.name()?;
        let template = input.bounded_template()?;
        input.end()?;
        let space = self.space(name)?;
        let Some((id, stored)) = self.find(space, &template) else { return Ok(no_match()) };
        let value = stored.value.clone();
        self.take(space, id, &value);
        Ok(Bytes::from_owner(value))
    }

    /// Takes out a tuple that is there.
    fn take(&mut self, space: u64, id: u64, value: &[u8]) {
        self.indexes.get_mut(&space).expect("each space has one").remove(id, &RawTuple::of_kept(&value[1..]));
        self.tree.remove(&key(TUPLE, space, id));
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
            let space = read_id(&stored.value[1..]).expect("checked when it was kept");
            out.put_u8(key.len() as u8 - 1);
            out.put_slice(&key[1..]);
            out.put_u64_le(self.index(space).tuples());
            out.put_u64_le(self.waiting.in_space(space));
            ControlFlow::Continue(())
        });
        out[1] = u8::from(more == Some(true));
        Ok(out.freeze())
    }
}

fn name_key(name: &str) -> Vec<u8> {
    [&[NAME], name.as_bytes()].concat()
}

fn key(kind: u8, space: u64, id: u64) -> [u8; 17] {
    let mut key = [kind; 17];
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

impl TupleSpace {
    fn step(&mut self, context: &Context, operation: &[u8], may_wait: bool) -> Option<Bytes> {
        self.answers.clear();
        self.end_late(context.time);
        let version = context.seq;
        let reply = match operation {
            [code::CREATE, rest @ ..] => self.create(version, Cursor(rest)),
            [code::DELETE, rest @ ..] => self.delete(Cursor(rest)),
            [code::OUT, rest @ ..] => self.out(version, Cursor(rest)),
            [code::INP, rest @ ..] => self.inp(Cursor(rest)),
            [code::CAS, rest @ ..] => self.cas(version, Cursor(rest)),
            [code @ (code::RD | code::IN), rest @ ..] => {
                match self.rd_or_in(context, *code == code::IN, may_wait, Cursor(rest)) {
                    Ok(reply) => return reply,
                    Err(refused) => Err(refused),
                }
            }
            _ => return Some(self.query(operation).result),
        };
        Some(reply.unwrap_or_else(Refused::reply))
    }
}

impl Service for TupleSpace {
    /// Whoever calls this has no answers for those that wait: a `rd` or `in` without a match is out of time at once.
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        self.step(context, operation, false).expect("it does not wait")
    }

    fn begin(&mut self, context: &Context, operation: &[u8]) -> Option<Bytes> {
        self.step(context, operation, true)
    }

    fn answers(&mut self) -> Vec<(Waiter, Bytes)> {
        std::mem::take(&mut self.answers)
    }

    fn withdraw(&mut self, waiter: &Waiter) {
        if let Some((space, id)) = self.waiting.of(waiter) {
            self.drop_wait(space, id);
        }
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        let reply = match operation {
            [code::RDP, rest @ ..] => self.rdp(Cursor(rest)),
            [code::RDALL, rest @ ..] => self.rdall(Cursor(rest)).map(unversioned),
            [code::LIST, rest @ ..] => self.list(Cursor(rest)).map(unversioned),
            [code::CREATE | code::DELETE | code::OUT | code::INP | code::CAS | code::RD | code::IN, ..] => {
                Err(Refused::NotARead)
            }
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
        input.magic(MAGIC, "not a tuple space of this format")?;
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
        input.magic(PAGES_MAGIC, "not tuple space pages of this format")?;
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
        let (indexes, waiting) =
            index(&tree, last_id).map_err(|reason| RestoreError::Malformed { at: 0, reason })?;
        Ok(Self { tree, last_id, indexes, waiting, answers: Vec::new() })
    }
}

/// Indexes what may be anything; the error says what is wrong.
fn index(tree: &Tree, last_id: u64) -> Result<(HashMap<u64, Index>, Waiting), &'static str> {
    if last_id > ID_MAX {
        return Err("no ids are left");
    }
    let (mut indexes, mut waiting) = (HashMap::new(), Waiting::default());
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
        [WAIT, ids @ ..] if ids.len() == 16 => {
            let (space, id) = (known(read_id(&ids[..8]))?, known(read_id(&ids[8..]))?);
            let wait = Wait::read(value).map_err(|_| "not an operation that waits")?;
            match indexes.contains_key(&space) && waiting.add(space, id, &wait) {
                true => Ok(()),
                false => Err("an operation that cannot wait"),
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
    match wrong {
        None => Ok((indexes, waiting)),
        Some(reason) => Err(reason),
    }
}

/// Far more than are ever given.
const ID_MAX: u64 = 1 << 62;
