//! What the machine does with each event, row by row of the table of corner cases.
// A list of one run is what is meant.
#![allow(clippy::single_range_in_vec_init)]

use super::CstConfig;
use super::fetch::*;
use crate::checkpoint::schedule::{Schedule, Turns};
use crate::quorum::FaultModel;
use crate::sim::random::Random;
use crate::types::*;

const SECOND: u64 = 1_000_000_000;
const CHUNK: u64 = 1 << 18;

fn id(r: u32) -> ReplicaId {
    ReplicaId(r)
}

fn fetch(strategy: StrategyKind, chunks: u64, sources: u32) -> (Fetch, Vec<Output>) {
    let config = FetchConfig { strategy, ..FetchConfig::default() };
    let sources: Vec<ReplicaId> = (0..sources).map(ReplicaId).collect();
    let mut fetch = Fetch::new(config, chunks, vec![0..chunks], CHUNK, &sources, Tick(0));
    let mut out = Vec::new();
    fetch.step(Tick(0), Input::Tick, &mut out);
    (fetch, out)
}

fn any_cst(random: &mut Random) -> CstConfig {
    let period = random.between(1, 1000);
    let schedule = |r| Schedule::new(Turns::Sequential { group: 1 }, period, 8, id(r), 1);
    CstConfig {
        model: *random.pick(&[FaultModel::Byzantine, FaultModel::Crash]),
        f: random.below(4) as u32,
        schedules: (0..random.below(8) as u32).filter_map(|r| Some((id(r), schedule(r)?))).collect(),
        place: Seq(random.below(5000)),
    }
}

/// The chunks that a source is asked for in these outputs.
fn asked(out: &[Output], of: ReplicaId) -> Vec<u64> {
    let requests = out.iter().filter_map(|o| match o {
        Output::Request { to, ranges, .. } if *to == of => Some(ranges.iter().cloned().flatten()),
        _ => None,
    });
    requests.flatten().collect()
}

fn cancelled(out: &[Output], at: ReplicaId) -> Vec<u64> {
    let cancels = out.iter().filter_map(|o| match o {
        Output::Cancel { to, ranges } if *to == at => Some(ranges.iter().cloned().flatten()),
        _ => None,
    });
    cancels.flatten().collect()
}

fn blames(out: &[Output]) -> Vec<(ReplicaId, Fault)> {
    out.iter()
        .filter_map(|o| if let Output::Blame { who, why } = o { Some((*who, *why)) } else { None })
        .collect()
}

fn state(fetch: &Fetch, of: ReplicaId) -> SourceState {
    fetch.progress(Tick(0)).sources.iter().find(|s| s.id == of).unwrap().state
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in StrategyKind::ALL {
        assert_eq!(kind.to_string().parse::<StrategyKind>(), Ok(kind));
    }
    assert_eq!(StrategyKind::WholeHash.to_string(), "whole-hash");
    assert!("Pull".parse::<StrategyKind>().is_err());
    assert_eq!(StrategyKind::default(), StrategyKind::Pull);
}

#[test]
fn nothing_wanted_is_done_at_once() {
    for strategy in StrategyKind::ALL {
        for (chunks, wanted) in [(0, vec![]), (10, vec![]), (0, vec![0..7]), (10, vec![12..20])] {
            let config = FetchConfig { strategy, ..FetchConfig::default() };
            let mut fetch = Fetch::new(config, chunks, wanted, CHUNK, &[id(0)], Tick(0));
            assert!(fetch.done() && fetch.next_deadline().is_none());
            let mut out = Vec::new();
            fetch.step(Tick(0), Input::Tick, &mut out);
            assert_eq!(out, []);
            assert_eq!(fetch.progress(Tick(0)).eta_ns, Some(0));
        }
    }
}

#[test]
fn one_chunk_is_asked_of_one_source() {
    for strategy in StrategyKind::ALL {
        let (mut fetch, mut out) = fetch(strategy, 1, 3);
        let from = (0..3).map(ReplicaId).find(|r| !asked(&out, *r).is_empty()).unwrap();
        assert_eq!(asked(&out, from), [0]);
        let arrival = fetch.arrived(Tick(SECOND / 10), from, 0, 1, &mut out);
        let whole = strategy == StrategyKind::WholeHash;
        assert_eq!(arrival, if whole { Arrival::Keep } else { Arrival::Check });
        assert_eq!(fetch.done(), whole);
        assert_eq!(fetch.whole_unchecked(), whole);
        fetch.step(Tick(SECOND / 10), Input::Verified { chunk: 0 }, &mut out);
        assert!(fetch.done());
    }
}

