//! The checkpoint thread: frozen states → files, off every other path and behind all of them at the disk and the processor.

use super::crowding::Crowding;
use super::pressure::Waiting;
use super::shared::Shared;
use super::stages::*;
use super::transfer_stage::{Tell, ToTransfer};
use crate::checkpoint::file::{Body, Head};
use crate::checkpoint::frozen::{Frozen, Layout};
use crate::checkpoint::increments::{Extent, Increments};
use crate::checkpoint::pacer::{self, Pacer};
use crate::checkpoint::schedule::Schedule;
use crate::checkpoint::store::Store;
use crate::checkpoint::stretch::Stretch;
use crate::order::Input;
use crate::quorum::Group as Members;
use crate::service::Snapshot;
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, Working, work};
use crate::types::*;
use crate::wire::messages::{MarkStatement, StateCertificate};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A checkpoint of what came from others is tried again after this long.
const INSTALL_AGAIN: Duration = Duration::from_secs(1);
/// How long a disk that is full or fails is left alone before the next try.
const RETRY: Duration = Duration::from_secs(1);
/// How often a stop is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What the checkpoint stage is sent.
pub enum ToCheckpoint {
    /// Write this.
    Taken(Box<Taken>),
    /// The durable mark covers it.
    Covered {
        /// Of which place.
        seq: Seq,
        /// The batch history up to it.
        batches: Digest,
    },
    /// Write this state, which came from others, before anything else; `order` waits for it.
    Install(Box<Installed>),
    /// End the thread.
    Stop,
}

/// A state that came from others.
pub struct Installed {
    frozen: Frozen,
    mark: StateCertificate,
    progress: Vec<(SessionId, RequestNumber)>,
}

/// A state to be written.
pub struct Taken {
    /// All of it.
    pub frozen: Frozen,
    /// Execution waits for this: the stop-the-world baseline.
    pub written: Option<Working>,
}

/// The checkpoints as `status` shows them.
#[derive(Clone, Default)]
pub struct CheckpointView {
    /// Places of those on disk, ascending.
    pub kept: Vec<Seq>,
    /// Written since the start.
    pub written: u64,
    /// Turns that came while one was being written.
    pub skipped: u64,
    /// Bytes of the last one.
    pub bytes: u64,
    /// How many of its pages were written, and how many it has; none of a service without pages.
    pub pages: Option<(u64, u64)>,
    /// Bytes of pages that only the last one held while it was written.
    pub copied_bytes: u64,
    /// Files on disk, and their bytes.
    pub files: (usize, u64),
    /// Files of one checkpoint at most.
    pub full_every: u32,
    /// Microseconds it took to freeze the state for it.
    pub freeze_us: u64,
    /// Milliseconds that writing it took.
    pub write_ms: u64,
    /// Places between two of them.
    pub period: u64,
    /// The smallest period that equation (1) allows, by what was measured.
    pub period_min: u64,
    /// How many times the period is gone by.
    pub stretch: u64,
    /// Milliseconds of writing that were yielded to the log.
    pub yielded_ms: u64,
    /// What a log write takes while none is written, µs.
    pub calm_us: Option<f64>,
    /// Why the last one did not come to be.
    pub failed: Option<String>,
}

/// The thread's state.
pub struct CheckpointStage {
    pub(super) store: Store,
    pub(super) cluster: ClusterId,
    pub(super) me: ReplicaId,
    pub(super) members: Members,
    pub(super) schedule: Schedule,
    /// Which pages are written.
    pub(super) increments: Increments,
    pub(super) pacer: Pacer,
    pub(super) stretch: Stretch,
    pub(super) inbox: Receiver<ToCheckpoint>,
    pub(super) waiting: Arc<Mutex<Waiting<Frozen>>>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_transfer: Option<Sender<ToTransfer>>,
    pub(super) shared: Arc<Shared>,
}

/// What came of one.
struct Written {
    layout: Layout,
    bytes: u64,
    took: Duration,
    /// Places decided meanwhile.
    places: u64,
}

/// Where in the order a state is.
struct Position {
    seq: Seq,
    batches: Digest,
    replies: Digest,
    time: WallTime,
}

/// Told to stop.
struct Stopped;

/// Why a checkpoint did not come to be.
enum Ended {
    /// Told to stop.
    Stopped,
    /// A later state came from others, and is to be written in its place.
    Replaced(Box<Installed>),
    /// The disk.
    Failed(io::Error),
}

impl From<io::Error> for Ended {
    fn from(e: io::Error) -> Self {
        Self::Failed(e)
    }
}

