//! Reports falsely what its log holds when a view ends.

use super::*;
use std::sync::Arc;

/// One false report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// A mark far above its own, with the signatures of its own.
    Height,
    /// Nothing at all: what was decided must survive on the reports of others.
    Nothing,
    /// A certificate for a batch that nobody proposed, all of its votes the liar's own.
    OwnVotes,
    /// As before, of a view that nobody reached.
    AbsurdView,
    /// One invalid certificate behind the valid ones.
    OneInvalid,
    /// Two reports: the true one and an empty one, in another order to each half.
    Two,
    /// It knows nothing of any place of its window.
    Unknown,
}

pub struct Reporter(pub Report);

impl Reporter {
    fn forge(&self, power: &Power, data: &StopData) -> StopData {
        let mut d = data.clone();
        let next =
            Seq(d.slots.last().map_or(d.mark.statement.seq, |s| s.certificate.seq).0.saturating_add(1));
        let digest = Digest([0x5a; 32]);
        let claim = |view, signers: u32| {
            let vote = power.vote(VoteKind::Write, view, next, digest);
            let signatures = (0..signers).map(|i| (ReplicaId(i), vote.signature)).collect();
            SlotReport {
                kind: VoteKind::Write,
                certificate: Certificate { view, seq: next, digest, signatures },
            }
        };
        let quorum = power.auth.members.quorum().size();
        match self.0 {
            Report::Height => d.mark.statement.seq.0 = d.mark.statement.seq.0.saturating_add(1000),
            Report::Nothing | Report::Two => {
                (d.slots, d.unknown, d.mark) = (Vec::new(), Vec::new(), MarkCertificate::default());
            }
            Report::OwnVotes => {
                let mut claim = claim(View(1), 1);
                // One vote, as many times as a quorum needs.
                let own = (power.auth.me, claim.certificate.signatures[0].1);
                claim.certificate.signatures = vec![own; quorum as usize];
                d.slots.push(claim);
            }
            Report::AbsurdView => d.slots.push(claim(View(u64::MAX - 1), quorum)),
            Report::OneInvalid => d.slots.push(claim(View(1), quorum)),
            Report::Unknown => {
                let from = d.mark.statement.seq.0;
                d.slots.clear();
                d.unknown = (1..=power.window).map(|i| Seq(from.saturating_add(i))).collect();
            }
        }
        power.sign_stop_data(&mut d);
        d
    }
}

impl Adversary for Reporter {
    fn sends(
        &mut self,
        power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        let Message::StopData(data) = &message else {
            out.push((to, message));
            return;
        };
        let forged = Message::StopData(Arc::new(self.forge(power, data)));
        match self.0 {
            Report::Two if to.0.is_multiple_of(2) => out.extend([(to, message), (to, forged)]),
            Report::Two => out.extend([(to, forged), (to, message)]),
            _ => out.push((to, forged)),
        }
    }
}
