//! A listener within one worker: accepts, hands over, and starts the task that serves the connection.
//!
//! Accept first, then decide: a connection beyond the limit, or one for which there is nothing to show, is closed and
//! recorded, so that no client waits in the kernel's queue for an answer that will not come.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use super::drain::ConnectionFacts;
use super::worker::Worker;
use super::workers::{ConnectionHandoff, ConnectionSlot};
use crate::dataplane::connection::{ConnectionState, ConnectionTimeouts};
use crate::dataplane::egress::request as egress;
use crate::dataplane::exchange::access::RequestContext;
use crate::dataplane::ingress::{accept, request as ingress};
use crate::dataplane::serve;
use crate::net::listen::{AcceptedConnection, ListeningSocket};
use crate::net::{BoundSocket, SocketStream};
use crate::pki::Fingerprint;
use crate::process::ShutdownPhase;
use crate::snapshot::ingress::ListenerLimits;
use crate::snapshot::{ListenerId, Side};
use crate::tls::AlpnProtocol;
use crate::trust::PeerRole;

/// How long a listener pauses when descriptors or memory have run out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// One listener.
pub(crate) struct WorkerListener {
    pub(crate) id: ListenerId,
    pub(crate) desk: Rc<RequestContext>,
    index: usize,
    state: RefCell<ListenerState>,
}

enum ListenerState {
    /// Clients cannot connect yet.
    Bound(BoundSocket),
    /// The task that accepts, and what it accepts from.
    Listening(JoinHandle<()>, Rc<ListeningSocket>),
    /// Permanently.
    Closed,
}

impl WorkerListener {
    pub(crate) fn new(index: usize, id: ListenerId, bound: BoundSocket, desk: Rc<RequestContext>) -> Self {
        Self { index, id, desk, state: RefCell::new(ListenerState::Bound(bound)) }
    }
}

/// Starts to listen, unless it does already.
pub(crate) fn listen(worker: &Rc<Worker>, listener: &Rc<WorkerListener>) {
    let mut state = listener.state.borrow_mut();
    let ListenerState::Bound(bound) = &*state else { return };
    if worker.shutdown.phase() >= ShutdownPhase::DrainIngress {
        return;
    }
    match bound.listen() {
        Ok(listening) => {
            let listening = Rc::new(listening);
            let accepting = accept_loop(Rc::clone(worker), Rc::clone(listener), Rc::clone(&listening));
            *state = ListenerState::Listening(spawn_local(accepting), listening);
            worker.shared.mark_listening(listener.index);
        }
        // Tried again at the next epoch.
        Err(error) => {
            let (listener, address) = (&*listener.id.name, bound.address());
            tracing::error!(target: "proxy", listener, %address, %error, "cannot listen");
        }
    }
}

/// Accepts what waits in the queue, then nothing more.
pub(crate) fn close(worker: &Rc<Worker>, listener: &Rc<WorkerListener>) {
    let state = listener.state.replace(ListenerState::Closed);
    if let ListenerState::Listening(accepting, listening) = state {
        accepting.abort();
        while let Some(accepted) = listening.try_accept() {
            dispatch_connection(worker, listener, accepted);
        }
    }
}

fn dispatch_connection(worker: &Rc<Worker>, listener: &WorkerListener, accepted: AcceptedConnection) {
    let slot = ConnectionSlot::acquire(&worker.shared, listener.index);
    hand_over(worker, ConnectionHandoff { listener: listener.index, accepted, at: Instant::now(), slot });
}

