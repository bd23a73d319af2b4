//! What the tables say, and nothing else: verdicts and pictures.

use serde_json::{Value, json};

use super::super::Verdict;
use super::super::csv::Row;
use super::super::svg::{Band, Page, Panel, Series};
use super::{BIN, REPLICAS, Tables, VALUE_BYTES, WAYS, Way, name_of};

/// The runs to be compared.
pub(super) struct Group {
    pub(super) state_mb: u64,
    pub(super) load: String,
    pub(super) runs: Vec<Measured>,
}

/// A run as the tables tell it.
pub(super) struct Measured {
    way: String,
    ops_per_s: f64,
    p999_us: f64,
    /// Seconds, operations per second, and milliseconds: median and longest.
    bins: Vec<[f64; 4]>,
    /// Replica, seconds from and to.
    bands: Vec<(usize, f64, f64)>,
}

pub(super) fn groups(tables: &Tables) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    for row in tables.runs.rows() {
        let (state_mb, load) = (row.number("state_mb")? as u64, row.text("load")?.to_owned());
        let key = ["state_mb", "load", "way"].map(|column| row.text(column));
        let same = |other: &Row| ["state_mb", "load", "way"].map(|column| other.text(column)) == key;
        let bins = tables.bins.rows().filter(&same).map(|bin| {
            let per_s = bin.number("operations")? / BIN.as_secs_f64();
            Ok([bin.number("at_ms")? / 1e3, per_s, bin.number("p50_us")? / 1e3, bin.number("max_us")? / 1e3])
        });
        let bands = tables.bands.rows().filter(&same).map(|band| {
            Ok((band.number("replica")? as usize, band.number("from_ms")? / 1e3, band.number("to_ms")? / 1e3))
        });
        let run = Measured {
            way: row.text("way")?.to_owned(),
            ops_per_s: row.number("ops_per_s")?,
            p999_us: row.number("p999_us")?,
            bins: bins.collect::<Result<_, String>>()?,
            bands: bands.collect::<Result<_, String>>()?,
        };
        match groups.iter_mut().find(|group| group.state_mb == state_mb && group.load == load) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group { state_mb, load, runs: vec![run] }),
        }
    }
    Ok(groups)
}

/// Below this share of the usual throughput it is an outage.
const OUTAGE: f64 = 0.1;

impl Measured {
    /// Operations per second of the worst second; of all, if it took less.
    fn lowest_second(&self) -> f64 {
        let width = self.bins.len().clamp(1, 10);
        let windows =
            self.bins.windows(width).map(|bins| bins.iter().map(|bin| bin[1]).sum::<f64>() / width as f64);
        windows.reduce(f64::min).unwrap_or(0.0)
    }

    /// Seconds of the longest time in which less than a tenth of `usual` was answered.
    fn longest_outage(&self, usual: f64) -> f64 {
        let runs = self.bins.split(|bin| bin[1] >= OUTAGE * usual).map(<[_]>::len);
        runs.max().unwrap_or(0) as f64 * BIN.as_secs_f64()
    }

    fn median(&self) -> f64 {
        let mut values: Vec<f64> = self.bins.iter().map(|bin| bin[1]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    }

    /// Milliseconds that the slowest request took.
    fn longest_ms(&self) -> f64 {
        self.bins.iter().map(|bin| bin[3]).fold(0.0, f64::max)
    }

    /// The most replicas that wrote at a time.
    fn writers_max(&self) -> usize {
        let writers = |at: f64| self.bands.iter().filter(|(_, from, to)| (*from..*to).contains(&at)).count();
        self.bands.iter().map(|(_, from, _)| writers(*from)).max().unwrap_or(0)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "way": self.way,
            "ops_per_s": self.ops_per_s,
            "lowest_second_ops_per_s": self.lowest_second(),
            "median_ops_per_s": self.median(),
            "p999_us": self.p999_us,
            "longest_ms": self.longest_ms(),
            "checkpoints": self.bands.len(),
            "writers_max": self.writers_max(),
        })
    }
}

