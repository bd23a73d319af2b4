//! Operations that wait for a tuple.
//!
//! Of each is kept: takes u8 (0 `rd`, 1 `in`), client u32, session u64, batch u64, index u32, until u64, template. The rest follows from
//! that, and is no part of the state: who a tuple may be for is found by its fields, because each that waits is listed under the first
//! field that its template names, or with those that name none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use super::Waiter;
use super::tuple_space_fields::{Cursor, RawTemplate, RawTuple};
use super::tuple_space_index::Itself;
use super::tuple_space_protocol::{
    Refused, WAITING_MAX, WAITING_PER_CLIENT_MAX, WAITING_TEMPLATE_BYTES_MAX, status,
};
use crate::types::{ClientId, Seq, SessionId, WallTime};

/// One of them.
pub(super) struct Wait<'a> {
    /// Takes the tuple out, or only reads it.
    pub takes: bool,
    pub client: ClientId,
    pub waiter: Waiter,
    pub until: WallTime,
    pub template: RawTemplate<'a>,
}

impl<'a> Wait<'a> {
    /// What is kept, with the mark in front.
    pub fn marked(&self) -> Vec<u8> {
        let mut out = vec![status::TUPLE, u8::from(self.takes)];
        out.extend(self.client.0.to_le_bytes());
        out.extend(self.waiter.session.0.to_le_bytes());
        out.extend(self.waiter.seq.0.to_le_bytes());
        out.extend(self.waiter.index.to_le_bytes());
        out.extend(self.until.0.to_le_bytes());
        out.extend(self.template.bytes);
        out
    }

    /// Reads what is kept, without the mark.
    pub fn read(kept: &'a [u8]) -> Result<Self, Refused> {
        let mut input = Cursor(kept);
        let takes = match input.u8()? {
            takes @ 0..=1 => takes == 1,
            _ => return Err(Refused::Malformed("neither rd nor in")),
        };
        let client = ClientId(input.u32()?);
        let waiter = Waiter { session: SessionId(input.u64()?), seq: Seq(input.u64()?), index: input.u32()? };
        let (until, template) = (WallTime(input.u64()?), input.template()?);
        input.end()?;
        match template.bytes.len() <= WAITING_TEMPLATE_BYTES_MAX {
            true => Ok(Self { takes, client, waiter, until, template }),
            false => Err(Refused::TooLarge),
        }
    }

    pub fn of_kept(kept: &'a [u8]) -> Self {
        Self::read(kept).expect("checked when it was kept")
    }
}

/// All that wait.
#[derive(Default)]
pub(super) struct Waiting {
    /// Space and id.
    places: BTreeMap<Waiter, (u64, u64)>,
    until: BTreeSet<(WallTime, u64, u64)>,
    of_client: HashMap<ClientId, usize>,
    of_space: HashMap<u64, OfSpace>,
    keys: RandomState,
}

#[derive(Default)]
struct OfSpace {
    count: u64,
    /// Ids, ascending: by age.
    lists: HashMap<u64, BTreeSet<u64>, BuildHasherDefault<Itself>>,
}

impl Waiting {
    /// Adds one; false if as many wait as may.
    pub fn add(&mut self, space: u64, id: u64, wait: &Wait<'_>) -> bool {
        let of_client = self.of_client.get(&wait.client).copied().unwrap_or_default();
        let is_full = self.places.len() >= WAITING_MAX || of_client >= WAITING_PER_CLIENT_MAX;
        if is_full || self.places.contains_key(&wait.waiter) {
            return false;
        }
        self.places.insert(wait.waiter, (space, id));
        self.until.insert((wait.until, space, id));
        self.of_client.insert(wait.client, of_client + 1);
        let key = self.key(wait);
        let of_space = self.of_space.entry(space).or_default();
        of_space.count += 1;
        of_space.lists.entry(key).or_default().insert(id);
        true
    }

    /// Takes out one that was added.
    pub fn remove(&mut self, space: u64, id: u64, wait: &Wait<'_>) {
        self.places.remove(&wait.waiter);
        self.until.remove(&(wait.until, space, id));
        let key = self.key(wait);
        drop_one(&mut self.of_client, wait.client, |count| {
            *count -= 1;
            *count == 0
        });
        drop_one(&mut self.of_space, space, |of_space| {
            of_space.count -= 1;
            drop_one(&mut of_space.lists, key, |ids| {
                ids.remove(&id);
                ids.is_empty()
            });
            of_space.count == 0
        });
    }

    /// Where it is kept.
    pub fn of(&self, waiter: &Waiter) -> Option<(u64, u64)> {
        self.places.get(waiter).copied()
    }

    /// How many wait in a space.
    pub fn in_space(&self, space: u64) -> u64 {
        self.of_space.get(&space).map_or(0, |of_space| of_space.count)
    }

    /// One whose time is over: of those the first.
    pub fn first_until(&self, now: WallTime) -> Option<(u64, u64)> {
        let (until, space, id) = self.until.first()?;
        (*until <= now).then_some((*space, *id))
    }

    /// Those that may wait for this tuple, oldest first; all those that do are among them.
    pub fn candidates(&self, space: u64, tuple: &RawTuple<'_>, takes: bool) -> Vec<u64> {
        let Some(of_space) = self.of_space.get(&space) else { return Vec::new() };
        let count = tuple.fields.len();
        let named = tuple.fields.iter().enumerate().map(|(place, value)| Some((place, *value)));
        let lists = named.chain([None]).filter_map(|first| {
            let key = self.key_of(takes, count, first);
            of_space.lists.get(&key)
        });
        let mut ids: Vec<u64> = lists.flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn key(&self, wait: &Wait<'_>) -> u64 {
        self.key_of(wait.takes, wait.template.patterns.len(), wait.template.named().next())
    }

    fn key_of(&self, takes: bool, count: usize, first: Option<(usize, &[u8])>) -> u64 {
        let (place, value) = first.unwrap_or((usize::from(u8::MAX), &[]));
        let mut hasher = self.keys.build_hasher();
        hasher.write(&[u8::from(takes), count as u8, place as u8]);
        hasher.write(value);
        hasher.finish()
    }

    #[cfg(test)]
    pub fn assert_same(&self, other: &Self) {
        assert_eq!(self.places, other.places);
        assert_eq!(self.until, other.until);
        assert_eq!(self.of_client, other.of_client);
        let lists = |waiting: &Self| {
            let counts = waiting.of_space.iter().map(|(space, of)| {
                let mut lists: Vec<_> = of.lists.values().cloned().collect();
                lists.sort();
                (*space, (of.count, lists))
            });
            counts.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(lists(self), lists(other));
    }
}

/// Changes an entry that is there, and removes it if `is_over` then.
fn drop_one<K: Eq + std::hash::Hash, V, H: BuildHasher>(
    map: &mut HashMap<K, V, H>,
    key: K,
    is_over: impl FnOnce(&mut V) -> bool,
) {
    if map.get_mut(&key).is_some_and(is_over) {
        map.remove(&key);
    }
}
