//! The roots thread: frozen states → their roots, off every other path. The images stay with the transfer stage.
//!
//! All replicas take a root at the same places, so hashing is spread over the time until the next one, while others want the processor:
//! what was written is hashed a few pages at a time, no faster than places are decided.

use super::crowding::Crowding;
use super::shared::Shared;
use super::stages::ToOrder;
use super::transfer_stage::{Tell, ToTransfer};
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pacer;
use crate::order::Input;
use crate::sync::channel::{Receiver, Sender};
use crate::transfer::image::{Image, Part};
use crate::types::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Hashed between two looks: 2 MiB of ordinary pages.
const PAGES: usize = 64;

/// The thread's state.
pub struct RootsStage {
    pub(super) algorithm: DigestAlgorithm,
    /// Places from one root to the next.
    pub(super) turn_places: u64,
    pub(super) inbox: Receiver<Frozen>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_transfer: Option<Sender<ToTransfer>>,
    pub(super) shared: Arc<Shared>,
}

impl RootsStage {
    /// Runs until nobody sends any more.
    pub fn run(self) {
        crate::sys::step_back();
        let mut crowding = Crowding::new();
        let mut before: Option<Arc<Image>> = None;
        for frozen in &self.inbox {
            let (seq, replies) = (frozen.seq, frozen.replies);
            let image = match Image::of(frozen, self.algorithm) {
                Ok(image) => Arc::new(image),
                Err(e) => {
                    ::log::warn!("the state of place {seq} cannot be written: {e}");
                    continue;
                }
            };
            if let Some(before) = &before {
                self.hash_slowly(&image, before, &mut crowding);
            }
            let state = image.root(None);
            // Before its certificate can be.
            if let Some(to_transfer) = &self.to_transfer {
                let _ = to_transfer.send(Tell::Image(image.clone()).into());
                // It holds the last ones anyway.
                before = Some(image);
            }
            let _ = self.to_order.send(ToOrder::One(Input::Rooted { seq, replies, state }));
        }
    }

    /// The pages written since the image before: the root finds their digests then.
    fn hash_slowly(&self, image: &Image, before: &Image, crowding: &mut Crowding) {
        let [pages, older] = [image, before].map(|image| image.part(Part::State));
        let changed = pages.changed_since(older);
        let _ = crowding.is_felt();
        for (i, some) in changed.chunks(PAGES).enumerate() {
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            for index in some {
                let _ = pages.page_digest(*index, self.algorithm);
            }
            let done = ((i + 1) * PAGES) as f64 / changed.len() as f64;
            let passed = self.shared.decided().0.saturating_sub(image.seq.0);
            if pacer::is_ahead(done, passed as f64 / self.turn_places as f64) && crowding.is_felt() {
                std::thread::sleep(pacer::CROWDED_GAP);
            }
        }
    }
}
