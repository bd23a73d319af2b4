//! A replica's directory of received states: what is written, and what of it a loss of power leaves.

use super::disk::Tail;
use super::random::Random;
use crate::transfer::shelf::{self, ShelfFile};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that a device writes at once: what is left of unsynced ones may have holes of so many.
const SECTOR_BYTES: usize = 32;

#[derive(Default)]
struct Contents {
    bytes: Vec<u8>,
    /// Durable.
    synced: usize,
}

/// The directory. Clones are the same one.
#[derive(Clone, Default)]
pub struct Shelf {
    files: Arc<Mutex<BTreeMap<String, Arc<Mutex<Contents>>>>>,
    full: Arc<AtomicBool>,
}

impl Shelf {
    /// Whether there is no room for more.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> usize {
        self.files.lock().values().map(|file| file.lock().bytes.len()).sum()
    }

    /// Everything is gone.
    pub fn clear(&self) {
        self.files.lock().clear();
    }

    /// What was not made durable is there, or not, or a part of it with holes. Names are.
    pub fn crash(&self, tail: Tail, random: &mut Random) {
        for file in self.files.lock().values() {
            let file = &mut *file.lock();
            let unsynced = file.bytes.len() - file.synced;
            let left = match tail {
                Tail::Kept => unsynced,
                Tail::Lost => 0,
                Tail::Torn => random.below(unsynced as u64 + 1) as usize,
            };
            file.bytes.truncate(file.synced + left);
            if tail == Tail::Torn && left > 0 && random.per_mille(500) {
                let hole = file.synced + random.below(left as u64) as usize;
                file.bytes[hole..].iter_mut().take(SECTOR_BYTES).for_each(|byte| *byte = 0);
            }
            file.synced = file.bytes.len();
        }
    }
}

struct Handle {
    file: Arc<Mutex<Contents>>,
    full: Arc<AtomicBool>,
}

impl Shelf {
    fn handle(&self, file: Arc<Mutex<Contents>>) -> Arc<dyn ShelfFile> {
        Arc::new(Handle { file, full: self.full.clone() })
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl shelf::Shelf for Shelf {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>> {
        let file = self.files.lock().get(name).cloned().ok_or_else(not_found)?;
        Ok(self.handle(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn ShelfFile>> {
        let file: Arc<Mutex<Contents>> = Arc::default();
        self.files.lock().insert(name.to_owned(), file.clone());
        Ok(self.handle(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files.lock();
        let file = files.remove(from).ok_or_else(not_found)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().remove(name).map(drop).ok_or_else(not_found)
    }
}

impl ShelfFile for Handle {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.lock().bytes.len() as u64)
    }

    fn read(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let file = self.file.lock();
        let from = file.bytes.get(at as usize..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let file = &mut *self.file.lock();
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let (at, end) = (at as usize, at as usize + bytes.len());
        file.bytes.resize(file.bytes.len().max(end), 0);
        file.bytes[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let file = &mut *self.file.lock();
        file.synced = file.bytes.len();
        Ok(())
    }
}
