//! Small sizes, and bounds on behaviour alone: how fast this machine is does not matter.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::relay::{Counts, Door, Plan, Relay, Shape};
use super::table1::GROUP_B;
use super::trace::Trace;

/// For what is to happen.
const LONG: Duration = Duration::from_secs(20);
/// For what is not.
const SHORT: Duration = Duration::from_millis(150);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// One door to a listener; pipe 0 leads there, pipe 1 back.
fn one_door(there: &str, back: &str, delay: Duration) -> (Relay, TcpListener) {
    let target = TcpListener::bind(local()).unwrap();
    let shape = |trace: &str| Shape { trace: trace.parse().unwrap(), delay };
    let door = Door { listen: local(), target: target.local_addr().unwrap(), there: 0, back: 1 };
    let plan = Plan { pipes: vec![shape(there), shape(back)], doors: vec![door] };
    (Relay::start(plan).unwrap(), target)
}

/// Both ends of a connection through door 0.
fn connect(relay: &Relay, target: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(relay.address(0)).unwrap();
    let (server, _) = target.accept().unwrap();
    for end in [&client, &server] {
        end.set_read_timeout(Some(LONG)).unwrap();
        end.set_write_timeout(Some(LONG)).unwrap();
    }
    (client, server)
}

fn bytes(n: usize, salt: u32) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 24) as u8).collect()
}

/// So much passed, and no more: bytes are counted a moment after they were written.
fn assert_counts(relay: &Relay, pipe: usize, all: u64) {
    let begin = Instant::now();
    while relay.counts(pipe).delivered < all && begin.elapsed() < LONG {
        std::thread::sleep(ms(1));
    }
    assert_eq!(relay.counts(pipe), Counts { taken: all, delivered: all });
}

/// Nothing comes for a while, and that is no error.
fn assert_silent(end: &mut TcpStream) {
    end.set_read_timeout(Some(SHORT)).unwrap();
    let e = end.read(&mut [0; 16]).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{e}");
    end.set_read_timeout(Some(LONG)).unwrap();
}

