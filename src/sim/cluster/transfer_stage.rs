//! What carries states between simulated replicas, as `transfer::stage` does between real ones: messages of the real cores over
//! connections that break, chunks hashed and written after a while, files that outlive a crash.

use super::*;
use crate::transfer::image::{Image, is_page};
use crate::transfer::leecher::{Leecher, Output as Leeched, Target};
use crate::transfer::received::Received;
use crate::transfer::seeder::Seeder;
use crate::transfer::staging::{self, Appender, Staging};

/// How often a leecher looks at its connections, microseconds.
const LOOK_US: (u64, u64) = (1_000, 10_000);
/// While chunks wait for the bound on bytes per second.
const PACED_MS: u64 = 2;
/// While somebody is served: as often as replicas say so to their order.
const SERVING_MS: u64 = 100;

/// A fetch under way.
pub(super) struct Session {
    leecher: Leecher,
    own: Option<Arc<Image>>,
    target: Option<Box<Target>>,
    file: Option<File>,
    /// What its core wants done.
    todo: VecDeque<Leeched>,
    /// It is being done.
    busy: bool,
}

/// The file that it writes to.
struct File {
    id: u64,
    staging: Arc<Staging>,
    appender: Appender,
    /// Hashed, and not yet written.
    waiting: Vec<(u64, Bytes)>,
    writing: bool,
}

impl Session {
    pub(super) fn new(leecher: Leecher, own: Option<Arc<Image>>) -> Self {
        Self { leecher, own, target: None, file: None, todo: VecDeque::new(), busy: false }
    }

    /// The place of the state in this file, if it still writes to it.
    fn place_of(&self, id: u64) -> Option<Seq> {
        self.file.as_ref().filter(|file| file.id == id).map(|file| file.staging.mark.statement.seq)
    }
}

impl Cluster {
    // ---- connections

    /// What has become of the connection to another is told to the cores.
    fn look_at_link(&mut self, r: ReplicaId, other: ReplicaId) {
        let now = self.now;
        let current = self.network.stream(now, r, other).filter(|_| self.up(r) && self.up(other));
        let transfers = &mut self.nodes[r.index()].transfers;
        let known = transfers.links.get(&other).copied();
        if known == current {
            return;
        }
        if known.is_some() {
            transfers.links.remove(&other);
            self.leech(r, |leecher, now, out| leecher.disconnected(now, other, out));
        }
        if let Some(current) = current {
            let transfers = &mut self.nodes[r.index()].transfers;
            transfers.links.insert(other, current);
            transfers.seeder.connected(other);
            self.leech(r, |leecher, now, out| leecher.connected(now, other, out));
        }
    }

    pub(super) fn look_at_links(&mut self, r: ReplicaId) {
        for other in self.all().into_iter().filter(|other| *other != r) {
            self.look_at_link(r, other);
        }
    }

    /// A replica says something to another. What it does not know to be broken loses it.
    fn say(&mut self, from: ReplicaId, to: ReplicaId, message: TransferMessage) -> Option<Tick> {
        let connection = *self.nodes[from.index()].transfers.links.get(&to)?;
        let (mut leaves, mut said) = (self.now, vec![message]);
        if let Some(mut liar) = self.nodes[from.index()].seeder_liar {
            let power = self.power(from);
            (leaves, said) = liar.says(self.now, &power, said.remove(0), &mut self.transfer_random);
            self.nodes[from.index()].seeder_liar = Some(liar);
        }
        let mut last = None;
        for message in said {
            let link = (from, to);
            let at = self.network.stream_send(self.now, link, connection, &mut self.transfer_random)?;
            let at = Tick(at.0 + leaves.since(self.now));
            last = last.max(Some(at));
            let message = Box::new(message);
            self.at_tick(at, Event::Transfer { from, to, connection, message });
        }
        last
    }

