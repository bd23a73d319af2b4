//! A leecher among three seeders, one of which lies (FAULTS B21 to B30): messages take a millisecond, time is counted.

use super::FetchConfig;
use super::image::{Image, Part};
use super::leecher::{Leecher, Output, Target};
use super::messages::Message;
use super::received::Received;
use super::seeder::Seeder;
use super::staging::{Staging, begin};
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pages::page_digest;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::service::{Context, KeyValueStore, KvWrite, NullService, Service};
use crate::types::*;
use crate::wire::messages::{MarkStatement, StateCertificate};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

const ALGORITHM: DigestAlgorithm = DigestAlgorithm::Blake3;
pub(super) const LIAR: ReplicaId = ReplicaId(1);
pub(super) const ME: ReplicaId = ReplicaId(0);

fn put(store: &mut KeyValueStore, i: u64, value: u8) {
    let context = Context {
        seq: Seq(i + 1),
        index: 0,
        time: WallTime(i),
        seed: 0,
        client: ClientId(1),
        session: SessionId(1),
    };
    let mut bytes = vec![value; 2000];
    bytes[..8].copy_from_slice(&i.to_le_bytes());
    store.execute(&context, &KvWrite::Put { key: &i.to_be_bytes(), value: &bytes }.into_operation());
}

pub(super) fn store(keys: u64) -> KeyValueStore {
    let mut store = KeyValueStore::new();
    (0..keys).for_each(|i| put(&mut store, i, 1));
    store
}

fn table() -> ClientTable {
    let mut table = ClientTable::new(ClientTableLimits::default());
    let id = table.open(ClientId(1), 7, Seq(3), 0);
    table.store(id, RequestNumber(1), Seq(4), Bytes::from(vec![5; 300]));
    table
}

pub(super) fn image(service: &dyn Service, seq: u64) -> Arc<Image> {
    let state = service.snapshot();
    let frozen = Frozen { seq: Seq(seq), time: WallTime(9), replies: Digest([8; 32]), table: table(), state };
    Arc::new(Image::of(frozen, ALGORITHM).unwrap())
}

/// Of a store with so many entries of 2000 bytes, at place 64.
pub(super) fn image_of(keys: u64) -> Arc<Image> {
    image(&store(keys), 64)
}

pub(super) fn mark(image: &Image) -> StateCertificate {
    let (seq, batches, replies, state) = (image.seq, Digest([7; 32]), image.replies, image.root(None));
    let statement = MarkStatement { seq, batches, replies, state };
    StateCertificate { statement, ..StateCertificate::default() }
}

/// What the liar makes of a message that it would send.
pub(super) type Lie = Box<dyn FnMut(Message) -> Vec<Message>>;

pub(super) struct Rig {
    pub now: Tick,
    due: BinaryHeap<std::cmp::Reverse<(Tick, u64)>>,
    events: BTreeMap<u64, Event>,
    order: u64,
    pub seeders: BTreeMap<ReplicaId, Seeder>,
    pub lies: BTreeMap<ReplicaId, Lie>,
    /// Ticks that each message of the liar takes.
    slow: u64,
    /// As in the configuration.
    pub config: FetchConfig,
    leecher: Option<Leecher>,
    dir: tempfile::TempDir,
    staging: Option<(Arc<Staging>, super::staging::Appender)>,
    target: Option<Target>,
    pub complete: bool,
    pub blamed: Vec<(ReplicaId, String)>,
    chunk_bytes: u64,
    pub chunks: BTreeMap<ReplicaId, u64>,
    proven: Vec<StateCertificate>,
}

enum Event {
    ToSeeder(ReplicaId, Message),
    ToLeecher(ReplicaId, Message),
    Room(ReplicaId),
    /// With what it held, if that is right.
    Checked {
        seq: Seq,
        chunk: u64,
        from: ReplicaId,
        length: u64,
        right: Option<Bytes>,
    },
    Written(Seq, u64),
}

impl Rig {
    pub fn new(images: &[Arc<Image>]) -> Self {
        Self::among(3, images)
    }

