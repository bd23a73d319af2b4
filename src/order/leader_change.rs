//! [core] Stop → StopData → Sync: which value survives into the next view, and why.
//!
//! decided(s, d) in view v ⇒ a quorum has Prepared(v, s, d) on disk ⇒ any quorum of STOP-DATA of a later view shares a
//! correct member with it, which reports a certificate for d of view v or later; and no certificate for another digest
//! exists in views ≥ v. So "the highest view's certificate wins" keeps every decision.

use super::held::Held;
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::orderer::*;
use super::record::OrderRecord;
use super::slot::Proposal;
use crate::log::Durable;
use crate::quorum::{Group as Members, VoteSet};
use crate::types::*;
use crate::wire::auth::AuthenticGroup;
use crate::wire::batch::{AuthKind, Batch, Hasher};
use crate::wire::messages::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a quorum of STOP-DATA fixes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The highest mark among them.
    pub mark: MarkCertificate,
    /// Every place above it up to the highest reported, without gaps; no-ops where nobody reports anything.
    pub places: BTreeMap<Seq, Digest>,
}

/// The same on every replica. `Err` names a place that fewer than a quorum know something of (RULES 10).
pub fn choose(members: Members, hasher: &Hasher, stop_data: &[Arc<StopData>]) -> Result<Choice, Seq> {
    let mark = stop_data.iter().map(|d| &d.mark).max_by_key(|m| m.statement.seq).cloned().unwrap_or_default();
    let from = mark.statement.seq;
    let mut best: BTreeMap<Seq, &Certificate> = BTreeMap::new();
    for c in stop_data.iter().flat_map(|d| &d.slots).map(|s| &s.certificate).filter(|c| c.seq > from) {
        let held = best.entry(c.seq).or_insert(c);
        if ((c.view, c.digest) > (held.view, held.digest)) != broken(Mutant::LowestViewWins) {
            *held = c;
        }
    }
    let unknown_max = stop_data.iter().filter_map(|d| d.unknown.last()).max().copied();
    let highest = best.keys().last().copied().max(unknown_max).unwrap_or(from);
    let mut places = BTreeMap::new();
    for seq in (from.0 + 1..=highest.0).map(Seq) {
        let knowing: VoteSet =
            stop_data.iter().filter(|d| d.unknown.binary_search(&seq).is_err()).map(|d| d.sender).collect();
        if !members.quorum().reached_by(knowing) && !broken(Mutant::UnknownIsNothing) {
            return Err(seq);
        }
        let silent = |d: &&Arc<StopData>| d.slots.iter().all(|s| s.certificate.seq != seq);
        let freed = broken(Mutant::NoValueIsAVote)
            && members.one_correct().reached_by(stop_data.iter().filter(silent).map(|d| d.sender).collect());
        let chosen = best.get(&seq).filter(|_| !freed);
        let digest = chosen.map_or_else(|| Batch::noop(hasher, seq).digest, |c| c.digest);
        places.insert(seq, digest);
    }
    Ok(Choice { mark, places })
}

/// Batches of one undecided place kept over a change of views.
const BATCHES_KEPT: usize = 4;

impl Orderer {
    /// Wishes for the next view. Voting in this one goes on (RULES 11).
    pub(super) fn suspect(&mut self, out: &mut Vec<Output>) {
        if self.wish <= self.view() {
            self.wish = self.view().next();
            out.push(Output::Broadcast(Message::Stop(Stop { view: self.wish })));
            self.weigh_wishes(out);
        }
    }

    pub(super) fn on_stop(
        &mut self,
        from: ReplicaId,
        stop: Stop,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        self.hear_wish(from, stop.view, out);
        Ok(())
    }

    /// A wish counts as last stated: it can be taken back.
    pub(super) fn hear_wish(&mut self, from: ReplicaId, wish: View, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.wish = wish;
        if from == self.leader() && wish > self.view() {
            self.suspect(out);
        }
        self.weigh_wishes(out);
    }

