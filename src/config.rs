//! One TOML file (`cluster.toml`) for all replicas and clients of a cluster, read once into a checked [`Config`].
//!
//! An unknown key is an error; every error names line and column, the reason, and what to do. What cannot work
//! (too few replicas for `f`, an address named twice) cannot be built: [`Config`] is made by [`Config::parse`],
//! [`Config::load`] and [`Config::new`] alone, which all run the same checks.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `cluster` | required | 32 hexadecimal digits drawn by `init`; stands in every frame, file and signature |
//! | `model` | required | `"byzantine"` (n ≥ 3f+1) or `"crash"` (n ≥ 2f+1) |
//! | `f` | the most n bears | faults to bear at a time |
//! | `transport` | `"tls"` | or `"plain"`: no encryption, no channel authentication |
//! | `client_auth` | `"signature"`; `"channel"` in crash mode | or `"mac"` (Byzantine mode) |
//! | `digest` | `"blake3"` | or `"sha256"`, `"sha512"` (cut to 32 bytes) |
//! | `durability` | `"vote"` | or `"parallel"`, `"batched"`, `"naive"`, `"async"`, `"none"`: what is on disk before a reply leaves |
//! | `view_timeout_ms` | 1000 | see [`Settings::view_timeout_ms`] |
//! | `[limits]` | see [`Limits`] | sizes and counts all members must agree on |
//! | `[log]` | see [`LogLimits`] | the log on each replica's disk |
//! | `[checkpoint]` | see [`CheckpointLimits`] | checkpoints on each replica's disk |
//! | `[transfer]` | see [`TransferLimits`] | how a state is fetched from other replicas |
//! | `[[replica]]` | required | `id` (0, 1, … n−1), `address` ("host:port"), `key` (Ed25519 public key, 64 digits), `transfer` ("host:port", for state transfer; without it this replica neither gives nor takes states) |
//! | `[[client]]` | none | `id` (below 2³¹), `name`, `key` |

mod limits;
mod words;

pub use limits::{CheckpointLimits, Limits, LogLimits, TransferLimits};
pub use words::{CheckpointSchedule, ClientAuth, Durability, LogDevice, LogIo, SnapshotKind, Transport};

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::checkpoint::increments::CHAIN_MAX;
use crate::hex;
use crate::quorum::{FaultModel, Group};
use crate::types::{ClientId, ClusterId, DigestAlgorithm, ReplicaId};

/// A configuration that has passed every check. Its values are read as fields of [`Settings`] and cannot be changed:
/// clone [`Config::settings`], change that, and build another with [`Config::new`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    settings: Settings,
    group: Group,
}

/// What a configuration says; unchecked until it is inside a [`Config`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The cluster's random name.
    pub cluster: ClusterId,
    /// What faulty replicas may do.
    pub model: FaultModel,
    /// Faults to bear at a time. Default: the most that the number of replicas allows.
    pub f: u32,
    /// What protects the links.
    pub transport: Transport,
    /// What proves that a request is its client's.
    pub client_auth: ClientAuth,
    /// The hash of batches, marks and requests.
    pub digest: DigestAlgorithm,
    /// What is on disk before a reply leaves.
    pub durability: Durability,
    /// Milliseconds without progress after which a replica wishes for another leader; base and floor of the adaptive
    /// timeout, which doubles per failed view. Default 1000, minimum 50, maximum 3,600,000.
    pub view_timeout_ms: u64,
    /// Sizes and counts of the protocol.
    pub limits: Limits,
    /// The log on each replica's disk.
    pub log: LogLimits,
    /// Checkpoints on each replica's disk.
    pub checkpoint: CheckpointLimits,
    /// State transfer.
    pub transfer: TransferLimits,
    /// The members, in the order of their ids 0, 1, … n−1.
    pub replicas: Vec<ReplicaEntry>,
    /// Who may send requests; may be empty.
    pub clients: Vec<ClientEntry>,
}