    /// With so many seeders.
    pub fn among(seeders: u32, images: &[Arc<Image>]) -> Self {
        let proven: Vec<StateCertificate> = images.iter().map(|i| mark(i)).collect();
        let seeders = (1..=seeders).map(|i| {
            let mut seeder = Seeder::new(0);
            images.iter().zip(&proven).for_each(|(image, mark)| seeder.offer(mark.clone(), image.clone()));
            (ReplicaId(i), seeder)
        });
        Self {
            now: Tick(1),
            due: BinaryHeap::new(),
            events: BTreeMap::new(),
            order: 0,
            seeders: seeders.collect(),
            lies: BTreeMap::new(),
            slow: 1_000_000,
            config: FetchConfig::default(),
            leecher: None,
            dir: tempfile::tempdir().unwrap(),
            staging: None,
            target: None,
            complete: false,
            blamed: Vec::new(),
            chunk_bytes: 0,
            chunks: BTreeMap::new(),
            proven,
        }
    }

    pub fn lying(images: &[Arc<Image>], lie: impl FnMut(Message) -> Vec<Message> + 'static) -> Self {
        let mut rig = Self::new(images);
        rig.lies.insert(LIAR, Box::new(lie));
        rig
    }

    /// A quorum names this state too.
    pub fn certify(&mut self, image: &Image) {
        self.proven.push(mark(image));
    }

    /// One seeder offers this state too.
    pub fn offer(&mut self, from: u32, image: &Arc<Image>) {
        let seeder = self.seeders.get_mut(&ReplicaId(from)).expect("it is there");
        seeder.offer(mark(image), image.clone());
    }

    fn at(&mut self, ns: u64, event: Event) {
        self.order += 1;
        self.due.push(std::cmp::Reverse((Tick(self.now.0 + ns), self.order)));
        self.events.insert(self.order, event);
    }

    pub fn start(&mut self, own: Option<Arc<Image>>) {
        let proven = self.proven.clone();
        let mut out = Vec::new();
        let above = own.as_ref().map_or(Seq(0), |own| own.seq);
        let leecher = Leecher::start(
            self.config.clone(),
            ALGORITHM,
            (above, own),
            self.seeders.keys().copied().collect::<BTreeSet<_>>(),
            Box::new(move |m| proven.contains(m)),
            self.now,
            &mut out,
        );
        self.leecher = Some(leecher);
        self.apply(out);
    }

    fn leech(&mut self, step: impl FnOnce(&mut Leecher, Tick, &mut Vec<Output>)) {
        let mut out = Vec::new();
        step(self.leecher.as_mut().expect("started"), self.now, &mut out);
        self.apply(out);
    }

