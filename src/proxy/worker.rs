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

use super::access::{Desk, Second};
use super::drain::{Leave, stay};
use super::forward::KEEP;
use super::listener::{self, Listener};
use super::open::{Connections, Due, Open, Reached, Tracked};
use super::pool::Pool;
use super::probe;
use super::upstream::Upstream;
use super::waits::{TICK, Ticks, Waits};
use super::workers::{Seat, Shared};
use crate::clock::Clock;
use crate::event::{Event, Events};
use crate::metrics::Cells;
use crate::net::{Backend, Dialler};
use crate::process::{Phase, Shutdown};
use crate::snapshot::{Egress, Epoch, Ingress, Reader, Side, Snapshot};

/// Connections that are checked at a new epoch before other tasks run.
const AT_A_TIME: usize = 32;
/// The interval of ticks while nothing is open.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Ticks between two sweeps of the pools.
const SWEEP: u32 = 4;

/// One worker, as its tasks see it.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) shutdown: Shutdown,
    reader: Reader,
    snapshot: RefCell<Arc<Snapshot>>,
    listeners: Vec<Rc<Listener>>,
    waits: Rc<Waits>,
    started: Instant,
    dialler: Dialler,
    connections: Rc<Connections>,
    backends: RefCell<HashMap<Backend, Rc<Pool>>>,
    upstreams: RefCell<BTreeMap<Arc<str>, Rc<Upstream>>>,
    drain: Duration,
}

