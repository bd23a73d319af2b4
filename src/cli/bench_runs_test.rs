//! `duramen bench` as processes.

use super::*;

/// `duramen bench` on three replicas of its own in `dir`, with result files there.
fn bench(dir: &Path, more: &str) -> Command {
    let line = "bench --local 3 --model crash --dir . --workload a --keys 100 --value-size 100 --clients 2 --outstanding 4 \
                --expect-rate 1000 --warmup 0 --json r.json --hlog r.hlog --hgrm r.hgrm --csv r.csv";
    let mut command = Command::new(EXE);
    command.args(line.split_whitespace()).args(more.split_whitespace()).current_dir(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn base64_bytes(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        bits = bits << 6 | LETTERS.iter().position(|l| *l == letter).expect("base64") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// How many latencies each interval of an HdrHistogram log holds, read as other tools do.
fn hlog_counts(text: &str) -> Vec<u64> {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let entries = IntervalLogIterator::new(text.as_bytes()).map(|entry| entry.expect("a line of the format"));
    let count = |encoded: &str| {
        let bytes = base64_bytes(encoded);
        Deserializer::new().deserialize::<u64, _>(&mut &bytes[..]).unwrap().len()
    };
    entries
        .filter_map(|entry| match entry {
            LogEntry::Interval(interval) => Some(count(interval.encoded_histogram())),
            _ => None,
        })
        .collect()
}

/// What a bench run in `dir` left: its JSON. Its cluster must be gone.
fn bench_result(dir: &Path) -> serde_json::Value {
    let mut files: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["r.csv", "r.hgrm", "r.hlog", "r.json"]);
    serde_json::from_str(&fs::read_to_string(dir.join("r.json")).unwrap()).unwrap()
}

#[test]
fn bench_refuses_a_debug_build_and_otherwise_its_files_agree() {
    let (_one, temp) = (CLUSTERS.lock(), temp_dir());
    let output = bench(temp.path(), "--rate 300 --duration 1").output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if cfg!(debug_assertions) {
        assert!(!output.status.success() && error.contains("debug build"), "{error}");
        return;
    }
    assert!(output.status.success(), "{said}{error}");
    for word in [
        "preload    100 keys",
        "open loop, 300 due per second",
        "promise    nothing acknowledged is lost",
        "service ",
    ] {
        assert!(said.contains(word), "{said}\nshould contain {word}");
    }
    let result = bench_result(temp.path());
    let number =
        |path: &str| result.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path}"));
    for path in
        ["/ops_per_s", "/latency_us/p50", "/service_us/p50", "/cpu_us_per_op", "/log_bytes", "/log_writes"]
    {
        assert!(number(path) > 0.0, "{path}");
    }
    assert!(number("/latency_us/p50") >= number("/service_us/p50"), "waiting counts");
    assert_eq!((number("/errors"), number("/n"), number("/f")), (0.0, 3.0, 1.0));
    assert_eq!((&result["interrupted"], &result["durability"]), (&false.into(), &"vote".into()));
    let of_each = |name: &str| result[name].as_array().map(Vec::len);
    assert_eq!(
        [of_each("rss_bytes"), of_each("rss_bytes_timeline"), of_each("cpu_s_per_replica")],
        [Some(3); 3]
    );

    let read = |name: &str| fs::read_to_string(temp.path().join(name)).unwrap();
    let csv = read("r.csv");
    let timeline: Vec<u64> =
        csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(timeline, hlog_counts(&read("r.hlog")));
    let total: u64 = timeline.iter().sum();
    assert!(total > 0 && read("r.hgrm").contains("#[Max "), "{csv}");
}

#[cfg(not(debug_assertions))]
#[test]
fn a_bench_that_is_stopped_tells_what_it_measured_and_removes_its_cluster() {
    let (_one, temp) = (CLUSTERS.lock(), temp_dir());
    let child = bench(temp.path(), "--duration 600 --write-limit-gb 100 --rate 100").spawn().unwrap();
    let intervals = || {
        let text = fs::read_to_string(temp.path().join("r.hlog")).unwrap_or_default();
        text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count()
    };
    let end = Instant::now() + PATIENCE;
    while intervals() < 3 {
        assert!(Instant::now() < end, "nothing is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    duramen::sys::terminate(&child).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("INTERRUPTED") && said.contains("throughput "), "{said}");
    let result = bench_result(temp.path());
    assert_eq!(result["interrupted"], true);
    assert!(result["acked"].as_u64().unwrap() > 0 && result["seconds"].as_f64().unwrap() < 600.0);
}

#[cfg(not(debug_assertions))]
#[test]
fn a_bench_whose_cluster_dies_fails_and_counts_what_was_never_answered() {
    let mut running = Running::start(FaultModel::Crash);
    let results = temp_dir();
    let hlog = results.path().join("r.hlog");
    let child = Command::new(EXE)
        .args(
            "bench --keys 100 --value-size 100 --clients 2 --outstanding 4 --warmup 0 --duration 3"
                .split(' '),
        )
        .args(["--json", "r.json", "--hlog", "r.hlog", "--dir"])
        .arg(running.cluster.dir())
        .current_dir(results.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    let measuring = || fs::read_to_string(&hlog).is_ok_and(|text| text.lines().count() > 6);
    while !measuring() {
        assert!(Instant::now() < end, "nothing is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    running.cluster.kill_all();
    let output = child.wait_with_output().unwrap();
    fails(&output, &["8 requests failed"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("8 requests were under way when measuring ended"), "{said}");
    let result: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(results.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(result["errors"], 8);
}
