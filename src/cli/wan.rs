//! `duramen wan`: shaped links on this machine, and how exact they are.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ArgGroup;
use duramen::wan::relay::{Counts, Door, Plan, Relay, Shape, THREAD};
use duramen::wan::table1::Group;
use duramen::wan::trace::Trace;

use super::machine::thread_cpu_seconds;
use super::signals::Interrupt;
use super::{CliError, emit};

/// Which links, or whether to check them.
#[derive(clap::Args, Debug, PartialEq)]
#[command(group = ArgGroup::new("what").required(true).args(["links", "group", "check"]))]
pub struct Args {
    /// Links, one a line: LISTEN TARGET TRACE DELAY_MS [TRACE_BACK]; `#` begins a comment
    #[arg(long, value_name = "FILE")]
    pub links: Option<PathBuf>,
    /// The papers' links: A (far apart) or B (in one continent); with four --site
    #[arg(long, value_name = "A|B")]
    pub group: Option<String>,
    /// Where a site of the group listens; each of the four once
    #[arg(long, value_name = "NAME=ADDRESS:PORT", conflicts_with_all = ["links", "check"])]
    pub site: Vec<String>,
    /// Lets the group's links vary, by this seed [default: they keep their means]
    #[arg(long, conflicts_with_all = ["links", "check"])]
    pub seed: Option<u64>,
    /// Ends after so long [default: at Ctrl-C]
    #[arg(long, value_name = "SECONDS", conflicts_with = "check")]
    pub seconds: Option<u64>,
    /// Measures how exact bandwidth and delay are on this machine, and what they cost
    #[arg(long)]
    pub check: bool,
}

/// Relays and reports each second, or measures.
pub fn run(args: Args) -> Result<(), CliError> {
    if args.check {
        return check();
    }
    let (plan, names) = match (&args.links, &args.group) {
        (Some(file), _) => {
            let text =
                fs::read_to_string(file).map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
            let plan = read_links(&text).map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))?;
            let names = plan.doors.iter().map(|door| door.target.to_string()).collect();
            (plan, names)
        }
        (None, Some(group)) => mesh(group, &args.site, args.seed).map_err(CliError::Failed)?,
        (None, None) => unreachable!("clap asks for one"),
    };
    relay(plan, names, args.seconds)
}

/// A line of the file is a door with two pipes of its own.
pub(super) fn read_links(text: &str) -> Result<Plan, String> {
    let mut plan = Plan::default();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        let refuse = |why: &str| format!("line {}: {why}", number + 1);
        let (listen, target, there, delay, back) = match words[..] {
            [] => continue,
            [listen, target, there, delay] => (listen, target, there, delay, there),
            [listen, target, there, delay, back] => (listen, target, there, delay, back),
            _ => return Err(refuse("a link is LISTEN TARGET TRACE DELAY_MS [TRACE_BACK]")),
        };
        let address = |text: &str| {
            text.parse::<SocketAddr>().map_err(|_| refuse(&format!("`{text}` is no ADDRESS:PORT")))
        };
        let delay: Option<f64> = delay.parse().ok().filter(|ms| (0.0..=60_000.0).contains(ms));
        let delay = delay.ok_or_else(|| refuse("the delay is 0 to 60000 milliseconds"))?;
        let pipe = plan.pipes.len();
        for trace in [there, back] {
            let trace = trace.parse::<Trace>().map_err(|e| refuse(&e))?;
            plan.pipes.push(Shape { trace, delay: Duration::from_secs_f64(delay / 1e3) });
        }
        let (listen, target) = (address(listen)?, address(target)?);
        plan.doors.push(Door { listen, target, there: pipe, back: pipe + 1 });
    }
    if plan.doors.is_empty() { Err("there is no link in it".into()) } else { Ok(plan) }
}

/// The papers' links, and the names of their doors.
fn mesh(group: &str, sites: &[String], seed: Option<u64>) -> Result<(Plan, Vec<String>), String> {
    let group = Group::named(group).ok_or("--group is A or B")?;
    let wanted = || format!("--site NAME=ADDRESS:PORT is wanted for each of {}", group.sites.join(", "));
    let mut targets = [None; 4];
    for site in sites {
        let (name, address) = site.split_once('=').ok_or_else(wanted)?;
        let target = targets.get_mut(group.site(name).ok_or_else(wanted)?).expect("there are four");
        let address = address.parse().map_err(|_| format!("`{address}` is no ADDRESS:PORT"))?;
        if target.replace(address).is_some() {
            return Err(format!("--site {name} is given twice"));
        }
    }
    let [Some(a), Some(b), Some(c), Some(d)] = targets else { return Err(wanted()) };
    let names =
        Plan::pairs().map(|(from, to)| format!("{} to {}", group.sites[from], group.sites[to])).collect();
    Ok((Plan::mesh(group, [a, b, c, d], seed), names))
}

