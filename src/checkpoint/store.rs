//! A directory with the last two checkpoints of a replica: each a file with all pages, and maybe some with changed pages on top of it.
//!
//! A file has its name only when all of it is durable, and only then the oldest ones go, from the newest down that nothing needs:
//! whatever moment a crash chooses, two checkpoints are there that were there before, or the newer of them and the new one (FAULTS
//! D8, S12).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::{Body, BodyWriter, CheckpointError, Glance, Head, Previous};
use super::increments::CHAIN_MAX;
use super::opened::{Opened, Part};
use crate::log::storage::{Disk, RealDisk};
use crate::log::{AlignedBuffer, BLOCK_BYTES, LogError};
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

/// A file in the directory.
struct Link {
    seq: Seq,
    /// `None`: its head cannot be read.
    glance: Option<Glance>,
}

/// The checkpoints in one directory.
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// All files, ascending.
    files: Vec<Link>,
    /// Those that no other builds on, ascending: the checkpoints.
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
            // Of a name alone that is the folder this process is in.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
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
        Ok(Self::over(disk, dir, &names))
    }

    fn over(disk: Arc<dyn Disk>, dir: PathBuf, names: &[String]) -> Self {
        let link = |seq| Link { seq, glance: glance(&*disk, seq) };
        let mut files: Vec<Link> = names.iter().filter_map(|name| seq_of(name)).map(link).collect();
        files.sort_unstable_by_key(|link| link.seq);
        let mut store = Self { disk, dir, files, kept: Vec::new(), lock: None };
        store.look_again();
        store
    }

    /// Only looks: changes nothing, and holds nobody off.
    pub fn look(dir: &Path) -> io::Result<Self> {
        let mut disk = RealDisk::new(dir.to_owned(), !crate::sys::is_memory_fs(dir)?)?;
        disk.read_only = true;
        let names = disk.list()?;
        Ok(Self::over(Arc::new(disk), dir.to_owned(), &names))
    }

    fn look_again(&mut self) {
        let below = |seq: &Seq| self.files.iter().any(|link| link.previous() == Some(*seq));
        self.kept = self.files.iter().map(|link| link.seq).filter(|seq| !below(seq)).collect();
    }

    /// The checkpoints that are there, ascending.
    pub fn kept(&self) -> &[Seq] {
        &self.kept
    }

    /// The one before the newest.
    pub fn older(&self) -> Option<Seq> {
        self.kept.iter().rev().nth(KEPT - 1).copied()
    }

    /// The same, and the bytes of the bodies of its files, the one with all pages first.
    pub fn older_files(&self) -> Option<(Seq, Vec<u64>)> {
        let seq = self.older()?;
        let bytes = |seq: Seq| Some(self.link(seq)?.glance?.body_bytes);
        Some((seq, self.chain(seq)?.into_iter().map(bytes).collect::<Option<_>>()?))
    }

    /// What the head of a file says that has `changed` pages on top of another one.
    pub fn previous(&self, seq: Seq, changed: u64) -> Option<Previous> {
        Some(Previous { seq, root: self.link(seq)?.glance?.root, changed })
    }

    /// Files, and bytes of their bodies.
    pub fn size(&self) -> (usize, u64) {
        (self.files.len(), self.files.iter().filter_map(|link| link.glance).map(|g| g.body_bytes).sum())
    }

    fn link(&self, seq: Seq) -> Option<&Link> {
        self.files.iter().find(|link| link.seq == seq)
    }

    /// The places of the files a checkpoint is made of, the one with all pages first; `None` if one is missing.
    fn chain(&self, seq: Seq) -> Option<Vec<Seq>> {
        let (mut chain, mut next) = (Vec::new(), Some(seq));
        while let Some(link) = next.map(|seq| self.link(seq)) {
            let link = link.filter(|_| chain.len() < CHAIN_MAX as usize)?;
            chain.push(link.seq);
            next = link.previous();
        }
        chain.reverse();
        Some(chain)
    }

    /// The places of all files that a checkpoint is made of, as far as they are there.
    fn needed(&self, kept: &[Seq]) -> Vec<Seq> {
        let mut needed = Vec::new();
        for seq in kept {
            let mut next = Some(*seq);
            while let Some(link) = next.filter(|seq| !needed.contains(seq)).and_then(|seq| self.link(seq)) {
                needed.push(link.seq);
                next = link.previous();
            }
        }
        needed
    }

    /// Where one lies.
    pub fn path(&self, seq: Seq) -> PathBuf {
        self.dir.join(name(seq))
    }

    /// Reads the heads of one's files. Errors: damage; one of something else.
    pub fn read(&self, seq: Seq, cluster: ClusterId, members: Members) -> Result<Opened, CheckpointError> {
        // What its head does not tell is told by reading it.
        let chain = self.chain(seq).ok_or(CheckpointError::Damaged("chain"))?;
        let parts: Result<Vec<Part>, CheckpointError> = chain
            .into_iter()
            .map(|seq| {
                let part = Part::read(self.disk.open(&name(seq))?, cluster, members)?;
                match part.head.seq == seq {
                    true => Ok(part),
                    false => Err(CheckpointError::Foreign(format!("it is of place {}", part.head.seq))),
                }
            })
            .collect();
        Opened::of(parts?)
    }

    /// Leaves one out that cannot be used, with all that no other is made of: the next checkpoint must not push out the good one before
    /// it.
    pub fn discard(&mut self, seq: Seq) -> io::Result<()> {
        let others: Vec<Seq> = self.kept.iter().copied().filter(|kept| *kept != seq).collect();
        let needed = self.needed(&others);
        for seq in self.needed(&[seq]) {
            if !needed.contains(&seq) {
                self.disk.rename(&name(seq), &format!("damaged-{:020}", seq.0))?;
                self.files.retain(|link| link.seq != seq);
            }
        }
        self.look_again();
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
            self.disk.sync_dir().map_err(|e| {
                let why = format!(
                    "{} has its name, but whether a crash leaves it there is not known: {e}",
                    name(head.seq)
                );
                io::Error::new(e.kind(), why)
            })?;
            Ok(root)
        });
        let root = match sealed {
            Ok(root) => root,
            Err(e) => {
                self.abandon();
                return Err(e);
            }
        };
        self.files.retain(|link| link.seq != head.seq);
        let previous = head.previous.map(|previous| previous.seq);
        let glance = Some(Glance { previous, root, body_bytes: head.body_bytes });
        self.files.push(Link { seq: head.seq, glance });
        self.look_again();
        // It has its name: what cannot be removed now is removed next time.
        if let Err(e) = self.tidy() {
            ::log::warn!("{}: {e}", self.dir.display());
        }
        Ok(root)
    }

    fn tidy(&mut self) -> io::Result<()> {
        let from = self.kept.len().saturating_sub(KEPT);
        let needed = self.needed(&self.kept[from..]);
        let mut names = self.disk.list()?;
        // What builds on others goes before them.
        names.sort_unstable_by(|a, b| b.cmp(a));
        for name in names {
            if name.starts_with("damaged-") || seq_of(&name).is_some_and(|seq| !needed.contains(&seq)) {
                self.disk.remove(&name)?;
                self.files.retain(|link| Some(link.seq) != seq_of(&name));
            }
        }
        self.look_again();
        self.disk.sync_dir()
    }
}

impl Link {
    fn previous(&self) -> Option<Seq> {
        self.glance.and_then(|glance| glance.previous)
    }
}

fn glance(disk: &dyn Disk, seq: Seq) -> Option<Glance> {
    let file = disk.open(&name(seq)).ok().filter(|file| file.bytes() >= BLOCK_BYTES as u64)?;
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    file.read(&mut block, 0).ok()?;
    Glance::at(&block)
}
