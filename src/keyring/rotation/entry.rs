//! What a keyring holds of each pair, what survives a restart, and why standings are evaluated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::Standing;
use super::super::fit::add_saturating;
use crate::pki::{Fingerprint, KeyPair};

/// How long a retired pair without a file is kept for `rollback`.
pub(super) const ROLLBACK_WINDOW: Duration = Duration::from_hours(7 * 24);
/// At most this many pairs are `previous`.
pub(super) const MAX_PREVIOUS: usize = 8;
/// At most this many retired pairs without files are kept for `rollback`, the latest retired: endless rotations must
/// not fill memory and `state/retained/`.
pub(super) const MAX_RETIRED: usize = 8;

/// One pair and where it stands.
#[derive(Clone, Debug)]
pub struct HeldPair {
    /// The pair.
    pub pair: Arc<KeyPair>,
    /// Where it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Timestamp,
    /// For `previous`: when its overlap ends.
    pub overlap_ends: Option<Timestamp>,
    /// Whether the folder holds it now.
    pub in_folder: bool,
    /// For `refused` and `staged`: why, one sentence. For a pair in use: a warning, if any.
    pub why: Option<String>,
}

/// What must survive a restart: decisions, never keys. The keys of vanished pairs are in `state/retained/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PersistedKeyring {
    /// The current pair.
    pub current: Option<Fingerprint>,
    /// When each pair became current, by pair.
    pub activated: BTreeMap<Fingerprint, Timestamp>,
    /// Previous pairs: when each one was replaced, and when its overlap ends.
    pub previous: BTreeMap<Fingerprint, OverlapPeriod>,
    /// Staged pairs, and what each one waits for.
    pub staged: BTreeMap<Fingerprint, StagedPair>,
    /// Pairs held back after a rollback: not current again until `promote` or new file content.
    pub held: BTreeSet<Fingerprint>,
    /// Retired pairs and when: retained a week longer for `rollback`, and not used again while the folder holds them.
    pub retired: BTreeMap<Fingerprint, Timestamp>,
    /// Revoked by command.
    pub revoked: BTreeSet<Fingerprint>,
}

/// A previous pair's overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OverlapPeriod {
    /// The rotation that replaced it.
    pub replaced: Timestamp,
    /// When it ends.
    pub ends: Timestamp,
}

/// What a staged pair waits for; both can apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StagedPair {
    /// Since when it is staged.
    pub since: Timestamp,
    /// Its `not_before` plus the skew, if it arrived before `not_before`.
    pub due: Option<Timestamp>,
    /// `promote`, and why.
    pub waits: Option<WaitReason>,
}

/// Why a pair waits for `promote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// `activate = "manual"`. Setting it to `auto` ends the wait.
    Manual,
    /// It has no name in common with the pair that was current when it arrived.
    SharesNoName,
    /// Its file says so, as `keyring new` writes it. Removing the line from the file ends the wait.
    Marked,
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such pair here.
    #[error("keyring {keyring:?} has no key pair {key_pair:?}")]
    Unknown {
        /// The keyring.
        keyring: String,
        /// The pair.
        key_pair: Fingerprint,
    },
    /// The pair's standing forbids it.
    #[error("{0}")]
    NotNow(String),
}

/// Why standings are evaluated.
#[derive(Clone, Copy)]
pub(super) enum SettleCause {
    /// Facts changed; the rule chooses.
    Facts,
    /// An operator chose this pair; the code says how.
    Chosen(Fingerprint, &'static str),
}

/// Fingerprints that never serve again.
#[derive(Clone, Debug, Default)]
pub(super) struct RevokedPairs {
    /// By command: persisted across restarts.
    pub(super) by_command: BTreeSet<Fingerprint>,
    /// By the configuration: removing a line takes effect at the next start, so that no pair leaves `revoked` within a
    /// run.
    pub(super) configured: BTreeSet<Fingerprint>,
}

impl RevokedPairs {
    pub(super) fn contains(&self, key_pair: Fingerprint) -> bool {
        self.by_command.contains(&key_pair) || self.configured.contains(&key_pair)
    }
}

/// A pair with all decisions about it.
#[derive(Clone, Debug)]
pub(super) struct KeyringEntry {
    pub(super) held: HeldPair,
    /// The reason code of the last change of standing.
    pub(super) reason: &'static str,
    /// When it last became current.
    pub(super) activated: Option<Timestamp>,
    /// For `previous`: when it was replaced, or arrived as an older one.
    pub(super) replaced: Option<Timestamp>,
    /// For `staged`: its `not_before` plus the skew, if it arrived before `not_before`.
    pub(super) due: Option<Timestamp>,
    /// Why it waits for `promote`, if it does.
    pub(super) waits: Option<WaitReason>,
    /// Retained from the last run, and the folder has not been read since: it may or may not hold the pair.
    pub(super) unread: bool,
}

impl KeyringEntry {
    /// A pair without a standing yet: `settle` assigns one, as to every refused pair.
    pub(super) fn new(pair: Arc<KeyPair>, in_folder: bool, now: Timestamp) -> Self {
        let held = HeldPair { pair, standing: Standing::Refused, since: now, overlap_ends: None, in_folder, why: None };
        Self { held, reason: "arrived", activated: None, replaced: None, due: None, waits: None, unread: false }
    }

    /// Was in use: the checks on arrival no longer apply.
    pub(super) fn has_served(&self) -> bool {
        matches!(self.held.standing, Standing::Current | Standing::Previous | Standing::Retired)
    }

    /// The order by which the current pair is chosen: the greatest wins.
    pub(super) fn rank(&self) -> (Timestamp, Timestamp, Fingerprint) {
        let validity = self.held.pair.validity();
        (validity.not_before, validity.not_after, self.held.pair.fingerprint())
    }

    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.held.pair.is_valid(now)
    }

    pub(super) fn set_standing(&mut self, standing: Standing, reason: &'static str, now: Timestamp) {
        if self.held.standing != standing {
            self.held.since = now;
        }
        self.held.standing = standing;
        self.reason = reason;
    }

    /// Previous from `now` on.
    pub(super) fn begin_overlap(&mut self, now: Timestamp, overlap: Duration, reason: &'static str) {
        self.set_standing(Standing::Previous, reason, now);
        self.replaced = Some(now);
        self.held.overlap_ends = Some(add_saturating(now, overlap).min(self.held.pair.validity().not_after));
    }

    pub(super) fn retire(&mut self, reason: &'static str, now: Timestamp) {
        self.set_standing(Standing::Retired, reason, now);
        self.held.overlap_ends = None;
    }
}
