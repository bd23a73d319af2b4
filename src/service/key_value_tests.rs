use std::collections::BTreeMap;

use bytes::Bytes;

use super::conformance::{bytes_of, check, context};
use super::*;
use crate::types::*;

/// A seeded generator: the tests' only randomness.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Few enough keys to meet again, of different lengths, the empty one among them.
    fn key(&mut self, keys: u64) -> Vec<u8> {
        let n = self.below(keys);
        if n == 0 { Vec::new() } else { format!("{:0width$}", n, width = 1 + n as usize % 20).into_bytes() }
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(20) {
            0 => 20_000,
            1..=4 => 4_000,
            5..=6 => 0,
            _ => 30,
        };
        vec![self.next() as u8; length]
    }
}

/// Owned, so that lists of operations can be made.
#[derive(Clone, Debug)]
enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Cas(Vec<u8>, Option<Vec<u8>>, Vec<u8>),
}

impl Write {
    fn random(random: &mut Random, keys: u64, model: &Model) -> Self {
        let key = random.key(keys);
        match random.below(10) {
            0..=4 => Write::Put(key, random.value()),
            5..=7 => Write::Delete(key),
            _ => {
                let present = model.0.get(&key).map(|(_, value)| value.clone());
                let expected = if random.below(5) == 0 { Some(random.value()) } else { present };
                Write::Cas(key, expected, random.value())
            }
        }
    }

    fn borrowed(&self) -> KvWrite<'_> {
        match self {
            Write::Put(key, value) => KvWrite::Put { key, value },
            Write::Delete(key) => KvWrite::Delete { key },
            Write::Cas(key, expected, value) => {
                KvWrite::CompareAndSwap { key, expected: expected.as_deref(), value }
            }
        }
    }
}

/// What the store should do, on the standard library's map.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, (Seq, Vec<u8>)>);

impl Model {
    fn mismatch(&self, step: u32, write: &Write) -> Option<KvReply> {
        let Write::Cas(key, expected, _) = write else { return None };
        let current = self.0.get(key).map(|(_, value)| value);
        (current != expected.as_ref())
            .then(|| KvReply::Mismatch { step, current: current.map(|v| Bytes::copy_from_slice(v)) })
    }

    fn apply(&mut self, seq: Seq, write: &Write) -> KvReply {
        match write {
            Write::Put(key, value) | Write::Cas(key, _, value) => {
                self.0.insert(key.clone(), (seq, value.clone()));
            }
            Write::Delete(key) => match self.0.remove(key) {
                Some(_) => {}
                None => return KvReply::NotFound,
            },
        }
        KvReply::Ok
    }

    fn batch(&mut self, seq: Seq, writes: &[Write]) -> KvReply {
        if let Some(mismatch) = writes.iter().enumerate().find_map(|(i, w)| self.mismatch(i as u32, w)) {
            return mismatch;
        }
        writes.iter().for_each(|write| {
            self.apply(seq, write);
        });
        KvReply::Ok
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: u32) -> KvReply {
        let range =
            || self.0.range(start.to_vec()..).take_while(|(k, _)| end.is_empty() || k.as_slice() < end);
        let mut bytes = 0;
        let entries: Vec<_> = range()
            .take(limit as usize)
            .enumerate()
            .take_while(|(i, (k, (_, v)))| {
                bytes += 8 + k.len() + v.len();
                *i == 0 || bytes <= SCAN_BYTES_MAX
            })
            .map(|(_, (k, (_, v)))| (Bytes::copy_from_slice(k), Bytes::copy_from_slice(v)))
            .collect();
        let more = entries.len() < range().count();
        KvReply::Entries { entries, more }
    }

    fn canonical(&self) -> Vec<u8> {
        let mut out = b"dura-kv\x01".to_vec();
        out.extend((self.0.len() as u64).to_le_bytes());
        for (key, (seq, value)) in &self.0 {
            out.extend((key.len() as u32).to_le_bytes());
            out.extend((value.len() as u32).to_le_bytes());
            out.extend(seq.0.to_le_bytes());
            out.extend(key);
            out.extend(value);
        }
        out
    }
}

