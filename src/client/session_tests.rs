//! The client core against simulated replicas: loss, lies, leader changes, deadlines.

use super::Outcome;
use super::session::*;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::quorum::{FaultModel, Group as Members, VoteSet};
use crate::reply::routing::{cut, full_replier, result_digest};
use crate::service::*;
use crate::types::*;
use crate::wire::auth::ClientAuth;
use crate::wire::batch::*;
use crate::wire::messages::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

const HASHER: Hasher = Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 };
const CLIENT: ClientId = ClientId(3);
const MS: u64 = 1_000_000;
const RETRY_MS: u64 = 400;

/// Appends operations to a list and replies with the list's length and the operation.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<Bytes>>>);

impl Service for List {
    fn execute(&mut self, _: &Context, operation: &[u8]) -> Bytes {
        let mut list = self.0.lock().unwrap();
        if operation == b"read" {
            return Bytes::from(list.len().to_string());
        }
        list.push(Bytes::copy_from_slice(operation));
        [list.len().to_string().as_bytes(), b":", operation].concat().into()
    }

    fn query(&self, _: &[u8]) -> QueryReply {
        QueryReply { result: self.0.lock().unwrap().len().to_string().into(), version: None }
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        unreachable!("no snapshots here")
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> Result<(), RestoreError> {
        unreachable!("not restored here")
    }
}

/// Signs with the digest itself, so that kinds can be told apart.
struct Toy;

impl ClientScheme for Toy {
    fn sign(&self, digest: &Digest) -> Vec<u8> {
        [digest.0, digest.0].concat()
    }

    fn macs(&self, _: &Digest) -> Vec<u8> {
        vec![1; 64]
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Manner {
    Honest,
    /// Takes everything, says nothing.
    Silent,
    /// Says something else.
    Lies,
    /// Never sends a long result whole.
    Digests,
    /// Turns groups away.
    Refuses(NoticeCode),
}

struct Sim {
    executor: Executor,
    manner: Manner,
    up: bool,
    list: List,
}

/// One client core, n replicas, one order. A group is ordered when it reaches the leader, or a follower while the
/// leader is up to get it forwarded.
struct World {
    members: Members,
    core: ClientCore<u32>,
    now: Tick,
    sims: Vec<Sim>,
    leader: usize,
    view: View,
    seq: Seq,
    to_client: Vec<(ReplicaId, Message)>,
    outcomes: BTreeMap<u32, Outcome>,
    /// Groups that arrived: replica, kind of authentication, numbers.
    log: Vec<(u32, AuthKind, Vec<u64>)>,
    /// Drops what matches: sender's replica (from the client's side), or answers.
    drop_to: VoteSet,
    drop_from: VoteSet,
    released: (usize, usize),
    out: Vec<Output<u32>>,
}

fn config(members: Members, auth: ClientAuth) -> CoreConfig {
    CoreConfig {
        client: CLIENT,
        process: 0xabc,
        members,
        hasher: HASHER,
        one_replies: !members.byzantine(),
        replies_stand: true,
        auth,
        group_bytes_max: 1000,
        group_requests_max: 10,
        session_sent_max: 256,
        retry_ns: RETRY_MS * MS,
        retry_ns_max: 8 * RETRY_MS * MS,
        sample_one_in: 0,
        seed: 1,
    }
}

fn world_with(model: FaultModel, n: u32, f: u32, auth: ClientAuth, limits: ClientTableLimits) -> World {
    world_of(config(Members::new(model, n, f).unwrap(), auth), limits)
}

fn world_of(config: CoreConfig, limits: ClientTableLimits) -> World {
    let members = config.members;
    let n = members.n();
    let sims = (0..n).map(|_| {
        let list = List::default();
        let executor = Executor::new(Box::new(list.clone()), ClientTable::new(limits), HASHER);
        Sim { executor, manner: Manner::Honest, up: true, list }
    });
    let mut world = World {
        members,
        core: ClientCore::new(config, Box::new(Toy)),
        now: Tick(1000 * MS),
        sims: sims.collect(),
        leader: 0,
        view: View(1),
        seq: Seq(0),
        to_client: Vec::new(),
        outcomes: BTreeMap::new(),
        log: Vec::new(),
        drop_to: VoteSet::default(),
        drop_from: VoteSet::default(),
        released: (0, 0),
        out: Vec::new(),
    };
    for i in 0..n {
        world.step(Input::Connected(ReplicaId(i)));
    }
    world
}

fn byzantine() -> World {
    world_with(FaultModel::Byzantine, 4, 1, ClientAuth::Signature, ClientTableLimits::default())
}

fn crash() -> World {
    world_with(FaultModel::Crash, 3, 1, ClientAuth::Channel, ClientTableLimits::default())
}

impl World {
    fn step(&mut self, input: Input<u32>) {
        self.core.step(self.now, input, &mut self.out);
    }

    fn submit(&mut self, session: SessionHandle, token: u32, operation: &[u8]) {
        self.submit_until(session, token, operation, 10_000);
    }

    fn submit_until(&mut self, session: SessionHandle, token: u32, operation: &[u8], ms: u64) {
        let deadline = self.now.plus_ms(ms);
        self.step(Input::Submit { session, operation: Bytes::copy_from_slice(operation), deadline, token });
    }

    fn read(&mut self, token: u32) {
        let deadline = self.now.plus_ms(10_000);
        self.step(Input::Read { operation: Bytes::from_static(b"read"), deadline, token });
    }

    /// Flushes and carries messages until nothing moves.
    fn settle(&mut self) {
        loop {
            self.core.flush(self.now, &mut self.out);
            if self.out.is_empty() && self.to_client.is_empty() {
                return;
            }
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::Send(to, message) => to.iter().for_each(|r| self.arrive(r, &message)),
                    Output::Finished(token, outcome) => {
                        assert!(self.outcomes.insert(token, outcome).is_none(), "one outcome for {token}");
                    }
                    Output::Released(requests, bytes) => {
                        self.released.0 += requests;
                        self.released.1 += bytes;
                    }
                }
            }
            for (from, message) in std::mem::take(&mut self.to_client) {
                if !self.drop_from.contains(from) && self.sims[from.index()].up {
                    // As over the wire.
                    let (kind, head, tail) = message.encode();
                    let bytes = [&head[..], &tail.unwrap_or_default()[..]].concat();
                    let message = Message::decode(kind, bytes.into()).unwrap();
                    self.step(Input::Message(from, message));
                }
            }
        }
    }

