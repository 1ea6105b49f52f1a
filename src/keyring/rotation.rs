//! The state machine of one keyring: arrivals, time and operators' commands (contract sections 3 and 4).
//!
//! Pure. It holds every pair it still needs, also those with vanished files; what must survive a restart is exported as
//! [`PersistedKeyring`] and stored by `writer::memory`. Every input records its facts and then calls `settle`, the only place
//! that changes standings: the same facts again change nothing, in whatever order they come.

mod command;
mod entry;
mod explain;
mod settle;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::fit::{KeyPairFitness, add_saturating, assess_fitness, shares_name};
use super::{ActivationPolicy, KeyringEvent, KeyringSettings, Standing};
use crate::pki::{Fingerprint, KeyPair};
pub use entry::{CommandError, HeldPair, OverlapPeriod, PersistedKeyring, StagedPair, WaitReason};
use entry::{KeyringEntry, ROLLBACK_WINDOW, RevokedPairs, SettleCause};

/// One keyring. At most one pair is `current`; each pair has one standing; a revoked fingerprint never leaves
/// `revoked`; no overlap ends after its pair's `not_after`.
#[derive(Clone, Debug)]
pub struct Keyring {
    settings: KeyringSettings,
    entries: BTreeMap<Fingerprint, KeyringEntry>,
    /// Decisions of the last run about pairs not seen yet; the folder may be mounted late.
    past: PersistedKeyring,
    /// Not eligible until `promote`, or until the pair leaves the folder and returns.
    held: BTreeSet<Fingerprint>,
    revoked: RevokedPairs,
    /// The clock is steady: pairs may be retired.
    steady: bool,
    /// The last resort that was reported, and whether it is shown.
    last_resort: Option<(Fingerprint, bool)>,
}

impl Keyring {
    /// Restores a keyring from the last run. `retained` are pairs that were kept after their files vanished; one
    /// that no decision mentions is ignored.
    pub fn restore(settings: KeyringSettings, remembered: &PersistedKeyring, retained: Vec<Arc<KeyPair>>) -> Self {
        let revoked = RevokedPairs { by_command: remembered.revoked.clone(), configured: settings.revoked.clone() };
        let mut keyring = Self {
            settings,
            entries: BTreeMap::new(),
            past: remembered.clone(),
            held: remembered.held.clone(),
            revoked,
            steady: true,
            last_resort: None,
        };
        for pair in retained {
            if let Some(mut entry) = keyring.restore_entry(&pair, false) {
                entry.unread = true;
                keyring.entries.insert(pair.fingerprint(), entry);
            }
        }
        keyring
    }

    /// Its settings.
    pub fn settings(&self) -> &KeyringSettings {
        &self.settings
    }

    /// Applies new settings from a reload: checks refused pairs again and adjusts overlaps.
    pub fn configure(&mut self, settings: KeyringSettings, now: Timestamp) -> Vec<KeyringEvent> {
        let before = self.standings();
        self.revoked.configured.extend(settings.revoked.iter().copied());
        self.settings = settings;
        let overlap = self.settings.overlap;
        for entry in self.entries.values_mut().filter(|entry| entry.held.standing == Standing::Previous) {
            let replaced = entry.replaced.unwrap_or(entry.held.since);
            entry.held.overlap_ends = Some(add_saturating(replaced, overlap).min(entry.held.pair.validity().not_after));
        }
        self.settle(&before, SettleCause::Facts, now)
    }

