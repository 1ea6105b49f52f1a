//! What instances hold: keyrings, key pairs, keys that wait, trusts, anchors, CRLs.

use serde::Serialize;

use super::columns::{SqlFlag, TextList, UnixSeconds, short_fingerprint};

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
    /// Certificates that it revokes; `None`: an earlier version wrote the row.
    pub revoked: Option<i64>,
    /// Whether it is present now.
    pub present: SqlFlag,
}
