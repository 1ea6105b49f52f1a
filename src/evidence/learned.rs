//! Records which sources refused our new pair with an alert, and whether that is confirmed (contract section 4, rule
//! 4). `choose` decides which pair they are shown instead; the proxy derives the source from a connection and reports
//! changes.
//!
//! An alert is not authenticated: any client that reaches us can send one. So a refusal is *unconfirmed* at first:
//! limited in number, per network and to an hour, and ignored by verdicts. It is confirmed when the same source
//! completes a verified handshake on the pair it is shown instead, with the same kind of ClientHello as the one that
//! refused, as a peer that has not itself accepted the refused pair: so neither a scanner behind the same address nor a
//! flood of alerts keeps a client on the old pair that accepts the new one.

mod lessons;
mod record;
mod source;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use crate::keyring::KeyringName;
use crate::keyring::choice::SourceRefusals;
use crate::pki::Fingerprint;

pub use lessons::RefusalMemory;
pub use record::{
    AcceptanceReport, PersistedRefusal, RefusalChange, RefusalRecord, RefusalReport, RefusalStatus,
    UNCONFIRMED_LIFETIME, certificate_alert,
};
pub use source::PeerSource;

/// Limits of unconfirmed refusals.
const UNCONFIRMED_LIMITS: RefusalLimits = RefusalLimits { all: 1024, of_network: 16 };
/// Limits of confirmed refusals.
const CONFIRMED_LIMITS: RefusalLimits = RefusalLimits { all: 4096, of_network: 256 };
/// Peers known to accept a pair: up to twice as many are kept.
const MAX_ACCEPTING_PEERS: usize = 4096;

struct RefusalLimits {
    all: usize,
    of_network: usize,
}

/// All recorded refusals of a process, by source.
#[derive(Debug, Default)]
pub struct RefusalTable {
    entries: BTreeMap<PeerSource, RefusalRecord>,
    accepting: BTreeMap<Fingerprint, AcceptingPeers>,
    /// Incremented whenever a confirmed refusal is added or removed.
    revision: u64,
}

impl RefusalTable {
    /// The source's refusals; an expired unconfirmed one is ignored.
    pub fn get(&self, source: &PeerSource, now: Timestamp) -> Option<SourceRefusals> {
        let entry = self.entries.get(source).filter(|entry| !entry.is_expired(now))?;
        Some(SourceRefusals { refused: entry.refused.clone(), shown: Some(entry.shown) })
    }

    /// Records that a source answered `refusal.key_pair` with an alert. `next` is the pair that `choose` would show it
    /// instead; `None`: no other.
    pub fn record_refusal(
        &mut self,
        refusal: &RefusalReport<'_>,
        next: Option<Fingerprint>,
        now: Timestamp,
    ) -> Vec<RefusalChange> {
        let known = self.entries.get(refusal.source).filter(|entry| !entry.is_expired(now));
        match known {
            // Only a client that looks like the peer that confirmed it may revoke a confirmed refusal, and only by
            // refusing the pair shown instead: that peer's trust has changed.
            Some(entry) if entry.standing == RefusalStatus::Confirmed => {
                if entry.shown != refusal.key_pair || entry.offer != refusal.offer {
                    return Vec::new();
                }
                self.remove(refusal.source, refusal.alert).into_iter().collect()
            }
            Some(entry) => {
                let mut entry = entry.clone();
                if !entry.refused.contains(&refusal.key_pair) {
                    entry.refused.push(refusal.key_pair);
                }
                let Some(shown) = next.filter(|next| !entry.refused.contains(next)) else {
                    return self.remove(refusal.source, refusal.alert).into_iter().collect();
                };
                let other = std::mem::replace(&mut entry.shown, shown) != shown;
                entry.offer = refusal.offer;
                self.entries.insert(entry.source.clone(), entry.clone());
                if !other {
                    return Vec::new();
                }
                vec![RefusalChange { standing: entry.standing, reason: refusal.alert, entry }]
            }
            None => next.map(|shown| self.add_unconfirmed(refusal, shown, now)).unwrap_or_default(),
        }
    }

