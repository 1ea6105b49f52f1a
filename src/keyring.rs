//! Keyrings: a named set of key pairs used for one purpose, and the rules that move a pair from standing to standing.
//!
//! Pure: no I/O, no clock, no log. The writer feeds it what the folder holds, the configuration and the time, and it
//! answers with [`Event`]s. The proxy asks [`choice::choose`] which pair to show.

pub mod choice;
pub mod fit;
pub mod learned;
#[cfg(test)]
pub(crate) mod pool;
pub mod proved;
pub mod report;
pub mod rotation;
pub mod warning;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::pki::{FileName, Fingerprint};

pub use choice::{Asked, Candidate, Candidates, Choice, ChosenBy, Known, Show, choose, choose_for};
pub use learned::Lessons;
pub use proved::{Probe, Proved, Verdict};
pub use rotation::{Held, Keyring, Remembered};

/// A keyring's name: the sub-folder's, `default` for the top of the watched folder.
pub type KeyringName = Arc<str>;

/// What the configuration says of one keyring (`[keyring.NAME]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name.
    pub name: KeyringName,
    /// What it is for.
    pub purpose: Option<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Where alerts go.
    pub contact: Option<String>,
    /// How long a replaced pair stays valid beside its successor.
    pub overlap: Duration,
    /// Which pair is shown when nothing else decides.
    pub prefer: Prefer,
    /// Whether an arrival becomes current by itself.
    pub activate: Activate,
    /// The pair that is current whatever else the folder holds.
    pub current: Option<Fingerprint>,
    /// Pairs that never serve again.
    pub revoked: BTreeSet<Fingerprint>,
    /// Whether an extended key usage that excludes one of `roles` refuses the pair.
    pub eku: Eku,
    /// What happens when the last usable pair expires.
    pub on_expiry: OnExpiry,
    /// How long after `not_before` a pair that came too early starts to serve.
    pub skew: Duration,
    /// The roles that listeners and upstreams give it.
    pub roles: Roles,
    /// The schedule that the registry holds the owner to.
    pub rotate_every: Option<Duration>,
    /// How long before an expiry the owner is told, the longest first; `None` ("auto"): by the certificate's lifetime.
    pub alert_before: Option<Vec<Duration>>,
}

impl Settings {
    /// The defaults of the contract for a folder without a section.
    pub fn of(name: KeyringName) -> Self {
        Self {
            name,
            purpose: None,
            owner: None,
            contact: None,
            overlap: Duration::from_hours(30 * 24),
            prefer: Prefer::New,
            activate: Activate::Auto,
            current: None,
            revoked: BTreeSet::new(),
            eku: Eku::Enforce,
            on_expiry: OnExpiry::Serve,
            skew: Duration::from_mins(1),
            roles: Roles::default(),
            rotate_every: None,
            alert_before: None,
        }
    }
}

/// `prefer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The current pair.
    #[default]
    New,
    /// The previous pair, as long as its overlap lasts.
    Old,
}

/// `activate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activate {
    /// The rule of contract section 3 chooses.
    #[default]
    Auto,
    /// Arrivals wait as staged until `promote`.
    Manual,
}

/// `eku`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eku {
    /// Refuse.
    #[default]
    Enforce,
    /// Allow with a warning.
    Warn,
}

/// `on_expiry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// Go on showing the last pair: the peer judges it.
    #[default]
    Serve,
    /// Show nothing.
    Refuse,
}

/// The sides a keyring is used on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
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
    /// Waits: for its `not_before`, or for `promote`.
    Staged,
    /// The one that is shown by default.
    Current,
    /// Replaced, and valid beside its successor until the overlap ends.
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

/// What an operator asks of a keyring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make this pair current (a staged one, or a previous one).
    Promote(Fingerprint),
    /// Make the latest previous pair current again, and hold the one rolled back from.
    Rollback,
    /// End this previous pair's overlap now.
    Retire(Fingerprint),
    /// This pair never serves again; what was kept of it is deleted.
    Revoke(Fingerprint),
}

/// What happened to a keyring. Every change of standing is one.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A pair got another standing. A rotation is the one whose `to` is `current` while `replaces` is some.
    Moved {
        /// Which keyring.
        keyring: KeyringName,
        /// Which pair.
        key_pair: Fingerprint,
        /// Its standing before; `None` for one never seen.
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
    /// The last usable pair expired and is still shown (`on_expiry = "serve"`), or no longer is (`refuse`).
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
