//! Crash mode, n = 3: proposals, durable votes, views, restarts. No marks: every place lies in the window.
//!
//! A message that left is in the state for ever, may be taken any number of times by anybody, or never. A replica that is down is one
//! that takes no step, so a crash and the restart are one action.

use crate::explore::Story;
use crate::rules::Rule;
use crate::words::*;
use stateright::{Model, Property};
use std::sync::atomic::{AtomicBool, Ordering};

const N: usize = 3;

/// S places, V views.
pub struct Votes<const S: usize, const V: usize> {
    without: Option<Rule>,
    decided_in: [AtomicBool; V],
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica<const S: usize, const V: usize> {
    // Durable.
    view: u8,
    prepared: [Cert; S],
    // Under way to the disk.
    entering: u8,
    writing: [Values; S],
    /// Without rule 2 only: what was durable when `entering` was appended.
    report: [Cert; S],
    // Lost in a crash.
    normal: bool,
    may_lead: bool,
    /// Places that the leader proposed something for since it runs.
    offered: u8,
    // Messages that left.
    accepted: [[Values; S]; V],
    stop_data: [Option<[Cert; S]>; V],
}

/// All replicas, and what leaders sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<const S: usize, const V: usize> {
    replicas: [Replica<S, V>; N],
    proposed: [[Values; S]; V],
    /// What the SYNC of a view fixes, place by place.
    sync: [Option<[Values; S]>; V],
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Propose { who: usize, place: usize, value: Values },
    Prepare { who: usize, place: usize, value: Values },
    PersistVote { who: usize, place: usize },
    Enter { who: usize, view: u8 },
    PersistView { who: usize },
    Lead { who: usize, heard: u8 },
    Install { who: usize },
    Crash { who: usize },
}

fn leader(view: u8) -> usize {
    (view as usize - 1) % N
}

impl<const S: usize, const V: usize> Votes<S, V> {
    pub fn new(without: Option<Rule>) -> Self {
        Self { without, decided_in: [const { AtomicBool::new(false) }; V] }
    }

    fn broken(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn quorum(&self) -> u32 {
        if self.broken(Rule::FullQuorum) { 1 } else { 2 }
    }

    /// Values that a quorum accepted for a place in a view.
    fn decided(&self, state: &State<S, V>, view: usize, place: usize) -> Values {
        let by =
            |value| state.replicas.iter().filter(|r| r.accepted[view][place] & value != 0).count() as u32;
        ALL.into_iter().filter(|v| by(*v) >= self.quorum()).fold(NONE, |all, v| all | v)
    }

    fn decided_anywhere(&self, state: &State<S, V>, place: usize) -> Values {
        (0..V).fold(NONE, |all, view| all | self.decided(state, view, place))
    }

    /// What these STOP-DATA fix: the highest view's value, no-ops in gaps, nothing above the highest place.
    fn choose(&self, state: &State<S, V>, view: u8, heard: u8) -> [Values; S] {
        let mut best = [Cert::default(); S];
        for report in members(heard).filter_map(|r| state.replicas[r].stop_data[view as usize - 1]) {
            for (best, cert) in best.iter_mut().zip(report) {
                let first = self.broken(Rule::HighestView) && best.view > 0;
                if !first {
                    *best = cert.max(*best);
                }
            }
        }
        let highest = best.iter().rposition(|c| c.view > 0).map_or(0, |i| i + 1);
        let mut choice = [NONE; S];
        for (place, cert) in best.iter().enumerate().take(highest) {
            choice[place] = if cert.view > 0 { cert.value } else { NOOP };
        }
        choice
    }

    /// What may be prepared in this view: the SYNC's choice, else what its leader proposed.
    fn proposals(&self, state: &State<S, V>, view: u8, place: usize) -> Values {
        let v = view as usize - 1;
        match state.sync[v].map_or(NONE, |choice| choice[place]) {
            NONE => state.proposed[v][place],
            chosen => chosen,
        }
    }
}

impl<const S: usize, const V: usize> Replica<S, V> {
    fn vote(&mut self, view: u8, place: usize, value: Values) {
        self.accepted[view as usize - 1][place] |= value;
    }
}

impl<const S: usize, const V: usize> Model for Votes<S, V> {
    type State = State<S, V>;
    type Action = Action;

