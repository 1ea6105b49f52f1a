//! A worker: one thread with its own event loop, listeners, pools and connections. It handles each epoch once.
//!
//! Nothing on the request path is shared between workers but the queue of log lines, so no lock is taken and no cache
//! line is contended.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep};

use super::drain::{DrainCause, check_connection};
use super::listener::{self, WorkerListener};
use super::workers::{DataPlaneShared, WorkerParts};
use crate::clock::Clock;
use crate::clock::deadlines::{TICK, Ticks, WaitTable};
use crate::dataplane::connection::{ConnectionGuard, ConnectionLimit, ConnectionState, ConnectionTable, TickOutcome};
use crate::dataplane::egress::probe;
use crate::dataplane::egress::upstream::UpstreamState;
use crate::dataplane::exchange::access::{RequestContext, TimestampCache};
use crate::dataplane::exchange::forward::IDLE_CONNECTION_LIFETIME;
use crate::dataplane::exchange::pool::ConnectionPool;
use crate::event::{DrainRecord, Event, EventBus};
use crate::metrics::WorkerCounters;
use crate::net::{BackendAddress, Dialler};
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::snapshot::{EgressSnapshot, Epoch, IngressSnapshot, Reader, Side, Snapshot};

/// Connections that are checked at a new epoch before other tasks run.
const EPOCH_BATCH_SIZE: usize = 32;
/// The interval of ticks while nothing is open.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Ticks between two sweeps of the pools.
const SWEEP_INTERVAL_TICKS: u32 = 4;

/// One worker, as its tasks see it.
pub(crate) struct Worker {
    pub(crate) shared: Arc<DataPlaneShared>,
    pub(crate) index: usize,
    pub(crate) shutdown: ShutdownWatch,
    reader: Reader,
    snapshot: RefCell<Arc<Snapshot>>,
    listeners: Vec<Rc<WorkerListener>>,
    waits: Rc<WaitTable>,
    started: Instant,
    dialler: Dialler,
    connections: Rc<ConnectionTable>,
    backends: RefCell<HashMap<BackendAddress, Rc<ConnectionPool>>>,
    upstreams: RefCell<BTreeMap<Arc<str>, Rc<UpstreamState>>>,
    drain: Duration,
}

impl Worker {
    /// Runs until shutdown is complete.
    pub(crate) async fn run(seat: WorkerParts) {
        let WorkerParts { index, shared, mut taker, listeners, reader, metrics, lines, mut shutdown, drain } = seat;
        let second = Rc::new(TimestampCache::default());
        let listeners = listeners.into_iter().enumerate().map(|(index, (id, bound))| {
            let desk = RequestContext {
                lines: Arc::clone(&lines),
                cells: metrics.worker_counters(id.side.as_str(), &id.name),
                clock: shared.clock.clone(),
                second: Rc::clone(&second),
            };
            Rc::new(WorkerListener::new(index, id, bound, Rc::new(desk)))
        });
        let worker = Rc::new(Self {
            index,
            shutdown: shutdown.clone(),
            snapshot: RefCell::new(reader.latest()),
            listeners: listeners.collect(),
            waits: Rc::default(),
            started: Instant::now(),
            dialler: Dialler::default(),
            connections: Rc::default(),
            backends: RefCell::default(),
            upstreams: RefCell::default(),
            reader,
            shared,
            drain,
        });
        worker.open_listeners();
        worker.start_due_probes();
        let epochs = spawn_local(Rc::clone(&worker).follow_epochs());
        let ticks = spawn_local(Rc::clone(&worker).run_ticks());
        let stopping = spawn_local(Rc::clone(&worker).stop());
        loop {
            tokio::select! {
                Some(handed) = taker.recv() => listener::serve_connection(&worker, handed),
                () = shutdown.wait_for_phase(ShutdownPhase::Over) => break,
            }
        }
        epochs.abort();
        ticks.abort();
        stopping.abort();
    }

    /// Handles each epoch once: adopts its snapshot and checks whether each connection may stay.
    async fn follow_epochs(self: Rc<Self>) {
        let mut reader = self.reader.clone();
        while reader.changed().await.is_some() {
            self.refresh();
        }
    }

