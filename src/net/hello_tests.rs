use super::Peer;
use super::hello::*;
use crate::types::{ClientId, ClusterId, ReplicaId};

fn hello(me: Peer) -> Hello {
    Hello { cluster: ClusterId([3; 16]), me, expected: 2, tag: *b"tagtagta" }
}

#[test]
fn a_greeting_is_read_as_it_was_written() {
    for me in [Peer::Replica(ReplicaId(7)), Peer::Client(ClientId(u32::MAX))] {
        let bytes = hello(me).encode();
        assert!(bytes.len() <= GREETING_BYTES_MAX as usize);
        assert_eq!(Hello::decode(&bytes), Ok(hello(me)));
    }
}

#[test]
fn a_greeting_of_another_version_is_named_as_such_whatever_follows() {
    let mut bytes = hello(Peer::Replica(ReplicaId(1))).encode().to_vec();
    bytes[8] = 77;
    bytes.extend_from_slice(b"fields of the future");
    let (refusal, text) = Hello::decode(&bytes).unwrap_err();
    assert_eq!(refusal, Refusal::WrongVersion);
    assert!(text.contains("77"), "{text}");
}

#[test]
fn anything_else_is_no_greeting() {
    let good = hello(Peer::Replica(ReplicaId(1))).encode().to_vec();
    for len in 0..good.len() {
        assert_eq!(Hello::decode(&good[..len]).unwrap_err().0, Refusal::NotAHello, "{len} bytes");
    }
    for (offset, value) in [(0, b'x'), (10, 0), (10, 3), (11, 1)] {
        let mut bad = good.clone();
        bad[offset] = value;
        assert_eq!(Hello::decode(&bad).unwrap_err().0, Refusal::NotAHello, "offset {offset}");
    }
}

#[test]
fn the_text_of_a_refusal_is_one_short_printable_line() {
    let evil = format!("\x1b[31mhello\r\nERROR forged line\u{202e}{}", "x".repeat(10_000));
    let bytes = encode_refused(Refusal::UnknownKey, &evil);
    assert!(bytes.len() <= GREETING_BYTES_MAX as usize);
    let mut forged = (Refusal::UnknownKey as u16).to_le_bytes().to_vec();
    forged.extend_from_slice(evil.as_bytes());
    for bytes in [&bytes[..], &forged] {
        let (refusal, text) = decode_refused(bytes).unwrap();
        assert_eq!(refusal, Refusal::UnknownKey);
        assert!(text.len() <= 200 && text.bytes().all(|b| (0x20..0x7f).contains(&b)), "{text}");
    }
    assert_eq!(decode_refused(&[1]), None);
    assert_eq!(decode_refused(&[0xff, 0xff, b'a']), None);
}
