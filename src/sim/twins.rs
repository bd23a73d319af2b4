//! Twins: two processes with the keys of one replica, each running the real core, beside correct replicas; all two-way
//! partitions, round by round, with and without the time to change the leader in each.
//!
//! Neither twin lies on purpose, yet together they propose, vote and report two things at once. Messages arrive at once and in
//! order inside a side of the partition and are lost between sides. `DURAMEN_TWINS=N` plays N scenarios of each kind (all of
//! them, once N reaches [`Scenario::count`]), `DURAMEN_TWIN=I` the one of that index; `DURAMEN_TWIN_ROUNDS` says how long
//! scenarios are.
//!
//! Source: Bano et al., "Twins: BFT Systems Made Robust" (OPODIS'21). Differs: leaders are those of the views; a round is short,
//! or as long as a change of leaders takes.

use super::cluster::Setup;
use super::disk::Disk;
use super::executor::Executor;
use super::random::Random;
use super::swarm::members;
use crate::log::Persisted;
use crate::order::record::OrderRecord;
use crate::order::restore::{Replay, first_record};
use crate::order::{Discard, Input, Now, Orderer, Output, invariants};
use crate::quorum::FaultModel;
use crate::types::*;
use crate::wire::batch::Batch;
use crate::wire::messages::*;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Heartbeats of a short round, and of one that outlasts the timeout.
const SHORT: u64 = 3;
const LONG: u64 = 25;
/// Milliseconds of a heartbeat: a tenth of the timeout.
const BEAT_MS: u64 = 10;
/// Heartbeats after the partitions within which everything must be executed.
const SETTLE: u64 = 1000;
/// Messages and other inputs between two heartbeats.
const INPUTS_MAX: u64 = 200_000;

const N: u32 = 4;

/// One round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Round {
    /// Nodes of one side; the others are the other side.
    pub side: u32,
    /// Long enough for the leader to change.
    pub long: bool,
}

/// What happens in one run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Replicas that there are two of; the second ones are nodes 4, 5, …
    pub twins: Vec<u32>,
    /// In turn.
    pub rounds: Vec<Round>,
}

impl Scenario {
    /// How many there are of so many rounds with one pair of twins: 4 pairs, 16 partitions and 2 lengths per round.
    pub fn count(rounds: u32) -> u64 {
        4 << (5 * rounds)
    }

    /// The one of this index.
    pub fn of(index: u64, rounds: u32) -> Self {
        let round = |i| {
            let bits = (index >> (2 + 5 * i)) as u32;
            Round { side: bits >> 1 & 15, long: bits & 1 == 1 }
        };
        Self { twins: vec![index as u32 & 3], rounds: (0..rounds).map(round).collect() }
    }
}

struct Node {
    me: ReplicaId,
    /// `None`: a twin whose core met what only a liar can bring about.
    core: Option<Orderer>,
    disk: Disk,
    executor: Executor,
    before: (View, Seq, Seq, Seq),
}

/// What a run showed.
#[derive(Default, Debug)]
pub struct Shown {
    /// Places decided.
    pub places: u64,
    /// Views begun.
    pub views: u64,
    /// Messages that contradicted earlier ones of their sender.
    pub contradictions: u64,
}

struct Run {
    nodes: Vec<Node>,
    twins: Vec<u32>,
    side: u32,
    now: Tick,
    random: Random,
    work: VecDeque<(usize, Input)>,
    mail: VecDeque<(usize, usize, Message)>,
    auth: Vec<crate::wire::auth::Authenticator>,
    handed: BTreeMap<Seq, Digest>,
    shown: Shown,
}

impl Run {
    fn new(twins: &[u32]) -> Self {
        let setup = Setup::new(members(FaultModel::Byzantine, N));
        let auth: Vec<_> =
            (0..N).chain(twins.iter().copied()).map(|id| setup.authenticator(ReplicaId(id))).collect();
        let mut random = Random::new(1);
        let now = Tick(1_000_000_000);
        let nodes = auth.iter().map(|auth| {
            let mut disk = Disk::new((1, 1));
            disk.append(&first_record());
            let mut replay = Replay::new(auth.clone(), Default::default(), Lsn(1));
            replay.record(&first_record()).expect("a first record");
            let mut order = setup.order.clone();
            // Twins differ in what they draw, as two processes do.
            order.seed = random.next();
            let core = replay.finish(order, clock(now)).expect("a formatted log");
            let executor = Executor::new(setup.hasher(), setup.sessions_max);
            Node { me: auth.me, core: Some(core), disk, executor, before: Default::default() }
        });
        let nodes: Vec<_> = nodes.collect();
        let mut this = Self {
            nodes,
            twins: twins.to_vec(),
            side: 0,
            now,
            random,
            work: VecDeque::new(),
            mail: VecDeque::new(),
            auth,
            handed: BTreeMap::new(),
            shown: Shown::default(),
        };
        (0..this.nodes.len()).for_each(|at| this.write(at));
        this.work.clear();
        this
    }

