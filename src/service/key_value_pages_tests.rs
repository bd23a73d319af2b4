//! The store's pages: equal roots for equal histories, and what is not a tree is turned away.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::conformance::{bytes_of, context};
use super::*;
use crate::checkpoint::pages::{page_digest, root_of};
use crate::types::*;

const BLAKE3: DigestAlgorithm = DigestAlgorithm::Blake3;

fn root(store: &KeyValueStore) -> Digest {
    store.snapshot().pages().expect("the store has pages").root(BLAKE3, None)
}

/// All pages, freed ones as `None`.
fn pages_of(snapshot: &dyn Snapshot) -> Vec<Option<Vec<u8>>> {
    let pages = snapshot.pages().expect("the store has pages");
    let page = |index| {
        let mut bytes = Vec::new();
        pages.page(index, &mut bytes).then_some(bytes)
    };
    (0..pages.page_count()).map(page).collect()
}

fn restore(store: &mut KeyValueStore, header: &[u8], pages: &[Option<Vec<u8>>]) -> Result<(), RestoreError> {
    store.restore_pages(header, pages.len() as u64, &mut |index| Ok(pages[index as usize].clone()))
}

/// Another store with the same pages.
fn taken_over(store: &KeyValueStore) -> KeyValueStore {
    let snapshot = store.snapshot();
    let mut other = KeyValueStore::new();
    other.execute(&context(0), &put(b"what was there before", b"1"));
    let header = snapshot.pages().unwrap().header();
    restore(&mut other, &header, &pages_of(&*snapshot)).expect("its own pages");
    other
}

fn put(key: &[u8], value: &[u8]) -> Bytes {
    KvWrite::Put { key, value }.into_operation()
}

fn key(n: u64) -> Vec<u8> {
    format!("{n:0width$}", width = 3 + n as usize % 9).into_bytes()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64, usize),
    Delete(u64),
    /// So many in a row from a key on.
    Puts(u64, u64),
    Deletes(u64, u64),
    Snapshot,
    TakeOver,
    Root,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![Just(0usize), Just(10), Just(300), Just(5_000), Just(40_000)];
    prop_oneof![
        8 => (0..3_000u64, length).prop_map(|(n, length)| Step::Put(n, length)),
        4 => (0..3_000u64).prop_map(Step::Delete),
        2 => (0..3_000u64, 1..300u64).prop_map(|(n, many)| Step::Puts(n, many)),
        2 => (0..3_000u64, 1..400u64).prop_map(|(n, many)| Step::Deletes(n, many)),
        1 => Just(Step::Snapshot),
        1 => Just(Step::TakeOver),
        1 => Just(Step::Root),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replicas_with_one_history_have_one_root_wherever_one_took_the_pages_over(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let (mut a, mut b) = (KeyValueStore::new(), KeyValueStore::new());
        let mut model = BTreeMap::<Vec<u8>, usize>::new();
        let mut taken = (a.snapshot(), bytes_of(&*a.snapshot()), pages_of(&*a.snapshot()));
        for (i, step) in steps.iter().enumerate() {
            let mut both = |operation: Bytes| {
                let replies = [&mut a, &mut b].map(|store| store.execute(&context(i as u64), &operation));
                prop_assert_eq!(&replies[0], &replies[1]);
                Ok(())
            };
            match *step {
                Step::Put(n, length) => {
                    both(put(&key(n), &vec![n as u8; length]))?;
                    model.insert(key(n), length);
                }
                Step::Delete(n) => {
                    both(KvWrite::Delete { key: &key(n) }.into_operation())?;
                    model.remove(&key(n));
                }
                Step::Puts(n, many) => for n in n..n + many {
                    both(put(&key(n), &[n as u8; 100]))?;
                    model.insert(key(n), 100);
                },
                Step::Deletes(n, many) => for n in n..n + many {
                    both(KvWrite::Delete { key: &key(n) }.into_operation())?;
                    model.remove(&key(n));
                },
                Step::Snapshot => {
                    let snapshot = a.snapshot();
                    taken = (a.snapshot(), bytes_of(&*snapshot), pages_of(&*snapshot));
                }
                Step::TakeOver => b = taken_over(&b),
                Step::Root => prop_assert_eq!(root(&a), root(&b)),
            }
        }
        a.check();
        b.check();
        prop_assert_eq!(root(&a), root(&b));
        prop_assert_eq!(a.entries(), model.len() as u64);
        for (key, length) in &model {
            let reply = a.query(&KvOperation::Get { key }.encode()).result;
            prop_assert_eq!(reply.len(), 1 + length);
        }
        let (snapshot, bytes, pages) = taken;
        prop_assert!(bytes_of(&*snapshot) == bytes && pages_of(&*snapshot) == pages, "a snapshot stays");
        // Told to have changed is exactly what has other bytes: no page is touched without need.
        let now = a.snapshot();
        let changed = now.pages().unwrap().changed_since(snapshot.pages().unwrap());
        for (index, page) in pages_of(&*now).iter().enumerate() {
            let same = pages.get(index).unwrap_or(&None) == page;
            prop_assert!(same || changed.contains(&(index as u64)), "page {index} changed");
        }
    }
}

