//! Who connects while the replica still reads its log: greeted, and told no more than how far that is.
//!
//! The addresses are bound before anything on disk changes, so a start that fails for a busy port was none: in the modes without
//! durable votes a replica that started once counts as one that may have voted. What connects before the replica is
//! there is disconnected when it is: peers and clients come again at once, and say again what they said.

use super::receive::frame;
use super::shared::Shared;
use super::standing::Bucket;
use super::status::StatusWriter;
use crate::net::{Closed, ConnectionId, From, NetHandle, Peer, Receiver, Refusal, To};
use crate::types::ReplicaId;
use crate::wire::messages::{Message, StatusAnswer};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Why early connections end; no trouble that anybody need see.
pub const JUST_STARTED: &str = "this replica has just started";

/// Where the receiver of a started replica comes in.
pub struct Door<R>(Mutex<Outside<R>>);

struct Outside<R> {
    /// On its way in.
    receiver: Option<R>,
    /// Connected before it was there.
    early: HashMap<ConnectionId, Bucket>,
}

impl<R> Default for Door<R> {
    fn default() -> Self {
        Self(Mutex::new(Outside { receiver: None, early: HashMap::new() }))
    }
}

impl<R> Door<R> {
    /// From now on `receiver` hears everything; who came before comes again.
    pub fn open(&self, receiver: R, net: &NetHandle) {
        let mut outside = self.0.lock();
        outside.receiver = Some(receiver);
        for connection in outside.early.keys() {
            net.disconnect(*connection, JUST_STARTED);
        }
    }
}

/// The receiver until there is another, and then that one.
pub struct Doorman<R> {
    pub(super) door: Arc<Door<R>>,
    pub(super) net: Arc<OnceLock<NetHandle>>,
    pub(super) shared: Arc<Shared>,
    pub(super) status: StatusWriter,
    pub(super) inside: Option<R>,
    /// Early connections that are not gone yet.
    pub(super) early: usize,
}

impl<R: Receiver> Doorman<R> {
    fn inside(&mut self) -> Option<&mut R> {
        if self.inside.is_none() {
            let mut outside = self.door.0.lock();
            self.inside = outside.receiver.take();
            self.early = outside.early.len();
        }
        self.inside.as_mut()
    }

    fn is_early(&self, connection: ConnectionId) -> bool {
        self.early > 0 && self.door.0.lock().early.contains_key(&connection)
    }

    /// Only what a client asks of the replica's state is answered.
    fn answer(&mut self, from: &From, kind: u16, payload: Bytes) {
        let (Peer::Client(_), Ok(Message::StatusQuery(query))) = (from.peer, Message::decode(kind, payload))
        else {
            return;
        };
        let mut outside = self.door.0.lock();
        let may = outside.early.get_mut(&from.connection).is_some_and(|bucket| bucket.take(Instant::now()));
        drop(outside);
        if let (true, Some(net)) = (may, self.net.get()) {
            let json = self.status.json(&self.shared, Some(&net.stats()), None);
            let answer = Message::StatusAnswer(StatusAnswer { id: query.id, json });
            net.send(To::Connection(from.connection), frame(&answer));
        }
    }
}

impl<R: Receiver> Receiver for Doorman<R> {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        if self.inside().is_none() {
            self.answer(from, kind, payload);
        } else if !self.is_early(from.connection)
            && let Some(inside) = self.inside()
        {
            inside.frame(from, kind, payload);
        }
    }

    fn connected(&mut self, from: &From) {
        if self.inside.is_none() {
            // Under one lock: who is not counted among those before the opening is told of to the receiver.
            let mut outside = self.door.0.lock();
            if outside.receiver.is_none() {
                outside.early.insert(from.connection, Bucket::default());
                return;
            }
        }
        if let Some(inside) = self.inside() {
            inside.connected(from);
        }
    }

    fn disconnected(&mut self, from: &From, reason: &Closed) {
        let known = self.inside().is_some();
        if !known || self.is_early(from.connection) {
            self.door.0.lock().early.remove(&from.connection);
            self.early = self.early.saturating_sub(1);
        } else if let Some(inside) = self.inside() {
            inside.disconnected(from, reason);
        }
    }

    fn refused(&mut self, replica: ReplicaId, refusal: Refusal, text: &str) {
        match self.inside() {
            Some(inside) => inside.refused(replica, refusal, text),
            None => self
                .shared
                .error(format!("replica {replica} and this one refuse each other: {refusal:?}: {text}")),
        }
    }

    fn rests(&mut self, from: &From) -> Option<Instant> {
        self.inside()?.rests(from)
    }

    fn end_of_poll(&mut self) {
        if let Some(inside) = self.inside() {
            inside.end_of_poll();
        }
    }
}
