//! Crashes at every boundary of a recorded run: what was in flight is on disk or not, torn or whole, in any
//! combination; what was written without durability is gone. Then the log is opened again.
//!
//! Checked after each crash: it opens (a crash is never taken for damage), every record that was reported durable and
//! not given up is there, what is there is a prefix of what was appended, but for what was given up at its beginning; and, for a
//! sample, writing on and crashing again leaves no ghosts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::log_tests::{CLUSTER, REPLICA, assert_is, real_dir, record};
use super::test_disk::{
    Event, ForgetfulDisk, Image, MemoryDisk, Random, RecordingDisk, RecordingWriter, ReorderingWriter, Trace,
    image_of,
};
use super::*;

pub(super) fn tiny(dir: &Path) -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        bytes_max: 8 << 20,
        group_bytes_max: 8 << 10,
        record_bytes_max: 24 << 10,
        queued_bytes_max: 8 << 20,
        ..LogOptions::new(dir, CLUSTER, REPLICA)
    }
}

/// Numbers of records tell the run that wrote them.
const RUN: u64 = 1000;

pub(super) fn size(n: u64) -> usize {
    [20, 3000, 700, 20_000, 0, 9000, 4000, 1, 5000, 300, 6000][(n % 11) as usize]
}

/// One run of the log, recorded.
pub(super) struct Run {
    before: Image,
    /// The first record that survived into it.
    pub first: u64,
    /// Numbers (see [`record`]) of what survived into it.
    pub kept: Vec<u64>,
    pub appended: Vec<u64>,
    pub events: Vec<Event>,
    /// At its end.
    pub stats: LogStats,
}

/// What a run does.
#[derive(Clone)]
pub(super) struct Plan {
    pub opts: LogOptions,
    pub appends: u64,
    pub generation: u64,
    /// Let the trailer come in between.
    pub pause: bool,
    /// Give up all but so many records, now and then.
    pub keep: Option<u64>,
}

impl Plan {
    pub fn new(appends: u64, generation: u64) -> Self {
        Self { opts: tiny(Path::new("recorded")), appends, generation, pause: false, keep: None }
    }
}

pub(super) type MakeWriter = Box<dyn FnOnce(Arc<EventFd>) -> std::io::Result<Box<dyn Writer>> + Send>;

