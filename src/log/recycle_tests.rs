//! Segments that leave the log: what stays readable, what their second life looks like, and how much disk is in use.

use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::crash_tests::{Plan, number_of, recycling, run, size, threads, tiny};
use super::log_tests::{assert_is, collect, real_dir, record, small, start, wait_for};
use super::storage::DiskFile;
use super::test_disk::{FailingDisk, Fault, Image, MemoryDisk, Random, image_of};
use super::*;

type Events = crossbeam::channel::Receiver<LogEvent>;

/// Starts what is on `disk`; the numbers of the records that are there, from the first lsn on.
fn start_memory(disk: Arc<dyn Disk>, opts: &LogOptions) -> (Log, LogReader, Events, Lsn, Vec<u64>) {
    let mut found = Vec::new();
    let open = open_on(disk, opts.clone(), &mut |record| {
        found.push(number_of(&record));
        Ok(())
    })
    .unwrap();
    let first = open.report().first_lsn;
    let (to, events) = crossbeam::channel::unbounded();
    let report = Arc::new(move |event| drop(to.send(event)));
    let new_writer: NewWriter = Box::new(|wake| Ok(Box::new(ThreadsWriter::new(wake))));
    let (retry, later) = (Duration::from_millis(2), Duration::from_secs(60));
    let (log, reader) = open.start_on(report, "test".into(), new_writer, retry, later).unwrap();
    (log, reader, events, first, found)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Appends records `from..=to` and waits until they are durable.
fn append_to(log: &mut Log, events: &Events, to: u64) {
    for n in log.next_lsn().0..=to {
        until("room comes", || log.append(record(n, size(n))).is_ok());
    }
    wait_for(events, Lsn(to));
}

/// Whether all that left the log is gone or a spare.
fn is_tidy(log: &Log, opts: &LogOptions) -> bool {
    let stats = log.stats();
    stats.files_bytes == opts.segment_bytes * (stats.segments + stats.spare_segments) as u64
}

fn segments_on(disk: &dyn Disk) -> Vec<u64> {
    let mut numbers: Vec<u64> = disk.list().unwrap().iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn records_given_up_are_gone_and_all_others_stay() {
    let disk = Arc::new(MemoryDisk::default());
    let opts = recycling(0).opts;
    format_on(&*disk, &opts).unwrap();
    let (mut log, reader, events, ..) = start_memory(disk.clone(), &opts);
    append_to(&mut log, &events, 60);
    assert_eq!((log.first_lsn(), reader.first_lsn(), log.stats().first_lsn), (Lsn(1), Lsn(1), Lsn(1)));
    let in_use = log.stats().segments;
    assert!(in_use > 3);
    log.recycle(Lsn(30));
    until("segments leave", || log.first_lsn() > Lsn(1));
    let first = log.first_lsn();
    assert!(first <= Lsn(30) && first > Lsn(15), "{first}");
    log.recycle(Lsn(5));
    append_to(&mut log, &events, 61);
    assert_eq!(reader.first_lsn(), first, "a lower bound changes nothing");
    for n in 1..=61 {
        match reader.read(Lsn(n)) {
            Ok(found) => assert!(n >= first.0 && number_of(&found) == n),
            Err(LogError::NotThere(lsn)) => assert!(n < first.0 && lsn == Lsn(n)),
            Err(e) => panic!("{e}"),
        }
    }
    // Everything may go, but the one in use stays, with a durable record in it.
    log.recycle(Lsn(1000));
    until("one segment is in use", || log.stats().segments == 1);
    assert!(log.first_lsn() <= Lsn(61));
    until("files go", || is_tidy(&log, &opts) && log.stats().spare_segments > 0);
    let stats = log.stats();
    assert!(stats.segments_recycled + stats.segments_removed >= in_use as u64 - 1);
    assert_eq!(stats.files_bytes, segments_on(&*disk).len() as u64 * opts.segment_bytes);
    assert!(segments_on(&*disk).len() <= 3, "in use, and two spares");
    let first = log.first_lsn();
    log.stop();
    let (_log, _, _, found_first, found) = start_memory(disk, &opts);
    assert_eq!((found_first, &found[..]), (first, &(first.0..=61).collect::<Vec<_>>()[..]));
}

#[test]
fn a_segment_leaves_only_when_the_next_one_holds_a_durable_record() {
    let disk = Arc::new(MemoryDisk::default());
    let opts = recycling(0).opts;
    format_on(&*disk, &opts).unwrap();
    let (mut log, _, events, ..) = start_memory(disk.clone(), &opts);
    log.recycle(Lsn(u64::MAX));
    for n in 1..=40 {
        append_to(&mut log, &events, n);
        let first = log.first_lsn();
        assert!(first <= Lsn(n));
        let (_, found) = super::crash_tests::open_image(disk.image()).unwrap();
        assert_eq!(found.last(), Some(&n), "whatever moment");
    }
    assert!(log.first_lsn() > Lsn(20), "once said, it holds for segments to come");
    let epoch = collect_epoch(disk.image());
    log.stop();
    assert_eq!(collect_epoch(disk.image()), epoch);
    assert_eq!(epoch, 1, "the number of starts outlives the segment in which it was written");
}

fn collect_epoch(image: Image) -> u32 {
    super::crash_tests::open_image(image).unwrap().0.report().boot_epoch
}

/// Reads wait while it is held.
struct StallingDisk {
    inner: Arc<dyn Disk>,
    gate: Arc<Mutex<()>>,
}

struct StallingFile {
    inner: Arc<dyn DiskFile>,
    gate: Arc<Mutex<()>>,
}

impl Disk for StallingDisk {
    fn list(&self) -> std::io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str) -> std::io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(StallingFile { inner: self.inner.open(name)?, gate: self.gate.clone() }))
    }

    fn create(&self, name: &str, bytes: u64) -> std::io::Result<Arc<dyn DiskFile>> {
        self.inner.create(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> std::io::Result<()> {
        self.inner.sync_dir()
    }
}

impl DiskFile for StallingFile {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        drop(self.gate.lock());
        self.inner.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64, dsync: bool) -> std::io::Result<()> {
        self.inner.write(bytes, offset, dsync)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.inner.sync()
    }

    fn fd(&self) -> std::os::fd::RawFd {
        -1
    }
}

