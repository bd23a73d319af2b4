//! Whole replicas that lack what nobody's log has any more: they take over a state from the others.

use super::checkpoint_tests::{
    KEYS, LOG_MIB, VALUE_BYTES, check, checkpoints, cluster, number, options, put, wait,
};
use super::replica_tests::Cluster;
use super::{Replica, format_learner};
use crate::client::Session;
use crate::config::{Config, Durability, Settings, SnapshotKind, TransferLimits};
use crate::data_dir;
use crate::init::InitOptions;
use crate::quorum::FaultModel;
use crate::transfer::StrategyKind;
use crate::types::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// As much as the log may hold, and half as much again.
const WRITES: u32 = ((3 * LOG_MIB / 2) << 20) as u32 / VALUE_BYTES as u32;

/// Writes while one replica is away: the others wait for each other, for theirs are small logs.
fn put_without(cluster: &Cluster, session: &Session, writes: std::ops::Range<u32>) {
    for i in writes {
        put(session, i);
        if i % 8 == 0 {
            wait("they do not get to one place", || {
                let executed = || cluster.replicas.iter().flatten().map(|r| number(r, "executed"));
                executed().max() == executed().min()
            });
        }
    }
}

/// Everybody has executed as much as anybody, and takes part.
fn all_together(cluster: &Cluster) {
    let running = || cluster.replicas.iter().flatten();
    // Without durable votes one that restarted counts as faulty until a mark covers what it forgot.
    let takes_part =
        |json: String| json.contains("\"mode\":\"normal\"") && json.contains("\"forgetful\":false");
    wait("they do not come together", || {
        let executed = || running().map(|r| number(r, "executed"));
        executed().max() == executed().min() && running().all(|r| takes_part(r.status_json()))
    });
}

fn installed(cluster: &Cluster, i: u32) -> u64 {
    number(cluster.replicas[i as usize].as_ref().expect("it runs"), "installed")
}

