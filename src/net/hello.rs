//! The first frame of each side, and when it is turned down.
//!
//! The dialer sends HELLO, the acceptor answers HELLO_OK with the same fields seen from its side, or REFUSED with a code and
//! one line of text. Magic and version lie where every version will look for them.

use super::{Peer, framing::NET_KINDS};
use crate::types::{ClientId, ClusterId, ReplicaId};
use bytes::Bytes;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of framing and greeting spoken here.
pub const VERSION: u16 = 4;

pub(super) const HELLO: u16 = NET_KINDS + 1;
pub(super) const HELLO_OK: u16 = NET_KINDS + 2;
pub(super) const REFUSED: u16 = NET_KINDS + 3;

const MAGIC: [u8; 8] = *b"duramen\n";
const TEXT_BYTES_MAX: usize = 200;

/// Payload that a peer may send before it is known: a greeting or a refusal.
pub(super) const GREETING_BYTES_MAX: u32 = 512;

const ROLE_REPLICA: u8 = 1;
const ROLE_CLIENT: u8 = 2;

/// Why one side will not talk to the other. The numbers are on the wire and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[repr(u16)]
pub enum Refusal {
    /// The first frame is no greeting of this protocol.
    #[error("not a duramen greeting")]
    NotAHello = 1,
    /// Another protocol version.
    #[error("another protocol version")]
    WrongVersion = 2,
    /// Another cluster id.
    #[error("another cluster id")]
    WrongCluster = 3,
    /// The key is not the one configured for the claimed id, or the id is not configured.
    #[error("unknown key or id")]
    UnknownKey = 4,
    /// The acceptor is not the replica that was dialed.
    #[error("another replica than the one dialed")]
    WrongReplica = 5,
    /// Protocol-relevant configuration differs (fault model, digest algorithm, membership, ...).
    #[error("configuration differs")]
    ConfigDiffers = 6,
    /// This client key, or all clients together, have as many connections as they may.
    #[error("too many connections")]
    TooManyConnections = 7,
    /// One side speaks TLS and the other does not, or TLS itself failed.
    #[error("link security differs")]
    WrongTransport = 8,
}

impl Refusal {
    fn of_code(code: u16) -> Option<Self> {
        [
            Self::NotAHello,
            Self::WrongVersion,
            Self::WrongCluster,
            Self::UnknownKey,
            Self::WrongReplica,
            Self::ConfigDiffers,
            Self::TooManyConnections,
            Self::WrongTransport,
        ]
        .into_iter()
        .find(|r| *r as u16 == code)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Layout {
    magic: [u8; 8],
    version: U16,
    role: u8,
    reserved: u8,
    id: U32,
    expected: U32,
    cluster: [u8; 16],
    tag: [u8; 8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Prefix {
    magic: [u8; 8],
    version: U16,
}

/// What one side says of itself and believes of the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub cluster: ClusterId,
    pub me: Peer,
    /// The id of the other side as the sender believes it: the replica dialed, or the dialer answered.
    pub expected: u32,
    pub tag: [u8; 8],
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let (role, id) = match self.me {
            Peer::Replica(r) => (ROLE_REPLICA, r.0),
            Peer::Client(c) => (ROLE_CLIENT, c.0),
        };
        let layout = Layout {
            magic: MAGIC,
            version: VERSION.into(),
            role,
            reserved: 0,
            id: id.into(),
            expected: self.expected.into(),
            cluster: self.cluster.0,
            tag: self.tag,
        };
        Bytes::copy_from_slice(layout.as_bytes())
    }

    /// Errors: [`Refusal::NotAHello`], [`Refusal::WrongVersion`], with what was found.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, (Refusal, String)> {
        let not = |what: &str| (Refusal::NotAHello, what.to_owned());
        let (prefix, _) = Prefix::read_from_prefix(payload).map_err(|_| not("too short"))?;
        if prefix.magic != MAGIC {
            return Err(not("wrong magic"));
        }
        if prefix.version.get() != VERSION {
            let text = format!("the peer speaks version {}, this side {VERSION}", prefix.version);
            return Err((Refusal::WrongVersion, text));
        }
        let layout = Layout::read_from_bytes(payload).map_err(|_| not("wrong length"))?;
        let me = match layout.role {
            ROLE_REPLICA => Peer::Replica(ReplicaId(layout.id.get())),
            ROLE_CLIENT => Peer::Client(ClientId(layout.id.get())),
            _ => return Err(not("unknown role")),
        };
        if layout.reserved != 0 {
            return Err(not("reserved byte set"));
        }
        Ok(Self { cluster: ClusterId(layout.cluster), me, expected: layout.expected.get(), tag: layout.tag })
    }
}

/// REFUSED: code, then text.
pub(super) fn encode_refused(refusal: Refusal, text: &str) -> Bytes {
    let mut out = (refusal as u16).to_le_bytes().to_vec();
    out.extend_from_slice(printable(text.as_bytes()).as_bytes());
    out.into()
}

/// The refusal and its text, safe to print; `None` if the code is unknown or missing.
pub(super) fn decode_refused(payload: &[u8]) -> Option<(Refusal, String)> {
    let (code, text) = payload.split_first_chunk::<2>()?;
    Some((Refusal::of_code(u16::from_le_bytes(*code))?, printable(text)))
}

/// A peer's text as one short line without control characters.
fn printable(text: &[u8]) -> String {
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    text.iter().map(|b| if (0x20..0x7f).contains(b) { *b as char } else { '?' }).collect()
}