    fn init_states(&self) -> Vec<Self::State> {
        let replica = |r| Replica {
            view: 1,
            prepared: [Cert::default(); S],
            entering: 0,
            writing: [NONE; S],
            report: [Cert::default(); S],
            normal: true,
            may_lead: r == leader(1),
            offered: 0,
            accepted: [[NONE; S]; V],
            stop_data: [None; V],
        };
        vec![State {
            replicas: [replica(0), replica(1), replica(2)],
            proposed: [[NONE; S]; V],
            sync: [None; V],
        }]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Action>) {
        for (who, r) in state.replicas.iter().enumerate() {
            actions.push(Action::Crash { who });
            for place in (0..S).filter(|p| r.writing[*p] != NONE) {
                actions.push(Action::PersistVote { who, place });
            }
            if r.entering > 0 {
                // The log is durable in order.
                if r.writing == [NONE; S] {
                    actions.push(Action::PersistView { who });
                }
                continue;
            }
            actions.extend((r.view + 1..=V as u8).map(|view| Action::Enter { who, view }));
            let v = r.view as usize - 1;
            if !r.normal {
                if state.sync[v].is_some() {
                    actions.push(Action::Install { who });
                }
                if r.may_lead && state.sync[v].is_none() {
                    let said = (0..N).filter(|i| state.replicas[*i].stop_data[v].is_some());
                    let said = said.fold(0, |set, i| set | 1 << i);
                    actions.extend(subsets(said, self.quorum()).map(|heard| Action::Lead { who, heard }));
                }
                continue;
            }
            for place in 0..S {
                let open = state.sync[v].is_none_or(|choice| choice[place] == NONE);
                if r.may_lead && open && r.offered & 1 << place == 0 {
                    // Names of values mean nothing: the first one proposed for a place is x.
                    let seen = state.proposed.iter().any(|p| p[place] != NONE);
                    let values = if seen { &[X, Y][..] } else { &[X] };
                    actions.extend(values.iter().map(|value| Action::Propose { who, place, value: *value }));
                }
                if r.prepared[place].view < r.view && r.writing[place] == NONE {
                    let from = self.proposals(state, r.view, place);
                    let values = ALL.into_iter().filter(|v| from & v != 0);
                    actions.extend(values.map(|value| Action::Prepare { who, place, value }));
                }
            }
        }
    }

