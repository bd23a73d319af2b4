//! Where received states lie: a directory, or what stands for one in the simulator.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A directory of files.
pub trait Shelf {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens one for reading.
    fn open(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>>;
    /// Makes a new one, or empties it.
    fn create(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>>;
    /// Gives one another name, in place of what had it. Durable on return.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes one.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// An open file. Used from any thread.
pub trait ShelfFile: Send + Sync {
    /// Its size.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `out` from `at` on.
    fn read(&self, out: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes all of `bytes` at `at`.
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    fn sync(&self) -> io::Result<()>;
}

impl<P: AsRef<Path> + ?Sized> Shelf for P {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>> {
        Ok(Arc::new(File::open(self.as_ref().join(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>> {
        let path = self.as_ref().join(name);
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let dir = self.as_ref();
        std::fs::rename(dir.join(from), dir.join(to))?;
        File::open(dir)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.as_ref().join(name))
    }
}

impl ShelfFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(out, at)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
