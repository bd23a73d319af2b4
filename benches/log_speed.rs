//! Measures the log alone: `cargo bench --bench log_speed -- DIR [uring|threads]`.
//! Single appends one at a time, 4 kB records with many queued, 1 MiB groups, threads that wait for their own appends, and the
//! scan of what was written. `-- DIR groups DEPTH` and `-- DIR threads-of THREADS RECORDS` measure one of these alone, for
//! comparisons with other programs in turn.

use std::sync::{Arc, Condvar, Mutex};
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

/// A fresh log under `dir`, with `prefill` segments of 64 MiB ready.
fn fresh(dir: &str, io: IoBackend, prefill: usize, depth: usize) -> LogOptions {
    let opts = LogOptions {
        io,
        prefill_segments: prefill,
        writes_in_flight_max: depth,
        ..LogOptions::new(format!("{dir}/log-speed"), ClusterId([1; 16]), ReplicaId(0))
    };
    log::format(&opts).expect("an empty directory");
    opts
}

/// One record to a write, `depth` writes in flight: MB/s.
fn groups(dir: &str, depth: usize) -> f64 {
    let opts = fresh(dir, IoBackend::Auto, 60, depth);
    let (to, events) = unbounded();
    let open = log::open(opts.clone(), &mut |_| Ok(())).expect("opens");
    let (mut log, _) = open.start(Box::new(move |e| drop(to.send(e)))).expect("starts");
    // Header and payload fill a group of 1 MiB.
    let bytes = (1 << 20) - 256;
    let rate = closed_loop(&mut log, &events, bytes, 2 * depth as u64, Duration::from_millis(1500));
    log.stop();
    std::fs::remove_dir_all(&opts.dir).expect("our own directory");
    rate * bytes as f64 / 1e6
}

/// `threads` threads append `records` records of 4000 bytes at a time and wait until they are durable: records per second, and the
/// median wait.
fn threads_of(dir: &str, threads: usize, records: usize) -> (f64, Duration) {
    let opts = fresh(dir, IoBackend::Auto, 60, 4);
    let shared = Arc::new((Mutex::new(Lsn(0)), Condvar::new()));
    let told = shared.clone();
    let open = log::open(opts.clone(), &mut |_| Ok(())).expect("opens");
    let (log, _) = open
        .start(Box::new(move |event| {
            if let LogEvent::Persisted(p) = event {
                *told.0.lock().expect("no panic") = p.upto();
                told.1.notify_all();
            }
        }))
        .expect("starts");
    let (log, payload) = (Mutex::new(log), Bytes::from(vec![7; 4000]));
    let time = Duration::from_millis(1500);
    let start = Instant::now();
    let mut waits: Vec<Duration> = std::thread::scope(|scope| {
        let run = || {
            let mut waits = Vec::new();
            while start.elapsed() < time {
                let begin = Instant::now();
                let all = (0..records).map(|_| record(&payload)).collect();
                let lsn = log.lock().expect("no panic").append_all(all, false).expect("there is room");
                let durable = shared.0.lock().expect("no panic");
                drop(shared.1.wait_while(durable, |durable| *durable < lsn).expect("no panic"));
                waits.push(begin.elapsed());
            }
            waits
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let rate = (waits.len() * records) as f64 / start.elapsed().as_secs_f64();
    waits.sort_unstable();
    log.into_inner().expect("no panic").stop();
    std::fs::remove_dir_all(&opts.dir).expect("our own directory");
    (rate, waits[waits.len() / 2])
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let dir = args.next().expect("usage: log_speed DIR [uring|threads]");
    let number = |arg: Option<String>| arg.and_then(|n| n.parse().ok()).expect("a number");
    let io = match args.next().as_deref() {
        Some("groups") => {
            let depth = number(args.next());
            println!("1 MiB groups, {depth} in flight: {:.0} MB/s", groups(&dir, depth));
            return;
        }
        Some("threads-of") => {
            let (threads, records) = (number(args.next()), number(args.next()));
            let (rate, wait) = threads_of(&dir, threads, records);
            println!(
                "{threads} threads x {records} records of 4000 bytes: {rate:.0} records/s, p50 {wait:?}"
            );
            return;
        }
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
    let opts = fresh(&dir, io, 20, 4);
    let dir = opts.dir.clone();
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
