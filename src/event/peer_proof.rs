//! Ingress: what a peer has shown, by its own data, of the key pair that a connection showed it (contract section 4).
//!
//! A finished handshake proves nothing: many clients judge our certificate only after it. Where these facts come from is
//! `dataplane`'s business, and what follows from them the rotation report's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::fields::{EventDescription, serialize_optional_short, serialize_short};
use crate::keyring::KeyringName;
use crate::log::Level;
use crate::pki::Fingerprint;
use crate::snapshot::Epoch;

/// The identity of a peer that presented no certificate.
pub const ANONYMOUS_IDENTITY: &str = "anonymous";

/// The reason of an end without an alert.
const ENDED_WITHOUT_DATA: &str = "ended_without_data";

/// What a connection has shown of the pair that was presented on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerProofOutcome {
    /// Application data of the peer arrived: it has judged our certificate, and goes on.
    Proved,
    /// The peer ended the connection after a finished handshake, without a byte of application data.
    UnexplainedEnd,
}

/// A peer's verdict on the pair that it was shown, as far as one connection tells: emitted once a connection, and only
/// while the pair's keyring is in overlap.
#[derive(Clone, Debug, Serialize)]
pub struct PeerProofRecord {
    /// Listener.
    pub listener: Arc<str>,
    /// Keyring of the pair that was shown.
    pub keyring: KeyringName,
    /// The pair that was shown.
    #[serde(serialize_with = "serialize_short")]
    pub key_pair: Fingerprint,
    /// What the connection has shown of it.
    pub outcome: PeerProofOutcome,
    /// Stable code: `application_data`, `ended_without_data`, or the name of the alert with which the peer ended it.
    pub reason: &'static str,
    /// The peer's identity; [`ANONYMOUS_IDENTITY`] where it presented no certificate.
    #[serde(rename = "peer.identity")]
    pub identity: Arc<str>,
    /// The partner it is.
    pub partner: Option<Arc<str>>,
    /// Its certificate, if it presented one.
    #[serde(rename = "peer.fingerprint", serialize_with = "serialize_optional_short")]
    pub certificate: Option<Fingerprint>,
    /// Its source address.
    #[serde(rename = "peer.addr")]
    pub source: Option<IpAddr>,
    /// One printable sentence.
    pub explanation: String,
    /// The connection, as in its handshake's record.
    pub connection: u64,
    /// The snapshot that chose the pair.
    pub epoch: Epoch,
}

impl PeerProofRecord {
    /// The record of a peer whose application data arrived.
    pub fn proved(self) -> Self {
        let explanation = format!("{} sent data on a connection that showed {}", self.identity, self.key_pair.short());
        Self { outcome: PeerProofOutcome::Proved, reason: "application_data", explanation, ..self }
    }

    /// The record of a peer that ended the connection before that, with this alert or without one.
    pub fn ended(self, alert: Option<&'static str>) -> Self {
        let (identity, shown) = (&self.identity, self.key_pair.short());
        let explanation = match alert {
            None => format!(
                "{identity} completed the handshake that showed {shown} and ended the connection before it sent a \
                 request: it may check our certificate after the handshake (a pin, a host name verifier); ask its \
                 operator if it does so again"
            ),
            Some(alert) => format!(
                "{identity} completed the handshake that showed {shown} and ended the connection with the alert {alert} \
                 before it sent a request: ask its operator whether it trusts the issuer of that key pair"
            ),
        };
        let reason = alert.unwrap_or(ENDED_WITHOUT_DATA);
        Self { outcome: PeerProofOutcome::UnexplainedEnd, reason, explanation, ..self }
    }
}

impl EventDescription for PeerProofRecord {
    fn target(&self) -> &'static str {
        "proof"
    }

    fn level(&self) -> Level {
        match self.outcome {
            PeerProofOutcome::Proved => Level::DEBUG,
            PeerProofOutcome::UnexplainedEnd => Level::INFO,
        }
    }

    fn message(&self) -> &'static str {
        match self.outcome {
            PeerProofOutcome::Proved => "peer accepts the key pair",
            PeerProofOutcome::UnexplainedEnd => "peer ended the connection before it sent anything",
        }
    }
}
