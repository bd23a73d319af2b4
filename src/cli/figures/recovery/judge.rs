//! What the tables say, and nothing else: verdicts and pictures.

use serde_json::{Value, json};

use super::super::Verdict;
use super::super::csv::Row;
use super::super::svg::{Band, Page, Panel, Series};
use super::{BIN, KEY, Tables, VALUE_BYTES};

/// Spans of a run, in the order of their colours.
const SPANS: [&str; 3] = ["down", "transfer", "recovery"];
/// The paper's throughput during a recovery, of normal: its best.
const OURS_AT_LEAST: f64 = 0.8;

/// The runs to be compared: the same group and state, the same sources.
pub(super) struct Group {
    replicas: u64,
    state_mb: u64,
    from: String,
    pub(super) runs: Vec<Measured>,
}

/// A run as the tables tell it.
pub(super) struct Measured {
    strategy: String,
    floor_mib: u64,
    round: u64,
    transfer_ms: f64,
    transfer_bytes: f64,
    sources: String,
    lowered: f64,
    recovered: bool,
    /// Seconds, operations per second, and milliseconds: median and slowest.
    bins: Vec<[f64; 4]>,
    /// What, seconds from and to.
    bands: Vec<(usize, f64, f64)>,
    /// Seconds, and bytes received by then.
    looks: Vec<(f64, f64)>,
}

pub(super) fn groups(tables: &Tables) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    for row in tables.runs.rows() {
        let key = KEY.map(|column| row.text(column));
        let same = |other: &Row| KEY.map(|column| other.text(column)) == key;
        let bins = tables.bins.rows().filter(&same).map(|bin| {
            let per_s = bin.number("operations")? / BIN.as_secs_f64();
            Ok([bin.number("at_ms")? / 1e3, per_s, bin.number("p50_us")? / 1e3, bin.number("max_us")? / 1e3])
        });
        let bands = tables.bands.rows().filter(&same).map(|band| {
            let what = band.text("what")?;
            let kind =
                SPANS.iter().position(|name| *name == what).ok_or(format!("`{what}`: no such span"))?;
            Ok((kind, band.number("from_ms")? / 1e3, band.number("to_ms")? / 1e3))
        });
        let looks = tables.looks.rows().filter(&same);
        let looks = looks.map(|look| Ok((look.number("at_ms")? / 1e3, look.number("received_bytes")? / 1e6)));
        let run = Measured {
            strategy: row.text("strategy")?.to_owned(),
            floor_mib: row.number("floor_mib")? as u64,
            round: row.number("round")? as u64,
            transfer_ms: row.number("transfer_ms")?,
            transfer_bytes: row.number("transfer_bytes")?,
            sources: row.text("sources")?.to_owned(),
            lowered: row.number("lowered")?,
            recovered: row.number("recovered")? > 0.0,
            bins: bins.collect::<Result<_, String>>()?,
            bands: bands.collect::<Result<_, String>>()?,
            looks: looks.collect::<Result<_, String>>()?,
        };
        let (replicas, state_mb) = (row.number("replicas")? as u64, row.number("state_mb")? as u64);
        let from = row.text("from")?;
        let at =
            groups.iter().position(|g| g.replicas == replicas && g.state_mb == state_mb && g.from == from);
        let at = at.unwrap_or_else(|| {
            groups.push(Group { replicas, state_mb, from: from.into(), runs: Vec::new() });
            groups.len() - 1
        });
        groups[at].runs.push(run);
    }
    Ok(groups)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some((values[half - 1] + values[half]) / 2.0),
        _ => Some(values[half]),
    }
}

impl Measured {
    fn span(&self, what: &str) -> Option<(f64, f64)> {
        self.bands.iter().find(|(kind, _, _)| SPANS[*kind] == what).map(|(_, from, to)| (*from, *to))
    }

