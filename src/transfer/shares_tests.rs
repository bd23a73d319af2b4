//! How chunks are shared out, in numbers and in rounds.
// A list of one run is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use super::fetch::*;
use super::plan::*;
use super::ranges::RangeSet;
use crate::sim::random::Random;
use crate::types::*;
use std::collections::BTreeMap;
use std::ops::Range;

const SECOND: u64 = 1_000_000_000;
const CHUNK: u64 = 1 << 20;

fn id(r: u32) -> ReplicaId {
    ReplicaId(r)
}

/// Weights of every magnitude, zeros and equal ones among them.
fn any_weights(random: &mut Random) -> Vec<u64> {
    let n = random.between(1, 12);
    (0..n)
        .map(|_| match random.below(5) {
            0 => 0,
            1 => u64::MAX - random.below(3),
            2 => random.below(4),
            _ => random.next() >> random.below(64),
        })
        .collect()
}

#[test]
fn shares_sum_to_the_whole_and_lie_within_one_of_their_quota() {
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let weights = any_weights(&mut random);
        let total = random.next() >> random.below(64);
        let shares = apportion(total, &weights);
        assert_eq!(shares.iter().map(|s| u128::from(*s)).sum::<u128>(), u128::from(total), "seed {seed}");
        let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
        for (share, weight) in shares.iter().zip(&weights) {
            let weight = if sum == 0 { 1 } else { u128::from(*weight) };
            let sum = if sum == 0 { weights.len() as u128 } else { sum };
            // |share − total · weight / sum| < 1, without fractions: both sides of total · weight = q · sum + r.
            let exact = u128::from(total) * weight;
            let (low, high) = (exact / sum, exact.div_ceil(sum));
            assert!((low..=high).contains(&u128::from(*share)), "seed {seed}: {share} is not {low}..={high}");
        }
    }
}

#[test]
fn a_larger_weight_never_has_the_smaller_share() {
    for seed in 0..5_000 {
        let mut random = Random::new(seed);
        let weights = any_weights(&mut random);
        let total = random.below(1000);
        for shares in [apportion(total, &weights), shares(total, &weights)] {
            assert_eq!(shares.iter().sum::<u64>(), total, "seed {seed}");
            for (a, b) in (0..weights.len()).flat_map(|a| (0..weights.len()).map(move |b| (a, b))) {
                assert!(
                    weights[a] <= weights[b] || shares[a] >= shares[b],
                    "seed {seed}: {weights:?} {shares:?}"
                );
            }
        }
    }
}

#[test]
fn of_few_chunks_the_fastest_get_one_each() {
    assert_eq!(shares(2, &[10, 900, 20]), [0, 1, 1]);
    assert_eq!(shares(1, &[10, 900, 20]), [0, 1, 0]);
    assert_eq!(shares(2, &[0, 7, 0]), [0, 2, 0]);
    assert_eq!(shares(2, &[0, 0, 0]), [1, 1, 0]);
    assert_eq!(shares(0, &[3, 3]), [0, 0]);
    assert_eq!(shares(5, &[]), [0; 0]);
}

/// GST-03: the paper's figure 2, 18 : … : 3.
#[test]
fn the_example_of_the_paper_comes_out() {
    assert_eq!(apportion(32, &[18, 11, 3]), [18, 11, 3]);
    assert_eq!(apportion(256, &[570, 1022, 1733]), [44, 79, 133]);
}

/// What each source has on its list if requests and cancels are followed.
#[derive(Default)]
struct Lists {
    lists: BTreeMap<ReplicaId, RangeSet>,
    last: BTreeMap<ReplicaId, Vec<Range<u64>>>,
    rounds: Vec<u32>,
    requests: usize,
}

impl Lists {
    fn follow(&mut self, out: &mut Vec<Output>) {
        self.requests = 0;
        for output in out.drain(..) {
            match output {
                Output::Request { to, round, ranges, replace, .. } => {
                    let list = self.lists.entry(to).or_default();
                    if replace {
                        *list = RangeSet::default();
                    }
                    ranges.iter().for_each(|r| list.add(r.clone()));
                    self.last.insert(to, ranges);
                    self.rounds.push(round);
                    self.requests += 1;
                }
                Output::Cancel { to, ranges } => {
                    ranges.into_iter().for_each(|r| self.lists.entry(to).or_default().subtract(r));
                }
                Output::Blame { .. } => {}
            }
        }
    }

    fn lens(&self) -> Vec<u64> {
        self.lists.values().map(RangeSet::len).collect()
    }

    fn union(&self) -> RangeSet {
        let mut all = RangeSet::default();
        self.lists.values().for_each(|list| all.add_all(list));
        all
    }
}

/// A fetch and the lists its sources have.
struct Bench {
    fetch: Fetch,
    lists: Lists,
    out: Vec<Output>,
}

