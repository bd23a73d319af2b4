//! Disks for tests: in memory, failing at the n-th call, and recording every operation so that crashes can be replayed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::segments::UNFINISHED;
use super::storage::{Disk, DiskFile};
use super::sys;
use super::sys::EventFd;
use super::writer::{Done, Write, Writer};

/// All files and their bytes.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// A directory in memory.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<String, Arc<MemoryFile>>>,
    /// Bytes of all files; 0 = no bound.
    capacity: AtomicUsize,
}

struct MemoryFile(Mutex<Vec<u8>>);

impl MemoryDisk {
    pub fn new(image: Image) -> Self {
        let file = |(name, bytes)| (name, Arc::new(MemoryFile(Mutex::new(bytes))));
        Self { files: Mutex::new(image.into_iter().map(file).collect()), capacity: AtomicUsize::new(0) }
    }

    /// No byte is free from now on but those of files that are removed.
    pub fn fill_up(&self) {
        self.capacity.store(self.used(), Ordering::SeqCst);
    }

    /// There is space again.
    pub fn make_space(&self) {
        self.capacity.store(0, Ordering::SeqCst);
    }

    /// All of it at one moment, also while a log runs on it.
    pub fn image(&self) -> Image {
        let files = self.files.lock();
        files.iter().map(|(name, file)| (name.clone(), file.0.lock().clone())).collect()
    }

    fn used(&self) -> usize {
        self.files.lock().values().map(|file| file.0.lock().len()).sum()
    }
}