    fn apply(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(to, message) => self.at(1_000_000, Event::ToSeeder(to, message)),
                Output::Store(target) => {
                    let of = *target;
                    let (staging, appender, _) = begin(self.dir.path(), &of, ALGORITHM).unwrap();
                    let staging = Arc::new(staging);
                    self.staging = Some((staging.clone(), appender));
                    self.target = Some(of);
                    self.leech(|leecher, now, out| leecher.stored(now, &staging, out));
                }
                Output::Check { chunk, from, body, place: (_, index), expected } => {
                    let length = body.len();
                    let right = |bytes: &Bytes| page_digest(ALGORITHM, index, bytes) == expected;
                    let right = body.open().filter(right);
                    let seq = self.target.as_ref().expect("there is one").mark.statement.seq;
                    self.at(10_000, Event::Checked { seq, chunk, from, length, right });
                }
                Output::Write { chunk, bytes } => self.write(chunk, &bytes),
                Output::Complete => self.complete = true,
                Output::Blame(who, why) => self.blamed.push((who, why)),
            }
        }
    }

    fn write(&mut self, chunk: u64, bytes: &Bytes) {
        let (staging, appender) = self.staging.as_mut().expect("stored");
        let mut written = appender.append(staging, chunk, bytes).unwrap();
        written += appender.flush(staging).unwrap();
        let seq = staging.mark.statement.seq;
        self.at(10_000, Event::Written(seq, written));
    }

    /// What a seeder would say, or the liar says; the connection drains by itself.
    fn say(&mut self, from: ReplicaId, messages: Vec<Message>) {
        let mut delay = if from == LIAR { self.slow } else { 1_000_000 };
        let mut sent = false;
        for message in messages {
            sent |= matches!(message, Message::Chunk { .. } | Message::Packed { .. });
            let said = match self.lies.get_mut(&from) {
                Some(lie) => lie(message),
                None => vec![message],
            };
            for message in said {
                self.at(delay, Event::ToLeecher(from, message));
                delay += if from == LIAR { self.slow } else { 10_000 };
            }
        }
        if sent {
            self.at(delay, Event::Room(from));
        }
    }

    /// Runs for at most so many virtual seconds; whether all is here.
    pub fn run(&mut self, seconds: u64) -> bool {
        let until = Tick(self.now.0 + seconds * 1_000_000_000);
        while !self.complete && self.now < until {
            self.one();
        }
        self.complete
    }

    /// The next thing that happens.
    pub fn one(&mut self) {
        let deadline = self.leecher.as_ref().expect("started").next_deadline(self.now);
        let next = self.due.peek().map(|r| r.0.0);
        if next.is_none_or(|next| next > deadline) {
            self.now = self.now.max(deadline).max(Tick(self.now.0 + 1));
            let now = self.now;
            let mut said = Vec::new();
            for (id, seeder) in &mut self.seeders {
                seeder.tick(now, |_, messages| said.push((*id, messages)));
            }
            said.into_iter().for_each(|(id, messages)| self.say(id, messages));
            return self.leech(|leecher, now, out| leecher.tick(now, out));
        }
        let std::cmp::Reverse((at, order)) = self.due.pop().expect("peeked");
        self.now = self.now.max(at);
        let now = self.now;
        match self.events.remove(&order).expect("scheduled") {
            Event::ToSeeder(to, message) => {
                let Some(seeder) = self.seeders.get_mut(&to) else { return };
                let mut out = Vec::new();
                seeder.on_message(now, ME, message, &mut out);
                self.say(to, out);
            }
            Event::ToLeecher(from, message) => {
                if let Message::Chunk { bytes, .. } | Message::Packed { bytes, .. } = &message {
                    self.chunk_bytes += bytes.len() as u64;
                    *self.chunks.entry(from).or_default() += 1;
                }
                self.leech(|leecher, now, out| leecher.on_message(now, from, message, out));
            }
            Event::Room(of) => {
                let Some(seeder) = self.seeders.get_mut(&of) else { return };
                let mut out = Vec::new();
                seeder.room(now, ME, &mut out);
                self.say(of, out);
            }
            Event::Checked { seq, chunk, from, length, right } => {
                if let Some(bytes) = &right {
                    self.write(chunk, bytes);
                }
                let right = right.is_some();
                self.leech(|l, now, out| l.checked(now, seq, (chunk, from, length), right, out));
            }
            Event::Written(seq, bytes) => {
                self.leech(|leecher, now, out| leecher.written(now, seq, bytes, out));
            }
        }
    }

    /// Takes the state over into `service`; it is the image's then.
    fn restore(&self, service: &mut dyn Service, own: Option<Arc<Image>>) -> ClientTable {
        let target = self.target.clone().expect("complete");
        let staging = self.staging.as_ref().expect("complete").0.clone();
        let received = Received { target, staging, own, algorithm: ALGORITHM };
        received.restore(service, ClientTableLimits::default()).unwrap()
    }

    fn blames(&self, words: &str) -> bool {
        self.blamed.iter().any(|(who, why)| *who == LIAR && why.contains(words))
    }

    /// All is here in at most one and a half times what it takes honestly, it is right, and only liars are blamed.
    pub fn ends_well(&mut self, honest_ns: u64, image: &Image) {
        assert!(self.run(60), "{:?} {:?}", self.leecher.as_ref().map(Leecher::phase), self.blamed);
        assert!(self.blamed.iter().all(|(who, _)| self.lies.contains_key(who)), "{:?}", self.blamed);
        // Bounds of silence, one second each, and nothing more. Who takes seeders in turn meets liars in turn.
        let silence_ns = 4_500_000_000 * self.lies.len().max(1) as u64;
        assert!(self.now.0 < honest_ns * 3 / 2 + silence_ns, "{} ns, honestly {honest_ns}", self.now.0);
        let mut store = KeyValueStore::new();
        let restored = self.restore(&mut store, None);
        let state = store.snapshot();
        let (seq, time, replies) = (image.seq, image.time, image.replies);
        let again = Image::of(Frozen { seq, time, replies, table: restored, state }, ALGORITHM).unwrap();
        assert_eq!(again.root(None), image.root(None));
    }
}

