//! [core] Gets a state: which one, how it is to be checked, then its chunks.
//!
//! ```text
//! Asking     Ask → all; offers with certificates ← ; the newest one that a quorum names is the target
//! Manifest   from one that offers it; its root must be the certificate's, or the next one is asked
//! Digests    of the pages, from all in turn; each list must give its node's digest in the manifest. Whoever has nothing asks for the
//!            first ones with the manifest
//! Chunks     what differs from what is here already: Fetch says who is asked for what; each chunk must have its digest
//! Complete   all is here
//! ```
//! Nothing that a peer says is taken without the check above it; who fails one is not asked again in this session.

use super::fetch::{Arrival, Fault, Fetch, FetchConfig, Input, Output as Fetched, Progress};
use super::image::{Image, Manifest, Part};
use super::messages::{Message, NODES_MAX, RANGES_MAX};
use super::packing::Body;
use super::staging::Staging;
use crate::checkpoint::pages::{FAN_OUT, node_of};
use crate::order::mutants::{Mutant, broken};
use crate::types::*;
use crate::wire::messages::{MarkStatement, StateCertificate};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// After the first offer, others' are waited for so long.
const OFFERS_NS: u64 = 300_000_000;
/// And a state that enough of them offer, so long.
const AGREED_NS: u64 = 3_000_000_000;
/// Without anything of use for so long, all is asked for anew: who offered the target may not mean to send it.
const STUCK_NS: u64 = 20_000_000_000;
/// Without any, everybody is asked again after this.
const ASK_NS: u64 = 1_000_000_000;
/// A manifest or a list of digests that does not come by then is asked of another.
const ANSWER_NS: u64 = 2_000_000_000;
/// Lists of digests asked of one source at a time.
const LISTS_MAX: usize = 4;
/// Lists asked of each source before the manifest is here.
const AHEAD: usize = 2;
/// What a page is taken to be large before any is here; then [`Fetch`] goes by those that came.
const CHUNK_BYTES: u64 = 32 << 10;

/// A list of digests: the part, and its first node.
type ListAt = (Part, u64);

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// To this replica.
    Send(ReplicaId, Message),
    /// Make a place on disk for this target, and say what lies here already of it: [`Leecher::stored`].
    Store(Box<Target>),
    /// Hash; the answer is [`Leecher::checked`].
    Check {
        /// Which chunk.
        chunk: u64,
        /// Whose bytes.
        from: ReplicaId,
        /// What to open and hash.
        body: Body,
        /// What it is of, and under which index.
        place: (Part, u64),
        /// What it must give.
        expected: Digest,
    },
    /// Write without a check; the answer is [`Leecher::written`].
    Write {
        /// Which chunk.
        chunk: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// All is here.
    Complete,
    /// A replica did wrong.
    Blame(ReplicaId, String),
}

/// What is fetched.
#[derive(Clone, Debug)]
pub struct Target {
    /// Names it.
    pub mark: StateCertificate,
    /// How it is cut.
    pub manifest: Manifest,
    /// Digests of all pages of table and state, zeros for free ones.
    pub digests: [Vec<Digest>; 2],
}

impl Target {
    /// The digest of a chunk.
    pub fn digest(&self, chunk: u64) -> Digest {
        let (part, index) = self.manifest.place(chunk);
        self.digests[part as usize].get(index as usize).copied().unwrap_or_default()
    }
}

enum Phase {
    Asking { since: Tick, first: Option<Tick>, offers: BTreeMap<ReplicaId, Vec<StateCertificate>> },
    Manifest { mark: StateCertificate, of: ReplicaId, since: Tick, ahead: Ahead },
    Digests(Box<Lists>),
    Storing(Box<Target>),
    Chunks(Box<Chunks>),
    Complete,
}

/// Lists that were asked for together with the manifest, so that it and they take one round trip.
#[derive(Default)]
struct Ahead {
    asked: HashMap<ListAt, ReplicaId>,
    /// Those that came first: without the manifest nothing says whether they are right.
    here: Vec<(ReplicaId, ListAt, Vec<Digest>)>,
}

struct Lists {
    target: Target,
    /// Not asked for yet.
    missing: BTreeSet<ListAt>,
    asked: HashMap<ListAt, (ReplicaId, Tick)>,
    /// Lists that did not come in time: whoever owes fewest is asked next, or two mute ones would be asked in turn for ever.
    late: BTreeMap<ReplicaId, u32>,
}

