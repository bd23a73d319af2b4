//! The corner cases of state transfer, row by row (ALGORITHMS d.3), and the tests of those that have none elsewhere.
//!
//! | case | test |
//! |---|---|
//! | bytes on the wire at reallocation | `fluid_tests`: `bytes_on_the_wire_at_reallocation_are_not_asked_for_again`, `adaptive_is_as_fast_as_the_sum_of_the_links_and_sends_nothing_twice` |
//! | Algorithm 2 read literally | here: `a_request_that_replaces_takes_what_is_unsent_and_repeats_nothing`; `shares_tests`: `a_source_keeps_the_lowest_part_of_what_it_has` |
//! | partially sent chunk | here: `a_chunk_that_was_taken_back_too_late_is_used` |
//! | late duplicate of a verified chunk | `fetch_tests`: `a_late_duplicate_of_a_verified_chunk_is_metered_and_dropped` |
//! | late duplicate while first copy is being hashed | `fetch_tests`: `one_spare_is_kept_while_the_first_copy_is_hashed_and_used_if_that_fails`, `there_is_no_second_spare` |
//! | verification failure | `fetch_tests`: `a_bad_chunk_bans_its_sender_and_is_asked_of_another_one_at_once`; `fluid_tests`: `a_liar_is_replaced` |
//! | hash not yet certified | `fetch_tests`: `a_chunk_that_cannot_be_checked_yet_is_not_asked_for_again` |
//! | hash lists differ for one chunk only | here: `one_wrong_digest_in_a_list_costs_the_list_and_no_chunk` |
//! | lists of wrong length, huge N | `lies_tests`: `every_lie_is_found_and_costs_little` with `absurd-manifests`, `short-digests`; `fetch_tests`: `numbers_out_of_range_are_strikes_and_many_strikes_a_ban` |
//! | correct chunks very slowly, last chunk never | `fluid_tests`: `a_source_that_dribbles_is_replaced`, `the_last_chunks_are_asked_for_twice_rather_than_waited_for` |
//! | claims high speed then stalls | `fluid_tests`: `a_source_that_baits_with_speed_holds_up_no_more_than_its_window`; `fetch_tests`: `no_rate_makes_a_window_larger_than_the_largest` |
//! | state changed at source during transfer | `lies_tests`: `a_state_that_goes_away_is_replaced_by_a_newer_one`; `fetch_tests`: `what_a_source_no_longer_has_is_asked_of_others` |
//! | all sources slower than log growth | here: `newer_states_do_not_move_the_target` |
//! | fewer than f+1 sources have s* | here: `one_holder_of_a_certified_state_is_enough`; `cst_tests`: `the_place_is_chosen_by_certificate` |
//! | leader is a source | `fluid_tests`: `the_leader_sends_least`, `the_leader_sends_all_when_it_is_alone`; `cst_tests`: `the_leader_is_taken_last` |
//! | receiver disk slower than network | `fluid_tests`: `what_is_under_way_and_in_memory_is_bounded_by_what_the_disk_takes`; `fetch_tests`: `nothing_is_asked_for_that_would_not_fit_before_the_disk_has_written` |
//! | asymmetric NAT, one connection limits | `fluid_tests`: `pull_is_as_fast_as_the_sum_of_the_links_of_group_a` asks for twice what a long link holds; what one connection carries is the system's, and measured by `figures transfer` |
//! | N vs I interaction | `fluid_tests`: `chunks_as_large_as_an_interval_waste_little` |
//!
//! Allocation for any weights (coverage, sum, bounds): `shares_tests`, and here `whatever_the_weights_all_that_is_missing_is_somebodys`.

use super::fetch::*;
use super::lies::named;
use super::lies_tests::{LIAR, ME, Rig, image, mark, store};
use super::messages::Message;
use super::ranges::RangeSet;
use super::seeder::Seeder;
use crate::types::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: u64 = 1_000_000_000;
const CHUNK: u64 = 1 << 16;

fn chunks(out: &mut Vec<Message>) -> Vec<u64> {
    let chunk = |m: Message| if let Message::Chunk { chunk, .. } = m { Some(chunk) } else { None };
    out.drain(..).filter_map(chunk).collect()
}