impl CheckpointStage {
    /// Runs until told to stop.
    pub fn run(mut self) {
        crate::sys::step_back();
        for message in self.inbox.clone() {
            match message {
                ToCheckpoint::Taken(taken) => {
                    let mut next = Some(*taken);
                    while let Some(taken) = next {
                        if self.checkpoint(taken).is_err() {
                            self.shared.checkpointing.store(false, Ordering::Release);
                            return;
                        }
                        let mut waiting = self.waiting.lock();
                        next = waiting.pop().map(|frozen| Taken { frozen, written: None });
                        // Whoever freezes the next looks at both under the same lock.
                        self.shared.checkpointing.store(next.is_some(), Ordering::Release);
                    }
                }
                ToCheckpoint::Install(installed) => {
                    if self.install(*installed).is_err() {
                        break;
                    }
                }
                // Of one that failed.
                ToCheckpoint::Covered { .. } => {}
                ToCheckpoint::Stop => break,
            }
        }
    }

    fn checkpoint(&mut self, taken: Taken) -> Result<(), Stopped> {
        let seq = taken.frozen.seq;
        // Not before it is this one's turn: a single place waits for its mark.
        let _ = self.to_order.send(ToOrder::One(Input::CheckpointTaken(seq)));
        let Some(Written { layout, bytes, took, places }) = self.write(taken)? else { return Ok(()) };
        self.measure(took, places);
        let mut view = self.shared.checkpoints.lock();
        view.kept = self.store.kept().to_vec();
        view.written += 1;
        (view.bytes, view.write_ms, view.failed) = (bytes, took.as_millis() as u64, None);
        view.pages = layout.pages.map(|pages| (layout.changed.unwrap_or(pages), pages));
        view.files = self.store.size();
        drop(view);
        self.tell_older();
        Ok(())
    }

    /// What leads up to the older of two may go.
    fn tell_older(&self) {
        if let Some(older) = self.store.older() {
            let _ = self.to_order.send(ToOrder::CheckpointStored(older));
        }
    }

    fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Raises the alarm, once.
    fn alarm(&self, seq: Seq, e: &io::Error) {
        let mut view = self.shared.checkpoints.lock();
        if view.failed.is_none() {
            ::log::warn!("checkpoint of place {seq}: {e}; tried again every second");
        }
        view.failed = Some(e.to_string());
    }

