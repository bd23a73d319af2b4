//! A descriptor that is readable from a ring until it is silenced: what foreign event loops watch.

use super::status::*;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

/// An eventfd that blocks nobody.
pub(super) struct Bell(File);

impl Bell {
    pub fn new() -> Result<Self, Failure> {
        // SAFETY: no pointers; the descriptor is nobody else's.
        unsafe {
            match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
                -1 => Err(Failure::io("eventfd", &Error::last_os_error())),
                fd => Ok(Self(File::from_raw_fd(fd))),
            }
        }
    }

    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Readable from now on.
    pub fn ring(&self) {
        // It can only fail with a counter at its end, and then it is readable.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Not readable until the next ring.
    pub fn silence(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}
