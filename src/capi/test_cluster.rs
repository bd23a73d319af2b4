//! A cluster in this process for tests of the C interface, and the calls on it that C would make.

use super::base_tests::message;
use super::client::*;
use super::conf::*;
use super::handle::DURAMEN_FOREVER;
use super::replica::*;
use super::status::*;
use crate::config::{CheckpointLimits, LogLimits};
use crate::init::{InitOptions, init};
use crate::quorum::FaultModel;
use crate::replica::format_log;
use std::ffi::{CString, c_char, c_void};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// As many neighbouring free ports, apart from those of other tests.
fn free_ports(n: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..1000 {
        let step = NEXT.fetch_add(n, Ordering::Relaxed);
        let first = 30_100 + (std::process::id() as u16 % 100 * 24 + step) % 2_600;
        if (0..n).all(|i| TcpListener::bind(("127.0.0.1", first + i)).is_ok()) {
            return first;
        }
    }
    panic!("no {n} neighbouring free ports");
}

/// The folder of a cluster, and its replicas' handles.
pub(super) struct Cluster {
    dir: tempfile::TempDir,
    pub replicas: Vec<*mut duramen_replica>,
}

impl Cluster {
    /// Made, not started. Checkpoints every `period` places.
    pub fn new(model: FaultModel, n: u32, period: u64) -> Self {
        let parent: &Path = concat!(env!("CARGO_MANIFEST_DIR"), "/target").as_ref();
        let dir = tempfile::tempdir_in(parent).unwrap();
        let limits =
            crate::config::Limits { request_bytes: 512 << 10, batch_bytes: 512 << 10, ..Default::default() };
        let options = InitOptions {
            dir: dir.path().join("cluster"),
            replicas: n,
            model,
            listen: format!("127.0.0.1:{}", free_ports(2 * n as u16)),
            log: LogLimits { segment_mib: 2, bytes_max_mib: 16, spare_segments: 1, ..LogLimits::default() },
            checkpoint: CheckpointLimits { period, log_keep_mib: 0, ..CheckpointLimits::default() },
            limits,
            ..InitOptions::default()
        };
        init(&options, &|log, config, id| Ok(format_log(log, config, id, true)?)).unwrap();
        Self { dir, replicas: vec![null_mut(); n as usize] }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    /// A configuration for it with these keys.
    pub fn conf(&self, values: &[(&str, &str)]) -> *mut duramen_conf {
        conf(&[&[("dir", self.path().to_str().unwrap()), ("allow-tmpfs", "true")], values].concat())
    }

    /// Starts a replica with `start`, which is handed configuration, id and the place for the handle.
    pub fn start(
        &mut self,
        id: u32,
        start: impl FnOnce(*mut duramen_conf, u32, *mut *mut duramen_replica) -> i32,
    ) {
        let conf = self.conf(&[]);
        let code = start(conf, id, &raw mut self.replicas[id as usize]);
        assert_eq!(code, DURAMEN_OK, "{}", message(null_mut::<c_void>()));
        assert_eq!(duramen_conf_destroy(conf), DURAMEN_OK);
    }

    pub fn stop(&mut self, id: u32) {
        let replica = std::mem::replace(&mut self.replicas[id as usize], null_mut());
        assert_eq!(duramen_replica_destroy(replica, DURAMEN_FOREVER), DURAMEN_OK);
    }

    pub fn client(&self, values: &[(&str, &str)]) -> *mut duramen_client {
        let conf = self.conf(values);
        let mut client = null_mut();
        let code = unsafe { duramen_client_open(conf, &raw mut client) };
        assert_eq!(code, DURAMEN_OK, "{}", message(null_mut::<c_void>()));
        assert_eq!(duramen_conf_destroy(conf), DURAMEN_OK);
        client
    }

    pub fn status(&self, id: u32) -> String {
        let replica = self.replicas[id as usize];
        text(|buf, cap, len| unsafe { duramen_replica_status(replica, buf, cap, len) })
    }
}

impl Cluster {
    /// A number in a replica's status.
    pub fn number(&self, id: u32, name: &str) -> u64 {
        let json = self.status(id);
        let at = json.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {json}"));
        let digits = json[at + name.len() + 3..].split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{name} in {json}"))
    }

    /// Until no log has its beginning any more: who lacks it needs a state.
    pub fn push_logs_on(&self, client: *mut duramen_client) {
        let op = [0xEE; 48 << 10];
        let all = || 0..self.replicas.len() as u32;
        until("the logs keep their beginning", || {
            for _ in 0..8 {
                done(client, &op, 0);
            }
            until("they do not get to one place", || {
                let executed = || all().map(|id| self.number(id, "executed"));
                executed().max() == executed().min()
            });
            all().all(|id| self.number(id, "first_lsn") > 1)
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for replica in self.replicas.drain(..).filter(|replica| !replica.is_null()) {
            duramen_replica_destroy(replica, DURAMEN_FOREVER);
        }
    }
}

pub(super) fn conf(values: &[(&str, &str)]) -> *mut duramen_conf {
    let conf = duramen_conf_new();
    for (key, value) in values {
        let (key, value) = (CString::new(*key).unwrap(), CString::new(*value).unwrap());
        let code = unsafe { duramen_conf_set(conf, key.as_ptr(), value.as_ptr(), null_mut(), 0) };
        assert_eq!(code, DURAMEN_OK, "{key:?}");
    }
    conf
}

/// What a function writes into a buffer.
pub(super) fn text(call: impl FnOnce(*mut c_char, usize, *mut usize) -> i32) -> String {
    let (mut buf, mut len) = (vec![0u8; 1 << 16], 0);
    assert_eq!(call(buf.as_mut_ptr().cast(), buf.len(), &raw mut len), DURAMEN_OK);
    buf.truncate(len);
    String::from_utf8(buf).unwrap()
}

/// A blocking call: result code, outcome, reply.
pub(super) fn call(client: *mut duramen_client, op: &[u8], flags: u32) -> (i32, i32, Vec<u8>) {
    let (mut reply, mut len, mut outcome) = (vec![0u8; 1 << 16], 0, -1);
    let at = (op.as_ptr().cast(), reply.as_mut_ptr().cast(), reply.len());
    let code = unsafe {
        duramen_client_call(client, at.0, op.len(), flags, 20_000, at.1, at.2, &raw mut len, &raw mut outcome)
    };
    reply.truncate(len);
    (code, outcome, reply)
}

/// A call that is executed.
pub(super) fn done(client: *mut duramen_client, op: &[u8], flags: u32) -> Vec<u8> {
    let (code, outcome, reply) = call(client, op, flags);
    let text = String::from_utf8_lossy(&reply);
    assert_eq!((code, outcome), (DURAMEN_OK, DURAMEN_DONE), "{text} {}", message(client));
    reply
}

/// Waits for what must come.
pub(super) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
