//! The table of client sessions: what makes each request execute once (RULES 16).
//!
//! It is replicated state, a function of the executed operations alone, so that all replicas give the same verdict on a request.
//! ```text
//! OPEN(client, nonce)  ─→ session, id derived from the OPEN's place in the order, never reused
//! request (session, n) ─→ n = last + 1 executes; n ≤ last gets its kept reply; n > last + 1 does not execute
//! ```
//! A request may wait for later ones ([`Service::begin`](crate::service::Service::begin)): it has executed, and its reply comes when it
//! comes. A session with such a request is not evicted while its key has others. One that waits is abandoned when its session is evicted
//! all the same, or when as many later requests of its session have executed as replies are kept.
//!
//! An evicted session's requests are `Expired` for ever: its id is gone, so its request 1 cannot execute a second time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::order::mutants::{Mutant, broken};
use crate::service::{CanonicalReader, DigestWriter, RestoreError, Snapshot, Waiter};
use crate::types::{ClientId, Digest, DigestAlgorithm, RequestNumber, Seq, SessionId};

/// What the table may keep. The same on all replicas: the bounds decide on what is evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientTableLimits {
    /// Open sessions of one client key (at least 1); one more evicts the least recently used.
    pub sessions_per_client_max: usize,
    /// Kept replies of one session: the last so many.
    pub replies_max: usize,
    /// Bytes of the kept replies of one session together.
    pub replies_bytes_max: usize,
    /// A longer reply is not kept, bytes.
    pub reply_bytes_max: usize,
    /// Bytes of the kept replies of one client key together.
    pub client_replies_bytes_max: usize,
}

impl Default for ClientTableLimits {
    fn default() -> Self {
        Self {
            sessions_per_client_max: 256,
            replies_max: 256,
            replies_bytes_max: 4 << 20,
            reply_bytes_max: 64 << 10,
            client_replies_bytes_max: 64 << 20,
        }
    }
}

/// A session id without its lowest bits is the place of its OPEN's batch, or a later one.
pub(super) const PLACE_BITS: u32 = 20;

/// What to do with an ordered request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict<'a> {
    /// It is next: execute it, then [`ClientTable::store`] its reply.
    Execute,
    /// It was executed before. `None`: its reply was too long or is too old to be kept.
    Duplicate(Option<&'a StoredReply>),
    /// It was executed before, and waits for its reply.
    Waits,
    /// Its predecessor has not been executed: it is not either.
    Gap,
    /// No such session, or the session of another key.
    Expired,
}

/// A reply kept for a retransmitted request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredReply {
    /// The batch that the request was executed in.
    pub seq: Seq,
    /// What the service replied.
    pub result: Bytes,
}

/// All sessions. Cloning copies pointers only; a session is copied when it changes after that.
#[derive(Clone, Default, Debug)]
pub struct ClientTable {
    limits: ClientTableLimits,
    /// The last id given.
    last_id: u64,
    sessions: BTreeMap<SessionId, Arc<Session>>,
    /// The same sessions by what their OPEN said.
    opened: BTreeMap<(ClientId, u64), SessionId>,
    /// What each key with a session holds; follows from `sessions`.
    holdings: HashMap<ClientId, Holdings>,
    /// Requests that waited and are no longer known, since [`ClientTable::take_abandoned`].
    abandoned: Vec<Waiter>,
}

