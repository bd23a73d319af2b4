//! Tests of services, written as C would write them: those that keep the contract pass, and each fault is told.

use super::base_tests::message;
use super::pages::*;
use super::service::*;
use super::status::*;
use super::tested::*;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a service does wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    /// Replies what all instances together have counted.
    Shared,
    /// Its snapshot is the state itself.
    Alive,
    /// Keeps something that is not in its snapshot.
    Forgets,
    /// Takes the beginning over before it has seen the end.
    Half,
    /// Ignores a byte of its own snapshot.
    Careless,
    /// Knows the thread that it was made on.
    Thread,
    /// Fails at operations of other lengths than 8.
    Execute,
    Query,
    Snapshot,
    Write,
    Restore,
    Make,
    /// Gives a table of this struct_size.
    Table(usize),
    NoQuery,
    PageBytes,
    Operation,
    /// Says that operations have so many bytes.
    Length(usize),
}

/// One kind of service.
struct Plan {
    fault: Fault,
    made: AtomicUsize,
    destroyed: AtomicUsize,
    views: AtomicUsize,
    total: AtomicUsize,
    /// What a test within a test ended with.
    nested: AtomicUsize,
}

struct Instance {
    plan: &'static Plan,
    sum: u64,
    beside: u64,
    thread: std::thread::ThreadId,
}

fn plan(fault: Fault) -> &'static Plan {
    Box::leak(Box::new(Plan {
        fault,
        made: 0.into(),
        destroyed: 0.into(),
        views: 0.into(),
        total: 0.into(),
        nested: 0.into(),
    }))
}

unsafe fn plan_of(user: *mut c_void) -> &'static Plan {
    unsafe { &*user.cast::<Plan>() }
}

unsafe fn instance<'a>(user: *mut c_void) -> &'a mut Instance {
    unsafe { &mut *user.cast::<Instance>() }
}

unsafe fn set(reply: *mut duramen_reply, number: u64) -> i32 {
    unsafe { duramen_reply_set(reply, (&raw const number).cast(), 8) }
}

/// What an operation adds.
unsafe fn added(op: *const c_void, len: usize) -> u64 {
    let bytes = if len == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(op.cast::<u8>(), len) } };
    bytes.iter().fold(1, |sum, byte| sum + u64::from(*byte))
}

unsafe extern "C" fn execute(
    user: *mut c_void,
    _: *const duramen_context,
    op: *const c_void,
    len: usize,
    reply: *mut duramen_reply,
) -> i32 {
    let it = unsafe { instance(user) };
    it.sum += unsafe { added(op, len) };
    it.beside = it.sum;
    let number = match it.plan.fault {
        Fault::Execute if len != 8 => return 7,
        Fault::Shared => it.plan.total.fetch_add(1, Relaxed) as u64,
        Fault::Thread => u64::from(it.thread == std::thread::current().id()),
        Fault::Forgets => it.beside,
        _ => it.sum,
    };
    unsafe { set(reply, number) }
}

unsafe extern "C" fn query(user: *mut c_void, _: *const c_void, _: usize, reply: *mut duramen_reply) -> i32 {
    let it = unsafe { instance(user) };
    match it.plan.fault {
        Fault::Query => 8,
        Fault::Forgets => unsafe { set(reply, it.beside) },
        _ => unsafe { set(reply, it.sum) },
    }
}

unsafe extern "C" fn snapshot(user: *mut c_void, view: *mut *mut c_void) -> i32 {
    let it = unsafe { instance(user) };
    if it.plan.fault == Fault::Snapshot {
        return 9;
    }
    it.plan.views.fetch_add(1, Relaxed);
    unsafe { view.write(Box::into_raw(Box::new([it.sum, 0])).cast()) };
    0
}

unsafe extern "C" fn snapshot_write(user: *mut c_void, view: *mut c_void, out: *mut duramen_writer) -> i32 {
    let it = unsafe { instance(user) };
    match it.plan.fault {
        Fault::Write => 10,
        Fault::Alive => unsafe { duramen_writer_put(out, [it.sum, 0].as_ptr().cast(), 16) },
        _ => unsafe { duramen_writer_put(out, view, 16) },
    }
}

