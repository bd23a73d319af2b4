//! `duramen bench`: load on a cluster of child processes, or on one that runs; `bench compare`: two of these, in turn.

mod compare;
pub mod load;
pub mod report;
pub mod workload;

#[cfg(test)]
mod bench_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use duramen::client::{Client, ClientOptions};
use duramen::config::{ClientAuth, Config, Durability, Limits, LogDevice, LogIo, LogLimits, Transport};
use duramen::data_dir;
use duramen::init::InitOptions;
use duramen::quorum::FaultModel;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::connect::{client_keys, statuses};
use super::local_cluster::LocalCluster;
use super::machine::{Machine, cpu_seconds, resident_bytes, thread_cpu_seconds};
use super::signals::Interrupt;
use super::{CliError, InsecureArg, ServiceName, emit, model, transport_label, word};
use load::{Load, Shape};
use report::{Bin, Measured, Report};
use workload::{Distribution, Kind, Mix, Named, Workload};

/// What to run and to measure.
#[derive(clap::Args, Debug, PartialEq)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub compare: Option<Compare>,
    /// Start this many replicas on this machine, in a fresh folder in --dir [default: measure the running cluster of --dir]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub local: Option<u32>,
    /// What faulty replicas may do (with --local) [default: byzantine]
    #[arg(long, value_parser = model())]
    pub model: Option<FaultModel>,
    /// A folder to work in, on the disk to measure; without --local, the folder of a cluster
    #[arg(long, default_value = "./duramen-bench")]
    pub dir: PathBuf,
    /// What is replicated
    #[arg(long, value_enum, default_value = "kv")]
    pub service: ServiceName,
    /// A named mix of operations; what is given beside it replaces a part of it. All but ddspace-1k are for the key-value store
    #[arg(long, value_enum)]
    pub workload: Option<Named>,
    /// Bytes of a value (kv), of a tuple's fields together (tuples) or of a request (null) [default: 4096, of tuples 1024, or the workload's]
    #[arg(long, value_name = "BYTES")]
    pub value_size: Option<u32>,
    /// Bytes of a reply of the null service
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub reply_size: u32,
    /// Keys that operations are about [default: 10000, or the workload's]
    #[arg(long)]
    pub keys: Option<u64>,
    /// How keys are drawn [default: uniform, or the workload's]
    #[arg(long, value_enum)]
    pub distribution: Option<Distribution>,
    /// Share of reads; the rest are updates [default: 0, or the workload's mix]
    #[arg(long, value_name = "0..1")]
    pub read_fraction: Option<f64>,
    /// Open loop: this many requests are due per second, whatever the answers do [default: closed loop]
    #[arg(long, value_name = "OPS")]
    pub rate: Option<f64>,
    /// Sessions that send requests, all of one client process
    #[arg(long, default_value_t = 8)]
    pub clients: u32,
    /// Requests each session keeps unanswered, at most
    #[arg(long, default_value_t = 100)]
    pub outstanding: u32,
    /// Seconds to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before measuring starts
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub warmup: f64,
    /// Sets the values and the order of keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What protects the links (with --local) [default: tls]
    #[arg(long, value_parser = word::<Transport>(Transport::WORDS))]
    pub transport: Option<Transport>,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// What proves that a request is its client's (with --local) [default: signature; channel in crash mode]
    #[arg(long, value_parser = word::<ClientAuth>(ClientAuth::WORDS))]
    pub client_auth: Option<ClientAuth>,
    /// What is on disk before a reply leaves (with --local) [default: vote]
    #[arg(long, value_parser = word::<Durability>(Durability::WORDS))]
    pub durability: Option<Durability>,
    /// Microseconds that every operation takes to execute, besides what it takes (with --local)
    #[arg(long, value_name = "US", default_value_t = 0)]
    pub execute_cost_us: u64,
    /// Batches proposed and undecided at a time (with --local) [default: as in a new cluster]
    #[arg(long, value_name = "N")]
    pub instances: Option<u64>,
    /// Log writes in flight at a time (with --local) [default: as in a new cluster]
    #[arg(long, value_name = "N")]
    pub writes_in_flight: Option<u32>,
    /// How log writes reach the disk (with --local) [default: auto]
    #[arg(long, value_parser = word::<LogIo>(LogIo::WORDS))]
    pub io: Option<LogIo>,
    /// What the disk is made out to be (with --local): the durability paper's devices are emulated on top of the real one
    #[arg(long, default_value = "real", value_parser = word::<LogDevice>(LogDevice::WORDS))]
    pub device: LogDevice,
    /// Operations per second to fill log space with zeros for, ahead of the load [default: an estimate]
    #[arg(long, value_name = "OPS")]
    pub expect_rate: Option<f64>,
    /// GB (10^9 bytes) that the run may write in all, zero-filling included
    #[arg(long, value_name = "GB", default_value_t = 20.0)]
    pub write_limit_gb: f64,
    /// Work on a tmpfs too, and label the result: nothing there is durable
    #[arg(long)]
    pub allow_tmpfs: bool,
    /// Leave the cluster's folder in place
    #[arg(long)]
    pub keep: bool,
    /// Print where time goes in the replicas, stage by stage
    #[arg(long)]
    pub stages: bool,
    /// Also write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write latency percentiles in HdrHistogram's text form, milliseconds
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write an HdrHistogram interval log, 100 ms each, nanoseconds
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Write a timeline in bins of 100 ms as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// More than one measurement.
#[derive(clap::Subcommand, Debug, PartialEq)]
pub enum Compare {
    /// Measures two configurations in turn and prints the ratio of each round
    Compare(compare::Args),
}

