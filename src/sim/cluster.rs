//! n replicas from the real ordering core over simulated network, disk, execution and time.

mod checkpoints;
mod outputs;
mod reads;
mod restarts;
mod transfer_stage;
mod transfers;

pub use checkpoints::Checkpoints;
pub use transfers::Fetched;

use super::adversary::seeder_liar::SeederLiar;
use super::adversary::{Adversary, Power};
use super::checkers::history::History;
use super::checkers::linearizable::{self, Call, Verdict};
use super::client::Client;
use super::disk::{Disk, Read, Rot, Tail};
use super::executor::{Answer, Executor, HISTORY_BYTES};
use super::network::{Network, Weather};
use super::random::Random;
use super::reader::Reader;
use super::scheme::ReplicaKeys;
use super::shelf::Shelf;
use crate::order::durable::{Base, ELSEWHERE};
use crate::order::record::OrderRecord;
use crate::order::restore::{Replay, RestoreError, first_record, learner_record};
use crate::order::{Input, Now, OrderConfig, Orderer, Output, invariants};
use crate::quorum::{Group as Members, VoteSet};
use crate::service::KvReply;
use crate::transfer::messages::Message as TransferMessage;
use crate::transfer::{CstConfig, FetchConfig};
use crate::types::*;
use crate::wire::auth::{Authenticator, BatchLimits, ClientAuth};
use crate::wire::batch::{Batch, Hasher};
use crate::wire::messages::*;
use bytes::Bytes;
use checkpoints::Checkpoint;
use reads::Reads;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use transfers::Transfers;

/// Wall clock at tick 0, so that a time is a date.
const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// What a directed scenario does with a message about to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing.
    Pass,
    /// It is lost.
    Drop,
    /// It waits for [`Cluster::release`].
    Hold,
}

/// Decides on messages in directed scenarios.
pub type Filter = Box<dyn FnMut(ReplicaId, ReplicaId, &Message) -> Fate>;

/// What a run is made of.
#[derive(Clone)]
pub struct Setup {
    pub members: Members,
    pub order: OrderConfig,
    pub weather: Weather,
    pub write_us: (u64, u64),
    pub execute_us: (u64, u64),
    pub client_auth: ClientAuth,
    /// Every message passes through its encoding.
    pub encode: bool,
    pub sessions_max: usize,
    pub checkpoints: Option<Checkpoints>,
    /// How states are fetched.
    pub fetch: FetchConfig,
    /// Bytes of a chunk.
    pub piece_bytes: usize,
    /// What a seeder sends at most per second; 0: no bound.
    pub seeder_bytes_per_s: u64,
}

impl Setup {
    /// Small windows, a 100 ms timeout, fair weather.
    pub fn new(members: Members) -> Self {
        let order = OrderConfig {
            window: 32,
            open: 8,
            mark_interval: 8,
            batch_bytes: 4096,
            batch_requests: 16,
            view_timeout_ms: 100,
            clock_skew_ms: 1000,
            client_bytes_max: 1 << 16,
            pool_bytes_max: 1 << 20,
            votes_durable: true,
            transfers: false,
            seed: 1,
        };
        let client_auth = if members.byzantine() { ClientAuth::Signature } else { ClientAuth::Channel };
        Self {
            members,
            order,
            weather: Weather::fair(),
            write_us: (50, 500),
            execute_us: (1, 50),
            client_auth,
            encode: true,
            sessions_max: 256,
            checkpoints: None,
            fetch: FetchConfig {
                offerers: if members.byzantine() { members.f() as usize + 1 } else { 1 },
                cst: CstConfig { model: members.model(), f: members.f(), ..CstConfig::default() },
                ..FetchConfig::default()
            },
            piece_bytes: 64,
            seeder_bytes_per_s: 0,
        }
    }

