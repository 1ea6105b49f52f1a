//! Tells alerts: line and metric at once, webhooks and mail through claims in the registry.
//!
//! Two halves in one future, as in the registry's: one takes Events and never waits, the other tells. A webhook that hangs
//! holds up other webhooks for a while, nothing else. What could not be sent is tried again with growing pauses from the
//! row in the registry, by whichever instance is there then; in the end it is given up, which is an error line, a count, a
//! line of the history and a finding.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::{Alert, Happened, Kind, Records, Settings, due, mail, webhook};
use crate::clock::Clock;
use crate::event::{Event, Events, Follower};
use crate::metrics::Metrics;
use crate::pki::printable;
use crate::process::{Phase, Shutdown};
use crate::registry::backlog::Backlog;
use crate::registry::store::Notice;
use crate::registry::task::Current;
use crate::registry::{self, Acknowledgement, Delivery, Peer, Store};
use crate::snapshot::Reader;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often everything is worked out anew although nothing happened.
const ROUND: Duration = Duration::from_mins(1);
/// The first pause after a failure; each one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// Failures until an alert is given up: after about half a day.
const ATTEMPTS: i64 = 16;
/// What is still to be told after so many seconds was raised by somebody who is gone: it would have been given up.
const ABANDONED: i64 = 7 * 86_400;
/// Peers that are remembered here, beside those of the registry.
const PEERS: usize = 20_000;
/// What a round may take of the database's time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the task is made of.
pub struct Parts {
    /// Where alerts go; may change while it runs.
    pub settings: watch::Receiver<Settings>,
    /// What is served.
    pub reader: Reader,
    /// What happens.
    pub follower: Follower,
    /// Where alerts are told.
    pub events: Arc<Events>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The registry while it can be used.
    pub registry: Current,
    /// When the process ends.
    pub shutdown: Shutdown,
}

/// Runs until the process is over. What is being sent then is sent, and noted as sent: else a restart would send it again.
pub async fn run(parts: Parts) {
    let instance = Arc::<str>::from("");
    let fold = Mutex::new(Fold { happened: Happened::default(), seen: Backlog::new(instance), dirty: true });
    let telling = Telling {
        settings: parts.settings,
        reader: parts.reader,
        events: parts.events,
        metrics: parts.metrics,
        clock: parts.clock,
        registry: parts.registry,
        shutdown: parts.shutdown,
        holder: format!("{:016x}", registry::task::run_number()),
        peers: BTreeMap::new(),
        logged: HashSet::new(),
        raised: HashSet::new(),
    };
    let taking = async {
        take(&fold, parts.follower).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        () = telling.run(&fold) => {}
    }
}

/// What Events have told.
struct Fold {
    happened: Happened,
    /// Who was seen since the last round.
    seen: Backlog,
    dirty: bool,
}

/// A panic elsewhere leaves it whole.
fn lock(fold: &Mutex<Fold>) -> MutexGuard<'_, Fold> {
    fold.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(fold: &Mutex<Fold>, mut follower: Follower) {
    while let Some(event) = follower.next().await {
        let mut fold = lock(fold);
        if let Event::Handshake(handshake) = &event {
            if !handshake.is_failure() {
                fold.seen.take(&event, handshake.time);
            }
            continue;
        }
        let now = follower.now();
        fold.dirty |= fold.happened.take(&event, now);
    }
}

struct Telling {
    settings: watch::Receiver<Settings>,
    reader: Reader,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
    clock: Clock,
    registry: Current,
    shutdown: Shutdown,
    /// What claims of this run are held by.
    holder: String,
    /// Peers by side, listener and certificate: those of the registry, and those seen since.
    peers: BTreeMap<(String, String, String), Peer>,
    /// Alerts that were told here.
    logged: HashSet<Arc<str>>,
    /// Alerts and sinks that are in the registry.
    raised: HashSet<(Arc<str>, String)>,
}

