//! One struct per message. Kind numbers are never reused; every encoding is the only one of its message.
//!
//! | message | from → to | meaning |
//! |---|---|---|
//! | [`Propose`] | leader → all | this batch for this place in this view |
//! | [`Vote`] as WRITE | all → all (Byzantine) | I saw this proposal first; signed |
//! | [`Vote`] as ACCEPT | all → all | batch (and WRITE certificate) are durable here; signed in Byzantine mode |
//! | [`Stop`] | all → all | I wish for this view (RULES 11) |
//! | [`StopData`] | all → all | what my log holds at the moment I entered this view; signed |
//! | [`Sync`] | leader → all | a quorum of STOP-DATA: everybody computes the same choice from it |
//! | [`Mark`] | all → all | batch and reply histories up to here; signed |
//! | [`Status`] | all → all, every heartbeat | where I am and which view I wish for |
//! | [`Fetch`] | laggard → one | send what you have for these places |
//! | [`Decided`] | answer | a decided batch with its ACCEPT certificate |
//! | [`FetchBatch`], [`BatchIs`] | laggard → one, answer | a batch by digest |
//! | [`Chain`] | answer | digest lists up to a certified mark |
//! | [`ReadCheck`], [`ReadOk`] | leader → all, answer (crash) | am I still the leader? (RULES 9) |
//! | [`Rejoin`], [`RejoinMark`] | learner → all, answer | my log was lost: what is your mark? (RULES 7) |
//! | [`MacFailed`] | all → all | this client's MAC vector failed here: take its signatures only (RULES 12) |
//! | group | client → replica, replica → leader | requests |
//! | [`Replies`] | replica → client | results or their digests |
//! | [`Read`], [`ReadReply`] | client → replica, answer | unordered read |
//! | [`Notice`] | replica → client | why a request was not taken; the current view |
//! | [`Attach`] | client → replica | where this process's replies go |
//! | [`StatusQuery`], [`StatusAnswer`] | anybody known → replica, answer | `duramen status` |

use super::codec::{Reader, Writer};
use super::error::DecodeError;
use crate::types::*;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// An Ed25519 signature; all zero in crash mode, where nobody looks at it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Signature {
    /// Crash mode's.
    pub const NONE: Signature = Signature([0; 64]);
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "σ{:02x}{:02x}", self.0[0], self.0[1])
    }
}

/// What a vote says. Part of what is signed, so one cannot pass for the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum VoteKind {
    /// WRITE.
    Write = 1,
    /// ACCEPT.
    Accept = 2,
}

/// PROPOSE.
#[derive(Clone, Debug)]
pub struct Propose {
    /// The leader's view.
    pub view: View,
    /// The place.
    pub seq: Seq,
    /// The encoded batch.
    pub batch: Bytes,
}

/// WRITE or ACCEPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// In which view.
    pub view: View,
    /// For which place.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Over kind, view, seq and digest.
    pub signature: Signature,
}

/// A quorum of votes of one kind for one batch: proof to anybody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// In which view.
    pub view: View,
    /// For which place.
    pub seq: Seq,
    /// For which batch.
    pub digest: Digest,
    /// Distinct voters, ascending. Empty in crash mode, where nobody lies.
    pub signatures: Vec<(ReplicaId, Signature)>,
}

/// What a mark states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MarkStatement {
    /// Up to and with this place.
    pub seq: Seq,
    /// The chain of batch digests.
    pub batches: Digest,
    /// The chain of reply digests: execution is audited too.
    pub replies: Digest,
    /// The root of the executed state with its sessions, at the places where all replicas take it (RULES 4, 17). Elsewhere zero: such a
    /// mark comes as soon as its place is executed, and no hashing holds up the window.
    pub state: Digest,
}

/// MARK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// What it states.
    pub statement: MarkStatement,
    /// Over the statement.
    pub signature: Signature,
}

