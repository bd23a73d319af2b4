//! [core] Which chunks are where: in the pool, planned for a source, asked for, received, verified.
//!
//! A wanted chunk that is neither received nor verified is in the pool, planned for a source or asked of one. Of those
//! asked for, at most one more source has a copy; a silent source keeps one chunk that is in the pool as well.

use super::fetch::*;
use super::ranges::RangeSet;
use super::source::*;
use crate::types::*;
use std::collections::BTreeMap;

/// Chunks from a source that it was not asked for, before it is banned.
const STRIKES_MAX: u32 = 16;
/// Runs one request may list; the rest follows as these arrive.
pub(super) const RUNS_MAX: usize = 1024;
/// Of what may be under way, this part before the first chunk is here: they may be so many times larger than what was said.
const UNSEEN_PART: u64 = 16;
const UNSEEN_MIN: u64 = 64;
/// Steps back from the last chunk of a source in search of one that only it has.
const BACK_MAX: usize = 64;

/// A received chunk that is being checked.
struct Received {
    from: ReplicaId,
    spare: Option<ReplicaId>,
    /// Of the copy that is being checked; 0: unknown.
    bytes: u64,
}

/// Everything but the strategy.
pub(super) struct Board {
    pub config: FetchConfig,
    /// How large a chunk is: what was said at first, later the mean of the last ones that were right.
    pub chunk_bytes: u64,
    sizes: Sizes,
    pub wanted: RangeSet,
    pub pool: RangeSet,
    pub verified: RangeSet,
    received: BTreeMap<u64, Received>,
    pub sources: Vec<Source>,
    pub leader: Option<ReplicaId>,
    /// A source came or went, or chunks came back to the pool: plans must be looked at.
    pub changed: bool,
    unwritten: u64,
    tokens: Tokens,
    round: u32,
}

impl Board {
    pub fn new(config: FetchConfig, wanted: RangeSet, chunk_bytes: u64, now: Tick) -> Self {
        Self {
            tokens: Tokens::new(config.limit_bytes_per_s, now),
            config,
            chunk_bytes: chunk_bytes.max(1),
            sizes: Sizes::default(),
            pool: wanted.clone(),
            wanted,
            verified: RangeSet::default(),
            received: BTreeMap::new(),
            sources: Vec::new(),
            leader: None,
            changed: true,
            unwritten: 0,
            round: 0,
        }
    }

    pub fn done(&self) -> bool {
        self.verified.len() == self.wanted.len()
    }

    fn index(&self, id: ReplicaId) -> Option<usize> {
        self.sources.iter().position(|s| s.id == id)
    }

    /// Sources that get work, by id; the leader is among them unless its weight is 0 and there is another.
    pub fn active(&self) -> Vec<usize> {
        let all: Vec<usize> = (0..self.sources.len()).filter(|at| self.sources[*at].active()).collect();
        let spared = |at: &usize| self.config.leader_weight_percent == 0 && self.is_leader(*at);
        let others: Vec<usize> = all.iter().copied().filter(|at| !spared(at)).collect();
        if others.is_empty() { all } else { others }
    }

    pub fn is_leader(&self, at: usize) -> bool {
        self.leader == Some(self.sources[at].id)
    }

    // ---- what may be asked

    /// Chunks that may be asked for now: what comes must fit in memory, and in the limit. The one chunk of a silent source
    /// does not count, or the others would have to wait for it.
    pub fn may_ask(&self) -> u64 {
        let under_way: u64 = self.sources.iter().filter(|s| s.active()).map(|s| s.outstanding.len()).sum();
        let used = under_way.saturating_mul(self.chunk_bytes).saturating_add(self.unwritten);
        let room = self.config.unwritten_bytes_max.saturating_sub(used) / self.chunk_bytes;
        let room = if used == 0 { room.max(1) } else { room };
        room.min(self.under_way_max().saturating_sub(under_way)).min(self.tokens.bytes() / self.chunk_bytes)
    }

    /// Chunks that may be under way if nothing waits to be written.
    pub fn under_way_max(&self) -> u64 {
        let most = self.config.unwritten_bytes_max / self.chunk_bytes;
        // Nobody knows yet how large they are.
        let most = if self.sizes.count == 0 { most.min((most / UNSEEN_PART).max(UNSEEN_MIN)) } else { most };
        most.max(1)
    }

