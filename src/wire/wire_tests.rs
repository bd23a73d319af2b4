use super::auth::*;
use super::batch::*;
use super::error::*;
use super::messages::*;
use crate::identity::Identity;
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;
use bytes::Bytes;
use std::sync::Arc;

const HASHER: Hasher = Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 };

/// Real signatures of replicas 0..n and of client 1, from seeds anybody can draw.
struct Seeds {
    me: u8,
}

fn replica(i: u8) -> Identity {
    Identity::from_seed([i + 1; 32])
}

fn client() -> Identity {
    Identity::from_seed([99; 32])
}

impl Scheme for Seeds {
    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(replica(self.me).sign(bytes))
    }

    fn verify_replica(&self, who: ReplicaId, bytes: &[u8], s: &Signature) -> bool {
        crate::identity::verify(&replica(who.0 as u8).public_key(), bytes, &s.0)
    }

    fn verify_client(&self, who: ClientId, bytes: &[u8], s: &Signature) -> bool {
        self.knows_client(who) && crate::identity::verify(&client().public_key(), bytes, &s.0)
    }

    fn knows_client(&self, who: ClientId) -> bool {
        who == ClientId(1)
    }

    fn verify_mac(&self, _: ClientId, _: &Digest, tag: &[u8]) -> bool {
        tag == [self.me; MAC_BYTES]
    }
}

fn auth(model: FaultModel, me: u8, client_auth: ClientAuth) -> Authenticator {
    let n = if model == FaultModel::Byzantine { 4 } else { 3 };
    let limits = BatchLimits {
        batch_bytes_max: 1 << 16,
        group_bytes_max: 1 << 15,
        batch_requests_max: 64,
        window: 16,
    };
    Authenticator {
        members: Members::new(model, n, 1).unwrap(),
        me: ReplicaId(u32::from(me)),
        hasher: HASHER,
        client_auth,
        limits,
        accepts_checked: false,
        scheme: Arc::new(Seeds { me }),
    }
}

fn invoke(number: u64, operation: &[u8]) -> Request<&[u8]> {
    Request { session: SessionId(5), number: RequestNumber(number), kind: RequestKind::Invoke, operation }
}

fn signed(requests: &[Request<&[u8]>]) -> Group {
    Group::build(&HASHER, ClientId(1), requests, |digest| {
        (AuthKind::Signature, client().sign(&group_bytes(&HASHER.cluster, digest)).to_vec())
    })
}

fn batch_of(groups: Vec<Group>) -> Batch {
    let groups = groups.into_iter().map(|g| (g.clone(), g.digest(&HASHER))).collect();
    Batch::build(&HASHER, Seq(3), WallTime(11), 12, groups)
}

fn votes(kind: VoteKind, signers: &[u8], seq: Seq) -> Certificate {
    let digest = Digest([3; 32]);
    let view = View(2);
    let bytes = vote_bytes(&HASHER.cluster, kind, view, seq, &digest);
    let signatures =
        signers.iter().map(|i| (ReplicaId(u32::from(*i)), Signature(replica(*i).sign(&bytes)))).collect();
    Certificate { view, seq, digest, signatures }
}

fn stop_data(sender: u8, slots: Vec<Certificate>) -> StopData {
    let mut data = StopData {
        view: View(5),
        sender: ReplicaId(u32::from(sender)),
        mark: MarkCertificate::default(),
        slots: slots
            .into_iter()
            .map(|certificate| SlotReport { kind: VoteKind::Write, certificate })
            .collect(),
        unknown: vec![],
        signature: Signature::NONE,
    };
    data.signature = Signature(replica(sender).sign(&stop_data_bytes(&HASHER, &data)));
    data
}

