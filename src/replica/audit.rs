//! A replica's log executed once more, and what that gives held against what a quorum signed.
//!
//! Every mark in the log says which replies a quorum had up to its place. An executor that starts from a checkpoint, or from
//! nothing, and takes the batches of the log must come to the same ones: else the log, the checkpoint or the service is not what it
//! was, or the service is not deterministic. Nothing is changed on disk; a log in use is refused.

use super::decisions::{certificate_of, layer_mode};
use super::start_error::StartError;
use super::startup::authenticator;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::frozen::{resume, thaw};
use crate::checkpoint::opened::Opened;
use crate::checkpoint::store::Store;
use crate::config::Config;
use crate::data_dir;
use crate::durable;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::keys::ReplicaKeys;
use crate::log::{self, LogError};
use crate::order::durable::Base;
use crate::order::record::OrderRecord;
use crate::order::restore::{Replay, RestoreError};
use crate::service::Service;
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::batch::Batch;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to execute again.
pub struct AuditOptions {
    /// The cluster.
    pub config: Config,
    /// Its folder.
    pub dir: PathBuf,
    /// Whose log.
    pub id: ReplicaId,
    /// What is replicated, in its initial state.
    pub service: Box<dyn Service>,
    /// Not from a checkpoint; only a log of which nothing was recycled has its beginning.
    pub from_beginning: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audit {
    /// The checkpoint it started from.
    pub from: Option<Seq>,
    /// Places executed.
    pub places: u64,
    /// Requests in them.
    pub operations: u64,
    /// Marks that were held against the replies.
    pub marks: u64,
    /// The last place executed.
    pub executed: Seq,
    /// The last place a mark in the log covers: beyond `executed`, the log lacks a batch.
    pub marked: Seq,
    /// Of the state there, as `status` shows it.
    pub digest: Digest,
    /// Reading, checking and executing.
    pub took: Duration,
    /// The first thing that is not as a quorum signed it; nothing behind it was executed.
    pub difference: Option<Difference>,
}

/// What is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The replies up to a place.
    Replies {
        /// The place.
        seq: Seq,
        /// Their history's digest as the mark says.
        signed: Digest,
        /// As executing gives it.
        found: Digest,
    },
    /// A mark that no quorum signed.
    Unproven(Seq),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replies { seq, signed, found } => write!(
                f,
                "at place {seq} a quorum's mark says that the replies come to {signed}, and executing the log gives {found}"
            ),
            Self::Unproven(seq) => write!(f, "the mark at place {seq} is not signed by a quorum"),
        }
    }
}

/// Executes a replica's log. Errors: a log in use, damaged, or not this cluster's; no checkpoint where one is needed.
/// A difference is no error here.
pub fn audit(options: AuditOptions) -> Result<Audit, StartError> {
    let AuditOptions { config, dir, id, mut service, from_beginning } = options;
    if config.replica(id).is_none() {
        return Err(StartError::NoSuchReplica { id, last: config.group().n() - 1 });
    }
    let keys = ReplicaKeys::load(&data_dir::replica_key_file(&dir, id), &config, id)?;
    let auth = authenticator(&config, &keys, id);
    let log_dir = data_dir::log_dir(&dir, id);
    if !log_dir.is_dir() {
        return Err(LogError::NotFormatted(log_dir).into());
    }
    let _lock = log::lock(&log_dir)?;
    let began = Instant::now();
    let table = ClientTableLimits {
        sessions_per_client_max: config.limits.sessions_per_client as usize,
        ..ClientTableLimits::default()
    };
    let checkpoint_dir = data_dir::checkpoint_dir(&dir, &config, id);
    let found = match from_beginning || !checkpoint_dir.is_dir() {
        true => None,
        false => newest(&Store::look(&checkpoint_dir)?, &auth, &mut service, table)?,
    };
    let (base, from, executor) = match found {
        Some((opened, table)) => {
            let base = Base { seq: opened.head.seq, batches: opened.head.batches };
            (base, Some(base.seq), resume(&opened, service, table, auth.hasher))
        }
        None => (Base::default(), None, Executor::new(service, ClientTable::new(table), auth.hasher)),
    };

    let mut course = Course {
        auth: &auth,
        base,
        executor,
        signed: BTreeMap::new(),
        places: 0,
        operations: 0,
        marks: 0,
        difference: None,
    };
    let mut replay: Option<Replay> = None;
    let mut wrong = None;
    let mut damaged = 0;
    let read = log::inspect_damaged(&log_dir, &mut |at, whole| {
        if log::own_kind_name(at.record.kind).is_some() {
            return Ok(true);
        }
        let r = at.record;
        let replay = replay.get_or_insert_with(|| Replay::new(auth.clone(), base, r.lsn));
        if !whole {
            // A later record may hold the batch; where none does, the execution ends there.
            damaged += 1;
            let taken = replay.damaged(r.kind, r.seq, r.view, r.digest, &r.payload);
            return taken.map_err(|why| refuse(&mut wrong, why));
        }
        let record = OrderRecord::decode(r.kind, r.seq, r.view, r.digest, r.payload)
            .map_err(|e| format!("record {}: {e}", r.lsn))?;
        course.mark(&record)?;
        let batches = replay.record(&record).map_err(|why| refuse(&mut wrong, why))?;
        course.execute(batches)?;
        Ok(true)
    });
    if damaged > 0 {
        ::log::warn!("{}: {damaged} records are damaged, and nothing of them is executed", log_dir.display());
    }
    let mut replay = replay.unwrap_or_else(|| Replay::new(auth.clone(), base, Lsn(1)));
    let decisions = data_dir::decisions_dir(&dir, id);
    let read = match (read, layer_mode(config.durability)) {
        (Ok(_), Some(_)) => durable::inspect(&decisions, &mut |delivery| {
            let certificate = certificate_of(&delivery)?;
            let batches =
                replay.decision(certificate, delivery.body).map_err(|why| refuse(&mut wrong, why))?;
            course.execute(batches)
        }),
        (read, _) => read,
    };
    let restore = |why| StartError::Restore { dir: log_dir.clone(), why };
    if let Some(why) = wrong {
        return Err(restore(why));
    }
    if course.difference.is_none() {
        read?;
        replay.check().map_err(restore)?;
    }
    Ok(Audit {
        from,
        places: course.places,
        operations: course.operations,
        marks: course.marks,
        executed: course.executor.executed(),
        marked: replay.durable().mark.statement.seq,
        digest: course.executor.digest(),
        took: began.elapsed(),
        difference: course.difference,
    })
}

