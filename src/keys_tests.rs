use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::config::*;
use crate::keys::*;
use crate::quorum::FaultModel;
use crate::types::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

struct Made {
    dir: tempfile::TempDir,
    config: Config,
    replicas: Vec<ReplicaKeys>,
    client: ClientKeys,
}

fn made() -> Made {
    let replicas: Vec<_> = (0..4).map(|i| ReplicaKeys::generate(CLUSTER, ReplicaId(i)).unwrap()).collect();
    let client = ClientKeys::generate(CLUSTER, ClientId(3), "alice", &replicas).unwrap();
    let entry = |k: &ReplicaKeys| ReplicaEntry {
        id: k.id,
        transfer: None,
        address: format!("h:{}", 1 + k.id.0),
        key: k.public_key(),
    };
    let config = Config::new(Settings {
        cluster: CLUSTER,
        model: FaultModel::Byzantine,
        f: 1,
        transport: Transport::Tls,
        client_auth: ClientAuth::Mac,
        digest: DigestAlgorithm::Blake3,
        durability: Durability::Vote,
        view_timeout_ms: 1000,
        limits: Limits::default(),
        log: LogLimits::default(),
        checkpoint: Default::default(),
        transfer: Default::default(),
        replicas: replicas.iter().map(entry).collect(),
        clients: vec![ClientEntry { id: ClientId(3), name: "alice".into(), key: client.public_key() }],
    })
    .unwrap();
    Made { dir: tempfile::tempdir().unwrap(), config, replicas, client }
}

