//! How much memory a peer or client with valid keys can make a replica take: counted by this process's allocator, under the most
//! that they may send. Senders share one payload, so what is counted is the receiver's.

use bytes::Bytes;
use duramen::config::{Config, LogLimits, Transport};
use duramen::execute::client_table::{ClientTable, ClientTableLimits, Verdict};
use duramen::identity::Identity;
use duramen::init::{InitOptions, init};
use duramen::keys::{ClientKeys, ReplicaKeys};
use duramen::net::{self, Closed, Frame, From, Net, NetConfig, Peer, Remote, To};
use duramen::quorum::FaultModel;
use duramen::replica::{Replica, ReplicaOptions, format_log, stages};
use duramen::service::KeyValueStore;
use duramen::transfer::image::Manifest;
use duramen::types::*;
use duramen::wire::auth::group_bytes;
use duramen::wire::batch::{AuthKind, Batch, Group, Hasher, Request, RequestKind};
use duramen::wire::messages::*;
use duramen::{data_dir, transfer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

// ---- counting --------------------------------------------------------------------------------------------------------

/// The system's allocator, with a tally of all bytes in use and of the most there were.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grew(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is handed to `System` as it came, and its answer back; the tally touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller keeps the contract of this same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `System`, by one of the others.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Both lie there while it is copied.
        grew(bytes);
        // SAFETY: as for `dealloc`.
        let moved = unsafe { System.realloc(at, layout, bytes) };
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The tally is one for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The most bytes that were in use meanwhile, above those at its beginning.
fn peak(of: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    of();
    PEAK.load(Ordering::Relaxed).saturating_sub(before)
}

const MIB: usize = 1 << 20;

#[test]
fn the_tally_counts() {
    let _one = alone();
    let most = peak(|| {
        drop(std::hint::black_box(vec![1u8; 10 * MIB]));
        drop(std::hint::black_box(vec![0u8; 6 * MIB]));
    });
    assert!((10 * MIB..11 * MIB).contains(&most), "{most}");
}

// ---- messages --------------------------------------------------------------------------------------------------------

/// A decoded message takes no more than so many times its bytes, and a little: a batch of the smallest groups has a digest and a
/// place in a list for every 40 bytes.
const TIMES: usize = 5;
const LITTLE: usize = 4096;

fn hasher() -> Hasher {
    Hasher { cluster: ClusterId([7; 16]), algorithm: DigestAlgorithm::Blake3 }
}

fn signatures() -> Vec<(ReplicaId, Signature)> {
    (0..3).map(|i| (ReplicaId(i), Signature([i as u8; 64]))).collect()
}

fn certificate(seq: u64) -> Certificate {
    Certificate { view: View(1), seq: Seq(seq), digest: Digest([9; 32]), signatures: signatures() }
}

fn group() -> Group {
    let request = |number, operation| Request {
        session: SessionId(1 << 20),
        number: RequestNumber(number),
        kind: RequestKind::Invoke,
        operation,
    };
    let requests = [request(1, vec![1; 30]), request(2, vec![2; 50])];
    Group::build(&hasher(), ClientId(1), &requests, |_| (AuthKind::Signature, vec![3; 64]))
}

fn batch() -> Batch {
    let group = group();
    let digest = group.digest(&hasher());
    Batch::build(&hasher(), Seq(4), WallTime(5), 6, vec![(group.clone(), digest), (group, digest)])
}

/// One of each kind that holds lists or lengths.
fn messages() -> Vec<Message> {
    let mark = MarkCertificate { signatures: signatures(), ..MarkCertificate::default() };
    let slots = (1..3).map(|seq| SlotReport { kind: VoteKind::Write, certificate: certificate(seq) });
    let stop_data = Arc::new(StopData {
        view: View(2),
        sender: ReplicaId(1),
        mark: mark.clone(),
        slots: slots.collect(),
        unknown: vec![Seq(7), Seq(9)],
        signature: Signature([4; 64]),
    });
    let reply = |number| Reply {
        session: SessionId(1),
        number: RequestNumber(number),
        status: ReplyStatus::Done,
        digest_only: false,
        body: Bytes::from_static(b"a reply"),
    };
    vec![
        Message::Propose(Propose { view: View(1), seq: Seq(4), batch: batch().bytes }),
        Message::StopData(stop_data.clone()),
        Message::Sync(Arc::new(Sync { view: View(2), stop_data: vec![stop_data; 3] })),
        Message::Decided(Decided { certificate: certificate(4), batch: batch().bytes }),
        Message::BatchIs(BatchIs { seq: Seq(4), batch: batch().bytes }),
        Message::Chain(Chain { from: Seq(1), digests: vec![Digest([1; 32]); 4], mark: mark.clone() }),
        Message::RejoinMark(RejoinMark { nonce: 1, mark }),
        Message::Group(group().bytes().clone()),
        Message::Replies(Replies { view: View(1), executed: Seq(1), replies: (0..3).map(reply).collect() }),
    ]
}

/// Everything that is made of a payload from the wire before any signature is looked at.
fn decode(kind: u16, payload: &Bytes) {
    if let Ok(message) = Message::decode(kind, payload.clone()) {
        match &message {
            Message::Group(bytes) => drop(Group::decode(bytes.clone())),
            Message::Propose(m) => drop(Batch::decode(&hasher(), m.seq, m.batch.clone())),
            Message::Decided(m) => drop(Batch::decode(&hasher(), m.certificate.seq, m.batch.clone())),
            Message::BatchIs(m) => drop(Batch::decode(&hasher(), m.seq, m.batch.clone())),
            _ => {}
        }
    }
    if let Ok(transfer::messages::Message::Manifest { manifest, .. }) =
        transfer::messages::Message::decode(kind, payload.clone())
    {
        drop(Manifest::decode(manifest));
    }
}

fn in_proportion(kind: u16, payload: &Bytes, what: &str) {
    let allowed = TIMES * payload.len() + LITTLE;
    // All threads are counted: what the runner of the tests took meanwhile is not taken the next time.
    let mut most = usize::MAX;
    for _ in 0..5 {
        most = most.min(peak(|| decode(kind, payload)));
        if most <= allowed {
            return;
        }
    }
    panic!("{what}, kind {kind}: {most} bytes are taken for {} received", payload.len());
}

fn payload(message: &Message) -> Bytes {
    let (_, head, tail) = message.encode();
    [&head[..], &tail.unwrap_or_default()].concat().into()
}

#[test]
fn what_a_message_claims_of_its_lists_and_lengths_takes_no_memory() {
    let _one = alone();
    for message in messages() {
        let bytes = payload(&message);
        decode(message.kind(), &bytes);
        for at in 0..bytes.len().saturating_sub(3) {
            for claim in [u32::MAX, 1 << 31, 1 << 24, bytes.len() as u32] {
                let mut bent = bytes.to_vec();
                bent[at..at + 4].copy_from_slice(&claim.to_le_bytes());
                in_proportion(message.kind(), &bent.into(), "one field bent");
            }
        }
    }
    // Nothing but claims, under every number.
    for kind in (0..128).chain([0xfeff, 0xff01]) {
        for length in (0..256).chain([1000, 4000]) {
            in_proportion(kind, &vec![0xff; length].into(), "all ones");
            let counts: Vec<u8> = [0xff, 0xff, 0xff, 0, 1, 0, 0].into_iter().cycle().take(length).collect();
            in_proportion(kind, &counts.into(), "great counts");
        }
    }
}

#[test]
fn the_largest_lists_take_memory_in_proportion() {
    let _one = alone();
    let reply = |number| Reply {
        session: SessionId(1),
        number: RequestNumber(number),
        status: ReplyStatus::Done,
        digest_only: false,
        body: Bytes::new(),
    };
    let all = 100_000;
    let replies = (0..all).map(reply).collect();
    let stop_data = StopData {
        view: View(2),
        sender: ReplicaId(1),
        mark: MarkCertificate::default(),
        slots: (1..all)
            .map(|seq| SlotReport {
                kind: VoteKind::Write,
                certificate: Certificate { signatures: Vec::new(), ..certificate(seq) },
            })
            .collect(),
        unknown: (1..all).map(Seq).collect(),
        signature: Signature([4; 64]),
    };
    let empty = Arc::new(StopData { slots: Vec::new(), unknown: Vec::new(), ..stop_data.clone() });
    let request = Request {
        session: SessionId(1),
        number: RequestNumber(1),
        kind: RequestKind::Invoke,
        operation: Vec::new(),
    };
    let small = Group::build(&hasher(), ClientId(1), &[request], |_| (AuthKind::Channel, Vec::new()));
    let digest = small.digest(&hasher());
    let groups = vec![(small, digest); all as usize];
    let batch = Batch::build(&hasher(), Seq(1), WallTime(1), 1, groups).bytes;
    for message in [
        Message::Replies(Replies { view: View(1), executed: Seq(1), replies }),
        Message::StopData(Arc::new(stop_data)),
        Message::Sync(Arc::new(Sync { view: View(2), stop_data: vec![empty; all as usize / 4] })),
        Message::BatchIs(BatchIs { seq: Seq(1), batch }),
    ] {
        let bytes = payload(&message);
        assert!(Message::decode(message.kind(), bytes.clone()).is_ok(), "kind {}", message.kind());
        in_proportion(message.kind(), &bytes, "many items");
    }
}

// ---- sessions --------------------------------------------------------------------------------------------------------

#[test]
fn sessions_and_their_replies_take_what_the_limits_say() {
    let _one = alone();
    const SESSION_BYTES: usize = 4096;
    let limits = ClientTableLimits::default();
    let cap = limits.client_replies_bytes_max + limits.sessions_per_client_max * SESSION_BYTES;
    let reply = Bytes::from(vec![7; limits.reply_bytes_max]);
    let most = peak(|| {
        let mut table = ClientTable::new(limits);
        let mut open = Vec::new();
        for nonce in 0..20_000 {
            open.push(table.open(ClientId(1), nonce, Seq(nonce + 1), 0));
        }
        for session in open.iter().rev().take(limits.sessions_per_client_max) {
            for number in (1..=80).map(RequestNumber) {
                assert!(matches!(table.check(ClientId(1), *session, number), Verdict::Execute));
                // A copy each, as executing gives.
                table.store(*session, number, Seq(30_000), Bytes::copy_from_slice(&reply));
            }
        }
        assert!(table.sessions() <= limits.sessions_per_client_max);
    });
    // 20,480 replies of 64 KiB were given.
    assert!(most <= cap + MIB, "{} MiB, {} are allowed", most / MIB, cap / MIB);
    assert!(most > limits.client_replies_bytes_max / 2, "the limit was never near: {most}");
}

// ---- a whole replica -------------------------------------------------------------------------------------------------

/// What a replica takes for reasons of its own while it is attacked.
const OWN: usize = 16 * MIB;

struct Attacked {
    config: Config,
    replica: Option<Replica>,
    dir: tempfile::TempDir,
}

impl Attacked {
    /// Replica 0 of a group whose others are down, or liars.
    fn start(model: FaultModel, transport: Transport) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let n = if model == FaultModel::Byzantine { 4 } else { 3 };
        let free = |first: &u16| (0..2 * n).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok());
        let base = 30_000 + std::process::id() as u16 % 100 * 8;
        let port = (0..100).map(|i| base + 8 * i % 2000).find(free).expect("free ports");
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            replicas: n.into(),
            model,
            transport,
            listen: format!("127.0.0.1:{port}"),
            log: LogLimits { segment_mib: 8, spare_segments: 1, ..LogLimits::default() },
            ..InitOptions::default()
        };
        let config = init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
        let replica = Replica::start(ReplicaOptions {
            allow_tmpfs: true,
            ..ReplicaOptions::new(config.clone(), options.dir, ReplicaId(0), Box::new(KeyValueStore::new()))
        })
        .unwrap();
        // Its first segments and tables are made meanwhile.
        std::thread::sleep(Duration::from_millis(500));
        Self { config, replica: Some(replica), dir }
    }

    fn replica(&self) -> &Replica {
        self.replica.as_ref().unwrap()
    }

    fn counted(&self, reason: &str) -> bool {
        self.replica().status_json().contains(reason)
    }

    fn client_frame_bytes_max(&self) -> usize {
        self.config.limits.largest_batch_bytes() + (64 << 10)
    }

    /// As `net` lets this peer in, with its own key.
    fn connect(&self, me: Peer) -> (Net, Arc<AtomicBool>) {
        let folder = self.dir.path().join("cluster");
        let (seed, key) = match me {
            Peer::Replica(id) => {
                let keys =
                    ReplicaKeys::load(&data_dir::replica_key_file(&folder, id), &self.config, id).unwrap();
                (keys.seed, keys.public_key())
            }
            Peer::Client(_) => {
                let file = data_dir::client_key_file(&folder, "default");
                let keys = ClientKeys::load(&file, &self.config).unwrap();
                (keys.seed, keys.public_key())
            }
        };
        let victim = self.config.replica(ReplicaId(0)).unwrap();
        let victim = Remote { id: victim.id, address: victim.address.clone(), key: victim.key };
        let mut config = NetConfig::new(self.config.cluster, me, vec![victim], Identity::from_seed(seed));
        if let Peer::Client(id) = me {
            config.client_keys.insert(id, key);
        }
        config.hello_tag = self.config.fingerprint();
        // What waits here is one payload, many times.
        (config.replica_queue_bytes_max, config.commands_bytes_max) = (usize::MAX / 4, usize::MAX / 4);
        let connected = Arc::new(AtomicBool::new(false));
        let net = net::start(config, Box::new(Told(connected.clone()))).unwrap();
        until("it connects", || connected.load(Ordering::Acquire));
        (net, connected)
    }

    /// A socket in plain transport, greeted as this client.
    fn dial(&self) -> TcpStream {
        let mut socket = TcpStream::connect(&self.config.replica(ReplicaId(0)).unwrap().address).unwrap();
        let client = self.config.client_named("default").unwrap().id;
        let mut hello = b"duramen\n".to_vec();
        hello.extend_from_slice(&net::hello::VERSION.to_le_bytes());
        hello.extend_from_slice(&[2, 0]);
        hello.extend_from_slice(&client.0.to_le_bytes());
        hello.extend_from_slice(&0u32.to_le_bytes());
        hello.extend_from_slice(&self.config.cluster.0);
        hello.extend_from_slice(&self.config.fingerprint());
        socket.write_all(&header(net::framing::NET_KINDS + 1, &hello, hello.len())).unwrap();
        socket.write_all(&hello).unwrap();
        let mut answer = [0; 16];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(u16::from_le_bytes([answer[4], answer[5]]), net::framing::NET_KINDS + 2, "it is let in");
        socket
    }
}