/// The commit this was built from, where the build was told (`DURAMEN_COMMIT`).
const COMMIT: Option<&str> = option_env!("DURAMEN_COMMIT");

/// The timeline's grain.
const BIN: Duration = Duration::from_millis(100);

/// How long the replicas may take to start, beside the time for zero-filling at this rate.
const START_TIME: Duration = Duration::from_secs(30);
const FILL_BYTES_PER_SECOND: u64 = 100_000_000;
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a replica under load may take to tell its state.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// Runs, prints, writes the files.
pub fn run(args: Args) -> Result<(), CliError> {
    if cfg!(debug_assertions) {
        return Err(fail("a debug build says nothing about speed: use `cargo run --release -- bench …`"));
    }
    if let Some(Compare::Compare(args)) = &args.compare {
        return compare::run(args);
    }
    check(&args)?;
    for file in [&args.json, &args.hgrm, &args.hlog, &args.csv].into_iter().flatten() {
        // Before a long run, not after it.
        std::fs::File::create(file).map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
    }
    let interrupt = Interrupt::install()?;
    let go_on = || !interrupt.is_set();
    let commit = COMMIT.map_or_else(String::new, |commit| format!(" ({commit})"));
    emit(format_args!("duramen {}{commit} bench: {}", env!("CARGO_PKG_VERSION"), describe(&args)))?;
    emit(format_args!("command    {}", command_line()))?;

    let folder = Folder::make(&args)?;
    let machine = Machine::measure(&args.dir).map_err(CliError::Failed)?;
    if machine.mount.in_memory() && !args.allow_tmpfs {
        return Err(fail(
            "--dir lies on a tmpfs, where nothing is durable: choose a folder on a disk, or add --allow-tmpfs",
        ));
    }
    emit(machine.describe())?;
    let (config, mut cluster, writing) = match args.local {
        None => (data_dir::load_config(&args.dir)?, None, Writing::unlimited(&args)),
        Some(n) => {
            let writing = Writing::plan(&args, n)?;
            let free = duramen::sys::free_bytes(&args.dir);
            if free < writing.planned_bytes + (1 << 30) {
                let (free, planned) = (gb(free), gb(writing.planned_bytes));
                return Err(fail(&format!(
                    "--dir has {free:.1} GB free, this run needs {planned:.1} and 1 to spare: choose another disk or a shorter run"
                )));
            }
            emit(format_args!(
                "writing    up to {:.1} GB: per replica {:.1} GB filled with zeros first, for {:.0} ops/s",
                gb(writing.planned_bytes),
                gb(writing.prefill_bytes),
                writing.expect_rate,
            ))?;
            let mut cluster = local(&args, n, &writing, &folder.path)?;
            if args.keep {
                cluster.keep();
            }
            let fill = Duration::from_secs(writing.prefill_bytes * u64::from(n) / FILL_BYTES_PER_SECOND);
            cluster.start_all(START_TIME + fill, &go_on).map_err(CliError::Failed)?;
            (cluster.config.clone(), Some(cluster), writing)
        }
    };
    let keys = client_keys(cluster.as_ref().map_or(&args.dir, |c| c.dir()), &config, None)?;
    let client = connect(&args, &config, keys)?;
    emit(describe_cluster(&config, &client)?)?;
    emit(format_args!("promise    {}", config.durability.promise()))?;
    let shape = Shape {
        sessions: args.clients,
        outstanding: args.outstanding,
        rate: args.rate,
        deadline: DEADLINE,
        seed: args.seed,
    };
    let workload = Arc::new(Workload::new(kind(&args), args.seed));
    preload(&client, &workload, shape, &interrupt)?;
    let loop_kind = match args.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop, {rate:.0} due per second"),
    };
    emit(format_args!(
        "load       {} sessions x {} outstanding, {loop_kind}, warm-up {} s, measured {} s",
        args.clients, args.outstanding, args.warmup, args.duration
    ))?;

    let load = Load::start(&client, workload, shape);
    let pids: Vec<u32> =
        cluster.as_ref().map(|c| (0..c.n()).filter_map(|i| c.pid(i)).collect()).unwrap_or_default();
    let measured = measure(&args, &client, &config, load, &pids, &writing, &interrupt)?;
    drop(client);
    if let Some(cluster) = &mut cluster {
        cluster.stop_all().map_err(CliError::Failed)?;
    }
    let report = Report { args: &args, config: &config, machine: &machine, measured: &measured };
    report.print()?;
    if args.stages {
        report.print_stages()?;
    }
    report.write_files()?;
    match measured.record.errors {
        0 => Ok(()),
        errors => {
            let first = measured.record.first_error.unwrap_or_default();
            Err(CliError::Failed(format!("{errors} requests failed, the first: {first}")))
        }
    }
}

