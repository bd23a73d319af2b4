//! [core] What must hold of an [`Orderer`] after every step; run by the simulator.

use super::mutants::{Mutant, broken};
use super::orderer::{Orderer, Phase};
use crate::types::*;

/// Panics with the reason when the state is one that no schedule may reach.
pub fn check(o: &Orderer) {
    assert!(o.executed <= o.decided, "executed {} ahead of decided {}", o.executed, o.decided);
    assert!(o.low <= o.mark_appended, "the window moved before its mark was appended");
    assert!(o.wish >= View(1), "a wish for no view");
    assert_eq!(o.filled(), None, "a place below the window is kept that is executed and on disk");
    if let Phase::Normal = o.phase {
        let broken = broken(Mutant::RestoresNormal);
        assert!(
            broken || o.view() == View::FIRST || o.sync.is_some(),
            "voting in a view without its SYNC (RULES 1)"
        );
    }
    let window = o.config.window as usize;
    assert!(o.slots.len() <= 4 * window + 256, "{} places are kept", o.slots.len());
    assert!(o.marks.len() <= 4 * window + 256, "marks for {} places are kept", o.marks.len());
    let early = o.peers.values().map(|p| p.early.len()).max().unwrap_or(0);
    assert!(early <= 512, "{early} early messages are kept of one peer");
    for (seq, slot) in &o.slots {
        assert!(slot.batches.len() <= 16 && slot.wanted.len() <= 64, "place {seq} keeps too much");
        if slot.wrote {
            assert!(o.members.byzantine(), "crash mode has no WRITE");
            assert!(*seq <= o.reserve_durable, "WRITE above the durable reserve");
        }
        if let Some(d) = &slot.decision {
            assert_eq!(d.batch.digest, d.certificate.digest);
            assert_eq!(d.batch.seq, *seq);
        }
    }
}

/// Panics when a step took back what must only grow.
pub fn check_step(before: (View, Seq, Seq, Seq), o: &Orderer) -> (View, Seq, Seq, Seq) {
    let after = (o.view(), o.low, o.decided, o.executed);
    assert!(after.0 >= before.0 && after.1 >= before.1, "view or mark went back: {before:?} {after:?}");
    assert!(
        after.2 >= before.2 && after.3 >= before.3,
        "decided or executed went back: {before:?} {after:?}"
    );
    after
}
