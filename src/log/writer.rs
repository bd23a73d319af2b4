//! Writes of the log thread: io_uring with a few unlinked writes in flight, or pwritev2(RWF_DSYNC) one by one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};

use super::buffers::AlignedBuffer;
use super::layout::BLOCK_BYTES;
use super::storage::{DiskFile, RETRIES_MAX};
use crate::sys::EventFd;

/// One write, block-aligned. The writer owns the buffer until it comes back in [`Done`].
pub(super) struct Write {
    pub id: u64,
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub buffer: AlignedBuffer,
    pub bytes: usize,
}

/// A write that ended: all of it is durable, or it failed.
pub(super) struct Done {
    pub id: u64,
    pub buffer: AlignedBuffer,
    pub result: io::Result<()>,
}

/// Carries out writes; completions come in any order.
pub(super) trait Writer {
    /// Accepts a write; the next [`Writer::wait`] starts it.
    fn submit(&mut self, write: Write);
    /// Starts what was submitted, then waits for a completion, a wake-up or `timeout`. May return early.
    /// An error means that the writer is of no more use.
    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()>;
    /// How many writes it can have in flight.
    fn in_flight_max(&self) -> usize;
}

/// One synchronous write at a time, on the calling thread.
pub(super) struct ThreadsWriter {
    wake: Arc<EventFd>,
    next: Option<Write>,
}

impl ThreadsWriter {
    pub fn new(wake: Arc<EventFd>) -> Self {
        Self { wake, next: None }
    }
}

impl Writer for ThreadsWriter {
    fn submit(&mut self, write: Write) {
        assert!(self.next.is_none(), "one write at a time");
        self.next = Some(write);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        let Some(write) = self.next.take() else { return self.wake.wait(timeout) };
        let result = write.file.write(&write.buffer[..write.bytes], write.offset, true);
        done.push(Done { id: write.id, buffer: write.buffer, result });
        Ok(())
    }

    fn in_flight_max(&self) -> usize {
        1
    }
}

/// Tells the wake-up's completion from those of writes, which carry their slot.
const WAKE: u64 = u64::MAX;

/// A write that the kernel has, and how far it is.
pub(super) struct InKernel {
    pub write: Write,
    pub done: usize,
    pub retries: u32,
}

/// Several writes in flight on one ring; the wake-up is a read of the eventfd in the same ring, so one system call
/// waits for both.
pub(super) struct UringWriter {
    ring: IoUring,
    slots: Vec<Option<InKernel>>,
    wake: Arc<EventFd>,
    wake_count: Box<u64>,
    wake_armed: bool,
    refused: u32,
}

impl UringWriter {
    pub fn new(in_flight_max: usize, wake: Arc<EventFd>) -> io::Result<Self> {
        let ring = new_ring(in_flight_max)?;
        let slots = (0..in_flight_max).map(|_| None).collect();
        Ok(Self { ring, slots, wake, wake_count: Box::new(0), wake_armed: false, refused: 0 })
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: buffers belong to `slots` and `wake_count`, which outlive the operation (see Drop); descriptors are
        // held by the write's file and by `wake`.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // The queue holds every slot and the wake-up, each at most once.
        pushed.expect("the submission queue has room for every slot");
    }

    fn push_slot(&mut self, slot: usize) {
        let in_kernel = self.slots[slot].as_ref().expect("the slot is in use");
        let rest = &in_kernel.write.buffer[in_kernel.done..in_kernel.write.bytes];
        let entry =
            opcode::Write::new(types::Fd(in_kernel.write.file.fd()), rest.as_ptr(), rest.len() as u32)
                .offset(in_kernel.write.offset + in_kernel.done as u64)
                .build()
                .user_data(slot as u64);
        self.push(&entry);
    }

    fn arm_wake(&mut self) {
        if !self.wake_armed {
            self.wake_armed = true;
            let to = (&raw mut *self.wake_count).cast();
            let entry = opcode::Read::new(types::Fd(self.wake.fd()), to, 8).build().user_data(WAKE);
            self.push(&entry);
        }
    }

    fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout {
            None => self.ring.submitter().submit_and_wait(1),
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&time))
            }
        };
        match result {
            Ok(_) => self.refused = 0,
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME | libc::EINTR) => {}
                // The kernel is short of memory for requests or has completions to deliver first. Waiting for a
                // completion could be for ever, if nothing was accepted: give it a moment, then enter again.
                Some(libc::EAGAIN | libc::EBUSY) if self.refused < RETRIES_MAX => {
                    self.refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return Err(e),
            },
        }
        if self.ring.completion().overflow() > 0 {
            return Err(io::Error::other("io_uring dropped a completion"));
        }
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<Done>) {
        loop {
            let next = self.ring.completion().next();
            let Some((slot, result)) = next.map(|c| (c.user_data(), c.result())) else { return };
            if slot == WAKE {
                self.wake_armed = false;
                continue;
            }
            if let Some(result) = self.completed(slot as usize, result) {
                let InKernel { write, .. } = self.slots[slot as usize].take().expect("the slot was in use");
                done.push(Done { id: write.id, buffer: write.buffer, result });
            } else {
                self.push_slot(slot as usize);
            }
        }
    }

    /// The write's end, or `None` if the rest of it has to be submitted again.
    fn completed(&mut self, slot: usize, result: i32) -> Option<io::Result<()>> {
        let in_kernel = self.slots[slot].as_mut().expect("a completion names a slot in use");
        match in_kernel.after(result) {
            After::Ended => Some(Ok(())),
            After::Failed(e) => Some(Err(e)),
            After::Again => None,
        }
    }
}

