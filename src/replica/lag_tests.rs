use super::decisions::{Recent, Store};
use super::lag::Lag;
use crate::config::Durability;
use crate::order::durable::ELSEWHERE;
use crate::types::*;
use crate::wire::batch::{Batch, Hasher};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;

fn at(second: u64) -> Tick {
    Tick(second * 1_000_000_000 + 1)
}

fn look(lag: &mut Lag, second: u64, executed: u64, decided: &[u64]) -> Option<String> {
    lag.look(at(second), Seq(executed), decided.iter().copied().map(Seq), 1, Durability::None)
}

#[test]
fn a_replica_that_is_behind_and_comes_no_nearer_says_so_until_it_does() {
    let mut lag = Lag::default();
    assert_eq!(look(&mut lag, 0, 5, &[5, 5, 5]), None);
    // Long without work is no lag; it counts from when the others went ahead.
    assert_eq!(look(&mut lag, 100, 5, &[5, 5, 5]), None);
    assert_eq!(look(&mut lag, 101, 5, &[900, 901, 902]), None);
    assert_eq!(look(&mut lag, 109, 5, &[900, 901, 902]), None);
    let told = look(&mut lag, 111, 5, &[950, 901, 902]).expect("ten seconds");
    assert!(told.contains("place 5") && told.contains("decided 902") && told.contains("64 MiB"), "{told}");
    assert!(look(&mut lag, 112, 5, &[950, 951, 952]).is_some(), "as long as it lasts");
    assert_eq!(look(&mut lag, 113, 6, &[950, 951, 952]), None, "it comes nearer");
    assert_eq!(look(&mut lag, 120, 7, &[950, 951, 952]), None);
    assert!(look(&mut lag, 130, 7, &[950, 951, 952]).is_some());
    assert_eq!(look(&mut lag, 131, 952, &[950, 951, 952]), None);
}

#[test]
fn one_liar_raises_no_alarm() {
    let mut lag = Lag::default();
    for second in 0..30 {
        assert_eq!(look(&mut lag, second, 5, &[5, u64::MAX, 4]), None);
    }
}

#[test]
fn what_is_no_longer_kept_is_told_and_not_passed_over() {
    let hasher = Hasher { cluster: ClusterId([1; 16]), algorithm: DigestAlgorithm::Blake3 };
    let mut recent = Recent::default();
    for seq in (1..=70).map(Seq) {
        // A mebibyte each.
        let bytes = Bytes::from(vec![0; 1 << 20]);
        recent.add(&Batch { bytes, ..Batch::noop(&hasher, seq) });
    }
    let store = Store::Recent(Arc::new(Mutex::new(recent)));
    assert!(store.batch(Seq(70), ELSEWHERE).is_ok_and(|batch| batch.is_some()));
    assert_eq!(store.batch(Seq(71), ELSEWHERE), Ok(None), "not yet decided");
    let why = store.batch(Seq(3), ELSEWHERE).expect_err("it is gone");
    assert!(why.contains("no longer kept"), "{why}");
}
