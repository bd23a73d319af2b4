//! Full disks: what waits for space, what says so, and that it goes on by itself.

use super::checkpoint_stage::{CheckpointStage, Taken, ToCheckpoint};
use super::replica_tests::{Cluster, put, put_all, until};
use super::shared::Shared;
use super::stages::ToOrder;
use crate::checkpoint::increments::Increments;
use crate::checkpoint::pacer::Pacer;
use crate::checkpoint::schedule::{Schedule, Turns};
use crate::checkpoint::store::Store;
use crate::checkpoint::stretch::Stretch;
use crate::client::Outcome;
use crate::config::{Durability, Limits, LogLimits};
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::init::InitOptions;
use crate::log::storage::Disk;
use crate::log::test_disk::{FailingDisk, Fault, Image, MemoryDisk};
use crate::quorum::{FaultModel, Group as Members};
use crate::service::{Context, KeyValueStore, KvWrite, Service};
use crate::types::*;
use crate::wire::batch::Hasher;
use crossbeam::channel::{Sender, unbounded};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([3; 16]);

/// A checkpoint stage over a disk, and where its messages go.
fn stage(disk: Arc<dyn Disk>, shared: &Arc<Shared>) -> (CheckpointStage, Sender<ToCheckpoint>) {
    let store = Store::on(disk, PathBuf::from("checkpoints")).unwrap();
    let (to_checkpoint, inbox) = unbounded();
    let schedule = Schedule::new(Turns::Synchronized, 8, 3, ReplicaId(0), 4).unwrap();
    let stage = CheckpointStage {
        store,
        cluster: CLUSTER,
        me: ReplicaId(0),
        members: Members::new(FaultModel::Crash, 3, 1).unwrap(),
        schedule,
        increments: Increments::new(8, DigestAlgorithm::Blake3),
        pacer: Pacer::new(0),
        stretch: Stretch::new(schedule),
        inbox,
        waiting: Default::default(),
        to_order: unbounded::<ToOrder>().0,
        to_transfer: None,
        shared: shared.clone(),
    };
    (stage, to_checkpoint)
}

/// Place 8, with so many values of 64 KiB.
fn executor(values: u32) -> Executor {
    let mut service: Box<dyn Service> = Box::new(KeyValueStore::new());
    let context = Context {
        seq: Seq(8),
        index: 0,
        time: WallTime(1),
        seed: 0,
        client: ClientId(1),
        session: SessionId(1),
    };
    for key in 0..values {
        let write = KvWrite::Put { key: &key.to_le_bytes(), value: &[1; 64 << 10] };
        service.execute(&context, &write.into_operation());
    }
    let hasher = Hasher { cluster: CLUSTER, algorithm: DigestAlgorithm::Blake3 };
    let table = ClientTable::new(ClientTableLimits::default());
    Executor::resumed(service, table, hasher, Seq(8), WallTime(1), Digest([5; 32]))
}

#[test]
fn a_replica_that_is_to_stop_does_not_wait_for_the_checkpoint_that_it_is_writing() {
    let shared = Arc::new(Shared::default());
    let (stage, to_checkpoint) = stage(Arc::new(MemoryDisk::default()), &shared);
    shared.stopping.store(true, Ordering::Relaxed);
    let thread = std::thread::spawn(move || stage.run());
    // Some chunks.
    let taken = Taken { frozen: executor(100).freeze(), written: None };
    to_checkpoint.send(ToCheckpoint::Taken(Box::new(taken))).unwrap();
    until("it writes on", || thread.is_finished());
    assert_eq!(shared.checkpoints.lock().written, 0);
}

#[test]
fn a_checkpoint_that_finds_no_space_is_written_when_there_is_some() {
    let disk = Arc::new(MemoryDisk::new(Image::from([("other".to_owned(), vec![0; 4096])])));
    let shared = Arc::new(Shared::default());
    let (stage, to_checkpoint) = stage(disk.clone(), &shared);
    disk.fill_up();
    shared.checkpointing.store(true, Ordering::Release);
    let thread = std::thread::spawn(move || stage.run());
    let executor = executor(1);
    // Who waits for a stop-the-world checkpoint waits for the disk, not for an operator.
    let (written, ended) = crate::sync::channel::work();
    let taken = Taken { frozen: executor.freeze(), written: Some(written) };
    to_checkpoint.send(ToCheckpoint::Taken(Box::new(taken))).unwrap();
    to_checkpoint.send(ToCheckpoint::Covered { seq: Seq(8), batches: Digest([6; 32]) }).unwrap();
    until("no alarm", || shared.alarms().iter().any(|alarm| alarm.contains("checkpoint: No space")));
    assert!(ended.within(Duration::from_secs(10)), "execution is held up");
    assert!(shared.checkpointing.load(Ordering::Acquire) && shared.checkpoints.lock().written == 0);
    disk.make_space();
    until("it is not written", || shared.checkpoints.lock().written == 1);
    assert_eq!((shared.alarms(), shared.checkpoints.lock().kept.clone()), (Vec::new(), vec![Seq(8)]));
    to_checkpoint.send(ToCheckpoint::Stop).unwrap();
    thread.join().unwrap();
}

