use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use duramen::client::{Client, ClientOptions};
use duramen::data_dir;
use duramen::init::{InitOptions, init};
use duramen::keys::ClientKeys;
use duramen::quorum::FaultModel;
use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::compare::spread;
use super::load::{Load, Places, Shape, due};
use super::report::{Bin, rounds_line, write_csv, write_hgrm};
use super::workload::*;

fn draws(named: Named, n: usize) -> Vec<Step> {
    let (_, value_bytes, mix, distribution) = named.parts();
    let kind = Kind::Kv { value_bytes, keys: 1000, mix, distribution, preload: true };
    let (workload, mut random) = (Workload::new(kind, 1), StdRng::seed_from_u64(7));
    (0..n).map(|_| workload.draw(&mut random)).collect()
}

#[test]
fn ycsb_s_mixes_have_their_shares() {
    let shares = |named| {
        let steps = draws(named, 20_000);
        let share = |which: fn(&Step) -> bool| steps.iter().filter(|s| which(s)).count() as f64 / 20_000.0;
        let scan = share(|s| matches!(s, Step::Read(o) if o[0] == 5));
        let read = share(|s| matches!(s, Step::Read(o) if o[0] == 1));
        (read, scan, share(|s| matches!(s, Step::ReadThenWrite(..))))
    };
    let near = |(a, b, c): (f64, f64, f64), x: f64, y: f64, z: f64| {
        (a - x).abs() < 0.02 && (b - y).abs() < 0.02 && (c - z).abs() < 0.02
    };
    assert!(near(shares(Named::A), 0.5, 0.0, 0.0));
    assert!(near(shares(Named::B), 0.95, 0.0, 0.0));
    assert_eq!(shares(Named::C), (1.0, 0.0, 0.0));
    assert!(near(shares(Named::D), 0.95, 0.0, 0.0));
    assert!(near(shares(Named::E), 0.0, 0.95, 0.0));
    assert!(near(shares(Named::F), 0.5, 0.0, 0.5));
    assert_eq!(shares(Named::Paper4k), (0.0, 0.0, 0.0));
}

#[test]
fn only_writes_count_against_the_write_limit() {
    let share = |named: Named| {
        let (keys, value_bytes, mix, distribution) = named.parts();
        let kind = Kind::Kv { value_bytes, keys, mix, distribution, preload: true };
        (kind.write_share(), kind.preload())
    };
    assert_eq!(share(Named::Paper4k), (1.0, 250_000));
    assert_eq!(share(Named::A), (0.5, 10_000));
    assert_eq!(share(Named::C).0, 0.0);
    assert_eq!(share(Named::E).0, 0.05);
    // A read-modify-write writes once.
    assert_eq!(share(Named::F).0, 0.5);
    assert_eq!(Kind::Null { request_bytes: 4, reply_bytes: 0 }.write_share(), 1.0);
}

#[test]
fn random_tuples_are_inserts_of_four_fields_that_all_differ() {
    use duramen::service::{Pattern, Service};
    use duramen::service::{TupleOperation, TupleReply, TupleSpace, conformance::context};
    let (_, tuple_bytes, ..) = Named::DdSpace1k.parts();
    let workload = Workload::new(Kind::Tuples { tuple_bytes }, 1);
    let (mut random, mut service) = (StdRng::seed_from_u64(7), TupleSpace::new());
    assert!(workload.accepts_first(&service.execute(&context(0), &workload.first().unwrap())));
    assert!(workload.accepts_first(&service.execute(&context(0), &workload.first().unwrap())));
    for i in 0..200 {
        let Step::Write(operation) = workload.draw(&mut random) else { panic!("all are inserts") };
        assert!(workload.accepts_write(&service.execute(&context(i), &operation)));
    }
    let template = vec![Pattern::Any; 4];
    let operation = TupleOperation::RdAll { space: "bench", template: &template, limit: 300, after: 0 };
    let reply = TupleReply::decode(&service.query(&operation.encode()).result);
    let Ok(TupleReply::Tuples { tuples, more_after: None }) = reply else { panic!("{reply:?}") };
    let mut seen = std::collections::HashSet::new();
    for tuple in &tuples {
        let lengths = tuple.iter().map(|field| match field {
            duramen::service::Field::Text(text) => text.len(),
            other => panic!("{other:?} is no text"),
        });
        assert_eq!(lengths.sum::<usize>(), 1024);
        assert!(tuple.iter().all(|field| seen.insert(format!("{field:?}"))), "a field twice");
    }
    assert_eq!((tuples.len(), seen.len()), (200, 800));
    assert_eq!(Kind::Tuples { tuple_bytes: 10 }.write_share(), 1.0);
    // Fields too short for names of their own are fields all the same.
    for tuple_bytes in [0, 1, 7, 70] {
        let workload = Workload::new(Kind::Tuples { tuple_bytes }, 1);
        let Step::Write(operation) = workload.draw(&mut random) else { panic!("all are inserts") };
        assert!(workload.accepts_write(&service.execute(&context(1000), &operation)), "{tuple_bytes}");
    }
}

