//! All workers: started together, each on a thread of its own, and the little that they share.
//!
//! An accepted connection goes to the worker with the fewest: with several accepting from one queue, the worker that
//! wakes first would otherwise take them all.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::admission::{AdmissionGate, PartnerConnections};
use super::worker::Worker;
use crate::clock::Clock;
use crate::dataplane::egress::verdicts::VerdictTable;
use crate::event::EventBus;
use crate::evidence::RefusalMemory;
use crate::log::LogQueue;
use crate::metrics::Metrics;
use crate::net::BoundSocket;
use crate::net::listen::AcceptedConnection;
use crate::process::{DrainGuard, DrainProgress, ShutdownWatch};
use crate::snapshot::{ListenerId, Reader, Side, Snapshot};

/// How long blocking work on other threads may continue when a worker ends.
const BLOCKING_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// Connections handed to a worker that it has not taken yet.
const HANDOFF_QUEUE_LENGTH: usize = 1024;

/// What the data plane is given from outside.
pub struct DataPlaneParts {
    /// How many workers; at least one.
    pub workers: usize,
    /// Bound sockets.
    pub listeners: Vec<(ListenerId, BoundSocket)>,
    /// Snapshots.
    pub reader: Reader,
    /// Where Events go.
    pub events: Arc<EventBus>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where access lines go.
    pub lines: Arc<LogQueue>,
    /// The time.
    pub clock: Clock,
    /// Which of our pairs sources have refused.
    pub lessons: Arc<RefusalMemory>,
    /// Signals the shutdown.
    pub shutdown: ShutdownWatch,
    /// Where open connections are counted, for the shutdown.
    pub progress: Arc<DrainProgress>,
    /// The longest time that a drain may take.
    pub drain: Duration,
}

/// The running workers.
pub struct WorkerThreads {
    shared: Arc<DataPlaneShared>,
    threads: Vec<JoinHandle<()>>,
}

impl WorkerThreads {
    /// Waits until each listener of `snapshot` accepts: until then the kernel refuses connections.
    pub async fn wait_until_listening(&self, snapshot: &Snapshot) {
        loop {
            let mut opened = std::pin::pin!(self.shared.opened.notified());
            opened.as_mut().enable();
            if self.shared.counts.iter().all(|count| !count.is_due(snapshot) || count.listening.load(Ordering::Acquire))
            {
                return;
            }
            opened.await;
        }
    }

