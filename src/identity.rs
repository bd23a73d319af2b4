//! Ed25519 keys: who we are on links and in signatures.

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;
use std::sync::Arc;

/// An Ed25519 public key as it stands in the configuration: 32 bytes, RFC 8032.
pub type PublicKey = [u8; 32];

/// An Ed25519 signature: 64 bytes, RFC 8032.
pub type Signature = [u8; 64];

/// PKCS#8 v1 (RFC 8410) around an Ed25519 seed; the 32 bytes of the seed follow.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// SubjectPublicKeyInfo (RFC 8410) around an Ed25519 public key; the 32 bytes of the key follow.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key and its public half. Cloning shares it; it never prints its private part.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// No key could be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    NoRandom,
}

impl Identity {
    /// The key pair that belongs to a seed: the 32 secret bytes kept in a key file.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        // Any 32 bytes are a valid Ed25519 seed, so ring can refuse nothing but another length.
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are an Ed25519 seed");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { inner: Arc::new(Inner { seed, pair, public }) }
    }

    /// A new key from the operating system's random source.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| IdentityError::NoRandom)?;
        Ok(Self::from_seed(seed))
    }

    /// The secret seed, for writing a key file (mode 0600).
    pub fn seed(&self) -> &[u8; 32] {
        &self.inner.seed
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.inner.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut out = [0; 64];
        out.copy_from_slice(self.inner.pair.sign(message).as_ref());
        out
    }

    /// The private key as PKCS#8 v1 DER (48 bytes), the form TLS wants.
    pub fn pkcs8(&self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..16].copy_from_slice(&PKCS8_PREFIX);
        out[16..].copy_from_slice(&self.inner.seed);
        out
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(")?;
        self.inner.public[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        write!(f, "..)")
    }
}

/// Whether `signature` over `message` was made by the owner of `key`. False also for any other length.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// The key as SubjectPublicKeyInfo DER (44 bytes): what RFC 7250 puts in place of a certificate.
pub fn spki(key: &PublicKey) -> [u8; 44] {
    let mut out = [0; 44];
    out[..12].copy_from_slice(&SPKI_PREFIX);
    out[12..].copy_from_slice(key);
    out
}

/// The Ed25519 key in a SubjectPublicKeyInfo; `None` for any other encoding or algorithm.
pub fn key_of_spki(der: &[u8]) -> Option<PublicKey> {
    der.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}
