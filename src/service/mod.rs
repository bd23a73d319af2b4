//! What is replicated: a deterministic state machine behind the trait [`Service`].
//!
//! # What determinism asks of a service
//! Every replica executes the same operations in the same order and must end in the same state with the same replies, bit for bit;
//! a replica that differs looks like a liar to the others. So replies and state depend on nothing but the state, the [`Context`]
//! and the operation's bytes:
//! - time and randomness come from the [`Context`] only: they were agreed on with the batch;
//! - no iteration order of a hash map, no pointer values, no capacity, no thread timing, no floats, nothing read from the machine;
//! - canonical bytes ([`Snapshot::write_to`]): equal states write equal bytes, whatever history led to them. Ordered maps, fixed
//!   endianness, lengths first. ([`CanonicalReader`] and [`DigestWriter`] help, [`conformance`] checks.)
//!
//! # Errors
//! An operation is a client's bytes: anything may stand in them. A service answers what it cannot do with a reply of its own that says
//! so, the same on every replica, and never panics: a panic would stop every replica at the same operation, again after each restart.
//! [`Service::restore`] reads bytes of a peer or a disk and turns away what is not well-formed, leaving the state as it was.
//!
//! # Operations that wait
//! A service may let an operation wait for later ones ([`Service::begin`]): its client hears nothing until one of them ends it, and a
//! repeated request waits on. The wait is part of the state. The tuple space does so; most services need none of it.
//!
//! # Pages
//! A large state is better kept in [`Pages`]: then its root costs what changed, a checkpoint writes and a peer sends what changed.
//! ([`Snapshot::pages`], [`Service::restore_pages`]; the layout of the pages is part of the state then.) The key-value store does so.
//!
//! # Reads
//! [`Service::query`] may run between two executions on one replica's state, unordered. Its version is what lets a client compare
//! the answers of several replicas (RULES 9).
//!
//! [`Service`]: crate::service::Service
//! [`Context`]: crate::service::Context
//! [`Snapshot::write_to`]: crate::service::Snapshot::write_to
//! [`CanonicalReader`]: crate::service::CanonicalReader
//! [`DigestWriter`]: crate::service::DigestWriter
//! [`conformance`]: crate::service::conformance
//! [`Service::restore`]: crate::service::Service::restore
//! [`Service::query`]: crate::service::Service::query
//! [`Service::begin`]: crate::service::Service::begin
//! [`Pages`]: crate::checkpoint::pages::Pages
//! [`Snapshot::pages`]: crate::service::Snapshot::pages
//! [`Service::restore_pages`]: crate::service::Service::restore_pages

mod canonical;
/// Checks of the contract, for the tests of services.
pub mod conformance;
mod conformance_pages;
mod counter;
mod key_value;
mod key_value_keys;
mod key_value_page;
mod key_value_tree;
mod null;
/// Operations for tests and loads.
pub mod random;
mod slow;
mod tuple_space;
mod tuple_space_fields;
mod tuple_space_index;
mod tuple_space_protocol;
mod tuple_space_waiting;

pub use canonical::{CanonicalReader, DigestWriter, RestoreError};
pub use counter::Counter;
pub use key_value::{
    KEY_BYTES_MAX, KeyValueStore, KvOperation, KvReply, KvWrite, NotAReply, SCAN_BYTES_MAX, VALUE_BYTES_MAX,
};
pub use null::{NULL_REPLY_BYTES_MAX, NullService};
pub use slow::SlowService;
pub use tuple_space::TupleSpace;
pub use tuple_space_fields::{Field, FieldType, Pattern, TUPLE_FIELDS_MAX};
pub use tuple_space_protocol::{
    NotATupleReply, SPACE_NAME_BYTES_MAX, SpaceEntry, TUPLE_BYTES_MAX, TUPLES_BYTES_MAX, TupleOperation,
    TupleReply, WAIT_MS_MAX, WAITING_MAX, WAITING_PER_CLIENT_MAX, WAITING_TEMPLATE_BYTES_MAX,
};

