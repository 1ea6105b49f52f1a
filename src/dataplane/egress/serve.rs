//! The application's connection from the listener to its HTTP: admitted within the limit, and served.

use std::rc::Rc;

use tokio::task::spawn_local;

use super::request::EgressConnection;
use super::resources::EgressResources;
use crate::dataplane::connection::view::ViewSlot;
use crate::dataplane::context::ListenerContext;
use crate::dataplane::serve;
use crate::dataplane::shared::ConnectionHandoff;
use crate::trust::PresentedChain;

/// Serves a connection that was accepted.
pub(crate) fn serve_application(
    resources: &Rc<EgressResources>,
    listener: Rc<ListenerContext>,
    handed: ConnectionHandoff,
) {
    let ConnectionHandoff { accepted, slot, .. } = handed;
    let context = &resources.context;
    let (from, epoch) = (accepted.from, context.epoch());
    let limits =
        context.egress(&listener.id.name).map(|(egress, _)| egress.settings.limits.clone()).unwrap_or_default();
    if let Some(limit) = slot.exceeded_limit(limits.connections) {
        listener.request_context.cells.count_limit("connections");
        let listener = &*listener.id.name;
        tracing::warn!(target: "proxy", listener, limit, reason = "too_many_connections", "refused a connection of the application");
        return;
    }
    let Some(stream) = listener.register_stream(accepted) else { return };
    let number = context.shared.next_connection_number();
    let open = context.new_connection(&listener, number, &limits, (false, None, PresentedChain::default()));
    let connection = Rc::new(EgressConnection {
        resources: Rc::clone(resources),
        tracked: context.track(open, epoch),
        view: ViewSlot::default(),
        from,
        _slot: slot,
        _counted: listener.request_context.cells.open_connection(),
        listener,
    });
    connection.tracked.open.set_owner(&connection);
    spawn_local(Box::pin(serve::serve_http1(stream, connection, &limits)));
}
