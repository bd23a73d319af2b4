//! What the models share: values, certificates, names.

use std::fmt;

/// A set of values; most often of one. Bits: x, y, no-op.
pub type Values = u8;

/// No value.
pub const NONE: Values = 0;
/// What clients ask for.
pub const X: Values = 1;
/// What else they ask for.
pub const Y: Values = 2;
/// What fills a place that nobody reports.
pub const NOOP: Values = 4;
/// Every value.
pub const ALL: [Values; 3] = [X, Y, NOOP];

/// Whether there are two or more in it.
pub fn differ(values: Values) -> bool {
    values.count_ones() > 1
}

/// That a value was prepared in a view; view 0: that nothing was. The highest view is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Cert {
    pub view: u8,
    pub value: Values,
}

/// A value, by name.
pub struct Name(pub Values);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.0 {
            NONE => "nothing",
            X => "x",
            Y => "y",
            NOOP => "no-op",
            _ => "?",
        })
    }
}

impl fmt::Display for Cert {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.view {
            0 => f.write_str("nothing"),
            view => write!(f, "({view}, {})", Name(self.value)),
        }
    }
}

/// All that is decided, in `S` places and `V` views.
pub fn verdict<const S: usize, const V: usize>(decided: impl Fn(usize, usize) -> Values) -> String {
    let mut all = Vec::new();
    for (place, view) in (0..S).flat_map(|place| (0..V).map(move |view| (place, view))) {
        for value in ALL.into_iter().filter(|v| decided(view, place) & v != 0) {
            all.push(format!("place {} is decided as {} in view {}", place + 1, Name(value), view + 1));
        }
    }
    all.join("; ")
}

/// A replica, by name.
pub fn letter(replica: usize) -> char {
    char::from(b'A' + replica as u8)
}

/// The subsets of `from` (as bits) with at least `least` members.
pub fn subsets(from: u8, least: u32) -> impl Iterator<Item = u8> {
    (1..=from).filter(move |s| s & !from == 0 && s.count_ones() >= least)
}

/// The members of a set of bits.
pub fn members(set: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |i| set & 1 << i != 0)
}