/// The sessions of one key, by when they were used: to find the least recently used without a look at all.
///
/// A request does not touch the sets: they hold when a session was *found* used last, which may be too early. Who takes the
/// first puts it back if it was used since, so the first that was not is the least recently used.
#[derive(Clone, Default, Debug)]
struct Holdings {
    sessions: BTreeSet<(Seq, SessionId)>,
    /// Those with kept replies.
    with_replies: BTreeSet<(Seq, SessionId)>,
    /// Of the kept replies.
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Session {
    client: ClientId,
    nonce: u64,
    /// Of the last executed request, or of the OPEN.
    used: Seq,
    last: RequestNumber,
    /// Of the requests up to `last`, without gaps.
    replies: VecDeque<Kept>,
    /// Of the results in `replies`.
    bytes: usize,
    /// Requests among them that wait.
    waits: usize,
    /// Stands in [`Holdings::with_replies`].
    listed: bool,
}

/// What is kept of an executed request.
#[derive(Clone, Debug)]
enum Kept {
    Reply(StoredReply),
    /// Its reply was too long.
    Nothing,
    /// It has none yet. Where it stands in the order.
    Waits(Seq, u32),
}

impl ClientTable {
    /// No sessions.
    pub fn new(limits: ClientTableLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What it is bounded by.
    pub fn limits(&self) -> ClientTableLimits {
        self.limits
    }

    /// Number of open sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Executes the OPEN that stands at `index` in batch `seq`: the session that this client's `nonce` has open already (a
    /// retransmitted OPEN opens once), else a new one.
    ///
    /// Above the key's quota it takes the place of the key's session with the lowest (batch last executed in, id), of those without
    /// requests that wait if there are any.
    pub fn open(&mut self, client: ClientId, nonce: u64, seq: Seq, index: u32) -> SessionId {
        if let Some(&open) = self.opened.get(&(client, nonce)) {
            return open;
        }
        self.make_room(client);
        // The second term counts only should a batch have 2^20 operations.
        let id = ((seq.0 << PLACE_BITS) | (u64::from(index) + 1)).max(self.last_id + 1);
        self.last_id = id;
        self.insert(
            SessionId(id),
            Session {
                client,
                nonce,
                used: seq,
                last: RequestNumber(0),
                replies: VecDeque::new(),
                bytes: 0,
                waits: 0,
                listed: false,
            },
        );
        SessionId(id)
    }

    /// What to do with request `number` of `session`, authenticated as `client`'s.
    pub fn check(&self, client: ClientId, session: SessionId, number: RequestNumber) -> Verdict<'_> {
        let Some(session) = self.sessions.get(&session).filter(|session| session.client == client) else {
            return Verdict::Expired;
        };
        if number > session.last {
            let next = number == session.last.next() || broken(Mutant::ExecutesPastGaps);
            return if next { Verdict::Execute } else { Verdict::Gap };
        }
        if broken(Mutant::ExecutesTwice) {
            return Verdict::Execute;
        }
        // From the newest backwards.
        let back = usize::try_from(session.last.0 - number.0).unwrap_or(usize::MAX);
        let place = session.replies.len().checked_sub(1).and_then(|newest| newest.checked_sub(back));
        match place.map(|place| &session.replies[place]) {
            Some(Kept::Reply(reply)) => Verdict::Duplicate(Some(reply)),
            Some(Kept::Waits(..)) => Verdict::Waits,
            Some(Kept::Nothing) | None => Verdict::Duplicate(None),
        }
    }

    /// Notes that request `number`, found to [`Verdict::Execute`], was executed in batch `seq` with this reply.
    ///
    /// # Panics
    /// If the session is not open or the request is not its next.
    pub fn store(&mut self, session: SessionId, number: RequestNumber, seq: Seq, reply: Bytes) {
        let kept = self.kept(seq, reply);
        self.add(session, number, seq, kept);
    }

    /// As [`ClientTable::store`] of a request that waits; it stands at `index` in the batch.
    ///
    /// # Panics
    /// As [`ClientTable::store`].
    pub fn wait(&mut self, session: SessionId, number: RequestNumber, seq: Seq, index: u32) {
        self.add(session, number, seq, Kept::Waits(seq, index));
    }

    /// Notes the reply that batch `seq` brought to a request that waited: whose it is, and its number. `None`: no such request waits.
    pub fn answer(&mut self, waiter: &Waiter, seq: Seq, reply: Bytes) -> Option<(ClientId, RequestNumber)> {
        let kept = self.kept(seq, reply);
        let found = self.sessions.get(&waiter.session)?.place_of(waiter)?;
        let session = Arc::make_mut(self.sessions.get_mut(&waiter.session).expect("just seen"));
        let number = RequestNumber(session.last.0 - (session.replies.len() - 1 - found) as u64);
        session.waits -= 1;
        session.used = seq;
        let before = session.bytes;
        session.bytes += kept.bytes();
        session.replies[found] = kept;
        let client = session.client;
        if Self::bound(session, waiter.session, seq, before, &self.limits, &mut self.holdings) {
            self.drop_replies(client);
        }
        Some((client, number))
    }

    /// The requests that waited and nobody can be told of any more, since the last call, in the order in which that came about.
    pub fn take_abandoned(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.abandoned)
    }

