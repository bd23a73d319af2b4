//! A service that takes a set time for each operation: for figures in which execution is the slower half.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Context, PageSource, QueryReply, RestoreError, Service, Snapshot, Waiter};

/// Sleeps of less than this take much longer than asked for: shorter debts are gathered.
const NAP: Duration = Duration::from_millis(1);

/// Another service, slowed down. Its thread sleeps, so that on a small machine the time costs no core.
pub struct SlowService {
    inner: Box<dyn Service>,
    cost: Duration,
    /// Time owed, nanoseconds; negative after a sleep that was too long. On average every operation takes its time.
    owed_ns: i64,
}

impl SlowService {
    /// `inner` with `cost` for each ordered operation.
    pub fn new(inner: Box<dyn Service>, cost: Duration) -> Self {
        Self { inner, cost, owed_ns: 0 }
    }
}

impl SlowService {
    fn slowly<R>(&mut self, run: impl FnOnce(&mut dyn Service) -> R) -> R {
        let began = Instant::now();
        let reply = run(&mut *self.inner);
        self.owed_ns += self.cost.as_nanos() as i64;
        if self.owed_ns >= NAP.as_nanos() as i64 {
            std::thread::sleep(Duration::from_nanos(self.owed_ns as u64));
        }
        self.owed_ns -= began.elapsed().as_nanos() as i64;
        reply
    }
}

impl Service for SlowService {
    fn execute(&mut self, context: &Context, operation: &[u8]) -> Bytes {
        self.slowly(|inner| inner.execute(context, operation))
    }

    fn begin(&mut self, context: &Context, operation: &[u8]) -> Option<Bytes> {
        self.slowly(|inner| inner.begin(context, operation))
    }

    fn answers(&mut self) -> Vec<(Waiter, Bytes)> {
        self.inner.answers()
    }

    fn withdraw(&mut self, waiter: &Waiter) {
        self.inner.withdraw(waiter);
    }

    fn query(&self, operation: &[u8]) -> QueryReply {
        self.inner.query(operation)
    }

    fn snapshot(&self) -> Box<dyn Snapshot> {
        self.inner.snapshot()
    }

    fn restore(&mut self, input: &mut dyn Read) -> Result<(), RestoreError> {
        self.inner.restore(input)
    }

    fn restore_pages(
        &mut self,
        header: &[u8],
        count: u64,
        source: &mut PageSource<'_>,
    ) -> Result<(), RestoreError> {
        self.inner.restore_pages(header, count, source)
    }
}