/// What a completion means.
#[derive(Debug)]
pub(super) enum After {
    Ended,
    /// Submit the rest.
    Again,
    Failed(io::Error),
}

impl InKernel {
    /// Result of an io_uring write: bytes written, or a negative errno.
    pub fn after(&mut self, result: i32) -> After {
        let again = match result {
            0 => io::ErrorKind::WriteZero.into(),
            1.. => {
                let to = self.done + result as usize;
                if to >= self.write.bytes {
                    return After::Ended;
                }
                // A short direct write: its rest must start at a block, so a broken block is written again.
                let from = self.done;
                self.done = to / BLOCK_BYTES * BLOCK_BYTES;
                if self.done > from {
                    return After::Again;
                }
                io::ErrorKind::WriteZero.into()
            }
            _ => io::Error::from_raw_os_error(-result),
        };
        self.retries += 1;
        let retry = result >= 0 || matches!(-result, libc::EAGAIN | libc::EINTR);
        if retry && self.retries <= RETRIES_MAX { After::Again } else { After::Failed(again) }
    }
}

impl Writer for UringWriter {
    fn submit(&mut self, write: Write) {
        let slot =
            self.slots.iter().position(Option::is_none).expect("at most in_flight_max writes are submitted");
        self.slots[slot] = Some(InKernel { write, done: 0, retries: 0 });
        self.push_slot(slot);
    }

    fn wait(&mut self, timeout: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        self.arm_wake();
        self.enter(timeout)?;
        self.reap(done);
        Ok(())
    }

    fn in_flight_max(&self) -> usize {
        self.slots.len()
    }
}

impl Drop for UringWriter {
    fn drop(&mut self) {
        // The kernel may still read the buffers and write the wake-up's counter: wait for it.
        let mut done = Vec::new();
        let mut tries = 0;
        if self.wake_armed {
            self.wake.signal();
        }
        while (self.wake_armed || self.slots.iter().any(Option::is_some)) && tries < 100 {
            tries += 1;
            if self.enter(Some(Duration::from_millis(100))).is_err() {
                tries += 10;
            }
            self.reap(&mut done);
        }
        if self.wake_armed || self.slots.iter().any(Option::is_some) {
            // A disk that hangs for ten seconds. Freeing what the kernel may still touch would be worse than losing it.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.wake_count));
        }
    }
}

fn new_ring(in_flight_max: usize) -> io::Result<IoUring> {
    let entries = (in_flight_max as u32 + 2).next_power_of_two();
    // Twice as many completions as submissions can ever be in flight: no overflow.
    let mut builder = IoUring::builder();
    builder.setup_cqsize(entries * 4);
    let mut quiet = builder.clone();
    // One thread submits and waits: completions need no interrupt of their own (Linux 6.1).
    quiet.setup_single_issuer().setup_defer_taskrun();
    let ring = match quiet.build(entries) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => builder.build(entries)?,
        other => other?,
    };
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel's io_uring is older than Linux 5.11",
        ));
    }
    Ok(ring)
}

/// Tries io_uring with a real write and read on `file`, whose first block it overwrites; without a file only with the wake-up.
/// Errors: one line, why not.
pub(super) fn probe(file: Option<Arc<dyn DiskFile>>) -> Result<(), String> {
    let words = |e: io::Error| match e.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring, or a seccomp filter hides it (ENOSYS)".into(),
        Some(libc::EPERM) => {
            "not permitted (EPERM): sysctl kernel.io_uring_disabled is set, or a seccomp filter (containers)"
                .into()
        }
        Some(libc::ENOMEM) => "not enough locked memory for the ring (ENOMEM): raise RLIMIT_MEMLOCK".into(),
        _ => e.to_string(),
    };
    let wake = Arc::new(EventFd::new().map_err(words)?);
    let mut writer = UringWriter::new(1, wake.clone()).map_err(words)?;
    let Some(file) = file else {
        wake.signal();
        writer.wait(Some(Duration::from_secs(10)), &mut Vec::new()).map_err(words)?;
        return if writer.wake_armed { Err("a probe did not end within 10 s".into()) } else { Ok(()) };
    };
    let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
    buffer.fill(0x5a);
    writer.submit(Write { id: 1, file: file.clone(), offset: 0, buffer, bytes: BLOCK_BYTES });
    let mut done = Vec::new();
    for _ in 0..100 {
        writer.wait(Some(Duration::from_millis(100)), &mut done).map_err(words)?;
        if let Some(done) = done.pop() {
            done.result.map_err(words)?;
            let mut back = AlignedBuffer::new(BLOCK_BYTES);
            file.read(&mut back, 0).map_err(words)?;
            return if back.iter().all(|b| *b == 0x5a) {
                Ok(())
            } else {
                Err("a probe write could not be read back".into())
            };
        }
    }
    Err("a probe write did not end within 10 s".into())
}