/// Writes the checkpoint of place 8 to a disk of which so many calls fail from call `at` on. The calls until the stage began, and all.
fn calls_of_a_checkpoint(at: usize, times: usize) -> [usize; 2] {
    let (fault, shared) = (Fault::new(at, times, libc::EIO), Arc::new(Shared::default()));
    let disk = FailingDisk::over(Arc::new(MemoryDisk::default()), fault.clone());
    let (stage, to_checkpoint) = stage(disk, &shared);
    let begun = fault.calls();
    let thread = std::thread::spawn(move || stage.run());
    let taken = Taken { frozen: executor(1).freeze(), written: None };
    to_checkpoint.send(ToCheckpoint::Taken(Box::new(taken))).unwrap();
    to_checkpoint.send(ToCheckpoint::Covered { seq: Seq(8), batches: Digest([6; 32]) }).unwrap();
    until(&format!("call {at} lost it"), || shared.checkpoints.lock().written == 1);
    assert_eq!((shared.alarms(), shared.checkpoints.lock().kept.clone()), (Vec::new(), vec![Seq(8)]));
    to_checkpoint.send(ToCheckpoint::Stop).unwrap();
    thread.join().unwrap();
    [begun, fault.calls()]
}

#[test]
fn whatever_of_a_checkpoint_fails_it_is_tried_again() {
    let [begun, all] = calls_of_a_checkpoint(usize::MAX, 0);
    assert!(all > begun + 5, "{begun} {all}");
    std::thread::scope(|scope| {
        (begun..all).for_each(|at| _ = scope.spawn(move || calls_of_a_checkpoint(at, 1 + at % 2)));
    });
}

/// A small file system in memory; gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// `None`: this machine does not let us.
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let size = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte.
    fn fill_up(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let zeros = vec![0; 64 << 10];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_group_whose_disks_are_full_stops_taking_work_says_so_and_goes_on_when_there_is_space() {
    for durability in [Durability::Vote, Durability::Parallel] {
        let Some(small) = Small::mount(160) else {
            eprintln!("no file system can be mounted here: nothing is tested");
            return;
        };
        let log = LogLimits { segment_mib: 2, bytes_max_mib: 64, spare_segments: 1, ..LogLimits::default() };
        let limits = Limits { batch_bytes: 64 << 10, request_bytes: 64 << 10, ..Limits::default() };
        let (replicas, model) = (3, FaultModel::Crash);
        let options = InitOptions { replicas, model, durability, limits, log, ..InitOptions::default() };
        let cluster = Cluster::within(small.path(), options);
        let client = cluster.client();
        put_all(&client, 0..10);
        let filler = small.fill_up();
        // What the last segments still take is taken; then nobody answers, and nobody is replaced for that.
        let session = client.session();
        let alarmed = || {
            let all: Vec<String> = cluster.replicas.iter().flatten().map(|r| r.status_json()).collect();
            all.iter().any(|json| json.contains("it is full, and takes no new work"))
                && all.iter().any(|json| json.contains("no spare segment can be made: No space left"))
        };
        let mut key = 10;
        until("the log takes more than there is space, or no replica says that it is full", || {
            for _ in 0..200 {
                key += 1;
                let _ = session.submit(put(key), None, |_| {});
            }
            alarmed()
        });
        let late = client.session();
        let outcome = late.invoke(put(9), Some(Duration::from_secs(2)));
        assert!(!matches!(outcome, Outcome::Done(_)), "{durability}: work is taken without room for it");
        std::fs::remove_file(filler).unwrap();
        until("no work is taken although there is space", || {
            matches!(client.session().invoke(put(9), Some(Duration::from_secs(20))), Outcome::Done(_))
        });
        until("the alarms stay", || {
            cluster.replicas.iter().flatten().all(|r| r.status_json().contains(r#""alarms":[],"#))
        });
        assert!(cluster.replicas.iter().flatten().all(|r| r.status_json().contains(r#""halted":null"#)));
    }
}