    /// It arrives.
    pub(super) fn hear(&mut self, from: ReplicaId, to: ReplicaId, connection: u64, message: TransferMessage) {
        if !self.up(to) || self.network.stream(self.now, from, to) != Some(connection) {
            return;
        }
        self.look_at_link(to, from);
        let message = match self.setup.encode {
            false => message,
            true => {
                let frame = message.frame();
                match TransferMessage::decode(frame.kind(), frame.payload()) {
                    Ok(message) => message,
                    Err(why) => {
                        assert!(self.byzantine.contains(from), "{from} sends what cannot be read: {why}");
                        return *self.discards.entry(format!("transfer: {why}")).or_default() += 1;
                    }
                }
            }
        };
        let chunk = matches!(message, TransferMessage::Chunk { .. } | TransferMessage::Packed { .. });
        self.fetched.chunks += u64::from(chunk);
        match message.is_of_seeder() {
            true => self.leech(to, |leecher, now, out| leecher.on_message(now, from, message, out)),
            false => self.seed(to, from, |seeder, now, out| seeder.on_message(now, from, message, out)),
        }
        self.look_later(to);
    }

    /// What a seeder had handed to a connection is at the other end.
    pub(super) fn drained(&mut self, r: ReplicaId, to: ReplicaId, connection: u64) {
        if self.up(r) && self.network.stream(self.now, r, to) == Some(connection) {
            self.seed(r, to, |seeder, now, out| seeder.room(now, to, out));
            self.look_later(r);
        }
    }

    // ---- steps of the cores

    fn seed(
        &mut self,
        r: ReplicaId,
        to: ReplicaId,
        step: impl FnOnce(&mut Seeder, Tick, &mut Vec<TransferMessage>),
    ) {
        let mut out = Vec::new();
        step(&mut self.nodes[r.index()].transfers.seeder, self.now, &mut out);
        self.serve(r, to, out);
    }

    fn serve(&mut self, r: ReplicaId, to: ReplicaId, messages: Vec<TransferMessage>) {
        let connection = self.nodes[r.index()].transfers.links.get(&to).copied();
        let mut last = None;
        for message in messages {
            last = last.max(self.say(r, to, message));
        }
        if let (Some(at), Some(connection)) = (last, connection) {
            self.at_tick(at, Event::Drained { node: r, to, connection });
        }
    }

    /// A step of the leecher, and what it wants done.
    pub(super) fn leech(&mut self, r: ReplicaId, step: impl FnOnce(&mut Leecher, Tick, &mut Vec<Leeched>)) {
        let now = self.now;
        let Some(session) = &mut self.nodes[r.index()].transfers.session else { return };
        let mut out = Vec::new();
        step(&mut session.leecher, now, &mut out);
        session.todo.extend(out);
        if std::mem::replace(&mut session.busy, true) {
            return;
        }
        // The session may end meanwhile.
        while let Some(session) = &mut self.nodes[r.index()].transfers.session {
            let Some(output) = session.todo.pop_front() else {
                session.busy = false;
                return;
            };
            self.leeched(r, output);
        }
    }

    fn leeched(&mut self, r: ReplicaId, output: Leeched) {
        match output {
            Leeched::Send(to, message) => _ = self.say(r, to, message),
            Leeched::Store(target) => self.store(r, target),
            Leeched::Check { chunk, from, body, place: (_, index), expected } => {
                let Some(id) = self.file(r).map(|file| file.id) else { return };
                let (algorithm, length) = (self.setup.hasher().algorithm, body.len());
                let right = body.open().filter(|bytes| is_page(algorithm, index, bytes, &expected));
                self.after(r, (10, 500), move |c| c.checked(r, id, (chunk, from, length), right));
            }
            Leeched::Write { chunk, bytes } => self.write(r, chunk, bytes),
            Leeched::Complete => {
                let algorithm = self.setup.hasher().algorithm;
                let Some(session) = &mut self.nodes[r.index()].transfers.session else { return };
                let (Some(target), Some(file)) = (session.target.take(), &session.file) else { return };
                let (staging, own) = (file.staging.clone(), session.own.clone());
                self.received(r, Received { target: *target, staging, own, algorithm });
            }
            Leeched::Blame(who, why) => {
                self.note(r, || format!("of the state it fetches: {who} {why}"));
                let silent = why.starts_with("sends nothing");
                let known = silent || self.byzantine.contains(who) || self.byzantine.contains(r);
                assert!(known, "{r} says of {who}, which is correct: {why}");
                self.fetched.blamed += u64::from(!silent);
            }
        }
    }

    fn file(&mut self, r: ReplicaId) -> Option<&mut File> {
        self.nodes[r.index()].transfers.session.as_mut()?.file.as_mut()
    }

