//! Simulated client processes: sessions opened in the order, several requests outstanding, groups signed,
//! retransmission to all, answers counted.

use super::executor::Answer;
use super::random::Random;
use super::scheme::Tokens;
use crate::quorum::{Group as Members, VoteSet};
use crate::types::*;
use crate::wire::auth::{ClientAuth, group_bytes};
use crate::wire::batch::*;
use bytes::Bytes;
use std::collections::BTreeMap;

struct Pending {
    operation: Vec<u8>,
    /// When it was first sent: the number of the event.
    called: u64,
    /// The last place that any client had been told of when this was first sent.
    after: Seq,
    sent: Tick,
    answers: BTreeMap<(u8, Bytes), VoteSet>,
}

#[derive(Default)]
struct Session {
    nonce: u64,
    id: Option<SessionId>,
    next: u64,
    pending: BTreeMap<u64, Pending>,
}

/// An answer that a client took as final.
pub struct Acknowledged {
    /// The session.
    pub session: SessionId,
    /// The request.
    pub number: RequestNumber,
    /// How it ended.
    pub status: u8,
    /// The result.
    pub body: Bytes,
    /// What was asked.
    pub operation: Vec<u8>,
    /// The event in which it was first sent.
    pub called: u64,
    /// The last place that any client had been told of when the request was first sent.
    pub after: Seq,
}

/// One client process.
pub struct Client {
    /// Its key.
    pub id: ClientId,
    members: Members,
    hasher: Hasher,
    auth: ClientAuth,
    /// Believes one leader's answer: crash mode with durable votes.
    pub trusts_leader: bool,
    /// Replicas that get a bad MAC tag from this client.
    pub lies_to: VoteSet,
    sessions: Vec<Session>,
    /// Requests yet to be submitted over all sessions.
    pub left: u64,
    outstanding_max: usize,
    retry_ms: u64,
    /// Whom it takes for the leader.
    pub hint: ReplicaId,
    /// Requests answered.
    pub answered: u64,
    groups_sent: Vec<Bytes>,
}

impl Client {
    /// A client that wants so many requests executed.
    pub fn new(
        id: ClientId,
        members: Members,
        hasher: Hasher,
        auth: ClientAuth,
        requests: u64,
        random: &mut Random,
    ) -> Self {
        let sessions = (0..random.between(1, 3))
            .map(|i| Session { nonce: (u64::from(id.0) + 1) << 32 | i, next: 1, ..Default::default() })
            .collect();
        Self {
            id,
            members,
            hasher,
            auth,
            trusts_leader: !members.byzantine(),
            lies_to: VoteSet::default(),
            sessions,
            left: requests,
            outstanding_max: random.between(1, 6) as usize,
            retry_ms: random.between(60, 200),
            hint: ReplicaId(0),
            answered: 0,
            groups_sent: Vec::new(),
        }
    }

    /// One session, one request at a time.
    pub fn keep_simple(&mut self) {
        self.sessions.truncate(1);
        self.outstanding_max = 1;
    }

    /// Whether its sessions have their ids.
    pub fn is_open(&self) -> bool {
        self.sessions.iter().all(|s| s.id.is_some())
    }

    /// The group it sent last.
    pub fn last_group(&self) -> Option<Bytes> {
        self.groups_sent.last().cloned()
    }

    /// A replica wants signatures of this key (RULES 12).
    pub fn must_sign(&mut self) {
        self.auth = ClientAuth::Signature;
    }

    /// Whether it signs by now.
    pub fn signs(&self) -> bool {
        self.auth == ClientAuth::Signature
    }

    /// Whether everything it wanted was answered.
    pub fn content(&self) -> bool {
        self.left == 0 && self.sessions.iter().all(|s| s.pending.is_empty())
    }

    fn group(&mut self, requests: &[Request<Vec<u8>>]) -> Bytes {
        let (keys, cluster, n) = (Tokens::of_client(self.id), self.hasher.cluster, self.members.n());
        let group = Group::build(&self.hasher, self.id, requests, |digest| match self.auth {
            ClientAuth::Channel => (AuthKind::Channel, Vec::new()),
            ClientAuth::Signature => {
                (AuthKind::Signature, keys.sign(&group_bytes(&cluster, digest)).0.to_vec())
            }
            ClientAuth::Mac => {
                let tag = |r| {
                    let mut tag = keys.mac(r, digest);
                    tag[0] ^= self.lies_to.contains(r) as u8;
                    tag
                };
                (AuthKind::Mac, (0..n).map(ReplicaId).flat_map(tag).collect())
            }
        });
        let bytes = group.bytes().clone();
        if self.groups_sent.len() < 64 {
            self.groups_sent.push(bytes.clone());
        }
        bytes
    }

    /// An old group of this client, to be replayed.
    pub fn old_group(&self, random: &mut Random) -> Option<Bytes> {
        (!self.groups_sent.is_empty()).then(|| random.pick(&self.groups_sent).clone())
    }

