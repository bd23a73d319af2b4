//! [core] Answers to requests: sessions opened, results believed, results that are agreed on but missing.

use super::*;

impl<T> ClientCore<T> {
    pub(super) fn on_opened(&mut self, from: ReplicaId, reply: Reply, out: &mut Vec<Output<T>>) {
        let Some(&i) = self.by_nonce.get(&reply.number.0) else { return };
        let (members, hasher) = (self.config.members, self.config.hasher);
        let one_replies = self.config.one_replies;
        let Stream::Opening { nonce, group: Some(group), votes } = &mut self.session_mut(i).stream else {
            return;
        };
        let (nonce, group) = (*nonce, *group);
        let count = if !one_replies {
            votes.add(members, &hasher, from, reply, false)
        } else {
            Count::Decided(reply.status, reply.body)
        };
        let id = match count {
            // Small, so always whole.
            Count::Waiting | Count::NeedsBody(_) => return,
            Count::Decided(ReplyStatus::Done, body) => {
                body[..].try_into().ok().map(|bytes| SessionId(u64::from_le_bytes(bytes)))
            }
            Count::Decided(..) | Count::Hopeless => None,
        };
        self.by_nonce.remove(&nonce);
        self.count_off(group);
        match id.filter(|id| *id != SessionId(0) && !self.by_id.contains_key(id)) {
            Some(id) => {
                self.by_id.insert(id, i);
                let session = self.session_mut(i);
                session.stream = Stream::Open(id);
                session.base = RequestNumber(1);
                session.sent.clear();
                self.wake_session(i);
            }
            None => {
                self.session_mut(i).stream = Stream::Closed;
                self.refuse_waiting(i, "the replicas' answers to OPEN differ", out);
            }
        }
        self.settle_stream(i);
    }

    pub(super) fn on_reply(&mut self, now: Tick, from: ReplicaId, reply: Reply, out: &mut Vec<Output<T>>) {
        let Some(&i) = self.by_id.get(&reply.session) else { return };
        let Self { config, sessions, kept_bytes, .. } = self;
        let Some(session) = sessions[i].as_mut() else { return };
        let Some(offset) = reply.number.0.checked_sub(session.base.0) else { return };
        let Some(Some(entry)) = session.sent.get_mut(offset as usize) else { return };
        let (id, number) = (reply.session, reply.number);
        let count = if !config.one_replies {
            let before = entry.votes.kept_bytes();
            let keep = *kept_bytes + reply.body.len() <= KEPT_BYTES_MAX;
            let count = entry.votes.add(config.members, &config.hasher, from, reply, keep);
            *kept_bytes = (*kept_bytes + entry.votes.kept_bytes()).saturating_sub(before);
            count
        } else {
            Count::Decided(reply.status, reply.body)
        };
        match count {
            Count::Waiting => {}
            Count::Decided(status, body) => self.on_decided(i, number, status, body, out),
            Count::NeedsBody(voters) => {
                // Whoever was to send it may be slow; if it is gone or has spoken, waiting is of no use.
                let replier = full_replier(id, number, config.members.n());
                let late = voters.contains(replier) || !self.up.contains(replier);
                let at = match entry.body_asked {
                    None | Some(0) if late => now,
                    None => Tick(now.0.saturating_add(config.retry_ns / 8)),
                    Some(_) => return,
                };
                entry.body_asked = Some(0);
                if late {
                    self.bodies.push_front((at, i, id, number));
                } else {
                    self.bodies.push_back((at, i, id, number));
                }
            }
            Count::Hopeless => {
                let (_, entry) = self.settle(i, number, out);
                let why = format!("no result can reach a quorum: {}", entry.votes.describe());
                self.finish(entry.token, Outcome::Fail(why), out);
                self.settle_stream(i);
            }
        }
    }

    pub(super) fn on_decided(
        &mut self,
        i: usize,
        number: RequestNumber,
        status: ReplyStatus,
        body: Bytes,
        out: &mut Vec<Output<T>>,
    ) {
        let (again, entry) = self.settle(i, number, out);
        let outcome = match status {
            ReplyStatus::Done if body.len() <= COPY_BYTES_MAX => Outcome::Done(Bytes::copy_from_slice(&body)),
            ReplyStatus::Done => Outcome::Done(body),
            ReplyStatus::TooOld => Outcome::UnknownOutcome(reason::TOO_OLD.into()),
            // Sent once over connections that held: this was its only chance to execute.
            ReplyStatus::Expired if !again => Outcome::NotExecuted(reason::EXPIRED.into()),
            ReplyStatus::Expired => Outcome::UnknownOutcome(reason::EXPIRED.into()),
        };
        self.finish(entry.token, outcome, out);
        if status == ReplyStatus::Expired
            && let Stream::Open(id) = self.session_mut(i).stream
        {
            self.session_mut(i).stream = Stream::Draining(id);
        }
        self.settle_stream(i);
    }

    pub(super) fn finish(&mut self, token: Option<T>, outcome: Outcome, out: &mut Vec<Output<T>>) {
        if let Some(token) = token {
            out.push(Output::Finished(token, outcome));
        }
    }

