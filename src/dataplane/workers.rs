//! All workers: started together, each on a thread of its own, and given what they share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc};

use super::egress::resources::UpstreamKnowledge;
use super::ingress::jwt::UsedTokenIds;
use super::shared::{DataPlaneShared, ListenerStatus};
use super::worker::{Worker, WorkerParts};
use crate::clock::Clock;
use crate::event::EventBus;
use crate::evidence::RefusalMemory;
use crate::log::LogQueue;
use crate::metrics::Metrics;
use crate::net::BoundSocket;
use crate::process::{DrainProgress, ProgressEcho, ShutdownWatch, SideProgress};
use crate::snapshot::{ListenerId, Reader, Snapshot};

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
    /// What each worker answers while it makes progress.
    pub echo: Arc<ProgressEcho>,
}

/// The running workers.
pub struct WorkerThreads {
    shared: Arc<DataPlaneShared>,
    threads: Vec<JoinHandle<()>>,
}

impl WorkerThreads {
    /// Waits until each listener of `snapshot` accepts: until then the kernel refuses connections.
    pub async fn wait_until_listening(&self, snapshot: &Snapshot) {
        self.shared.wait_until_listening(snapshot).await;
    }

    /// Waits until every worker has ended; false if one of them panicked.
    pub fn join(self) -> bool {
        // Every one is waited for, however the others ended.
        let ended: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ended.iter().all(Result::is_ok)
    }
}

/// Starts the workers.
///
/// # Errors
/// A thread, event loop or descriptor cannot be created.
pub fn start(parts: DataPlaneParts) -> io::Result<WorkerThreads> {
    let workers = parts.workers.max(1);
    let (queues, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDOFF_QUEUE_LENGTH)).unzip();
    let (known, used) = (UpstreamKnowledge::default(), Arc::<UsedTokenIds>::default());
    let shared = Arc::new(DataPlaneShared {
        events: Arc::clone(&parts.events),
        clock: parts.clock.clone(),
        lessons: parts.lessons,
        metrics: Arc::clone(&parts.metrics),
        numbers: AtomicU64::new(0),
        loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        queues,
        listeners: parts.listeners.iter().map(|(id, _)| ListenerStatus::new(id.clone())).collect(),
        max_connections: max_open_connections(),
        partnered: Arc::default(),
        progress: parts.progress,
        opened: Notify::new(),
    });
    let mut threads = Vec::with_capacity(workers);
    for (index, queue) in receivers.into_iter().enumerate() {
        let given = WorkerParts {
            index,
            shared: Arc::clone(&shared),
            known: known.clone(),
            used: Arc::clone(&used),
            queue,
            listeners: parts.listeners.iter().map(|(id, bound)| (id.clone(), bound.share())).collect(),
            reader: parts.reader.clone(),
            metrics: Arc::clone(&parts.metrics),
            lines: Arc::clone(&parts.lines),
            shutdown: parts.shutdown.clone(),
            drain: parts.drain,
            echo: Arc::clone(&parts.echo),
            // Before any thread runs: a stop waits for every worker from the first moment on.
            listening: [&shared.progress.ingress, &shared.progress.egress].map(SideProgress::track_listeners),
        };
        // A runtime of this kind stays on the thread that makes it, so the thread reports whether it could.
        let (made, told) = std::sync::mpsc::sync_channel(1);
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
                Ok(runtime) => {
                    let _ = made.send(Ok(()));
                    run_worker(runtime, given);
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

fn run_worker(runtime: LocalRuntime, parts: WorkerParts) {
    runtime.block_on(async move { Worker::run(parts).await });
    // A resolver that hangs must not hold up the end of the process: its thread is left behind.
    runtime.shutdown_timeout(BLOCKING_SHUTDOWN_TIMEOUT);
}
