//! A log without files: the real mailbox, gate and appending, and a thread that writes at once what it finds.

use crate::appends::Sink;
use crate::gate::Persisted;
use crate::log::{AppendError, AppendRefusal, Record};
use crate::mailbox::Mailbox;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::types::{Digest, Lsn, Seq, View};
use shuttle::sync::{Condvar, Mutex};
use std::sync::Arc;

/// An eventfd, or mio's waker: waking one that is awake makes its next sleep short.
#[derive(Default)]
pub struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    pub fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_one();
    }

    pub fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

#[derive(Default)]
struct Mail {
    records: Vec<Lsn>,
    stop: bool,
}

#[derive(Default)]
pub struct Disk {
    mail: Mailbox<Mail>,
    waker: Waker,
    queued: AtomicUsize,
    /// The last record on disk.
    pub durable: AtomicUsize,
}

impl Disk {
    fn post(&self, put: impl FnOnce(&mut Mail)) {
        if self.mail.post(put) {
            self.waker.wake();
        }
    }

    /// Ends the thread once everything is written.
    pub fn stop(&self) {
        self.post(|mail| mail.stop = true);
        self.waker.wake();
    }

    /// The log's thread. `hasty`: looks for mail and then says that it sleeps, each for itself.
    pub fn run(&self, hasty: bool, mut report: impl FnMut(Persisted)) {
        let mut queue = Vec::new();
        loop {
            let stop = self.mail.take(|mail| {
                queue.append(&mut mail.records);
                mail.stop
            });
            if let Some(last) = queue.last().copied() {
                self.queued.fetch_sub(queue.len(), Ordering::AcqRel);
                queue.clear();
                self.durable.store(last.0 as usize, Ordering::Release);
                report(Persisted::simulated(last));
                continue;
            }
            if stop {
                return;
            }
            let stays = |mail: &Mail| !mail.records.is_empty() || mail.stop;
            let sleeps = match hasty {
                false => self.mail.sleep(true, stays),
                true => !self.mail.take(|mail| stays(mail)) && self.mail.sleep(true, |_| false),
            };
            if sleeps {
                self.waker.sleep();
            }
        }
    }
}

/// The appending end: at most so many records wait.
pub struct Log {
    pub disk: Arc<Disk>,
    pub queued_max: usize,
    pub next: Lsn,
}

impl Log {
    pub fn new(disk: Arc<Disk>, queued_max: usize) -> Self {
        Self { disk, queued_max, next: Lsn(1) }
    }
}

impl Sink for Log {
    fn take(&mut self, record: Record, _control: bool) -> Result<Lsn, AppendError> {
        if self.disk.queued.load(Ordering::Acquire) >= self.queued_max {
            return Err(AppendError { why: AppendRefusal::Full, record });
        }
        let lsn = self.next;
        self.next = lsn.next();
        self.disk.queued.fetch_add(1, Ordering::AcqRel);
        self.disk.post(|mail| mail.records.push(lsn));
        Ok(lsn)
    }
}

/// Any record.
pub fn record(seq: u64) -> Record {
    Record { kind: 1, seq: Seq(seq), view: View(1), digest: Digest::ZERO, payload: Vec::new() }
}
