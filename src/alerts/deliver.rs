//! Webhooks and mail, claimed in the registry: sent once for a whole fleet, retried after a failure, finally given up.
//!
//! A webhook that hangs delays other webhooks for a while, a database that hangs delays all of them; nothing else waits
//! for this. A failed delivery is retried with growing delays from its row in the registry, by any instance with that
//! sink; when it is given up, it is logged as an error, counted, recorded in the history and reported as a finding.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::connection::{RegistryConnection, log_wait, with_timeout};
use super::{Alert, AlertKind, AlertSettings, WebhookSettings, mail, webhook};
use crate::clock::Clock;
use crate::event::{DeliveryRecord, Event, EventBus};
use crate::pki::printable;
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::registry::store::AlertNotice;
use crate::registry::task::run_number;
use crate::registry::{self, AcknowledgementRow, DeliveryRow, RegistryStore};

/// The delay after the first failure; it doubles with each failure, up to the maximum.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(30);
/// The maximum delay.
const MAX_RETRY_DELAY: Duration = Duration::from_hours(1);
/// Failed attempts until a delivery is given up: after about half a day.
const MAX_ATTEMPTS: i64 = 16;
/// A delivery still pending after so many seconds was raised by an instance that is gone: else it were given up.
const ABANDONED_AFTER_SECONDS: i64 = 7 * 86_400;

/// What the step before hands over.
#[derive(Clone, Default)]
pub(super) struct DueAlerts {
    /// The alerts that are due.
    pub(super) alerts: Vec<Alert>,
    /// The owners of keyrings, and of trusts through the keyrings that use them.
    pub(super) owners: BTreeMap<Arc<str>, String>,
    /// The registry whose peers they were derived from; without it they wait.
    pub(super) registry: Option<RegistryConnection>,
}

/// Delivers what is due.
pub(super) struct AlertDeliveryTask {
    settings: watch::Receiver<AlertSettings>,
    due: watch::Receiver<DueAlerts>,
    events: Arc<EventBus>,
    clock: Clock,
    shutdown: ShutdownWatch,
    /// The holder's name in this run's claims.
    holder: String,
    /// Alerts and sinks already raised in the registry.
    raised: HashSet<(Arc<str>, String)>,
    /// In which connection they were raised.
    connection: Option<u64>,
}

/// The sinks of one pass, each with its name in the registry.
struct AlertSinks<'a> {
    settings: &'a AlertSettings,
    webhooks: Vec<(String, &'a WebhookSettings)>,
}

