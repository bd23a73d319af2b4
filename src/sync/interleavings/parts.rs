//! The parts that two threads share, each for itself.

use crate::appends::Appends;
use crate::back_pressure::BackPressure;
use crate::credit::Credit;
use crate::disk::{Disk, Log, Waker, record};
use crate::doorbell::Doorbell;
use crate::fair_queue::FairQueue;
use crate::gate::DurableGate;
use crate::play::{ENDLESS, STUCK, fails, holds};
use crate::room::Room;
use crate::rounds::Rounds;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::channel::{RecvTimeoutError, unbounded, waiting};
use crate::sync::thread::spawn;
use crate::types::Lsn;
use std::sync::Arc;
use std::time::Duration;

// ---- the pool's queue ------------------------------------------------------------------------------------------------

type Item = (u32, u32);

trait Pool: Default + Send + Sync + 'static {
    fn add(&self, item: Item) -> bool;
    fn next(&self) -> Option<Vec<Item>>;
}

fn round(queue: &mut FairQueue<u32, Item>) -> Option<Vec<Item>> {
    let mut out = Vec::new();
    queue.take(2, 3, &mut out);
    (!out.is_empty()).then_some(out)
}

impl Pool for Rounds<FairQueue<u32, Item>> {
    fn add(&self, item: Item) -> bool {
        Rounds::add(self, |queue| queue.push(item.0, 1, item))
    }

    fn next(&self) -> Option<Vec<Item>> {
        Rounds::next(self, round)
    }
}

/// The queue and who is at it, each for itself.
#[derive(Default)]
struct Apart {
    queue: Mutex<FairQueue<u32, Item>>,
    active: AtomicBool,
}

impl Pool for Apart {
    fn add(&self, item: Item) -> bool {
        self.queue.lock().push(item.0, 1, item);
        !self.active.swap(true, Ordering::SeqCst)
    }

    fn next(&self) -> Option<Vec<Item>> {
        let taken = round(&mut self.queue.lock());
        if taken.is_none() {
            self.active.store(false, Ordering::SeqCst);
        }
        taken
    }
}

