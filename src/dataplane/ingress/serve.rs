//! A peer's connection from the listener to its HTTP: admitted within the limits, accepted, and served.
//!
//! Accept first, then decide: a connection beyond the limit, or one for which there is nothing to show, is closed and
//! recorded, so that no client waits in the kernel's queue for an answer that will not come.

use std::cell::Cell;
use std::rc::Rc;

use tokio::task::spawn_local;

use super::accept::{self, AcceptContext, AcceptedPeer, IncomingConnection};
use super::first_data::FirstDataStream;
use super::request::IngressConnection;
use super::resources::IngressResources;
use crate::dataplane::connection::view::ViewSlot;
use crate::dataplane::context::ListenerContext;
use crate::dataplane::serve;
use crate::dataplane::shared::ConnectionHandoff;
use crate::tls::AlpnProtocol;

/// Serves a connection that was accepted.
pub(crate) fn serve_peer(resources: &Rc<IngressResources>, listener: Rc<ListenerContext>, handed: ConnectionHandoff) {
    // Boxed: the future of a handshake is large, and gone once the connection is served.
    spawn_local(Box::pin(accept_and_serve(Rc::clone(resources), listener, handed)));
}

async fn accept_and_serve(resources: Rc<IngressResources>, listener: Rc<ListenerContext>, handed: ConnectionHandoff) {
    let ConnectionHandoff { accepted, at, slot, .. } = handed;
    let (context, cells) = (&resources.context, &listener.request_context.cells);
    let (number, epoch) = (context.shared.next_connection_number(), context.epoch());
    let arrived = IncomingConnection { from: accepted.from, connection: number, at, epoch };
    let Some(ingress) = context.ingress(&listener.id.name) else {
        let why = ("no_key_pair", "this listener has no usable key pair".to_owned());
        return accept::reject_before_handshake(context, &listener, &arrived, why);
    };
    let limits = &ingress.settings.limits;
    let gate = context.shared.gate(listener.index);
    // A connection that has sent nothing yet is closed to make room; one that is being served never is.
    if let Some(limit) = slot.exceeded_limit(limits.connections)
        && !gate.make_room()
    {
        cells.count_limit("connections");
        let why = ("too_many_connections", format!("{limit} connections are open, which is the limit"));
        return accept::reject_before_handshake(context, &listener, &arrived, why);
    }
    let Some(stream) = listener.register_stream(accepted) else { return };
    let counted = cells.open_connection();
    let turn = gate.enqueue(number, limits.hello_waiting);
    let terms = AcceptContext { context, listener: &listener, ingress: &ingress };
    let Some(accepted) = accept::accept(stream, &arrived, turn, &terms).await else { return };
    let AcceptedPeer { tls, peer, key_pair, from, place, watch } = accepted;
    let http2 = tls.facts.alpn == Some(AlpnProtocol::H2);
    let open = context.new_connection(&listener, number, limits, (http2, Some(key_pair), tls.chain));
    open.set_valid_until(peer.map(|peer| peer.valid_until()));
    let tracked = context.track(open, epoch);
    let connection = Rc::new(IngressConnection {
        tracked,
        view: ViewSlot::default(),
        told_left_out: Cell::default(),
        listener,
        from,
        server_name: tls.facts.server_name,
        _place: place,
        _slot: slot,
        _counted: counted,
        resources,
    });
    connection.tracked.open.set_owner(&connection);
    let stream = FirstDataStream::new(tls.stream, watch);
    // Tasks of their own, boxed: an idle connection keeps neither the handshake's future nor the other protocol's.
    if http2 {
        spawn_local(Box::pin(serve::serve_http2(stream, connection, limits)));
    } else {
        spawn_local(Box::pin(serve::serve_http1(stream, connection, limits)));
    }
}
