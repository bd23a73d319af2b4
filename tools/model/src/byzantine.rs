//! Byzantine mode, n = 4, f = 1, one place: WRITEs, vote reserve, durable certificates, views, amnesia.
//!
//! A, B and C are correct, Z is not. Z leads every view: whatever a correct leader may send, Z may send too, so this covers every
//! other choice of leaders. Z votes for everything that its vote is needed for; its STOP-DATA carries any certificate that can be
//! formed, or none; any quorum of STOP-DATA makes a SYNC, and each replica may be shown another.
//!
//! Correct replicas differ in name only, and so do the two values: of states that differ in names alone one is visited.

use crate::explore::Story;
use crate::rules::Rule;
use crate::words::*;
use stateright::{Model, Property};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

/// Correct ones.
const CORRECT: usize = 3;
const VIEWS: usize = 3;
const VALUES: [Values; 2] = [X, Y];

/// One place; views up to `views`, crashes without bound.
pub struct Byzantine {
    without: Option<Rule>,
    views: u8,
    decided_in: [AtomicBool; VIEWS],
}

/// Where a replica stands in its durable view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Phase {
    /// No SYNC yet.
    Changing,
    /// No SYNC yet since the restart, and a WRITE may have left before it.
    ChangingBarred,
    /// WRITEs whatever is proposed, once.
    Free,
    /// WRITEs only this: the SYNC's choice, or a certificate's value.
    Fixed(Values),
    /// Votes, but its WRITE left, or may have left.
    Wrote,
}

/// One correct replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Replica {
    // Durable.
    view: u8,
    /// A vote reserve of `view` covers the place.
    reserve: bool,
    prepared: Cert,
    // Under way to the disk.
    entering: u8,
    writing: Values,
    /// Without rule 2 only: what was durable when `entering` was appended.
    report: Cert,
    // Lost in a crash.
    phase: Phase,
    // Messages that left, by view.
    wrote: [Values; VIEWS],
    accepted: [Values; VIEWS],
    stop_data: [Option<Cert>; VIEWS],
}

/// All correct replicas.
#[derive(Clone, Debug)]
pub struct State {
    replicas: [Replica; CORRECT],
    /// Who is who in the story told; of no meaning to the protocol.
    names: [u8; CORRECT],
    swapped: bool,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.replicas == other.replicas
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.replicas.hash(state);
    }
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Reserve { who: usize },
    Write { who: usize, value: Values },
    Prepare { who: usize, value: Values },
    PersistVote { who: usize },
    Enter { who: usize, view: u8 },
    PersistView { who: usize },
    Install { who: usize, choice: Values },
    Crash { who: usize },
}

fn swap(values: Values) -> Values {
    (values & X) << 1 | (values & Y) >> 1
}

impl Replica {
    fn swapped(mut self) -> Self {
        self.prepared.value = swap(self.prepared.value);
        self.report.value = swap(self.report.value);
        self.writing = swap(self.writing);
        if let Phase::Fixed(value) = &mut self.phase {
            *value = swap(*value);
        }
        self.wrote = self.wrote.map(swap);
        self.accepted = self.accepted.map(swap);
        for cert in self.stop_data.iter_mut().flatten() {
            cert.value = swap(cert.value);
        }
        self
    }
}

impl State {
    /// The one state of those that differ in names alone.
    fn representative(mut self) -> Self {
        let sorted = |replicas: [Replica; CORRECT], names: [u8; CORRECT]| {
            let mut both = [0, 1, 2].map(|i| (replicas[i], names[i]));
            both.sort_by_key(|(replica, _)| *replica);
            (both.map(|(r, _)| r), both.map(|(_, name)| name))
        };
        let plain = sorted(self.replicas, self.names);
        let other = sorted(self.replicas.map(Replica::swapped), self.names);
        if other.0 < plain.0 {
            (self.replicas, self.names) = other;
            self.swapped = !self.swapped;
        } else {
            (self.replicas, self.names) = plain;
        }
        self
    }
}

impl Byzantine {
    pub fn new(without: Option<Rule>, views: u8) -> Self {
        Self { without, views, decided_in: [const { AtomicBool::new(false) }; VIEWS] }
    }

