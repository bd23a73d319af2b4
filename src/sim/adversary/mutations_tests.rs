//! Every kind of message with every byte changed in turn, from a replica that lies, to one that does not.

use super::*;
use crate::quorum::FaultModel;
use crate::sim::cluster::{Cluster, Fate, Setup};
use crate::sim::swarm::{SETTLE_MS, members};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Samples of each kind kept.
const SAMPLES: usize = 4;

/// Says what its core says; the test speaks for it as well.
struct Honest;

impl Adversary for Honest {
    fn sends(
        &mut self,
        _power: &Power,
        to: ReplicaId,
        message: Message,
        _random: &mut Random,
        out: &mut Vec<(ReplicaId, Message)>,
    ) {
        out.push((to, message));
    }
}

/// Messages of a replica by kind, first those that said something else than the one before.
type Samples = Rc<RefCell<BTreeMap<u16, Vec<Message>>>>;

fn encoded(message: &Message) -> Vec<u8> {
    let (_, head, tail) = message.encode();
    [head, tail.unwrap_or_default()].concat()
}

/// A group in which the liar has spoken of everything: proposals lost, a change of views, a laggard that catches up.
fn stage(liar: ReplicaId, samples: &Samples) -> Cluster {
    let mut c = Cluster::new(Setup::new(members(FaultModel::Byzantine, 4)), 1);
    c.corrupt(liar, Box::new(Honest));
    let kept = samples.clone();
    c.filter = Some(Box::new(move |_, _, m| {
        let mut kept = kept.borrow_mut();
        let of_kind = kept.entry(m.kind()).or_default();
        if of_kind.len() < SAMPLES && of_kind.last().is_none_or(|last| encoded(last) != encoded(m)) {
            of_kind.push(m.clone());
        }
        match m {
            Message::Propose(p) if p.view == View(1) && p.seq > Seq(14) => Fate::Drop,
            Message::Accept(v) if v.view == View(1) && v.seq > Seq(10) => Fate::Drop,
            _ => Fate::Pass,
        }
    }));
    for _ in 0..3 {
        c.add_client(60);
    }
    // One sleeps through a window and more, wakes, and asks.
    c.crash(ReplicaId(2), crate::sim::disk::Tail::Kept);
    c.run_ms(30);
    c.restart(ReplicaId(2));
    assert!(c.run_until(SETTLE_MS, Cluster::settled), "{}", c.picture());
    c
}

/// The message signed anew, where the liar's own signature covers it.
fn signed(power: &Power, message: &Message) -> Option<Message> {
    match message {
        Message::Write(v) => Some(Message::Write(power.vote(VoteKind::Write, v.view, v.seq, v.digest))),
        Message::Accept(v) => Some(Message::Accept(power.vote(VoteKind::Accept, v.view, v.seq, v.digest))),
        Message::Mark(m) => Some(Message::Mark(Mark { signature: power.auth.sign_mark(&m.statement), ..*m })),
        Message::StopData(d) => {
            let mut d = (**d).clone();
            d.sender = power.auth.me;
            power.sign_stop_data(&mut d);
            Some(Message::StopData(Arc::new(d)))
        }
        _ => None,
    }
}

/// Every byte one more, one less, and as in another message; cut and joined to another at every byte.
fn mutations(bytes: &[u8], earlier: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for at in 0..bytes.len() {
        for byte in [bytes[at].wrapping_add(1), bytes[at].wrapping_sub(1), *earlier.get(at).unwrap_or(&0)] {
            let mut other = bytes.to_vec();
            other[at] = byte;
            out.push(other);
        }
        if let Some(rest) = earlier.get(at..) {
            out.push([&bytes[..at], rest].concat());
        }
    }
    out.retain(|other| other != bytes);
    out
}

/// Sends the mutations of all samples to replica 0; how many of each kind reached its core or were refused at its door.
fn deliver_all(c: &mut Cluster, liar: ReplicaId, samples: &Samples) -> BTreeMap<u16, (u64, u64)> {
    let power = Power {
        auth: c.setup.authenticator(liar),
        window: c.setup.order.window,
        mark_interval: c.setup.order.mark_interval,
    };
    let mut counts: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    let samples = samples.borrow().clone();
    for (kind, of_kind) in samples {
        for (i, message) in of_kind.iter().enumerate() {
            let earlier = encoded(&of_kind[i.saturating_sub(1)]);
            for bytes in mutations(&encoded(message), &earlier) {
                let count = counts.entry(kind).or_default();
                let Ok(mutant) = Message::decode(kind, bytes.into()) else {
                    count.1 += 1;
                    continue;
                };
                count.0 += 1;
                if let Some(mutant) = signed(&power, &mutant) {
                    c.inject(liar, ReplicaId(0), mutant);
                }
                c.inject(liar, ReplicaId(0), mutant);
                // What follows takes place, so that nothing piles up between heartbeats.
                if count.0.is_multiple_of(64) {
                    c.run_ms(1);
                }
            }
        }
    }
    counts
}

fn no_mutation_harms(liar: ReplicaId) {
    let samples = Samples::default();
    let mut c = stage(liar, &samples);
    {
        // What only crash mode or other circumstances send.
        let mut samples = samples.borrow_mut();
        let (view, nonce) = (c.core(0).view(), 7);
        samples.entry(14).or_insert_with(|| vec![Message::ReadCheck(ReadCheck { view, nonce })]);
        samples.entry(15).or_insert_with(|| vec![Message::ReadOk(ReadOk { view, nonce })]);
        samples.entry(16).or_insert_with(|| vec![Message::MacFailed(MacFailed { client: ClientId(1) })]);
        let seq = Seq(3);
        let digest = c.history.at(seq).expect("executed");
        samples.entry(11).or_insert_with(|| vec![Message::FetchBatch(FetchBatch { seq, digest })]);
        let batch = Batch::noop(&c.setup.hasher(), seq).bytes;
        samples.entry(12).or_insert_with(|| vec![Message::BatchIs(BatchIs { seq, batch })]);
    }
    c.filter = None;
    c.add_client(500);
    let counts = deliver_all(&mut c, liar, &samples);
    println!("kind: (decoded, refused) {counts:?}");
    let missing: Vec<u16> = (1..=16).chain([32]).filter(|kind| !counts.contains_key(kind)).collect();
    assert!(missing.is_empty(), "no sample of kinds {missing:?}");
    assert!(counts.values().all(|(decoded, refused)| decoded + refused > 0));
    c.add_client(20);
    assert!(c.run_until(SETTLE_MS, Cluster::settled), "{}", c.picture());
    let of_liar: u64 = c.turned_away.iter().filter(|((from, _), _)| *from == liar).map(|(_, n)| n).sum();
    assert!(of_liar > 1000, "{of_liar} discards counted against the sender");
}

#[test]
fn no_mutation_of_a_follower_s_messages_harms_a_correct_replica() {
    no_mutation_harms(ReplicaId(3));
}

#[test]
fn no_mutation_of_a_leader_s_messages_harms_a_correct_replica() {
    // It leads the view that begins while samples are taken.
    no_mutation_harms(ReplicaId(1));
}
