//! The few system calls the standard library does not offer.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// One pwritev2; with `dsync` the data is on stable storage when it returns. May write less than asked.
pub(crate) fn pwritev2(fd: RawFd, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    // SAFETY: the iovec points at `bytes`, which outlives the call and is only read.
    let n = unsafe { libc::pwritev2(fd, &iov, 1, offset as libc::off_t, flags) };
    check(n as i64).map(|n| n as usize)
}

/// Reserves `bytes` of the file, so that a full disk shows before anything is written.
pub(crate) fn fallocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: plain integers on an open descriptor.
    check(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) })).map(drop)
}

/// Whether a path lies on a tmpfs or ramfs, where nothing survives a power loss.
pub(crate) fn is_memory_fs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain data, for which zero is a value.
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string and a struct to fill.
    check(i64::from(unsafe { libc::statfs(path.as_ptr(), &mut fs) }))?;
    Ok(matches!(fs.f_type as u32, 0x0102_1994 | 0x8584_58f6))
}

/// Alignment that direct I/O on this file needs (memory, offset), where the kernel tells: from Linux 6.1 on.
pub(crate) fn direct_io_alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: statx is plain data, for which zero is a value.
    let mut out: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; `out` is ours to fill.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut out)
    };
    (result == 0 && out.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((out.stx_dio_mem_align, out.stx_dio_offset_align))
}

/// This thread comes after all others, at the processor (nice 10) and at the disk (lowest best-effort I/O priority), where the system
/// lets it.
pub(crate) fn step_back() {
    const WHO_PROCESS: libc::c_int = 1;
    const BEST_EFFORT_LAST: libc::c_int = 2 << 13 | 7;
    // SAFETY: plain integers; 0 names the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT_LAST);
    }
}

/// The soft limit on file sizes (RLIMIT_FSIZE): a write beyond it would kill the process by a signal.
pub(crate) fn file_bytes_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a struct to fill.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

/// The status flags of an open file (F_GETFL).
#[cfg(test)]
pub(crate) fn status_flags(fd: RawFd) -> i32 {
    // SAFETY: plain integers.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

/// A counter in the kernel that one thread adds to and another waits for.
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> io::Result<Self> {
        // Blocking: io_uring answers a read of a non-blocking descriptor with EAGAIN instead of waiting.
        // SAFETY: plain integers; the result is checked before it is owned.
        let fd = check(i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }))?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Wakes the waiting thread, or the next one to wait.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes of a local. It can only fail with a counter at its end, and then it is readable.
        unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
    }

    /// Waits for a signal, at most `timeout`, and takes it.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
        let ms = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000).min(1 << 30) as i32);
        // SAFETY: one pollfd of ours.
        match check(i64::from(unsafe { libc::poll(&mut poll, 1, ms) })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Ok(0) => return Ok(()),
            other => other?,
        };
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into a local; it does not block, because only this thread takes from the counter.
        unsafe { libc::read(self.fd(), (&raw mut count).cast(), 8) };
        Ok(())
    }
}

/// What this process has used so far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// User and system time, milliseconds.
    pub cpu_ms: u64,
    /// Resident memory at its highest, bytes.
    pub rss_bytes: u64,
}

/// CPU time and memory of this process.
pub fn usage() -> Usage {
    // SAFETY: rusage is plain data, for which zero is a value.
    let mut r: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a struct to fill; cannot fail for RUSAGE_SELF.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut r) };
    let ms = |t: libc::timeval| t.tv_sec as u64 * 1000 + t.tv_usec as u64 / 1000;
    Usage { cpu_ms: ms(r.ru_utime) + ms(r.ru_stime), rss_bytes: r.ru_maxrss as u64 * 1024 }
}

/// Bytes free for us on the file system of `path`; 0 if it cannot be told.
pub fn free_bytes(path: &Path) -> u64 {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return 0 };
    // SAFETY: statvfs is plain data, for which zero is a value.
    let mut fs: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string and a struct to fill.
    let ok = unsafe { libc::statvfs(path.as_ptr(), &mut fs) } == 0;
    if ok { fs.f_bavail.saturating_mul(fs.f_frsize) } else { 0 }
}

/// Lets the kernel kill the child (SIGKILL) when the *thread* that spawns it ends, however it ends: no replica of a
/// benchmark or a test survives it. Spawn from a thread that lives as long as the child shall.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: plain integers.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended before the call above.
        if std::os::unix::process::parent_id() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only prctl and getppid are called: async-signal-safe, and nothing allocates.
    unsafe { command.pre_exec(prepare) };
}

/// Asks a child to end (SIGTERM). A child that has ended already is no error.
pub fn terminate(child: &Child) -> io::Result<()> {
    // SAFETY: plain integers; a child that was not waited for keeps its pid.
    match unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            e => Err(e),
        },
    }
}

/// Clock ticks per second, the unit of CPU time in `/proc/<pid>/stat`.
pub fn clock_ticks() -> u64 {
    // SAFETY: no arguments but a constant.
    match unsafe { libc::sysconf(libc::_SC_CLK_TCK) } {
        ticks if ticks > 0 => ticks as u64,
        _ => 100,
    }
}