fn execute(store: &mut KeyValueStore, i: u64, operation: &[u8]) -> KvReply {
    KvReply::decode(&store.execute(&context(i), operation)).expect("the store's replies decode")
}

fn query(store: &KeyValueStore, operation: &KvOperation<'_>) -> (KvReply, Option<Seq>) {
    let reply = store.query(&operation.encode());
    (KvReply::decode(&reply.result).expect("the store's replies decode"), reply.version)
}

fn put(key: &[u8], value: &[u8]) -> Bytes {
    KvWrite::Put { key, value }.into_operation()
}

fn cas(key: &[u8], expected: Option<&[u8]>, value: &[u8]) -> Bytes {
    KvWrite::CompareAndSwap { key, expected, value }.into_operation()
}

fn get(store: &KeyValueStore, key: &[u8]) -> (KvReply, Option<Seq>) {
    query(store, &KvOperation::Get { key })
}

fn value(bytes: &'static [u8]) -> KvReply {
    KvReply::Value(Bytes::from_static(bytes))
}

#[test]
fn the_store_does_what_a_plain_map_does() {
    for (seed, keys, operations) in [(1, 30, 3_000), (2, 2_000, 12_000), (3, 20_000, 30_000)] {
        let mut random = Random(seed);
        let (mut store, mut model) = (KeyValueStore::new(), Model::default());
        for i in 0..operations {
            let seq = context(i).seq;
            // Grows, then shrinks, so that pages split and join.
            let write = if i > operations * 2 / 3 && random.below(4) > 0 {
                Write::Delete(random.key(keys))
            } else {
                Write::random(&mut random, keys, &model)
            };
            match random.below(8) {
                0 => {
                    let (start, mut end) = (random.key(keys), random.key(keys));
                    if end <= start {
                        end.clear();
                    }
                    let limit = random.below(300) as u32;
                    let operation = KvOperation::Scan { start: &start, end: &end, limit };
                    let expected = model.scan(&start, &end, limit);
                    assert_eq!(query(&store, &operation), (expected.clone(), None), "seed {seed}, step {i}");
                    assert_eq!(execute(&mut store, i, &operation.encode()), expected);
                }
                1 => {
                    let n = random.below(8);
                    let writes: Vec<_> = (0..n).map(|_| Write::random(&mut random, keys, &model)).collect();
                    let operation = KvOperation::Batch(writes.iter().map(Write::borrowed).collect());
                    let reply = execute(&mut store, i, &operation.encode());
                    assert_eq!(reply, model.batch(seq, &writes), "seed {seed}, step {i}: {writes:?}");
                }
                2 => {
                    let key = random.key(keys);
                    let (expected, version) = match model.0.get(&key) {
                        Some((seq, value)) => (KvReply::Value(Bytes::copy_from_slice(value)), Some(*seq)),
                        None => (KvReply::NotFound, None),
                    };
                    assert_eq!(get(&store, &key), (expected, version), "seed {seed}, step {i}");
                }
                _ => {
                    let reply = execute(&mut store, i, &write.borrowed().into_operation());
                    let expected = model.mismatch(0, &write).unwrap_or_else(|| model.apply(seq, &write));
                    assert_eq!(reply, expected, "seed {seed}, step {i}: {write:?}");
                }
            }
            if i % 500 == 0 {
                store.check();
            }
        }
        store.check();
        assert!(bytes_of(&*store.snapshot()) == model.canonical(), "seed {seed}");
        assert_eq!(store.entries(), model.0.len() as u64);
        // Down to nothing.
        for key in model.0.keys() {
            assert_eq!(execute(&mut store, 0, &KvWrite::Delete { key }.into_operation()), KvReply::Ok);
        }
        store.check();
        assert!(bytes_of(&*store.snapshot()) == Model::default().canonical(), "seed {seed}");
    }
}

