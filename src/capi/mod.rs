//! The C ABI: `duramen.h`, made from these files.
//!
//! | file | has |
//! |---|---|
//! | [`status`] | result codes and their texts |
//! | `handle` | numbers that stand for objects; calls and destroy |
//! | `entry` | what every entry does first and last; reading of arguments |
//! | [`conf`] | keys and values; versions |
//! | [`logging`] | log lines to the host |
//! | [`log`], `bell`, `buffers` | the durable log; descriptors to watch; memory of large records |
//! | [`durable`] | logging beside execution, in an order of the host's |
//! | [`checkpoint`], [`checkpoint_pages`] | states on disk; those in pages, of which only what changed is written |
//! | [`page_source`] | states in pages, as hosts give them |
//! | [`transfer`], `transfer_owner` | states from several peers; what their thread does for a host |
//! | [`client`], `outcomes` | requests; where their ends wait for callbacks |
//! | [`service`], [`pages`], `lent` | state machines of hosts; what their callbacks are lent |
//! | [`replica`] | whole replicas |
//! | [`tested`], [`library`] | tests of hosts' state machines; those in shared objects |
//!
//! # How a layer is added
//! An opaque type `duramen_x`, an object behind it that implements `handle::Object`, and entries of one shape:
//! ```text
//! pub unsafe extern "C" fn duramen_x_verb(x: *mut duramen_x, …) -> i32 {
//!     handle::with::<X>(x, |call| { read the arguments (entry::bytes, text, out, sized); call Rust; Ok(DURAMEN_OK) })
//! }
//! ```
//! Open: `entry::enter(|| { … out("out", out)?; … handle::insert(object)? … })`. Destroy: `handle::destroy::<X>`, the object's `closing`
//! and `end` do the work. Callbacks run inside `handle::Scope::enter(value)`, without a lock that a call on
//! the handle waits for. Keys go into `conf::KEYS` and into the table at `duramen_conf_set`; the file goes into `header_tests::SOURCES`. Doc comments become the header's: they name
//! ownership of each pointer, thread of callbacks, re-entrancy, errors.
//!
//! # Files beside the sources
//! `duramen.h` and `abi.txt` (what the library's SONAME promises) are compared by `header_tests`: `DURAMEN_REWRITE=1 cargo test --lib capi::header`
//! writes both anew, and refuses what would break a promise. `c_test.rs` looks at the shared library from outside.
#![allow(non_camel_case_types)]

/// Codes.
pub mod status;

/// Keys and values.
pub mod conf;

/// Lines to the host.
pub mod logging;

/// Requests.
pub mod client;

/// Their ends.
mod outcomes;

/// State machines of hosts.
pub mod service;

/// Those whose state is in pages.
pub mod pages;

/// What callbacks are lent.
mod lent;

/// Whole replicas.
pub mod replica;

/// Tests of state machines.
pub mod tested;

/// Those in shared objects.
pub mod library;

/// The durable log.
pub mod log;

/// Logging beside execution.
pub mod durable;

/// What waits for it.
mod durable_queue;

/// States on disk.
pub mod checkpoint;

/// Those in pages.
pub mod checkpoint_pages;

/// Where pages come from.
pub mod page_source;

/// States from peers.
pub mod transfer;

/// For its thread.
mod transfer_owner;

/// Descriptors to watch.
mod bell;

/// Memory of large records.
mod buffers;

/// Arguments, panics, messages.
pub mod entry;

/// The table.
pub mod handle;

#[cfg(test)]
mod base_tests;
#[cfg(test)]
mod buffers_tests;
#[cfg(test)]
mod checkpoint_pages_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod durable_tests;
#[cfg(test)]
mod header_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod random_layers_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod tested_tests;
#[cfg(test)]
mod transfer_tests;
