//! What the table of runs says, and nothing else: verdicts and pictures.

use serde_json::{Value, json};

use super::super::Verdict;
use super::super::bars::{Bars, Chart};
use super::super::csv::{Row, Table};

/// Runs to be compared: the same links and state.
pub(super) struct Case {
    group: String,
    links: String,
    bandwidth: f64,
    mib: u64,
    runs: Vec<Measured>,
}

/// All rounds of a strategy at a site: medians.
struct Measured {
    site: String,
    strategy: String,
    rounds: Vec<[f64; VALUES]>,
}

const COLUMNS: [&str; VALUES] = [
    "seconds",
    "ideal_s",
    "fraction",
    "sent_over_needed",
    "first_finish_s",
    "last_finish_s",
    "first_chunk_s",
    "tail_ms",
    "hash_ms",
];
const VALUES: usize = 9;

pub(super) fn cases(table: &Table) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for row in table.rows() {
        let (group, links) = (row.text("group")?, row.text("links")?);
        let (bandwidth, mib) = (row.number("bandwidth")?, row.number("mib")? as u64);
        let same =
            |c: &Case| c.group == group && c.links == links && c.bandwidth == bandwidth && c.mib == mib;
        let at = cases.iter().position(same).unwrap_or_else(|| {
            cases.push(Case { group: group.into(), links: links.into(), bandwidth, mib, runs: Vec::new() });
            cases.len() - 1
        });
        cases[at].add(row)?;
    }
    Ok(cases)
}

impl Measured {
    fn median(&self, column: &str) -> f64 {
        let at = COLUMNS.iter().position(|name| *name == column).expect("it is one of them");
        let mut values: Vec<f64> = self.rounds.iter().map(|round| round[at]).collect();
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        match values.len() % 2 {
            0 => (values[half - 1] + values[half]) / 2.0,
            _ => values[half],
        }
    }

    /// The last source's end over the first one's.
    fn spread(&self) -> f64 {
        self.median("last_finish_s") / self.median("first_finish_s").max(1e-6)
    }

    /// The part of one core's time for hashing that did not come after the last byte. What is written then counts as hashing, too.
    fn hidden(&self) -> f64 {
        1.0 - self.median("tail_ms") / self.median("hash_ms").max(1e-6)
    }
}

impl Case {
    fn add(&mut self, row: Row) -> Result<(), String> {
        let (site, strategy) = (row.text("site")?, row.text("strategy")?);
        let mut round = [0.0; VALUES];
        for (value, column) in round.iter_mut().zip(COLUMNS) {
            *value = row.number(column)?;
        }
        let same = |run: &&mut Measured| run.site == site && run.strategy == strategy;
        match self.runs.iter_mut().find(same) {
            Some(run) => run.rounds.push(round),
            None => {
                self.runs.push(Measured { site: site.into(), strategy: strategy.into(), rounds: vec![round] })
            }
        }
        Ok(())
    }

    fn sites(&self) -> Vec<&str> {
        let mut sites: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !sites.contains(&run.site.as_str()) {
                sites.push(&run.site);
            }
        }
        sites
    }

    fn strategies(&self) -> Vec<&str> {
        let mut strategies: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !strategies.contains(&run.strategy.as_str()) {
                strategies.push(&run.strategy);
            }
        }
        strategies
    }

    fn find(&self, site: &str, strategy: &str) -> Option<&Measured> {
        self.runs.iter().find(|run| run.site == site && run.strategy == strategy)
    }

    fn title(&self) -> String {
        let wider = if self.bandwidth == 1.0 { String::new() } else { format!(" x {}", self.bandwidth) };
        format!("group {}{wider}, {} links, {} MiB", self.group, self.links, self.mib)
    }

    pub(super) fn file_name(&self) -> String {
        let wider = if self.bandwidth == 1.0 { String::new() } else { format!("-x{}", self.bandwidth) };
        format!("{}{wider}-{}-{}mib", self.group.to_lowercase(), self.links, self.mib)
    }

    pub(super) fn json(&self) -> Value {
        let runs = self.runs.iter().map(|run| {
            let mut values =
                json!({ "site": run.site, "strategy": run.strategy, "rounds": run.rounds.len() });
            for column in COLUMNS {
                values[column] = json!(run.median(column));
            }
            values["spread"] = json!(run.spread());
            values["hash_hidden"] = json!(run.hidden());
            values
        });
        json!({
            "group": self.group,
            "links": self.links,
            "bandwidth": self.bandwidth,
            "mib": self.mib,
            "runs": runs.collect::<Vec<_>>(),
        })
    }
}

