//! Config → recovery → running.
//!
//! Without durable votes (RULES 14) a replica that restarts says so: what it may have voted on within a window of its mark counts
//! as unknown until a mark covers it. As long as at most f are like that at a time, the others know; a replica that finds more
//! refuses to go on until an operator starts it with `new_era`, which puts on record that forgotten votes count as never cast.
//!
//! In this order: the configuration and keys are checked; the addresses are bound, so that a busy one ends a start that changed
//! nothing; the log is locked and replayed, executing what its marks cover; the log starts (a torn tail is cut); the stages
//! start, and hear what comes from the net. Nothing but answers to `status` is sent before the log has started, and no vote
//! before the core allows it.

use super::admin::{Admin, Answer};
use super::back_pressure::BackPressure;
use super::checkpoint_stage::{CheckpointStage, Checkpoints, ToCheckpoint};
use super::decisions::{Recent, Store, layer_mode};
use super::doorman::{Door, Doorman};
use super::execute_stage::ExecuteStage;
use super::lag::Lag;
use super::links::Links;
use super::open_metrics;
use super::order_stage::{Clock, OrderStage};
use super::pressure::{Pressure, Waiting};
use super::progress::RecoveryProgress;
use super::promise;
use super::receive::{Receive, Verify, frame};
use super::recovery::{PASSED_MAX, Recovered, Recovery};
use super::room::Room;
use super::roots_stage::RootsStage;
use super::running::Replica;
use super::service_failure::run_execution;
use super::shared::Shared;
use super::stages::*;
use super::start_error::StartError;
use super::status::StatusWriter;
use super::transfer_stage::{ReplicaTransfer, ToTransfer, TransferSetup, run_transfers};
use crate::checkpoint::frozen::Frozen;
use crate::checkpoint::increments::Increments;
use crate::checkpoint::pacer::Pacer;
use crate::checkpoint::schedule::Schedule;
use crate::checkpoint::store::Store as CheckpointStore;
use crate::checkpoint::stretch::Stretch;
use crate::config::{Config, Durability, LogDevice, LogIo, SnapshotKind, Transport};
use crate::data_dir;
use crate::durable::DurableLayer;
use crate::execute::client_table::ClientTableLimits;
use crate::identity::Identity;
use crate::keys::ReplicaKeys;
use crate::log::{self, Device, IoBackend, Log, LogError, LogEvent, LogOptions};
use crate::net::{self, NetConfig, NetHandle, Peer, Remote, To};
use crate::order::control::Control;
use crate::order::record::OrderRecord;
use crate::order::restore::{RestoreError, first_record, learner_record};
use crate::order::{Input, OrderConfig};
use crate::service::Service;
use crate::sync::channel::{Receiver, Sender};
use crate::sync::pool::Pool;
use crate::transfer::postponing::Postponing;
use crate::transfer::seeder::Seeder;
use crate::transfer::sockets::Sockets;
use crate::transfer::stage::{Setup, TransferStage};
use crate::transfer::staging::{self, Staging};
use crate::transfer::yielding::Yielding;
use crate::transfer::{CstConfig, FetchConfig};
use crate::types::*;
use crate::wire::auth::{Authenticator, BatchLimits, decided_ahead_max};
use crate::wire::batch::{BATCH_HEADER_BYTES, Batch, GROUP_HEADER_BYTES, Hasher};
use crate::wire::messages::{BatchIs, Message};
use crate::wire::scheme::Keys;
use parking_lot::Mutex;
use ring::rand::SecureRandom;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A log record is a batch and its certificate; this is more than any certificate takes.
const CERTIFICATE_BYTES_MAX: usize = 64 << 10;
/// Waiting groups of one client, and of all.
const CLIENT_POOL_BYTES: usize = 64 << 20;
const POOL_BYTES: usize = 512 << 20;

/// Between two warnings of what cannot be read for one replica.
const WARN_PAUSE: Duration = Duration::from_secs(10);

