//! What is seen of a story: the points that replicas come to, not their messages.

use crate::order::Orderer;
use crate::sim::cluster::{Cluster, Node};
use crate::types::*;
use crate::wire::batch::{Batch, Hasher, RequestKind};
use crate::wire::messages::Mode;
use std::collections::BTreeMap;

/// A run of more executions than this is told by its ends.
const RUN_MAX: usize = 3;

/// Names of batches by digest: what is in them, in the words of the story.
#[derive(Default)]
pub(super) struct Names {
    /// Of no-ops, by their nonces.
    pub(super) nonces: BTreeMap<u64, String>,
    /// Of batches seen so far, with the batches.
    pub(super) batches: BTreeMap<Digest, (String, Batch)>,
}

impl Names {
    /// Takes down what is in a batch.
    pub(super) fn learn(&mut self, hasher: &Hasher, seq: Seq, bytes: &bytes::Bytes) {
        let Ok(batch) = Batch::decode(hasher, seq, bytes.clone()) else { return };
        if self.batches.contains_key(&batch.digest) {
            return;
        }
        let mut parts = Vec::new();
        for group in &batch.groups {
            for r in group.requests() {
                parts.push(match r.kind {
                    RequestKind::Noop => self.nonces.get(&r.number.0).cloned().unwrap_or("no-op".to_string()),
                    RequestKind::Open => format!("open-{}", group.client),
                    RequestKind::Invoke => format!("request-{}.{}", group.client, r.number),
                });
            }
        }
        let name = if parts.is_empty() { "nothing".to_string() } else { parts.join("+") };
        self.batches.insert(batch.digest, (name, batch));
    }

    /// What a digest at this place stands for.
    pub(super) fn of(&self, hasher: &Hasher, seq: Seq, digest: Option<Digest>) -> String {
        let Some(digest) = digest else { return "unknown".to_string() };
        match self.batches.get(&digest) {
            Some((name, _)) => name.clone(),
            None if digest == Batch::noop(hasher, seq).digest => "nothing".to_string(),
            None => "unknown".to_string(),
        }
    }
}

/// What is seen of a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Executes(Seq, String),
    Replies(u64),
    /// What, of whom, and why.
    Refuses(String, String),
    Word(String),
}

/// What was seen of a replica last.
#[derive(Clone, Default)]
struct Last {
    up: bool,
    view: View,
    wish: View,
    mode: Option<Mode>,
    mark: Seq,
    executed: Seq,
    replied: u64,
    reads: (usize, usize),
}

impl Last {
    fn of(node: &Node) -> Self {
        let mut last = Self {
            up: node.core.is_some(),
            replied: node.replied,
            reads: (node.ready.len(), node.refused.len()),
            ..Default::default()
        };
        if let Some(core) = &node.core {
            let status = core.status();
            (last.view, last.wish, last.mode) = (status.view, status.wish, Some(status.mode));
            (last.mark, last.executed) = (status.mark, core.executed());
        }
        last
    }
}

/// What was seen of all replicas and clients.
pub(super) struct Watch {
    last: Vec<Last>,
    answered: Vec<u64>,
    seen: BTreeMap<ReplicaId, Vec<Seen>>,
}

impl Watch {
    /// From now on.
    pub(super) fn new(c: &Cluster) -> Self {
        Self { last: c.nodes.iter().map(Last::of).collect(), answered: Vec::new(), seen: BTreeMap::new() }
    }

    /// What was seen since the last time: a line for each replica, equal ones together, and for each client.
    pub(super) fn lines(&mut self, c: &Cluster) -> Vec<String> {
        let seen = std::mem::take(&mut self.seen);
        let mut lines: Vec<(String, String)> = Vec::new();
        for (r, seen) in seen {
            let text = words_of(&seen);
            match lines.iter_mut().find(|(_, t)| *t == text) {
                Some((who, _)) => *who += &format!(" {r}"),
                None => lines.push((r.to_string(), text)),
            }
        }
        let mut lines: Vec<String> = lines.into_iter().map(|(who, text)| format!("{who}: {text}")).collect();
        self.answered.resize(c.clients.len(), 0);
        for (i, told) in self.answered.iter_mut().enumerate() {
            let now = c.clients[i].answered;
            if *told < now {
                lines.push(format!("client {i}: answered {now}"));
                *told = now;
            }
        }
        lines
    }

