use super::base_tests::message;
use super::log_tests::{Conf, readable, real_dir};
use super::page_source::*;
use super::status::*;
use super::transfer::*;
use crate::init::{InitOptions, init};
use crate::transfer::stage::ToStage;
use std::ffi::c_void;
use std::net::TcpListener;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const HOSTS: u16 = 4;
const PAGES: u64 = 150;

/// Two addresses for each host in a row, below those that the system gives to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1000 {
        let step = NEXT.fetch_add(2 * HOSTS, Ordering::Relaxed);
        let first = 10_000 + (std::process::id() as u16 % 1000 * 16 + step) % 20_000;
        if (0..2 * HOSTS).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok()) {
            return first;
        }
    }
    panic!("no ports in a row");
}

pub(super) fn cluster(dir: &Path) {
    let listen = format!("127.0.0.1:{}", free_port());
    let options = InitOptions { dir: dir.to_owned(), replicas: HOSTS.into(), listen, ..Default::default() };
    init(&options, &|_, _, _| Ok(())).unwrap();
}

fn open(dir: &Path, id: u32) -> Result<*mut duramen_transfer, i32> {
    let conf = Conf::new(&dir.join("cluster"), &[]);
    conf.set("transfer-dir", dir.join(format!("received-{id}")).to_str().unwrap());
    let mut transfer = null_mut();
    let code = unsafe { duramen_transfer_open(conf.0, id, &raw mut transfer) };
    assert_eq!(transfer.is_null(), code != 0);
    if code == 0 { Ok(transfer) } else { Err(code) }
}

fn close(transfer: *mut duramen_transfer) {
    assert_eq!(duramen_transfer_destroy(transfer, 20_000), 0);
}

/// A host's state.
struct Pages {
    salt: u64,
    /// From now on it says something else than what it was hashed as.
    lies: AtomicBool,
    freed: AtomicUsize,
    fails: bool,
    /// So many calls fail from now on.
    misses: AtomicUsize,
}

impl Pages {
    fn new(salt: u64) -> Self {
        Self { salt, lies: false.into(), freed: 0.into(), fails: false, misses: 0.into() }
    }

    fn page(&self, index: u64) -> Vec<u8> {
        let mut at = self.salt ^ index;
        let length = if index % 10 == 3 { 0 } else { 20_000 + index as usize * 300 };
        let bytes = (0..length).map(|_| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (at >> 56) as u8
        });
        bytes.collect()
    }

    fn source(&self, pages: u64) -> duramen_page_source {
        let user = std::ptr::from_ref(self).cast_mut().cast();
        let struct_size = size_of::<duramen_page_source>();
        duramen_page_source { struct_size, user, pages, page: Some(page), free: Some(free) }
    }

    fn serve(&self, transfer: *mut duramen_transfer, position: u64) -> Result<[u8; 32], i32> {
        let (source, mut root) = (self.source(PAGES), [0; 32]);
        let code =
            unsafe { duramen_transfer_serve(transfer, position, &raw const source, root.as_mut_ptr()) };
        if code == 0 { Ok(root) } else { Err(code) }
    }
}

unsafe extern "C" fn page(
    user: *mut c_void,
    index: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let pages = unsafe { &*user.cast::<Pages>() };
    let mut bytes = pages.page(index);
    if pages.lies.load(Ordering::Relaxed) && !bytes.is_empty() {
        bytes[0] ^= 1;
    }
    assert!(bytes.len() <= cap);
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast(), bytes.len());
        *len = bytes.len();
    }
    let left = |left: usize| left.checked_sub(1);
    let misses = pages.misses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok();
    i32::from(misses || pages.fails && index == 7)
}

unsafe extern "C" fn free(user: *mut c_void) {
    unsafe { &*user.cast::<Pages>() }.freed.fetch_add(1, Ordering::Relaxed);
}

/// Pages taken; gives up before so many.
struct Taken(Vec<Vec<u8>>, usize);

unsafe extern "C" fn take(user: *mut c_void, index: u64, page: *const c_void, len: usize) -> i32 {
    let taken = unsafe { &mut *user.cast::<Taken>() };
    assert_eq!(index, taken.0.len() as u64, "in order");
    if taken.0.len() == taken.1 {
        return 9;
    }
    let bytes = match len {
        0 => Vec::new(),
        _ => unsafe { std::slice::from_raw_parts(page.cast::<u8>(), len) }.to_vec(),
    };
    taken.0.push(bytes);
    0
}

