//! Who sends a result whole, and what the others send instead.

use crate::quorum::Group;
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::Reply;
use bytes::Bytes;

/// Results of at most this many bytes travel whole from every replica: a digest would save nothing.
pub const WHOLE_BYTES_MAX: usize = 64;

/// The replica that sends the whole result of this request: the requests of a session go round, and sessions start at
/// different replicas.
pub fn full_replier(session: SessionId, number: RequestNumber, n: u32) -> ReplicaId {
    // Session ids are places in the order and may share their low bits: mix before taking the remainder.
    let start = session.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ReplicaId((start.wrapping_add(number.0) % u64::from(n)) as u32)
}

/// The digest that stands for a result, of an ordered request or of a read.
pub fn result_digest(hasher: &Hasher, body: &[u8]) -> Digest {
    hasher.hash(&[b"duramen reply 1 ", body])
}

/// What replica `me` sends first: the reply, or its digest where another replica is to send the whole.
///
/// `digest` is the result's [`result_digest`] where it was computed already; `None` asks for the whole reply, as do
/// crash mode and small results. Repeated replies are not cut: somebody did not get the whole one.
pub fn cut(members: Group, me: ReplicaId, reply: &Reply, digest: Option<Digest>) -> Reply {
    let whole = reply.body.len() <= WHOLE_BYTES_MAX
        || !members.byzantine()
        || full_replier(reply.session, reply.number, members.n()) == me;
    match digest {
        Some(digest) if !whole => {
            Reply { digest_only: true, body: Bytes::copy_from_slice(&digest.0), ..reply.clone() }
        }
        _ => reply.clone(),
    }
}
