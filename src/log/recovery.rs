//! [sans-I/O] The decision table: from what a scan found behind the last good record to keep, cut or refuse.
//!
//! | behind the last good record                                   | verdict                       |
//! |---------------------------------------------------------------|-------------------------------|
//! | nothing                                                       | clean                         |
//! | something, not above the in-flight limit, nothing of it known durable | torn: cut             |
//! | a readable record or header says that more was durable        | damaged (below durable)       |
//! | more than can have been in flight                             | damaged (too long)            |
//! | a segment with records whose header is unreadable             | damaged: headers come first   |
//! | a segment, and the one before it is missing                   | damaged                       |
//!
//! Torn includes a hole followed by intact records: completions are not ordered. Nothing is ever cut in a damaged log.

use super::error::Damage;
use crate::types::Lsn;

/// What the scan found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Findings {
    /// The last good record: every one up to it is intact.
    pub last: Lsn,
    /// The highest lsn that anything readable calls durable.
    pub durable: Lsn,
    /// Log bytes from behind the last good record to the end of what is there; 0 = nothing.
    pub suffix_bytes: u64,
    /// Bytes that may have been in flight at once.
    pub in_flight_bytes: u64,
    /// A segment holds records, and neither copy of its header can be read.
    pub header_lost: bool,
    /// A segment is missing before one that is there.
    pub missing: Option<u64>,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    Torn { bytes: u64 },
    Damaged(Damage),
}

pub(super) fn judge(found: &Findings) -> Verdict {
    let too_long = found.suffix_bytes > found.in_flight_bytes;
    match (found.missing, found.header_lost, found.durable > found.last, too_long, found.suffix_bytes) {
        (Some(number), ..) => Verdict::Damaged(Damage::SegmentMissing(number)),
        (_, true, ..) => Verdict::Damaged(Damage::SegmentHeader),
        (_, _, true, ..) => Verdict::Damaged(Damage::BelowDurable(found.durable)),
        (_, _, _, true, bytes) => Verdict::Damaged(Damage::TooLong { bytes, limit: found.in_flight_bytes }),
        (_, _, _, _, 0) => Verdict::Clean,
        (_, _, _, _, bytes) => Verdict::Torn { bytes },
    }
}
