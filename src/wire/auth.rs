//! What makes a message believable; the sole maker of [`Authenticated`] and [`AuthenticGroup`].
//!
//! Everything here is a pure function of the message, the membership and the keys, so it runs on the pool, off the
//! order thread, and every correct replica comes to the same verdict on a batch (RULES 12). The channel proves who
//! sent a frame; signatures prove what is relayed or stored.

use super::batch::*;
use super::error::*;
use super::messages::*;
pub use crate::config::ClientAuth;
use crate::order::mutants::{Mutant, broken};
use crate::quorum::{Group as Members, Quorum, VoteSet};
use crate::types::*;
use bytes::Bytes;
use std::sync::Arc;

/// Keys at work: real ones, or the simulator's unforgeable tokens.
pub trait Scheme: Send + std::marker::Sync {
    /// Signs as this replica.
    fn sign(&self, bytes: &[u8]) -> Signature;
    /// Whether `who` signed `bytes`.
    fn verify_replica(&self, who: ReplicaId, bytes: &[u8], signature: &Signature) -> bool;
    /// Whether the client key `who` signed `bytes`. False for unknown clients.
    fn verify_client(&self, who: ClientId, bytes: &[u8], signature: &Signature) -> bool;
    /// Whether the configuration has this client.
    fn knows_client(&self, who: ClientId) -> bool;
    /// Whether `tag` is the client's MAC for this replica over `digest`.
    fn verify_mac(&self, who: ClientId, digest: &Digest, tag: &[u8]) -> bool;
}

/// Says that `message` came from `from` and that everything checkable without state was checked.
#[derive(Clone, Debug)]
pub struct Authenticated<M> {
    from: ReplicaId,
    message: M,
}

impl<M> Authenticated<M> {
    /// Sender and message.
    pub fn into_parts(self) -> (ReplicaId, M) {
        (self.from, self.message)
    }

    /// Who sent it.
    pub fn sender(&self) -> ReplicaId {
        self.from
    }

    /// The message.
    pub fn message(&self) -> &M {
        &self.message
    }
}

/// A client's group whose authenticator this replica has verified.
#[derive(Clone, Debug)]
pub struct AuthenticGroup {
    group: Group,
    digest: Digest,
}

impl AuthenticGroup {
    /// The group.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The groups of a batch whose verdict was [`Verdict::Valid`]: a no-op may take their place.
    pub(crate) fn of_vouched_batch(batch: &Batch) -> impl Iterator<Item = Self> {
        let groups = batch.groups.iter().cloned().zip(batch.group_digests.iter().copied());
        groups.map(|(group, digest)| Self { group, digest })
    }

    /// Both.
    pub fn into_parts(self) -> (Group, Digest) {
        (self.group, self.digest)
    }
}

/// What this replica thinks of a proposed batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every group is authentic.
    Valid,
    /// MAC entries of these clients failed here; f+1 WRITEs of others may vouch (RULES 12).
    Unvouched(Vec<ClientId>),
    /// No correct replica finds it valid: the leader is faulty.
    Invalid(Rejected),
}

/// A replica's message after [`Authenticator::replica`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Checked {
    Propose {
        view: View,
        batch: Arc<Batch>,
        verdict: Verdict,
    },
    /// A proposal that is not even a batch.
    BadPropose {
        view: View,
        seq: Seq,
        why: Rejected,
    },
    Write(Vote),
    Accept(Vote),
    Stop(Stop),
    StopData(Arc<StopData>),
    Sync(Arc<Sync>),
    Mark(Mark),
    Status(Status),
    Fetch(Fetch),
    /// `proven`: the certificate is a quorum of valid signatures; otherwise it is the sender's claim.
    Decided {
        certificate: Certificate,
        batch: Arc<Batch>,
        proven: bool,
    },
    FetchBatch(FetchBatch),
    BatchIs(Arc<Batch>),
    Chain(Chain),
    ReadCheck(ReadCheck),
    ReadOk(ReadOk),
    MacFailed(MacFailed),
    Rejoin(Rejoin),
    RejoinMark(RejoinMark),
    Group(AuthenticGroup),
}

