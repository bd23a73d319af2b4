//! Damaged records of each kind, and what a log says without them.

use super::control::Control;
use super::durable::DurableState;
use super::record::OrderRecord;
use super::restore::{Replay, first_record};
use super::{Now, Orderer, Output};
use crate::quorum::{FaultModel, Group as Members};
use crate::sim::cluster::Setup;
use crate::types::*;
use crate::wire::batch::Batch;
use crate::wire::messages::*;
use bytes::Bytes;

fn setup(model: FaultModel) -> Setup {
    let (n, f) = if model == FaultModel::Byzantine { (4, 1) } else { (3, 1) };
    Setup::new(Members::new(model, n, f).expect("a group"))
}

fn batch(setup: &Setup, seq: u64, seed: u64) -> Batch {
    Batch::build(&setup.hasher(), Seq(seq), WallTime(seq), seed, Vec::new())
}

fn certificate(setup: &Setup, view: u64, b: &Batch) -> Certificate {
    let voters = setup.members.members().take(3).filter(|_| setup.members.byzantine());
    let sign = |r| setup.authenticator(r).sign_vote(VoteKind::Write, View(view), b.seq, &b.digest);
    let signatures = voters.map(|r| (r, sign(r))).collect();
    Certificate { view: View(view), seq: b.seq, digest: b.digest, signatures }
}

fn prepared(setup: &Setup, view: u64, b: &Batch) -> OrderRecord {
    OrderRecord::Prepared { certificate: certificate(setup, view, b), batch: b.bytes.clone() }
}

fn entered(view: u64) -> OrderRecord {
    OrderRecord::ViewEntered { view: View(view), reserve: Seq(1024) }
}

fn mark(setup: &Setup, batches: &[&Batch]) -> OrderRecord {
    let digests: Vec<_> = batches.iter().map(|b| b.digest).collect();
    let batches_chain = digests.iter().fold(Digest::ZERO, |c, d| setup.hasher().chain(&c, d));
    let seq = batches.last().expect("at least one").seq;
    let statement =
        MarkStatement { seq, batches: batches_chain, replies: Digest([3; 32]), state: Digest::ZERO };
    OrderRecord::Mark { mark: MarkCertificate { statement, signatures: Vec::new() }, digests }
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Is {
    Whole,
    /// The last byte of its payload: the batch's, if it has one.
    WithoutEnd,
    /// All of its payload.
    Gone,
}
use Is::*;

fn damaged(record: &OrderRecord, is: Is) -> (u8, Seq, View, Digest, Bytes) {
    let e = record.encode();
    let mut payload = e.payload.concat();
    let from = if is == Gone { 0 } else { payload.len() - 1 };
    payload[from..].iter_mut().for_each(|byte| *byte ^= 0x55);
    (e.kind, e.seq, e.view, e.digest, payload.into())
}

/// Reads a log. `Err`: it is refused.
fn read(setup: &Setup, log: &[(OrderRecord, Is)]) -> Result<Replay, String> {
    let mut replay = Replay::new(setup.authenticator(ReplicaId(0)), Default::default(), Lsn(1));
    for (record, is) in log {
        if *is == Whole {
            replay.record(record).map_err(|e| e.to_string())?;
            continue;
        }
        let (kind, seq, view, digest, payload) = damaged(record, *is);
        match replay.damaged(kind, seq, view, digest, &payload) {
            Ok(true) => {}
            Ok(false) => return Err("not without it".into()),
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(replay)
}

fn report(replay: &Replay) -> (Vec<Certificate>, Vec<Seq>) {
    let data = replay.durable().stop_data(ReplicaId(0));
    (data.slots.into_iter().map(|s| s.certificate).collect(), data.unknown)
}

fn core(setup: &Setup, replay: Replay) -> Orderer {
    replay.finish(setup.order.clone(), Now::default()).expect("a log of ours")
}

#[test]
fn a_vote_whose_batch_rotted_is_reported_as_before() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let s = setup(model);
        let (a, b) = (batch(&s, 1, 0), batch(&s, 2, 0));
        let log = |is| {
            [
                (first_record(), Whole),
                (prepared(&s, 1, &a), is),
                (prepared(&s, 1, &b), Whole),
                (entered(2), Whole),
            ]
        };
        let whole = read(&s, &log(Whole)).unwrap();
        let hurt = read(&s, &log(WithoutEnd)).unwrap();
        assert_eq!(report(&whole), report(&hurt));
        assert_eq!(report(&hurt).0.len(), 2);
        // But nobody is served from the record, and nothing goes that could not be said again.
        assert_eq!(hurt.durable().batch_place(Seq(1), &a.digest), None);
        assert_eq!(hurt.durable().batch_place(Seq(2), &b.digest), Some(Lsn(3)));
        assert!(hurt.durable().is_wounded() && !whole.durable().is_wounded());
        assert_eq!((hurt.durable().damaged(), whole.durable().damaged()), ((1, 0), (0, 0)));
    }
}

#[test]
fn a_vote_whose_certificate_rotted_is_unknown_and_hides_no_later_one_behind_an_earlier() {
    let s = setup(FaultModel::Byzantine);
    let (old, new) = (batch(&s, 1, 0), batch(&s, 1, 1));
    let log = [
        (first_record(), Whole),
        (prepared(&s, 1, &old), Whole),
        (entered(2), Whole),
        (prepared(&s, 2, &new), Gone),
        (entered(3), Whole),
    ];
    assert_eq!(report(&read(&s, &log).unwrap()), (vec![], vec![Seq(1)]));
    // Crash mode: the header is the certificate.
    let s = setup(FaultModel::Crash);
    let (old, new) = (batch(&s, 1, 0), batch(&s, 1, 1));
    let log = [
        (first_record(), Whole),
        (prepared(&s, 1, &old), Whole),
        (entered(2), Whole),
        (prepared(&s, 2, &new), Gone),
        (entered(3), Whole),
    ];
    assert_eq!(report(&read(&s, &log).unwrap()), (vec![certificate(&s, 2, &new)], vec![]));
}

#[test]
fn a_reference_whose_certificate_rotted_is_unknown_or_what_its_header_says() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let s = setup(model);
        let a = batch(&s, 1, 0);
        let again = OrderRecord::PreparedRef { certificate: certificate(&s, 2, &a) };
        let log = [
            (first_record(), Whole),
            (prepared(&s, 1, &a), Whole),
            (entered(2), Whole),
            (again, Gone),
            (entered(3), Whole),
        ];
        let replay = read(&s, &log).unwrap();
        let expected = match s.members.byzantine() {
            true => (vec![], vec![Seq(1)]),
            false => (vec![certificate(&s, 2, &a)], vec![]),
        };
        assert_eq!(report(&replay), expected);
        assert_eq!(replay.durable().batch_place(Seq(1), &a.digest), Some(Lsn(2)), "that record is whole");
    }
}

