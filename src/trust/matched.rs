//! Which anchor and pin last verified each peer: answers "which peers would fail if I removed this one".
//!
//! Facts about live handshakes, so they are carried across epochs and not part of any; one small mutex, taken once for a
//! verified handshake. Bounded: the peers seen longest ago go first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::verdict::Verified;
use crate::pki::{Fingerprint, SpkiHash};

/// Peers of one trust.
const MAX_PEERS: usize = 1024;
/// How many of them make room at once: finding the oldest visits all, which a crowd of more peers must not cost at each handshake.
const EVICTED_PEERS: usize = 64;
/// Certificates of one peer: hosts that share an identity.
const MAX_CERTIFICATES: usize = 16;
/// How long after its last use a certificate of a peer matters that has come with another one since.
const CERTIFICATE_WINDOW: SignedDuration = SignedDuration::from_hours(35 * 24);
/// Characters of an identity.
const MAX_IDENTITY_CHARS: usize = 200;
/// Peers that are copied at once: a handshake waits for so many at most, also where a thread of lower priority copies.
const COPIED_AT_ONCE: usize = 32;

/// Which anchor and pin last verified a certificate of a peer, and when.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LastVerification {
    /// The certificate; `None`: an earlier version did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Fingerprint>,
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
    /// Peers by identity, each with the last verification of each of its certificates.
    #[serde(deserialize_with = "read_peers")]
    pub peers: BTreeMap<String, Vec<LastVerification>>,
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

    /// The peers that would not be verified without this anchor, as far as is known: those of which it verified a
    /// certificate last, and when. Several hosts may share an identity, each with a certificate of its own.
    pub fn peers_needing_anchor(&self, anchor: Fingerprint) -> Vec<(&str, Timestamp)> {
        self.peers_matching(|vouched| vouched.anchor == Some(anchor))
    }

    /// The same peers for a pin.
    pub fn peers_needing_pin(&self, pin: SpkiHash) -> Vec<(&str, Timestamp)> {
        self.peers_matching(|vouched| vouched.pin == Some(pin))
    }

    fn peers_matching(&self, is: impl Fn(&LastVerification) -> bool) -> Vec<(&str, Timestamp)> {
        let last = |all: &Vec<LastVerification>| all.iter().filter(|one| is(one)).map(|one| one.last).max();
        self.peers.iter().filter_map(|(identity, all)| Some((identity.as_str(), last(all)?))).collect()
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
        if !self.peers.contains_key(identity) && self.peers.len() >= MAX_PEERS {
            self.evict_oldest(EVICTED_PEERS);
        }
        let all = self.peers.entry(identity.to_owned()).or_default();
        // A certificate that another root verifies now no longer needs the former one.
        let is_recent = |last: Timestamp| vouched.last.duration_since(last) <= CERTIFICATE_WINDOW;
        all.retain(|known| {
            known.certificate.is_some() && known.certificate != vouched.certificate && is_recent(known.last)
        });
        if all.len() == MAX_CERTIFICATES
            && let Some((oldest, _)) = all.iter().enumerate().min_by_key(|(_, one)| one.last)
        {
            all.remove(oldest);
        }
        all.push(vouched);
    }

    /// Forgets that many peers of the more that there are, those seen longest ago.
    fn evict_oldest(&mut self, mut count: usize) {
        let last = |all: &Vec<LastVerification>| all.iter().map(|one| one.last).max();
        let mut times: Vec<_> = self.peers.values().map(last).collect();
        let (older, newest_evicted, _) = times.select_nth_unstable(count - 1);
        let newest_evicted = *newest_evicted;
        count -= older.iter().filter(|time| **time < newest_evicted).count();
        self.peers.retain(|_, all| match last(all).cmp(&newest_evicted) {
            Ordering::Less => false,
            // Of those seen at the same time, as many as are still to go.
            Ordering::Equal if count > 0 => {
                count -= 1;
                false
            }
            Ordering::Equal | Ordering::Greater => true,
        });
    }
}

/// A peer's verifications as `decisions.json` has them: a list, in earlier versions a single one.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum WrittenVerifications {
    Several(Vec<LastVerification>),
    Single(LastVerification),
}

fn read_peers<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<LastVerification>>, D::Error> {
    let written: BTreeMap<String, WrittenVerifications> = serde::Deserialize::deserialize(from)?;
    let list = |written| match written {
        WrittenVerifications::Several(all) => all,
        WrittenVerifications::Single(one) => vec![one],
    };
    Ok(written.into_iter().map(|(identity, written)| (identity, list(written))).collect())
}

/// The live facts of one trust, shared by its epochs.
#[derive(Debug, Default)]
pub struct UsageTracker(Mutex<UsageFacts>);

impl UsageTracker {
    pub(super) fn from_facts(facts: UsageFacts) -> Self {
        Self(Mutex::new(facts))
    }

    pub(super) fn record(&self, verified: &Verified, (identity, certificate): (&str, Fingerprint), now: Timestamp) {
        let anchor = verified.anchor.as_ref().map(|(fingerprint, _)| *fingerprint);
        let certificate = Some(certificate);
        self.lock().record(identity, LastVerification { certificate, anchor, pin: verified.pin, last: now });
    }