fn refuse(wrong: &mut Option<RestoreError>, why: RestoreError) -> String {
    let text = why.to_string();
    *wrong = Some(why);
    text
}

/// The newest checkpoint that can be read. Errors: one that is no checkpoint of this replica.
fn newest(
    store: &Store,
    auth: &Authenticator,
    service: &mut Box<dyn Service>,
    table: ClientTableLimits,
) -> Result<Option<(Opened, ClientTable)>, StartError> {
    for seq in store.kept().iter().rev().copied() {
        let read = store.read(seq, auth.hasher.cluster, auth.members);
        match read.and_then(|opened| thaw(&opened, service, table).map(|table| (opened, table))) {
            Ok(found) => return Ok(Some(found)),
            Err(why @ CheckpointError::Damaged(_)) => {
                ::log::warn!("{}: {why}: going back to what is before it", store.path(seq).display());
            }
            Err(why) => return Err(StartError::Checkpoint { path: store.path(seq), why }),
        }
    }
    Ok(None)
}

/// The execution, and the marks it has yet to reach.
struct Course<'a> {
    auth: &'a Authenticator,
    base: Base,
    executor: Executor,
    /// Reply histories that a quorum signed, by place.
    signed: BTreeMap<Seq, Digest>,
    places: u64,
    operations: u64,
    marks: u64,
    difference: Option<Difference>,
}

impl Course<'_> {
    /// Takes a mark's word for what is to come. Errors: nobody gave it.
    fn mark(&mut self, record: &OrderRecord) -> Result<(), String> {
        let OrderRecord::Mark { mark, .. } = record else { return Ok(()) };
        let statement = mark.statement;
        if !self.auth.mark_ok(mark) {
            return self.differs(Difference::Unproven(statement.seq));
        }
        // Of what a checkpoint covers only its own place can be held against anything.
        if statement.seq >= self.base.seq && statement.seq > Seq(0) {
            self.signed.insert(statement.seq, statement.replies);
        }
        self.compare()
    }

    fn execute(&mut self, batches: Vec<Batch>) -> Result<(), String> {
        for batch in batches {
            self.executor.execute(&batch);
            self.places += 1;
            self.operations += batch.requests() as u64;
            self.compare()?;
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        let (seq, found) = (self.executor.executed(), self.executor.reply_chain());
        match self.signed.remove(&seq) {
            None => Ok(()),
            Some(signed) if signed == found => {
                self.marks += 1;
                Ok(())
            }
            Some(signed) => self.differs(Difference::Replies { seq, signed, found }),
        }
    }

    fn differs(&mut self, difference: Difference) -> Result<(), String> {
        let text = difference.to_string();
        self.difference = Some(difference);
        Err(text)
    }
}