/// One member: its place in the file is its id.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaEntry {
    /// 0, 1, … n−1.
    #[serde(deserialize_with = "replica_id")]
    pub id: ReplicaId,
    /// `host:port`; the host is a DNS name, an IPv4 address, or an IPv6 address in brackets.
    pub address: String,
    /// Where states are transferred; `None`: nowhere.
    #[serde(default)]
    pub transfer: Option<String>,
    /// Ed25519 public key.
    #[serde(deserialize_with = "hex::deserialize")]
    pub key: [u8; 32],
}

/// One client key.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientEntry {
    /// Below 2³¹: higher ones belong to replicas.
    #[serde(deserialize_with = "client_id")]
    pub id: ClientId,
    /// 1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit: it names the key file.
    pub name: String,
    /// Ed25519 public key.
    #[serde(deserialize_with = "hex::deserialize")]
    pub key: [u8; 32],
}

/// Why a configuration is refused. Displays as one line: file, place, reason, remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// Where in the text; `None` for a file that could not be read and for [`Config::new`].
    pub place: Option<Place>,
    /// The reason and what to do.
    pub message: String,
}

/// A place in a text; both count from 1, the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// The place of byte `offset` in `text`; an offset behind the end counts as the end.
    pub(crate) fn of(text: &str, offset: usize) -> Place {
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(place) = self.place {
            write!(f, "line {}, column {}: ", place.line, place.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A larger file is no configuration: 64 replicas and 50,000 clients need less.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Client ids lie below this; see [`ClientId::of_replica`].
const CLIENT_IDS: u32 = 1 << 31;

/// Room for what stands around an operation in a batch of one request: headers, signature or MAC vector.
pub const REQUEST_OVERHEAD_BYTES: usize = 4096;

/// Room in a segment for what stands around the largest batch: headers, certificate, control snapshot.
const SEGMENT_OVERHEAD_BYTES: u64 = 1 << 20;

impl Config {
    /// Checks `settings`. Errors carry no place, only the key's name.
    pub fn new(settings: Settings) -> Result<Config, ConfigError> {
        match check(&settings) {
            Ok(group) => Ok(Config { settings, group }),
            Err(wrong) => {
                let message = format!("{}: {}", wrong.key(), wrong.message);
                Err(ConfigError { path: None, place: None, message })
            }
        }
    }

    /// Reads a configuration from TOML text.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let file: File = toml::from_str(text).map_err(|e| from_toml(text, &e))?;
        let settings = file.into_settings();
        match check(&settings) {
            Ok(group) => Ok(Config { settings, group }),
            Err(wrong) => {
                let place = wrong.find_in(text).map(|offset| Place::of(text, offset));
                let message = format!("{}: {}", wrong.key(), wrong.message);
                Err(ConfigError { path: None, place, message })
            }
        }
    }

    /// Reads a configuration from a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let refuse = |message: String| ConfigError { path: Some(path.to_owned()), place: None, message };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => refuse(
                    "there is no such file: make a cluster with `duramen init`, or name its folder".into(),
                ),
                _ => refuse(format!("the configuration cannot be read: {e}")),
            })?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(refuse(format!(
                "a configuration has at most {} MiB: is this the right file?",
                FILE_BYTES_MAX >> 20
            )));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
            let mut error =
                refuse("this is not UTF-8 text: restore the file from another replica or client".into());
            error.place = Some(Place::of(&valid, valid.len()));
            error
        })?;
        Config::parse(&text).map_err(|e| ConfigError { path: Some(path.to_owned()), ..e })
    }

    /// The text that [`Config::parse`] reads back to an equal configuration. Limits at their defaults are left out.
    pub fn to_toml(&self) -> String {
        use fmt::Write;
        let mut out = String::from(
            "# The configuration of one duramen cluster: the same file on all its replicas and clients.\n\
             # It holds no secrets. Every key is explained in README.md.\n",
        );
        let model = model_word(self.model);
        let digest = digest_word(self.digest);
        let Settings { cluster, f, transport, client_auth, durability, view_timeout_ms, .. } = &self.settings;
        let _ = write!(
            out,
            "cluster = \"{cluster}\"\nmodel = \"{model}\"\nf = {f}\ntransport = \"{transport}\"\n\
             client_auth = \"{client_auth}\"\ndigest = \"{digest}\"\ndurability = \"{durability}\"\n\
             view_timeout_ms = {view_timeout_ms}\n"
        );

        let (mut limits, mut log) = (String::new(), String::new());
        let (now, usual) = (&self.limits, Limits::default());
        changed(&mut limits, "batch_bytes", now.batch_bytes, usual.batch_bytes);
        changed(&mut limits, "batch_requests", now.batch_requests, usual.batch_requests);
        changed(&mut limits, "instances_open", now.instances_open, usual.instances_open);
        changed(&mut limits, "window", now.window, usual.window);
        changed(&mut limits, "mark_interval", now.mark_interval, usual.mark_interval);
        changed(&mut limits, "request_bytes", now.request_bytes, usual.request_bytes);
        changed(&mut limits, "clock_skew_ms", now.clock_skew_ms, usual.clock_skew_ms);
        changed(&mut limits, "sessions_per_client", now.sessions_per_client, usual.sessions_per_client);
        let (now, usual) = (&self.log, LogLimits::default());
        changed(&mut log, "segment_mib", now.segment_mib, usual.segment_mib);
        changed(&mut log, "bytes_max_mib", now.bytes_max_mib, usual.bytes_max_mib);
        changed(&mut log, "io", format!("\"{}\"", now.io), format!("\"{}\"", usual.io));
        changed(&mut log, "device", format!("\"{}\"", now.device), format!("\"{}\"", usual.device));
        changed(&mut log, "writes_in_flight", now.writes_in_flight, usual.writes_in_flight);
        changed(&mut log, "group_kib", now.group_kib, usual.group_kib);
        changed(&mut log, "spare_segments", now.spare_segments, usual.spare_segments);
        changed(&mut log, "prefill_segments", now.prefill_segments, usual.prefill_segments);
        let mut checkpoint = String::new();
        let (now, usual) = (&self.checkpoint, CheckpointLimits::default());
        changed(&mut checkpoint, "period", now.period, usual.period);
        changed(
            &mut checkpoint,
            "schedule",
            format!("\"{}\"", now.schedule),
            format!("\"{}\"", usual.schedule),
        );
        changed(&mut checkpoint, "group", now.group, usual.group);
        changed(
            &mut checkpoint,
            "snapshot",
            format!("\"{}\"", now.snapshot),
            format!("\"{}\"", usual.snapshot),
        );
        changed(&mut checkpoint, "mib_per_second", now.mib_per_second, usual.mib_per_second);
        changed(&mut checkpoint, "full_every", now.full_every, usual.full_every);
        changed(&mut checkpoint, "log_keep_mib", now.log_keep_mib, usual.log_keep_mib);
        changed(&mut checkpoint, "dir", format!("{:?}", now.dir), format!("{:?}", usual.dir));
        let mut transfer = String::new();
        let (now, usual) = (&self.transfer, TransferLimits::default());
        changed(
            &mut transfer,
            "strategy",
            format!("\"{}\"", now.strategy),
            format!("\"{}\"", usual.strategy),
        );
        changed(&mut transfer, "interval_ms", now.interval_ms, usual.interval_ms);
        changed(&mut transfer, "leader_percent", now.leader_percent, usual.leader_percent);
        changed(&mut transfer, "compress", now.compress, usual.compress);
        changed(&mut transfer, "mib_per_second", now.mib_per_second, usual.mib_per_second);
        changed(&mut transfer, "yield_floor_mib", now.yield_floor_mib, usual.yield_floor_mib);
        changed(&mut transfer, "postpone_above", now.postpone_above, usual.postpone_above);
        changed(&mut transfer, "postpone_seconds", now.postpone_seconds, usual.postpone_seconds);
        let tables = [("limits", limits), ("log", log), ("checkpoint", checkpoint), ("transfer", transfer)];
        for (table, lines) in tables {
            if !lines.is_empty() {
                let _ = write!(out, "\n[{table}]\n{lines}");
            }
        }

        for ReplicaEntry { id, address, transfer, key } in &self.replicas {
            let key = hex::encode(key);
            let _ = write!(out, "\n[[replica]]\nid = {id}\naddress = \"{address}\"\n");
            if let Some(transfer) = transfer {
                let _ = writeln!(out, "transfer = \"{transfer}\"");
            }
            let _ = writeln!(out, "key = \"{key}\"");
        }
        for ClientEntry { id, name, key } in &self.clients {
            let key = hex::encode(key);
            let _ = write!(out, "\n[[client]]\nid = {id}\nname = \"{name}\"\nkey = \"{key}\"\n");
        }
        out
    }

    /// The values, to be changed and checked again.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The group's size and the faults it bears.
    pub fn group(&self) -> Group {
        self.group
    }

    /// The member with this id.
    pub fn replica(&self, id: ReplicaId) -> Option<&ReplicaEntry> {
        self.replicas.get(id.index())
    }

    /// The client with this id.
    pub fn client(&self, id: ClientId) -> Option<&ClientEntry> {
        self.clients.iter().find(|c| c.id == id)
    }

    /// The client with this name.
    pub fn client_named(&self, name: &str) -> Option<&ClientEntry> {
        self.clients.iter().find(|c| c.name == name)
    }

    /// Refuses plain links between replicas that may lie, unless the operator said `--insecure`.
    pub fn check_transport(&self, insecure: bool) -> Result<(), ConfigError> {
        if self.transport == Transport::Plain && self.group.byzantine() && !insecure {
            let message =
                "transport: plain links have neither encryption nor channel authentication, which the \
                           Byzantine model needs: use \"tls\", or add --insecure on a network you trust"
                    .into();
            return Err(ConfigError { path: None, place: None, message });
        }
        Ok(())
    }

    /// Eight bytes over all that both ends of a connection must share: model, n, f, digest, client authentication,
    /// durability, limits, and the ids and keys of replicas and clients. Addresses, names, transport, timeouts and log
    /// settings are each process's own; the cluster id is compared by itself. Ends with different
    /// fingerprints use different copies of `cluster.toml`.
    pub fn fingerprint(&self) -> [u8; 8] {
        let mut text = b"duramen configuration 1".to_vec();
        let mut number = |value: u64| text.extend_from_slice(&value.to_le_bytes());
        number(match self.model {
            FaultModel::Crash => 1,
            FaultModel::Byzantine => 2,
        });
        number(u64::from(self.group.n()));
        number(u64::from(self.f));
        number(self.digest as u64);
        number(self.client_auth as u64);
        number(self.durability as u64);
        // Taken apart in full, so that a new limit cannot be forgotten here.
        let Limits {
            batch_bytes,
            batch_requests,
            instances_open,
            window,
            mark_interval,
            request_bytes,
            clock_skew_ms,
            sessions_per_client,
        } = self.limits;
        number(batch_bytes as u64);
        number(batch_requests as u64);
        number(instances_open);
        number(window);
        number(mark_interval);
        number(request_bytes as u64);
        number(clock_skew_ms);
        number(u64::from(sessions_per_client));
        for replica in &self.replicas {
            text.extend_from_slice(&replica.key);
        }
        let mut clients: Vec<_> = self.clients.iter().map(|c| (c.id, c.key)).collect();
        clients.sort_unstable();
        for (id, key) in clients {
            text.extend_from_slice(&id.0.to_le_bytes());
            text.extend_from_slice(&key);
        }
        let mut out = [0; 8];
        out.copy_from_slice(&DigestAlgorithm::Sha256.hash(&[&text]).0[..8]);
        out
    }
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

