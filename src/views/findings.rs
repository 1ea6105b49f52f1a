//! What needs attention beyond this moment: the audit's findings, and the alerts that are active.

use std::sync::Arc;

use jiff::SignedDuration;
use serde::Serialize;

use super::RuntimeViews;
use super::registry_reader::RegistryUnread;
use crate::event::AlertRecord;
use crate::pki::Fingerprint;
use crate::registry::{Finding, RegistryStore, findings};

/// How old findings may be that are shown while they are read anew.
const RECENT_SECONDS: i64 = 30;

/// Findings and alerts.
#[derive(Clone, Debug, Serialize)]
pub struct FindingList {
    /// What `sidekey registry audit` finds, in a stable order.
    pub findings: Arc<Vec<Finding>>,
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
    let audit = audit_registry(views).await;
    let mut alerts: Vec<ActiveAlert> = views.events.active_alerts().into_iter().map(ActiveAlert::from).collect();
    alerts.sort_by(|one, other| (!one.urgent, &one.alert).cmp(&(!other.urgent, &other.alert)));
    let findings_unread = audit.as_ref().err().map(RegistryUnread::to_string);
    FindingList { findings: audit.unwrap_or_default(), findings_unread, alerts }
}

/// What the audit finds. It reads nearly the whole registry, which takes long beside busy traffic, and changes by the day: who asks
/// while recent findings are there gets these, and has them read anew for the next one.
async fn audit_registry(views: &RuntimeViews) -> Result<Arc<Vec<Finding>>, RegistryUnread> {
    let moment = views.moment();
    if let Some(found) = views.findings.find_fresh(moment) {
        return Ok(found);
    }
    let Some(recent) = views.findings.find_recent(moment, SignedDuration::from_secs(RECENT_SECONDS)) else {
        return audit_now(views).await;
    };
    if let Ok(running) = Arc::clone(&views.auditing).try_lock_owned() {
        let views = views.clone();
        tokio::spawn(async move {
            if audit_now(&views).await.is_err() {
                // The next reader asks itself, and is told why.
                views.findings.forget_content();
            }
            drop(running);
        });
    }
    Ok(recent)
}

async fn audit_now(views: &RuntimeViews) -> Result<Arc<Vec<Finding>>, RegistryUnread> {
    let moment = views.moment();
    let inventory =
        views.registry.read(async move |store: RegistryStore| store.audited_inventory(moment.1).await).await?;
    Ok(views.findings.store_content(moment, findings(&inventory, moment.1)))
}