    fn broken(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    /// Correct members that a quorum needs at least: Z is the other one.
    fn needed(&self) -> u32 {
        if self.broken(Rule::FullQuorum) { 1 } else { 2 }
    }

    /// Whether Q WRITEs for this value exist in this view, Z's among them.
    fn certified(&self, state: &State, cert: Cert) -> bool {
        let view = cert.view as usize - 1;
        state.replicas.iter().filter(|r| r.wrote[view] & cert.value != 0).count() as u32 >= self.needed()
    }

    /// Values with Q ACCEPTs in this view, Z's among them.
    fn decided(&self, state: &State, view: usize) -> Values {
        let by = |value| state.replicas.iter().filter(|r| r.accepted[view] & value != 0).count() as u32;
        VALUES.into_iter().filter(|v| by(*v) >= self.needed()).fold(NONE, |all, v| all | v)
    }

    /// Who else votes where Q did makes no difference.
    fn level(&self, state: &mut State) {
        for view in 0..VIEWS {
            let both = |value: &Values| self.certified(state, Cert { view: view as u8 + 1, value: *value });
            let certified = VALUES.into_iter().filter(both).fold(NONE, |all, v| all | v);
            let decided = self.decided(state, view);
            for r in &mut state.replicas {
                r.wrote[view] |= certified;
                r.accepted[view] |= decided;
            }
        }
    }

    /// Everything that some quorum of STOP-DATA of this view fixes; bit `FREE`: nothing.
    fn choices(&self, state: &State, view: u8) -> Values {
        let said = |i: &usize| state.replicas[*i].stop_data[view as usize - 1].is_some();
        let said = (0..CORRECT).filter(said).fold(0, |set, i| set | 1 << i);
        let mut choices = NONE;
        for heard in subsets(said, self.needed()) {
            let reports = || members(heard).filter_map(|i| state.replicas[i].stop_data[view as usize - 1]);
            let best = reports().max().unwrap_or_default();
            if best.view == 0 {
                choices |= FREE;
            }
            // Of one view there may be two, if something is broken; then either is taken.
            let enough = |view: u8| view > 0 && (view >= best.view || self.broken(Rule::HighestView));
            reports().filter(|c| enough(c.view)).for_each(|c| choices |= c.value);
            if heard.count_ones() == CORRECT as u32 {
                continue;
            }
            for view in (1..view).filter(|v| enough(*v)) {
                let certified = |value: &Values| self.certified(state, Cert { view, value: *value });
                VALUES.into_iter().filter(certified).for_each(|value| choices |= value);
            }
        }
        choices
    }
}

/// Among choices: that the place is free.
const FREE: Values = NOOP;

impl Model for Byzantine {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let replica = Replica {
            view: 1,
            reserve: false,
            prepared: Cert::default(),
            entering: 0,
            writing: NONE,
            report: Cert::default(),
            phase: Phase::Free,
            wrote: [NONE; VIEWS],
            accepted: [NONE; VIEWS],
            stop_data: [None; VIEWS],
        };
        vec![State { replicas: [replica; CORRECT], names: [0, 1, 2], swapped: false }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (who, r) in state.replicas.iter().enumerate() {
            actions.push(Action::Crash { who });
            if r.writing != NONE {
                actions.push(Action::PersistVote { who });
            }
            if r.entering > 0 {
                // The log is durable in order.
                if r.writing == NONE {
                    actions.push(Action::PersistView { who });
                }
                continue;
            }
            actions.extend((r.view + 1..=self.views).map(|view| Action::Enter { who, view }));
            if matches!(r.phase, Phase::Changing | Phase::ChangingBarred) {
                let choices = self.choices(state, r.view);
                let open = [FREE, X, Y].into_iter().filter(|c| choices & c != 0);
                actions.extend(open.map(|choice| Action::Install { who, choice }));
                continue;
            }
            let may_write = |value| match r.phase {
                Phase::Free => true,
                Phase::Fixed(only) => only == value,
                _ => false,
            };
            if !r.reserve && r.phase != Phase::Wrote {
                actions.push(Action::Reserve { who });
            }
            if r.reserve {
                let values = VALUES.into_iter().filter(|v| may_write(*v));
                actions.extend(values.map(|value| Action::Write { who, value }));
            }
            if r.prepared.view < r.view && r.writing == NONE {
                let certified = |value: &Values| self.certified(state, Cert { view: r.view, value: *value });
                let values = VALUES.into_iter().filter(certified);
                actions.extend(values.map(|value| Action::Prepare { who, value }));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Reserve { who } => next.replicas[who].reserve = true,
            Action::Write { who, value } => {
                let r = &mut next.replicas[who];
                r.wrote[r.view as usize - 1] |= value;
                r.phase = Phase::Wrote;
            }
            Action::Prepare { who, value } => {
                let r = &mut next.replicas[who];
                r.writing = value;
                // A certificate overrides the proposal (RULES 12).
                if matches!(r.phase, Phase::Free | Phase::Fixed(_)) {
                    r.phase = Phase::Fixed(value);
                }
                if self.broken(Rule::DurableVote) {
                    r.accepted[r.view as usize - 1] |= value;
                }
            }
            Action::PersistVote { who } => {
                let r = &mut next.replicas[who];
                let value = std::mem::take(&mut r.writing);
                r.prepared = Cert { view: r.view, value };
                // No ACCEPT of a lower view after "view entered" (RULES 2).
                if r.entering == 0 || self.broken(Rule::ReportIsTheLog) {
                    r.accepted[r.view as usize - 1] |= value;
                }
            }
            Action::Enter { who, view } => {
                let r = &mut next.replicas[who];
                r.entering = view;
                r.phase = Phase::Changing;
                if self.broken(Rule::ReportIsTheLog) {
                    r.report = r.prepared;
                }
            }
            Action::PersistView { who } => {
                let r = &mut next.replicas[who];
                r.view = std::mem::take(&mut r.entering);
                // The record carries the first reserve (RULES 1).
                r.reserve = !self.broken(Rule::RestartIsChanging);
                r.phase = Phase::Changing;
                let report = std::mem::take(&mut r.report);
                let report = if self.broken(Rule::ReportIsTheLog) { report } else { r.prepared };
                r.stop_data[r.view as usize - 1] = Some(report);
                // Nothing is reported after the last view.
                if r.view == self.views {
                    r.prepared = Cert::default();
                }
            }
            Action::Install { who, choice } => {
                let r = &mut next.replicas[who];
                r.phase = match (r.phase, choice) {
                    (Phase::ChangingBarred, _) => Phase::Wrote,
                    (_, FREE) => Phase::Free,
                    (_, value) => Phase::Fixed(value),
                };
            }
            Action::Crash { who } => {
                let r = &mut next.replicas[who];
                let barred = r.reserve && !self.broken(Rule::VoteReserve);
                r.entering = 0;
                r.writing = NONE;
                r.report = Cert::default();
                // No SYNC begins view 1.
                let normal = r.view == 1 || self.broken(Rule::RestartIsChanging);
                r.phase = match (normal, barred) {
                    (true, true) => Phase::Wrote,
                    (true, false) => Phase::Free,
                    (false, true) => Phase::ChangingBarred,
                    (false, false) => Phase::Changing,
                };
            }
        }
        self.level(&mut next);
        (next != *state).then(|| next.representative())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![Property::always("agreement", |m: &Self, s: &State| {
            !differ((0..VIEWS).fold(NONE, |all, view| all | m.decided(s, view)))
        })];
        if self.without.is_none() {
            all.push(Property::always("a decision is never replaced", |m, s| {
                (0..VIEWS).all(|view| {
                    let decided = m.decided(s, view);
                    let other = |value: &Values| *value & decided == 0;
                    let later = |v: usize| VALUES.into_iter().filter(other).map(move |x| (v as u8 + 1, x));
                    decided == NONE
                        || (view + 1..VIEWS)
                            .flat_map(later)
                            .all(|(view, value)| !m.certified(s, Cert { view, value }))
                })
            }));
            all.push(Property::always("one certificate a view", |m, s| {
                (1..=VIEWS as u8)
                    .all(|view| !VALUES.into_iter().all(|value| m.certified(s, Cert { view, value })))
            }));
            all.push(Property::sometimes("decided in view 1", |m, s| m.first_decision_in(s, 0)));
            all.push(Property::sometimes("decided in view 2", |m, s| m.first_decision_in(s, 1)));
            if self.views == 3 {
                all.push(Property::sometimes("decided in view 3", |m, s| m.first_decision_in(s, 2)));
            }
        }
        all
    }
}

impl Byzantine {
    /// Once is enough, and telling the checker of each would be slow.
    fn first_decision_in(&self, state: &State, view: usize) -> bool {
        !self.decided_in[view].load(Ordering::Relaxed)
            && self.decided(state, view) != NONE
            && !self.decided_in[view].swap(true, Ordering::Relaxed)
    }
}

impl Story for Byzantine {
    fn tell(&self, state: &State, action: &Action) -> String {
        let who = |who: usize| letter(state.names[who] as usize);
        let view = |who: usize| state.replicas[who].view;
        let name = |value: Values| Name(if state.swapped { swap(value) } else { value });
        match action {
            Action::Reserve { who: r } => {
                format!("{}'s vote reserve of view {} is durable", who(*r), view(*r))
            }
            Action::Write { who: r, value } => {
                format!(
                    "{} is sent a PROPOSE of {} and sends WRITE({}, {})",
                    who(*r),
                    name(*value),
                    view(*r),
                    name(*value)
                )
            }
            Action::Prepare { who: r, value } => {
                format!(
                    "{} has a quorum of WRITEs and appends Prepared({}, {})",
                    who(*r),
                    view(*r),
                    name(*value)
                )
            }
            Action::PersistVote { who: r } => format!("{}'s Prepared is durable, its ACCEPT leaves", who(*r)),
            Action::Enter { who: r, view } => format!("{} appends \"view {view} entered\"", who(*r)),
            Action::PersistView { who: r } => {
                format!("{}'s \"view entered\" is durable, its STOP-DATA leaves", who(*r))
            }
            Action::Install { who: r, choice: FREE } => {
                format!("{} is sent a SYNC of view {} that leaves the place free", who(*r), view(*r))
            }
            Action::Install { who: r, choice } => {
                format!("{} is sent a SYNC of view {} that chooses {}", who(*r), view(*r), name(*choice))
            }
            Action::Crash { who: r } => format!("{} crashes and restarts", who(*r)),
        }
    }

    fn verdict(&self, state: &State) -> String {
        let name = |value: Values| Name(if state.swapped { swap(value) } else { value });
        let mut all = Vec::new();
        for view in 0..VIEWS {
            for value in VALUES.into_iter().filter(|v| self.decided(state, view) & v != 0) {
                all.push(format!("{} is decided in view {} with Z's ACCEPT", name(value), view + 1));
            }
        }
        all.join("; ")
    }
}