#[test]
fn the_first_call_is_wanted_at_once_and_no_call_is_wanted_after_the_end() {
    let config = FetchConfig::default();
    let mut fetch = Fetch::new(config, 1, vec![0..1], CHUNK, &[id(0)], Tick(77));
    assert_eq!(fetch.next_deadline(), Some(Tick(77)));
    let mut out = Vec::new();
    fetch.step(Tick(77), Input::Tick, &mut out);
    assert!(fetch.next_deadline().unwrap() > Tick(77 + SECOND));
    fetch.arrived(Tick(80), id(0), 0, CHUNK, &mut out);
    fetch.step(Tick(80), Input::Verified { chunk: 0 }, &mut out);
    assert_eq!(fetch.next_deadline(), None);
}

/// d.3, "late duplicate of a verified chunk".
#[test]
fn a_late_duplicate_of_a_verified_chunk_is_metered_and_dropped() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 100, 2);
    let chunk = asked(&out, id(0))[0];
    // Source 0 is silent, so source 1 gets its chunk; then both send it.
    fetch.step(Tick(10 * SECOND), Input::Up(id(2)), &mut out);
    out.clear();
    fetch.step(Tick(10 * SECOND), Input::Up(id(3)), &mut out);
    let other = (1..4).map(ReplicaId).find(|r| fetch_has(&mut fetch, *r, chunk)).expect("somebody has it");
    fetch.step(Tick(11 * SECOND), Input::Verified { chunk }, &mut out);
    let before = bytes(&fetch, id(0));
    assert_ne!(other, id(0));
    assert_eq!(fetch.arrived(Tick(11 * SECOND), id(0), chunk, CHUNK, &mut out), Arrival::Duplicate);
    assert_eq!(bytes(&fetch, id(0)), before + CHUNK);
    assert_eq!(state(&fetch, id(0)), SourceState::Active, "it is not silent any more");
    assert_eq!(
        fetch.arrived(Tick(11 * SECOND), id(0), chunk, CHUNK, &mut out),
        Arrival::Unasked,
        "once is enough"
    );
}

fn bytes(fetch: &Fetch, of: ReplicaId) -> u64 {
    fetch.progress(Tick(0)).sources.iter().find(|s| s.id == of).unwrap().bytes
}

/// Whether this source may deliver the chunk (it is delivered if so).
fn fetch_has(fetch: &mut Fetch, from: ReplicaId, chunk: u64) -> bool {
    fetch.arrived(Tick(10 * SECOND), from, chunk, CHUNK, &mut Vec::new()) == Arrival::Check
}

/// A fetch of one chunk that two sources were asked for: the first fell silent.
fn asked_twice(chunks: u64) -> (Fetch, ReplicaId, ReplicaId) {
    let (mut fetch, out) = fetch(StrategyKind::Pull, chunks, 2);
    let first = (0..2).map(ReplicaId).find(|r| asked(&out, *r).contains(&0)).unwrap();
    let mut out = Vec::new();
    // The other one is there, so that only the first is silent.
    let second = id(1 - first.0);
    for chunk in asked_of(&fetch, second) {
        fetch.arrived(Tick(SECOND), second, chunk, CHUNK, &mut out);
        fetch.step(Tick(SECOND), Input::Verified { chunk }, &mut out);
    }
    fetch.step(Tick(4 * SECOND), Input::Tick, &mut out);
    (fetch, first, second)
}

fn asked_of(fetch: &Fetch, of: ReplicaId) -> Vec<u64> {
    fetch.outstanding(of).iter().flatten().collect()
}

/// d.3, "late duplicate while the first copy is being hashed"; "verification failure".
#[test]
fn one_spare_is_kept_while_the_first_copy_is_hashed_and_used_if_that_fails() {
    let (mut fetch, first, second) = asked_twice(1);
    assert_eq!(asked_of(&fetch, first), [0], "a silent source may still send it");
    assert_eq!(asked_of(&fetch, second), [0]);
    let (now, mut out) = (Tick(4 * SECOND), Vec::new());
    assert_eq!(fetch.arrived(now, second, 0, CHUNK, &mut out), Arrival::Check);
    assert_eq!(cancelled(&out, first), [0], "the loser is told");
    assert_eq!(fetch.arrived(now, first, 0, CHUNK, &mut out), Arrival::Spare);
    out.clear();
    fetch.step(now, Input::Bad { chunk: 0, from: second }, &mut out);
    assert_eq!(blames(&out), [(second, Fault::BadChunk { chunk: 0 })]);
    assert_eq!(asked(&out, first), [0; 0], "the spare is hashed before anybody is asked");
    fetch.check();
    fetch.step(now, Input::Verified { chunk: 0 }, &mut out);
    assert!(fetch.done());
}