fn honest(images: &[Arc<Image>]) -> u64 {
    let mut rig = Rig::new(images);
    rig.start(None);
    rig.ends_well(u64::MAX / 4, images.last().unwrap());
    assert_eq!(rig.blamed, vec![]);
    assert_eq!(rig.chunks.len(), 3, "all of them send");
    rig.now.0
}

#[test]
fn a_state_comes_from_all_and_is_what_it_was() {
    honest(&[image(&store(8000), 64)]);
}

#[test]
fn an_opaque_state_comes_in_pieces() {
    let image = image(&NullService::new(0), 64);
    let mut rig = Rig::new(std::slice::from_ref(&image));
    rig.start(None);
    assert!(rig.run(10));
    let mut service = NullService::new(0);
    rig.restore(&mut service, None);
}

#[test]
fn what_is_here_already_does_not_come_again() {
    let mut service = store(8000);
    let own = image(&service, 64);
    let pages = own.part(Part::State).page_count();
    // One page in a hundred changes.
    (0..pages / 100).for_each(|i| put(&mut service, i * 100 * (8000 / pages), 2));
    let newer = image(&service, 128);
    let mut rig = Rig::new(std::slice::from_ref(&newer));
    rig.start(Some(own.clone()));
    assert!(rig.run(20));
    let all: u64 = service.snapshot().bytes();
    assert!(rig.chunk_bytes * 1000 <= all * 15, "{} of {all} bytes came", rig.chunk_bytes);
    let mut store = KeyValueStore::new();
    rig.restore(&mut store, Some(own));
    assert_eq!(store.digest(ALGORITHM), service.digest(ALGORITHM));
}

#[test]
fn what_came_before_a_restart_does_not_come_again() {
    let image = image(&store(8000), 64);
    let mut rig = Rig::new(std::slice::from_ref(&image));
    rig.start(None);
    let all: u64 = (0..image.part(Part::State).page_count())
        .map(|i| {
            let mut bytes = Vec::new();
            image.part(Part::State).page(i, &mut bytes);
            bytes.len() as u64
        })
        .sum();
    while rig.chunk_bytes < all / 2 {
        assert!(!rig.complete);
        rig.one();
    }
    // What was being hashed is lost.
    let before = rig.chunk_bytes;
    (rig.due, rig.events) = Default::default();
    (rig.staging, rig.leecher) = (None, None);
    rig.seeders.values_mut().for_each(|seeder| seeder.connected(ME));
    rig.start(None);
    assert!(rig.run(60));
    assert!(rig.chunk_bytes < all + before / 2, "{before} before, {} in all, of {all}", rig.chunk_bytes);
    let mut again = KeyValueStore::new();
    rig.restore(&mut again, None);
    assert_eq!(again.digest(ALGORITHM), store(8000).digest(ALGORITHM));
}

#[test]
fn a_state_that_goes_away_is_replaced_by_a_newer_one() {
    let mut service = store(8000);
    let old = image(&service, 64);
    (0..100).for_each(|i| put(&mut service, i, 2));
    let (new, newest) = (image(&service, 128), image(&service, 192));
    let mut rig = Rig::new(std::slice::from_ref(&old));
    rig.proven.extend([mark(&new), mark(&newest)]);
    rig.start(None);
    while rig.chunks.len() < 3 {
        rig.one();
    }
    // They restart: what they offered is gone.
    for (id, seeder) in &mut rig.seeders {
        *seeder = Seeder::new(0);
        seeder.offer(mark(&newest), newest.clone());
        let _ = id;
    }
    assert!(rig.run(60), "{:?}", rig.leecher.as_ref().map(Leecher::phase));
    assert_eq!(rig.target.as_ref().map(|t| t.mark.statement.seq), Some(Seq(192)));
    assert_eq!(
        rig.blamed.iter().filter(|(_, why)| !why.contains("sends nothing")).count(),
        0,
        "{:?}",
        rig.blamed
    );
    let mut again = KeyValueStore::new();
    rig.restore(&mut again, None);
    assert_eq!(again.digest(ALGORITHM), service.digest(ALGORITHM));
}

