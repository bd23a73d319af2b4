//! The table of client sessions: what makes each request execute once (RULES 16).
//!
//! It is replicated state, a function of the executed operations alone, so that all replicas give the same verdict on a request.
//! ```text
//! OPEN(client, nonce)  ─→ session, id derived from the OPEN's place in the order, never reused
//! request (session, n) ─→ n = last + 1 executes; n ≤ last gets its kept reply; n > last + 1 does not execute
//! ```
//! An evicted session's requests are `Expired` for ever: its id is gone, so its request 1 cannot execute a second time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::order::mutants::{Mutant, broken};
use crate::service::{CanonicalReader, DigestWriter, RestoreError, Snapshot};
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
    /// Replies to the requests up to `last`, without gaps; `None`: too long to keep.
    replies: VecDeque<Option<StoredReply>>,
    /// Of the results in `replies`.
    bytes: usize,
    /// Stands in [`Holdings::with_replies`].
    listed: bool,
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
    /// Above the key's quota it takes the place of the key's session with the lowest (batch last executed in, id).
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
        Verdict::Duplicate(place.and_then(|place| session.replies[place].as_ref()))
    }

    /// Notes that request `number`, found to [`Verdict::Execute`], was executed in batch `seq` with this reply.
    ///
    /// # Panics
    /// If the session is not open or the request is not its next.
    pub fn store(&mut self, session: SessionId, number: RequestNumber, seq: Seq, reply: Bytes) {
        let id = session;
        let session = Arc::make_mut(self.sessions.get_mut(&id).expect("a request of an open session"));
        let in_order = number == session.last.next();
        let may = broken(Mutant::ExecutesTwice) || broken(Mutant::ExecutesPastGaps);
        assert!(in_order || may, "requests of a session execute in number order");
        session.last = session.last.max(number);
        session.used = seq;
        let before = session.bytes;
        session
            .keep((reply.len() <= self.limits.reply_bytes_max).then_some(StoredReply { seq, result: reply }));
        while session.replies.len() > self.limits.replies_max || session.bytes > self.limits.replies_bytes_max
        {
            session.drop_oldest();
        }
        let client = session.client;
        let holdings = self.holdings.get_mut(&client).expect("a key with a session");
        holdings.bytes = holdings.bytes + session.bytes - before;
        if session.bytes > 0 && !session.listed {
            session.listed = true;
            holdings.with_replies.insert((seq, id));
        }
        if holdings.bytes > self.limits.client_replies_bytes_max {
            self.drop_replies(client);
        }
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
        while holdings.sessions.len() >= self.limits.sessions_per_client_max {
            let Some((found, id)) = holdings.sessions.pop_first() else { return };
            let session = &self.sessions[&id];
            if session.used > found {
                holdings.sessions.insert((session.used, id));
                continue;
            }
            holdings.bytes -= session.bytes;
            self.opened.remove(&(client, session.nonce));
            // Its entry among those with replies goes when it comes to the front, or here if it is in its place.
            holdings.with_replies.remove(&(found, id));
            self.sessions.remove(&id);
        }
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
                session.drop_oldest();
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
        let magic: [u8; 8] = input.array("header")?;
        input.ensure(magic == MAGIC, "not a client table of this format")?;
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

impl Session {
    /// Adds the reply to the newest request.
    fn keep(&mut self, reply: Option<StoredReply>) {
        self.bytes += reply.as_ref().map_or(0, |reply| reply.result.len());
        self.replies.push_back(reply);
    }

    fn drop_oldest(&mut self) {
        if let Some(Some(dropped)) = self.replies.pop_front() {
            self.bytes -= dropped.result.len();
        }
    }

    fn canonical_bytes(&self) -> u64 {
        let kept = self.replies.iter().flatten().count();
        (SESSION_BYTES + self.replies.len() * 4 + kept * 8 + self.bytes) as u64
    }
}

/// Starts the canonical bytes; the last byte is the format's version. Then: last id given `u64`, number of sessions `u64`, sessions.
const MAGIC: [u8; 8] = *b"dura-ct\x01";
/// A session: id `u64`, client `u32`, nonce, batch used, last number `u64`, number of replies `u32`; then the replies, oldest first:
/// length `u32`, [`NOT_KEPT`] or seq `u64` and bytes.
const SESSION_BYTES: usize = 40;
/// In place of the length of a reply that was too long to keep.
const NOT_KEPT: u32 = u32::MAX;

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
            None => out.write_all(&NOT_KEPT.to_le_bytes())?,
            Some(StoredReply { seq, result }) => {
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
        listed: false,
    };
    let replies = input.u32("session")?;
    input.ensure(session.last.0 < u64::MAX, "no request number is left")?;
    input.ensure(u64::from(replies) <= session.last.0, "more replies than requests")?;
    for _ in 0..replies {
        let length = input.u32("reply")?;
        if length == NOT_KEPT {
            session.keep(None);
            continue;
        }
        let seq = Seq(input.u64("reply")?);
        let mut result = Vec::new();
        input.append(&mut result, length as usize, "reply")?;
        session.keep(Some(StoredReply { seq, result: result.into() }));
    }
    Ok((id, session))
}
