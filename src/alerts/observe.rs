//! The first of three steps: what happened, for the alerts. Folds Events into conditions and peers seen, and reads the
//! registry's peers once a minute.
//!
//! Events are collected whatever the database does. The next step takes what was collected; nothing comes back here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::conditions::AlertConditions;
use super::connection::{RegistryConnection, log_wait, with_timeout};
use super::{MAX_PEERS, ROUND_INTERVAL, TICK_INTERVAL};
use crate::clock::Clock;
use crate::event::{Event, EventFollower, HandshakeRecord};
use crate::pki::Fingerprint;
use crate::registry::task::CurrentStore;
use crate::registry::{PeerRow, peer_row};
use crate::snapshot::Side;

/// What was collected, between this step and the next.
#[derive(Default)]
pub(super) struct AlertObservations(Mutex<CollectedChanges>);

#[derive(Default)]
struct CollectedChanges {
    conditions: AlertConditions,
    seen: BTreeMap<(Side, Arc<str>, Fingerprint), PeerRow>,
    read: Option<Vec<PeerRow>>,
    registry: Option<RegistryConnection>,
    changed: bool,
}

/// What one round starts from.
pub(super) struct AlertObservation {
    /// Conditions known from Events.
    pub(super) conditions: AlertConditions,
    /// Peers and upstreams seen since the last round.
    pub(super) seen: Vec<PeerRow>,
    /// The registry's peers, if they were read since the last round.
    pub(super) read: Option<Vec<PeerRow>>,
    /// The registry, once its peers were read.
    pub(super) registry: Option<RegistryConnection>,
}

impl AlertObservations {
    /// Whether something has changed that may affect the alerts.
    pub(super) fn has_changed(&self) -> bool {
        self.lock().changed
    }

    /// What has happened until now; peers are handed over once.
    pub(super) fn take_observation(&self) -> AlertObservation {
        let mut collected = self.lock();
        collected.changed = false;
        AlertObservation {
            conditions: collected.conditions.clone(),
            seen: std::mem::take(&mut collected.seen).into_values().collect(),
            read: collected.read.take(),
            registry: collected.registry.clone(),
        }
    }

    fn record_event(&self, event: &Event, now: Timestamp) {
        let mut collected = self.lock();
        match event {
            Event::Handshake(handshake) if handshake.is_failure() => {}
            Event::Handshake(handshake) => collected.record_peer(handshake),
            event => collected.changed |= collected.conditions.record_event(event, now),
        }
    }

    /// The registry is gone: without it nothing can be delivered.
    fn lose_registry(&self) {
        let mut collected = self.lock();
        (collected.registry, collected.changed) = (None, true);
    }

    fn set_peers(&self, registry: RegistryConnection, peers: Vec<PeerRow>) {
        let mut collected = self.lock();
        (collected.registry, collected.read, collected.changed) = (Some(registry), Some(peers), true);
    }

    /// A panic elsewhere leaves it consistent.
    fn lock(&self) -> MutexGuard<'_, CollectedChanges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CollectedChanges {
    fn record_peer(&mut self, handshake: &HandshakeRecord) {
        // Without a certificate the peer is unknown.
        let Some(facts) = &handshake.peer else { return };
        let key = (handshake.side, Arc::clone(&handshake.listener), facts.fingerprint);
        if self.seen.len() < MAX_PEERS || self.seen.contains_key(&key) {
            self.seen.insert(key, peer_row(handshake, facts, "", false));
        }
    }
}

/// Collects Events, and the registry's peers, for as long as the process runs.
pub(super) async fn observe_changes(
    observations: &AlertObservations,
    follower: EventFollower,
    registry: CurrentStore,
    clock: Clock,
) {
    tokio::join!(collect_events(observations, follower), read_peers(observations, registry, clock));
}

async fn collect_events(observations: &AlertObservations, mut follower: EventFollower) {
    while let Some(event) = follower.next().await {
        observations.record_event(&event, follower.now());
    }
}

async fn read_peers(observations: &AlertObservations, mut registry: CurrentStore, clock: Clock) {
    let mut tick = tokio::time::interval(TICK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut number, mut is_opened, mut read) = (0, true, None::<Timestamp>);
    loop {
        tokio::select! {
            changed = registry.changed(), if is_opened => {
                // The registry reconnected, perhaps to another database: its peers have to be read first, until then
                // alerts about them would seem no longer due.
                (number, is_opened, read) = (number + 1, changed.is_ok(), None);
                observations.lose_registry();
            }
            _ = tick.tick() => {}
        }
        let Some(store) = registry.borrow().clone() else { continue };
        let now = clock.now();
        if read.is_some_and(|read| now.duration_since(read).unsigned_abs() < ROUND_INTERVAL) {
            continue;
        }
        read = Some(now);
        match with_timeout(&store, store.peers()).await {
            Ok(peers) => observations.set_peers(RegistryConnection { number, store }, peers),
            Err(error) => log_wait(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::handshake::tests::accepted;

    #[test]
    fn fifty_thousand_peers_are_collected_up_to_the_limit_until_a_round_takes_them() {
        let observations = AlertObservations::default();
        for number in 0..50_000_u32 {
            let mut handshake = accepted();
            handshake.peer.as_mut().unwrap().fingerprint = Fingerprint::of(&number.to_be_bytes());
            observations.record_event(&Event::Handshake(Arc::new(handshake)), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(observations.take_observation().seen.len(), MAX_PEERS);
        assert!(observations.take_observation().seen.is_empty(), "they are handed over once");
    }
}
