use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::pages::*;
use crate::service::{CanonicalReader, PagedSnapshot, RestoreError};
use crate::types::{Digest, DigestAlgorithm};

const BLAKE3: DigestAlgorithm = DigestAlgorithm::Blake3;

/// A length and so many bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Text(Vec<u8>);

impl Page for Text {
    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend((self.0.len() as u32).to_le_bytes());
        out.extend(&self.0);
    }

    fn bytes(&self) -> usize {
        4 + self.0.len()
    }

    fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
        let length = input.u32("length")? as usize;
        let mut text = Vec::new();
        input.append(&mut text, length, "text")?;
        Ok(Text(text))
    }
}

fn text(n: u64) -> Text {
    Text(n.to_le_bytes()[..n as usize % 8 + 1].to_vec())
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn bytes_of(pages: &Pages<Text>, index: u64) -> Option<Vec<u8>> {
    pages.get(index).map(|page| {
        let mut bytes = Vec::new();
        page.write_to(&mut bytes);
        bytes
    })
}

fn restored(pages: &Pages<Text>) -> Pages<Text> {
    Pages::restore(pages.count(), &mut |index| Ok(bytes_of(pages, index))).expect("its own pages")
}

/// The root from the bytes alone.
fn root_from_bytes(pages: &Pages<Text>, algorithm: DigestAlgorithm, header: &[u8]) -> Digest {
    let digest =
        |index| bytes_of(pages, index).map_or(Digest::ZERO, |bytes| page_digest(algorithm, index, &bytes));
    let digests: Vec<Digest> = (0..pages.count()).map(digest).collect();
    root_of(algorithm, header, &digests)
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u64),
    Allocates(u64),
    Write(u64, u64),
    Free(u64),
    Frees(u64),
    Snapshot,
    Root,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u64>().prop_map(Step::Allocate),
        1 => (1..400u64).prop_map(Step::Allocates),
        6 => (any::<u64>(), any::<u64>()).prop_map(|(at, n)| Step::Write(at, n)),
        3 => any::<u64>().prop_map(Step::Free),
        1 => (1..200u64).prop_map(Step::Frees),
        1 => Just(Step::Snapshot),
        2 => Just(Step::Root),
        1 => Just(Step::Restore),
    ]
}

/// What the pages should be, on the standard library's map, and which have been touched since the snapshot.
#[derive(Clone, Default)]
struct Model {
    pages: BTreeMap<u64, Text>,
    count: u64,
    touched: Vec<u64>,
}

impl Model {
    fn allocate(&mut self, page: Text) -> u64 {
        let index = (0..).find(|i| !self.pages.contains_key(i)).unwrap();
        self.pages.insert(index, page);
        self.count = self.count.max(index + 1);
        self.touched.push(index);
        index
    }

    fn free(&mut self, index: u64) -> Option<Text> {
        let page = self.pages.remove(&index)?;
        self.touched.push(index);
        Some(page)
    }