    /// Whether the leader itself, or f+1 others, wish for a later view.
    pub(super) fn wish_is_shared(&self) -> bool {
        let wishing = |r: &ReplicaId| self.peers[r].wish > self.view();
        let others: VoteSet = self.peers.keys().copied().filter(wishing).collect();
        others.contains(self.leader()) || self.members.one_correct().reached_by(others)
    }

    /// f+1 wishes: join. Q wishes: enter.
    pub(super) fn weigh_wishes(&mut self, out: &mut Vec<Output>) {
        let others: Vec<View> = self.peers.values().map(|p| p.wish).collect();
        let own = self.wish.max(self.view());
        let joined = self.members.one_correct().reached_value(others.iter().copied().chain([own]));
        let one = others.iter().copied().max().filter(|_| broken(Mutant::OneStopDeposes));
        let joined = one.or(joined);
        if let Some(view) = joined
            && view > own
        {
            self.wish = view;
            out.push(Output::Broadcast(Message::Stop(Stop { view })));
        }
        let own = self.wish.max(self.view());
        let entered = self.members.quorum().reached_value(others.into_iter().chain([own]));
        if let Some(view) = entered
            && view > self.view()
        {
            self.enter(view, out);
        }
    }

    /// From here on no Prepared and no ACCEPT of a lower view (RULES 2).
    fn enter(&mut self, view: View, out: &mut Vec<Output>) {
        self.refuse_reads(out);
        self.performance.view_ends(self.now.tick, self.leader(), self.leader() == self.me);
        let reserve = Seq(self.highest.max(self.low).0 + RESERVE_STEP);
        let lsn = self.append(OrderRecord::ViewEntered { view, reserve }, out);
        #[cfg(any(test, feature = "mutants"))]
        if broken(Mutant::ReportsDurableOnly) {
            let under_way = self.gate.values().filter_map(|h| match h {
                Held::Accept(ballot) => Some(ballot.seq),
                _ => None,
            });
            self.durable.drop_from_report(&under_way.collect::<Vec<_>>());
        }
        self.hold(lsn, Held::ViewEntered(view), out);
        self.phase = Phase::Changing { entered: false, sync: None, quorum_since: None };
        self.changing_since = self.now.tick;
        self.wish = self.wish.max(view);
        // In the first view after it was a learner it may have led already (RULES 7).
        self.may_lead = self.durable.rejoined.map(View::next) != Some(view) || broken(Mutant::LearnerLeads);
        self.may_lead &= !self.lacks_state;
        self.leader_lied = false;
        self.reserve_durable = Seq(0);
        self.floor = Seq(0);
        self.sync = None;
        self.failed_views += 1;
        // Requests of undecided places wait again: they may get a no-op.
        self.requests.all_unproposed();
        let now = self.now.tick;
        let reported: BTreeMap<Seq, Digest> =
            self.durable.prepared().map(|(seq, p)| (*seq, p.certificate.digest)).collect();
        for (seq, slot) in &mut self.slots {
            if slot.decision.is_none()
                && let Some(p) = slot.proposal.as_ref().filter(|p| p.vouched)
                && let Some(batch) = slot.batches.get(&p.digest)
            {
                for group in AuthenticGroup::of_vouched_batch(batch) {
                    let (client, kind) = (group.group().client, group.group().auth_kind);
                    if kind != AuthKind::Mac || !self.sign_only.contains(&client) {
                        let _ = self.requests.offer(now, group);
                    }
                }
            }
            // Views that fail one after the other must not pile up batches: what our log reports stays.
            if slot.decision.is_none() && slot.batches.len() > BATCHES_KEPT {
                let reported = reported.get(seq);
                slot.batches.retain(|d, _| reported == Some(d));
            }
            if broken(Mutant::KeepsOldVotes) {
                (slot.proposal, slot.wrote, slot.prepared) = (None, false, false);
                slot.wanted.clear();
                continue;
            }
            slot.enter_view();
        }
        self.want_lost();
        self.count_stop_data();
        #[cfg(any(test, feature = "mutants"))]
        if broken(Mutant::SpeaksBeforeView) {
            self.view_is_durable(Durable::forged(view), out);
        }
    }

