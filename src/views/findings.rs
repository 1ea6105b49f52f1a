//! What needs attention beyond this moment: the audit's findings, and the alerts that are active.

use std::sync::Arc;

use serde::Serialize;

use super::RuntimeViews;
use super::registry_reader::RegistryUnread;
use crate::event::AlertRecord;
use crate::pki::Fingerprint;
use crate::registry::{Finding, findings};

/// Findings and alerts.
#[derive(Clone, Debug, Serialize)]
pub struct FindingList {
    /// What `sidekey registry audit` finds, in a stable order.
    pub findings: Vec<Finding>,
    /// Why the registry could not be audited: the findings are empty then.
    pub findings_unread: Option<String>,
    /// The alerts that are active on this instance, the urgent ones first.
    pub alerts: Vec<ActiveAlert>,
}

/// One active alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActiveAlert {
    /// Its name, the same on every instance.
    pub alert: Arc<str>,
    /// Stable code.
    pub kind: &'static str,
    /// Whether the last threshold has passed.
    pub urgent: bool,
    /// The keyring, or the trust.
    pub keyring: Arc<str>,
    /// The pair or certificate it is about.
    pub key_pair: Option<Fingerprint>,
    /// The owner's contact.
    pub contact: Option<String>,
    /// One sentence.
    pub explanation: String,
    /// What to do.
    pub remedy: String,
}

impl From<AlertRecord> for ActiveAlert {
    fn from(alert: AlertRecord) -> Self {
        let AlertRecord { kind, urgent, keyring, key_pair, contact, explanation, remedy, alert } = alert;
        Self { alert, kind, urgent, keyring, key_pair, contact, explanation, remedy }
    }
}

/// Findings and alerts as they are now.
pub(crate) async fn read_findings(views: &RuntimeViews) -> FindingList {
    let inventory = views.registry.read(async |store| store.inventory().await).await;
    let mut alerts: Vec<ActiveAlert> = views.events.active_alerts().into_iter().map(ActiveAlert::from).collect();
    alerts.sort_by(|one, other| (!one.urgent, &one.alert).cmp(&(!other.urgent, &other.alert)));
    let findings_unread = inventory.as_ref().err().map(RegistryUnread::to_string);
    let findings = inventory.map(|inventory| findings(&inventory, views.events.now())).unwrap_or_default();
    FindingList { findings, findings_unread, alerts }
}