    /// Does something after a while, if the replica has not crashed by then.
    fn after(&mut self, r: ReplicaId, us: (u64, u64), what: impl FnOnce(&mut Cluster) + 'static) {
        let boot = self.nodes[r.index()].boot;
        let us = self.transfer_random.between(us.0, us.1);
        self.later(us, move |c| {
            if c.nodes[r.index()].boot == boot {
                what(c);
            }
        });
    }

    // ---- the file

    /// A file for the target, with what earlier ones hold of it.
    fn store(&mut self, r: ReplicaId, target: Box<Target>) {
        let algorithm = self.setup.hasher().algorithm;
        let node = &mut self.nodes[r.index()];
        let (shelf, seq, done) = (node.shelf.clone(), target.mark.statement.seq, node.transfers.done);
        // No room.
        let Ok((staging, appender, kept)) = staging::begin(&shelf, &target, algorithm) else {
            return node.transfers.end();
        };
        for old in staging::staged(&shelf).expect("a directory") {
            if old != seq && done != Some(old) {
                staging::remove(&shelf, old).expect("it is there");
            }
        }
        self.fetched.kept += kept;
        let (id, staging) = (node.transfers.files + 1, Arc::new(staging));
        node.transfers.files = id;
        if let Some(session) = &mut node.transfers.session {
            let (waiting, writing) = (Vec::new(), false);
            session.file = Some(File { id, staging: staging.clone(), appender, waiting, writing });
            session.target = Some(target);
        }
        self.leech(r, |leecher, now, out| leecher.stored(now, &staging, out));
        self.trouble(r);
    }

    fn checked(
        &mut self,
        r: ReplicaId,
        id: u64,
        (chunk, from, length): (u64, ReplicaId, u64),
        right: Option<Bytes>,
    ) {
        let session = self.nodes[r.index()].transfers.session.as_ref();
        let Some(seq) = session.and_then(|session| session.place_of(id)) else { return };
        let is_right = right.is_some();
        if let Some(bytes) = right {
            self.write(r, chunk, bytes);
        }
        self.leech(r, |leecher, now, out| {
            leecher.checked(now, seq, (chunk, from, length), is_right, out);
        });
        self.look_later(r);
    }

    fn write(&mut self, r: ReplicaId, chunk: u64, bytes: Bytes) {
        let write_us = self.nodes[r.index()].disk.write_us;
        let Some(file) = self.file(r) else { return };
        file.waiting.push((chunk, bytes));
        if !std::mem::replace(&mut file.writing, true) {
            let id = file.id;
            self.after(r, write_us, move |c| c.written(r, id));
        }
    }

    /// What gathered is in the file: a crash of the process does not take it back, a loss of power may.
    fn written(&mut self, r: ReplicaId, id: u64) {
        let held = self.nodes[r.index()].disk.held;
        let Some(file) = self.file(r).filter(|file| file.id == id) else { return };
        if held {
            return self.after(r, (1000, 1000), move |c| c.written(r, id));
        }
        file.writing = false;
        let File { staging, appender, waiting, .. } = file;
        let appended = waiting.drain(..).try_fold(0, |sum, (chunk, bytes)| {
            appender.append(staging, chunk, &bytes).map(|written| sum + written)
        });
        let written = appended.and_then(|sum| Ok(sum + appender.flush(staging)?));
        let seq = staging.mark.statement.seq;
        match written {
            Ok(bytes) => self.leech(r, |leecher, now, out| leecher.written(now, seq, bytes, out)),
            // No room. What came stays.
            Err(_) => self.nodes[r.index()].transfers.end(),
        }
        self.look_later(r);
    }

    // ---- time

