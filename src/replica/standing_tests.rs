use super::standing::{Bucket, Standing};
use std::time::{Duration, Instant};

#[test]
fn sixteen_groups_in_a_row_that_are_not_taken_end_a_connection_once() {
    let standing = Standing::default();
    (0..15).for_each(|_| assert!(!standing.rejected()));
    assert!(!standing.lost());
    assert!(standing.rejected() && standing.lost());
    assert!(!standing.rejected(), "it is closed once");
}

#[test]
fn sixty_four_in_all_end_it_too() {
    let standing = Standing::default();
    let lost: Vec<bool> = (0..64)
        .map(|_| {
            standing.accepted();
            standing.rejected()
        })
        .collect();
    assert_eq!(lost.iter().position(|lost| *lost), Some(63));
}

#[test]
fn fifty_questions_a_second_are_answered() {
    let (mut bucket, start) = (Bucket::default(), Instant::now());
    let burst = (0..1000).filter(|_| bucket.take(start)).count();
    assert_eq!(burst, 50);
    let later = (1..=1000u64).filter(|i| bucket.take(start + Duration::from_millis(*i))).count();
    assert!((49..=51).contains(&later), "{later}");
}
