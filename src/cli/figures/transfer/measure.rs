//! Transfers over shaped links: into the tables.

use std::collections::BTreeMap;
use std::time::Duration;

use duramen::replica::transfer_rig::{Opaque, Outcome, Setup};
use duramen::transfer::{FetchConfig, StrategyKind};
use duramen::types::{DigestAlgorithm, ReplicaId};
use duramen::wan::table1::{GROUP_A, GROUP_B, Group};
use serde_json::{Value, json};

use super::super::super::machine::Machine;
use super::super::super::signals::Interrupt;
use super::super::super::{CliError, emit};
use super::super::csv::Table;
use super::{Args, RUNS, SOURCES, runs_table, sources_table};

/// A transfer is given up after so many times what the slowest link alone would take.
const PATIENCE: f64 = 4.0;
const PATIENCE_MIN: Duration = Duration::from_secs(30);

/// All runs, into the tables; what they ran on.
pub(super) fn measure_all(args: &Args) -> Result<Value, CliError> {
    let interrupt = Interrupt::install()?;
    let (mib, factor) = args.scale.sizes();
    let (mib, factor) = (args.mib.unwrap_or(mib).max(1), args.bandwidth.unwrap_or(factor));
    if !(0.001..=100.0).contains(&factor) {
        return Err(CliError::Failed("--bandwidth is a factor from 0.001 to 100".into()));
    }
    let groups: Vec<Group> = [&GROUP_A, &GROUP_B]
        .into_iter()
        .filter(|group| args.group.as_ref().is_none_or(|name| group.name.eq_ignore_ascii_case(name)))
        .map(|group| faster(group, factor))
        .collect();
    let wanted = |group: &Group, site: usize| {
        args.site.eq_ignore_ascii_case("all") || group.site(&args.site) == Some(site)
    };
    if !groups.iter().any(|group| (0..4).any(|site| wanted(group, site))) {
        let names: Vec<&str> = groups.iter().flat_map(|group| group.sites).collect();
        return Err(CliError::Failed(format!("no site `{}`: {}, or all", args.site, names.join(", "))));
    }
    let made = !args.files.dir.exists();
    std::fs::create_dir_all(&args.files.dir)?;
    let machine = Machine::measure(&args.files.dir).map_err(CliError::Failed)?;
    emit(machine.describe())?;
    let state = Opaque::random((mib << 20) as usize, 1, DigestAlgorithm::default());
    let mut tables = (runs_table(), sources_table());
    let mut runs = 0u64;
    for group in &groups {
        for round in 0..args.rounds.max(1) {
            for site in (0..4).filter(|site| wanted(group, *site)) {
                for strategy in &args.strategy {
                    if interrupt.is_set() {
                        return Err(CliError::Failed("interrupted".into()));
                    }
                    runs += 1;
                    let dir = args.files.dir.join(format!("transfer-{}-{runs}", std::process::id()));
                    std::fs::create_dir_all(&dir)?;
                    let setup = Setup {
                        group,
                        seed: args.varying.then_some(round + 1),
                        abrupt: args.abrupt,
                        site,
                        fetch: fetch(group, site, *strategy),
                        state: &state,
                        patience: patience(group, site, mib),
                        dir: dir.clone(),
                    };
                    let outcome = setup.run(&|| !interrupt.is_set());
                    std::fs::remove_dir_all(&dir)?;
                    let case = Run { args, group, factor, mib, site, strategy: *strategy, round };
                    let outcome = outcome.map_err(|e| CliError::Failed(format!("{}: {e}", case.name())))?;
                    case.note(&outcome, state.hash_time(), &mut tables);
                    emit(case.line(&outcome))?;
                    // What there is survives an interruption.
                    tables.0.write(&args.files.out.join(RUNS))?;
                    tables.1.write(&args.files.out.join(SOURCES))?;
                }
            }
        }
    }
    if made {
        let _ = std::fs::remove_dir(&args.files.dir);
    }
    Ok(json!({
        "scale": format!("{:?}", args.scale).to_lowercase(),
        "mib": mib,
        "bandwidth": factor,
        "varying": args.varying,
        "abrupt": args.abrupt,
        "rounds": args.rounds,
        "digest": format!("{:?}", DigestAlgorithm::default()).to_lowercase(),
        "transport": "TLS, keys made for the run",
        "machine": machine.json(),
        "debug_build": cfg!(debug_assertions),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// The same sites over wider links.
fn faster(group: &Group, factor: f64) -> Group {
    Group {
        name: group.name,
        sites: group.sites,
        mbit: group.mbit.map(|row| row.map(|mbit| mbit * factor)),
        rtt: group.rtt,
        varies: group.varies,
    }
}

/// As a replica's, with Table 1 for weights.
fn fetch(group: &Group, site: usize, strategy: StrategyKind) -> FetchConfig {
    let others = (0..4).filter(|other| *other != site);
    let weights = others.map(|o| (ReplicaId(o as u32), (group.mbit[o][site] * 125_000.0) as u64));
    let weights: BTreeMap<ReplicaId, u64> = weights.collect();
    FetchConfig { strategy, weights, packed: true, ..FetchConfig::default() }
}

fn patience(group: &Group, site: usize, mib: u64) -> Duration {
    let slowest = (0..4).filter(|o| *o != site).map(|o| group.mbit[o][site]).fold(f64::MAX, f64::min);
    let seconds = (mib << 20) as f64 * 8.0 / (slowest * 1e6);
    PATIENCE_MIN + Duration::from_secs_f64(PATIENCE * seconds)
}

struct Run<'a> {
    args: &'a Args,
    group: &'a Group,
    factor: f64,
    mib: u64,
    site: usize,
    strategy: StrategyKind,
    round: u64,
}

impl Run<'_> {
    fn links(&self) -> &'static str {
        match (self.args.varying, self.args.abrupt) {
            (true, _) => "varying",
            (_, true) => "abrupt",
            _ => "constant",
        }
    }

    fn name(&self) -> String {
        format!("{} {} {}", self.group.name, self.group.sites[self.site], self.strategy)
    }

    fn line(&self, outcome: &Outcome) -> String {
        let (took, ideal) = (outcome.took.as_secs_f64(), outcome.ideal.as_secs_f64());
        let finished = outcome.sent.iter().map(|sent| format!("{:.2}", sent.finished.as_secs_f64()));
        format!(
            "transfer   {:24} {took:8.2} s, {:.3} of the links' sum; first chunk {:.2} s, sources end {} s, then {:.0} ms",
            self.name(),
            ideal / took,
            outcome.first_chunk.as_secs_f64(),
            finished.collect::<Vec<_>>().join(" "),
            outcome.tail.as_secs_f64() * 1e3,
        )
    }

    fn note(&self, outcome: &Outcome, hash: Duration, (runs, sources): &mut (Table, Table)) {
        let (took, ideal) = (outcome.took.as_secs_f64(), outcome.ideal.as_secs_f64());
        let sent: u64 = outcome.sent.iter().map(|sent| sent.bytes).sum();
        let ends = || outcome.sent.iter().map(|sent| sent.finished.as_secs_f64());
        // Who sent nothing was finished at once: `single` asks one.
        let first = ends().filter(|end| *end > 0.0).fold(f64::MAX, f64::min);
        let (name, site) = (self.group.name, self.group.sites[self.site]);
        let seconds = |s: f64| format!("{s:.4}");
        runs.push(&[
            &name,
            &self.links(),
            &self.factor,
            &self.mib,
            &site,
            &self.strategy,
            &self.round,
            &seconds(took),
            &seconds(ideal),
            &seconds(ideal / took),
            &seconds(sent as f64 / outcome.needed as f64),
            &seconds(first),
            &seconds(ends().fold(0.0, f64::max)),
            &seconds(outcome.first_chunk.as_secs_f64()),
            &seconds(outcome.tail.as_secs_f64() * 1e3),
            &seconds(hash.as_secs_f64() * 1e3),
        ]);
        for sent in &outcome.sent {
            sources.push(&[
                &name,
                &self.links(),
                &self.mib,
                &site,
                &self.strategy,
                &self.round,
                &self.group.sites[sent.site],
                &sent.bytes,
                &seconds(sent.finished.as_secs_f64()),
            ]);
        }
    }
}