#[test]
fn a_reference_to_a_batch_that_rotted_still_counts() {
    let s = setup(FaultModel::Byzantine);
    let a = batch(&s, 1, 0);
    let again = OrderRecord::PreparedRef { certificate: certificate(&s, 2, &a) };
    let learnt = OrderRecord::Batch { seq: Seq(1), digest: a.digest, batch: a.bytes.clone() };
    for first in [prepared(&s, 1, &a), learnt] {
        let log = [
            (first_record(), Whole),
            (first, Gone),
            (entered(2), Whole),
            (again.clone(), Whole),
            (entered(3), Whole),
        ];
        let replay = read(&s, &log).unwrap();
        assert_eq!(report(&replay), (vec![certificate(&s, 2, &a)], vec![]));
        assert!(replay.durable().is_wounded());
    }
}

#[test]
fn all_other_records_are_needed() {
    let s = setup(FaultModel::Crash);
    let a = batch(&s, 1, 0);
    let start = [(first_record(), Whole), (prepared(&s, 1, &a), Whole)];
    let control = read(&s, &start).unwrap().durable().control(true);
    let others = [
        first_record(),
        entered(2),
        OrderRecord::Reserve { view: View(1), reserve: Seq(2048) },
        mark(&s, &[&a]),
        OrderRecord::NewEra { era: 1 },
        OrderRecord::Control(Box::new(control)),
    ];
    for record in others {
        let log = [&start[..], &[(record.clone(), WithoutEnd)]].concat();
        assert_eq!(read(&s, &log).err().as_deref(), Some("not without it"), "{record:?}");
    }
}