#[test]
fn the_store_keeps_the_contract_also_for_garbage() {
    let mut random = Random(4);
    let model = Model::default();
    let operations: Vec<Bytes> = (0..3_000)
        .map(|i| {
            let write = Write::random(&mut random, 500, &model);
            let mut bytes = match i % 5 {
                0 => KvOperation::Get { key: &random.key(500) }.encode(),
                1 => KvOperation::Scan { start: &random.key(500), end: &[], limit: 20 }.encode(),
                2 => KvOperation::Batch(vec![write.borrowed(), write.borrowed()]).encode(),
                _ => write.borrowed().into_operation(),
            }
            .to_vec();
            match random.below(6) {
                0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
                1 => {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
                2 if i % 3 == 0 => bytes = (0..random.below(40)).map(|_| random.next() as u8).collect(),
                _ => {}
            }
            bytes.into()
        })
        .collect();
    check(KeyValueStore::new, &operations);
}

#[test]
fn equal_states_have_equal_bytes_whatever_their_history() {
    let keys: Vec<Vec<u8>> =
        (0..5_000u32).map(|i| (i.wrapping_mul(40_503) % 65_536).to_be_bytes().to_vec()).collect();
    let (mut a, mut b) = (KeyValueStore::new(), KeyValueStore::new());
    for (i, key) in keys.iter().enumerate() {
        execute(&mut a, i as u64, &put(key, &[i as u8; 100]));
    }
    // The other way round, with detours; the versions end up the same.
    for (i, key) in keys.iter().enumerate().rev() {
        execute(&mut b, 9, &put(&[key, &b"detour"[..]].concat(), &[0; 5_000]));
        execute(&mut b, i as u64, &put(key, &[i as u8; 100]));
    }
    for key in &keys {
        execute(&mut b, 9, &KvWrite::Delete { key: &[key, &b"detour"[..]].concat() }.into_operation());
    }
    b.check();
    assert!(bytes_of(&*a.snapshot()) == bytes_of(&*b.snapshot()));
    assert_eq!(a.digest(DigestAlgorithm::Sha256), b.digest(DigestAlgorithm::Sha256));
}

#[test]
fn a_cas_writes_only_over_what_it_expects() {
    let mut store = KeyValueStore::new();
    let mismatch = |current: Option<&'static [u8]>| KvReply::Mismatch {
        step: 0,
        current: current.map(Bytes::from_static),
    };
    assert_eq!(execute(&mut store, 0, &cas(b"k", Some(b"x"), b"1")), mismatch(None));
    assert_eq!(get(&store, b"k"), (KvReply::NotFound, None));
    assert_eq!(execute(&mut store, 1, &cas(b"k", None, b"1")), KvReply::Ok);
    assert_eq!(execute(&mut store, 2, &cas(b"k", None, b"2")), mismatch(Some(b"1")));
    assert_eq!(execute(&mut store, 3, &cas(b"k", Some(b""), b"2")), mismatch(Some(b"1")));
    assert_eq!(get(&store, b"k"), (value(b"1"), Some(context(1).seq)), "a mismatch leaves the version");
    assert_eq!(execute(&mut store, 4, &cas(b"k", Some(b"1"), b"")), KvReply::Ok);
    // An empty value is a value.
    assert_eq!(execute(&mut store, 5, &cas(b"k", None, b"2")), mismatch(Some(b"")));
    assert_eq!(execute(&mut store, 6, &cas(b"k", Some(b""), b"2")), KvReply::Ok);
    assert_eq!(get(&store, b"k"), (value(b"2"), Some(context(6).seq)));
}

