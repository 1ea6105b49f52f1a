//! The registry's rows, as both databases store them and all readers see them. No behaviour beyond their columns.

// Long because it is one list: every table of the registry, each column explained.

use jiff::Timestamp;
use serde::Serialize;

/// Seconds since 1970 as both databases store them; shown as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct Seconds(pub i64);

impl Seconds {
    /// As a [`Timestamp`], saturating.
    pub fn time(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or(Timestamp::MAX)
    }
}

impl From<Timestamp> for Seconds {
    fn from(time: Timestamp) -> Self {
        Self(time.as_second())
    }
}

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.time().fmt(out)
    }
}

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// A flag as both databases store it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Flag(i64);

impl Flag {
    /// Whether it is set.
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Flag {
    fn from(set: bool) -> Self {
        Self(i64::from(set))
    }
}

impl Serialize for Flag {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bool(self.is_set())
    }
}

/// A list of texts in one column, one per line; none of ours contains a line break.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Texts(pub(super) String);

impl Texts {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split('\n').filter(|text| !text.is_empty())
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        Self(texts.into_iter().map(|text| text.as_ref().replace('\n', " ")).collect::<Vec<_>>().join("\n"))
    }
}

impl Serialize for Texts {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter())
    }
}

/// A sidecar that writes to the registry.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Instance {
    /// Its name.
    pub instance: String,
    /// Its version.
    pub version: String,
    /// When it first wrote.
    pub first_seen: Seconds,
    /// When it last wrote.
    pub last_seen: Seconds,
}

/// A keyring at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Keyring {
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
    pub alert_before: Option<Texts>,
    /// First seen.
    pub first_seen: Seconds,
    /// Last seen.
    pub last_seen: Seconds,
    /// Whether it is present now.
    pub present: Flag,
}

/// A key pair in a keyring at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Placed {
    /// Where.
    pub instance: String,
    /// In which keyring.
    pub keyring: String,
    /// Its fingerprint.
    pub key_pair: String,
    /// Its standing there.
    pub standing: String,
    /// Since when.
    pub since: Seconds,
    /// For `previous`: when its overlap ends.
    pub overlap_ends: Option<Seconds>,
    /// Files it came from.
    pub sources: Texts,
    /// Why it is refused or staged.
    pub why: Option<String>,
    /// First seen there.
    pub first_seen: Seconds,
    /// Last seen there.
    pub last_seen: Seconds,
    /// The last successful handshake that showed it.
    pub last_used: Option<Seconds>,
    /// Whether the keyring holds it now.
    pub present: Flag,
    /// Subject, printable.
    pub subject: String,
    /// Names of the SAN.
    pub names: Texts,
    /// Issuer, printable.
    pub issuer: String,
    /// Serial number, hex.
    pub serial: String,
    /// Kind of its key.
    pub key_kind: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: String,
    /// Begin of validity, taken as the time of issue.
    pub not_before: Seconds,
    /// End of validity.
    pub not_after: Seconds,
    /// Why it is too weak, if it is.
    pub weakness: Option<String>,
    /// It is its own issuer.
    pub self_issued: Flag,
    /// Where an intermediate of its chain ends before it: when.
    pub chain_ends: Option<Seconds>,
    /// That intermediate, printable.
    pub chain_issuer: Option<String>,
}

impl Placed {
    /// The first 12 hex digits of its fingerprint.
    pub fn short(&self) -> &str {
        short(&self.key_pair)
    }
}

/// The first 12 hex digits of a fingerprint as the registry stores it.
pub fn short(fingerprint: &str) -> &str {
    let hex = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
    hex.get(..12).unwrap_or(hex)
}

/// A key that waits for its certificate.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct WaitingKey {
    /// Where.
    pub instance: String,
    /// In which keyring.
    pub keyring: String,
    /// In which file.
    pub file: String,
    /// SHA-256 of the SubjectPublicKeyInfo that it waits for.
    pub spki: String,
    /// First seen.
    pub first_seen: Seconds,
    /// Whether it still waits.
    pub present: Flag,
}