fn assert_reset(end: &mut TcpStream) {
    let mut buffer = [0; 4096];
    let e = loop {
        match end.read(&mut buffer) {
            Ok(0) => panic!("the stream ended in order"),
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}");
}

#[test]
fn bytes_pass_unchanged_and_in_order_both_ways_and_are_counted() {
    let (relay, target) = one_door("400", "100~0.5/0.01#1", ms(3));
    let (client, server) = connect(&relay, &target);
    let (up, down) = (bytes(3_000_000, 1), bytes(1_000_000, 2));
    std::thread::scope(|scope| {
        for (from, sent) in [(&client, &up), (&server, &down)] {
            scope.spawn(move || {
                let mut from = from;
                from.write_all(sent).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
        }
        for (to, sent) in [(&server, &up), (&client, &down)] {
            scope.spawn(move || {
                let (mut to, mut got) = (to, Vec::new());
                to.read_to_end(&mut got).unwrap();
                assert!(got == *sent, "{} bytes came, {} were sent", got.len(), sent.len());
            });
        }
    });
    assert_counts(&relay, 0, 3_000_000);
    assert_counts(&relay, 1, 1_000_000);
}

#[test]
fn every_byte_takes_the_delay_at_least() {
    let (relay, target) = one_door("100", "100", ms(40));
    let (mut client, mut server) = connect(&relay, &target);
    for _ in 0..3 {
        let begin = Instant::now();
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        assert!(begin.elapsed() >= ms(40), "{:?}", begin.elapsed());
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        assert!(begin.elapsed() >= ms(80), "{:?}", begin.elapsed());
    }
}

#[test]
fn no_more_passes_than_the_bucket_holds_however_many_connections_there_are() {
    // 2 MB/s.
    let (relay, target) = one_door("16", "16", Duration::ZERO);
    let pairs: Vec<_> = (0..3).map(|_| connect(&relay, &target)).collect();
    let relay = &relay;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for (client, server) in &pairs {
            scope.spawn(move || {
                let mut client = client;
                client.write_all(&bytes(250_000, 3)).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut server = server;
                let (mut buffer, mut got) = ([0; 8192], 0);
                loop {
                    let n = server.read(&mut buffer).unwrap();
                    let passed = relay.counts(0).delivered as f64;
                    // What the trace carries in this time and 50 ms, and a grain of 2000 bytes.
                    let most = 2e6 * (begin.elapsed() + ms(50)).as_secs_f64() + 2000.0;
                    assert!(passed <= most, "{passed} bytes, {most} allowed");
                    got += n;
                    if n == 0 {
                        break;
                    }
                }
                assert_eq!(got, 250_000);
            });
        }
    });
    assert!(begin.elapsed() >= ms(320), "750 kB at 2 MB/s took {:?}", begin.elapsed());
}

#[test]
fn a_slow_link_stops_its_sender() {
    let (relay, target) = one_door("1", "1", ms(10));
    let (mut client, _server) = connect(&relay, &target);
    socket2::SockRef::from(&client).set_send_buffer_size(16 << 10).unwrap();
    client.set_nonblocking(true).unwrap();
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < ms(300) {
        match client.write(&[7; 4096]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(ms(1)),
            Err(e) => panic!("{e}"),
        }
    }
    // 125 kB/s: the buffers of both sockets, twice what was asked for, and what has passed.
    let most =
        2 * (16 << 10) + 2 * 65_536 + 65_536 + (125e3 * begin.elapsed().as_secs_f64()) as usize + 10_000;
    assert!(sent <= most, "{sent} bytes were taken from the sender, {most} expected at most");
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender() {
    let (relay, target) = one_door("800", "800", ms(1));
    let (client, server) = connect(&relay, &target);
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut blocked = Instant::now();
    // Until it has been blocked for a while.
    while blocked.elapsed() < SHORT {
        match (&client).write(&[7; 65_536]) {
            Ok(n) => (sent, blocked) = (sent + n, Instant::now()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(ms(1)),
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 256 << 20, "the sender is never stopped");
    }
    let counts = relay.counts(0);
    assert!(
        counts.taken - counts.delivered <= 450_000,
        "{counts:?}: more is under way than there is room for"
    );
    let (mut server, mut left, mut buffer) = (&server, sent, vec![0; 65_536]);
    while left > 0 {
        left -= server.read(&mut buffer).unwrap();
    }
    assert_counts(&relay, 0, sent as u64);
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    let (relay, target) = one_door("100", "100", ms(2));
    let (mut client, mut server) = connect(&relay, &target);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    server.read_to_string(&mut got).unwrap();
    assert_eq!(got, "question");
    std::thread::sleep(ms(20));
    server.write_all(b"answer").unwrap();
    drop(server);
    got.clear();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
}

#[test]
fn a_reset_passes_through_in_both_directions() {
    let (relay, target) = one_door("100", "100", ms(2));
    for of_client in [true, false] {
        let (client, server) = connect(&relay, &target);
        let (gone, mut other) = if of_client { (client, server) } else { (server, client) };
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone);
        assert_reset(&mut other);
    }
}

#[test]
fn whom_nobody_listens_for_is_reset() {
    let (relay, target) = one_door("100", "100", ms(2));
    drop(target);
    let mut client = TcpStream::connect(relay.address(0)).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_reset(&mut client);
}

#[test]
fn a_stall_is_silent_and_what_waited_passes_after_it() {
    let (relay, target) = one_door("100", "100", ms(1));
    let (mut client, mut server) = connect(&relay, &target);
    relay.set_trace(0, "100@0..1000=stall".parse().unwrap());
    std::thread::sleep(ms(20));
    client.write_all(b"late").unwrap();
    assert_silent(&mut server);
    // The other direction does not stall.
    server.write_all(b"early").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    relay.set_trace(0, Trace::constant(100.0));
    let mut got = [0; 4];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"late");
}

#[test]
fn death_resets_connections_and_lets_nobody_in() {
    let (relay, target) = one_door("100@0.3=dead", "100", ms(1));
    let (mut client, mut server) = connect(&relay, &target);
    assert_reset(&mut server);
    assert_reset(&mut client);
    let mut late = TcpStream::connect(relay.address(0)).unwrap();
    late.set_read_timeout(Some(LONG)).unwrap();
    assert_reset(&mut late);
}

#[test]
fn a_trace_changes_while_bytes_pass() {
    let (relay, target) = one_door("0.1", "100", ms(1));
    let (client, server) = connect(&relay, &target);
    let sent = bytes(2_000_000, 5);
    std::thread::scope(|scope| {
        scope.spawn(|| (&client).write_all(&sent).unwrap());
        std::thread::sleep(ms(100));
        // At this rate all of it would take minutes.
        assert!(relay.counts(0).taken < 10_000, "{:?}", relay.counts(0));
        relay.set_trace(0, Trace::constant(800.0));
        let mut got = vec![0; sent.len()];
        (&server).read_exact(&mut got).unwrap();
        assert!(got == sent);
    });
}

#[test]
fn a_stopped_relay_resets_its_connections_and_gives_up_its_ports() {
    let (relay, target) = one_door("100", "100", ms(1));
    let (mut client, mut server) = connect(&relay, &target);
    let address = relay.address(0);
    relay.stop();
    assert_reset(&mut client);
    assert_reset(&mut server);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_mesh_has_a_door_for_each_ordered_pair_and_each_direction_one_pipe() {
    let targets: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind(local()).unwrap()).collect();
    let addresses = std::array::from_fn(|i| targets[i].local_addr().unwrap());
    let relay = Relay::start(Plan::mesh(&GROUP_B, addresses, Some(1))).unwrap();
    for (i, (from, to)) in Plan::pairs().enumerate() {
        assert_eq!(i, Plan::pair(from, to));
        let mut client = TcpStream::connect(relay.address(i)).unwrap();
        let (mut server, _) = targets[to].accept().unwrap();
        client.write_all(b"there").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        server.write_all(b"back").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    }
    // Five bytes from the pair's own door, four from the door of the other direction.
    for i in 0..12 {
        assert_counts(&relay, i, 9);
    }
}
