//! The lessons as everybody shares them: one small mutex beside the snapshot, because learning about one source must not
//! start an epoch. Taken once before a handshake and once after it, and only while a keyring is in overlap.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{Acceptance, Change, Entry, Learned, Refusal, Remembered, Source, Taught};
use crate::pki::Fingerprint;

/// Told of every change.
type Tell = Box<dyn Fn(Change) + Send + Sync>;

/// A handle that workers, the control thread and commands share.
pub struct Lessons {
    learned: Mutex<Learned>,
    tell: Tell,
}

impl Lessons {
    /// With what the last run left; `tell` hears of every change, outside the lock.
    pub fn new(remembered: &[Remembered], tell: impl Fn(Change) + Send + Sync + 'static) -> Self {
        let mut learned = Learned::default();
        learned.restore(remembered);
        Self { learned: Mutex::new(learned), tell: Box::new(tell) }
    }

    /// What the source has taught.
    pub fn taught(&self, source: &Source, now: Timestamp) -> Option<Taught> {
        self.lock().taught(source, now)
    }

    /// A source refused a pair; `next` is what it would be shown for that. Whether it is from now on.
    pub fn refused(&self, refusal: &Refusal<'_>, next: Option<Fingerprint>, now: Timestamp) -> bool {
        let mut learned = self.lock();
        let changes = learned.refused(refusal, next, now);
        let shown = learned.taught(refusal.source, now).and_then(|taught| taught.shown);
        drop(learned);
        self.told(changes);
        shown.is_some() && shown == next
    }

    /// A source completed a verified handshake.
    pub fn accepted(&self, accepted: &Acceptance<'_>, now: Timestamp) {
        let changes = self.lock().accepted(accepted, now);
        self.told(changes);
    }

    /// Time passes. `in_overlap` are the pairs that some listener shows beside another.
    pub fn tick(
        &self,
        is_shown: &dyn Fn(&str, Fingerprint) -> bool,
        in_overlap: impl FnOnce() -> HashSet<Fingerprint>,
        now: Timestamp,
    ) {
        let mut learned = self.lock();
        if learned.is_empty() {
            return;
        }
        let changes = learned.tick(is_shown, now);
        learned.keep_pairs(&in_overlap());
        drop(learned);
        self.told(changes);
    }

    /// Forgets what a source has taught ([`Learned::forget`]); how many lessons that were.
    pub fn forget(&self, source: &str) -> usize {
        let changes = self.lock().forget(source);
        let count = changes.len();
        self.told(changes);
        count
    }

    /// Every lesson.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries()
    }

    /// The confirmed lessons, if they have changed since `revision`; and the revision now.
    pub fn changed_since(&self, revision: u64) -> Option<(u64, Vec<Remembered>)> {
        let learned = self.lock();
        (learned.revision() != revision).then(|| (learned.revision(), learned.remembered()))
    }

    fn told(&self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| (self.tell)(change));
    }

    /// Nothing here is left half-done by a panic, so a poisoned lock is as good as another.
    fn lock(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lessons {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(out)
    }
}
