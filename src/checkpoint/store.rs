//! A directory with the last two checkpoints of a replica.
//!
//! A file has its name only when all of it is durable, and only then the oldest one goes: whatever moment a crash chooses, two
//! checkpoints are there that were there before, or the newer of them and the new one (FAULTS D8, S12).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{Body, BodyWriter, CheckpointError, Head, Opened};
use crate::log::LogError;
use crate::log::storage::{Disk, RealDisk};
use crate::quorum::Group as Members;
use crate::types::*;

/// A checkpoint in the making; removed at open.
const UNFINISHED: &str = "checkpoint.new";
/// How many are kept.
const KEPT: usize = 2;

fn name(seq: Seq) -> String {
    format!("checkpoint-{:020}", seq.0)
}

fn seq_of(name: &str) -> Option<Seq> {
    let digits = name.strip_prefix("checkpoint-")?;
    (digits.len() == 20).then(|| digits.parse().ok().map(Seq))?
}

/// The checkpoints in one directory.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// On disk, ascending.
    kept: Vec<Seq>,
    /// Nobody else writes here.
    lock: Option<File>,
}

impl Store {
    /// Opens the directory, which is made if it is missing, and removes what a crash left unfinished.
    /// Errors: the disk's; another process holds the directory.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let io = |e| LogError::io(dir, "open", e);
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = crate::log::lock(dir)?;
        let mut store = Self::unlocked(dir).map_err(io)?;
        store.lock = Some(lock);
        Ok(store)
    }

    fn unlocked(dir: &Path) -> io::Result<Self> {
        if let Some(parent) = dir.parent() {
            crate::data_dir::sync_dir(parent)?;
        }
        // A file system without direct I/O is told of by the log.
        let direct = !crate::sys::is_memory_fs(dir)?;
        Self::on(Arc::new(RealDisk::new(dir.to_owned(), direct)?), dir.to_owned())
    }

    /// The same over any disk.
    pub(crate) fn on(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        let names = disk.list()?;
        if names.iter().any(|name| name == UNFINISHED) {
            disk.remove(UNFINISHED)?;
        }
        // Also what was renamed before the last crash is durable from here on.
        disk.sync_dir()?;
        let mut kept: Vec<Seq> = names.iter().filter_map(|name| seq_of(name)).collect();
        kept.sort_unstable();
        Ok(Self { disk, dir, kept, lock: None })
    }

    /// Only looks: changes nothing, and holds nobody off.
    pub fn look(dir: &Path) -> io::Result<Self> {
        let mut disk = RealDisk::new(dir.to_owned(), !crate::sys::is_memory_fs(dir)?)?;
        disk.read_only = true;
        let mut kept: Vec<Seq> = disk.list()?.iter().filter_map(|name| seq_of(name)).collect();
        kept.sort_unstable();
        Ok(Self { disk: Arc::new(disk), dir: dir.to_owned(), kept, lock: None })
    }

    /// What is there, ascending.
    pub fn kept(&self) -> &[Seq] {
        &self.kept
    }

    /// Where one lies.
    pub fn path(&self, seq: Seq) -> PathBuf {
        self.dir.join(name(seq))
    }

    /// Reads one's head. Errors: damage; one of something else.
    pub fn read(&self, seq: Seq, cluster: ClusterId, members: Members) -> Result<Opened, CheckpointError> {
        let opened = Opened::read(self.disk.open(&name(seq))?, cluster, members)?;
        match opened.head.seq == seq {
            true => Ok(opened),
            false => Err(CheckpointError::Foreign(format!("it is of place {}", opened.head.seq))),
        }
    }

    /// Leaves one out that cannot be used: the next checkpoint must not push out the good one before it.
    pub fn discard(&mut self, seq: Seq) -> io::Result<()> {
        self.kept.retain(|kept| *kept != seq);
        self.disk.rename(&name(seq), &format!("damaged-{:020}", seq.0))?;
        self.disk.sync_dir()
    }

    /// Writes a body aside: about `bytes` are to come. Errors: a full disk, before anything else is touched.
    pub fn write<T>(
        &self,
        bytes: u64,
        pace: &mut dyn FnMut(usize) -> io::Result<()>,
        write: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<T>,
    ) -> io::Result<(Body, T)> {
        let written = self.disk.create(UNFINISHED, bytes.max(1)).and_then(|file| {
            let mut out = BodyWriter::new(file, pace);
            let layout = write(&mut out)?;
            Ok((out.finish()?, layout))
        });
        if written.is_err() {
            self.abandon();
        }
        written
    }

    /// Removes what was written aside.
    pub fn abandon(&self) {
        let _ = self.disk.remove(UNFINISHED);
    }

    /// Gives a body its name, and lets go of what is older than the one before. Gives the root.
    pub fn seal(&mut self, body: Body, head: &Head) -> io::Result<Digest> {
        let sealed = body.seal(head).and_then(|root| {
            self.disk.rename(UNFINISHED, &name(head.seq))?;
            self.disk.sync_dir()?;
            Ok(root)
        });
        let root = match sealed {
            Ok(root) => root,
            Err(e) => {
                self.abandon();
                return Err(e);
            }
        };
        self.kept.retain(|kept| *kept != head.seq);
        self.kept.push(head.seq);
        // It has its name: what cannot be removed now is removed next time.
        if let Err(e) = self.tidy() {
            ::log::warn!("{}: {e}", self.dir.display());
        }
        Ok(root)
    }

    fn tidy(&mut self) -> io::Result<()> {
        let oldest = self.kept.iter().rev().nth(KEPT - 1).copied().unwrap_or_default();
        self.kept.retain(|seq| *seq >= oldest);
        for name in self.disk.list()? {
            if name.starts_with("damaged-") || seq_of(&name).is_some_and(|seq| seq < oldest) {
                self.disk.remove(&name)?;
            }
        }
        self.disk.sync_dir()
    }
}