#[cfg(test)]
mod key_value_pages_tests;
#[cfg(test)]
mod key_value_tests;
#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tuple_space_tests;
#[cfg(test)]
mod tuple_space_waiting_tests;

use std::any::Any;
use std::io::{self, Read, Write};

use bytes::Bytes;
use rayon::ThreadPool;

use crate::types::{ClientId, Digest, DigestAlgorithm, Seq, SessionId, WallTime};

/// Everything a deterministic service may know besides its state and the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The batch that the operation was decided in.
    pub seq: Seq,
    /// The operation's place in that batch, from 0.
    pub index: u32,
    /// The batch's agreed time; never goes back from one batch to the next.
    pub time: WallTime,
    /// The agreed random seed of this operation.
    pub seed: u64,
    /// The key that the request was authenticated with.
    pub client: ClientId,
    /// The session it came in.
    pub session: SessionId,
}

impl Context {
    /// Names the operation while it waits.
    pub fn waiter(&self) -> Waiter {
        Waiter { session: self.session, seq: self.seq, index: self.index }
    }
}

/// An operation that waits, named by where it came from and where it stands in the order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Waiter {
    /// Its session.
    pub session: SessionId,
    /// Its batch.
    pub seq: Seq,
    /// Its place in that batch.
    pub index: u32,
}

/// The answer to a read outside the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueryReply {
    /// The same bytes that [`Service::execute`] of the operation would have replied.
    pub result: Bytes,
    /// Seq of the last write to exactly what was read; `None` = unknown, the reader compares the executed Seq instead (RULES 9).
    pub version: Option<Seq>,
}

/// A deterministic state machine. The module's head says what that asks.
///
/// The whole of the smallest service here, [`Counter`]:
/// ```
/// # use duramen::{service, types};
#[doc = include_str!("counter.rs")]
/// # fn main() {
/// # use crate::types::{ClientId, SessionId, WallTime};
/// // Nine is added by the first operation of batch 1.
/// let context = Context {
///     seq: Seq(1), index: 0, time: WallTime(0), seed: 0, client: ClientId(7), session: SessionId(1),
/// };
/// let mut counter = Counter::default();
/// let reply = counter.execute(&context, &9u64.to_le_bytes());
/// assert_eq!(reply, 9u64.to_le_bytes().as_slice());
///
/// // A read, beside the order.
/// let answer = counter.query(&[]);
/// assert_eq!((answer.result, answer.version), (reply, Some(Seq(1))));
///
/// // Another replica takes the state over.
/// let mut bytes = Vec::new();
/// counter.snapshot().write_to(&mut bytes).unwrap();
/// let mut other = Counter::default();
/// other.restore(&mut bytes.as_slice()).unwrap();
/// assert_eq!(other.digest(DigestAlgorithm::Blake3), counter.digest(DigestAlgorithm::Blake3));
/// # }
/// ```
pub trait Service: Send {
    /// Executes one ordered operation and returns its reply. Never panics, whatever the bytes: malformed operations get a reply that
    /// says so, the same on every replica. `operation` is a part of a larger buffer: copy out of it what the state keeps.
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes;

    /// As [`Service::execute`], but the operation may wait, then `None`: its reply comes with [`Service::answers`] of a later operation,
    /// once, unless it is withdrawn before. The service keeps the [`Context::waiter`] in its state, and bounds how many wait.
    fn begin(&mut self, context: &Context, operation: &[u8]) -> Option<Bytes> {
        Some(self.execute(context, operation))
    }

    /// The replies to operations that waited until the one begun last, in an order that is the same on all replicas. Asked for once after
    /// each [`Service::begin`].
    fn answers(&mut self) -> Vec<(Waiter, Bytes)> {
        Vec::new()
    }

