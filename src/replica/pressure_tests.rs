//! A log that fills up, place by place.

use super::pressure::{Pressure, Waiting};

const SEGMENT: u64 = 2000;
const MOST: u64 = 8 * SEGMENT;

/// A log of whole segments, the last of which is kept ready; places of a tenth of a segment, marks every second one.
struct Filling {
    pressure: Pressure,
    waiting: Waiting<u64>,
    /// Tenths of segments.
    appended: u64,
    /// The first segment that is kept.
    first: u64,
    wanted: bool,
    /// Being written, and the place at which that ends.
    writing: Option<(u64, u64)>,
    kept: Vec<u64>,
}

impl Filling {
    /// Of the replica that asks as the `turn`th of four.
    fn new(turn: u32) -> Self {
        Self {
            pressure: Pressure::new(turn, 4),
            waiting: Waiting::default(),
            appended: 0,
            first: 0,
            wanted: false,
            writing: None,
            kept: Vec::new(),
        }
    }

    fn used(&self) -> u64 {
        (self.appended / 10 + 1 - self.first) * SEGMENT
    }

    fn is_full(&self) -> bool {
        self.appended / 10 + 1 - self.first >= 7 && self.appended % 10 == 9
    }

    /// A checkpoint is on disk, and what leads to the older of two goes.
    fn stored(&mut self) {
        let (state, _) = self.writing.take().expect("one is being written");
        self.kept.push(state);
        if let Some(older) = self.kept.len().checked_sub(2).map(|i| self.kept[i]) {
            self.first = self.first.max(older / 10);
        }
        if let Some(next) = self.waiting.pop() {
            self.writing = Some((next, self.appended));
        }
    }

    /// One place, whose checkpoint, if there is one, takes `lasts` places, or until the log is full.
    fn place(&mut self, lasts: u64, turn: bool) {
        if self.is_full() {
            while self.is_full() && self.writing.is_some() {
                self.stored();
            }
            assert!(!self.is_full(), "nothing makes room: {:?}, from {}", self.kept, self.first);
        }
        self.appended += 1;
        let two = self.kept.len() > 1;
        self.wanted |= self.pressure.asks(MOST, self.used(), [0, self.appended * SEGMENT / 10], two);
        if self.appended.is_multiple_of(2) {
            let pressed = std::mem::take(&mut self.wanted);
            match self.writing {
                None if pressed || turn => self.writing = Some((self.appended, self.appended + lasts)),
                Some(_) if pressed => self.waiting.push(self.appended),
                _ => {}
            }
        }
        if self.writing.is_some_and(|(_, ends)| ends <= self.appended) {
            self.stored();
        }
    }
}

#[test]
fn a_log_finds_room_however_long_a_checkpoint_takes() {
    for lasts in [0, 1, 3, 8, 9, 10, 11, 20, 37, 60, 70, 1_000_000] {
        for turn in [u64::MAX, 400, 73, 70, 69, 31] {
            for replica in 0..4 {
                let mut filling = Filling::new(replica);
                (1..20_000).for_each(|i| filling.place(lasts, i % turn == 0));
                assert!(filling.first > 1_900, "{lasts} {turn} {replica}: {}", filling.first);
            }
        }
    }
}

#[test]
fn a_log_finds_room_however_unlike_two_checkpoints_are() {
    for turn in [1, 3, 5, 8, 31, 69] {
        let (mut filling, mut random) = (Filling::new(turn as u32 % 4), 1_u64);
        for i in 1..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let lasts = if random >> 62 == 0 { 1_000_000 } else { random >> 60 };
            filling.place(lasts, i % turn == 0);
        }
        assert!(filling.first > 1_900, "{turn}: {}", filling.first);
    }
}

#[test]
fn what_is_used_may_stand_still_while_a_log_is_written_to() {
    let mut pressure = Pressure::new(0, 4);
    assert!(!pressure.asks(1600, 1000, [0, 5000], true), "it is not pressed");
    assert!(pressure.asks(1600, 1200, [0, 5100], true));
    assert!(!pressure.asks(1600, 1200, [0, 5199], true));
    assert!(pressure.asks(1600, 1200, [0, 5200], true));
    assert!(!pressure.asks(1600, 400, [0, 5400], false));
    assert!(pressure.asks(1600, 401, [0, 5400], false), "earlier, while there are not two");
    assert!(!pressure.asks(1600, 1200, [99, 5400], true));
    assert!(pressure.asks(1600, 1200, [100, 5400], true), "what one way of counting misses, the other sees");
}

#[test]
fn replicas_ask_one_after_the_other() {
    let asks = |turn, used| Pressure::new(turn, 4).asks(1600, used, [0, 5000], true);
    let first = |turn| (0..1600).find(|used| asks(turn, *used));
    assert_eq!([first(0), first(1), first(2), first(3)], [Some(1001), Some(1026), Some(1051), Some(1076)]);
}

#[test]
fn the_first_and_the_last_wait() {
    let mut waiting = Waiting::default();
    (1..=5).for_each(|i| waiting.push(i));
    assert_eq!([waiting.pop(), waiting.pop(), waiting.pop()], [Some(1), Some(5), None]);
    waiting.push(6);
    waiting.clear();
    assert_eq!(waiting.pop(), None);
}
