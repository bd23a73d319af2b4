//! `duramen kv`: operations on the replicated key-value store.

use std::io::Write;

use duramen::client::{Client, Outcome};
use duramen::service::{KvOperation, KvReply, KvWrite};

use super::CliError;
use super::as_client::{AsClient, reply_of};

/// As whom, and what.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub as_client: AsClient,
    #[command(subcommand)]
    pub operation: Operation,
}

/// One operation.
#[derive(clap::Subcommand, Debug, PartialEq)]
pub enum Operation {
    /// Store a value
    Put {
        /// The key
        key: String,
        /// The new value
        value: String,
    },
    /// Print the value of a key
    Get {
        /// The key
        key: String,
    },
    /// Remove a key
    Delete {
        /// The key
        key: String,
    },
    /// Store a value if the key has the expected one
    Cas {
        /// The key
        key: String,
        /// The expected value; leave it out with --absent
        #[arg(required_unless_present = "absent")]
        expected: Option<String>,
        /// The new value
        #[arg(long, value_name = "VALUE", required = true)]
        to: String,
        /// Expect that the key has no value
        #[arg(long, conflicts_with = "expected")]
        absent: bool,
    },
    /// Print keys and values in order
    Scan {
        /// First key
        #[arg(default_value = "")]
        from: String,
        /// Key before which to stop [default: the end]
        to: Option<String>,
        /// Pairs to print at most
        #[arg(long, default_value_t = 1000)]
        limit: u32,
    },
}

/// Does it and prints the result. A key that is not there, and a swap whose expectation failed, exit with 1.
pub fn run(args: Args) -> Result<(), CliError> {
    let client = args.as_client.connect()?;
    let write = |write: KvWrite| reply(client.session().invoke(write.into_operation(), None));
    let missing = |key: &str| CliError::Failed(format!("there is no key {}", key.escape_debug()));
    let odd = |reply: KvReply| Err(CliError::Failed(format!("the store answered {reply:?}")));
    match &args.operation {
        Operation::Put { key, value } => {
            match write(KvWrite::Put { key: key.as_bytes(), value: value.as_bytes() })? {
                KvReply::Ok => Ok(()),
                other => odd(other),
            }
        }
        Operation::Delete { key } => match write(KvWrite::Delete { key: key.as_bytes() })? {
            KvReply::Ok => Ok(()),
            KvReply::NotFound => Err(missing(key)),
            other => odd(other),
        },
        Operation::Cas { key, expected, to, absent } => {
            let expected = expected.as_deref().filter(|_| !absent).map(str::as_bytes);
            match write(KvWrite::CompareAndSwap { key: key.as_bytes(), expected, value: to.as_bytes() })? {
                KvReply::Ok => Ok(()),
                KvReply::Mismatch { current: Some(current), .. } => Err(CliError::Failed(format!(
                    "not swapped: the value is \"{}\"",
                    String::from_utf8_lossy(&current).escape_debug()
                ))),
                KvReply::Mismatch { current: None, .. } => {
                    Err(CliError::Failed("not swapped: there is no such key".into()))
                }
                other => odd(other),
            }
        }
        Operation::Get { key } => {
            match reply(client.read(KvOperation::Get { key: key.as_bytes() }.encode(), None))? {
                KvReply::Value(value) => put_out(&[&value]),
                KvReply::NotFound => Err(missing(key)),
                other => odd(other),
            }
        }
        Operation::Scan { from, to, limit } => scan(&client, from, to.as_deref(), *limit),
    }
}

/// Keys and values, separated by a tab, in as many reads as the store's bound on a reply makes necessary. Each read is
/// consistent; all of them together are not.
fn scan(client: &Client, from: &str, to: Option<&str>, limit: u32) -> Result<(), CliError> {
    let mut start = from.as_bytes().to_vec();
    let mut left = limit;
    while left > 0 {
        let end = to.unwrap_or_default().as_bytes();
        let operation = KvOperation::Scan { start: &start, end, limit: left }.encode();
        let KvReply::Entries { entries, more } = reply(client.read(operation, None))? else {
            return Err(CliError::Failed("the store's answer is none to a scan".into()));
        };
        for (key, value) in &entries {
            put_out(&[key, b"\t", value])?;
        }
        left = left.saturating_sub(entries.len() as u32);
        match entries.last() {
            // The next key in order: the same with a zero byte behind.
            Some((last, _)) if more => start = [last, &[0][..]].concat(),
            _ => return Ok(()),
        }
    }
    eprintln!("{limit} pairs shown, as many as --limit says; there may be more");
    Ok(())
}

fn reply(outcome: Outcome) -> Result<KvReply, CliError> {
    Ok(KvReply::decode(&reply_of(outcome)?)?)
}

/// Bytes as they are, and a line end.
fn put_out(parts: &[&[u8]]) -> Result<(), CliError> {
    let line = [parts, &[b"\n"]].concat().concat();
    match std::io::stdout().write_all(&line) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(CliError::OutputClosed),
        other => Ok(other?),
    }
}
