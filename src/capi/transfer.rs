//! State transfer under the host's own ordering: pages of a state that the host vouches for, from several peers at once.

use super::conf::{Values, duramen_conf, values_of};
use super::entry::{Grows, bytes, enter, give, give_sized, give_text, out, sized, struct_size};
use super::handle::{self, Call, Ending, Object};
use super::page_source::{Source, duramen_page_fn, duramen_page_source, hand_page};
use super::status::*;
use super::transfer_owner::{HostOwner, Phase, Shared, Tell, guarded, vouched};
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pages::{page_digest, root_of};
use crate::data_dir;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::identity::Identity;
use crate::keys::ReplicaKeys;
use crate::net::{self, Net};
use crate::service::{PagedSnapshot, RestoreError, Snapshot};
use crate::sync::pool::Pool;
use crate::transfer::image::{Image, Part};
use crate::transfer::received::Received;
use crate::transfer::seeder::Seeder;
use crate::transfer::sockets::Sockets;
use crate::transfer::stage::{Setup, ToStage, TransferStage};
use crate::transfer::staging;
use crate::types::*;
use ::bytes::Bytes;
use crossbeam::channel::{Sender, unbounded};
use parking_lot::Mutex;
use rayon::ThreadPool;
use std::any::Any;
use std::ffi::{c_char, c_void};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// One end of state transfers: serves states of the host to its peers, and fetches one from them. A handle.
pub struct duramen_transfer {
    _opaque: (),
}

/// How a transfer is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct duramen_transfer_info {
    /// sizeof(struct duramen_transfer_info), set by the caller.
    pub struct_size: usize,
    /// Peers that can be spoken to.
    pub peers: u32,
    /// Peers that sent what is wrong, and are not asked any more by this fetch.
    pub banned: u32,
    /// The place that is fetched, or was last; 0: none.
    pub position: u64,
    /// Pages verified; a few of the library's own count, too.
    pub pages_here: u64,
    /// Pages that were not here already.
    pub pages_wanted: u64,
    /// Bytes of pages received by the fetch.
    pub received_bytes: u64,
    /// Bytes of pages sent to peers.
    pub sent_bytes: u64,
}

// SAFETY: repr(C), struct_size first, and zeros are numbers.
unsafe impl Grows for duramen_transfer_info {
    const FIRST_SIZE: usize = size_of::<usize>() + 48;
}

/// A state of the host; its digests are kept.
struct HostPages {
    source: Source,
    /// A page could not be given: it was said once.
    failed: AtomicBool,
    digests: Vec<Digest>,
    algorithm: DigestAlgorithm,
    bytes: u64,
}

impl HostPages {
    /// Reads and hashes all pages.
    fn read(mut self) -> Result<Self, Failure> {
        let mut page = Vec::new();
        for index in 0..self.source.pages() {
            page.clear();
            self.source.copy(index, &mut page)?;
            self.bytes += page.len() as u64;
            self.digests.push(match page.is_empty() {
                true => Digest::ZERO,
                false => page_digest(self.algorithm, index, &page),
            });
        }
        Ok(self)
    }
}

impl Snapshot for HostPages {
    fn write_to(&self, _out: &mut dyn Write) -> io::Result<()> {
        Err(io::Error::other("it has pages"))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        Some(self)
    }
}

impl PagedSnapshot for HostPages {
    fn header(&self) -> Bytes {
        Bytes::new()
    }

    fn page_count(&self) -> u64 {
        self.source.pages()
    }

