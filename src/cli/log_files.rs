//! `duramen log`: looks at a replica's log while the replica does not run.

use std::path::{Path, PathBuf};

use duramen::config::Config;
use duramen::log::{Inspected, RecoveryReport, inspect, own_kind_name};
use duramen::order::durable::{Base, DurableState};
use duramen::order::record::OrderRecord;
use duramen::types::{Lsn, Seq};
use duramen::wire::batch::{Batch, Hasher};

use super::{CliError, emit};

/// What to do with which log.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(subcommand)]
    pub action: Action,
}

/// One look at a log.
#[derive(clap::Subcommand, Debug, PartialEq)]
pub enum Action {
    /// Print every record's header, one line each
    Dump {
        /// A replica's folder, such as duramen-data/replica-0, or the log folder in it
        dir: PathBuf,
    },
    /// Check every segment and record; name the first damage
    Verify {
        /// A replica's folder, such as duramen-data/replica-0, or the log folder in it
        dir: PathBuf,
    },
}

/// Reads a log and prints what it finds; fails with the position if it is damaged. Changes nothing.
pub fn run(args: Args) -> Result<(), CliError> {
    match args.action {
        Action::Dump { dir } => dump(&log_dir(dir)),
        Action::Verify { dir } => {
            let decisions = dir.join("decisions");
            verify(&log_dir(dir))?;
            if decisions.is_dir() { verify(&decisions) } else { Ok(()) }
        }
    }
}

/// Whether this is a log of decisions (in the paper's modes) and not one of votes.
fn holds_decisions(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name == "decisions")
}

fn log_dir(dir: PathBuf) -> PathBuf {
    let log = dir.join("log");
    if log.is_dir() { log } else { dir }
}

fn dump(dir: &Path) -> Result<(), CliError> {
    // What emitting met ends the reading; it comes back through here.
    let mut ended = None;
    let decisions = holds_decisions(dir);
    let result = inspect(dir, &mut |at: Inspected| {
        emit(line(&at, decisions)).map_err(|error| {
            ended = Some(error);
            "the output ended".to_owned()
        })
    });
    match ended {
        Some(error) => Err(error),
        None => Ok(result.map(drop)?),
    }
}

fn line(at: &Inspected, decisions: bool) -> String {
    let Inspected { segment, offset, boot_epoch, durable_lsn, record } = at;
    let (lsn, seq, view, bytes) = (record.lsn, record.seq, record.view, record.payload.len());
    let what = match own_kind_name(record.kind) {
        Some(name) => format!("{name:<13}"),
        None if decisions => format!("{:<13}seq {seq} view {view} digest {:?}", "decided", record.digest),
        None => {
            let decoded = OrderRecord::decode(record.kind, seq, view, record.digest, record.payload.clone());
            match decoded {
                Ok(decoded) => describe(&decoded),
                Err(e) => format!("kind {} that cannot be read: {e}", record.kind),
            }
        }
    };
    format!(
        "lsn {lsn}  {what}  payload {bytes} B, segment {segment} offset {offset}, start {boot_epoch}, durable {durable_lsn}"
    )
}

fn describe(record: &OrderRecord) -> String {
    match record {
        OrderRecord::ViewEntered { view, reserve } => {
            format!("{:<13}view {view}, votes up to seq {reserve}", "view-entered")
        }
        OrderRecord::Reserve { view, reserve } => {
            format!("{:<13}view {view}, votes up to seq {reserve}", "reserve")
        }
        OrderRecord::Prepared { certificate: c, batch } => format!(
            "{:<13}seq {} view {} digest {:?}, {} signatures, batch {} B",
            "prepared",
            c.seq,
            c.view,
            c.digest,
            c.signatures.len(),
            batch.len()
        ),
        OrderRecord::PreparedRef { certificate: c } => format!(
            "{:<13}seq {} view {} digest {:?}, {} signatures, batch logged before",
            "prepared-ref",
            c.seq,
            c.view,
            c.digest,
            c.signatures.len()
        ),
        OrderRecord::Learner => format!("{:<13}in place of a lost log: no votes yet", "learner"),
        OrderRecord::Rejoined { view } => format!("{:<13}votes again after view {view}", "rejoined"),
        OrderRecord::Mark { mark, digests } => format!(
            "{:<13}seq {} chain {:?}, {} signatures, {} digests",
            "mark",
            mark.statement.seq,
            mark.statement.batches,
            mark.signatures.len(),
            digests.len()
        ),
        OrderRecord::Batch { seq, digest, batch } => {
            format!("{:<13}seq {seq} digest {digest:?}, batch {} B", "batch", batch.len())
        }
        OrderRecord::Control(control) => format!(
            "{:<13}reserve {}, era {}, mark at seq {}, {} prepared above it, {} reported",
            "control",
            control.reserve,
            control.era,
            control.prepared.0.statement.seq,
            control.prepared.1.len(),
            control.report.1.len()
        ),
        OrderRecord::Transferred { state } => format!(
            "{:<13}seq {} state {:?}, {} signatures, mark at seq {}",
            "transferred",
            state.statement.seq,
            state.statement.state,
            state.signatures.len(),
            state.mark.statement.seq
        ),
        OrderRecord::NewEra { era } => {
            format!("{:<13}{era}: votes forgotten before count as never cast", "new-era")
        }
    }
}

