//! [core] Groups that wait to be ordered: per-client queues served in turn, bounded in bytes, each group once.

use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::{AuthKind, Group, RequestKind};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Sessions whose progress is remembered to turn old requests away early; older ones are caught at execution.
const PROGRESS_SESSIONS_MAX: usize = 1 << 16;
/// Executed no-ops that are remembered. They have no session that would tell.
const NOOPS_MAX: usize = 1 << 13;

/// What became of a group that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offered {
    /// It waits.
    Queued,
    /// It waits already, or is in a proposal.
    Known,
    /// All of it was executed: its replies can be sent again.
    Executed,
    /// Too much of this client's waits.
    Busy,
}

struct Waiting {
    group: Group,
    since: Tick,
    /// Arrival order: a session's requests must be proposed in the order they came.
    arrival: u64,
    /// Proposed in the current view, not yet executed.
    proposed: bool,
}

/// The pool.
pub struct Requests {
    groups: HashMap<Digest, Waiting>,
    /// Unproposed groups in arrival order, by client.
    queues: BTreeMap<ClientId, VecDeque<Digest>>,
    bytes: HashMap<ClientId, usize>,
    client_bytes_max: usize,
    total_bytes: usize,
    total_bytes_max: usize,
    waiting: usize,
    waiting_bytes: usize,
    turn: ClientId,
    arrivals: u64,
    progress: BTreeMap<SessionId, RequestNumber>,
    /// No-ops of replicas executed lately, and in which order: a replica that is behind hands the leader what was executed long ago.
    noops: HashSet<Digest>,
    noops_in_order: VecDeque<Digest>,
    /// When something of a client was last executed.
    served: HashMap<ClientId, Tick>,
}

impl Requests {
    /// A pool that keeps at most so many bytes, per client and in all.
    pub fn new(client_bytes_max: usize, total_bytes_max: usize) -> Self {
        Self {
            groups: HashMap::new(),
            queues: BTreeMap::new(),
            bytes: HashMap::new(),
            client_bytes_max,
            total_bytes: 0,
            total_bytes_max,
            waiting: 0,
            waiting_bytes: 0,
            turn: ClientId(0),
            arrivals: 0,
            progress: BTreeMap::new(),
            noops: HashSet::new(),
            noops_in_order: VecDeque::new(),
            served: HashMap::new(),
        }
    }

    /// Takes a group in, once.
    pub fn offer(&mut self, now: Tick, group: AuthenticGroup) -> Offered {
        let (group, digest) = group.into_parts();
        if self.groups.contains_key(&digest) {
            return Offered::Known;
        }
        if self.is_executed(&group) || self.noops.contains(&digest) {
            return Offered::Executed;
        }
        let size = group.bytes().len();
        let held = self.bytes.get(&group.client).copied().unwrap_or(0);
        // A client's first group is always taken: a bound below one group would shut it out.
        if held > 0 && (held + size > self.client_bytes_max || self.total_bytes + size > self.total_bytes_max)
        {
            return Offered::Busy;
        }
        self.total_bytes += size;
        self.waiting += 1;
        self.waiting_bytes += size;
        *self.bytes.entry(group.client).or_default() += size;
        self.queues.entry(group.client).or_default().push_back(digest);
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.groups.insert(digest, Waiting { group, since: now, arrival, proposed: false });
        Offered::Queued
    }

    /// Whether all of it was executed: it is answered from what is kept, now or, if one of its requests waits, later.
    pub fn is_executed(&self, group: &Group) -> bool {
        group.requests().all(|r| {
            r.kind == RequestKind::Invoke && self.progress.get(&r.session).is_some_and(|p| r.number <= *p)
        })
    }

    /// Whether anything waits to be proposed.
    pub fn any(&self) -> bool {
        self.waiting > 0
    }

    /// Bytes that wait to be proposed.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Groups kept, proposed ones included.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Takes the next batch's groups: one of each client in turn, up to the bounds, at least one.
    pub fn next_batch(&mut self, bytes_max: usize, requests_max: usize) -> Vec<(Group, Digest)> {
        let (mut out, mut bytes, mut requests) = (Vec::new(), 0, 0);
        while self.waiting > 0 {
            let next = self.queues.range(self.turn..).next().or_else(|| self.queues.iter().next());
            let (&client, queue) = next.expect("a waiting group stands in a queue");
            let digest = queue[0];
            let waiting = &self.groups[&digest];
            let size = waiting.group.bytes().len();
            let full = bytes + size > bytes_max || requests + waiting.group.len() > requests_max;
            if full && !out.is_empty() {
                break;
            }
            bytes += size;
            requests += waiting.group.len();
            out.push((waiting.group.clone(), digest));
            self.turn = ClientId(client.0.wrapping_add(1));
            self.take_from_queue(client, digest);
            self.groups.get_mut(&digest).expect("just read").proposed = true;
        }
        out
    }

