//! Time series as SVG: panels over one time axis, each with lines and with bands behind them. Text stays text.

use std::fmt::Write;

/// A page of panels, one below the other.
pub struct Page {
    /// Above all.
    pub title: String,
    /// Below the title, smaller: what it was taken on, what to compare with.
    pub notes: Vec<String>,
    /// Label of the time axis.
    pub x_label: String,
    /// The time axis: from 0 to here.
    pub x_max: f64,
    /// What the colours of bands stand for.
    pub bands: Vec<String>,
    /// From above.
    pub panels: Vec<Panel>,
}

/// One coordinate system.
#[derive(Default)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Label of its axis.
    pub y_label: String,
    /// Its axis goes up to here at least: panels to be compared share it.
    pub y_max: f64,
    /// Lines.
    pub series: Vec<Series>,
    /// Spans of time.
    pub bands: Vec<Band>,
}

/// A line.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Time and value.
    pub points: Vec<(f64, f64)>,
}

/// A span of time.
pub struct Band {
    /// Which of [`Page::bands`] it is.
    pub kind: usize,
    /// Begin.
    pub from: f64,
    /// End.
    pub to: f64,
}

/// Of every document.
pub(super) const WIDTH: f64 = 960.0;
/// Where plots begin.
pub(super) const LEFT: f64 = 72.0;
/// Beside plots.
pub(super) const RIGHT: f64 = 16.0;
const PLOT_HEIGHT: f64 = 110.0;
/// Between two plots: a title and the ticks.
const GAP: f64 = 44.0;
const BOTTOM: f64 = 48.0;
const LINES: [&str; 4] = ["#1f5fa8", "#c0504d", "#4f8a3c", "#7b5ea7"];
const BANDS: [&str; 4] = ["#e0a030", "#50a0a0", "#b070b0", "#80a040"];
/// Each kind of band has a strip of this height at the top, so that bands at the same time stay apart.
const STRIP: f64 = 4.0;

impl Page {
    /// The document.
    pub fn svg(&self) -> String {
        let top = 40.0 + 16.0 * self.notes.len() as f64 + if self.bands.is_empty() { 0.0 } else { 20.0 };
        let height = top + self.panels.len() as f64 * (PLOT_HEIGHT + GAP) + BOTTOM;
        let mut out = begin(height, &self.title, &self.notes);
        let mut x = LEFT;
        for (kind, name) in self.bands.iter().enumerate() {
            let y = top - 12.0;
            let colour = BANDS[kind % BANDS.len()];
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"14\" height=\"10\" fill=\"{colour}\"/>",
                y - 9.0
            );
            text(&mut out, (x + 18.0, y), "", name);
            x += 30.0 + 7.0 * name.chars().count() as f64;
        }
        for (i, panel) in self.panels.iter().enumerate() {
            self.panel(&mut out, panel, top + GAP / 2.0 + i as f64 * (PLOT_HEIGHT + GAP));
        }
        let middle = ((LEFT + WIDTH - RIGHT) / 2.0, height - 12.0);
        text(&mut out, middle, "text-anchor=\"middle\"", &self.x_label);
        out.push_str("</svg>\n");
        out
    }

    fn panel(&self, out: &mut String, panel: &Panel, top: f64) {
        let values = panel.series.iter().flat_map(|series| &series.points).map(|(_, y)| *y);
        let largest = values.fold(panel.y_max, f64::max).max(f64::MIN_POSITIVE);
        let (y_step, x_step) = (tick(largest, 4.0), tick(self.x_max, 10.0));
        let y_max = (largest / y_step).ceil() * y_step;
        let x_max = self.x_max.max(f64::MIN_POSITIVE);
        let (width, bottom) = (WIDTH - LEFT - RIGHT, top + PLOT_HEIGHT);
        let at_x = |x: f64| LEFT + x.clamp(0.0, x_max) / x_max * width;
        let at_y = |y: f64| bottom - y.max(0.0) / y_max * PLOT_HEIGHT;
        for Band { kind, from, to } in &panel.bands {
            let (x, colour) = (at_x(*from), BANDS[kind % BANDS.len()]);
            // A short one shall be seen, too.
            let span = (at_x(*to) - x).max(1.0);
            let strip = top + STRIP * (kind % BANDS.len()) as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{span:.1}\" height=\"{PLOT_HEIGHT}\" fill=\"{colour}\" opacity=\"0.15\"/>\n\
                 <rect x=\"{x:.1}\" y=\"{strip:.1}\" width=\"{span:.1}\" height=\"{STRIP}\" fill=\"{colour}\"/>"
            );
        }
        for n in 0..=(y_max / y_step).round() as u32 {
            let value = f64::from(n) * y_step;
            grid(out, at_y(value), &number(value, y_step));
        }
        for n in 0..=(x_max / x_step + 1e-9) as u32 {
            let value = f64::from(n) * x_step;
            text(out, (at_x(value), bottom + 14.0), "text-anchor=\"middle\"", &number(value, x_step));
        }
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {top:.1}V{bottom:.1}H{:.1}\" fill=\"none\" stroke=\"#222\"/>",
            WIDTH - RIGHT
        );
        let mut legend = WIDTH - RIGHT;
        for (i, Series { name, points }) in panel.series.iter().enumerate().rev() {
            let colour = LINES[i % LINES.len()];
            let mut line = String::new();
            for (x, y) in points {
                let _ = write!(line, "{:.1},{:.1} ", at_x(*x), at_y(*y));
            }
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>",
                line.trim_end()
            );
            text(out, (legend, top - 6.0), &format!("text-anchor=\"end\" fill=\"{colour}\""), name);
            legend -= 14.0 + 7.0 * name.chars().count() as f64;
        }
        text(out, (LEFT, top - 6.0), "font-weight=\"bold\"", &panel.title);
        let (x, y) = (16.0, top + PLOT_HEIGHT / 2.0);
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 {x} {y:.1})\"");
        text(out, (x, y), &turned, &panel.y_label);
    }
}

/// A document with its title and the notes below.
pub(super) fn begin(height: f64, title: &str, notes: &[String]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    text(&mut out, (LEFT, 24.0), "font-size=\"16\" font-weight=\"bold\"", title);
    for (i, note) in notes.iter().enumerate() {
        text(&mut out, (LEFT, 44.0 + 16.0 * i as f64), "fill=\"#666\"", note);
    }
    out
}

/// A line across the plot at height `y`, with what it stands for.
pub(super) fn grid(out: &mut String, y: f64, label: &str) {
    let right = WIDTH - RIGHT;
    let _ =
        writeln!(out, "<line x1=\"{LEFT}\" x2=\"{right:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>");
    text(out, (LEFT - 6.0, y + 4.0), "text-anchor=\"end\"", label);
}

pub(super) fn text(out: &mut String, (x, y): (f64, f64), attributes: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let space = if attributes.is_empty() { "" } else { " " };
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\"{space}{attributes}>{text}</text>");
}

/// A round distance of about `count` ticks up to `max`: 1, 2 or 5 times a power of ten.
pub(super) fn tick(max: f64, count: f64) -> f64 {
    let rough = (max / count).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

pub(super) fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.digits$}")
}
