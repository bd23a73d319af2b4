use super::schedule::{Schedule, Turns};
use super::stretch::{STRETCH_MAX, Stretch};
use crate::types::{ReplicaId, Seq};

fn schedule(i: u32) -> Schedule {
    Schedule::new(Turns::Sequential { group: 1 }, 1000, 4, ReplicaId(i), 10).expect("a period")
}

#[test]
fn a_period_is_gone_by_as_often_as_writing_needs_and_again_less_when_it_does_not() {
    let mut stretch = Stretch::new(schedule(1));
    assert_eq!((stretch.factor(), stretch.smallest_period()), (1, 1));
    let mut after = |places| {
        stretch.add(places);
        (stretch.factor(), stretch.smallest_period())
    };
    // A turn is 250 places.
    assert_eq!(after(249), (1, 997));
    assert_eq!(after(250), (2, 1001));
    assert_eq!(after(499), (2, 1997));
    assert_eq!(after(500), (4, 2001));
    assert_eq!(after(10_000), (STRETCH_MAX, 40_001));
    assert_eq!([after(10), after(10), after(10)], [(STRETCH_MAX, 40_001); 3]);
    assert_eq!(after(10), (1, 41), "the last four count");
}

#[test]
fn replicas_that_leave_out_as_many_turns_keep_out_of_each_others_way() {
    for factor in [1, 2, 4, STRETCH_MAX] {
        let taken: Vec<(u64, u32)> = (1..=4 * 1000 * factor)
            .flat_map(|seq| {
                (0..4).filter(move |i| schedule(*i).takes(Seq(seq), factor)).map(move |i| (seq, i))
            })
            .collect();
        assert_eq!(taken.len(), 16);
        for (turn, (seq, i)) in (1..).zip(taken) {
            assert_eq!((seq, u64::from(i)), (turn * 250 * factor, turn % 4));
            assert!(schedule(i).roots(Seq(seq)), "all replicas take the root there");
        }
    }
}
