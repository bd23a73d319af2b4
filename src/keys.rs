//! Key files: what a replica or a client must keep secret.
//!
//! A replica keeps an Ed25519 seed and one master secret; the secret it shares with a client for MACs is
//! HMAC-SHA256(master, "duramen client mac" ‖ the client's public key), so it stores none per client. A client keeps its
//! seed and the secret it shares with each replica. Files have mode 0600; one that others may read is refused.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ring::rand::SecureRandom;
use ring::signature::KeyPair;
use serde::Deserialize;

use crate::config::{Config, Place, from_toml};
use crate::data_dir::write_durably;
use crate::hex;
use crate::types::{ClientId, ClusterId, ReplicaId};

/// A replica's secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaKeys {
    /// The cluster they belong to.
    pub cluster: ClusterId,
    /// The replica they belong to.
    pub id: ReplicaId,
    /// Ed25519 seed.
    pub seed: [u8; 32],
    /// The secret from which those shared with clients are derived.
    pub mac_master: [u8; 32],
}

/// A client's secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKeys {
    /// The cluster they belong to.
    pub cluster: ClusterId,
    /// The client they belong to.
    pub id: ClientId,
    /// Its name in the configuration.
    pub name: String,
    /// Ed25519 seed.
    pub seed: [u8; 32],
    /// The MAC secret shared with each replica, in the order of their ids.
    pub macs: Vec<[u8; 32]>,
}

/// Why keys cannot be had. Each displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such file.
    #[error("{}: there is no key file: copy it from the machine where `init` ran, with its permissions (cp -p)", .0.display())]
    Missing(PathBuf),
    /// The system refused to read or write it.
    #[error("{}: the key file cannot be {done}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// "read" or "written".
        done: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Group or world have a permission on it.
    #[error("{path}: others may read this key (mode {mode:04o}): run `chmod 600 {path}`", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No key file, or not all of one.
    #[error("{}: {}{message}: the file is damaged or cut short, restore it from a copy", .path.display(), at(.place))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        place: Option<Place>,
        /// What is wrong there.
        message: String,
    },
    /// It belongs elsewhere.
    #[error("{}: {why}: use the file that the `init` of this cluster wrote", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit: cluster, id, name or key.
        why: String,
    },
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    Random,
}

fn at(place: &Option<Place>) -> String {
    place.map_or(String::new(), |p| format!("line {}, column {}: ", p.line, p.column))
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaFile {
    replica: u32,
    #[serde(deserialize_with = "hex::deserialize")]
    cluster: [u8; 16],
    #[serde(deserialize_with = "hex::deserialize")]
    seed: [u8; 32],
    #[serde(deserialize_with = "hex::deserialize")]
    mac_master: [u8; 32],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    client: u32,
    name: String,
    #[serde(deserialize_with = "hex::deserialize")]
    cluster: [u8; 16],
    #[serde(deserialize_with = "hex::deserialize")]
    seed: [u8; 32],
    #[serde(deserialize_with = "hex::deserialize_list")]
    macs: Vec<[u8; 32]>,
}

impl ReplicaKeys {
    /// New random keys.
    pub fn generate(cluster: ClusterId, id: ReplicaId) -> Result<Self, KeyError> {
        Ok(Self { cluster, id, seed: random()?, mac_master: random()? })
    }

    /// The Ed25519 public key, as it stands in the configuration.
    pub fn public_key(&self) -> [u8; 32] {
        public_key(&self.seed)
    }

    /// The MAC secret shared with the client that has this public key.
    pub fn client_mac(&self, client_key: &[u8; 32]) -> [u8; 32] {
        let master = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.mac_master);
        let mut context = ring::hmac::Context::with_key(&master);
        context.update(b"duramen client mac");
        context.update(client_key);
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// Writes the key file durably, mode 0600, replacing any.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let Self { cluster, id, seed, mac_master } = self;
        let (seed, mac_master) = (hex::encode(seed), hex::encode(mac_master));
        let text = format!(
            "# SECRET: whoever reads this file can act as replica {id}.\n\
             replica = {id}\ncluster = \"{cluster}\"\nseed = \"{seed}\"\nmac_master = \"{mac_master}\"\n"
        );
        write(path, &text)
    }

    /// Reads the keys of replica `id` of `config`'s cluster and checks that they are that replica's.
    pub fn load(path: &Path, config: &Config, id: ReplicaId) -> Result<Self, KeyError> {
        let ReplicaFile { replica, cluster, seed, mac_master } = read(path)?;
        let keys = Self { cluster: ClusterId(cluster), id: ReplicaId(replica), seed, mac_master };
        let foreign = |why| Err(KeyError::Foreign { path: path.to_owned(), why });
        if keys.cluster != config.cluster {
            return foreign(format!(
                "this key is of cluster {}, cluster.toml of {}",
                keys.cluster, config.cluster
            ));
        }
        if keys.id != id {
            return foreign(format!("this is the key of replica {}, not of {id}", keys.id));
        }
        match config.replica(id) {
            None => foreign(format!("cluster.toml has no replica {id}")),
            Some(entry) if entry.key != keys.public_key() => {
                foreign(format!("cluster.toml has another public key for replica {id}"))
            }
            Some(_) => Ok(keys),
        }
    }
}

