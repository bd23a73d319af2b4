use super::increments::{Extent, Increments};
use super::pages::{Page, PagedState, Pages};
use crate::service::{CanonicalReader, RestoreError};
use crate::types::*;

/// A byte, of which a page has a thousand.
#[derive(Clone)]
struct Thousand(u8);

impl Page for Thousand {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend([self.0; 1000]);
    }

    fn bytes(&self) -> usize {
        1000
    }

    fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        Ok(Self(input.array::<1000>("page")?[0]))
    }
}

fn state(pages: &Pages<Thousand>) -> PagedState<Thousand> {
    PagedState { pages: pages.clone(), header: bytes::Bytes::new() }
}

fn hundred() -> Pages<Thousand> {
    let mut pages = Pages::new();
    (0..100).for_each(|i| {
        pages.allocate(Thousand(i));
    });
    pages
}

/// Of a hundred pages that were written as checkpoint 10, and others as 20.
fn known() -> (Increments, Pages<Thousand>) {
    let mut increments = Increments::new(4, DigestAlgorithm::Blake3);
    let pages = hundred();
    for seq in [10, 20] {
        let (extent, digests) = increments.plan(Some(&state(&pages)), 0, None);
        assert_eq!(extent, Extent::All, "there are not two yet");
        increments.stored(Seq(seq), digests, &[Seq(10), Seq(20)]);
    }
    (increments, pages)
}

#[test]
fn written_freed_and_new_pages_are_named_and_no_others() {
    let (increments, mut pages) = known();
    pages.get_mut(3).expect("it is there").0 = 77;
    // Written, and in the end the same.
    pages.get_mut(4).expect("it is there").0 = 4;
    pages.free(50);
    pages.free(60);
    pages.allocate(Thousand(50));
    pages.allocate(Thousand(1));
    pages.allocate(Thousand(2));
    let older = Some((Seq(10), vec![100_000]));
    let (extent, _) = increments.plan(Some(&state(&pages)), 0, older);
    // 50 was freed and taken again, with the same in it.
    assert_eq!(extent, Extent::Changed { since: Seq(10), pages: vec![3, 60, 100], bytes: 3 * 1012 });
    pages.free(60);
    let (extent, _) = increments.plan(Some(&state(&pages)), 0, Some((Seq(10), vec![100_000])));
    assert_eq!(extent, Extent::Changed { since: Seq(10), pages: vec![3, 60, 100], bytes: 3 * 12 + 2000 });
}

#[test]
fn all_pages_are_written_where_a_chain_is_long_or_large_or_not_known() {
    let (mut increments, mut pages) = known();
    (0..10).for_each(|i| pages.get_mut(i).expect("it is there").0 = 200);
    let full = |increments: &Increments, beside, files: &[u64], since| {
        let (extent, _) = increments.plan(Some(&state(&pages)), beside, Some((Seq(since), files.to_vec())));
        extent == Extent::All
    };
    // Ten pages are 10,120 bytes.
    assert!(!full(&increments, 0, &[20_240], 10) && full(&increments, 0, &[20_239], 10));
    assert!(!full(&increments, 0, &[40_000, 9_880], 10) && full(&increments, 0, &[40_000, 9_881], 10));
    assert!(!full(&increments, 9_880, &[40_000], 10) && full(&increments, 9_881, &[40_000], 10));
    // Three files, and four.
    assert!(!full(&increments, 0, &[100_000, 1, 1], 10) && full(&increments, 0, &[100_000, 1, 1, 1], 10));
    assert!(full(&increments, 0, &[100_000], 11), "nobody knows what is in it");
    assert_eq!(increments.plan(None, 0, Some((Seq(10), vec![100_000]))).0, Extent::All, "no pages");
    let (extent, digests) = Increments::new(1, DigestAlgorithm::Blake3).plan(Some(&state(&pages)), 0, None);
    assert!(extent == Extent::All && digests.is_empty(), "nothing is hashed for nothing");
    // What is no longer on disk is forgotten.
    let (_, digests) = increments.plan(Some(&state(&pages)), 0, None);
    increments.stored(Seq(30), digests, &[Seq(20), Seq(30)]);
    assert!(full(&increments, 0, &[100_000], 10) && !full(&increments, 0, &[100_000], 20));
}
