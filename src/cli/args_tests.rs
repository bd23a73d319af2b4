use std::path::PathBuf;

use clap::{Args as _, CommandFactory};
use duramen::config::{Durability, LogDevice, LogIo, Transport};
use duramen::quorum::FaultModel;

use super::as_client::AsClient;
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
        tuple::Args::augment_args,
        wan::Args::augment_args,
    ] as [fn(clap::Command) -> clap::Command; 9]
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
    let expected = start::Args {
        dir,
        replica: Some(2),
        all: false,
        service: ServiceName::Kv,
        reply_size: 0,
        execute_cost_us: 0,
        new_era: false,
        metrics: None,
        #[cfg(feature = "adversary")]
        adversary: None,
        insecure,
        allow_tmpfs: false,
        io: Some(LogIo::Threads),
    };
    assert_eq!(args, expected);
    let args: start::Args = parse("--replica 0 --service null --reply-size 7 --allow-tmpfs").unwrap();
    assert_eq!((args.service, args.reply_size, args.allow_tmpfs), (ServiceName::Null, 7, true));
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
    assert_eq!((args.as_client.client.as_str(), args.as_client.timeout_ms), ("bob", 5));
    let AsClient { dir, insecure, .. } = args.as_client;
    assert_eq!((dir.dir, insecure.insecure), (PathBuf::from("./duramen-data"), false));
}

