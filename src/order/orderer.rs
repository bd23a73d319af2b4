//! [core] One replica's ordering: state and dispatch.

use super::durable::DurableState;
use super::held::Held;
use super::interface::*;
use super::mutants::{Mutant, broken};
use super::performance::Performance;
use super::reads::ReadRound;
use super::rejoin::Learner;
use super::requests::{Offered, Requests};
use super::roots::Roots;
use super::slot::{Proposal, Slot};
use crate::log::DurableGate;
use crate::quorum::Group as Members;
use crate::types::*;
use crate::wire::auth::{AuthenticGroup, Authenticator, Checked};
use crate::wire::batch::{AuthKind, Batch, Request, RequestKind};
use crate::wire::messages::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// First reserve of a view, and step of later ones.
pub(super) const RESERVE_STEP: u64 = 1024;
/// Early messages kept per peer.
const EARLY_MAX: usize = 512;
/// Whoever executes otherwise time and again does not do so by an accident of its memory.
const QUARANTINES_MAX: u32 = 3;
/// Batches fetched by digest at once.
pub(super) const FETCH_BATCHES: usize = 64;

/// Where the replica stands in its view.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Votes.
    Normal,
    /// Between views.
    Changing {
        /// "View entered" is durable.
        entered: bool,
        /// A SYNC for this view waits for that.
        sync: Option<Arc<Sync>>,
        /// When a quorum of STOP-DATA for this view or later was seen: the timer starts here (RULES 11).
        quorum_since: Option<Tick>,
    },
    /// Its log was lost: it learns what others decide (RULES 7).
    Learning(Learner),
    /// Mute.
    Halted(String),
}

/// What we know of another replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub status: Option<Status>,
    pub wish: View,
    pub stop_data: Option<Arc<StopData>>,
    pub sync_sent: Tick,
    /// When it last said anything.
    pub seen: Tick,
    /// Since when it waits between views in a later one than ours.
    pub outside_since: Option<Tick>,
    /// Since when it, a learner before, waits for the view after ours.
    pub awaits_since: Option<Tick>,
    /// When a leader last left a view for its sake.
    pub made_way: Option<Tick>,
    /// When it was last asked for places.
    pub fetched: Tick,
    pub served_bytes: usize,
    pub fetches: u32,
    pub early: VecDeque<Checked>,
    pub early_bytes: usize,
}

/// A digest list that leads to a certified mark ahead of us.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// `None` if the mark is in our log already.
    pub mark: Option<MarkCertificate>,
    /// Digests of the places after the last decided one.
    pub digests: VecDeque<Digest>,
}