    /// Takes an entry out and says whether its group was sent more than once.
    pub(super) fn settle(
        &mut self,
        i: usize,
        number: RequestNumber,
        out: &mut Vec<Output<T>>,
    ) -> (bool, Entry<T>) {
        let session = self.session_mut(i);
        let offset = (number.0 - session.base.0) as usize;
        let entry = session.sent[offset].take().expect("the caller found it");
        while let Some(None) = session.sent.front() {
            session.sent.pop_front();
            session.base = session.base.next();
        }
        self.kept_bytes = self.kept_bytes.saturating_sub(entry.votes.kept_bytes());
        self.release(1, entry.bytes, out);
        // Progress: the next silence is a new one.
        self.retry_ns = self.config.retry_ns;
        let again = self.count_off(entry.group);
        (again, entry)
    }

    pub(super) fn release(&mut self, requests: usize, bytes: usize, out: &mut Vec<Output<T>>) {
        self.outstanding -= requests;
        match out.last_mut() {
            Some(Output::Released(r, b)) => {
                *r += requests;
                *b += bytes;
            }
            _ => out.push(Output::Released(requests, bytes)),
        }
    }

    /// One request of this group is settled.
    pub(super) fn count_off(&mut self, group: u64) -> bool {
        let sent = self.groups.get_mut(&group).expect("a group is kept while a request of it is unanswered");
        sent.left -= 1;
        let again = sent.again;
        if sent.left == 0 {
            self.groups.remove(&group);
        }
        if self.groups.is_empty() {
            self.retry_at = None;
        }
        again
    }

    /// After something was settled: reopens an ended session, frees a closed one.
    pub(super) fn settle_stream(&mut self, i: usize) {
        let Some(session) = self.sessions[i].as_mut() else { return };
        if !session.waiting.is_empty() {
            // There may be room again in what may be unanswered.
            self.wake_session(i);
        }
        let session = self.session_mut(i);
        if !session.sent.is_empty() {
            return;
        }
        if let Stream::Draining(id) = session.stream {
            session.stream = Stream::Closed;
            self.by_id.remove(&id);
            self.wake_session(i);
        }
        let session = self.session_mut(i);
        if !session.closed || !session.waiting.is_empty() {
            return;
        }
        match session.stream {
            Stream::Closed => {
                self.sessions[i] = None;
                self.free.push(i);
            }
            Stream::Open(_) => {
                if !self.idle.contains(&i) {
                    self.idle.push(i);
                }
            }
            Stream::Opening { .. } | Stream::Draining(_) => {}
        }
    }

    /// Ends what waits in a session without having left this process.
    pub(super) fn refuse_waiting(&mut self, i: usize, why: &str, out: &mut Vec<Output<T>>) {
        let Some(session) = self.sessions[i].as_mut() else { return };
        for Waiting { operation, token, .. } in std::mem::take(&mut session.waiting) {
            self.release(1, operation.len(), out);
            out.push(Output::Finished(token, Outcome::NotExecuted(why.into())));
        }
    }

    /// Repeats the requests whose results nobody sent: replicas answer executed requests whole. First to f+1 of those
    /// who have executed it, one of whom is correct; then to all.
    pub(super) fn ask_for_bodies(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        let members = self.config.members;
        let mut asked: Vec<(VoteSet, Vec<Request<Bytes>>, usize)> = Vec::new();
        for _ in 0..self.bodies.len() {
            let Some((at, i, id, number)) = self.bodies.pop_front() else { break };
            if at > now {
                self.bodies.push_back((at, i, id, number));
                continue;
            }
            if self.by_id.get(&id) != Some(&i) {
                continue;
            }
            let session = self.sessions[i].as_mut().expect("known by its id");
            let offset = number.0.wrapping_sub(session.base.0) as usize;
            let Some(Some(entry)) = session.sent.get_mut(offset) else { continue };
            let times = entry.body_asked.map_or(1, |times| times + 1);
            entry.body_asked = Some(times);
            let wait = (self.config.retry_ns / 8).saturating_mul(1 << times.min(6));
            self.bodies.push_back((Tick(now.0.saturating_add(wait)), i, id, number));
            let Some(sent) = self.groups.get(&entry.group) else { continue };
            let found = sent.group.requests().find(|r| r.session == id && r.number == number);
            let Some(request) = found else { continue };
            let request = Request {
                session: id,
                number,
                kind: RequestKind::Invoke,
                operation: sent.group.bytes().slice_ref(request.operation),
            };
            let executed = if times == 1 { entry.votes.leading_voters() } else { VoteSet::default() };
            let mut to = VoteSet::default();
            for r in executed.iter().filter(|r| self.up.contains(*r)) {
                if !members.one_correct().reached_by(to) {
                    to.insert(r);
                }
            }
            if !members.one_correct().reached_by(to) {
                to = self.up;
            }
            let more = REQUEST_HEADER_BYTES + request.operation.len();
            let open = asked.iter_mut().find(|(voters, requests, bytes)| {
                *voters == to
                    && requests.len() < self.config.group_requests_max
                    && bytes + more <= self.config.group_bytes_max
            });
            match open {
                Some((_, requests, bytes)) => {
                    requests.push(request);
                    *bytes += more;
                }
                None => asked.push((to, vec![request], GROUP_HEADER_BYTES + more)),
            }
        }
        // In order of time again: what waits longest may stand behind what was just asked for.
        self.bodies.make_contiguous().sort_by_key(|(at, ..)| *at);
        for (to, mut requests, _) in asked {
            requests.sort_by_key(|r| (r.session, r.number));
            let (group, _) = self.authenticate(self.auth, &requests);
            out.push(Output::Send(to, Message::Group(group.bytes().clone())));
        }
    }
}