#[test]
fn there_is_no_second_spare() {
    let (mut fetch, first, second) = asked_twice(1);
    let (now, mut out) = (Tick(4 * SECOND), Vec::new());
    // The third gets it because the second falls silent too.
    fetch.step(Tick(40 * SECOND), Input::Tick, &mut out);
    fetch.step(Tick(40 * SECOND), Input::Up(id(7)), &mut out);
    assert_eq!(asked_of(&fetch, id(7)), [0]);
    assert_eq!(fetch.arrived(now, id(7), 0, CHUNK, &mut out), Arrival::Check);
    assert_eq!(fetch.arrived(now, first, 0, CHUNK, &mut out), Arrival::Spare);
    assert_eq!(fetch.arrived(now, second, 0, CHUNK, &mut out), Arrival::Duplicate);
}

/// d.3, "verification failure".
#[test]
fn a_bad_chunk_bans_its_sender_and_is_asked_of_another_one_at_once() {
    for strategy in StrategyKind::ALL.into_iter().filter(|s| *s != StrategyKind::WholeHash) {
        let (mut fetch, out) = fetch(strategy, 1000, 3);
        let bad = (0..3).map(id).find(|r| asked(&out, *r).contains(&0)).unwrap();
        let others: Vec<ReplicaId> = (0..3).map(id).filter(|r| *r != bad).collect();
        let chunk = 0;
        let (now, mut out) = (Tick(SECOND / 10), Vec::new());
        assert_eq!(fetch.arrived(now, bad, chunk, CHUNK, &mut out), Arrival::Check);
        let (now, mut out) = (Tick(SECOND / 10 + 1), Vec::new());
        fetch.step(now, Input::Bad { chunk, from: bad }, &mut out);
        assert_eq!(blames(&out), [(bad, Fault::BadChunk { chunk })]);
        assert_eq!(state(&fetch, bad), SourceState::Banned(Fault::BadChunk { chunk }));
        assert!(!cancelled(&out, bad).is_empty(), "{strategy}: it need not send the rest");
        // Windows of others may be full: whoever has room next gets it first.
        let next = others.iter().copied().find(|r| asked(&out, *r).contains(&chunk));
        if next.is_none() {
            let free = asked_of(&fetch, others[0])[..4].to_vec();
            out.clear();
            free.iter().for_each(|c| _ = fetch.arrived(now, others[0], *c, CHUNK, &mut out));
            assert!(asked(&out, others[0]).contains(&chunk), "{strategy}");
        }
        // For good: it may reconnect as often as it likes.
        fetch.step(now, Input::Down(bad), &mut out);
        out.clear();
        fetch.step(now, Input::Up(bad), &mut out);
        assert_eq!(asked(&out, bad), [0; 0]);
        assert_eq!(fetch.arrived(now, bad, chunk + 1, CHUNK, &mut out), Arrival::Unasked);
        fetch.check();
    }
}

/// d.3, "hash not yet certified": parked, not fetched again.
#[test]
fn a_chunk_that_cannot_be_checked_yet_is_not_asked_for_again() {
    for strategy in [StrategyKind::Pull, StrategyKind::Adaptive] {
        let (mut fetch, out) = fetch(strategy, 100, 2);
        let chunk = asked(&out, id(0))[0];
        let mut out = Vec::new();
        fetch.arrived(Tick(SECOND / 10), id(0), chunk, CHUNK, &mut out);
        for second in 1..60 {
            fetch.step(Tick(second * SECOND), Input::Tick, &mut out);
        }
        assert!(!asked(&out, id(0)).contains(&chunk) && !asked(&out, id(1)).contains(&chunk));
        fetch.step(Tick(60 * SECOND), Input::Verified { chunk }, &mut out);
        assert_eq!(fetch.progress(Tick(0)).verified, 1);
    }
}