/// What to run.
pub struct ReplicaOptions {
    /// The cluster.
    pub config: Config,
    /// Its folder (`init --dir`).
    pub dir: PathBuf,
    /// Which replica.
    pub id: ReplicaId,
    /// What is replicated, in its initial state.
    pub service: Box<dyn Service>,
    /// Accept plain transport in Byzantine mode.
    pub insecure: bool,
    /// Accept a log on a file system in memory.
    pub allow_tmpfs: bool,
    /// How log writes reach the disk, where not as configured.
    pub io: Option<LogIo>,
    /// Without durable votes: votes forgotten so far count as never cast. Only for when more than f replicas crashed.
    pub new_era: bool,
    /// Where to answer `/metrics`, `/healthz` and `/readyz`, if anywhere. Whoever reaches it can read it.
    pub metrics: Option<SocketAddr>,
    /// Tells, from another thread, how far the start is with checkpoint and log.
    pub progress: Arc<RecoveryProgress>,
    /// What it does wrong on purpose.
    #[cfg(feature = "adversary")]
    pub adversary: Option<&'static crate::sim::adversary::catalogue::Row>,
    /// What it does wrong on purpose to those that fetch a state.
    #[cfg(feature = "adversary")]
    pub seeder_lie: Option<&'static crate::transfer::lies::Lie>,
}

impl ReplicaOptions {
    /// With what serves most.
    pub fn new(config: Config, dir: PathBuf, id: ReplicaId, service: Box<dyn Service>) -> Self {
        Self {
            config,
            dir,
            id,
            service,
            insecure: false,
            allow_tmpfs: false,
            io: None,
            new_era: false,
            metrics: None,
            progress: Default::default(),
            #[cfg(feature = "adversary")]
            adversary: None,
            #[cfg(feature = "adversary")]
            seeder_lie: None,
        }
    }
}

fn log_options(
    config: &Config,
    dir: PathBuf,
    id: ReplicaId,
    io: Option<LogIo>,
    allow_tmpfs: bool,
) -> LogOptions {
    let limits = &config.log;
    // A mark record carries the digests since the mark before: a replica that caught up may have many at once.
    let mark_bytes = 4 * config.limits.window as usize * size_of::<Digest>();
    let control_bytes = Control::bytes_max(config.group().n(), config.limits.window);
    let largest = config.limits.largest_batch_bytes().max(mark_bytes).max(control_bytes);
    let record_bytes_max = largest + CERTIFICATE_BYTES_MAX;
    LogOptions {
        segment_bytes: limits.segment_bytes(),
        bytes_max: limits.bytes_max(),
        spare_segments: limits.spare_segments as usize,
        prefill_segments: limits.prefill_segments as usize,
        group_bytes_max: limits.group_bytes(),
        writes_in_flight_max: limits.writes_in_flight as usize,
        record_bytes_max,
        queued_bytes_max: (64 << 20).max(4 * record_bytes_max),
        io: match io.unwrap_or(limits.io) {
            LogIo::Auto => IoBackend::Auto,
            LogIo::Uring => IoBackend::Uring,
            LogIo::Threads => IoBackend::Threads,
        },
        allow_tmpfs,
        ..LogOptions::new(dir, config.cluster, id)
    }
}

/// Formats a replica's log and puts "view 1 entered" into it: what `init` does, and `start` never.
pub fn format_log(log_dir: &Path, config: &Config, id: ReplicaId, allow_tmpfs: bool) -> Result<(), LogError> {
    format_with(&first_record(), log_dir, config, id, allow_tmpfs)
}

/// Formats a log in place of a lost one: the replica learns, and votes only once what it forgot cannot matter (RULES 7). Errors:
/// a log is there.
pub fn format_learner(
    log_dir: &Path,
    config: &Config,
    id: ReplicaId,
    allow_tmpfs: bool,
) -> Result<(), LogError> {
    format_with(&learner_record(), log_dir, config, id, allow_tmpfs)
}