fn changed<T: PartialEq + fmt::Display>(table: &mut String, key: &str, now: T, usual: T) {
    if now != usual {
        table.push_str(&format!("{key} = {now}\n"));
    }
}

fn model_word(model: FaultModel) -> &'static str {
    match model {
        FaultModel::Crash => "crash",
        FaultModel::Byzantine => "byzantine",
    }
}

fn digest_word(digest: DigestAlgorithm) -> &'static str {
    match digest {
        DigestAlgorithm::Blake3 => "blake3",
        DigestAlgorithm::Sha256 => "sha256",
        DigestAlgorithm::Sha512 => "sha512",
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(deserialize_with = "cluster_id")]
    cluster: ClusterId,
    model: FaultModel,
    f: Option<u32>,
    #[serde(default)]
    transport: Transport,
    client_auth: Option<ClientAuth>,
    #[serde(default)]
    digest: DigestAlgorithm,
    #[serde(default)]
    durability: Durability,
    #[serde(default = "view_timeout_default")]
    view_timeout_ms: u64,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    log: LogLimits,
    #[serde(default)]
    checkpoint: CheckpointLimits,
    #[serde(default)]
    transfer: TransferLimits,
    #[serde(rename = "replica")]
    replicas: Vec<ReplicaEntry>,
    #[serde(rename = "client", default)]
    clients: Vec<ClientEntry>,
}