/// Reads a whole directory.
pub(super) fn image_of(disk: &dyn Disk) -> Image {
    let read = |name: String| {
        let file = disk.open(&name).unwrap();
        let mut bytes = super::buffers::AlignedBuffer::new(file.bytes() as usize);
        file.read(&mut bytes[..file.bytes() as usize], 0).unwrap();
        (name, bytes.to_vec())
    };
    let names = disk.list().unwrap();
    names.into_iter().filter(|name| name.starts_with("segment")).map(read).collect()
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.files.lock().get(name) {
            Some(file) => Ok(file.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        if capacity > 0 && self.used() + bytes as usize > capacity {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let file = Arc::new(MemoryFile(Mutex::new(vec![0; bytes as usize])));
        self.files.lock().insert(name.into(), file.clone());
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        let from = bytes.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64, _: bool) -> io::Result<()> {
        let mut file = self.0.lock();
        let end = offset as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> RawFd {
        -1
    }
}

/// Passes calls on until the n-th, which fails; a failing write leaves half of its bytes behind.
pub(crate) struct FailingDisk {
    inner: Arc<dyn Disk>,
    fault: Arc<Fault>,
}

/// Which call fails, and how.
pub(crate) struct Fault {
    calls: AtomicUsize,
    /// Index of the first call that fails.
    pub at: usize,
    /// How many fail from there on.
    pub times: usize,
    pub errno: i32,
    /// Only calls that make a file count.
    pub creates_only: bool,
}

impl Fault {
    pub fn new(at: usize, times: usize, errno: i32) -> Arc<Self> {
        Arc::new(Self { calls: AtomicUsize::new(0), at, times, errno, creates_only: false })
    }

    pub fn of_creates(at: usize, times: usize, errno: i32) -> Arc<Self> {
        Arc::new(Self { calls: AtomicUsize::new(0), at, times, errno, creates_only: true })
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn check(&self) -> io::Result<()> {
        if self.creates_only { Ok(()) } else { self.count() }
    }

    fn count(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let fails = call >= self.at && call - self.at < self.times;
        if fails { Err(io::Error::from_raw_os_error(self.errno)) } else { Ok(()) }
    }
}

impl FailingDisk {
    pub fn over(inner: Arc<dyn Disk>, fault: Arc<Fault>) -> Arc<dyn Disk> {
        Arc::new(Self { inner, fault })
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FailingFile { inner, fault: self.fault.clone() })
    }
}

impl Disk for FailingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.fault.check()?;
        self.inner.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.fault.check()?;
        Ok(self.file(self.inner.open(name)?))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.fault.count()?;
        Ok(self.file(self.inner.create(name, bytes)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fault.check()?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.fault.check()?;
        self.inner.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.fault.check()?;
        self.inner.sync_dir()
    }
}

struct FailingFile {
    inner: Arc<dyn DiskFile>,
    fault: Arc<Fault>,
}

impl DiskFile for FailingFile {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.fault.check()?;
        self.inner.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<()> {
        if let Err(e) = self.fault.check() {
            self.inner.write(&bytes[..bytes.len() / 2], offset, dsync)?;
            return Err(e);
        }
        self.inner.write(bytes, offset, dsync)
    }

    fn sync(&self) -> io::Result<()> {
        self.fault.check()?;
        self.inner.sync()
    }

    fn fd(&self) -> RawFd {
        self.inner.fd()
    }
}

/// A real or other writer of which the n-th completion is turned into a failure.
pub(super) struct FailingWriter {
    pub inner: Box<dyn Writer>,
    pub fault: Arc<Fault>,
}

impl Writer for FailingWriter {
    fn submit(&mut self, write: Write) {
        self.inner.submit(write);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        self.inner.wait(timeout, done)?;
        for done in done.iter_mut() {
            if let Err(e) = self.fault.check() {
                done.result = Err(e);
            }
        }
        Ok(())
    }

    fn in_flight_max(&self) -> usize {
        self.inner.in_flight_max()
    }
}

/// What happened on a disk, in order.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Submitted {
        write: usize,
        file: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// `durable`: by the flags with which it was written.
    Completed {
        write: usize,
        durable: bool,
    },
    Synced {
        file: String,
    },
    /// A new, zero-filled file.
    Made {
        name: String,
        bytes: usize,
    },
    Renamed {
        from: String,
        to: String,
    },
    Removed {
        file: String,
    },
    DirSynced,
    /// The log reported everything up to here durable.
    Persisted(u64),
    /// What lies below is no longer needed, said the caller.
    Promised(u64),
}

/// A shared list of events.
#[derive(Clone, Default)]
pub(super) struct Trace {
    events: Arc<Mutex<Vec<Event>>>,
    writes: Arc<AtomicUsize>,
}

impl Trace {
    pub fn push(&self, event: Event) {
        self.events.lock().push(event);
    }

    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }

    fn submitted(&self, file: &str, offset: u64, bytes: &[u8]) -> usize {
        let write = self.writes.fetch_add(1, Ordering::SeqCst);
        self.push(Event::Submitted {
            write,
            file: file.into(),
            offset: offset as usize,
            bytes: bytes.to_vec(),
        });
        write
    }
}

/// Records what is done to the disk inside.
pub(super) struct RecordingDisk {
    inner: Arc<dyn Disk>,
    trace: Trace,
    /// Of files that were created and not yet named.
    sizes: Mutex<BTreeMap<String, u64>>,
    /// What all handles of a file know as its name, by its name now.
    names: Mutex<BTreeMap<String, SharedName>>,
}

type SharedName = Arc<Mutex<String>>;

impl RecordingDisk {
    pub fn over(inner: Arc<dyn Disk>, trace: Trace) -> Arc<dyn Disk> {
        Arc::new(Self { inner, trace, sizes: Mutex::default(), names: Mutex::default() })
    }

    fn file(&self, name: &str, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let shared = || Arc::new(Mutex::new(name.to_owned()));
        let name = self.names.lock().entry(name.into()).or_insert_with(shared).clone();
        Arc::new(RecordingFile { name, inner, trace: self.trace.clone() })
    }
}

impl Disk for RecordingDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(name, self.inner.open(name)?))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.sizes.lock().insert(name.into(), bytes);
        Ok(self.file(name, self.inner.create(name, bytes)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let mut names = self.names.lock();
        let name = names.remove(from).expect("only open files are renamed");
        *name.lock() = to.into();
        assert!(names.insert(to.into(), name).is_none(), "nothing is replaced");
        self.trace.push(match self.sizes.lock().remove(from) {
            Some(bytes) if from == UNFINISHED => Event::Made { name: to.into(), bytes: bytes as usize },
            _ => Event::Renamed { from: from.into(), to: to.into() },
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        self.names.lock().remove(name);
        self.trace.push(Event::Removed { file: name.into() });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()?;
        self.trace.push(Event::DirSynced);
        Ok(())
    }
}

struct RecordingFile {
    name: SharedName,
    inner: Arc<dyn DiskFile>,
    trace: Trace,
}

thread_local! {
    /// Set while a [`RecordingWriter`] records: whether its writer asked for a durable write.
    static ASKED: Cell<Option<bool>> = const { Cell::new(None) };
}

fn opened_dsync(fd: RawFd) -> bool {
    fd >= 0 && sys::status_flags(fd) & libc::O_DSYNC == libc::O_DSYNC
}

impl DiskFile for RecordingFile {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<()> {
        if ASKED.get().is_some() {
            ASKED.set(Some(dsync));
            return self.inner.write(bytes, offset, dsync);
        }
        if self.name() == UNFINISHED {
            assert!(bytes.iter().all(|b| *b == 0), "a spare is all zeros");
            return self.inner.write(bytes, offset, dsync);
        }
        let write = self.trace.submitted(&self.name(), offset, bytes);
        self.inner.write(bytes, offset, dsync)?;
        self.trace.push(Event::Completed { write, durable: dsync || opened_dsync(self.fd()) });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()?;
        self.trace.push(Event::Synced { file: self.name() });
        Ok(())
    }

    fn fd(&self) -> RawFd {
        self.inner.fd()
    }

    fn name(&self) -> String {
        self.name.lock().clone()
    }
}

/// Records what a writer has in flight, and with which flags it writes.
pub(super) struct RecordingWriter {
    inner: Box<dyn Writer>,
    trace: Trace,
    /// (write's id, number in the trace, descriptor)
    in_flight: Vec<(u64, usize, RawFd)>,
}

impl RecordingWriter {
    pub fn new(inner: Box<dyn Writer>, trace: Trace) -> Self {
        Self { inner, trace, in_flight: Vec::new() }
    }
}

impl Writer for RecordingWriter {
    fn submit(&mut self, write: Write) {
        let number = self.trace.submitted(&write.file.name(), write.offset, &write.buffer[..write.bytes]);
        self.in_flight.push((write.id, number, write.file.fd()));
        self.inner.submit(write);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let before = done.len();
        ASKED.set(Some(false));
        let result = self.inner.wait(timeout, done);
        let asked = ASKED.replace(None) == Some(true);
        for done in &done[before..] {
            assert!(done.result.is_ok());
            let at = self.in_flight.iter().position(|(id, ..)| *id == done.id).unwrap();
            let (_, write, fd) = self.in_flight.swap_remove(at);
            self.trace.push(Event::Completed { write, durable: asked || opened_dsync(fd) });
        }
        result
    }

    fn in_flight_max(&self) -> usize {
        self.inner.in_flight_max()
    }
}

/// Drops the request for durability from every write.
pub(super) struct ForgetfulDisk(pub Arc<dyn Disk>);

impl Disk for ForgetfulDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(ForgetfulFile(self.0.open(name)?)))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
}

