//! Which part of the suite notices a broken rule: stories first, then random seeds.

use super::scenario::check;
use super::scenarios::STORIES;
use super::swarm::{Plan, attempt};
use crate::order::mutants::{Mutant, break_rule};

/// What noticed it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kill {
    /// Stories that went otherwise.
    pub stories: Vec<&'static str>,
    /// The first plan that failed, and why.
    pub seed: Option<(Plan, String)>,
}

impl Kill {
    /// Whether anything did.
    pub fn is_dead(&self) -> bool {
        !self.stories.is_empty() || self.seed.is_some()
    }
}

/// Tells every story with this rule broken, then runs the plans until one fails.
pub fn hunt(mutant: Mutant, mut plans: impl Iterator<Item = Plan>) -> Kill {
    break_rule(Some(mutant));
    let changed = STORIES.iter().filter(|(_, text)| check(text).is_err()).map(|(name, _)| *name);
    let stories = changed.collect();
    let seed = plans.find_map(|plan| attempt(&plan).err().map(|why| (plan, why)));
    break_rule(None);
    Kill { stories, seed }
}
