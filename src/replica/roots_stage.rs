//! The roots thread: frozen states → their roots, off every other path. The images stay with the transfer stage.

use super::stages::ToOrder;
use super::transfer_stage::{Tell, ToTransfer};
use crate::checkpoint::frozen::Frozen;
use crate::order::Input;
use crate::sync::channel::{Receiver, Sender};
use crate::transfer::image::Image;
use crate::types::*;
use std::sync::Arc;

/// The thread's state.
pub struct RootsStage {
    pub(super) algorithm: DigestAlgorithm,
    pub(super) inbox: Receiver<Frozen>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_transfer: Option<Sender<ToTransfer>>,
}

impl RootsStage {
    /// Runs until nobody sends any more.
    pub fn run(self) {
        crate::sys::step_back();
        for frozen in &self.inbox {
            let (seq, replies) = (frozen.seq, frozen.replies);
            let image = match Image::of(frozen, self.algorithm) {
                Ok(image) => Arc::new(image),
                Err(e) => {
                    ::log::warn!("the state of place {seq} cannot be written: {e}");
                    continue;
                }
            };
            let state = image.root(None);
            // Before its certificate can be.
            if let Some(to_transfer) = &self.to_transfer {
                let _ = to_transfer.send(Tell::Image(image).into());
            }
            let _ = self.to_order.send(ToOrder::One(Input::Rooted { seq, replies, state }));
        }
    }
}