    fn same(&self, pages: &Pages<Text>) -> bool {
        self.count == pages.count()
            && self.pages.len() as u64 == pages.occupied()
            && (0..self.count + 70).all(|i| self.pages.get(&i) == pages.get(i))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn pages_do_what_a_plain_map_does(steps in prop::collection::vec(step(), 1..60)) {
        let (mut pages, mut model) = (Pages::<Text>::new(), Model::default());
        let (mut taken, mut taken_model) = (pages.clone(), model.clone());
        let pool = pool(2);
        for step in steps {
            match step {
                Step::Allocate(n) => prop_assert_eq!(pages.allocate(text(n)), model.allocate(text(n))),
                Step::Allocates(n) => for n in 0..n {
                    prop_assert_eq!(pages.allocate(text(n)), model.allocate(text(n)));
                },
                Step::Write(at, n) => {
                    let at = at % (model.count + 2);
                    prop_assert_eq!(pages.get_mut(at).is_some(), model.pages.contains_key(&at));
                    if let Some(page) = pages.get_mut(at) {
                        *page = text(n);
                        model.pages.insert(at, text(n));
                        model.touched.push(at);
                    }
                }
                Step::Free(at) => {
                    let at = at % (model.count + 2);
                    prop_assert_eq!(pages.free(at), model.free(at));
                }
                Step::Frees(n) => for i in 0..n {
                    let at = i * 7 % (model.count + 2);
                    prop_assert_eq!(pages.free(at), model.free(at));
                },
                Step::Snapshot => {
                    model.touched.clear();
                    (taken, taken_model) = (pages.clone(), model.clone());
                }
                Step::Root => {
                    let root = pages.root(BLAKE3, b"h", Some(&pool));
                    prop_assert_eq!(root, root_from_bytes(&pages, BLAKE3, b"h"));
                    prop_assert_eq!(root, restored(&pages).root(BLAKE3, b"h", None));
                }
                Step::Restore => {
                    // Goes on with other pages of the same layout. They share none with the snapshot.
                    pages = restored(&pages);
                    model.touched.extend(0..model.count);
                }
            }
        }
        prop_assert!(model.same(&pages));
        prop_assert!(taken_model.same(&taken), "a snapshot stays as it was");
        prop_assert_eq!(taken.root(BLAKE3, b"", None), root_from_bytes(&taken, BLAKE3, b""));
        let mut touched = model.touched;
        touched.sort_unstable();
        touched.dedup();
        // What came and went in between is as it was.
        touched.retain(|i| model.pages.contains_key(i) || taken_model.pages.contains_key(i));
        prop_assert_eq!(pages.changed_since(&taken), touched);
    }

    #[test]
    fn another_byte_anywhere_is_another_root(count in 1..300u64, at in any::<u64>(), byte in 0..8usize, bit in 0..8u32) {
        let mut pages = Pages::new();
        (0..count).for_each(|n| { pages.allocate(Text(vec![n as u8; 8])); });
        let before = pages.root(BLAKE3, b"", None);
        pages.get_mut(at % count).unwrap().0[byte] ^= 1 << bit;
        prop_assert_ne!(pages.root(BLAKE3, b"", None), before);
        pages.get_mut(at % count).unwrap().0[byte] ^= 1 << bit;
        prop_assert_eq!(pages.root(BLAKE3, b"", None), before);
    }
}

#[test]
fn the_root_binds_header_number_free_pages_and_places() {
    let pages = |texts: &[u64], free: &[u64]| {
        let mut pages = Pages::new();
        texts.iter().for_each(|n| {
            pages.allocate(text(*n));
        });
        free.iter().for_each(|i| drop(pages.free(*i)));
        pages
    };
    let mut roots = vec![
        pages(&[], &[]).root(BLAKE3, b"", None),
        pages(&[], &[]).root(BLAKE3, b"h", None),
        pages(&[1], &[]).root(BLAKE3, b"", None),
        pages(&[1], &[0]).root(BLAKE3, b"", None),
        pages(&[1, 2], &[]).root(BLAKE3, b"", None),
        pages(&[1, 2], &[1]).root(BLAKE3, b"", None),
        pages(&[2, 1], &[]).root(BLAKE3, b"", None),
        pages(&[2, 1], &[0]).root(BLAKE3, b"", None),
        pages(&[1; 64], &[]).root(BLAKE3, b"", None),
        pages(&[1; 65], &[64]).root(BLAKE3, b"", None),
        pages(&[1; 64 * 64], &[]).root(BLAKE3, b"", None),
        pages(&[1; 64 * 64 + 1], &[64 * 64]).root(BLAKE3, b"", None),
    ];
    let n = roots.len();
    roots.sort_unstable();
    roots.dedup();
    assert_eq!(roots.len(), n);
}

#[test]
fn the_root_is_the_same_on_any_number_of_threads_and_for_any_order_of_algorithms() {
    let mut pages = Pages::new();
    for n in 0..10_000 {
        pages.allocate(text(n));
    }
    for i in (0..10_000).step_by(3) {
        pages.free(i);
    }
    // Restored pages have no digests yet.
    let [a, b, c] = [(); 3].map(|()| restored(&pages));
    let roots = |algorithms: [DigestAlgorithm; 3], pages: &Pages<Text>, threads| {
        algorithms.map(|algorithm| (algorithm as u8, pages.root(algorithm, b"h", Some(&pool(threads)))))
    };
    use DigestAlgorithm::*;
    let mut one = roots([Blake3, Sha256, Sha512], &a, 1);
    let mut other = roots([Sha512, Blake3, Sha256], &b, 4);
    one.sort_unstable();
    other.sort_unstable();
    assert_eq!(one, other);
    assert_eq!(c.root(Sha256, b"h", None), one[1].1);
    assert_eq!(root_from_bytes(&c, Sha256, b"h"), one[1].1);
}

#[test]
fn freed_indexes_are_taken_again_from_the_lowest_on_also_after_a_restore() {
    let mut pages = Pages::new();
    for n in 0..5_000 {
        pages.allocate(text(n));
    }
    for i in [4_999, 70, 3, 4_097, 64, 63] {
        pages.free(i);
    }
    let mut other = restored(&pages);
    for expected in [3, 63, 64, 70, 4_097, 4_999, 5_000, 5_001] {
        assert_eq!(pages.allocate(text(expected)), expected);
        assert_eq!(other.allocate(text(expected)), expected);
    }
    assert_eq!(pages.root(BLAKE3, b"", None), other.root(BLAKE3, b"", None));
}

#[test]
fn only_what_was_written_is_hashed_again() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static HASHED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Clone)]
    struct Counted(u8);
    impl Page for Counted {
        fn write_to(&self, out: &mut Vec<u8>) {
            HASHED.fetch_add(1, Ordering::Relaxed);
            out.push(self.0);
        }
        fn bytes(&self) -> usize {
            1
        }
        fn read(input: &mut CanonicalReader<'_>) -> Result<Self, RestoreError> {
            input.array::<1>("byte").map(|[byte]| Counted(byte))
        }
    }

    let hashed = |pages: &Pages<Counted>| {
        HASHED.store(0, Ordering::Relaxed);
        pages.root(BLAKE3, b"", None);
        HASHED.load(Ordering::Relaxed)
    };
    let mut pages = Pages::new();
    (0..1_000).for_each(|n| {
        pages.allocate(Counted(n as u8));
    });
    assert_eq!(hashed(&pages), 1_000);
    assert_eq!(hashed(&pages), 0);
    let snapshot = pages.clone();
    for i in [0, 1, 500, 500, 999] {
        pages.get_mut(i).unwrap().0 ^= 1;
    }
    pages.free(700);
    assert_eq!(hashed(&snapshot), 0, "a clone knows them, too");
    assert_eq!(hashed(&pages), 4);
    assert_eq!(pages.changed_since(&snapshot), [0, 1, 500, 700, 999]);
}

