//! Records of which only the payload rotted, anywhere in a finished log.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::crash_tests::{memory_log, open_image, size, tiny};
use super::layout::HEADER_BYTES;
use super::log_tests::{assert_is, real_dir, record, small, start, wait_for};
use super::test_disk::{Image, MemoryDisk};
use super::*;

/// Where a record of the caller lies.
#[derive(Clone, Debug)]
struct At {
    lsn: u64,
    file: String,
    offset: usize,
    payload_bytes: usize,
}

/// All records of the caller in an intact log, and up to where headers behind them say that they were durable.
fn places(image: &Image) -> (Vec<At>, u64) {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(image.clone()));
    let (mut found, mut known) = (Vec::new(), 0);
    let mut note = |header: &RecordHeader, _, place: Place| {
        known = known.max(header.durable_lsn.0);
        if !header.is_own() {
            let (file, offset) = (segment_name(place.segment), place.offset as usize);
            found.push(At { lsn: header.lsn.0, file, offset, payload_bytes: header.payload_bytes as usize });
        }
        Ok(())
    };
    scan::scan(&disk, Path::new("memory"), None, false, false, &Progress::default(), &mut note).unwrap();
    assert!(known > 40);
    (found, known)
}

/// What opening gives that can do without payloads: whole and damaged records by their numbers.
fn open_repairing(image: Image) -> Result<(RecoveryReport, Vec<u64>, Vec<u64>), LogError> {
    let (mut whole, mut damaged) = (Vec::new(), Vec::new());
    let disk = Arc::new(MemoryDisk::new(image));
    let open = read_on(disk, tiny(Path::new("memory")), true, &mut |found| {
        match found {
            Scanned::Whole(r) => {
                assert_is(&r, r.lsn.0, size(r.lsn.0));
                whole.push(r.lsn.0);
            }
            Scanned::Damaged(DamagedRecord { record: r, .. }) => {
                let as_written = record(r.lsn.0, size(r.lsn.0));
                assert_eq!((r.kind, r.seq, r.view, r.digest), {
                    let Record { kind, seq, view, digest, .. } = as_written;
                    (kind, seq, view, digest)
                });
                assert_eq!(r.payload.len(), size(r.lsn.0));
                damaged.push(r.lsn.0);
            }
        }
        Ok(true)
    })?;
    Ok((open.report().clone(), whole, damaged))
}

fn flip(image: &mut Image, at: &At, byte: usize) {
    image.get_mut(&at.file).unwrap()[at.offset + byte] ^= 0x10;
}

#[test]
fn a_rotten_payload_anywhere_leaves_its_header_and_all_other_records() {
    let (image, records) = memory_log(60);
    let (last, mut repaired) = (records.len() as u64, 0);
    let (all, known) = places(&image);
    for at in all.iter().filter(|at| at.payload_bytes > 0) {
        let inside = at.payload_bytes;
        for byte in [0, inside / 2, inside - 1] {
            let mut damaged = image.clone();
            flip(&mut damaged, at, HEADER_BYTES + byte);
            match (open_repairing(damaged.clone()), open_image(damaged)) {
                // Nothing behind it says that it was durable: for all that is known, a crash tore it.
                (Ok((_, whole, none)), Ok((_, left))) => {
                    assert!(none.is_empty() && whole == left && at.lsn > known, "{at:?}");
                }
                (Ok((report, whole, gone)), Err(LogError::Damaged { lsn, .. })) => {
                    assert!(at.lsn <= known);
                    assert_eq!((gone, report.damaged, lsn.0), (vec![at.lsn], 1, at.lsn - 1));
                    assert_eq!(
                        (whole.len() as u64, report.last_lsn.0, report.records),
                        (last - 1, last, last)
                    );
                    repaired += 1;
                }
                (repairing, strict) => panic!("{at:?}: {:?} {:?}", repairing.err(), strict.err()),
            }
        }
    }
    assert!(repaired > 120, "{repaired}");
}

