//! Executes decided batches in sequence and says what to answer; no I/O.
//!
//! # What counts
//! An OPEN or the next request of a session *executes*: it changes the state, has one reply, and enters the reply chain.
//! Everything else in a batch changes nothing and adds nothing to the chain: a repeated request (its kept reply is sent
//! again, whole), one whose predecessor is missing (no reply), one of an unknown session (`Expired`), a replica's no-op.
//! The chain's next link covers the batch's [`Seq`] and, for each executed request in order, session, number, status
//! and result, a long result by its [`result_digest`]: that digest also stands for it on the wire, so no byte of a
//! result is hashed twice.
//!
//! A request may wait for a later one ([`Service::begin`]). Nothing is answered then, nor to a repetition. The request that ends
//! the wait brings two replies, first that of the one that waited; both enter the chain there.
//!
//! # Determinism
//! Execution time is the highest proposed so far, so it never goes back; each request has a seed of its own.

use super::client_table::{ClientTable, ClientTableLimits, PLACE_BITS, Verdict};
use crate::checkpoint::frozen::Frozen;
use crate::reply::routing::{WHOLE_BYTES_MAX, result_digest};
use crate::service::{Context, QueryReply, Service};
use crate::types::*;
use crate::wire::batch::{Batch, Hasher, Request, RequestKind};
use crate::wire::messages::{Reply, ReplyStatus, process_of};
use bytes::Bytes;

/// A reply and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The client key.
    pub client: ClientId,
    /// The process among the key's connections; 0: unknown, all of them.
    pub process: u64,
    /// The whole reply.
    pub reply: Reply,
    /// The result's digest, where a replica may send it in place of the result ([`crate::reply::routing::cut`]).
    pub digest: Option<Digest>,
}

/// What executing one batch gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executed {
    /// The batch's place.
    pub seq: Seq,
    /// The reply chain up to here.
    pub reply_chain: Digest,
    /// In the order of the requests.
    pub replies: Vec<Outgoing>,
    /// The highest number executed of each session touched, ascending by session; new sessions with number 0.
    pub progress: Vec<(SessionId, RequestNumber)>,
    /// The no-ops of replicas with their nonces.
    pub noops: Vec<(ReplicaId, u64)>,
}

/// State, client table and position.
pub struct Executor {
    service: Box<dyn Service>,
    table: ClientTable,
    executed: Seq,
    time: WallTime,
    reply_chain: Digest,
    hasher: Hasher,
    /// What the next link of the chain covers; kept for its allocation.
    link: Vec<u8>,
}

impl Executor {
    /// Before batch 1, with a service and a table in their initial states.
    pub fn new(service: Box<dyn Service>, table: ClientTable, hasher: Hasher) -> Self {
        Self {
            service,
            table,
            executed: Seq(0),
            time: WallTime(0),
            reply_chain: Digest::ZERO,
            hasher,
            link: Vec::new(),
        }
    }

    /// After batch `executed`, as a checkpoint has it.
    pub fn resumed(
        service: Box<dyn Service>,
        table: ClientTable,
        hasher: Hasher,
        executed: Seq,
        time: WallTime,
        reply_chain: Digest,
    ) -> Self {
        Self { executed, time, reply_chain, ..Self::new(service, table, hasher) }
    }

    /// Goes on from a state that others had: `restore` puts it into the service and gives the table. On error all is as it was.
    pub fn take_over<E>(
        &mut self,
        (executed, time, reply_chain): (Seq, WallTime, Digest),
        restore: impl FnOnce(&mut dyn Service) -> Result<ClientTable, E>,
    ) -> Result<(), E> {
        self.table = restore(&mut *self.service)?;
        (self.executed, self.time, self.reply_chain) = (executed, time, reply_chain);
        Ok(())
    }

    /// The limits of its table.
    pub fn table_limits(&self) -> ClientTableLimits {
        self.table.limits()
    }

    /// All that is replicated, frozen: pointers are copied, not bytes.
    pub fn freeze(&self) -> Frozen {
        Frozen {
            seq: self.executed,
            time: self.time,
            replies: self.reply_chain,
            table: self.table.clone(),
            state: self.service.snapshot(),
        }
    }

