//! Random runs: each seed draws its group, its rates and its faults, then heals and must make progress.

use super::adversary;
use super::cluster::{Checkpoints, Cluster, Fetched, Setup};
use super::disk::Tail;
use super::network::Weather;
use super::random::Random;
use crate::order::Input;
use crate::quorum::{FaultModel, Group as Members};
use crate::transfer::StrategyKind;
use crate::types::*;
use crate::wire::auth::ClientAuth;
use crate::wire::messages::Mode;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run showed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// Over all that happened.
    pub trace: u64,
    /// Faults drawn.
    pub faults: usize,
    /// Logs lost and replaced.
    pub wiped: u64,
    /// Log records that rotted.
    pub rotten: u64,
    /// Checkpoints on disk.
    pub checkpoints: u64,
    /// States taken over from others.
    pub transferred: u64,
    /// What happened on the way.
    pub fetched: Fetched,
    /// Log records recycled.
    pub recycled: u64,
    pub events: u64,
    pub places: u64,
    pub acknowledged: u64,
    pub views: u64,
    /// Virtual milliseconds from the end of faults to the end of all work.
    pub settle_ms: u64,
    /// Correct replicas that do not vote in the view of the others at the end.
    pub outside: u64,
    /// Keys of which what clients saw was too intertwined to be checked.
    pub undecided: u64,
}

/// Milliseconds of virtual time after the last fault within which everything must be executed.
pub const SETTLE_MS: u64 = 60_000;

pub fn members(model: FaultModel, n: u32) -> Members {
    Members::new(model, n, Members::most_faults(model, n)).expect("large enough")
}

fn draw_setup(members: Members, random: &mut Random) -> Setup {
    let mut setup = Setup::new(members);
    setup.order.window = *random.pick(&[8, 16, 32, 64]);
    setup.order.mark_interval = setup.order.window / *random.pick(&[2, 4]);
    setup.order.open = random.between(1, setup.order.window / 2);
    setup.order.batch_requests = *random.pick(&[1, 4, 16]);
    setup.weather = Weather {
        fifo: random.per_mille(600),
        delay_us: *random.pick(&[(100, 400), (50, 3000), (10, 20_000)]),
        loss: *random.pick(&[0, 0, 5, 30, 100]),
        duplicates: *random.pick(&[0, 20, 200]),
        slow: *random.pick(&[0, 0, 5, 20]),
    };
    setup.write_us = *random.pick(&[(50, 500), (10, 50), (500, 20_000)]);
    setup.execute_us = *random.pick(&[(1, 50), (1, 50), (100, 5000)]);
    setup.encode = random.per_mille(250);
    if members.byzantine() && random.per_mille(250) {
        setup.client_auth = ClientAuth::Mac;
    }
    setup
}

fn draw_tail(random: &mut Random) -> Tail {
    *random.pick(&[Tail::Lost, Tail::Kept, Tail::Torn, Tail::Torn])
}

/// When checkpoints are taken, and whether the log goes with them.
fn draw_checkpoints(setup: &mut Setup, seed: u64) {
    let mut random = Random::new(seed ^ 0x6368_6563_6b00);
    let n = u64::from(setup.members.n());
    if random.per_mille(700) {
        let period = setup.order.mark_interval * n * random.between(1, 4);
        setup.checkpoints = Some(Checkpoints {
            period,
            together: random.per_mille(300),
            recycles: random.per_mille(800),
            pressed: random.per_mille(400),
        });
    }
}

