use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use super::lane::{End, Lane};

/// Takes so many bytes at a time, and then no more until it is told.
struct Narrow {
    got: Vec<u8>,
    room: usize,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.room);
        if n == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.got.extend_from_slice(&bytes[..n]);
        self.room -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn bytes_keep_their_order_through_wraps_and_growth() {
    let sent: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let (mut lane, now) = (Lane::default(), Instant::now());
    let (mut rest, mut to) = (&sent[..], Narrow { got: Vec::new(), room: 0 });
    let mut round = 0;
    while to.got.len() < sent.len() {
        round += 1;
        // Now more comes than goes, now less, so that the ring wraps, fills and grows.
        let limit = 1 + (round * 977) % if round % 50 < 25 { 4000 } else { 900 };
        let n = lane.take(&mut rest, limit).unwrap();
        assert!(n <= limit);
        lane.stamp(now);
        to.room = 1500;
        while lane.deliver(&mut to, now).is_ok_and(|n| n > 0) {}
    }
    assert_eq!(to.got, sent);
    assert_eq!(lane.len(), 0);
}

#[test]
fn nothing_arrives_before_it_is_due() {
    let (mut lane, begin) = (Lane::default(), Instant::now());
    let ms = |ms| begin + Duration::from_millis(ms);
    let mut to = Narrow { got: Vec::new(), room: 100 };
    for (bytes, due) in [(&b"one"[..], 10), (b"two", 20)] {
        lane.take(bytes, 100).unwrap();
        lane.stamp(ms(due));
    }
    lane.end(ms(30), End::Shut);
    assert_eq!(lane.deliver(&mut to, ms(9)).unwrap(), 0);
    assert_eq!(lane.next_due(true), Some(ms(10)));
    assert_eq!(lane.deliver(&mut to, ms(10)).unwrap(), 3);
    assert_eq!((lane.arrived_end(ms(10)), lane.next_due(true)), (None, Some(ms(20))));
    // The end of the stream waits for the bytes before it, a reset does not.
    assert_eq!(lane.arrived_end(ms(40)), None);
    assert_eq!(lane.next_due(false), None);
    lane.end(ms(35), End::Reset);
    assert_eq!((lane.next_due(false), lane.arrived_end(ms(34))), (Some(ms(35)), None));
    assert_eq!(lane.arrived_end(ms(35)), Some(End::Reset));
    assert_eq!(lane.deliver(&mut to, ms(40)).unwrap(), 3);
    assert_eq!(to.got, b"onetwo");
}
