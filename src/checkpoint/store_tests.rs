//! Files of checkpoints: what was written is read, and whatever happens two of them are there.

use super::file::{CheckpointError, Head};
use super::frozen::{Frozen, resume, thaw};
use super::store::Store;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::log::storage::Disk;
use crate::log::test_disk::{FailingDisk, Fault, MemoryDisk};
use crate::quorum::{FaultModel, Group as Members};
use crate::service::{KeyValueStore, KvOperation, KvWrite, NullService, Service};
use crate::types::*;
use crate::wire::batch::Hasher;
use std::path::PathBuf;
use std::sync::Arc;

const CLUSTER: ClusterId = ClusterId([9; 16]);

fn members() -> Members {
    Members::new(FaultModel::Crash, 3, 1).expect("3 bear 1")
}

fn hasher() -> Hasher {
    Hasher { cluster: CLUSTER, algorithm: DigestAlgorithm::Blake3 }
}

/// A store with keys `0..keys`, values of `bytes`, and an open session with a kept reply.
fn executor(seq: u64, keys: u32, bytes: usize) -> Executor {
    let mut service: Box<dyn Service> = Box::new(KeyValueStore::default());
    let context = crate::service::Context {
        seq: Seq(seq),
        index: 0,
        time: WallTime(1),
        seed: 0,
        client: ClientId(1),
        session: SessionId(1),
    };
    for key in 0..keys {
        let (key, value) = (key.to_le_bytes(), vec![(key as u64 + seq) as u8; bytes]);
        service.execute(&context, &KvOperation::Write(KvWrite::Put { key: &key, value: &value }).encode());
    }
    let mut table = ClientTable::new(ClientTableLimits::default());
    let session = table.open(ClientId(1), 77, Seq(1), 0);
    table.store(session, RequestNumber(1), Seq(1), bytes::Bytes::from_static(b"reply"));
    Executor::resumed(service, table, hasher(), Seq(seq), WallTime(5), Digest([seq as u8; 32]))
}

fn on(disk: Arc<dyn Disk>) -> std::io::Result<Store> {
    Store::on(disk, PathBuf::from("checkpoints"))
}

fn head(frozen: &Frozen, layout: super::frozen::Layout, body_bytes: u64) -> Head {
    Head {
        cluster: CLUSTER,
        replica: ReplicaId(2),
        members: members(),
        seq: frozen.seq,
        batches: Digest([7; 32]),
        replies: frozen.replies,
        time: frozen.time,
        pages: layout.pages,
        table_bytes: layout.table_bytes,
        header_bytes: layout.header_bytes,
        body_bytes,
    }
}

fn put(store: &mut Store, executor: &Executor) -> std::io::Result<Digest> {
    let frozen = executor.freeze();
    let (body, layout) = store.write(frozen.bytes(), &mut |_| Ok(()), |out| frozen.write_to(out))?;
    let head = head(&frozen, layout, body.bytes());
    store.seal(body, &head)
}

fn get(store: &Store, seq: u64) -> Result<Executor, CheckpointError> {
    let opened = store.read(Seq(seq), CLUSTER, members())?;
    let mut service: Box<dyn Service> = Box::new(KeyValueStore::default());
    let table = thaw(&opened, &mut service, ClientTableLimits::default())?;
    Ok(resume(&opened, service, table, hasher()))
}

#[test]
fn what_was_frozen_is_read_back_page_by_page() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    // Nothing, less than a chunk, several chunks.
    for (seq, keys, bytes) in [(4, 0, 0), (8, 10, 100), (12, 600, 9000)] {
        let before = executor(seq, keys, bytes);
        let root = put(&mut store, &before).expect("room");
        let after = get(&store, seq).expect("whole");
        assert_eq!(after.digest(), before.digest(), "place {seq}");
        assert_eq!((after.executed(), after.time()), (Seq(seq), WallTime(5)));
        assert_eq!(after.progress().collect::<Vec<_>>(), before.progress().collect::<Vec<_>>());
        let (a, b) = (before.service().snapshot(), after.service().snapshot());
        let root_of =
            |s: &dyn crate::service::Snapshot| s.pages().map(|p| p.root(DigestAlgorithm::Blake3, None));
        assert_eq!(root_of(&*a), root_of(&*b));
        assert_eq!(store.read(Seq(seq), CLUSTER, members()).expect("whole").root, root);
    }
    assert_eq!(store.kept(), [Seq(8), Seq(12)], "two generations");
    assert_eq!(on(memory).expect("the same").kept(), [Seq(8), Seq(12)]);
}