    /// Chunks that the leader may be asked for: its weight times what the others sent on average.
    pub fn may_ask_of(&self, at: usize) -> u64 {
        if !self.is_leader(at) {
            return u64::MAX;
        }
        let others: Vec<&Source> =
            self.sources.iter().filter(|s| s.active() && Some(s.id) != self.leader).collect();
        let percent = u64::from(self.config.leader_weight_percent);
        let others_idle = self.pool.is_empty() && others.iter().all(|s| s.load() == 0);
        match others.len() as u64 {
            0 => u64::MAX,
            _ if percent == 0 => 0,
            // Nothing is left but what is the leader's.
            _ if others_idle => u64::MAX,
            n => {
                let arrived = others.iter().fold(0u64, |sum, s| sum.saturating_add(s.paced_arrived));
                let may = (arrived.saturating_mul(percent) / (100 * n)).saturating_add(1);
                may.saturating_sub(self.sources[at].paced_asked)
            }
        }
    }

    /// The source is asked for these, which are in no other place.
    pub fn ask(&mut self, at: usize, chunks: &RangeSet, now: Tick) {
        self.tokens.take(chunks.len().saturating_mul(self.chunk_bytes));
        self.sources[at].ask(chunks, self.chunk_bytes, now);
    }

    /// When one more chunk is within the limit, if that is what is waited for.
    pub fn tokens_at(&self) -> Option<Tick> {
        let waiting = !self.pool.is_empty() || self.sources.iter().any(|s| !s.assigned.is_empty());
        if waiting && self.sources.iter().any(Source::active) {
            self.tokens.ready_at(self.chunk_bytes)
        } else {
            None
        }
    }

    pub fn set_limit(&mut self, rate: Option<u64>, now: Tick) {
        self.tokens.advance(now, self.chunk_bytes);
        self.tokens.rate = rate;
    }

    pub fn advance(&mut self, now: Tick) {
        self.tokens.advance(now, self.chunk_bytes);
    }

    // ---- copies

    pub fn copies(&self, chunk: u64) -> usize {
        self.sources.iter().filter(|s| s.outstanding.contains(chunk)).count()
    }

    /// The last chunk planned for or asked of `owner`, and how many lie before it, that `helper` may get as well.
    pub fn last_single(&self, owner: usize, helper: usize) -> Option<(u64, u64)> {
        let source = &self.sources[owner];
        let behind = source.assigned.backwards().chain(source.outstanding.backwards());
        let mut at = source.load();
        for chunk in behind.take(BACK_MAX) {
            at -= 1;
            let mut others = self.sources.iter().filter(|s| s.outstanding.contains(chunk));
            // What the owner has only to be measured by is another one's.
            let free = source.overlap != Some(chunk) && others.all(|s| s.id == source.id);
            if free && !self.sources[helper].outstanding.contains(chunk) {
                return Some((chunk, at));
            }
        }
        None
    }

    /// A silent or weightless source is asked for one chunk that another one has, or that is nobody's turn yet.
    pub fn probe(&mut self, at: usize, now: Tick) {
        if !self.sources[at].outstanding.is_empty()
            || self.sources[at].overlap.is_some()
            || self.may_ask() == 0
        {
            return;
        }
        let from_pool = self.pool.backwards().take(BACK_MAX).find(|c| self.copies(*c) == 0);
        let others = (0..self.sources.len()).filter(|o| *o != at && self.sources[*o].active());
        let slowest = others.clone().filter_map(|o| {
            let (chunk, _) = self.last_single(o, at)?;
            let source = &self.sources[o];
            let left = source.load().saturating_mul(self.chunk_bytes);
            Some((nanoseconds(left, source.rate(now, self.chunk_bytes)), chunk))
        });
        let from_slowest = || slowest.max().map(|(_, chunk)| chunk);
        // Nothing but what other silent ones were asked for: they may stay silent.
        let shared = || self.pool.last().filter(|_| others.clone().next().is_none());
        if let Some(chunk) = from_pool.or_else(from_slowest).or_else(shared) {
            self.ask(at, &RangeSet::of(chunk), now);
            self.sources[at].overlap = Some(chunk);
        }
    }

    // ---- sources come and go

