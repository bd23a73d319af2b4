//! Checks that a [`Service`] keeps its contract, for the tests of anybody who writes one. They panic with what is wrong.

use std::any::Any;
use std::fmt;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use bytes::Bytes;

pub use super::conformance_pages::*;
use super::{Context, RestoreError, Service, Snapshot};
use crate::hex;
use crate::types::{ClientId, Digest, DigestAlgorithm, Seq, SessionId, WallTime};

/// The context of the `i`-th operation of a test: a batch of its own, times and seeds that differ.
pub fn context(i: u64) -> Context {
    Context {
        seq: Seq(i + 1),
        index: 0,
        time: WallTime(1_000_000_000 + i * 1_000),
        seed: (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        client: ClientId((i % 7) as u32),
        session: SessionId(i % 11 + 1),
    }
}

/// The canonical bytes, checked against [`Snapshot::bytes`].
pub fn bytes_of(snapshot: &dyn Snapshot) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(why) = snapshot.write_to(&mut bytes) {
        panic!("a snapshot is not written: {why}");
    }
    assert_eq!(bytes.len() as u64, snapshot.bytes(), "a snapshot knows its length");
    bytes
}

/// Runs all checks on services that `make` makes and the operations given, malformed ones and reads among them.
pub fn check<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    two_replicas_agree(&make, operations);
    a_snapshot_stays_as_it_was(&make, operations);
    a_restored_replica_goes_on_as_the_original(&make, operations);
    bad_bytes_leave_the_state_as_it_was(&make, operations);
    bent_bytes_do_not_pass(&make, operations);
    threads_change_nothing(&make, operations);
    the_root_is_of_the_pages(&make, operations);
    pages_taken_over_go_on_as_the_original(&make, operations);
    bad_pages_do_not_pass(&make, operations);
}

/// Runs all checks and says what is wrong, a panic of the service's own included.
pub fn find_fault<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) -> Result<(), String> {
    let said = |panic: Box<dyn Any + Send>| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or_else(|| "a panic".into(), |text| text.to_string()),
    };
    // The services that a panic leaves behind are dropped, not used.
    catch_unwind(AssertUnwindSafe(|| check(make, operations))).map_err(said)
}

/// What a run shows at one point of it. Equal in every process, on any number of threads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Point {
    /// Operations executed.
    pub executed: u64,
    /// Digest of all replies so far.
    pub replies: Digest,
    /// Digest of the canonical bytes.
    pub state: Digest,
    /// Root of the pages, if there are any.
    pub root: Option<Digest>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root.map_or("none: not paged".into(), |root| hex::encode(&root.0));
        let (replies, state) = (hex::encode(&self.replies.0[..8]), hex::encode(&self.state.0));
        write!(f, "after {} operations: replies {replies} state {state} root {root}", self.executed)
    }
}

/// Runs with a pool of so many threads, which have ended when this returns.
pub fn with_pool<R>(
    threads: usize,
    run: impl FnOnce(&rayon::ThreadPool) -> R,
) -> Result<R, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_scoped(|thread| thread.run(), run)
}

/// Runs the operations once and shows so many points of the run, the last at its end.
pub fn trace(
    mut service: impl Service,
    operations: &[impl AsRef<[u8]>],
    points: usize,
    pool: Option<&rayon::ThreadPool>,
) -> Vec<Point> {
    let algorithm = DigestAlgorithm::Blake3;
    let mut replies = Digest::ZERO;
    let cut = |i: usize| operations.len() * i / points;
    let point = |i: usize| {
        for reply in run(&mut service, &operations[..cut(i + 1)], cut(i)) {
            replies = algorithm.hash(&[&replies.0, &reply]);
        }
        let root = root(&*service.snapshot(), pool);
        Point { executed: cut(i + 1) as u64, replies, state: service.digest(algorithm), root }
    };
    (0..points).map(point).collect()
}

pub(super) fn run(service: &mut impl Service, operations: &[impl AsRef<[u8]>], from: usize) -> Vec<Bytes> {
    let numbered = operations.iter().enumerate().skip(from);
    numbered.map(|(i, operation)| begin(service, i as u64, operation.as_ref())).collect()
}

