use super::admin_tests::ask;
use super::*;
use crate::client::{Client, ClientOptions, Outcome};
use crate::config::{Config, Durability, LogLimits};
use crate::data_dir;
use crate::init::{InitOptions, init};
use crate::keys::ClientKeys;
use crate::quorum::FaultModel;
use crate::service::{KeyValueStore, KvOperation, KvReply, KvWrite};
use crate::types::*;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// A whole cluster in this process: real sockets, real disk.
pub(super) struct Cluster {
    dir: tempfile::TempDir,
    pub config: Config,
    pub replicas: Vec<Option<Replica>>,
    new_era: bool,
}

/// As many neighbouring free ports, below those that the system gives to outgoing connections: a replica that is stopped for a while
/// must find its own again.
fn free_ports(n: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1000 {
        let step = NEXT.fetch_add(n, Ordering::Relaxed);
        let first = 10_000 + (std::process::id() as u16 % 1000 * 16 + step) % 20_000;
        if (0..n).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok()) {
            return first;
        }
    }
    panic!("no {n} neighbouring free ports");
}

impl Cluster {
    fn new(model: FaultModel, n: u32) -> Self {
        Self::of(model, n, Durability::Vote)
    }

    fn of(model: FaultModel, n: u32, durability: Durability) -> Self {
        let log = LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() };
        Self::with(InitOptions { replicas: n, model, durability, log, ..InitOptions::default() })
    }

    pub fn with(options: InitOptions) -> Self {
        Self::within(concat!(env!("CARGO_MANIFEST_DIR"), "/target").as_ref(), options)
    }

    /// In a folder of that folder.
    pub fn within(parent: &Path, options: InitOptions) -> Self {
        let n = options.replicas;
        let dir = tempfile::tempdir_in(parent).unwrap();
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            listen: format!("127.0.0.1:{}", free_ports(2 * n as u16)),
            ..options
        };
        let config = init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
        let mut this = Self { dir, config, replicas: (0..n).map(|_| None).collect(), new_era: false };
        (0..n).for_each(|i| this.start(i));
        this
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    pub fn start(&mut self, i: u32) {
        self.replicas[i as usize] = Some(Replica::start(self.options(i)).unwrap());
    }

    pub fn options(&self, i: u32) -> ReplicaOptions {
        ReplicaOptions {
            allow_tmpfs: true,
            new_era: self.new_era,
            metrics: Some("127.0.0.1:0".parse().unwrap()),
            ..ReplicaOptions::new(
                self.config.clone(),
                self.path(),
                ReplicaId(i),
                Box::new(KeyValueStore::new()),
            )
        }
    }

    pub fn stop(&mut self, i: u32) {
        self.replicas[i as usize].take().unwrap().stop();
    }

    pub fn client(&self) -> Client {
        connect(&self.path(), &self.config)
    }
}

fn connect(dir: &Path, config: &Config) -> Client {
    let keys = ClientKeys::load(&data_dir::client_key_file(dir, "default"), config).unwrap();
    Client::connect(ClientOptions::new(config.clone(), keys)).unwrap()
}

pub(super) fn put(key: u32) -> bytes::Bytes {
    let (key, value) = (key.to_be_bytes(), [key as u8; 500]);
    KvWrite::Put { key: &key, value: &value }.into_operation()
}

fn check_all(client: &Client, keys: std::ops::Range<u32>) {
    for key in keys {
        let outcome = client.read(KvOperation::Get { key: &key.to_be_bytes() }.encode(), None);
        let Outcome::Done(reply) = outcome else { panic!("key {key}: {outcome:?}") };
        match KvReply::decode(&reply) {
            Ok(KvReply::Value(v)) => assert_eq!(&v[..], &[key as u8; 500]),
            other => panic!("key {key}: {other:?}"),
        }
    }
}