    fn page(&self, index: u64, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        if index >= self.source.pages() {
            return false;
        }
        if let Err(why) = self.source.copy(index, out)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            ::log::error!("a state that is served, tried again: {}", why.message);
        }
        out.len() > before
    }

    fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        assert!(algorithm == self.algorithm, "a cluster has one algorithm");
        self.digests.get(index as usize).copied().unwrap_or(Digest::ZERO)
    }

    fn root(&self, algorithm: DigestAlgorithm, _pool: Option<&ThreadPool>) -> Digest {
        root_of(algorithm, &self.header(), &self.digests)
    }

    fn changed_since(&self, _older: &dyn PagedSnapshot) -> Vec<u64> {
        (0..self.page_count()).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The threads. When this is dropped they have ended.
struct Running {
    tell: Sender<ToStage<Tell>>,
    thread: Option<JoinHandle<()>>,
    net: Net,
    _hashers: Pool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.tell.send(ToStage::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.net.stop();
    }
}

/// Behind the handle.
struct HostTransfer {
    shared: Arc<Shared>,
    tell: Sender<ToStage<Tell>>,
    dir: PathBuf,
    algorithm: DigestAlgorithm,
    running: Option<Running>,
    handle: usize,
    /// One at a time.
    installing: Mutex<()>,
    ending: Option<Ending>,
}

impl HostTransfer {
    fn open(values: &Values, id: u32) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::new(DURAMEN_E_CONFIG, why);
        let cluster = Path::new(values.text("dir"));
        let config = data_dir::load_config(cluster).map_err(|e| wrong(e.to_string()))?;
        config.check_transport(values.flag("insecure")).map_err(|e| wrong(e.to_string()))?;
        let id = ReplicaId(id);
        let entry = config.replica(id).ok_or_else(|| wrong(format!("cluster.toml has no replica {id}")))?;
        let none = || wrong(format!("cluster.toml: replica {id} has no address for state transfer"));
        let listen = entry.transfer.clone().ok_or_else(none)?;
        let keys = ReplicaKeys::load(&data_dir::replica_key_file(cluster, id), &config, id);
        let keys = keys.map_err(|e| wrong(e.to_string()))?;
        let dir = PathBuf::from(values.text("transfer-dir"));
        std::fs::create_dir_all(&dir).map_err(|e| Failure::io(dir.display(), &e))?;
        let shared = Arc::new(Shared::new()?);
        let (tell, inbox) = unbounded();
        let threads = |e: io::Error| Failure::io("threads for state transfer", &e);
        let unhashed = tell.clone();
        let hashers = Pool::start("duramen-hash", crate::sys::step_back, move || {
            drop(unhashed.send(ToStage::Unhashed))
        })
        .map_err(threads)?;
        let sockets = Sockets::new(tell.clone());
        let net = crate::replica::transfer_config(&config, id, Identity::from_seed(keys.seed), listen);
        let net = net::start(net, Box::new(sockets));
        let net = net.map_err(|e| Failure::new(DURAMEN_E_IO, format!("sockets for state transfer: {e}")))?;
        let algorithm = config.digest;
        let setup = Setup {
            dir: dir.clone(),
            algorithm,
            net: net.handle(),
            pool: hashers.threads().clone(),
            seeder: Seeder::new(config.transfer.mib_per_second << 20),
            began: Instant::now(),
            #[cfg(feature = "adversary")]
            lie: None,
        };
        let owner = HostOwner::new(shared.clone());
        let stage = TransferStage::new(setup, owner, tell.clone(), inbox).map_err(threads)?;
        let told = shared.clone();
        let thread = std::thread::Builder::new().name("duramen-transfer".into());
        let thread = thread.spawn(move || guarded(stage, &told)).map_err(threads)?;
        let running = Running { tell: tell.clone(), thread: Some(thread), net, _hashers: hashers };
        Ok(Self {
            shared,
            tell,
            dir,
            algorithm,
            running: Some(running),
            handle: 0,
            installing: Mutex::new(()),
            ending: None,
        })
    }

    /// The state's name, which follows from place and pages; and the state, ready to be served.
    fn image(&self, position: u64, source: duramen_page_source) -> Result<(Arc<Image>, Digest), Failure> {
        let source = Source::new(source, self.handle)?;
        if position == 0 {
            return Err(Failure::argument("position 0"));
        }
        let (failed, digests, algorithm) = (AtomicBool::new(false), Vec::new(), self.algorithm);
        let pages = HostPages { source, failed, digests, algorithm, bytes: 0 };
        let frozen = Frozen {
            seq: Seq(position),
            time: WallTime(0),
            replies: Digest::ZERO,
            table: ClientTable::new(ClientTableLimits::default()),
            state: Box::new(pages.read()?),
        };
        let image = Image::of(frozen, self.algorithm).map_err(|e| Failure::io("a state", &e))?;
        let root = image.root(None);
        Ok((Arc::new(image), root))
    }

    fn fetch(&self, position: u64, root: [u8; 32]) -> Result<(), Failure> {
        if position == 0 || root == [0; 32] {
            return Err(Failure::argument("position 0, or a root of zeros"));
        }
        let mut view = self.shared.view.lock();
        if matches!(view.phase, Phase::Fetching | Phase::Here(_)) {
            let at = view.wanted.seq;
            let why = format!("the state of position {at} is being fetched, or is not installed");
            return Err(Failure::new(DURAMEN_E_STATE, why));
        }
        if let Some(why) = &view.gone {
            return Err(Self::gone(why));
        }
        let wanted = vouched(Seq(position), Digest(root)).statement;
        (view.phase, view.wanted) = (Phase::Fetching, wanted);
        (view.pages, view.received, view.banned) = ((0, 0), 0, 0);
        let told = self.tell(Tell::Fetch(wanted));
        if told.is_err() {
            view.phase = Phase::None;
        }
        told
    }

    fn wait(&self, until: Option<Instant>) -> Result<(), Failure> {
        let mut view = self.shared.view.lock();
        loop {
            match &view.phase {
                Phase::Here(_) => return Ok(()),
                Phase::Failed(why) => return Err(Failure::new(why.code, why.message.clone())),
                Phase::None => return Err(Failure::new(DURAMEN_E_STATE, "nothing is being fetched")),
                Phase::Fetching if view.closing => {
                    return Err(Failure::new(DURAMEN_E_STATE, "the transfer is being destroyed"));
                }
                Phase::Fetching => {}
            }
            match until {
                None => self.shared.moved.wait(&mut view),
                Some(until) if Instant::now() >= until => {
                    let (here, of) = view.pages;
                    let peers = view.connected;
                    let why = format!("{here} of {of} pages are here, {peers} peers are connected");
                    return Err(Failure::new(DURAMEN_E_TIMEOUT, why));
                }
                Some(until) => drop(self.shared.moved.wait_until(&mut view, until)),
            }
        }
    }

    /// A thread that failed does nothing any more.
    fn gone(why: &str) -> Failure {
        Failure::new(DURAMEN_E_INTERNAL, format!("the thread of the transfer ended: {why}"))
    }

    /// Tells the thread. Errors: there is none any more.
    fn tell(&self, what: Tell) -> Result<(), Failure> {
        self.tell.send(what.into()).map_err(|_| Self::gone("it hears nothing"))
    }

    fn received(&self) -> Result<Arc<Received>, Failure> {
        match &self.shared.view.lock().phase {
            Phase::Here(received) => Ok(received.clone()),
            _ => Err(Failure::new(DURAMEN_E_STATE, "no state is here: fetch, and wait for it")),
        }
    }

    /// Forgets what was fetched, also on disk, unless it was cancelled meanwhile.
    fn end_fetch(&self, received: &Arc<Received>) {
        let mut view = self.shared.view.lock();
        if !matches!(&view.phase, Phase::Here(here) if Arc::ptr_eq(here, received)) {
            return;
        }
        view.phase = Phase::None;
        // Under the lock: whoever fetches the same place next begins its file anew.
        if let Err(e) = staging::remove(&self.dir, received.target.mark.statement.seq) {
            ::log::warn!("{}: {e}", self.dir.display());
        }
    }

    fn info(&self, struct_size: usize) -> duramen_transfer_info {
        let view = self.shared.view.lock();
        duramen_transfer_info {
            struct_size,
            peers: view.connected,
            banned: view.banned,
            position: view.wanted.seq.0,
            pages_here: view.pages.0,
            pages_wanted: view.pages.1,
            received_bytes: view.received,
            sent_bytes: view.sent,
        }
    }
}