#[test]
fn a_segment_is_not_used_again_while_it_is_read() {
    // The second one reads for longer than it is waited for: its file goes, and it keeps reading.
    for stall in [Duration::from_millis(100), Duration::from_millis(1500)] {
        let memory = Arc::new(MemoryDisk::default());
        let gate = Arc::new(Mutex::new(()));
        let disk = Arc::new(StallingDisk { inner: memory.clone(), gate: gate.clone() });
        let opts = recycling(0).opts;
        format_on(&*disk, &opts).unwrap();
        let (mut log, reader, events, ..) = start_memory(disk, &opts);
        append_to(&mut log, &events, 20);
        until("a spare", || log.stats().spare_segments == 1);
        let held = gate.lock();
        let reading = std::thread::spawn(move || reader.read(Lsn(2)));
        until("it reads", || log.shared.index.is_read(Lsn(2)));
        let start = Instant::now();
        let second = log.shared.index.segments.read()[1].first_lsn;
        log.recycle(second);
        until("it leaves the index", || log.first_lsn() > Lsn(1));
        // Appending goes on meanwhile.
        append_to(&mut log, &events, 24);
        std::thread::sleep(stall.saturating_sub(start.elapsed()));
        let gone = !segments_on(&*memory).contains(&1);
        let waited = start.elapsed();
        drop(held);
        assert!(if gone { waited >= Duration::from_secs(1) } else { waited <= Duration::from_millis(1500) });
        assert_is(&reading.join().unwrap().unwrap(), 2, size(2));
        until("it is gone", || !segments_on(&*memory).contains(&1));
        until("it is counted", || log.stats().segments_recycled + log.stats().segments_removed == 1);
        assert!(log.stats().segments_removed == 1 || !gone, "its place was not taken");
    }
}

#[test]
fn recycling_and_starting_need_no_free_byte() {
    let disk = Arc::new(MemoryDisk::default());
    let opts = recycling(0).opts;
    format_on(&*disk, &opts).unwrap();
    let (mut log, _, events, ..) = start_memory(disk.clone(), &opts);
    // One by one: how many segments there are does not depend on how records were grouped.
    (1..=60).for_each(|n| append_to(&mut log, &events, n));
    until("a spare", || log.stats().spare_segments == 1);
    disk.fill_up();
    let files = segments_on(&*disk).len();
    for n in 61..=600 {
        append_to(&mut log, &events, n);
        log.recycle(Lsn(n.saturating_sub(4)));
    }
    assert!(log.stats().segments_recycled > 20, "{}", log.stats().segments_recycled);
    assert!(segments_on(&*disk).len() <= files);
    log.stop();
    disk.fill_up();
    let used = segments_on(&*disk).len();
    // More than there are: a warning, no refusal.
    let opts = LogOptions { prefill_segments: used + 3, ..opts };
    let (mut log, _, events, first, found) = start_memory(disk.clone(), &opts);
    assert_eq!(found, (first.0..=600).collect::<Vec<_>>());
    for n in 601..=700 {
        append_to(&mut log, &events, n);
        log.recycle(Lsn(n.saturating_sub(4)));
    }
    log.stop();
    assert_eq!(segments_on(&*disk).len(), used);
}