fn format_with(
    first: &OrderRecord,
    log_dir: &Path,
    config: &Config,
    id: ReplicaId,
    allow_tmpfs: bool,
) -> Result<(), LogError> {
    let options = log_options(config, log_dir.to_owned(), id, None, allow_tmpfs);
    if let Some(replica_dir) = log_dir.parent() {
        promise::record(replica_dir, config.durability).map_err(|e| LogError::Options(e.to_string()))?;
    }
    log::format(&options)?;
    if layer_mode(config.durability).is_some() {
        let dir = log_dir.with_file_name("decisions");
        log::format(&LogOptions { dir, ..options.clone() })?;
    }
    let options = LogOptions { prefill_segments: 0, spare_segments: 1, ..options };
    let (mut log, _reader) = log::open(options, &mut |_| Ok(()))?.start(Box::new(|_| {}))?;
    append_now(&mut log, first)?;
    log.stop();
    Ok(())
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| std::io::Error::other("no random numbers"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// Checks what others say, with this replica's keys.
pub(super) fn authenticator(config: &Config, keys: &ReplicaKeys, me: ReplicaId) -> Authenticator {
    let largest = config.limits.largest_batch_bytes();
    Authenticator {
        members: config.group(),
        me,
        hasher: Hasher { cluster: config.cluster, algorithm: config.digest },
        client_auth: config.client_auth,
        limits: BatchLimits {
            batch_bytes_max: largest,
            group_bytes_max: largest - BATCH_HEADER_BYTES,
            batch_requests_max: config.limits.batch_requests.max(1),
            window: config.limits.window,
        },
        // What goes into a log of decisions must prove them to others.
        accepts_checked: layer_mode(config.durability).is_some(),
        scheme: Arc::new(Keys::new(config, keys)),
    }
}

/// The least of what both sides of a connection must agree on.
fn net_config(config: &Config, me: Peer, identity: Identity) -> NetConfig {
    let remotes = config.replicas.iter().map(|r| Remote { id: r.id, address: r.address.clone(), key: r.key });
    let largest = config.limits.largest_batch_bytes() + CERTIFICATE_BYTES_MAX;
    let mut net = NetConfig::new(config.cluster, me, remotes.collect(), identity);
    net.client_keys = config.clients.iter().map(|c| (c.id, c.key)).collect();
    net.transport = match config.transport {
        Transport::Tls => net::Transport::Tls,
        Transport::Plain => net::Transport::Plain,
    };
    net.hello_tag = config.fingerprint();
    // A SYNC carries up to so many certificates from every member.
    let places = match config.durability {
        Durability::Vote => config.limits.window,
        _ => decided_ahead_max(config.limits.window),
    } as usize;
    let sync = config.replicas.len() * (places * (72 + 68 * config.replicas.len()) + 4096);
    net.frame_bytes_max = u32::try_from(largest.max(sync).max(1 << 20)).unwrap_or(u32::MAX);
    net.client_frame_bytes_max = u32::try_from(largest).unwrap_or(u32::MAX);
    net.replica_queue_bytes_max = (64 << 20).max(4 * largest);
    net
}

/// The sockets of state transfer: replicas alone, at their own addresses.
pub(crate) fn transfer_config(
    config: &Config,
    id: ReplicaId,
    identity: Identity,
    listen: String,
) -> NetConfig {
    let mut net = net_config(config, Peer::Replica(id), identity);
    net.listen = Some(listen);
    net.thread = "duramen-tnet";
    net.steps_back = true;
    net.client_keys.clear();
    let at = |remote: &Remote| config.replica(remote.id).and_then(|r| r.transfer.clone());
    net.replicas = std::mem::take(&mut net.replicas)
        .into_iter()
        .filter_map(|remote| at(&remote).map(|address| Remote { address, ..remote }))
        .collect();
    net
}

impl Replica {
    /// Starts replica `id` of the cluster in `dir`.
    ///
    /// Errors: one line each that says what to do; nothing on disk was changed, except that a torn tail may be cut.
    pub fn start(options: ReplicaOptions) -> Result<Self, StartError> {
        #[cfg(feature = "adversary")]
        let adversary = options.adversary;
        #[cfg(feature = "adversary")]
        let seeder_lie = options.seeder_lie;
        let ReplicaOptions {
            config,
            dir,
            id,
            service,
            insecure,
            allow_tmpfs,
            io,
            new_era,
            metrics,
            progress,
            ..
        } = options;
        #[cfg(feature = "adversary")]
        let service = match adversary {
            Some(row) => super::liar::service(row, service),
            None => service,
        };
        config.check_transport(insecure)?;
        let durability = config.durability;
        let votes_durable = durability == Durability::Vote;
        if new_era && votes_durable {
            return Err(StartError::NothingForgotten);
        }
        let replica_dir = data_dir::replica_dir(&dir, id);
        let recorded = promise::recorded(&replica_dir)?;
        if let Some(recorded) = recorded.filter(|mode| *mode != durability) {
            return Err(StartError::OtherDurability { dir: replica_dir, recorded, configured: durability });
        }
        let decisions = data_dir::decisions_dir(&dir, id);
        if data_dir::log_dir(&dir, id).is_dir() && decisions.is_dir() != layer_mode(durability).is_some() {
            let found = decisions.is_dir();
            return Err(StartError::OtherLogs { dir: replica_dir, found, configured: durability });
        }
        let Some(entry) = config.replica(id) else {
            let last = config.group().n() - 1;
            return Err(StartError::NoSuchReplica { id, last });
        };
        let listen = entry.address.clone();
        let transfer_at = entry.transfer.clone();
        let keys = ReplicaKeys::load(&data_dir::replica_key_file(&dir, id), &config, id)?;
        let auth = authenticator(&config, &keys, id);
        let (members, hasher) = (auth.members, auth.hasher);

        let log_dir = data_dir::log_dir(&dir, id);
        if log_dir.is_dir() {
            // Another process of this replica has its port, too; that its log is in use says more. Recovery takes the lock.
            drop(log::lock(&log_dir)?);
        }
        // Bound before anything is written.
        let shared = Arc::new(Shared::new(progress.clone()));
        let transport = match config.transport {
            Transport::Tls => "tls",
            Transport::Plain => "plain",
        };
        let (folder, started) = (dir.clone(), Instant::now());
        let status = |backend| StatusWriter {
            me: id,
            members,
            transport,
            durability,
            backend,
            dir: folder.clone(),
            started,
        };
        let (door, net_cell): (Arc<Door<Receive>>, Arc<OnceLock<NetHandle>>) = Default::default();
        let doorman = Doorman {
            door: door.clone(),
            net: net_cell.clone(),
            shared: shared.clone(),
            status: status(String::new()),
            inside: None,
            early: 0,
        };
        let mut config_net = net_config(&config, Peer::Replica(id), Identity::from_seed(keys.seed));
        config_net.listen = Some(listen);
        let net = net::start(config_net, Box::new(doorman))?;
        let handle = net.handle();
        let _ = net_cell.set(handle.clone());
        // One state is hashed while another waits.
        let links: Links<ToOrder, ToExecute, ToCheckpoint, ToTransfer, Serve, Frozen> =
            Links::new(SERVES_MAX, PASSED_MAX);
        let (transfer_in, transfer_inbox) = links.transfer;
        let transfers = durability != Durability::None && config.checkpoint.period > 0;
        let transfer_net = match transfer_at.filter(|_| transfers) {
            Some(at) => {
                let sockets = Sockets::new(transfer_in.clone());
                let identity = Identity::from_seed(keys.seed);
                Some(net::start(transfer_config(&config, id, identity, at), Box::new(sockets))?)
            }
            None => None,
        };
        let address = handle.local_addr();
        let (state, stats) = (shared.clone(), handle.clone());
        let page = move |path: &str| {
            let plain = |trouble: Option<String>| Answer {
                code: if trouble.is_some() { 503 } else { 200 },
                content_type: "text/plain",
                body: trouble.unwrap_or_else(|| "ok".into()) + "\n",
            };
            match path {
                "/metrics" => Answer {
                    code: 200,
                    content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body: open_metrics::page(id, &state, &stats.stats()),
                },
                "/healthz" => plain(open_metrics::unhealthy(&state)),
                "/readyz" => plain(open_metrics::unready(&state)),
                _ => Answer {
                    code: 404,
                    content_type: "text/plain",
                    body: "/metrics /healthz /readyz\n".into(),
                },
            }
        };
        let admin = metrics.map(|at| Admin::start(at, Box::new(page))).transpose()?;

        // Replay: what the log's marks cover is executed; the rest waits for the group.
        let table = ClientTableLimits {
            sessions_per_client_max: config.limits.sessions_per_client as usize,
            ..ClientTableLimits::default()
        };
        // Both logs of a replica share the arm.
        let device = match config.log.device {
            LogDevice::Real => None,
            LogDevice::PaperDisk => Some(Device::paper_disk()),
            LogDevice::PaperSsd => Some(Device::paper_ssd()),
        };
        let mut options = log_options(&config, log_dir.clone(), id, io, allow_tmpfs);
        options.device.clone_from(&device);
        options.progress = progress.log.clone();
        if !votes_durable {
            // Views, reserves and marks alone: little.
            (options.prefill_segments, options.spare_segments) = (0, 1);
        }
        let layer_options = layer_mode(durability).map(|mode| {
            let dir = data_dir::decisions_dir(&dir, id);
            let progress = progress.decisions.clone();
            (mode, LogOptions { device, progress, ..log_options(&config, dir, id, io, allow_tmpfs) })
        });
        let (turns, interval) = (config.checkpoint.turns(), config.limits.mark_interval);
        let schedule = match durability {
            Durability::None => None,
            _ => Schedule::new(turns, config.checkpoint.period, members.n(), id, interval),
        };
        if let Some(schedule) = &schedule {
            warn_of_small_log(&config, schedule);
        }
        let checkpoint_dir = data_dir::checkpoint_dir(&dir, &config, id);
        let mut checkpoints = CheckpointStore::open(&checkpoint_dir)?;
        let transfers = schedule.is_some() && transfer_net.is_some();
        let progress_of = &progress;
        let recovery = Recovery {
            auth: &auth,
            options,
            layer_options,
            table,
            schedule,
            mark_interval: interval,
            progress: progress_of,
            transfers,
        };
        progress.begin();
        let recovered = recovery.run(service, &mut checkpoints);
        progress.end();
        let Recovered { executor, open, open_layer, mut replay, passed, lacks_state, spare } = recovered?;
        if let Some(why) = &lacks_state {
            ::log::error!("{why}: the state of the others is taken over");
            shared.set_lacks_state(lacks_state.clone());
            shared.hollow.store(true, Ordering::Relaxed);
        }
        let report = open.report().clone();
        let restored = |why| StartError::Restore { dir: log_dir.clone(), why };
        // A state from others whose checkpoint is there, and whose record is not.
        let mut transferred = None;
        for seq in staging::staged(&checkpoint_dir)? {
            let staging = Staging::open(&checkpoint_dir, seq).unwrap_or_else(|e| {
                ::log::warn!("chunks received of the state of place {seq} cannot be read: {e}");
                None
            });
            let mark = staging.map(|staging| staging.mark);
            if let Some(record) = mark.map(|mark| replay.transferred(mark)).transpose().map_err(restored)? {
                transferred = transferred.or(record);
            }
        }
        let mark = replay.durable().mark.statement;
        let sound = lacks_state.is_none();
        if sound && executor.executed() == mark.seq && executor.reply_chain() != mark.replies {
            let why = RestoreError::Replies(mark.seq);
            return Err(restored(why));
        }
        // `init` starts the log once, to put its first record there.
        let restarted = report.boot_epoch > 1;
        if restarted && !votes_durable {
            if durability == Durability::None {
                return Err(StartError::NothingKept);
            }
            replay.forget();
        }
        let era = (restarted && new_era).then(|| OrderRecord::NewEra { era: replay.durable().era + 1 });
        if let Some(era) = &era {
            replay.record(era).map_err(restored)?;
        }

        let ((to_order, order_inbox), (to_execute, execute_inbox)) = (links.order, links.execute);
        let (to_fetch, fetch_inbox) = links.fetch;
        let clock = Clock::start();
        let order_config = OrderConfig {
            window: config.limits.window,
            open: config.limits.instances_open,
            mark_interval: config.limits.mark_interval,
            batch_bytes: config.limits.batch_bytes.saturating_sub(BATCH_HEADER_BYTES + GROUP_HEADER_BYTES),
            batch_requests: config.limits.batch_requests,
            view_timeout_ms: config.view_timeout_ms,
            clock_skew_ms: config.limits.clock_skew_ms,
            client_bytes_max: CLIENT_POOL_BYTES,
            pool_bytes_max: POOL_BYTES,
            votes_durable,
            transfers,
            seed: random()?,
        };
        let mut core = replay.finish(order_config, clock.now()).map_err(restored)?;
        core.known_progress(executor.progress());
        let room_events = to_order.clone();
        let room = Arc::new(Room::new(move |room| {
            let _ = room_events.send(ToOrder::One(Input::LogRoom(room)));
        }));
        let (log_events, log_room) = (to_order.clone(), room.clone());
        let events = Box::new(move |event: LogEvent| {
            let input = match event {
                LogEvent::Persisted(persisted) => Input::Persisted(persisted),
                LogEvent::Failed(failed) => Input::LogFailed(failed.to_string()),
                LogEvent::Room(now) => return log_room.is(0, now),
            };
            let _ = log_events.send(ToOrder::One(input));
        });
        // A folder older than the record of its mode gets one.
        promise::record(&replica_dir, durability)?;
        let (mut log, reader) = open.start(events)?;
        for record in transferred.iter().chain(&era) {
            append_now(&mut log, record)?;
        }
        let decisions_bytes = open_layer.as_ref().map_or(0, |open| open.report().log_bytes);
        let layer = open_layer.map(|open| open.start(move |now| room.is(1, now))).transpose()?;
        let recent: Option<Arc<Mutex<Recent>>> = (durability == Durability::None).then(Arc::default);
        let store = match (&layer, &recent) {
            (Some(layer), _) => Store::Deliveries(layer.reader()),
            (None, Some(recent)) => Store::Recent(recent.clone()),
            (None, None) => Store::Votes(reader),
        };
        core.begin(clock.now());

        {
            let mut view = shared.checkpoints.lock();
            view.kept = checkpoints.kept().to_vec();
            view.files = checkpoints.size();
            view.full_every = config.checkpoint.full_every;
            view.period = schedule.map_or(0, |s| s.period());
            view.stretch = 1;
        }
        let older = checkpoints.older();
        let log_bytes = report.log_bytes.max(decisions_bytes);
        let fills_up = log_bytes > log.bytes_max() / 8 * 5;
        shared.checkpoint_wanted.store(fills_up && schedule.is_some(), Ordering::Relaxed);
        let (to_checkpoint, checkpoint_inbox) = links.checkpoint;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let to_transfer = transfer_net.as_ref().map(|_| transfer_in.clone());
        let (roots_in, roots_inbox) = links.roots;
        for frozen in passed {
            let _ = roots_in.offer(frozen);
        }
        let roots = schedule.map(|schedule| RootsStage {
            algorithm: config.digest,
            turn_places: schedule.turn_places(),
            inbox: roots_inbox,
            to_order: to_order.clone(),
            to_transfer: to_transfer.clone(),
            shared: shared.clone(),
        });
        let checkpointer = schedule.map(|schedule| CheckpointStage {
            store: checkpoints,
            cluster: config.cluster,
            me: id,
            members,
            schedule,
            increments: Increments::new(config.checkpoint.full_every, config.digest),
            pacer: Pacer::new(config.checkpoint.mib_per_second << 20),
            stretch: Stretch::new(schedule),
            inbox: checkpoint_inbox,
            waiting: waiting.clone(),
            to_order: to_order.clone(),
            to_transfer: to_transfer.clone(),
            shared: shared.clone(),
        });
        shared.view.store(core.view().0, Ordering::Relaxed);
        shared.forgetful.store(core.is_forgetful(), Ordering::Relaxed);
        shared.executed.store(executor.executed().0, Ordering::Relaxed);
        let status = Arc::new(status(log.backend().to_owned()));
        let unchecked = to_order.clone();
        let pool = Pool::start(
            "duramen-pool",
            || (),
            move || {
                let why = "a message could not be checked: its check panicked".into();
                let _ = unchecked.send(ToOrder::One(Input::ServiceFailed(why)));
            },
        )?;
        let (step_back, unhashed) = (crate::sys::step_back, transfer_in.clone());
        let hashers =
            Pool::start("duramen-hash", step_back, move || drop(unhashed.send(ToTransfer::Unhashed)))?;
        let clients = Arc::new(BackPressure::new(CLIENT_BYTES_MAX));
        #[cfg(feature = "adversary")]
        let liar_auth = auth.clone();
        let auth = Arc::new(auth);
        let verify = Arc::new(Verify {
            auth: auth.clone(),
            shared: shared.clone(),
            pool: pool.threads().clone(),
            to_order: to_order.clone(),
            net: net_cell.clone(),
            queue: Default::default(),
        });
        let receive = Receive {
            auth: auth.clone(),
            shared: shared.clone(),
            verify,
            to_order: to_order.clone(),
            to_execute: to_execute.clone(),
            net: net_cell.clone(),
            status: status.clone(),
            peer_bytes: HashMap::new(),
            repeats: HashMap::new(),
            standings: HashMap::new(),
            clients: clients.clone(),
            read_bytes: HashMap::new(),
            reads: 0,
            polled: None,
            cheap: Vec::new(),
            work: Vec::new(),
        };
        door.open(receive, &handle);

        #[cfg(feature = "adversary")]
        let new_liar = || {
            let new = |row| -> Result<_, StartError> {
                let (window, mark_interval) = (config.limits.window, config.limits.mark_interval);
                let power = crate::sim::adversary::Power { auth: liar_auth.clone(), window, mark_interval };
                Ok(super::liar::Liar::new(row, power, random()?))
            };
            adversary.map(new).transpose()
        };
        let order = OrderStage {
            core,
            clock,
            inbox: order_inbox,
            log,
            net: handle.clone(),
            to_execute: to_execute.clone(),
            to_fetch,
            shared: shared.clone(),
            clients,
            outputs: Vec::new(),
            frames: Vec::new(),
            published: Tick(0),
            appends: Default::default(),
            voted: Default::default(),
            proposed: Default::default(),
            #[cfg(feature = "adversary")]
            liar: new_liar()?,
            to_checkpoint: schedule.map(|_| to_checkpoint.clone()),
            to_transfer: to_transfer.clone(),
            log_keep_bytes: config.checkpoint.log_keep_mib << 20,
            decisions: layer.as_ref().map(DurableLayer::reader),
            stored: older.map(|seq| (seq, Tick(0))),
            pressure: Pressure::new(id.0, members.n()),
            appended: 0,
            unlooked: 0,
            resends: HashMap::new(),
            lag: Lag::default(),
            // In crash mode nobody lies.
            faults: if members.byzantine() { members.f() } else { 0 },
            durability,
        };
        let execute = ExecuteStage {
            executor,
            members,
            me: id,
            hasher,
            inbox: execute_inbox,
            to_order: to_order.clone(),
            net: handle.clone(),
            shared: shared.clone(),
            status: status.clone(),
            nonce: random()?,
            reads_ok: !members.byzantine(),
            waiting: Default::default(),
            resend_turn: 0,
            digest: Default::default(),
            checkpoints: schedule.map(|schedule| Checkpoints {
                schedule,
                mark_interval: config.limits.mark_interval,
                stop_the_world: config.checkpoint.snapshot == SnapshotKind::StopTheWorld,
                to_checkpoint: to_checkpoint.clone(),
                waiting,
            }),
            spare,
            to_roots: schedule.map(|_| roots_in.clone()),
            to_transfer: to_transfer.clone(),
            layer,
            recent,
            all_answer: members.byzantine() || !votes_durable,
            unlogged: Default::default(),
            ended: false,
            published: Instant::now(),
            #[cfg(feature = "adversary")]
            liar: new_liar()?.map(parking_lot::Mutex::new),
        };
        let named = |name: &str| std::thread::Builder::new().name(format!("duramen-{name}"));
        let (fetch_net, fetch_order, me) = (handle.clone(), to_order.clone(), id);
        let mut threads = vec![
            named("order").spawn(move || order.run())?,
            named("exec").spawn(move || run_execution(execute))?,
            named("fetch")
                .spawn(move || serve(me, hasher, &fetch_inbox, &store, &fetch_net, &fetch_order))?,
        ];
        drop(roots_in);
        if let Some(stage) = roots {
            threads.push(named("roots").spawn(move || stage.run())?);
        }
        if let Some(stage) = checkpointer {
            threads.push(named("ckpt").spawn(move || stage.run())?);
        }
        // Last: an error after it would wait for what it hashes with.
        if let Some(net) = &transfer_net {
            let limits = &config.transfer;
            let algorithm = auth.hasher.algorithm;
            let setup = TransferSetup {
                dir: checkpoint_dir.clone(),
                auth,
                config: FetchConfig {
                    strategy: limits.strategy,
                    offerers: if members.byzantine() { members.f() as usize + 1 } else { 1 },
                    interval_ns: limits.interval_ms * 1_000_000,
                    cst: cst_config(&config, members, id),
                    packed: limits.compress,
                    leader_weight_percent: limits.leader_percent,
                    ..FetchConfig::default()
                },
                yielding: (limits.yield_floor_mib > 0).then(|| Yielding::new(limits.yield_floor_mib << 20)),
                postponing: Postponing::new(limits.postpone_above, limits.postpone_seconds * 1_000_000_000),
            };
            let owner = ReplicaTransfer::new(setup, to_order.clone(), to_execute.clone(), shared.clone());
            let setup = Setup {
                dir: checkpoint_dir,
                algorithm,
                net: net.handle(),
                pool: hashers.threads().clone(),
                seeder: Seeder::new(limits.mib_per_second << 20),
                began: Instant::now(),
                #[cfg(feature = "adversary")]
                lie: seeder_lie.map(|lie| lie.twist),
            };
            let stage = TransferStage::new(setup, owner, transfer_in.clone(), transfer_inbox)?;
            threads.push(named("transfer").spawn(move || run_transfers(stage))?);
        }
        let net = Some(net);
        Ok(Self {
            admin,
            id,
            net,
            to_order,
            to_execute,
            to_checkpoint,
            to_transfer: transfer_in,
            transfer_net,
            threads,
            pools: [pool, hashers],
            shared,
            status,
            report,
            address,
        })
    }
}

/// A log is bounded by checkpoints that come while it fills: says so where the largest batches may leave no place for them.
fn warn_of_small_log(config: &Config, schedule: &Schedule) {
    let (log_mib, interval) = (config.log.bytes_max_mib, config.limits.mark_interval);
    let mib = |places: u64| places.saturating_mul(config.limits.batch_bytes as u64) >> 20;
    let (turn, period) = (schedule.turn_places(), config.checkpoint.period);
    if mib(turn) > log_mib / 2 {
        ::log::warn!(
            "checkpoint.period = {period}: states are offered to others every {turn} places, which hold up to {} MiB, and the log holds \
             {log_mib}: one that lacks more than the log leads back to waits that long; a smaller period or a larger log helps",
            mib(turn)
        );
    }
    if mib(interval) > log_mib / 8 {
        ::log::warn!(
            "log.bytes_max_mib = {log_mib}: checkpoints are taken at every limits.mark_interval = {interval} places at most, which hold up \
             to {} MiB: large batches may fill the log before the two checkpoints that make room; it should hold {} MiB",
            mib(interval),
            8 * mib(interval)
        );
    }
}

/// What the transfer strategy `cst` must know: who else checkpoints when.
fn cst_config(config: &Config, members: crate::quorum::Group, me: ReplicaId) -> CstConfig {
    let (turns, period) = (config.checkpoint.turns(), config.checkpoint.period);
    let schedule = |id| Schedule::new(turns, period, members.n(), id, config.limits.mark_interval);
    let others = members.members().filter(|id| *id != me);
    CstConfig {
        model: members.model(),
        f: members.f(),
        schedules: others.filter_map(|id| Some((id, schedule(id)?))).collect(),
        place: Seq(0),
    }
}

/// Appends a record before anything runs, and waits until it is durable.
fn append_now(log: &mut Log, record: &OrderRecord) -> Result<(), LogError> {
    let lsn = log.append_control(record.encode().into()).map_err(|e| LogError::Options(e.to_string()))?;
    while log.durable() < lsn {
        if log.has_failed() {
            return Err(LogError::Options("a write failed; see the messages before this one".into()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Reads batches of our log for peers that are behind; ends when the order stage does.
fn serve(
    me: ReplicaId,
    hasher: Hasher,
    inbox: &Receiver<Serve>,
    store: &Store,
    net: &NetHandle,
    to_order: &Sender<ToOrder>,
) {
    let mut warned: HashMap<ReplicaId, Instant> = HashMap::new();
    for Serve { to, seq, lsn } in inbox {
        let batch = match store.batch(seq, lsn) {
            Ok(Some(batch)) => batch,
            Ok(None) => continue,
            Err(e) => {
                // It asks again and again.
                let due = warned.get(&to).is_none_or(|at| at.elapsed() > WARN_PAUSE);
                if due {
                    warned.insert(to, Instant::now());
                    ::log::warn!("cannot read place {seq} for replica {to}: {e}");
                }
                continue;
            }
        };
        if to != me {
            net.send(To::Replica(to), frame(&Message::BatchIs(BatchIs { seq, batch })));
        } else if let Ok(batch) = Batch::decode(&hasher, seq, batch) {
            let _ = to_order.send(ToOrder::One(Input::OwnBatch(Arc::new(batch))));
        }
    }
}
