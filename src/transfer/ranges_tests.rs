//! Sets of runs against sets of numbers.
// A list of one run is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use super::ranges::RangeSet;
use crate::sim::random::Random;
use std::collections::BTreeSet;

fn numbers(set: &RangeSet) -> BTreeSet<u64> {
    set.iter().flatten().collect()
}

/// Runs neither touch nor overlap, and are counted.
fn check(set: &RangeSet, model: &BTreeSet<u64>, seed: u64) {
    assert_eq!(&numbers(set), model, "seed {seed}");
    assert_eq!(set.len(), model.len() as u64, "seed {seed}");
    let runs: Vec<_> = set.iter().collect();
    assert!(runs.windows(2).all(|w| w[0].end < w[1].start), "seed {seed}: {runs:?}");
    assert_eq!((set.first(), set.last()), (model.first().copied(), model.last().copied()), "seed {seed}");
    assert_eq!(set.backwards().collect::<Vec<_>>(), model.iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn a_set_of_runs_is_a_set_of_numbers() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
        for _ in 0..100 {
            let start = random.below(60);
            let run = start..start + random.below(12);
            match random.below(8) {
                0..3 => {
                    set.add(run.clone());
                    model.extend(run);
                }
                3 => {
                    set.subtract(run.clone());
                    model.retain(|c| !run.contains(c));
                }
                4 => assert_eq!(set.insert(start), model.insert(start)),
                5 => assert_eq!(set.remove(start), model.remove(&start)),
                6 => {
                    let taken = set.take_first(run.end - run.start);
                    let expected: BTreeSet<u64> =
                        model.iter().copied().take((run.end - run.start) as usize).collect();
                    model.retain(|c| !expected.contains(c));
                    check(&taken, &expected, seed);
                }
                _ => {
                    let taken = set.take_last(run.end - run.start);
                    let expected: BTreeSet<u64> =
                        model.iter().rev().copied().take((run.end - run.start) as usize).collect();
                    model.retain(|c| !expected.contains(c));
                    check(&taken, &expected, seed);
                }
            }
            check(&set, &model, seed);
            assert_eq!(set.contains(start), model.contains(&start));
        }
    }
}

#[test]
fn sets_of_runs_are_combined_as_sets_of_numbers() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut any = || -> RangeSet {
            (0..random.below(8))
                .map(|_| {
                    let start = random.below(50);
                    start..start + random.below(10)
                })
                .collect()
        };
        let (a, b) = (any(), any());
        let (na, nb) = (numbers(&a), numbers(&b));
        check(&a.common(&b), &na.intersection(&nb).copied().collect(), seed);
        let (mut sum, mut rest) = (a.clone(), a.clone());
        sum.add_all(&b);
        rest.subtract_all(&b);
        check(&sum, &na.union(&nb).copied().collect(), seed);
        check(&rest, &na.difference(&nb).copied().collect(), seed);
    }
}

#[test]
fn a_run_is_taken_from_the_lowest() {
    let mut set: RangeSet = [3..5, 10..30].into_iter().collect();
    assert_eq!(set.take_run(4).iter().collect::<Vec<_>>(), [3..5]);
    assert_eq!(set.take_run(4).iter().collect::<Vec<_>>(), [10..14]);
    assert_eq!(set.take_run(0).len(), 0);
    assert_eq!(set.len(), 16);
}

#[test]
fn the_ends_of_the_numbers_are_no_trap() {
    let mut set: RangeSet = [0..u64::MAX].into_iter().collect();
    assert_eq!(set.len(), u64::MAX);
    assert!(!set.contains(u64::MAX) && !set.remove(u64::MAX));
    assert_eq!(set.take_last(1).first(), Some(u64::MAX - 1));
    assert_eq!(set.take_first(u64::MAX).len(), u64::MAX - 1);
    assert!(set.is_empty());
    let inverted = std::ops::Range { start: 9, end: 3 };
    set.add(inverted.clone());
    set.subtract(inverted);
    assert!(set.is_empty());
}
