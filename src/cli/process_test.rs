//! Whole replicas as processes: killed at random moments under load, and given what they must refuse.
//!
//! A killed process leaves the page cache alone, so these tests cannot see a missing sync: the log's crash tests do.
//! `DURAMEN_ROUNDS=1000 cargo test --release --test process kill` kills more often.

#[allow(dead_code)]
#[path = "checked_load.rs"]
mod checked_load;
#[allow(dead_code)]
#[path = "local_cluster.rs"]
mod local_cluster;

/// `duramen bench`.
#[path = "bench_runs_test.rs"]
mod bench_runs;

/// `duramen tuple`.
#[path = "tuples_test.rs"]
mod tuples;

/// Those that lie.
#[cfg(feature = "adversary")]
#[path = "liars_test.rs"]
mod liars;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use checked_load::{CheckedLoad, Plan};
use duramen::client::{Client, ClientOptions, Outcome};
use duramen::config::{CheckpointLimits, Durability, Limits, LogLimits, Settings, TransferLimits, Transport};
use duramen::init::InitOptions;
use duramen::keys::ClientKeys;
use duramen::quorum::FaultModel;
use duramen::service::random::Random;
use duramen::service::{KvOperation, KvReply, KvWrite};
use duramen::types::ReplicaId;
use duramen::{config::Config, data_dir, init, replica};
use local_cluster::{LocalCluster, free_ports};
use parking_lot::{Mutex, MutexGuard};

const EXE: &str = env!("CARGO_BIN_EXE_duramen");
const START_TIME: Duration = Duration::from_secs(60);
/// For anything that should be quick, on a machine that is not.
const PATIENCE: Duration = Duration::from_secs(60);

/// One test with running clusters at a time: they share few cores.
static CLUSTERS: Mutex<()> = Mutex::new(());

/// On a real disk: logs are refused elsewhere.
fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn small_log() -> LogLimits {
    LogLimits { segment_mib: 8, bytes_max_mib: 4096, spare_segments: 1, ..LogLimits::default() }
}

fn options(dir: &Path, model: FaultModel) -> InitOptions {
    let replicas = if model == FaultModel::Crash { 3 } else { 4 };
    let dir = dir.join("cluster");
    InitOptions { dir, replicas, model, log: small_log(), ..InitOptions::default() }
}

struct Running {
    cluster: LocalCluster,
    client: Client,
    _temp: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

/// Checkpoints every second or so, and logs that go with them.
fn with_checkpoints(options: InitOptions) -> InitOptions {
    let period = 16 * u64::from(options.replicas);
    InitOptions {
        limits: Limits {
            batch_bytes: 64 << 10,
            request_bytes: 64 << 10,
            mark_interval: 16,
            ..options.limits
        },
        log: LogLimits { segment_mib: 2, ..options.log },
        checkpoint: CheckpointLimits { period, log_keep_mib: 0, ..options.checkpoint },
        ..options
    }
}

impl Running {
    fn start(model: FaultModel) -> Running {
        Self::with(model, |options| options)
    }

    fn with(model: FaultModel, change: impl FnOnce(InitOptions) -> InitOptions) -> Running {
        Self::serving(model, &[], change)
    }

    /// With these arguments to each `start`.
    fn serving(model: FaultModel, args: &[&str], change: impl FnOnce(InitOptions) -> InitOptions) -> Running {
        let (one, temp) = (CLUSTERS.lock(), temp_dir());
        let options = change(options(temp.path(), model));
        let mut cluster = LocalCluster::create(Path::new(EXE), options, args, false).unwrap();
        cluster.start_all(START_TIME, &|| true).unwrap();
        let keys = data_dir::client_key_file(cluster.dir(), "default");
        let keys = ClientKeys::load(&keys, &cluster.config).unwrap();
        let client = Client::connect(ClientOptions::new(cluster.config.clone(), keys)).unwrap();
        Running { cluster, client, _temp: temp, _one: one }
    }

