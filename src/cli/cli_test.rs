//! The built command, from outside.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn duramen(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duramen"));
    command.args(args).current_dir(dir).env_remove("DURAMEN_LOG").output().unwrap()
}

/// On a real disk: logs are refused elsewhere.
fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[track_caller]
fn fails(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    for word in words {
        assert!(said.contains(word), "{said}\nshould contain {word}");
    }
}

#[test]
fn init_makes_a_cluster_in_the_default_folder_and_says_what_comes_next() {
    let temp = temp_dir();
    let output = duramen(&["init"], temp.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(output.stderr.is_empty());
    assert!(said.contains("4 replicas, 1 of which may lie"), "{said}");
    assert!(said.contains("replica 3 at 127.0.0.1:7403"), "{said}");
    assert!(said.ends_with("next: duramen start --all --dir ./duramen-data\n"), "{said}");
    assert!(!said.contains("plain"));
    let dir = temp.path().join("duramen-data");
    let config = duramen::data_dir::load_config(&dir).unwrap();
    assert_eq!(config.group().n(), 4);
    assert!(dir.join("replica-3/key.toml").exists() && dir.join("client-default.key").exists());

    fails(&duramen(&["init"], temp.path()), &["already", "--dir"]);
}

#[test]
fn init_passes_its_options_on_and_labels_plain_links() {
    let temp = temp_dir();
    let args = "init --replicas 5 --model crash --dir d --listen localhost:9000 --client a --client b --transport plain \
                --digest sha512 --view-timeout-ms 200 --segment-mib 8 --log-max-mib 64";
    let output = duramen(&args.split_whitespace().collect::<Vec<_>>(), temp.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("2 of which may crash") && said.contains("transport = plain: no encryption"),
        "{said}"
    );
    let config = duramen::data_dir::load_config(&temp.path().join("d")).unwrap();
    assert_eq!(config.replicas[4].address, "localhost:9004");
    assert_eq!(config.clients.len(), 2);
    assert_eq!(config.digest, duramen::types::DigestAlgorithm::Sha512);
    assert_eq!((config.view_timeout_ms, config.log.segment_mib, config.log.bytes_max_mib), (200, 8, 64));
}

#[test]
fn failures_exit_1_with_one_line_that_says_what_to_do() {
    let temp = temp_dir();
    let init = |more: &[&str]| duramen(&[&["init", "--dir", "d"], more].concat(), temp.path());
    fails(&init(&["--replicas", "3"]), &["3 bear no fault", "4 or more"]);
    fails(&init(&["--listen", "127.0.0.1:65534"]), &["port 65541", "65528 or lower"]);
    fails(&init(&["--transport", "plain"]), &["--insecure"]);
    fails(&init(&["--client-auth", "channel"]), &["client_auth", "signature"]);
    fails(&init(&["--client", "../x"]), &["client's name"]);
    assert!(!temp.path().join("d").exists());
    std::fs::write(temp.path().join("d"), "").unwrap();
    fails(&init(&[]), &["cannot be made"]);
}

#[test]
fn test_service_compares_two_processes_and_finds_the_built_in_services_right() {
    let temp = temp_dir();
    let services = [("kv", "root "), ("tuples", "root "), ("counter", "root none"), ("null", "root none")];
    for (service, root) in services {
        let args = ["test-service", "--service", service, "--operations", "400", "--seed", "7"];
        let output = duramen(&args, temp.path());
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.lines().count(), 9, "{said}");
        assert!(said.lines().nth(7).unwrap().starts_with("after 400 operations: replies "), "{said}");
        assert!(said.lines().take(8).all(|line| line.contains(root)), "{said}");
        assert!(said.lines().nth(8).unwrap().contains("keeps the contract"), "{said}");
        let trace = duramen(&[&args[..], &["--trace"]].concat(), temp.path());
        assert!(output.stdout.starts_with(&trace.stdout) && !trace.stdout.is_empty());
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn bench_refuses_what_does_not_go_together() {
    let temp = temp_dir();
    let bench = |line: &str| {
        duramen(&["bench"].into_iter().chain(line.split_whitespace()).collect::<Vec<_>>(), temp.path())
    };
    for line in
        ["--transport tls", "--model crash", "--durability vote", "--io auto", "--expect-rate 5", "--keep"]
    {
        fails(&bench(line), &[line.split(' ').next().unwrap(), "--local N", "leave it out"]);
    }
    fails(&bench("--local 4 --service null --workload a"), &["--workload", "--service kv"]);
    fails(&bench("--local 4 --service tuples --keys 5"), &["--keys", "--service kv"]);
    fails(&bench("--local 4 --service tuples --workload a"), &["ddspace-1k"]);
    fails(&bench("--local 4 --workload ddspace-1k"), &["--service tuples"]);
    fails(&bench("--local 4 --service tuples --value-size 70000"), &["--value-size", "tuple"]);
    fails(&bench("--local 4 --workload e --read-fraction 0.5"), &["--read-fraction", "leave it out"]);
    fails(&bench("--local 4 --read-fraction 1.5"), &["--read-fraction", "0 to 1"]);
    fails(&bench("--local 4 --rate 0"), &["--rate", "at least 1"]);
    fails(&bench("--local 4 --keys 0"), &["--keys"]);
    fails(&bench("--workload paper-4k --write-limit-gb 0.5"), &["1.0 GB", "--write-limit-gb"]);
    fails(&bench("--local 4 --dir d --duration 1000"), &["would write", "--write-limit-gb"]);
    fails(&bench("--dir nowhere --json no/such/folder"), &["no/such/folder"]);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn wrong_usage_exits_2() {
    let temp = temp_dir();
    for args in [
        &[][..],
        &["nonsense"],
        &["init", "--colour"],
        &["init", "--replicas", "x"],
        &["init", "--model", "x"],
    ] {
        let output = duramen(args, temp.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    for args in [["--help"], ["--version"]] {
        let output = duramen(&args, temp.path());
        assert_eq!(output.status.code(), Some(0));
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let temp = temp_dir();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = Command::new(env!("CARGO_BIN_EXE_duramen"))
        .args(["init", "--dir", "d"])
        .current_dir(temp.path())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(temp.path().join("d/cluster.toml").exists());
}

#[test]
fn figures_recovery_measures_one_that_lost_its_disk() {
    let temp = temp_dir();
    let said = |more: &str| {
        let line = format!("figures recovery --scale tiny --strategy pull --out out {more}");
        let output = duramen(&line.split_whitespace().collect::<Vec<_>>(), temp.path());
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
        said.into_owned()
    };
    let measured = said("--dir work");
    assert!(!temp.path().join("work").exists(), "the clusters' folder is left behind");
    let out = temp.path().join("out");
    let json = std::fs::read_to_string(out.join("recovery.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let run = &json["runs"][0];
    assert!(run["during_over_normal"].as_f64() > Some(0.0), "{json}");
    // All of it, and what is sent twice at the end.
    assert!(run["transfer_bytes"].as_f64() > Some(4e6), "{json}");
    assert!(run["recovery_s"].as_f64() > Some(0.0), "it does not recover: {json}");
    let svg = std::fs::read_to_string(out.join("recovery-4-4mb-others.svg")).unwrap();
    assert!(svg.contains("state transfer</text>") && !svg.contains("NaN"));
    // The files alone are enough to say the same again.
    let verdicts = |said: &str| said.split_once("verdict ").map(|(_, rest)| rest.to_owned()).unwrap();
    assert_eq!(verdicts(&said("--again")), verdicts(&measured));
}

#[test]
fn figures_checkpoint_draws_and_judges_what_its_csv_says() {
    let temp = temp_dir();
    let said = |args: &[&str]| {
        let output = duramen(args, temp.path());
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
        said.into_owned()
    };
    let measured = said(&["figures", "checkpoint", "--scale", "tiny", "--out", "out", "--dir", "work"]);
    assert!(!temp.path().join("work").exists(), "the clusters' folder is left behind");
    let verdicts = |said: &str| said.split_once("verdict ").map(|(_, rest)| rest.to_owned()).unwrap();
    let out = temp.path().join("out");
    let files = ["checkpoint-4mb-high.svg", "checkpoint-4mb-medium.svg"];
    for file in files {
        let svg = std::fs::read_to_string(out.join(file)).unwrap();
        assert!(
            svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("copy-on-write</text>"),
            "{file}"
        );
        assert!(!svg.contains("NaN"), "{file}");
    }
    let json = || -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(out.join("checkpoint.json")).unwrap()).unwrap()
    };
    assert_eq!(
        (json()["runs"].as_array().unwrap().len(), json()["verdicts"].as_array().unwrap().len()),
        (10, 12)
    );
    let bands = std::fs::read_to_string(out.join("checkpoint-bands.csv")).unwrap();
    assert!(
        bands.contains("synchronized stop-the-world") && bands.contains("sequential copy-on-write"),
        "{bands}"
    );

    // The files alone are enough to say the same again, and other files say something else.
    std::fs::remove_file(out.join(files[0])).unwrap();
    let again = said(&["figures", "checkpoint", "--again", "--out", "out"]);
    assert_eq!(verdicts(&again), verdicts(&measured));
    assert!(out.join(files[0]).exists());
    let runs = std::fs::read_to_string(out.join("checkpoint-runs.csv")).unwrap();
    let slower = runs.lines().map(|line| {
        let mut cells: Vec<&str> = line.split(',').collect();
        if line.contains(",high,sequential copy-on-write,") {
            cells[9] = "999000000";
        }
        cells.join(",") + "\n"
    });
    std::fs::write(out.join("checkpoint-runs.csv"), slower.collect::<String>()).unwrap();
    let slower = said(&["figures", "checkpoint", "--again", "--out", "out"]);
    let holds = |json: &serde_json::Value| json["verdicts"][4]["holds"].as_bool();
    assert!(
        slower.contains("4 MB, high load: its p99.9 is at most twice as long: DOES NOT HOLD"),
        "{slower}"
    );
    assert_eq!(holds(&json()), Some(false));
    assert!(json()["run"]["machine"]["cpu"].is_string(), "what it ran on is forgotten");
}

#[test]
fn figures_transfer_draws_and_judges_what_its_csv_says() {
    let temp = temp_dir();
    let said = |args: &[&str]| {
        let output = duramen(args, temp.path());
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{said}\n{errors}");
        said.into_owned()
    };
    let tiny = "figures transfer --scale tiny --group A --site Ireland --strategy pull,cst,equal --out out --dir work";
    let measured = said(&tiny.split(' ').collect::<Vec<_>>());
    assert!(!temp.path().join("work").exists(), "the folder for what is received is left behind");
    let verdicts = |said: &str| said.split_once("verdict ").map(|(_, rest)| rest.to_owned()).unwrap();
    let out = temp.path().join("out");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let svg = "transfer-a-x40-constant-1mib.svg";
    assert!(read(svg).starts_with("<svg ") && read(svg).contains("Ireland</text>"), "{}", read(svg));
    assert_eq!(
        (read("transfer-runs.csv").lines().count(), read("transfer-sources.csv").lines().count()),
        (4, 10)
    );
    let json = || -> serde_json::Value { serde_json::from_str(&read("transfer.json")).unwrap() };
    assert_eq!(json()["runs"][0]["runs"].as_array().unwrap().len(), 3);
    // A MiB and what is said about it, whole: no link carries less.
    let sent = json()["runs"][0]["runs"][0]["sent_over_needed"].as_f64().unwrap();
    assert!((1.0..1.5).contains(&sent), "{sent}");

    // The files alone are enough to say the same again, and other files say something else.
    std::fs::remove_file(out.join(svg)).unwrap();
    let again = said(&["figures", "transfer", "--again", "--out", "out"]);
    assert_eq!(verdicts(&again), verdicts(&measured));
    assert!(out.join(svg).exists() && json()["run"]["machine"]["cpu"].is_string());
    let fraction = |value: &str| {
        let runs = read("transfer-runs.csv");
        let lines = runs.lines().map(|line| {
            let mut cells: Vec<&str> = line.split(',').collect();
            if line.contains(",pull,") {
                cells[9] = value;
            }
            cells.join(",") + "\n"
        });
        std::fs::write(out.join("transfer-runs.csv"), lines.collect::<String>()).unwrap();
        said(&["figures", "transfer", "--again", "--out", "out"])
    };
    let claim = "Ireland, pull: at least 0.97 of the sum of the links";
    assert!(fraction("0.96").contains(&format!("{claim}: DOES NOT HOLD")));
    assert!(fraction("0.98").contains(&format!("{claim}: holds")));
}

#[test]
fn wan_relays_what_a_file_of_links_says() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    let temp = temp_dir();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("127.0.0.1:0 {} 800 5 # a fast one\n", target.local_addr().unwrap());
    std::fs::write(temp.path().join("links"), line).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_duramen"));
    command
        .args(["wan", "--links", "links", "--seconds", "3"])
        .current_dir(temp.path())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let door = lines.next().unwrap();
    let address = door.split_whitespace().nth(1).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = target.accept().unwrap();
    client.write_all(b"question").unwrap();
    server.read_exact(&mut [0; 8]).unwrap();
    server.write_all(b"answers!!").unwrap();
    client.read_exact(&mut [0; 9]).unwrap();
    let told: Vec<String> = lines.collect();
    assert!(child.wait().unwrap().success());
    assert!(told.iter().any(|line| line.contains("8 B there, 9 B back")), "{told:?}");
    fails(
        &duramen(&["wan", "--group", "A", "--site", "Oslo=127.0.0.1:1"], temp.path()),
        &["--site", "Sydney"],
    );
}
