//! Measures the log alone: `cargo bench --bench log_speed -- DIR [uring|threads]`.
//! Single appends one at a time, 4 kB records with many queued, 1 MiB groups, and the scan of what was written.

use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, unbounded};
use duramen::log::{self, IoBackend, Log, LogEvent, LogOptions, Record};
use duramen::types::{ClusterId, Digest, Lsn, ReplicaId, Seq, View};

fn record(payload: &Bytes) -> Record {
    Record { kind: 1, seq: Seq(1), view: View(1), digest: Digest::ZERO, payload: vec![payload.clone()] }
}

fn persisted(events: &Receiver<LogEvent>) -> Lsn {
    match events.recv().expect("the log runs") {
        LogEvent::Persisted(p) => p.upto(),
        LogEvent::Failed(e) => panic!("{e}"),
        LogEvent::Room(_) => Lsn(0),
    }
}

/// Keeps `outstanding` records not yet durable; returns records per second.
fn closed_loop(
    log: &mut Log,
    events: &Receiver<LogEvent>,
    bytes: usize,
    outstanding: u64,
    time: Duration,
) -> f64 {
    let payload = Bytes::from(vec![7; bytes]);
    let first = log.next_lsn();
    let mut durable = Lsn(first.0 - 1);
    let start = Instant::now();
    loop {
        let running = start.elapsed() < time;
        while running && log.next_lsn().0 - durable.0 <= outstanding && log.append(record(&payload)).is_ok() {
        }
        if !running && durable.next() == log.next_lsn() {
            return (durable.0 + 1 - first.0) as f64 / start.elapsed().as_secs_f64();
        }
        durable = durable.max(persisted(events));
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: log_speed DIR [uring|threads]");
    let io = match args.next().as_deref() {
        Some("threads") => IoBackend::Threads,
        _ => IoBackend::Auto,
    };
    let speeds = log::disk_check(dir.as_ref(), log::DISK_CHECK_SIZES).expect("the directory can be measured");
    println!("io_uring: {:?}", speeds.uring);
    for s in &speeds.speeds {
        println!(
            "raw O_DSYNC write {:>8} bytes: p50 {:>6} us, p99 {:>6} us, {:>5} MB/s",
            s.bytes,
            s.write_ns_p50 / 1000,
            s.write_ns_p99 / 1000,
            s.bytes_per_second / 1_000_000
        );
    }
    let dir = format!("{dir}/log-speed");
    let opts =
        LogOptions { io, prefill_segments: 20, ..LogOptions::new(&dir, ClusterId([1; 16]), ReplicaId(0)) };
    log::format(&opts).expect("an empty directory");
    let (to, events) = unbounded();
    let open = log::open(opts.clone(), &mut |_| Ok(())).expect("opens");
    let (mut log, _reader) = open.start(Box::new(move |e| drop(to.send(e)))).expect("starts");
    println!("{}", log.backend());

    let payload = Bytes::from(vec![7; 200]);
    let mut times: Vec<Duration> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            let lsn = log.append(record(&payload)).expect("room");
            while persisted(&events) < lsn {}
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "single append of 200 bytes, until Persisted arrives: p50 {:?}, p99 {:?}",
        times[1000], times[1980]
    );

    for (bytes, outstanding) in [(4000, 16), (4000, 64), (4000, 256), (4000, 4096), (1_000_000, 8)] {
        let before = log.stats();
        let rate = closed_loop(&mut log, &events, bytes, outstanding, Duration::from_millis(1500));
        let after = log.stats();
        let writes = after.writes - before.writes;
        println!(
            "{bytes:>8}-byte records, {outstanding:>4} outstanding: {rate:>8.0} records/s, {:>4.0} MB/s, {:.1} records per write",
            rate * bytes as f64 / 1e6,
            (after.records - before.records) as f64 / writes as f64
        );
    }
    let stats = log.stats();
    println!(
        "in flight at most {}, write p50 {} us",
        stats.in_flight_max,
        stats.write_ns.value_at_quantile(0.5) / 1000
    );
    log.stop();

    let start = Instant::now();
    let mut payload_bytes = 0;
    let open = log::open(opts, &mut |r| {
        payload_bytes += r.payload.len();
        Ok(())
    });
    let report = open.expect("opens again").report().clone();
    let took = start.elapsed();
    println!(
        "scan: {} records, {} MB in {took:?}: {:.0} MB/s",
        report.records,
        report.log_bytes / 1_000_000,
        report.log_bytes as f64 / 1e6 / took.as_secs_f64()
    );
    std::fs::remove_dir_all(dir).expect("our own directory");
}
