//! What a seeder can lie about (FAULTS B21 to B28): each row makes other messages of those that it would send. In the
//! simulator, in tests, and in processes of a build with the feature `adversary`.

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

/// A chunk as it is sent, compressed or not.
struct Sent {
    seq: Seq,
    chunk: u64,
    holds: Option<u32>,
    bytes: Bytes,
}

impl Sent {
    fn of(message: Message) -> Result<Self, Message> {
        match message {
            Message::Chunk { seq, chunk, bytes } => Ok(Self { seq, chunk, holds: None, bytes }),
            Message::Packed { seq, chunk, holds, bytes } => {
                Ok(Self { seq, chunk, holds: Some(holds), bytes })
            }
            other => Err(other),
        }
    }

    fn message(self) -> Message {
        let Self { seq, chunk, holds, bytes } = self;
        match holds {
            Some(holds) => Message::Packed { seq, chunk, holds, bytes },
            None => Message::Chunk { seq, chunk, bytes },
        }
    }
}

/// Of every chunk another one.
fn other_chunk(message: Message, lie: impl FnOnce(&mut Sent)) -> Vec<Message> {
    match Sent::of(message) {
        Ok(mut sent) => {
            lie(&mut sent);
            vec![sent.message()]
        }
        Err(other) => vec![other],
    }
}

fn chunks(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| {
        let mut bytes = sent.bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        sent.bytes = bytes.into();
    })
}

fn misplaced(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| sent.chunk ^= 1)
}

fn nowhere(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| sent.chunk = u64::MAX)
}

fn twice(message: Message) -> Vec<Message> {
    match Sent::of(message) {
        Ok(sent) => {
            let message = sent.message();
            vec![message.clone(), message]
        }
        Err(other) => vec![other],
    }
}

fn large(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| sent.bytes = [&sent.bytes[..], &[0; 100_000]].concat().into())
}

fn silent(message: Message) -> Vec<Message> {
    Sent::of(message).map_or_else(|other| vec![other], |_| Vec::new())
}

/// Few bytes that claim to hold as much as a claim can say. Whoever takes no compressed chunks gets plain nonsense.
fn bomb(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| {
        sent.holds = sent.holds.map(|_| u32::MAX);
        sent.bytes = Bytes::from_static(&[0x1f; 64]);
    })
}

/// As much as can be claimed, and what comes out of it is more than that.
fn burst(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| {
        sent.bytes = lz4_flex::block::compress(&vec![0; 1 << 20]).into();
        sent.holds = sent.holds.map(|_| 255 * sent.bytes.len() as u32 - 200_000);
    })
}

/// Well compressed, and something else.
fn repacked(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| match sent.holds {
        Some(holds) => sent.bytes = lz4_flex::block::compress(&vec![7; holds as usize]).into(),
        None => sent.bytes = vec![7; sent.bytes.len()].into(),
    })
}

fn mute(message: Message) -> Vec<Message> {
    match message {
        offer @ Message::Offer(_) => vec![offer],
        _ => Vec::new(),
    }
}

fn gone(message: Message) -> Vec<Message> {
    Sent::of(message).map_or_else(|other| vec![other], |sent| vec![Message::Gone(sent.seq)])
}

fn short(message: Message) -> Vec<Message> {
    let Message::Digests { seq, part, first, .. } = message else { return vec![message] };
    vec![Message::Digests { seq, part, first, digests: Vec::new() }]
}

fn empty(message: Message) -> Vec<Message> {
    other_chunk(message, |sent| sent.bytes = Bytes::new())
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
    Lie { id: "B26", name: "bomb-chunks", what: "sends compressed chunks that claim to hold 4 GiB", blamed: WRONG, twist: bomb },
    Lie { id: "B26", name: "burst-chunks", what: "sends compressed chunks that hold more than they claim", blamed: WRONG, twist: burst },
    Lie { id: "B26", name: "repacked-chunks", what: "sends other bytes, well compressed", blamed: WRONG, twist: repacked },
    Lie { id: "B26", name: "silent-seeder", what: "promises chunks and sends none", blamed: "", twist: silent },
    Lie { id: "B26", name: "mute-seeder", what: "offers a state and says no more", blamed: "", twist: mute },
    Lie { id: "B27", name: "absurd-manifests", what: "names 2^39 pages", blamed: "manifest", twist: absurd },
    Lie { id: "B28", name: "gone-seeder", what: "says of each chunk that it is gone", blamed: "", twist: gone },
];

/// By its name.
pub fn named(name: &str) -> Option<&'static Lie> {
    ROWS.iter().find(|lie| lie.name == name)
}
