//! Collaborative state transfer: ranks, forms, and who takes over from whom; then whole transfers among liars.
// A list of one run is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use super::cst::{CstConfig, ranks};
use super::fetch::*;
use super::image::Image;
use super::lies::{Lie, ROWS, named};
use super::lies_tests::{Rig, image, store};
use super::messages::Message;
use super::ranges::RangeSet;
use crate::checkpoint::schedule::{Schedule, Turns};
use crate::quorum::FaultModel;
use crate::sim::random::Random;
use crate::types::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const CHUNK: u64 = 1 << 16;
const SECOND: u64 = 1_000_000_000;

fn id(r: u32) -> ReplicaId {
    ReplicaId(r)
}

/// As replica 0 of `n` has it.
fn cst(model: FaultModel, n: u32, f: u32, place: u64) -> CstConfig {
    let turns = Turns::Sequential { group: 1 };
    let schedule = |r| Schedule::new(turns, u64::from(n) * 100, n, id(r), 1).expect("a period");
    let schedules = (1..n).map(|r| (id(r), schedule(r))).collect();
    CstConfig { model, f, schedules, place: Seq(place) }
}

/// DUR-14: against every place looked at.
#[test]
fn ranks_follow_the_freshness_of_checkpoints() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let (n, period) = (random.between(3, 12) as u32, random.between(1, 500));
        let turns = Turns::Sequential { group: random.between(1, 4) as u32 };
        let schedules: BTreeMap<ReplicaId, Schedule> = (0..n)
            .map(|r| (id(r), Schedule::new(turns, period, n, id(r), random.between(1, 5)).expect("a period")))
            .collect();
        let place = Seq(random.below(2000));
        let last = |of: &Schedule| (1..=place.0).rev().find(|k| of.takes(Seq(*k), 1)).unwrap_or(0);
        let ranks = ranks(&schedules, place);
        assert_eq!(ranks.len(), n as usize);
        assert!(ranks.windows(2).all(|pair| {
            let [a, b] = [pair[0], pair[1]].map(|r| last(&schedules[&r]));
            a > b || a == b && pair[0] < pair[1]
        }));
        schedules.values().for_each(|s| assert_eq!(s.last(place).0, last(s), "seed {seed}"));
    }
}

/// The paper's Figure 5: n = 7, one checkpoint after the other.
#[test]
fn the_freshest_is_the_one_whose_turn_was_last() {
    let config = cst(FaultModel::Byzantine, 7, 2, 350);
    assert_eq!(ranks(&config.schedules, config.place), [3, 2, 1, 4, 5, 6].map(id));
    let later = cst(FaultModel::Byzantine, 7, 2, 1050);
    assert_eq!(ranks(&later.schedules, later.place), [3, 2, 1, 6, 5, 4].map(id));
}

/// A fetch of `chunks` from all but replica 0, and what each was asked for.
struct Bench {
    fetch: Fetch,
    lists: BTreeMap<ReplicaId, RangeSet>,
}

impl Bench {
    fn new(cst: CstConfig, n: u32, chunks: u64, leader: Option<u32>) -> Self {
        let config = FetchConfig { strategy: StrategyKind::Cst, cst, ..FetchConfig::default() };
        let sources: Vec<ReplicaId> = (1..n).map(id).collect();
        let fetch = Fetch::new(config, chunks, vec![0..chunks], CHUNK, &sources, Tick(0));
        let mut bench = Self { fetch, lists: BTreeMap::new() };
        bench.step(0, Input::Leader(leader.map(id)));
        bench
    }

    fn step(&mut self, now: u64, input: Input) {
        let mut out = Vec::new();
        self.fetch.step(Tick(now), input, &mut out);
        self.follow(out);
        self.fetch.check();
    }

    fn follow(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Request { to, ranges, replace, .. } => {
                    let list = self.lists.entry(to).or_default();
                    if replace {
                        *list = RangeSet::default();
                    }
                    ranges.into_iter().for_each(|range| list.add(range));
                }
                Output::Cancel { to, ranges } => {
                    ranges.into_iter().for_each(|r| self.lists.entry(to).or_default().subtract(r));
                }
                Output::Blame { who, .. } => _ = self.lists.remove(&who),
            }
        }
    }

    /// The next chunks of its list come.
    fn sends(&mut self, now: u64, from: u32, count: u64, right: bool) {
        let chunks = self.lists.get_mut(&id(from)).unwrap().take_first(count);
        for chunk in chunks.iter().flatten() {
            let mut out = Vec::new();
            assert_eq!(self.fetch.arrived(Tick(now), id(from), chunk, CHUNK, &mut out), Arrival::Check);
            self.follow(out);
            let bad = Input::Bad { chunk, from: id(from) };
            self.step(now, if right { Input::Verified { chunk } } else { bad });
            self.step(now, Input::Written { bytes: CHUNK });
        }
    }

    /// Who is asked, and for how many.
    fn asked(&self) -> Vec<(u32, u64)> {
        self.lists.iter().filter(|(_, list)| !list.is_empty()).map(|(r, list)| (r.0, list.len())).collect()
    }

    fn first(&self, of: u32) -> Option<u64> {
        self.lists[&id(of)].first()
    }
}