#[test]
fn one_write_changes_one_page() {
    let mut store = KeyValueStore::new();
    for n in 0..20_000 {
        store.execute(&context(n), &put(&key(n), &[1; 100]));
    }
    let before = store.snapshot();
    let changed = |store: &KeyValueStore| {
        store.snapshot().pages().unwrap().changed_since(before.pages().unwrap()).len()
    };
    store.execute(&context(20_000), &put(&key(777), &[2; 100]));
    assert_eq!(changed(&store), 1);
    store.execute(&context(20_001), &put(&key(777), &[3; 100]));
    store.execute(&context(20_002), &KvOperation::Get { key: &key(9) }.encode());
    store.execute(&context(20_003), &KvWrite::Delete { key: b"not there" }.into_operation());
    assert_eq!(changed(&store), 1);
}

#[test]
fn a_state_restored_from_canonical_bytes_has_one_layout_whatever_history_wrote_them() {
    let (mut a, mut b) = (KeyValueStore::new(), KeyValueStore::new());
    for n in 0..2_000 {
        a.execute(&context(7), &put(&key(n), &[1; 100]));
        b.execute(&context(7), &put(&key(1_999 - n), &[1; 100]));
    }
    assert_ne!(root(&a), root(&b), "pages depend on history");
    let bytes = bytes_of(&*a.snapshot());
    assert!(bytes == bytes_of(&*b.snapshot()));
    a.restore(&mut bytes.as_slice()).unwrap();
    b.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(root(&a), root(&b));
}

#[test]
fn the_root_follows_from_the_pages_bytes() {
    let mut store = KeyValueStore::new();
    for n in 0..9_000 {
        store.execute(&context(n), &put(&key(n * 7919 % 9_000), &[n as u8; 100]));
    }
    for n in 100..4_000 {
        store.execute(&context(n), &KvWrite::Delete { key: &key(n) }.into_operation());
    }
    let snapshot = store.snapshot();
    let pages = pages_of(&*snapshot);
    assert!(pages.iter().any(Option::is_none), "some are free");
    let digests: Vec<Digest> = (0..)
        .zip(&pages)
        .map(|(i, page)| page.as_ref().map_or(Digest::ZERO, |bytes| page_digest(BLAKE3, i, bytes)))
        .collect();
    let header = snapshot.pages().unwrap().header();
    assert_eq!(root(&store), root_of(BLAKE3, &header, &digests));
    assert!(
        (0..).zip(&digests).all(|(i, digest)| snapshot.pages().unwrap().page_digest(i, BLAKE3) == *digest)
    );
}

