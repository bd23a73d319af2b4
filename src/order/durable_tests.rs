//! The fold over the log.

use super::durable::DurableState;
use super::record::OrderRecord;
use super::restore::{Replay, RestoreError, first_record, learner_record};
use crate::quorum::{FaultModel, Group as Members};
use crate::sim::cluster::Setup;
use crate::types::*;
use crate::wire::batch::*;
use crate::wire::messages::*;

fn setup() -> Setup {
    Setup::new(Members::new(FaultModel::Crash, 3, 1).expect("3 bear 1"))
}

fn hasher() -> Hasher {
    setup().hasher()
}

fn batch(seq: u64, seed: u64) -> Batch {
    Batch::build(&hasher(), Seq(seq), WallTime(seq), seed, Vec::new())
}

fn prepared(view: u64, b: &Batch) -> OrderRecord {
    let certificate = Certificate { view: View(view), seq: b.seq, digest: b.digest, signatures: Vec::new() };
    OrderRecord::Prepared { certificate, batch: b.bytes.clone() }
}

fn mark(batches: &[&Batch]) -> OrderRecord {
    let digests: Vec<_> = batches.iter().map(|b| b.digest).collect();
    let chain = digests.iter().fold(Digest::ZERO, |c, d| hasher().chain(&c, d));
    let seq = batches.last().expect("at least one").seq;
    let statement = MarkStatement { seq, batches: chain, replies: Digest([3; 32]) };
    OrderRecord::Mark { mark: MarkCertificate { statement, signatures: Vec::new() }, digests }
}

fn fold(records: &[OrderRecord]) -> DurableState {
    let mut state = DurableState::new(hasher());
    for (lsn, record) in (1..).map(Lsn).zip(records) {
        state.apply(lsn, record).expect("a log we wrote");
    }
    state
}

fn entered(view: u64) -> OrderRecord {
    OrderRecord::ViewEntered { view: View(view), reserve: Seq(1024) }
}

#[test]
fn a_report_is_the_log_up_to_the_view_and_nothing_behind() {
    let (a, b, c) = (batch(1, 0), batch(2, 0), batch(3, 0));
    let upto_view = [first_record(), prepared(1, &a), prepared(1, &b), entered(2)];
    let live = fold(&upto_view).stop_data(ReplicaId(0));
    assert_eq!(live.slots.iter().map(|s| s.certificate.seq.0).collect::<Vec<_>>(), [1, 2]);
    let more = [&upto_view[..], &[prepared(2, &a), prepared(2, &c), mark(&[&a, &b])]].concat();
    let later = fold(&more).stop_data(ReplicaId(0));
    assert_eq!(live.unsigned(), later.unsigned());
}

#[test]
fn a_report_keeps_the_certificate_of_the_highest_view() {
    let (old, new) = (batch(1, 0), batch(1, 1));
    let records = [first_record(), prepared(1, &old), entered(2), prepared(2, &new), entered(3)];
    let report = fold(&records).stop_data(ReplicaId(0));
    assert_eq!(report.slots.len(), 1);
    assert_eq!((report.slots[0].certificate.view, report.slots[0].certificate.digest), (View(2), new.digest));
}

#[test]
fn a_mark_takes_the_places_of_its_batches_and_forgets_what_it_covers() {
    let (a, b, c) = (batch(1, 0), batch(2, 0), batch(3, 0));
    let state = fold(&[first_record(), prepared(1, &a), prepared(1, &b), prepared(1, &c), mark(&[&a, &b])]);
    assert_eq!(state.digest(Seq(2)), Some(b.digest));
    assert_eq!(state.digest(Seq(3)), None);
    assert_eq!(state.batch_place(Seq(1), &a.digest), Some(Lsn(2)));
    assert_eq!(state.batch_place(Seq(3), &c.digest), Some(Lsn(4)));
    assert_eq!(state.batch_place(Seq(1), &b.digest), None);
    assert_eq!(state.prepared().map(|(s, _)| s.0).collect::<Vec<_>>(), [3]);
    let (end, digests) = state.chain_from(Seq(0), 8).expect("a list");
    assert_eq!((end.statement.seq, digests), (Seq(2), vec![a.digest, b.digest]));
    assert_eq!(
        state.chain_from(Seq(0), 1).map(|(m, _)| m.statement.seq),
        Some(Seq(2)),
        "the next mark at least"
    );
    assert!(state.chain_from(Seq(2), 8).is_none());
    assert_eq!(state.mark_before(Seq(9), Seq(0)).map(|m| m.seq), Some(Seq(2)));
    assert!(state.mark_before(Seq(1), Seq(0)).is_none() && state.mark_before(Seq(9), Seq(2)).is_none());
}