#[test]
fn tuple_reads_fields_and_templates() {
    use duramen::service::{Field, FieldType, Pattern};
    use tuple::Operation::*;
    let operation = |line: &str| parse::<tuple::Args>(line).map(|a| a.operation);
    let text = |text: &str| Field::Text(text.into());
    let tuple =
        vec![text("a"), Field::Int(-4), text("4"), Field::Bytes(vec![10, 255]), text(""), text("007")];
    assert_eq!(
        operation("out s a -4 str:4 bytes:0aff str: 007"),
        Ok(Out { space: "s".into(), tuple: tuple.clone() })
    );
    let words = tuple::show(&tuple);
    assert_eq!(words, "a\t-4\tstr:4\tbytes:0aff\tstr:\t007");
    let again: Vec<Field> = words.split('\t').map(|word| tuple::field(word).unwrap()).collect();
    assert_eq!(again, tuple, "what is shown can be given");
    assert_eq!(
        tuple::show(&[text("*"), text("?x"), text("int:4"), text("a\tb")]),
        "str:*\tstr:?x\tstr:int:4\ta\\tb"
    );
    let template = vec![
        Pattern::Any,
        Pattern::Typed(FieldType::Int),
        Pattern::Typed(FieldType::Text),
        Pattern::Typed(FieldType::Bytes),
        Pattern::Is(text("*")),
        Pattern::Is(Field::Int(-1)),
    ];
    let what = tuple::Template { space: "s".into(), template };
    assert_eq!(operation("inp s * ?int ?str ?bytes str:* -1"), Ok(Inp { what }));
    let what = || tuple::Template { space: "s".into(), template: vec![Pattern::Any] };
    assert_eq!(operation("in s *"), Ok(In { what: what(), wait_ms: None }));
    assert_eq!(operation("rd s * --wait-ms 50"), Ok(Rd { what: what(), wait_ms: Some(50) }));
    let cas = Cas {
        space: "s".into(),
        unless: vec![Pattern::Is(text("lock")), Pattern::Any],
        out: vec![text("lock"), text("me")],
    };
    assert_eq!(operation("cas s --unless lock * --out lock me"), Ok(cas));
    for wrong in
        ["out s", "out s *", "out s ?int", "out s int:x", "out s bytes:0", "rdp s ?float", "rdp s", ""]
    {
        assert!(operation(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_other_commands_read_their_options() {
    let args: status::Args = parse("--json").unwrap();
    assert!(args.json && !args.insecure.insecure && args.client.is_none());
    assert_eq!((args.dir.dir, args.timeout_ms), (PathBuf::from("./duramen-data"), 1000));

    let log = |line| parse::<log_files::Args>(line).map(|a| a.action);
    assert_eq!(log("dump d"), Ok(log_files::Action::Dump { dir: "d".into() }));
    assert_eq!(log("verify d"), Ok(log_files::Action::Verify { dir: "d".into() }));
    assert!(log("dump").is_err());

    assert_eq!(parse("d --json"), Ok(disk_check::Args { dir: "d".into(), json: true }));

    let args: demo::Args = parse("--scale small --allow-tmpfs").unwrap();
    let expected =
        demo::Args { scale: demo::Scale::Small, dir: None, allow_tmpfs: true, keep: false, json: false };
    assert_eq!(args, expected);

    let line = "--local 3 --model crash --dir d --service null --value-size 0 --reply-size 9 --clients 2 --outstanding 4 \
                --keys 9 --durability parallel --execute-cost-us 40 --instances 5 --writes-in-flight 3 --duration 1.5 --warmup 0 --seed 3 --transport plain --insecure --client-auth channel --io uring --device paper-ssd \
                --expect-rate 5e4 --write-limit-gb 2 --allow-tmpfs --keep --json out --hgrm h --hlog l --csv c --stages --rate 5000 --read-fraction 0.25 --distribution zipf";
    let args: bench::Args = parse(line).unwrap();
    let expected = bench::Args {
        compare: None,
        workload: None,
        distribution: Some(bench::workload::Distribution::Zipf),
        read_fraction: Some(0.25),
        rate: Some(5000.0),
        stages: true,
        hgrm: Some("h".into()),
        hlog: Some("l".into()),
        csv: Some("c".into()),
        local: Some(3),
        model: Some(FaultModel::Crash),
        dir: "d".into(),
        service: ServiceName::Null,
        value_size: Some(0),
        reply_size: 9,
        keys: Some(9),
        clients: 2,
        outstanding: 4,
        duration: 1.5,
        warmup: 0.0,
        seed: 3,
        transport: Some(Transport::Plain),
        insecure: InsecureArg { insecure: true },
        client_auth: Some(duramen::config::ClientAuth::Channel),
        durability: Some(Durability::Parallel),
        execute_cost_us: 40,
        instances: Some(5),
        writes_in_flight: Some(3),
        io: Some(LogIo::Uring),
        device: LogDevice::PaperSsd,
        expect_rate: Some(5e4),
        write_limit_gb: 2.0,
        allow_tmpfs: true,
        keep: true,
        json: Some("out".into()),
    };
    assert_eq!(args, expected);
    let usual: bench::Args = parse("--local 4").unwrap();
    assert_eq!((usual.value_size, usual.service), (None, ServiceName::Kv));
    assert_eq!((usual.clients, usual.outstanding), (8, 100));
    let running: bench::Args = parse("--dir d").unwrap();
    assert_eq!(running.local, None);
}

#[test]
fn messages_become_one_line() {
    assert_eq!(one_line("a\n  b\r\n\nc"), "a b c");
}

#[test]
fn a_links_file_says_where_to_listen_whom_to_reach_and_how() {
    let text = "# to site 1\n127.0.0.1:0 127.0.0.1:7400 57~0.1/5#3 75 # slow\n\n[::1]:9 10.0.0.1:80 8@2=dead 0.5 16\n";
    let plan = wan::read_links(text).unwrap();
    assert_eq!(plan.doors.len(), 2);
    let traces: Vec<String> = plan.pipes.iter().map(|pipe| pipe.trace.to_string()).collect();
    assert_eq!(traces, ["57~0.1/5#3", "57~0.1/5#3", "8@2=dead", "16"]);
    assert_eq!(plan.pipes[3].delay, std::time::Duration::from_micros(500));
    assert_eq!((plan.doors[1].target.to_string().as_str(), plan.doors[1].back), ("10.0.0.1:80", 3));
    for (wrong, place) in
        [("a b 1", "line 1"), ("\n127.0.0.1:1 127.0.0.1:2 57~1 3", "line 2"), ("# nothing", "no link")]
    {
        assert!(wan::read_links(wrong).unwrap_err().contains(place), "{wrong:?}");
    }
}

#[test]
fn wan_takes_links_or_a_group_or_checks() {
    use clap::error::ErrorKind::*;
    let args: wan::Args = parse("--group A --site Sydney=1.2.3.4:5 --seed 3 --seconds 9").unwrap();
    assert_eq!((args.group.as_deref(), args.seed, args.seconds), (Some("A"), Some(3), Some(9)));
    assert_eq!(parse::<wan::Args>(""), Err(MissingRequiredArgument));
    assert_eq!(parse::<wan::Args>("--check --links f"), Err(ArgumentConflict));
    assert_eq!(parse::<wan::Args>("--links f --seed 3"), Err(ArgumentConflict));
}