    /// Nobody can be told any more what an operation that waits comes to: it ends, without any effect.
    fn withdraw(&mut self, waiter: &Waiter) {
        let _ = waiter;
    }

    /// Answers a read-only operation from the present state. An operation that would write is refused in the reply.
    fn query(&self, operation: &[u8]) -> QueryReply;

    /// A view of the state that later executions do not change. Cheap: reference counts, not bytes.
    fn snapshot(&self) -> Box<dyn Snapshot>;

    /// Replaces the state by one that [`Snapshot::write_to`] wrote; `input` ends where those bytes end. Allocates in proportion to what
    /// it has read, never to what a length field claims. On error the state is unchanged.
    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError>;

    /// Replaces the state by one with the same pages as [`Snapshot::pages`] had: `header` and, from `source`, the bytes of each of `count`
    /// pages, asked for once each, in order. The layout is the same, too, and stays so through equal executions: the root of this replica
    /// is that of all. Bytes may be anything, `count` is what the caller vouches for. On error the state is unchanged.
    fn restore_pages(
        &mut self,
        header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        let _ = (header, count, source);
        Err(RestoreError::NotPaged)
    }

    /// The digest of the canonical bytes.
    fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        let mut writer = DigestWriter::new(algorithm);
        self.snapshot().write_to(&mut writer).expect("hashing does no I/O");
        writer.finish()
    }
}

/// An immutable view of a state, to be written on another thread while the service goes on.
pub trait Snapshot: Send + Sync {
    /// Writes the canonical bytes: equal state, equal bytes.
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()>;

    /// How many bytes [`Snapshot::write_to`] writes.
    fn bytes(&self) -> u64;

    /// The state as pages, if the service keeps it so: then its root is cheap to follow, and only what changed is written and sent.
    /// ([`PagedState`](crate::checkpoint::pages::PagedState) is one.)
    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        None
    }
}

/// Gives the bytes of the page at an index, `None` for a free page.
pub type PageSource<'a> = dyn FnMut(u64) -> Result<Option<Vec<u8>>, RestoreError> + 'a;

/// A state as numbered pages. Unlike the canonical bytes, pages depend on history: where they begin and end and what their indexes are
/// is a function of the operations executed since the first state, the same on all replicas, and is itself part of the state.
pub trait PagedSnapshot: Send + Sync {
    /// Canonical bytes of what stands beside the pages, less than 1 KiB.
    fn header(&self) -> Bytes;

    /// How many indexes there are; some of them may be free.
    fn page_count(&self) -> u64;

    /// Appends the canonical bytes of a page, at least one; false and nothing if it is free.
    fn page(&self, index: u64, out: &mut Vec<u8>) -> bool;

    /// How many bytes [`PagedSnapshot::page`] appends.
    fn page_bytes(&self, index: u64) -> u64 {
        let mut page = Vec::new();
        self.page(index, &mut page);
        page.len() as u64
    }

    /// A counter of bytes, which goes up when the service writes to a page that a snapshot holds; 0 if nobody counts. By as much as it
    /// went up since a snapshot was taken the memory in use is more than without it, at most.
    fn copied_bytes(&self) -> u64 {
        0
    }

    /// The page's digest as [`root_of`](crate::checkpoint::pages::root_of) takes it; zeros if it is free.
    fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest;

    /// The Merkle root over header, number of pages and pages. The cost follows what was written since it was last computed. Hashes on
    /// the `pool`, else on this thread; the result is the same.
    fn root(&self, algorithm: DigestAlgorithm, pool: Option<&ThreadPool>) -> Digest;

    /// The indexes, ascending, of all pages that may differ from those of `older`, freed ones among them. Pages above `older`'s count
    /// that are not named are free.
    fn changed_since(&self, older: &dyn PagedSnapshot) -> Vec<u64>;

    /// For [`PagedSnapshot::changed_since`]: the way back to the type.
    fn as_any(&self) -> &dyn Any;
}
