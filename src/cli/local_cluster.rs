//! A cluster of child processes on this machine: for `demo`, `bench` and the process tests, which include this file.
//!
//! Each replica is `duramen start --replica i`; its stderr goes to `replica-<i>.stderr` in the cluster's folder. The
//! children end with the thread that started them, and dropping [`LocalCluster`] kills them and removes the folder.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use duramen::config::Config;
use duramen::init::{InitOptions, init};
use duramen::types::ReplicaId;
use duramen::{data_dir, replica, sys};

/// How long a replica may take to end by itself before it is killed.
const STOP_TIME: Duration = Duration::from_secs(10);
/// How often waiting looks around.
const LOOK: Duration = Duration::from_millis(50);

/// The cluster.
pub struct LocalCluster {
    /// Its configuration.
    pub config: Config,
    dir: PathBuf,
    exe: PathBuf,
    args: Vec<String>,
    running: Vec<Option<Running>>,
    keep: bool,
}

struct Running {
    child: Child,
    ready: Receiver<String>,
}

impl LocalCluster {
    /// Makes a cluster as `options` say, but on free ports of the loopback interface. `options.dir` must not hold
    /// anything. `args` are added to each `start` of the binary `exe`.
    pub fn create(
        exe: &Path,
        options: InitOptions,
        args: &[&str],
        allow_tmpfs: bool,
    ) -> Result<LocalCluster, String> {
        let listen = format!("127.0.0.1:{}", free_ports(2 * options.replicas as u16)?);
        let options = InitOptions { listen, ..options };
        if fs::read_dir(&options.dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(format!("{}: not empty: choose another folder", options.dir.display()));
        }
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        if options.insecure {
            args.push("--insecure".into());
        }
        if allow_tmpfs {
            args.push("--allow-tmpfs".into());
        }
        let made = init(&options, &|log, config, id| {
            replica::format_log(log, config, id, allow_tmpfs).map_err(|e| e.to_string().into())
        });
        let config = made.map_err(|e| {
            let _ = fs::remove_dir_all(&options.dir);
            e.to_string()
        })?;
        let running = (0..options.replicas).map(|_| None).collect();
        Ok(Self { config, dir: options.dir, exe: exe.into(), args, running, keep: false })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of replicas.
    pub fn n(&self) -> u32 {
        self.running.len() as u32
    }

    /// Leaves the folder in place at the end.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// The process of a replica, if it was started and not stopped.
    pub fn pid(&self, i: u32) -> Option<u32> {
        self.running[i as usize].as_ref().map(|running| running.child.id())
    }

    /// Where a replica's stderr goes.
    pub fn stderr_file(&self, i: u32) -> PathBuf {
        self.dir.join(format!("replica-{i}.stderr"))
    }

    /// The last line a replica wrote to stderr; empty if there is none.
    pub fn last_words(&self, i: u32) -> String {
        let text = fs::read_to_string(self.stderr_file(i)).unwrap_or_default();
        text.lines().last().unwrap_or_default().to_owned()
    }

    /// Starts a replica's process. It is not ready yet.
    pub fn start(&mut self, i: u32) -> Result<(), String> {
        self.start_with(i, &[])
    }

    /// As [`LocalCluster::start`], with more arguments.
    pub fn start_with(&mut self, i: u32, more: &[&str]) -> Result<(), String> {
        assert!(self.running[i as usize].is_none(), "replica {i} runs already");
        let stderr = OpenOptions::new().create(true).append(true).open(self.stderr_file(i));
        let stderr: File = stderr.map_err(|e| format!("{}: {e}", self.stderr_file(i).display()))?;
        let mut command = Command::new(&self.exe);
        command
            .args(["start", "--replica", &i.to_string(), "--dir"])
            .arg(&self.dir)
            .args(&self.args)
            .args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        // Ctrl-C is for us alone: replicas that stopped by themselves would leave requests unanswered, and no result.
        command.process_group(0);
        sys::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", self.exe.display()))?;
        let stdout = child.stdout.take().expect("it was piped");
        let (said, ready) = channel();
        // Ends with the child. It reads on, so that the child never waits for a full pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        self.running[i as usize] = Some(Running { child, ready });
        Ok(())
    }

    /// Waits until a replica that was started says that it is ready, and returns that line.
    /// `go_on` is asked now and then; when it says false, waiting fails.
    pub fn wait_ready(
        &mut self,
        i: u32,
        timeout: Duration,
        go_on: &dyn Fn() -> bool,
    ) -> Result<String, String> {
        let end = Instant::now() + timeout;
        loop {
            let running = self.running[i as usize].as_mut().ok_or(format!("replica {i} was not started"))?;
            match running.ready.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = running.child.wait().map_err(|e| e.to_string())?;
                    self.running[i as usize] = None;
                    return Err(format!("replica {i} did not start ({status}): {}", self.last_words(i)));
                }
                Err(RecvTimeoutError::Timeout) if !go_on() => return Err("interrupted".into()),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                    let (seconds, words) = (timeout.as_secs(), self.last_words(i));
                    return Err(format!("replica {i} was not ready within {seconds} s: {words}"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Starts every replica that does not run and waits until all are ready.
    pub fn start_all(&mut self, timeout: Duration, go_on: &dyn Fn() -> bool) -> Result<Vec<String>, String> {
        let stopped: Vec<u32> = (0..self.n()).filter(|i| self.running[*i as usize].is_none()).collect();
        for i in &stopped {
            self.start(*i)?;
        }
        stopped.into_iter().map(|i| self.wait_ready(i, timeout, go_on)).collect()
    }

    /// Removes what a replica that does not run has on disk, as if the disk were a new one, and lets it `recover`.
    pub fn lose_disk(&self, i: u32) -> Result<(), String> {
        assert!(self.running[i as usize].is_none(), "replica {i} runs");
        let id = ReplicaId(i);
        let folders = [
            data_dir::log_dir(&self.dir, id),
            data_dir::decisions_dir(&self.dir, id),
            data_dir::checkpoint_dir(&self.dir, &self.config, id),
        ];
        for folder in folders.into_iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        let mut command = Command::new(&self.exe);
        command.args(["recover", "--replica", &i.to_string(), "--dir"]).arg(&self.dir).stdin(Stdio::null());
        command.args(self.args.iter().filter(|arg| *arg == "--allow-tmpfs"));
        let output = command.output().map_err(|e| format!("{}: {e}", self.exe.display()))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("`recover` failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    }

    /// `kill -9`, and waits for the process to be gone.
    pub fn kill(&mut self, i: u32) {
        if let Some(mut running) = self.running[i as usize].take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// `kill -9` of all, none of which is waited for before all are hit.
    pub fn kill_all(&mut self) {
        for running in self.running.iter_mut().flatten() {
            let _ = running.child.kill();
        }
        (0..self.n()).for_each(|i| self.kill(i));
    }

    /// Asks all to end, then waits for all.
    pub fn stop_all(&mut self) -> Result<(), String> {
        for running in self.running.iter().flatten() {
            let _ = sys::terminate(&running.child);
        }
        let end = Instant::now() + STOP_TIME;
        (0..self.n()).map(|i| self.wait_end(i, end)).fold(Ok(()), Result::and)
    }

    fn wait_end(&mut self, i: u32, end: Instant) -> Result<(), String> {
        let Some(running) = self.running[i as usize].as_mut() else { return Ok(()) };
        let status = loop {
            match running.child.try_wait().map_err(|e| e.to_string())? {
                Some(status) => break Some(status),
                None if Instant::now() >= end => break None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        self.kill(i);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("replica {i} ended with {status}: {}", self.last_words(i))),
            None => Err(format!("replica {i} did not end within {} s and was killed", STOP_TIME.as_secs())),
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.kill_all();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The first of `n` ports in a row that are free on the loopback interface.
///
/// They lie below the range from which the kernel draws the near ends of outgoing connections: otherwise one of those
/// could take a killed replica's port before the replica comes back.
pub fn free_ports(n: u16) -> Result<u16, String> {
    const FROM: u16 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768u16);
    let span = low.saturating_sub(n).checked_sub(FROM).filter(|span| *span > 0).unwrap_or(20_000);
    let mut random = u64::from(std::process::id()) << 32 ^ now_ns();
    for _ in 0..1000 {
        // Knuth's multiplicative generator: processes that start together must not search in step.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let first = FROM + ((random >> 33) % u64::from(span)) as u16;
        let bound: Result<Vec<_>, _> =
            (first..first + n).map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if bound.is_ok() {
            return Ok(first);
        }
    }
    Err(format!("there are no {n} free ports in a row on 127.0.0.1"))
}

fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
