//! `duramen kv`: operations on the replicated key-value store.

use super::{DirArg, InsecureArg};

/// As whom, and what.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub dir: DirArg,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// Act as this client, with its key from the cluster's folder
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub client: String,
    /// Milliseconds after which the outcome is reported as unknown
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub timeout_ms: u64,
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
