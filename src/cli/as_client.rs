//! Operations that a client has ordered or reads: as whom, and what became of one.

use std::time::Duration;

use bytes::Bytes;
use duramen::client::{Client, ClientOptions, Outcome};
use duramen::data_dir;

use super::connect::client_keys;
use super::{CliError, DirArg, InsecureArg};

/// As whom, and for how long.
#[derive(clap::Args, Debug, PartialEq)]
pub struct AsClient {
    #[command(flatten)]
    pub dir: DirArg,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// Act as this client, with its key from the cluster's folder
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub client: String,
    /// Milliseconds after which the outcome is reported as unknown
    #[arg(long, global = true, value_name = "MS", default_value_t = 10_000)]
    pub timeout_ms: u64,
}

impl AsClient {
    /// Errors: the folder's; nobody answers.
    pub fn connect(&self) -> Result<Client, CliError> {
        let dir = &self.dir.dir;
        let config = data_dir::load_config(dir)?;
        let keys = client_keys(dir, &config, Some(&self.client))?;
        let mut options = ClientOptions::new(config, keys);
        options.insecure = self.insecure.insecure;
        options.deadline = self.patience();
        options.connect_timeout = options.deadline;
        Ok(Client::connect(options)?)
    }

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The reply of what was done; all else is an error.
pub fn reply_of(outcome: Outcome) -> Result<Bytes, CliError> {
    Err(CliError::Failed(match outcome {
        Outcome::Done(reply) => return Ok(reply),
        Outcome::NotExecuted(why) => format!("not executed: {why}"),
        Outcome::UnknownOutcome(why) => format!("perhaps executed, perhaps not: {why}"),
        Outcome::Fail(why) => format!("the replicas disagree: {why}"),
    }))
}
