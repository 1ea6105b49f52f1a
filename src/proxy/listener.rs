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

use super::access::Desk;
use super::drain::ConnectionFacts;
use super::open::{Open, Patience};
use super::worker::Worker;
use super::workers::{Handed, Slot};
use super::{accept, egress, ingress, serve};
use crate::net::listen::{Accepted, Listening};
use crate::net::{Bound, Stream};
use crate::pki::Fingerprint;
use crate::process::Phase;
use crate::snapshot::ingress::Limits;
use crate::snapshot::{ListenerId, Side};
use crate::tls::Alpn;
use crate::trust::Role;

/// How long a listener pauses when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);

/// One listener.
pub(super) struct Listener {
    pub(super) id: ListenerId,
    pub(super) desk: Rc<Desk>,
    index: usize,
    state: RefCell<State>,
}

enum State {
    /// Clients cannot connect yet.
    Bound(Bound),
    /// The task that accepts, and what it accepts from.
    Listening(JoinHandle<()>, Rc<Listening>),
    /// Permanently.
    Closed,
}

impl Listener {
    pub(super) fn new(index: usize, id: ListenerId, bound: Bound, desk: Rc<Desk>) -> Self {
        Self { index, id, desk, state: RefCell::new(State::Bound(bound)) }
    }
}

/// Starts to listen, unless it does already.
pub(super) fn listen(worker: &Rc<Worker>, listener: &Rc<Listener>) {
    let mut state = listener.state.borrow_mut();
    let State::Bound(bound) = &*state else { return };
    if worker.shutdown.phase() >= Phase::DrainIngress {
        return;
    }
    match bound.listen() {
        Ok(listening) => {
            let listening = Rc::new(listening);
            let accepting = accept_all(Rc::clone(worker), Rc::clone(listener), Rc::clone(&listening));
            *state = State::Listening(spawn_local(accepting), listening);
            worker.shared.listens(listener.index);
        }
        // Tried again at the next epoch.
        Err(error) => {
            let (listener, address) = (&*listener.id.name, bound.address());
            tracing::error!(target: "proxy", listener, %address, %error, "cannot listen");
        }
    }
}

/// Accepts what waits in the queue, then nothing more.
pub(super) fn close(worker: &Rc<Worker>, listener: &Rc<Listener>) {
    let state = listener.state.replace(State::Closed);
    if let State::Listening(accepting, listening) = state {
        accepting.abort();
        while let Some(accepted) = listening.waiting() {
            accepted_one(worker, listener, accepted);
        }
    }
}

fn accepted_one(worker: &Rc<Worker>, listener: &Listener, accepted: Accepted) {
    let slot = Slot::take(&worker.shared, listener.index);
    hand_over(worker, Handed { listener: listener.index, accepted, at: Instant::now(), slot });
}

async fn accept_all(worker: Rc<Worker>, listener: Rc<Listener>, listening: Rc<Listening>) {
    let mut resting = false;
    loop {
        match listening.accept().await {
            Ok(accepted) => {
                if std::mem::take(&mut resting) {
                    tracing::info!(target: "proxy", listener = &*listener.id.name, "accepting connections again");
                }
                accepted_one(&worker, &listener, accepted);
            }
            // That one connection is gone; the next one may be fine.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut resting, true) {
                    let listener = &*listener.id.name;
                    tracing::warn!(target: "proxy", listener, %error, "cannot accept connections; retrying");
                }
                sleep(REST).await;
            }
        }
    }
}

/// Passes a connection to the worker that has a slot for it.
fn hand_over(worker: &Rc<Worker>, handed: Handed) {
    if handed.slot.worker == worker.index {
        take(worker, handed);
    } else if let Err(full) = worker.shared.hands[handed.slot.worker].try_send(handed) {
        // A worker that does not keep up gets no more.
        take(worker, full.into_inner());
    }
}

/// Serves a connection on this worker.
pub(super) fn take(worker: &Rc<Worker>, handed: Handed) {
    let Some(listener) = worker.listener(handed.listener) else { return };
    worker.refresh();
    worker.note_time();
    match listener.id.side {
        // Boxed: the future of a handshake is large, and gone once the connection is served.
        Side::Ingress => drop(spawn_local(Box::pin(ingress(Rc::clone(worker), listener, handed)))),
        Side::Egress => egress(worker, listener, handed),
    }
}

