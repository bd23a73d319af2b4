//! Crash mode, n = 3, with marks (one a place), a window, and a replica that loses its log and comes back.
//!
//! Writes are atomic here: what is under way to the disk when a replica crashes is the matter of [`votes`](crate::votes). So a crash
//! only takes away: whoever restarts may do what it could do before, but for leading its view. A crash is therefore no step of its own
//! here: the schedules without the steps that it would have prevented are among those explored.
//!
//! A place is executed by a replica no earlier than it could know the decision, and no further than its window reaches.

use crate::explore::Story;
use crate::rules::Rule;
use crate::words::*;
use stateright::{Model, Property};
use std::sync::atomic::{AtomicBool, Ordering};

const N: usize = 3;
const QUORUM: usize = 2;

/// S places, V views, a window of W places.
pub struct Marks<const S: usize, const V: usize, const W: usize> {
    without: Option<Rule>,
    /// One replica may lose its log, once.
    wipes: bool,
    happened: [AtomicBool; 5],
}

/// What a STOP-DATA says: the mark, and certificates in the window above it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Report<const S: usize> {
    mark: u8,
    certs: [Cert; S],
}

impl<const S: usize> Report<S> {
    /// Instead of one that nobody needs any more.
    const USED: Self = Self { mark: 0, certs: [Cert { view: 0, value: NONE }; S] };
}

/// What a SYNC fixes: everything up to the mark is decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Sync<const S: usize> {
    mark: u8,
    choice: [Values; S],
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Replica<const S: usize, const V: usize> {
    // Durable.
    /// 0 while it only learns.
    view: u8,
    mark: u8,
    /// Above the mark.
    prepared: [Cert; S],
    /// The view outside of which it waited to vote again.
    rejoined: u8,
    /// Where its window begins. Without rule 4 that may be above the durable mark.
    low: u8,
    // Messages that left.
    marked: u8,
    accepted: [[Values; S]; V],
    stop_data: [Option<Report<S>>; V],
}

/// All replicas, and what is nobody's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State<const S: usize, const V: usize> {
    replicas: [Replica<S, V>; N],
    proposed: [[Values; S]; V],
    sync: [Option<Sync<S>>; V],
    /// Who lost its log, the STOP-DATA that it sent before, and the mark it has to reach.
    wiped: Option<usize>,
    forgotten: [Option<Report<S>>; V],
    floor: u8,
}

/// One step.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    Propose { who: usize, place: usize, value: Values },
    Vote { who: usize, place: usize, value: Values },
    Execute { who: usize },
    Mark { who: usize },
    PersistMark { who: usize },
    Recycle { who: usize },
    Enter { who: usize, view: u8 },
    Lead { who: usize, heard: u8 },
    Wipe { who: usize },
    Rejoin { who: usize, view: u8 },
}

fn leader(view: u8) -> usize {
    (view as usize - 1) % N
}

/// Place numbers begin at 1, indices at 0.
fn number(place: usize) -> u8 {
    place as u8 + 1
}

impl<const S: usize, const V: usize, const W: usize> Marks<S, V, W> {
    pub fn new(without: Option<Rule>, wipes: bool) -> Self {
        Self { without, wipes, happened: [const { AtomicBool::new(false) }; 5] }
    }