fn install(transfer: *mut duramen_transfer, most: usize) -> (i32, Vec<Vec<u8>>) {
    let mut taken = Taken(Vec::new(), most);
    let code = unsafe { duramen_transfer_install(transfer, Some(take), (&raw mut taken).cast()) };
    (code, taken.0)
}

fn look(transfer: *mut duramen_transfer) -> duramen_transfer_info {
    let struct_size = size_of::<duramen_transfer_info>();
    // SAFETY: numbers, for which zero is a value.
    let mut info = duramen_transfer_info { struct_size, ..unsafe { std::mem::zeroed() } };
    assert_eq!(unsafe { duramen_transfer_look(transfer, &raw mut info) }, 0);
    info
}

fn connected(transfer: *mut duramen_transfer) {
    let until = Instant::now() + Duration::from_secs(30);
    while look(transfer).peers < u32::from(HOSTS) - 1 {
        assert!(Instant::now() < until, "peers find each other");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn fetch(transfer: *mut duramen_transfer, position: u64, root: &[u8; 32]) -> i32 {
    unsafe { duramen_transfer_fetch(transfer, position, root.as_ptr()) }
}

/// The cluster in `dir` moves a state.
pub(super) fn works(dir: &Path) {
    let (seeder, leecher) = (open(dir, 0).unwrap(), open(dir, 1).unwrap());
    let state = Pages::new(5);
    let root = state.serve(seeder, 8).unwrap();
    assert_eq!(fetch(leecher, 8, &root), 0);
    assert_eq!(duramen_transfer_wait(leecher, 60_000), 0, "{}", message(leecher));
    let (code, pages) = install(leecher, 9999);
    assert!(code == 0 && pages.iter().zip(0..).all(|(page, index)| *page == state.page(index)));
    close(leecher);
    close(seeder);
}

#[test]
fn a_state_comes_from_several_peers_though_one_of_them_lies() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let all: Vec<_> = (0..u32::from(HOSTS)).map(|id| open(dir.path(), id).unwrap()).collect();
    let states: Vec<Pages> = (0..3).map(|_| Pages::new(77)).collect();
    let roots: Vec<_> = states.iter().zip(&all).map(|(pages, at)| pages.serve(*at, 40).unwrap()).collect();
    assert!(roots.iter().all(|root| *root == roots[0]), "the same pages have the same root");
    states[1].lies.store(true, Ordering::Relaxed);
    let leecher = all[3];
    connected(leecher);
    assert_eq!(duramen_transfer_wait(leecher, 0), DURAMEN_E_STATE);
    assert_eq!(install(leecher, 9999).0, DURAMEN_E_STATE);
    // Another root of the same place is in nobody's hands.
    let mut wrong = roots[0];
    wrong[31] ^= 1;
    assert_eq!(fetch(leecher, 40, &wrong), 0);
    assert_eq!(fetch(leecher, 40, &roots[0]), DURAMEN_E_STATE, "one at a time");
    assert_eq!(duramen_transfer_wait(leecher, 300), DURAMEN_E_TIMEOUT);
    assert!(message(leecher).contains("3 peers"), "{}", message(leecher));
    assert_eq!(duramen_transfer_cancel(leecher), 0);
    assert_eq!(duramen_transfer_wait(leecher, 0), DURAMEN_E_STATE);

    let fd = duramen_transfer_fd(leecher);
    assert!(!readable(fd, 0));
    assert_eq!(fetch(leecher, 40, &roots[0]), 0);
    assert!(readable(fd, 60_000));
    assert_eq!(duramen_transfer_wait(leecher, 0), 0);
    let info = look(leecher);
    assert_eq!((info.position, info.banned, readable(fd, 0)), (40, 1, false), "the liar is found");
    let held: u64 = (0..PAGES).map(|index| states[0].page(index).len() as u64).sum();
    assert!(info.received_bytes >= held && info.pages_here == info.pages_wanted);
    let sent: Vec<u64> = all[..3].iter().map(|at| look(*at).sent_bytes).collect();
    assert!(sent[0] > 0 && sent[2] > 0, "from several at once: {sent:?}");
    // A host that gives up may come again.
    let (code, some) = install(leecher, 60);
    assert_eq!((code, some.len()), (DURAMEN_E_CALLBACK, 60));
    let (code, pages) = install(leecher, 9999);
    assert_eq!(code, 0);
    assert!(pages.iter().zip(0..).all(|(page, index)| *page == states[0].page(index)));
    assert_eq!(pages.len() as u64, PAGES);
    assert_eq!(install(leecher, 9999).0, DURAMEN_E_STATE);
    all.into_iter().for_each(close);
    assert!(states.iter().all(|pages| pages.freed.load(Ordering::Relaxed) == 1));
}

#[test]
fn what_is_here_already_is_not_fetched() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let all: Vec<_> = (0..u32::from(HOSTS)).map(|id| open(dir.path(), id).unwrap()).collect();
    let state = Pages::new(5);
    let root = state.serve(all[0], 8).unwrap();
    // The same pages at an earlier place.
    let older = Pages::new(5);
    older.serve(all[3], 7).unwrap();
    assert_eq!(fetch(all[3], 8, &root), 0);
    assert_eq!(duramen_transfer_wait(all[3], 60_000), 0, "{}", message(all[3]));
    assert!(look(all[3]).received_bytes < 10_000, "{}", look(all[3]).received_bytes);
    let (code, pages) = install(all[3], 9999);
    assert_eq!((code, pages.len() as u64), (0, PAGES));
    assert!(pages.iter().zip(0..).all(|(page, index)| *page == state.page(index)));
    all.into_iter().for_each(close);
}

