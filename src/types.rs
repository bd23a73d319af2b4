//! The words of the protocol as types: one meaning each, no bare integers for ids.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A member of the group: its index in the configuration, `0..n`.
    ReplicaId(u32)
);
number!(
    /// A client key of the configuration. One key may hold many sessions.
    ///
    /// Replicas order no-ops of their own under [`ClientId::of_replica`].
    ClientId(u32)
);
number!(
    /// An open client session; derived from the place of its OPEN in the order, never reused. 0 = none.
    SessionId(u64)
);
number!(
    /// Numbers the requests of one session from 1, without gaps, in execution order.
    RequestNumber(u64)
);
number!(
    /// One leader's term (BFT-SMaRt: regency). The first is 1; 0 stands before every view.
    View(u64)
);
number!(
    /// The place of a batch in the order (BFT-SMaRt: consensus id). The first is 1; 0 is the initial state.
    Seq(u64)
);
number!(
    /// Log sequence number: numbers the records of one replica's log from 1. 0 = nothing.
    Lsn(u64)
);
number!(
    /// Monotonic time in nanoseconds since an arbitrary start; never goes back.
    Tick(u64)
);
number!(
    /// Agreed or local wall-clock time, nanoseconds since the Unix epoch.
    WallTime(u64)
);

impl ReplicaId {
    /// As an index into tables of `n` entries.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Client ids from here on belong to replicas.
const REPLICA_CLIENTS: u32 = 1 << 31;

impl ClientId {
    /// The client identity under which replica `r` orders its own no-ops.
    pub fn of_replica(r: ReplicaId) -> Self {
        Self(REPLICA_CLIENTS + r.0)
    }

    /// The replica behind this identity, if it is one.
    pub fn as_replica(self) -> Option<ReplicaId> {
        (self.0 >= REPLICA_CLIENTS).then(|| ReplicaId(self.0 - REPLICA_CLIENTS))
    }
}

impl View {
    /// The view every group starts in.
    pub const FIRST: View = View(1);

    /// The view after this one.
    pub fn next(self) -> View {
        View(self.0 + 1)
    }

    /// The view's leader in a group of `n`: round robin, view 1 is led by replica 0.
    pub fn leader(self, n: u32) -> ReplicaId {
        ReplicaId(((self.0.max(1) - 1) % u64::from(n)) as u32)
    }
}

impl Seq {
    /// The place after this one.
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl RequestNumber {
    /// The number after this one.
    pub fn next(self) -> RequestNumber {
        RequestNumber(self.0 + 1)
    }
}

impl Lsn {
    /// The number after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

impl Tick {
    /// This time plus a number of milliseconds.
    pub fn plus_ms(self, ms: u64) -> Tick {
        Tick(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds since `earlier`, 0 if it lies ahead.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// 128 random bits drawn by `init`: names one cluster in every frame, file and signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClusterId(pub [u8; 16]);

/// A 32-byte hash under the cluster's [`DigestAlgorithm`].
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
    zerocopy::Unaligned,
)]
#[repr(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// All zero: the start of every chain.
    pub const ZERO: Digest = Digest([0; 32]);
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..6], f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

/// Which hash the cluster uses; its number stands in frames and files and is never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum DigestAlgorithm {
    /// BLAKE3: fastest here from 4 KiB up, and tree-parallel.
    #[default]
    Blake3 = 1,
    /// SHA-256 (ring).
    Sha256 = 2,
    /// SHA-512 (ring), the papers' hash, cut to its first 32 bytes.
    Sha512 = 3,
}

impl DigestAlgorithm {
    /// Hashes `parts` as one string.
    pub fn hash(self, parts: &[&[u8]]) -> Digest {
        match self {
            Self::Blake3 => {
                let mut hasher = blake3::Hasher::new();
                update_in_step(&mut hasher, parts);
                Digest(*hasher.finalize().as_bytes())
            }
            Self::Sha256 => ring_hash(&ring::digest::SHA256, parts),
            Self::Sha512 => ring_hash(&ring::digest::SHA512, parts),
        }
    }
}

/// BLAKE3 hashes many chunks of 1 KiB at once only where a call begins at a multiple of as many: a short first part would leave the
/// bytes behind it to groups of 1, 2, 4, … chunks. The first bytes are copied together, so that what follows is in step with the tree.
fn update_in_step(hasher: &mut blake3::Hasher, parts: &[&[u8]]) {
    const STEP: usize = 16 << 10;
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if bytes <= 1 << 10 || parts.len() == 1 {
        parts.iter().for_each(|part| _ = hasher.update(part));
        return;
    }
    let mut step = Vec::with_capacity(bytes.min(STEP));
    for mut part in parts.iter().copied() {
        while !part.is_empty() {
            let whole = part.len() - part.len() % STEP;
            if step.is_empty() && whole > 0 {
                hasher.update(&part[..whole]);
                part = &part[whole..];
                continue;
            }
            let (now, later) = part.split_at(part.len().min(STEP - step.len()));
            step.extend_from_slice(now);
            part = later;
            if step.len() == STEP {
                hasher.update(&step);
                step.clear();
            }
        }
    }
    hasher.update(&step);
}

fn ring_hash(algorithm: &'static ring::digest::Algorithm, parts: &[&[u8]]) -> Digest {
    let mut context = ring::digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(&context.finish().as_ref()[..32]);
    Digest(out)
}