/// Loads every key once, where the workload wants that.
fn preload(
    client: &Client,
    workload: &Arc<Workload>,
    shape: Shape,
    interrupt: &Interrupt,
) -> Result<(), CliError> {
    let keys = workload.preload();
    if keys == 0 {
        return Ok(());
    }
    let begin = Instant::now();
    let load = Load::preload(client, workload.clone(), shape);
    while !load.is_idle() && !interrupt.is_set() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let loaded = load.acked();
    let record = load.stop();
    if loaded < keys {
        let why = record.first_error.unwrap_or_else(|| "interrupted".into());
        return Err(fail(&format!("{loaded} of {keys} keys were loaded before: {why}")));
    }
    emit(format_args!("preload    {keys} keys in {:.1} s", begin.elapsed().as_secs_f64()))
}

/// What the arguments come to.
fn kind(args: &Args) -> Kind {
    if args.service == ServiceName::Null {
        let request_bytes = value_size(args) as usize;
        return Kind::Null { request_bytes, reply_bytes: args.reply_size };
    }
    if args.service == ServiceName::Tuples {
        return Kind::Tuples { tuple_bytes: value_size(args) as usize };
    }
    let (keys, _, mut mix, distribution) =
        args.workload.map_or((10_000, 4096, Mix::default(), Distribution::Uniform), Named::parts);
    if let Some(read) = args.read_fraction {
        mix = Mix { read: (read * 1000.0).round() as u32, ..Mix::default() };
    }
    let preload = args.workload.is_some() || mix != Mix::default();
    Kind::Kv {
        value_bytes: value_size(args) as usize,
        keys: args.keys.unwrap_or(keys),
        mix,
        distribution: args.distribution.unwrap_or(distribution),
        preload,
    }
}

fn value_size(args: &Args) -> u32 {
    let usual = if args.service == ServiceName::Tuples { 1024 } else { 4096 };
    args.value_size.unwrap_or_else(|| args.workload.map_or(usual, |w| w.parts().1 as u32))
}