    fn kept(&self, seq: Seq, reply: Bytes) -> Kept {
        match reply.len() <= self.limits.reply_bytes_max {
            true => Kept::Reply(StoredReply { seq, result: reply }),
            false => Kept::Nothing,
        }
    }

    fn add(&mut self, id: SessionId, number: RequestNumber, seq: Seq, kept: Kept) {
        let session = Arc::make_mut(self.sessions.get_mut(&id).expect("a request of an open session"));
        let in_order = number == session.last.next();
        let may = broken(Mutant::ExecutesTwice) || broken(Mutant::ExecutesPastGaps);
        assert!(in_order || may, "requests of a session execute in number order");
        session.last = session.last.max(number);
        session.used = seq;
        let before = session.bytes;
        session.keep(kept);
        while session.replies.len() > self.limits.replies_max {
            let dropped = session.drop_oldest();
            self.abandoned.extend(dropped.map(|(seq, index)| Waiter { session: id, seq, index }));
        }
        let client = session.client;
        if Self::bound(session, id, seq, before, &self.limits, &mut self.holdings) {
            self.drop_replies(client);
        }
    }

    /// Drops replies above the session's bound, after one was added in batch `seq` to a session that had so many bytes of them before.
    /// Whether its key has more than it may.
    fn bound(
        session: &mut Session,
        id: SessionId,
        seq: Seq,
        before: usize,
        limits: &ClientTableLimits,
        holdings: &mut HashMap<ClientId, Holdings>,
    ) -> bool {
        while session.bytes > limits.replies_bytes_max {
            session.drop_reply();
        }
        let holdings = holdings.get_mut(&session.client).expect("a key with a session");
        holdings.bytes = holdings.bytes + session.bytes - before;
        if session.bytes > 0 && !session.listed {
            session.listed = true;
            holdings.with_replies.insert((seq, id));
        }
        holdings.bytes > limits.client_replies_bytes_max
    }

    /// The number of the session's last executed request, 0 before the first; `None` if it is not open.
    pub fn last_executed(&self, session: SessionId) -> Option<RequestNumber> {
        self.sessions.get(&session).map(|session| session.last)
    }

    /// Every open session with its last executed request.
    pub fn progress(&self) -> impl Iterator<Item = (SessionId, RequestNumber)> {
        self.sessions.iter().map(|(id, session)| (*id, session.last))
    }

    /// The nonce that opened a session: it names the process that its replies go to.
    pub fn nonce(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(&session).map(|session| session.nonce)
    }

    /// The session that this OPEN opened, while it is open.
    pub fn opened(&self, client: ClientId, nonce: u64) -> Option<SessionId> {
        self.opened.get(&(client, nonce)).copied()
    }

    /// Whether a reply of this length is kept for retransmissions, at least until newer ones push it out.
    pub fn keeps(&self, reply_bytes: usize) -> bool {
        let limits = &self.limits;
        reply_bytes
            <= limits.reply_bytes_max.min(limits.replies_bytes_max).min(limits.client_replies_bytes_max)
    }

