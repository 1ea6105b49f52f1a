//! What a rotation report is about and what it says: overlap, report, lines, verdict. Its JSON is public.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::keyring::KeyringName;
use crate::pki::Fingerprint;

/// A keyring in overlap, as it is now.
#[derive(Clone, Debug)]
pub struct KeyringOverlap {
    /// Its name.
    pub keyring: KeyringName,
    /// The owner.
    pub owner: Option<String>,
    /// The contact for peers without a partner.
    pub contact: Option<String>,
    /// The new pair.
    pub current: Fingerprint,
    /// When it became current.
    pub rotated: Timestamp,
    /// The old pairs.
    pub previous: Vec<PreviousPair>,
    /// Upstreams that use this keyring: the listener, and host and port.
    pub upstreams: Vec<(Arc<str>, String)>,
}

/// One previous pair of a keyring in overlap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousPair {
    /// The pair.
    pub key_pair: Fingerprint,
    /// When its overlap ends.
    pub ends: Timestamp,
    /// Whether it would survive a restart.
    pub survives_restart: bool,
}

/// The report of one keyring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationReport {
    /// Its name.
    pub keyring: KeyringName,
    /// The owner.
    pub owner: Option<String>,
    /// The contact for peers without a partner.
    pub contact: Option<String>,
    /// The new pair.
    pub current: Fingerprint,
    /// When it became current.
    pub rotated: Timestamp,
    /// The old pairs.
    pub previous: Vec<PreviousPair>,
    /// When the last overlap ends.
    pub ends: Timestamp,
    /// Seconds until then.
    pub seconds_left: i64,
    /// Since when this sidecar records peers, including its registry's records of former processes. Peers seen only
    /// before are unknown.
    pub watched_since: Timestamp,
    /// What is known about the time before this process started.
    pub before: PriorHistory,
    /// Peers, upstreams and sources, those to act on first.
    pub lines: Vec<ReportLine>,
    /// Sources that sent an alert and are not confirmed: they do not affect the verdict.
    pub unconfirmed: u64,
    /// Peers dropped from the bounded memory.
    pub forgotten: u64,
    /// Safe to retire, or what blocks it.
    pub verdict: RotationVerdict,
}

/// The kind of peer that a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKind {
    /// A peer of an ingress, by its identity.
    Peer,
    /// A source address, where no identity is known.
    Source,
    /// The upstream of an egress.
    Upstream,
}

/// A peer's progress to the new pair; the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationProgress {
    /// It refuses the new pair, or requires what only the old one has.
    InsistsOnOld,
    /// It was shown the old pair last, by our own choice.
    StillOnOld,
    /// Its handshakes on the new pair succeed, which proves nothing yet.
    Unproved,
    /// It has not connected since the rotation.
    NotSeen,
    /// It accepts the new pair.
    ProvedNew,
}

impl RotationProgress {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsistsOnOld => "insists on old",
            Self::StillOnOld => "still on old",
            Self::Unproved => "not proved yet",
            Self::NotSeen => "not seen since",
            Self::ProvedNew => "proved new",
        }
    }
}

/// One peer, source or upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// What it is.
    pub kind: SubjectKind,
    /// Its identity, address, or host and port.
    pub name: String,
    /// The listener that it connects to, or that leads to it.
    pub listener: Arc<str>,
    /// The partner that it is.
    pub partner: Option<Arc<str>>,
    /// Its progress to the new pair.
    #[serde(rename = "use")]
    pub stands: RotationProgress,
    /// Since when, unless it has proved the new pair.
    pub since: Option<Timestamp>,
    /// Its last handshake on the new pair.
    pub last_new: Option<Timestamp>,
    /// Its last handshake on an old one.
    pub last_old: Option<Timestamp>,
    /// Its handshakes on the new pair since the rotation.
    pub handshakes_new: u64,
    /// Its handshakes on old ones since the rotation.
    pub handshakes_old: u64,
    /// Stable code of the reason: an alert's name, `authorities`, `partner`, `prefer`, `status_NNN`, …
    pub reason: Option<String>,
    /// Why, one sentence.
    pub because: Option<String>,
    /// When the new pair is tried again with an upstream.
    pub next_try: Option<Timestamp>,
    /// Its operator's contact.
    pub contact: Option<String>,
}

/// What is known about the time before this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorHistory {
    /// Nothing: no registry is configured.
    #[default]
    Unknown,
    /// Nothing yet: the registry has not answered.
    Awaited,
    /// The registry's records.
    Recalled,
}

/// Whether the old pair can be retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetireAdvice {
    /// Every known peer has proved the new pair.
    Safe,
    /// At least one peer would fail: its operator has to act first.
    Call,
    /// Too little is known: wait, or ask the peers' operators.
    Wait,
}

impl RetireAdvice {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe to retire",
            Self::Call => "blocked",
            Self::Wait => "wait",
        }
    }
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationVerdict {
    /// Its code.
    pub retire: RetireAdvice,
    /// One sentence, with the contact and what to do.
    pub sentence: String,
    /// The peer to contact first.
    pub first: Option<FirstContact>,
}

/// The peer to contact first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstContact {
    /// The peer, source or upstream.
    pub name: String,
    /// Its partner.
    pub partner: Option<Arc<str>>,
    /// Its operator's contact.
    pub contact: Option<String>,
}

impl RotationVerdict {
    /// The verdict before anything is known.
    pub(super) const fn unknown() -> Self {
        Self { retire: RetireAdvice::Wait, sentence: String::new(), first: None }
    }
}
