//! The layer under a host that orders by itself, on a real disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::log::{self, Device, Durable, IoBackend, LogOptions};
use crate::types::{ClusterId, Digest, ReplicaId, Seq, View};

const MODES: [Mode; 4] = [Mode::Parallel, Mode::Batched, Mode::Naive, Mode::Async];

fn real_dir() -> tempfile::TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    std::fs::create_dir_all(target).unwrap();
    tempfile::Builder::new().prefix("durable-test-").tempdir_in(target).unwrap()
}

fn options(dir: &Path, io: IoBackend) -> LogOptions {
    LogOptions {
        segment_bytes: 1 << 20,
        bytes_max: 32 << 20,
        group_bytes_max: 64 << 10,
        record_bytes_max: 128 << 10,
        queued_bytes_max: 1 << 20,
        io,
        ..LogOptions::new(dir, ClusterId([7; 16]), ReplicaId(0))
    }
}

/// A batch of the test's own order: a place and operations.
#[derive(Clone, PartialEq, Debug)]
struct Ordered(u64, Vec<Vec<u8>>);

fn ordered(place: u64, operations: usize, bytes: usize) -> Ordered {
    Ordered(place, (0..operations).map(|i| vec![(place as usize * 31 + i) as u8; bytes]).collect())
}

fn is_of(delivery: &Delivery, batch: &Ordered) -> bool {
    delivery.seq == Seq(batch.0)
        && delivery.view == View(3)
        && delivery.digest == Digest([batch.0 as u8; 32])
        && delivery.head == format!("batch {}", batch.0).as_bytes()
        && delivery.body == batch.1.concat()
}

/// Notes what happens, in order, and what of it was on disk then.
#[derive(Default)]
struct Sequencer {
    reader: Option<DeliveryReader>,
    events: Vec<String>,
    executed: u64,
    stopping: Arc<AtomicBool>,
}

impl Sequencer {
    fn on_disk(&self, place: u64) -> bool {
        self.reader.as_ref().unwrap().read(Seq(place)).unwrap().is_some()
    }
}

impl Host for Sequencer {
    type Batch = Ordered;
    type Replies = u64;

    fn delivery(&self, Ordered(place, operations): &Ordered) -> Delivery {
        Delivery {
            seq: Seq(*place),
            view: View(3),
            digest: Digest([*place as u8; 32]),
            head: format!("batch {place}").into(),
            body: operations.concat().into(),
            operations: operations.len(),
        }
    }

    fn execute(&mut self, Ordered(place, _): Ordered) -> u64 {
        assert_eq!(place, self.executed + 1, "executed in order");
        self.executed = place;
        let first = if self.on_disk(place) { "logged" } else { "under way" };
        self.events.push(format!("execute {place} {first}"));
        place
    }

    fn release(&mut self, replies: Durable<Vec<u64>>) {
        for place in replies.into_inner() {
            assert!(self.on_disk(place), "the reply of {place} leaves before its batch is durable");
            self.events.push(format!("release {place}"));
        }
    }

