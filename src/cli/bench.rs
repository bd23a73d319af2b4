//! `duramen bench`: closed-loop load on a cluster of this machine.

use std::path::PathBuf;

use duramen::config::{ClientAuth, LogIo, Transport};
use duramen::quorum::FaultModel;

use super::{InsecureArg, model, word};

/// What to run and to measure.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// Start this many replicas on this machine
    #[arg(long, value_name = "N")]
    pub local: u32,
    /// What faulty replicas may do
    #[arg(long, default_value = "byzantine", value_parser = model())]
    pub model: FaultModel,
    /// A folder to work in; on the disk to measure
    #[arg(long, default_value = "./duramen-bench")]
    pub dir: PathBuf,
    /// What is replicated
    #[arg(long, value_enum, default_value = "kv")]
    pub service: Service,
    /// Bytes of a value (kv) or of a request (null)
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub value_size: u32,
    /// Bytes of a reply of the null service
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub reply_size: u32,
    /// Sessions that send requests
    #[arg(long, default_value_t = 32)]
    pub clients: u32,
    /// Requests each session keeps unanswered
    #[arg(long, default_value_t = 8)]
    pub outstanding: u32,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before measuring starts
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub warmup: f64,
    /// What protects the links
    #[arg(long, default_value = "tls", value_parser = word::<Transport>(Transport::WORDS))]
    pub transport: Transport,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// What proves that a request is its client's [default: signature; channel in crash mode]
    #[arg(long, value_parser = word::<ClientAuth>(ClientAuth::WORDS))]
    pub client_auth: Option<ClientAuth>,
    /// How log writes reach the disk
    #[arg(long, default_value = "auto", value_parser = word::<LogIo>(LogIo::WORDS))]
    pub io: LogIo,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What is replicated.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// The key-value store: puts
    Kv,
    /// The null service: request and reply bytes only
    Null,
}

pub fn run(_: Args) -> Result<(), super::CliError> {
    unimplemented!()
}
