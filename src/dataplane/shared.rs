//! What all workers share: counts of connections, the queues between workers, and where Events and metrics go.
//!
//! It knows no side: what only one side's workers share is in `ingress/resources` and `egress/resources`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::admission::{AdmissionGate, PartnerConnections};
use crate::clock::Clock;
use crate::event::EventBus;
use crate::evidence::RefusalMemory;
use crate::metrics::Metrics;
use crate::net::listen::AcceptedConnection;
use crate::process::{DrainGuard, DrainProgress};
use crate::snapshot::{ListenerId, Side, Snapshot};

/// What all workers share.
pub(crate) struct DataPlaneShared {
    pub(crate) events: Arc<EventBus>,
    pub(crate) clock: Clock,
    pub(crate) lessons: Arc<RefusalMemory>,
    pub(crate) metrics: Arc<Metrics>,
    /// The last number of a connection.
    pub(super) numbers: AtomicU64,
    /// Open connections by worker.
    pub(super) loads: Vec<AtomicUsize>,
    /// The queue of each worker.
    pub(super) queues: Vec<mpsc::Sender<ConnectionHandoff>>,
    /// What is known of each listener.
    pub(super) listeners: Vec<ListenerStatus>,
    /// Open connections that the descriptors allow.
    pub(super) max_connections: usize,
    /// Open connections of partners that have a limit of their own.
    pub(crate) partnered: Arc<PartnerConnections>,
    pub(super) progress: Arc<DrainProgress>,
    /// Notified whenever a listener starts to listen.
    pub(super) opened: Notify,
}

/// What all workers know of one listener.
pub(super) struct ListenerStatus {
    id: ListenerId,
    /// Its open connections.
    open: AtomicUsize,
    listening: AtomicBool,
    gate: Arc<AdmissionGate>,
}

impl ListenerStatus {
    pub(super) fn new(id: ListenerId) -> Self {
        Self { id, open: AtomicUsize::new(0), listening: AtomicBool::new(false), gate: Arc::default() }
    }

    fn is_due(&self, snapshot: &Snapshot) -> bool {
        match self.id.side {
            Side::Ingress => snapshot.ingresses.contains_key(&self.id.name),
            Side::Egress => true,
        }
    }
}

impl DataPlaneShared {
    /// A number for a connection, unique in this process.
    pub(crate) fn next_connection_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// One worker's share of a limit on connections, which descriptors may lower.
    pub(crate) fn connection_share(&self, limit: usize) -> usize {
        limit.min(self.max_connections).div_ceil(self.queues.len()).max(1)
    }

    /// Waits until each listener of `snapshot` accepts.
    pub(super) async fn wait_until_listening(&self, snapshot: &Snapshot) {
        loop {
            let mut opened = std::pin::pin!(self.opened.notified());
            opened.as_mut().enable();
            if self
                .listeners
                .iter()
                .all(|listener| !listener.is_due(snapshot) || listener.listening.load(Ordering::Acquire))
            {
                return;
            }
            opened.await;
        }
    }

    /// Records that a connection was cut at the deadline of a stop.
    pub(super) fn record_cut(&self) {
        self.progress.record_cut();
    }

    /// Records that a listener accepts from now on.
    pub(crate) fn mark_listening(&self, listener: usize) {
        self.listeners[listener].listening.store(true, Ordering::Release);
        self.opened.notify_waiters();
    }

    /// Which of a listener's connections may wait for a ClientHello, and which may perform the handshake.
    pub(crate) fn gate(&self, listener: usize) -> &Arc<AdmissionGate> {
        &self.listeners[listener].gate
    }
}

/// An accepted connection on its way to a worker.
pub(crate) struct ConnectionHandoff {
    pub(crate) listener: usize,
    pub(crate) accepted: AcceptedConnection,
    /// When it was accepted.
    pub(crate) at: Instant,
    pub(crate) slot: ConnectionSlot,
}

/// A connection's place in the counts of its listener and its worker, until it is dropped.
pub(crate) struct ConnectionSlot {
    shared: Arc<DataPlaneShared>,
    listener: usize,
    pub(crate) worker: usize,
    _busy: DrainGuard,
}

impl ConnectionSlot {
    /// Takes a place with the worker that has the fewest connections.
    pub(crate) fn acquire(shared: &Arc<DataPlaneShared>, listener: usize) -> Self {
        let (loads, listeners) = (&shared.loads, &shared.listeners);
        let loaded = |worker: &usize| loads[*worker].load(Ordering::Relaxed);
        let worker = (0..loads.len()).min_by_key(loaded).unwrap_or(0);
        loads[worker].fetch_add(1, Ordering::Relaxed);
        listeners[listener].open.fetch_add(1, Ordering::Relaxed);
        let busy = match listeners[listener].id.side {
            Side::Ingress => shared.progress.ingress.track_connection(),
            Side::Egress => shared.progress.egress.track_connection(),
        };
        Self { shared: Arc::clone(shared), listener, worker, _busy: busy }
    }

    /// The limit that its listener exceeds, if any: `limit`, or what descriptors allow.
    pub(crate) fn exceeded_limit(&self, limit: usize) -> Option<usize> {
        let limit = limit.min(self.shared.max_connections);
        (self.shared.listeners[self.listener].open.load(Ordering::Relaxed) > limit).then_some(limit)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.shared.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
        self.shared.listeners[self.listener].open.fetch_sub(1, Ordering::Relaxed);
    }
}