    fn release_early(&mut self, replies: Vec<u64>) {
        self.events.extend(replies.iter().map(|place| format!("early {place}")));
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn logged(&mut self, upto: Seq) {
        assert!(self.on_disk(upto.0), "{upto} is called logged and is not");
        self.events.push(format!("logged {upto}"));
    }
}

fn start(dir: &Path, mode: Mode, io: IoBackend) -> (DurableLayer, Sequencer, Vec<Delivery>) {
    let mut found = Vec::new();
    let open = open(options(dir, io), mode, &mut |delivery| {
        found.push(delivery);
        Ok(())
    });
    let layer = open.unwrap().start(|_| {}).unwrap();
    let host = Sequencer { reader: Some(layer.reader()), executed: found.len() as u64, ..Default::default() };
    (layer, host, found)
}

fn finish(mut layer: DurableLayer, host: &mut Sequencer) {
    while layer.is_behind() {
        layer.poll(host).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    layer.stop();
}

#[test]
fn what_was_delivered_comes_back_in_every_mode_and_can_be_read_by_its_place() {
    for io in [IoBackend::Auto, IoBackend::Threads] {
        for mode in MODES {
            let dir = real_dir();
            log::format(&options(dir.path(), io)).unwrap();
            let mut all: Vec<Ordered> = Vec::new();
            for round in 0..3u64 {
                let (mut layer, mut host, found) = start(dir.path(), mode, io);
                assert_eq!(found.len(), all.len(), "{mode:?}");
                assert!(found.iter().zip(&all).all(|(delivery, batch)| is_of(delivery, batch)), "{mode:?}");
                let next = all.len() as u64 + 1;
                let new: Vec<Ordered> = (next..next + 5)
                    .map(|place| {
                        ordered(place, 1 + place as usize % 4, [0, 10, 5000, 20_000][round as usize])
                    })
                    .collect();
                layer.deliver(new[..2].to_vec(), &mut host).unwrap();
                layer.deliver(new[2..].to_vec(), &mut host).unwrap();
                all.extend(new);
                let reader = layer.reader();
                finish(layer, &mut host);
                assert!(host.events.contains(&format!("logged {}", all.len())), "{:?}", host.events);
                for batch in &all {
                    assert!(is_of(&reader.read(Seq(batch.0)).unwrap().unwrap(), batch), "{mode:?}");
                }
                assert_eq!(reader.read(Seq(all.len() as u64 + 1)).unwrap(), None);
            }
        }
    }
}

#[test]
fn each_mode_executes_and_releases_when_it_says() {
    let two = || vec![ordered(1, 2, 100), ordered(2, 2, 100)];
    let events = |mode| {
        let dir = real_dir();
        log::format(&options(dir.path(), IoBackend::Auto)).unwrap();
        let (mut layer, mut host, _) = start(dir.path(), mode, IoBackend::Auto);
        layer.deliver(two(), &mut host).unwrap();
        finish(layer, &mut host);
        host.events
    };
    let batched = ["execute 1 logged", "execute 2 logged", "release 1", "release 2", "logged 2"];
    assert_eq!(events(Mode::Batched), batched);
    let naive = ["execute 1 logged", "release 1", "logged 1", "execute 2 logged", "release 2", "logged 2"];
    assert_eq!(events(Mode::Naive), naive);
    // Execution does not wait for the write, and may or may not be faster.
    let kinds = |events: Vec<String>| -> Vec<String> {
        events.iter().map(|e| e.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(
        kinds(events(Mode::Parallel)),
        ["execute 1", "execute 2", "release 1", "release 2", "logged 2"]
    );
    assert_eq!(kinds(events(Mode::Async)), ["execute 1", "execute 2", "early 1", "early 2", "logged 2"]);
}

/// Dura-SMaRt, "Parallel Logging": all that was ordered meanwhile is logged in one write; naive logging writes each operation.
#[test]
fn a_round_is_one_write_and_naive_logging_one_per_operation() {
    for (mode, writes) in [(Mode::Parallel, 1), (Mode::Batched, 1), (Mode::Async, 1), (Mode::Naive, 20)] {
        let dir = real_dir();
        log::format(&options(dir.path(), IoBackend::Auto)).unwrap();
        let (mut layer, mut host, _) = start(dir.path(), mode, IoBackend::Auto);
        let before = layer.log_stats().writes;
        layer.deliver((1..=5).map(|place| ordered(place, 4, 50)).collect(), &mut host).unwrap();
        while layer.is_behind() {
            layer.poll(&mut host).unwrap();
        }
        assert_eq!(layer.log_stats().writes - before, writes, "{mode:?}");
        let stats = layer.stats();
        assert_eq!(stats.operations, 20);
        assert!(stats.round_ns >= stats.larger_ns, "{mode:?} {stats:?}");
        assert!(mode == Mode::Async || stats.log_ns > 0, "{mode:?} {stats:?}");
        layer.stop();
    }
}

#[test]
fn a_delivery_whose_pieces_are_not_all_there_is_dropped_and_may_come_again() {
    let dir = real_dir();
    let opts = options(dir.path(), IoBackend::Auto);
    log::format(&opts).unwrap();
    let host = Sequencer::default();
    let (first, second) = (ordered(1, 3, 900), ordered(2, 4, 900));
    // A crash after the third of four pieces of the second delivery.
    let (mut log, _) = log::open(opts.clone(), &mut |_| Ok(())).unwrap().start(Box::new(|_| {})).unwrap();
    log.append_all(host.delivery(&first).records(3), false).unwrap();
    log.append_all(host.delivery(&second).records(4).into_iter().take(3).collect(), false).unwrap();
    log.stop();

    let (mut layer, mut host, found) = start(dir.path(), Mode::Naive, IoBackend::Auto);
    assert_eq!(found.len(), 1);
    assert!(is_of(&found[0], &first));
    layer.deliver(vec![second.clone()], &mut host).unwrap();
    finish(layer, &mut host);
    let (layer, _, found) = start(dir.path(), Mode::Parallel, IoBackend::Auto);
    assert_eq!(found.len(), 2, "another mode reads the same log");
    assert!(is_of(&found[1], &second));
    layer.stop();
}

#[test]
fn a_place_that_comes_again_is_read_as_it_came_last() {
    let dir = real_dir();
    log::format(&options(dir.path(), IoBackend::Auto)).unwrap();
    let (mut layer, mut host, _) = start(dir.path(), Mode::Parallel, IoBackend::Auto);
    layer.deliver(vec![ordered(1, 1, 10), ordered(2, 1, 10)], &mut host).unwrap();
    host.executed = 1;
    let other = Ordered(2, vec![b"another".to_vec()]);
    layer.deliver(vec![other.clone()], &mut host).unwrap();
    assert!(is_of(&layer.reader().read(Seq(2)).unwrap().unwrap(), &other));
    layer.stop();
    let (layer, _, found) = start(dir.path(), Mode::Parallel, IoBackend::Auto);
    assert_eq!(found.iter().map(|d| d.seq.0).collect::<Vec<_>>(), [1, 2, 2]);
    assert!(is_of(&layer.reader().read(Seq(2)).unwrap().unwrap(), &other));
    layer.stop();
}

#[test]
fn a_round_larger_than_the_log_s_queue_waits_for_the_disk() {
    let dir = real_dir();
    log::format(&options(dir.path(), IoBackend::Auto)).unwrap();
    let (mut layer, mut host, _) = start(dir.path(), Mode::Parallel, IoBackend::Auto);
    let many: Vec<Ordered> = (1..=40).map(|place| ordered(place, 4, 16 << 10)).collect();
    layer.deliver(many.clone(), &mut host).unwrap();
    layer.stop();
    let (layer, _, found) = start(dir.path(), Mode::Parallel, IoBackend::Auto);
    assert!(found.len() == 40 && found.iter().zip(&many).all(|(delivery, batch)| is_of(delivery, batch)));
    layer.stop();
}

#[test]
fn a_full_log_ends_the_layer_and_releases_nothing_more() {
    let dir = real_dir();
    let opts = LogOptions { bytes_max: 3 << 20, spare_segments: 1, ..options(dir.path(), IoBackend::Auto) };
    log::format(&opts).unwrap();
    let open = open(opts, Mode::Parallel, &mut |_| Ok(())).unwrap();
    let mut layer = open.start(|_| {}).unwrap();
    let mut host = Sequencer { reader: Some(layer.reader()), ..Default::default() };
    let mut place = 0;
    let error = loop {
        place += 1;
        assert!(place < 100, "3 MiB hold no more than this");
        if let Err(error) = layer.deliver(vec![ordered(place, 1, 100 << 10)], &mut host) {
            break error;
        }
    };
    assert_eq!(error, LayerError::Full);
    assert!(!host.events.contains(&format!("release {place}")));
    assert!(host.events.contains(&format!("release {}", place - 1)));
}

#[test]
fn records_that_are_no_deliveries_are_refused_with_their_number() {
    let dir = real_dir();
    let opts = options(dir.path(), IoBackend::Auto);
    log::format(&opts).unwrap();
    let (mut log, _) = log::open(opts.clone(), &mut |_| Ok(())).unwrap().start(Box::new(|_| {})).unwrap();
    let stray = crate::log::Record {
        kind: 9,
        seq: Seq(1),
        view: View(0),
        digest: Digest::ZERO,
        payload: vec![Bytes::from_static(&[9; 40])],
    };
    log.append(stray).unwrap();
    log.stop();
    let Err(refused) = open(opts, Mode::Parallel, &mut |_| Ok(())) else { panic!("it is no delivery") };
    assert!(refused.to_string().contains("record 1"), "{refused}");
}

#[test]
fn a_log_recycled_in_the_middle_of_a_delivery_opens_and_goes_on() {
    for mode in MODES {
        let dir = real_dir();
        let opts = LogOptions { recycled_segments: 0, ..options(dir.path(), IoBackend::Auto) };
        log::format(&opts).unwrap();
        let (mut layer, mut host, _) = start(dir.path(), mode, IoBackend::Auto);
        // Seven operations of 10 kB: no segment holds a whole number of deliveries.
        let batches: Vec<Ordered> = (1..=60).map(|place| ordered(place, 7, 10_000)).collect();
        layer.deliver(batches.clone(), &mut host).unwrap();
        layer.recycle(Seq(45));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        // A segment leaves the index first, and the directory a moment later.
        while layer.log_stats().first_lsn <= crate::types::Lsn(1)
            || dir.path().join("segment-00000001").exists()
        {
            assert!(std::time::Instant::now() < until, "{mode:?}: nothing is recycled");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let reader = layer.reader();
        assert!(reader.read(Seq(45)).unwrap().is_none() && reader.read(Seq(46)).unwrap().is_some());
        finish(layer, &mut host);
        let (mut layer, mut host, found) = start(dir.path(), mode, IoBackend::Auto);
        let first = found[0].seq.0;
        assert!(first > 1 && first <= 46, "{mode:?}: begins with {first}");
        assert_eq!(found.len() as u64, 61 - first, "{mode:?}");
        assert!(
            found.iter().zip(&batches[first as usize - 1..]).all(|(delivery, batch)| is_of(delivery, batch))
        );
        host.executed = 60;
        layer.deliver(vec![ordered(61, 7, 10_000)], &mut host).unwrap();
        finish(layer, &mut host);
        let (layer, mut host, found) = start(dir.path(), mode, IoBackend::Auto);
        assert_eq!(found.last().map(|d| d.seq), Some(Seq(61)), "{mode:?}");
        finish(layer, &mut host);
    }
}

/// A disk that answers nothing for longer than anybody waits, in every mode, with a queue that fills up and with one that does not.
#[test]
fn a_host_that_is_to_stop_does_not_wait_for_a_disk_that_is_stuck() {
    for mode in MODES {
        for batches in [1, 40] {
            // Nothing is released early that could not be appended, so only a full queue holds up this mode.
            if mode == Mode::Async && batches == 1 {
                continue;
            }
            let dir = real_dir();
            log::format(&options(dir.path(), IoBackend::Auto)).unwrap();
            let stuck = Device::new("a stuck disk", Duration::from_secs(30), 1 << 30);
            let opts = LogOptions {
                device: Some(stuck),
                queued_bytes_max: 300 << 10,
                ..options(dir.path(), IoBackend::Auto)
            };
            let mut layer = open(opts, mode, &mut |_| Ok(())).unwrap().start(|_| {}).unwrap();
            let mut host = Sequencer { reader: Some(layer.reader()), ..Default::default() };
            let stopping = host.stopping.clone();
            let stopper = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(100));
                stopping.store(true, Ordering::Relaxed);
            });
            let began = Instant::now();
            let many = (1..=batches).map(|place| ordered(place, 4, 16 << 10)).collect();
            assert_eq!(layer.deliver(many, &mut host), Err(LayerError::Stopped), "{mode:?}, {batches}");
            assert!(!layer.stop_within(Duration::from_millis(100)), "{mode:?}: it says that all was written");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(10), "{mode:?}, {batches}: it took {took:?}");
            assert!(!host.events.iter().any(|event| event.starts_with("release")), "{:?}", host.events);
            stopper.join().unwrap();
        }
    }
}
