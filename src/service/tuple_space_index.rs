//! Finds the tuples that may match a template, oldest first, without a look at all of them.
//!
//! ```text
//! a template that names fields   →  of their lists (number of fields, place, value → tuples) the shortest
//! one that names none            →  the lists of all shapes (the types of the fields in order) that it takes, merged
//! ```
//! It follows from the tuples, so it is no part of the state: nothing of it is written, and a restored service builds its own. Lists
//! are found by keyed hashes: two values of one hash only make a list longer. What is found depends on neither hashes nor their keys,
//! because each list has every tuple that matches, in order.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_set};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::ControlFlow;

use super::tuple_space_fields::{RawTemplate, RawTuple};

/// Tuples' ids, ascending: by age.
type Lists = HashMap<u64, Ids, BuildHasherDefault<Itself>>;

/// The index of one space.
#[derive(Default)]
pub(super) struct Index {
    tuples: u64,
    /// By shape: number of fields, then their types.
    shapes: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    /// By the hash of number of fields, place and value.
    fields: Lists,
    keys: RandomState,
}

impl Index {
    /// Number of tuples.
    pub fn tuples(&self) -> u64 {
        self.tuples
    }

    /// Tuples, lists, and places in them.
    #[cfg(test)]
    pub fn counts(&self) -> (u64, usize, usize, usize) {
        let shapes = self.shapes.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(shapes as u64, self.tuples);
        let ids = self.fields.values().map(Ids::len).sum();
        (self.tuples, self.shapes.len(), self.fields.len(), ids)
    }

    /// Adds a tuple.
    pub fn add(&mut self, id: u64, tuple: &RawTuple<'_>) {
        self.tuples += 1;
        self.shapes.entry(shape(tuple)).or_default().insert(id);
        for (place, value) in tuple.fields.iter().enumerate() {
            let key = self.key(tuple.fields.len(), place, value);
            self.fields.entry(key).and_modify(|ids| ids.insert(id)).or_insert(Ids::One(id));
        }
    }

    /// Takes out a tuple that was added.
    pub fn remove(&mut self, id: u64, tuple: &RawTuple<'_>) {
        self.tuples -= 1;
        let shape = shape(tuple);
        let ids = self.shapes.get_mut(&shape).expect("it was added");
        ids.remove(&id);
        if ids.is_empty() {
            self.shapes.remove(&shape);
        }
        for (place, value) in tuple.fields.iter().enumerate() {
            let key = self.key(tuple.fields.len(), place, value);
            if let Entry::Occupied(mut ids) = self.fields.entry(key)
                && ids.get_mut().remove(id)
            {
                ids.remove();
            }
        }
    }

    /// Shows the ids of tuples that may match, ascending, all those above `after` that do among them, until `see` breaks off.
    pub fn visit<B>(
        &self,
        template: &RawTemplate<'_>,
        after: u64,
        mut see: impl FnMut(u64) -> ControlFlow<B>,
    ) -> Option<B> {
        let count = template.patterns.len();
        let mut named =
            template.named().map(|(place, value)| self.fields.get(&self.key(count, place, value)));
        if let Some(first) = named.next() {
            let mut fewest = first?;
            for ids in named {
                let ids = ids?;
                if ids.len() < fewest.len() {
                    fewest = ids;
                }
            }
            return match fewest {
                Ids::One(id) => (*id > after).then(|| see(*id).break_value()).flatten(),
                Ids::Many(ids) => above(ids, after).try_for_each(|id| see(*id)).break_value(),
            };
        }
        let range = vec![count as u8]..vec![count as u8 + 1];
        let taken = self.shapes.range(range).filter(|(shape, _)| template.takes_shape(&shape[1..]));
        merge(taken.map(|(_, ids)| above(ids, after)).collect(), see)
    }

    fn key(&self, count: usize, place: usize, value: &[u8]) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_u16((count << 8 | place) as u16);
        hasher.write(value);
        hasher.finish()
    }
}

fn shape(tuple: &RawTuple<'_>) -> Vec<u8> {
    std::iter::once(tuple.fields.len() as u8).chain(tuple.fields.iter().map(|field| field[0])).collect()
}

fn above(ids: &BTreeSet<u64>, after: u64) -> btree_set::Range<'_, u64> {
    ids.range((Excluded(after), Unbounded))
}

/// Shows what the lists hold, ascending.
fn merge<B>(
    mut lists: Vec<btree_set::Range<'_, u64>>,
    mut see: impl FnMut(u64) -> ControlFlow<B>,
) -> Option<B> {
    let firsts = lists.iter_mut().enumerate().filter_map(|(i, ids)| ids.next().map(|id| Reverse((*id, i))));
    let mut heads: BinaryHeap<_> = firsts.collect();
    while let Some(Reverse((id, i))) = heads.pop() {
        if let ControlFlow::Break(found) = see(id) {
            return Some(found);
        }
        heads.extend(lists[i].next().map(|id| Reverse((*id, i))));
    }
    None
}

/// A list, mostly of one.
enum Ids {
    One(u64),
    Many(BTreeSet<u64>),
}

impl Ids {
    fn len(&self) -> usize {
        match self {
            Ids::One(_) => 1,
            Ids::Many(ids) => ids.len(),
        }
    }

    fn insert(&mut self, id: u64) {
        match self {
            Ids::One(one) if *one == id => {}
            Ids::One(one) => *self = Ids::Many(BTreeSet::from([*one, id])),
            Ids::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    /// Takes `id` out; whether none is left.
    fn remove(&mut self, id: u64) -> bool {
        match self {
            Ids::One(one) => *one == id,
            Ids::Many(ids) => {
                ids.remove(&id);
                ids.is_empty()
            }
        }
    }
}

/// Hashes of hashes are the hashes.
#[derive(Default)]
pub(super) struct Itself(u64);

impl Hasher for Itself {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
