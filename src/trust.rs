//! Trust: the anchors, pins and CRLs that a peer is verified against, its identity, and what it may do.
//!
//! Pure: no I/O, no clock, no log. Two halves: [`anchors::Anchors`] is the writer's state (overlap, `until`, files that
//! vanish), [`Trust`] is what an epoch verifies with: immutable, all accepted together, its cache born empty.

pub mod allow;
pub mod anchors;
mod cache;
mod crl;
pub mod matched;
mod matcher;
pub mod partner;
pub mod peer;
mod presented;
#[cfg(test)]
pub(crate) mod sample;
pub mod usage;
mod verdict;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::keyring::KeyringName;
use crate::pki::{Fingerprint, SpkiHash, Validity};

pub use allow::{AccessDenied, AccessRule, AccessRules, AllowList};
pub use anchors::Anchors;
pub use matcher::PeerMatcher;
pub use partner::{Partner, Partners};
pub use peer::Peer;
pub use presented::{ChainHash, PresentedChain};
pub use verdict::{PeerRole, TrustError, Verified};
pub use verify::Trust;

/// The name of a trust. A keyring's own `ca.crt` has the name of its keyring behind [`OWN_TRUST_PREFIX`].
pub type TrustName = Arc<str>;

/// What the name of a trust begins with that a keyring's own `ca.crt` is; its keyring follows. No name of the configuration
/// can begin so.
pub const OWN_TRUST_PREFIX: &str = "own:";

/// A trust in a sentence: `trust partners`, or `the trust of keyring api` where it is that keyring's own `ca.crt`.
pub fn describe_trust(name: &str) -> String {
    match name.strip_prefix(OWN_TRUST_PREFIX) {
        Some(keyring) => format!("the trust of keyring {keyring}"),
        None => format!("trust {name}"),
    }
}

/// The same, its name in quotes.
pub fn quote_trust(name: &str) -> String {
    match name.strip_prefix(OWN_TRUST_PREFIX) {
        Some(keyring) => format!("the trust of keyring {keyring:?}"),
        None => format!("trust {name:?}"),
    }
}

/// The configuration of one trust (`[trust.NAME]`), or of the one that a keyring's own `ca.crt` makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustSettings {
    /// Its name.
    pub name: TrustName,
    /// Where its anchors come from.
    pub anchors: Vec<AnchorSource>,
    /// Pins, matched on the verified path.
    pub pins: Vec<Pin>,
    /// Self-signed partners: a pin on the end entity is enough, no chain (validity still checked).
    pub pin_only: bool,
    /// CRL files, under the watched folder; for a keyring's own trust its folder, with every list in it.
    pub crls: Vec<PathBuf>,
    /// `crl_depth`: the end entity only, or every certificate of the path.
    pub crl_whole_chain: bool,
    /// `crl_required`: an issuer without a CRL refuses.
    pub crl_required: bool,
    /// `crl_stale = "refuse"`: a CRL past its next update refuses.
    pub crl_stale_refuses: bool,
    /// `client_eku = "require"`: an extended key usage, where there is one, must allow clientAuth.
    pub client_eku_required: bool,
    /// How long anchors that vanish stay accepted.
    pub overlap: Duration,
}

impl TrustSettings {
    /// The default settings, with these sources of anchors.
    pub fn with_anchors(name: TrustName, anchors: Vec<AnchorSource>) -> Self {
        Self {
            name,
            anchors,
            pins: Vec::new(),
            pin_only: false,
            crls: Vec::new(),
            crl_whole_chain: false,
            crl_required: false,
            crl_stale_refuses: false,
            client_eku_required: true,
            overlap: Duration::ZERO,
        }
    }
}

/// Where anchors come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnchorSource {
    /// A file under the watched folder (relative path), accepted until a date if one is given.
    File {
        /// Relative to the watched folder.
        path: PathBuf,
        /// `until`.
        until: Option<Timestamp>,
    },
    /// `"system"`: the platform's.
    System,
    /// The `ca.crt` in a keyring's own folder.
    Own(KeyringName),
}

/// A pin: SHA-256 of a SubjectPublicKeyInfo, accepted until a date if one is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    /// What is compared.
    pub spki: SpkiHash,
    /// `until`.
    pub until: Option<Timestamp>,
}

/// What one trust holds, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustContents {
    /// Its name.
    pub name: TrustName,
    /// Its anchors.
    pub anchors: Vec<AnchorView>,
    /// Its pins.
    pub pins: Vec<Pin>,
    /// Its CRLs, the newest first.
    pub crls: Vec<CrlView>,
    /// Whether the configuration names CRLs, or asks for them.
    pub checks_crls: bool,
    /// Whether a CRL that is out of date refuses.
    pub stale_refuses: bool,
    /// Its files that cannot be used now.
    pub faults: Vec<TrustFileFault>,
}

impl TrustContents {
    /// The trust in a sentence.
    pub fn describe_trust(&self) -> String {
        describe_trust(&self.name)
    }
}

