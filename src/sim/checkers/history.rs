//! The one history: grown by whoever executes first, compared by everybody else, across restarts. It never shrinks, so
//! an operation that a total crash loses shows as a different batch at its place, or as a place nobody reaches again.

use crate::sim::client::Acknowledged;
use crate::sim::executor::Outcome;
use crate::types::*;
use crate::wire::batch::Batch;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What has been seen of it.
#[derive(Default)]
pub struct History {
    handed: BTreeMap<Seq, (Digest, ReplicaId)>,
    replies: BTreeMap<Seq, (Digest, ReplicaId)>,
    executed: BTreeMap<(SessionId, RequestNumber), (Seq, Bytes)>,
    last: BTreeMap<SessionId, RequestNumber>,
    opened: BTreeMap<u64, Bytes>,
    /// Answers taken by clients.
    pub acknowledged: u64,
    /// The last place of which a client was told.
    promised: Seq,
}

impl History {
    /// A correct replica hands a batch to execution.
    pub fn handed(&mut self, who: ReplicaId, batch: &Batch) {
        let (first, other) = *self.handed.entry(batch.seq).or_insert((batch.digest, who));
        assert_eq!(
            first, batch.digest,
            "agreement: replica {who} executes another batch at place {} than replica {other}",
            batch.seq
        );
    }

    /// A correct replica executed it.
    pub fn executed(&mut self, who: ReplicaId, seq: Seq, replies: Digest, outcome: &Outcome) {
        let known = self.replies.contains_key(&seq);
        let (first, other) = *self.replies.entry(seq).or_insert((replies, who));
        assert_eq!(first, replies, "replies of {who} and {other} differ up to place {seq}");
        if known {
            return;
        }
        for (session, number) in &outcome.fresh {
            let body = outcome.answers.iter().find(|a| a.session == *session && a.number == *number);
            let body = body.expect("what executes is answered").body.clone();
            let twice = self.executed.insert((*session, *number), (seq, body));
            assert!(twice.is_none(), "request {number} of session {session} executed twice");
            let last = self.last.entry(*session).or_default();
            assert_eq!(*number, last.next(), "session {session} executes out of order");
            *last = *number;
        }
        for a in outcome.answers.iter().filter(|a| a.session == SessionId(0)) {
            self.opened.entry(a.number.0).or_insert_with(|| a.body.clone());
        }
    }

    /// A client took an answer as final.
    pub fn acknowledged(&mut self, a: &Acknowledged) {
        self.acknowledged += 1;
        assert_eq!(a.status, 1, "request {} of session {} was refused", a.number, a.session);
        let (seq, body) = self
            .executed
            .get(&(a.session, a.number))
            .unwrap_or_else(|| panic!("request {} of {} answered, never executed", a.number, a.session));
        assert_eq!(*body, a.body, "request {} of {} (place {seq}): wrong answer", a.number, a.session);
        // Real time: what was asked after others had been answered comes after them.
        assert!(
            *seq > a.after,
            "not linearizable: request {} of {} was sent after place {} was answered and executed at {seq}",
            a.number,
            a.session,
            a.after
        );
        self.promised = self.promised.max(*seq);
    }

    /// The last place of which a client was told.
    pub fn promised(&self) -> Seq {
        self.promised
    }

    /// A client took a session's id as final: its OPEN is promised as well.
    pub fn opened(&mut self, session: SessionId) {
        self.promised = self.promised.max(Seq(session.0 >> 20));
    }

    /// All replicas crashed where votes are not durable, and begin a new era: what no client was told may be undone.
    pub fn cut(&mut self) {
        let kept = self.promised;
        self.handed.retain(|seq, _| *seq <= kept);
        self.replies.retain(|seq, _| *seq <= kept);
        self.executed.retain(|_, (seq, _)| *seq <= kept);
        self.last.clear();
        for (session, number) in self.executed.keys() {
            let last = self.last.entry(*session).or_default();
            *last = (*last).max(*number);
        }
    }

    /// The last place anybody handed to execution.
    pub fn end(&self) -> Seq {
        self.handed.keys().last().copied().unwrap_or_default()
    }

    /// The batch at a place.
    pub fn at(&self, seq: Seq) -> Option<Digest> {
        self.handed.get(&seq).map(|(d, _)| *d)
    }
}
