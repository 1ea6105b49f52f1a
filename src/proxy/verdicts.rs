//! Whether upstreams accept our key pairs: one small table for all workers, so that what one learns holds for all.
//!
//! It is read only where a keyring is in overlap, and a worker caches a result until the table changes.
//! `keyring::proved` has the rules; `proof` decides what counts as a fact.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::workers::Shared;
use crate::keyring::proved::{Change, How, Order, Pick, Shown};
use crate::keyring::{Proved, Verdict};
use crate::net::HostPort;
use crate::pki::Fingerprint;
use crate::snapshot::{Egress, Epoch};

/// The table.
#[derive(Default)]
pub(super) struct Verdicts {
    known: Mutex<BTreeMap<Arc<str>, Known>>,
    version: AtomicU64,
}

struct Known {
    epoch: Epoch,
    upstream: HostPort,
    proved: Proved,
}

/// Which entry, and when.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) egress: &'a Egress,
    pub(super) epoch: Epoch,
    pub(super) now: Timestamp,
}

impl Verdicts {
    /// Grows with every change; claiming and releasing the canary is not one.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Brings the entry up to the pairs of an epoch, unless it is already.
    pub(super) fn take(&self, of: Of<'_>) {
        self.with(of, |_| ());
    }

    /// Chooses a pair for a request.
    pub(super) fn pick(&self, of: Of<'_>, order: &Order, harmless: bool) -> (Pick, Option<Change>) {
        self.with(of, |proved| proved.pick(order, harmless, of.egress.settings.proof(), of.now))
    }

    /// The next pair to try where `tried` have been refused.
    pub(super) fn next(&self, of: Of<'_>, order: &Order, tried: &[Fingerprint]) -> Option<Fingerprint> {
        self.with(of, |proved| proved.next(order, tried))
    }

    /// Whether this pair is proved.
    pub(super) fn is_proved(&self, of: Of<'_>, key_pair: Fingerprint) -> bool {
        self.with(of, |proved| proved.verdict(key_pair) == Some(Verdict::Proved))
    }

    /// Records a fact and returns what it has changed.
    pub(super) fn note(&self, of: Of<'_>, key_pair: Fingerprint, shown: Shown) -> Option<Change> {
        let change = self.with(of, |proved| proved.note(key_pair, shown, of.egress.settings.proof(), of.now));
        if change.is_some() {
            self.changed();
        }
        change
    }

    /// The pair that has to be probed now, if one has.
    pub(super) fn probe_due(&self, of: Of<'_>, order: &Order) -> Option<Fingerprint> {
        self.with(of, |proved| proved.probe_due(order, of.now))
    }

    /// Claims the canary's place for a probe.
    pub(super) fn claim(&self, of: Of<'_>) -> bool {
        self.with(of, Proved::claim)
    }

    /// Records that a probe has ended.
    pub(super) fn probed(&self, of: Of<'_>, key_pair: Fingerprint) {
        self.with(of, |proved| proved.probed(key_pair, of.egress.settings.proof(), of.now));
        self.changed();
    }

    fn release(&self, name: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(name) {
            known.proved.release();
        }
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Runs `act` on an entry, brought up to the caller's epoch; never back to an earlier one. Another upstream starts
    /// anew.
    fn with<T>(&self, of: Of<'_>, act: impl FnOnce(&mut Proved) -> T) -> T {
        let settings = &of.egress.settings;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(&settings.name) {
            let new = Known { epoch: Epoch(0), upstream: settings.upstream.clone(), proved: Proved::default() };
            known.insert(Arc::clone(&settings.name), new);
        }
        let known = known.get_mut(&settings.name).expect("the entry exists or was just inserted");
        if known.epoch < of.epoch {
            known.epoch = of.epoch;
            if known.upstream != settings.upstream {
                known.upstream = settings.upstream.clone();
                known.proved = Proved::default();
            }
            let pairs: Vec<_> = of.egress.candidates.0.iter().map(|candidate| candidate.key_pair).collect();
            known.proved.take(&pairs, settings.proof(), of.now);
            self.changed();
        }
        act(&mut known.proved)
    }
}

/// The canary's place at one upstream, until this is dropped.
pub(super) struct Canary {
    shared: Arc<Shared>,
    name: Arc<str>,
}

impl Canary {
    /// Holds the place that a pick has taken, if it has.
    pub(super) fn of(pick: Pick, shared: &Arc<Shared>, name: &Arc<str>) -> Option<Self> {
        (pick.how == How::Canary).then(|| Self { shared: Arc::clone(shared), name: Arc::clone(name) })
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.shared.verdicts.release(&self.name);
    }
}