/// "Replace semantics": literal appending sends up to 1.7 times what is needed.
#[test]
fn a_request_that_replaces_takes_what_is_unsent_and_repeats_nothing() {
    let image = image(&store(8000), 64);
    let all = image.chunks();
    let mut seeder = Seeder::new(0);
    seeder.offer(mark(&image), image.clone());
    let ask = |from: u64, to: u64, replace| {
        let ranges = std::iter::once(from..to).collect();
        Message::GetChunks { seq: Seq(64), round: 0, ranges, replace, packed: false, again: vec![] }
    };
    let (mut out, mut seen) = (Vec::new(), BTreeSet::new());
    seeder.on_message(Tick(1), ME, ask(0, all, false), &mut out);
    let first = chunks(&mut out);
    assert_eq!(first, (0..first.len() as u64).collect::<Vec<_>>(), "lowest first");
    seen.extend(first);
    // The lower half is another one's now; what is handed over already is named again with the upper one.
    for round in 0..1000 {
        seeder.on_message(Tick(2), ME, ask(0, 2, true), &mut out);
        seeder.on_message(Tick(2), ME, ask(all / 2, all, true), &mut out);
        seeder.room(Tick(2), ME, &mut out);
        let sent = chunks(&mut out);
        if sent.is_empty() {
            assert!(round > 1);
            break;
        }
        for chunk in sent {
            assert!(chunk >= all / 2, "{chunk} was replaced");
            assert!(seen.insert(chunk), "{chunk} twice");
        }
    }
    assert!((all / 2..all).all(|chunk| seen.contains(&chunk)), "all of the upper half");
}

/// "Finish it": a chunk on the wire comes although it is another one's by now.
#[test]
fn a_chunk_that_was_taken_back_too_late_is_used() {
    let sources = [ReplicaId(0), ReplicaId(1)];
    let config = FetchConfig { strategy: StrategyKind::Adaptive, ..FetchConfig::default() };
    let mut fetch = Fetch::new(config, 200, std::iter::once(0..200).collect(), CHUNK, &sources, Tick(0));
    let mut out = Vec::new();
    fetch.step(Tick(0), Input::Tick, &mut out);
    for (source, count) in [(0, 60), (1, 2)] {
        for beat in 0..count {
            let chunk = fetch.outstanding(ReplicaId(source)).first().expect("it has work");
            let now = Tick(SECOND / 2 + beat);
            fetch.arrived(now, ReplicaId(source), chunk, CHUNK, &mut out);
            fetch.step(now, Input::Verified { chunk }, &mut out);
            fetch.step(now, Input::Written { bytes: CHUNK }, &mut out);
        }
    }
    let before = fetch.outstanding(ReplicaId(1));
    fetch.step(Tick(SECOND), Input::Tick, &mut out);
    let mut lost = before;
    lost.subtract_all(&lost.common(&fetch.outstanding(ReplicaId(1))));
    let chunk = lost.last().expect("the slow one lost some");
    assert!(fetch.outstanding(ReplicaId(0)).contains(chunk), "it is the fast one's now");
    out.clear();
    assert_eq!(fetch.arrived(Tick(SECOND + 1), ReplicaId(1), chunk, CHUNK, &mut out), Arrival::Check);
    let cancelled = |o: &Output| matches!(o, Output::Cancel { to: ReplicaId(0), ranges } if ranges.iter().any(|r| r.contains(&chunk)));
    assert!(out.iter().any(cancelled), "nobody else need send it: {out:?}");
    fetch.check();
}

/// With a certified tree the question which list is right disappears.
#[test]
fn one_wrong_digest_in_a_list_costs_the_list_and_no_chunk() {
    let images = [image(&store(8000), 64)];
    let mut honest = Rig::new(&images);
    honest.start(None);
    honest.ends_well(u64::MAX / 4, &images[0]);
    let mut rig = Rig::lying(&images, named("false-digests").expect("a row").twist);
    rig.start(None);
    rig.ends_well(honest.now.0, &images[0]);
    assert!(rig.blamed.iter().any(|(who, why)| *who == LIAR && why.contains("digests")), "{:?}", rig.blamed);
    // But for copies at the end.
    assert!(!rig.chunks.contains_key(&LIAR) && rig.chunks.values().sum::<u64>() <= images[0].chunks() + 32);
}

