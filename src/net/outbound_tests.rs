use super::framing::Frame;
use super::outbound::*;
use bytes::Bytes;
use std::io::IoSlice;

fn frame(len: usize) -> Frame {
    Frame::new(1, vec![7; len].into())
}

fn gathered(queue: &Queue, bytes_max: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); GATHER_MAX];
    let n = queue.gather(&mut slices, bytes_max);
    slices[..n].iter().flat_map(|slice| slice.to_vec()).collect()
}

#[test]
fn a_full_queue_turns_the_newest_frame_away_and_keeps_the_others() {
    let mut queue = Queue::new(1000);
    let mut taken = 0;
    while queue.push(frame(100)).is_ok() {
        taken += 1;
        assert!(queue.bytes() <= 1000);
    }
    assert_eq!(taken, 1000 / (116 + FRAME_COST));
    assert_eq!(gathered(&queue, usize::MAX).len(), taken * 116);
}

#[test]
fn empty_frames_are_bounded_too() {
    let mut queue = Queue::new(10_000);
    let taken = (0..10_000).take_while(|_| queue.push(frame(0)).is_ok()).count();
    assert!(taken < 100);
}

#[test]
fn an_empty_queue_takes_a_frame_larger_than_its_bound() {
    let mut queue = Queue::new(10);
    assert_eq!(queue.push(frame(100)), Ok(()));
    assert_eq!(queue.push(frame(0)), Err(Full));
}

#[test]
fn what_is_written_in_odd_pieces_adds_up_to_what_was_queued() {
    let mut queue = Queue::new(usize::MAX);
    let mut expected = Vec::new();
    for len in [0, 5, 300, 1, 0, 77] {
        let parts = [Bytes::from(vec![1; len / 2]), Bytes::from(vec![2; len - len / 2])];
        let frame = Frame::of_parts(9, parts);
        frame.slices(0).for_each(|slice| expected.extend_from_slice(&slice));
        queue.push(frame).unwrap();
    }
    let (mut written, mut frames, mut step) = (Vec::new(), 0, 1);
    while !queue.is_empty() {
        let next = gathered(&queue, 64);
        let n = next.len().min(step);
        written.extend_from_slice(&next[..n]);
        frames += queue.consume(n);
        step = step % 23 + 3;
    }
    assert_eq!((written, frames, queue.bytes()), (expected, 6, 0));
}
