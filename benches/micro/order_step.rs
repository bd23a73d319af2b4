//! A whole group's agreement on one thread: cores, message checks and signatures; no sockets. Views and reserves go to real logs,
//! votes stay in memory, so that the disk is not what is measured.

use criterion::{BatchSize, Criterion, Throughput};
use crossbeam::channel::{Receiver, unbounded};
use duramen::config::{Config, LogLimits};
use duramen::data_dir;
use duramen::init::{InitOptions, init};
use duramen::keys::{ClientKeys, ReplicaKeys};
use duramen::log::{self, Log, LogEvent, LogOptions};
use duramen::order::restore::{Replay, first_record};
use duramen::order::{Input, Now, OrderConfig, Orderer, Output};
use duramen::quorum::FaultModel;
use duramen::types::*;
use duramen::wire::auth::{AuthenticGroup, Authenticator, BatchLimits, ClientAuth, group_bytes};
use duramen::wire::batch::{AuthKind, Group, Hasher, Request, RequestKind};
use duramen::wire::messages::Message;
use duramen::wire::scheme::Keys;
use std::collections::VecDeque;
use std::sync::Arc;

const WINDOW: u64 = 1 << 16;

struct Node {
    core: Orderer,
    auth: Authenticator,
    log: Log,
    events: Receiver<LogEvent>,
    executed: u64,
}

struct Cluster {
    nodes: Vec<Node>,
    client: ClientKeys,
    hasher: Hasher,
    byzantine: bool,
    tick: u64,
    number: u64,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn new(model: FaultModel, n: u32) -> Self {
        let dir = super::scratch();
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            replicas: n,
            model,
            log: LogLimits { segment_mib: 8, ..LogLimits::default() },
            checkpoint: Default::default(),
            ..InitOptions::default()
        };
        let config = init(&options, &|_, _, _| Ok(())).expect("a fresh cluster");
        let hasher = Hasher { cluster: config.cluster, algorithm: config.digest };
        let nodes = (0..n).map(|i| node(&options.dir, &config, hasher, ReplicaId(i))).collect();
        let client = data_dir::client_key_file(&options.dir, "default");
        let client = ClientKeys::load(&client, &config).expect("init made it");
        let byzantine = config.group().byzantine();
        Self { nodes, client, hasher, byzantine, tick: 1, number: 0, _dir: dir }
    }

    fn now(&mut self) -> Now {
        self.tick += 1000;
        Now { tick: Tick(self.tick), wall: WallTime(self.tick) }
    }

    fn group(&mut self, requests: u64, bytes: usize) -> AuthenticGroup {
        let operation = vec![7; bytes];
        let requests: Vec<Request<&[u8]>> = (1..=requests)
            .map(|i| Request {
                session: SessionId(1 << 20),
                number: RequestNumber(self.number + i),
                kind: RequestKind::Invoke,
                operation: &operation[..],
            })
            .collect();
        self.number += requests.len() as u64;
        let identity = duramen::identity::Identity::from_seed(self.client.seed);
        let group = Group::build(&self.hasher, self.client.id, &requests, |digest| match self.byzantine {
            true => {
                let signature = identity.sign(&group_bytes(&self.hasher.cluster, digest));
                (AuthKind::Signature, signature.to_vec())
            }
            false => (AuthKind::Channel, Vec::new()),
        });
        self.nodes[0].auth.group(Some(self.client.id), group.bytes().clone()).expect("it is authentic")
    }

    /// From a group at the leader to its execution everywhere; the places executed.
    fn decide(&mut self, group: AuthenticGroup) -> u64 {
        let mut inputs = VecDeque::from([(0, Input::Group { origin: 0, group })]);
        let before: u64 = self.nodes.iter().map(|n| n.executed).sum();
        let mut out = Vec::new();
        loop {
            for i in 0..self.nodes.len() {
                for event in self.nodes[i].events.try_iter() {
                    if let LogEvent::Persisted(persisted) = event {
                        inputs.push_back((i, Input::Persisted(persisted)));
                    }
                }
            }
            let now = self.now();
            let Some((i, input)) = inputs.pop_front() else {
                let after: u64 = self.nodes.iter().map(|n| n.executed).sum();
                if after > before {
                    return after - before;
                }
                // The first places wait for a reserve to be durable.
                std::thread::yield_now();
                continue;
            };
            let _ = self.nodes[i].core.step(now, input, &mut out);
            for output in out.drain(..) {
                self.apply(i, output, &mut inputs);
            }
        }
    }

    fn apply(&mut self, from: usize, output: Output, inputs: &mut VecDeque<(usize, Input)>) {
        let mut send = |to: usize, message: Message| {
            let checked = self.nodes[to].auth.replica(ReplicaId(from as u32), message);
            inputs.push_back((to, Input::Message(checked.expect("nobody lies"))));
        };
        match output {
            Output::Send(to, message) => send(to.index(), message),
            Output::Broadcast(message) => {
                (0..self.nodes.len()).filter(|to| *to != from).for_each(|to| send(to, message.clone()));
            }
            Output::Append(lsn, record) => {
                let given = self.nodes[from].log.append_control(record.encode().into());
                assert_eq!(given.expect("there is room"), lsn);
            }
            Output::Execute(batch) => {
                self.nodes[from].executed += 1;
                let input = Input::Executed { seq: batch.seq, replies: Digest::ZERO, progress: Vec::new() };
                inputs.push_back((from, input));
            }
            Output::Halt(why) => panic!("{why}"),
            _ => {}
        }
    }
}