/// Hears nothing but that it is connected.
struct Told(Arc<AtomicBool>);

impl net::Receiver for Told {
    fn frame(&mut self, _from: &From, _kind: u16, _payload: Bytes) {}

    fn connected(&mut self, _from: &From) {
        self.0.store(true, Ordering::Release);
    }

    fn disconnected(&mut self, _from: &From, _reason: &Closed) {
        self.0.store(false, Ordering::Release);
    }

    fn end_of_poll(&mut self) {}
}

/// A frame's header that claims `length` bytes of payload.
fn header(kind: u16, payload: &[u8], length: usize) -> [u8; 16] {
    let mut header = [0; 16];
    header[0..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4..6].copy_from_slice(&kind.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[0..8]), &header[12..16]);
    header[8..12].copy_from_slice(&crc32c::crc32c_append(crc, payload).to_le_bytes());
    header
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}: not in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Until so many frames have left and none waits, or the receiver has hung up.
fn drained(net: &Net, connected: &AtomicBool, frames: u64) {
    let sent = || {
        let stats = net.handle().stats();
        stats.frames_out >= frames && stats.connections.iter().all(|c| c.queue_bytes == 0)
    };
    until("everything is read", || !connected.load(Ordering::Acquire) || sent());
    std::thread::sleep(Duration::from_millis(200));
}

