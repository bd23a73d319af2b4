//! [core] What is missing, who is asked for it, who failed: one machine for all strategies.
//!
//! # Calling contract
//!
//! Call [`Fetch::step`] and [`Fetch::arrived`] in the order of events, from one thread; `now` never goes back. The first
//! call asks, so make one at once. Call again with [`Input::Tick`] at [`Fetch::next_deadline`]. Outputs take effect in the
//! order given.
//!
//! - A whole chunk that came is handed to [`Fetch::arrived`], whose answer says whether to hash it. After
//!   [`Arrival::Check`] follows one [`Input::Verified`] or [`Input::Bad`]. After `Bad`, hash the spare if there is one
//!   (its sender is then the `from` of what follows); after `Verified`, drop it.
//! - Bytes of [`Arrival::Check`], [`Arrival::Spare`] and [`Arrival::Keep`] count against `unwritten_bytes_max` until
//!   [`Input::Written`] reports them written or dropped.

use super::board::Board;
use super::cst::{Cst, CstConfig};
use super::pull::Pull;
use super::shares::Shares;
use super::single::Single;
use super::source::{Link, Source};
use crate::types::*;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Who sends what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
pub enum StrategyKind {
    /// Each source as much as its window holds.
    #[default]
    Pull,
    /// Shares by the bytes of the last interval.
    Adaptive,
    /// One seeder, or one part each of a few, by rank.
    Cst,
    /// Fixed equal parts.
    Equal,
    /// Fixed parts by configured weights.
    Premeasured,
    /// One source, the next one if it fails.
    Single,
    /// As adaptive; nothing is checked before all is there.
    WholeHash,
}

impl StrategyKind {
    /// All of them.
    pub const ALL: [StrategyKind; 7] = [
        Self::Pull,
        Self::Adaptive,
        Self::Cst,
        Self::Equal,
        Self::Premeasured,
        Self::Single,
        Self::WholeHash,
    ];

    /// Its name in options and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Adaptive => "adaptive",
            Self::Cst => "cst",
            Self::Equal => "equal",
            Self::Premeasured => "premeasured",
            Self::Single => "single",
            Self::WholeHash => "whole-hash",
        }
    }
}

impl fmt::Display for StrategyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No strategy has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no strategy `{0}`: pull, adaptive, cst, equal, premeasured, single, whole-hash")]
pub struct UnknownStrategy(pub String);

impl FromStr for StrategyKind {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownStrategy(name.into()))
    }
}

/// How to fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchConfig {
    /// Who sends what.
    pub strategy: StrategyKind,
    /// A target that so many offer is taken before any newer one: one of them is correct. A liar may keep a certificate to itself.
    pub offerers: usize,
    /// Adaptive: nanoseconds between two allocations (the paper's I).
    pub interval_ns: u64,
    /// Premeasured: bytes per second of each source; who is not in it gets the least of them.
    pub weights: BTreeMap<ReplicaId, u64>,
    /// Cst: what it must know of the cluster.
    pub cst: CstConfig,
    /// How much the leader sends, in percent of what others send on average; 0 = nothing unless it is alone.
    pub leader_weight_percent: u32,
    /// Pull: most bytes under way from one source.
    pub window_bytes_max: u64,
    /// Most bytes under way from all and not yet written.
    pub unwritten_bytes_max: u64,
    /// Pull: chunks may come compressed.
    pub packed: bool,
    /// Most bytes asked for per second; [`Input::Limit`] changes it.
    pub limit_bytes_per_s: Option<u64>,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            strategy: StrategyKind::Pull,
            offerers: 1,
            interval_ns: 1_000_000_000,
            weights: BTreeMap::new(),
            cst: CstConfig::default(),
            leader_weight_percent: 25,
            window_bytes_max: 64 << 20,
            unwritten_bytes_max: 256 << 20,
            packed: false,
            limit_bytes_per_s: None,
        }
    }
}