/// Tells the thread something that no caller does.
#[cfg(test)]
pub(super) fn tell_thread(transfer: *mut duramen_transfer, what: ToStage<Tell>) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| {
        transfer.tell.send(what).expect("it runs");
        Ok(DURAMEN_OK)
    })
}

impl Object for HostTransfer {
    type Opaque = duramen_transfer;
    const KIND: &str = "a transfer";

    fn closing(&self) {
        self.shared.view.lock().closing = true;
        self.shared.moved.notify_all();
    }

    fn end(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        if let Some(running) = self.running.take() {
            self.ending = Some(Ending::start(move || drop(running))?);
        }
        if let Some(ending) = &mut self.ending {
            ending.wait(until, "sockets and threads of the transfer still run")?;
            self.ending = None;
        }
        Ok(())
    }
}

fn restore_failure(error: &RestoreError) -> Failure {
    Failure::new(DURAMEN_E_DAMAGED, format!("a received page is not what it was: {error}"))
}

/// Opens one end of state transfers, as replica `id` of the cluster whose folder is `dir`: `duramen init` made addresses and keys there. No replica
/// of the cluster needs to run; one of the same id must not, because it has the same address. Peers find each other by themselves, now and later.
///
/// Keys used (see duramen_conf_set): dir, transfer-dir, insecure. Ownership: `conf` stays the caller's; `*out` is the caller's until
/// duramen_transfer_destroy, and NULL on failure. Thread: any. Starts a few threads, named duramen-*: for sockets, for serving and fetching, for
/// hashes (half of the processors, at most 8), for transfer-dir.
///
/// Errors: DURAMEN_E_CONFIG (files, keys, no such replica, no address for state transfer), DURAMEN_E_IO (the address is in use, and the like),
/// DURAMEN_E_ARGUMENT, DURAMEN_E_HANDLE.
///
/// # Safety
/// `out` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_open(
    conf: *const duramen_conf,
    id: u32,
    out: *mut *mut duramen_transfer,
) -> i32 {
    enter(|| {
        let place = self::out("out", out)?;
        // SAFETY: the caller's promise, here and below.
        unsafe { place.write(std::ptr::null_mut()) };
        let opened = HostTransfer::open(&values_of(conf)?, id)?;
        let opened = handle::insert_with(opened, |transfer, handle| transfer.handle = handle)?;
        unsafe { place.write(opened) };
        Ok(DURAMEN_OK)
    })
}