#[test]
fn a_full_disk_without_a_spare_starts_while_the_last_segment_has_room() {
    let disk = Arc::new(MemoryDisk::default());
    let opts = tiny(Path::new("memory"));
    format_on(&*disk, &opts).unwrap();
    disk.fill_up();
    let opts = LogOptions { prefill_segments: 2, ..opts };
    let mut starts = 0;
    // Each start takes a block, until the segment is full.
    let full = loop {
        let open = open_on(disk.clone(), opts.clone(), &mut |_| Ok(())).unwrap();
        let report = Arc::new(|_| {});
        let new_writer: NewWriter = Box::new(|wake| Ok(Box::new(ThreadsWriter::new(wake))));
        match open.start_on(report, "test".into(), new_writer, RETRY_SEGMENT, RETRY_SEGMENT) {
            Ok((log, _)) => log.stop(),
            Err(e) => break e,
        }
        starts += 1;
    };
    assert!(matches!(full, LogError::Full(_)), "{full}");
    assert_eq!(starts, opts.segment_bytes as usize / BLOCK_BYTES - 2);
}

#[test]
fn the_probes_of_a_start_need_no_free_byte() {
    let dir = real_dir();
    format(&small(dir.path(), IoBackend::Auto)).unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::new(dir.path().into(), true).unwrap());
    let full = FailingDisk::over(real.clone(), Fault::of_creates(0, usize::MAX, libc::ENOSPC));
    assert_eq!(check::probe_uring(&*full), check::probe_uring(&*real));
}

/// Where a record lies: segment, from, to, and whether it is the caller's.
type Placed = (u64, usize, usize, bool);

/// A stopped log of recycled segments, where its records lie, and their numbers.
fn recycled_log() -> (Image, Plan, Vec<Placed>, Vec<u64>) {
    let disk = Arc::new(MemoryDisk::default());
    let mut plan = recycling(20);
    plan.opts.recycled_segments = 20;
    format_on(&*disk, &plan.opts).unwrap();
    let (mut log, _, events, ..) = start_memory(disk.clone(), &plan.opts);
    append_to(&mut log, &events, 60);
    until("a spare", || log.stats().spare_segments == 1);
    // From here on there are no fresh ones.
    disk.fill_up();
    for n in (63..=240).step_by(3) {
        // First: how full the segment in use is depends on how records were grouped.
        log.recycle(Lsn(n - 23));
        append_to(&mut log, &events, n);
    }
    log.recycle(Lsn(220));
    until("what left is a spare", || is_tidy(&log, &plan.opts) && log.stats().spare_segments > 0);
    log.stop();
    let image = disk.image();
    let (mut places, mut numbers) = (Vec::new(), Vec::new());
    let disk: Arc<dyn Disk> = disk;
    let scan = scan::scan(
        &disk,
        Path::new("memory"),
        None,
        false,
        false,
        &Progress::default(),
        &mut |header, payload, place| {
            let (Payload::Whole(payload) | Payload::Rotten(payload)) = payload;
            let from = place.offset as usize;
            places.push((place.segment, from, from + 112 + header.payload_bytes as usize, !header.is_own()));
            if !header.is_own() {
                numbers.push(number_of(&reader::scanned(header, payload)));
            }
            Ok(())
        },
    )
    .unwrap();
    assert!(scan.header.life > 0 && scan.first_lsn > Lsn(1));
    assert!(scan.spares.iter().any(|spare| spare.life > 0), "a spare that was recycled");
    (image, plan, places, numbers)
}