    /// Takes all pairs that the folder holds now, in any order. Idempotent.
    pub fn arrive(&mut self, pairs: &[Arc<KeyPair>], now: Timestamp) -> Vec<KeyringEvent> {
        let mut before = self.standings();
        let found: BTreeMap<Fingerprint, &Arc<KeyPair>> = pairs.iter().map(|pair| (pair.fingerprint(), pair)).collect();
        for (key_pair, entry) in &mut self.entries {
            let was_there = std::mem::replace(&mut entry.held.in_folder, found.contains_key(key_pair));
            if entry.held.in_folder && !was_there && !entry.unread {
                // Removed and added again: that is new content, and ends a hold.
                self.held.remove(key_pair);
            }
            // An empty folder may not be mounted yet.
            entry.unread &= found.is_empty();
        }
        let mut fresh = Vec::new();
        for (key_pair, pair) in &found {
            if let Some(entry) = self.entries.get_mut(key_pair) {
                // What is left of a broken file does not take the place of the whole pair that was read from it.
                if !pair.is_broken() || entry.held.pair.is_broken() {
                    entry.held.pair = Arc::clone(pair);
                }
            } else if let Some(entry) = self.restore_entry(pair, true) {
                before.insert(*key_pair, entry.held.standing);
                self.entries.insert(*key_pair, entry);
            } else {
                fresh.push(*pair);
            }
        }
        let keep = self.current().filter(|held| held.pair.is_valid(now)).map(|held| Arc::clone(&held.pair));
        for pair in fresh {
            let mut entry = KeyringEntry::new(Arc::clone(pair), true, now);
            entry.waits = keep.as_deref().and_then(|keep| self.wait_reason(pair, keep));
            self.held.remove(&pair.fingerprint());
            self.entries.insert(pair.fingerprint(), entry);
        }
        if !found.is_empty() {
            self.drop_stale_past(now);
        }
        self.settle(&before, SettleCause::Facts, now)
    }

    /// Advances time: staged pairs become due, overlaps end, pairs expire. `retire` is false while the clock is not
    /// steady (contract section 3, clock step): then no input retires anything, until a tick says that the clock is
    /// steady again.
    pub fn tick(&mut self, now: Timestamp, retire: bool) -> Vec<KeyringEvent> {
        let before = self.standings();
        self.steady = retire;
        self.settle(&before, SettleCause::Facts, now)
    }

    /// The current pair.
    pub fn current(&self) -> Option<&HeldPair> {
        self.current_entry().map(|entry| &entry.held)
    }

    /// The previous pairs, the latest replaced first; those held back after a rollback last.
    pub fn previous(&self) -> Vec<&HeldPair> {
        let mut previous: Vec<&KeyringEntry> = self.entries_with(Standing::Previous).collect();
        previous
            .sort_by_key(|entry| (!self.held.contains(&entry.held.pair.fingerprint()), entry.replaced, entry.rank()));
        previous.into_iter().rev().map(|entry| &entry.held).collect()
    }

    /// All known pairs, including refused and retired ones, in a stable order.
    pub fn pairs(&self) -> Vec<&HeldPair> {
        self.entries.values().map(|entry| &entry.held).collect()
    }

    /// Pairs that do not become current until they are promoted, or removed from the folder and added again.
    pub fn held_back(&self) -> Vec<Fingerprint> {
        self.held.iter().copied().collect()
    }

    /// All revoked fingerprints, seen here or not.
    pub fn revoked_pairs(&self) -> Vec<Fingerprint> {
        self.revoked.by_command.union(&self.revoked.configured).copied().collect()
    }

    fn entries_with(&self, standing: Standing) -> impl Iterator<Item = &KeyringEntry> {
        self.entries.values().filter(move |entry| entry.held.standing == standing)
    }

    fn current_entry(&self) -> Option<&KeyringEntry> {
        self.entries_with(Standing::Current).next()
    }

    fn standings(&self) -> BTreeMap<Fingerprint, Standing> {
        self.entries.iter().map(|(key_pair, entry)| (*key_pair, entry.held.standing)).collect()
    }

    /// Why a new pair must wait for `promote` while `keep` stays in use, if it must.
    fn wait_reason(&self, pair: &KeyPair, keep: &KeyPair) -> Option<WaitReason> {
        if !shares_name(pair.end_entity(), keep.end_entity()) {
            return Some(WaitReason::SharesNoName);
        }
        if pair.is_staging_requested() {
            return Some(WaitReason::Marked);
        }
        (self.settings.activate == ActivationPolicy::Manual).then_some(WaitReason::Manual)
    }

