//! The part of [`conformance`](super::conformance) about pages. A service that has none passes.

use super::conformance::{bytes_of, halfway, run, with_pool};
use super::{PagedSnapshot, RestoreError, Service, Snapshot};
use crate::checkpoint::pages::{page_digest, root_of};
use crate::types::{Digest, DigestAlgorithm};

const BLAKE3: DigestAlgorithm = DigestAlgorithm::Blake3;
/// Pages that are bent, each in several ways: some of all.
const BENT_PAGES: usize = 12;

/// A paged state as bytes.
#[derive(Clone, PartialEq)]
struct Parts {
    header: Vec<u8>,
    pages: Vec<Option<Vec<u8>>>,
}

impl Parts {
    fn of(state: &dyn PagedSnapshot) -> Self {
        let page = |index| {
            let mut bytes = Vec::new();
            let is_there = state.page(index, &mut bytes);
            assert_eq!(is_there, !bytes.is_empty(), "page {index} has bytes if it is there");
            is_there.then_some(bytes)
        };
        Self { header: state.header().to_vec(), pages: (0..state.page_count()).map(page).collect() }
    }

    /// The root as anybody computes it who has the bytes.
    fn root(&self, algorithm: DigestAlgorithm) -> Digest {
        let digests = self.pages.iter().enumerate().map(|(index, page)| match page {
            Some(bytes) => page_digest(algorithm, index as u64, bytes),
            None => Digest::ZERO,
        });
        root_of(algorithm, &self.header, &digests.collect::<Vec<_>>())
    }

    fn restore(&self, service: &mut impl Service) -> Result<(), RestoreError> {
        let mut next = 0;
        service.restore_pages(&self.header, self.pages.len() as u64, &mut |index| {
            assert_eq!(index, next, "pages are asked for in order");
            next += 1;
            Ok(self.pages[index as usize].clone())
        })
    }
}

/// The root of a snapshot that has pages.
pub(super) fn root(snapshot: &dyn Snapshot, pool: Option<&rayon::ThreadPool>) -> Option<Digest> {
    snapshot.pages().map(|pages| pages.root(BLAKE3, pool))
}

/// The root is that of the pages' bytes, on any thread; what changed is told; later executions change no snapshot's pages.
pub fn the_root_is_of_the_pages<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    with_pool(3, |pool| the_root_is_of_the_pages_on(pool, make, operations)).expect("three threads");
}

fn the_root_is_of_the_pages_on<S: Service>(
    pool: &rayon::ThreadPool,
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
) {
    let mut service = make();
    let mut taken: Vec<(Parts, Box<dyn Snapshot>)> = Vec::new();
    let step = operations.len() / 5 + 1;
    for from in (0..operations.len()).step_by(step) {
        run(&mut service, &operations[..operations.len().min(from + step)], from);
        let snapshot = service.snapshot();
        let Some(pages) = snapshot.pages() else { return };
        let parts = Parts::of(pages);
        assert_eq!(pages.root(BLAKE3, Some(pool)), parts.root(BLAKE3), "the root is not that of the pages");
        let sha = DigestAlgorithm::Sha256;
        assert_eq!(pages.root(sha, None), parts.root(sha), "the root is not that of the pages");
        for (older_parts, older) in &taken {
            let changed = pages.changed_since(older.pages().expect("as before"));
            assert!(changed.is_sorted_by(|a, b| a < b), "changed pages ascend");
            for (index, page) in parts.pages.iter().enumerate() {
                let same = older_parts.pages.get(index).unwrap_or(&None) == page;
                let told = changed.binary_search(&(index as u64)).is_ok();
                assert!(same || told, "page {index} changed, and it was not told");
            }
        }
        taken.push((parts, snapshot));
    }
    for (parts, snapshot) in taken {
        let pages = snapshot.pages().expect("as before");
        assert!(Parts::of(pages) == parts, "a snapshot's pages changed");
        assert_eq!(pages.root(BLAKE3, None), parts.root(BLAKE3), "a snapshot's root changed");
    }
}