    pub(super) fn view_is_durable(&mut self, view: Durable<View>, out: &mut Vec<Output>) {
        if *view != self.view() {
            return;
        }
        self.reserve_durable = self.durable.reserve;
        let Phase::Changing { entered, sync, .. } = &mut self.phase else { return };
        *entered = true;
        let sync = sync.take();
        self.regain();
        self.send_stop_data(out);
        match sync {
            Some(sync) => self.install(sync, out),
            None => self.try_sync(out),
        }
    }

    fn own_stop_data(&self) -> Arc<StopData> {
        let mut data = self.durable.stop_data(self.me);
        self.auth.sign_stop_data(&mut data);
        Arc::new(data)
    }

    fn send_stop_data(&mut self, out: &mut Vec<Output>) {
        self.last_stop_data = self.now.tick;
        out.push(Output::Broadcast(Message::StopData(self.own_stop_data())));
    }

    pub(super) fn on_stop_data(
        &mut self,
        from: ReplicaId,
        data: Arc<StopData>,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if data.view < self.view() || matches!(self.phase, Phase::Normal) && data.view == self.view() {
            self.send_sync(from, out);
            return Err(Discard::OldView);
        }
        let peer = self.peers.get_mut(&from).ok_or(Discard::WrongPlace)?;
        // Who learns again what a damaged record held says so in the same view.
        let durable = self.config.votes_durable;
        let tells_more =
            |d: &StopData| durable && d.view == data.view && d.unknown.len() > data.unknown.len();
        if peer.stop_data.as_ref().is_some_and(|d| d.view >= data.view && !tells_more(d)) {
            return Err(Discard::Duplicate);
        }
        let first = peer.stop_data.as_ref().is_none_or(|d| d.view < data.view);
        // Whoever entered a view wishes for it at least.
        let wish = peer.wish.max(data.view);
        peer.stop_data = Some(data.clone());
        self.hear_wish(from, wish, out);
        self.count_stop_data();
        if self.regain() && matches!(self.phase, Phase::Changing { entered: true, .. }) {
            self.send_stop_data(out);
        }
        if first {
            self.ask_reporter(&data, out);
        }
        self.try_sync(out);
        self.too_many_forgot(out);
        Ok(())
    }

    /// More than f replicas forgot votes for the same place, this one among them: what was decided there is uncertain, and only an
    /// operator may say that the group goes on (RULES 14). Replicas that kept running wait.
    fn too_many_forgot(&mut self, out: &mut Vec<Output>) {
        // What damage took, one that has it brings back, now or later.
        if self.config.votes_durable {
            return;
        }
        let view = self.view();
        let own = self.durable.stop_data(self.me).unknown;
        let of_others =
            || self.peers.values().filter_map(|p| p.stop_data.as_ref()).filter(|d| d.view == view);
        let lost = own.into_iter().find(|seq| {
            let forgot = of_others().filter(|d| d.unknown.binary_search(seq).is_ok()).map(|d| d.sender);
            let knowing = self.members.members().filter(|r| *r != self.me);
            let forgot: VoteSet = forgot.collect();
            !self.members.quorum().reached_by(knowing.filter(|r| !forgot.contains(*r)).collect())
        });
        if let Some(seq) = lost {
            let f = self.members.f();
            let why = format!(
                "more than f = {f} replicas restarted and keep no votes, so nobody knows what was decided at place {seq}: \
                 start every replica that restarted again with --new-era: it keeps what a quorum has on disk and cuts the rest"
            );
            self.halt(why, out);
        }
    }

    /// The timer of a view starts with a quorum of STOP-DATA for it or a later one (RULES 11).
    fn count_stop_data(&mut self) {
        let view = self.view();
        let mut senders: VoteSet = self
            .peers
            .iter()
            .filter(|(_, p)| p.stop_data.as_ref().is_some_and(|d| d.view >= view))
            .map(|(r, _)| *r)
            .collect();
        senders.insert(self.me);
        let reached = self.members.quorum().reached_by(senders);
        let now = self.now.tick;
        if let Phase::Changing { quorum_since, .. } = &mut self.phase
            && reached
        {
            quorum_since.get_or_insert(now);
        }
    }