    fn take_from_queue(&mut self, client: ClientId, digest: Digest) {
        let size = self.groups[&digest].group.bytes().len();
        if let Some(queue) = self.queues.get_mut(&client) {
            if queue.front() == Some(&digest) {
                queue.pop_front();
            } else {
                queue.retain(|d| *d != digest);
            }
            if queue.is_empty() {
                self.queues.remove(&client);
            }
        }
        self.waiting -= 1;
        self.waiting_bytes -= size;
    }

    /// Somebody proposed these groups: do not propose them a second time.
    pub fn proposed(&mut self, digests: &[Digest]) {
        for digest in digests {
            if let Some(w) = self.groups.get_mut(digest)
                && !w.proposed
            {
                w.proposed = true;
                let client = w.group.client;
                self.take_from_queue(client, *digest);
            }
        }
    }

    /// A batch was executed: its groups leave; requests of the sessions named are old up to the numbers named.
    pub fn executed_batch(&mut self, digests: &[Digest], progress: &[(SessionId, RequestNumber)]) {
        self.proposed(digests);
        for digest in digests {
            if let Some(w) = self.groups.remove(digest) {
                let size = w.group.bytes().len();
                self.total_bytes -= size;
                if let Some(held) = self.bytes.get_mut(&w.group.client) {
                    *held -= size;
                    if *held == 0 {
                        self.bytes.remove(&w.group.client);
                    }
                }
            }
        }
        for (session, number) in progress {
            let p = self.progress.entry(*session).or_default();
            *p = (*p).max(*number);
        }
        while self.progress.len() > PROGRESS_SESSIONS_MAX {
            self.progress.pop_first();
        }
    }

    /// These groups are executed no-ops of replicas.
    pub fn executed_noops(&mut self, digests: impl Iterator<Item = Digest>) {
        for digest in digests {
            if self.noops.insert(digest) {
                self.noops_in_order.push_back(digest);
            }
            if self.noops.len() > NOOPS_MAX
                && let Some(oldest) = self.noops_in_order.pop_front()
            {
                self.noops.remove(&oldest);
            }
        }
    }

    /// A new view begins: what was proposed waits again, in arrival order, before what came later.
    pub fn all_unproposed(&mut self) {
        self.queues.clear();
        (self.waiting, self.waiting_bytes) = (0, 0);
        let mut all: Vec<_> = self.groups.iter_mut().map(|(d, w)| (w.arrival, *d, w)).collect();
        all.sort_unstable_by_key(|(arrival, ..)| *arrival);
        for (_, digest, w) in all {
            w.proposed = false;
            self.waiting += 1;
            self.waiting_bytes += w.group.bytes().len();
            self.queues.entry(w.group.client).or_default().push_back(digest);
        }
    }

    /// Drops a client's groups that only a MAC vouches for.
    pub fn forget_macs_of(&mut self, client: ClientId) {
        let of_client = |w: &Waiting| w.group.client == client && w.group.auth_kind == AuthKind::Mac;
        let macs: Vec<Digest> = self.groups.iter().filter(|(_, w)| of_client(w)).map(|(d, _)| *d).collect();
        self.executed_batch(&macs, &[]);
    }

    /// Whether this group is kept.
    pub fn has(&self, digest: &Digest) -> bool {
        self.groups.contains_key(digest)
    }

    /// Something of these clients was executed just now.
    pub fn served(&mut self, now: Tick, clients: impl Iterator<Item = ClientId>) {
        for client in clients {
            self.served.insert(client, now);
        }
    }

    /// Whether a client has waited since `began` or longer than `limit_ns` for anything at all to be executed: a long
    /// queue that is served starves nobody.
    pub fn starves(&self, now: Tick, began: Tick, limit_ns: u64) -> bool {
        self.groups.values().any(|w| {
            let last = self.served.get(&w.group.client).copied().unwrap_or_default();
            now.since(w.since.max(began).max(last)) > limit_ns
        })
    }

    /// Sessions open at the start, and the highest number executed of each.
    pub fn known_progress(&mut self, progress: impl Iterator<Item = (SessionId, RequestNumber)>) {
        self.progress.extend(progress);
        while self.progress.len() > PROGRESS_SESSIONS_MAX {
            self.progress.pop_first();
        }
    }

    /// Drops groups whose requests were all executed as parts of others.
    pub fn purge(&mut self) {
        let old: Vec<Digest> =
            self.groups.iter().filter(|(_, w)| self.is_executed(&w.group)).map(|(d, _)| *d).collect();
        self.executed_batch(&old, &[]);
    }

    /// When the oldest group that is still not executed came.
    pub fn oldest(&self) -> Option<Tick> {
        self.groups.values().map(|w| w.since).min()
    }

    /// Unproposed groups that came at or before `before`: a follower hands them to the leader.
    pub fn older_than(&self, before: Tick) -> Vec<Group> {
        let mut old: Vec<_> = self.groups.values().filter(|w| !w.proposed && w.since <= before).collect();
        old.sort_unstable_by_key(|w| w.arrival);
        old.into_iter().map(|w| w.group.clone()).collect()
    }
}
