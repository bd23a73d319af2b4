//! `duramen bench compare`: two configurations, or two builds, measured in turn.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::signals::Interrupt;
use super::super::{CliError, emit};
use super::command_line;

/// What to compare.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// Arguments of `duramen bench`, in one word of the shell: "--local 4 --durability vote"
    #[arg(allow_hyphen_values = true)]
    pub a: String,
    /// The same for the other
    #[arg(allow_hyphen_values = true)]
    pub b: String,
    /// How often each is measured, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Another build to measure A with
    #[arg(long, value_name = "PATH")]
    pub bin_a: Option<PathBuf>,
    /// Another build to measure B with
    #[arg(long, value_name = "PATH")]
    pub bin_b: Option<PathBuf>,
    /// Also write all results as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What is compared: name, path in the JSON, unit, divisor.
const FIGURES: [(&str, &str, &str, f64); 4] = [
    ("throughput", "/ops_per_s", "ops/s", 1.0),
    ("p50", "/latency_us/p50", "ms", 1e3),
    ("p99", "/latency_us/p99", "ms", 1e3),
    ("cpu", "/cpu_us_per_op", "us/op", 1.0),
];

/// Measures A and B in turn, prints each round and the ratios' median and spread.
pub fn run(args: &Args) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let this = std::env::current_exe()?;
    emit(format_args!("command    {}", command_line()))?;
    emit(format_args!("A          {}", args.a))?;
    emit(format_args!("B          {}", args.b))?;
    let file = std::env::temp_dir().join(format!("duramen-compare-{}.json", std::process::id()));
    let mut rounds: Vec<[Value; 2]> = Vec::new();
    while (rounds.len() as u32) < args.rounds && !interrupt.is_set() {
        let mut pair = Vec::new();
        for (args, bin) in [(&args.a, &args.bin_a), (&args.b, &args.bin_b)] {
            let mut command = Command::new(bin.as_ref().unwrap_or(&this));
            command.arg("bench").args(args.split_whitespace()).arg("--json").arg(&file);
            duramen::sys::die_with_parent(&mut command);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let ran = run_one(command, &interrupt)?;
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let _ = std::fs::remove_file(&file);
            if interrupt.is_set() {
                break;
            }
            if !ran.status.success() {
                let words = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
                return Err(CliError::Failed(format!("a run of `bench {args}` failed: {words}")));
            }
            pair.push(serde_json::from_str(&text).map_err(|e| CliError::Failed(format!("its JSON: {e}")))?);
        }
        let Ok(pair) = <[Value; 2]>::try_from(pair) else { break };
        emit(format_args!("round {:<4} {}", rounds.len() + 1, line(&pair)))?;
        rounds.push(pair);
    }
    if rounds.is_empty() {
        return Err(CliError::Failed("interrupted before a round had ended".into()));
    }
    let mut summary = serde_json::Map::new();
    for (name, path, unit, divisor) in FIGURES {
        let of = |i: usize| rounds.iter().map(|pair| figure(&pair[i], path) / divisor).collect::<Vec<_>>();
        let (a, b) = (of(0), of(1));
        let ratios = a.iter().zip(&b).map(|(a, b)| a / b).collect();
        let [a, b, ratio] = [a, b, ratios].map(spread);
        emit(format_args!(
            "{name:<10} A/B {:.3} ({:.3}-{:.3})   A {:.1} ({:.1}-{:.1}) {unit}   B {:.1} ({:.1}-{:.1}) {unit}",
            ratio[1], ratio[0], ratio[2], a[1], a[0], a[2], b[1], b[0], b[2]
        ))?;
        let three = |[min, median, max]: [f64; 3]| json!({ "min": min, "median": median, "max": max });
        summary.insert(
            name.into(),
            json!({ "ratio": three(ratio), "a": three(a), "b": three(b), "unit": unit }),
        );
    }
    if (rounds.len() as u32) < args.rounds {
        emit(format_args!("note       INTERRUPTED: {} of {} rounds", rounds.len(), args.rounds))?;
    }
    if let Some(file) = &args.json {
        let all = json!({ "command": command_line(), "a": args.a, "b": args.b, "summary": summary,
            "rounds": rounds.iter().map(|[a, b]| json!({ "a": a, "b": b })).collect::<Vec<_>>() });
        std::fs::write(file, format!("{all:#}\n"))
            .map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
    }
    Ok(())
}

/// Runs it to its end, which comes early after a signal: the run then removes its own cluster.
fn run_one(mut command: Command, interrupt: &Interrupt) -> std::io::Result<Output> {
    let mut child = command.spawn()?;
    let mut told = false;
    while child.try_wait()?.is_none() {
        if interrupt.is_set() && !told {
            told = true;
            duramen::sys::terminate(&child)?;
        }
        std::thread::sleep(LOOK);
    }
    // One line at most is in the pipe.
    child.wait_with_output()
}

fn figure(result: &Value, path: &str) -> f64 {
    result.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn line([a, b]: &[Value; 2]) -> String {
    let each = FIGURES.iter().map(|(name, path, unit, divisor)| {
        let (a, b) = (figure(a, path) / divisor, figure(b, path) / divisor);
        format!("{name} {a:.1} : {b:.1} {unit} = {:.3}", a / b)
    });
    each.collect::<Vec<_>>().join("   ")
}

/// Least, median, most.
pub fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    [values[0], median, values[values.len() - 1]]
}