    pub fn hasher(&self) -> Hasher {
        Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 }
    }

    pub fn authenticator(&self, me: ReplicaId) -> Authenticator {
        Authenticator {
            members: self.members,
            me,
            hasher: self.hasher(),
            client_auth: self.client_auth,
            limits: BatchLimits {
                batch_bytes_max: 1 << 16,
                group_bytes_max: 1 << 15,
                batch_requests_max: 256,
                window: self.order.window,
            },
            accepts_checked: !self.order.votes_durable,
            scheme: Arc::new(ReplicaKeys(me)),
        }
    }
}

enum Event {
    Deliver { from: ReplicaId, to: ReplicaId, epoch: u64, message: Message },
    Group { to: ReplicaId, client: ClientId, bytes: Bytes },
    Answers { from: ReplicaId, leads: bool, answers: Vec<Answer> },
    Written { node: ReplicaId, boot: u64, write: u64 },
    Executed { node: ReplicaId, boot: u64 },
    Tick { node: ReplicaId, boot: u64, due: Tick },
    Client(usize),
    Reader(usize),
    Ask { to: ReplicaId, reader: usize, token: u64, key: u8 },
    Read { from: ReplicaId, reader: usize, answer: ReadReply },
    Command(Box<dyn FnOnce(&mut Cluster)>),
    Transfer { from: ReplicaId, to: ReplicaId, connection: u64, message: Box<TransferMessage> },
    Drained { node: ReplicaId, to: ReplicaId, connection: u64 },
    LookAround { node: ReplicaId, boot: u64, due: Tick },
}

impl Event {
    /// Whom it happens to, if a pause of that replica delays it.
    fn node(&self) -> Option<ReplicaId> {
        match self {
            Self::Deliver { to, .. } | Self::Group { to, .. } | Self::Ask { to, .. } => Some(*to),
            Self::Written { node, .. } | Self::Executed { node, .. } | Self::Tick { node, .. } => Some(*node),
            Self::Transfer { to: node, .. } | Self::Drained { node, .. } | Self::LookAround { node, .. } => {
                Some(*node)
            }
            Self::Answers { .. }
            | Self::Read { .. }
            | Self::Client(_)
            | Self::Reader(_)
            | Self::Command(_) => None,
        }
    }

    /// For the trace's hash.
    fn number(&self) -> u64 {
        match self {
            Self::Deliver { from, to, .. } => 1 << 16 | u64::from(from.0) << 8 | u64::from(to.0),
            Self::Group { to, .. } => 2 << 16 | u64::from(to.0),
            Self::Answers { from, .. } => 3 << 16 | u64::from(from.0),
            Self::Written { node, .. } => 4 << 16 | u64::from(node.0),
            Self::Executed { node, .. } => 5 << 16 | u64::from(node.0),
            Self::Tick { node, .. } => 6 << 16 | u64::from(node.0),
            Self::Client(at) => 7 << 16 | *at as u64,
            Self::Command(_) => 8 << 16,
            Self::Reader(at) => 9 << 16 | *at as u64,
            Self::Ask { to, .. } => 10 << 16 | u64::from(to.0),
            Self::Read { from, .. } => 11 << 16 | u64::from(from.0),
            Self::Transfer { from, to, .. } => 12 << 16 | u64::from(from.0) << 8 | u64::from(to.0),
            Self::Drained { node, to, .. } => 13 << 16 | u64::from(node.0) << 8 | u64::from(to.0),
            Self::LookAround { node, .. } => 14 << 16 | u64::from(node.0),
        }
    }
}