/// Opens what is on `disk`, appends records, waits until all are reported durable; records every operation.
pub(super) fn run(disk: Arc<dyn Disk>, forget: bool, plan: &Plan, writer: MakeWriter) -> Run {
    let before = image_of(&*disk);
    let trace = Trace::default();
    let recording = RecordingDisk::over(disk, trace.clone());
    let disk: Arc<dyn Disk> = if forget { Arc::new(ForgetfulDisk(recording)) } else { recording };
    let mut kept = Vec::new();
    let open = open_on(disk, plan.opts.clone(), &mut |found| {
        kept.push(number_of(&found));
        Ok(())
    })
    .unwrap();
    let first = open.report().first_lsn.0;
    let (to, events) = crossbeam::channel::unbounded();
    let persisted = trace.clone();
    let report = Arc::new(move |event| {
        if let LogEvent::Persisted(p) = &event {
            persisted.push(Event::Persisted(p.upto().0));
        }
        let _ = to.send(event);
    });
    let wrapped = trace.clone();
    let new_writer: NewWriter =
        Box::new(move |wake| Ok(Box::new(RecordingWriter::new(writer(wake)?, wrapped))));
    let trailer_after = Duration::from_millis(5);
    let (mut log, _) =
        open.start_on(report, "test".into(), new_writer, Duration::from_millis(10), trailer_after).unwrap();
    let next = log.next_lsn().0;
    let mut appended = Vec::new();
    for lsn in next..next + plan.appends {
        let n = plan.generation * RUN + lsn;
        log.append(record(n, size(n))).unwrap();
        appended.push(n);
        if plan.pause && n.is_multiple_of(13) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let (Some(keep), true) = (plan.keep, n.is_multiple_of(5)) {
            let below = lsn.saturating_sub(keep);
            trace.push(Event::Promised(below));
            log.recycle(Lsn(below));
            // Now with the next writes in flight meanwhile, now without.
            if n.is_multiple_of(2) {
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    }
    super::log_tests::wait_for(&events, Lsn(next + plan.appends - 1));
    if plan.keep.is_some() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = log.stats();
    log.stop();
    Run { before, first, kept, appended, events: trace.take(), stats }
}

/// Which of our records this is; panics if it is none.
pub(super) fn number_of(found: &ScannedRecord) -> u64 {
    let n = found.seq.0 / 3;
    let whole = ScannedRecord { lsn: Lsn(n), ..found.clone() };
    assert_is(&whole, n, size(n));
    n
}

/// A disk as the events made it: durable bytes, and writes that a crash can lose or tear.
#[derive(Clone)]
struct Crash {
    image: Image,
    /// In flight.
    writes: BTreeMap<usize, (String, usize, Vec<u8>)>,
    /// Complete, but only in the device's volatile cache.
    cached: Vec<(String, usize, Vec<u8>)>,
    /// What names were before the directory was last synced, if that differs.
    unsynced_names: Vec<(String, Option<Vec<u8>>)>,
    reported: u64,
    /// Nothing below it must be left.
    promised: u64,
}

fn put(image: &mut Image, (file, offset, bytes): &(String, usize, Vec<u8>)) {
    // A write to a file that a crash left without its name is gone with it.
    if let Some(file) = image.get_mut(file) {
        file[*offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Crash {
    fn new(run: &Run) -> Self {
        Self {
            image: run.before.clone(),
            writes: BTreeMap::new(),
            cached: Vec::new(),
            unsynced_names: Vec::new(),
            reported: 0,
            promised: run.first,
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Submitted { write, file, offset, bytes } => {
                self.writes.insert(*write, (file.clone(), *offset, bytes.clone()));
            }
            Event::Completed { write, durable } => {
                let done = self.writes.remove(write).unwrap();
                if *durable { put(&mut self.image, &done) } else { self.cached.push(done) }
            }
            Event::Synced { file } => {
                let image = &mut self.image;
                self.cached.retain(|write| {
                    let synced = write.0 == *file;
                    if synced {
                        put(image, write);
                    }
                    !synced
                });
            }
            Event::Made { name, bytes } => {
                self.unsynced_names.push((name.clone(), None));
                self.image.insert(name.clone(), vec![0; *bytes]);
            }
            Event::Renamed { from, to } => {
                assert!(self.writes.values().all(|write| write.0 != *from), "a segment in use stays");
                let bytes = self.image.remove(from).unwrap();
                self.unsynced_names.push((to.clone(), None));
                self.unsynced_names.push((from.clone(), Some(bytes.clone())));
                self.image.insert(to.clone(), bytes);
                for write in &mut self.cached {
                    if write.0 == *from {
                        write.0 = to.clone();
                    }
                }
            }
            Event::Removed { file } => {
                if let Some(bytes) = self.image.remove(file) {
                    self.unsynced_names.push((file.clone(), Some(bytes)));
                }
            }
            Event::DirSynced => self.unsynced_names.clear(),
            Event::Persisted(upto) => self.reported = *upto,
            Event::Promised(below) => self.promised = self.promised.max(*below),
        }
    }

    /// Every image this crash can leave, within the bounds of the test. `torn`: with tears of each write in flight.
    fn each_image(
        &self,
        torn: bool,
        check: &mut dyn FnMut(Image) -> Result<(), String>,
    ) -> Result<(), String> {
        // A name that is not synced is there or not; of a renamed file also both names, or neither.
        let names = self.unsynced_names.len();
        assert!(names <= 4, "names are synced one by one");
        let bases = (0..1usize << names).map(|older| {
            let mut base = self.image.clone();
            for at in (0..names).rev().filter(|at| older & 1 << at != 0) {
                let (name, bytes) = &self.unsynced_names[at];
                match bytes {
                    Some(bytes) => base.insert(name.clone(), bytes.clone()),
                    None => base.remove(name),
                };
            }
            base
        });
        let writes: Vec<_> = self.writes.values().collect();
        for base in bases {
            for subset in 0..1usize << writes.len() {
                let mut image = base.clone();
                (0..writes.len()).filter(|i| subset & 1 << i != 0).for_each(|i| put(&mut image, writes[i]));
                check(image)?;
            }
            if !torn {
                continue;
            }
            for at in 0..writes.len() {
                // The others: all of them there, or none.
                for others in [false, true] {
                    let mut image = base.clone();
                    (0..writes.len()).filter(|i| *i != at && others).for_each(|i| put(&mut image, writes[i]));
                    for tear in tears(writes[at].2.len()) {
                        let mut image = image.clone();
                        let (file, offset, bytes) = writes[at];
                        for sector in (0..bytes.len() / SECTOR).filter(|s| tear(*s)) {
                            let from = sector * SECTOR;
                            put(
                                &mut image,
                                &(file.clone(), offset + from, bytes[from..from + SECTOR].to_vec()),
                            );
                        }
                        check(image)?;
                    }
                }
            }
        }
        Ok(())
    }
}

const SECTOR: usize = 512;

type Tear = Box<dyn Fn(usize) -> bool>;

/// Which sectors of a torn write reach the disk: a beginning, an end, every other one, blocks but one.
fn tears(bytes: usize) -> Vec<Tear> {
    let sectors = bytes / SECTOR;
    let mut tears: Vec<Tear> =
        vec![Box::new(|s| s % 2 == 0), Box::new(|s| s % 2 == 1), Box::new(|s| s / 8 % 2 == 1)];
    for cut in 1..sectors {
        tears.push(Box::new(move |s| s < cut));
        tears.push(Box::new(move |s| s >= cut));
        tears.push(Box::new(move |s| s != cut));
    }
    tears
}

/// Opens an image; what is there must be a prefix of what was written, with all that was reported, and begin with what
/// was not given up or before that. The first record and the records that are there.
fn recover(run: &Run, plan: &Plan, image: Image, crash: &Crash) -> Result<(u64, Vec<u64>), String> {
    let written: Vec<u64> = run.kept.iter().chain(&run.appended).copied().collect();
    let mut found = Vec::new();
    let disk = Arc::new(MemoryDisk::new(image));
    let mut whole = 0;
    let also = read_on(disk.clone(), plan.opts.clone(), true, &mut |record| {
        whole += u64::from(matches!(record, Scanned::Whole(_)));
        Ok(true)
    });
    let also = also.map_err(|e| format!("a crash was taken for rot, or something else: {e}"))?;
    let mut last = Lsn(0);
    let open = open_on(disk, plan.opts.clone(), &mut |record| {
        assert!(last == Lsn(0) || record.lsn == last.next(), "numbers have no gaps");
        last = record.lsn;
        found.push(number_of(&record));
        Ok(())
    })
    .map_err(|e| format!("a crash was taken for something else: {e}"))?;
    let report = open.report();
    if also.report() != report || whole != report.records {
        return Err("a crash was taken for rot".into());
    }
    let (first, last) = (report.first_lsn.0, report.last_lsn.0);
    let durable = crash.reported.max(run.first + run.kept.len() as u64 - 1);
    if last < durable {
        return Err(format!("records are left up to {last}, {durable} were reported durable"));
    }
    if first > crash.promised.max(1) || first < run.first {
        return Err(format!("the first is {first}: up to {} were given up", crash.promised));
    }
    if found.len() as u64 != last + 1 - first {
        return Err(format!("{} records from {first} to {last}", found.len()));
    }
    let from = (first - run.first) as usize;
    if written.get(from..from + found.len()) != Some(&found[..]) {
        return Err("what is left is no prefix of what was written".into());
    }
    Ok((first, found))
}

/// Checks every crash of a run. Every `again`-th state is written on from, and that run is checked in turn.
fn check_crashes(run: &Run, plan: &Plan, again: usize) -> Result<usize, String> {
    let mut crash = Crash::new(run);
    let mut states = 0;
    let mut random = Random(42);
    for event in &run.events {
        crash.step(event);
        let torn = matches!(event, Event::Submitted { .. });
        crash.each_image(torn, &mut |image| {
            states += 1;
            let goes_on = again > 0 && states % again == 0;
            let copy = if goes_on { image.clone() } else { Image::new() };
            let (first, left) = recover(run, plan, image, &crash)?;
            if goes_on {
                let seed = random.next();
                let disk = Arc::new(MemoryDisk::new(copy));
                let appends = 6 + random.below(20) as u64;
                let generation = 2 + run.appended[0] / RUN;
                let plan = Plan { appends, generation, pause: false, ..plan.clone() };
                let next = self::run(disk, false, &plan, reordering(seed));
                if (next.first, &next.kept) != (first, &left) {
                    return Err("a second opening found something else".into());
                }
                states += check_crashes(&next, &plan, 0)?;
            }
            Ok(())
        })?;
    }
    Ok(states)
}

fn reordering(seed: u64) -> MakeWriter {
    Box::new(move |wake| {
        Ok(Box::new(ReorderingWriter {
            wake,
            pending: Vec::new(),
            random: Random(seed | 1),
            in_flight_max: 4,
        }))
    })
}

pub(super) fn uring() -> MakeWriter {
    Box::new(|wake| Ok(Box::new(UringWriter::new(4, wake)?)))
}

pub(super) fn threads() -> MakeWriter {
    Box::new(|wake| Ok(Box::new(ThreadsWriter::new(wake))))
}

fn real_run(writer: MakeWriter, forget: bool) -> Run {
    let dir = real_dir();
    format(&tiny(dir.path())).unwrap();
    let mut disk = RealDisk::new(dir.path().into(), true).unwrap();
    disk.forget_sync = forget;
    run(Arc::new(disk), forget, &Plan { pause: true, ..Plan::new(45, 0) }, writer)
}

/// A stopped log of `records` records in memory, and their numbers.
pub(super) fn memory_log(records: u64) -> (Image, Vec<u64>) {
    let disk = Arc::new(MemoryDisk::default());
    format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
    let run = run(disk.clone(), false, &Plan::new(records, 0), threads());
    (image_of(&*disk), run.appended)
}

/// Opens an image; the numbers of the records in it.
pub(super) fn open_image(image: Image) -> Result<(OpenLog, Vec<u64>), LogError> {
    let mut found = Vec::new();
    let disk = Arc::new(MemoryDisk::new(image));
    let open = open_on(disk, tiny(Path::new("memory")), &mut |record| {
        found.push(number_of(&record));
        Ok(())
    })?;
    Ok((open, found))
}

fn in_flight_max(run: &Run) -> usize {
    let mut flying = 0usize;
    let counts = run.events.iter().map(|event| {
        match event {
            Event::Submitted { .. } => flying += 1,
            Event::Completed { .. } => flying -= 1,
            _ => {}
        }
        flying
    });
    counts.max().unwrap()
}

#[test]
fn no_crash_of_an_io_uring_run_loses_what_was_reported_durable() {
    let run = real_run(uring(), false);
    assert!(in_flight_max(&run) > 1, "several writes were in flight");
    let states = check_crashes(&run, &Plan::new(45, 0), 2500).unwrap();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

#[test]
fn no_crash_of_a_pwritev2_run_loses_what_was_reported_durable() {
    let run = real_run(threads(), false);
    let states = check_crashes(&run, &Plan::new(45, 0), 900).unwrap();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

#[test]
fn no_crash_of_a_reordered_run_loses_what_was_reported_durable() {
    for seed in 1..=2 {
        let disk = Arc::new(MemoryDisk::default());
        format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
        let plan = Plan::new(45, 0);
        let run = run(disk, false, &plan, reordering(seed));
        assert_eq!(in_flight_max(&run), 4);
        let states = check_crashes(&run, &plan, 4000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        println!("{states} states");
        assert!(states > 5000, "{states}");
    }
}

#[test]
fn a_backend_that_forgets_to_sync_is_caught() {
    for writer in [uring(), threads()] {
        let run = real_run(writer, true);
        let caught = check_crashes(&run, &Plan::new(45, 0), 0).unwrap_err();
        assert!(caught.contains("were reported durable"), "{caught}");
    }
}

/// A log whose segments have all been recycled a few times, and its numbers.
pub(super) fn recycling(keep: u64) -> Plan {
    let opts = LogOptions { spare_segments: 1, recycled_segments: 1, ..tiny(Path::new("recycling")) };
    Plan { opts, keep: Some(keep), ..Plan::new(120, 0) }
}

/// Checks a run over recycled segments on `disk`, which begins with an earlier one.
fn check_recycling(disk: Arc<dyn Disk>, keep: u64, writer: &dyn Fn() -> MakeWriter, again: usize) {
    let plan = recycling(keep);
    let before = run(disk.clone(), false, &plan, writer());
    assert!(before.stats.segments_recycled > 3, "{:?}", before.stats.segments_recycled);
    let plan = Plan { appends: 40, generation: 1, ..plan };
    let run = run(disk, false, &plan, writer());
    let renamed = run.events.iter().filter(|event| matches!(event, Event::Renamed { .. })).count();
    assert!(renamed > 0 && run.first > 1, "{renamed} renamed");
    let states = check_crashes(&run, &plan, again).unwrap_or_else(|e| panic!("keeping {keep}: {e}"));
    println!("{states} states, {renamed} renamed");
    assert!(states > 3000, "{states}");
}

#[test]
fn no_crash_while_segments_are_recycled_loses_or_brings_back_anything() {
    for (seed, keep) in [(1, 3), (2, 14), (3, 30), (4, 0)] {
        let disk = Arc::new(MemoryDisk::default());
        format_on(&*disk, &recycling(keep).opts).unwrap();
        check_recycling(disk, keep, &|| reordering(seed), 4000);
    }
}

#[test]
fn no_crash_of_an_io_uring_run_over_recycled_segments_loses_or_brings_back_anything() {
    let dir = real_dir();
    format(&LogOptions { dir: dir.path().into(), ..recycling(9).opts }).unwrap();
    let disk = Arc::new(RealDisk::new(dir.path().into(), true).unwrap());
    check_recycling(disk, 9, &uring, 10_000);
}