/// Checks the log, that its records could follow each other, and that batches are what their digests name.
fn verify(dir: &Path) -> Result<(), CliError> {
    let config = cluster_config(dir)?;
    if holds_decisions(dir) {
        return verify_decisions(dir, &config);
    }
    let hasher = Hasher { cluster: config.cluster, algorithm: config.digest };
    let mut state: Option<DurableState> = None;
    let (mut batches, mut requests) = (0u64, 0u64);
    let report = inspect(dir, &mut |at: Inspected| {
        let record = at.record;
        if own_kind_name(record.kind).is_some() {
            return Ok(());
        }
        let place = |why: String| format!("segment {}, offset {}: {why}", at.segment, at.offset);
        let decoded =
            OrderRecord::decode(record.kind, record.seq, record.view, record.digest, record.payload)
                .map_err(|e| place(e.to_string()))?;
        if let OrderRecord::Prepared { batch, .. } | OrderRecord::Batch { batch, .. } = &decoded {
            let batch = Batch::decode(&hasher, record.seq, batch.clone())
                .map_err(|e| place(format!("its batch cannot be read: {e}")))?;
            if batch.digest != record.digest {
                return Err(place("its batch is not the one its digest names".into()));
            }
            batches += 1;
            requests += batch.requests() as u64;
        }
        // What a log without its beginning leads to, its checkpoints tell.
        let begins = record.lsn == Lsn(1);
        let base = if begins { Base::default() } else { Base::ANYWHERE };
        let state = state.get_or_insert_with(|| DurableState::new(hasher, base, record.lsn));
        state.apply(record.lsn, &decoded).map_err(|e| place(e.to_string()))
    })?;
    let state = state.unwrap_or_else(|| DurableState::new(hasher, Base::default(), Lsn(1)));
    let (view, mark, prepared) = (state.view, state.mark.statement.seq, state.prepared().count());
    found(&report)?;
    emit(format_args!(
        "view {view}, mark at seq {mark}, {prepared} prepared above it; {batches} batches with {requests} requests"
    ))?;
    torn(&report)
}

/// Checks a log of decisions, and that batches are what their digests name.
fn verify_decisions(dir: &Path, config: &Config) -> Result<(), CliError> {
    let hasher = Hasher { cluster: config.cluster, algorithm: config.digest };
    let (mut batches, mut requests, mut last) = (0u64, 0u64, Seq(0));
    let report = duramen::durable::inspect(dir, &mut |delivery| {
        let place = |why: String| format!("place {}: {why}", delivery.seq);
        let batch = Batch::decode(&hasher, delivery.seq, delivery.body.clone())
            .map_err(|e| place(format!("its batch cannot be read: {e}")))?;
        if batch.digest != delivery.digest {
            return Err(place("its batch is not the one its digest names".into()));
        }
        batches += 1;
        requests += batch.requests() as u64;
        last = delivery.seq;
        Ok(())
    })?;
    found(&report)?;
    emit(format_args!("decisions up to seq {last}; {batches} batches with {requests} requests"))?;
    torn(&report)
}

fn found(report: &RecoveryReport) -> Result<(), CliError> {
    emit(format_args!(
        "ok: {} records up to lsn {} in {} segments, {} B, {} starts",
        report.records, report.last_lsn, report.segments, report.log_bytes, report.boot_epoch
    ))
}

fn torn(report: &RecoveryReport) -> Result<(), CliError> {
    match report.torn_bytes {
        0 => Ok(()),
        bytes => emit(format_args!(
            "{bytes} B of unfinished writes behind the last record: the next start cuts them"
        )),
    }
}

/// The configuration of the cluster whose replica's log this is: digests cannot be computed without it.
fn cluster_config(dir: &Path) -> Result<Config, CliError> {
    let dir = dir.canonicalize().map_err(|e| CliError::Failed(format!("{}: {e}", dir.display())))?;
    let found = dir.ancestors().take(3).map(|dir| dir.join("cluster.toml")).find(|file| file.exists());
    match found {
        Some(file) => Ok(Config::load(&file)?),
        None => Err(CliError::Failed(format!(
            "{}: there is no cluster.toml beside this replica: copy it there",
            dir.display()
        ))),
    }
}