#[test]
fn a_rotten_header_is_refused_as_ever() {
    let (image, _) = memory_log(60);
    let (all, known) = places(&image);
    let mut refused = 0;
    for at in all {
        for byte in (0..HEADER_BYTES).step_by(3) {
            let mut damaged = image.clone();
            flip(&mut damaged, &at, byte);
            match (open_repairing(damaged.clone()), open_image(damaged)) {
                (Err(LogError::Damaged { .. }), Err(LogError::Damaged { .. })) => refused += 1,
                (Ok((_, whole, gone)), Ok((_, left))) => {
                    assert!(gone.is_empty() && whole == left && at.lsn > known, "{at:?} {byte}");
                }
                (Err(LogError::OtherFormat { .. }), Err(LogError::OtherFormat { .. })) => refused += 1,
                (repairing, strict) => panic!("{at:?} {byte}: {:?} {:?}", repairing.err(), strict.err()),
            }
        }
    }
    assert!(refused > 2000, "{refused}");
}

#[test]
fn many_rotten_payloads_are_told_one_by_one_also_in_a_row() {
    let (image, records) = memory_log(60);
    let (at, known) = places(&image);
    let last = records.len() as u64;
    for skip in [1, 2, 3, 7] {
        let mut damaged = image.clone();
        let hit: Vec<&At> =
            at.iter().filter(|at| at.payload_bytes > 0 && at.lsn % skip == 0 && at.lsn <= known).collect();
        hit.iter().for_each(|at| flip(&mut damaged, at, HEADER_BYTES));
        let (report, whole, gone) = open_repairing(damaged).unwrap();
        assert_eq!(gone, hit.iter().map(|at| at.lsn).collect::<Vec<_>>());
        assert_eq!((whole.len() + gone.len(), report.last_lsn.0), (records.len(), last));
    }
}

#[test]
fn a_rotten_payload_before_a_rotten_header_is_not_believed() {
    let (image, _) = memory_log(60);
    let (at, _) = places(&image);
    for pair in at.windows(2).filter(|pair| pair[0].payload_bytes > 0 && pair[1].lsn < 40) {
        let mut damaged = image.clone();
        flip(&mut damaged, &pair[0], HEADER_BYTES);
        flip(&mut damaged, &pair[1], 20);
        let Err(LogError::Damaged { lsn, .. }) = open_repairing(damaged) else { panic!("{pair:?}") };
        assert!(lsn.0 < pair[1].lsn, "{pair:?}");
    }
}

#[test]
fn who_cannot_do_without_a_payload_gets_the_refusal_of_ever() {
    let (image, _) = memory_log(60);
    let at = places(&image).0[20].clone();
    let mut damaged = image;
    flip(&mut damaged, &at, HEADER_BYTES);
    let disk = Arc::new(MemoryDisk::new(damaged));
    let whole_only = &mut |found: Scanned| Ok(matches!(found, Scanned::Whole(_)));
    match read_on(disk, tiny(Path::new("memory")), true, whole_only) {
        Err(LogError::Damaged { lsn, offset, why: Damage::BelowDurable(durable), .. }) => {
            assert_eq!((lsn.next(), offset, durable), (Lsn(at.lsn), at.offset as u64, Lsn(at.lsn)));
        }
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("it is opened"),
    }
}