/// How states are fetched.
fn draw_fetch(setup: &mut Setup, seed: u64, honest: bool) {
    let mut random = Random::new(seed ^ 0x6665_7463_6800);
    let kinds = [StrategyKind::ALL, [StrategyKind::Pull; 7]].concat();
    let strategy = *random.pick(&kinds);
    // It finds out at the end that somebody lied, and never who: of no use beside a liar.
    let unchecked = strategy == StrategyKind::WholeHash && setup.members.byzantine() && !honest;
    setup.fetch.strategy = if unchecked { StrategyKind::Pull } else { strategy };
    setup.fetch.packed = random.per_mille(300);
    setup.fetch.interval_ns = *random.pick(&[20_000_000, 1_000_000_000]);
    // Few chunks under way, so that a fetch takes several rounds.
    setup.fetch.window_bytes_max = *random.pick(&[256, 1024, 64 << 20]);
    setup.fetch.leader_weight_percent = *random.pick(&[0, 25, 100]);
    setup.piece_bytes = *random.pick(&[32, 64, 64, 512]);
    setup.seeder_bytes_per_s = *random.pick(&[0, 0, 4 << 10, 32 << 10]);
}

/// States are what it is about: logs keep nothing for whoever is behind.
fn draw_transfers(setup: &mut Setup, seed: u64) {
    let mut random = Random::new(seed ^ 0x6265_6869_6e64);
    let n = u64::from(setup.members.n());
    let period = setup.order.mark_interval * n * random.between(1, 2);
    let (together, pressed) = (random.per_mille(300), random.per_mille(900));
    setup.checkpoints = Some(Checkpoints { period, together, recycles: true, pressed });
}

/// One replica is away for so long that the logs of the others go on without it.
fn draw_absence(c: &mut Cluster, at: u64, mut random: Random) {
    let n = u64::from(c.setup.members.n());
    let victim = ReplicaId(random.below(n) as u32);
    let (away_us, alone) = (random.between(200_000, 2_000_000), random.per_mille(400));
    let tail = draw_tail(&mut random);
    c.later(at, move |c| {
        if alone {
            c.all().into_iter().for_each(|other| {
                c.network.cut(victim, other, true);
                c.network.cut(other, victim, true);
            });
            return c.later(away_us, move |c| {
                c.all().into_iter().for_each(|other| {
                    c.network.cut(victim, other, false);
                    c.network.cut(other, victim, false);
                });
            });
        }
        let gone =
            |r: &ReplicaId| c.byzantine.contains(*r) || !c.up(*r) || c.is_forgetful(*r) || c.learns(*r);
        let counted = c.all().iter().filter(|r| **r != victim && gone(r)).count() as u32;
        if c.setup.order.votes_durable || counted < c.setup.members.f() && !c.byzantine.contains(victim) {
            c.crash(victim, tail);
            c.later(away_us, move |c| c.restart(victim));
        }
    });
}

