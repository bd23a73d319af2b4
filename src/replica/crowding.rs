//! [shell] Whether a thread's processor is wanted by others: by what the kernel says it had to wait for it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Looked at by one thread, about its own time.
pub struct Crowding {
    /// `None`: this kernel does not say.
    schedstat: Option<File>,
    seen: Times,
}

/// Since a thread's start, ns.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Times {
    /// On a processor.
    ran: u64,
    /// Ready to run, and waiting for one.
    waited: u64,
}

impl Crowding {
    /// Of the calling thread.
    pub fn new() -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let mut crowding = Self { schedstat, seen: Times::default() };
        crowding.is_felt();
        crowding
    }

    /// Whether it waited for longer than it ran, since it last asked.
    pub fn is_felt(&mut self) -> bool {
        let Some(now) = self.schedstat.as_ref().and_then(read) else { return false };
        let before = std::mem::replace(&mut self.seen, now);
        now.is_crowded_since(before)
    }
}

impl Times {
    fn is_crowded_since(self, before: Self) -> bool {
        self.waited.saturating_sub(before.waited) > self.ran.saturating_sub(before.ran)
    }

    /// From the kernel's line: ran, waited, turns.
    fn of(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().map(str::parse);
        Some(Self { ran: words.next()?.ok()?, waited: words.next()?.ok()? })
    }
}

fn read(schedstat: &File) -> Option<Times> {
    let mut line = [0; 96];
    let bytes = schedstat.read_at(&mut line, 0).ok()?;
    Times::of(std::str::from_utf8(&line[..bytes]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowded_is_who_waited_for_longer_than_it_ran() {
        let [a, b, c] = ["700 50 3\n", "800 140 4\n", "900 241 5\n"].map(|line| Times::of(line).unwrap());
        assert!(!b.is_crowded_since(a));
        assert!(c.is_crowded_since(b));
        assert!(["", "700\n", "700 x 3\n"].iter().all(|line| Times::of(line).is_none()));
    }

    #[test]
    fn the_kernel_counts_what_this_thread_ran() {
        let Some(schedstat) = File::open("/proc/thread-self/schedstat").ok() else { return };
        let before = read(&schedstat).unwrap();
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 20 {}
        assert!(read(&schedstat).unwrap().ran > before.ran);
    }
}