#[test]
fn what_a_torn_group_left_in_the_block_of_the_tail_is_not_taken_for_rot_by_what_is_durable_later() {
    let disk = Arc::new(MemoryDisk::default());
    format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
    let opened = |disk: &Arc<MemoryDisk>, of: &dyn Fn(u64) -> usize, left: &mut Vec<u64>| {
        let open = read_on(disk.clone(), tiny(Path::new("memory")), true, &mut |found| {
            let Scanned::Whole(r) = found else { panic!("a torn record is none that rotted") };
            assert_is(&r, r.lsn.0, of(r.lsn.0));
            left.push(r.lsn.0);
            Ok(true)
        });
        open.unwrap()
    };
    // Three small records in one group, so in one block. The one in the middle holds more than a sector.
    let old = |n| if n == 8 { 1800 } else { 100 };
    let mut left = Vec::new();
    let (mut log, _, events) = start(opened(&disk, &old, &mut left));
    (1..=6).for_each(|n| _ = log.append(record(n, old(n))).unwrap());
    wait_for(&events, Lsn(6));
    let group = (7..=9).map(|n| record(n, old(n))).collect();
    log.append_all(group, false).unwrap_or_else(|_| panic!("there is room"));
    wait_for(&events, Lsn(9));
    let image = disk.image();
    log.stop();
    let name = segment_name(1);
    let bytes = &image[&name];
    // A header ends with the digest.
    let at = bytes.windows(32).position(|w| *w == [8; 32]).expect("record 8") + 32;
    for sector in (at.next_multiple_of(512)..at + 1800 - 511).step_by(512) {
        let mut torn = image.clone();
        torn.get_mut(&name).unwrap()[sector..sector + 512].fill(0);
        for more in 1..=5 {
            let disk = Arc::new(MemoryDisk::new(torn.clone()));
            let new = |n| if n < 8 { 100 } else { 300 };
            let mut left = Vec::new();
            let open = opened(&disk, &new, &mut left);
            assert_eq!((open.report().last_lsn, left.len()), (Lsn(7), 7));
            let (mut log, _, events) = start(open);
            for n in 8..8 + more {
                log.append(record(n, new(n))).unwrap();
                wait_for(&events, Lsn(n));
            }
            // Killed before the log is idle for long.
            let killed = Arc::new(MemoryDisk::new(disk.image()));
            log.stop();
            let mut left = Vec::new();
            let open = opened(&killed, &new, &mut left);
            assert_eq!((open.report().damaged, left), (0, (1..8 + more).collect::<Vec<_>>()));
        }
    }
}

#[test]
fn a_log_with_a_rotten_record_goes_on_and_nobody_is_served_it() {
    let dir = real_dir();
    let opts = small(dir.path(), IoBackend::Threads);
    format(&opts).unwrap();
    let (mut log, _, events) = start(open(opts.clone(), &mut |_| Ok(())).unwrap());
    (1..=40).for_each(|n| _ = log.append(record(n, 3000)).unwrap());
    wait_for(&events, Lsn(40));
    std::thread::sleep(Duration::from_millis(50));
    log.stop();
    let mut rotten = None;
    inspect(dir.path(), &mut |at| {
        if at.record.lsn == Lsn(17) {
            rotten = Some((segment_name(at.segment), at.offset));
        }
        Ok(())
    })
    .unwrap();
    let (name, offset) = rotten.unwrap();
    let file = File::options().read(true).write(true).open(dir.path().join(name)).unwrap();
    file.write_all_at(b"rotten", offset + (HEADER_BYTES + 1000) as u64).unwrap();
    for run in 0..3u64 {
        let mut damaged = Vec::new();
        let open = open_damaged(opts.clone(), &mut |found| {
            match found {
                Scanned::Whole(r) => assert_is(&r, r.lsn.0, 3000),
                Scanned::Damaged(DamagedRecord { record: r, .. }) => damaged.push(r.lsn.0),
            }
            Ok(true)
        });
        let open = open.unwrap();
        let last = 40 + 5 * run;
        assert_eq!((damaged, open.report().last_lsn.0, open.report().torn_bytes), (vec![17], last, 0));
        let (mut log, reader, events) = start(open);
        (last + 1..=last + 5).for_each(|n| _ = log.append(record(n, 3000)).unwrap());
        wait_for(&events, Lsn(last + 5));
        for lsn in 1..=last + 5 {
            match reader.read(Lsn(lsn)) {
                Ok(found) => assert_is(&found, lsn, 3000),
                Err(e) => assert!(matches!(e, LogError::Damaged { .. }) && lsn == 17, "{lsn}: {e}"),
            }
        }
        assert!(reader.read(Lsn(17)).is_err());
        std::thread::sleep(Duration::from_millis(50));
        log.stop();
    }
    assert!(matches!(open(opts, &mut |_| Ok(())).err(), Some(LogError::Damaged { .. })));
}