struct Chunks {
    target: Target,
    fetch: Fetch,
    /// Second copies, kept until the first is hashed.
    spares: HashMap<u64, (ReplicaId, Body)>,
    /// Bytes handed on and not yet written or dropped.
    unwritten: u64,
}

/// One session. See the [module](self).
pub struct Leecher {
    config: FetchConfig,
    algorithm: DigestAlgorithm,
    /// Executed up to here: older states are of no use.
    above: Seq,
    /// Whether a certificate proves what it says.
    proven: Box<dyn Fn(&StateCertificate) -> bool + Send>,
    /// What is here already.
    own: Option<Arc<Image>>,
    connected: BTreeSet<ReplicaId>,
    /// Who offers the target.
    sources: BTreeSet<ReplicaId>,
    banned: BTreeMap<ReplicaId, String>,
    leader: Option<ReplicaId>,
    phase: Phase,
    began: Tick,
    /// When something of use last came.
    moved: Tick,
    /// Bytes of chunks received, compressed as they came.
    pub received: u64,
}

impl Leecher {
    /// Asks `connected` replicas for a state above `above`; `own` is what is here.
    pub fn start(
        config: FetchConfig,
        algorithm: DigestAlgorithm,
        (above, own): (Seq, Option<Arc<Image>>),
        connected: BTreeSet<ReplicaId>,
        proven: Box<dyn Fn(&StateCertificate) -> bool + Send>,
        now: Tick,
        out: &mut Vec<Output>,
    ) -> Self {
        let phase = Phase::Asking { since: now, first: None, offers: BTreeMap::new() };
        out.extend(connected.iter().map(|to| Output::Send(*to, Message::Ask)));
        Self {
            config,
            algorithm,
            above,
            proven,
            own,
            connected,
            sources: BTreeSet::new(),
            banned: BTreeMap::new(),
            leader: None,
            phase,
            began: now,
            moved: now,
            received: 0,
        }
    }

    /// When it began.
    pub fn began(&self) -> Tick {
        self.began
    }

    /// The place of the target, once there is one.
    pub fn target(&self) -> Option<Seq> {
        self.statement().map(|statement| statement.seq)
    }

