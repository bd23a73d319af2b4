//! What a quorum of STOP-DATA fixes.

use super::leader_change::choose;
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;
use crate::wire::batch::*;
use crate::wire::messages::*;
use std::sync::Arc;

const HASHER: Hasher = Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 };

/// A report: its mark, and (place, view, value) above it.
fn report(sender: u32, mark: u64, slots: &[(u64, u64, u8)], unknown: &[u64]) -> Arc<StopData> {
    let slots = slots
        .iter()
        .map(|(seq, view, value)| SlotReport {
            kind: VoteKind::Write,
            certificate: Certificate {
                view: View(*view),
                seq: Seq(*seq),
                digest: Digest([*value; 32]),
                signatures: Vec::new(),
            },
        })
        .collect();
    let statement = MarkStatement { seq: Seq(mark), ..Default::default() };
    Arc::new(StopData {
        view: View(9),
        sender: ReplicaId(sender),
        mark: MarkCertificate { statement, signatures: Vec::new() },
        slots,
        unknown: unknown.iter().map(|s| Seq(*s)).collect(),
        signature: Signature::NONE,
    })
}

/// What is chosen, as (place, value); value 0 is a no-op.
fn chosen(reports: &[Arc<StopData>]) -> Result<(u64, Vec<(u64, u8)>), u64> {
    let members = Members::new(FaultModel::Byzantine, 4, 1).expect("4 bear 1");
    let choice = choose(members, &HASHER, reports).map_err(|seq| seq.0)?;
    let places = choice.places.iter().map(|(seq, digest)| {
        let noop = Batch::noop(&HASHER, *seq).digest == *digest;
        (seq.0, if noop { 0 } else { digest.0[0] })
    });
    Ok((choice.mark.statement.seq.0, places.collect()))
}

#[test]
fn the_certificate_of_the_highest_view_wins() {
    let all = [
        report(0, 0, &[(1, 1, 10), (2, 3, 20)], &[]),
        report(1, 0, &[(1, 2, 11)], &[]),
        report(2, 0, &[(2, 2, 21)], &[]),
    ];
    assert_eq!(chosen(&all), Ok((0, vec![(1, 11), (2, 20)])));
}

#[test]
fn free_places_between_reported_ones_get_a_no_op() {
    let all = [report(0, 0, &[(3, 1, 30)], &[]), report(1, 0, &[], &[]), report(2, 0, &[(1, 1, 10)], &[])];
    assert_eq!(chosen(&all), Ok((0, vec![(1, 10), (2, 0), (3, 30)])));
}

#[test]
fn nothing_reported_fixes_nothing() {
    let all = [report(0, 0, &[], &[]), report(1, 0, &[], &[]), report(2, 0, &[], &[])];
    assert_eq!(chosen(&all), Ok((0, vec![])));
}

#[test]
fn what_the_highest_mark_covers_is_not_chosen_again() {
    let all = [
        report(0, 0, &[(3, 1, 30), (5, 1, 50)], &[]),
        report(1, 4, &[], &[]),
        report(2, 0, &[(4, 1, 40)], &[]),
    ];
    assert_eq!(chosen(&all), Ok((4, vec![(5, 50)])));
}

#[test]
fn a_place_that_fewer_than_a_quorum_know_is_named() {
    let three = [report(0, 0, &[(1, 1, 10)], &[]), report(1, 0, &[], &[2]), report(2, 0, &[], &[])];
    assert_eq!(chosen(&three), Err(2));
    let mut four = three.to_vec();
    four.push(report(3, 0, &[(2, 1, 20)], &[]));
    assert_eq!(chosen(&four), Ok((0, vec![(1, 10), (2, 20)])));
}

#[test]
fn the_order_of_the_reports_does_not_matter() {
    let mut all = vec![
        report(0, 0, &[(1, 2, 10), (2, 1, 20)], &[]),
        report(1, 1, &[(2, 4, 22)], &[]),
        report(2, 0, &[(3, 1, 30)], &[]),
    ];
    let first = chosen(&all);
    all.rotate_left(1);
    assert_eq!(chosen(&all), first);
    all.reverse();
    assert_eq!(chosen(&all), first);
    assert_eq!(first, Ok((1, vec![(2, 22), (3, 30)])));
}