    /// The new leader: a STOP-DATA counts once the batches it reports are in hand, so that its choice can be served.
    pub(super) fn try_sync(&mut self, out: &mut Vec<Output>) {
        let ready = matches!(self.phase, Phase::Changing { entered: true, sync: None, .. });
        if !ready || self.leader() != self.me || !self.may_lead || self.sync.is_some() {
            return;
        }
        let view = self.view();
        let mut all = vec![self.own_stop_data()];
        all.extend(self.peers.values().filter_map(|p| p.stop_data.clone()).filter(|d| d.view == view));
        let marked = all.iter().map(|d| d.mark.statement.seq).max().unwrap_or_default();
        let mut counted = Vec::new();
        for data in all {
            // A mark counts as batches do: once we can serve what leads to it. Its sender may be the only one that can.
            let ahead = data.mark.statement.seq > self.low && !broken(Mutant::CountsUnservableMarks);
            if ahead {
                self.fetch_mark(data.sender, out);
            }
            let mut complete = !ahead;
            for c in data.slots.iter().map(|s| &s.certificate).filter(|c| c.seq > marked) {
                // Below our own mark everybody finds the batch by the mark; and where we know the decision, a
                // certificate for anything else cannot be chosen.
                if c.seq <= self.low || self.slots.get(&c.seq).is_some_and(|s| s.decision.is_some()) {
                    continue;
                }
                let slot = self.slots.entry(c.seq).or_default();
                if slot.batch(&c.digest).is_none() && !broken(Mutant::CountsUnservableBatches) {
                    complete = false;
                    if slot.wanted.insert(c.digest, self.now.tick).is_none() && data.sender != self.me {
                        let fetch = FetchBatch { seq: c.seq, digest: c.digest };
                        out.push(Output::Send(data.sender, Message::FetchBatch(fetch)));
                    }
                }
            }
            if complete {
                counted.push(data);
            }
        }
        let senders: VoteSet = counted.iter().map(|d| d.sender).collect();
        let enough =
            if broken(Mutant::SyncOfFewer) { self.members.one_correct() } else { self.members.quorum() };
        if !enough.reached_by(senders) || choose(self.members, &self.auth.hasher, &counted).is_err() {
            return;
        }
        let sync = Arc::new(Sync { view, stop_data: counted });
        out.push(Output::Broadcast(Message::Sync(sync.clone())));
        self.install(sync, out);
    }

    pub(super) fn on_sync(
        &mut self,
        from: ReplicaId,
        sync: Arc<Sync>,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        if sync.view < self.view() {
            return Err(Discard::OldView);
        }
        if sync.view == self.view() && matches!(self.phase, Phase::Normal) {
            return Err(Discard::Duplicate);
        }
        if choose(self.members, &self.auth.hasher, &sync.stop_data).is_err() {
            return Err(Discard::BadSync);
        }
        if sync.view > self.view() {
            self.enter(sync.view, out);
        }
        // Any quorum of reports makes a SYNC, and a lying follower could pick one that differs from its leader's, so
        // that the votes split. The leader comes first; others are heard when it had its time.
        let since = match &self.phase {
            Phase::Changing { quorum_since: Some(since), .. } => *since,
            _ => self.changing_since,
        };
        let waited = self.now.tick.since(since);
        if self.members.byzantine()
            && from != self.leader()
            && self.leader() != self.me
            && waited < self.timeout_ns() / 2
        {
            return Err(Discard::NotLeader);
        }
        match &mut self.phase {
            Phase::Changing { entered: true, .. } => self.install(sync, out),
            Phase::Changing { sync: waiting, .. } => *waiting = Some(sync),
            _ => {}
        }
        Ok(())
    }