/// Serves the state of `position` to whoever fetches it under its root, beside the one served before (an older one goes when its last
/// receiver has it). Reads and hashes all pages once before it returns.
///
/// `root` (32 bytes, may be NULL) gets the state's name: it follows from position and pages alone, so that hosts with the same state say the same.
/// A host that agrees on roots, or has f+1 peers say the same one, can vouch for it to who fetches.
///
/// Ownership: `source` is copied; its `user` and the state belong to the library until its `free` is called, also if this fails with
/// DURAMEN_E_CALLBACK or DURAMEN_E_ARGUMENT. Thread of the callbacks: see duramen_page_source. Re-entrancy: `page` may
/// not serve, fetch, cancel, install or destroy.
///
/// Errors: DURAMEN_E_CALLBACK (page failed), DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_ARGUMENT (position 0; a page above DURAMEN_TRANSFER_PAGE_BYTES_MAX), DURAMEN_E_ABI, DURAMEN_E_REENTRANT,
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `source` is such a struct, whose functions may be called with its `user`; `root` is NULL or holds 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_serve(
    transfer: *mut duramen_transfer,
    position: u64,
    source: *const duramen_page_source,
    root: *mut u8,
) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer: &Call<'_, HostTransfer>| {
        transfer.not_within("serving")?;
        // SAFETY: the caller's promise.
        let source = unsafe { sized("source", source)? };
        let (image, name) = transfer.image(position, source)?;
        transfer.tell(Tell::Serve(image, vouched(Seq(position), name)))?;
        // SAFETY: the caller's promise.
        unsafe { give(root.cast::<[u8; 32]>(), name.0) };
        Ok(DURAMEN_OK)
    })
}