/// A quorum of equal marks. The genesis mark (seq 0) needs no signatures.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MarkCertificate {
    /// What they state.
    pub statement: MarkStatement,
    /// Distinct signers, ascending. Empty in crash mode and at genesis.
    pub signatures: Vec<(ReplicaId, Signature)>,
}

/// Names a state and proves it the group's: f+1 equal marks with its root, one of a correct replica among them, and a quorum's mark
/// that covers its place. Nobody who withholds his own mark keeps it from being proven, and what is decided up to the quorum's mark
/// is no less than that.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StateCertificate {
    /// What f+1 state of it.
    pub statement: MarkStatement,
    /// Distinct signers, ascending. Empty in crash mode, where one replica's word suffices.
    pub signatures: Vec<(ReplicaId, Signature)>,
    /// Of the batches that lead from there to the mark; none if it is of the same place.
    pub digests: Vec<Digest>,
    /// The quorum's.
    pub mark: Box<MarkCertificate>,
}

/// STOP: a wish (RULES 11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The view wished for.
    pub view: View,
}

/// What a STOP-DATA says of one place above its mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotReport {
    /// What the certificate consists of: WRITEs, or ACCEPTs, which prove that the place was decided.
    pub kind: VoteKind,
    /// The certificate of the highest view in the log (crash mode: the accepted proposal).
    pub certificate: Certificate,
}

/// STOP-DATA: a function of the log up to "view entered" (RULES 2).
#[derive(Clone, Debug)]
pub struct StopData {
    /// The view entered.
    pub view: View,
    /// Whose log.
    pub sender: ReplicaId,
    /// The durable mark of that log.
    pub mark: MarkCertificate,
    /// Places above the mark that hold a certificate, ascending; all others are `none` unless unknown.
    pub slots: Vec<SlotReport>,
    /// Places of which the log may have lost something, ascending (RULES 10, 14).
    pub unknown: Vec<Seq>,
    /// Over everything above.
    pub signature: Signature,
}

/// SYNC.
#[derive(Clone, Debug)]
pub struct Sync {
    /// The view it starts.
    pub view: View,
    /// A quorum of them, one per sender.
    pub stop_data: Vec<Arc<StopData>>,
}

/// What a replica does at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Votes in its view.
    Normal = 1,
    /// Between views, or restarted and not yet allowed to vote.
    Changing = 2,
    /// Log failed, divergent, or otherwise mute.
    Halted = 3,
    /// Its log was lost: it executes what others decide (view 0), or waits for the view after its own, and does not vote yet.
    Learning = 4,
}

/// The heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// The view entered.
    pub view: View,
    /// The view wished for; equal to `view` when content.
    pub wish: View,
    /// What it does.
    pub mode: Mode,
    /// Its durable mark.
    pub mark: Seq,
    /// All places up to here are decided.
    pub decided: Seq,
    /// The highest place it has seen proposed in `view`.
    pub highest: Seq,
    /// Places above this one it can still tell of; what lies below is to be had as a state only.
    pub base: Seq,
    /// The place of the newest state that a quorum of equal roots names and that it holds.
    pub rooted: Seq,
}

/// FETCH: what you have for `from..=to`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// The first place.
    pub from: Seq,
    /// The last.
    pub to: Seq,
}

/// DECIDED.
#[derive(Clone, Debug)]
pub struct Decided {
    /// ACCEPT votes.
    pub certificate: Certificate,
    /// The batch.
    pub batch: Bytes,
}

/// A batch wanted by digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchBatch {
    /// Its place.
    pub seq: Seq,
    /// Its digest.
    pub digest: Digest,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct BatchIs {
    /// Its place.
    pub seq: Seq,
    /// The batch.
    pub batch: Bytes,
}

/// Digest lists behind a certified mark.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The batch history chain before the first digest is at this place.
    pub from: Seq,
    /// The digests of places `from+1 ..= mark.seq`.
    pub digests: Vec<Digest>,
    /// The mark they lead to.
    pub mark: MarkCertificate,
}

/// The leader of crash mode asks whether it still leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadCheck {
    /// Its view.
    pub view: View,
    /// Which question.
    pub nonce: u64,
}

