//! Tells alerts: line and metric at once, on every instance, with or without a database; and runs beside it what `deliver`
//! does with the registry.
//!
//! Three halves in one future, as in the registry's: one takes Events and never waits, one works out what is due and tells
//! it, and never waits for a database either; the third delivers. What they share is small: what was heard, what the
//! registry says of peers, what is due.

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

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How often everything is worked out anew although nothing happened.
pub(super) const ROUND: Duration = Duration::from_mins(1);
/// Peers that are remembered here, beside those of the registry.
const PEERS: usize = 20_000;

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

/// What was heard and not yet worked out.
pub(super) struct Fold {
    happened: Happened,
    /// Who was seen since the last round.
    seen: Backlog,
    /// Whom the registry knows, where it was asked since the last round.
    read: Option<Vec<Peer>>,
    dirty: bool,
}

impl Fold {
    /// The registry says whom it knows: what is due is to be worked out anew.
    pub(super) fn read(&mut self, peers: Vec<Peer>) {
        (self.read, self.dirty) = (Some(peers), true);
    }
}

/// A panic elsewhere leaves it whole.
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
    /// Alerts that were told here.
    logged: HashSet<Arc<str>>,
    /// What is due, for `deliver`: each round is news, also where it says the same.
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

    /// Works out what is due, tells what is new.
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

    /// Line and metric: on every instance, whatever the registry says.
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
