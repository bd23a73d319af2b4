use super::*;
use crate::client::{Client, ClientOptions, Outcome};
use crate::config::{Config, LogLimits};
use crate::data_dir;
use crate::init::{InitOptions, init};
use crate::keys::ClientKeys;
use crate::quorum::FaultModel;
use crate::service::{KeyValueStore, KvOperation, KvReply, KvWrite};
use crate::types::*;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A whole cluster in this process: real sockets, real disk.
struct Cluster {
    dir: tempfile::TempDir,
    config: Config,
    replicas: Vec<Option<Replica>>,
}

/// As many neighbouring free ports, from somewhere of their own.
fn free_ports(n: u16) -> u16 {
    for _ in 0..1000 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if first.checked_add(n).is_some()
            && (1..n).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok())
        {
            return first;
        }
    }
    panic!("no {n} neighbouring free ports");
}

impl Cluster {
    fn new(model: FaultModel, n: u32) -> Self {
        let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            replicas: n,
            model,
            listen: format!("127.0.0.1:{}", free_ports(n as u16)),
            log: LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() },
            ..InitOptions::default()
        };
        let config = init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
        let mut this = Self { dir, config, replicas: (0..n).map(|_| None).collect() };
        (0..n).for_each(|i| this.start(i));
        this
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    fn start(&mut self, i: u32) {
        let options = ReplicaOptions {
            config: self.config.clone(),
            dir: self.path(),
            id: ReplicaId(i),
            service: Box::new(KeyValueStore::new()),
            insecure: false,
            allow_tmpfs: true,
            io: None,
            new_era: false,
        };
        self.replicas[i as usize] = Some(Replica::start(options).unwrap());
    }

    fn stop(&mut self, i: u32) {
        self.replicas[i as usize].take().unwrap().stop();
    }

    fn client(&self) -> Client {
        connect(&self.path(), &self.config)
    }
}

fn connect(dir: &Path, config: &Config) -> Client {
    let keys = ClientKeys::load(&data_dir::client_key_file(dir, "default"), config).unwrap();
    Client::connect(ClientOptions::new(config.clone(), keys)).unwrap()
}

fn put(key: u32) -> bytes::Bytes {
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