/// A liar whose mark is needed for a certificate can keep the newest one to itself, offer it alone, and send nothing of its state, or
/// a little of it now and then.
fn b22_newest_of_one(offerers: usize, sends: usize) -> Rig {
    let mut service = store(8000);
    let old = image(&service, 64);
    (0..100).for_each(|i| put(&mut service, i, 2));
    let new = image(&service, 128);
    let mut chunks = 0;
    let mut rig = Rig::lying(std::slice::from_ref(&old), move |message| match message {
        Message::Chunk { .. } => {
            chunks += 1;
            if chunks <= sends { vec![message] } else { vec![] }
        }
        other => vec![other],
    });
    rig.config.offerers = offerers;
    rig.proven.push(mark(&new));
    rig.seeders.get_mut(&LIAR).unwrap().offer(mark(&new), new);
    rig.start(None);
    rig
}

#[test]
fn b22_a_state_that_one_alone_offers_is_not_waited_for() {
    let mut rig = b22_newest_of_one(2, 3);
    assert!(rig.run(10), "{:?} {:?}", rig.leecher.as_ref().map(Leecher::phase), rig.blamed);
    assert_eq!(rig.target.as_ref().map(|t| t.mark.statement.seq), Some(Seq(64)));
}

#[test]
fn b29_cancels_do_not_multiply_what_is_queued() {
    let image = image(&store(100), 64);
    let mut seeder = Seeder::new(1);
    seeder.offer(mark(&image), image);
    let mut out = Vec::new();
    let (first, all) = (1u64 << 32, 1u64 << 33);
    for _ in 0..20 {
        let ranges = vec![first..all; 4096];
        let ask = Message::GetChunks {
            seq: Seq(64),
            round: 0,
            ranges,
            replace: false,
            packed: false,
            again: vec![],
        };
        seeder.on_message(Tick(1), ME, ask, &mut out);
    }
    let began = std::time::Instant::now();
    for round in 0..4 {
        let ranges = (0..4096).map(|i| first + 8 * i + 2 * round..first + 8 * i + 2 * round + 1).collect();
        seeder.on_message(Tick(1), ME, Message::Cancel { seq: Seq(64), ranges }, &mut out);
    }
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    assert!(seeder.queued(ME) <= 1 << 16, "{}", seeder.queued(ME));
}

/// One lie, and the word by which it is blamed; nothing if it is only slow.
fn lie(blamed: &str, lie: impl FnMut(Message) -> Vec<Message> + 'static) {
    let images = [image(&store(8000), 64)];
    let honest = honest(&images);
    let mut rig = Rig::lying(&images, lie);
    rig.start(None);
    rig.ends_well(honest, &images[0]);
    assert!(blamed.is_empty() || rig.blames(blamed), "{:?}", rig.blamed);
}

#[test]
fn every_lie_is_found_and_costs_little() {
    for row in super::lies::ROWS {
        println!("{} {}", row.id, row.name);
        lie(row.blamed, row.twist);
    }
}

/// Where pages come compressed.
#[test]
fn every_lie_about_compressed_chunks_is_found_and_costs_little() {
    let images = [image(&store(8000), 64)];
    let packed = |mut rig: Rig| {
        rig.config.packed = true;
        rig.start(None);
        rig
    };
    let mut honest = packed(Rig::new(&images));
    honest.ends_well(u64::MAX / 4, &images[0]);
    let raw: u64 = (0..images[0].chunks()).map(|chunk| chunk_of(&images[0], chunk).len() as u64).sum();
    assert!(honest.chunk_bytes * 10 < raw, "{} of {raw}: it is nearly all the same", honest.chunk_bytes);
    for row in super::lies::ROWS {
        println!("{} {}", row.id, row.name);
        let mut rig = packed(Rig::lying(&images, row.twist));
        rig.ends_well(honest.now.0, &images[0]);
        assert!(row.blamed.is_empty() || rig.blames(row.blamed), "{:?}", rig.blamed);
    }
}