    fn broken(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn decided(&self, state: &State<S, V>, view: usize, place: usize) -> Values {
        let by = |value| state.replicas.iter().filter(|r| r.accepted[view][place] & value != 0).count();
        ALL.into_iter().filter(|v| by(*v) >= QUORUM).fold(NONE, |all, v| all | v)
    }

    fn decided_anywhere(&self, state: &State<S, V>, place: usize) -> Values {
        (0..V).fold(NONE, |all, view| all | self.decided(state, view, place))
    }

    fn in_window(&self, state: &State<S, V>, who: usize, place: usize) -> bool {
        let r = &state.replicas[who];
        let floor = state.sync[r.view as usize - 1].map_or(0, |sync| sync.mark);
        number(place) > r.low.max(floor) && number(place) <= r.low + W as u8
    }

    /// What may be voted for in this view: the SYNC's choice, else what its leader proposed.
    fn proposals(&self, state: &State<S, V>, view: u8, place: usize) -> Values {
        let v = view as usize - 1;
        match state.sync[v].map_or(NONE, |sync| sync.choice[place]) {
            NONE => state.proposed[v][place],
            chosen => chosen,
        }
    }

    /// It leads its view. In the first view after it was a learner it may have led already (RULES 7).
    fn leads(&self, r: &Replica<S, V>, who: usize) -> bool {
        leader(r.view) == who && (r.rejoined == 0 || r.view > r.rejoined + 1)
    }

    /// It was a learner and waits for a view above this one.
    fn outside(&self, r: &Replica<S, V>) -> bool {
        r.rejoined > 0 && r.view == r.rejoined && !self.broken(Rule::ViewAbove)
    }

    /// The leader fills its window in sequence.
    fn may_propose(&self, state: &State<S, V>, who: usize, place: usize) -> bool {
        let r = &state.replicas[who];
        let filled =
            |p: usize| self.proposals(state, r.view, p) != NONE || self.decided_anywhere(state, p) != NONE;
        self.leads(r, who)
            && self.in_window(state, who, place)
            && self.proposals(state, r.view, place) == NONE
            && (r.low as usize..place).all(filled)
    }

    /// Whether the next mark is certified for this replica: a quorum states it, itself among them, or somebody has it.
    fn next_mark(&self, state: &State<S, V>, who: usize) -> bool {
        let r = &state.replicas[who];
        let next = r.low + 1;
        let stated = state.replicas.iter().filter(|r| r.marked >= next).count() >= QUORUM;
        let executed = r.marked >= next || r.view == 0;
        let elsewhere = state.replicas.iter().any(|r| r.mark >= next);
        next as usize <= S && (stated && executed || elsewhere)
    }

    /// The highest view that this replica ever entered, also before it lost its log.
    fn entered(&self, state: &State<S, V>, who: usize) -> usize {
        let lost = |v: &usize| state.wiped == Some(who) && state.forgotten[*v].is_some();
        let lost = (0..V).rfind(lost).map_or(1, |v| v + 1);
        lost.max(state.replicas[who].view as usize)
    }

    /// A view is wished for once a quorum entered the one before (RULES 11).
    fn may_enter(&self, state: &State<S, V>, view: u8) -> bool {
        view == 2 || (0..N).filter(|r| self.entered(state, *r) + 1 >= view as usize).count() >= QUORUM
    }

    /// The STOP-DATA of this view that `heard` names: bit N is what the wiped replica sent before.
    fn report(&self, state: &State<S, V>, view: u8, which: usize) -> Option<Report<S>> {
        let v = view as usize - 1;
        if which == N { state.forgotten[v] } else { state.replicas[which].stop_data[v] }
    }

    fn choose(&self, state: &State<S, V>, view: u8, heard: u8) -> Sync<S> {
        let reports = || members(heard).filter_map(|which| self.report(state, view, which));
        let mark = reports().map(|r| r.mark).max().unwrap_or(0);
        let best = |place: usize| reports().map(|r| r.certs[place]).max().unwrap_or_default();
        let above = mark as usize..S;
        let highest = above.clone().rfind(|p| best(*p).view > 0).map_or(mark as usize, |p| p + 1);
        let mut choice = [NONE; S];
        for place in above.take_while(|p| *p < highest) {
            let cert = best(place);
            choice[place] = if cert.view > 0 { cert.value } else { NOOP };
        }
        Sync { mark, choice }
    }
}

impl<const S: usize, const V: usize, const W: usize> Marks<S, V, W> {
    /// Nobody votes below every mark; a learner not below what it has to reach, which is above the marks of the others.
    fn lowest(&self, state: &State<S, V>) -> u8 {
        let each = state.replicas.iter().map(|r| if r.view == 0 { r.mark.max(state.floor) } else { r.mark });
        if self.broken(Rule::WipedRejoinsLate) { 0 } else { each.min().unwrap_or(0) }
    }