fn samples() -> Vec<Message> {
    let batch = batch_of(vec![signed(&[invoke(1, b"put"), invoke(2, b"")])]);
    let vote = Vote { view: View(2), seq: Seq(3), digest: batch.digest, signature: Signature([9; 64]) };
    let data = Arc::new(stop_data(1, vec![votes(VoteKind::Write, &[0, 1, 2], Seq(4))]));
    let statement = MarkStatement {
        seq: Seq(64),
        batches: Digest([1; 32]),
        replies: Digest([2; 32]),
        state: Digest([3; 32]),
    };
    let signatures = vec![(ReplicaId(0), Signature([1; 64])), (ReplicaId(2), Signature([2; 64]))];
    let reply = Reply {
        session: SessionId(5),
        number: RequestNumber(1),
        status: ReplyStatus::Done,
        digest_only: true,
        body: Bytes::from_static(&[4; 32]),
    };
    vec![
        Message::Propose(Propose { view: View(2), seq: Seq(3), batch: batch.bytes.clone() }),
        Message::Write(vote),
        Message::Accept(vote),
        Message::Stop(Stop { view: View(9) }),
        Message::StopData(data.clone()),
        Message::Sync(Arc::new(Sync { view: View(5), stop_data: vec![data.clone(), data] })),
        Message::Mark(Mark { statement, signature: Signature([3; 64]) }),
        Message::Status(Status {
            view: View(2),
            wish: View(3),
            mode: Mode::Changing,
            mark: Seq(1),
            decided: Seq(2),
            highest: Seq(9),
            base: Seq(1),
            rooted: Seq(2),
        }),
        Message::Fetch(Fetch { from: Seq(1), to: Seq(9) }),
        Message::Decided(Decided {
            certificate: votes(VoteKind::Accept, &[0, 1, 3], Seq(3)),
            batch: batch.bytes.clone(),
        }),
        Message::FetchBatch(FetchBatch { seq: Seq(3), digest: batch.digest }),
        Message::BatchIs(BatchIs { seq: Seq(3), batch: batch.bytes.clone() }),
        Message::Chain(Chain {
            from: Seq(62),
            digests: vec![Digest([5; 32]), Digest([6; 32])],
            mark: MarkCertificate { statement, signatures },
        }),
        Message::ReadCheck(ReadCheck { view: View(2), nonce: 8 }),
        Message::ReadOk(ReadOk { view: View(2), nonce: 8 }),
        Message::Rejoin(Rejoin { nonce: 9 }),
        Message::RejoinMark(RejoinMark { nonce: 9, mark: MarkCertificate::default() }),
        Message::MacFailed(MacFailed { client: ClientId(1) }),
        Message::Group(batch.groups[0].bytes().clone()),
        Message::Replies(Replies { view: View(2), executed: Seq(3), replies: vec![reply] }),
        Message::Read(Read { id: 4, full_from: ReplicaId(2), operation: Bytes::from_static(b"get") }),
        Message::ReadReply(ReadReply {
            id: 4,
            view: View(2),
            status: ReadStatus::Done,
            executed: Seq(3),
            version: Seq(2),
            digest: Digest([8; 32]),
            result: Some(Bytes::from_static(b"value")),
        }),
        Message::Notice(Notice {
            code: NoticeCode::Busy,
            view: View(2),
            group: Digest([1; 32]),
            text: "später".into(),
        }),
        Message::StatusQuery(StatusQuery { id: 6 }),
        Message::StatusAnswer(StatusAnswer { id: 6, json: "{}".into() }),
        Message::Attach(Attach { process: 77 }),
    ]
}

fn whole(message: &Message) -> (u16, Vec<u8>) {
    let (kind, head, tail) = message.encode();
    (kind, [&head[..], tail.as_deref().unwrap_or_default()].concat())
}

#[test]
fn every_message_has_one_encoding_and_comes_back_from_it() {
    let mut kinds = std::collections::BTreeSet::new();
    for message in samples() {
        let (kind, bytes) = whole(&message);
        assert!(kinds.insert(kind), "kind {kind} twice");
        let back = Message::decode(kind, Bytes::from(bytes.clone())).unwrap();
        assert_eq!(format!("{message:?}"), format!("{back:?}"));
        assert_eq!(whole(&back), (kind, bytes));
    }
    assert_eq!(kinds.len(), 26);
}