#[test]
fn zipf_prefers_few_keys_and_uniform_none() {
    let most_popular = |named| {
        let mut counts = std::collections::HashMap::new();
        for step in draws(named, 20_000) {
            let Step::Read(operation) = step else { panic!("{named:?} only reads") };
            *counts.entry(operation).or_insert(0u32) += 1;
        }
        (counts.values().max().copied().unwrap(), counts.len())
    };
    let (most, distinct) = most_popular(Named::C);
    // 1000 keys, exponent 0.99: the first has about 13 %.
    assert!((2000..3400).contains(&most), "{most}");
    assert!(distinct > 500, "{distinct}");
    let (keys, value_bytes, ..) = Named::Paper4k.parts();
    assert_eq!((keys, value_bytes), (250_000, 4096));
    let kind = Kind::Kv {
        value_bytes: 10,
        keys: 1000,
        mix: Mix { read: 1000, ..Mix::default() },
        distribution: Distribution::Uniform,
        preload: true,
    };
    let (workload, mut random) = (Workload::new(kind, 1), StdRng::seed_from_u64(7));
    let mut counts = std::collections::HashMap::new();
    for _ in 0..20_000 {
        let Step::Read(operation) = workload.draw(&mut random) else { panic!("it only reads") };
        *counts.entry(operation).or_insert(0u32) += 1;
    }
    assert!(counts.len() == 1000 && counts.values().all(|n| *n < 60));
}

#[test]
fn inserts_add_keys_and_the_latest_are_read() {
    let last_inserted = std::cell::Cell::new(999u64);
    for step in draws(Named::D, 5000) {
        match step {
            Step::Write(put) => {
                // Code, length of the key, key.
                let key = u64::from_be_bytes(put[5..13].try_into().unwrap());
                assert_eq!(key, last_inserted.get() + 1, "inserts are numbered on");
                last_inserted.set(key);
            }
            Step::Read(get) => {
                let key = u64::from_be_bytes(get[5..13].try_into().unwrap());
                assert!(key <= last_inserted.get());
            }
            Step::ReadThenWrite(..) => panic!("YCSB D has none"),
        }
    }
    assert!(last_inserted.get() > 1100);
}

#[test]
fn an_open_loop_s_requests_are_due_at_fixed_times() {
    assert_eq!(due(0, 500.0), Duration::ZERO);
    assert_eq!(due(1, 500.0), Duration::from_millis(2));
    assert_eq!(due(86_400 * 1000, 1000.0), Duration::from_secs(86_400));
}

#[test]
fn a_spread_is_least_median_and_most() {
    assert_eq!(spread(vec![3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
    assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0]), [1.0, 2.5, 4.0]);
    assert_eq!(spread(vec![5.0]), [5.0; 3]);
}

fn latencies() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1000, 600_000_000_000, 3).unwrap();
    (1..=1000u64).for_each(|ms| histogram.record(ms * 1_000_000).unwrap());
    histogram
}