    /// Mean operations per second of the bins that lie in the span wholly.
    fn mean(&self, from: f64, to: f64) -> Option<f64> {
        let width = BIN.as_secs_f64();
        let inside = |bin: &&[f64; 4]| bin[0] >= from - 1e-9 && bin[0] + width <= to + 1e-9;
        let bins: Vec<f64> = self.bins.iter().filter(inside).map(|bin| bin[1]).collect();
        (!bins.is_empty()).then(|| bins.iter().sum::<f64>() / bins.len() as f64)
    }

    /// With all replicas, before anything happens.
    fn all(&self) -> Option<f64> {
        self.mean(0.0, self.span("down")?.0)
    }

    /// On the replicas that are left. The first second belongs to the kill.
    fn normal(&self) -> Option<f64> {
        let (from, to) = self.span("down")?;
        self.mean(from + 1.0f64.min((to - from) / 2.0), to)
    }

    fn during(&self) -> Option<f64> {
        let (from, to) = self.span("recovery")?;
        // A recovery shorter than a bin is judged by the bin that it lies in.
        self.mean(from, to).or_else(|| self.mean(from - BIN.as_secs_f64(), to + BIN.as_secs_f64()))
    }

    fn after(&self) -> Option<f64> {
        self.mean(self.span("recovery")?.1, f64::INFINITY)
    }

    fn ratio(&self) -> Option<f64> {
        Some(self.during()? / self.normal().filter(|normal| *normal > 0.0)?)
    }

    fn seconds(&self) -> Option<f64> {
        self.span("recovery").filter(|_| self.recovered).map(|(from, to)| to - from)
    }

    fn title(&self) -> String {
        let floor = match self.floor_mib {
            0 => "does not yield".into(),
            floor => format!("yields down to {floor} MiB/s"),
        };
        format!("{}, {floor}, round {}", self.strategy, self.round)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "strategy": self.strategy,
            "floor_mib": self.floor_mib,
            "round": self.round,
            "all_ops_per_s": self.all(),
            "normal_ops_per_s": self.normal(),
            "during_ops_per_s": self.during(),
            "after_ops_per_s": self.after(),
            "during_over_normal": self.ratio(),
            "recovery_s": self.seconds(),
            "transfer_s": self.transfer_ms / 1e3,
            "transfer_bytes": self.transfer_bytes,
            "sources": self.sources,
            "times_lowered": self.lowered,
        })
    }
}

impl Group {
    /// In names of files.
    pub(super) fn file_name(&self) -> String {
        format!("{}-{}mb-{}", self.replicas, self.state_mb, self.from)
    }