struct ForgetfulFile(Arc<dyn DiskFile>);

impl DiskFile for ForgetfulFile {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64, _: bool) -> io::Result<()> {
        self.0.write(bytes, offset, false)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn fd(&self) -> RawFd {
        self.0.fd()
    }

    fn name(&self) -> String {
        self.0.name()
    }
}

/// Holds writes back and completes them in a seeded random order, several in flight.
pub(super) struct ReorderingWriter {
    pub wake: Arc<EventFd>,
    pub pending: Vec<Write>,
    pub random: Random,
    pub in_flight_max: usize,
}

impl Writer for ReorderingWriter {
    fn submit(&mut self, write: Write) {
        self.pending.push(write);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        if self.pending.is_empty() {
            return self.wake.wait(timeout);
        }
        // Not blocking: more can be submitted first.
        if timeout == Some(Duration::ZERO) && self.pending.len() < self.in_flight_max {
            return Ok(());
        }
        let write = self.pending.swap_remove(self.random.below(self.pending.len()));
        let result = write.file.write(&write.buffer[..write.bytes], write.offset, true);
        done.push(Done { id: write.id, buffer: write.buffer, result });
        Ok(())
    }

    fn in_flight_max(&self) -> usize {
        self.in_flight_max
    }
}

/// xorshift64*: seeded, so that a failing run can be repeated.
#[derive(Clone)]
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
}