/// One replica's ordering, as a function of its inputs. See the [module](super) for the contract.
pub struct Orderer {
    pub(super) auth: Authenticator,
    pub(super) members: Members,
    pub(super) me: ReplicaId,
    pub(super) config: OrderConfig,
    pub(super) now: Now,
    pub(super) durable: DurableState,
    pub(super) next_lsn: Lsn,
    /// What waits for the disk; the log alone says when it may leave.
    pub(super) gate: DurableGate<Held>,
    pub(super) phase: Phase,
    pub(super) wish: View,
    /// False in a view this replica restarted in: it must not lead it again.
    pub(super) may_lead: bool,
    /// Byzantine: WRITEs at or below may have left before the restart, in this view.
    pub(super) restart_bar: Option<(View, Seq)>,
    pub(super) reserve_durable: Seq,
    pub(super) sync: Option<Arc<Sync>>,
    /// The mark of the current view's SYNC: everything up to it is decided, so nothing is voted on there, also by a
    /// replica whose own mark is lower.
    pub(super) floor: Seq,
    /// The highest place the current view's SYNC fixed.
    pub(super) sync_high: Seq,
    pub(super) peers: BTreeMap<ReplicaId, Peer>,
    pub(super) slots: BTreeMap<Seq, Slot>,
    /// The durable mark: the window is (low, low + W].
    pub(super) low: Seq,
    pub(super) decided: Seq,
    pub(super) chain: Digest,
    pub(super) chain_at: BTreeMap<Seq, Digest>,
    pub(super) executed: Seq,
    pub(super) own_marks: BTreeMap<Seq, MarkStatement>,
    pub(super) marks: BTreeMap<Seq, BTreeMap<ReplicaId, Mark>>,
    pub(super) mark_appended: Seq,
    pub(super) catch_up: Option<CatchUp>,
    /// The latest states, by root.
    pub(super) roots: Roots,
    /// A state others had is being taken over.
    pub(super) installing: Option<MarkStatement>,
    /// There is no executed state here, or a wrong one: others' is taken over before anything else is executed.
    pub(super) lacks_state: bool,
    /// There is none, and what the log begins with has never been executed since the start.
    pub(super) hollow: bool,
    /// How often it was wrong since the start.
    pub(super) quarantines: u32,
    /// It was, and its record is on its way to the disk.
    pub(super) installed: Option<(StateCertificate, Vec<(SessionId, RequestNumber)>)>,
    /// Places whose state was sent to others, and when last.
    pub(super) seeded: BTreeMap<Seq, Tick>,
    /// Since when others' logs begin above what is decided here.
    pub(super) lost_since: Option<Tick>,
    /// A checkpoint of this place waits for the mark.
    pub(super) checkpoint_taken: Option<Seq>,
    /// Records below this one were given up, or are about to be.
    pub(super) recycled_below: Lsn,
    next_seq: Seq,
    pub(super) highest: Seq,
    pub(super) requests: Requests,
    /// Known clients whose MAC vectors failed at some replica.
    pub(super) sign_only: BTreeSet<ClientId>,
    pub(super) log_room: bool,
    last_time: WallTime,
    random: u64,
    pub(super) last_leader_sign: Tick,
    /// The leader of this view proposed what no correct replica proposes.
    pub(super) leader_lied: bool,
    pub(super) last_progress: Tick,
    pub(super) view_began: Tick,
    /// When this replica began to hear others.
    pub(super) begun: Tick,
    /// When the view was entered, or the replica restarted in it.
    pub(super) changing_since: Tick,
    pub(super) failed_views: u32,
    pub(super) decide_ns: u64,
    pub(super) performance: Performance,
    /// Mean size of the batches decided lately.
    pub(super) decided_bytes: usize,
    pub(super) next_heartbeat: Tick,
    pub(super) last_fetch: Tick,
    /// The last place of the last FETCH; 0 once it was followed up.
    pub(super) fetch_end: Seq,
    pub(super) last_forward: Tick,
    pub(super) last_stop_data: Tick,
    pub(super) ask_turn: u32,
    pub(super) reads: ReadRound,
    /// Most places in flight at once so far.
    pub in_flight_max: u64,
}

