//! A disk is lost: the replica gets the state from all others at once, one of which lies where the build lets it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use duramen::client::Client;
use duramen::types::ReplicaId;
use serde_json::{Value, json};

use super::super::checked_load::CheckedLoad;
use super::super::connect::statuses;
use super::super::status::short;
use super::super::transfer_line;
use super::{PATIENCE, REPLICAS, STATUS_TIME, Stage, Stop, Tell};

/// A look at the one that fetches.
const LOOK: Duration = Duration::from_millis(50);
/// Lies about chunks, and about nothing else: to the agreement it is a correct replica.
#[cfg(feature = "adversary")]
const LIE: &str = "false-chunks";

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn status(client: &Client, i: u32) -> Value {
    let json = client.status(ReplicaId(i), Some(STATUS_TIME)).unwrap_or_default();
    serde_json::from_str(&json).unwrap_or_default()
}

/// Kills a follower, empties its folders, lets it recover under load. What was not as promised goes to `failures`.
pub(super) fn lost_disk(
    stage: &mut Stage,
    tell: &mut Tell,
    client: &Client,
    load: &CheckedLoad,
    failures: &mut Vec<String>,
) -> Result<(), Stop> {
    let (leader, _) = stage.new_leader(client, None)?;
    // The load goes on until nobody's log tells all of the past.
    let begun =
        |state: &Value| number(&state["log"]["first_lsn"]) > 1 && number(&state["transfer"]["newest"]) > 0;
    let ready = stage.wait_until(PATIENCE, &mut || {
        let states = statuses(client, &stage.cluster.config, STATUS_TIME);
        states.iter().flatten().filter(|state| begun(state)).count() == REPLICAS as usize
    })?;
    if !ready {
        return Err(Stop::Failed(format!("no checkpoint let go of the log within {} s", PATIENCE.as_secs())));
    }
    let lost = (leader + 1) % REPLICAS;
    let liar = liar(stage, client, (leader + 2) % REPLICAS)?;
    if let Some(liar) = liar {
        tell.say(
            "liar",
            format!("replica {liar} sends false pages to whoever fetches a state, and is correct otherwise"),
        )?;
    }
    stage.cluster.kill(lost);
    stage.cluster.lose_disk(lost)?;
    tell.say("disk lost", format!("replica {lost}: kill -9, its log and checkpoints gone; `recover`"))?;
    load.take_longest_gap();
    let (began, before) = (Instant::now(), load.acked());
    stage.start(lost)?;
    let state = follow(stage, tell, client, lost)?;
    let took = began.elapsed();
    let (rate, gap) = ((load.acked() - before) as f64 / took.as_secs_f64(), load.take_longest_gap());

    let transfer = &state["transfer"];
    let (received, seconds) = (number(&transfer["last_bytes"]), number(&transfer["last_ms"]) as f64 / 1e3);
    let sources = transfer["last_sources"].as_array().cloned().unwrap_or_default();
    let all = sources.iter().map(|source| number(&source["bytes"])).sum::<u64>().max(1);
    let shares: Vec<String> = sources
        .iter()
        .map(|source| format!("r{} {} %", source["replica"], number(&source["bytes"]) * 100 / all))
        .collect();
    tell.say(
        "transfer",
        format!(
            "replica {lost} got {} in {seconds:.2} s ({}), and votes again after {:.2} s; meanwhile {rate:.0} writes/s, longest gap {:.2} s",
            short(received),
            shares.join(", "),
            took.as_secs_f64(),
            gap.as_secs_f64()
        ),
    )?;
    let banned = transfer["banned"].as_array().cloned().unwrap_or_default();
    let named: Vec<u32> = banned.iter().map(|who| number(&who["replica"]) as u32).collect();
    match liar {
        Some(liar) => {
            let why = banned.iter().find(|who| number(&who["replica"]) == u64::from(liar));
            match why {
                Some(who) => tell.say(
                    "liar named",
                    format!(
                        "replica {liar}: {}; its pages came from the others",
                        who["why"].as_str().unwrap_or_default()
                    ),
                )?,
                None => failures.push(format!("replica {liar} lied in the state transfer and was not named")),
            }
            stage.cluster.kill(liar);
            stage.start(liar)?;
        }
        None => tell.say(
            "",
            "a seeder that lies is in builds with `--features adversary` alone: no other binary can lie"
                .into(),
        )?,
    }
    if let Some(honest) = named.iter().find(|who| Some(**who) != liar) {
        failures.push(format!("replica {honest} did not lie and was excluded from the state transfer"));
    }
    tell.fact(
        "transfer",
        json!({
            "replica": lost,
            "bytes": received,
            "transfer_seconds": seconds,
            "votes_after_seconds": took.as_secs_f64(),
            "sources": sources,
            "ops_per_s": rate,
            "seconds_without_progress": gap.as_secs_f64(),
            "liar": liar,
            "named": named,
        }),
    );
    Ok(())
}

/// Starts a follower anew as one that lies, where the build can.
#[cfg(feature = "adversary")]
fn liar(stage: &mut Stage, client: &Client, i: u32) -> Result<Option<u32>, Stop> {
    stage.cluster.kill(i);
    stage.cluster.start_with(i, &["--adversary", LIE])?;
    let interrupt = stage.interrupt.clone();
    stage.ready(&interrupt, i)?;
    // It is needed: the one that is killed next is the one that may be missing.
    let together = stage.wait_until(PATIENCE, &mut || {
        let states: Vec<Value> =
            statuses(client, &stage.cluster.config, STATUS_TIME).into_iter().flatten().collect();
        let most = states.iter().map(|state| number(&state["executed"])).max().unwrap_or(0);
        let offers = |state: &Value| number(&state["transfer"]["newest"]) > 0;
        states.len() == REPLICAS as usize
            && states.iter().all(|state| state["mode"] == "normal" && number(&state["executed"]) + 64 > most)
            && states.iter().all(offers)
    })?;
    match together {
        true => Ok(Some(i)),
        false => Err(Stop::Failed(format!("replica {i} did not catch up within {} s", PATIENCE.as_secs()))),
    }
}

#[cfg(not(feature = "adversary"))]
fn liar(_: &mut Stage, _: &Client, _: u32) -> Result<Option<u32>, Stop> {
    Ok(None)
}

/// Until the replica votes again; with a line on the terminal meanwhile.
fn follow(stage: &Stage, tell: &Tell, client: &Client, lost: u32) -> Result<Value, Stop> {
    let shows = !tell.json && std::io::stderr().is_terminal();
    let mut last = Value::Null;
    let mut looked = Instant::now();
    let done = stage.wait_until(PATIENCE, &mut || {
        if looked.elapsed() < LOOK {
            return false;
        }
        looked = Instant::now();
        last = status(client, lost);
        let transfer = &last["transfer"];
        if let (true, Some(line)) = (shows, transfer_line::line(&last)) {
            let _ = write!(std::io::stderr(), "\r\x1b[K          replica {lost}: {line}");
        }
        number(&transfer["installed"]) > 0 && last["mode"] == "normal"
    })?;
    if shows {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    match done {
        true => Ok(last),
        false => Err(Stop::Failed(format!(
            "replica {lost} did not recover within {} s: {}",
            PATIENCE.as_secs(),
            last["transfer"]
        ))),
    }
}