    fn saw(&mut self, r: ReplicaId, seen: Seen) {
        self.seen.entry(r).or_default().push(seen);
    }

    /// A replica refused what was forged.
    pub(super) fn refused(&mut self, r: ReplicaId, what: String, why: String) {
        self.saw(r, Seen::Refuses(what, why));
    }

    /// Compares every replica with what was seen of it last.
    pub(super) fn look(&mut self, c: &Cluster, names: &Names) {
        for node in &c.nodes {
            let (now, was) = (Last::of(node), self.last[node.me.index()].clone());
            if !c.byzantine.contains(node.me) {
                self.compare(c, names, node, &was, &now);
            }
            self.last[node.me.index()] = now;
        }
    }

    fn compare(&mut self, c: &Cluster, names: &Names, node: &Node, was: &Last, now: &Last) {
        let mut word = |text: String| self.saw(node.me, Seen::Word(text));
        match (was.up, now.up) {
            (false, false) => return,
            (true, false) => return word("crashes".to_string()),
            (false, true) => {
                let votes = if now.mode == Some(Mode::Normal) { "" } else { " without a vote" };
                let Last { view, mark, executed, .. } = now;
                return word(format!("restarts in view {view}{votes}, mark {mark}, executed {executed}"));
            }
            (true, true) => {}
        }
        if now.view > was.view {
            word(format!("enters view {}", now.view));
        }
        let halted = now.mode == Some(Mode::Halted) && was.mode != now.mode;
        if let Some(why) = node.core.as_ref().and_then(Orderer::halted).filter(|_| halted) {
            word(format!("halts: {why}"));
        }
        if now.mode == Some(Mode::Normal) && (was.mode != now.mode || was.view < now.view) {
            word(format!("begins view {}", now.view));
        }
        if now.wish > was.wish && now.wish > now.view {
            word(format!("wishes for view {}", now.wish));
        }
        if now.wish < was.wish {
            word("takes its wish back".to_string());
        }
        for seq in (was.executed.0 + 1..=now.executed.0).map(Seq) {
            let name = names.of(&c.setup.hasher(), seq, c.history.at(seq));
            self.saw(node.me, Seen::Executes(seq, name));
        }
        if now.replied > was.replied {
            self.saw(node.me, Seen::Replies(now.replied - was.replied));
        }
        let mut word = |text: String| self.saw(node.me, Seen::Word(text));
        if now.mark > was.mark {
            word(format!("marks {}", now.mark));
        }
        if now.reads.0 > was.reads.0 {
            word("may answer reads".to_string());
        }
        if now.reads.1 > was.reads.1 {
            word("refuses reads".to_string());
        }
    }
}

/// One line: runs of executions by their ends, replies added up, refusals with all their reasons.
fn words_of(seen: &[Seen]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = seen;
    while let Some(first) = rest.first() {
        let like = |s: &&Seen| std::mem::discriminant(*s) == std::mem::discriminant(first);
        let count = match first {
            Seen::Word(_) => 1,
            Seen::Refuses(what, _) => {
                rest.iter().take_while(|s| matches!(s, Seen::Refuses(w, _) if w == what)).count()
            }
            _ => rest.iter().take_while(like).count(),
        };
        let (run, others) = rest.split_at(count);
        rest = others;
        match (first, &run[count - 1]) {
            (Seen::Executes(from, _), Seen::Executes(to, _)) if count > RUN_MAX => {
                parts.push(format!("executes {from}..{to}"));
            }
            (Seen::Word(text), _) => parts.push(text.clone()),
            (Seen::Replies(_), _) => {
                let all: u64 = run.iter().map(|s| if let Seen::Replies(n) = s { *n } else { 0 }).sum();
                parts.push(if all == 1 { "replies".to_string() } else { format!("replies {all} times") });
            }
            (Seen::Refuses(what, _), _) => {
                let why = |s: &Seen| if let Seen::Refuses(_, why) = s { why.clone() } else { String::new() };
                let all: Vec<String> = run.iter().map(why).collect();
                parts.push(format!("refuses the {what} ({})", all.join(", ")));
            }
            _ => {
                let one = |s: &Seen| match s {
                    Seen::Executes(seq, name) => format!("{seq}={name}"),
                    _ => String::new(),
                };
                let places: Vec<String> = run.iter().map(one).collect();
                parts.push(format!("executes {}", places.join(" ")));
            }
        }
    }
    parts.join(", ")
}