async fn accept_loop(worker: Rc<Worker>, listener: Rc<WorkerListener>, listening: Rc<ListeningSocket>) {
    let mut resting = false;
    loop {
        match listening.accept().await {
            Ok(accepted) => {
                if std::mem::take(&mut resting) {
                    tracing::info!(target: "proxy", listener = &*listener.id.name, "accepting connections again");
                }
                dispatch_connection(&worker, &listener, accepted);
            }
            // That one connection is gone; the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut resting, true) {
                    let listener = &*listener.id.name;
                    tracing::warn!(target: "proxy", listener, %error, "cannot accept connections; retrying");
                }
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Passes a connection to the worker that has a slot for it.
fn hand_over(worker: &Rc<Worker>, handed: ConnectionHandoff) {
    if handed.slot.worker == worker.index {
        serve_connection(worker, handed);
    } else if let Err(full) = worker.shared.hands[handed.slot.worker].try_send(handed) {
        // A worker that does not keep up gets no more.
        serve_connection(worker, full.into_inner());
    }
}

/// Serves a connection on this worker.
pub(crate) fn serve_connection(worker: &Rc<Worker>, handed: ConnectionHandoff) {
    let Some(listener) = worker.listener(handed.listener) else { return };
    worker.refresh();
    worker.update_time();
    match listener.id.side {
        // Boxed: the future of a handshake is large, and gone once the connection is served.
        Side::Ingress => drop(spawn_local(Box::pin(serve_ingress(Rc::clone(worker), listener, handed)))),
        Side::Egress => serve_egress(worker, listener, handed),
    }
}

async fn serve_ingress(worker: Rc<Worker>, listener: Rc<WorkerListener>, handed: ConnectionHandoff) {
    let ConnectionHandoff { accepted, at, slot, .. } = handed;
    let (number, epoch) = (worker.next_connection_number(), worker.epoch());
    let arrived = accept::IncomingConnection { from: accepted.from, connection: number, at };
    let (events, clock, cells) = (worker.events(), worker.clock(), &listener.desk.cells);
    let Some(ingress) = worker.ingress(&listener.id.name) else {
        let why = ("no_key_pair", "this listener has no usable key pair".to_owned());
        events.emit(accept::reject_before_handshake((&listener.id.name, epoch), &arrived, why, clock));
        return;
    };
    let limits = &ingress.settings.limits;
    let gate = worker.shared.gate(handed.listener);
    // A connection that has sent nothing yet is closed to make room; one that is being served never is.
    if let Some(limit) = slot.exceeded_limit(limits.connections)
        && !gate.make_room()
    {
        cells.count_limit("connections");
        let why = ("too_many_connections", format!("{limit} connections are open, which is the limit"));
        events.emit(accept::reject_before_handshake((&listener.id.name, epoch), &arrived, why, clock));
        return;
    }
    let Some(stream) = usable_stream(&listener, accepted.into_stream()) else { return };
    let counted = cells.open_connection();
    let turn = gate.enqueue(number, limits.hello_waiting);
    let partnered = &worker.shared.partnered;
    let lessons = &worker.shared.lessons;
    let terms = accept::AcceptContext { ingress: &ingress, epoch, events, clock, lessons, cells, partnered };
    let Some(accepted) = accept::accept(stream, &arrived, turn, &terms).await else { return };
    let accept::AcceptedPeer { tls, peer, key_pair, from, place } = accepted;
    let http2 = tls.facts.alpn == Some(AlpnProtocol::H2);
    let open = new_connection_state(&worker, &listener, number, limits, (http2, Some(key_pair), tls.chain.clone()));
    open.set_valid_until(peer.map(|peer| peer.valid_until()));
    let connection = Rc::new(ingress::IngressConnection {
        tracked: worker.track(open, epoch),
        worker: Rc::clone(&worker),
        listener: Rc::clone(&listener),
        from,
        chain: tls.chain,
        server_name: tls.facts.server_name,
        _place: place,
        _slot: slot,
        _counted: counted,
    });
    connection.tracked.open.set_owner(&connection);
    // Tasks of their own, boxed: an idle connection keeps neither the handshake's future nor the other protocol's.
    let limits = limits.clone();
    if http2 {
        spawn_local(Box::pin(serve::serve_http2(tls.stream, connection, limits)));
    } else {
        spawn_local(Box::pin(serve::serve_http1(tls.stream, connection, limits)));
    }
}

fn serve_egress(worker: &Rc<Worker>, listener: Rc<WorkerListener>, handed: ConnectionHandoff) {
    let ConnectionHandoff { accepted, slot, .. } = handed;
    let (from, epoch) = (accepted.from, worker.epoch());
    let limits = worker.egress(&listener.id.name).map(|(egress, _)| egress.settings.limits.clone()).unwrap_or_default();
    if let Some(limit) = slot.exceeded_limit(limits.connections) {
        listener.desk.cells.count_limit("connections");
        let listener = &*listener.id.name;
        tracing::warn!(target: "proxy", listener, limit, reason = "too_many_connections", "refused a connection of the application");
        return;
    }
    let Some(stream) = usable_stream(&listener, accepted.into_stream()) else { return };
    let open =
        new_connection_state(worker, &listener, worker.next_connection_number(), &limits, (false, None, Vec::new()));
    let connection = Rc::new(egress::EgressConnection {
        tracked: worker.track(open, epoch),
        worker: Rc::clone(worker),
        from,
        _slot: slot,
        _counted: listener.desk.cells.open_connection(),
        listener,
    });
    connection.tracked.open.set_owner(&connection);
    spawn_local(Box::pin(serve::serve_http1(stream, connection, limits)));
}

fn usable_stream(listener: &WorkerListener, stream: io::Result<SocketStream>) -> Option<SocketStream> {
    let name = &*listener.id.name;
    stream
        .inspect_err(|error| tracing::warn!(target: "proxy", listener = name, %error, "cannot serve the connection"))
        .ok()
}

fn new_connection_state(
    worker: &Worker,
    listener: &WorkerListener,
    number: u64,
    limits: &ListenerLimits,
    (http2, key_pair, chain): (bool, Option<Fingerprint>, Vec<CertificateDer<'static>>),
) -> Rc<ConnectionState> {
    let name = std::sync::Arc::clone(&listener.id.name);
    let facts = ConnectionFacts {
        side: listener.id.side,
        listener: name,
        key_pair,
        chain,
        role: PeerRole::Client,
        upstream: None,
    };
    let (unread, age) = (limits.body_idle, limits.connection_age);
    let (head, idle) = (Some(limits.head), Some(limits.idle));
    let patience = ConnectionTimeouts { head, http2, idle, unread, age, drain: worker.drain_timeout() };
    ConnectionState::new(number, facts, patience, worker.waits())
}