#[test]
fn a_flood_of_a_replicas_largest_messages_stays_within_its_share() {
    let _one = alone();
    let attacked = Attacked::start(FaultModel::Byzantine, Transport::Tls);
    let (net, connected) = attacked.connect(Peer::Replica(ReplicaId(3)));
    let filler = Bytes::from(vec![0u8; attacked.config.limits.largest_batch_bytes() - 200]);
    let frame = |message: &Message| {
        let (kind, head, tail) = message.encode();
        Frame::of_parts(kind, [head, tail.unwrap_or_default()])
    };
    let sent = 48;
    let most = peak(|| {
        for seq in 1..=sent {
            let claim = certificate(seq);
            let decided = Message::Decided(Decided { certificate: claim, batch: filler.clone() });
            let batch = Message::BatchIs(BatchIs { seq: Seq(seq), batch: filler.clone() });
            for message in [decided, batch] {
                net.handle().send(To::Replica(ReplicaId(0)), frame(&message));
            }
        }
        drained(&net, &connected, 2 * sent);
    });
    let flood = 2 * sent as usize * filler.len();
    assert!(flood > 4 * stages::PEER_BYTES_MAX);
    let cap = stages::PEER_BYTES_MAX + 2 * filler.len() + OWN;
    println!("{} MiB sent, {} taken, {} allowed", flood / MIB, most / MIB, cap / MIB);
    assert!(most <= cap, "{} MiB, {} are allowed", most / MIB, cap / MIB);
    assert!(attacked.counted("\"from\":\"replica 3\""), "{}", attacked.replica().status_json());
}