    /// Executes the next batch.
    ///
    /// # Panics
    /// If `batch` is not the next: order and recovery hand batches over in sequence.
    pub fn execute(&mut self, batch: &Batch) -> Executed {
        assert!(batch.seq == self.executed.next(), "batch {} follows {}", batch.seq, self.executed);
        self.executed = batch.seq;
        self.time = self.time.max(batch.time);
        self.link.clear();
        self.link.extend_from_slice(&batch.seq.0.to_le_bytes());
        let mut out = Executed {
            seq: batch.seq,
            reply_chain: Digest::ZERO,
            replies: Vec::with_capacity(batch.requests()),
            progress: Vec::new(),
            noops: Vec::new(),
        };
        let mut index = 0;
        for group in &batch.groups {
            for request in group.requests() {
                let seed = request_seed(batch.seed, index);
                match (request.kind, group.client.as_replica()) {
                    (RequestKind::Noop, Some(replica)) => out.noops.push((replica, request.number.0)),
                    (RequestKind::Open, None) => self.open(group.client, request, index, &mut out),
                    (RequestKind::Invoke, None) => self.invoke(group.client, request, index, seed, &mut out),
                    // No correct replica lets these pass (`wire::auth`); executing must be total all the same.
                    _ => {}
                }
                index += 1;
            }
        }
        let link = self.hasher.hash(&[&self.link]);
        self.reply_chain = self.hasher.chain(&self.reply_chain, &link);
        out.reply_chain = self.reply_chain;
        if out.progress.len() > 1 {
            out.progress.sort_unstable();
            out.progress.reverse();
            out.progress.dedup_by_key(|(session, _)| *session);
            out.progress.reverse();
        }
        out
    }

    fn open(&mut self, client: ClientId, request: Request<&[u8]>, index: u32, out: &mut Executed) {
        let nonce = request.number.0;
        let session = self.table.open(client, nonce, self.executed, index);
        self.withdraw();
        let reply = opened(nonce, session);
        self.note(&reply, None);
        // A repeated OPEN finds the session in use.
        let last = self.table.last_executed(session).unwrap_or_default();
        progress(out, session, last);
        out.replies.push(Outgoing { client, process: process_of(nonce), reply, digest: None });
    }

    fn invoke(
        &mut self,
        client: ClientId,
        request: Request<&[u8]>,
        index: u32,
        seed: u64,
        out: &mut Executed,
    ) {
        let Request { session, number, operation, .. } = request;
        match self.table.check(client, session, number) {
            Verdict::Execute => {
                let context = Context { seq: self.executed, index, time: self.time, seed, client, session };
                let result = self.service.begin(&context, operation);
                // These first: should this request push one of them out of its session, its reply would be lost.
                for (waiter, result) in self.service.answers() {
                    if let Some((client, number)) = self.table.answer(&waiter, self.executed, result.clone())
                    {
                        self.done(client, waiter.session, number, result, out);
                    }
                }
                progress(out, session, number);
                match result {
                    Some(result) => {
                        self.table.store(session, number, self.executed, result.clone());
                        self.done(client, session, number, result, out);
                    }
                    None => self.table.wait(session, number, self.executed, index),
                }
                self.withdraw();
            }
            Verdict::Duplicate(_) => out.replies.extend(self.resend(client, session, number)),
            Verdict::Expired => {
                // Another key's session is nobody's business: its process is not looked up.
                let reply = reply(session, number, ReplyStatus::Expired, Bytes::new());
                out.replies.push(Outgoing { client, process: 0, reply, digest: None });
            }
            Verdict::Gap | Verdict::Waits => {}
        }
    }

    /// The request has its reply.
    fn done(
        &mut self,
        client: ClientId,
        session: SessionId,
        number: RequestNumber,
        result: Bytes,
        out: &mut Executed,
    ) {
        let reply = reply(session, number, ReplyStatus::Done, result);
        let long = reply.body.len() > WHOLE_BYTES_MAX;
        let digest = long.then(|| result_digest(&self.hasher, &reply.body));
        self.note(&reply, digest);
        // What the table does not keep cannot be asked for again: everybody sends it whole at once.
        let digest = digest.filter(|_| self.table.keeps(reply.body.len()));
        out.replies.push(Outgoing { client, process: self.process(session), reply, digest });
    }

    /// Ends what waits and cannot be answered any more.
    fn withdraw(&mut self) {
        for waiter in self.table.take_abandoned() {
            self.service.withdraw(&waiter);
        }
    }

    /// Adds an executed request to the chain's next link.
    fn note(&mut self, reply: &Reply, digest: Option<Digest>) {
        let link = &mut self.link;
        link.extend_from_slice(&reply.session.0.to_le_bytes());
        link.extend_from_slice(&reply.number.0.to_le_bytes());
        link.push(reply.status as u8);
        link.extend_from_slice(&(reply.body.len() as u64).to_le_bytes());
        match digest {
            Some(digest) => link.extend_from_slice(&digest.0),
            None => link.extend_from_slice(&reply.body),
        }
    }