/// What is asked of the reduction against `equal` in Group A.
const REDUCTIONS: [(&str, f64, &str); 4] = [
    ("Sydney", 0.22, "takes at least 22 % less than equal parts (Figure 4)"),
    ("SaoPaulo", 0.48, "takes at least 48 % less than equal parts (Figure 4)"),
    ("NVirginia", 0.47, "takes at least 47 % less than equal parts (Figure 4)"),
    ("Ireland", 0.52, "takes at least 52 % less than equal parts (Figure 4)"),
];
const PAPER: &str = "best 47 %, mean 37 %, worst 19 % less";

/// What the case shows; nothing about runs that are not there.
pub(super) fn verdicts(case: &Case) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let constant_a = case.group == "A" && case.links == "constant";
    let changing = case.group == "B" && case.links == "varying" || case.links == "abrupt";
    for strategy in ["pull", "adaptive"] {
        let mut reductions = Vec::new();
        for site in case.sites() {
            let Some(run) = case.find(site, strategy) else { continue };
            let of = format!("{}, {site}, {strategy}", case.title());
            let mut say = |claim, paper, ours, holds| {
                verdicts.push(Verdict { of: of.clone(), claim, paper, ours, holds });
            };
            let fraction = run.median("fraction");
            let least = match strategy {
                _ if constant_a => Some((0.97, "at least 0.97 of the sum of the links")),
                "pull" if changing => Some((0.90, "at least 0.90 of the sum of the links")),
                _ => None,
            };
            if let Some((least, claim)) = least {
                let (took, ideal) = (run.median("seconds"), run.median("ideal_s"));
                say(
                    claim,
                    "not given",
                    format!("{fraction:.3}: {took:.2} s, ideal {ideal:.2} s"),
                    fraction >= least,
                );
            }
            if let Some(equal) = case.find(site, "equal") {
                let less = 1.0 - run.median("seconds") / equal.median("seconds").max(1e-6);
                reductions.push(less);
                let asked = REDUCTIONS.iter().find(|(name, ..)| constant_a && *name == site);
                if let Some((_, least, claim)) = asked {
                    say(claim, PAPER, format!("{:.1} % less", 100.0 * less), less >= *least);
                }
            }
            if let (Some(weighted), "adaptive") = (case.find(site, "premeasured"), strategy) {
                let less = 1.0 - run.median("seconds") / weighted.median("seconds").max(1e-6);
                say(
                    "takes no longer than with Table 1's weights (Figure 4)",
                    "mean 10 % less",
                    format!("{:.1} % less", 100.0 * less),
                    less >= 0.0,
                );
            }
            let (spread, sent) = (run.spread(), run.median("sent_over_needed"));
            say(
                "the last source ends within 1.02 times the first one's time (Figure 6)",
                "1.01; equal parts 1.63 to 2.38",
                format!("{spread:.3}"),
                spread <= 1.02,
            );
            say(
                "the links carry at most 1.02 times the state",
                "not given",
                format!("{sent:.4}"),
                sent <= 1.02,
            );
            say(
                "at least 0.95 of the time for hashing is hidden behind reception (Figure 7)",
                "about 0.5",
                format!(
                    "{:.3}: {:.0} ms after the last byte, one core hashes for {:.0} ms",
                    run.hidden(),
                    run.median("tail_ms"),
                    run.median("hash_ms")
                ),
                run.hidden() >= 0.95,
            );
        }
        if constant_a && reductions.len() == REDUCTIONS.len() {
            let mean = reductions.iter().sum::<f64>() / reductions.len() as f64;
            verdicts.push(Verdict {
                of: format!("{}, all sites, {strategy}", case.title()),
                claim: "takes at least 42 % less than equal parts on average (Figure 4)",
                paper: PAPER,
                ours: format!("{:.1} % less", 100.0 * mean),
                holds: mean >= 0.42,
            });
        }
    }
    verdicts
}

/// Times by site and strategy.
pub(super) fn chart(case: &Case) -> Chart {
    let names = case.strategies();
    let rounds = case.runs.iter().map(|run| run.rounds.len()).max().unwrap_or(0);
    let groups = case.sites().into_iter().map(|site| {
        let of = |(at, name): (usize, &&str)| {
            case.find(site, name).map(|run| (at, run.median("seconds"), run.median("ideal_s")))
        };
        Bars { name: site.into(), bars: names.iter().enumerate().filter_map(of).collect() }
    });
    Chart {
        title: format!("State transfer by recovering site: {}", case.title()),
        notes: vec![format!(
            "from the first question to all checked and written; median of {rounds}; the paper's Figure 4: {PAPER} than equal parts"
        )],
        y_label: "seconds".into(),
        mark: "ideal: the sum of the links".into(),
        groups: groups.collect(),
        names: names.into_iter().map(String::from).collect(),
    }
}