#[test]
fn a_service_without_pages_is_one_string_of_bytes() {
    let mut store = on(Arc::new(MemoryDisk::default())).expect("an empty directory");
    let table = ClientTable::new(ClientTableLimits::default());
    let executor = Executor::resumed(
        Box::new(NullService::default()),
        table,
        hasher(),
        Seq(4),
        WallTime(5),
        Digest::ZERO,
    );
    put(&mut store, &executor).expect("room");
    let opened = store.read(Seq(4), CLUSTER, members()).expect("whole");
    assert_eq!(opened.head.pages, None);
    let mut service: Box<dyn Service> = Box::new(NullService::default());
    thaw(&opened, &mut service, ClientTableLimits::default()).expect("its own bytes");
    // Another service's state is refused, whatever it is made of.
    let mut other: Box<dyn Service> = Box::new(KeyValueStore::default());
    assert!(matches!(
        thaw(&opened, &mut other, ClientTableLimits::default()),
        Err(CheckpointError::State(_))
    ));
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    put(&mut store, &executor(4, 300, 5000)).expect("room");
    let file = memory.open(&format!("checkpoint-{:020}", 4)).expect("it has its name");
    let mut whole = crate::log::AlignedBuffer::new(file.bytes() as usize);
    file.read(&mut whole, 0).expect("all of it");
    let opened = store.read(Seq(4), CLUSTER, members()).expect("whole");
    let body_end = 4096 + opened.head.body_bytes as usize;
    let padded = body_end.next_multiple_of(4096);
    let list_end = padded + 32 * opened.head.body_bytes.div_ceil(1 << 20) as usize;
    let meaning = |at: usize| at < body_end || (padded..list_end).contains(&at);
    let places =
        (0..260).chain((260..whole.len()).step_by(997)).chain(padded..list_end).filter(|at| meaning(*at));
    for at in places {
        let mut bad = whole.to_vec();
        bad[at] ^= 1 << (at % 8);
        let name = format!("checkpoint-{:020}", 4);
        let store = on(Arc::new(MemoryDisk::new([(name, bad)].into()))).expect("a directory");
        let read = get(&store, 4).map(drop);
        assert!(matches!(read, Err(CheckpointError::Damaged(_))), "byte {at}: {read:?}");
    }
    // Cut short anywhere.
    for length in (0..list_end).step_by(4096) {
        let name = format!("checkpoint-{:020}", 4);
        let store =
            on(Arc::new(MemoryDisk::new([(name, whole[..length].to_vec())].into()))).expect("a directory");
        assert!(matches!(get(&store, 4).map(drop), Err(CheckpointError::Damaged(_))), "cut at {length}");
    }
}

#[test]
fn a_checkpoint_of_something_else_is_not_taken() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    put(&mut store, &executor(4, 3, 10)).expect("room");
    let foreign = |cluster, members| {
        let read = store.read(Seq(4), cluster, members).map(drop);
        matches!(read, Err(CheckpointError::Foreign(_)))
    };
    assert!(foreign(ClusterId([1; 16]), members()));
    assert!(foreign(CLUSTER, Members::new(FaultModel::Byzantine, 4, 1).expect("4 bear 1")));
    memory.rename(&format!("checkpoint-{:020}", 4), &format!("checkpoint-{:020}", 8)).expect("a new name");
    let renamed = on(memory).expect("a directory");
    assert!(matches!(renamed.read(Seq(8), CLUSTER, members()).map(drop), Err(CheckpointError::Foreign(_))));
}

#[test]
fn two_checkpoints_are_there_whatever_operation_is_the_last() {
    let mut calls = 0;
    loop {
        let memory = Arc::new(MemoryDisk::default());
        let mut store = on(memory.clone()).expect("an empty directory");
        put(&mut store, &executor(4, 20, 100)).expect("room");
        put(&mut store, &executor(8, 20, 100)).expect("room");
        let fault = Fault::new(calls, usize::MAX, libc::EIO);
        let failing = on(FailingDisk::over(memory.clone(), fault));
        let done = failing.and_then(|mut store| put(&mut store, &executor(12, 500, 6000)));
        let mut left = on(memory.clone()).expect("a directory");
        let kept = left.kept().to_vec();
        assert!(kept.len() >= 2, "{kept:?} after {calls} calls");
        for seq in &kept {
            get(&left, seq.0).unwrap_or_else(|e| panic!("place {seq} after {calls} calls: {e}"));
        }
        assert!(!memory.list().expect("names").iter().any(|n| n == "checkpoint.new"), "left behind");
        // Life goes on.
        put(&mut left, &executor(16, 20, 100)).expect("room");
        assert_eq!(left.kept().last(), Some(&Seq(16)));
        assert_eq!(left.kept().len(), 2);
        if done.is_ok() {
            // What cannot be removed stays for the next time.
            assert_eq!(kept.last(), Some(&Seq(12)));
            if kept.len() == 2 {
                break;
            }
        }
        calls += 1;
    }
    assert!(calls > 8, "{calls} operations");
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    put(&mut store, &executor(4, 20, 100)).expect("room");
    let mut full =
        on(FailingDisk::over(memory.clone(), Fault::of_creates(0, 1, libc::ENOSPC))).expect("a directory");
    let refused = put(&mut full, &executor(8, 20, 100)).expect_err("no room");
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    put(&mut full, &executor(12, 20, 100)).expect("room again");
    assert_eq!(full.kept(), [Seq(4), Seq(12)]);
}

#[test]
fn a_damaged_one_is_left_out_and_does_not_push_out_the_good_one() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    put(&mut store, &executor(4, 20, 100)).expect("room");
    put(&mut store, &executor(8, 20, 100)).expect("room");
    store.discard(Seq(8)).expect("a new name");
    assert_eq!(store.kept(), [Seq(4)]);
    put(&mut store, &executor(12, 20, 100)).expect("room");
    assert_eq!(store.kept(), [Seq(4), Seq(12)]);
    assert!(!memory.list().expect("names").iter().any(|n| n.starts_with("damaged")));
}
