//! Tests of a host's state machine: does it keep the contract that replication rests on?

use super::entry::{Grows, copy_text, enter, finding, give, give_text, sized, text};
use super::pages::{HostPagedService, duramen_paged_service};
use super::service::{HostService, Owner, duramen_service};
use super::status::*;
use crate::hex;
use crate::replica::{ServiceFailed, failure_text};
use crate::service::conformance::*;
use crate::service::random::Random;
use crate::service::{RestoreError, Service};
use crate::types::DigestAlgorithm;
use std::any::Any;
use std::ffi::{c_char, c_void};
use std::panic::resume_unwind;

/// The room that every report of duramen_service_test fits into.
pub const DURAMEN_TEST_REPORT_BYTES: usize = 4096;
/// The fewest operations that a test takes.
pub const DURAMEN_TEST_OPERATIONS_MIN: u64 = 8;
/// The most operations that a test takes.
pub const DURAMEN_TEST_OPERATIONS_MAX: u64 = 1_000_000;

/// A kind of state machine to be tested, and what makes operations for it. Set struct_size to sizeof(duramen_tested_service) and the rest to zero
/// before you fill it in; one of make and make_paged stays NULL.
///
/// The callbacks here run on the thread that calls duramen_service_test. Those of the state machines also run on threads that it
/// starts and joins, as duramen_service says. None must throw, jump or end the process.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_tested_service {
    /// sizeof(duramen_tested_service).
    pub struct_size: usize,
    /// Handed to the callbacks here, otherwise not touched.
    pub user: *mut c_void,
    /// For the report and messages: UTF-8, of which 64 bytes are shown. NULL: "service".
    pub name: *const c_char,
    /// Returns a new state machine in its initial state; NULL: it cannot, and the test ends. The struct is read before any other callback runs,
    /// and not needed afterwards: one static one will do. Called some hundred times: several state machines are there at once,
    /// each with a `user` of its own that its `destroy` frees.
    pub make: Option<unsafe extern "C" fn(user: *mut c_void) -> *const duramen_service>,
    /// The same for one whose state is in pages.
    pub make_paged: Option<unsafe extern "C" fn(user: *mut c_void) -> *const duramen_paged_service>,
    /// Writes the `index`-th operation (from 0; called once each, in order), drawn from the random number `random`, to `buf`: at most `cap` bytes (1 MiB),
    /// and how many to *len (it is 0 before). Reads and writes, of which many meet the same part of the state, test best.
    /// The same numbers must give the same bytes. Returns 0, or anything else to give up.
    pub operation: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            index: u64,
            random: u64,
            buf: *mut c_void,
            cap: usize,
            len: *mut usize,
        ) -> i32,
    >,
}

// SAFETY: repr(C), starts with struct_size; zeros are NULL pointers.
unsafe impl Grows for duramen_tested_service {
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// The symbol "duramen_test_services" of a shared object that `duramen test-service --library` is to test: returns the kind of state machine
/// at `index` (0, 1, ...), which lives as long as the process; NULL behind the last.
pub type duramen_test_services_fn =
    Option<unsafe extern "C" fn(index: usize) -> *const duramen_tested_service>;

/// Tests whether a state machine keeps the contract of duramen_service or duramen_paged_service: equal operations give equal replies, states and
/// page roots, on whatever thread and whatever else is in the process; queries change nothing; a snapshot stays as it was, also while it is
/// written by another thread; a state or pages taken over replace all of the one before and go on as the original does; bytes cut short,
/// lengthened, unreadable or bent are turned away without a trace, or make another state; no operation, however malformed, makes a
/// callback fail. One in eight of the operations is malformed by the library.
///
/// `operations`: how many, DURAMEN_TEST_OPERATIONS_MIN to ..._MAX, 256 MiB at most; the same `seed` draws the same ones. `report` gets a few lines of what the
/// run showed, with a NUL, `*len` (may be NULL) their length without it; DURAMEN_TEST_REPORT_BYTES are enough; NULL if `cap` is 0. The report
/// is the same in every process: compare those of two, as addresses, uninitialised memory and the time may differ between them alone.
/// The command `duramen test-service --library` does so.
///
/// Ownership: the struct and what it points to are the caller's, and not needed afterwards. Thread: any; takes a while. Callbacks: see
/// duramen_tested_service; all state machines are destroyed when this returns. Re-entrancy: callbacks may call anything.
///
/// Errors, with the details in duramen_errmsg(NULL): DURAMEN_E_CONTRACT (what is not kept), DURAMEN_E_CALLBACK (one of the callbacks failed),
/// DURAMEN_E_ARGUMENT, DURAMEN_E_ABI, DURAMEN_E_TOO_LARGE (more than 256 MiB), DURAMEN_E_BUFFER (it is kept, but the report did not fit), DURAMEN_E_IO (no threads).
///
/// # Safety
/// `tested` is NULL or has struct_size bytes, and its callbacks, and those that they give, may be called as the header says; `report` holds
/// `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_service_test(
    tested: *const duramen_tested_service,
    operations: u64,
    seed: u64,
    report: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    enter(|| {
        if report.is_null() && cap > 0 {
            return Err(Failure::argument("report is NULL, and its capacity is not 0"));
        }
        // SAFETY: the caller's promise.
        let kind = unsafe {
            copy_text("", report, cap);
            Kind::of(sized("tested", tested)?)?
        };
        let points = kind.test(operations, seed).map_err(|failure| Failure {
            message: format!("{}: {}", kind.name, failure.message),
            ..failure
        })?;
        // SAFETY: as above.
        unsafe {
            if cap == 0 {
                give(len, points.len());
                return Ok(DURAMEN_OK);
            }
            give_text(&points, report, cap, len)
        }
    })
}

