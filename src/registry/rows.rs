//! The registry's rows, as both databases store them and all readers see them. No behaviour beyond their columns.

// Long because it is one list: every table of the registry, each column explained.

use jiff::Timestamp;
use serde::Serialize;

/// Seconds since 1970 as both databases store them; shown as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// As a [`Timestamp`], saturating.
    pub fn time(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX)
    }
}

impl From<Timestamp> for UnixSeconds {
    fn from(time: Timestamp) -> Self {
        Self(time.as_second())
    }
}

impl std::fmt::Display for UnixSeconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.time().fmt(out)
    }
}

impl Serialize for UnixSeconds {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// A flag as both databases store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct SqlFlag(i64);

impl SqlFlag {
    /// Whether it is set.
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for SqlFlag {
    fn from(set: bool) -> Self {
        Self(i64::from(set))
    }
}

impl Serialize for SqlFlag {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bool(self.is_set())
    }
}

/// A list of texts in one column, one per line; none of ours contains a line break.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct TextList(pub(super) String);

impl TextList {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n').filter(|text| !text.is_empty())
    }
}

impl<T: AsRef<str>> FromIterator<T> for TextList {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        Self(texts.into_iter().map(|text| text.as_ref().replace('\n', " ")).collect::<Vec<_>>().join("\n"))
    }
}

impl Serialize for TextList {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter())
    }
}

/// A sidecar that writes to the registry.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct InstanceRow {
    /// Its name.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// When it first wrote.
    pub first_seen: UnixSeconds,
    /// When it last wrote.
    pub last_seen: UnixSeconds,
}

/// A keyring at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct KeyringRow {
    /// Where.
    pub instance: String,
    /// Its name.
    pub keyring: String,
    /// What it is for.
    pub purpose: Option<String>,
    /// The owner responsible for it.
    pub owner: Option<String>,
    /// Where alerts go.
    pub contact: Option<String>,
    /// Its schedule, in seconds.
    pub rotate_every: Option<i64>,
    /// Seconds before an expiry at which alerts are raised; `None`: by the lifetime.
    pub alert_before: Option<TextList>,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Last seen.
    pub last_seen: UnixSeconds,
    /// Whether it is present now.
    pub present: SqlFlag,
}

/// A key pair in a keyring at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct PlacementRow {
    /// Where.
    pub instance: String,
    /// In which keyring.
    pub keyring: String,
    /// Its fingerprint.
    pub key_pair: String,
    /// Its standing there.
    pub standing: String,
    /// Since when.
    pub since: UnixSeconds,
    /// For `previous`: when its overlap ends.
    pub overlap_ends: Option<UnixSeconds>,
    /// Files it came from.
    pub sources: TextList,
    /// Why it is refused or staged.
    pub why: Option<String>,
    /// First seen there.
    pub first_seen: UnixSeconds,
    /// Last seen there.
    pub last_seen: UnixSeconds,
    /// The last successful handshake that showed it.
    pub last_used: Option<UnixSeconds>,
    /// Whether the keyring holds it now.
    pub present: SqlFlag,
    /// Subject, printable.
    pub subject: String,
    /// Names of the SAN.
    pub names: TextList,
    /// Issuer, printable.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// Kind of its key.
    pub key_kind: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: String,
    /// Begin of validity, taken as the time of issue.
    pub not_before: UnixSeconds,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// Why it is too weak, if it is.
    pub weakness: Option<String>,
    /// It is its own issuer.
    pub self_issued: SqlFlag,
    /// Where an intermediate of its chain ends before it: when.
    pub chain_ends: Option<UnixSeconds>,
    /// That intermediate, printable.
    pub chain_issuer: Option<String>,
}

impl PlacementRow {
    /// The first 12 hex digits of its fingerprint.
    pub fn short(&self) -> &str {
        short_fingerprint(&self.key_pair)
    }
}

/// The first 12 hex digits of a fingerprint as the registry stores it.
pub fn short_fingerprint(fingerprint: &str) -> &str {
    let hex = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
    hex.get(..12).unwrap_or(hex)
}

/// A key that waits for its certificate.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct WaitingKeyRow {
    /// Where.
    pub instance: String,
    /// In which keyring.
    pub keyring: String,
    /// In which file.
    pub file: String,
    /// SHA-256 of the SubjectPublicKeyInfo that it waits for.
    pub spki: String,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Whether it still waits.
    pub present: SqlFlag,
}

/// A trust at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct TrustRow {
    /// Where.
    pub instance: String,
    /// Its name.
    pub trust: String,
    /// Keyrings of the listeners that verify their peers with it.
    pub keyrings: TextList,
    /// Whether CRLs are configured or required.
    pub checks_crls: SqlFlag,
    /// Whether it is present now.
    pub present: SqlFlag,
}

/// A trust anchor or pin at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct AnchorRow {
    /// Where.
    pub instance: String,
    /// Of which trust.
    pub trust: String,
    /// `anchor` (of a file), `platform` or `pin`.
    pub kind: String,
    /// Fingerprint of the anchor, or the pin.
    pub anchor: String,
    /// An anchor's subject.
    pub subject: Option<String>,
    /// An anchor's own begin.
    pub not_before: Option<UnixSeconds>,
    /// An anchor's own end.
    pub not_after: Option<UnixSeconds>,
    /// Until when it is accepted, where there is an end.
    pub accepted_until: Option<UnixSeconds>,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Last seen.
    pub last_seen: UnixSeconds,
    /// When a peer was last verified against it.
    pub last_matched: Option<UnixSeconds>,
    /// Whether it is accepted now.
    pub present: SqlFlag,
}