impl AlertDeliveryTask {
    /// Nothing is raised yet.
    pub(super) fn new(
        settings: watch::Receiver<AlertSettings>,
        due: watch::Receiver<DueAlerts>,
        events: Arc<EventBus>,
        clock: Clock,
        shutdown: ShutdownWatch,
    ) -> Self {
        let holder = format!("{:016x}", run_number());
        Self { settings, due, events, clock, shutdown, holder, raised: HashSet::new(), connection: None }
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self) {
        let mut shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.wait_for_phase(ShutdownPhase::Over) => return,
                changed = self.due.changed() => if changed.is_err() { return },
            }
            let DueAlerts { alerts, owners, registry } = self.due.borrow_and_update().clone();
            let Some(RegistryConnection { number, store }) = registry else { continue };
            // The registry reconnected, perhaps to another database: raise everything again.
            if self.connection.replace(number) != Some(number) {
                self.raised.clear();
            }
            if let Err(error) = self.deliver(&store, &alerts, &owners).await {
                log_wait(&error);
            }
        }
    }

    async fn deliver(
        &mut self,
        store: &RegistryStore,
        alerts: &[Alert],
        owners: &BTreeMap<Arc<str>, String>,
    ) -> Result<(), registry::Error> {
        let now = self.clock.now();
        let settings = self.settings.borrow().clone();
        if settings.webhooks.is_empty() && settings.smtp.is_none() {
            return Ok(());
        }
        let webhooks = settings.webhooks.iter().map(|webhook| (webhook::sink_name(webhook), webhook)).collect();
        let ways = AlertSinks { settings: &settings, webhooks };
        let acknowledged = with_timeout(store, store.acknowledgements()).await?;
        for alert in alerts.iter().filter(|alert| !is_acknowledged(&acknowledged, alert)) {
            for (sink, recipient) in ways.sinks(alert) {
                let key = (Arc::clone(&alert.name), sink);
                if !self.raised.contains(&key) {
                    with_timeout(store, store.raise(&notice(alert, owners, &key.1, recipient), now)).await?;
                    self.raised.insert(key);
                }
            }
        }
        self.raised.retain(|(name, _)| alerts.iter().any(|alert| alert.name == *name));
        for delivery in with_timeout(store, store.pending()).await? {
            if self.shutdown.phase() == ShutdownPhase::Over {
                return Ok(());
            }
            let is_due = alerts.iter().find(|alert| *alert.name == *delivery.alert);
            // A refused drop is an event, not a state that could be checked again: any instance sends it.
            let is_over = is_due.is_none() && delivery.kind != AlertKind::RefusedDrop.as_str();
            if is_over || !ways.supports(&delivery.sink) {
                // Only the instance that raised it knows that it is over, or that its sink is no longer configured.
                let is_abandoned = now.as_second() - delivery.raised.0 > ABANDONED_AFTER_SECONDS;
                if delivery.raised_by == **store.instance() || is_abandoned {
                    self.silence(store, &delivery).await?;
                }
                continue;
            }
            if is_due.is_some_and(|alert| is_acknowledged(&acknowledged, alert)) {
                self.silence(store, &delivery).await?;
                continue;
            }
            // Sinks may be slow: a lease that began with the round could expire before it is acquired.
            let now = self.clock.now();
            if with_timeout(store, store.claim(&delivery, &self.holder, now)).await? {
                self.send(store, &ways, &delivery, now).await?;
            }
        }
        Ok(())
    }

    async fn silence(&self, store: &RegistryStore, delivery: &DeliveryRow) -> Result<(), registry::Error> {
        with_timeout(store, store.silence(delivery)).await?;
        self.emit_outcome(delivery, "silenced", None);
        Ok(())
    }

    async fn send(
        &self,
        store: &RegistryStore,
        ways: &AlertSinks<'_>,
        delivery: &DeliveryRow,
        now: Timestamp,
    ) -> Result<(), registry::Error> {
        let webhook = ways.webhooks.iter().find(|(name, _)| *name == delivery.sink);
        let sent = match (webhook, &ways.settings.smtp) {
            (Some((_, to)), _) => webhook::post(to, delivery).await,
            (None, Some(smtp)) => mail::send(smtp, delivery).await,
            (None, None) => return Ok(()),
        };
        let Err(error) = sent else {
            with_timeout(store, store.mark_sent(delivery)).await?;
            self.emit_outcome(delivery, "sent", None);
            return Ok(());
        };
        let why = printable(&error.to_string());
        // The row was read before the claim counted this attempt.
        if delivery.attempts + 1 >= MAX_ATTEMPTS {
            with_timeout(store, store.give_up(delivery, &why)).await?;
            self.emit_outcome(delivery, "given_up", Some(why));
        } else {
            with_timeout(store, store.postpone(delivery, &why, retry_delay(delivery.attempts), now)).await?;
            self.emit_outcome(delivery, "failed", Some(why));
        }
        Ok(())
    }

    fn emit_outcome(&self, delivery: &DeliveryRow, outcome: &'static str, error: Option<String>) {
        let sink = if is_mail(&delivery.sink) { "mail" } else { "webhook" };
        let (alert, kind) = (delivery.alert.as_str().into(), delivery.kind.clone());
        self.events.emit(Event::Delivery(DeliveryRecord { alert, kind, sink, outcome, error }));
    }
}

