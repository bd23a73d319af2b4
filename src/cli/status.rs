//! `duramen status`: what each replica says of itself.

use std::time::Duration;

use duramen::config::{Config, Durability};
use duramen::data_dir;
use duramen::quorum::VoteSet;
use serde_json::{Value, json};

use super::connect::{client_keys, connect_to_any, statuses};
use super::{CliError, DirArg, InsecureArg, emit, transfer_line, transport_label};

/// Whom to ask, and how to print it.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    #[command(flatten)]
    pub dir: DirArg,
    #[command(flatten)]
    pub insecure: InsecureArg,
    /// Ask as this client [default: the first whose key is in the folder]
    #[arg(long, value_name = "NAME")]
    pub client: Option<String>,
    /// Milliseconds to wait for connections, and again for answers
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub timeout_ms: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Asks all replicas at once and prints their answers. Fails if fewer than a quorum answer.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = data_dir::load_config(&args.dir.dir)?;
    let keys = client_keys(&args.dir.dir, &config, args.client.as_deref())?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let client = connect_to_any(&config, keys, args.insecure.insecure, timeout)?;
    let answers = statuses(&client, &config, timeout);
    if args.json {
        emit(as_json(&config, &answers))?;
    } else {
        as_table(&config, &answers)?;
    }
    // One that still reads its log answers, and does no more.
    let works = |answer: &Result<Value, String>| {
        answer.as_ref().is_ok_and(|status| !status["recovering"].is_object())
    };
    let answered: VoteSet = config.group().members().filter(|id| works(&answers[id.index()])).collect();
    let quorum = config.group().quorum();
    if quorum.reached_by(answered) {
        return Ok(());
    }
    let (n, m) = (answered.count(), quorum.size());
    Err(CliError::Failed(format!("{n} of {} replicas answer; the group works with {m}", config.group().n())))
}

fn as_json(config: &Config, answers: &[Result<Value, String>]) -> Value {
    let replicas: Vec<Value> = (answers.iter().enumerate())
        .map(|(i, answer)| match answer {
            Ok(status) => status.clone(),
            Err(why) => json!({ "replica": i, "unreachable": why }),
        })
        .collect();
    json!({
        "cluster": config.cluster.to_string(),
        "n": config.group().n(),
        "f": config.group().f(),
        "quorum": config.group().quorum().size(),
        "answered": answers.iter().filter(|answer| answer.is_ok()).count(),
        "transport": config.transport.to_string(),
        "replicas": replicas,
    })
}

fn as_table(config: &Config, answers: &[Result<Value, String>]) -> Result<(), CliError> {
    let group = config.group();
    let model = if group.byzantine() { "byzantine" } else { "crash" };
    let (n, f, quorum) = (group.n(), group.f(), group.quorum().size());
    emit(format_args!("cluster {}: {model}, n = {n}, f = {f}, quorum {quorum}", config.cluster))?;
    if let Some(label) = transport_label(config) {
        emit(label)?;
    }
    if config.durability != Durability::Vote {
        emit(format_args!("durability {}: {}", config.durability, config.durability.promise()))?;
    }
    emit(format_args!(
        "{:>7}  {:<8} {:>5} {:>10} {:>10} {:>10} {:>6}  {:<17} {:>9} {:>9}  {:>9}",
        "replica",
        "role",
        "view",
        "decided",
        "executed",
        "durable",
        "lag",
        "queues o/e/log",
        "log",
        "free",
        "writes"
    ))?;
    let number = |status: &Value, path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let ahead = answers.iter().flatten().map(|status| number(status, "/decided")).max().unwrap_or(0);
    for (i, answer) in answers.iter().enumerate() {
        let status = match answer {
            Ok(status) => status,
            Err(why) => {
                let address = &config.replicas[i].address;
                emit(format_args!("{i:>7}  unreachable at {address}: {why}"))?;
                continue;
            }
        };
        let of = |path: &str| number(status, path);
        let word = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default();
        // A leader in name only, or a follower in search of one, is told by the mode.
        let role = match word("/mode") {
            "normal" | "" => word("/role"),
            mode => mode,
        };
        let queues =
            format!("{}/{}/{}", of("/queues/order"), of("/queues/execute"), short(of("/queues/log_bytes")));
        emit(format_args!(
            "{i:>7}  {role:<8} {:>5} {:>10} {:>10} {:>10} {:>6}  {queues:<17} {:>9} {:>9}  p99 {} us",
            of("/view"),
            of("/decided"),
            of("/executed"),
            of("/durable_lsn"),
            ahead.saturating_sub(of("/executed")),
            short(of("/log/bytes")),
            short(of("/directory_free_bytes")),
            of("/log/write_us_p99"),
        ))?;
        if let Some(recovering) = status["recovering"].as_object() {
            let part = |name: &str| recovering.get(name).and_then(Value::as_u64);
            let left =
                part("eta_ms").map_or(String::new(), |ms| format!(", about {} s left", ms.div_ceil(1000)));
            emit(format_args!(
                "{:>9}recovering ({}): {} of {} read{left}",
                "",
                recovering.get("phase").and_then(Value::as_str).unwrap_or_default(),
                short(part("bytes").unwrap_or(0)),
                short(part("bytes_total").unwrap_or(0))
            ))?;
        }
        if let Some(line) = transfer_line::line(status) {
            emit(format_args!("{:>9}{line}", ""))?;
        }
        let banned = status["transfer"]["banned"].as_array();
        for banned in banned.into_iter().flatten() {
            let (who, why) = (&banned["replica"], banned["why"].as_str().unwrap_or_default());
            emit(format_args!("{:>9}excluded from state transfer: replica {who} {why}", ""))?;
        }
        if let Some(why) = status["halted"].as_str() {
            emit(format_args!("{:>9}halted: {why}", ""))?;
        }
        for alarm in status["alarms"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            emit(format_args!("{:>9}ALARM: {alarm}", ""))?;
        }
        for discard in status["discards"].as_array().into_iter().flatten() {
            let part = |name: &str| discard[name].as_str().unwrap_or_default();
            emit(format_args!(
                "{:>9}discarded from {}: {} x {}",
                "",
                part("from"),
                discard["count"].as_u64().unwrap_or(0),
                part("reason")
            ))?;
        }
        if let Some(error) = status["last_error"].as_str() {
            emit(format_args!("{:>9}last error: {error}", ""))?;
        }
    }
    Ok(())
}

/// Bytes for people.
pub fn short(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}