fn node(dir: &std::path::Path, config: &Config, hasher: Hasher, me: ReplicaId) -> Node {
    let keys = ReplicaKeys::load(&data_dir::replica_key_file(dir, me), config, me).expect("init made it");
    let largest = config.limits.largest_batch_bytes();
    let auth = Authenticator {
        members: config.group(),
        me,
        hasher,
        client_auth: if config.group().byzantine() { ClientAuth::Signature } else { ClientAuth::Channel },
        limits: BatchLimits {
            batch_bytes_max: largest,
            group_bytes_max: largest,
            batch_requests_max: 65_536,
            window: WINDOW,
        },
        accepts_checked: false,
        scheme: Arc::new(Keys::new(config, &keys)),
    };
    let mut replay = Replay::new(auth.clone(), Default::default(), Lsn(1));
    replay.record(&first_record()).expect("it is the first");
    let order = OrderConfig {
        window: WINDOW,
        open: 8,
        mark_interval: WINDOW / 2,
        batch_bytes: 1 << 20,
        batch_requests: 65_536,
        view_timeout_ms: 3_600_000,
        clock_skew_ms: 86_400_000,
        client_bytes_max: 64 << 20,
        pool_bytes_max: 64 << 20,
        transfers: false,
        votes_durable: false,
        seed: 1,
    };
    let core = replay.finish(order, Now { tick: Tick(1), wall: WallTime(1) }).expect("a view was entered");
    let options = LogOptions {
        segment_bytes: 32 << 20,
        spare_segments: 1,
        ..LogOptions::new(data_dir::log_dir(dir, me), config.cluster, me)
    };
    log::format(&options).expect("a fresh log");
    let (to, events) = unbounded();
    let open = log::open(options, &mut |_| Ok(())).expect("it opens");
    let (mut log, _) = open.start(Box::new(move |event| drop(to.send(event)))).expect("it starts");
    log.append_control(first_record().encode().into()).expect("there is room");
    Node { core, auth, log, events, executed: 0 }
}

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("order");
    group.sample_size(20);
    for (model, n) in [(FaultModel::Byzantine, 4), (FaultModel::Crash, 3)] {
        for (requests, bytes) in [(1, 16), (100, 16), (100, 4096)] {
            let mut cluster = Cluster::new(model, n);
            group.throughput(Throughput::Elements(requests));
            group.bench_function(format!("{model:?} n={n}, a batch of {requests} x {bytes} B"), |b| {
                let cluster = std::cell::RefCell::new(&mut cluster);
                b.iter_batched(
                    || cluster.borrow_mut().group(requests, bytes),
                    |group| assert!(cluster.borrow_mut().decide(group) >= 1),
                    BatchSize::PerIteration,
                )
            });
        }
    }
    group.finish();
}
