//! Waits for a tuple for as long as it takes: one ordered `rd` or `in` after the other, each for [`ROUND`] at most.
//!
//! So what a client that is gone has asked for last takes at most one tuple, and only for that long. Each round is one request, executed
//! once, and answered the same however often it is repeated; a round that ends without a tuple has taken none.

use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{RecvTimeoutError, bounded};

use super::{Client, Outcome};
use crate::service::{Pattern, TupleOperation, TupleReply};

/// The longest wait of one request.
const ROUND: Duration = Duration::from_secs(30);
/// After so much silence behind its time, the group is given something to execute: its agreed time stands still while nothing is.
const SILENCE: Duration = Duration::from_millis(300);

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Where.
    pub space: &'a str,
    /// What each field must be.
    pub template: &'a [Pattern],
    /// To be taken out, not only read.
    pub takes: bool,
}

/// Reads or takes the oldest tuple that matches; if there is none, the first that comes, within `limit` if one is given.
///
/// `patience`: how long an answer may take that is due. The reply is a tuple, [`TupleReply::TimedOut`], or a refusal.
/// Errors: the outcome that left open what became of it, or why it was not executed. Not to be called from a callback.
pub fn wait_for_tuple(
    client: &Client,
    wanted: Wanted<'_>,
    limit: Option<Duration>,
    patience: Duration,
) -> Result<TupleReply, Outcome> {
    let (session, clock) = (client.session(), client.session());
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // In whole milliseconds, and not for nothing before the end.
        let wait_ms = left.map_or(ROUND, |left| left.min(ROUND)).as_micros().div_ceil(1000) as u32;
        let wait = Duration::from_millis(wait_ms.into());
        let (sender, answer) = bounded(1);
        let callback = move |outcome| drop(sender.send(outcome));
        session
            .submit(wanted.operation(wait_ms), Some(wait.saturating_add(patience)), callback)
            .map_err(|why| Outcome::NotExecuted(why.to_string()))?;
        let mut silence = wait + SILENCE;
        let outcome = loop {
            match answer.recv_timeout(silence) {
                Ok(outcome) => break outcome,
                Err(RecvTimeoutError::Disconnected) => {
                    break Outcome::UnknownOutcome(super::reason::CLOSED.into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    silence = SILENCE;
                    let tick = TupleOperation::List { after: "", limit: 0 }.encode();
                    // The next look at the answer says all there is to say.
                    let _ = clock.invoke(tick, Some(patience));
                }
            }
        };
        let Outcome::Done(reply) = outcome else { return Err(outcome) };
        let reply = TupleReply::decode(&reply).map_err(|why| Outcome::Fail(why.to_string()))?;
        let is_over = end.is_some_and(|end| end <= Instant::now());
        if reply != TupleReply::TimedOut || is_over {
            return Ok(reply);
        }
    }
}

impl Wanted<'_> {
    fn operation(self, wait_ms: u32) -> Bytes {
        let Wanted { space, template, takes } = self;
        match takes {
            true => TupleOperation::In { space, template, wait_ms },
            false => TupleOperation::Rd { space, template, wait_ms },
        }
        .encode()
    }
}