/// A service that took the pages over in the middle has the same roots and replies from there on.
pub fn pages_taken_over_go_on_as_the_original<S: Service>(
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
) {
    let (mut original, mut restored, half) = halfway(make, operations);
    let snapshot = original.snapshot();
    let Some(pages) = snapshot.pages() else {
        let error = restored.restore_pages(&[], 0, &mut |_| Ok(None));
        assert!(matches!(error, Err(RestoreError::NotPaged)), "a service without pages takes some over");
        return;
    };
    if let Err(why) = Parts::of(pages).restore(&mut restored) {
        panic!("pages that a snapshot gave are turned away: {why}");
    }
    assert_same_pages(&original, &restored, "after pages were taken over");
    // In steps: a root computed in between must not stand for a later state.
    let step = (operations.len() - half) / 4 + 1;
    for from in (half..operations.len()).step_by(step) {
        let upto = &operations[..operations.len().min(from + step)];
        assert_eq!(run(&mut original, upto, from), run(&mut restored, upto, from), "replies differ");
        assert_same_pages(&original, &restored, "some operations after pages were taken over");
    }
}

fn assert_same_pages(a: &impl Service, b: &impl Service, when: &str) {
    let (a, b) = (a.snapshot(), b.snapshot());
    assert!(bytes_of(&*a) == bytes_of(&*b), "canonical bytes differ {when}");
    assert_eq!(root(&*a, None), root(&*b, None), "roots differ {when}");
}

/// Pages cut, bent, missing or misplaced are refused, and the state stays as it was; or they make a state with another root.
pub fn bad_pages_do_not_pass<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    let mut service = make();
    run(&mut service, operations, 0);
    let snapshot = service.snapshot();
    let Some(pages) = snapshot.pages() else { return };
    let good = Parts::of(pages);
    let attempt = |what: &str, bad: Parts| {
        let mut service = make();
        run(&mut service, &operations[..operations.len().min(10)], 0);
        let before = bytes_of(&*service.snapshot());
        match bad.restore(&mut service) {
            Err(_) => {
                assert!(bytes_of(&*service.snapshot()) == before, "{what}: refused, but the state changed")
            }
            Ok(()) => {
                assert_ne!(
                    root(&*service.snapshot(), None),
                    Some(good.root(BLAKE3)),
                    "{what}: the same root"
                );
                // Whatever it is, it is a state.
                run(&mut service, &operations[..operations.len().min(100)], 0);
            }
        }
    };
    let bent = |change: &dyn Fn(&mut Parts)| {
        let mut parts = good.clone();
        change(&mut parts);
        parts
    };
    for at in 0..good.header.len() {
        attempt("a header cut", bent(&|parts| parts.header.truncate(at)));
        attempt("a header bent", bent(&|parts| parts.header[at] ^= 1 << (at % 8)));
    }
    attempt("a longer header", bent(&|parts| parts.header.push(0)));
    attempt("a free page more", bent(&|parts| parts.pages.push(None)));
    attempt("the last page missing", bent(&|parts| drop(parts.pages.pop())));
    let present: Vec<usize> = (0..good.pages.len()).filter(|index| good.pages[*index].is_some()).collect();
    for (i, &index) in present.iter().step_by(present.len() / BENT_PAGES + 1).enumerate() {
        let of = |parts: &mut Parts| parts.pages[index].take().expect("it is there");
        let length = good.pages[index].as_ref().map_or(0, Vec::len);
        attempt("a page missing", bent(&|parts| drop(of(parts))));
        attempt("a page twice", bent(&|parts| parts.pages.push(good.pages[index].clone())));
        for cut in [0, length / 2, length - 1] {
            attempt("a page cut", bent(&|parts| parts.pages[index] = Some(of(parts)[..cut].to_vec())));
        }
        attempt("a page and a byte", bent(&|parts| parts.pages[index] = Some([of(parts), vec![0]].concat())));
        for at in [0, 1 + i % 4, 5 + i, length / 3, length / 2, length - 1].map(|at| at.min(length - 1)) {
            let flip = |parts: &mut Parts| {
                parts.pages[index].as_mut().expect("it is there")[at] ^= 1 << ((i + at) % 8);
            };
            attempt("a page bent", bent(&flip));
        }
        if let Some(other) = present.iter().find(|other| good.pages[**other] != good.pages[index]) {
            attempt("two pages exchanged", bent(&|parts| parts.pages.swap(index, *other)));
        }
    }
}
