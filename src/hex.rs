//! Fixed-size byte strings as lower-case hexadecimal text, for configuration and key files.

use serde::Deserialize;

/// `bytes` as two digits each.
pub fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// The `N` bytes that `text` spells with exactly `2 * N` digits of either case; `None` for anything else.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}

/// For `#[serde(deserialize_with)]`: says how many digits are expected and never repeats what stood there, because
/// it may be part of a secret.
pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>, const N: usize>(
    from: D,
) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(from)?;
    decode(&text).ok_or_else(|| wrong_length(text.chars().count(), 2 * N))
}

/// As [`deserialize`], for a list.
pub(crate) fn deserialize_list<'de, D: serde::Deserializer<'de>, const N: usize>(
    from: D,
) -> Result<Vec<[u8; N]>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|t| decode(t).ok_or_else(|| wrong_length(t.chars().count(), 2 * N))).collect()
}

fn wrong_length<E: serde::de::Error>(found: usize, expected: usize) -> E {
    if found == expected {
        E::custom(format!("these {expected} characters are not all hexadecimal digits"))
    } else {
        E::custom(format!("{expected} hexadecimal digits are expected here, found {found} characters"))
    }
}