/// DUR-22, "Optimizing CST for f = 1": rank 2 the checkpoint, ranks 3 and 1 as much each.
#[test]
fn with_one_fault_to_bear_three_send_a_third_each() {
    // Replica 2 wrote its checkpoint last, then 1, then 3.
    let mut bench = Bench::new(cst(FaultModel::Byzantine, 4, 1, 250), 4, 30, None);
    assert_eq!(bench.asked(), [(1, 10), (2, 10), (3, 10)]);
    assert_eq!([1, 3, 2].map(|r| bench.first(r)), [Some(0), Some(10), Some(20)]);
    // The first round fails: the liar's part is another one's, whole.
    bench.sends(1000, 3, 2, true);
    bench.sends(1001, 3, 1, false);
    assert_eq!(bench.asked(), [(1, 18), (2, 10)]);
    // And of the next one the other's.
    bench.step(2000, Input::Gone(id(1)));
    bench.lists.remove(&id(1));
    assert_eq!(bench.asked(), [(2, 28)]);
}

/// DUR-16, DUR-18: rank f+1 first; f that fail in the worst order; what came before is not sent again.
#[test]
fn with_more_faults_one_sends_all_and_then_the_next_rank() {
    // Ranks 3 2 1 4 5 6: rank f+1 is replica 1.
    let mut bench = Bench::new(cst(FaultModel::Byzantine, 7, 2, 350), 7, 60, None);
    assert_eq!(bench.asked(), [(1, 60)]);
    bench.sends(1000, 1, 20, true);
    bench.sends(1001, 1, 1, false);
    assert_eq!(bench.asked(), [(4, 40)]);
    bench.sends(2000, 4, 5, true);
    bench.step(2001, Input::Down(id(4)));
    bench.lists.remove(&id(4));
    assert_eq!(bench.asked(), [(5, 35)], "rank 2f+1");
    bench.sends(3000, 5, 1, false);
    bench.sends(3001, 6, 1, false);
    assert_eq!(bench.asked(), [(3, 35)], "after the last rank the first");
    // One that was away is not taken again before its turn.
    bench.step(4000, Input::Up(id(4)));
    bench.step(4001, Input::Gone(id(3)));
    bench.lists.remove(&id(3));
    assert_eq!(bench.asked(), [(2, 35)]);
}

/// DUR-23: no f others to compare with, so the freshest sends all, or the two freshest a half each.
#[test]
fn without_liars_the_freshest_send() {
    let bench = Bench::new(cst(FaultModel::Crash, 5, 2, 250), 5, 60, None);
    assert_eq!(bench.asked(), [(2, 60)]);
    let bench = Bench::new(cst(FaultModel::Crash, 3, 1, 150), 3, 60, None);
    assert_eq!(bench.asked(), [(1, 30), (2, 30)]);
    assert_eq!(bench.first(1), Some(0), "the first ranks first");
}

/// DUR-25.
#[test]
fn the_leader_is_taken_last() {
    let config = || cst(FaultModel::Byzantine, 7, 2, 350);
    let mut bench = Bench::new(config(), 7, 60, Some(1));
    assert_eq!(bench.asked(), [(4, 60)]);
    for r in [4, 5, 6, 3, 2] {
        bench.step(1000, Input::Down(id(r)));
        bench.lists.remove(&id(r));
    }
    assert_eq!(bench.asked(), [(1, 60)], "before nobody at all");
    // Where all three have to send it sends least, and no faster than others allow it.
    let mut bench = Bench::new(cst(FaultModel::Byzantine, 4, 1, 250), 4, 90, Some(2));
    assert_eq!(bench.asked(), [(1, 40), (2, 1), (3, 40)]);
    bench.sends(1000, 1, 40, true);
    bench.sends(1000, 3, 40, true);
    assert_eq!(bench.asked(), [(2, 10)]);
}

/// "Fetch commands wait for replies within a timeout".
#[test]
fn a_silent_seeder_is_followed_by_the_next_rank() {
    let mut bench = Bench::new(cst(FaultModel::Byzantine, 7, 2, 350), 7, 60, None);
    bench.sends(SECOND / 10, 1, 10, true);
    bench.step(5 * SECOND, Input::Tick);
    assert_eq!(bench.asked(), [(4, 50)]);
}

fn n7(images: &[Arc<Image>], model: FaultModel) -> Rig {
    let mut rig = Rig::among(6, images);
    rig.config.strategy = StrategyKind::Cst;
    rig.config.offerers = 3;
    rig.config.cst = cst(model, 7, 2, 0);
    rig
}

fn twist(row: &'static Lie) -> Box<dyn FnMut(Message) -> Vec<Message>> {
    Box::new(row.twist)
}