fn fail(message: &str) -> CliError {
    CliError::Failed(message.into())
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

fn command_line() -> String {
    // As the shell wants it again: `compare` takes words with spaces.
    let quoted = |word: String| if word.contains(' ') { format!("'{word}'") } else { word };
    let words = std::env::args().skip(1).map(quoted);
    std::iter::once("duramen".into()).chain(words).collect::<Vec<_>>().join(" ")
}

fn check(args: &Args) -> Result<(), CliError> {
    let of_tuples = args.workload == Some(Named::DdSpace1k);
    if of_tuples && args.service != ServiceName::Tuples {
        return Err(fail("--workload ddspace-1k is for the tuple space: add --service tuples"));
    }
    let kv_only = (args.workload.is_some() && !of_tuples)
        || args.keys.is_some()
        || args.distribution.is_some()
        || args.read_fraction.is_some();
    if args.service != ServiceName::Kv && kv_only {
        return Err(fail(
            "--workload (but ddspace-1k, of tuples), --keys, --distribution and --read-fraction are for --service kv: leave them out",
        ));
    }
    let local_only = [
        ("--model", args.model.is_some()),
        ("--transport", args.transport.is_some()),
        ("--client-auth", args.client_auth.is_some()),
        ("--durability", args.durability.is_some()),
        ("--io", args.io.is_some()),
        ("--device", args.device != LogDevice::Real),
        ("--execute-cost-us", args.execute_cost_us > 0),
        ("--instances", args.instances.is_some()),
        ("--writes-in-flight", args.writes_in_flight.is_some()),
        ("--expect-rate", args.expect_rate.is_some()),
        ("--keep", args.keep),
    ];
    if let (None, Some((name, _))) = (args.local, local_only.iter().find(|(_, given)| *given)) {
        return Err(fail(&format!("{name} is for --local N: a running cluster has its own, leave it out")));
    }
    let mixed = args.workload.is_some_and(|workload| !workload.parts().2.only_reads_and_updates());
    if mixed && args.read_fraction.is_some() {
        return Err(fail(
            "--read-fraction is for reads and updates, and this workload has others: leave it out, or take --workload a",
        ));
    }
    let loaded = kind(args).preload() * Writing::operation_bytes(args);
    if args.local.is_none() && loaded as f64 > args.write_limit_gb * 1e9 {
        return Err(CliError::Failed(format!(
            "loading the keys would write {:.1} GB, and the limit is {:.1}: lower --keys or raise --write-limit-gb",
            gb(loaded),
            args.write_limit_gb
        )));
    }
    if args.read_fraction.is_some_and(|f| !(0.0..=1.0).contains(&f)) {
        return Err(fail("--read-fraction is a number from 0 to 1"));
    }
    if args.rate.is_some_and(|rate| !(1.0..1e8).contains(&rate)) {
        return Err(fail("--rate is at least 1 operation per second"));
    }
    let seconds = |value: f64| value.is_finite() && (0.0..=86_400.0).contains(&value);
    if !seconds(args.duration) || args.duration < 0.1 || !seconds(args.warmup) {
        return Err(fail("--duration is 0.1 to 86400 seconds, --warmup 0 to 86400"));
    }
    if args.clients == 0
        || args.outstanding == 0
        || u64::from(args.clients) * u64::from(args.outstanding) > 1 << 20
    {
        return Err(fail("--clients and --outstanding are at least 1, their product at most 1048576"));
    }
    if args.keys == Some(0) {
        return Err(fail("--keys is at least 1"));
    }
    if args.expect_rate.is_some_and(|rate| !(rate > 0.0 && rate < 1e8)) {
        return Err(fail("--expect-rate is a number of operations per second"));
    }
    if value_size(args) as usize > duramen::service::VALUE_BYTES_MAX {
        return Err(fail("--value-size is at most 8 MiB"));
    }
    // Number of fields, and the head of each.
    let tuple_bytes_max = duramen::service::TUPLE_BYTES_MAX - 2 - 4 * 5;
    if args.service == ServiceName::Tuples && value_size(args) as usize > tuple_bytes_max {
        return Err(CliError::Failed(format!(
            "--value-size of a tuple is at most {tuple_bytes_max}: longer ones the tuple space refuses"
        )));
    }
    Ok(())
}

fn describe(args: &Args) -> String {
    match kind(args) {
        Kind::Kv { value_bytes, keys, mix, distribution, .. } => {
            let share = |thousandths: u32, what: &str| {
                (thousandths > 0).then(|| format!("{} % {what}", f64::from(thousandths) / 10.0))
            };
            let rest = 1000 - mix.read - mix.insert - mix.scan - mix.read_modify_write;
            let shares: Vec<String> = [
                share(mix.read, if mix.latest { "reads of the latest" } else { "reads" }),
                share(mix.scan, "scans"),
                share(mix.insert, "inserts"),
                share(mix.read_modify_write, "read-modify-writes"),
                share(rest, "updates"),
            ]
            .into_iter()
            .flatten()
            .collect();
            let distribution = format!("{distribution:?}").to_lowercase();
            format!("kv, {}, values of {value_bytes} B, {keys} keys, {distribution}", shares.join(" + "))
        }
        Kind::Tuples { tuple_bytes } => {
            format!("tuple space, inserts of random tuples with 4 text fields, {tuple_bytes} B together")
        }
        Kind::Null { request_bytes, reply_bytes } => {
            format!("null service, requests of {request_bytes} B, replies of {reply_bytes} B")
        }
    }
}

/// The folder for a cluster of our own; removed at the end, if it is empty.
struct Folder {
    path: PathBuf,
    made: Option<PathBuf>,
}

impl Folder {
    fn make(args: &Args) -> Result<Folder, CliError> {
        let path = args.dir.join(format!("bench-{}", std::process::id()));
        let made = (args.local.is_some() && !args.dir.exists()).then(|| args.dir.clone());
        if args.local.is_some() {
            std::fs::create_dir_all(&args.dir)
                .map_err(|e| CliError::Failed(format!("{}: {e}", args.dir.display())))?;
        }
        Ok(Folder { path, made })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            let _ = std::fs::remove_dir(made);
        }
    }
}