    /// What a repeated request is answered, as the table stands: its kept reply, or `TooOld`; for an OPEN (session 0, its
    /// nonce as number) the session. `None`: it has to be ordered to be answered, or waits.
    ///
    /// `Expired` only of a session whose OPEN was executed here if there was one: a wrong `Expired` is a vote. An id is at
    /// least its OPEN's place shifted by 20 bits ([`ClientTable::open`]), so one whose upper bits are not above the place
    /// executed last belongs to an OPEN executed here, or to none, now and for ever: if it is not open, it was evicted.
    pub fn resend(&self, client: ClientId, session: SessionId, number: RequestNumber) -> Option<Outgoing> {
        if session == SessionId(0) {
            let session = self.table.opened(client, number.0)?;
            let reply = opened(number.0, session);
            return Some(Outgoing { client, process: process_of(number.0), reply, digest: None });
        }
        let (status, result) = match self.table.check(client, session, number) {
            Verdict::Expired if session.0 >> PLACE_BITS <= self.executed.0 => {
                (ReplyStatus::Expired, Bytes::new())
            }
            Verdict::Execute | Verdict::Gap | Verdict::Waits | Verdict::Expired => return None,
            Verdict::Duplicate(Some(kept)) => (ReplyStatus::Done, kept.result.clone()),
            Verdict::Duplicate(None) => (ReplyStatus::TooOld, Bytes::new()),
        };
        let reply = reply(session, number, status, result);
        Some(Outgoing { client, process: self.process(session), reply, digest: None })
    }

    /// As [`Executor::resend`] for a request that `order` knows as executed: of an evicted session it says `TooOld`. A client
    /// that sent a request once would take `Expired` for "never executed".
    pub fn resend_executed(
        &self,
        client: ClientId,
        session: SessionId,
        number: RequestNumber,
    ) -> Option<Outgoing> {
        let mut out = self.resend(client, session, number)?;
        if out.reply.status == ReplyStatus::Expired {
            out.reply.status = ReplyStatus::TooOld;
        }
        Some(out)
    }

    /// Answers a read from the present state, outside the order.
    pub fn query(&self, operation: &[u8]) -> QueryReply {
        self.service.query(operation)
    }

    /// The last batch executed.
    pub fn executed(&self) -> Seq {
        self.executed
    }

    /// The agreed time of the last batch.
    pub fn time(&self) -> WallTime {
        self.time
    }

    /// The chain over all replies up to [`Executor::executed`].
    pub fn reply_chain(&self) -> Digest {
        self.reply_chain
    }

    /// Whether this session is open and the client's.
    pub fn is_open(&self, client: ClientId, session: SessionId) -> bool {
        !matches!(self.table.check(client, session, RequestNumber(u64::MAX)), Verdict::Expired)
    }

    /// The highest number executed of a session; `None` if it is not open.
    pub fn last_executed(&self, session: SessionId) -> Option<RequestNumber> {
        self.table.last_executed(session)
    }

    /// Every open session with its last executed request.
    pub fn progress(&self) -> impl Iterator<Item = (SessionId, RequestNumber)> {
        self.table.progress()
    }

    /// The digest of everything replicated: position, time, reply chain, client table, service state.
    pub fn digest(&self) -> Digest {
        let algorithm = self.hasher.algorithm;
        self.hasher.hash(&[
            b"duramen state 1 ",
            &self.executed.0.to_le_bytes(),
            &self.time.0.to_le_bytes(),
            &self.reply_chain.0,
            &self.table.digest(algorithm).0,
            &self.service.digest(algorithm).0,
        ])
    }

    /// The service, to look at.
    pub fn service(&self) -> &dyn Service {
        &*self.service
    }

    fn process(&self, session: SessionId) -> u64 {
        self.table.nonce(session).map_or(0, process_of)
    }
}

fn reply(session: SessionId, number: RequestNumber, status: ReplyStatus, body: Bytes) -> Reply {
    Reply { session, number, status, digest_only: false, body }
}

fn opened(nonce: u64, session: SessionId) -> Reply {
    let id = Bytes::copy_from_slice(&session.0.to_le_bytes());
    reply(SessionId(0), RequestNumber(nonce), ReplyStatus::Done, id)
}

/// Requests of a session mostly stand together: one entry for a run of them.
fn progress(out: &mut Executed, session: SessionId, number: RequestNumber) {
    match out.progress.last_mut() {
        Some((last, highest)) if *last == session => *highest = number,
        _ => out.progress.push((session, number)),
    }
}

/// The request's own randomness: SplitMix64 of the batch's seed at its index.
fn request_seed(seed: u64, index: u32) -> u64 {
    let mut z = seed.wrapping_add((u64::from(index) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
