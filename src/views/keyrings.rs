//! Keyrings with their pairs; one with its history, its rotation and the listeners that use it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RuntimeViews;
use super::registry_reader::RegistryUnread;
use super::rotation::read_keyring_rotation;
use crate::evidence::report::RotationReport;
use crate::registry::store::HistoryQuery;
use crate::registry::{HistoryRow, RegistryStore};
use crate::snapshot::{KeyringView, Snapshot};

/// Lines of a keyring's history.
const HISTORY_LINES: i64 = 200;

/// Every keyring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyringList {
    /// The snapshot that serves them.
    pub epoch: u64,
    /// By name.
    pub keyrings: Vec<KeyringView>,
}

/// One keyring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyringAnswer {
    /// The snapshot that serves it.
    pub epoch: u64,
    /// The keyring.
    #[serde(flatten)]
    pub keyring: KeyringView,
}

/// One keyring with what surrounds it.
#[derive(Clone, Debug, Serialize)]
pub struct KeyringDetails {
    /// The keyring.
    #[serde(flatten)]
    pub keyring: KeyringAnswer,
    /// Listeners that show its pairs, `ingress NAME` or `egress NAME`.
    pub listeners: Vec<String>,
    /// Its rotation report, while it is in overlap.
    pub rotation: Option<RotationReport>,
    /// Its history, the newest first, on every instance that writes to the registry; at most 200 lines.
    pub history: Vec<HistoryRow>,
    /// Why the history could not be read.
    pub history_unread: Option<String>,
}

/// Every keyring as it is served now.
pub(crate) fn list_keyrings(views: &RuntimeViews) -> KeyringList {
    let snapshot = views.reader.latest();
    KeyringList { epoch: snapshot.epoch.0, keyrings: snapshot.keyrings.clone() }
}

/// One keyring; `None`: none has this name.
pub(crate) async fn find_keyring(views: &RuntimeViews, name: &str) -> Option<KeyringDetails> {
    let snapshot = views.reader.latest();
    let keyring = snapshot.keyrings.iter().find(|keyring| *keyring.name == *name)?.clone();
    let asked = HistoryQuery { name: Some(name.to_owned()), most: HISTORY_LINES, ..HistoryQuery::default() };
    let history = views.registry.read(async move |store: RegistryStore| store.history(&asked).await).await;
    let history_unread = history.as_ref().err().map(RegistryUnread::to_string);
    Some(KeyringDetails {
        keyring: KeyringAnswer { epoch: snapshot.epoch.0, keyring },
        listeners: users(&snapshot, name),
        rotation: read_keyring_rotation(views, name),
        history: history.unwrap_or_default(),
        history_unread,
    })
}

/// Listeners with a pair of this keyring to show.
fn users(snapshot: &Snapshot, keyring: &str) -> Vec<String> {
    let shows = |keyrings: &[Arc<str>]| keyrings.iter().any(|name| **name == *keyring);
    let ingresses = snapshot.ingresses.values().filter(|ingress| shows(&ingress.settings.keyrings));
    let egresses = snapshot.egresses.values().filter(|egress| *egress.settings.keyring == *keyring);
    let ingresses = ingresses.map(|ingress| format!("ingress {}", ingress.settings.name));
    ingresses.chain(egresses.map(|egress| format!("egress {}", egress.settings.name))).collect()
}
