//! The digest of the whole state, computed seldom: it stops execution while it runs.

use crate::types::*;
use std::time::{Duration, Instant};

/// Between two computations.
const INTERVAL: Duration = Duration::from_secs(1);

/// The last one.
#[derive(Default)]
pub struct StateDigest {
    last: Option<(Seq, Digest, Instant)>,
}

impl StateDigest {
    /// The digest at `executed`, known or from `compute`; `None`: the last one is too young for another.
    pub fn at(
        &mut self,
        now: Instant,
        executed: Seq,
        compute: impl FnOnce() -> Digest,
    ) -> Option<(Seq, Digest)> {
        match self.last {
            Some((seq, digest, _)) if seq == executed => return Some((seq, digest)),
            Some((.., at)) if now.saturating_duration_since(at) < INTERVAL => return None,
            _ => {}
        }
        let digest = compute();
        // From its end: a large state must not keep the thread busy all the time.
        self.last = Some((executed, digest, now.max(Instant::now())));
        Some((executed, digest))
    }
}