#[test]
fn a_batch_is_done_as_a_whole_or_not_at_all() {
    let mut store = KeyValueStore::new();
    execute(&mut store, 0, &put(b"a", b"old"));
    let before = bytes_of(&*store.snapshot());
    let steps = vec![
        KvWrite::Put { key: b"a", value: b"new" },
        KvWrite::Delete { key: b"a" },
        KvWrite::CompareAndSwap { key: b"b", expected: Some(b"what is not there"), value: b"1" },
        KvWrite::CompareAndSwap { key: b"c", expected: Some(b"nor this"), value: b"1" },
    ];
    let reply = execute(&mut store, 1, &KvOperation::Batch(steps.clone()).encode());
    assert_eq!(reply, KvReply::Mismatch { step: 2, current: None });

    let long = vec![0; VALUE_BYTES_MAX + 1];
    let mut too_large = steps[..2].to_vec();
    too_large.push(KvWrite::Put { key: b"z", value: &long });
    assert_eq!(execute(&mut store, 2, &KvOperation::Batch(too_large).encode()), KvReply::TooLarge);

    let mut cut = KvOperation::Batch(steps[..2].to_vec()).encode().to_vec();
    cut.pop();
    assert_eq!(execute(&mut store, 3, &cut), KvReply::Malformed);
    // Even behind a mismatch, bytes that are no operation are called so.
    let mut tail = KvOperation::Batch(steps).encode().to_vec();
    tail.push(0);
    assert_eq!(execute(&mut store, 4, &tail), KvReply::Malformed);
    assert!(bytes_of(&*store.snapshot()) == before);

    // Compared with the state before the batch, done in order.
    let steps = vec![
        KvWrite::Put { key: b"a", value: b"1" },
        KvWrite::CompareAndSwap { key: b"a", expected: Some(b"old"), value: b"2" },
        KvWrite::Delete { key: b"not there" },
        KvWrite::Put { key: b"b", value: b"3" },
    ];
    assert_eq!(execute(&mut store, 5, &KvOperation::Batch(steps).encode()), KvReply::Ok);
    assert_eq!(get(&store, b"a"), (value(b"2"), Some(context(5).seq)));
    assert_eq!(get(&store, b"b"), (value(b"3"), Some(context(5).seq)));
    assert_eq!(execute(&mut store, 6, &KvOperation::Batch(vec![]).encode()), KvReply::Ok);
}

#[test]
fn a_scan_ends_at_its_limits_and_says_whether_there_is_more() {
    let mut store = KeyValueStore::new();
    let keys: Vec<Vec<u8>> = (0..1_000u32).map(|i| format!("{i:04}").into_bytes()).collect();
    for key in &keys {
        execute(&mut store, 0, &put(key, &[7; 2_000]));
    }
    let scan =
        |start: &[u8], end: &[u8], limit| match query(&store, &KvOperation::Scan { start, end, limit }).0 {
            KvReply::Entries { entries, more } => {
                (entries.into_iter().map(|(key, _)| key.to_vec()).collect::<Vec<_>>(), more)
            }
            reply => panic!("{reply:?}"),
        };
    assert_eq!(scan(b"", b"", 0), (vec![], true));
    assert_eq!(scan(b"0010", b"0013", 9), (keys[10..13].to_vec(), false));
    assert_eq!(scan(b"0010", b"0013", 3), (keys[10..13].to_vec(), false), "the range ends with the limit");
    assert_eq!(scan(b"0010", b"0014", 3), (keys[10..13].to_vec(), true));
    assert_eq!(scan(b"00105", b"", 2), (keys[11..13].to_vec(), true), "a start between keys");
    assert_eq!(scan(b"0998", b"", 9), (keys[998..].to_vec(), false));
    assert_eq!(scan(b"1", b"", 9), (vec![], false));
    assert_eq!(scan(b"0500", b"0400", 9), (vec![], false), "an empty range");
    let (by_bytes, more) = scan(b"", b"", u32::MAX);
    assert_eq!((by_bytes.len(), more), (SCAN_BYTES_MAX / 2_012, true));
    // To be continued behind the last key.
    let (rest, _) = scan(&[by_bytes.last().unwrap(), &b"\0"[..]].concat(), b"", 1);
    assert_eq!(rest, keys[by_bytes.len()..][..1]);
}

#[test]
fn a_scan_shows_its_first_entry_however_large() {
    let mut store = KeyValueStore::new();
    execute(&mut store, 0, &put(b"a", &vec![1; 3 << 20]));
    execute(&mut store, 0, &put(b"b", b""));
    let (reply, _) = query(&store, &KvOperation::Scan { start: b"", end: b"", limit: 10 });
    let KvReply::Entries { entries, more: true } = reply else { panic!("{reply:?}") };
    assert_eq!((entries.len(), entries[0].1.len()), (1, 3 << 20));
}