fn open_recycled(image: Image, plan: &Plan) -> Result<Vec<u64>, LogError> {
    let mut found = Vec::new();
    open_on(Arc::new(MemoryDisk::new(image)), plan.opts.clone(), &mut |record| {
        found.push(number_of(&record));
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn damage_in_a_recycled_segment_is_seen_where_it_lives_and_nowhere_else() {
    let (image, plan, places, numbers) = recycled_log();
    let (mut live, mut stale) = (0, 0);
    let last = places[places.len() - 1].0;
    for (name, bytes) in &image {
        let number = segment_number(name).unwrap();
        if number > last && SegmentHeader::decode(bytes).is_err() {
            // Fresh: there even a stray bit counts as a record whose header is lost.
            continue;
        }
        for at in (0..bytes.len()).step_by(61) {
            let mut damaged = image.clone();
            damaged.get_mut(name).unwrap()[at] ^= 0x10;
            let hit = places.iter().find(|(s, from, to, _)| *s == number && (*from..*to).contains(&at));
            match (open_recycled(damaged, &plan), hit) {
                (Err(LogError::Damaged { .. }), Some(_)) => live += 1,
                (Ok(found), None) => {
                    assert_eq!(found, numbers, "{name} {at}");
                    stale += 1;
                }
                // The log's own last record.
                (Ok(found), Some((.., false))) => assert_eq!(found, numbers, "{name} {at}"),
                (Ok(_), Some(_)) => panic!("{name} {at}: damage was not seen"),
                (Err(e), None) => panic!("{name} {at}: {e}"),
                (Err(e), _) => panic!("{name} {at}: {e}"),
            }
        }
    }
    assert!(live > 500 && stale > 500, "{live} live, {stale} stale");
}

#[test]
fn a_recycled_log_with_a_gap_or_without_its_headers_is_damaged() {
    let (image, plan, places, numbers) = recycled_log();
    let (first, last) = (places[0].0, places[places.len() - 1].0);
    assert!(last > first + 1);
    for number in first..=last {
        let mut gap = image.clone();
        gap.remove(&segment_name(number)).unwrap();
        match open_recycled(gap, &plan) {
            Err(LogError::Damaged { why: Damage::SegmentMissing(n), .. }) => assert_eq!(n, number),
            Ok(found) => assert!(number == first && numbers.ends_with(&found) && !found.is_empty()),
            Err(e) => panic!("{e}"),
        }
        // Both copies: zeros, noise, or what they were before the segment was used.
        for fill in [Some(0), Some(0x5a), None] {
            let mut lost = image.clone();
            let bytes = lost.get_mut(&segment_name(number)).unwrap();
            match fill {
                Some(byte) => bytes[..DATA_START].fill(byte),
                None => {
                    let mut old = SegmentHeader::decode_both(bytes, number).unwrap();
                    (old.number, old.life, old.salt) = (number - 3, old.life.saturating_sub(1), old.salt ^ 1);
                    old.encode_both(bytes);
                }
            }
            match open_recycled(lost, &plan) {
                Err(LogError::Damaged { why: Damage::SegmentHeader, .. }) => {}
                other => panic!("segment {number}, {fill:?}: {other:?}"),
            }
        }
    }
    // All in use are gone, spares are there.
    let mut none = image.clone();
    (first..=last).for_each(|number| drop(none.remove(&segment_name(number))));
    assert!(matches!(open_recycled(none, &plan), Err(LogError::Damaged { .. })));
    // Spares' headers do not matter.
    let spare = segment_name(last + 1);
    for fill in [0, 0x5a] {
        let mut lost = image.clone();
        lost.get_mut(&spare).unwrap()[..DATA_START].fill(fill);
        assert_eq!(open_recycled(lost, &plan).unwrap(), numbers);
    }
}

#[test]
fn the_first_record_of_a_recycled_log_is_known_durable() {
    let (image, plan, places, _) = recycled_log();
    let (first, at, ..) = places[0];
    let mut cut = image;
    cut.retain(|name, _| segment_number(name) == Some(first));
    let bytes = cut.get_mut(&segment_name(first)).unwrap();
    bytes[at..].fill(0);
    match open_recycled(cut, &plan) {
        Err(LogError::Damaged { why: Damage::BelowDurable(_), .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_header_copy_lost_in_the_segment_in_use_is_written_again() {
    let (image, plan, places, numbers) = recycled_log();
    let last = segment_name(places[places.len() - 1].0);
    for copy in [0, BLOCK_BYTES] {
        let mut image = image.clone();
        image.get_mut(&last).unwrap()[copy + 40] ^= 1;
        let disk = Arc::new(MemoryDisk::new(image));
        run(disk.clone(), false, &Plan { appends: 1, generation: 1, keep: None, ..plan.clone() }, threads());
        let after = image_of(&*disk);
        assert_eq!(after[&last][..BLOCK_BYTES], after[&last][BLOCK_BYTES..DATA_START]);
        assert!(open_recycled(after, &plan).unwrap().starts_with(&numbers));
    }
}

#[test]
fn random_appends_recycles_and_starts_agree_with_a_model() {
    for seed in 1..=12 {
        let mut random = Random(seed * 0x9e37_79b9);
        let disk = Arc::new(MemoryDisk::default());
        let opts = LogOptions {
            spare_segments: 1 + random.below(2),
            recycled_segments: random.below(3),
            ..tiny(Path::new("model"))
        };
        format_on(&*disk, &opts).unwrap();
        // What may be gone at most, and the first record at least.
        let (mut given_up, mut first, mut last) = (1, Lsn(1), 0);
        let mut recycled = 0;
        for start in 0..12 {
            let context = format!("seed {seed}, start {start}");
            let (mut log, reader, events, found_first, found) = start_memory(disk.clone(), &opts);
            assert!(found_first >= first && found_first.0 <= given_up, "{context}");
            assert_eq!(found, (found_first.0..=last).collect::<Vec<_>>(), "{context}");
            first = found_first;
            for _ in 0..random.below(12) {
                match random.below(3) {
                    0 => {
                        let below = random.below(last as usize + 3) as u64;
                        given_up = given_up.max(below);
                        log.recycle(Lsn(below));
                    }
                    1 => {
                        last += 1 + random.below(20) as u64;
                        append_to(&mut log, &events, last);
                    }
                    _ if last > 0 => {
                        let lsn = 1 + random.below(last as usize) as u64;
                        match reader.read(Lsn(lsn)) {
                            Ok(record) => assert_eq!(number_of(&record), lsn, "{context}"),
                            Err(LogError::NotThere(_)) => assert!(lsn < given_up, "{context}"),
                            Err(e) => panic!("{context}: {e}"),
                        }
                    }
                    _ => {}
                }
            }
            if random.below(2) == 0 {
                until("what left is gone", || {
                    let spares = opts.spare_segments..=opts.spare_segments + opts.recycled_segments;
                    is_tidy(&log, &opts) && spares.contains(&log.stats().spare_segments)
                });
            }
            let stats = log.stats();
            recycled += stats.segments_recycled;
            log.stop();
        }
        println!("seed {seed}: {last} records, {recycled} segments recycled");
    }
}

#[test]
fn fifty_segments_of_records_take_the_space_of_a_few() {
    for io in [IoBackend::Uring, IoBackend::Threads] {
        let dir = real_dir();
        let opts = LogOptions { spare_segments: 1, recycled_segments: 2, ..small(dir.path(), io) };
        format(&opts).unwrap();
        let (mut log, _, events) = start(collect(&opts).unwrap().0);
        let per_segment = opts.segment_bytes / (16 << 10);
        let (mut most, mut n) = (0, 0);
        for _ in 0..50 {
            for _ in 0..per_segment {
                n += 1;
                until("it is taken", || log.append(record(n, 15_000)).is_ok());
            }
            wait_for(&events, Lsn(n));
            log.recycle(Lsn(n.saturating_sub(per_segment)));
            until("what left is gone", || is_tidy(&log, &opts) && log.stats().segments <= 3);
            let segments = std::fs::read_dir(dir.path()).unwrap().flatten();
            let bytes: Vec<u64> = segments
                .filter(|f| segment_number(&f.file_name().to_string_lossy()).is_some())
                .flat_map(|f| f.metadata().map(|m| m.len()))
                .collect();
            most = most.max(bytes.iter().sum());
            assert!(bytes.len() <= 3 + 3, "{} files", bytes.len());
        }
        assert!(most <= 6 * opts.segment_bytes, "{most}");
        let stats = log.stats();
        assert!(stats.segments_recycled >= 40, "{} recycled", stats.segments_recycled);
        log.stop();
        let (open, records) = collect(&opts).unwrap();
        let first = open.report().first_lsn.0;
        assert!(first > 1 && records.len() as u64 == n + 1 - first);
        records.iter().zip(first..).for_each(|(record, n)| assert_is(record, n, 15_000));
    }
}
