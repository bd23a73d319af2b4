//! The pool that hashes received chunks while more arrive. Not that of the agreement: what a transfer hashes must not stand in the way
//! of what is checked there.

use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A pool. Its threads are joined when this is dropped, which waits until whoever else has the pool has let it go.
pub struct Hashers {
    pool: Option<Arc<ThreadPool>>,
    threads: Vec<JoinHandle<()>>,
}

impl Hashers {
    /// Half of the processors. `panicked` is told, on its thread, that a job has panicked: nobody will hear of that job any more.
    pub fn start(panicked: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 8));
        let threads = Mutex::new(Vec::new());
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .panic_handler(move |_| panicked())
            .spawn_handler(|thread| {
                let builder = std::thread::Builder::new().name(format!("duramen-hash{}", thread.index()));
                threads.lock().push(builder.spawn(|| {
                    crate::sys::step_back();
                    thread.run();
                })?);
                Ok(())
            })
            .build();
        let mut this = Self { pool: None, threads: threads.into_inner() };
        // On an error those that began are joined.
        this.pool = Some(Arc::new(pool.map_err(io::Error::other)?));
        Ok(this)
    }

    /// It.
    pub fn pool(&self) -> &Arc<ThreadPool> {
        self.pool.as_ref().expect("until it is dropped")
    }
}

impl Drop for Hashers {
    fn drop(&mut self) {
        self.pool = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
