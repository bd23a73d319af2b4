//! The threaded shell under a scheduler that decides who runs next (shuttle): its own sources, compiled against
//! `sync/shuttled.rs` instead of `sync/mod.rs`.
//!
//! Each test plays some thousand schedules, at random and by priorities (PCT). For each there is a shell that is wrong on purpose, in
//! the way the sources would be if one line were missing or one send waited: if the scheduler does not find that one, it finds
//! nothing. `DURAMEN_SCHEDULES` multiplies the schedules.

#![allow(dead_code)]

#[path = "../shuttled.rs"]
mod sync;

#[path = "../../replica/appends.rs"]
mod appends;
#[path = "../../replica/back_pressure.rs"]
mod back_pressure;
#[path = "../credit.rs"]
mod credit;
#[path = "../../net/doorbell.rs"]
mod doorbell;
#[path = "../../replica/fair_queue.rs"]
mod fair_queue;
#[path = "../../log/gate.rs"]
mod gate;
#[path = "../../replica/links.rs"]
mod links;
#[path = "../../log/mailbox.rs"]
mod mailbox;
#[path = "../../replica/room.rs"]
mod room;
#[path = "../../replica/rounds.rs"]
mod rounds;

/// Their neighbours that share nothing between threads.
use duramen::types;
mod log {
    pub use duramen::log::{AppendError, AppendRefusal, Record};
}

mod disk;
mod parts;
mod play;
mod shell;