/// The dearest there is to check: so many groups, each truly signed by a client that is in it.
fn dear_batch(attacked: &Attacked) -> Bytes {
    let config = &attacked.config;
    let hasher = Hasher { cluster: config.cluster, algorithm: config.digest };
    let file = data_dir::client_key_file(&attacked.dir.path().join("cluster"), "default");
    let keys = ClientKeys::load(&file, config).unwrap();
    let identity = Identity::from_seed(keys.seed);
    let groups = (1..=config.limits.batch_requests as u64).map(|number| {
        let request = Request {
            session: SessionId(1 << 20 | 1),
            number: RequestNumber(number),
            kind: RequestKind::Invoke,
            operation: [7u8; 900],
        };
        let sign = |digest: &Digest| identity.sign(&group_bytes(&config.cluster, digest));
        let group =
            Group::build(&hasher, keys.id, &[request], |digest| (AuthKind::Signature, sign(digest).to_vec()));
        let digest = group.digest(&hasher);
        (group, digest)
    });
    Batch::build(&hasher, Seq(1), WallTime(1), 1, groups.collect()).bytes
}

#[test]
fn proposals_that_come_faster_than_they_are_checked_stay_within_their_senders_share() {
    let _one = alone();
    let attacked = Attacked::start(FaultModel::Byzantine, Transport::Tls);
    let batch = dear_batch(&attacked);
    let (net, connected) = attacked.connect(Peer::Replica(ReplicaId(3)));
    // It leads one of the next views.
    let view = View(4);
    assert_eq!(view.leader(4), ReplicaId(3));
    let sent = 64;
    let most = peak(|| {
        for seq in (1..=sent).map(Seq) {
            let (kind, head, tail) = Message::Propose(Propose { view, seq, batch: batch.clone() }).encode();
            let frame = Frame::of_parts(kind, [head, tail.unwrap_or_default()]);
            net.handle().send(To::Replica(ReplicaId(0)), frame);
        }
        drained(&net, &connected, sent);
    });
    // Each is decoded when its turn comes.
    let cap = stages::PEER_BYTES_MAX + (1 + TIMES) * batch.len() + OWN;
    let flood = sent as usize * batch.len();
    println!("{} MiB sent, {} taken, {} allowed", flood / MIB, most / MIB, cap / MIB);
    assert!(most <= cap, "{} MiB, {} are allowed", most / MIB, cap / MIB);
    assert!(attacked.counted("queue full"), "{}", attacked.replica().status_json());
}

