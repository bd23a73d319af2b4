//! What the net thread counts, readable from any thread.

use super::hello::Refusal;
use super::{ConnectionId, Peer};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a frame or a connection was turned away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Discard {
    /// To send: the destination's queue is full.
    QueueFull,
    /// To send: no connection to that destination.
    NotConnected,
    /// To send: larger than `frame_bytes_max`.
    FrameTooLarge,
    /// To send: the net thread is behind by `commands_bytes_max`.
    NetBusy,
    /// Received: larger than the sender may send.
    TooLong,
    /// Received: unknown flags in a header.
    Flags,
    /// Received: a wrong checksum.
    Checksum,
    /// Received: a kind that belongs to net, after the greeting.
    NetKind,
    /// Closed: TLS broken or abused.
    Tls,
    /// Closed: too slow with its greeting.
    GreetingTimeout,
    /// Closed: too many bytes before its greeting was over.
    GreetingTooLong,
    /// Closed: the oldest of too many unknown connections.
    Crowded,
    /// Closed: does not read what it is sent.
    SlowReader,
    /// Turned down at the greeting, by us or by the peer.
    Refused(Refusal),
}

/// Counters of one connection since it began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionStats {
    /// The connection.
    pub connection: ConnectionId,
    /// Who is at its other end.
    pub peer: Peer,
    /// The other end's address.
    pub address: String,
    /// Bytes read from the socket.
    pub bytes_in: u64,
    /// Bytes written to the socket.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Frames handed to the socket (plain) or to TLS.
    pub frames_out: u64,
    /// Bytes waiting to be sent.
    pub queue_bytes: u64,
}

/// A snapshot of all counters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes read from sockets, closed connections included.
    pub bytes_in: u64,
    /// Bytes written to sockets, closed connections included.
    pub bytes_out: u64,
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Times the net thread looked for readiness.
    pub polls: u64,
    /// Times another thread had to wake the net thread.
    pub wakes: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections whose peer is known, in the order they began.
    pub connections: Vec<ConnectionStats>,
    /// How often each peer (`None`: not known yet) met each reason.
    pub discards: Vec<(Option<Peer>, Discard, u64)>,
    /// The last thing that went wrong towards each peer, one line.
    pub last_errors: Vec<(Peer, String)>,
}

/// Written by the net thread alone, so a load and a store make an addition.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }

    pub(super) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Flow {
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub frames_in: Counter,
    pub frames_out: Counter,
    pub queue_bytes: Counter,
}

/// A connection whose peer is known: who, from where, how much.
type Open = (Peer, String, Arc<Flow>);

#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Flows of connections that ended.
    ended: Flow,
    pub polls: Counter,
    pub accepted: Counter,
    pub wakes: AtomicU64,
    open: Mutex<BTreeMap<ConnectionId, Open>>,
    discards: Mutex<BTreeMap<(Option<Peer>, Discard), u64>>,
    last_errors: Mutex<BTreeMap<Peer, String>>,
}

impl Counters {
    pub(super) fn discard(&self, peer: Option<Peer>, why: Discard) {
        *self.discards.lock().entry((peer, why)).or_default() += 1;
    }

    pub(super) fn last_error(&self, peer: Peer, line: String) {
        self.last_errors.lock().insert(peer, line);
    }

    pub(super) fn open(&self, connection: ConnectionId, peer: Peer, address: String, flow: Arc<Flow>) {
        self.open.lock().insert(connection, (peer, address, flow));
    }

    pub(super) fn close(&self, connection: ConnectionId, flow: &Flow) {
        let mut open = self.open.lock();
        open.remove(&connection);
        self.ended.bytes_in.add(flow.bytes_in.get());
        self.ended.bytes_out.add(flow.bytes_out.get());
        self.ended.frames_in.add(flow.frames_in.get());
        self.ended.frames_out.add(flow.frames_out.get());
    }

    pub(super) fn snapshot(&self) -> Stats {
        let open = self.open.lock();
        let mut stats = Stats {
            bytes_in: self.ended.bytes_in.get(),
            bytes_out: self.ended.bytes_out.get(),
            frames_in: self.ended.frames_in.get(),
            frames_out: self.ended.frames_out.get(),
            polls: self.polls.get(),
            wakes: self.wakes.load(Relaxed),
            accepted: self.accepted.get(),
            ..Stats::default()
        };
        for (connection, (peer, address, flow)) in open.iter() {
            let one = ConnectionStats {
                connection: *connection,
                peer: *peer,
                address: address.clone(),
                bytes_in: flow.bytes_in.get(),
                bytes_out: flow.bytes_out.get(),
                frames_in: flow.frames_in.get(),
                frames_out: flow.frames_out.get(),
                queue_bytes: flow.queue_bytes.get(),
            };
            stats.bytes_in += one.bytes_in;
            stats.bytes_out += one.bytes_out;
            stats.frames_in += one.frames_in;
            stats.frames_out += one.frames_out;
            stats.connections.push(one);
        }
        drop(open);
        stats.discards = self.discards.lock().iter().map(|((peer, why), n)| (*peer, *why, *n)).collect();
        stats.last_errors =
            self.last_errors.lock().iter().map(|(peer, line)| (*peer, line.clone())).collect();
        stats
    }
}