/// Bounds that are part of what makes a batch valid; equal on all replicas.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most bytes of one batch.
    pub batch_bytes_max: usize,
    /// Most bytes of one group.
    pub group_bytes_max: usize,
    /// Most requests of one batch.
    pub batch_requests_max: usize,
    /// Most places a STOP-DATA may report: the window.
    pub window: u64,
}

/// Votes lie within the window above a replica's mark. Decisions that it learnt from others may lie further ahead of it, while its
/// disk is slow to take the marks: at most so many places.
pub fn decided_ahead_max(window: u64) -> u64 {
    4 * window + 2 * FETCH_MAX
}

/// Most places answered per FETCH.
pub const FETCH_MAX: u64 = 64;

/// Checks messages; shared by all threads of the pool.
#[derive(Clone)]
pub struct Authenticator {
    /// Who replicates.
    pub members: Members,
    /// This replica.
    pub me: ReplicaId,
    /// The cluster's hash.
    pub hasher: Hasher,
    /// What clients may use.
    pub client_auth: ClientAuth,
    /// Validity bounds.
    pub limits: BatchLimits,
    /// Whether signatures of ACCEPTs are checked as they arrive. Only where decisions are kept as certificates must they be
    /// complete; else a decision counts what the channels brought, and is checked when it is shown.
    pub accepts_checked: bool,
    /// The keys.
    pub scheme: Arc<dyn Scheme>,
}

/// The string a vote's signature covers.
pub fn vote_bytes(cluster: &ClusterId, kind: VoteKind, view: View, seq: Seq, digest: &Digest) -> [u8; 80] {
    let mut out = [0; 80];
    out[..15].copy_from_slice(b"duramen vote 1 ");
    out[15] = kind as u8;
    out[16..32].copy_from_slice(&cluster.0);
    out[32..40].copy_from_slice(&view.0.to_le_bytes());
    out[40..48].copy_from_slice(&seq.0.to_le_bytes());
    out[48..].copy_from_slice(&digest.0);
    out
}

/// The string a mark's signature covers.
pub fn mark_bytes(cluster: &ClusterId, statement: &MarkStatement) -> [u8; 136] {
    let mut out = [0; 136];
    out[..16].copy_from_slice(b"duramen mark 2  ");
    out[16..32].copy_from_slice(&cluster.0);
    out[32..40].copy_from_slice(&statement.seq.0.to_le_bytes());
    out[40..72].copy_from_slice(&statement.batches.0);
    out[72..104].copy_from_slice(&statement.replies.0);
    out[104..].copy_from_slice(&statement.state.0);
    out
}

/// The string a STOP-DATA's signature covers: the digest of its unsigned encoding.
pub fn stop_data_bytes(hasher: &Hasher, stop_data: &StopData) -> [u8; 64] {
    let digest = hasher.hash(&[&stop_data.unsigned()]);
    let mut out = [0; 64];
    out[..16].copy_from_slice(b"duramen stopdata");
    out[16..32].copy_from_slice(&hasher.cluster.0);
    out[32..].copy_from_slice(&digest.0);
    out
}

/// The string a client's authenticator covers.
pub fn group_bytes(cluster: &ClusterId, digest: &Digest) -> [u8; 64] {
    let mut out = [0; 64];
    out[..16].copy_from_slice(b"duramen request ");
    out[16..32].copy_from_slice(&cluster.0);
    out[32..].copy_from_slice(&digest.0);
    out
}

