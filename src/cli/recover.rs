//! `duramen recover`: the way back for a member whose log is lost or damaged.

use duramen::config::Durability;
use duramen::data_dir;
use duramen::keys::ReplicaKeys;
use duramen::replica::format_learner;
use duramen::types::ReplicaId;

use super::{CliError, DirArg, emit};

/// Which replica.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    dir: DirArg,
    /// The replica whose log is gone
    #[arg(long, value_name = "I")]
    replica: u32,
    /// Accept a log on a tmpfs: it survives no power loss
    #[arg(long)]
    allow_tmpfs: bool,
}

/// Puts an empty log in place of the lost one. Errors: something is left of a log, or the keys are gone too.
pub fn run(args: Args) -> Result<(), CliError> {
    let (dir, id) = (args.dir.dir, ReplicaId(args.replica));
    let config = data_dir::load_config(&dir)?;
    if config.replica(id).is_none() {
        let last = config.group().n() - 1;
        return Err(CliError::Failed(format!("--replica: there is no replica {id}: they are 0 to {last}")));
    }
    if config.durability == Durability::None {
        return Err(CliError::Failed(
            "durability \"none\" keeps nothing on disk, so the others cannot show a replica what it lost: they go on without it; `init` makes a new cluster".into(),
        ));
    }
    ReplicaKeys::load(&data_dir::replica_key_file(&dir, id), &config, id)?;
    for folder in [data_dir::log_dir(&dir, id), data_dir::decisions_dir(&dir, id)] {
        let holds_something = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        if holds_something {
            return Err(CliError::Failed(format!(
                "{} is not empty, and a log that is there must not be forgotten: `duramen start` uses it; only if it says that the log is damaged, move that folder away and run this again",
                folder.display()
            )));
        }
    }
    // A checkpoint counts by the marks in its log only; it is set aside, where an operator finds it.
    let checkpoints = data_dir::checkpoint_dir(&dir, &config, id);
    if checkpoints.exists() {
        let aside = checkpoints.with_extension("of-the-lost-log");
        let _ = std::fs::remove_dir_all(&aside);
        std::fs::rename(&checkpoints, &aside)
            .map_err(|e| CliError::Failed(format!("{}: {e}", checkpoints.display())))?;
    }
    format_learner(&data_dir::log_dir(&dir, id), &config, id, args.allow_tmpfs)?;
    let f = config.f;
    emit(format_args!(
        "replica {id} has an empty log and forgot what it voted: it learns from the others, and votes again once nothing of that can matter"
    ))?;
    emit(format_args!(
        "it counts as faulty until `duramen status` shows it as \"normal\": at most {f} at a time"
    ))?;
    emit(format_args!("next: duramen start --replica {id} --dir {}", dir.display()))
}
