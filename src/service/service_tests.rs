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
