//! The layer: rounds of logging and executing on the caller's thread, beside the log's own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::RwLock;

use super::record::{Assembler, Delivery, is_first};
use super::rounds::RoundStats;
use crate::log::{
    self, AppendRefusal, BLOCK_BYTES, Durable, DurableGate, Log, LogError, LogEvent, LogOptions, LogReader,
    Persisted, Record, RecoveryReport, record_bytes,
};
use crate::types::{Lsn, Seq};

/// How long a full log is waited for before it is looked at again.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// How long a log may stand still whose last reserve may be enough.
const FULL_PATIENCE: Duration = Duration::from_secs(1);

/// How long the disk is still waited for when the host is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How often a round that waits for the disk asks whether the host is to stop.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// When replies leave; see the [module](super).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Mode {
    Parallel,
    Batched,
    Naive,
    Async,
}

/// What the layer works for.
pub trait Host {
    /// What is delivered: operations in an order that is fixed.
    type Batch;
    /// What executing it gives.
    type Replies;

    /// What the log is to keep of it.
    fn delivery(&self, batch: &Self::Batch) -> Delivery;
    /// Executes it. Nothing of it may be seen from outside before [`Host::release`].
    fn execute(&mut self, batch: Self::Batch) -> Self::Replies;
    /// The replies may leave, in the order of execution: their batches are on disk.
    fn release(&mut self, replies: Durable<Vec<Self::Replies>>);
    /// [`Mode::Async`]: the replies may leave, though a crash may undo what they say.
    fn release_early(&mut self, replies: Vec<Self::Replies>);
    /// Every batch up to here is on disk. In [`Mode::Async`] some time after the release, else with it.
    fn logged(&mut self, upto: Seq);
    /// Whether it is to stop: then a disk that does not answer is not waited for much longer.
    fn is_stopping(&self) -> bool {
        false
    }
}

/// Bounds the waiting of a host that is to stop.
struct Patience<'a> {
    is_stopping: &'a dyn Fn() -> bool,
    since: Option<Instant>,
}

impl<'a> Patience<'a> {
    fn new(is_stopping: &'a dyn Fn() -> bool) -> Self {
        Self { is_stopping, since: None }
    }

    /// Errors: the host has been about to stop for too long.
    fn ask(&mut self) -> Result<(), LayerError> {
        if !(self.is_stopping)() {
            return Ok(());
        }
        match self.since.get_or_insert_with(Instant::now).elapsed() > STOP_PATIENCE {
            true => Err(LayerError::Stopped),
            false => Ok(()),
        }
    }
}

/// Why the layer has ended. Nothing is released any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayerError {
    /// A write failed.
    #[error("{0}")]
    Failed(String),
    /// The log is full to its last reserve.
    #[error("the log of decisions is full to its last reserve")]
    Full,
    /// The host was to stop, and the disk did not answer.
    #[error("stopped while the log of decisions waited for its disk")]
    Stopped,
    /// A batch is larger than the log takes.
    #[error("a batch is larger than the log of decisions takes")]
    TooLarge,
}

/// Where deliveries lie: first record and number of records.
type Index = BTreeMap<Seq, (Lsn, u32)>;

/// Opens the layer's log and gives every complete delivery in it to `on_delivery`, in the order of delivery.
/// Errors: as [`log::open`].
pub fn open(
    opts: LogOptions,
    mode: Mode,
    on_delivery: &mut dyn FnMut(Delivery) -> Result<(), String>,
) -> Result<OpenLayer, LogError> {
    let (mut assembler, mut index) = (Assembler::default(), Index::new());
    let open = log::open(opts, &mut |record| {
        if let Some((first, pieces, delivery)) = assembler.take(record)? {
            index.insert(delivery.seq, (first, pieces));
            on_delivery(delivery)?;
        }
        Ok(())
    })?;
    Ok(OpenLayer { open, index, mode })
}

/// Reads a layer's log without locking or changing it. Errors: as [`log::inspect`].
pub fn inspect(
    dir: &std::path::Path,
    on_delivery: &mut dyn FnMut(Delivery) -> Result<(), String>,
) -> Result<RecoveryReport, LogError> {
    let mut assembler = Assembler::default();
    log::inspect(dir, &mut |at| {
        if log::own_kind_name(at.record.kind).is_some() {
            return Ok(());
        }
        assembler.take(at.record)?.map_or(Ok(()), |(_, _, delivery)| on_delivery(delivery))
    })
}