impl Bench {
    fn new(strategy: StrategyKind, chunks: u64, sources: u32, change: impl FnOnce(&mut FetchConfig)) -> Self {
        let mut config = FetchConfig { strategy, unwritten_bytes_max: u64::MAX, ..FetchConfig::default() };
        change(&mut config);
        let sources: Vec<ReplicaId> = (0..sources).map(ReplicaId).collect();
        let fetch = Fetch::new(config, chunks, vec![0..chunks], CHUNK, &sources, Tick(0));
        let mut bench = Self { fetch, lists: Lists::default(), out: Vec::new() };
        bench.step(0, Input::Tick);
        bench
    }

    fn step(&mut self, now: u64, input: Input) {
        self.fetch.step(Tick(now), input, &mut self.out);
        self.lists.follow(&mut self.out);
    }

    /// The first `count` of what is on its list come, and are right.
    fn sends(&mut self, now: u64, from: u32, count: u64) {
        let list = self.lists.lists.get_mut(&id(from)).unwrap();
        for chunk in list.take_first(count).iter().flatten() {
            assert_eq!(self.fetch.arrived(Tick(now), id(from), chunk, CHUNK, &mut self.out), Arrival::Check);
            self.lists.follow(&mut self.out);
            self.step(now, Input::Verified { chunk });
            self.step(now, Input::Written { bytes: CHUNK });
        }
    }
}

/// GST-04.
#[test]
fn the_first_round_is_an_even_split() {
    let bench = Bench::new(StrategyKind::Adaptive, 100, 3, |_| {});
    assert_eq!(bench.lists.lens(), [34, 33, 33]);
    assert_eq!(bench.lists.union().iter().collect::<Vec<_>>(), [0..100]);
    assert!(bench.lists.last.values().all(|ranges| ranges.len() == 1), "contiguous runs");
}

/// GST-02, GST-03, GST-05.
#[test]
fn every_interval_what_is_missing_is_shared_out_by_the_bytes_of_the_last() {
    let mut bench = Bench::new(StrategyKind::Adaptive, 1000, 3, |_| {});
    for i in 1..=8 {
        let at = SECOND / 8 * i - 1;
        bench.sends(at, 0, 10);
        bench.sends(at, 1, 5);
        if i > 4 {
            bench.sends(at, 2, 5);
        }
        assert_eq!(bench.lists.requests, 0, "no request between two rounds");
    }
    assert_eq!(bench.fetch.next_deadline(), Some(Tick(SECOND)));
    bench.step(SECOND, Input::Tick);
    assert_eq!(bench.lists.requests, 3);
    // 860 are missing, less what is on its way; by 80 : 40 : 20.
    let lens = bench.lists.lens();
    assert_eq!(lens.iter().sum::<u64>(), 860);
    for (len, share) in lens.iter().zip([4.0, 2.0, 1.0]) {
        let quota = 860.0 * share / 7.0;
        assert!((*len as f64 - quota).abs() < 15.0, "{lens:?}");
    }
    let all = bench.lists.union();
    assert_eq!(all.len(), 860, "nobody's chunk is somebody else's");
    assert!(bench.lists.rounds.windows(2).all(|w| w[0] < w[1]), "rounds grow");
}

/// d.3, "Algorithm 2 read literally"; d.2, sticky.
#[test]
fn a_source_keeps_the_lowest_part_of_what_it_has() {
    let mut bench = Bench::new(StrategyKind::Adaptive, 900, 3, |_| {});
    let before = bench.lists.lists.clone();
    bench.sends(SECOND / 2, 0, 40);
    bench.sends(SECOND / 2, 1, 40);
    bench.sends(SECOND / 2, 2, 10);
    let left = bench.lists.lists.clone();
    bench.step(SECOND, Input::Tick);
    let list = |r: u32| bench.lists.lists[&id(r)].clone();
    // The slow one lost its upper part and got nothing new.
    assert!(list(2).len() < left[&id(2)].len());
    assert_eq!(list(2).first(), left[&id(2)].first());
    assert_eq!(list(2).common(&before[&id(2)]), list(2));
    // The fast ones kept all.
    assert_eq!(list(0).common(&left[&id(0)]), left[&id(0)]);
    assert_eq!(list(1).common(&left[&id(1)]), left[&id(1)]);
}

/// d.2, "Σw = 0 in an interval".
#[test]
fn weights_stay_if_nothing_came_from_anybody() {
    let mut bench = Bench::new(StrategyKind::Adaptive, 1000, 2, |config| config.interval_ns = SECOND / 4);
    bench.sends(SECOND / 8, 0, 30);
    bench.sends(SECOND / 8, 1, 10);
    bench.step(SECOND / 4, Input::Tick);
    let before = bench.lists.lens();
    assert!(before[0] > 2 * before[1]);
    bench.step(SECOND / 2, Input::Tick);
    assert_eq!(bench.lists.requests, 2, "there was a round");
    assert_eq!(bench.lists.lens(), before);
}