/// Milliseconds.
pub(crate) const VIEW_TIMEOUT_MS_DEFAULT: u64 = 1000;

fn view_timeout_default() -> u64 {
    VIEW_TIMEOUT_MS_DEFAULT
}

fn cluster_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ClusterId, D::Error> {
    hex::deserialize(from).map(ClusterId)
}

fn replica_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ReplicaId, D::Error> {
    u32::deserialize(from).map(ReplicaId)
}

fn client_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<ClientId, D::Error> {
    u32::deserialize(from).map(ClientId)
}

impl ClientAuth {
    /// What a file that says nothing means.
    pub fn default_for(model: FaultModel) -> Self {
        match model {
            FaultModel::Byzantine => Self::Signature,
            FaultModel::Crash => Self::Channel,
        }
    }
}

impl File {
    fn into_settings(self) -> Settings {
        Settings {
            cluster: self.cluster,
            model: self.model,
            f: self.f.unwrap_or(Group::most_faults(
                self.model,
                self.replicas.len().try_into().unwrap_or(u32::MAX),
            )),
            transport: self.transport,
            client_auth: self.client_auth.unwrap_or(ClientAuth::default_for(self.model)),
            digest: self.digest,
            durability: self.durability,
            view_timeout_ms: self.view_timeout_ms,
            limits: self.limits,
            log: self.log,
            checkpoint: self.checkpoint,
            transfer: self.transfer,
            replicas: self.replicas,
            clients: self.clients,
        }
    }
}