#[test]
fn a_cut_message_is_refused_or_a_shorter_message_never_a_panic() {
    for message in samples() {
        let (kind, bytes) = whole(&message);
        for end in 0..bytes.len() {
            if let Ok(shorter) = Message::decode(kind, Bytes::copy_from_slice(&bytes[..end])) {
                assert_eq!(whole(&shorter).1, &bytes[..end], "two encodings of one message");
            }
        }
    }
    for kind in [0, 19, 31, 40, u16::MAX] {
        assert_eq!(Message::decode(kind, Bytes::new()).unwrap_err(), DecodeError::UnknownKind);
    }
}

/// Seeded, so that a failure repeats: splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn mutated_and_random_bytes_never_panic_and_what_decodes_encodes_to_the_same_bytes() {
    let rounds: u64 = std::env::var("DURAMEN_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000);
    let samples: Vec<_> = samples().iter().map(whole).collect();
    let auth = auth(FaultModel::Byzantine, 1, ClientAuth::Mac);
    for seed in 0..rounds {
        let mut r = seed;
        let (kind, bytes) = &samples[random(&mut r) as usize % samples.len()];
        let mut bytes = bytes.clone();
        for _ in 0..=random(&mut r) % 4 {
            let at = random(&mut r) as usize % bytes.len().max(1);
            match random(&mut r) % 4 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), random(&mut r) as u8),
                2 if at < bytes.len() => bytes[at] = 0xff,
                _ if at < bytes.len() => bytes[at] ^= 1 << (random(&mut r) % 8),
                _ => {}
            }
        }
        let kind = if random(&mut r).is_multiple_of(8) { random(&mut r) as u16 % 48 } else { *kind };
        if let Ok(message) = Message::decode(kind, Bytes::from(bytes.clone())) {
            assert_eq!(whole(&message).1, bytes, "seed {seed}");
            let _ = auth.replica(ReplicaId(2), message);
        }
        let _ = Group::decode(Bytes::from(bytes));
    }
}

#[test]
fn a_batch_digest_covers_place_time_seed_requests_and_authenticators() {
    let batch = batch_of(vec![signed(&[invoke(1, b"a")])]);
    let again = Batch::decode(&HASHER, Seq(3), batch.bytes.clone()).unwrap();
    assert_eq!(again.digest, batch.digest);
    assert_ne!(Batch::decode(&HASHER, Seq(4), batch.bytes.clone()).unwrap().digest, batch.digest);
    for at in 0..batch.bytes.len() {
        let mut bytes = batch.bytes.to_vec();
        bytes[at] ^= 1;
        if let Ok(other) = Batch::decode(&HASHER, Seq(3), Bytes::from(bytes)) {
            assert_ne!(other.digest, batch.digest, "byte {at} is not covered");
        }
    }
    let elsewhere = Hasher { cluster: ClusterId([8; 16]), ..HASHER };
    assert_ne!(Batch::decode(&elsewhere, Seq(3), batch.bytes.clone()).unwrap().digest, batch.digest);
}

#[test]
fn a_clients_group_is_taken_only_with_its_own_signature_over_its_own_channel() {
    let auth = auth(FaultModel::Byzantine, 0, ClientAuth::Signature);
    let group = signed(&[invoke(1, b"put")]);
    assert!(auth.group(Some(ClientId(1)), group.bytes().clone()).is_ok());
    assert_eq!(auth.group(Some(ClientId(2)), group.bytes().clone()).unwrap_err(), AuthError::Sender.into());
    let mut forged = group.bytes().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(auth.group(None, Bytes::from(forged)).unwrap_err(), AuthError::Signature.into());
    let bare = Group::build(&HASHER, ClientId(1), &[invoke(1, b"put")], |_| (AuthKind::Channel, vec![]));
    assert_eq!(auth.group(None, bare.bytes().clone()).unwrap_err(), AuthError::Kind.into());
    let stranger =
        Group::build(&HASHER, ClientId(2), &[invoke(1, b"x")], |_| (AuthKind::Signature, vec![0; 64]));
    assert_eq!(auth.group(None, stranger.bytes().clone()).unwrap_err(), AuthError::UnknownClient.into());
    let huge = signed(&[invoke(1, &[0; 1 << 15])]);
    assert_eq!(auth.group(None, huge.bytes().clone()).unwrap_err(), DecodeError::TooLarge.into());
}

