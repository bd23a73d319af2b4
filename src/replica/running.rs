//! A replica while it runs.

use super::admin::Admin;
use super::checkpoint_stage::ToCheckpoint;
use super::open_metrics;
use super::shared::Shared;
use super::stages::*;
use super::status::StatusWriter;
use super::transfer_stage::ToTransfer;
use crate::log::RecoveryReport;
use crate::net;
use crate::sync::channel::Sender;
use crate::sync::pool::Pool;
use crate::types::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running replica. Dropping it stops it.
pub struct Replica {
    pub(super) id: ReplicaId,
    pub(super) net: Option<net::Net>,
    pub(super) to_order: Sender<ToOrder>,
    pub(super) to_execute: Sender<ToExecute>,
    pub(super) to_checkpoint: Sender<ToCheckpoint>,
    pub(super) to_transfer: Sender<ToTransfer>,
    pub(super) transfer_net: Option<net::Net>,
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Joined when dropped.
    #[expect(dead_code)]
    pub(super) pools: [Pool; 2],
    pub(super) shared: Arc<Shared>,
    pub(super) status: Arc<StatusWriter>,
    pub(super) report: RecoveryReport,
    pub(super) address: Option<SocketAddr>,
    pub(super) admin: Option<Admin>,
}

impl Replica {
    /// Which replica this is.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where metrics are answered.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// What the log's recovery found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Which way log writes reach the disk, and why not io_uring if not.
    pub fn backend(&self) -> &str {
        &self.status.backend
    }

    /// The view entered last.
    pub fn view(&self) -> View {
        View(self.shared.view.load(Ordering::Relaxed))
    }

    /// Everything known at the moment, one JSON object.
    pub fn status_json(&self) -> String {
        let stats = self.net.as_ref().map(|n| n.handle().stats());
        self.status.json(&self.shared, stats.as_ref(), None)
    }

    /// The page of `/metrics`, whether it is answered anywhere or not.
    pub fn metrics_text(&self) -> String {
        let stats = self.net.as_ref().map(|n| n.handle().stats()).unwrap_or_default();
        open_metrics::page(self.id, &self.shared, &stats)
    }

    /// Why the replica is mute, if it is or a thread of it has ended; waits up to `timeout` for that.
    pub fn wait_failed(&self, timeout: Duration) -> Option<String> {
        let until = Instant::now() + timeout;
        loop {
            let halted = self.shared.order.lock().halted.clone();
            // Set before `order` hears of it.
            if let Some(why) = halted.or_else(|| self.shared.service_failed.lock().clone()) {
                return Some(why);
            }
            if self.threads.iter().any(JoinHandle::is_finished)
                || self.net.as_ref().is_some_and(|n| !n.is_running())
            {
                return Some("a thread of this replica ended; see its messages".into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Stops all stages and waits for them; what was appended is written.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.admin = None;
        if let Some(mut net) = self.net.take() {
            net.stop();
        }
        let _ = self.to_order.send(ToOrder::Stop);
        let _ = self.to_execute.send(ToExecute::Stop);
        let _ = self.to_checkpoint.send(ToCheckpoint::Stop);
        if let Some(mut net) = self.transfer_net.take() {
            net.stop();
        }
        let _ = self.to_transfer.send(ToTransfer::Stop);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end();
    }
}