#[test]
fn wrong_arguments_and_wrong_order_have_codes() {
    let dir = real_dir("capi-transfer-");
    assert_eq!(open(dir.path(), 0).err(), Some(DURAMEN_E_CONFIG), "no cluster");
    cluster(&dir.path().join("cluster"));
    assert_eq!(open(dir.path(), 4).err(), Some(DURAMEN_E_CONFIG), "no such replica");
    let transfer = open(dir.path(), 0).unwrap();
    assert_eq!(open(dir.path(), 0).err(), Some(DURAMEN_E_IO), "its address is in use");
    let mut pages = Pages::new(1);
    assert_eq!(pages.serve(transfer, 0), Err(DURAMEN_E_ARGUMENT));
    pages.fails = true;
    assert_eq!(pages.serve(transfer, 1), Err(DURAMEN_E_CALLBACK));
    assert_eq!(pages.freed.load(Ordering::Relaxed), 2);
    let serve = |source: *const _| unsafe { duramen_transfer_serve(transfer, 1, source, null_mut()) };
    let small = duramen_page_source { struct_size: 16, ..pages.source(1) };
    let bare = duramen_page_source { page: None, ..pages.source(1) };
    assert_eq!(
        [serve(null()), serve(&raw const small), serve(&raw const bare)],
        [DURAMEN_E_ARGUMENT, DURAMEN_E_ABI, DURAMEN_E_ARGUMENT]
    );
    assert_eq!(fetch(transfer, 0, &[1; 32]), DURAMEN_E_ARGUMENT);
    assert_eq!(fetch(transfer, 1, &[0; 32]), DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_transfer_fetch(transfer, 1, null()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_transfer_install(transfer, None, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(unsafe { duramen_transfer_look(transfer, null_mut()) }, DURAMEN_E_ARGUMENT);
    assert_eq!(duramen_transfer_withdraw(transfer), 0);
    let mut buf = vec![0u8; 4096];
    let mut len = 0;
    assert_eq!(unsafe { duramen_transfer_metrics(transfer, buf.as_mut_ptr().cast(), 4096, &raw mut len) }, 0);
    assert!(buf[..len].ends_with(b"# EOF\n"));
    // Destroyed while it fetches what nobody has.
    assert_eq!(fetch(transfer, 1, &[1; 32]), 0);
    close(transfer);
    assert_eq!(
        [
            duramen_transfer_wait(transfer, 0),
            duramen_transfer_cancel(transfer),
            duramen_transfer_destroy(transfer, 0)
        ],
        [DURAMEN_E_HANDLE; 3]
    );
}

#[test]
fn a_page_that_cannot_be_given_once_is_sent_later() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let (seeder, leecher) = (open(dir.path(), 0).unwrap(), open(dir.path(), 1).unwrap());
    let state = Pages::new(5);
    let root = state.serve(seeder, 8).unwrap();
    state.misses.store(40, Ordering::Relaxed);
    assert_eq!(fetch(leecher, 8, &root), 0);
    assert_eq!(duramen_transfer_wait(leecher, 5_000), 0, "{}", message(leecher));
    assert_eq!(state.misses.load(Ordering::Relaxed), 0);
    let (code, pages) = install(leecher, 9999);
    assert!(code == 0 && pages.iter().zip(0..).all(|(page, index)| *page == state.page(index)));
    close(leecher);
    close(seeder);
}

/// Uses the transfer from within `take`.
struct Within(usize, Vec<i32>, bool);

unsafe extern "C" fn within(user: *mut c_void, _: u64, _: *const c_void, _: usize) -> i32 {
    let within = unsafe { &mut *user.cast::<Within>() };
    let transfer = std::ptr::without_provenance_mut(within.0);
    within.1 = vec![
        fetch(transfer, 9, &[1; 32]),
        duramen_transfer_cancel(transfer),
        unsafe { duramen_transfer_install(transfer, Some(take), null_mut()) },
        duramen_transfer_wait(transfer, 0),
    ];
    if !std::mem::replace(&mut within.2, true) {
        // Another thread forgets what is being installed, and fetches something else.
        let at = within.0;
        let other = std::thread::spawn(move || {
            let transfer = std::ptr::without_provenance_mut(at);
            (duramen_transfer_cancel(transfer), fetch(transfer, 9, &[1; 32]))
        });
        assert_eq!(other.join().unwrap(), (0, 0));
        within.1.clear();
    }
    0
}

#[test]
fn an_install_ends_no_fetch_but_its_own() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let (seeder, leecher) = (open(dir.path(), 0).unwrap(), open(dir.path(), 1).unwrap());
    let state = Pages::new(5);
    let root = state.serve(seeder, 8).unwrap();
    assert_eq!(fetch(leecher, 8, &root), 0);
    assert_eq!(duramen_transfer_wait(leecher, 20_000), 0, "{}", message(leecher));
    let mut user = Within(leecher.addr(), Vec::new(), false);
    assert_eq!(unsafe { duramen_transfer_install(leecher, Some(within), (&raw mut user).cast()) }, 0);
    let refused = DURAMEN_E_REENTRANT;
    assert_eq!(user.1, [refused, refused, refused, DURAMEN_E_TIMEOUT]);
    // The other fetch goes on.
    assert_eq!(duramen_transfer_wait(leecher, 0), DURAMEN_E_TIMEOUT);
    assert_eq!(look(leecher).position, 9);
    close(leecher);
    close(seeder);
}

/// Looks at the transfer from within `free`.
struct Looks {
    state: Pages,
    transfer: AtomicUsize,
    saw: AtomicUsize,
}

unsafe extern "C" fn page_of_looks(
    user: *mut c_void,
    index: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let state = std::ptr::from_ref(unsafe { &(*user.cast::<Looks>()).state });
    unsafe { page(state.cast_mut().cast(), index, buf, cap, len) }
}

unsafe extern "C" fn look_and_free(user: *mut c_void) {
    let looks = unsafe { &*user.cast::<Looks>() };
    let transfer = std::ptr::without_provenance_mut(looks.transfer.load(Ordering::Relaxed));
    looks.saw.store(look(transfer).position as usize, Ordering::Relaxed);
}

#[test]
fn a_state_that_a_cancel_frees_may_look_at_its_transfer() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let (seeder, leecher) = (open(dir.path(), 0).unwrap(), open(dir.path(), 1).unwrap());
    let (state, newer) = (Pages::new(5), Pages::new(6));
    let root = state.serve(seeder, 8).unwrap();
    let older = Looks { state: Pages::new(5), transfer: leecher.addr().into(), saw: 0.into() };
    let source = duramen_page_source {
        user: std::ptr::from_ref(&older).cast_mut().cast(),
        page: Some(page_of_looks),
        free: Some(look_and_free),
        ..older.state.source(PAGES)
    };
    assert_eq!(unsafe { duramen_transfer_serve(leecher, 7, &raw const source, null_mut()) }, 0);
    assert_eq!(fetch(leecher, 8, &root), 0);
    assert_eq!(duramen_transfer_wait(leecher, 60_000), 0, "{}", message(leecher));
    // What was fetched leans on the older state, and from now on nothing else does.
    newer.serve(leecher, 9).unwrap();
    newer.serve(leecher, 10).unwrap();
    let at = leecher.addr();
    let (done, cancelled) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        done.send(duramen_transfer_cancel(std::ptr::without_provenance_mut(at)))
    });
    assert_eq!(older.saw.load(Ordering::Relaxed), 0, "it is needed");
    assert_eq!(cancelled.recv_timeout(Duration::from_secs(20)), Ok(0), "it waits for itself");
    assert_eq!(older.saw.load(Ordering::Relaxed), 8);
    close(leecher);
    close(seeder);
}