    /// Lets `ms` pass, waking the core when it wants.
    fn pass(&mut self, ms: u64) {
        let end = self.now.plus_ms(ms);
        self.settle();
        while let Some(at) = self.core.next_wakeup().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let before = (self.core.next_wakeup(), self.outcomes.len());
            self.settle();
            let stuck = before == (self.core.next_wakeup(), self.outcomes.len()) && self.now >= at;
            assert!(!(stuck && before.0 == Some(at)), "a wake-up that does nothing comes again at once");
        }
        self.now = end;
        self.settle();
    }

    fn arrive(&mut self, r: ReplicaId, message: &Message) {
        if !self.sims[r.index()].up || self.drop_to.contains(r) {
            return;
        }
        match message {
            Message::Group(bytes) => self.group(r, bytes.clone()),
            Message::Read(read) => {
                let sim = &self.sims[r.index()];
                let answer = sim.executor.query(&read.operation);
                let result = match sim.manner {
                    Manner::Honest | Manner::Digests => answer.result,
                    Manner::Lies => Bytes::from_static(b"999"),
                    _ => return,
                };
                let reply = ReadReply {
                    id: read.id,
                    view: self.view,
                    status: ReadStatus::Done,
                    executed: sim.executor.executed(),
                    version: answer.version.unwrap_or_default(),
                    digest: result_digest(&HASHER, &result),
                    result: (r == read.full_from || !self.members.byzantine()).then_some(result),
                };
                self.to_client.push((r, Message::ReadReply(reply)));
            }
            Message::Attach(attach) => assert_eq!(attach.process, 0xabc),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn group(&mut self, r: ReplicaId, bytes: Bytes) {
        let group = Group::decode(bytes).unwrap();
        self.log.push((r.0, group.auth_kind, group.requests().map(|q| q.number.0).collect()));
        let sim = &self.sims[r.index()];
        if let Manner::Refuses(code) = sim.manner {
            let notice = Notice { code, view: self.view, group: group.digest(&HASHER), text: "no".into() };
            return self.to_client.push((r, Message::Notice(notice)));
        }
        let mut repeated = Vec::new();
        let mut fresh = false;
        for q in group.requests() {
            match sim.executor.resend(CLIENT, q.session, q.number) {
                // A pool that never saw the request executed has it ordered.
                Some(outgoing) if outgoing.reply.status != ReplyStatus::Expired => {
                    repeated.push(outgoing.reply)
                }
                _ => fresh = true,
            }
        }
        if !repeated.is_empty() && matches!(sim.manner, Manner::Honest | Manner::Digests) {
            if sim.manner == Manner::Digests {
                repeated.retain(|reply| reply.body.len() <= 64);
            }
            let replies = Replies { view: self.view, executed: sim.executor.executed(), replies: repeated };
            self.to_client.push((r, Message::Replies(replies)));
        }
        let reaches_leader = r.index() == self.leader || self.sims[self.leader].up;
        if fresh && reaches_leader && !matches!(self.sims[self.leader].manner, Manner::Refuses(_)) {
            self.order(group);
        }
    }

    fn order(&mut self, group: Group) {
        let digest = group.digest(&HASHER);
        self.seq = self.seq.next();
        let batch = Batch::build(&HASHER, self.seq, WallTime(5), 1, vec![(group, digest)]);
        for (i, sim) in self.sims.iter_mut().enumerate() {
            let me = ReplicaId(i as u32);
            let executed = sim.executor.execute(&batch);
            let replies: Vec<Reply> = executed
                .replies
                .into_iter()
                .filter_map(|o| {
                    let mut reply = cut(self.members, me, &o.reply, o.digest);
                    match sim.manner {
                        Manner::Silent | Manner::Refuses(_) => return None,
                        Manner::Lies if reply.session != SessionId(0) => {
                            reply.body = Bytes::copy_from_slice(format!("lie of {i}").as_bytes());
                            reply.digest_only = false;
                        }
                        Manner::Digests if reply.body.len() > 64 => {
                            reply.body = Bytes::copy_from_slice(&o.digest.unwrap().0);
                            reply.digest_only = true;
                        }
                        _ => {}
                    }
                    Some(reply)
                })
                .collect();
            let replies = Replies { view: self.view, executed: self.seq, replies };
            self.to_client.push((me, Message::Replies(replies)));
        }
    }

    fn lose(&mut self, i: u32) {
        self.sims[i as usize].up = false;
        self.step(Input::Disconnected(ReplicaId(i), "connection reset".into()));
    }

    /// The others elect the next leader and say so.
    fn change_view(&mut self) {
        self.view = self.view.next();
        self.leader = self.view.leader(self.members.n()).index();
    }

    fn tell_view(&mut self, from: &[u32]) {
        for i in from {
            let notice =
                Notice { code: NoticeCode::View, view: self.view, group: Digest::ZERO, text: String::new() };
            self.step(Input::Message(ReplicaId(*i), Message::Notice(notice)));
        }
    }

    fn done(&self, token: u32) -> &[u8] {
        match self.outcomes.get(&token) {
            Some(Outcome::Done(body)) => body,
            other => panic!("call {token} ended with {other:?}"),
        }
    }

    fn assert_list(&self, expected: &[&[u8]]) {
        for (i, sim) in self.sims.iter().enumerate().filter(|(_, s)| s.up) {
            assert_eq!(*sim.list.0.lock().unwrap(), expected, "replica {i}");
        }
    }
}

#[test]
fn waiting_requests_of_all_sessions_leave_in_one_group_to_the_leader() {
    for mut w in [byzantine(), crash()] {
        let (a, b) = (w.core.session(), w.core.session());
        w.submit(a, 1, b"a1");
        w.submit(b, 2, b"b1");
        w.submit(a, 3, b"a2");
        w.settle();
        assert_eq!(w.done(1), b"1:a1");
        assert_eq!(w.done(3), b"2:a2");
        assert_eq!(w.done(2), b"3:b1");
        let places: Vec<_> = w.log.iter().map(|(r, _, numbers)| (*r, numbers.clone())).collect();
        assert_eq!(places[0].1.len(), 2, "both OPENs");
        assert_eq!(places[1], (0, vec![1, 2, 1]));
        assert_eq!(places.len(), 2);
        assert_eq!(w.released, (3, 6));
        assert_eq!(w.core.outstanding(), 0);
        let soon = w.core.next_wakeup().is_some_and(|at| at < w.now.plus_ms(9_000));
        assert!(!soon, "nothing to wait for");
    }
}

#[test]
fn some_groups_go_to_all_so_that_the_leader_is_measured() {
    let sampled = |sample_one_in| {
        let members = Members::new(FaultModel::Byzantine, 4, 1).unwrap();
        let config = CoreConfig { sample_one_in, ..config(members, ClientAuth::Signature) };
        let mut w = world_of(config, ClientTableLimits::default());
        let session = w.core.session();
        let mut at = Vec::new();
        for token in 0..400 {
            w.submit(session, token, b"x");
            w.core.flush(w.now, &mut w.out);
            let to_all = |o: &Output<u32>| matches!(o, Output::Send(to, Message::Group(_)) if to.count() > 1);
            if w.out.iter().any(to_all) {
                at.push(w.now);
            }
            w.pass(10);
        }
        assert_eq!(w.outcomes.len(), 400);
        at
    };
    let at = sampled(SAMPLE_ONE_IN);
    assert!((10..=80).contains(&at.len()), "{} of 400", at.len());
    assert!(at.windows(2).all(|two| two[1].since(two[0]) >= 50 * MS));
    let gaps: std::collections::BTreeSet<u64> = at.windows(2).map(|two| two[1].since(two[0])).collect();
    assert!(gaps.len() > 4, "predictable");
    assert_eq!(sampled(0), []);
}

#[test]
fn groups_close_at_their_bounds_and_a_large_request_goes_alone() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"first");
    w.settle();
    w.log.clear();
    for token in 1..=25 {
        w.submit(s, token, b"x");
    }
    w.submit(s, 26, &[7; 5000]);
    w.submit(s, 27, b"y");
    w.settle();
    let sizes: Vec<_> = w.log.iter().map(|(_, _, numbers)| numbers.len()).collect();
    assert_eq!(sizes, [10, 10, 5, 1, 1]);
    assert_eq!(w.outcomes.len(), 28);
    assert_eq!(w.done(27), b"28:y");
}

