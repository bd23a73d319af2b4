use super::framing::HEADER_BYTES;
use super::hello::{HELLO, Hello};
use super::*;
use crossbeam::channel::{Receiver as Events, RecvTimeoutError, unbounded};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

const WAIT: Duration = Duration::from_secs(10);
const BOTH: [Transport; 2] = [Transport::Tls, Transport::Plain];

#[derive(Debug)]
enum Event {
    Frame(From, u16, Bytes),
    Connected(From),
    Disconnected(From, Closed),
    Refused(ReplicaId, Refusal),
    EndOfPoll,
}

struct Inbox(Sender<Event>);

impl Receiver for Inbox {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        let _ = self.0.send(Event::Frame(*from, kind, payload));
    }
    fn connected(&mut self, from: &From) {
        let _ = self.0.send(Event::Connected(*from));
    }
    fn disconnected(&mut self, from: &From, reason: &Closed) {
        let _ = self.0.send(Event::Disconnected(*from, reason.clone()));
    }
    fn refused(&mut self, replica: ReplicaId, refusal: Refusal, _text: &str) {
        let _ = self.0.send(Event::Refused(replica, refusal));
    }
    fn end_of_poll(&mut self) {
        let _ = self.0.send(Event::EndOfPoll);
    }
}

struct Node {
    net: Net,
    handle: NetHandle,
    events: Events<Event>,
}

impl Node {
    fn start(config: NetConfig) -> Self {
        let (inbox, events) = unbounded();
        let net = start(config, Box::new(Inbox(inbox))).unwrap();
        Self { handle: net.handle(), net, events }
    }