impl Telling {
    async fn run(mut self, fold: &Mutex<Fold>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last: Option<Timestamp> = None;
        let mut shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.reached(Phase::Over) => return,
                _ = tick.tick() => {}
                changed = self.registry.changed() => {
                    // It came back, perhaps as another one: what was raised is looked up again.
                    self.raised.clear();
                    last = None;
                    if changed.is_err() {
                        // Nobody opens it any more: the log goes on.
                        tick.tick().await;
                    }
                }
            }
            let now = self.clock.now();
            let is_time = last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= ROUND);
            if !is_time && !std::mem::take(&mut lock(fold).dirty) {
                continue;
            }
            last = Some(now);
            self.round(fold, now).await;
        }
    }

    /// Works out what is due, tells what is new, sends what is to be sent.
    async fn round(&mut self, fold: &Mutex<Fold>, now: Timestamp) {
        let store = self.registry.borrow().clone();
        if let Some(store) = &store
            && let Ok(Ok(peers)) = tokio::time::timeout(PATIENCE, store.peers()).await
        {
            self.peers.clear();
            self.meet(peers);
        }
        let happened = {
            let mut fold = lock(fold);
            fold.happened.tick(now);
            let seen = fold.seen.batch().peers;
            self.meet(seen);
            fold.happened.clone()
        };
        let snapshot = self.reader.take();
        let peers: Vec<Peer> = self.peers.values().cloned().collect();
        let records = Records {
            keyrings: &snapshot.keyrings,
            trusts: &snapshot.trusts,
            peers: &peers,
            happened: &happened,
            contacts: &snapshot.contacts(),
        };
        let alerts = due(&records, now);
        self.tell(&alerts);
        if let Some(store) = store {
            let delivering = self.deliver(&store, &alerts, now);
            if let Err(error) = delivering.await {
                // The registry's own task says what is wrong with the database.
                tracing::debug!(target: "alert", %error, "alerts wait for the registry");
            }
        }
    }

    fn meet(&mut self, peers: Vec<Peer>) {
        for peer in peers {
            let key = (peer.side.clone(), peer.listener.clone(), peer.certificate.clone());
            let newer = self.peers.get(&key).is_none_or(|known| known.last_seen <= peer.last_seen);
            if newer && (self.peers.len() < PEERS || self.peers.contains_key(&key)) {
                self.peers.insert(key, peer);
            }
        }
    }

    /// Line and metric: on every instance, whatever the registry says.
    fn tell(&mut self, alerts: &[Alert]) {
        let mut active: BTreeMap<(&'static str, String), i64> = BTreeMap::new();
        for alert in alerts {
            *active.entry((alert.kind.as_str(), alert.keyring.to_string())).or_default() += 1;
            if self.logged.insert(Arc::clone(&alert.name)) {
                self.events.emit(Event::Alert {
                    alert: Arc::clone(&alert.name),
                    kind: alert.kind.as_str(),
                    urgent: alert.urgent,
                    keyring: Arc::clone(&alert.keyring),
                    key_pair: alert.key_pair,
                    contact: alert.contact.clone(),
                    explanation: alert.explanation.clone(),
                    remedy: alert.remedy.clone(),
                });
            }
        }
        self.metrics.alerts_active(&active);
        self.logged.retain(|name| alerts.iter().any(|alert| alert.name == *name));
    }

    async fn deliver(&mut self, store: &Store, alerts: &[Alert], now: Timestamp) -> Result<(), registry::Error> {
        let settings = self.settings.borrow().clone();
        if settings.webhooks.is_empty() && settings.smtp.is_none() {
            return Ok(());
        }
        let acknowledged = store.acknowledgements().await?;
        for alert in alerts {
            for (sink, recipient) in sinks(&settings, alert) {
                let key = (Arc::clone(&alert.name), sink);
                if self.raised.contains(&key) || is_acknowledged(&acknowledged, alert) {
                    continue;
                }
                store.raise(&notice(alert, &key.1, recipient), now).await?;
                self.raised.insert(key);
            }
        }
        self.raised.retain(|(name, _)| alerts.iter().any(|alert| alert.name == *name));
        for delivery in store.pending().await? {
            if self.shutdown.phase() == Phase::Over {
                return Ok(());
            }
            let is_due = alerts.iter().find(|alert| *alert.name == *delivery.alert);
            // A refused drop is no state that could still be looked at: who finds it waiting sends it.
            if is_due.is_none() && delivery.kind != Kind::RefusedDrop.as_str() {
                let nobody_does = now.as_second() - delivery.raised.0 > ABANDONED;
                if delivery.raised_by == **store.instance() || nobody_does {
                    store.silence(&delivery).await?;
                    self.ended(&delivery, "silenced", None);
                }
                continue;
            }
            if is_due.is_some_and(|alert| is_acknowledged(&acknowledged, alert)) {
                store.silence(&delivery).await?;
                self.ended(&delivery, "silenced", None);
                continue;
            }
            // A slow sink takes its time, and a lease that began with the round would be over before it was held.
            let now = self.clock.now();
            if store.claim(&delivery, &self.holder, now).await? {
                self.send(store, &settings, &delivery, now).await?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        store: &Store,
        settings: &Settings,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<(), registry::Error> {
        let webhook = delivery.sink.strip_prefix("webhook:").and_then(|number| number.parse::<usize>().ok());
        let sent = match (webhook, &settings.smtp) {
            (Some(number), _) => match settings.webhooks.get(number.wrapping_sub(1)) {
                Some(to) => webhook::post(to, delivery).await,
                // Taken out of the configuration since.
                None => return store.silence(delivery).await,
            },
            (None, Some(smtp)) => mail::send(smtp, delivery).await,
            (None, None) => return store.silence(delivery).await,
        };
        let Err(error) = sent else {
            store.sent(delivery).await?;
            self.ended(delivery, "sent", None);
            return Ok(());
        };
        let why = printable(&error.to_string());
        // The row was read before the claim counted this attempt.
        if delivery.attempts + 1 >= ATTEMPTS {
            store.give_up(delivery, &why).await?;
            self.ended(delivery, "given_up", Some(why));
        } else {
            store.postpone(delivery, &why, pause(delivery.attempts), now).await?;
            self.ended(delivery, "failed", Some(why));
        }
        Ok(())
    }

    fn ended(&self, delivery: &Delivery, outcome: &'static str, error: Option<String>) {
        let sink = if delivery.sink.starts_with("webhook:") { "webhook" } else { "mail" };
        let (alert, kind) = (delivery.alert.as_str().into(), delivery.kind.clone());
        self.events.emit(Event::Delivery { alert, kind, sink, outcome, error });
    }
}

/// After so many failures before this one.
fn pause(attempts: i64) -> Duration {
    let doubled = PAUSE.saturating_mul(1 << attempts.clamp(0, 10));
    doubled.min(LONGEST_PAUSE)
}

/// Where an alert goes beside the log, and for mail to whom.
fn sinks(settings: &Settings, alert: &Alert) -> Vec<(String, Option<String>)> {
    let mut sinks: Vec<_> = (1..=settings.webhooks.len()).map(|number| (format!("webhook:{number}"), None)).collect();
    if let (Some(_), Some(contact)) = (&settings.smtp, &alert.contact) {
        sinks.push((format!("mail:{contact}"), Some(contact.clone())));
    }
    sinks
}

/// Somebody knows about this expiry: there is nothing more to say until the last threshold.
fn is_acknowledged(acknowledged: &[Acknowledgement], alert: &Alert) -> bool {
    let key_pair = alert.key_pair.map(|key_pair| key_pair.to_string());
    let is_expiry = matches!(alert.kind, Kind::Expires | Kind::PartnerExpires | Kind::AnchorExpires);
    is_expiry && !alert.urgent && acknowledged.iter().any(|one| Some(&one.key_pair) == key_pair.as_ref())
}

fn notice(alert: &Alert, sink: &str, recipient: Option<String>) -> Notice {
    Notice {
        alert: alert.name.to_string(),
        sink: sink.to_owned(),
        kind: alert.kind.as_str(),
        keyring: alert.keyring.to_string(),
        key_pair: alert.key_pair.map(|key_pair| key_pair.to_string()),
        urgent: alert.urgent,
        recipient,
        summary: alert.explanation.clone(),
        remedy: alert.remedy.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(pause(0), PAUSE);
        assert_eq!(pause(3), PAUSE * 8);
        assert_eq!(pause(63), LONGEST_PAUSE);
        assert!(pause(-1) >= PAUSE);
    }
}