impl Orderer {
    /// A replica as its log left it: everything up to `executed` is executed, with that reply chain.
    /// `batches` are those the log holds above the mark, and below it but not yet executed.
    pub(super) fn new(
        auth: Authenticator,
        config: OrderConfig,
        durable: DurableState,
        next_lsn: Lsn,
        executed: Seq,
        batches: Vec<Arc<Batch>>,
        now: Now,
    ) -> Self {
        let (members, me, view) = (auth.members, auth.me, durable.view);
        let chain = durable.history(executed).expect("only what a mark covers is executed in recovery");
        let low = durable.mark.statement.seq;
        let rest: VecDeque<Digest> =
            (executed.0 + 1..=low.0).filter_map(|s| durable.digest(Seq(s))).collect();
        let mut slots: BTreeMap<Seq, Slot> = BTreeMap::new();
        for batch in batches {
            slots.entry(batch.seq).or_default().batches.insert(batch.digest, batch);
        }
        // A learner that waits outside view 1 is no member of it.
        let restored_view_is_first = view == View::FIRST && durable.rejoined.is_none();
        let phase = if durable.learner {
            Phase::Learning(Learner::default())
        } else if durable.rejoined == Some(view) {
            Phase::Changing { entered: false, sync: None, quorum_since: None }
        } else if restored_view_is_first || broken(Mutant::RestoresNormal) {
            Phase::Normal
        } else {
            Phase::Changing { entered: true, sync: None, quorum_since: None }
        };
        // `init` leaves "view 1 entered" with reserve 0, and nothing is proposed or voted above the durable reserve: so
        // with reserve 0 nothing was ever sent.
        let fresh = restored_view_is_first && durable.reserve == Seq(0);
        let peers = members.members().filter(|r| *r != me).map(|r| (r, Peer::default())).collect();
        let requests = Requests::new(config.client_bytes_max, config.pool_bytes_max);
        let (random, view_timeout_ms) = (config.seed, config.view_timeout_ms);
        let prepared = durable.prepared().map(|(s, _)| *s).chain(durable.lost.keys().copied());
        let highest = prepared.max().unwrap_or(low).max(low);
        let mut this = Self {
            restart_bar: (members.byzantine()
                && !fresh
                && !broken(Mutant::RestoresNormal)
                && !broken(Mutant::ForgetsWrites))
            .then_some((view, durable.reserve)),
            reserve_durable: durable.reserve,
            wish: if fresh || broken(Mutant::RestartedLeaderLeads) { view } else { view.next() },
            may_lead: fresh || broken(Mutant::RestartedLeaderLeads),
            auth,
            members,
            me,
            config,
            now,
            next_lsn,
            gate: DurableGate::new(Lsn(next_lsn.0 - 1)),
            phase,
            sync: None,
            floor: Seq(0),
            sync_high: Seq(0),
            peers,
            slots,
            low,
            decided: executed,
            chain,
            chain_at: BTreeMap::new(),
            executed,
            own_marks: BTreeMap::new(),
            marks: BTreeMap::new(),
            mark_appended: low,
            catch_up: (!rest.is_empty()).then_some(CatchUp { mark: None, digests: rest }),
            roots: Roots::default(),
            installing: None,
            installed: None,
            lacks_state: false,
            hollow: false,
            quarantines: 0,
            lost_since: None,
            seeded: BTreeMap::new(),
            checkpoint_taken: None,
            recycled_below: Lsn(1),
            next_seq: low.next(),
            highest,
            requests,
            sign_only: BTreeSet::new(),
            log_room: true,
            last_time: WallTime(0),
            random,
            last_leader_sign: now.tick,
            leader_lied: false,
            last_progress: now.tick,
            view_began: now.tick,
            begun: now.tick,
            changing_since: now.tick,
            failed_views: 0,
            decide_ns: 0,
            performance: Performance::new(members, view_timeout_ms),
            decided_bytes: 0,
            next_heartbeat: now.tick,
            last_fetch: Tick(0),
            fetch_end: Seq(0),
            last_forward: now.tick,
            last_stop_data: Tick(0),
            ask_turn: 0,
            reads: ReadRound::default(),
            durable,
            in_flight_max: 0,
        };
        // In view 1 a restarted follower votes above its reserve at once; only its leader has to leave.
        if restored_view_is_first && !fresh && this.leader() != me {
            this.wish = view;
        }
        this.want_lost();
        if restored_view_is_first {
            this.restore_votes();
        }
        this
    }

    /// What the log says we prepared in this view we still accept: it is durable. A live view has nothing here.
    pub(super) fn restore_votes(&mut self) {
        let prepared: Vec<_> = self.durable.prepared().map(|(_, p)| p.certificate.clone()).collect();
        let view = self.view();
        for c in prepared.into_iter().filter(|c| c.view == view) {
            let whole = self.durable.batch_place(c.seq, &c.digest).is_some();
            let slot = self.slots.entry(c.seq).or_default();
            slot.proposal =
                Some(Proposal { digest: c.digest, since: self.now.tick, clock_ok: true, vouched: true });
            // An ACCEPT says that the batch is durable here: where it is not any more, it is logged anew before.
            if !whole {
                continue;
            }
            slot.prepared = true;
            let signature = self.auth.sign_vote(VoteKind::Accept, c.view, c.seq, &c.digest);
            let vote = Vote { view: c.view, seq: c.seq, digest: c.digest, signature };
            let _ = slot.accepts.add(self.me, &vote);
        }
    }

