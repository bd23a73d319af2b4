//! Whole replicas that take checkpoints: more is written than the log may hold.

use super::replica_tests::Cluster;
use super::{Replica, StartError};
use crate::client::{Client, Outcome, Session};
use crate::config::{CheckpointLimits, Config, Durability, Limits, LogLimits, SnapshotKind};
use crate::data_dir;
use crate::init::InitOptions;
use crate::quorum::FaultModel;
use crate::service::{KvOperation, KvReply, KvWrite};
use crate::types::*;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(super) const KEYS: u32 = 40;
pub(super) const VALUE_BYTES: usize = 48 << 10;
pub(super) const LOG_MIB: u64 = 16;

pub(super) fn cluster(model: FaultModel, n: u32, durability: Durability, snapshot: SnapshotKind) -> Cluster {
    Cluster::with(options(model, n, durability, snapshot))
}

pub(super) fn options(
    model: FaultModel,
    n: u32,
    durability: Durability,
    snapshot: SnapshotKind,
) -> InitOptions {
    InitOptions {
        replicas: n,
        model,
        durability,
        limits: Limits {
            window: 16,
            mark_interval: 4,
            batch_bytes: 64 << 10,
            request_bytes: 64 << 10,
            ..Limits::default()
        },
        log: LogLimits { segment_mib: 2, bytes_max_mib: LOG_MIB, spare_segments: 1, ..LogLimits::default() },
        checkpoint: CheckpointLimits {
            period: 8 * u64::from(n),
            log_keep_mib: 0,
            snapshot,
            full_every: 1,
            ..CheckpointLimits::default()
        },
        ..InitOptions::default()
    }
}

pub(super) fn put(session: &Session, i: u32) {
    let (key, value) = ((i % KEYS).to_be_bytes(), vec![i as u8; VALUE_BYTES]);
    let operation = KvWrite::Put { key: &key, value: &value }.into_operation();
    let outcome = session.invoke(operation, Some(Duration::from_secs(30)));
    assert!(matches!(outcome, Outcome::Done(_)), "write {i}: {outcome:?}");
}

