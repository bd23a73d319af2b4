//! The relay's thread: readiness → bytes taken in as pipes allow → bytes delivered as they are due. [thread]

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::lane::{End, Lane};
use super::pipe::Pipe;
use super::relay::{Counters, Door, Plan};
use super::trace::{State, Trace};

pub(super) const WAKER: Token = Token(usize::MAX);
/// After the system refused to accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection takes at most so much before the others on its pipe have their turn.
const TURN_BYTES: usize = 256 << 10;

pub(super) enum Command {
    Trace(usize, Trace),
    Stop,
}

pub(super) struct EventLoop {
    poll: Poll,
    inbox: Receiver<Command>,
    pipes: Vec<Pipe>,
    counters: Arc<[Counters]>,
    doors: Vec<(TcpListener, Door, bool)>,
    /// By slot; a slot is used again.
    connections: Vec<Option<Connection>>,
    /// Whose turn is first.
    first: usize,
}

/// A client, side 0, and the target, side 1. Lane i carries what side i sends.
struct Connection {
    sides: [Side; 2],
    lanes: [Lane; 2],
    pipes: [usize; 2],
}

struct Side {
    socket: TcpStream,
    connected: bool,
    /// Set by poll, cleared when the socket would block.
    readable: bool,
    writable: bool,
    /// Its end told poll of an error.
    failed: bool,
    /// It was told that the other sends no more.
    shut: bool,
}