/// A layer whose log was read and is not yet written.
pub struct OpenLayer {
    open: log::OpenLog,
    index: Index,
    mode: Mode,
}

impl OpenLayer {
    /// What the scan found.
    pub fn report(&self) -> &RecoveryReport {
        self.open.report()
    }

    /// Starts the log. `room` is told, on the log's thread, whether it takes new work.
    /// Errors: as [`log::OpenLog::start`].
    pub fn start(self, room: impl Fn(bool) + Send + Sync + 'static) -> Result<DurableLayer, LogError> {
        self.start_told(room, |_| {})
    }

    /// As [`OpenLayer::start`]; `news` is told, on the log's thread, that a poll would see something: with `true` a failure.
    pub fn start_told(
        self,
        room: impl Fn(bool) + Send + Sync + 'static,
        news: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<DurableLayer, LogError> {
        let (tell, events) = unbounded();
        let last = self.open.report().last_lsn;
        let events_in: Sender<Event> = tell;
        let (log, reader) = self.open.start(Box::new(move |event| match event {
            LogEvent::Persisted(persisted) => {
                let _ = events_in.send(Event::Durable(persisted, Instant::now()));
                news(false);
            }
            LogEvent::Failed(failed) => {
                let _ = events_in.send(Event::Failed(failed.to_string()));
                news(true);
            }
            LogEvent::Room(now) => room(now),
        }))?;
        let index = Arc::new(RwLock::new(self.index));
        let reader = DeliveryReader { log: reader, index };
        let (mode, stats) = (self.mode, RoundStats::default());
        let behind = VecDeque::new();
        Ok(DurableLayer { log, reader, events, mode, durable: last, persisted: None, behind, stats })
    }
}

/// What the log's thread says.
enum Event {
    Durable(Persisted, Instant),
    Failed(String),
}

/// The running layer. It works on the caller's thread.
pub struct DurableLayer {
    log: Log,
    reader: DeliveryReader,
    events: Receiver<Event>,
    mode: Mode,
    durable: Lsn,
    /// The log's last word; `None`: nothing was written since the start.
    persisted: Option<Persisted>,
    /// Released before they were durable.
    behind: VecDeque<(Lsn, Seq)>,
    stats: RoundStats,
}

impl DurableLayer {
    /// One round: logs and executes `batches`, which follow those delivered before, and releases their replies as the mode has it.
    ///
    /// Returns when all that was to be waited for has happened. Errors: what was not released never will be.
    pub fn deliver<H: Host>(&mut self, batches: Vec<H::Batch>, host: &mut H) -> Result<(), LayerError> {
        match self.mode {
            // Operations are written one by one, so batches are, too.
            Mode::Naive => batches.into_iter().try_for_each(|batch| self.round(vec![batch], host)),
            _ if batches.is_empty() => Ok(()),
            _ => self.round(batches, host),
        }
    }

    fn round<H: Host>(&mut self, batches: Vec<H::Batch>, host: &mut H) -> Result<(), LayerError> {
        let began = Instant::now();
        let deliveries: Vec<Delivery> = batches.iter().map(|batch| host.delivery(batch)).collect();
        let operations = deliveries.iter().map(|d| d.operations).sum();
        let upto = deliveries.last().map(|d| d.seq).unwrap_or_default();
        let mut last = self.durable;
        let mut logged = began;
        if self.mode == Mode::Naive {
            for delivery in &deliveries {
                for record in delivery.records(delivery.operations) {
                    last = self.append(vec![record], &*host)?;
                    logged = self.wait(last, &*host)?;
                }
            }
        } else {
            last = self.append(deliveries.iter().flat_map(|d| d.records(1)).collect(), &*host)?;
        }
        if self.mode == Mode::Batched {
            logged = self.wait(last, &*host)?;
        }
        let execution = Instant::now();
        let replies: Vec<H::Replies> = batches.into_iter().map(|batch| host.execute(batch)).collect();
        let execute = execution.elapsed();
        if self.mode == Mode::Async {
            host.release_early(replies);
            self.behind.push_back((last, upto));
            self.poll(host)?;
        } else {
            let mut gate = DurableGate::new(self.durable);
            let durable = gate.hold(last, replies);
            if self.mode == Mode::Parallel {
                logged = self.wait(last, &*host)?;
            }
            let durable = durable.or_else(|| gate.release(self.persisted.as_ref()?).next());
            host.release(durable.expect("its last record was waited for"));
            host.logged(upto);
        }
        self.stats.add(operations, execute, logged - began, began.elapsed());
        Ok(())
    }