struct Due {
    at: Tick,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    // The heap gives the greatest first: reversed.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One replica.
pub struct Node {
    pub me: ReplicaId,
    /// `None` while it is down.
    pub core: Option<Orderer>,
    pub disk: Disk,
    pub executor: Executor,
    /// On disk, the older first.
    checkpoints: VecDeque<Checkpoint>,
    /// Frozen, and not yet on disk.
    taken: Option<Executor>,
    transfers: Transfers,
    /// Received states, on disk.
    pub shelf: Shelf,
    /// It has no state of its own: none of its checkpoints could be read.
    hollow: bool,
    pub adversary: Option<Box<dyn Adversary>>,
    /// How it lies to those that fetch states.
    pub seeder_liar: Option<SeederLiar>,
    /// Nanoseconds its wall clock is ahead.
    pub skew: i64,
    /// It does nothing until then, and then all that waited.
    pub paused_until: Tick,
    /// Its log gave an error: mute until it is started again.
    pub log_failed: bool,
    auth: Authenticator,
    boot: u64,
    queue: VecDeque<(Arc<Batch>, Option<Certificate>)>,
    /// Where votes are not durable: the log of decisions, durable when a batch counts as executed.
    pub decisions: Vec<(Certificate, Bytes)>,
    /// How the next batch was decided.
    proof: Option<Certificate>,
    /// It started before: where votes are not durable, it may have forgotten some.
    started: bool,
    /// The next start begins a new era.
    pub new_era: bool,
    executing: bool,
    handed: Seq,
    tick_due: Tick,
    before: (View, Seq, Seq, Seq),
    pub ready: Vec<u64>,
    pub refused: Vec<u64>,
    /// Answers to requests that left, sessions' ids not counted.
    pub replied: u64,
}

impl Node {
    /// Of the no-op that it orders after this start.
    fn nonce(&self) -> u64 {
        (1 << 48) | (self.boot + 1)
    }
}

/// All of it.
pub struct Cluster {
    pub setup: Setup,
    pub now: Tick,
    pub random: Random,
    pub network: Network,
    pub nodes: Vec<Node>,
    pub clients: Vec<Client>,
    pub history: History,
    /// What clients asked and were told.
    pub calls: Vec<Call>,
    reads: Reads,
    pub filter: Option<Filter>,
    pub held: Vec<(ReplicaId, ReplicaId, Message)>,
    pub byzantine: VoteSet,
    pub events: u64,
    /// Over all that happened: equal seeds give equal ones, in every build.
    pub trace: u64,
    pub views_started: u64,
    /// Replicas that lost their logs and came back as learners.
    pub wiped: u64,
    /// Records rot at starts, so many in a thousand, as long as somebody else has what they say.
    pub rots: Option<(u64, Random)>,
    /// Records that rotted.
    pub rotten: u64,
    /// Checkpoints that reached a disk.
    pub checkpoints: u64,
    /// Certificates of states, each counted by whoever holds it.
    pub rooted: u64,
    /// States taken over from others.
    pub transferred: u64,
    /// What happened on the way.
    pub fetched: Fetched,
    /// Replicas crash and connections break while states are on their way.
    pub troubles: Option<Random>,
    /// Log records that they made superfluous.
    pub recycled: u64,
    /// Discards by reason, over all replicas.
    pub discards: BTreeMap<String, u64>,
    /// Those of messages, by sender and reason.
    pub turned_away: BTreeMap<(ReplicaId, String), u64>,
    pub prints: bool,
    /// No replica may halt; directed scenarios of halting say otherwise.
    pub may_halt: bool,
    client_links: BTreeMap<(ClientId, ReplicaId), Tick>,
    /// Draws what belongs to state transfer.
    transfer_random: Random,
    /// What was sent before this event, and before all replicas were down, is lost.
    before_era: u64,
    heap: BinaryHeap<Due>,
    order: u64,
}

impl Cluster {
    /// All replicas freshly formatted and started.
    pub fn new(setup: Setup, seed: u64) -> Self {
        let random = Random::new(seed);
        let n = setup.members.n();
        let network = Network::new(n, setup.weather.clone());
        let nodes = (0..n)
            .map(ReplicaId)
            .map(|me| {
                let mut disk = Disk::new(setup.write_us);
                disk.append(&first_record());
                disk.sync();
                Node {
                    me,
                    core: None,
                    disk,
                    executor: Executor::new(setup.hasher(), setup.sessions_max),
                    checkpoints: VecDeque::new(),
                    taken: None,
                    transfers: Transfers::new(setup.seeder_bytes_per_s),
                    shelf: Shelf::default(),
                    hollow: false,
                    adversary: None,
                    seeder_liar: None,
                    skew: 0,
                    paused_until: Tick(0),
                    log_failed: false,
                    auth: setup.authenticator(me),
                    boot: 0,
                    queue: VecDeque::new(),
                    decisions: Vec::new(),
                    proof: None,
                    started: false,
                    new_era: false,
                    executing: false,
                    handed: Seq(0),
                    tick_due: Tick(u64::MAX),
                    before: Default::default(),
                    ready: Vec::new(),
                    refused: Vec::new(),
                    replied: 0,
                }
            })
            .collect();
        let mut this = Self {
            setup,
            now: Tick(1_000_000_000),
            random,
            network,
            nodes,
            clients: Vec::new(),
            history: History::default(),
            calls: Vec::new(),
            reads: Reads::default(),
            filter: None,
            held: Vec::new(),
            byzantine: VoteSet::default(),
            events: 0,
            trace: 0,
            views_started: 0,
            wiped: 0,
            rots: None,
            rotten: 0,
            checkpoints: 0,
            rooted: 0,
            transferred: 0,
            fetched: Fetched::default(),
            troubles: None,
            recycled: 0,
            discards: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            prints: std::env::var_os("DURAMEN_TRACE").is_some(),
            may_halt: false,
            client_links: BTreeMap::new(),
            transfer_random: Random::new(seed ^ 0x7472_616e_7366),
            before_era: 0,
            heap: BinaryHeap::new(),
            order: 0,
        };
        (0..n).map(ReplicaId).for_each(|r| this.restart(r));
        this
    }

