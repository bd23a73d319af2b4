//! Counter, null service and the canonical tools.

use std::io::Write;

use super::*;
use crate::types::*;

#[test]
fn the_counter_keeps_the_contract() {
    let operations: Vec<Vec<u8>> =
        (0..100u64).map(|i| (i * 77).to_le_bytes()[..[8, 8, 0, 3][i as usize % 4]].to_vec()).collect();
    conformance::check(Counter::default, &operations);
}

#[test]
fn the_counter_answers_malformed_operations_with_nothing() {
    let mut counter = Counter::default();
    assert_eq!(
        counter.execute(&conformance::context(0), &u64::MAX.to_le_bytes()),
        u64::MAX.to_le_bytes().as_slice()
    );
    assert!(counter.execute(&conformance::context(1), &[1]).is_empty());
    assert!(counter.query(&5u64.to_le_bytes()).result.is_empty(), "a write is no query");
    assert_eq!(counter.query(&[]).version, Some(Seq(1)));
}

#[test]
fn the_null_service_keeps_the_contract() {
    let operations: Vec<Vec<u8>> = (0..100).map(|i| vec![0; i % 9]).collect();
    conformance::check(|| NullService::new(3), &operations);
}

#[test]
fn the_null_service_answers_with_as_many_bytes_as_asked_for() {
    let mut null = NullService::new(10);
    let c = conformance::context(0);
    assert_eq!(null.execute(&c, &[]).len(), 10);
    for (request, reply) in [(0, 0), (4096, 0), (0, 4096), (100, 1 << 20)] {
        let operation = NullService::operation(request, reply);
        assert_eq!(operation.len(), request.max(4));
        assert_eq!(null.execute(&c, &operation).len(), reply as usize);
        assert_eq!(null.query(&operation).result.len(), reply as usize);
    }
    assert_eq!(null.execute(&c, &[0xFF; 4]).len(), NULL_REPLY_BYTES_MAX as usize);
    assert_eq!(null.executed(), 6);
}

#[test]
fn hashing_in_pieces_gives_the_digest_of_the_whole() {
    let data: Vec<u8> = (0..10_000u32).map(|i| (i * i / 8) as u8).collect();
    for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
        let mut writer = DigestWriter::new(algorithm);
        data.chunks(77).for_each(|piece| writer.write_all(piece).unwrap());
        assert_eq!(writer.finish(), algorithm.hash(&[&data]));
    }
}

#[test]
fn a_length_that_lies_allocates_only_what_arrives() {
    let mut input = &[0u8; 10][..];
    let mut out = Vec::new();
    let error = CanonicalReader::new(&mut input).append(&mut out, usize::MAX / 2, "value").unwrap_err();
    assert!(matches!(error, RestoreError::Truncated { at: 10, field: "value" }));
    assert!(out.capacity() <= 128 << 10);
}

/// Right in all it does but one thing: the order of a hash map shows.
#[derive(Default)]
struct Hashed {
    map: std::collections::HashMap<u8, u64>,
    /// Where it shows.
    shows_in_replies: bool,
}

impl Hashed {
    fn bytes(&self, sorted: bool) -> Vec<u8> {
        let mut entries: Vec<_> = self.map.iter().map(|(key, count)| (*key, *count)).collect();
        if sorted {
            entries.sort_unstable();
        }
        let mut out = (entries.len() as u64).to_le_bytes().to_vec();
        entries.iter().for_each(|(key, count)| out.extend([&[*key][..], &count.to_le_bytes()].concat()));
        out
    }
}

impl Service for Hashed {
    fn execute(&mut self, _: &Context, operation: &[u8]) -> Bytes {
        operation.iter().for_each(|key| *self.map.entry(*key).or_default() += 1);
        self.bytes(!self.shows_in_replies).into()
    }

    fn query(&self, _: &[u8]) -> QueryReply {
        QueryReply { result: self.bytes(!self.shows_in_replies).into(), version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        Box::new(Written(self.bytes(self.shows_in_replies)))
    }

    fn restore(&mut self, input: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        let mut input = CanonicalReader::new(input);
        let mut map = std::collections::HashMap::new();
        for _ in 0..input.u64("number")? {
            map.insert(input.array::<1>("key")?[0], input.u64("count")?);
        }
        input.end()?;
        self.map = map;
        Ok(())
    }
}

struct Written(Vec<u8>);

impl Snapshot for Written {
    fn write_to(&self, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        out.write_all(&self.0)
    }

    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

#[test]
fn a_service_that_shows_the_order_of_a_hash_map_is_found() {
    let operations: Vec<Vec<u8>> = (0..200u8).map(|i| vec![i, i.wrapping_mul(3)]).collect();
    let fault = |shows_in_replies| {
        conformance::find_fault(|| Hashed { shows_in_replies, ..Hashed::default() }, &operations).unwrap_err()
    };
    assert!(fault(false).contains("canonical bytes differ"), "{}", fault(false));
    assert!(fault(true).contains("replies differ"), "{}", fault(true));
    for shows_in_replies in [false, true] {
        let trace = || {
            let service = Hashed { shows_in_replies, ..Hashed::default() };
            conformance::trace(service, &operations, 3, None)
        };
        let (one, other) = (trace(), trace());
        assert_eq!(one[0].replies == other[0].replies, !shows_in_replies);
        assert_eq!(one[2].state == other[2].state, shows_in_replies);
    }
}

#[test]
fn a_service_that_panics_is_found() {
    struct Panics(NullService);
    impl Service for Panics {
        fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
            assert!(operation.len() < 9, "too long");
            self.0.execute(context, operation)
        }
        fn query(&self, operation: &[u8]) -> QueryReply {
            self.0.query(operation)
        }
        fn snapshot(&self) -> Box<dyn Snapshot> {
            self.0.snapshot()
        }
        fn restore(&mut self, input: &mut dyn std::io::Read) -> Result<(), RestoreError> {
            self.0.restore(input)
        }
    }
    let make = || Panics(NullService::new(1));
    assert_eq!(conformance::find_fault(make, &[vec![0; 8], vec![0; 9]]), Err("too long".into()));
    assert_eq!(conformance::find_fault(make, &[[0; 8], [0; 8]]), Ok(()));
}
