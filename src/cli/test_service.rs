//! `duramen test-service`: does a service keep the contract that replication rests on?

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use duramen::service::conformance::{Point, find_fault, trace, with_pool};
use duramen::service::random::Random;
use duramen::service::{
    Counter, Field, FieldType, KeyValueStore, KvOperation, KvWrite, NullService, Pattern, Service,
    TupleOperation, TupleSpace,
};

use super::{CliError, emit, test_library};

/// Points of a run at which two are compared.
const POINTS: usize = 8;
/// Threads that hash in the other process; in this one it is one.
const OTHER_THREADS: usize = 4;

/// What is tested, and with which operations.
#[derive(clap::Args, Debug, PartialEq)]
pub struct Args {
    /// The service
    #[arg(long, value_enum, default_value_t = Tested::Kv)]
    service: Tested,
    /// A shared object whose services are tested instead: those that its duramen_test_services gives (see duramen.h)
    #[arg(long, value_name = "FILE", conflicts_with = "service")]
    library: Option<PathBuf>,
    /// How many operations; some of them malformed
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u64).range(8..))]
    operations: u64,
    /// Which operations: the same seed gives the same ones
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Only run, and print what the run shows: the other process
    #[arg(long, hide = true)]
    trace: bool,
}

/// The built-in services.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum Tested {
    /// The key-value store
    Kv,
    /// The tuple space
    Tuples,
    /// The counter
    Counter,
    /// The null service of the micro-benchmarks
    Null,
}

impl Tested {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Tuples => "tuples",
            Self::Counter => "counter",
            Self::Null => "null",
        }
    }
}

/// Runs the service here and in another process, whose hash maps have other seeds, and compares; then looks for faults in all the rest.
/// Errors: what is wrong, in one line.
pub fn run(args: Args) -> Result<(), CliError> {
    if let Some(library) = &args.library {
        let tested = test_library::Tested { library, operations: args.operations, seed: args.seed };
        return if args.trace { test_library::answer(&tested) } else { test_library::run(&tested) };
    }
    let mut random = Random(args.seed);
    let mut operations =
        |one: fn(&mut Random) -> Vec<u8>| (0..args.operations).map(|_| one(&mut random)).collect::<Vec<_>>();
    match args.service {
        Tested::Kv => test(&args, KeyValueStore::new, &operations(kv_operation)),
        Tested::Tuples => test(&args, TupleSpace::new, &operations(tuple_operation)),
        Tested::Counter => test(&args, Counter::default, &operations(counter_operation)),
        Tested::Null => test(&args, || NullService::new(8), &operations(null_operation)),
    }
}

fn test<S: Service>(args: &Args, make: impl Fn() -> S, operations: &[Vec<u8>]) -> Result<(), CliError> {
    let shown = |threads| -> Result<Vec<String>, CliError> {
        let points: Vec<Point> = with_pool(threads, |pool| trace(make(), operations, POINTS, Some(pool)))?;
        Ok(points.iter().map(Point::to_string).collect())
    };
    if args.trace {
        return shown(OTHER_THREADS)?.iter().try_for_each(emit);
    }
    // What panics is caught and told in one line.
    std::panic::set_hook(Box::new(|_| {}));
    let fault = find_fault(&make, operations);
    let _ = std::panic::take_hook();
    let name = args.service.as_str();
    fault.map_err(|fault| CliError::Failed(format!("{name} breaks the contract of a service: {fault}")))?;

    let here = shown(1)?;
    here.iter().try_for_each(emit)?;
    compare(name, &here, &other_process(args)?)?;
    emit(format_args!(
        "{name} keeps the contract, by {} operations of seed {}: equal replies, states and roots in two processes and on any number of threads; snapshots stay; states and pages taken over go on as the original; bad bytes do not pass",
        args.operations, args.seed
    ))
}

/// What the same run shows in another process.
fn other_process(args: &Args) -> Result<Vec<String>, CliError> {
    let failed = |why: String| CliError::Failed(format!("the same run in another process failed: {why}"));
    let (operations, seed) = (args.operations.to_string(), args.seed.to_string());
    let output = Command::new(env::current_exe()?)
        .args(["test-service", "--trace", "--service", args.service.as_str()])
        .args(["--operations", &operations, "--seed", &seed])
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect())
}