/// How much a run will write.
struct Writing {
    expect_rate: f64,
    /// Zeros per replica, written before the load.
    prefill_bytes: u64,
    segments: u32,
    /// All replicas, zeros included.
    planned_bytes: u64,
    /// Acknowledged operations at which the run ends early.
    operations_max: u64,
}

const SEGMENT_BYTES: u64 = 64 << 20;
/// A request's share of headers and signatures.
const OVERHEAD_BYTES: u64 = 64;

impl Writing {
    fn operation_bytes(args: &Args) -> u64 {
        u64::from(value_size(args)) + OVERHEAD_BYTES
    }

    fn plan(args: &Args, n: u32) -> Result<Writing, CliError> {
        let bytes = Self::operation_bytes(args);
        let seconds = args.duration + args.warmup + 0.5;
        // What two cores can do, generously: a cost per operation and one per byte, each per replica.
        let (base_us, byte_ns) = match args.model.unwrap_or(FaultModel::Byzantine) {
            FaultModel::Byzantine => (0.8, 1.6),
            FaultModel::Crash => (0.6, 1.2),
        };
        let cost_us = (base_us + byte_ns * f64::from(value_size(args)) / 1e3) * f64::from(n);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let few_waiting = f64::from(args.clients) * f64::from(args.outstanding) / 500e-6;
        let estimate = (1e6 / cost_us * cores as f64 / 2.0).min(few_waiting);
        let expect_rate = args.expect_rate.or(args.rate).unwrap_or(estimate);
        let (kind, write_share) = (kind(args), kind(args).write_share());
        let loaded_bytes = kind.preload() * bytes;
        let used = loaded_bytes + (expect_rate * seconds * write_share * bytes as f64) as u64;
        let segments = used.div_ceil(SEGMENT_BYTES) as u32 + 1;
        let prefill_bytes = u64::from(segments) * SEGMENT_BYTES;
        let planned_bytes = u64::from(n) * (prefill_bytes + used);
        let limit = (args.write_limit_gb * 1e9) as u64;
        if planned_bytes > limit {
            return Err(CliError::Failed(format!(
                "this run would write {:.1} GB at {expect_rate:.0} ops/s, zero-filling included, and the limit is {:.1}: \
                 shorten --duration, lower --expect-rate, or raise --write-limit-gb",
                gb(planned_bytes),
                gb(limit),
            )));
        }
        let left = limit - u64::from(n) * (prefill_bytes + loaded_bytes);
        // As many as it takes if nothing is written: infinity becomes the largest integer.
        let operations_max = (left as f64 / (f64::from(n) * bytes as f64 * write_share)) as u64;
        Ok(Writing { expect_rate, prefill_bytes, segments, planned_bytes, operations_max })
    }

