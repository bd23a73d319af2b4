//! Every thread of a replica, what feeds it, how much may wait, and what a full queue means.
//!
//! | stage | thread | fed by | holds at most | when full |
//! |---|---|---|---|---|
//! | net | `duramen-net` | sockets (mio) | one frame per connection | stops reading that socket |
//! | verify | pool `duramen-pool` | `net`, per poll | with `order`: [`PEER_BYTES_MAX`] per replica, [`CLIENT_BYTES_MAX`] in all | a replica's frame is dropped and counted (the protocol repairs); clients are not read |
//! | order | `duramen-order` | verified messages, groups, `Persisted`, `Executed`, ticks | see verify | see verify |
//! | log | `log` | records, in order | `queued_bytes_max` | `order` waits for the disk (in the paper's modes `execute` for its own log, too); `log` waits for nobody |
//! | execute | `duramen-exec` | decided batches, reads | the window; reads [`READS_MAX`], per client [`READ_BYTES_MAX`]; per client [`RESEND_BYTES_MAX`] of groups to answer again; one digest | `order` proposes no new batch; reads and groups are dropped (the client asks again) |
//! | net out | `duramen-net` | `order`, `execute` | per destination, in bytes | replicas: dropped, repaired by FETCH; clients: disconnected |
//! | checkpoint | `duramen-ckpt` | `execute`: frozen states; `order`: which one a mark covers | one state | the turn is skipped and counted |
//! | roots | `duramen-roots` | `execute`: frozen states, at the places where all replicas take one | one state | the place is skipped and counted |
//! | transfer | `duramen-transfer` | its own sockets (thread `duramen-tnet`), `order`, `roots`, hashes from the pool, the staging writer | [`TRANSFER_PEER_BYTES_MAX`] per replica; chunks: what it asked for | a replica's frame is dropped; chunks are asked for again |
//! | stager | `duramen-stage` | chunks that were hashed | what `transfer` lets be under way | `transfer` asks for no more |
//! | fetch | `duramen-fetch` | `order`: batches to read from the log for peers | [`SERVES_MAX`] | dropped: the peer asks another |
//!
//! # Who waits for whom
//!
//! No send waits ([`sync`](crate::sync)): every channel between stages takes everything, and its senders hold [`Credit`]s or put in
//! one answer per question, or it gives back what does not fit. These are all the waits there are for what another thread is to do:
//!
//! ```text
//! order   ──▶ log            the log's queue is full                 (replica/appends.rs)
//! execute ──▶ its own log    the same, and until a round is durable  (durable/layer.rs; the paper's modes)
//! execute ──▶ checkpoint     until the state is written              (stop-the-world baseline only)
//! order, execute, stop() ──▶ whom they end
//! ```
//!
//! No cycle: a log waits for its disk only and says what is durable by a send; `checkpoint` lets `execute` go on *before* it waits to
//! be told, by `order`, that a mark covers the state; `net`, the pool, `transfer`, `roots`, `stager` and `fetch` wait for nobody.
//! `sync/interleavings` plays this graph with the real channels, locks and credits under a scheduler that chooses the order of
//! everything, and finds each of these cycles when it is closed on purpose.

use super::decisions::Decided;
use crate::net;
use crate::order::Input;
pub use crate::sync::credit::Credit;
pub use crate::transfer::sockets::PEER_BYTES_MAX as TRANSFER_PEER_BYTES_MAX;
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::messages::{Read, StateCertificate};
use std::time::Duration;

/// Bytes of one replica's messages between `net` and the end of their step.
pub const PEER_BYTES_MAX: usize = 64 << 20;
/// Bytes of client groups between `net` and the end of their step; above it clients are not read.
pub const CLIENT_BYTES_MAX: usize = 64 << 20;
/// Reads that wait at the execute stage.
pub const READS_MAX: usize = 4096;
/// Bytes of one client's reads that wait there; above it they are turned away.
pub const READ_BYTES_MAX: usize = 16 << 20;
/// Bytes of one client's groups that wait at the execute stage to be answered again; above it they are dropped.
pub const RESEND_BYTES_MAX: usize = 4 << 20;
/// Batches that wait to be read from the log for a peer.
pub const SERVES_MAX: usize = 256;

/// How long a stage that ends waits for a disk that does not answer.
pub const STOP_TIME: Duration = Duration::from_secs(10);

/// What the order stage is sent.
pub enum ToOrder {
    /// Inputs with the shares they hold.
    Inputs(Vec<(Input, Option<Credit>)>),
    /// One, of our own stages.
    One(Input),
    /// Two checkpoints are on disk, the older one of this place.
    CheckpointStored(Seq),
    /// End the thread.
    Stop,
}

/// What the execute stage is sent.
pub enum ToExecute {
    /// Decided batches, in sequence.
    Batches(Vec<Decided>),
    /// Executed before: answer again.
    Resend(Vec<(AuthenticGroup, Credit)>),
    /// An unordered read. In crash mode it waits for `ReadReady` with its token.
    Read {
        /// Where from.
        connection: net::ConnectionId,
        /// Crash mode: which.
        token: Option<u64>,
        /// What.
        read: Read,
        /// Its client's share.
        credit: Credit,
    },
    /// Answer these.
    ReadReady(Vec<u64>),
    /// Refuse these.
    ReadRefused(Vec<u64>),
    /// Tell the transfer stage what is here.
    Freeze,
    /// Take over the state that was received.
    Install(StateCertificate),
    /// The log of decisions is not asked for places up to here any more.
    Recycle(Seq),
    /// The digest of state and client table, for `status`.
    Digest {
        /// Where from.
        connection: net::ConnectionId,
        /// The query.
        id: u64,
    },
    /// End the thread.
    Stop,
}

/// A batch to read from the log for a peer.
pub struct Serve {
    /// To whom.
    pub to: ReplicaId,
    /// Which place.
    pub seq: Seq,
    /// Which record.
    pub lsn: Lsn,
}
