use super::appends::{Appends, Sink};
use crate::log::{AppendError, AppendRefusal, Record};
use crate::order::record::OrderRecord;
use crate::types::*;
use std::sync::atomic::AtomicBool;

/// Numbers what it takes, as the log does, and refuses what it is told to.
#[derive(Default)]
struct Disk {
    taken: Vec<bool>,
    refuses: Vec<AppendRefusal>,
}

impl Sink for Disk {
    fn take(&mut self, record: Record, control: bool) -> Result<Lsn, AppendError> {
        if let Some(why) = self.refuses.pop() {
            return Err(AppendError { why, record });
        }
        self.taken.push(control);
        Ok(Lsn(self.taken.len() as u64))
    }
}

fn record() -> Record {
    let encoded = OrderRecord::encode(&crate::order::restore::first_record());
    Record {
        kind: encoded.kind,
        seq: encoded.seq,
        view: encoded.view,
        digest: encoded.digest,
        payload: encoded.payload,
    }
}

#[test]
fn after_a_record_that_the_log_refused_none_follows() {
    for why in [AppendRefusal::NoRoom, AppendRefusal::TooLarge, AppendRefusal::Failed] {
        let (mut disk, mut appends, stopping) = (Disk::default(), Appends::default(), AtomicBool::new(false));
        assert_eq!(appends.append(&mut disk, &stopping, Lsn(1), record(), true), Ok(()));
        disk.refuses.push(why);
        assert!(appends.append(&mut disk, &stopping, Lsn(2), record(), true).is_err());
        // Later records of the same round would get the number of the missing one.
        for lsn in 3..6 {
            assert_eq!(appends.append(&mut disk, &stopping, Lsn(lsn), record(), true), Ok(()), "said once");
        }
        assert_eq!(disk.taken.len(), 1);
    }
}

#[test]
fn a_record_without_room_uses_the_reserve_and_a_full_log_is_waited_for() {
    let (mut disk, mut appends, stopping) = (Disk::default(), Appends::default(), AtomicBool::new(false));
    disk.refuses = vec![AppendRefusal::NoRoom, AppendRefusal::Full, AppendRefusal::Full];
    assert_eq!(appends.append(&mut disk, &stopping, Lsn(1), record(), false), Ok(()));
    assert_eq!(disk.taken, [true]);
}

#[test]
fn a_stuck_disk_does_not_keep_the_replica_from_stopping() {
    struct Stuck;
    impl Sink for Stuck {
        fn take(&mut self, record: Record, _: bool) -> Result<Lsn, AppendError> {
            Err(AppendError { why: AppendRefusal::Full, record })
        }
    }
    let (mut appends, stopping) = (Appends::default(), AtomicBool::new(true));
    assert!(appends.append(&mut Stuck, &stopping, Lsn(1), record(), false).is_err());
    assert_eq!(appends.append(&mut Stuck, &stopping, Lsn(2), record(), false), Ok(()));
}
