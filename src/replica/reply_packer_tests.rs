use super::reply_packer::Packer;
use crate::net::ConnectionId;
use crate::types::*;
use crate::wire::messages::{Reply, ReplyStatus};

fn reply(number: u64, bytes: usize) -> Reply {
    Reply {
        session: SessionId(1),
        number: RequestNumber(number),
        status: ReplyStatus::Done,
        digest_only: false,
        body: vec![0; bytes].into(),
    }
}

#[test]
fn repeated_replies_beyond_a_connection_s_budget_are_not_sent() {
    let mut packer = Packer::new(1 << 20);
    let (one, other) = (ConnectionId::of_number(1), ConnectionId::of_number(2));
    let mut sent = Vec::new();
    let mut held_max = 0;
    for number in 0..4096 {
        let full = packer.add(one, &reply(number, 64 << 10)).unwrap_or_default();
        held_max = held_max.max(full.len());
        sent.extend(full);
    }
    assert!(held_max <= 5, "a message is given out when it is full");
    assert!(packer.add(other, &reply(1, 10)).is_none());
    let left = packer.finish();
    assert!(left.iter().any(|(c, replies)| *c == other && replies.len() == 1), "others have theirs");
    sent.extend(left.into_iter().filter(|(c, _)| *c == one).flat_map(|(_, replies)| replies));
    let numbers: Vec<u64> = sent.iter().map(|r| r.number.0).collect();
    assert_eq!(numbers, (0..15).collect::<Vec<_>>(), "a MiB of them");
}

#[test]
fn a_reply_larger_than_the_budget_is_sent_alone() {
    let mut packer = Packer::new(1 << 20);
    let one = ConnectionId::of_number(1);
    assert_eq!(packer.add(one, &reply(1, 2 << 20)).map(|full| full.len()), Some(1));
    assert_eq!(packer.add(one, &reply(2, 1)), None);
    assert!(packer.finish().is_empty());
}