/// A CRL at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct CrlRow {
    /// Where.
    pub instance: String,
    /// Of which trust.
    pub trust: String,
    /// Its issuer.
    pub issuer: String,
    /// Fingerprints of the anchors that it covers.
    pub anchors: TextList,
    /// When it was issued.
    pub this_update: UnixSeconds,
    /// When the next update is due.
    pub next_update: UnixSeconds,
    /// Whether it is present now.
    pub present: SqlFlag,
}

/// A peer (ingress) or an upstream (egress) that was seen at one instance, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct PeerRow {
    /// Where.
    pub instance: String,
    /// `ingress` or `egress`.
    pub side: String,
    /// The listener.
    pub listener: String,
    /// Fingerprint of its certificate.
    pub certificate: String,
    /// Its identity.
    pub identity: Option<String>,
    /// Its partner.
    pub partner: Option<String>,
    /// Subject, printable.
    pub subject: String,
    /// Issuer, printable.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// Begin of validity.
    pub not_before: UnixSeconds,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// It was verified against a public CA.
    pub public_ca: SqlFlag,
    /// Where it last connected from, or was.
    pub address: Option<String>,
    /// The keyring that was last shown to it.
    pub keyring: Option<String>,
    /// The pair that was last shown to it.
    pub key_pair: Option<String>,
    /// Why that one.
    #[sqlx(default)]
    pub chosen_by: Option<String>,
    /// Successful handshakes.
    pub handshakes: i64,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Last seen.
    pub last_seen: UnixSeconds,
}

impl PeerRow {
    /// Its display name: the partner and its identity, else the certificate's subject.
    pub fn name(&self) -> String {
        let identity = self.identity.as_deref().unwrap_or(&self.subject);
        self.partner.as_ref().map_or_else(|| identity.to_owned(), |partner| format!("{partner} ({identity})"))
    }
}

/// A handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct FailureRow {
    /// Where.
    pub instance: String,
    /// When.
    pub at: UnixSeconds,
    /// `ingress` or `egress`.
    pub side: String,
    /// The listener.
    pub listener: String,
    /// Stable code.
    pub reason: String,
    /// One sentence.
    pub explanation: String,
    /// Where the other side was.
    pub address: Option<String>,
    /// The requested server name.
    pub server_name: Option<String>,
    /// Subject of its certificate.
    pub subject: Option<String>,
    /// Issuer of its certificate.
    pub issuer: Option<String>,
    /// Fingerprint of its certificate.
    pub certificate: Option<String>,
    /// The pair that was shown.
    pub key_pair: Option<String>,
    /// The alert that was sent or received.
    pub alert: Option<String>,
    /// How often it was repeated before it was written.
    pub repeats: i64,
}

/// One line of the append-only history: actor or cause, time, from, to, reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct HistoryRow {
    /// Where.
    pub instance: String,
    /// When.
    pub at: UnixSeconds,
    /// `keyring`, `trust`, `folder`, `settings`, `learned`, `upstream`, `alert`, `registry`.
    pub kind: String,
    /// The keyring, trust, file or upstream.
    pub name: String,
    /// The pair or anchor that it is about.
    pub key_pair: Option<String>,
    /// What it was.
    pub was: Option<String>,
    /// What it is now.
    pub becomes: Option<String>,
    /// The actor or the cause: `uid 1000`, `folder`, `configuration`, `time`, `peer`, `sidekey`.
    pub who: String,
    /// Stable code.
    pub reason: String,
    /// One sentence.
    pub why: String,
}

/// An alert at one sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct DeliveryRow {
    /// Its name, the same on every instance.
    pub alert: String,
    /// Which sink.
    pub sink: String,
    /// Stable code.
    pub kind: String,
    /// The keyring, or the trust.
    pub keyring: String,
    /// The pair or certificate it is about.
    pub key_pair: Option<String>,
    /// Whether the last threshold has passed.
    pub urgent: SqlFlag,
    /// For mail: the recipient.
    pub recipient: Option<String>,
    /// One sentence.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// The instance that raised it.
    pub raised_by: String,
    /// When.
    pub raised: UnixSeconds,
    /// `pending`, `sent`, `given_up`, `silenced`.
    pub state: String,
    /// How often sending was attempted.
    pub attempts: i64,
    /// When the next attempt is due.
    pub next_try: UnixSeconds,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// An operator's acknowledgement of an expiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct AcknowledgementRow {
    /// The pair.
    pub key_pair: String,
    /// When.
    pub at: UnixSeconds,
    /// Its keyring.
    pub keyring: String,
    /// The operator.
    pub who: String,
    /// Why.
    pub why: String,
    /// The end that it covers; `None`: any.
    pub ends: Option<UnixSeconds>,
}

/// Everything except history and failures: the input of findings, export and alerts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegistryInventory {
    /// The instances.
    pub instances: Vec<InstanceRow>,
    /// Keyrings.
    pub keyrings: Vec<KeyringRow>,
    /// Every key pair ever seen, by keyring and instance.
    pub key_pairs: Vec<PlacementRow>,
    /// Keys without a certificate.
    pub waiting_keys: Vec<WaitingKeyRow>,
    /// Trusts.
    pub trusts: Vec<TrustRow>,
    /// Anchors and pins.
    pub anchors: Vec<AnchorRow>,
    /// CRLs.
    pub crls: Vec<CrlRow>,
    /// Peers and upstreams.
    pub peers: Vec<PeerRow>,
    /// Alerts, by sink.
    pub alerts: Vec<DeliveryRow>,
    /// Acknowledgements.
    pub acknowledgements: Vec<AcknowledgementRow>,
}