    /// The view begins.
    fn install(&mut self, sync: Arc<Sync>, out: &mut Vec<Output>) {
        let choice = match choose(self.members, &self.auth.hasher, &sync.stop_data) {
            Ok(choice) => choice,
            Err(_) => return,
        };
        let view = self.view();
        let marked = choice.mark.statement.seq;
        self.phase = Phase::Normal;
        // A leader that restarted in this view goes on wishing for the next (RULES 11).
        self.wish = if self.leader() == self.me && !self.may_lead { view.next() } else { view };
        self.floor = if broken(Mutant::VotesBelowMark) { Seq(0) } else { marked };
        self.sync_high = choice.places.keys().last().copied().unwrap_or(marked);
        // Places of earlier views that were not chosen do not exist any more.
        self.highest = self.sync_high.max(self.decided).max(self.low);
        (self.last_leader_sign, self.last_progress) = (self.now.tick, self.now.tick);
        self.view_began = self.now.tick;
        self.performance.view_begins(self.now.tick);
        let fixed = if broken(Mutant::ProposesOverSync) { Seq(0) } else { self.sync_high };
        self.set_next_seq(fixed.max(self.decided).max(self.low).next());
        let hasher = self.auth.hasher;
        for (seq, digest) in choice.places {
            if seq <= self.low {
                continue;
            }
            let since = self.now.tick;
            let slot = self.slots.entry(seq).or_default();
            slot.proposal = Some(Proposal { digest, since, clock_ok: true, vouched: true });
            if slot.batch(&digest).is_none() {
                let noop = Batch::noop(&hasher, seq);
                if noop.digest == digest {
                    slot.batches.insert(digest, Arc::new(noop));
                }
            }
            match slot.batch(&digest) {
                // What is executed already may have been offered again since, and is to be answered again.
                Some(_) if seq <= self.executed => {}
                Some(batch) => self.requests.proposed(&batch.group_digests),
                None => {
                    slot.wanted.insert(digest, self.now.tick);
                    let holders = sync.stop_data.iter().filter(|d| d.sender != self.me).filter(|d| {
                        d.slots.iter().any(|s| s.certificate.seq == seq && s.certificate.digest == digest)
                    });
                    let fetch = FetchBatch { seq, digest };
                    if let Some(d) = holders.min_by_key(|d| d.sender == self.leader()) {
                        out.push(Output::Send(d.sender, Message::FetchBatch(fetch)));
                    }
                }
            }
        }
        self.sync = Some(sync);
        self.restore_votes();
        out.push(Output::ViewStarted(view));
        let open: Vec<Seq> = self.slots.keys().copied().collect();
        open.into_iter().for_each(|seq| self.go_on(seq, out));
        self.replay_early(out);
    }

    /// Whoever is behind gets the SYNC of the current view; everybody keeps it in memory (RULES 1).
    pub(super) fn send_sync(&mut self, to: ReplicaId, out: &mut Vec<Output>) {
        let (Some(sync), Phase::Normal) = (&self.sync, &self.phase) else { return };
        let pause = self.config.view_timeout_ms * 1_000_000 / 4;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        if peer.sync_sent != Tick(0) && self.now.tick.since(peer.sync_sent) < pause {
            return;
        }
        peer.sync_sent = self.now.tick;
        out.push(Output::Send(to, Message::Sync(sync.clone())));
    }

    pub(super) fn change_timers(&mut self, out: &mut Vec<Output>) {
        self.weigh_wishes(out);
        let timeout = self.timeout_ns();
        let (now, view) = (self.now.tick, self.view());
        // Only a leader that shows itself is worth a doubled timeout.
        let base = self.config.view_timeout_ms.saturating_mul(1_000_000);
        let leader_seen = self.peers.get(&self.leader()).map_or(now, |p| p.seen);
        let patience = if now.since(leader_seen) > base { base } else { timeout };
        let Phase::Changing { entered, quorum_since, .. } = &mut self.phase else { return };
        let entered = *entered;
        if quorum_since.is_some_and(|t| now.since(t) > patience) {
            *quorum_since = Some(now);
            if self.wish <= view {
                self.wish = view.next();
                out.push(Output::Broadcast(Message::Stop(Stop { view: self.wish })));
                self.weigh_wishes(out);
            }
        }
        if entered && now.since(self.last_stop_data) > timeout / 2 {
            self.send_stop_data(out);
        }
        if entered {
            self.try_sync(out);
        }
    }
}
