//! Segment files: names, the first one, and a thread that makes zero-filled spares ahead of need and recycles what
//! left the log.
//!
//! Numbers only rise, and at any time those on disk have no gap: the oldest segments in use, the last one, then spares. A segment
//! leaves at the old end, the oldest first, each step durable before the next: renamed to the number behind the
//! last spare, or removed. A crash finds the log with the old or the new first segment. In a recycled spare the header of its earlier
//! life stays until it is used again: a header of a lower number than the file's name is no header.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::buffers::AlignedBuffer;
use super::layout::{DATA_START, SegmentHeader};
use super::storage::{Disk, DiskFile};

/// A segment in the making; removed at open.
pub(super) const UNFINISHED: &str = "segment.tmp";

pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:08}")
}

pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Makes a zero-filled segment, durable under its final name. With a header if one is given.
/// Errors: `Interrupted` when `stop` is set meanwhile; otherwise the system's (ENOSPC). Nothing half-made stays.
pub(super) fn make_segment(
    disk: &dyn Disk,
    number: u64,
    bytes: u64,
    header: Option<&SegmentHeader>,
    stop: &AtomicBool,
) -> io::Result<Arc<dyn DiskFile>> {
    let fill = || {
        let file = disk.create(UNFINISHED, bytes)?;
        let zeros = AlignedBuffer::new((1 << 20).min(bytes as usize));
        let mut at = 0;
        while at < bytes {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let n = (zeros.len() as u64).min(bytes - at);
            file.write(&zeros[..n as usize], at, false)?;
            at += n;
        }
        if let Some(header) = header {
            let mut both = AlignedBuffer::new(DATA_START);
            header.encode_both(&mut both);
            file.write(&both, 0, false)?;
        }
        // Before the name: a segment that has its name is whole.
        file.sync()?;
        disk.rename(UNFINISHED, &segment_name(number))?;
        disk.sync_dir()
    };
    match fill() {
        Ok(()) => disk.open(&segment_name(number)),
        Err(e) => {
            let _ = disk.remove(UNFINISHED);
            Err(e)
        }
    }
}

/// A segment file numbered behind the last one in use.
pub(super) struct Spare {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    /// Of its next use: 0 = it is zero-filled.
    pub life: u64,
}

/// A segment that left the log: the oldest of those that are there.
pub(super) struct Leaving {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    /// Of the use that ends.
    pub life: u64,
    /// Shared with those who are reading it; new ones no longer find it.
    pub readers: Arc<()>,
}

/// What the log thread asks for, one at a time; only a [`Order::Make`] that was reported blocked may be followed by
/// something else, which then stands in its place.
pub(super) enum Order {
    /// A zero-filled spare of so many bytes.
    Make(u64),
    /// A spare out of this one. Its bytes stay: the salt of its next life tells them from live ones.
    Recycle(Leaving),
    /// Its file's end.
    Remove(Leaving),
}

/// What the maker reports. Everything in it is durable.
pub(super) enum Made {
    Fresh(Spare),
    Recycled(Spare),
    /// So many bytes are free.
    Removed(u64),
    /// It failed (disk full); tried again after a while.
    Blocked(io::Error),
}

/// The thread that makes spares and takes away what left the log, one at a time, in order.
pub(super) struct Maker {
    orders: Option<Sender<Order>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    /// `next`: number of the next spare. `report` is called on the maker's thread.
    pub fn start(
        disk: Arc<dyn Disk>,
        next: u64,
        retry: Duration,
        report: impl Fn(Made) + Send + 'static,
    ) -> io::Result<Self> {
        // Bounded by its only user: one order at a time.
        let (orders, receiver) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work { disk, next, retry, stop: stop.clone(), broken: false };
        let run = move || work.run(&receiver, &report);
        let thread = std::thread::Builder::new().name("log-segments".into()).spawn(run)?;
        Ok(Self { orders: Some(orders), stop, thread: Some(thread) })
    }

    /// Where the log thread orders.
    pub fn orders(&self) -> Sender<Order> {
        self.orders.clone().expect("the maker runs until it is dropped")
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How long a reader may hold up the recycling of what it reads. After that the file is removed: it keeps it open.
const READER_PATIENCE: Duration = Duration::from_secs(1);

struct Work {
    disk: Arc<dyn Disk>,
    next: u64,
    retry: Duration,
    stop: Arc<AtomicBool>,
    /// Names may have changed on disk or not: another change on top of that could leave a gap.
    broken: bool,
}

impl Work {
    fn run(mut self, orders: &Receiver<Order>, report: &impl Fn(Made)) {
        let mut blocked = None;
        loop {
            let next = match blocked.take() {
                None => orders.recv().ok(),
                Some(order) => match orders.recv_timeout(self.retry) {
                    Err(RecvTimeoutError::Timeout) => Some(order),
                    other => other.ok(),
                },
            };
            let Some(order) = next.filter(|_| !self.is_stopped()) else { return };
            match self.carry_out(&order) {
                Ok(made) => report(made),
                Err(_) if self.is_stopped() => return,
                Err(e) => {
                    blocked = Some(order);
                    report(Made::Blocked(e));
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn carry_out(&mut self, order: &Order) -> io::Result<Made> {
        if self.broken {
            return Err(io::Error::other(
                "the directory could not be synced; what is on disk is only known after a restart",
            ));
        }
        match order {
            Order::Make(bytes) => {
                let file = make_segment(&*self.disk, self.next, *bytes, None, &self.stop)?;
                Ok(Made::Fresh(self.spare(file, 0)))
            }
            Order::Recycle(leaving) if self.is_unread(leaving) => self.recycle(leaving),
            Order::Recycle(leaving) | Order::Remove(leaving) => self.remove(leaving),
        }
    }

    fn spare(&mut self, file: Arc<dyn DiskFile>, life: u64) -> Spare {
        self.next += 1;
        Spare { number: self.next - 1, file, life }
    }

    /// Waits until nobody reads it, for a while.
    fn is_unread(&self, leaving: &Leaving) -> bool {
        let until = Instant::now() + READER_PATIENCE;
        while Arc::strong_count(&leaving.readers) > 1 {
            if self.is_stopped() || Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// A new name and no more: this needs no space. The old header in it says another number, so it is a spare.
    fn recycle(&mut self, leaving: &Leaving) -> io::Result<Made> {
        match self.disk.rename(&segment_name(leaving.number), &segment_name(self.next)) {
            // The directory has no room for the longer list: then let it become shorter.
            Err(e) if is_full(&e) => return self.remove(leaving),
            other => other?,
        }
        self.sync_names()?;
        Ok(Made::Recycled(self.spare(leaving.file.clone(), leaving.life + 1)))
    }

    fn remove(&mut self, leaving: &Leaving) -> io::Result<Made> {
        self.disk.remove(&segment_name(leaving.number))?;
        self.sync_names()?;
        Ok(Made::Removed(leaving.file.bytes()))
    }

    /// Before the next change, so that a crash never finds the later one without the earlier one.
    fn sync_names(&mut self) -> io::Result<()> {
        self.disk.sync_dir().inspect_err(|_| self.broken = true)
    }
}

/// Whether an error says that there is no space.
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