#[test]
fn no_more_are_unanswered_in_a_session_than_replicas_keep_replies_of() {
    let mut w = byzantine();
    let mut config = config(w.members, ClientAuth::Signature);
    config.session_sent_max = 3;
    w.core = ClientCore::new(config, Box::new(Toy));
    (0..4).for_each(|i| w.step(Input::Connected(ReplicaId(i))));
    let s = w.core.session();
    for token in 0..10 {
        w.submit(s, token, b"x");
    }
    w.settle();
    assert_eq!(w.outcomes.len(), 10);
    assert!(w.log.iter().all(|(_, _, numbers)| numbers.len() <= 3));
}

#[test]
fn one_liar_changes_no_answer_and_two_are_a_fail() {
    let mut w = byzantine();
    w.sims[2].manner = Manner::Lies;
    let s = w.core.session();
    w.submit(s, 1, b"x");
    w.settle();
    assert_eq!(w.done(1), b"1:x");
    w.sims[3].manner = Manner::Lies;
    w.submit(s, 2, b"y");
    w.settle();
    assert!(matches!(&w.outcomes[&2], Outcome::Fail(why) if why.contains("differ")), "{:?}", w.outcomes[&2]);
    w.sims[3].manner = Manner::Honest;
    w.submit(s, 3, b"z");
    w.settle();
    assert_eq!(w.done(3), b"3:z");
}

