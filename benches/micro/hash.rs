//! The three hashes, at the sizes of an operation, a chunk and a batch.

use criterion::{Criterion, Throughput};
use duramen::types::*;
use duramen::wire::batch::Hasher;

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash");
    for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
        let hasher = Hasher { cluster: ClusterId([7; 16]), algorithm };
        for size in [4 << 10, 64 << 10, 1 << 20] {
            let bytes = vec![3; size];
            let expected = hasher.hash(&[&bytes[..size / 2], &bytes[size / 2..]]);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(format!("{algorithm:?} {} KiB", size >> 10), |b| {
                b.iter(|| assert_eq!(hasher.hash(&[&bytes]), expected))
            });
        }
    }
    group.finish();
}