    /// The first event that `pick` takes; the others are dropped.
    fn wait<T>(&self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT;
        loop {
            match self.events.recv_deadline(deadline) {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what}; {:?}", self.handle.stats()),
                Err(RecvTimeoutError::Disconnected) => panic!("no {what}: the net thread is gone"),
            }
        }
    }

    fn connected(&self, peer: Peer) -> From {
        self.wait("connection", |event| match event {
            Event::Connected(from) if from.peer == peer => Some(from),
            _ => None,
        })
    }

    fn frame(&self) -> (From, u16, Bytes) {
        self.wait("frame", |event| match event {
            Event::Frame(from, kind, payload) => Some((from, kind, payload)),
            _ => None,
        })
    }

    fn disconnected(&self) -> (From, Closed) {
        self.wait("disconnection", |event| match event {
            Event::Disconnected(from, reason) => Some((from, reason)),
            _ => None,
        })
    }

    fn refused(&self) -> (ReplicaId, Refusal) {
        self.wait("refusal", |event| match event {
            Event::Refused(replica, refusal) => Some((replica, refusal)),
            _ => None,
        })
    }

    fn port(&self) -> u16 {
        self.handle.local_addr().unwrap().port()
    }

    fn counted(&self, peer: Option<Peer>, why: Discard) -> u64 {
        let stats = self.handle.stats();
        stats.discards.iter().filter(|d| d.0 == peer && d.1 == why).map(|d| d.2).sum()
    }

    fn counts(&self, peer: Option<Peer>, why: Discard) {
        until(&format!("{why:?} by {peer:?} in {:?}", self.handle.stats().discards), || {
            self.counted(peer, why) > 0
        });
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn replica(id: u32) -> Peer {
    Peer::Replica(ReplicaId(id))
}

fn client(id: u32) -> Peer {
    Peer::Client(ClientId(id))
}

fn identity(peer: Peer) -> Identity {
    Identity::from_seed(match peer {
        Peer::Replica(r) => [r.0 as u8 + 1; 32],
        Peer::Client(c) => [c.0 as u8 + 101; 32],
    })
}

/// A group whose replica `i` listens on `ports[i]`; clients 0..4.
fn config(me: Peer, ports: &[u16], transport: Transport) -> NetConfig {
    let remote = |(i, port): (usize, &u16)| Remote {
        id: ReplicaId(i as u32),
        address: format!("127.0.0.1:{port}"),
        key: identity(replica(i as u32)).public_key(),
    };
    let remotes = ports.iter().enumerate().map(remote).collect();
    let mut config = NetConfig::new(ClusterId([9; 16]), me, remotes, identity(me));
    config.client_keys = (0..4).map(|c| (ClientId(c), identity(client(c)).public_key())).collect();
    config.transport = transport;
    config.hello_tag = *b"byz/blk3";
    if let Peer::Replica(me) = me {
        config.listen = Some(format!("127.0.0.1:{}", ports[me.index()]));
    }
    config
}

/// Replicas 0 and 1 and client 0, connected.
fn three(transport: Transport) -> (Node, Node, Node, [u16; 2]) {
    let r0 = Node::start(config(replica(0), &[0, 1], transport));
    let p0 = r0.port();
    let r1 = Node::start(config(replica(1), &[p0, 0], transport));
    let ports = [p0, r1.port()];
    r1.connected(replica(0));
    r0.connected(replica(1));
    let c = Node::start(config(client(0), &ports, transport));
    (r0, r1, c, ports)
}

fn pattern(len: usize, salt: u8) -> Bytes {
    (0..len).map(|i| (i * 31 + i / 251) as u8 ^ salt).collect::<Vec<_>>().into()
}

#[test]
fn small_and_large_frames_arrive_whole_and_in_order_in_both_directions() {
    for transport in BOTH {
        let (r0, r1, c, _) = three(transport);
        let sizes = [0, 1, 100, 1023, 1024, 4096, 20_000, 200_000, 3_000_000, 5, 70_000, 0, 16_384];
        for (i, len) in sizes.into_iter().enumerate() {
            r0.handle.send(To::Replica(ReplicaId(1)), Frame::new(i as u16, pattern(len, 1)));
            let payload = pattern(len, 2);
            let parts = [payload.slice(..len / 3), payload.slice(len / 3..len / 2), payload.slice(len / 2..)];
            r1.handle.send(To::AllReplicas, Frame::of_parts(i as u16, parts));
        }
        for (i, len) in sizes.into_iter().enumerate() {
            let (from, kind, payload) = r1.frame();
            assert!((from.peer, kind, payload) == (replica(0), i as u16, pattern(len, 1)));
            let (from, kind, payload) = r0.frame();
            assert!((from.peer, kind, payload) == (replica(1), i as u16, pattern(len, 2)));
        }
        // A client asks both replicas, each answers over the connection the question came by.
        c.connected(replica(0));
        let batch = vec![
            (To::AllReplicas, Frame::new(7, pattern(4096, 3))),
            (To::AllReplicas, Frame::new(8, pattern(100_000, 4))),
        ];
        until("both replicas", || c.handle.stats().connections.len() == 2);
        c.handle.send_batch(batch);
        for r in [&r0, &r1] {
            let (from, kind, payload) = r.frame();
            assert!((from.peer, kind, payload) == (client(0), 7, pattern(4096, 3)));
            let (from, kind, payload) = r.frame();
            assert!((from.peer, kind, payload) == (client(0), 8, pattern(100_000, 4)));
            r.handle.send(To::Connection(from.connection), Frame::new(9, pattern(300_000, 5)));
        }
        let mut answered: Vec<_> = (0..2)
            .map(|_| {
                let (from, kind, payload) = c.frame();
                assert!((kind, payload) == (9, pattern(300_000, 5)));
                from.peer
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, [replica(0), replica(1)]);
        c.wait("end of poll", |event| matches!(event, Event::EndOfPoll).then_some(()));
    }
}

#[test]
fn replicas_start_in_any_order_and_reconnect_after_a_restart_on_the_same_port() {
    for transport in BOTH {
        // Nobody listens yet: the port is found and given back.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let r1 = Node::start(config(replica(1), &[free, 0], transport));
        std::thread::sleep(Duration::from_millis(120));
        let mut r0 = Node::start(config(replica(0), &[free, 0], transport));
        r1.connected(replica(0));
        for restart in 0..2u16 {
            assert!(r0.net.stop());
            let (from, _) = r1.disconnected();
            assert_eq!(from.peer, replica(0));
            r1.handle.send(To::AllReplicas, Frame::new(1, Bytes::new()));
            r1.counts(Some(replica(0)), Discard::NotConnected);
            r0 = Node::start(config(replica(0), &[free, 0], transport));
            let again = r1.connected(replica(0));
            assert!(again.connection > from.connection);
            r1.handle.send(To::AllReplicas, Frame::new(restart, pattern(10_000, 0)));
            assert_eq!(r0.frame().1, restart);
        }
    }
}

/// Starts replica 0 as configured and replica 1 changed by `change`; both must say no with `expected`.
fn refused_on_both_sides(transport: Transport, expected: Refusal, change: impl FnOnce(&mut NetConfig)) {
    let r0 = Node::start(config(replica(0), &[0, 1], transport));
    let mut other = config(replica(1), &[r0.port(), 0], transport);
    change(&mut other);
    let r1 = Node::start(other);
    assert_eq!(r1.refused(), (ReplicaId(0), expected));
    r1.counts(Some(replica(0)), Discard::Refused(expected));
    r0.counts(None, Discard::Refused(expected));
    assert!(!r1.handle.stats().last_errors.is_empty());
    // At a slow pace: no second attempt soon.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(r0.handle.stats().accepted, 1);
    assert!(r0.handle.stats().connections.is_empty());
}

#[test]
fn another_cluster_is_refused_on_both_sides() {
    for transport in BOTH {
        refused_on_both_sides(transport, Refusal::WrongCluster, |c| c.cluster = ClusterId([8; 16]));
    }
}

#[test]
fn another_configuration_is_refused_on_both_sides() {
    for transport in BOTH {
        refused_on_both_sides(transport, Refusal::ConfigDiffers, |c| c.hello_tag = *b"cft/blk3");
    }
}

#[test]
fn a_replica_with_another_key_is_refused_on_both_sides() {
    refused_on_both_sides(Transport::Tls, Refusal::UnknownKey, |c| {
        c.identity = Identity::from_seed([77; 32]);
        c.replicas[1].key = c.identity.public_key();
    });
}

#[test]
fn a_listener_with_another_key_than_the_pinned_is_refused_on_both_sides() {
    refused_on_both_sides(Transport::Tls, Refusal::UnknownKey, |c| c.replicas[0].key = [5; 32]);
}

#[test]
fn an_id_that_is_not_configured_is_refused_on_both_sides() {
    for transport in BOTH {
        refused_on_both_sides(transport, Refusal::UnknownKey, |c| {
            c.me = client(40);
            c.listen = None;
            c.identity = identity(client(40));
        });
    }
}

#[test]
fn a_client_cannot_use_another_clients_id() {
    refused_on_both_sides(Transport::Tls, Refusal::UnknownKey, |c| {
        c.me = client(1);
        c.listen = None;
        c.identity = identity(client(2));
        c.client_keys.clear();
    });
}

#[test]
fn a_replica_that_answers_at_anothers_address_is_refused_on_both_sides() {
    // Replica 2 finds replica 0 at the address it has for replica 1.
    let move_address = |c: &mut NetConfig, key: PublicKey| {
        let mut moved = c.replicas.remove(0);
        moved.id = ReplicaId(1);
        moved.key = key;
        c.replicas = vec![moved];
        c.me = client(0);
        c.identity = identity(client(0));
        c.listen = None;
    };
    for transport in BOTH {
        let r0 = Node::start(config(replica(0), &[0, 1], transport));
        let mut other = config(replica(1), &[r0.port(), 0], transport);
        // In TLS the wrong key would be noticed first: give it the right one.
        move_address(&mut other, identity(replica(0)).public_key());
        let c = Node::start(other);
        assert_eq!(c.refused(), (ReplicaId(1), Refusal::WrongReplica));
        r0.counts(None, Discard::Refused(Refusal::WrongReplica));
    }
}

#[test]
fn tls_and_plain_refuse_each_other_on_both_sides() {
    for (listens, dials) in [(Transport::Tls, Transport::Plain), (Transport::Plain, Transport::Tls)] {
        let r0 = Node::start(config(replica(0), &[0, 1], listens));
        let r1 = Node::start(config(replica(1), &[r0.port(), 0], dials));
        r0.counts(None, Discard::Refused(Refusal::WrongTransport));
        assert_eq!(r1.refused(), (ReplicaId(0), Refusal::WrongTransport));
    }
}

fn greeting(me: Peer, expected: u32) -> Vec<u8> {
    let hello = Hello { cluster: ClusterId([9; 16]), me, expected, tag: *b"byz/blk3" };
    wire(&Frame::encode(HELLO, [hello.encode()]))
}

fn wire(frame: &Frame) -> Vec<u8> {
    frame.slices(0).flat_map(|slice| slice.to_vec()).collect()
}

/// A plain socket to `node` that has said `bytes`.
fn stranger(node: &Node, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.write_all(bytes).unwrap();
    socket
}

fn ends(mut socket: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    if let Err(e) = socket.read_to_end(&mut rest) {
        assert_eq!(e.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn another_version_is_refused_with_the_reason() {
    let r0 = Node::start(config(replica(0), &[0, 1], Transport::Plain));
    let hello = Hello { cluster: ClusterId([9; 16]), me: client(0), expected: 0, tag: *b"byz/blk3" };
    let mut payload = hello.encode().to_vec();
    payload[8] = 99;
    let mut socket = stranger(&r0, &wire(&Frame::encode(HELLO, [payload.into()])));
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let (refusal, text) = hello::decode_refused(&answer[HEADER_BYTES..]).unwrap();
    assert_eq!(refusal, Refusal::WrongVersion);
    assert!(text.contains("99") && text.contains(&hello::VERSION.to_string()), "{text}");
    r0.counts(None, Discard::Refused(Refusal::WrongVersion));

    // And a dialer that is told so reports it.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let r1 = Node::start(config(replica(1), &[port, 0], Transport::Plain));
    let (mut socket, _) = listener.accept().unwrap();
    let text = hello::encode_refused(Refusal::WrongVersion, "too old");
    socket.write_all(&wire(&Frame::encode(hello::REFUSED, [text]))).unwrap();
    assert_eq!(r1.refused(), (ReplicaId(0), Refusal::WrongVersion));
}

#[test]
fn peers_that_send_random_bytes_are_disconnected_and_counted_and_others_go_on() {
    for transport in BOTH {
        let (r0, r1, _c, _) = three(transport);
        let mut state = 88172645463325252u64;
        for n in 0..40 {
            let bytes: Vec<u8> = (0..1 + n * 113)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            let mut socket = TcpStream::connect(("127.0.0.1", r0.port())).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            // It may be gone before all is said.
            let _ = socket.write_all(&bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            ends(socket);
        }
        let turned_away =
            || r0.handle.stats().discards.iter().filter(|d| d.0.is_none()).map(|d| d.2).sum::<u64>();
        until("counted", || turned_away() >= 35);
        r1.handle.send(To::AllReplicas, Frame::new(1, pattern(5000, 0)));
        assert_eq!(r0.frame().2, pattern(5000, 0));
    }
}

#[test]
fn a_silent_stranger_is_closed_after_its_time_and_a_talkative_one_at_once() {
    let mut config = config(replica(0), &[0, 1], Transport::Plain);
    config.greeting_timeout = Duration::from_millis(200);
    let r0 = Node::start(config);
    ends(stranger(&r0, &greeting(client(0), 0)[..20]));
    r0.counts(None, Discard::GreetingTimeout);
    // A greeting that promises more than any greeting needs.
    ends(stranger(&r0, &wire(&Frame::new(1, pattern(4000, 0)))));
    r0.counts(None, Discard::TooLong);
    // In TLS: handshake messages that never end.
    let mut tls = super::loopback_tests::config(replica(0), &[0, 1], Transport::Tls);
    tls.greeting_timeout = WAIT;
    let r0 = Node::start(tls);
    let mut endless = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
    endless.resize(9000, 0);
    let mut socket = TcpStream::connect(("127.0.0.1", r0.port())).unwrap();
    let _ = socket.write_all(&endless);
    ends(socket);
    r0.counts(None, Discard::GreetingTooLong);
}

#[test]
fn silent_strangers_do_not_keep_others_out() {
    let mut config = config(replica(0), &[0, 1], Transport::Tls);
    config.unknown_max = 8;
    let r0 = Node::start(config);
    let silent: Vec<_> = (0..30).map(|_| stranger(&r0, &[])).collect();
    let c = Node::start(super::loopback_tests::config(client(0), &[r0.port()], Transport::Tls));
    c.connected(replica(0));
    r0.counts(None, Discard::Crowded);
    assert!(r0.counted(None, Discard::Crowded) >= 22);
    drop(silent);
}

#[test]
fn a_client_key_has_no_more_connections_than_it_may() {
    let mut config = config(replica(0), &[0, 1], Transport::Tls);
    config.connections_per_client_max = 2;
    let r0 = Node::start(config);
    let client_of = |id| Node::start(super::loopback_tests::config(client(id), &[r0.port()], Transport::Tls));
    let first = client_of(0);
    let second = client_of(0);
    first.connected(replica(0));
    second.connected(replica(0));
    let third = client_of(0);
    assert_eq!(third.refused(), (ReplicaId(0), Refusal::TooManyConnections));
    client_of(1).connected(replica(0));
    // Room again after one has gone.
    drop(first);
    until("the first to be gone", || {
        r0.handle.stats().connections.iter().filter(|c| c.peer == client(0)).count() == 1
    });
    client_of(0).connected(replica(0));
}

#[test]
fn a_known_peer_that_breaks_the_framing_is_closed_and_counted_by_name() {
    for (bytes, why) in [
        (wire(&Frame::new(1, pattern(9 << 20, 0)))[..16].to_vec(), Discard::TooLong),
        (vec![0; 64], Discard::Checksum),
        (vec![0xff; 3], Discard::Flags),
        (greeting(client(0), 0), Discard::NetKind),
    ] {
        let r0 = Node::start(config(replica(0), &[0, 1], Transport::Plain));
        let mut bytes = bytes;
        if why == Discard::Flags {
            bytes = wire(&Frame::new(1, Bytes::new()));
            bytes[6] = 1;
        }
        let good = Frame::new(4, pattern(100, 1));
        let socket = stranger(&r0, &[greeting(client(0), 0), wire(&good), bytes].concat());
        assert_eq!(r0.frame().1, 4);
        let (from, reason) = r0.disconnected();
        assert_eq!(from.peer, client(0), "{reason}");
        ends(socket);
        r0.counts(Some(client(0)), why);
    }
}

#[test]
fn a_client_that_does_not_read_is_closed_and_a_replica_only_loses_the_newest() {
    for transport in BOTH {
        let mut c0 = config(replica(0), &[0, 1], transport);
        c0.client_queue_bytes_max = 1 << 20;
        c0.replica_queue_bytes_max = 1 << 20;
        c0.frame_bytes_max = 4 << 20;
        let r0 = Node::start(c0);
        // Replica 1's receiver blocks until it is told: its socket fills up.
        let (go, gate) = unbounded::<()>();
        let (count, counted) = unbounded();
        let stuck = |gate: Events<()>, count: Sender<u16>| Box::new(Stuck { gate, count, first: true });
        let mut c1 = config(replica(1), &[r0.port(), 0], transport);
        c1.dead_after = Duration::from_secs(60);
        let _r1 = start(c1, stuck(gate.clone(), count.clone())).unwrap();
        let from = r0.connected(replica(1));
        for n in 0..600u16 {
            r0.handle.send(To::Connection(from.connection), Frame::new(n, pattern(64 << 10, 0)));
            if n % 50 == 49 {
                let stats = r0.handle.stats();
                let queued = stats.connections.first().map_or(0, |c| c.queue_bytes);
                assert!(queued <= 1 << 20, "{queued} bytes queued");
            }
        }
        r0.counts(Some(replica(1)), Discard::QueueFull);
        go.send(()).unwrap();
        let dropped = || r0.counted(Some(replica(1)), Discard::QueueFull);
        let mut kinds = vec![counted.recv_timeout(WAIT).unwrap()];
        until("the rest", || {
            kinds.extend(counted.try_iter());
            kinds.len() as u64 + dropped() == 600
        });
        assert!(kinds.is_sorted(), "{kinds:?}");

        let ports = [r0.port()];
        let _c = start(config(client(0), &ports, transport), stuck(gate, count)).unwrap();
        let from = r0.connected(client(0));
        for n in 0..600u16 {
            r0.handle.send(To::Connection(from.connection), Frame::new(n, pattern(64 << 10, 0)));
        }
        let (closed, reason) = r0.disconnected();
        assert_eq!((closed, reason), (from, Closed::SlowReader));
        r0.counts(Some(client(0)), Discard::SlowReader);
        go.send(()).unwrap();
    }
}

/// A receiver that blocks at its first frame until it is told to go on.
struct Stuck {
    gate: Events<()>,
    count: Sender<u16>,
    first: bool,
}

impl Receiver for Stuck {
    fn frame(&mut self, _from: &From, kind: u16, _payload: Bytes) {
        if std::mem::take(&mut self.first) {
            let _ = self.gate.recv_timeout(WAIT);
        }
        let _ = self.count.send(kind);
    }
    fn connected(&mut self, _from: &From) {}
    fn disconnected(&mut self, _from: &From, _reason: &Closed) {}
    fn end_of_poll(&mut self) {}
}

#[test]
fn a_peer_that_sends_without_end_does_not_hold_up_the_others() {
    for transport in BOTH {
        let mut c0 = config(replica(0), &[0, 1], transport);
        c0.read_quota_bytes = 64 << 10;
        let r0 = Node::start(c0);
        let ports = [r0.port()];
        let flood = Node::start(config(client(0), &ports, transport));
        let quiet = Node::start(config(client(1), &ports, transport));
        flood.connected(replica(0));
        quiet.connected(replica(0));
        let full = Frame::new(1, pattern(60_000, 0));
        for _ in 0..400 {
            flood.handle.send(To::AllReplicas, full.clone());
        }
        // 24 MB wait behind that; the quiet client's frame must not.
        quiet.handle.send(To::AllReplicas, Frame::new(2, Bytes::new()));
        let mut before = 0;
        r0.wait("the quiet client's frame", |event| match event {
            Event::Frame(_, 2, _) => Some(()),
            Event::Frame(_, 1, _) => {
                before += 1;
                None
            }
            _ => None,
        });
        assert!(before < 400, "{before} frames before it");
        let mut rounds = 0;
        let mut longest = 0;
        let mut in_round = 0;
        r0.wait("the flood", |event| match event {
            Event::EndOfPoll => {
                rounds += 1;
                longest = longest.max(in_round);
                in_round = 0;
                None
            }
            Event::Frame(..) => {
                in_round += 1;
                before += 1;
                (before == 400).then_some(())
            }
            _ => None,
        });
        // A quota of 64 KiB may be overrun by one read of the scratch buffer or one direct read.
        assert!(longest <= 8, "{longest} frames of 60 kB in one round of {rounds}");
    }
}

#[test]
fn paused_clients_are_not_read_and_replicas_are() {
    for transport in BOTH {
        let (r0, r1, c, _) = three(transport);
        let from = r0.connected(client(0));
        r0.handle.pause_clients(true);
        // Commands are obeyed in order, so after this answer the pause holds.
        c.connected(replica(0));
        r0.handle.send(To::Connection(from.connection), Frame::new(1, Bytes::new()));
        c.frame();
        c.handle.send(To::Replica(ReplicaId(0)), Frame::new(2, pattern(1000, 0)));
        std::thread::sleep(Duration::from_millis(100));
        r1.handle.send(To::AllReplicas, Frame::new(3, Bytes::new()));
        assert_eq!(r0.frame().1, 3);
        assert!(r0.events.try_iter().all(|event| !matches!(event, Event::Frame(..))));
        r0.handle.pause_clients(false);
        assert_eq!(r0.frame().1, 2);
    }
}

/// Wants no more of whoever sent kind 1, for a while.
struct Rests {
    inbox: Inbox,
    until: Option<Instant>,
}

const REST: Duration = Duration::from_millis(300);

impl Receiver for Rests {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        if kind == 1 {
            self.until = Some(Instant::now() + REST);
        }
        self.inbox.frame(from, kind, payload);
    }
    fn connected(&mut self, from: &From) {
        self.inbox.connected(from);
    }
    fn disconnected(&mut self, from: &From, reason: &Closed) {
        self.inbox.disconnected(from, reason);
    }
    fn rests(&mut self, _from: &From) -> Option<Instant> {
        self.until.take()
    }
    fn end_of_poll(&mut self) {}
}

#[test]
fn a_peer_that_rests_is_read_later_and_the_others_meanwhile() {
    for transport in BOTH {
        let (inbox, events) = unbounded();
        let receiver = Rests { inbox: Inbox(inbox), until: None };
        let net = start(config(replica(0), &[0, 1], transport), Box::new(receiver)).unwrap();
        let r0 = Node { handle: net.handle(), net, events };
        let ports = [r0.port()];
        let resting = Node::start(config(client(0), &ports, transport));
        let other = Node::start(config(client(1), &ports, transport));
        resting.connected(replica(0));
        other.connected(replica(0));
        resting.handle.send(To::AllReplicas, Frame::new(1, Bytes::new()));
        assert_eq!(r0.frame().1, 1);
        let start = Instant::now();
        resting.handle.send(To::AllReplicas, Frame::new(2, pattern(100_000, 0)));
        std::thread::sleep(REST / 3);
        other.handle.send(To::AllReplicas, Frame::new(3, Bytes::new()));
        assert_eq!(r0.frame().1, 3);
        assert_eq!(r0.frame().1, 2);
        assert!(start.elapsed() > REST * 9 / 10, "{:?}", start.elapsed());
    }
}

#[test]
fn a_newer_connection_of_a_replica_replaces_the_old_one() {
    for transport in BOTH {
        let (r0, r1, _c, ports) = three(transport);
        r1.handle.send(To::AllReplicas, Frame::new(1, Bytes::new()));
        let (old, ..) = r0.frame();
        // Another process with the same key: a replica restarted while the old connection hangs.
        let twin = Node::start({
            let mut config = config(replica(1), &ports, transport);
            config.listen = None;
            config
        });
        let new = r0.wait("the replacement", {
            let mut closed = false;
            move |event| match event {
                Event::Disconnected(from, reason) if from == old => {
                    assert_eq!(reason, Closed::Replaced);
                    closed = true;
                    None
                }
                Event::Connected(from) if from.peer == replica(1) => {
                    assert!(closed, "told of the new one before the end of the old");
                    Some(from)
                }
                Event::Frame(from, ..) => {
                    assert!(!closed || from != old, "a frame of the replaced connection");
                    None
                }
                _ => None,
            }
        });
        assert!(new.connection > old.connection);
        let both = r0.handle.stats().connections.iter().filter(|c| c.peer == replica(1)).count();
        assert!(both <= 1);
        drop(r1);
        until("only the twin", || twin.handle.stats().connections.len() == 1);
    }
}

#[test]
fn a_name_is_looked_up() {
    let mut c0 = config(replica(0), &[0, 1], Transport::Tls);
    c0.listen = Some("localhost:0".into());
    let r0 = Node::start(c0);
    let mut c1 = config(replica(1), &[r0.port(), 0], Transport::Tls);
    c1.replicas[0].address = format!("localhost:{}", r0.port());
    let r1 = Node::start(c1);
    r1.connected(replica(0));

    let mut nowhere = config(client(0), &[1], Transport::Tls);
    nowhere.replicas[0].address = "no-such-host.invalid:1".into();
    let c = Node::start(nowhere);
    until("a lookup that fails", || !c.handle.stats().last_errors.is_empty());
}

#[test]
fn a_frame_over_the_cap_is_not_sent_and_closes_nothing() {
    let (r0, r1, _c, _) = three(Transport::Tls);
    let huge = Frame::new(1, Bytes::from(vec![0; (64 << 20) + 1]));
    r1.handle.send(To::AllReplicas, huge);
    r1.handle.send(To::AllReplicas, Frame::new(2, Bytes::new()));
    assert_eq!(r0.frame().1, 2);
    r1.counts(Some(replica(0)), Discard::FrameTooLarge);
}

#[test]
fn a_disconnected_client_is_told_nothing_more_and_dials_again() {
    let (r0, _r1, c, _) = three(Transport::Tls);
    let from = r0.connected(client(0));
    // The client learns of a connection a round trip later; one that ends before that is a refusal to it.
    c.connected(replica(0));
    r0.handle.disconnect(from.connection, "its session is over");
    let (closed, reason) = r0.disconnected();
    assert_eq!((closed, reason), (from, Closed::Requested("its session is over".into())));
    r0.handle.send(To::Connection(from.connection), Frame::new(1, Bytes::new()));
    r0.counts(None, Discard::NotConnected);
    assert!(r0.connected(client(0)).connection > from.connection);
    c.disconnected();
    c.connected(replica(0));
}

#[test]
fn stopping_sends_what_is_queued_first() {
    for transport in BOTH {
        let (r0, mut r1, _c, _) = three(transport);
        for n in 0..50 {
            r1.handle.send(To::AllReplicas, Frame::new(n, pattern(100_000, 0)));
        }
        assert!(r1.net.stop());
        assert!(!r1.net.is_running());
        for n in 0..50 {
            assert_eq!(r0.frame().1, n);
        }
    }
}

#[test]
fn impossible_configurations_are_refused_at_start() {
    let start = |config| start(config, Box::new(Inbox(unbounded().0))).err().unwrap();
    let mut wrong = config(replica(0), &[0, 1], Transport::Tls);
    wrong.identity = identity(replica(1));
    assert!(matches!(start(wrong), NetError::WrongIdentity(_)));
    let mut twice = config(replica(0), &[0, 1], Transport::Tls);
    twice.replicas[1].id = ReplicaId(0);
    assert!(matches!(start(twice), NetError::Twice(ReplicaId(0))));
    let mut listens = config(client(0), &[0, 1], Transport::Tls);
    listens.listen = Some("127.0.0.1:0".into());
    assert!(matches!(start(listens), NetError::ClientListens));
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut taken = config(replica(0), &[0, 1], Transport::Tls);
    taken.listen = Some(busy.local_addr().unwrap().to_string());
    let e = start(taken).to_string();
    assert!(e.contains("cannot listen on 127.0.0.1:"), "{e}");
}

/// A client that speaks TLS and greets by hand, to do what ours never would.
fn tls_client(node: &Node, id: u32) -> (rustls::Connection, TcpStream) {
    let config = tls::Tls::new(&identity(client(id))).unwrap();
    let config = config.dial_config(identity(replica(0)).public_key()).unwrap();
    let mut tls = tls::Tls::dial(config).unwrap();
    let mut socket = stranger(node, &[]);
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    tls.writer().write_all(&greeting(client(id), 0)).unwrap();
    tls.complete_io(&mut socket).unwrap();
    node.connected(client(id));
    (tls, socket)
}

#[test]
fn a_few_key_updates_are_followed_and_a_storm_of_them_is_cut_off() {
    let r0 = Node::start(config(replica(0), &[0, 1], Transport::Tls));
    let (mut tls, mut socket) = tls_client(&r0, 0);
    for n in 0..100u16 {
        tls.refresh_traffic_keys().unwrap();
        tls.writer().write_all(&wire(&Frame::new(n, pattern(100, 0)))).unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut socket).unwrap();
        }
        assert_eq!(r0.frame().1, n);
    }
    for _ in 0..200 {
        tls.refresh_traffic_keys().unwrap();
    }
    while tls.wants_write() && tls.write_tls(&mut socket).is_ok() {}
    assert!(matches!(r0.disconnected(), (from, Closed::Tls(_)) if from.peer == client(0)));
    r0.counts(Some(client(0)), Discard::Tls);
}

#[test]
fn a_replayed_recording_of_a_session_gets_nowhere() {
    let r0 = Node::start(config(replica(0), &[0, 1], Transport::Tls));
    // Between a client and the replica, a wire that keeps what the client said.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut c0 = config(client(0), &[listener.local_addr().unwrap().port()], Transport::Tls);
    c0.replicas[0].key = identity(replica(0)).public_key();
    let c = Node::start(c0);
    let (mut near, _) = listener.accept().unwrap();
    let mut far = stranger(&r0, &[]);
    let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut back_from, &mut back_to);
    });
    let tape = std::thread::spawn(move || {
        let (mut tape, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = near.read(&mut buffer) {
            tape.extend_from_slice(&buffer[..n]);
            if far.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = far.shutdown(std::net::Shutdown::Both);
        tape
    });
    c.connected(replica(0));
    c.handle.send(To::AllReplicas, Frame::new(6, pattern(100, 0)));
    assert_eq!(r0.frame().1, 6);
    drop(c);
    let tape = tape.join().unwrap();
    back.join().unwrap();
    r0.disconnected();

    let mut again = stranger(&r0, &[]);
    let _ = again.write_all(&tape);
    ends(again);
    r0.counts(None, Discard::Tls);
    assert!(r0.events.try_iter().all(|event| !matches!(event, Event::Connected(_) | Event::Frame(..))));
}

#[test]
fn commands_beyond_the_cap_are_discarded_and_counted_while_the_net_thread_is_stuck() {
    let mut c0 = config(replica(0), &[0, 1], Transport::Plain);
    c0.commands_bytes_max = 1 << 20;
    let (go, gate) = unbounded();
    let (count, _counted) = unbounded();
    let net = start(c0, Box::new(Stuck { gate, count, first: true })).unwrap();
    let handle = net.handle();
    let port = handle.local_addr().unwrap().port();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.write_all(&[greeting(client(0), 0), wire(&Frame::new(1, Bytes::new()))].concat()).unwrap();
    until("the net thread in its receiver", || {
        handle.stats().connections.first().is_some_and(|c| c.frames_in == 1)
    });
    for _ in 0..100 {
        handle.send(To::AllReplicas, Frame::new(1, vec![0; 100_000].into()));
    }
    let stats = handle.stats();
    let busy: u64 = stats.discards.iter().filter(|d| d.1 == Discard::NetBusy).map(|d| d.2).sum();
    assert_eq!(busy, 90);
    go.send(()).unwrap();
}

#[test]
fn a_receiver_that_panics_ends_the_net_thread_and_stop_says_so() {
    struct Panics;
    impl Receiver for Panics {
        fn frame(&mut self, _from: &From, _kind: u16, _payload: Bytes) {}
        fn connected(&mut self, _from: &From) {
            panic!("as this test wants it");
        }
        fn disconnected(&mut self, _from: &From, _reason: &Closed) {}
        fn end_of_poll(&mut self) {}
    }
    let mut net = start(config(replica(0), &[0, 1], Transport::Plain), Box::new(Panics)).unwrap();
    assert!(net.is_running());
    let port = net.handle().local_addr().unwrap().port();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.write_all(&greeting(client(0), 0)).unwrap();
    until("its end", || !net.is_running());
    net.handle().send(To::AllReplicas, Frame::new(1, Bytes::new()));
    assert!(!net.stop());
}

#[test]
fn a_flood_of_connections_is_accepted_at_a_bounded_rate() {
    let mut c0 = config(replica(0), &[0, 1], Transport::Tls);
    c0.accepts_per_second = 20;
    let r0 = Node::start(c0);
    let begun = Instant::now();
    let flood: Vec<_> = (0..60).map(|_| TcpStream::connect(("127.0.0.1", r0.port())).unwrap()).collect();
    until("the burst", || r0.handle.stats().accepted >= 20);
    std::thread::sleep(Duration::from_millis(200));
    let accepted = r0.handle.stats().accepted as f64;
    assert!(accepted <= 21.0 + 20.0 * begun.elapsed().as_secs_f64(), "{accepted} in {:?}", begun.elapsed());
    drop(flood);
}
