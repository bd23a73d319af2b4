//! The folder of one cluster on one machine.
//!
//! ```text
//! duramen-data/
//!   cluster.toml          the configuration: the same on every machine, no secrets
//!   replica-0/key.toml    replica 0's secrets, mode 0600
//!   replica-0/durability  the durability mode that its log is written in
//!   replica-0/log/        replica 0's log segments
//!   replica-0/decisions/  its log of decided batches, where votes are not durable
//!   client-default.key    a client's secrets, mode 0600
//! ```
//!
//! `init` writes `init-unfinished` first and `cluster.toml` last: without the latter there is no cluster here.
//! A machine that runs one replica needs `cluster.toml` and that replica's folder; a client's machine needs
//! `cluster.toml` and its key file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::{Config, ConfigError};
use crate::types::ReplicaId;

/// The configuration file.
pub fn config_file(dir: &Path) -> PathBuf {
    dir.join("cluster.toml")
}

/// All that belongs to one replica.
pub fn replica_dir(dir: &Path, id: ReplicaId) -> PathBuf {
    dir.join(format!("replica-{id}"))
}

/// A replica's secrets.
pub fn replica_key_file(dir: &Path, id: ReplicaId) -> PathBuf {
    replica_dir(dir, id).join("key.toml")
}

/// The folder of a replica's log segments.
pub fn log_dir(dir: &Path, id: ReplicaId) -> PathBuf {
    replica_dir(dir, id).join("log")
}

/// The folder of a replica's log of decided batches; only where votes are not durable.
pub fn decisions_dir(dir: &Path, id: ReplicaId) -> PathBuf {
    replica_dir(dir, id).join("decisions")
}

/// The folder of a replica's checkpoints, beside its log or in a folder of its own on another disk.
pub fn checkpoint_dir(dir: &Path, config: &Config, id: ReplicaId) -> PathBuf {
    let elsewhere = &config.checkpoint.dir;
    match elsewhere.as_os_str().is_empty() {
        true => replica_dir(dir, id).join("checkpoints"),
        // Several clusters may share the disk.
        false => elsewhere.join(format!("{}-replica-{id}", config.cluster)),
    }
}

/// A client's secrets.
pub fn client_key_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("client-{name}.key"))
}

/// Stands while `init` is at work.
pub(crate) fn unfinished_file(dir: &Path) -> PathBuf {
    dir.join("init-unfinished")
}

/// Reads the configuration of the cluster in `dir`. Errors tell an `init` that did not finish from a lost file and from
/// a folder without a cluster, because only the first may be thrown away.
pub fn load_config(dir: &Path) -> Result<Config, ConfigError> {
    let path = config_file(dir);
    let refuse = |message: String| Err(ConfigError { path: Some(dir.to_owned()), place: None, message });
    if !path.exists() {
        if unfinished_file(dir).exists() {
            return refuse(UNFINISHED.into());
        }
        if let Some(found) = remains(dir).unwrap_or(None) {
            let name = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return refuse(format!(
                "there is {name} but no cluster.toml: copy that file from another replica or client of the cluster"
            ));
        }
        return refuse(
            "there is no cluster here: make one with `duramen init`, or name its folder with --dir".into(),
        );
    }
    Config::load(&path)
}

/// What to do about a half-done `init`.
pub(crate) const UNFINISHED: &str = "`init` did not finish here and nothing in it was ever used: remove the folder and run `duramen init` again";

/// Something in `dir` that belongs to a cluster, if there is any. A folder that does not exist holds nothing.
pub(crate) fn remains(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("replica-") || (name.starts_with("client-") && name.ends_with(".key")) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Creates or replaces the file at `path` so that after any crash it holds its old bytes or all of `bytes`: a temporary
/// file beside it, fsync, rename, fsync of the folder. `mode`: permission bits, set exactly.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let temporary = dir.join(name);
    let written = (|| {
        // Never open wider than `mode`, not even before the permissions are set.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_dir(dir)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