    /// All of them; what is recorded meanwhile may be among them or not.
    pub fn facts(&self) -> UsageFacts {
        let mut peers = BTreeMap::new();
        let mut last: Option<String> = None;
        loop {
            let behind = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let facts = self.lock();
            let part = facts.peers.range::<str, _>((behind, Bound::Unbounded)).take(COPIED_AT_ONCE);
            let part: Vec<_> = part.map(|(identity, all)| (identity.clone(), all.clone())).collect();
            drop(facts);
            let Some((end, _)) = part.last() else { break };
            last = Some(end.clone());
            peers.extend(part);
        }
        // After the peers: what verified one of them is among these.
        let facts = self.lock();
        UsageFacts { peers, anchors: facts.anchors.clone(), pins: facts.pins.clone() }
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
        host_verified_by(b"host", anchor, last)
    }

    fn host_verified_by(host: &[u8], anchor: &[u8], last: i64) -> LastVerification {
        let (certificate, anchor) = (Some(Fingerprint::of(host)), Some(Fingerprint::of(anchor)));
        LastVerification { certificate, anchor, pin: None, last: timestamp(last) }
    }

    #[test]
    fn hosts_that_share_an_identity_each_keep_their_anchor_over_a_restart() {
        let mut facts = UsageFacts::default();
        facts.record("dns:a", host_verified_by(b"one", b"old", 1));
        facts.record("dns:a", host_verified_by(b"two", b"new", 2));
        for number in 0..300 {
            facts.record(&format!("dns:{number}"), verified_by(b"old", 3 + number));
        }
        let kept = UsageTracker::from_facts(facts).persistable_facts(|_| true, |_| true);
        let text = serde_json::to_string(&kept).unwrap();
        let read: UsageFacts = serde_json::from_str(&text).unwrap();
        assert_eq!(read.peers_needing_anchor(Fingerprint::of(b"old")).len(), 301);
        assert_eq!(read.peers_needing_anchor(Fingerprint::of(b"new")), [("dns:a", timestamp(2))]);
        let mut many = read;
        let mut moved = many.clone();
        moved.record("dns:a", host_verified_by(b"two", b"new", 2 + 36 * 86_400));
        assert_eq!(moved.peers["dns:a"].len(), 1, "the former certificate has not come for a month");
        for host in 0..100_u8 {
            many.record("dns:a", host_verified_by(&[host], b"new", 1000 + i64::from(host)));
        }
        assert_eq!(many.peers["dns:a"].len(), MAX_CERTIFICATES);
    }

    #[test]
    fn a_copy_in_parts_has_all_of_them() {
        let mut facts = UsageFacts::default();
        for number in 0..1000 {
            facts.record(&format!("dns:{number}"), verified_by(b"old", number));
        }
        assert_eq!(UsageTracker::from_facts(facts.clone()).facts(), facts);
        assert_eq!(UsageTracker::default().facts(), UsageFacts::default());
    }

    #[test]
    fn what_an_earlier_version_remembered_is_read() {
        let anchor = Fingerprint::of(b"old");
        let text = format!(
            "{{\"peers\":{{\"dns:a\":{{\"anchor\":\"{anchor}\",\"pin\":null,\"last\":\"2026-01-01T00:00:00Z\"}}}},\
             \"anchors\":{{}},\"pins\":{{}}}}"
        );
        let mut read: UsageFacts = serde_json::from_str(&text).unwrap();
        assert_eq!(read.peers_needing_anchor(anchor).len(), 1);
        // Whose certificate it was is unknown, so the next one replaces it.
        read.record("dns:a", verified_by(b"new", 2_000_000_000));
        assert!(read.peers_needing_anchor(anchor).is_empty());
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
    fn the_peers_seen_longest_ago_make_room() {
        let mut facts = UsageFacts::default();
        for number in 0..=i64::try_from(MAX_PEERS).unwrap() {
            facts.record(&format!("dns:{number}"), verified_by(b"ca", number));
        }
        assert_eq!(facts.peers.len(), MAX_PEERS - EVICTED_PEERS + 1);
        assert!(!facts.peers.contains_key("dns:63") && facts.peers.contains_key("dns:64"));
        facts.record(&"x".repeat(1000), verified_by(b"ca", 5000));
        assert!(facts.peers.contains_key(&"x".repeat(MAX_IDENTITY_CHARS)));
    }

    #[test]
    fn of_peers_seen_at_the_same_time_only_as_many_go_as_make_room() {
        let mut facts = UsageFacts::default();
        facts.record("dns:older", verified_by(b"ca", 1));
        for number in 0..MAX_PEERS {
            facts.record(&format!("dns:{number}"), verified_by(b"ca", 2));
        }
        assert_eq!(facts.peers.len(), MAX_PEERS - EVICTED_PEERS + 1);
        assert!(!facts.peers.contains_key("dns:older"));
    }

    #[test]
    fn fifty_thousand_identities_and_certificates_keep_within_the_limits() {
        let mut facts = UsageFacts::default();
        for number in 0..50_000_u32 {
            let verified = host_verified_by(&number.to_be_bytes(), b"ca", i64::from(number));
            facts.record(&format!("dns:{number}.example"), verified.clone());
            facts.record("dns:shared.example", verified);
        }
        assert!((MAX_PEERS - EVICTED_PEERS..=MAX_PEERS).contains(&facts.peers.len()), "{}", facts.peers.len());
        assert_eq!((facts.anchors.len(), facts.pins.len()), (1, 0));
        assert_eq!(facts.peers["dns:shared.example"].len(), MAX_CERTIFICATES);
        assert!(facts.peers.contains_key("dns:49999.example") && !facts.peers.contains_key("dns:0.example"));
    }
}