/// Yes: no higher view was entered here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOk {
    /// The view asked about.
    pub view: View,
    /// Which question.
    pub nonce: u64,
}

/// A replica whose log was lost asks what it has to reach before it votes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejoin {
    /// Which question.
    pub nonce: u64,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RejoinMark {
    /// Which question.
    pub nonce: u64,
    /// The highest certified mark that the sender has on its disk, or is writing there.
    pub mark: MarkCertificate,
}

/// A MAC vector's entry failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacFailed {
    /// Whose.
    pub client: ClientId,
}

/// How a request ended at a replica. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ReplyStatus {
    /// Executed; the body is the result.
    Done = 1,
    /// The session is unknown, evicted, or another key's: not executed.
    Expired = 2,
    /// Executed earlier, but its reply is no longer kept.
    TooOld = 3,
}

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The request's session (0 for OPEN).
    pub session: SessionId,
    /// Its number (the nonce for OPEN).
    pub number: RequestNumber,
    /// How it ended.
    pub status: ReplyStatus,
    /// Whether `body` is the digest of the result instead of the result.
    pub digest_only: bool,
    /// Result or 32-byte digest.
    pub body: Bytes,
}

/// Replies of one replica to one client process.
#[derive(Clone, Debug)]
pub struct Replies {
    /// The replica's view: who leads.
    pub view: View,
    /// Executed up to here.
    pub executed: Seq,
    /// The replies.
    pub replies: Vec<Reply>,
}

/// An unordered read.
#[derive(Clone, Debug)]
pub struct Read {
    /// The client's own number.
    pub id: u64,
    /// The replica that is to send the whole result.
    pub full_from: ReplicaId,
    /// The query.
    pub operation: Bytes,
}

/// How a read ended. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ReadStatus {
    /// Here it is.
    Done = 1,
    /// This replica answers ordered reads only, for now (RULES 9), or does not lead (crash mode).
    OrderedOnly = 2,
}

/// Its answer.
#[derive(Clone, Debug)]
pub struct ReadReply {
    /// The client's number.
    pub id: u64,
    /// The replica's view.
    pub view: View,
    /// How it ended.
    pub status: ReadStatus,
    /// Executed up to here.
    pub executed: Seq,
    /// The last write to what was read; [`Seq`] 0 when unknown.
    pub version: Seq,
    /// The result's digest.
    pub digest: Digest,
    /// The result, if this replica was to send it.
    pub result: Option<Bytes>,
}

/// Why a replica did not take what a client sent. Numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum NoticeCode {
    /// The log is at its bound or the disk is full: no new work.
    LogFull = 1,
    /// Too much of this client's waits already.
    Busy = 2,
    /// MACs of this key failed somewhere: sign.
    Sign = 3,
    /// The replica is halted.
    Halted = 4,
    /// The group was not acceptable (malformed, too large, authentication).
    Rejected = 5,
    /// Nothing wrong: this is the view (answers the first contact, and a group sent to a follower).
    View = 6,
}

/// A word to a client.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Which.
    pub code: NoticeCode,
    /// Who leads.
    pub view: View,
    /// The digest of the group meant, zero if none.
    pub group: Digest,
    /// For people.
    pub text: String,
}

/// Asks for the replica's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusQuery {
    /// Comes back in the answer.
    pub id: u64,
}

/// The state as JSON.
#[derive(Clone, Debug)]
pub struct StatusAnswer {
    /// From the query.
    pub id: u64,
    /// One JSON object.
    pub json: String,
}

/// The first word of a client process on each connection: where its replies go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attach {
    /// The upper 44 bits of the nonces under which this process opens sessions ([`process_of`]).
    pub process: u64,
}

/// Bits of an OPEN's nonce that number the sessions of one process.
pub const PROCESS_SESSION_BITS: u32 = 20;

