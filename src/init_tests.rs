use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::config::*;
use crate::data_dir;
use crate::init::*;
use crate::keys::*;
use crate::quorum::FaultModel;
use crate::types::*;

const PASS: FormatReplica<'static> = &|_, _, _| Ok(());

fn options(dir: &Path) -> InitOptions {
    InitOptions { dir: dir.to_owned(), clients: vec!["default".into(), "bench".into()], ..Default::default() }
}

/// All below `dir`, relative and sorted.
fn tree(dir: &Path) -> Vec<PathBuf> {
    fn walk(dir: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            out.push(path.strip_prefix(root).unwrap().to_owned());
            if path.is_dir() {
                walk(&path, root, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(dir, dir, &mut out);
    out.sort();
    out
}

#[test]
fn init_makes_configuration_keys_and_replica_folders() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/b/data");
    let formatted = RefCell::new(Vec::new());
    let config = init(&options(&dir), &|log, config, id| {
        assert_eq!(fs::read_dir(log)?.count(), 0, "the log's folder is there and empty");
        fs::write(log.join("segment"), config.cluster.to_string())?;
        formatted.borrow_mut().push((log.to_owned(), id));
        Ok(())
    })
    .unwrap();

    let mut expected: Vec<PathBuf> =
        ["client-bench.key", "client-default.key", "cluster.toml"].map(PathBuf::from).into();
    for i in 0..4 {
        let name = format!("replica-{i}");
        expected.extend(["", "key.toml", "log", "log/segment"].map(|n| Path::new(&name).join(n)));
    }
    expected.sort();
    assert_eq!(tree(&dir), expected);
    let logs: Vec<_> = (0..4).map(ReplicaId).map(|i| (data_dir::log_dir(&dir, i), i)).collect();
    assert_eq!(*formatted.borrow(), logs);

    assert_eq!(data_dir::load_config(&dir).unwrap(), config);
    let ports: Vec<_> = config.replicas.iter().map(|r| r.address.as_str()).collect();
    assert_eq!(ports, ["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]);
    for id in config.group().members() {
        let path = data_dir::replica_key_file(&dir, id);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        ReplicaKeys::load(&path, &config, id).unwrap();
    }
    for (name, id) in [("default", 1), ("bench", 2)] {
        let path = data_dir::client_key_file(&dir, name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let keys = ClientKeys::load(&path, &config).unwrap();
        assert_eq!(keys.id, ClientId(id));
        let replica =
            ReplicaKeys::load(&data_dir::replica_key_file(&dir, ReplicaId(3)), &config, ReplicaId(3));
        assert_eq!(replica.unwrap().client_mac(&keys.public_key()), keys.macs[3]);
    }
}

#[test]
fn two_clusters_share_neither_id_nor_keys() {
    let temp = tempfile::tempdir().unwrap();
    let a = init(&options(&temp.path().join("a")), PASS).unwrap();
    let b = init(&options(&temp.path().join("b")), PASS).unwrap();
    assert_ne!(a.cluster, b.cluster);
    assert_ne!(a.replicas[0].key, b.replicas[0].key);
    assert_ne!(a.clients[0].key, b.clients[0].key);
}

#[test]
fn options_reach_the_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let config = init(
        &InitOptions {
            dir: temp.path().join("d"),
            replicas: 3,
            model: FaultModel::Crash,
            f: Some(0),
            listen: "[::1]:65530".into(),
            clients: vec![],
            transport: Transport::Plain,
            digest: DigestAlgorithm::Sha256,
            view_timeout_ms: 70,
            limits: Limits { window: 32, mark_interval: 8, ..Limits::default() },
            log: LogLimits { segment_mib: 8, ..LogLimits::default() },
            checkpoint: Default::default(),
            ..InitOptions::default()
        },
        PASS,
    )
    .unwrap();
    assert_eq!((config.group().n(), config.f, config.model), (3, 0, FaultModel::Crash));
    assert_eq!(config.replicas[2].address, "[::1]:65532");
    assert_eq!(config.replicas[2].transfer.as_deref(), Some("[::1]:65535"));
    assert_eq!((config.transport, config.client_auth), (Transport::Plain, ClientAuth::Channel));
    assert_eq!((config.digest, config.view_timeout_ms), (DigestAlgorithm::Sha256, 70));
    assert_eq!((config.limits.window, config.log.segment_mib), (32, 8));
    assert!(config.clients.is_empty());
}

#[test]
fn a_folder_with_a_cluster_is_refused_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    init(&options(temp.path()), PASS).unwrap();
    let before = fs::read(data_dir::config_file(temp.path())).unwrap();
    let files = tree(temp.path());
    let error = init(&options(temp.path()), &|_, _, _| panic!("nothing may be formatted")).unwrap_err();
    assert!(matches!(error, InitError::AlreadyThere(_)));
    assert!(error.to_string().contains("choose another --dir"), "{error}");
    assert_eq!(fs::read(data_dir::config_file(temp.path())).unwrap(), before);
    assert_eq!(tree(temp.path()), files);
}

#[test]
fn a_half_done_init_is_refused_by_init_and_start_until_it_is_removed() {
    for failing in 0..4 {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("data");
        let error = init(&options(&dir), &|_, _, id| match id.0 == failing {
            true => Err("no space".into()),
            false => Ok(()),
        })
        .unwrap_err();
        assert!(error.to_string().contains("no space"), "{error}");

        let error = init(&options(&dir), PASS).unwrap_err();
        assert!(matches!(error, InitError::Unfinished(_)), "{error}");
        assert!(error.to_string().contains("remove the folder"), "{error}");
        let error = data_dir::load_config(&dir).unwrap_err().to_string();
        assert!(error.contains("did not finish") && error.contains("remove the folder"), "{error}");

        fs::remove_dir_all(&dir).unwrap();
        init(&options(&dir), PASS).unwrap();
    }
}

#[test]
fn a_lost_configuration_is_not_taken_for_an_unfinished_init() {
    let temp = tempfile::tempdir().unwrap();
    init(&options(temp.path()), PASS).unwrap();
    fs::remove_file(data_dir::config_file(temp.path())).unwrap();
    let error = data_dir::load_config(temp.path()).unwrap_err().to_string();
    assert!(error.contains("copy that file from another replica") && !error.contains("remove"), "{error}");
    let error = init(&options(temp.path()), PASS).unwrap_err();
    assert!(matches!(error, InitError::Remains(_)), "{error}");
}

#[test]
fn a_crash_just_after_the_commit_point_leaves_a_cluster() {
    let temp = tempfile::tempdir().unwrap();
    let config = init(&options(temp.path()), PASS).unwrap();
    fs::write(temp.path().join("init-unfinished"), "").unwrap();
    assert_eq!(data_dir::load_config(temp.path()).unwrap(), config);
    assert!(matches!(init(&options(temp.path()), PASS), Err(InitError::AlreadyThere(_))));
}

#[test]
fn a_folder_without_a_cluster_says_how_to_make_one() {
    let temp = tempfile::tempdir().unwrap();
    for dir in [temp.path().to_owned(), temp.path().join("none")] {
        let error = data_dir::load_config(&dir).unwrap_err().to_string();
        assert!(error.contains("duramen init"), "{error}");
    }
}

#[test]
fn other_files_in_the_folder_are_no_obstacle() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("lost+found")).unwrap();
    init(&options(temp.path()), PASS).unwrap();
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_is_made() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    type Change = fn(&mut InitOptions);
    let cases: [(Change, &str); 13] = [
        (
            |o| o.listen = "127.0.0.1:65529".into(),
            "replica 3 would listen on port 65536: choose 65528 or lower",
        ),
        (|o| o.listen = "127.0.0.1".into(), "--listen: \"127.0.0.1\" has no port"),
        (|o| o.listen = "127.0.0.1:0".into(), "1 to 65535"),
        (|o| o.listen = "0.0.0.0:7400".into(), "others cannot reach"),
        (|o| o.f = Some(2), "4 replicas bear at most 1 byzantine faults, not 2"),
        (|o| o.replicas = 3, "3 bear no fault in this model: ask for 4 or more, or say --f 0"),
        (|o| (o.replicas, o.f) = (0, Some(0)), "at least one"),
        (|o| o.replicas = u32::MAX, "more than the 64"),
        (|o| o.clients = vec!["a/b".into()], "cannot be a client's name"),
        (|o| o.clients = vec!["a".into(), "a".into()], "the name a already"),
        (|o| o.transport = Transport::Plain, "--insecure"),
        (|o| o.client_auth = Some(ClientAuth::Channel), "model = \"crash\""),
        (|o| o.limits.window = 1, "limits.window"),
    ];
    for (change, why) in cases {
        let mut options = options(&dir);
        change(&mut options);
        let error = init(&options, PASS).unwrap_err().to_string();
        assert!(error.contains(why), "{error}\nshould contain {why}");
        assert!(!error.contains('\n'), "{error}");
        assert!(!dir.exists());
    }
    let plain = InitOptions { transport: Transport::Plain, insecure: true, ..options(&dir) };
    init(&plain, PASS).unwrap();
}

#[test]
fn the_last_possible_port_is_used() {
    let temp = tempfile::tempdir().unwrap();
    let config =
        init(&InitOptions { listen: "localhost:65528".into(), ..options(temp.path()) }, PASS).unwrap();
    assert_eq!(config.replicas[3].address, "localhost:65531");
    assert_eq!(config.replicas[3].transfer.as_deref(), Some("localhost:65535"));
}

#[test]
fn a_place_that_is_no_folder_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let error = init(&options(&dir), PASS).unwrap_err().to_string();
        assert!(error.contains("file") && error.contains("cannot be made"), "{error}");
    }
}
