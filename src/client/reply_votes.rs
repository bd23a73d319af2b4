//! Enough equal replies make an answer: how many, and why (RULES 9, 13).
//!
//! Not in crash mode with durable votes: there any one reply is the answer and nothing is counted.

use crate::order::mutants::{Mutant, broken};
use crate::quorum::{Group, VoteSet};
use crate::reply::routing::{WHOLE_BYTES_MAX, result_digest};
use crate::types::*;
use crate::wire::batch::Hasher;
use crate::wire::messages::{ReadReply, ReadStatus, Reply, ReplyStatus};
use bytes::Bytes;

/// Where the votes stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Count {
    /// Not yet enough.
    Waiting,
    /// These agree on a digest, but nobody has sent the result.
    NeedsBody(VoteSet),
    /// A quorum agrees.
    Decided(ReplyStatus, Bytes),
    /// No value can reach a quorum any more.
    Hopeless,
}

/// Replies to one request.
///
/// A correct replica may say `Done`, and later, when its table has moved on, `TooOld` or `Expired`. So a replica has
/// one vote per status; a second value under the same status is a lie and ignored. At most 3n values are kept.
#[derive(Default, Debug)]
pub struct ReplyVotes {
    voted: VoteSet,
    /// All honest replies are equal: the common case allocates nothing.
    first: Option<Value>,
    others: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    status: ReplyStatus,
    /// `None`: a small result, compared byte by byte.
    digest: Option<Digest>,
    body: Option<Bytes>,
    voters: VoteSet,
}

impl Value {
    fn matches(&self, status: ReplyStatus, digest: Option<Digest>, body: Option<&Bytes>) -> bool {
        self.status == status
            && match digest {
                Some(_) => self.digest == digest,
                None => self.digest.is_none() && self.body.as_ref() == body,
            }
    }
}

impl ReplyVotes {
    /// Counts a reply. `keep`: whether a large body may be kept until it is needed; else only its digest is.
    pub fn add(
        &mut self,
        members: Group,
        hasher: &Hasher,
        from: ReplicaId,
        reply: Reply,
        keep: bool,
    ) -> Count {
        let Reply { status, digest_only, body, .. } = reply;
        let (digest, body) = if digest_only {
            match <[u8; 32]>::try_from(&body[..]) {
                Ok(digest) => (Some(Digest(digest)), None),
                Err(_) => return Count::Waiting,
            }
        } else if body.len() <= WHOLE_BYTES_MAX {
            (None, Some(body))
        } else {
            // A result sent again, by others: comparing is cheaper than hashing.
            let same = self.values().find(|v| v.status == status && v.body.as_ref() == Some(&body));
            let digest = same.and_then(|v| v.digest).unwrap_or_else(|| result_digest(hasher, &body));
            (Some(digest), Some(body))
        };
        let place = self.values().position(|v| v.matches(status, digest, body.as_ref()));
        let contradicts = self
            .values()
            .enumerate()
            .any(|(i, v)| Some(i) != place && v.status == status && v.voters.contains(from));
        if contradicts {
            return Count::Waiting;
        }
        self.voted.insert(from);
        let quorum = members.quorum();
        let value = match place {
            Some(0) => self.first.as_mut().expect("found"),
            Some(i) => &mut self.others[i - 1],
            None => {
                let value = Value { status, digest, body: None, voters: VoteSet::default() };
                if self.first.is_none() {
                    self.first.insert(value)
                } else {
                    self.others.push(value);
                    self.others.last_mut().expect("just pushed")
                }
            }
        };
        value.voters.insert(from);
        if quorum.reached_by(value.voters) {
            return match value.body.take().or(body) {
                Some(body) => Count::Decided(status, body),
                None => Count::NeedsBody(value.voters),
            };
        }
        if let Some(body) = body
            && value.body.is_none()
            && (keep || body.len() <= WHOLE_BYTES_MAX)
        {
            // A copy: the slice would keep a whole frame alive, whose size its sender chose.
            value.body = Some(Bytes::copy_from_slice(&body));
        }
        if self.hopeless(members) { Count::Hopeless } else { Count::Waiting }
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.first.iter().chain(&self.others)
    }

    /// With all who are silent on its side, no value would have a quorum.
    fn hopeless(&self, members: Group) -> bool {
        let silent = members.members().filter(|r| !self.voted.contains(*r));
        !self.values().any(|v| members.quorum().reached_by(silent.clone().chain(v.voters.iter()).collect()))
    }

