//! The threads around the cores: a whole replica.
//!
//! [`Replica::start`] returns when the log is replayed and every stage runs; [`Replica::stop`] when all are joined.

/// The one table of stages, and what they send each other.
pub mod stages;

/// The channels between them.
mod links;

/// What they share.
mod shared;

/// Shares of queues.
use crate::sync::credit;

/// Clients are slowed.
mod back_pressure;

/// What waits for the pool.
mod fair_queue;

/// Who takes it away.
mod rounds;

/// How the agreement does while states are sent.
mod foreground;

/// What replicas say again.
mod repeats;

/// How a client connection behaves.
mod standing;

/// net → verify → order.
mod receive;

/// net, before there is anything behind it.
mod doorman;

/// order.
mod order_stage;

/// order → log.
mod appends;

/// log → order: whether there is room.
mod room;

/// Between order and net, in builds for tests.
#[cfg(feature = "adversary")]
mod liar;

/// Where decided batches are kept.
mod decisions;

/// What a log that fills up asks for.
mod pressure;

/// Who stays behind.
mod lag;

/// execute → reply.
mod execute_stage;

/// execute → roots.
mod roots_stage;

/// Who waits for a processor.
mod crowding;

/// States from and to other replicas.
mod transfer_stage;

/// One transfer over shaped links, to be measured.
pub mod transfer_rig;

/// execute → checkpoint files.
mod checkpoint_stage;

/// Replies → frames.
mod reply_packer;

/// The state's digest, for `status`.
mod state_digest;

/// As JSON.
mod status;

/// Where time goes.
pub mod metrics;

/// For scrapers.
mod open_metrics;

/// `/metrics`, `/healthz`, `/readyz`.
mod admin;

/// Checkpoint and log → executed state.
mod recovery;

/// How far that is.
mod progress;

/// In which mode the log is written.
mod promise;

/// The log → executed once more.
mod audit;

/// What becomes of a service that cannot go on.
mod service_failure;

/// Why it does not begin.
mod start_error;

/// Config → recovery → running.
mod startup;

/// Until it is stopped.
mod running;

pub use audit::{Audit, AuditOptions, Difference, audit};
pub use progress::{RecoveryPhase, RecoveryProgress, RecoveryState};
pub use receive::DIGEST_QUERY;
pub use running::Replica;
pub(crate) use service_failure::{ServiceFailed, failure_text};
pub use start_error::StartError;
pub(crate) use startup::transfer_config;
pub use startup::{ReplicaOptions, format_learner, format_log};

#[cfg(test)]
mod admin_tests;
#[cfg(test)]
mod appends_tests;
#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod back_pressure_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod fair_queue_tests;
#[cfg(test)]
mod lag_tests;
#[cfg(test)]
mod pressure_tests;
#[cfg(test)]
mod progress_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod repeats_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod reply_packer_tests;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod standing_tests;
#[cfg(test)]
mod state_digest_tests;
#[cfg(test)]
mod transfer_tests;
