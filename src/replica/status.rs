//! The state of a replica as one JSON object, for `duramen status`.

use super::checkpoint_stage::CheckpointView;
use super::doorman::JUST_STARTED;
use super::shared::Shared;
use super::transfer_stage::{TransferView, YieldingView};
use crate::config::Durability;
use crate::durable::RoundStats;
use crate::net::{Peer, Stats};
use crate::quorum::Group as Members;
use crate::types::*;
use crate::wire::messages::Mode;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// What does not change while the replica runs.
pub struct StatusWriter {
    pub(super) me: ReplicaId,
    pub(super) members: Members,
    pub(super) transport: &'static str,
    pub(super) durability: Durability,
    pub(super) backend: String,
    pub(super) dir: PathBuf,
    pub(super) started: Instant,
}

/// A JSON string literal.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), quoted)
}

/// Sums over all rounds of the durability layer; the ratio of T_k to max(E_k, L_k) is `round_us` over `larger_us`.
fn rounds_json(rounds: &RoundStats) -> String {
    let us = |ns: u64| ns / 1000;
    format!(
        r#""rounds":{{"count":{},"operations":{},"execute_us":{},"log_us":{},"larger_us":{},"round_us":{}}},"#,
        rounds.rounds,
        rounds.operations,
        us(rounds.execute_ns),
        us(rounds.log_ns),
        us(rounds.larger_ns),
        us(rounds.round_ns),
    )
}

fn checkpoints_json(view: &CheckpointView, writing: bool) -> String {
    let kept: Vec<String> = view.kept.iter().map(Seq::to_string).collect();
    let pages = |pages: Option<u64>| pages.map_or_else(|| "null".to_owned(), |pages| pages.to_string());
    format!(
        concat!(
            r#""checkpoints":{{"kept":[{}],"writing":{},"written":{},"skipped":{},"bytes":{},"pages":{},"#,
            r#""pages_written":{},"full_every":{},"files":{},"disk_bytes":{},"copied_bytes":{},"freeze_us":{},"write_ms":{},"#,
            r#""yielded_ms":{},"log_calm_us":{},"period":{},"period_min":{},"stretch":{},"failed":{}}},"#
        ),
        kept.join(","),
        writing,
        view.written,
        view.skipped,
        view.bytes,
        pages(view.pages.map(|(_, all)| all)),
        pages(view.pages.map(|(written, _)| written)),
        view.full_every,
        view.files.0,
        view.files.1,
        view.copied_bytes,
        view.freeze_us,
        view.write_ms,
        view.yielded_ms,
        view.calm_us.map_or_else(|| "null".to_owned(), |us| format!("{us:.1}")),
        view.period,
        view.period_min,
        view.stretch,
        optional(view.failed.as_deref()),
    )
}

