//! TCP connections over shaped links, in user space.
//!
//! A [`Pipe`](Shape) is one direction of a link; all connections that use it share its bandwidth. A [`Door`] is a port of the loopback
//! interface: who connects to it reaches the door's target, over one pipe there and another back.
//!
//! A byte waits for its turn at the pipe, then for the delay, then for its receiver. At most twice the pipe's bandwidth × delay is under
//! way per connection (64 KiB at least), so a slow link or receiver stops the sender as on a wire. The end of a stream and a reset travel
//! behind the bytes before them. A pipe that stalls passes nothing, and nobody is told; one that dies resets its connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Sender, unbounded};
use mio::{Poll, Waker};

use super::event_loop::{Command, EventLoop, WAKER};
use super::table1::Group;
use super::trace::Trace;

/// One direction of a link.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Its bandwidth, from the relay's start on.
    pub trace: Trace,
    /// What every byte takes, besides its turn: half the round-trip time.
    pub delay: Duration,
}

/// A port that leads over two pipes to a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Door {
    /// Where to listen; port 0 for one of the system's choice.
    pub listen: SocketAddr,
    /// Whom to connect to.
    pub target: SocketAddr,
    /// Index of the pipe towards the target.
    pub there: usize,
    /// Index of the pipe from the target.
    pub back: usize,
}

/// Pipes and the doors to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All pipes.
    pub pipes: Vec<Shape>,
    /// All doors.
    pub doors: Vec<Door>,
}

/// What passed a pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes taken from senders.
    pub taken: u64,
    /// Bytes handed to receivers.
    pub delivered: u64,
}

/// A running relay; dropping it stops it.
pub struct Relay {
    addresses: Vec<SocketAddr>,
    counters: Arc<[Counters]>,
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub taken: AtomicU64,
    pub delivered: AtomicU64,
}

/// Name of the relay's thread.
pub const THREAD: &str = "wan-relay";

impl Plan {
    /// Each site of a group reaches each other one over its link of Table 1: `targets[i]` is where site i listens.
    /// With a seed the links vary. Pipe and door of an ordered pair are at [`Plan::pair`].
    pub fn mesh(group: &Group, targets: [SocketAddr; 4], seed: Option<u64>) -> Plan {
        let mut plan = Plan::default();
        for (from, to) in Self::pairs() {
            plan.pipes.push(Shape { trace: group.trace(from, to, seed), delay: group.rtt / 2 });
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let (there, back) = (Self::pair(from, to), Self::pair(to, from));
            plan.doors.push(Door { listen, target: targets[to], there, back });
        }
        plan
    }

    /// The ordered pairs of four sites.
    pub fn pairs() -> impl Iterator<Item = (usize, usize)> {
        (0..4).flat_map(|from| (0..4).filter(move |to| *to != from).map(move |to| (from, to)))
    }

    /// Where a pair stands among [`Plan::pairs`].
    pub fn pair(from: usize, to: usize) -> usize {
        assert!(from != to && from < 4 && to < 4, "a link joins two of four sites");
        3 * from + if to > from { to - 1 } else { to }
    }
}

impl Relay {
    /// Listens at every door. Errors: a port that cannot be had.
    ///
    /// Panics when a door names a pipe that is not there.
    pub fn start(plan: Plan) -> io::Result<Relay> {
        let pipes = plan.pipes.len();
        assert!(
            plan.doors.iter().all(|door| door.there < pipes && door.back < pipes),
            "a door has two pipes"
        );
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let counters: Arc<[Counters]> = (0..pipes).map(|_| Counters::default()).collect();
        let (commands, inbox) = unbounded();
        let event_loop = EventLoop::new(poll, plan, counters.clone(), inbox)?;
        let addresses = event_loop.addresses()?;
        let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || event_loop.run())?;
        Ok(Relay { addresses, counters, commands, waker, thread: Some(thread) })
    }

    /// Where door `i` listens.
    pub fn address(&self, door: usize) -> SocketAddr {
        self.addresses[door]
    }

    /// What passed pipe `i` so far. Bytes are counted just after they were handed over.
    pub fn counts(&self, pipe: usize) -> Counts {
        let Counters { taken, delivered } = &self.counters[pipe];
        // In this order: nothing is delivered that was not taken.
        let delivered = delivered.load(Relaxed);
        Counts { taken: taken.load(Relaxed), delivered }
    }

    /// From now on pipe `i` follows another trace, from that one's beginning.
    pub fn set_trace(&self, pipe: usize, trace: Trace) {
        assert!(pipe < self.counters.len(), "there is no pipe {pipe}");
        self.tell(Command::Trace(pipe, trace));
    }

    /// Resets all connections and gives up the ports.
    pub fn stop(self) {}

    fn tell(&self, command: Command) {
        // It fails when the thread has gone, and with it all connections.
        let _ = self.commands.send(command);
        let _ = self.waker.wake();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