#[test]
fn keys_read_back_as_written_with_mode_0600() {
    let Made { dir, config, replicas, client } = made();
    let (r, c) = (dir.path().join("key.toml"), dir.path().join("client-alice.key"));
    replicas[2].write(&r).unwrap();
    client.write(&c).unwrap();
    for path in [&r, &c] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    assert_eq!(ReplicaKeys::load(&r, &config, ReplicaId(2)).unwrap(), replicas[2]);
    assert_eq!(ClientKeys::load(&c, &config).unwrap(), client);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_replica_derives_the_secret_that_the_client_holds() {
    let Made { replicas, client, .. } = made();
    for (replica, mac) in replicas.iter().zip(&client.macs) {
        assert_eq!(replica.client_mac(&client.public_key()), *mac);
    }
    assert_ne!(client.macs[0], client.macs[1]);
    assert_ne!(replicas[0].client_mac(&[1; 32]), client.macs[0]);
}

#[test]
fn a_replica_secret_is_the_documented_hmac() {
    let keys = ReplicaKeys { cluster: CLUSTER, id: ReplicaId(0), seed: [1; 32], mac_master: [2; 32] };
    let master = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[2; 32]);
    let text = [b"duramen client mac".as_slice(), &[9; 32]].concat();
    assert_eq!(keys.client_mac(&[9; 32]), ring::hmac::sign(&master, &text).as_ref());
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command_to_run() {
    let Made { dir, config, replicas, client } = made();
    let (r, c) = (dir.path().join("key.toml"), dir.path().join("c.key"));
    replicas[0].write(&r).unwrap();
    client.write(&c).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o601, 0o644, 0o777] {
        fs::set_permissions(&r, fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(&c, fs::Permissions::from_mode(mode)).unwrap();
        let r_said = ReplicaKeys::load(&r, &config, ReplicaId(0)).unwrap_err().to_string();
        let c_said = ClientKeys::load(&c, &config).unwrap_err().to_string();
        assert!(r_said.contains(&format!("chmod 600 {}", r.display())), "{r_said}");
        assert!(c_said.contains(&format!("(mode {mode:04o})")), "{c_said}");
        assert!(!r_said.contains('\n') && !c_said.contains('\n'));
    }
    fs::set_permissions(&r, fs::Permissions::from_mode(0o400)).unwrap();
    ReplicaKeys::load(&r, &config, ReplicaId(0)).unwrap();
}

#[test]
fn a_rewritten_key_file_is_narrow_again() {
    let Made { dir, replicas, .. } = made();
    let path = dir.path().join("key.toml");
    fs::write(&path, "wide").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    replicas[0].write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
}

#[test]
fn a_missing_key_file_is_named() {
    let Made { dir, config, .. } = made();
    let path = dir.path().join("key.toml");
    let said = ReplicaKeys::load(&path, &config, ReplicaId(0)).unwrap_err();
    assert!(matches!(said, KeyError::Missing(_)));
    assert!(said.to_string().contains("key.toml: there is no key file"), "{said}");
    assert!(matches!(
        ClientKeys::load(dir.path(), &config),
        Err(KeyError::Exposed { .. } | KeyError::Io { .. })
    ));
}

#[test]
fn a_key_file_cut_anywhere_is_refused_and_never_repeats_a_secret() {
    let Made { dir, config, replicas, client } = made();
    let (r, c) = (dir.path().join("key.toml"), dir.path().join("c.key"));
    replicas[1].write(&r).unwrap();
    client.write(&c).unwrap();
    let (r_bytes, c_bytes) = (fs::read(&r).unwrap(), fs::read(&c).unwrap());
    let secrets: Vec<String> = [replicas[1].seed, replicas[1].mac_master, client.seed, client.macs[0]]
        .map(|s| crate::hex::encode(&s[..8]))
        .into();
    let refused = |said: KeyError| {
        assert!(matches!(said, KeyError::Malformed { .. }), "{said}");
        let said = said.to_string();
        assert!(!said.contains('\n'), "{said}");
        assert!(secrets.iter().all(|s| !said.contains(s)), "{said}");
    };
    // The last byte is a newline, which nothing depends on.
    for end in 0..r_bytes.len() - 1 {
        fs::write(&r, &r_bytes[..end]).unwrap();
        refused(ReplicaKeys::load(&r, &config, ReplicaId(1)).unwrap_err());
    }
    for end in 0..c_bytes.len() - 1 {
        fs::write(&c, &c_bytes[..end]).unwrap();
        refused(ClientKeys::load(&c, &config).unwrap_err());
    }
    fs::write(&r, &c_bytes).unwrap();
    refused(ReplicaKeys::load(&r, &config, ReplicaId(1)).unwrap_err());
    fs::write(&r, [0xff; 10]).unwrap();
    refused(ReplicaKeys::load(&r, &config, ReplicaId(1)).unwrap_err());
    fs::write(&r, vec![b'#'; 100_000]).unwrap();
    refused(ReplicaKeys::load(&r, &config, ReplicaId(1)).unwrap_err());
}

#[test]
fn keys_of_another_cluster_or_member_are_refused() {
    let Made { dir, config, replicas, client } = made();
    let path = dir.path().join("key");
    let replica = |keys: ReplicaKeys, id| {
        keys.write(&path).unwrap();
        ReplicaKeys::load(&path, &config, ReplicaId(id)).unwrap_err().to_string()
    };
    let said = replica(ReplicaKeys { cluster: ClusterId([8; 16]), ..replicas[0].clone() }, 0);
    assert!(said.contains(&format!("cluster {}, cluster.toml of {CLUSTER}", ClusterId([8; 16]))), "{said}");
    let said = replica(replicas[1].clone(), 0);
    assert!(said.contains("the key of replica 1, not of 0"), "{said}");
    let said = replica(ReplicaKeys { id: ReplicaId(9), ..replicas[0].clone() }, 9);
    assert!(said.contains("no replica 9"), "{said}");
    let said = replica(ReplicaKeys { seed: [0; 32], ..replicas[0].clone() }, 0);
    assert!(said.contains("another public key for replica 0"), "{said}");

    let other = |keys: ClientKeys| {
        keys.write(&path).unwrap();
        ClientKeys::load(&path, &config).unwrap_err().to_string()
    };
    let said = other(ClientKeys { cluster: ClusterId([8; 16]), ..client.clone() });
    assert!(said.contains("this key is of cluster 0808"), "{said}");
    let said = other(ClientKeys { id: ClientId(4), ..client.clone() });
    assert!(said.contains("no client 4"), "{said}");
    let said = other(ClientKeys { name: "bob".into(), ..client.clone() });
    assert!(said.contains("client 3 is alice in cluster.toml, bob here"), "{said}");
    let said = other(ClientKeys { seed: [0; 32], ..client.clone() });
    assert!(said.contains("another public key for client alice"), "{said}");
    let said = other(ClientKeys { macs: vec![[0; 32]; 3], ..client.clone() });
    assert!(said.contains("3 replicas, cluster.toml has 4"), "{said}");
}

#[test]
fn printed_keys_show_no_secret() {
    let Made { replicas, client, .. } = made();
    let printed = format!("{:?} {client:?}", replicas[0]);
    for secret in [replicas[0].seed, replicas[0].mac_master, client.seed, client.macs[0]] {
        assert!(!printed.contains(&format!("{secret:?}")) && !printed.contains(&crate::hex::encode(&secret)));
    }
}
