//! What counts as said before, and what it costs.

use super::repeats::*;
use crate::types::*;
use crate::wire::messages::*;
use std::time::Instant;

fn vote(view: u64, seq: u64) -> Vote {
    Vote { view: View(view), seq: Seq(seq), digest: Digest([seq as u8; 32]), signature: Signature([0; 64]) }
}

#[test]
fn each_kind_view_and_place_is_heard_once() {
    let now = Instant::now();
    let mut r = Repeats::new(now);
    for seq in 1..2000 {
        for view in [1, 2] {
            assert!(!r.again(now, &Message::Write(vote(view, seq))));
            assert!(!r.again(now, &Message::Accept(vote(view, seq))));
            assert!(!r.again(
                now,
                &Message::Propose(Propose { view: View(view), seq: Seq(seq), batch: [1].to_vec().into() })
            ));
            assert!(r.again(now, &Message::Write(vote(view, seq))));
            assert!(r.again(now, &Message::Accept(Vote { digest: Digest::ZERO, ..vote(view, seq) })));
            assert!(r.again(
                now,
                &Message::Propose(Propose { view: View(view), seq: Seq(seq), batch: [2].to_vec().into() })
            ));
        }
    }
}

#[test]
fn what_is_said_again_on_demand_is_heard() {
    let now = Instant::now();
    let mut r = Repeats::new(now);
    let propose = Message::Write(vote(1, 5));
    assert!(!r.again(now, &propose));
    // Repetitions do not put off when it may be heard again.
    assert!(r.again(now + AGAIN / 2, &propose));
    assert!(r.again(now + AGAIN * 9 / 10, &propose));
    assert!(!r.again(now + AGAIN, &propose));
    assert!(r.again(now + AGAIN * 3 / 2, &propose));
}

#[test]
fn other_messages_are_repeated_for_good_reasons() {
    let now = Instant::now();
    let mut r = Repeats::new(now);
    for _ in 0..3 {
        assert!(!r.again(now, &Message::Stop(Stop { view: View(2) })));
        assert!(!r.again(now, &Message::Fetch(Fetch { from: Seq(1), to: Seq(9) })));
    }
}

#[test]
fn whoever_repeats_too_much_rests_until_the_slice_is_over_and_starts_anew() {
    let start = Instant::now();
    let mut r = Repeats::new(start);
    for slice in 0..3 {
        let now = start + SLICE * slice;
        r.in_vain(now, SLICE_BYTES / 2);
        assert_eq!(r.rests(), None);
        r.in_vain(now, SLICE_BYTES / 2);
        assert_eq!(r.rests(), Some(now + SLICE));
        assert_eq!(r.rests(), None, "said once");
    }
}
