//! Whole replicas, all of whose logs are damaged: each record is whole in one of them alone.

use super::checkpoint_tests::{number, wait};
use super::replica_tests::{Cluster, put_all};
use super::{AuditOptions, audit};
use crate::client::{Client, Outcome};
use crate::config::{Durability, LogLimits};
use crate::data_dir;
use crate::init::InitOptions;
use crate::log::inspect;
use crate::quorum::FaultModel;
use crate::service::{KeyValueStore, KvOperation, KvReply};
use crate::types::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Bytes of a record's header.
const HEADER_BYTES: u64 = 112;

/// A record that says what was voted on or decided.
struct Bulky {
    file: String,
    /// Of its payload.
    offset: u64,
    bytes: u64,
}

/// Those of a log that are known to be durable, by place and digest.
fn bulky(cluster: &Cluster, i: u32) -> BTreeMap<(Seq, Digest), Vec<Bulky>> {
    let dir = data_dir::log_dir(&cluster.path(), ReplicaId(i));
    let mut all = Vec::new();
    let report = inspect(&dir, &mut |at| {
        let r = at.record;
        if matches!(r.kind, 3 | 4 | 6) {
            let file = format!("segment-{:08}", at.segment);
            let (offset, bytes) = (at.offset + HEADER_BYTES, r.payload.len() as u64);
            all.push((r.lsn, (r.seq, r.digest), Bulky { file, offset, bytes }));
        }
        Ok(())
    });
    let durable = report.unwrap().durable_lsn;
    let mut by_place: BTreeMap<_, Vec<Bulky>> = BTreeMap::new();
    for (_, place, record) in all.into_iter().filter(|(lsn, ..)| *lsn <= durable) {
        by_place.entry(place).or_default().push(record);
    }
    by_place
}

/// Each record rots in all logs but one that has it: now its end, which is the batch's, now all of it. How many rotted in each.
fn damage(cluster: &Cluster, n: u32) -> Vec<u64> {
    let logs: Vec<_> = (0..n).map(|i| bulky(cluster, i)).collect();
    let mut damaged = vec![0; n as usize];
    for i in 0..n as usize {
        let dir = data_dir::log_dir(&cluster.path(), ReplicaId(i as u32));
        for (place, records) in &logs[i] {
            let holders: Vec<usize> = (0..n as usize).filter(|i| logs[*i].contains_key(place)).collect();
            if holders[place.0.0 as usize % holders.len()] == i {
                continue;
            }
            for record in records {
                let file = File::options().read(true).write(true).open(dir.join(&record.file)).unwrap();
                let from = if place.0.0 % 2 == 0 { 0 } else { record.bytes - 1 };
                let mut bytes = vec![0; (record.bytes - from) as usize];
                file.read_exact_at(&mut bytes, record.offset + from).unwrap();
                bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
                file.write_all_at(&bytes, record.offset + from).unwrap();
                file.sync_all().unwrap();
                damaged[i] += 1;
            }
        }
    }
    damaged
}

fn check(client: &Client, keys: std::ops::Range<u32>) {
    for key in keys {
        let outcome = client.read(KvOperation::Get { key: &key.to_be_bytes() }.encode(), None);
        let Outcome::Done(reply) = outcome else { panic!("key {key}: {outcome:?}") };
        assert!(matches!(KvReply::decode(&reply), Ok(KvReply::Value(_))), "key {key}");
    }
}

/// All have the same state at the same place.
fn digests_agree(cluster: &Cluster, client: &Client) {
    let of = |i: usize| {
        let json = client.status_with_digest(ReplicaId(i as u32), Some(Duration::from_secs(5))).ok()?;
        let from = json.find("\"digest_seq\":")?;
        let told = json[from..].split("\",").next()?;
        (!told.contains("null")).then(|| told.to_owned())
    };
    wait("their states are not equal", || {
        let all: Vec<_> = (0..cluster.replicas.len()).map(of).collect();
        all[0].is_some() && all.iter().all(|digest| *digest == all[0])
    });
}

fn helical(model: FaultModel, n: u32) {
    let log = LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() };
    let durability = Durability::Vote;
    let mut cluster =
        Cluster::with(InitOptions { replicas: n, model, durability, log, ..InitOptions::default() });
    let client = cluster.client();
    put_all(&client, 0..300);
    // Idle, each log says of its last records that they are durable.
    std::thread::sleep(Duration::from_millis(1500));
    (0..n).for_each(|i| cluster.stop(i));
    let damaged = damage(&cluster, n);
    println!("{model:?}: damaged {damaged:?}");
    assert!(damaged.iter().all(|records| *records > 50), "{damaged:?}");
    (0..n).for_each(|i| cluster.start(i));
    put_all(&client, 300..320);
    check(&client, 0..320);
    for (replica, damaged) in cluster.replicas.iter().flatten().zip(&damaged) {
        assert_eq!(number(replica, "damaged_records"), *damaged);
        wait("its log is not whole again", || number(replica, "repaired_records") == *damaged);
    }
    digests_agree(&cluster, &client);

    // The same damage is there once more, and needs nobody now.
    (0..n).for_each(|i| cluster.stop(i));
    (0..n).for_each(|i| cluster.start(i));
    put_all(&client, 320..340);
    check(&client, 0..340);
    for (replica, damaged) in cluster.replicas.iter().flatten().zip(&damaged) {
        assert_eq!(number(replica, "damaged_records"), *damaged);
        assert_eq!(number(replica, "repaired_records"), *damaged);
    }
    digests_agree(&cluster, &client);

    // What is executed from the logs alone is what a quorum signed.
    (0..n).for_each(|i| cluster.stop(i));
    for i in 0..n {
        let (config, dir, id) = (cluster.config.clone(), cluster.path(), ReplicaId(i));
        let service = Box::new(KeyValueStore::new());
        let audit = audit(AuditOptions { config, dir, id, service, from_beginning: true }).unwrap();
        assert_eq!((audit.difference, audit.executed), (None, audit.marked));
        assert!(audit.marks > 0);
    }
}

#[test]
fn a_byzantine_group_all_of_whose_logs_are_damaged_loses_nothing() {
    helical(FaultModel::Byzantine, 4);
}

#[test]
fn a_crash_group_all_of_whose_logs_are_damaged_loses_nothing() {
    helical(FaultModel::Crash, 3);
}

#[test]
fn a_replica_whose_log_is_damaged_where_nothing_makes_up_for_it_says_so_and_does_not_start() {
    let mut cluster = Cluster::with(InitOptions { replicas: 4, ..InitOptions::default() });
    let client = cluster.client();
    put_all(&client, 0..20);
    std::thread::sleep(Duration::from_millis(1500));
    cluster.stop(1);
    let dir = data_dir::log_dir(&cluster.path(), ReplicaId(1));
    let mut first = None;
    inspect(&dir, &mut |at| {
        if at.record.kind == 1 {
            first.get_or_insert((format!("segment-{:08}", at.segment), at.offset + HEADER_BYTES));
        }
        Ok(())
    })
    .unwrap();
    let (file, offset) = first.expect("a view was entered");
    File::options().write(true).open(dir.join(file)).unwrap().write_all_at(&[0xff], offset).unwrap();
    let refusal = super::Replica::start(cluster.options(1)).err().expect("it does not start").to_string();
    assert!(refusal.contains("damaged at byte") && refusal.contains("duramen recover"), "{refusal}");
}