    /// Until the next try.
    fn rest(&self, seq: Seq, covered: &mut Option<Digest>) -> Result<(), Ended> {
        let until = Instant::now() + RETRY;
        while Instant::now() < until {
            if self.is_stopping() {
                return Err(Ended::Stopped);
            }
            match self.inbox.recv_timeout(LOOK) {
                Ok(message) => Self::hear(message, seq, covered)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Ended::Stopped),
            }
        }
        Ok(())
    }

    /// Something is said while the checkpoint of place `seq` is under way.
    fn hear(message: ToCheckpoint, seq: Seq, covered: &mut Option<Digest>) -> Result<(), Ended> {
        match message {
            ToCheckpoint::Covered { seq: of, batches } if of == seq => *covered = Some(batches),
            ToCheckpoint::Covered { .. } | ToCheckpoint::Taken(_) => {}
            // No mark will cover what it leaves behind.
            ToCheckpoint::Install(installed) => return Err(Ended::Replaced(installed)),
            ToCheckpoint::Stop => return Err(Ended::Stopped),
        }
        Ok(())
    }

    /// Writes the body aside, at the pacer's pace; one that execution waits for yields to nothing.
    fn body(
        &mut self,
        frozen: &Frozen,
        extent: &Extent,
        began: Instant,
        from: Seq,
        yields: bool,
    ) -> io::Result<(Body, Layout)> {
        let Self { store, pacer, shared, schedule, .. } = self;
        let bytes = frozen.bytes(extent);
        pacer.begin(bytes, shared.log_writes());
        let stretch = shared.checkpoint_stretch.load(Ordering::Relaxed).max(1);
        let turn_places = (schedule.turn_places() * stretch) as f64;
        let copied = || frozen.state.pages().map_or(0, |pages| pages.copied_bytes());
        let copied_before = copied();
        let mut crowding = Crowding::new();
        let mut pace = |bytes: usize| {
            if shared.stopping.load(Ordering::Relaxed) {
                // Not as interrupted: `write_all` would try that again for ever.
                return Err(io::Error::other("told to stop"));
            }
            shared.checkpoints.lock().copied_bytes = copied() - copied_before;
            let passed = shared.decided().0.saturating_sub(from.0);
            let now = pacer::Now {
                since: began.elapsed(),
                turn: if yields { passed as f64 / turn_places } else { f64::INFINITY },
                log: shared.log_writes(),
                // A log without room waits for this.
                crowded: yields && shared.has_log_room() && crowding.is_felt(),
            };
            std::thread::sleep(pacer.pause(bytes, now));
            Ok(())
        };
        let written = store.write(bytes, &mut pace, |out| frozen.write_to(extent, out));
        pacer.end(shared.log_writes());
        written
    }

    /// `None`: a later state came from others. A disk that does not take it is tried again: only this state may let a full log go on.
    fn write(&mut self, taken: Taken) -> Result<Option<Written>, Stopped> {
        let Taken { frozen, mut written } = taken;
        let (seq, mut covered) = (frozen.seq, None);
        let ended = loop {
            match self.write_once(&frozen, &mut written, &mut covered) {
                Ok(written) => return Ok(Some(written)),
                Err(_) if self.is_stopping() => break Ended::Stopped,
                Err(Ended::Failed(e)) => {
                    self.store.abandon();
                    self.alarm(seq, &e);
                    // Execution waits for the disk in the baseline, but not for an operator.
                    written = None;
                    if let Err(ended) = self.rest(seq, &mut covered) {
                        break ended;
                    }
                }
                Err(ended) => break ended,
            }
        };
        drop(frozen);
        self.store.abandon();
        match ended {
            Ended::Replaced(installed) => self.install(*installed).map(|()| None),
            Ended::Stopped | Ended::Failed(_) => Err(Stopped),
        }
    }

    /// `covered`: the batch history, once a mark covers the state.
    fn write_once(
        &mut self,
        frozen: &Frozen,
        waits: &mut Option<Working>,
        covered: &mut Option<Digest>,
    ) -> Result<Written, Ended> {
        let (began, from) = (Instant::now(), self.shared.decided());
        let (extent, digests) = self.increments.plan(
            frozen.state.pages(),
            Snapshot::bytes(&frozen.table),
            self.store.older_files(),
        );
        let (body, layout) = self.body(frozen, &extent, began, from, waits.is_none())?;
        let (took, places) = (began.elapsed(), self.shared.decided().0.saturating_sub(from.0));
        let Frozen { seq, time, replies, .. } = *frozen;
        // The mark comes with what is executed now.
        *waits = None;
        let batches = loop {
            match *covered {
                Some(batches) => break batches,
                None => {
                    let message = self.inbox.recv().map_err(|_| Ended::Stopped)?;
                    Self::hear(message, seq, covered)?;
                }
            }
        };
        let previous = match (&extent, layout.changed) {
            (Extent::Changed { since, .. }, Some(changed)) => {
                let previous = self.store.previous(*since, changed);
                Some(previous.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?)
            }
            _ => None,
        };
        let head =
            Head { previous, ..self.head(Position { seq, batches, replies, time }, layout, body.bytes()) };
        self.store.seal(body, &head)?;
        self.increments.stored(seq, digests, self.store.kept());
        Ok(Written { layout, bytes: head.body_bytes, took, places })
    }

    fn head(&self, position: Position, layout: Layout, body_bytes: u64) -> Head {
        let Position { seq, batches, replies, time } = position;
        Head {
            cluster: self.cluster,
            replica: self.me,
            members: self.members,
            seq,
            batches,
            replies,
            time,
            pages: layout.pages,
            table_bytes: layout.table_bytes,
            header_bytes: layout.header_bytes,
            body_bytes,
            previous: None,
        }
    }

    /// Until it succeeds: the replica does nothing else before.
    fn install(&mut self, installed: Installed) -> Result<(), Stopped> {
        let Installed { frozen, mark, progress } = installed;
        // It is of before that.
        self.waiting.lock().clear();
        let MarkStatement { seq, batches, replies, .. } = mark.statement;
        loop {
            if self.shared.stopping.load(Ordering::Relaxed) {
                return Err(Stopped);
            }
            let stopping = self.shared.clone();
            let mut pace = |_| match stopping.stopping.load(Ordering::Relaxed) {
                true => Err(io::Error::other("told to stop")),
                false => Ok(()),
            };
            let (all, time) = (Extent::All, frozen.time);
            let written = self.store.write(frozen.bytes(&all), &mut pace, |out| frozen.write_to(&all, out));
            let sealed = written.and_then(|(body, layout)| {
                let head = self.head(Position { seq, batches, replies, time }, layout, body.bytes());
                self.store.seal(body, &head)
            });
            match sealed {
                Ok(_) => break,
                Err(e) => {
                    let why = format!("checkpoint of place {seq}, which came from others: {e}");
                    self.shared.checkpoints.lock().failed = Some(e.to_string());
                    self.shared.error(why);
                    std::thread::sleep(INSTALL_AGAIN);
                }
            }
        }
        if self.shared.lacks_state() {
            // The own ones are of a wrong state, or lead to one.
            let wrong: Vec<Seq> = self.store.kept().iter().copied().filter(|kept| *kept != seq).collect();
            for kept in wrong {
                if let Err(e) = self.store.discard(kept) {
                    self.shared.error(format!("checkpoint of place {kept}, which is wrong: {e}"));
                }
            }
        }
        let mut view = self.shared.checkpoints.lock();
        view.kept = self.store.kept().to_vec();
        view.files = self.store.size();
        view.failed = None;
        drop(view);
        let _ = self.to_order.send(ToOrder::One(Input::Installed { state: mark, progress }));
        self.tell_older();
        // Two make room, and who has one alone has nothing to go back to.
        if self.store.older().is_none() {
            self.shared.checkpoint_wanted.store(true, Ordering::Relaxed);
        }
        if let Some(to_transfer) = &self.to_transfer {
            let _ = to_transfer.send(Tell::Installed(seq).into());
        }
        Ok(())
    }

    /// Checks equation (1) against what was measured: P > n · C_max · T_max.
    fn measure(&mut self, took: Duration, places: u64) {
        let yielded = self.pacer.yielded().min(took);
        // What it yielded it would not have to: the pacer goes on in time.
        let needed = 1.0 - yielded.as_secs_f64() / took.as_secs_f64().max(1e-6);
        self.stretch.add((places as f64 * needed).ceil() as u64);
        let (min, factor, period) =
            (self.stretch.smallest_period(), self.stretch.factor(), self.schedule.period());
        self.shared.checkpoint_stretch.store(factor, Ordering::Relaxed);
        let mut view = self.shared.checkpoints.lock();
        if factor > view.stretch.max(1) {
            ::log::warn!(
                "checkpoint.period = {period} is too small: a checkpoint takes {:.1} s, in which {places} places are decided, so that \
                 replicas write at the same time below {min}; from now on this one goes by {}",
                took.as_secs_f64(),
                period * factor
            );
        }
        (view.period_min, view.stretch) = (min, factor);
        (view.yielded_ms, view.calm_us) = (yielded.as_millis() as u64, self.pacer.calm_us());
    }
}