impl FetchConfig {
    /// Whether seeders may compress.
    pub fn takes_packed(&self) -> bool {
        self.packed && self.strategy == StrategyKind::Pull
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A received chunk is what the target says (or lay here already).
    Verified {
        /// Which.
        chunk: u64,
    },
    /// A received chunk is not what the target says.
    Bad {
        /// Which.
        chunk: u64,
        /// Whose bytes were hashed.
        from: ReplicaId,
    },
    /// So many received bytes are written or dropped: they are no longer in memory.
    Written {
        /// How many.
        bytes: u64,
    },
    /// It is connected and has the target; also a source not named before.
    Up(ReplicaId),
    /// Its connection broke: what was under way is lost.
    Down(ReplicaId),
    /// It no longer has the target; `Up` takes that back.
    Gone(ReplicaId),
    /// Who leads now.
    Leader(Option<ReplicaId>),
    /// Most bytes to ask for per second from now on.
    Limit(Option<u64>),
    /// Time passed.
    Tick,
}

/// What to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Ask a source for chunks.
    Request {
        /// Whom.
        to: ReplicaId,
        /// Grows from request to request.
        round: u32,
        /// Which chunks, ascending. A source sends them lowest first, or in the order they were asked for.
        ranges: Vec<Range<u64>>,
        /// These take the place of all it has not sent yet; it never sends a chunk again because it is named again.
        replace: bool,
        /// Of these it must forget that it ever sent them: they were lost on the way.
        again: Vec<u64>,
    },
    /// Do not send these if they are not sent yet.
    Cancel {
        /// Whom to tell.
        to: ReplicaId,
        /// Which chunks.
        ranges: Vec<Range<u64>>,
    },
    /// A source did wrong: for log, counters and status.
    Blame {
        /// Who.
        who: ReplicaId,
        /// What.
        why: Fault,
    },
}

/// What a source did wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Sent what the target does not contain: banned.
    BadChunk {
        /// Which chunk.
        chunk: u64,
    },
    /// Sent too often what it was not asked for: banned.
    Unasked {
        /// The last of them.
        chunk: u64,
    },
    /// Sent no chunk for three times what was expected: its work goes elsewhere until it answers.
    Silent,
}

/// What to do with a chunk that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Hash it.
    Check,
    /// Keep it while the first copy is hashed.
    Spare,
    /// Write it; all is checked at the end.
    Keep,
    /// Drop it.
    Duplicate,
    /// Drop it: its sender owes us nothing of the kind.
    Unasked,
}

/// How a source stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceState {
    /// Gets work.
    Active,
    /// Silent; probed.
    Stalled,
    /// Not connected.
    Down,
    /// Has no longer what we want.
    Gone,
    /// Not asked any more in this session.
    Banned(Fault),
}

/// One source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceProgress {
    /// Who.
    pub id: ReplicaId,
    /// Bytes that it sent, duplicates included.
    pub bytes: u64,
    /// Bytes per second lately.
    pub bytes_per_s: u64,
    /// Chunks asked for and not here.
    pub outstanding: u64,
    /// When its last chunk came.
    pub last_arrival: Option<Tick>,
    /// How it stands.
    pub state: SourceState,
}

/// How far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// By id.
    pub sources: Vec<SourceProgress>,
    /// Chunks verified.
    pub verified: u64,
    /// Chunks wanted.
    pub total: u64,
    /// Nanoseconds that the rest takes at the present rates, if anything comes.
    pub eta_ns: Option<u64>,
}

/// A rule by which chunks move from the pool to sources.
pub(super) trait Strategy: Send {
    /// Something happened: gives out what may be given out.
    fn give_out(&mut self, board: &mut Board, now: Tick);

    /// When it wants to be called although nothing happened.
    fn deadline(&self, board: &Board) -> Option<Tick>;
}

/// The fetching of one target.
pub struct Fetch {
    board: Board,
    strategy: Box<dyn Strategy>,
    started: Option<Tick>,
}

