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

use super::deliver::Delivering;
use super::{Alert, Happened, Records, Settings, due};
use crate::clock::Clock;
use crate::event::{Event, Events, Follower};
use crate::metrics::Metrics;
use crate::process::{Phase, Shutdown};
use crate::registry::Peer;
use crate::registry::backlog::Backlog;
use crate::registry::task::Current;
use crate::snapshot::Reader;

/// How often the clock is checked.
const TICK: Duration = Duration::from_millis(500);
/// How often the alerts are evaluated although nothing happened.
pub(super) const ROUND: Duration = Duration::from_mins(1);
/// Maximum number of peers kept in memory.
const PEERS: usize = 20_000;

/// The task's inputs.
pub struct Parts {
    /// The sinks; they may change while the task runs.
    pub settings: watch::Receiver<Settings>,
    /// The snapshots.
    pub reader: Reader,
    /// The Events.
    pub follower: Follower,
    /// Where alerts are emitted.
    pub events: Arc<Events>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// The registry while it is connected.
    pub registry: Current,
    /// The shutdown of the process.
    pub shutdown: Shutdown,
}

/// Runs until shutdown. A delivery in progress is completed and recorded as sent: else a restart would send it again.
pub async fn run(parts: Parts) {
    let instance = Arc::<str>::from("");
    let fold = Fold { happened: Happened::default(), seen: Backlog::new(instance), read: None, dirty: true };
    let fold = Mutex::new(fold);
    let (is_due, due) = watch::channel(Vec::new());
    let telling = Telling {
        reader: parts.reader,
        events: Arc::clone(&parts.events),
        metrics: parts.metrics,
        clock: parts.clock.clone(),
        shutdown: parts.shutdown.clone(),
        peers: BTreeMap::new(),
        logged: HashSet::new(),
        is_due,
    };
    let delivering = Delivering::new(parts.settings, parts.registry, due, parts.events, parts.clock, parts.shutdown);
    let taking = async {
        take(&fold, parts.follower).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = taking => {}
        ((), ()) = async { tokio::join!(telling.run(&fold), delivering.run(&fold)) } => {}
    }
}

/// What was collected since the last evaluation.
pub(super) struct Fold {
    happened: Happened,
    /// Peers seen since the last round.
    seen: Backlog,
    /// The registry's peers, if they were read since the last round.
    read: Option<Vec<Peer>>,
    dirty: bool,
}

impl Fold {
    /// Sets the registry's peers; the alerts are then evaluated again.
    pub(super) fn read(&mut self, peers: Vec<Peer>) {
        (self.read, self.dirty) = (Some(peers), true);
    }
}

/// A panic elsewhere leaves it consistent.
pub(super) fn lock(fold: &Mutex<Fold>) -> MutexGuard<'_, Fold> {
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
    reader: Reader,
    events: Arc<Events>,
    metrics: Arc<Metrics>,
    clock: Clock,
    shutdown: Shutdown,
    /// Peers by side, listener and certificate: those of the registry, and those seen since.
    peers: BTreeMap<(String, String, String), Peer>,
    /// Alerts already logged here.
    logged: HashSet<Arc<str>>,
    /// The due alerts, for `deliver`: sent each round, even if unchanged.
    is_due: watch::Sender<Vec<Alert>>,
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
            }
            let now = self.clock.now();
            let is_time = last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= ROUND);
            if is_time || std::mem::take(&mut lock(fold).dirty) {
                last = Some(now);
                self.round(fold, now);
            }
        }
    }

    /// Evaluates the due alerts and reports the new ones.
    fn round(&mut self, fold: &Mutex<Fold>, now: Timestamp) {
        let (happened, seen, read) = {
            let mut fold = lock(fold);
            fold.dirty = false;
            fold.happened.tick(now);
            (fold.happened.clone(), fold.seen.batch().peers, fold.read.take())
        };
        if let Some(read) = read {
            self.peers.clear();
            self.meet(read);
        }
        self.meet(seen);
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
        self.is_due.send_replace(alerts);
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

    /// Logs and counts the alerts: on every instance, whatever the registry holds.
    fn tell(&mut self, alerts: &[Alert]) {
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
        self.metrics.alerts_active(&active);
        self.logged.retain(|name| alerts.iter().any(|alert| alert.name == *name));
    }
}
