//! Records which senders refused our new pair, and whether that is confirmed (contract section 4, rule 4). `choose`
//! decides which pair they are shown instead; the proxy tells senders apart and reports what connections show.
//!
//! A sender is told apart by source and kind of ClientHello, for its certificate comes too late for the choice. Neither
//! an alert nor an end is authenticated: so a refusal is *unconfirmed* at first, limited in number, and ignored by
//! verdicts; it is confirmed when a verified peer of that kind completes a request on the pair it is shown instead. As
//! any peer would have done that, what is held is shown the refused pair again from time to time (`trial`). Once a peer
//! with a certificate has proved a pair, no refusal from its source and kind moves it.

mod cure;
mod lessons;
mod record;
mod settled;
mod silent;
mod source;
mod trial;

use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::keyring::choice::SourceRefusals;
use crate::keyring::fit::{add_saturating, shift_time};
use crate::pki::Fingerprint;

pub use cure::RefusalClass;
pub use lessons::RefusalMemory;
pub use record::{
    PeerProofReport, PersistedRefusal, RefusalChange, RefusalRecord, RefusalReport, RefusalStatus, SILENT_REASONS,
    UNCONFIRMED_LIFETIME,
};
use settled::SettledSenders;
use silent::SilentEndCounts;
pub use source::{PeerSource, SenderKind};

/// Limits of unconfirmed refusals.
const UNCONFIRMED_LIMITS: RefusalLimits = RefusalLimits { all: 4096, of_network: 256, of_address: 16 };
/// Limits of confirmed refusals.
const CONFIRMED_LIMITS: RefusalLimits = RefusalLimits { all: 4096, of_network: 256, of_address: 256 };
/// An unconfirmed refusal gives way to a newer one of its own network only after this time, so that a flood of refusals
/// is a trickle of changes.
const EVICTION_AGE: std::time::Duration = std::time::Duration::from_hours(1);

/// Which pairs the listener of a refusal may show of its keyring, in order, if it shows any.
pub type ShownPairs<'a> = dyn Fn(&RefusalRecord) -> Option<Vec<Fingerprint>> + 'a;

struct RefusalLimits {
    all: usize,
    of_network: usize,
    of_address: usize,
}

/// All recorded refusals of a process, by sender.
#[derive(Debug, Default)]
pub struct RefusalTable {
    entries: BTreeMap<SenderKind, RefusalRecord>,
    /// Senders that have proved a pair.
    settled: BTreeMap<Fingerprint, SettledSenders>,
    silent: SilentEndCounts,
    /// Incremented whenever a confirmed refusal is added or removed.
    revision: u64,
}

impl RefusalTable {
    /// What the sender has refused, and what it is shown instead; an expired unconfirmed refusal is ignored.
    pub fn get(&self, sender: &SenderKind, now: Timestamp) -> Option<SourceRefusals> {
        let entry = self.entries.get(&self.find(sender, now)?)?;
        Some(SourceRefusals { refused: entry.refused.clone(), shown: Some(entry.shown) })
    }

    /// What counts for the sender's next handshake: as [`Self::get`], but nothing where this is the trial of the pair
    /// that it refused, which is then running.
    pub fn recall(&mut self, sender: &SenderKind, now: Timestamp) -> Option<SourceRefusals> {
        let key = self.find(sender, now)?;
        if self.entries.get_mut(&key)?.trials.begin_if_due(now) {
            return None;
        }
        self.get(sender, now)
    }

