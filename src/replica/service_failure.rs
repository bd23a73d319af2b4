//! A service that panics, or that a host gave and that cannot go on.

use super::execute_stage::ExecuteStage;
use super::stages::*;
use crate::order::Input;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the execute stage. A service that panics, or that a host gave and that failed, ends this replica's voting as a log that fails does:
/// nothing leaves of what it did not finish.
pub(super) fn run_execution(stage: ExecuteStage) {
    let (shared, to_order) = (stage.shared.clone(), stage.to_order.clone());
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| stage.run())) {
        let why = failure_text(&*payload);
        shared.error(format!("execution ended: {why}"));
        *shared.service_failed.lock() = Some(why.clone());
        let _ = to_order.send(ToOrder::One(Input::ServiceFailed(why)));
    }
}

/// How a service failed, from what it was unwound with.
pub(crate) fn failure_text(payload: &(dyn std::any::Any + Send)) -> String {
    let panicked = |text: &str| format!("the service panicked: {text}");
    match (payload.downcast_ref::<ServiceFailed>(), payload.downcast_ref::<String>()) {
        (Some(ServiceFailed(why)), _) => why.clone(),
        (_, Some(text)) => panicked(text),
        _ => panicked(payload.downcast_ref::<&str>().unwrap_or(&"(no text)")),
    }
}

/// What a service is unwound with that cannot go on and has no mistake of ours to show ([`std::panic::resume_unwind`]).
pub(crate) struct ServiceFailed(pub String);
