//! Unforgeable tokens in place of signatures: a keyed hash whose key only this file knows.

use crate::types::*;
use crate::wire::auth::Scheme;
use crate::wire::batch::MAC_BYTES;
use crate::wire::messages::Signature;

/// The keys of one client.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    me: u64,
}

const CLIENT: u64 = 1 << 40;
/// Client keys of the configuration.
pub const CLIENTS: u32 = 16;

impl Tokens {
    /// A client's.
    pub fn of_client(c: ClientId) -> Self {
        Self { me: CLIENT + u64::from(c.0) }
    }

    /// This client's MAC for `replica`.
    pub fn mac(&self, replica: ReplicaId, digest: &Digest) -> [u8; MAC_BYTES] {
        token(self.me ^ (u64::from(replica.0) + 1) << 48, &digest.0)[..MAC_BYTES]
            .try_into()
            .expect("16 of 32")
    }
}

fn token(who: u64, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"only the simulator knows this").update(&who.to_le_bytes()).update(bytes);
    *hasher.finalize().as_bytes()
}

fn signature(who: u64, bytes: &[u8]) -> Signature {
    let mut out = [0; 64];
    out[..32].copy_from_slice(&token(who, bytes));
    Signature(out)
}

/// A replica's keys with its number: MACs are checked for one receiver.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaKeys(pub ReplicaId);

impl Scheme for ReplicaKeys {
    fn sign(&self, bytes: &[u8]) -> Signature {
        signature(u64::from(self.0.0), bytes)
    }
    fn verify_replica(&self, who: ReplicaId, bytes: &[u8], s: &Signature) -> bool {
        *s == signature(u64::from(who.0), bytes)
    }
    fn verify_client(&self, who: ClientId, bytes: &[u8], s: &Signature) -> bool {
        *s == signature(CLIENT + u64::from(who.0), bytes)
    }
    fn knows_client(&self, who: ClientId) -> bool {
        who.0 < CLIENTS
    }
    fn verify_mac(&self, who: ClientId, digest: &Digest, tag: &[u8]) -> bool {
        tag == Tokens::of_client(who).mac(self.0, digest)
    }
}

impl Tokens {
    /// Signs as this identity.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        signature(self.me, bytes)
    }
}
