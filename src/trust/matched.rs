//! Which anchor and pin last verified each peer: answers "which peers would fail if I removed this one".
//!
//! Facts about live handshakes, so they are carried across epochs and not part of any; one small mutex, taken once for a
//! verified handshake. Bounded: the peers seen longest ago go first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::verdict::Verified;
use crate::pki::{Fingerprint, SpkiHash};

/// Peers of one trust.
const MAX_PEERS: usize = 1024;
/// Of those, how many survive a restart.
const MAX_PERSISTED_PEERS: usize = 128;
/// Characters of an identity.
const MAX_IDENTITY_CHARS: usize = 200;

/// Which anchor and pin last verified a peer, and when.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastVerification {
    /// The anchor; `None` in `pin_only`.
    pub anchor: Option<Fingerprint>,
    /// The pin, where the trust has some.
    pub pin: Option<SpkiHash>,
    /// When it was last verified.
    pub last: Timestamp,
}

/// What survives a restart: peers by identity, and when each anchor and pin last verified a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UsageFacts {
    /// Peers by identity, each with its last verification.
    pub peers: BTreeMap<String, LastVerification>,
    /// When an anchor last verified a peer.
    pub anchors: BTreeMap<Fingerprint, Timestamp>,
    /// When a pin was last on a verified path.
    pub pins: BTreeMap<SpkiHash, Timestamp>,
}

impl UsageFacts {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.anchors.is_empty() && self.pins.is_empty()
    }

    /// The peers that would not be verified without this anchor, as far as is known: those that it verified last, and
    /// when.
    pub fn peers_needing_anchor(&self, anchor: Fingerprint) -> Vec<(&str, Timestamp)> {
        self.peers_matching(|vouched| vouched.anchor == Some(anchor))
    }

    /// The same peers for a pin.
    pub fn peers_needing_pin(&self, pin: SpkiHash) -> Vec<(&str, Timestamp)> {
        self.peers_matching(|vouched| vouched.pin == Some(pin))
    }

    fn peers_matching(&self, is: impl Fn(&LastVerification) -> bool) -> Vec<(&str, Timestamp)> {
        let of = self.peers.iter().filter(|(_, vouched)| is(vouched));
        of.map(|(identity, vouched)| (identity.as_str(), vouched.last)).collect()
    }

    fn record(&mut self, identity: &str, vouched: LastVerification) {
        if let Some(anchor) = vouched.anchor {
            self.anchors.insert(anchor, vouched.last);
        }
        if let Some(pin) = vouched.pin {
            self.pins.insert(pin, vouched.last);
        }
        let end = identity.char_indices().nth(MAX_IDENTITY_CHARS).map_or(identity.len(), |(end, _)| end);
        let identity = &identity[..end];
        if let Some(known) = self.peers.get_mut(identity) {
            *known = vouched;
            return;
        }
        self.evict_oldest(MAX_PEERS - 1);
        self.peers.insert(identity.to_owned(), vouched);
    }

    fn evict_oldest(&mut self, most: usize) {
        while self.peers.len() > most {
            let oldest =
                self.peers.iter().min_by_key(|(_, vouched)| vouched.last).map(|(identity, _)| identity.clone());
            let Some(oldest) = oldest else { return };
            self.peers.remove(&oldest);
        }
    }
}

/// The live facts of one trust, shared by its epochs.
#[derive(Debug, Default)]
pub struct UsageTracker(Mutex<UsageFacts>);

impl UsageTracker {
    pub(super) fn from_facts(facts: UsageFacts) -> Self {
        Self(Mutex::new(facts))
    }

    pub(super) fn record(&self, verified: &Verified, identity: &str, now: Timestamp) {
        let anchor = verified.anchor.as_ref().map(|(fingerprint, _)| *fingerprint);
        self.lock().record(identity, LastVerification { anchor, pin: verified.pin, last: now });
    }

    /// All of them.
    pub fn facts(&self) -> UsageFacts {
        self.lock().clone()
    }

    /// What survives a restart: only the anchors and pins that are still accepted.
    pub(super) fn persistable_facts(
        &self,
        anchor: impl Fn(&Fingerprint) -> bool,
        pin: impl Fn(&SpkiHash) -> bool,
    ) -> UsageFacts {
        let mut facts = self.facts();
        facts.anchors.retain(|fingerprint, _| anchor(fingerprint));
        facts.pins.retain(|spki, _| pin(spki));
        facts.evict_oldest(MAX_PERSISTED_PEERS);
        facts
    }

    /// Nothing here is left half-done by a panic, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, UsageFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timestamp(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn verified_by(anchor: &[u8], last: i64) -> LastVerification {
        LastVerification { anchor: Some(Fingerprint::of(anchor)), pin: None, last: timestamp(last) }
    }

    #[test]
    fn a_peer_counts_for_the_anchor_that_vouched_for_it_last() {
        let mut facts = UsageFacts::default();
        facts.record("dns:a", verified_by(b"old", 1));
        facts.record("dns:b", verified_by(b"old", 2));
        facts.record("dns:a", verified_by(b"new", 3));
        assert_eq!(facts.peers_needing_anchor(Fingerprint::of(b"old")), [("dns:b", timestamp(2))]);
        assert_eq!(facts.peers_needing_anchor(Fingerprint::of(b"new")), [("dns:a", timestamp(3))]);
        assert_eq!(facts.anchors[&Fingerprint::of(b"old")], timestamp(2));
    }

    #[test]
    fn the_peer_seen_longest_ago_makes_room() {
        let mut facts = UsageFacts::default();
        for number in 0..i64::try_from(MAX_PEERS).unwrap() + 10 {
            facts.record(&format!("dns:{number}"), verified_by(b"ca", number));
        }
        assert_eq!(facts.peers.len(), MAX_PEERS);
        assert!(!facts.peers.contains_key("dns:9") && facts.peers.contains_key("dns:10"));
        facts.record(&"x".repeat(1000), verified_by(b"ca", 5000));
        assert!(facts.peers.contains_key(&"x".repeat(MAX_IDENTITY_CHARS)));
    }
}
