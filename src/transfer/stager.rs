//! The thread that writes received chunks: the disk is waited for beside reception, as hashes are.

use super::staging::{Appender, Staging};
use crate::sync::channel::{Receiver, Sender, unbounded};
use bytes::Bytes;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What it is sent.
pub(super) enum ToStager {
    /// Chunks of this file come.
    Begin(FileId, Arc<Staging>, Appender),
    /// Of which file: one that was hashed late must not come into the next; which; its bytes.
    Chunk(FileId, u64, Bytes),
    /// No more chunks of it come.
    End,
}

/// Which file of a stage, counted from 1.
pub(super) type FileId = u64;

/// The last file of a fetch that is over: what still waits to be hashed or written of those up to it is dropped, so that no number of
/// fetches, one after the other, has more waiting than one may have.
#[derive(Clone, Default)]
pub(super) struct Ended(Arc<AtomicU64>);

impl Ended {
    /// Whether chunks of this file are dropped.
    pub fn has(&self, file: FileId) -> bool {
        file <= self.0.load(Ordering::Relaxed)
    }
}

/// The thread. It is joined when this is dropped.
pub(super) struct Stager {
    inbox: Option<Sender<ToStager>>,
    ended: Ended,
    thread: Option<JoinHandle<()>>,
}

impl Stager {
    /// `written` is told, on that thread, how many bytes of chunks of a file were written, or why they were not.
    pub fn start(written: impl Fn(FileId, io::Result<u64>) + Send + 'static) -> io::Result<Self> {
        let (inbox, tasks) = unbounded();
        let ended = Ended::default();
        let over = ended.clone();
        let thread = std::thread::Builder::new().name("duramen-stage".into());
        let thread = thread.spawn(move || {
            crate::sys::step_back();
            let mut current = None;
            let ran = catch_unwind(AssertUnwindSafe(|| write(&tasks, &mut current, &over, &written)));
            if let (Err(_), Some(Current { id, .. })) = (ran, current) {
                written(id, Err(io::Error::other("the thread that writes it panicked")));
            }
        })?;
        Ok(Self { inbox: Some(inbox), ended, thread: Some(thread) })
    }

    /// The fetch that writes to this file, or to one before it, is over. What was written stays.
    pub fn end(&self, file: FileId) {
        self.ended.0.fetch_max(file, Ordering::Relaxed);
        let _ = self.inbox().send(ToStager::End);
    }

    /// Which fetches are.
    pub fn ended(&self) -> &Ended {
        &self.ended
    }

    /// What it is sent tasks with. It ends after the last of these.
    pub fn inbox(&self) -> &Sender<ToStager> {
        self.inbox.as_ref().expect("until it is dropped")
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.end(FileId::MAX);
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file that chunks are written to.
struct Current {
    id: FileId,
    staging: Arc<Staging>,
    appender: Appender,
}

/// Writes chunks as they come; what has gathered is written whenever no more are at hand.
fn write(
    inbox: &Receiver<ToStager>,
    current: &mut Option<Current>,
    over: &Ended,
    written: &dyn Fn(FileId, io::Result<u64>),
) {
    for task in inbox {
        if let ToStager::Begin(id, staging, appender) = task {
            *current = Some(Current { id, staging, appender });
            continue;
        }
        let Some(Current { id, staging, appender }) = current else { continue };
        let (id, ends) = (*id, matches!(task, ToStager::End));
        let appended = match task {
            ToStager::Chunk(of, chunk, bytes) if of == id && !over.has(of) => {
                appender.append(staging, chunk, &bytes)
            }
            _ => Ok(0),
        };
        // Also after a chunk of an earlier file: nothing else may come.
        let last = ends || inbox.is_empty();
        let outcome = appended.and_then(|bytes| Ok(bytes + if last { appender.flush(staging)? } else { 0 }));
        if ends || outcome.is_err() {
            *current = None;
        }
        if !matches!(outcome, Ok(0)) {
            written(id, outcome);
        }
    }
}