/// Canonical bytes of pages made by hand.
fn leaf(keys: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = vec![0];
    out.extend((keys.len() as u32).to_le_bytes());
    for key in keys {
        out.extend((key.len() as u32).to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        out.extend(*key);
        out.push(b'v');
    }
    Some(out)
}

fn inner(children: &[u64], separators: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = vec![1];
    out.extend((children.len() as u32).to_le_bytes());
    children.iter().for_each(|child| out.extend(child.to_le_bytes()));
    for separator in separators {
        out.extend((separator.len() as u32).to_le_bytes());
        out.extend(*separator);
    }
    Some(out)
}

fn header(root: u64) -> Vec<u8> {
    [&b"dura-kp\x01"[..], &root.to_le_bytes()].concat()
}

#[test]
fn pages_that_are_no_tree_are_turned_away() {
    let mut store = KeyValueStore::new();
    store.execute(&context(0), &put(b"k", b"v"));
    let before = (bytes_of(&*store.snapshot()), root(&store));
    let two = || vec![leaf(&[b"a"]), leaf(&[b"c"])];
    let with = |page: Option<Vec<u8>>| [two(), vec![page]].concat();
    let mut good = KeyValueStore::new();
    restore(&mut good, &header(2), &with(inner(&[0, 1], &[b"b"]))).unwrap();
    good.check();
    assert_eq!(good.entries(), 2);

    // Two chains of n inner pages above a leaf each, under one root.
    let deep = |n: u64| {
        let chain = |at: u64, key: &[u8]| {
            let inners = (1..=n).map(|i| inner(&[at + i], &[]));
            inners.chain([leaf(&[key])]).collect::<Vec<_>>()
        };
        let pages = [chain(0, b"a"), chain(n + 1, b"c"), vec![inner(&[0, n + 1], &[b"b"])]].concat();
        (2 * (n + 1), pages)
    };
    let (at, pages) = deep(15);
    restore(&mut KeyValueStore::new(), &header(at), &pages).unwrap();
    let long = vec![b'x'; KEY_BYTES_MAX + 1];
    let bad = [
        ("no pages", 0, vec![]),
        ("a free root", 0, vec![None]),
        ("a root beyond the pages", 9, two()),
        ("a page outside the tree", 0, two()),
        ("a child beyond the pages", 2, with(inner(&[0, 7], &[b"b"]))),
        ("a free child", 2, vec![leaf(&[b"a"]), None, inner(&[0, 1], &[b"b"])]),
        ("a page with two parents", 2, with(inner(&[0, 0], &[b"b"]))),
        ("itself as a child", 2, with(inner(&[2, 2], &[b"b"]))),
        ("children in the wrong order", 2, with(inner(&[1, 0], &[b"b"]))),
        ("a key at the separator's wrong side", 2, with(inner(&[0, 1], &[b"a"]))),
        ("a separator above all", 2, with(inner(&[0, 1], &[b"d"]))),
        ("an empty leaf", 2, vec![leaf(&[b"a"]), leaf(&[]), inner(&[0, 1], &[b"b"])]),
        ("a root with one child", 1, vec![leaf(&[b"a"]), inner(&[0], &[])]),
        ("an inner page without children", 0, vec![inner(&[], &[])]),
        ("too many children", 0, vec![inner(&[0; 65], &[&b"b"[..]; 64])]),
        ("too many entries", 0, vec![leaf(&[&b"a"[..]; 65])]),
        ("keys that do not ascend", 0, vec![leaf(&[b"b", b"a"])]),
        ("a key twice", 0, vec![leaf(&[b"a", b"a"])]),
        ("a key too long", 0, vec![leaf(&[&long])]),
        ("a separator too long", 2, with(inner(&[0, 1], &[&long]))),
        ("no such kind of page", 0, vec![Some(vec![2, 0, 0, 0, 0])]),
        ("a tree deeper than any", deep(16).0, deep(16).1),
        ("a tree of any depth", deep(100_000).0, deep(100_000).1),
        (
            "leaves of different depths",
            3,
            vec![leaf(&[b"a"]), leaf(&[b"c"]), inner(&[1], &[]), inner(&[0, 2], &[b"b"])],
        ),
    ];
    for (what, at, pages) in bad {
        let error = restore(&mut store, &header(at), &pages);
        assert!(matches!(error, Err(RestoreError::Malformed { .. })), "{what}: {error:?}");
        assert_eq!((bytes_of(&*store.snapshot()), root(&store)), before, "{what}");
    }
    // A source that fails in the middle, and lengths that lie.
    let pages = with(inner(&[0, 1], &[b"b"]));
    let failing = store.restore_pages(&header(2), 3, &mut |index| match index {
        2 => Err(std::io::Error::other("broken").into()),
        _ => Ok(pages[index as usize].clone()),
    });
    assert!(matches!(failing, Err(RestoreError::Read(_))));
    let mut lying = leaf(&[b"a"]).unwrap();
    lying[9..13].copy_from_slice(&(VALUE_BYTES_MAX as u32).to_le_bytes());
    assert!(matches!(restore(&mut store, &header(0), &[Some(lying)]), Err(RestoreError::Truncated { .. })));
    assert_eq!((bytes_of(&*store.snapshot()), root(&store)), before);
}
