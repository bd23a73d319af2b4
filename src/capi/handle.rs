//! Handles: numbers that look like pointers, and the table of what they stand for.
//!
//! ```text
//! value   0 (17 bits) | generation (27) | slot (16) | 0 (4)
//! ```
//! A slot's generation goes up each time it is emptied, so an old value finds nothing; a slot whose generations are used up is not
//! used again. Nothing is ever read through such a pointer: NULL, other kinds, destroyed handles and made-up numbers are all just
//! values that are not in the table. A value fits into 47 bits, as runtimes that tag pointers want it.
//!
//! A call holds the handle's lock shared until it returns; destroy takes it alone, and gives up at its deadline.

use super::entry::{catching, enter_on};
use super::status::*;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::any::Any;
use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SLOT_BITS: u32 = 16;
const GENERATION_BITS: u32 = 27;
/// Low bits that are zero: as aligned as what `malloc` gives.
const ZERO_BITS: u32 = 4;

/// No limit, where a function takes a time in milliseconds and says so.
pub const DURAMEN_FOREVER: u64 = u64::MAX;

/// What stands behind a kind of handle.
pub(super) trait Object: Send + Sync + 'static {
    /// The type that the header shows a pointer to.
    type Opaque;
    /// For messages: "a client".
    const KIND: &str;
    /// Has threads, descriptors or locks that a child process after fork cannot use.
    const BOUND_TO_PROCESS: bool = true;

    /// Destroy was called: calls that wait must return soon. New calls no longer come.
    fn closing(&self) {}

    /// Ends everything, threads included, until then (`None`: whenever). No call is under way. With [`DURAMEN_E_TIMEOUT`] the handle
    /// stays and destroy may be called again, which comes here again; after any other outcome it is gone.
    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure>;
}

/// Behind one handle.
struct Holder<T> {
    object: RwLock<Option<T>>,
    closing: AtomicBool,
    poisoned: AtomicBool,
}

struct Slot {
    generation: u32,
    kind: &'static str,
    bound: bool,
    /// An `Arc<Holder<T>>`.
    holder: Option<Arc<dyn Any + Send + Sync>>,
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Handles that a child process cannot use.
    bound: usize,
}

static TABLE: RwLock<Table> = RwLock::new(Table { slots: Vec::new(), free: Vec::new(), bound: 0 });

/// The process that has handles which a child cannot use; 0: none has.
static OWNER: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Handles with a call, or a callback of theirs, under way on this thread. Gone when the thread's last destructors run.
    static INSIDE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread is inside that handle. Not, if it has ended but for its destructors.
fn is_inside(handle: usize) -> bool {
    INSIDE.try_with(|inside| inside.borrow().contains(&handle)).unwrap_or(false)
}

/// Whether this is a child of the process that the handles belong to. Takes no lock.
pub(super) fn forked() -> bool {
    let owner = OWNER.load(Ordering::Relaxed);
    owner != 0 && owner != std::process::id()
}

fn value(slot: usize, generation: u32) -> usize {
    (generation as usize) << (SLOT_BITS + ZERO_BITS) | slot << ZERO_BITS
}

impl Table {
    fn find(&self, handle: usize) -> Option<&Slot> {
        let slot = self.slots.get(handle >> ZERO_BITS & ((1 << SLOT_BITS) - 1))?;
        let at = handle >> ZERO_BITS & ((1 << SLOT_BITS) - 1);
        (value(at, slot.generation) == handle && slot.holder.is_some()).then_some(slot)
    }

    fn remove(&mut self, handle: usize) {
        if self.find(handle).is_none() {
            return;
        }
        let at = handle >> ZERO_BITS & ((1 << SLOT_BITS) - 1);
        let slot = &mut self.slots[at];
        slot.holder = None;
        slot.generation += 1;
        self.bound -= usize::from(slot.bound);
        if slot.generation < 1 << GENERATION_BITS {
            self.free.push(at as u16);
        }
        if self.bound == 0 {
            OWNER.store(0, Ordering::Relaxed);
        }
    }
}

/// A new handle.
pub(super) fn insert<T: Object>(object: T) -> Result<*mut T::Opaque, Failure> {
    insert_with(object, |_, _| {})
}

