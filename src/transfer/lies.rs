//! What a seeder can lie about (FAULTS B21 to B28): each row makes other messages of those that it would send. In tests, and in
//! builds with the feature `adversary`.

use super::image::Manifest;
use super::messages::Message;
use crate::types::Seq;
use bytes::Bytes;

/// One lie.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// Of the catalogue.
    pub id: &'static str,
    /// For `--adversary`.
    pub name: &'static str,
    /// In one line.
    pub what: &'static str,
    /// Stands in the reason for which it is named in `status`; empty: it may end before it is noticed, or cannot be told from bad luck.
    pub blamed: &'static str,
    /// What it says in place of a message.
    pub twist: fn(Message) -> Vec<Message>,
}

fn offer(message: Message) -> Vec<Message> {
    let Message::Offer(mut marks) = message else { return vec![message] };
    marks.iter_mut().for_each(|mark| mark.statement.seq = Seq(mark.statement.seq.0 + (1 << 40)));
    vec![Message::Offer(marks)]
}

fn manifest(message: Message) -> Vec<Message> {
    let Message::Manifest { seq, manifest } = message else { return vec![message] };
    let Ok(mut twisted) = Manifest::decode(manifest) else { return Vec::new() };
    if let Some(node) = twisted.parts[1].nodes.first_mut() {
        node.0[0] ^= 1;
    }
    twisted.time.0 ^= 1;
    vec![Message::Manifest { seq, manifest: twisted.encode() }]
}

fn absurd(message: Message) -> Vec<Message> {
    let Message::Manifest { seq, manifest } = message else { return vec![message] };
    let mut bytes = manifest.to_vec();
    // The number of pages of the table.
    bytes[17..25].copy_from_slice(&(1u64 << 39).to_le_bytes());
    vec![Message::Manifest { seq, manifest: bytes.into() }]
}

fn digests(message: Message) -> Vec<Message> {
    let Message::Digests { seq, part, first, mut digests } = message else { return vec![message] };
    if let Some(digest) = digests.first_mut() {
        digest.0[3] ^= 1;
    }
    vec![Message::Digests { seq, part, first, digests }]
}

fn chunks(message: Message) -> Vec<Message> {
    let Message::Chunk { seq, chunk, bytes } = message else { return vec![message] };
    let mut bytes = bytes.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    vec![Message::Chunk { seq, chunk, bytes: bytes.into() }]
}

fn misplaced(message: Message) -> Vec<Message> {
    let Message::Chunk { seq, chunk, bytes } = message else { return vec![message] };
    vec![Message::Chunk { seq, chunk: chunk ^ 1, bytes }]
}

fn nowhere(message: Message) -> Vec<Message> {
    let Message::Chunk { seq, bytes, .. } = message else { return vec![message] };
    vec![Message::Chunk { seq, chunk: u64::MAX, bytes }]
}

fn twice(message: Message) -> Vec<Message> {
    match message {
        chunk @ Message::Chunk { .. } => vec![chunk.clone(), chunk],
        other => vec![other],
    }
}

fn large(message: Message) -> Vec<Message> {
    let Message::Chunk { seq, chunk, bytes } = message else { return vec![message] };
    vec![Message::Chunk { seq, chunk, bytes: [&bytes[..], &[0; 100_000]].concat().into() }]
}

fn silent(message: Message) -> Vec<Message> {
    match message {
        Message::Chunk { .. } => Vec::new(),
        other => vec![other],
    }
}

fn mute(message: Message) -> Vec<Message> {
    match message {
        offer @ Message::Offer(_) => vec![offer],
        _ => Vec::new(),
    }
}

fn gone(message: Message) -> Vec<Message> {
    match message {
        Message::Chunk { seq, .. } => vec![Message::Gone(seq)],
        other => vec![other],
    }
}

fn short(message: Message) -> Vec<Message> {
    let Message::Digests { seq, part, first, .. } = message else { return vec![message] };
    vec![Message::Digests { seq, part, first, digests: Vec::new() }]
}

fn empty(message: Message) -> Vec<Message> {
    let Message::Chunk { seq, chunk, .. } = message else { return vec![message] };
    vec![Message::Chunk { seq, chunk, bytes: Bytes::new() }]
}

const UNCERTIFIED: &str = "without a quorum's certificate";
const WRONG: &str = "is not what the certificate names";

/// All of them.
#[rustfmt::skip]
pub const ROWS: &[Lie] = &[
    Lie { id: "B22", name: "stale-offers", what: "offers old states as new ones", blamed: UNCERTIFIED, twist: offer },
    Lie { id: "B23", name: "false-manifests", what: "sends manifests of another root", blamed: "manifest", twist: manifest },
    Lie { id: "B24", name: "false-chunks", what: "sends right digests and wrong chunks", blamed: WRONG, twist: chunks },
    Lie { id: "B25", name: "false-digests", what: "sends wrong digests", blamed: "digests", twist: digests },
    Lie { id: "B25", name: "short-digests", what: "sends lists without digests", blamed: "digests", twist: short },
    Lie { id: "B26", name: "misplaced-chunks", what: "sends chunks under another index", blamed: WRONG, twist: misplaced },
    Lie { id: "B26", name: "absurd-chunks", what: "sends chunks under an absurd index", blamed: "", twist: nowhere },
    Lie { id: "B26", name: "repeated-chunks", what: "sends every chunk twice", blamed: "", twist: twice },
    Lie { id: "B26", name: "large-chunks", what: "sends more than a chunk", blamed: WRONG, twist: large },
    Lie { id: "B26", name: "empty-chunks", what: "sends chunks without bytes", blamed: WRONG, twist: empty },
    Lie { id: "B26", name: "silent-seeder", what: "promises chunks and sends none", blamed: "", twist: silent },
    Lie { id: "B26", name: "mute-seeder", what: "offers a state and says no more", blamed: "", twist: mute },
    Lie { id: "B27", name: "absurd-manifests", what: "names 2^39 pages", blamed: "manifest", twist: absurd },
    Lie { id: "B28", name: "gone-seeder", what: "says of each chunk that it is gone", blamed: "", twist: gone },
];

/// By its name.
pub fn named(name: &str) -> Option<&'static Lie> {
    ROWS.iter().find(|lie| lie.name == name)
}