#[test]
fn lost_groups_are_sent_again_to_all_in_order_and_execute_once() {
    for mut w in [byzantine(), crash()] {
        let s = w.core.session();
        w.submit(s, 0, b"open");
        w.settle();
        w.log.clear();
        w.drop_to = VoteSet::from_iter([ReplicaId(0)]);
        for token in 1..=3 {
            w.submit(s, token, &[b'0' + token as u8]);
            w.settle();
        }
        assert!(w.outcomes.len() == 1 && w.log.is_empty());
        w.drop_to = VoteSet::default();
        w.pass(2 * RETRY_MS);
        assert_eq!((w.done(1), w.done(2), w.done(3)), (&b"2:1"[..], &b"3:2"[..], &b"4:3"[..]));
        w.assert_list(&[b"open", b"1", b"2", b"3"]);
        for replica in 1..w.members.n() {
            let numbers: Vec<_> =
                w.log.iter().filter(|l| l.0 == replica).flat_map(|l| l.2.iter().copied()).collect();
            assert_eq!(numbers, [2, 3, 4], "oldest first at replica {replica}");
        }
    }
}

#[test]
fn lost_replies_are_sent_again_from_the_table() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.drop_from = VoteSet::from_iter([ReplicaId(1), ReplicaId(2)]);
    w.submit(s, 1, &[b'v'; 200]);
    w.settle();
    assert_eq!(w.outcomes.len(), 1);
    w.drop_from = VoteSet::default();
    w.pass(2 * RETRY_MS);
    assert_eq!(w.done(1).len(), 202);
    assert_eq!(w.sims[0].list.0.lock().unwrap().len(), 2, "executed once");
}

#[test]
fn waits_between_repetitions_double_and_start_over_after_progress() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit_until(s, 0, b"open", 100_000);
    w.settle();
    w.drop_to = w.members.members().collect();
    w.submit_until(s, 1, b"x", 100_000);
    w.settle();
    let mut waits = Vec::new();
    let mut last = w.now;
    for _ in 0..7 {
        let at = w.core.next_wakeup().unwrap();
        w.now = at;
        w.settle();
        waits.push(at.since(last) / MS);
        last = at;
    }
    for (wait, base) in waits.iter().zip([1, 2, 4, 8, 8, 8]) {
        let base = base * RETRY_MS;
        assert!((base..=base * 5 / 4).contains(wait), "{waits:?}");
    }
    w.drop_to = VoteSet::default();
    w.pass(10 * RETRY_MS);
    assert_eq!(w.done(1), b"2:x");
    w.drop_to = w.members.members().collect();
    w.submit(s, 2, b"y");
    w.settle();
    assert!(w.core.next_wakeup().unwrap() <= w.now.plus_ms(RETRY_MS * 5 / 4));
}

