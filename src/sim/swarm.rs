//! Random runs: each seed draws its group, its rates and its faults, then heals and must make progress.

use super::adversary;
use super::cluster::{Cluster, Setup};
use super::disk::Tail;
use super::network::Weather;
use super::random::Random;
use crate::quorum::{FaultModel, Group as Members};
use crate::types::*;
use crate::wire::auth::ClientAuth;
use crate::wire::messages::Mode;

/// What a run showed.
#[derive(Default, Debug)]
pub struct Report {
    pub events: u64,
    pub places: u64,
    pub acknowledged: u64,
    pub views: u64,
    /// Virtual milliseconds from the end of faults to the end of all work.
    pub settle_ms: u64,
    /// Correct replicas that do not vote in the view of the others at the end.
    pub outside: u64,
}

/// Prints the seed of a run that fails.
struct Named {
    what: String,
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("FAILED {}", self.what);
        }
    }
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

/// One of the things that go wrong, somewhere in the next `span_us`.
fn fault(c: &mut Cluster, at: u64) {
    let mut random = c.random.fork();
    let n = u64::from(c.setup.members.n());
    let which = random.below(10);
    if which <= 5 && !c.setup.order.votes_durable {
        return forgetful_fault(c, at, which == 5);
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
        _ => {
            let r = ReplicaId(random.below(n) as u32);
            let length_us = random.between(10_000, 500_000);
            c.later(at, move |c| {
                c.hold_disk(r, true);
                c.later(length_us, move |c| c.hold_disk(r, false));
            });
        }
    }
}

/// Where votes are not durable (RULES 14): one replica crashes, if no more than f count as faulty with it; or all do, and begin
/// a new era.
fn forgetful_fault(c: &mut Cluster, at: u64, all: bool) {
    let mut random = c.random.fork();
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
        let faulty = |r: &ReplicaId| c.byzantine.contains(*r) || !c.up(*r) || c.core(r.0).is_forgetful();
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

/// One run. Panics when a rule is broken or no progress is made.
pub fn run(members: Members, seed: u64) -> Report {
    run_with(members, true, seed)
}

/// As [`run`]; `votes_durable` = false: as in the paper's modes, within their promise.
pub fn run_with(members: Members, votes_durable: bool, seed: u64) -> Report {
    let votes = if votes_durable { "" } else { " votes not durable" };
    let what = format!("{:?} n={}{votes} seed={seed}", members.model(), members.n());
    let _named = Named { what: what.clone() };
    let mut random = Random::new(seed);
    let mut setup = draw_setup(members, &mut random);
    setup.order.votes_durable = votes_durable;
    let mut c = Cluster::new(setup, random.next());
    let f = u64::from(members.f());
    if members.byzantine() {
        for _ in 0..random.between(0, f + 1).min(f) {
            let r = ReplicaId(random.below(u64::from(members.n())) as u32);
            c.corrupt(r, adversary::draw(&mut random));
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
    let span_us = *random.pick(&[300_000, 1_000_000, 3_000_000]);
    for _ in 0..*random.pick(&[0, 1, 3, 8, 16]) {
        let at = random.below(span_us);
        fault(&mut c, at);
    }
    c.run_ms(span_us / 1000 + 1100);
    // Faults end. In crash mode up to f may stay down.
    c.network.mend();
    let encode = c.setup.encode;
    c.network.weather = Weather::fair();
    c.setup.weather = Weather::fair();
    c.setup.encode = encode;
    for r in c.all() {
        c.hold_disk(r, false);
        c.restart(r);
    }
    if !members.byzantine() && votes_durable && random.per_mille(300) {
        for _ in 0..random.between(1, f) {
            let r = ReplicaId(random.below(u64::from(members.n())) as u32);
            c.crash(r, Tail::Kept);
        }
    }
    let start = c.now;
    // Fresh work must be done too.
    c.add_client(10);
    let done = c.run_until(SETTLE_MS, Cluster::settled);
    assert!(done, "no progress: {what}\n{}", c.picture());
    let settle_ms = c.now.since(start) / 1_000_000;
    c.run_ms(500);
    let live: Vec<_> = c.correct().into_iter().filter(|r| c.up(*r)).map(|r| c.core(r.0)).collect();
    let view = live.iter().filter(|o| o.mode() == Mode::Normal).map(|o| o.view()).max();
    let outside = live.iter().filter(|o| o.mode() != Mode::Normal || Some(o.view()) != view).count() as u64;
    Report {
        outside,
        events: c.events,
        places: c.history.end().0,
        acknowledged: c.history.acknowledged,
        views: c.views_started,
        settle_ms,
    }
}

/// Seeds `from ..` of one group; how many is the environment's choice.
pub fn swarm(members: Members, from: u64, usual: u64) {
    swarm_with(members, true, from, usual);
}

/// As [`swarm`], with durable votes or without.
pub fn swarm_with(members: Members, votes_durable: bool, from: u64, usual: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("DURAMEN_SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + number("DURAMEN_SEEDS").unwrap_or(usual),
    };
    let (mut total, mut worst) = (Report::default(), (0, 0));
    let started = std::time::Instant::now();
    let count = seeds.end - seeds.start;
    let mut failed = Vec::new();
    for seed in seeds {
        let Ok(r) = std::panic::catch_unwind(|| run_with(members, votes_durable, seed)) else {
            failed.push(seed);
            continue;
        };
        total.events += r.events;
        total.places += r.places;
        total.acknowledged += r.acknowledged;
        total.views += r.views;
        total.outside += r.outside;
        worst = worst.max((r.settle_ms, seed));
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{:?} n={}: {count} seeds, {:.1}/s, {} events, {} places, {} answers, {} views begun, {} left outside; slowest to settle {} ms (seed {})",
        members.model(),
        members.n(),
        count as f64 / seconds,
        total.events,
        total.places,
        total.acknowledged,
        total.views,
        total.outside,
        worst.0,
        worst.1
    );
    assert!(failed.is_empty(), "{} of {count} seeds failed: {failed:?}", failed.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_replicas_of_which_one_lies_agree_through_random_faults() {
        swarm(members(FaultModel::Byzantine, 4), 1, 250);
    }

    #[test]
    fn seven_replicas_of_which_two_lie_agree_through_random_faults() {
        swarm(members(FaultModel::Byzantine, 7), 1, 30);
    }

    #[test]
    fn three_replicas_agree_through_random_crashes() {
        swarm(members(FaultModel::Crash, 3), 1, 250);
    }

    #[test]
    fn without_durable_votes_four_replicas_keep_the_paper_s_promise() {
        swarm_with(members(FaultModel::Byzantine, 4), false, 1, 150);
    }

    #[test]
    fn without_durable_votes_three_and_five_replicas_keep_the_paper_s_promise() {
        swarm_with(members(FaultModel::Crash, 3), false, 1, 150);
        swarm_with(members(FaultModel::Crash, 5), false, 1, 50);
    }

    #[test]
    fn five_replicas_agree_through_random_crashes() {
        swarm(members(FaultModel::Crash, 5), 1, 100);
    }
}