/// Whether a group names no request twice, so that what answers it is bounded by what it weighs: the numbers of each
/// session ascend, nonces differ and name a process (replies to process 0 would go to all connections of the key).
fn requests_distinct(group: &Group) -> bool {
    // Requests of a session mostly stand together: runs of one session as (session, first number, last number).
    let mut run: Option<(SessionId, RequestNumber, RequestNumber)> = None;
    let (mut runs, mut nonces) = (Vec::new(), Vec::new());
    for r in group.requests() {
        let ok = match r.kind {
            RequestKind::Open => {
                nonces.push(r.number);
                r.session == SessionId(0) && process_of(r.number.0) != 0
            }
            RequestKind::Noop => {
                nonces.push(r.number);
                true
            }
            RequestKind::Invoke => match &mut run {
                Some((session, _, last)) if *session == r.session => {
                    let ascends = r.number > *last;
                    *last = r.number;
                    ascends
                }
                _ => {
                    runs.extend(run.replace((r.session, r.number, r.number)));
                    r.session != SessionId(0)
                }
            },
        };
        if !ok {
            return false;
        }
    }
    if !runs.is_empty() {
        runs.extend(run);
        // Stable: the runs of a session stay in their order.
        runs.sort_by_key(|(session, ..)| *session);
    }
    nonces.sort_unstable();
    nonces.windows(2).all(|two| two[0] != two[1])
        && runs.windows(2).all(|two| two[0].0 != two[1].0 || two[0].2 < two[1].1)
}

impl Authenticator {
    /// Signs a vote; crash mode signs nothing.
    pub fn sign_vote(&self, kind: VoteKind, view: View, seq: Seq, digest: &Digest) -> Signature {
        if !self.members.byzantine() {
            return Signature::NONE;
        }
        self.scheme.sign(&vote_bytes(&self.hasher.cluster, kind, view, seq, digest))
    }

    /// Signs a mark; crash mode signs nothing.
    pub fn sign_mark(&self, statement: &MarkStatement) -> Signature {
        if !self.members.byzantine() {
            return Signature::NONE;
        }
        self.scheme.sign(&mark_bytes(&self.hasher.cluster, statement))
    }

    /// Fills in the signature of an own STOP-DATA.
    pub fn sign_stop_data(&self, stop_data: &mut StopData) {
        if self.members.byzantine() {
            stop_data.signature = self.scheme.sign(&stop_data_bytes(&self.hasher, stop_data));
        }
    }

    /// A group of this replica's own: its no-op.
    pub fn own_group(&self, requests: &[Request<&[u8]>]) -> AuthenticGroup {
        let client = ClientId::of_replica(self.me);
        let group = Group::build(&self.hasher, client, requests, |digest| {
            if !self.members.byzantine() {
                return (AuthKind::Channel, Vec::new());
            }
            let signature = self.scheme.sign(&group_bytes(&self.hasher.cluster, digest));
            (AuthKind::Signature, signature.0.to_vec())
        });
        let digest = group.digest(&self.hasher);
        AuthenticGroup { group, digest }
    }

    fn vote_ok(&self, kind: VoteKind, who: ReplicaId, vote: &Vote) -> bool {
        !self.members.byzantine()
            || broken(Mutant::VotesUnsigned)
            || self.scheme.verify_replica(
                who,
                &vote_bytes(&self.hasher.cluster, kind, vote.view, vote.seq, &vote.digest),
                &vote.signature,
            )
    }

    /// Whether an ACCEPT kept from the channel also carries a valid signature.
    pub fn accept_ok(&self, who: ReplicaId, vote: &Vote) -> bool {
        self.vote_ok(VoteKind::Accept, who, vote)
    }

    /// Whether a WRITE that was read from somewhere carries a valid signature.
    pub fn write_ok(&self, who: ReplicaId, vote: &Vote) -> bool {
        self.vote_ok(VoteKind::Write, who, vote)
    }

    /// Whether `certificate` is a quorum of valid votes of `kind`. Crash mode takes the sender's word.
    pub fn certificate_ok(&self, kind: VoteKind, certificate: &Certificate) -> bool {
        if !self.members.byzantine() {
            return certificate.signatures.is_empty();
        }
        let bytes =
            vote_bytes(&self.hasher.cluster, kind, certificate.view, certificate.seq, &certificate.digest);
        self.signers_ok(&certificate.signatures, &bytes)
    }