fn transfer_json(view: &TransferView) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let sources: Vec<String> = view
        .sources
        .iter()
        .map(|s| {
            format!(
                r#"{{"replica":{},"bytes":{},"bytes_per_s":{},"outstanding":{},"state":{}}}"#,
                s.id,
                s.bytes,
                s.bytes_per_s,
                s.outstanding,
                quoted(&format!("{:?}", s.state).to_lowercase())
            )
        })
        .collect();
    let banned: Vec<String> =
        view.banned.iter().map(|(r, why)| format!(r#"{{"replica":{r},"why":{}}}"#, quoted(why))).collect();
    let serving: Vec<String> = view
        .serving
        .iter()
        .map(|s| format!(r#"{{"to":{},"place":{},"bytes":{}}}"#, s.to, s.seq, s.bytes))
        .collect();
    let last_sources: Vec<String> = (view.last_sources.iter())
        .map(|(r, bytes)| format!(r#"{{"replica":{r},"bytes":{bytes}}}"#))
        .collect();
    let postponed: Vec<String> = view.postponed.iter().map(ToString::to_string).collect();
    let YieldingView { bytes_per_s, place_ns, lowered } = view.yielding;
    let micros = |ns: Option<u64>| number(ns.map(|ns| ns / 1000));
    let yielding = format!(
        r#"{{"bytes_per_s":{},"place_us_usual":{},"place_us":{},"lowered":{lowered}}}"#,
        number(bytes_per_s),
        micros(place_ns.0),
        micros(place_ns.1)
    );
    format!(
        r#""transfer":{{"phase":{},"target":{},"chunks":[{},{}],"bytes":{},"eta_ms":{},"sources":[{}],"banned":[{}],"serving":[{}],"postponed":[{}],"yielding":{yielding},"newest":{},"roots_skipped":{},"installed":{},"last_bytes":{},"last_ms":{},"last_sources":[{}]}},"#,
        quoted(view.phase),
        view.target,
        view.chunks.0,
        view.chunks.1,
        view.received,
        number(view.eta_ms),
        sources.join(","),
        banned.join(","),
        serving.join(","),
        postponed.join(","),
        view.newest,
        view.skipped,
        view.installed,
        view.last.0,
        view.last.1,
        last_sources.join(","),
    )
}

impl StatusWriter {
    /// Everything known at the moment; `digest` where it was asked for, `Some(None)`: not now.
    pub fn json(
        &self,
        shared: &Shared,
        net: Option<&Stats>,
        digest: Option<Option<(Seq, Digest)>>,
    ) -> String {
        let order = shared.order.lock().clone();
        let status = order.status;
        let number = |n: Option<u64>| n.unwrap_or(0);
        let recovering = shared.recovery.state();
        let mode = match order.mode() {
            _ if recovering.is_some() => "recovering",
            Mode::Normal => "normal",
            Mode::Changing => "changing",
            Mode::Halted => "halted",
            Mode::Learning => "learning",
        };
        let connected =
            |r: ReplicaId| net.is_some_and(|s| s.connections.iter().any(|c| c.peer == Peer::Replica(r)));
        let peers: Vec<String> = order
            .peers
            .iter()
            .map(|(r, s)| {
                format!(
                    r#"{{"replica":{r},"connected":{},"view":{},"decided":{}}}"#,
                    connected(*r),
                    number(s.map(|s| s.view.0)),
                    number(s.map(|s| s.decided.0))
                )
            })
            .collect();
        let mut discards = shared.discards();
        if let Some(net) = net {
            // What was not sent for want of a connection is no misdeed of anybody's.
            let misdeeds = net.discards.iter().filter(|(_, r, _)| *r != crate::net::Discard::NotConnected);
            for (peer, reason, n) in misdeeds {
                let from = peer.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
                discards.push((from, format!("{reason:?}"), *n));
            }
        }
        let discards: Vec<String> = discards
            .iter()
            .map(|(from, reason, n)| {
                format!(r#"{{"from":{},"reason":{},"count":{n}}}"#, quoted(from), quoted(reason))
            })
            .collect();
        let last_error = shared.last_error.lock().clone().or_else(|| {
            let errors = net.map_or(&[][..], |s| &s.last_errors);
            let of_replica = errors
                .iter()
                .rfind(|(peer, text)| matches!(peer, Peer::Replica(_)) && !text.contains(JUST_STARTED));
            of_replica.map(|(peer, text)| format!("{peer}: {text}"))
        });
        let decisions = shared.decisions.lock().clone();
        let kept = &order.log;
        // Where there is a log of decisions, that is where operations go.
        let log = decisions.as_ref().map_or(kept, |(log, _)| log);
        let rounds = decisions.as_ref().map_or(String::new(), |(_, rounds)| rounds_json(rounds));
        let alarms: Vec<String> = shared.alarms().iter().map(|alarm| quoted(alarm)).collect();
        let usage = crate::sys::usage();
        let per_write = log.records as f64 / log.writes.max(1) as f64;
        let requests = shared.requests_executed.load(Ordering::Relaxed);
        let digest = match digest {
            None => String::new(),
            Some(None) => r#""digest_seq":null,"state_digest":"","#.to_owned(),
            Some(Some((seq, d))) => format!(r#""digest_seq":{seq},"state_digest":"{d}","#),
        };
        format!(
            concat!(
                r#"{{"replica":{me},"pid":{pid},"role":{role},"mode":"{mode}","view":{view},"wish":{wish},"#,
                r#""mark":{mark},"decided":{decided},"executed":{executed},"durable_lsn":{durable},"#,
                r#""halted":{halted},"alarms":[{alarms}],"recovering":{recovering},"uptime_ms":{uptime},"#,
                r#""queues":{{"order":{q_order},"execute":{q_execute},"log_bytes":{q_log}}},"#,
                r#""waiting_groups":{waiting},"instances_in_flight_max":{in_flight},"#,
                r#""requests_executed":{requests},"batches_executed":{batches},"#,
                r#""log":{{"writes":{writes},"records":{records},"bytes":{bytes},"records_per_write":{per_write:.2},"#,
                r#""requests_per_write":{req_write:.2},"in_flight_max":{log_flight},"backend":{backend},"#,
                r#""first_lsn":{first},"files_bytes":{files},"segments_recycled":{recycled},"#,
                r#""has_room":{room},"segments_ready":{ready},"write_us_p50":{p50},"write_us_p99":{p99}}},"#,
                r#""peers":[{peers}],"net":{{"bytes_in":{b_in},"bytes_out":{b_out}}},"discards":[{discards}],"#,
                r#"{digest}{rounds}{checkpoints}{transfer}"stages":{stages},"durability":"{durability}","forgetful":{forgetful},"last_error":{error},"cpu_ms":{cpu},"rss_bytes":{rss},"transport":"{transport}","#,
                r#""model":"{model:?}","n":{n},"f":{f},"directory_free_bytes":{free}}}"#
            ),
            me = self.me,
            pid = std::process::id(),
            role = quoted(if order.leads { "leader" } else { "follower" }),
            mode = mode,
            view = number(status.map(|s| s.view.0)),
            wish = number(status.map(|s| s.wish.0)),
            mark = number(status.map(|s| s.mark.0)),
            decided = number(status.map(|s| s.decided.0)),
            executed = shared.executed.load(Ordering::Relaxed),
            durable = kept.durable,
            halted = optional(order.halted.as_deref().or(shared.service_failed.lock().as_deref())),
            alarms = alarms.join(","),
            recovering = recovering.map_or("null".to_owned(), |state| state.json()),
            uptime = self.started.elapsed().as_millis(),
            q_order = order.queue,
            q_execute = shared.execute_queue.load(Ordering::Relaxed),
            q_log = kept.queued_bytes,
            waiting = order.waiting_groups,
            in_flight = order.in_flight_max,
            requests = requests,
            batches = shared.batches_executed.load(Ordering::Relaxed),
            writes = log.writes,
            records = log.records,
            bytes = log.bytes,
            per_write = per_write,
            req_write = requests as f64 / log.writes.max(1) as f64,
            log_flight = log.in_flight_max,
            backend = quoted(&self.backend),
            room = kept.has_room,
            ready = log.segments_ready,
            p50 = log.write_us_p50,
            p99 = log.write_us_p99,
            peers = peers.join(","),
            b_in = net.map_or(0, |s| s.bytes_in),
            b_out = net.map_or(0, |s| s.bytes_out),
            discards = discards.join(","),
            digest = digest,
            rounds = rounds,
            checkpoints =
                checkpoints_json(&shared.checkpoints.lock(), shared.checkpointing.load(Ordering::Relaxed)),
            transfer = transfer_json(&shared.transfer.lock()),
            first = log.first,
            files = kept.files_bytes + decisions.as_ref().map_or(0, |(log, _)| log.files_bytes),
            recycled = log.recycled,
            stages = shared.metrics.json(),
            durability = self.durability,
            forgetful = shared.forgetful.load(Ordering::Relaxed),
            error = optional(last_error.as_deref()),
            cpu = usage.cpu_ms,
            rss = usage.rss_bytes,
            transport = self.transport,
            model = self.members.model(),
            n = self.members.n(),
            f = self.members.f(),
            free = crate::sys::free_bytes(&self.dir),
        )
    }
}