/// A serde or syntax error of the TOML reader as ours: one line, with its place.
pub(crate) fn from_toml(text: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map(|span| Place::of(text, span.start));
    ConfigError { path: None, place, message: error.message().replace('\n', ", ") }
}

/// A value that cannot be, with the way to it in the file.
struct Wrong {
    way: Vec<Step>,
    message: String,
}

enum Step {
    Key(&'static str),
    At(usize),
}

impl Wrong {
    fn top(key: &'static str, message: String) -> Self {
        Wrong { way: vec![Step::Key(key)], message }
    }

    fn within(table: &'static str, key: &'static str, message: String) -> Self {
        Wrong { way: vec![Step::Key(table), Step::Key(key)], message }
    }

    fn at(table: &'static str, index: usize, key: &'static str, message: String) -> Self {
        Wrong { way: vec![Step::Key(table), Step::At(index), Step::Key(key)], message }
    }

    /// The key for people: `limits.window`, `replica[2].address`.
    fn key(&self) -> String {
        let mut out = String::new();
        for step in &self.way {
            match step {
                Step::Key(key) if out.is_empty() => out.push_str(key),
                Step::Key(key) => out.extend([".", key]),
                Step::At(index) => out.push_str(&format!("[{index}]")),
            }
        }
        out
    }