    /// Waits until every worker has ended; false if one of them panicked.
    pub fn join(self) -> bool {
        // Every one is waited for, however the others ended.
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

/// What all workers share.
pub(crate) struct DataPlaneShared {
    pub(crate) events: Arc<EventBus>,
    pub(crate) clock: Clock,
    pub(crate) lessons: Arc<RefusalMemory>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether upstreams accept our key pairs.
    pub(crate) verdicts: VerdictTable,
    /// Tokens that were fetched.
    pub(crate) tokens: crate::dataplane::egress::token::TokenStore,
    /// Identifiers of peers' tokens that were used.
    pub(crate) used: crate::dataplane::ingress::jwt::UsedTokenIds,
    /// The last number of a connection.
    pub(crate) numbers: AtomicU64,
    /// Open connections by worker.
    loads: Vec<AtomicUsize>,
    /// The queue of each worker.
    pub(crate) hands: Vec<mpsc::Sender<ConnectionHandoff>>,
    /// Open connections by listener.
    counts: Vec<ListenerStatus>,
    /// Open connections that the descriptors allow.
    pub(crate) most: usize,
    /// Open connections of partners that have a limit of their own.
    pub(crate) partnered: Arc<PartnerConnections>,
    progress: Arc<DrainProgress>,
    /// Notified whenever a listener starts to listen.
    opened: Notify,
}

struct ListenerStatus {
    id: ListenerId,
    open: AtomicUsize,
    listening: AtomicBool,
    gate: Arc<AdmissionGate>,
}

impl ListenerStatus {
    fn is_due(&self, snapshot: &Snapshot) -> bool {
        match self.id.side {
            Side::Ingress => snapshot.ingresses.contains_key(&self.id.name),
            Side::Egress => snapshot.egresses.contains_key(&self.id.name),
        }
    }
}

impl DataPlaneShared {
    /// Records that a listener accepts from now on.
    pub(crate) fn mark_listening(&self, listener: usize) {
        self.counts[listener].listening.store(true, Ordering::Release);
        self.opened.notify_waiters();
    }

    /// Which of a listener's connections may wait for a ClientHello, and which may perform the handshake.
    pub(crate) fn gate(&self, listener: usize) -> &Arc<AdmissionGate> {
        &self.counts[listener].gate
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
        let (loads, counts) = (&shared.loads, &shared.counts);
        let loaded = |worker: &usize| loads[*worker].load(Ordering::Relaxed);
        let worker = (0..loads.len()).min_by_key(loaded).unwrap_or(0);
        loads[worker].fetch_add(1, Ordering::Relaxed);
        counts[listener].open.fetch_add(1, Ordering::Relaxed);
        let busy = match counts[listener].id.side {
            Side::Ingress => shared.progress.ingress(),
            Side::Egress => shared.progress.track_egress(),
        };
        Self { shared: Arc::clone(shared), listener, worker, _busy: busy }
    }

    /// The limit that its listener exceeds, if any: `limit`, or what descriptors allow.
    pub(crate) fn exceeded_limit(&self, limit: usize) -> Option<usize> {
        let limit = limit.min(self.shared.most);
        (self.shared.counts[self.listener].open.load(Ordering::Relaxed) > limit).then_some(limit)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.shared.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
        self.shared.counts[self.listener].open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts the workers.
///
/// # Errors
/// A thread, event loop or descriptor cannot be created.
pub fn start(parts: DataPlaneParts) -> io::Result<WorkerThreads> {
    let workers = parts.workers.max(1);
    let (hands, takers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDOFF_QUEUE_LENGTH)).unzip();
    let count = |(id, _): &(ListenerId, BoundSocket)| ListenerStatus {
        id: id.clone(),
        open: AtomicUsize::new(0),
        listening: AtomicBool::new(false),
        gate: Arc::default(),
    };
    let shared = Arc::new(DataPlaneShared {
        events: Arc::clone(&parts.events),
        clock: parts.clock.clone(),
        lessons: parts.lessons,
        metrics: Arc::clone(&parts.metrics),
        verdicts: VerdictTable::default(),
        tokens: crate::dataplane::egress::token::TokenStore::default(),
        used: crate::dataplane::ingress::jwt::UsedTokenIds::default(),
        numbers: AtomicU64::new(0),
        loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        hands,
        counts: parts.listeners.iter().map(count).collect(),
        most: max_open_connections(),
        partnered: Arc::default(),
        progress: parts.progress,
        opened: Notify::new(),
    });
    let mut threads = Vec::with_capacity(workers);
    for (index, taker) in takers.into_iter().enumerate() {
        let cloned = |(id, bound): &(ListenerId, BoundSocket)| Ok((id.clone(), bound.try_clone()?));
        let seat = WorkerParts {
            index,
            shared: Arc::clone(&shared),
            taker,
            listeners: parts.listeners.iter().map(cloned).collect::<io::Result<_>>()?,
            reader: parts.reader.clone(),
            metrics: Arc::clone(&parts.metrics),
            lines: Arc::clone(&parts.lines),
            shutdown: parts.shutdown.clone(),
            drain: parts.drain,
        };
        // A runtime of this kind stays on the thread that makes it, so the thread reports whether it could.
        let (made, told) = std::sync::mpsc::sync_channel(1);
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
                Ok(runtime) => {
                    let _ = made.send(Ok(()));
                    run_worker(runtime, seat);
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            }
        })?);
        told.recv().unwrap_or_else(|_| Err(io::Error::other("a worker thread ended during start")))?;
    }
    Ok(WorkerThreads { shared, threads })
}

/// Connections that the process' descriptors allow: two for each (the peer's and the backend's), and some for the rest.
fn max_open_connections() -> usize {
    const RESERVED_DESCRIPTORS: u64 = 128;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(16)
    })
}

/// What a worker's thread is given.
pub(crate) struct WorkerParts {
    pub(crate) index: usize,
    pub(crate) shared: Arc<DataPlaneShared>,
    pub(crate) taker: mpsc::Receiver<ConnectionHandoff>,
    pub(crate) listeners: Vec<(ListenerId, BoundSocket)>,
    pub(crate) reader: Reader,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lines: Arc<LogQueue>,
    pub(crate) shutdown: ShutdownWatch,
    pub(crate) drain: Duration,
}

fn run_worker(runtime: LocalRuntime, seat: WorkerParts) {
    runtime.block_on(async move { Worker::run(seat).await });
    // A resolver that hangs must not hold up the end of the process: its thread is left behind.
    runtime.shutdown_timeout(BLOCKING_SHUTDOWN_TIMEOUT);
}
