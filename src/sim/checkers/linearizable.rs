//! Whether what clients saw can be explained by one store that did each operation at one moment between its call and its return.
//!
//! It knows calls, returns and the store's contract, and nothing of places, batches or replicas. The algorithm is that of Wing and
//! Gong with Lowe's memory of configurations ("Testing for linearizability"), one key at a time: a history is linearizable if it is
//! so for each key (Herlihy and Wing, "Locality"). What never returned may have been done at any later moment, or never.

use crate::service::KvReply;
use crate::sim::operations::{self, Kind};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};

/// Configurations looked at for one key; a history that needs more is not decided.
const CONFIGURATIONS_MAX: usize = 200_000;

/// One operation as a client saw it. Moments are numbered in the order in which they passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// As [`operations::read`] takes it.
    pub operation: Vec<u8>,
    /// When it was called.
    pub called: u64,
    /// When it returned, and what.
    pub returned: Option<(u64, KvReply)>,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// One store explains all of it.
    Linearizable,
    /// No store explains what was seen of this key.
    Refused(String),
    /// There were too many ways to order the operations of so many keys.
    Undecided(u64),
}

/// Looks at each key.
pub fn check(calls: &[Call]) -> Verdict {
    let mut keys: BTreeMap<u8, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        keys.entry(operations::read(&call.operation).0).or_default().push(call);
    }
    let mut undecided = 0;
    for (key, calls) in keys {
        match Search::new(&calls).run() {
            Some(Ok(())) => {}
            Some(Err(at)) => return Verdict::Refused(describe(key, calls[at])),
            None => undecided += 1,
        }
    }
    if undecided == 0 { Verdict::Linearizable } else { Verdict::Undecided(undecided) }
}

fn describe(key: u8, call: &Call) -> String {
    let (_, kind) = operations::read(&call.operation);
    let (called, returned) = (call.called, &call.returned);
    format!(
        "key {key}: {kind:?}, called at {called}, returned {returned:?}, which no order of the operations explains"
    )
}

type Value = Option<Bytes>;

/// The value after the operation, if it may have returned this.
fn step(value: &Value, kind: Kind<'_>, reply: Option<&KvReply>) -> Option<Value> {
    let (next, is) = match kind {
        Kind::Get => (value.clone(), value.clone().map_or(KvReply::NotFound, KvReply::Value)),
        Kind::Put(new) => (Some(Bytes::copy_from_slice(new)), KvReply::Ok),
        Kind::Delete => (None, if value.is_some() { KvReply::Ok } else { KvReply::NotFound }),
        Kind::Swap(expected, new) if value.as_deref() == expected => {
            (Some(Bytes::copy_from_slice(new)), KvReply::Ok)
        }
        Kind::Swap(..) => (value.clone(), KvReply::Mismatch { step: 0, current: value.clone() }),
    };
    reply.is_none_or(|reply| *reply == is).then_some(next)
}

/// Entry 0 is the head of the list; the others are calls and returns in the order in which they happened.
struct Search<'a> {
    calls: &'a [&'a Call],
    /// The call of each entry, and whether it is its return.
    entries: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each call and its return stand.
    call_at: Vec<usize>,
    return_at: Vec<Option<usize>>,
    /// Returns still in the list.
    open: usize,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [&'a Call]) -> Self {
        let mut moments: Vec<(u64, bool, usize)> = Vec::new();
        for (i, call) in calls.iter().enumerate() {
            moments.push((call.called, false, i));
            moments.extend(call.returned.as_ref().map(|(at, _)| (*at, true, i)));
        }
        // Calls before returns of the same moment: those overlap.
        moments.sort_unstable();
        let mut entries = vec![(usize::MAX, false)];
        entries.extend(moments.iter().map(|(_, returns, i)| (*i, *returns)));
        let (mut call_at, mut return_at) = (vec![0; calls.len()], vec![None; calls.len()]);
        for (at, (i, returns)) in entries.iter().enumerate().skip(1) {
            match returns {
                true => return_at[*i] = Some(at),
                false => call_at[*i] = at,
            }
        }
        let count = entries.len();
        let open = return_at.iter().flatten().count();
        let next = (1..=count).map(|at| at % count).collect();
        let previous = (0..count).map(|at| (at + count - 1) % count).collect();
        Self { calls, entries, next, previous, call_at, return_at, open }
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }

    /// `None`: not decided. `Err`: the call whose return could not be explained by any order, with most before it explained.
    fn run(mut self) -> Option<Result<(), usize>> {
        let mut done = vec![0u64; self.calls.len().div_ceil(64)];
        let mut seen: HashSet<(Vec<u64>, Value)> = HashSet::new();
        let mut path: Vec<(usize, Value)> = Vec::new();
        let mut value: Value = None;
        let (mut furthest, mut stuck) = (0, 0);
        let mut at = self.next[0];
        while self.open > 0 {
            // A return that is still open stands behind every call that may come before it: the end is never reached.
            let (call, returns) = self.entries[at];
            if !returns {
                let (_, kind) = operations::read(&self.calls[call].operation);
                let reply = self.calls[call].returned.as_ref().map(|(_, reply)| reply);
                let after = step(&value, kind, reply);
                done[call / 64] |= 1 << (call % 64);
                if let Some(after) = after
                    && seen.insert((done.clone(), after.clone()))
                {
                    if seen.len() > CONFIGURATIONS_MAX {
                        return None;
                    }
                    path.push((call, std::mem::replace(&mut value, after)));
                    self.unlink(self.call_at[call]);
                    if let Some(at) = self.return_at[call] {
                        self.unlink(at);
                        self.open -= 1;
                    }
                    at = self.next[0];
                } else {
                    done[call / 64] &= !(1 << (call % 64));
                    at = self.next[at];
                }
                continue;
            }
            if path.len() >= furthest {
                (furthest, stuck) = (path.len(), call);
            }
            let Some((last, before)) = path.pop() else { return Some(Err(stuck)) };
            value = before;
            done[last / 64] &= !(1 << (last % 64));
            if let Some(at) = self.return_at[last] {
                self.link(at);
                self.open += 1;
            }
            self.link(self.call_at[last]);
            at = self.next[self.call_at[last]];
        }
        Some(Ok(()))
    }
}
