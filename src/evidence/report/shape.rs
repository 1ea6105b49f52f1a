//! What a rotation report is about and what it says: overlap, report, lines, verdict. Its JSON is public.

use std::sync::Arc;
use std::time::Duration;

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
    /// Senders seen in this time before now count.
    pub seen_within: Duration,
    /// Whether an ingress shows it: only then can there be senders that are unknown.
    pub faces_peers: bool,
}

impl KeyringOverlap {
    /// Senders that were seen since then count.
    pub(super) fn counts_since(&self, now: Timestamp) -> Timestamp {
        now.checked_sub(self.seen_within).unwrap_or(Timestamp::MIN)
    }
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
    /// Since when peers are recorded, by this process or its registry. Peers seen only before are unknown.
    pub watched_since: Timestamp,
    /// What is known about the time before this process started.
    pub before: PriorHistory,
    /// Senders count that came in so many seconds before now.
    pub seen_within_seconds: u64,
    /// Peers, upstreams and sources, those to act on first.
    pub lines: Vec<ReportLine>,
    /// Sources of peers without a certificate: they do not affect the verdict.
    pub anonymous: Vec<ReportLine>,
    /// Sources that refused the new pair and are not confirmed: they do not affect the verdict.
    pub unconfirmed: u64,
    /// Their addresses, for `rotation forget`; at most twenty.
    pub unconfirmed_sources: Vec<String>,
    /// Senders dropped from the bounded memory.
    pub forgotten: u64,
    /// Other instances that show the same pairs.
    pub replicas: Vec<ReplicaStatus>,
    /// Safe to retire, or what blocks it.
    pub verdict: RotationVerdict,
}

/// Another instance that shows the same pairs, and when it last wrote to the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Its name.
    pub instance: String,
    /// When it last wrote.
    pub last_heard: Timestamp,
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
    /// A source address of peers without a certificate.
    Anonymous,
}

/// A peer's progress to the new pair; the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationProgress {
    /// An upstream that refuses the new pair and the old one: no pair of ours is accepted.
    RefusesEvery,
    /// It refuses the new pair, or requires what only the old one has.
    InsistsOnOld,
    /// Its connections on the new pair end one after the other without a byte.
    EndsUnexplained,
    /// It was shown the old pair last, by our own choice.
    StillOnOld,
    /// Its handshakes on the new pair succeed, which proves nothing yet.
    Unproved,
    /// It has not connected since the rotation.
    NotSeen,
    /// It has sent data on the new pair.
    ProvedNew,
    /// An upstream that asks for no certificate: no pair is shown to it, and it does not affect the verdict.
    AsksForNone,
}

impl RotationProgress {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RefusesEvery => "refuses every",
            Self::InsistsOnOld => "insists on old",
            Self::EndsUnexplained => "ends unexplained",
            Self::StillOnOld => "still on old",
            Self::Unproved => "not proved yet",
            Self::NotSeen => "not seen since",
            Self::ProvedNew => "proved new",
            Self::AsksForNone => "asks for none",
        }
    }

    /// Whether nothing is waited for: it has proved the new pair, or needs none.
    pub(super) const fn is_settled(self) -> bool {
        matches!(self, Self::ProvedNew | Self::AsksForNone)
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
    /// How often it used to come and when it is due, if it was not seen since the rotation.
    pub habit: Option<String>,
    /// When it no longer counts, if it does not come again.
    pub until: Option<Timestamp>,
    /// Its senders that count.
    pub senders_known: u64,
    /// Of these, those that have proved the new pair.
    pub senders_proved: u64,
    /// At most a hundred of them, those to act on first.
    pub senders: Vec<SenderLine>,
}

impl ReportLine {
    /// A line of which nothing more is known.
    pub(super) fn new(kind: SubjectKind, name: &str, listener: &Arc<str>, stands: RotationProgress) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            listener: Arc::clone(listener),
            partner: None,
            stands,
            since: None,
            last_new: None,
            last_old: None,
            handshakes_new: 0,
            handshakes_old: 0,
            reason: None,
            because: None,
            next_try: None,
            contact: None,
            habit: None,
            until: None,
            senders_known: 0,
            senders_proved: 0,
            senders: Vec::new(),
        }
    }
}

/// One sender of a peer: its certificate and its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderLine {
    /// Its address; of IPv6 the /64.
    pub source: String,
    /// Its certificate.
    pub certificate: Option<Fingerprint>,
    /// Its progress to the new pair.
    #[serde(rename = "use")]
    pub stands: RotationProgress,
    /// Since when, unless it has proved the new pair.
    pub since: Option<Timestamp>,
    /// Its last handshake.
    pub last_seen: Timestamp,
    /// Its last handshake on the new pair.
    pub last_new: Option<Timestamp>,
    /// Its last handshake on an old one.
    pub last_old: Option<Timestamp>,
    /// When it last proved the new pair.
    pub proved: Option<Timestamp>,
    /// Its handshakes on the new pair since the rotation.
    pub handshakes_new: u64,
    /// Its handshakes on old ones since the rotation.
    pub handshakes_old: u64,
    /// Its connections on the new pair that ended, one after the other, without a byte.
    pub unexplained_ends: u64,
    /// Stable code of the reason.
    pub reason: Option<String>,
    /// Why, one sentence.
    pub because: Option<String>,
    /// How often it used to come and when it is due, if it was not seen since the rotation.
    pub habit: Option<String>,
    /// When it no longer counts, if it does not come again.
    pub until: Option<Timestamp>,
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
    /// Every sender that counts has proved the new pair.
    Safe,
    /// Too little is known: wait, or ask the peers' operators.
    Wait,
    /// At least one peer would fail: its operator has to act first.
    Blocked,
}

impl RetireAdvice {
    /// As in the report for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Wait => "wait",
            Self::Blocked => "blocked",
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
    /// For `Wait`: when it will be over at the latest, by what is known now.
    pub until: Option<Timestamp>,
    /// The peer to contact first.
    pub first: Option<FirstContact>,
    /// What the report cannot know, one sentence each.
    pub unknown: Vec<String>,
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
    pub(super) fn unknown() -> Self {
        let (sentence, unknown) = (String::new(), Vec::new());
        Self { retire: RetireAdvice::Wait, sentence, until: None, first: None, unknown }
    }
}