/// A trust at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Trust {
    /// Where.
    pub instance: String,
    /// Its name.
    pub trust: String,
    /// Keyrings of the listeners that verify their peers with it.
    pub keyrings: Texts,
    /// Whether CRLs are configured or required.
    pub checks_crls: Flag,
    /// Whether it is present now.
    pub present: Flag,
}

/// A trust anchor or pin at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Anchor {
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
    pub not_before: Option<Seconds>,
    /// An anchor's own end.
    pub not_after: Option<Seconds>,
    /// Until when it is accepted, where there is an end.
    pub accepted_until: Option<Seconds>,
    /// First seen.
    pub first_seen: Seconds,
    /// Last seen.
    pub last_seen: Seconds,
    /// When a peer was last verified against it.
    pub last_matched: Option<Seconds>,
    /// Whether it is accepted now.
    pub present: Flag,
}

/// A CRL at one instance.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct Crl {
    /// Where.
    pub instance: String,
    /// Of which trust.
    pub trust: String,
    /// Its issuer.
    pub issuer: String,
    /// Fingerprints of the anchors that it covers.
    pub anchors: Texts,
    /// When it was issued.
    pub this_update: Seconds,
    /// When the next update is due.
    pub next_update: Seconds,
    /// Whether it is present now.
    pub present: Flag,
}

/// A peer (ingress) or an upstream (egress) that was seen at one instance, by its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Peer {
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
    pub not_before: Seconds,
    /// End of validity.
    pub not_after: Seconds,
    /// It was verified against a public CA.
    pub public_ca: Flag,
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
    pub first_seen: Seconds,
    /// Last seen.
    pub last_seen: Seconds,
}

impl Peer {
    /// Its display name: the partner and its identity, else the certificate's subject.
    pub fn name(&self) -> String {
        let identity = self.identity.as_deref().unwrap_or(&self.subject);
        self.partner.as_ref().map_or_else(|| identity.to_owned(), |partner| format!("{partner} ({identity})"))
    }
}

/// A handshake that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Failure {
    /// Where.
    pub instance: String,
    /// When.
    pub at: Seconds,
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
pub struct Entry {
    /// Where.
    pub instance: String,
    /// When.
    pub at: Seconds,
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
pub struct Delivery {
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
    pub urgent: Flag,
    /// For mail: the recipient.
    pub recipient: Option<String>,
    /// One sentence.
    pub summary: String,
    /// What to do.
    pub remedy: String,
    /// The instance that raised it.
    pub raised_by: String,
    /// When.
    pub raised: Seconds,
    /// `pending`, `sent`, `given_up`, `silenced`.
    pub state: String,
    /// How often sending was attempted.
    pub attempts: i64,
    /// When the next attempt is due.
    pub next_try: Seconds,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// An operator's acknowledgement of an expiry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Acknowledgement {
    /// The pair.
    pub key_pair: String,
    /// When.
    pub at: Seconds,
    /// Its keyring.
    pub keyring: String,
    /// The operator.
    pub who: String,
    /// Why.
    pub why: String,
    /// The end that it covers; `None`: any.
    pub ends: Option<Seconds>,
}

/// Everything except history and failures: the input of findings, export and alerts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inventory {
    /// The instances.
    pub instances: Vec<Instance>,
    /// Keyrings.
    pub keyrings: Vec<Keyring>,
    /// Every key pair ever seen, by keyring and instance.
    pub key_pairs: Vec<Placed>,
    /// Keys without a certificate.
    pub waiting_keys: Vec<WaitingKey>,
    /// Trusts.
    pub trusts: Vec<Trust>,
    /// Anchors and pins.
    pub anchors: Vec<Anchor>,
    /// CRLs.
    pub crls: Vec<Crl>,
    /// Peers and upstreams.
    pub peers: Vec<Peer>,
    /// Alerts, by sink.
    pub alerts: Vec<Delivery>,
    /// Acknowledgements.
    pub acknowledgements: Vec<Acknowledgement>,
}