#[test]
fn a_state_that_is_withdrawn_still_comes_to_who_is_being_sent_it() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let [seeder, leecher, other] = [0, 1, 2].map(|id| open(dir.path(), id).unwrap());
    let state = Pages::new(5);
    let root = state.serve(seeder, 8).unwrap();
    // Begun, and not at its end.
    state.misses.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(fetch(leecher, 8, &root), 0);
    let until = Instant::now() + Duration::from_secs(20);
    while look(leecher).pages_wanted == 0 {
        assert!(Instant::now() < until, "it finds the state");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(duramen_transfer_withdraw(seeder), 0);
    assert_eq!(fetch(other, 8, &root), 0);
    state.misses.store(0, Ordering::Relaxed);
    assert_eq!(duramen_transfer_wait(leecher, 10_000), 0, "{}", message(leecher));
    assert_eq!(duramen_transfer_wait(other, 2_000), DURAMEN_E_TIMEOUT);
    [seeder, leecher, other].into_iter().for_each(close);
}

#[test]
fn a_thread_that_is_gone_is_told_of() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let transfer = open(dir.path(), 0).unwrap();
    assert_eq!(tell_thread(transfer, ToStage::Stop), 0);
    let until = Instant::now() + Duration::from_secs(20);
    let mut code = 0;
    while code == 0 && Instant::now() < until {
        code = duramen_transfer_withdraw(transfer);
    }
    assert_eq!(code, DURAMEN_E_INTERNAL, "{}", message(transfer));
    assert_eq!(duramen_transfer_withdraw(transfer), DURAMEN_E_POISONED);
    close(transfer);
    // So is a pool that panicked.
    let transfer = open(dir.path(), 0).unwrap();
    assert_eq!(fetch(transfer, 1, &[1; 32]), 0);
    assert_eq!(tell_thread(transfer, ToStage::Unhashed), 0);
    assert_eq!(duramen_transfer_wait(transfer, 20_000), DURAMEN_E_INTERNAL);
    close(transfer);
}