/// The client process that drew an OPEN's `nonce`: random, so that processes of one key do not meet.
pub fn process_of(nonce: u64) -> u64 {
    nonce >> PROCESS_SESSION_BITS
}

/// Any message.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Message {
    Propose(Propose),
    Write(Vote),
    Accept(Vote),
    Stop(Stop),
    StopData(Arc<StopData>),
    Sync(Arc<Sync>),
    Mark(Mark),
    Status(Status),
    Fetch(Fetch),
    Decided(Decided),
    FetchBatch(FetchBatch),
    BatchIs(BatchIs),
    Chain(Chain),
    ReadCheck(ReadCheck),
    ReadOk(ReadOk),
    MacFailed(MacFailed),
    Rejoin(Rejoin),
    RejoinMark(RejoinMark),
    /// An encoded group, from its client or forwarded to the leader.
    Group(Bytes),
    Replies(Replies),
    Read(Read),
    ReadReply(ReadReply),
    Notice(Notice),
    StatusQuery(StatusQuery),
    StatusAnswer(StatusAnswer),
    Attach(Attach),
}

/// Most digests one [`Chain`] carries.
pub const CHAIN_DIGESTS_MAX: usize = 1 << 18;

impl Message {
    /// The kind number.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Propose(_) => 1,
            Self::Write(_) => 2,
            Self::Accept(_) => 3,
            Self::Stop(_) => 4,
            Self::StopData(_) => 5,
            Self::Sync(_) => 6,
            Self::Mark(_) => 7,
            Self::Status(_) => 8,
            Self::Fetch(_) => 9,
            Self::Decided(_) => 10,
            Self::FetchBatch(_) => 11,
            Self::BatchIs(_) => 12,
            Self::Chain(_) => 13,
            Self::ReadCheck(_) => 14,
            Self::ReadOk(_) => 15,
            Self::MacFailed(_) => 16,
            Self::Rejoin(_) => 17,
            Self::RejoinMark(_) => 18,
            Self::Group(_) => 32,
            Self::Replies(_) => 33,
            Self::Read(_) => 34,
            Self::ReadReply(_) => 35,
            Self::Notice(_) => 36,
            Self::StatusQuery(_) => 37,
            Self::StatusAnswer(_) => 38,
            Self::Attach(_) => 39,
        }
    }

    /// Encodes into a head and, where there is one, a large tail that is shared and not copied.
    pub fn encode(&self) -> (u16, Bytes, Option<Bytes>) {
        let mut w = Writer::default();
        let mut tail = None;
        match self {
            Self::Propose(m) => {
                w.u64(m.view.0).u64(m.seq.0);
                tail = Some(m.batch.clone());
            }
            Self::Write(m) | Self::Accept(m) => {
                w.u64(m.view.0).u64(m.seq.0).raw(&m.digest.0).raw(&m.signature.0);
            }
            Self::Stop(m) => {
                w.u64(m.view.0);
            }
            Self::StopData(m) => m.write(&mut w),
            Self::Sync(m) => {
                w.u64(m.view.0).count(m.stop_data.len());
                m.stop_data.iter().for_each(|d| d.write(&mut w));
            }
            Self::Mark(m) => {
                m.statement.write(&mut w);
                w.raw(&m.signature.0);
            }
            Self::Status(m) => {
                w.u64(m.view.0)
                    .u64(m.wish.0)
                    .u64(m.mark.0)
                    .u64(m.decided.0)
                    .u64(m.highest.0)
                    .u64(m.base.0)
                    .u64(m.rooted.0)
                    .u8(m.mode as u8);
            }
            Self::Fetch(m) => {
                w.u64(m.from.0).u64(m.to.0);
            }
            Self::Decided(m) => {
                m.certificate.write(&mut w);
                tail = Some(m.batch.clone());
            }
            Self::FetchBatch(m) => {
                w.u64(m.seq.0).raw(&m.digest.0);
            }
            Self::BatchIs(m) => {
                w.u64(m.seq.0);
                tail = Some(m.batch.clone());
            }
            Self::Chain(m) => {
                m.mark.write(&mut w);
                w.u64(m.from.0).count(m.digests.len());
                m.digests.iter().for_each(|d| {
                    w.raw(&d.0);
                });
            }
            Self::ReadCheck(ReadCheck { view, nonce }) | Self::ReadOk(ReadOk { view, nonce }) => {
                w.u64(view.0).u64(*nonce);
            }
            Self::MacFailed(m) => {
                w.u32(m.client.0);
            }
            Self::Rejoin(m) => {
                w.u64(m.nonce);
            }
            Self::RejoinMark(m) => {
                w.u64(m.nonce);
                m.mark.write(&mut w);
            }
            Self::Group(bytes) => tail = Some(bytes.clone()),
            Self::Replies(m) => {
                w.u64(m.view.0).u64(m.executed.0).count(m.replies.len());
                for r in &m.replies {
                    w.u64(r.session.0).u64(r.number.0).count(r.body.len());
                    w.u8(r.status as u8).u8(r.digest_only as u8).raw(&r.body);
                }
            }
            Self::Read(m) => {
                w.u64(m.id).u32(m.full_from.0).raw(&m.operation);
            }
            Self::ReadReply(m) => {
                w.u64(m.id).u64(m.view.0).u64(m.executed.0).u64(m.version.0).raw(&m.digest.0);
                w.u8(m.status as u8).u8(m.result.is_some() as u8);
                tail = m.result.clone();
            }
            Self::Notice(m) => {
                w.u64(m.view.0).raw(&m.group.0).u8(m.code as u8).raw(m.text.as_bytes());
            }
            Self::StatusQuery(m) => {
                w.u64(m.id);
            }
            Self::StatusAnswer(m) => {
                w.u64(m.id).raw(m.json.as_bytes());
            }
            Self::Attach(m) => {
                w.u64(m.process);
            }
        }
        (self.kind(), w.finish(), tail)
    }

    /// Decodes a frame's payload; large parts share its buffer.
    pub fn decode(kind: u16, payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let message = match kind {
            1 => Self::Propose(Propose { view: View(r.u64()?), seq: Seq(r.u64()?), batch: r.rest() }),
            2 => Self::Write(Vote::read(&mut r)?),
            3 => Self::Accept(Vote::read(&mut r)?),
            4 => Self::Stop(Stop { view: View(r.u64()?) }),
            5 => Self::StopData(Arc::new(StopData::read(&mut r)?)),
            6 => {
                let view = View(r.u64()?);
                let count = r.count(100)?;
                let stop_data =
                    (0..count).map(|_| StopData::read(&mut r).map(Arc::new)).collect::<Result<_, _>>()?;
                Self::Sync(Arc::new(Sync { view, stop_data }))
            }
            7 => Self::Mark(Mark {
                statement: MarkStatement::read(&mut r)?,
                signature: Signature(r.signature()?),
            }),
            8 => Self::Status(Status {
                view: View(r.u64()?),
                wish: View(r.u64()?),
                mark: Seq(r.u64()?),
                decided: Seq(r.u64()?),
                highest: Seq(r.u64()?),
                base: Seq(r.u64()?),
                rooted: Seq(r.u64()?),
                mode: match r.u8()? {
                    1 => Mode::Normal,
                    2 => Mode::Changing,
                    3 => Mode::Halted,
                    4 => Mode::Learning,
                    _ => return Err(DecodeError::BadValue),
                },
            }),
            9 => Self::Fetch(Fetch { from: Seq(r.u64()?), to: Seq(r.u64()?) }),
            10 => Self::Decided(Decided { certificate: Certificate::read(&mut r)?, batch: r.rest() }),
            11 => Self::FetchBatch(FetchBatch { seq: Seq(r.u64()?), digest: r.digest()? }),
            12 => Self::BatchIs(BatchIs { seq: Seq(r.u64()?), batch: r.rest() }),
            13 => {
                let mark = MarkCertificate::read(&mut r)?;
                let from = Seq(r.u64()?);
                let count = r.count(32)?;
                if count > CHAIN_DIGESTS_MAX {
                    return Err(DecodeError::TooLarge);
                }
                let digests = (0..count).map(|_| r.digest()).collect::<Result<_, _>>()?;
                Self::Chain(Chain { from, digests, mark })
            }
            14 => Self::ReadCheck(ReadCheck { view: View(r.u64()?), nonce: r.u64()? }),
            15 => Self::ReadOk(ReadOk { view: View(r.u64()?), nonce: r.u64()? }),
            16 => Self::MacFailed(MacFailed { client: ClientId(r.u32()?) }),
            17 => Self::Rejoin(Rejoin { nonce: r.u64()? }),
            18 => Self::RejoinMark(RejoinMark { nonce: r.u64()?, mark: MarkCertificate::read(&mut r)? }),
            32 => Self::Group(r.rest()),
            33 => {
                let (view, executed) = (View(r.u64()?), Seq(r.u64()?));
                let count = r.count(22)?;
                let mut replies = Vec::with_capacity(count);
                for _ in 0..count {
                    let (session, number) = (SessionId(r.u64()?), RequestNumber(r.u64()?));
                    let bytes = r.u32()? as usize;
                    let status = match r.u8()? {
                        1 => ReplyStatus::Done,
                        2 => ReplyStatus::Expired,
                        3 => ReplyStatus::TooOld,
                        _ => return Err(DecodeError::BadValue),
                    };
                    let digest_only = flag(r.u8()?)?;
                    replies.push(Reply { session, number, status, digest_only, body: r.bytes(bytes)? });
                }
                Self::Replies(Replies { view, executed, replies })
            }
            34 => Self::Read(Read { id: r.u64()?, full_from: ReplicaId(r.u32()?), operation: r.rest() }),
            35 => {
                let (id, view, executed, version) = (r.u64()?, View(r.u64()?), Seq(r.u64()?), Seq(r.u64()?));
                let digest = r.digest()?;
                let status = match r.u8()? {
                    1 => ReadStatus::Done,
                    2 => ReadStatus::OrderedOnly,
                    _ => return Err(DecodeError::BadValue),
                };
                let result = flag(r.u8()?)?.then(|| r.rest());
                Self::ReadReply(ReadReply { id, view, status, executed, version, digest, result })
            }
            36 => {
                let (view, group) = (View(r.u64()?), r.digest()?);
                let code = match r.u8()? {
                    1 => NoticeCode::LogFull,
                    2 => NoticeCode::Busy,
                    3 => NoticeCode::Sign,
                    4 => NoticeCode::Halted,
                    5 => NoticeCode::Rejected,
                    6 => NoticeCode::View,
                    _ => return Err(DecodeError::BadValue),
                };
                Self::Notice(Notice { code, view, group, text: text(r.rest())? })
            }
            37 => Self::StatusQuery(StatusQuery { id: r.u64()? }),
            38 => Self::StatusAnswer(StatusAnswer { id: r.u64()?, json: text(r.rest())? }),
            39 => Self::Attach(Attach { process: r.u64()? }),
            _ => return Err(DecodeError::UnknownKind),
        };
        r.end()?;
        Ok(message)
    }
}

fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::BadValue),
    }
}

fn text(bytes: Bytes) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::BadValue)
}

fn write_signatures(signatures: &[(ReplicaId, Signature)], w: &mut Writer) {
    w.count(signatures.len());
    for (replica, signature) in signatures {
        w.u32(replica.0).raw(&signature.0);
    }
}

/// Signers must ascend: a signer cannot count twice, and there is one encoding.
fn read_signatures(r: &mut Reader) -> Result<Vec<(ReplicaId, Signature)>, DecodeError> {
    let count = r.count(68)?;
    let mut signatures: Vec<(ReplicaId, Signature)> = Vec::with_capacity(count);
    for _ in 0..count {
        let replica = ReplicaId(r.u32()?);
        if signatures.last().is_some_and(|(last, _)| *last >= replica) {
            return Err(DecodeError::BadValue);
        }
        signatures.push((replica, Signature(r.signature()?)));
    }
    Ok(signatures)
}

impl Vote {
    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            view: View(r.u64()?),
            seq: Seq(r.u64()?),
            digest: r.digest()?,
            signature: Signature(r.signature()?),
        })
    }
}

impl Certificate {
    /// Appends the encoding; also used in log records.
    pub fn write(&self, w: &mut Writer) {
        w.u64(self.view.0).u64(self.seq.0).raw(&self.digest.0);
        write_signatures(&self.signatures, w);
    }