    /// A running cluster has its own bounds, but the limit on writing stands.
    fn unlimited(args: &Args) -> Writing {
        let (kind, bytes) = (kind(args), Self::operation_bytes(args) as f64);
        let left = args.write_limit_gb * 1e9 - kind.preload() as f64 * bytes;
        let operations_max = (left / (bytes * kind.write_share())) as u64;
        Writing { expect_rate: 0.0, prefill_bytes: 0, segments: 0, planned_bytes: 0, operations_max }
    }
}

fn local(args: &Args, n: u32, writing: &Writing, dir: &Path) -> Result<LocalCluster, CliError> {
    let log = LogLimits {
        segment_mib: SEGMENT_BYTES >> 20,
        bytes_max_mib: LogLimits::default().bytes_max_mib.max((u64::from(writing.segments) * 2 + 8) * 64),
        io: args.io.unwrap_or_default(),
        device: args.device,
        prefill_segments: writing.segments,
        writes_in_flight: args.writes_in_flight.unwrap_or(LogLimits::default().writes_in_flight),
        ..LogLimits::default()
    };
    let limits = Limits::default();
    let request_bytes = limits.request_bytes.max(value_size(args) as usize + 64);
    let options = InitOptions {
        dir: dir.into(),
        replicas: n,
        model: args.model.unwrap_or(FaultModel::Byzantine),
        clients: vec!["bench".into()],
        transport: args.transport.unwrap_or_default(),
        insecure: args.insecure.insecure,
        client_auth: args.client_auth,
        durability: args.durability.unwrap_or_default(),
        limits: Limits {
            request_bytes,
            instances_open: args.instances.unwrap_or(limits.instances_open),
            ..limits
        },
        log,
        ..InitOptions::default()
    };
    let reply_size = args.reply_size.to_string();
    let cost = args.execute_cost_us.to_string();
    let start = ["--service", args.service.as_str(), "--reply-size", &reply_size, "--execute-cost-us", &cost];
    let exe = std::env::current_exe()?;
    LocalCluster::create(&exe, options, &start, args.allow_tmpfs).map_err(CliError::Failed)
}

fn connect(args: &Args, config: &Config, keys: duramen::keys::ClientKeys) -> Result<Client, CliError> {
    let in_flight = args.clients as usize * args.outstanding as usize;
    let mut options = ClientOptions::new(config.clone(), keys);
    options.insecure = args.insecure.insecure;
    options.outstanding_max = options.outstanding_max.max(2 * in_flight);
    options.outstanding_bytes_max =
        options.outstanding_bytes_max.max(2 * in_flight * (value_size(args) as usize + 64));
    // A running cluster may have lost some, and its refusals shall be told at once.
    options.connect_to = args.local;
    Ok(Client::connect(options)?)
}

fn describe_cluster(config: &Config, client: &Client) -> Result<String, CliError> {
    let group = config.group();
    let model = if group.byzantine() { "byzantine" } else { "crash" };
    let backend = statuses(client, config, STATUS_TIME).into_iter().find_map(Result::ok);
    let backend = backend.and_then(|status| Some(status.pointer("/log/backend")?.as_str()?.to_owned()));
    let transport = match transport_label(config) {
        Some(_) => "plain: no encryption, no authentication".to_owned(),
        None => config.transport.to_string(),
    };
    Ok(format!(
        "cluster    {model}, n = {}, f = {}, durability {}, transport {transport}, client auth {}, digest {}\n\
         log        {}",
        group.n(),
        group.f(),
        config.durability,
        config.client_auth,
        format!("{:?}", config.digest).to_lowercase(),
        backend.unwrap_or_default(),
    ))
}