#[test]
fn the_percentile_table_has_the_form_that_plotters_read() {
    let mut out = Vec::new();
    write_hgrm(&mut out, &latencies()).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    );
    assert_eq!(lines.next(), Some(""));
    let rows: Vec<Vec<f64>> = lines
        .clone()
        .take_while(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
        .collect();
    assert!(rows.iter().is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] && a[2] <= b[2]), "{text}");
    let median = rows.iter().find(|row| row[1] >= 0.5).unwrap();
    assert!((median[0] - 500.0).abs() < 1.0, "{median:?}");
    assert_eq!(rows.last().unwrap()[2], 1000.0);
    assert!(text.contains("Total count    =         1000]"), "{text}");
}

#[test]
fn the_timeline_has_a_line_for_each_bin() {
    let bins = [
        Bin::of(Duration::ZERO, &latencies(), 0),
        Bin::of(
            Duration::from_millis(100),
            &Histogram::new_with_bounds(1000, 600_000_000_000, 3).unwrap(),
            2,
        ),
    ];
    let mut out = Vec::new();
    write_csv(&mut out, &bins).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "seconds,operations,p50_us,p99_us,max_us,errors");
    assert!(lines[1].starts_with("0.0,1000,500") && lines[1].ends_with(",0"), "{text}");
    assert_eq!(lines[2], "0.1,0,0,0,0,2");
}

#[test]
fn an_open_loop_s_queue_is_bounded_and_what_it_does_not_take_is_counted() {
    let places = Places::new(2, 1, 3);
    let begin = Instant::now();
    let at = |ms| begin + Duration::from_millis(ms);
    assert!(places.take(0, at(0)) && places.take(1, at(1)), "each session has its place");
    let later: Vec<bool> = (2..9).map(|ms| places.take(ms as usize % 2, at(ms))).collect();
    assert_eq!(later, [false; 7]);
    assert_eq!(places.dropped.load(Ordering::Relaxed), 4, "three wait");
    // Who waits leaves in the order of the times due, then places become free again.
    assert_eq!((places.leave(0), places.leave(0)), (Some(at(2)), Some(at(4))));
    assert_eq!((places.leave(0), places.leave(1), places.leave(1)), (None, Some(at(3)), None));
    assert!(places.take(0, at(9)) && places.take(1, at(10)) && !places.take(0, at(11)));
    assert_eq!(places.dropped.load(Ordering::Relaxed), 4);
}

/// Of two places one finds the client full: it must be tried again and again, and each time be counted.
#[test]
fn a_refused_request_is_counted_and_does_not_take_its_place_out_of_the_load() {
    for rate in [None, Some(2000.0)] {
        let dir = tempfile::tempdir().unwrap();
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            replicas: 3,
            model: FaultModel::Crash,
            listen: "127.0.0.1:1".into(),
            ..InitOptions::default()
        };
        // No replica runs: nothing is answered.
        let config = init(&options, &|_, _, _| Ok(())).unwrap();
        let keys = ClientKeys::load(&data_dir::client_key_file(&options.dir, "default"), &config).unwrap();
        let mut client = ClientOptions::new(config, keys);
        (client.connect_to, client.outstanding_max) = (Some(0), 1);
        let client = Client::connect(client).unwrap();
        let workload = Arc::new(Workload::new(Kind::Null { request_bytes: 8, reply_bytes: 0 }, 1));
        let deadline = Duration::from_millis(400);
        let shape = Shape { sessions: 2, outstanding: 1, rate, deadline, seed: 1 };
        let load = Load::start(&client, workload, shape);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!load.is_idle());
        let record = load.stop();
        assert!(record.refused >= 10, "rate {rate:?}: {} refused", record.refused);
        assert!(record.errors > record.refused, "what was not answered counts, too");
    }
}

#[test]
fn no_time_of_logging_is_told_where_nobody_waited_for_it() {
    let means = [100.0, 0.0, 100.0, 120.0];
    let parallel = rounds_line(10, 50, [100.0, 200.0, 200.0, 220.0], true);
    assert_eq!(
        parallel,
        "rounds     10 of 5 operations: executing 100 us, logging 200 us, round 220 us = 1.10 x max(E, L)"
    );
    let asynchronous = rounds_line(10, 50, means, false);
    assert!(!asynchronous.contains("logging 0") && !asynchronous.contains("max("), "{asynchronous}");
    assert!(asynchronous.contains("round 120 us; logging is not waited for"), "{asynchronous}");
}
