//! What this disk can do: probes before a log is opened, and figures for `disk-check`.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::buffers::AlignedBuffer;
use super::error::LogError;
use super::layout::BLOCK_BYTES;
use super::segments::{UNFINISHED, is_full, segment_number};
use super::storage::{Disk, RealDisk};
use super::writer;
use crate::sys;

/// Synchronous writes of one size.
#[derive(Clone, Debug)]
pub struct DiskSpeed {
    /// Bytes per write.
    pub bytes: usize,
    /// Writes measured.
    pub writes: u64,
    /// Median, nanoseconds.
    pub write_ns_p50: u64,
    /// 99th percentile, nanoseconds.
    pub write_ns_p99: u64,
    /// One write at a time.
    pub bytes_per_second: u64,
}

/// What `disk-check` shows.
#[derive(Clone, Debug)]
pub struct DiskReport {
    /// In the order of the sizes asked for.
    pub speeds: Vec<DiskSpeed>,
    /// `Err` says why io_uring cannot be used.
    pub uring: Result<(), String>,
    /// On a file system in memory: the figures say nothing about a disk.
    pub memory_fs: bool,
}

const FILE: &str = "disk-check.tmp";
const FILE_BYTES: usize = 32 << 20;
const TIME_PER_SIZE: Duration = Duration::from_millis(500);

/// Bytes per write that `disk-check` measures.
pub const DISK_CHECK_SIZES: &[usize] = &[4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// Measures synchronous writes into a zero-filled file in `dir`, one at a time, about half a second per size.
/// `sizes`: multiples of 4 KiB up to 1 MiB, such as [`DISK_CHECK_SIZES`].
/// Errors: a full, missing or read-only directory, no direct I/O.
pub fn disk_check(dir: &Path, sizes: &[usize]) -> Result<DiskReport, LogError> {
    let io = |what| move |e| LogError::io(dir, what, e);
    let memory_fs = sys::is_memory_fs(dir).map_err(io("statfs"))?;
    let problem = direct_io_problem(dir)?;
    let direct = match problem {
        Some(problem) if !memory_fs => return Err(problem),
        other => other.is_none(),
    };
    let disk = RealDisk::new(dir.into(), direct).map_err(io("open"))?;
    let uring = probe_uring(&disk);
    let speeds = measure(&disk, sizes);
    let _ = disk.remove(FILE);
    Ok(DiskReport { speeds: speeds.map_err(io("write"))?, uring, memory_fs })
}

fn measure(disk: &RealDisk, sizes: &[usize]) -> std::io::Result<Vec<DiskSpeed>> {
    let file = disk.create(FILE, FILE_BYTES as u64)?;
    let mut buffer = AlignedBuffer::new(1 << 20);
    for at in (0..FILE_BYTES).step_by(buffer.len()) {
        file.write(&buffer, at as u64, false)?;
    }
    file.sync()?;
    let file = disk.open(FILE)?;
    buffer.fill(0x5a);
    let speed = |bytes: usize| {
        let bounds = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3);
        let mut write_ns = bounds.expect("the bounds are valid");
        let start = Instant::now();
        let mut at = 0;
        while start.elapsed() < TIME_PER_SIZE {
            let before = Instant::now();
            file.write(&buffer[..bytes], at as u64, true)?;
            write_ns.saturating_record(before.elapsed().as_nanos() as u64);
            at = (at + bytes) % FILE_BYTES;
        }
        let writes = write_ns.len();
        Ok(DiskSpeed {
            bytes,
            writes,
            write_ns_p50: write_ns.value_at_quantile(0.5),
            write_ns_p99: write_ns.value_at_quantile(0.99),
            bytes_per_second: ((writes * bytes as u64) as f64 / start.elapsed().as_secs_f64()) as u64,
        })
    };
    sizes.iter().copied().map(speed).collect()
}

/// Why direct I/O cannot be done in `dir`, if it cannot.
pub(super) fn direct_io_problem(dir: &Path) -> Result<Option<LogError>, LogError> {
    let path = dir.join("probe.tmp");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_DIRECT);
    let opened = match options.open(&path) {
        // A log that is there can be opened on a full disk: ask one of its own files.
        Err(e) if is_full(&e) => match any_segment(dir) {
            Some(segment) => OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(segment),
            None => Err(e),
        },
        other => other,
    };
    let problem = match opened {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Some(LogError::NoDirectIo(dir.into())),
        Err(e) => return Err(LogError::io(dir, "create a file", e)),
        Ok(file) => sys::direct_io_alignment(&file)
            .map(|(memory, offset)| memory.max(offset))
            .filter(|needed| *needed == 0 || !(BLOCK_BYTES as u32).is_multiple_of(*needed))
            .map(|needed| match needed {
                0 => LogError::NoDirectIo(dir.into()),
                _ => LogError::Alignment { dir: dir.into(), needed },
            }),
    };
    let _ = std::fs::remove_file(&path);
    Ok(problem)
}

fn any_segment(dir: &Path) -> Option<PathBuf> {
    let mut entries = std::fs::read_dir(dir).ok()?.flatten();
    let segment = entries.find(|entry| segment_number(&entry.file_name().to_string_lossy()).is_some())?;
    Some(segment.path())
}

/// Tries io_uring on a file of its own, on a full disk without. Errors: one line, why not.
pub(super) fn probe_uring(disk: &dyn Disk) -> Result<(), String> {
    let probe = || match disk.create(UNFINISHED, BLOCK_BYTES as u64) {
        Err(e) if is_full(&e) => Ok(None),
        other => other.and_then(|_| disk.open(UNFINISHED).map(Some)),
    };
    let result = probe().map_err(|e| e.to_string()).and_then(writer::probe);
    let _ = disk.remove(UNFINISHED);
    result
}