    /// Reads it back.
    pub fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            view: View(r.u64()?),
            seq: Seq(r.u64()?),
            digest: r.digest()?,
            signatures: read_signatures(r)?,
        })
    }
}

impl MarkStatement {
    fn write(&self, w: &mut Writer) {
        w.u64(self.seq.0).raw(&self.batches.0).raw(&self.replies.0).raw(&self.state.0);
    }

    fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { seq: Seq(r.u64()?), batches: r.digest()?, replies: r.digest()?, state: r.digest()? })
    }
}

impl MarkCertificate {
    /// Appends the encoding; also used in log records.
    pub fn write(&self, w: &mut Writer) {
        self.statement.write(w);
        write_signatures(&self.signatures, w);
    }

    /// Reads it back.
    pub fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { statement: MarkStatement::read(r)?, signatures: read_signatures(r)? })
    }
}

impl StateCertificate {
    /// Appends the encoding; also used in log records.
    pub fn write(&self, w: &mut Writer) {
        self.statement.write(w);
        write_signatures(&self.signatures, w);
        w.count(self.digests.len());
        self.digests.iter().for_each(|digest| {
            w.raw(&digest.0);
        });
        self.mark.write(w);
    }

    /// Reads it back.
    pub fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let (statement, signatures) = (MarkStatement::read(r)?, read_signatures(r)?);
        let digests = (0..r.count(32)?).map(|_| r.digest()).collect::<Result<_, _>>()?;
        Ok(Self { statement, signatures, digests, mark: Box::new(MarkCertificate::read(r)?) })
    }
}

