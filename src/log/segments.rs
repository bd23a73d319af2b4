//! Segment files: names, the first one, and a thread that makes zero-filled spares ahead of need.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};

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

/// What the maker reports.
pub(super) enum Made {
    Ready(u64, Arc<dyn DiskFile>),
    /// It failed (disk full); tried again after a while.
    Blocked(io::Error),
}

/// The thread that makes spares, one at a time, in order.
pub(super) struct Maker {
    orders: Option<Sender<(u64, u64)>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    /// `report` is called on the maker's thread.
    pub fn start(
        disk: Arc<dyn Disk>,
        retry: Duration,
        report: impl Fn(Made) + Send + 'static,
    ) -> io::Result<Self> {
        // Bounded by its only user: one order at a time.
        let (orders, receiver) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || make_all(&*disk, &receiver, retry, &stopped, &report);
        let thread = std::thread::Builder::new().name("log-segments".into()).spawn(run)?;
        Ok(Self { orders: Some(orders), stop, thread: Some(thread) })
    }

    /// Where the log thread orders segments: (number, bytes).
    pub fn orders(&self) -> Sender<(u64, u64)> {
        self.orders.clone().expect("the maker runs until it is dropped")
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn make_all(
    disk: &dyn Disk,
    orders: &Receiver<(u64, u64)>,
    retry: Duration,
    stop: &AtomicBool,
    report: &impl Fn(Made),
) {
    while let Ok((number, bytes)) = orders.recv() {
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            match make_segment(disk, number, bytes, None, stop) {
                Ok(file) => {
                    report(Made::Ready(number, file));
                    break;
                }
                Err(_) if stop.load(Ordering::Relaxed) => return,
                Err(e) => report(Made::Blocked(e)),
            }
            // Sleeps until the retry; `Drop` ends it early.
            std::thread::park_timeout(retry);
        }
    }
}
