//! Says truly what it executed, and executes otherwise: an application that is not deterministic, or memory that failed.

use super::*;

pub struct Divergent;

impl Adversary for Divergent {
    fn diverges(&self) -> bool {
        true
    }
}