impl StopData {
    /// Everything but the signature: what is signed.
    pub fn unsigned(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u64(self.view.0).u32(self.sender.0);
        self.mark.write(&mut w);
        w.count(self.slots.len());
        self.slots.iter().for_each(|s| s.certificate.write(w.u8(s.kind as u8)));
        w.count(self.unknown.len());
        self.unknown.iter().for_each(|s| {
            w.u64(s.0);
        });
        w.out
    }

    /// Appends the encoding; also used in log records.
    pub fn write(&self, w: &mut Writer) {
        w.raw(&self.unsigned()).raw(&self.signature.0);
    }

    /// Reads it back.
    pub fn read(r: &mut Reader) -> Result<Self, DecodeError> {
        let (view, sender) = (View(r.u64()?), ReplicaId(r.u32()?));
        let mark = MarkCertificate::read(r)?;
        let count = r.count(53)?;
        let mut slots: Vec<SlotReport> = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = match r.u8()? {
                1 => VoteKind::Write,
                2 => VoteKind::Accept,
                _ => return Err(DecodeError::BadValue),
            };
            let certificate = Certificate::read(r)?;
            if slots.last().is_some_and(|s| s.certificate.seq >= certificate.seq) {
                return Err(DecodeError::BadValue);
            }
            slots.push(SlotReport { kind, certificate });
        }
        let count = r.count(8)?;
        let mut unknown: Vec<Seq> = Vec::with_capacity(count);
        for _ in 0..count {
            let seq = Seq(r.u64()?);
            if unknown.last().is_some_and(|s| *s >= seq) {
                return Err(DecodeError::BadValue);
            }
            unknown.push(seq);
        }
        Ok(Self { view, sender, mark, slots, unknown, signature: Signature(r.signature()?) })
    }
}
