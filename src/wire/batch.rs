//! What is ordered: batches of client send-groups of requests.
//!
//! ```text
//! batch    time u64 | seed u64 | groups u32 | 0 u32 | group …
//! group    client u32 | requests u32 | body bytes u32 | auth kind u8 | 0 u8 | auth bytes u16 | body | auth
//! body     request …
//! request  session u64 | number u64 | operation bytes u32 | kind u8 | 0 u8 ×3 | operation
//! ```
//!
//! A *group* is all that one client process sends together, across its sessions: one signature (or MAC vector) covers
//! it, so groups are ordered whole (RULES 12). A group's digest covers client and body; a batch's digest covers its
//! place, time, seed, and each group's digest and authenticator. So each byte is hashed once per replica.

use super::codec::{Reader, Writer};
use super::error::DecodeError;
use crate::types::*;
use bytes::Bytes;

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 24;
/// Bytes of a group header.
pub const GROUP_HEADER_BYTES: usize = 16;
/// Bytes of a request header.
pub const REQUEST_HEADER_BYTES: usize = 24;

/// How a group proves its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AuthKind {
    /// By the channel it arrived on (crash mode only).
    Channel = 0,
    /// One Ed25519 signature over the group digest.
    Signature = 1,
    /// One 16-byte HMAC-SHA-256 tag per replica over the group digest.
    Mac = 2,
}

/// Bytes of one tag of a MAC vector.
pub const MAC_BYTES: usize = 16;

/// What a request asks for. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RequestKind {
    /// Open a session; `number` is the client's nonce, `session` 0.
    Open = 1,
    /// Execute the operation.
    Invoke = 2,
    /// Nothing; a restarted replica orders one of its own before it answers reads (RULES 9). `number` is its nonce.
    Noop = 3,
}

/// One request inside a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<B = Bytes> {
    /// The session, 0 for `Open` and `Noop`.
    pub session: SessionId,
    /// Its place in the session, or a nonce.
    pub number: RequestNumber,
    /// What it asks for.
    pub kind: RequestKind,
    /// The service's bytes.
    pub operation: B,
}

/// A group as it travels: header, body and authenticator in one buffer.
#[derive(Clone, Debug)]
pub struct Group {
    /// Whose requests these are.
    pub client: ClientId,
    /// How the client is proven.
    pub auth_kind: AuthKind,
    requests: u32,
    body_bytes: usize,
    bytes: Bytes,
}

impl Group {
    /// Packs `requests` of `client`; `authenticate` turns the digest into kind and authenticator bytes.
    pub fn build<B: AsRef<[u8]>>(
        hasher: &Hasher,
        client: ClientId,
        requests: &[Request<B>],
        authenticate: impl FnOnce(&Digest) -> (AuthKind, Vec<u8>),
    ) -> Self {
        let body_bytes: usize =
            requests.iter().map(|r| REQUEST_HEADER_BYTES + r.operation.as_ref().len()).sum();
        let mut w = Writer::with_capacity(GROUP_HEADER_BYTES + body_bytes + 64);
        w.raw(&[0; GROUP_HEADER_BYTES]);
        for r in requests {
            let operation = r.operation.as_ref();
            w.u64(r.session.0).u64(r.number.0).count(operation.len()).u32(r.kind as u32).raw(operation);
        }
        let count = u32::try_from(requests.len()).expect("a group is far below 4 Gi requests");
        let digest = hasher.group(client, count, &w.out[GROUP_HEADER_BYTES..]);
        let (auth_kind, auth) = authenticate(&digest);
        let header = &mut w.out[..GROUP_HEADER_BYTES];
        header[..4].copy_from_slice(&client.0.to_le_bytes());
        header[4..8].copy_from_slice(&count.to_le_bytes());
        header[8..12].copy_from_slice(&u32::try_from(body_bytes).expect("bounded").to_le_bytes());
        header[12] = auth_kind as u8;
        header[14..].copy_from_slice(&u16::try_from(auth.len()).expect("bounded").to_le_bytes());
        w.raw(&auth);
        Self { client, auth_kind, requests: count, body_bytes, bytes: w.finish() }
    }

