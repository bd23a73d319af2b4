//! Files of checkpoints: what was written is read, and whatever happens two of them are there.

use super::file::{CheckpointError, Head};
use super::frozen::{Frozen, resume, thaw};
use super::increments::{Extent, Increments};
use super::store::Store;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::log::storage::Disk;
use crate::log::test_disk::{FailingDisk, Fault, MemoryDisk};
use crate::quorum::{FaultModel, Group as Members};
use crate::service::{KeyValueStore, KvOperation, KvWrite, NullService, Service, Snapshot};
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
        previous: None,
    }
}

fn put(store: &mut Store, executor: &Executor) -> std::io::Result<Digest> {
    put_with(&mut Increments::new(1, DigestAlgorithm::Blake3), store, executor).map(|(root, _)| root)
}

/// Writes what is needed; gives the root, and how many pages were written where not all were.
fn put_with(
    increments: &mut Increments,
    store: &mut Store,
    executor: &Executor,
) -> std::io::Result<(Digest, Option<u64>)> {
    let frozen = executor.freeze();
    let (extent, digests) =
        increments.plan(frozen.state.pages(), Snapshot::bytes(&frozen.table), store.older_files());
    let (body, layout) =
        store.write(frozen.bytes(&extent), &mut |_| Ok(()), |out| frozen.write_to(&extent, out))?;
    let mut head = head(&frozen, layout, body.bytes());
    if let (Extent::Changed { since, .. }, Some(changed)) = (&extent, layout.changed) {
        head.previous = Some(store.previous(*since, changed).expect("it is there"));
    }
    let root = store.seal(body, &head)?;
    increments.stored(frozen.seq, digests, store.kept());
    Ok((root, layout.changed))
}