fn chunk_of(image: &Image, chunk: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.chunk(chunk, &mut bytes);
    bytes
}

/// What it was not told it may send.
#[test]
fn chunks_are_packed_only_for_whom_asks_for_it() {
    let image = image(&store(1000), 64);
    let packed = |asked: bool| {
        let mut seeder = Seeder::new(0);
        seeder.offer(mark(&image), image.clone());
        let (mut out, ranges) = (Vec::new(), std::iter::once(0..image.chunks()).collect());
        let ask = Message::GetChunks {
            seq: Seq(64),
            round: 0,
            ranges,
            replace: false,
            packed: asked,
            again: vec![],
        };
        seeder.on_message(Tick(1), ME, ask, &mut out);
        out.iter().filter(|m| matches!(m, Message::Packed { .. })).count()
    };
    assert_eq!(packed(false), 0);
    assert!(packed(true) > 0);
}

/// "Where it pays": not over a link that takes more than a core compresses.
#[test]
fn a_link_that_drains_fast_gets_chunks_as_they_are() {
    let image = image(&store(8000), 64);
    let (half, all) = (image.chunks() / 2, image.chunks());
    let ask = |from: u64, to: u64| {
        let ranges = std::iter::once(from..to).collect();
        Message::GetChunks { seq: Seq(64), round: 0, ranges, replace: false, packed: true, again: vec![] }
    };
    for (drained_ns, packs) in [(50_000_000, true), (10_000, false)] {
        let mut seeder = Seeder::new(0);
        seeder.offer(mark(&image), image.clone());
        let mut out = Vec::new();
        seeder.on_message(Tick(1), ME, ask(0, half), &mut out);
        assert!(out.iter().any(|m| matches!(m, Message::Packed { .. })), "nothing is known of the link");
        out.clear();
        seeder.room(Tick(1 + drained_ns), ME, &mut out);
        seeder.on_message(Tick(1 + drained_ns), ME, ask(half, all), &mut out);
        assert!(!out.is_empty());
        assert_eq!(out.iter().any(|m| matches!(m, Message::Packed { .. })), packs, "{drained_ns}");
    }
}

#[test]
fn b26_one_that_dribbles_holds_nobody_up() {
    let images = [image(&store(8000), 64)];
    let honest = honest(&images);
    let mut rig = Rig::lying(&images, |message| vec![message]);
    rig.slow = 700_000_000;
    rig.start(None);
    rig.ends_well(honest, &images[0]);
}

#[test]
fn b28_states_that_only_liars_know_are_not_certified() {
    let other = image(&store(100), 640);
    let manifest = other.manifest().encode();
    lie("without a quorum's certificate", move |message| match message {
        Message::Offer(_) => vec![Message::Offer(vec![mark(&other)])],
        Message::Manifest { seq, .. } => vec![Message::Manifest { seq, manifest: manifest.clone() }],
        other => vec![other],
    });
}

#[test]
fn b29_a_leecher_that_does_not_read_costs_no_more_than_a_megabyte() {
    let image = image(&store(8000), 64);
    let chunks = image.manifest().chunks();
    let mut seeder = Seeder::new(0);
    seeder.offer(mark(&image), image);
    let mut sent = 0;
    for i in 0..50 {
        let mut out = Vec::new();
        let all = vec![0..chunks, 0..u64::MAX];
        let ask = Message::GetChunks {
            seq: Seq(64),
            round: i,
            ranges: all,
            replace: false,
            packed: false,
            again: vec![],
        };
        seeder.on_message(Tick(u64::from(i)), ME, ask, &mut out);
        sent += out
            .iter()
            .map(|m| if let Message::Chunk { bytes, .. } = m { bytes.len() } else { 0 })
            .sum::<usize>();
    }
    assert!(sent <= (1 << 20) + (64 << 10), "{sent}");
    // One that reads gets each chunk once.
    let (mut seen, mut rounds) = (BTreeSet::new(), 0);
    loop {
        let mut out = Vec::new();
        seeder.room(Tick(100), ME, &mut out);
        if out.is_empty() {
            break;
        }
        for message in out {
            if let Message::Chunk { chunk, .. } = message {
                assert!(seen.insert(chunk), "chunk {chunk} twice");
            }
        }
        rounds += 1;
        assert!(rounds < 1000);
    }
}

