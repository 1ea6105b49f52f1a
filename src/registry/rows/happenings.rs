//! What happened: peers that came, handshakes that failed, changes, alerts at their sinks, acknowledgements.

use std::collections::BTreeMap;

use serde::Serialize;

use super::columns::{SqlFlag, UnixSeconds};

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

/// Seconds that the nodes of one peer may take to change to a new certificate, one after the other.
const CHANGE_SECONDS: i64 = 3_600;
/// A certificate that was not shown for so many seconds beside a newer one is not that of a forgotten node.
const FORGOTTEN_SECONDS: i64 = 7 * 86_400;

impl PeerRow {
    /// Whether a node of the peer goes on showing this certificate beside one that lasts longer, first seen at `successor`.
    pub fn is_shown_beside(&self, successor: UnixSeconds, now: i64) -> bool {
        self.last_seen.0 >= successor.0.saturating_add(CHANGE_SECONDS) && now - self.last_seen.0 <= FORGOTTEN_SECONDS
    }
}

/// The certificates that each peer shows: of several that one peer showed the one that lasts longest, and those that a node of it
/// goes on showing beside that one, each with it. `key` is what makes rows those of one peer.
pub fn shown_certificates<'a, K: Ord>(
    peers: impl IntoIterator<Item = &'a PeerRow>,
    key: impl Fn(&'a PeerRow) -> K,
    now: i64,
) -> Vec<(&'a PeerRow, Option<&'a PeerRow>)> {
    let mut of_peer: BTreeMap<K, BTreeMap<&str, (&'a PeerRow, UnixSeconds)>> = BTreeMap::new();
    for peer in peers {
        let known = of_peer.entry(key(peer)).or_default();
        let (row, first_seen) = known.entry(peer.certificate.as_str()).or_insert((peer, peer.first_seen));
        *first_seen = peer.first_seen.min(*first_seen);
        if row.last_seen < peer.last_seen {
            *row = peer;
        }
    }
    let mut out = Vec::new();
    for certificates in of_peer.values() {
        let lasting = certificates.values().max_by_key(|(row, _)| (row.not_after, &row.certificate));
        let Some((lasting, first_seen)) = lasting else { continue };
        out.push((*lasting, None));
        let others = certificates.values().map(|(row, _)| *row).filter(|row| row.certificate != lasting.certificate);
        out.extend(others.filter(|row| row.is_shown_beside(*first_seen, now)).map(|row| (row, Some(*lasting))));
    }
    out
}

impl PeerRow {
    /// Its display name: the partner and its identity, else the certificate's subject.
    pub fn name(&self) -> String {
        let identity = self.identity_or_subject();
        self.partner.as_ref().map_or_else(|| identity.to_owned(), |partner| format!("{partner} ({identity})"))
    }

    /// What makes rows those of one peer: its identity, else the certificate's subject.
    pub fn identity_or_subject(&self) -> &str {
        self.identity.as_deref().unwrap_or(&self.subject)
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
    /// The owner of the keyring that it concerns.
    pub owner: Option<String>,
    /// The contacts of the keyrings that it concerns.
    pub contact: Option<String>,
    /// The date that it is about: an expiry, or the end of an overlap.
    pub ends: Option<UnixSeconds>,
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