/// DUR-12 and DUR-18, n = 7, f = 2: two liars, whatever they lie about, and the state is the one that was certified.
#[test]
fn two_liars_of_seven_change_nothing() {
    // At place 350 the ranks are 3 2 1 4 5 6.
    let images = [image(&store(500), 350)];
    let mut rig = n7(&images, FaultModel::Byzantine);
    rig.start(None);
    rig.ends_well(u64::MAX / 4, &images[0]);
    assert_eq!(rig.chunks.keys().map(|r| r.0).collect::<Vec<_>>(), [1], "rank f+1 and nobody else");
    let honest = rig.now.0;
    let pairs = (1..7).flat_map(|a| (a + 1..7).map(move |b| [a, b]));
    for liars in pairs {
        for row in ROWS {
            println!("{liars:?} {}", row.name);
            let mut rig = n7(&images, FaultModel::Byzantine);
            rig.lies = liars.iter().map(|r| (id(*r), twist(row))).collect();
            rig.start(None);
            rig.ends_well(honest, &images[0]);
            // Ranks f+1 and f+2: the worst order.
            if liars == [1, 4] && row.name == "false-chunks" {
                let sent: Vec<u32> = rig.chunks.keys().map(|r| r.0).collect();
                assert_eq!(sent, [1, 4, 5], "2f+1 replicas have sent some");
                let banned =
                    |r: u32| rig.blamed.iter().any(|(who, why)| *who == id(r) && why.contains(row.blamed));
                assert!(banned(1) && banned(4), "{:?}", rig.blamed);
            }
        }
    }
}

/// Two that lie in two ways.
#[test]
fn liars_need_not_agree() {
    let images = [image(&store(2000), 350)];
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut rig = n7(&images, FaultModel::Byzantine);
        let first = random.between(1, 6) as u32;
        let second = (1..7).filter(|r| *r != first).nth(random.below(5) as usize).expect("five others");
        let rows = [random.pick(ROWS).name, random.pick(ROWS).name];
        println!("seed {seed}: {first} {} {second} {}", rows[0], rows[1]);
        for (liar, row) in [first, second].into_iter().zip(rows) {
            rig.lies.insert(id(liar), twist(named(row).expect("a row")));
        }
        rig.start(None);
        rig.ends_well(5 * SECOND, &images[0]);
    }
}

/// DUR-21: b liars and r that are away; beyond f one correct seeder is still enough for what is certified.
#[test]
fn liars_and_absent_ones_in_every_number() {
    let images = [image(&store(500), 350)];
    for (liars, away) in (0..=5).flat_map(|b| (0..=5 - b).map(move |r| (b, r))) {
        let mut rig = n7(&images, FaultModel::Byzantine);
        let turns = [1, 4, 5, 6, 3, 2].map(id);
        turns[..liars]
            .iter()
            .for_each(|r| _ = rig.lies.insert(*r, twist(named("false-chunks").expect("a row"))));
        turns[liars..liars + away].iter().for_each(|r| _ = rig.seeders.remove(r));
        rig.start(None);
        rig.ends_well(20 * SECOND, &images[0]);
    }
}

/// e.4: what counts is the certificate, not how many show it. The newest of two certified places, which one correct replica alone has,
/// is taken if no place has f+1 that offer it; a place without a certificate never.
#[test]
fn the_place_is_chosen_by_certificate() {
    let (old, new) = (image(&store(300), 350), image(&store(301), 450));
    let mut rig = n7(std::slice::from_ref(&old), FaultModel::Byzantine);
    rig.config.offerers = 1;
    rig.certify(&new);
    rig.offer(6, &new);
    [1, 4].iter().for_each(|r| _ = rig.lies.insert(id(*r), twist(named("stale-offers").expect("a row"))));
    rig.start(None);
    rig.ends_well(10 * SECOND, &new);
}

/// DUR-12, n = 10, f = 3, and the crash form with liars that only break.
#[test]
fn larger_groups_and_the_crash_form() {
    let images = [image(&store(1000), 550)];
    let mut rig = Rig::among(9, &images);
    rig.config.strategy = StrategyKind::Cst;
    rig.config.cst = cst(FaultModel::Byzantine, 10, 3, 0);
    // Ranks 5 4 3 2 1 6 7 8 9: the first three to send.
    [2, 1, 6].iter().for_each(|r| _ = rig.lies.insert(id(*r), twist(named("false-chunks").expect("a row"))));
    rig.start(None);
    rig.ends_well(10 * SECOND, &images[0]);
    assert_eq!(rig.chunks.keys().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 6, 7]);
    let mut rig = Rig::among(4, &images);
    rig.config.strategy = StrategyKind::Cst;
    rig.config.cst = cst(FaultModel::Crash, 5, 2, 0);
    // At place 550 replica 5 is not there: ranks 0 4 3 2 1 without 0.
    rig.lies.insert(id(4), twist(named("silent-seeder").expect("a row")));
    rig.start(None);
    rig.ends_well(10 * SECOND, &images[0]);
    assert_eq!(rig.chunks.keys().map(|r| r.0).collect::<Vec<_>>(), [3]);
}