/// d.3, "state changed at source during transfer".
#[test]
fn what_a_source_no_longer_has_is_asked_of_others() {
    for strategy in StrategyKind::ALL {
        let (mut fetch, out) = fetch(strategy, 8, 1);
        assert_eq!(asked(&out, id(0)).len(), if strategy == StrategyKind::Pull { 4 } else { 8 });
        let mut out = Vec::new();
        fetch.step(Tick(1), Input::Gone(id(0)), &mut out);
        assert_eq!(state(&fetch, id(0)), SourceState::Gone);
        assert!(out.is_empty() && fetch.next_deadline().is_none(), "nobody is left to wait for");
        fetch.step(Tick(2), Input::Up(id(5)), &mut out);
        assert_eq!(asked(&out, id(5))[0], 0, "{strategy}");
        fetch.check();
    }
}

/// d.3, "lists of wrong length, huge N".
#[test]
fn numbers_out_of_range_are_strikes_and_many_strikes_a_ban() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 10, 2);
    out.clear();
    for chunk in [10, u64::MAX, u64::MAX - 1, 1 << 63] {
        assert_eq!(fetch.arrived(Tick(1), id(0), chunk, u64::MAX, &mut out), Arrival::Unasked);
        fetch.step(Tick(1), Input::Verified { chunk }, &mut out);
        fetch.step(Tick(1), Input::Bad { chunk, from: id(9) }, &mut out);
    }
    assert_eq!(fetch.arrived(Tick(1), id(99), 0, 1, &mut out), Arrival::Unasked, "who is that?");
    assert_eq!(blames(&out), []);
    (0..16).for_each(|_| _ = fetch.arrived(Tick(1), id(0), 77, CHUNK, &mut out));
    assert_eq!(blames(&out), [(id(0), Fault::Unasked { chunk: 77 })]);
    assert_eq!(bytes(&fetch, id(0)), 0, "unasked bytes buy no rate");
    fetch.check();
}

#[test]
fn a_chunk_is_owed_once() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 100, 1);
    assert_eq!(fetch.arrived(Tick(1), id(0), 0, CHUNK, &mut out), Arrival::Check);
    assert_eq!(fetch.arrived(Tick(2), id(0), 0, CHUNK, &mut out), Arrival::Unasked);
    assert_eq!(bytes(&fetch, id(0)), CHUNK);
}

/// d.3, "claims high speed then stalls".
#[test]
fn no_rate_makes_a_window_larger_than_the_largest() {
    let config = FetchConfig { window_bytes_max: 20 * CHUNK, ..FetchConfig::default() };
    let mut fetch = Fetch::new(config, 10_000, vec![0..10_000], CHUNK, &[id(0)], Tick(0));
    let mut out = Vec::new();
    fetch.step(Tick(0), Input::Tick, &mut out);
    for beat in 1..2000 {
        let chunk = fetch.outstanding(id(0)).first().unwrap();
        fetch.arrived(Tick(beat * 10_000), id(0), chunk, CHUNK, &mut out);
        fetch.step(Tick(beat * 10_000), Input::Verified { chunk }, &mut out);
        fetch.step(Tick(beat * 10_000), Input::Written { bytes: CHUNK }, &mut out);
        assert!(asked_of(&fetch, id(0)).len() <= 20);
    }
}

#[test]
fn absurd_sizes_do_not_overflow() {
    for strategy in StrategyKind::ALL {
        for (chunks, chunk_bytes) in [(u64::MAX, u64::MAX), (u64::MAX, 0), (u64::MAX, 1), (3, u64::MAX)] {
            let config = FetchConfig {
                offerers: 1,
                strategy,
                interval_ns: u64::MAX,
                weights: [(id(0), u64::MAX), (id(1), u64::MAX), (id(2), 0)].into_iter().collect(),
                cst: any_cst(&mut Random::new(chunks)),
                leader_weight_percent: u32::MAX,
                window_bytes_max: u64::MAX,
                unwritten_bytes_max: u64::MAX,
                packed: true,
                limit_bytes_per_s: Some(u64::MAX),
            };
            let sources = [id(0), id(1), id(2)];
            let mut fetch =
                Fetch::new(config, chunks, vec![0..u64::MAX], chunk_bytes, &sources, Tick(u64::MAX - 9));
            let mut out = Vec::new();
            for now in [u64::MAX - 9, u64::MAX - 1, u64::MAX] {
                fetch.step(Tick(now), Input::Leader(Some(id(1))), &mut out);
                for from in sources {
                    let chunk = fetch.outstanding(from).first().unwrap_or(0);
                    fetch.arrived(Tick(now), from, chunk, u64::MAX, &mut out);
                    fetch.step(Tick(now), Input::Written { bytes: u64::MAX }, &mut out);
                }
                fetch.step(Tick(now), Input::Limit(None), &mut out);
                fetch.progress(Tick(now));
                fetch.next_deadline();
            }
        }
    }
}