fn relay(plan: Plan, names: Vec<String>, seconds: Option<u64>) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let relay = Relay::start(plan.clone())?;
    for (i, (door, name)) in plan.doors.iter().zip(&names).enumerate() {
        let Shape { trace, delay } = &plan.pipes[door.there];
        let (listen, back, ms) = (relay.address(i), &plan.pipes[door.back].trace, delay.as_millis());
        emit(format_args!(
            "door       {listen} -> {name}: {trace} Mbit/s there, {back} back, {ms} ms each way"
        ))?;
    }
    let counts = || (0..plan.pipes.len()).map(|pipe| relay.counts(pipe)).collect::<Vec<Counts>>();
    let (begin, mut before) = (Instant::now(), counts());
    for second in 1.. {
        let end = begin + Duration::from_secs(second);
        while Instant::now() < end && !interrupt.is_set() {
            std::thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
        if interrupt.is_set() {
            break;
        }
        let now = counts();
        for (i, (door, name)) in plan.doors.iter().zip(&names).enumerate() {
            let grown = |pipe: usize| now[pipe].delivered - before[pipe].delivered;
            let (there, back) = (grown(door.there), grown(door.back));
            if there + back > 0 {
                emit(format_args!(
                    "{second:>5} s    {} -> {name}: {there} B there, {back} B back",
                    relay.address(i)
                ))?;
            }
        }
        before = now;
        if seconds == Some(second) {
            break;
        }
    }
    relay.stop();
    Ok(())
}

/// Mbit/s to check.
const RATES: [f64; 7] = [1.0, 10.0, 57.0, 100.0, 500.0, 1000.0, 2000.0];
const DELAY: Duration = Duration::from_millis(10);
/// Measured after a while, in which queues fill.
const SETTLE: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);
const PINGS: usize = 50;
/// A link that is farther off does not say what it is meant to.
const OFF_MAX: f64 = 0.01;

fn check() -> Result<(), CliError> {
    emit(format_args!(
        "one flow through one link, {} ms each way, measured over {} s at the receiver:",
        DELAY.as_millis(),
        MEASURE.as_secs()
    ))?;
    emit(format_args!(
        "{:>8} {:>10} {:>8} {:>9} {:>9} {:>9}",
        "Mbit/s", "measured", "off", "relay", "delay", "p99"
    ))?;
    let mut wrong = Vec::new();
    for mbit in RATES {
        let delays = ping(mbit)?;
        let (measured, cores) = flood(mbit)?;
        let off = measured / mbit - 1.0;
        let ms = |quantile: usize| delays[(PINGS - 1) * quantile / 100].as_secs_f64() * 1e3;
        emit(format_args!(
            "{mbit:>8} {measured:>10.2} {:>+6.2} % {:>4.0} % CPU {:>6.2} ms {:>6.2} ms",
            off * 100.0,
            cores * 100.0,
            ms(50),
            ms(99),
        ))?;
        if off.abs() > OFF_MAX {
            wrong.push(mbit.to_string());
        }
    }
    match wrong.is_empty() {
        true => emit(format_args!("all within {} %", OFF_MAX * 100.0)),
        false => Err(CliError::Failed(format!(
            "{} Mbit/s were more than {} % off: results over such links say little on this machine now",
            wrong.join(", "),
            OFF_MAX * 100.0
        ))),
    }
}

/// A relay of one door, and both ends of a connection through it.
fn one_link(mbit: f64) -> std::io::Result<(Relay, TcpStream, TcpStream)> {
    let target = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let shape = Shape { trace: Trace::constant(mbit), delay: DELAY };
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let door = Door { listen, target: target.local_addr()?, there: 0, back: 1 };
    let relay = Relay::start(Plan { pipes: vec![shape.clone(), shape], doors: vec![door] })?;
    let client = TcpStream::connect(relay.address(0))?;
    let (server, _) = target.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((relay, client, server))
}

/// Half the round-trip times of a few bytes on an idle link, ascending.
fn ping(mbit: f64) -> std::io::Result<Vec<Duration>> {
    let (_relay, mut client, mut server) = one_link(mbit)?;
    let mut delays = Vec::new();
    for _ in 0..PINGS {
        let begin = Instant::now();
        client.write_all(b"ping")?;
        server.read_exact(&mut [0; 4])?;
        server.write_all(b"pong")?;
        client.read_exact(&mut [0; 4])?;
        delays.push(begin.elapsed() / 2);
    }
    delays.sort();
    Ok(delays)
}

/// Mbit/s that arrive when there is always something to send, and the relay's share of a core.
fn flood(mbit: f64) -> std::io::Result<(f64, f64)> {
    let (relay, client, server) = one_link(mbit)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, zeros) = (&client, vec![0; 256 << 10]);
            while client.write_all(&zeros).is_ok() {}
        });
        scope.spawn(|| {
            let (mut server, mut buffer) = (&server, vec![0; 256 << 10]);
            while server.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        std::thread::sleep(SETTLE);
        let look = || (Instant::now(), relay.counts(0).delivered, relay_cpu());
        let (began, before, cpu_before) = look();
        std::thread::sleep(MEASURE);
        let (ended, after, cpu_after) = look();
        let seconds = (ended - began).as_secs_f64();
        // Both threads end when their connections are reset.
        relay.stop();
        Ok(((after - before) as f64 * 8.0 / 1e6 / seconds, (cpu_after - cpu_before) / seconds))
    })
}

fn relay_cpu() -> f64 {
    thread_cpu_seconds().iter().filter(|(_, name, _)| name == THREAD).map(|(.., seconds)| seconds).sum()
}