    /// The digest of the canonical bytes.
    pub fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        let mut writer = DigestWriter::new(algorithm);
        self.write_to(&mut writer).expect("hashing does no I/O");
        writer.finish()
    }

    /// Replaces the sessions by those that [`Snapshot::write_to`] wrote; `input` ends where they end. On error nothing is changed.
    pub fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        *self = self.read(&mut CanonicalReader::new(input))?;
        Ok(())
    }

    /// Evicts sessions of `client` until one more is within its quota.
    fn make_room(&mut self, client: ClientId) {
        let Some(holdings) = self.holdings.get_mut(&client) else { return };
        let mut passed_over = Vec::new();
        while holdings.sessions.len() + passed_over.len() >= self.limits.sessions_per_client_max {
            let (found, id) = match holdings.sessions.pop_first() {
                Some(first) => {
                    let session = &self.sessions[&first.1];
                    if session.used > first.0 {
                        holdings.sessions.insert((session.used, first.1));
                        continue;
                    }
                    if session.waits > 0 {
                        passed_over.push(first);
                        continue;
                    }
                    first
                }
                // All of them wait.
                None if !passed_over.is_empty() => passed_over.remove(0),
                None => return,
            };
            let session = &self.sessions[&id];
            self.abandoned.extend(session.waiters(id));
            holdings.bytes -= session.bytes;
            self.opened.remove(&(client, session.nonce));
            // Its entry among those with replies goes when it comes to the front, or here if it is in its place.
            holdings.with_replies.remove(&(found, id));
            self.sessions.remove(&id);
        }
        holdings.sessions.extend(passed_over);
        // Entries of evicted sessions that were used after they were listed must not add up.
        if holdings.with_replies.len() > 2 * holdings.sessions.len() {
            holdings.with_replies.retain(|(_, id)| self.sessions.contains_key(id));
        }
    }

    /// Drops the oldest kept replies of the key's least recently used sessions until the rest is within its bound.
    fn drop_replies(&mut self, client: ClientId) {
        let Some(holdings) = self.holdings.get_mut(&client) else { return };
        while holdings.bytes > self.limits.client_replies_bytes_max {
            let Some((found, id)) = holdings.with_replies.pop_first() else { return };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            if session.used > found && session.bytes > 0 {
                holdings.with_replies.insert((session.used, id));
                continue;
            }
            let session = Arc::make_mut(session);
            let before = session.bytes;
            while session.bytes > 0
                && holdings.bytes + session.bytes - before > self.limits.client_replies_bytes_max
            {
                session.drop_reply();
            }
            holdings.bytes = holdings.bytes + session.bytes - before;
            session.listed = session.bytes > 0;
            if session.listed {
                holdings.with_replies.insert((found, id));
            }
        }
    }

    fn insert(&mut self, id: SessionId, mut session: Session) {
        let holdings = self.holdings.entry(session.client).or_default();
        holdings.sessions.insert((session.used, id));
        session.listed = session.bytes > 0;
        if session.listed {
            holdings.with_replies.insert((session.used, id));
            holdings.bytes += session.bytes;
        }
        self.opened.insert((session.client, session.nonce), id);
        self.sessions.insert(id, Arc::new(session));
    }

    fn read(&self, input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        input.magic(MAGIC, "not a client table of this format")?;
        let mut table = Self::new(self.limits);
        table.last_id = input.u64("header")?;
        input.ensure(table.last_id < u64::MAX, "no session id is left")?;
        let sessions = input.u64("header")?;
        let mut previous = SessionId(0);
        for _ in 0..sessions {
            let (id, session) = read_session(input)?;
            input.ensure(id > previous, "session ids do not ascend")?;
            input.ensure(id.0 <= table.last_id, "a session id that was not given yet")?;
            let opened = (session.client, session.nonce);
            input.ensure(!table.opened.contains_key(&opened), "a nonce opened two sessions")?;
            table.insert(id, session);
            previous = id;
        }
        input.end()?;
        Ok(table)
    }
}

impl Kept {
    /// Of the result.
    fn bytes(&self) -> usize {
        match self {
            Kept::Reply(reply) => reply.result.len(),
            Kept::Nothing | Kept::Waits(..) => 0,
        }
    }
}

impl Session {
    /// Adds what is kept of the newest request.
    fn keep(&mut self, kept: Kept) {
        self.bytes += kept.bytes();
        self.waits += usize::from(matches!(kept, Kept::Waits(..)));
        self.replies.push_back(kept);
    }

    /// Forgets the oldest request; where it stands in the order if it waits.
    fn drop_oldest(&mut self) -> Option<(Seq, u32)> {
        let dropped = self.replies.pop_front()?;
        self.bytes -= dropped.bytes();
        let Kept::Waits(seq, index) = dropped else { return None };
        self.waits -= 1;
        Some((seq, index))
    }

    /// Drops the reply that was given first, if there is one: that of a request that waited is younger than its place. Requests that
    /// wait stay.
    fn drop_reply(&mut self) {
        let given = |(i, kept): (usize, &Kept)| match kept {
            Kept::Reply(reply) => Some((reply.seq, i)),
            Kept::Nothing | Kept::Waits(..) => None,
        };
        let Some((_, first)) = self.replies.iter().enumerate().filter_map(given).min() else { return };
        if self.replies.range(..first).all(|kept| matches!(kept, Kept::Nothing)) {
            (0..=first).for_each(|_| _ = self.drop_oldest());
        } else {
            self.bytes -= self.replies[first].bytes();
            self.replies[first] = Kept::Nothing;
        }
    }

