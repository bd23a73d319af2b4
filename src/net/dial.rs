//! Reaching a replica: its name looked up off the net thread, attempts spaced out.

use super::Remote;
use crate::types::ReplicaId;
use crossbeam::channel::{Sender, unbounded};
use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Between attempts at a peer that said no: only a person can change that.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(2);

/// Where we are with a replica that we dial.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Until the dial timer.
    Waiting,
    /// The name is being looked up.
    Resolving,
    /// Connecting or greeting.
    Dialing,
    /// Connected since.
    Up(Instant),
}

/// A replica that we dial, for ever.
pub(super) struct Link {
    pub remote: Remote,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    pub state: State,
    /// Addresses of the name not tried since it was looked up.
    pub addresses: VecDeque<SocketAddr>,
    backoff: Duration,
    /// The last failure logged: the same one again is not.
    pub logged: String,
}

impl Link {
    pub(super) fn new(remote: Remote, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let addresses = VecDeque::new();
        Self { remote, tls, state: State::Waiting, addresses, backoff: BACKOFF_FIRST, logged: String::new() }
    }

    pub(super) fn up(&mut self, now: Instant) {
        self.state = State::Up(now);
        self.addresses.clear();
        self.logged.clear();
    }

    /// The attempt or the connection is over: how long to wait before the next. `random` spreads dialers apart.
    pub(super) fn down(&mut self, now: Instant, refused: bool, random: u64) -> Duration {
        if matches!(self.state, State::Up(since) if now - since >= GOOD) {
            self.backoff = BACKOFF_FIRST;
        }
        let was_dialing = self.state == State::Dialing;
        self.state = State::Waiting;
        if refused {
            self.addresses.clear();
            return REFUSED_PAUSE;
        }
        if was_dialing && !self.addresses.is_empty() {
            return Duration::ZERO;
        }
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF_MAX);
        // Between half and all of it.
        pause / 2 + (pause / 2).mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// A host and port that needs no looking up.
pub(super) fn literal(address: &str) -> Option<SocketAddr> {
    address.parse().ok()
}

/// One lookup's answer.
pub(super) type Resolved = (ReplicaId, Result<Vec<SocketAddr>, String>);

/// Looks names up on its own thread, because the system's lookup blocks for as long as it likes.
pub(super) struct Resolver {
    asks: Sender<(ReplicaId, String)>,
}

impl Resolver {
    /// The thread ends after the resolver is dropped; it is never waited for.
    pub(super) fn start(answer: impl Fn(Resolved) + Send + 'static) -> std::io::Result<Self> {
        // At most one ask per replica is under way, so this is bounded by the group's size.
        let (asks, queue) = unbounded::<(ReplicaId, String)>();
        std::thread::Builder::new().name("duramen-dns".into()).spawn(move || {
            for (replica, address) in queue {
                let found = match address.to_socket_addrs() {
                    Ok(found) => Ok(found.take(16).collect::<Vec<_>>()),
                    Err(e) => Err(format!("cannot look up {address}: {e}")),
                };
                answer((replica, found));
            }
        })?;
        Ok(Self { asks })
    }

    pub(super) fn ask(&self, replica: ReplicaId, address: String) {
        // Fails only if the thread is gone, and it goes only after us.
        let _ = self.asks.send((replica, address));
    }
}
