use super::progress::{RecoveryPhase, RecoveryState};
use super::replica_tests::{Cluster, put_all, until};
use super::{Replica, ReplicaOptions};
use crate::config::{CheckpointLimits, Durability, Limits, LogLimits};
use crate::init::InitOptions;
use crate::quorum::FaultModel;
use crate::service::{KeyValueStore, SlowService};
use crate::types::*;
use std::time::Duration;

const MIB: u64 = 1 << 20;

#[test]
fn what_is_left_takes_as_long_as_what_is_read_took() {
    let seconds = Duration::from_secs;
    let state = RecoveryState::after(seconds(3), (10 * MIB, 40 * MIB), [(5 * MIB, 20 * MIB), (0, 0)]);
    assert_eq!((state.phase, state.eta), (RecoveryPhase::Checkpoint, Some(seconds(9))));
    assert_eq!(state.to_string(), "reading the checkpoint: 15.0 of 60.0 MiB read, 25 %, about 9 s left");
    let state = RecoveryState::after(seconds(4), (40 * MIB, 40 * MIB), [(0, 20 * MIB), (0, 20 * MIB)]);
    assert_eq!((state.phase, state.eta), (RecoveryPhase::Log, Some(seconds(4))));
    let state = RecoveryState::after(seconds(4), (0, 0), [(MIB, MIB), (0, 0)]);
    assert_eq!((state.phase, state.eta), (RecoveryPhase::Execute, None));
    assert_eq!(state.to_string(), "executing the log: 1.0 of 1.0 MiB read, 100 %");
    // Nothing is known at first.
    let state = RecoveryState::after(Duration::ZERO, (0, 0), [(0, 0); 2]);
    assert_eq!((state.phase, state.eta), (RecoveryPhase::Log, None));
    assert_eq!(state.json(), r#"{"phase":"log","bytes":0,"bytes_total":0,"eta_ms":null}"#);
}

#[test]
fn a_replica_tells_how_far_its_recovery_is() {
    let mut cluster = Cluster::with(InitOptions {
        replicas: 3,
        model: FaultModel::Crash,
        durability: Durability::Vote,
        limits: Limits { window: 16, mark_interval: 4, ..Limits::default() },
        log: LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() },
        checkpoint: CheckpointLimits { period: 0, ..CheckpointLimits::default() },
        ..InitOptions::default()
    });
    let client = cluster.client();
    put_all(&client, 0..150);
    cluster.stop(2);
    let options = cluster.options(2);
    let progress = options.progress.clone();
    assert_eq!(progress.state(), None);
    let service = Box::new(SlowService::new(Box::new(KeyValueStore::new()), Duration::from_millis(30)));
    let (done, started) = std::thread::scope(|scope| {
        let starting =
            scope.spawn(|| Replica::start(ReplicaOptions { service, ..options }).map_err(|e| e.to_string()));
        let mut told = Vec::new();
        until("it does not start", || {
            if let Ok(json) = client.status(ReplicaId(2), Some(Duration::from_millis(500))) {
                told.push(json);
            }
            starting.is_finished()
        });
        (told, starting.join().unwrap())
    });
    let replica = started.unwrap();
    let recovering: Vec<&String> =
        done.iter().filter(|json| json.contains(r#""mode":"recovering""#)).collect();
    assert!(!recovering.is_empty(), "it answered {} times", done.len());
    let bytes = |json: &str| -> u64 {
        let at = json.split_once(r#""recovering":{"phase":"#).expect("it says how far it is").1;
        let digits = at.split_once(r#""bytes":"#).unwrap().1;
        digits.split(',').next().unwrap().parse().unwrap()
    };
    let all: Vec<u64> = recovering.iter().map(|json| bytes(json)).collect();
    assert!(all.is_sorted() && all.last() > Some(&0), "{all:?}");
    assert_eq!(progress.state(), None);
    assert!(replica.status_json().contains(r#""recovering":null,"#), "{}", replica.status_json());
    // The client that asked early is served as all others.
    cluster.replicas[2] = Some(replica);
    until("it does not answer any more", || {
        client
            .status(ReplicaId(2), Some(Duration::from_secs(1)))
            .is_ok_and(|json| json.contains(r#""mode":"normal""#))
    });
    put_all(&client, 150..160);
}
