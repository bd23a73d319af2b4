use super::postponing::Postponing;
use crate::types::*;

const WHO: ReplicaId = ReplicaId(2);

fn at(seconds: u64) -> Tick {
    Tick(seconds * 1_000_000_000)
}

fn waiting(postponing: &Postponing) -> Vec<ReplicaId> {
    postponing.waiting().collect()
}

#[test]
fn nobody_waits_unless_told_so() {
    let mut postponing = Postponing::new(0, 0);
    assert!(!postponing.asked(at(1), WHO, u64::MAX));
    assert_eq!((waiting(&postponing), postponing.tick(at(2), u64::MAX)), (vec![], vec![]));
}

#[test]
fn who_asks_under_load_waits_until_it_falls() {
    let mut postponing = Postponing::new(1000, 300_000_000_000);
    for second in 1..50 {
        assert!(postponing.asked(at(second), WHO, 1001));
        assert_eq!(postponing.tick(at(second), 1001), []);
    }
    assert_eq!(waiting(&postponing), [WHO]);
    assert_eq!(postponing.tick(at(50), 1000), [WHO]);
    assert_eq!((waiting(&postponing), postponing.tick(at(51), 1000)), (vec![], vec![]));
    // The same transfer begins anew: once is enough.
    assert!(!postponing.asked(at(52), WHO, 5000));
    // A later one waits again.
    assert_eq!(postponing.tick(at(200), 5000), []);
    assert!(postponing.asked(at(200), WHO, 5000));
}

#[test]
fn nobody_waits_longer_than_told() {
    let mut postponing = Postponing::new(1000, 10_000_000_000);
    for second in 1..11 {
        assert!(postponing.asked(at(second), WHO, 5000));
        assert_eq!(postponing.tick(at(second), 5000), []);
    }
    assert_eq!(postponing.tick(at(11), 5000), [WHO]);
    assert!(!postponing.asked(at(12), WHO, 5000));
}

#[test]
fn at_little_load_nobody_waits() {
    let mut postponing = Postponing::new(1000, 10_000_000_000);
    assert!(!postponing.asked(at(1), WHO, 1000));
    assert!(postponing.asked(at(1), ReplicaId(1), 1001));
    assert_eq!(waiting(&postponing), [ReplicaId(1)]);
}