/// d.3, "receiver disk slower than network".
#[test]
fn nothing_is_asked_for_that_would_not_fit_before_the_disk_has_written() {
    for strategy in StrategyKind::ALL {
        let config = FetchConfig { strategy, unwritten_bytes_max: 4 * CHUNK, ..FetchConfig::default() };
        let mut fetch = Fetch::new(config, 100, vec![0..100], CHUNK, &[id(0)], Tick(0));
        let mut out = Vec::new();
        fetch.step(Tick(0), Input::Tick, &mut out);
        assert_eq!(asked_of(&fetch, id(0)), [0, 1, 2, 3], "{strategy}");
        for chunk in 0..4 {
            fetch.arrived(Tick(SECOND / 10), id(0), chunk, CHUNK, &mut out);
            fetch.step(Tick(SECOND / 10), Input::Verified { chunk }, &mut out);
        }
        assert_eq!(asked_of(&fetch, id(0)), [0; 0], "{strategy}: verified is not written");
        fetch.step(Tick(SECOND / 10), Input::Written { bytes: 2 * CHUNK }, &mut out);
        assert_eq!(asked_of(&fetch, id(0)), [4, 5], "{strategy}");
    }
}

#[test]
fn what_a_broken_connection_lost_is_asked_for_again_and_said_so() {
    for strategy in StrategyKind::ALL {
        let (mut fetch, out) = fetch(strategy, 4, 1);
        assert_eq!(asked(&out, id(0)), [0, 1, 2, 3]);
        let mut out = Vec::new();
        fetch.arrived(Tick(1), id(0), 0, CHUNK, &mut out);
        fetch.step(Tick(2), Input::Down(id(0)), &mut out);
        assert_eq!(out, []);
        fetch.step(Tick(3), Input::Up(id(0)), &mut out);
        let Some(Output::Request { ranges, again, .. }) = out.first() else { panic!("{out:?}") };
        assert_eq!(
            (ranges.as_slice(), again.as_slice()),
            ([1..4].as_slice(), [1, 2, 3].as_slice()),
            "{strategy}"
        );
        fetch.check();
    }
}

/// "Silence and dribbling": three times what is expected, at least a second.
#[test]
fn a_silent_source_is_named_loses_its_work_and_is_probed_ever_more_rarely() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 400, 1);
    out.clear();
    let mut silences = Vec::new();
    let mut calls = 0;
    let mut now = Tick(0);
    while now < Tick(600 * SECOND) {
        let next = fetch.next_deadline().expect("it keeps waiting");
        assert!(next > now, "it does not spin");
        now = next;
        fetch.step(now, Input::Tick, &mut out);
        silences.extend(blames(&out));
        out.clear();
        calls += 1;
    }
    assert_eq!(silences, [(id(0), Fault::Silent)], "named once");
    assert!(calls < 40, "{calls}");
    assert_eq!(state(&fetch, id(0)), SourceState::Stalled);
    assert_eq!(asked_of(&fetch, id(0)).len(), 1, "one chunk, by which it can come back");
    let chunk = asked_of(&fetch, id(0))[0];
    assert_eq!(fetch.arrived(now, id(0), chunk, CHUNK, &mut out), Arrival::Check);
    assert_eq!(state(&fetch, id(0)), SourceState::Active);
    assert!(!asked(&out, id(0)).is_empty(), "it has work again");
    fetch.check();
}

#[test]
fn a_slow_source_is_not_a_silent_one() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 40, 1);
    out.clear();
    for second in (3..120).step_by(3) {
        // It needs three seconds for a chunk; the first one is late, from then on that is expected.
        fetch.step(Tick(second * SECOND - 1), Input::Tick, &mut out);
        let chunk = fetch.outstanding(id(0)).first().unwrap();
        fetch.arrived(Tick(second * SECOND), id(0), chunk, CHUNK, &mut out);
        fetch.step(Tick(second * SECOND), Input::Verified { chunk }, &mut out);
    }
    assert!(blames(&out).len() <= 1, "{:?}", blames(&out));
}

