//! Services of a host, written as C would write them.

use super::base_tests::message;
use super::client::*;
use super::handle::DURAMEN_FOREVER;
use super::pages::*;
use super::replica::*;
use super::service::*;
use super::status::*;
use super::test_cluster::*;
use crate::quorum::FaultModel;
use crate::service::Service;
use crate::types::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// Sums numbers. What C would have in a struct.
#[derive(Default)]
pub(super) struct Sum {
    total: std::sync::atomic::AtomicU64,
    snapshots: AtomicUsize,
    restored: AtomicUsize,
    destroyed: AtomicUsize,
    /// What execute returns.
    fails: AtomicI32,
    /// What it adds to each number besides: chance, time or memory of its own in what should follow from the operations alone.
    noise: std::sync::atomic::AtomicU64,
    /// What snapshot_write returns.
    write_fails: AtomicI32,
    /// Destroyed in a callback.
    replica: AtomicPtr<duramen_replica>,
    within: AtomicI32,
    /// The same in its last callback.
    last: AtomicI32,
    /// Kept by mistake.
    stale: AtomicPtr<duramen_reply>,
}

unsafe fn sum<'a>(user: *mut c_void) -> &'a Sum {
    unsafe { &*user.cast::<Sum>() }
}

unsafe extern "C" fn execute(
    user: *mut c_void,
    context: *const duramen_context,
    op: *const c_void,
    len: usize,
    reply: *mut duramen_reply,
) -> i32 {
    let (sum, context) = unsafe { (sum(user), &*context) };
    assert!(context.struct_size == size_of::<duramen_context>() && context.seq > 0 && context.time_ns > 0);
    let add = if len == 8 { unsafe { op.cast::<u64>().read_unaligned() } } else { 0 };
    let add = add.wrapping_add(sum.noise.load(Ordering::Relaxed));
    let total = sum.total.load(Ordering::Relaxed).wrapping_add(add);
    sum.total.store(total, Ordering::Relaxed);
    let bytes = total.to_le_bytes();
    // The second replaces the first.
    let code = unsafe {
        duramen_reply_set(reply, null(), 0) | duramen_reply_set(reply, bytes.as_ptr().cast(), bytes.len())
    };
    assert_eq!(code, DURAMEN_OK);
    assert_eq!(unsafe { duramen_reply_set(reply, null(), 5) }, DURAMEN_E_ARGUMENT);
    sum.stale.store(reply, Ordering::Relaxed);
    let replica = sum.replica.load(Ordering::Relaxed);
    if !replica.is_null() {
        sum.within.store(duramen_replica_destroy(replica, 1000), Ordering::Relaxed);
    }
    sum.fails.load(Ordering::Relaxed)
}

unsafe extern "C" fn query(user: *mut c_void, _: *const c_void, _: usize, reply: *mut duramen_reply) -> i32 {
    let bytes = unsafe { sum(user) }.total.load(Ordering::Relaxed).to_le_bytes();
    unsafe { duramen_reply_set(reply, bytes.as_ptr().cast(), bytes.len()) }
}

unsafe extern "C" fn snapshot(user: *mut c_void, snapshot: *mut *mut c_void) -> i32 {
    let sum = unsafe { sum(user) };
    sum.snapshots.fetch_add(1, Ordering::Relaxed);
    let view = Box::new(sum.total.load(Ordering::Relaxed));
    unsafe { snapshot.write(Box::into_raw(view).cast()) };
    0
}

unsafe extern "C" fn snapshot_write(user: *mut c_void, view: *mut c_void, out: *mut duramen_writer) -> i32 {
    match unsafe { sum(user) }.write_fails.load(Ordering::Relaxed) {
        // In two pieces, and some state to move.
        0 => unsafe {
            let filler = [7u8; 5000];
            match duramen_writer_put(out, view, 8) {
                0 => duramen_writer_put(out, filler.as_ptr().cast(), filler.len()),
                code => code,
            }
        },
        code => code,
    }
}

