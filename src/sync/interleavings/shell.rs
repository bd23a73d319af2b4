//! The graph of `replica/stages.rs`: all its threads, with the real channels, credits, locks and gates between them, a few bytes wide
//! each, and cores that only number what comes.

use crate::appends::Appends;
use crate::back_pressure::BackPressure;
use crate::credit::Credit;
use crate::disk::{Disk, Log, Waker, record};
use crate::doorbell::Doorbell;
use crate::fair_queue::FairQueue;
use crate::gate::{DurableGate, Persisted};
use crate::links::Links;
use crate::play::{ENDLESS, STUCK, fails, holds};
use crate::rounds::Rounds;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::channel::{Receiver, RecvTimeoutError, Sender, Working, unbounded, waiting, work};
use crate::sync::thread::{JoinHandle, spawn};
use crate::types::Lsn;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: u32 = 2;
/// Of each client.
const GROUPS: u32 = 3;
/// Of a peer: each asks for a batch.
const QUESTIONS: u32 = 3;
/// Room for one group, and not for two.
const CLIENT_BYTES_MAX: usize = 700;
const PEER_BYTES_MAX: usize = 700;
const LOG_RECORDS_MAX: usize = 2;
const SERVES_MAX: usize = 1;
const ROOTS_MAX: usize = 1;
/// Places from one checkpoint to the next.
const PERIOD: u64 = 2;

/// What is wrong with a shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    /// The log's reports wait for room at `order`, which waits for room in the log.
    LogWaitsForOrder,
    /// Decided batches and what was executed wait for room at each other.
    ExecuteWaitsForOrder,
    /// Execution waits for a checkpoint until a mark covers it, which takes execution.
    CheckpointHoldsExecution,
    /// `order` waits for room in `net`'s queue, and `net` for room in `order`'s.
    NetWaitsForOrder,
    /// `order` forgets to say that clients may be read again.
    NobodyResumes,
}

enum ToOrder {
    Group(u32, u32, Credit),
    Question(u64, Credit),
    Persisted(Persisted),
    Executed(u64),
    Taken(u64),
    Stored,
    Own(u64),
    Rooted,
    Stop,
}

enum ToExecute {
    Batch(u64, u32, u32),
    Stop,
}

enum ToCheckpoint {
    Taken(u64, Option<Working>),
    Covered(u64),
    Stop,
}

enum ToTransfer {
    Image,
    Stop,
}

enum Command {
    Reply(u32, u32),
    Pause(bool),
    Served(u64),
}

/// Sends to the net thread, as its handle does.
#[derive(Clone)]
struct Net {
    commands: Sender<Command>,
    bell: Arc<Doorbell>,
    waker: Arc<Waker>,
}

impl Net {
    fn send(&self, command: Command) {
        let _ = self.commands.send(command);
        if self.bell.ring() {
            self.waker.wake();
        }
    }
}

type Work = (u32, u32, Credit);