impl AlertSinks<'_> {
    /// The sinks an alert is sent to, with the recipient for mail.
    fn sinks(&self, alert: &Alert) -> Vec<(String, Option<String>)> {
        let mut sinks: Vec<_> = self.webhooks.iter().map(|(name, _)| (name.clone(), None)).collect();
        if self.settings.smtp.is_some() {
            sinks.extend(alert.contacts.iter().map(|contact| (format!("mail:{contact}"), Some(contact.clone()))));
        }
        sinks
    }

    /// Whether this sidecar has that sink. In a shared registry other sidecars may have other sinks.
    fn supports(&self, sink: &str) -> bool {
        if is_mail(sink) { self.settings.smtp.is_some() } else { self.webhooks.iter().any(|(name, _)| name == sink) }
    }
}

fn is_mail(sink: &str) -> bool {
    sink.starts_with("mail:")
}

/// The delay after this many earlier failures.
fn retry_delay(attempts: i64) -> Duration {
    let doubled = FIRST_RETRY_DELAY.saturating_mul(1 << attempts.clamp(0, 10));
    doubled.min(MAX_RETRY_DELAY)
}

/// Whether an operator has acknowledged this expiry: it stays silent until the last threshold. It covers one
/// end: with another intermediate the pair itself may be what expires next.
fn is_acknowledged(acknowledged: &[AcknowledgementRow], alert: &Alert) -> bool {
    let (Some(key_pair), Some(ends), true) = (alert.key_pair, alert.ends, alert.kind.is_expiry()) else { return false };
    let key_pair = key_pair.to_string();
    let same_end = |one: &AcknowledgementRow| one.ends.is_none_or(|end| end.0 == ends.as_second());
    !alert.urgent && acknowledged.iter().any(|one| one.key_pair == key_pair && same_end(one))
}

fn notice(alert: &Alert, owners: &BTreeMap<Arc<str>, String>, sink: &str, recipient: Option<String>) -> AlertNotice {
    AlertNotice {
        alert: alert.name.to_string(),
        sink: sink.to_owned(),
        kind: alert.kind.as_str(),
        keyring: alert.keyring.to_string(),
        key_pair: alert.key_pair.map(|key_pair| key_pair.to_string()),
        urgent: alert.urgent,
        recipient,
        summary: alert.explanation.clone(),
        remedy: alert.remedy.clone(),
        owner: owners.get(&alert.keyring).cloned(),
        contact: (!alert.contacts.is_empty()).then(|| alert.contacts.join(", ")),
        ends: alert.ends,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(retry_delay(0), FIRST_RETRY_DELAY);
        assert_eq!(retry_delay(3), FIRST_RETRY_DELAY * 8);
        assert_eq!(retry_delay(63), MAX_RETRY_DELAY);
        assert!(retry_delay(-1) >= FIRST_RETRY_DELAY);
    }

    #[test]
    fn an_acknowledgement_is_of_one_end_and_not_of_the_last_day() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let key_pair = crate::pki::Fingerprint::from_bytes([1; 32]);
        let alert = |ends, urgent| Alert {
            name: "expires".into(),
            kind: AlertKind::Expires,
            urgent,
            keyring: "api".into(),
            also: Vec::new(),
            key_pair: Some(key_pair),
            ends,
            contacts: Vec::new(),
            explanation: String::new(),
            remedy: String::new(),
        };
        let of = |ends: Option<i64>| {
            let (who, why) = ("kim".to_owned(), "known".to_owned());
            let (at, ends) = (registry::UnixSeconds(0), ends.map(registry::UnixSeconds));
            [AcknowledgementRow { key_pair: key_pair.to_string(), at, keyring: "api".to_owned(), who, why, ends }]
        };
        assert!(is_acknowledged(&of(Some(9)), &alert(Some(at(9)), false)));
        assert!(is_acknowledged(&of(None), &alert(Some(at(9)), false)));
        assert!(!is_acknowledged(&of(Some(8)), &alert(Some(at(9)), false)), "its intermediate's");
        assert!(!is_acknowledged(&of(Some(9)), &alert(Some(at(9)), true)));
        assert!(!is_acknowledged(&of(None), &alert(None, false)), "no expiry");
    }
}
