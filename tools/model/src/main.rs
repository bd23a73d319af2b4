//! Explores every state of small models of the agreement, with all rules and without each of them.
//!
//! `cargo run --release --manifest-path tools/model/Cargo.toml -- [--only NAME] [--list]`

/// Byzantine mode.
mod byzantine;

/// One model, all rules or one left out.
mod explore;

/// Marks, windows, wiped logs.
mod marks;

/// What can be left out.
mod rules;

/// Crash mode.
mod votes;

/// Values, certificates, names.
mod words;

use byzantine::Byzantine;
use explore::{Outcome, Report, explore};
use marks::Marks;
use rules::Rule;
use std::process::ExitCode;
use votes::Votes;

/// One model with its bounds.
struct Entry {
    name: &'static str,
    bounds: &'static str,
    run: fn(Option<Rule>, usize) -> Report,
    /// Without each of these something must break.
    rules: &'static [Rule],
}

const MODELS: &[Entry] = &[
    Entry {
        name: "crash",
        bounds: "n 3, 1 place, 3 views",
        run: |without, threads| explore(Votes::<1, 3>::new(without), threads),
        rules: &[
            Rule::RestartIsChanging,
            Rule::ReportIsTheLog,
            Rule::DurableVote,
            Rule::FullQuorum,
            Rule::RestartedLeaderIsNone,
            Rule::HighestView,
        ],
    },
    Entry {
        name: "crash-places",
        bounds: "n 3, 2 places, 2 views",
        run: |without, threads| explore(Votes::<2, 2>::new(without), threads),
        rules: &[],
    },
    Entry {
        name: "byzantine",
        bounds: "n 4, f 1, 1 place, 2 views",
        run: |without, threads| explore(Byzantine::new(without, 2), threads),
        rules: &[
            Rule::RestartIsChanging,
            Rule::ReportIsTheLog,
            Rule::DurableVote,
            Rule::VoteReserve,
            Rule::FullQuorum,
        ],
    },
    Entry {
        name: "byzantine-views",
        bounds: "n 4, f 1, 1 place, 3 views",
        run: |without, threads| explore(Byzantine::new(without, 3), threads),
        rules: &[Rule::HighestView],
    },
    Entry {
        name: "marks",
        bounds: "n 3, 3 places, window 1, 2 views",
        run: |without, threads| explore(Marks::<3, 2, 1>::new(without, false), threads),
        rules: &[Rule::CutAtTheMark, Rule::MarkBeforeWindow],
    },
    Entry {
        name: "marks-2",
        bounds: "n 3, 3 places, window 2, 2 views",
        run: |without, threads| explore(Marks::<3, 2, 2>::new(without, false), threads),
        rules: &[],
    },
    Entry {
        name: "rejoin",
        bounds: "n 3, 4 places, window 1, 2 views, 1 wipe",
        run: |without, threads| explore(Marks::<4, 2, 1>::new(without, true), threads),
        rules: &[Rule::WipedRejoinsLate, Rule::OthersAnswer, Rule::TwoWindows, Rule::ViewAbove],
    },
    Entry {
        name: "rejoin-views",
        bounds: "n 3, 3 places, window 1, 3 views, 1 wipe",
        run: |without, threads| explore(Marks::<3, 3, 1>::new(without, true), threads),
        rules: &[],
    },
];

fn main() -> ExitCode {
    let mut only = None;
    let mut list = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" if args.len() > 0 => only = args.next(),
            "--list" => list = true,
            _ => {
                eprintln!("error: {arg}: use --only NAME (a model, a rule, or model/rule) or --list");
                return ExitCode::from(2);
            }
        }
    }
    let mut runs: Vec<(&Entry, Option<Rule>)> = Vec::new();
    for entry in MODELS {
        let all = std::iter::once(None).chain(entry.rules.iter().copied().map(Some));
        runs.extend(all.map(|rule| (entry, rule)));
    }
    runs.retain(|(entry, rule)| {
        let rule = rule.map_or("all-rules", Rule::name);
        let full = format!("{}/{rule}", entry.name);
        only.as_ref().is_none_or(|only| [entry.name, rule, &full].contains(&only.as_str()))
    });
    if list {
        runs.iter().for_each(|(e, r)| println!("{}/{}", e.name, r.map_or("all-rules", Rule::name)));
        return ExitCode::SUCCESS;
    }
    if runs.is_empty() {
        eprintln!("error: nothing is called {}: see --list", only.unwrap_or_default());
        return ExitCode::from(2);
    }
    println!(
        "{:<15} {:<44} {:<22} {:>10} {:>11} {:>5} {:>7}  result",
        "model", "bounds", "left out", "states", "steps", "depth", "s"
    );
    let mut failures = 0;
    let mut stories = Vec::new();
    for (entry, rule) in runs {
        // The shortest counterexample needs strict breadth first.
        let report = (entry.run)(rule, if rule.is_some() { 1 } else { 2 });
        let left_out = rule.map_or("none", Rule::name);
        let result = match (&report.outcome, rule) {
            (Outcome::Holds, None) => "holds".to_string(),
            (Outcome::Broken { story, .. }, Some(_)) => format!("counterexample, {} steps", story.len() - 1),
            (Outcome::Broken { property, .. }, None) => format!("FAILED: broken: {property}"),
            (Outcome::NeverHappens(what), _) => format!("FAILED: never: {what}"),
            (Outcome::Holds, Some(_)) => "FAILED: none found".to_string(),
        };
        failures += usize::from(result.starts_with("FAILED"));
        println!(
            "{:<15} {:<44} {:<22} {:>10} {:>11} {:>5} {:>7.1}  {result}",
            entry.name,
            entry.bounds,
            left_out,
            report.states,
            report.steps,
            report.depth,
            report.took.as_secs_f64()
        );
        if let Outcome::Broken { story, .. } = report.outcome {
            stories.push((format!("{} without {left_out}", entry.name), story));
        }
    }
    for (title, story) in stories {
        println!("\n{title}:");
        for (i, line) in story.iter().enumerate() {
            let end = i + 1 == story.len();
            println!("  {:>2} {line}", if end { "=>".to_string() } else { (i + 1).to_string() });
        }
    }
    if failures > 0 {
        println!("\n{failures} failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
