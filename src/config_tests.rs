use proptest::prelude::*;

use crate::config::*;
use crate::hex;
use crate::quorum::FaultModel;
use crate::transfer::StrategyKind;
use crate::types::*;

/// `n` replicas without any optional key; line 1 is `cluster`.
fn text(model: &str, n: usize, head: &str, tail: &str) -> String {
    let mut out = format!("cluster = \"{}\"\nmodel = \"{model}\"\n{head}", "0a".repeat(16));
    for i in 0..n {
        out += &replica(i, &format!("host-{i}:7400"), i as u8);
    }
    out + tail
}

fn replica(id: usize, address: &str, key: u8) -> String {
    format!("[[replica]]\nid = {id}\naddress = \"{address}\"\nkey = \"{}\"\n", hex::encode(&[key; 32]))
}

fn client(id: u64, name: &str, key: u8) -> String {
    format!("[[client]]\nid = {id}\nname = \"{name}\"\nkey = \"{}\"\n", hex::encode(&[key; 32]))
}

fn refusal(text: &str) -> String {
    let message = Config::parse(text).expect_err("must be refused").to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    message
}

/// The text is refused at the place of `at` in it, and the message contains each of `words`.
#[track_caller]
fn refused_at(text: &str, at: &str, words: &[&str]) {
    let message = refusal(text);
    let place = Place::of(text, text.rfind(at).expect("the place is in the text"));
    let start = format!("line {}, column {}: ", place.line, place.column);
    assert!(message.starts_with(&start), "{message}\nshould start with {start}");
    for word in words {
        assert!(message.contains(word), "{message}\nshould contain {word}");
    }
}

#[test]
fn the_shortest_file_gets_the_defaults() {
    let config = Config::parse(&text("byzantine", 4, "", "")).unwrap();
    assert_eq!((config.group().n(), config.f, config.model), (4, 1, FaultModel::Byzantine));
    assert_eq!((config.transport, config.client_auth), (Transport::Tls, ClientAuth::Signature));
    assert_eq!((config.digest, config.durability), (DigestAlgorithm::Blake3, Durability::Vote));
    assert_eq!(config.view_timeout_ms, 1000);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.log, LogLimits::default());
    assert_eq!(config.cluster, ClusterId([10; 16]));
    assert_eq!(config.replica(ReplicaId(3)).unwrap().address, "host-3:7400");
    assert!(config.clients.is_empty());

    let crash = Config::parse(&text("crash", 5, "", "")).unwrap();
    assert_eq!((crash.f, crash.client_auth), (2, ClientAuth::Channel));
}

