//! Emulated devices: every write really happens, and then counts as ended when the emulated device would have ended it.
//!
//! The two devices are those of the durability paper (Dura-SMaRt, ATC'13), from its text:
//!
//! | device | one synchronous 4 kB write | from | streaming | from |
//! |---|---|---|---|---|
//! | 15,000 rpm SCSI disk | 15.8 ms | 63 naively logged operations/s (Table 1) | 157 MB/s | 4 MB written in 29.5 ms and 1 MB in 10.4 ms (§5: 135.6 and 96.1 MB/s): 3 MB more take 19.1 ms |
//! | SATA SSD | 0.95 ms | 1017 operations/s | 131 MB/s | 130.7 and 128.3 MB/s: 30.6 and 7.8 ms |
//!
//! A device has one arm: writes are served one after another. One that is submitted while another is being served follows it
//! without a gap, in time and in position, and needs no new positioning: only the first write after a pause takes the latency.

use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::writer::{Done, Write, Writer};

/// What a device would take. Logs that share one share its arm.
#[derive(Debug)]
pub struct Device {
    name: &'static str,
    latency: Duration,
    bytes_per_second: u64,
    /// When the arm has served everything so far.
    free_at: Mutex<Option<Instant>>,
}

impl Device {
    /// The paper's disk.
    pub fn paper_disk() -> Arc<Self> {
        Self::new("the paper's disk", Duration::from_micros(15_800), 157_000_000)
    }

    /// The paper's SSD.
    pub fn paper_ssd() -> Arc<Self> {
        Self::new("the paper's SSD", Duration::from_micros(950), 131_000_000)
    }

    pub(crate) fn new(name: &'static str, latency: Duration, bytes_per_second: u64) -> Arc<Self> {
        Arc::new(Self { name, latency, bytes_per_second, free_at: Mutex::new(None) })
    }

    /// Answers nothing for so long from now, and then everything at once.
    #[cfg(test)]
    pub(crate) fn stuck(time: Duration) -> Arc<Self> {
        let device = Self::new("a stuck disk", Duration::ZERO, 1 << 40);
        *device.free_at.lock() = Some(Instant::now() + time);
        device
    }

    /// In every output beside figures taken with it.
    pub fn label(&self) -> String {
        let (latency, rate) = (self.latency.as_micros(), self.bytes_per_second / 1_000_000);
        format!("EMULATED DEVICE: {}, {latency} us per write, {rate} MB/s", self.name)
    }

    /// When a write of so many bytes that begins now ends.
    pub(super) fn serve(&self, now: Instant, bytes: usize) -> Instant {
        let transfer = Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second);
        let mut free_at = self.free_at.lock();
        let begins = match *free_at {
            Some(busy_until) if busy_until > now => busy_until,
            _ => now + self.latency,
        };
        *free_at.insert(begins + transfer)
    }
}

/// A completed write that the emulated device is still at. Ordered so that the heap gives the earliest.
struct Held {
    due: Instant,
    done: Done,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

/// A writer behind an emulated device.
pub(super) struct EmulatedWriter {
    inner: Box<dyn Writer>,
    device: Arc<Device>,
    /// When each write in flight ends, by its id.
    due: Vec<(u64, Instant)>,
    held: BinaryHeap<Held>,
    ended: Vec<Done>,
}

impl EmulatedWriter {
    pub fn new(inner: Box<dyn Writer>, device: Arc<Device>) -> Self {
        Self { inner, device, due: Vec::new(), held: BinaryHeap::new(), ended: Vec::new() }
    }
}

impl Writer for EmulatedWriter {
    fn submit(&mut self, write: Write) {
        self.due.push((write.id, self.device.serve(Instant::now(), write.bytes)));
        self.inner.submit(write);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let next = self.held.peek().map(|held| held.due.saturating_duration_since(Instant::now()));
        let wait = match (timeout, next) {
            (Some(timeout), Some(next)) => Some(timeout.min(next)),
            (timeout, next) => timeout.or(next),
        };
        if next != Some(Duration::ZERO) {
            self.inner.wait(wait, &mut self.ended)?;
        }
        for ended in self.ended.drain(..) {
            let at = self.due.iter().position(|(id, _)| *id == ended.id).expect("only submitted writes end");
            let (_, due) = self.due.swap_remove(at);
            self.held.push(Held { due, done: ended });
        }
        let now = Instant::now();
        while self.held.peek().is_some_and(|held| held.due <= now) {
            done.extend(self.held.pop().map(|held| held.done));
        }
        Ok(())
    }

    fn in_flight_max(&self) -> usize {
        self.inner.in_flight_max()
    }
}