#[test]
fn a_lost_leader_is_answered_at_once_by_telling_everybody() {
    for mut w in [byzantine(), crash()] {
        let s = w.core.session();
        w.submit(s, 0, b"open");
        w.settle();
        w.drop_to = VoteSet::from_iter([ReplicaId(0)]);
        w.submit(s, 1, b"x");
        w.settle();
        w.change_view();
        let before = w.now;
        w.lose(0);
        w.settle();
        assert_eq!(w.done(1), b"2:x");
        assert_eq!(w.now, before);
        // The new leader is known from the replies: it alone gets what comes next.
        w.log.clear();
        w.submit(s, 2, b"y");
        w.settle();
        assert_eq!(w.done(2), b"3:y");
        assert_eq!(w.log.iter().map(|l| l.0).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn a_new_leader_gets_what_is_unanswered_in_order_once_enough_replicas_name_it() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.drop_to = VoteSet::from_iter([ReplicaId(0)]);
    for token in 1..=3 {
        w.submit(s, token, b"x");
        w.settle();
    }
    w.log.clear();
    w.change_view();
    w.tell_view(&[3]);
    w.settle();
    assert_eq!(w.core.leader(), ReplicaId(0), "one word may be a lie");
    w.tell_view(&[2]);
    w.settle();
    assert_eq!(w.core.leader(), ReplicaId(1));
    assert_eq!(w.log.iter().map(|l| (l.0, l.2[0])).collect::<Vec<_>>(), [(1, 2), (1, 3), (1, 4)]);
    assert_eq!(w.outcomes.len(), 4);
}

#[test]
fn a_result_that_only_digests_came_of_is_asked_for() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.sims[3].manner = Manner::Silent;
    for token in 1..=4 {
        w.submit(s, token, &[b'v'; 200]);
    }
    w.settle();
    assert_eq!(w.outcomes.len(), 4, "one in four was replica 3's to send");
    w.log.clear();
    w.pass(RETRY_MS / 4);
    assert_eq!(w.outcomes.len(), 5);
    let asked: Vec<_> = w.log.iter().map(|l| l.2.len()).collect();
    assert_eq!(asked, [1, 1], "that request alone, of f+1 replicas");
    assert_eq!(w.sims[1].list.0.lock().unwrap().len(), 5, "nothing executed twice");

    // One that sent a digest where the result was its to send will not send it later.
    w.sims[3].manner = Manner::Digests;
    let before = w.now;
    for token in 5..=8 {
        w.submit(s, token, &[b'v'; 200]);
    }
    w.settle();
    assert_eq!((w.outcomes.len(), w.now), (9, before));
}

#[test]
fn results_of_a_lost_replica_are_asked_for_without_waiting() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.lose(3);
    for token in 1..=4 {
        w.submit(s, token, &[b'v'; 200]);
    }
    let before = w.now;
    w.settle();
    assert_eq!((w.outcomes.len(), w.now), (5, before));
    let first = (1..=9).find(|n| full_replier(SessionId(1), RequestNumber(*n), 4) == ReplicaId(3));
    assert!(first.is_some());
}

#[test]
fn a_deadline_before_sending_means_not_executed() {
    let mut w = byzantine();
    for i in 0..4 {
        w.lose(i);
    }
    let s = w.core.session();
    w.submit_until(s, 1, b"x", 300);
    w.pass(200);
    assert!(w.outcomes.is_empty());
    w.pass(101);
    match &w.outcomes[&1] {
        Outcome::NotExecuted(why) => {
            assert!(why.contains("replica 2 not connected (connection reset)"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(w.core.outstanding(), 0);
}

#[test]
fn a_deadline_after_sending_leaves_no_gap_behind() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.drop_to = w.members.members().collect();
    w.submit_until(s, 1, b"late", 100);
    w.pass(150);
    assert!(matches!(&w.outcomes[&1], Outcome::UnknownOutcome(why) if why.contains("no reply")));
    assert_eq!(w.core.outstanding(), 1, "still on its way");
    w.submit(s, 2, b"next");
    w.settle();
    w.drop_to = VoteSet::default();
    w.pass(3 * RETRY_MS);
    assert_eq!(w.done(2), b"3:next");
    w.assert_list(&[b"open", b"late", b"next"]);
    assert_eq!(w.core.outstanding(), 0);
}

#[test]
fn closing_a_session_ends_what_is_sent_in_the_background() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.drop_to = w.members.members().collect();
    w.submit_until(s, 1, b"late", 100);
    w.pass(150);
    w.step(Input::Close(s));
    w.pass(10);
    assert_eq!(w.core.outstanding(), 0);
    assert_eq!(w.core.next_wakeup(), None);
    // Its number is free for ever, so the handle's next owner has another session.
    w.drop_to = VoteSet::default();
    let next = w.core.session();
    w.submit(next, 2, b"new");
    w.settle();
    assert_eq!(w.done(2), b"2:new");
}

#[test]
fn a_closed_session_in_good_order_is_given_out_again() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"a");
    w.settle();
    w.step(Input::Close(s));
    let next = w.core.session();
    w.submit(next, 1, b"b");
    w.settle();
    assert_eq!(w.done(1), b"2:b");
    assert_eq!(w.log.len(), 3, "one OPEN only");
}