#[test]
fn only_replicas_order_noops_and_they_order_nothing_else() {
    let auth = auth(FaultModel::Byzantine, 0, ClientAuth::Signature);
    let noop = Request {
        session: SessionId(0),
        number: RequestNumber(1),
        kind: RequestKind::Noop,
        operation: &[][..],
    };
    let own = auth.own_group(std::slice::from_ref(&noop));
    assert!(auth.group(None, own.group().bytes().clone()).is_ok());
    let own = auth.own_group(&[invoke(1, b"put")]);
    assert_eq!(auth.group(None, own.group().bytes().clone()).unwrap_err(), AuthError::Inconsistent.into());
    let clients = signed(&[noop]);
    assert_eq!(auth.group(None, clients.bytes().clone()).unwrap_err(), AuthError::Inconsistent.into());
}

#[test]
fn a_mac_that_fails_here_only_leaves_the_batch_unvouched_not_invalid() {
    let tags = [[0; MAC_BYTES], [1; MAC_BYTES], [9; MAC_BYTES], [3; MAC_BYTES]].concat();
    let group = Group::build(&HASHER, ClientId(1), &[invoke(1, b"x")], |_| (AuthKind::Mac, tags));
    let batch = batch_of(vec![group]);
    let verdict = |me| {
        let propose = Propose { view: View(1), seq: Seq(3), batch: batch.bytes.clone() };
        let auth = auth(FaultModel::Byzantine, me, ClientAuth::Mac);
        match auth.replica(ReplicaId(0), Message::Propose(propose)).unwrap().into_parts().1 {
            Checked::Propose { verdict, .. } => verdict,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(verdict(1), Verdict::Valid);
    assert_eq!(verdict(2), Verdict::Unvouched(vec![ClientId(1)]));
    let strict = auth(FaultModel::Byzantine, 1, ClientAuth::Signature);
    let propose = Propose { view: View(1), seq: Seq(3), batch: batch.bytes.clone() };
    let checked = strict.replica(ReplicaId(0), Message::Propose(propose)).unwrap().into_parts().1;
    assert!(matches!(checked, Checked::Propose { verdict: Verdict::Invalid(_), .. }));
}

#[test]
fn a_certificate_needs_a_quorum_of_distinct_valid_votes_of_its_kind() {
    let auth = auth(FaultModel::Byzantine, 0, ClientAuth::Signature);
    let good = votes(VoteKind::Write, &[0, 1, 3], Seq(4));
    assert!(auth.certificate_ok(VoteKind::Write, &good));
    assert!(!auth.certificate_ok(VoteKind::Accept, &good), "a WRITE is no ACCEPT");
    assert!(!auth.certificate_ok(VoteKind::Write, &votes(VoteKind::Write, &[0, 1], Seq(4))));
    let mut moved = good.clone();
    moved.seq = Seq(5);
    assert!(!auth.certificate_ok(VoteKind::Write, &moved), "an old proof certified another place");
    let mut twice = good.clone();
    twice.signatures[1] = twice.signatures[0];
    assert!(!auth.certificate_ok(VoteKind::Write, &twice), "one replica counted twice");
    let mut stranger = good;
    stranger.signatures[2].0 = ReplicaId(9);
    assert!(!auth.certificate_ok(VoteKind::Write, &stranger));
}

#[test]
fn a_stop_data_is_checked_down_to_every_certificate() {
    let auth = auth(FaultModel::Byzantine, 0, ClientAuth::Signature);
    let good = stop_data(1, vec![votes(VoteKind::Write, &[0, 1, 2], Seq(4))]);
    assert_eq!(auth.stop_data_ok(&good), Ok(()));
    let mut other = good.clone();
    other.view = View(6);
    assert_eq!(auth.stop_data_ok(&other), Err(AuthError::Signature));
    let weak = stop_data(1, vec![votes(VoteKind::Write, &[0, 1], Seq(4))]);
    assert_eq!(auth.stop_data_ok(&weak), Err(AuthError::Certificate));
    let far = stop_data(1, vec![votes(VoteKind::Write, &[0, 1, 2], Seq(17))]);
    assert_eq!(auth.stop_data_ok(&far), Err(AuthError::Inconsistent));
    let sync = |d: Vec<StopData>| Sync { view: View(5), stop_data: d.into_iter().map(Arc::new).collect() };
    let two = vec![stop_data(1, vec![]), stop_data(2, vec![])];
    assert_eq!(auth.sync_ok(&sync(two.clone())), Err(AuthError::Certificate));
    let again = vec![two[0].clone(), two[1].clone(), two[1].clone()];
    assert_eq!(auth.sync_ok(&sync(again)), Err(AuthError::Certificate));
    assert_eq!(auth.sync_ok(&sync(vec![two[0].clone(), two[1].clone(), stop_data(3, vec![])])), Ok(()));
}

#[test]
fn a_group_that_names_a_request_twice_is_nobodys() {
    let auth = auth(FaultModel::Byzantine, 0, ClientAuth::Signature);
    let r = |kind, session, number| Request::<&[u8]> {
        session: SessionId(session),
        number: RequestNumber(number),
        kind,
        operation: b"",
    };
    let invoke = |session, number| r(RequestKind::Invoke, session, number);
    let open = |nonce| r(RequestKind::Open, 0, nonce);
    let process = 7 << PROCESS_SESSION_BITS;
    let good = [
        vec![invoke(5, 1), invoke(5, 2), invoke(5, 9)],
        vec![invoke(9, 1), invoke(5, 1), invoke(9, 2), invoke(5, 3), invoke(7, 1), invoke(9, 3)],
        vec![open(process + 1), open(process), invoke(5, 1)],
    ];
    for requests in good {
        let taken = auth.group(Some(ClientId(1)), signed(&requests).bytes().clone());
        assert!(taken.is_ok(), "{requests:?}: {taken:?}");
    }
    let bad = [
        vec![invoke(5, 1), invoke(5, 1)],
        vec![invoke(5, 2), invoke(5, 1)],
        vec![invoke(5, 1), invoke(9, 1), invoke(5, 1)],
        vec![invoke(5, 1), invoke(5, 4), invoke(9, 1), invoke(5, 3)],
        vec![invoke(0, 1)],
        vec![open(process), invoke(5, 1), open(process)],
        vec![open(process), open(process + 1), open(process)],
        // Its replies would go to every connection of the key.
        vec![open(3)],
        vec![r(RequestKind::Open, 5, process)],
    ];
    for requests in bad {
        let taken = auth.group(Some(ClientId(1)), signed(&requests).bytes().clone());
        assert_eq!(taken.unwrap_err(), Rejected::Auth(AuthError::Inconsistent), "{requests:?}");
        // And no correct replica votes for a batch with it.
        let bytes = batch_of(vec![signed(&requests)]).bytes;
        let propose = Message::Propose(Propose { view: View(1), seq: Seq(3), batch: bytes });
        let (_, checked) = auth.replica(ReplicaId(0), propose).unwrap().into_parts();
        assert!(matches!(checked, Checked::Propose { verdict: Verdict::Invalid(_), .. }), "{requests:?}");
    }
}