#[test]
fn b29_all_leechers_together_stay_within_the_bound() {
    let image = image(&store(8000), 64);
    let chunks = image.manifest().chunks();
    let mut seeder = Seeder::new(1 << 20);
    seeder.offer(mark(&image), image);
    let bytes = |out: &[Message]| -> usize {
        out.iter().map(|m| if let Message::Chunk { bytes, .. } = m { bytes.len() } else { 0 }).sum()
    };
    let mut sent = 0;
    for ms in 0..2000 {
        let now = Tick(1 + ms * 1_000_000);
        for who in 1..4 {
            let mut out = Vec::new();
            let ranges = std::iter::once(0..chunks).collect();
            let again = (0..chunks).collect();
            let ask =
                Message::GetChunks { seq: Seq(64), round: 0, ranges, replace: true, packed: false, again };
            seeder.on_message(now, ReplicaId(who), ask, &mut out);
            seeder.room(now, ReplicaId(who), &mut out);
            sent += bytes(&out);
        }
        seeder.tick(now, |_, out| sent += bytes(&out));
    }
    assert!(sent <= 3 << 20, "{sent} bytes in two seconds at 1 MiB/s");
    assert!(sent >= 3 << 19, "{sent}");
}

#[test]
fn offers_that_nobody_asked_for_are_not_looked_at() {
    let image = image(&store(100), 64);
    let checked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = checked.clone();
    let proven = Box::new(move |_: &StateCertificate| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        true
    });
    let (mut out, others) = (Vec::new(), BTreeSet::from([ReplicaId(1), ReplicaId(2)]));
    let config = FetchConfig::default();
    let mut leecher = Leecher::start(config, ALGORITHM, (Seq(0), None), others, proven, Tick(1), &mut out);
    let offer = Message::Offer(vec![mark(&image)]);
    for _ in 0..100 {
        leecher.on_message(Tick(2), ReplicaId(1), offer.clone(), &mut out);
    }
    assert_eq!(checked.load(std::sync::atomic::Ordering::Relaxed), 1);
    leecher.on_message(Tick(3), ReplicaId(2), offer, &mut out);
    assert_eq!(leecher.phase(), "manifest");
    let mut other = mark(&image);
    other.statement.seq = Seq(128);
    for _ in 0..100 {
        leecher.on_message(Tick(4), ReplicaId(2), Message::Offer(vec![other.clone()]), &mut out);
    }
    assert_eq!(checked.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn a_session_goes_on_although_what_it_was_handed_got_lost() {
    let image = image(&store(8000), 64);
    let chunks = image.chunks();
    let mut seeder = Seeder::new(0);
    seeder.offer(mark(&image), image);
    let mut out = Vec::new();
    let ranges = std::iter::once(0..chunks).collect();
    let ask =
        Message::GetChunks { seq: Seq(64), round: 0, ranges, replace: false, packed: false, again: vec![] };
    seeder.on_message(Tick(1), ME, ask, &mut out);
    let first = out.len();
    assert!(first > 0);
    // It is heard of, and no room comes.
    let mut more = 0;
    for second in 1..70 {
        let now = Tick(second * 1_000_000_000);
        seeder.on_message(now, ME, Message::Cancel { seq: Seq(64), ranges: vec![] }, &mut out);
        seeder.tick(now, |_, sent| more += sent.len());
    }
    assert!(more > 0 && more <= first + 1, "{first} and {more}");
}
