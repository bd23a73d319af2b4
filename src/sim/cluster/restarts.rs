//! Replicas that crash, lose or damage what is on their disks, and start again.

use super::*;
use crate::transfer::staging::{self, Staging};

impl Cluster {
    pub fn crash(&mut self, r: ReplicaId, tail: Tail) {
        let node = &mut self.nodes[r.index()];
        if node.core.take().is_none() {
            return;
        }
        node.boot += 1;
        // The write of decisions that nobody was told of may have ended, or not.
        let pending = node.queue.len() as u64;
        let kept = match tail {
            Tail::Lost => 0,
            Tail::Kept => pending,
            Tail::Torn => self.random.below(pending + 1),
        };
        for (batch, proof) in node.queue.drain(..).take(kept as usize) {
            node.decisions.extend(proof.map(|proof| (proof, batch.bytes.clone())));
        }
        node.proof = None;
        node.taken = None;
        node.executing = false;
        node.transfers = Transfers::new(self.setup.seeder_bytes_per_s);
        node.shelf.crash(tail, &mut self.transfer_random);
        node.disk.crash(tail, &mut self.random);
        self.network.disconnect(r);
        self.note(r, || "crash".to_string());
    }

    pub fn restart(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        if node.core.is_some() {
            return;
        }
        let correct = !self.byzantine.contains(r);
        if node.disk.is_damaged() {
            self.replace_log(r);
        }
        let node = &mut self.nodes[r.index()];
        if std::mem::take(&mut node.log_failed) {
            node.disk.held = false;
        }
        node.paused_until = Tick(0);
        if correct {
            self.rot(r);
        }
        let node = &mut self.nodes[r.index()];
        // Sometimes the newest checkpoint is damaged: the one before it has to do.
        // One that came from others is all that its log goes on from.
        let own = node.checkpoints.back().is_some_and(|c| !c.foreign);
        if node.checkpoints.len() > 1 && own && self.random.per_mille(200) {
            node.checkpoints.pop_back();
        }
        // Or all of them are: what others have has to do.
        let spoilt = self.setup.checkpoints.is_some()
            && correct
            && self.random.per_mille(60)
            && self.all().iter().all(|other| *other == r || self.has_state(*other))
            && self.others_connect(r);
        let node = &mut self.nodes[r.index()];
        if spoilt {
            node.checkpoints.clear();
        }
        let mut hollow = node.checkpoints.is_empty() && node.disk.first() > Lsn(1);
        let (base, executor) = match node.checkpoints.back() {
            Some(checkpoint) => (checkpoint.base, checkpoint.executor.clone()),
            None => (Base::default(), Executor::new(self.setup.hasher(), self.setup.sessions_max)),
        };
        node.executor = executor;
        let first = node.disk.first();
        let empty = || Replay::hollow(node.auth.clone(), first);
        let mut replay = if hollow { empty() } else { Replay::new(node.auth.clone(), base, first) };
        let mut ready = read_logs(&mut replay, &node.disk, &node.decisions);
        // Its log goes on from a state that came from others and is lost.
        if ready.is_ok() && matches!(replay.check(), Err(RestoreError::Gap { .. })) {
            replay = empty();
            hollow = true;
            ready = read_logs(&mut replay, &node.disk, &node.decisions);
        }
        if ready.is_err() && !correct {
            // What is left of a liar's logs need not make sense.
            self.replace_log(r);
            return self.restart(r);
        }
        let ready = ready.unwrap_or_else(|e| panic!("replica {r} does not restart: {e}"));
        node.hollow = hollow;
        // A state from others whose checkpoint is there, and whose record is not.
        for seq in staging::staged(&node.shelf).expect("a directory") {
            let mark = Staging::open(&node.shelf, seq).expect("a file").map(|staging| staging.mark);
            let record = mark.map(|mark| replay.transferred(mark).expect("a state of this history"));
            if let Some(record) = record.flatten() {
                node.disk.append(&record);
                node.disk.sync();
            }
        }
        let node = &mut self.nodes[r.index()];
        let mut passed = vec![node.executor.clone()];
        for batch in ready {
            if correct {
                self.history.handed(r, &batch);
            }
            let outcome = node.executor.execute(&batch);
            if batch.seq.0.is_multiple_of(self.setup.order.mark_interval) {
                passed.push(node.executor.clone());
            }
            if correct {
                self.history.executed(r, batch.seq, node.executor.replies, &outcome);
            }
        }
        if std::mem::replace(&mut node.started, true) && !self.setup.order.votes_durable {
            replay.forget();
            if std::mem::take(&mut node.new_era) {
                let era = OrderRecord::NewEra { era: replay.durable().era + 1 };
                node.disk.append(&era);
                node.disk.sync();
                replay.record(&era).expect("the next era");
            }
        }
        node.handed = replay.handed_out();
        let mut order = self.setup.order.clone();
        order.seed = self.random.next();
        let now = clock(self.now, node.skew);
        order.transfers = self.setup.checkpoints.is_some();
        let core = replay.finish(order, now);
        if core.is_err() && !correct {
            self.replace_log(r);
            return self.restart(r);
        }
        node.core = Some(core.expect("a log of ours"));
        node.before = Default::default();
        node.tick_due = Tick(u64::MAX);
        self.note(r, || "restart".to_string());
        // States passed on the way are frozen as they were the first time.
        let last = std::mem::replace(&mut self.nodes[r.index()].executor, passed[0].clone());
        for executor in passed {
            let seq = executor.executed;
            self.nodes[r.index()].executor = executor;
            self.take_root(r, seq);
        }
        self.nodes[r.index()].executor = last;
        self.schedule_tick(r);
    }