    /// What the paper says of a strategy here.
    fn paper(&self, strategy: &str) -> &'static str {
        match (self.replicas, self.state_mb, strategy) {
            (4, 1000, "single") => "741 ops/s, 24 % of normal, for 30 s (PBFT-like)",
            (4, 500, "single") => "984 ops/s, 32 % of normal, for 16 s (PBFT-like)",
            (4, 1000, _) => "1809 ops/s, 60 % of normal, for 42 s (CST, f = 1)",
            (4, 500, _) => "1426 ops/s, 47 % of normal, for 20 s (CST, f = 1)",
            (7, _, _) if self.from == "leader" => "65 % less, 1 GB from the leader",
            (7, _, _) => "no visible loss with one replica faulty of f = 2",
            _ => "24 % (PBFT-like) and 60 % (CST) of normal at 1 GB",
        }
    }

    /// Each strategy and floor, in their order.
    fn ways(&self) -> Vec<(String, u64)> {
        let mut ways = Vec::new();
        for run in &self.runs {
            let way = (run.strategy.clone(), run.floor_mib);
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    fn of<T>(&self, (strategy, floor): &(String, u64), value: impl Fn(&Measured) -> Option<T>) -> Vec<T> {
        let same = |run: &&Measured| run.strategy == *strategy && run.floor_mib == *floor;
        self.runs.iter().filter(same).filter_map(value).collect()
    }
}

/// What the group shows; nothing about runs that are not there.
pub(super) fn verdicts(group: &Group) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let about = format!("{} replicas, {} MB, {}", group.replicas, group.state_mb, group.from);
    for way in group.ways() {
        let of = format!("{about}: {}, floor {} MiB/s", way.0, way.1);
        let of_way = |value: fn(&Measured) -> Option<f64>| median(group.of(&way, value));
        let recovered = group.of(&way, |run| Some(run.recovered));
        let all = recovered.iter().all(|recovered| *recovered);
        let number = |value: Option<f64>| value.map_or("none".into(), |value| format!("{value:.0}"));
        let ratio = of_way(Measured::ratio);
        verdicts.push(Verdict {
            of: of.clone(),
            claim: "throughput during the recovery is at least 80 % of normal",
            paper: group.paper(&way.0),
            ours: format!(
                "{} ops/s of {} (all replicas: {} before, {} after), {:.0} %, for {:.1} s",
                number(of_way(Measured::during)),
                number(of_way(Measured::normal)),
                number(of_way(Measured::all)),
                number(of_way(Measured::after)),
                100.0 * ratio.unwrap_or(0.0),
                of_way(Measured::seconds).unwrap_or(f64::NAN),
            ),
            holds: all && ratio.is_some_and(|ratio| ratio >= OURS_AT_LEAST),
        });
        if way.0 == "single" {
            continue;
        }
        let single = ("single".to_owned(), way.1);
        let transfer = |run: &Measured| run.recovered.then_some(run.transfer_ms / 1e3);
        let (ours, other) = (median(group.of(&way, transfer)), median(group.of(&single, transfer)));
        if let (Some(ours), Some(other)) = (ours, other) {
            verdicts.push(Verdict {
                of,
                claim: "the transfer is not slower than from one replica",
                paper: "28 % (1 GB) and 20 % (500 MB) slower (CST)",
                ours: format!("{ours:.2} s, single {other:.2} s: {:.2} times", ours / other.max(1e-9)),
                holds: ours <= other,
            });
        }
    }
    verdicts
}

/// Throughput with bands, and what was received, for each run.
pub(super) fn page(group: &Group) -> Page {
    let bins = || group.runs.iter().flat_map(|run| &run.bins);
    let x_max = bins().map(|bin| bin[0] + BIN.as_secs_f64()).fold(0.0, f64::max);
    let most = bins().map(|bin| bin[1]).fold(0.0, f64::max);
    let panels = group.runs.iter().flat_map(|run| {
        let bands = run.bands.iter().map(|(kind, from, to)| Band { kind: *kind, from: *from, to: *to });
        let points = run.bins.iter().map(|bin| (bin[0], bin[1]));
        let normal = run.normal().zip(run.span("down")).zip(run.span("recovery"));
        let normal = normal.map(|((normal, down), recovery)| Series {
            name: "normal".into(),
            points: vec![(down.0, normal), (recovery.1, normal)],
        });
        let throughput = Panel {
            title: run.title(),
            y_label: "operations/s".into(),
            y_max: most,
            series: [Series { name: "throughput".into(), points: points.collect() }]
                .into_iter()
                .chain(normal)
                .collect(),
            bands: bands.collect(),
        };
        let received = Panel {
            y_label: "MB received".into(),
            y_max: group.state_mb as f64,
            series: vec![Series { name: "received".into(), points: run.looks.clone() }],
            ..Panel::default()
        };
        [throughput, received]
    });
    Page {
        title: format!("Recovery of a {} MB state, {} replicas", group.state_mb, group.replicas),
        notes: vec![
            format!(
                "Byzantine, TLS, writes of {VALUE_BYTES} B, bins of 100 ms; sources: {}",
                if group.from == "leader" { "the leader as any other" } else { "the leader last and least" }
            ),
            format!("The durability paper, from one replica: {}", group.paper("single")),
            format!("The durability paper, from all: {}", group.paper("pull")),
        ],
        x_label: "seconds".into(),
        x_max,
        bands: ["a replica is down", "state transfer", "until it votes again"].map(String::from).into(),
        panels: panels.collect(),
    }
}
