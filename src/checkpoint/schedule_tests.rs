//! Turns.

use super::schedule::{Schedule, Turns};
use crate::types::{ReplicaId, Seq};
use proptest::prelude::*;

#[test]
fn turns_stand_where_the_paper_puts_them() {
    // P = 1000, n = 4: replica i after i · 250, 1000 + i · 250, …
    let turns = Turns::Sequential { group: 1 };
    for i in 0..4u32 {
        let schedule = Schedule::new(turns, 1000, 4, ReplicaId(i), 10).expect("a period");
        let taken: Vec<u64> = (1..=2000).filter(|seq| schedule.takes(Seq(*seq), 1)).collect();
        let first = if i == 0 { 1000 } else { u64::from(i) * 250 };
        assert_eq!(taken, [first, first + 1000], "replica {i}");
    }
    assert_eq!(Schedule::new(turns, 0, 4, ReplicaId(0), 10), None);
}

#[test]
fn equation_1_of_the_paper() {
    // 1 GB in 15 s at 4,700 operations per second, n = 4: P > 282,000.
    let schedule =
        Schedule::new(Turns::Sequential { group: 1 }, 300_000, 4, ReplicaId(0), 100).expect("a period");
    assert_eq!(schedule.smallest_period(15 * 4700), 282_001);
    let together = Schedule::new(Turns::Synchronized, 300_000, 4, ReplicaId(0), 100).expect("a period");
    assert_eq!(together.smallest_period(15 * 4700), 70_501);
}

proptest! {
    #[test]
    fn no_two_groups_have_the_same_turn_and_all_have_one(
        n in 3u32..12, group in 1u32..4, period in 1u64..5000, mark in 1u64..64,
    ) {
        let schedule = |i| Schedule::new(Turns::Sequential { group }, period, n, ReplicaId(i), mark).expect("a period");
        let length = schedule(0).period();
        for seq in 1..=2 * length {
            let takers: Vec<u32> = (0..n).filter(|i| schedule(*i).takes(Seq(seq), 1)).collect();
            prop_assert!(takers.len() <= group as usize, "{takers:?} at {seq}");
            prop_assert!(takers.windows(2).all(|pair| pair[0] / group == pair[1] / group));
            prop_assert!(takers.is_empty() || seq % mark == 0, "place {seq} is no mark's");
        }
        for i in 0..n {
            prop_assert_eq!((1..=2 * length).filter(|seq| schedule(i).takes(Seq(*seq), 1)).count(), 2);
        }
    }
}