    /// Makes equal what no later step can tell apart.
    fn level(&self, state: &mut State<S, V>) {
        // Statements of marks that somebody has: who has not executed so far could have.
        if !self.broken(Rule::CutAtTheMark) {
            let certified = state.replicas.iter().map(|r| r.mark).max().unwrap_or(0);
            state.replicas.iter_mut().for_each(|r| r.marked = r.marked.max(certified));
        }
        let lowest = self.lowest(state);
        for v in 0..V {
            for place in 0..S {
                // Who else votes for what is decided.
                let decided = self.decided(state, v, place);
                let closed = number(place) <= lowest;
                for r in &mut state.replicas {
                    r.accepted[v][place] = if closed { decided } else { r.accepted[v][place] | decided };
                }
                if closed {
                    state.proposed[v][place] = NONE;
                    state.sync[v].iter_mut().for_each(|sync| sync.choice[place] = NONE);
                }
            }
            // Reports to a leader that is further.
            if state.replicas[leader(v as u8 + 1)].view as usize > v + 1 {
                let all = state.replicas.iter_mut().map(|r| &mut r.stop_data[v]);
                all.chain([&mut state.forgotten[v]]).flatten().for_each(|report| *report = Report::USED);
            }
        }
    }
}

impl<const S: usize, const V: usize> Replica<S, V> {
    const fn new() -> Self {
        Self {
            view: 1,
            mark: 0,
            prepared: [Cert { view: 0, value: NONE }; S],
            rejoined: 0,
            low: 0,
            marked: 0,
            accepted: [[NONE; S]; V],
            stop_data: [None; V],
        }
    }

    /// What its log says, if it enters a view now.
    fn report(&self, window: usize) -> Report<S> {
        let in_window = |place: usize| number(place) > self.mark && number(place) <= self.mark + window as u8;
        let mut certs = self.prepared;
        (0..S).filter(|p| !in_window(*p)).for_each(|p| certs[p] = Cert::default());
        Report { mark: self.mark, certs }
    }

    fn mark_is_durable(&mut self, mark: u8) {
        self.mark = mark;
        // What the mark covers is not reported any more.
        self.prepared[..mark as usize].fill(Cert::default());
    }
}

impl<const S: usize, const V: usize, const W: usize> Model for Marks<S, V, W> {
    type State = State<S, V>;
    type Action = Action;

    fn init_states(&self) -> Vec<Self::State> {
        vec![State {
            replicas: [const { Replica::new() }; N],
            proposed: [[NONE; S]; V],
            sync: [None; V],
            wiped: None,
            forgotten: [None; V],
            floor: 0,
        }]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Action>) {
        for (who, r) in state.replicas.iter().enumerate() {
            if self.wipes && state.wiped.is_none() {
                actions.push(Action::Wipe { who });
            }
            if self.next_mark(state, who) {
                actions.push(Action::Mark { who });
            }
            if r.view == 0 {
                if r.mark >= state.floor {
                    let proven = |v: &usize| {
                        (state.floor as usize..S).any(|place| self.decided(state, *v, place) != NONE)
                    };
                    let views = (0..V).filter(proven).map(|v| v as u8 + 1);
                    actions.extend(views.map(|view| Action::Rejoin { who, view }));
                }
                continue;
            }
            let next = r.marked as usize;
            if next < S && next < r.low as usize + W && self.decided_anywhere(state, next) != NONE {
                actions.push(Action::Execute { who });
            }
            if r.mark < r.low {
                actions.push(Action::PersistMark { who });
            }
            let executed = &r.prepared[..r.marked as usize];
            if self.broken(Rule::CutAtTheMark) && executed.iter().any(|c| c.view > 0) {
                actions.push(Action::Recycle { who });
            }
            for view in (r.view + 1..=V as u8).filter(|view| self.may_enter(state, *view)) {
                actions.push(Action::Enter { who, view });
            }
            if self.outside(r) {
                continue;
            }
            // Being shown the SYNC is no step of its own: there is one in each view.
            if r.view > 1 && state.sync[r.view as usize - 1].is_none() {
                if self.leads(r, who) {
                    let said = (0..=N).filter(|which| self.report(state, r.view, *which).is_some());
                    let said = said.fold(0, |set, which| set | 1 << which);
                    // One report of each replica.
                    let twice = state.wiped.map_or(0, |wiped| 1 << wiped | 1 << N);
                    let quorums = subsets(said, QUORUM as u32);
                    let quorums = quorums.filter(|set| twice == 0 || set & twice != twice);
                    actions.extend(quorums.map(|heard| Action::Lead { who, heard }));
                }
                continue;
            }
            for place in 0..S {
                if self.may_propose(state, who, place) {
                    // Names of values mean nothing: the first one proposed for a place is x.
                    let seen = state.proposed.iter().any(|p| p[place] != NONE);
                    let values = if seen { &[X, Y][..] } else { &[X] };
                    actions.extend(values.iter().map(|value| Action::Propose { who, place, value: *value }));
                }
                if self.in_window(state, who, place) && r.prepared[place].view < r.view {
                    let from = self.proposals(state, r.view, place);
                    let values = ALL.into_iter().filter(|v| from & v != 0);
                    actions.extend(values.map(|value| Action::Vote { who, place, value }));
                }
            }
        }
    }

