use super::state_digest::StateDigest;
use crate::types::*;
use std::time::{Duration, Instant};

#[test]
fn a_digest_is_computed_once_per_place_and_once_a_second() {
    let (mut digest, start) = (StateDigest::default(), Instant::now());
    let of = |seq: u8| Digest([seq; 32]);
    assert_eq!(digest.at(start, Seq(1), || of(1)), Some((Seq(1), of(1))));
    let again = digest.at(start, Seq(1), || unreachable!("the place is the same"));
    assert_eq!(again, Some((Seq(1), of(1))));
    assert_eq!(digest.at(start, Seq(2), || unreachable!("too soon")), None);
    let later = start + Duration::from_secs(3);
    assert_eq!(digest.at(later, Seq(2), || of(2)), Some((Seq(2), of(2))));
    assert_eq!(digest.at(later, Seq(3), || unreachable!("too soon")), None);
}