    /// Nothing is executed: there is no state that the log leads on from, and others' is taken over.
    pub(super) fn without_state(mut self) -> Self {
        (self.lacks_state, self.hollow, self.may_lead) = (true, true, false);
        self
    }

    /// The replica is about to hear others: making log segments ready may have taken long, and is nobody's silence.
    pub fn begin(&mut self, now: Now) {
        self.now = now;
        (self.last_leader_sign, self.last_progress, self.next_heartbeat) = (now.tick, now.tick, now.tick);
        (self.view_began, self.changing_since, self.begun) = (now.tick, now.tick, now.tick);
        self.performance.view_begins(now.tick);
    }

    /// Sessions that are open at the start: their old requests are turned away as before the restart.
    pub fn known_progress(&mut self, progress: impl Iterator<Item = (SessionId, RequestNumber)>) {
        self.requests.known_progress(progress);
    }

    // ---- what others may ask -------------------------------------------------------------------------------------

    /// The view entered last.
    pub fn view(&self) -> View {
        self.durable.view
    }

    /// Its leader.
    pub fn leader(&self) -> ReplicaId {
        self.view().leader(self.members.n())
    }

    /// Whether votes of this replica may be forgotten that no mark covers yet (RULES 14).
    pub fn is_forgetful(&self) -> bool {
        self.durable.is_forgetful()
    }

    /// Whether this replica leads and may propose.
    pub fn leads(&self) -> bool {
        matches!(self.phase, Phase::Normal) && self.leader() == self.me && self.may_lead
    }

    /// What this replica does.
    pub fn mode(&self) -> Mode {
        match self.phase {
            Phase::Normal => Mode::Normal,
            Phase::Changing { .. } if self.awaits_view() => Mode::Learning,
            Phase::Changing { .. } => Mode::Changing,
            Phase::Learning(_) => Mode::Learning,
            Phase::Halted(_) => Mode::Halted,
        }
    }

    /// Why it is mute, if it is.
    pub fn halted(&self) -> Option<&str> {
        match &self.phase {
            Phase::Halted(why) => Some(why),
            _ => None,
        }
    }

    /// Whether there is no executed state here, or a wrong one, and others' has yet to be taken over.
    pub fn lacks_state(&self) -> bool {
        self.lacks_state
    }

    /// How often the executed state was not that of the others.
    pub fn quarantines(&self) -> u32 {
        self.quarantines
    }

    /// All places up to here are decided.
    pub fn decided(&self) -> Seq {
        self.decided
    }

    /// All places up to here are executed.
    pub fn executed(&self) -> Seq {
        self.executed
    }

    /// The durable mark.
    pub fn mark(&self) -> Seq {
        self.low
    }

    /// Groups kept, and bytes of those not yet proposed.
    pub fn waiting(&self) -> (usize, usize) {
        (self.requests.len(), self.requests.waiting_bytes())
    }

    /// The heartbeat as it would be sent now.
    pub fn status(&self) -> Status {
        Status {
            view: self.view(),
            wish: self.wish.max(self.view()),
            mode: self.mode(),
            mark: self.low,
            decided: self.decided,
            highest: self.highest,
            base: self.durable.serves_above(),
            rooted: self.roots.newest(),
        }
    }

    /// The last heartbeat of each other replica.
    pub fn peers(&self) -> impl Iterator<Item = (ReplicaId, Option<Status>)> {
        self.peers.iter().map(|(r, p)| (*r, p.status))
    }

