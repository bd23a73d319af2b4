//! Table 1 of the geographic paper: mean bandwidths between sites, two groups of four.

use std::time::Duration;

use super::trace::{Trace, Variation};

/// Four sites and the links between them.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// `A` or `B`.
    pub name: &'static str,
    /// The sites, in the table's order.
    pub sites: [&'static str; 4],
    /// Mbit/s, by sender, then receiver; 0 from a site to itself.
    pub mbit: [[f64; 4]; 4],
    /// Round-trip time of every pair. Not in the table: typical for such distances.
    pub rtt: Duration,
    /// Relative standard deviation of a link's bandwidth, and how often it changes: after the paper's Figure 1.
    pub varies: (f64, Duration),
}

/// Far apart: large differences between links, little variation.
pub const GROUP_A: Group = Group {
    name: "A",
    sites: ["Sydney", "SaoPaulo", "NVirginia", "Ireland"],
    mbit: [
        [0.0, 33.7, 57.0, 42.9],
        [33.3, 0.0, 102.2, 64.5],
        [56.6, 103.0, 0.0, 174.3],
        [42.9, 64.4, 173.3, 0.0],
    ],
    rtt: Duration::from_millis(150),
    varies: (0.1, Duration::from_secs(5)),
};

/// In one continent: similar means, very large variation.
pub const GROUP_B: Group = Group {
    name: "B",
    sites: ["Ireland", "London", "Paris", "Frankfurt"],
    mbit: [
        [0.0, 857.8, 578.1, 420.8],
        [866.8, 0.0, 1219.6, 667.2],
        [594.4, 1234.4, 0.0, 1115.5],
        [420.0, 662.4, 1113.6, 0.0],
    ],
    rtt: Duration::from_millis(20),
    varies: (0.5, Duration::from_secs(2)),
};

impl Group {
    /// `A` or `B`.
    pub fn named(name: &str) -> Option<&'static Group> {
        [&GROUP_A, &GROUP_B].into_iter().find(|group| group.name.eq_ignore_ascii_case(name))
    }

    /// A site's place in the table.
    pub fn site(&self, name: &str) -> Option<usize> {
        self.sites.iter().position(|site| site.eq_ignore_ascii_case(name))
    }

    /// The link from one site to another at its mean; with a seed it varies, each link in its own way.
    pub fn trace(&self, from: usize, to: usize, seed: Option<u64>) -> Trace {
        let trace = Trace::constant(self.mbit[from][to]);
        let (sigma, every) = self.varies;
        let of_link = |seed: u64| seed.wrapping_mul(16).wrapping_add((4 * from + to) as u64);
        match seed {
            None => trace,
            Some(seed) => trace.varying(Variation { sigma, every, seed: of_link(seed) }),
        }
    }

    /// Mbit/s that a site receives from all others together.
    pub fn inbound_mbit(&self, to: usize) -> f64 {
        self.mbit.iter().map(|row| row[to]).sum()
    }
}
