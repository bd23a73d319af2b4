//! Runs one model, with all rules or without one of them.

use stateright::{Checker, HasDiscoveries, Model};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A model that says what its actions do.
pub trait Story: Model {
    /// One line; `state` is the state before the action.
    fn tell(&self, state: &Self::State, action: &Self::Action) -> String;

    /// What is wrong with the last state of a counterexample.
    fn verdict(&self, state: &Self::State) -> String;
}

/// How it ended.
pub enum Outcome {
    /// Every state was visited; nothing is broken, and what should be reachable is.
    Holds,
    /// A counterexample, and which property it breaks.
    Broken { property: &'static str, story: Vec<String> },
    /// Every state was visited, and something that should happen never does.
    NeverHappens(&'static str),
}

/// Figures of one run.
pub struct Report {
    pub outcome: Outcome,
    /// Different states visited.
    pub states: usize,
    /// Steps tried.
    pub steps: usize,
    /// Actions to the furthest state visited.
    pub depth: usize,
    pub took: Duration,
}

/// Breadth first over all states. One thread finds the shortest counterexample; more are faster.
pub fn explore<M>(model: M, threads: usize) -> Report
where
    M: Story + Send + Sync + 'static,
    M::State: Clone + PartialEq + Hash + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let began = Instant::now();
    let checker =
        model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let model = checker.model();
    let mut outcome = Outcome::Holds;
    for property in model.properties() {
        let failure = property.expectation.discovery_is_failure();
        match checker.discovery(property.name) {
            Some(path) if failure => {
                let mut story = Vec::new();
                for (state, action) in path.into_vec() {
                    story.push(match action {
                        Some(action) => model.tell(&state, &action),
                        None => model.verdict(&state),
                    });
                }
                outcome = Outcome::Broken { property: property.name, story };
                break;
            }
            None if !failure => outcome = Outcome::NeverHappens(property.name),
            _ => {}
        }
    }
    Report {
        outcome,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth().saturating_sub(1),
        took: began.elapsed(),
    }
}
