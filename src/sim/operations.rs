//! What simulated clients ask of the key-value store: any bytes stand for an operation on one of a few keys.

use crate::service::{KvOperation, KvWrite};
use bytes::Bytes;

/// Keys there are.
pub const KEYS: u8 = 8;

/// On one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind<'a> {
    /// Reads it.
    Get,
    /// Writes it.
    Put(&'a [u8]),
    /// Removes it.
    Delete,
    /// Writes the second if the first is there; `None`: if nothing is.
    Swap(Option<&'a [u8]>, &'a [u8]),
}

/// The key and the operation that these bytes stand for.
pub fn read(bytes: &[u8]) -> (u8, Kind<'_>) {
    let Some((first, rest)) = bytes.split_first() else { return (0, Kind::Get) };
    let kind = match first >> 3 & 7 {
        0..=2 => Kind::Get,
        3 | 4 => Kind::Put(rest),
        5 => Kind::Delete,
        6 => Kind::Swap(None, rest),
        _ => Kind::Swap(Some(&rest[..rest.len().min(1)]), bytes),
    };
    (first % KEYS, kind)
}

/// As the store takes it.
pub fn operation(key: u8, kind: Kind<'_>) -> Bytes {
    let key = &[key][..];
    match kind {
        Kind::Get => KvOperation::Get { key }.encode(),
        Kind::Put(value) => KvWrite::Put { key, value }.into_operation(),
        Kind::Delete => KvWrite::Delete { key }.into_operation(),
        Kind::Swap(expected, value) => KvWrite::CompareAndSwap { key, expected, value }.into_operation(),
    }
}