impl Worker {
    /// Runs until shutdown is complete.
    pub(super) async fn run(seat: Seat) {
        let Seat { index, shared, mut taker, listeners, reader, metrics, lines, mut shutdown, drain } = seat;
        let second = Rc::new(Second::default());
        let listeners = listeners.into_iter().enumerate().map(|(index, (id, bound))| {
            let desk = Desk {
                lines: Arc::clone(&lines),
                cells: metrics.cells(id.side.as_str(), &id.name),
                clock: shared.clock.clone(),
                second: Rc::clone(&second),
            };
            Rc::new(Listener::new(index, id, bound, Rc::new(desk)))
        });
        let worker = Rc::new(Self {
            index,
            shutdown: shutdown.clone(),
            snapshot: RefCell::new(reader.take()),
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
        worker.look_for_probes();
        let epochs = spawn_local(Rc::clone(&worker).hear_epochs());
        let ticks = spawn_local(Rc::clone(&worker).keep_time());
        let stopping = spawn_local(Rc::clone(&worker).stop());
        loop {
            tokio::select! {
                Some(handed) = taker.recv() => listener::take(&worker, handed),
                () = shutdown.reached(Phase::Over) => break,
            }
        }
        epochs.abort();
        ticks.abort();
        stopping.abort();
    }

    /// Handles each epoch once: adopts its snapshot and checks whether each connection may stay.
    async fn hear_epochs(self: Rc<Self>) {
        let mut reader = self.reader.clone();
        while reader.changed().await.is_some() {
            self.refresh();
        }
    }

    /// Adopts the current snapshot, if it is a new one.
    ///
    /// Called at each accept too, so that no handshake after a published epoch uses the one before.
    pub(super) fn refresh(self: &Rc<Self>) {
        let next = self.reader.take();
        if next.epoch == self.snapshot.borrow().epoch {
            return;
        }
        let before = self.snapshot.replace(next);
        drop(before);
        for upstream in self.upstreams.borrow().values() {
            upstream.forget_choice();
        }
        self.open_listeners();
        let connections = self.connections.all();
        // Those in the pools first, before any request can take one that may not stay.
        for open in connections.iter().filter(|open| open.is_upstream()) {
            self.ask(open);
        }
        self.look_for_probes();
        for open in &connections {
            open.forget_view();
        }
        let worker = Rc::clone(self);
        spawn_local(async move {
            for (count, open) in connections.iter().filter(|open| !open.is_upstream()).enumerate() {
                if count % AT_A_TIME == AT_A_TIME - 1 {
                    yield_now().await;
                }
                worker.ask(open);
            }
            worker.sweep();
        });
    }

    /// Checks one connection against the current snapshot.
    fn ask(&self, open: &Rc<Open>) {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        match stay(&open.facts, &snapshot, self.clock().now()) {
            Ok(valid_until) => open.set_valid_until(valid_until),
            Err(leave) => self.send_away(open, leave),
        }
    }

    /// Drains a connection, and reports why.
    fn send_away(&self, open: &Open, leave: Leave) {
        if open.drain() {
            self.tell(open, leave);
        }
    }

    fn tell(&self, open: &Open, leave: Leave) {
        self.events().emit(Event::Drained {
            side: open.facts.side,
            listener: Arc::clone(&open.facts.listener),
            connection: open.number,
            reason: leave.reason,
            explanation: leave.explanation,
        });
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
    async fn keep_time(self: Rc<Self>) {
        for count in 0_u32.. {
            let idle = self.connections.is_empty() && self.waits.is_empty();
            sleep(if idle { IDLE_TICK } else { TICK }).await;
            let (ticks, now) = (self.note_time(), self.clock().now());
            self.tick(ticks, now);
            self.look_for_probes();
            if idle || count % SWEEP == 0 {
                self.sweep();
            }
        }
    }

    /// One worker probes upstreams for all.
    fn look_for_probes(self: &Rc<Self>) {
        if self.index == 0 {
            probe::look(self);
        }
    }

    /// Brings the coarse time up to date.
    pub(super) fn note_time(&self) -> Ticks {
        let elapsed = self.started.elapsed().as_millis() / TICK.as_millis();
        let ticks = Ticks(u32::try_from(elapsed).unwrap_or(u32::MAX));
        // Called at each accept too: the table is walked once for each tick.
        if ticks != self.waits.now() {
            self.waits.tick(ticks);
        }
        ticks
    }

    fn tick(&self, ticks: Ticks, now: Timestamp) {
        for open in self.connections.all() {
            match open.tick(ticks, now) {
                None => {}
                Some(Due::Leave(leave)) => self.tell(&open, leave),
                Some(Due::TooOld(leave)) => {
                    if let Some(cells) = self.cells(&open) {
                        cells.limit("connection_age");
                    }
                    self.tell(&open, leave);
                }
                Some(Due::Limit(limit)) => self.limited(&open, limit),
            }
        }
    }

    /// The counters of a connection's listener.
    fn cells(&self, open: &Open) -> Option<&Cells> {
        let (side, name) = (open.facts.side, &*open.facts.listener);
        let listener = self.listeners.iter().find(|one| one.id.side == side && *one.id.name == *name)?;
        Some(&listener.desk.cells)
    }

    /// Reports a connection that reached one of its limits and is being closed.
    pub(super) fn limited(&self, open: &Open, limit: Reached) {
        let (side, listener) = (open.facts.side, &*open.facts.listener);
        let reason = limit.reason();
        if let Some(cells) = self.cells(open) {
            cells.limit(limit.key());
            if limit == Reached::Head {
                cells.request(http::StatusCode::REQUEST_TIMEOUT.as_u16(), Duration::ZERO);
                cells.error(if side == Side::Ingress { "peer" } else { "backend" });
            }
        }
        let (side, connection) = (side.as_str(), open.number);
        // Closing an idle connection is routine.
        if limit == Reached::Idle {
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
        for (phase, side) in [(Phase::DrainIngress, Side::Ingress), (Phase::DrainEgress, Side::Egress)] {
            shutdown.reached(phase).await;
            for listener in self.listeners.iter().filter(|listener| listener.id.side == side) {
                listener::close(&self, listener);
            }
            for open in self.connections.all() {
                if open.facts.side == side && !open.is_upstream() {
                    self.send_away(&open, Leave::stopping());
                }
            }
        }
    }

    /// Registers a connection. If the snapshot has changed since `epoch`, checks at once whether it may stay.
    pub(super) fn track(&self, open: Rc<Open>, epoch: Epoch) -> Rc<Tracked> {
        let tracked = self.connections.track(open);
        if self.epoch() != epoch {
            self.ask(&tracked.open);
        }
        if !tracked.open.is_upstream() && self.shutdown.phase() >= ends_with(tracked.open.facts.side) {
            self.send_away(&tracked.open, Leave::stopping());
        }
        tracked
    }

    /// A listener by its index.
    pub(super) fn listener(&self, index: usize) -> Option<Rc<Listener>> {
        self.listeners.get(index).cloned()
    }

    /// A number for a connection, unique in this process.
    pub(super) fn number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The epoch of the current snapshot.
    pub(super) fn epoch(&self) -> Epoch {
        self.snapshot.borrow().epoch
    }

    /// An ingress, as in the current snapshot.
    pub(super) fn ingress(&self, name: &str) -> Option<Arc<Ingress>> {
        self.snapshot.borrow().ingresses.get(name).cloned()
    }

    /// An egress, as in the current snapshot.
    pub(super) fn egress(&self, name: &str) -> Option<(Arc<Egress>, Epoch)> {
        let snapshot = self.snapshot.borrow();
        snapshot.egresses.get(name).map(|egress| (Arc::clone(egress), snapshot.epoch))
    }

    /// Every egress, as in the current snapshot.
    pub(super) fn egresses(&self) -> Vec<(Arc<Egress>, Epoch)> {
        let snapshot = self.snapshot.borrow();
        snapshot.egresses.values().map(|egress| (Arc::clone(egress), snapshot.epoch)).collect()
    }

    /// This worker's connections to a backend.
    pub(super) fn backend(&self, backend: &Backend) -> Rc<Pool> {
        let http2 = matches!(backend, Backend::H2c(_));
        let mut backends = self.backends.borrow_mut();
        Rc::clone(backends.entry(backend.clone()).or_insert_with(|| Pool::new(Some(http2), KEEP, &self.waits)))
    }

    /// This worker's share of a limit on connections, which descriptors may lower.
    pub(super) fn share_of(&self, limit: usize) -> usize {
        limit.min(self.shared.most).div_ceil(self.shared.hands.len()).max(1)
    }

    /// This worker's state of the upstream of an egress.
    pub(super) fn upstream(&self, egress: &Arc<str>) -> Rc<Upstream> {
        Rc::clone(self.upstreams.borrow_mut().entry(Arc::clone(egress)).or_default())
    }

    pub(super) fn events(&self) -> &Events {
        &self.shared.events
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub(super) fn waits(&self) -> &Rc<Waits> {
        &self.waits
    }

    pub(super) fn dialler(&self) -> &Dialler {
        &self.dialler
    }

    /// The longest time that a drain may take.
    pub(super) fn drain(&self) -> Duration {
        self.drain
    }
}

/// The phase in which the connections of a side drain.
fn ends_with(side: Side) -> Phase {
    match side {
        Side::Ingress => Phase::DrainIngress,
        Side::Egress => Phase::DrainEgress,
    }
}
