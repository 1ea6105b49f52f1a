//! Reports alerts: in log and metrics at once, on every instance, with or without a database; and runs the delivery
//! through the registry (`deliver`) beside it.
//!
//! Three parts in one future, as in the registry's task: one collects Events and never waits, one evaluates the alerts
//! and reports them, and never waits for a database either; the third delivers. They share the collected Events, the
//! registry's peers and the due alerts.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::deliver::AlertDeliveryTask;
use super::{Alert, AlertConditions, AlertInputs, AlertSettings, due_alerts};
use crate::clock::Clock;
use crate::event::{Event, EventBus, EventFollower};
use crate::metrics::Metrics;
use crate::process::{ShutdownPhase, ShutdownWatch};
use crate::registry::PeerRow;
use crate::registry::backlog::RegistryBacklog;
use crate::registry::task::CurrentStore;
use crate::snapshot::Reader;

/// How often the clock is checked.
const TICK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the alerts are evaluated although nothing happened.
pub(super) const ROUND_INTERVAL: Duration = Duration::from_mins(1);
/// Maximum number of peers kept in memory.
const MAX_PEERS: usize = 20_000;

/// The task's inputs.
pub struct AlertTaskParts {
    /// The sinks; they may change while the task runs.
    pub settings: watch::Receiver<AlertSettings>,
    /// The snapshots.
    pub reader: Reader,
    /// The Events.
    pub follower: EventFollower,
    /// Where alerts are emitted.
    pub events: Arc<EventBus>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The registry while it is connected.
    pub registry: CurrentStore,
    /// The shutdown of the process.
    pub shutdown: ShutdownWatch,
}

/// Runs until shutdown. A delivery in progress is completed and recorded as sent: else a restart would send it again.
pub async fn run(parts: AlertTaskParts) {
    let instance = Arc::<str>::from("");
    let fold = PendingChanges {
        happened: AlertConditions::default(),
        seen: RegistryBacklog::new(instance),
        read: None,
        dirty: true,
    };
    let fold = Mutex::new(fold);
    let (is_due, due) = watch::channel(Vec::new());
    let telling = AlertEvaluator {
        reader: parts.reader,
        events: Arc::clone(&parts.events),
        metrics: parts.metrics,
        clock: parts.clock.clone(),
        shutdown: parts.shutdown.clone(),
        peers: BTreeMap::new(),
        logged: HashSet::new(),
        is_due,
    };
    let delivering =
        AlertDeliveryTask::new(parts.settings, parts.registry, due, parts.events, parts.clock, parts.shutdown);
    let taking = async {
        collect_events(&fold, parts.follower).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        ((), ()) = async { tokio::join!(telling.run(&fold), delivering.run(&fold)) } => {}
    }
}

/// What was collected since the last evaluation.
pub(super) struct PendingChanges {
    happened: AlertConditions,
    /// Peers seen since the last round.
    seen: RegistryBacklog,
    /// The registry's peers, if they were read since the last round.
    read: Option<Vec<PeerRow>>,
    dirty: bool,
}

impl PendingChanges {
    /// Sets the registry's peers; the alerts are then evaluated again.
    pub(super) fn set_peers(&mut self, peers: Vec<PeerRow>) {
        (self.read, self.dirty) = (Some(peers), true);
    }
}

/// A panic elsewhere leaves it consistent.
pub(super) fn lock(fold: &Mutex<PendingChanges>) -> MutexGuard<'_, PendingChanges> {
    fold.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn collect_events(fold: &Mutex<PendingChanges>, mut follower: EventFollower) {
    while let Some(event) = follower.next().await {
        let mut fold = lock(fold);
        if let Event::Handshake(handshake) = &event {
            if !handshake.is_failure() {
                fold.seen.record_event(&event, handshake.time);
            }
            continue;
        }
        let now = follower.now();
        fold.dirty |= fold.happened.record_event(&event, now);
    }
}

struct AlertEvaluator {
    reader: Reader,
    events: Arc<EventBus>,
    metrics: Arc<Metrics>,
    clock: Clock,
    shutdown: ShutdownWatch,
    /// Peers by side, listener and certificate: those of the registry, and those seen since.
    peers: BTreeMap<(String, String, String), PeerRow>,
    /// Alerts already logged here.
    logged: HashSet<Arc<str>>,
    /// The due alerts, for `deliver`: sent each round, even if unchanged.
    is_due: watch::Sender<Vec<Alert>>,
}

impl AlertEvaluator {
    async fn run(mut self, fold: &Mutex<PendingChanges>) {
        let mut tick = tokio::time::interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut last: Option<Timestamp> = None;
        let mut shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.wait_for_phase(ShutdownPhase::Over) => return,
                _ = tick.tick() => {}
            }
            let now = self.clock.now();
            let is_time = last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= ROUND_INTERVAL);
            if is_time || std::mem::take(&mut lock(fold).dirty) {
                last = Some(now);
                self.evaluate_round(fold, now);
            }
        }
    }

    /// Evaluates the due alerts and reports the new ones.
    fn evaluate_round(&mut self, fold: &Mutex<PendingChanges>, now: Timestamp) {
        let (happened, seen, read) = {
            let mut fold = lock(fold);
            fold.dirty = false;
            fold.happened.expire_drops(now);
            (fold.happened.clone(), fold.seen.take_batch().peers, fold.read.take())
        };
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
            happened: &happened,
            contacts: &snapshot.contacts(),
        };
        let alerts = due_alerts(&records, now);
        self.report_alerts(&alerts);
        self.is_due.send_replace(alerts);
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
                self.events.emit(Event::Alert {
                    alert: Arc::clone(&alert.name),
                    kind: alert.kind.as_str(),
                    urgent: alert.urgent,
                    keyring: Arc::clone(&alert.keyring),
                    key_pair: alert.key_pair,
                    contact: (!alert.contacts.is_empty()).then(|| alert.contacts.join(", ")),
                    explanation: alert.explanation.clone(),
                    remedy: alert.remedy.clone(),
                });
            }
        }
        self.metrics.set_active_alerts(&active);
        self.logged.retain(|name| alerts.iter().any(|alert| alert.name == *name));
    }
}
