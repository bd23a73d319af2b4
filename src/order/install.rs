//! [core] A state that others had, in place of what this replica cannot fetch batch by batch any more.
//!
//! ```text
//! others' logs begin above what is decided here ─→ Behind ─→ a certified state arrives (transfer) ─→ Arrived
//! nothing more is handed to execution ─→ Install ─→ execute takes the state over, a checkpoint of it is durable ─→ Installed
//! Transferred record ─→ durable: what is decided jumps there, the window to the mark behind it, and batches lead from one to the other
//! ```
//! The checkpoint is durable before the record that makes the log rely on it, and the record before anything that builds on it
//! (RULES 5). What this replica voted and promised stays as it is: only what is decided jumps.

//! A replica that has no state, because none of its checkpoints can be read, or a wrong one, because f+1 others say so at a mark or a
//! root, takes the same way: it votes on, as its log says, and executes and answers nothing until it has theirs.

use super::held::Held;
use super::interface::*;
use super::orderer::*;
use super::record::OrderRecord;
use crate::log::Durable;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::messages::*;
use std::collections::VecDeque;

/// Whoever is fed for so long with what others' logs have no more asks for the state all the same.
const DRIP_HEARTBEATS: u64 = 20;

impl Orderer {
    /// Whether what comes next is nowhere to be had, as far as can be told: then it is asked for the state instead. One that lies
    /// must not cause that in Byzantine mode, nor put it off by a batch now and then.
    pub(super) fn look_behind(&mut self, out: &mut Vec<Output>) {
        let heartbeat_ns = self.heartbeat_ms() * 1_000_000;
        let without = |p: &Peer| p.status.is_some_and(|s| s.base > self.decided);
        let lost: VoteSet = self.peers.iter().filter(|(_, p)| without(p)).map(|(r, _)| *r).collect();
        let enough = match self.members.byzantine() {
            true => self.members.one_correct().reached_by(lost),
            false => lost != VoteSet::default(),
        };
        if self.installing.is_some() || !(enough || self.lacks_state) {
            self.lost_since = None;
            return;
        }
        let since = *self.lost_since.get_or_insert(self.now.tick);
        let stalled = self.now.tick.since(self.last_progress) > 4 * heartbeat_ns;
        if self.lacks_state || stalled || self.now.tick.since(since) > DRIP_HEARTBEATS * heartbeat_ns {
            out.push(Output::Behind);
        }
    }

    /// A state was received which this certificate names.
    pub(super) fn on_arrived(&mut self, state: StateCertificate, out: &mut Vec<Output>) {
        let statement = state.statement;
        let placed = |seq: Seq| seq.0.is_multiple_of(self.config.mark_interval);
        // What was executed is never executed again from an earlier place: reads may have been answered from it.
        let useful = statement.seq > self.decided || self.hollow && statement.seq == self.decided;
        let apart = statement.seq <= self.low || statement.seq > self.durable.mark.statement.seq;
        let fits = useful
            && apart
            && self.installing.is_none()
            && placed(statement.seq)
            && placed(state.mark.statement.seq)
            && self.auth.state_ok(&state);
        if fits {
            self.installing = Some(statement);
            out.push(Output::Install(state));
        } else {
            out.push(Output::NotInstalled(statement.seq));
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
        state: StateCertificate,
        progress: Vec<(SessionId, RequestNumber)>,
        out: &mut Vec<Output>,
    ) {
        let seq = state.statement.seq;
        assert_eq!(self.installing, Some(state.statement), "only what was asked for is installed");
        assert!(self.decided < seq || self.hollow, "nothing is decided while a state is installed");
        // Own marks may lie as far ahead, where batches of this log were lost: its digests still lead there.
        if seq <= self.low {
            self.jump(&state, &progress, out);
            self.root_is_certified(state, out);
            return self.advance(out);
        }
        let marked = state.mark.statement.seq;
        self.mark_appended = self.mark_appended.max(marked);
        self.installed = Some((state.clone(), progress));
        let lsn = self.append(OrderRecord::Transferred { state }, out);
        self.hold(lsn, Held::Transferred(marked), out);
        // The log now begins behind what was executed: nobody is led over it from here, written or not.
        self.forget_filled();
    }

    /// The record is durable.
    pub(super) fn transferred(&mut self, marked: Durable<Seq>, out: &mut Vec<Output>) {
        let (state, progress) = self.installed.take().expect("one state is installed at a time");
        self.jump(&state, &progress, out);
        self.window_moves(marked, out);
        self.root_is_certified(state, out);
        self.advance(out);
    }

    /// What is decided is what the state holds.
    fn jump(
        &mut self,
        state: &StateCertificate,
        progress: &[(SessionId, RequestNumber)],
        out: &mut Vec<Output>,
    ) {
        self.installing = None;
        if std::mem::take(&mut self.lacks_state) {
            self.hollow = false;
            out.push(Output::Restored);
        }
        let statement = state.statement;
        let seq = statement.seq;
        let above = seq.next();
        (self.decided, self.executed, self.chain) = (seq, seq, statement.batches);
        self.slots = self.slots.split_off(&above);
        self.chain_at = self.chain_at.split_off(&above);
        self.own_marks = self.own_marks.split_off(&above);
        self.marks = self.marks.split_off(&above);
        self.checkpoint_taken = None;
        self.roots.begin_at(seq);
        let marked = self.durable.mark.statement.seq;
        let rest: VecDeque<Digest> =
            (above.0..=marked.0).filter_map(|place| self.durable.digest(Seq(place))).collect();
        self.catch_up = (!rest.is_empty()).then_some(CatchUp { mark: None, digests: rest });
        self.highest = self.highest.max(marked);
        self.last_progress = self.now.tick;
        // A leader that learns decisions from others is one no more.
        self.step_down(out);
        self.requests.known_progress(progress.iter().copied());
        // What was proposed at places passed over may or may not have been decided there: what is not known to be executed waits again.
        self.requests.all_unproposed();
        for batch in self.slots.values().flat_map(|slot| slot.batches.values()) {
            self.requests.proposed(&batch.group_digests);
        }
        self.requests.purge();
    }
}
