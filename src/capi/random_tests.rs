//! A hundred thousand calls that no sane host would make: each ends with a result code.

use super::client::*;
use super::conf::*;
use super::entry::duramen_errmsg;
use super::handle::DURAMEN_FOREVER;
use super::logging::*;
use super::pages::*;
use super::replica::*;
use super::replica_tests::{sums, table};
use super::service::*;
use super::status::*;
use super::test_cluster::done;
use crate::quorum::FaultModel;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

const CALLS: usize = 100_000;

/// Xorshift: the same numbers from the same beginning.
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero, and neighbours begin alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

static CALLED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn count(_: *mut c_void, _: i32, _: *const c_void, _: usize) {
    CALLED.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn line(_: *mut c_void, _: i32, line: *const c_char) {
    assert!(!unsafe { CStr::from_ptr(line) }.to_bytes().is_empty());
}

#[test]
fn no_sequence_of_calls_does_anything_but_return_codes() {
    let (cluster, _sums) = sums(FaultModel::Crash, 3, 64);
    let (client, replica) = (cluster.client(&[]), cluster.replicas[0]);
    let seed = std::env::var("DURAMEN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("DURAMEN_SEED={seed}");
    let mut random = Random::new(seed);
    // Numbers that are, were, or never were handles, or lent.
    let mut pool: Vec<usize> = vec![0, 1, 16, usize::MAX, isize::MAX as usize, client.addr(), replica.addr()];
    let words = [c"dir", c"client", c"callbacks", c"deadline-ms", c"", c"thread", c"true", c"7", c"/nowhere"];
    let lengths = [0, 1, 7, 64, usize::MAX, isize::MAX as usize + 1];
    let sum = super::replica_tests::Sum::default();
    let services = [0, 8, 71, 72, 1 << 40].map(|struct_size| {
        // One that is long enough has no query: nothing is started.
        duramen_service { struct_size, query: None, ..table(&sum) }
    });
    let (mut submitted, mut buf) = (0, [0u8; 64]);
    for call in 0..CALLS {
        let handle = match random.below(8) {
            0 => random.of(&[client.addr(), replica.addr()]),
            _ => random.of(&pool),
        };
        let word = |random: &mut Random| match random.below(8) {
            0 => null(),
            _ => random.of(&words).as_ptr(),
        };
        // A length is absurd, or the buffer's at most, or the pointer is NULL.
        let (at, len) = match random.below(3) {
            0 => (null_mut(), random.of(&lengths)),
            _ => (buf.as_mut_ptr().cast::<c_void>(), random.of(&lengths)),
        };
        let cap = len.min(buf.len());
        let (mut len_out, mut outcome) = (0, 0);
        let place = if random.below(4) == 0 { null_mut() } else { &raw mut len_out };
        let flags = random.of(&[0, DURAMEN_READ, 2, u32::MAX]);
        let living = handle == client.addr() || handle == replica.addr();
        let conf = without_provenance_mut::<duramen_conf>(handle);
        let a_client = without_provenance_mut::<duramen_client>(handle);
        let a_replica = without_provenance_mut::<duramen_replica>(handle);
        // SAFETY: pointers are NULL or lead to as many bytes as their lengths say, as far as a length can be true.
        let code = unsafe {
            match random.below(24) {
                0 if pool.len() < 200 => {
                    pool.push(duramen_conf_new().addr());
                    0
                }
                0 | 1 => duramen_conf_destroy(conf),
                2 | 3 => {
                    let (key, value) = (word(&mut random), word(&mut random));
                    duramen_conf_set(conf, key, value, at.cast(), cap)
                }
                4 => duramen_conf_get(conf, word(&mut random), at.cast(), cap, place),
                // Opening something real takes its time: seldom.
                5 => {
                    let mut out = null_mut();
                    let out = if random.below(2) == 0 { null_mut() } else { &raw mut out };
                    duramen_client_open(conf, out)
                }
                6 | 7 if handle != client.addr() || random.below(2) == 0 => {
                    let cb: duramen_outcome_fn = if random.below(4) == 0 { None } else { Some(count) };
                    let code = duramen_client_submit(a_client, at, len, flags, 50, cb, null_mut());
                    submitted += usize::from(code == DURAMEN_OK);
                    code
                }
                8 if handle != client.addr() || random.below(200) == 0 => {
                    let outcome = if random.below(4) == 0 { null_mut() } else { &raw mut outcome };
                    duramen_client_call(a_client, null(), len, flags, 2, at, cap, place, outcome)
                }
                9 => duramen_client_fd(a_client),
                10 => duramen_client_poll(a_client, random.below(3) as u32, 0),
                11 => duramen_client_metrics(a_client, at.cast(), cap, place),
                12 if !living => duramen_client_destroy(a_client, random.of(&[0, 1, DURAMEN_FOREVER])),
                12 => duramen_client_destroy(replica.cast(), 0),
                13 => {
                    let service = random.of(&services);
                    let service = if random.below(4) == 0 { null() } else { &raw const service };
                    let mut out = null_mut();
                    duramen_replica_start(conf, random.next() as u32, service, &raw mut out)
                }
                14 => duramen_replica_start_paged(conf, 0, null(), null_mut()),
                15 if handle != replica.addr() || random.below(20) == 0 => {
                    duramen_replica_status(a_replica, at.cast(), cap, place)
                }
                16 if handle != replica.addr() || random.below(20) == 0 => {
                    duramen_replica_metrics(a_replica, at.cast(), cap, place)
                }
                17 => duramen_replica_wait_failed(a_replica, 0, at.cast(), cap),
                18 if !living => duramen_replica_destroy(a_replica, random.of(&[0, 1, DURAMEN_FOREVER])),
                18 => duramen_replica_destroy(client.cast(), DURAMEN_FOREVER),
                19 => duramen_reply_set(without_provenance_mut(handle), at, len),
                20 => duramen_writer_put(without_provenance_mut(handle), at, len),
                21 => duramen_reader_get(without_provenance_mut(handle), at, cap),
                22 => {
                    let pages = without_provenance_mut(handle);
                    assert_eq!(duramen_pages_count(pages), 0);
                    let mut bytes = null();
                    duramen_pages_free(pages, random.next())
                        .min(duramen_pages_write(pages, random.next(), at, len))
                        .min(duramen_pages_read(pages, random.next(), &raw mut bytes, place))
                }
                _ => {
                    let n = duramen_errmsg(without_provenance_mut(handle), at.cast(), cap);
                    assert!(n < 4096);
                    let function: duramen_log_fn = if random.below(2) == 0 { None } else { Some(line) };
                    duramen_set_log_callback(random.next() as i32 % 7, function, null_mut())
                }
            }
        };
        assert!(
            code != DURAMEN_E_INTERNAL && code != DURAMEN_E_POISONED && code > -21,
            "call {call} of seed {seed} gave {code}"
        );
        if pool.len() > 150 {
            pool.truncate(40);
        }
    }
    // Those that lived through it work.
    assert_eq!(done(client, &1u64.to_le_bytes(), 0).len(), 8);
    assert_eq!(duramen_client_destroy(client, DURAMEN_FOREVER), DURAMEN_OK);
    assert_eq!(CALLED.load(Ordering::Relaxed), submitted);
    assert!(submitted > 0);
    assert_eq!(unsafe { duramen_set_log_callback(DURAMEN_LOG_INFO, None, null_mut()) }, DURAMEN_OK);
    drop(cluster);
}
