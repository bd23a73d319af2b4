use std::time::Duration;

use super::table1::{GROUP_A, GROUP_B, Group};
use super::trace::{State, Trace, Variation};

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn trace(text: &str) -> Trace {
    text.parse().unwrap()
}

#[test]
fn the_text_form_says_what_the_methods_say_and_is_written_back() {
    let variation = Variation { sigma: 0.25, every: s(2.5), seed: 99 };
    let made = Trace::constant(57.5)
        .varying(variation)
        .step(s(10.0), 20.0)
        .step(s(30.5), 57.0)
        .stall(s(5.0), s(8.25))
        .death(s(60.0));
    let text = "57.5~0.25/2.5#99@10=20@30.5=57@5..8.25=stall@60=dead";
    assert_eq!(trace(text), made);
    assert_eq!(made.to_string(), text);
    assert_eq!(trace("33.7").to_string(), "33.7");
}

#[test]
fn what_is_no_trace_is_refused() {
    for text in [
        "",
        "x",
        "0",
        "-1",
        "NaN",
        "inf",
        "1e9",
        "10~0.1",
        "10~0.1/5",
        "10~0.1/0#1",
        "10~-1/5#1",
        "10@5",
        "10@5=",
        "10@x=5",
        "10@5=0",
        "10@8..5=stall",
        "10@5..8=dead",
        "10@5=stall",
        "10@5..8=3",
        "10@5=dead@6=dead",
        "10@5=1@5=2",
        "10@0=2",
        "10 20",
        "10@-1=3",
    ] {
        assert!(text.parse::<Trace>().is_err(), "{text:?} was taken");
    }
}

#[test]
fn bytes_are_the_integral_over_steps_stalls_and_death() {
    let trace = trace("8@2=16@3..4=stall@6=dead");
    // 1 MB/s for 2 s, 2 MB/s for 1 s, nothing, 2 MB/s for 2 s.
    assert_eq!(trace.bytes_between(s(0.0), s(100.0)), 8e6);
    assert_eq!(trace.bytes_between(s(1.5), s(2.5)), 1.5e6);
    assert_eq!(trace.bytes_between(s(3.0), s(4.0)), 0.0);
    assert_eq!(trace.state(s(3.5)), State::Stalls);
    assert_eq!(trace.state(s(6.0)), State::Dead);
    assert_eq!(trace.state(s(5.9)), State::Flows(2e6));
    assert_eq!(trace.carried(s(0.0), 3e6), Some(s(2.5)));
    assert_eq!(trace.carried(s(0.0), 5e6), Some(s(4.5)));
    assert_eq!(trace.carried(s(0.0), 8e6), Some(s(6.0)));
    assert_eq!(trace.carried(s(0.0), 8e6 + 1.0), None);
}

#[test]
fn after_death_nothing_changes_and_nothing_is_carried() {
    let trace = trace("8~0.1/0.5#1@2=dead@3=16");
    assert_eq!(trace.next_change(s(1.9)), Some(s(2.0)));
    assert_eq!((trace.next_change(s(2.0)), trace.next_change(s(2.7))), (None, None));
    assert_eq!((trace.carried(s(0.0), 1e9), trace.carried(s(2.5), 1.0)), (None, None));
}

#[test]
fn carrying_is_the_inverse_of_bytes() {
    let trace = trace("57~0.5/0.2#7@1=20@1.3..1.7=stall");
    for bytes in [1.0, 1e3, 1e6, 5e6, 2e7] {
        let end = trace.carried(s(0.15), bytes).unwrap();
        let again = trace.bytes_between(s(0.15), end);
        assert!((again - bytes).abs() < 1.0 + bytes * 1e-6, "{bytes} became {again}");
    }
}

#[test]
fn variation_follows_its_seed_and_keeps_mean_and_deviation() {
    let of = |seed: u64, sigma: f64| {
        let trace = Trace::constant(8.0).varying(Variation { sigma, every: s(1.0), seed });
        (0..20_000).map(move |second| match trace.state(s(second as f64 + 0.5)) {
            State::Flows(rate) => rate / 1e6,
            other => panic!("{other:?}"),
        })
    };
    for sigma in [0.1, 0.5] {
        let factors: Vec<f64> = of(3, sigma).collect();
        assert_eq!(factors, of(3, sigma).collect::<Vec<_>>());
        assert_ne!(factors[..10], of(4, sigma).collect::<Vec<_>>()[..10]);
        let mean = factors.iter().sum::<f64>() / factors.len() as f64;
        let variance = factors.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / factors.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance.sqrt() - sigma).abs() < 0.1 * sigma, "sigma {}", variance.sqrt());
    }
}

#[test]
fn a_trace_changes_only_where_it_says() {
    let trace = trace("57~0.5/0.5#7@1.25=20@2..3=stall");
    let mut at = Duration::ZERO;
    while let Some(next) = trace.next_change(at).filter(|next| *next < s(5.0)) {
        assert_eq!(trace.state(at), trace.state(next - Duration::from_nanos(1)));
        at = next;
    }
    assert!(at > s(4.0));
}

#[test]
fn table_1_gives_the_papers_ideal_seconds() {
    let ideal =
        |group: &Group, site: &str| 1000.0 * 8.0 * 1.048_576 / group.inbound_mbit(group.site(site).unwrap());
    let a = ["Sydney", "SaoPaulo", "NVirginia", "Ireland"].map(|site| ideal(&GROUP_A, site));
    let b = ["Ireland", "London", "Paris", "Frankfurt"].map(|site| ideal(&GROUP_B, site));
    for (ours, expected) in a.iter().chain(&b).zip([63.2, 41.7, 25.2, 29.8, 4.5, 3.0, 2.9, 3.8]) {
        assert!((ours - expected).abs() < 0.06, "{ours} instead of {expected}");
    }
}

#[test]
fn links_of_a_group_vary_apart_from_each_other() {
    let rate = |from, to, seed| GROUP_B.trace(from, to, Some(seed)).state(s(1.0));
    assert_ne!(rate(0, 1, 1), rate(0, 1, 2));
    let relative = |from: usize, to: usize| match rate(from, to, 1) {
        State::Flows(rate) => rate / GROUP_B.mbit[from][to],
        other => panic!("{other:?}"),
    };
    assert_ne!(relative(0, 1), relative(1, 0));
    assert_eq!(GROUP_A.trace(0, 2, None), Trace::constant(57.0));
}