    /// Whether `mark` is proven. Genesis is; crash mode takes the sender's word.
    pub fn mark_ok(&self, mark: &MarkCertificate) -> bool {
        if broken(Mutant::MarksUnproven) {
            return true;
        }
        if mark.statement.seq == Seq(0) {
            return *mark == MarkCertificate::default();
        }
        if !self.members.byzantine() {
            return mark.signatures.is_empty();
        }
        self.signers_ok(&mark.signatures, &mark_bytes(&self.hasher.cluster, &mark.statement))
    }

    /// Whether a state is proven: its root by f+1, its place by the mark. Crash mode takes the sender's word for both.
    pub fn state_ok(&self, state: &StateCertificate) -> bool {
        let (root, mark) = (&state.statement, &state.mark.statement);
        let within = root.seq.0.checked_add(state.digests.len() as u64) == Some(mark.seq.0);
        let window = state.digests.len() as u64 <= 4 * self.limits.window;
        let same = !state.digests.is_empty() || root.replies == mark.replies;
        if root.seq == Seq(0) || root.state == Digest::ZERO || mark.state != Digest::ZERO {
            return false;
        }
        let leads = || state.digests.iter().fold(root.batches, |c, d| self.hasher.chain(&c, d));
        if !within || !window || !same || leads() != mark.batches || !self.mark_ok(&state.mark) {
            return false;
        }
        match self.members.byzantine() {
            false => state.signatures.is_empty(),
            true => {
                let bytes = mark_bytes(&self.hasher.cluster, root);
                let named = self.signed_by(self.members.one_correct(), &state.signatures, &bytes);
                named || broken(Mutant::RootsOfOne)
            }
        }
    }

    fn signers_ok(&self, signatures: &[(ReplicaId, Signature)], bytes: &[u8]) -> bool {
        self.signed_by(self.members.quorum(), signatures, bytes)
    }

    fn signed_by(&self, enough: Quorum, signatures: &[(ReplicaId, Signature)], bytes: &[u8]) -> bool {
        let voters: VoteSet =
            signatures.iter().map(|(r, _)| *r).filter(|r| self.members.contains(*r)).collect();
        enough.reached_by(voters)
            && signatures.len() as u32 == voters.count()
            && (broken(Mutant::CertificatesUnsigned)
                || signatures.iter().all(|(r, s)| self.scheme.verify_replica(*r, bytes, s)))
    }

    /// Checks one STOP-DATA without state: sender's signature, mark, every certificate, order and window.
    pub fn stop_data_ok(&self, d: &StopData) -> Result<(), AuthError> {
        if !self.members.contains(d.sender) {
            return Err(AuthError::Sender);
        }
        let from = d.mark.statement.seq;
        let within = |seq: Seq, places: u64| seq > from && seq.0 - from.0 <= places;
        let reach = |kind| match kind {
            VoteKind::Write => self.limits.window,
            VoteKind::Accept => decided_ahead_max(self.limits.window),
        };
        let places_ok =
            d.slots.iter().all(|s| within(s.certificate.seq, reach(s.kind)) && s.certificate.view < d.view)
                && d.unknown.iter().all(|s| within(*s, self.limits.window));
        if !places_ok {
            return Err(AuthError::Inconsistent);
        }
        if self.members.byzantine()
            && !broken(Mutant::ReportsUnsigned)
            && !self.scheme.verify_replica(d.sender, &stop_data_bytes(&self.hasher, d), &d.signature)
        {
            return Err(AuthError::Signature);
        }
        let proven =
            self.mark_ok(&d.mark) && d.slots.iter().all(|s| self.certificate_ok(s.kind, &s.certificate));
        if proven { Ok(()) } else { Err(AuthError::Certificate) }
    }

    /// Checks a SYNC without state: a quorum of distinct senders' valid STOP-DATA for exactly its view.
    pub fn sync_ok(&self, sync: &Sync) -> Result<(), AuthError> {
        let senders: VoteSet =
            sync.stop_data.iter().map(|d| d.sender).filter(|r| self.members.contains(*r)).collect();
        let enough =
            if broken(Mutant::SyncOfFewer) { self.members.one_correct() } else { self.members.quorum() };
        if senders.count() as usize != sync.stop_data.len() || !enough.reached_by(senders) {
            return Err(AuthError::Certificate);
        }
        if sync.stop_data.iter().any(|d| d.view != sync.view) {
            return Err(AuthError::Inconsistent);
        }
        sync.stop_data.iter().try_for_each(|d| self.stop_data_ok(d))
    }

