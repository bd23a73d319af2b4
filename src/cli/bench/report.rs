//! What a run came to: for people, as JSON, and as files that plotters read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use duramen::config::{Config, Durability};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::super::machine::{Machine, Mount};
use super::super::{CliError, emit, transport_label};
use super::load::{Record, WAITING_MAX};
use super::{Args, command_line};

/// A tenth of a second. (Only figures: a histogram for each would fill the memory of a long run.)
pub struct Bin {
    /// From the start of measuring.
    pub at: Duration,
    /// Acknowledged in it.
    pub operations: u64,
    /// Their latencies at the median, the 99th percentile and the end, microseconds.
    pub p50_p99_max_us: [f64; 3],
    /// Failures in it.
    pub errors: u64,
}

impl Bin {
    /// Of the latencies that were recorded in it.
    pub fn of(at: Duration, latency_ns: &Histogram<u64>, errors: u64) -> Bin {
        let p50_p99_max_us = [0.5, 0.99, 1.0].map(|quantile| us_of(latency_ns, quantile));
        Bin { at, operations: latency_ns.len(), p50_p99_max_us, errors }
    }
}

/// Everything measured.
pub struct Measured {
    pub record: Record,
    pub seconds: f64,
    pub acked: u64,
    pub bins: Vec<Bin>,
    /// Operations per second of each window of a second.
    pub windows: Vec<f64>,
    /// Seconds, in the order of ids; empty where the replicas are not ours.
    pub replica_cpu_s: Vec<f64>,
    pub client_cpu_s: f64,
    /// The client thread that worked most: its name and share of a core.
    pub busiest: Option<(String, f64)>,
    /// At the start, each second, and the end; of each replica.
    pub rss_bytes: Vec<Vec<u64>>,
    /// Open loop: the most requests that were due and waited for a place at a time, and those that still did at the end.
    pub waiting_max: usize,
    pub unsent: usize,
    /// A signal ended it.
    pub interrupted: bool,
    pub before: Vec<Result<Value, String>>,
    pub after: Vec<Result<Value, String>>,
    pub notes: Vec<String>,
}

/// How it is told.
pub struct Report<'a> {
    pub args: &'a Args,
    pub config: &'a Config,
    pub machine: &'a Machine,
    pub measured: &'a Measured,
}

/// What rounds of the durability layer took: means of E, L, max(E, L) and T, without what was not measured.
pub fn rounds_line(
    count: u64,
    operations: u64,
    [execute, log, larger, round]: [f64; 4],
    logged: bool,
) -> String {
    let each = operations as f64 / count as f64;
    let logging = match logged {
        true => format!("logging {log:.0} us, round {round:.0} us = {:.2} x max(E, L)", round / larger),
        false => format!("round {round:.0} us; logging is not waited for, and its time not measured"),
    };
    format!("rounds     {count} of {each:.0} operations: executing {execute:.0} us, {logging}")
}

/// A client thread that keeps a core this busy may be what limits the figures.
const BUSY: f64 = 0.85;
/// So may an open loop of which a larger share than this was sent late, although there was room.
const LATE: f64 = 0.01;