    fn is_waiting(&self, entry: &KeyringEntry) -> bool {
        let configured = self.settings.current == Some(entry.held.pair.fingerprint());
        match entry.waits {
            Some(WaitReason::SharesNoName) => !configured,
            Some(WaitReason::Marked) => {
                !configured
                    && (entry.held.pair.is_staging_requested() || self.settings.activate == ActivationPolicy::Manual)
            }
            Some(WaitReason::Manual) => !configured && self.settings.activate == ActivationPolicy::Manual,
            None => false,
        }
    }

    /// Whether a pair must wait until its files are whole: while another pair that is whole can serve.
    fn waits_for_repair(&self, entry: &KeyringEntry, now: Timestamp) -> bool {
        let can_serve = |other: &KeyringEntry| match other.held.standing {
            Standing::Current | Standing::Previous => other.is_valid(now),
            Standing::Refused | Standing::Staged | Standing::Retired | Standing::Revoked => {
                other.held.in_folder && !self.is_waiting(other) && self.is_fit(other, now)
            }
        };
        entry.held.pair.is_broken()
            && self.entries.values().any(|other| !other.held.pair.is_broken() && can_serve(other))
    }

    fn is_fit(&self, entry: &KeyringEntry, now: Timestamp) -> bool {
        !self.revoked.contains(entry.held.pair.fingerprint())
            && entry.due.is_none_or(|due| due <= now)
            && matches!(assess_fitness(&entry.held.pair, &self.settings, now), KeyPairFitness::Usable { .. })
    }

    /// Restores the entry of a pair that the last run decided about, and removes it from `past`.
    fn restore_entry(&mut self, pair: &Arc<KeyPair>, in_folder: bool) -> Option<KeyringEntry> {
        let key_pair = pair.fingerprint();
        let mut entry = KeyringEntry::new(Arc::clone(pair), in_folder, pair.validity().not_before);
        entry.activated = self.past.activated.get(&key_pair).copied();
        if self.past.current == Some(key_pair) {
            self.past.current = None;
            entry.held.standing = Standing::Current;
            entry.held.since = entry.activated.unwrap_or(entry.held.since);
        } else if let Some(overlap) = self.past.previous.remove(&key_pair) {
            entry.held.standing = Standing::Previous;
            entry.held.since = overlap.replaced;
            entry.held.overlap_ends = Some(overlap.ends.min(pair.validity().not_after));
            entry.replaced = Some(overlap.replaced);
        } else if let Some(retired) = self.past.retired.remove(&key_pair) {
            entry.held.standing = Standing::Retired;
            entry.held.since = retired;
            entry.replaced = Some(retired);
        } else {
            let staged = self.past.staged.remove(&key_pair)?;
            entry.held.standing = Standing::Staged;
            entry.held.since = staged.since;
            (entry.due, entry.waits) = (staged.due, staged.waits);
        }
        self.past.activated.remove(&key_pair);
        Some(entry)
    }

    /// The folder is read: drops decisions on pairs found neither there nor in `state/retained/`, or too old.
    fn drop_stale_past(&mut self, now: Timestamp) {
        let recent = |at: Timestamp| now < add_saturating(at, ROLLBACK_WINDOW);
        let past = &mut self.past;
        past.staged.clear();
        past.previous.retain(|_, overlap| recent(overlap.ends));
        past.retired.retain(|_, retired| recent(*retired));
        let (current, previous, retired) = (past.current, &past.previous, &past.retired);
        past.activated.retain(|key_pair, _| {
            current == Some(*key_pair) || previous.contains_key(key_pair) || retired.contains_key(key_pair)
        });
    }
}

#[cfg(test)]
mod broken;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