/// A new handle; `tell` gives the object its value ([`Scope::enter`]) before anybody else has it.
pub(super) fn insert_with<T: Object>(
    mut object: T,
    tell: impl FnOnce(&mut T, usize),
) -> Result<*mut T::Opaque, Failure> {
    let mut table = TABLE.write();
    let at = match table.free.pop() {
        Some(at) => usize::from(at),
        None if table.slots.len() >> SLOT_BITS == 0 => {
            // Generation 0 of slot 0 would be NULL.
            table.slots.push(Slot { generation: 1, kind: "", bound: false, holder: None });
            table.slots.len() - 1
        }
        None => {
            drop(table);
            return Err(Failure::new(DURAMEN_E_BUSY, "65536 handles are in use"));
        }
    };
    if T::BOUND_TO_PROCESS {
        table.bound += 1;
        OWNER.store(std::process::id(), Ordering::Relaxed);
    }
    let slot = &mut table.slots[at];
    let handle = value(at, slot.generation);
    tell(&mut object, handle);
    (slot.kind, slot.bound) = (T::KIND, T::BOUND_TO_PROCESS);
    let object = RwLock::new(Some(object));
    slot.holder = Some(Arc::new(Holder { object, closing: false.into(), poisoned: false.into() }));
    Ok(std::ptr::without_provenance_mut(handle))
}

fn find<T: Object>(handle: usize) -> Result<Arc<Holder<T>>, Failure> {
    let wrong = |is: &str| Err(Failure::new(DURAMEN_E_HANDLE, format!("{is} where {} is expected", T::KIND)));
    if handle == 0 {
        return wrong("NULL");
    }
    let table = TABLE.read();
    let Some(slot) = table.find(handle) else {
        return wrong("no handle, or one that was destroyed,");
    };
    match slot.holder.clone().expect("found").downcast() {
        Ok(holder) => Ok(holder),
        Err(_) => wrong(slot.kind),
    }
}

/// A call under way on a handle.
pub(super) struct Call<'a, T> {
    object: RwLockReadGuard<'a, Option<T>>,
    /// A callback of the same handle makes this call, or a callback of a call on it.
    pub within: bool,
}

impl<T> Deref for Call<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object.as_ref().expect("not ended")
    }
}

impl<T: Object> Call<'_, T> {
    /// Turns the call down if it comes from a callback of its own handle.
    pub fn not_within(&self, what: &str) -> Result<(), Failure> {
        if self.within {
            let of = T::KIND;
            return Err(Failure::new(DURAMEN_E_REENTRANT, format!("{what} from a callback of {of} itself")));
        }
        Ok(())
    }
}

/// Makes known, as long as it lives, that a callback of this handle runs on this thread.
pub(super) struct Scope(());

impl Scope {
    pub fn enter(handle: usize) -> Self {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().push(handle));
        Self(())
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.borrow_mut().pop());
    }
}

/// Runs the inside of an entry on a handle, which lives until that returns.
pub(super) fn with<T: Object>(handle: *const T::Opaque, inside: impl FnOnce(&Call<'_, T>) -> Answer) -> i32 {
    let handle = handle.addr();
    enter_on(handle, || {
        let holder = find::<T>(handle)?;
        let within = is_inside(handle);
        if holder.poisoned.load(Ordering::Acquire) {
            return Err(Failure::new(DURAMEN_E_POISONED, format!("{} that failed before", T::KIND)));
        }
        let destroyed = || Failure::new(DURAMEN_E_STATE, format!("{} is being destroyed", T::KIND));
        // Never waits: a destroy that has the lock may wait for a callback that is here.
        let object = holder.object.try_read_recursive().ok_or_else(destroyed)?;
        if holder.closing.load(Ordering::Acquire) || object.is_none() {
            return Err(destroyed());
        }
        let call = Call { object, within };
        let _scope = Scope::enter(handle);
        let answer = catching(|| inside(&call));
        if answer.as_ref().is_err_and(|failure| failure.code == DURAMEN_E_INTERNAL) {
            holder.poisoned.store(true, Ordering::Release);
        }
        answer
    })
}

/// A thread of the handle's own panicked: the handle takes nothing but destroy any more.
pub(super) fn poison<T: Object>(handle: usize) {
    if let Ok(holder) = find::<T>(handle) {
        holder.poisoned.store(true, Ordering::Release);
    }
}

/// The time that a number of milliseconds from now stands for; `None`: no limit.
pub(super) fn until(ms: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_millis(ms)).filter(|_| ms != DURAMEN_FOREVER)
}

