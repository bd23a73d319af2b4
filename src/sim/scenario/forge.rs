//! Messages that no correct replica sends, in the name of one that may lie.

use super::rules::replicas;
use super::script::{What, Words};
use super::stage::Stage;
use crate::order::record::OrderRecord;
use crate::types::*;
use crate::wire::batch::{Batch, Group};
use crate::wire::messages::*;
use bytes::Bytes;
use std::sync::Arc;

/// `forge KIND from= to= …`: the message reaches its receivers at once, and how they take it is seen.
///
/// | KIND | takes |
/// |---|---|
/// | `propose` | `view= place= batch=`, or `client=` for the last group of a client |
/// | `write`, `accept` | `view= place= batch= [signature=none]` |
/// | `stop` | `view=` |
/// | `status` | `[view=] [wish=] [mark=] [decided=] [highest=]`, all 1 or 0 if not given |
/// | `mark` | `place= [signature=none]` |
/// | `decided` | `view= place= batch= [voters=]` |
/// | `stop-data` | `view= [mark= [marked-by=]] [place= batch= in-view= voters= [votes=accept]]` |
/// | `chain` | nothing: the digests behind its last mark but one up to its last, the first of them a wrong one |
/// | `sync` | `view= reports=`: empty reports under these names |
///
/// `batch=` names a batch of the story, or makes another one under a new name; `garbage` is none at all. Whatever is
/// signed in the name of a correct replica is signed with a liar's key. `max` is the greatest number.
pub(super) fn forge(stage: &mut Stage, words: &mut Words) -> Result<(), What> {
    let kind = words.word("kind of message")?;
    let from = words.value("from")?;
    let from = match replicas(from, stage.members())?[..] {
        [one] if stage.cluster.byzantine.contains(one) => one,
        [one] => return Err(What::Honest(one)),
        _ => return Err(What::NoSuch { value: from.to_string(), wanted: "replica" }),
    };
    let to = stage.list(words, "to")?;
    let message = message(stage, words, kind, from)?;
    for r in to {
        let before = stage.cluster.discards.clone();
        stage.cluster.inject(from, r, message.clone());
        let after = &stage.cluster.discards;
        let why =
            after.iter().find(|(why, count)| before.get(*why) != Some(count)).map(|(why, _)| why.clone());
        if let Some(why) = why {
            let why = why.trim_start_matches("rejected Auth(").trim_start_matches("malformed ");
            stage.refused(r, format!("{kind} of {from}"), why.trim_end_matches(')').to_string());
        }
    }
    Ok(())
}

fn message(stage: &Stage, words: &mut Words, kind: &str, from: ReplicaId) -> Result<Message, What> {
    Ok(match kind {
        "propose" => {
            let (view, seq) = (View(words.number("view")?), Seq(words.number("place")?));
            let batch = match words.maybe("client") {
                Some(client) => again(stage, client, seq)?,
                None => batch(stage, words, seq)?.map_or(Bytes::from_static(b"no batch"), |b| b.bytes),
            };
            Message::Propose(Propose { view, seq, batch })
        }
        "write" => Message::Write(vote(stage, words, from, VoteKind::Write)?),
        "accept" => Message::Accept(vote(stage, words, from, VoteKind::Accept)?),
        "stop" => Message::Stop(Stop { view: View(words.number("view")?) }),
        "status" => {
            let view = words.maybe_number("view")?.unwrap_or(1);
            let wish = words.maybe_number("wish")?.unwrap_or(view);
            let mut seq = |key| words.maybe_number(key).map(|n| Seq(n.unwrap_or_default()));
            let (mark, decided, highest) = (seq("mark")?, seq("decided")?, seq("highest")?);
            let mode = Mode::Normal;
            Message::Status(Status {
                view: View(view),
                wish: View(wish),
                mode,
                mark,
                decided,
                highest,
                base: Seq(0),
                rooted: Seq(0),
            })
        }
        "mark" => {
            let seq = Seq(words.number("place")?);
            let (batches, replies) = (Digest([1; 32]), Digest([1; 32]));
            let statement = MarkStatement { seq, batches, replies, state: Digest::ZERO };
            let signature = match unsigned(words)? {
                true => Signature::NONE,
                false => stage.cluster.setup.authenticator(from).sign_mark(&statement),
            };
            Message::Mark(Mark { statement, signature })
        }
        "decided" => {
            let (view, seq) = (View(words.number("view")?), Seq(words.number("place")?));
            let batch = batch(stage, words, seq)?.ok_or(What::Missing("a batch".to_string()))?;
            let certificate = certificate(stage, words, from, VoteKind::Accept, view, seq, batch.digest)?;
            Message::Decided(Decided { certificate, batch: batch.bytes })
        }
        "stop-data" => Message::StopData(Arc::new(stop_data(stage, words, from)?)),
        "sync" => {
            let view = View(words.number("view")?);
            let reports = stage.list(words, "reports")?.into_iter().map(|sender| {
                let (mark, slots, unknown) = Default::default();
                let mut data = StopData { view, sender, mark, slots, unknown, signature: Signature::NONE };
                stage.cluster.setup.authenticator(signer(stage, from, sender)).sign_stop_data(&mut data);
                Arc::new(data)
            });
            Message::Sync(Arc::new(Sync { view, stop_data: reports.collect() }))
        }
        "chain" => {
            let marks = stage.cluster.nodes[from.index()].disk.read().filter_map(|record| match record {
                OrderRecord::Mark { mark, digests } => Some((mark, digests)),
                _ => None,
            });
            let (mark, mut digests) = marks.last().ok_or(What::Missing("a mark".to_string()))?;
            digests[0] = Digest([1; 32]);
            let from = Seq(mark.statement.seq.0 - digests.len() as u64);
            Message::Chain(Chain { from, digests, mark })
        }
        other => return Err(What::NoSuch { value: other.to_string(), wanted: "kind of message to forge" }),
    })
}