#[test]
fn a_log_that_we_cannot_have_written_is_refused() {
    let (a, b) = (batch(1, 0), batch(2, 0));
    let bad: Vec<(&str, Vec<OrderRecord>)> = vec![
        ("a view again", vec![entered(2), entered(2)]),
        ("a reserve goes back", vec![entered(2), OrderRecord::Reserve { view: View(2), reserve: Seq(3) }]),
        (
            "a reserve of another view",
            vec![entered(2), OrderRecord::Reserve { view: View(1), reserve: Seq(9999) }],
        ),
        ("prepared in a lower view", vec![entered(2), prepared(1, &a)]),
        (
            "a batch that is not there",
            vec![
                entered(1),
                match prepared(1, &a) {
                    OrderRecord::Prepared { certificate, .. } => OrderRecord::PreparedRef { certificate },
                    other => other,
                },
            ],
        ),
        ("a mark with a gap", vec![entered(1), mark(&[&b])]),
    ];
    for (what, records) in bad {
        let mut state = DurableState::new(hasher());
        let all = (1..).map(Lsn).zip(&records).try_for_each(|(lsn, record)| state.apply(lsn, record));
        assert!(all.is_err(), "{what}");
    }
}

#[test]
fn replay_executes_what_a_mark_covers_and_nothing_more() {
    let (a, b, c) = (batch(1, 0), batch(2, 0), batch(3, 0));
    let mut replay = Replay::new(setup().authenticator(ReplicaId(0)));
    let mut executed = Vec::new();
    for record in [first_record(), prepared(1, &a), prepared(1, &b), prepared(1, &c), mark(&[&a, &b])] {
        let early = replay.record(&record).expect("a log we wrote");
        executed.extend(early.iter().map(|b| b.seq.0));
    }
    assert_eq!(executed, [1, 2]);
    assert_eq!(replay.handed_out(), Seq(2));
}

#[test]
fn replay_waits_for_a_batch_that_its_log_learns_after_the_mark() {
    let (a, b) = (batch(1, 0), batch(2, 0));
    let mut replay = Replay::new(setup().authenticator(ReplicaId(0)));
    for record in [first_record(), prepared(1, &b), mark(&[&a, &b])] {
        assert!(replay.record(&record).expect("a log we wrote").is_empty());
    }
    let late = OrderRecord::Batch { seq: Seq(1), digest: a.digest, batch: a.bytes.clone() };
    assert_eq!(replay.record(&late).expect("a log we wrote").len(), 2);
}

#[test]
fn an_unformatted_log_starts_nothing() {
    let replay = Replay::new(setup().authenticator(ReplicaId(0)));
    let config = setup().order;
    assert_eq!(replay.finish(config, Default::default()).err(), Some(RestoreError::NoView));
}

#[test]
fn every_record_comes_back_as_it_was() {
    let a = batch(1, 0);
    let signature = Signature([5; 64]);
    let signed = Certificate {
        view: View(4),
        seq: Seq(1),
        digest: a.digest,
        signatures: vec![(ReplicaId(0), signature), (ReplicaId(2), signature)],
    };
    let all = [
        first_record(),
        OrderRecord::Reserve { view: View(2), reserve: Seq(1024) },
        OrderRecord::Prepared { certificate: signed.clone(), batch: a.bytes.clone() },
        OrderRecord::PreparedRef { certificate: signed },
        mark(&[&a, &batch(2, 0)]),
        OrderRecord::Batch { seq: Seq(1), digest: a.digest, batch: a.bytes.clone() },
        OrderRecord::NewEra { era: 3 },
        learner_record(),
        OrderRecord::Rejoined { view: View(5) },
    ];
    for record in all {
        let e = record.encode();
        let payload: bytes::Bytes = e.payload.concat().into();
        let back = OrderRecord::decode(e.kind, e.seq, e.view, e.digest, payload.clone()).expect("decodes");
        assert_eq!(format!("{back:?}"), format!("{record:?}"));
        if !matches!(record, OrderRecord::Prepared { .. } | OrderRecord::Batch { .. }) {
            for cut in 0..payload.len() {
                let short = OrderRecord::decode(e.kind, e.seq, e.view, e.digest, payload.slice(..cut));
                // A list of digests may end early; it then does not lead to its mark.
                assert!(short.is_err() || e.kind == 5, "{record:?} cut at {cut}");
            }
        }
        if matches!(e.kind, 3..=5) {
            let elsewhere = OrderRecord::decode(e.kind, Seq(77), e.view, e.digest, payload);
            assert!(elsewhere.is_err(), "{record:?} under another place");
        }
    }
    assert!(OrderRecord::decode(10, Seq(0), View(0), Digest::ZERO, bytes::Bytes::new()).is_err());
}