/// Foreground first.
#[test]
fn a_limit_of_nothing_pauses_and_a_new_one_goes_on() {
    for strategy in StrategyKind::ALL {
        let config = FetchConfig { strategy, limit_bytes_per_s: Some(0), ..FetchConfig::default() };
        let mut fetch = Fetch::new(config, 10, vec![0..10], CHUNK, &[id(0)], Tick(0));
        let mut out = Vec::new();
        for second in 0..10 {
            fetch.step(Tick(second * SECOND), Input::Tick, &mut out);
        }
        assert_eq!(asked(&out, id(0)), [0; 0]);
        fetch.step(Tick(10 * SECOND), Input::Limit(Some(CHUNK)), &mut out);
        let deadline = fetch.next_deadline().unwrap();
        assert!(deadline <= Tick(11 * SECOND), "{strategy}: {deadline:?}");
        fetch.step(Tick(11 * SECOND), Input::Tick, &mut out);
        assert_eq!(asked(&out, id(0)), [0], "{strategy}");
        fetch.step(Tick(11 * SECOND), Input::Limit(None), &mut out);
        assert!(asked_of(&fetch, id(0)).len() >= 4, "{strategy}");
    }
}

#[test]
fn progress_tells_who_sends_how_fast_and_how_long_it_takes() {
    let (mut fetch, mut out) = fetch(StrategyKind::Pull, 100, 2);
    for beat in 1..=40 {
        let now = Tick(beat * SECOND / 20);
        let chunk = fetch.outstanding(id(0)).first().unwrap();
        fetch.arrived(now, id(0), chunk, CHUNK, &mut out);
        fetch.step(now, Input::Verified { chunk }, &mut out);
        fetch.step(now, Input::Written { bytes: CHUNK }, &mut out);
    }
    let progress = fetch.progress(Tick(2 * SECOND));
    assert_eq!((progress.verified, progress.total), (40, 100));
    let first = &progress.sources[0];
    assert_eq!(first.bytes, 40 * CHUNK);
    // One chunk more or less in a quarter of a second.
    assert!((first.bytes_per_s as f64 / (20 * CHUNK) as f64 - 1.0).abs() < 0.25, "{}", first.bytes_per_s);
    assert_eq!(first.last_arrival, Some(Tick(2 * SECOND)));
    assert_eq!(progress.sources[1].state, SourceState::Stalled);
    let eta = progress.eta_ns.unwrap();
    assert!((5 * SECOND / 2..7 * SECOND / 2).contains(&eta), "{eta}");
}

/// A million chunks from sources that send them in the worst order they may: a step must not look at all of them.
#[test]
fn a_million_chunks_in_any_order_are_no_burden() {
    for strategy in [StrategyKind::Pull, StrategyKind::Adaptive, StrategyKind::Equal] {
        let config = FetchConfig { strategy, unwritten_bytes_max: u64::MAX, ..FetchConfig::default() };
        let chunks = 1 << 20;
        let sources: Vec<ReplicaId> = (0..6).map(ReplicaId).collect();
        let mut fetch = Fetch::new(config, chunks, vec![0..chunks], 4096, &sources, Tick(0));
        let (mut out, mut now) = (Vec::new(), 0);
        fetch.step(Tick(0), Input::Tick, &mut out);
        while !fetch.done() {
            for from in &sources {
                // Every other one first, the rest after them.
                let (even, odd): (Vec<u64>, Vec<u64>) =
                    fetch.outstanding(*from).iter().flatten().take(4000).partition(|c| c % 2 == 0);
                for chunk in even.into_iter().chain(odd) {
                    now += 1_000;
                    match fetch.arrived(Tick(now), *from, chunk, 4096, &mut out) {
                        Arrival::Check => fetch.step(Tick(now), Input::Verified { chunk }, &mut out),
                        arrival => {
                            assert!(matches!(arrival, Arrival::Duplicate | Arrival::Spare), "{arrival:?}")
                        }
                    }
                }
                out.clear();
            }
        }
        assert_eq!(fetch.progress(Tick(now)).verified, chunks);
    }
}

