use super::framing::*;
use bytes::Bytes;
use std::io::IoSlice;

const MAX: u32 = 1 << 20;

fn wire(frame: &Frame) -> Vec<u8> {
    frame.slices(0).flat_map(|slice| slice.to_vec()).collect()
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i * 7 + i / 253) as u8).collect::<Vec<_>>().into()
}

/// Everything that comes out of `bytes` given in pieces of `piece`.
fn assemble(bytes: &[u8], piece: usize) -> Result<Vec<(u16, Bytes)>, FrameError> {
    let mut assembler = Assembler::new(MAX);
    let mut frames = Vec::new();
    for mut input in bytes.chunks(piece) {
        while let Some(frame) = assembler.next(&mut input)? {
            frames.push(frame);
        }
        assert!(input.is_empty());
    }
    Ok(frames)
}

#[test]
fn frames_come_out_the_same_however_the_stream_is_cut() {
    let sizes = [0, 1, 15, 16, 17, 1000, 0, 70_000, 3];
    let bytes: Vec<u8> =
        sizes.iter().enumerate().flat_map(|(i, len)| wire(&Frame::new(i as u16, pattern(*len)))).collect();
    for piece in [1, 2, 7, 15, 16, 17, 33, 1000, 4096, 65_536, bytes.len()] {
        let frames = assemble(&bytes, piece).unwrap();
        assert_eq!(frames.len(), sizes.len(), "pieces of {piece}");
        for (i, (kind, payload)) in frames.into_iter().enumerate() {
            assert!((kind, payload) == (i as u16, pattern(sizes[i])), "frame {i}, pieces of {piece}");
        }
    }
}

#[test]
fn a_payload_of_parts_equals_the_same_payload_in_one() {
    let whole = pattern(5000);
    for cuts in [vec![], vec![0], vec![1, 2], vec![10, 20, 30, 4000], vec![5000], (1..100).collect()] {
        let mut parts = Vec::new();
        let mut start = 0;
        for cut in cuts.iter().copied().chain([5000]) {
            parts.push(whole.slice(start..cut));
            start = cut;
        }
        assert_eq!(wire(&Frame::of_parts(5, parts)), wire(&Frame::new(5, whole.clone())), "{cuts:?}");
    }
    let frame = Frame::new(5, whole);
    assert_eq!((frame.kind(), frame.payload_bytes(), frame.wire_bytes()), (5, 5000, 5016));
}

#[test]
fn the_slices_of_a_frame_begin_where_the_last_write_ended() {
    let frame = Frame::of_parts(1, [pattern(10), pattern(20), pattern(5)]);
    let all = wire(&frame);
    for skip in 0..=all.len() {
        let rest: Vec<IoSlice> = frame.slices(skip).collect();
        assert!(rest.iter().all(|slice| !slice.is_empty()));
        let bytes: Vec<u8> = rest.iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(bytes, all[skip..]);
    }
}

#[test]
fn the_layout_of_a_header_is_the_one_documented() {
    let bytes = wire(&Frame::new(0x1234, Bytes::from_static(b"abc")));
    assert_eq!(bytes[..8], [3, 0, 0, 0, 0x34, 0x12, 0, 0]);
    let crc = crc32c::crc32c(&[&bytes[..8], &bytes[12..]].concat());
    assert_eq!(bytes[8..12], crc.to_le_bytes());
    assert_eq!(bytes[12..], [0, 0, 0, 0, b'a', b'b', b'c']);
}

#[test]
fn a_truncated_frame_is_waited_for_and_not_delivered() {
    let bytes = wire(&Frame::new(1, pattern(100)));
    for cut in 0..bytes.len() {
        assert_eq!(assemble(&bytes[..cut], 64), Ok(vec![]));
    }
}

