//! The way from a cluster's folder to a client of it, and to the state of its replicas.

use std::path::Path;
use std::time::Duration;

use duramen::client::{Client, ClientOptions};
use duramen::config::Config;
use duramen::data_dir;
use duramen::keys::ClientKeys;
use duramen::types::ReplicaId;
use serde_json::Value;

use super::CliError;

/// The keys of client `name`; without a name, of the first client whose key file is there.
pub fn client_keys(dir: &Path, config: &Config, name: Option<&str>) -> Result<ClientKeys, CliError> {
    let first = || config.clients.iter().find(|c| data_dir::client_key_file(dir, &c.name).exists());
    let name = match name {
        Some(name) if config.client_named(name).is_none() => {
            let known: Vec<_> = config.clients.iter().map(|c| c.name.as_str()).collect();
            let known = known.join(", ");
            return Err(CliError::Failed(format!("cluster.toml has no client named {name}, only: {known}")));
        }
        Some(name) => name,
        None => match first() {
            Some(client) => &client.name,
            None => {
                let dir = dir.display();
                return Err(CliError::Failed(format!(
                    "{dir}: there is no client's key here: copy client-<name>.key from where `init` ran"
                )));
            }
        },
    };
    Ok(ClientKeys::load(&data_dir::client_key_file(dir, name), config)?)
}

/// The state of each replica that answers in time, in the order of their ids; else the reason. Asks all at once.
pub fn statuses(client: &Client, config: &Config, timeout: Duration) -> Vec<Result<Value, String>> {
    let ask = |id: ReplicaId| {
        let json = client.status(id, Some(timeout))?;
        serde_json::from_str(&json).map_err(|e| format!("its answer is no JSON: {e}"))
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> = config.group().members().map(|id| scope.spawn(move || ask(id))).collect();
        let panicked = |_| Err("asking it failed".to_owned());
        asked.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    })
}

/// A client that is content with whatever connections come up within `timeout`: for questions to single replicas.
pub fn connect_to_any(
    config: &Config,
    keys: ClientKeys,
    insecure: bool,
    timeout: Duration,
) -> Result<Client, CliError> {
    let mut options = ClientOptions::new(config.clone(), keys);
    options.insecure = insecure;
    options.connect_timeout = timeout;
    options.connect_to = Some(0);
    let client = Client::connect(options)?;
    let end = std::time::Instant::now() + timeout;
    let settled = || {
        use duramen::client::session::Link;
        client.links().iter().all(|link| matches!(link, Link::Up | Link::Refused(_)))
    };
    while !settled() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(client)
}
