//! Every socket of this process, bound before anything else happens: inherited where one is meant for the address, else new.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::socket;
use crate::admin::AdminListenerKind;
use crate::config::Config;
use crate::control::server::SocketAccess;
use crate::net::{BoundSocket, InheritedSockets, SocketError, SocketHandle};
use crate::snapshot::{ListenerId, Side};

/// The admin and the probes listener, where they are configured.
pub(super) type AdminSockets = [(Option<BoundSocket>, AdminListenerKind); 2];

/// The sockets of this process, bound.
pub(super) struct ListeningParts {
    pub(super) listeners: Vec<(ListenerId, BoundSocket)>,
    pub(super) admin: AdminSockets,
    pub(super) control: Option<(BoundSocket, SocketAccess)>,
    /// All of them, for a process that takes over.
    pub(super) handles: Vec<SocketHandle>,
}

/// Binds all. What another process has passed and no listener needs is closed.
pub(super) fn bind_all(
    config: &Config,
    is_process: bool,
    mut sockets: InheritedSockets,
) -> Result<ListeningParts, SocketError> {
    let settings = &config.settings;
    let ingresses = settings.ingresses.iter().map(|one| (Side::Ingress, &one.name, &one.listen));
    let egresses = settings.egresses.iter().map(|one| (Side::Egress, &one.name, &one.listen));
    let (mut listeners, mut handles) = (Vec::new(), Vec::new());
    for (side, name, listen) in ingresses.chain(egresses) {
        let role = format!("{}-{name}", side.as_str());
        let bound = sockets.bind(&role, name, listen)?;
        handles.push(bound.handle(role));
        listeners.push((ListenerId { side, name: Arc::clone(name) }, bound));
    }
    let mut bind_admin = |role: &str, listen: Option<&crate::net::ListenAddress>| {
        let bound = listen.map(|listen| sockets.bind(role, role, listen)).transpose()?;
        handles.extend(bound.as_ref().map(|bound| bound.handle(role.to_owned())));
        Ok::<_, SocketError>(bound)
    };
    let probes = bind_admin("probes", config.admin.probes.as_ref())?;
    let admin = bind_admin("admin", config.admin.listen.as_ref())?;
    let control = socket::bind(config, is_process, &mut sockets);
    handles.extend(control.as_ref().map(|(bound, _)| bound.handle(socket::CONTROL_ROLE.to_owned())));
    for unused in sockets.into_unused() {
        tracing::warn!(
            target: "process",
            "systemd has passed a socket that no listener is meant for, so it is closed: {unused}; name it like a listener \
             (FileDescriptorName=), or give it a listener's address (ListenStream=)"
        );
    }
    let admin = [(admin, AdminListenerKind::Admin), (probes, AdminListenerKind::Probes)];
    Ok(ListeningParts { listeners, admin, control, handles })
}

/// Where each listener listens, if it is TCP.
pub(super) fn addresses(listeners: &[(ListenerId, BoundSocket)]) -> BTreeMap<ListenerId, SocketAddr> {
    listeners.iter().filter_map(|(id, bound)| Some((id.clone(), bound.local_addr()?))).collect()
}

/// Where the admin listener listens, if it is TCP.
pub(super) fn admin_address(sockets: &AdminSockets) -> Option<SocketAddr> {
    let admin = sockets.iter().find(|(_, kind)| *kind == AdminListenerKind::Admin)?;
    admin.0.as_ref().and_then(BoundSocket::local_addr)
}
