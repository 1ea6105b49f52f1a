//! One refusal of a source: recorded, changed, kept over a restart; and the reports that lead to it.

use std::time::Duration;

use jiff::Timestamp;

use super::cure::RefusalClass;
use super::source::{PeerSource, SenderKind};
use super::trial::{PersistedTrial, TrialSchedule};
use crate::keyring::KeyringName;
use crate::keyring::fit::add_saturating;
use crate::pki::Fingerprint;

/// How long an unconfirmed refusal holds after its sender came last: a batch that comes once a month is served too.
pub const UNCONFIRMED_LIFETIME: Duration = Duration::from_hours(35 * 24);
/// The reasons of refusals without an alert: the connection ended within the handshake, or after it without a request.
pub const SILENT_REASONS: [&str; 2] = ["ended_in_handshake", "ended_without_data"];

/// The status of a source's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalStatus {
    /// The source sent an alert or ended without one, which is not authenticated.
    Unconfirmed,
    /// A verified peer there completed a request on the previous pair.
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
    /// The alert's name, or one of [`SILENT_REASONS`].
    pub reason: &'static str,
    /// The first refusal.
    pub since: Timestamp,
    /// When it was refused or used last.
    #[serde(skip)]
    pub(super) last: Timestamp,
    /// The identity of the peer that confirmed it.
    pub peer: Option<String>,
    /// That peer's certificate.
    pub peer_fingerprint: Option<Fingerprint>,
    /// A hash of its ClientHello's offer.
    #[serde(skip)]
    pub(super) offer: u64,
    /// When it is shown the refused pair again.
    #[serde(skip)]
    pub(super) trials: TrialSchedule,
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
    /// `None`: written by a version that did not tell kinds of senders apart as this one does.
    #[serde(default)]
    pub(super) trial: Option<PersistedTrial>,
}

impl PersistedRefusal {
    pub(super) fn from_record(entry: &RefusalRecord) -> Self {
        Self {
            source: entry.source.clone(),
            keyring: KeyringName::clone(&entry.keyring),
            refused: entry.refused.clone(),
            shown: entry.shown,
            reason: entry.reason.to_owned(),
            since: entry.since,
            peer: entry.peer.clone(),
            peer_fingerprint: entry.peer_fingerprint,
            offer: entry.offer,
            trial: entry.trials.to_persisted(),
        }
    }

    pub(super) fn to_record(&self) -> RefusalRecord {
        let silent = SILENT_REASONS.into_iter().find(|reason| *reason == self.reason);
        let alert = RefusalClass::find(&self.reason).map(|(alert, _)| alert);
        RefusalRecord {
            source: self.source.clone(),
            keyring: KeyringName::clone(&self.keyring),
            refused: self.refused.clone(),
            shown: self.shown,
            standing: RefusalStatus::Confirmed,
            reason: silent.or(alert).unwrap_or("remembered"),
            since: self.since,
            last: self.since,
            peer: self.peer.clone(),
            peer_fingerprint: self.peer_fingerprint,
            offer: if self.trial.is_some() { self.offer } else { SenderKind::ANY_OFFER },
            trials: TrialSchedule::from_persisted(self.trial),
        }
    }
}

/// A changed refusal: its state now, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalChange {
    /// The refusal.
    pub entry: RefusalRecord,
    /// Its new status.
    pub standing: RefusalStatus,
    /// Stable code: the alert's name, `ended_in_handshake`, `ended_without_data`, `verified_on_previous`,
    /// `held_pair_ended`, `accepts_it_now`, `overlap_ended`, `by_command`, `expired` or `evicted`.
    pub reason: &'static str,
}

/// A sender that refused a pair.
#[derive(Clone, Copy, Debug)]
pub struct RefusalReport<'a> {
    /// The sender.
    pub sender: &'a SenderKind,
    /// The keyring of the pair.
    pub keyring: &'a KeyringName,
    /// The pair.
    pub key_pair: Fingerprint,
    /// The alert's name, or one of [`SILENT_REASONS`].
    pub reason: &'static str,
    /// The certificate of the sender, where its handshake was complete.
    pub certificate: Option<Fingerprint>,
    /// The pair that could cure it and that `choose` would show instead; `None`: no other.
    pub next: Option<Fingerprint>,
}

