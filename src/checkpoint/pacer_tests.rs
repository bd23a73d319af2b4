use super::pacer::{CROWDED_GAP, LogWrites, Now, Pacer};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// A log whose writes take a given time.
#[derive(Default)]
struct Log(LogWrites);

impl Log {
    fn writes(&mut self, count: u64, us: u64) -> LogWrites {
        self.0.count += count;
        self.0.sum_ns += count * us * 1000;
        self.0
    }
}

fn now(since_ms: u64, turn: f64, log: LogWrites) -> Now {
    Now { since: Duration::from_millis(since_ms), turn, log, crowded: false }
}

/// A writer of 100 MiB beside a log whose writes took 200 µs.
fn begun(limit: u64) -> (Pacer, Log) {
    let (mut pacer, mut log) = (Pacer::new(limit), Log::default());
    pacer.begin(100 * MIB as u64, log.writes(1000, 200));
    assert_eq!(pacer.calm_us(), Some(200.0));
    (pacer, log)
}

#[test]
fn the_bound_holds_however_late_it_is() {
    let (mut pacer, log) = begun(10 * MIB as u64);
    // At 10 MiB/s a MiB is due every 100 ms; nothing that the writer itself took is waited for twice.
    assert_eq!(pacer.pause(MIB, now(0, 0.9, log.0)), Duration::ZERO);
    assert_eq!(pacer.pause(MIB, now(10, 0.9, log.0)), Duration::from_millis(90));
    assert_eq!(pacer.pause(MIB, now(150, 5.0, log.0)), Duration::from_millis(50));
    assert_eq!(pacer.pause(MIB, now(900, 5.0, log.0)), Duration::ZERO);
    assert_eq!(pacer.yielded(), Duration::ZERO);
}

#[test]
fn it_yields_while_the_log_feels_it_and_hurries_when_it_does_not() {
    let (mut pacer, mut log) = begun(0);
    let mut pause = |us| pacer.pause(MIB, now(0, 0.0, log.writes(10, us))).as_millis();
    assert_eq!([pause(200), pause(290), pause(250)], [0, 0, 0], "as in calm");
    assert_eq!([pause(400), pause(400), pause(900), pause(900)], [1, 2, 4, 8]);
    assert_eq!([pause(210), pause(210), pause(210), pause(210)], [4, 2, 1, 0]);
    for _ in 0..20 {
        pause(5000);
    }
    assert_eq!(pause(5000), 64, "it goes on, however slowly");
    assert!(pacer.yielded() > Duration::from_secs(1));
}

#[test]
fn a_little_more_than_next_to_nothing_is_not_felt() {
    let (mut pacer, mut log) = (Pacer::new(0), Log::default());
    pacer.begin(100, log.writes(1000, 20));
    assert_eq!(pacer.pause(1, now(0, 0.0, log.writes(10, 90))), Duration::ZERO);
    assert!(pacer.pause(1, now(0, 0.0, log.writes(10, 130))) > Duration::ZERO);
}

#[test]
fn a_few_writes_say_nothing_and_are_counted_with_the_next() {
    let (mut pacer, mut log) = begun(0);
    assert_eq!(pacer.pause(MIB, now(0, 0.0, log.writes(3, 9000))), Duration::ZERO);
    assert_eq!(pacer.pause(MIB, now(0, 0.0, log.writes(1, 9000))), Duration::from_millis(1));
    // A log that nobody writes to keeps nobody from anything: the gap stays as it was.
    assert_eq!(pacer.pause(MIB, now(0, 0.0, log.0)), Duration::from_millis(1));
}

#[test]
fn it_is_written_at_four_fifths_of_the_turn_whatever_the_log_feels() {
    let (mut pacer, mut log) = begun(0);
    // Each place of a turn of a thousand takes a log write of ten times the calm time; a MiB itself takes nothing.
    let (mut turn, mut written) = (0.0, 0);
    while written < 100 && turn < 1.0 {
        let pause = pacer.pause(MIB, now(0, turn, log.writes(10, 2000)));
        written += 1;
        // A long pause is a large part of this turn.
        turn += pause.as_secs_f64() * 0.25 + 0.001;
    }
    assert_eq!(written, 100);
    assert!((0.5..0.85).contains(&turn), "{turn} of the turn");
}

#[test]
fn what_the_log_took_while_one_was_written_is_not_calm() {
    let (mut pacer, mut log) = begun(0);
    pacer.pause(MIB, now(0, 0.0, log.writes(100, 5000)));
    pacer.end(log.writes(100, 5000));
    pacer.begin(MIB as u64, log.0);
    assert_eq!(pacer.calm_us(), Some(200.0), "nothing was written since");
    pacer.end(log.0);
    pacer.begin(MIB as u64, log.writes(100, 300));
    assert_eq!(pacer.calm_us(), Some(300.0));
}

#[test]
fn before_anything_is_known_of_calm_nothing_is_felt() {
    let (mut pacer, mut log) = (Pacer::new(0), Log::default());
    pacer.begin(100, log.0);
    assert_eq!(pacer.pause(1, now(0, 0.0, log.writes(100, 90_000))), Duration::ZERO);
    assert_eq!(pacer.calm_us(), None);
}

#[test]
fn where_the_processor_is_wanted_it_is_written_no_faster_than_places_are_decided() {
    let (mut pacer, log) = begun(0);
    let mut pause = |turn, crowded| pacer.pause(MIB, Now { crowded, ..now(0, turn, log.0) });
    assert_eq!(pause(0.0, true), CROWDED_GAP);
    // One of a hundred is written when more of the turn is over.
    assert_eq!(pause(0.1, true), Duration::ZERO);
    for _ in 2..20 {
        assert_eq!(pause(0.1, false), Duration::ZERO);
    }
    assert_eq!(pause(0.1, true), CROWDED_GAP, "20 of a hundred in a tenth of the turn");
    assert_eq!(pause(0.1, false), Duration::ZERO);
}