    /// Records that a source completed a verified handshake.
    pub fn record_acceptance(&mut self, accepted: &AcceptanceReport<'_>, now: Timestamp) -> Vec<RefusalChange> {
        let (peer, identity) = accepted.peer;
        self.accepting.entry(accepted.key_pair).or_default().insert(peer);
        let Some(entry) = self.entries.get(accepted.source).filter(|entry| !entry.is_expired(now)) else {
            return Vec::new();
        };
        let accepts = |key_pair: &Fingerprint| self.accepting.get(key_pair).is_some_and(|all| all.contains(peer));
        match entry.standing {
            RefusalStatus::Unconfirmed if entry.refused.contains(&accepted.key_pair) => {
                self.remove(accepted.source, "accepts_it_now").into_iter().collect()
            }
            RefusalStatus::Confirmed
                if entry.refused.contains(&accepted.key_pair) && entry.peer_fingerprint == Some(peer) =>
            {
                self.remove(accepted.source, "accepts_it_now").into_iter().collect()
            }
            RefusalStatus::Unconfirmed
                if entry.shown == accepted.key_pair
                    && entry.offer == accepted.offer
                    && !entry.refused.iter().any(accepts) =>
            {
                let mut entry = entry.clone();
                entry.standing = RefusalStatus::Confirmed;
                entry.peer = Some(identity.to_owned());
                entry.peer_fingerprint = Some(peer);
                self.confirm(entry)
            }
            _ => Vec::new(),
        }
    }

    /// Removes expired refusals; `is_shown` says whether a listener may show a pair in this epoch.
    pub fn tick(&mut self, is_shown: &dyn Fn(&str, Fingerprint) -> bool, now: Timestamp) -> Vec<RefusalChange> {
        let ended = |entry: &RefusalRecord| {
            let shown = |key_pair: &Fingerprint| is_shown(&entry.source.listener, *key_pair);
            if !shown(&entry.shown) || !entry.refused.iter().any(shown) {
                return Some("overlap_ended");
            }
            entry.is_expired(now).then_some("expired")
        };
        let over: Vec<_> =
            self.entries.values().filter_map(|entry| Some((entry.source.clone(), ended(entry)?))).collect();
        over.into_iter().filter_map(|(source, reason)| self.remove(&source, reason)).collect()
    }

    /// Forgets which peers accept pairs that are no longer in overlap.
    pub fn retain_pairs(&mut self, in_overlap: &HashSet<Fingerprint>) {
        self.accepting.retain(|key_pair, _| in_overlap.contains(key_pair));
    }

    /// Forgets a source's refusals on every listener: `ADDRESS`, `ADDRESS NAME` or `NETWORK/64` as a [`RefusalRecord`] shows
    /// it.
    pub fn forget(&mut self, text: &str) -> Vec<RefusalChange> {
        let meant: Vec<PeerSource> = self.entries.keys().filter(|source| source.matches(text)).cloned().collect();
        meant.iter().filter_map(|source| self.remove(source, "by_command")).collect()
    }

    /// All recorded refusals.
    pub fn entries(&self) -> Vec<RefusalRecord> {
        self.entries.values().cloned().collect()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.accepting.is_empty()
    }

    /// How often the confirmed refusals have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What must survive a restart: the confirmed refusals.
    pub fn to_persisted(&self) -> Vec<PersistedRefusal> {
        let confirmed = self.entries.values().filter(|entry| entry.standing == RefusalStatus::Confirmed);
        let remember = |entry: &RefusalRecord| PersistedRefusal {
            source: entry.source.clone(),
            keyring: KeyringName::clone(&entry.keyring),
            refused: entry.refused.clone(),
            shown: entry.shown,
            reason: entry.reason.to_owned(),
            since: entry.since,
            peer: entry.peer.clone(),
            peer_fingerprint: entry.peer_fingerprint,
            offer: entry.offer,
        };
        confirmed.map(remember).collect()
    }

    /// Restores the refusals of the last run.
    pub fn restore(&mut self, remembered: &[PersistedRefusal]) {
        for lesson in remembered.iter().take(CONFIRMED_LIMITS.all) {
            let entry = RefusalRecord {
                source: lesson.source.clone(),
                keyring: KeyringName::clone(&lesson.keyring),
                refused: lesson.refused.clone(),
                shown: lesson.shown,
                standing: RefusalStatus::Confirmed,
                reason: certificate_alert(&lesson.reason).unwrap_or("remembered"),
                since: lesson.since,
                peer: lesson.peer.clone(),
                peer_fingerprint: lesson.peer_fingerprint,
                offer: lesson.offer,
            };
            self.entries.insert(entry.source.clone(), entry);
        }
    }

