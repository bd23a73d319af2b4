//! The cluster of a story: what its commands do, and what is seen of it.

use super::forge::forge;
use super::rules::{Rule, Then, Which, replicas};
use super::script::{Block, Error, What, Words, number};
use super::watch::{Names, Watch};
use crate::order::record::OrderRecord;
use crate::order::{Input, Orderer};
use crate::quorum::{FaultModel, Group as Members};
use crate::sim::adversary::catalogue::named;
use crate::sim::cluster::{Checkpoints, Cluster, Fate, Node, Setup};
use crate::sim::disk::Tail;
use crate::types::*;
use crate::wire::messages::*;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// Milliseconds within which `until` must come true, if it does not say.
const WITHIN_MS: u64 = 1000;

/// The cluster of a story.
pub struct Stage {
    pub(super) cluster: Cluster,
    rules: Rc<RefCell<Vec<Rule>>>,
    pub(super) names: Rc<RefCell<Names>>,
    watch: Watch,
    nonce: u64,
}

/// Runs the commands of a block; what was seen of it, a line each.
pub(super) fn tell(stage: &mut Option<Stage>, block: &Block) -> Result<Vec<String>, Error> {
    for (line, text) in &block.commands {
        let done = catch_unwind(AssertUnwindSafe(|| run(stage, text)));
        let done = done.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            Err(What::Panic(said.unwrap_or_default()))
        });
        done.map_err(|what| Error { line: *line, what })?;
    }
    Ok(stage.as_mut().map(Stage::lines).unwrap_or_default())
}

fn run(stage: &mut Option<Stage>, text: &str) -> Result<(), What> {
    let mut words = Words::new(text)?;
    match (words.name, &mut *stage) {
        ("cluster", Some(_)) => return Err(What::SecondCluster),
        ("cluster", None) => *stage = Some(Stage::new(&mut words)?),
        (_, None) => return Err(What::NoCluster),
        (_, Some(stage)) => {
            stage.command(&mut words)?;
            stage.look();
        }
    }
    words.end()
}

impl Stage {
    fn new(words: &mut Words) -> Result<Self, What> {
        let no_such = |value: &str, wanted| What::NoSuch { value: value.to_string(), wanted };
        let small = |n: u64| u32::try_from(n).map_err(|_| no_such(&n.to_string(), "number of replicas"));
        let (n, f) = (small(words.number("n")?)?, small(words.number("f")?)?);
        let model = match words.value("model")? {
            "byzantine" => FaultModel::Byzantine,
            "crash" => FaultModel::Crash,
            other => return Err(no_such(other, "fault model")),
        };
        let members = Members::new(model, n, f).map_err(|_| What::NoGroup { n, f })?;
        let mut setup = Setup::new(members);
        setup.order.votes_durable = match words.maybe("votes") {
            None => true,
            Some("forgotten") => false,
            Some(other) => return Err(no_such(other, "way to keep votes")),
        };
        if let Some(period) = words.maybe_number("checkpoints")? {
            setup.checkpoints =
                Some(Checkpoints { period: period.max(1), together: true, recycles: true, pressed: false });
        }
        let hasher = setup.hasher();
        let mut cluster = Cluster::new(setup, 1);
        cluster.may_halt = words.maybe_flag("halts")?.unwrap_or(false);
        let rules: Rc<RefCell<Vec<Rule>>> = Rc::default();
        let names: Rc<RefCell<Names>> = Rc::default();
        let (asked, learning) = (rules.clone(), names.clone());
        cluster.filter = Some(Box::new(move |from, to, message| {
            if let Message::Propose(m) = message {
                learning.borrow_mut().learn(&hasher, m.seq, &m.batch);
            }
            let fits = |rule: &&Rule| rule.which.fits(from, to, message);
            match asked.borrow().iter().find(fits).map(|rule| rule.then) {
                None => Fate::Pass,
                Some(Then::Fate(fate)) => fate,
                Some(Then::Fail) => panic!("{from} sends {to} what it must not: {message:?}"),
            }
        }));
        let watch = Watch::new(&cluster);
        Ok(Self { cluster, rules, names, watch, nonce: 0 })
    }