    /// What it is at, for `status`.
    pub fn phase(&self) -> &'static str {
        match &self.phase {
            Phase::Asking { .. } => "asking",
            Phase::Manifest { .. } => "manifest",
            Phase::Digests(_) => "digests",
            Phase::Storing(_) | Phase::Chunks(_) => "chunks",
            Phase::Complete => "complete",
        }
    }

    /// How far the chunks are.
    pub fn progress(&self, now: Tick) -> Option<Progress> {
        match &self.phase {
            Phase::Chunks(chunks) => Some(chunks.fetch.progress(now)),
            _ => None,
        }
    }

    /// Who is not asked any more, and why.
    pub fn banned(&self) -> &BTreeMap<ReplicaId, String> {
        &self.banned
    }

    fn ban(&mut self, who: ReplicaId, why: String, out: &mut Vec<Output>) {
        self.sources.remove(&who);
        out.push(Output::Blame(who, why.clone()));
        self.banned.insert(who, why);
    }

    /// All over again: what was the target is nowhere any more.
    fn restart(&mut self, now: Tick, out: &mut Vec<Output>) {
        self.moved = now;
        self.sources.clear();
        self.phase = Phase::Asking { since: now, first: None, offers: BTreeMap::new() };
        out.extend(self.connected.iter().map(|to| Output::Send(*to, Message::Ask)));
    }

    /// Who leads sends least.
    pub fn leads(&mut self, now: Tick, leader: Option<ReplicaId>, out: &mut Vec<Output>) {
        if self.leader != leader {
            self.leader = leader;
            self.feed(now, Input::Leader(leader), out);
        }
    }

    /// So much may be asked for per second from now on.
    pub fn limit(&mut self, now: Tick, bytes_per_s: Option<u64>, out: &mut Vec<Output>) {
        self.config.limit_bytes_per_s = bytes_per_s;
        self.feed(now, Input::Limit(bytes_per_s), out);
    }

    /// A replica can be spoken to.
    pub fn connected(&mut self, now: Tick, who: ReplicaId, out: &mut Vec<Output>) {
        self.connected.insert(who);
        match &self.phase {
            Phase::Chunks(_) if self.sources.contains(&who) => self.feed(now, Input::Up(who), out),
            Phase::Complete => {}
            // It may have what is wanted.
            _ => out.push(Output::Send(who, Message::Ask)),
        }
    }

    /// It cannot any more.
    pub fn disconnected(&mut self, now: Tick, who: ReplicaId, out: &mut Vec<Output>) {
        self.connected.remove(&who);
        self.feed(now, Input::Down(who), out);
        self.tick(now, out);
    }

    /// Takes what a seeder says.
    pub fn on_message(&mut self, now: Tick, from: ReplicaId, message: Message, out: &mut Vec<Output>) {
        if self.banned.contains_key(&from) {
            return;
        }
        match message {
            Message::Offer(marks) => self.on_offer(now, from, marks, out),
            Message::Manifest { seq, manifest } => self.on_manifest(now, from, seq, manifest, out),
            Message::Digests { seq, part, first, digests } => {
                self.on_digests(now, from, seq, (part, first), digests, out);
            }
            Message::Chunk { seq, chunk, bytes } if self.target() == Some(seq) => {
                self.on_chunk(now, from, chunk, Body::plain(bytes), out);
            }
            Message::Packed { seq, chunk, holds, bytes }
                if self.target() == Some(seq) && self.config.takes_packed() =>
            {
                self.on_chunk(now, from, chunk, Body::packed(bytes, holds), out);
            }
            Message::Gone(seq) if self.target() == Some(seq) => {
                self.sources.remove(&from);
                self.feed(now, Input::Gone(from), out);
                match self.sources.is_empty() {
                    true => self.restart(now, out),
                    false => self.tick(now, out),
                }
            }
            _ => {}
        }
    }

    fn on_offer(&mut self, now: Tick, from: ReplicaId, marks: Vec<StateCertificate>, out: &mut Vec<Output>) {
        let target = self.statement();
        if target.is_some_and(|target| marks.iter().any(|m| m.statement == target)) {
            // It came late, and has what the others have.
            self.sources.insert(from);
            return self.feed(now, Input::Up(from), out);
        }
        // Certificates cost: once for each question, and not while nobody is asked.
        let Phase::Asking { offers, .. } = &self.phase else { return };
        if offers.contains_key(&from) {
            return;
        }
        let proven = |m: &StateCertificate| (self.proven)(m) || broken(Mutant::OffersUnproven);
        let good = |m: &StateCertificate| m.statement.state != Digest::ZERO && proven(m);
        if !marks.iter().all(good) {
            return self.ban(from, "offers a state without a quorum's certificate".into(), out);
        }
        let useful: Vec<StateCertificate> =
            marks.into_iter().filter(|m| m.statement.seq > self.above).collect();
        if let Phase::Asking { first, offers, .. } = &mut self.phase {
            if !useful.is_empty() {
                first.get_or_insert(now);
            }
            offers.insert(from, useful);
            self.choose(now, out);
        }
    }

    fn statement(&self) -> Option<MarkStatement> {
        Some(match &self.phase {
            Phase::Asking { .. } | Phase::Complete => return None,
            Phase::Manifest { mark, .. } => mark.statement,
            Phase::Digests(lists) => lists.target.mark.statement,
            Phase::Storing(target) => target.mark.statement,
            Phase::Chunks(chunks) => chunks.target.mark.statement,
        })
    }

    /// The newest state that enough offer, once enough have answered; the newest of all if no such one comes.
    fn choose(&mut self, now: Tick, out: &mut Vec<Output>) {
        let Phase::Asking { first, offers, .. } = &self.phase else { return };
        let waited = first.is_some_and(|at| now.since(at) >= OFFERS_NS);
        let all =
            self.connected.iter().filter(|r| !self.banned.contains_key(r)).all(|r| offers.contains_key(r));
        if !(waited || all) {
            return;
        }
        let has = |marks: &[StateCertificate], of: &StateCertificate| {
            marks.iter().any(|m| m.statement == of.statement)
        };
        let late = first.is_some_and(|at| now.since(at) >= AGREED_NS);
        let enough = |of: &StateCertificate| {
            late || offers.values().filter(|marks| has(marks, of)).count() >= self.config.offerers
        };
        let newest = offers.values().flatten().filter(|m| enough(m)).max_by_key(|m| m.statement.seq).cloned();
        let Some(mark) = newest else { return };
        self.moved = now;
        self.sources = offers.iter().filter(|(_, marks)| has(marks, &mark)).map(|(r, _)| *r).collect();
        self.ask_manifest(now, mark, None, out);
        self.ask_ahead(out);
    }

    /// Whoever has nothing needs all lists: the first ones are asked of all sources in turn before it is known how many there are.
    fn ask_ahead(&mut self, out: &mut Vec<Output>) {
        let own = self.own.as_ref().map_or(0, |own| own.part(Part::State).page_count());
        let Phase::Manifest { mark, of, ahead, .. } = &mut self.phase else { return };
        if own >= FAN_OUT as u64 {
            return;
        }
        let seq = mark.statement.seq;
        let mut ask = |of: ReplicaId, part, first| {
            ahead.asked.insert((part, first), of);
            out.push(Output::Send(of, Message::GetDigests { seq, part, first, nodes: NODES_MAX }));
        };
        ask(*of, Part::Table, 0);
        let sources: Vec<ReplicaId> = self.sources.intersection(&self.connected).copied().collect();
        for (turn, of) in sources.iter().cycle().take(AHEAD * sources.len()).enumerate() {
            ask(*of, Part::State, turn as u64 * NODES_MAX);
        }
    }

    fn ask_manifest(
        &mut self,
        now: Tick,
        mark: StateCertificate,
        not: Option<ReplicaId>,
        out: &mut Vec<Output>,
    ) {
        let able: Vec<ReplicaId> = self.sources.intersection(&self.connected).copied().collect();
        let other = able.iter().copied().find(|r| not.is_none_or(|not| *r > not));
        let Some(of) = other.or(able.first().copied()) else { return self.restart(now, out) };
        out.push(Output::Send(of, Message::GetManifest(mark.statement.seq)));
        self.phase = Phase::Manifest { mark, of, since: now, ahead: Ahead::default() };
    }

    fn on_manifest(&mut self, now: Tick, from: ReplicaId, seq: Seq, bytes: Bytes, out: &mut Vec<Output>) {
        let Phase::Manifest { mark, of, ahead, .. } = &mut self.phase else { return };
        if mark.statement.seq != seq || *of != from {
            return;
        }
        let (mark, ahead) = (mark.clone(), std::mem::take(ahead));
        let manifest = Manifest::decode(bytes)
            .ok()
            .filter(|m| m.seq == seq && m.root(self.algorithm) == mark.statement.state);
        let Some(manifest) = manifest else {
            self.ban(from, format!("its manifest of place {seq} is not what the certificate names"), out);
            return self.ask_manifest(now, mark, Some(from), out);
        };
        self.moved = now;
        let mut digests = [Vec::new(), Vec::new()];
        let mut missing = BTreeSet::new();
        for part in Part::ALL {
            let said = manifest.part(part);
            let own = self.own.as_ref().map(|own| own.digests(part, 0, u64::MAX)).unwrap_or_default();
            let mut all = vec![Digest::ZERO; said.pages as usize];
            for (node, expected) in said.nodes.iter().enumerate() {
                let from = node * FAN_OUT;
                let to = (from + FAN_OUT).min(all.len());
                match own.get(from..to).filter(|own| node_of(self.algorithm, own) == *expected) {
                    Some(own) => all[from..to].copy_from_slice(own),
                    None => {
                        missing.insert((part, node as u64 / NODES_MAX * NODES_MAX));
                    }
                }
            }
            digests[part as usize] = all;
        }
        let target = Target { mark, manifest, digests };
        let asked = ahead.asked.into_iter().filter(|(list, _)| missing.remove(list));
        let asked = asked.map(|(list, of)| (list, (of, now))).collect();
        self.phase = Phase::Digests(Box::new(Lists { target, missing, asked, late: BTreeMap::new() }));
        self.ask_digests(now, out);
        for (from, list, digests) in ahead.here {
            self.on_digests(now, from, seq, list, digests, out);
        }
    }

    /// Lists go to all sources in turn.
    fn ask_digests(&mut self, now: Tick, out: &mut Vec<Output>) {
        let able: Vec<ReplicaId> = self.sources.intersection(&self.connected).copied().collect();
        let Phase::Digests(lists) = &mut self.phase else { return };
        let late: Vec<ListAt> = lists
            .asked
            .iter()
            .filter(|(_, (of, at))| now.since(*at) >= ANSWER_NS || !able.contains(of))
            .map(|(list, _)| *list)
            .collect();
        let mut before = HashMap::new();
        for list in late {
            let asked = lists.asked.remove(&list);
            if let Some((of, _)) = asked {
                *lists.late.entry(of).or_default() += 1;
            }
            before.insert(list, asked.map(|(of, _)| of));
            lists.missing.insert(list);
        }
        if lists.missing.is_empty() && lists.asked.is_empty() {
            return self.lists_are_here(out);
        }
        if able.is_empty() {
            return self.restart(now, out);
        }
        let seq = lists.target.mark.statement.seq;
        let mut load: BTreeMap<ReplicaId, usize> = able.iter().map(|r| (*r, 0)).collect();
        lists.asked.values().for_each(|(of, _)| *load.entry(*of).or_default() += 1);
        while let Some(list) = lists.missing.first().copied() {
            let not = before.get(&list).copied().flatten().filter(|_| able.len() > 1);
            let free = load.iter().filter(|(r, n)| **n < LISTS_MAX && Some(**r) != not);
            let Some(of) = free.min_by_key(|(r, n)| (lists.late.get(*r), **n)).map(|(r, _)| *r) else {
                break;
            };
            lists.missing.pop_first();
            lists.asked.insert(list, (of, now));
            *load.entry(of).or_default() += 1;
            let (part, first) = list;
            let ask = Message::GetDigests { seq, part, first, nodes: NODES_MAX };
            out.push(Output::Send(of, ask));
        }
    }

    fn on_digests(
        &mut self,
        now: Tick,
        from: ReplicaId,
        seq: Seq,
        list: ListAt,
        digests: Vec<Digest>,
        out: &mut Vec<Output>,
    ) {
        if let Phase::Manifest { mark, ahead, .. } = &mut self.phase {
            // Once each.
            if mark.statement.seq == seq && ahead.asked.get(&list) == Some(&from) {
                ahead.here.retain(|(_, before, _)| *before != list);
                ahead.here.push((from, list, digests));
            }
            return;
        }
        let Phase::Digests(lists) = &mut self.phase else { return };
        let asked = lists.asked.get(&list).is_some_and(|(of, _)| *of == from);
        if lists.target.mark.statement.seq != seq || !asked {
            return;
        }
        lists.asked.remove(&list);
        let (part, first) = list;
        let said = lists.target.manifest.part(part);
        let all = &mut lists.target.digests[part as usize];
        let start = first as usize * FAN_OUT;
        let end = (start + NODES_MAX as usize * FAN_OUT).min(all.len());
        let nodes = said.nodes[first as usize..].iter();
        let leads = |d: &[Digest], node: &Digest| node_of(self.algorithm, d) == *node;
        let right = digests.len() == end - start
            && (broken(Mutant::DigestsUnchecked)
                || digests.chunks(FAN_OUT).zip(nodes).all(|(d, node)| leads(d, node)));
        if right {
            all[start..end].copy_from_slice(&digests);
            self.moved = now;
        } else {
            lists.missing.insert(list);
            self.ban(from, format!("its digests of place {seq} are not what the certificate names"), out);
        }
        self.ask_digests(now, out);
    }

    fn lists_are_here(&mut self, out: &mut Vec<Output>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Complete);
        if let Phase::Digests(lists) = phase {
            out.push(Output::Store(Box::new(lists.target.clone())));
            self.phase = Phase::Storing(Box::new(lists.target));
        }
    }

    /// There is a place for the target's chunks; those that `has` tells of lie there already, or are the same in what is here.
    pub fn stored(&mut self, now: Tick, staging: &Staging, out: &mut Vec<Output>) {
        self.moved = now;
        let phase = std::mem::replace(&mut self.phase, Phase::Complete);
        let Phase::Storing(target) = phase else {
            self.phase = phase;
            return;
        };
        let own = Part::ALL
            .map(|part| self.own.as_ref().map(|own| own.digests(part, 0, u64::MAX)).unwrap_or_default());
        let here = |chunk: u64| {
            let (part, index) = target.manifest.place(chunk);
            let digest = target.digest(chunk);
            digest == Digest::ZERO
                || own[part as usize].get(index as usize) == Some(&digest)
                || staging.has(chunk)
        };
        let mut wanted: Vec<Range<u64>> = Vec::new();
        for chunk in (0..target.manifest.chunks()).filter(|chunk| !here(*chunk)) {
            match wanted.last_mut().filter(|range| range.end == chunk) {
                Some(range) => range.end += 1,
                None => wanted.push(chunk..chunk + 1),
            }
        }
        let able: Vec<ReplicaId> = self.sources.intersection(&self.connected).copied().collect();
        let chunks = target.manifest.chunks();
        let mut config = self.config.clone();
        config.cst.place = target.manifest.seq;
        let fetch = Fetch::new(config, chunks, wanted, CHUNK_BYTES, &able, now);
        self.phase =
            Phase::Chunks(Box::new(Chunks { target: *target, fetch, spares: HashMap::new(), unwritten: 0 }));
        self.feed(now, Input::Leader(self.leader), out);
    }

    fn feed(&mut self, now: Tick, input: Input, out: &mut Vec<Output>) {
        if let Phase::Chunks(chunks) = &mut self.phase {
            let mut fetched = Vec::new();
            chunks.fetch.step(now, input, &mut fetched);
            self.fetched(fetched, out);
            self.is_complete(out);
        }
    }

    fn fetched(&mut self, fetched: Vec<Fetched>, out: &mut Vec<Output>) {
        let Phase::Chunks(chunks) = &self.phase else { return };
        let (seq, packed) = (chunks.target.mark.statement.seq, self.config.takes_packed());
        for output in fetched {
            match output {
                Fetched::Request { to, round, ranges, mut replace, mut again } => {
                    let mut parts = ranges.chunks(RANGES_MAX);
                    loop {
                        let ranges = parts.next().unwrap_or_default().to_vec();
                        let again = std::mem::take(&mut again);
                        let ask = Message::GetChunks { seq, round, ranges, replace, packed, again };
                        out.push(Output::Send(to, ask));
                        replace = false;
                        if parts.len() == 0 {
                            break;
                        }
                    }
                }
                Fetched::Cancel { to, ranges } => {
                    for ranges in ranges.chunks(RANGES_MAX) {
                        let cancel = Message::Cancel { seq, ranges: ranges.to_vec() };
                        out.push(Output::Send(to, cancel));
                    }
                }
                Fetched::Blame { who, why } => {
                    let (text, final_) = match why {
                        Fault::BadChunk { chunk } => {
                            (format!("chunk {chunk} is not what the certificate names"), true)
                        }
                        Fault::Unasked { chunk } => {
                            (format!("sends what it was not asked for, chunk {chunk} the last"), true)
                        }
                        Fault::Silent => ("sends nothing for three times what was expected".into(), false),
                    };
                    out.push(Output::Blame(who, text.clone()));
                    if final_ {
                        self.banned.insert(who, text);
                        self.sources.remove(&who);
                    }
                }
            }
        }
    }

    fn on_chunk(&mut self, now: Tick, from: ReplicaId, chunk: u64, body: Body, out: &mut Vec<Output>) {
        let Phase::Chunks(chunks) = &mut self.phase else { return };
        let mut fetched = Vec::new();
        // Opened: that is what it takes in memory, and what the rates of all sources are compared by.
        let length = body.len();
        self.received += body.sent();
        let arrival = chunks.fetch.arrived(now, from, chunk, length, &mut fetched);
        match arrival {
            Arrival::Check => {
                chunks.unwritten += length;
                let (place, expected) = (chunks.target.manifest.place(chunk), chunks.target.digest(chunk));
                out.push(Output::Check { chunk, from, body, place, expected });
            }
            Arrival::Spare => {
                chunks.unwritten += length;
                if let Some((_, old)) = chunks.spares.insert(chunk, (from, body)) {
                    self.dropped(now, old.len(), &mut fetched);
                }
            }
            Arrival::Keep => {
                // Never packed, for nothing but pull takes those.
                let Some(bytes) = body.open() else { return };
                chunks.unwritten += length;
                out.push(Output::Write { chunk, bytes });
            }
            Arrival::Duplicate | Arrival::Unasked => {}
        }
        self.fetched(fetched, out);
        self.is_complete(out);
    }

    fn dropped(&mut self, now: Tick, bytes: u64, fetched: &mut Vec<Fetched>) {
        if let Phase::Chunks(chunks) = &mut self.phase {
            chunks.unwritten = chunks.unwritten.saturating_sub(bytes);
            chunks.fetch.step(now, Input::Written { bytes }, fetched);
        }
    }

    /// A chunk was hashed. If it is `right` it is being written, and [`Leecher::written`] follows.
    pub fn checked(
        &mut self,
        now: Tick,
        seq: Seq,
        (chunk, from, bytes): (u64, ReplicaId, u64),
        right: bool,
        out: &mut Vec<Output>,
    ) {
        if self.target() != Some(seq) {
            return;
        }
        let Phase::Chunks(chunks) = &mut self.phase else { return };
        let spare = chunks.spares.remove(&chunk);
        let mut fetched = Vec::new();
        if right {
            self.moved = now;
            chunks.fetch.step(now, Input::Verified { chunk }, &mut fetched);
            if let Some((_, spare)) = spare {
                self.dropped(now, spare.len(), &mut fetched);
            }
        } else {
            chunks.fetch.step(now, Input::Bad { chunk, from }, &mut fetched);
            if let Some((from, body)) = spare {
                let (place, expected) = (chunks.target.manifest.place(chunk), chunks.target.digest(chunk));
                out.push(Output::Check { chunk, from, body, place, expected });
            }
            self.dropped(now, bytes, &mut fetched);
        }
        self.fetched(fetched, out);
        self.is_complete(out);
    }

    /// So many bytes of chunks are on disk.
    pub fn written(&mut self, now: Tick, seq: Seq, bytes: u64, out: &mut Vec<Output>) {
        if self.target() != Some(seq) {
            return;
        }
        self.moved = now;
        if let Phase::Chunks(chunks) = &mut self.phase {
            chunks.unwritten = chunks.unwritten.saturating_sub(bytes);
        }
        self.feed(now, Input::Written { bytes }, out);
    }

    /// Whether all is verified and only waits to be written.
    pub fn waits_for_disk(&self) -> bool {
        matches!(&self.phase, Phase::Chunks(chunks) if chunks.fetch.done() && chunks.unwritten > 0)
    }

    fn is_complete(&mut self, out: &mut Vec<Output>) {
        if let Phase::Chunks(chunks) = &self.phase
            && chunks.fetch.done()
            && chunks.unwritten == 0
        {
            let seq = chunks.target.mark.statement.seq;
            out.extend(self.connected.iter().map(|to| Output::Send(*to, Message::End(seq))));
            out.push(Output::Complete);
            self.phase = Phase::Complete;
        }
    }

    /// Time passed.
    pub fn tick(&mut self, now: Tick, out: &mut Vec<Output>) {
        let asks = matches!(self.phase, Phase::Manifest { .. } | Phase::Digests(_) | Phase::Chunks(_));
        if asks && now.since(self.moved) >= STUCK_NS && !self.waits_for_disk() {
            return self.restart(now, out);
        }
        match &mut self.phase {
            Phase::Asking { since, offers, .. } => {
                let again = now.since(*since) >= ASK_NS;
                if again {
                    *since = now;
                    offers.clear();
                    out.extend(self.connected.iter().map(|to| Output::Send(*to, Message::Ask)));
                }
                self.choose(now, out);
            }
            Phase::Manifest { mark, of, since, .. } => {
                let (mark, of, late) = (mark.clone(), *of, now.since(*since) >= ANSWER_NS);
                if late || !self.connected.contains(&of) {
                    self.ask_manifest(now, mark, Some(of), out);
                }
            }
            Phase::Digests(_) => self.ask_digests(now, out),
            Phase::Chunks(chunks) => {
                if chunks.fetch.next_deadline().is_some_and(|at| at <= now) {
                    self.feed(now, Input::Tick, out);
                }
                // Whoever could be asked was banned or has no target any more.
                if self.sources.is_empty() {
                    self.restart(now, out);
                }
            }
            Phase::Storing(_) | Phase::Complete => {}
        }
    }

    /// When [`Leecher::tick`] is due at the latest.
    pub fn next_deadline(&self, now: Tick) -> Tick {
        match &self.phase {
            Phase::Chunks(chunks) => {
                chunks.fetch.next_deadline().unwrap_or(now.plus_ms(1000)).min(now.plus_ms(1000))
            }
            Phase::Complete => now.plus_ms(1000),
            _ => now.plus_ms(100),
        }
    }
}