fn compare(name: &str, here: &[String], there: &[String]) -> Result<(), CliError> {
    if here.len() != there.len() {
        return Err(CliError::Failed(format!("the other process showed {} points of {POINTS}", there.len())));
    }
    match here.iter().zip(there).find(|(here, there)| here != there) {
        None => Ok(()),
        Some((here, there)) => Err(CliError::Failed(format!(
            "{name} is not deterministic: the same operations give in this process \"{here}\", in another \"{there}\"; look for the order of hash maps, addresses, times and threads"
        ))),
    }
}

fn kv_operation(random: &mut Random) -> Vec<u8> {
    // Few enough keys to meet again, enough for a tree of some height.
    let key = |random: &mut Random| {
        let n = random.below(3000);
        format!("{n:0width$}", width = 4 + n as usize % 20).into_bytes()
    };
    let value = |random: &mut Random| {
        let length = [0, 20, 20, 100, 100, 100, 1000, 5000][random.below(8) as usize];
        vec![random.bits() as u8; length]
    };
    let (a, b) = (key(random), key(random));
    let (v, w) = (value(random), value(random));
    let operation = match random.below(16) {
        0 => KvOperation::Get { key: &a },
        1 => KvOperation::Scan { start: &a, end: &b, limit: 20 },
        2 => KvOperation::Write(KvWrite::CompareAndSwap { key: &a, expected: None, value: &v }),
        3 => KvOperation::Batch(vec![
            KvWrite::Put { key: &a, value: &v },
            KvWrite::Delete { key: &b },
            KvWrite::Put { key: &b, value: &w },
        ]),
        4..=6 => KvOperation::Write(KvWrite::Delete { key: &a }),
        _ => KvOperation::Write(KvWrite::Put { key: &a, value: &v }),
    };
    random.sometimes_malformed(operation.encode().to_vec())
}

fn tuple_operation(random: &mut Random) -> Vec<u8> {
    // Few enough values to meet again, and several spaces; tuples to fill some pages.
    let field = |random: &mut Random| match random.below(4) {
        0 => Field::Int(random.below(30) as i64 - 15),
        1 | 2 => Field::Text(format!("{:04}", random.below(40)).repeat(1 + random.below(3) as usize)),
        _ => {
            let length = [0, 10, 300, 3000][random.below(4) as usize];
            Field::Bytes(vec![random.below(3) as u8; length])
        }
    };
    let tuple: Vec<Field> = (0..1 + random.below(4)).map(|_| field(random)).collect();
    let mut pattern = |_| match random.below(6) {
        0 => Pattern::Is(field(random)),
        1 => Pattern::Typed([FieldType::Int, FieldType::Text, FieldType::Bytes][random.below(3) as usize]),
        _ => Pattern::Any,
    };
    let template: Vec<Pattern> = tuple.iter().map(&mut pattern).collect();
    let space = ["a", "bb", "ccc"][random.below(3) as usize];
    let (tuple, template) = (&tuple[..], &template[..]);
    let operation = match random.below(64) {
        0 | 1 => TupleOperation::Create { space },
        2 => TupleOperation::Delete { space },
        3 => TupleOperation::List { after: "a", limit: 5 },
        4..=7 => TupleOperation::Rdp { space, template },
        8..=19 => TupleOperation::Inp { space, template },
        20..=22 => TupleOperation::RdAll { space, template, limit: 8, after: random.below(500) },
        23..=26 => TupleOperation::Cas { space, template, tuple },
        // A millisecond is a thousand operations there.
        27..=30 => TupleOperation::Rd { space, template, wait_ms: 1 + random.below(2) as u32 },
        31..=35 => TupleOperation::In { space, template, wait_ms: random.below(3) as u32 },
        _ => TupleOperation::Out { space, tuple },
    };
    random.sometimes_malformed(operation.encode().to_vec())
}

fn counter_operation(random: &mut Random) -> Vec<u8> {
    let number = match random.below(4) {
        0 => Vec::new(),
        _ => random.bits().to_le_bytes().to_vec(),
    };
    random.sometimes_malformed(number)
}

fn null_operation(random: &mut Random) -> Vec<u8> {
    let (request, reply) = (random.below(300) as usize, random.below(300) as u32);
    random.sometimes_malformed(NullService::operation(request, reply).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_that_shows_something_else_is_told() {
        let lines = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        assert!(compare("x", &lines(&["a", "b"]), &lines(&["a", "b"])).is_ok());
        let Err(CliError::Failed(why)) = compare("x", &lines(&["a", "b"]), &lines(&["a", "c"])) else {
            panic!("they differ");
        };
        assert!(why.contains("not deterministic") && why.contains("\"b\"") && why.contains("\"c\""), "{why}");
        assert!(compare("x", &lines(&["a", "b"]), &lines(&["a"])).is_err());
    }
}
