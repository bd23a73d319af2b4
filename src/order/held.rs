//! [core] Records on their way to the log, and what may happen once they are there: no vote, view, reserve or mark counts before.

use super::durable::ELSEWHERE;
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use crate::log::{Durable, Persisted};
use crate::types::*;
use crate::wire::messages::*;

/// What may happen once a record is durable.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Accept(Ballot),
    ViewEntered(View),
    Reserve(View, Seq),
    Mark(Seq),
    Transferred(Seq),
    Control { upto: Seq, below: Lsn },
}

/// What an ACCEPT is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ballot {
    pub(super) view: View,
    pub(super) seq: Seq,
    pub(super) digest: Digest,
}

impl Orderer {
    /// Appends a record and gives its number; for what is not logged, a number that is always durable.
    pub(super) fn append(&mut self, record: OrderRecord, out: &mut Vec<Output>) -> Lsn {
        if record.is_vote() && !self.config.votes_durable {
            if let Err(e) = self.durable.apply(ELSEWHERE, &record) {
                panic!("own vote: {e}");
            }
            return Lsn(0);
        }
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        if let Err(e) = self.durable.apply(lsn, &record) {
            panic!("own record: {e}");
        }
        out.push(Output::Append(lsn, record));
        lsn
    }

    /// Waits for record `lsn`, which was just appended.
    pub(super) fn hold(&mut self, lsn: Lsn, held: Held, out: &mut Vec<Output>) {
        if let Some(durable) = self.gate.hold(lsn, held) {
            self.release(durable, out);
        }
    }

    pub(super) fn on_persisted(&mut self, persisted: &Persisted, out: &mut Vec<Output>) {
        let released: Vec<Durable<Held>> = self.gate.release(persisted).collect();
        for held in released {
            self.release(held, out);
        }
        self.forget_filled();
    }

    pub(super) fn release(&mut self, held: Durable<Held>, out: &mut Vec<Output>) {
        match &*held {
            Held::Accept(ballot) => {
                let ballot = *ballot;
                self.release_accept(held.map(|_| ballot), out);
            }
            Held::ViewEntered(view) => {
                let view = *view;
                self.view_is_durable(held.map(|_| view), out);
            }
            Held::Reserve(view, reserve) if *view == self.view() => {
                let from = self.reserve_durable;
                self.reserve_durable = self.reserve_durable.max(*reserve);
                let waiting: Vec<Seq> = self.slots.range(from.next()..).map(|(s, _)| *s).collect();
                waiting.into_iter().for_each(|s| self.go_on(s, out));
            }
            Held::Reserve(..) => {}
            Held::Mark(seq) => {
                let seq = *seq;
                self.window_moves(held.map(|_| seq), out);
            }
            Held::Transferred(marked) => {
                let marked = *marked;
                self.transferred(held.map(|_| marked), out);
            }
            Held::Control { upto, below } => self.recycle(*upto, *below, out),
        }
    }

    pub(super) fn release_accept(&mut self, ballot: Durable<Ballot>, out: &mut Vec<Output>) {
        let Ballot { view, seq, digest } = *ballot;
        // An ACCEPT of a lower view never leaves once a later view is entered (RULES 2).
        let left = view != self.view() || !matches!(self.phase, Phase::Normal);
        if left && !broken(Mutant::ReportsDurableOnly) {
            return;
        }
        let signature = self.auth.sign_vote(VoteKind::Accept, view, seq, &digest);
        let vote = Vote { view, seq, digest, signature };
        out.push(Output::Broadcast(Message::Accept(vote)));
        if left {
            return;
        }
        if let Some(slot) = self.slots.get_mut(&seq) {
            let _ = slot.accepts.add(self.me, &vote);
            self.try_decide(seq, out);
        }
    }
}