    pub fn up(&mut self, id: ReplicaId, now: Tick) {
        match self.index(id) {
            None => {
                let at = self.sources.partition_point(|s| s.id < id);
                self.sources.insert(at, Source::new(id, Link::Up, now));
            }
            Some(at) => match self.sources[at].link {
                Link::Down | Link::Gone => self.sources[at].link = Link::Up,
                Link::Up | Link::Banned(_) => return,
            },
        }
        self.sources_changed();
    }

    /// It is disconnected, or has no longer what we want.
    pub fn leave(&mut self, id: ReplicaId, link: Link) {
        let Some(at) = self.index(id) else { return };
        if matches!(self.sources[at].link, Link::Banned(_)) {
            return;
        }
        self.give_back(at, None);
        self.sources[at].cut();
        self.sources[at].link = link;
        self.sources_changed();
    }

    pub fn ban(&mut self, id: ReplicaId, why: Fault, out: &mut Vec<Output>) {
        let Some(at) = self.index(id) else { return };
        if matches!(self.sources[at].link, Link::Banned(_)) {
            return;
        }
        let connected = self.sources[at].link == Link::Up;
        let under_way = self.give_back(at, None);
        self.sources[at].cut();
        self.sources[at].link = Link::Banned(why);
        if connected && !under_way.is_empty() {
            out.push(Output::Cancel { to: id, ranges: under_way.iter().collect() });
        }
        out.push(Output::Blame { who: id, why });
        self.sources_changed();
    }

    /// Beyond its deadline: its work goes elsewhere but for one chunk, by which it can come back.
    pub fn check_deadlines(&mut self, now: Tick, out: &mut Vec<Output>) {
        for at in 0..self.sources.len() {
            if self.sources[at].deadline(self.chunk_bytes).is_some_and(|d| now >= d) {
                let kept = self.sources[at].outstanding.first().filter(|c| self.copies(*c) == 1);
                let mut taken_back = self.give_back(at, kept);
                kept.into_iter().for_each(|c| _ = taken_back.remove(c));
                let source = &mut self.sources[at];
                source.withdraw(&taken_back);
                source.outstanding = kept.map(RangeSet::of).unwrap_or_default();
                source.overlap = kept;
                source.weight = 0;
                source.probe_later(now);
                out.push(Output::Blame { who: source.id, why: Fault::Silent });
                self.sources_changed();
            } else if self.sources[at].probe_at.is_some_and(|p| now >= p) && self.sources[at].link == Link::Up
            {
                self.probe(at, now);
                let source = &mut self.sources[at];
                // Said once more: it may have been restarted behind the same connection.
                source.replace |= !source.outstanding.is_empty();
                source.probe_later(now);
            }
        }
    }

    /// Plans and requests of a source return to the pool, unless another one has them as well. Returns the requests.
    fn give_back(&mut self, at: usize, keep: Option<u64>) -> RangeSet {
        let source = &mut self.sources[at];
        let assigned = std::mem::take(&mut source.assigned);
        let under_way = std::mem::take(&mut source.outstanding);
        if keep.is_none() {
            source.overlap = None;
        }
        let mut alone = under_way.clone();
        alone.add_all(&assigned);
        let id = source.id;
        // What a silent one has is in the pool as well.
        for other in self.sources.iter_mut().filter(|s| s.active() && s.id != id) {
            let theirs = alone.common(&other.outstanding);
            if other.overlap.is_some_and(|c| theirs.contains(c)) {
                other.overlap = None;
            }
            alone.subtract_all(&theirs);
            alone.subtract_all(&alone.common(&other.assigned));
        }
        self.pool.add_all(&alone);
        self.changed = true;
        under_way
    }

    fn sources_changed(&mut self) {
        self.changed = true;
        for source in &mut self.sources {
            (source.paced_arrived, source.paced_asked) = (0, 0);
        }
    }

    pub fn set_leader(&mut self, leader: Option<ReplicaId>) {
        if self.leader != leader {
            self.leader = leader;
            self.sources_changed();
        }
    }

    // ---- chunks come