/// What the group shows; nothing about runs that are not there.
pub(super) fn verdicts(group: &Group) -> Vec<Verdict> {
    let run = |way: Way| group.runs.iter().find(|run| run.way == name_of(way));
    let [none, sync_stop, _, seq_stop, seq_copy] = WAYS.map(run);
    let Some(none) = none else { return Vec::new() };
    let of = format!("{} MB, {} load", group.state_mb, group.load);
    let mut verdicts = Vec::new();
    let mut say = |claim, paper, ours, holds| {
        verdicts.push(Verdict { of: of.clone(), claim, paper, ours, holds });
    };
    let usual = none.median();
    if let Some(run) = sync_stop {
        let outage = run.longest_outage(usual);
        say(
            "synchronized stop-the-world checkpoints stop the service (Figure 2)",
            "seconds without an answer at 1 GB",
            format!("{outage:.1} s without an answer, {} replicas write at a time", run.writers_max()),
            outage >= 2.0 * BIN.as_secs_f64(),
        );
    }
    if let (Some(run), Some(together)) = (seq_stop, sync_stop) {
        let (outage, other) = (run.longest_outage(usual), together.longest_outage(usual));
        let lowest = run.lowest_second() / none.lowest_second().max(1.0);
        say(
            "sequential checkpoints end the outage, even if each replica stops for its own (Figure 10)",
            "no outage; small dips at high load",
            format!(
                "{outage:.1} s instead of {other:.1} s; worst second {lowest:.3} of that without checkpoints"
            ),
            outage < 2.0 * BIN.as_secs_f64() && outage <= other,
        );
    }
    if let Some(run) = seq_copy {
        let lowest = run.lowest_second() / none.lowest_second().max(1.0);
        let longer = run.longest_ms() - none.longest_ms();
        let p999 = run.p999_us / none.p999_us.max(1.0);
        let paper = "dips while a replica catches up";
        let checkpoints = run.bands.len();
        say(
            "sequential copy-on-write: the worst second is at least 0.9 of that without checkpoints",
            paper,
            format!("{lowest:.3}, with {checkpoints} checkpoints written"),
            lowest >= 0.9 && checkpoints > 0,
        );
        say(
            "its slowest request takes at most 100 ms longer",
            paper,
            format!("{longer:+.0} ms"),
            longer <= 100.0,
        );
        say("its p99.9 is at most twice as long", paper, format!("{p999:.2} times"), p999 <= 2.0);
        say(
            "one replica writes at a time",
            "the period is chosen so",
            format!("{} at a time at most", run.writers_max()),
            run.writers_max() <= 1,
        );
    }
    verdicts
}

/// Throughput with bands, and latency below, for each way.
pub(super) fn page(group: &Group) -> Page {
    let x_max =
        group.runs.iter().flat_map(|run| &run.bins).map(|bin| bin[0] + BIN.as_secs_f64()).fold(0.0, f64::max);
    let most = |of: usize| group.runs.iter().flat_map(|run| &run.bins).map(|bin| bin[of]).fold(0.0, f64::max);
    let (throughput_max, latency_max) = (most(1), most(3));
    let line = |run: &Measured, of: usize, name: &str| Series {
        name: name.into(),
        points: run.bins.iter().map(|bin| (bin[0], bin[of])).collect(),
    };
    let panels = group.runs.iter().flat_map(|run| {
        let bands = run.bands.iter().map(|(kind, from, to)| Band { kind: *kind, from: *from, to: *to });
        let throughput = Panel {
            title: run.way.clone(),
            y_label: "operations/s".into(),
            y_max: throughput_max,
            series: vec![line(run, 1, "throughput")],
            bands: bands.collect(),
        };
        let latency = Panel {
            y_label: "latency, ms".into(),
            y_max: latency_max,
            series: vec![line(run, 2, "median"), line(run, 3, "slowest")],
            ..Panel::default()
        };
        [throughput, latency]
    });
    Page {
        title: format!("Checkpoints of {} MB under {} load", group.state_mb, group.load),
        notes: vec![
            format!("4 replicas (Byzantine, f = 1), writes of {VALUE_BYTES} B, bins of 100 ms; bands: a replica writes a checkpoint"),
            "The durability paper, 1 GB: synchronized, the service halts for seconds (Figure 2); sequential, no outage (Figure 10)".into(),
        ],
        x_label: "seconds".into(),
        x_max,
        bands: (0..REPLICAS).map(|id| format!("replica {id} writes")).collect(),
        panels: panels.collect(),
    }
}
