use std::path::PathBuf;

use clap::{Args as _, CommandFactory};
use duramen::config::{LogIo, Transport};
use duramen::quorum::FaultModel;

use super::*;

/// The arguments of one subcommand, as the whole command line would read them.
fn parse<A: clap::Args>(line: &str) -> Result<A, clap::error::ErrorKind> {
    let command = A::augment_args(clap::Command::new("x")).no_binary_name(true);
    let matches = command.try_get_matches_from(line.split_whitespace()).map_err(|e| e.kind())?;
    A::from_arg_matches(&matches).map_err(|e| e.kind())
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
    for check in [
        bench::Args::augment_args,
        demo::Args::augment_args,
        disk_check::Args::augment_args,
        kv::Args::augment_args,
        log_files::Args::augment_args,
        start::Args::augment_args,
        status::Args::augment_args,
    ] as [fn(clap::Command) -> clap::Command; 7]
    {
        check(clap::Command::new("x")).debug_assert();
    }
}

#[test]
fn start_takes_one_replica_or_all_and_not_both() {
    use clap::error::ErrorKind::*;
    let args: start::Args = parse("--replica 2 --io threads --dir d").unwrap();
    let dir = DirArg { dir: "d".into() };
    let insecure = InsecureArg { insecure: false };
    assert_eq!(args, start::Args { dir, replica: Some(2), all: false, insecure, io: Some(LogIo::Threads) });
    let args: start::Args = parse("--all --insecure").unwrap();
    assert!(args.all && args.insecure.insecure);
    assert_eq!(args.dir.dir, PathBuf::from("./duramen-data"));
    assert_eq!(parse::<start::Args>(""), Err(MissingRequiredArgument));
    assert_eq!(parse::<start::Args>("--all --replica 1"), Err(ArgumentConflict));
    assert_eq!(parse::<start::Args>("--all --io posix"), Err(InvalidValue));
}

#[test]
fn kv_has_the_five_operations() {
    use kv::Operation::*;
    let operation = |line: &str| parse::<kv::Args>(line).map(|a| a.operation);
    assert_eq!(operation("put a b"), Ok(Put { key: "a".into(), value: "b".into() }));
    assert_eq!(operation("get a"), Ok(Get { key: "a".into() }));
    assert_eq!(operation("delete a"), Ok(Delete { key: "a".into() }));
    let cas = |expected: Option<&str>, absent| Cas {
        key: "a".into(),
        expected: expected.map(str::to_owned),
        to: "c".into(),
        absent,
    };
    assert_eq!(operation("cas a b --to c"), Ok(cas(Some("b"), false)));
    assert_eq!(operation("cas a --absent --to c"), Ok(cas(None, true)));
    assert!(operation("cas a --to c").is_err() && operation("cas a b --absent --to c").is_err());
    assert_eq!(operation("scan"), Ok(Scan { from: "".into(), to: None, limit: 1000 }));
    assert_eq!(
        operation("scan a b --limit 3"),
        Ok(Scan { from: "a".into(), to: Some("b".into()), limit: 3 })
    );
    assert!(operation("").is_err());
    let args: kv::Args = parse("--client bob --timeout-ms 5 get a").unwrap();
    assert_eq!((args.client.as_str(), args.timeout_ms), ("bob", 5));
    assert_eq!((args.dir.dir, args.insecure.insecure), (PathBuf::from("./duramen-data"), false));
}

#[test]
fn the_other_commands_read_their_options() {
    let args: status::Args = parse("--json").unwrap();
    assert!(args.json && !args.insecure.insecure);
    assert_eq!(args.dir.dir, PathBuf::from("./duramen-data"));

    let log = |line| parse::<log_files::Args>(line).map(|a| a.action);
    assert_eq!(log("dump d"), Ok(log_files::Action::Dump { dir: "d".into() }));
    assert_eq!(log("verify d"), Ok(log_files::Action::Verify { dir: "d".into() }));
    assert!(log("dump").is_err());

    assert_eq!(parse("d --json"), Ok(disk_check::Args { dir: "d".into(), json: true }));

    let args: demo::Args = parse("--scale small --allow-tmpfs").unwrap();
    assert_eq!(args, demo::Args { scale: demo::Scale::Small, dir: None, allow_tmpfs: true, json: false });

    let line = "--local 3 --model crash --dir d --service null --value-size 0 --reply-size 9 --clients 2 --outstanding 4 \
                --duration 1.5 --warmup 0 --transport plain --insecure --client-auth channel --io uring --json out";
    let args: bench::Args = parse(line).unwrap();
    let expected = bench::Args {
        local: 3,
        model: FaultModel::Crash,
        dir: "d".into(),
        service: bench::Service::Null,
        value_size: 0,
        reply_size: 9,
        clients: 2,
        outstanding: 4,
        duration: 1.5,
        warmup: 0.0,
        transport: Transport::Plain,
        insecure: InsecureArg { insecure: true },
        client_auth: Some(duramen::config::ClientAuth::Channel),
        io: LogIo::Uring,
        json: Some("out".into()),
    };
    assert_eq!(args, expected);
    let usual: bench::Args = parse("--local 4").unwrap();
    assert_eq!((usual.value_size, usual.service), (4096, bench::Service::Kv));
}

#[test]
fn messages_become_one_line() {
    assert_eq!(one_line("a\n  b\r\n\nc"), "a b c");
}