    fn next_state(&self, state: &Self::State, action: Action) -> Option<Self::State> {
        let mut next = state.clone();
        match action {
            Action::Propose { who, place, value } => {
                next.proposed[state.replicas[who].view as usize - 1][place] |= value;
            }
            Action::Vote { who, place, value } => {
                let r = &mut next.replicas[who];
                r.prepared[place] = Cert { view: r.view, value };
                r.accepted[r.view as usize - 1][place] |= value;
            }
            Action::Execute { who } => next.replicas[who].marked += 1,
            Action::Mark { who } => {
                let r = &mut next.replicas[who];
                r.low += 1;
                if r.view > 0 {
                    r.marked = r.marked.max(r.low);
                }
                if !self.broken(Rule::MarkBeforeWindow) {
                    r.mark_is_durable(r.low);
                }
            }
            Action::PersistMark { who } => {
                let r = &mut next.replicas[who];
                r.mark_is_durable(r.low);
            }
            Action::Recycle { who } => {
                let r = &mut next.replicas[who];
                r.prepared[..r.marked as usize].fill(Cert::default());
            }
            Action::Enter { who, view } => {
                let r = &mut next.replicas[who];
                r.view = view;
                // Once the view has its SYNC it is of no use.
                let used = state.sync[view as usize - 1].is_some();
                r.stop_data[view as usize - 1] = Some(if used { Report::USED } else { r.report(W) });
                // Nothing is reported after the last view.
                if view as usize == V {
                    r.prepared.fill(Cert::default());
                }
            }
            Action::Lead { who, heard } => {
                let view = state.replicas[who].view;
                let v = view as usize - 1;
                next.sync[v] = Some(self.choose(state, view, heard));
                let all =
                    next.replicas.iter_mut().map(|r| &mut r.stop_data[v]).chain([&mut next.forgotten[v]]);
                all.flatten().for_each(|report| *report = Report::USED);
            }
            Action::Wipe { who } => {
                let r = &state.replicas[who];
                let others = (0..N).filter(|i| *i != who).map(|i| state.replicas[i].mark);
                // Its own answer is 0, and with it one other is enough.
                let heard = if self.broken(Rule::OthersAnswer) { others.min() } else { others.max() };
                let windows = if self.broken(Rule::TwoWindows) { 1 } else { 2 };
                next.floor = heard.unwrap_or(0) + windows * W as u8;
                next.wiped = Some(who);
                next.forgotten = r.stop_data;
                let view = u8::from(self.broken(Rule::WipedRejoinsLate));
                let sent = Replica { marked: r.marked, accepted: r.accepted, ..Replica::new() };
                next.replicas[who] = Replica { view, ..sent };
            }
            Action::Rejoin { who, view } => {
                let r = &mut next.replicas[who];
                r.view = view;
                r.rejoined = view;
                // It signs marks again.
                r.marked = r.marked.max(r.low);
                next.floor = 0;
            }
        }
        self.level(&mut next);
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
                        decided == NONE
                            || later.all(|sync| {
                                sync.mark >= number(place)
                                    || sync.choice[place] == decided
                                    || m.closed(s, place)
                            })
                    })
                })
            }));
            all.push(Property::sometimes("decided in view 1", |m, s| m.first_time(0, m.decides_in(s, 0))));
            all.push(Property::sometimes("decided in view 2", |m, s| m.first_time(1, m.decides_in(s, 1))));
            all.push(Property::sometimes("the last place is decided", |m, s| {
                m.first_time(2, m.decided_anywhere(s, S - 1) != NONE)
            }));
            if self.wipes {
                all.push(Property::sometimes("a wiped replica votes again", |m: &Self, s: &State<S, V>| {
                    let votes = |r: &Replica<S, V>| r.prepared.iter().any(|c| c.view > r.rejoined);
                    let again = s.replicas.iter().any(|r| r.rejoined > 0 && votes(r));
                    m.first_time(3, again)
                }));
                all.push(Property::sometimes(
                    "after it had voted in the view it waited outside",
                    |m: &Self, s: &State<S, V>| {
                        let again = s.replicas.iter().any(|r| {
                            let before = r.rejoined > 0
                                && r.accepted[r.rejoined as usize - 1].iter().any(|v| *v != NONE);
                            before && r.prepared.iter().any(|c| c.view > r.rejoined)
                        });
                        m.first_time(4, again)
                    },
                ));
            }
        }
        all
    }
}

