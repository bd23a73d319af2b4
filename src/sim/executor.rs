//! The key-value store behind the real session table, with a chain over all operations and one over all replies.

use super::state_bytes::StateBytes;
use crate::checkpoint::frozen::Frozen;
use crate::execute::client_table::{ClientTable, ClientTableLimits, Verdict};
use crate::service::{CanonicalReader, Context, KeyValueStore, QueryReply, RestoreError, Service};
use crate::sim::operations;
use crate::transfer::image::Image;
use crate::transfer::received::Received;
use crate::types::*;
use crate::wire::batch::{Batch, Group, Hasher, RequestKind};
use crate::wire::messages::ReplyStatus;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// One answer to a client.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Answer {
    /// To whom.
    pub client: ClientId,
    /// 0 for an OPEN.
    pub session: SessionId,
    /// Number, or the OPEN's nonce.
    pub number: RequestNumber,
    /// How it ended, as its number.
    pub status: u8,
    /// The result.
    pub body: Bytes,
}

/// What executing one batch did.
pub struct Outcome {
    /// Answers in order.
    pub answers: Vec<Answer>,
    /// Highest number executed of each session touched.
    pub progress: Vec<(SessionId, RequestNumber)>,
    /// Requests executed for the first time.
    pub fresh: Vec<(SessionId, RequestNumber)>,
}

/// An answer begins with so many bytes of the chain over all operations; the store's reply follows.
pub const HISTORY_BYTES: usize = 8;

/// The state of one replica's service.
#[derive(Clone)]
pub struct Executor {
    hasher: Hasher,
    table: ClientTable,
    store: KeyValueStore,
    /// Over all operations.
    state: Digest,
    /// It executes otherwise than the rest, by so much.
    pub diverges: u8,
    /// The chain of reply digests.
    pub replies: Digest,
    /// No-ops of replicas.
    noops: BTreeSet<(ReplicaId, u64)>,
    /// Executed up to here.
    pub executed: Seq,
    /// The agreed time of that.
    time: WallTime,
    /// Requests executed, each counted once.
    pub done: u64,
}

impl Executor {
    /// Before the first batch.
    pub fn new(hasher: Hasher, sessions_max: usize) -> Self {
        let limits = ClientTableLimits { sessions_per_client_max: sessions_max, ..Default::default() };
        Self {
            hasher,
            table: ClientTable::new(limits),
            store: KeyValueStore::new(),
            state: Digest::ZERO,
            diverges: 0,
            replies: Digest::ZERO,
            noops: BTreeSet::new(),
            executed: Seq(0),
            time: WallTime(0),
            done: 0,
        }
    }

    /// One that goes on from a state that others had.
    pub fn received(received: &Received, hasher: Hasher, sessions_max: usize) -> Result<Self, RestoreError> {
        let mut this = Self::new(hasher, sessions_max);
        let manifest = &received.target.manifest;
        (this.executed, this.time) = (manifest.seq, manifest.time);
        this.replies = received.target.mark.statement.replies;
        let mut state = StateBytes::default();
        this.table = received.restore(&mut state, this.table.limits())?;
        let mut rest = &state.0[..];
        let mut input = CanonicalReader::new(&mut rest);
        this.state = Digest(input.array("history")?);
        this.done = input.u64("number of requests")?;
        for _ in 0..input.u64("number of no-ops")? {
            let (replica, nonce) = (input.u32("replica")?, input.u64("nonce")?);
            this.noops.insert((ReplicaId(replica), nonce));
        }
        this.store.restore(&mut rest)?;
        Ok(this)
    }

