//! Records on their way from the order stage into the log.

use crate::log::{AppendError, AppendRefusal, Record};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread;
use crate::types::Lsn;
use std::time::{Duration, Instant};

/// How long a full log is waited for when the replica is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What takes records: the log.
pub trait Sink {
    /// As [`Log::append`](crate::log::Log::append), or [`Log::append_control`](crate::log::Log::append_control).
    fn take(&mut self, record: Record, control: bool) -> Result<Lsn, AppendError>;
}

/// Hands records to the log without a gap: after one that it did not take, none follows, so that core and log always
/// number records alike.
#[derive(Default)]
pub struct Appends {
    ended: bool,
}

impl Appends {
    /// Queues a record. The log is never full for long: it drains without us; waiting here slows ordering only.
    ///
    /// Errors, once: why no record is taken from now on. What depends on one never leaves: `Persisted` does not reach it.
    pub fn append(
        &mut self,
        log: &mut impl Sink,
        stopping: &AtomicBool,
        lsn: Lsn,
        mut record: Record,
        mut control: bool,
    ) -> Result<(), &'static str> {
        if self.ended {
            return Ok(());
        }
        let mut full_since = None;
        let why = loop {
            let error = match log.take(record, control) {
                Ok(given) => {
                    assert_eq!(given, lsn, "the log and the core number records alike");
                    return Ok(());
                }
                Err(error) => error,
            };
            record = error.record;
            match error.why {
                AppendRefusal::Full => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    // A disk that is stuck must not keep the replica from stopping.
                    if stopping.load(Ordering::Relaxed) && since.elapsed() > STOP_PATIENCE {
                        break "stopped while the log was full";
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                // Begun before the core heard of it: the reserve is for this.
                AppendRefusal::NoRoom if !control => control = true,
                AppendRefusal::NoRoom => break "the log is full to its last reserve",
                AppendRefusal::TooLarge => break "a record is larger than the log takes",
                AppendRefusal::Failed => break "the log failed earlier",
            }
        };
        self.ended = true;
        Err(why)
    }
}