/// The destroy of every kind: no new calls; waits for those under way; ends the object; forgets the handle.
pub(super) fn destroy<T: Object>(handle: *mut T::Opaque, deadline_ms: u64) -> i32 {
    let handle = handle.addr();
    enter_on(handle, || {
        let until = until(deadline_ms);
        let holder = find::<T>(handle)?;
        if is_inside(handle) {
            let of = T::KIND;
            return Err(Failure::new(
                DURAMEN_E_REENTRANT,
                format!("destroying {of} from a callback of its own"),
            ));
        }
        holder.closing.store(true, Ordering::Release);
        if let Some(object) = holder.object.try_read_recursive().as_ref().and_then(|object| object.as_ref()) {
            object.closing();
        }
        let object = match until {
            None => Some(holder.object.write()),
            Some(until) => holder.object.try_write_until(until),
        };
        let Some(mut object) = object else {
            let of = T::KIND;
            return Err(Failure::new(
                DURAMEN_E_TIMEOUT,
                format!("calls on {of} are under way: destroy it again"),
            ));
        };
        let Some(living) = object.as_mut() else {
            return Err(Failure::new(DURAMEN_E_HANDLE, "another thread destroyed it"));
        };
        let scope = Scope::enter(handle);
        let ended = catching(|| living.end(until).map(|()| DURAMEN_OK));
        drop(scope);
        if ended.as_ref().is_err_and(|failure| failure.code == DURAMEN_E_TIMEOUT) {
            return ended;
        }
        let ended_object = object.take();
        drop(object);
        TABLE.write().remove(handle);
        // Without a lock: dropping may take its time.
        catching(|| {
            drop(ended_object);
            Ok(DURAMEN_OK)
        })?;
        ended
    })
}

/// Something that ends on a thread of its own, so that who waits for it can give up and come again.
pub(super) struct Ending {
    done: crossbeam::channel::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is to run.
pub(super) type Job = Box<dyn FnOnce() + Send>;

impl Ending {
    /// Runs `end` on a thread; on this one if the system gives none. Then it has ended when this returns, however long that takes:
    /// the caller's deadline is not kept, but nothing is left behind.
    pub fn start(end: impl FnOnce() + Send + 'static) -> Result<Self, Failure> {
        let spawn = |run: Job| std::thread::Builder::new().name("duramen-end".into()).spawn(run);
        Ok(Self::start_by(spawn, Box::new(end)))
    }

    /// As [`Ending::start`], on a thread of `spawn`.
    pub fn start_by(spawn: impl FnOnce(Job) -> std::io::Result<JoinHandle<()>>, end: Job) -> Self {
        let (working, done) = crossbeam::channel::bounded::<()>(0);
        // A spawn that fails drops what it was to run, which must not go that way.
        let end = Arc::new(Mutex::new(Some(end)));
        let of_thread = end.clone();
        let run = move || {
            let _working = working;
            let end = of_thread.lock().take();
            end.into_iter().for_each(|end| end());
        };
        let thread = spawn(Box::new(run));
        if let Err(why) = &thread {
            ::log::warn!("no thread to end a handle on, so destroy may last longer than it should: {why}");
            let end = end.lock().take();
            end.into_iter().for_each(|end| end());
        }
        Self { done, thread: thread.ok() }
    }

    /// Waits until then; [`DURAMEN_E_TIMEOUT`] if it has not ended. The thread is joined after success.
    pub fn wait(&mut self, until: Option<Instant>, what: &str) -> Result<(), Failure> {
        match until {
            Some(until) => match self.done.recv_deadline(until) {
                Err(e) if e.is_timeout() => {
                    return Err(Failure::new(DURAMEN_E_TIMEOUT, format!("{what}: destroy it again")));
                }
                _ => {}
            },
            None => drop(self.done.recv()),
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Failure::new(DURAMEN_E_INTERNAL, format!("{what}, and panicked"))),
            _ => Ok(()),
        }
    }
}
