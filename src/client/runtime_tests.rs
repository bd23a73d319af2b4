//! The client's threads against small replicas over real loopback sockets. One sequencer stands in for the order.

use super::session::Link;
use super::{Client, ClientError, ClientOptions, Outcome, SubmitError};
use crate::config::{
    ClientAuth, ClientEntry, Config, Durability, Limits, LogLimits, ReplicaEntry, Settings, Transport,
};
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::execute::executor::Executor;
use crate::identity::{self, Identity};
use crate::keys::{ClientKeys, ReplicaKeys};
use crate::net::{
    self, Closed, ConnectionId, Frame, From, Net, NetConfig, NetHandle, Peer, Receiver, Remote, To,
    Transport as NetTransport,
};
use crate::quorum::{FaultModel, Group as Members};
use crate::reply::routing::{cut, result_digest};
use crate::service::{Counter, NullService, Service};
use crate::types::*;
use crate::wire::auth::{self, Authenticator, BatchLimits, Scheme};
use crate::wire::batch::*;
use crate::wire::messages::*;
use bytes::Bytes;
use crossbeam::channel::unbounded;
use parking_lot::Mutex;
use ring::hmac;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(20);

struct ReplicaScheme {
    config: Config,
    keys: ReplicaKeys,
}

impl Scheme for ReplicaScheme {
    fn sign(&self, _: &[u8]) -> Signature {
        unreachable!("nothing is signed here")
    }

    fn verify_replica(&self, _: ReplicaId, _: &[u8], _: &Signature) -> bool {
        false
    }

    fn verify_client(&self, who: ClientId, bytes: &[u8], signature: &Signature) -> bool {
        self.config.client(who).is_some_and(|c| identity::verify(&c.key, bytes, &signature.0))
    }

    fn knows_client(&self, who: ClientId) -> bool {
        self.config.client(who).is_some()
    }

    fn verify_mac(&self, who: ClientId, digest: &Digest, tag: &[u8]) -> bool {
        let Some(client) = self.config.client(who) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.keys.client_mac(&client.key));
        let bytes = auth::group_bytes(&self.config.cluster, digest);
        hmac::sign(&key, &bytes).as_ref()[..MAC_BYTES] == *tag
    }
}

/// The order and all replicas' states under one lock.
struct Order {
    seq: Seq,
    executors: Vec<Executor>,
    up: Vec<bool>,
    /// Of each replica, to the client.
    links: Vec<Option<(NetHandle, ConnectionId)>>,
    groups: usize,
    mute: bool,
}

struct Replica {
    me: ReplicaId,
    members: Members,
    authenticator: Authenticator,
    order: Arc<Mutex<Order>>,
    handle: Arc<Mutex<Option<NetHandle>>>,
}

fn send(link: &Option<(NetHandle, ConnectionId)>, message: Message) {
    if let Some((net, connection)) = link {
        let (kind, head, tail) = message.encode();
        net.send(
            To::Connection(*connection),
            Frame::of_parts(kind, [Some(head), tail].into_iter().flatten()),
        );
    }
}

impl Replica {
    fn group(&self, client: ClientId, bytes: Bytes) {
        let mut order = self.order.lock();
        order.groups += 1;
        if order.mute {
            return;
        }
        let group = self.authenticator.group(Some(client), bytes).expect("an authentic group");
        let (group, digest) = group.into_parts();
        let mine = &order.executors[self.me.index()];
        let repeated: Vec<_> =
            group.requests().map(|q| mine.resend(client, q.session, q.number).map(|o| o.reply)).collect();
        if repeated.iter().any(Option::is_none) {
            self.decide(&mut order, group, digest);
        }
        let replies: Vec<Reply> = repeated.into_iter().flatten().collect();
        if !replies.is_empty() {
            let replies = Replies { view: View(1), executed: order.seq, replies };
            send(&order.links[self.me.index()], Message::Replies(replies));
        }
    }

    fn decide(&self, order: &mut Order, group: Group, digest: Digest) {
        order.seq = order.seq.next();
        let hasher = &self.authenticator.hasher;
        let batch = Batch::build(hasher, order.seq, WallTime(1), 1, vec![(group, digest)]);
        for i in 0..order.executors.len() {
            let executed = order.executors[i].execute(&batch);
            let me = ReplicaId(i as u32);
            let answers = self.members.byzantine() || i == 0 || !order.up[0];
            if order.up[i] && answers {
                let replies =
                    executed.replies.iter().map(|o| cut(self.members, me, &o.reply, o.digest)).collect();
                let replies = Replies { view: View(1), executed: order.seq, replies };
                send(&order.links[i], Message::Replies(replies));
            }
        }
    }
}