    /// Takes one group off `reader`, checking every length and every request header.
    pub fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let mut head = reader.bytes_ahead(GROUP_HEADER_BYTES)?;
        let client = ClientId(head.u32()?);
        let requests = head.u32()?;
        let body_bytes = head.u32()? as usize;
        let auth_kind = match head.u8()? {
            0 => AuthKind::Channel,
            1 => AuthKind::Signature,
            2 => AuthKind::Mac,
            _ => return Err(DecodeError::BadValue),
        };
        if head.u8()? != 0 {
            return Err(DecodeError::BadValue);
        }
        let auth_bytes = usize::from(head.u8()?) | usize::from(head.u8()?) << 8;
        let total = GROUP_HEADER_BYTES + auth_bytes;
        let total = total.checked_add(body_bytes).ok_or(DecodeError::TooLarge)?;
        let bytes = reader.bytes(total)?;
        let group = Self { client, auth_kind, requests, body_bytes, bytes };
        let mut seen = 0u32;
        for request in group.requests_checked() {
            request?;
            seen = seen.saturating_add(1);
        }
        if seen != requests || requests == 0 {
            return Err(DecodeError::BadValue);
        }
        Ok(group)
    }

    /// A group that fills `bytes` exactly.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let group = Self::read(&mut reader)?;
        reader.end()?;
        Ok(group)
    }

    /// Everything: header, body, authenticator.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The requests' bytes.
    pub fn body(&self) -> &[u8] {
        &self.bytes[GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + self.body_bytes]
    }

    /// The signature or the MAC vector.
    pub fn auth(&self) -> &[u8] {
        &self.bytes[GROUP_HEADER_BYTES + self.body_bytes..]
    }

    /// How many requests.
    pub fn len(&self) -> usize {
        self.requests as usize
    }

    /// Never true of a decoded group.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// The digest that client authenticators cover.
    pub fn digest(&self, hasher: &Hasher) -> Digest {
        hasher.group(self.client, self.requests, self.body())
    }

    fn requests_checked(&self) -> impl Iterator<Item = Result<Request<&[u8]>, DecodeError>> {
        let mut rest = self.body();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let step = split_request(rest);
            match step {
                Ok((request, after)) => {
                    rest = after;
                    Some(Ok(request))
                }
                Err(e) => {
                    rest = &[];
                    Some(Err(e))
                }
            }
        })
    }

    /// The requests in order. Every group was checked when it was built or read.
    pub fn requests(&self) -> impl Iterator<Item = Request<&[u8]>> {
        self.requests_checked().map_while(Result::ok)
    }
}

fn split_request(bytes: &[u8]) -> Result<(Request<&[u8]>, &[u8]), DecodeError> {
    let (head, rest) = bytes.split_at_checked(REQUEST_HEADER_BYTES).ok_or(DecodeError::Truncated)?;
    let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let operation_bytes = u32::from_le_bytes(head[16..20].try_into().expect("4 bytes")) as usize;
    let kind = match u32::from_le_bytes(head[20..24].try_into().expect("4 bytes")) {
        1 => RequestKind::Open,
        2 => RequestKind::Invoke,
        3 => RequestKind::Noop,
        _ => return Err(DecodeError::BadValue),
    };
    let (operation, rest) = rest.split_at_checked(operation_bytes).ok_or(DecodeError::Truncated)?;
    let request =
        Request { session: SessionId(u64_at(0)), number: RequestNumber(u64_at(8)), kind, operation };
    Ok((request, rest))
}

impl Reader {
    /// A reader of the next `n` bytes that leaves them in place.
    fn bytes_ahead(&self, n: usize) -> Result<Reader, DecodeError> {
        self.peek(n).map(Reader::new).ok_or(DecodeError::Truncated)
    }
}

/// Hashes under one cluster's id and algorithm, so that no digest means anything in another cluster.
#[derive(Clone, Copy, Debug)]
pub struct Hasher {
    /// The cluster every digest is bound to.
    pub cluster: ClusterId,
    /// The hash in use.
    pub algorithm: DigestAlgorithm,
}

