//! Queries on a keyring: which pairs may be shown or must be kept, and when the next change is due.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::choice::PairTraits;
use super::super::fit::add_saturating;
use super::super::{ExpiryPolicy, KeyPairCandidate, KeyringName, PreferPolicy, Standing};
use super::Keyring;
use super::entry::{HeldPair, KeyringEntry, OverlapPeriod, PersistedKeyring, ROLLBACK_WINDOW, StagedPair};
use crate::pki::{Fingerprint, KeyPair};

impl Keyring {
    /// The pairs that may be shown: current then previous, as [`super::super::CandidateList`] needs them; if none is
    /// valid, the pair in use as a last resort (unless `on_expiry = "refuse"`).
    ///
    /// `prefer = "old"` does not bring back a pair that a rollback replaced.
    pub fn shown(&self, now: Timestamp) -> Vec<(KeyPairCandidate, Arc<KeyPair>)> {
        let previous = self.previous();
        let rolled_back = previous.first().is_some_and(|held| self.held.contains(&held.pair.fingerprint()));
        let prefer = if rolled_back { PreferPolicy::New } else { self.settings.prefer };
        let in_use = self.current().into_iter().chain(previous);
        let valid: Vec<_> =
            in_use.filter(|held| held.pair.is_valid(now)).map(|held| self.candidate(held, prefer, false)).collect();
        if valid.is_empty() && self.settings.on_expiry == ExpiryPolicy::Serve {
            return self.current().map(|held| self.candidate(held, prefer, true)).into_iter().collect();
        }
        valid
    }

    /// What must survive a restart.
    pub fn to_persisted(&self) -> PersistedKeyring {
        let mut out = self.past.clone();
        out.held.clone_from(&self.held);
        out.revoked.clone_from(&self.revoked.by_command);
        for (key_pair, entry) in &self.entries {
            let since = entry.held.since;
            match entry.held.standing {
                Standing::Current => out.current = Some(*key_pair),
                Standing::Previous => {
                    let replaced = entry.replaced.unwrap_or(since);
                    let ends = entry.held.overlap_ends.unwrap_or(since);
                    out.previous.insert(*key_pair, OverlapPeriod { replaced, ends });
                }
                Standing::Retired => {
                    out.retired.insert(*key_pair, since);
                }
                Standing::Staged => {
                    out.staged.insert(*key_pair, StagedPair { since, due: entry.due, waits: entry.waits });
                }
                Standing::Refused | Standing::Revoked => continue,
            }
            if let Some(activated) = entry.activated {
                out.activated.insert(*key_pair, activated);
            }
        }
        out
    }

    /// Pairs that must be kept on disk: those in use, because their files may be overwritten at any time, and for a
    /// week retired ones without files. Never a revoked one.
    pub fn to_retain(&self, now: Timestamp) -> Vec<Arc<KeyPair>> {
        let keeps = |entry: &&KeyringEntry| match entry.held.standing {
            Standing::Current | Standing::Previous => true,
            Standing::Retired => {
                !entry.held.in_folder && (!self.steady || now < add_saturating(entry.held.since, ROLLBACK_WINDOW))
            }
            Standing::Refused | Standing::Staged | Standing::Revoked => false,
        };
        self.entries.values().filter(keeps).map(|entry| Arc::clone(&entry.held.pair)).collect()
    }

    /// When the next change is due, if any: a staged pair, the end of an overlap, an expiry.
    pub fn next_due(&self) -> Option<Timestamp> {
        let second = Duration::from_secs(1);
        let due = |entry: &KeyringEntry| {
            let expired = add_saturating(entry.held.pair.validity().not_after, second);
            match entry.held.standing {
                Standing::Staged => entry.due.or(Some(expired)),
                Standing::Current if self.last_resort.is_none() => Some(expired),
                Standing::Previous => entry.held.overlap_ends,
                Standing::Retired if !entry.held.in_folder => Some(add_saturating(entry.held.since, ROLLBACK_WINDOW)),
                _ => None,
            }
        };
        self.entries.values().filter_map(due).min()
    }

    /// The newest pair in the folder, if it is not current, and since when. Refused, staged and held pairs count; pairs
    /// overridden by the configuration and revoked ones do not.
    pub fn divergence(&self) -> Option<(Fingerprint, Timestamp)> {
        let current = self.current_entry();
        let key_pair = |entry: &KeyringEntry| entry.held.pair.fingerprint();
        if current.is_some_and(|current| self.settings.current == Some(key_pair(current))) {
            return None;
        }
        let newest = self
            .entries
            .values()
            .filter(|entry| entry.held.in_folder && !self.revoked.contains(key_pair(entry)))
            .max_by_key(|entry| entry.rank())?;
        let newer = current.is_none_or(|current| current.rank() < newest.rank());
        newer.then(|| (key_pair(newest), newest.held.since))
    }

    /// Whether anything shown or kept differs from `before`, although no pair changed its standing: other
    /// intermediates, other file names, another `overlap` or `prefer`, an added or removed file.
    pub fn differs_from(&self, before: &Self) -> bool {
        let same = |(one, other): (&HeldPair, &HeldPair)| {
            one.standing == other.standing
                && one.overlap_ends == other.overlap_ends
                && one.in_folder == other.in_folder
                && one.pair.chain() == other.pair.chain()
                && one.pair.origin() == other.pair.origin()
        };
        self.settings != before.settings
            || self.held != before.held
            || self.past != before.past
            || self.entries.len() != before.entries.len()
            || !self.pairs().into_iter().zip(before.pairs()).all(same)
    }

    fn candidate(&self, held: &HeldPair, prefer: PreferPolicy, last_resort: bool) -> (KeyPairCandidate, Arc<KeyPair>) {
        let pair = Arc::clone(&held.pair);
        let candidate = KeyPairCandidate {
            keyring: KeyringName::clone(&self.settings.name),
            key_pair: pair.fingerprint(),
            standing: held.standing,
            validity: pair.validity(),
            dns: pair.end_entity().dns_names().to_vec(),
            schemes: pair.schemes(),
            issuers: pair.issuer_names(),
            traits: PairTraits::from_pair(&pair),
            prefer,
            last_resort,
            sent_alone: (pair.chain().len() == 1 && !pair.end_entity().is_self_issued())
                .then(|| pair.end_entity().issuer().into()),
            in_overlap: self.entries_with(Standing::Previous).next().is_some(),
        };
        (candidate, pair)
    }
}
