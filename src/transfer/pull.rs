//! [core] Pull: each source is asked for as much as its window holds, and for more as it answers.
//!
//! Window: twice what is under way at its rate, so a rate that doubles is seen; while little is known it grows by what
//! comes, as TCP does. When the pool is empty the last chunks are asked for twice where that is faster by a fifth.
//! Source: ALGORITHMS d.4; BitTorrent's endgame. Differs: the window is refilled a quarter at a time, to keep requests few.

use super::board::Board;
use super::fetch::Strategy;
use super::ranges::RangeSet;
use super::source::*;
use crate::types::*;

/// Most chunks of one request.
const RUN_MAX: u64 = 16;
/// Most chunks under way from one source, however small they are.
const CHUNKS_MAX: u64 = 1 << 14;
/// First window of a source nothing is known of.
const START_BYTES: u64 = 1 << 20;
/// Queueing that is no sign of too large a window.
const SLACK_NS: u64 = 50_000_000;
/// Copies of other sources' chunks under way from one source.
const HELP_MAX: u64 = 16;

#[derive(Default)]
pub(super) struct Pull {
    /// Who is asked first, in turn.
    turn: usize,
}

impl Strategy for Pull {
    fn give_out(&mut self, board: &mut Board, now: Tick) {
        board.changed = false;
        let active = board.active();
        if active.is_empty() {
            return;
        }
        self.turn = (self.turn + 1) % active.len();
        let order = active[self.turn..].iter().chain(&active[..self.turn]);
        // A run at a time, so that none takes all.
        let mut any = true;
        while any && !board.pool.is_empty() {
            any = false;
            for at in order.clone() {
                any |= ask_run(board, *at, now);
            }
        }
        if board.pool.is_empty() {
            for at in &active {
                help(board, *at, &active, now);
            }
        }
    }

    fn deadline(&self, _: &Board) -> Option<Tick> {
        None
    }
}

/// Bytes that may be under way from it.
pub(super) fn window(board: &Board, at: usize, now: Tick) -> u64 {
    let (source, chunk) = (&board.sources[at], board.chunk_bytes);
    let rate = source.rate(now, chunk);
    let rtt_ns = source.rtt_ns(chunk).saturating_add(SLACK_NS);
    let steady = u128::from(rate) * 2 * u128::from(rtt_ns) / 1_000_000_000;
    let mut bytes = u64::try_from(steady).unwrap_or(u64::MAX);
    if !source.measured(now) {
        bytes = bytes.max(START_BYTES.saturating_add(source.burst_bytes()));
    }
    // One chunk is enough for whoever needs longer than a second for it.
    let least = if rate > 0 && rate < chunk { chunk } else { chunk.saturating_mul(2) };
    bytes.min(board.config.window_bytes_max).max(least)
}

/// Chunks that fit in its window, if they are worth a request.
fn room(board: &Board, at: usize, now: Tick) -> u64 {
    let window = (window(board, at, now) / board.chunk_bytes).min(CHUNKS_MAX);
    let room = window.saturating_sub(board.sources[at].outstanding.len());
    let run = (window / 4).clamp(1, RUN_MAX);
    if room < run { 0 } else { room.min(RUN_MAX) }
}

fn ask_run(board: &mut Board, at: usize, now: Tick) -> bool {
    let count = room(board, at, now).min(board.may_ask()).min(board.may_ask_of(at));
    let chunks = board.pool.take_run(count);
    board.ask(at, &chunks, now);
    !chunks.is_empty()
}

/// The end: chunks that others have last are asked of this source too, if it is faster by a fifth.
fn help(board: &mut Board, at: usize, active: &[usize], now: Tick) {
    let chunk = board.chunk_bytes;
    let helper_rate = board.sources[at].rate(now, chunk);
    let own = &board.sources[at].outstanding;
    let others = active.iter().filter(|o| **o != at);
    let copies: u64 = others.map(|o| board.sources[*o].outstanding.common(own).len()).sum();
    for _ in 0..HELP_MAX.saturating_sub(copies).min(room(board, at, now)) {
        if helper_rate == 0 || board.may_ask().min(board.may_ask_of(at)) == 0 {
            return;
        }
        let helper = &board.sources[at];
        let queued = helper.outstanding.len().saturating_add(1).saturating_mul(chunk);
        let mine = helper.rtt_ns(chunk).saturating_add(nanoseconds(queued, helper_rate));
        let latest = active.iter().filter(|o| **o != at).filter_map(|o| {
            let (last, before) = board.last_single(*o, at)?;
            let rate = board.sources[*o].rate(now, chunk);
            Some((nanoseconds(before.saturating_add(1).saturating_mul(chunk), rate), last))
        });
        let Some((theirs, last)) = latest.max() else { return };
        if mine.saturating_add(mine / 4) > theirs {
            return;
        }
        board.ask(at, &RangeSet::of(last), now);
    }
}
