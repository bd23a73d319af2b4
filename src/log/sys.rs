//! The few system calls the standard library does not offer.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// One pwritev2; with `dsync` the data is on stable storage when it returns. May write less than asked.
pub(super) fn pwritev2(fd: RawFd, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let flags = if dsync { libc::RWF_DSYNC } else { 0 };
    // SAFETY: the iovec points at `bytes`, which outlives the call and is only read.
    let n = unsafe { libc::pwritev2(fd, &iov, 1, offset as libc::off_t, flags) };
    check(n as i64).map(|n| n as usize)
}

/// Reserves `bytes` of the file, so that a full disk shows before anything is written.
pub(super) fn fallocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: plain integers on an open descriptor.
    check(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) })).map(drop)
}

/// Whether a path lies on a tmpfs or ramfs, where nothing survives a power loss.
pub(super) fn is_memory_fs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain data, for which zero is a value.
    let mut fs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a terminated string and a struct to fill.
    check(i64::from(unsafe { libc::statfs(path.as_ptr(), &mut fs) }))?;
    Ok(matches!(fs.f_type as u32, 0x0102_1994 | 0x8584_58f6))
}

/// Alignment that direct I/O on this file needs (memory, offset), where the kernel tells: from Linux 6.1 on.
pub(super) fn direct_io_alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: statx is plain data, for which zero is a value.
    let mut out: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself; `out` is ours to fill.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &mut out)
    };
    (result == 0 && out.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((out.stx_dio_mem_align, out.stx_dio_offset_align))
}

/// The soft limit on file sizes (RLIMIT_FSIZE): a write beyond it would kill the process by a signal.
pub(super) fn file_bytes_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a struct to fill.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) };
    limit.rlim_cur
}

/// The status flags of an open file (F_GETFL).
#[cfg(test)]
pub(super) fn status_flags(fd: RawFd) -> i32 {
    // SAFETY: plain integers.
    unsafe { libc::fcntl(fd, libc::F_GETFL) }
}

/// A counter in the kernel that one thread adds to and another waits for.
pub(super) struct EventFd(OwnedFd);

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
