//! [core] A state that others had, in place of what this replica cannot fetch batch by batch any more.
//!
//! ```text
//! others' logs begin above what is decided here ─→ Behind ─→ a certified state arrives (transfer) ─→ Arrived
//! nothing more is handed to execution ─→ Install ─→ execute takes the state over, a checkpoint of it is durable ─→ Installed
//! Transferred record ─→ durable: the window moves
//! ```
//! The checkpoint is durable before the record that makes the log rely on it, and the record before anything that builds on it
//! (RULES 5). What this replica voted and promised stays as it is: only what is decided jumps.

use super::held::Held;
use super::interface::*;
use super::orderer::*;
use super::record::OrderRecord;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::messages::*;
use std::collections::VecDeque;

impl Orderer {
    /// Whether what comes next is nowhere to be had, as far as can be told: then it is asked for the state instead. One that lies
    /// must not cause that in Byzantine mode.
    pub(super) fn look_behind(&self, out: &mut Vec<Output>) {
        let stalled_ns = 4 * self.heartbeat_ms() * 1_000_000;
        if self.installing.is_some() || self.now.tick.since(self.last_progress) <= stalled_ns {
            return;
        }
        let without = |p: &Peer| p.status.is_some_and(|s| s.base > self.decided);
        let lost: VoteSet = self.peers.iter().filter(|(_, p)| without(p)).map(|(r, _)| *r).collect();
        let enough = match self.members.byzantine() {
            true => self.members.one_correct().reached_by(lost),
            false => lost != VoteSet::default(),
        };
        if enough {
            out.push(Output::Behind);
        }
    }

    /// A state was received whose root this certificate names.
    pub(super) fn on_arrived(&mut self, mark: MarkCertificate, out: &mut Vec<Output>) {
        let fits = mark.statement.seq > self.decided
            && self.installing.is_none()
            && mark.statement.seq.0.is_multiple_of(self.config.mark_interval)
            && self.auth.mark_ok(&mark);
        if fits {
            self.installing = Some(mark.statement);
            out.push(Output::Install(mark));
        } else {
            out.push(Output::NotInstalled(mark.statement.seq));
        }
    }

    /// It could not be taken over: all is as it was.
    pub(super) fn on_install_failed(&mut self, out: &mut Vec<Output>) {
        if let Some(statement) = self.installing.take() {
            out.push(Output::NotInstalled(statement.seq));
            self.advance(out);
        }
    }

    /// It is executed up to the certified place, and a checkpoint of that is durable.
    pub(super) fn on_installed(
        &mut self,
        mark: MarkCertificate,
        progress: &[(SessionId, RequestNumber)],
        out: &mut Vec<Output>,
    ) {
        assert_eq!(self.installing.take(), Some(mark.statement), "only what was asked for is installed");
        let statement = mark.statement;
        let seq = statement.seq;
        assert!(self.decided < seq, "nothing is decided while a state is installed");
        let above = seq.next();
        (self.decided, self.executed, self.chain) = (seq, seq, statement.batches);
        self.slots = self.slots.split_off(&above);
        self.chain_at = self.chain_at.split_off(&above);
        self.own_marks = self.own_marks.split_off(&above);
        self.marks = self.marks.split_off(&above);
        self.checkpoint_taken = None;
        // Own marks may lie further ahead, where batches of this log were lost: its digests still lead there.
        let marked = self.durable.mark.statement.seq;
        let rest: VecDeque<Digest> =
            (above.0..=marked.0).filter_map(|place| self.durable.digest(Seq(place))).collect();
        self.catch_up = (!rest.is_empty()).then_some(CatchUp { mark: None, digests: rest });
        self.mark_appended = self.mark_appended.max(seq);
        self.highest = self.highest.max(seq);
        self.last_progress = self.now.tick;
        self.requests.known_progress(progress.iter().copied());
        // What was proposed at places passed over may or may not have been decided there: what is not known to be executed waits again.
        self.requests.all_unproposed();
        for batch in self.slots.values().flat_map(|slot| slot.batches.values()) {
            self.requests.proposed(&batch.group_digests);
        }
        self.requests.purge();
        if seq > marked {
            let lsn = self.append(OrderRecord::Transferred { mark: mark.clone() }, out);
            self.hold(lsn, Held::Mark(seq), out);
        }
        self.root_is_certified(mark, out);
        self.advance(out);
    }
}
