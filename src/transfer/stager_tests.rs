use super::image::{Manifest, PartManifest};
use super::leecher::Target;
use super::stager::{Stager, ToStager};
use super::staging;
use crate::types::*;
use crate::wire::messages::StateCertificate;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn target() -> Target {
    let part = |pages| PartManifest { header: Bytes::new(), pages, nodes: Vec::new() };
    let manifest = Manifest { seq: Seq(9), time: WallTime(0), paged: true, parts: [part(0), part(3)] };
    let mark = StateCertificate::default();
    Target { mark, manifest, digests: [Vec::new(), vec![Digest([1; 32]); 3]] }
}

#[test]
fn a_late_chunk_of_another_file_is_left_out_and_keeps_nothing_unwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (staging, appender, kept) =
        staging::begin(dir.path(), &target(), DigestAlgorithm::default()).unwrap();
    assert_eq!(kept, 0);
    let staging = Arc::new(staging);
    let (told, written) = channel();
    let (goes_on, held) = channel::<()>();
    let stager = Stager::start(move |file, bytes| {
        told.send((file, bytes.unwrap())).unwrap();
        held.recv().unwrap();
    });
    let stager = stager.unwrap();
    let send = |task| stager.inbox().send(task).unwrap();
    let chunk = |file, chunk| ToStager::Chunk(file, chunk, Bytes::from(vec![chunk as u8; 100]));
    send(ToStager::Begin(2, staging.clone(), appender));
    send(chunk(2, 0));
    assert_eq!(written.recv_timeout(PATIENCE).unwrap(), (2, 100));
    // Both wait behind the first one.
    send(chunk(2, 1));
    send(chunk(1, 2));
    goes_on.send(()).unwrap();
    assert_eq!(written.recv_timeout(PATIENCE).unwrap(), (2, 100));
    assert_eq!([0, 1, 2].map(|chunk| staging.has(chunk)), [true, true, false]);
    goes_on.send(()).unwrap();
    // The file of a fetch that ended is let go.
    send(ToStager::End);
    let until = Instant::now() + PATIENCE;
    while Arc::strong_count(&staging) > 1 {
        assert!(Instant::now() < until, "the file is closed");
        std::thread::sleep(Duration::from_millis(1));
    }
    send(chunk(2, 2));
    drop(stager);
    assert!(!staging.has(2) && written.try_recv().is_err());
}