/// Pages that lie in memory, so that a host takes next to no time to give them.
unsafe extern "C" fn copied(
    user: *mut c_void,
    index: u64,
    buf: *mut c_void,
    cap: usize,
    len: *mut usize,
) -> i32 {
    let state = unsafe { &*user.cast::<Vec<u8>>() };
    let page = &state[index as usize * SPEED_PAGE..][..SPEED_PAGE];
    assert!(SPEED_PAGE <= cap);
    unsafe {
        std::ptr::copy_nonoverlapping(page.as_ptr(), buf.cast(), SPEED_PAGE);
        *len = SPEED_PAGE;
    }
    0
}

unsafe extern "C" fn counted(user: *mut c_void, _: u64, _: *const c_void, len: usize) -> i32 {
    unsafe { *user.cast::<usize>() += len };
    0
}

const SPEED_PAGE: usize = 64 << 10;

#[test]
#[ignore = "prints how fast 256 MiB come over loopback; nothing is asserted of it"]
fn speed_of_a_fetch() {
    let dir = real_dir("capi-transfer-");
    cluster(&dir.path().join("cluster"));
    let all: Vec<_> = (0..u32::from(HOSTS)).map(|id| open(dir.path(), id).unwrap()).collect();
    let mut at = 1u64;
    let words = std::iter::repeat_with(|| {
        at ^= at << 13;
        at ^= at >> 7;
        at ^= at << 17;
        at.to_le_bytes()
    });
    let state: Vec<u8> = words.take((256 << 20) / 8).flatten().collect();
    let user = std::ptr::from_ref(&state).cast_mut().cast();
    let pages = (state.len() / SPEED_PAGE) as u64;
    let struct_size = size_of::<duramen_page_source>();
    let source = duramen_page_source { struct_size, user, pages, page: Some(copied), free: None };
    let mut root = [0; 32];
    for seeder in &all[..3] {
        let served = unsafe { duramen_transfer_serve(*seeder, 1, &raw const source, root.as_mut_ptr()) };
        assert_eq!(served, 0);
    }
    let leecher = all[3];
    connected(leecher);
    for round in 0..7 {
        let began = Instant::now();
        assert_eq!(fetch(leecher, 1, &root), 0);
        assert_eq!(duramen_transfer_wait(leecher, 120_000), 0, "{}", message(leecher));
        let took = began.elapsed().as_secs_f64();
        println!("round {round}: {took:.3} s, {:.0} MB/s", state.len() as f64 / 1e6 / took);
        let mut taken = 0usize;
        let code = unsafe { duramen_transfer_install(leecher, Some(counted), (&raw mut taken).cast()) };
        assert_eq!((code, taken), (0, state.len()));
    }
    all.into_iter().for_each(close);
}