    fn put(&self, key: &str, value: &str) {
        let operation = KvWrite::Put { key: key.as_bytes(), value: value.as_bytes() }.into_operation();
        let outcome = self.client.session().invoke(operation, Some(PATIENCE));
        assert!(matches!(&outcome, Outcome::Done(reply) if reply[..] == [0]), "{outcome:?}");
    }

    #[track_caller]
    fn status(&self, i: u32) -> serde_json::Value {
        // The client may not have connected again to one that was started again.
        let end = Instant::now() + PATIENCE;
        loop {
            match self.client.status(ReplicaId(i), Some(PATIENCE)) {
                Ok(json) => return serde_json::from_str(&json).unwrap(),
                Err(why) => assert!(Instant::now() < end, "{why}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn digest(&self, i: u32) -> Option<(u64, String)> {
        let json = self.client.status_with_digest(ReplicaId(i), Some(PATIENCE)).ok()?;
        let status: serde_json::Value = serde_json::from_str(&json).ok()?;
        Some((status["digest_seq"].as_u64()?, status["state_digest"].as_str()?.to_owned()))
    }

    #[track_caller]
    fn wait_for_equal_digests(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = (0..self.cluster.n()).map(|i| self.digest(i)).collect();
            if all[0].is_some() && all.iter().all(|digest| *digest == all[0]) {
                return;
            }
            let (first, same_place) = (&all[0], |d: &Option<(u64, String)>| d.as_ref().map(|d| d.0));
            if first.is_some() && all.iter().all(|digest| same_place(digest) == same_place(first)) {
                panic!("states differ at one place: {all:?}");
            }
            if Instant::now() >= end {
                let states: Vec<_> = (0..self.cluster.n()).map(|i| format!("\n{}", self.status(i))).collect();
                panic!("the replicas do not reach one place: {all:?}{}", states.concat());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn pause(random: &mut Random, ms: u64) {
    std::thread::sleep(Duration::from_millis(random.below(ms)));
}

/// The number in a variable of the environment.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Rounds on one cluster, before it is checked and another begins.
const ROUNDS_PER_CLUSTER: u64 = 5;

fn kill_rounds(model: FaultModel) {
    let rounds = variable("DURAMEN_ROUNDS").unwrap_or(4);
    let seed = variable("DURAMEN_SEED").unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_nanos() as u64
    });
    // Shown if the test fails. It sets what is killed, not how threads and disks run meanwhile.
    println!("DURAMEN_SEED={seed} {model:?}");
    let mut random = Random(seed);
    let mut left = rounds;
    while left > 0 {
        let now = left.min(ROUNDS_PER_CLUSTER);
        left -= now;
        kill_some(model, now, &mut random);
    }
}

fn kill_some(model: FaultModel, rounds: u64, random: &mut Random) {
    let mut running = Running::with(model, with_checkpoints);
    let plan = Plan {
        writers: 4,
        outstanding: 16,
        value_bytes: 200,
        rate_max: 4000.0,
        // Shorter than some outages: unknown outcomes shall occur.
        deadline: Duration::from_millis(1500),
        seed: random.below(u64::MAX),
    };
    let mut load = CheckedLoad::start(&running.client, plan);
    for round in 0..rounds {
        pause(random, 700);
        let n = running.cluster.n();
        if round % 2 == 0 {
            let victim = random.below(u64::from(n)) as u32;
            println!("round {round}: kill {victim} after {} acknowledged", load.acked());
            running.cluster.kill(victim);
            pause(random, 2500);
            running.cluster.start(victim).unwrap();
            running.cluster.wait_ready(victim, START_TIME, &|| true).unwrap();
        } else {
            println!("round {round}: kill all after {} acknowledged", load.acked());
            running.cluster.kill_all();
            pause(random, 300);
            running.cluster.start_all(START_TIME, &|| true).unwrap();
        }
        let (goal, end) = (load.acked() + 200, Instant::now() + PATIENCE);
        while load.acked() < goal {
            assert!(Instant::now() < end, "no progress after round {round}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // However slow the machine was: none of them ends without a checkpoint.
    for i in 0..running.cluster.n() {
        let end = Instant::now() + PATIENCE;
        while running.status(i)["checkpoints"]["kept"].as_array().is_none_or(Vec::is_empty) {
            assert!(Instant::now() < end, "no checkpoint: {}", running.status(i));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    load.stop();
    let findings = load.verify(&running.client).unwrap();
    println!("{findings:?}");
    assert!(findings.good(), "{findings:?}");
    running.wait_for_equal_digests();
    drop(load);
    let (mut kept, mut recycled) = (0, 0);
    for i in 0..running.cluster.n() {
        let status = running.status(i);
        kept += status["checkpoints"]["kept"].as_array().map_or(0, Vec::len);
        recycled += u64::from(status["log"]["first_lsn"].as_u64().unwrap() > 1);
    }
    println!("{kept} checkpoints on disk, {recycled} logs without their beginning");
    assert!(kept >= running.cluster.n() as usize);
    running.cluster.stop_all().unwrap();
    for i in 0..running.cluster.n() {
        let log = duramen(&["log", "verify", &format!("replica-{i}")], running.cluster.dir());
        assert_eq!(log.status.code(), Some(0), "{}", String::from_utf8_lossy(&log.stderr));
    }
}

#[test]
fn kill_9_of_one_or_all_under_load_loses_nothing_acknowledged_byzantine() {
    kill_rounds(FaultModel::Byzantine);
}

#[test]
fn kill_9_of_one_or_all_under_load_loses_nothing_acknowledged_crash() {
    kill_rounds(FaultModel::Crash);
}

#[test]
fn garbage_at_a_port_is_counted_and_harms_nobody() {
    let running = Running::start(FaultModel::Byzantine);
    running.put("before", "x");
    let address = running.cluster.config.replicas[0].address.clone();
    let mut random = Random(7);
    for round in 0..20u64 {
        let mut garbage: Vec<u8> = (0..1 << (round % 17)).map(|_| random.below(256) as u8).collect();
        if round % 3 == 0 {
            // The head of a TLS record, so that the garbage gets further in.
            garbage.splice(0..0, [0x16, 3, 1, 0x40, 0]);
        }
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = socket.write_all(&garbage);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        // Whatever it says to that, it must hang up.
        let mut answer = Vec::new();
        let ended = socket.read_to_end(&mut answer);
        let slow = |e: &std::io::Error| e.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(slow), "round {round}: still connected");
        assert!(answer.len() < 4096);
    }
    running.put("after", "x");
    let status = running.status(0);
    let counted: u64 = status["discards"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|discard| discard["from"] == "unknown")
        .filter_map(|discard| discard["count"].as_u64())
        .sum();
    assert!(counted >= 10, "{}", status["discards"]);
}

#[test]
fn status_tells_who_cannot_be_reached_and_fails_without_a_quorum() {
    let mut running = Running::start(FaultModel::Byzantine);
    running.put("a", "b");
    let dir = running.cluster.dir().to_owned();
    let status = |args: &[&str]| duramen(&[&["status", "--dir", "."], args].concat(), &dir);
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let all = status(&[]);
    assert_eq!(all.status.code(), Some(0), "{}", String::from_utf8_lossy(&all.stderr));
    assert!(text(&all).contains("leader") && !text(&all).contains("unreachable"), "{}", text(&all));

    running.cluster.kill(2);
    let three = status(&["--json"]);
    assert_eq!(three.status.code(), Some(0), "{}", String::from_utf8_lossy(&three.stderr));
    let json: serde_json::Value = serde_json::from_slice(&three.stdout).unwrap();
    assert_eq!(json["answered"], 3);
    assert!(json["replicas"][2]["unreachable"].is_string(), "{json}");
    assert!(json["replicas"][0]["executed"].as_u64() > Some(0), "{json}");

    running.cluster.kill(3);
    let two = status(&[]);
    fails(&two, &["2 of 4", "3"]);
    assert!(text(&two).contains("unreachable at 127.0.0.1:"), "{}", text(&two));
}

#[test]
fn kv_reads_writes_swaps_and_scans_through_a_running_cluster() {
    let running = Running::start(FaultModel::Crash);
    let dir = running.cluster.dir().to_owned();
    let kv = |line: &str| {
        let args: Vec<&str> = ["kv"].into_iter().chain(line.split_whitespace()).collect();
        duramen(&[&args[..], &["--dir", "."]].concat(), &dir)
    };
    #[track_caller]
    fn says(output: &Output, text: &str) {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    }
    says(&kv("put a 1"), "");
    says(&kv("put b 2"), "");
    says(&kv("put c 3"), "");
    says(&kv("get a"), "1\n");
    says(&kv("scan a c"), "a\t1\nb\t2\n");
    says(&kv("scan --limit 1"), "a\t1\n");
    says(&kv("cas a 1 --to 9"), "");
    fails(&kv("cas a 1 --to 9"), &["not swapped", "\"9\""]);
    says(&kv("cas d --absent --to 4"), "");
    fails(&kv("cas d --absent --to 5"), &["not swapped", "\"4\""]);
    says(&kv("delete a"), "");
    fails(&kv("delete a"), &["no key a"]);
    fails(&kv("get a"), &["no key a"]);
    fails(&kv("--client nobody get a"), &["nobody", "default"]);
}

#[test]
fn start_all_runs_every_replica_and_stops_them_all_on_a_signal() {
    let (_one, temp) = (CLUSTERS.lock(), temp_dir());
    let config = new_cluster(temp.path(), FaultModel::Crash);
    let dir = temp.path().join("cluster");
    let mut child = Command::new(EXE)
        .args(["start", "--all", "--dir"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = Vec::new();
    while String::from_utf8_lossy(&said).matches(" ready: ").count() < 3 {
        let mut part = [0; 4096];
        let n = stdout.read(&mut part).unwrap();
        assert!(n > 0, "it ended: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&part[..n]);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("[2] replica 2 ready: ") && said.contains("view 1"), "{said}");
    duramen::sys::terminate(&child).unwrap();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "still running");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
    for replica in &config.replicas {
        assert!(TcpStream::connect(&replica.address).is_err(), "{} still listens", replica.address);
    }
}

fn duramen(args: &[&str], dir: &Path) -> Output {
    Command::new(EXE).args(args).current_dir(dir).env_remove("DURAMEN_LOG").output().unwrap()
}

/// Exit code 1 and one line that holds these words.
#[track_caller]
fn fails(output: &Output, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: "), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    for word in words {
        assert!(last.contains(word), "{said}\nshould contain {word}");
    }
}

/// A cluster that does not run, in `dir/cluster`.
fn new_cluster(dir: &Path, model: FaultModel) -> Config {
    let options = options(dir, model);
    let listen = format!("127.0.0.1:{}", free_ports(options.replicas as u16).unwrap());
    let format = |log: &Path, config: &Config, id| {
        replica::format_log(log, config, id, false).map_err(|e| e.to_string().into())
    };
    init::init(&InitOptions { listen, ..options }, &format).unwrap()
}

/// What replica 0 of the cluster in `dir/cluster` says when it is started and must refuse. It changes nothing.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    let before = contents(&dir.join("cluster"));
    let output = duramen(&["start", "--replica", "0", "--dir", "cluster"], dir);
    fails(&output, words);
    assert!(output.stdout.is_empty());
    assert!(contents(&dir.join("cluster")) == before, "files were changed");
}

/// Names and bytes of all files under `dir`, but locks.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(contents(&path));
        } else if !path.ends_with("LOCK") {
            out.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    out.sort();
    out
}

#[test]
fn one_that_paused_for_longer_than_the_others_keep_batches_says_that_it_stays_behind() {
    let durability = Durability::None;
    let running = Running::with(FaultModel::Crash, |options| InitOptions { durability, ..options });
    let pid = running.cluster.pid(2).unwrap().to_string();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success(), "{name}");
    running.put("a", "b");
    signal("-STOP");
    // The others keep 64 MiB, and as much may wait for it in a connection.
    let value = "x".repeat(512 << 10);
    (0..400).for_each(|i| running.put(&format!("key {}", i % 8), &value));
    signal("-CONT");
    let end = Instant::now() + PATIENCE;
    loop {
        let status = running.client.status(ReplicaId(2), Some(PATIENCE)).unwrap_or_default();
        if status.contains("behind, and comes no nearer") {
            break assert!(status.contains("cannot be had again"), "{status}");
        }
        assert!(Instant::now() < end, "no alarm: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    // The others go on without it.
    running.put("a", "c");
    let said: String =
        (0..2).map(|i| fs::read_to_string(running.cluster.stderr_file(i)).unwrap_or_default()).collect();
    assert!(said.contains("no longer kept"), "{said}");
}

#[test]
fn a_missing_or_exposed_key_is_refused() {
    let temp = temp_dir();
    new_cluster(temp.path(), FaultModel::Crash);
    let key = temp.path().join("cluster/replica-0/key.toml");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    refused(temp.path(), &["key.toml", "chmod 600"]);
    fs::remove_file(&key).unwrap();
    refused(temp.path(), &["key.toml"]);
}

#[test]
fn a_log_is_executed_again_from_the_folder_of_its_replica() {
    let temp = temp_dir();
    new_cluster(temp.path(), FaultModel::Crash);
    let output = duramen(&["replay", "cluster/replica-1"], temp.path());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.starts_with("replica 1, from the beginning: 0 places"),
        "{output:?}"
    );
    assert!(said.contains("digest of the state at place 0"), "{said}");
    fails(&duramen(&["replay", "cluster"], temp.path()), &["no replica's folder"]);
    fails(&duramen(&["replay", "cluster/replica-7"], temp.path()), &["replica-7"]);
    // A replica that runs has its log to itself.
    let held = fs::File::open(temp.path().join("cluster/replica-1/log/LOCK")).unwrap();
    held.lock().unwrap();
    fails(&duramen(&["replay", "cluster/replica-1/log"], temp.path()), &["another process"]);
}

#[test]
fn a_port_in_use_is_refused() {
    let temp = temp_dir();
    let config = new_cluster(temp.path(), FaultModel::Crash);
    let _other = TcpListener::bind(&config.replicas[0].address).unwrap();
    let output = duramen(&["start", "--replica", "0", "--dir", "cluster"], temp.path());
    fails(&output, &[&config.replicas[0].address, "in use"]);
}

#[test]
fn the_folder_of_another_cluster_or_replica_is_refused() {
    let (temp, other) = (temp_dir(), temp_dir());
    new_cluster(temp.path(), FaultModel::Crash);
    new_cluster(other.path(), FaultModel::Crash);
    let (mine, theirs) = (temp.path().join("cluster/replica-0"), other.path().join("cluster/replica-0"));
    let (my_log, kept) = (mine.join("log"), temp.path().join("kept"));
    // Only the log is foreign: the keys say nothing of that.
    fs::rename(&my_log, &kept).unwrap();
    fs::rename(theirs.join("log"), &my_log).unwrap();
    refused(temp.path(), &["belongs to cluster"]);
    fs::rename(&my_log, theirs.join("log")).unwrap();
    fs::rename(temp.path().join("cluster/replica-1/log"), &my_log).unwrap();
    refused(temp.path(), &["belongs to replica 1"]);
    fs::rename(&my_log, temp.path().join("cluster/replica-1/log")).unwrap();
    fs::rename(&kept, &my_log).unwrap();
    // All of the folder is.
    let whole = temp.path().join("whole");
    fs::rename(&mine, &whole).unwrap();
    fs::rename(&theirs, &mine).unwrap();
    refused(temp.path(), &["key.toml", "cluster"]);
    fs::rename(&mine, &theirs).unwrap();
    fs::rename(temp.path().join("cluster/replica-1"), &mine).unwrap();
    refused(temp.path(), &["key.toml", "replica 1"]);
}

#[test]
fn an_emptied_folder_of_a_member_is_refused() {
    let temp = temp_dir();
    new_cluster(temp.path(), FaultModel::Crash);
    let log = temp.path().join("cluster/replica-0/log");
    for entry in fs::read_dir(&log).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    refused(temp.path(), &["no log here"]);
    fs::remove_dir_all(&log).unwrap();
    refused(temp.path(), &["no log here"]);
    fs::remove_dir_all(temp.path().join("cluster/replica-0")).unwrap();
    refused(temp.path(), &["key.toml"]);
}

/// The log of the leader is lost under load. It comes back by `recover`, and the group then needs its vote.
fn a_lost_log(model: FaultModel) {
    let mut running = Running::start(model);
    for key in 0..20 {
        running.put(&format!("before-{key}"), "kept");
    }
    running.cluster.kill(0);
    let log = running.cluster.dir().join("replica-0/log");
    let recover = ["recover", "--replica", "0", "--dir", "."];
    fails(&duramen(&recover, running.cluster.dir()), &["is not empty"]);
    fs::remove_dir_all(&log).unwrap();
    let output = duramen(&recover, running.cluster.dir());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    running.cluster.start(0).unwrap();
    running.cluster.wait_ready(0, START_TIME, &|| true).unwrap();
    running.put("between", "kept");
    let end = Instant::now() + 2 * PATIENCE;
    while running.status(0)["mode"] != "normal" {
        assert!(Instant::now() < end, "it does not vote again: {}", running.status(0));
        std::thread::sleep(Duration::from_millis(50));
    }
    let dump = duramen(&["log", "dump", "replica-0"], running.cluster.dir());
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    if dump.contains("view-entered") {
        assert!(dump.contains("rejoined"), "{dump}");
    }
    // f others are gone: every quorum has the one that came back.
    running.cluster.kill(1);
    for key in 0..20 {
        running.put(&format!("after-{key}"), "kept");
    }
    running.cluster.start(1).unwrap();
    running.cluster.wait_ready(1, START_TIME, &|| true).unwrap();
    running.wait_for_equal_digests();
}

#[test]
fn a_byzantine_group_takes_back_a_member_that_lost_its_log() {
    a_lost_log(FaultModel::Byzantine);
}

#[test]
fn a_crash_group_takes_back_a_member_that_lost_its_log() {
    a_lost_log(FaultModel::Crash);
}

/// A state comes from others while the one that fetches it, one that sends it and the leader are killed.
#[test]
fn a_state_is_taken_over_whoever_is_killed_meanwhile() {
    let mut running = Running::with(FaultModel::Byzantine, |options| {
        let options = with_checkpoints(options);
        InitOptions {
            log: LogLimits { bytes_max_mib: 24, ..options.log },
            // Values of one letter would take no time.
            transfer: TransferLimits { mib_per_second: 2, compress: false, ..options.transfer },
            ..options
        }
    });
    let value = |i: u32| format!("{i:x<48000}");
    // More than the logs hold, and a state that takes seconds.
    let put = |running: &Running, i: u32| running.put(&format!("key {}", i % 300), &value(i));
    (0..700).for_each(|i| put(&running, i));
    running.cluster.kill(3);
    for folder in ["log", "checkpoints"] {
        fs::remove_dir_all(running.cluster.dir().join("replica-3").join(folder)).unwrap();
    }
    let output = duramen(&["recover", "--replica", "3", "--dir", "."], running.cluster.dir());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let start = |running: &mut Running, i: u32| {
        running.cluster.start(i).unwrap();
        running.cluster.wait_ready(i, START_TIME, &|| true).unwrap();
    };
    start(&mut running, 3);
    // Once for each of those killed.
    for killed in [3, 1, 0] {
        let end = Instant::now() + PATIENCE;
        // The client takes a moment to find it again.
        let under_way = || {
            let Ok(json) = running.client.status(ReplicaId(3), Some(PATIENCE)) else { return false };
            let status: serde_json::Value = serde_json::from_str(&json).unwrap();
            let transfer = &status["transfer"];
            let done = transfer["installed"].as_u64().unwrap_or(0) > 0;
            done || transfer["phase"] == "chunks" && transfer["chunks"][0].as_u64() > Some(0)
        };
        while !under_way() {
            assert!(Instant::now() < end, "no state comes: {}", running.status(3));
            std::thread::sleep(Duration::from_millis(20));
        }
        running.cluster.kill(killed);
        start(&mut running, killed);
    }
    let end = Instant::now() + 2 * PATIENCE;
    while running.status(3)["mode"] != "normal" {
        assert!(Instant::now() < end, "it does not vote again: {}", running.status(3));
        std::thread::sleep(Duration::from_millis(50));
    }
    running.cluster.kill(2);
    (700..710).for_each(|i| put(&running, i));
    start(&mut running, 2);
    running.wait_for_equal_digests();
    for key in 0..300 {
        let last = (0..710).rev().find(|i| i % 300 == key).unwrap();
        let operation = KvOperation::Get { key: format!("key {key}").as_bytes() }.encode();
        let outcome = running.client.read(operation, Some(PATIENCE));
        let Outcome::Done(reply) = outcome else { panic!("key {key}: {outcome:?}") };
        let expected = value(last);
        assert!(
            matches!(KvReply::decode(&reply), Ok(KvReply::Value(v)) if v == expected.as_bytes()),
            "key {key}"
        );
    }
}

#[test]
fn a_half_written_configuration_is_refused() {
    let temp = temp_dir();
    new_cluster(temp.path(), FaultModel::Crash);
    let file = temp.path().join("cluster/cluster.toml");
    let text = fs::read_to_string(&file).unwrap();
    for cut in [text.len() / 4, text.len() / 2, text.len() - 20] {
        fs::write(&file, &text[..cut]).unwrap();
        refused(temp.path(), &["cluster.toml", "line"]);
    }
    fs::remove_file(&file).unwrap();
    refused(temp.path(), &["no cluster.toml"]);
}

#[test]
fn a_second_process_on_one_folder_is_refused() {
    let running = Running::start(FaultModel::Crash);
    let output = duramen(&["start", "--replica", "0", "--dir", "."], running.cluster.dir());
    fails(&output, &["another process uses this log"]);
    running.put("still", "there");
}

#[test]
fn a_replica_that_is_not_there_is_refused() {
    let temp = temp_dir();
    new_cluster(temp.path(), FaultModel::Crash);
    let output = duramen(&["start", "--replica", "3", "--dir", "cluster"], temp.path());
    fails(&output, &["no replica 3"]);
}

#[test]
fn a_log_damaged_in_the_middle_is_named_by_its_position_and_never_cut() {
    let mut running = Running::start(FaultModel::Crash);
    for i in 0..20 {
        running.put(&format!("key {i}"), &"x".repeat(20_000));
    }
    running.cluster.stop_all().unwrap();
    let dir = running.cluster.dir().to_owned();
    let verify = |dir: &Path| duramen(&["log", "verify", "replica-0"], dir);
    let whole = verify(&dir);
    assert_eq!(whole.status.code(), Some(0), "{}", String::from_utf8_lossy(&whole.stderr));
    let dump = duramen(&["log", "dump", "replica-0/log"], &dir);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(text.lines().next().unwrap().contains("lsn ") && text.contains("prepared"), "{text}");

    let log = dir.join("replica-0/log");
    let mut segments: Vec<_> = fs::read_dir(&log).unwrap().map(|e| e.unwrap().path()).collect();
    segments.retain(|path| !path.ends_with("LOCK"));
    segments.sort();
    let name = segments[0].file_name().unwrap().to_str().unwrap();
    let start = |dir: &Path| duramen(&["start", "--replica", "0", "--dir", "."], dir);
    // In a value: the others have it, too.
    let mut bytes = fs::read(&segments[0]).unwrap();
    bytes[100_000] ^= 1;
    fs::write(&segments[0], &bytes).unwrap();
    fails(&verify(&dir), &[name, "damaged at byte"]);
    running.cluster.start_all(START_TIME, &|| true).unwrap();
    let end = Instant::now() + PATIENCE;
    while running.status(0)["log"]["damaged_records"] != 1 {
        assert!(Instant::now() < end, "{}", running.status(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    for i in 0..20 {
        let operation = KvOperation::Get { key: format!("key {i}").as_bytes() }.encode();
        let Outcome::Done(reply) = running.client.read(operation, Some(PATIENCE)) else { panic!("key {i}") };
        assert!(
            matches!(KvReply::decode(&reply), Ok(KvReply::Value(value)) if value == "x".repeat(20_000).as_bytes()),
            "key {i}"
        );
    }
    running.cluster.stop_all().unwrap();
    assert!(fs::read(&segments[0]).unwrap()[100_000] == bytes[100_000], "what is damaged stays as it is");

    // In the header of a vote: what its payload says the others have, what this one voted nobody.
    let mut bytes = fs::read(&segments[0]).unwrap();
    let vote = text.lines().filter(|line| line.contains("prepared") && line.contains("segment 1 ")).nth(10);
    let offset = vote.and_then(|line| line.split("offset ").nth(1)?.split(',').next()?.parse::<usize>().ok());
    bytes[offset.expect("a vote in the middle") + 20] ^= 1;
    fs::write(&segments[0], &bytes).unwrap();
    fails(&verify(&dir), &[name, "damaged at byte"]);
    fails(&start(&dir), &[name, "damaged at byte"]);
    assert!(fs::read(&segments[0]).unwrap() == bytes, "the log was changed");
}

#[test]
fn links_of_another_kind_are_refused_with_the_reason() {
    let running = Running::start(FaultModel::Byzantine);
    // The same cluster as seen by somebody who believes that its links are plain.
    let temp = temp_dir();
    let dir = running.cluster.dir();
    let settings = Settings { transport: Transport::Plain, ..running.cluster.config.settings().clone() };
    let plain = Config::new(settings).unwrap();
    fs::write(temp.path().join("cluster.toml"), plain.to_toml()).unwrap();
    let key = temp.path().join("client-default.key");
    fs::copy(data_dir::client_key_file(dir, "default"), &key).unwrap();
    let kv = |more: &[&str]| {
        let args = ["kv", "--dir", ".", "--timeout-ms", "3000", "put", "a", "b"];
        duramen(&[&args[..], more].concat(), temp.path())
    };
    fails(&kv(&[]), &["--insecure"]);
    fails(&kv(&["--insecure"]), &["replica 0"]);
    running.put("still", "there");
}

#[test]
fn start_and_init_refuse_a_tmpfs() {
    let Ok(temp) = tempfile::tempdir_in("/dev/shm") else { return };
    let output = duramen(&["init", "--dir", "d", "--segment-mib", "8"], temp.path());
    if output.status.code() == Some(0) {
        // Not a tmpfs here.
        return;
    }
    fails(&output, &["file system in memory", "--allow-tmpfs"]);
    let output = duramen(&["demo", "--dir", "demo"], temp.path());
    fails(&output, &["tmpfs", "--allow-tmpfs"]);
}