#[test]
fn an_expired_session_is_opened_anew_and_what_was_sent_twice_is_unknown() {
    let limits = ClientTableLimits { sessions_per_client_max: 1, ..Default::default() };
    let mut w = world_with(FaultModel::Byzantine, 4, 1, ClientAuth::Signature, limits);
    let (a, b) = (w.core.session(), w.core.session());
    w.submit(a, 0, b"a");
    w.settle();
    w.submit(b, 1, b"b");
    w.settle();
    // a was evicted.
    w.submit(a, 2, b"lost");
    w.settle();
    assert!(matches!(&w.outcomes[&2], Outcome::NotExecuted(why) if why.contains("session")));
    w.submit(a, 3, b"again");
    w.settle();
    assert_eq!(w.done(3), b"3:again");
    // Now b is evicted; its request is sent twice before anybody answers.
    w.drop_from = w.members.members().collect();
    w.submit(b, 4, b"twice");
    w.pass(RETRY_MS * 5 / 4);
    w.drop_from = VoteSet::default();
    w.pass(RETRY_MS * 4);
    assert!(matches!(&w.outcomes[&4], Outcome::UnknownOutcome(_)), "{:?}", w.outcomes[&4]);
    w.assert_list(&[b"a", b"b", b"again"]);
}

#[test]
fn an_open_travels_alone() {
    let mut w = crash();
    let (a, b) = (w.core.session(), w.core.session());
    w.submit(a, 0, b"a");
    w.settle();
    w.log.clear();
    w.submit(a, 1, b"x");
    w.submit(b, 2, b"b");
    w.settle();
    // It is ordered again each time that it comes; a request beside it might wait for its reply for long.
    assert_eq!(w.log.iter().map(|(_, _, numbers)| numbers.len()).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!((w.done(1), w.done(2)), (&b"2:x"[..], &b"3:b"[..]));
}

#[test]
fn invalid_groups_are_not_executed_on_the_word_of_one_correct_replica() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.sims[0].manner = Manner::Refuses(NoticeCode::Rejected);
    w.submit(s, 1, b"x");
    w.settle();
    // The leader said so, the others took it: one word is not enough.
    assert!(!w.outcomes.contains_key(&1));
    w.sims[1].manner = Manner::Refuses(NoticeCode::Rejected);
    w.pass(3 * RETRY_MS);
    assert!(matches!(&w.outcomes[&1], Outcome::NotExecuted(why) if why.contains("not acceptable")));
    w.sims.iter_mut().for_each(|s| s.manner = Manner::Honest);
    w.submit(s, 2, b"y");
    w.pass(RETRY_MS);
    assert_eq!(w.done(2), b"2:y", "in a new session");
}