#[test]
fn a_length_over_the_cap_is_refused_before_anything_is_allocated() {
    let mut assembler = Assembler::new(64);
    let bytes = wire(&Frame::new(1, pattern(65)));
    assert_eq!(assembler.next(&mut &bytes[..HEADER_BYTES]), Err(FrameError::TooLong { length: 65, max: 64 }));
    let mut assembler = Assembler::new(u32::MAX - 1);
    assert!(matches!(assembler.next(&mut &[0xff; 16][..]), Err(FrameError::TooLong { .. })));
    // What is promised but not sent takes addresses only: this would not fit into any test machine otherwise.
    let mut many: Vec<_> = (0..2000).map(|_| Assembler::new(MAX << 6)).collect();
    let mut header = [0; 16];
    header[..4].copy_from_slice(&(MAX << 6).to_le_bytes());
    for assembler in &mut many {
        assert_eq!(assembler.next(&mut &header[..]), Ok(None));
    }
}

#[test]
fn any_single_flipped_bit_is_noticed() {
    let bytes = wire(&Frame::new(3, pattern(40)));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A flip in the length that makes the frame longer leaves it unfinished; no flip delivers one.
        assert!(assemble(&bad, 1000).map_or(true, |frames| frames.is_empty()), "bit {bit}");
    }
}

#[test]
fn zeros_are_no_frame() {
    assert_eq!(assemble(&[0; 64], 64), Err(FrameError::Checksum));
}

#[test]
fn unknown_flags_and_reserved_bytes_are_refused() {
    for offset in [6, 7, 12, 13, 14, 15] {
        let mut bytes = wire(&Frame::new(3, pattern(4)));
        bytes[offset] = 1;
        assert_eq!(assemble(&bytes, 100), Err(FrameError::Flags), "offset {offset}");
    }
}

#[test]
fn a_large_frame_is_read_straight_into_its_own_buffer() {
    let bytes = wire(&Frame::new(2, pattern(700_000)));
    let mut assembler = Assembler::new(MAX);
    assert!(assembler.room().is_none());
    let (first, mut rest) = bytes.split_at(1000);
    assert_eq!(assembler.next(&mut &first[..]), Ok(None));
    let (mut direct, mut out) = (0, None);
    while let Some(room) = assembler.room() {
        let n = room.len().min(rest.len()).min(77_777);
        room[..n].copy_from_slice(&rest[..n]);
        rest = &rest[n..];
        direct += n;
        assembler.filled(n);
        out = assembler.next(&mut &[][..]).unwrap();
    }
    assert!(direct > 600_000);
    if out.is_none() {
        out = assembler.next(&mut rest).unwrap();
    }
    assert!(out == Some((2, pattern(700_000))) && rest.is_empty());
}

#[test]
fn a_payload_is_a_buffer_of_its_own_size() {
    let bytes = [wire(&Frame::new(1, pattern(10))), wire(&Frame::new(1, pattern(5000)))].concat();
    for (_, payload) in assemble(&bytes, bytes.len()).unwrap() {
        let len = payload.len();
        let buffer: Vec<u8> = Vec::from(payload);
        assert_eq!(buffer.capacity(), len);
    }
}

/// Seeded: valid streams with mutations, cut anywhere. Never a panic; what comes out was put in.
#[test]
fn mutated_streams_deliver_nothing_that_was_not_sent() {
    for seed in 1..=2000u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let sent: Vec<_> = (0..1 + random(8)).map(|i| (i as u16, pattern(random(300)))).collect();
        let mut bytes: Vec<u8> =
            sent.iter().flat_map(|(kind, payload)| wire(&Frame::new(*kind, payload.clone()))).collect();
        for _ in 0..random(4) {
            let at = random(bytes.len());
            match random(5) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at + 1),
                3 => bytes.insert(at, random(256) as u8),
                _ => {
                    let upto = at + random(bytes.len() - at);
                    let again = bytes[at..upto].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        let mut assembler = Assembler::new(4096);
        let mut rest = &bytes[..];
        'stream: while !rest.is_empty() {
            let (mut input, later) = rest.split_at(1 + random(rest.len()));
            rest = later;
            loop {
                match assembler.next(&mut input) {
                    Ok(Some(frame)) => assert!(sent.contains(&frame), "seed {seed}: {frame:?}"),
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
    }
}