    /// When [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Tick {
        self.next_heartbeat
    }

    // ---- dispatch ------------------------------------------------------------------------------------------------

    /// Takes one input.
    pub fn step(&mut self, now: Now, input: Input, out: &mut Vec<Output>) -> Result<(), Discard> {
        debug_assert!(now.tick >= self.now.tick);
        self.now = now;
        if matches!(self.phase, Phase::Halted(_)) {
            return self.step_halted(input, out);
        }
        let result = match input {
            Input::Message(m) => {
                let (from, message) = m.into_parts();
                self.on_message(from, message, out)
            }
            Input::Group { origin, group } => {
                self.on_group(origin, group, out);
                Ok(())
            }
            Input::Persisted(persisted) => {
                self.on_persisted(&persisted, out);
                Ok(())
            }
            Input::Executed { seq, replies, progress } => {
                self.on_executed(seq, replies, &progress, out);
                Ok(())
            }
            Input::LogRoom(room) => {
                self.log_room = room;
                if room {
                    let waiting: Vec<Seq> = self.slots.keys().copied().collect();
                    waiting.into_iter().for_each(|seq| self.go_on(seq, out));
                    self.advance(out);
                }
                Ok(())
            }
            Input::LogFailed(why) => {
                self.halt(format!("the log failed: {why}"), out);
                Ok(())
            }
            Input::ServiceFailed(why) => {
                self.halt(why, out);
                Ok(())
            }
            Input::OrderNoop(nonce) => {
                let request = Request {
                    session: SessionId(0),
                    number: RequestNumber(nonce),
                    kind: RequestKind::Noop,
                    operation: &[][..],
                };
                let group = self.auth.own_group(&[request]);
                if self.leader() != self.me {
                    let bytes = group.group().bytes().clone();
                    out.push(Output::Send(self.leader(), Message::Group(bytes)));
                }
                let _ = self.requests.offer(self.now.tick, group);
                Ok(())
            }
            Input::OwnBatch(batch) => {
                let _ = self.on_batch_is(batch, out);
                Ok(())
            }
            Input::CheckpointTaken(seq) => {
                self.on_checkpoint_taken(seq, out);
                Ok(())
            }
            Input::CheckpointStored { seq, keep, pressed } => {
                self.on_checkpoint_stored(seq, keep, pressed, out);
                Ok(())
            }
            Input::Rooted { seq, replies, state } => {
                self.on_rooted(seq, replies, state, out);
                Ok(())
            }
            Input::Seeding(seq) => {
                self.seeded.insert(seq, self.now.tick);
                Ok(())
            }
            Input::Arrived(state) => {
                self.on_arrived(state, out);
                Ok(())
            }
            Input::Installed { state, progress } => {
                self.on_installed(state, progress, out);
                Ok(())
            }
            Input::InstallFailed => {
                self.on_install_failed(out);
                Ok(())
            }
            Input::ReadIndex(token) => {
                self.on_read_index(token, out);
                Ok(())
            }
            Input::Tick => {
                self.on_tick(out);
                Ok(())
            }
        };
        self.try_propose(out);
        result
    }

    fn step_halted(&mut self, input: Input, out: &mut Vec<Output>) -> Result<(), Discard> {
        match input {
            Input::Message(_) => return Err(Discard::Halted),
            Input::Group { origin, group } => {
                let (code, group) = (NoticeCode::Halted, group.digest());
                out.push(Output::Notice { origin, code, group });
            }
            Input::ReadIndex(token) => out.push(Output::ReadRefused(vec![token])),
            Input::Tick => self.heartbeat(out),
            _ => {}
        }
        Ok(())
    }

    fn on_message(
        &mut self,
        from: ReplicaId,
        message: Checked,
        out: &mut Vec<Output>,
    ) -> Result<(), Discard> {
        let Some(peer) = self.peers.get_mut(&from) else { return Err(Discard::WrongPlace) };
        peer.seen = self.now.tick;
        if self.is_learner() && !Self::concerns_learner(&message) {
            return Err(Discard::Learning);
        }
        match message {
            Checked::Propose { view, batch, verdict } => self.on_propose(from, view, batch, verdict, out),
            Checked::BadPropose { view, .. } => self.on_bad_propose(from, view, out),
            Checked::Write(vote) => self.on_write(from, vote, out),
            Checked::Accept(vote) => self.on_accept(from, vote, out),
            Checked::Stop(stop) => self.on_stop(from, stop, out),
            Checked::StopData(data) => self.on_stop_data(from, data, out),
            Checked::Sync(sync) => self.on_sync(from, sync, out),
            Checked::Mark(mark) if mark.statement.state != Digest::ZERO => self.on_root(from, mark, out),
            Checked::Mark(mark) => self.on_mark(from, mark, out),
            Checked::Status(status) => self.on_status(from, status, out),
            Checked::Fetch(fetch) => self.on_fetch(from, fetch, out),
            Checked::Decided { certificate, batch, proven } => {
                self.on_decided(from, certificate, batch, proven, out)
            }
            Checked::FetchBatch(fetch) => self.on_fetch_batch(from, fetch, out),
            Checked::BatchIs(batch) => self.on_batch_is(batch, out),
            Checked::Chain(chain) => self.on_chain(chain, out),
            Checked::ReadCheck(check) => {
                // "Still in this view" is all that is asked: a new leader needs a quorum that entered a later one. Who waits outside
                // a view may have promised a later one.
                let outside = matches!(self.phase, Phase::Changing { entered: false, .. });
                if check.view == self.view() && !outside || broken(Mutant::ConfirmsAnyLeader) {
                    let ok = ReadOk { view: check.view, nonce: check.nonce };
                    out.push(Output::Send(from, Message::ReadOk(ok)));
                }
                Ok(())
            }
            Checked::ReadOk(ok) => self.on_read_ok(from, ok, out),
            Checked::MacFailed(failed) => {
                self.take_signatures_only(failed.client);
                Ok(())
            }
            Checked::Rejoin(rejoin) => self.on_rejoin(from, rejoin, out),
            Checked::RejoinMark(answer) => self.on_rejoin_mark(from, answer),
            Checked::Group(group) => {
                self.on_group(u64::MAX, group, out);
                Ok(())
            }
        }
    }

    // ---- requests ------------------------------------------------------------------------------------------------

    fn on_group(&mut self, origin: u64, group: AuthenticGroup, out: &mut Vec<Output>) {
        let digest = group.digest();
        let notice = |code| Output::Notice { origin, code, group: digest };
        // A reply that is given again takes no room: a client that waits for one must not give up for want of it.
        let is_known = || self.requests.has(&digest) || self.requests.is_executed(group.group());
        if !self.log_room && !is_known() {
            out.push(notice(NoticeCode::LogFull));
            return;
        }
        if group.group().auth_kind == AuthKind::Mac && self.sign_only.contains(&group.group().client) {
            out.push(notice(NoticeCode::Sign));
            return;
        }
        let again = group.clone();
        let offered = self.requests.offer(self.now.tick, group);
        if offered == Offered::Queued && origin != u64::MAX && self.watches_performance() {
            self.performance.arrived(self.now.tick, again.group().client, digest);
        }
        match offered {
            Offered::Executed => out.push(Output::Resend(again)),
            Offered::Busy => out.push(notice(NoticeCode::Busy)),
            Offered::Known | Offered::Queued => {
                if !self.leads() && origin != u64::MAX {
                    out.push(notice(NoticeCode::View));
                }
            }
        }
    }

    /// This key's MACs failed somewhere: what waits under one is forgotten, its client signs it (RULES 12).
    pub(super) fn take_signatures_only(&mut self, client: ClientId) {
        if self.auth.scheme.knows_client(client) && self.sign_only.insert(client) {
            self.requests.forget_macs_of(client);
        }
    }

    pub(super) fn random(&mut self) -> u64 {
        // splitmix64: the agreed seed is the leader's choice; it need not be secret.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A batch closes when a place is free and requests wait: batches grow with the load, without a timer.
    fn try_propose(&mut self, out: &mut Vec<Output>) {
        // Decisions of a later view may have reached this leader before that view did.
        self.next_seq = self.next_seq.max(self.decided.next());
        if self.leads() && self.requests.any() {
            self.ensure_reserve(self.next_seq, out);
        }
        while self.leads()
            && self.log_room
            && self.next_seq <= self.reserve_durable
            && self.requests.any()
            && self.next_seq.0 <= self.decided.0 + self.config.open
            && self.next_seq.0 <= self.low.0 + self.config.window
            && self.decided.0 - self.executed.0 <= 2 * self.config.open
        {
            let seq = self.next_seq;
            self.next_seq = seq.next();
            let groups = self.requests.next_batch(self.config.batch_bytes, self.config.batch_requests);
            let time = WallTime(self.now.wall.0.max(self.last_time.0 + 1));
            self.last_time = time;
            let seed = self.random();
            let batch = Arc::new(Batch::build(&self.auth.hasher, seq, time, seed, groups));
            let propose = Propose { view: self.view(), seq, batch: batch.bytes.clone() };
            out.push(Output::Broadcast(Message::Propose(propose)));
            self.in_flight_max = self.in_flight_max.max(seq.0 - self.decided.0);
            self.take_proposal(batch, true, true, out);
        }
    }

    // ---- the normal case -----------------------------------------------------------------------------------------

    pub(super) fn in_window(&self, seq: Seq) -> bool {
        seq > self.low.max(self.floor) && seq.0 - self.low.0 <= self.config.window
    }

    /// Keeps what belongs to a later view, or above a window that has yet to move; bounded per peer.
    pub(super) fn keep_early(&mut self, from: ReplicaId, message: Checked) -> Result<(), Discard> {
        let size = match &message {
            Checked::Propose { batch, .. } => batch.bytes.len(),
            _ => 0,
        };
        let bytes_max = 4 * self.config.batch_bytes.max(size);
        let peer = self.peers.get_mut(&from).ok_or(Discard::WrongPlace)?;
        if peer.early.len() >= EARLY_MAX || peer.early_bytes + size > bytes_max {
            return Err(Discard::TooEarly);
        }
        peer.early.push_back(message);
        peer.early_bytes += size;
        Ok(())
    }

    /// The view began or the window moved: early messages get their turn.
    pub(super) fn replay_early(&mut self, out: &mut Vec<Output>) {
        let peers: Vec<ReplicaId> = self.peers.keys().copied().collect();
        for from in peers {
            let Some(peer) = self.peers.get_mut(&from) else { continue };
            let early = std::mem::take(&mut peer.early);
            peer.early_bytes = 0;
            for message in early {
                // A message that is still early goes back; any other discard was due anyway.
                let _ = self.on_message(from, message, out);
            }
        }
    }

    /// Hands decided places to execution, in sequence.
    pub(super) fn advance(&mut self, out: &mut Vec<Output>) {
        // What is executed must go into the log of decisions, where there is one: it waits for room rather than fail.
        let full = !self.config.votes_durable && !self.log_room;
        if self.installing.is_some() || self.lacks_state || full {
            return;
        }
        loop {
            let next = self.decided.next();
            let known = self.catch_up.as_ref().and_then(|c| c.digests.front()).copied();
            let Some(slot) = self.slots.get(&next) else { break };
            let Some(decision) = &slot.decision else {
                // Below a certified mark the digest is known, and the batch is all that is needed.
                if let Some(digest) = known
                    && let Some(batch) = slot.batch(&digest).cloned()
                {
                    let signatures = Vec::new();
                    let certificate = Certificate { view: View(0), seq: next, digest, signatures };
                    self.decide(certificate, false, batch, out);
                    return;
                }
                break;
            };
            let (batch, digest) = (decision.batch.clone(), decision.certificate.digest);
            let proof = (!self.config.votes_durable).then(|| decision.certificate.clone());
            if let Some(known) = known {
                if known != digest {
                    let why = format!("place {next} was decided as {digest} here but marked as {known}");
                    return self.halt(why, out);
                }
                if let Some(c) = &mut self.catch_up {
                    c.digests.pop_front();
                }
            }
            self.decided_bytes = (self.decided_bytes * 15 + batch.bytes.len()) / 16;
            self.decided = next;
            self.highest = self.highest.max(next);
            self.last_progress = self.now.tick;
            if matches!(self.phase, Phase::Normal) {
                self.failed_views = 0;
            }
            self.chain = self.auth.hasher.chain(&self.chain, &digest);
            if next.0.is_multiple_of(self.config.mark_interval) {
                self.chain_at.insert(next, self.chain);
            }
            out.extend(proof.map(Output::Decision));
            out.push(Output::Execute(batch));
        }
        self.fetch_known(out);
        self.fetch_on(out);
    }

    /// A batch that was missing.
    pub(super) fn take_batch(&mut self, batch: Arc<Batch>, out: &mut Vec<Output>) -> Result<(), Discard> {
        let seq = batch.seq;
        let slot = self.slots.entry(seq).or_default();
        slot.wanted.remove(&batch.digest);
        if slot.batch(&batch.digest).is_some() {
            return Err(Discard::Duplicate);
        }
        slot.batches.insert(batch.digest, batch);
        self.go_on(seq, out);
        self.advance(out);
        self.try_sync(out);
        Ok(())
    }

    /// Where the work stands, for a failing simulation.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn picture(&self) -> String {
        let slots: Vec<String> = self
            .slots
            .iter()
            .take(4)
            .map(|(s, x)| {
                format!(
                    "{s}:{}{}{} w{:?} a{:?} wanted{:?}",
                    if x.proposal.is_some() { "P" } else { "-" },
                    if x.prepared { "p" } else { "-" },
                    if x.decision.is_some() { "D" } else { "-" },
                    x.writes,
                    x.accepts,
                    x.wanted
                )
            })
            .collect();
        format!(
            "phase={:?} may_lead={} bar={:?} reserve={} next={} sync_high={} failed={} decide_ms={} catch_up={:?} slots={} {slots:?}",
            match &self.phase {
                Phase::Normal => "Normal".to_string(),
                Phase::Changing { entered, sync, quorum_since } =>
                    format!("Changing(entered {entered}, sync {}, since {quorum_since:?})", sync.is_some()),
                Phase::Learning(learner) => format!("{learner:?}"),
                Phase::Halted(why) => why.clone(),
            },
            self.may_lead,
            self.restart_bar,
            self.reserve_durable,
            self.next_seq,
            self.sync_high,
            self.failed_views,
            self.decide_ns / 1_000_000,
            self.catch_up.as_ref().map(|c| (c.mark.as_ref().map(|m| m.statement.seq), c.digests.len())),
            self.slots.len(),
        )
    }

    pub(super) fn set_next_seq(&mut self, seq: Seq) {
        self.next_seq = seq;
    }

    /// The executed state is not that of f+1 others: theirs is taken over, where it can be.
    pub(super) fn quarantine(&mut self, why: String, out: &mut Vec<Output>) {
        if self.lacks_state {
            return;
        }
        if !self.config.transfers || self.is_learner() || self.quarantines == QUARANTINES_MAX {
            return self.halt(why, out);
        }
        self.quarantines += 1;
        self.lacks_state = true;
        self.may_lead = false;
        self.refuse_reads(out);
        self.catch_up = None;
        self.checkpoint_taken = None;
        self.roots.distrust();
        self.own_marks.clear();
        self.marks.values_mut().for_each(|by| _ = by.remove(&self.me));
        out.push(Output::Quarantined(why));
        if self.leader() == self.me {
            self.suspect(out);
        }
    }

    pub(super) fn halt(&mut self, why: String, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Halted(_)) {
            self.refuse_reads(out);
            out.push(Output::Halt(why.clone()));
            self.phase = Phase::Halted(why);
        }
    }
}