    fn correct(&self, at: usize) -> bool {
        !self.twins.contains(&self.nodes[at].me.0)
    }

    /// The disk is as fast as can be.
    fn write(&mut self, at: usize) {
        while let Some((write, _)) = self.nodes[at].disk.submit(&mut self.random) {
            let upto = self.nodes[at].disk.complete(write).expect("writes end in order");
            self.work.push_back((at, Input::Persisted(Persisted::simulated(upto))));
        }
    }

    fn step(&mut self, at: usize, input: Input) {
        let (now, correct) = (clock(self.now), self.correct(at));
        let node = &mut self.nodes[at];
        let Some(core) = &mut node.core else { return };
        let mut out = Vec::new();
        let result = if correct {
            let result = core.step(now, input, &mut out);
            invariants::check(core);
            node.before = invariants::check_step(node.before, core);
            result
        } else {
            // Twins together are a liar: what each of their cores asserts is its own business.
            match catch_unwind(AssertUnwindSafe(|| core.step(now, input, &mut out))) {
                Ok(result) => result,
                Err(_) => return node.core = None,
            }
        };
        self.shown.contradictions += u64::from(correct && result == Err(Discard::Equivocation));
        for output in out {
            self.output(at, output);
        }
        self.write(at);
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Send(to, message) => self.send(at, to, message),
            Output::Broadcast(message) => {
                let me = self.nodes[at].me;
                for to in (0..N).map(ReplicaId).filter(|to| *to != me) {
                    self.send(at, to, message.clone());
                }
            }
            Output::Append(lsn, record) => self.append(at, lsn, &record),
            Output::Execute(batch) => self.execute(at, &batch),
            Output::ServeBatch { to, seq, lsn } => {
                let batch = self.nodes[at].disk.batch(lsn).expect("what is served is durable");
                if to != self.nodes[at].me {
                    return self.send(at, to, Message::BatchIs(BatchIs { seq, batch }));
                }
                let batch = Batch::decode(&self.auth[at].hasher, seq, batch).expect("our own batch");
                self.work.push_back((at, Input::OwnBatch(Arc::new(batch))));
            }
            Output::Covered { .. }
            | Output::Recycle { .. }
            | Output::Rooted(_)
            | Output::Behind
            | Output::Install(_)
            | Output::Restored
            | Output::NotInstalled(_) => unreachable!("no checkpoints here"),
            Output::ViewStarted(_) => self.shown.views += u64::from(self.correct(at)),
            Output::Quarantined(why) | Output::Halt(why) => {
                assert!(!self.correct(at), "node {at} halts: {why}")
            }
            Output::Decision(_)
            | Output::Resend(_)
            | Output::Notice { .. }
            | Output::ReadReady(_)
            | Output::ReadRefused(_) => {}
        }
    }

    fn append(&mut self, at: usize, lsn: Lsn, record: &OrderRecord) {
        assert_eq!(self.nodes[at].disk.append(record), lsn, "records are numbered in order");
    }

    fn execute(&mut self, at: usize, batch: &Batch) {
        if self.correct(at) {
            let first = *self.handed.entry(batch.seq).or_insert(batch.digest);
            assert_eq!(
                first, batch.digest,
                "agreement: node {at} executes another batch at place {}",
                batch.seq
            );
        }
        let node = &mut self.nodes[at];
        let outcome = node.executor.execute(batch);
        let replies = node.executor.replies;
        self.work.push_back((at, Input::Executed { seq: batch.seq, replies, progress: outcome.progress }));
    }

    /// To whoever has this identity on the sender's side.
    fn send(&mut self, from: usize, to: ReplicaId, message: Message) {
        for at in 0..self.nodes.len() {
            let together = (self.side >> from & 1) == (self.side >> at & 1);
            if self.nodes[at].me == to && together {
                self.mail.push_back((from, at, message.clone()));
            }
        }
    }

    fn beats(&mut self, count: u64, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..count {
            if done(self) {
                return true;
            }
            self.now = self.now.plus_ms(BEAT_MS);
            self.work.extend((0..self.nodes.len()).map(|at| (at, Input::Tick)));
            self.deliver();
        }
        done(self)
    }

    fn deliver(&mut self) {
        for _ in 0..INPUTS_MAX {
            if let Some((at, input)) = self.work.pop_front() {
                self.step(at, input);
            } else if let Some((from, to, message)) = self.mail.pop_front() {
                let sender = self.nodes[from].me;
                match self.auth[to].replica(sender, message) {
                    Ok(checked) => self.step(to, Input::Message(checked)),
                    Err(e) => {
                        assert!(!self.correct(from), "node {to} rejects a message of node {from}: {e:?}")
                    }
                }
            } else {
                return;
            }
        }
        panic!("more than {INPUTS_MAX} inputs follow from one heartbeat");
    }

    /// Every node wants something ordered; a twin wants something else than its twin.
    fn ask(&mut self, round: u64) {
        let nodes = self.nodes.len() as u64;
        self.work.extend((0..nodes).map(|at| (at as usize, Input::OrderNoop(1 + round * nodes + at))));
        self.deliver();
    }

    fn settled(&self) -> bool {
        let end = self.handed.keys().last().copied().unwrap_or_default();
        (0..self.nodes.len()).filter(|at| self.correct(*at)).all(|at| {
            let core = self.nodes[at].core.as_ref().expect("a correct one");
            core.executed() == end && core.waiting().0 == 0
        })
    }
}