    pub fn arrived(
        &mut self,
        now: Tick,
        from: ReplicaId,
        chunk: u64,
        bytes: u64,
        out: &mut Vec<Output>,
    ) -> Arrival {
        let Some(at) = self.index(from) else { return Arrival::Unasked };
        if matches!(self.sources[at].link, Link::Banned(_)) {
            return Arrival::Unasked;
        }
        if !self.sources[at].owed.remove(chunk) {
            self.sources[at].strikes += 1;
            if self.sources[at].strikes >= STRIKES_MAX {
                self.ban(from, Fault::Unasked { chunk }, out);
            }
            return Arrival::Unasked;
        }
        self.sources[at].lost.remove(chunk);
        self.sources[at].arrived(now, chunk, bytes);
        if self.sources[at].probe_at.take().is_some() {
            // Back: what it still has of ours is not for the pool.
            let source = &mut self.sources[at];
            if source.overlap.is_some_and(|c| self.pool.remove(c)) {
                source.overlap = None;
            }
            let has = source.outstanding.first();
            let others = self.sources.iter().filter(|s| s.active() && s.id != from);
            if let Some(chunk) = has
                && others.filter(|s| s.outstanding.contains(chunk)).count() >= 2
            {
                self.sources[at].withdraw(&RangeSet::of(chunk));
            }
            self.sources_changed();
        }
        if self.verified.contains(chunk) {
            return Arrival::Duplicate;
        }
        if let Some(first) = self.received.get_mut(&chunk) {
            if first.spare.is_some() || first.from == from {
                return Arrival::Duplicate;
            }
            first.spare = Some(from);
            self.unwritten = self.unwritten.saturating_add(bytes);
            return Arrival::Spare;
        }
        self.unwritten = self.unwritten.saturating_add(bytes);
        self.settle(chunk);
        if self.config.strategy == StrategyKind::WholeHash {
            self.verified.insert(chunk);
            self.chunk_bytes = self.sizes.mean_with(bytes);
            return Arrival::Keep;
        }
        self.received.insert(chunk, Received { from, spare: None, bytes });
        Arrival::Check
    }

    /// The chunk is here: nobody else needs to send it.
    fn settle(&mut self, chunk: u64) {
        self.pool.remove(chunk);
        for source in &mut self.sources {
            source.assigned.remove(chunk);
            if source.outstanding.contains(chunk) {
                source.withdraw(&RangeSet::of(chunk));
            }
        }
    }

    pub fn on_verified(&mut self, chunk: u64) {
        if !self.wanted.contains(chunk) || !self.verified.insert(chunk) {
            return;
        }
        match self.received.remove(&chunk) {
            Some(Received { bytes: 0, .. }) => {}
            Some(Received { bytes, .. }) => self.chunk_bytes = self.sizes.mean_with(bytes),
            None => self.settle(chunk),
        }
    }

    pub fn on_bad(&mut self, chunk: u64, from: ReplicaId, out: &mut Vec<Output>) {
        if let Some(received) = self.received.get_mut(&chunk) {
            if received.spare == Some(from) {
                received.spare = None;
            } else if received.from == from
                && let Some(spare) = received.spare.take()
            {
                (received.from, received.bytes) = (spare, 0);
            } else if received.from == from {
                self.received.remove(&chunk);
                self.pool.insert(chunk);
                self.changed = true;
            }
        }
        self.ban(from, Fault::BadChunk { chunk }, out);
    }

    pub fn on_written(&mut self, bytes: u64) {
        self.unwritten = self.unwritten.saturating_sub(bytes);
    }

    // ---- what is said