unsafe extern "C" fn snapshot_free(user: *mut c_void, view: *mut c_void) {
    unsafe { sum(user) }.snapshots.fetch_sub(1, Ordering::Relaxed);
    drop(unsafe { Box::from_raw(view.cast::<u64>()) });
}

unsafe extern "C" fn restore(user: *mut c_void, input: *mut duramen_reader) -> i32 {
    let sum = unsafe { sum(user) };
    let (mut total, mut rest) = (0u64, [0u8; 6000]);
    let n = unsafe { duramen_reader_get(input, (&raw mut total).cast(), 8) };
    let m = unsafe { duramen_reader_get(input, rest.as_mut_ptr().cast(), rest.len()) };
    if (n, m) != (8, 5000) {
        return 1;
    }
    sum.total.store(total, Ordering::Relaxed);
    sum.restored.fetch_add(1, Ordering::Relaxed);
    0
}

unsafe extern "C" fn destroy(user: *mut c_void) {
    let sum = unsafe { sum(user) };
    assert_eq!(sum.snapshots.load(Ordering::Relaxed), 0, "a view outlives the service");
    let replica = sum.replica.load(Ordering::Relaxed);
    if !replica.is_null() {
        sum.last.store(duramen_replica_destroy(replica, 1000), Ordering::Relaxed);
    }
    sum.destroyed.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn table(sum: &Sum) -> duramen_service {
    duramen_service {
        struct_size: size_of::<duramen_service>(),
        user: std::ptr::from_ref(sum).cast_mut().cast(),
        execute: Some(execute),
        query: Some(query),
        snapshot: Some(snapshot),
        snapshot_write: Some(snapshot_write),
        snapshot_free: Some(snapshot_free),
        restore: Some(restore),
        destroy: Some(destroy),
    }
}

/// A cluster of sums, all running.
pub(super) fn sums(model: FaultModel, n: u32, period: u64) -> (Cluster, Vec<&'static Sum>) {
    let mut cluster = Cluster::new(model, n, period);
    let sums: Vec<&'static Sum> = (0..n).map(|_| &*Box::leak(Box::default())).collect();
    for (id, sum) in sums.iter().enumerate() {
        start_sum(&mut cluster, id as u32, sum);
    }
    (cluster, sums)
}

fn start_sum(cluster: &mut Cluster, id: u32, sum: &Sum) {
    let table = table(sum);
    cluster.start(id, |conf, id, out| unsafe { duramen_replica_start(conf, id, &raw const table, out) });
}

fn add(client: *mut duramen_client, n: u64) -> u64 {
    u64::from_le_bytes(done(client, &n.to_le_bytes(), 0).try_into().unwrap())
}

/// Whether a replica has written a checkpoint.
fn has_checkpoint(cluster: &Cluster, id: u32) -> bool {
    !cluster.status(id).contains(r#""checkpoints":{"kept":[],"#)
}

fn empty(cluster: &Cluster, id: u32) {
    let dir = cluster.path().join(format!("replica-{id}"));
    for folder in ["log", "checkpoints"] {
        std::fs::remove_dir_all(dir.join(folder)).unwrap();
    }
    let config = crate::data_dir::load_config(&cluster.path()).unwrap();
    crate::replica::format_learner(&dir.join("log"), &config, crate::types::ReplicaId(id), true).unwrap();
}

fn survives(model: FaultModel, n: u32) {
    let (mut cluster, sums) = sums(model, n, 8 * u64::from(n));
    let client = cluster.client(&[]);
    let mut total = 0;
    for i in 1..=300 {
        total += i;
        assert_eq!(add(client, i), total);
    }
    assert_eq!(done(client, b"", DURAMEN_READ), total.to_le_bytes());
    until("no checkpoint of replica 1", || has_checkpoint(&cluster, 1));
    let metrics =
        text(|buf, cap, len| unsafe { duramen_replica_metrics(cluster.replicas[0], buf, cap, len) });
    assert!(metrics.contains("duramen_") && metrics.ends_with("# EOF\n"), "{metrics}");

    // One comes back from its checkpoint and its log, with a service that knows nothing.
    cluster.stop(1);
    assert_eq!(sums[1].destroyed.load(Ordering::Relaxed), 1);
    total += 5;
    assert_eq!(add(client, 5), total);
    let again: &Sum = Box::leak(Box::default());
    start_sum(&mut cluster, 1, again);
    assert_eq!(again.restored.load(Ordering::Relaxed), 1, "it started from its checkpoint");
    until("replica 1 does not catch up", || again.total.load(Ordering::Relaxed) == total);

    // One has lost everything: the others' state is taken over.
    cluster.push_logs_on(client);
    cluster.stop(2);
    empty(&cluster, 2);
    let learner: &Sum = Box::leak(Box::default());
    start_sum(&mut cluster, 2, learner);
    until("replica 2 learns nothing", || {
        total += 1;
        add(client, 1) == total && cluster.number(2, "installed") > 0
    });
    assert!(learner.restored.load(Ordering::Relaxed) > 0);
    until("replica 2 does not catch up", || learner.total.load(Ordering::Relaxed) == total);

    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    (0..n).for_each(|id| cluster.stop(id));
    assert_eq!((again.destroyed.load(Ordering::Relaxed), learner.destroyed.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(sums[0].destroyed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_host_s_service_is_replicated_checkpointed_restarted_and_transferred() {
    survives(FaultModel::Crash, 3);
}

#[test]
fn a_host_s_service_is_replicated_among_liars_too() {
    survives(FaultModel::Byzantine, 4);
}

#[test]
fn a_callback_that_fails_stops_its_replica_alone_and_says_why() {
    let (cluster, sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[]);
    assert_eq!(add(client, 1), 1);
    let wait = |id: usize, ms| {
        let mut why = [0u8; 200];
        let code = unsafe {
            duramen_replica_wait_failed(cluster.replicas[id], ms, why.as_mut_ptr().cast(), why.len())
        };
        let end = why.iter().position(|b| *b == 0).unwrap();
        (code, String::from_utf8_lossy(&why[..end]).into_owned())
    };
    assert_eq!(wait(2, 10).0, DURAMEN_E_TIMEOUT);
    sums[2].fails.store(17, Ordering::Relaxed);
    assert_eq!(add(client, 2), 3);
    let (code, why) = wait(2, 20_000);
    assert_eq!(code, DURAMEN_OK);
    assert!(why.starts_with("the service's execute callback returned 17 for operation 0 of batch"), "{why}");
    assert!(cluster.status(2).contains("execute callback returned 17"), "{}", cluster.status(2));
    // The others go on.
    assert_eq!(add(client, 3), 6);
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
}

#[test]
fn a_host_that_is_not_deterministic_is_found_out_and_gets_the_others_state() {
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        let (cluster, sums) = sums(model, n, 64);
        let client = cluster.client(&[]);
        assert_eq!(add(client, 1), 1);
        let mut total = 1;
        let other = sums[2];
        other.noise.store(1 << 32, Ordering::Relaxed);
        until("nobody notices", || {
            total += 1;
            let said = add(client, 1);
            // Who trusts each replica's word may hear the wrong one.
            assert!(said == total || model == FaultModel::Crash, "{said} is not {total}");
            cluster.status(2).contains("audit: at place ")
        });
        assert!(cluster.status(2).contains("others have"), "{}", cluster.status(2));
        for id in (0..n).filter(|id| *id != 2) {
            assert!(!cluster.status(id).contains("audit: "), "{}", cluster.status(id));
            assert!(cluster.status(id).contains(r#""halted":null"#), "{}", cluster.status(id));
        }
        // Where it follows its operations again, it has what the others have, and takes part.
        other.noise.store(0, Ordering::Relaxed);
        until("it keeps its own state", || {
            total += 1;
            add(client, 1);
            other.restored.load(Ordering::Relaxed) > 0 && cluster.status(2).contains(r#""mode":"normal""#)
        });
        until("it stays behind", || other.total.load(Ordering::Relaxed) == total);
        assert_eq!(done(client, b"", DURAMEN_READ), total.to_le_bytes());
        assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    }
}

#[test]
fn a_service_that_is_nowhere_deterministic_stops_and_says_so() {
    let (cluster, sums) = sums(FaultModel::Byzantine, 4, 64);
    let client = cluster.client(&[]);
    assert_eq!(add(client, 1), 1);
    (1..).zip(&sums).for_each(|(i, sum)| sum.noise.store(i << 32, Ordering::Relaxed));
    until("no replica notices", || {
        // No two of them say the same, so nothing is an answer.
        let (op, mut reply, mut len, mut outcome) = (1u64.to_le_bytes(), [0u8; 256], 0, -1);
        let at = (op.as_ptr().cast(), reply.as_mut_ptr().cast(), reply.len());
        let (len, outcome_at) = (&raw mut len, &raw mut outcome);
        let code = unsafe { duramen_client_call(client, at.0, 8, 0, 300, at.1, at.2, len, outcome_at) };
        assert!(code != DURAMEN_OK || outcome != DURAMEN_DONE, "{reply:?}");
        // Why is told before it is published that all ends there.
        (0..4).map(|id| cluster.status(id)).all(|status| {
            status.contains("the service is not deterministic") && !status.contains(r#""halted":null"#)
        })
    });
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
}

#[test]
fn a_snapshot_that_cannot_be_written_stops_its_replica() {
    let (cluster, sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[]);
    sums[1].write_fails.store(-5, Ordering::Relaxed);
    let mut total = 0;
    until("replica 1 goes on", || {
        total += 1;
        assert_eq!(add(client, 1), total);
        cluster.status(1).contains("snapshot_write callback returned -5")
            && !cluster.status(1).contains(r#""halted":null"#)
    });
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
}

#[test]
fn a_start_in_which_execute_fails_is_an_error_and_destroys_nothing() {
    let (mut cluster, _sums) = sums(FaultModel::Crash, 3, 1 << 20);
    let client = cluster.client(&[]);
    for total in 1..=300 {
        assert_eq!(add(client, 1), total);
    }
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    cluster.stop(0);
    let failing = Sum { fails: AtomicI32::new(3), ..Sum::default() };
    let (conf, mut replica) = (cluster.conf(&[]), null_mut());
    let table = table(&failing);
    let code = unsafe { duramen_replica_start(conf, 0, &raw const table, &raw mut replica) };
    assert_eq!(code, DURAMEN_E_CALLBACK, "{}", message(null::<c_void>()));
    assert!(message(null::<c_void>()).contains("execute callback returned 3"));
    assert!(replica.is_null());
    assert_eq!(failing.destroyed.load(Ordering::Relaxed), 0);
    super::conf::duramen_conf_destroy(conf);
}

#[test]
fn a_callback_cannot_destroy_its_replica_nor_keep_what_it_was_lent() {
    let (mut cluster, sums) = sums(FaultModel::Crash, 3, 64);
    let client = cluster.client(&[]);
    sums[0].replica.store(cluster.replicas[0], Ordering::Relaxed);
    assert_eq!(add(client, 2), 2);
    until("no callback", || sums[0].within.load(Ordering::Relaxed) == DURAMEN_E_REENTRANT);
    sums[0].replica.store(null_mut(), Ordering::Relaxed);
    let stale = sums[0].stale.load(Ordering::Relaxed);
    assert_eq!(unsafe { duramen_reply_set(stale, null(), 0) }, DURAMEN_E_HANDLE);
    assert_eq!(add(client, 2), 4);
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    // Neither can its service's last callback, which destroy waits for.
    sums[0].replica.store(cluster.replicas[0], Ordering::Relaxed);
    cluster.stop(0);
    assert_eq!(sums[0].last.load(Ordering::Relaxed), DURAMEN_E_REENTRANT);
}

/// Stands for the replica of a service: what the service's last callbacks may do to it.
struct Standing {
    handle: *mut super::conf::duramen_conf,
    codes: parking_lot::Mutex<Vec<i32>>,
}

unsafe extern "C" fn destroy_standing(user: *mut c_void) {
    let standing = unsafe { &*user.cast::<Standing>() };
    standing.codes.lock().push(super::conf::duramen_conf_destroy(standing.handle));
}

unsafe extern "C" fn view_of_standing(_: *mut c_void, view: *mut *mut c_void) -> i32 {
    unsafe { view.write(null_mut()) };
    0
}

unsafe extern "C" fn free_view_of_standing(user: *mut c_void, _: *mut c_void) {
    unsafe { destroy_standing(user) };
}

#[test]
fn last_callbacks_run_inside_the_replica_s_handle() {
    let handle = super::conf::duramen_conf_new();
    let standing = Standing { handle, codes: Default::default() };
    let user = std::ptr::from_ref(&standing).cast_mut().cast();
    let owner = || Owner::new(AtomicUsize::new(handle.addr()));
    let sum = Sum::default();
    let service = duramen_service {
        user,
        snapshot: Some(view_of_standing),
        snapshot_free: Some(free_view_of_standing),
        destroy: Some(destroy_standing),
        ..table(&sum)
    };
    let service = HostService::new(service, owner()).unwrap();
    drop(service.snapshot());
    assert_eq!(*standing.codes.lock(), [DURAMEN_E_REENTRANT]);
    drop(service);
    let disk = duramen_paged_service {
        struct_size: size_of::<duramen_paged_service>(),
        user,
        page_bytes_max: 4096,
        reserved: 0,
        execute: Some(disk_execute),
        query: Some(disk_query),
        destroy: Some(destroy_standing),
    };
    drop(HostPagedService::new(disk, owner()).unwrap());
    assert_eq!(*standing.codes.lock(), [DURAMEN_E_REENTRANT; 3]);
    assert_eq!(super::conf::duramen_conf_destroy(handle), DURAMEN_OK);
}

#[test]
fn who_waits_for_a_failure_keeps_to_the_time_and_hears_of_destroy() {
    let (mut cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let replica = cluster.replicas[0].addr();
    let wait = move |ms| {
        let replica = std::ptr::without_provenance_mut(replica);
        let began = std::time::Instant::now();
        (unsafe { duramen_replica_wait_failed(replica, ms, null_mut(), 0) }, began.elapsed())
    };
    let took: Vec<_> = (0..20).map(|_| wait(25)).collect();
    assert!(took.iter().all(|(code, took)| *code == DURAMEN_E_TIMEOUT && took.as_millis() >= 25));
    // Looking every 20 ms, it would be 40. The machine may be slow, hardly most of the time.
    let mut took: Vec<_> = took.iter().map(|(_, took)| took.as_millis()).collect();
    took.sort_unstable();
    assert!(took[5] < 38, "{took:?}");
    let waiting = std::thread::spawn(move || wait(DURAMEN_FOREVER).0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    cluster.stop(0);
    assert_eq!(waiting.join().unwrap(), DURAMEN_E_STATE);
    assert_eq!(wait(0).0, DURAMEN_E_HANDLE);
}

#[test]
fn what_cannot_be_started_says_why() {
    let cluster = Cluster::new(FaultModel::Crash, 3, 64);
    let (sum, conf) = (Sum::default(), cluster.conf(&[]));
    let mut replica = std::ptr::without_provenance_mut(1);
    let mut start = |id: u32, table: *const duramen_service| {
        let code = unsafe { duramen_replica_start(conf, id, table, &raw mut replica) };
        (code, message(null::<c_void>()), replica)
    };
    let good = table(&sum);
    assert_eq!(start(0, null()), (DURAMEN_E_ARGUMENT, "service is NULL".into(), null_mut()));
    assert_eq!(start(9, &raw const good).0, DURAMEN_E_NOT_FOUND);
    let small = duramen_service { struct_size: 8, ..good };
    assert_eq!(start(0, &raw const small).0, DURAMEN_E_ABI);
    let missing = duramen_service { restore: None, ..good };
    assert_eq!(start(0, &raw const missing).1, "the service has no restore");
    assert_eq!(unsafe { duramen_replica_start(conf, 0, &raw const good, null_mut()) }, DURAMEN_E_ARGUMENT);
    let of_client = unsafe { duramen_replica_start(null(), 0, &raw const good, &raw mut replica) };
    assert_eq!((of_client, sum.destroyed.load(Ordering::Relaxed)), (DURAMEN_E_HANDLE, 0));
    super::conf::duramen_conf_destroy(conf);
}

/// A disk of blocks: `index, bytes` writes, `index` reads; what it was asked to do wrong.
unsafe extern "C" fn disk_execute(
    _: *mut c_void,
    _: *const duramen_context,
    pages: *mut duramen_pages,
    op: *const c_void,
    len: usize,
    reply: *mut duramen_reply,
) -> i32 {
    let op = unsafe { std::slice::from_raw_parts(op.cast::<u8>(), len) };
    let (index, bytes) = op.split_at(8);
    let index = u64::from_le_bytes(index.try_into().unwrap());
    let code = match bytes {
        [] => duramen_pages_free(pages, index),
        _ => unsafe { duramen_pages_write(pages, index, bytes.as_ptr().cast(), bytes.len()) },
    };
    unsafe { duramen_reply_set(reply, (&raw const code).cast(), 4) }
}

unsafe extern "C" fn disk_query(
    _: *mut c_void,
    pages: *const duramen_pages,
    op: *const c_void,
    _: usize,
    reply: *mut duramen_reply,
) -> i32 {
    let (index, mut bytes, mut len) = (unsafe { op.cast::<u64>().read_unaligned() }, null(), 9);
    assert_eq!(unsafe { duramen_pages_write(pages.cast_mut(), 0, op, 1) }, DURAMEN_E_STATE);
    assert_eq!(unsafe { duramen_pages_read(pages, index, &raw mut bytes, &raw mut len) }, DURAMEN_OK);
    unsafe { duramen_reply_set(reply, bytes, len) }
}

unsafe extern "C" fn disk_destroy(user: *mut c_void) {
    unsafe { &*user.cast::<AtomicUsize>() }.fetch_add(1, Ordering::Relaxed);
}

fn start_disk(cluster: &mut Cluster, id: u32, destroyed: &'static AtomicUsize) {
    let table = duramen_paged_service {
        struct_size: size_of::<duramen_paged_service>(),
        user: std::ptr::from_ref(destroyed).cast_mut().cast(),
        page_bytes_max: 4096,
        reserved: 0,
        execute: Some(disk_execute),
        query: Some(disk_query),
        destroy: Some(disk_destroy),
    };
    cluster
        .start(id, |conf, id, out| unsafe { duramen_replica_start_paged(conf, id, &raw const table, out) });
}

/// A disk without a replica.
fn bare_disk() -> HostPagedService {
    let table = duramen_paged_service {
        struct_size: size_of::<duramen_paged_service>(),
        user: null_mut(),
        page_bytes_max: 4096,
        reserved: 0,
        execute: Some(disk_execute),
        query: Some(disk_query),
        destroy: None,
    };
    HostPagedService::new(table, Owner::default()).unwrap()
}

#[test]
fn a_disk_is_the_same_after_a_round_trip_and_a_damaged_copy_is_turned_down() {
    let mut disk = bare_disk();
    for i in 0..500u64 {
        let op = [&(i * 37 % 1000).to_le_bytes()[..], &vec![i as u8; i as usize % 5 * 100]].concat();
        let context = crate::service::Context {
            seq: Seq(i + 1),
            index: 0,
            time: WallTime(1),
            seed: 0,
            client: ClientId(1),
            session: SessionId(1),
        };
        assert_eq!(&disk.execute(&context, &op)[..], [0; 4]);
    }
    let view = disk.snapshot();
    let mut bytes = Vec::new();
    view.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, view.bytes());
    let root = |disk: &HostPagedService| disk.snapshot().pages().unwrap().root(DigestAlgorithm::Blake3, None);
    let (mut other, mut third) = (bare_disk(), bare_disk());
    other.restore(&mut bytes.as_slice()).unwrap();
    assert_eq!(root(&other), root(&disk));
    let pages = view.pages().unwrap();
    let mut page = |index| {
        let mut page = Vec::new();
        Ok(pages.page(index, &mut page).then_some(page))
    };
    third.restore_pages(&pages.header(), pages.page_count(), &mut page).unwrap();
    assert_eq!(root(&third), root(&disk));
    // A read of one written page has the page's version; of a free one it has none.
    let read = |index: u64| disk.query(&index.to_le_bytes());
    assert_eq!((read(37).version, read(0).version), (Some(Seq(2)), None));
    for end in [0, 7, 23, 24, 40, bytes.len() - 1] {
        assert!(other.restore(&mut &bytes[..end]).is_err(), "{end}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(other.restore(&mut longer.as_slice()).is_err());
    assert_eq!(root(&other), root(&disk), "on error the state is as before");
}

fn write_block(client: *mut duramen_client, index: u64, bytes: &[u8]) -> i32 {
    let reply = done(client, &[&index.to_le_bytes(), bytes].concat(), 0);
    i32::from_le_bytes(reply.try_into().unwrap())
}

fn read_block(client: *mut duramen_client, index: u64) -> Vec<u8> {
    done(client, &index.to_le_bytes(), DURAMEN_READ)
}

fn disk_survives(model: FaultModel, n: u32) {
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let mut cluster = Cluster::new(model, n, 8 * u64::from(n));
    (0..n).for_each(|id| start_disk(&mut cluster, id, &DESTROYED));
    let client = cluster.client(&[]);
    let block = |i: u64| vec![(i as u8).wrapping_add(1); 1 + i as usize * 13 % 4096];
    for i in 0..300 {
        assert_eq!(write_block(client, i * 7 % 1000, &block(i)), DURAMEN_OK);
    }
    assert_eq!(write_block(client, 5, &[0; 4097]), DURAMEN_E_TOO_LARGE);
    assert_eq!(write_block(client, DURAMEN_PAGES_MAX, &[1]), DURAMEN_E_ARGUMENT);
    assert_eq!((write_block(client, 7, &[]), write_block(client, 3000, &[])), (0, 0));
    let check = |client| {
        for i in (0..300).step_by(17) {
            assert_eq!(read_block(client, i * 7 % 1000), block(i), "block {i}");
        }
        assert_eq!(read_block(client, 7), b"");
        assert_eq!(read_block(client, 1 << 40), b"");
    };
    check(client);
    until("no checkpoint of replica 1", || has_checkpoint(&cluster, 1));

    // From its own checkpoint; and all of it from the others.
    cluster.stop(1);
    start_disk(&mut cluster, 1, &DESTROYED);
    cluster.push_logs_on(client);
    cluster.stop(2);
    empty(&cluster, 2);
    start_disk(&mut cluster, 2, &DESTROYED);
    until("replica 2 takes no state over", || {
        assert_eq!(write_block(client, 999, b"more"), DURAMEN_OK);
        cluster.number(2, "installed") > 0 && cluster.status(2).contains(r#""mode":"normal""#)
    });
    // Without one of those that had it all the time.
    cluster.stop(0);
    assert_eq!(write_block(client, 998, b"last"), DURAMEN_OK);
    check(client);
    assert_eq!(read_block(client, 998), b"last");
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    let before = DESTROYED.load(Ordering::Relaxed);
    (1..n).for_each(|id| cluster.stop(id));
    assert!(before >= 3 && DESTROYED.load(Ordering::Relaxed) >= before + n as usize - 1);
}

#[test]
fn a_disk_in_pages_is_replicated_restarted_and_transferred() {
    disk_survives(FaultModel::Crash, 3);
}

#[test]
fn a_disk_in_pages_is_replicated_among_liars_too() {
    disk_survives(FaultModel::Byzantine, 4);
}
