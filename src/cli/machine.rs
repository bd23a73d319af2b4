//! What a figure was taken on, and what a process has used.

use std::fs;
use std::path::{Path, PathBuf};

use duramen::log::disk_check;
use duramen::sys;

/// The machine block of every output with figures.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    pub mount: Mount,
    /// Synchronous 4 KiB write, one at a time, nanoseconds: median and 99th percentile.
    pub sync_write_ns: (u64, u64),
}

/// Where a folder lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub device: String,
    pub file_system: String,
}

impl Mount {
    /// Of an existing folder.
    pub fn of(dir: &Path) -> Mount {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.into());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mount_of(&mounts, &dir)
            .unwrap_or_else(|| Mount { device: "unknown".into(), file_system: "unknown".into() })
    }

    /// Whether what is written there survives no power loss.
    pub fn in_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }
}

/// The last mount in `mountinfo` (proc(5)) among those with the longest path that `dir` lies under.
pub(super) fn mount_of(mountinfo: &str, dir: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let Some(point) = head.split(' ').nth(4) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        let mut tail = tail.split(' ');
        let (Some(file_system), Some(device)) = (tail.next(), tail.next()) else { continue };
        let length = point.as_os_str().len();
        if dir.starts_with(&point) && best.as_ref().is_none_or(|(longest, _)| length >= *longest) {
            let mount = Mount { device: device.into(), file_system: file_system.into() };
            best = Some((length, mount));
        }
    }
    best.map(|(_, mount)| mount)
}

impl Machine {
    /// Looks around and measures the disk under `dir`: half a second.
    pub fn measure(dir: &Path) -> Result<Machine, String> {
        let disk = disk_check(dir, &[4 << 10]).map_err(|e| e.to_string())?;
        let small = disk.speeds.first().ok_or("the disk was not measured")?;
        let line = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory_kib: u64 =
            line("/proc/meminfo", "MemTotal").trim_end_matches("kB").trim().parse().unwrap_or(0);
        Ok(Machine {
            cpu: Some(line("/proc/cpuinfo", "model name"))
                .filter(|cpu| !cpu.is_empty())
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_kib << 10,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
            mount: Mount::of(dir),
            sync_write_ns: (small.write_ns_p50, small.write_ns_p99),
        })
    }

    /// Two lines for people.
    pub fn describe(&self) -> String {
        let (p50, p99) = self.sync_write_ns;
        let Mount { device, file_system } = &self.mount;
        let memory = if self.mount.in_memory() { " (IN MEMORY: not durable)" } else { "" };
        format!(
            "machine    {}, {} cores, {} GiB, Linux {}\n\
             disk       {file_system} on {device}{memory}; synchronous 4 KiB write p50 {} p99 {} us",
            self.cpu,
            self.cores,
            (self.memory_bytes + (1 << 29)) >> 30,
            self.kernel,
            p50 / 1000,
            p99 / 1000,
        )
    }

    /// The same as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "kernel": self.kernel,
            "file_system": self.mount.file_system,
            "device": self.mount.device,
            "sync_write_us_p50": self.sync_write_ns.0 as f64 / 1e3,
            "sync_write_us_p99": self.sync_write_ns.1 as f64 / 1e3,
        })
    }
}

/// CPU seconds that a process has used, in user mode and in the kernel. 0 if it is gone.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    cpu_ticks(&stat) as f64 / sys::clock_ticks() as f64
}

/// CPU seconds of each thread of this process: its id and name.
pub fn thread_cpu_seconds() -> Vec<(u32, String, f64)> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let id = task.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            Some((id, name, cpu_ticks(&stat) as f64 / sys::clock_ticks() as f64))
        })
        .collect()
}

/// `utime` + `stime` of a line of proc_pid_stat(5). The name in parentheses may hold anything.
pub(super) fn cpu_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Bytes of memory that a process has resident. 0 if it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) << 10
}
