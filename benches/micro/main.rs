//! Micro-benchmarks of single parts: `cargo bench --bench micro [-- FILTER]`. `cargo test` runs each once, and what they
//! compute is checked then as well.

mod codec;
mod hash;
mod log_append;
mod order_step;
mod tuples;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    codec::benches,
    hash::benches,
    log_append::benches,
    order_step::benches,
    tuples::benches
);
criterion_main!(benches);

/// A folder on the disk that holds the build.
fn scratch() -> tempfile::TempDir {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
    std::fs::create_dir_all(target).expect("target can be made");
    tempfile::Builder::new().prefix("bench-").tempdir_in(target).expect("a folder can be made")
}
