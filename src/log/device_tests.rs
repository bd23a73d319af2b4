use std::time::{Duration, Instant};

use super::device::Device;
use super::log_tests::{collect, real_dir, record, small, start, wait_for};
use super::*;

#[test]
fn writes_are_served_one_after_another_and_only_the_first_waits_for_the_arm() {
    let device = Device::new("a test's", Duration::from_millis(10), 1_000_000);
    let now = Instant::now();
    let ms = |at: Instant| (at - now).as_millis();
    assert_eq!(ms(device.serve(now, 5000)), 15);
    // Submitted while the first is served: it streams on.
    assert_eq!(ms(device.serve(now + Duration::from_millis(3), 2000)), 17);
    assert_eq!(ms(device.serve(now + Duration::from_millis(16), 1000)), 18);
    // After a pause the arm has to be positioned again.
    assert_eq!(ms(device.serve(now + Duration::from_millis(20), 1000)), 31);
    // Another log on the same device meets the same arm.
    let shared = device.clone();
    assert_eq!(ms(shared.serve(now + Duration::from_millis(21), 4000)), 35);
}

#[test]
fn the_paper_s_devices_take_what_its_text_says() {
    let rate = |device: &Device| 1.0 / (device.serve(Instant::now(), 4096) - Instant::now()).as_secs_f64();
    let (disk, ssd) = (rate(&Device::paper_disk()), rate(&Device::paper_ssd()));
    assert!((60.0..66.0).contains(&disk), "63 naively logged operations per second, not {disk}");
    assert!((970.0..1060.0).contains(&ssd), "1017 naively logged operations per second, not {ssd}");
}

#[test]
fn nothing_is_called_durable_before_the_emulated_device_has_it_and_everything_is_really_written() {
    for io in [IoBackend::Auto, IoBackend::Threads] {
        let dir = real_dir();
        let latency = Duration::from_millis(30);
        let device = Device::new("a test's", latency, 100_000_000);
        let opts = LogOptions { device: Some(device), ..small(dir.path(), io) };
        format(&opts).unwrap();
        let (mut log, _, events) = start(collect(&opts).unwrap().0);
        assert!(log.backend().contains("EMULATED"), "{}", log.backend());
        for n in 1..=3 {
            let began = Instant::now();
            log.append(record(n, 500)).unwrap();
            wait_for(&events, Lsn(n));
            assert!(began.elapsed() >= latency, "record {n} was durable too soon");
        }
        (4..=40).for_each(|n| assert_eq!(log.append(record(n, 500)).unwrap(), Lsn(n)));
        log.stop();
        assert_eq!(collect(&opts).unwrap().1.len(), 40);
    }
}