/// What the operation is replied, and the replies to those that waited for it, as one.
fn begin(service: &mut impl Service, i: u64, operation: &[u8]) -> Bytes {
    let reply = service.begin(&context(i), operation);
    let answers = service.answers();
    match reply {
        Some(reply) if answers.is_empty() => reply,
        reply => format!("{reply:?} and {answers:?}").into(),
    }
}

fn assert_same(a: &impl Service, b: &impl Service, when: &str) {
    assert!(bytes_of(&*a.snapshot()) == bytes_of(&*b.snapshot()), "canonical bytes differ {when}");
    assert_eq!(a.digest(DigestAlgorithm::Blake3), b.digest(DigestAlgorithm::Blake3), "digests differ {when}");
}

/// The same operations give the same replies and states; a digest is that of the canonical bytes; reads change nothing.
pub fn two_replicas_agree<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    let (mut a, mut b) = (make(), make());
    for (i, operation) in operations.iter().enumerate() {
        let operation = operation.as_ref();
        // One of the two is also read from, in between: the order of execution does not know.
        let read = a.query(operation);
        assert_eq!(read, a.query(operation), "reading twice differs at operation {i}");
        let replies = [&mut a, &mut b].map(|service| begin(service, i as u64, operation));
        assert_eq!(replies[0], replies[1], "replies differ at operation {i}");
        if let Some(version) = read.version {
            assert!(version <= Seq(i as u64), "a version from the future at operation {i}");
        }
    }
    assert_same(&a, &b, "after the same operations");
    let bytes = bytes_of(&*a.snapshot());
    for algorithm in [DigestAlgorithm::Blake3, DigestAlgorithm::Sha256, DigestAlgorithm::Sha512] {
        assert_eq!(a.digest(algorithm), algorithm.hash(&[&bytes]), "the digest is of the canonical bytes");
    }
}

/// Writes after a snapshot do not show in it.
pub fn a_snapshot_stays_as_it_was<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    let mut service = make();
    let step = operations.len() / 4 + 1;
    let mut taken = Vec::new();
    for from in (0..operations.len()).step_by(step) {
        let snapshot = service.snapshot();
        taken.push((bytes_of(&*snapshot), snapshot));
        run(&mut service, &operations[..operations.len().min(from + step)], from);
    }
    for (before, snapshot) in taken {
        assert!(bytes_of(&*snapshot) == before, "a snapshot changed");
    }
}

/// One that executed the first half, and one with another state, which must not shine through what it takes over.
pub(super) fn halfway<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) -> (S, S, usize) {
    let (mut original, mut other) = (make(), make());
    let half = operations.len() / 2;
    run(&mut original, &operations[..half], 0);
    // Not as many: the number may be all there is to a state.
    run(&mut other, &operations[operations.len().min(half + 1)..], 0);
    (original, other, half)
}

/// A service restored in the middle has the same state and gives the same replies from there on.
pub fn a_restored_replica_goes_on_as_the_original<S: Service>(
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
) {
    let (mut original, mut restored, half) = halfway(make, operations);
    let bytes = bytes_of(&*original.snapshot());
    if let Err(why) = restored.restore(&mut bytes.as_slice()) {
        panic!("bytes that a snapshot wrote are turned away: {why}");
    }
    assert_same(&original, &restored, "after a restore");
    for operation in operations {
        assert_eq!(original.query(operation.as_ref()), restored.query(operation.as_ref()), "reads differ");
    }
    assert_eq!(run(&mut original, operations, half), run(&mut restored, operations, half), "replies differ");
    assert_same(&original, &restored, "some operations after a restore");
}

/// Truncated and lengthened bytes and failing readers are refused; the state stays as it was.
pub fn bad_bytes_leave_the_state_as_it_was<S: Service>(
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
) {
    let truncated = |error: &RestoreError| matches!(error, RestoreError::Truncated { .. });
    refused_bytes_leave_the_state_as_it_was(make, operations, truncated);
}