/// Serves nothing to new receivers any more; those that are being sent a state still get it.
///
/// Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
/// DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_transfer_withdraw(transfer: *mut duramen_transfer) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| {
        transfer.tell(Tell::Withdraw)?;
        Ok(DURAMEN_OK)
    })
}

/// Begins to fetch the state of `position` that has this root, for which the host vouches, from all peers that serve it at once, and returns. Every page
/// is verified against the root before it counts; a peer that sends a wrong one is not asked again. What is served here, and what an earlier
/// fetch left in transfer-dir, is not fetched again where it is the same. Goes on until it is here, cancelled or destroyed, whoever comes and goes.
///
/// Ownership: `root` is copied. Thread: any. Re-entrancy: not from a callback of this transfer.
///
/// Errors: DURAMEN_E_REENTRANT, DURAMEN_E_INTERNAL (its thread has ended), DURAMEN_E_STATE (a fetch is under way, or its state waits for duramen_transfer_install; being destroyed), DURAMEN_E_ARGUMENT (position 0,
/// `root` NULL or zeros), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `root` has 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_fetch(
    transfer: *mut duramen_transfer,
    position: u64,
    root: *const u8,
) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer: &Call<'_, HostTransfer>| {
        transfer.not_within("fetching")?;
        // SAFETY: the caller's promise.
        let root = unsafe { bytes("root", root.cast(), 32)? };
        transfer.fetch(position, root.try_into().expect("32 bytes"))?;
        Ok(DURAMEN_OK)
    })
}

/// Waits until the state that is being fetched is here.
///
/// `timeout_ms`: 0 does not wait; DURAMEN_FOREVER. Thread: any. Re-entrancy: any callback.
///
/// Errors: DURAMEN_E_TIMEOUT (it goes on), DURAMEN_E_IO and DURAMEN_E_NO_SPACE (transfer-dir cannot be written: the fetch has ended), DURAMEN_E_STATE
/// (nothing is being fetched; being destroyed), DURAMEN_E_INTERNAL (its thread failed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_transfer_wait(transfer: *mut duramen_transfer, timeout_ms: u64) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| {
        transfer.wait(handle::until(timeout_ms))?;
        Ok(DURAMEN_OK)
    })
}

/// An eventfd that becomes readable when a fetch has ended; duramen_transfer_look makes it unreadable.
///
/// Ownership: the library's: do not read, write or close it; it is closed by duramen_transfer_destroy. Returns the descriptor (at least 0) or
/// DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED. Thread: any. Re-entrancy: any callback.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_transfer_fd(transfer: *mut duramen_transfer) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| Ok(transfer.shared.bell.fd()))
}

/// `*info` gets how the transfer is. Makes the descriptor of duramen_transfer_fd unreadable.
///
/// Ownership: `*info` is the caller's; its struct_size must be set. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_ABI,
/// DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `info` points to such a struct, as large as its struct_size says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_look(
    transfer: *mut duramen_transfer,
    info: *mut duramen_transfer_info,
) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| {
        // SAFETY: the caller's promise.
        let size = unsafe { struct_size("info", info)? };
        transfer.shared.bell.silence();
        // SAFETY: the caller's promise.
        unsafe { give_sized(info, size, transfer.info(size)) };
        Ok(DURAMEN_OK)
    })
}

/// Hands every page of the state that was fetched to `take`, index by index, each verified once more; then forgets it and its file. If `take` gives up,
/// the state stays and this may be called again.
///
/// Returns DURAMEN_OK when all pages were taken. Ownership: a page lives until `take` returns. Thread of `take`: this one; of several calls one
/// installs, the others wait. Re-entrancy: not from a callback of this transfer; `take` may not serve, fetch, cancel, install or destroy either.
///
/// Errors: DURAMEN_E_STATE (no state is here; being destroyed), DURAMEN_E_CALLBACK (take gave up), DURAMEN_E_DAMAGED (a page is not any more what was
/// received: the fetch was ended, begin it again), DURAMEN_E_ARGUMENT (`take` is NULL), DURAMEN_E_REENTRANT, DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `take` may be called with `user`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_install(
    transfer: *mut duramen_transfer,
    take: duramen_page_fn,
    user: *mut c_void,
) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer: &Call<'_, HostTransfer>| {
        transfer.not_within("installing")?;
        let take = take.ok_or_else(|| Failure::argument("take is NULL: nobody would see the pages"))?;
        let _one = transfer.installing.lock();
        let received = transfer.received()?;
        for index in 0..received.target.manifest.part(Part::State).pages {
            let page = match received.page(Part::State, index) {
                Ok(page) => page.unwrap_or_default(),
                Err(e) => {
                    transfer.end_fetch(&received);
                    return Err(restore_failure(&e));
                }
            };
            hand_page(take, user, index, &page)?;
        }
        transfer.end_fetch(&received);
        Ok(DURAMEN_OK)
    })
}

