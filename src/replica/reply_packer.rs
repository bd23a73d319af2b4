//! Replies of one round, packed by connection into messages of bounded size.

use crate::net::ConnectionId;
use crate::wire::messages::Reply;
use std::collections::HashMap;

/// Bytes of replies in one message before the next begins.
const MESSAGE_BYTES: usize = 256 << 10;
/// What a reply takes up besides its result.
const REPLY_BYTES: usize = 32;

/// Holds less than one message's worth per connection.
pub struct Packer {
    budget: usize,
    connections: HashMap<ConnectionId, Packed>,
}

#[derive(Default)]
struct Packed {
    replies: Vec<Reply>,
    bytes: usize,
    /// Of the messages given out, too.
    total: usize,
}

impl Packer {
    /// For a round in which a connection is sent at most about `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self { budget, connections: HashMap::new() }
    }

    /// Adds a reply, unless it exceeds the connection's budget. A message that is full comes back.
    #[must_use = "a full message is to be sent now"]
    pub fn add(&mut self, connection: ConnectionId, reply: &Reply) -> Option<Vec<Reply>> {
        let packed = self.connections.entry(connection).or_default();
        let bytes = reply.body.len() + REPLY_BYTES;
        // The first always passes.
        if packed.total > 0 && packed.total + bytes > self.budget {
            return None;
        }
        packed.total += bytes;
        packed.bytes += bytes;
        packed.replies.push(reply.clone());
        (packed.bytes > MESSAGE_BYTES).then(|| {
            packed.bytes = 0;
            std::mem::take(&mut packed.replies)
        })
    }

    /// What is left, by connection.
    pub fn finish(self) -> Vec<(ConnectionId, Vec<Reply>)> {
        let left = self.connections.into_iter().map(|(connection, packed)| (connection, packed.replies));
        left.filter(|(_, replies)| !replies.is_empty()).collect()
    }
}