/// One of the things that go wrong.
fn fault(c: &mut Cluster, at: u64, seed: u64) {
    let mut random = Random::new(seed);
    let n = u64::from(c.setup.members.n());
    let which = random.below(16);
    if matches!(which, 0..=5 | 12) && !c.setup.order.votes_durable {
        return forgetful_fault(c, at, random, which == 5);
    }
    match which {
        // One replica, often the leader, crashes and comes back.
        0..=2 => {
            let leader_bias = random.per_mille(500);
            let down_us = random.between(0, 400_000);
            c.later(at, move |c| {
                let views = c.correct().iter().filter(|r| c.up(**r)).map(|r| c.core(r.0).view()).max();
                let victim = match views {
                    Some(view) if leader_bias => view.leader(n as u32),
                    _ => ReplicaId(random.below(n) as u32),
                };
                c.crash(victim, draw_tail(&mut random));
                c.later(down_us, move |c| c.restart(victim));
            });
        }
        // Any subset at one moment.
        3 | 4 => {
            let who = random.next();
            c.later(at, move |c| {
                for r in c.all().into_iter().filter(|r| who >> r.0 & 1 == 1) {
                    c.crash(r, draw_tail(&mut random));
                    let down_us = random.between(0, 500_000);
                    c.later(down_us, move |c| c.restart(r));
                }
            });
        }
        // All.
        5 => {
            let one_tail = random.per_mille(300).then(|| draw_tail(&mut random));
            c.later(at, move |c| {
                for r in c.all() {
                    let tail = one_tail.unwrap_or_else(|| draw_tail(&mut random));
                    c.crash(r, tail);
                    let down_us = random.between(0, 300_000);
                    c.later(down_us, move |c| c.restart(r));
                }
            });
        }
        // A partition, one-way or two-way.
        6 | 7 => {
            let (side, both) = (random.next(), random.per_mille(600));
            let length_us = random.between(10_000, 800_000);
            c.later(at, move |c| {
                set_partition(c, side, both, true);
                c.later(length_us, move |c| set_partition(c, side, both, false));
            });
        }
        // One link.
        8 => {
            let (a, b) = (ReplicaId(random.below(n) as u32), ReplicaId(random.below(n) as u32));
            let length_us = random.between(10_000, 1_000_000);
            c.later(at, move |c| {
                c.network.cut(a, b, true);
                c.later(length_us, move |c| c.network.cut(a, b, false));
            });
        }
        // A disk stalls.
        9 => {
            let r = ReplicaId(random.below(n) as u32);
            let length_us = random.between(10_000, 500_000);
            c.later(at, move |c| {
                c.hold_disk(r, true);
                c.later(length_us, move |c| c.hold_disk(r, false));
            });
        }
        // A disk is slow.
        10 => {
            let r = ReplicaId(random.below(n) as u32);
            let (slower, length_us) = (*random.pick(&[10, 100]), random.between(10_000, 1_000_000));
            c.later(at, move |c| {
                let usual = c.setup.write_us;
                c.nodes[r.index()].disk.write_us = (usual.0 * slower, usual.1 * slower);
                c.later(length_us, move |c| c.nodes[r.index()].disk.write_us = usual);
            });
        }
        // A disk is full.
        11 => {
            let r = ReplicaId(random.below(n) as u32);
            let length_us = random.between(10_000, 1_000_000);
            c.later(at, move |c| {
                c.nodes[r.index()].shelf.set_full(true);
                c.step(r, Input::LogRoom(false));
                c.later(length_us, move |c| {
                    c.nodes[r.index()].shelf.set_full(false);
                    c.step(r, Input::LogRoom(true));
                });
            });
        }
        // A write gives an error; the process is started again.
        12 => {
            let r = ReplicaId(random.below(n) as u32);
            let length_us = random.between(1_000, 500_000);
            c.later(at, move |c| {
                c.fail_log(r);
                c.later(length_us, move |c| {
                    c.crash(r, draw_tail(&mut random));
                    c.restart(r);
                });
            });
        }
        // A log is lost, found damaged below what is durable, or hit by a write that went astray: an operator replaces it.
        13 => {
            let r = ReplicaId(random.below(n) as u32);
            let down_us = random.between(0, 400_000);
            c.later(at, move |c| {
                // What rotted elsewhere may stand in this log alone.
                if c.any_rotten() {
                    return;
                }
                let gone = |r: &ReplicaId| !c.setup.order.votes_durable && !c.up(*r) || c.is_forgetful(*r);
                let faulty = |r: &ReplicaId| c.byzantine.contains(*r) || c.learns(*r) || gone(r);
                let counted = c.all().iter().filter(|other| **other != r && faulty(other)).count() as u32;
                if counted < c.setup.members.f() && !c.byzantine.contains(r) {
                    c.wipe(r);
                    c.later(down_us, move |c| c.restart(r));
                }
            });
        }
        // A replica is stopped for a while, as by SIGSTOP or a paused machine.
        14 => {
            let r = ReplicaId(random.below(n) as u32);
            let length_us = *random.pick(&[20_000, 200_000, 2_000_000]);
            c.later(at, move |c| c.pause(r, length_us));
        }
        // A clock jumps, or links clog.
        _ => {
            let (a, b) = (ReplicaId(random.below(n) as u32), ReplicaId(random.below(n) as u32));
            let by_ns = random.below(4_000_000_000) as i64 - 2_000_000_000;
            let (us, length_us) = (random.between(1_000, 300_000), random.between(10_000, 1_000_000));
            let jumps = random.per_mille(500);
            c.later(at, move |c| {
                if jumps {
                    return c.nodes[a.index()].skew += by_ns;
                }
                c.network.clog(a, b, us);
                c.later(length_us, move |c| c.network.clog(a, b, 0));
            });
        }
    }
}