impl Report<'_> {
    fn ops_per_s(&self) -> f64 {
        self.measured.acked as f64 / self.measured.seconds
    }

    /// Slowest, median and fastest window.
    fn spread(&self) -> [f64; 3] {
        let mut windows = self.measured.windows.clone();
        windows.sort_by(f64::total_cmp);
        match windows.len() {
            0 => [0.0; 3],
            count => [windows[0], windows[count / 2], windows[count - 1]],
        }
    }

    /// How much a counter grew on each replica that answered before and after.
    fn growths(&self, path: &str) -> impl Iterator<Item = (usize, u64)> {
        let value = move |status: &Value| status.pointer(path).and_then(Value::as_u64);
        let both = self.measured.before.iter().zip(&self.measured.after).enumerate();
        both.filter_map(move |(i, (before, after))| {
            let (before, after) = (before.as_ref().ok()?, after.as_ref().ok()?);
            Some((i, value(after)?.saturating_sub(value(before).unwrap_or(0))))
        })
    }

    /// How much a counter grew on the replica where it grew most: the others may not have answered.
    fn grown(&self, path: &str) -> u64 {
        self.growths(path).map(|(_, grown)| grown).max().unwrap_or(0)
    }

    /// The largest value any replica reports.
    fn most(&self, path: &str) -> u64 {
        let values = self.measured.after.iter().flatten();
        values.filter_map(|status| status.pointer(path).and_then(Value::as_u64)).max().unwrap_or(0)
    }

    fn requests_per_write(&self) -> f64 {
        self.grown("/requests_executed") as f64 / self.grown("/log/writes").max(1) as f64
    }

    fn cpu_us_per_op(&self) -> f64 {
        let all = self.measured.replica_cpu_s.iter().sum::<f64>() + self.measured.client_cpu_s;
        all * 1e6 / self.measured.acked.max(1) as f64
    }

    fn rss_last(&self) -> Vec<u64> {
        self.measured.rss_bytes.iter().filter_map(|of_one| of_one.last().copied()).collect()
    }

    /// Rounds of the durability layer, operations in them, and means of E, L, max(E, L), T in microseconds, where there is one. All of
    /// one replica, the one with most rounds: sums and counts of several make no mean.
    fn rounds(&self) -> Option<(u64, u64, [f64; 4])> {
        let (of, count) = self.growths("/rounds/count").max_by_key(|(_, count)| *count)?;
        let sum = |what: &str| {
            let path = format!("/rounds/{what}");
            self.growths(&path).find(|(i, _)| *i == of).map_or(0, |(_, grown)| grown)
        };
        let mean = |what: &str| sum(what) as f64 / count as f64;
        let means = || [mean("execute_us"), mean("log_us"), mean("larger_us"), mean("round_us")];
        (count > 0).then(|| (count, sum("operations"), means()))
    }

    /// Whether a round lasts until its log write has ended: else the time of that is not known.
    fn waits_for_log(&self) -> bool {
        self.config.durability != Durability::Async
    }

    /// Why the load generator may be what was measured.
    fn bottleneck(&self) -> Option<String> {
        let late = self.measured.record.late as f64 / self.measured.acked.max(1) as f64;
        if late > LATE {
            return Some(format!(
                "THE LOAD GENERATOR MAY BE THE BOTTLENECK: it sent {:.1} % of the requests more than 1 ms late, although there was room",
                late * 100.0
            ));
        }
        let (name, share) = self.measured.busiest.as_ref().filter(|(_, share)| *share >= BUSY)?;
        Some(format!(
            "THE LOAD GENERATOR MAY BE THE BOTTLENECK: its thread {name} kept {:.0} % of a core busy",
            share * 100.0
        ))
    }

    /// The summary.
    pub fn print(&self) -> Result<(), CliError> {
        let m = self.measured;
        let [slowest, median, fastest] = self.spread();
        emit(format_args!(
            "throughput {:.0} ops/s over {:.1} s; 1-s windows: min {slowest:.0}, median {median:.0}, max {fastest:.0}",
            self.ops_per_s(),
            m.seconds
        ))?;
        let line = |name: &str, of: &Histogram<u64>| {
            let ms = |quantile| us_of(of, quantile) / 1e3;
            emit(format_args!(
                "{name:<10} p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
                ms(0.5),
                ms(0.9),
                ms(0.99),
                ms(0.999),
                ms(1.0)
            ))
        };
        line("latency", &m.record.latency_ns)?;
        if let Some(rate) = self.args.rate {
            line("service", &m.record.service_ns)?;
            emit(format_args!(
                "open loop  {rate:.0} requests due per second; latency counts from then, service from the sending; up to {} had to wait",
                m.waiting_max
            ))?;
            let Record { late, dropped, .. } = m.record;
            if late + dropped > 0 {
                emit(format_args!(
                    "note       {late} requests were sent more than 1 ms late although there was room; {dropped} were never sent, because {WAITING_MAX} waited already"
                ))?;
            }
            if m.unsent > 0 {
                emit(format_args!(
                    "note       {} requests were due and not sent when measuring ended: their waiting is in no percentile",
                    m.unsent
                ))?;
            }
        }
        if m.record.refused > 0 {
            emit(format_args!(
                "note       {} requests were refused by the client library and count as errors; others took their places",
                m.record.refused
            ))?;
        }
        let longest_us = us_of(&m.record.latency_ns, 1.0);
        if m.record.drain.as_secs_f64() * 1e6 > longest_us.max(1e3) {
            emit(format_args!(
                "note       {} requests were under way when measuring ended, the last for {:.2} s more: they are in no percentile",
                m.record.under_way,
                m.record.drain.as_secs_f64()
            ))?;
        }
        let batches = self.grown("/batches_executed").max(1);
        emit(format_args!(
            "agreement  up to {} instances in flight, {:.1} requests per batch, view {}",
            self.most("/instances_in_flight_max"),
            self.grown("/requests_executed") as f64 / batches as f64,
            self.most("/view"),
        ))?;
        emit(format_args!(
            "log        {:.1} requests per write; {} writes, {:.1} MB per replica, up to {} in flight; write p50 {} p99 {} us",
            self.requests_per_write(),
            self.grown("/log/writes"),
            self.grown("/log/bytes") as f64 / 1e6,
            self.most("/log/in_flight_max"),
            self.most("/log/write_us_p50"),
            self.most("/log/write_us_p99"),
        ))?;
        if let Some((count, operations, means)) = self.rounds() {
            emit(rounds_line(count, operations, means, self.waits_for_log()))?;
        }
        let per_op = |seconds: f64| seconds * 1e6 / m.acked.max(1) as f64;
        if m.replica_cpu_s.is_empty() {
            emit(format_args!("cpu        {:.1} us/op in the client", per_op(m.client_cpu_s)))?;
        } else {
            let each: Vec<_> = m.replica_cpu_s.iter().map(|s| format!("{:.1}", per_op(*s))).collect();
            let busy = (m.replica_cpu_s.iter().sum::<f64>() + m.client_cpu_s) / m.seconds;
            emit(format_args!(
                "cpu        {:.1} us/op: replicas {}, client {:.1}; {busy:.2} of {} cores busy",
                self.cpu_us_per_op(),
                each.join(" + "),
                per_op(m.client_cpu_s),
                self.machine.cores,
            ))?;
            let mb = |at: &dyn Fn(&Vec<u64>) -> Option<u64>| {
                let each = m.rss_bytes.iter().filter_map(at).map(|b| format!("{:.0}", b as f64 / 1e6));
                each.collect::<Vec<_>>().join(" + ")
            };
            emit(format_args!(
                "memory     {} MB resident at the start, {} in the middle, {} at the end",
                mb(&|v| v.first().copied()),
                mb(&|v| v.get(v.len() / 2).copied()),
                mb(&|v| v.last().copied())
            ))?;
        }
        for note in m.notes.iter().cloned().chain(self.bottleneck()) {
            emit(format_args!("note       {note}"))?;
        }
        if self.config.durability != Durability::Vote {
            emit(format_args!(
                "note       durability {}: {}",
                self.config.durability,
                self.config.durability.promise()
            ))?;
        }
        Ok(())
    }

    /// Where time went in the replicas, stage by stage.
    pub fn print_stages(&self) -> Result<(), CliError> {
        for (id, status) in self.measured.after.iter().enumerate() {
            let stages = status.as_ref().ok().and_then(|s| s.get("stages")).and_then(Value::as_object);
            let Some(stages) = stages else {
                emit(format_args!("stages     replica {id} tells none"))?;
                continue;
            };
            for (name, of) in stages {
                let number = |path: &str| of.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
                emit(format_args!(
                    "stage      replica {id} {name:<10} {:>9} times, p50 {:.0} p99 {:.0} max {:.0} us; queue p50 {:.0} p99 {:.0} max {:.0}",
                    number("/count"),
                    number("/time_us/p50"),
                    number("/time_us/p99"),
                    number("/time_us/max"),
                    number("/queue/p50"),
                    number("/queue/p99"),
                    number("/queue/max"),
                ))?;
            }
        }
        Ok(())
    }

    /// One object.
    pub fn json(&self) -> Value {
        let (m, args, group) = (self.measured, self.args, self.config.group());
        let Mount { file_system, .. } = &self.machine.mount;
        let [slowest, median, fastest] = self.spread();
        let quantiles = |of: &Histogram<u64>| {
            json!({
                "p50": us_of(of, 0.5),
                "p90": us_of(of, 0.9),
                "p99": us_of(of, 0.99),
                "p999": us_of(of, 0.999),
                "max": us_of(of, 1.0),
            })
        };
        let rounds = self.rounds().map(|(count, _, [execute, log, larger, round])| {
            let of_log = |figure: f64| self.waits_for_log().then_some(figure);
            json!({ "execute_us": execute, "log_us": of_log(log), "larger_us": of_log(larger), "round_us": round,
                "round_over_larger": of_log(round / larger), "count": count })
        });
        let mut all = json!({
            "command": command_line(),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": super::COMMIT,
            "ops_per_s": self.ops_per_s(),
            "ops_per_s_windows": { "min": slowest, "median": median, "max": fastest, "all": m.windows },
            "latency_us": quantiles(&m.record.latency_ns),
            "service_us": args.rate.map(|_| quantiles(&m.record.service_ns)),
            "rate": args.rate,
            "waiting_max": m.waiting_max,
            "unsent": m.unsent,
            "late": m.record.late,
            "dropped": m.record.dropped,
            "refused": m.record.refused,
            "under_way_at_end": m.record.under_way,
            "drain_s": m.record.drain.as_secs_f64(),
            "interrupted": m.interrupted,
            "acked": m.acked,
            "errors": m.record.errors,
            "first_error": m.record.first_error,
            "seconds": m.seconds,
            "n": group.n(),
            "f": group.f(),
            "model": if group.byzantine() { "byzantine" } else { "crash" },
            "durability": self.config.durability.to_string(),
            "promise": self.config.durability.promise(),
            "durable": !self.machine.mount.in_memory(),
            "device": self.config.log.device.to_string(),
            "transport": self.config.transport.to_string(),
            "transport_label": transport_label(self.config),
            "client_auth": self.config.client_auth.to_string(),
            "service": args.service.as_str(),
            "workload": super::describe(args),
            "value_size": super::value_size(args),
            "reply_size": args.reply_size,
            "execute_cost_us": args.execute_cost_us,
            "clients": args.clients,
            "outstanding": args.outstanding,
            "seed": args.seed,
        });
        let replicas = json!({
            "instances_in_flight": self.most("/instances_in_flight_max"),
            "requests_per_batch":
                self.grown("/requests_executed") as f64 / self.grown("/batches_executed").max(1) as f64,
            "requests_per_log_write": self.requests_per_write(),
            "log_writes": self.grown("/log/writes"),
            "log_bytes": self.grown("/log/bytes"),
            "log_write_us_p50": self.most("/log/write_us_p50"),
            "log_write_us_p99": self.most("/log/write_us_p99"),
            "rounds": rounds,
            "view": self.most("/view"),
            "cpu_us_per_op": self.cpu_us_per_op(),
            "cpu_s_per_replica": m.replica_cpu_s,
            "cpu_s_client": m.client_cpu_s,
            "busiest_client_thread": m.busiest.as_ref().map(|(name, share)| json!({ "name": name, "cores": share })),
            "load_generator_may_be_bottleneck": self.bottleneck().is_some(),
            "rss_bytes": self.rss_last(),
            "rss_bytes_timeline": m.rss_bytes,
            "stages": m.after.iter().flatten().map(|s| s.get("stages").cloned()).collect::<Vec<_>>(),
            "notes": m.notes,
            "file_system": file_system,
            "environment": self.machine.json(),
        });
        if let (Value::Object(all), Value::Object(replicas)) = (&mut all, replicas) {
            all.extend(replicas);
        }
        all
    }

    /// The files that were asked for.
    pub fn write_files(&self) -> Result<(), CliError> {
        let (args, m) = (self.args, self.measured);
        if let Some(file) = &args.json {
            write_to(file, |out| writeln!(out, "{:#}", self.json()))?;
        }
        if let Some(file) = &args.hgrm {
            write_to(file, |out| write_hgrm(out, &m.record.latency_ns))?;
        }
        if let Some(file) = &args.csv {
            write_to(file, |out| write_csv(out, &m.bins))?;
        }
        Ok(())
    }
}