/// What the execute stage needs to take checkpoints.
pub struct Checkpoints {
    pub(super) schedule: Schedule,
    pub(super) mark_interval: u64,
    pub(super) stop_the_world: bool,
    pub(super) to_checkpoint: Sender<ToCheckpoint>,
    pub(super) waiting: Arc<Mutex<Waiting<Frozen>>>,
}

impl Checkpoints {
    /// Whether one is to be taken after place `seq`: in its turn, or because the log fills up.
    pub fn takes(&self, seq: Seq, shared: &Shared) -> bool {
        let pressed =
            || shared.checkpoint_wanted.load(Ordering::Relaxed) && seq.0.is_multiple_of(self.mark_interval);
        let stretch = shared.checkpoint_stretch.load(Ordering::Relaxed).max(1);
        self.schedule.takes(seq, stretch) || pressed()
    }

    /// Whether all replicas take the root of their state after place `seq`.
    pub fn roots(&self, seq: Seq) -> bool {
        self.schedule.roots(seq)
    }

    /// Hands over a state that came from others.
    pub fn install(&self, frozen: Frozen, mark: StateCertificate, progress: Vec<(SessionId, RequestNumber)>) {
        let installed = Box::new(Installed { frozen, mark, progress });
        let _ = self.to_checkpoint.send(ToCheckpoint::Install(installed));
    }

    /// Freezes and hands over what `freeze` gives. While another one is being written it is left out, unless the log fills up: then it
    /// waits ([`Waiting`]). It may be the last state that a full log lets come about, and only two make room.
    pub fn take(&self, freeze: impl FnOnce() -> Frozen, shared: &Shared) {
        let pressed = shared.checkpoint_wanted.swap(false, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        if shared.checkpointing.swap(true, Ordering::AcqRel) {
            match pressed {
                true => waiting.push(freeze()),
                false => shared.checkpoints.lock().skipped += 1,
            }
            return;
        }
        drop(waiting);
        let began = Instant::now();
        let frozen = freeze();
        shared.checkpoints.lock().freeze_us = began.elapsed().as_micros() as u64;
        let (written, ended) = self.stop_the_world.then(work).unzip();
        let _ = self.to_checkpoint.send(ToCheckpoint::Taken(Box::new(Taken { frozen, written })));
        if let Some(ended) = ended {
            ended.wait();
        }
    }
}