#[test]
fn a_flood_of_a_clients_largest_groups_stays_within_the_clients_share() {
    let _one = alone();
    let attacked = Attacked::start(FaultModel::Byzantine, Transport::Tls);
    let client = Peer::Client(attacked.config.client_named("default").unwrap().id);
    let nets: Vec<_> = (0..8).map(|_| attacked.connect(client)).collect();
    let filler = Bytes::from(vec![0u8; attacked.config.limits.largest_batch_bytes() - 200]);
    let most = peak(|| {
        for _ in 0..12 {
            for (net, _) in &nets {
                net.handle().send(To::Replica(ReplicaId(0)), Frame::new(32, filler.clone()));
            }
        }
        nets.iter().for_each(|(net, connected)| drained(net, connected, 12));
    });
    let cap = stages::CLIENT_BYTES_MAX + nets.len() * filler.len() + OWN;
    println!("{} MiB sent, {} taken, {} allowed", 96 * filler.len() / MIB, most / MIB, cap / MIB);
    assert!(most <= cap, "{} MiB, {} are allowed", most / MIB, cap / MIB);
    assert!(attacked.counted("\"from\":\"client 1\""), "{}", attacked.replica().status_json());
}

#[test]
fn reads_that_cannot_be_answered_stay_within_their_clients_share() {
    let _one = alone();
    // The leader of crash mode may not answer before it hears of the others, and they are down.
    let attacked = Attacked::start(FaultModel::Crash, Transport::Tls);
    let client = Peer::Client(attacked.config.client_named("default").unwrap().id);
    let (net, connected) = attacked.connect(client);
    let operation = Bytes::from(vec![0u8; attacked.config.limits.request_bytes]);
    let read = payload(&Message::Read(Read { id: 1, full_from: ReplicaId(0), operation: operation.clone() }));
    let sent = 40;
    let most = peak(|| {
        for _ in 0..sent {
            net.handle().send(To::Replica(ReplicaId(0)), Frame::new(34, read.clone()));
        }
        drained(&net, &connected, sent);
    });
    let cap = stages::READ_BYTES_MAX + 2 * operation.len() + OWN;
    println!(
        "{} MiB sent, {} taken, {} allowed",
        sent as usize * operation.len() / MIB,
        most / MIB,
        cap / MIB
    );
    assert!(most <= cap, "{} MiB, {} are allowed", most / MIB, cap / MIB);
    assert!(attacked.counted("too many bytes of reads"), "{}", attacked.replica().status_json());
}

