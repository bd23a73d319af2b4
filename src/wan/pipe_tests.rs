use std::time::{Duration, Instant};

use super::pipe::Pipe;
use super::relay::Shape;

fn pipe(trace: &str, since: Instant) -> Pipe {
    Pipe::new(Shape { trace: trace.parse().unwrap(), delay: Duration::from_millis(10) }, since)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn however_irregularly_it_is_served_a_busy_pipe_passes_what_its_trace_says() {
    for text in ["1", "57~0.5/0.2#3", "2000@0.5=100"] {
        let (begin, mut random) = (Instant::now(), 1u64);
        let mut pipe = pipe(text, begin);
        pipe.set_waiting(true);
        let (mut at, mut passed) = (Duration::ZERO, 0);
        while at < ms(2000) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            at += Duration::from_micros(random >> 50);
            let allowed = pipe.allowed(begin + at);
            pipe.passed(allowed);
            passed += allowed;
        }
        let trace: super::trace::Trace = text.parse().unwrap();
        let due = trace.bytes_between(Duration::ZERO, at);
        let off = (passed as f64 - due).abs() / due;
        assert!(off < 0.01, "{text}: {passed} instead of {due}");
        assert!(passed as f64 <= due + 1.0, "{text}: {passed} is more than {due}");
    }
}

#[test]
fn an_idle_pipe_saves_up_one_grain() {
    let begin = Instant::now();
    let mut pipe = pipe("80", begin);
    // 10 MB/s: a millisecond is worth 10,000 bytes.
    let allowed = pipe.allowed(begin + ms(500));
    assert!((9_999..=10_001).contains(&allowed), "{allowed}");
    pipe.passed(allowed);
    assert_eq!(pipe.allowed(begin + ms(500)), 0);
    pipe.set_waiting(true);
    assert_eq!(
        pipe.next(begin + ms(500)).map(|at| (at - begin).as_micros().abs_diff(501_000) < 5),
        Some(true)
    );
    // With bytes waiting, being late costs nothing, up to 50 ms.
    let late = pipe.allowed(begin + ms(530));
    assert!((299_000..=301_000).contains(&late), "{late}");
    pipe.passed(late);
    let later = pipe.allowed(begin + ms(5000));
    assert!((499_000..=501_000).contains(&later), "{later}");
}

#[test]
fn a_stalled_pipe_passes_nothing_and_says_when_to_ask_again() {
    let begin = Instant::now();
    let mut pipe = pipe("80@1..2=stall@3=dead", begin);
    pipe.set_waiting(true);
    assert_eq!(pipe.allowed(begin + ms(1500)), 0);
    assert_eq!(pipe.next(begin + ms(1500)), Some(begin + ms(2000)));
    assert_eq!(pipe.allowed(begin + ms(2000)), 0);
    let after = pipe.allowed(begin + ms(2010));
    assert!((99_000..=100_001).contains(&after), "{after}");
    assert_eq!((pipe.allowed(begin + ms(3001)), pipe.next(begin + ms(3001))), (0, None));
}

#[test]
fn what_may_be_under_way_follows_bandwidth_and_delay() {
    let begin = Instant::now();
    assert_eq!(pipe("1", begin).buffer_bytes(begin), 65_536);
    // Twice 100 MB/s times 10 ms, and two grains.
    assert_eq!(pipe("800", begin).buffer_bytes(begin), 2_200_000);
}
