//! Listeners: where they listen, what they show and verify with, where they lead.

use std::sync::Arc;

use serde::Serialize;

use super::RuntimeViews;
use crate::snapshot::{EgressSnapshot, IngressSnapshot, ListenerId, Side};

/// Every listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerList {
    /// The snapshot that serves them.
    pub epoch: u64,
    /// By side and name.
    pub listeners: Vec<ListenerDetails>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerDetails {
    /// Its side.
    pub side: Side,
    /// Its name.
    pub name: Arc<str>,
    /// What it waits for before it serves; absent: it serves.
    pub waits_for: Option<String>,
    /// Whether its socket is open.
    pub is_listening: bool,
    /// The address that it is configured with; absent while it waits.
    pub listen: Option<String>,
    /// The keyrings whose pairs it shows.
    pub keyrings: Vec<Arc<str>>,
    /// The trust that verifies its peers.
    pub trust: Option<Arc<str>>,
    /// The backend or the upstream.
    pub leads_to: Option<String>,
}

/// Every listener, by side and name.
pub(crate) fn list_listeners(views: &RuntimeViews) -> ListenerList {
    let snapshot = views.reader.latest();
    let is_open = |side: Side, name: &Arc<str>| {
        views.sockets.iter().any(|(id, socket)| id.side == side && id.name == *name && socket.is_listening())
    };
    let mut all: Vec<ListenerDetails> = snapshot.ingresses.values().map(|ingress| describe_ingress(ingress)).collect();
    all.extend(snapshot.egresses.values().map(|egress| describe_egress(egress)));
    all.extend(snapshot.waiting.iter().map(|(id, what)| describe_waiting(id, what)));
    for listener in &mut all {
        listener.is_listening = is_open(listener.side, &listener.name);
    }
    all.sort_by(|one, other| (one.side, &one.name).cmp(&(other.side, &other.name)));
    ListenerList { epoch: snapshot.epoch.0, listeners: all }
}

fn describe_ingress(ingress: &IngressSnapshot) -> ListenerDetails {
    ListenerDetails {
        side: Side::Ingress,
        name: Arc::clone(&ingress.settings.name),
        waits_for: None,
        is_listening: false,
        listen: Some(ingress.settings.listen.to_string()),
        keyrings: ingress.settings.keyrings.clone(),
        trust: Some(Arc::clone(ingress.trust.name())),
        leads_to: Some(ingress.settings.backend.to_string()),
    }
}

fn describe_egress(egress: &EgressSnapshot) -> ListenerDetails {
    ListenerDetails {
        side: Side::Egress,
        name: Arc::clone(&egress.settings.name),
        waits_for: None,
        is_listening: false,
        listen: Some(egress.settings.listen.to_string()),
        keyrings: vec![Arc::clone(&egress.settings.keyring)],
        trust: Some(Arc::clone(egress.trust.name())),
        leads_to: Some(egress.settings.upstream.to_string()),
    }
}

fn describe_waiting(id: &ListenerId, what: &str) -> ListenerDetails {
    ListenerDetails {
        side: id.side,
        name: Arc::clone(&id.name),
        waits_for: Some(what.to_owned()),
        is_listening: false,
        listen: None,
        keyrings: Vec::new(),
        trust: None,
        leads_to: None,
    }
}