/// The same replica some places later: `keys` of its values are others.
fn later(executor: &Executor, seq: u64, keys: std::ops::Range<u32>) -> Executor {
    let frozen = executor.freeze();
    let mut bytes = Vec::new();
    let pages = frozen.state.pages().expect("it has pages");
    let mut source = |index| {
        bytes.clear();
        Ok(pages.page(index, &mut bytes).then(|| bytes.clone()))
    };
    let mut service: Box<dyn Service> = Box::new(KeyValueStore::default());
    service.restore_pages(&pages.header(), pages.page_count(), &mut source).expect("its own pages");
    let context = crate::service::Context {
        seq: Seq(seq),
        index: 0,
        time: WallTime(1),
        seed: 0,
        client: ClientId(1),
        session: SessionId(1),
    };
    for key in keys {
        let (key, value) = (key.to_le_bytes(), vec![seq as u8; 300]);
        let write = match seq % 3 {
            0 => KvWrite::Delete { key: &key },
            _ => KvWrite::Put { key: &key, value: &value },
        };
        service.execute(&context, &KvOperation::Write(write).encode());
    }
    Executor::resumed(service, frozen.table, hasher(), Seq(seq), WallTime(5), Digest([seq as u8; 32]))
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
        let root_of = |s: &dyn Snapshot| s.pages().map(|p| p.root(DigestAlgorithm::Blake3, None));
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
fn one_of_a_later_format_is_left_alone() {
    let name = format!("checkpoint-{:020}", 4);
    let memory = Arc::new(MemoryDisk::default());
    put(&mut on(memory.clone()).expect("an empty directory"), &executor(4, 3, 10)).expect("room");
    // A format with a longer head.
    let mut bytes = memory.image()[&name].clone();
    bytes[8] = 3;
    bytes[250] = 1;
    bytes[224..228].fill(9);
    let crc = crc32c::crc32c(&bytes[..300]);
    bytes[300..304].copy_from_slice(&crc.to_le_bytes());
    let read = |bytes: &[u8]| {
        let image = [(name.clone(), bytes.to_vec())].into();
        get(&on(Arc::new(MemoryDisk::new(image))).expect("a directory"), 4).map(drop)
    };
    let later = read(&bytes);
    assert!(matches!(&later, Err(CheckpointError::Foreign(why)) if why.contains("format 3")), "{later:?}");
    bytes[20] ^= 1;
    assert!(matches!(read(&bytes), Err(CheckpointError::Damaged(_))));
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

/// Twelve checkpoints of one replica of which little changes; what was written, and the state of each.
fn chains(store: &mut Store, full_every: u32) -> (Increments, Vec<Executor>, Vec<Option<u64>>) {
    let mut increments = Increments::new(full_every, DigestAlgorithm::Blake3);
    let (mut states, mut written) = (vec![executor(4, 3000, 60)], Vec::new());
    for i in 1..=12u32 {
        let now = states.last().expect("the first");
        let (_, changed) = put_with(&mut increments, store, now).expect("room");
        written.push(changed);
        // Now and then the tree grows, too.
        let keys = match (i % 4, i % 5) {
            (_, 0) => 5000 + i..5002 + i,
            (0, _) => i * 17..i * 17 + 3,
            _ => i * 17..i * 17 + 1,
        };
        states.push(later(now, 4 + 4 * u64::from(i), keys));
    }
    (increments, states, written)
}

fn same(read: &Executor, written: &Executor) {
    assert_eq!(read.digest(), written.digest());
    let root = |e: &Executor| e.service().snapshot().pages().map(|p| p.root(DigestAlgorithm::Blake3, None));
    assert_eq!(root(read), root(written), "the layout, too");
}

#[test]
fn only_pages_that_changed_since_the_last_but_one_are_written_and_all_of_them_now_and_then() {
    let memory = Arc::new(MemoryDisk::default());
    let mut store = on(memory.clone()).expect("an empty directory");
    let (_, states, written) = chains(&mut store, 4);
    let full: Vec<bool> = written.iter().map(Option::is_none).collect();
    let (f, i) = (true, false);
    assert_eq!(full, [f, f, i, i, i, i, i, i, f, f, i, i], "two chains of four files, in turn: {written:?}");
    assert!(written.iter().flatten().all(|pages| *pages < 12), "{written:?}");
    // Only what the two checkpoints are made of is there.
    assert_eq!(store.kept(), [Seq(44), Seq(48)]);
    assert_eq!(store.size().0, 4);
    let again = on(memory.clone()).expect("the same");
    assert_eq!((again.kept(), again.size()), (store.kept(), store.size()));
    for (at, seq) in [(10, 44), (11, 48)] {
        same(&get(&again, seq).expect("whole"), &states[at]);
    }
    // Both chains: each one state and a half at most.
    let bytes: usize = memory.image().values().map(Vec::len).sum();
    let state = executor(4, 3000, 60).freeze().bytes(&Extent::All) as usize;
    assert!(bytes < 3 * state + 8 * 4096, "{bytes} bytes for a state of {state}");
}

#[test]
fn much_that_changed_is_written_as_all_pages() {
    let mut store = on(Arc::new(MemoryDisk::default())).expect("an empty directory");
    let mut increments = Increments::new(8, DigestAlgorithm::Blake3);
    let mut state = executor(4, 900, 300);
    let mut written = Vec::new();
    // A quarter of the keys each time: two of them fit into a half of the first, not quite three.
    for i in 0..8u32 {
        written.push(put_with(&mut increments, &mut store, &state).expect("room").1.is_some());
        state = later(&state, 8 + 4 * u64::from(i), 0..140);
    }
    assert!(written[2] && !written[..2].contains(&true), "{written:?}");
    assert!(written[4..].contains(&false), "increments add up to half of a state: {written:?}");
    // After a start nothing is known of what is there.
    let mut fresh = Increments::new(8, DigestAlgorithm::Blake3);
    assert_eq!(put_with(&mut fresh, &mut store, &state).expect("room").1, None);
}

#[test]
fn damage_in_any_file_of_one_checkpoint_leaves_the_other() {
    let memory = Arc::new(MemoryDisk::default());
    let (_, states, _) = chains(&mut on(memory.clone()).expect("an empty directory"), 8);
    let image = memory.image();
    assert_eq!(image.len(), 12, "two chains");
    for damaged in image.keys() {
        for missing in [false, true] {
            let mut image = image.clone();
            let file = image.get_mut(damaged).expect("it is there");
            let middle = file.len() / 2;
            file[middle.min(4096 + 64)] ^= 8;
            if missing {
                image.remove(damaged);
            }
            let memory = Arc::new(MemoryDisk::new(image));
            let mut store = on(memory.clone()).expect("a directory");
            let seqs = [(10, 44), (11, 48)];
            let good: Vec<(usize, u64)> =
                seqs.into_iter().filter(|(_, seq)| get(&store, *seq).is_ok()).collect();
            assert_eq!(good.len(), 1, "{damaged}, missing: {missing}");
            let (at, seq) = good[0];
            same(&get(&store, seq).expect("whole"), &states[at]);
            // What is left out takes nothing along that the other needs, and the next two are good.
            let bad = if seq == 44 { 48 } else { 44 };
            if store.kept().contains(&Seq(bad)) {
                store.discard(Seq(bad)).expect("new names");
            }
            same(&get(&store, seq).expect("still whole"), &states[at]);
            for next in [52, 56] {
                put(&mut store, &executor(next, 20, 100)).expect("room");
            }
            assert_eq!(store.kept(), [Seq(52), Seq(56)]);
            assert_eq!(memory.list().expect("names").len(), 2, "nothing is left of the old ones");
        }
    }
}

#[test]
fn a_file_does_not_build_on_another_than_it_was_written_on() {
    let name = |seq| format!("checkpoint-{seq:020}");
    let memory = Arc::new(MemoryDisk::default());
    let (_, _, _) = chains(&mut on(memory.clone()).expect("an empty directory"), 8);
    let mut image = memory.image();
    // A good checkpoint of the right place and another state.
    let other = Arc::new(MemoryDisk::default());
    put(&mut on(other.clone()).expect("an empty directory"), &executor(8, 10, 10)).expect("room");
    image.insert(name(8), other.image()[&name(8)].clone());
    let store = on(Arc::new(MemoryDisk::new(image))).expect("a directory");
    assert!(get(&store, 44).is_ok());
    assert!(matches!(get(&store, 48), Err(CheckpointError::Damaged("chain"))));
}

#[test]
fn two_checkpoints_are_there_whatever_operation_is_the_last_of_one_with_changed_pages() {
    // The last checkpoint builds on others, or begins a chain anew, whose old files go.
    for full_every in [4, 6, 32] {
        let mut calls = 0;
        loop {
            let memory = Arc::new(MemoryDisk::default());
            let mut store = on(memory.clone()).expect("an empty directory");
            let (mut increments, states, _) = chains(&mut store, full_every);
            let kept = store.kept().to_vec();
            let fault = Fault::new(calls, usize::MAX, libc::EIO);
            let done = on(FailingDisk::over(memory.clone(), fault.clone()))
                .and_then(|mut store| put_with(&mut increments, &mut store, &states[12]));
            let mut left = on(memory.clone()).expect("a directory");
            let two = &left.kept()[left.kept().len() - 2..];
            let expected = [[kept[0], kept[1]], [kept[1], Seq(52)]];
            assert!(expected.iter().any(|e| e == two), "{two:?} after {calls} calls");
            for seq in two {
                let read = get(&left, seq.0);
                let read = read.unwrap_or_else(|e| panic!("place {seq} after {calls} calls: {e}"));
                same(&read, &states[seq.0 as usize / 4 - 1]);
            }
            // Life goes on.
            put(&mut left, &executor(56, 20, 100)).expect("room");
            put(&mut left, &executor(60, 20, 100)).expect("room");
            assert_eq!(memory.list().expect("names").len(), 2, "after {calls} calls");
            if fault.calls() <= calls {
                done.expect("nothing failed");
                break;
            }
            calls += 1;
        }
        assert!(calls > 12, "{calls} operations");
    }
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
