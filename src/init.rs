//! `init`: a new cluster in one folder, with configuration, keys and formatted replica folders.
//!
//! Everything is checked before the first file is made. `init-unfinished` is written first and `cluster.toml` last: a
//! crash in between leaves a folder that both `init` and `start` refuse with the reason.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{
    CheckpointLimits, ClientAuth, ClientEntry, Config, ConfigError, Durability, Limits, LogLimits,
    ReplicaEntry, Settings, TransferLimits, Transport, VIEW_TIMEOUT_MS_DEFAULT, check_client_name,
    split_address,
};
use crate::data_dir;
use crate::keys::{ClientKeys, KeyError, ReplicaKeys, random};
use crate::quorum::{FaultModel, Group, REPLICAS_MAX};
use crate::types::{ClientId, ClusterId, DigestAlgorithm, ReplicaId};

/// What the new cluster shall be.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// The folder; made if it does not exist.
    pub dir: PathBuf,
    /// Number of replicas.
    pub replicas: u32,
    /// What faulty replicas may do.
    pub model: FaultModel,
    /// Faults to bear; `None`: the most that `replicas` allows, refused if that is none.
    pub f: Option<u32>,
    /// `host:port` of replica 0; replica i listens on port + i.
    pub listen: String,
    /// Names of the clients to make keys for; their ids count from 1.
    pub clients: Vec<String>,
    /// What protects the links.
    pub transport: Transport,
    /// Allows plain links in Byzantine mode.
    pub insecure: bool,
    /// `None`: the default of the model.
    pub client_auth: Option<ClientAuth>,
    /// The hash of batches, marks and requests.
    pub digest: DigestAlgorithm,
    /// What is on disk before a reply leaves.
    pub durability: Durability,
    /// Milliseconds; see [`Settings::view_timeout_ms`].
    pub view_timeout_ms: u64,
    /// Bounds of the protocol.
    pub limits: Limits,
    /// Bounds of the log.
    pub log: LogLimits,
    /// Checkpoints on each replica's disk.
    pub checkpoint: CheckpointLimits,
    /// State transfer.
    pub transfer: TransferLimits,
}

impl Default for InitOptions {
    /// Four Byzantine replicas on 127.0.0.1:7400 to 7403 in `./duramen-data`, one client named `default`.
    fn default() -> Self {
        Self {
            dir: "duramen-data".into(),
            replicas: 4,
            model: FaultModel::Byzantine,
            f: None,
            listen: "127.0.0.1:7400".into(),
            clients: vec!["default".into()],
            transport: Transport::default(),
            insecure: false,
            client_auth: None,
            digest: DigestAlgorithm::default(),
            durability: Durability::default(),
            view_timeout_ms: VIEW_TIMEOUT_MS_DEFAULT,
            limits: Limits::default(),
            log: LogLimits::default(),
            checkpoint: Default::default(),
            transfer: Default::default(),
        }
    }
}

/// Why there is no new cluster. Each displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder holds one already; nothing was touched.
    #[error("{}: there is a cluster here already: choose another --dir", .0.display())]
    AlreadyThere(PathBuf),
    /// An earlier `init` was interrupted; nothing was touched.
    #[error("{}: {why}", .0.display(), why = data_dir::UNFINISHED)]
    Unfinished(PathBuf),
    /// Parts of a cluster whose configuration is missing; nothing was touched.
    #[error("{}: this belongs to a cluster whose cluster.toml is not here: choose another --dir, or copy that file from another replica", .0.display())]
    Remains(PathBuf),
    /// `listen` is no address, or a replica's port would lie above 65535.
    #[error("--listen: {0}")]
    Listen(String),
    /// The options make no valid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key could not be made or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system refused a file or folder.
    #[error("{}: cannot be made: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A replica's log could not be formatted.
    #[error("{}: the log cannot be formatted: {source}", .path.display())]
    Format {
        /// The log's folder.
        path: PathBuf,
        /// The reason.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Formats one replica's log in an existing, empty folder.
pub type FormatReplica<'a> =
    &'a dyn Fn(&Path, &Config, ReplicaId) -> Result<(), Box<dyn Error + Send + Sync>>;

/// Makes a cluster and returns its configuration; all of it is durable then.
pub fn init(options: &InitOptions, format_replica: FormatReplica<'_>) -> Result<Config, InitError> {
    let (config, replicas, clients) = draw(options)?;
    let dir = options.dir.as_path();
    refuse_used(dir)?;
    make_dirs(dir)?;

    // The exclusive creation also keeps two `init`s apart.
    let unfinished = data_dir::unfinished_file(dir);
    match OpenOptions::new().write(true).create_new(true).open(&unfinished) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(InitError::Unfinished(dir.to_owned()));
        }
        Err(e) => return Err(io_error(&unfinished)(e)),
    }
    data_dir::sync_dir(dir).map_err(io_error(dir))?;

    for keys in &replicas {
        let log = data_dir::log_dir(dir, keys.id);
        make_dir(&data_dir::replica_dir(dir, keys.id))?;
        make_dir(&log)?;
        keys.write(&data_dir::replica_key_file(dir, keys.id))?;
        format_replica(&log, &config, keys.id)
            .map_err(|source| InitError::Format { path: log.clone(), source })?;
        data_dir::sync_dir(&log).map_err(io_error(&log))?;
    }
    for keys in &clients {
        keys.write(&data_dir::client_key_file(dir, &keys.name))?;
    }
    data_dir::sync_dir(dir).map_err(io_error(dir))?;

    let path = data_dir::config_file(dir);
    data_dir::write_durably(&path, config.to_toml().as_bytes(), 0o644).map_err(io_error(&path))?;
    fs::remove_file(&unfinished).map_err(io_error(&unfinished))?;
    data_dir::sync_dir(dir).map_err(io_error(dir))?;
    Ok(config)
}