impl EventLoop {
    pub fn new(
        poll: Poll,
        plan: Plan,
        counters: Arc<[Counters]>,
        inbox: Receiver<Command>,
    ) -> io::Result<EventLoop> {
        let since = Instant::now();
        let pipes: Vec<Pipe> = plan.pipes.into_iter().map(|shape| Pipe::new(shape, since)).collect();
        let mut doors = Vec::new();
        for (i, door) in plan.doors.into_iter().enumerate() {
            let mut listener = TcpListener::bind(door.listen)?;
            // Before anybody connects: a window that was granted is not taken back.
            let _ = SockRef::from(&listener).set_recv_buffer_size(pipes[door.there].socket_bytes());
            poll.registry().register(&mut listener, Token(i), Interest::READABLE)?;
            doors.push((listener, door, false));
        }
        Ok(EventLoop { poll, inbox, pipes, counters, doors, connections: Vec::new(), first: 0 })
    }

    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().map(|(listener, ..)| listener.local_addr()).collect()
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut wake = None;
        loop {
            let timeout = wake.map(|at: Instant| at.saturating_duration_since(Instant::now()));
            if let Err(e) = self.poll.poll(&mut events, timeout)
                && e.kind() != ErrorKind::Interrupted
            {
                ::log::error!("the relay ends: poll: {e}");
                return;
            }
            for command in self.inbox.try_iter() {
                match command {
                    // Connections are reset, as by a machine that is switched off.
                    Command::Stop => {
                        return self.connections.into_iter().flatten().for_each(Connection::reset);
                    }
                    Command::Trace(pipe, trace) => {
                        let shape = super::relay::Shape { trace, ..self.pipes[pipe].shape.clone() };
                        self.pipes[pipe] = Pipe::new(shape, Instant::now());
                        let of_pipe = |c: &&Connection| c.pipes.contains(&pipe);
                        self.connections
                            .iter()
                            .flatten()
                            .filter(of_pipe)
                            .for_each(|c| c.size_buffers(&self.pipes));
                    }
                }
            }
            for event in &events {
                self.ready(event);
            }
            wake = self.round();
        }
    }

    fn ready(&mut self, event: &Event) {
        let Token(token) = event.token();
        if let Some((.., ready)) = self.doors.get_mut(token) {
            *ready = true;
        } else if event.token() != WAKER {
            let at = token - self.doors.len();
            // A slot's former connection may have left an event: then nothing is found to be ready.
            if let Some(connection) = self.connections.get_mut(at / 2).and_then(Option::as_mut) {
                let side = &mut connection.sides[at % 2];
                side.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                side.writable |= event.is_writable() || event.is_write_closed();
                side.failed |= event.is_error();
            }
        }
    }

    /// Moves all that may move now; says when to look again.
    fn round(&mut self) -> Option<Instant> {
        let mut wake = self.accept();
        loop {
            self.end_those_on_dead_pipes();
            // Twice the same lanes: with no delay, what is taken can go on at once, and what has gone makes room.
            let moved = self.deliver() | self.take();
            if !moved {
                break;
            }
        }
        let now = Instant::now();
        let earlier = |wake: Option<Instant>, at: Option<Instant>| wake.into_iter().chain(at).min();
        let mut waits = vec![false; self.pipes.len()];
        for connection in self.connections.iter().flatten() {
            for i in 0..2 {
                let to = &connection.sides[1 - i];
                let open = to.connected && to.writable && !to.failed && !to.shut;
                wake = earlier(wake, connection.lanes[i].next_due(open));
                waits[connection.pipes[i]] |= connection.waits(i, &self.pipes, now);
            }
        }
        for (pipe, waits) in self.pipes.iter_mut().zip(waits) {
            pipe.set_waiting(waits);
            wake = earlier(wake, pipe.next_change(now));
            if waits {
                wake = earlier(wake, pipe.next(now));
            }
        }
        wake
    }

    fn accept(&mut self) -> Option<Instant> {
        let mut pause = None;
        for i in 0..self.doors.len() {
            while self.doors[i].2 {
                match self.doors[i].0.accept() {
                    Ok((client, _)) => self.connect(i, client),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => self.doors[i].2 = false,
                    Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                    Err(_) => {
                        pause = Some(Instant::now() + ACCEPT_PAUSE);
                        break;
                    }
                }
            }
        }
        pause
    }

    /// A client has come; one that cannot be taken further is reset.
    fn connect(&mut self, door: usize, client: TcpStream) {
        let Door { target, there, back, .. } = self.doors[door].1;
        let now = Instant::now();
        let dead = [there, back].iter().any(|pipe| self.pipes[*pipe].state(now) == State::Dead);
        let socket = if dead { Err(ErrorKind::ConnectionRefused.into()) } else { TcpStream::connect(target) };
        let Ok(socket) = socket else { return reset(client) };
        let slot = self.connections.iter().position(Option::is_none).unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let mut connection = Connection {
            sides: [Side::new(client, true), Side::new(socket, false)],
            lanes: Default::default(),
            pipes: [there, back],
        };
        connection.size_buffers(&self.pipes);
        for (i, side) in connection.sides.iter_mut().enumerate() {
            let _ = side.socket.set_nodelay(true);
            let token = Token(self.doors.len() + 2 * slot + i);
            let both = Interest::READABLE | Interest::WRITABLE;
            if self.poll.registry().register(&mut side.socket, token, both).is_err() {
                return connection.reset();
            }
        }
        self.connections[slot] = Some(connection);
    }

    fn end_those_on_dead_pipes(&mut self) {
        let now = Instant::now();
        let dead: Vec<bool> = self.pipes.iter().map(|pipe| pipe.state(now) == State::Dead).collect();
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|connection| connection.pipes.iter().any(|pipe| dead[*pipe])) {
                slot.take().into_iter().for_each(Connection::reset);
            }
        }
    }

    /// Hands over what is due. Whether anything moved.
    fn deliver(&mut self) -> bool {
        let (now, mut moved) = (Instant::now(), false);
        for slot in &mut self.connections {
            let Some(connection) = slot else { continue };
            for i in 0..2 {
                let n = connection.deliver(i, now, &self.pipes);
                self.counters[connection.pipes[i]].delivered.fetch_add(n as u64, Relaxed);
                moved |= n > 0;
            }
            if connection.lanes.iter().any(|lane| lane.arrived_end(now) == Some(End::Reset)) {
                slot.take().into_iter().for_each(Connection::reset);
            } else if connection.sides.iter().all(|side| side.shut) {
                *slot = None;
            }
        }
        moved
    }

    /// Takes in what pipes allow, a turn for each connection. Whether anything moved.
    fn take(&mut self) -> bool {
        let (now, mut moved) = (Instant::now(), false);
        let count = self.connections.len();
        self.first = (self.first + 1) % count.max(1);
        let mut allowed: Vec<Option<usize>> = vec![None; self.pipes.len()];
        let mut sharing = vec![0; self.pipes.len()];
        for connection in self.connections.iter().flatten() {
            for i in 0..2 {
                sharing[connection.pipes[i]] += usize::from(connection.waits(i, &self.pipes, now));
            }
        }
        for at in (self.first..count).chain(0..self.first) {
            let Some(connection) = &mut self.connections[at] else { continue };
            for i in 0..2 {
                if !connection.waits(i, &self.pipes, now) {
                    continue;
                }
                let pipe = &mut self.pipes[connection.pipes[i]];
                let left = allowed[connection.pipes[i]].get_or_insert_with(|| pipe.allowed(now));
                let share = left.div_ceil(sharing[connection.pipes[i]]).min(TURN_BYTES);
                sharing[connection.pipes[i]] -= 1;
                if share > 0 {
                    let n = connection.take(i, share, pipe, now);
                    *left -= n;
                    self.counters[connection.pipes[i]].taken.fetch_add(n as u64, Relaxed);
                    moved |= n > 0;
                }
            }
        }
        moved
    }
}

