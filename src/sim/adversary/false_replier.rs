//! Tells clients falsely what came of their requests and what they read.

use super::*;
use crate::reply::routing::result_digest;
use bytes::Bytes;

/// One way to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// Another result for each request.
    Wrong,
    /// Results for requests, sessions and OPENs that nobody asked for, beside the true ones.
    Unasked,
    /// Other values for what is read beside the order, with digests that fit.
    Reads,
}

pub struct FalseReplier(pub Told);

fn bent(body: &[u8]) -> Bytes {
    let mut body = body.to_vec();
    match body.last_mut() {
        Some(last) => *last ^= 1,
        None => body.push(1),
    }
    body.into()
}

/// As if the client had sent the next ones, too, here and in another session.
fn unasked(reply: &Reply) -> impl Iterator<Item = Reply> + use<> {
    let reply = Reply { body: bent(&reply.body), ..reply.clone() };
    let (session, number) = (reply.session.0, reply.number.0);
    let ahead = (1..=3).map(move |i| (session, number.wrapping_add(i)));
    let places = ahead.chain([(session ^ 1, number), (u64::MAX, number), (0, number ^ 1)]);
    places.map(move |(session, number)| Reply {
        session: SessionId(session),
        number: RequestNumber(number),
        ..reply.clone()
    })
}

impl Adversary for FalseReplier {
    fn replies(&mut self, replies: &mut Vec<Reply>) {
        match self.0 {
            Told::Wrong => replies.iter_mut().for_each(|reply| reply.body = bent(&reply.body)),
            Told::Unasked => {
                let more: Vec<_> = replies.iter().flat_map(unasked).collect();
                replies.extend(more);
            }
            Told::Reads => {}
        }
    }

    fn reads(&mut self, power: &Power, reply: &mut ReadReply) {
        if self.0 == Told::Reads && reply.status == ReadStatus::Done {
            let result = bent(reply.result.as_deref().unwrap_or(b"\x01"));
            reply.digest = result_digest(&power.auth.hasher, &result);
            reply.result = reply.result.is_some().then_some(result);
        }
    }
}
