//! The fold over the log.

use super::durable::{Base, DurableState};
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
    let statement = MarkStatement { seq, batches: chain, replies: Digest([3; 32]), state: Digest::ZERO };
    OrderRecord::Mark { mark: MarkCertificate { statement, signatures: Vec::new() }, digests }
}

fn fold(records: &[OrderRecord]) -> DurableState {
    let mut state = DurableState::new(hasher(), Base::default(), Lsn(1));
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
        let mut state = DurableState::new(hasher(), Base::default(), Lsn(1));
        let all = (1..).map(Lsn).zip(&records).try_for_each(|(lsn, record)| state.apply(lsn, record));
        assert!(all.is_err(), "{what}");
    }
}

#[test]
fn replay_executes_what_a_mark_covers_and_nothing_more() {
    let (a, b, c) = (batch(1, 0), batch(2, 0), batch(3, 0));
    let mut replay = Replay::new(setup().authenticator(ReplicaId(0)), Base::default(), Lsn(1));
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
    let mut replay = Replay::new(setup().authenticator(ReplicaId(0)), Base::default(), Lsn(1));
    for record in [first_record(), prepared(1, &b), mark(&[&a, &b])] {
        assert!(replay.record(&record).expect("a log we wrote").is_empty());
    }
    let late = OrderRecord::Batch { seq: Seq(1), digest: a.digest, batch: a.bytes.clone() };
    assert_eq!(replay.record(&late).expect("a log we wrote").len(), 2);
}

#[test]
fn an_unformatted_log_starts_nothing() {
    let replay = Replay::new(setup().authenticator(ReplicaId(0)), Base::default(), Lsn(1));
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
    assert!(OrderRecord::decode(11, Seq(0), View(0), Digest::ZERO, bytes::Bytes::new()).is_err());
}

/// A log of twelve places with marks at 4, 8 and 12, two of them prepared again above, after the records below `first` are gone.
fn long_log() -> Vec<OrderRecord> {
    let batches: Vec<Batch> = (1..=14).map(|seq| batch(seq, 0)).collect();
    let all: Vec<&Batch> = batches.iter().collect();
    let mut records = vec![first_record()];
    for four in [0, 4, 8] {
        records.extend(all[four..four + 4].iter().map(|b| prepared(1, b)));
        records.push(mark_from(&all[..four + 4], four));
    }
    records.extend([prepared(1, all[12]), entered(2), prepared(2, all[13])]);
    records
}

/// The mark of the last of `batches`, in a record that follows the mark at `from`.
fn mark_from(batches: &[&Batch], from: usize) -> OrderRecord {
    let OrderRecord::Mark { mark, digests } = mark(batches) else { unreachable!() };
    OrderRecord::Mark { mark, digests: digests[from..].to_vec() }
}

#[test]
fn a_log_without_its_beginning_says_the_same_from_its_control_record_on() {
    let mut records = long_log();
    let mut whole = fold(&records);
    let control = OrderRecord::Control(Box::new(whole.control(true)));
    let lsn = Lsn(records.len() as u64 + 1);
    records.push(control.clone());
    whole.apply(lsn, &control).expect("it says what is known");
    // A checkpoint covers place 6, so what leads from 6 on is needed: its batch is record 8.
    let (upto, below) = whole.recyclable(Seq(6), Lsn(u64::MAX));
    assert_eq!((upto, below), (Seq(6), Lsn(9)));
    let checkpoint = Base { seq: Seq(6), batches: whole.history(Seq(6)).expect("above the base") };
    let mut rest = DurableState::new(hasher(), checkpoint, below);
    for (lsn, record) in (1..).map(Lsn).zip(&records).skip(below.0 as usize - 1) {
        rest.apply(lsn, record).expect("what is left of a log we wrote");
    }
    assert!(rest.known);
    assert_eq!(rest.stop_data(ReplicaId(0)).unsigned(), whole.stop_data(ReplicaId(0)).unsigned());
    assert_eq!(rest.control(true).bytes(), whole.control(true).bytes());
    assert_eq!(rest.history(Seq(12)), whole.history(Seq(12)));
    for seq in (7..=14).map(Seq) {
        let digest = batch(seq.0, 0).digest;
        assert_eq!(rest.batch_place(seq, &digest), whole.batch_place(seq, &digest), "place {seq}");
    }
    whole.trim(upto);
    assert_eq!(whole.base(), checkpoint);
    assert_eq!((whole.digest(Seq(6)), whole.digest(Seq(7))), (None, Some(batch(7, 0).digest)));
    assert!(whole.chain_from(Seq(3), 4).is_none() && whole.chain_from(Seq(6), 4).is_some());
}

#[test]
fn records_that_are_kept_for_others_keep_the_places_they_lead_to() {
    let mut state = fold(&long_log());
    let (upto, below) = state.recyclable(Seq(12), Lsn(8));
    // Place 6 lies in record 8: what is kept from there on leads on from place 5.
    assert_eq!((upto, below), (Seq(5), Lsn(8)));
    state.trim(upto);
    assert_eq!(state.chain_from(Seq(5), 8).map(|(m, d)| (m.statement.seq, d.len())), Some((Seq(12), 7)));
    assert_eq!(state.recyclable(Seq(3), Lsn(u64::MAX)), (Seq(5), Lsn(8)), "what is gone stays gone");
}

#[test]
fn a_log_without_its_beginning_is_refused_without_what_leads_to_it() {
    let records = long_log();
    let tail = |base: u64, from: usize| {
        let whole = fold(&records);
        let base = Base { seq: Seq(base), batches: whole.history(Seq(base)).expect("in the log") };
        let mut replay = Replay::new(setup().authenticator(ReplicaId(0)), base, Lsn(from as u64));
        let read = records[from - 1..].iter().try_for_each(|r| replay.record(r).map(drop));
        read.and_then(|()| replay.finish(setup().order, Default::default()).map(drop)).err()
    };
    assert_eq!(tail(6, 9), Some(RestoreError::NoControl(Lsn(9))), "nothing tells the view");
    assert!(
        matches!(tail(3, 9), Some(RestoreError::Impossible(_))),
        "the checkpoint ends before the log begins"
    );
    assert_eq!(tail(0, 1), None, "the whole log needs neither");
}
