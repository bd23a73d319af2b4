//! Which part of the suite notices a broken rule: stories first, then random seeds.

use super::checkers::linearizable::{self, Call, Verdict};
use super::cluster::Setup;
use super::operations::{Kind, operation, read};
use super::scenario::check;
use super::scenarios::STORIES;
use super::swarm::{Plan, attempt, members};
use super::transfer_stories;
use crate::client::reply_votes::{ReadCount, ReadVotes};
use crate::order::mutants::{Mutant, break_rule};
use crate::quorum::FaultModel;
use crate::reply::routing::result_digest;
use crate::service::{Context, KeyValueStore, KvReply, Service};
use crate::types::*;
use crate::wire::auth::Authenticator;
use crate::wire::messages::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What noticed it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kill {
    /// Stories that went otherwise.
    pub stories: Vec<&'static str>,
    /// The first plan that failed, and why.
    pub seed: Option<(Plan, String)>,
}

impl Kill {
    /// Whether anything did.
    pub fn is_dead(&self) -> bool {
        !self.stories.is_empty() || self.seed.is_some()
    }
}

/// Stories that are not about replicas, told in code.
pub const DIRECTED: &[(&str, fn())] = &[
    ("an_old_value_that_came_again_is_not_read_before_the_one_between", an_old_value_that_came_again),
    ("a_state_that_one_alone_names_is_none", a_state_that_one_alone_names),
];

/// Tells every story with this rule broken, then runs the plans until one fails. Stories of state transfer take longest: they are told
/// if nothing else has noticed.
pub fn hunt(mutant: Mutant, mut plans: impl Iterator<Item = Plan>) -> Kill {
    break_rule(Some(mutant));
    let changed = STORIES.iter().filter(|(_, text)| check(text).is_err()).map(|(name, _)| *name);
    let failed = |story: &fn()| catch_unwind(AssertUnwindSafe(story)).is_err();
    let of = |told: &'static [(&'static str, fn())]| told.iter().filter(|(_, story)| failed(story));
    let mut stories: Vec<&str> = changed.chain(of(DIRECTED).map(|(name, _)| *name)).collect();
    if stories.is_empty() {
        stories.extend(of(transfer_stories::DIRECTED).map(|(name, _)| *name));
    }
    let seed = plans.find_map(|plan| attempt(&plan).err().map(|why| (plan, why)));
    break_rule(None);
    Kill { stories, seed }
}

/// a, b and a again are written to a key, and b is read. Then the replica that is ahead has the new a, one that lags behind has the
/// old one, and a liar agrees with it: were they to match, a would be read, and b again from those between (RULES 9).
fn an_old_value_that_came_again() {
    const PUT: u8 = 3 << 3;
    let members = members(FaultModel::Byzantine, 4);
    let hasher = Setup::new(members).hasher();
    let mut store = KeyValueStore::new();
    let (mut states, mut calls) = (Vec::new(), Vec::new());
    for (i, value) in [b'a', b'b', b'a'].into_iter().enumerate() {
        let seq = Seq(i as u64 + 1);
        let (time, client, session) = (WallTime(0), ClientId(0), SessionId(1));
        let context = Context { seq, index: 0, time, seed: 0, client, session };
        let bytes = vec![PUT, value];
        let (key, kind) = read(&bytes);
        store.execute(&context, &operation(key, kind));
        states.push(store.clone());
        // The last two have not been answered.
        let returned = (i == 0).then_some((2, KvReply::Ok));
        calls.push(Call { operation: bytes, called: 2 * seq.0 - 1, returned });
    }
    // How far those are that answer each read.
    for (called, places) in [(6, [2, 2, 2]), (8, [3, 1, 1]), (10, [2, 2, 2])] {
        let (mut votes, mut count) = (ReadVotes::default(), ReadCount::Waiting);
        for (from, place) in (0..).map(ReplicaId).zip(places) {
            let query = states[place - 1].query(&operation(0, Kind::Get));
            let answer = ReadReply {
                id: called,
                view: View(1),
                status: ReadStatus::Done,
                executed: Seq(place as u64),
                version: query.version.unwrap_or_default(),
                digest: result_digest(&hasher, &query.result),
                result: (from == ReplicaId(0)).then_some(query.result),
            };
            count = votes.add(members, &hasher, from, ReplicaId(0), answer, true);
        }
        if let ReadCount::Decided(reply) = count {
            let reply = KvReply::decode(&reply).expect("the store's reply");
            calls.push(Call { operation: vec![0], called, returned: Some((called + 1, reply)) });
        }
    }
    assert!(calls.len() >= 5, "what a quorum agrees on is read");
    assert_eq!(linearizable::check(&calls), Verdict::Linearizable);
}

/// Place 8 is decided, as a quorum's mark of place 16 says. A liar names a state of it; f+1 name another one.
fn a_state_that_one_alone_names() {
    let setup = Setup::new(members(FaultModel::Byzantine, 4));
    let [liar, other, third] = [1, 2, 3].map(|i| setup.authenticator(ReplicaId(i)));
    let (hasher, digests) = (setup.hasher(), vec![Digest([3; 32]); 8]);
    let root = |state| MarkStatement {
        seq: Seq(8),
        batches: Digest([1; 32]),
        replies: Digest([2; 32]),
        state: Digest([state; 32]),
    };
    let batches = digests.iter().fold(root(0).batches, |c, d| hasher.chain(&c, d));
    let covers = MarkStatement { seq: Seq(16), batches, replies: Digest([5; 32]), state: Digest::ZERO };
    let signed = |statement: MarkStatement, by: &[&Authenticator]| -> Vec<(ReplicaId, Signature)> {
        by.iter().map(|auth| (auth.me, auth.sign_mark(&statement))).collect()
    };
    let named = |state, by: &[&Authenticator], marked: &[&Authenticator]| StateCertificate {
        statement: root(state),
        signatures: signed(root(state), by),
        digests: digests.clone(),
        mark: Box::new(MarkCertificate { statement: covers, signatures: signed(covers, marked) }),
    };
    let all = [&liar, &other, &third];
    let reader = setup.authenticator(ReplicaId(0));
    assert!(reader.state_ok(&named(7, &[&other, &third], &all)));
    assert!(!reader.state_ok(&named(6, &[&liar], &all)));
    // Nor is f+1 a quorum where the place is concerned, nor does any other list of digests lead to the mark.
    assert!(!reader.state_ok(&named(7, &[&other, &third], &all[..2])));
    let mut short = named(7, &[&other, &third], &all);
    short.digests.pop();
    assert!(!reader.state_ok(&short));
    let mut bare = named(0, &[&other, &third], &all);
    bare.statement.state = Digest::ZERO;
    assert!(!reader.state_ok(&bare));
}
