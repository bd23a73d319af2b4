//! The file operations the log uses, as traits: the real ones here, failing, torn and forgetful ones in the tests.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::layout::BLOCK_BYTES;
use crate::sys;

/// A directory of segment files. Blocking; used from any thread.
pub(crate) trait Disk: Send + Sync {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens for reading and synchronous writing (O_DIRECT | O_DSYNC).
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a new file, or empties it, with room for `bytes`, for writing without synchronisation.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing nothing that matters. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. Offsets, lengths and memory are multiples of the block.
pub(crate) trait DiskFile: Send + Sync {
    /// Its size.
    fn bytes(&self) -> u64;
    /// Fills `buffer` from `offset`.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`; with `dsync` they are durable on return.
    fn write(&self, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<()>;
    /// Makes all earlier writes durable.
    fn sync(&self) -> io::Result<()>;
    /// Gives back the space from `bytes` on. Durable after [`DiskFile::sync`]. Tests' files need none.
    fn cut(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// For io_uring. Tests' files have none (-1).
    fn fd(&self) -> RawFd;
    /// Under which name a recording disk opened it.
    #[cfg(test)]
    fn name(&self) -> String {
        String::new()
    }
}

/// How often an interrupted or refused-for-now operation is tried again.
pub(super) const RETRIES_MAX: u32 = 100;

/// A real directory.
pub(crate) struct RealDisk {
    dir: PathBuf,
    handle: File,
    /// Only a tmpfs on an old kernel goes without.
    direct: bool,
    /// Only for looking: nothing is opened for writing.
    pub read_only: bool,
    /// O_DSYNC left out, which the crash tests must catch.
    #[cfg(test)]
    pub forget_sync: bool,
}

impl RealDisk {
    /// `direct`: with O_DIRECT.
    pub fn new(dir: PathBuf, direct: bool) -> io::Result<Self> {
        let handle = File::open(&dir)?;
        Ok(Self {
            dir,
            handle,
            direct,
            read_only: false,
            #[cfg(test)]
            forget_sync: false,
        })
    }

    fn flags(&self, sync: i32) -> i32 {
        #[cfg(test)]
        let sync = if self.forget_sync { 0 } else { sync };
        sync | if self.direct { libc::O_DIRECT } else { 0 }
    }

    fn file(&self, file: File) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = file.metadata()?.len();
        Ok(Arc::new(RealFile { file, bytes }))
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.dir)?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(!self.read_only).custom_flags(self.flags(libc::O_DSYNC));
        self.file(options.open(self.dir.join(name))?)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.custom_flags(self.flags(0)).open(self.dir.join(name))?;
        match sys::fallocate(&file, bytes) {
            // Only to learn early of a full disk and to get one extent: the zeros are written anyway.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            other => other?,
        }
        self.file(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

struct RealFile {
    file: File,
    bytes: u64,
}

impl DiskFile for RealFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64, dsync: bool) -> io::Result<()> {
        let mut done = 0;
        let mut retries = 0;
        while done < bytes.len() {
            match sys::pwritev2(self.file.as_raw_fd(), &bytes[done..], offset + done as u64, dsync) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // What a short direct write leaves must start at a block: the broken block is written again.
                Ok(n) => {
                    let to = done + n;
                    done = if to < bytes.len() { (to / BLOCK_BYTES * BLOCK_BYTES).max(done) } else { to };
                    if n < BLOCK_BYTES {
                        again(&mut retries, io::ErrorKind::WriteZero.into())?;
                    }
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                    again(&mut retries, e)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn again(retries: &mut u32, error: io::Error) -> io::Result<()> {
    *retries += 1;
    if *retries > RETRIES_MAX { Err(error) } else { Ok(()) }
}