unsafe extern "C" fn snapshot_free(user: *mut c_void, view: *mut c_void) {
    unsafe { instance(user) }.plan.views.fetch_sub(1, Relaxed);
    drop(unsafe { Box::from_raw(view.cast::<[u64; 2]>()) });
}

unsafe extern "C" fn restore(user: *mut c_void, input: *mut duramen_reader) -> i32 {
    let it = unsafe { instance(user) };
    let mut read = [0u64; 3];
    let got = unsafe { duramen_reader_get(input, read.as_mut_ptr().cast(), 24) };
    if it.plan.fault == Fault::Half && got >= 8 {
        it.sum = read[0];
    }
    if got != 16 || it.plan.fault == Fault::Restore || (read[1] != 0 && it.plan.fault != Fault::Careless) {
        return 1;
    }
    it.sum = read[0];
    if it.plan.fault != Fault::Forgets {
        it.beside = it.sum;
    }
    0
}

unsafe extern "C" fn destroy(user: *mut c_void) {
    let it = unsafe { Box::from_raw(user.cast::<Instance>()) };
    it.plan.destroyed.fetch_add(1, Relaxed);
}

unsafe fn made(user: *mut c_void) -> *mut c_void {
    let plan = unsafe { plan_of(user) };
    plan.made.fetch_add(1, Relaxed);
    let thread = std::thread::current().id();
    Box::into_raw(Box::new(Instance { plan, sum: 0, beside: 0, thread })).cast()
}

unsafe extern "C" fn make(user: *mut c_void) -> *const duramen_service {
    let fault = unsafe { plan_of(user) }.fault;
    let table = match fault {
        Fault::Make => return null(),
        // Turned down: not destroyed, so not made.
        Fault::Table(_) | Fault::NoQuery => null_mut(),
        _ => unsafe { made(user) },
    };
    Box::leak(Box::new(duramen_service {
        struct_size: if let Fault::Table(size) = fault { size } else { size_of::<duramen_service>() },
        user: table,
        execute: Some(execute),
        query: (fault != Fault::NoQuery).then_some(query),
        snapshot: Some(snapshot),
        snapshot_write: Some(snapshot_write),
        snapshot_free: Some(snapshot_free),
        restore: Some(restore),
        destroy: Some(destroy),
    }))
}

unsafe extern "C" fn execute_paged(
    user: *mut c_void,
    _: *const duramen_context,
    pages: *mut duramen_pages,
    op: *const c_void,
    len: usize,
    reply: *mut duramen_reply,
) -> i32 {
    let it = unsafe { instance(user) };
    let (index, mut at, mut n) = (len as u64 % 5, null(), 0);
    let added = unsafe { added(op, len) };
    it.sum += added;
    let code = unsafe { duramen_pages_read(pages, index, &raw mut at, &raw mut n) };
    let before = if n == 8 { unsafe { at.cast::<u64>().read_unaligned() } } else { 0 };
    let sum = before + added;
    let code = code | unsafe { duramen_pages_write(pages, index, (&raw const sum).cast(), 8) };
    assert_eq!(code, DURAMEN_OK);
    unsafe { set(reply, if it.plan.fault == Fault::Forgets { it.sum } else { sum }) }
}

unsafe extern "C" fn query_paged(
    _: *mut c_void,
    pages: *const duramen_pages,
    _: *const c_void,
    _: usize,
    reply: *mut duramen_reply,
) -> i32 {
    unsafe { set(reply, duramen_pages_count(pages)) }
}

unsafe extern "C" fn make_paged(user: *mut c_void) -> *const duramen_paged_service {
    let fault = unsafe { plan_of(user) }.fault;
    Box::leak(Box::new(duramen_paged_service {
        struct_size: size_of::<duramen_paged_service>(),
        user: if fault == Fault::PageBytes { null_mut() } else { unsafe { made(user) } },
        page_bytes_max: if fault == Fault::PageBytes { 0 } else { 8 },
        reserved: 0,
        execute: Some(execute_paged),
        query: Some(query_paged),
        destroy: Some(destroy),
    }))
}

unsafe extern "C" fn operation(
    user: *mut c_void,
    index: u64,
    random: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let plan = unsafe { plan_of(user) };
    assert!(cap == 1 << 20 && unsafe { *len } == 0 && !buf.is_null());
    unsafe { buf.cast::<u64>().write_unaligned(random) };
    unsafe { len.write(if let Fault::Length(len) = plan.fault { len } else { 8 }) };
    if plan.fault == Fault::Operation && index == 5 { 6 } else { 0 }
}

