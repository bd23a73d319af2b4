//! One state transfer between four sites of the geographic paper, in one process: the transfer stage with its sockets at each site, over
//! links of the WAN lab. No agreement and no service; what order and execute would say to the stage is said here.
//!
//! Three sites have the same state of random bytes, the fourth has nothing. Connections are TLS with keys made for the purpose, the state
//! is named by a certificate that a quorum signed. Nobody who sends leads.

use super::shared::Shared;
use super::stages::{ToExecute, ToOrder};
use super::transfer_stage::{ReplicaTransfer, Tell, ToTransfer, TransferSetup, run_transfers};
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::pages::{page_digest, root_of};
use crate::config::ClientAuth;
use crate::execute::client_table::{ClientTable, ClientTableLimits};
use crate::identity::{self, Identity};
use crate::net::{self, Closed, From, NetConfig, Peer, Remote};
use crate::order::Input;
use crate::quorum::{FaultModel, Group as Members};
use crate::service::{PagedSnapshot, Snapshot};
use crate::transfer::FetchConfig;
use crate::transfer::image::{Image, Part};
use crate::transfer::messages::{CHUNK, PACKED};
use crate::transfer::received::Received;
use crate::transfer::seeder::Seeder;
use crate::transfer::sockets::Sockets;
use crate::transfer::stage::{Setup as StageSetup, TransferStage};
use crate::types::*;
use crate::wan::relay::{Plan, Relay};
use crate::wan::table1::Group;
use crate::wan::trace::Trace;
use crate::wire::auth::{Authenticator, BatchLimits, Scheme, mark_bytes};
use crate::wire::batch::Hasher;
use crate::wire::messages::{MarkCertificate, MarkStatement, Signature, StateCertificate};
use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use rayon::ThreadPool;
use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SITES: usize = 4;
const PAGE_BYTES: usize = 64 << 10;
const CLUSTER: ClusterId = ClusterId([0x7a; 16]);
/// The place of the state that is transferred.
const PLACE: Seq = Seq(1 << 10);
/// For the sites to find each other.
const CONNECT_TIME: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// Bytes that no compression makes fewer, in pages. Cloned by one pointer.
#[derive(Clone)]
pub struct Opaque(Arc<Pages>);

struct Pages {
    bytes: Vec<u8>,
    digests: Vec<Digest>,
    algorithm: DigestAlgorithm,
    hash_time: Duration,
}

impl Opaque {
    /// So many bytes, the same for the same seed.
    pub fn random(bytes: usize, seed: u64, algorithm: DigestAlgorithm) -> Opaque {
        let mut state = Vec::with_capacity(bytes.next_multiple_of(8));
        let mut at = seed;
        while state.len() < bytes {
            // splitmix64
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = at;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            state.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        state.truncate(bytes);
        let began = Instant::now();
        let pages = state.chunks(PAGE_BYTES).enumerate();
        let digests = pages.map(|(i, page)| page_digest(algorithm, i as u64, page)).collect();
        Opaque(Arc::new(Pages { bytes: state, digests, algorithm, hash_time: began.elapsed() }))
    }

    /// What one core takes to hash it all, page by page.
    pub fn hash_time(&self) -> Duration {
        self.0.hash_time
    }

    fn piece(&self, index: u64) -> Option<&[u8]> {
        self.0.bytes.chunks(PAGE_BYTES).nth(usize::try_from(index).ok()?)
    }
}

impl Snapshot for Opaque {
    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.bytes)
    }

    fn bytes(&self) -> u64 {
        self.0.bytes.len() as u64
    }

    fn pages(&self) -> Option<&dyn PagedSnapshot> {
        Some(self)
    }
}

impl PagedSnapshot for Opaque {
    fn header(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes().to_le_bytes())
    }

    fn page_count(&self) -> u64 {
        self.0.digests.len() as u64
    }

    fn page(&self, index: u64, out: &mut Vec<u8>) -> bool {
        let piece = self.piece(index);
        out.extend_from_slice(piece.unwrap_or_default());
        piece.is_some()
    }

    fn page_digest(&self, index: u64, algorithm: DigestAlgorithm) -> Digest {
        assert!(algorithm == self.0.algorithm, "digests are of one algorithm");
        self.0.digests.get(index as usize).copied().unwrap_or(Digest::ZERO)
    }

    fn root(&self, algorithm: DigestAlgorithm, _pool: Option<&ThreadPool>) -> Digest {
        root_of(algorithm, &self.header(), &self.0.digests)
    }

    fn changed_since(&self, _older: &dyn PagedSnapshot) -> Vec<u64> {
        (0..self.page_count()).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What is to be transferred, where, and how.
pub struct Setup<'a> {
    /// Whose links.
    pub group: &'a Group,
    /// With a seed they vary.
    pub seed: Option<u64>,
    /// The site's widest link falls to a quarter after a third of the time that the transfer takes at best, and its narrowest becomes
    /// four times as wide after two thirds.
    pub abrupt: bool,
    /// The site that lacks the state.
    pub site: usize,
    /// How it fetches.
    pub fetch: FetchConfig,
    /// The others' state.
    pub state: &'a Opaque,
    /// An empty folder for what is received.
    pub dir: PathBuf,
    /// It is given up after so long.
    pub patience: Duration,
}

