//! The log as its callers see it, on a real disk, with both backends.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, unbounded};

use super::*;
use crate::types::{ClusterId, ReplicaId};

pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(super) const REPLICA: ReplicaId = ReplicaId(2);

/// A directory on the disk that holds the build, so that O_DIRECT means something.
pub(super) fn real_dir() -> tempfile::TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    std::fs::create_dir_all(target).unwrap();
    tempfile::Builder::new().prefix("log-test-").tempdir_in(target).unwrap()
}

pub(super) fn small(dir: &Path, io: IoBackend) -> LogOptions {
    LogOptions {
        segment_bytes: 256 << 10,
        bytes_max: 64 << 20,
        group_bytes_max: 16 << 10,
        record_bytes_max: 128 << 10,
        queued_bytes_max: 1 << 20,
        io,
        ..LogOptions::new(dir, CLUSTER, REPLICA)
    }
}

/// A record whose bytes follow from its number.
pub(super) fn record(n: u64, bytes: usize) -> Record {
    let byte = |i: usize| (n as usize * 31 + i * 7) as u8;
    let half = bytes / 2;
    Record {
        kind: (n % 200 + 1) as u8,
        seq: Seq(n * 3),
        view: View(n / 5),
        digest: Digest([n as u8; 32]),
        payload: vec![(0..half).map(byte).collect::<Bytes>(), (half..bytes).map(byte).collect::<Bytes>()],
    }
}

pub(super) fn assert_is(found: &ScannedRecord, n: u64, bytes: usize) {
    let record = record(n, bytes);
    assert_eq!(found.lsn, Lsn(n));
    assert_eq!(
        (found.kind, found.seq, found.view, found.digest),
        (record.kind, record.seq, record.view, record.digest)
    );
    assert!(found.payload == record.payload.concat(), "payload of record {n}");
}

pub(super) fn collect(opts: &LogOptions) -> Result<(OpenLog, Vec<ScannedRecord>), LogError> {
    let mut records = Vec::new();
    let log = open(opts.clone(), &mut |record| {
        records.push(record);
        Ok(())
    })?;
    Ok((log, records))
}

pub(super) fn start(log: OpenLog) -> (Log, LogReader, Receiver<LogEvent>) {
    let (to, events) = unbounded();
    let (log, reader) = log.start(Box::new(move |event| drop(to.send(event)))).unwrap();
    (log, reader, events)
}

pub(super) fn wait_for(events: &Receiver<LogEvent>, upto: Lsn) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = Lsn(0);
    while last < upto {
        match events.recv_deadline(deadline).expect("the record becomes durable in time") {
            LogEvent::Persisted(persisted) => {
                assert!(persisted.upto() > last, "the prefix grows");
                last = persisted.upto();
            }
            LogEvent::Failed(failed) => panic!("{failed}"),
            LogEvent::Room(_) => {}
        }
    }
}

fn sizes(n: u64) -> usize {
    [0, 1, 100, 4000, 4096, 9000, 15_000, 40_000, 128 << 10][(n % 9) as usize]
}

const BACKENDS: [IoBackend; 2] = [IoBackend::Uring, IoBackend::Threads];

