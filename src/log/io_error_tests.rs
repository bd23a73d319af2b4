//! An I/O error at every call index: nothing is reported durable that is not, nothing panics, and the log opens again
//! once the disk answers.

use std::path::Path;
use std::time::{Duration, Instant};

use super::crash_tests::{number_of, recycling, size, tiny, uring};
use super::log_tests::{real_dir, record};
use super::test_disk::{FailingDisk, FailingWriter, Fault, MemoryDisk, image_of};
use super::*;

const RECORDS: u64 = 40;

/// Runs a log that may fail at any point; returns what was reported durable, and whether a failure was.
/// `keep`: all but so many records are given up on the way.
fn attempt(disk: Arc<dyn Disk>, new_writer: NewWriter, keep: Option<u64>) -> (u64, bool) {
    let (to, events) = crossbeam::channel::unbounded();
    let report = Arc::new(move |event| drop(to.send(event)));
    let opts = match keep {
        Some(_) => recycling(0).opts,
        None => tiny(Path::new("failing")),
    };
    let Ok(open) = open_on(disk, opts, &mut |_| Ok(())) else { return (0, false) };
    let last = open.report().last_lsn.0;
    let retry = Duration::from_millis(1);
    let Ok((mut log, _)) = open.start_on(report, "test".into(), new_writer, retry, Duration::from_millis(1))
    else {
        return (last, false);
    };
    let full_until = Instant::now() + Duration::from_secs(10);
    let mut n = last + 1;
    while n <= RECORDS {
        match log.append(record(n, size(n))) {
            Ok(lsn) => {
                assert_eq!(lsn, Lsn(n));
                n += 1;
                if let Some(keep) = keep {
                    log.recycle(Lsn(n.saturating_sub(keep)));
                    // So that there is something to give up.
                    while log.durable() < lsn && !log.has_failed() && log.has_room() {
                        std::thread::yield_now();
                    }
                }
            }
            // The log thread did not get its turn yet.
            Err(e) if e.why == AppendRefusal::Full && Instant::now() < full_until => {
                std::thread::sleep(retry)
            }
            Err(e) => {
                assert!(matches!(e.why, AppendRefusal::Failed | AppendRefusal::NoRoom), "{:?}", e.why);
                break;
            }
        }
    }
    let (mut reported, mut failed) = (last, false);
    let deadline = Instant::now() + Duration::from_secs(10);
    while reported < log.next_lsn().0 - 1 && !failed {
        match events.recv_deadline(deadline).expect("an end in time") {
            LogEvent::Persisted(p) => reported = p.upto().0,
            LogEvent::Failed(e) => {
                assert!(e.to_string().contains("stops voting"));
                failed = true;
            }
            LogEvent::Room(_) => {}
        }
    }
    if failed {
        let refused = log.append(record(1, 1)).unwrap_err();
        assert_eq!(refused.why, AppendRefusal::Failed);
    }
    log.stop();
    for event in events.try_iter() {
        match event {
            LogEvent::Persisted(_) => assert!(!failed, "nothing is durable after a failure"),
            LogEvent::Failed(_) => {
                assert!(!std::mem::replace(&mut failed, true), "a failure is reported once")
            }
            LogEvent::Room(_) => {}
        }
    }
    (reported, failed)
}

fn threads() -> NewWriter {
    Box::new(|wake| Ok(Box::new(ThreadsWriter::new(wake))))
}

fn assert_kept(disk: Arc<dyn Disk>, reported: u64, keep: Option<u64>, context: &str) {
    let mut found = Vec::new();
    let open = open_on(disk.clone(), tiny(Path::new("again")), &mut |record| {
        found.push(number_of(&record));
        Ok(())
    });
    let open = open.unwrap_or_else(|e| panic!("{context}: {e}"));
    let (first, last) = (open.report().first_lsn.0, open.report().last_lsn.0);
    drop(open);
    assert_eq!(found, (first..=last).collect::<Vec<_>>(), "{context}");
    assert!(last >= reported, "{context}: {reported} were reported durable, {last} are there");
    // At most what was appended was given up, and the first record that stays is durable.
    assert!(first == 1 || keep.is_some() && first <= last, "{context}: {first} is the first");
    // And it goes on from there.
    let (all, failed) = attempt(disk, threads(), keep);
    assert!(all == RECORDS && !failed, "{context}");
}

