use crate::quorum::*;
use crate::types::*;

#[test]
fn any_two_quorums_share_a_correct_replica() {
    for n in 1..=22 {
        for model in [FaultModel::Crash, FaultModel::Byzantine] {
            for f in 0..=Group::most_faults(model, n) {
                let g = Group::new(model, n, f).unwrap();
                let shared = 2 * g.quorum().size() as i64 - n as i64;
                let liars = if g.byzantine() { f as i64 } else { 0 };
                assert!(shared > liars, "n={n} f={f} {model:?}");
                assert!(g.quorum().size() <= n - f, "a quorum of correct replicas exists: n={n} f={f}");
            }
        }
    }
}

#[test]
fn a_group_too_small_for_its_faults_is_refused_with_the_number_needed() {
    assert!(matches!(Group::new(FaultModel::Byzantine, 3, 1), Err(GroupError::TooSmall { needed: 4, .. })));
    assert!(matches!(Group::new(FaultModel::Crash, 2, 1), Err(GroupError::TooSmall { needed: 3, .. })));
    assert!(Group::new(FaultModel::Crash, 0, 0).is_err());
    assert!(Group::new(FaultModel::Crash, 65, 1).is_err());
}

#[test]
fn a_voter_counts_once() {
    let mut votes = VoteSet::default();
    assert!(votes.insert(ReplicaId(2)));
    assert!(!votes.insert(ReplicaId(2)));
    assert_eq!(votes.count(), 1);
    let q = Group::new(FaultModel::Byzantine, 4, 1).unwrap().quorum();
    assert!(!q.reached_by([0, 1, 1].map(ReplicaId).into_iter().collect()));
    assert!(q.reached_by([0, 1, 3].map(ReplicaId).into_iter().collect()));
}

#[test]
fn the_value_a_quorum_reaches_is_the_qth_highest() {
    let q = Group::new(FaultModel::Byzantine, 4, 1).unwrap().quorum();
    assert_eq!(q.reached_value([5, 9, 7].into_iter()), Some(5));
    assert_eq!(q.reached_value([5, 9, 7, 8].into_iter()), Some(7));
    assert_eq!(q.reached_value([5, 9].into_iter()), None);
}
