//! `duramen test-service --library`: the services of a shared object, in two processes of their own.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use duramen::capi::library::test_library;

use super::{CliError, emit};

/// What is tested, and with which operations.
pub struct Tested<'a> {
    /// The shared object.
    pub library: &'a Path,
    /// How many.
    pub operations: u64,
    /// Which.
    pub seed: u64,
}

/// What a process begins its answer with.
const KEPT: &str = "kept\n";
const NOT_KEPT: &str = "not kept\n";

/// What is different for a process, besides addresses: what glibc leaves in memory that malloc gives, and the zone of local times.
const ENVIRONMENTS: [[(&str, &str); 2]; 2] = [
    [("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.perturb=85"), ("TZ", "UTC0")],
    [("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.perturb=170"), ("TZ", "ELSE-13:30")],
];
/// A clock that counts seconds has gone on for the second one.
const APART: Duration = Duration::from_millis(1100);

/// Tests in one process, then in another, and compares what they say.
/// Errors: what is wrong, in one line.
pub fn run(tested: &Tested<'_>) -> Result<(), CliError> {
    let one = in_a_process(tested, &ENVIRONMENTS[0])?;
    one.lines().try_for_each(emit)?;
    thread::sleep(APART);
    let other = in_a_process(tested, &ENVIRONMENTS[1])?;
    compare(&one, &other).map_err(CliError::Failed)?;
    emit(format_args!(
        "{} keeps the contract, by {} operations of seed {} in two processes",
        tested.library.display(),
        tested.operations,
        tested.seed
    ))
}

fn compare(one: &str, other: &str) -> Result<(), String> {
    if one.lines().count() != other.lines().count() {
        return Err("not deterministic: two processes have different numbers of services".into());
    }
    let Some((one, other)) = one.lines().zip(other.lines()).find(|(one, other)| one != other) else {
        return Ok(());
    };
    let what = match one.starts_with("after ") {
        true => "the same operations give",
        false => "the operation callback gives other operations for the same numbers:",
    };
    Err(format!(
        "not deterministic: {what} in one process \"{one}\", in another \"{other}\"; look for addresses, uninitialised memory (padding, too), times and zones, hash seeds"
    ))
}

/// The reports of a process that tests. What the service prints goes to stderr.
fn in_a_process(tested: &Tested<'_>, environment: &[(&str, &str)]) -> Result<String, CliError> {
    let (operations, seed) = (tested.operations.to_string(), tested.seed.to_string());
    let (mut answer, to) = io::pipe()?;
    // The service may print, so stdout is no place for an answer. Dropped with the command: then the child alone has the pipe's end.
    let mut child = Command::new(env::current_exe()?)
        .args(["test-service", "--trace", "--operations", &operations, "--seed", &seed, "--library"])
        .arg(tested.library)
        .envs(environment.iter().copied())
        .stdin(to)
        .stdout(Stdio::from(io::stderr()))
        .spawn()?;
    let mut said = Vec::new();
    answer.read_to_end(&mut said)?;
    let status = child.wait()?;
    let said = String::from_utf8_lossy(&said);
    let failed = |why: &str| Err(CliError::Failed(why.to_owned()));
    match (said.strip_prefix(KEPT), said.strip_prefix(NOT_KEPT)) {
        (_, Some(why)) => failed(why),
        (Some(reports), _) if status.success() => Ok(reports.to_owned()),
        _ => failed(&format!("{} ended the process that tested it: {status}", tested.library.display())),
    }
}

/// The process that tests: the answer goes to its stdin, which is a pipe to the other one.
pub fn answer(tested: &Tested<'_>) -> Result<(), CliError> {
    let mut to = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let said = match test_library(tested.library, tested.operations, tested.seed) {
        Ok(reports) => format!("{KEPT}{reports}"),
        Err(why) => format!("{NOT_KEPT}{why}"),
    };
    Ok(to.write_all(said.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_two_processes_is_told() {
        assert_eq!(compare("a: 8\nafter 8\n", "a: 8\nafter 8\n"), Ok(()));
        let state = compare("a: 8\nafter 8: x\n", "a: 8\nafter 8: y\n").unwrap_err();
        assert!(state.contains("the same operations give in one process \"after 8: x\""), "{state}");
        let operations = compare("a: 8 x\nafter 8\n", "a: 8 y\nafter 8\n").unwrap_err();
        assert!(
            operations.contains("the operation callback") && operations.contains("\"a: 8 y\""),
            "{operations}"
        );
        assert!(compare("a: 8\n", "a: 8\nb: 8\n").is_err());
    }
}