#[test]
fn an_error_at_any_call_index_loses_nothing_that_was_reported_durable() {
    for keep in [None, Some(4)] {
        for (errno, times) in [(libc::EIO, 1), (libc::EIO, usize::MAX), (libc::ENOSPC, 1), (libc::ENOSPC, 7)]
        {
            let (mut at, mut failures) = (0, 0);
            loop {
                let disk = Arc::new(MemoryDisk::default());
                format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
                let fault = Fault::new(at, times, errno);
                let failing = FailingDisk::over(disk.clone(), fault.clone());
                let (reported, failed) = attempt(failing, threads(), keep);
                failures += u64::from(failed);
                let context = format!("errno {errno} at {at}, keeping {keep:?}");
                assert_kept(Arc::new(MemoryDisk::new(image_of(&*disk))), reported, keep, &context);
                if fault.calls() <= at {
                    break;
                }
                at += 1;
            }
            assert!(at > 50 && failures > 20, "{at} calls, {failures} failures");
        }
    }
}

#[test]
fn an_error_at_any_completion_of_io_uring_ends_the_log_and_keeps_what_was_reported() {
    for at in 0.. {
        let dir = real_dir();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path().into(), true).unwrap());
        format_on(&*disk, &tiny(Path::new("real"))).unwrap();
        let fault = Fault::new(at, 1, libc::EIO);
        let failing = fault.clone();
        let new_writer: NewWriter =
            Box::new(move |wake| Ok(Box::new(FailingWriter { inner: uring()(wake)?, fault: failing })));
        let (reported, failed) = attempt(disk.clone(), new_writer, None);
        assert_eq!(failed, fault.calls() > at);
        assert_kept(disk, reported, None, &format!("completion {at}"));
        if !failed {
            assert!(at > 10);
            return;
        }
    }
}

#[test]
fn a_failed_format_leaves_nothing_that_looks_like_a_log() {
    for at in 0.. {
        let disk = Arc::new(MemoryDisk::default());
        let fault = Fault::new(at, 1, libc::ENOSPC);
        let failing = FailingDisk::over(disk.clone(), fault.clone());
        let opts = tiny(Path::new("memory"));
        if format_on(&*failing, &opts).is_ok() {
            assert!(at > 5);
            return;
        }
        match open_on(disk, opts, &mut |_| Ok(())) {
            Err(LogError::NotFormatted(_)) => {}
            Err(e) => panic!("call {at}: {e}"),
            // Only what comes after the rename can fail and leave a whole, empty log.
            Ok(open) => assert_eq!(open.report().records, 0),
        }
    }
}

#[test]
fn a_full_disk_ends_room_before_it_ends_the_log_and_room_comes_back() {
    let disk = Arc::new(MemoryDisk::default());
    let opts = tiny(Path::new("memory"));
    format_on(&*disk, &opts).unwrap();
    // Two spares are made, then the disk is full for a hundred tries.
    let disk = FailingDisk::over(disk, Fault::of_creates(2, 100, libc::ENOSPC));
    let open = open_on(disk, opts, &mut |_| Ok(())).unwrap();
    let (to, events) = crossbeam::channel::unbounded();
    let report = Arc::new(move |event| drop(to.send(event)));
    let (retry, later) = (Duration::from_millis(5), Duration::from_secs(60));
    let (mut log, _) = open.start_on(report, "test".into(), threads(), retry, later).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut rooms = Vec::new();
    let (mut n, mut durable, mut refused) = (1, 0, 0);
    while rooms != [false, true] || durable < n - 1 {
        assert!(Instant::now() < deadline, "room comes back in time");
        while let Ok(event) = events.try_recv() {
            match event {
                LogEvent::Room(room) => rooms.push(room),
                LogEvent::Persisted(p) => durable = p.upto().0,
                LogEvent::Failed(e) => panic!("{e}"),
            }
        }
        // Each record durable before the next: what the log takes it can keep.
        if durable == n - 1 && rooms.len() < 2 {
            match log.append(record(n, 3000)) {
                Ok(_) => n += 1,
                Err(e) => {
                    assert!(matches!(e.why, AppendRefusal::NoRoom | AppendRefusal::Full));
                    refused += 1;
                }
            }
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    assert!(refused > 0 && n > 8, "{refused} refused, {n} taken");
    log.append(record(n, 3000)).unwrap();
    log.stop();
}
