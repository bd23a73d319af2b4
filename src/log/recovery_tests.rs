//! The decision table in all combinations; damage anywhere in a finished log; mutated bytes.

use std::path::Path;

use super::crash_tests::{memory_log, open_image, tiny};
use super::layout::{FORMAT, NotAHeader};
use super::recovery::{Findings, Verdict, judge};
use super::segments::segment_name;
use super::test_disk::{Image, Random};
use super::*;
use crate::types::{ClusterId, ReplicaId};

#[test]
fn the_table_answers_every_combination_and_cuts_only_what_cannot_be_durable() {
    let limit = 100;
    for suffix_bytes in [0, 1, limit, limit + 1] {
        for durable in [0, 9, 10, 11] {
            for header_lost in [false, true] {
                for missing in [None, Some(4)] {
                    let last = Lsn(10);
                    let durable = Lsn(durable);
                    let found = Findings {
                        last,
                        durable,
                        suffix_bytes,
                        in_flight_bytes: limit,
                        header_lost,
                        missing,
                    };
                    let harmless =
                        missing.is_none() && !header_lost && durable <= last && suffix_bytes <= limit;
                    match judge(&found) {
                        Verdict::Clean => assert!(harmless && suffix_bytes == 0, "{found:?}"),
                        Verdict::Torn { bytes } => {
                            assert!(harmless && bytes > 0 && bytes == suffix_bytes, "{found:?}");
                        }
                        Verdict::Damaged(why) => {
                            assert!(!harmless, "{found:?}");
                            let named = match why {
                                Damage::SegmentMissing(number) => missing == Some(number),
                                Damage::SegmentHeader => header_lost,
                                Damage::BelowDurable(lsn) => lsn == durable && durable > last,
                                Damage::TooLong { bytes, .. } => bytes > limit,
                            };
                            assert!(named, "{found:?}: {why}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_changed_byte_in_a_finished_log_never_costs_a_record_silently() {
    let (image, records) = memory_log(60);
    let mut refused = 0;
    for (name, bytes) in &image {
        for at in (0..bytes.len()).step_by(97) {
            let mut damaged = image.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x10;
            match open_image(damaged) {
                Ok((_, found)) => assert_eq!(found, records, "{name} {at}"),
                Err(LogError::Damaged { .. }) => refused += 1,
                Err(e) => panic!("{name} {at}: {e}"),
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn one_copy_of_a_segment_header_is_enough_and_none_is_refused() {
    let (image, records) = memory_log(60);
    for number in 1..=3 {
        for copies in [[true, false], [false, true], [true, true]] {
            let mut damaged = image.clone();
            let bytes = damaged.get_mut(&segment_name(number)).unwrap();
            for copy in [0, 1] {
                if copies[copy] {
                    bytes[copy * BLOCK_BYTES..(copy + 1) * BLOCK_BYTES].fill(0);
                }
            }
            match open_image(damaged) {
                Ok((_, found)) => assert!(copies != [true, true] && found == records),
                Err(LogError::Damaged { why: Damage::SegmentHeader, .. }) => assert_eq!(copies, [true, true]),
                Err(e) => panic!("{e}"),
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named_and_nothing_is_changed() {
    let (image, _) = memory_log(60);
    let segments = image.len() as u64;
    assert!(segments > 4);
    for number in 1..segments {
        let mut damaged = image.clone();
        damaged.remove(&segment_name(number));
        match open_on(Arc::new(test_disk::MemoryDisk::new(damaged)), tiny(Path::new("memory")), &mut |_| {
            Ok(())
        }) {
            Err(LogError::Damaged { why: Damage::SegmentMissing(n), .. }) => assert_eq!(n, number),
            // A whole beginning that is gone looks like a recycled one: the caller sees the first lsn.
            Ok(open) => assert!(number == 1 && open.report().first_lsn > Lsn(1)),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn another_owner_or_format_is_told_from_damage() {
    let (image, _) = memory_log(3);
    let open = |image: Image, opts: LogOptions| {
        open_on(Arc::new(test_disk::MemoryDisk::new(image)), opts, &mut |_| Ok(())).err().unwrap()
    };
    let opts = tiny(Path::new("memory"));
    let other = LogOptions { cluster: ClusterId([1; 16]), ..opts.clone() };
    assert!(matches!(open(image.clone(), other), LogError::WrongCluster { .. }));
    let other = LogOptions { replica: ReplicaId(9), ..opts.clone() };
    assert!(matches!(open(image.clone(), other), LogError::WrongReplica { .. }));
    let mut newer = image;
    for bytes in newer.values_mut() {
        for copy in [0, BLOCK_BYTES] {
            if bytes[copy] != 0 {
                bytes[copy + 8] = FORMAT + 1;
                let crc = crc32c::crc32c(&bytes[copy..copy + 108]);
                bytes[copy + 108..copy + 112].copy_from_slice(&crc.to_le_bytes());
            }
        }
    }
    assert!(
        matches!(open(newer, opts), LogError::OtherFormat { found, .. } if found == u32::from(FORMAT) + 1)
    );
}

#[test]
fn no_mutation_makes_the_parser_panic_or_invent_records() {
    let (image, records) = memory_log(40);
    let mut random = Random(0x5eed);
    for round in 0..2000 {
        let mut mutated = image.clone();
        for _ in 0..=random.below(4) {
            let name = segment_name(1 + random.below(3) as u64);
            let bytes = mutated.get_mut(&name).unwrap();
            let (from, to) = (random.below(bytes.len()), random.below(bytes.len()));
            let n = random.below(5000).min(bytes.len() - from.max(to));
            match random.below(3) {
                0 => bytes.copy_within(from..from + n, to),
                1 => bytes[from..from + n].fill(random.next() as u8),
                _ => bytes[from] = random.next() as u8,
            }
        }
        if let Ok((_, found)) = open_image(mutated) {
            assert!(records.starts_with(&found), "round {round}");
        }
    }
    for _ in 0..20_000 {
        let mut header = [0u8; 112];
        header.iter_mut().for_each(|b| *b = random.next() as u8);
        header[..4].copy_from_slice(b"DuRe");
        assert_eq!(RecordHeader::decode(&header), Err(NotAHeader::Bad));
    }
}

#[test]
fn headers_survive_a_round_trip() {
    let header = RecordHeader {
        kind: 9,
        payload_bytes: 77,
        payload_crc: 5,
        lsn: Lsn(1 << 40),
        seq: Seq(3),
        view: View(4),
        durable_lsn: Lsn(2),
        salt: u64::MAX,
        boot_epoch: 6,
        chain: [1; 16],
        digest: Digest([2; 32]),
    };
    assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
    let mut too_large = RecordHeader { payload_bytes: u32::MAX, ..header }.encode();
    assert_eq!(RecordHeader::decode(&too_large), Err(NotAHeader::Bad));
    too_large.fill(0);
    assert_eq!(RecordHeader::decode(&too_large), Err(NotAHeader::Zero));
}

#[test]
fn a_record_of_another_history_salt_or_epoch_is_not_taken_up() {
    let (image, records) = memory_log(3);
    let (open, _) = open_image(image.clone()).unwrap();
    let (end, tail) = (&open.scan.end, open.scan.tail as usize);
    let right = RecordHeader {
        kind: 1,
        payload_bytes: 0,
        payload_crc: 0,
        lsn: end.lsn.next(),
        seq: Seq(4 * 3),
        view: View(0),
        durable_lsn: end.lsn,
        salt: end.salt,
        boot_epoch: end.boot_epoch,
        chain: end.chain,
        digest: Digest([4; 32]),
    };
    let taken = |header: RecordHeader| {
        let mut image = image.clone();
        let bytes = image.get_mut(&segment_name(end.segment)).unwrap();
        bytes[tail..tail + 112].copy_from_slice(&header.encode());
        let mut found = 0;
        let disk = Arc::new(test_disk::MemoryDisk::new(image));
        let opened = open_on(disk, tiny(Path::new("memory")), &mut |_| {
            found += 1;
            Ok(())
        });
        assert!(opened.is_ok());
        found > records.len()
    };
    assert!(taken(right));
    assert!(!taken(RecordHeader { chain: [9; 16], ..right }));
    assert!(!taken(RecordHeader { salt: right.salt ^ 1, ..right }));
    assert!(!taken(RecordHeader { boot_epoch: right.boot_epoch - 1, ..right }));
    assert!(
        !taken(RecordHeader { boot_epoch: right.boot_epoch + 1, ..right }),
        "a new epoch starts with a boot record"
    );
    assert!(!taken(RecordHeader { lsn: right.lsn.next(), ..right }));
}