/// A file of a trust that is missing, empty or malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustFileFault {
    /// Which file.
    pub file: String,
    /// Why, one sentence with what to do.
    pub why: String,
    /// What was read from it before and stays in use.
    pub kept: KeptContent,
    /// Since when.
    pub since: Timestamp,
}

/// What stays in use of a file that can no longer be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptContent {
    /// What was read from it last.
    LastUsable,
    /// Nothing was ever read from it; it is to hold anchors, which no peer is verified with until then.
    NoAnchors,
    /// Nothing was ever read from it; it is to hold CRLs, and what these should cover is refused until then.
    NoCrls,
}

impl KeptContent {
    /// What follows from it, as the end of a sentence.
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::LastUsable => "what it held last stays in use",
            Self::NoAnchors => "nothing was ever read from it, so that it vouches for no peer",
            Self::NoCrls => {
                "nothing was ever read from it, so that peers whose revocation it should cover are refused \
                 (revocation_unknown)"
            }
        }
    }
}

impl CrlView {
    /// From when an operator is warned that it will be out of date: a quarter of its period before, at least a day; of a list
    /// for at most a day, a quarter.
    pub fn warned_from(&self) -> Timestamp {
        let day = Duration::from_hours(24);
        let period = self.next_update.duration_since(self.this_update).unsigned_abs();
        let before = if period <= day { period / 4 } else { (period / 4).max(day) };
        self.next_update.checked_sub(before).unwrap_or(Timestamp::MIN)
    }
}

impl TrustContents {
    /// Anchors that the operator has to renew: a file names them, they are not to be removed, and no other one of the
    /// same name lasts longer.
    pub fn anchors_to_renew(&self) -> impl Iterator<Item = &AnchorView> {
        let end = |anchor: &AnchorView| anchor.validity.not_after;
        self.anchors.iter().filter(move |anchor| {
            let renewed = |other: &AnchorView| other.subject == anchor.subject && end(other) > end(anchor);
            !anchor.platform
                && anchor.until.is_none_or(|until| until > end(anchor))
                && !self.anchors.iter().any(renewed)
        })
    }
}

/// One anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorView {
    /// Its fingerprint.
    pub anchor: Fingerprint,
    /// Its subject, printable.
    pub subject: String,
    /// Its validity.
    pub validity: Validity,
    /// Until when it is accepted, if not for ever.
    pub until: Option<Timestamp>,
    /// No file names it: it is one of the platform's.
    pub platform: bool,
    /// Why no peer can be verified with it, if so: half a sentence.
    pub cannot_vouch: Option<String>,
}

/// One CRL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlView {
    /// Its issuer, printable.
    pub issuer: String,
    /// The anchors that have its issuer's name.
    pub anchors: Vec<Fingerprint>,
    /// When it was made.
    pub this_update: Timestamp,
    /// When the next one is due at the latest.
    pub next_update: Timestamp,
    /// How many certificates it revokes.
    pub revoked: usize,
}

/// What happened to a trust.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrustEvent {
    /// A trust anchor was added.
    AnchorAdded {
        /// Which trust.
        trust: TrustName,
        /// Which anchor.
        anchor: Fingerprint,
        /// Its subject, printable.
        subject: String,
    },
    /// A trust anchor was added with which no peer can be verified.
    AnchorCannotVouch {
        /// Which trust.
        trust: TrustName,
        /// Which anchor.
        anchor: Fingerprint,
        /// Its subject, printable.
        subject: String,
        /// Why, half a sentence.
        why: String,
    },
    /// A trust anchor vanished from its file and is scheduled for removal.
    AnchorLeaving {
        /// Which trust.
        trust: TrustName,
        /// Which anchor.
        anchor: Fingerprint,
        /// Its subject, printable.
        subject: String,
        /// Until when.
        until: Timestamp,
    },
    /// A trust anchor was removed.
    AnchorRemoved {
        /// Which trust.
        trust: TrustName,
        /// Which anchor.
        anchor: Fingerprint,
        /// Its subject, printable.
        subject: String,
        /// `vanished`, `until`, `overlap_ended`, `configured`.
        reason: &'static str,
    },
    /// A file is missing, empty or malformed: the last good set stays.
    FileKept {
        /// Which trust.
        trust: TrustName,
        /// Which file.
        file: String,
        /// Why, one sentence with what to do.
        why: String,
        /// What stays in use.
        kept: KeptContent,
    },
    /// A file that could not be used can be used again.
    FileUsable {
        /// Which trust.
        trust: TrustName,
        /// Which file.
        file: String,
    },
    /// CRLs were loaded.
    CrlsChanged {
        /// Which trust.
        trust: TrustName,
        /// How many.
        count: usize,
    },
    /// A CRL is past its next update (`crl_stale` decides what follows).
    CrlStale {
        /// Which trust.
        trust: TrustName,
        /// The list's issuer, printable.
        issuer: String,
        /// Its next update.
        due: Timestamp,
    },
}