#[test]
fn frames_that_are_announced_and_never_end_take_one_buffer_for_each_connection() {
    let _one = alone();
    let attacked = Attacked::start(FaultModel::Crash, Transport::Plain);
    let largest = attacked.client_frame_bytes_max();
    let half = vec![0u8; largest / 2];
    let connections = 16;
    let mut sockets = Vec::new();
    let most = peak(|| {
        for _ in 0..connections {
            let mut socket = attacked.dial();
            socket.write_all(&header(32, &[], largest)).unwrap();
            socket.write_all(&half).unwrap();
            sockets.push(socket);
        }
        std::thread::sleep(Duration::from_millis(300));
    });
    let cap = connections * largest + OWN;
    println!("{} MiB sent, {} taken, {} allowed", connections * half.len() / MIB, most / MIB, cap / MIB);
    assert!(most >= connections * half.len(), "they are being received");
    assert!(most <= cap, "{} MiB, {} are allowed", most / MIB, cap / MIB);

    // The next one is turned away, and so is whoever announces more than it may.
    let seventeenth = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attacked.dial()));
    assert!(seventeenth.is_err(), "one key has its sixteen connections");
    drop(sockets);
    std::thread::sleep(Duration::from_millis(300));
    for claim in [largest + 1, u32::MAX as usize] {
        let mut socket = attacked.dial();
        let most = peak(|| {
            socket.write_all(&header(32, &[], claim)).unwrap();
            let mut rest = Vec::new();
            // It hangs up behind what it has to say.
            let _ = socket.read_to_end(&mut rest);
        });
        assert!(most < OWN, "{claim} announced: {most}");
    }
}