    /// Adopts the current snapshot, if it is a new one.
    ///
    /// Called at each accept too, so that no handshake after a published epoch uses the one before.
    pub(crate) fn refresh(self: &Rc<Self>) {
        let next = self.reader.latest();
        if next.epoch == self.snapshot.borrow().epoch {
            return;
        }
        let before = self.snapshot.replace(next);
        drop(before);
        for upstream in self.upstreams.borrow().values() {
            upstream.forget_selection();
        }
        self.open_listeners();
        let connections = self.connections.open_connections();
        // Those in the pools first, before any request can take one that may not stay.
        for open in connections.iter().filter(|open| open.is_upstream()) {
            self.recheck_connection(open);
        }
        self.start_due_probes();
        for open in &connections {
            open.forget_view();
        }
        let worker = Rc::clone(self);
        spawn_local(async move {
            for (count, open) in connections.iter().filter(|open| !open.is_upstream()).enumerate() {
                if count % EPOCH_BATCH_SIZE == EPOCH_BATCH_SIZE - 1 {
                    yield_now().await;
                }
                worker.recheck_connection(open);
            }
            worker.sweep();
        });
    }

    /// Checks one connection against the current snapshot.
    fn recheck_connection(&self, open: &Rc<ConnectionState>) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        match check_connection(&open.facts, &snapshot, self.clock().now()) {
            Ok(valid_until) => open.set_valid_until(valid_until),
            Err(leave) => self.drain_connection(open, leave),
        }
    }

    /// Drains a connection, and reports why.
    fn drain_connection(&self, open: &ConnectionState, leave: DrainCause) {
        if open.drain() {
            self.emit_drained(open, leave);
        }
    }

    fn emit_drained(&self, open: &ConnectionState, leave: DrainCause) {
        self.events().emit(Event::Drained(DrainRecord {
            side: open.facts.side,
            listener: Arc::clone(&open.facts.listener),
            connection: open.number,
            reason: leave.reason,
            explanation: leave.explanation,
        }));
    }

    /// Starts listeners that have a key pair to show now.
    fn open_listeners(self: &Rc<Self>) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        for listener in &self.listeners {
            let served = match listener.id.side {
                Side::Ingress => snapshot.ingresses.contains_key(&listener.id.name),
                Side::Egress => snapshot.egresses.contains_key(&listener.id.name),
            };
            if served {
                listener::listen(self, listener);
            }
        }
    }

    /// The tick: deadlines, peers' ends, idle connections, pools.
    async fn run_ticks(self: Rc<Self>) {
        for count in 0_u32.. {
            let idle = self.connections.is_empty() && self.waits.is_empty();
            sleep(if idle { IDLE_TICK } else { TICK }).await;
            let (ticks, now) = (self.update_time(), self.clock().now());
            self.tick(ticks, now);
            self.start_due_probes();
            if idle || count % SWEEP_INTERVAL_TICKS == 0 {
                self.sweep();
            }
        }
    }

    /// One worker probes upstreams for all.
    fn start_due_probes(self: &Rc<Self>) {
        if self.index == 0 {
            probe::start_due_probes(self);
        }
    }

    /// Brings the coarse time up to date.
    pub(crate) fn update_time(&self) -> Ticks {
        let elapsed = self.started.elapsed().as_millis() / TICK.as_millis();
        let ticks = Ticks(u32::try_from(elapsed).unwrap_or(u32::MAX));
        // Called at each accept too: the table is walked once for each tick.
        if ticks != self.waits.now() {
            self.waits.tick(ticks);
        }
        ticks
    }

    fn tick(&self, ticks: Ticks, now: Timestamp) {
        for open in self.connections.open_connections() {
            match open.tick(ticks, now) {
                None => {}
                Some(TickOutcome::Leave(leave)) => self.emit_drained(&open, leave),
                Some(TickOutcome::TooOld(leave)) => {
                    if let Some(cells) = self.listener_counters(&open) {
                        cells.count_limit("connection_age");
                    }
                    self.emit_drained(&open, leave);
                }
                Some(TickOutcome::Limit(limit)) => self.report_limit(&open, limit),
            }
        }
    }

    /// The counters of a connection's listener.
    fn listener_counters(&self, open: &ConnectionState) -> Option<&WorkerCounters> {
        let (side, name) = (open.facts.side, &*open.facts.listener);
        let listener = self.listeners.iter().find(|one| one.id.side == side && *one.id.name == *name)?;
        Some(&listener.desk.cells)
    }

    /// Reports a connection that reached one of its limits and is being closed.
    pub(crate) fn report_limit(&self, open: &ConnectionState, limit: ConnectionLimit) {
        let (side, listener) = (open.facts.side, &*open.facts.listener);
        let reason = limit.reason();
        if let Some(cells) = self.listener_counters(open) {
            cells.count_limit(limit.key());
            if limit == ConnectionLimit::Head {
                cells.request(http::StatusCode::REQUEST_TIMEOUT.as_u16(), Duration::ZERO);
                cells.error(if side == Side::Ingress { "peer" } else { "backend" });
            }
        }
        let (side, connection) = (side.as_str(), open.number);
        // Closing an idle connection is routine.
        if limit == ConnectionLimit::Idle {
            tracing::debug!(target: "proxy", side, listener, connection, reason, "connection closed");
        } else {
            tracing::info!(target: "proxy", side, listener, connection, reason, "connection closed: {limit}");
        }
    }

    fn sweep(&self) {
        let backends: Vec<_> = self.backends.borrow().values().cloned().collect();
        for pool in backends {
            pool.sweep();
        }
        let upstreams: Vec<_> = self.upstreams.borrow().values().cloned().collect();
        for upstream in upstreams {
            upstream.sweep();
        }
    }

    /// Stopping: ingress drains, then egress; what is open after that is closed with the event loop.
    async fn stop(self: Rc<Self>) {
        let mut shutdown = self.shutdown.clone();
        for (phase, side) in [(ShutdownPhase::DrainIngress, Side::Ingress), (ShutdownPhase::DrainEgress, Side::Egress)]
        {
            shutdown.wait_for_phase(phase).await;
            for listener in self.listeners.iter().filter(|listener| listener.id.side == side) {
                listener::close(&self, listener);
            }
            for open in self.connections.open_connections() {
                if open.facts.side == side && !open.is_upstream() {
                    self.drain_connection(&open, DrainCause::stopping());
                }
            }
        }
    }

    /// Registers a connection. If the snapshot has changed since `epoch`, checks at once whether it may stay.
    pub(crate) fn track(&self, open: Rc<ConnectionState>, epoch: Epoch) -> Rc<ConnectionGuard> {
        let tracked = self.connections.track(open);
        if self.epoch() != epoch {
            self.recheck_connection(&tracked.open);
        }
        if !tracked.open.is_upstream() && self.shutdown.phase() >= drain_phase(tracked.open.facts.side) {
            self.drain_connection(&tracked.open, DrainCause::stopping());
        }
        tracked
    }

    /// A listener by its index.
    pub(crate) fn listener(&self, index: usize) -> Option<Rc<WorkerListener>> {
        self.listeners.get(index).cloned()
    }

    /// A number for a connection, unique in this process.
    pub(crate) fn next_connection_number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The epoch of the current snapshot.
    pub(crate) fn epoch(&self) -> Epoch {
        self.snapshot.borrow().epoch
    }

    /// An ingress, as in the current snapshot.
    pub(crate) fn ingress(&self, name: &str) -> Option<Arc<IngressSnapshot>> {
        self.snapshot.borrow().ingresses.get(name).cloned()
    }

    /// An egress, as in the current snapshot.
    pub(crate) fn egress(&self, name: &str) -> Option<(Arc<EgressSnapshot>, Epoch)> {
        let snapshot = self.snapshot.borrow();
        snapshot.egresses.get(name).map(|egress| (Arc::clone(egress), snapshot.epoch))
    }

    /// Every egress, as in the current snapshot.
    pub(crate) fn egresses(&self) -> Vec<(Arc<EgressSnapshot>, Epoch)> {
        let snapshot = self.snapshot.borrow();
        snapshot.egresses.values().map(|egress| (Arc::clone(egress), snapshot.epoch)).collect()
    }

    /// This worker's connections to a backend.
    pub(crate) fn backend(&self, backend: &BackendAddress) -> Rc<ConnectionPool> {
        let http2 = matches!(backend, BackendAddress::H2c(_));
        let mut backends = self.backends.borrow_mut();
        Rc::clone(
            backends
                .entry(backend.clone())
                .or_insert_with(|| ConnectionPool::new(Some(http2), IDLE_CONNECTION_LIFETIME, &self.waits)),
        )
    }

    /// This worker's share of a limit on connections, which descriptors may lower.
    pub(crate) fn connection_share(&self, limit: usize) -> usize {
        limit.min(self.shared.most).div_ceil(self.shared.hands.len()).max(1)
    }

    /// This worker's state of the upstream of an egress.
    pub(crate) fn upstream(&self, egress: &Arc<str>) -> Rc<UpstreamState> {
        Rc::clone(self.upstreams.borrow_mut().entry(Arc::clone(egress)).or_default())
    }

    pub(crate) fn events(&self) -> &EventBus {
        &self.shared.events
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub(crate) fn waits(&self) -> &Rc<WaitTable> {
        &self.waits
    }

    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// The longest time that a drain may take.
    pub(crate) fn drain_timeout(&self) -> Duration {
        self.drain
    }
}

/// The phase in which the connections of a side drain.
fn drain_phase(side: Side) -> ShutdownPhase {
    match side {
        Side::Ingress => ShutdownPhase::DrainIngress,
        Side::Egress => ShutdownPhase::DrainEgress,
    }
}
