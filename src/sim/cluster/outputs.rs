//! What cores put out is done: sent, written, executed, answered.

use super::*;

impl Cluster {
    pub(super) fn outputs(&mut self, r: ReplicaId, outputs: Vec<Output>) {
        for output in outputs {
            let (what, value) = match &output {
                Output::Send(to, m) => (16 + u64::from(m.kind()), u64::from(to.0)),
                Output::Broadcast(m) => (80 + u64::from(m.kind()), 0),
                Output::Append(lsn, _) => (1, lsn.0),
                Output::Execute(batch) => {
                    (2, u64::from_le_bytes(batch.digest.0[..8].try_into().expect("8 of 32")))
                }
                Output::ViewStarted(view) => (3, view.0),
                _ => (4, 0),
            };
            self.mark_trace(what << 8 | u64::from(r.0), value);
            match output {
                Output::Send(to, message) => {
                    assert!(to != r, "a message to oneself: {message:?}");
                    self.send(r, to, message);
                }
                Output::Broadcast(message) => {
                    for to in self.all().into_iter().filter(|to| *to != r) {
                        self.send(r, to, message.clone());
                    }
                }
                Output::Append(lsn, record) => {
                    let at = self.nodes[r.index()].disk.append(&record);
                    assert_eq!(at, lsn, "records are numbered in order");
                    self.submit(r);
                }
                Output::Decision(certificate) => self.nodes[r.index()].proof = Some(certificate),
                Output::Execute(batch) => {
                    let lies = self.byzantine.contains(r);
                    let node = &mut self.nodes[r.index()];
                    assert_eq!(batch.seq, node.handed.next(), "handed to execution out of sequence");
                    node.handed = batch.seq;
                    let proof = node.proof.take();
                    node.queue.push_back((batch.clone(), proof));
                    if !lies {
                        self.history.handed(r, &batch);
                    }
                    self.note(r, || format!("hands out {} {}", batch.seq, batch.digest));
                    self.start_executing(r);
                }
                Output::Resend(group) => {
                    let answers = self.nodes[r.index()].executor.again(group.group());
                    self.answers(r, answers);
                }
                Output::ServeBatch { to, seq, lsn } => {
                    let node = &self.nodes[r.index()];
                    let batch = match lsn {
                        // Perhaps not yet on disk: whoever asks asks another.
                        ELSEWHERE => match node.decisions.iter().rfind(|(c, _)| c.seq == seq) {
                            Some((_, batch)) => Some(batch.clone()),
                            None => continue,
                        },
                        lsn => node.disk.batch(lsn),
                    };
                    let batch = batch
                        .unwrap_or_else(|| panic!("{r} serves place {seq} from record {lsn}, not durable"));
                    if to != r {
                        self.send(r, to, Message::BatchIs(BatchIs { seq, batch }));
                    } else {
                        let hasher = self.setup.hasher();
                        let batch = Batch::decode(&hasher, seq, batch).expect("our own batch");
                        self.step(r, Input::OwnBatch(Arc::new(batch)));
                    }
                }
                Output::Rooted(mark) => self.root_is_certified(r, mark),
                Output::Behind => self.behind(r),
                Output::Quarantined(why) => {
                    self.note(r, || format!("is quarantined: {why}"));
                    assert!(self.byzantine.contains(r), "{r} is quarantined: {why}");
                    let node = &mut self.nodes[r.index()];
                    node.taken = None;
                    node.checkpoints.clear();
                    node.transfers.distrust();
                }
                Output::Restored => self.nodes[r.index()].hollow = false,
                Output::Install(_) => self.want_install(r),
                Output::NotInstalled(seq) => self.not_installed(r, seq),
                Output::Covered { seq, batches } => self.store_checkpoint(r, Base { seq, batches }),
                Output::Recycle { upto, below } => {
                    let node = &mut self.nodes[r.index()];
                    self.recycled += below.0.saturating_sub(node.disk.first().0);
                    node.disk.recycle(below);
                    node.decisions.retain(|(c, _)| c.seq > upto);
                }
                Output::ReadReady(tokens) => {
                    self.reads_ready(r, &tokens);
                    self.nodes[r.index()].ready.extend(tokens);
                }
                Output::ReadRefused(tokens) => {
                    self.reads_refused(&tokens);
                    self.nodes[r.index()].refused.extend(tokens);
                }
                Output::ViewStarted(view) => {
                    self.views_started += 1;
                    self.note(r, || format!("begins view {view}"));
                }
                Output::Halt(why) => {
                    self.note(r, || format!("halts: {why}"));
                    let failed = self.nodes[r.index()].log_failed;
                    assert!(self.may_halt || failed || self.byzantine.contains(r), "{r} halts: {why}");
                }
                Output::Notice { origin, code: NoticeCode::Sign, .. } => {
                    if let Some(client) = self.clients.get_mut(origin as usize) {
                        client.must_sign();
                    }
                }
                Output::Notice { .. } => {}
            }
            if self.nodes[r.index()].core.is_none() {
                return;
            }
        }
    }