    fn batch(&self, seq: Seq, bytes: Bytes) -> Result<Batch, Rejected> {
        if bytes.len() > self.limits.batch_bytes_max {
            return Err(DecodeError::TooLarge.into());
        }
        let batch = Batch::decode(&self.hasher, seq, bytes)?;
        if batch.requests() > self.limits.batch_requests_max {
            return Err(DecodeError::TooLarge.into());
        }
        Ok(batch)
    }

    /// The verdict on a decoded batch: a function of its bytes, the keys and, for MACs, this replica's secret.
    fn verdict(&self, batch: &Batch) -> Verdict {
        let mut unvouched = Vec::new();
        for (group, digest) in batch.groups.iter().zip(&batch.group_digests) {
            match self.group_ok(group, digest) {
                Ok(()) => {}
                // Our own tag alone failed: perhaps the client lies to us only.
                Err(AuthError::Signature) if group.auth_kind == AuthKind::Mac => unvouched.push(group.client),
                Err(why) => return Verdict::Invalid(why.into()),
            }
        }
        if unvouched.is_empty() { Verdict::Valid } else { Verdict::Unvouched(unvouched) }
    }

    fn group_ok(&self, group: &Group, digest: &Digest) -> Result<(), AuthError> {
        let replica = group.client.as_replica();
        let known = match replica {
            Some(r) => self.members.contains(r),
            None => self.scheme.knows_client(group.client),
        };
        if !known {
            return Err(AuthError::UnknownClient);
        }
        // Replicas order no-ops only; clients never do. A shape that differs is nobody's honest request.
        let shape_ok = group.requests().all(|r| (r.kind == RequestKind::Noop) == replica.is_some());
        if !shape_ok || !requests_distinct(group) {
            return Err(AuthError::Inconsistent);
        }
        if !self.members.byzantine() {
            let bare = group.auth_kind == AuthKind::Channel && group.auth().is_empty();
            return if bare { Ok(()) } else { Err(AuthError::Kind) };
        }
        match group.auth_kind {
            AuthKind::Channel => Err(AuthError::Kind),
            AuthKind::Signature => {
                let signature = group.auth().try_into().map(Signature).map_err(|_| AuthError::Kind)?;
                let bytes = group_bytes(&self.hasher.cluster, digest);
                let ok = match replica {
                    Some(r) => self.scheme.verify_replica(r, &bytes, &signature),
                    None => self.scheme.verify_client(group.client, &bytes, &signature),
                };
                if ok || broken(Mutant::RequestsUnsigned) { Ok(()) } else { Err(AuthError::Signature) }
            }
            AuthKind::Mac => {
                let n = self.members.n() as usize;
                if self.client_auth != ClientAuth::Mac
                    || replica.is_some()
                    || group.auth().len() != n * MAC_BYTES
                {
                    return Err(AuthError::Kind);
                }
                let tag = &group.auth()[self.me.index() * MAC_BYTES..][..MAC_BYTES];
                if self.scheme.verify_mac(group.client, digest, tag) {
                    Ok(())
                } else {
                    Err(AuthError::Signature)
                }
            }
        }
    }

    /// Checks a group that arrived from its client (`Some`, the channel's client) or from another replica.
    pub fn group(&self, channel: Option<ClientId>, bytes: Bytes) -> Result<AuthenticGroup, Rejected> {
        if bytes.len() > self.limits.group_bytes_max {
            return Err(DecodeError::TooLarge.into());
        }
        let group = Group::decode(bytes)?;
        if group.len() > self.limits.batch_requests_max {
            return Err(DecodeError::TooLarge.into());
        }
        if channel.is_some_and(|client| client != group.client) {
            return Err(AuthError::Sender.into());
        }
        let digest = group.digest(&self.hasher);
        self.group_ok(&group, &digest)?;
        Ok(AuthenticGroup { group, digest })
    }

