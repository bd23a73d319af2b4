//! From what is on disk to an executed state: the newest checkpoint that can be read, and the log behind it.
//!
//! Three things go on at once: chunks of the checkpoint are read and hashed, the state is built from them, and the log is read,
//! checked and hashed; what its marks cover is executed as soon as the state is there. A checkpoint that turns out to be damaged is
//! left out, and the one before it is taken: the log still leads on from there (RULES 3).

use super::decisions::certificate_of;
use super::progress::RecoveryProgress;
use super::start_error::StartError;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::frozen::{Frozen, resume, thaw};
use crate::checkpoint::opened::Opened;
use crate::checkpoint::schedule::Schedule;
use crate::checkpoint::store::Store;
use crate::durable::{self, Mode, OpenLayer};
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::log::{self, DamagedRecord, LogError, LogOptions, OpenLog, Scanned};
use crate::order::durable::Base;
use crate::order::record::OrderRecord;
use crate::order::restore::{Replay, RestoreError};
use crate::service::Service;
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::batch::Batch;
use crossbeam::channel::{Sender, bounded};
use std::path::PathBuf;

/// Batches between reading and executing the log.
const REPLAY_BATCHES: usize = 64;

/// Damaged records that are named one by one.
const DAMAGED_NAMED: u64 = 8;

/// States kept of those passed.
pub const PASSED_MAX: usize = 2;

/// What a start reads from.
pub struct Recovery<'a> {
    pub(super) auth: &'a Authenticator,
    pub(super) options: LogOptions,
    /// The log of decisions, where there is one.
    pub(super) layer_options: Option<(Mode, LogOptions)>,
    pub(super) table: ClientTableLimits,
    /// Where all replicas take the root of their state.
    pub(super) schedule: Option<Schedule>,
    /// Places between marks.
    pub(super) mark_interval: u64,
    pub(super) progress: &'a RecoveryProgress,
    /// A state can be had from others.
    pub(super) transfers: bool,
}

/// What it found.
pub struct Recovered {
    pub(super) executor: Executor,
    pub(super) open: OpenLog,
    pub(super) open_layer: Option<OpenLayer>,
    pub(super) replay: Replay,
    /// States passed at places where all replicas take their root, the last ones.
    pub(super) passed: Vec<Frozen>,
    /// Why what is executed is worth nothing: the log leads on from nothing that is here.
    pub(super) lacks_state: Option<String>,
    /// Where less than two checkpoints are on disk: the last state passed at a mark, below the executed one. Only a log that is full
    /// needs it: nothing more is executed then, and two checkpoints of two places make room.
    pub(super) spare: Option<Frozen>,
}

/// What an attempt with one checkpoint ends in, if not well.
enum Failed {
    /// The checkpoint: the service is as it was.
    Checkpoint(Box<dyn Service>, CheckpointError),
    Start(StartError),
}