    /// Records that a sender refused a pair, by an alert or by an end without one.
    pub fn record_refusal(&mut self, refusal: &RefusalReport<'_>, now: Timestamp) -> Vec<RefusalChange> {
        let silent = SILENT_REASONS.contains(&refusal.reason);
        let counts = !silent || self.silent.count(refusal, now);
        let Some(key) = self.find(refusal.sender, now) else {
            let settled = self.is_settled(refusal.key_pair, refusal.sender);
            let learned = refusal.next.filter(|_| counts && !settled);
            return learned.map(|shown| self.add_unconfirmed(refusal, shown, now)).unwrap_or_default();
        };
        let Some(entry) = self.entries.get_mut(&key) else { return Vec::new() };
        entry.last = now;
        if entry.shown != refusal.key_pair {
            // The trial has failed, or this handshake began before the refusal was recorded.
            entry.trials.fail(now);
            if !entry.refused.contains(&refusal.key_pair) {
                entry.refused.push(refusal.key_pair);
            }
            return Vec::new();
        }
        if !counts {
            return Vec::new();
        }
        let is_stronger = refusal.certificate.is_some() && entry.standing == RefusalStatus::Unconfirmed;
        if entry.standing == RefusalStatus::Confirmed || entry.trials.is_held() && !is_stronger {
            // Unauthenticated, or no more than what holds it: so it takes nothing from the sender that is held; if that has
            // changed its trust, a trial shows. What data without a certificate hold gives way to a verified peer.
            entry.trials.doubt(now);
            return Vec::new();
        }
        self.show_next(&key, refusal)
    }

    /// Records that a sender's application data arrived on a connection that showed a pair.
    pub fn record_proof(&mut self, proof: &PeerProofReport<'_>, now: Timestamp) -> Vec<RefusalChange> {
        self.silent.forget(proof.sender, proof.peer.map(|(certificate, _)| certificate), proof.key_pair);
        if proof.peer.is_some() && proof.current {
            self.settled.entry(proof.key_pair).or_default().insert(proof.sender);
        }
        let Some(key) = self.find(proof.sender, now) else { return Vec::new() };
        let settled = |refused: &[Fingerprint]| refused.iter().any(|pair| self.is_settled(*pair, proof.sender));
        let was_settled = self.entries.get(&key).is_some_and(|entry| settled(&entry.refused));
        let Some(entry) = self.entries.get_mut(&key) else { return Vec::new() };
        let is_held_peer = proof.peer.is_some_and(|(certificate, identity)| {
            entry.peer_fingerprint == Some(certificate) || entry.peer.as_deref() == Some(identity)
        });
        if entry.refused.contains(&proof.key_pair) {
            if entry.standing == RefusalStatus::Unconfirmed || is_held_peer {
                return self.remove(&key, "accepts_it_now").into_iter().collect();
            }
            entry.trials.pass(now);
        } else if entry.shown == proof.key_pair {
            entry.last = now;
            entry.trials.hold_sender(now);
            if let (RefusalStatus::Unconfirmed, Some((certificate, identity)), false) =
                (entry.standing, proof.peer, was_settled)
            {
                let mut entry = entry.clone();
                entry.standing = RefusalStatus::Confirmed;
                entry.peer = Some(identity.to_owned());
                entry.peer_fingerprint = Some(certificate);
                return self.confirm(key, entry);
            }
        }
        Vec::new()
    }

