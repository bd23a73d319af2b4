//! Clusters under load, and when their replicas wrote checkpoints: into the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use duramen::client::Client;
use duramen::config::{CheckpointLimits, Limits, LogLimits};
use duramen::init::InitOptions;
use duramen::types::ReplicaId;
use serde_json::{Value, json};

use super::super::super::bench::load::{Load, Shape};
use super::super::super::bench::report::Bin;
use super::super::super::bench::workload::{Distribution, Kind, Mix, Workload};
use super::super::super::connect::statuses;
use super::super::super::local_cluster::LocalCluster;
use super::super::super::signals::Interrupt;
use super::super::super::{CliError, emit};
use super::super::ground;
use super::{Args, BIN, REPLICAS, Sizes, Tables, VALUE_BYTES, WAYS, Way, name_of};

/// Medium load, as a share of what the saturated run did.
const MEDIUM: f64 = 0.5;
const START_TIME: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(60);
/// Each replica has written a checkpoint by then.
const SETTLE_TIME: Duration = Duration::from_secs(180);
const STATUS_TIME: Duration = Duration::from_secs(5);
/// Replicas are asked this often whether they write.
const LOOK: Duration = Duration::from_millis(20);

/// All runs, into the tables; what they ran on.
pub(super) fn measure_all(args: &Args) -> Result<Value, CliError> {
    let interrupt = Interrupt::install()?;
    let mut sizes = args.scale.sizes();
    if !args.state.is_empty() {
        sizes.states_mb.clone_from(&args.state);
    }
    sizes.seconds = args.seconds.unwrap_or(sizes.seconds).max(1);
    let made = !args.files.dir.exists();
    std::fs::create_dir_all(&args.files.dir)?;
    let machine = ground::machine(&args.files.dir, args.allow_tmpfs, sizes.bytes_max())?;
    let mut tables = Tables::new();
    for state_mb in sizes.states_mb.clone() {
        let mut rate = None;
        for load in ["high", "medium"] {
            let mut places_per_s = 0.0;
            for way in WAYS {
                let run = Run { args, sizes: &sizes, state_mb, load, way, rate, places_per_s };
                let (ops_per_s, places) = run.measure(&mut tables, &interrupt)?;
                // What there is survives an interruption.
                tables.write(&args.files.out)?;
                // What was done at high load sets the rate of medium load.
                if way.is_none() {
                    places_per_s = places;
                    rate = rate.or(Some((ops_per_s * MEDIUM).max(1.0)));
                }
            }
        }
    }
    if made {
        let _ = std::fs::remove_dir(&args.files.dir);
    }
    Ok(json!({
        "scale": format!("{:?}", args.scale).to_lowercase(),
        "seconds": sizes.seconds,
        "value_bytes": VALUE_BYTES,
        "replicas": REPLICAS,
        "machine": machine.json(),
        "durable": !machine.mount.in_memory(),
        "debug_build": cfg!(debug_assertions),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

/// One run: a cluster, its state, load, and what was seen.
struct Run<'a> {
    args: &'a Args,
    sizes: &'a Sizes,
    state_mb: u64,
    load: &'static str,
    way: Way,
    /// Of medium load.
    rate: Option<f64>,
    /// Of the run without checkpoints.
    places_per_s: f64,
}

impl Run<'_> {
    fn keys(&self) -> u64 {
        (self.state_mb * 1_000_000 / VALUE_BYTES as u64).max(1)
    }

    fn checkpoint(&self) -> CheckpointLimits {
        let usual = CheckpointLimits { log_keep_mib: 64, ..CheckpointLimits::default() };
        let Some((schedule, snapshot)) = self.way else { return CheckpointLimits { period: 0, ..usual } };
        let places = self.places_per_s * self.sizes.seconds as f64;
        let period =
            (places as u64 / self.sizes.checkpoints).max(u64::from(REPLICAS) * self.sizes.mark_interval);
        CheckpointLimits { period, schedule, snapshot, ..usual }
    }

    fn cluster(&self) -> Result<LocalCluster, CliError> {
        let options = InitOptions {
            dir: self.args.files.dir.join(format!("run-{}", std::process::id())),
            replicas: REPLICAS,
            clients: vec!["load".into(), "watch".into()],
            limits: Limits { mark_interval: self.sizes.mark_interval, ..Limits::default() },
            log: LogLimits {
                segment_mib: self.sizes.segment_mib,
                prefill_segments: 2,
                ..LogLimits::default()
            },
            checkpoint: self.checkpoint(),
            ..InitOptions::default()
        };
        let exe = std::env::current_exe()?;
        LocalCluster::create(&exe, options, &[], self.args.allow_tmpfs).map_err(CliError::Failed)
    }

    /// Operations and places per second.
    fn measure(&self, tables: &mut Tables, interrupt: &Interrupt) -> Result<(f64, f64), CliError> {
        let go_on = || !interrupt.is_set();
        let mut cluster = self.cluster()?;
        cluster.start_all(START_TIME, &go_on).map_err(CliError::Failed)?;
        let config = cluster.config.clone();
        let in_flight = (self.sizes.sessions * self.sizes.outstanding) as usize;
        let connect = |name| ground::client(cluster.dir(), &config, name, (in_flight, VALUE_BYTES));
        let (client, watching) = (connect("load")?, connect("watch")?);
        let kind = Kind::Kv {
            value_bytes: VALUE_BYTES,
            keys: self.keys(),
            mix: Mix::default(),
            distribution: Distribution::Uniform,
            preload: true,
        };
        let workload = Arc::new(Workload::new(kind, 1));
        let rate = if self.load == "medium" { self.rate } else { None };
        let Sizes { sessions, outstanding, .. } = *self.sizes;
        let shape = Shape { sessions, outstanding, rate, deadline: DEADLINE, seed: 1 };
        ground::preload(&client, &workload, shape, self.keys(), interrupt)?;

        let load = Load::start(&client, workload, shape);
        ground::pause(Instant::now() + self.sizes.warmup, &load, interrupt)?;
        let look = || statuses(&watching, &config, STATUS_TIME);
        let wrote = |state: &Value| state["checkpoints"]["written"].as_u64() > Some(0);
        let settled_by = Instant::now() + SETTLE_TIME;
        let all_wrote = || look().iter().flatten().filter(|state| wrote(state)).count() == REPLICAS as usize;
        while self.way.is_some() && self.sizes.settles && !all_wrote() {
            if Instant::now() > settled_by {
                return Err(CliError::Failed(
                    "not every replica wrote a checkpoint within three minutes".into(),
                ));
            }
            ground::pause(Instant::now() + Duration::from_secs(1), &load, interrupt)?;
        }
        let decided = || -> u64 {
            let states = look();
            states.iter().flatten().filter_map(|state| state["decided"].as_u64()).max().unwrap_or(0)
        };
        let (places_before, places_at) = (decided(), Instant::now());
        load.start_recording();
        let _ = load.take_bin();
        let (begin, acked_before) = (Instant::now(), load.acked());
        let stop = AtomicBool::new(false);
        let (bins, bands) = std::thread::scope(|scope| {
            let watchers: Vec<_> = (0..REPLICAS)
                .map(|id| {
                    let (watching, stop) = (&watching, &stop);
                    scope.spawn(move || watch(watching, ReplicaId(id), begin, stop))
                })
                .collect();
            let bins = self.bins(&load, begin, interrupt);
            stop.store(true, Ordering::Relaxed);
            (
                bins,
                watchers
                    .into_iter()
                    .map(|watcher| watcher.join().expect("it does not panic"))
                    .collect::<Vec<_>>(),
            )
        });
        let bins = bins?;
        let (seconds, acked) = (begin.elapsed().as_secs_f64(), load.acked() - acked_before);
        let places_per_s = (decided() - places_before) as f64 / places_at.elapsed().as_secs_f64();
        let record = load.stop();
        drop((client, watching));
        // Nobody needs what it has on disk: the time for an orderly end is saved.
        cluster.kill_all();
        if record.errors > 0 {
            let first = record.first_error.unwrap_or_default();
            return Err(CliError::Failed(format!("{} requests failed, the first: {first}", record.errors)));
        }

        let (way, ops_per_s) = (name_of(self.way), acked as f64 / seconds);
        for Bin { at, operations, p50_p99_max_us: [p50, p99, max], .. } in &bins {
            let (at, p50, p99, max) = (at.as_millis(), p50.round(), p99.round(), max.round());
            tables.bins.push(&[&self.state_mb, &self.load, &way, &at, operations, &p50, &p99, &max]);
        }
        let mut written = 0;
        for (replica, bands) in bands.iter().enumerate() {
            for (from, to) in bands {
                tables.bands.push(&[
                    &self.state_mb,
                    &self.load,
                    &way,
                    &replica,
                    &from.as_millis(),
                    &to.as_millis(),
                ]);
                written += 1;
            }
        }
        let us = |quantile: f64| (record.latency_ns.value_at_quantile(quantile) as f64 / 1e3).round();
        let period = self.checkpoint().period;
        tables.runs.push(&[
            &self.state_mb,
            &self.load,
            &way,
            &period,
            &rate.unwrap_or(0.0).round(),
            &ops_per_s.round(),
            &places_per_s.round(),
            &us(0.5),
            &us(0.99),
            &us(0.999),
            &us(1.0),
            &record.errors,
        ]);
        emit(format_args!(
            "run        {} MB, {} load, {way}: {ops_per_s:.0} ops/s, {places_per_s:.0} places/s, period {period}, {written} checkpoints",
            self.state_mb, self.load
        ))?;
        Ok((ops_per_s, places_per_s))
    }

    fn bins(&self, load: &Load, begin: Instant, interrupt: &Interrupt) -> Result<Vec<Bin>, CliError> {
        let count = self.sizes.seconds as u32 * 10;
        (0..count)
            .map(|i| {
                ground::pause(begin + BIN * (i + 1), load, interrupt)?;
                let (latency_ns, errors) = load.take_bin();
                Ok(Bin::of(BIN * i, &latency_ns, errors))
            })
            .collect()
    }
}

/// When a replica wrote checkpoints, from `begin` on.
fn watch(client: &Client, id: ReplicaId, begin: Instant, stop: &AtomicBool) -> Vec<(Duration, Duration)> {
    let mut bands: Vec<(Duration, Duration)> = Vec::new();
    let (mut since, mut written_before) = (None, None);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let status = client.status(id, Some(STATUS_TIME)).ok();
        let status = status.and_then(|json| serde_json::from_str::<Value>(&json).ok());
        // The answer is as old as half of the time that it took.
        let at = (asked + asked.elapsed() / 2).saturating_duration_since(begin);
        if let Some(view) = status.as_ref().map(|status| &status["checkpoints"]) {
            let written = view["written"].as_u64();
            match (since, view["writing"].as_bool() == Some(true)) {
                (None, true) => since = Some(at),
                (Some(from), false) => {
                    bands.push((from, at));
                    since = None;
                }
                // It began and ended between two looks.
                (None, false) if written_before.is_some_and(|before| written > Some(before)) => {
                    let took = Duration::from_millis(view["write_ms"].as_u64().unwrap_or(0).max(1));
                    bands.push((at.saturating_sub(took), at));
                }
                _ => {}
            }
            written_before = written;
        }
        std::thread::sleep(LOOK);
    }
    bands.extend(since.map(|from| (from, begin.elapsed())));
    bands
}