/// What one site sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Which.
    pub site: usize,
    /// Bytes that its link took, all of TLS and messages among them.
    pub bytes: u64,
    /// When its last chunk came, since the first question.
    pub finished: Duration,
}

/// How it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the first question to all that is wanted being checked and written.
    pub took: Duration,
    /// When the links together would have carried the state's bytes, always full.
    pub ideal: Duration,
    /// Until the first chunk came.
    pub first_chunk: Duration,
    /// Between the last chunk's arrival and the end.
    pub tail: Duration,
    /// The state's bytes.
    pub needed: u64,
    /// The sites that had it.
    pub sent: Vec<Sent>,
}

struct RigKeys {
    own: Identity,
    replicas: Vec<[u8; 32]>,
}

impl Scheme for RigKeys {
    fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.own.sign(bytes))
    }

    fn verify_replica(&self, who: ReplicaId, bytes: &[u8], signature: &Signature) -> bool {
        self.replicas.get(who.index()).is_some_and(|key| identity::verify(key, bytes, &signature.0))
    }

    fn verify_client(&self, _: ClientId, _: &[u8], _: &Signature) -> bool {
        false
    }

    fn knows_client(&self, _: ClientId) -> bool {
        false
    }

    fn verify_mac(&self, _: ClientId, _: &Digest, _: &[u8]) -> bool {
        false
    }
}

/// When chunks came.
#[derive(Default)]
struct Seen {
    connected: usize,
    first: Option<Instant>,
    last: BTreeMap<ReplicaId, Instant>,
}

/// The stage's receiver, with a look at what passes.
struct Watched {
    sockets: Sockets<Tell>,
    seen: Arc<Mutex<Seen>>,
}

impl net::Receiver for Watched {
    fn frame(&mut self, from: &From, kind: u16, payload: Bytes) {
        if let (CHUNK | PACKED, Peer::Replica(replica)) = (kind, from.peer) {
            let (now, mut seen) = (Instant::now(), self.seen.lock());
            seen.first.get_or_insert(now);
            seen.last.insert(replica, now);
        }
        self.sockets.frame(from, kind, payload);
    }

    fn connected(&mut self, from: &From) {
        self.sockets.connected(from);
        self.seen.lock().connected += 1;
    }

    fn disconnected(&mut self, from: &From, reason: &Closed) {
        self.sockets.disconnected(from, reason);
    }

    fn room(&mut self, from: &From) {
        self.sockets.room(from);
    }

    fn end_of_poll(&mut self) {}
}

/// One site's threads and what they are spoken to with.
struct Site {
    net: net::Net,
    stage: Option<JoinHandle<()>>,
    to_transfer: Sender<ToTransfer>,
    order: Receiver<ToOrder>,
    execute: Receiver<ToExecute>,
    shared: Arc<Shared>,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.to_transfer.send(ToTransfer::Stop);
        if let Some(stage) = self.stage.take() {
            let _ = stage.join();
        }
        self.net.stop();
    }
}