/// Three senders leave four items each, and start tasks as they are told.
fn pool<P: Pool>() {
    const ITEMS: u32 = 4;
    let pool = Arc::new(P::default());
    let (done, tasks) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let at_work = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let (pool, done, tasks, at_work) = (pool.clone(), done.clone(), tasks.clone(), at_work.clone());
            spawn(move || {
                for item in 0..ITEMS {
                    if !pool.add((sender, item)) {
                        continue;
                    }
                    let (pool, done, at_work) = (pool.clone(), done.clone(), at_work.clone());
                    tasks.lock().push(spawn(move || {
                        while let Some(work) = pool.next() {
                            assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0, "two tasks at a time");
                            done.lock().extend(work);
                            at_work.fetch_sub(1, Ordering::SeqCst);
                        }
                    }));
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let tasks = std::mem::take(&mut *tasks.lock());
    tasks.into_iter().for_each(|task| task.join().unwrap());
    let done = done.lock();
    assert_eq!(done.len(), 3 * ITEMS as usize, "work is lost");
    for sender in 0..3 {
        assert!(done.iter().filter(|item| item.0 == sender).is_sorted(), "a sender's work is out of order");
    }
}

#[test]
fn work_left_while_a_task_ends_is_done_by_another_and_each_senders_in_order() {
    holds(pool::<Rounds<FairQueue<u32, Item>>>);
    fails(&["work is lost"], pool::<Apart>);
}

// ---- clients are slowed ----------------------------------------------------------------------------------------------

const BYTES_MAX: usize = 1000;

trait Pressure: Send + Sync + 'static {
    fn new() -> Self;
    fn arrived(&self, bytes: usize, pause: impl Fn(bool)) -> Credit;
    fn relieve(&self, pause: impl Fn(bool));
    fn used(&self) -> usize;
}

impl Pressure for BackPressure {
    fn new() -> Self {
        BackPressure::new(BYTES_MAX)
    }

    fn arrived(&self, bytes: usize, pause: impl Fn(bool)) -> Credit {
        BackPressure::arrived(self, bytes, pause)
    }

    fn relieve(&self, pause: impl Fn(bool)) {
        BackPressure::relieve(self, pause);
    }

    fn used(&self) -> usize {
        BackPressure::used(self)
    }
}

/// Says what it changed some time after it did, and looks once more only where it stops reading.
struct Late {
    used: Arc<AtomicUsize>,
    paused: AtomicBool,
}

impl Pressure for Late {
    fn new() -> Self {
        Self { used: Arc::default(), paused: AtomicBool::new(false) }
    }

    fn arrived(&self, bytes: usize, pause: impl Fn(bool)) -> Credit {
        let credit = Credit::take(&self.used, bytes, usize::MAX).unwrap();
        if self.used() > BYTES_MAX && !self.paused.swap(true, Ordering::SeqCst) {
            pause(true);
            if !self.paused.load(Ordering::SeqCst) {
                pause(false);
            }
        }
        credit
    }

    fn relieve(&self, pause: impl Fn(bool)) {
        if self.paused.load(Ordering::Relaxed)
            && self.used() < BYTES_MAX / 2
            && self.paused.swap(false, Ordering::SeqCst)
        {
            pause(false);
        }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// `net` reads some groups, `order` steps them; some end at the pool already.
fn slowed<P: Pressure>() {
    let pressure = Arc::new(P::new());
    let (command, commands) = unbounded();
    let (to_order, inbox) = unbounded();
    let order = {
        let (pressure, command) = (pressure.clone(), command.clone());
        spawn(move || {
            loop {
                match inbox.recv_timeout(Duration::ZERO) {
                    Ok(credit) => drop::<Credit>(credit),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                pressure.relieve(|pause| command.send(pause).unwrap());
            }
        })
    };
    let mut pauses = false;
    for group in 0..8 {
        while let Some(pause) = commands.try_recv() {
            pauses = pause;
        }
        while pauses {
            pauses = commands.recv().unwrap();
        }
        assert!(pressure.used() <= BYTES_MAX, "clients are read above the bound");
        let bytes = if group % 2 == 0 { 700 } else { 100 };
        let credit = pressure.arrived(bytes, |pause| command.send(pause).unwrap());
        if group % 5 != 4 {
            to_order.send(credit).unwrap();
        }
    }
    drop(to_order);
    order.join().unwrap();
    assert_eq!(pressure.used(), 0);
}

#[test]
fn clients_are_read_up_to_the_bound_and_again_once_there_is_room() {
    holds(slowed::<BackPressure>);
    fails(&["read above the bound", STUCK], slowed::<Late>);
}

#[test]
fn a_senders_share_is_never_exceeded_and_always_given_back() {
    holds(|| {
        const MAX: usize = 1000;
        let (used, held) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (used, held) = (used.clone(), held.clone());
                spawn(move || {
                    for _ in 0..3 {
                        let Some(credit) = Credit::take(&used, 200, MAX) else { continue };
                        let all = held.fetch_add(456, Ordering::SeqCst) + 456;
                        assert!(all <= MAX, "{all} bytes");
                        held.fetch_sub(456, Ordering::SeqCst);
                        drop(credit);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(used.load(Ordering::SeqCst), 0);
    });
}

// ---- who sleeps is woken ---------------------------------------------------------------------------------------------

/// Two threads leave commands for one that sleeps between them. `hasty`: looks first, and then says that it sleeps.
fn rung(hasty: bool) {
    let (bell, waker) = (Arc::new(Doorbell::default()), Arc::new(Waker::default()));
    let (command, commands) = unbounded();
    let senders: Vec<_> = (0..2)
        .map(|sender| {
            let (bell, waker, command) = (bell.clone(), waker.clone(), command.clone());
            spawn(move || {
                for i in 0..3 {
                    command.send((sender, i)).unwrap();
                    if bell.ring() {
                        waker.wake();
                    }
                }
            })
        })
        .collect();
    let mut heard = 0;
    while heard < 6 {
        while commands.try_recv().is_some() {
            heard += 1;
        }
        let nothing = || heard < 6 && commands.is_empty();
        let sleeps = match hasty {
            false => bell.lie_down(nothing),
            true => nothing() && bell.lie_down(|| true),
        };
        if sleeps {
            waker.sleep();
        }
        bell.get_up();
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn no_command_is_left_to_a_net_thread_that_sleeps() {
    holds(|| rung(false));
    fails(&[STUCK], || rung(true));
}

// ---- the log ---------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq)]
enum Logging {
    Right,
    /// The log sleeps without a last look.
    Hasty,
    /// Its report waits for room at who waits for the log.
    ReportWaits,
    /// What depends on a record leaves when it is queued.
    Ungated,
}

/// Appends more records than the log's queue takes, and lets what depends on each go when it is durable.
fn logging(how: Logging) {
    const RECORDS: u64 = 8;
    /// Appended in one round.
    const ROUND: u64 = 4;
    let disk = Arc::new(Disk::default());
    let (report, inbox) = if how == Logging::ReportWaits { waiting(1) } else { unbounded() };
    let thread = {
        let disk = disk.clone();
        spawn(move || disk.run(how == Logging::Hasty, |persisted| report.send(persisted).unwrap()))
    };
    let (mut log, mut appends, stopping) =
        (Log::new(disk.clone(), 1), Appends::default(), AtomicBool::new(false));
    let (mut gate, mut left) = (DurableGate::new(Lsn(0)), Vec::new());
    for lsn in 1..=RECORDS {
        appends.append(&mut log, &stopping, Lsn(lsn), record(lsn), false).unwrap();
        left.extend(gate.hold(Lsn(lsn), lsn).map(|value| value.into_inner()));
        if how == Logging::Ungated {
            left.push(lsn);
        }
        while lsn.is_multiple_of(ROUND)
            && let Some(persisted) = inbox.try_recv()
        {
            left.extend(gate.release(&persisted).map(|value| value.into_inner()));
        }
        let durable = disk.durable.load(Ordering::Acquire) as u64;
        assert!(left.iter().all(|lsn| *lsn <= durable), "{left:?} left, {durable} is durable");
    }
    while left.len() < RECORDS as usize {
        let persisted = inbox.recv().unwrap();
        left.extend(gate.release(&persisted).map(|value| value.into_inner()));
    }
    assert_eq!(left, (1..=RECORDS).collect::<Vec<_>>());
    disk.stop();
    thread.join().unwrap();
}

#[test]
fn what_depends_on_a_record_leaves_once_and_after_it_however_full_the_log_is() {
    holds(|| logging(Logging::Right));
    fails(&[STUCK, ENDLESS], || logging(Logging::Hasty));
    fails(&[STUCK, ENDLESS], || logging(Logging::ReportWaits));
    fails(&["is durable"], || logging(Logging::Ungated));
}

#[test]
fn what_is_heard_last_of_two_logs_is_how_they_are() {
    holds(|| {
        let (say, heard) = unbounded();
        let room = Arc::new(Room::new(move |room| say.send(room).unwrap()));
        let logs: Vec<_> = (0..2)
            .map(|log| {
                let room = room.clone();
                spawn(move || {
                    for now in [false, true, false, true] {
                        room.is(log, now);
                    }
                })
            })
            .collect();
        logs.into_iter().for_each(|log| log.join().unwrap());
        let mut all = Vec::new();
        while let Some(now) = heard.try_recv() {
            all.push(now);
        }
        assert_eq!(all.last(), Some(&true));
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    });
}