impl Recovery<'_> {
    /// Reads the newest checkpoint that can be read, and what follows it.
    pub fn run(&self, mut service: Box<dyn Service>, store: &mut Store) -> Result<Recovered, StartError> {
        let (cluster, members) = (self.auth.hasher.cluster, self.auth.members);
        while let Some(seq) = store.kept().last().copied() {
            let opened = store.read(seq, cluster, members).map(|mut opened| {
                opened.progress = self.progress.checkpoint.clone();
                opened
            });
            let failed = match opened {
                Ok(opened) => match self.attempt(service, Some(opened), store.kept().len() < 2) {
                    Ok(recovered) => return self.sound(recovered),
                    Err(Failed::Start(e)) => return Err(e),
                    Err(Failed::Checkpoint(back, why)) => {
                        service = back;
                        why
                    }
                },
                Err(why) => why,
            };
            let path = store.path(seq);
            // One of something else is left alone, and so is all where the disk does not answer.
            if !matches!(failed, CheckpointError::Damaged(_)) {
                return Err(StartError::Checkpoint { path, why: failed });
            }
            ::log::warn!("{}: {failed}: going back to what is before it", path.display());
            store.discard(seq)?;
        }
        let recovered = self.attempt(service, None, true).map_err(|failed| match failed {
            Failed::Start(e) => e,
            Failed::Checkpoint(..) => unreachable!("there was none"),
        })?;
        self.sound(recovered)
    }

    /// A state that the log does not lead on from, or that others do not have, counts for nothing. The log does: what was voted and
    /// promised is in it.
    fn sound(&self, recovered: Recovered) -> Result<Recovered, StartError> {
        let mark = recovered.replay.durable().mark.statement;
        let executor = &recovered.executor;
        let differs = executor.executed() == mark.seq && executor.reply_chain() != mark.replies;
        let why = match recovered.replay.check() {
            _ if !self.transfers || recovered.lacks_state.is_some() => return Ok(recovered),
            Err(why @ RestoreError::Gap { .. }) => why,
            Ok(()) if differs => RestoreError::Replies(mark.seq),
            _ => return Ok(recovered),
        };
        let Recovered { executor, open, open_layer, .. } = recovered;
        drop((open, open_layer));
        self.without_state(executor, why.to_string())
    }

    /// Reads the logs for what was voted and promised alone.
    fn without_state(&self, executor: Executor, why: String) -> Result<Recovered, StartError> {
        let (ready_in, ready_out) = bounded::<Batch>(REPLAY_BATCHES);
        drop(ready_out);
        let (replay, open, open_layer) = self.read(None, ready_in)?;
        Ok(Recovered {
            executor,
            open,
            open_layer,
            replay,
            passed: Vec::new(),
            lacks_state: Some(why),
            spare: None,
        })
    }

    /// `alone`: there is no second checkpoint.
    fn attempt(
        &self,
        service: Box<dyn Service>,
        opened: Option<Opened>,
        alone: bool,
    ) -> Result<Recovered, Failed> {
        let base = match &opened {
            Some(opened) => Some(Base { seq: opened.head.seq, batches: opened.head.batches }),
            None => Some(Base::default()),
        };
        let (ready_in, ready_out) = bounded::<Batch>(REPLAY_BATCHES);
        let (table, hasher, schedule) = (self.table, self.auth.hasher, self.schedule);
        let spare_every = schedule.filter(|_| alone).map(|_| self.mark_interval);
        let execute = std::thread::Builder::new().name("duramen-replay".into()).spawn(move || {
            let mut service = service;
            let mut executor = match opened {
                None => Executor::new(service, ClientTable::new(table), hasher),
                Some(opened) => match thaw(&opened, &mut service, table) {
                    Ok(table) => {
                        ::log::info!("checkpoint of place {}, root {}", opened.head.seq, opened.root);
                        resume(&opened, service, table, hasher)
                    }
                    Err(why) => return Err((service, why)),
                },
            };
            let mut passed = Vec::new();
            let mut pass = |executor: &Executor| {
                if schedule.is_some_and(|s| s.roots(executor.executed())) {
                    passed.push(executor.freeze());
                    // Each keeps pages from being written in place.
                    if passed.len() > PASSED_MAX {
                        passed.remove(0);
                    }
                }
            };
            pass(&executor);
            let (mut spare, mut last) = (None, None);
            for batch in ready_out {
                // One more place follows what was passed last.
                spare = last.take().or(spare);
                executor.execute(&batch);
                pass(&executor);
                if spare_every.is_some_and(|every| executor.executed().0.is_multiple_of(every)) {
                    last = Some(executor.freeze());
                }
            }
            Ok((executor, passed, spare))
        });
        let execute = execute.map_err(|e| Failed::Start(e.into()))?;
        let read = self.read(base, ready_in);
        match execute.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(Err((service, why))) => Err(Failed::Checkpoint(service, why)),
            Ok(Ok((executor, passed, spare))) => {
                let too_old = |e: &StartError| match e {
                    StartError::Restore { why: RestoreError::Impossible(i), .. } => i.is_too_old_checkpoint(),
                    _ => false,
                };
                if self.transfers && read.as_ref().is_err_and(too_old) {
                    let why = "the checkpoint that can be read ends before the log begins";
                    return self.without_state(executor, why.into()).map_err(Failed::Start);
                }
                let (replay, open, open_layer) = read.map_err(Failed::Start)?;
                let lacks_state = replay.is_hollow().then(|| "no checkpoint can be read".to_owned());
                Ok(Recovered { executor, open, open_layer, replay, passed, lacks_state, spare })
            }
        }
    }

    fn replay(&self, base: Option<Base>, first: Lsn) -> Replay {
        match base {
            Some(base) => Replay::new(self.auth.clone(), base, first),
            None => Replay::hollow(self.auth.clone(), first),
        }
    }

    /// Reads both logs and hands out what their marks cover above `base`; `None`: nothing.
    fn read(
        &self,
        base: Option<Base>,
        ready_in: Sender<Batch>,
    ) -> Result<(Replay, OpenLog, Option<OpenLayer>), StartError> {
        let mut replay: Option<Replay> = None;
        let mut wrong: Option<(PathBuf, RestoreError)> = None;
        let hand = |batches: Vec<Batch>| {
            let ended = |_| "execution ended early".to_owned();
            batches.into_iter().try_for_each(|batch| ready_in.send(batch).map_err(ended))
        };
        let mut refuse = |dir: &PathBuf, why: RestoreError| {
            let text = why.to_string();
            wrong = Some((dir.clone(), why));
            text
        };
        let dir = self.options.dir.clone();
        let mut damaged = 0;
        let opened = log::open_damaged(self.options.clone(), &mut |found| {
            let (Scanned::Whole(r) | Scanned::Damaged(DamagedRecord { record: r, .. })) = &found;
            // Where the log begins, its first record tells.
            let replay = replay.get_or_insert_with(|| {
                let base = base.filter(|base| *base != Base::default() || r.lsn == Lsn(1) || !self.transfers);
                self.replay(base, r.lsn)
            });
            match found {
                Scanned::Whole(r) => {
                    let record = OrderRecord::decode(r.kind, r.seq, r.view, r.digest, r.payload)
                        .map_err(|e| format!("record {}: {e}", r.lsn))?;
                    hand(replay.record(&record).map_err(|why| refuse(&dir, why))?)?;
                    Ok(true)
                }
                Scanned::Damaged(d) => {
                    let r = &d.record;
                    let taken = replay.damaged(r.kind, r.seq, r.view, r.digest, &r.payload);
                    let taken = taken.map_err(|why| refuse(&dir, why))?;
                    damaged += u64::from(taken);
                    if taken && damaged <= DAMAGED_NAMED {
                        ::log::warn!(
                            "{}: segment {}, byte {}: record {} of place {} is damaged; others are asked for what it held",
                            dir.display(),
                            d.segment,
                            d.offset,
                            r.lsn,
                            r.seq
                        );
                    }
                    Ok(taken)
                }
            }
        });
        if damaged > DAMAGED_NAMED {
            ::log::warn!("{}: {damaged} damaged records in all", dir.display());
        }
        let mut replay = replay.unwrap_or_else(|| self.replay(base, Lsn(1)));
        let mut opened_layer = None;
        if let (Ok(_), Some((mode, options))) = (&opened, &self.layer_options) {
            let dir = options.dir.clone();
            opened_layer = Some(durable::open(options.clone(), *mode, &mut |delivery| {
                let certificate = certificate_of(&delivery)?;
                hand(replay.decision(certificate, delivery.body).map_err(|why| refuse(&dir, why))?)
            }));
        }
        if let Some((dir, why)) = wrong {
            return Err(StartError::Restore { dir, why });
        }
        let open = opened?;
        let open_layer = opened_layer.transpose().map_err(|e: LogError| e)?;
        Ok((replay, open, open_layer))
    }
}