fn clock(now: Tick) -> Now {
    Now { tick: now, wall: WallTime(1_700_000_000_000_000_000 + now.0) }
}

/// Plays one scenario, then joins all nodes. Panics when correct replicas disagree or do not go on.
pub fn play(scenario: &Scenario) -> Shown {
    let mut run = Run::new(&scenario.twins);
    let mut rounds = 0;
    for round in &scenario.rounds {
        run.side = round.side;
        run.ask(rounds);
        rounds += 1;
        run.beats(if round.long { LONG } else { SHORT }, |_| false);
    }
    run.side = 0;
    run.ask(rounds);
    let settled = run.beats(SETTLE, Run::settled);
    let picture = |at: usize| run.nodes[at].core.as_ref().map(|c| (c.status(), c.waiting(), c.picture()));
    assert!(settled, "no progress: {scenario:?}\n{:#?}", (0..N as usize).map(picture).collect::<Vec<_>>());
    run.shown.places = run.handed.len() as u64;
    run.shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(name: &str, usual: u64) -> u64 {
        std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual)
    }

    #[test]
    fn a_replica_that_runs_twice_forks_nobody_in_any_partition() {
        let rounds = number("DURAMEN_TWIN_ROUNDS", 4) as u32;
        let count = Scenario::count(rounds);
        // An odd factor permutes all indices: any number of them is spread evenly, and `count` of them are all.
        let mut indices: Vec<u64> = (0..number("DURAMEN_TWINS", 200).min(count))
            .map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count)
            .collect();
        if let Ok(one) = std::env::var("DURAMEN_TWIN") {
            indices = vec![one.parse().expect("a number")];
        }
        let (mut total, mut failed) = (Shown::default(), Vec::new());
        for index in &indices {
            match catch_unwind(|| play(&Scenario::of(*index, rounds))) {
                Ok(shown) => {
                    total.places += shown.places;
                    total.views += shown.views;
                    total.contradictions += shown.contradictions;
                }
                Err(_) => failed.push(*index),
            }
        }
        println!("{} of {count} scenarios of {rounds} rounds: {total:?}", indices.len());
        assert!(failed.is_empty(), "DURAMEN_TWIN_ROUNDS={rounds}, DURAMEN_TWIN= one of {failed:?}");
        let alone = indices.len() == 1;
        assert!(alone || total.contradictions > 0 && total.views > 0, "nothing happened: {total:?}");
    }

    #[test]
    fn more_twins_than_f_fork_and_are_noticed() {
        // 0, 1, 2 on one side; 3 and the twins of 0 and 1 on the other: a quorum each.
        let rounds = vec![Round { side: 0b111000, long: false }];
        let scenario = Scenario { twins: vec![0, 1], rounds };
        let fork = catch_unwind(|| {
            let mut run = Run::new(&scenario.twins);
            run.side = scenario.rounds[0].side;
            run.ask(0);
            run.beats(SHORT, |_| false);
        });
        let why = fork.expect_err("two quorums decide two batches for one place");
        let why = why.downcast::<String>().expect("a formatted message");
        assert!(why.contains("agreement"), "{why}");
    }
}
