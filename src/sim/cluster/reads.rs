//! Reads beside the order in simulated groups, answered as the execute stage answers them.

use super::*;
use crate::reply::routing::result_digest;
use crate::sim::reader::Reader;
use crate::wire::messages::ReadReply;

/// Stories number their own reads from 1.
const FIRST_TOKEN: u64 = 1 << 40;

/// Who reads, and what was asked of cores.
#[derive(Default)]
pub(super) struct Reads {
    pub(super) readers: Vec<Reader>,
    /// Reader and key.
    asked: BTreeMap<u64, (usize, u8)>,
    tokens: u64,
}

impl Cluster {
    /// A client that reads so many times. Where votes are not durable reads are ordered, and there is none.
    pub fn add_reader(&mut self, reads: u64) {
        let reader = Reader::new(self.setup.members, self.setup.hasher(), reads);
        self.reads.readers.push(reader);
        self.at(0, Event::Reader(self.reads.readers.len() - 1));
    }

    pub(super) fn reader(&mut self, at: usize) {
        let token = FIRST_TOKEN + self.reads.tokens;
        let (now, event) = (self.now, self.events);
        let reader = &mut self.reads.readers[at];
        if let Some((key, to)) = reader.act(now, event, token, &mut self.random) {
            self.reads.tokens += 1;
            for to in to {
                let us = self.random.between(50, 500);
                self.at(us, Event::Ask { to, reader: at, token, key });
            }
        }
        if !self.reads.readers[at].content() {
            let us = self.random.between(200, 5_000);
            self.at(us, Event::Reader(at));
        }
    }

    /// A read reaches a replica.
    pub(super) fn ask(&mut self, to: ReplicaId, reader: usize, token: u64, key: u8) {
        if !self.up(to) {
            return;
        }
        if !self.setup.members.byzantine() {
            self.reads.asked.insert(token, (reader, key));
            return self.step(to, Input::ReadIndex(token));
        }
        // After a start, only once a fresh no-op of its own has executed.
        let node = &self.nodes[to.index()];
        let nonce = node.nonce();
        if !node.executor.has_noop(to, nonce) {
            return self.step(to, Input::OrderNoop(nonce));
        }
        self.tell(to, reader, token, key);
    }

    /// Cores say that these reads may be answered from what is executed now.
    pub(super) fn reads_ready(&mut self, r: ReplicaId, tokens: &[u64]) {
        for token in tokens {
            if let Some((reader, key)) = self.reads.asked.remove(token) {
                self.tell(r, reader, *token, key);
            }
        }
    }

    pub(super) fn reads_refused(&mut self, tokens: &[u64]) {
        for token in tokens {
            if let Some((reader, _)) = self.reads.asked.remove(token) {
                self.reads.readers[reader].refused(*token);
            }
        }
    }

    fn tell(&mut self, from: ReplicaId, reader: usize, token: u64, key: u8) {
        // A liar says what any other would say, or nonsense.
        let (mut who, mut lies) = (from, false);
        if self.byzantine.contains(from) {
            who = ReplicaId(self.random.below(u64::from(self.setup.members.n())) as u32);
            lies = self.random.per_mille(200);
        }
        let node = &self.nodes[who.index()];
        let query = node.executor.query(key);
        let result = if lies { Bytes::from_static(b"\x01wrong") } else { query.result };
        let (executed, version) = (node.executor.executed, query.version.unwrap_or_default());
        let view = node.core.as_ref().map_or(View(0), Orderer::view);
        let digest = result_digest(&self.setup.hasher(), &result);
        let status = ReadStatus::Done;
        let mut answer =
            ReadReply { id: token, view, status, executed, version, digest, result: Some(result) };
        let power = self.nodes[from.index()].adversary.is_some().then(|| self.power(from));
        if let (Some(adversary), Some(power)) = (&mut self.nodes[from.index()].adversary, power) {
            adversary.reads(&power, &mut answer);
        }
        let us = self.random.between(50, 500);
        if !self.random.per_mille(self.setup.weather.loss) {
            self.at(us, Event::Read { from, reader, answer });
        }
    }

    pub(super) fn read(&mut self, from: ReplicaId, reader: usize, answer: ReadReply) {
        if let Some(read) = self.reads.readers[reader].answer(from, answer) {
            // Any bytes that stand for a get of this key.
            self.returned(vec![read.key], read.called, read.reply);
        }
    }
}
