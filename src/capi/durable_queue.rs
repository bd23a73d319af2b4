//! Batches that the host delivered and that wait for a round, and what wakes who makes one.

use super::bell::Bell;
use crate::durable::DurableLayer;
use crate::types::Seq;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A batch of the host.
pub(super) struct Batch {
    pub seq: Seq,
    /// What it takes in the log at most.
    pub cost: usize,
    pub head: Bytes,
    pub body: Bytes,
}

/// What deliver last said about room, and whether that has changed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Room {
    #[default]
    Enough,
    Missed,
    Again,
}

/// Under the lock.
#[derive(Default)]
pub(super) struct Queue {
    pub waiting: VecDeque<Batch>,
    /// What they cost.
    pub waiting_bytes: usize,
    /// The last one that was delivered.
    pub last: Seq,
    /// All up to here are executed and on disk.
    pub done: Seq,
    pub recycle: Option<Seq>,
    /// The log's queue is full, so that what waits is not taken before the log says something.
    pub held: bool,
    /// The log has said something that a round is to look at.
    pub news: bool,
    /// Something was turned down for which there is room now.
    pub room: Room,
    pub ended: Option<(i32, String)>,
    pub closing: bool,
}

impl Queue {
    /// A round would take nothing.
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() || self.held
    }
}

/// Who delivers, who makes rounds, and the log's thread have it in common.
pub(super) struct Shared {
    pub queue: Mutex<Queue>,
    pub moved: Condvar,
    pub bell: Bell,
    pub room: AtomicBool,
    pub closing: AtomicBool,
}

impl Shared {
    pub fn update(&self, update: impl FnOnce(&mut Queue)) {
        update(&mut self.queue.lock());
        self.moved.notify_all();
    }

    /// Does what duramen_durable_recycle left.
    pub fn recycle(&self, layer: &DurableLayer) {
        let upto = self.queue.lock().recycle.take();
        if let Some(upto) = upto {
            layer.recycle(upto);
        }
    }

    /// Up to `max` batches, of so many bytes together, none if there are none; and whether some wait of which the next one is too much.
    pub fn take(&self, max: usize, bytes_max: usize) -> (Vec<Batch>, bool) {
        let mut queue = self.queue.lock();
        if queue.closing || queue.ended.is_some() {
            queue.waiting.clear();
            queue.waiting_bytes = 0;
        }
        let (mut count, mut bytes) = (0, 0);
        for batch in queue.waiting.iter().take(max) {
            if bytes + batch.cost > bytes_max {
                break;
            }
            bytes += batch.cost;
            count += 1;
        }
        let batches: Vec<Batch> = queue.waiting.drain(..count).collect();
        queue.waiting_bytes -= bytes;
        let is_held = batches.is_empty() && !queue.waiting.is_empty();
        // What the log said meanwhile may be that there is room.
        queue.held = is_held && !queue.news;
        if queue.is_quiet() {
            // Under the lock: the next one, or what the log says, rings again.
            self.bell.silence();
        }
        self.look_for_room(&mut queue);
        (batches, is_held)
    }

    /// After a round: what rang meanwhile may be done.
    pub fn hush(&self) {
        let queue = self.queue.lock();
        // Each is set before it rings.
        let rings = queue.news || queue.recycle.is_some() || queue.room == Room::Again;
        if queue.is_quiet() && !rings {
            self.bell.silence();
        }
    }

    /// What was turned down would be taken now: tells once.
    pub fn look_for_room(&self, queue: &mut Queue) {
        if queue.room == Room::Missed && queue.waiting.is_empty() && self.room.load(Ordering::Relaxed) {
            queue.room = Room::Again;
            self.bell.ring();
        }
    }

    /// Whether room has come back since the last look.
    pub fn has_room_again(&self) -> bool {
        let room = &mut self.queue.lock().room;
        let again = *room == Room::Again;
        if again {
            *room = Room::Enough;
        }
        again
    }

    /// Waits for something to do until then; false: nothing will come. `hears`: room is something, too.
    pub fn wait_for_work(&self, until: Option<Instant>, hears: bool) -> bool {
        let mut queue = self.queue.lock();
        loop {
            if queue.closing || queue.ended.is_some() {
                return false;
            }
            let is_news = queue.news || queue.recycle.is_some() || (queue.room == Room::Again && hears);
            if is_news || !queue.is_quiet() {
                return true;
            }
            match until {
                None => self.moved.wait(&mut queue),
                Some(until) if self.moved.wait_until(&mut queue, until).timed_out() => return true,
                Some(_) => {}
            }
        }
    }
}
