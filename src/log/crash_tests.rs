//! Crashes at every boundary of a recorded run: what was in flight is on disk or not, torn or whole, in any
//! combination; what was written without durability is gone. Then the log is opened again.
//!
//! Checked after each crash: it opens (a crash is never taken for damage), every record that was reported durable is
//! there, what is there is a prefix of what was appended; and, for a sample, writing on and crashing again leaves
//! no ghosts.

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
struct Run {
    before: Image,
    /// Numbers (see [`record`]) of what survived into it.
    kept: Vec<u64>,
    appended: Vec<u64>,
    events: Vec<Event>,
}

pub(super) type MakeWriter = Box<dyn FnOnce(Arc<EventFd>) -> std::io::Result<Box<dyn Writer>> + Send>;

/// Opens what is on `disk`, appends `appends` records, waits until all are reported durable; records every operation.
/// `pause`: let the trailer come in between.
fn run(
    disk: Arc<dyn Disk>,
    forget: bool,
    appends: u64,
    generation: u64,
    writer: MakeWriter,
    pause: bool,
) -> Run {
    let before = image_of(&*disk);
    let trace = Trace::default();
    let recording = RecordingDisk::over(disk, trace.clone());
    let disk: Arc<dyn Disk> = if forget { Arc::new(ForgetfulDisk(recording)) } else { recording };
    let opts = tiny(Path::new("recorded"));
    let mut run = Run { before, kept: Vec::new(), appended: Vec::new(), events: Vec::new() };
    let open = open_on(disk, opts, &mut |found| {
        run.kept.push(number_of(&found));
        Ok(())
    })
    .unwrap();
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
    let first = log.next_lsn().0;
    for n in first..first + appends {
        let n = generation * RUN + n;
        log.append(record(n, size(n))).unwrap();
        run.appended.push(n);
        if pause && n.is_multiple_of(13) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    super::log_tests::wait_for(&events, Lsn(first + appends - 1));
    log.stop();
    run.events = trace.take();
    run
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
            Event::Renamed { to, bytes } => {
                self.unsynced_names.push((to.clone(), None));
                self.image.insert(to.clone(), vec![0; *bytes]);
            }
            Event::Removed { file } => {
                if let Some(bytes) = self.image.remove(file) {
                    self.unsynced_names.push((file.clone(), Some(bytes)));
                }
            }
            Event::DirSynced => self.unsynced_names.clear(),
            Event::Persisted(upto) => self.reported = *upto,
        }
    }

    /// Every image this crash can leave, within the bounds of the test. `torn`: with tears of each write in flight.
    fn each_image(
        &self,
        torn: bool,
        check: &mut dyn FnMut(Image) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut bases = vec![self.image.clone()];
        if !self.unsynced_names.is_empty() {
            let mut older = self.image.clone();
            for (name, bytes) in self.unsynced_names.iter().rev() {
                match bytes {
                    Some(bytes) => older.insert(name.clone(), bytes.clone()),
                    None => older.remove(name),
                };
            }
            bases.push(older);
        }
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

/// Opens an image; what is there must be a prefix of what was written, with all that was reported.
fn recover(run: &Run, image: Image, reported: u64) -> Result<(OpenLog, usize), String> {
    let written: Vec<u64> = run.kept.iter().chain(&run.appended).copied().collect();
    let mut found = Vec::new();
    let disk = Arc::new(MemoryDisk::new(image));
    let open = open_on(disk, tiny(Path::new("crashed")), &mut |record| {
        assert_eq!(record.lsn.0 as usize, found.len() + 1, "numbers have no gaps");
        found.push(number_of(&record));
        Ok(())
    })
    .map_err(|e| format!("a crash was taken for something else: {e}"))?;
    if found.len() < reported.max(run.kept.len() as u64) as usize {
        return Err(format!("{} records are left, {reported} were reported durable", found.len()));
    }
    if found[..] != written[..found.len().min(written.len())] {
        return Err("what is left is no prefix of what was written".into());
    }
    Ok((open, found.len()))
}

/// Checks every crash of a run. Every `again`-th state is written on from, and that run is checked in turn.
fn check_crashes(run: &Run, again: usize) -> Result<usize, String> {
    let mut crash = Crash::new(run);
    let mut states = 0;
    let mut random = Random(42);
    for event in &run.events {
        crash.step(event);
        let torn = matches!(event, Event::Submitted { .. });
        let reported = crash.reported;
        crash.each_image(torn, &mut |image| {
            states += 1;
            let goes_on = again > 0 && states % again == 0;
            let copy = if goes_on { image.clone() } else { Image::new() };
            let (_, left) = recover(run, image, reported)?;
            if goes_on {
                let generation = 2 + run.appended[0] / RUN;
                let seed = random.next();
                let disk = Arc::new(MemoryDisk::new(copy));
                let appends = 6 + random.below(20) as u64;
                let next = self::run(disk, false, appends, generation, reordering(seed), false);
                if next.kept.len() != left {
                    return Err("a second opening found something else".into());
                }
                states += check_crashes(&next, 0)?;
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

fn threads() -> MakeWriter {
    Box::new(|wake| Ok(Box::new(ThreadsWriter::new(wake))))
}

fn real_run(writer: MakeWriter, forget: bool) -> Run {
    let dir = real_dir();
    format(&tiny(dir.path())).unwrap();
    let mut disk = RealDisk::new(dir.path().into(), true).unwrap();
    disk.forget_sync = forget;
    run(Arc::new(disk), forget, 45, 0, writer, true)
}

/// A stopped log of `records` records in memory, and their numbers.
pub(super) fn memory_log(records: u64) -> (Image, Vec<u64>) {
    let disk = Arc::new(MemoryDisk::default());
    format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
    let run = run(disk.clone(), false, records, 0, threads(), false);
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
    let states = check_crashes(&run, 2500).unwrap();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

#[test]
fn no_crash_of_a_pwritev2_run_loses_what_was_reported_durable() {
    let run = real_run(threads(), false);
    let states = check_crashes(&run, 900).unwrap();
    println!("{states} states");
    assert!(states > 1000, "{states}");
}

#[test]
fn no_crash_of_a_reordered_run_loses_what_was_reported_durable() {
    for seed in 1..=2 {
        let disk = Arc::new(MemoryDisk::default());
        format_on(&*disk, &tiny(Path::new("memory"))).unwrap();
        let run = run(disk, false, 45, 0, reordering(seed), false);
        assert_eq!(in_flight_max(&run), 4);
        let states = check_crashes(&run, 4000).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        println!("{states} states");
        assert!(states > 5000, "{states}");
    }
}

#[test]
fn a_backend_that_forgets_to_sync_is_caught() {
    for writer in [uring(), threads()] {
        let run = real_run(writer, true);
        let caught = check_crashes(&run, 0).unwrap_err();
        assert!(caught.contains("were reported durable"), "{caught}");
    }
}