impl Receiver for Replica {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let Peer::Client(client) = from.peer else { panic!("only clients here") };
        match Message::decode(kind, payload).expect("a message") {
            Message::Attach(attach) => {
                assert!(attach.process != 0 && attach.process < 1 << 44);
                let net = self.handle.lock().clone().expect("started");
                self.order.lock().links[self.me.index()] = Some((net, from.connection));
            }
            Message::Group(bytes) => self.group(client, bytes),
            Message::Read(read) => {
                let order = self.order.lock();
                let executor = &order.executors[self.me.index()];
                let answer = executor.query(&read.operation);
                let whole = read.full_from == self.me || !self.members.byzantine();
                let reply = ReadReply {
                    id: read.id,
                    view: View(1),
                    status: ReadStatus::Done,
                    executed: executor.executed(),
                    version: answer.version.unwrap_or_default(),
                    digest: result_digest(&self.authenticator.hasher, &answer.result),
                    result: whole.then_some(answer.result),
                };
                send(&order.links[self.me.index()], Message::ReadReply(reply));
            }
            Message::StatusQuery(query) => {
                let json = format!("{{\"replica\":{}}}", self.me);
                let answer = StatusAnswer { id: query.id, json };
                send(&self.order.lock().links[self.me.index()], Message::StatusAnswer(answer));
            }
            other => panic!("clients do not send {other:?}"),
        }
    }

    fn connected(&mut self, _: &From) {}

    fn disconnected(&mut self, _: &From, _: &Closed) {
        self.order.lock().links[self.me.index()] = None;
    }

    fn end_of_poll(&mut self) {}
}

struct Cluster {
    config: Config,
    keys: ClientKeys,
    order: Arc<Mutex<Order>>,
    nets: Vec<Option<Net>>,
}

fn cluster(model: FaultModel, transport: Transport, client_auth: ClientAuth) -> Cluster {
    cluster_of(model, transport, client_auth, || Box::new(Counter::default()))
}

fn cluster_of(
    model: FaultModel,
    transport: Transport,
    client_auth: ClientAuth,
    service: impl Fn() -> Box<dyn Service>,
) -> Cluster {
    let id = ClusterId([9; 16]);
    let n = if model == FaultModel::Byzantine { 4 } else { 3 };
    let replica_keys: Vec<_> = (0..n).map(|i| ReplicaKeys::generate(id, ReplicaId(i)).unwrap()).collect();
    let keys = ClientKeys::generate(id, ClientId(1), "test", &replica_keys).unwrap();
    let replicas = replica_keys.iter().map(|k| ReplicaEntry {
        transfer: None,
        id: k.id,
        address: format!("127.0.0.1:{}", 1 + k.id.0),
        key: k.public_key(),
    });
    let mut settings = Settings {
        cluster: id,
        model,
        f: 1,
        transport,
        client_auth,
        digest: DigestAlgorithm::Blake3,
        durability: Durability::Vote,
        view_timeout_ms: 400,
        limits: Limits::default(),
        log: LogLimits::default(),
        checkpoint: Default::default(),
        transfer: Default::default(),
        replicas: replicas.collect(),
        clients: vec![ClientEntry { id: ClientId(1), name: "test".into(), key: keys.public_key() }],
    };
    let config = Config::new(settings.clone()).unwrap();
    let hasher = Hasher { cluster: id, algorithm: DigestAlgorithm::Blake3 };
    let executor = || Executor::new(service(), ClientTable::new(ClientTableLimits::default()), hasher);
    let order = Arc::new(Mutex::new(Order {
        seq: Seq(0),
        executors: (0..n).map(|_| executor()).collect(),
        up: vec![true; n as usize],
        links: vec![None; n as usize],
        groups: 0,
        mute: false,
    }));
    let nets: Vec<_> = replica_keys
        .into_iter()
        .map(|keys| {
            let me = Peer::Replica(keys.id);
            let identity = Identity::from_seed(keys.seed);
            let own = Remote { id: keys.id, address: "127.0.0.1:0".into(), key: keys.public_key() };
            let mut net = NetConfig::new(id, me, vec![own], identity);
            net.listen = Some("127.0.0.1:0".into());
            net.client_keys = config.clients.iter().map(|c| (c.id, c.key)).collect();
            net.hello_tag = config.fingerprint();
            net.transport = match transport {
                Transport::Tls => NetTransport::Tls,
                Transport::Plain => NetTransport::Plain,
            };
            let handle = Arc::new(Mutex::new(None));
            let replica = Replica {
                me: keys.id,
                members: config.group(),
                authenticator: Authenticator {
                    members: config.group(),
                    me: keys.id,
                    hasher,
                    client_auth: match client_auth {
                        ClientAuth::Signature => auth::ClientAuth::Signature,
                        ClientAuth::Mac => auth::ClientAuth::Mac,
                        ClientAuth::Channel => auth::ClientAuth::Channel,
                    },
                    limits: BatchLimits {
                        batch_bytes_max: 8 << 20,
                        group_bytes_max: 8 << 20,
                        batch_requests_max: 4096,
                        window: 16,
                    },
                    accepts_checked: false,
                    scheme: Arc::new(ReplicaScheme { config: config.clone(), keys }),
                },
                order: order.clone(),
                handle: handle.clone(),
            };
            let net = net::start(net, Box::new(replica)).unwrap();
            *handle.lock() = Some(net.handle());
            net
        })
        .collect();
    for (entry, net) in settings.replicas.iter_mut().zip(&nets) {
        entry.address = net.handle().local_addr().unwrap().to_string();
    }
    let config = Config::new(settings).unwrap();
    Cluster { config, keys, order, nets: nets.into_iter().map(Some).collect() }
}

