//! [core] Sets of chunks, kept as runs: a million chunks in order cost one entry.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of chunk numbers. Runs neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start → end of each run.
    runs: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    /// A set of one.
    pub fn of(chunk: u64) -> Self {
        std::iter::once(chunk..chunk.saturating_add(1)).collect()
    }

    /// How many chunks.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.runs.iter().map(|(start, end)| *start..*end)
    }

    /// The runs that share a chunk with `of`, ascending.
    pub fn touching(&self, of: &Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.runs.range(..of.start).next_back().filter(|(_, end)| **end > of.start);
        let inside = (!of.is_empty()).then(|| self.runs.range(of.start..of.end)).into_iter().flatten();
        before.into_iter().chain(inside).map(|(start, end)| *start..*end)
    }

    /// The chunks from the last to the first.
    pub fn backwards(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter().rev().flat_map(|run| run.rev())
    }

    /// The lowest chunk.
    pub fn first(&self) -> Option<u64> {
        self.runs.first_key_value().map(|(start, _)| *start)
    }

    /// The highest chunk.
    pub fn last(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(_, end)| end - 1)
    }

    /// Whether this chunk is in it.
    pub fn contains(&self, chunk: u64) -> bool {
        self.runs.range(..=chunk).next_back().is_some_and(|(_, end)| chunk < *end)
    }

    /// Adds one chunk; false if it was there.
    pub fn insert(&mut self, chunk: u64) -> bool {
        let new = !self.contains(chunk);
        if new {
            self.add(chunk..chunk + 1);
        }
        new
    }

    /// Removes one chunk; false if it was not there.
    pub fn remove(&mut self, chunk: u64) -> bool {
        let there = self.contains(chunk);
        if there {
            self.subtract(chunk..chunk + 1);
        }
        there
    }

    /// Adds a run.
    pub fn add(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        let (mut start, mut end) = (run.start, run.end);
        let before = self.runs.range(..=end).next_back().map(|(s, e)| (*s, *e));
        let mut touching = before.filter(|(_, e)| *e >= start);
        while let Some((s, e)) = touching {
            self.runs.remove(&s);
            self.len -= e - s;
            (start, end) = (start.min(s), end.max(e));
            touching =
                self.runs.range(..=end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e >= start);
        }
        self.runs.insert(start, end);
        self.len += end - start;
    }

    /// Adds all runs of another set.
    pub fn add_all(&mut self, other: &RangeSet) {
        other.iter().for_each(|run| self.add(run));
    }

    /// Removes a run.
    pub fn subtract(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        while let Some((s, e)) =
            self.runs.range(..run.end).next_back().map(|(s, e)| (*s, *e)).filter(|(_, e)| *e > run.start)
        {
            self.runs.remove(&s);
            self.len -= e - s;
            for rest in [s..run.start.min(e).max(s), run.end.min(e).max(s)..e] {
                if !rest.is_empty() {
                    self.len += rest.end - rest.start;
                    self.runs.insert(rest.start, rest.end);
                }
            }
        }
    }

    /// Removes all runs of another set.
    pub fn subtract_all(&mut self, other: &RangeSet) {
        other.iter().for_each(|run| self.subtract(run));
    }

    /// Takes out its lowest `count` chunks, or all.
    pub fn take_first(&mut self, count: u64) -> RangeSet {
        let mut taken = RangeSet::default();
        while taken.len < count
            && let Some((start, end)) = self.runs.pop_first()
        {
            let cut = end.min(start.saturating_add(count - taken.len));
            taken.push_back(start..cut);
            self.len -= cut - start;
            if cut < end {
                self.runs.insert(cut, end);
            }
        }
        taken
    }

    /// Takes out its highest `count` chunks, or all.
    pub fn take_last(&mut self, count: u64) -> RangeSet {
        let mut taken = RangeSet::default();
        while taken.len < count
            && let Some((start, end)) = self.runs.pop_last()
        {
            let cut = start.max(end.saturating_sub(count - taken.len));
            taken.runs.insert(cut, end);
            taken.len += end - cut;
            self.len -= end - cut;
            if start < cut {
                self.runs.insert(start, cut);
            }
        }
        taken
    }

    /// The largest run, or the lowest `count` of it.
    pub fn take_run(&mut self, count: u64) -> RangeSet {
        let Some((start, end)) = self.runs.first_key_value().map(|(s, e)| (*s, *e)) else {
            return RangeSet::default();
        };
        self.take_first(count.min(end - start))
    }

    /// What is also in the other set; costs what the smaller one has of runs.
    pub fn common(&self, other: &RangeSet) -> RangeSet {
        let (few, many) = if self.runs() <= other.runs() { (self, other) } else { (other, self) };
        let mut common = RangeSet::default();
        for run in few.iter() {
            let first = many.runs.range(..=run.start).next_back().filter(|(_, e)| **e > run.start);
            let rest = many.runs.range(run.start.saturating_add(1)..run.end.max(run.start + 1));
            for (s, e) in first.into_iter().chain(rest) {
                common.add(run.start.max(*s)..run.end.min(*e));
            }
        }
        common
    }

    fn push_back(&mut self, run: Range<u64>) {
        self.len += run.end - run.start;
        self.runs.insert(run.start, run.end);
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(runs: I) -> Self {
        let mut set = RangeSet::default();
        runs.into_iter().for_each(|run| set.add(run));
        set
    }
}