    /// Checks everything about a replica's message that needs no state.
    pub fn replica(&self, from: ReplicaId, message: Message) -> Result<Authenticated<Checked>, Rejected> {
        if !self.members.contains(from) {
            return Err(AuthError::Sender.into());
        }
        let checked = match message {
            Message::Propose(m) => match self.batch(m.seq, m.batch) {
                Ok(batch) => {
                    let verdict = self.verdict(&batch);
                    Checked::Propose { view: m.view, batch: Arc::new(batch), verdict }
                }
                Err(why) => Checked::BadPropose { view: m.view, seq: m.seq, why },
            },
            Message::Write(vote) => {
                if !self.vote_ok(VoteKind::Write, from, &vote) {
                    return Err(AuthError::Signature.into());
                }
                Checked::Write(vote)
            }
            Message::Accept(vote) => {
                if self.accepts_checked && !self.vote_ok(VoteKind::Accept, from, &vote) {
                    return Err(AuthError::Signature.into());
                }
                Checked::Accept(vote)
            }
            Message::Stop(m) => Checked::Stop(m),
            Message::StopData(m) => {
                if m.sender != from {
                    return Err(AuthError::Sender.into());
                }
                self.stop_data_ok(&m)?;
                Checked::StopData(m)
            }
            Message::Sync(m) => {
                self.sync_ok(&m)?;
                Checked::Sync(m)
            }
            Message::Mark(m) => {
                if self.members.byzantine()
                    && !broken(Mutant::MarksUnsigned)
                    && !self.scheme.verify_replica(
                        from,
                        &mark_bytes(&self.hasher.cluster, &m.statement),
                        &m.signature,
                    )
                {
                    return Err(AuthError::Signature.into());
                }
                Checked::Mark(m)
            }
            Message::Status(m) => Checked::Status(m),
            Message::Fetch(m) => Checked::Fetch(m),
            Message::Decided(m) => {
                let batch = self.batch(m.certificate.seq, m.batch)?;
                if batch.digest != m.certificate.digest {
                    return Err(AuthError::Digest.into());
                }
                let proven = self.certificate_ok(VoteKind::Accept, &m.certificate);
                Checked::Decided { certificate: m.certificate, batch: Arc::new(batch), proven }
            }
            Message::FetchBatch(m) => Checked::FetchBatch(m),
            Message::BatchIs(m) => Checked::BatchIs(Arc::new(self.batch(m.seq, m.batch)?)),
            Message::Chain(m) => {
                if m.mark.statement.seq.0.checked_sub(m.from.0) != Some(m.digests.len() as u64) {
                    return Err(AuthError::Inconsistent.into());
                }
                if !self.mark_ok(&m.mark) {
                    return Err(AuthError::Certificate.into());
                }
                Checked::Chain(m)
            }
            Message::ReadCheck(m) => Checked::ReadCheck(m),
            Message::ReadOk(m) => Checked::ReadOk(m),
            Message::MacFailed(m) => {
                if !self.scheme.knows_client(m.client) {
                    return Err(AuthError::UnknownClient.into());
                }
                Checked::MacFailed(m)
            }
            Message::Rejoin(m) => Checked::Rejoin(m),
            Message::RejoinMark(m) => {
                if !self.mark_ok(&m.mark) {
                    return Err(AuthError::Certificate.into());
                }
                Checked::RejoinMark(m)
            }
            Message::Group(bytes) => Checked::Group(self.group(None, bytes)?),
            Message::Replies(_)
            | Message::Read(_)
            | Message::ReadReply(_)
            | Message::Notice(_)
            | Message::StatusQuery(_)
            | Message::StatusAnswer(_)
            | Message::Attach(_) => return Err(DecodeError::UnknownKind.into()),
        };
        Ok(Authenticated { from, message: checked })
    }

    /// This replica's own message to itself: nothing to check.
    pub fn own(&self, message: Checked) -> Authenticated<Checked> {
        Authenticated { from: self.me, message }
    }
}