impl Cluster {
    fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.config.clone(), self.keys.clone());
        options.insecure = true;
        options
    }

    fn client(&self) -> Client {
        Client::connect(self.options()).unwrap()
    }

    fn kill(&mut self, i: usize) {
        self.order.lock().up[i] = false;
        self.nets[i] = None;
    }
}

fn byzantine() -> Cluster {
    cluster(FaultModel::Byzantine, Transport::Tls, ClientAuth::Signature)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn done(outcome: Outcome) -> Bytes {
    match outcome {
        Outcome::Done(body) => body,
        other => panic!("{other:?}"),
    }
}

fn add(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_le_bytes())
}

fn number(body: Bytes) -> u64 {
    u64::from_le_bytes(body[..].try_into().unwrap())
}

#[test]
fn calls_are_executed_and_read_back_under_every_model_transport_and_authentication() {
    let table = [
        (FaultModel::Byzantine, Transport::Tls, ClientAuth::Signature),
        (FaultModel::Byzantine, Transport::Plain, ClientAuth::Mac),
        (FaultModel::Crash, Transport::Tls, ClientAuth::Channel),
        (FaultModel::Crash, Transport::Plain, ClientAuth::Channel),
    ];
    for (model, transport, auth) in table {
        let cluster = cluster(model, transport, auth);
        let client = cluster.client();
        let session = client.session();
        for i in 1..=20 {
            assert_eq!(number(done(session.invoke(add(2), None))), 2 * i);
        }
        let seq = cluster.order.lock().seq;
        assert_eq!(number(done(client.read(Bytes::new(), None))), 40);
        assert_eq!(cluster.order.lock().seq, seq, "not ordered");
        assert_eq!(client.status(ReplicaId(1), None).unwrap(), r#"{"replica":1}"#);
        assert!(client.status(ReplicaId(9), None).unwrap_err().contains("no replica 9"));
        until("everything to be released", || client.outstanding() == 0);
    }
}

#[test]
fn callbacks_that_submit_again_keep_a_pipeline_full() {
    const TOTAL: usize = 20_000;
    const OUTSTANDING: usize = 100;
    struct Loop {
        session: super::Session,
        started: AtomicUsize,
        finished: AtomicUsize,
        all: crossbeam::channel::Sender<()>,
    }
    fn next(work: Arc<Loop>) {
        if work.started.fetch_add(1, Ordering::Relaxed) >= TOTAL {
            return;
        }
        let again = work.clone();
        let submitted = work.session.submit(NullService::operation(100, 200), None, move |outcome| {
            assert_eq!(done(outcome).len(), 200);
            if again.finished.fetch_add(1, Ordering::Relaxed) + 1 == TOTAL {
                again.all.send(()).unwrap();
            }
            next(again);
        });
        submitted.unwrap();
    }
    let cluster = cluster_of(FaultModel::Byzantine, Transport::Plain, ClientAuth::Signature, || {
        Box::new(NullService::default())
    });
    let client = cluster.client();
    let (all, finished) = unbounded();
    let work = Arc::new(Loop {
        session: client.session(),
        started: AtomicUsize::new(0),
        finished: AtomicUsize::new(0),
        all,
    });
    let start = Instant::now();
    for _ in 0..OUTSTANDING {
        next(work.clone());
    }
    finished.recv_timeout(WAIT).expect("all of them");
    let rate = TOTAL as f64 / start.elapsed().as_secs_f64();
    let groups = cluster.order.lock().groups;
    println!("{rate:.0} requests per second in {groups} groups");
    assert!(groups < TOTAL / 4, "{groups} groups: requests leave together");
}

#[test]
fn outcomes_can_be_polled() {
    let cluster = byzantine();
    let client = cluster.client();
    let session = client.session();
    let (sender, outcomes) = unbounded();
    for tag in 0..50 {
        session.submit_to(add(1), None, tag, &sender).unwrap();
    }
    let mut results: Vec<_> = (0..50).map(|_| outcomes.recv_timeout(WAIT).unwrap()).collect();
    results.sort_by_key(|(tag, _)| *tag);
    for (i, (tag, outcome)) in results.into_iter().enumerate() {
        assert_eq!((tag, number(done(outcome))), (i as u64, i as u64 + 1), "in the order of submission");
    }
}

#[test]
fn many_threads_use_one_client() {
    let cluster = byzantine();
    let client = cluster.client();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let client = client.clone();
            scope.spawn(move || {
                let session = client.session();
                for _ in 0..50 {
                    done(session.invoke(add(1), None));
                }
            });
        }
    });
    assert_eq!(number(done(client.read(Bytes::new(), None))), 400);
}