fn tested(plan: &'static Plan, paged: bool) -> duramen_tested_service {
    duramen_tested_service {
        struct_size: size_of::<duramen_tested_service>(),
        user: std::ptr::from_ref(plan).cast_mut().cast(),
        name: c"sum".as_ptr(),
        make: (!paged).then_some(make),
        make_paged: paged.then_some(make_paged),
        operation: Some(operation),
    }
}

fn test(tested: &duramen_tested_service, operations: u64, seed: u64) -> Result<String, i32> {
    let mut report = [1u8; DURAMEN_TEST_REPORT_BYTES];
    let mut len = 0;
    let (at, cap) = (report.as_mut_ptr().cast(), report.len());
    let code = unsafe { duramen_service_test(tested, operations, seed, at, cap, &raw mut len) };
    let text = CStr::from_bytes_until_nul(&report).unwrap().to_str().unwrap().to_owned();
    if code == DURAMEN_OK {
        assert_eq!(text.len(), len);
        return Ok(text);
    }
    assert_eq!(text, "", "a report of a failure");
    Err(code)
}

fn found(fault: Fault, paged: bool) -> (i32, String) {
    let plan = plan(fault);
    let code = test(&tested(plan, paged), 300, 1).expect_err(&format!("{fault:?} is not found"));
    assert_eq!(plan.views.load(Relaxed), 0, "{fault:?}: a view is left");
    assert_eq!(plan.made.load(Relaxed), plan.destroyed.load(Relaxed), "{fault:?}: one is left");
    (code, message::<c_void>(null()))
}

#[test]
fn a_service_that_keeps_the_contract_passes_and_leaves_nothing_behind() {
    for paged in [false, true] {
        let plan = plan(Fault::None);
        let tested = tested(plan, paged);
        let report = test(&tested, 300, 7).unwrap();
        assert_eq!(report.lines().count(), 9, "{report}");
        assert!(report.starts_with("sum: 300 operations of seed 7: "), "{report}");
        let last = report.lines().last().unwrap();
        assert!(last.starts_with("after 300 operations: replies ") && report.ends_with('\n'), "{report}");
        assert_eq!(last.ends_with("root none: not paged"), !paged, "{last}");
        assert!(plan.made.load(Relaxed) > 5);
        assert_eq!(plan.made.load(Relaxed), plan.destroyed.load(Relaxed));
        assert_eq!(plan.views.load(Relaxed), 0);

        assert_eq!(test(&tested, 300, 7).unwrap(), report, "the same seed");
        let other = test(&tested, 300, 8).unwrap();
        assert!(other.lines().zip(report.lines()).all(|(other, one)| other != one), "{other}{report}");
        assert_eq!(test(&tested, DURAMEN_TEST_OPERATIONS_MIN, 7).unwrap().lines().count(), 9);
    }
}

