//! All workers: started together, each on a thread of its own, and what little they share.
//!
//! An accepted connection goes to the worker with the fewest: with several accepting from one queue, whoever wakes first
//! would else take them all.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, watch};

use super::worker::Worker;
use crate::clock::Clock;
use crate::event::Events;
use crate::log::Lines;
use crate::metrics::Metrics;
use crate::net::Bound;
use crate::net::listen::Accepted;
use crate::process::{Busy, Progress, Shutdown};
use crate::snapshot::{ListenerId, Reader, Side, Snapshot};

/// Connections handed to a worker that it has not taken yet.
const HANDED: usize = 1024;

/// Everything a data plane is made of, from outside.
pub struct Parts {
    /// How many workers; at least one.
    pub workers: usize,
    /// Bound sockets.
    pub listeners: Vec<(ListenerId, Bound)>,
    /// Snapshots.
    pub reader: Reader,
    /// Where Events go.
    pub events: Arc<Events>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where access lines go.
    pub lines: Arc<Lines>,
    /// The time.
    pub clock: Clock,
    /// The end.
    pub shutdown: Shutdown,
    /// What stopping waits for.
    pub progress: Arc<Progress>,
    /// How long a draining connection may take.
    pub drain: Duration,
    /// Open connections of one listener that the process' descriptors allow; the configured limit is lowered to it.
    pub connections: usize,
}

/// The running workers.
pub struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Waits until every listener that `snapshot` has something to show on can be connected to.
    pub async fn listening(&self, snapshot: &Snapshot) {
        let mut listening = self.shared.listening.subscribe();
        let wanted: Vec<usize> =
            (0..self.shared.counts.len()).filter(|index| self.shared.is_in(*index, snapshot)).collect();
        // The sender lives as long as the workers' shared part, which is ours.
        let _ = listening.wait_for(|now| wanted.iter().all(|index| now.contains(index))).await;
    }

    /// Waits until every worker has ended; false if one of them panicked.
    pub fn join(self) -> bool {
        self.threads.into_iter().map(JoinHandle::join).fold(true, |fine, ended| fine && ended.is_ok())
    }
}

/// What all workers see.
pub(super) struct Shared {
    pub(super) events: Arc<Events>,
    pub(super) clock: Clock,
    /// The last number of a connection.
    pub(super) numbers: AtomicU64,
    /// Open connections by worker.
    loads: Vec<AtomicUsize>,
    /// The way to each worker.
    pub(super) hands: Vec<mpsc::Sender<Handed>>,
    /// Open connections by listener.
    counts: Vec<Count>,
    most: usize,
    progress: Arc<Progress>,
    /// Listeners, by index, that at least one worker listens on.
    listening: watch::Sender<BTreeSet<usize>>,
}

struct Count {
    id: ListenerId,
    open: AtomicUsize,
}

impl Shared {
    /// A worker listens on this listener.
    pub(super) fn listens(&self, listener: usize) {
        self.listening.send_if_modified(|all| all.insert(listener));
    }

    fn is_in(&self, listener: usize, snapshot: &Snapshot) -> bool {
        let id = &self.counts[listener].id;
        match id.side {
            Side::Ingress => snapshot.ingresses.contains_key(&id.name),
            Side::Egress => snapshot.egresses.contains_key(&id.name),
        }
    }
}

/// An accepted connection on its way to a worker.
pub(super) struct Handed {
    pub(super) listener: usize,
    pub(super) accepted: Accepted,
    pub(super) slot: Slot,
}

/// A connection's place in the counts of its listener and its worker, until it is dropped.
pub(super) struct Slot {
    shared: Arc<Shared>,
    listener: usize,
    pub(super) worker: usize,
    _busy: Busy,
}

impl Slot {
    /// A place with the worker that has the fewest.
    pub(super) fn take(shared: &Arc<Shared>, listener: usize) -> Self {
        let (loads, counts) = (&shared.loads, &shared.counts);
        let loaded = |worker: &usize| loads[*worker].load(Ordering::Relaxed);
        let worker = (0..loads.len()).min_by_key(loaded).unwrap_or(0);
        loads[worker].fetch_add(1, Ordering::Relaxed);
        counts[listener].open.fetch_add(1, Ordering::Relaxed);
        let busy = match counts[listener].id.side {
            Side::Ingress => shared.progress.ingress(),
            Side::Egress => shared.progress.egress(),
        };
        Self { shared: Arc::clone(shared), listener, worker, _busy: busy }
    }

    /// Whether its listener has more open than `limit`, or than descriptors allow.
    pub(super) fn is_beyond(&self, limit: usize) -> Option<usize> {
        let limit = limit.min(self.shared.most);
        (self.shared.counts[self.listener].open.load(Ordering::Relaxed) > limit).then_some(limit)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
        self.shared.counts[self.listener].open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts the workers.
///
/// # Errors
/// No thread, event loop or descriptor is left.
pub fn start(parts: Parts) -> io::Result<Workers> {
    let workers = parts.workers.max(1);
    let (hands, takers): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(HANDED)).unzip();
    let count = |(id, _): &(ListenerId, Bound)| Count { id: id.clone(), open: AtomicUsize::new(0) };
    let shared = Arc::new(Shared {
        events: Arc::clone(&parts.events),
        clock: parts.clock.clone(),
        numbers: AtomicU64::new(0),
        loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
        hands,
        counts: parts.listeners.iter().map(count).collect(),
        most: parts.connections.max(1),
        progress: Arc::clone(&parts.progress),
        listening: watch::Sender::default(),
    });
    let mut threads = Vec::with_capacity(workers);
    for (index, taker) in takers.into_iter().enumerate() {
        let cloned = |(id, bound): &(ListenerId, Bound)| Ok((id.clone(), bound.try_clone()?));
        let seat = Seat {
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
        // A runtime of this kind stays on the thread that makes it, so the thread says whether it could.
        let (made, told) = std::sync::mpsc::sync_channel(1);
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()) {
                Ok(runtime) => {
                    let _ = made.send(Ok(()));
                    run(&runtime, seat);
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            }
        })?);
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of a worker ended")))?;
    }
    Ok(Workers { shared, threads })
}

/// What a worker's thread is given.
pub(super) struct Seat {
    pub(super) index: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) taker: mpsc::Receiver<Handed>,
    pub(super) listeners: Vec<(ListenerId, Bound)>,
    pub(super) reader: Reader,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lines: Arc<Lines>,
    pub(super) shutdown: Shutdown,
    pub(super) drain: Duration,
}

fn run(runtime: &LocalRuntime, seat: Seat) {
    runtime.block_on(async move { Worker::run(seat).await });
}
