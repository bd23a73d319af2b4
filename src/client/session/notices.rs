//! [core] What replicas say about groups: signatures wanted, refusals; and what becomes of the requests in them.

use super::*;

impl<T> ClientCore<T> {
    pub(super) fn on_notice(&mut self, now: Tick, from: ReplicaId, notice: Notice, out: &mut Vec<Output<T>>) {
        match notice.code {
            // Busy passes: the group is sent again later.
            NoticeCode::View | NoticeCode::Busy => {}
            NoticeCode::Sign => self.sign_from_now_on(now, out),
            NoticeCode::Halted => {
                self.mute.insert(from);
                self.on_refusal(now, from, &notice, out);
            }
            NoticeCode::LogFull | NoticeCode::Rejected => self.on_refusal(now, from, &notice, out),
        }
    }

    /// Signatures are good everywhere; only a MAC vector can be believed here and not there (RULES 12). So one
    /// replica's word is enough: if it lies, it costs us signatures.
    pub(super) fn sign_from_now_on(&mut self, now: Tick, out: &mut Vec<Output<T>>) {
        if self.auth != AuthKind::Mac {
            return;
        }
        self.auth = AuthKind::Signature;
        let mut groups = std::mem::take(&mut self.groups);
        for sent in groups.values_mut() {
            let requests: Vec<_> = sent.group.requests().collect();
            let (group, digest) = self.authenticate(AuthKind::Signature, &requests);
            (sent.group, sent.digest) = (group, digest);
        }
        self.groups = groups;
        self.resend(now, self.target(), 0, out);
    }

    pub(super) fn on_refusal(
        &mut self,
        now: Tick,
        from: ReplicaId,
        notice: &Notice,
        out: &mut Vec<Output<T>>,
    ) {
        let members = self.config.members;
        let everyone = self.up;
        let Some(sent) = self.groups.values_mut().find(|s| s.digest == notice.group) else {
            return;
        };
        let first = sent.refused.insert(from);
        if notice.code == NoticeCode::Rejected {
            sent.rejected.insert(from);
        }
        // Validity is pure (RULES 12): what a correct replica finds invalid, none orders.
        let invalid = if members.byzantine() {
            members.one_correct().reached_by(sent.rejected)
        } else {
            sent.rejected.count() > 0
        };
        let nobody_has_it = sent.sent_to.iter().all(|r| sent.refused.contains(r));
        let refused =
            if members.byzantine() { members.one_correct().reached_by(sent.refused) } else { nobody_has_it };
        let tried_all = everyone.iter().all(|r| sent.sent_to.contains(r));
        if invalid || refused && tried_all {
            let code = match notice.code {
                NoticeCode::LogFull => "the log is full",
                NoticeCode::Halted => "halted",
                _ => "not acceptable",
            };
            let why = format!("refused ({code}; replica {from} says: {})", notice.text);
            // A lying replica may have kept a valid group and have it ordered later: only crash mode can be sure.
            let certain = invalid || !members.byzantine() && !sent.doubled;
            let group = sent.group.clone();
            self.abandon(&group, certain, &why, out);
        } else if first && !tried_all {
            // Others may have room, or depose a leader that has none.
            let to: VoteSet = everyone.iter().filter(|r| !sent.sent_to.contains(*r)).collect();
            out.push(Output::Send(to, Message::Group(sent.group.bytes().clone())));
            sent.again = true;
            sent.sent_at = now;
            for r in to.iter() {
                sent.sent_to.insert(r);
            }
        }
    }

    /// Ends a refused group, and with it what was sent behind it in its sessions: their numbers can never be reached.
    pub(super) fn abandon(&mut self, group: &Group, certain: bool, why: &str, out: &mut Vec<Output<T>>) {
        let outcome = || {
            let why = why.to_owned();
            if certain { Outcome::NotExecuted(why) } else { Outcome::UnknownOutcome(why) }
        };
        for request in group.requests() {
            if request.kind == RequestKind::Open {
                let Some(i) = self.by_nonce.remove(&request.number.0) else { continue };
                let stream = std::mem::replace(&mut self.session_mut(i).stream, Stream::Closed);
                if let Stream::Opening { group: Some(group), .. } = stream {
                    self.count_off(group);
                }
                self.refuse_waiting(i, why, out);
                self.settle_stream(i);
                continue;
            }
            let Some(&i) = self.by_id.get(&request.session) else { continue };
            let session = self.session_mut(i);
            if let Stream::Open(id) = session.stream {
                session.stream = Stream::Draining(id);
            }
            let end = session.base.0 + session.sent.len() as u64;
            for number in request.number.0.max(session.base.0)..end {
                let session = self.session_mut(i);
                // The base moves as entries leave.
                let Some(offset) = number.checked_sub(session.base.0) else { continue };
                if let Some(Some(_)) = session.sent.get(offset as usize) {
                    let (_, entry) = self.settle(i, RequestNumber(number), out);
                    self.finish(entry.token, outcome(), out);
                }
            }
            self.settle_stream(i);
        }
    }
}