/// States go on being certified faster than one is transferred: the first target stays, for its sessions pin it.
#[test]
fn newer_states_do_not_move_the_target() {
    let first = image(&store(8000), 64);
    let later: Vec<_> = (1..40).map(|i| image(&store(10 + i), 64 + 64 * i)).collect();
    let mut rig = Rig::new(std::slice::from_ref(&first));
    later.iter().for_each(|image| rig.certify(image));
    rig.start(None);
    let mut offered = 0;
    while !rig.complete {
        rig.one();
        let due = (rig.now.0 / 4_000_000) as usize;
        while offered < due.min(later.len()) && !rig.chunks.is_empty() {
            (1..4).for_each(|seeder| rig.offer(seeder, &later[offered]));
            offered += 1;
        }
    }
    assert!(offered > 3, "{offered}: nobody keeps the first one but for the session");
    rig.ends_well(u64::MAX / 4, &first);
    assert_eq!(rig.blamed, []);
}

/// The certificate says that it is right: one that has it is enough, where f+1 would be waited for in vain.
#[test]
fn one_holder_of_a_certified_state_is_enough() {
    let images = [image(&store(2000), 64)];
    let mut rig = Rig::new(&images);
    rig.config.offerers = 2;
    [1, 2].iter().for_each(|r| _ = rig.seeders.insert(ReplicaId(*r), Seeder::new(0)));
    rig.start(None);
    rig.ends_well(SECOND, &images[0]);
    assert_eq!(rig.chunks.keys().copied().collect::<Vec<_>>(), [ReplicaId(3)]);
}

proptest! {
    /// GST-03, equation (2): what is here, under way or planned is all there is, whatever came from whom.
    #[test]
    fn whatever_the_weights_all_that_is_missing_is_somebodys(
        chunks in 1u64..400,
        weights in proptest::collection::vec(0u64..50, 1..8),
        rounds in 1u64..6,
        which in 0usize..StrategyKind::ALL.len(),
    ) {
        let strategy = StrategyKind::ALL[which];
        let sources: Vec<ReplicaId> = (0..weights.len() as u32).map(ReplicaId).collect();
        let fixed: BTreeMap<ReplicaId, u64> = sources.iter().copied().zip(weights.iter().copied()).collect();
        let config = FetchConfig { strategy, weights: fixed, ..FetchConfig::default() };
        let mut fetch = Fetch::new(config, chunks, std::iter::once(0..chunks).collect(), CHUNK, &sources, Tick(0));
        let mut out = Vec::new();
        fetch.step(Tick(0), Input::Tick, &mut out);
        for round in 1..=rounds {
            for (source, weight) in sources.iter().zip(&weights) {
                for beat in 0..*weight {
                    let Some(chunk) = fetch.outstanding(*source).first() else { break };
                    let now = Tick(round * SECOND - SECOND / 2 + beat);
                    if fetch.arrived(now, *source, chunk, CHUNK, &mut out) == Arrival::Check {
                        fetch.step(now, Input::Verified { chunk }, &mut out);
                    }
                    fetch.step(now, Input::Written { bytes: CHUNK }, &mut out);
                }
            }
            fetch.step(Tick(round * SECOND), Input::Tick, &mut out);
            // Coverage, and at most two copies.
            fetch.check();
            let asked: u64 = sources.iter().map(|r| fetch.outstanding(*r).len()).sum();
            let mut union = RangeSet::default();
            sources.iter().for_each(|r| union.add_all(&fetch.outstanding(*r)));
            // A source without a share has one chunk that another one has; `pull` helps with sixteen at the end.
            let copies = if strategy == StrategyKind::Pull { 16 } else { 1 };
            prop_assert!(asked <= union.len() + copies * weights.len() as u64, "{strategy}: {asked} {}", union.len());
            prop_assert!(union.len() <= chunks);
        }
    }
}