    // ---- what scenarios do ---------------------------------------------------------------------------------------

    pub fn core(&self, r: u32) -> &Orderer {
        self.nodes[r as usize].core.as_ref().expect("this replica is up")
    }

    pub fn up(&self, r: ReplicaId) -> bool {
        self.nodes[r.index()].core.is_some()
    }

    pub fn all(&self) -> Vec<ReplicaId> {
        self.setup.members.members().collect()
    }

    /// Replicas that do not lie.
    pub fn correct(&self) -> Vec<ReplicaId> {
        self.all().into_iter().filter(|r| !self.byzantine.contains(*r)).collect()
    }

    /// From now on this replica's messages pass through `adversary`.
    pub fn corrupt(&mut self, r: ReplicaId, adversary: Box<dyn Adversary>) {
        self.byzantine.insert(r);
        let node = &mut self.nodes[r.index()];
        if adversary.diverges() {
            node.executor.diverges = 1 + r.0 as u8;
        }
        node.adversary = Some(adversary);
        node.seeder_liar = Some(SeederLiar::draw(&mut self.transfer_random));
    }

    pub fn add_client(&mut self, requests: u64) -> usize {
        let id = ClientId(self.clients.len() as u32);
        let (members, hasher, auth) = (self.setup.members, self.setup.hasher(), self.setup.client_auth);
        let mut client = Client::new(id, members, hasher, auth, requests, &mut self.random);
        client.trusts_leader &= self.setup.order.votes_durable;
        self.clients.push(client);
        let at = self.clients.len() - 1;
        self.at(0, Event::Client(at));
        at
    }

    /// A client has so many more requests.
    pub fn request(&mut self, client: usize, count: u64) {
        self.clients[client].left += count;
        self.at(0, Event::Client(client));
    }

    /// Does something in so many microseconds.
    pub fn later(&mut self, us: u64, what: impl FnOnce(&mut Cluster) + 'static) {
        self.at(us, Event::Command(Box::new(what)));
    }

    /// Hands a message to `to` at once, as if `from` had sent it.
    pub fn inject(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        self.deliver(from, to, message);
    }

    /// Delivers held messages that `which` picks.
    pub fn release(&mut self, which: impl Fn(ReplicaId, ReplicaId, &Message) -> bool) {
        for (from, to, message) in std::mem::take(&mut self.held) {
            if which(from, to, &message) {
                self.deliver(from, to, message);
            } else {
                self.held.push((from, to, message));
            }
        }
    }

    /// Lets writes of `r` complete, or not.
    pub fn hold_disk(&mut self, r: ReplicaId, held: bool) {
        let node = &mut self.nodes[r.index()];
        node.disk.held = held || node.log_failed;
        self.submit(r);
    }