    /// Whether a replica has, or comes back with, a state of its own.
    fn has_state(&self, r: ReplicaId) -> bool {
        let node = &self.nodes[r.index()];
        let hollow = node.checkpoints.is_empty() && node.disk.first() > Lsn(1);
        !hollow
            && node.core.as_ref().is_none_or(|core| !core.is_learner() && !core.lacks_state())
            && !node.disk.is_damaged()
    }

    /// Whether the correct others get along without the state of `r`: none needs one itself, because what it lacks has left the logs
    /// of the rest. Else a state lost here, beside a liar, is one fault more than the group bears.
    fn others_connect(&self, r: ReplicaId) -> bool {
        let others = || self.correct().into_iter().filter(|other| *other != r);
        let cores = || others().filter_map(|other| self.nodes[other.index()].core.as_ref());
        let begins = cores().map(|core| core.status().base).max().unwrap_or_default();
        cores().count() == others().count() && cores().all(|core| core.status().decided >= begins)
    }

    /// The operator's answer to a lost or damaged log: `duramen recover`.
    fn replace_log(&mut self, r: ReplicaId) {
        let node = &mut self.nodes[r.index()];
        node.disk = Disk::new(node.disk.write_us);
        node.disk.append(&learner_record());
        node.disk.sync();
        node.decisions.clear();
        node.checkpoints.clear();
        node.shelf.clear();
        node.started = false;
        self.wiped += 1;
        self.note(r, || "gets an empty log".to_string());
    }

    /// Some of its durable records rot, where another correct replica has what they say.
    fn rot(&mut self, r: ReplicaId) {
        let Some((per_mille, mut random)) = self.rots.take() else { return };
        let (rare, rot) = (random.per_mille(300), *random.pick(&[Rot::Byte, Rot::Sector, Rot::All]));
        let others: Vec<ReplicaId> = self.correct().into_iter().filter(|other| *other != r).collect();
        for (at, _) in self.nodes[r.index()].disk.perishable() {
            let covered =
                |other: &ReplicaId| self.nodes[other.index()].disk.covers(&self.nodes[r.index()].disk, at);
            if !rare && random.per_mille(per_mille) && others.iter().any(covered) {
                self.nodes[r.index()].disk.rot_record(at, rot, &mut random);
                self.rotten += 1;
            }
        }
        self.rots = Some((per_mille, random));
    }

    /// The replica crashes, and nothing behind the headers of its records of a place is what was written.
    pub fn rot_place(&mut self, r: ReplicaId, place: Seq) {
        self.crash(r, Tail::Kept);
        let disk = &mut self.nodes[r.index()].disk;
        for (at, _) in disk.perishable().into_iter().filter(|(_, seq)| *seq == place) {
            disk.rot_record(at, Rot::All, &mut self.random);
        }
    }

    /// Whether a replica's log has rotten records: what they say must not be lost elsewhere.
    pub fn any_rotten(&self) -> bool {
        self.nodes.iter().any(|node| node.disk.rotten_records() > 0)
    }

    /// The replica crashes and its log is gone; when it starts again, it is a learner.
    pub fn wipe(&mut self, r: ReplicaId) {
        self.crash(r, Tail::Lost);
        self.nodes[r.index()].disk.rot();
    }

    /// Whether it lost its log and does not vote yet.
    pub fn learns(&self, r: ReplicaId) -> bool {
        let node = &self.nodes[r.index()];
        node.disk.is_damaged()
            || node.core.as_ref().is_some_and(|c| c.awaits_view())
            || node.core.is_none() && Replay::awaits_view(node.disk.read())
    }

    /// Whether it runs, without durable votes, and some of its own are forgotten.
    pub fn is_forgetful(&self, r: ReplicaId) -> bool {
        self.nodes[r.index()].core.as_ref().is_some_and(Orderer::is_forgetful)
    }

    /// Stopped for so long; whatever arrives waits.
    pub fn pause(&mut self, r: ReplicaId, us: u64) {
        self.nodes[r.index()].paused_until = Tick(self.now.0 + us * 1000);
    }

    /// A write gives an error: nothing of it is ever reported, and the replica is mute.
    pub fn fail_log(&mut self, r: ReplicaId) {
        if self.up(r) {
            let node = &mut self.nodes[r.index()];
            (node.disk.held, node.log_failed) = (true, true);
            self.step(r, Input::LogFailed("simulated: Input/output error".into()));
        }
    }

    /// All replicas are down, where votes are not durable: the next start of each begins a new era, and what no client was told
    /// may be undone. Whatever is under way is lost.
    pub fn new_era(&mut self) {
        self.history.cut();
        self.before_era = self.order;
        self.clients.iter_mut().for_each(Client::forget_answers);
        self.nodes.iter_mut().for_each(|node| node.new_era = true);
    }
}

/// What both logs hold, and the batches to execute.
fn read_logs(
    replay: &mut Replay,
    disk: &Disk,
    decisions: &[(Certificate, Bytes)],
) -> Result<Vec<Batch>, RestoreError> {
    let mut ready = Vec::new();
    for read in disk.scan() {
        match read {
            Read::Whole(record) => ready.extend(replay.record(&record)?),
            Read::Damaged(kind, seq, view, digest, payload) => {
                assert!(
                    replay.damaged(kind, seq, view, digest, &payload)?,
                    "a record that can be done without"
                );
            }
        }
    }
    for (certificate, batch) in decisions {
        ready.extend(replay.decision(certificate.clone(), batch.clone())?);
    }
    Ok(ready)
}
