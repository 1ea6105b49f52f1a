//! One refusal of a source: recorded, changed, kept over a restart; and the reports that lead to it.

use std::time::Duration;

use jiff::Timestamp;

use super::source::PeerSource;
use crate::keyring::KeyringName;
use crate::keyring::fit::add_saturating;
use crate::pki::Fingerprint;

/// How long an unconfirmed refusal holds.
pub const UNCONFIRMED_LIFETIME: Duration = Duration::from_hours(1);
/// Alerts about the certificate that was shown (42 to 46, 48), as RFC 8446 6 names them.
const CERTIFICATE_ALERTS: [&str; 6] = [
    "bad_certificate",
    "unsupported_certificate",
    "certificate_revoked",
    "certificate_expired",
    "certificate_unknown",
    "unknown_ca",
];

/// The alert's name as a static string, if it is about the certificate.
pub fn certificate_alert(alert: &str) -> Option<&'static str> {
    CERTIFICATE_ALERTS.into_iter().find(|known| *known == alert)
}

/// The status of a source's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalStatus {
    /// The source sent an alert, which is not authenticated.
    Unconfirmed,
    /// The source completed a verified handshake on the previous pair.
    Confirmed,
    /// The refusal no longer holds.
    Forgotten,
}

impl RefusalStatus {
    /// As in logs and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::Confirmed => "confirmed",
            Self::Forgotten => "forgotten",
        }
    }
}

/// One recorded refusal, as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RefusalRecord {
    /// The source that refused.
    pub source: PeerSource,
    /// The keyring it is about.
    pub keyring: KeyringName,
    /// The refused pairs, in order.
    pub refused: Vec<Fingerprint>,
    /// The pair that it is shown instead.
    pub shown: Fingerprint,
    /// `Unconfirmed` or `Confirmed`.
    pub standing: RefusalStatus,
    /// The alert's name.
    pub reason: &'static str,
    /// The first refusal.
    pub since: Timestamp,
    /// The identity of the peer that confirmed it.
    pub peer: Option<String>,
    /// That peer's certificate.
    pub peer_fingerprint: Option<Fingerprint>,
    /// A hash of its ClientHello's offer.
    #[serde(skip)]
    pub(super) offer: u64,
}

/// A confirmed refusal in its persisted form.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PersistedRefusal {
    pub(super) source: PeerSource,
    pub(super) keyring: KeyringName,
    pub(super) refused: Vec<Fingerprint>,
    pub(super) shown: Fingerprint,
    pub(super) reason: String,
    pub(super) since: Timestamp,
    pub(super) peer: Option<String>,
    pub(super) peer_fingerprint: Option<Fingerprint>,
    pub(super) offer: u64,
}

/// A changed refusal: its state now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalChange {
    /// The refusal.
    pub entry: RefusalRecord,
    /// Its new status.
    pub standing: RefusalStatus,
    /// Stable code: the alert's name, `verified_on_previous`, `accepts_it_now`, `overlap_ended`, `by_command`, `expired`
    /// or `evicted`.
    pub reason: &'static str,
}

/// A source that refused a pair.
#[derive(Clone, Copy, Debug)]
pub struct RefusalReport<'a> {
    /// The source.
    pub source: &'a PeerSource,
    /// The keyring of the pair.
    pub keyring: &'a KeyringName,
    /// The pair.
    pub key_pair: Fingerprint,
    /// The alert's name ([`certificate_alert`]).
    pub alert: &'static str,
    /// A hash of its ClientHello's offer.
    pub offer: u64,
}

/// A source that completed a verified handshake.
#[derive(Clone, Copy, Debug)]
pub struct AcceptanceReport<'a> {
    /// The source.
    pub source: &'a PeerSource,
    /// The pair that it was shown.
    pub key_pair: Fingerprint,
    /// The fingerprint of its certificate, and its identity.
    pub peer: (Fingerprint, &'a str),
    /// A hash of its ClientHello's offer.
    pub offer: u64,
}

impl RefusalRecord {
    /// Whether it no longer holds although it was not removed yet.
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.standing == RefusalStatus::Unconfirmed && add_saturating(self.since, UNCONFIRMED_LIFETIME) <= now
    }
}

impl RefusalChange {
    /// One sentence for people. Names and addresses are already printable.
    pub fn explanation(&self) -> String {
        let RefusalRecord { source, shown, peer, .. } = &self.entry;
        let refused: Vec<String> = self.entry.refused.iter().map(|key_pair| key_pair.short()).collect();
        let (refused, shown) = (refused.join(", "), shown.short());
        match (self.standing, self.reason) {
            (RefusalStatus::Unconfirmed, alert) => format!(
                "{source} answered key pair {refused} with the alert {alert}: it will be shown {shown} from its next \
                 connection on, for an hour unless it completes a verified handshake on that one"
            ),
            (RefusalStatus::Confirmed, _) => format!(
                "{} from {source} completed a handshake on {shown} after refusing {refused}: it will be shown {shown} \
                 until that pair's overlap ends; ask its operator to trust the issuer of the new one before then",
                peer.as_deref().unwrap_or("a peer"),
            ),
            (RefusalStatus::Forgotten, "overlap_ended") => {
                format!("{shown}, which {source} was shown instead of {refused}, is no longer in overlap with it")
            }
            (RefusalStatus::Forgotten, "expired") => {
                format!(
                    "{source} did not complete a verified handshake on {shown} within an hour of refusing {refused}"
                )
            }
            (RefusalStatus::Forgotten, "by_command") => {
                format!("an operator cleared the refusal of {refused} by {source}")
            }
            (RefusalStatus::Forgotten, "accepts_it_now") => {
                format!("{source} completed a verified handshake on {refused}")
            }
            (RefusalStatus::Forgotten, "evicted") => {
                format!("too many sources refused key pairs: the refusal of {refused} by {source} was dropped")
            }
            (RefusalStatus::Forgotten, alert) => {
                format!("{source} also answered {shown} with the alert {alert}: its refusals are dropped")
            }
        }
    }
}