/// Configuration and keys; touches no file.
fn draw(options: &InitOptions) -> Result<(Config, Vec<ReplicaKeys>, Vec<ClientKeys>), InitError> {
    let cluster = ClusterId(random()?);
    let n = options.replicas;
    // Before keys are drawn, so that an absurd number costs nothing.
    if n > REPLICAS_MAX {
        return Err(refusal(format!("--replicas: {n} are more than the {REPLICAS_MAX} a group may have")));
    }
    let most = Group::most_faults(options.model, n);
    if options.f.is_none() && most == 0 {
        let needed = if options.model == FaultModel::Byzantine { 4 } else { 3 };
        let message =
            format!("--replicas: {n} bear no fault in this model: ask for {needed} or more, or say --f 0");
        return Err(refusal(message));
    }
    let addresses = addresses(&options.listen, n)?;
    for name in &options.clients {
        check_client_name(name).map_err(|why| refusal(format!("--client: {why}")))?;
    }

    let replicas: Vec<ReplicaKeys> =
        (0..n).map(|i| ReplicaKeys::generate(cluster, ReplicaId(i))).collect::<Result<_, _>>()?;
    let clients: Vec<ClientKeys> = (1..)
        .zip(&options.clients)
        .map(|(id, name)| ClientKeys::generate(cluster, ClientId(id), name, &replicas))
        .collect::<Result<_, _>>()?;

    let config = Config::new(Settings {
        cluster,
        model: options.model,
        f: options.f.unwrap_or(most),
        transport: options.transport,
        client_auth: options.client_auth.unwrap_or(ClientAuth::default_for(options.model)),
        digest: options.digest,
        durability: options.durability,
        view_timeout_ms: options.view_timeout_ms,
        limits: options.limits.clone(),
        log: options.log.clone(),
        checkpoint: options.checkpoint.clone(),
        transfer: options.transfer.clone(),
        replicas: (replicas.iter().zip(addresses))
            .map(|(keys, (address, transfer))| ReplicaEntry {
                id: keys.id,
                address,
                transfer: Some(transfer),
                key: keys.public_key(),
            })
            .collect(),
        clients: clients
            .iter()
            .map(|keys| ClientEntry { id: keys.id, name: keys.name.clone(), key: keys.public_key() })
            .collect(),
    })?;
    config.check_transport(options.insecure)?;
    Ok((config, replicas, clients))
}

/// Replica i listens on port + i, and on port + n + i for state transfer.
fn addresses(listen: &str, n: u32) -> Result<Vec<(String, String)>, InitError> {
    let (host, port) = split_address(listen).map_err(|why| {
        let shown = listen.escape_debug();
        InitError::Listen(format!("\"{shown}\" {why}: write \"host:port\", such as \"10.0.0.1:7400\""))
    })?;
    let last = u32::from(port) + (2 * n).saturating_sub(1);
    if last > u32::from(u16::MAX) {
        let message =
            format!("replica {} would listen on port {last}: choose {} or lower", n - 1, 65536 - 2 * n);
        return Err(InitError::Listen(message));
    }
    let at = |i| format!("{host}:{}", u32::from(port) + i);
    Ok((0..n).map(|i| (at(i), at(n + i))).collect())
}

fn refuse_used(dir: &Path) -> Result<(), InitError> {
    if data_dir::config_file(dir).exists() {
        return Err(InitError::AlreadyThere(dir.to_owned()));
    }
    if data_dir::unfinished_file(dir).exists() {
        return Err(InitError::Unfinished(dir.to_owned()));
    }
    match data_dir::remains(dir).map_err(io_error(dir))? {
        Some(found) => Err(InitError::Remains(found)),
        None => Ok(()),
    }
}

/// Makes `dir` and those above it that are missing, each durable in its parent.
fn make_dirs(dir: &Path) -> Result<(), InitError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_dirs(parent)?;
    }
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists || !dir.is_dir() => return Err(io_error(dir)(e)),
        _ => {}
    }
    let parent = parent.unwrap_or(Path::new("."));
    data_dir::sync_dir(parent).map_err(io_error(parent))
}

fn make_dir(dir: &Path) -> Result<(), InitError> {
    fs::create_dir(dir).map_err(io_error(dir))?;
    let parent = dir.parent().expect("it was joined to one");
    data_dir::sync_dir(parent).map_err(io_error(parent))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> InitError + use<> {
    let path = path.to_owned();
    move |source| InitError::Io { path: path.clone(), source }
}

fn refusal(message: String) -> InitError {
    InitError::Config(ConfigError { path: None, place: None, message })
}
