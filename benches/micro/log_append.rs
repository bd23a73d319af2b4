//! One append until it is durable, beside one write of the raw device.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use crossbeam::channel::unbounded;
use duramen::log::{self, LogEvent, LogOptions, Record};
use duramen::types::*;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

pub fn benches(c: &mut Criterion) {
    let dir = super::scratch();
    let options = LogOptions {
        segment_bytes: 64 << 20,
        ..LogOptions::new(dir.path().join("log"), ClusterId([7; 16]), ReplicaId(0))
    };
    log::format(&options).expect("a fresh log");
    let (to, events) = unbounded();
    let open = log::open(options, &mut |_| Ok(())).expect("it opens");
    let (mut log, _) = open.start(Box::new(move |event| drop(to.send(event)))).expect("it starts");

    let mut group = c.benchmark_group("log");
    group.sample_size(10);
    for size in [200, 64 << 10, 1 << 20] {
        let payload = Bytes::from(vec![5; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("append {size} B until durable"), |b| {
            b.iter(|| {
                let payload = vec![payload.clone()];
                let (seq, view, digest) = (Seq(1), View(1), Digest::ZERO);
                let lsn = log.append(Record { kind: 1, seq, view, digest, payload }).expect("there is room");
                while !matches!(events.recv(), Ok(LogEvent::Persisted(p)) if p.upto() >= lsn) {}
            })
        });
    }
    log.stop();

    // As the log writes: zero-filled before, direct and synchronous.
    let path = dir.path().join("raw");
    std::fs::write(&path, vec![0; 64 << 20]).expect("the disk has room");
    std::fs::File::open(&path).and_then(|f| f.sync_all()).expect("it can be synced");
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let file = std::fs::File::options().write(true).custom_flags(flags).open(&path).expect("direct I/O");
    for size in [4 << 10, 64 << 10, 1 << 20] {
        let space = vec![7u8; size + 4096];
        let start = space.as_ptr().align_offset(4096);
        let (mut at, bytes) = (0, &space[start..start + size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("raw write of {size} B"), |b| {
            b.iter(|| {
                file.write_all_at(bytes, at).expect("it can be written");
                at = (at + size as u64) % (32 << 20);
            })
        });
    }
    group.finish();
}