    fn command(&mut self, words: &mut Words) -> Result<(), What> {
        match words.name {
            "client" => {
                let client = self.cluster.add_client(0);
                self.cluster.clients[client].keep_simple();
                self.pass_until(WITHIN_MS, |c| c.clients[client].is_open());
                self.fact("all", "open session", "missing", self.cluster.clients[client].is_open())
            }
            "request" => {
                let client = self.client(words)?;
                self.cluster.request(client, words.maybe_number("count")?.unwrap_or(1));
                Ok(())
            }
            "answered" => {
                let client = self.client(words)?;
                let within = words.maybe_number("within")?.unwrap_or(WITHIN_MS);
                let done = self.pass_until(within, |c| c.clients[client].content());
                self.fact("all", "answer", "missing", done)
            }
            "replay" => self.replay(words),
            "order" => self.order(words),
            "drop" | "hold" | "pass" | "forbid" => {
                let then = match words.name {
                    "drop" => Then::Fate(Fate::Drop),
                    "hold" => Then::Fate(Fate::Hold),
                    "pass" => Then::Fate(Fate::Pass),
                    _ => Then::Fail,
                };
                let which = Which::read(words, self.members())?;
                self.rules.borrow_mut().push(Rule { which, then });
                Ok(())
            }
            "clear" => {
                self.rules.borrow_mut().clear();
                Ok(())
            }
            "release" => {
                let which = Which::read(words, self.members())?;
                self.cluster.release(|from, to, message| which.fits(from, to, message));
                Ok(())
            }
            "cut" | "join" => self.cut(words),
            "run" => {
                let ms = number(words.word("number of milliseconds")?)?;
                self.pass_until(ms, |_| false);
                Ok(())
            }
            "until" => self.facts(words, true),
            "expect" => self.facts(words, false),
            "value" => {
                let place = Seq(number(words.word("place")?)?);
                let name = words.word("name of a batch")?;
                let is = self.name(place);
                self.fact("all", &format!("what was executed at place {place}"), &is, is == name)
            }
            "crash" => {
                let list = self.some(words)?;
                self.crash(words, list)
            }
            "power-loss" => self.crash(words, self.cluster.all()),
            "restart" => {
                let list = self.some(words)?;
                let new_era = words.maybe_flag("new-era")?.unwrap_or(false);
                list.into_iter().try_for_each(|r| self.restart(r, new_era))
            }
            "hold-disk" | "free-disk" => {
                let held = words.name == "hold-disk";
                self.some(words)?.into_iter().for_each(|r| self.cluster.hold_disk(r, held));
                Ok(())
            }
            "skew" => {
                let list = self.some(words)?;
                let ms = words.number("ms")?;
                let ns = i64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1_000_000));
                let ns =
                    ns.ok_or(What::NoSuch { value: ms.to_string(), wanted: "number of milliseconds" })?;
                list.into_iter().for_each(|r| self.cluster.nodes[r.index()].skew = ns);
                Ok(())
            }
            "read" => {
                let at = self.up_at(words)?;
                self.nonce += 1;
                at.into_iter().for_each(|r| self.cluster.step(r, Input::ReadIndex(self.nonce)));
                Ok(())
            }
            "corrupt" => self.corrupt(words),
            "diverge" => {
                for r in self.some(words)? {
                    // Not held to the one history.
                    self.cluster.byzantine.insert(r);
                    self.cluster.nodes[r.index()].executor.diverges = 1 + r.0 as u8;
                }
                Ok(())
            }
            "busy" => {
                let clients = number(words.word("number of clients")?)?;
                (0..clients).for_each(|_| _ = self.cluster.add_client(1 << 40));
                Ok(())
            }
            "wipe" => {
                self.some(words)?.into_iter().for_each(|r| self.cluster.wipe(r));
                Ok(())
            }
            "rot" => {
                let list = self.some(words)?;
                let place = Seq(words.number("place")?);
                list.into_iter().for_each(|r| self.cluster.rot_place(r, place));
                Ok(())
            }
            "spoil-checkpoint" => {
                self.some(words)?.into_iter().for_each(|r| self.cluster.spoil_checkpoint(r));
                Ok(())
            }
            "forge" => forge(self, words),
            other => Err(What::NoSuchCommand(other.to_string())),
        }
    }

    // ---- words ---------------------------------------------------------------------------------------------------

    pub(super) fn members(&self) -> Members {
        self.cluster.setup.members
    }

    /// The replicas behind `key=`.
    pub(super) fn list(&self, words: &mut Words, key: &str) -> Result<Vec<ReplicaId>, What> {
        replicas(words.value(key)?, self.members())
    }

    fn some(&self, words: &mut Words) -> Result<Vec<ReplicaId>, What> {
        replicas(words.word("list of replicas")?, self.members())
    }

    fn up_at(&self, words: &mut Words) -> Result<Vec<ReplicaId>, What> {
        let list = self.list(words, "at")?;
        match list.iter().find(|r| !self.cluster.up(**r)) {
            Some(r) => Err(What::Down(*r)),
            None => Ok(list),
        }
    }

    pub(super) fn client(&self, words: &mut Words) -> Result<usize, What> {
        let value = words.word("client")?;
        let known = value.parse().ok().filter(|i: &usize| *i < self.cluster.clients.len());
        known.ok_or_else(|| What::NoSuch { value: value.to_string(), wanted: "client" })
    }

    fn name(&self, seq: Seq) -> String {
        self.names.borrow().of(&self.cluster.setup.hasher(), seq, self.cluster.history.at(seq))
    }

    fn fact(&self, at: &str, fact: &str, is: &str, holds: bool) -> Result<(), What> {
        let (at, fact, is) = (at.to_string(), fact.to_string(), is.to_string());
        if holds { Ok(()) } else { Err(What::Untrue { at, fact, is }) }
    }

    // ---- what commands do ----------------------------------------------------------------------------------------

    fn replay(&mut self, words: &mut Words) -> Result<(), What> {
        let client = self.client(words)?;
        let (to, times) = (self.list(words, "to")?, words.maybe_number("times")?.unwrap_or(1));
        let group = self.cluster.clients[client].last_group();
        let group = group.ok_or(What::Missing("a request of this client".to_string()))?;
        for _ in 0..times {
            for r in &to {
                self.cluster.group(*r, ClientId(client as u32), group.clone());
            }
        }
        Ok(())
    }

    fn order(&mut self, words: &mut Words) -> Result<(), What> {
        let at = self.up_at(words)?;
        match words.maybe_number("count")? {
            None => {
                let name = words.word("name for the batch")?;
                self.order_one(&at, name.to_string());
            }
            Some(count) => {
                for _ in 0..count {
                    let name = format!("no-op-{}", self.nonce + 1);
                    self.order_one(&at, name);
                    let next = self.cluster.history.end().next();
                    if !self.pass_until(WITHIN_MS, |c| c.history.end() >= next) {
                        return self.fact("all", "place executed next", "none", false);
                    }
                }
                self.pass_until(5, |_| false);
            }
        }
        Ok(())
    }

    fn order_one(&mut self, at: &[ReplicaId], name: String) {
        self.nonce += 1;
        self.names.borrow_mut().nonces.insert(self.nonce, name);
        at.iter().for_each(|r| self.cluster.step(*r, Input::OrderNoop(self.nonce)));
    }

    fn corrupt(&mut self, words: &mut Words) -> Result<(), What> {
        let (list, name) = (self.some(words)?, words.maybe("as"));
        for r in list {
            match name {
                None => _ = self.cluster.byzantine.insert(r),
                Some(name) => {
                    let wanted = "strategy";
                    let row = named(name).ok_or(What::NoSuch { value: name.to_string(), wanted })?;
                    let lie = (row.build)(&mut self.cluster.random);
                    self.cluster.corrupt(r, lie);
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, words: &mut Words) -> Result<(), What> {
        let (cut, all) = (words.name == "cut", self.cluster.all());
        let links: Vec<(ReplicaId, ReplicaId)> = match words.maybe("from") {
            Some(from) => {
                let (from, to) = (replicas(from, self.members())?, self.list(words, "to")?);
                from.into_iter().flat_map(|a| to.iter().map(move |b| (a, *b))).collect()
            }
            None => {
                let list = self.some(words)?;
                list.into_iter().flat_map(|a| all.iter().flat_map(move |b| [(a, *b), (*b, a)])).collect()
            }
        };
        links.into_iter().filter(|(a, b)| a != b).for_each(|(a, b)| self.cluster.network.cut(a, b, cut));
        Ok(())
    }

    fn crash(&mut self, words: &mut Words, list: Vec<ReplicaId>) -> Result<(), What> {
        let tail = match words.value("tail")? {
            "lost" => Tail::Lost,
            "kept" => Tail::Kept,
            other => return Err(What::NoSuch { value: other.to_string(), wanted: "tail" }),
        };
        list.into_iter().for_each(|r| self.cluster.crash(r, tail));
        Ok(())
    }

    fn restart(&mut self, r: ReplicaId, new_era: bool) -> Result<(), What> {
        if self.cluster.up(r) {
            return Err(What::Up(r));
        }
        self.cluster.nodes[r.index()].new_era = new_era;
        self.cluster.restart(r);
        Ok(())
    }

    /// Lets time pass until something holds: false if it does not in time.
    fn pass_until(&mut self, ms: u64, mut done: impl FnMut(&Cluster) -> bool) -> bool {
        let end = self.cluster.now.plus_ms(ms);
        let (watch, names) = (&mut self.watch, &self.names);
        let held = self.cluster.run_until(ms, |c| {
            watch.look(c, &names.borrow());
            done(c)
        });
        if !held {
            self.cluster.now = end;
        }
        held
    }

    /// `until` waits for at least this, `expect` wants exactly this.
    fn facts(&mut self, words: &mut Words, at_least: bool) -> Result<(), What> {
        let at = match words.maybe("at") {
            Some(list) => replicas(list, self.members())?,
            None => self.cluster.correct(),
        };
        let within = if at_least { words.maybe_number("within")?.unwrap_or(WITHIN_MS) } else { 0 };
        let mut wanted = Vec::new();
        for (name, fact) in NUMBERS {
            wanted.extend(words.maybe_number(name)?.map(|number| (name, fact, number)));
        }
        for (name, fact) in FLAGS {
            wanted.extend(words.maybe_flag(name)?.map(|flag| (name, fact, u64::from(flag))));
        }
        if wanted.is_empty() {
            return Err(What::Missing("a fact".to_string()));
        }
        if let Some(r) = at.iter().find(|r| !self.cluster.up(**r)) {
            return Err(What::Down(*r));
        }
        let untrue = |c: &Cluster| {
            at.iter().flat_map(|r| wanted.iter().map(move |w| (*r, w))).find_map(
                |(r, (name, fact, number))| {
                    let node = &c.nodes[r.index()];
                    let is = node.core.as_ref().map(|core| fact(core, node));
                    let holds = is.is_some_and(|is| is == *number || at_least && is > *number);
                    let is = || is.map_or("unknown".to_string(), |is| is.to_string());
                    (!holds).then(|| What::Untrue { at: r.to_string(), fact: name.to_string(), is: is() })
                },
            )
        };
        if at_least {
            self.pass_until(within, |c| untrue(c).is_none());
        }
        untrue(&self.cluster).map_or(Ok(()), Err)
    }

    // ---- what is seen --------------------------------------------------------------------------------------------

    fn look(&mut self) {
        self.watch.look(&self.cluster, &self.names.borrow());
    }

    /// A replica refused what was forged.
    pub(super) fn refused(&mut self, r: ReplicaId, what: String, why: String) {
        self.look();
        self.watch.refused(r, what, why);
    }

    fn lines(&mut self) -> Vec<String> {
        self.watch.lines(&self.cluster)
    }
}

type Number = fn(&Orderer, &Node) -> u64;

/// What `until` and `expect` know.
const NUMBERS: [(&str, Number); 8] = [
    ("view", |core, _| core.view().0),
    ("wish", |core, _| core.status().wish.0),
    ("mark", |core, _| core.mark().0),
    ("decided", |core, _| core.decided().0),
    ("executed", |core, _| core.executed().0),
    ("done", |_, node| node.executor.done),
    ("log-begins", |_, node| node.disk.first().0),
    ("prepared", |_, node| {
        let prepared = node.disk.read().filter_map(|record| match record {
            OrderRecord::Prepared { certificate, .. } => Some(certificate.seq.0),
            _ => None,
        });
        prepared.max().unwrap_or_default()
    }),
];

/// And the same with `yes` and `no`.
const FLAGS: [(&str, Number); 3] = [
    ("leads", |core, _| u64::from(core.leads())),
    ("votes", |core, _| u64::from(core.mode() == Mode::Normal)),
    ("halted", |core, _| u64::from(core.halted().is_some())),
];
