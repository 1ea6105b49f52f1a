//! The recorded refusals, shared behind one small mutex beside the snapshot, because a refusal by one source must not
//! start an epoch. Locked once before and once after a handshake, and only while a keyring is in overlap.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::{
    PeerProofReport, PersistedRefusal, RefusalChange, RefusalRecord, RefusalReport, RefusalTable, SenderKind,
    ShownPairs,
};
use crate::keyring::choice::SourceRefusals;
use crate::pki::Fingerprint;

/// Called for every change.
type ChangeListener = Box<dyn Fn(RefusalChange) + Send + Sync>;

/// The handle that workers, the control thread and commands share.
pub struct RefusalMemory {
    learned: Mutex<RefusalTable>,
    tell: ChangeListener,
}

impl RefusalMemory {
    /// Starts with the refusals of the last run; calls `tell` for every change, outside the lock.
    pub fn new(remembered: &[PersistedRefusal], tell: impl Fn(RefusalChange) + Send + Sync + 'static) -> Self {
        let mut learned = RefusalTable::default();
        learned.restore(remembered);
        Self { learned: Mutex::new(learned), tell: Box::new(tell) }
    }

    /// What counts for the sender's next handshake ([`RefusalTable::recall`]).
    pub fn recall(&self, sender: &SenderKind, now: Timestamp) -> Option<SourceRefusals> {
        self.lock().recall(sender, now)
    }

    /// Records a refusal. Returns whether the sender is shown `refusal.next` from now on.
    pub fn record_refusal(&self, refusal: &RefusalReport<'_>, now: Timestamp) -> bool {
        let mut learned = self.lock();
        let changes = learned.record_refusal(refusal, now);
        let shown = learned.get(refusal.sender, now).and_then(|taught| taught.shown);
        drop(learned);
        self.notify(changes);
        shown.is_some() && shown == refusal.next
    }

    /// Records that a sender's application data arrived.
    pub fn record_proof(&self, proof: &PeerProofReport<'_>, now: Timestamp) {
        let changes = self.lock().record_proof(proof, now);
        self.notify(changes);
    }

    /// Removes expired refusals. `in_overlap` are the pairs in overlap on any listener.
    pub fn tick(&self, shown: &ShownPairs<'_>, in_overlap: impl FnOnce() -> HashSet<Fingerprint>, now: Timestamp) {
        let mut learned = self.lock();
        if learned.is_empty() {
            return;
        }
        let changes = learned.tick(shown, now);
        learned.retain_pairs(&in_overlap());
        drop(learned);
        self.notify(changes);
    }

    /// Forgets the refusals of a source or an identity ([`RefusalTable::forget`]); returns how many there were.
    pub fn forget(&self, source: &str) -> usize {
        let changes = self.lock().forget(source);
        let count = changes.len();
        self.notify(changes);
        count
    }

    /// After a step of the clock all ages are what they were before it.
    pub fn shift_times(&self, step: SignedDuration) {
        self.lock().shift_times(step);
    }

    /// All recorded refusals.
    pub fn entries(&self) -> Vec<RefusalRecord> {
        self.lock().entries()
    }

    /// The confirmed refusals, if they have changed since `revision`, with the new revision.
    pub fn changed_since(&self, revision: u64) -> Option<(u64, Vec<PersistedRefusal>)> {
        let learned = self.lock();
        (learned.revision() != revision).then(|| (learned.revision(), learned.to_persisted()))
    }

    fn notify(&self, changes: Vec<RefusalChange>) {
        changes.into_iter().for_each(|change| (self.tell)(change));
    }

    /// A panic leaves no partial update here, so a poisoned lock is safe to use.
    fn lock(&self) -> MutexGuard<'_, RefusalTable> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RefusalMemory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock().fmt(out)
    }
}
