//! Schedules: many for what must hold, until the first that breaks for what must not.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A run that is not over by then goes round in a circle.
const STEPS_MAX: usize = 50_000;
/// Places at which a priority changes in a schedule.
const CHANGES: usize = 3;
/// At random, and by priorities.
const SCHEDULES: usize = 1500;
/// Until what is wrong on purpose must have been found.
const UNTIL_FOUND: usize = 100_000;

fn run(scheduler: impl Scheduler + 'static, story: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(story);
}

/// Panics if any schedule ends otherwise than well.
pub fn holds(story: impl Fn() + Send + Sync + Copy + 'static) {
    let times: usize = std::env::var("DURAMEN_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    run(RandomScheduler::new_from_seed(1, SCHEDULES * times), story);
    run(PctScheduler::new_from_seed(2, CHANGES, SCHEDULES * times), story);
}

/// Panics unless some schedule ends badly, and with one of these words.
pub fn fails(words: &[&str], story: impl Fn() + Send + Sync + Copy + 'static) {
    let search = || {
        run(PctScheduler::new_from_seed(3, CHANGES, UNTIL_FOUND), story);
        run(RandomScheduler::new_from_seed(4, UNTIL_FOUND), story);
    };
    let failed = catch_unwind(AssertUnwindSafe(search)).expect_err("what is wrong was not found");
    let text = failed.downcast_ref::<String>().cloned();
    let text = text.or(failed.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
    assert!(words.iter().any(|word| text.contains(word)), "it failed otherwise: {text}");
}

/// As shuttle says it.
pub const STUCK: &str = "deadlock";
/// As it says that a run does not end.
pub const ENDLESS: &str = "exceeded max_steps";