#[test]
fn keys_and_values_up_to_their_bounds_are_taken_and_no_larger_ones() {
    let mut store = KeyValueStore::new();
    let (key, long) = (vec![1; KEY_BYTES_MAX], vec![2; VALUE_BYTES_MAX]);
    assert_eq!(execute(&mut store, 0, &put(&key, &long)), KvReply::Ok);
    assert_eq!(get(&store, &key), (KvReply::Value(long.clone().into()), Some(context(0).seq)));
    assert_eq!(execute(&mut store, 1, &cas(&key, Some(&long), b"short")), KvReply::Ok);

    let (key_over, long_over) = (vec![1; KEY_BYTES_MAX + 1], vec![2; VALUE_BYTES_MAX + 1]);
    let over = [
        put(&key_over, b""),
        put(b"", &long_over),
        cas(b"", Some(&long_over), b""),
        KvWrite::Delete { key: &key_over }.into_operation(),
        KvOperation::Get { key: &key_over }.encode(),
        KvOperation::Scan { start: b"", end: &key_over, limit: 1 }.encode(),
    ];
    let before = bytes_of(&*store.snapshot());
    for operation in over {
        assert_eq!(execute(&mut store, 2, &operation), KvReply::TooLarge);
    }
    assert!(bytes_of(&*store.snapshot()) == before);
}

#[test]
fn an_operation_with_a_byte_more_or_less_is_malformed() {
    let mut store = KeyValueStore::new();
    let operations = [
        put(b"key", b"value"),
        cas(b"key", Some(b"old"), b"new"),
        cas(b"key", None, b"new"),
        KvWrite::Delete { key: b"key" }.into_operation(),
        KvOperation::Get { key: b"key" }.encode(),
        KvOperation::Scan { start: b"a", end: b"b", limit: 3 }.encode(),
    ];
    for operation in operations {
        for cut in 0..operation.len() {
            assert_eq!(
                execute(&mut store, 0, &operation[..cut]),
                KvReply::Malformed,
                "{operation:?} cut to {cut}"
            );
        }
        assert_eq!(execute(&mut store, 0, &[&operation[..], &[0]].concat()), KvReply::Malformed);
    }
    assert_eq!(execute(&mut store, 0, &[99]), KvReply::Malformed);
    // A length beyond everything, a value without its 1.
    assert_eq!(execute(&mut store, 0, &[2, 0xFF, 0xFF, 0xFF, 0xFF]), KvReply::Malformed);
    assert_eq!(execute(&mut store, 0, &[2, 0, 0, 0, 0, 1, 0, 0, 0, 9]), KvReply::Malformed);
    assert_eq!(execute(&mut store, 0, &[2, 0, 0, 0, 0, 0, 0, 0, 0]), KvReply::Malformed);
    assert_eq!(store.entries(), 0);
}

#[test]
fn a_write_asked_as_a_query_is_refused() {
    let store = KeyValueStore::new();
    let write = KvWrite::Put { key: b"k", value: b"v" };
    for operation in [KvOperation::Write(write), KvOperation::Batch(vec![write])] {
        assert_eq!(query(&store, &operation), (KvReply::NotARead, None));
    }
    assert_eq!(store.query(&[]).result, [5].as_slice());
}

#[test]
fn a_get_shares_the_stored_bytes_and_nothing_of_the_request() {
    let mut store = KeyValueStore::new();
    let operation = put(b"k", &[5; 4096]);
    execute(&mut store, 0, &operation);
    assert!(operation.is_unique(), "the store keeps no part of the request");
    let read = || store.query(&KvOperation::Get { key: b"k" }.encode()).result;
    assert_eq!(read().as_ptr(), read().as_ptr(), "no copy is made for a reply");
}

