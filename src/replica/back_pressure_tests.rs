use super::back_pressure::BackPressure;
use std::cell::RefCell;

#[test]
fn clients_are_not_read_above_the_bound_and_are_again_below_half_of_it() {
    let (pressure, said) = (BackPressure::new(10_000), RefCell::new(Vec::new()));
    let say = |pause| said.borrow_mut().push(pause);
    let mut groups: Vec<_> = (0..9).map(|_| pressure.arrived(1000, say)).collect();
    assert!(pressure.used() > 10_000 && pressure.is_paused());
    assert_eq!(*said.borrow(), [true], "said once");
    groups.truncate(4);
    pressure.relieve(say);
    assert_eq!(*said.borrow(), [true], "not yet");
    groups.truncate(3);
    pressure.relieve(say);
    pressure.relieve(say);
    assert_eq!(*said.borrow(), [true, false]);
    drop(groups);
    assert_eq!(pressure.used(), 0);
}

#[test]
fn one_group_above_the_bound_is_taken_all_the_same() {
    let pressure = BackPressure::new(100);
    let group = pressure.arrived(1 << 20, |pause| assert!(pause));
    assert!(pressure.is_paused());
    drop(group);
    pressure.relieve(|pause| assert!(!pause));
    assert!(!pressure.is_paused());
}
