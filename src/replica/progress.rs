//! How far a start has come with reading its checkpoint and its log.

use crate::log::Progress;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Before so much time no rate is told.
const ETA_AFTER: Duration = Duration::from_millis(200);

/// Of one start; looked at from any thread.
#[derive(Debug, Default)]
pub struct RecoveryProgress {
    pub(super) checkpoint: Arc<Progress>,
    pub(super) log: Arc<Progress>,
    pub(super) decisions: Arc<Progress>,
    /// While it lasts.
    began: Mutex<Option<Instant>>,
}

/// What a replica is at before it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoveryPhase {
    /// The state is read and built.
    Checkpoint,
    /// What follows it is read, checked and executed.
    Log,
    /// All is read; the rest is executed.
    Execute,
}

/// How far it is at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveryState {
    /// With what.
    pub phase: RecoveryPhase,
    /// Bytes read, of checkpoint and logs.
    pub bytes: u64,
    /// Bytes there are.
    pub bytes_total: u64,
    /// What is left takes about so long, if that can be told.
    pub eta: Option<Duration>,
}

impl RecoveryProgress {
    /// Reading begins.
    pub(super) fn begin(&self) {
        *self.began.lock() = Some(Instant::now());
    }

    /// All is read and executed, or was given up.
    pub(super) fn end(&self) {
        *self.began.lock() = None;
    }

    /// How far it is; `None`: nothing is being recovered.
    pub fn state(&self) -> Option<RecoveryState> {
        let elapsed = (*self.began.lock())?.elapsed();
        Some(RecoveryState::after(
            elapsed,
            self.checkpoint.bytes(),
            [self.log.bytes(), self.decisions.bytes()],
        ))
    }
}

impl RecoveryState {
    /// Read and total of the checkpoint and of both logs, after so long.
    pub(super) fn after(elapsed: Duration, checkpoint: (u64, u64), logs: [(u64, u64); 2]) -> Self {
        let bytes = checkpoint.0 + logs.iter().map(|log| log.0).sum::<u64>();
        let bytes_total = checkpoint.1 + logs.iter().map(|log| log.1).sum::<u64>();
        let phase = if checkpoint.0 < checkpoint.1 {
            RecoveryPhase::Checkpoint
        } else if bytes < bytes_total || bytes_total == 0 {
            RecoveryPhase::Log
        } else {
            RecoveryPhase::Execute
        };
        // Reading waits for executing, so its rate is that of both.
        let eta = (elapsed >= ETA_AFTER && bytes > 0 && bytes < bytes_total)
            .then(|| elapsed.mul_f64((bytes_total - bytes) as f64 / bytes as f64));
        Self { phase, bytes, bytes_total, eta }
    }

    pub(super) fn json(&self) -> String {
        let eta = self.eta.map_or("null".to_owned(), |eta| eta.as_millis().to_string());
        format!(
            r#"{{"phase":"{}","bytes":{},"bytes_total":{},"eta_ms":{eta}}}"#,
            self.phase.word(),
            self.bytes,
            self.bytes_total
        )
    }
}

impl RecoveryPhase {
    fn word(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Log => "log",
            Self::Execute => "execute",
        }
    }
}

impl fmt::Display for RecoveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let percent = self.bytes * 100 / self.bytes_total.max(1);
        let what = match self.phase {
            RecoveryPhase::Checkpoint => "reading the checkpoint",
            RecoveryPhase::Log => "reading the log",
            RecoveryPhase::Execute => "executing the log",
        };
        write!(f, "{what}: {:.1} of {:.1} MiB read, {percent} %", mib(self.bytes), mib(self.bytes_total))?;
        match self.eta {
            Some(eta) => write!(f, ", about {:.0} s left", eta.as_secs_f64().ceil()),
            None => Ok(()),
        }
    }
}