impl Fetch {
    /// Chunks `0..chunks`, of which the `wanted` ones are lacking; `sources` are connected and have the target. A chunk is taken to
    /// be `chunk_bytes` large until the first ones show how large they are: windows, limits and bounds are in bytes, requests in
    /// chunks.
    pub fn new(
        config: FetchConfig,
        chunks: u64,
        wanted: Vec<Range<u64>>,
        chunk_bytes: u64,
        sources: &[ReplicaId],
        now: Tick,
    ) -> Self {
        let wanted = wanted.into_iter().map(|run| run.start..run.end.min(chunks)).collect();
        let strategy: Box<dyn Strategy> = match config.strategy {
            StrategyKind::Pull => Box::new(Pull::default()),
            StrategyKind::Single => Box::new(Single::default()),
            StrategyKind::Adaptive | StrategyKind::WholeHash => {
                Box::new(Shares::measured(config.interval_ns))
            }
            StrategyKind::Cst => Box::new(Cst::default()),
            StrategyKind::Equal => Box::new(Shares::fixed(BTreeMap::new())),
            StrategyKind::Premeasured => Box::new(Shares::fixed(config.weights.clone())),
        };
        let mut board = Board::new(config, wanted, chunk_bytes, now);
        sources.iter().for_each(|id| board.up(*id, now));
        Self { board, strategy, started: Some(now) }
    }

    /// One event.
    pub fn step(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        let board = &mut self.board;
        match input {
            Input::Verified { chunk } => board.on_verified(chunk),
            Input::Bad { chunk, from } => board.on_bad(chunk, from, out),
            Input::Written { bytes } => board.on_written(bytes),
            Input::Up(id) => board.up(id, now),
            Input::Down(id) => board.leave(id, Link::Down),
            Input::Gone(id) => board.leave(id, Link::Gone),
            Input::Leader(leader) => board.set_leader(leader),
            Input::Limit(rate) => board.set_limit(rate, now),
            Input::Tick => {}
        }
        self.go_on(now, out);
    }

    /// A whole chunk came.
    pub fn arrived(
        &mut self,
        now: Tick,
        from: ReplicaId,
        chunk: u64,
        bytes: u64,
        out: &mut Vec<Output>,
    ) -> Arrival {
        let arrival = self.board.arrived(now, from, chunk, bytes, out);
        self.go_on(now, out);
        arrival
    }

    /// When to call with [`Input::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.done() {
            return None;
        }
        let board = &self.board;
        let silent = |s: &Source| s.probe_at.filter(|_| s.link == Link::Up);
        let sources =
            board.sources.iter().filter_map(|s| s.deadline(board.chunk_bytes).or_else(|| silent(s)));
        sources.chain(self.started).chain(board.tokens_at()).chain(self.strategy.deadline(board)).min()
    }

    /// Every wanted chunk is verified (whole-hash: is here).
    pub fn done(&self) -> bool {
        self.board.done()
    }

    /// Whether the chunks were taken unchecked, so that the whole must be hashed before use.
    pub fn whole_unchecked(&self) -> bool {
        self.board.config.strategy == StrategyKind::WholeHash
    }

    /// How far it is.
    pub fn progress(&self, now: Tick) -> Progress {
        self.board.progress(now)
    }

    /// Chunks that are verified, as ascending ranges.
    pub fn verified(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.board.verified.iter()
    }

    fn go_on(&mut self, now: Tick, out: &mut Vec<Output>) {
        self.started = None;
        if !self.done() {
            self.board.advance(now);
            self.board.check_deadlines(now, out);
            self.strategy.give_out(&mut self.board, now);
        }
        self.board.flush(out);
    }

    /// What this source was asked for.
    #[cfg(test)]
    pub(super) fn outstanding(&self, of: ReplicaId) -> super::ranges::RangeSet {
        self.board.sources.iter().find(|s| s.id == of).map(|s| s.outstanding.clone()).unwrap_or_default()
    }

    /// Received and not verified.
    #[cfg(test)]
    pub(super) fn unchecked(&self) -> Vec<u64> {
        self.board.unchecked()
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.board.check();
    }
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verified, wanted) = (self.board.verified.len(), self.board.wanted.len());
        write!(f, "Fetch({}, {verified} of {wanted})", self.board.config.strategy)
    }
}
