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
    let c = Node::start(config(client(0), &ports, transport));
    r1.connected(replica(0));
    r0.connected(replica(1));
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
            assert_eq!((from.peer, kind, payload), (replica(0), i as u16, pattern(len, 1)));
            let (from, kind, payload) = r0.frame();
            assert_eq!((from.peer, kind, payload), (replica(1), i as u16, pattern(len, 2)));
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
            assert_eq!((from.peer, kind, payload), (client(0), 7, pattern(4096, 3)));
            let (from, kind, payload) = r.frame();
            assert_eq!((from.peer, kind, payload), (client(0), 8, pattern(100_000, 4)));
            r.handle.send(To::Connection(from.connection), Frame::new(9, pattern(300_000, 5)));
        }
        let mut answered: Vec<_> = (0..2)
            .map(|_| {
                let (from, kind, payload) = c.frame();
                assert_eq!((kind, payload), (9, pattern(300_000, 5)));
                from.peer
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, [replica(0), replica(1)]);
        c.wait("end of poll", |event| matches!(event, Event::EndOfPoll).then_some(()));
    }
}
