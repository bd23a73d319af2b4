//! [core] Unordered reads in crash mode: the leader asks a majority whether it still leads (RULES 9).

use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use crate::quorum::VoteSet;
use crate::types::*;
use crate::wire::messages::*;

/// A crash-mode leadership check under way.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadRound {
    nonce: u64,
    tokens: Vec<u64>,
    voters: VoteSet,
    waiting: Vec<u64>,
}

impl Orderer {
    pub(super) fn on_read_index(&mut self, token: u64, out: &mut Vec<Output>) {
        // Everything the SYNC of this view fixed must be executed: an earlier leader may have answered it. Where followers answer
        // too (RULES 14), they may have answered what this leader has not executed: reads are ordered.
        let followers_answer = !self.config.votes_durable;
        let behind = self.executed < self.sync_high && !broken(Mutant::ReadsBeforeSync);
        if !self.leads() || behind || self.members.byzantine() || followers_answer {
            out.push(Output::ReadRefused(vec![token]));
            return;
        }
        if broken(Mutant::ReadsUnasked) {
            out.push(Output::ReadReady(vec![token]));
        } else if self.reads.tokens.is_empty() {
            self.reads.tokens.push(token);
            self.start_read_round(out);
        } else {
            // This check may have begun before the read came: wait for the next.
            self.reads.waiting.push(token);
        }
    }

    fn start_read_round(&mut self, out: &mut Vec<Output>) {
        self.ask_whether_it_leads(out);
        self.finish_read_round(out);
    }

    fn ask_whether_it_leads(&mut self, out: &mut Vec<Output>) {
        self.reads.nonce += 1;
        self.reads.voters = [self.me].into_iter().collect();
        self.ask_again_whether_it_leads(out);
    }

    /// A question is lost as any message is.
    pub(super) fn ask_again_whether_it_leads(&mut self, out: &mut Vec<Output>) {
        if !self.reads.tokens.is_empty() {
            let check = ReadCheck { view: self.view(), nonce: self.reads.nonce };
            out.push(Output::Broadcast(Message::ReadCheck(check)));
        }
    }

    pub(super) fn on_read_ok(
        &mut self,
        from: ReplicaId,
        ok: ReadOk,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if ok.view != self.view() || ok.nonce != self.reads.nonce || self.reads.tokens.is_empty() {
            return Err(Discard::Unasked);
        }
        self.reads.voters.insert(from);
        self.finish_read_round(out);
        Ok(())
    }

    fn finish_read_round(&mut self, out: &mut Vec<Output>) {
        while !self.reads.tokens.is_empty() && self.members.quorum().reached_by(self.reads.voters) {
            out.push(Output::ReadReady(std::mem::take(&mut self.reads.tokens)));
            self.reads.tokens = std::mem::take(&mut self.reads.waiting);
            if !self.reads.tokens.is_empty() {
                self.ask_whether_it_leads(out);
            }
        }
    }

    pub(super) fn refuse_reads(&mut self, out: &mut Vec<Output>) {
        let mut tokens = std::mem::take(&mut self.reads.tokens);
        tokens.append(&mut self.reads.waiting);
        if !tokens.is_empty() {
            out.push(Output::ReadRefused(tokens));
        }
    }
}
