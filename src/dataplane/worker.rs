//! A worker: one thread with its own event loop, listeners, pools and connections. It handles each epoch once.
//!
//! Nothing on the request path is shared between workers but the queue of log lines, so no lock is taken and no cache
//! line is contended. An accepted connection goes to the worker with the fewest: with several accepting from one queue,
//! the worker that wakes first would otherwise take them all.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::connection::{ConnectionState, TickOutcome};
use super::context::{ListenerContext, WorkerContext};
use super::drain::DrainCause;
use super::egress;
use super::egress::resources::{EgressResources, UpstreamKnowledge};
use super::exchange::access::{RequestContext, TimestampCache};
use super::ingress;
use super::ingress::jwt::UsedTokenIds;
use super::ingress::resources::IngressResources;
use super::listener::WorkerListener;
use super::persistent::spawn_persistent;
use super::shared::{ConnectionHandoff, ConnectionSlot, DataPlaneShared};
use crate::clock::deadlines::{TICK, Ticks};
use crate::log::LogQueue;
use crate::metrics::Metrics;
use crate::net::BoundSocket;
use crate::net::listen::AcceptedConnection;
use crate::process::{DrainGuard, ProgressEcho, ShutdownPhase, ShutdownWatch};
use crate::snapshot::{ListenerId, Reader, Side};

/// The interval of ticks while nothing is open.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// Ticks between two sweeps of the pools.
const SWEEP_INTERVAL_TICKS: u32 = 4;

/// What a worker's thread is given.
pub(super) struct WorkerParts {
    pub(super) index: usize,
    pub(super) shared: Arc<DataPlaneShared>,
    /// What all workers know of upstreams.
    pub(super) known: UpstreamKnowledge,
    /// The identifiers of peers' tokens that any worker has seen.
    pub(super) used: Arc<UsedTokenIds>,
    pub(super) queue: mpsc::Receiver<ConnectionHandoff>,
    pub(super) listeners: Vec<(ListenerId, BoundSocket)>,
    pub(super) reader: Reader,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lines: Arc<LogQueue>,
    pub(super) shutdown: ShutdownWatch,
    pub(super) drain: Duration,
    pub(super) echo: Arc<ProgressEcho>,
    /// Dropped once the listeners of ingress, and of egress, are closed.
    pub(super) listening: [DrainGuard; 2],
}

/// One worker, as its tasks see it.
pub(super) struct Worker {
    index: usize,
    reader: Reader,
    context: Rc<WorkerContext>,
    listeners: Vec<WorkerListener>,
    ingress: Rc<IngressResources>,
    egress: Rc<EgressResources>,
}