    /// Queues records, in one piece if they are not very large. Returns the last one's number.
    fn append<H: Host>(&mut self, records: Vec<Record>, host: &H) -> Result<Lsn, LayerError> {
        let is_stopping = || host.is_stopping();
        // What is handed over at a time must fit into the queue.
        let most = self.log.queued_bytes_max() / 2;
        let mut patience = Patience::new(&is_stopping);
        let mut last = Lsn(self.log.next_lsn().0 - 1);
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for record in records {
            let size = record_bytes(record.payload_bytes());
            if bytes + size > most && !chunk.is_empty() {
                last = self.append_chunk(std::mem::take(&mut chunk), &mut patience)?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(record);
        }
        if !chunk.is_empty() {
            last = self.append_chunk(chunk, &mut patience)?;
        }
        Ok(last)
    }

    fn append_chunk(
        &mut self,
        mut records: Vec<Record>,
        patience: &mut Patience<'_>,
    ) -> Result<Lsn, LayerError> {
        let places: Vec<(Seq, bool)> = records.iter().map(|r| (r.seq, is_first(r))).collect();
        let first = self.log.next_lsn();
        let mut reserve = false;
        let mut still = (0, Instant::now());
        loop {
            match self.log.append_all(records, reserve) {
                Ok(last) => {
                    let mut index = self.reader.index.write();
                    for (lsn, (seq, first)) in (first.0..).map(Lsn).zip(places) {
                        match index.get_mut(&seq) {
                            Some((_, pieces)) if !first => *pieces += 1,
                            _ => {
                                index.insert(seq, (lsn, 1));
                            }
                        }
                    }
                    return Ok(last);
                }
                Err((AppendRefusal::Full, back)) => {
                    records = back;
                    patience.ask()?;
                    std::thread::sleep(FULL_WAIT);
                }
                // Decided before the host heard of it: the reserve is for this.
                Err((AppendRefusal::NoRoom, back)) if !reserve => {
                    records = back;
                    reserve = true;
                }
                // What is queued, and each of these records, was taken for more than it is on disk: alone in its block.
                Err((AppendRefusal::NoRoom, mut back)) if back.len() > 1 => {
                    let rest = back.split_off(back.len() / 2);
                    self.append_chunk(back, patience)?;
                    return self.append_chunk(rest, patience);
                }
                Err((AppendRefusal::NoRoom, back)) => {
                    let queued = self.log.queued_bytes();
                    if still.0 != queued {
                        still = (queued, Instant::now());
                    }
                    if queued == 0 || still.1.elapsed() > FULL_PATIENCE {
                        return Err(LayerError::Full);
                    }
                    records = back;
                    patience.ask()?;
                    std::thread::sleep(FULL_WAIT);
                }
                Err((AppendRefusal::TooLarge, _)) => return Err(LayerError::TooLarge),
                Err((AppendRefusal::Failed, _)) => return Err(self.failure()),
            }
        }
    }

    /// Waits until `lsn` is durable; when that was.
    fn wait<H: Host>(&mut self, lsn: Lsn, host: &H) -> Result<Instant, LayerError> {
        let mut at = Instant::now();
        let is_stopping = || host.is_stopping();
        let mut patience = Patience::new(&is_stopping);
        while self.durable < lsn {
            match self.events.recv_timeout(STOP_LOOK) {
                Ok(Event::Durable(persisted, when)) => {
                    at = when;
                    self.persisted(persisted);
                }
                Ok(Event::Failed(why)) => return Err(LayerError::Failed(why)),
                Err(RecvTimeoutError::Timeout) => patience.ask()?,
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure()),
            }
        }
        Ok(at)
    }

    fn persisted(&mut self, persisted: Persisted) {
        self.durable = persisted.upto();
        self.persisted = Some(persisted);
    }

