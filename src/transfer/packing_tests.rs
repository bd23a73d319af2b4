//! Chunks as they travel.

use super::packing::*;
use crate::sim::random::Random;
use bytes::Bytes;
use lz4_flex::block;

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.next() as u8).collect()
}

/// One half can be compressed.
fn mixed(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(length, seed);
    bytes.chunks_mut(32).step_by(2).for_each(|line| line.fill(1));
    bytes
}

#[test]
fn what_is_packed_is_smaller_and_comes_out_as_it_was() {
    for length in [256, 1000, 2048, 4096, 65_536, 65_537, 1 << 20] {
        for raw in [vec![3; length], mixed(length, 7)] {
            let packed = Packer::default().pack(&raw).expect("it can be compressed");
            assert!(packed.len() * 8 <= raw.len() * 7, "{length}");
            let body = Body::packed(packed.clone(), raw.len() as u32);
            assert_eq!((body.len(), body.sent()), (raw.len() as u64, packed.len() as u64));
            assert_eq!(body.open().as_deref(), Some(&raw[..]));
        }
    }
}

#[test]
fn noise_and_crumbs_stay_as_they_are() {
    for length in [0, 1, 64, 255, 256, 3000, 65_536, 1 << 20] {
        assert_eq!(Packer::default().pack(&noise(length, 1)), None, "{length}");
    }
    assert_eq!(Packer::default().pack(&[0; 255]), None);
    assert_eq!(Packer::default().pack(&vec![0; UNPACKED_MAX + 1]), None);
}

/// Of many that cannot be compressed every eighth is looked at, and one that can is found soon.
#[test]
fn noise_is_not_looked_at_for_ever_and_its_end_is_noticed() {
    let (raw, text) = (noise(65_536, 3), vec![b'a'; 65_536]);
    let mut packer = Packer::default();
    (0..100).for_each(|_| assert_eq!(packer.pack(&raw), None));
    let until = (1..20).find(|_| packer.pack(&text).is_some()).expect("it looks again");
    assert!((2..=8).contains(&until), "{until}");
    (0..20).for_each(|_| assert!(packer.pack(&text).is_some(), "from then on all"));
}

/// A length is believed only as far as LZ4 can reach, and never beyond the bound.
#[test]
fn a_bomb_gets_no_memory() {
    let few = Bytes::from(block::compress(&vec![0; 1 << 20]));
    for holds in [u32::MAX, UNPACKED_MAX as u32 + 1, 255 * few.len() as u32 + 1] {
        let body = Body::packed(few.clone(), holds);
        assert_eq!(body.len(), few.len() as u64, "what it claims does not count");
        assert_eq!(body.open(), None);
    }
    // More or less than it holds is wrong as well.
    for holds in [0, 1, (1 << 20) - 1, (1 << 20) + 1] {
        assert_eq!(Body::packed(few.clone(), holds).open(), None, "{holds}");
    }
    assert!(Body::packed(few, 1 << 20).open().is_some());
}

#[test]
fn nothing_that_a_peer_sends_makes_it_panic() {
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut bytes = match random.below(2) {
            0 => noise(random.below(200) as usize, seed),
            _ => block::compress(&mixed(random.below(3000) as usize, seed)),
        };
        for _ in 0..random.below(4) {
            if !bytes.is_empty() {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= random.next() as u8;
            }
        }
        let holds = random.below(4000) as u32;
        if let Some(out) = Body::packed(bytes.into(), holds).open() {
            assert_eq!(out.len(), holds as usize);
        }
    }
}