/// Where votes are not durable (RULES 14): one replica crashes, if no more than f count as faulty with it; or all do, and begin
/// a new era.
fn forgetful_fault(c: &mut Cluster, at: u64, mut random: Random, all: bool) {
    c.later(at, move |c| {
        if all {
            c.all().into_iter().for_each(|r| c.crash(r, draw_tail(&mut random)));
            c.new_era();
            for r in c.all() {
                let down_us = random.between(0, 300_000);
                c.later(down_us, move |c| c.restart(r));
            }
            return;
        }
        let victim = ReplicaId(random.below(u64::from(c.setup.members.n())) as u32);
        let faulty =
            |r: &ReplicaId| c.byzantine.contains(*r) || !c.up(*r) || c.is_forgetful(*r) || c.learns(*r);
        let counted = c.all().iter().filter(|r| **r != victim && faulty(r)).count() as u32;
        if counted < c.setup.members.f() && !c.byzantine.contains(victim) {
            c.crash(victim, draw_tail(&mut random));
            let down_us = random.between(0, 400_000);
            c.later(down_us, move |c| c.restart(victim));
        }
    });
}

fn set_partition(c: &mut Cluster, side: u64, both: bool, cut: bool) {
    for a in c.all() {
        for b in c.all() {
            let (in_a, in_b) = (side >> a.0 & 1 == 1, side >> b.0 & 1 == 1);
            if in_a && !in_b || both && in_b && !in_a {
                c.network.cut(a, b, cut);
            }
        }
    }
}

/// What a run is a function of. Everything but the seed narrows it, to see what a failure needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Draws all the rest.
    pub seed: u64,
    /// Not drawn: the group, and whether its votes are durable.
    pub group: Option<(FaultModel, u32, bool)>,
    /// Faults that do not happen, by their numbers.
    pub without: BTreeSet<usize>,
    /// Links lose, reorder and delay nothing.
    pub calm: bool,
    /// Nobody lies.
    pub honest: bool,
    /// Clients read beside the order, too.
    pub reads: bool,
    /// Replicas are left behind time and again, and whatever happens happens while they fetch a state.
    pub transfers: bool,
}

impl Plan {
    /// Everything drawn from the seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }
}

/// The group of a seed.
fn draw_group(seed: u64) -> (FaultModel, u32, bool) {
    let mut random = Random::new(seed ^ 0x6475_7261_6d65_6e00);
    let (model, n) = *random.pick(&[
        (FaultModel::Byzantine, 4),
        (FaultModel::Byzantine, 4),
        (FaultModel::Byzantine, 4),
        (FaultModel::Byzantine, 7),
        (FaultModel::Crash, 3),
        (FaultModel::Crash, 3),
        (FaultModel::Crash, 5),
        (FaultModel::Crash, 4),
    ]);
    (model, n, random.per_mille(800))
}