async fn ingress(worker: Rc<Worker>, listener: Rc<Listener>, handed: Handed) {
    let Handed { accepted, at, slot, .. } = handed;
    let (number, epoch) = (worker.number(), worker.epoch());
    let arrived = accept::Arrived { from: accepted.from, connection: number, at };
    let (events, clock, cells) = (worker.events(), worker.clock(), &listener.desk.cells);
    let Some(ingress) = worker.ingress(&listener.id.name) else {
        let why = ("no_key_pair", "this listener has no usable key pair".to_owned());
        events.emit(accept::turn_away((&listener.id.name, epoch), &arrived, why, clock));
        return;
    };
    let limits = &ingress.settings.limits;
    let gate = worker.shared.gate(handed.listener);
    // A connection that has sent nothing yet is closed to make room; one that is being served never is.
    if let Some(limit) = slot.is_beyond(limits.connections)
        && !gate.make_room()
    {
        cells.limit("connections");
        let why = ("too_many_connections", format!("{limit} connections are open, which is the limit"));
        events.emit(accept::turn_away((&listener.id.name, epoch), &arrived, why, clock));
        return;
    }
    let Some(stream) = usable(&listener, accepted.into_stream()) else { return };
    let counted = cells.connection();
    let turn = gate.wait(number, limits.hello_waiting);
    let partnered = &worker.shared.partnered;
    let lessons = &worker.shared.lessons;
    let terms = accept::Terms { ingress: &ingress, epoch, events, clock, lessons, cells, partnered };
    let Some(accepted) = accept::accept(stream, &arrived, turn, &terms).await else { return };
    let accept::Accepted { tls, peer, key_pair, from, place } = accepted;
    let http2 = tls.facts.alpn == Some(Alpn::H2);
    let open = open(&worker, &listener, number, limits, (http2, Some(key_pair), tls.chain.clone()));
    open.set_valid_until(peer.map(|peer| peer.valid_until()));
    let connection = Rc::new(ingress::Connection {
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
    connection.tracked.open.belongs_to(&connection);
    // Tasks of their own, boxed: an idle connection keeps neither the handshake's future nor the other protocol's.
    let limits = limits.clone();
    if http2 {
        spawn_local(Box::pin(serve::serve_http2(tls.stream, connection, limits)));
    } else {
        spawn_local(Box::pin(serve::serve_http1(tls.stream, connection, limits)));
    }
}

fn egress(worker: &Rc<Worker>, listener: Rc<Listener>, handed: Handed) {
    let Handed { accepted, slot, .. } = handed;
    let (from, epoch) = (accepted.from, worker.epoch());
    let limits = worker.egress(&listener.id.name).map(|(egress, _)| egress.settings.limits.clone()).unwrap_or_default();
    if let Some(limit) = slot.is_beyond(limits.connections) {
        listener.desk.cells.limit("connections");
        let listener = &*listener.id.name;
        tracing::warn!(target: "proxy", listener, limit, reason = "too_many_connections", "refused a connection of the application");
        return;
    }
    let Some(stream) = usable(&listener, accepted.into_stream()) else { return };
    let open = open(worker, &listener, worker.number(), &limits, (false, None, Vec::new()));
    let connection = Rc::new(egress::Connection {
        tracked: worker.track(open, epoch),
        worker: Rc::clone(worker),
        from,
        _slot: slot,
        _counted: listener.desk.cells.connection(),
        listener,
    });
    connection.tracked.open.belongs_to(&connection);
    spawn_local(Box::pin(serve::serve_http1(stream, connection, limits)));
}

fn usable(listener: &Listener, stream: io::Result<Stream>) -> Option<Stream> {
    let name = &*listener.id.name;
    stream
        .inspect_err(|error| tracing::warn!(target: "proxy", listener = name, %error, "cannot serve the connection"))
        .ok()
}

fn open(
    worker: &Worker,
    listener: &Listener,
    number: u64,
    limits: &Limits,
    (http2, key_pair, chain): (bool, Option<Fingerprint>, Vec<CertificateDer<'static>>),
) -> Rc<Open> {
    let name = std::sync::Arc::clone(&listener.id.name);
    let facts =
        ConnectionFacts { side: listener.id.side, listener: name, key_pair, chain, role: Role::Client, upstream: None };
    let (unread, age) = (limits.body_idle, limits.connection_age);
    let (head, idle) = (Some(limits.head), Some(limits.idle));
    let patience = Patience { head, http2, idle, unread, age, drain: worker.drain() };
    Open::new(number, facts, patience, worker.waits())
}
