//! A replica's state as OpenMetrics text, and whether it is healthy and ready.

use super::metrics::{Stage, Times};
use super::shared::Shared;
use crate::net::Stats;
use crate::types::ReplicaId;
use crate::wire::messages::Mode;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

/// Places a replica may be behind the most advanced one and count as ready.
const READY_LAG: u64 = 64;

/// Why a replica is not healthy: it votes no more.
pub fn unhealthy(shared: &Shared) -> Option<String> {
    shared.order.lock().halted.as_ref().map(|why| format!("halted: {why}"))
}

/// Why a replica is not ready: it does not vote, or is behind.
pub fn unready(shared: &Shared) -> Option<String> {
    if let Some(state) = shared.recovery.state() {
        return Some(format!("recovering: {state}"));
    }
    let order = shared.order.lock();
    let Some(status) = order.status else { return Some("starting".into()) };
    let ahead = order.peers.iter().filter_map(|(_, s)| s.map(|s| s.decided.0)).max().unwrap_or(0);
    let executed = shared.executed.load(Ordering::Relaxed);
    if let Some(why) = &order.halted {
        Some(format!("halted: {why}"))
    } else if status.mode != Mode::Normal {
        Some(format!("between views, in view {}", status.view))
    } else if shared.lacks_state() {
        Some("without a state, or with a wrong one: that of the others is being taken over".into())
    } else if shared.forgetful.load(Ordering::Relaxed) {
        Some("restarted without durable votes, and no mark covers them yet".into())
    } else if ahead.max(status.decided.0) > executed + READY_LAG {
        Some(format!("behind: executed {executed}, others decided {ahead}"))
    } else {
        None
    }
}

struct Text {
    out: String,
    replica: ReplicaId,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let _ = writeln!(self.out, "# TYPE duramen_{name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT duramen_{name} {unit}");
        }
        let _ = writeln!(self.out, "# HELP duramen_{name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.out, "duramen_{name}{{replica=\"{}\"{comma}{labels}}} {value}", self.replica);
    }

    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", unit, help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, unit: &str, help: &str, value: impl Display) {
        self.family(name, "counter", unit, help);
        self.sample(&format!("{name}_total"), "", value);
    }
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page of `/metrics`.
pub fn page(me: ReplicaId, shared: &Shared, net: &Stats) -> String {
    let order = shared.order.lock().clone();
    let decisions = shared.decisions.lock().clone();
    let log = decisions.as_ref().map_or(&order.log, |(log, _)| log);
    let status = order.status;
    let of = |value: fn(&crate::wire::messages::Status) -> u64| status.as_ref().map_or(0, value);
    let flag = |yes: bool| u8::from(yes);
    let usage = crate::sys::usage();
    let mut t = Text { out: String::new(), replica: me };

    t.gauge("view", "", "View entered last.", of(|s| s.view.0));
    t.gauge("leads", "", "Whether this replica leads.", flag(order.leads));
    t.gauge("mark", "", "Last place covered by a durable mark.", of(|s| s.mark.0));
    t.gauge("decided", "", "Last place decided, without gaps.", of(|s| s.decided.0));
    t.gauge("executed", "", "Last place executed.", shared.executed.load(Ordering::Relaxed));
    t.gauge("durable_lsn", "", "Last durable record of the log.", order.log.durable);
    t.gauge("halted", "", "Alarm: this replica votes no more.", flag(order.halted.is_some()));
    t.gauge(
        "log_full",
        "",
        "Alarm: the log takes no new work.",
        flag(!order.log.has_room && status.is_some()),
    );
    t.gauge("ready", "", "Whether it votes and is caught up.", flag(unready(shared).is_none()));
    t.gauge(
        "waiting_groups",
        "",
        "Client groups that wait to be proposed or executed.",
        order.waiting_groups,
    );
    t.gauge("order_queue", "", "Inputs before the order stage.", order.queue);
    let queue = shared.execute_queue.load(Ordering::Relaxed);
    t.gauge("execute_queue", "", "Jobs before the execute stage.", queue);
    t.gauge("log_queued_bytes", "bytes", "Bytes appended and not yet in a write.", order.log.queued_bytes);
    t.gauge("instances_in_flight_max", "", "Most places in flight at once.", order.in_flight_max);
    let requests = shared.requests_executed.load(Ordering::Relaxed);
    t.counter("requests_executed", "", "Requests executed since the start.", requests);
    let batches = shared.batches_executed.load(Ordering::Relaxed);
    t.counter("batches_executed", "", "Batches executed since the start.", batches);
    t.counter("log_writes", "", "Log writes since the start.", log.writes);
    t.counter("log_written_bytes", "bytes", "Bytes in them, padding included.", log.bytes);
    t.counter("net_received_bytes", "bytes", "Bytes received.", net.bytes_in);
    t.counter("net_sent_bytes", "bytes", "Bytes sent.", net.bytes_out);
    t.gauge("connections", "", "Connections of replicas and clients.", net.connections.len());
    t.counter("process_cpu_seconds", "seconds", "CPU time.", usage.cpu_ms as f64 / 1e3);
    t.gauge("process_resident_memory_bytes", "bytes", "Resident memory.", usage.rss_bytes);

    t.family("discarded_messages", "counter", "", "Messages without effect, by sender and reason.");
    for (from, reason, n) in shared.discards() {
        let labels = format!("from=\"{}\",reason=\"{}\"", escaped(&from), escaped(&reason));
        t.sample("discarded_messages_total", &labels, n);
    }
    t.family("peer_decided", "gauge", "", "Last place that another replica says it has decided.");
    for (peer, status) in &order.peers {
        t.sample("peer_decided", &format!("peer=\"{peer}\""), status.map_or(0, |s| s.decided.0));
    }
    let all: Vec<(Stage, Times)> = Stage::ALL.iter().map(|s| (*s, shared.metrics.of(*s))).collect();
    t.family("stage_seconds", "summary", "seconds", "Time of one round of a stage.");
    for (stage, Times { time_ns, sum_ns, .. }) in &all {
        for q in [0.5, 0.9, 0.99, 0.999] {
            let labels = format!("stage=\"{}\",quantile=\"{q}\"", stage.name());
            t.sample("stage_seconds", &labels, time_ns.value_at_quantile(q) as f64 / 1e9);
        }
        let label = format!("stage=\"{}\"", stage.name());
        t.sample("stage_seconds_count", &label, time_ns.len());
        t.sample("stage_seconds_sum", &label, *sum_ns as f64 / 1e9);
    }
    t.family("stage_queue", "summary", "", "Items of one round of a stage.");
    for (stage, Times { queue, .. }) in &all {
        for q in [0.5, 0.99] {
            let labels = format!("stage=\"{}\",quantile=\"{q}\"", stage.name());
            t.sample("stage_queue", &labels, queue.value_at_quantile(q));
        }
        t.sample("stage_queue_count", &format!("stage=\"{}\"", stage.name()), queue.len());
    }
    t.out + "# EOF\n"
}