fn survives(model: FaultModel, n: u32) {
    let mut cluster = Cluster::new(model, n);
    let client = cluster.client();
    let session = client.session();
    for key in 0..50 {
        let outcome = session.invoke(put(key), None);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    check_all(&client, 0..50);

    // The leader goes: the others carry on, and it comes back.
    cluster.stop(0);
    let outcome = session.invoke(put(50), Some(Duration::from_secs(20)));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    cluster.start(0);
    for key in 51..60 {
        let outcome = session.invoke(put(key), Some(Duration::from_secs(20)));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    // All go and come back.
    (0..n).for_each(|i| cluster.stop(i));
    (0..n).for_each(|i| cluster.start(i));
    let client = cluster.client();
    let outcome = client.session().invoke(put(60), Some(Duration::from_secs(20)));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    check_all(&client, 0..61);

    // Everybody ends with the same state.
    let until = Instant::now() + Duration::from_secs(20);
    let executed = |r: &Option<Replica>| {
        let json = r.as_ref().unwrap().status_json();
        let at = json.find("\"executed\":").unwrap() + 11;
        json[at..].split(',').next().unwrap().parse::<u64>().unwrap()
    };
    loop {
        let all: Vec<u64> = cluster.replicas.iter().map(executed).collect();
        if all.iter().all(|e| *e == all[0]) {
            break;
        }
        assert!(Instant::now() < until, "replicas do not converge: {all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The digest is computed once a second at most: asked again and again, everybody shows the same in the end.
    loop {
        let digest = |i| {
            let json = client.status_with_digest(ReplicaId(i), Some(Duration::from_secs(5))).unwrap();
            let at = json.find("\"digest_seq\":").unwrap();
            // Place and digest; null and nothing while the replica is busy.
            let told: String = json[at..].split(',').take(2).collect();
            (!told.contains("null")).then_some(told)
        };
        let all: Vec<_> = (0..n).map(digest).collect();
        if all[0].is_some() && all.iter().all(|d| *d == all[0]) {
            break;
        }
        assert!(Instant::now() < until, "no equal digests: {all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_byzantine_group_survives_the_loss_of_its_leader_and_of_everybody() {
    survives(FaultModel::Byzantine, 4);
}

#[test]
fn a_crash_group_survives_the_loss_of_its_leader_and_of_everybody() {
    survives(FaultModel::Crash, 3);
}

pub(super) fn put_all(client: &Client, keys: std::ops::Range<u32>) {
    let session = client.session();
    for key in keys {
        let outcome = session.invoke(put(key), Some(Duration::from_secs(20)));
        assert!(matches!(outcome, Outcome::Done(_)), "key {key}: {outcome:?}");
    }
}

/// Waits for what must come, or says what did not.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// RULES 14: nothing acknowledged is lost while at most f crash at a time; after a crash of all, only in a new era.
fn keeps_the_paper_s_promise(model: FaultModel, n: u32, durability: Durability) {
    let mut cluster = Cluster::of(model, n, durability);
    let client = cluster.client();
    put_all(&client, 0..30);
    cluster.stop(0);
    put_all(&client, 30..40);
    cluster.start(0);
    let forgetful =
        |c: &Cluster, i: usize| c.replicas[i].as_ref().unwrap().status_json().contains(r#""forgetful":true"#);
    assert!(forgetful(&cluster, 0), "it may have voted");
    until("no mark covers what replica 0 forgot", || !forgetful(&cluster, 0));
    // Now it counts again: another may go.
    cluster.stop(1);
    put_all(&client, 40..50);
    cluster.start(1);
    check_all(&client, 0..50);
    until("no mark covers what replica 1 forgot", || !forgetful(&cluster, 1));
    drop(client);

    (0..n).for_each(|i| cluster.stop(i));
    (0..n).for_each(|i| cluster.start(i));
    // Whoever hears that more than f forgot refuses; one that comes later may find nobody to hear it from.
    let refused = || {
        cluster.replicas.iter().flatten().find_map(|replica| replica.wait_failed(Duration::from_millis(1)))
    };
    until("more than f forgot, and nobody refuses to go on", || refused().is_some());
    let why = refused().expect("just seen");
    assert!(why.contains("--new-era"), "{why}");
    assert!(cluster.replicas.iter().flatten().all(|r| r.status_json().contains(r#""requests_executed":0,"#)));
    (0..n).for_each(|i| cluster.stop(i));
    cluster.new_era = true;
    (0..n).for_each(|i| cluster.start(i));
    let client = cluster.client();
    put_all(&client, 50..60);
    check_all(&client, 0..60);
}

#[test]
fn parallel_logging_keeps_its_promise_in_both_models() {
    keeps_the_paper_s_promise(FaultModel::Crash, 3, Durability::Parallel);
    keeps_the_paper_s_promise(FaultModel::Byzantine, 4, Durability::Parallel);
}

#[test]
fn batched_and_naive_logging_keep_their_promise() {
    keeps_the_paper_s_promise(FaultModel::Crash, 3, Durability::Batched);
    keeps_the_paper_s_promise(FaultModel::Byzantine, 4, Durability::Naive);
}

#[test]
fn asynchronous_logging_survives_a_crash_of_f_and_an_orderly_stop() {
    keeps_the_paper_s_promise(FaultModel::Crash, 3, Durability::Async);
}

#[test]
fn without_a_log_a_replica_cannot_come_back_and_says_so() {
    let mut cluster = Cluster::of(FaultModel::Crash, 3, Durability::None);
    let client = cluster.client();
    put_all(&client, 0..10);
    cluster.stop(2);
    put_all(&client, 10..20);
    check_all(&client, 0..20);
    let options = cluster.options(2);
    let Err(why) = Replica::start(options) else { panic!("it has nothing to come back with") };
    assert!(why.to_string().contains("cannot come back"), "{why}");
}

#[test]
fn a_new_era_is_refused_where_nothing_is_forgotten() {
    let mut cluster = Cluster::new(FaultModel::Crash, 3);
    cluster.stop(0);
    cluster.new_era = true;
    let Err(why) = Replica::start(cluster.options(0)) else { panic!("votes are durable") };
    assert!(why.to_string().contains("--new-era"), "{why}");
}

/// Every line is a comment of a known kind or `name{labels} number`; families are not mixed; the end is marked.
fn check_open_metrics(text: &str) {
    let mut family = String::new();
    let mut seen = std::collections::HashSet::new();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["EOF"] => {}
                ["TYPE", name, kind] => {
                    assert!(["gauge", "counter", "summary"].contains(&kind), "{line}");
                    assert!(seen.insert(name.to_owned()), "{name} comes twice");
                    family = name.to_owned();
                }
                ["HELP" | "UNIT", name, _] => assert_eq!(name, family, "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("{line}"));
        assert!(name.starts_with(&family), "{line} in family {family}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{line}");
        let (labels, number) = rest.rsplit_once("} ").unwrap_or_else(|| panic!("{line}"));
        assert!(labels.starts_with("replica=\"") && labels.ends_with('"'), "{line}");
        number.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
    }
}

#[test]
fn a_replica_answers_scrapers_and_is_ready_only_with_the_others() {
    let mut cluster = Cluster::new(FaultModel::Crash, 3);
    let client = cluster.client();
    put_all(&client, 0..20);
    let at = cluster.replicas[0].as_ref().unwrap().metrics_addr().unwrap();
    let get = |path: &str| ask(at, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes());
    let number = |page: &str, name: &str| -> f64 {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_else(|| panic!("no {name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let page = get("/metrics").split_once("\r\n\r\n").unwrap().1.to_owned();
    check_open_metrics(&page);
    let before = number(&page, "duramen_requests_executed_total");
    assert!(before >= 20.0 && number(&page, "duramen_stage_seconds_count") > 0.0, "{page}");
    put_all(&client, 20..40);
    let page = get("/metrics");
    assert!(number(&page, "duramen_requests_executed_total") >= before + 20.0, "{page}");
    until("it does not become ready", || get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    // Alone it is no longer in a view that works: the leader wishes for another, and cannot get there.
    let status = cluster.replicas[0].as_ref().unwrap().status_json();
    assert!(status.contains(r#""stages":{"net":{"count":"#), "{status}");
    cluster.stop(0);
    cluster.stop(1);
    cluster.start(0);
    let at = cluster.replicas[0].as_ref().unwrap().metrics_addr().unwrap();
    until("a replica that leads nobody is ready", || {
        ask(at, b"GET /readyz HTTP/1.1\r\n\r\n").contains("503")
    });
}

fn refusal(cluster: &Cluster, durability: Durability) -> Option<String> {
    let mut settings = cluster.config.settings().clone();
    settings.durability = durability;
    let config = Config::new(settings).unwrap();
    Replica::start(ReplicaOptions { config, ..cluster.options(0) }).err().map(|why| why.to_string())
}

#[test]
fn a_mode_that_is_changed_after_init_is_refused_with_the_one_to_set_back() {
    use Durability::*;
    for (written, others) in [(Parallel, vec![Vote, Async, Batched]), (None, vec![Vote]), (Vote, vec![None])]
    {
        let mut cluster = Cluster::of(FaultModel::Crash, 3, written);
        (0..3).for_each(|i| cluster.stop(i));
        for other in others {
            let why = refusal(&cluster, other).unwrap_or_else(|| panic!("{written} started as {other}"));
            let back = format!("set it back to \"{written}\"");
            assert!(why.contains("cannot be changed") && why.contains(&back), "{why}");
        }
    }
}

#[test]
fn a_folder_older_than_the_record_of_its_mode_gets_one_at_its_next_start() {
    let mut cluster = Cluster::of(FaultModel::Crash, 3, Durability::Naive);
    (0..3).for_each(|i| cluster.stop(i));
    let file = data_dir::replica_dir(&cluster.path(), ReplicaId(0)).join("durability");
    std::fs::remove_file(&file).unwrap();
    let why = refusal(&cluster, Durability::Vote).expect("there is a log of decisions");
    assert!(why.contains("cannot be changed"), "{why}");
    cluster.start(0);
    cluster.stop(0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "naive\n");
    assert!(refusal(&cluster, Durability::Async).is_some());
    std::fs::write(&file, "votive\n").unwrap();
    let why = refusal(&cluster, Durability::Naive).expect("the record is damaged");
    assert!(why.contains("votive") && why.contains("durability"), "{why}");
}

#[test]
fn a_first_start_on_a_busy_port_was_no_start() {
    for metrics in [false, true] {
        let mut cluster = Cluster::of(FaultModel::Crash, 3, Durability::None);
        (0..3).for_each(|i| cluster.stop(i));
        // A new one in place of it, of which no replica has started.
        let fresh = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let options = InitOptions {
            dir: fresh.path().join("cluster"),
            replicas: 3,
            model: FaultModel::Crash,
            durability: Durability::None,
            listen: format!("127.0.0.1:{}", free_ports(3)),
            ..InitOptions::default()
        };
        cluster.config = init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
        cluster.dir = fresh;
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut options = cluster.options(0);
        let taken = if metrics {
            options.metrics = Some(other.local_addr().unwrap());
            None
        } else {
            Some(TcpListener::bind(&cluster.config.replicas[0].address).unwrap())
        };
        let Err(why) = Replica::start(options) else { panic!("its port is taken") };
        assert!(why.to_string().contains("in use"), "{why}");
        drop(taken);
        // In this mode a second start is refused.
        (0..3).for_each(|i| cluster.start(i));
        put_all(&cluster.client(), 0..3);
    }
}
