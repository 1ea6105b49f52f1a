//! What an instance knows of a pair at a sender, and which pair each instance shows: rows of the rotation report.

use super::columns::UnixSeconds;

/// What an instance knows of a pair at a sender of an ingress.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SenderRow {
    /// Where.
    pub instance: String,
    /// The keyring.
    pub keyring: String,
    /// A hash of listener, identity, certificate and source.
    pub sender: String,
    /// The pair.
    pub key_pair: String,
    /// The listener.
    pub listener: String,
    /// Its identity.
    pub identity: String,
    /// Fingerprint of its certificate.
    pub certificate: String,
    /// Its address, of IPv6 the first of its /64; empty: unknown.
    pub source: String,
    /// Its partner.
    pub partner: Option<String>,
    /// Visits ever.
    pub visits: i64,
    /// Handshakes ever.
    pub connections: i64,
    /// First seen.
    pub first_seen: UnixSeconds,
    /// Last seen.
    pub last_seen: UnixSeconds,
    /// Handshakes since the rotation.
    pub handshakes: i64,
    /// The first of them.
    pub since: Option<UnixSeconds>,
    /// Why this pair was shown last.
    pub chosen_by: Option<String>,
    /// When data last came on it.
    pub proved: Option<UnixSeconds>,
    /// Connections in a row that ended without a byte.
    pub unexplained_ends: i64,
    /// The last of them.
    pub ended: Option<UnixSeconds>,
    /// When the sender last caused it to be shown.
    pub insisted: Option<UnixSeconds>,
    /// Stable code.
    pub reason: Option<String>,
    /// One sentence.
    pub because: Option<String>,
}

/// A pair at an instance.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct HeldPairRow {
    /// Where.
    pub instance: String,
    /// The keyring.
    pub keyring: String,
    /// The pair.
    pub key_pair: String,
    /// Its standing.
    pub standing: String,
    /// Since when.
    pub since: UnixSeconds,
}
