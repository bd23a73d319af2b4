use super::lies_tests::{image_of, mark};
use super::messages::Message;
use super::seeder::Seeder;
use super::yielding::{Look, Yielding};
use crate::types::*;

const MIB: u64 = 1 << 20;
const FLOOR: u64 = 8 * MIB;
const LOOK_NS: u64 = 100_000_000;

/// Places that take so long, and so many bytes sent since the last look.
fn look(place_us: u64, sent: u64) -> Look {
    Look { length_ns: LOOK_NS, places: 20, places_ns: 20 * place_us * 1000, sent, waits: sent > 0 }
}

/// A machine whose places take `idle_us`, and longer by `us_per_mib` for each MiB per second that is sent; a link that carries `link`
/// bytes per second. Bytes sent in each look.
fn simulate(yielding: &mut Yielding, looks: usize, (idle_us, us_per_mib): (u64, f64), link: u64) -> Vec<u64> {
    let mut rates = Vec::new();
    for _ in 0..looks {
        let rate = yielding.bytes_per_s().map_or(link, |rate| rate.min(link));
        let place_us = idle_us + (us_per_mib * (rate / MIB) as f64) as u64;
        yielding.look(look(place_us, rate / 10));
        rates.push(rate);
    }
    rates
}

fn mean(rates: &[u64]) -> u64 {
    rates.iter().sum::<u64>() / rates.len() as u64
}

fn settled() -> Yielding {
    let mut yielding = Yielding::new(FLOOR);
    for _ in 0..50 {
        assert_eq!(yielding.look(look(10_000, 0)), None);
    }
    yielding
}

#[test]
fn what_costs_the_agreement_nothing_is_not_bounded() {
    let mut yielding = settled();
    let rates = simulate(&mut yielding, 200, (10_000, 0.0), 500 * MIB);
    assert!(rates.iter().all(|rate| *rate == 500 * MIB));
    assert_eq!((yielding.bytes_per_s(), yielding.lowered()), (None, 0));
    // Neither is what costs less than anybody notices.
    let rates = simulate(&mut yielding, 200, (10_000, 4.0), 500 * MIB);
    assert_eq!(mean(&rates), 500 * MIB);
}

#[test]
fn it_finds_the_rate_that_the_agreement_bears() {
    let mut yielding = settled();
    // Unbounded, places take three times as long; 100 MiB/s make a quarter and the slack.
    let rates = simulate(&mut yielding, 600, (10_000, 30.0), 700 * MIB);
    let late = &rates[100..];
    let borne = mean(late) / MIB;
    assert!((50..110).contains(&borne), "{borne} MiB/s");
    assert!(late.iter().all(|rate| *rate < 150 * MIB), "{}", late.iter().max().unwrap() / MIB);
    assert!(rates[..20].iter().any(|rate| *rate <= 90 * MIB), "it yields within two seconds");
}

#[test]
fn the_floor_lets_a_transfer_end_whatever_the_load_does() {
    let mut yielding = settled();
    // Ten times as much load as before, whatever is sent.
    let rates = simulate(&mut yielding, 300, (100_000, 0.0), 500 * MIB);
    assert!(rates.iter().all(|rate| *rate >= FLOOR));
    assert_eq!(mean(&rates[100..]), FLOOR);
}

#[test]
fn once_the_agreement_has_room_again_the_bound_goes() {
    let mut yielding = settled();
    simulate(&mut yielding, 100, (100_000, 0.0), 500 * MIB);
    assert_eq!(yielding.bytes_per_s(), Some(FLOOR));
    let rates = simulate(&mut yielding, 150, (10_000, 0.0), 500 * MIB);
    assert!(rates.windows(2).all(|pair| pair[0] <= pair[1]), "nothing stands in the way: {rates:?}");
    assert_eq!(yielding.bytes_per_s(), None);
}

#[test]
fn after_a_transfer_the_bound_goes_and_what_is_usual_is_learnt_anew() {
    let mut yielding = settled();
    simulate(&mut yielding, 100, (100_000, 0.0), 500 * MIB);
    for _ in 0..60 {
        yielding.look(look(100_000, 0));
    }
    assert_eq!(yielding.bytes_per_s(), None);
    // The load is what it was: nothing rises.
    let lowered = yielding.lowered();
    simulate(&mut yielding, 100, (100_000, 0.0), 500 * MIB);
    assert_eq!(yielding.lowered(), lowered);
}

#[test]
fn a_short_pause_of_the_leecher_is_no_time_to_learn_from() {
    let mut yielding = settled();
    simulate(&mut yielding, 20, (100_000, 0.0), 500 * MIB);
    for _ in 0..5 {
        yielding.look(look(100_000, 0));
    }
    assert_eq!(yielding.bytes_per_s(), Some(FLOOR));
    assert_eq!(yielding.times_ns().0, Some(10_000_000));
}

#[test]
fn without_load_before_the_best_since_is_the_measure() {
    let mut yielding = Yielding::new(FLOOR);
    let idle = Look { length_ns: LOOK_NS, sent: 50 * MIB, waits: true, ..Look::default() };
    for _ in 0..50 {
        assert_eq!(yielding.look(idle), None, "nobody is in the way");
    }
    simulate(&mut yielding, 5, (10_000, 0.0), 500 * MIB);
    assert_eq!(yielding.bytes_per_s(), None);
    simulate(&mut yielding, 5, (10_000, 200.0), 500 * MIB);
    assert!(yielding.bytes_per_s().is_some());
}

#[test]
fn no_place_is_no_sign_of_lateness() {
    let mut yielding = settled();
    simulate(&mut yielding, 20, (100_000, 0.0), 500 * MIB);
    let lowered = yielding.lowered();
    let none = Look { length_ns: LOOK_NS, sent: MIB, waits: true, ..Look::default() };
    for _ in 0..100 {
        yielding.look(none);
    }
    assert_eq!(yielding.lowered(), lowered);
}

#[test]
fn a_seeder_told_to_yield_does_and_never_sends_more_than_its_bound() {
    let mut seeder = Seeder::new(4 * MIB);
    let image = image_of(8000);
    let chunks = image.chunks();
    seeder.offer(mark(&image), image);
    // Bytes of one second, from a leecher that takes all and wants all again.
    let mut second = |from: u64, yields: Option<u64>| {
        let before = seeder.sent();
        seeder.yields(Tick(from * 1_000_000_000 + 1), yields);
        for ms in 0..1000 {
            let now = Tick(from * 1_000_000_000 + ms * 1_000_000 + 1);
            let mut out = Vec::new();
            let (ranges, again) = (std::iter::once(0..chunks).collect(), (0..chunks).collect());
            let ask =
                Message::GetChunks { seq: Seq(64), round: 0, ranges, replace: true, again, packed: false };
            seeder.on_message(now, ReplicaId(1), ask, &mut out);
            seeder.room(now, ReplicaId(1), &mut out);
        }
        (seeder.sent() - before) / (MIB / 4)
    };
    // In quarters of a MiB, a burst more or less.
    assert!((15..=17).contains(&second(1, None)));
    assert!((3..=6).contains(&second(2, Some(MIB))));
    assert!((15..=17).contains(&second(3, Some(100 * MIB))));
    assert!((15..=17).contains(&second(4, None)));
}