/// A sender whose application data arrived on a connection that showed a pair.
#[derive(Clone, Copy, Debug)]
pub struct PeerProofReport<'a> {
    /// The sender.
    pub sender: &'a SenderKind,
    /// The pair.
    pub key_pair: Fingerprint,
    /// Whether it is its keyring's current one: only that settles anything.
    pub current: bool,
    /// The peer: its certificate and its identity; `None` without a certificate.
    pub peer: Option<(Fingerprint, &'a str)>,
}

impl RefusalRecord {
    /// An unconfirmed refusal that begins now.
    pub(super) fn begin(refusal: &RefusalReport<'_>, shown: Fingerprint, now: Timestamp) -> Self {
        Self {
            source: refusal.sender.source.clone(),
            keyring: KeyringName::clone(refusal.keyring),
            refused: vec![refusal.key_pair],
            shown,
            standing: RefusalStatus::Unconfirmed,
            reason: refusal.reason,
            since: now,
            last: now,
            peer: None,
            peer_fingerprint: None,
            offer: refusal.sender.offer,
            trials: TrialSchedule::default(),
        }
    }

    /// What it is found by.
    pub(super) fn key(&self) -> SenderKind {
        SenderKind { source: self.source.clone(), offer: self.offer }
    }

    /// Whether it no longer holds although it was not removed yet.
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.standing == RefusalStatus::Unconfirmed && add_saturating(self.last, UNCONFIRMED_LIFETIME) <= now
    }
}

impl RefusalChange {
    /// One sentence for people. Names and addresses are already printable.
    pub fn explanation(&self) -> String {
        let RefusalRecord { source, shown, peer, .. } = &self.entry;
        let refused: Vec<String> = self.entry.refused.iter().map(|key_pair| key_pair.short()).collect();
        let (refused, shown) = (refused.join(", "), shown.short());
        match (self.standing, self.reason) {
            (RefusalStatus::Unconfirmed, "held_pair_ended") => format!(
                "the key pair that {source} was shown instead of {refused} is no longer in use: it will be shown {shown} from its \
                 next connection on"
            ),
            (RefusalStatus::Unconfirmed, alert) => format!(
                "{source} {} key pair {refused}: it will be shown {shown} from its next connection on, for 35 days \
                 unless it completes a request on that one",
                refused_how(alert),
            ),
            (RefusalStatus::Confirmed, _) => format!(
                "{} from {source} completed a request on {shown} after it refused {refused}: it will be shown {shown} \
                 until that pair's overlap ends, and {refused} again from time to time; ask its operator to trust the \
                 issuer of the new one before then",
                peer.as_deref().unwrap_or("a peer"),
            ),
            (RefusalStatus::Forgotten, "overlap_ended") => {
                format!("{shown}, which {source} was shown instead of {refused}, is no longer in overlap with it")
            }
            (RefusalStatus::Forgotten, "expired") => {
                format!("{source} has not come for 35 days since it refused {refused}, or used {shown}")
            }
            (RefusalStatus::Forgotten, "by_command") => {
                format!("an operator cleared the refusal of {refused} by {source}")
            }
            (RefusalStatus::Forgotten, "accepts_it_now") => {
                format!("{source} completed a request on {refused}")
            }
            (RefusalStatus::Forgotten, "evicted") => {
                format!("too many sources refused key pairs: the refusal of {refused} by {source} was dropped")
            }
            (RefusalStatus::Forgotten, alert) => {
                format!("{source} {} {shown} as well: its refusals are dropped", refused_how(alert))
            }
        }
    }
}

/// What a refusal was, as a verb whose object is the pair.
fn refused_how(reason: &str) -> String {
    match reason {
        "ended_in_handshake" => "twice ended the handshake without an alert after it was shown".to_owned(),
        "ended_without_data" => "twice ended the connection without a request after it was shown".to_owned(),
        alert => format!("answered with the alert {alert} to"),
    }
}
