//! The recorded refusals, shared behind one small mutex beside the snapshot, because a refusal by one source must not
//! start an epoch. Locked once before and once after a handshake, and only while a keyring is in overlap.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::{Acceptance, Change, Entry, Learned, Refusal, Remembered, Source, Taught};
use crate::pki::Fingerprint;

/// Called for every change.
type Tell = Box<dyn Fn(Change) + Send + Sync>;

/// The handle that workers, the control thread and commands share.
pub struct Lessons {
    learned: Mutex<Learned>,
    tell: Tell,
}

impl Lessons {
    /// Starts with the refusals of the last run; calls `tell` for every change, outside the lock.
    pub fn new(remembered: &[Remembered], tell: impl Fn(Change) + Send + Sync + 'static) -> Self {
        let mut learned = Learned::default();
        learned.restore(remembered);
        Self { learned: Mutex::new(learned), tell: Box::new(tell) }
    }

    /// The source's refusals.
    pub fn taught(&self, source: &Source, now: Timestamp) -> Option<Taught> {
        self.lock().taught(source, now)
    }

    /// Records a refusal; `next` is the pair to show instead. Returns whether the source is shown it from now on.
    pub fn refused(&self, refusal: &Refusal<'_>, next: Option<Fingerprint>, now: Timestamp) -> bool {
        let mut learned = self.lock();
        let changes = learned.refused(refusal, next, now);
        let shown = learned.taught(refusal.source, now).and_then(|taught| taught.shown);
        drop(learned);
        self.told(changes);
        shown.is_some() && shown == next
    }

    /// Records a verified handshake of a source.
    pub fn accepted(&self, accepted: &Acceptance<'_>, now: Timestamp) {
        let changes = self.lock().accepted(accepted, now);
        self.told(changes);
    }

    /// Removes expired refusals. `in_overlap` are the pairs in overlap on any listener.
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

    /// Forgets a source's refusals ([`Learned::forget`]); returns how many there were.
    pub fn forget(&self, source: &str) -> usize {
        let changes = self.lock().forget(source);
        let count = changes.len();
        self.told(changes);
        count
    }

    /// All recorded refusals.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries()
    }

    /// The confirmed refusals, if they have changed since `revision`, with the new revision.
    pub fn changed_since(&self, revision: u64) -> Option<(u64, Vec<Remembered>)> {
        let learned = self.lock();
        (learned.revision() != revision).then(|| (learned.revision(), learned.remembered()))
    }

    fn told(&self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| (self.tell)(change));
    }

    /// A panic leaves no partial update here, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Lessons {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(out)
    }
}
