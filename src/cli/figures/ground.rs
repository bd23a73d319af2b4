//! What figures of a cluster under load stand on: a checked folder, clients, keys, and pauses that look around.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duramen::client::{Client, ClientOptions};
use duramen::config::Config;

use super::super::bench::load::{Load, Shape};
use super::super::bench::workload::Workload;
use super::super::connect::client_keys;
use super::super::machine::Machine;
use super::super::signals::Interrupt;
use super::super::{CliError, emit};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Looks at the machine and the folder, which must be on a disk with `needed` bytes free.
pub fn machine(dir: &Path, allow_tmpfs: bool, needed: u64) -> Result<Machine, CliError> {
    let machine = Machine::measure(dir).map_err(CliError::Failed)?;
    if machine.mount.in_memory() && !allow_tmpfs {
        return Err(CliError::Failed(
            "--dir lies on a tmpfs, where nothing is durable: choose a folder on a disk, or add --allow-tmpfs".into(),
        ));
    }
    let free = duramen::sys::free_bytes(dir);
    if free < needed {
        return Err(CliError::Failed(format!(
            "--dir has {:.1} GB free, a run may need {:.1}: choose another disk, fewer --seconds or less --state",
            free as f64 / 1e9,
            needed as f64 / 1e9
        )));
    }
    emit(machine.describe())?;
    Ok(machine)
}

/// A client with room for so many writes at a time, connected to all replicas.
pub fn client(
    dir: &Path,
    config: &Config,
    name: &str,
    (in_flight, value_bytes): (usize, usize),
) -> Result<Client, CliError> {
    let mut options = ClientOptions::new(config.clone(), client_keys(dir, config, Some(name))?);
    options.outstanding_max = options.outstanding_max.max(2 * in_flight);
    options.outstanding_bytes_max = options.outstanding_bytes_max.max(2 * in_flight * (value_bytes + 64));
    options.connect_to = Some(config.group().n());
    Ok(Client::connect(options)?)
}

/// Writes all `keys` of the workload once.
pub fn preload(
    client: &Client,
    workload: &Arc<Workload>,
    shape: Shape,
    keys: u64,
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    let load = Load::preload(client, workload.clone(), shape);
    while !load.is_idle() && !interrupt.is_set() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let loaded = load.acked();
    let record = load.stop();
    if loaded < keys {
        let why = record.first_error.unwrap_or_else(|| "interrupted".into());
        return Err(CliError::Failed(format!("{loaded} of {keys} keys were loaded: {why}")));
    }
    Ok(())
}

/// Waits. Errors: interrupted; the load has no point any more.
pub fn pause(until: Instant, load: &Load, interrupt: &Interrupt) -> Result<(), CliError> {
    while Instant::now() < until {
        if interrupt.is_set() {
            return Err(CliError::Failed("interrupted".into()));
        }
        if let Some(why) = load.hopeless() {
            return Err(CliError::Failed(why));
        }
        std::thread::sleep(until.saturating_duration_since(Instant::now()).min(LOOK));
    }
    Ok(())
}
