//! [core] Time passes: heartbeats, and whether the leader is alive and serves everybody.

use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::rejoin::MAKE_WAY_TIMEOUTS;
use crate::types::*;
use crate::wire::messages::*;

impl Orderer {
    pub(super) fn heartbeat_ms(&self) -> u64 {
        (self.config.view_timeout_ms / 10).clamp(5, 200)
    }

    /// The current timeout: base and floor from the configuration, adaptive, doubled per failed view.
    pub(crate) fn timeout_ns(&self) -> u64 {
        let base = self.config.view_timeout_ms.saturating_mul(1_000_000);
        base.max(self.decide_ns.saturating_mul(4))
            .saturating_mul(1 << self.failed_views.saturating_sub(1).min(6))
    }

    pub(super) fn heartbeat(&mut self, out: &mut Vec<Output>) {
        self.next_heartbeat = self.now.tick.plus_ms(self.heartbeat_ms());
        out.push(Output::Broadcast(Message::Status(self.status())));
    }

    pub(super) fn on_tick(&mut self, out: &mut Vec<Output>) {
        if self.now.tick < self.next_heartbeat {
            return;
        }
        self.heartbeat(out);
        for peer in self.peers.values_mut() {
            peer.served_bytes = 0;
            peer.fetches = 0;
        }
        self.look_behind(out);
        if self.is_learner() {
            self.repair(out);
            return self.learn(out);
        }
        self.recheck_clocks(out);
        self.repair(out);
        self.look_at_leader(out);
        self.change_timers(out);
        self.forward(out);
        self.repeat_marks(out);
        self.repeat_roots(out);
        self.ask_again_whether_it_leads(out);
    }

    /// A proposal withheld for its time may have become acceptable (RULES 12).
    fn recheck_clocks(&mut self, out: &mut Vec<Output>) {
        let withheld: Vec<Seq> = self
            .slots
            .iter()
            .filter(|(_, s)| s.proposal.as_ref().is_some_and(|p| !p.clock_ok))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in withheld {
            let slot = &self.slots[&seq];
            let time = slot.proposal.as_ref().and_then(|p| slot.batch(&p.digest)).map(|b| b.time);
            if time.is_some_and(|t| self.clock_ok(t)) {
                let slot = self.slots.get_mut(&seq).expect("just read");
                slot.proposal.as_mut().expect("just read").clock_ok = true;
                self.go_on(seq, out);
            }
        }
    }

    /// Is the leader alive, and does the service advance? A served queue never triggers a change.
    fn look_at_leader(&mut self, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Normal) {
            return;
        }
        let timeout = self.timeout_ns();
        let leads = self.leader() == self.me;
        let idle = self.now.tick.since(self.last_progress) > timeout;
        // A leader looks at itself too: it may be the only one left in its view, and it alone can say so.
        let silent = !leads && self.now.tick.since(self.last_leader_sign) > timeout;
        if self.log_room {
            self.requests.purge();
        }
        // A new leader answers for its own time only: what the views before it left undone is old already.
        let waited = self.requests.oldest().map_or(0, |t| self.now.tick.since(t.max(self.view_began)));
        let stuck = self
            .slots
            .range(self.decided.next()..)
            .filter_map(|(_, s)| s.proposal.as_ref())
            .any(|p| self.now.tick.since(p.since) > timeout);
        let starved = || self.requests.starves(self.now.tick, self.view_began, 10 * timeout);
        let unserved = self.log_room && (waited > timeout && idle || starved());
        // Who entered a later view on wishes that the others took back cannot return: its group comes after it. Against
        // liars this takes f+1 wishes as ever.
        let left_alone = leads
            && !self.members.byzantine()
            && self.peers.values().any(|p| {
                let heard = self.now.tick.since(p.seen) <= timeout;
                heard && p.outside_since.is_some_and(|t| self.now.tick.since(t) > 2 * timeout)
            });
        let makes_way = leads && self.makes_way(timeout);
        let dawdles = self.dawdles(timeout);
        // What does not advance here alone says nothing of the leader.
        let waits = self.lacks_state || self.installing.is_some();
        let (stuck, unserved) = (stuck && !waits, unserved && !waits);
        if silent || stuck && idle && self.log_room || unserved || left_alone || makes_way || dawdles {
            self.suspect(out);
        } else if self.wish > self.view() && (self.may_lead || !leads) && !self.wish_is_shared() {
            // The cause is gone: a wish that nobody shares is taken back. A lie is a cause until the service advances.
            if !(self.leader_lied && idle) {
                self.wish = self.view();
            }
        }
    }

    /// Byzantine followers time what clients hand to all.
    pub(super) fn watches_performance(&self) -> bool {
        self.members.byzantine()
            && self.leader() != self.me
            && matches!(self.phase, Phase::Normal)
            && !broken(Mutant::BearsSlowLeaders)
    }

    /// The leader serves, but others serve better or have yet to be tried.
    fn dawdles(&mut self, timeout: u64) -> bool {
        if !self.watches_performance() {
            return false;
        }
        let (now, leader) = (self.now.tick, self.leader());
        let next = self.view().next().leader(self.members.n());
        let next_lives =
            next == self.me || self.peers.get(&next).is_some_and(|p| now.since(p.seen) < timeout);
        self.performance.keep(|digest| self.requests.has(digest));
        self.performance.look(now, leader, self.performance.floor_ns(self.decide_ns), next_lives);
        // A full log is no leader's doing.
        self.log_room && self.performance.slow()
    }

    /// A replica that was a learner waits outside this view: only a new one lets it vote again (RULES 7).
    fn makes_way(&mut self, timeout: u64) -> bool {
        let (now, view) = (self.now.tick, self.view());
        let waits = |p: &Peer| {
            let here = p.status.is_some_and(|s| s.view == view) && now.since(p.seen) <= timeout;
            here && p.awaits_since.is_some_and(|t| now.since(t) > 2 * timeout)
                && p.made_way.is_none_or(|t| now.since(t) > MAKE_WAY_TIMEOUTS * timeout)
        };
        let waiting = self.peers.values_mut().find(|p| waits(p));
        waiting.map(|p| p.made_way = Some(now)).is_some()
    }

    /// Followers hand old requests to the leader: a client may reach only some of us.
    fn forward(&mut self, out: &mut Vec<Output>) {
        let half = self.timeout_ns() / 2;
        if !matches!(self.phase, Phase::Normal)
            || self.leader() == self.me
            || self.now.tick.since(self.last_forward) < half
        {
            return;
        }
        self.last_forward = self.now.tick;
        let before = Tick(self.now.tick.0.saturating_sub(half));
        let (leader, mut bytes) = (self.leader(), 0);
        for group in self.requests.older_than(before) {
            if bytes > 4 * self.config.batch_bytes {
                break;
            }
            bytes += group.bytes().len();
            out.push(Output::Send(leader, Message::Group(group.bytes().clone())));
        }
    }
}