fn us_of(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

fn write_to(file: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<(), CliError> {
    let written = File::create(file).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()
    });
    written.map_err(|e| CliError::Failed(format!("{}: {e}", file.display())))
}

/// The percentile table that HdrHistogram's plotter reads; milliseconds.
pub fn write_hgrm(out: &mut impl Write, latency_ns: &Histogram<u64>) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut count = 0;
    for at in latency_ns.iter_quantiles(5) {
        count += at.count_since_last_iteration();
        let (ms, quantile) = (at.value_iterated_to() as f64 / 1e6, at.quantile_iterated_to());
        match quantile < 1.0 {
            true => {
                writeln!(out, "{ms:>12.3} {quantile:>14.12} {count:>10} {:>14.2}", 1.0 / (1.0 - quantile))?
            }
            false => writeln!(out, "{ms:>12.3} {quantile:>14.12} {count:>10}")?,
        }
    }
    let (mean, deviation) = (latency_ns.mean() / 1e6, latency_ns.stdev() / 1e6);
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    let (max, total) = (latency_ns.max() as f64 / 1e6, latency_ns.len());
    writeln!(out, "#[Max     = {max:>12.3}, Total count    = {total:>12}]")?;
    let buckets = latency_ns.buckets();
    writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {:>12}]", 2048)
}

/// One line for each tenth of a second.
pub fn write_csv(out: &mut impl Write, bins: &[Bin]) -> io::Result<()> {
    writeln!(out, "seconds,operations,p50_us,p99_us,max_us,errors")?;
    for Bin { at, operations, p50_p99_max_us: [p50, p99, max], errors } in bins {
        writeln!(out, "{:.1},{operations},{p50:.0},{p99:.0},{max:.0},{errors}", at.as_secs_f64())?;
    }
    Ok(())
}