#[test]
fn a_written_configuration_reads_back_equal() {
    let tail = client(7, "alice", 77) + &client(3, "bob", 78);
    let plain = Config::parse(&text("byzantine", 4, "", &tail)).unwrap();
    assert_eq!(Config::parse(&plain.to_toml()).unwrap(), plain);
    assert!(!plain.to_toml().contains("[limits]"), "defaults are left out");

    let mut settings = plain.settings().clone();
    settings.f = 0;
    settings.transport = Transport::Plain;
    settings.client_auth = ClientAuth::Mac;
    settings.digest = DigestAlgorithm::Sha512;
    settings.view_timeout_ms = 50;
    settings.limits = Limits {
        batch_bytes: 5000,
        batch_requests: 3,
        instances_open: 2,
        window: 16,
        mark_interval: 4,
        request_bytes: 1024,
        clock_skew_ms: 101,
        sessions_per_client: 2,
    };
    settings.log = LogLimits {
        segment_mib: 3,
        bytes_max_mib: 12,
        io: LogIo::Threads,
        device: LogDevice::PaperSsd,
        writes_in_flight: 1,
        group_kib: 64,
        spare_segments: 1,
        prefill_segments: 3,
    };
    settings.transfer = TransferLimits {
        strategy: StrategyKind::Cst,
        interval_ms: 500,
        leader_percent: 0,
        compress: false,
        mib_per_second: 9,
        yield_floor_mib: 3,
        postpone_above: 7,
        postpone_seconds: 11,
    };
    let config = Config::new(settings).unwrap();
    assert_eq!(Config::parse(&config.to_toml()).unwrap(), config);
    assert!(config.to_toml().contains("strategy = \"cst\""));
    assert_eq!(config.log.segment_bytes(), 3 << 20);
    assert_eq!(config.log.bytes_max(), 12 << 20);
    assert_eq!(config.log.group_bytes(), 64 << 10);
    assert_eq!(config.limits.largest_batch_bytes(), 1024 + 4096);
    assert_eq!(config.client_named("bob").unwrap().id, ClientId(3));
    assert_eq!(config.client(ClientId(7)).unwrap().name, "alice");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_in_every_table() {
    refused_at(&text("crash", 3, "colour = 1\n", ""), "colour", &["unknown field `colour`", "`transport`"]);
    refused_at(
        &text("crash", 3, "[limits]\nwindw = 1\n", ""),
        "windw",
        &["unknown field `windw`", "`window`"],
    );
    refused_at(
        &text("crash", 3, "[log]\nsize = 1\n", ""),
        "size",
        &["unknown field `size`", "`segment_mib`"],
    );
    refused_at(&text("crash", 3, "", "port = 1\n"), "port", &["unknown field `port`", "`address`"]);
    refused_at(
        &text("crash", 3, "", &(client(1, "a", 9) + "x = 1\n")),
        "x = 1",
        &["unknown field `x`", "`name`"],
    );
}

#[test]
fn a_wrong_type_is_refused_with_its_place() {
    let cases = [
        ("view_timeout_ms = \"fast\"\n", "\"fast\"", "string"),
        ("view_timeout_ms = 1.5\n", "1.5", "floating point"),
        ("view_timeout_ms = -1\n", "-1", "-1"),
        ("transport = \"tcp\"\n", "\"tcp\"", "`tls`"),
        ("transport = 3\n", "3", "integer"),
        ("client_auth = \"none\"\n", "\"none\"", "`signature`"),
        ("digest = \"md5\"\n", "\"md5\"", "`blake3`"),
        ("durability = \"fsync\"\n", "\"fsync\"", "`vote`"),
        ("f = \"most\"\n", "\"most\"", "string"),
        ("[limits]\nwindow = true\n", "true", "boolean"),
        ("[log]\nio = \"posix\"\n", "\"posix\"", "`threads`"),
    ];
    for (line, at, word) in cases {
        let whole = text("byzantine", 4, line, "");
        let value = whole.find(line).unwrap() + line.rfind(at).unwrap();
        let place = Place::of(&whole, value);
        let message = refusal(&whole);
        assert!(message.starts_with(&format!("line {}, column {}: ", place.line, place.column)), "{message}");
        assert!(message.contains(word), "{message} should contain {word}");
    }
}

#[test]
fn broken_toml_is_refused_with_its_place() {
    refused_at("cluster = \n", "\n", &[]);
    refused_at("cluster = \"00\n", "\n", &[]);
    assert!(refusal("").contains("missing field `cluster`"));
    assert!(refusal(&text("byzantine", 0, "", "")).contains("missing field `replica`"));
    let twice = text("crash", 3, "f = 1\nf = 1\n", "");
    refused_at(&twice, "f = 1", &["duplicate key"]);
}

#[test]
fn every_beginning_of_a_file_is_refused_or_complete_and_never_panics() {
    let whole = text("byzantine", 4, "f = 1\n[limits]\nwindow = 64\nmark_interval = 8\n", &client(1, "a", 9));
    for end in 0..whole.len() {
        if let Ok(config) = Config::parse(&whole[..end]) {
            // What is left is a smaller group that bears f = 1, or the same one without its client.
            assert_eq!((config.group().n(), config.f), (4, 1));
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_exhausting_the_stack() {
    for open in ["[", "{ a = ", "[["] {
        refusal(&format!("cluster = {}", open.repeat(200_000)));
    }
    refusal(&format!("[{}a]", "a.".repeat(200_000)));
    refusal(&"[[a]]\n".repeat(100_000));
}

#[test]
fn hexadecimal_values_are_refused_without_being_repeated() {
    let bad = text("crash", 3, "", "").replace(&"0a".repeat(16), "beef");
    refused_at(&bad, "\"beef\"", &["32 hexadecimal digits", "found 4"]);
    let bad = text("crash", 3, "", "").replace(&"02".repeat(32), &"0g".repeat(32));
    refused_at(&bad, "\"0g", &["not all hexadecimal digits"]);
}

#[test]
fn too_few_replicas_for_f_are_refused_with_the_number_needed() {
    let head = "f = 1\n";
    refused_at(
        &text("byzantine", 3, head, ""),
        "1\n[[",
        &["f: 3 replicas bear at most 0 byzantine faults", "name 4"],
    );
    refused_at(
        &text("crash", 4, "f = 2\n", ""),
        "2\n[[",
        &["f: 4 replicas bear at most 1 crash faults", "name 5"],
    );
    assert!(refusal(&text("crash", 65, "", "")).contains("more than the 64"));
    assert!(refusal(&text("crash", 0, "replica = []\n", "")).contains("at least one [[replica]]"));
    assert_eq!(
        Config::parse(&text("byzantine", 3, "", "")).unwrap().f,
        0,
        "without f: the most that n bears"
    );
    refused_at(&text("crash", 3, "f = 4294967295\n", ""), "4294967295", &["f: "]);
}

#[test]
fn replicas_out_of_order_or_named_twice_are_refused() {
    let three = text("crash", 3, "", "");
    refused_at(
        &(three.clone() + &replica(2, "x:1", 9)),
        "2\naddress",
        &["replica[3].id: 2", "second time", "here 3"],
    );
    refused_at(&(three.clone() + &replica(7, "x:1", 9)), "7\naddress", &["replica[3].id: 7", "out of order"]);
    let same = three.clone() + &replica(3, "HOST-1:7400", 9);
    refused_at(&same, "\"HOST-1:7400\"", &["replica[3].address", "replica 1's address already"]);
    let same = three + &replica(3, "host-1:7401", 1);
    refused_at(&same, &format!("\"{}\"", "01".repeat(32)), &["replica[3].key", "replica 1's key already"]);
}

#[test]
fn bad_addresses_are_refused_with_the_reason() {
    let bad = [
        ("localhost", "no port"),
        ("localhost:", "not a number"),
        ("localhost:0", "1 to 65535"),
        ("localhost:65536", "1 to 65535"),
        ("localhost:+80", "1 to 65535"),
        ("localhost:http", "1 to 65535"),
        (":7400", "no host"),
        ("::1:7400", "without brackets"),
        ("[::1:7400", "does not close"),
        ("[zz]:7400", "no IPv6 address"),
        ("10.0.0.256:7400", "IPv4"),
        ("a b:7400", "neither a name nor an address"),
        ("http://a:7400", "without brackets"),
        ("", "no port"),
        ("0.0.0.0:7400", "others cannot reach"),
        ("[::]:7400", "others cannot reach"),
    ];
    for (address, why) in bad {
        let whole = text("crash", 3, "", &replica(3, address, 9));
        refused_at(&whole, &format!("\"{address}\""), &["replica[3].address", why, "host:port"]);
    }
    for good in ["localhost:1", "10.0.0.1:65535", "[::1]:7400", "a.b-c_d:80"] {
        Config::parse(&text("crash", 3, "", &replica(3, good, 9))).unwrap();
    }
}

#[test]
fn clients_named_twice_are_refused() {
    let with = |more: &str| text("crash", 3, "", &(client(1, "a", 9) + more));
    refused_at(&with(&client(1, "b", 10)), "1\nname", &["client[1].id", "client a's id already"]);
    refused_at(&with(&client(2, "a", 10)), "\"a\"", &["client[1].name", "the name a already"]);
    let same_key = format!("\"{}\"", "09".repeat(32));
    refused_at(&with(&client(2, "b", 9)), &same_key, &["client[1].key", "the key of client a already"]);
    let replica_key = format!("\"{}\"", "02".repeat(32));
    refused_at(&with(&client(2, "b", 2)), &replica_key, &["client[1].key", "the key of replica 2 already"]);
    refused_at(&with(&client(1 << 31, "b", 10)), "2147483648", &["client[1].id", "below 2147483648"]);
    for name in ["", "a/b", "..", "-a", "a b", "é"] {
        refused_at(
            &with(&client(2, name, 10)),
            &format!("\"{name}\""),
            &["client[1].name", "letters, digits"],
        );
    }
}

#[test]
fn client_authentication_must_fit_the_model() {
    refused_at(
        &text("byzantine", 4, "client_auth = \"channel\"\n", ""),
        "\"channel\"",
        &["model = \"crash\""],
    );
    refused_at(&text("crash", 3, "client_auth = \"mac\"\n", ""), "\"mac\"", &["no use", "\"channel\""]);
    assert!(Config::parse(&text("byzantine", 4, "client_auth = \"mac\"\n", "")).is_ok());
    assert!(Config::parse(&text("crash", 3, "client_auth = \"channel\"\n", "")).is_ok());
}

#[test]
fn numbers_out_of_bounds_are_refused_with_the_bounds() {
    let cases = [
        ("", "view_timeout_ms", 49, "50 to 3600000 milliseconds"),
        ("", "view_timeout_ms", 3_600_001, "50 to 3600000 milliseconds"),
        ("limits", "batch_bytes", 4095, "4096 to 33554432 bytes"),
        ("limits", "batch_requests", 0, "1 to 65536 requests"),
        ("limits", "request_bytes", 1 << 30, "1024 to 33554432 bytes"),
        ("limits", "window", 1, "2 to 65536 slots"),
        ("limits", "mark_interval", 129, "1 to 128 slots"),
        ("limits", "mark_interval", 0, "1 to 128 slots"),
        ("limits", "instances_open", 129, "1 to 128 instances"),
        ("limits", "clock_skew_ms", 0, "100 to 86400000 milliseconds"),
        ("limits", "sessions_per_client", 0, "1 to 65536 sessions"),
        ("log", "segment_mib", 0, "1 to 2048 MiB"),
        ("log", "segment_mib", 5, "6 MiB are needed"),
        ("log", "bytes_max_mib", 255, "256 to 16777216 MiB"),
        ("log", "writes_in_flight", 65, "1 to 64 writes"),
        ("log", "group_kib", 3, "4 to 1024 KiB"),
        ("log", "group_kib", 1025, "4 to 1024 KiB"),
        ("log", "group_kib", 1022, "multiple of 4"),
        ("log", "spare_segments", 0, "1 to 511 segments"),
        ("log", "spare_segments", 512, "1 to 511 segments"),
        ("log", "prefill_segments", 512, "0 to 511 segments"),
    ];
    for (table, key, value, bounds) in cases {
        let (head, name) = match table {
            "" => (format!("{key} = {value}\n"), key.to_owned()),
            _ => (format!("[{table}]\n{key} = {value}\n"), format!("{table}.{key}")),
        };
        refused_at(&text("crash", 3, &head, ""), &format!("{value}\n[[replica]]\nid = 0"), &[&name, bounds]);
    }
    // A default that no longer fits is reported at its table.
    refused_at(
        &text("crash", 3, "[limits]\nwindow = 4\n", ""),
        "[limits]",
        &["limits.mark_interval", "1 to 2"],
    );
}

#[test]
fn numbers_beyond_the_machine_are_refused() {
    for value in ["9223372036854775808", "99999999999999999999999", "0xffffffffffffffffffff"] {
        assert!(Config::parse(&text("crash", 3, &format!("[limits]\nwindow = {value}\n"), "")).is_err());
    }
    let most = i64::MAX;
    refusal(&text("crash", 3, &format!("[log]\nsegment_mib = {most}\nbytes_max_mib = {most}\n"), ""));
}

#[test]
fn settings_built_in_code_pass_the_same_checks() {
    let good = Config::parse(&text("crash", 3, "", "")).unwrap();
    let mut settings = good.settings().clone();
    settings.limits.window = 0;
    let error = Config::new(settings).unwrap_err();
    assert_eq!(error.place, None);
    assert!(error.to_string().starts_with("limits.window: 0 is outside"), "{error}");
}

#[test]
fn plain_links_in_byzantine_mode_need_the_word_insecure() {
    let plain = Config::parse(&text("byzantine", 4, "transport = \"plain\"\n", "")).unwrap();
    assert!(plain.check_transport(false).unwrap_err().to_string().contains("--insecure"));
    plain.check_transport(true).unwrap();
    Config::parse(&text("byzantine", 4, "", "")).unwrap().check_transport(false).unwrap();
    Config::parse(&text("crash", 3, "transport = \"plain\"\n", "")).unwrap().check_transport(false).unwrap();
}

#[test]
fn the_fingerprint_changes_with_all_that_must_be_shared_and_with_nothing_else() {
    let base = Config::parse(&text("byzantine", 5, "", &(client(1, "a", 9) + &client(2, "b", 10)))).unwrap();
    let changed = |change: fn(&mut Settings)| {
        let mut settings = base.settings().clone();
        change(&mut settings);
        Config::new(settings).unwrap().fingerprint()
    };
    let shared: [fn(&mut Settings); 14] = [
        |s| s.f = 0,
        |s| (s.model, s.client_auth, s.f) = (FaultModel::Crash, ClientAuth::Channel, 1),
        |s| s.digest = DigestAlgorithm::Sha256,
        |s| s.client_auth = ClientAuth::Mac,
        |s| s.limits.batch_bytes += 1,
        |s| s.limits.batch_requests += 1,
        |s| s.limits.instances_open += 1,
        |s| s.limits.window += 1,
        |s| s.limits.mark_interval += 1,
        |s| s.limits.request_bytes += 1,
        |s| s.limits.clock_skew_ms += 1,
        |s| s.limits.sessions_per_client += 1,
        |s| s.replicas[2].key[0] ^= 1,
        |s| s.clients[1].id = ClientId(5),
    ];
    let mut seen = vec![base.fingerprint()];
    for change in shared {
        let fingerprint = changed(change);
        assert!(!seen.contains(&fingerprint));
        seen.push(fingerprint);
    }
    let own: [fn(&mut Settings); 6] = [
        |s| s.view_timeout_ms += 1,
        |s| s.transport = Transport::Plain,
        |s| s.log.segment_mib += 1,
        |s| s.replicas[0].address = "elsewhere:1".into(),
        |s| s.clients[0].name = "c".into(),
        |s| s.clients.swap(0, 1),
    ];
    for change in own {
        assert_eq!(changed(change), base.fingerprint());
    }
}

#[test]
fn files_that_cannot_be_read_are_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let message = Config::load(&path).unwrap_err().to_string();
    assert!(
        message.contains("cluster.toml: there is no such file") && message.contains("duramen init"),
        "{message}"
    );

    std::fs::write(&path, b"cluster = \"0\"\nmodel = \"\xff\"").unwrap();
    let message = Config::load(&path).unwrap_err().to_string();
    assert!(message.contains("cluster.toml: line 2, column 10: this is not UTF-8"), "{message}");

    std::fs::write(&path, "cluster = 5").unwrap();
    let message = Config::load(&path).unwrap_err().to_string();
    assert!(message.contains("cluster.toml: line 1, column 11: "), "{message}");

    let message = Config::load(dir.path()).unwrap_err().to_string();
    assert!(message.contains("cannot be read"), "{message}");

    std::fs::write(&path, text("crash", 3, "", "")).unwrap();
    assert_eq!(Config::load(&path).unwrap().group().n(), 3);
}

#[test]
fn places_count_characters_from_one() {
    let place = |line, column| Place { line, column };
    assert_eq!(Place::of("", 0), place(1, 1));
    assert_eq!(Place::of("ab\ncd", 4), place(2, 2));
    assert_eq!(Place::of("é\né=", 6), place(2, 3));
    assert_eq!(Place::of("é", 1), place(1, 1), "inside a character");
    assert_eq!(Place::of("ab", 99), place(1, 3));
}

#[test]
fn hexadecimal_text_of_another_length_or_alphabet_is_none() {
    assert_eq!(hex::decode::<2>("0aFf"), Some([10, 255]));
    assert_eq!(hex::encode(&[10, 255]), "0aff");
    for bad in ["", "0aF", "0aFf0", "0aFg", "+aFf", "éa"] {
        assert_eq!(hex::decode::<2>(bad), None, "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_is_refused_in_one_line(garbage in ".{0,200}") {
        let message = Config::parse(&garbage).expect_err("no configuration").to_string();
        prop_assert!(!message.contains('\n'));
    }

    #[test]
    fn a_file_with_some_bytes_changed_is_refused_in_one_line_or_reads_back(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6)
    ) {
        let mut whole: Vec<char> =
            text("byzantine", 4, "f = 1\n[limits]\nwindow = 256\n", &client(1, "a", 9)).chars().collect();
        for (at, new) in changes {
            let at = at.index(whole.len());
            whole[at] = new;
        }
        match Config::parse(&whole.into_iter().collect::<String>()) {
            Ok(config) => prop_assert_eq!(Config::parse(&config.to_toml()).unwrap(), config),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