#[test]
fn pages_of_other_histories_and_heights_are_compared_whole() {
    let filled = |n: u64| {
        let mut pages = Pages::new();
        (0..n).for_each(|n| {
            pages.allocate(text(n));
        });
        pages
    };
    let (mut small, large) = (filled(3), filled(5_000));
    assert_eq!(large.changed_since(&small), (0..5_000).collect::<Vec<_>>());
    assert_eq!(small.changed_since(&large), [0, 1, 2]);
    // Grown out of the smaller one: shared pages are found below other roots.
    let before = small.clone();
    (3..5_000).for_each(|n| {
        small.allocate(text(n));
    });
    assert_eq!(small.changed_since(&before), (3..5_000).collect::<Vec<_>>());
    assert!(small.changed_since(&small.clone()).is_empty());

    struct Other;
    impl PagedSnapshot for Other {
        fn header(&self) -> Bytes {
            Bytes::new()
        }
        fn page_count(&self) -> u64 {
            0
        }
        fn page(&self, _: u64, _: &mut Vec<u8>) -> bool {
            false
        }
        fn page_digest(&self, _: u64, _: DigestAlgorithm) -> Digest {
            Digest::ZERO
        }
        fn root(&self, _: DigestAlgorithm, _: Option<&rayon::ThreadPool>) -> Digest {
            Digest::ZERO
        }
        fn changed_since(&self, _: &dyn PagedSnapshot) -> Vec<u64> {
            Vec::new()
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let state = PagedState { pages: before, header: Bytes::new() };
    assert_eq!(state.changed_since(&Other), [0, 1, 2]);
}

#[test]
fn bytes_that_are_no_page_are_turned_away() {
    let of = |bytes: &'static [u8]| Pages::<Text>::restore(1, &mut |_| Ok(Some(bytes.to_vec()))).map(|_| ());
    assert!(of(&[1, 0, 0, 0, 9]).is_ok());
    assert!(matches!(of(&[]), Err(RestoreError::Truncated { .. })));
    assert!(matches!(of(&[1, 0, 0, 0]), Err(RestoreError::Truncated { .. })));
    assert!(matches!(of(&[0xFF, 0xFF, 0xFF, 0xFF, 1]), Err(RestoreError::Truncated { .. })));
    assert!(matches!(of(&[1, 0, 0, 0, 9, 9]), Err(RestoreError::Malformed { .. })));
    let many = Pages::<Text>::restore(u64::MAX, &mut |_| panic!("not asked for"));
    assert!(matches!(many.map(|_| ()), Err(RestoreError::Malformed { .. })));
    let failing = Pages::<Text>::restore(9, &mut |_| Err(std::io::Error::other("broken").into()));
    assert!(matches!(failing.map(|_| ()), Err(RestoreError::Read(_))));
}

#[test]
fn what_a_clone_holds_alone_is_counted_once() {
    let mut pages = Pages::new();
    (0..100).for_each(|_| {
        pages.allocate(Text(vec![0; 96]));
    });
    pages.get_mut(7).expect("it is there");
    assert_eq!(pages.copied_bytes(), 0, "there is no clone");
    let clone = pages.clone();
    for _ in 0..3 {
        pages.get_mut(7).expect("it is there").0[0] += 1;
    }
    pages.free(8);
    pages.allocate(Text(vec![1; 16]));
    pages.get_mut(8).expect("it is there").0[0] += 1;
    assert_eq!(pages.copied_bytes(), 2 * 100);
    assert_eq!(clone.copied_bytes(), 200, "whoever holds the clone sees it, too");
    drop(clone);
    pages.get_mut(9).expect("it is there");
    assert_eq!(pages.copied_bytes(), 200);
}
