//! `duramen sim`: random runs of whole groups, each a function of its seed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::ArgGroup;
use duramen::quorum::FaultModel;
use duramen::sim::{FAULTS_MAX, Fetched, Plan, Report, attempt, minimise};
use parking_lot::Mutex;

use super::{CliError, emit, model};

/// Which seeds, and what is left out of them.
#[derive(clap::Args, Debug, PartialEq)]
#[command(group = ArgGroup::new("which").required(true))]
pub struct Args {
    /// Run this seed
    #[arg(long, group = "which", value_name = "S")]
    seed: Option<u64>,
    /// Run so many seeds
    #[arg(long, group = "which", value_name = "N")]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, value_name = "S", default_value_t = 1, conflicts_with = "seed")]
    start: u64,
    /// Leave out of a failing run what it does not need to fail
    #[arg(long)]
    minimise: bool,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Only groups of this fault model; with --replicas [default: drawn from the seed]
    #[arg(long, value_parser = model(), requires = "replicas")]
    model: Option<FaultModel>,
    /// Only groups of so many replicas
    #[arg(long, value_name = "N", requires = "model")]
    replicas: Option<u32>,
    /// With --model: votes are not durable, as in the modes of the paper
    #[arg(long, requires = "model")]
    forgetful: bool,
    /// Leave out the fault of this number; may be repeated
    #[arg(long, value_name = "K")]
    without: Vec<usize>,
    /// Links lose, reorder and delay nothing
    #[arg(long)]
    calm: bool,
    /// Nobody lies
    #[arg(long)]
    honest: bool,
    /// Clients read beside the order, too
    #[arg(long)]
    reads: bool,
    /// Replicas are left behind time and again, and fetch states from the others while things go wrong
    #[arg(long)]
    transfers: bool,
    /// Instead of what is right, tell every story with each known bug, and run seeds until one finds it; --seeds: at most so many
    #[cfg(feature = "mutants")]
    #[arg(long, requires = "seeds")]
    mutants: bool,
    /// Only these of the known bugs; may be repeated
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME", requires = "mutants")]
    only: Vec<String>,
    /// Tells the story in this file, with what is seen in place of what it expects
    #[cfg(feature = "mutants")]
    #[arg(long, group = "which", value_name = "FILE")]
    story: Option<std::path::PathBuf>,
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        let group = self.model.zip(self.replicas).map(|(model, n)| (model, n, !self.forgetful));
        Plan {
            seed,
            group,
            without: self.without.iter().copied().collect(),
            calm: self.calm,
            honest: self.honest,
            reads: self.reads,
            transfers: self.transfers,
        }
    }
}

/// Runs the seeds; the last line is the trace of the run, or of all.
pub fn run(args: Args) -> Result<(), CliError> {
    if let Some((model, n)) = args.model.zip(args.replicas) {
        let least = if model == FaultModel::Byzantine { 4 } else { 3 };
        if n < least || n > 13 {
            return Err(CliError::Failed(format!(
                "--replicas: {n} replicas: from {least} to 13 in this model"
            )));
        }
    }
    if let Some(fault) = args.without.iter().find(|k| **k >= FAULTS_MAX) {
        return Err(CliError::Failed(format!(
            "--without {fault}: faults have the numbers 0 to {}",
            FAULTS_MAX - 1
        )));
    }
    // A liar's core may break its own rules; only what a run reports counts.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = match args.seed {
        #[cfg(feature = "mutants")]
        None if args.mutants => hunt_all(&args),
        #[cfg(feature = "mutants")]
        None if args.story.is_some() => tell(&args),
        Some(seed) => one(&args, seed),
        None => many(&args),
    };
    let _ = std::panic::take_hook();
    outcome
}