    /// Why the log failed, from its last words.
    fn failure(&self) -> LayerError {
        let words = self.events.try_iter().find_map(|event| match event {
            Event::Failed(why) => Some(why),
            Event::Durable(..) => None,
        });
        LayerError::Failed(words.unwrap_or_else(|| "the log of decisions ended".into()))
    }

    /// Tells the host what has become durable since; only [`Mode::Async`] has anything to tell.
    pub fn poll<H: Host>(&mut self, host: &mut H) -> Result<(), LayerError> {
        for event in self.events.try_iter() {
            match event {
                Event::Durable(persisted, _) => {
                    (self.durable, self.persisted) = (persisted.upto(), Some(persisted))
                }
                Event::Failed(why) => return Err(LayerError::Failed(why)),
            }
        }
        let mut upto = None;
        while self.behind.front().is_some_and(|(lsn, _)| *lsn <= self.durable) {
            upto = self.behind.pop_front().map(|(_, seq)| seq);
        }
        if let Some(upto) = upto {
            host.logged(upto);
        }
        Ok(())
    }

    /// Deliveries up to this place are not asked for any more: their segments are used again.
    pub fn recycle(&self, upto: Seq) {
        let mut index = self.reader.index.write();
        let kept = index.split_off(&upto.next());
        *index = kept;
        // A place may have come twice; the records of the later ones decide.
        let below = index.values().map(|(first, _)| *first).min().unwrap_or(self.durable.next());
        self.log.recycle(below);
    }

    /// Whether something released waits for its write.
    pub fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// When replies leave.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Reads deliveries back, from any thread.
    pub fn reader(&self) -> DeliveryReader {
        self.reader.clone()
    }

    /// What rounds took so far.
    pub fn stats(&self) -> RoundStats {
        self.stats
    }

    /// The log's counters.
    pub fn log_stats(&self) -> log::LogStats {
        self.log.stats()
    }

    /// Whether the log takes new work.
    pub fn has_room(&self) -> bool {
        self.log.has_room()
    }

    /// How many bytes of records a round may have now without waiting for room in the log's queue. An empty queue takes every delivery.
    pub fn queue_room(&self) -> usize {
        // The log may append a small record of its own.
        self.log.queued_bytes_max().saturating_sub(self.log.queued_bytes() + BLOCK_BYTES)
    }

    /// Which way its writes reach the disk.
    pub fn backend(&self) -> &str {
        self.log.backend()
    }

    /// Writes what is queued, waits for it and ends the log's threads.
    pub fn stop(self) {
        self.log.stop();
    }

    /// As [`DurableLayer::stop`], but gives up after `patience`; see [`Log::stop_within`].
    pub fn stop_within(self, patience: Duration) -> bool {
        self.log.stop_within(patience)
    }
}

/// Reads deliveries back by their place.
#[derive(Clone)]
pub struct DeliveryReader {
    log: LogReader,
    index: Arc<RwLock<Index>>,
}

impl DeliveryReader {
    /// The last place before the newest segments that together take at least `bytes`; place 0 if there is none.
    pub fn place_before(&self, bytes: u64) -> Seq {
        let keep = self.log.keep_from(bytes);
        let index = self.index.read();
        index.iter().rev().find(|(_, (first, _))| *first < keep).map_or(Seq(0), |(seq, _)| *seq)
    }

    /// The delivery of this place; `None`: there is none, or not all of it is durable yet.
    /// Errors: damage, and a disk that cannot be read.
    pub fn read(&self, seq: Seq) -> Result<Option<Delivery>, LogError> {
        let Some((first, pieces)) = self.index.read().get(&seq).copied() else { return Ok(None) };
        let mut assembler = Assembler::default();
        for lsn in (first.0..first.0 + u64::from(pieces)).map(Lsn) {
            let record = match self.log.read(lsn) {
                Ok(record) => record,
                Err(LogError::NotThere(_)) => return Ok(None),
                Err(e) => return Err(e),
            };
            let taken = assembler.take(record).map_err(|why| LogError::Refused { lsn, why })?;
            if let Some((_, _, delivery)) = taken {
                return Ok(Some(delivery));
            }
        }
        Ok(None)
    }
}