    fn next_state(&self, state: &Self::State, action: Action) -> Option<Self::State> {
        let mut next = state.clone();
        match action {
            Action::Propose { who, place, value } => {
                let r = &mut next.replicas[who];
                r.offered |= 1 << place;
                next.proposed[r.view as usize - 1][place] |= value;
            }
            Action::Prepare { who, place, value } => {
                let r = &mut next.replicas[who];
                r.writing[place] = value;
                if self.broken(Rule::DurableVote) {
                    r.vote(r.view, place, value);
                }
            }
            Action::PersistVote { who, place } => {
                let r = &mut next.replicas[who];
                let value = std::mem::take(&mut r.writing[place]);
                r.prepared[place] = Cert { view: r.view, value };
                // No ACCEPT of a lower view after "view entered" (RULES 2).
                if r.entering == 0 || self.broken(Rule::ReportIsTheLog) {
                    r.vote(r.view, place, value);
                }
            }
            Action::Enter { who, view } => {
                let r = &mut next.replicas[who];
                r.entering = view;
                r.normal = false;
                r.may_lead = false;
                r.offered = 0;
                if self.broken(Rule::ReportIsTheLog) {
                    r.report = r.prepared;
                }
            }
            Action::PersistView { who } => {
                let r = &mut next.replicas[who];
                r.view = std::mem::take(&mut r.entering);
                r.may_lead = leader(r.view) == who;
                let report = std::mem::replace(&mut r.report, [Cert::default(); S]);
                let report = if self.broken(Rule::ReportIsTheLog) { report } else { r.prepared };
                // Once the view has its SYNC it is of no use; and nothing is reported after the last view.
                let used = state.sync[r.view as usize - 1].is_some();
                r.stop_data[r.view as usize - 1] = Some(if used { [Cert::default(); S] } else { report });
                if r.view as usize == V {
                    r.prepared = [Cert::default(); S];
                }
            }
            Action::Lead { who, heard } => {
                let view = next.replicas[who].view;
                let v = view as usize - 1;
                next.sync[v] = Some(self.choose(state, view, heard));
                let reports = next.replicas.iter_mut().filter_map(|r| r.stop_data[v].as_mut());
                reports.for_each(|report| *report = [Cert::default(); S]);
            }
            Action::Install { who } => next.replicas[who].normal = true,
            Action::Crash { who } => {
                let r = &mut next.replicas[who];
                r.entering = 0;
                r.writing = [NONE; S];
                r.report = [Cert::default(); S];
                // No SYNC begins view 1.
                r.normal = r.view == 1 || self.broken(Rule::RestartIsChanging);
                // Without rule 1 whoever leads the view it finds in its log goes on with what it finds there.
                let resumes = self.broken(Rule::RestartIsChanging) && r.view > 1;
                r.may_lead = leader(r.view) == who && (resumes || self.broken(Rule::RestartedLeaderIsNone));
                r.offered = 0;
            }
        }
        // Who else accepts what is decided in a view makes no difference.
        for view in 0..V {
            for place in 0..S {
                let decided = self.decided(&next, view, place);
                next.replicas.iter_mut().for_each(|r| r.accepted[view][place] |= decided);
            }
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![Property::always("agreement", |m: &Self, s: &State<S, V>| {
            (0..S).all(|place| !differ(m.decided_anywhere(s, place)))
        })];
        if self.without.is_none() {
            all.push(Property::always("a decision is never replaced", |m, s| {
                (0..S).all(|place| {
                    (0..V).all(|view| {
                        let decided = m.decided(s, view, place);
                        let mut later = s.sync.iter().skip(view + 1).flatten();
                        decided == NONE || later.all(|choice| choice[place] == decided)
                    })
                })
            }));
            const HAPPENS: [&str; 3] = ["decided in view 1", "decided in view 2", "decided in view 3"];
            let happens: [fn(&Self, &State<S, V>) -> bool; 3] = [
                |m, s| m.first_decision_in(s, 0),
                |m, s| m.first_decision_in(s, 1),
                |m, s| m.first_decision_in(s, 2),
            ];
            all.extend((0..V).map(|v| Property::sometimes(HAPPENS[v], happens[v])));
        }
        all
    }
}

impl<const S: usize, const V: usize> Votes<S, V> {
    /// Once is enough, and telling the checker of each would be slow.
    fn first_decision_in(&self, state: &State<S, V>, view: usize) -> bool {
        !self.decided_in[view].load(Ordering::Relaxed)
            && (0..S).any(|place| self.decided(state, view, place) != NONE)
            && !self.decided_in[view].swap(true, Ordering::Relaxed)
    }
}

impl<const S: usize, const V: usize> Story for Votes<S, V> {
    fn tell(&self, state: &Self::State, action: &Action) -> String {
        let view = |who: usize| state.replicas[who].view;
        match action {
            Action::Propose { who, place, value } => {
                format!(
                    "{} proposes {} for place {} in view {}",
                    letter(*who),
                    Name(*value),
                    place + 1,
                    view(*who)
                )
            }
            Action::Prepare { who, place, value } => {
                format!(
                    "{} appends Prepared({}, place {}, {})",
                    letter(*who),
                    view(*who),
                    place + 1,
                    Name(*value)
                )
            }
            Action::PersistVote { who, place } => {
                format!("{}'s Prepared of place {} is durable, its ACCEPT leaves", letter(*who), place + 1)
            }
            Action::Enter { who, view } => format!("{} appends \"view {view} entered\"", letter(*who)),
            Action::PersistView { who } => {
                format!("{}'s \"view entered\" is durable, its STOP-DATA leaves", letter(*who))
            }
            Action::Lead { who, heard } => {
                let heard: String = members(*heard).map(letter).collect();
                format!("{} sends the SYNC of view {} from STOP-DATA of {heard}", letter(*who), view(*who))
            }
            Action::Install { who } => format!("{} takes the SYNC of view {}", letter(*who), view(*who)),
            Action::Crash { who } => format!("{} crashes and restarts", letter(*who)),
        }
    }

    fn verdict(&self, state: &Self::State) -> String {
        verdict::<S, V>(|view, place| self.decided(state, view, place))
    }
}
