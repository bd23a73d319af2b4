//! The real keys at work: Ed25519 and HMAC-SHA-256 of ring.

use super::auth::{Scheme, group_bytes};
use super::batch::MAC_BYTES;
use super::messages::Signature;
use crate::config::Config;
use crate::identity::{self, Identity};
use crate::keys::ReplicaKeys;
use crate::types::*;
use ring::hmac;
use std::collections::HashMap;

/// One replica's secrets and everybody's public keys.
pub struct Keys {
    cluster: ClusterId,
    identity: Identity,
    replicas: Vec<[u8; 32]>,
    clients: HashMap<ClientId, ClientKey>,
}

struct ClientKey {
    public: [u8; 32],
    mac: hmac::Key,
}

impl Keys {
    /// From the configuration and this replica's key file.
    pub fn new(config: &Config, keys: &ReplicaKeys) -> Self {
        let clients = config.clients.iter().map(|c| {
            let mac = hmac::Key::new(hmac::HMAC_SHA256, &keys.client_mac(&c.key));
            (c.id, ClientKey { public: c.key, mac })
        });
        Self {
            cluster: config.cluster,
            identity: Identity::from_seed(keys.seed),
            replicas: config.replicas.iter().map(|r| r.key).collect(),
            clients: clients.collect(),
        }
    }
}

impl Scheme for Keys {
    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.identity.sign(bytes))
    }

    fn verify_replica(&self, who: ReplicaId, bytes: &[u8], signature: &Signature) -> bool {
        self.replicas.get(who.index()).is_some_and(|key| identity::verify(key, bytes, &signature.0))
    }

    fn verify_client(&self, who: ClientId, bytes: &[u8], signature: &Signature) -> bool {
        self.clients.get(&who).is_some_and(|c| identity::verify(&c.public, bytes, &signature.0))
    }

    fn knows_client(&self, who: ClientId) -> bool {
        self.clients.contains_key(&who)
    }

    fn verify_mac(&self, who: ClientId, digest: &Digest, tag: &[u8]) -> bool {
        let Some(client) = self.clients.get(&who) else { return false };
        let computed = hmac::sign(&client.mac, &group_bytes(&self.cluster, digest));
        // No early exit: how far a forged tag agrees must not show in the time taken.
        let differing = computed.as_ref().iter().zip(tag).fold(0, |d, (a, b)| d | (a ^ b));
        tag.len() == MAC_BYTES && differing == 0
    }
}
