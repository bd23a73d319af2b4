//! What the tuple space's operations cost on one thread: the durability paper says 0.04 ms for an insert.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::Criterion;
use duramen::service::conformance::context;
use duramen::service::{Field, Pattern, Service, TupleOperation, TupleReply, TupleSpace};

const TUPLES: u64 = 10_000;

/// Four text fields, 1 kB together, each with the number in front.
fn tuple(n: u64) -> Vec<Field> {
    (0..4).map(|place| Field::Text(format!("{n:08}{place}{}", "x".repeat(247)))).collect()
}

fn out(n: u64) -> Bytes {
    TupleOperation::Out { space: "s", tuple: &tuple(n) }.encode()
}

fn filled() -> TupleSpace {
    let mut service = TupleSpace::new();
    service.execute(&context(0), &TupleOperation::Create { space: "s" }.encode());
    (0..TUPLES).for_each(|n| drop(service.execute(&context(n), &out(n))));
    assert_eq!(service.tuples(), TUPLES);
    service
}

fn is_tuple(reply: &[u8]) -> bool {
    matches!(TupleReply::decode(reply), Ok(TupleReply::Tuple(_)))
}

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("tuples of 1 kB");
    let (mut service, mut n) = (filled(), TUPLES);
    group.bench_function("out", |b| {
        b.iter_custom(|rounds| {
            let (mut left, mut took) = (rounds, Duration::ZERO);
            while left > 0 {
                // Not more and more: memory is bounded.
                if service.tuples() > 10 * TUPLES {
                    service = filled();
                }
                let operations: Vec<Bytes> = (n..n + left.min(1000)).map(out).collect();
                n += operations.len() as u64;
                left -= operations.len() as u64;
                let began = Instant::now();
                for operation in &operations {
                    assert_eq!(service.execute(&context(1), operation)[..], [0]);
                }
                took += began.elapsed();
            }
            took
        })
    });
    let mut service = filled();
    let named = |n: u64| [Pattern::Any, Pattern::Is(tuple(n)[1].clone()), Pattern::Any, Pattern::Any];
    let rdp: Vec<Bytes> =
        (0..TUPLES).map(|n| TupleOperation::Rdp { space: "s", template: &named(n) }.encode()).collect();
    let mut at = 0;
    group.bench_function("rdp by one field of 10 000 tuples", |b| {
        b.iter(|| {
            at = (at + 7919) % rdp.len();
            assert!(is_tuple(&service.query(&rdp[at]).result));
        })
    });
    group.bench_function("inp and out by one field of 10 000 tuples", |b| {
        b.iter(|| {
            at = (at + 7919) % rdp.len();
            let inp = TupleOperation::Inp { space: "s", template: &named(at as u64) }.encode();
            assert!(is_tuple(&service.execute(&context(1), &inp)));
            assert_eq!(service.execute(&context(1), &out(at as u64))[..], [0]);
        })
    });
    group.finish();
}
