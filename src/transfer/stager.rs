//! The thread that writes received chunks: the disk is waited for beside reception, as hashes are.

use super::staging::{Appender, Staging};
use crate::sync::channel::{Receiver, Sender, unbounded};
use bytes::Bytes;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
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

/// The thread. When this is dropped it writes what it was sent, and is joined.
pub(super) struct Stager {
    inbox: Option<Sender<ToStager>>,
    thread: Option<JoinHandle<()>>,
}

impl Stager {
    /// `written` is told, on that thread, how many bytes of chunks of a file were written, or why they were not.
    pub fn start(written: impl Fn(FileId, io::Result<u64>) + Send + 'static) -> io::Result<Self> {
        let (inbox, tasks) = unbounded();
        let thread = std::thread::Builder::new().name("duramen-stage".into());
        let thread = thread.spawn(move || {
            crate::sys::step_back();
            let mut current = None;
            let ran = catch_unwind(AssertUnwindSafe(|| write(&tasks, &mut current, &written)));
            if let (Err(_), Some(Current { id, .. })) = (ran, current) {
                written(id, Err(io::Error::other("the thread that writes it panicked")));
            }
        })?;
        Ok(Self { inbox: Some(inbox), thread: Some(thread) })
    }

    /// What it is sent tasks with. It ends after the last of these.
    pub fn inbox(&self) -> &Sender<ToStager> {
        self.inbox.as_ref().expect("until it is dropped")
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
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
            ToStager::Chunk(of, chunk, bytes) if of == id => appender.append(staging, chunk, &bytes),
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