/// Writes `writes`. A replica that lacks more than the others' small logs keep could not catch up, so all are waited for now and then.
fn put_all(cluster: &Cluster, session: &Session, writes: std::ops::Range<u32>) {
    for i in writes {
        put(session, i);
        if i % 8 == 0 {
            let executed = || cluster.replicas.iter().flatten().map(|r| number(r, "executed"));
            let until = Instant::now() + Duration::from_secs(30);
            while executed().max() != executed().min() {
                let states: Vec<String> =
                    cluster.replicas.iter().flatten().map(Replica::status_json).collect();
                assert!(Instant::now() < until, "they do not get to one place:\n{}", states.join("\n"));
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Every key has what was written to it last, of writes `0..end`.
pub(super) fn check(client: &Client, end: u32) {
    for key in 0..KEYS {
        let last = (0..end).rev().find(|i| i % KEYS == key).expect("each key was written") as u8;
        let outcome = client.read(KvOperation::Get { key: &key.to_be_bytes() }.encode(), None);
        let Outcome::Done(reply) = outcome else { panic!("key {key}: {outcome:?}") };
        match KvReply::decode(&reply) {
            Ok(KvReply::Value(v)) => {
                assert!(v.len() == VALUE_BYTES && v.iter().all(|b| *b == last), "key {key}")
            }
            other => panic!("key {key}: {other:?}"),
        }
    }
}

pub(super) fn number(replica: &Replica, name: &str) -> u64 {
    let json = replica.status_json();
    let from = json.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    let digits = json[from + name.len() + 3..].chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or_else(|_| panic!("{name} in {json}"))
}

pub(super) fn checkpoints(cluster: &Cluster, i: u32) -> Vec<PathBuf> {
    let dir = data_dir::checkpoint_dir(&cluster.path(), &cluster.config, ReplicaId(i));
    let mut files: Vec<PathBuf> = dir.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.file_name().unwrap().to_string_lossy().starts_with("checkpoint-0"));
    files.sort();
    files
}

pub(super) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn bounded(model: FaultModel, n: u32, snapshot: SnapshotKind) {
    let mut cluster = cluster(model, n, Durability::Vote, snapshot);
    let client = cluster.client();
    let session = client.session();
    // Three times what the log may hold.
    let writes = ((3 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
    put_all(&cluster, &session, 0..writes);
    for (i, replica) in cluster.replicas.iter().enumerate() {
        let replica = replica.as_ref().expect("it runs");
        wait("the last recycling", || number(replica, "files_bytes") <= LOG_MIB << 20);
        assert!(number(replica, "segments_recycled") > 0, "{}", replica.status_json());
        assert!(number(replica, "written") >= 2);
        // One more is there for a moment.
        wait("the oldest is removed", || checkpoints(&cluster, i as u32).len() == 2);
    }
    // All go and come back: from a checkpoint and what is left of the log. The newest checkpoint of one of them is damaged.
    (0..n).for_each(|i| cluster.stop(i));
    let newest = checkpoints(&cluster, 0).pop().expect("two");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&newest, &bytes).unwrap();
    (0..n).for_each(|i| cluster.start(i));
    // It may have written one more at once.
    let read = |file: &PathBuf| std::fs::read(file).unwrap_or_default();
    assert!(checkpoints(&cluster, 0).iter().all(|file| read(file) != bytes), "the damaged one is left out");
    // f of the others stay away, so that the one with the damaged checkpoint is needed.
    cluster.stop(n - 1);
    let client = cluster.client();
    put(&client.session(), writes);
    check(&client, writes + 1);
    cluster.start(n - 1);
    let session = client.session();
    put_all(&cluster, &session, writes + 1..writes + 60);
    check(&client, writes + 60);
}

#[test]
fn a_crash_group_writes_more_than_its_log_holds() {
    bounded(FaultModel::Crash, 3, SnapshotKind::CopyOnWrite);
}

#[test]
fn a_byzantine_group_writes_more_than_its_log_holds() {
    bounded(FaultModel::Byzantine, 4, SnapshotKind::CopyOnWrite);
}

#[test]
fn execution_that_waits_for_the_checkpoint_ends_the_same() {
    bounded(FaultModel::Crash, 3, SnapshotKind::StopTheWorld);
}

#[test]
fn a_log_without_its_beginning_goes_on_from_others_state_without_a_checkpoint() {
    let mut cluster = cluster(FaultModel::Crash, 3, Durability::Vote, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    let writes = ((2 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
    put_all(&cluster, &session, 0..writes);
    let replica = cluster.replicas[1].as_ref().expect("it runs");
    wait("segments are recycled", || number(replica, "segments_recycled") > 0);
    cluster.stop(1);
    checkpoints(&cluster, 1).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    // Nor is there a way to the others' states: it is refused.
    let whole = cluster.config.clone();
    let mut settings = whole.settings().clone();
    settings.replicas[1].transfer = None;
    cluster.config = Config::new(settings).unwrap();
    let refused = Replica::start(cluster.options(1)).err().expect("nothing leads to where the log begins");
    assert!(matches!(refused, StartError::Restore { .. }), "{refused}");
    assert!(refused.to_string().contains("recover"), "{refused}");
    cluster.config = whole;
    cluster.start(1);
    wait("it takes no state over", || {
        number(cluster.replicas[1].as_ref().expect("it runs"), "installed") == 1
    });
    cluster.stop(2);
    put(&session, writes);
    check(&client, writes + 1);
}

#[test]
fn a_log_of_decisions_is_bounded_too() {
    let cluster = cluster(FaultModel::Crash, 3, Durability::Parallel, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    let writes = ((3 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
    put_all(&cluster, &session, 0..writes);
    for replica in cluster.replicas.iter().flatten() {
        assert!(number(replica, "segments_recycled") > 0, "{}", replica.status_json());
    }
    check(&client, writes);
}

#[test]
fn one_that_comes_back_without_durable_votes_goes_on_from_its_checkpoint() {
    let mut cluster = cluster(FaultModel::Crash, 3, Durability::Parallel, SnapshotKind::CopyOnWrite);
    let client = cluster.client();
    let session = client.session();
    let writes = ((2 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
    put_all(&cluster, &session, 0..writes);
    assert_eq!(checkpoints(&cluster, 2).len(), 2);
    cluster.stop(2);
    put(&session, writes);
    cluster.start(2);
    put_all(&cluster, &session, writes + 1..writes + 40);
    let replica = cluster.replicas[2].as_ref().expect("it runs");
    wait("its mark covers what it forgot", || replica.status_json().contains("\"forgetful\":false"));
    cluster.stop(1);
    put(&session, writes + 40);
    check(&client, writes + 41);
}

#[test]
fn a_log_that_fills_up_before_there_are_two_checkpoints_makes_room_by_itself() {
    for durability in [Durability::Vote, Durability::Parallel] {
        let mut options = options(FaultModel::Crash, 3, durability, SnapshotKind::CopyOnWrite);
        // No turn comes, and a checkpoint takes longer than the log takes to fill.
        options.checkpoint.period = 1 << 30;
        options.checkpoint.mib_per_second = 1;
        let cluster = Cluster::with(options);
        let client = cluster.client();
        let session = client.session();
        let writes = ((2 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
        for i in 0..writes {
            let (key, value) = ((i % KEYS).to_be_bytes(), vec![i as u8; VALUE_BYTES]);
            let operation = KvWrite::Put { key: &key, value: &value }.into_operation();
            let until = Instant::now() + Duration::from_secs(60);
            // Full is not for long.
            while !matches!(
                session.invoke(operation.clone(), Some(Duration::from_secs(60))),
                Outcome::Done(_)
            ) {
                let states: Vec<String> =
                    cluster.replicas.iter().flatten().map(Replica::status_json).collect();
                assert!(Instant::now() < until, "{durability}, write {i}:\n{}", states.join("\n"));
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        check(&client, writes);
        for replica in cluster.replicas.iter().flatten() {
            let status = || replica.status_json();
            wait("segments are recycled", || number(replica, "segments_recycled") > 0);
            assert!(number(replica, "written") >= 2 && status().contains(r#""halted":null"#), "{}", status());
        }
    }
}

#[test]
fn a_log_of_decisions_keeps_for_others_what_it_is_told_to() {
    let mut options = options(FaultModel::Crash, 3, Durability::Parallel, SnapshotKind::CopyOnWrite);
    let keep_mib = LOG_MIB / 2;
    options.checkpoint.log_keep_mib = keep_mib;
    // It never fills up: then it would let go of that, too.
    options.log.bytes_max_mib = 4 * LOG_MIB;
    let mut cluster = Cluster::with(options);
    let client = cluster.client();
    let session = client.session();
    let writes = ((3 * LOG_MIB) << 20) as u32 / VALUE_BYTES as u32;
    put_all(&cluster, &session, 0..writes);
    for i in 0..3 {
        let replica = cluster.replicas[i as usize].as_ref().expect("it runs");
        assert!(number(replica, "segments_recycled") > 0, "{}", replica.status_json());
        cluster.stop(i);
        let (mut bytes, mut first) = (0, None);
        let dir = data_dir::decisions_dir(&cluster.path(), ReplicaId(i));
        crate::durable::inspect(&dir, &mut |delivery| {
            first.get_or_insert(delivery.seq);
            bytes += delivery.body.len() as u64;
            Ok(())
        })
        .expect("it can be read");
        assert!(
            first > Some(Seq(1)) && bytes > (keep_mib - 1) << 20,
            "replica {i}: {bytes} from {first:?} on"
        );
    }
}

#[test]
fn a_group_of_which_little_changes_writes_that_and_comes_back_from_it() {
    let mut options = options(FaultModel::Crash, 3, Durability::Vote, SnapshotKind::CopyOnWrite);
    options.checkpoint.full_every = 4;
    let mut cluster = Cluster::with(options);
    let client = cluster.client();
    let session = client.session();
    (0..KEYS).for_each(|i| put(&session, i));
    // Two keys of forty, for some periods: fewer than both chains need to begin anew.
    let small = |i: &u32| *i < KEYS || i % KEYS < 2;
    let mut few = (KEYS..).filter(small).take(4_000);
    let state = u64::from(KEYS) * VALUE_BYTES as u64;
    let mut last = 0;
    // A replica whose period is too small for the disk goes by a larger one: each is seen with an increment sooner or later.
    let mut lie_on_others = [false; 3];
    while lie_on_others != [true; 3] {
        last = few.next().unwrap_or_else(|| panic!("increments of {lie_on_others:?} alone"));
        put(&session, last);
        for (seen, replica) in lie_on_others.iter_mut().zip(cluster.replicas.iter().flatten()) {
            *seen |= number(replica, "written") > 4 && number(replica, "files") > 2;
            assert!(number(replica, "disk_bytes") < 3 * state + (256 << 10), "{}", replica.status_json());
        }
    }
    (0..3).for_each(|i| cluster.stop(i));
    // The newest file of one, which others may lie under.
    let newest = checkpoints(&cluster, 0).pop().expect("some");
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[4096 + 100] ^= 4;
    std::fs::write(&newest, &bytes).unwrap();
    for i in 0..3 {
        let audit = super::audit(super::AuditOptions {
            config: cluster.config.clone(),
            dir: cluster.path(),
            id: ReplicaId(i),
            service: Box::new(crate::service::KeyValueStore::new()),
            from_beginning: false,
        });
        let audit = audit.expect("a log in order");
        assert!(audit.from.is_some() && audit.difference.is_none(), "{audit:?}");
    }
    (0..3).for_each(|i| cluster.start(i));
    assert!(!newest.exists() || std::fs::read(&newest).unwrap() != bytes, "the damaged one is left out");
    // The one with the damaged checkpoint is needed.
    cluster.stop(2);
    let client = cluster.client();
    put(&client.session(), last);
    for key in 0..KEYS {
        let outcome = client.read(KvOperation::Get { key: &key.to_be_bytes() }.encode(), None);
        let Outcome::Done(reply) = outcome else { panic!("key {key}: {outcome:?}") };
        let expected = (0..=last).rev().filter(small).find(|i| i % KEYS == key).expect("written") as u8;
        let value = KvReply::decode(&reply);
        assert!(matches!(&value, Ok(KvReply::Value(v)) if v[0] == expected), "key {key}");
    }
}

#[test]
fn a_group_that_starts_with_full_logs_and_no_checkpoints_makes_room_by_itself() {
    let mut options = options(FaultModel::Crash, 3, Durability::Vote, SnapshotKind::CopyOnWrite);
    options.checkpoint.period = 0;
    let mut cluster = Cluster::with(options);
    let client = cluster.client();
    let session = client.session();
    let mut i = 0;
    let full = |cluster: &Cluster| {
        cluster
            .replicas
            .iter()
            .flatten()
            .all(|r| r.status_json().contains("it is full, and takes no new work"))
    };
    while !full(&cluster) {
        let (key, value) = ((i % KEYS).to_be_bytes(), vec![i as u8; VALUE_BYTES]);
        let operation = KvWrite::Put { key: &key, value: &value }.into_operation();
        if !matches!(session.invoke(operation, Some(Duration::from_secs(10))), Outcome::Done(_)) {
            break;
        }
        i += 1;
    }
    assert!(u64::from(i) * VALUE_BYTES as u64 > (LOG_MIB << 20) / 4 * 3, "{i} writes do not fill the log");
    (0..3).for_each(|i| cluster.stop(i));
    let mut settings = cluster.config.clone().settings().clone();
    settings.checkpoint.period = 1 << 30;
    cluster.config = crate::config::Config::new(settings).expect("a configuration");
    (0..3).for_each(|i| cluster.start(i));
    let client = cluster.client();
    let session = client.session();
    for i in 0..KEYS {
        put(&session, i);
    }
    check(&client, KEYS);
    for replica in cluster.replicas.iter().flatten() {
        wait("segments are recycled", || number(replica, "segments_recycled") > 0);
    }
}
