//! Checks that a [`Service`] keeps its contract, for the tests of anybody who writes one. They panic with what is wrong.

use std::io::Read;

use bytes::Bytes;

use super::{Context, RestoreError, Service, Snapshot};
use crate::types::{ClientId, DigestAlgorithm, Seq, SessionId, WallTime};

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
    snapshot.write_to(&mut bytes).expect("memory takes all");
    assert_eq!(bytes.len() as u64, snapshot.bytes(), "a snapshot knows its length");
    bytes
}

/// Runs all checks on services that `make` makes and the operations given, malformed ones and reads among them.
pub fn check<S: Service>(make: impl Fn() -> S, operations: &[impl AsRef<[u8]>]) {
    two_replicas_agree(&make, operations);
    a_snapshot_stays_as_it_was(&make, operations);
    a_restored_replica_goes_on_as_the_original(&make, operations);
    bad_bytes_leave_the_state_as_it_was(&make, operations);
}

fn run(service: &mut impl Service, operations: &[impl AsRef<[u8]>], from: usize) -> Vec<Bytes> {
    let numbered = operations.iter().enumerate().skip(from);
    numbered.map(|(i, operation)| service.execute(&context(i as u64), operation.as_ref())).collect()
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
        let replies = [&mut a, &mut b].map(|service| service.execute(&context(i as u64), operation));
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

/// A service restored in the middle has the same state and gives the same replies from there on.
pub fn a_restored_replica_goes_on_as_the_original<S: Service>(
    make: impl Fn() -> S,
    operations: &[impl AsRef<[u8]>],
) {
    let (mut original, mut restored) = (make(), make());
    let half = operations.len() / 2;
    run(&mut original, &operations[..half], 0);
    // What stood there before does not shine through.
    run(&mut restored, &operations[half..], 0);
    let bytes = bytes_of(&*original.snapshot());
    restored.restore(&mut bytes.as_slice()).expect("its own bytes");
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
    let mut service = make();
    run(&mut service, operations, 0);
    let bytes = bytes_of(&*service.snapshot());
    // Some hundred cuts, all of those near the ends.
    let step = bytes.len() / 200 + 1;
    let near_ends = |cut: usize| cut < 64 || bytes.len() - cut < 64;
    for cut in (0..bytes.len()).filter(|&cut| cut % step == 0 || near_ends(cut)) {
        let error = service.restore(&mut &bytes[..cut]);
        assert!(matches!(error, Err(RestoreError::Truncated { .. })), "cut to {cut} bytes: {error:?}");
        let error = service.restore(&mut (&bytes[..cut]).chain(Broken));
        assert!(matches!(error, Err(RestoreError::Read(_))), "broken after {cut} bytes: {error:?}");
    }
    let error = service.restore(&mut bytes.as_slice().chain(&[0u8][..]));
    assert!(matches!(error, Err(RestoreError::Malformed { .. })), "one byte more: {error:?}");
    assert!(bytes_of(&*service.snapshot()) == bytes, "a refused restore changed the state");
}

/// An input that fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("broken"))
    }
}
