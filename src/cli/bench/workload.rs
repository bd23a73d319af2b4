//! What is sent: keys drawn uniformly or by Zipf's law, and the mix of operations of the papers and of YCSB.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use duramen::service::{Field, KvOperation, KvWrite, NullService, TupleOperation, TupleReply};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

/// Bytes of encoded writes to keep ready at most; with more keys than fit, writes are encoded as they are sent.
const POOL_BYTES_MAX: usize = 512 << 20;
/// Different values, where writes are not kept ready.
const VALUES: u64 = 64;
/// YCSB's constant of skew.
const ZIPF_EXPONENT: f64 = 0.99;
/// Where tuples go.
const SPACE: &str = "bench";
/// A field of a tuple begins with so many characters of its own; the rest is that of others, too.
const OWN_BYTES: usize = 16;
/// YCSB E: a scan reads 1 to so many entries.
const SCAN_MAX: u32 = 100;

/// How keys are drawn.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Each alike
    Uniform,
    /// Zipf's law with exponent 0.99, popular keys scattered over all, as in YCSB
    Zipf,
}

/// A named mix of operations.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
pub enum Named {
    /// The durability paper's: 250,000 keys of 8 bytes loaded first, values of 4096 bytes, all operations replace
    #[value(name = "paper-4k")]
    Paper4k,
    /// The durability paper's for tuples: random ones of four text fields, 1024 bytes together, all operations insert
    #[value(name = "ddspace-1k")]
    DdSpace1k,
    /// YCSB A: half reads, half updates, Zipf
    A,
    /// YCSB B: 95 % reads, 5 % updates, Zipf
    B,
    /// YCSB C: reads, Zipf
    C,
    /// YCSB D: 95 % reads of the latest, 5 % inserts
    D,
    /// YCSB E: 95 % scans of up to 100 entries, 5 % inserts, Zipf
    E,
    /// YCSB F: half reads, half read-modify-writes, Zipf
    F,
}

/// Shares of operations, in thousandths; the rest are updates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mix {
    /// Reads of one key.
    pub read: u32,
    /// New keys.
    pub insert: u32,
    /// Scans.
    pub scan: u32,
    /// A read, and when it is answered an update of the same key; counts as one operation.
    pub read_modify_write: u32,
    /// Reads look at the keys inserted last.
    pub latest: bool,
}

/// Everything about what is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// The key-value store.
    Kv { value_bytes: usize, keys: u64, mix: Mix, distribution: Distribution, preload: bool },
    /// The tuple space: inserts of random tuples of four text fields.
    Tuples { tuple_bytes: usize },
    /// Requests and replies of these sizes.
    Null { request_bytes: usize, reply_bytes: u32 },
}

impl Mix {
    /// Whether it has no operations but these.
    pub fn only_reads_and_updates(self) -> bool {
        self == Mix { read: self.read, ..Mix::default() }
    }
}

impl Kind {
    /// Keys to load before anything is measured.
    pub fn preload(self) -> u64 {
        match self {
            Kind::Kv { keys, preload: true, .. } => keys,
            _ => 0,
        }
    }