/// Any inputs in any order: no panic, nothing forgotten, and it ends when honest sources are left alone.
#[test]
fn no_sequence_of_events_loses_a_chunk() {
    for seed in 0..1500 {
        let mut random = Random::new(seed);
        let strategy = *random.pick(&StrategyKind::ALL);
        let chunks = random.between(1, 60);
        let n = random.between(1, 6) as u32;
        let config = FetchConfig {
            offerers: 1,
            strategy,
            interval_ns: random.between(1, 2 * SECOND),
            weights: (0..n).map(|r| (id(r), random.next() >> random.below(64))).collect(),
            cst: any_cst(&mut random),
            leader_weight_percent: random.below(150) as u32,
            window_bytes_max: random.below(20 * CHUNK),
            unwritten_bytes_max: random.below(40 * CHUNK),
            packed: false,
            limit_bytes_per_s: random.per_mille(200).then_some(random.below(100 * CHUNK)),
        };
        let wanted = (0..random.between(1, 4)).map(|_| {
            let start = random.below(chunks);
            start..start + random.below(chunks)
        });
        let wanted = wanted.collect();
        let sources: Vec<ReplicaId> = (0..random.below(u64::from(n) + 1) as u32).map(ReplicaId).collect();
        let mut fetch = Fetch::new(config, chunks, wanted, CHUNK, &sources, Tick(0));
        let (mut out, mut now) = (Vec::new(), 0);
        let (mut hashing, mut unwritten): (Vec<(u64, ReplicaId)>, u64) = (Vec::new(), 0);
        for _ in 0..random.below(400) {
            let bits = random.between(10, 32);
            now += random.below(1 << bits);
            let r = id(random.below(u64::from(n) + 1) as u32);
            let input = match random.below(20) {
                0 => Input::Up(r),
                1 => Input::Down(r),
                2 => Input::Gone(r),
                3 => Input::Leader(random.per_mille(700).then_some(r)),
                4 => Input::Limit(random.per_mille(500).then_some(random.below(100 * CHUNK))),
                5..9 if !hashing.is_empty() => {
                    let (chunk, from) = hashing.swap_remove(random.below(hashing.len() as u64) as usize);
                    let bad = random.per_mille(100);
                    if bad { Input::Bad { chunk, from } } else { Input::Verified { chunk } }
                }
                9 => Input::Written { bytes: std::mem::take(&mut unwritten) },
                10..16 => {
                    let listed: Vec<u64> = fetch.outstanding(r).iter().flatten().collect();
                    let any = random.below(chunks + 2);
                    let chunk =
                        if listed.is_empty() || random.per_mille(100) { any } else { *random.pick(&listed) };
                    let arrival = fetch.arrived(Tick(now), r, chunk, CHUNK, &mut out);
                    if matches!(arrival, Arrival::Check | Arrival::Spare | Arrival::Keep) {
                        unwritten += CHUNK;
                    }
                    if arrival == Arrival::Check {
                        hashing.push((chunk, r));
                    }
                    Input::Tick
                }
                _ => Input::Tick,
            };
            fetch.step(Tick(now), input, &mut out);
            fetch.check();
        }
        // Peace: two new honest sources, all that was being hashed is right.
        println!("seed {seed}: {strategy}");
        fetch.step(Tick(now), Input::Limit(None), &mut out);
        fetch.step(Tick(now), Input::Written { bytes: unwritten }, &mut out);
        hashing.into_iter().for_each(|(chunk, _)| fetch.step(Tick(now), Input::Verified { chunk }, &mut out));
        let spares = fetch.unchecked();
        spares.into_iter().for_each(|chunk| fetch.step(Tick(now), Input::Verified { chunk }, &mut out));
        [50, 51].into_iter().for_each(|r| fetch.step(Tick(now), Input::Up(id(r)), &mut out));
        let mut beats = 0;
        while !fetch.done() {
            now += SECOND / 10;
            fetch.step(Tick(now), Input::Tick, &mut out);
            for from in [id(50), id(51)] {
                let list: Vec<u64> = fetch.outstanding(from).iter().flatten().collect();
                for chunk in list.into_iter().take(3) {
                    if fetch.arrived(Tick(now), from, chunk, CHUNK, &mut out) == Arrival::Check {
                        fetch.step(Tick(now), Input::Verified { chunk }, &mut out);
                    }
                    fetch.step(Tick(now), Input::Written { bytes: CHUNK }, &mut out);
                }
            }
            fetch.check();
            beats += 1;
            assert!(beats < 2000, "seed {seed}: {strategy} {:?}", fetch.progress(Tick(now)));
        }
    }
}