/// One run. Panics when a rule is broken or no progress is made.
pub fn run(plan: &Plan) -> Report {
    let seed = plan.seed;
    let (model, n, votes_durable) = plan.group.unwrap_or_else(|| draw_group(seed));
    let members = members(model, n);
    let mut random = Random::new(seed);
    let mut setup = draw_setup(members, &mut random);
    setup.order.votes_durable = votes_durable;
    draw_checkpoints(&mut setup, seed);
    draw_fetch(&mut setup, seed, plan.honest);
    if plan.transfers {
        draw_transfers(&mut setup, seed);
    }
    if plan.calm {
        setup.weather = Weather::fair();
    }
    let mut c = Cluster::new(setup, random.next());
    let mut rots = Random::new(seed ^ 0x726f_7400);
    if votes_durable && rots.per_mille(500) {
        c.rots = Some((*rots.pick(&[20, 200, 700]), rots.fork()));
    }
    let f = u64::from(members.f());
    let mut lies = random.fork();
    if members.byzantine() && !plan.honest {
        for _ in 0..lies.between(0, f + 1).min(f) {
            let r = ReplicaId(lies.below(u64::from(members.n())) as u32);
            if lies.per_mille(150) {
                c.byzantine.insert(r);
                c.nodes[r.index()].disk.lies = true;
            } else {
                c.corrupt(r, adversary::draw(&mut lies));
            }
        }
    }
    let skewed = random.per_mille(200);
    for node in &mut c.nodes {
        if skewed {
            node.skew = random.below(1_500_000_000) as i64 - 750_000_000;
        }
    }
    for _ in 0..random.between(1, 4) {
        let requests = *random.pick(&[5, 20, 60, 200]);
        let at = c.add_client(requests);
        if c.setup.client_auth == ClientAuth::Mac && random.per_mille(300) {
            c.clients[at].lies_to.insert(ReplicaId(random.below(u64::from(members.n())) as u32));
        }
    }
    if plan.reads && votes_durable {
        let mut random = Random::new(seed ^ 0x7265_6164_7300);
        (0..random.between(1, 3)).for_each(|_| c.add_reader(*random.pick(&[20, 100, 300])));
    }
    let span_us = *random.pick(&[300_000, 1_000_000, 3_000_000]);
    let faults: Vec<(u64, u64)> =
        (0..*random.pick(&[0, 1, 3, 8, 16])).map(|_| (random.below(span_us), random.next())).collect();
    for (i, (at, seed)) in faults.iter().enumerate() {
        if !plan.without.contains(&i) {
            fault(&mut c, *at, *seed);
        }
    }
    if plan.transfers {
        let mut random = Random::new(seed ^ 0x6162_7365_6e74);
        c.add_client(400);
        for _ in 0..random.between(1, 3) {
            let at = random.below(span_us);
            let absence = random.fork();
            draw_absence(&mut c, at, absence);
        }
        c.troubles = Some(random);
    }
    c.run_ms(span_us / 1000 + 1100);
    // Faults end. In crash mode up to f may stay down.
    c.network.mend();
    c.network.weather = Weather::fair();
    c.setup.weather = Weather::fair();
    c.troubles = None;
    for r in c.all() {
        if c.nodes[r.index()].log_failed {
            c.crash(r, Tail::Lost);
        }
        let node = &mut c.nodes[r.index()];
        node.disk.write_us = c.setup.write_us;
        node.paused_until = Tick(0);
        node.shelf.set_full(false);
        // Any two within the bound that proposals are held to.
        node.skew = node.skew.clamp(-490_000_000, 490_000_000);
        c.hold_disk(r, false);
        c.restart(r);
        c.step(r, Input::LogRoom(true));
    }
    if !members.byzantine() && votes_durable && random.per_mille(300) {
        for _ in 0..random.between(1, f) {
            let r = ReplicaId(random.below(u64::from(members.n())) as u32);
            if !c.all().into_iter().any(|r| c.learns(r)) && !c.any_rotten() {
                c.crash(r, Tail::Kept);
            }
        }
    }
    let start = c.now;
    // Fresh work must be done too.
    c.add_client(10);
    let done = c.run_until(SETTLE_MS, Cluster::settled);
    assert!(done, "no progress\n{}", c.picture());
    let settle_ms = c.now.since(start) / 1_000_000;
    c.run_ms(500);
    let live: Vec<_> = c.correct().into_iter().filter(|r| c.up(*r)).map(|r| c.core(r.0)).collect();
    let view = live.iter().filter(|o| o.mode() == Mode::Normal).map(|o| o.view()).max();
    let outside = live.iter().filter(|o| o.mode() != Mode::Normal || Some(o.view()) != view).count() as u64;
    Report {
        trace: c.trace,
        faults: faults.len(),
        outside,
        events: c.events,
        places: c.history.end().0,
        acknowledged: c.history.acknowledged,
        views: c.views_started,
        wiped: c.wiped,
        rotten: c.rotten,
        checkpoints: c.checkpoints,
        transferred: c.transferred,
        fetched: c.fetched,
        recycled: c.recycled,
        settle_ms,
        undecided: c.check_calls(),
    }
}