/// Operations may take so much.
const OPERATION_BYTES_MAX: usize = 1 << 20;
/// All of them.
const OPERATIONS_BYTES_MAX: usize = 256 << 20;
/// Points of a run in the report.
const POINTS: usize = 8;
/// Messages are cut to this.
const SAID_BYTES_MAX: usize = 400;

/// What is to be tested.
struct Kind {
    table: duramen_tested_service,
    name: String,
}

impl Kind {
    /// # Safety
    /// `table.name` is NULL or a string.
    unsafe fn of(table: duramen_tested_service) -> Result<Self, Failure> {
        if table.make.is_some() == table.make_paged.is_some() {
            return Err(Failure::argument("one of make and make_paged must be set, and one NULL"));
        }
        if table.operation.is_none() {
            return Err(Failure::argument("operation is NULL: nothing makes operations"));
        }
        let name = match table.name.is_null() {
            true => "service",
            // SAFETY: the caller's promise.
            false => unsafe { text("name", table.name)? },
        };
        let name = name[..name.floor_char_boundary(64)].replace(char::is_control, " ");
        Ok(Self { table, name })
    }

    /// The report.
    fn test(&self, count: u64, seed: u64) -> Result<String, Failure> {
        let operations = self.operations(count, seed)?;
        let digest = operations.iter().fold([0; 32], |digest, operation| {
            DigestAlgorithm::Blake3.hash(&[&digest, &(operation.len() as u64).to_le_bytes(), operation]).0
        });
        let points = match self.table.make {
            Some(_) => test(
                || self.made(),
                &operations,
                |make, operations| {
                    two_replicas_agree(make, operations);
                    a_snapshot_stays_as_it_was(make, operations);
                    a_restored_replica_goes_on_as_the_original(make, operations);
                    // A host's code for a refusal does not say why.
                    let refused = |error: &RestoreError| {
                        matches!(error, RestoreError::Truncated { .. } | RestoreError::Malformed { .. })
                    };
                    refused_bytes_leave_the_state_as_it_was(make, operations, refused);
                    bent_bytes_do_not_pass(make, operations);
                    threads_change_nothing(make, operations);
                },
            ),
            // Damaged bytes and pages are turned away by the library.
            None => test(
                || self.made_paged(),
                &operations,
                |make, operations| {
                    two_replicas_agree(make, operations);
                    a_snapshot_stays_as_it_was(make, operations);
                    a_restored_replica_goes_on_as_the_original(make, operations);
                    threads_change_nothing(make, operations);
                    the_root_is_of_the_pages(make, operations);
                    pages_taken_over_go_on_as_the_original(make, operations);
                },
            ),
        }?;
        let digest = hex::encode(&digest[..8]);
        let head = format!("{}: {count} operations of seed {seed}: {digest}\n", self.name);
        Ok(points.iter().fold(head, |report, point| report + &format!("{point}\n")))
    }

