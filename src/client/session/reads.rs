//! [core] Reads outside the order, which fall back to ordered ones, and questions to one replica.

use super::*;

impl<T> ClientCore<T> {
    pub(super) fn on_read(
        &mut self,
        now: Tick,
        operation: Bytes,
        deadline: Tick,
        token: T,
        out: &mut Vec<Output<T>>,
    ) {
        let members = self.config.members;
        let leader = self.leader();
        let to = if members.byzantine() { self.up } else { only(leader) };
        let possible =
            if members.byzantine() { members.quorum().reached_by(to) } else { self.up.contains(leader) };
        if !possible {
            self.read_in_order(Waiting { operation, deadline, token }, out);
            return;
        }
        self.last_id += 1;
        let id = self.last_id;
        let full_from = to.iter().nth((id % u64::from(to.count())) as usize).expect("not empty");
        let message = Read { id, full_from, operation: operation.clone() };
        out.push(Output::Send(to, Message::Read(message)));
        let fallback_at = Tick(now.0.saturating_add(self.config.retry_ns / 2)).min(deadline);
        self.read_at = Some(self.read_at.map_or(fallback_at, |at| at.min(fallback_at)));
        let votes = ReadVotes::default();
        self.reads.insert(id, PendingRead { operation, deadline, token, full_from, fallback_at, votes });
    }

    pub(super) fn on_read_reply(&mut self, from: ReplicaId, reply: ReadReply, out: &mut Vec<Output<T>>) {
        let members = self.config.members;
        let id = reply.id;
        let Some(read) = self.reads.get_mut(&id) else { return };
        let count = if members.byzantine() {
            let before = read.votes.kept_bytes();
            let bytes = reply.result.as_ref().map_or(0, Bytes::len);
            let keep = self.kept_bytes + bytes <= KEPT_BYTES_MAX;
            let count = read.votes.add(members, &self.config.hasher, from, read.full_from, reply, keep);
            self.kept_bytes = (self.kept_bytes + read.votes.kept_bytes()).saturating_sub(before);
            count
        } else {
            match (reply.status, reply.result) {
                (ReadStatus::Done, Some(body)) if body.len() <= COPY_BYTES_MAX => {
                    ReadCount::Decided(Bytes::copy_from_slice(&body))
                }
                (ReadStatus::Done, Some(body)) => ReadCount::Decided(body),
                _ => ReadCount::Ordered,
            }
        };
        match count {
            ReadCount::Waiting => {}
            ReadCount::Decided(body) => self.end_read(id, Outcome::Done(body), out),
            ReadCount::Ordered => self.fall_back(id, out),
        }
    }

    pub(super) fn take_read(&mut self, id: u64) -> Option<PendingRead<T>> {
        let read = self.reads.remove(&id)?;
        self.kept_bytes = self.kept_bytes.saturating_sub(read.votes.kept_bytes());
        if self.reads.is_empty() {
            self.read_at = None;
        }
        Some(read)
    }

    pub(super) fn end_read(&mut self, id: u64, outcome: Outcome, out: &mut Vec<Output<T>>) {
        if let Some(read) = self.take_read(id) {
            self.release(1, read.operation.len(), out);
            self.finish(Some(read.token), outcome, out);
        }
    }

    pub(super) fn fall_back(&mut self, id: u64, out: &mut Vec<Output<T>>) {
        if let Some(PendingRead { operation, deadline, token, .. }) = self.take_read(id) {
            self.read_in_order(Waiting { operation, deadline, token }, out);
        }
    }

    /// The same bytes through the order; services answer reads in `execute` too.
    pub(super) fn read_in_order(&mut self, waiting: Waiting<T>, out: &mut Vec<Output<T>>) {
        if self.shut_out() {
            let why = format!("the cluster does not take this client: {}", self.describe_links());
            self.release(1, waiting.operation.len(), out);
            out.push(Output::Finished(waiting.token, Outcome::NotExecuted(why)));
            return;
        }
        let reader = match self.reader {
            Some(reader) => reader,
            None => {
                let reader = self.session();
                self.reader = Some(reader);
                reader
            }
        };
        self.enqueue(reader.0, waiting);
    }

    pub(super) fn on_read_timer(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        let late: Vec<u64> =
            self.reads.iter().filter(|(_, r)| r.fallback_at <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.fall_back(id, out);
        }
        self.read_at = self.reads.values().map(|r| r.fallback_at).min();
    }

    pub(super) fn on_status(
        &mut self,
        replica: ReplicaId,
        digest: bool,
        deadline: Tick,
        token: T,
        out: &mut Vec<Output<T>>,
    ) {
        let refusal = match self.links.get(replica.index()) {
            None => Some(format!("there is no replica {replica}")),
            Some(Link::Up) if self.statuses.len() >= STATUS_QUERIES_MAX => {
                Some("too many status queries".into())
            }
            Some(Link::Up) => None,
            Some(Link::Connecting) => Some(format!("replica {replica} is not connected yet")),
            Some(Link::Down(why) | Link::Refused(why)) => Some(format!("replica {replica}: {why}")),
        };
        if let Some(why) = refusal {
            out.push(Output::Finished(token, Outcome::NotExecuted(why)));
            return;
        }
        self.last_id += 1;
        self.expire_at(deadline);
        let id = if digest { self.last_id | DIGEST_QUERY } else { self.last_id };
        self.statuses.insert(id, (replica, deadline, token));
        out.push(Output::Send(only(replica), Message::StatusQuery(StatusQuery { id })));
    }

    pub(super) fn on_status_answer(
        &mut self,
        from: ReplicaId,
        answer: StatusAnswer,
        out: &mut Vec<Output<T>>,
    ) {
        if self.statuses.get(&answer.id).is_some_and(|(asked, ..)| *asked == from) {
            let (_, _, token) = self.statuses.remove(&answer.id).expect("just seen");
            out.push(Output::Finished(token, Outcome::Done(answer.json.into())));
        }
    }
}