#[test]
fn each_way_to_break_the_contract_is_told() {
    for (fault, code, why) in [
        (Fault::Shared, DURAMEN_E_CONTRACT, "replies differ at operation 0"),
        (Fault::Alive, DURAMEN_E_CONTRACT, "a snapshot changed"),
        (Fault::Forgets, DURAMEN_E_CONTRACT, "reads differ"),
        (Fault::Half, DURAMEN_E_CONTRACT, "a refused restore changed the state"),
        (Fault::Careless, DURAMEN_E_CONTRACT, "sum: the bit at 8 makes no difference"),
        (Fault::Thread, DURAMEN_E_CONTRACT, "replies differ on another thread"),
        (Fault::Write, DURAMEN_E_CONTRACT, "snapshot_write callback returned 10"),
        (Fault::Restore, DURAMEN_E_CONTRACT, "the service's restore callback turned it away"),
        (Fault::Execute, DURAMEN_E_CALLBACK, "execute callback returned 7 for operation 0 of batch "),
        (Fault::Query, DURAMEN_E_CALLBACK, "query callback returned 8"),
        (Fault::Snapshot, DURAMEN_E_CALLBACK, "snapshot callback returned 9"),
        (Fault::Make, DURAMEN_E_CALLBACK, "make returned NULL"),
        (Fault::Table(8), DURAMEN_E_ABI, "what make returned: struct_size is 8"),
        (Fault::NoQuery, DURAMEN_E_ARGUMENT, "the service has no query"),
        (Fault::Operation, DURAMEN_E_CALLBACK, "operation callback returned 6 for operation 5"),
        (Fault::Length(usize::MAX), DURAMEN_E_CALLBACK, "where 1048576 fit"),
        (Fault::Length(1 << 20), DURAMEN_E_TOO_LARGE, "take fewer"),
    ] {
        let (ended, said) = found(fault, false);
        assert!(
            ended == code && said.starts_with("sum: ") && said.contains(why),
            "{fault:?}: {ended} {said}"
        );
        assert!(said.len() < 512 && !said.contains('\n'), "{said}");
    }
    // What it keeps beside its pages is not in those that another takes over.
    let (ended, said) = found(Fault::Forgets, true);
    assert!(ended == DURAMEN_E_CONTRACT && said.contains("replies differ"), "{ended} {said}");
    let (ended, said) = found(Fault::PageBytes, true);
    assert!(ended == DURAMEN_E_ARGUMENT && said.contains("page_bytes_max is 0"), "{ended} {said}");
}

#[test]
fn arguments_that_make_no_sense_give_codes() {
    let good = tested(plan(Fault::None), false);
    let mut report = [0 as c_char; 100];
    let call = |tested: *const duramen_tested_service, operations| unsafe {
        duramen_service_test(tested, operations, 0, null_mut(), 0, null_mut())
    };
    assert_eq!(call(null(), 8), DURAMEN_E_ARGUMENT);
    assert_eq!(call(&duramen_tested_service { struct_size: 47, ..good }, 8), DURAMEN_E_ABI);
    assert_eq!(call(&duramen_tested_service { make: None, ..good }, 8), DURAMEN_E_ARGUMENT);
    let both = duramen_tested_service { make_paged: Some(make_paged), ..good };
    assert_eq!(call(&both, 8), DURAMEN_E_ARGUMENT);
    assert_eq!(call(&duramen_tested_service { operation: None, ..good }, 8), DURAMEN_E_ARGUMENT);
    assert_eq!(call(&duramen_tested_service { name: c"\xff".as_ptr(), ..good }, 8), DURAMEN_E_ARGUMENT);
    for operations in [0, DURAMEN_TEST_OPERATIONS_MIN - 1, DURAMEN_TEST_OPERATIONS_MAX + 1, u64::MAX] {
        assert_eq!(call(&good, operations), DURAMEN_E_ARGUMENT);
    }
    let without_place = unsafe { duramen_service_test(&good, 8, 0, null_mut(), 1, null_mut()) };
    assert_eq!(without_place, DURAMEN_E_ARGUMENT);

    // The report is not asked for, has a length, or does not fit.
    assert_eq!(call(&duramen_tested_service { name: null(), ..good }, 8), DURAMEN_OK);
    let mut len = 0;
    assert_eq!(unsafe { duramen_service_test(&good, 8, 0, null_mut(), 0, &raw mut len) }, DURAMEN_OK);
    assert_eq!(len, test(&good, 8, 0).unwrap().len());
    let (at, cap) = (report.as_mut_ptr(), report.len());
    assert_eq!(unsafe { duramen_service_test(&good, 8, 0, at, cap, &raw mut len) }, DURAMEN_E_BUFFER);
    assert!(len > cap && unsafe { CStr::from_ptr(at) }.to_bytes().len() == 99);
}

unsafe extern "C" fn tests_another(user: *mut c_void) -> *const duramen_service {
    let code = test(&tested(plan(Fault::Shared), false), 8, 0);
    unsafe { plan_of(user) }.nested.store(code.unwrap_err().unsigned_abs() as usize, Relaxed);
    unsafe { make(user) }
}

#[test]
fn a_callback_may_test_another_service() {
    let plan = plan(Fault::None);
    let nesting = duramen_tested_service { make: Some(tests_another), ..tested(plan, false) };
    assert!(test(&nesting, 8, 0).is_ok());
    assert_eq!(plan.nested.load(Relaxed), DURAMEN_E_CONTRACT.unsigned_abs() as usize);
}
