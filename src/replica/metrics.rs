//! Where time goes: a histogram of times and one of queue lengths for each stage, since the start of the replica.
//!
//! Fed by the stages, once per round or batch and never per request, so that they can always be on; never from inside a core.
//!
//! | stage | a time is | a queue length is |
//! |---|---|---|
//! | `net` | taking in the frames of one poll of the sockets | frames in it |
//! | `verify` | checking one round of messages on the pool | messages in it |
//! | `order` | stepping one round of inputs, and acting on its outputs | inputs in it |
//! | `decide` | from a proposal of ours to its decision; leader only | places in flight |
//! | `log` | one write, from submission to completion | KiB queued behind it |
//! | `wait` | from a decision to the begin of its execution | batches before `execute` |
//! | `execute` | executing, and in the paper's modes logging, one round of batches | batches in it |
//! | `reply` | packing and handing over the replies of one round | replies in it |

use crate::log::LogStats;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::fmt::Write;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Stage {
    Net,
    Verify,
    Order,
    Decide,
    Log,
    Wait,
    Execute,
    Reply,
}

impl Stage {
    /// All, in the order of a request's way.
    pub const ALL: [Stage; 8] = [
        Self::Net,
        Self::Verify,
        Self::Order,
        Self::Decide,
        Self::Log,
        Self::Wait,
        Self::Execute,
        Self::Reply,
    ];

    /// As in outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Verify => "verify",
            Self::Order => "order",
            Self::Decide => "decide",
            Self::Log => "log",
            Self::Wait => "wait",
            Self::Execute => "execute",
            Self::Reply => "reply",
        }
    }
}

/// Times and queue lengths of one stage.
#[derive(Clone)]
pub struct Times {
    /// Nanoseconds.
    pub time_ns: Histogram<u64>,
    /// Σ of the times, nanoseconds.
    pub sum_ns: u64,
    /// Items.
    pub queue: Histogram<u64>,
}

impl Default for Times {
    fn default() -> Self {
        let new = |max| Histogram::new_with_bounds(1, max, 2).expect("the bounds are valid");
        Self { time_ns: new(600_000_000_000), sum_ns: 0, queue: new(1 << 32) }
    }
}

/// All stages of a replica.
#[derive(Default)]
pub struct Metrics {
    stages: [Mutex<Times>; Stage::ALL.len()],
}

impl Metrics {
    /// One round of `items` that took so long.
    pub fn record(&self, stage: Stage, time: Duration, items: usize) {
        let mut times = self.stages[stage as usize].lock();
        let ns = time.as_nanos() as u64;
        times.time_ns.saturating_record(ns);
        times.sum_ns += ns;
        times.queue.saturating_record(items as u64);
    }

    /// The log counts its own writes; `queued_bytes` wait behind them at the moment.
    pub fn take_log(&self, stats: &LogStats, queued_bytes: usize) {
        let mut times = self.stages[Stage::Log as usize].lock();
        times.sum_ns = (stats.write_ns.mean() * stats.write_ns.len() as f64) as u64;
        times.time_ns.clone_from(&stats.write_ns);
        times.queue.saturating_record(queued_bytes as u64 >> 10);
    }

    /// Σ of a stage's times, nanoseconds, and how many they are.
    pub fn totals(&self, stage: Stage) -> (u64, u64) {
        let times = self.stages[stage as usize].lock();
        (times.sum_ns, times.time_ns.len())
    }

    /// A stage's histograms.
    pub fn of(&self, stage: Stage) -> Times {
        self.stages[stage as usize].lock().clone()
    }

    /// The object `stages` of a replica's status.
    pub fn json(&self) -> String {
        let mut out = String::from("{");
        for stage in Stage::ALL {
            let Times { time_ns, queue, .. } = self.of(stage);
            let us = |q| time_ns.value_at_quantile(q) as f64 / 1e3;
            let items = |q| queue.value_at_quantile(q);
            let _ = write!(
                out,
                concat!(
                    r#"{}"{}":{{"count":{},"time_us":{{"p50":{:.1},"p90":{:.1},"p99":{:.1},"max":{:.1}}},"#,
                    r#""queue":{{"p50":{},"p99":{},"max":{}}}}}"#
                ),
                if out.len() > 1 { "," } else { "" },
                stage.name(),
                time_ns.len(),
                us(0.5),
                us(0.9),
                us(0.99),
                us(1.0),
                items(0.5),
                items(0.99),
                items(1.0)
            );
        }
        out + "}"
    }
}