    /// Byte offset of the value, or of the nearest table around it when the value is a default.
    fn find_in(&self, text: &str) -> Option<usize> {
        use toml::de::{DeTable, DeValue};
        let root = DeTable::parse(text).ok()?;
        let (Step::Key(first), rest) = self.way.split_first()? else { return None };
        let mut value = root.get_ref().get(*first)?;
        for step in rest {
            let inner = match (step, value.get_ref()) {
                (Step::Key(key), DeValue::Table(table)) => table.get(*key),
                (Step::At(index), DeValue::Array(array)) => array.get(*index),
                _ => None,
            };
            match inner {
                Some(inner) => value = inner,
                None => break,
            }
        }
        Some(value.span().start)
    }
}

/// All that serde's types cannot say. Stops at the first fault.
fn check(settings: &Settings) -> Result<Group, Wrong> {
    let group = check_group(settings)?;
    check_replicas(&settings.replicas)?;
    check_clients(settings)?;
    check_numbers(settings)?;
    Ok(group)
}

fn check_group(settings: &Settings) -> Result<Group, Wrong> {
    if settings.replicas.is_empty() {
        return Err(Wrong::top("replica", "a cluster needs at least one [[replica]]".into()));
    }
    let n = u32::try_from(settings.replicas.len()).unwrap_or(u32::MAX);
    let group = Group::new(settings.model, n, settings.f).map_err(|e| match e {
        crate::quorum::GroupError::TooSmall { n, f, model, needed } => {
            let (model, most) = (model_word(model), Group::most_faults(model, n));
            let message = format!(
                "{n} replicas bear at most {most} {model} faults, not {f}: name {needed} or more replicas, or f = {most} or less"
            );
            Wrong::top("f", message)
        }
        crate::quorum::GroupError::TooLarge(_) => Wrong::top("replica", e.to_string()),
    })?;
    let auth = settings.client_auth;
    if group.byzantine() && auth == ClientAuth::Channel {
        let message = "\"channel\" proves nothing to the other replicas, so it needs model = \"crash\": use \
                       \"signature\" or \"mac\"";
        return Err(Wrong::top("client_auth", message.into()));
    }
    if !group.byzantine() && auth != ClientAuth::Channel {
        let message =
            format!("\"{auth}\" has no use with model = \"crash\": say \"channel\", or leave the key out");
        return Err(Wrong::top("client_auth", message));
    }
    Ok(group)
}

fn check_replicas(replicas: &[ReplicaEntry]) -> Result<(), Wrong> {
    let mut addresses = HashMap::new();
    let mut keys = HashMap::new();
    for (i, replica) in replicas.iter().enumerate() {
        let wrong = |key, message| Err(Wrong::at("replica", i, key, message));
        if replica.id.index() != i {
            let earlier = replicas[..i].iter().any(|r| r.id == replica.id);
            let why = if earlier { "stands here a second time" } else { "is out of order" };
            let last = replicas.len() - 1;
            return wrong("id", format!("{} {why}: ids are 0 to {last} in this order, here {i}", replica.id));
        }
        let said = [("address", Some(&replica.address)), ("transfer", replica.transfer.as_ref())];
        for (key, address) in said {
            let Some(address) = address else { continue };
            let (host, port) = match split_address(address) {
                Ok(parts) => parts,
                Err(why) => {
                    let shown = address.escape_debug();
                    return wrong(
                        key,
                        format!("\"{shown}\" {why}: write \"host:port\", such as \"10.0.0.1:7400\""),
                    );
                }
            };
            if let Some(other) = addresses.insert((host.to_ascii_lowercase(), port), i) {
                return wrong(key, format!("{address} is replica {other}'s address already"));
            }
        }
        if let Some(other) = keys.insert(replica.key, i) {
            return wrong("key", format!("this is replica {other}'s key already: each replica has its own"));
        }
    }
    Ok(())
}

fn check_clients(settings: &Settings) -> Result<(), Wrong> {
    let mut ids = HashMap::new();
    let mut names = HashMap::new();
    let mut keys: HashMap<_, _> =
        settings.replicas.iter().map(|r| (r.key, format!("replica {}", r.id))).collect();
    for (i, client) in settings.clients.iter().enumerate() {
        let wrong = |key, message| Err(Wrong::at("client", i, key, message));
        let ClientEntry { id, name, key } = client;
        if id.0 >= CLIENT_IDS {
            return wrong("id", format!("{id} is too large: client ids lie below {CLIENT_IDS}"));
        }
        if let Err(why) = check_client_name(name) {
            return wrong("name", why);
        }
        if let Some(other) = ids.insert(*id, name) {
            return wrong("id", format!("{id} is client {other}'s id already"));
        }
        if let Some(other) = names.insert(name, id) {
            return wrong("name", format!("client {other} has the name {name} already"));
        }
        if let Some(other) = keys.insert(*key, format!("client {name}")) {
            return wrong("key", format!("this is the key of {other} already: each client has its own"));
        }
    }
    Ok(())
}

/// Whether a client may have this name: it becomes part of a file's name.
pub(crate) fn check_client_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&name.len())
        && name.chars().all(fits)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Ok(());
    }
    let shown = name.escape_debug();
    Err(format!(
        "\"{shown}\" cannot be a client's name: use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
    ))
}