    /// One message of each kind to each source that has something to hear.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        for source in &mut self.sources {
            let cancel = std::mem::take(&mut source.cancel);
            let replace = std::mem::take(&mut source.replace);
            let ask = std::mem::take(&mut source.ask);
            let again = std::mem::take(&mut source.ask_again);
            if source.link != Link::Up {
                continue;
            }
            if !cancel.is_empty() && !replace {
                out.push(Output::Cancel { to: source.id, ranges: cancel.iter().collect() });
            }
            if replace || !ask.is_empty() {
                self.round = self.round.wrapping_add(1);
                let set = if replace { &source.outstanding } else { &ask };
                let ranges = set.iter().collect();
                out.push(Output::Request { to: source.id, round: self.round, ranges, replace, again });
            }
        }
    }

    #[cfg(test)]
    pub fn unchecked(&self) -> Vec<u64> {
        self.received.keys().copied().collect()
    }

    /// What must hold between two events.
    #[cfg(test)]
    pub fn check(&self) {
        let received: RangeSet = self.received.keys().map(|c| *c..*c + 1).collect();
        assert!(received.common(&self.verified).is_empty());
        let mut here = received;
        here.add_all(&self.verified);
        let mut missing = self.pool.clone();
        for source in &self.sources {
            assert!(source.link == Link::Up || source.load() == 0, "only who is there has work");
            let mut not_owed = source.outstanding.clone();
            not_owed.subtract_all(&source.owed);
            assert!(not_owed.is_empty(), "what is asked for is owed");
            assert!(source.overlap.is_none_or(|c| source.outstanding.contains(c)));
            missing.add_all(&source.outstanding);
            missing.add_all(&source.assigned);
        }
        assert!(missing.common(&here).is_empty(), "nothing is asked for that is here");
        missing.add_all(&here);
        assert_eq!(missing, self.wanted, "nothing is forgotten");
        for chunk in self.sources.iter().flat_map(|s| s.outstanding.iter().flatten()).take(1000) {
            let active = self.sources.iter().filter(|s| s.active() && s.outstanding.contains(chunk));
            assert!(active.count() <= 2, "at most two copies");
        }
    }

    pub fn progress(&self, now: Tick) -> Progress {
        let sources: Vec<SourceProgress> = self
            .sources
            .iter()
            .map(|s| SourceProgress {
                id: s.id,
                bytes: s.bytes,
                bytes_per_s: s.rate(now, self.chunk_bytes),
                outstanding: s.outstanding.len(),
                last_arrival: s.last_arrival,
                state: match s.link {
                    Link::Up if s.probe_at.is_some() => SourceState::Stalled,
                    Link::Up => SourceState::Active,
                    Link::Down => SourceState::Down,
                    Link::Gone => SourceState::Gone,
                    Link::Banned(why) => SourceState::Banned(why),
                },
            })
            .collect();
        let working = sources.iter().filter(|s| s.state == SourceState::Active && s.outstanding > 0);
        let rate = working.fold(0u64, |sum, s| sum.saturating_add(s.bytes_per_s));
        let left = (self.wanted.len() - self.verified.len()).saturating_mul(self.chunk_bytes);
        Progress {
            sources,
            verified: self.verified.len(),
            total: self.wanted.len(),
            eta_ns: (rate > 0 || left == 0).then(|| nanoseconds(left, rate)),
        }
    }
}

/// Sizes of the last chunks that came and were right.
#[derive(Default)]
struct Sizes {
    count: u64,
    sum: u128,
}

/// Chunks whose mean counts: enough for one large one to change little, few enough to follow from one part of a state to the next.
const SIZES: u64 = 64;

impl Sizes {
    fn mean_with(&mut self, bytes: u64) -> u64 {
        if self.count == SIZES {
            self.sum -= self.sum / u128::from(SIZES);
        } else {
            self.count += 1;
        }
        self.sum += u128::from(bytes);
        u64::try_from(self.sum / u128::from(self.count)).unwrap_or(u64::MAX).max(1)
    }
}

/// A limit of bytes per second, with bursts of a twentieth of a second.
struct Tokens {
    rate: Option<u64>,
    /// Bytes times nanoseconds per second.
    saved: u128,
    at: Tick,
}

const SECOND: u128 = 1_000_000_000;

impl Tokens {
    fn new(rate: Option<u64>, now: Tick) -> Self {
        Self { rate, saved: 0, at: now }
    }

    fn advance(&mut self, now: Tick, chunk_bytes: u64) {
        let rate = self.rate.unwrap_or(0);
        let most = u128::from((rate / 20).max(chunk_bytes)) * SECOND;
        self.saved = (self.saved + u128::from(rate) * u128::from(now.since(self.at))).min(most);
        self.at = now.max(self.at);
    }

    fn bytes(&self) -> u64 {
        self.rate.map_or(u64::MAX, |_| (self.saved / SECOND) as u64)
    }

    fn take(&mut self, bytes: u64) {
        self.saved = self.saved.saturating_sub(u128::from(bytes) * SECOND);
    }

    fn ready_at(&self, chunk_bytes: u64) -> Option<Tick> {
        let rate = u128::from(self.rate.filter(|r| *r > 0)?);
        let lacking = (u128::from(chunk_bytes) * SECOND).saturating_sub(self.saved);
        let wait = u64::try_from(lacking.div_ceil(rate)).unwrap_or(u64::MAX);
        (lacking > 0).then(|| Tick(self.at.0.saturating_add(wait)))
    }
}
