//! Bars in groups as SVG, each with a mark to compare it with. Text stays text.

use std::fmt::Write;

use super::svg::{LEFT, RIGHT, WIDTH, begin, grid, number, text, tick};

/// A page with one chart.
pub struct Chart {
    /// Above all.
    pub title: String,
    /// Below the title, smaller.
    pub notes: Vec<String>,
    /// Label of the axis.
    pub y_label: String,
    /// What the marks are.
    pub mark: String,
    /// The bars' names: each has a colour.
    pub names: Vec<String>,
    /// From the left.
    pub groups: Vec<Bars>,
}

/// What stands together.
pub struct Bars {
    /// Below it.
    pub name: String,
    /// The bars: index of the name, value, mark.
    pub bars: Vec<(usize, f64, f64)>,
}

const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = 36.0;
const COLOURS: [&str; 6] = ["#1f5fa8", "#4f8a3c", "#c0504d", "#7b5ea7", "#b07d2b", "#4aa0a0"];

impl Chart {
    /// The document.
    pub fn svg(&self) -> String {
        let top = 66.0 + 16.0 * self.notes.len() as f64;
        let bottom = top + HEIGHT;
        let height = bottom + BOTTOM;
        let mut out = begin(height, &self.title, &self.notes);
        self.legend(&mut out, top - 18.0);
        let values = self.groups.iter().flat_map(|group| &group.bars).flat_map(|bar| [bar.1, bar.2]);
        let largest = values.fold(f64::MIN_POSITIVE, f64::max);
        let step = tick(largest, 5.0);
        let y_max = (largest / step).ceil() * step;
        let at_y = |y: f64| bottom - y.max(0.0) / y_max * HEIGHT;
        for n in 0..=(y_max / step).round() as u32 {
            let value = f64::from(n) * step;
            grid(&mut out, at_y(value), &number(value, step));
        }
        let slot = (WIDTH - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        for (i, group) in self.groups.iter().enumerate() {
            let left = LEFT + slot * (i as f64 + 0.1);
            let wide = slot * 0.8 / group.bars.len().max(1) as f64;
            for (n, (name, value, mark)) in group.bars.iter().enumerate() {
                let (x, y, width) = (left + wide * n as f64, at_y(*value), wide * 0.85);
                let (colour, high) = (COLOURS[name % COLOURS.len()], bottom - y);
                let (mark, right) = (at_y(*mark), x + width);
                let _ = writeln!(
                    out,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{high:.1}\" fill=\"{colour}\"/>\n\
                     <line x1=\"{x:.1}\" x2=\"{right:.1}\" y1=\"{mark:.1}\" y2=\"{mark:.1}\" stroke=\"#000\" stroke-width=\"2\"/>"
                );
                let middle = (x + width / 2.0, y - 4.0);
                text(&mut out, middle, "text-anchor=\"middle\" font-size=\"10\"", &format!("{value:.1}"));
            }
            let middle = (LEFT + slot * (i as f64 + 0.5), bottom + 18.0);
            text(&mut out, middle, "text-anchor=\"middle\"", &group.name);
        }
        let y = top + HEIGHT / 2.0;
        let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 16 {y:.1})\"");
        text(&mut out, (16.0, y), &turned, &self.y_label);
        out.push_str("</svg>\n");
        out
    }

    fn legend(&self, out: &mut String, y: f64) {
        let mut x = LEFT;
        for (i, name) in self.names.iter().enumerate() {
            let (colour, above) = (COLOURS[i % COLOURS.len()], y - 9.0);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{above:.1}\" width=\"14\" height=\"10\" fill=\"{colour}\"/>"
            );
            text(out, (x + 18.0, y), "", name);
            x += 34.0 + 7.0 * name.chars().count() as f64;
        }
        let (right, line) = (x + 14.0, y - 4.0);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" x2=\"{right:.1}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"#000\" stroke-width=\"2\"/>"
        );
        text(out, (x + 18.0, y), "", &self.mark);
    }
}
