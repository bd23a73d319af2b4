//! Which messages pass, wait or are lost, as a story says.

use super::script::{What, Words};
use crate::quorum::Group as Members;
use crate::sim::cluster::Fate;
use crate::types::*;
use crate::wire::messages::*;

/// A list of replicas as stories write it.
pub(super) fn replicas(list: &str, members: Members) -> Result<Vec<ReplicaId>, What> {
    if list == "all" {
        return Ok(members.members().collect());
    }
    let one = |word: &str| {
        let known = word.parse().ok().map(ReplicaId).filter(|r| members.contains(*r));
        known.ok_or_else(|| What::NoSuch { value: word.to_string(), wanted: "replica" })
    };
    list.split(',').map(one).collect()
}

/// The messages between replicas, by the names that stories use, and their kind numbers.
const KINDS: [(&str, u16); 19] = [
    ("propose", 1),
    ("write", 2),
    ("accept", 3),
    ("stop", 4),
    ("stop-data", 5),
    ("sync", 6),
    ("mark", 7),
    ("status", 8),
    ("fetch", 9),
    ("decided", 10),
    ("fetch-batch", 11),
    ("batch-is", 12),
    ("chain", 13),
    ("read-check", 14),
    ("read-ok", 15),
    ("mac-failed", 16),
    ("rejoin", 17),
    ("rejoin-mark", 18),
    ("group", 32),
];

/// Which messages a rule is about; what is empty or `None` says nothing.
#[derive(Default)]
pub(super) struct Which {
    kinds: Vec<u16>,
    from: Option<Vec<ReplicaId>>,
    to: Option<Vec<ReplicaId>>,
    view: Option<View>,
    place: Option<Seq>,
    above: Option<Seq>,
}

impl Which {
    pub(super) fn read(words: &mut Words, members: Members) -> Result<Self, What> {
        let mut kinds = Vec::new();
        for name in words.maybe_word().unwrap_or("any").split(',').filter(|name| *name != "any") {
            let kind = KINDS.iter().find(|(n, _)| *n == name).map(|(_, kind)| *kind);
            kinds.push(kind.ok_or(What::NoSuch { value: name.to_string(), wanted: "kind of message" })?);
        }
        Ok(Self {
            kinds,
            from: words.maybe("from").map(|list| replicas(list, members)).transpose()?,
            to: words.maybe("to").map(|list| replicas(list, members)).transpose()?,
            view: words.maybe_number("view")?.map(View),
            place: words.maybe_number("place")?.map(Seq),
            above: words.maybe_number("above")?.map(Seq),
        })
    }

    pub(super) fn fits(&self, from: ReplicaId, to: ReplicaId, message: &Message) -> bool {
        let (view, place) = position(message);
        (self.kinds.is_empty() || self.kinds.contains(&message.kind()))
            && self.from.as_ref().is_none_or(|list| list.contains(&from))
            && self.to.as_ref().is_none_or(|list| list.contains(&to))
            && self.view.is_none_or(|v| view == Some(v))
            && self.place.is_none_or(|s| place == Some(s))
            && self.above.is_none_or(|s| place > Some(s))
    }
}

/// What happens to some messages.
pub(super) struct Rule {
    pub(super) which: Which,
    pub(super) then: Then,
}

#[derive(Clone, Copy)]
pub(super) enum Then {
    /// It passes, waits or is lost.
    Fate(Fate),
    /// The story fails: nobody may send this.
    Fail,
}

/// The view and the place a message names.
fn position(message: &Message) -> (Option<View>, Option<Seq>) {
    match message {
        Message::Propose(m) => (Some(m.view), Some(m.seq)),
        Message::Write(v) | Message::Accept(v) => (Some(v.view), Some(v.seq)),
        Message::Stop(m) => (Some(m.view), None),
        Message::StopData(m) => (Some(m.view), None),
        Message::Sync(m) => (Some(m.view), None),
        Message::Status(m) => (Some(m.view), None),
        Message::Mark(m) => (None, Some(m.statement.seq)),
        Message::Decided(m) => (Some(m.certificate.view), Some(m.certificate.seq)),
        Message::FetchBatch(m) => (None, Some(m.seq)),
        Message::BatchIs(m) => (None, Some(m.seq)),
        _ => (None, None),
    }
}