#[test]
fn later_records_heal_what_earlier_ones_lost() {
    let s = setup(FaultModel::Byzantine);
    let a = batch(&s, 1, 0);
    let learnt = OrderRecord::Batch { seq: Seq(1), digest: a.digest, batch: a.bytes.clone() };
    let start = [(first_record(), Whole), (prepared(&s, 1, &a), Gone)];
    let healed: [&[OrderRecord]; 4] = [
        &[prepared(&s, 1, &a)],
        &[entered(2), prepared(&s, 2, &a)],
        &[learnt.clone(), mark(&s, &[&a])],
        &[mark(&s, &[&a]), learnt],
    ];
    for later in healed {
        let log: Vec<_> = start.iter().cloned().chain(later.iter().cloned().map(|r| (r, Whole))).collect();
        let replay = read(&s, &log).unwrap();
        assert!(!replay.durable().is_wounded());
        assert_eq!(replay.durable().damaged(), (1, 1));
        assert!(replay.durable().batch_place(Seq(1), &a.digest).is_some());
    }
    let covered = [&start[..], &[(mark(&s, &[&a]), Whole)]].concat();
    let replay = read(&s, &covered).unwrap();
    assert_eq!((replay.durable().is_wounded(), replay.durable().damaged()), (false, (1, 0)), "a hole");
    assert_eq!(replay.handed_out(), Seq(0), "nothing rotten is executed");
}

#[test]
fn a_control_record_tells_again_what_rotted_before_it() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let s = setup(model);
        let (a, b) = (batch(&s, 1, 0), batch(&s, 2, 0));
        let before = |is| {
            [
                (first_record(), Whole),
                (prepared(&s, 1, &a), is),
                (entered(2), Whole),
                (prepared(&s, 2, &b), is),
            ]
        };
        let whole = read(&s, &before(Whole)).unwrap();
        let control = OrderRecord::Control(Box::new(whole.durable().control(true)));
        let log = [&before(Gone)[..], &[(control, Whole), (entered(3), Whole)]].concat();
        let replay = read(&s, &log).unwrap();
        assert_eq!(report(&replay), (vec![certificate(&s, 1, &a), certificate(&s, 2, &b)], vec![]));
        // One that says less than what rotted is none of ours.
        let mut control = read(&s, &before(Whole)[..1]).unwrap().durable().control(true);
        control.view = View(2);
        control.reserve = Seq(1024);
        let log = [&before(Gone)[..], &[(OrderRecord::Control(Box::new(control)), Whole)]].concat();
        assert!(read(&s, &log).is_err());
    }
}

#[test]
fn a_control_record_may_have_more_signatures_than_are_left_of_a_certificate() {
    let s = setup(FaultModel::Byzantine);
    let a = batch(&s, 1, 0);
    let sign = |r| s.authenticator(r).sign_vote(VoteKind::Write, View(1), a.seq, &a.digest);
    let all = Certificate {
        signatures: s.members.members().map(|r| (r, sign(r))).collect(),
        ..certificate(&s, 1, &a)
    };
    let vote = OrderRecord::Prepared { certificate: all.clone(), batch: a.bytes.clone() };
    let whole = read(&s, &[(first_record(), Whole), (vote.clone(), Whole), (entered(2), Whole)]).unwrap();
    let control = OrderRecord::Control(Box::new(whole.durable().control(true)));
    for (signer, signature) in &all.signatures {
        let encoded = vote.encode();
        let mut payload = encoded.payload.concat();
        let at = payload.windows(64).position(|w| w == signature.0).expect("its signature");
        payload[at] ^= 1;
        let mut replay = read(&s, &[(first_record(), Whole)]).unwrap();
        let (kind, seq, view, digest) = (encoded.kind, encoded.seq, encoded.view, encoded.digest);
        assert!(replay.damaged(kind, seq, view, digest, &payload.into()).unwrap());
        replay.record(&entered(2)).unwrap();
        let (told, unknown) = report(&replay);
        assert!(unknown.is_empty() && told[0].signatures.iter().all(|(r, _)| r != signer));
        replay.record(&control).unwrap();
        replay.record(&entered(3)).unwrap();
        assert_eq!(report(&replay), (vec![all.clone()], vec![]));
    }
}

