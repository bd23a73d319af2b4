//! `duramen replay`: executes a replica's log once more, and holds the replies against what a quorum signed.

use std::path::{Path, PathBuf};

use duramen::data_dir;
use duramen::replica::{AuditOptions, audit};
use duramen::types::ReplicaId;

use super::{CliError, ServiceName, emit};

/// Whose log, and what is replicated.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// A replica's folder, such as duramen-data/replica-0; the replica must not be running
    dir: PathBuf,
    /// From the log's beginning, not from the newest checkpoint
    #[arg(long)]
    from_beginning: bool,
    /// What is replicated
    #[arg(long, value_enum, default_value = "kv")]
    service: ServiceName,
    /// Bytes of a reply of the null service to a request that names no length
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    reply_size: u32,
}

/// Prints what was executed and how fast. Errors: the first place whose replies differ; a log in use or damaged.
pub fn run(args: Args) -> Result<(), CliError> {
    let (dir, id) = replica_of(&args.dir)?;
    let config = data_dir::load_config(&dir)?;
    let service = args.service.make(args.reply_size);
    let done = audit(AuditOptions { config, dir, id, service, from_beginning: args.from_beginning })?;
    let from = match done.from {
        Some(seq) => format!("from the checkpoint of place {seq}"),
        None => "from the beginning".to_owned(),
    };
    let seconds = done.took.as_secs_f64();
    emit(format_args!(
        "replica {id}, {from}: {} places with {} operations in {seconds:.2} s, {:.0} operations/s",
        done.places,
        done.operations,
        done.operations as f64 / seconds.max(1e-9)
    ))?;
    if let Some(difference) = done.difference {
        return Err(CliError::Failed(format!("replica {id}: {difference}")));
    }
    emit(format_args!("{} marks of a quorum say the same replies", done.marks))?;
    emit(format_args!("digest of the state at place {}: {}", done.executed, done.digest))?;
    if done.executed < done.marked {
        emit(format_args!(
            "the log has no batch of place {}, and marks up to place {}: what lies between was not executed",
            done.executed.next(),
            done.marked
        ))?;
    }
    Ok(())
}

/// The cluster's folder and the replica's number, from the replica's folder or the log folder in it.
fn replica_of(dir: &Path) -> Result<(PathBuf, ReplicaId), CliError> {
    let full = dir.canonicalize().map_err(|e| CliError::Failed(format!("{}: {e}", dir.display())))?;
    let number = |dir: &Path| -> Option<u32> {
        dir.file_name()?.to_str()?.strip_prefix("replica-").and_then(|number| number.parse().ok())
    };
    let found = full.ancestors().take(2).find_map(|dir| Some((dir.parent()?.to_owned(), number(dir)?)));
    found.map(|(cluster, id)| (cluster, ReplicaId(id))).ok_or_else(|| {
        CliError::Failed(format!(
            "{}: this is no replica's folder: give one such as duramen-data/replica-0",
            dir.display()
        ))
    })
}