/// The pool: checks groups, on a thread for as long as there are any.
struct Verify {
    rounds: Rounds<FairQueue<u32, Work>>,
    to_order: Sender<ToOrder>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Verify {
    fn add(this: &Arc<Self>, work: Vec<Work>) {
        let put = |queue: &mut FairQueue<u32, Work>| {
            work.into_iter().for_each(|item| queue.push(item.0, 1, item));
        };
        if this.rounds.add(put) {
            let verify = this.clone();
            let task = spawn(move || {
                let round = |queue: &mut FairQueue<u32, Work>| {
                    let mut out = Vec::new();
                    queue.take(1, 2, &mut out);
                    (!out.is_empty()).then_some(out)
                };
                while let Some(work) = verify.rounds.next(round) {
                    for (client, number, credit) in work {
                        let _ = verify.to_order.send(ToOrder::Group(client, number, credit));
                    }
                }
            });
            this.tasks.lock().push(task);
        }
    }
}

/// Reads what clients and a peer send, and counts what they get, until clients have all their replies.
struct NetThread {
    net: Net,
    commands: Receiver<Command>,
    verify: Arc<Verify>,
    clients: Arc<BackPressure>,
    to_order: Sender<ToOrder>,
}

impl NetThread {
    fn run(self) {
        let (mut replies, mut paused) = (Vec::new(), false);
        let mut groups: VecDeque<_> = (0..GROUPS).flat_map(|n| (0..CLIENTS).map(move |c| (c, n))).collect();
        let (mut questions, mut served, mut dropped) = (0, 0, 0);
        let peer_bytes = Arc::new(AtomicUsize::new(0));
        while replies.len() < (CLIENTS * GROUPS) as usize {
            while let Some(command) = self.commands.try_recv() {
                match command {
                    Command::Reply(client, number) => replies.push((client, number)),
                    Command::Pause(now) => paused = now,
                    Command::Served(_) => served += 1,
                }
            }
            let mut read = false;
            if questions < QUESTIONS {
                questions += 1;
                read = true;
                match Credit::take(&peer_bytes, 100, PEER_BYTES_MAX) {
                    Some(credit) => {
                        let _ = self.to_order.send(ToOrder::Question(questions.into(), credit));
                    }
                    None => dropped += 1,
                }
            }
            if !paused && let Some((client, number)) = groups.pop_front() {
                read = true;
                assert!(self.clients.used() <= CLIENT_BYTES_MAX, "clients are read above the bound");
                let credit = self.clients.arrived(200, |pause| self.net.send(Command::Pause(pause)));
                Verify::add(&self.verify, vec![(client, number, credit)]);
            }
            let done = replies.len() == (CLIENTS * GROUPS) as usize;
            if !read && !done && self.net.bell.lie_down(|| self.commands.is_empty()) {
                self.net.waker.sleep();
            }
            self.net.bell.get_up();
        }
        replies.sort_unstable();
        let all: Vec<_> = (0..CLIENTS).flat_map(|c| (0..GROUPS).map(move |n| (c, n))).collect();
        assert_eq!(replies, all, "each group is answered once");
        assert!(served + dropped <= QUESTIONS);
    }
}

struct Order {
    inbox: Receiver<ToOrder>,
    log: Log,
    appends: Appends,
    gate: DurableGate<(u64, u32, u32)>,
    net: Net,
    clients: Arc<BackPressure>,
    to_execute: Sender<ToExecute>,
    to_checkpoint: Sender<ToCheckpoint>,
    to_fetch: crate::sync::channel::Offers<u64>,
    stopping: Arc<AtomicBool>,
    seq: u64,
    executed: u64,
    taken: Option<u64>,
    stored: u64,
    wrong: Wrong,
}

impl Order {
    fn run(mut self) {
        loop {
            // A heartbeat comes, whatever else does.
            match self.inbox.recv_timeout(Duration::ZERO) {
                Ok(ToOrder::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.step(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.wrong != Wrong::NobodyResumes {
                self.clients.relieve(|pause| self.net.send(Command::Pause(pause)));
            }
        }
        self.log.disk.stop();
        assert_eq!(self.seq, (CLIENTS * GROUPS).into(), "groups are lost");
    }

    fn step(&mut self, message: ToOrder) {
        match message {
            ToOrder::Group(client, number, credit) => {
                self.seq += 1;
                let lsn = Lsn(self.seq);
                let appended =
                    self.appends.append(&mut self.log, &self.stopping, lsn, record(self.seq), false);
                appended.expect("the log takes all there is");
                if let Some(decided) = self.gate.hold(lsn, (self.seq, client, number)) {
                    self.execute(decided.into_inner());
                }
                drop(credit);
            }
            ToOrder::Question(seq, credit) => {
                let _ = self.to_fetch.offer(seq);
                drop(credit);
            }
            ToOrder::Persisted(persisted) => {
                let decided: Vec<_> = self.gate.release(&persisted).map(|d| d.into_inner()).collect();
                decided.into_iter().for_each(|decided| self.execute(decided));
            }
            ToOrder::Executed(seq) => {
                assert_eq!(seq, self.executed + 1, "executed out of sequence");
                self.executed = seq;
                self.cover();
            }
            ToOrder::Taken(seq) => {
                self.taken = Some(seq);
                self.cover();
            }
            ToOrder::Stored => self.stored += 1,
            ToOrder::Own(_) | ToOrder::Rooted => {}
            ToOrder::Stop => unreachable!("matched by the caller"),
        }
    }

    fn execute(&self, (seq, client, number): (u64, u32, u32)) {
        let durable = self.log.disk.durable.load(Ordering::Acquire) as u64;
        assert!(seq <= durable, "place {seq} leaves before it is durable");
        let _ = self.to_execute.send(ToExecute::Batch(seq, client, number));
    }

    /// The mark is at what was executed.
    fn cover(&mut self) {
        if let Some(seq) = self.taken.filter(|seq| *seq <= self.executed) {
            self.taken = None;
            let _ = self.to_checkpoint.send(ToCheckpoint::Covered(seq));
        }
    }
}

struct Execute {
    inbox: Receiver<ToExecute>,
    to_order: Sender<ToOrder>,
    to_checkpoint: Sender<ToCheckpoint>,
    to_roots: crate::sync::channel::Offers<u64>,
    net: Net,
    checkpointing: Arc<AtomicBool>,
    stop_the_world: bool,
}

impl Execute {
    fn run(self) {
        let mut executed = 0;
        while let Ok(ToExecute::Batch(seq, client, number)) = self.inbox.recv() {
            assert_eq!(seq, executed + 1, "handed out out of sequence");
            executed = seq;
            if seq.is_multiple_of(PERIOD) {
                self.checkpoint(seq);
                let _ = self.to_roots.offer(seq);
            }
            self.net.send(Command::Reply(client, number));
            let _ = self.to_order.send(ToOrder::Executed(seq));
        }
    }

    fn checkpoint(&self, seq: u64) {
        if self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (written, ended) = self.stop_the_world.then(work).unzip();
        let _ = self.to_checkpoint.send(ToCheckpoint::Taken(seq, written));
        let _ = self.to_order.send(ToOrder::Taken(seq));
        if let Some(ended) = ended {
            ended.wait();
        }
    }
}

fn checkpoint(
    inbox: Receiver<ToCheckpoint>,
    to_order: Sender<ToOrder>,
    checkpointing: Arc<AtomicBool>,
    wrong: Wrong,
) {
    while let Ok(message) = inbox.recv() {
        let (seq, written) = match message {
            ToCheckpoint::Taken(seq, written) => (seq, written),
            ToCheckpoint::Covered(_) => continue,
            ToCheckpoint::Stop => return,
        };
        let held = written.filter(|_| wrong == Wrong::CheckpointHoldsExecution);
        loop {
            match inbox.recv() {
                Ok(ToCheckpoint::Covered(covered)) if covered == seq => break,
                Ok(ToCheckpoint::Stop) | Err(_) => return,
                Ok(_) => {}
            }
        }
        drop(held);
        let _ = to_order.send(ToOrder::Stored);
        checkpointing.store(false, Ordering::Release);
    }
}

/// From the first group to the last thread's end.
fn shell(wrong: Wrong, stop_the_world: bool) {
    let mut links: Links<ToOrder, ToExecute, ToCheckpoint, ToTransfer, u64, u64> =
        Links::new(SERVES_MAX, ROOTS_MAX);
    let mut commands = unbounded();
    match wrong {
        Wrong::LogWaitsForOrder => links.order = waiting(1),
        Wrong::ExecuteWaitsForOrder => (links.order, links.execute) = (waiting(1), waiting(1)),
        Wrong::NetWaitsForOrder => (links.order, commands) = (waiting(1), waiting(1)),
        _ => {}
    }
    let (to_order, order_inbox) = links.order;
    let (to_execute, execute_inbox) = links.execute;
    let (to_checkpoint, checkpoint_inbox) = links.checkpoint;
    let (to_transfer, transfer_inbox) = links.transfer;
    let (to_fetch, fetch_inbox) = links.fetch;
    let (to_roots, roots_inbox) = links.roots;
    let (command, commands) = commands;
    let net = Net { commands: command, bell: Arc::default(), waker: Arc::default() };
    let clients = Arc::new(BackPressure::new(CLIENT_BYTES_MAX));
    let (stopping, checkpointing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let disk = Arc::new(Disk::default());
    let verify =
        Arc::new(Verify { rounds: Rounds::default(), to_order: to_order.clone(), tasks: Mutex::default() });

    let log_thread = {
        let (disk, to_order) = (disk.clone(), to_order.clone());
        spawn(move || {
            disk.run(false, |persisted| {
                let _ = to_order.send(ToOrder::Persisted(persisted));
            });
        })
    };
    let order = Order {
        inbox: order_inbox,
        log: Log::new(disk, LOG_RECORDS_MAX),
        appends: Appends::default(),
        gate: DurableGate::new(Lsn(0)),
        net: net.clone(),
        clients: clients.clone(),
        to_execute: to_execute.clone(),
        to_checkpoint: to_checkpoint.clone(),
        to_fetch,
        stopping: stopping.clone(),
        seq: 0,
        executed: 0,
        taken: None,
        stored: 0,
        wrong,
    };
    let execute = Execute {
        inbox: execute_inbox,
        to_order: to_order.clone(),
        to_checkpoint: to_checkpoint.clone(),
        to_roots,
        net: net.clone(),
        checkpointing: checkpointing.clone(),
        stop_the_world,
    };
    let (fetch_net, fetch_order) = (net.clone(), to_order.clone());
    let (roots_order, roots_transfer) = (to_order.clone(), to_transfer.clone());
    let checkpoint_order = to_order.clone();
    let threads = vec![
        spawn(move || order.run()),
        spawn(move || execute.run()),
        spawn(move || {
            while let Ok(seq) = fetch_inbox.recv() {
                fetch_net.send(Command::Served(seq));
                let _ = fetch_order.send(ToOrder::Own(seq));
            }
        }),
        spawn(move || {
            while roots_inbox.recv().is_ok() {
                let _ = roots_transfer.send(ToTransfer::Image);
                let _ = roots_order.send(ToOrder::Rooted);
            }
        }),
        spawn(move || while let Ok(ToTransfer::Image) = transfer_inbox.recv() {}),
        spawn(move || checkpoint(checkpoint_inbox, checkpoint_order, checkpointing, wrong)),
    ];
    let (verify_end, clients_end) = (verify.clone(), clients.clone());
    let net_thread = NetThread { net, commands, verify, clients, to_order: to_order.clone() };
    spawn(move || net_thread.run()).join().unwrap();

    // As `Replica::end` goes about it.
    stopping.store(true, Ordering::SeqCst);
    let _ = to_order.send(ToOrder::Stop);
    let _ = to_execute.send(ToExecute::Stop);
    let _ = to_checkpoint.send(ToCheckpoint::Stop);
    let _ = to_transfer.send(ToTransfer::Stop);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    log_thread.join().unwrap();
    let tasks = std::mem::take(&mut *verify_end.tasks.lock());
    tasks.into_iter().for_each(|task| task.join().unwrap());
    drop(verify_end);
    assert_eq!(clients_end.used(), 0, "all bytes were given back");
}

#[test]
fn no_order_of_events_stops_the_stages_or_loses_a_group() {
    holds(|| shell(Wrong::Nothing, false));
}

#[test]
fn nor_while_execution_waits_for_checkpoints() {
    holds(|| shell(Wrong::Nothing, true));
}

#[test]
fn each_cycle_that_is_closed_on_purpose_is_found() {
    fails(&[STUCK, ENDLESS], || shell(Wrong::LogWaitsForOrder, false));
    fails(&[STUCK, ENDLESS], || shell(Wrong::ExecuteWaitsForOrder, false));
    fails(&[STUCK, ENDLESS], || shell(Wrong::CheckpointHoldsExecution, true));
    fails(&[STUCK, ENDLESS], || shell(Wrong::NetWaitsForOrder, false));
    fails(&[STUCK, ENDLESS], || shell(Wrong::NobodyResumes, false));
}