#[test]
fn a_dead_leader_costs_no_call() {
    for model in [FaultModel::Byzantine, FaultModel::Crash] {
        let auth = ClientAuth::default_for(model);
        let mut cluster = cluster(model, Transport::Tls, auth);
        let client = cluster.client();
        let session = client.session();
        done(session.invoke(add(1), None));
        cluster.kill(0);
        for i in 2..10 {
            assert_eq!(number(done(session.invoke(add(1), None))), i);
        }
        until("the loss to be seen", || matches!(client.links()[0], Link::Down(_)));
    }
}

#[test]
fn a_cluster_that_dies_is_named_when_the_deadline_passes() {
    let mut cluster = byzantine();
    let client = cluster.client();
    let session = client.session();
    done(session.invoke(add(1), None));
    cluster.order.lock().mute = true;
    let deadline = Some(Duration::from_millis(200));
    match session.invoke(add(1), deadline) {
        Outcome::UnknownOutcome(why) => {
            assert!(why.contains("no reply") && why.contains("replica 3 connected"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    (0..4).for_each(|i| cluster.kill(i));
    until("the losses to be seen", || client.links().iter().all(|l| matches!(l, Link::Down(_))));
    let other = client.session();
    match other.invoke(add(1), deadline) {
        Outcome::NotExecuted(why) => assert!(why.contains("replica 2 not connected"), "{why}"),
        other => panic!("{other:?}"),
    }
    let why = client.status(ReplicaId(0), deadline).unwrap_err();
    assert!(why.contains("replica 0"), "{why}");
}

#[test]
fn a_wrong_cluster_or_key_is_said_at_once() {
    let cluster = byzantine();
    let mut settings = cluster.config.settings().clone();
    settings.cluster = ClusterId([1; 16]);
    let mut options = cluster.options();
    options.config = Config::new(settings).unwrap();
    assert!(matches!(Client::connect(options.clone()), Err(ClientError::Keys(_))));
    options.keys.cluster = ClusterId([1; 16]);
    let start = Instant::now();
    let why = match Client::connect(options) {
        Err(ClientError::Refused(why)) => why,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert!(why.contains("another cluster"), "{why}");
    assert!(start.elapsed() < Duration::from_secs(5));

    // A key that the replicas do not have.
    let stranger = Identity::generate().unwrap();
    let mut settings = cluster.config.settings().clone();
    settings.clients[0].key = stranger.public_key();
    let mut options = cluster.options();
    options.config = Config::new(settings).unwrap();
    options.keys.seed = *stranger.seed();
    let why = match Client::connect(options) {
        Err(ClientError::Refused(why)) => why,
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert!(why.contains("refused (unknown key"), "{why}");
}

#[test]
fn unreachable_replicas_are_named_with_the_reason() {
    let mut cluster = byzantine();
    (0..2).for_each(|i| cluster.kill(i));
    let mut options = cluster.options();
    options.connect_timeout = Duration::from_millis(500);
    let why = match Client::connect(options.clone()) {
        Err(e @ ClientError::Unreachable { .. }) => e.to_string(),
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert!(why.contains("replica 3 connected"), "{why}");
    assert!(why.to_lowercase().contains("refused"), "{why}");
    options.connect_to = Some(1);
    let client = Client::connect(options).unwrap();
    until("replica 2", || client.status(ReplicaId(2), None).is_ok());
}

#[test]
fn plain_links_to_replicas_that_may_lie_need_insecure() {
    let cluster = cluster(FaultModel::Byzantine, Transport::Plain, ClientAuth::Signature);
    let mut options = cluster.options();
    options.insecure = false;
    assert!(matches!(Client::connect(options), Err(ClientError::Config(_))));
}

#[test]
fn more_than_may_be_outstanding_is_turned_away_and_room_comes_back() {
    let cluster = byzantine();
    let mut options = cluster.options();
    options.outstanding_max = 10;
    options.outstanding_bytes_max = 100;
    let client = Client::connect(options).unwrap();
    let session = client.session();
    cluster.order.lock().mute = true;
    let (sender, outcomes) = unbounded();
    for tag in 0..10 {
        session.submit_to(add(1), None, tag, &sender).unwrap();
    }
    assert_eq!(session.submit_to(add(1), None, 10, &sender), Err(SubmitError::Busy { outstanding: 10 }));
    assert!(matches!(session.invoke(add(1), None), Outcome::NotExecuted(_)));
    let huge = vec![0; (4 << 20) + 1];
    assert!(matches!(session.submit_to(huge, None, 11, &sender), Err(SubmitError::TooLarge { .. })));
    cluster.order.lock().mute = false;
    (0..10).for_each(|_| drop(done(outcomes.recv_timeout(WAIT).unwrap().1)));
    until("room", || client.outstanding() == 0);
    // More bytes than may be outstanding, but alone.
    assert_eq!(done(session.invoke(vec![0; 1000], None)).len(), 0);
}

#[test]
fn a_panicking_callback_harms_nobody_else() {
    let cluster = byzantine();
    let client = cluster.client();
    let session = client.session();
    session.submit(add(1), None, |_| panic!("a test's own panic")).unwrap();
    assert_eq!(number(done(session.invoke(add(1), None))), 2);
}

#[test]
fn dropping_a_client_ends_what_is_under_way() {
    let cluster = byzantine();
    let client = cluster.client();
    let session = client.session();
    done(session.invoke(add(1), None));
    let before = {
        let mut order = cluster.order.lock();
        order.mute = true;
        order.groups
    };
    let (sender, outcomes) = unbounded();
    session.submit_to(add(1), None, 1, &sender).unwrap();
    until("it to leave", || cluster.order.lock().groups > before);
    drop(session);
    drop(client);
    let (_, outcome) = outcomes.recv_timeout(WAIT).unwrap();
    assert!(matches!(outcome, Outcome::UnknownOutcome(_)), "{outcome:?}");
}

#[test]
fn a_client_dropped_by_its_own_callback_ends_without_waiting_for_itself() {
    let cluster = byzantine();
    let client = cluster.client();
    let session = Arc::new(client.session());
    done(session.invoke(add(1), None));
    drop(client);
    let (sender, done) = unbounded();
    let last = session.clone();
    session
        .submit(add(1), None, move |_| {
            drop(last);
            sender.send(()).unwrap();
        })
        .unwrap();
    drop(session);
    done.recv_timeout(WAIT).unwrap();
    until("the connections to close", || cluster.order.lock().links.iter().all(Option::is_none));
}