fn one(args: &Args, seed: u64) -> Result<(), CliError> {
    match attempt(&args.plan(seed)) {
        Ok(r) => {
            emit(format_args!(
                "seed {seed}: {} events, {} places, {} answers, {} views begun, {} logs replaced, {} records rotten, {} checkpoints, {} records recycled, {} states transferred, settled in {} ms",
                r.events,
                r.places,
                r.acknowledged,
                r.views,
                r.wiped,
                r.rotten,
                r.checkpoints,
                r.recycled,
                r.transferred,
                r.settle_ms
            ))?;
            emit(format_args!("trace {:016x}", r.trace))
        }
        Err(why) => failed(args, seed, &why),
    }
}

/// Says what broke and how to see it again.
fn failed(args: &Args, seed: u64, why: &str) -> Result<(), CliError> {
    let mut plan = args.plan(seed);
    emit(format_args!("seed {seed} FAILED: {why}"))?;
    if args.minimise {
        plan = minimise(&plan, FAULTS_MAX);
    }
    Err(CliError::Failed(format!("seed {seed} broke a rule; see it again: {}", command(&plan))))
}

/// What runs this plan again.
fn command(plan: &Plan) -> String {
    let mut command = format!("duramen sim --seed {}", plan.seed);
    if let Some((model, n, votes_durable)) = plan.group {
        let word = if model == FaultModel::Byzantine { "byzantine" } else { "crash" };
        command += &format!(" --model {word} --replicas {n}");
        command += if votes_durable { "" } else { " --forgetful" };
    }
    plan.without.iter().for_each(|k| command += &format!(" --without {k}"));
    command += if plan.calm { " --calm" } else { "" };
    command += if plan.honest { " --honest" } else { "" };
    command += if plan.reads { " --reads" } else { "" };
    command += if plan.transfers { " --transfers" } else { "" };
    command
}

fn many(args: &Args) -> Result<(), CliError> {
    let seeds = args.seeds.unwrap_or(1);
    let (next, started) = (AtomicU64::new(args.start), Instant::now());
    let end = args.start.saturating_add(seeds);
    let failures: Mutex<BTreeSet<u64>> = Mutex::default();
    let total: Mutex<Total> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 64) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failures.lock().len() >= 10 {
                        return;
                    }
                    match attempt(&args.plan(seed)) {
                        Ok(report) => total.lock().add(seed, &report),
                        Err(_) => drop(failures.lock().insert(seed)),
                    }
                }
            });
        }
    });
    let (total, failures) = (total.into_inner(), failures.into_inner());
    let seconds = started.elapsed().as_secs_f64();
    emit(format_args!(
        "{} seeds from {}, {:.1} per second on {} threads: {} events, {} places, {} answers, {} views begun, {} logs replaced, {} records rotten, {} checkpoints, {} records recycled, {} states transferred",
        total.seeds,
        args.start,
        total.seeds as f64 / seconds,
        args.jobs.max(1),
        total.events,
        total.places,
        total.acknowledged,
        total.views,
        total.wiped,
        total.rotten,
        total.checkpoints,
        total.recycled,
        total.transferred
    ))?;
    emit(format_args!(
        "slowest to settle: seed {} in {} ms; {} correct replicas outside the last view at the end",
        total.slowest.1, total.slowest.0, total.outside
    ))?;
    if args.transfers {
        emit(format_args!(
            "{} fetches begun, {} chunks came, {} bytes were here from earlier ones, {} states of no use, {} lies found out",
            total.fetched.sessions,
            total.fetched.chunks,
            total.fetched.kept,
            total.fetched.refused,
            total.fetched.blamed
        ))?;
    }
    if total.undecided > 0 {
        emit(format_args!("keys whose histories were too intertwined to be explained: {}", total.undecided))?;
    }
    if let Some(seed) = failures.first() {
        let all: Vec<String> = failures.iter().map(u64::to_string).collect();
        emit(format_args!("failed: {}", all.join(" ")))?;
        let why = attempt(&args.plan(*seed)).err().unwrap_or_default();
        return failed(args, *seed, &why);
    }
    emit(format_args!("trace {:016x}", total.trace))
}

