use super::Remote;
use super::dial::*;
use crate::types::ReplicaId;
use std::time::{Duration, Instant};

fn link() -> Link {
    Link::new(Remote { id: ReplicaId(0), address: "somewhere:1".into(), key: [0; 32] }, None)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn pauses_double_from_50_ms_to_a_second_and_differ_by_up_to_half() {
    let mut link = link();
    let now = Instant::now();
    for full in [50u64, 100, 200, 400, 800, 1000, 1000, 1000] {
        link.state = State::Dialing;
        let pause = link.down(now, false, full.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(pause >= ms(full / 2) && pause <= ms(full), "{pause:?} of {full} ms");
    }
    let extremes = [0, u64::MAX].map(|random| link.down(now, false, random));
    assert!(extremes[1] - extremes[0] > ms(490));
}

#[test]
fn only_a_connection_that_lasted_makes_the_next_pause_short_again() {
    let mut link = link();
    let now = Instant::now();
    for _ in 0..8 {
        link.down(now, false, 0);
    }
    link.up(now);
    assert!(link.down(now + ms(100), false, 0) >= ms(500), "it ended at once");
    link.up(now);
    assert!(link.down(now + ms(10_000), false, 0) <= ms(50));
}

#[test]
fn the_addresses_of_a_name_are_tried_one_behind_the_other() {
    let mut link = link();
    link.addresses = ["[::1]:1", "127.0.0.1:1"].map(|a| literal(a).unwrap()).into();
    link.addresses.pop_front();
    link.state = State::Dialing;
    assert_eq!(link.down(Instant::now(), false, 0), Duration::ZERO);
    link.addresses.pop_front();
    link.state = State::Dialing;
    assert!(link.down(Instant::now(), false, 0) > Duration::ZERO);
    // A lookup that fails pauses as well.
    link.state = State::Resolving;
    assert!(link.down(Instant::now(), false, 0) > Duration::ZERO);
}

#[test]
fn a_refusal_is_followed_by_a_long_pause() {
    let mut link = link();
    link.addresses = [literal("127.0.0.1:1").unwrap()].into();
    link.state = State::Dialing;
    assert_eq!(link.down(Instant::now(), true, 0), Duration::from_secs(5));
    assert!(link.addresses.is_empty(), "the name is looked up again");
}
