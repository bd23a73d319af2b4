//! Begins a view truly and then proposes other batches for the places that its SYNC fixed.

use super::*;

pub struct Rebinder;

impl Adversary for Rebinder {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let fixed: Vec<(View, Seq)> = match &message {
            Message::Sync(sync) => {
                let reported = sync.stop_data.iter().flat_map(|d| &d.slots).map(|s| s.certificate.seq);
                reported.map(|seq| (sync.view, seq)).collect()
            }
            _ => Vec::new(),
        };
        out.push((to, message));
        for (view, seq) in fixed {
            let other = Batch::build(&power.auth.hasher, seq, WallTime(0), 7, Vec::new());
            out.push((to, Message::Propose(Propose { view, seq, batch: other.bytes })));
        }
    }
}
