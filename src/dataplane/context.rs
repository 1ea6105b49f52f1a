//! What a worker's connections need of it: its view of the snapshot, its clock and deadlines, and the list of those open.
//!
//! `ingress`, `egress` and their connections see this and nothing above it. `worker` owns it and drives it: it adopts
//! each epoch's snapshot here, and runs the ticks.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::{ConnectionGuard, ConnectionLimit, ConnectionState, ConnectionTable, ConnectionTimeouts};
use super::drain::{ConnectionFacts, DrainCause, check_connection};
use super::exchange::access::RequestContext;
use super::shared::DataPlaneShared;
use crate::clock::Clock;
use crate::clock::deadlines::{TICK, Ticks, WaitTable};
use crate::event::{DrainRecord, Event, EventBus};
use crate::metrics::WorkerCounters;
use crate::net::listen::AcceptedConnection;
use crate::net::{Dialler, SocketStream};
use crate::pki::Fingerprint;
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::snapshot::ingress::ListenerLimits;
use crate::snapshot::{EgressSnapshot, Epoch, IngressSnapshot, ListenerId, Side, Snapshot};
use crate::trust::{PeerRole, PresentedChain};

/// A listener, as its connections see it.
pub(crate) struct ListenerContext {
    /// Its place among the listeners.
    pub(crate) index: usize,
    pub(crate) id: ListenerId,
    /// Where its requests are counted and logged.
    pub(crate) request_context: Rc<RequestContext>,
}

impl ListenerContext {
    /// Registers an accepted connection with this thread's event loop; `None` if there is no room, which is logged.
    pub(crate) fn register_stream(&self, accepted: AcceptedConnection) -> Option<SocketStream> {
        let listener = &*self.id.name;
        let failed =
            |error: &io::Error| tracing::warn!(target: "proxy", listener, %error, "cannot serve the connection");
        accepted.into_stream().inspect_err(failed).ok()
    }
}

/// One worker, as its connections see it.
pub(crate) struct WorkerContext {
    pub(crate) shared: Arc<DataPlaneShared>,
    pub(crate) shutdown: ShutdownWatch,
    pub(crate) connections: Rc<ConnectionTable>,
    snapshot: RefCell<Arc<Snapshot>>,
    listeners: Vec<Rc<ListenerContext>>,
    waits: Rc<WaitTable>,
    started: Instant,
    dialler: Dialler,
    drain: Duration,
}

impl WorkerContext {
    pub(crate) fn new(
        shared: Arc<DataPlaneShared>,
        snapshot: Arc<Snapshot>,
        listeners: Vec<Rc<ListenerContext>>,
        (shutdown, drain): (ShutdownWatch, Duration),
    ) -> Self {
        Self {
            shared,
            shutdown,
            connections: Rc::default(),
            snapshot: RefCell::new(snapshot),
            listeners,
            waits: Rc::default(),
            started: Instant::now(),
            dialler: Dialler::default(),
            drain,
        }
    }

    /// Adopts a snapshot; false if it is the current one.
    pub(crate) fn adopt_snapshot(&self, next: Arc<Snapshot>) -> bool {
        if next.epoch == self.epoch() {
            return false;
        }
        let before = self.snapshot.replace(next);
        drop(before);
        true
    }

    /// The current snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
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

    /// The state of a connection that a listener has accepted.
    pub(crate) fn new_connection(
        &self,
        listener: &ListenerContext,
        number: u64,
        limits: &ListenerLimits,
        (http2, key_pair, chain): (bool, Option<Fingerprint>, PresentedChain),
    ) -> Rc<ConnectionState> {
        let facts = ConnectionFacts {
            side: listener.id.side,
            listener: Arc::clone(&listener.id.name),
            key_pair,
            chain,
            role: PeerRole::Client,
            upstream: None,
        };
        let (unread, age) = (limits.body_idle, limits.connection_age);
        let (head, idle) = (Some(limits.head), Some(limits.idle));
        let (drain, drain_planned) = (self.drain, limits.drain_planned);
        let patience = ConnectionTimeouts { head, http2, idle, unread, age, drain, drain_planned };
        ConnectionState::new(number, facts, patience, &self.waits)
    }

    /// Registers a connection. If the snapshot has changed since `epoch`, checks at once whether it may stay.
    pub(crate) fn track(&self, open: Rc<ConnectionState>, epoch: Epoch) -> Rc<ConnectionGuard> {
        let tracked = self.connections.track(open);
        if self.epoch() != epoch {
            self.recheck_connection(&tracked.open);
        }
        if !tracked.open.is_upstream()
            && let Some(leave) = self.find_drain_cause(tracked.open.facts.side)
        {
            self.drain_connection(&tracked.open, leave);
        }
        tracked
    }

    /// Why every connection of a side drains, if they do.
    fn find_drain_cause(&self, side: Side) -> Option<DrainCause> {
        let phase = self.shutdown.phase();
        if phase >= drain_phase(side) {
            return Some(DrainCause::stopping());
        }
        (phase == ShutdownPhase::HandedOver).then(DrainCause::handed_over)
    }

    /// Checks one connection against the current snapshot.
    pub(crate) fn recheck_connection(&self, open: &ConnectionState) {
        match check_connection(&open.facts, &self.snapshot(), self.clock().now()) {
            Ok(valid_until) => open.set_valid_until(valid_until),
            Err(leave) => self.drain_connection(open, leave),
        }
    }

    /// Drains a connection, and reports why.
    pub(crate) fn drain_connection(&self, open: &ConnectionState, leave: DrainCause) {
        if open.drain(leave.urgency()) {
            self.emit_drained(open, leave);
        }
    }

    /// Reports why a connection drains.
    pub(crate) fn emit_drained(&self, open: &ConnectionState, leave: DrainCause) {
        self.events().emit(Event::Drained(DrainRecord {
            side: open.facts.side,
            listener: Arc::clone(&open.facts.listener),
            connection: open.number,
            reason: leave.reason,
            explanation: leave.explanation,
        }));
    }

    /// The counters of a connection's listener.
    pub(crate) fn listener_counters(&self, open: &ConnectionState) -> Option<&WorkerCounters> {
        let (side, name) = (open.facts.side, &*open.facts.listener);
        let listener = self.listeners.iter().find(|one| one.id.side == side && *one.id.name == *name)?;
        Some(&listener.request_context.cells)
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
}

/// The phase in which the connections of a side drain.
fn drain_phase(side: Side) -> ShutdownPhase {
    match side {
        Side::Ingress => ShutdownPhase::DrainIngress,
        Side::Egress => ShutdownPhase::DrainEgress,
    }
}
