//! The command line: one file per subcommand, each with its `Args` and `run(Args) -> Result<(), CliError>`.
//!
//! To add a subcommand, write its file, name it in [`Command`] and in [`Command::run`].
//! Exit codes: 0 done, 1 failed (one line `error: …` on stderr says why and what to do), 2 wrong usage (clap's own).
//! Results go to stdout through [`emit`], logs to stderr.

mod as_client;
mod bench;
mod checked_load;
mod connect;
mod demo;
mod disk_check;
mod figures;
mod init;
mod kv;
mod local_cluster;
mod log_files;
mod machine;
mod recover;
mod replay;
mod signals;
mod sim;
mod start;
mod status;
mod test_library;
mod test_service;
mod transfer_line;
mod tuple;
mod wan;

#[cfg(test)]
mod args_tests;
#[cfg(test)]
mod machine_tests;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use duramen::config::{Config, Transport};
use duramen::quorum::FaultModel;
use duramen::service::{KeyValueStore, NullService, Service, TupleSpace};
use duramen::types::DigestAlgorithm;
use log::LevelFilter;

/// Durable state machine replication: a service that survives crashes (n = 2f+1) or lies (n = 3f+1) of f replicas.
#[derive(Parser, Debug)]
#[command(name = "duramen", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Make a new cluster: configuration, keys, formatted replica folders.
    Init(init::Args),
    /// Run one replica, or all of them, until Ctrl-C.
    Start(start::Args),
    /// Let a member whose log is lost or damaged come back.
    Recover(recover::Args),
    /// Show what each replica says of itself.
    Status(status::Args),
    /// Use the replicated key-value store.
    Kv(kv::Args),
    /// Use the replicated tuple space.
    Tuple(tuple::Args),
    /// Look at a replica's log while the replica does not run.
    Log(log_files::Args),
    /// Execute a replica's log once more, and compare with what a quorum signed.
    Replay(replay::Args),
    /// Measure what synchronous writes cost on a disk.
    DiskCheck(disk_check::Args),
    /// Measure a cluster under closed-loop load.
    Bench(Box<bench::Args>),
    /// Try to break simulated groups: each seed draws its own faults, and replays to the bit.
    Sim(sim::Args),
    /// Check that a service is deterministic, and that its states can be taken over.
    TestService(test_service::Args),
    /// Measure and draw the papers' figures.
    Figures(figures::Args),
    /// Shape links as in the papers' wide area network, on this machine.
    Wan(wan::Args),
    /// Watch four replicas survive kills under load, and prove that nothing was lost.
    Demo(demo::Args),
}

impl Command {
    fn run(self) -> Result<(), CliError> {
        match self {
            Command::Init(args) => init::run(args),
            Command::Start(args) => start::run(args),
            Command::Recover(args) => recover::run(args),
            Command::Status(args) => status::run(args),
            Command::Kv(args) => kv::run(args),
            Command::Tuple(args) => tuple::run(args),
            Command::Log(args) => log_files::run(args),
            Command::Replay(args) => replay::run(args),
            Command::DiskCheck(args) => disk_check::run(args),
            Command::Bench(args) => bench::run(*args),
            Command::Sim(args) => sim::run(args),
            Command::TestService(args) => test_service::run(args),
            Command::Figures(args) => figures::run(args),
            Command::Wan(args) => wan::run(args),
            Command::Demo(args) => demo::run(args),
        }
    }

    /// What is logged unless DURAMEN_LOG says otherwise.
    fn log_level(&self) -> LevelFilter {
        match self {
            Command::Start(_) => LevelFilter::Info,
            // They cut connections themselves, or tell in their results who cannot be reached.
            Command::Bench(_)
            | Command::Demo(_)
            | Command::Figures(_)
            | Command::Kv(_)
            | Command::Status(_)
            | Command::Tuple(_) => LevelFilter::Error,
            _ => LevelFilter::Warn,
        }
    }
}