fn measure(
    args: &Args,
    client: &Client,
    config: &Config,
    load: Load,
    pids: &[u32],
    writing: &Writing,
    interrupt: &Interrupt,
) -> Result<Measured, CliError> {
    let pause = |until: Instant| -> Result<bool, CliError> {
        while Instant::now() < until && !interrupt.is_set() {
            if let Some(why) = load.hopeless() {
                return Err(CliError::Failed(why));
            }
            let left = until.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(BIN));
        }
        Ok(!interrupt.is_set())
    };
    if !pause(Instant::now() + Duration::from_secs_f64(args.warmup))? {
        return Err(fail("interrupted before anything was measured"));
    }
    let before = statuses(client, config, STATUS_TIME);
    let cpu =
        || (pids.iter().map(|pid| cpu_seconds(*pid)).collect::<Vec<_>>(), cpu_seconds(std::process::id()));
    let mut rss_bytes: Vec<Vec<u64>> = vec![Vec::new(); pids.len()];
    let mut look_at_memory =
        || pids.iter().zip(&mut rss_bytes).for_each(|(pid, of_one)| of_one.push(resident_bytes(*pid)));
    look_at_memory();
    let (replicas_before, client_before) = cpu();
    let threads_before = thread_cpu_seconds();
    load.start_recording();
    let (began, begin, acked_before) = (SystemTime::now(), Instant::now(), load.acked());
    let hlog_failed = |e: &dyn std::fmt::Display| {
        let file = args.hlog.as_deref().unwrap_or(Path::new("")).display();
        CliError::Failed(format!("{file}: {e}"))
    };
    let mut serializer = V2DeflateSerializer::new();
    let mut hlog_file =
        args.hlog.as_ref().map(std::fs::File::create).transpose().map_err(|e| hlog_failed(&e))?;
    let hlog = hlog_file.as_mut().map(|out| {
        let mut log = IntervalLogWriterBuilder::new();
        log.with_start_time(began).with_base_time(began).begin_log_with(out, &mut serializer)
    });
    let mut hlog = hlog.transpose().map_err(|e| hlog_failed(&e))?;
    let end = begin + Duration::from_secs_f64(args.duration);
    let (mut bins, mut windows, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut window_at, mut window_acked) = (begin, acked_before);
    let mut errors_before = load.take_bin().1;
    while Instant::now() < end {
        let at = begin + BIN * bins.len() as u32;
        let went_on = pause(end.min(at + BIN))?;
        let (latency_ns, errors) = load.take_bin();
        bins.push(Bin::of(at - begin, &latency_ns, errors - errors_before));
        if let Some(log) = &mut hlog {
            log.write_histogram(&latency_ns, at - begin, BIN, None)
                .map_err(|e| hlog_failed(&format!("{e:?}")))?;
        }
        errors_before = errors;
        let (now, acked) = (Instant::now(), load.acked());
        let window = now - window_at;
        // The rest at the end is no window of its own.
        let last = now >= end || !went_on;
        if window >= Duration::from_millis(990) || last && (windows.is_empty() || window > BIN * 5) {
            windows.push((acked - window_acked) as f64 / window.as_secs_f64());
            (window_at, window_acked) = (now, acked);
            look_at_memory();
        }
        if !went_on {
            notes.push("INTERRUPTED: shorter than asked for".to_owned());
            break;
        }
        if acked >= writing.operations_max {
            notes.push("ended early: the limit on writing was reached (--write-limit-gb)".to_owned());
            break;
        }
    }
    let (seconds, acked) = (begin.elapsed().as_secs_f64(), load.acked());
    let (replicas_after, client_after) = cpu();
    let busiest = thread_cpu_seconds()
        .into_iter()
        .map(|(id, name, after)| {
            let before = threads_before.iter().find(|(other, ..)| *other == id).map_or(0.0, |(_, _, b)| *b);
            (name, (after - before) / seconds)
        })
        .max_by(|a, b| a.1.total_cmp(&b.1));
    look_at_memory();
    let (waiting_max, unsent) = (load.waiting_max(), load.waiting());
    let record = load.stop();
    let after = statuses(client, config, STATUS_TIME);
    if args.local.is_some() && acked as f64 > writing.expect_rate * (args.warmup + args.duration + 0.5) {
        notes.push(
            "the log outran its zero-filled room: some filling was measured too (--expect-rate)".into(),
        );
    }
    Ok(Measured {
        record,
        seconds,
        acked: acked - acked_before,
        bins,
        windows,
        replica_cpu_s: replicas_after.iter().zip(&replicas_before).map(|(a, b)| a - b).collect(),
        client_cpu_s: client_after - client_before,
        busiest,
        rss_bytes,
        waiting_max,
        unsent,
        interrupted: interrupt.is_set(),
        before,
        after,
        notes,
    })
}