impl<const S: usize, const V: usize, const W: usize> Marks<S, V, W> {
    /// Levelled: what a SYNC chose for it was looked at before.
    fn closed(&self, state: &State<S, V>, place: usize) -> bool {
        number(place) <= self.lowest(state)
    }

    fn decides_in(&self, state: &State<S, V>, view: usize) -> bool {
        (0..S).any(|place| self.decided(state, view, place) != NONE)
    }

    /// Once is enough, and telling the checker of each would be slow.
    fn first_time(&self, what: usize, happens: bool) -> bool {
        happens && !self.happened[what].swap(true, Ordering::Relaxed)
    }
}

impl<const S: usize, const V: usize, const W: usize> Story for Marks<S, V, W> {
    fn tell(&self, state: &Self::State, action: &Action) -> String {
        let view = |who: &usize| state.replicas[*who].view;
        let low = |who: &usize| state.replicas[*who].low;
        match action {
            Action::Propose { who, place, value } => {
                format!(
                    "{} proposes {} for place {} in view {}",
                    letter(*who),
                    Name(*value),
                    place + 1,
                    view(who)
                )
            }
            Action::Vote { who, place, value } => format!(
                "{} prepares {} for place {} in view {}, durably, and its ACCEPT leaves",
                letter(*who),
                Name(*value),
                place + 1,
                view(who)
            ),
            Action::Execute { who } => {
                let place = state.replicas[*who].marked + 1;
                format!("{} executes place {place}, its MARK leaves", letter(*who))
            }
            Action::Mark { who } if self.broken(Rule::MarkBeforeWindow) => {
                format!("{} has the certified mark {}, and uses the window", letter(*who), low(who) + 1)
            }
            Action::Mark { who } => {
                format!("{}'s mark {} is certified and durable", letter(*who), low(who) + 1)
            }
            Action::PersistMark { who } => format!("{}'s mark {} is durable", letter(*who), low(who)),
            Action::Recycle { who } => {
                let marked = state.replicas[*who].marked;
                format!(
                    "{} has a checkpoint of place {marked} and recycles its log up to there",
                    letter(*who)
                )
            }
            Action::Enter { who, view } => {
                format!("{} enters view {view} durably, its STOP-DATA leaves", letter(*who))
            }
            Action::Lead { who, heard } => {
                let old = state.wiped.map(|w| format!("{} (before)", letter(w))).unwrap_or_default();
                let name = |which| if which == N { old.clone() } else { letter(which).to_string() };
                let heard: Vec<String> = members(*heard).map(name).collect();
                format!(
                    "{} sends the SYNC of view {} from STOP-DATA of {}",
                    letter(*who),
                    view(who),
                    heard.join(", ")
                )
            }
            Action::Wipe { who } => {
                format!("{} loses its log and starts anew, and asks for marks", letter(*who))
            }
            Action::Rejoin { who, view } => {
                format!("{} has mark {} and rejoins after view {view}", letter(*who), low(who))
            }
        }
    }

    fn verdict(&self, state: &Self::State) -> String {
        verdict::<S, V>(|view, place| self.decided(state, view, place))
    }
}