    fn add_unconfirmed(
        &mut self,
        refusal: &RefusalReport<'_>,
        shown: Fingerprint,
        now: Timestamp,
    ) -> Vec<RefusalChange> {
        // Replace an expired one that was not removed yet.
        self.entries.remove(refusal.source);
        // Ignore a network that has used up its share: evicting its oldest would log a line per attempt.
        if self.count_in_network(RefusalStatus::Unconfirmed, refusal.source) >= UNCONFIRMED_LIMITS.of_network {
            return Vec::new();
        }
        let evicted = self.make_room(RefusalStatus::Unconfirmed, &UNCONFIRMED_LIMITS);
        let entry = RefusalRecord {
            source: refusal.source.clone(),
            keyring: KeyringName::clone(refusal.keyring),
            refused: vec![refusal.key_pair],
            shown,
            standing: RefusalStatus::Unconfirmed,
            reason: refusal.alert,
            since: now,
            peer: None,
            peer_fingerprint: None,
            offer: refusal.offer,
        };
        self.entries.insert(entry.source.clone(), entry.clone());
        let begun = RefusalChange { entry, standing: RefusalStatus::Unconfirmed, reason: refusal.alert };
        evicted.into_iter().chain([begun]).collect()
    }

    fn confirm(&mut self, entry: RefusalRecord) -> Vec<RefusalChange> {
        let mut changes = Vec::new();
        if self.count_in_network(RefusalStatus::Confirmed, &entry.source) >= CONFIRMED_LIMITS.of_network {
            let network = entry.source.network();
            changes.extend(self.evict(RefusalStatus::Confirmed, |source| source.network() == network));
        }
        changes.extend(self.make_room(RefusalStatus::Confirmed, &CONFIRMED_LIMITS));
        self.revision += 1;
        self.entries.insert(entry.source.clone(), entry.clone());
        changes.push(RefusalChange { entry, standing: RefusalStatus::Confirmed, reason: "verified_on_previous" });
        changes
    }

    fn count_in_network(&self, standing: RefusalStatus, like: &PeerSource) -> usize {
        let network = like.network();
        let of_network =
            self.entries.values().filter(|entry| entry.standing == standing && entry.source.network() == network);
        of_network.count()
    }

    /// When a table is full, evicts the oldest refusal of the network with the most; unconfirmed and confirmed refusals
    /// never evict each other.
    fn make_room(&mut self, standing: RefusalStatus, bounds: &RefusalLimits) -> Option<RefusalChange> {
        let of_standing = || self.entries.values().filter(|entry| entry.standing == standing);
        if of_standing().count() < bounds.all {
            return None;
        }
        let mut counts = BTreeMap::<_, usize>::new();
        for entry in of_standing() {
            *counts.entry(entry.source.network()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count)?.0;
        self.evict(standing, |source| source.network() == most)
    }

    fn evict(&mut self, standing: RefusalStatus, among: impl Fn(&PeerSource) -> bool) -> Option<RefusalChange> {
        let all = self.entries.values().filter(|entry| entry.standing == standing && among(&entry.source));
        let oldest = all.min_by_key(|entry| entry.since)?.source.clone();
        self.remove(&oldest, "evicted")
    }

    fn remove(&mut self, source: &PeerSource, reason: &'static str) -> Option<RefusalChange> {
        let entry = self.entries.remove(source)?;
        if entry.standing == RefusalStatus::Confirmed {
            self.revision += 1;
        }
        Some(RefusalChange { entry, standing: RefusalStatus::Forgotten, reason })
    }
}

/// Peers that accept a pair, by certificate. Two halves: when the new one is full, the old one is dropped.
#[derive(Debug, Default)]
struct AcceptingPeers {
    new: HashSet<Fingerprint>,
    old: HashSet<Fingerprint>,
}

impl AcceptingPeers {
    fn insert(&mut self, peer: Fingerprint) {
        if self.new.len() >= MAX_ACCEPTING_PEERS {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(peer);
    }

    fn contains(&self, peer: Fingerprint) -> bool {
        self.new.contains(&peer) || self.old.contains(&peer)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