#[test]
fn full_logs_are_reported_and_only_crash_mode_is_sure_that_nothing_happened() {
    for (mut w, sure) in [(crash(), true), (byzantine(), false)] {
        let s = w.core.session();
        w.submit(s, 0, b"open");
        w.settle();
        w.sims.iter_mut().for_each(|s| s.manner = Manner::Refuses(NoticeCode::LogFull));
        let before = w.now;
        w.submit(s, 1, b"x");
        w.submit(s, 2, b"y");
        w.settle();
        assert_eq!(w.now, before, "said at once");
        for token in [1, 2] {
            match &w.outcomes[&token] {
                Outcome::NotExecuted(why) if sure => assert!(why.contains("log is full"), "{why}"),
                Outcome::UnknownOutcome(why) if !sure => assert!(why.contains("log is full"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
        w.sims.iter_mut().for_each(|s| s.manner = Manner::Honest);
        w.submit(s, 3, b"z");
        w.settle();
        assert_eq!(w.done(3), b"2:z");
        w.assert_list(&[b"open", b"z"]);
    }
}

#[test]
fn a_refusal_after_a_second_copy_is_no_certainty() {
    let mut w = crash();
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    w.drop_to = w.members.members().collect();
    w.submit(s, 1, b"x");
    w.pass(RETRY_MS * 5 / 4);
    w.drop_to = VoteSet::default();
    w.sims.iter_mut().for_each(|s| s.manner = Manner::Refuses(NoticeCode::LogFull));
    w.pass(3 * RETRY_MS);
    assert!(matches!(&w.outcomes[&1], Outcome::UnknownOutcome(_)), "{:?}", w.outcomes[&1]);
}

#[test]
fn an_unanswered_group_does_not_keep_those_behind_it() {
    let mut w = byzantine();
    let (stuck, busy) = (w.core.session(), w.core.session());
    w.submit(stuck, 0, b"a");
    w.submit(busy, 1, b"b");
    w.settle();
    w.drop_to = w.members.members().collect();
    w.submit(stuck, 2, b"stuck");
    w.settle();
    w.drop_to = VoteSet::default();
    for token in 3..100 {
        w.submit(busy, token, b"c");
        w.settle();
    }
    assert_eq!((w.outcomes.len(), w.core.outstanding(), w.core.groups_kept()), (99, 1, 1));
}

#[test]
fn a_cluster_that_takes_no_client_says_so_at_once() {
    let mut w = byzantine();
    let s = w.core.session();
    for i in 0..4 {
        w.lose(i);
    }
    w.submit(s, 1, b"x");
    w.step(Input::Refused(ReplicaId(0), "another cluster".into()));
    w.settle();
    assert!(w.outcomes.is_empty(), "three are left");
    w.step(Input::Refused(ReplicaId(1), "another cluster".into()));
    w.submit(s, 2, b"y");
    w.settle();
    for token in [1, 2] {
        assert!(matches!(&w.outcomes[&token], Outcome::NotExecuted(why) if why.contains("another cluster")));
    }
}

#[test]
fn a_key_whose_macs_failed_signs_from_then_on() {
    let mut w = world_with(FaultModel::Byzantine, 4, 1, ClientAuth::Mac, ClientTableLimits::default());
    let s = w.core.session();
    w.submit(s, 0, b"open");
    w.settle();
    assert!(w.log.iter().all(|l| l.1 == AuthKind::Mac));
    w.sims[0].manner = Manner::Refuses(NoticeCode::Sign);
    w.log.clear();
    w.submit(s, 1, b"x");
    w.core.flush(w.now, &mut w.out);
    let [Output::Send(_, Message::Group(first))] = &w.out[..] else { panic!("{:?}", w.out) };
    assert_eq!(Group::decode(first.clone()).unwrap().auth_kind, AuthKind::Mac);
    w.out.clear();
    w.sims[0].manner = Manner::Honest;
    let notice = Notice { code: NoticeCode::Sign, view: View(1), group: Digest::ZERO, text: "mac".into() };
    w.step(Input::Message(ReplicaId(0), Message::Notice(notice)));
    w.settle();
    assert_eq!(w.done(1), b"2:x");
    assert!(w.log.iter().all(|l| l.1 == AuthKind::Signature), "{:?}", w.log);
}

#[test]
fn reads_are_answered_by_a_quorum_or_the_leader_without_the_order() {
    for mut w in [byzantine(), crash()] {
        let s = w.core.session();
        w.submit(s, 0, b"a");
        w.settle();
        let seq = w.seq;
        w.read(1);
        w.settle();
        assert_eq!(w.done(1), b"1");
        assert_eq!(w.seq, seq, "nothing was ordered");
        assert_eq!(w.core.outstanding(), 0);
    }
}

#[test]
fn reads_fall_back_to_the_order() {
    // Two silent: no quorum of answers, so after a wait in order. (More than f, but the order here goes on.)
    let mut w = byzantine();
    w.sims[1].manner = Manner::Lies;
    w.sims[2].manner = Manner::Silent;
    w.read(1);
    w.settle();
    assert!(w.outcomes.is_empty());
    w.sims[1].manner = Manner::Honest;
    w.pass(RETRY_MS);
    assert_eq!(w.done(1), b"0");
    assert!(w.seq > Seq(0));

    let mut w = crash();
    w.lose(0);
    w.change_view();
    w.read(1);
    w.settle();
    assert_eq!(w.done(1), b"0", "no leader to ask: in order");
    let answer = ReadReply {
        id: 2,
        view: View(2),
        status: ReadStatus::OrderedOnly,
        executed: Seq(0),
        version: Seq(0),
        digest: Digest::ZERO,
        result: None,
    };
    w.read(2);
    w.drop_to = VoteSet::from_iter([ReplicaId(1)]);
    w.settle();
    w.drop_to = VoteSet::default();
    w.step(Input::Message(ReplicaId(1), Message::ReadReply(answer)));
    w.pass(RETRY_MS);
    assert_eq!(w.done(2), b"0");
}

#[test]
fn strange_messages_do_nothing() {
    let mut w = byzantine();
    let s = w.core.session();
    w.submit(s, 0, b"a");
    w.settle();
    let reply = |session, number, body: &'static [u8]| Reply {
        session: SessionId(session),
        number: RequestNumber(number),
        status: ReplyStatus::Done,
        digest_only: false,
        body: Bytes::from_static(body),
    };
    let known = (1 << 20) + 1;
    let replies = vec![
        reply(0, 0, b""),
        reply(0, u64::MAX, b"12345678"),
        reply(known, 0, b"x"),
        reply(known, 1, b"x"),
        reply(known, u64::MAX, b"x"),
        reply(u64::MAX, 1, b"x"),
    ];
    for from in 0..5 {
        let replies =
            Replies { view: View(u64::MAX - u64::from(from)), executed: Seq(1), replies: replies.clone() };
        if from != 1 && from != 2 {
            w.step(Input::Message(ReplicaId(from), Message::Replies(replies)));
        }
    }
    let answer = StatusAnswer { id: 5, json: "{}".into() };
    w.step(Input::Message(ReplicaId(1), Message::StatusAnswer(answer)));
    w.submit(s, 1, b"b");
    w.pass(RETRY_MS * 2);
    assert_eq!(w.done(1), b"2:b");
}

/// Whatever a faulty replica might say, about sessions and groups that exist.
fn nonsense(w: &World, mut next: impl FnMut(u64) -> u64) -> Message {
    let session = SessionId([0, (1 << 20) + 1, (2 << 20) + 1][next(3) as usize]);
    let number = RequestNumber(if session.0 == 0 { 0xabc << 20 } else { next(45) });
    let body = Bytes::from(vec![b'!'; [0, 8, 32, 200][next(4) as usize]]);
    let view = View([1, next(9), u64::MAX][next(3) as usize]);
    match next(4) {
        0 => {
            let code = [
                NoticeCode::LogFull,
                NoticeCode::Busy,
                NoticeCode::Sign,
                NoticeCode::Halted,
                NoticeCode::Rejected,
                NoticeCode::View,
            ][next(6) as usize];
            let last = w.out.iter().rev().find_map(|o| match o {
                Output::Send(_, Message::Group(bytes)) => Group::decode(bytes.clone()).ok(),
                _ => None,
            });
            let group = last.map_or(Digest::ZERO, |g| g.digest(&HASHER));
            Message::Notice(Notice { code, view, group, text: "lie".into() })
        }
        1 => Message::ReadReply(ReadReply {
            id: next(4),
            view,
            status: ReadStatus::Done,
            executed: Seq(next(9)),
            version: Seq(next(3)),
            digest: result_digest(&HASHER, &body),
            result: Some(body),
        }),
        _ => {
            let status = [ReplyStatus::Done, ReplyStatus::Expired, ReplyStatus::TooOld][next(3) as usize];
            let reply = Reply { session, number, status, digest_only: next(2) == 0, body };
            Message::Replies(Replies { view, executed: Seq(next(99)), replies: vec![reply.clone(), reply] })
        }
    }
}

#[test]
fn random_loss_lies_and_leader_changes_execute_everything_once_in_order() {
    for seed in 0..200u64 {
        let mut w = if seed % 2 == 0 { byzantine() } else { crash() };
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let n = u64::from(w.members.n());
        let s = w.core.session();
        let mut expected = Vec::new();
        for token in 0..40 {
            let operation = format!("{seed}/{token}{}", "-".repeat(next(120) as usize)).into_bytes();
            w.submit_until(s, token, &operation, 1_000_000);
            expected.push(operation);
            w.drop_to = (0..2).map(|_| ReplicaId(next(n) as u32)).collect();
            w.drop_from = (0..2).map(|_| ReplicaId(next(n) as u32)).collect();
            if w.members.byzantine() {
                w.core.flush(w.now, &mut w.out);
                for _ in 0..next(6) {
                    let lie = nonsense(&w, &mut next);
                    w.step(Input::Message(ReplicaId(3), lie));
                }
            }
            if next(4) == 0 {
                w.read(1000 + token);
            }
            match next(8) {
                0 => {
                    w.change_view();
                    let who = next(n) as u32;
                    w.tell_view(&[who, (who + 1) % n as u32]);
                }
                1 => w.pass(next(1000)),
                2 => {
                    let who = ReplicaId(next(n) as u32);
                    w.step(Input::Disconnected(who, "cut".into()));
                    w.settle();
                    w.step(Input::Connected(who));
                }
                _ => w.settle(),
            }
        }
        w.drop_to = VoteSet::default();
        w.drop_from = VoteSet::default();
        w.pass(60_000);
        let expected: Vec<&[u8]> = expected.iter().map(|o| &o[..]).collect();
        w.assert_list(&expected);
        for token in 0..40 {
            let prefix = format!("{}:{seed}/{token}", token + 1);
            assert!(w.done(token).starts_with(prefix.as_bytes()), "seed {seed}, call {token}");
        }
        assert!(w.outcomes.values().all(|o| matches!(o, Outcome::Done(_))), "seed {seed}: {:?}", w.outcomes);
        assert_eq!(w.core.outstanding(), 0, "seed {seed}");
        assert_eq!(w.released.0, w.outcomes.len());
    }
}