    fn operations(&self, count: u64, seed: u64) -> Result<Vec<Vec<u8>>, Failure> {
        if !(DURAMEN_TEST_OPERATIONS_MIN..=DURAMEN_TEST_OPERATIONS_MAX).contains(&count) {
            return Err(Failure::argument(format!(
                "{count} operations: {DURAMEN_TEST_OPERATIONS_MIN} to {DURAMEN_TEST_OPERATIONS_MAX}"
            )));
        }
        let make = self.table.operation.expect("checked");
        let mut random = Random(seed);
        let mut room = vec![0u8; OPERATION_BYTES_MAX];
        let mut taken = 0;
        let mut all = Vec::new();
        for index in 0..count {
            let (mut len, cap) = (0, room.len());
            // SAFETY: room and length live until it returns; the rest is the host's contract.
            let code = unsafe {
                make(self.table.user, index, random.bits(), room.as_mut_ptr().cast(), cap, &raw mut len)
            };
            let gave_up =
                |what: String| Failure::new(DURAMEN_E_CALLBACK, format!("the operation callback {what}"));
            if code != 0 {
                return Err(gave_up(format!("returned {code} for operation {index}")));
            }
            let operation =
                room.get(..len).ok_or_else(|| gave_up(format!("wrote {len} bytes where {cap} fit")))?;
            let operation = random.sometimes_malformed(operation.to_vec());
            taken += operation.len();
            if taken > OPERATIONS_BYTES_MAX {
                let why = format!("the first {} operations take {taken} bytes: take fewer", index + 1);
                return Err(Failure::new(DURAMEN_E_TOO_LARGE, why));
            }
            all.push(operation);
        }
        Ok(all)
    }

    fn made(&self) -> Result<HostService, Failure> {
        // SAFETY: the host's contract.
        let table = unsafe { self.table.make.expect("checked")(self.table.user) };
        // SAFETY: as above.
        HostService::new(unsafe { given("make", table)? }, owner())
    }

    fn made_paged(&self) -> Result<HostPagedService, Failure> {
        // SAFETY: the host's contract.
        let table = unsafe { self.table.make_paged.expect("checked")(self.table.user) };
        // SAFETY: as above.
        HostPagedService::new(unsafe { given("make_paged", table)? }, owner())
    }
}

/// # Safety
/// As of [`sized`].
unsafe fn given<T: Grows>(by: &str, table: *const T) -> Result<T, Failure> {
    if table.is_null() {
        return Err(Failure::new(DURAMEN_E_CALLBACK, format!("{by} returned NULL")));
    }
    // SAFETY: the caller's promise.
    unsafe { sized(&format!("what {by} returned"), table) }
}

/// Not 0, so that `destroy` is called; and, being odd, no handle.
fn owner() -> Owner {
    Owner::new(1.into())
}

/// Runs the checks, then twice with different numbers of threads. What the second shows is the first's.
fn test<S: Service>(
    make: impl Fn() -> Result<S, Failure>,
    operations: &[Vec<u8>],
    checks: fn(&dyn Fn() -> S, &[Vec<u8>]),
) -> Result<Vec<Point>, Failure> {
    // The checks make them in between.
    let make = || make().unwrap_or_else(|failure| resume_unwind(Box::new(failure)));
    let traced = |threads| {
        let trace = with_pool(threads, |pool| trace(make(), operations, POINTS, Some(pool)));
        trace.map_err(|why| Failure::new(DURAMEN_E_IO, why.to_string()))
    };
    finding(|| {
        checks(&make, operations);
        let (one, other) = (traced(1)?, traced(4)?);
        match one.iter().zip(&other).find(|(one, other)| one != other) {
            None => Ok(one),
            Some((one, other)) => {
                Err(Failure::new(DURAMEN_E_CONTRACT, format!("two runs differ: {one}, and {other}")))
            }
        }
    })
    .unwrap_or_else(|found| Err(failure(found)))
}

/// What unwound a test.
fn failure(found: Box<dyn Any + Send>) -> Failure {
    let found = match found.downcast::<Failure>() {
        Ok(failure) => return *failure,
        Err(found) => found,
    };
    if found.is::<ServiceFailed>() {
        return Failure::new(DURAMEN_E_CALLBACK, failure_text(&*found));
    }
    let said = match (found.downcast_ref::<String>(), found.downcast_ref::<&str>()) {
        (Some(said), _) => said,
        (_, said) => said.copied().unwrap_or("a check failed"),
    };
    // What differs comes behind the reason, and may be long.
    let said = said
        .strip_prefix("assertion `left ")
        .and_then(|said| said.split_once("= right` failed: "))
        .map_or(said, |said| said.1);
    let said = &said[..said.floor_char_boundary(SAID_BYTES_MAX)];
    Failure::new(DURAMEN_E_CONTRACT, said.split_whitespace().collect::<Vec<_>>().join(" "))
}
