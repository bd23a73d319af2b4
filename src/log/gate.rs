//! [sans-I/O] What may leave only after it is on disk. A [`Durable`] cannot be made anywhere else.

use std::collections::VecDeque;
use std::ops::Deref;

use crate::types::Lsn;

/// Every record up to and including `upto` survives a power loss. Only the log makes these, from completed
/// synchronous writes; always the longest contiguous prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    upto: Lsn,
}

impl Persisted {
    pub(super) fn new(upto: Lsn) -> Self {
        Self { upto }
    }

    /// For simulations that model the disk themselves.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn simulated(upto: Lsn) -> Self {
        Self { upto }
    }

    /// The last durable record.
    pub fn upto(&self) -> Lsn {
        self.upto
    }
}

/// A value whose record is durable: the only form in which it may leave the replica.
#[derive(Debug, PartialEq, Eq)]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// What nobody may do: for tests that break this rule on purpose and expect to be caught.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn forged(value: T) -> Self {
        Self(value)
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// A part of the value, or what follows from it: as durable as the whole.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Durable<U> {
        Durable(f(self.0))
    }
}

impl<T> Deref for Durable<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Holds values until the record they depend on is durable; releases them in the order of their records.
#[derive(Debug)]
pub struct DurableGate<T> {
    upto: Lsn,
    held: VecDeque<(Lsn, T)>,
}

impl<T> DurableGate<T> {
    /// A gate for a log that starts with `upto` durable: `RecoveryReport::last_lsn`.
    pub fn new(upto: Lsn) -> Self {
        Self { upto, held: VecDeque::new() }
    }

    /// Holds `value` until record `lsn` is durable. A value whose record already is comes back at once: no later
    /// `Persisted` would release it.
    #[must_use = "a value whose record is already durable comes back at once"]
    pub fn hold(&mut self, lsn: Lsn, value: T) -> Option<Durable<T>> {
        if lsn <= self.upto {
            return Some(Durable(value));
        }
        // Nearly always at the end: values come with rising lsn.
        let at = self.held.iter().rposition(|(held, _)| *held <= lsn).map_or(0, |i| i + 1);
        self.held.insert(at, (lsn, value));
        None
    }

    /// Values released by `persisted`. Dropping the iterator drops the rest of them.
    pub fn release(&mut self, persisted: &Persisted) -> impl Iterator<Item = Durable<T>> + '_ {
        self.upto = self.upto.max(persisted.upto);
        let n = self.held.partition_point(|(lsn, _)| *lsn <= self.upto);
        self.held.drain(..n).map(|(_, value)| Durable(value))
    }

    /// Drops what is held and matches, for example votes of a view that is over.
    pub fn discard(&mut self, mut discard: impl FnMut(&T) -> bool) {
        self.held.retain(|(_, value)| !discard(value));
    }

    /// What is held.
    #[cfg(any(test, feature = "mutants"))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.held.iter().map(|(_, value)| value)
    }

    /// The last record known to be durable.
    pub fn upto(&self) -> Lsn {
        self.upto
    }

    /// How many values are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