impl Setup<'_> {
    /// Transfers once. `go_on` is asked now and then.
    ///
    /// Errors: what the system refuses; a transfer that is given up, or whose bytes are not the state's.
    pub fn run(&self, go_on: &dyn Fn() -> bool) -> io::Result<Outcome> {
        assert!(self.site < SITES, "there are four sites");
        let identities: Vec<Identity> =
            (0..SITES).map(|_| Identity::generate()).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let (relay, sites, began) = self.sites(&identities)?;
        self.seed_all(&sites, &identities)?;
        let leecher = &sites[self.site];
        let deadline = Instant::now() + CONNECT_TIME;
        while sites.iter().any(|site| site.seen.lock().connected < SITES - 1) {
            if Instant::now() > deadline || !go_on() {
                return Err(io::Error::other("the sites do not find each other"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = leecher.to_transfer.send(Tell::Behind.into());
        match leecher.execute.recv_timeout(CONNECT_TIME) {
            Ok(ToExecute::Freeze) => {}
            _ => return Err(io::Error::other("the stage does not ask what is here")),
        }
        let before: Vec<u64> = self.others().map(|from| self.taken(&relay, from)).collect();
        let asked = Instant::now();
        let nothing = Opaque::random(0, 0, self.state.0.algorithm);
        let _ = leecher.to_transfer.send(Tell::Own(Box::new(frozen(Seq(0), nothing))).into());
        let done = self.wait(leecher, asked, go_on)?;
        // Copies of the last chunks may still come.
        let (first, last) = {
            let seen = leecher.seen.lock();
            (seen.first, seen.last.clone())
        };
        let taken = self.others().zip(before).map(|(from, before)| self.taken(&relay, from) - before);
        let taken: Vec<u64> = taken.collect();
        let received = leecher.shared.received.lock().clone();
        let received = received.ok_or_else(|| io::Error::other("nothing was received"))?;
        self.compare(&received)?;
        let since = |at: Option<&Instant>| at.map_or(Duration::ZERO, |at| at.duration_since(asked));
        let sent = self.others().zip(taken).map(|(site, bytes)| {
            let finished = since(last.get(&ReplicaId(site as u32)));
            Sent { site, bytes, finished }
        });
        let sent: Vec<Sent> = sent.collect();
        let took = done.duration_since(asked);
        let end = sent.iter().map(|sent| sent.finished).max().unwrap_or_default();
        Ok(Outcome {
            took,
            ideal: self.ideal(asked.duration_since(began)),
            first_chunk: since(first.as_ref()),
            tail: took.saturating_sub(end),
            needed: self.state.bytes(),
            sent,
        })
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let site = self.site;
        (0..SITES).filter(move |other| *other != site)
    }

    /// The link from another site.
    fn trace(&self, from: usize) -> Trace {
        let trace = self.group.trace(from, self.site, self.seed);
        if !self.abrupt {
            return trace;
        }
        let mbit = |other: usize| self.group.mbit[other][self.site];
        let narrower = |a: &usize, b: &usize| mbit(*a).total_cmp(&mbit(*b));
        let best = self.state.bytes() as f64 * 8e-6 / self.group.inbound_mbit(self.site);
        let after = |part: f64| Duration::from_secs_f64(part * best);
        match from {
            _ if self.others().max_by(narrower) == Some(from) => {
                trace.step(after(1.0 / 3.0), mbit(from) / 4.0)
            }
            _ if self.others().min_by(narrower) == Some(from) => {
                trace.step(after(2.0 / 3.0), mbit(from) * 4.0)
            }
            _ => trace,
        }
    }

    fn taken(&self, relay: &Relay, from: usize) -> u64 {
        relay.counts(Plan::pair(from, self.site)).taken
    }

    /// The links, when they began, and the sites at their ends.
    fn sites(&self, identities: &[Identity]) -> io::Result<(Relay, Vec<Site>, Instant)> {
        // Ports are chosen before their owners begin: the doors lead to them.
        let mut held: Vec<Option<TcpListener>> = Vec::new();
        for _ in 0..SITES {
            held.push(Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?));
        }
        let mut targets = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); SITES];
        for (target, listener) in targets.iter_mut().zip(held.iter().flatten()) {
            *target = listener.local_addr()?;
        }
        let began = Instant::now();
        let mut plan = Plan::mesh(self.group, targets, self.seed);
        for from in self.others() {
            plan.pipes[Plan::pair(from, self.site)].trace = self.trace(from);
        }
        let relay = Relay::start(plan)?;
        let mut sites = Vec::new();
        for me in 0..SITES {
            held[me] = None;
            sites.push(self.start(me, identities, targets[me], &relay)?);
        }
        Ok((relay, sites, began))
    }

    fn start(
        &self,
        me: usize,
        identities: &[Identity],
        listen: SocketAddr,
        relay: &Relay,
    ) -> io::Result<Site> {
        let id = |at: usize| ReplicaId(at as u32);
        let (to_transfer, inbox) = unbounded();
        let (to_order, order) = unbounded();
        let (to_execute, execute) = unbounded();
        let shared: Arc<Shared> = Arc::default();
        shared.view.store(self.site as u64 + 1, Ordering::Relaxed);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let remotes = (0..SITES).map(|other| Remote {
            id: id(other),
            address: match other == me {
                true => listen.to_string(),
                false => relay.address(Plan::pair(me, other)).to_string(),
            },
            key: identities[other].public_key(),
        });
        let own = || Identity::from_seed(*identities[me].seed());
        let mut config = NetConfig::new(CLUSTER, Peer::Replica(id(me)), remotes.collect(), own());
        config.listen = Some(listen.to_string());
        config.thread = "duramen-tnet";
        let sockets = Sockets::new(to_transfer.clone());
        let watched = Watched { sockets, seen: seen.clone() };
        let net = net::start(config, Box::new(watched)).map_err(io::Error::other)?;
        let replicas = identities.iter().map(|identity| identity.public_key()).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(io::Error::other)?;
        let setup = TransferSetup {
            dir: self.dir.clone(),
            auth: Arc::new(Authenticator {
                members: Members::new(FaultModel::Byzantine, SITES as u32, 1).map_err(io::Error::other)?,
                me: id(me),
                hasher: Hasher { cluster: CLUSTER, algorithm: self.state.0.algorithm },
                client_auth: ClientAuth::default_for(FaultModel::Byzantine),
                limits: BatchLimits {
                    batch_bytes_max: 0,
                    group_bytes_max: 0,
                    batch_requests_max: 0,
                    window: 1,
                },
                accepts_checked: false,
                scheme: Arc::new(RigKeys { own: own(), replicas }),
            }),
            config: self.fetch.clone(),
            yielding: None,
            postponing: Default::default(),
        };
        let owner = ReplicaTransfer::new(setup, to_order, to_execute, shared.clone());
        let setup = StageSetup {
            dir: self.dir.clone(),
            algorithm: self.state.0.algorithm,
            net: net.handle(),
            pool: Arc::new(pool),
            seeder: Seeder::new(0),
            began: Instant::now(),
            #[cfg(feature = "adversary")]
            lie: None,
        };
        let stage = TransferStage::new(setup, owner, to_transfer.clone(), inbox)?;
        let stage = std::thread::Builder::new()
            .name("duramen-transfer".into())
            .spawn(move || run_transfers(stage))?;
        Ok(Site { net, stage: Some(stage), to_transfer, order, execute, shared, seen })
    }

    /// Three have the state, and a certificate for it.
    fn seed_all(&self, sites: &[Site], identities: &[Identity]) -> io::Result<()> {
        let algorithm = self.state.0.algorithm;
        let image = Arc::new(Image::of(frozen(PLACE, self.state.clone()), algorithm)?);
        let statement = MarkStatement { seq: PLACE, state: image.root(None), ..MarkStatement::default() };
        let signed = |statement| {
            let bytes = mark_bytes(&CLUSTER, &statement);
            let sign = |at: usize| (ReplicaId(at as u32), Signature(identities[at].sign(&bytes)));
            MarkCertificate { statement, signatures: self.others().map(sign).collect() }
        };
        let root = signed(statement);
        let mark = Box::new(signed(MarkStatement { state: Digest::ZERO, ..statement }));
        let mark = StateCertificate { statement, signatures: root.signatures, digests: Vec::new(), mark };
        for at in self.others() {
            let _ = sites[at].to_transfer.send(Tell::Image(image.clone()).into());
            let _ = sites[at].to_transfer.send(Tell::Certified(mark.clone()).into());
        }
        Ok(())
    }

    fn wait(&self, leecher: &Site, asked: Instant, go_on: &dyn Fn() -> bool) -> io::Result<Instant> {
        loop {
            match leecher.order.recv_timeout(LOOK) {
                Ok(ToOrder::One(Input::Arrived(mark))) if mark.statement.seq == PLACE => {
                    return Ok(Instant::now());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the transfer stage ended"));
                }
                _ => {}
            }
            if let Some(error) = leecher.shared.last_error.lock().take() {
                return Err(io::Error::other(error));
            }
            if asked.elapsed() > self.patience || !go_on() {
                return Err(io::Error::other(format!(
                    "the transfer was given up after {:.1} s",
                    asked.elapsed().as_secs_f64()
                )));
            }
        }
    }

    /// Every page on disk is what the others have.
    fn compare(&self, received: &Received) -> io::Result<()> {
        let manifest = &received.target.manifest;
        for index in 0..self.state.page_count() {
            let found = received.staging.read(manifest.chunk_of(Part::State, index))?;
            if found.as_deref() != self.state.piece(index) {
                return Err(io::Error::other(format!("page {index} is not what was sent")));
            }
        }
        Ok(())
    }

    /// When the links have carried the state, from so long after their begin on.
    fn ideal(&self, from: Duration) -> Duration {
        let traces: Vec<_> = self.others().map(|from| self.trace(from)).collect();
        let needed = self.state.bytes() as f64;
        let carried =
            |time: Duration| traces.iter().map(|trace| trace.bytes_between(from, from + time)).sum::<f64>();
        let (mut low, mut high) = (Duration::ZERO, Duration::from_millis(1));
        while carried(high) < needed {
            (low, high) = (high, high * 2);
        }
        while high - low > Duration::from_micros(100) {
            let middle = (low + high) / 2;
            match carried(middle) < needed {
                true => low = middle,
                false => high = middle,
            }
        }
        high
    }
}

fn frozen(seq: Seq, state: Opaque) -> Frozen {
    Frozen {
        seq,
        time: WallTime(seq.0),
        replies: Digest::ZERO,
        table: ClientTable::new(ClientTableLimits::default()),
        state: Box::new(state),
    }
}
