//! `duramen init`: a new cluster in one folder.

use duramen::config::{CheckpointLimits, ClientAuth, Durability, Limits, LogLimits, Transport};
use duramen::init::{InitOptions, init};
use duramen::quorum::FaultModel;
use duramen::types::DigestAlgorithm;

use super::{CliError, DirArg, InsecureArg, digest, emit, model, transport_label, word};

/// What the new cluster shall be.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    dir: DirArg,
    /// Number of replicas [default: 4 byzantine, 3 crash]
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// What f faulty replicas may do: lie (n = 3f+1) or only stop (n = 2f+1)
    #[arg(long, default_value = "byzantine", value_parser = model())]
    model: FaultModel,
    /// Faults to bear at a time [default: the most that N replicas allow]
    #[arg(long)]
    f: Option<u32>,
    /// Address of replica 0; replica i listens on PORT + i
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7400")]
    listen: String,
    /// Name of a client to make a key for; may be repeated
    #[arg(long = "client", value_name = "NAME", default_value = "default")]
    clients: Vec<String>,
    /// What protects the links
    #[arg(long, default_value = "tls", value_parser = word::<Transport>(Transport::WORDS))]
    transport: Transport,
    #[command(flatten)]
    insecure: InsecureArg,
    /// What proves that a request is its client's [default: signature; channel in crash mode]
    #[arg(long, value_parser = word::<ClientAuth>(ClientAuth::WORDS))]
    client_auth: Option<ClientAuth>,
    /// Hash of batches and requests
    #[arg(long, default_value = "blake3", value_parser = digest())]
    digest: DigestAlgorithm,
    /// What is on disk before a reply leaves
    #[arg(long, default_value = "vote", value_parser = word::<Durability>(Durability::WORDS))]
    durability: Durability,
    /// Milliseconds without progress after which the leader is replaced
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    view_timeout_ms: u64,
    /// MiB of one log segment; cannot be changed later
    #[arg(long, value_name = "MIB", default_value_t = LogLimits::default().segment_mib)]
    segment_mib: u64,
    /// Accept a tmpfs: nothing there survives a power loss
    #[arg(long)]
    allow_tmpfs: bool,
    /// MiB that a replica's log may take on its disk
    #[arg(long, value_name = "MIB", default_value_t = LogLimits::default().bytes_max_mib)]
    log_max_mib: u64,
    /// Slots between two checkpoints of a replica; 0: none
    #[arg(long, value_name = "SLOTS", default_value_t = CheckpointLimits::default().period)]
    checkpoint_period: u64,
}

/// Makes the cluster and says what was written and what comes next.
pub fn run(args: Args) -> Result<(), CliError> {
    let replicas = args.replicas.unwrap_or(match args.model {
        FaultModel::Byzantine => 4,
        FaultModel::Crash => 3,
    });
    let options = InitOptions {
        dir: args.dir.dir,
        replicas,
        model: args.model,
        f: args.f,
        listen: args.listen,
        clients: args.clients,
        transport: args.transport,
        insecure: args.insecure.insecure,
        client_auth: args.client_auth,
        digest: args.digest,
        durability: args.durability,
        view_timeout_ms: args.view_timeout_ms,
        limits: Limits::default(),
        log: LogLimits {
            segment_mib: args.segment_mib,
            bytes_max_mib: args.log_max_mib,
            ..LogLimits::default()
        },
        checkpoint: CheckpointLimits { period: args.checkpoint_period, ..CheckpointLimits::default() },
        transfer: Default::default(),
    };
    let allow_tmpfs = args.allow_tmpfs;
    let config =
        init(&options, &|log, config, id| Ok(duramen::replica::format_log(log, config, id, allow_tmpfs)?))?;

    let dir = options.dir.display();
    let (n, f) = (config.group().n(), config.f);
    let model = if config.group().byzantine() { "lie" } else { "crash" };
    emit(format_args!("cluster {}: {n} replicas, {f} of which may {model}", config.cluster))?;
    for replica in &config.replicas {
        emit(format_args!("replica {} at {}, in {dir}/replica-{}", replica.id, replica.address, replica.id))?;
    }
    for client in &config.clients {
        emit(format_args!("client {} has its key in {dir}/client-{}.key", client.name, client.name))?;
    }
    if let Some(label) = transport_label(&config) {
        emit(label)?;
    }
    emit(format_args!("durability {}: {}", config.durability, config.durability.promise()))?;
    emit(format_args!("next: duramen start --all --dir {dir}"))
}