/// Whether it is to be without a signature.
fn unsigned(words: &mut Words) -> Result<bool, What> {
    match words.maybe("signature") {
        None => Ok(false),
        Some("none") => Ok(true),
        Some(other) => Err(What::NoSuch { value: other.to_string(), wanted: "signature" }),
    }
}

/// Liars share their keys; nobody has a correct one's.
fn signer(stage: &Stage, from: ReplicaId, name: ReplicaId) -> ReplicaId {
    if stage.cluster.byzantine.contains(name) { name } else { from }
}

/// `None`: no batch at all.
fn batch(stage: &Stage, words: &mut Words, seq: Seq) -> Result<Option<Batch>, What> {
    let name = words.value("batch")?;
    if name == "garbage" {
        return Ok(None);
    }
    let mut names = stage.names.borrow_mut();
    let known = names.batches.values().find(|(n, b)| n == name && b.seq == seq).map(|(_, b)| b.clone());
    Ok(Some(known.unwrap_or_else(|| {
        let wall = WallTime(1_700_000_000_000_000_000 + stage.cluster.now.0);
        let seed = names.batches.len() as u64 + 1;
        let batch = Batch::build(&stage.cluster.setup.hasher(), seq, wall, seed, Vec::new());
        names.batches.insert(batch.digest, (name.to_string(), batch.clone()));
        batch
    })))
}

/// A batch of nothing but a group that was executed already, perhaps.
fn again(stage: &Stage, client: &str, seq: Seq) -> Result<Bytes, What> {
    let no_such = || What::NoSuch { value: client.to_string(), wanted: "client" };
    let index: usize = client.parse().map_err(|_| no_such())?;
    let bytes = stage.cluster.clients.get(index).and_then(|c| c.last_group()).ok_or_else(no_such)?;
    let hasher = stage.cluster.setup.hasher();
    let group = Group::decode(bytes).map_err(|_| no_such())?;
    let digest = group.digest(&hasher);
    let wall = WallTime(1_700_000_000_000_000_000 + stage.cluster.now.0);
    let bytes = Batch::build(&hasher, seq, wall, 1, vec![(group, digest)]).bytes;
    stage.names.borrow_mut().learn(&hasher, seq, &bytes);
    Ok(bytes)
}

fn vote(stage: &Stage, words: &mut Words, from: ReplicaId, kind: VoteKind) -> Result<Vote, What> {
    let (view, seq) = (View(words.number("view")?), Seq(words.number("place")?));
    let digest = batch(stage, words, seq)?.map_or(Digest::ZERO, |b| b.digest);
    let signature = match unsigned(words)? {
        true => Signature::NONE,
        false => stage.cluster.setup.authenticator(from).sign_vote(kind, view, seq, &digest),
    };
    Ok(Vote { view, seq, digest, signature })
}

fn certificate(
    stage: &Stage,
    words: &mut Words,
    from: ReplicaId,
    kind: VoteKind,
    view: View,
    seq: Seq,
    digest: Digest,
) -> Result<Certificate, What> {
    let voters = words.maybe("voters").map(|list| replicas(list, stage.members())).transpose()?;
    let sign = |r: ReplicaId| {
        let auth = stage.cluster.setup.authenticator(signer(stage, from, r));
        (r, auth.sign_vote(kind, view, seq, &digest))
    };
    let signatures = voters.unwrap_or_default().into_iter().map(sign).collect();
    Ok(Certificate { view, seq, digest, signatures })
}

fn stop_data(stage: &Stage, words: &mut Words, from: ReplicaId) -> Result<StopData, What> {
    let (view, sender) = (View(words.number("view")?), from);
    let mut mark = MarkCertificate::default();
    if let Some(height) = words.maybe_number("mark")? {
        mark.statement = MarkStatement {
            seq: Seq(height),
            batches: Digest([1; 32]),
            replies: Digest([1; 32]),
            state: Digest::ZERO,
        };
        let by = words.maybe("marked-by").map(|list| replicas(list, stage.members())).transpose()?;
        let sign = |r: ReplicaId| {
            (r, stage.cluster.setup.authenticator(signer(stage, from, r)).sign_mark(&mark.statement))
        };
        mark.signatures = by.unwrap_or_default().into_iter().map(sign).collect();
    }
    let mut slots = Vec::new();
    if let Some(place) = words.maybe_number("place")? {
        let kind = match words.maybe("votes") {
            None => VoteKind::Write,
            Some("accept") => VoteKind::Accept,
            Some(other) => return Err(What::NoSuch { value: other.to_string(), wanted: "kind of vote" }),
        };
        let (in_view, seq) = (View(words.number("in-view")?), Seq(place));
        let digest = batch(stage, words, seq)?.map_or(Digest::ZERO, |b| b.digest);
        let certificate = certificate(stage, words, from, kind, in_view, seq, digest)?;
        slots.push(SlotReport { kind, certificate });
    }
    let mut data = StopData { view, sender, mark, slots, unknown: Vec::new(), signature: Signature::NONE };
    stage.cluster.setup.authenticator(from).sign_stop_data(&mut data);
    Ok(data)
}
