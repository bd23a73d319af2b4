//! Messages to bytes and back.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use duramen::types::*;
use duramen::wire::batch::{AuthKind, Batch, Group, Hasher, Request, RequestKind};
use duramen::wire::messages::*;

pub const HASHER: Hasher = Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 };

/// A batch of one group: `count` requests of `bytes` bytes.
pub fn batch(count: u64, bytes: usize) -> Batch {
    let operation = vec![7; bytes];
    let requests: Vec<Request<&[u8]>> = (1..=count)
        .map(|number| Request {
            session: SessionId(5),
            number: RequestNumber(number),
            kind: RequestKind::Invoke,
            operation: &operation[..],
        })
        .collect();
    let group = Group::build(&HASHER, ClientId(1), &requests, |_| (AuthKind::Signature, vec![1; 64]));
    let digest = group.digest(&HASHER);
    Batch::build(&HASHER, Seq(1), WallTime(1), 1, vec![(group, digest)])
}

fn encode(message: &Message) -> (u16, Bytes) {
    let (kind, head, tail) = message.encode();
    (kind, tail.map_or(head.clone(), |tail| [head, tail].concat().into()))
}

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let vote = Vote { view: View(3), seq: Seq(9), digest: Digest([1; 32]), signature: Signature([2; 64]) };
    let (kind, bytes) = encode(&Message::Write(vote));
    group.bench_function("WRITE encode", |b| b.iter(|| Message::Write(vote).encode()));
    group.bench_function("WRITE decode", |b| {
        b.iter(|| match Message::decode(kind, bytes.clone()) {
            Ok(Message::Write(decoded)) => assert_eq!(decoded, vote),
            other => panic!("{other:?}"),
        })
    });
    for (count, size) in [(100, 4096), (1000, 16)] {
        let batch = batch(count, size);
        group.throughput(Throughput::Bytes(batch.bytes.len() as u64));
        let name = format!("batch of {count} x {size} B decode and hash");
        group.bench_function(name, |b| {
            b.iter(|| {
                let decoded = Batch::decode(&HASHER, Seq(1), batch.bytes.clone()).expect("it decodes");
                assert_eq!((decoded.digest, decoded.requests() as u64), (batch.digest, count));
            })
        });
    }
    group.finish();
}