fn check_numbers(settings: &Settings) -> Result<(), Wrong> {
    let Settings { limits, log, .. } = settings;
    let range =
        |wrong: fn(&'static str, String) -> Wrong, key, unit: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(wrong(key, format!("{value} is outside {min} to {max} {unit}")))
        };
    let top: fn(_, _) -> _ = Wrong::top;
    let in_limits: fn(_, _) -> _ = |key, message| Wrong::within("limits", key, message);
    let in_log: fn(_, _) -> _ = |key, message| Wrong::within("log", key, message);

    range(top, "view_timeout_ms", "milliseconds", settings.view_timeout_ms, 50, 3_600_000)?;

    range(in_limits, "batch_bytes", "bytes", limits.batch_bytes as u64, 4096, 32 << 20)?;
    range(in_limits, "batch_requests", "requests", limits.batch_requests as u64, 1, 1 << 16)?;
    range(in_limits, "request_bytes", "bytes", limits.request_bytes as u64, 1024, 32 << 20)?;
    range(in_limits, "window", "slots", limits.window, 2, 1 << 16)?;
    range(in_limits, "mark_interval", "slots (half the window)", limits.mark_interval, 1, limits.window / 2)?;
    range(
        in_limits,
        "instances_open",
        "instances (half the window)",
        limits.instances_open,
        1,
        limits.window / 2,
    )?;
    range(in_limits, "clock_skew_ms", "milliseconds", limits.clock_skew_ms, 100, 86_400_000)?;
    range(in_limits, "sessions_per_client", "sessions", u64::from(limits.sessions_per_client), 1, 1 << 16)?;

    range(in_log, "segment_mib", "MiB", log.segment_mib, 1, 2048)?;
    let needed = limits.largest_batch_bytes() as u64 + SEGMENT_OVERHEAD_BYTES;
    if log.segment_bytes() < needed {
        let mib = needed.div_ceil(1 << 20);
        let message = format!(
            "{} MiB cannot hold the largest batch (limits.batch_bytes, limits.request_bytes) and 1 MiB more: {mib} MiB are needed",
            log.segment_mib
        );
        return Err(in_log("segment_mib", message));
    }
    range(
        in_log,
        "bytes_max_mib",
        "MiB (at least 4 segments)",
        log.bytes_max_mib,
        4 * log.segment_mib,
        16 << 20,
    )?;
    range(in_log, "writes_in_flight", "writes", u64::from(log.writes_in_flight), 1, 64)?;
    range(in_log, "group_kib", "KiB", log.group_kib, 4, 1024)?;
    if !log.group_kib.is_multiple_of(4) {
        return Err(in_log(
            "group_kib",
            format!("{} is no multiple of 4: a group fills blocks of 4 KiB", log.group_kib),
        ));
    }
    let ahead_max = log.bytes_max_mib / log.segment_mib - 1;
    range(in_log, "spare_segments", "segments", u64::from(log.spare_segments), 1, ahead_max)?;
    range(in_log, "prefill_segments", "segments", u64::from(log.prefill_segments), 0, ahead_max)?;

    let in_transfer: fn(_, _) -> _ = |key, message| Wrong::within("transfer", key, message);
    let transfer = &settings.transfer;
    range(in_transfer, "interval_ms", "milliseconds", transfer.interval_ms, 10, 60_000)?;
    range(in_transfer, "leader_percent", "percent", u64::from(transfer.leader_percent), 0, 100)?;
    range(in_transfer, "mib_per_second", "MiB", transfer.mib_per_second, 0, 1 << 20)?;
    range(in_transfer, "yield_floor_mib", "MiB", transfer.yield_floor_mib, 0, 1 << 20)?;
    range(in_transfer, "postpone_above", "requests", transfer.postpone_above, 0, 1 << 40)?;
    range(in_transfer, "postpone_seconds", "seconds", transfer.postpone_seconds, 0, 86_400)?;

    let in_checkpoint: fn(_, _) -> _ = |key, message| Wrong::within("checkpoint", key, message);
    let checkpoint = &settings.checkpoint;
    range(in_checkpoint, "period", "slots", checkpoint.period, 0, 1 << 40)?;
    let group_max = u64::from(settings.f.max(1));
    range(in_checkpoint, "group", "replicas (f)", u64::from(checkpoint.group), 1, group_max)?;
    range(in_checkpoint, "mib_per_second", "MiB", checkpoint.mib_per_second, 0, 1 << 20)?;
    let files_max = u64::from(CHAIN_MAX);
    range(in_checkpoint, "full_every", "checkpoints", u64::from(checkpoint.full_every), 1, files_max)?;
    range(in_checkpoint, "log_keep_mib", "MiB", checkpoint.log_keep_mib, 0, 16 << 20)?;
    if checkpoint.dir != PathBuf::new() && !checkpoint.dir.is_absolute() {
        return Err(in_checkpoint("dir", format!("{} is not an absolute path", checkpoint.dir.display())));
    }
    Ok(())
}

/// Host and port of `host:port`, or what is wrong with it.
pub(crate) fn split_address(address: &str) -> Result<(&str, u16), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("has no port")?;
    let number = port.parse::<u16>().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit()));
    let port = number.filter(|p| *p != 0).ok_or("has a port that is not a number from 1 to 65535")?;
    if host.is_empty() {
        return Err("has no host");
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("has a bracket that does not close")?;
        let ip = inner.parse::<std::net::Ipv6Addr>().map_err(|_| "has no IPv6 address in its brackets")?;
        return if ip.is_unspecified() { Err(UNREACHABLE) } else { Ok((host, port)) };
    }
    if host.contains(':') {
        return Err("has an IPv6 address without brackets");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.len() > 253 || !host.chars().all(fits) {
        return Err("has a host that is neither a name nor an address");
    }
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let ip = host.parse::<std::net::Ipv4Addr>().map_err(|_| "has an IPv4 address that is none")?;
        return if ip.is_unspecified() { Err(UNREACHABLE) } else { Ok((host, port)) };
    }
    Ok((host, port))
}

/// An address in this file is the one that others dial.
const UNREACHABLE: &str = "has a host that others cannot reach";