#[test]
fn what_was_reported_durable_is_read_back_after_each_of_several_starts() {
    for io in BACKENDS {
        let dir = real_dir();
        let opts = small(dir.path(), io);
        format(&opts).unwrap();
        let mut next = 1;
        for boot in 1..=4 {
            let (open, records) = collect(&opts).unwrap();
            assert_eq!(records.len() as u64, next - 1);
            records.iter().zip(1..).for_each(|(record, n)| assert_is(record, n, sizes(n)));
            assert_eq!((open.report().last_lsn, open.report().torn_bytes), (Lsn(next - 1), 0));
            assert_eq!(open.report().boot_epoch, boot - 1);
            let (mut log, reader, events) = start(open);
            for n in next..next + 60 {
                loop {
                    match log.append(record(n, sizes(n))) {
                        Ok(lsn) => break assert_eq!(lsn, Lsn(n)),
                        Err(e) => assert_eq!(e.why, AppendRefusal::Full),
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            next += 60;
            wait_for(&events, Lsn(next - 1));
            (1..next).for_each(|n| assert_is(&reader.read(Lsn(n)).unwrap(), n, sizes(n)));
            assert!(matches!(reader.read(Lsn(next)), Err(LogError::NotThere(_))));
            log.stop();
        }
    }
}

#[test]
fn stopping_writes_what_is_queued_and_the_last_durable_position() {
    for io in BACKENDS {
        let dir = real_dir();
        let opts = small(dir.path(), io);
        format(&opts).unwrap();
        let (mut log, _, _) = start(collect(&opts).unwrap().0);
        (1..=20).for_each(|n| assert_eq!(log.append(record(n, 500)).unwrap(), Lsn(n)));
        log.stop();
        let mut kinds = Vec::new();
        let report = inspect(dir.path(), &mut |i| {
            kinds.push(i.record.kind);
            Ok(())
        })
        .unwrap();
        assert_eq!((report.last_lsn, report.durable_lsn, report.records), (Lsn(20), Lsn(20), 20));
        assert_eq!((kinds[0], kinds.len(), kinds[21]), (KIND_BOOT, 22, KIND_TRAILER));
    }
}

#[test]
fn an_idle_log_writes_its_durable_position_once() {
    for io in BACKENDS {
        let dir = real_dir();
        let opts = small(dir.path(), io);
        format(&opts).unwrap();
        let (mut log, _, events) = start(collect(&opts).unwrap().0);
        log.append(record(1, 500)).unwrap();
        wait_for(&events, Lsn(1));
        std::thread::sleep(Duration::from_millis(500));
        let writes = log.stats().writes;
        assert_eq!(writes, 2, "the record and one trailer");
        assert_eq!(inspect(dir.path(), &mut |_| Ok(())).unwrap().durable_lsn, Lsn(1));
        log.stop();
    }
}

#[test]
fn the_wrong_directory_is_refused_in_one_line_that_says_what_to_do() {
    let dir = real_dir();
    let opts = small(dir.path(), IoBackend::Auto);
    let words = |result: Result<(OpenLog, Vec<ScannedRecord>), LogError>| {
        let words = result.err().expect("refused").to_string();
        assert!(!words.contains('\n'));
        words
    };
    assert!(words(collect(&opts)).contains("no log here"));
    assert!(
        words(collect(&LogOptions { dir: dir.path().join("nowhere"), ..opts.clone() }))
            .contains("no log here")
    );
    format(&opts).unwrap();
    assert!(matches!(format(&opts), Err(LogError::AlreadyFormatted(_))));
    assert!(words(collect(&LogOptions { cluster: ClusterId([8; 16]), ..opts.clone() })).contains("cluster"));
    assert!(
        words(collect(&LogOptions { replica: ReplicaId(1), ..opts.clone() })).contains("replica 2, not 1")
    );
    let (first, _) = collect(&opts).unwrap();
    assert!(words(collect(&opts)).contains("another process"));
    assert!(inspect(dir.path(), &mut |_| Ok(())).is_ok(), "inspecting needs no lock");
    drop(first);
    assert!(collect(&opts).is_ok());
    assert!(matches!(
        collect(&LogOptions { group_bytes_max: 1000, ..opts.clone() }),
        Err(LogError::Options(_))
    ));
}

#[test]
fn a_record_above_the_bound_comes_back_to_the_caller() {
    let dir = real_dir();
    let opts = small(dir.path(), IoBackend::Threads);
    format(&opts).unwrap();
    let (mut log, _, _) = start(collect(&opts).unwrap().0);
    let refused = log.append(record(1, (128 << 10) + 1)).unwrap_err();
    assert_eq!((refused.why, refused.record), (AppendRefusal::TooLarge, record(1, (128 << 10) + 1)));
    assert_eq!(log.next_lsn(), Lsn(1));
}

#[test]
fn at_its_bound_the_log_takes_control_records_only() {
    for io in BACKENDS {
        let dir = real_dir();
        let opts =
            LogOptions { bytes_max: 4 * (256 << 10), record_bytes_max: 16 << 10, ..small(dir.path(), io) };
        format(&opts).unwrap();
        let (mut log, _, events) = start(collect(&opts).unwrap().0);
        let mut n = 1;
        let full = loop {
            assert!(n < 1000, "the bound is reached");
            match log.append(record(n, 10_000)) {
                Ok(_) => n += 1,
                Err(e) if e.why == AppendRefusal::Full => std::thread::sleep(Duration::from_millis(1)),
                Err(e) => break e,
            }
        };
        assert_eq!(full.why, AppendRefusal::NoRoom);
        wait_for(&events, Lsn(n - 1));
        assert!(n * 10_000 > 300 << 10, "half of the bound was usable");
        assert!(!log.has_room());
        for _ in 0..8 {
            assert_eq!(log.append_control(record(n, 1000)).unwrap(), Lsn(n));
            n += 1;
            wait_for(&events, Lsn(n - 1));
        }
        log.stop();
        let (open, records) = collect(&opts).unwrap();
        assert_eq!(records.len() as u64, n - 1);
        let (mut log, _, events) = start(open);
        assert!(log.append_control(record(n, 1)).is_ok(), "still after a restart");
        wait_for(&events, Lsn(n));
    }
}

#[test]
fn a_gate_releases_what_is_durable_in_order_and_nothing_else() {
    let mut gate = DurableGate::new(Lsn(3));
    assert_eq!(gate.hold(Lsn(3), "at once").map(Durable::into_inner), Some("at once"));
    for (lsn, value) in [(5, "b"), (4, "a"), (5, "c"), (9, "d")] {
        assert!(gate.hold(Lsn(lsn), value).is_none());
    }
    let mut release = |upto| gate.release(&Persisted::simulated(Lsn(upto))).map(|d| *d).collect::<String>();
    assert_eq!(release(4), "a");
    assert_eq!(release(8), "bc");
    assert_eq!(release(2), "");
    assert!(gate.hold(Lsn(8), "e").is_some(), "an older report does not close the gate again");
    assert_eq!(gate.len(), 1);
    gate.discard(|value| *value == "d");
    assert!(gate.is_empty());
}

#[test]
fn an_idle_writer_sleeps_until_it_is_signalled_or_time_is_up() {
    let wake = Arc::new(EventFd::new().unwrap());
    let writers: [Box<dyn Writer>; 2] =
        [Box::new(UringWriter::new(2, wake.clone()).unwrap()), Box::new(ThreadsWriter::new(wake.clone()))];
    for mut writer in writers {
        for _ in 0..3 {
            let (start, mut done) = (Instant::now(), Vec::new());
            writer.wait(Some(Duration::from_millis(50)), &mut done).unwrap();
            assert!(start.elapsed() >= Duration::from_millis(49), "it does not poll");
            wake.signal();
            let start = Instant::now();
            writer.wait(Some(Duration::from_secs(20)), &mut done).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10), "a signal ends the sleep");
        }
    }
}

#[test]
fn a_short_write_goes_on_at_a_block_and_only_passing_errors_are_tried_again() {
    use super::writer::{After, InKernel, Write};
    let dir = real_dir();
    let disk = RealDisk::new(dir.path().into(), true).unwrap();
    let file = disk.create("file", 1 << 16).unwrap();
    let write = |bytes| {
        let buffer = AlignedBuffer::new(bytes);
        InKernel { write: Write { id: 1, file: file.clone(), offset: 0, buffer, bytes }, done: 0, retries: 0 }
    };
    let mut short = write(16384);
    assert!(matches!(short.after(5000), After::Again));
    assert_eq!((short.done, short.retries), (4096, 0));
    assert!(matches!(short.after(8192), After::Again));
    assert!(matches!(short.after(4096), After::Ended));
    for passing in [-libc::EINTR, -libc::EAGAIN, 0, 100] {
        let mut write = write(8192);
        let tries = std::iter::repeat_with(|| write.after(passing)).take_while(|a| matches!(a, After::Again));
        assert_eq!(tries.take(10_000).count(), storage::RETRIES_MAX as usize, "bounded");
    }
    for last in [libc::EIO, libc::ENOSPC, libc::EINVAL] {
        assert!(matches!(write(8192).after(-last), After::Failed(e) if e.raw_os_error() == Some(last)));
    }
}

#[test]
fn only_the_contiguous_prefix_of_completed_writes_is_durable() {
    let mut prefix = Prefix::new(Lsn(7));
    let ids: Vec<u64> =
        [Some(8), None, Some(12), Some(12), Some(20)].iter().map(|e| prefix.started(e.map(Lsn))).collect();
    assert_eq!(prefix.completed(ids[4]), None);
    assert_eq!(prefix.completed(ids[2]), None);
    assert_eq!(prefix.completed(ids[0]), Some(Lsn(8)));
    assert_eq!(prefix.span(), 4, "completed writes behind a hole still count as in flight");
    assert_eq!(prefix.completed(ids[1]), Some(Lsn(12)));
    assert_eq!(prefix.completed(ids[3]), Some(Lsn(20)));
    assert_eq!(prefix.span(), 0);
}

#[test]
fn a_panic_on_the_log_thread_is_a_failure_of_the_log() {
    let dir = real_dir();
    let opts = small(dir.path(), IoBackend::Threads);
    format(&opts).unwrap();
    let (to, events) = unbounded();
    let report = move |event| match event {
        LogEvent::Persisted(_) => panic!("a test's panic"),
        event => drop(to.send(event)),
    };
    let (mut log, _) = collect(&opts).unwrap().0.start(Box::new(report)).unwrap();
    log.append(record(1, 10)).unwrap();
    assert!(matches!(events.recv_timeout(Duration::from_secs(10)), Ok(LogEvent::Failed(_))));
    assert_eq!(log.append(record(2, 10)).unwrap_err().why, AppendRefusal::Failed);
}

#[test]
fn the_disk_check_measures_every_size() {
    let dir = real_dir();
    let report = disk_check(dir.path(), DISK_CHECK_SIZES).unwrap();
    assert_eq!(
        report.speeds.iter().map(|s| s.bytes).collect::<Vec<_>>(),
        [4, 16, 64, 256, 1024].map(|k| k << 10)
    );
    assert!(
        report
            .speeds
            .iter()
            .all(|s| s.writes > 0 && s.write_ns_p50 > 1000 && s.write_ns_p99 >= s.write_ns_p50)
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing");
}