    pub fn run_ms(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        while self.heap.peek().is_some_and(|d| d.at <= end) {
            self.one();
        }
        self.now = end;
    }

    /// Runs until `done`; false if `ms` pass before.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Cluster) -> bool) -> bool {
        let end = self.now.plus_ms(ms);
        while !done(self) {
            if self.heap.peek().is_none_or(|d| d.at > end) {
                return false;
            }
            self.one();
        }
        true
    }

    /// Whether all clients are content and all correct replicas that are up have executed everything.
    pub fn settled(&self) -> bool {
        let end = self.history.end();
        self.clients.iter().all(Client::content)
            && self.reads.readers.iter().all(Reader::content)
            && self.correct().into_iter().filter(|r| self.up(*r)).all(|r| {
                let node = &self.nodes[r.index()];
                node.executor.executed == end && !node.core.as_ref().is_some_and(Orderer::is_learner)
            })
    }

    /// A client was told this.
    fn returned(&mut self, operation: Vec<u8>, called: u64, reply: Bytes) {
        let reply = KvReply::decode(&reply).expect("a quorum or a leader sends the store's replies");
        self.calls.push(Call { operation, called, returned: Some((self.events, reply)) });
    }

    /// Panics if no store explains what clients were told; the number of keys for which that took too long to say.
    pub fn check_calls(&self) -> u64 {
        let mut calls = self.calls.clone();
        let pending = self.clients.iter().flat_map(Client::unanswered);
        calls.extend(pending.map(|(operation, called)| Call {
            operation: operation.to_vec(),
            called,
            returned: None,
        }));
        match linearizable::check(&calls) {
            Verdict::Linearizable => 0,
            Verdict::Undecided(keys) => keys,
            Verdict::Refused(why) => panic!("not linearizable: {why}"),
        }
    }

    /// Where everybody stands, for a failing run.
    pub fn picture(&self) -> String {
        let mut out = format!("t={} history={}\n", self.now.0 / 1_000_000, self.history.end());
        for node in &self.nodes {
            let lies = if self.byzantine.contains(node.me) { " lies" } else { "" };
            match &node.core {
                None => out += &format!("{}{lies}: down, {} records\n", node.me, node.disk.len()),
                Some(c) => {
                    out += &format!(
                        "{}{lies}: {:?} executed={} wait={:?} {}\n",
                        node.me,
                        c.status(),
                        c.executed(),
                        c.waiting(),
                        c.picture()
                    );
                }
            }
        }
        for c in &self.clients {
            out += &format!(
                "client {}: {} answered, {} left, content={}\n",
                c.id,
                c.answered,
                c.left,
                c.content()
            );
        }
        out + &format!("discards: {:?}", self.discards)
    }

    // ---- the machinery -------------------------------------------------------------------------------------------

