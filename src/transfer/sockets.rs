//! What comes from the sockets of state transfer, on its way to the stage.

use super::stage::ToStage;
use crate::net::{self, Closed, From, Peer};
use crate::sync::atomic::AtomicUsize;
use crate::sync::channel::Sender;
use crate::sync::credit::Credit;
use crate::types::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one replica's frames between the sockets and the stage.
pub const PEER_BYTES_MAX: usize = 160 << 20;

/// Hands what comes on.
pub struct Sockets<W> {
    to_stage: Sender<ToStage<W>>,
    used: BTreeMap<ReplicaId, Arc<AtomicUsize>>,
}

impl<W> Sockets<W> {
    /// To this stage.
    pub fn new(to_stage: Sender<ToStage<W>>) -> Self {
        Self { to_stage, used: BTreeMap::new() }
    }

    fn tell(&self, from: &From, what: impl FnOnce(ReplicaId) -> ToStage<W>) {
        if let Peer::Replica(replica) = from.peer {
            let _ = self.to_stage.send(what(replica));
        }
    }
}

impl<W: Send> net::Receiver for Sockets<W> {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let Peer::Replica(replica) = from.peer else { return };
        let used = self.used.entry(replica).or_default();
        // What does not fit is asked for again.
        if let Some(credit) = Credit::take(used, payload.len(), PEER_BYTES_MAX) {
            self.tell(from, |replica| ToStage::Frame(replica, kind, payload, credit));
        }
    }

    fn connected(&mut self, from: &From) {
        self.tell(from, ToStage::Connected);
    }

    fn disconnected(&mut self, from: &From, _reason: &Closed) {
        self.tell(from, ToStage::Disconnected);
    }

    fn room(&mut self, from: &From) {
        self.tell(from, ToStage::Room);
    }

    fn end_of_poll(&mut self) {}
}
