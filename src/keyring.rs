//! Keyrings: a named set of key pairs used for one purpose, and the rules that move a pair from standing to standing.
//!
//! Pure: no I/O, no clock, no log. The writer passes in the folder's contents, the configuration and the time, and gets
//! [`KeyringEvent`]s back. The proxy calls [`choice::choose`] to select the pair to show.

pub mod choice;
pub mod demand;
pub mod fit;
#[cfg(test)]
pub(crate) mod pool;
pub mod rotation;
pub mod warning;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::pki::{FileName, Fingerprint};

pub use choice::{
    CandidateList, KeyPairCandidate, KeyPairSelection, PeerHints, PeerRequirements, SelectionReason, ShowPolicy,
    choose, choose_with_hints,
};
pub use rotation::{HeldPair, Keyring, PersistedKeyring};

/// A keyring's name: the name of its sub-folder, `default` for the top of the watched folder.
pub type KeyringName = Arc<str>;

/// The configuration of one keyring (`[keyring.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringSettings {
    /// Its name.
    pub name: KeyringName,
    /// What it is for.
    pub purpose: Option<String>,
    /// The owner.
    pub owner: Option<String>,
    /// Where alerts go.
    pub contact: Option<String>,
    /// How long a replaced pair stays valid beside its successor.
    pub overlap: Duration,
    /// Senders seen in this time before now have a say in the rotation report.
    pub seen_within: Duration,
    /// Which pair to show when nothing else decides.
    pub prefer: PreferPolicy,
    /// Whether a new pair becomes current automatically.
    pub activate: ActivationPolicy,
    /// The pair that is current whatever else the folder holds.
    pub current: Option<Fingerprint>,
    /// Pairs that never serve again.
    pub revoked: BTreeSet<Fingerprint>,
    /// Whether an extended key usage that excludes one of `roles` refuses the pair.
    pub eku: EkuPolicy,
    /// What happens when the last usable pair expires.
    pub on_expiry: ExpiryPolicy,
    /// How long after `not_before` a pair that arrived early starts to serve.
    pub skew: Duration,
    /// The roles in which listeners and upstreams use it.
    pub roles: KeyringRoles,
    /// The rotation schedule that the registry checks.
    pub rotate_every: Option<Duration>,
    /// How long before an expiry to alert the owner, longest first; `None` ("auto"): by the certificate's lifetime.
    pub alert_before: Option<Vec<Duration>>,
}

impl KeyringSettings {
    /// The contract's defaults for a folder without a configuration section.
    pub fn with_defaults(name: KeyringName) -> Self {
        Self {
            name,
            purpose: None,
            owner: None,
            contact: None,
            overlap: Duration::from_hours(30 * 24),
            seen_within: Duration::from_hours(35 * 24),
            prefer: PreferPolicy::New,
            activate: ActivationPolicy::Auto,
            current: None,
            revoked: BTreeSet::new(),
            eku: EkuPolicy::Enforce,
            on_expiry: ExpiryPolicy::Serve,
            skew: Duration::from_mins(1),
            roles: KeyringRoles::default(),
            rotate_every: None,
            alert_before: None,
        }
    }
}

/// `prefer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferPolicy {
    /// The current pair.
    #[default]
    New,
    /// The previous pair, as long as its overlap lasts.
    Old,
}

/// `activate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationPolicy {
    /// The rule of contract section 3 chooses.
    #[default]
    Auto,
    /// Arrivals wait as staged until `promote`.
    Manual,
}

/// `eku`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EkuPolicy {
    /// Refuse.
    #[default]
    Enforce,
    /// Allow with a warning.
    Warn,
}

/// `on_expiry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryPolicy {
    /// Keep showing the last pair; the peer decides whether to accept it.
    #[default]
    Serve,
    /// Show nothing.
    Refuse,
}

/// The sides on which a keyring is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyringRoles {
    /// An ingress shows it.
    pub server: bool,
    /// An egress shows it.
    pub client: bool,
}

/// Where a key pair stands in its keyring (contract section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Not fit to serve.
    Refused,
    /// Waits for its `not_before`, or for `promote`.
    Staged,
    /// Shown by default.
    Current,
    /// Replaced, but valid alongside its successor until the overlap ends.
    Previous,
    /// Its overlap is over.
    Retired,
    /// Never serves again.
    Revoked,
}

impl Standing {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Staged => "staged",
            Self::Current => "current",
            Self::Previous => "previous",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }
}

/// An operator's command to a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyringCommand {
    /// Make this pair current (a staged one, or a previous one).
    Promote(Fingerprint),
    /// Make the latest previous pair current again, and hold back the one it replaces.
    Rollback,
    /// End this previous pair's overlap now.
    Retire(Fingerprint),
    /// This pair never serves again; its retained files are deleted.
    Revoke(Fingerprint),
}

/// A change to a keyring. Every change of standing is one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum KeyringEvent {
    /// A pair changed its standing. It is a rotation if `to` is `current` and `replaces` is set.
    Moved {
        /// Which keyring.
        keyring: KeyringName,
        /// Which pair.
        key_pair: Fingerprint,
        /// Its standing before; `None` for a new pair.
        from: Option<Standing>,
        /// Its standing now.
        to: Standing,
        /// Stable snake_case code: `arrived`, `newer_arrived`, `older_than_current`, `not_yet_valid`, `shares_no_name`, `activate_manual`, `marked_staged`, `due`, `overlap_ended`, `expired`, `more_than_eight_previous`, `configured`, `promoted`, `rolled_back`, `retired_by_command`, `withdrawn`, `revoked`, `first`, `returned`, or the reason of a refusal.
        reason: &'static str,
        /// One printable sentence for people, with values and what to do.
        explanation: String,
        /// For a rotation: the pair that was current until now.
        replaces: Option<Fingerprint>,
        /// For `previous`: when its overlap ends.
        overlap_ends: Option<Timestamp>,
        /// Files it came from.
        sources: Vec<FileName>,
    },
    /// The last usable pair expired and is still shown (`on_expiry = "serve"`), or no longer shown (`refuse`).
    LastResort {
        /// Which keyring.
        keyring: KeyringName,
        /// Which pair.
        key_pair: Fingerprint,
        /// Since when it has been expired.
        expired: Timestamp,
        /// Whether it is still shown.
        served: bool,
    },
}
