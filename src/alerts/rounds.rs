//! The second step, in rounds: evaluates the due alerts (`due`), and reports them in log and metrics at once, on every
//! instance, with or without a database.
//!
//! It never waits for a database: what is due goes on to `deliver` as the latest value.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use super::deliver::DueAlerts;
use super::due::{AlertInputs, due_alerts};
use super::observe::{AlertObservation, AlertObservations};
use super::{Alert, MAX_PEERS, ROUND_INTERVAL, TICK_INTERVAL};
use crate::clock::Clock;
use crate::event::{AlertRecord, Event, EventBus};
use crate::metrics::Metrics;
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::registry::PeerRow;
use crate::snapshot::{Reader, Snapshot};

/// Evaluates the alerts in rounds.
pub(super) struct AlertEvaluator {
    reader: Reader,
    events: Arc<EventBus>,
    metrics: Arc<Metrics>,
    clock: Clock,
    /// Peers by side, listener and certificate: those of the registry, and those seen since.
    peers: BTreeMap<(String, String, String), PeerRow>,
    /// Alerts already logged here.
    logged: HashSet<Arc<str>>,
    /// The due alerts, for the next step: sent each round, even if unchanged.
    is_due: watch::Sender<DueAlerts>,
}

impl AlertEvaluator {
    /// A first round begins at once.
    pub(super) fn new(
        reader: Reader,
        events: Arc<EventBus>,
        metrics: Arc<Metrics>,
        clock: Clock,
        is_due: watch::Sender<DueAlerts>,
    ) -> Self {
        Self { reader, events, metrics, clock, peers: BTreeMap::new(), logged: HashSet::new(), is_due }
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self, observations: &AlertObservations, mut shutdown: ShutdownWatch) {
        let mut tick = tokio::time::interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last: Option<Timestamp> = None;
        loop {
            tokio::select! {
                () = shutdown.wait_for_phase(ShutdownPhase::Over) => return,
                _ = tick.tick() => {}
            }
            let now = self.clock.now();
            let is_time = last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= ROUND_INTERVAL);
            if is_time || observations.has_changed() {
                last = Some(now);
                self.evaluate_round(observations.take_observation(), now);
            }
        }
    }

    /// Evaluates the due alerts and reports the new ones.
    fn evaluate_round(&mut self, observation: AlertObservation, now: Timestamp) {
        let AlertObservation { conditions, seen, read, registry } = observation;
        if let Some(read) = read {
            self.peers.clear();
            self.merge_peers(read);
        }
        self.merge_peers(seen);
        let snapshot = self.reader.latest();
        let peers: Vec<PeerRow> = self.peers.values().cloned().collect();
        let records = AlertInputs {
            keyrings: &snapshot.keyrings,
            trusts: &snapshot.trusts,
            peers: &peers,
            conditions: &conditions,
            contacts: &snapshot.contacts(),
        };
        let alerts = due_alerts(&records, now);
        self.report_alerts(&alerts);
        self.is_due.send_replace(DueAlerts { alerts, owners: owners(&snapshot), registry });
    }

    fn merge_peers(&mut self, peers: Vec<PeerRow>) {
        for peer in peers {
            let key = (peer.side.clone(), peer.listener.clone(), peer.certificate.clone());
            let newer = self.peers.get(&key).is_none_or(|known| known.last_seen <= peer.last_seen);
            if newer && (self.peers.len() < MAX_PEERS || self.peers.contains_key(&key)) {
                self.peers.insert(key, peer);
            }
        }
    }

    /// Logs and counts the alerts: on every instance, whatever the registry holds.
    fn report_alerts(&mut self, alerts: &[Alert]) {
        let mut active: BTreeMap<(&'static str, String), i64> = BTreeMap::new();
        for alert in alerts {
            for keyring in std::iter::once(&alert.keyring).chain(&alert.also) {
                *active.entry((alert.kind.as_str(), keyring.to_string())).or_default() += 1;
            }
            if self.logged.insert(Arc::clone(&alert.name)) {
                self.events.emit(Event::Alert(alert_record(alert)));
            }
        }
        self.events.set_active_alerts(alerts.iter().map(alert_record).collect());
        self.metrics.set_active_alerts(&active);
        self.logged.retain(|name| alerts.iter().any(|alert| alert.name == *name));
    }
}

/// The owners of keyrings, and of trusts through the keyrings that use them.
fn owners(snapshot: &Snapshot) -> BTreeMap<Arc<str>, String> {
    let owner = |name: &Arc<str>| snapshot.keyrings.iter().find(|view| view.name == *name)?.owner.clone();
    let keyrings = snapshot.keyrings.iter().map(|view| (&view.name, owner(&view.name)));
    let trusts = snapshot.trusts.iter().map(|view| (&view.holds.name, view.used_by.iter().find_map(owner)));
    trusts.chain(keyrings).filter_map(|(name, owner)| Some((Arc::clone(name), owner?))).collect()
}

fn alert_record(alert: &Alert) -> AlertRecord {
    AlertRecord {
        alert: Arc::clone(&alert.name),
        kind: alert.kind.as_str(),
        urgent: alert.urgent,
        keyring: Arc::clone(&alert.keyring),
        key_pair: alert.key_pair,
        contact: (!alert.contacts.is_empty()).then(|| alert.contacts.join(", ")),
        explanation: alert.explanation.clone(),
        remedy: alert.remedy.clone(),
    }
}