    pub(super) fn submit(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        while let Some((write, us)) = node.disk.submit(&mut self.random) {
            let boot = node.boot;
            self.order += 1;
            let at = Tick(self.now.0 + us * 1000);
            self.heap.push(Due { at, order: self.order, event: Event::Written { node: r, boot, write } });
        }
    }

    pub(super) fn start_executing(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        if node.executing || node.queue.is_empty() {
            return;
        }
        node.executing = true;
        let boot = node.boot;
        let us = self.random.between(self.setup.execute_us.0, self.setup.execute_us.1);
        self.at(us, Event::Executed { node: r, boot });
    }

    pub(super) fn executed(&mut self, r: ReplicaId) {
        let lies = self.byzantine.contains(r);
        let node = &mut self.nodes[r.index()];
        let (batch, proof) = node.queue.pop_front().expect("it was being executed");
        node.decisions.extend(proof.map(|proof| (proof, batch.bytes.clone())));
        let outcome = node.executor.execute(&batch);
        let (seq, replies) = (batch.seq, node.executor.replies);
        if !lies {
            self.history.executed(r, seq, replies, &outcome);
        }
        self.answers(r, outcome.answers);
        self.step(r, Input::Executed { seq, replies, progress: outcome.progress });
        self.take_checkpoint(r, seq);
        self.take_root(r, seq);
        self.nodes[r.index()].executing = false;
        self.start_executing(r);
        self.try_install(r);
    }

    pub(super) fn answers(&mut self, r: ReplicaId, mut answers: Vec<Answer>) {
        let node = &self.nodes[r.index()];
        let Some(core) = &node.core else { return };
        let leads = core.leads();
        // Crash mode with durable votes: only the leader answers (RULES 14).
        let all_answer = self.setup.members.byzantine() || !self.setup.order.votes_durable;
        if answers.is_empty() || !all_answer && !leads {
            return;
        }
        self.nodes[r.index()].replied += answers.iter().filter(|a| a.session != SessionId(0)).count() as u64;
        if self.byzantine.contains(r) && self.random.per_mille(500) {
            for a in &mut answers {
                a.body = Bytes::from_static(b"8 wrong!");
            }
        }
        if let Some(adversary) = &mut self.nodes[r.index()].adversary {
            answers = answers.into_iter().flat_map(|a| twisted(&mut **adversary, a)).collect();
        }
        let us = self.random.between(50, 500);
        if !self.random.per_mille(self.setup.weather.loss) {
            self.at(us, Event::Answers { from: r, leads, answers });
        }
    }
}

/// What a liar tells the client in place of an answer.
fn twisted(adversary: &mut dyn Adversary, answer: Answer) -> Vec<Answer> {
    let Answer { client, session, number, status, body } = answer;
    let status = match status {
        1 => ReplyStatus::Done,
        2 => ReplyStatus::Expired,
        _ => ReplyStatus::TooOld,
    };
    let mut replies = vec![Reply { session, number, status, digest_only: false, body }];
    adversary.replies(&mut replies);
    let told = |Reply { session, number, status, body, .. }: Reply| Answer {
        client,
        session,
        number,
        status: status as u8,
        body,
    };
    replies.into_iter().map(told).collect()
}