    /// Those of its requests that wait, oldest first.
    fn waiters(&self, id: SessionId) -> impl Iterator<Item = Waiter> {
        self.replies.iter().filter_map(move |kept| match kept {
            Kept::Waits(seq, index) => Some(Waiter { session: id, seq: *seq, index: *index }),
            _ => None,
        })
    }

    fn place_of(&self, waiter: &Waiter) -> Option<usize> {
        let is = |kept: &Kept| matches!(kept, Kept::Waits(seq, index) if (*seq, *index) == (waiter.seq, waiter.index));
        self.replies.iter().position(is)
    }

    fn canonical_bytes(&self) -> u64 {
        let kept = self.replies.iter().filter(|kept| matches!(kept, Kept::Reply(_))).count();
        (SESSION_BYTES + self.replies.len() * 4 + kept * 8 + self.bytes + self.waits * 12) as u64
    }
}

/// Starts the canonical bytes; the last byte is the format's version. Then: last id given `u64`, number of sessions `u64`, sessions.
const MAGIC: [u8; 8] = *b"dura-ct\x01";
/// A session: id `u64`, client `u32`, nonce, batch used, last number `u64`, number of replies `u32`; then the replies, oldest first:
/// [`NOT_KEPT`]; or [`WAITS`], seq `u64`, index `u32`; or length `u32`, seq `u64` and bytes.
const SESSION_BYTES: usize = 40;
/// In place of the length of a reply that was too long to keep.
const NOT_KEPT: u32 = u32::MAX;
/// In place of the length of a reply that is to come.
const WAITS: u32 = u32::MAX - 1;

impl Snapshot for ClientTable {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&MAGIC)?;
        out.write_all(&self.last_id.to_le_bytes())?;
        out.write_all(&(self.sessions.len() as u64).to_le_bytes())?;
        self.sessions.iter().try_for_each(|(id, session)| write_session(out, *id, session))
    }

    fn bytes(&self) -> u64 {
        24 + self.sessions.values().map(|session| session.canonical_bytes()).sum::<u64>()
    }
}

fn write_session(out: &mut dyn Write, id: SessionId, session: &Session) -> io::Result<()> {
    out.write_all(&id.0.to_le_bytes())?;
    out.write_all(&session.client.0.to_le_bytes())?;
    for number in [session.nonce, session.used.0, session.last.0] {
        out.write_all(&number.to_le_bytes())?;
    }
    out.write_all(&(session.replies.len() as u32).to_le_bytes())?;
    for reply in &session.replies {
        match reply {
            Kept::Nothing => out.write_all(&NOT_KEPT.to_le_bytes())?,
            Kept::Waits(seq, index) => {
                out.write_all(&WAITS.to_le_bytes())?;
                out.write_all(&seq.0.to_le_bytes())?;
                out.write_all(&index.to_le_bytes())?;
            }
            Kept::Reply(StoredReply { seq, result }) => {
                out.write_all(&(result.len() as u32).to_le_bytes())?;
                out.write_all(&seq.0.to_le_bytes())?;
                out.write_all(result)?;
            }
        }
    }
    Ok(())
}

fn read_session(input: &mut CanonicalReader<'_>) -> Result<(SessionId, Session), RestoreError> {
    let id = SessionId(input.u64("session")?);
    let mut session = Session {
        client: ClientId(input.u32("session")?),
        nonce: input.u64("session")?,
        used: Seq(input.u64("session")?),
        last: RequestNumber(input.u64("session")?),
        replies: VecDeque::new(),
        bytes: 0,
        waits: 0,
        listed: false,
    };
    let replies = input.u32("session")?;
    input.ensure(session.last.0 < u64::MAX, "no request number is left")?;
    input.ensure(u64::from(replies) <= session.last.0, "more replies than requests")?;
    for _ in 0..replies {
        let length = input.u32("reply")?;
        if length == NOT_KEPT {
            session.keep(Kept::Nothing);
            continue;
        }
        let seq = Seq(input.u64("reply")?);
        if length == WAITS {
            session.keep(Kept::Waits(seq, input.u32("reply")?));
            continue;
        }
        let mut result = Vec::new();
        input.append(&mut result, length as usize, "reply")?;
        session.keep(Kept::Reply(StoredReply { seq, result: result.into() }));
    }
    Ok((id, session))
}
