use crate::identity::*;

#[test]
fn a_signature_is_valid_under_its_key_and_message_only() {
    let alice = Identity::from_seed([1; 32]);
    let bob = Identity::generate().unwrap();
    let signature = alice.sign(b"decided");
    assert!(verify(&alice.public_key(), b"decided", &signature));
    assert!(!verify(&bob.public_key(), b"decided", &signature));
    assert!(!verify(&alice.public_key(), b"Decided", &signature));
    assert!(!verify(&alice.public_key(), b"decided", &signature[..63]));
    let mut flipped = signature;
    flipped[40] ^= 1;
    assert!(!verify(&alice.public_key(), b"decided", &flipped));
}

#[test]
fn a_seed_gives_the_key_of_rfc_8032_test_1() {
    let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(Identity::from_seed(seed).public_key(), public);
}

#[test]
fn a_public_key_survives_its_der_form_and_other_der_is_refused() {
    let key = Identity::from_seed([7; 32]).public_key();
    let der = spki(&key);
    assert_eq!(key_of_spki(&der), Some(key));
    assert_eq!(key_of_spki(&der[..43]), None);
    let mut other = der;
    other[8] ^= 1;
    assert_eq!(key_of_spki(&other), None);
    assert_eq!(key_of_spki(&[]), None);
}

#[test]
fn a_private_key_is_never_printed() {
    let identity = Identity::from_seed([0xab; 32]);
    assert!(!format!("{identity:?}").contains("abab"));
}

fn hex(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
    }
    out
}