/// A story as it goes.
#[cfg(feature = "mutants")]
fn tell(args: &Args) -> Result<(), CliError> {
    let path = args.story.as_deref().unwrap_or(std::path::Path::new(""));
    let failed = |why: &dyn std::fmt::Display| CliError::Failed(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| failed(&e))?;
    let told = duramen::sim::rewrite(&text).map_err(|e| failed(&e))?;
    emit(format_args!("{}", told.trim_end()))?;
    duramen::sim::check(&text).map_err(|e| failed(&e))
}

/// What notices which known bug, in a table.
#[cfg(feature = "mutants")]
fn hunt_all(args: &Args) -> Result<(), CliError> {
    use duramen::sim::{ALL, Kill, Mutant, hunt};
    use std::collections::BTreeMap;
    let named = |m: &Mutant| args.only.is_empty() || args.only.iter().any(|name| *name == format!("{m:?}"));
    let chosen: Vec<Mutant> = ALL.iter().copied().filter(named).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found: Mutex<BTreeMap<usize, (Kill, f64)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.clamp(1, 64) {
            scope.spawn(|| {
                while let Some((at, mutant)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    chosen.get(at).map(|mutant| (at, *mutant))
                } {
                    let started = Instant::now();
                    let seeds = args.start..args.start.saturating_add(args.seeds.unwrap_or(1));
                    // Each seed without reads beside the order and with them.
                    let plans = |seed| [args.plan(seed), Plan { reads: true, ..args.plan(seed) }];
                    let kill = hunt(mutant, seeds.flat_map(plans));
                    found.lock().insert(at, (kill, started.elapsed().as_secs_f64()));
                }
            });
        }
    });
    emit(format_args!("{:<24} | {:>6} | killed by", "mutant", "s"))?;
    let mut alive = Vec::new();
    for (at, (kill, seconds)) in found.into_inner() {
        let mutant = chosen[at];
        let name = format!("{mutant:?}");
        let mut by: Vec<String> = Vec::new();
        if let Some((first, more)) = kill.stories.split_first() {
            let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            by.push(format!("story {first}{others}"));
        }
        if let Some((plan, why)) = &kill.seed {
            let why: String = why.lines().next().unwrap_or_default().chars().take(70).collect();
            let reads = if plan.reads { " --reads" } else { "" };
            by.push(format!("seed {}{reads}: {why}", plan.seed));
        }
        if !kill.is_dead() {
            by.push("NOTHING".to_string());
            alive.push(name.clone());
        }
        emit(format_args!("{name:<24} | {seconds:>6.1} | {}", by.join("; ")))?;
    }
    match alive.is_empty() {
        true => emit(format_args!("all {} killed", chosen.len())),
        false => Err(CliError::Failed(format!("nothing kills {}", alive.join(", ")))),
    }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    events: u64,
    places: u64,
    acknowledged: u64,
    views: u64,
    wiped: u64,
    rotten: u64,
    checkpoints: u64,
    transferred: u64,
    fetched: Fetched,
    recycled: u64,
    outside: u64,
    undecided: u64,
    slowest: (u64, u64),
    /// The sum, so that the order in which threads finish does not matter.
    trace: u64,
}

impl Total {
    fn add(&mut self, seed: u64, r: &Report) {
        self.seeds += 1;
        self.events += r.events;
        self.places += r.places;
        self.acknowledged += r.acknowledged;
        self.views += r.views;
        self.wiped += r.wiped;
        self.rotten += r.rotten;
        self.checkpoints += r.checkpoints;
        self.transferred += r.transferred;
        self.fetched += r.fetched;
        self.recycled += r.recycled;
        self.outside += r.outside;
        self.undecided += r.undecided;
        self.slowest = self.slowest.max((r.settle_ms, seed));
        self.trace = self.trace.wrapping_add(r.trace);
    }
}