    /// What leaves now: new requests to the leader (or all), late ones to all.
    /// `promised`: the last place that any client has been told of; `event`: the number of this event.
    pub fn act(
        &mut self,
        now: Tick,
        event: u64,
        promised: Seq,
        random: &mut Random,
    ) -> Vec<(ReplicaId, Bytes)> {
        let all: Vec<ReplicaId> = self.members.members().collect();
        let retry_ns = self.retry_ms * 1_000_000;
        let (mut new, mut late) = (Vec::new(), Vec::new());
        for s in &mut self.sessions {
            let Some(id) = s.id else {
                late.push(Request {
                    session: SessionId(0),
                    number: RequestNumber(s.nonce),
                    kind: RequestKind::Open,
                    operation: Vec::new(),
                });
                continue;
            };
            for (number, p) in &mut s.pending {
                if now.since(p.sent) >= retry_ns {
                    p.sent = now;
                    late.push(Request {
                        session: id,
                        number: RequestNumber(*number),
                        kind: RequestKind::Invoke,
                        operation: p.operation.clone(),
                    });
                }
            }
            while s.pending.len() < self.outstanding_max && self.left > 0 {
                self.left -= 1;
                let number = s.next;
                s.next += 1;
                let operation = random.next().to_le_bytes()[..random.between(1, 8) as usize].to_vec();
                new.push(Request {
                    session: id,
                    number: RequestNumber(number),
                    kind: RequestKind::Invoke,
                    operation: operation.clone(),
                });
                let (after, called, answers) = (promised, event, BTreeMap::new());
                s.pending.insert(number, Pending { operation, called, after, sent: now, answers });
                if random.per_mille(300) {
                    break;
                }
            }
        }
        let mut out = Vec::new();
        if !late.is_empty() {
            let bytes = self.group(&late);
            out.extend(all.iter().map(|r| (*r, bytes.clone())));
        }
        // Often all in one group, sometimes one request each.
        let parts = if random.per_mille(500) { new.len().max(1) } else { 1 };
        for part in new.chunks(parts) {
            let bytes = self.group(part);
            if random.per_mille(700) {
                out.push((self.hint, bytes));
            } else {
                out.extend(all.iter().map(|r| (*r, bytes.clone())));
            }
        }
        out
    }

    /// Requests without an answer, and the events in which they were first sent.
    pub fn unanswered(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let of = |s: &'_ Session| s.id.is_some();
        let pending = self.sessions.iter().filter(move |s| of(s)).flat_map(|s| s.pending.values());
        pending.map(|p| (&p.operation[..], p.called))
    }

    /// Counts answers from the beginning.
    pub fn forget_answers(&mut self) {
        let pending = self.sessions.iter_mut().flat_map(|s| s.pending.values_mut());
        pending.for_each(|p| p.answers.clear());
    }

    /// Whether it believes this answer to an OPEN.
    pub fn knows_session(&self, a: &Answer) -> bool {
        let id = a.body[..].try_into().map(|bytes| SessionId(u64::from_le_bytes(bytes)));
        id.is_ok_and(|id| self.sessions.iter().any(|s| s.nonce == a.number.0 && s.id == Some(id)))
    }

    /// An answer arrived; crash mode believes the leader; Byzantine mode, and wherever votes are not durable, a
    /// quorum of equal answers (RULES 14).
    pub fn answer(&mut self, from: ReplicaId, leads: bool, a: &Answer) -> Option<Acknowledged> {
        if leads {
            self.hint = from;
        }
        let quorum = self.members.quorum();
        let trusted = self.trusts_leader;
        if trusted && !leads {
            return None;
        }
        if a.session == SessionId(0) {
            // A session's id: believed when f+1 agree; sessions of a run are few, so the first quorum is not counted.
            let s = self.sessions.iter_mut().find(|s| s.nonce == a.number.0 && s.id.is_none())?;
            let votes = s.pending.entry(0).or_insert_with(|| Pending {
                operation: Vec::new(),
                called: 0,
                after: Seq(0),
                sent: Tick(0),
                answers: BTreeMap::new(),
            });
            let set = votes.answers.entry((a.status, a.body.clone())).or_default();
            set.insert(from);
            if trusted || quorum.reached_by(*set) {
                s.id = Some(SessionId(u64::from_le_bytes(a.body[..].try_into().expect("8 bytes"))));
                s.pending.clear();
            }
            return None;
        }
        let s = self.sessions.iter_mut().find(|s| s.id == Some(a.session))?;
        let p = s.pending.get_mut(&a.number.0)?;
        let set = p.answers.entry((a.status, a.body.clone())).or_default();
        set.insert(from);
        if !trusted && !quorum.reached_by(*set) {
            return None;
        }
        let Pending { operation, called, after, .. } = s.pending.remove(&a.number.0)?;
        self.answered += 1;
        let (session, number, status, body) = (a.session, a.number, a.status, a.body.clone());
        Some(Acknowledged { session, number, status, body, operation, called, after })
    }
}