/// What a panic said.
fn failure(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

/// As [`run`]; `Err` says what was broken.
pub fn attempt(plan: &Plan) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| run(plan))).map_err(failure)
}

/// The smallest plan found that still fails: faults, weather and lies are left out one by one.
pub fn minimise(plan: &Plan, faults: usize) -> Plan {
    let mut least = plan.clone();
    let mut try_this = |smaller: Plan| {
        if attempt(&smaller).is_err() {
            least = smaller;
        }
        least.clone()
    };
    let mut now = try_this(Plan { calm: true, ..plan.clone() });
    now = try_this(Plan { honest: true, ..now });
    for fault in 0..faults {
        let mut smaller = now.clone();
        smaller.without.insert(fault);
        now = try_this(smaller);
    }
    now
}

/// Faults that a plan draws.
pub const FAULTS_MAX: usize = 16;

/// Seeds of one group, one after the other; the environment says which others.
#[cfg(test)]
pub fn swarm(members: Members, votes_durable: bool, from: u64, usual: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("DURAMEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + number("DURAMEN_SEEDS").unwrap_or(usual),
    };
    let group = Some((members.model(), members.n(), votes_durable));
    let failed: Vec<(u64, String)> = seeds
        .filter_map(|seed| attempt(&Plan { group, ..Plan::of(seed) }).err().map(|why| (seed, why)))
        .collect();
    assert!(failed.is_empty(), "{group:?}: failed seeds: {failed:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_replicas_of_which_one_lies_agree_through_random_faults() {
        swarm(members(FaultModel::Byzantine, 4), true, 1, 250);
    }

    #[test]
    fn seven_replicas_of_which_two_lie_agree_through_random_faults() {
        swarm(members(FaultModel::Byzantine, 7), true, 1, 30);
    }

    #[test]
    fn three_replicas_agree_through_random_crashes() {
        swarm(members(FaultModel::Crash, 3), true, 1, 250);
    }

    #[test]
    fn without_durable_votes_four_replicas_keep_the_paper_s_promise() {
        swarm(members(FaultModel::Byzantine, 4), false, 1, 150);
    }

    #[test]
    fn without_durable_votes_three_and_five_replicas_keep_the_paper_s_promise() {
        swarm(members(FaultModel::Crash, 3), false, 1, 150);
        swarm(members(FaultModel::Crash, 5), false, 1, 50);
    }

    #[test]
    fn what_is_read_beside_the_order_is_explained_by_one_store() {
        for (model, n, seeds) in [(FaultModel::Byzantine, 4, 60), (FaultModel::Crash, 3, 60)] {
            let group = Some((model, n, true));
            for seed in 1..=seeds {
                let done = attempt(&Plan { group, reads: true, ..Plan::of(seed) });
                assert!(done.is_ok(), "{group:?} seed {seed} --reads: {done:?}");
            }
        }
    }

    #[test]
    fn equal_seeds_give_equal_traces() {
        for seed in 1..30 {
            let first = run(&Plan::of(seed));
            assert_eq!(first, run(&Plan::of(seed)), "seed {seed}");
            assert_ne!(first.trace, run(&Plan::of(seed + 1)).trace);
        }
    }

    #[test]
    fn five_replicas_agree_through_random_crashes() {
        swarm(members(FaultModel::Crash, 5), true, 1, 100);
    }
}