    /// Takes back what a replica said: it may have crashed, and forgotten it.
    pub fn forget(&mut self, who: ReplicaId) {
        self.voted.remove(who);
        self.first.iter_mut().chain(&mut self.others).for_each(|v| v.voters.remove(who));
    }

    /// Those who agree most.
    pub fn leading_voters(&self) -> VoteSet {
        self.values().map(|v| v.voters).max_by_key(|voters| voters.count()).unwrap_or_default()
    }

    /// Bytes of bodies kept.
    pub fn kept_bytes(&self) -> usize {
        self.values().filter_map(|v| v.body.as_ref()).map(Bytes::len).sum()
    }

    /// Who said what, for people: "3 × done, 1 × done differently".
    pub fn describe(&self) -> String {
        if self.first.is_none() {
            return "no reply".into();
        }
        let voters = |v: &Value| v.voters.iter().map(|r| r.to_string()).collect::<Vec<_>>().join(", ");
        let said = |v: &Value| match v.status {
            ReplyStatus::Done => "done",
            ReplyStatus::Expired => "session unknown",
            ReplyStatus::TooOld => "done, result no longer kept",
        };
        let all: Vec<_> = self.values().map(|v| format!("replicas {}: {}", voters(v), said(v))).collect();
        if all.len() > 1 { format!("replies differ ({})", all.join("; ")) } else { all.concat() }
    }
}

/// Where the votes on a read stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadCount {
    /// Not yet enough.
    Waiting,
    /// A quorum agrees.
    Decided(Bytes),
    /// Only an ordered read can answer.
    Ordered,
}

/// Answers to one unordered read. They match on (digest, Seq of the last write to what was read), or where that is
/// unknown on (digest, executed Seq): equal values alone would allow new-then-old (RULES 9).
#[derive(Default, Debug)]
pub struct ReadVotes {
    voted: VoteSet,
    values: Vec<(ReadKey, VoteSet)>,
    /// One result whose digest was checked.
    body: Option<(Digest, Bytes)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ReadKey {
    digest: Digest,
    versioned: bool,
    seq: Seq,
}

impl ReadVotes {
    /// Counts an answer; one per replica. `full_from` alone is asked for the result; `keep` as in [`ReplyVotes::add`].
    pub fn add(
        &mut self,
        members: Group,
        hasher: &Hasher,
        from: ReplicaId,
        full_from: ReplicaId,
        reply: ReadReply,
        keep: bool,
    ) -> ReadCount {
        if !self.voted.insert(from) {
            return ReadCount::Waiting;
        }
        let ReadReply { status, executed, version, digest, result, .. } = reply;
        if status == ReadStatus::Done {
            let versioned = version != Seq(0);
            let seq = if versioned { version } else { executed };
            let key = match broken(Mutant::ReadsByValueAlone) {
                true => ReadKey { digest, versioned: false, seq: Seq(0) },
                false => ReadKey { digest, versioned, seq },
            };
            match self.values.iter_mut().find(|(k, _)| *k == key) {
                Some((_, voters)) => {
                    voters.insert(from);
                }
                None => self.values.push((key, VoteSet::from_iter([from]))),
            }
            if let Some(result) = result
                && from == full_from
                && (keep || result.len() <= WHOLE_BYTES_MAX)
                && result_digest(hasher, &result) == digest
            {
                self.body = Some((digest, Bytes::copy_from_slice(&result)));
            }
        }
        let quorum = members.quorum();
        if let Some((key, _)) = self.values.iter().find(|(_, voters)| quorum.reached_by(*voters)) {
            return match &self.body {
                Some((digest, body)) if *digest == key.digest => ReadCount::Decided(body.clone()),
                // The one who was to send it said something else.
                _ if self.voted.contains(full_from) => ReadCount::Ordered,
                _ => ReadCount::Waiting,
            };
        }
        let silent: VoteSet = members.members().filter(|r| !self.voted.contains(*r)).collect();
        let reachable = |voters: VoteSet| quorum.reached_by(silent.iter().chain(voters.iter()).collect());
        let open = reachable(VoteSet::default()) || self.values.iter().any(|(_, voters)| reachable(*voters));
        if open { ReadCount::Waiting } else { ReadCount::Ordered }
    }

    /// Bytes of the result kept.
    pub fn kept_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |(_, body)| body.len())
    }
}