impl Worker {
    /// Runs until shutdown is complete.
    pub(super) async fn run(parts: WorkerParts) {
        let WorkerParts { index, shared, known, used, mut queue, reader, mut shutdown, .. } = parts;
        let second = Rc::new(TimestampCache::default());
        let listeners = parts.listeners.into_iter().enumerate().map(|(index, (id, bound))| {
            let request_context = Rc::new(RequestContext {
                lines: Arc::clone(&parts.lines),
                cells: parts.metrics.worker_counters(id.side.as_str(), &id.name),
                clock: shared.clock.clone(),
                second: Rc::clone(&second),
            });
            WorkerListener::new(Rc::new(ListenerContext { index, id, request_context }), bound)
        });
        let listeners: Vec<_> = listeners.collect();
        let contexts = listeners.iter().map(|listener| Rc::clone(&listener.context)).collect();
        let ending = (shutdown.clone(), parts.drain);
        let context = Rc::new(WorkerContext::new(shared, reader.latest(), contexts, ending));
        let worker = Rc::new(Self {
            index,
            reader,
            listeners,
            ingress: Rc::new(IngressResources::new(&context, used)),
            egress: Rc::new(EgressResources::new(&context, known)),
            context,
        });
        worker.open_listeners();
        worker.start_due_probes();
        let following = Rc::clone(&worker);
        let epochs = spawn_persistent("epochs", move || Rc::clone(&following).follow_epochs());
        let ticking = Rc::clone(&worker);
        let ticks = spawn_persistent("ticks", move || Rc::clone(&ticking).run_ticks());
        let progress = spawn_local(parts.echo.answer_calls(index));
        let stopping = spawn_local(Rc::clone(&worker).stop(parts.listening));
        loop {
            tokio::select! {
                Some(handed) = queue.recv() => worker.serve_connection(handed),
                () = shutdown.wait_for_phase(ShutdownPhase::Over) => break,
            }
        }
        for open in worker.context.connections.open_connections() {
            open.cut();
        }
        epochs.abort();
        ticks.abort();
        stopping.abort();
        progress.abort();
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
    fn refresh(self: &Rc<Self>) {
        if !self.context.adopt_snapshot(self.reader.latest()) {
            return;
        }
        self.egress.forget_selections();
        self.open_listeners();
        // Those in the pools first, before any request can take one that may not stay.
        for open in self.context.connections.upstream_connections() {
            self.context.recheck_connection(&open);
        }
        self.start_due_probes();
        let worker = Rc::clone(self);
        spawn_local(async move {
            let context = &worker.context;
            let recheck = |open: &Rc<ConnectionState>| {
                open.forget_view();
                // Those to upstreams were checked above, and those that began since at their beginning.
                if !open.is_upstream() {
                    context.recheck_connection(open);
                }
            };
            context.connections.walk_connections(recheck).await;
            worker.sweep();
        });
    }

    /// Starts ingresses that have a key pair to show now, and every egress: without one it answers that it has none.
    fn open_listeners(self: &Rc<Self>) {
        let shutdown = &self.context.shutdown;
        if shutdown.phase() >= ShutdownPhase::DrainIngress || shutdown.is_handed_over() {
            return;
        }
        let snapshot = self.context.snapshot();
        for listener in &self.listeners {
            let ListenerContext { index, id, .. } = &*listener.context;
            let served = match id.side {
                Side::Ingress => snapshot.ingresses.contains_key(&id.name),
                Side::Egress => true,
            };
            let (worker, index) = (Rc::clone(self), *index);
            if served && listener.listen(move |accepted| worker.dispatch_connection(index, accepted)) {
                self.context.shared.mark_listening(index);
            }
        }
    }

    /// Passes an accepted connection to the worker that has a slot for it.
    fn dispatch_connection(self: &Rc<Self>, listener: usize, accepted: AcceptedConnection) {
        let shared = &self.context.shared;
        let slot = ConnectionSlot::acquire(shared, listener);
        let handed = ConnectionHandoff { listener, accepted, at: Instant::now(), slot };
        if handed.slot.worker == self.index {
            self.serve_connection(handed);
        } else if let Err(full) = shared.queues[handed.slot.worker].try_send(handed) {
            // A worker that does not keep up gets no more.
            self.serve_connection(full.into_inner());
        }
    }

    /// Serves a connection on this worker.
    fn serve_connection(self: &Rc<Self>, handed: ConnectionHandoff) {
        let Some(listener) = self.listeners.get(handed.listener) else { return };
        self.refresh();
        self.context.update_time();
        let listener = Rc::clone(&listener.context);
        match listener.id.side {
            Side::Ingress => ingress::serve::serve_peer(&self.ingress, listener, handed),
            Side::Egress => egress::serve::serve_application(&self.egress, listener, handed),
        }
    }

    /// The tick: deadlines, peers' ends, idle connections, pools.
    async fn run_ticks(self: Rc<Self>) {
        let context = &self.context;
        for count in 0_u32.. {
            let idle = context.connections.is_empty() && context.waits().is_empty();
            sleep(if idle { IDLE_TICK } else { TICK }).await;
            let (ticks, now) = (context.update_time(), context.clock().now());
            self.tick(ticks, now).await;
            self.start_due_probes();
            if idle || count % SWEEP_INTERVAL_TICKS == 0 {
                self.sweep();
            }
        }
    }

    async fn tick(&self, ticks: Ticks, now: Timestamp) {
        let (context, mut cut) = (&self.context, false);
        let check = |open: &Rc<ConnectionState>| match open.tick(ticks, now) {
            None => {}
            Some(TickOutcome::Leave(leave)) => context.emit_drained(open, leave),
            Some(TickOutcome::TooOld(leave)) => {
                if let Some(cells) = context.listener_counters(open) {
                    cells.count_limit("connection_age");
                }
                context.emit_drained(open, leave);
            }
            Some(TickOutcome::Limit(limit)) => context.report_limit(open, limit),
            Some(TickOutcome::Cut) => cut = true,
            Some(TickOutcome::CutByStop) => {
                context.shared.record_cut();
                cut = true;
            }
        };
        context.connections.walk_connections(check).await;
        if cut {
            // Bodies that stand still learn of it too.
            context.waits().wake_all();
        }
    }

    /// One worker probes upstreams for all.
    fn start_due_probes(&self) {
        if self.index == 0 {
            egress::probe::start_due_probes(&self.egress);
        }
    }

    fn sweep(&self) {
        self.ingress.sweep();
        self.egress.sweep();
    }

    /// Stopping: ingress drains, then egress; what is open after that is closed with the event loop. Where a new process
    /// has taken over, both leave before that, without hurry.
    async fn stop(self: Rc<Self>, [ingress, egress]: [DrainGuard; 2]) {
        let mut shutdown = self.context.shutdown.clone();
        let (mut ingress, mut egress) = (Some(ingress), Some(egress));
        shutdown.wait_for_phase(ShutdownPhase::HandedOver).await;
        if shutdown.is_handed_over() {
            self.leave_side(Side::Ingress, ingress.take(), &DrainCause::handed_over());
            self.leave_side(Side::Egress, egress.take(), &DrainCause::handed_over());
        }
        shutdown.wait_for_phase(ShutdownPhase::DrainIngress).await;
        self.leave_side(Side::Ingress, ingress, &DrainCause::stopping());
        shutdown.wait_for_phase(ShutdownPhase::DrainEgress).await;
        self.leave_side(Side::Egress, egress, &DrainCause::stopping());
    }

    /// Closes the listeners of one side, and drains its connections.
    fn leave_side(self: &Rc<Self>, side: Side, listening: Option<DrainGuard>, cause: &DrainCause) {
        for listener in self.listeners.iter().filter(|listener| listener.context.id.side == side) {
            listener.close(|accepted| self.dispatch_connection(listener.context.index, accepted));
        }
        // Whatever they had accepted is counted.
        drop(listening);
        for open in self.context.connections.open_connections() {
            if open.facts.side == side && !open.is_upstream() {
                self.context.drain_connection(&open, cause.clone());
            }
        }
    }
}