    /// Removes refusals that are over. `shown` says which pairs the listener of a refusal may show of its keyring, in order; `None`: it
    /// waits for something, and will show its pairs again.
    pub fn tick(&mut self, shown: &ShownPairs<'_>, now: Timestamp) -> Vec<RefusalChange> {
        let decide = |entry: &RefusalRecord| -> Option<Result<Fingerprint, &'static str>> {
            let Some(pairs) = shown(entry) else { return entry.is_expired(now).then_some(Err("expired")) };
            if !entry.refused.iter().any(|pair| pairs.contains(pair)) {
                return Some(Err("overlap_ended"));
            }
            if !pairs.contains(&entry.shown) {
                let next = pairs.into_iter().find(|pair| !entry.refused.contains(pair));
                return Some(next.ok_or("overlap_ended"));
            }
            entry.is_expired(now).then_some(Err("expired"))
        };
        let decided = self.entries.iter().filter_map(|(sender, entry)| Some((sender.clone(), decide(entry)?)));
        let decided: Vec<_> = decided.collect();
        let changes = decided.into_iter().filter_map(|(sender, next)| match next {
            Ok(next) => self.hold_on(&sender, next),
            Err(reason) => self.remove(&sender, reason),
        });
        changes.collect()
    }

    /// Forgets what senders have shown of pairs that are no longer in overlap.
    pub fn retain_pairs(&mut self, in_overlap: &HashSet<Fingerprint>) {
        self.settled.retain(|key_pair, _| in_overlap.contains(key_pair));
        self.silent.retain(|key_pair| in_overlap.contains(key_pair));
    }

    /// Forgets refusals on every listener: of a source (`ADDRESS`, `ADDRESS NAME` or `NETWORK/64` as a [`RefusalRecord`]
    /// shows it), or those that this identity confirmed.
    pub fn forget(&mut self, text: &str) -> Vec<RefusalChange> {
        let is_meant =
            |entry: &&RefusalRecord| entry.source.matches(text) || entry.peer.as_deref() == Some(text.trim());
        let meant: Vec<SenderKind> = self.entries.values().filter(is_meant).map(RefusalRecord::key).collect();
        meant.iter().filter_map(|sender| self.remove(sender, "by_command")).collect()
    }

    /// After a step of the clock all ages are what they were before it: nothing expires sooner, and no trial is due sooner.
    pub fn shift_times(&mut self, step: SignedDuration) {
        for entry in self.entries.values_mut() {
            (entry.since, entry.last) = (shift_time(entry.since, step), shift_time(entry.last, step));
            entry.trials.shift_times(step);
            // What is saved is to follow.
            self.revision += u64::from(entry.standing == RefusalStatus::Confirmed);
        }
        self.silent.shift_times(step);
    }

    /// All recorded refusals.
    pub fn entries(&self) -> Vec<RefusalRecord> {
        self.entries.values().cloned().collect()
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.settled.is_empty() && self.silent.is_empty()
    }

    /// How often the confirmed refusals have changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What must survive a restart: the confirmed refusals.
    pub fn to_persisted(&self) -> Vec<PersistedRefusal> {
        let confirmed = self.entries.values().filter(|entry| entry.standing == RefusalStatus::Confirmed);
        confirmed.map(PersistedRefusal::from_record).collect()
    }

    /// Restores the refusals of the last run.
    pub fn restore(&mut self, remembered: &[PersistedRefusal]) {
        for lesson in remembered.iter().take(CONFIRMED_LIMITS.all) {
            let entry = lesson.to_record();
            self.entries.insert(entry.key(), entry);
        }
    }

    /// The key of the refusal that counts for a sender: its own, or that of its source from before kinds were told apart.
    fn find(&self, sender: &SenderKind, now: Timestamp) -> Option<SenderKind> {
        let holds = |key: &SenderKind| self.entries.get(key).is_some_and(|entry| !entry.is_expired(now));
        [sender.clone(), SenderKind::any_of(&sender.source)].into_iter().find(holds)
    }

    fn is_settled(&self, key_pair: Fingerprint, sender: &SenderKind) -> bool {
        self.settled.get(&key_pair).is_some_and(|settled| settled.contains(sender))
    }

    /// An unconfirmed sender refuses what it is shown instead, too: the next pair, or in the end the default again.
    fn show_next(&mut self, key: &SenderKind, refusal: &RefusalReport<'_>) -> Vec<RefusalChange> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        entry.refused.push(refusal.key_pair);
        let Some(shown) = refusal.next.filter(|next| !entry.refused.contains(next)) else {
            self.silent.give_up(refusal);
            return self.remove(key, refusal.reason).into_iter().collect();
        };
        entry.shown = shown;
        vec![RefusalChange { standing: entry.standing, reason: refusal.reason, entry: entry.clone() }]
    }

    /// The pair that a sender was held on is no longer shown: it goes on with another one, which is a guess again.
    fn hold_on(&mut self, sender: &SenderKind, next: Fingerprint) -> Option<RefusalChange> {
        let entry = self.entries.get_mut(sender)?;
        self.revision += u64::from(entry.standing == RefusalStatus::Confirmed);
        (entry.shown, entry.standing) = (next, RefusalStatus::Unconfirmed);
        (entry.peer, entry.peer_fingerprint) = (None, None);
        entry.trials.release();
        Some(RefusalChange { entry: entry.clone(), standing: RefusalStatus::Unconfirmed, reason: "held_pair_ended" })
    }

    fn add_unconfirmed(
        &mut self,
        refusal: &RefusalReport<'_>,
        shown: Fingerprint,
        now: Timestamp,
    ) -> Vec<RefusalChange> {
        // Replace an expired one that was not removed yet.
        self.entries.remove(refusal.sender);
        let mut changes = Vec::new();
        let source = &refusal.sender.source;
        let full = self.fullest_scope(RefusalStatus::Unconfirmed, source, &UNCONFIRMED_LIMITS);
        if let Some(scope) = full {
            // A network that has used up its share waits: evicting for each attempt would log a line for each.
            let of_scope = |other: &PeerSource| scope.covers(source, other);
            let Some(oldest) = self.find_oldest(RefusalStatus::Unconfirmed, of_scope) else { return changes };
            if self.entries.get(&oldest).is_some_and(|entry| now < add_saturating(entry.since, EVICTION_AGE)) {
                return changes;
            }
            changes.extend(self.remove(&oldest, "evicted"));
        }
        changes.extend(self.make_room(RefusalStatus::Unconfirmed, &UNCONFIRMED_LIMITS));
        let entry = RefusalRecord::begin(refusal, shown, now);
        self.entries.insert(entry.key(), entry.clone());
        changes.push(RefusalChange { entry, standing: RefusalStatus::Unconfirmed, reason: refusal.reason });
        changes
    }

    fn confirm(&mut self, key: SenderKind, entry: RefusalRecord) -> Vec<RefusalChange> {
        let mut changes = Vec::new();
        if let Some(scope) = self.fullest_scope(RefusalStatus::Confirmed, &entry.source, &CONFIRMED_LIMITS) {
            let source = entry.source.clone();
            changes.extend(self.evict(RefusalStatus::Confirmed, |other| scope.covers(&source, other)));
        }
        changes.extend(self.make_room(RefusalStatus::Confirmed, &CONFIRMED_LIMITS));
        self.revision += 1;
        self.entries.insert(key, entry.clone());
        changes.push(RefusalChange { entry, standing: RefusalStatus::Confirmed, reason: "verified_on_previous" });
        changes
    }

    /// The scope of a source whose share is used up, if one is.
    fn fullest_scope(
        &self,
        standing: RefusalStatus,
        source: &PeerSource,
        limits: &RefusalLimits,
    ) -> Option<source::SourceScope> {
        let count = |scope: source::SourceScope| {
            let of_scope = |entry: &&RefusalRecord| entry.standing == standing && scope.covers(source, &entry.source);
            self.entries.values().filter(of_scope).count()
        };
        let shares =
            [(source::SourceScope::Address, limits.of_address), (source::SourceScope::Network, limits.of_network)];
        shares.into_iter().find(|(scope, limit)| count(*scope) >= *limit).map(|(scope, _)| scope)
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
        let oldest = self.find_oldest(standing, among)?;
        self.remove(&oldest, "evicted")
    }

    fn find_oldest(&self, standing: RefusalStatus, among: impl Fn(&PeerSource) -> bool) -> Option<SenderKind> {
        let all = self.entries.values().filter(|entry| entry.standing == standing && among(&entry.source));
        all.min_by_key(|entry| entry.since).map(RefusalRecord::key)
    }

    fn remove(&mut self, sender: &SenderKind, reason: &'static str) -> Option<RefusalChange> {
        let entry = self.entries.remove(sender)?;
        if entry.standing == RefusalStatus::Confirmed {
            self.revision += 1;
        }
        Some(RefusalChange { entry, standing: RefusalStatus::Forgotten, reason })
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