/// Ends a fetch, or forgets the state that it brought. What is in transfer-dir stays, and is not fetched again.
///
/// A duramen_transfer_install under way goes on with what it has.
///
/// Thread: any. Re-entrancy: not from a callback of this transfer. Errors: DURAMEN_E_REENTRANT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE,
/// DURAMEN_E_POISONED.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_transfer_cancel(transfer: *mut duramen_transfer) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer: &Call<'_, HostTransfer>| {
        transfer.not_within("cancelling")?;
        let mut view = transfer.shared.view.lock();
        let before = std::mem::replace(&mut view.phase, Phase::None);
        // Under the lock: before whatever is fetched next.
        let _ = transfer.tell.send(Tell::Cancel.into());
        drop(view);
        transfer.shared.moved.notify_all();
        // Not under the lock: it may be the last to have a state that was served here, whose `free` may look.
        drop(before);
        Ok(DURAMEN_OK)
    })
}

/// Writes figures about the transfer as OpenMetrics text, with a NUL, into `buf`; `*len` (may be NULL) gets the length without the NUL.
///
/// Ownership: `buf` is the caller's; NULL if `cap` is 0. Thread: any. Re-entrancy: any callback. Errors: DURAMEN_E_BUFFER (as much as fits was
/// written), DURAMEN_E_ARGUMENT, DURAMEN_E_STATE (being destroyed), DURAMEN_E_HANDLE, DURAMEN_E_POISONED.
///
/// # Safety
/// `buf` holds `cap` bytes; `len` points to a size_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn duramen_transfer_metrics(
    transfer: *mut duramen_transfer,
    buf: *mut c_char,
    cap: usize,
    len: *mut usize,
) -> i32 {
    handle::with::<HostTransfer>(transfer, |transfer| {
        let info = transfer.info(0);
        let figures = [
            ("peers", u64::from(info.peers)),
            ("banned", u64::from(info.banned)),
            ("position", info.position),
            ("pages_here", info.pages_here),
            ("pages_wanted", info.pages_wanted),
            ("received_bytes", info.received_bytes),
            ("sent_bytes", info.sent_bytes),
        ];
        let gauge = |(name, value): (&str, u64)| {
            format!("# TYPE duramen_transfer_{name} gauge\nduramen_transfer_{name} {value}\n")
        };
        let text: String = figures.into_iter().map(gauge).collect();
        // SAFETY: the caller's promise.
        unsafe { give_text(&(text + "# EOF\n"), buf, cap, len) }
    })
}

/// Ends it: a fetch stops (what came stays in transfer-dir), and nothing is served any more. States are freed. A duramen_transfer_wait under way
/// returns DURAMEN_E_STATE.
///
/// `deadline_ms`: how long to wait for calls, callbacks and threads; DURAMEN_FOREVER; 0: not at all. Thread: any. Re-entrancy: not from a callback
/// of this transfer. Errors: DURAMEN_E_TIMEOUT (call it again), DURAMEN_E_REENTRANT (nothing happened), DURAMEN_E_HANDLE.
#[unsafe(no_mangle)]
pub extern "C" fn duramen_transfer_destroy(transfer: *mut duramen_transfer, deadline_ms: u64) -> i32 {
    handle::destroy::<HostTransfer>(transfer, deadline_ms)
}