/// Parses the arguments, runs the subcommand, and turns its outcome into an exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.command.log_level());
    match cli.command.run() {
        // A reader that has seen enough, such as `head`, is no failure.
        Ok(()) | Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(CliError::Failed(message)) => {
            let _ = writeln!(io::stderr(), "error: {}", one_line(&message));
            ExitCode::FAILURE
        }
    }
}

/// Why a subcommand did not finish.
#[derive(Debug)]
pub enum CliError {
    /// It failed: the reason and what to do, in one line.
    Failed(String),
    /// Whoever read stdout has closed it.
    OutputClosed,
}

/// Any error fails the command with its text. (So `CliError` itself cannot be a `std::error::Error`.)
impl<E: std::error::Error> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Writes a line to stdout. `println!` would panic when the reader has gone.
pub fn emit(line: impl fmt::Display) -> Result<(), CliError> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(CliError::OutputClosed),
        Err(e) => Err(CliError::Failed(format!("the output cannot be written: {e}"))),
    }
}

/// `--dir`, the same everywhere.
#[derive(clap::Args, Debug, Clone, PartialEq)]
pub struct DirArg {
    /// The cluster's folder.
    #[arg(long, global = true, value_name = "DIR", default_value = "./duramen-data")]
    pub dir: PathBuf,
}

/// `--insecure`, wherever a cluster is used.
#[derive(clap::Args, Debug, Clone, PartialEq)]
pub struct InsecureArg {
    /// Allow plain links, without encryption and channel authentication, in the Byzantine model.
    #[arg(long, global = true)]
    pub insecure: bool,
}

/// What can be replicated.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum ServiceName {
    /// The key-value store
    Kv,
    /// The tuple space
    Tuples,
    /// The null service of the micro-benchmarks: request and reply bytes only
    Null,
}

impl ServiceName {
    /// As on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Tuples => "tuples",
            Self::Null => "null",
        }
    }

    /// The service in its first state. `reply_size`: of a reply of the null service to a request that names no length.
    pub fn make(self, reply_size: u32) -> Box<dyn Service> {
        match self {
            Self::Kv => Box::new(KeyValueStore::new()),
            Self::Tuples => Box::new(TupleSpace::new()),
            Self::Null => Box::new(NullService::new(reply_size)),
        }
    }
}

/// The label that every output of a cluster with plain links carries; nothing for TLS.
pub fn transport_label(config: &Config) -> Option<&'static str> {
    (config.transport == Transport::Plain).then_some(
        "transport = plain: no encryption, no channel authentication; only for a network you trust",
    )
}

/// One of the words of a configuration type, such as [`Transport::WORDS`].
fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).map(|word| word.parse().expect("it is one of the possible values"))
}

/// `byzantine` or `crash`.
fn model() -> impl TypedValueParser<Value = FaultModel> {
    PossibleValuesParser::new(["byzantine", "crash"]).map(|word| match word.as_str() {
        "crash" => FaultModel::Crash,
        _ => FaultModel::Byzantine,
    })
}

/// `blake3`, `sha256` or `sha512`.
fn digest() -> impl TypedValueParser<Value = DigestAlgorithm> {
    PossibleValuesParser::new(["blake3", "sha256", "sha512"]).map(|word| match word.as_str() {
        "sha256" => DigestAlgorithm::Sha256,
        "sha512" => DigestAlgorithm::Sha512,
        _ => DigestAlgorithm::Blake3,
    })
}

/// Logs to stderr, one line each: time, level, message.
fn start_logging(usual: LevelFilter) {
    env_logger::Builder::new()
        .filter_level(usual)
        // Its news of connections are told by the replica, too.
        .filter_module("duramen::net", usual.min(LevelFilter::Warn))
        .parse_env("DURAMEN_LOG")
        .format(|out, record| {
            let message = record.args().to_string();
            writeln!(out, "{} {:<5} {}", out.timestamp_millis(), record.level(), one_line(&message))
        })
        .init();
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