impl Hasher {
    fn group(&self, client: ClientId, requests: u32, body: &[u8]) -> Digest {
        self.algorithm.hash(&[
            b"duramen group 1 ",
            &self.cluster.0,
            &client.0.to_le_bytes(),
            &requests.to_le_bytes(),
            body,
        ])
    }

    /// The next link of a chain: batches in [`Seq`] order, or replies.
    pub fn chain(&self, previous: &Digest, next: &Digest) -> Digest {
        self.algorithm.hash(&[b"duramen chain 1 ", &previous.0, &next.0])
    }

    /// Any other bytes.
    pub fn hash(&self, parts: &[&[u8]]) -> Digest {
        self.algorithm.hash(parts)
    }
}

/// A batch with its digests computed once.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its place in the order.
    pub seq: Seq,
    /// The agreed time the leader proposed; execution uses max(previous, this).
    pub time: WallTime,
    /// The agreed random seed.
    pub seed: u64,
    /// The groups, sharing `bytes`.
    pub groups: Vec<Group>,
    /// Each group's digest.
    pub group_digests: Vec<Digest>,
    /// The digest that is agreed on: binds the batch to its place.
    pub digest: Digest,
    /// Its encoding.
    pub bytes: Bytes,
}

impl Batch {
    /// Assembles a proposal for `seq` of groups whose digests are known; hashes no request bytes.
    pub fn build(hasher: &Hasher, seq: Seq, time: WallTime, seed: u64, groups: Vec<(Group, Digest)>) -> Self {
        let body: usize = groups.iter().map(|(g, _)| g.bytes.len()).sum();
        let mut w = Writer::with_capacity(BATCH_HEADER_BYTES + body);
        w.u64(time.0).u64(seed).count(groups.len()).u32(0);
        for (group, _) in &groups {
            w.raw(&group.bytes);
        }
        let (groups, group_digests): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let digest = digest_of(hasher, seq, time, seed, &groups, &group_digests);
        // The proposal's own buffer: groups keep theirs, which lets go of the batch when they do.
        Self { seq, time, seed, groups, group_digests, digest, bytes: w.finish() }
    }

    /// The batch that fills a free place after a view change: no groups, the same digest for everybody.
    pub fn noop(hasher: &Hasher, seq: Seq) -> Self {
        Self::build(hasher, seq, WallTime(0), 0, Vec::new())
    }

    /// Decodes a batch for `seq`, hashing every group once.
    pub fn decode(hasher: &Hasher, seq: Seq, bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes.clone());
        let (time, seed) = (WallTime(r.u64()?), r.u64()?);
        let count = r.u32()? as usize;
        if r.u32()? != 0 {
            return Err(DecodeError::BadValue);
        }
        if count > r.left() / (GROUP_HEADER_BYTES + REQUEST_HEADER_BYTES) {
            return Err(DecodeError::Truncated);
        }
        let mut groups = Vec::with_capacity(count);
        for _ in 0..count {
            groups.push(Group::read(&mut r)?);
        }
        r.end()?;
        let group_digests: Vec<_> = groups.iter().map(|g| g.digest(hasher)).collect();
        let digest = digest_of(hasher, seq, time, seed, &groups, &group_digests);
        Ok(Self { seq, time, seed, groups, group_digests, digest, bytes })
    }

    /// How many requests it holds.
    pub fn requests(&self) -> usize {
        self.groups.iter().map(Group::len).sum()
    }
}

fn digest_of(
    hasher: &Hasher,
    seq: Seq,
    time: WallTime,
    seed: u64,
    groups: &[Group],
    digests: &[Digest],
) -> Digest {
    let mut w = Writer::with_capacity(64 + groups.len() * 112);
    w.raw(b"duramen batch 1 ").raw(&hasher.cluster.0).u64(seq.0).u64(time.0).u64(seed).count(groups.len());
    for (group, digest) in groups.iter().zip(digests) {
        w.raw(&digest.0).u8(group.auth_kind as u8).count(group.auth().len()).raw(group.auth());
    }
    hasher.algorithm.hash(&[&w.out])
}