    /// Time passed.
    pub(super) fn look_around(&mut self, r: ReplicaId, due: Tick) {
        let now = self.now;
        let transfers = &mut self.nodes[r.index()].transfers;
        if transfers.look_due != due {
            return;
        }
        transfers.look_due = Tick(u64::MAX);
        let mut out = Vec::new();
        transfers.seeder.tick(now, |to, messages| out.push((to, messages)));
        let serving: Vec<Seq> = transfers.seeder.serving().map(|serving| serving.seq).collect();
        let fetches = transfers.session.is_some();
        out.into_iter().for_each(|(to, messages)| self.serve(r, to, messages));
        serving.into_iter().for_each(|seq| self.step(r, Input::Seeding(seq)));
        if fetches && let Some(core) = &self.nodes[r.index()].core {
            let leader = core.view().leader(self.setup.members.n());
            self.look_at_links(r);
            self.leech(r, |leecher, now, out| leecher.leads(now, Some(leader), out));
            self.leech(r, |leecher, now, out| leecher.tick(now, out));
        }
        let node = &mut self.nodes[r.index()];
        let mark = node.core.as_ref().map_or(Seq(0), |core| core.status().mark);
        if let Some(seq) = node.transfers.done.take_if(|seq| *seq <= mark) {
            staging::remove(&node.shelf, seq).expect("a directory");
        }
        self.look_later(r);
    }

    /// It looks around again when there is something to see.
    pub(super) fn look_later(&mut self, r: ReplicaId) {
        let now = self.now;
        let node = &mut self.nodes[r.index()];
        let (boot, transfers) = (node.boot, &mut node.transfers);
        let mut due = Tick(u64::MAX);
        if let Some(session) = &transfers.session {
            let us = self.transfer_random.between(LOOK_US.0, LOOK_US.1);
            due = session.leecher.next_deadline(now).max(now).min(Tick(now.0 + us * 1000));
        }
        if transfers.seeder.waits() {
            due = due.min(now.plus_ms(PACED_MS));
        }
        if transfers.seeder.serving().next().is_some() || transfers.done.is_some() {
            due = due.min(now.plus_ms(SERVING_MS));
        }
        if due < transfers.look_due && node.core.is_some() {
            transfers.look_due = due;
            self.at_tick(due, Event::LookAround { node: r, boot, due });
        }
    }

    // ---- what goes wrong on the way

    /// Chunks are about to come, and something happens before all are here.
    fn trouble(&mut self, r: ReplicaId) {
        let Some(mut random) = self.troubles.take() else { return };
        let us = *random.pick(&[1_000, 20_000, 300_000]);
        let at = random.between(0, us);
        let others: Vec<ReplicaId> = self.all().into_iter().filter(|other| *other != r).collect();
        let other = *random.pick(&others);
        let down_us = random.between(0, 300_000);
        let tail = *random.pick(&[Tail::Lost, Tail::Kept, Tail::Torn, Tail::Torn]);
        let crashes = self.setup.order.votes_durable;
        match random.below(8) {
            0 | 1 if crashes => self.later(at, move |c| c.trouble_by(r, tail, down_us)),
            2 if crashes => self.later(at, move |c| c.trouble_by(other, tail, down_us)),
            3 => self.later(at, move |c| {
                c.network.cut(r, other, true);
                c.later(down_us, move |c| c.network.cut(r, other, false));
            }),
            4 => self.later(at, move |c| c.pause(other, down_us)),
            5 => self.later(at, move |c| {
                c.nodes[r.index()].shelf.set_full(true);
                c.later(down_us, move |c| c.nodes[r.index()].shelf.set_full(false));
            }),
            6 if self.byzantine.contains(other) => self.later(at, move |c| c.drain(other, 20)),
            _ => {}
        }
        self.troubles = Some(random);
    }

    /// A liar asks all for all they have, again and again, and has no use for it (B29).
    fn drain(&mut self, liar: ReplicaId, times: u64) {
        self.look_at_links(liar);
        for to in self.all().into_iter().filter(|to| *to != liar) {
            let Some(seq) = self.nodes[to.index()].transfers.seeder.newest() else { continue };
            let (ranges, again) = (std::iter::once(0..u64::MAX).collect(), (0..64).collect());
            let all =
                TransferMessage::GetChunks { seq, round: 0, ranges, replace: true, packed: false, again };
            for message in [TransferMessage::Ask, TransferMessage::GetManifest(seq), all] {
                self.say(liar, to, message);
            }
        }
        if times > 0 {
            self.after(liar, (1_000, 10_000), move |c| c.drain(liar, times - 1));
        }
    }

    fn trouble_by(&mut self, r: ReplicaId, tail: Tail, down_us: u64) {
        if self.troubles.is_some() {
            self.crash(r, tail);
            self.later(down_us, move |c| c.restart(r));
        }
    }
}