    /// Executes the next batch.
    pub fn execute(&mut self, batch: &Batch) -> Outcome {
        assert_eq!(batch.seq, self.executed.next(), "executed out of sequence");
        (self.executed, self.time) = (batch.seq, self.time.max(batch.time));
        let (mut answers, mut fresh) = (Vec::new(), Vec::new());
        let mut progress: BTreeMap<SessionId, RequestNumber> = BTreeMap::new();
        let mut index = 0;
        for group in &batch.groups {
            for r in group.requests() {
                index += 1;
                let (session, number, client) = (r.session, r.number, group.client);
                let answer = |status: ReplyStatus, body| Answer {
                    client,
                    session,
                    number,
                    status: status as u8,
                    body,
                };
                match r.kind {
                    RequestKind::Noop => {
                        self.noops.extend(client.as_replica().map(|r| (r, number.0)));
                    }
                    RequestKind::Open => {
                        let id = self.table.open(client, number.0, batch.seq, index);
                        answers.push(answer(ReplyStatus::Done, id.0.to_le_bytes().to_vec().into()));
                    }
                    RequestKind::Invoke => match self.table.check(client, session, number) {
                        Verdict::Execute => {
                            self.state = self.hasher.hash(&[
                                &self.state.0,
                                &session.0.to_le_bytes(),
                                &number.0.to_le_bytes(),
                                r.operation,
                                &[self.diverges][..usize::from(self.diverges > 0)],
                            ]);
                            let context = Context {
                                seq: batch.seq,
                                index: index - 1,
                                time: batch.time,
                                seed: batch.seed,
                                client,
                                session,
                            };
                            let (key, kind) = operations::read(r.operation);
                            let reply = self.store.execute(&context, &operations::operation(key, kind));
                            let body = Bytes::from([&self.state.0[..HISTORY_BYTES], &reply].concat());
                            self.table.store(session, number, batch.seq, body.clone());
                            self.done += 1;
                            fresh.push((session, number));
                            progress.insert(session, number);
                            answers.push(answer(ReplyStatus::Done, body));
                        }
                        Verdict::Duplicate(Some(kept)) => {
                            let body = kept.result.clone();
                            answers.push(answer(ReplyStatus::Done, body));
                            progress.extend(self.table.last_executed(session).map(|last| (session, last)));
                        }
                        Verdict::Duplicate(None) => answers.push(answer(ReplyStatus::TooOld, Bytes::new())),
                        // The store's operations do not wait.
                        Verdict::Gap | Verdict::Waits => {}
                        Verdict::Expired => answers.push(answer(ReplyStatus::Expired, Bytes::new())),
                    },
                }
            }
        }
        let mut digest = self.state;
        for a in &answers {
            digest = self.hasher.hash(&[&digest.0, &a.number.0.to_le_bytes(), &[a.status], &a.body]);
        }
        self.replies = self.hasher.chain(&self.replies, &digest);
        Outcome { answers, progress: progress.into_iter().collect(), fresh }
    }

    /// As it is now, to be hashed and sent in pieces of so many bytes.
    pub fn image(&self, piece_bytes: usize) -> Image {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&self.state.0);
        bytes.extend_from_slice(&self.done.to_le_bytes());
        bytes.extend_from_slice(&(self.noops.len() as u64).to_le_bytes());
        for (replica, nonce) in &self.noops {
            bytes.extend_from_slice(&replica.0.to_le_bytes());
            bytes.extend_from_slice(&nonce.to_le_bytes());
        }
        self.store.snapshot().write_to(&mut bytes).expect("memory takes all");
        let frozen = Frozen {
            seq: self.executed,
            time: self.time,
            replies: self.replies,
            table: self.table.clone(),
            state: Box::new(StateBytes(bytes)),
        };
        Image::cut(frozen, self.hasher.algorithm, piece_bytes).expect("memory takes all")
    }

    /// The highest number executed of each session.
    pub fn progress(&self) -> Vec<(SessionId, RequestNumber)> {
        self.table.progress().collect()
    }

    /// Whether this no-op of a replica's own has executed.
    pub fn has_noop(&self, r: ReplicaId, nonce: u64) -> bool {
        self.noops.contains(&(r, nonce))
    }

    /// Reads a key beside the order.
    pub fn query(&self, key: u8) -> QueryReply {
        self.store.query(&operations::operation(key, operations::Kind::Get))
    }

    /// Answers a group again from the table.
    pub fn again(&self, group: &Group) -> Vec<Answer> {
        let answer = |r: &crate::wire::batch::Request<&[u8]>, status: ReplyStatus, body| Answer {
            client: group.client,
            session: r.session,
            number: r.number,
            status: status as u8,
            body,
        };
        group
            .requests()
            .filter(|r| r.kind == RequestKind::Invoke)
            .filter_map(|r| match self.table.check(group.client, r.session, r.number) {
                Verdict::Duplicate(Some(kept)) => Some(answer(&r, ReplyStatus::Done, kept.result.clone())),
                Verdict::Duplicate(None) => Some(answer(&r, ReplyStatus::TooOld, Bytes::new())),
                Verdict::Expired => Some(answer(&r, ReplyStatus::Expired, Bytes::new())),
                _ => None,
            })
            .collect()
    }
}
