use super::pool::Pool;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Sets its flag a while after its thread was told to end.
struct Slow(Arc<AtomicBool>);

impl Drop for Slow {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.0.store(true, Ordering::Release);
    }
}

thread_local! {
    static SLOW: RefCell<Option<Slow>> = const { RefCell::new(None) };
}

#[test]
fn threads_are_joined_and_a_job_that_panics_is_told() {
    let (told, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let counts = told.clone();
    let pool = Pool::start("pool", || (), move || _ = counts.fetch_add(1, Ordering::AcqRel)).unwrap();
    pool.threads().spawn(|| panic!("on purpose"));
    let slow = Slow(ended.clone());
    pool.threads().spawn(move || SLOW.with(|at| _ = at.replace(Some(slow))));
    let others = pool.threads().clone();
    let lets_go = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(others);
    });
    drop(pool);
    assert!(ended.load(Ordering::Acquire), "its thread has ended");
    assert_eq!(told.load(Ordering::Acquire), 1);
    lets_go.join().unwrap();
}