impl ClientKeys {
    /// New random keys for a client of the group whose replicas' keys are given in the order of their ids.
    pub fn generate(
        cluster: ClusterId,
        id: ClientId,
        name: &str,
        replicas: &[ReplicaKeys],
    ) -> Result<Self, KeyError> {
        let seed = random()?;
        let key = public_key(&seed);
        let macs = replicas.iter().map(|r| r.client_mac(&key)).collect();
        Ok(Self { cluster, id, name: name.to_owned(), seed, macs })
    }

    /// The Ed25519 public key, as it stands in the configuration.
    pub fn public_key(&self) -> [u8; 32] {
        public_key(&self.seed)
    }

    /// Writes the key file durably, mode 0600, replacing any.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        let Self { cluster, id, name, seed, macs } = self;
        let seed = hex::encode(seed);
        let macs: String = macs.iter().map(|m| format!("    \"{}\",\n", hex::encode(m))).collect();
        let text = format!(
            "# SECRET: whoever reads this file can act as client {name}.\n\
             client = {id}\nname = \"{name}\"\ncluster = \"{cluster}\"\nseed = \"{seed}\"\n\
             # Shared with replica 0, 1, ...\nmacs = [\n{macs}]\n"
        );
        write(path, &text)
    }

    /// Reads a client's keys and checks that they are those of a client of `config`.
    pub fn load(path: &Path, config: &Config) -> Result<Self, KeyError> {
        let ClientFile { client, name, cluster, seed, macs } = read(path)?;
        let keys = Self { cluster: ClusterId(cluster), id: ClientId(client), name, seed, macs };
        let foreign = |why| Err(KeyError::Foreign { path: path.to_owned(), why });
        if keys.cluster != config.cluster {
            return foreign(format!(
                "this key is of cluster {}, cluster.toml of {}",
                keys.cluster, config.cluster
            ));
        }
        let Some(entry) = config.client(keys.id) else {
            return foreign(format!("cluster.toml has no client {}", keys.id));
        };
        if entry.name != keys.name {
            let name = keys.name.escape_debug();
            return foreign(format!("client {} is {} in cluster.toml, {name} here", keys.id, entry.name));
        }
        if entry.key != keys.public_key() {
            return foreign(format!("cluster.toml has another public key for client {}", entry.name));
        }
        if keys.macs.len() != config.replicas.len() {
            let (here, n) = (keys.macs.len(), config.replicas.len());
            return foreign(format!("this key has MAC secrets for {here} replicas, cluster.toml has {n}"));
        }
        Ok(keys)
    }
}

/// Secrets do not get into logs.
impl fmt::Debug for ReplicaKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaKeys")
            .field("cluster", &self.cluster)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Secrets do not get into logs.
impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ClientKeys");
        out.field("cluster", &self.cluster)
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut out = [0; N];
    ring::rand::SystemRandom::new().fill(&mut out).map_err(|_| KeyError::Random)?;
    Ok(out)
}

fn public_key(seed: &[u8; 32]) -> [u8; 32] {
    let pair =
        ring::signature::Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
    let mut out = [0; 32];
    out.copy_from_slice(pair.public_key().as_ref());
    out
}

fn write(path: &Path, text: &str) -> Result<(), KeyError> {
    write_durably(path, text.as_bytes(), 0o600).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        done: "written",
        source,
    })
}

/// A larger file is no key file: a client's for 64 replicas needs less.
const FILE_BYTES_MAX: u64 = 64 << 10;

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, KeyError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), done: "read", source },
    };
    let malformed = |place, message| KeyError::Malformed { path: path.to_owned(), place, message };
    let file = File::open(path).map_err(unreadable)?;
    // Asked of the open file, so that it cannot be exchanged in between.
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(malformed(None, "this is too long for a key file".into()));
    }
    let text = String::from_utf8(bytes).map_err(|_| malformed(None, "this is not UTF-8 text".into()))?;
    toml::from_str(&text).map_err(|e| {
        let error = from_toml(&text, &e);
        malformed(error.place, error.message)
    })
}
