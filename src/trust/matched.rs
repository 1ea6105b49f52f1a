//! Which anchor and pin last verified each peer: answers "which peers would fail if I removed this one".
//!
//! Facts about live handshakes, so they are carried across epochs and not part of any; one small mutex, taken once for a
//! verified handshake. Bounded: the peers seen longest ago go first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::verify::{Trust, Verified};
use super::{AnchorSource, TrustName};
use crate::pki::{Fingerprint, SpkiHash};

/// Peers of one trust.
const PEERS: usize = 1024;
/// Of those, how many survive a restart.
const REMEMBERED: usize = 128;
/// Characters of an identity.
const LONGEST: usize = 200;

/// Which anchor and pin last verified a peer, and when.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Vouched {
    /// The anchor; `None` in `pin_only`.
    pub anchor: Option<Fingerprint>,
    /// The pin, where the trust has some.
    pub pin: Option<SpkiHash>,
    /// When it was last verified.
    pub last: Timestamp,
}

/// What survives a restart: peers by identity, and when each anchor and pin last verified a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// Peers by identity, each with its last verification.
    pub peers: BTreeMap<String, Vouched>,
    /// When an anchor last verified a peer.
    pub anchors: BTreeMap<Fingerprint, Timestamp>,
    /// When a pin was last on a verified path.
    pub pins: BTreeMap<SpkiHash, Timestamp>,
}

impl Facts {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.anchors.is_empty() && self.pins.is_empty()
    }

    /// The peers that would not be verified without this anchor, as far as is known: those that it verified last, and
    /// when.
    pub fn without_anchor(&self, anchor: Fingerprint) -> Vec<(&str, Timestamp)> {
        self.peers_of(|vouched| vouched.anchor == Some(anchor))
    }

    /// The same peers for a pin.
    pub fn without_pin(&self, pin: SpkiHash) -> Vec<(&str, Timestamp)> {
        self.peers_of(|vouched| vouched.pin == Some(pin))
    }

    fn peers_of(&self, is: impl Fn(&Vouched) -> bool) -> Vec<(&str, Timestamp)> {
        let of = self.peers.iter().filter(|(_, vouched)| is(vouched));
        of.map(|(identity, vouched)| (identity.as_str(), vouched.last)).collect()
    }

    fn note(&mut self, identity: &str, vouched: Vouched) {
        if let Some(anchor) = vouched.anchor {
            self.anchors.insert(anchor, vouched.last);
        }
        if let Some(pin) = vouched.pin {
            self.pins.insert(pin, vouched.last);
        }
        let end = identity.char_indices().nth(LONGEST).map_or(identity.len(), |(end, _)| end);
        let identity = &identity[..end];
        if let Some(known) = self.peers.get_mut(identity) {
            *known = vouched;
            return;
        }
        self.bound(PEERS - 1);
        self.peers.insert(identity.to_owned(), vouched);
    }

    fn bound(&mut self, most: usize) {
        while self.peers.len() > most {
            let oldest =
                self.peers.iter().min_by_key(|(_, vouched)| vouched.last).map(|(identity, _)| identity.clone());
            let Some(oldest) = oldest else { return };
            self.peers.remove(&oldest);
        }
    }
}

/// Which peers would fail without which anchor or pin of one trust.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Vouchers {
    /// The trust.
    pub trust: TrustName,
    /// Its anchors and pins.
    pub vouchers: Vec<Voucher>,
}

/// An anchor or a pin, and the peers that it verified.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Voucher {
    /// The anchor's fingerprint, or the pin.
    pub id: String,
    /// The anchor's subject, printable; `pin` for a pin.
    pub subject: String,
    /// Until when it is accepted, if not for ever: `until`, or the end of its overlap.
    pub until: Option<Timestamp>,
    /// When it last verified a peer, as far as is known.
    pub last_matched: Option<Timestamp>,
    /// The peers and upstreams that it verified last: they would no longer be verified without it.
    pub would_break: Vec<String>,
}

impl Vouchers {
    /// Answers "which peers would fail if I removed this one" for everything that this trust holds. Of the platform's
    /// anchors only those that have ever verified a peer.
    pub fn of(trust: &Trust, facts: &Facts) -> Self {
        let names = |peers: Vec<(&str, Timestamp)>| peers.into_iter().map(|(peer, _)| peer.to_owned()).collect();
        let view = trust.view();
        let anchors = view.anchors.iter().map(|anchor| Voucher {
            id: anchor.anchor.to_string(),
            subject: anchor.subject.clone(),
            until: anchor.until,
            last_matched: facts.anchors.get(&anchor.anchor).copied(),
            would_break: names(facts.without_anchor(anchor.anchor)),
        });
        let pins = view.pins.iter().map(|pin| Voucher {
            id: pin.spki.to_string(),
            subject: "pin".to_owned(),
            until: pin.until,
            last_matched: facts.pins.get(&pin.spki).copied(),
            would_break: names(facts.without_pin(pin.spki)),
        });
        let is_platform = trust.settings().anchors.contains(&AnchorSource::System);
        let is_of_use = |voucher: &Voucher| !is_platform || voucher.last_matched.is_some();
        Self { trust: view.name.clone(), vouchers: anchors.chain(pins).filter(is_of_use).collect() }
    }
}

/// The live facts of one trust, shared by its epochs.
#[derive(Debug, Default)]
pub struct Matched(Mutex<Facts>);

impl Matched {
    pub(super) fn of(facts: Facts) -> Self {
        Self(Mutex::new(facts))
    }

    pub(super) fn note(&self, verified: &Verified, identity: &str, now: Timestamp) {
        let anchor = verified.anchor.as_ref().map(|(fingerprint, _)| *fingerprint);
        self.lock().note(identity, Vouched { anchor, pin: verified.pin, last: now });
    }

    /// All of them.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// What survives a restart: only the anchors and pins that are still accepted.
    pub(super) fn remembered(&self, anchor: impl Fn(&Fingerprint) -> bool, pin: impl Fn(&SpkiHash) -> bool) -> Facts {
        let mut facts = self.facts();
        facts.anchors.retain(|fingerprint, _| anchor(fingerprint));
        facts.pins.retain(|spki, _| pin(spki));
        facts.bound(REMEMBERED);
        facts
    }

    /// Nothing here is left half-done by a panic, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn by(anchor: &[u8], last: i64) -> Vouched {
        Vouched { anchor: Some(Fingerprint::of(anchor)), pin: None, last: at(last) }
    }

    #[test]
    fn a_peer_counts_for_the_anchor_that_vouched_for_it_last() {
        let mut facts = Facts::default();
        facts.note("dns:a", by(b"old", 1));
        facts.note("dns:b", by(b"old", 2));
        facts.note("dns:a", by(b"new", 3));
        assert_eq!(facts.without_anchor(Fingerprint::of(b"old")), [("dns:b", at(2))]);
        assert_eq!(facts.without_anchor(Fingerprint::of(b"new")), [("dns:a", at(3))]);
        assert_eq!(facts.anchors[&Fingerprint::of(b"old")], at(2));
    }

    #[test]
    fn who_was_seen_longest_ago_makes_room() {
        let mut facts = Facts::default();
        for number in 0..i64::try_from(PEERS).unwrap() + 10 {
            facts.note(&format!("dns:{number}"), by(b"ca", number));
        }
        assert_eq!(facts.peers.len(), PEERS);
        assert!(!facts.peers.contains_key("dns:9") && facts.peers.contains_key("dns:10"));
        facts.note(&"x".repeat(1000), by(b"ca", 5000));
        assert!(facts.peers.contains_key(&"x".repeat(LONGEST)));
    }
}