impl Side {
    fn new(socket: TcpStream, connected: bool) -> Side {
        Side { socket, connected, readable: false, writable: false, failed: false, shut: false }
    }
}

impl Connection {
    fn size_buffers(&self, pipes: &[Pipe]) {
        for i in 0..2 {
            let bytes = pipes[self.pipes[i]].socket_bytes();
            // Where the system grants less, a link that is faster than it allows for is not filled, and `--check` shows it.
            let _ = SockRef::from(&self.sides[i].socket).set_recv_buffer_size(bytes);
            let _ = SockRef::from(&self.sides[1 - i].socket).set_send_buffer_size(bytes);
        }
    }

    /// Whether side i may have something that its lane has room for.
    fn waits(&self, i: usize, pipes: &[Pipe], now: Instant) -> bool {
        let (side, lane) = (&self.sides[i], &self.lanes[i]);
        side.connected
            && side.readable
            && !lane.ended()
            && lane.len() < pipes[self.pipes[i]].buffer_bytes(now)
    }

    /// Reads once from side i.
    fn take(&mut self, i: usize, limit: usize, pipe: &mut Pipe, now: Instant) -> usize {
        let (side, lane) = (&mut self.sides[i], &mut self.lanes[i]);
        let limit = limit.min(pipe.buffer_bytes(now).saturating_sub(lane.len()));
        let taken = lane.take(&side.socket, limit);
        // Not before it was read, so that nothing arrives too early.
        let due = Instant::now() + pipe.shape.delay;
        match taken {
            Ok(0) => lane.end(due, End::Shut),
            Ok(n) => {
                lane.stamp(due);
                pipe.passed(n);
                return n;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => side.readable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => lane.end(due, End::Reset),
        }
        0
    }

    /// Writes once to the side that lane i leads to.
    fn deliver(&mut self, i: usize, now: Instant, pipes: &[Pipe]) -> usize {
        let to = &mut self.sides[1 - i];
        if to.writable && !to.connected {
            to.connected = to.socket.peer_addr().is_ok();
            to.failed |= !to.connected && !matches!(to.socket.take_error(), Ok(None));
        }
        let back = &pipes[self.pipes[1 - i]];
        // The news of its end comes over its pipe, unless that stalls.
        if to.failed && matches!(back.state(now), State::Flows(_)) && !self.lanes[1 - i].is_reset() {
            self.lanes[1 - i].end(now + back.shape.delay, End::Reset);
        }
        if !to.connected || !to.writable || to.failed {
            return 0;
        }
        match self.lanes[i].deliver(&to.socket, now) {
            Ok(n) => {
                if !to.shut && self.lanes[i].arrived_end(now) == Some(End::Shut) {
                    to.shut = true;
                    let _ = to.socket.shutdown(Shutdown::Write);
                }
                return n;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => to.writable = false,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => to.failed = true,
        }
        0
    }

    fn reset(self) {
        self.sides.into_iter().for_each(|side| reset(side.socket));
    }
}

/// Closes with a reset instead of a farewell.
fn reset(socket: TcpStream) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}
