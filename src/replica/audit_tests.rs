//! Logs of whole replicas, executed again.

use super::replica_tests::{Cluster, put_all};
use super::{Audit, AuditOptions, Difference, StartError, audit};
use crate::config::{CheckpointLimits, Durability, Limits, LogLimits};
use crate::data_dir;
use crate::init::InitOptions;
use crate::log::LogError;
use crate::quorum::FaultModel;
use crate::service::{Context, KeyValueStore, QueryReply, RestoreError, Service, Snapshot};
use crate::types::*;

fn cluster(model: FaultModel, n: u32, durability: Durability) -> Cluster {
    Cluster::with(InitOptions {
        replicas: n,
        model,
        durability,
        limits: Limits { window: 16, mark_interval: 4, ..Limits::default() },
        log: LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() },
        checkpoint: CheckpointLimits { period: 8 * u64::from(n), ..CheckpointLimits::default() },
        ..InitOptions::default()
    })
}

fn replay(cluster: &Cluster, id: u32, from_beginning: bool) -> Result<Audit, StartError> {
    audit(AuditOptions {
        config: cluster.config.clone(),
        dir: cluster.path(),
        id: ReplicaId(id),
        service: Box::new(KeyValueStore::new()),
        from_beginning,
    })
}

#[test]
fn a_log_executed_again_comes_to_the_replies_that_a_quorum_signed() {
    for (model, n, durability) in [
        (FaultModel::Byzantine, 4, Durability::Vote),
        (FaultModel::Crash, 3, Durability::Vote),
        (FaultModel::Crash, 3, Durability::Parallel),
    ] {
        let mut cluster = cluster(model, n, durability);
        put_all(&cluster.client(), 0..120);
        // Whoever runs has its log to itself.
        assert!(
            matches!(replay(&cluster, 0, false), Err(StartError::Log(LogError::Locked(_)))),
            "{model:?}: the log is in use"
        );
        (0..n).for_each(|i| cluster.stop(i));
        let folder = data_dir::replica_dir(&cluster.path(), ReplicaId(1));
        let before = files(&folder);
        let whole = replay(&cluster, 1, true).unwrap();
        assert_eq!((whole.difference.clone(), whole.from), (None, None), "{model:?} {durability}");
        assert!(whole.marks >= 5 && whole.operations >= 100, "{whole:?}");
        assert_eq!(whole.places, whole.executed.0);
        // From a checkpoint there is less to do, and the end is the same.
        let short = replay(&cluster, 1, false).unwrap();
        assert!(short.from.is_some() && short.places < whole.places && short.marks > 0, "{short:?}");
        assert_eq!((short.executed, short.digest, short.difference), (whole.executed, whole.digest, None));
        assert!(files(&folder) == before, "{model:?}: something changed on disk");
    }
}

/// Every file and its bytes.
fn files(dir: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in dir.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => all.extend(files(&entry)),
            false => all.push((entry.clone(), std::fs::read(&entry).unwrap())),
        }
    }
    all.sort();
    all
}

/// The store, but for one reply.
struct Slip {
    store: KeyValueStore,
    left: u32,
}

impl Service for Slip {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> bytes::Bytes {
        self.left = self.left.wrapping_sub(1);
        let reply = self.store.execute(context, operation);
        if self.left == 0 { bytes::Bytes::from_static(b"slip") } else { reply }
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        self.store.query(operation)
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.store.snapshot()
    }

    fn restore(&mut self, from: &mut dyn std::io::Read) -> Result<(), RestoreError> {
        self.store.restore(from)
    }

    fn digest(&self, algorithm: DigestAlgorithm) -> Digest {
        self.store.digest(algorithm)
    }
}

#[test]
fn one_reply_that_is_another_is_found_at_the_next_mark() {
    let mut cluster = cluster(FaultModel::Byzantine, 4, Durability::Vote);
    put_all(&cluster.client(), 0..60);
    (0..4).for_each(|i| cluster.stop(i));
    let slipped = |left| {
        audit(AuditOptions {
            config: cluster.config.clone(),
            dir: cluster.path(),
            id: ReplicaId(2),
            service: Box::new(Slip { store: KeyValueStore::new(), left }),
            from_beginning: true,
        })
        .unwrap()
    };
    let (early, late, never) = (slipped(5), slipped(30), slipped(1000));
    let place = |audit: &Audit| match audit.difference {
        Some(Difference::Replies { seq, signed, found }) if signed != found => seq.0,
        ref other => panic!("{other:?}"),
    };
    assert!(place(&early).is_multiple_of(4) && place(&early) < place(&late), "{early:?} {late:?}");
    assert_eq!(early.executed.0, place(&early), "nothing behind it is executed");
    assert_eq!(never.difference, None);
}