/// GST-06: exactly one chunk, that another source has, and no second one before it came.
#[test]
fn a_source_without_a_share_gets_one_chunk_that_another_one_has() {
    let mut bench = Bench::new(StrategyKind::Adaptive, 400, 3, |_| {});
    bench.step(1, Input::Down(id(2)));
    bench.sends(SECOND / 2, 0, 40);
    bench.sends(SECOND / 2, 1, 20);
    bench.step(SECOND, Input::Tick);
    bench.lists.lists.remove(&id(2));
    bench.step(SECOND + 1, Input::Up(id(2)));
    assert_eq!(bench.lists.lists[&id(2)].len(), 1);
    let probe = bench.lists.lists[&id(2)].first().unwrap();
    let owners = (0..2).filter(|r| bench.lists.lists[&id(*r)].last() == Some(probe)).count();
    assert_eq!(owners, 1, "it is the last chunk of somebody");
    bench.sends(SECOND * 3 / 2, 0, 40);
    bench.sends(SECOND * 3 / 2, 1, 20);
    bench.step(2 * SECOND, Input::Tick);
    assert_eq!(bench.lists.lists[&id(2)].iter().collect::<Vec<_>>(), [probe..probe + 1]);
    // It came: nobody else needs to send it, and the next round has a share for its sender.
    bench.sends(SECOND * 5 / 2, 2, 1);
    assert!(!bench.lists.union().contains(probe));
    bench.sends(SECOND * 5 / 2, 0, 40);
    bench.sends(SECOND * 5 / 2, 1, 20);
    bench.step(3 * SECOND, Input::Tick);
    assert!(bench.lists.lists[&id(2)].len() > 1);
}

#[test]
fn equal_parts_are_fixed_until_a_source_fails() {
    let mut bench = Bench::new(StrategyKind::Equal, 300, 3, |_| {});
    let list = |bench: &Bench, r: u32| bench.lists.lists[&id(r)].iter().collect::<Vec<_>>();
    assert_eq!(
        (list(&bench, 0), list(&bench, 1), list(&bench, 2)),
        (vec![0..100], vec![100..200], vec![200..300])
    );
    bench.sends(SECOND / 2, 0, 100);
    bench.sends(SECOND / 2, 1, 10);
    bench.sends(SECOND / 2, 2, 10);
    bench.step(SECOND, Input::Tick);
    assert_eq!(bench.lists.lens(), [0, 90, 90], "who is done is done");
    bench.step(SECOND, Input::Down(id(2)));
    bench.lists.lists.remove(&id(2));
    assert_eq!(bench.lists.lens(), [45, 135]);
    assert_eq!(bench.lists.union().iter().collect::<Vec<_>>(), [110..200, 210..300]);
}

#[test]
fn premeasured_parts_follow_the_given_weights() {
    let weights = [(id(0), 100), (id(1), 300)].into_iter().collect();
    let bench = Bench::new(StrategyKind::Premeasured, 500, 3, |config| config.weights = weights);
    assert_eq!(bench.lists.lens(), [100, 300, 100], "one without a weight counts as the slowest");
}

#[test]
fn a_single_source_is_asked_for_all_and_then_the_next() {
    let mut bench = Bench::new(StrategyKind::Single, 300, 3, |_| {});
    assert_eq!(bench.lists.lens(), [300]);
    bench.sends(SECOND / 2, 0, 100);
    bench.step(SECOND / 2, Input::Gone(id(0)));
    bench.lists.lists.remove(&id(0));
    assert_eq!(bench.lists.lens(), [200]);
    assert_eq!(bench.lists.last[&id(1)], [100..300]);
}

/// The sources of a delta have holes in their lists.
#[test]
fn only_what_is_wanted_is_shared_out() {
    for strategy in StrategyKind::ALL {
        let wanted = vec![3..5, 10..11, 90..200];
        let config = FetchConfig { strategy, ..FetchConfig::default() };
        let sources = [id(0), id(1), id(2)];
        let mut fetch = Fetch::new(config, 100, wanted, CHUNK, &sources, Tick(0));
        let (mut lists, mut out) = (Lists::default(), Vec::new());
        fetch.step(Tick(0), Input::Tick, &mut out);
        let mut rounds = 0;
        while !fetch.done() {
            lists.follow(&mut out);
            assert!(
                lists.union().iter().flatten().all(|c| [3, 4, 10].contains(&c) || (90..100).contains(&c))
            );
            for from in sources {
                let list = lists.lists.entry(from).or_default().take_first(1);
                if let Some(chunk) = list.first() {
                    fetch.arrived(Tick(rounds), from, chunk, CHUNK, &mut out);
                    fetch.step(Tick(rounds), Input::Verified { chunk }, &mut out);
                    fetch.step(Tick(rounds), Input::Written { bytes: CHUNK }, &mut out);
                }
            }
            rounds += 1;
            assert!(rounds < 100, "{strategy}");
        }
        assert_eq!(fetch.verified().collect::<Vec<_>>(), [3..5, 10..11, 90..100]);
    }
}