/// `says_cut`: what a cut is refused as.
pub(crate) fn refused_bytes_leave_the_state_as_it_was<S: Service>(
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
    says_cut: impl Fn(&RestoreError) -> bool,
) {
    let (mut original, mut service) = (make(), make());
    run(&mut original, operations, 0);
    let bytes = bytes_of(&*original.snapshot());
    // Another state: what a refused restore leaves of the original's shows.
    run(&mut service, &operations[..operations.len().min(10)], 0);
    let before = bytes_of(&*service.snapshot());
    // Some hundred cuts, all of those near the ends.
    let step = bytes.len() / 200 + 1;
    let near_ends = |cut: usize| cut < 64 || bytes.len() - cut < 64;
    for cut in (0..bytes.len()).filter(|&cut| cut % step == 0 || near_ends(cut)) {
        let error = service.restore(&mut &bytes[..cut]);
        assert!(error.as_ref().is_err_and(&says_cut), "cut to {cut} bytes: {error:?}");
        let error = service.restore(&mut (&bytes[..cut]).chain(Broken));
        assert!(matches!(error, Err(RestoreError::Read(_))), "broken after {cut} bytes: {error:?}");
    }
    let error = service.restore(&mut bytes.as_slice().chain(&[0u8][..]));
    assert!(matches!(error, Err(RestoreError::Malformed { .. })), "one byte more: {error:?}");
    assert!(bytes_of(&*service.snapshot()) == before, "a refused restore changed the state");
}

/// A bit turned over anywhere is refused, and the state stays as it was; or it makes a state with another digest.
pub fn bent_bytes_do_not_pass<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    let mut service = make();
    run(&mut service, operations, 0);
    let mut bytes = bytes_of(&*service.snapshot());
    let digest = service.digest(DigestAlgorithm::Blake3);
    let step = bytes.len() / 100 + 1;
    for at in (0..bytes.len()).filter(|at| at % step == 0 || *at < 64) {
        bytes[at] ^= 1 << (at / step % 8);
        let mut other = make();
        let before = bytes_of(&*other.snapshot());
        match other.restore(&mut bytes.as_slice()) {
            Err(_) => assert!(bytes_of(&*other.snapshot()) == before, "a refused restore changed the state"),
            Ok(()) => {
                assert_ne!(
                    other.digest(DigestAlgorithm::Blake3),
                    digest,
                    "the bit at {at} makes no difference"
                );
                run(&mut other, &operations[..operations.len().min(100)], 0);
            }
        }
        bytes[at] ^= 1 << (at / step % 8);
    }
}

/// Executing on one thread after the other, while yet others write and drop the snapshots taken before, gives the same replies and bytes.
pub fn threads_change_nothing<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    let operations: Vec<&[u8]> = operations.iter().map(AsRef::as_ref).collect();
    let (mut straight, mut moved) = (make(), make());
    let step = operations.len() / 4 + 1;
    for from in (0..operations.len()).step_by(step) {
        let upto = &operations[..operations.len().min(from + step)];
        let before = bytes_of(&*straight.snapshot());
        let snapshot = moved.snapshot();
        let (replies, written) = thread::scope(|scope| {
            let executes = scope.spawn(|| run(&mut moved, upto, from));
            let writes = scope.spawn(move || {
                let mut bytes = Vec::new();
                snapshot.write_to(&mut bytes).map(|()| bytes)
            });
            let (replies, written) = (executes.join(), writes.join());
            (
                replies.unwrap_or_else(|panic| resume_unwind(panic)),
                written.unwrap_or_else(|panic| resume_unwind(panic)),
            )
        });
        let written = written.unwrap_or_else(|why| panic!("a snapshot is not written: {why}"));
        assert!(
            written == before,
            "a snapshot written on another thread, while operations are executed, differs"
        );
        assert!(
            replies == run(&mut straight, upto, from),
            "replies differ on another thread, from operation {from} on"
        );
    }
    assert_same(&straight, &moved, "after execution on other threads");
}

/// An input that fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("broken"))
    }
}
