//! Threads for what takes long and can be done beside each other. A replica has two of them: what a transfer hashes must not stand in the
//! way of what the agreement has checked.

use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A pool. Its threads are joined when this is dropped, which waits until whoever else has the pool has let it go.
pub struct Pool {
    pool: Option<Arc<ThreadPool>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// On half of the processors, by this name and a number; each thread does `first` before all. `panicked` is told, on its thread, that
    /// a job has panicked: nobody will hear of that job any more.
    pub fn start(name: &str, first: fn(), panicked: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 8));
        let threads = Mutex::new(Vec::new());
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .panic_handler(move |_| panicked())
            .spawn_handler(|thread| {
                let builder = std::thread::Builder::new().name(format!("{name}{}", thread.index()));
                threads.lock().push(builder.spawn(move || {
                    first();
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
    pub fn threads(&self) -> &Arc<ThreadPool> {
        self.pool.as_ref().expect("until it is dropped")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pool = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