#[test]
fn states_that_the_store_never_writes_are_refused() {
    let mut store = KeyValueStore::new();
    execute(&mut store, 0, &put(b"b", b"1"));
    execute(&mut store, 1, &put(b"c", b"2"));
    let good = bytes_of(&*store.snapshot());
    // Header 16; entry b: lengths 16..24, version 24..32, key 32, value 33; entry c: from 34, key 50.
    let bad: [(usize, u8, &str); 7] = [
        (0, b'D', "another kind of state"),
        (7, 2, "another format"),
        (8, 1, "fewer entries than there are"),
        (32, b'c', "a key twice"),
        (50, b'a', "keys in descending order"),
        (18, 1, "a key of 64 KiB"),
        (23, 1, "a value of 16 MiB"),
    ];
    for (at, byte, what) in bad {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let error = store.restore(&mut bytes.as_slice());
        assert!(matches!(error, Err(RestoreError::Malformed { .. })), "{what}: {error:?}");
    }
    for (at, what) in [(8, "more entries than there are"), (15, "2^56 entries and more")] {
        let mut bytes = good.clone();
        bytes[at] |= 0x81;
        let error = store.restore(&mut bytes.as_slice());
        assert!(matches!(error, Err(RestoreError::Truncated { .. })), "{what}: {error:?}");
    }
    let mut random = Random(5);
    for _ in 0..2_000 {
        let garbage: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
        assert!(store.restore(&mut garbage.as_slice()).is_err());
        let mut bent = good.clone();
        bent[random.below(good.len() as u64) as usize] ^= 1 << random.below(8);
        // A bent version or value is a state; whatever is taken must be one that is written the same.
        let mut other = KeyValueStore::new();
        if other.restore(&mut bent.as_slice()).is_ok() {
            assert_eq!(bytes_of(&*other.snapshot()), bent);
        }
    }
    assert_eq!(bytes_of(&*store.snapshot()), good);
}

#[test]
fn replies_that_the_store_never_gives_do_not_decode() {
    for bytes in [
        &[][..],
        &[8],
        &[0, 0],
        &[2, 1],
        &[3, 0, 0, 0],
        &[3, 0, 0, 0, 0, 0],
        &[4],
        &[4, 2],
        &[4, 0, 1, 0, 0, 0],
    ] {
        assert_eq!(KvReply::decode(&Bytes::from_static(bytes)), Err(NotAReply), "{bytes:?}");
    }
}

/// `cargo test --release --lib -- --ignored --nocapture key_value_speed`
#[test]
#[ignore = "a measurement: 1 GB of state, release mode"]
fn key_value_speed() {
    use std::time::Instant;
    const KEYS: u64 = 250_000;
    let mut store = KeyValueStore::new();
    let mut random = Random(1);
    let mut operations: Vec<Vec<u8>> =
        (0..4096).map(|_| put(&[0; 16], &[random.next() as u8; 4096]).to_vec()).collect();
    let mut puts = |store: &mut KeyValueStore, name: &str, n: u64, key: &mut dyn FnMut(u64) -> u64| {
        let start = Instant::now();
        for i in 0..n {
            let operation = &mut operations[i as usize % 4096];
            operation[5..21].copy_from_slice(format!("{:016}", key(i)).as_bytes());
            store.execute(&context(i), operation);
        }
        let ns = start.elapsed().as_nanos() as u64 / n;
        println!("{name}: {ns} ns each, {} puts/s", 1_000_000_000 / ns);
    };
    // Every key once: the factor has no divisor in common with their number.
    puts(&mut store, "first puts in mixed order", KEYS, &mut |i| i * 99_991 % KEYS);
    puts(&mut store, "random overwrites", KEYS, &mut |_| random.below(KEYS));
    let start = Instant::now();
    for _ in 0..1_000 {
        std::hint::black_box(store.snapshot());
    }
    println!("snapshot and drop: {} ns", start.elapsed().as_nanos() / 1_000);
    let snapshot = store.snapshot();
    puts(&mut store, "random overwrites, first after a snapshot", 20_000, &mut |_| random.below(KEYS));
    puts(&mut store, "random overwrites, later", KEYS, &mut |_| random.below(KEYS));
    let start = Instant::now();
    drop(snapshot);
    println!("dropping the old snapshot: {:?}", start.elapsed());
    let start = Instant::now();
    for i in 0..KEYS {
        let operation = KvOperation::Get { key: format!("{:016}", i * 99_991 % KEYS).as_bytes() }.encode();
        std::hint::black_box(store.query(&operation));
    }
    println!("gets in mixed order: {} ns each", start.elapsed().as_nanos() as u64 / KEYS);
    let start = Instant::now();
    let digest = store.digest(DigestAlgorithm::Blake3);
    println!("digest {digest:?} of {} bytes: {:?}", store.snapshot().bytes(), start.elapsed());
    let bytes = bytes_of(&*store.snapshot());
    let start = Instant::now();
    store.restore(&mut bytes.as_slice()).unwrap();
    println!("restore: {:?}", start.elapsed());
}