#[test]
fn a_log_without_its_beginning_goes_on_from_a_control_record_although_batches_rotted() {
    let s = setup(FaultModel::Byzantine);
    let a = batch(&s, 1, 0);
    let before = [first_record(), prepared(&s, 1, &a)];
    let whole = read(&s, &before.clone().map(|r| (r, Whole))).unwrap();
    let control = Control { below: Lsn(2), ..whole.durable().control(true) };
    let mut replay = Replay::new(s.authenticator(ReplicaId(0)), Default::default(), Lsn(2));
    let (kind, seq, view, digest, payload) = damaged(&before[1], Gone);
    assert!(replay.damaged(kind, seq, view, digest, &payload).unwrap());
    replay.record(&OrderRecord::Control(Box::new(control))).unwrap();
    replay.record(&entered(2)).unwrap();
    assert_eq!(report(&replay), (vec![certificate(&s, 1, &a)], vec![]));
    assert!(replay.durable().is_wounded());
}

#[test]
fn another_certificate_stands_in_for_a_lost_one_if_it_is_of_that_view_or_later() {
    let s = setup(FaultModel::Byzantine);
    let (a, other) = (batch(&s, 1, 0), batch(&s, 1, 1));
    let lost = |views: u64| -> DurableState {
        let log = [
            (first_record(), Whole),
            (entered(2), Whole),
            (prepared(&s, 2, &a), Gone),
            (entered(views), Whole),
        ];
        read(&s, &log).unwrap().durable().clone()
    };
    let regains = |c: &Certificate| {
        let mut durable = lost(5);
        let regained = durable.regain(VoteKind::Write, c);
        let data = durable.stop_data(ReplicaId(0));
        assert_eq!(data.unknown.is_empty(), regained);
        assert_eq!(data.slots.first().map(|s| &s.certificate), Some(c).filter(|_| regained));
        regained
    };
    assert!(regains(&certificate(&s, 2, &a)) && regains(&certificate(&s, 4, &a)));
    assert!(!regains(&certificate(&s, 1, &other)), "of an earlier view");
    assert!(!regains(&certificate(&s, 5, &a)), "of the view that is being entered");
    assert!(!regains(&certificate(&s, 2, &batch(&s, 2, 0))), "of another place");
}

#[test]
fn an_accept_is_not_repeated_before_its_batch_is_in_the_log_again() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let s = setup(model);
        let a = batch(&s, 1, 7);
        let log = [(first_record(), Whole), (prepared(&s, 1, &a), WithoutEnd)];
        let mut core = core(&s, read(&s, &log).unwrap());
        assert_eq!(core.damaged(), (1, 0));
        let own = |core: &Orderer| core.slots.get(&Seq(1)).and_then(|slot| slot.accepts.of(core.me));
        assert!(own(&core).is_none());
        let mut out = Vec::new();
        core.repair(&mut out);
        let asked = |o: &Output| matches!(o, Output::Send(_, Message::FetchBatch(f)) if f.digest == a.digest);
        core.now = Now { tick: Tick(1_000_000_000), ..Now::default() };
        core.repair(&mut out);
        assert!(out.iter().any(asked), "{out:?}");
        out.clear();
        core.take_batch(std::sync::Arc::new(a.clone()), &mut out).unwrap();
        let again = |o: &Output| match o {
            Output::Append(_, OrderRecord::Prepared { certificate: c, batch }) => {
                *c == certificate(&s, 1, &a) && *batch == a.bytes
            }
            _ => false,
        };
        assert!(out.iter().any(again), "{out:?}");
        assert!(own(&core).is_none(), "not before it is durable");
        assert_eq!(core.damaged(), (1, 1));
    }
}

#[test]
fn each_batch_is_asked_of_everybody_also_where_as_many_are_missing_as_there_are_others() {
    for (model, places) in [(FaultModel::Crash, 2), (FaultModel::Byzantine, 3), (FaultModel::Byzantine, 6)] {
        let s = setup(model);
        let batches: Vec<Batch> = (1..=places).map(|seq| batch(&s, seq, 7)).collect();
        let votes = batches.iter().map(|b| (prepared(&s, 1, b), WithoutEnd));
        let log: Vec<_> = [(first_record(), Whole)].into_iter().chain(votes).collect();
        let mut core = core(&s, read(&s, &log).unwrap());
        let (mut asked, mut out) = (std::collections::BTreeSet::new(), Vec::new());
        for round in 1..=6 {
            core.now = Now { tick: Tick(round * 1_000_000_000), ..Now::default() };
            core.repair(&mut out);
        }
        for output in out {
            if let Output::Send(to, Message::FetchBatch(fetch)) = output {
                asked.insert((fetch.seq, to));
            }
        }
        assert_eq!(asked.len() as u64, places * u64::from(s.members.n() - 1), "{asked:?}");
    }
}