    /// Of the operations, the share that is written to logs.
    pub fn write_share(self) -> f64 {
        match self {
            Kind::Kv { mix, .. } => f64::from(1000 - mix.read - mix.scan) / 1000.0,
            Kind::Tuples { .. } | Kind::Null { .. } => 1.0,
        }
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Step {
    /// To be ordered.
    Write(Bytes),
    /// To be read, in the order only where it must.
    Read(Bytes),
    /// First the read, then the write.
    ReadThenWrite(Bytes, Bytes),
}

impl Named {
    /// Keys, value bytes, mix and distribution.
    pub fn parts(self) -> (u64, usize, Mix, Distribution) {
        let ycsb = |mix, distribution| (10_000, 1000, mix, distribution);
        let (uniform, zipf) = (Distribution::Uniform, Distribution::Zipf);
        match self {
            Self::Paper4k => (250_000, 4096, Mix::default(), uniform),
            Self::DdSpace1k => (1, 1024, Mix::default(), uniform),
            Self::A => ycsb(Mix { read: 500, ..Mix::default() }, zipf),
            Self::B => ycsb(Mix { read: 950, ..Mix::default() }, zipf),
            Self::C => ycsb(Mix { read: 1000, ..Mix::default() }, zipf),
            Self::D => ycsb(Mix { read: 950, insert: 50, latest: true, ..Mix::default() }, zipf),
            Self::E => ycsb(Mix { scan: 950, insert: 50, ..Mix::default() }, zipf),
            Self::F => ycsb(Mix { read: 500, read_modify_write: 500, ..Mix::default() }, zipf),
        }
    }
}

/// The source of operations.
pub struct Workload {
    kind: Kind,
    /// Encoded updates, by key, if they fit.
    pool: Vec<Bytes>,
    values: Vec<Vec<u8>>,
    zipf: Option<Zipf<f64>>,
    /// Keys there are, inserts included; of tuples, those sent.
    keys: AtomicU64,
    /// What names are made of.
    seed: u64,
}

impl Workload {
    /// `seed` sets the values' bytes.
    pub fn new(kind: Kind, seed: u64) -> Self {
        let mut this = Self {
            kind,
            pool: Vec::new(),
            values: Vec::new(),
            zipf: None,
            keys: AtomicU64::new(0),
            // Not those of another run on the same cluster, nor the neighbours of its.
            seed: scatter(seed),
        };
        match kind {
            Kind::Kv { value_bytes, keys, distribution, .. } => {
                let mut random = StdRng::seed_from_u64(seed);
                this.values = (0..VALUES.min(keys))
                    .map(|_| (0..value_bytes).map(|_| random.random()).collect())
                    .collect();
                this.keys.store(keys, Ordering::Relaxed);
                this.zipf = (distribution == Distribution::Zipf)
                    .then(|| Zipf::new(keys as f64, ZIPF_EXPONENT).expect("there are keys"));
                if keys as usize * (value_bytes + 64) <= POOL_BYTES_MAX {
                    this.pool = (0..keys).map(|key| this.put(key)).collect();
                }
            }
            Kind::Tuples { tuple_bytes } => {
                let mut random = StdRng::seed_from_u64(seed);
                this.pool = (0..VALUES).map(|_| insert(tuple_bytes, &mut random)).collect();
            }
            Kind::Null { request_bytes, reply_bytes } => {
                this.pool.push(NullService::operation(request_bytes, reply_bytes));
            }
        }
        this
    }

    fn put(&self, key: u64) -> Bytes {
        let value = &self.values[(key % self.values.len() as u64) as usize];
        KvWrite::Put { key: &key.to_be_bytes(), value }.into_operation()
    }

    fn update(&self, key: u64) -> Bytes {
        self.pool.get(key as usize).cloned().unwrap_or_else(|| self.put(key))
    }

    /// What the service must be told once before all else; it may have been told before.
    pub fn first(&self) -> Option<Bytes> {
        matches!(self.kind, Kind::Tuples { .. }).then(|| TupleOperation::Create { space: SPACE }.encode())
    }

    /// Whether the reply to that is as it should be.
    pub fn accepts_first(&self, reply: &Bytes) -> bool {
        matches!(TupleReply::decode(reply), Ok(TupleReply::Ok | TupleReply::SpaceExists))
    }

    /// Keys to load before anything is measured.
    pub fn preload(&self) -> u64 {
        self.kind.preload()
    }

    /// The write that loads key number `n`.
    pub fn load(&self, n: u64) -> Step {
        Step::Write(self.update(n))
    }

    /// The next operation.
    pub fn draw(&self, random: &mut StdRng) -> Step {
        let (keys, mix) = match self.kind {
            Kind::Kv { keys, mix, .. } => (keys, mix),
            Kind::Tuples { tuple_bytes } => return Step::Write(self.insert(tuple_bytes)),
            Kind::Null { .. } => return Step::Write(self.pool[0].clone()),
        };
        let mut dice = random.random_range(0..1000u32);
        let mut falls = |share: u32| {
            let hit = dice < share;
            dice = dice.wrapping_sub(share);
            hit
        };
        if mix == Mix::default() {
            return Step::Write(self.update(self.key(keys, random)));
        }
        if falls(mix.read) {
            let key = match mix.latest {
                true => self.keys.load(Ordering::Relaxed) - 1 - self.rank(keys, random),
                false => self.key(keys, random),
            };
            return Step::Read(KvOperation::Get { key: &key.to_be_bytes() }.encode());
        }
        if falls(mix.insert) {
            return Step::Write(self.put(self.keys.fetch_add(1, Ordering::Relaxed)));
        }
        if falls(mix.scan) {
            let start = self.key(keys, random).to_be_bytes();
            let limit = random.random_range(1..=SCAN_MAX);
            return Step::Read(KvOperation::Scan { start: &start, end: &[], limit }.encode());
        }
        let key = self.key(keys, random);
        if falls(mix.read_modify_write) {
            let read = KvOperation::Get { key: &key.to_be_bytes() }.encode();
            return Step::ReadThenWrite(read, self.update(key));
        }
        Step::Write(self.update(key))
    }

    /// A tuple that no other has a field in common with, so far as fields are long enough.
    fn insert(&self, tuple_bytes: usize) -> Bytes {
        let n = self.keys.fetch_add(1, Ordering::Relaxed);
        let mut operation = self.pool[(n % VALUES) as usize].to_vec();
        let mut end = operation.len();
        for (i, length) in field_lengths(tuple_bytes).into_iter().enumerate().rev() {
            let own = scatter((n * 4 + i as u64) ^ self.seed);
            let start = end - length;
            for (place, at) in operation[start..end.min(start + OWN_BYTES)].iter_mut().enumerate() {
                *at = b'a' + (own >> (4 * place) & 15) as u8;
            }
            end = start - FIELD_HEAD_BYTES;
        }
        operation.into()
    }

    /// 0 the most popular.
    fn rank(&self, keys: u64, random: &mut StdRng) -> u64 {
        match &self.zipf {
            Some(zipf) => (zipf.sample(random) as u64).clamp(1, keys) - 1,
            None => random.random_range(0..keys),
        }
    }

    fn key(&self, keys: u64, random: &mut StdRng) -> u64 {
        match self.zipf {
            // Scattered, or the popular keys would lie side by side.
            Some(_) => scatter(self.rank(keys, random)) % keys,
            None => random.random_range(0..keys),
        }
    }

    /// Whether a write's reply says that it was done.
    pub fn accepts_write(&self, reply: &Bytes) -> bool {
        match self.kind {
            // `Ok` of either, without the cost of decoding.
            Kind::Kv { .. } | Kind::Tuples { .. } => reply[..] == [0],
            Kind::Null { reply_bytes, .. } => reply.len() == reply_bytes as usize,
        }
    }

    /// Whether a read's reply is one: a value, entries, or that there is no such key.
    pub fn accepts_read(&self, reply: &Bytes) -> bool {
        matches!(reply.first(), Some(1 | 2 | 4))
    }
}

/// Of a text field: its type and length stand before it.
const FIELD_HEAD_BYTES: usize = 5;

/// Of four fields with so many bytes together.
fn field_lengths(tuple_bytes: usize) -> [usize; 4] {
    let each = tuple_bytes / 4;
    [tuple_bytes - 3 * each, each, each, each]
}

fn insert(tuple_bytes: usize, random: &mut StdRng) -> Bytes {
    let mut text =
        |length: usize| -> String { (0..length).map(|_| random.random_range('a'..='z')).collect() };
    let tuple = field_lengths(tuple_bytes).map(|length| Field::Text(text(length)));
    TupleOperation::Out { space: SPACE, tuple: &tuple }.encode()
}

/// A bijection whose outputs look random (the finish of splitmix64).
fn scatter(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