fn lags(model: FaultModel, n: u32, durability: Durability, strategy: StrategyKind) {
    let mut cluster = cluster(model, n, durability, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    put_without(&cluster, &session, 0..KEYS);
    let last = n - 1;
    cluster.stop(last);
    put_without(&cluster, &session, KEYS..KEYS + WRITES);
    for replica in cluster.replicas.iter().flatten() {
        assert!(number(replica, "first_lsn") > 1, "{}", replica.status_json());
    }
    // Replicas may differ here.
    let transfer = TransferLimits { strategy, ..TransferLimits::default() };
    let settings = Settings { transfer, ..cluster.config.settings().clone() };
    cluster.config = Config::new(settings).unwrap();
    cluster.start(last);
    wait("it takes no state over", || installed(&cluster, last) == 1);
    put_without(&cluster, &session, KEYS + WRITES..KEYS + WRITES + 5);
    all_together(&cluster);
    // It is needed now, and has what the others have; so it has after a restart.
    cluster.stop(last - 1);
    put(&session, KEYS + WRITES + 5);
    check(&client, KEYS + WRITES + 6);
    cluster.start(last - 1);
    all_together(&cluster);
    cluster.stop(last);
    cluster.start(last);
    all_together(&cluster);
    assert_eq!(installed(&cluster, last), 0, "it goes on from its own checkpoint");
    cluster.stop(0);
    put(&session, KEYS + WRITES + 6);
    check(&client, KEYS + WRITES + 7);
}

#[test]
fn a_crash_replica_that_was_away_for_long_takes_a_state_over() {
    lags(FaultModel::Crash, 3, Durability::Vote, StrategyKind::Pull);
}

#[test]
fn a_byzantine_replica_that_was_away_for_long_takes_a_state_over() {
    lags(FaultModel::Byzantine, 4, Durability::Vote, StrategyKind::Pull);
}

#[test]
fn one_without_durable_votes_takes_a_state_over() {
    lags(FaultModel::Byzantine, 4, Durability::Parallel, StrategyKind::Pull);
}

#[test]
fn collaborative_transfer_brings_a_state_in_both_models() {
    lags(FaultModel::Crash, 3, Durability::Vote, StrategyKind::Cst);
    lags(FaultModel::Byzantine, 4, Durability::Vote, StrategyKind::Cst);
}

#[test]
fn one_that_lost_its_disk_learns_from_a_state() {
    let mut cluster = cluster(FaultModel::Byzantine, 4, Durability::Vote, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    put_without(&cluster, &session, 0..WRITES);
    cluster.stop(2);
    put_without(&cluster, &session, WRITES..2 * WRITES);
    let (dir, config) = (cluster.path(), cluster.config.clone());
    let id = ReplicaId(2);
    std::fs::remove_dir_all(data_dir::log_dir(&dir, id)).unwrap();
    std::fs::remove_dir_all(data_dir::checkpoint_dir(&dir, &config, id)).unwrap();
    format_learner(&data_dir::log_dir(&dir, id), &config, id, true).unwrap();
    cluster.start(2);
    wait("it takes no state over", || installed(&cluster, 2) >= 1);
    all_together(&cluster);
    // What was received is no longer on disk, the checkpoint of it is.
    let left = || data_dir::checkpoint_dir(&dir, &config, id).read_dir().unwrap();
    wait("the received chunks go", || {
        !left().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("transfer"))
    });
    assert!(!checkpoints(&cluster, 2).is_empty());
    cluster.stop(3);
    put(&session, 2 * WRITES);
    check(&client, 2 * WRITES + 1);
}

#[test]
fn replicas_that_all_restart_offer_states_again() {
    let mut cluster = cluster(FaultModel::Crash, 3, Durability::Vote, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    put_without(&cluster, &session, 0..KEYS);
    cluster.stop(2);
    put_without(&cluster, &session, KEYS..KEYS + WRITES);
    let newest = |r: &Replica| number(r, "newest");
    let before: Vec<u64> = cluster.replicas.iter().flatten().map(newest).collect();
    assert!(before.iter().all(|seq| *seq > 0), "{before:?}");
    (0..2).for_each(|i| cluster.stop(i));
    (0..3).for_each(|i| cluster.start(i));
    wait("it takes no state over", || installed(&cluster, 2) >= 1);
    all_together(&cluster);
    cluster.stop(0);
    put(&session, KEYS + WRITES);
    check(&client, KEYS + WRITES + 1);
}

/// One byte in the middle of each checkpoint is another one.
fn damage_checkpoints(cluster: &Cluster, i: u32) {
    for path in checkpoints(cluster, i) {
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn one_whose_checkpoints_are_all_damaged_takes_a_state_over() {
    for (model, n, durability) in
        [(FaultModel::Byzantine, 4, Durability::Vote), (FaultModel::Crash, 3, Durability::Parallel)]
    {
        let mut cluster = cluster(model, n, durability, SnapshotKind::CopyOnWrite);
        let client = cluster.client();
        let session = client.session();
        put_without(&cluster, &session, 0..WRITES);
        wait("its log does not go on", || {
            let replica = cluster.replicas[1].as_ref().expect("it runs");
            number(replica, "first_lsn") > 1 && checkpoints(&cluster, 1).len() == 2
        });
        cluster.stop(1);
        damage_checkpoints(&cluster, 1);
        cluster.start(1);
        wait("it takes no state over", || installed(&cluster, 1) == 1);
        put_without(&cluster, &session, WRITES..WRITES + 5);
        all_together(&cluster);
        // Then that of the state that came from others, on which the log relies.
        cluster.stop(1);
        damage_checkpoints(&cluster, 1);
        cluster.start(1);
        wait("it takes no state over again", || installed(&cluster, 1) == 1);
        all_together(&cluster);
        cluster.stop(2);
        put(&session, WRITES + 5);
        check(&client, WRITES + 6);
    }
}

/// Ends the load also where a check fails: it would be waited for without end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_transfer_waits_for_the_load_where_told_so_and_not_for_ever() {
    const SECONDS: u64 = 3;
    let options = options(FaultModel::Byzantine, 4, Durability::Vote, SnapshotKind::CopyOnWrite);
    let transfer =
        TransferLimits { postpone_above: 2, postpone_seconds: SECONDS, ..TransferLimits::default() };
    let mut cluster = Cluster::with(InitOptions { transfer, ..options });
    let client = cluster.client();
    let session = client.session();
    put_without(&cluster, &session, 0..KEYS);
    cluster.stop(3);
    put_without(&cluster, &session, KEYS..KEYS + WRITES);
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let (stop, session) = (&stop, &session);
        let load = scope.spawn(move || {
            let mut next = KEYS + WRITES;
            while !stop.load(Ordering::Relaxed) {
                put(session, next);
                next += 1;
                // Far above the bound also where others use the disk.
                std::thread::sleep(Duration::from_millis(10));
            }
            next
        });
        let ends = Stop(stop);
        std::thread::sleep(Duration::from_secs(1));
        cluster.start(3);
        let waits = |r: &Replica| r.status_json().contains("\"postponed\":[3]");
        wait("nobody lets it wait", || cluster.replicas.iter().flatten().any(waits));
        let began = Instant::now();
        assert_eq!(installed(&cluster, 3), 0);
        wait("it takes no state over", || installed(&cluster, 3) == 1);
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(SECONDS - 1), "it waited for {waited:?} alone");
        // Each tells of it ten times a second.
        wait("they let it wait for ever", || !cluster.replicas.iter().flatten().any(waits));
        drop(ends);
        load.join().unwrap()
    });
    all_together(&cluster);
    check(&client, written);
}