    fn note(&self, r: ReplicaId, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>9.3} {r} {}", self.now.0 as f64 / 1e6, what());
        }
    }

    fn at(&mut self, us: u64, event: Event) {
        self.at_tick(Tick(self.now.0 + us * 1000), event);
    }

    fn at_tick(&mut self, at: Tick, event: Event) {
        self.order += 1;
        self.heap.push(Due { at, order: self.order, event });
    }

    fn one(&mut self) {
        let due = self.heap.pop().expect("checked");
        self.now = self.now.max(due.at);
        if let Some(until) = due.event.node().map(|r| self.nodes[r.index()].paused_until)
            && until > self.now
        {
            return self.at_tick(until, due.event);
        }
        self.events += 1;
        self.mark_trace(due.event.number(), due.at.0);
        match due.event {
            // No connection outlives all processes.
            Event::Deliver { .. } | Event::Answers { .. } if due.order <= self.before_era => {}
            Event::Deliver { from, to, epoch, message } => {
                if self.network.arrives(from, to, epoch) {
                    self.deliver(from, to, message);
                }
            }
            Event::Group { to, client, bytes } => self.group(to, client, bytes),
            Event::Reader(at) => self.reader(at),
            Event::Ask { to, reader, token, key } => self.ask(to, reader, token, key),
            Event::Read { from, reader, answer } => self.read(from, reader, answer),
            Event::Answers { from, leads, answers } => {
                for a in answers {
                    let Some(client) = self.clients.get_mut(a.client.0 as usize) else { continue };
                    if let Some(ack) = client.answer(from, leads, &a) {
                        self.history.acknowledged(&ack);
                        self.returned(ack.operation, ack.called, ack.body.slice(HISTORY_BYTES..));
                    } else if a.session == SessionId(0) && client.knows_session(&a) {
                        let id = a.body[..].try_into().expect("8 bytes");
                        self.history.opened(SessionId(u64::from_le_bytes(id)));
                    }
                }
            }
            Event::Written { node, boot, write } => {
                if self.nodes[node.index()].boot == boot {
                    let upto = self.nodes[node.index()].disk.complete(write);
                    self.submit(node);
                    if let Some(upto) = upto {
                        self.step(node, Input::Persisted(crate::log::Persisted::simulated(upto)));
                    }
                }
            }
            Event::Executed { node, boot } => {
                if self.nodes[node.index()].boot == boot {
                    self.executed(node);
                }
            }
            Event::Tick { node, boot, due } => {
                let n = &mut self.nodes[node.index()];
                if n.boot == boot && n.tick_due == due {
                    n.tick_due = Tick(u64::MAX);
                    self.step(node, Input::Tick);
                }
            }
            Event::Client(at) => self.client(at),
            Event::Command(what) => what(self),
            Event::Transfer { from, to, connection, message } => {
                self.hear(from, to, connection, *message);
            }
            Event::Drained { node, to, connection } => self.drained(node, to, connection),
            Event::LookAround { node, boot, due } => {
                if self.nodes[node.index()].boot == boot {
                    self.look_around(node, due);
                }
            }
        }
    }

    fn client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let id = client.id;
        for (to, bytes) in client.act(self.now, self.events, self.history.promised(), &mut self.random) {
            // A connection keeps its order; what is forwarded or sent elsewhere overtakes all the same.
            let us = self.random.between(50, 500);
            let last = self.client_links.entry((id, to)).or_default();
            *last = Tick(self.now.0 + us * 1000).max(*last);
            let at = *last;
            self.at_tick(at, Event::Group { to, client: id, bytes });
        }
        if !self.clients[at].content() {
            let us = self.random.between(500, 20_000);
            self.at(us, Event::Client(at));
        }
    }

    /// A client's group reaches a replica.
    pub fn group(&mut self, to: ReplicaId, client: ClientId, bytes: Bytes) {
        let node = &self.nodes[to.index()];
        if node.core.is_none() {
            return;
        }
        if let Ok(group) = node.auth.group(Some(client), bytes) {
            self.step(to, Input::Group { origin: u64::from(client.0), group });
        }
    }

    fn deliver(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        if self.nodes[to.index()].core.is_none() {
            return;
        }
        let message = if self.setup.encode {
            let (kind, head, tail) = message.encode();
            let payload: Bytes = match tail {
                Some(tail) => [head, tail].concat().into(),
                None => head,
            };
            match Message::decode(kind, payload) {
                Ok(message) => message,
                Err(e) => {
                    assert!(
                        self.byzantine.contains(from),
                        "a correct message does not decode: {e:?} {message:?}"
                    );
                    *self.discards.entry(format!("malformed {e:?}")).or_default() += 1;
                    *self.turned_away.entry((from, format!("malformed {e:?}"))).or_default() += 1;
                    return;
                }
            }
        } else {
            message
        };
        let node = &mut self.nodes[to.index()];
        if let Some(adversary) = &mut node.adversary {
            adversary.hears(from, &message);
        }
        let kind = message.kind();
        match node.auth.replica(from, message) {
            Ok(checked) => self.step(to, Input::Message(checked)),
            Err(e) => {
                *self.discards.entry(format!("rejected {e:?}")).or_default() += 1;
                *self.turned_away.entry((from, format!("rejected {e:?}"))).or_default() += 1;
                // In the MAC scheme a group forwarded for a client that lies to us is one of those.
                let excused = self.byzantine.contains(from) || self.setup.client_auth == ClientAuth::Mac;
                assert!(excused, "{to} rejects a message of kind {kind} of correct {from}: {e:?}");
            }
        }
    }

    /// One step of one core, its checks, and its outputs.
    pub fn step(&mut self, r: ReplicaId, input: Input) {
        let now = clock(self.now, self.nodes[r.index()].skew);
        let lies = self.byzantine.contains(r);
        if self.prints && !matches!(input, Input::Tick) {
            self.note(r, || brief(&input));
        }
        let from = match &input {
            Input::Message(m) => Some(m.sender()),
            _ => None,
        };
        let node = &mut self.nodes[r.index()];
        let Some(core) = &mut node.core else { return };
        let mut out = Vec::new();
        let result = if lies {
            // A liar's core is fed with the consequences of its lies: its asserts are its own business.
            match catch_unwind(AssertUnwindSafe(|| core.step(now, input, &mut out))) {
                Ok(result) => result,
                Err(_) => return self.crash(r, Tail::Kept),
            }
        } else {
            let result = core.step(now, input, &mut out);
            invariants::check(core);
            node.before = invariants::check_step(node.before, core);
            result
        };
        if let Err(why) = result {
            *self.discards.entry(format!("{why:?}")).or_default() += 1;
            if let Some(from) = from.filter(|_| !lies) {
                *self.turned_away.entry((from, format!("{why:?}"))).or_default() += 1;
            }
        }
        self.outputs(r, out);
        self.schedule_tick(r);
    }

    fn schedule_tick(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        let Some(core) = &node.core else { return };
        let due = core.next_deadline().max(self.now);
        if due != node.tick_due {
            node.tick_due = due;
            let boot = node.boot;
            self.at_tick(due, Event::Tick { node: r, boot, due });
        }
    }

    /// Goes into the trace's hash.
    fn mark_trace(&mut self, what: u64, value: u64) {
        // FNV-1a over words, turned so that order matters in all bits.
        let mixed = (self.trace ^ what.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ value)
            .wrapping_mul(0x0000_0100_0000_01b3);
        self.trace = mixed.rotate_left(29);
    }

    fn send(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        if let Some(mut adversary) = self.nodes[from.index()].adversary.take() {
            let power = self.power(from);
            let mut out = Vec::new();
            adversary.sends(&power, to, message, &mut self.random, &mut out);
            self.nodes[from.index()].adversary = Some(adversary);
            for (to, message) in out {
                if to != from && self.setup.members.contains(to) {
                    self.carry(from, to, message);
                }
            }
        } else {
            self.carry(from, to, message);
        }
    }

    /// What a liar can do.
    fn power(&self, r: ReplicaId) -> Power {
        Power {
            auth: self.nodes[r.index()].auth.clone(),
            window: self.setup.order.window,
            mark_interval: self.setup.order.mark_interval,
        }
    }

    fn carry(&mut self, from: ReplicaId, to: ReplicaId, message: Message) {
        if let Some(filter) = &mut self.filter {
            match filter(from, to, &message) {
                Fate::Pass => {}
                Fate::Drop => return,
                Fate::Hold => return self.held.push((from, to, message)),
            }
        }
        let (epoch, times) = self.network.send(self.now, from, to, &mut self.random);
        for at in times {
            self.at_tick(at, Event::Deliver { from, to, epoch, message: message.clone() });
        }
    }
}

fn clock(now: Tick, skew: i64) -> Now {
    Now { tick: now, wall: WallTime((EPOCH_NS + now.0).saturating_add_signed(skew)) }
}

fn brief(input: &Input) -> String {
    match input {
        Input::Message(m) => {
            let mut text = format!("{m:?}");
            text.truncate(220);
            text
        }
        other => {
            let mut text = format!("{other:?}");
            text.truncate(120);
            text
        }
    }
}
